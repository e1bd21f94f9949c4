//! Small requests on sixteen connections: durable creates, and GET of one object.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde_json::json;

use crate::{
    http::Target,
    measure::{Samples, disk, report, rounded, with},
    objects::{self, CONFIG_MAPS},
};

/// Connections.
pub const CONNECTIONS: usize = 16;
const SPAN: Duration = Duration::from_secs(4);

/// What a connection sends: method, path and body of its `n`th request.
type Requests = Arc<dyn Fn(usize) -> (&'static str, String, Vec<u8>) + Send + Sync>;

async fn load(target: &Target, span: Duration, requests: Requests) -> Result<(f64, Samples, f64)> {
    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(target.connect().await?);
    }
    let (began, before) = (Instant::now(), target.subject.cpu());
    let workers: Vec<_> = open
        .into_iter()
        .map(|mut connection| {
            let (stop, next, requests) = (stop.clone(), next.clone(), requests.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let (method, path, body) = requests(next.fetch_add(1, Ordering::Relaxed));
                    let began = Instant::now();
                    let (status, answer) = connection.send(method, &path, "application/json", &body).await?;
                    if status >= 300 {
                        bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
                    }
                    took.push(began.elapsed());
                }
                Ok(took)
            })
        })
        .collect();
    tokio::time::sleep(span).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await??);
    }
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), target.subject.cpu() - before);
    let cpu_us = cpu.as_secs_f64() * 1e6 / all.len().max(1) as f64;
    Ok((all.len() as f64 / elapsed, Samples::ms(all), cpu_us))
}

/// Both.
pub async fn run(target: &Target, setup: &str) -> Result<()> {
    let create: Requests = Arc::new(|n| {
        let object = objects::config_map(&format!("load-{n}"), "");
        ("POST", CONFIG_MAPS.to_owned(), serde_json::to_vec(&object).unwrap_or_default())
    });
    let disk = disk()?;
    let (rate, samples, cpu) = load(target, SPAN, create).await?;
    let why = json!({"setup": setup, "connections": CONNECTIONS, "cpu_us_each": rounded(cpu)});
    report("api", "ConfigMap creates", rate, "1/s", with(with(why, disk), samples.told()));
    let get: Requests = Arc::new(|_| ("GET", format!("{CONFIG_MAPS}/load-0"), Vec::new()));
    let (rate, samples, cpu) = load(target, SPAN, get).await?;
    let why = json!({"setup": setup, "connections": CONNECTIONS, "cpu_us_each": rounded(cpu)});
    report("api", "GET one object", rate, "1/s", with(why, samples.told()));
    Ok(())
}

/// Creates objects `0..count` on all connections.
pub async fn fill(target: &Target, path: &str, numbers: std::ops::Range<usize>, make: fn(usize) -> Vec<u8>) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (target, path, next, end) = (target.clone(), path.to_owned(), next.clone(), numbers.end);
            tokio::spawn(async move {
                let mut connection = target.connect().await?;
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= end {
                        return Ok(());
                    }
                    let (status, answer) = connection.send("POST", &path, "application/json", &make(n)).await?;
                    if status >= 300 {
                        bail!("POST {path}: {status} {}", String::from_utf8_lossy(&answer));
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}
