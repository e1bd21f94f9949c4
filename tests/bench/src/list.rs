//! Many large pods: listing them, holding them.

use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;

use crate::{
    api,
    cluster::ApiServer,
    measure::{Samples, report, rounded, with},
    objects::{self, PODS},
};

async fn fill(server: &ApiServer, numbers: std::ops::Range<usize>) -> Result<()> {
    // The API server by itself has no controller that would make it.
    if numbers.start == 0 {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        let mut connection = server.target.connect().await?;
        connection.json("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await?;
    }
    let make = |n| serde_json::to_vec(&objects::large_pod(&format!("shop-6d4cf56db6-{n:05}"))).unwrap_or_default();
    api::fill(&server.target, PODS, numbers, make).await
}

/// LIST of five thousand pods, consistent (no resourceVersion asked for).
pub async fn list() -> Result<()> {
    const PODS_STORED: usize = 5_000;
    const TIMES: u32 = 15;
    let server = ApiServer::start().await?;
    fill(&server, 0..PODS_STORED).await?;
    let mut connection = server.target.connect().await?;
    let (mut took, mut bytes) = (Vec::new(), 0);
    connection.send("GET", "/api/v1/pods", "", b"").await?;
    let before = server.target.subject.cpu();
    for _ in 0..TIMES {
        let began = Instant::now();
        let (status, body) = connection.send("GET", "/api/v1/pods", "", b"").await?;
        took.push(began.elapsed());
        bytes = body.len();
        if status != 200 {
            bail!("the list was answered {status}");
        }
    }
    let cpu = (server.target.subject.cpu() - before).as_secs_f64() * 1e3 / f64::from(TIMES);
    let samples = Samples::ms(took);
    let why = json!({"pods": PODS_STORED, "bytes": bytes, "cpu_ms_each": rounded(cpu)});
    report("list", "LIST 5,000 pods, p50", samples.at(0.5), "ms", with(why, samples.told()));
    report("list", "LIST 5,000 pods, server CPU", cpu, "ms", json!({"samples": TIMES}));
    Ok(())
}

/// Memory of an API server that holds ten thousand pods.
pub async fn memory() -> Result<()> {
    const PODS_STORED: usize = 10_000;
    let mut server = ApiServer::start().await?;
    let empty = server.target.subject.memory().pss;
    let (began, before) = (Instant::now(), server.target.subject.cpu());
    fill(&server, 0..PODS_STORED).await?;
    let (took, cpu) = (began.elapsed().as_secs_f64(), server.target.subject.cpu() - before);
    let after = server.target.subject.memory();
    let ready = server.restart().await?;
    let restarted = server.target.subject.memory().pss;
    let why = json!({
        "empty_mib": rounded(empty), "restarted_mib": rounded(restarted), "restart_s": rounded(ready.as_secs_f64()),
        "creates_a_second": rounded(PODS_STORED as f64 / took),
        "cpu_us_a_create": rounded(cpu.as_secs_f64() * 1e6 / PODS_STORED as f64),
    });
    report("memory", "10,000 pods stored: PSS", after.pss, "MiB", with(why, after.told()));
    Ok(())
}
