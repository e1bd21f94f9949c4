//! Components by themselves: separate processes with kubeconfigs, started as upstream's are, on machines that are namespaces.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use harness::{Cluster, Signal, eventually, program, root, signal, succeeded};

use crate::life::both_replicas;

const SECONDS_60: Duration = Duration::from_secs(60);

/// Two machines on one link, with nothing running on them, and a folder that both see.
pub struct Machines {
    /// The cluster whose links they are.
    pub cluster: Cluster,
    addresses: [String; 2],
    folder: tempfile::TempDir,
}

/// A running process and its log.
pub struct Part {
    child: std::cell::RefCell<Child>,
    log: PathBuf,
}

impl Part {
    /// Ends it without a good-bye.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.borrow_mut();
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, which: Signal) -> Result<()> {
        signal(self.child.borrow().id().into(), which)
    }

    /// Says how many descriptors it may have from now on; those that it has stay.
    pub fn limit_descriptors(&self, most: u32) -> Result<()> {
        let pid = self.child.borrow().id().to_string();
        succeeded(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:")])).map(drop)
    }

    /// Its exit code, once it has ended by itself.
    pub fn ended(&self, most: Duration) -> Result<Option<i32>> {
        eventually("see it end", most, || Ok(self.child.borrow_mut().try_wait()?.map(|status| status.code())))
    }

    /// Its log.
    pub fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- the end of {}\n{}", self.log.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Machines {
    /// Those of a local cluster, whose processes are ended: what follows finds links and addresses and nothing else.
    pub fn two() -> Result<Self> {
        let cluster = Cluster::up(&["--nodes", "2"])?;
        let addresses = [cluster.address(1)?, cluster.address(2)?];
        cluster.kill_everything()?;
        eventually("see everything dead", SECONDS_60, || Ok(cluster.processes().is_empty().then_some(())))?;
        Ok(Self { cluster, addresses, folder: tempfile::tempdir()? })
    }

    /// A file in the common folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a shell's script on a machine; `knarr`, and `$A` and `$B` for the addresses, `$T` for the folder, are known there.
    pub fn start(&self, machine: usize, name: &str, script: &str) -> Result<Part> {
        let log = self.folder.path().join(format!("{name}.log"));
        let file = std::fs::File::create(&log)?;
        let mut command = self.on(machine, script)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Part { child: child.into(), log })
    }

    /// A shell's script on a machine, to be run.
    pub fn on(&self, machine: usize, script: &str) -> Result<Command> {
        let mut command = Command::new(program("knarr")?);
        let node = format!("{}-{machine}", self.cluster.name);
        command.args(["enter", "--name", &self.cluster.name, "--node", &node, "sh", "-ec", script]);
        self.known(&mut command)?;
        Ok(command)
    }

    fn known<'c>(&self, command: &'c mut Command) -> Result<&'c mut Command> {
        let [a, b] = &self.addresses;
        let knarr = program("knarr")?;
        let folder = knarr.parent().context("find the folder of knarr")?.display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        Ok(command.env("A", a).env("B", b).env("T", self.folder.path()).env("PATH", path))
    }

    /// Runs a script on the host.
    pub fn run(&self, script: &str) -> Result<String> {
        succeeded(self.known(Command::new("sh").args(["-ec", script]))?)
    }

    /// A kubectl of an administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.cluster.kubectl_command()?;
        succeeded(command.env("KUBECONFIG", self.path("server/admin.kubeconfig")).args(arguments))
    }

    /// The status and the body that an address answers with, asked as an administrator or as nobody.
    fn get(&self, url: &str, admin: bool) -> Result<(u32, String)> {
        let (certificate, key) = (self.path("server/pki/admin.crt"), self.path("server/pki/admin.key"));
        let mut command = Command::new("curl");
        command.args(["-sk", "--max-time", "5", "-w", "\n%{http_code}", url]);
        if admin {
            command.args(["--cert", &certificate, "--key", &key]);
        }
        let text = succeeded(&mut command)?;
        let (body, code) = text.rsplit_once('\n').context("read curl's answer")?;
        Ok((code.parse()?, body.to_owned()))
    }

    /// Waits until the API server is ready.
    pub fn await_server(&self) -> Result<()> {
        eventually("reach the API server", SECONDS_60, || {
            let there = Path::new(&self.path("server/admin.kubeconfig")).exists();
            Ok((there && self.kubectl(&["get", "--raw", "/readyz"])? == "ok").then_some(()))
        })
    }

    /// Waits until these nodes are ready.
    pub fn await_nodes(&self, names: &[&str]) -> Result<()> {
        eventually("see the nodes ready", SECONDS_60, || {
            let ready = "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
            let found = self.kubectl(&["get", "nodes", "-o", ready])?;
            Ok(names.iter().all(|name| found.contains(&format!("{name}=True"))).then_some(()))
        })
    }

    /// Runs the example, and hears both replicas through every machine.
    pub fn run_example(&self, stores: &[&str]) -> Result<()> {
        // The image is built where it is missing.
        let image = program("knarr")?.with_file_name("hello.tar");
        if !image.exists() {
            succeeded(Command::new(root().join("hack/image")).arg(&image))?;
        }
        for store in stores {
            self.run(&format!("knarr image load {} --root $T/{store}", image.display()))?;
        }
        let manifest = root().join("manifests/examples/deployment.yaml");
        self.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
        let rolled = self.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]);
        rolled.map_err(|error| match self.kubectl(&["get", "pods,nodes,events", "-A"]) {
            Ok(what) => error.context(what),
            Err(_) => error,
        })?;
        for address in &self.addresses {
            both_replicas(&self.cluster, "outside", &format!("http://{address}:30080/"))?;
        }
        Ok(())
    }
}

const API_SERVER: &str = "exec knarr apiserver --data-dir $T/server --advertise-address $A --bind-address 0.0.0.0 \
     --secure-port 6443 --service-cluster-ip-range 10.43.0.0/16 --service-node-port-range 30000-32767 \
     --service-account-signing-key-file $T/sa.key --service-account-key-file $T/sa.pub --authorization-mode Node,RBAC --v 2";

const KUBECONFIGS: &str = "for user in kube-scheduler kube-controller-manager kube-proxy; do
     knarr kubeconfig --data-dir $T/server --server https://$A:6443 --user system:$user >$T/$user.kubeconfig; done
     knarr kubeconfig --data-dir $T/server --server https://$A:6443 --user system:node:n1 --node-ip $A >$T/n1.kubeconfig
     knarr kubeconfig --data-dir $T/server --server https://$A:6443 --user system:node:n2 --node-ip $B >$T/n2.kubeconfig";

fn component(command: &str, user: &str, more: &str) -> String {
    let config = format!("$T/{user}.kubeconfig");
    format!(
        "exec knarr {command} --kubeconfig {config} --authentication-kubeconfig {config} --authorization-kubeconfig {config} \
         --leader-elect=true --leader-elect-lease-duration 3s --leader-elect-renew-deadline 2s \
         --leader-elect-retry-period 500ms --bind-address 0.0.0.0 --v 2 {more}"
    )
}

fn node(name: &str, address: &str) -> String {
    format!(
        "knarr runtime --root $T/{name}/runtime --listen unix://$T/{name}.sock --cluster-cidr 10.42.0.0/16 --node-ip {address} &
         exec knarr kubelet --kubeconfig $T/{name}.kubeconfig --hostname-override {name} --node-ip {address} \
         --container-runtime-endpoint unix://$T/{name}.sock --root-dir $T/{name}/kubelet --pod-logs-dir $T/{name}/pods \
         --client-ca-file $T/server/pki/ca.crt --tls-cert-file $T/server/pki/nodes/{name}-server.crt \
         --tls-private-key-file $T/server/pki/nodes/{name}-server.key --cluster-dns 10.43.0.10 \
         --cluster-domain cluster.local --eviction-hard 'memory.available<100Mi' --image-gc-high-threshold 100"
    )
}

fn proxy(name: &str) -> String {
    format!("exec knarr proxy --kubeconfig $T/kube-proxy.kubeconfig --hostname-override {name} --cluster-cidr 10.42.0.0/16")
}

#[test]
fn every_component_runs_by_itself() -> Result<()> {
    let machines = Machines::two()?;
    // Keys that were made elsewhere.
    machines.run(&format!("cp /var/lib/knarr/{}/pki/sa.* $T/", machines.cluster.name))?;
    let mut parts = vec![machines.start(1, "apiserver", API_SERVER)?];
    machines.await_server()?;
    machines.run(KUBECONFIGS)?;
    let controllers = component(
        "controller-manager",
        "kube-controller-manager",
        "--root-ca-file $T/server/pki/ca.crt --use-service-account-credentials --allocate-node-cidrs --cluster-cidr 10.42.0.0/16 \
         --service-cluster-ip-range 10.43.0.0/16 --node-monitor-grace-period 20s --node-monitor-period 2s",
    );
    let scheduler = component("scheduler", "kube-scheduler", "");
    let mut leader = machines.start(1, "scheduler-1", &scheduler)?;
    parts.push(machines.start(1, "controller-manager", &controllers)?);
    // One after the other, so that their ranges are those that the machines' routes lead to.
    for (machine, name, address) in [(1, "n1", "$A"), (2, "n2", "$B")] {
        parts.push(machines.start(machine, name, &node(name, address))?);
        parts.push(machines.start(machine, &format!("{name}-proxy"), &proxy(name))?);
        machines.await_nodes(&[name])?;
    }
    let ranges = machines.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"])?;
    assert_eq!(ranges, "10.42.0.0/24 10.42.1.0/24");
    machines.run_example(&["n1/runtime", "n2/runtime"])?;

    // Everybody may ask whether a component is well, and whom the API server knows and lets, what it counts.
    let address = &machines.addresses[0];
    for (port, counted) in [(10259, "scheduler_schedule_attempts_total{"), (10257, "workqueue_adds_total{")] {
        for path in ["healthz", "livez", "readyz"] {
            assert_eq!(machines.get(&format!("https://{address}:{port}/{path}"), false)?, (200, "ok".to_owned()));
        }
        let metrics = format!("https://{address}:{port}/metrics");
        let (code, body) = machines.get(&metrics, false)?;
        assert!(code == 403 && body.contains(r#"User \"system:anonymous\" cannot get path \"/metrics\""#), "{body}");
        let (code, body) = machines.get(&metrics, true)?;
        assert!(code == 200 && body.contains(counted), "{body}");
    }
    assert_eq!(machines.get(&format!("http://{address}:10256/healthz"), false)?.0, 200);

    // The other machine's scheduler takes over from one that is killed.
    parts.push(machines.start(2, "scheduler-2", &scheduler)?);
    let holder = || {
        machines.kubectl(&["get", "lease", "kube-scheduler", "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}"])
    };
    let first = holder()?;
    leader.kill()?;
    machines.kubectl(&["scale", "deployment/hello", "--replicas=3"])?;
    machines.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"])?;
    assert_ne!(holder()?, first);
    Ok(())
}

#[test]
fn a_server_and_an_agent_are_a_cluster() -> Result<()> {
    let machines = Machines::two()?;
    let server =
        "exec knarr server --data-dir $T/server --advertise-address $A --node-name n1 --pod-cidr 10.42.0.0/24 --shared-disk";
    let _server = machines.start(1, "server", server)?;
    machines.await_server()?;
    machines.run(KUBECONFIGS)?;
    machines.await_nodes(&["n1"])?;
    let agent = "exec knarr agent --kubeconfig $T/n2.kubeconfig --proxy-kubeconfig $T/kube-proxy.kubeconfig --data-dir $T/agent \
         --hostname-override n2 --node-ip $B --shared-disk --client-ca-file $T/server/pki/ca.crt \
         --tls-cert-file $T/server/pki/nodes/n2-server.crt --tls-private-key-file $T/server/pki/nodes/n2-server.key";
    let _agent = machines.start(2, "agent", agent)?;
    machines.await_nodes(&["n1", "n2"])?;
    machines.run_example(&["server/node/runtime", "agent/runtime"])?;
    // Commands reach the agent's kubelet through the API server.
    let on_agent = "jsonpath={.items[?(@.spec.nodeName==\"n2\")].metadata.name}";
    let pod = machines.kubectl(&["get", "pods", "-o", on_agent])?;
    let pod = pod.split(' ').next().filter(|name| !name.is_empty()).context("find a pod on the agent")?;
    assert_eq!(machines.kubectl(&["exec", pod, "--", "hostname"])?.trim(), pod);
    Ok(())
}

#[test]
fn unknown_flags_are_refused() -> Result<()> {
    for (component, flag) in [
        ("apiserver", "--insecure-port=8080"),
        ("scheduler", "--policy-config-file=x"),
        ("controller-manager", "--pod-eviction-timeout=5m"),
    ] {
        let refused = Command::new(program("knarr")?).args([component, flag]).output()?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        let name = flag.split('=').next().unwrap_or_default();
        if refused.status.success() || !said.contains(&format!("unexpected argument '{name}' found")) {
            bail!("{component} {flag}: {}\n{said}", refused.status);
        }
    }
    Ok(())
}
