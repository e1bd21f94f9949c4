//! Containers from create to remove: exit codes, reasons, logs, what they see of themselves, and what is left of them.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use support::{Node, log, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_says_something_and_ends() {
    let node = Node::start().await;
    let pod = node.pod("hello");
    let sandbox = node.run(&pod).await;
    let id = node.create(&sandbox, &pod, script("main", "echo out; echo err >&2; printf rest; exit 3")).await;
    assert_eq!(node.status(&id).await.state(), cri::ContainerState::ContainerCreated);
    node.start_container(&id).await.unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    let said = log(&status);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P rest"]);
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    node.cri().remove_pod_sandbox(remove).await.unwrap();
    let containers =
        node.cri().list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner().containers;
    assert!(containers.is_empty());
    assert!(node.place.shims().is_empty(), "the shim has ended");
    for kind in ["sandboxes", "containers"] {
        assert_eq!(std::fs::read_dir(node.place.dir.path().join("state").join(kind)).unwrap().count(), 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_have_codes_and_reasons() {
    let node = Node::start().await;
    let mut got = Vec::new();
    for (number, text) in ["exit 0", "exit 42", "sh -c 'kill -9 $$'; exit $?"].iter().enumerate() {
        let (status, _) = node.outcome(&format!("pod{number}"), script("main", text)).await;
        got.push((status.exit_code, status.reason));
    }
    assert_eq!(got, [(0, "Completed".to_owned()), (42, "Error".to_owned()), (137, "Error".to_owned())]);
}
