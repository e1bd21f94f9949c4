//! A scheduler against an API server in the same process, and what tests do to both.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use apiserver::testing::{self, TestServer};
use client::{Informer, Options};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Event, Node, Pod},
};
use knarr_scheduler::Config;
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API server; schedulers are started by the test.
pub struct Cluster {
    /// What tests use as kubectl.
    pub client: kube::Client,
    stop: CancellationToken,
    _guard: DropGuard,
    _server: TestServer,
}

/// A running scheduler; dropping it kills it without a good-bye.
pub struct Scheduler {
    /// Ends it in order.
    pub stop: CancellationToken,
    /// Its end.
    pub running: tokio::task::JoinHandle<Result<(), knarr_scheduler::Error>>,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.running.abort();
        self.stop.cancel();
    }
}

impl Scheduler {
    /// Ends it and waits until it has ended.
    pub async fn end(mut self) {
        self.stop.cancel();
        (&mut self.running).await.expect("no panic").expect("an orderly end");
    }
}

impl Cluster {
    /// An API server and nothing else.
    pub async fn start() -> Self {
        let server = testing::start().await;
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        Self { client: server.client(), stop, _guard: guard, _server: server }
    }

    /// The same with a scheduler.
    pub async fn with_scheduler() -> (Self, Scheduler) {
        let cluster = Self::start().await;
        let scheduler = cluster.scheduler(|_| {});
        (cluster, scheduler)
    }

    /// Starts a scheduler.
    pub fn scheduler(&self, change: impl FnOnce(&mut Config)) -> Scheduler {
        let mut config = Config { leader_elect: false, ..Config::default() };
        change(&mut config);
        let stop = self.stop.child_token();
        let running = tokio::spawn(knarr_scheduler::run(config, self.client.clone(), stop.clone()));
        Scheduler { stop, running }
    }

    /// Starts a scheduler whose first request for which `meant` holds of method and path comes to what `fails` makes of it.
    pub fn scheduler_failing_once(&self, meant: fn(&http::Method, &str) -> bool, fails: fn()) -> Scheduler {
        let (client, failed) = (self.client.clone(), Arc::new(AtomicBool::new(false)));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (client, failed) = (client.clone(), failed.clone());
            async move {
                if meant(request.method(), request.uri().path()) && !failed.swap(true, Ordering::SeqCst) {
                    fails();
                    return Err(std::io::Error::other("the API server is away"));
                }
                client.send(request).await.map_err(std::io::Error::other)
            }
        });
        let config = Config { leader_elect: false, ..Config::default() };
        let stop = self.stop.child_token();
        let running = tokio::spawn(knarr_scheduler::run(config, kube::Client::new(service, "default"), stop.clone()));
        Scheduler { stop, running }
    }

    /// A node of this many cores with room for ten pods.
    pub async fn node(&self, name: &str, cpu: &str) {
        self.node_with(name, cpu, json!({}), json!({})).await;
    }

    /// The same with labels and a specification.
    pub async fn node_with(&self, name: &str, cpu: &str, labels: Value, spec: Value) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}, "capacity": {"cpu": cpu, "memory": "8Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).expect("a node")).await.expect("created");
        // A new node is tainted not-ready; its controller would take that away.
        self.change_node(name, json!({"spec": {"taints": spec["taints"]}})).await;
    }

    /// Changes a node.
    pub async fn change_node(&self, name: &str, patch: Value) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
    }

    /// The pods of namespace `default`.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// A pod that asks for this much CPU, with more in its specification.
    pub async fn pod(&self, name: &str, cpu: &str, spec: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("created")
    }

    /// Makes a priority class.
    pub async fn priority(&self, name: &str, value: i32) {
        let class = json!({"metadata": {"name": name}, "value": value});
        let classes: Api<k8s_openapi::api::scheduling::v1::PriorityClass> = Api::all(self.client.clone());
        classes.create(&PostParams::default(), &serde_json::from_value(class).expect("a class")).await.expect("created");
    }

    /// Binds a pod as another scheduler would.
    pub async fn bind(&self, pod: &str, node: &str) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
        let params = PostParams::default();
        self.pods().create_subresource::<Value, Value>("binding", pod, &params, &binding).await.expect("bound");
    }

    /// Deletes a pod as its kubelet at last does.
    pub async fn end(&self, pod: &str) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete(pod, &now).await.expect("deleted");
    }

    /// Waits until what is told of a kind's objects in namespace `default` is `wanted`.
    pub async fn until<K, T: PartialEq + Debug>(&self, tell: impl Fn(&[Arc<K>]) -> T, wanted: T)
    where
        K: client::Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let stop = self.stop.child_token();
        let _guard = stop.clone().drop_guard();
        let informer = Informer::<K>::start(self.client.clone(), Options::namespace("default"), stop);
        informer.synced().await;
        let mut changes = informer.changes();
        let found = tokio::time::timeout(PATIENCE, changes.wait_for(|_| tell(&informer.list()) == wanted)).await.is_ok();
        if !found {
            assert_eq!(tell(&informer.list()), wanted);
        }
    }

    /// Waits until pods are where they are wanted: `NAME@NODE`, `NAME@` for one without a node.
    pub async fn placed(&self, wanted: &[&str]) {
        let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
        self.until::<Pod, _>(placements, wanted).await;
    }

    /// Waits until events about a pod are exactly these: `REASON: MESSAGE`.
    pub async fn told(&self, pod: &str, wanted: &[String]) {
        let told = |events: &[Arc<Event>]| {
            let about = events.iter().filter(|e| e.involved_object.name.as_deref() == Some(pod));
            let mut told: Vec<_> = about
                .map(|e| format!("{}: {}", e.reason.as_deref().unwrap_or(""), e.message.as_deref().unwrap_or("")))
                .collect();
            told.sort();
            told
        };
        self.until::<Event, _>(told, wanted.to_vec()).await;
    }
}

/// Where pods are.
pub fn placements(pods: &[Arc<Pod>]) -> Vec<String> {
    let place = |p: &Arc<Pod>| {
        let node = p.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        format!("{}@{node}", p.metadata.name.as_deref().unwrap_or_default())
    };
    let mut places: Vec<_> = pods.iter().map(place).collect();
    places.sort();
    places
}
