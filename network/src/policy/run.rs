//! The loop: informers say that something changed, the chains are decided anew, what differs is applied.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use client::{Change, Informer, Key, Options};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod as ApiPod},
    networking::v1::NetworkPolicy,
};
use net::{Saved, iptables::Iptables, monitor::Monitor};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    model::{Pod, View, strip_namespace, strip_pod},
    rules::{Chains, rules},
    table,
};

/// Changes come in bursts: look when they pause.
const PAUSE: Duration = Duration::from_millis(10);

/// Whose pods policies are enforced for.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// The node's network namespace; the process' own if `None`.
    pub namespace: Option<PathBuf>,
}

/// Our chains in the kernel, as far as we know. Its methods block.
#[derive(Debug)]
pub struct Enforcer {
    iptables: Iptables,
    applied: Chains,
    /// Nothing is known of the kernel's state: compare and write everything.
    stale: bool,
}

impl Enforcer {
    /// For the tables of a namespace. Nothing is written yet.
    pub fn new(namespace: Option<PathBuf>) -> Self {
        let iptables = namespace.map_or_else(Iptables::here, Iptables::within);
        Self { iptables, applied: Chains::new(), stale: true }
    }

    /// Brings the kernel to these chains.
    pub fn apply(&mut self, chains: Chains) -> Result<(), net::Error> {
        let before = std::mem::replace(&mut self.applied, chains);
        if self.stale || before.is_empty() || self.applied.is_empty() {
            return if before == self.applied && !self.stale { Ok(()) } else { self.write_all() };
        }
        let Some(input) = table::change(&before, &self.applied) else { return Ok(()) };
        match self.iptables.restore(input) {
            Ok(()) => Ok(()),
            Err(error) => {
                // Somebody took away what we meant to change, most likely.
                tracing::info!(%error, "cannot change policy rules; writing all of them anew");
                self.write_all()
            }
        }
    }

    /// Looks at the kernel's rules and writes them anew if somebody changed ours; whether it was so.
    pub fn repair(&mut self) -> Result<bool, net::Error> {
        if !self.stale && table::is_intact(&self.applied, &self.saved()?) {
            return Ok(false);
        }
        tracing::info!("somebody changed the policy rules; writing them anew");
        self.write_all().map(|()| true)
    }

    fn write_all(&mut self) -> Result<(), net::Error> {
        self.stale = true;
        if let Some(input) = table::full(&self.applied, &self.saved()?) {
            self.iptables.restore(input)?;
        }
        self.stale = false;
        Ok(())
    }

    fn saved(&self) -> Result<Saved, net::Error> {
        Ok(Saved::read(&self.iptables.save("mangle")?))
    }
}

/// What is watched only while there are policies.
struct Cluster {
    pods: Informer<ApiPod>,
    namespaces: Informer<Namespace>,
    node: Informer<Node>,
    _end: DropGuard,
}

impl Cluster {
    fn watch(client: &kube::Client, node: &str, news: &Arc<Notify>, shutdown: &CancellationToken) -> Self {
        let end = shutdown.child_token();
        let until = Some(end.clone());
        let of_pods = Options { transform: strip_pod, until: until.clone(), ..Options::default() };
        let of_namespaces = Options { transform: strip_namespace, until: until.clone(), ..Options::default() };
        let only = Options { until, ..Options::fields(format!("metadata.name={node}")) };
        let this = Self {
            pods: Informer::start(client.clone(), of_pods, shutdown.clone()),
            namespaces: Informer::start(client.clone(), of_namespaces, shutdown.clone()),
            node: Informer::start(client.clone(), only, shutdown.clone()),
            _end: end.drop_guard(),
        };
        let (tell, name) = (news.clone(), node.to_owned());
        this.pods.on_change(move |change| {
            let now = match &change {
                Change::Deleted(_) => None,
                _ => Pod::read(change.object(), &name),
            };
            let before = change.old().or(matches!(change, Change::Deleted(_)).then(|| change.object()));
            if before.and_then(|pod| Pod::read(pod, &name)) != now {
                tell.notify_one();
            }
        });
        let tell = news.clone();
        this.namespaces.on_change(move |change| {
            if change.old().map(|old| &old.metadata.labels) != Some(&change.object().metadata.labels) {
                tell.notify_one();
            }
        });
        let tell = news.clone();
        this.node.on_change(move |change| {
            let range = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
            if change.old().map(|old| range(old)) != Some(range(change.object())) {
                tell.notify_one();
            }
        });
        this
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.namespaces.synced().await;
        self.node.synced().await;
    }

    fn view(&self, node: &str, policies: Vec<Arc<NetworkPolicy>>) -> View {
        let own = self.node.get(&Key::cluster(node)).and_then(|node| node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok());
        // Of two pods that claim an address the younger one has it.
        let mut pods = self.pods.list();
        pods.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let by_address: BTreeMap<_, Pod> =
            pods.iter().filter_map(|pod| Pod::read(pod, node)).map(|pod| (pod.address, pod)).collect();
        let named = |namespace: &Arc<Namespace>| {
            Some((namespace.metadata.name.clone()?, namespace.metadata.labels.clone().unwrap_or_default()))
        };
        View {
            policies,
            pods: by_address.into_values().chain(own.map(Pod::dns)).collect(),
            namespaces: self.namespaces.list().iter().filter_map(named).collect(),
            own,
        }
    }
}

/// Enforces policies on the node until `shutdown`. The rules stay behind: nothing becomes reachable by our absence.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), net::Error> {
    let news = Arc::new(Notify::new());
    let policies: Informer<NetworkPolicy> = Informer::start(client.clone(), Options::default(), shutdown.clone());
    let tell = news.clone();
    policies.on_change(move |change| {
        if change.old().map(|old| &old.spec) != Some(&change.object().spec) || matches!(change, Change::Deleted(_)) {
            tell.notify_one();
        }
    });
    let mut enforcer = Enforcer::new(config.namespace.clone());
    let mut cluster: Option<Cluster> = None;
    let mut monitor: Option<Monitor> = None;
    let mut failures = 0u32;
    if shutdown.run_until_cancelled(policies.synced()).await.is_none() {
        return Ok(());
    }
    while !shutdown.is_cancelled() {
        let chains = match policies.list() {
            none if none.is_empty() => {
                cluster = None;
                Chains::new()
            }
            some => {
                let cluster = cluster.get_or_insert_with(|| Cluster::watch(&client, &config.node_name, &news, &shutdown));
                if shutdown.run_until_cancelled(cluster.synced()).await.is_none() {
                    return Ok(());
                }
                rules(&cluster.view(&config.node_name, some))
            }
        };
        if monitor.is_none() && !chains.is_empty() {
            let nf_tables = Iptables::run(&iptables(&config), "iptables", &["--version"], None)?.contains("nf_tables");
            let opened = Monitor::new(config.namespace.clone(), nf_tables, &["mangle"]);
            monitor = Some(opened.map_err(net::Error::system("watch the policy rules"))?);
        }
        if chains.is_empty() {
            monitor = None;
        }
        let outcome = blocking(&mut enforcer, move |enforcer| enforcer.apply(chains)).await?;
        if let Some(monitor) = &mut monitor {
            monitor.settle();
        }
        if let Err(error) = outcome {
            failures += 1;
            tracing::error!(%error, "cannot apply policy rules");
            enforcer.stale = true;
            shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(200 << failures.min(7)))).await;
            continue;
        }
        failures = 0;
        wait(&mut enforcer, monitor.as_mut(), &news, &shutdown).await?;
    }
    Ok(())
}

/// Returns when something changed; keeps the rules as they are meanwhile.
async fn wait(
    enforcer: &mut Enforcer,
    mut monitor: Option<&mut Monitor>,
    news: &Notify,
    shutdown: &CancellationToken,
) -> Result<(), net::Error> {
    loop {
        let foreign = async {
            match &mut monitor {
                Some(monitor) => monitor.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = news.notified() => {
                shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                return Ok(());
            }
            () = foreign => match blocking(enforcer, Enforcer::repair).await? {
                Ok(false) => {}
                Ok(true) => {
                    if let Some(monitor) = &mut monitor {
                        monitor.settle();
                    }
                }
                Err(error) => tracing::error!(%error, "cannot repair policy rules"),
            }
        }
    }
}

fn iptables(config: &Config) -> Iptables {
    config.namespace.clone().map_or_else(Iptables::here, Iptables::within)
}

/// Lends the enforcer to a thread that may block.
async fn blocking<T: Send + 'static>(
    enforcer: &mut Enforcer,
    work: impl FnOnce(&mut Enforcer) -> T + Send + 'static,
) -> Result<T, net::Error> {
    let mut lent = std::mem::replace(enforcer, Enforcer::new(None));
    let (back, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = work(&mut lent);
        (lent, outcome)
    })
    .await
    .map_err(|_| net::Error::Panicked)?;
    *enforcer = back;
    Ok(outcome)
}
