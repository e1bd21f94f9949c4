//! Publishes the pods behind each Service as EndpointSlices.
//!
//! Watches Services, pods, nodes (for their zones) and its own slices; owns slices labelled `managed-by: endpointslice-controller.k8s.io`.
//! What a slice holds is decided in [`placing`], what a pod becomes in [`endpoint`]. Safe to run twice: slices are compared before they
//! are written. Unlike upstream, a pod on a node that the cache does not know is published (without a zone): pods of
//! nodes that are gone are deleted anyway.

pub mod endpoint;
pub mod mirroring;
mod placing;

use std::{collections::BTreeMap, sync::Arc};

use client::{Change, Error, Informer, Key, Next, Queue, Step, is_not_found, owner, revision_of};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Resource,
    api::{DeleteParams, PostParams},
};

use self::placing::{Action, Wanted};
use crate::{
    context::Context,
    pods,
    replicas::namespace_is_terminating,
    selection::{self, Selection},
};

const NAME: &str = "endpoint-slice-controller";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of slices and Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// When the change that led to this state happened.
pub const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The index over our slices, by `namespace/service`.
const BY_SERVICE: &str = "service";

/// Everything the decision looks at.
struct Observed {
    service: Arc<Service>,
    /// Candidate pods with their nodes.
    pods: Vec<(Arc<Pod>, Option<Arc<Node>>)>,
    /// Slices that we manage for the Service.
    slices: Vec<Arc<EndpointSlice>>,
    most: usize,
}

fn decide(observed: &Observed) -> Vec<Action> {
    let service = &*observed.service;
    let families = families(service);
    let mut actions: Vec<_> = families
        .iter()
        .flat_map(|family| {
            let existing: Vec<_> =
                observed.slices.iter().filter(|s| s.address_type == *family).map(|s| (**s).clone()).collect();
            placing::place(wanted(observed, family), &existing)
        })
        .collect();
    // A family the Service no longer has.
    let strays = observed.slices.iter().filter(|s| !families.contains(&s.address_type.as_str()));
    actions.extend(strays.filter_map(|s| s.metadata.name.clone()).map(Action::Delete));
    if service.metadata.deletion_timestamp.is_some() {
        // The garbage collector is about to delete slices: don't race it.
        actions.retain(|a| !matches!(a, Action::Create(_)));
    }
    let triggered = observed.pods.iter().filter_map(|(pod, _)| changed_at(pod)).max();
    for action in &mut actions {
        if let Action::Create(slice) | Action::Update(slice) = action {
            stamp(&mut slice.metadata, triggered.or(created_at(service)));
        }
    }
    actions
}

/// When the pod last became ready or not.
pub fn changed_at(pod: &Pod) -> Option<Timestamp> {
    pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0)
}

fn created_at(service: &Service) -> Option<Timestamp> {
    service.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

/// Notes when the change happened that is being published.
pub fn stamp(metadata: &mut ObjectMeta, at: Option<Timestamp>) {
    let Some(at) = at else { return };
    metadata.annotations.get_or_insert_default().insert(TRIGGER.to_owned(), at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
}

fn wanted(observed: &Observed, family: &str) -> Wanted {
    let (service, ipv6) = (&*observed.service, family == "IPv6");
    let mut groups: BTreeMap<String, (Vec<_>, Vec<_>)> = BTreeMap::new();
    for (pod, node) in &observed.pods {
        let endpoint = endpoint::endpoint(service, pod, node.as_deref(), ipv6);
        if endpoint.addresses.is_empty() {
            continue;
        }
        let ports = endpoint::ports(service, pod);
        groups.entry(placing::port_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    let mut template = template(service, MANAGER, family);
    let labels = template.metadata.labels.get_or_insert_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    Wanted { template, groups, most: observed.most }
}

/// A slice without endpoints of what has a Service's name: the Service, or its Endpoints.
fn template<K: Resource<DynamicType = ()>>(of: &K, manager: &str, family: &str) -> EndpointSlice {
    let name = of.meta().name.clone().unwrap_or_default();
    let mut labels = of.meta().labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: of.meta().namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner::controller_ref(of)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Vec::new(),
        ports: None,
    }
}

/// Whether the Service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    address.is_empty() || address == "None"
}

fn families(service: &Service) -> Vec<&str> {
    let spec = service.spec.as_ref();
    let named: Vec<_> = spec.iter().flat_map(|s| s.ip_families.iter().flatten()).map(String::as_str).collect();
    match spec.and_then(|s| s.cluster_ip.as_deref()) {
        _ if !named.is_empty() => named,
        Some(address) if address.contains(':') => vec!["IPv6"],
        Some(address) if !address.is_empty() && address != "None" => vec!["IPv4"],
        _ => vec!["IPv4", "IPv6"],
    }
}

struct Controller {
    ctx: Context,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    selection: Selection,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let (services, pods) = (ctx.informer::<Service>(), ctx.informer::<Pod>());
    let this = Arc::new(Controller {
        selection: Selection::new(services.clone(), pods.clone()),
        services: services.clone(),
        slices: ctx.informer(),
        nodes: ctx.informer(),
        ctx: ctx.clone(),
    });
    this.slices.add_index(BY_SERVICE, |slice| service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect());
    let synced = futures::future::join4(services.synced(), pods.synced(), this.slices.synced(), this.nodes.synced());
    if ctx.until_stopped(synced).await.is_none() {
        return;
    }
    this.selection.wake(&queue);
    this.slices.wake(&queue, |change| {
        [change.old().and_then(|s| service_of(s, MANAGER)), service_of(change.object(), MANAGER)].into_iter().flatten()
    });
    this.nodes.on_change({
        let (queue, this) = (queue.clone(), this.clone());
        move |change| this.node_changed(&queue, &change)
    });
    client::controller::run(NAME, queue, ctx.config.concurrent_service_endpoint_syncs, ctx.shutdown.clone(), move |key| {
        this.clone().reconcile(key)
    })
    .await;
}

/// The Service of a slice, if this is the manager of it.
fn service_of(slice: &EndpointSlice, manager: &str) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref().filter(|l| l.get(MANAGED_BY).is_some_and(|m| m == manager))?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), labels.get(SERVICE_NAME)?))
}

impl Controller {
    /// A node's zone is part of its pods' endpoints; it changes about never.
    fn node_changed(&self, queue: &Queue<Key>, change: &Change<'_, Node>) {
        let zone = |n: &Node| n.metadata.labels.as_ref().and_then(|l| l.get("topology.kubernetes.io/zone").cloned());
        let changed = match change {
            Change::Updated(old, new) => zone(old) != zone(new),
            Change::Added(node) | Change::Deleted(node) => zone(node).is_some(),
        };
        if changed {
            self.services.list().iter().for_each(|s| queue.add(Key::of(&s.metadata)));
        }
    }

    fn observe(&self, service: Arc<Service>) -> Observed {
        let pods = self.selection.pods_of(&service).into_iter().filter(|p| endpoint::is_candidate(p));
        let pods = pods.map(|p| (p.clone(), self.nodes.get(&Key::cluster(pods::node(&p))))).collect();
        let mut slices = self.slices.by_index(BY_SERVICE, &Key::of(&service.metadata).to_string());
        // An earlier Service of the same name left these; they are about to be collected.
        slices.retain(|s| owner::controller_of(&s.metadata).is_none_or(|r| Some(&r.uid) == service.metadata.uid.as_ref()));
        Observed { service, pods, slices, most: self.ctx.config.max_endpoints_per_slice.max(1) }
    }

    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        // Slices of a deleted Service are the garbage collector's.
        let Some(service) = self.services.get(&key).filter(|s| selection::has_selector(s)) else { return Ok(Next::Done) };
        carry_out(&self.ctx, &self.slices, &key, decide(&self.observe(service))).await
    }
}

/// Does what it can, and says what went wrong last.
async fn carry_out(ctx: &Context, slices: &Informer<EndpointSlice>, key: &Key, actions: Vec<Action>) -> Result<Next, Error> {
    let (mut seen, mut failure) = (0, None);
    for action in actions {
        match write(ctx, key, action).await {
            Ok(revision) => seen = seen.max(revision),
            Err(error) => failure = Some(error),
        }
    }
    slices.wait_for_revision(seen).await?;
    failure.map_or(Ok(Next::Done), Err)
}

/// Writes one slice; gives its revision.
async fn write(ctx: &Context, key: &Key, action: Action) -> Result<u64, Error> {
    let api = ctx.api::<EndpointSlice>(&key.namespace);
    match action {
        Action::Create(slice) => match api.create(&PostParams::default(), &slice).await {
            Ok(written) => Ok(revision_of(&written.metadata)),
            Err(error) if namespace_is_terminating(&error) => Ok(0),
            Err(error) => Err(error).step("creating an EndpointSlice"),
        },
        Action::Update(slice) => {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let written = api.replace(name, &PostParams::default(), &slice).await.step("updating an EndpointSlice")?;
            Ok(revision_of(&written.metadata))
        }
        Action::Delete(name) => match api.delete(&name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(error).step("deleting an EndpointSlice"),
            _ => Ok(0),
        },
    }
}

#[cfg(test)]
mod tests;
