//! Puts components together in one process: a node of a local cluster, a server, an agent. Node 1 has the control plane too,
//! and its components reach the API server in process, with neither socket nor TLS in between.

pub mod agent;
pub mod balancer;
pub mod bootstrap;
pub mod control_plane;
pub mod failover;
pub mod join;
pub mod keys;
pub mod outside;
pub mod parts;
pub mod registries;
pub mod snapshot;
pub mod virtual_address;

use std::{
    io::Read,
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use client::{Informer, Options};
use k8s_openapi::api::core::v1::Node as ApiNode;
use process::flags::LogFlags;
use runtime::ImageStore;
use tokio::{
    sync::{SetOnce, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::{image::names, run_node::Report, status::is_ready},
    compose::{control_plane::ControlPlane, keys::Sharing, parts::Parts},
    local::{
        control::{self, Answer},
        etcd, kubeconfig, layout,
        record::{Cluster, Node, Store},
    },
};

/// Where pods ask for names: service `kube-dns`.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

/// Runs a node of a local cluster until it is told to end.
pub fn run(cluster: &Cluster, node: &Node) -> Result<()> {
    process::logging::init(&LogFlags { verbosity: 0, format: "text".to_owned(), file: None })?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    threads.block_on(serve(cluster, node))
}

async fn serve(cluster: &Cluster, node: &Node) -> Result<()> {
    let shutdown = process::shutdown::on_signals().context("listen for signals")?;
    let mut parts = Parts::new(shutdown.clone());
    let state = Arc::new(State::default());
    tokio::spawn(control::serve(control::listen(&node.folder)?, handler(state.clone())));
    let folder = layout::folder(&cluster.name);
    // Every server has its own keys and certificates, as on machines of their own.
    let data = if node.n == 1 { folder.clone() } else { node.folder.join("server") };
    let (mut control_plane, mut token, mut serving) = (None, None, None);
    let client_ca;
    let (kubelet_client, proxy_client) = if cluster.is_server(node) {
        let store = match cluster.store {
            Store::Redb => control_plane::Backend::Redb(folder.join("state.db")),
            Store::Etcd => {
                if cluster.servers == 1 || cluster.etcd_members()?.contains(node) {
                    Report::Step("starting etcd".into()).send();
                    etcd::ensure(cluster, node).await?;
                    let of = (cluster.clone(), node.clone());
                    parts.run("etcd", move |shutdown| etcd::run(of.0.clone(), of.1.clone(), shutdown));
                }
                control_plane::Backend::Etcd(etcd::options(cluster)?)
            }
        };
        let sharing = match cluster.servers {
            1 => None,
            _ => Some(Sharing { token: None, file: cluster.server_token() }),
        };
        Report::Step("starting the control plane".into()).send();
        let plan = control_plane::Plan {
            data: data.clone(),
            address: node.address,
            listen: (Ipv4Addr::UNSPECIFIED, 6443).into(),
            store,
            ranges: Default::default(),
            files: Default::default(),
            access: Default::default(),
            signing_duration: None,
            common: None,
            names: vec![layout::outside_address(cluster.subnet()?).to_string()],
            sharing,
            node_monitor_grace: cluster.node_monitor_grace_ms.map(Duration::from_millis),
        };
        let control_plane = control_plane.insert(ControlPlane::start(plan, &mut parts).await?);
        let _ = state.store.set(control_plane.store());
        control_plane.write_kubeconfig(
            &kubeconfig::own_path(&cluster.name),
            &cluster.name,
            &kubeconfig::user(&cluster.name),
            &cluster.server()?,
            &[],
        )?;
        token = Some(control_plane.bootstrap(&data)?);
        let role = bootstrap::show_role(control_plane.admin_client(), node.name.clone(), shutdown.clone());
        tokio::spawn(role);
        serving = Some(control_plane::kubelet_certificate(&data, &node.name, node.address)?);
        client_ca = data.join("pki/ca.crt");
        (control_plane.node_client(&node.name), control_plane.component_client("kube-proxy"))
    } else {
        Report::Step("joining the cluster".into()).send();
        let plan = join::Plan {
            servers: cluster.servers()?.into_iter().map(|server| format!("https://{server}")).collect(),
            token: crate::token::read(&folder.join("node-token")).ok(),
            folder: node.folder.clone(),
            node: node.name.clone(),
        };
        let joined = join::join(plan, &shutdown).await?;
        client_ca = joined.authority;
        (joined.client, joined.proxy)
    };
    Report::Step("starting the node".into()).send();
    let plan = agent::Plan {
        name: node.name.clone(),
        address: node.address,
        folder: node.folder.clone(),
        pods: Some(node.pods),
        network: agent::Network {
            pods: cluster.pod_network()?,
            // The host's own configuration is for pods of other clusters.
            conf_dir: node.folder.join("cni/net.d"),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            one_machine: true,
        },
        client_ca,
        serving,
        // The nodes of a local cluster have no way to a registry.
        registries: Vec::new(),
        shared_disk: true,
        kubelet: kubelet_config(cluster),
        kubelet_client: kubelet_client.clone(),
        proxy_client,
    };
    // From now on the kubelet may tell of the node.
    let started = unix_seconds();
    let images = agent::start(plan, &mut parts).await?;
    let _ = state.images.set(images);
    Report::Step("waiting for the node to be ready".into()).send();
    // A node without plugins is not ready; with its object there, somebody can bring them.
    let enough: fn(&ApiNode) -> bool = match cluster.pod_network()? {
        agent::PodNetwork::Cni => |_| true,
        agent::PodNetwork::Own(_) => is_ready,
    };
    // After a restart the object says what the kubelet said before; only what it says now counts.
    let is_so = move |node: &ApiNode| enough(node) && last_heartbeat(node) >= started;
    tokio::spawn(report_ready(kubelet_client, node.name.clone(), state, token, is_so, shutdown));
    parts.finish().await;
    if let Some(control_plane) = control_plane {
        control_plane.stop().await;
    }
    Ok(())
}

/// A node tells of itself four times before it counts as lost, and as often as upstream's at least.
fn kubelet_config(cluster: &Cluster) -> kubelet::Config {
    let usual = kubelet::Config::default();
    let grace = cluster.node_monitor_grace_ms.and_then(|grace| i32::try_from(grace / 1000).ok());
    let node_lease_duration_seconds =
        grace.map_or(usual.node_lease_duration_seconds, |g| g.min(usual.node_lease_duration_seconds));
    kubelet::Config { node_lease_duration_seconds, ..usual }
}

/// Says so when the node's object says enough.
async fn report_ready(
    client: kube::Client,
    name: String,
    state: Arc<State>,
    token: Option<JoinHandle<()>>,
    is_so: impl Fn(&ApiNode) -> bool,
    shutdown: CancellationToken,
) {
    let watching = shutdown.child_token();
    let only = Options::fields(format!("metadata.name={name}"));
    let node: Informer<ApiNode> = Informer::start(client, only, watching.clone());
    let mut changes = node.changes();
    while !node.get(&client::Key::cluster(&name)).is_some_and(|node| is_so(&node)) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    // The other nodes join with it.
    if let Some(token) = token {
        let _ = token.await;
    }
    state.ready.send_replace(true);
    Report::Ready.send();
    watching.cancel();
}

fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// When the kubelet last said whether the node is ready, in seconds since 1970.
fn last_heartbeat(node: &ApiNode) -> i64 {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    ready.and_then(|condition| Some(condition.last_heartbeat_time.as_ref()?.0.as_second())).unwrap_or(0)
}

/// How long commands wait for the runtime of a node that is being started.
const STARTING: Duration = Duration::from_secs(60);

/// What commands on the host may ask about.
#[derive(Default)]
struct State {
    store: OnceLock<Arc<dyn store::Store>>,
    images: SetOnce<Arc<ImageStore>>,
    ready: watch::Sender<bool>,
}

impl State {
    /// The images, as soon as the node's runtime has them: a node that has just been started takes a moment.
    async fn images(&self) -> Result<&Arc<ImageStore>> {
        let started = tokio::time::timeout(STARTING, self.images.wait()).await;
        started.context("the node's runtime has not started; the node's log says why (in /var/lib/knarr)")
    }
}

/// What a node does for commands on the host. Runs on threads that may block.
fn handler(state: Arc<State>) -> control::Handler {
    let runtime = tokio::runtime::Handle::current();
    Arc::new(move |command: &str, rest: &mut dyn Read| match command {
        "wait ready" => {
            // The sender lives as long as this handler.
            let _ = runtime.block_on(state.ready.subscribe().wait_for(|ready| *ready));
            Ok(Answer::Lines(Vec::new()))
        }
        "snapshot save" => {
            let store = state.store.get().context("this node has no store, or has not opened it yet")?;
            snapshot::answer(store, &runtime)
        }
        "image load" => {
            let images = runtime.block_on(state.images())?;
            let loaded = images.import(rest).context("read the archive")?;
            Ok(Answer::Lines(loaded.iter().flat_map(|image| names(image, &image.id)).collect()))
        }
        "image ls" => {
            let images = runtime.block_on(state.images())?;
            let list = images.list().into_iter();
            let lines = |image: runtime::ImageRecord| {
                let line = |name: String| format!("{name}\t{}\t{}", image.id, image.size);
                names(&image, "<none>").into_iter().map(line).collect::<Vec<_>>()
            };
            Ok(Answer::Lines(list.flat_map(lines).collect()))
        }
        other => bail!("this node does not know {other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_for_the_images_of_a_node_that_starts_waits_for_them() {
        let (state, dir) = (Arc::new(State::default()), tempfile::tempdir().unwrap());
        let ask = handler(state.clone());
        let empty = |answer: Result<Answer>| matches!(answer, Ok(Answer::Lines(lines)) if lines.is_empty());
        let asking = tokio::task::spawn_blocking(move || empty(ask("image ls", &mut std::io::empty())));
        assert!(state.images.set(Arc::new(ImageStore::open(dir.path().to_owned()).unwrap())).is_ok());
        assert!(asking.await.unwrap());
        // One that was asked before there was an answer.
        let later = Arc::new(State::default());
        let mut waiting = std::pin::pin!(later.images());
        assert!(tokio::time::timeout(Duration::from_millis(1), waiting.as_mut()).await.is_err());
        assert!(later.images.set(Arc::new(ImageStore::open(dir.path().to_owned()).unwrap())).is_ok());
        waiting.await.unwrap();
    }
}
