//! `hack/bench table`: makes the table of docs/benchmarks.md out of lines that benches printed, in however many runs: the median
//! of each figure, beside the figures of upstream and the goals.

use std::{fs, io::BufRead};

use anyhow::Result;
use serde_json::Value;

use crate::measure::median;

/// One number of a row.
#[derive(Clone, Copy)]
struct Figure {
    bench: &'static str,
    metric: &'static str,
    /// Which of two set-ups; empty where there is one.
    setup: &'static str,
    field: &'static str,
    goal: f64,
    more_is_better: bool,
}

const fn at_most(bench: &'static str, metric: &'static str, field: &'static str, goal: f64) -> Figure {
    Figure { bench, metric, setup: "", field, goal, more_is_better: false }
}

const fn at_least(bench: &'static str, metric: &'static str, field: &'static str, goal: f64) -> Figure {
    Figure { more_is_better: true, ..at_most(bench, metric, field, goal) }
}

/// The whole cluster in one process.
const fn up(figure: Figure) -> Figure {
    Figure { setup: "up", ..figure }
}

struct Row {
    what: &'static str,
    upstream: &'static str,
    goal: &'static str,
    /// `{}` for each figure.
    measured: &'static str,
    figures: &'static [Figure],
}

const ONE: &str = "created to Running, p50";
const ROWS: &[Row] = &[
    Row {
        what: "start to first pod Running (image present)",
        upstream: "10.7 s at its best tuning, 19.9 s by default",
        goal: "1 s",
        measured: "{} s",
        figures: &[at_most("cold", "start to first pod Running", "value", 1.0)],
    },
    Row {
        what: "idle, no pods: PSS, CPU of one core",
        upstream: "645 MiB, 7.2%",
        goal: "60 MiB, 1%",
        measured: "{} MiB, {}%",
        figures: &[at_most("idle", "no pods: PSS", "value", 60.0), at_most("idle", "no pods: CPU", "value", 1.0)],
    },
    Row {
        what: "idle, 20 pods, shims and containers included",
        upstream: "743 MiB, 8.7%",
        goal: "100 MiB, 1%",
        measured: "{} MiB, {}%",
        figures: &[at_most("idle", "20 pods: PSS", "value", 100.0), at_most("idle", "20 pods: CPU", "value", 1.0)],
    },
    Row {
        what: "pod created → Running on a watch, one at a time, p50 / p90 / worst of 60; CPU a pod",
        upstream: "940 / 1,390 / 3,020 ms; 400 ms",
        goal: "80 / 150 / 300 ms; 50 ms",
        measured: "{} / {} / {} ms; {} ms",
        figures: &[
            at_most("pods", ONE, "p50_ms", 80.0),
            at_most("pods", ONE, "p90_ms", 150.0),
            at_most("pods", ONE, "worst_ms", 300.0),
            at_most("pods", "created to Running, CPU a pod", "value", 50.0),
        ],
    },
    Row {
        what: "30 pods at once, all Ready; CPU a pod",
        upstream: "4.8 s; 215 ms",
        goal: "2 s; 50 ms",
        measured: "{} s; {} ms",
        figures: &[
            at_most("pods", "30 at once, all Ready", "value", 2.0),
            at_most("pods", "30 at once, CPU a pod", "value", 50.0),
        ],
    },
    Row {
        what: "Deployment 0 → 50 Ready; 50 → 0 gone",
        upstream: "8.6 s; 6.8 s",
        goal: "3 s; 2 s",
        measured: "{} s; {} s",
        figures: &[at_most("deploy", "0 to 50 Ready", "value", 3.0), at_most("deploy", "50 to 0 gone", "value", 2.0)],
    },
    Row {
        what: "ConfigMap (1 KiB) creates, 16 connections, durable; CPU each",
        upstream: "1,093/s; 1,640 us",
        goal: "5,000/s; 250 us",
        measured: "{}/s; {} us",
        figures: &[
            up(at_least("api", "ConfigMap creates", "value", 5000.0)),
            up(at_most("api", "ConfigMap creates", "cpu_us_each", 250.0)),
        ],
    },
    Row {
        what: "GET one object, 16 connections; CPU each",
        upstream: "2,144/s; 832 us",
        goal: "15,000/s; 80 us",
        measured: "{}/s; {} us",
        figures: &[
            up(at_least("api", "GET one object", "value", 15_000.0)),
            up(at_most("api", "GET one object", "cpu_us_each", 80.0)),
        ],
    },
    Row {
        what: "LIST 5,000 pods (30 MB), consistent; CPU",
        upstream: "516 ms; 625 ms",
        goal: "80 ms; 60 ms",
        measured: "{} ms; {} ms",
        figures: &[
            at_most("list", "LIST 5,000 pods, p50", "value", 80.0),
            at_most("list", "LIST 5,000 pods, server CPU", "value", 60.0),
        ],
    },
    Row {
        what: "100 watchers x 500 updates: CPU a delivery; latency p99",
        upstream: "108 us; 11 ms",
        goal: "20 us; 10 ms",
        measured: "{} us; {} ms",
        figures: &[at_most("watch", "CPU a delivery", "value", 20.0), at_most("watch", "latency, p99", "value", 10.0)],
    },
    Row {
        what: "API server with 10,000 pods stored (60 MB of JSON)",
        upstream: "1,042 MiB",
        goal: "200 MiB",
        measured: "{} MiB",
        figures: &[at_most("memory", "10,000 pods stored: PSS", "value", 200.0)],
    },
    Row {
        what: "scheduler, 1,000 nodes, 5,000 pods waiting",
        upstream: "375 binds/s",
        goal: "2,000/s",
        measured: "{}/s",
        figures: &[at_least("scheduler", "binds", "value", 2000.0)],
    },
    Row {
        what: "an endpoint changed among 1,000 services → answered by the new one; CPU",
        upstream: "58 ms; 47 ms (the proxy's)",
        goal: "25 ms; 10 ms (the proxy's)",
        measured: "{} ms; {} ms (a whole second node's)",
        figures: &[
            at_most("services", "endpoint changed, p50", "value", 25.0),
            at_most("services", "endpoint changed, CPU of a second node", "value", 10.0),
        ],
    },
    Row {
        what: "an endpoint of a headless service changed → its name answered by the node's DNS with the new one, p99",
        upstream: "",
        goal: "100 ms",
        measured: "{} ms",
        figures: &[at_most("services", "endpoint changed, name answered, p50", "p99_ms", 100.0)],
    },
    Row {
        what: "1,000 services with 2 endpoints each created → all answer",
        upstream: "1.1 s",
        goal: "0.3 s",
        measured: "{} s",
        figures: &[at_most("services", "1,000 created, all answer", "value", 0.3)],
    },
    Row {
        what: "a namespace with 1,000 services deleted",
        upstream: "14.6 s",
        goal: "2 s",
        measured: "{} s",
        figures: &[at_most("services", "namespace with 1,000 deleted", "value", 2.0)],
    },
    Row {
        what: "5,000 services programmed from nothing",
        upstream: "",
        goal: "5 s",
        measured: "{} s",
        figures: &[at_most("services", "5,000 programmed from nothing", "value", 5.0)],
    },
    Row {
        what: "an idle node more: PSS, CPU of one core",
        upstream: "",
        goal: "35 MiB, 0.5%",
        measured: "{} MiB, {}%",
        figures: &[
            at_most("nodes", "idle node more: PSS", "value", 35.0),
            at_most("nodes", "idle node more: CPU", "value", 0.5),
        ],
    },
    Row {
        what: "TCP from pod to pod on two nodes, of a bare veth pair's: host-gw; VXLAN",
        upstream: "",
        goal: "90%; 60%",
        measured: "{}%; {}%",
        figures: &[at_least("net", "host-gw", "of_bare_percent", 90.0), at_least("net", "VXLAN", "of_bare_percent", 60.0)],
    },
];

/// Reads lines from standard input and prints the table.
pub fn print() -> Result<()> {
    let mut lines = Vec::new();
    for line in std::io::stdin().lock().lines() {
        lines.extend(serde_json::from_str::<Value>(&line?).ok());
    }
    println!("{}; {}\n", machine(), runs(&lines));
    println!("| | upstream | goal | measured |\n|---|---|---|---|");
    for row in ROWS {
        println!("| {} | {} | {} | {} |", row.what, row.upstream, row.goal, measured(row, &lines));
    }
    Ok(())
}

/// How often things were measured.
fn runs(lines: &[Value]) -> String {
    let figures = ROWS.iter().flat_map(|row| row.figures);
    let counts: Vec<usize> = figures.map(|figure| figure.values(lines).count()).filter(|count| *count > 0).collect();
    match (counts.iter().min(), counts.iter().max()) {
        (Some(1), Some(1)) => "one run".to_owned(),
        (Some(least), Some(most)) if least == most => format!("the median of {most} runs"),
        (Some(least), Some(most)) => format!("the median of {least} to {most} runs"),
        _ => "nothing was measured".to_owned(),
    }
}

fn measured(row: &Row, lines: &[Value]) -> String {
    let mut text = row.measured.to_owned();
    let mut missed = false;
    for figure in row.figures {
        let found = median(figure.values(lines));
        missed |= found.is_some_and(|v| if figure.more_is_better { v < figure.goal } else { v > figure.goal });
        text = text.replacen("{}", &found.map_or_else(|| "?".to_owned(), shown), 1);
    }
    if missed { format!("**{text}**") } else { text }
}

impl Figure {
    /// What the lines say of it, one value a run.
    fn values<'a>(&'a self, lines: &'a [Value]) -> impl Iterator<Item = f64> + 'a {
        let here = |line: &&Value| line["bench"] == self.bench && line["metric"] == self.metric;
        let here = lines.iter().filter(here).filter(|line| self.setup.is_empty() || line["setup"] == self.setup);
        here.filter_map(|line| line[self.field].as_f64())
    }
}

/// Three digits, thousands apart.
fn shown(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let whole = format!("{value:.0}");
    match whole.len() {
        0..4 => whole,
        length => format!("{},{}", &whole[..length - 3], &whole[length - 3..]),
    }
}

fn machine() -> String {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.split_once(':').map(|(_, v)| v.trim().to_owned()));
        line.unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = line("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1048576.0;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = line("/proc/cpuinfo", "model name");
    format!("{cores} cores ({model}), {memory:.0} GiB, Linux {}", kernel.split('-').next().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians_thousands_misses_and_runs() {
        let line = |value: f64, cpu: f64, setup: &str| json!({"bench": "api", "metric": "ConfigMap creates", "setup": setup, "value": value, "cpu_us_each": cpu});
        let lines = [line(9.0, 9.0, "apiserver"), line(6100.4, 90.0, "up"), line(3.0, 300.0, "up"), line(7e3, 127.9, "up")];
        let row = ROWS.iter().find(|row| row.what.starts_with("ConfigMap")).unwrap();
        assert_eq!(measured(row, &lines), "6,100/s; 128 us");
        assert_eq!(measured(row, &lines[1..3]), "**3,052/s; 195 us**");
        assert_eq!((runs(&lines), runs(&lines[..2])), ("the median of 3 runs".to_owned(), "one run".to_owned()));
        assert_eq!(measured(row, &lines[2..3]), "**3/s; 300 us**");
        assert_eq!(measured(row, &lines[..1]), "?/s; ? us");
    }
}
