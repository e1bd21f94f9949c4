//! What runs here, in numbers: `/stats/summary`, `/metrics`, `/metrics/resource`, `/metrics/probes`, `/metrics/cadvisor`. What can be
//! asked for is asked for when it is wanted; nothing is sampled in between.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use cri::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{App, Refusal, json as answer};
use crate::{
    eviction::usage::{self, OfVolume},
    metrics::{Metrics, Shown, ShownProbes},
    node::facts,
    pod::{record::keys, spec, status::whole_second},
    runtime::RuntimeError,
};

/// One container's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Figures {
    namespace: String,
    pod: String,
    uid: String,
    name: String,
    id: String,
    /// When it was made, in nanoseconds since 1970.
    created: i64,
    at: i64,
    cpu_ns: u64,
    cpu_rate: u64,
    working_set: u64,
    usage: u64,
    rss: u64,
    disk: u64,
}

fn value(v: &Option<v1::UInt64Value>) -> u64 {
    v.as_ref().map_or(0, |v| v.value)
}

fn figures(stats: &v1::ContainerStats) -> Option<Figures> {
    let attributes = stats.attributes.as_ref()?;
    let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
    Some(Figures {
        namespace: label(keys::POD_NAMESPACE),
        pod: label(keys::POD_NAME),
        uid: label(keys::POD_UID),
        name: label(keys::CONTAINER_NAME),
        id: attributes.id.clone(),
        created: 0,
        at: cpu.timestamp,
        cpu_ns: value(&cpu.usage_core_nano_seconds),
        cpu_rate: value(&cpu.usage_nano_cores),
        working_set: value(&memory.working_set_bytes),
        usage: value(&memory.usage_bytes),
        rss: value(&memory.rss_bytes),
        disk: stats.writable_layer.as_ref().map_or(0, |w| value(&w.used_bytes)),
    })
}

fn failed(error: &RuntimeError) -> Refusal {
    Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.rpc())
}

async fn collect(app: &App) -> Result<Vec<Figures>, Refusal> {
    with_age(app, app.ctx.runtime.container_stats().await.map_err(|error| failed(&error))?).await
}

/// What is known of a pod's sandbox.
#[derive(Default)]
struct OfPod {
    id: String,
    cpu_ns: u64,
    network: Option<v1::NetworkUsage>,
}

/// What `collect` collects, and the same of pods, by UID. A runtime need not know pods' statistics.
async fn of_pods(app: &App) -> Result<(Vec<Figures>, HashMap<String, OfPod>), Refusal> {
    let Ok(pods) = app.ctx.runtime.sandbox_stats().await else { return Ok((collect(app).await?, HashMap::new())) };
    let known = pods.iter().filter_map(of_pod).collect();
    let stats = pods.into_iter().filter_map(|pod| pod.linux).flat_map(|linux| linux.containers).collect();
    Ok((with_age(app, stats).await?, known))
}

async fn with_age(app: &App, stats: Vec<v1::ContainerStats>) -> Result<Vec<Figures>, Refusal> {
    let containers = app.ctx.runtime.containers(None).await.map_err(|error| failed(&error))?;
    let created: HashMap<String, i64> = containers.into_iter().map(|c| (c.id, c.created_at)).collect();
    let with_age = |f: Figures| Figures { created: created.get(&f.id).copied().unwrap_or(f.at), ..f };
    Ok(stats.iter().filter_map(figures).map(with_age).collect())
}

fn node_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // Everything but idle and iowait, in hundredths of a second.
    let busy: u64 = fields.iter().enumerate().filter(|(i, _)| ![3, 4].contains(i) && *i < 8).map(|(_, v)| v).sum();
    busy * 10_000_000
}

fn node_working_set() -> u64 {
    u64::try_from(facts::memory() - facts::memory_available()).unwrap_or(0)
}

/// `/stats/summary`.
pub async fn summary(State(app): State<App>) -> Result<Response, Refusal> {
    let (all, sandboxes) = of_pods(&app).await?;
    let here: HashSet<&str> = all.iter().map(|f| f.uid.as_str()).collect();
    let listed =
        app.pods.list().iter().filter(|pod| here.contains(spec::uid(pod).as_str())).map(|p| Pod::clone(p)).collect();
    let volumes = usage::of_volumes(&app.ctx, listed).await;
    let now = whole_second(app.ctx.now()).to_string();
    let time =
        |at: i64| Timestamp::from_nanosecond(i128::from(at)).map(|t| whole_second(t).to_string()).unwrap_or(now.clone());
    let cpu = |at: &str, ns: u64, rate: u64| json!({"time": at, "usageCoreNanoSeconds": ns, "usageNanoCores": rate});
    let mut pods: BTreeMap<(&str, &str, &str), Vec<&Figures>> = BTreeMap::new();
    for f in &all {
        pods.entry((&f.namespace, &f.pod, &f.uid)).or_default().push(f);
    }
    let container = |f: &&Figures| {
        let at = time(f.at);
        json!({"name": f.name, "startTime": time(f.created), "cpu": cpu(&at, f.cpu_ns, f.cpu_rate),
            "memory": {"time": at, "workingSetBytes": f.working_set, "usageBytes": f.usage, "rssBytes": f.rss},
            "rootfs": {"time": at, "usedBytes": f.disk}})
    };
    let pods: Vec<Value> = pods
        .into_iter()
        .map(|((namespace, name, uid), list)| {
            let sum = |of: fn(&Figures) -> u64| list.iter().map(|f| of(f)).sum::<u64>();
            let began = list.iter().map(|f| f.created).min().unwrap_or_default();
            let mut pod = json!({"podRef": {"name": name, "namespace": namespace, "uid": uid}, "startTime": time(began),
                "containers": list.iter().map(container).collect::<Vec<_>>(),
                "cpu": cpu(&now, sum(|f| f.cpu_ns), sum(|f| f.cpu_rate)),
                "memory": {"time": now, "workingSetBytes": sum(|f| f.working_set), "usageBytes": sum(|f| f.usage)}});
            if let Some(usage) = sandboxes.get(uid).and_then(|pod| pod.network.as_ref()) {
                pod["network"] = network(usage, &time(usage.timestamp));
            }
            if let Some(volumes) = volumes.get(uid).filter(|volumes| !volumes.is_empty()) {
                pod["volume"] = volumes.iter().map(|v| volume(v, &now)).collect();
            }
            pod
        })
        .collect();
    let (size, free) = facts::disk(&app.ctx.config.root_dir);
    let booted = facts::booted().saturating_mul(1_000_000_000);
    let node = json!({"nodeName": app.ctx.facts.name, "startTime": time(booted),
        "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu_ns()},
        "memory": {"time": now, "availableBytes": facts::memory_available(), "workingSetBytes": node_working_set(),
            "usageBytes": facts::memory() - facts::memory_free(), "rssBytes": facts::memory_anonymous()},
        "fs": {"time": now, "availableBytes": free, "capacityBytes": size, "usedBytes": size - free}});
    Ok(answer(&json!({"node": node, "pods": pods})))
}

/// A volume's figures.
fn volume(v: &OfVolume, at: &str) -> Value {
    json!({"time": at, "name": v.name, "usedBytes": v.held.bytes, "availableBytes": v.space.available,
        "capacityBytes": v.space.capacity, "inodesUsed": v.held.inodes, "inodesFree": v.inodes.available,
        "inodes": v.inodes.capacity})
}

/// A pod's UID and what is known of its sandbox.
fn of_pod(stats: &v1::PodSandboxStats) -> Option<(String, OfPod)> {
    let attributes = stats.attributes.as_ref()?;
    let uid = attributes.metadata.as_ref()?.uid.clone();
    let linux = stats.linux.as_ref()?;
    let cpu_ns = linux.cpu.as_ref().map_or(0, |cpu| value(&cpu.usage_core_nano_seconds));
    Some((uid, OfPod { id: attributes.id.clone(), cpu_ns, network: linux.network.clone() }))
}

/// What went over a pod's network: its default interface, and then all.
fn network(usage: &v1::NetworkUsage, at: &str) -> Value {
    let one = |i: &v1::NetworkInterfaceUsage| {
        json!({"name": i.name, "rxBytes": value(&i.rx_bytes), "rxErrors": value(&i.rx_errors),
            "txBytes": value(&i.tx_bytes), "txErrors": value(&i.tx_errors)})
    };
    let mut shown = usage.default_interface.as_ref().map_or(json!({}), one);
    let others = usage.interfaces.iter().filter(|i| usage.default_interface.as_ref().is_none_or(|d| d.name != i.name));
    shown["time"] = at.into();
    shown["interfaces"] = usage.default_interface.iter().chain(others).map(one).collect();
    shown
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// `/metrics`: the kubelet itself.
pub async fn metrics(State(app): State<App>) -> Result<Response, Refusal> {
    let containers = app.ctx.runtime.containers(None).await.map_err(|error| failed(&error))?;
    let sandboxes = app.ctx.runtime.sandboxes(None).await.map_err(|error| failed(&error))?;
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for c in &containers {
        let state = match c.state() {
            v1::ContainerState::ContainerCreated => "created",
            v1::ContainerState::ContainerRunning => "running",
            v1::ContainerState::ContainerExited => "exited",
            v1::ContainerState::ContainerUnknown => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    let own = process::metrics::Metrics::default();
    own.collect(Shown(Metrics::global()));
    let mut out = own.text();
    family(&mut out, "kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    let _ = writeln!(out, "kubelet_node_name{{node=\"{}\"}} 1", app.ctx.facts.name);
    family(&mut out, "kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    let ready = sandboxes.iter().filter(|s| s.state() == v1::PodSandboxState::SandboxReady).count();
    let _ = writeln!(out, "kubelet_running_pods {ready}");
    family(&mut out, "kubelet_running_containers", "gauge", "Number of containers currently running");
    for (state, count) in states {
        let _ = writeln!(out, "kubelet_running_containers{{container_state=\"{state}\"}} {count}");
    }
    Ok(text(out))
}

/// `/metrics/resource`: what metrics-server reads.
pub async fn resource(State(app): State<App>) -> Result<Response, Refusal> {
    Ok(text(resource_text(&collect(&app).await?, seconds(node_cpu_ns()), node_working_set())))
}

fn resource_text(all: &[Figures], node_cpu: f64, node_memory: u64) -> String {
    let mut out = String::new();
    let labels = |f: &Figures| format!("container=\"{}\",namespace=\"{}\",pod=\"{}\"", f.name, f.namespace, f.pod);
    family(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for f in all {
        let _ = writeln!(out, "container_cpu_usage_seconds_total{{{}}} {}", labels(f), seconds(f.cpu_ns));
    }
    family(&mut out, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for f in all {
        let _ = writeln!(out, "container_memory_working_set_bytes{{{}}} {}", labels(f), f.working_set);
    }
    family(&mut out, "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for f in all {
        let (seconds, ms) = (f.created / 1_000_000_000, f.created / 1_000_000 % 1000);
        let _ = writeln!(out, "container_start_time_seconds{{{}}} {seconds}.{ms:03}", labels(f));
    }
    family(&mut out, "node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    let _ = writeln!(out, "node_cpu_usage_seconds_total {node_cpu}");
    family(&mut out, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    let _ = writeln!(out, "node_memory_working_set_bytes {node_memory}");
    let mut pods: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for f in all {
        let sum = pods.entry((&f.namespace, &f.pod)).or_default();
        *sum = (sum.0 + f.cpu_ns, sum.1 + f.working_set);
    }
    family(&mut out, "pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds");
    for ((namespace, pod), (cpu, _)) in &pods {
        let _ = writeln!(out, "pod_cpu_usage_seconds_total{{namespace=\"{namespace}\",pod=\"{pod}\"}} {}", seconds(*cpu));
    }
    family(&mut out, "pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for ((namespace, pod), (_, memory)) in &pods {
        let _ = writeln!(out, "pod_memory_working_set_bytes{{namespace=\"{namespace}\",pod=\"{pod}\"}} {memory}");
    }
    family(&mut out, "scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    out.push_str("scrape_error 0\n");
    out
}

/// `/metrics/probes`: how probes went.
pub async fn probes() -> Response {
    let probes = process::metrics::Metrics::empty();
    probes.collect(ShownProbes(Metrics::global()));
    text(probes.text())
}

/// `/metrics/cadvisor`: what the runtime measures, or, if it measures nothing of its own, the figures that cAdvisor is asked
/// for most; and the machine's.
pub async fn cadvisor(State(app): State<App>) -> Result<Response, Refusal> {
    let (all, pods) = of_pods(&app).await?;
    let (said, measured) = match app.ctx.runtime.metrics().await {
        Ok(metrics) => metrics,
        Err(error) if error.is_unimplemented() => few(&all),
        Err(error) => return Err(failed(&error)),
    };
    // The interface of metrics knows whole numbers only, too coarse for processor time.
    let containers = all.iter().map(|f| (f.id.clone(), f.cpu_ns));
    let exact: HashMap<String, u64> = containers.chain(pods.into_values().map(|pod| (pod.id, pod.cpu_ns))).collect();
    Ok(text(cadvisor_text(&said, &measured, &exact, &machine())))
}

/// The figures of containers as a runtime would tell them that measures them itself.
fn few(all: &[Figures]) -> (Vec<v1::MetricDescriptor>, Vec<v1::PodSandboxMetrics>) {
    use v1::MetricType::{Counter, Gauge};
    type Row = (&'static str, &'static str, v1::MetricType, fn(&Figures) -> u64);
    const ROWS: [Row; 5] = [
        ("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", Counter, |f| {
            f.cpu_ns / 1_000_000_000
        }),
        ("container_memory_working_set_bytes", "Current working set in bytes.", Gauge, |f| f.working_set),
        ("container_memory_usage_bytes", "Current memory usage in bytes, including all memory.", Gauge, |f| f.usage),
        ("container_memory_rss", "Size of RSS in bytes.", Gauge, |f| f.rss),
        ("container_fs_usage_bytes", "Bytes that the container uses of the file system.", Gauge, |f| f.disk),
    ];
    let keys = ["id", "name", "container", "pod", "namespace"].map(str::to_owned).to_vec();
    let said = ROWS.map(|(name, help, ..)| v1::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: keys.clone(),
    });
    let of = |f: &Figures| {
        let labels = vec![format!("/{}", f.id), f.id.clone(), f.name.clone(), f.pod.clone(), f.namespace.clone()];
        let metric = |(name, _, kind, value): &Row| v1::Metric {
            name: (*name).to_owned(),
            timestamp: 0,
            metric_type: (*kind).into(),
            label_values: labels.clone(),
            value: Some(v1::UInt64Value { value: value(f) }),
        };
        v1::PodSandboxMetrics { metrics: ROWS.iter().map(metric).collect(), ..Default::default() }
    };
    (said.to_vec(), all.iter().map(of).collect())
}

/// The figures of the node as a whole: name, type, what it says, labels, value.
fn machine() -> [(&'static str, &'static str, &'static str, &'static str, f64); 5] {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    [
        ("machine_cpu_cores", "gauge", "Number of logical CPU cores.", "", cpus as f64),
        ("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", "", facts::memory() as f64),
        ("container_cpu_usage_seconds_total", "counter", "", "{id=\"/\"}", seconds(node_cpu_ns())),
        ("container_memory_working_set_bytes", "gauge", "", "{id=\"/\"}", node_working_set() as f64),
        ("container_memory_usage_bytes", "gauge", "", "{id=\"/\"}", (facts::memory() - facts::memory_free()) as f64),
    ]
}

/// Metrics as text: each name once, with what it says, then its figures. `exact`: processor time in nanoseconds of containers
/// and sandboxes by the label `name`.
fn cadvisor_text(
    said: &[v1::MetricDescriptor],
    measured: &[v1::PodSandboxMetrics],
    exact: &HashMap<String, u64>,
    machine: &[(&str, &str, &str, &str, f64)],
) -> String {
    let containers = |pod: &v1::PodSandboxMetrics| pod.container_metrics.clone().into_iter().flat_map(|one| one.metrics);
    let all: Vec<v1::Metric> =
        measured.iter().flat_map(|pod| pod.metrics.clone().into_iter().chain(containers(pod))).collect();
    let mut by_name: BTreeMap<&str, Vec<&v1::Metric>> = BTreeMap::new();
    all.iter().for_each(|metric| by_name.entry(&metric.name).or_default().push(metric));
    let mut out = String::new();
    for (name, kind, help, labels, value) in machine.iter().filter(|(name, ..)| !by_name.contains_key(name)) {
        family(&mut out, name, kind, if help.is_empty() { "Of the node." } else { help });
        let _ = writeln!(out, "{name}{labels} {value}");
    }
    for (name, metrics) in by_name {
        let Some(descriptor) = said.iter().find(|one| one.name == name) else { continue };
        let counts = metrics[0].metric_type() == v1::MetricType::Counter;
        family(&mut out, name, if counts { "counter" } else { "gauge" }, &descriptor.help);
        for (_, _, _, labels, value) in machine.iter().filter(|(of, ..)| *of == name) {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
        for metric in metrics {
            let pairs = || descriptor.label_keys.iter().zip(&metric.label_values);
            let labels: Vec<String> = pairs().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let whole = value(&metric.value);
            let id = pairs().find(|(key, _)| *key == "name").and_then(|(_, id)| exact.get(id));
            let figure = match id.filter(|_| name == "container_cpu_usage_seconds_total") {
                Some(ns) => seconds(*ns).to_string(),
                None => whole.to_string(),
            };
            let _ = write!(out, "{name}{{{}}} {figure}", labels.join(","));
            // Measured earlier, by a runtime that keeps figures: milliseconds.
            let _ = match metric.timestamp {
                0 => writeln!(out),
                at => writeln!(out, " {}", at / 1_000_000),
            };
        }
    }
    out
}

/// A label's value as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_over_a_pods_network() {
        let number = |value| Some(v1::UInt64Value { value });
        let eth0 = v1::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: number(7),
            tx_errors: number(1),
            ..Default::default()
        };
        let usage = v1::NetworkUsage { default_interface: Some(eth0.clone()), interfaces: vec![eth0], ..Default::default() };
        let shown = json!({"name": "eth0", "rxBytes": 7, "rxErrors": 0, "txBytes": 0, "txErrors": 1});
        let mut expected = shown.clone();
        (expected["time"], expected["interfaces"]) = ("now".into(), json!([shown]));
        assert_eq!(network(&usage, "now"), expected);
    }

    #[test]
    fn what_the_runtime_measures_as_text() {
        let keys = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let descriptor = |name: &str, own: &[&str]| v1::MetricDescriptor {
            name: name.into(),
            help: "Help.".into(),
            label_keys: [keys(&["name", "image"]), keys(own)].concat(),
        };
        let metric = |name: &str, labels: &[&str], value| v1::Metric {
            name: name.into(),
            timestamp: 0,
            metric_type: v1::MetricType::Counter.into(),
            label_values: keys(labels),
            value: Some(v1::UInt64Value { value }),
        };
        let (cpu, bytes) = ("container_cpu_usage_seconds_total", "container_network_receive_bytes_total");
        let said = [descriptor(cpu, &[]), descriptor(bytes, &["interface"])];
        let container = v1::ContainerMetrics { container_id: "c".into(), metrics: vec![metric(cpu, &["c", "a\"b"], 1)] };
        let pod = v1::PodSandboxMetrics {
            pod_sandbox_id: "s".into(),
            metrics: vec![metric(cpu, &["s", ""], 2), metric(bytes, &["s", "", "eth0"], 9), metric("unsaid", &[], 1)],
            container_metrics: vec![container],
        };
        let exact = HashMap::from([("c".to_owned(), 1_250_000_000)]);
        let machine = [("machine_cpu_cores", "gauge", "Cores.", "", 2.0), (cpu, "counter", "", "{id=\"/\"}", 7.5)];
        let expected = [
            "# HELP machine_cpu_cores Cores.",
            "# TYPE machine_cpu_cores gauge",
            "machine_cpu_cores 2",
            "# HELP container_cpu_usage_seconds_total Help.",
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{id=\"/\"} 7.5",
            "container_cpu_usage_seconds_total{name=\"s\",image=\"\"} 2",
            "container_cpu_usage_seconds_total{name=\"c\",image=\"a\\\"b\"} 1.25",
            "# HELP container_network_receive_bytes_total Help.",
            "# TYPE container_network_receive_bytes_total counter",
            "container_network_receive_bytes_total{name=\"s\",image=\"\",interface=\"eth0\"} 9",
        ];
        let text = cadvisor_text(&said, &[pod], &exact, &machine);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        // A runtime that measures nothing itself.
        let (said, figures) = few(&[Figures { id: "c".into(), working_set: 5, ..Figures::default() }]);
        let text = cadvisor_text(&said, &figures, &exact, &[]);
        let own = "{id=\"/c\",name=\"c\",container=\"\",pod=\"\",namespace=\"\"}";
        assert!(text.contains(&format!("container_memory_working_set_bytes{own} 5\n")), "{text}");
        assert!(text.contains(&format!("container_cpu_usage_seconds_total{own} 1.25\n")), "{text}");
    }

    #[test]
    fn resource_metrics() {
        let of = |name: &str, cpu_ns, working_set| Figures {
            namespace: "n".into(),
            pod: "p".into(),
            name: name.into(),
            created: 1_700_000_000_250_000_000,
            cpu_ns,
            working_set,
            ..Figures::default()
        };
        let text = resource_text(&[of("a", 1_500_000_000, 10), of("b", 500_000_000, 5)], 7.0, 99);
        let values: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let expected = [
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 1.5",
            "container_cpu_usage_seconds_total{container=\"b\",namespace=\"n\",pod=\"p\"} 0.5",
            "container_memory_working_set_bytes{container=\"a\",namespace=\"n\",pod=\"p\"} 10",
            "container_memory_working_set_bytes{container=\"b\",namespace=\"n\",pod=\"p\"} 5",
            "container_start_time_seconds{container=\"a\",namespace=\"n\",pod=\"p\"} 1700000000.250",
            "container_start_time_seconds{container=\"b\",namespace=\"n\",pod=\"p\"} 1700000000.250",
            "node_cpu_usage_seconds_total 7",
            "node_memory_working_set_bytes 99",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 15",
            "scrape_error 0",
        ];
        assert_eq!(values, expected);
    }
}
