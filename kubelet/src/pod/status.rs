//! The pod's status as this node sees it: a pure function of spec, runtime state, memory and the status before.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
        ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements,
        VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    memory::Memory,
    record::{PodRecord, Record, State},
    resources,
    spec::{self, Member, Role},
};

/// Everything the status depends on.
pub struct Input<'a> {
    /// The pod with the status that the API has.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub runtime: &'a PodRecord,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// `containerd`, `knarr`: the scheme of container ids.
    pub runtime_name: &'a str,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// Now.
    pub now: Timestamp,
    /// The pod is being stopped or has stopped; nothing starts again.
    pub ending: bool,
    /// Why the pod ended before its containers did (`DeadlineExceeded`, `OutOfcpu`): reason and message of phase Failed.
    pub failed: Option<(&'a str, &'a str)>,
}

/// Computes the whole status.
pub fn generate(i: &Input) -> PodStatus {
    let old = i.pod.status.clone().unwrap_or_default();
    let members = spec::members(i.pod);
    let of = |roles: &[Role]| -> Vec<ContainerStatus> {
        members.iter().filter(|m| roles.contains(&m.role)).map(|m| container(i, m, &old)).collect()
    };
    let (mut mains, mut inits) = (of(&[Role::Main]), of(&[Role::Init, Role::Sidecar]));
    let ephemerals = of(&[Role::Ephemeral]);
    let phase = phase(i, &members, &mains, &inits, &old);
    if spec::is_terminal(Some(&phase)) {
        for status in mains.iter_mut().chain(&mut inits).filter(|s| !is_done(s)) {
            (status.ready, status.started) = (false, Some(false));
        }
    }
    let (reason, message) = match i.failed {
        Some((reason, message)) => (Some(reason.to_owned()), Some(message.to_owned())),
        None => (old.reason.clone(), old.message.clone()),
    };
    let ips = pod_ips(i, &old);
    let conditions = conditions(i, &members, &phase, &mains, &inits, &old);
    PodStatus {
        conditions: Some(conditions),
        container_statuses: Some(mains),
        ephemeral_container_statuses: (!ephemerals.is_empty()).then_some(ephemerals),
        host_ip: i.host_ips.first().cloned(),
        host_ips: Some(i.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        message,
        observed_generation: i.pod.metadata.generation,
        phase: Some(phase),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        qos_class: old.qos_class.clone().or_else(|| Some(resources::qos(i.pod).as_str().to_owned())),
        reason,
        start_time: old.start_time.clone().or(Some(Time(whole_second(i.now)))),
        ..old
    }
}

/// API timestamps have whole seconds.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn time(at: Timestamp) -> Option<Time> {
    Some(Time(whole_second(at)))
}

fn pod_ips(i: &Input, old: &PodStatus) -> Vec<String> {
    if spec::host_network(i.pod) {
        return i.host_ips.to_vec();
    }
    match i.runtime.ready_sandbox() {
        Some(sandbox) => sandbox.ips.clone(),
        None => old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect(),
    }
}

fn is_done(status: &ContainerStatus) -> bool {
    status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(spec::succeeded)
}

/// The state of one record, and what it says about why.
fn state_of(i: &Input, record: &Record) -> ContainerState {
    match &record.state {
        State::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(*started_at) }),
            ..ContainerState::default()
        },
        State::Exited { started_at, finished_at, exit_code, reason, message } => ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(container_id(i, &record.id)),
                exit_code: *exit_code,
                finished_at: time(*finished_at),
                message: (!message.is_empty()).then(|| message.clone()),
                reason: Some(match reason.is_empty() {
                    false => reason.clone(),
                    true if *exit_code == 0 => "Completed".to_owned(),
                    true => "Error".to_owned(),
                }),
                signal: None,
                started_at: started_at.and_then(time).or(time(Timestamp::UNIX_EPOCH)),
            }),
            ..ContainerState::default()
        },
        State::Created => waiting("ContainerCreating", ""),
        State::Unknown => ContainerState {
            terminated: Some(lost("The container could not be located when the pod was terminated")),
            ..ContainerState::default()
        },
    }
}

fn lost(message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        message: Some(message.to_owned()),
        reason: Some("ContainerStatusUnknown".to_owned()),
        ..ContainerStateTerminated::default()
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..ContainerState::default()
    }
}

fn container_id(i: &Input, id: &str) -> String {
    format!("{}://{id}", i.runtime_name)
}

fn old_status<'a>(old: &'a PodStatus, m: &Member) -> Option<&'a ContainerStatus> {
    let list = match m.role {
        Role::Main => &old.container_statuses,
        Role::Init | Role::Sidecar => &old.init_container_statuses,
        Role::Ephemeral => &old.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|s| s.name == m.container.name)
}

/// The status of one container.
fn container(i: &Input, m: &Member, old: &PodStatus) -> ContainerStatus {
    let name = &m.container.name;
    let before = old_status(old, m);
    let mut status = match i.runtime.latest(name) {
        Some(record) => known(i, m, record, before),
        None => unknown(i, m, before),
    };
    blame(i, m, &mut status);
    let id = i.runtime.latest(name).map(|r| r.id.as_str()).unwrap_or_default();
    let probes = i.memory.probes(name, id);
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let started = running && !is_hooked(i, m) && (m.container.startup_probe.is_none() || probes.startup == Some(true));
    status.started = match m.role {
        Role::Ephemeral => None,
        _ => Some(started),
    };
    status.ready = match m.role {
        Role::Init => is_done(&status),
        Role::Ephemeral => false,
        _ => started && (m.container.readiness_probe.is_none() || probes.readiness == Some(true)),
    };
    if m.role != Role::Ephemeral {
        status.allocated_resources = m.container.resources.as_ref().and_then(|r| r.requests.clone());
        status.resources = m.container.resources.as_ref().map(|r| ResourceRequirements { claims: None, ..r.clone() });
    }
    status.volume_mounts = m.container.volume_mounts.as_ref().filter(|v| !v.is_empty()).map(|mounts| {
        mounts
            .iter()
            .map(|v| VolumeMountStatus {
                mount_path: v.mount_path.clone(),
                name: v.name.clone(),
                read_only: v.read_only.filter(|r| *r),
                recursive_read_only: v
                    .read_only
                    .filter(|r| *r)
                    .map(|_| v.recursive_read_only.clone().filter(|r| r == "Enabled").unwrap_or("Disabled".to_owned())),
            })
            .collect()
    });
    status
}

/// Whether a container's postStart hook has not done its part.
fn is_hooked(i: &Input, m: &Member) -> bool {
    let name = &m.container.name;
    // The runtime may show the container before we know that its hook is next.
    let hook = m.container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
    i.memory.container(name).post_start_pending || (hook && i.memory.starting.as_ref() == Some(name))
}

fn known(i: &Input, m: &Member, record: &Record, before: Option<&ContainerStatus>) -> ContainerStatus {
    let last = i.runtime.previous(&m.container.name, &record.id).map(|p| state_of(i, p)).or_else(|| {
        // The runtime has let go of the previous instance; what was said of it stays.
        before.filter(|b| b.restart_count > 0).and_then(|b| {
            let ended = b.state.as_ref().and_then(|s| s.terminated.as_ref());
            let same = b.container_id.as_deref() == Some(&container_id(i, &record.id));
            match ended.filter(|_| !same) {
                Some(ended) => Some(ContainerState { terminated: Some(ended.clone()), ..Default::default() }),
                None => b.last_state.clone(),
            }
        })
    });
    // One whose hook runs, or has failed, is not said to run.
    let hooked = || matches!(record.state, State::Running { .. }) && !i.ending && is_hooked(i, m);
    let created = record.state == State::Created || hooked();
    ContainerStatus {
        container_id: (!created).then(|| container_id(i, &record.id)),
        image: record.image.clone(),
        image_id: if created { String::new() } else { record.image_id.clone() },
        last_state: Some(last.unwrap_or_default()),
        name: record.name.clone(),
        restart_count: record.restart_count,
        state: Some(match created {
            true => waiting(default_reason(m, i), ""),
            false => state_of(i, record),
        }),
        user: record.user.as_ref().map(|u| ContainerUser {
            linux: Some(LinuxContainerUser { uid: u.uid, gid: u.gid, supplemental_groups: Some(u.groups.clone()) }),
        }),
        ..ContainerStatus::default()
    }
}

fn default_reason(m: &Member, i: &Input) -> &'static str {
    let has_inits = i.pod.spec.as_ref().is_some_and(|s| s.init_containers.as_ref().is_some_and(|c| !c.is_empty()));
    if has_inits && m.role != Role::Ephemeral { "PodInitializing" } else { "ContainerCreating" }
}

/// What is said of a pod of which nothing lives any more and nothing will: containers that did not get as far as an end of
/// their own have been lost, those aside that had to wait for init containers; and the phase is final. Conditions stay.
pub fn finish(pod: &Pod, status: &mut PodStatus) {
    let waits = |s: &ContainerStatus| {
        s.state.as_ref().is_none_or(|s| s.running.is_none() && s.terminated.is_none())
            && s.last_state.as_ref().is_none_or(|s| s.terminated.is_none())
    };
    let (mains, inits) =
        (status.container_statuses.iter_mut().flatten(), status.init_container_statuses.iter_mut().flatten());
    let (mut mains, mut inits): (Vec<_>, Vec<_>) = (mains.collect(), inits.collect());
    let initialized = inits.last().is_none_or(|s| is_done(s)) || mains.iter().any(|s| !waits(s));
    // As upstream, the first init container counts as tried.
    let tried = inits.iter().rposition(|s| !waits(s)).map_or(1, |last| last + 1);
    let lose = |s: &mut ContainerStatus| {
        if s.state.as_ref().is_none_or(|s| s.terminated.is_none()) {
            let terminated = lost("The container could not be located when the pod was terminated");
            s.state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        }
    };
    inits.iter_mut().take(tried).for_each(|s| lose(s));
    if initialized {
        mains.iter_mut().for_each(|s| lose(s));
    }
    if !spec::is_terminal(status.phase.as_deref()) && !spec::is_static(pod) {
        status.phase = Some("Failed".to_owned());
    }
}

/// The status of a container that the runtime does not know: never made, or lost.
fn unknown(i: &Input, m: &Member, before: Option<&ContainerStatus>) -> ContainerStatus {
    let fresh = ContainerStatus {
        image: m.container.image.clone().unwrap_or_default(),
        last_state: Some(ContainerState::default()),
        name: m.container.name.clone(),
        state: Some(waiting(default_reason(m, i), "")),
        ..ContainerStatus::default()
    };
    let Some(before) = before else { return fresh };
    let state = before.state.clone().unwrap_or_default();
    if state.terminated.is_some() {
        return ContainerStatus { ready: false, ..before.clone() };
    }
    if state.running.is_some() {
        let state = |message| ContainerState { terminated: Some(lost(message)), ..Default::default() };
        return match i.ending {
            true => ContainerStatus {
                state: Some(state("The container could not be located when the pod was terminated")),
                ..before.clone()
            },
            false => ContainerStatus {
                last_state: Some(state(
                    "The container could not be located when the pod was deleted.  The container used to be Running",
                )),
                restart_count: before.restart_count + 1,
                ..fresh
            },
        };
    }
    ContainerStatus {
        last_state: before.last_state.clone().or(fresh.last_state.clone()),
        restart_count: before.restart_count,
        ..fresh
    }
}

/// Turns "ended, will start again" and "could not start" into the waiting states that people know.
fn blame(i: &Input, m: &Member, status: &mut ContainerStatus) {
    if i.ending {
        return;
    }
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return;
    }
    if let Some(ended) = &state.terminated
        && !spec::restarts(i.pod, &m.container, m.role, ended.exit_code)
    {
        return;
    }
    let memory = i.memory.container(&m.container.name);
    // While a pause between restarts lasts, that is what it waits for, once the last try has been told of.
    let failure = memory.failure.as_ref().filter(|failure| memory.waiting_until.is_none() || i.now < failure.retry_at);
    let reason = match (failure, memory.waiting_until) {
        (Some(failure), _) => waiting(&failure.reason, &failure.message),
        (None, Some(_)) => {
            let ended = i.runtime.latest(&m.container.name).and_then(|r| match r.state {
                State::Exited { finished_at, .. } => memory.crash.wait(finished_at, i.now),
                _ => None,
            });
            let Some((_, pause)) = ended else { return };
            let pause = super::backoff::go_duration(pause);
            let (name, pod) = (&m.container.name, spec::full_name(i.pod));
            waiting("CrashLoopBackOff", &format!("back-off {pause} restarting failed container={name} pod={pod}"))
        }
        (None, None) => return,
    };
    if state.terminated.is_some() {
        status.last_state = Some(state);
    }
    status.state = Some(reason);
}

fn phase(i: &Input, members: &[Member], mains: &[ContainerStatus], inits: &[ContainerStatus], old: &PodStatus) -> String {
    if spec::is_terminal(old.phase.as_deref()) {
        return old.phase.clone().unwrap_or_default();
    }
    if i.failed.is_some() {
        return "Failed".to_owned();
    }
    decide_phase(i, members, mains, inits).to_owned()
}

fn decide_phase(i: &Input, members: &[Member], mains: &[ContainerStatus], inits: &[ContainerStatus]) -> &'static str {
    let find = |name: &str| members.iter().find(|m| m.container.name == name);
    let ended = |s: &ContainerStatus| {
        let state = |s: &Option<ContainerState>| s.as_ref().and_then(|s| s.terminated.clone());
        match s.state.as_ref() {
            Some(now) if now.terminated.is_some() => now.terminated.clone(),
            Some(now) if now.running.is_some() => None,
            _ => state(&s.last_state),
        }
    };
    let restarts = |s: &ContainerStatus| {
        let ended = ended(s);
        find(&s.name).zip(ended).is_some_and(|(m, e)| spec::restarts(i.pod, &m.container, m.role, e.exit_code))
    };
    let runs = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
    let begun = mains.iter().any(|s| runs(s) || ended(s).is_some());
    for s in inits {
        let sidecar = find(&s.name).is_some_and(|m| m.role == Role::Sidecar);
        let failed = !sidecar && !is_done(s) && ended(s).is_some_and(|e| e.exit_code != 0) && !restarts(s);
        if failed {
            return "Failed";
        }
        let pending = if sidecar { s.started != Some(true) } else { !is_done(s) };
        if pending && !begun && !i.ending {
            return "Pending";
        }
    }
    let count = |test: &dyn Fn(&ContainerStatus) -> bool| mains.iter().filter(|s| test(s)).count();
    let running = count(&runs);
    let stopped = count(&|s| ended(s).is_some());
    let waiting = mains.len() - running - stopped;
    if waiting > 0 && !(i.ending && begun) {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if stopped == 0 {
        return if i.ending && begun { "Failed" } else { "Pending" };
    }
    let all_well = mains.iter().all(|s| ended(s).is_some_and(|e| e.exit_code == 0));
    if i.ending {
        // Sidecars may still be on their way out: the pod is over once they are, too.
        let rest = inits.iter().any(runs);
        return match (rest, all_well) {
            (true, _) => "Running",
            (false, true) => "Succeeded",
            (false, false) => "Failed",
        };
    }
    match mains.iter().any(restarts) {
        true => "Running",
        false if inits.iter().any(runs) => "Running",
        false if all_well => "Succeeded",
        false => "Failed",
    }
}

fn conditions(
    i: &Input,
    members: &[Member],
    phase: &str,
    mains: &[ContainerStatus],
    inits: &[ContainerStatus],
    old: &PodStatus,
) -> Vec<PodCondition> {
    let sidecar = |name: &str| members.iter().any(|m| m.container.name == name && m.role == Role::Sidecar);
    let sandbox = i.runtime.ready_sandbox().is_some_and(|s| !s.ips.is_empty() || spec::host_network(i.pod));
    let containers = containers_ready(phase, mains, inits.iter().filter(|s| sidecar(&s.name)));
    let ready = match &containers {
        Verdict { status: true, .. } => gates(i.pod, old),
        other => other.clone(),
    };
    let verdicts = [
        ("PodReadyToStartContainers", Verdict { status: sandbox, ..Verdict::default() }),
        ("Initialized", initialized(phase, mains, inits, &sidecar)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict { status: true, ..Verdict::default() }),
    ];
    let olds: Vec<PodCondition> = old.conditions.clone().unwrap_or_default();
    let mut all: Vec<PodCondition> = verdicts
        .iter()
        .map(|(kind, verdict)| {
            let status = if verdict.status { "True" } else { "False" };
            let before = olds.iter().find(|c| c.type_ == *kind);
            let kept = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
            PodCondition {
                last_probe_time: None,
                last_transition_time: kept.or(time(i.now)),
                message: verdict.message.clone(),
                observed_generation: i.pod.metadata.generation,
                reason: verdict.reason.map(str::to_owned),
                status: status.to_owned(),
                type_: (*kind).to_owned(),
            }
        })
        .collect();
    all.extend(olds.into_iter().filter(|c| !verdicts.iter().any(|(kind, _)| *kind == c.type_)));
    all
}

/// A condition before it becomes one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { status: false, reason: Some(reason), message }
    }

    fn yes() -> Self {
        Self { status: true, ..Self::default() }
    }
}

/// `[a b]`, as Go prints a slice.
fn go_list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready<'a>(
    phase: &str,
    mains: &'a [ContainerStatus],
    sidecars: impl Iterator<Item = &'a ContainerStatus>,
) -> Verdict {
    match phase {
        "Succeeded" => return Verdict::no("PodCompleted", None),
        "Failed" => return Verdict::no("PodFailed", None),
        _ => {}
    }
    let unready: Vec<&str> = sidecars.chain(mains).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    match unready.is_empty() {
        true => Verdict::yes(),
        false => Verdict::no("ContainersNotReady", Some(format!("containers with unready status: {}", go_list(&unready)))),
    }
}

fn initialized(
    phase: &str,
    mains: &[ContainerStatus],
    inits: &[ContainerStatus],
    sidecar: &dyn Fn(&str) -> bool,
) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::yes() };
    }
    let begun = |s: &ContainerStatus| {
        let some = |s: &Option<ContainerState>| s.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        some(&s.state) || some(&s.last_state)
    };
    if mains.iter().any(begun) {
        return Verdict::yes();
    }
    let open: Vec<&str> = inits
        .iter()
        .filter(|s| if sidecar(&s.name) { s.started != Some(true) } else { !is_done(s) })
        .map(|s| s.name.as_str())
        .collect();
    match open.is_empty() {
        true => Verdict::yes(),
        false => {
            Verdict::no("ContainersNotInitialized", Some(format!("containers with incomplete status: {}", go_list(&open))))
        }
    }
}

fn gates(pod: &Pod, old: &PodStatus) -> Verdict {
    let mut missing = Vec::new();
    for gate in pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()) {
        let kind = &gate.condition_type;
        match old.conditions.iter().flatten().find(|c| c.type_ == *kind) {
            None => missing.push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(c) if c.status != "True" => {
                missing.push(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {}", c.status))
            }
            Some(_) => {}
        }
    }
    match missing.is_empty() {
        true => Verdict::yes(),
        false => Verdict::no("ReadinessGatesNotReady", Some(missing.join(", "))),
    }
}

/// The status of a pod that the node turns away.
pub fn rejected(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(format!("Pod was rejected: {message}")),
        observed_generation: pod.metadata.generation,
        qos_class: old.qos_class.clone().or_else(|| Some(resources::qos(pod).as_str().to_owned())),
        start_time: old.start_time.clone().or(time(now)),
        ..old
    }
}

/// Says that a pod ends for its node's sake.
pub fn disrupt(status: &mut PodStatus, message: &str, now: Timestamp) {
    let generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.message.as_deref() == Some(message)) {
        return;
    }
    conditions.retain(|c| c.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        last_transition_time: time(now),
        message: Some(message.to_owned()),
        observed_generation: generation,
        reason: Some("TerminationByKubelet".to_owned()),
        status: "True".to_owned(),
        type_: "DisruptionTarget".to_owned(),
        ..PodCondition::default()
    });
}

#[cfg(test)]
mod tests;
