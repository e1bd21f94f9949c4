//! A hundred watchers of ConfigMaps, each on a connection of its own, and updates of one object at a steady pace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    cluster::ApiServer,
    measure::{Samples, disk, report, rounded, with},
    objects::{self, CONFIG_MAPS},
};

const WATCHERS: usize = 100;
const UPDATES: usize = 500;
const PACE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(60);

fn number(line: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"\"says\":\"";
    let at = line.windows(MARK.len()).position(|w| w == MARK)? + MARK.len();
    let digits = line[at..].iter().take_while(|b| b.is_ascii_digit());
    Some(digits.fold(0, |n, d| n * 10 + usize::from(d - b'0')))
}

/// Measures.
pub async fn run() -> Result<()> {
    let server = ApiServer::start().await?;
    let target = &server.target;
    let mut connection = target.connect().await?;
    connection.json("POST", CONFIG_MAPS, &objects::config_map("watched", "not yet")).await?;
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let mut watch = target.watch(&format!("{CONFIG_MAPS}?watch=1")).await?;
        // The object as it is.
        watch.line().await?;
        let reading = async move {
            let mut seen = Vec::with_capacity(UPDATES);
            while seen.len() < UPDATES {
                let n = number(watch.line().await?).context("find the number in the event")?;
                seen.push((n, Instant::now()));
            }
            Ok::<_, anyhow::Error>(seen)
        };
        watchers.push(tokio::spawn(tokio::time::timeout(PATIENCE, reading)));
    }
    let path = format!("{CONFIG_MAPS}/watched");
    let (mut sent, before) = (Vec::with_capacity(UPDATES), target.subject.cpu());
    let mut pace = tokio::time::interval(PACE);
    for n in 0..UPDATES {
        let body = serde_json::to_vec(&objects::config_map("watched", &n.to_string()))?;
        pace.tick().await;
        sent.push(Instant::now());
        connection.send("PUT", &path, "application/json", &body).await?;
    }
    let mut latencies = Vec::new();
    for watcher in watchers {
        latencies.extend(watcher.await???.into_iter().map(|(n, at)| at - sent[n]));
    }
    let cpu = target.subject.cpu() - before;
    let deliveries = WATCHERS * UPDATES;
    let samples = Samples::ms(latencies);
    let why = json!({"watchers": WATCHERS, "updates": UPDATES, "pace_ms": PACE.as_millis() as u64});
    let each = cpu.as_secs_f64() * 1e6 / deliveries as f64;
    report("watch", "CPU a delivery", each, "us", with(why.clone(), json!({"cpu_s": rounded(cpu.as_secs_f64())})));
    let why =
        with(with(why, disk()?), json!({"explained": "from sending the update to each watcher's reading of the event"}));
    report("watch", "latency, p99", samples.at(0.99), "ms", with(why, samples.told()));
    Ok(())
}
