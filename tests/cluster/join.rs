//! Machines that join by themselves: with a token, or not at all; and what they do when the server that they joined by is gone.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use harness::{Cluster, eventually, kubectls, succeeded};

use crate::standalone::Machines;

const SECONDS_60: Duration = Duration::from_secs(60);

const SERVER: &str = "exec knarr server --data-dir $T/server --advertise-address $A --node-name n1 --shared-disk \
     --cluster-signing-duration 1m";
const AGENT: &str = "exec knarr agent --server https://$A:6443 --token-file $T/token --data-dir $T/agent --node-name n2 \
     --node-ip $B --shared-disk";

/// Runs an agent that must give up, and returns what it said.
fn refused(machines: &Machines, name: &str, script: &str) -> Result<String> {
    let part = machines.start(2, name, script)?;
    let code = part.ended(SECONDS_60).with_context(|| part.said().unwrap_or_default())?;
    let said = part.said()?;
    if code == Some(0) {
        bail!("the agent was content:\n{said}");
    }
    Ok(said)
}

#[test]
fn an_agent_joins_with_a_token_and_renews_its_certificates() -> Result<()> {
    let machines = Machines::two()?;
    let _server = machines.start(1, "server", SERVER)?;
    machines.await_server()?;
    let kept = machines.path("server/node-token");
    let token = eventually("find the token", SECONDS_60, || Ok(std::fs::read_to_string(&kept).ok()))?;
    assert_eq!(std::fs::metadata(&kept)?.permissions().mode() & 0o777, 0o600);

    // Neither a stranger's server nor a stranger's token gets anywhere, and nothing is left of the try.
    let (hash, credentials) = token.trim().split_once("::").context("read the token")?;
    let (id, _) = credentials.split_once('.').context("read the token")?;
    std::fs::write(machines.path("token"), format!("K10{}::{credentials}", "0".repeat(64)))?;
    let said = refused(&machines, "wrong-server", AGENT)?;
    assert!(said.contains("the server is not the one that the token is for"), "{said}");
    std::fs::write(machines.path("token"), format!("{hash}::{id}.aaaaaaaaaaaaaaaa"))?;
    let said = refused(&machines, "wrong-token", AGENT)?;
    assert!(said.contains("the server does not take the token"), "{said}");
    assert!(!Path::new(&machines.path("agent/pki/kubelet-client-current.pem")).exists());

    std::fs::write(machines.path("token"), &token)?;
    let _agent = machines.start(2, "agent", AGENT)?;
    machines.await_nodes(&["n1", "n2"])?;
    let roles =
        machines.kubectl(&["get", "nodes", "--no-headers", "-o", "custom-columns=N:.metadata.name,R:.metadata.labels"])?;
    let servers: Vec<&str> = roles.lines().filter(|line| line.contains("node-role.kubernetes.io/control-plane")).collect();
    assert!(servers.len() == 1 && servers[0].starts_with("n1"), "{roles}");

    // It holds certificates of its own, and exchanges both while it runs.
    let pems = ["client", "server"].map(|name| machines.path(&format!("agent/pki/kubelet-{name}-current.pem")));
    let read = || pems.each_ref().map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let first = eventually("see both certificates", SECONDS_60, || {
        Ok(Some(read()).filter(|pems| pems.iter().all(|pem| !pem.is_empty())))
    })?;
    for path in &pems {
        assert_eq!(std::fs::metadata(path)?.permissions().mode() & 0o777, 0o600);
    }
    eventually("see both certificates renewed", SECONDS_60, || {
        let now = read();
        Ok((now[0] != first[0] && now[1] != first[1]).then_some(()))
    })?;
    machines.run_example(&["server/node/runtime", "agent/runtime"])?;
    let on_agent = "jsonpath={.items[?(@.spec.nodeName==\"n2\")].metadata.name}";
    let pod = machines.kubectl(&["get", "pods", "-o", on_agent])?;
    let pod = pod.split(' ').next().filter(|name| !name.is_empty()).context("find a pod on the agent")?;
    assert_eq!(machines.kubectl(&["exec", pod, "--", "hostname"])?.trim(), pod);

    // Who knows the token alone finds the cluster's authority signed by it.
    let signature = || {
        let signature = format!("jsonpath={{.data.jws-kubeconfig-{id}}}");
        machines.kubectl(&["get", "configmap", "cluster-info", "-n", "kube-public", "-o", &signature])
    };
    assert!(signature()?.contains(".."));

    // A token that was taken back lets nobody in; who is in stays.
    let config = machines.path("server/admin.kubeconfig");
    machines.run(&format!("knarr token delete {id} --kubeconfig {config}"))?;
    eventually("see the token's signature gone", SECONDS_60, || Ok(signature()?.is_empty().then_some(())))?;
    let again = AGENT.replace("$T/agent", "$T/another");
    let said = refused(&machines, "deleted-token", &again)?;
    assert!(said.contains("the server does not take the token"), "{said}");
    let made = machines.run(&format!("knarr token create --ttl 1h --kubeconfig {config}"))?;
    assert!(made.starts_with(hash), "{made}");
    machines.await_nodes(&["n1", "n2"])
}

#[test]
fn everything_goes_on_when_the_first_server_is_gone() -> Result<()> {
    let cluster = Cluster::up(&["--servers", "2", "--nodes", "3", "--store", "etcd"])?;
    cluster.load_example_image()?;
    let node = |n: usize| format!("{}-{n}", cluster.name);
    let endpoints = "jsonpath={.endpoints[*].addresses[*]}";
    let living = || cluster.kubectl(&["get", "endpointslice", "kubernetes", "-o", endpoints]);
    assert_eq!(living()?, format!("{} {}", cluster.address(1)?, cluster.address(2)?));

    cluster.knarr(&["node", "stop", &node(1)])?;
    for kubectl in kubectls()? {
        succeeded(cluster.command(kubectl).args(["get", "nodes"]).stderr(Stdio::inherit()))?;
    }
    // The agent turns to the other server by itself.
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: after}}\nspec: {{nodeName: {}, containers: [{{name: c, image: \
         localhost/hello:1, imagePullPolicy: Never}}]}}\n",
        node(3)
    ))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/after", "--timeout=60s"])?;
    eventually("see the dead server out of Service kubernetes", SECONDS_60, || {
        Ok((living()? == cluster.address(2)?).then_some(()))
    })?;
    // So does one that starts while the server that it joined by is dead.
    cluster.knarr(&["node", "stop", &node(3)])?;
    cluster.knarr(&["node", "start", &node(3)])?;
    cluster.knarr(&["node", "start", &node(1)])?;
    assert_eq!(living()?, format!("{} {}", cluster.address(1)?, cluster.address(2)?));
    Ok(())
}

/// etcd on the first machine, for every address of it.
pub const ETCD: &str = "exec etcd --data-dir $T/etcd --unsafe-no-fsync --listen-peer-urls http://127.0.0.1:0 \
     --listen-client-urls http://$A:2379 --advertise-client-urls http://$A:2379";

/// A server of several on one etcd.
pub fn sharing(name: &str, address: &str, more: &str) -> String {
    format!(
        "exec knarr server --data-dir $T/{name} --advertise-address {address} --store etcd --etcd-endpoints http://$A:2379 \
         --disable-agent --tls-san api.test {more}"
    )
}

/// Whether a server's notes name so many servers by now.
fn await_noted(machines: &Machines, name: &str, servers: usize) -> Result<()> {
    eventually("see all servers noted", SECONDS_60, || {
        let noted = std::fs::read_to_string(machines.path(&format!("{name}/servers.json")))?;
        Ok((noted.matches(":6443").count() == servers).then_some(()))
    })
}

#[test]
fn a_servers_kubeconfig_goes_on_without_the_server() -> Result<()> {
    let machines = Machines::two()?;
    let _etcd = machines.start(1, "etcd", ETCD)?;
    eventually("reach etcd", SECONDS_60, || machines.run("curl -sf --max-time 5 http://$A:2379/health").map(Some))?;
    let first = machines.start(1, "first", &sharing("first", "$A", "--bind-address $A"))?;
    eventually("find the servers' token", SECONDS_60, || {
        Ok(Path::new(&machines.path("first/server-token")).exists().then_some(()))
    })
    .with_context(|| first.said().unwrap_or_default())?;
    let token = "--token-file $T/first/server-token";
    let more = format!("{token} --balancer-port 7443");
    let mut servers = [first, machines.start(2, "second", &sharing("second", "$B", &more))?];
    // What each server's machine knows of both.
    let ask = |machine: usize, name: &str, command: &str| {
        succeeded(&mut machines.on(machine, &format!("{command} --kubeconfig $T/{name}/admin.kubeconfig"))?)
    };
    let says = |name: &str| std::fs::read_to_string(machines.path(&format!("{name}/admin.kubeconfig")));
    for name in ["first", "second"] {
        await_noted(&machines, name, 2)?;
        eventually("see the kubeconfig name both", SECONDS_60, || {
            Ok((says(name)?.matches(":6443").count() == 2).then_some(()))
        })?;
    }
    assert!(says("first")?.contains("https://127.0.0.1:6444") && says("second")?.contains("https://127.0.0.1:7443"));
    // A copy, for a machine where its first address is nobody's; the original is changed by its user.
    std::fs::write(machines.path("copied"), says("second")?)?;
    let ours = harness::program("kubectl")?.display().to_string();
    let outside = format!("nsenter --net=/run/netns/{}-outside", machines.cluster.name);
    machines.run(&format!(
        "{ours} config set-context --current --namespace kube-system --kubeconfig $T/second/admin.kubeconfig"
    ))?;
    // Another client's machine has a balancer of its own where the copied file leads.
    let beside = "mkdir $T/beside; exec knarr balancer --kubeconfig $T/first/admin.kubeconfig --listen 127.0.0.1:6444 \
                  --servers-file $T/beside/servers.json";
    let _beside = machines.start(2, "beside", beside)?;
    eventually("reach a server by it", SECONDS_60, || Ok(ask(2, "first", &format!("{ours} get namespaces")).ok()))?;
    let by_name = "knarr kubeconfig --data-dir $T/second --server https://api.test:6443 >$T/named; \
                   printf '%s api.test\\n' $A $B >$T/hosts";
    machines.run(by_name)?;

    // A component by itself goes by what its file says; it shows that it lives by a lease of its own.
    let alone = "sed \"s,https://127.0.0.1:6444,https://$A:6443,\" $T/first/admin.kubeconfig >$T/alone.kubeconfig; exec knarr \
                 scheduler --kubeconfig $T/alone.kubeconfig --leader-elect-resource-name alone --secure-port 0";
    let alone = machines.start(2, "alone", alone)?;
    let held = |by: &str| {
        let lease = "get lease alone -n kube-system -o jsonpath={.spec.holderIdentity}";
        let (who, when) = (lease.to_owned(), lease.replace("holderIdentity", "renewTime"));
        Ok::<_, anyhow::Error>((ask(2, by, &format!("{ours} {who}"))?, ask(2, by, &format!("{ours} {when}"))?))
    };
    let (holder, _) = eventually("see the scheduler lead", SECONDS_60, || held("first").map(Some))
        .with_context(|| alone.said().unwrap_or_default())?;

    // Either server is killed and comes back; every kubectl writes and reads on, at its first try. A third server comes while
    // the first one is dead.
    let balancer = || std::fs::read_to_string(machines.path("first/balancer.pid.json"));
    let first_balancer = balancer()?;
    let link = machines.cluster.address(1)?;
    let third = format!("{}.77", link.rsplit_once('.').context("read an address")?.0);
    let third = sharing("third", &third, &format!("{more} --bind-address {third}")).replacen(
        "exec",
        &format!("ip address add {third}/32 dev lo; exec"),
        1,
    );
    let mut late = None;
    for (gone, name) in [(0, "first"), (1, "second")] {
        servers[gone].kill()?;
        for kubectl in kubectls()? {
            let kubectl = kubectl.display();
            for (machine, name) in [(1, "first"), (2, "second"), (2, "first")] {
                ask(machine, name, &format!("{kubectl} create configmap by-{name}"))?;
                ask(machine, name, &format!("{kubectl} delete configmap by-{name}"))?;
            }
            let named = format!("mount --bind $T/hosts /etc/hosts; {kubectl} --kubeconfig $T/named get namespaces");
            succeeded(&mut machines.on(2, &format!("unshare --mount sh -ec '{named}'"))?)?;
        }
        // The scheduler renews its lease by way of the other one, and has not lost it in between.
        let then = held("first")?;
        eventually("see the scheduler go on", SECONDS_60, || {
            let now = held("first")?;
            assert_eq!(now.0, holder);
            Ok((now.1 != then.1).then_some(()))
        })?;
        assert!(!alone.said()?.contains("stopped leading"));
        // Our kubectl needs none.
        for verb in ["create", "delete"] {
            machines.run(&format!("{outside} {ours} --kubeconfig $T/copied {verb} configmap copied"))?;
        }
        if gone == 0 {
            late = Some(machines.start(1, "third", &third)?);
            await_noted(&machines, "first", 3)?;
            await_noted(&machines, "beside", 3)?;
            servers[0] = machines.start(1, name, &sharing("first", "$A", "--bind-address $A"))?;
            eventually("see the server back", SECONDS_60, || {
                let ready = machines.run("curl -sk --max-time 5 https://$A:6443/readyz");
                Ok(ready.is_ok_and(|ready| ready == "ok").then_some(()))
            })?;
        }
    }
    // The third is alone, and known to the first's balancer by word of the second.
    servers[0].kill()?;
    for kubectl in kubectls()? {
        for machine in [1, 2] {
            ask(machine, "first", &format!("{} get namespaces", kubectl.display()))?;
        }
    }
    assert_eq!(balancer()?, first_balancer);
    drop(late);
    // Both files were written on; what their user said is still there.
    let said = says("second")?;
    assert!(said.contains("namespace: kube-system") && said.matches(":6443").count() == 3, "{said}");
    Ok(())
}

#[test]
fn a_service_manager_hears_when_the_balancer_is_ready() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(SECONDS_60))?;
    let mut command = Command::new(harness::program("knarr")?);
    command.args(["balancer", "--listen", "127.0.0.1:0", "--server", "https://127.0.0.1:1"]).env("NOTIFY_SOCKET", &path);
    let mut balancer = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut message = [0; 64];
    let heard = socket.recv(&mut message).map(|length| message[..length].to_vec());
    balancer.kill()?;
    balancer.wait()?;
    assert_eq!(heard?, b"READY=1\n");
    Ok(())
}
