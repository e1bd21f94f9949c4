//! What a local cluster of several servers has on no node: the one address by which people reach the API, whichever server is gone;
//! and etcd, if the servers are two, since of two members none may be missing.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use process::flags::LogFlags;
use tokio::net::TcpListener;

use crate::{
    balance::{self, Servers},
    commands::run_node::Report,
    compose::parts::Parts,
    local::{
        control::{self, Answer},
        etcd,
        record::{Cluster, Node},
    },
};

/// Runs it until it is told to end.
pub fn run(cluster: &Cluster, outside: &Node) -> Result<()> {
    process::logging::init(&LogFlags { verbosity: 0, format: "text".to_owned(), file: None })?;
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    threads.block_on(async {
        let shutdown = process::shutdown::on_signals().context("listen for signals")?;
        let mut parts = Parts::new(shutdown.clone());
        let socket = control::listen(&outside.folder)?;
        if cluster.etcd_members()?.contains(outside) {
            Report::Step("starting etcd".into()).send();
            etcd::ensure(cluster, outside).await?;
            let of = (cluster.clone(), outside.clone());
            parts.run("etcd", move |shutdown| etcd::run(of.0.clone(), of.1.clone(), shutdown));
        }
        let address = (outside.address, 6443);
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {}", outside.address))?;
        // It is ready as soon as anybody can ask.
        let handler: control::Handler = Arc::new(|command, _| match command {
            "wait ready" => Ok(Answer::Lines(Vec::new())),
            other => bail!("no node is here to do {other:?}"),
        });
        tokio::spawn(control::serve(socket, handler));
        Report::Ready.send();
        balance::serve(listener, Servers::new(cluster.servers()?), shutdown).await;
        Ok(())
    })
}
