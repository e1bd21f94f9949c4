//! Whether the rules keep up with the cluster, as `/healthz`, `/livez` and `/metrics` tell it.
//!
//! A proxy is healthy while no change waits longer than it should take to be applied; one that hears of nothing is healthy,
//! too. `/healthz` also says whether load balancers should send new connections here: not to a node that is about to go.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::Node;

/// How long a change may wait: twice upstream's sync period.
const PATIENCE: Duration = Duration::from_secs(60);
/// The cluster autoscaler's mark on nodes that it is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is known of the rules' age. Shared by the loop, which tells, and the servers, which ask.
#[derive(Debug, Default)]
pub struct Freshness(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    /// The oldest change that is not in the kernel yet.
    waiting: Option<Timestamp>,
    updated: Option<Timestamp>,
    going: bool,
    services: usize,
    figures: Figures,
}

#[derive(Clone, Debug, Default)]
struct Figures {
    syncs: u64,
    failures: u64,
    repairs: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// Upper bounds of the histogram of how long applying took, in seconds; upstream's.
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

impl Freshness {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something changed that the rules do not show yet.
    pub fn queued(&self, now: Timestamp) {
        self.change(|state| {
            state.waiting.get_or_insert(now);
        });
    }

    /// Everything that was queued up to then is in the kernel, or could not be written.
    pub fn applied(&self, ok: bool, took: Duration, services: usize, now: Timestamp) {
        self.change(|state| {
            let figures = &mut state.figures;
            figures.syncs += 1;
            figures.seconds += took.as_secs_f64();
            for (count, bound) in figures.buckets.iter_mut().zip(BUCKETS) {
                *count += u64::from(took.as_secs_f64() <= bound);
            }
            figures.failures += u64::from(!ok);
            if ok {
                (state.waiting, state.updated, state.services) = (None, Some(now), services);
            }
        });
    }

    /// Rules that others had changed were written anew.
    pub fn repaired(&self) {
        self.change(|state| state.figures.repairs += 1);
    }

    /// The node as it is now.
    pub fn node(&self, node: Option<&Node>) {
        let tainted = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.into_iter().flatten().any(|taint| taint.key == TO_BE_DELETED)
        };
        let going = node.is_some_and(|node| node.metadata.deletion_timestamp.is_some() || tainted(node));
        self.change(|state| state.going = going);
    }

    /// Whether changes reach the kernel in time.
    pub fn is_healthy(&self, now: Timestamp) -> bool {
        self.change(|state| healthy(state, now))
    }

    /// `/healthz`: status and body.
    pub fn healthz(&self, now: Timestamp) -> (u16, String) {
        let (state, fine) = self.change(|state| (state.clone(), healthy(state, now)));
        let body = body(&state, fine, now, &format!(r#", "nodeEligible": {}"#, !state.going));
        (if fine && !state.going { 200 } else { 503 }, body)
    }

    /// `/livez`: the same without the node's future.
    pub fn livez(&self, now: Timestamp) -> (u16, String) {
        let (state, fine) = self.change(|state| (state.clone(), healthy(state, now)));
        (if fine { 200 } else { 503 }, body(&state, fine, now, ""))
    }

    /// The proxy's own metrics, under upstream's names.
    pub fn metrics(&self) -> String {
        let state = self.change(|state| state.clone());
        let figures = &state.figures;
        let mut out = String::new();
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        let name = "kubeproxy_sync_proxy_rules_duration_seconds";
        line(format!("# HELP {name} SyncProxyRules latency in seconds\n# TYPE {name} histogram"));
        for (bound, count) in BUCKETS.iter().zip(figures.buckets) {
            line(format!("{name}_bucket{{le=\"{bound}\"}} {count}"));
        }
        line(format!("{name}_bucket{{le=\"+Inf\"}} {}", figures.syncs));
        line(format!("{name}_sum {}\n{name}_count {}", figures.seconds, figures.syncs));
        let seconds = |at: Option<Timestamp>| at.map_or(0.0, |at| at.as_millisecond() as f64 / 1e3);
        let single = [
            (
                "last_timestamp_seconds",
                "gauge",
                "The last time proxy rules were successfully synced",
                seconds(state.updated),
            ),
            ("last_queued_timestamp_seconds", "gauge", "The oldest change that waits to be synced", seconds(state.waiting)),
            ("iptables_restore_failures_total", "counter", "Proxy iptables restore failures", figures.failures as f64),
            ("repairs_total", "counter", "Rules changed by others and written anew", figures.repairs as f64),
            ("services", "gauge", "Services with rules", state.services as f64),
        ];
        for (name, kind, help, value) in single {
            let name = format!("kubeproxy_sync_proxy_rules_{name}");
            line(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"));
        }
        out
    }
}

fn healthy(state: &State, now: Timestamp) -> bool {
    let waited = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default();
    state.waiting.is_none_or(|since| waited(since) < PATIENCE)
}

/// As Go prints times and upstream joins the fields. With nothing waiting, the rules are as new as can be.
fn body(state: &State, fine: bool, now: Timestamp, more: &str) -> String {
    let print = |at: Timestamp| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC").to_string();
    let updated = match state.updated {
        _ if fine && state.waiting.is_none() => print(now),
        Some(at) => print(at),
        None => "0001-01-01 00:00:00 +0000 UTC".to_owned(),
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, r#"{{"lastUpdated": "{updated}","currentTime": "{}"{more}}}"#, print(now));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let fresh = Freshness::default();
        let took = Duration::from_millis(3);
        let mut seen = vec![fresh.healthz(at(0)).0];
        fresh.queued(at(10));
        fresh.queued(at(60));
        seen.extend([fresh.healthz(at(69)).0, fresh.healthz(at(70)).0]);
        fresh.applied(false, took, 1, at(80));
        seen.push(fresh.livez(at(80)).0);
        fresh.applied(true, took, 1, at(90));
        seen.push(fresh.livez(at(500)).0);
        let going = serde_json::from_value(serde_json::json!({"spec": {"taints": [{"key": TO_BE_DELETED, "effect": "x"}]}}));
        fresh.node(Some(&going.unwrap()));
        seen.extend([fresh.healthz(at(500)).0, fresh.livez(at(500)).0]);
        assert_eq!(seen, [200, 200, 503, 503, 200, 503, 200]);
    }

    #[test]
    fn bodies_and_figures() {
        let fresh = Freshness::default();
        fresh.queued(at(0));
        fresh.applied(true, Duration::from_millis(3), 7, at(1));
        let time = "1970-01-01 00:00:02";
        let (_, text) = fresh.healthz(at(2));
        assert!(
            text.starts_with(&format!(r#"{{"lastUpdated": "{time}"#)) && text.ends_with(r#", "nodeEligible": true}"#),
            "{text}"
        );
        let figures = fresh.metrics();
        let has = |line: &str| figures.lines().any(|l| l == line);
        assert!(has("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.002\"} 0"), "{figures}");
        assert!(has("kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 1"), "{figures}");
        assert!(has("kubeproxy_sync_proxy_rules_services 7"), "{figures}");
    }
}
