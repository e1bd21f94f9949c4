//! The loop: takes what informers tell, decides, assumes, hands binding to tasks.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use client::{Change, Informer, Informers, Key, Options, Recorder};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, Service};
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    cycle::{self, Unfit},
    framework::{Events, Plugin},
    metrics::Metrics,
    plugins,
    pod::PodInfo,
    preemption::{self, Victims},
    queue::{Queue, Waiting},
    resources::{Amount, Resources},
    snapshot::Snapshot,
};

/// Bindings under way at once.
const BINDINGS: usize = 128;

/// What is told of a pod at which the scheduler panicked.
const PANICKED: &str = "the scheduler panicked at this pod (see its log) and will try again";

/// What the loop is told.
enum Input {
    Pod {
        old: Option<Arc<Pod>>,
        new: Arc<Pod>,
    },
    PodGone(Arc<Pod>),
    Node {
        old: Option<Arc<Node>>,
        new: Arc<Node>,
    },
    NodeGone(Arc<Node>),
    Namespace(Arc<Namespace>),
    NamespaceGone(Arc<Namespace>),
    Service(Arc<Service>),
    ServiceGone(Arc<Service>),
    /// A binding ended.
    Bound {
        pod: Arc<PodInfo>,
        node: String,
        error: Option<kube::Error>,
        /// Which try it was, and when it began.
        attempt: (u32, Instant),
    },
    /// A pod is still there that was to make room for the one with this UID.
    Spared(String),
}

pub async fn run(config: &Config, client: Client, recorder: Recorder, shutdown: CancellationToken) {
    let informers = Informers::new(client.clone(), shutdown.clone());
    let (inputs, mut received) = mpsc::unbounded_channel();
    let live = Options::<Pod>::fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods: Informer<Pod> = informers.get_with(&(), live);
    let nodes: Informer<Node> = informers.get();
    let namespaces: Informer<Namespace> = informers.get();
    let services: Informer<Service> = informers.get();
    // Nodes before pods: the first decision should know all of them.
    tokio::select! {
        () = shutdown.cancelled() => return,
        _ = async { tokio::join!(pods.synced(), nodes.synced(), namespaces.synced(), services.synced()) } => {}
    }
    let tell = inputs.clone();
    namespaces.on_change(move |change| {
        let _ = tell.send(match change {
            Change::Added(n) | Change::Updated(_, n) => Input::Namespace(n.clone()),
            Change::Deleted(n) => Input::NamespaceGone(n.clone()),
        });
    });
    let tell = inputs.clone();
    services.on_change(move |change| {
        let _ = tell.send(match change {
            Change::Added(s) | Change::Updated(_, s) => Input::Service(s.clone()),
            Change::Deleted(s) => Input::ServiceGone(s.clone()),
        });
    });
    let tell = inputs.clone();
    nodes.on_change(move |change| {
        let _ = tell.send(match change {
            Change::Added(new) => Input::Node { old: None, new: new.clone() },
            Change::Updated(old, new) => Input::Node { old: Some(old.clone()), new: new.clone() },
            Change::Deleted(n) => Input::NodeGone(n.clone()),
        });
    });
    let tell = inputs.clone();
    pods.on_change(move |change| {
        let _ = tell.send(match change {
            Change::Added(new) => Input::Pod { old: None, new: new.clone() },
            Change::Updated(old, new) => Input::Pod { old: Some(old.clone()), new: new.clone() },
            Change::Deleted(pod) => Input::PodGone(pod.clone()),
        });
    });
    let mut scheduler = Scheduler {
        name: config.scheduler_name.clone(),
        client,
        recorder,
        inputs,
        plugins: plugins::default_plugins(),
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        start: 0,
        bindings: Arc::new(Semaphore::new(BINDINGS)),
    };
    let mut batch = Vec::new();
    loop {
        let retry = scheduler.queue.next_retry();
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = received.recv_many(&mut batch, 1024) => {}
            () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
        }
        loop {
            for input in batch.drain(..) {
                scheduler.take(input);
            }
            let Some(waiting) = scheduler.queue.pop(Instant::now()) else { break };
            scheduler.schedule(&waiting);
            while let Ok(input) = received.try_recv() {
                batch.push(input);
            }
            // Decisions of a long queue must not starve the tasks that bind.
            tokio::task::yield_now().await;
        }
        Metrics::global().sizes(scheduler.queue.lengths(), scheduler.snapshot.len(), scheduler.snapshot.pods());
    }
}

struct Scheduler {
    name: String,
    client: Client,
    recorder: Recorder,
    inputs: mpsc::UnboundedSender<Input>,
    plugins: Vec<Box<dyn Plugin>>,
    snapshot: Snapshot,
    queue: Queue,
    start: usize,
    bindings: Arc<Semaphore>,
}

impl Scheduler {
    fn take(&mut self, input: Input) {
        let now = Instant::now();
        let events = match input {
            Input::Pod { old, new } => self.pod(old.as_deref(), &new, now),
            Input::PodGone(pod) => self.pod_gone(&pod),
            Input::Node { old, new } => {
                self.snapshot.set_node(&new);
                node_events(old.as_deref(), &new)
            }
            Input::NodeGone(node) => {
                self.snapshot.remove_node(&Key::of(&node.metadata).name);
                Events::NONE
            }
            Input::Namespace(namespace) => {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                let before = self.snapshot.namespaces.insert(Key::of(&namespace.metadata).name.to_string(), labels.clone());
                if before == Some(labels) { Events::NONE } else { Events::NAMESPACE_LABELS }
            }
            Input::NamespaceGone(namespace) => {
                self.snapshot.namespaces.remove(&*Key::of(&namespace.metadata).name);
                Events::NONE
            }
            Input::Service(service) => {
                let key = Key::of(&service.metadata);
                let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
                self.snapshot.services.entry(key.namespace.to_string()).or_default().insert(key.name.to_string(), selector);
                Events::NONE
            }
            Input::ServiceGone(service) => {
                let key = Key::of(&service.metadata);
                if let Some(others) = self.snapshot.services.get_mut(&*key.namespace) {
                    others.remove(&*key.name);
                    if others.is_empty() {
                        self.snapshot.services.remove(&*key.namespace);
                    }
                }
                Events::NONE
            }
            Input::Bound { pod, node, error, attempt } => self.bound(&pod, &node, error, attempt),
            Input::Spared(uid) => {
                self.queue.retry(&uid, now);
                Events::NONE
            }
        };
        self.queue.wake(events, now);
    }

    fn pod(&mut self, old: Option<&Pod>, new: &Arc<Pod>, now: Instant) -> Events {
        let uid = new.metadata.uid.clone().unwrap_or_default();
        let spec = new.spec.as_ref();
        if spec.is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty())) {
            return self.bound_pod(old, new);
        }
        let ours = spec.is_some_and(|s| s.scheduler_name.as_deref().unwrap_or("default-scheduler") == self.name);
        let gated = spec.is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()));
        if !ours || new.metadata.deletion_timestamp.is_some() {
            self.queue.remove(&uid);
            return self.forget_nomination(&uid);
        }
        if gated {
            self.queue.gate(&uid);
            return Events::NONE;
        }
        if self.snapshot.place(&uid).is_some() {
            // Assumed: the binding is on its way, this news is older.
            return Events::NONE;
        }
        let pod = Arc::new(PodInfo::new(new.clone()));
        let events = match (old.and_then(nominated), nominated(new)) {
            (_, Some(node)) => {
                self.snapshot.nominate(&pod, node);
                Events::NONE
            }
            (Some(_), None) => self.forget_nomination(&uid),
            // A nomination that is being written is not taken back by what was written before.
            (None, None) => Events::NONE,
        };
        let same_spec = old.is_some_and(|o| o.spec == new.spec && o.metadata.labels == new.metadata.labels);
        if same_spec && self.queue.get(&uid).is_some() {
            self.queue.refresh(pod);
        } else {
            self.queue.add(pod, now);
        }
        events
    }

    /// The room that was kept for a pod is anybody's.
    fn forget_nomination(&mut self, uid: &str) -> Events {
        if self.snapshot.forget_nomination(uid) { Events::POD_DELETED } else { Events::NONE }
    }

    fn bound_pod(&mut self, old: Option<&Pod>, new: &Arc<Pod>) -> Events {
        let uid = new.metadata.uid.clone().unwrap_or_default();
        let was_bound = old.is_some_and(|o| o.spec.as_ref().is_some_and(|s| s.node_name.is_some()));
        let unchanged = old.is_some_and(|o| {
            o.spec == new.spec
                && o.metadata.labels == new.metadata.labels
                && o.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        });
        let pod = || Arc::new(PodInfo::new(new.clone()));
        let finished = matches!(new.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        if was_bound && unchanged && !finished {
            return Events::NONE;
        }
        self.queue.remove(&uid);
        let pod = pod();
        let freed = self.forget_nomination(&uid);
        if finished {
            self.snapshot.remove_pod(&uid);
            return Events::POD_DELETED;
        }
        let before = self.snapshot.remove_pod(&uid);
        let node = pod.node_name().unwrap_or_default().to_owned();
        self.snapshot.add_pod(&pod, &node);
        let events = match before.filter(|_| was_bound) {
            None => Events::POD_BOUND,
            Some(before) => {
                let relabelled = before.pod.metadata.labels != pod.pod.metadata.labels;
                let shrank = shrank(&before.requests, &pod.requests);
                let events = if relabelled { Events::POD_LABELS } else { Events::NONE };
                if shrank { events.and(Events::POD_SHRANK) } else { events }
            }
        };
        events.and(freed)
    }

    fn pod_gone(&mut self, pod: &Pod) -> Events {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.queue.remove(uid);
        let freed = self.forget_nomination(uid);
        if self.snapshot.remove_pod(uid).is_some() { Events::POD_DELETED } else { freed }
    }

    fn schedule(&mut self, waiting: &Waiting) {
        let (pod, begun) = (&waiting.pod, Instant::now());
        // A decision changes nothing by itself: after a panic the others' are as good as before.
        let decision = catch_unwind(AssertUnwindSafe(|| {
            cycle::schedule(&self.plugins, pod, &self.snapshot, self.start, rand_tie(pod, self.start))
        }));
        Metrics::global().decided(begun.elapsed().as_secs_f64());
        let Ok(decision) = decision else {
            Metrics::global().attempted("error", &self.name, begun.elapsed().as_secs_f64());
            self.recorder.warning(&*pod.pod, "FailedScheduling", PANICKED);
            return self.queue.give_back(&pod.uid, Events::NONE, Instant::now());
        };
        match decision {
            Ok(placement) => {
                self.start = placement.next_start;
                self.snapshot.add_pod(pod, &placement.node);
                self.bind(pod.clone(), placement.node, (waiting.attempts, begun));
            }
            Err(unfit) => {
                self.turn_away(pod, &unfit);
                Metrics::global().attempted("unschedulable", &self.name, begun.elapsed().as_secs_f64());
            }
        }
    }

    fn turn_away(&mut self, pod: &Arc<PodInfo>, unfit: &Unfit) {
        let mut nominated = None;
        let preemption = if unfit.nodes == 0 {
            String::new()
        } else {
            Metrics::global().tried_to_preempt();
            match preemption::preempt(&self.plugins, pod, &mut self.snapshot, self.start, unfit) {
                Err(reason) => reason,
                Ok(victims) => {
                    Metrics::global().preempted(victims.pods.len());
                    self.snapshot.nominate(pod, &victims.node);
                    nominated = Some(victims.node.clone());
                    self.evict(pod, victims);
                    String::new()
                }
            }
        };
        let message = unfit.message(&preemption);
        self.recorder.warning(&*pod.pod, "FailedScheduling", message.clone());
        self.tell_status(pod, &message, nominated);
        let wakes_on = unfit.plugins.iter().fold(Events::NONE, |events, at| events.and(self.plugins[*at].wakes_on()));
        // Without any node no plugin was asked: a node must come.
        let wakes_on = if wakes_on.is_empty() { Events::NODE_ADDED } else { wakes_on };
        self.queue.give_back(&pod.uid, wakes_on, Instant::now());
    }

    /// Writes the PodScheduled condition, unless it says so already.
    fn tell_status(&self, pod: &PodInfo, message: &str, nominated: Option<String>) {
        let status = pod.pod.status.as_ref();
        let known = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == "PodScheduled");
        let same = known.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(message));
        if same && nominated.is_none() {
            return;
        }
        let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let since = since.map_or_else(Timestamp::now, |t| t.0);
        let mut patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}});
        if let Some(node) = nominated {
            patch["status"]["nominatedNodeName"] = json!(node);
        }
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.key.namespace);
        let key = pod.key.clone();
        tokio::spawn(async move {
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            if let Err(error) = patched.map(drop)
                && !client::is_not_found(&error)
            {
                tracing::warn!(pod = %key, %error, "writing the PodScheduled condition failed");
            }
        });
    }

    fn bind(&self, pod: Arc<PodInfo>, node: String, attempt: (u32, Instant)) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.key.namespace);
        let (inputs, bindings) = (self.inputs.clone(), self.bindings.clone());
        tokio::spawn(async move {
            let Ok(_permit) = bindings.acquire_owned().await else { return };
            let bound = AssertUnwindSafe(bind(&api, &pod, &node)).catch_unwind().await;
            let error = bound.unwrap_or_else(|_| Err(kube::Error::Service(PANICKED.into()))).err();
            // The loop may have ended.
            let _ = inputs.send(Input::Bound { pod, node, error, attempt });
        });
    }

    fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, error: Option<kube::Error>, attempt: (u32, Instant)) -> Events {
        let (tries, begun) = attempt;
        let result = if error.is_none() { "scheduled" } else { "error" };
        Metrics::global().attempted(result, &self.name, begun.elapsed().as_secs_f64());
        let Some(error) = error else {
            Metrics::global().bound_at(tries);
            let message = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
            self.recorder.normal(&*pod.pod, "Scheduled", message);
            self.queue.remove(&pod.uid);
            return self.forget_nomination(&pod.uid);
        };
        // Unless the informer has said meanwhile that it is bound after all, or gone.
        if !self.snapshot.pod(&pod.uid).is_some_and(|counted| Arc::ptr_eq(counted, pod)) {
            return Events::NONE;
        }
        self.snapshot.remove_pod(&pod.uid);
        if client::is_not_found(&error) {
            self.queue.remove(&pod.uid);
        } else {
            tracing::warn!(pod = %pod.key, node, %error, "binding failed");
            self.recorder.warning(&*pod.pod, "FailedScheduling", format!("binding rejected: {error}"));
            self.queue.give_back(&pod.uid, Events::NONE, Instant::now());
        }
        Events::POD_DELETED
    }

    /// Deletes the victims of a preemption, with the condition that says why.
    fn evict(&self, pod: &PodInfo, victims: Victims) {
        let scheduler = self.name.clone();
        for victim in victims.pods {
            if victim.pod.metadata.deletion_timestamp.is_some() {
                continue;
            }
            self.recorder.normal(
                &*victim.pod,
                "Preempted",
                format!("Preempted by pod {} on node {}", pod.uid, victims.node),
            );
            let api = Api::<Pod>::namespaced(self.client.clone(), &victim.key.namespace);
            let (scheduler, inputs, uid) = (scheduler.clone(), self.inputs.clone(), pod.uid.clone());
            tokio::spawn(async move {
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let condition = json!({"status": {"conditions": [{
                    "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "lastTransitionTime": now,
                    "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
                }]}});
                let name = &victim.key.name;
                let told = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(condition)).await.map(drop);
                let only = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
                let gone = api.delete(name, &DeleteParams::default().preconditions(only)).await.map(drop);
                if let Err(error) = told.and(gone)
                    && !client::is_not_found(&error)
                {
                    tracing::warn!(pod = %victim.key, %error, "preempting failed; its beneficiary will be tried again");
                    // The loop may have ended.
                    let _ = inputs.send(Input::Spared(uid));
                }
            });
        }
    }
}

async fn bind(api: &Api<Pod>, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name.to_string()),
            namespace: Some(pod.key.namespace.to_string()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference { kind: Some("Node".to_owned()), name: Some(node.to_owned()), ..ObjectReference::default() },
    };
    let _: serde_json::Value = api.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await?;
    Ok(())
}

/// Where the API says that a pod waits for room.
fn nominated(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref().filter(|node| !node.is_empty())
}

/// Which events a node's change is.
fn node_events(old: Option<&Node>, new: &Node) -> Events {
    let Some(old) = old else { return Events::NODE_ADDED };
    let spec = |node: &Node| node.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable.unwrap_or(false)));
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    let mut events = Events::NONE;
    if old.metadata.labels != new.metadata.labels {
        events = events.and(Events::NODE_LABELS);
    }
    if spec(old) != spec(new) {
        events = events.and(Events::NODE_TAINTS);
    }
    if allocatable(old) != allocatable(new) {
        events = events.and(Events::NODE_ALLOCATABLE);
    }
    events
}

fn shrank(before: &Resources, after: &Resources) -> bool {
    let smaller = |(name, amount): (&String, &Amount)| after.scalar.get(name).copied().unwrap_or(0) < *amount;
    after.milli_cpu < before.milli_cpu
        || after.memory < before.memory
        || after.ephemeral_storage < before.ephemeral_storage
        || before.scalar.iter().any(smaller)
}

/// A number that differs from pod to pod, for ties.
fn rand_tie(pod: &PodInfo, start: usize) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (&pod.uid, start).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler() -> Scheduler {
        // It trusts nobody: the machine may have no list of authorities.
        let mut nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        nowhere.root_cert = Some(Vec::new());
        let nowhere = Client::try_from(nowhere).unwrap();
        let mut snapshot = Snapshot::default();
        let room = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": room}});
        snapshot.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
        Scheduler {
            name: "default-scheduler".to_owned(),
            recorder: Recorder::new(nowhere.clone(), "test", None),
            client: nowhere,
            inputs: mpsc::unbounded_channel().0,
            plugins: plugins::default_plugins(),
            snapshot,
            queue: Queue::default(),
            start: 0,
            bindings: Arc::new(Semaphore::new(0)),
        }
    }

    fn pod(deleted: Option<&str>) -> Arc<Pod> {
        let metadata = json!({"name": "p", "namespace": "d", "uid": "u", "deletionTimestamp": deleted});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).unwrap())
    }

    struct Panics;

    impl Plugin for Panics {
        fn name(&self) -> &'static str {
            "Panics"
        }

        fn prepare<'a>(&self, _: &'a PodInfo, _: &'a Snapshot) -> crate::framework::Prepared<'a> {
            panic!("asked to")
        }
    }

    #[tokio::test]
    async fn a_decision_that_panics_is_tried_again() {
        let mut scheduler = scheduler();
        scheduler.plugins = vec![Box::new(Panics)];
        scheduler.take(Input::Pod { old: None, new: pod(None) });
        let waiting = scheduler.queue.pop(Instant::now()).unwrap();
        scheduler.schedule(&waiting);
        assert!(scheduler.queue.next_retry().is_some() && scheduler.snapshot.pods() == 0);
    }

    #[tokio::test]
    async fn a_pod_that_is_deleted_before_it_is_bound_takes_no_room() {
        let mut scheduler = scheduler();
        scheduler.take(Input::Pod { old: None, new: pod(None) });
        let waiting = scheduler.queue.pop(Instant::now()).unwrap();
        scheduler.schedule(&waiting);
        assert_eq!(scheduler.snapshot.place("u"), Some("n"));
        // It has a finalizer, and is not gone yet when its binding is refused.
        scheduler.take(Input::Pod { old: Some(pod(None)), new: pod(Some("2026-01-02T03:04:05Z")) });
        let conflict = kube::core::Status::failure("it is being deleted", "Conflict").with_code(409).boxed();
        let (node, error) = ("n".to_owned(), Some(kube::Error::Api(conflict)));
        scheduler.take(Input::Bound { pod: waiting.pod, node, error, attempt: (1, Instant::now()) });
        assert_eq!((scheduler.snapshot.pods(), scheduler.queue.lengths()), (0, [0, 0, 0, 0]));
    }
}
