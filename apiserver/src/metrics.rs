//! Counters of requests, under upstream's names.

use std::{fmt::Write as _, time::Duration};

use http::StatusCode;
use process::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{registry::Registry, request::RequestInfo};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LongRunningLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

/// The API server's figures.
pub struct ApiMetrics {
    long_running: Family<LongRunningLabels, Gauge>,
    metrics: Metrics,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
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
    Histogram::new([0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])
}

impl ApiMetrics {
    /// Registers the figures.
    pub fn new(metrics: Metrics) -> Self {
        let requests = metrics.register("apiserver_request", "Requests by verb, resource and code", Family::default());
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(histogram);
        let durations = metrics.register("apiserver_request_duration_seconds", "Time taken by requests", durations);
        let in_flight =
            metrics.register("apiserver_current_inflight_requests", "Requests being answered", Family::default());
        let long_running =
            metrics.register("apiserver_longrunning_requests", "Watches and streams being answered", Family::default());
        Self { long_running, metrics, requests, durations, in_flight }
    }

    /// Counts a watch or a stream as long as the answer is kept.
    pub fn long_running(&self, info: &RequestInfo) -> InFlight {
        let labels = LongRunningLabels {
            verb: if info.verb == "watch" { "WATCH".to_owned() } else { "CONNECT".to_owned() },
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        };
        let gauge = self.long_running.get_or_create(&labels).clone();
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts an answered request.
    pub fn request(&self, info: &RequestInfo, status: StatusCode, took: Duration) {
        let known = info.is_resource && status != StatusCode::NOT_FOUND;
        // What clients make up must not become labels without end.
        let of = |text: &str| if known { text.to_owned() } else { String::new() };
        let verb = if info.is_resource { info.verb.to_uppercase() } else { "GET".to_owned() };
        self.requests
            .get_or_create(&RequestLabels {
                verb: verb.clone(),
                group: of(&info.group),
                version: of(&info.version),
                resource: of(&info.resource),
                subresource: of(&info.subresource),
                code: status.as_u16(),
            })
            .inc();
        if info.verb != "watch" {
            self.durations.get_or_create(&DurationLabels { verb, resource: of(&info.resource) }).observe(took.as_secs_f64());
        }
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
        let end = out.rfind("# EOF").unwrap_or(out.len());
        let mut objects = String::from(
            "# HELP apiserver_storage_objects Stored objects by resource.\n# TYPE apiserver_storage_objects gauge\n",
        );
        for (resource, count) in registry.counts() {
            let _ = writeln!(objects, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
        }
        objects.push_str(
            "# HELP apiserver_watch_cache_events_received Changes that the watch cache received.\n# TYPE apiserver_watch_cache_events_received counter\n",
        );
        let caches: Vec<_> =
            registry.caches().all().map(|c| (c.kind().info.group, c.kind().info.plural, c.seen())).collect();
        for (group, resource, (events, _)) in &caches {
            let _ = writeln!(
                objects,
                "apiserver_watch_cache_events_received_total{{group=\"{group}\",resource=\"{resource}\"}} {events}"
            );
        }
        objects.push_str(
            "# HELP apiserver_watch_cache_resource_version The revision of the newest change in the watch cache.\n# TYPE apiserver_watch_cache_resource_version gauge\n",
        );
        for (group, resource, (_, revision)) in &caches {
            let _ = writeln!(
                objects,
                "apiserver_watch_cache_resource_version{{group=\"{group}\",resource=\"{resource}\"}} {revision}"
            );
        }
        out.insert_str(end, &objects);
        out
    }
}
