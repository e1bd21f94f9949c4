//! Processor time, memory, percentiles, and the lines that tell them.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use harness::traces::{groups, processes};
use serde_json::{Map, Value, json};

/// Prints one figure; `why` is an object of what explains it.
pub fn report(bench: &str, metric: &str, value: f64, unit: &str, why: Value) {
    let mut line = Map::new();
    line.insert("bench".into(), json!(bench));
    line.insert("metric".into(), json!(metric));
    line.insert("value".into(), json!(rounded(value)));
    line.insert("unit".into(), json!(unit));
    if let Value::Object(why) = why {
        line.extend(why);
    }
    let build = std::env::var("BENCH_BUILD").unwrap_or_else(|_| "release".to_owned());
    line.insert("build".into(), json!(build));
    println!("{}", Value::Object(line));
}

/// Three digits are more than these figures are good for.
pub fn rounded(value: f64) -> f64 {
    let scale = if value.abs() >= 100.0 { 1.0 } else { 100.0 };
    (value * scale).round() / scale
}

/// The middle value, or what lies between the two in the middle; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    let lower = values.len().checked_sub(1)? / 2;
    Some(f64::midpoint(values[lower], values[upper]))
}

/// Sorted samples.
pub struct Samples(Vec<f64>);

impl Samples {
    /// Of durations, in milliseconds.
    pub fn ms(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut all: Vec<f64> = durations.into_iter().map(|d| d.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The value that this share of the samples does not exceed.
    pub fn at(&self, share: f64) -> f64 {
        let at = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(at.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
    }

    /// Count, median, tail and worst, for a report.
    pub fn told(&self) -> Value {
        json!({
            "samples": self.0.len(), "p50_ms": rounded(self.at(0.5)), "p90_ms": rounded(self.at(0.9)),
            "p99_ms": rounded(self.at(0.99)), "worst_ms": rounded(self.at(1.0)),
        })
    }
}

/// What durable writes wait for: the median and the ninth decile of 100 syncs of 4 KiB on the disk that clusters use, in
/// milliseconds.
pub fn disk() -> std::io::Result<Value> {
    use std::{io::Write, time::Instant};
    fs::create_dir_all("/var/lib/knarr")?;
    let mut file = tempfile::tempfile_in("/var/lib/knarr")?;
    let mut took = Vec::new();
    for _ in 0..100 {
        file.write_all(&[7; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed());
    }
    let samples = Samples::ms(took);
    Ok(json!({"disk_sync_p50_ms": rounded(samples.at(0.5)), "disk_sync_p90_ms": rounded(samples.at(0.9))}))
}

/// Joins two objects.
pub fn with(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}

/// Something whose processor time and memory can be read.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A cluster's cgroup: every process in it, also those that have ended.
    Cluster(String),
    /// One process.
    Process(u32),
}

impl Subject {
    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        match self {
            Self::Cluster(name) => groups(name).iter().find_map(|group| group_cpu(group)).unwrap_or_default(),
            Self::Process(pid) => process_cpu(*pid),
        }
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        match self {
            Self::Cluster(name) => processes(name).into_iter().map(i32::cast_unsigned).collect(),
            Self::Process(pid) => vec![*pid],
        }
    }

    /// Memory in MiB by program: PSS, resident, and how many processes.
    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for pid in self.pids() {
            let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            let kib = |field: &str| {
                let line = rollup.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
                line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0)
            };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            let one = memory.by_program.entry(name).or_default();
            one.0 += 1;
            one.1 += kib("Pss") / 1024.0;
            memory.pss += kib("Pss") / 1024.0;
            memory.rss += kib("Rss") / 1024.0;
            memory.anonymous += kib("Pss_Anon") / 1024.0;
        }
        memory
    }
}

/// Memory in MiB.
#[derive(Debug, Default)]
pub struct Memory {
    /// Proportional set size.
    pub pss: f64,
    /// Resident set size.
    pub rss: f64,
    /// The part of `pss` that no file backs.
    pub anonymous: f64,
    /// Count and PSS of each program's processes.
    pub by_program: BTreeMap<String, (usize, f64)>,
}

impl Memory {
    /// For a report.
    pub fn told(&self) -> Value {
        let by: Map<String, Value> = self
            .by_program
            .iter()
            .map(|(name, (count, pss))| (name.clone(), json!({"processes": count, "pss_mib": rounded(*pss)})))
            .collect();
        json!({"rss_mib": rounded(self.rss), "anonymous_mib": rounded(self.anonymous), "programs": by})
    }
}

fn group_cpu(group: &Path) -> Option<Duration> {
    if let Ok(nanos) = fs::read_to_string(group.join("cpuacct.usage")) {
        return nanos.trim().parse().ok().map(Duration::from_nanos);
    }
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let micros = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
    micros.trim().parse().ok().map(Duration::from_micros)
}

/// The sum over threads is finer than the ticks of `/proc/PID/stat`, but loses threads that ended; take what says more.
fn process_cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = threads.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    let alive = Duration::from_nanos(nanos.sum());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    alive.max(Duration::from_millis(ticks * 10))
}
