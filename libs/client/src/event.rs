//! Telling users what happened to an object: core/v1 Events, written in the background.
//!
//! Recording never waits: events go into a bounded queue, and are dropped when the API server does not
//! keep up.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

use crate::{
    correlate::{Correlator, Verdict},
    is_not_found, status_of,
};

/// Events waiting to be written.
const WAITING: usize = 1000;
/// How often a write is tried again while the API server cannot be reached.
const TRIES: usize = 12;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Writes events as one source. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    source: Arc<EventSource>,
    queue: mpsc::Sender<Event>,
}

impl Recorder {
    /// A recorder for a component (`deployment-controller`), on a host where that matters (`kubelet`, `node-1`).
    pub fn new(client: Client, component: &str, host: Option<&str>) -> Self {
        let (queue, events) = mpsc::channel(WAITING);
        tokio::spawn(write_all(client, events));
        Self { source: Arc::new(source(component, host)), queue }
    }

    /// The same queue with another source component.
    pub fn for_component(&self, component: &str) -> Self {
        Self { source: Arc::new(source(component, self.source.host.as_deref())), queue: self.queue.clone() }
    }

    /// A recorder whose events go to `events` unwritten; for tests.
    pub fn to_channel(component: &str, events: mpsc::Sender<Event>) -> Self {
        Self { source: Arc::new(source(component, None)), queue: events }
    }

    /// Records something ordinary about a typed object.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(object.object_ref(&()), "Normal", reason, message.into());
    }

    /// Records something that needs attention about a typed object.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(object.object_ref(&()), "Warning", reason, message.into());
    }

    /// Records an event about anything. `kind` is `Normal` or `Warning`.
    pub fn record(&self, about: ObjectReference, kind: &str, reason: &str, message: String) {
        let event = make(&self.source, about, kind, reason, message, Timestamp::now());
        if self.queue.try_send(event).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting to be written");
        }
    }
}

fn source(component: &str, host: Option<&str>) -> EventSource {
    EventSource { component: Some(component.to_owned()), host: host.map(str::to_owned) }
}

fn make(
    source: &EventSource,
    mut about: ObjectReference,
    kind: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Event {
    let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
    about.namespace = about.namespace.filter(|n| !n.is_empty());
    let name = format!("{}.{:016x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: about,
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(source.clone()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        type_: Some(kind.to_owned()),
        reporting_component: source.component.clone(),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        ..Event::default()
    }
}

async fn write_all(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = events.recv().await {
        // A panic costs one event, which is in the log, and not all that come after it.
        let _ = AssertUnwindSafe(write_one(&client, &mut correlator, event)).catch_unwind().await;
    }
}

async fn write_one(client: &Client, correlator: &mut Correlator, event: Event) {
    let (verdict, mut tries) = (correlator.judge(event, Timestamp::now()), TRIES);
    while tries > 0 {
        match write(client, correlator, &verdict).await {
            Ok(()) => break,
            // The server understood and said no (the namespace is going away, we may not): it will say so again.
            Err(error) if status_of(&error).is_some_and(|s| s.code < 500 && s.code != 429) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "event refused");
                break;
            }
            Err(error) => {
                tries -= 1;
                tracing::debug!(error = &error as &dyn std::error::Error, tries, "event not written");
                if tries > 0 {
                    tokio::time::sleep(TRY_AGAIN_AFTER.mul_f64(rand::random::<f64>() + 0.1)).await;
                }
            }
        }
    }
}

async fn write(client: &Client, correlator: &mut Correlator, verdict: &Verdict) -> Result<(), kube::Error> {
    let api =
        |event: &Event| Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    match verdict {
        Verdict::Drop => Ok(()),
        Verdict::Create(event) => api(event).create(&PostParams::default(), event).await.map(drop),
        Verdict::Repeat(event) => {
            let change = serde_json::json!({
                "count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message,
            });
            let name = event.metadata.name.as_deref().unwrap_or_default();
            match api(event).patch(name, &PatchParams::default(), &Patch::Strategic(change)).await {
                Err(error) if is_not_found(&error) => {
                    // It has expired: the series begins anew.
                    correlator.restarted(event);
                    let fresh = Event { count: Some(1), first_timestamp: event.last_timestamp.clone(), ..event.clone() };
                    api(event).create(&PostParams::default(), &fresh).await.map(drop)
                }
                done => done.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_as_upstream_writes_it() {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some("n1".into()),
            uid: Some("u".into()),
            ..Default::default()
        };
        let now = Timestamp::from_nanosecond(0x17a1_b2c3_d4e5_f607).expect("in range");
        let event = make(&source("node-controller", None), about, "Normal", "NodeNotReady", "gone".into(), now);
        assert_eq!(
            serde_json::to_value(event).expect("encodes"),
            serde_json::json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"name": "n1.17a1b2c3d4e5f607", "namespace": "default"},
                "involvedObject": {"kind": "Node", "name": "n1", "uid": "u"},
                "reason": "NodeNotReady", "message": "gone", "source": {"component": "node-controller"},
                "firstTimestamp": Time(now), "lastTimestamp": Time(now), "count": 1, "type": "Normal",
                "reportingComponent": "node-controller", "reportingInstance": "",
            })
        );
    }
}
