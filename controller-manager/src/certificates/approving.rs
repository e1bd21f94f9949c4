//! Approves certificate requests that nobody need look at.
//!
//! Kubelets' client certificates, as upstream: whoever asks must be allowed to by RBAC (a SubjectAccessReview of
//! `certificatesigningrequests/nodeclient` for new nodes, `/selfnodeclient` for a node's own next certificate).
//!
//! Kubelets' serving certificates, which upstream leaves to people, if the configuration says so: a node gets one for itself and
//! for nothing else. The request must come from `system:node:NAME` and be for `system:node:NAME`; the only host name in it may be
//! NAME; every address in it must be one that the Node object has, that no other Node has, and that is no service's. None may be an
//! API server's: one that runs, one that ever ran and told its names ([`api::servers`]), or an address that moves between servers.
//! A node writes its own addresses, so what matters is that it cannot have a certificate for anybody else's.
//!
//! Watches requests (and nodes); owns nothing. It never denies: what does not fit waits for a person, or for the Node to change.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use api::{pkcs10::Request, servers};
use client::{Change, Error, Informer, Key, Next, Queue, Step, is_conflict, is_not_found, leader};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Node},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use super::{APPROVED, DENIED, certificate, condition, follow, has, signer, with};
use crate::{config::parse_cidrs, context::Context};

const NAME: &str = "certificatesigningrequest-approving-controller";
/// The subresources that stand for a right, and what is said when it is there; upstream's words.
const OWN: (&str, &str) = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const NEW: (&str, &str) = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
const SERVING: &str = "Auto approving kubelet serving certificate: the node asks for its own name and addresses.";

fn is_pending(csr: &CertificateSigningRequest) -> bool {
    certificate(csr).is_none() && !has(csr, APPROVED) && !has(csr, DENIED)
}

/// The rights of which one is enough, in the order in which they are asked about.
fn recognize(csr: &CertificateSigningRequest, request: &Request) -> Vec<(&'static str, &'static str)> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if csr.spec.signer_name != signer::KUBELET_CLIENT || request.is_kubelet_client(usages).is_err() {
        return Vec::new();
    }
    match csr.spec.username.as_deref() == Some(request.common_name.as_str()) {
        true => vec![OWN, NEW],
        false => vec![NEW],
    }
}

/// The node that a serving certificate is for, if the request is by that node.
fn serving_node<'r>(csr: &CertificateSigningRequest, request: &'r Request) -> Result<&'r str, String> {
    request.is_kubelet_serving(csr.spec.usages.as_deref().unwrap_or_default())?;
    if csr.spec.username.as_deref() != Some(request.common_name.as_str()) {
        return Err(format!("{} is asked for by {}", request.common_name, csr.spec.username.as_deref().unwrap_or_default()));
    }
    if !csr.spec.groups.iter().flatten().any(|group| group == "system:nodes") {
        return Err("who asks is not in system:nodes".to_owned());
    }
    request.common_name.strip_prefix("system:node:").filter(|name| !name.is_empty()).ok_or_else(|| "no node's name".into())
}

/// What decides about a serving certificate besides the request.
struct Place<'a> {
    node: &'a Node,
    others: &'a [Arc<Node>],
    /// Names and addresses of API servers.
    servers: &'a BTreeSet<String>,
    /// The services' ranges.
    services: &'a [(IpAddr, u8)],
}

fn addresses(node: &Node) -> BTreeSet<IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP")).filter_map(|a| a.address.parse().ok()).collect()
}

fn contains((base, length): &(IpAddr, u8), address: &IpAddr) -> bool {
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
            u32::from(*base) & mask == u32::from(*address) & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(*length)).unwrap_or(0);
            u128::from(*base) & mask == u128::from(*address) & mask
        }
        _ => false,
    }
}

/// Whether the names in the request are the node's and nobody else's; why not.
fn names_fit(request: &Request, place: &Place<'_>) -> Result<(), String> {
    let name = place.node.metadata.name.as_deref().unwrap_or_default();
    if let Some(other) = request.dns_names.iter().find(|dns| *dns != name) {
        return Err(format!("the host name {other} is not the node's name"));
    }
    // A node may be called anything.
    let well_known =
        ["localhost", "kubernetes"].contains(&name) || name.starts_with("kubernetes.") || name.ends_with(".svc");
    let reserved = well_known || place.servers.iter().any(|server| server.eq_ignore_ascii_case(name));
    if reserved && !request.dns_names.is_empty() {
        return Err(format!("{name} is the API server's name"));
    }
    let own = addresses(place.node);
    for address in &request.ip_addresses {
        if !own.contains(address) {
            return Err(format!("the node has no address {address}"));
        }
        let special = address.is_loopback() || address.is_unspecified() || address.is_multicast();
        if special
            || place.servers.contains(&address.to_string())
            || place.services.iter().any(|range| contains(range, address))
        {
            return Err(format!("{address} is no node's address"));
        }
        if let Some(other) = place.others.iter().find(|other| addresses(other).contains(address)) {
            return Err(format!(
                "node {} has the address {address}, too",
                other.metadata.name.as_deref().unwrap_or_default()
            ));
        }
    }
    Ok(())
}

/// The addresses that API servers have in turn, by the leases with which they elect who has them.
fn moving(leases: &[Lease]) -> impl Iterator<Item = &str> {
    leases.iter().filter_map(|lease| lease.metadata.name.as_deref()?.strip_prefix(leader::VIRTUAL_ADDRESS))
}

struct Controller {
    ctx: Context,
    api: Api<CertificateSigningRequest>,
    requests: Informer<CertificateSigningRequest>,
    /// What a decision about serving certificates needs, if they are decided about.
    places: Option<(Informer<Node>, Informer<EndpointSlice>)>,
}

/// Runs the controller until the context's shutdown.
pub async fn run(ctx: Context) {
    let queue = Queue::new(NAME);
    let places = ctx.config.approve_kubelet_serving_certificates.then(|| (ctx.informer(), ctx.informer()));
    let this =
        Arc::new(Controller { api: Api::all(ctx.client.clone()), requests: ctx.informer(), places, ctx: ctx.clone() });
    if let Some((nodes, slices)) = &this.places {
        if ctx.until_stopped(futures::future::join(nodes.synced(), slices.synced())).await.is_none() {
            return;
        }
        let (queue, requests) = (queue.clone(), this.requests.clone());
        nodes.on_change(move |change| {
            let (Change::Added(node) | Change::Updated(_, node)) = &change else { return };
            if change.old().is_some_and(|old| addresses(old) == addresses(node)) {
                return;
            }
            // A kubelet asks as soon as it has told its addresses; this may be seen first.
            let user = format!("system:node:{}", node.metadata.name.as_deref().unwrap_or_default());
            for csr in requests.list() {
                if csr.spec.username.as_deref() == Some(user.as_str()) && is_pending(&csr) {
                    queue.add(Key::of(&csr.metadata));
                }
            }
        });
    }
    let requests = this.requests.clone();
    follow(&ctx, NAME, queue, &requests, is_pending, move |key| this.clone().reconcile(key)).await;
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Next, Error> {
        let Some(csr) = self.requests.get(&key).filter(|csr| is_pending(csr)) else { return Ok(Next::Done) };
        let request = Request::read(&csr.spec.request.0)
            .map_err(|e| Error::Other(format!("unable to parse csr {:?}: {e}", key.name)))?;
        if let (signer::KUBELET_SERVING, Some(places)) = (csr.spec.signer_name.as_str(), &self.places) {
            let servers = self.servers().await?;
            return match self.is_own(&csr, &request, places, servers) {
                Ok(()) => self.approve(&key, &csr, SERVING).await,
                Err(why) => {
                    tracing::info!(request = %key.name, why, "a kubelet's serving certificate is not approved");
                    Ok(Next::Done)
                }
            };
        }
        let rights = recognize(&csr, &request);
        for (right, message) in &rights {
            if self.allows(&csr, right).await? {
                return self.approve(&key, &csr, message).await;
            }
        }
        if !rights.is_empty() {
            tracing::info!(request = %key.name, "who asks for a kubelet's certificate has no right to it");
        }
        Ok(Next::Done)
    }

    fn is_own(
        &self,
        csr: &CertificateSigningRequest,
        request: &Request,
        (nodes, slices): &(Informer<Node>, Informer<EndpointSlice>),
        mut servers: BTreeSet<String>,
    ) -> Result<(), String> {
        let name = serving_node(csr, request)?;
        let node = nodes.get(&Key::cluster(name)).ok_or_else(|| format!("there is no node {name} yet"))?;
        let others: Vec<_> = nodes.list().into_iter().filter(|n| n.metadata.name.as_deref() != Some(name)).collect();
        let running = slices.get(&Key::new("default", "kubernetes"));
        servers.extend(running.iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| endpoint.addresses.clone()));
        let services = self.ctx.config.service_cluster_ip_range.as_deref().map(parse_cidrs);
        let services = services.and_then(Result::ok).unwrap_or_default();
        names_fit(request, &Place { node: &node, others: &others, servers: &servers, services: &services })
    }

    /// The names and addresses that API servers told, and the addresses that they have in turn.
    async fn servers(&self) -> Result<BTreeSet<String>, Error> {
        // The manager's own client: the controller's account has nothing to do with leases and ConfigMaps otherwise.
        let client = self.ctx.informers.client();
        let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
        let everything = ListParams::default();
        let (leases, told) = futures::try_join!(leases.list(&everything), maps.get_opt(servers::CONFIG_MAP))
            .step("looking for the API servers' addresses")?;
        let told = told.and_then(|map| map.data?.remove(servers::ENTRY)).unwrap_or_default();
        Ok(moving(&leases.items).chain(told.lines()).map(str::to_owned).collect())
    }

    /// Whether who asks has the right.
    async fn allows(&self, csr: &CertificateSigningRequest, right: &str) -> Result<bool, Error> {
        let spec = SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(right.to_owned()),
                verb: Some("create".to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.ctx.client.clone());
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = reviews.create(&PostParams::default(), &review).await.step("asking for a right to a certificate")?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, key: &Key, csr: &CertificateSigningRequest, message: &str) -> Result<Next, Error> {
        let approved = with(csr, condition(APPROVED, "AutoApproved", message.to_owned()));
        let written = self.api.replace_subresource("approval", &key.name, &PostParams::default(), &approved).await;
        match written {
            Ok(written) => self.requests.ensure_seen(&written).await.map(|()| Next::Done),
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            Err(error) if is_conflict(&error) => Ok(Next::Again),
            Err(error) => Err(error).step("approving a certificate request"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::testing::request, *};

    fn node(name: &str, address: &str) -> Node {
        let status =
            json!({"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).expect("a node")
    }

    fn serving(dns: &[&str], ips: &[&str]) -> Request {
        Request {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            dns_names: dns.iter().map(|name| (*name).to_owned()).collect(),
            ip_addresses: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            ..Request::default()
        }
    }

    #[test]
    fn a_node_is_certified_for_itself_alone() {
        let (own, others) = (node("a", "192.0.2.1"), [Arc::new(node("b", "192.0.2.2"))]);
        let (servers, services) =
            (BTreeSet::from(["192.0.2.9", "API"].map(str::to_owned)), [("10.43.0.0".parse().expect("ip"), 16)]);
        let fits = |node: &Node, request: &Request| {
            names_fit(request, &Place { node, others: &others, servers: &servers, services: &services })
        };
        assert_eq!(fits(&own, &serving(&["a"], &["192.0.2.1"])), Ok(()));
        let refused = [
            fits(&own, &serving(&["b"], &[])),
            fits(&own, &serving(&["a"], &["192.0.2.2"])),
            fits(&node("a", "192.0.2.2"), &serving(&["a"], &["192.0.2.2"])),
            fits(&node("a", "192.0.2.9"), &serving(&["a"], &["192.0.2.9"])),
            fits(&node("a", "10.43.0.1"), &serving(&["a"], &["10.43.0.1"])),
            fits(&node("kubernetes", "192.0.2.1"), &serving(&["kubernetes"], &["192.0.2.1"])),
            fits(&node("api", "192.0.2.1"), &serving(&["api"], &["192.0.2.1"])),
        ];
        assert_eq!(refused.iter().filter(|refused| refused.is_ok()).count(), 0, "{refused:?}");
    }

    #[test]
    fn addresses_that_move_between_servers_are_known_by_their_leases() {
        let lease = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).expect("a lease");
        let leases = ["kube-scheduler", "knarr-virtual-address-192.0.2.9"].map(lease);
        assert_eq!(moving(&leases).collect::<Vec<_>>(), ["192.0.2.9"]);
    }

    #[test]
    fn only_the_node_itself_may_ask_for_its_serving_certificate() {
        let csr = |user: &str, groups: Value| {
            let usages = ["digital signature", "server auth"];
            let spec = json!({"signerName": signer::KUBELET_SERVING, "usages": usages, "request": "", "username": user, "groups": groups});
            request(&spec, &json!({}))
        };
        let asked = serving(&["a"], &[]);
        assert_eq!(serving_node(&csr("system:node:a", json!(["system:nodes"])), &asked), Ok("a"));
        assert!(serving_node(&csr("system:node:b", json!(["system:nodes"])), &asked).is_err());
        assert!(serving_node(&csr("system:node:a", json!(["dev"])), &asked).is_err());
    }

    #[test]
    fn a_nodes_next_certificate_is_told_from_its_first() {
        let csr = |user: &str, signer: &str| {
            let usages = ["digital signature", "client auth"];
            request(&json!({"signerName": signer, "usages": usages, "request": "", "username": user}), &json!({}))
        };
        let asked = serving(&[], &[]);
        assert_eq!(recognize(&csr("system:node:a", signer::KUBELET_CLIENT), &asked), [OWN, NEW]);
        assert_eq!(recognize(&csr("system:bootstrap:abcdef", signer::KUBELET_CLIENT), &asked), [NEW]);
        assert_eq!(recognize(&csr("system:node:a", signer::CLIENT), &asked), []);
    }
}
