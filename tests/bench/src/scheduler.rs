//! A thousand nodes that nobody runs and five thousand pods that wait when the scheduler starts; API server and scheduler
//! are processes of their own.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    api,
    cluster::{ApiServer, Component},
    http::Target,
    measure::{report, rounded},
    objects::{self, PODS},
};

const NODES: usize = 1_000;
const WAITING: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(60);

async fn prepare(target: &Target) -> Result<()> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let mut connection = target.connect().await?;
    connection.json("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await?;
    let node = |n| serde_json::to_vec(&objects::node(&format!("node-{n:04}"))).unwrap_or_default();
    api::fill(target, "/api/v1/nodes", 0..NODES, node).await?;
    let (status, untaint) = (objects::node_status(), json!({"spec": {"taints": null}}));
    for n in 0..NODES {
        let path = format!("/api/v1/nodes/node-{n:04}");
        connection.json("PATCH", &format!("{path}/status"), &status).await?;
        connection.json("PATCH", &path, &untaint).await?;
    }
    let pod = |n| serde_json::to_vec(&objects::waiting_pod(&format!("waiting-{n:04}"))).unwrap_or_default();
    api::fill(target, PODS, 0..WAITING, pod).await
}

/// Measures.
pub async fn run() -> Result<()> {
    let server = ApiServer::start().await?;
    prepare(&server.target).await?;
    let mut watch = server.target.watch(&format!("{PODS}?watch=1&fieldSelector=spec.nodeName!=")).await?;
    let before = server.target.subject.cpu();
    let config = server.kubeconfig();
    let started = Instant::now();
    let arguments = ["scheduler", "--leader-elect=false", "--kubeconfig", &config.to_string_lossy()];
    let scheduler = Component::start(&arguments, &server.file("scheduler.log"))?;
    let (mut bound, mut first, mut last) = (HashSet::new(), started, started);
    while bound.len() < WAITING {
        let event = timeout(PATIENCE, watch.event()).await.with_context(|| format!("{} pods bound", bound.len()))??;
        if bound.is_empty() {
            first = Instant::now();
        }
        bound.extend(event["object"]["metadata"]["name"].as_str().map(str::to_owned));
        last = Instant::now();
    }
    let cpu = |spent: Duration| rounded(spent.as_secs_f64() * 1e6 / WAITING as f64);
    let rate = WAITING as f64 / (last - first).as_secs_f64();
    let why = json!({
        "nodes": NODES, "pods": WAITING, "first_bind_after_s": rounded((first - started).as_secs_f64()),
        "scheduler_cpu_us_a_pod": cpu(scheduler.subject().cpu()),
        "server_cpu_us_a_pod": cpu(server.target.subject.cpu() - before),
        "scheduler_pss_mib": rounded(scheduler.subject().memory().pss),
    });
    report("scheduler", "binds", rate, "1/s", why);
    Ok(())
}
