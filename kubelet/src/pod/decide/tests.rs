use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::pod::{backoff::LONGEST, record::Sandbox};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn record(name: &str, id: &str, state: State) -> Record {
    let container = k8s_openapi::api::core::v1::Container { name: name.into(), ..Default::default() };
    Record {
        id: id.into(),
        name: name.into(),
        sandbox_id: "sb".into(),
        restart_count: 0,
        hash: spec::hash(&container),
        created_at: at(0),
        state,
        image: String::new(),
        image_id: String::new(),
        log_path: String::new(),
        user: None,
        annotations: Default::default(),
        message_file: None,
    }
}

fn exited(code: i32, finished: i64) -> State {
    State::Exited {
        started_at: Some(at(0)),
        finished_at: at(finished),
        exit_code: code,
        reason: String::new(),
        message: String::new(),
    }
}

const UP: State = State::Running { started_at: Timestamp::UNIX_EPOCH };

fn ready(containers: Vec<Record>) -> PodRecord {
    let sandbox = Sandbox { id: "sb".into(), attempt: 0, ready: true, created_at: at(0), ips: vec!["10.42.0.2".into()] };
    PodRecord { sandboxes: vec![sandbox], containers }
}

fn mounted() -> Memory {
    Memory { volumes_ready: true, ..Memory::default() }
}

fn look(pod: &Pod, runtime: &PodRecord, memory: &Memory) -> Decision {
    decide(&Observed { pod, runtime, memory, now: at(100) })
}

fn start(name: &str) -> Action {
    Action::Start { name: name.into(), after: None }
}

fn restart(name: &str, after: i64) -> Action {
    Action::Start { name: name.into(), after: Some(at(after)) }
}

fn only(action: Action) -> Decision {
    Decision { actions: vec![action], ..Decision::default() }
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers_one_by_one() {
    let p = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    assert_eq!(look(&p, &PodRecord::default(), &mounted()), only(Action::StartSandbox { attempt: 0 }));
    assert_eq!(look(&p, &ready(vec![]), &mounted()), only(start("a")));
    let starting = Memory { starting: Some("a".into()), ..mounted() };
    assert_eq!(look(&p, &ready(vec![]), &starting), Decision::default());
    assert_eq!(look(&p, &ready(vec![record("a", "1", UP)]), &mounted()), only(start("b")));
    let both = ready(vec![record("a", "1", UP), record("b", "2", UP)]);
    assert_eq!(look(&p, &both, &mounted()), Decision::default());
}

#[test]
fn nothing_starts_before_the_volumes_are_there() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    assert_eq!(look(&p, &ready(vec![]), &Memory::default()), Decision::default());
}

#[test]
fn init_containers_and_sidecars_go_in_order() {
    let p = pod(json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "a"}]}));
    let i = |state| record("i", "1", state);
    let s = |state| record("s", "2", state);
    assert_eq!(look(&p, &ready(vec![]), &mounted()), only(start("i")));
    assert_eq!(look(&p, &ready(vec![i(UP)]), &mounted()), Decision::default());
    assert_eq!(look(&p, &ready(vec![i(exited(0, 90))]), &mounted()), only(start("s")));
    let up = ready(vec![i(exited(0, 90)), s(UP)]);
    assert_eq!(look(&p, &up, &mounted()), Decision::default());
    let mut started = mounted();
    started.container_mut("s").probed = Some("2".into());
    started.container_mut("s").probes.startup = Some(true);
    assert_eq!(look(&p, &up, &started), only(start("a")));
    // Once the main containers have begun, a sidecar restarts without holding anything up, and init containers stay done.
    let later = ready(vec![s(exited(1, 95)), record("a", "3", exited(1, 96))]);
    assert_eq!(look(&p, &later, &started).actions, [restart("s", 95)]);
}

#[test]
fn restart_policies() {
    let cases: &[(&str, i32, bool)] = &[
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 3, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ];
    for (policy, code, again) in cases {
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let d = look(&p, &ready(vec![record("a", "1", exited(*code, 99))]), &mounted());
        let expected = match again {
            true => only(restart("a", 99)),
            false => Decision { ended: true, ..Decision::default() },
        };
        assert_eq!(d, expected, "{policy} {code}");
    }
}

#[test]
fn container_rules_override_the_pods_policy() {
    let p = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
    assert_eq!(look(&p, &ready(vec![record("a", "1", exited(42, 99))]), &mounted()), only(restart("a", 99)));
    assert!(look(&p, &ready(vec![record("a", "1", exited(41, 99))]), &mounted()).ended);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let p = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    assert!(look(&p, &ready(vec![record("i", "1", exited(1, 99))]), &mounted()).ended);
}

#[test]
fn a_crash_waits_for_its_backoff() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = mounted();
    memory.container_mut("a").crash.next(at(90), at(90), LONGEST);
    let d = look(&p, &ready(vec![record("a", "1", exited(1, 95))]), &memory);
    let wait = CrashWait { name: "a".into(), until: at(105), pause: Duration::from_secs(10) };
    assert_eq!(d, Decision { wake_at: Some(at(105)), waiting: vec![wait], ..Decision::default() });
    // Already being started, it waits for nothing, however long its predecessor's end is still what the runtime shows.
    memory.starting = Some("a".into());
    assert_eq!(look(&p, &ready(vec![record("a", "1", exited(1, 95))]), &memory), Decision::default());
}

#[test]
fn a_start_under_way_is_no_crash_loop() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = mounted();
    memory.container_mut("a").crash.next(at(99), at(99), LONGEST);
    memory.starting = Some("a".to_owned());
    assert_eq!(look(&p, &ready(vec![record("a", "1", exited(1, 99))]), &memory), Decision::default());
}

#[test]
fn a_failed_start_waits_for_its_retry_while_others_go_on() {
    let p = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let mut memory = mounted();
    memory.container_mut("a").failure =
        Some(StartFailure { reason: "ErrImagePull".into(), message: "no".into(), at: at(99), retry_at: at(109) });
    let d = look(&p, &ready(vec![]), &memory);
    assert_eq!(d, Decision { actions: vec![start("b")], wake_at: Some(at(109)), ..Decision::default() });
}

/// Upstream's order (`doBackOff`): at once, after 10 s, after 20 s, each from when the last one ended.
#[test]
fn what_was_made_and_did_not_start_is_tried_again_at_once_and_then_with_the_pauses_of_restarts() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = mounted();
    let failed =
        |reason: &str| Some(StartFailure { reason: reason.into(), message: "no".into(), at: at(100), retry_at: at(110) });
    memory.container_mut("a").failure = failed("RunContainerError");
    let ended = ready(vec![record("a", "1", exited(128, 100))]);
    assert_eq!(look(&p, &ended, &memory), only(Action::Start { name: "a".into(), after: Some(at(100)) }));
    for (pause, until) in [(10, 110), (20, 120)] {
        memory.container_mut("a").crash.next(at(100), at(100), LONGEST);
        let waiting = vec![CrashWait { name: "a".into(), until: at(until), pause: Duration::from_secs(pause) }];
        assert_eq!(look(&p, &ended, &memory), Decision { wake_at: Some(at(110)), waiting, ..Decision::default() });
    }
    // One that was not even made, or whose end is not known, has no such pause.
    let later = Decision { wake_at: Some(at(110)), ..Decision::default() };
    assert_eq!(look(&p, &ready(vec![record("a", "1", State::Created)]), &memory), later);
    memory.container_mut("a").failure = failed("CreateContainerError");
    assert_eq!(look(&p, &ready(vec![]), &memory), later);
}

#[test]
fn failed_probes_and_changed_images_kill() {
    let p = pod(json!({"terminationGracePeriodSeconds": 30, "containers": [
        {"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 7}}, {"name": "b"}]}));
    let mut changed = record("b", "2", UP);
    changed.hash = "old".into();
    let mut memory = mounted();
    memory.container_mut("a").probed = Some("1".into());
    memory.container_mut("a").probes.liveness = Some(false);
    let d = look(&p, &ready(vec![record("a", "1", UP), changed]), &memory);
    let kill = |id: &str, name: &str, message: &str, grace| Action::Kill {
        id: id.into(),
        name: name.into(),
        message: message.into(),
        grace,
    };
    let expected = [
        kill("1", "a", "Container a failed liveness probe, will be restarted", Some(7)),
        kill("2", "b", "Container b definition changed, will be restarted", None),
    ];
    assert_eq!(d.actions, expected);
}

#[test]
fn a_lost_sandbox_is_replaced_after_its_containers_are_gone() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut lost = ready(vec![record("a", "1", UP)]);
    lost.sandboxes[0].ready = false;
    let killed = look(&p, &lost, &mounted()).actions;
    assert!(matches!(&killed[..], [Action::Kill { id, .. }] if id == "1"), "{killed:?}");
    lost.containers[0].state = exited(137, 99);
    assert_eq!(look(&p, &lost, &mounted()), only(Action::StartSandbox { attempt: 1 }));
    // In the new sandbox the container starts although its old instance is known.
    lost.sandboxes.insert(0, Sandbox { id: "sb2".into(), attempt: 1, ready: true, created_at: at(100), ips: vec![] });
    assert_eq!(look(&p, &lost, &mounted()), only(start("a")));
}

#[test]
fn ephemeral_containers_start_once() {
    let p = pod(json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}));
    assert_eq!(look(&p, &ready(vec![record("a", "1", UP)]), &mounted()), only(start("e")));
    let ran = ready(vec![record("a", "1", UP), record("e", "2", exited(1, 99))]);
    assert_eq!(look(&p, &ran, &mounted()), Decision::default());
}
