//! How fast pods come up, printed rather than judged: `cargo test -p knarr-runtime --test pods -- --ignored --nocapture`.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use std::time::{Duration, Instant};

use knarr_runtime::Runtime;
use support::{Namespace, Node, Place, script};

/// Processor time of this process and of the shims that run.
fn cpu(node: &Node) -> Duration {
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let shims = node.place.shims().into_iter().map(|pid| {
        let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
    });
    of(usage.ru_utime) + of(usage.ru_stime) + shims.sum::<Duration>()
}

fn memory_kib(pid: i32, fields: &[&str]) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = rollup.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn twenty_pods_one_at_a_time() {
    let place = Place::new();
    let namespace = Namespace::new();
    let mut config = place.config();
    config.own.pod_cidr = Some("10.42.8.0/24".into());
    config.own.namespace = Some(namespace.path());
    let node = Node::of(place, Runtime::start(config).await.unwrap());
    node.runtime.images().import(support::image::busybox().as_slice()).unwrap();
    let before = cpu(&node);
    let mut times = Vec::new();
    for number in 0..20 {
        let pod = node.pod(&format!("pod{number}"));
        let began = Instant::now();
        let sandbox = node.run(&pod).await;
        let ran = began.elapsed();
        let id = node.create(&sandbox, &pod, script("main", "exec sleep 1000")).await;
        let created = began.elapsed();
        node.start_container(&id).await.unwrap();
        times.push((began.elapsed(), ran, created - ran, began.elapsed() - created));
    }
    let spent = (cpu(&node) - before) / 20;
    times.sort();
    let (all, sandbox, create, start) = times[10];
    println!(
        "pod p50 {all:?} (sandbox {sandbox:?}, create {create:?}, start {start:?}), worst {:?}, cpu a pod {spent:?}",
        times[19].0
    );
    let shims = node.place.shims();
    let children = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pause = shims.iter().filter_map(|pid| children(*pid).split(' ').next()?.parse::<i32>().ok());
    let private: Vec<u64> = shims.iter().copied().chain(pause.clone()).map(|pid| memory_kib(pid, &["Private_"])).collect();
    let pss: u64 = shims.iter().copied().chain(pause).map(|pid| memory_kib(pid, &["Pss:"])).sum();
    println!("shims {:?} KiB private each, pauses {:?}; pss of all {pss} KiB", &private[..3], &private[20..23]);
    let began = Instant::now();
    for sandbox in node.cri().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items {
        node.cri().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id }).await.unwrap();
    }
    println!("removed in {:?} each", began.elapsed() / 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_pods_at_once() {
    let node = std::sync::Arc::new(Node::start().await);
    let began = Instant::now();
    let mut pods = tokio::task::JoinSet::new();
    for number in 0..30 {
        let node = node.clone();
        pods.spawn(async move {
            let pod = node.pod(&format!("pod{number}"));
            let sandbox = node.run(&pod).await;
            let id = node.create(&sandbox, &pod, script("main", &format!("echo {number}; exec sleep 1000"))).await;
            node.start_container(&id).await.unwrap();
            (number, sandbox, id)
        });
    }
    let pods = pods.join_all().await;
    println!("30 pods at once in {:?}", began.elapsed());
    let began = Instant::now();
    for (number, _, id) in &pods {
        assert_eq!(node.says(id, |log| !log.is_empty()).await, format!("stdout F {number}\n"));
    }
    let mut removals = tokio::task::JoinSet::new();
    for (_, sandbox, _) in pods {
        let node = node.clone();
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
        removals.spawn(async move { node.cri().remove_pod_sandbox(request).await.map(drop) });
    }
    assert!(removals.join_all().await.into_iter().all(|removed| removed.is_ok()));
    println!("removed in {:?}", began.elapsed());
    assert!(node.place.shims().is_empty());
}
