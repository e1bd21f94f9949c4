//! From nothing to the first pod Running. Loading the image happens in between and is not counted: it is to be there.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use crate::{
    cluster::Cluster,
    measure::{Samples, report, rounded, with},
    node,
};

/// So often.
pub async fn run(times: usize) -> Result<()> {
    let (mut ups, mut pods, mut alls, mut cpus) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        let cluster = Cluster::named("bench-cold")?;
        let began = Instant::now();
        cluster.start()?;
        let up = began.elapsed();
        let loading = cluster.subject().cpu();
        cluster.load_image()?;
        let loading = cluster.subject().cpu() - loading;
        let target = cluster.target()?;
        let mut pod = node::Pods::watch(&target).await?;
        node::wait_for_account(&target).await?;
        let began = Instant::now();
        pod.create("first").await?;
        pod.until("first", node::State::Running).await?;
        let first = began.elapsed();
        cpus.push(cluster.subject().cpu().saturating_sub(loading));
        ups.push(up);
        pods.push(first);
        alls.push(up + first);
    }
    let (all, up, pod) = (Samples::ms(alls), Samples::ms(ups), Samples::ms(pods));
    let cpu = Samples::ms(cpus).at(0.5) / 1e3;
    let parts = json!({
        "up_p50_ms": rounded(up.at(0.5)), "pod_p50_ms": rounded(pod.at(0.5)), "cpu_s": rounded(cpu),
        "explained": "knarr up's start to its end, plus pod created to Running; loading the image is left out of both",
    });
    report("cold", "start to first pod Running", all.at(0.5) / 1e3, "s", with(all.told(), parts));
    Ok(())
}
