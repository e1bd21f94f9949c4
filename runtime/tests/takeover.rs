//! kill -9 of the process that the runtime runs in, and the other interface to control groups.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use std::sync::Arc;

use knarr_runtime::Runtime;
use support::{NoNetwork, Node, Place, eventually, log, script, with_security};

/// Tells the test program to be a runtime in this directory.
const ROLE: &str = "KNARR_TEST_RUNTIME_IN";

/// Not a test: what the killed process runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn be_a_runtime() {
    let Some(dir) = std::env::var_os(ROLE).map(std::path::PathBuf::from) else { return };
    let config = knarr_runtime::Config {
        state: dir.join("state"),
        socket: Some(dir.join("cri.sock")),
        shim: Some(support::shim().to_owned()),
        ..Default::default()
    };
    let runtime = Runtime::start_with(config, Arc::new(NoNetwork)).await.unwrap();
    runtime.images().import(support::image::busybox().as_slice()).unwrap();
    runtime.run(tokio_util::sync::CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_runtime_stops_nothing() {
    let place = Place::new();
    let quiet = std::process::Stdio::null;
    support::shim();
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "be_a_runtime", "--ignored"])
        .env(ROLE, place.dir.path())
        .stdout(quiet())
        .stderr(quiet())
        .spawn()
        .unwrap();
    let channel = cri::Channel::connect(place.dir.path().join("cri.sock").to_str().unwrap()).unwrap();
    let mut runtime = cri::RuntimeServiceClient::new(channel.clone());
    let mut images = cri::ImageServiceClient::new(channel);
    eventually("the other runtime has its image", async || {
        let listed = images.list_images(cri::ListImagesRequest::default()).await;
        listed.is_ok_and(|listed| !listed.into_inner().images.is_empty()).then_some(())
    })
    .await;
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(place.dir.path().join("cri.sock")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // A node that only describes pods.
    let describe = Node::resume(Place::new()).await;
    let mut pod = describe.pod("pod");
    pod.linux.as_mut().unwrap().cgroup_parent.clone_from(&place.cgroup);
    let request = cri::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
    let sandbox = runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let mut ids = Vec::new();
    for (name, text) in [
        ("stays", "i=0; while ! [ -e /go ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 6"),
        ("ends", "while ! [ -e /place/killed ]; do sleep 0.02; done; exit 9"),
    ] {
        let mut config = script(name, text);
        let host_path = place.dir.path().to_str().unwrap().to_owned();
        config.mounts = vec![cri::Mount { host_path, container_path: "/place".into(), ..Default::default() }];
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let id = runtime.create_container(request).await.unwrap().into_inner().container_id;
        runtime.start_container(cri::StartContainerRequest { container_id: id.clone() }).await.unwrap();
        ids.push(id);
    }
    process.kill().unwrap();
    process.wait().unwrap();
    std::fs::write(place.dir.path().join("killed"), "").unwrap();
    // The second container ends while nobody listens; its shim writes that down.
    let exit = place.dir.path().join("state/containers").join(&ids[1]).join("exit");
    eventually("the shim writes down the end", async || exit.exists().then_some(())).await;
    let node = Node::resume(place).await;
    assert_eq!(node.status(&ids[0]).await.state(), cri::ContainerState::ContainerRunning);
    let ended = node.status(&ids[1]).await;
    assert_eq!((ended.state(), ended.exit_code, ended.reason.as_str()), (cri::ContainerState::ContainerExited, 9, "Error"));
    node.exec(&ids[0], &["touch", "/go"]).await;
    let status = node.ended(&ids[0]).await;
    let numbers: Vec<usize> = log(&status).lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!((status.exit_code, numbers.clone()), (6, (1..=numbers.len()).collect()), "the log has no gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_on_the_unified_hierarchy() {
    let Some(cgroups) = support::unified() else {
        eprintln!("skipped: no cgroup2 file system is mounted");
        return;
    };
    let place = Place::new();
    let runtime = Runtime::start_on(place.config(), Arc::new(NoNetwork), Box::new(cgroups)).await.unwrap();
    let node = Node::of(place, runtime);
    node.runtime.images().import(support::image::busybox().as_slice()).unwrap();
    let text = "
        cat /proc/self/cgroup | grep '^0:'
        mount | grep -c 'on /sys/fs/cgroup type cgroup2 (ro'
        mknod /dev/other c 10 229 && ((: < /dev/other) 2>/dev/null || echo device refused)
        head -c 3 /dev/zero | wc -c
        sleep 1000";
    let id = node.container("unified", script("main", text)).await;
    let said = node.says(&id, |log| log.lines().count() >= 4).await;
    assert_eq!(said, "stdout F 0::/\nstdout F 1\nstdout F device refused\nstdout F 3\n");
    assert_eq!(node.exec(&id, &["sh", "-c", "grep '^0:' /proc/self/cgroup"]).await.0, "0::/\n");
    let stats =
        node.cri().container_stats(cri::ContainerStatsRequest { container_id: id.clone() }).await.unwrap().into_inner();
    assert!(stats.stats.unwrap().cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    // A device that needs no capability to be opened, where there is one.
    if std::path::Path::new("/dev/fuse").exists() {
        let config = script("main", "(: < /dev/fuse) && echo opened");
        let privileged = with_security(config, |security| security.privileged = true);
        assert_eq!(node.outcome("privileged", privileged).await.1, "stdout F opened\n");
    }
    node.cri().stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 0 }).await.unwrap();
    let sandbox = node.cri().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    for sandbox in sandbox {
        node.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id }).await.unwrap();
    }
}
