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

    // A token that was taken back lets nobody in; who is in stays.
    let config = machines.path("server/admin.kubeconfig");
    machines.run(&format!("knarr token delete {id} --kubeconfig {config}"))?;
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
