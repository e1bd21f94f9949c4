//! Counters of requests, under upstream's names.

use std::{fmt::Write as _, time::Duration};

use http::{Method, StatusCode};
use process::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{registry::Registry, request::RequestInfo};

/// What a request was for.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Target {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    #[prometheus(flatten)]
    target: Target,
    dry_run: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    #[prometheus(flatten)]
    asked: Asked,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

impl Target {
    /// A request by its method, for something that there is (`known`): what clients make up must not become labels without end.
    fn of(info: &RequestInfo, method: &Method, known: bool) -> Self {
        let scope = match info {
            RequestInfo { is_resource: false, .. } => "",
            RequestInfo { name, verb, .. } if !name.is_empty() || *verb == "create" => "resource",
            RequestInfo { namespace, .. } if !namespace.is_empty() => "namespace",
            _ => "cluster",
        };
        let is_stream = ["log", "exec", "portforward", "attach", "proxy"].contains(&info.subresource.as_str());
        let verb = match method.as_str() {
            _ if info.is_resource && is_stream => "CONNECT",
            _ if info.verb == "watch" => "WATCH",
            "GET" | "HEAD" if matches!(scope, "namespace" | "cluster") => "LIST",
            "GET" | "HEAD" => "GET",
            "POST" => "POST",
            "PUT" => "PUT",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        };
        let word = |text: &str| if known && info.is_resource { text.to_owned() } else { String::new() };
        Self {
            verb,
            group: word(&info.group),
            version: word(&info.version),
            resource: word(&info.resource),
            // Where nothing is a resource, the path.
            subresource: if known && !info.is_resource { info.path.clone() } else { word(&info.subresource) },
            scope,
            component: "apiserver",
        }
    }
}

fn dry_run(query: Option<&str>) -> &'static str {
    let asked = query.filter(|query| query.contains("dryRun"));
    match asked.and_then(|query| crate::request::query_value(query, "dryRun")).as_deref() {
        None => "",
        Some("All") => "All",
        Some(_) => "invalid",
    }
}

/// The API server's figures.
pub struct ApiMetrics {
    long_running: Family<Target, Gauge>,
    metrics: Metrics,
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
}

/// Counts down when a request is done.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn histogram() -> Histogram {
    // Upstream's buckets.
    let buckets = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0];
    Histogram::new(buckets.into_iter().chain([8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0]))
}

impl ApiMetrics {
    /// Registers the figures.
    pub fn new(metrics: Metrics) -> Self {
        let requests = metrics.register("apiserver_request", "Requests by verb, resource and code", Family::default());
        let durations = Family::<Asked, Histogram>::new_with_constructor(histogram);
        let durations = metrics.register("apiserver_request_duration_seconds", "Time taken by requests", durations);
        let in_flight =
            metrics.register("apiserver_current_inflight_requests", "Requests being answered", Family::default());
        let long_running =
            metrics.register("apiserver_longrunning_requests", "Watches and streams being answered", Family::default());
        Self { long_running, metrics, requests, durations, in_flight }
    }

    /// Counts a watch or a stream as long as the answer is kept.
    pub fn long_running(&self, info: &RequestInfo) -> InFlight {
        let labels = Target::of(info, &Method::GET, true);
        let gauge = self.long_running.get_or_create(&labels).clone();
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts an answered request: what it was for, its method and query.
    pub fn request(&self, info: &RequestInfo, (method, query): (&Method, Option<&str>), status: StatusCode, took: Duration) {
        // What was refused on the way, or not found, may not exist.
        let known = match status.as_u16() {
            401 | 403 | 404 | 405 => false,
            _ => info.is_resource || status.is_success(),
        };
        let target = Target::of(info, method, known);
        let asked = Asked { target, dry_run: dry_run(query) };
        // How long a watch is watched says nothing of us.
        if asked.target.verb != "WATCH" {
            self.durations.get_or_create(&asked).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&Answered { asked, code: status.as_u16() }).inc();
    }

    /// Counts a request as long as the answer is kept.
    pub fn in_flight(&self, reading: bool) -> InFlight {
        let labels = InFlightLabels { request_kind: if reading { "readOnly" } else { "mutating" } };
        let gauge = self.in_flight.get_or_create(&labels).clone();
        gauge.inc();
        InFlight(gauge)
    }

    /// Everything as text.
    pub fn text(&self, registry: &Registry) -> String {
        let mut out = self.metrics.text();
        out.push_str(
            "# HELP apiserver_storage_objects Stored objects by resource.\n# TYPE apiserver_storage_objects gauge\n",
        );
        for (resource, count) in registry.counts() {
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
        }
        out.push_str(
            "# HELP apiserver_watch_cache_events_received_total Changes that the watch cache received.\n# TYPE apiserver_watch_cache_events_received_total counter\n",
        );
        let caches: Vec<_> =
            registry.caches().all().map(|c| (c.kind().info.group, c.kind().info.plural, c.seen())).collect();
        for (group, resource, (events, _)) in &caches {
            let _ = writeln!(
                out,
                "apiserver_watch_cache_events_received_total{{group=\"{group}\",resource=\"{resource}\"}} {events}"
            );
        }
        out.push_str(
            "# HELP apiserver_watch_cache_resource_version The revision of the newest change in the watch cache.\n# TYPE apiserver_watch_cache_resource_version gauge\n",
        );
        for (group, resource, (_, revision)) in &caches {
            let _ = writeln!(
                out,
                "apiserver_watch_cache_resource_version{{group=\"{group}\",resource=\"{resource}\"}} {revision}"
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_as_upstream_counts_them() {
        let metrics = Metrics::default();
        let api = ApiMetrics::new(metrics.clone());
        let ask = |method: Method, path: &str, query: Option<&str>, code: StatusCode| {
            api.request(&RequestInfo::parse(&method, path, query), (&method, query), code, Duration::from_millis(3));
        };
        ask(Method::POST, "/api/v1/namespaces/a/pods", Some("dryRun=All"), StatusCode::CREATED);
        ask(Method::GET, "/apis/apps/v1/deployments", None, StatusCode::OK);
        ask(Method::GET, "/api/v1/namespaces/a/pods", None, StatusCode::OK);
        ask(Method::GET, "/api/v1/namespaces/a/pods/p/log", None, StatusCode::OK);
        ask(Method::GET, "/api/v1/pods", Some("watch=true"), StatusCode::OK);
        ask(Method::GET, "/livez", None, StatusCode::OK);
        ask(Method::GET, "/made/up", None, StatusCode::NOT_FOUND);
        ask(Method::GET, "/secret", None, StatusCode::FORBIDDEN);
        ask(Method::GET, "/apis/made.up/v1/things/a/up", None, StatusCode::FORBIDDEN);
        let text = metrics.text();
        let line = |verb: &str, gvr: [&str; 3], sub: &str, scope: &str, dry: &str, code: u16| {
            let [group, version, resource] = gvr;
            let line = format!(
                "apiserver_request_total{{verb=\"{verb}\",group=\"{group}\",version=\"{version}\",resource=\"{resource}\",subresource=\"{sub}\",scope=\"{scope}\",component=\"apiserver\",dry_run=\"{dry}\",code=\"{code}\"}} 1\n"
            );
            assert!(text.contains(&line), "{line} is not in {text}");
        };
        line("POST", ["", "v1", "pods"], "", "resource", "All", 201);
        line("LIST", ["apps", "v1", "deployments"], "", "cluster", "", 200);
        line("LIST", ["", "v1", "pods"], "", "namespace", "", 200);
        line("CONNECT", ["", "v1", "pods"], "log", "resource", "", 200);
        line("WATCH", ["", "v1", "pods"], "", "cluster", "", 200);
        line("GET", ["", "", ""], "/livez", "", "", 200);
        line("GET", ["", "", ""], "", "", "", 404);
        line("GET", ["", "", ""], "", "", "", 403);
        line("GET", ["", "", ""], "", "resource", "", 403);
        assert!(text.contains("apiserver_request_duration_seconds_count{verb=\"LIST\""), "{text}");
        assert!(!text.contains("apiserver_request_duration_seconds_count{verb=\"WATCH\""), "{text}");
    }
}
