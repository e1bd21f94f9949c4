use serde_json::{Value, json};

use super::*;
use crate::pod::{backoff::LONGEST, record::Sandbox};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2}, "spec": spec}))
        .unwrap()
}

fn record(name: &str, id: &str, restart_count: i32, state: State) -> Record {
    Record {
        id: id.into(),
        name: name.into(),
        sandbox_id: "sb".into(),
        restart_count,
        hash: String::new(),
        created_at: at(i64::from(restart_count)),
        state,
        image: "i:1".into(),
        image_id: "sha256:1".into(),
        log_path: String::new(),
        user: None,
        annotations: Default::default(),
        message_file: None,
    }
}

fn up() -> State {
    State::Running { started_at: at(1) }
}

fn ended(code: i32) -> State {
    let (reason, message) = (String::new(), String::new());
    State::Exited { started_at: Some(at(1)), finished_at: at(5), exit_code: code, reason, message }
}

fn runtime(containers: Vec<Record>) -> PodRecord {
    let sandbox = Sandbox { id: "sb".into(), attempt: 0, ready: true, created_at: at(0), ips: vec!["10.42.0.2".into()] };
    PodRecord { sandboxes: vec![sandbox], containers }
}

fn status(pod: &Pod, runtime: &PodRecord, memory: &Memory, ending: bool) -> PodStatus {
    generate(&Input {
        pod,
        runtime,
        memory,
        runtime_name: "knarr",
        host_ips: &["192.0.2.1".to_owned()],
        now: at(10),
        ending,
        failed: None,
    })
}

fn condition(status: &PodStatus, kind: &str) -> String {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
    let parts = [Some(c.status.clone()), c.reason.clone(), c.message.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_running_pod_is_ready() {
    let p = pod(json!({"containers": [{"name": "a", "image": "i:1"}]}));
    let s = status(&p, &runtime(vec![record("a", "1", 0, up())]), &Memory::default(), false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    assert_eq!(c.container_id.as_deref(), Some("knarr://1"));
    assert_eq!((c.ready, c.started, c.restart_count), (true, Some(true), 0));
    assert_eq!(s.phase.as_deref(), Some("Running"));
    assert_eq!(s.pod_ip.as_deref(), Some("10.42.0.2"));
    assert_eq!((s.observed_generation, s.qos_class.as_deref()), (Some(2), Some("BestEffort")));
    let kinds: Vec<_> = s.conditions.iter().flatten().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    let all = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    assert_eq!(kinds, all.map(|k| (k, "True")));
}

#[test]
fn a_new_pod_is_pending_and_says_what_it_waits_for() {
    let p = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}));
    let s = status(&p, &PodRecord::default(), &Memory::default(), false);
    let waiting = |s: &ContainerStatus| s.state.clone().unwrap().waiting.unwrap().reason.unwrap();
    assert_eq!(waiting(&s.container_statuses.as_ref().unwrap()[0]), "PodInitializing");
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&s, "Initialized"), "False ContainersNotInitialized containers with incomplete status: [i]");
    assert_eq!(condition(&s, "Ready"), "False ContainersNotReady containers with unready status: [a b]");
}

#[test]
fn a_crash_loop_waits_and_remembers() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = Memory::default();
    memory.container_mut("a").crash.next(at(4), at(4), LONGEST);
    memory.container_mut("a").waiting_until = Some(at(15));
    let s = status(&p, &runtime(vec![record("a", "2", 1, ended(3)), record("a", "1", 0, ended(2))]), &memory, false);
    let c = &s.container_statuses.as_ref().unwrap()[0];
    let waiting = c.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 10s restarting failed container=a pod=p_n(u)"));
    let last = c.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref(), c.restart_count), (3, Some("Error"), 1));
    assert_eq!(s.phase.as_deref(), Some("Running"));
}

#[test]
fn failed_starts_are_named() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = Memory::default();
    memory.container_mut("a").failure = Some(crate::pod::memory::StartFailure {
        reason: "ErrImagePull".into(),
        message: "no such image".into(),
        at: at(9),
        retry_at: at(19),
    });
    let s = status(&p, &runtime(vec![]), &memory, false);
    let state = s.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    assert_eq!(state, waiting("ErrImagePull", "no such image"));
    assert_eq!(s.phase.as_deref(), Some("Pending"));
}

#[test]
fn a_failed_start_is_told_before_the_pause_that_follows() {
    let p = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = Memory::default();
    let a = memory.container_mut("a");
    a.crash.next(at(4), at(4), LONGEST);
    a.crash.next(at(5), at(5), LONGEST);
    a.waiting_until = Some(at(25));
    let reason = |retry_at| {
        let (reason, message) = ("RunContainerError".to_owned(), "no such command".to_owned());
        let mut memory = memory.clone();
        memory.container_mut("a").failure = Some(crate::pod::memory::StartFailure { reason, message, at: at(5), retry_at });
        let s = status(&p, &runtime(vec![record("a", "1", 0, ended(128))]), &memory, false);
        s.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap().reason.unwrap()
    };
    // These tests look at the pod at 10 s.
    assert_eq!([at(15), at(10)].map(reason), ["RunContainerError", "CrashLoopBackOff"]);
}

#[test]
fn phases() {
    let phase = |policy: &str, states: Vec<State>, ending: bool| {
        let names = ["a", "b"];
        let containers: Vec<_> = names.iter().take(states.len()).map(|n| json!({"name": n})).collect();
        let p = pod(json!({"restartPolicy": policy, "containers": containers}));
        let records = names.iter().zip(states).map(|(n, s)| record(n, n, 0, s)).collect();
        status(&p, &runtime(records), &Memory::default(), ending).phase.unwrap()
    };
    assert_eq!(phase("Never", vec![ended(0)], true), "Succeeded");
    assert_eq!(phase("Never", vec![ended(0), ended(1)], true), "Failed");
    assert_eq!(phase("Never", vec![ended(1), up()], false), "Running");
    assert_eq!(phase("Always", vec![ended(0)], false), "Running");
    assert_eq!(phase("OnFailure", vec![ended(1)], false), "Running");
    assert_eq!(phase("Always", vec![ended(137)], true), "Failed");
    assert_eq!(phase("Always", vec![up(), State::Created], false), "Pending");
}

#[test]
fn readiness_gates_and_transition_times() {
    let mut p = pod(json!({"readinessGates": [{"conditionType": "g/x"}], "containers": [{"name": "a"}]}));
    let running = runtime(vec![record("a", "1", 0, up())]);
    let first = status(&p, &running, &Memory::default(), false);
    assert_eq!(
        condition(&first, "Ready"),
        "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"g/x\" does not exist."
    );
    let mut said = first;
    said.conditions.as_mut().unwrap().push(PodCondition {
        type_: "g/x".into(),
        status: "True".into(),
        ..Default::default()
    });
    for c in said.conditions.as_mut().unwrap() {
        c.last_transition_time = time(at(3));
    }
    p.status = Some(said);
    let second = status(&p, &running, &Memory::default(), false);
    let times: Vec<_> = second
        .conditions
        .unwrap()
        .into_iter()
        .map(|c| (c.type_, c.last_transition_time.unwrap().0.as_second() - 1_000_000))
        .collect();
    let expected = [
        ("PodReadyToStartContainers", 3),
        ("Initialized", 3),
        ("Ready", 10),
        ("ContainersReady", 3),
        ("PodScheduled", 3),
        ("g/x", 3),
    ];
    assert_eq!(times, expected.map(|(k, t)| (k.to_owned(), t)));
}

#[test]
fn probes_decide_readiness() {
    let p = pod(json!({"containers": [{"name": "a", "readinessProbe": {}, "startupProbe": {}}]}));
    let running = runtime(vec![record("a", "1", 0, up())]);
    let mut memory = Memory::default();
    let verdict = |memory: &Memory| {
        let c = status(&p, &running, memory, false).container_statuses.unwrap().remove(0);
        (c.started, c.ready)
    };
    assert_eq!(verdict(&memory), (Some(false), false));
    memory.container_mut("a").probed = Some("1".into());
    memory.container_mut("a").probes.startup = Some(true);
    assert_eq!(verdict(&memory), (Some(true), false));
    memory.container_mut("a").probes.readiness = Some(true);
    assert_eq!(verdict(&memory), (Some(true), true));
}

#[test]
fn a_container_is_not_said_to_run_before_its_hook_has_done_its_part() {
    let hook = json!({"postStart": {"exec": {"command": ["true"]}}});
    let p = pod(json!({"containers": [{"name": "a", "image": "i:1", "lifecycle": hook}, {"name": "b", "image": "i:1"}]}));
    let shown = |memory: &Memory| {
        let s = status(&p, &runtime(vec![record("a", "1", 0, up()), record("b", "2", 0, up())]), memory, false);
        let state = |c: &ContainerStatus| match c.state.clone().unwrap() {
            ContainerState { running: Some(_), .. } => "runs".to_owned(),
            state => state.waiting.unwrap().reason.unwrap(),
        };
        let phase = s.phase.unwrap();
        let each = |c: &ContainerStatus| (c.ready, c.started, state(c), phase.clone());
        s.container_statuses.iter().flatten().map(each).collect::<Vec<_>>()
    };
    let told = |ready: bool, state: &str, phase: &str| (ready, Some(ready), state.to_owned(), phase.to_owned());
    let pending = [told(false, "ContainerCreating", "Pending"), told(true, "runs", "Pending")];
    let runs = [told(true, "runs", "Running"), told(true, "runs", "Running")];
    let mut memory = Memory { starting: Some("a".into()), ..Memory::default() };
    assert_eq!(shown(&memory), pending, "its start is under way");
    memory.starting = Some("b".into());
    assert_eq!(shown(&memory), runs, "it has no hook");
    memory.starting = Some("a".into());
    memory.container_mut("a").post_start_pending = true;
    assert_eq!(shown(&memory), pending, "the hook runs");
    assert_eq!(shown(&Memory::default()), runs);
}

#[test]
fn a_pod_that_ends_before_its_containers_began_has_failed() {
    let told = |inits: Vec<(&str, State)>, mains: Vec<(&str, State)>| {
        let names = |list: &[(&str, State)]| -> Vec<Value> { list.iter().map(|(n, _)| json!({"name": n})).collect() };
        let mut spec = json!({"initContainers": names(&inits), "containers": names(&mains)});
        spec["containers"].as_array_mut().unwrap().push(json!({"name": "never-made"}));
        let p = pod(spec);
        let records = inits.into_iter().chain(mains).map(|(n, s)| record(n, n, 0, s)).collect();
        let mut s = status(&p, &runtime(records), &Memory::default(), true);
        finish(&p, &mut s);
        let code = |s: &ContainerStatus| s.state.as_ref().unwrap().terminated.as_ref().map(|t| t.exit_code);
        let codes = |list: &Option<Vec<ContainerStatus>>| list.iter().flatten().map(code).collect::<Vec<_>>();
        (s.phase.unwrap(), codes(&s.init_container_statuses), codes(&s.container_statuses))
    };
    let failed = || "Failed".to_owned();
    assert_eq!(told(vec![], vec![("a", State::Created)]), (failed(), vec![], vec![Some(137); 2]));
    assert_eq!(told(vec![], vec![("a", ended(0))]), (failed(), vec![], vec![Some(0), Some(137)]));
    // What waited for init containers that never ended well was never lost.
    let waited = told(vec![("i", State::Created), ("j", State::Created)], vec![]);
    assert_eq!(waited, (failed(), vec![Some(137), None], vec![None]));
    assert_eq!(told(vec![("i", ended(0))], vec![]), (failed(), vec![Some(0)], vec![Some(137)]));
}
