//! `hack/bench`: the figures of docs/benchmarks.md, as JSON lines on standard output.
//!
//! Everything is measured from outside, as a user would see it: `knarr` runs as its own processes, requests come over TLS
//! with a client certificate, processor time is what the kernel accounted to the cluster's cgroup (shims, containers and
//! what has ended included) or to the server's process. Nothing here is a test: figures depend on the machine and on what
//! else it does, so nothing fails for being slow. Only `power`, which hack/vm-test asks, is about what is lost.

mod api;
mod cluster;
mod cold;
mod http;
mod list;
mod measure;
mod network;
mod node;
mod objects;
mod power;
mod scheduler;
mod services;
mod table;
mod watch;

use std::process::ExitCode;

use anyhow::{Result, bail};

const BENCHES: &[&str] =
    &["cold", "idle", "pods", "deploy", "api", "list", "watch", "memory", "scheduler", "services", "nodes", "net"];

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The causes and no backtrace, whatever RUST_BACKTRACE says: what went wrong is outside of this program.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut asked: Vec<String> = std::env::args().skip(1).collect();
    if asked == ["table"] {
        return table::print();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let [first, kubeconfig] = &asked[..]
        && first == "power"
    {
        return runtime.block_on(power::run(kubeconfig));
    }
    if asked.is_empty() || asked.iter().any(|a| a == "all") {
        asked = BENCHES.iter().map(|b| (*b).to_owned()).collect();
    }
    if let Some(unknown) = asked.iter().find(|a| !BENCHES.contains(&a.as_str())) {
        bail!("there is no bench {unknown:?}; there are: {}", BENCHES.join(" "));
    }
    runtime.block_on(run(&asked))
}

async fn run(asked: &[String]) -> Result<()> {
    let is = |name: &str| asked.iter().any(|a| a == name);
    if is("cold") {
        cold::run(5).await?;
    }
    if ["idle", "pods", "deploy", "api"].iter().any(|name| is(name)) {
        let cluster = cluster::Cluster::up("bench-node")?;
        if is("idle") {
            node::idle(&cluster).await?;
        }
        if is("pods") {
            node::pods(&cluster).await?;
        }
        if is("deploy") {
            node::deployment(&cluster).await?;
        }
        if is("api") {
            api::run(&cluster.target()?, "up").await?;
        }
    }
    if is("api") {
        api::run(&cluster::ApiServer::start().await?.target, "apiserver").await?;
    }
    if is("list") {
        list::list().await?;
    }
    if is("watch") {
        watch::run().await?;
    }
    if is("memory") {
        list::memory().await?;
    }
    if is("scheduler") {
        scheduler::run().await?;
    }
    if is("services") {
        services::run().await?;
    }
    if is("nodes") {
        services::idle_nodes().await?;
    }
    if is("net") {
        network::run().await?;
    }
    Ok(())
}
