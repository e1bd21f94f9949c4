//! Keeps service `kube-dns` and, for every node, a slice with the address at which the node's agent answers names: the first of
//! its pod range.
//!
//! Each slice belongs to its node and goes with it. `internalTrafficPolicy: Local` leads a pod to its own node's answers, so an
//! endpoint is ready as long as its node exists: where the agent is gone, no other pod is affected. A service of that name that
//! selects pods is somebody's own DNS: then nothing here is written, and what was written goes. Safe to run twice: it writes
//! only what differs. Without `--cluster-dns` it does not run.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use client::{Error, Informer, Key, Next, Options, Queue, Step, is_already_exists, is_conflict, is_not_found};
use k8s_openapi::{
    api::{
        core::v1::{Node, Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::api::{DeleteParams, PostParams};

use crate::{config::parse_cidrs, context::Context};

const NAME: &str = "cluster-dns-controller";
const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const MANAGED_BY: &str = "cluster-dns-controller.knarr.dev";
const PORTS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];

struct Controller {
    ctx: Context,
    address: IpAddr,
    nodes: Informer<Node>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

fn labels(entries: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    Some(entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

/// The service as it is when it is not there.
fn service(address: IpAddr) -> Service {
    let port = |(name, protocol): (&str, &str)| ServicePort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: 53,
        target_port: Some(IntOrString::Int(53)),
        ..ServicePort::default()
    };
    Service {
        metadata: ObjectMeta {
            name: Some(SERVICE.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            labels: labels(&[
                ("k8s-app", SERVICE),
                ("kubernetes.io/cluster-service", "true"),
                ("kubernetes.io/name", "knarr-dns"),
            ]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            internal_traffic_policy: Some("Local".to_owned()),
            ports: Some(PORTS.map(port).to_vec()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Whether a service of our name is answered by pods.
fn is_someone_elses(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

/// Where the agent of a node answers: the first address of the node's pods.
fn answering(node: &Node) -> Option<IpAddr> {
    let (address, _) = parse_cidrs(node.spec.as_ref()?.pod_cidr.as_ref()?).ok()?.into_iter().next()?;
    match address {
        IpAddr::V4(first) => Some(IpAddr::V4(u32::from(first).checked_add(1)?.into())),
        IpAddr::V6(first) => Some(IpAddr::V6(u128::from(first).checked_add(1)?.into())),
    }
}

/// The slice of a node; `None` while the node has no pod range.
fn slice(node: &Node) -> Option<EndpointSlice> {
    let name = node.metadata.name.clone()?;
    let address = answering(node)?;
    let port = |(name, protocol): (&str, &str)| EndpointPort {
        name: Some(name.to_owned()),
        protocol: Some(protocol.to_owned()),
        port: Some(53),
        ..EndpointPort::default()
    };
    Some(EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{SERVICE}-{name}")),
            namespace: Some(NAMESPACE.to_owned()),
            labels: labels(&[
                ("kubernetes.io/service-name", SERVICE),
                ("endpointslice.kubernetes.io/managed-by", MANAGED_BY),
            ]),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: name.clone(),
                uid: node.metadata.uid.clone()?,
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            node_name: Some(name),
            ..Endpoint::default()
        }],
        ports: Some(PORTS.map(port).to_vec()),
    })
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let Some(address) = ctx.config.cluster_dns else { return };
    let queue = Queue::new(NAME);
    let services = ctx
        .informers
        .get_with(&(), Options { namespace: Some(NAMESPACE.into()), ..Options::fields(format!("metadata.name={SERVICE}")) });
    let ours =
        Options::labels(format!("kubernetes.io/service-name={SERVICE},endpointslice.kubernetes.io/managed-by={MANAGED_BY}"));
    let slices = ctx.informers.get_with(&(), Options { namespace: Some(NAMESPACE.into()), ..ours });
    let this = Arc::new(Controller { address, nodes: ctx.informer(), services, slices, ctx: ctx.clone() });
    let synced = async { tokio::join!(this.nodes.synced(), this.services.synced(), this.slices.synced()) };
    if ctx.until_stopped(synced).await.is_none() {
        return;
    }
    this.nodes.wake(&queue, |change| [Key::of(&change.object().metadata)]);
    this.slices.wake(&queue, |change| {
        let name = change.object().metadata.name.as_deref().unwrap_or_default();
        name.strip_prefix(SERVICE).and_then(|rest| rest.strip_prefix('-')).map(Key::cluster)
    });
    // The service's own key; it concerns all nodes.
    let nodes = this.nodes.clone();
    this.services.wake(&queue, move |_| {
        let of_nodes = nodes.list().into_iter().map(|node| Key::of(&node.metadata));
        of_nodes.chain([Key::new(NAMESPACE, SERVICE)])
    });
    queue.add(Key::new(NAMESPACE, SERVICE));
    client::controller::run(NAME, queue, 1, ctx.shutdown.clone(), move |key| {
        let this = this.clone();
        async move { if key.namespace.is_empty() { this.reconcile_node(key).await } else { this.reconcile_service(key).await } }
    })
    .await;
}

impl Controller {
    async fn reconcile_service(&self, key: Key) -> Result<Next, Error> {
        if self.services.get(&key).is_some() {
            return Ok(Next::Done);
        }
        let created = self.ctx.api::<Service>(NAMESPACE).create(&PostParams::default(), &service(self.address)).await;
        match created {
            Ok(service) => self.services.ensure_seen(&service).await.map(|()| Next::Done),
            Err(error) if is_already_exists(&error) => Ok(Next::Again),
            Err(error) => Err(error).step("creating service kube-dns"),
        }
    }

    async fn reconcile_node(&self, key: Key) -> Result<Next, Error> {
        let theirs = self.services.get(&Key::new(NAMESPACE, SERVICE)).is_some_and(|service| is_someone_elses(&service));
        let wanted = self.nodes.get(&key).filter(|_| !theirs).and_then(|node| slice(&node));
        let name = format!("{SERVICE}-{}", key.name);
        let current = self.slices.get(&Key::new(NAMESPACE, &name));
        let api = self.ctx.api::<EndpointSlice>(NAMESPACE);
        let written = match (wanted, current) {
            (None, None) => return Ok(Next::Done),
            (None, Some(current)) => {
                return match api.delete(&name, &DeleteParams::default()).await {
                    Ok(_) => {
                        let key = Key::of(&current.metadata);
                        let uid = current.metadata.uid.as_deref().unwrap_or_default();
                        self.slices.wait_deleted(&key, uid).await.map(|()| Next::Done)
                    }
                    Err(error) if is_not_found(&error) => Ok(Next::Done),
                    Err(error) => Err(error).step("deleting a node's slice of kube-dns"),
                };
            }
            (Some(wanted), None) => api.create(&PostParams::default(), &wanted).await,
            (Some(wanted), Some(current)) => {
                let same = current.endpoints == wanted.endpoints
                    && current.ports == wanted.ports
                    && current.metadata.owner_references == wanted.metadata.owner_references;
                if same {
                    return Ok(Next::Done);
                }
                let mut slice = EndpointSlice::clone(&current);
                slice.metadata.owner_references = wanted.metadata.owner_references;
                (slice.endpoints, slice.ports) = (wanted.endpoints, wanted.ports);
                api.replace(&name, &PostParams::default(), &slice).await
            }
        };
        match written {
            Ok(slice) => self.slices.ensure_seen(&slice).await.map(|()| Next::Done),
            Err(error) if is_conflict(&error) || is_already_exists(&error) => Ok(Next::Again),
            Err(error) => Err(error).step("writing a node's slice of kube-dns"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_node_answers_at_the_first_address_of_its_pods() {
        let node = |range: &str| -> Node { from_value(json!({"spec": {"podCIDR": range}})).unwrap() };
        let found = ["10.42.3.0/24", "fd00:3::/64", "nonsense"].map(|range| answering(&node(range)).map(|a| a.to_string()));
        assert_eq!(found, [Some("10.42.3.1".to_owned()), Some("fd00:3::1".to_owned()), None]);
    }

    #[test]
    fn a_service_with_a_selector_is_somebody_elses() {
        let own = service("10.43.0.10".parse().unwrap());
        let mut theirs = own.clone();
        theirs.spec.as_mut().unwrap().selector = labels(&[("k8s-app", "kube-dns")]);
        assert_eq!([is_someone_elses(&own), is_someone_elses(&theirs)], [false, true]);
    }
}
