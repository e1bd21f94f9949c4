//! Which pods a Service selects, and which Services a pod belongs to, at a cost in proportion to the answer.
//!
//! Both informers carry an index over `namespace/key=value`: pods by each of their labels, Services by the first pair of
//! their selector. A lookup touches only objects that share that pair.

use std::{collections::BTreeSet, sync::Arc};

use api::selector::Selector;
use client::{Change, Informer, Key, Queue};
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::pods;

const BY_LABEL: &str = "label";
const BY_SELECTOR: &str = "selector";

/// Services and pods, indexed for each other.
#[derive(Clone)]
pub struct Selection {
    services: Informer<Service>,
    pods: Informer<Pod>,
}

fn pair(namespace: Option<&str>, key: &str, value: &str) -> String {
    format!("{}/{key}={value}", namespace.unwrap_or_default())
}

/// The Service's selector, if it selects anything (an ExternalName Service has no endpoints).
fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|s| s.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

/// Whether endpoints are made for the Service at all.
pub fn has_selector(service: &Service) -> bool {
    selector(service).is_some()
}

fn selects(service: &Service, pod: &Pod) -> bool {
    selector(service).is_some_and(|s| Selector::from_set(s).matches_opt(pod.metadata.labels.as_ref()))
}

/// The part of a pod that endpoints are made of.
fn facts(pod: &Pod) -> impl PartialEq + '_ {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    (
        pod.metadata.labels.as_ref(),
        pod.metadata.deletion_timestamp.is_some(),
        pods::is_terminal(pod),
        pods::is_ready(pod),
        spec.map(|s| (&s.node_name, &s.hostname, &s.subdomain)),
        status.map(|s| &s.pod_ips),
    )
}

impl Selection {
    /// Adds the indexes.
    pub fn new(services: Informer<Service>, pods: Informer<Pod>) -> Self {
        services.add_index(BY_SELECTOR, |service| {
            let first = selector(service).and_then(|s| s.iter().next());
            first.map(|(k, v)| pair(service.metadata.namespace.as_deref(), k, v)).into_iter().collect()
        });
        pods.add_index(BY_LABEL, |pod| {
            let labels = pod.metadata.labels.iter().flatten();
            labels.map(|(k, v)| pair(pod.metadata.namespace.as_deref(), k, v)).collect()
        });
        Self { services, pods }
    }

    /// The pods a Service selects.
    pub fn pods_of(&self, service: &Service) -> Vec<Arc<Pod>> {
        let Some((key, value)) = selector(service).and_then(|s| s.iter().next()) else { return Vec::new() };
        let mut pods = self.pods.by_index(BY_LABEL, &pair(service.metadata.namespace.as_deref(), key, value));
        pods.retain(|pod| selects(service, pod));
        pods
    }

    /// The Services that select a pod.
    pub fn services_of(&self, pod: &Pod) -> BTreeSet<Key> {
        let labels = pod.metadata.labels.iter().flatten();
        let pairs = labels.map(|(k, v)| pair(pod.metadata.namespace.as_deref(), k, v));
        let near = pairs.flat_map(|pair| self.services.by_index(BY_SELECTOR, &pair));
        near.filter(|s| selects(s, pod)).map(|s| Key::of(&s.metadata)).collect()
    }

    /// Queues the Services that a change of a Service or pod concerns.
    pub fn wake(&self, queue: &Queue<Key>) {
        self.services.wake(queue, |change| [Key::of(&change.object().metadata)]);
        let this = self.clone();
        self.pods.wake(queue, move |change| {
            if change.old().is_some_and(|old| facts(old) == facts(change.object())) {
                return BTreeSet::new();
            }
            let mut services = this.services_of(change.object());
            if let Change::Updated(old, new) = change
                && old.metadata.labels != new.metadata.labels
            {
                services.extend(this.services_of(old));
            }
            services
        });
    }
}
