//! Containers from create to remove: exit codes, reasons, logs, what they see of themselves, and what is left of them.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use support::{NoNetwork, Node, Place, eventually, log, script};

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

#[tokio::test(flavor = "multi_thread")]
async fn an_end_never_overtakes_its_start() {
    use cri::ContainerEventType::{ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent};
    use tokio_stream::StreamExt;
    let node = Node::start().await;
    let mut events = node.cri().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = node.pod("quick");
    let sandbox = node.run(&pod).await;
    for number in 0..40 {
        let mut config = script(&format!("c{number}"), "");
        config.command = vec!["true".into()];
        let id = node.create(&sandbox, &pod, config).await;
        node.start_container(&id).await.unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&ContainerStoppedEvent) {
            let event = events.next().await.unwrap().unwrap();
            if event.container_id != id {
                continue;
            }
            seen.push(event.container_event_type());
            let status = event.containers_statuses.into_iter().find(|status| status.id == id).unwrap();
            let started = (status.started_at > 0, status.user.is_some());
            assert_eq!(started, [(true, true), (false, false)][usize::from(seen == [ContainerCreatedEvent])]);
        }
        assert_eq!(seen, [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent], "container {number}");
    }
}

/// A program that starts and then says nothing stands for a shim that hangs: the start fails in time, the program is ended, nothing is
/// left, and the pod's name is free again.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_hangs_is_given_up() {
    let place = Place::new();
    let mute = Some("/usr/bin/yes".into());
    let patience = Some(std::time::Duration::from_millis(300));
    let config = knarr_runtime::Config { shim: mute, start_patience: patience, shim_patience: patience, ..place.config() };
    let runtime = knarr_runtime::Runtime::start_with(config, std::sync::Arc::new(NoNetwork)).await.unwrap();
    let node = Node::of(place, runtime);
    for _ in 0..2 {
        let request = cri::RunPodSandboxRequest { config: Some(node.pod("mute")), runtime_handler: String::new() };
        let failed = node.cri().run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(failed.message(), "the shim has not started within 300ms");
        eventually("the program ends", async || node.place.shims().is_empty().then_some(())).await;
        assert_eq!(std::fs::read_dir(node.place.dir.path().join("state/sandboxes")).unwrap().count(), 0);
    }
}
