//! Running containers: exec, stop, logs, limits, and a runtime that comes back.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_runtime::Runtime;
use support::{NoNetwork, Node, eventually, log, script};

#[tokio::test(flavor = "multi_thread")]
async fn exec_sync() {
    let node = Node::start().await;
    let mut config = script("main", "sleep 1000");
    config.envs = vec![cri::KeyValue { key: "OWN".into(), value: b"1".to_vec() }];
    let id = node.container("exec", config).await;
    let text = |out: &str, err: &str, code| (out.to_owned(), err.to_owned(), code);
    assert_eq!(node.exec(&id, &["sh", "-c", "echo $OWN; echo err >&2; exit 7"]).await, text("1\n", "err\n", 7));
    assert_eq!(node.exec(&id, &["sh", "-c", "ps | grep -c 'sleep 100[0]'"]).await, text("1\n", "", 0));
    let request = |cmd: &[&str], timeout| cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: cmd.iter().map(ToString::to_string).collect(),
        timeout,
    };
    let missing = node.cri().exec_sync(request(&["nowhere"], 0)).await.unwrap_err();
    assert_eq!(missing.message(), "failed to exec in container: exec: \"nowhere\": executable file not found in $PATH");
    let began = Instant::now();
    let late = node.cri().exec_sync(request(&["sleep", "100"], 1)).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(5));
    let large = node.cri().exec_sync(request(&["sh", "-c", "head -c 300000 /dev/zero"], 10)).await.unwrap().into_inner();
    assert_eq!(large.stdout.len(), 300_000);
    // However much it says: a kubelet takes the answer.
    let talkative = request(&["sh", "-c", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 3"], 20);
    let mut kubelet = node.cri().max_decoding_message_size(cri::MAX_MESSAGE_BYTES);
    let answer = kubelet.exec_sync(talkative).await.unwrap().into_inner();
    let said = [answer.stdout.len(), answer.stderr.len()];
    assert!(said[0] == said[1] && said[0] > 8_000_000 && answer.exit_code == 3, "{said:?} {}", answer.exit_code);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping() {
    let node = Node::start().await;
    let handled = node
        .container("handled", script("main", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"))
        .await;
    node.says(&handled, |log| log.contains("ready")).await;
    node.cri().stop_container(cri::StopContainerRequest { container_id: handled.clone(), timeout: 30 }).await.unwrap();
    let status = node.status(&handled).await;
    assert_eq!((status.exit_code, log(&status).ends_with("stdout F bye\n")), (5, true));
    // The first process of a namespace does not get signals that it does not handle.
    let deaf = node.container("deaf", script("main", "sleep 1000")).await;
    node.cri().stop_container(cri::StopContainerRequest { container_id: deaf.clone(), timeout: 1 }).await.unwrap();
    let status = node.status(&deaf).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    node.cri().stop_container(cri::StopContainerRequest { container_id: deaf, timeout: 1 }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_right_after_the_start() {
    let node = Node::start().await;
    let began = Instant::now();
    for number in 0..5 {
        let id = node
            .container(&format!("new{number}"), script("main", "trap 'exit 5' TERM; while :; do sleep 0.05; done"))
            .await;
        node.cri().stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 60 }).await.unwrap();
        assert_eq!(node.status(&id).await.exit_code, 5);
    }
    assert!(began.elapsed() < Duration::from_secs(50), "no signal was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_rotated() {
    let node = Node::start().await;
    let id = node.container("rotate", script("main", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done")).await;
    let path = std::path::PathBuf::from(node.status(&id).await.log_path);
    let filled = |path: &std::path::Path| std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0).then_some(());
    eventually("the log has a line", async || filled(&path)).await;
    let old = path.with_extension("old");
    std::fs::rename(&path, &old).unwrap();
    node.cri().reopen_container_log(cri::ReopenContainerLogRequest { container_id: id.clone() }).await.unwrap();
    eventually("the new log has a line", async || filled(&path)).await;
    node.cri().stop_container(cri::StopContainerRequest { container_id: id, timeout: 0 }).await.unwrap();
    let numbers = [old, path].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    let numbers: Vec<usize> = numbers.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "no line is lost or doubled");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_and_counted() {
    let node = Node::start().await;
    let mut config = script("main", "sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = node.container("limits", config).await;
    let update = cri::LinuxContainerResources { cpu_quota: 20_000, memory_limit_in_bytes: 80 << 20, ..Default::default() };
    let request =
        cri::UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(update), ..Default::default() };
    node.cri().update_container_resources(request).await.unwrap();
    let resources = node.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.memory_limit_in_bytes), (512, 20_000, 80 << 20));
    node.exec(&id, &["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]).await;
    let stats = node
        .cri()
        .container_stats(cri::ContainerStatsRequest { container_id: id })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let (cpu, memory) = (stats.cpu.unwrap(), stats.memory.unwrap());
    assert!(cpu.usage_core_nano_seconds.unwrap().value > 0);
    let available = memory.available_bytes.unwrap().value;
    assert!(available <= 80 << 20 && available > 64 << 20, "{available} of the new limit are left");
    let pods =
        node.cri().list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default()).await.unwrap().into_inner().stats;
    assert_eq!(pods[0].linux.as_ref().unwrap().containers.len(), 1);
    let listed = node.cri().list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {}).await.unwrap().into_inner();
    let metrics = &listed.pod_metrics[0].container_metrics[0].metrics;
    let value = |name: &str| metrics.iter().find(|m| m.name == name).and_then(|m| m.value).map(|v| v.value);
    let names = ["container_spec_memory_limit_bytes", "container_spec_cpu_quota", "container_processes"];
    assert_eq!(names.map(value), [Some(80 << 20), Some(20_000), Some(1)]);
    assert!(value("container_memory_max_usage_bytes").unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_are_chosen_from_the_start_and_later() {
    let node = Node::start().await;
    let mut config = script("main", "grep Cpus_allowed_list /proc/self/status; sleep 1000");
    let resources = |cpus: &str| cri::LinuxContainerResources { cpuset_cpus: cpus.into(), ..Default::default() };
    config.linux.as_mut().unwrap().resources = Some(resources("0"));
    let early = node.container("early", config.clone()).await;
    config.linux.as_mut().unwrap().resources = Some(resources(""));
    let late = node.container("late", config).await;
    let request = cri::UpdateContainerResourcesRequest {
        container_id: late.clone(),
        linux: Some(resources("0")),
        ..Default::default()
    };
    node.cri().update_container_resources(request).await.unwrap();
    let seen = async |id: &str, file: &str| node.exec(id, &["grep", "Cpus_allowed_list", file]).await.0;
    for id in [&early, &late] {
        for file in ["/proc/1/status", "/proc/self/status"] {
            assert_eq!(seen(id, file).await, "Cpus_allowed_list:\t0\n", "{file}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory() {
    let node = Node::start().await;
    let mut config = script("main", "head -c 100000000 /dev/zero | tail -n 1 | wc -c; exit 3");
    config.command = ["sh", "-c", "exec tail -n 1 /dev/zero"].map(String::from).to_vec();
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let (status, _) = node.outcome("oom", config).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_of_everything() {
    use cri::ContainerEventType::*;
    let node = Node::start().await;
    let mut events = node.cri().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = node.pod("events");
    let sandbox = node.run(&pod).await;
    let id = node.create(&sandbox, &pod, script("main", "exit 4")).await;
    node.start_container(&id).await.unwrap();
    node.ended(&id).await;
    node.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 8 {
        let event = tokio::time::timeout(Duration::from_secs(5), events.message()).await.unwrap().unwrap().unwrap();
        seen.push((event.container_id == id, event.container_event_type()));
    }
    // A container that ends at once may be seen to end before it is seen to start.
    let mut middle = seen[3..5].to_vec();
    middle.sort_by_key(|(_, kind)| *kind as i32);
    assert_eq!(seen[..3], [(false, ContainerCreatedEvent), (false, ContainerStartedEvent), (true, ContainerCreatedEvent)]);
    assert_eq!(middle, [(true, ContainerStartedEvent), (true, ContainerStoppedEvent)]);
    assert_eq!(seen[5..], [(false, ContainerStoppedEvent), (true, ContainerDeletedEvent), (false, ContainerDeletedEvent)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_record_is_damaged_is_ended_not_forgotten() {
    let node = Node::start().await;
    node.container("damaged", script("main", "sleep 1000")).await;
    let place = node.stop().await;
    let sandboxes = place.dir.path().join("state/sandboxes");
    let sandbox = std::fs::read_dir(&sandboxes).unwrap().next().unwrap().unwrap().path();
    std::fs::write(sandbox.join("config.pb"), [0xff; 8]).unwrap();
    let node = Node::resume(place).await;
    assert_eq!((node.place.shims(), std::fs::read_dir(&sandboxes).unwrap().count()), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_runtime_takes_over() {
    let node = Node::start().await;
    let pod = node.pod("stays");
    let sandbox = node.run(&pod).await;
    let stays = node
        .create(&sandbox, &pod, script("stays", "echo before; while ! [ -e /go ]; do sleep 0.02; done; echo after; exit 6"))
        .await;
    let leaves = node.create(&sandbox, &pod, script("leaves", "while ! [ -e /go ]; do sleep 0.02; done; exit 9")).await;
    let waits = node.create(&sandbox, &pod, script("waits", "exit 0")).await;
    for id in [&stays, &leaves] {
        node.start_container(id).await.unwrap();
    }
    let began = node.status(&stays).await.started_at;
    node.exec(&leaves, &["touch", "/go"]).await;
    node.ended(&leaves).await;
    let record = node.place.dir.path().join("state/containers").join(&leaves).join("state.json");
    let text = std::fs::read_to_string(&record).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    // As if the first had been killed before it heard of the end.
    state["exit"] = serde_json::Value::Null;
    std::fs::write(&record, state.to_string()).unwrap();
    let second = Runtime::start_with(node.place.config(), Arc::new(NoNetwork)).await.err().unwrap().to_string();
    assert!(second.starts_with("another runtime is using"), "{second}");
    let node = Node::resume(node.stop().await).await;
    let status = node.status(&stays).await;
    assert_eq!((status.state(), status.started_at), (cri::ContainerState::ContainerRunning, began));
    assert_eq!(node.status(&leaves).await.exit_code, 9);
    assert_eq!(node.status(&waits).await.state(), cri::ContainerState::ContainerCreated);
    assert_eq!(node.exec(&stays, &["echo", "there"]).await.0, "there\n");
    node.start_container(&waits).await.unwrap();
    node.exec(&stays, &["touch", "/go"]).await;
    let status = node.ended(&stays).await;
    assert_eq!((status.exit_code, log(&status).as_str()), (6, "stdout F before\nstdout F after\n"));
    // A shim that is killed takes its pod along.
    let again = node.create(&sandbox, &pod, script("again", "sleep 1000")).await;
    node.start_container(&again).await.unwrap();
    for pid in node.place.shims() {
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let status = node.ended(&again).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
    let state = node.cri().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap().state();
    assert_eq!(state, cri::PodSandboxState::SandboxNotready);
    node.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
}
