//! Publishes the pods behind each Service as one Endpoints object, for clients from before EndpointSlices.
//!
//! Watches Services, pods and Endpoints; owns the Endpoints object of each Service with a selector. Safe to run twice: the object is
//! compared before it is written.

use std::{collections::BTreeMap, sync::Arc};

use client::{Error, Informer, Key, Next, Queue, Recorder, Step, is_already_exists, is_not_found};
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, PostParams};

use crate::{
    context::Context,
    endpointslice::{HEADLESS, TRIGGER, changed_at, endpoint, is_headless, stamp},
    pods,
    replicas::namespace_is_terminating,
    selection::{self, Selection},
};

const NAME: &str = "endpoint-controller";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in an object at most.
const CAPACITY: usize = 1000;

struct Observed {
    service: Arc<Service>,
    pods: Vec<Arc<Pod>>,
    current: Option<Arc<Endpoints>>,
}

/// The object as it should be, if it is not.
fn decide(observed: &Observed) -> Option<Endpoints> {
    let service = &*observed.service;
    let (subsets, truncated) = truncate(subsets(service, &observed.pods));
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), NAME.to_owned());
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let current = observed.current.as_deref();
    let marked = current.is_some_and(|c| c.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OVER_CAPACITY)));
    if current.is_some_and(|c| c.subsets == subsets && c.metadata.labels.as_ref() == Some(&labels) && marked == truncated) {
        return None;
    }
    let mut metadata = current.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |c| c.metadata.clone(),
    );
    metadata.labels = Some(labels);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(TRIGGER);
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    stamp(
        &mut metadata,
        observed.pods.iter().filter_map(|p| changed_at(p)).max().or(service
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|t| t.0)),
    );
    Some(Endpoints { metadata, subsets })
}

/// Addresses by the ports they serve, ready ones apart from the others.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let unready_too = spec.publish_not_ready_addresses.unwrap_or(false);
    let ipv6 = spec
        .ip_families
        .iter()
        .flatten()
        .next()
        .map_or_else(|| spec.cluster_ip.iter().any(|a| a.contains(':')), |f| f == "IPv6");
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for pod in pods {
        if pod.metadata.deletion_timestamp.is_some() && !unready_too {
            continue;
        }
        let Some(ip) = endpoint::addresses(pod, ipv6).into_iter().next() else { continue };
        let ports = endpoint::ports(service, pod);
        if ports.is_empty() && spec.ports.iter().flatten().next().is_some() {
            continue;
        }
        let address = EndpointAddress {
            ip,
            hostname: endpoint::hostname(service, pod),
            node_name: Some(pods::node(pod)).filter(|n| !n.is_empty()).map(str::to_owned),
            target_ref: Some(endpoint::target(pod)),
        };
        let key = format!("{ports:?}");
        let subset = groups.entry(key).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
            ..EndpointSubset::default()
        });
        let ready = unready_too || pods::is_ready(pod);
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<_> = groups.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
            list.sort_by(|a, b| a.ip.cmp(&b.ip));
        }
    }
    subsets
}

fn port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone().filter(|n| !n.is_empty()),
        port: port.port.unwrap_or(0),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}

/// Cuts the object to its capacity, ready addresses first; says whether anything was cut.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let mut room = CAPACITY;
    let mut cut = false;
    for ready in [true, false] {
        for subset in &mut subsets {
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            if let Some(addresses) = list {
                cut |= addresses.len() > room;
                addresses.truncate(room);
                room -= addresses.len();
            }
            *list = list.take().filter(|l| !l.is_empty());
        }
    }
    subsets.retain(|s| s.addresses.is_some() || s.not_ready_addresses.is_some());
    (subsets, cut)
}

struct Controller {
    ctx: Context,
    recorder: Recorder,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    selection: Selection,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let (services, pods) = (ctx.informer::<Service>(), ctx.informer::<Pod>());
    let this = Arc::new(Controller {
        recorder: ctx.recorder.for_component(NAME),
        selection: Selection::new(services.clone(), pods.clone()),
        services: services.clone(),
        endpoints: ctx.informer(),
        ctx: ctx.clone(),
    });
    if ctx.until_stopped(futures::future::join3(services.synced(), pods.synced(), this.endpoints.synced())).await.is_none() {
        return;
    }
    this.selection.wake(&queue);
    this.endpoints.wake(&queue, move |change| {
        let key = Key::of(&change.object().metadata);
        // Somebody else's Endpoints (the API server's own, hand-written ones) have no Service with a selector.
        let ours = change.object().metadata.labels.as_ref().is_some_and(|l| l.contains_key(MANAGED_BY));
        (ours || services.get(&key).is_some_and(|s| selection::has_selector(&s))).then_some(key)
    });
    client::controller::run(NAME, queue, ctx.config.concurrent_endpoint_syncs, ctx.shutdown.clone(), move |key| {
        this.clone().reconcile(key)
    })
    .await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(service) = self.services.get(&key) else { return self.forget(&key).await };
        if !selection::has_selector(&service) {
            return Ok(Next::Done);
        }
        let pods = self.selection.pods_of(&service).into_iter().filter(|p| endpoint::is_candidate(p)).collect();
        let observed = Observed { pods, current: self.endpoints.get(&key), service };
        let Some(wanted) = decide(&observed) else { return Ok(Next::Done) };
        self.write(&key, &observed, wanted).await
    }

    async fn write(&self, key: &Key, observed: &Observed, wanted: Endpoints) -> Result<Next, Error> {
        let api = self.ctx.api::<Endpoints>(&key.namespace);
        let (written, reason, step) = match observed.current {
            Some(_) => (
                api.replace(&key.name, &PostParams::default(), &wanted).await,
                "FailedToUpdateEndpoint",
                "updating Endpoints",
            ),
            None => (api.create(&PostParams::default(), &wanted).await, "FailedToCreateEndpoint", "creating Endpoints"),
        };
        match written {
            Ok(written) => self.endpoints.ensure_seen(&written).await.map(|()| Next::Done),
            Err(error) if namespace_is_terminating(&error) => Ok(Next::Done),
            Err(error) if client::is_conflict(&error) || is_already_exists(&error) => Ok(Next::Again),
            Err(error) => {
                let error = Error::Api { step, source: error };
                let verb = if observed.current.is_some() { "update" } else { "create" };
                let message = format!("Failed to {verb} endpoint {key}: {}", error.user_message());
                self.recorder.warning(&*observed.service, reason, message);
                Err(error)
            }
        }
    }

    /// The Service is gone: so are its Endpoints.
    async fn forget(&self, key: &Key) -> Result<Next, Error> {
        if self.endpoints.get(key).is_none() {
            return Ok(Next::Done);
        }
        match self.ctx.api::<Endpoints>(&key.namespace).delete(&key.name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(error).step("deleting Endpoints"),
            _ => Ok(Next::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"namespace": "ns", "name": name, "uid": name}, "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": name}], "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn observed(pods: Vec<Arc<Pod>>, current: Option<Endpoints>) -> Observed {
        let service = json!({"metadata": {"namespace": "ns", "name": "svc", "labels": {"l": "1"}},
            "spec": {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
        Observed {
            service: Arc::new(serde_json::from_value(service).expect("a Service")),
            pods,
            current: current.map(Arc::new),
        }
    }

    #[test]
    fn ready_and_unready_addresses_are_apart_and_nothing_is_written_twice() {
        let pods = vec![pod("10.42.0.2", "True"), pod("10.42.0.1", "True"), pod("10.42.0.3", "False")];
        let wanted = decide(&observed(pods.clone(), None)).expect("a change");
        let again = decide(&observed(pods, Some(wanted.clone())));
        let address =
            |ip| json!({"ip": ip, "nodeName": "n", "targetRef": {"kind": "Pod", "namespace": "ns", "name": ip, "uid": ip}});
        assert_eq!(
            (serde_json::to_value(wanted).expect("encodes"), again),
            (
                json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": "ns", "name": "svc", "annotations": {},
                    "labels": {"l": "1", HEADLESS: "", MANAGED_BY: NAME}},
                "subsets": [{"addresses": [address("10.42.0.1"), address("10.42.0.2")], "notReadyAddresses": [address("10.42.0.3")],
                    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}]}),
                None
            )
        );
    }

    #[test]
    fn a_thousand_addresses_at_most_ready_ones_first() {
        let mut pods: Vec<_> = (0..600).map(|n| pod(&format!("10.1.{}.{}", n / 250, n % 250), "False")).collect();
        pods.extend((0..600).map(|n| pod(&format!("10.2.{}.{}", n / 250, n % 250), "True")));
        let wanted = decide(&observed(pods, None)).expect("a change");
        let subset = &wanted.subsets.expect("subsets")[0];
        let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
        let mark = wanted.metadata.annotations.and_then(|a| a.get(OVER_CAPACITY).cloned());
        assert_eq!(
            (count(&subset.addresses), count(&subset.not_ready_addresses), mark.as_deref()),
            (600, 400, Some("truncated"))
        );
    }
}
