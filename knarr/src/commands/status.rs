//! `knarr status`: a local cluster's nodes, their processes and their readiness.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::Result;
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::{
    Api, Client,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Serialize;

use crate::{
    commands::small_runtime,
    local::{
        kubeconfig, layout,
        process::Identity,
        record::{Cluster, Node},
    },
};

/// Flags.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster.
    #[arg(long, default_value = "knarr")]
    name: String,
    /// `json` for programs.
    #[arg(short, long, value_parser = ["json"])]
    output: Option<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    name: String,
    server: String,
    subnet: String,
    servers: u8,
    store: crate::local::record::Store,
    nodes: Vec<NodeStatus>,
    /// What runs on no node, by name: etcd, in a cluster of two servers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    outside: BTreeMap<&'static str, i32>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    address: Ipv4Addr,
    /// By component; empty when the node is dead.
    pids: BTreeMap<&'static str, i32>,
    ready: bool,
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    layout::check_name(&args.name)?;
    let cluster = Cluster::existing(&args.name)?;
    let ready = small_runtime()?
        .block_on(async { tokio::time::timeout(Duration::from_secs(3), ready_nodes(&cluster.name)).await.ok()?.ok() });
    let ready = ready.unwrap_or_default();
    let status = Status {
        server: cluster.server()?,
        subnet: cluster.subnet.clone(),
        store: cluster.store,
        servers: cluster.servers,
        nodes: cluster
            .nodes()?
            .into_iter()
            .map(|node| {
                let is_server = cluster.is_server(&node);
                node_status(node, is_server, &ready)
            })
            .collect(),
        outside: match Identity::load(&cluster.outside()?.folder, "etcd") {
            Some(etcd) => BTreeMap::from([("etcd", etcd.pid)]),
            None => BTreeMap::new(),
        },
        name: cluster.name,
    };
    match args.output {
        Some(_) => println!("{}", serde_json::to_string_pretty(&status)?),
        None => print(&status),
    }
    Ok(())
}

async fn ready_nodes(cluster: &str) -> Result<Vec<String>> {
    let config = Kubeconfig::from_yaml(&kubeconfig::own(cluster)?)?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let nodes = Api::<ApiNode>::all(Client::try_from(config)?).list(&ListParams::default()).await?;
    Ok(nodes.items.into_iter().filter(is_ready).filter_map(|node| node.metadata.name).collect())
}

/// Whether the node's Ready condition is True.
pub fn is_ready(node: &ApiNode) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn node_status(node: Node, is_server: bool, ready: &[String]) -> NodeStatus {
    let mut pids = BTreeMap::new();
    if let Some(process) = Identity::load(&node.folder, "knarr") {
        let control_plane: &[&str] = if is_server { &["apiserver", "scheduler", "controller-manager"] } else { &[] };
        pids.extend(control_plane.iter().chain(&["kubelet", "runtime", "proxy", "dns"]).map(|&c| (c, process.pid)));
    }
    pids.extend(Identity::load(&node.folder, "etcd").map(|etcd| ("etcd", etcd.pid)));
    NodeStatus { ready: ready.contains(&node.name), name: node.name, address: node.address, pids }
}

fn print(status: &Status) {
    println!("cluster {} at {} ({})", status.name, status.server, status.subnet);
    for node in &status.nodes {
        let state = match (node.ready, node.pids.is_empty()) {
            (true, _) => "Ready",
            (false, true) => "Dead",
            (false, false) => "NotReady",
        };
        let pids: Vec<String> = node.pids.iter().map(|(component, pid)| format!("{component}={pid}")).collect();
        println!("{}  {}  {state}  {}", node.name, node.address, pids.join(" "));
    }
}
