//! A whole control plane in a test: the API, the controller manager, and kubelets that only pretend.

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use apiserver::testing::{self, TestServer};
use axum::{Router, body::Body, extract::Request, response::Response};
use client::{Change, Informer, Key, Options};
use controller_manager::Config;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod, ServiceAccount},
    },
};
use knarr_controller_manager as controller_manager;
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running cluster; dropping it ends everything.
pub struct Cluster {
    /// What tests use as kubectl.
    pub client: kube::Client,
    /// The namespace `test`.
    pub namespace: &'static str,
    nodes: Arc<Mutex<HashMap<String, CancellationToken>>>,
    /// The revision of the test's last write of each kind: what is looked at afterwards is not older.
    written: Mutex<HashMap<String, u64>>,
    stop: CancellationToken,
    _guard: DropGuard,
    _server: TestServer,
}

impl Cluster {
    /// Starts with one node, `node-1`, and namespace `test`.
    pub async fn start(config: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(config, TestServer::client).await
    }

    /// The same, but the controllers' connection is bad.
    pub async fn start_flaky() -> Self {
        Self::start_on(|_| {}, flaky).await
    }

    async fn start_on(config: impl FnOnce(&mut Config), connect: impl FnOnce(&TestServer) -> kube::Client) -> Self {
        let server = testing::start().await;
        let stop = CancellationToken::new();
        let mut settings = Config { leader_elect: false, root_ca: Some("CA".to_owned()), ..Config::default() };
        config(&mut settings);
        tokio::spawn(controller_manager::run(settings, connect(&server), stop.clone()));
        let guard = stop.clone().drop_guard();
        let cluster = Self {
            client: server.client(),
            namespace: "test",
            nodes: Arc::default(),
            written: Mutex::default(),
            stop,
            _guard: guard,
            _server: server,
        };
        cluster.create_global::<Namespace>(json!({"metadata": {"name": "test"}})).await;
        // Pods are refused before.
        cluster.until::<ServiceAccount, _>(|accounts| accounts.len(), 1).await;
        cluster.add_node("node-1").await;
        cluster.run_kubelets();
        cluster
    }

    /// Adds a node that renews its Lease until [`Cluster::silence`].
    pub async fn add_node(&self, name: &str) {
        self.create_global::<Node>(json!({"metadata": {"name": name}})).await;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
        leases.create(&PostParams::default(), &serde_json::from_value(lease).expect("a lease")).await.expect("created");
        self.run_node(name).await;
    }

    async fn run_node(&self, name: &str) {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m",
            "lastHeartbeatTime": Timestamp::now().to_string(), "lastTransitionTime": Timestamp::now().to_string()}]}});
        let nodes: Api<Node> = Api::all(self.client.clone());
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("a status");
        let alive = self.stop.child_token();
        self.nodes.lock().insert(name.to_owned(), alive.clone());
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let (name, mut beat) = (name.to_owned(), tokio::time::interval(Duration::from_millis(100)));
        tokio::spawn(alive.run_until_cancelled_owned(async move {
            loop {
                beat.tick().await;
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
                let renewed = json!({"spec": {"renewTime": now}});
                let _ = leases.patch(&name, &PatchParams::default(), &Patch::Merge(renewed)).await;
            }
        }));
    }

    /// The node falls silent: no more Leases, and its pods are neither started nor ended.
    pub fn silence(&self, name: &str) {
        self.nodes.lock().remove(name).expect("a node").cancel();
    }

    /// The node is heard of again, and says that it is ready.
    pub async fn revive(&self, name: &str) {
        self.run_node(name).await;
    }

    /// Binds pods to living nodes in turn, reports them ready unless their image is `broken`, and ends them when they are
    /// deleted. Pods of image `manual` are left to the test.
    fn run_kubelets(&self) {
        let pods = Informer::<Pod>::start(self.client.clone(), Options::default(), self.stop.clone());
        let (client, nodes, turn) = (self.client.clone(), self.nodes.clone(), Mutex::new(0u32));
        pods.on_change(move |change| {
            let (Change::Added(pod) | Change::Updated(_, pod)) = change else { return };
            let (key, pod) = (Key::of(&pod.metadata), pod.clone());
            let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
            let image = pod.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
            let living = |node: &str| nodes.lock().contains_key(node);
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
            if node.is_empty() && image != "manual" {
                let mut names: Vec<_> = nodes.lock().keys().cloned().collect();
                names.sort();
                let mut turn = turn.lock();
                *turn += 1;
                let Some(node) = names.get(*turn as usize % names.len().max(1)).cloned() else { return };
                let number = *turn;
                tokio::spawn(async move { start(&api, &key, &node, number, image != "broken").await });
            } else if pod.metadata.deletion_timestamp.is_some() && living(&node) {
                let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                tokio::spawn(async move { drop(api.delete(&key.name, &now).await) });
            }
        });
    }

    /// Does a kubelet's work by hand: binds the pod to a node (which need not exist) and says how it is.
    pub async fn run_pod(&self, name: &str, node: &str, number: u32, ready: bool) {
        start(&self.api(), &Key::new(self.namespace, name), node, number, ready).await;
    }

    /// Looks at all objects of a kind in the test's namespace after every change of one.
    pub async fn always<K>(&self, holds: impl Fn(&[Arc<K>]) -> Result<(), String> + Send + Sync + 'static) -> Always
    where
        K: client::Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let stop = self.stop.child_token();
        let informer = Informer::<K>::start(self.client.clone(), Options::namespace(self.namespace), stop.clone());
        informer.synced().await;
        let violations = Arc::new(Mutex::new(Vec::new()));
        let (seen, told) = (informer.clone(), violations.clone());
        informer.on_change(move |_| told.lock().extend(holds(&seen.list()).err()));
        Always { violations, _guard: stop.drop_guard() }
    }

    /// The test's namespace's objects of a kind.
    pub fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// Creates an object in the test's namespace.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: client::Object + serde::Serialize + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let object = serde_json::from_value(object).expect("an object");
        let created = self.api::<K>().create(&PostParams::default(), &object).await.expect("created");
        self.wrote(&created);
        created
    }

    fn wrote<K: client::Object + Resource<DynamicType = ()>>(&self, object: &K) {
        self.written.lock().insert(K::kind(&()).into_owned(), client::revision_of(object.meta()));
    }

    async fn create_global<K: client::Object + serde::Serialize + Resource<DynamicType = ()>>(&self, object: Value) {
        let api = Api::<K>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).expect("an object")).await.expect("created");
    }

    /// Merges a patch into an object.
    pub async fn merge<K>(&self, name: &str, patch: Value)
    where
        K: client::Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let patched = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
        self.wrote(&patched);
    }

    /// Deletes an object.
    pub async fn delete<K>(&self, name: &str, params: DeleteParams)
    where
        K: client::Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        self.api::<K>().delete(name, &params).await.expect("deleted");
    }

    /// Everything of a kind in the test's namespace.
    pub async fn list<K>(&self) -> Vec<K>
    where
        K: client::Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        self.api::<K>().list(&Default::default()).await.expect("a list").items
    }

    /// Waits until what is told of a kind's objects in the test's namespace is `wanted`.
    pub async fn until<K, T: PartialEq + Debug>(&self, tell: impl Fn(&[Arc<K>]) -> T, wanted: T)
    where
        K: client::Object + Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        self.wait(Options::namespace(self.namespace), tell, wanted).await;
    }

    /// The same over the whole cluster.
    pub async fn until_global<K: client::Object + Resource<DynamicType = ()>, T: PartialEq + Debug>(
        &self,
        tell: impl Fn(&[Arc<K>]) -> T,
        wanted: T,
    ) {
        self.wait(Options::default(), tell, wanted).await;
    }

    async fn wait<K, T: PartialEq + Debug>(&self, options: Options<K>, tell: impl Fn(&[Arc<K>]) -> T, wanted: T)
    where
        K: client::Object + Resource<DynamicType = ()>,
    {
        let stop = self.stop.child_token();
        let _guard = stop.clone().drop_guard();
        let informer = Informer::<K>::start(self.client.clone(), options, stop);
        informer.synced().await;
        let mut changes = informer.changes();
        let least = self.written.lock().get(&*K::kind(&())).copied().unwrap_or(0);
        let is_so = |shown: &u64| *shown >= least && tell(&informer.list()) == wanted;
        let found = tokio::time::timeout(PATIENCE, changes.wait_for(is_so)).await.is_ok();
        if !found {
            assert_eq!(tell(&informer.list()), wanted);
        }
    }
}

async fn start(api: &Api<Pod>, key: &Key, node: &str, number: u32, ready: bool) {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": *key.name}, "target": {"kind": "Node", "name": node}});
    let bound = api.create_subresource::<Value, Value>("binding", &key.name, &PostParams::default(), &binding).await;
    if bound.is_err() {
        return;
    }
    let address = format!("10.42.{}.{}", number / 250, number % 250 + 2);
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": Timestamp::now().to_string()}]}});
    let _ = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(status)).await;
}

/// What must hold at every step that a watch shows.
pub struct Always {
    violations: Arc<Mutex<Vec<String>>>,
    _guard: DropGuard,
}

impl Always {
    /// Fails if it ever did not hold.
    pub fn held(self) {
        assert_eq!(*self.violations.lock(), Vec::<String>::new());
    }
}

/// A bad connection: requests fail before or after they did something, and watches break off.
fn flaky(server: &TestServer) -> kube::Client {
    let (inner, luck) = (server.server.router(), Arc::new(Mutex::new(StdRng::seed_from_u64(7))));
    let unavailable = || {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "reason": "ServiceUnavailable",
            "message": "try again", "metadata": {}});
        let response = Response::builder().status(503).header("content-type", "application/json");
        response.body(Body::from(body.to_string())).expect("a response")
    };
    let handler = move |request: Request| async move {
        let watch = request.uri().query().is_some_and(|q| q.contains("watch=true"));
        if luck.lock().random_ratio(1, 10) {
            return unavailable();
        }
        let answer = inner.oneshot(request).await.unwrap_or_else(|never| match never {});
        if watch {
            let (parts, body) = answer.into_parts();
            let few = luck.lock().random_range(0..12);
            return Response::from_parts(parts, Body::from_stream(body.into_data_stream().take(few)));
        }
        if luck.lock().random_ratio(1, 20) { unavailable() } else { answer }
    };
    kube::Client::new(Router::new().fallback(handler), "default")
}
