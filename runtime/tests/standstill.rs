//! Shims that stand still: what can be asked meanwhile, and how their pods end.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use knarr_runtime::{Config, Runtime};
use support::{NoNetwork, Node, Place, eventually, script};

/// A node that is soon out of patience.
async fn impatient(place: Place) -> Node {
    waiting(place, Duration::from_millis(500)).await
}

async fn waiting(place: Place, patience: Duration) -> Node {
    let config = Config { shim_patience: Some(patience), ..place.config() };
    let runtime = Runtime::start_with(config, Arc::new(NoNetwork)).await.unwrap();
    let node = Node::of(place, runtime);
    node.runtime.images().import(support::image::busybox().as_slice()).unwrap();
    node
}

/// A pod with a container that ends at SIGTERM, and its shim.
async fn pod(node: &Node) -> (String, String, i32) {
    let pod = node.pod("pod");
    let sandbox = node.run(&pod).await;
    let text = "trap 'touch /told; exit 5' TERM; echo ready; (sleep 1000) & while :; do sleep 0.05; done";
    let id = node.create(&sandbox, &pod, script("main", text)).await;
    node.start_container(&id).await.unwrap();
    node.says(&id, |log| log.contains("ready")).await;
    (sandbox, id, node.place.shims()[0])
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: numbers only; the shims are this test's own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

async fn try_exec(node: &Node, id: &str, seconds: i64) -> Result<cri::ExecSyncResponse, tonic::Status> {
    let cmd = vec!["sh".into(), "-c".into(), "echo $$ >> /ran; exit 3".into()];
    let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout: seconds };
    node.cri().exec_sync(request).await.map(tonic::Response::into_inner)
}

async fn nothing_is_left(node: &Node, sandbox: &str) {
    node.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() }).await.unwrap();
    eventually("the shim is gone", async || node.place.shims().is_empty().then_some(())).await;
    for kind in ["sandboxes", "containers"] {
        assert_eq!(std::fs::read_dir(node.place.dir.path().join("state").join(kind)).unwrap().count(), 0, "{kind}");
    }
    let cgroups = knarr_runtime::cgroup::detect().unwrap();
    eventually("no process is left", async || cgroups.remove(&node.place.cgroup).is_ok().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_shim_goes_on_and_the_rest_fails_in_time() {
    let node = waiting(Place::new(), Duration::from_secs(2)).await;
    let (sandbox, id, shim) = pod(&node).await;
    signal(shim, libc::SIGSTOP);
    assert_eq!(node.status(&id).await.state(), cri::ContainerState::ContainerRunning);
    let stats = cri::ContainerStatsRequest { container_id: id.clone() };
    assert!(node.cri().container_stats(stats).await.unwrap().into_inner().stats.unwrap().memory.is_some());
    let late = try_exec(&node, &id, 1).await.unwrap_err();
    assert_eq!(late.message(), "failed to exec in container: timeout 1s exceeded: context deadline exceeded");
    // That a probe got no answer is enough to ask no more.
    let stands_still = "failed to exec in container: the pod's shim does not answer";
    eventually("it is known", async || {
        let failed = try_exec(&node, &id, 1).await.unwrap_err();
        assert_eq!(failed.code(), tonic::Code::DeadlineExceeded, "the probe has failed");
        (failed.message() == stands_still).then_some(())
    })
    .await;
    assert_eq!(try_exec(&node, &id, 1000).await.unwrap_err().message(), stands_still);
    let request = cri::ReopenContainerLogRequest { container_id: id.clone() };
    let failed = node.cri().reopen_container_log(request).await.unwrap_err();
    assert_eq!(failed.message(), "the pod's shim does not answer");
    signal(shim, libc::SIGCONT);
    let ran = eventually("the shim answers again", async || try_exec(&node, &id, 10).await.ok()).await;
    assert_eq!(ran.exit_code, 3);
    // What was begun for nobody has been ended, not run beside.
    let (left, ..) = node.exec(&id, &["sh", "-c", "ps | grep -c '/ra[n]'"]).await;
    assert_eq!(left, "0\n");
    signal(shim, libc::SIGSTOP);
    assert_eq!(try_exec(&node, &id, 1000).await.unwrap_err().message(), stands_still, "without a probe, too");
    signal(shim, libc::SIGCONT);
    eventually("the shim answers again", async || try_exec(&node, &id, 10).await.ok()).await;
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 30 };
    node.cri().stop_container(request).await.unwrap();
    assert_eq!(node.status(&id).await.exit_code, 5, "it ends as it would have");
    nothing_is_left(&node, &sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_one_can_be_stopped() {
    let node = impatient(Place::new()).await;
    let (sandbox, id, shim) = pod(&node).await;
    signal(shim, libc::SIGSTOP);
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 2 };
    node.cri().stop_container(request).await.unwrap();
    let status = node.status(&id).await;
    let told =
        std::process::Command::new("find").arg(node.place.dir.path()).args(["-name", "told"]).output().unwrap().stdout;
    assert!(!told.is_empty(), "it could end in order first");
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    assert_eq!(status.message, "the pod's shim has ended, and its containers with it");
    nothing_is_left(&node, &sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_one_can_be_removed() {
    let node = impatient(Place::new()).await;
    let (sandbox, _, shim) = pod(&node).await;
    signal(shim, libc::SIGSTOP);
    node.cri().stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    nothing_is_left(&node, &sandbox).await;
}

/// The runtime that has taken a pod over is not its shim's parent.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_taken_over_can_be_removed() {
    let node = impatient(Place::new()).await;
    let (sandbox, _, shim) = pod(&node).await;
    let node = impatient(node.stop().await).await;
    signal(shim, libc::SIGSTOP);
    nothing_is_left(&node, &sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_taken_over_is_ended() {
    let node = impatient(Place::new()).await;
    let (sandbox, id, shim) = pod(&node).await;
    let place = node.stop().await;
    signal(shim, libc::SIGSTOP);
    let node = impatient(place).await;
    assert!(node.place.shims().is_empty(), "nobody could end it later");
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    nothing_is_left(&node, &sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_shim_takes_no_connections_is_ended() {
    let node = impatient(Place::new()).await;
    let (sandbox, id, shim) = pod(&node).await;
    let place = node.stop().await;
    signal(shim, libc::SIGSTOP);
    let dir = std::fs::File::open(place.dir.path().join("state/sandboxes").join(&sandbox)).unwrap();
    let socket = format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(&dir), shim::SOCKET);
    let mut queue = Vec::new();
    let full = loop {
        match tokio::net::UnixStream::connect(&socket).await {
            Ok(waiting) => queue.push(waiting),
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(full, std::io::ErrorKind::WouldBlock);
    let node = impatient(place).await;
    assert!(node.place.shims().is_empty(), "nobody could end it later");
    let status = node.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    nothing_is_left(&node, &sandbox).await;
}
