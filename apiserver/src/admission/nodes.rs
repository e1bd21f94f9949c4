//! NodeRestriction: what a kubelet's writes may be, of the objects themselves. The authorizer says which sorts of requests a
//! node may make; this says of which objects and with which content. Upstream's plugin, rule by rule and word by word.

use std::collections::BTreeSet;

use api::{
    kind::Subresource,
    kinds::{
        certificate_signing_request::{KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER},
        pod::refs,
    },
    status::{GroupResource, Status, quote},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::certificates;
use crate::{
    error::Result,
    identity::User,
    registry::{Entry, Registry, metadata},
};

const LEASES: &str = "kube-node-lease";
const OWN_LEASE: &str = "can only access node lease with the same name as the requesting node";
const OWN_CSI_NODE: &str = "can only access CSINode with the same name as the requesting node";
const USER_PREFIX: &str = "system:node:";
/// Labels under which administrators keep workloads away from nodes.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own that a kubelet may set.
const OURS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Domains below which it may set any.
const OUR_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// A write by a node.
struct Asked<'a> {
    node: &'a str,
    resource: GroupResource<'a>,
    name: &'a str,
}

impl Asked<'_> {
    fn no(&self, why: impl AsRef<str>) -> Status {
        Status::forbidden(self.resource, self.name, why.as_ref())
    }

    fn only_if(&self, fit: bool, why: impl AsRef<str>) -> Result<()> {
        if fit { Ok(()) } else { Err(self.no(why)) }
    }

    /// The node in quotes, as most refusals name it.
    fn quoted(&self) -> String {
        quote(self.node)
    }
}

/// The node behind a request, if it is one's.
fn node(user: &User) -> Result<Option<&str>> {
    match user.node() {
        Some("") => {
            let why = format!("could not determine node from user {}", quote(&user.name));
            Err(Status::forbidden(GroupResource { group: "", resource: "" }, "", &why))
        }
        node => Ok(node),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Before an object is created.
pub async fn on_create(registry: &Registry, entry: &Entry, namespace: &str, object: &Value, user: &User) -> Result<()> {
    let Some(node) = node(user)? else { return Ok(()) };
    let info = entry.info();
    let asked = Asked { node, resource: info.group_resource(), name: metadata::text(object, "name") };
    match (info.group, info.plural) {
        ("", "pods") => new_pod(registry, &asked, object).await,
        ("", "nodes") => {
            own_node(&asked)?;
            let why = format!("node {} is not allowed to create pods with a non-nil configSource", asked.quoted());
            asked.only_if(config_source(object).is_none(), why)?;
            let forbidden = forbidden_labels(object, &Value::Null);
            let labels = forbidden.join(", ");
            let why = format!("node {} is not allowed to set the following labels: {labels}", asked.quoted());
            asked.only_if(forbidden.is_empty(), why)
        }
        ("coordination.k8s.io", "leases") => lease(&asked, namespace),
        ("storage.k8s.io", "csinodes") => asked.only_if(asked.name == node, OWN_CSI_NODE),
        _ if certificates::concern(entry) => certificate_request(&asked, object),
        _ => Ok(()),
    }
}

/// Before an object or a part of it is changed.
pub fn on_update(entry: &Entry, new: &Value, old: &Value, at: Option<Subresource>, user: &User) -> Result<()> {
    let Some(node) = node(user)? else { return Ok(()) };
    let info = entry.info();
    let asked = Asked { node, resource: info.group_resource(), name: metadata::text(old, "name") };
    match (info.group, info.plural) {
        ("", "pods") => changed_pod(&asked, new, old, at),
        ("", "nodes") => {
            own_node(&asked)?;
            changed_node(&asked, new, old)
        }
        ("coordination.k8s.io", "leases") => lease(&asked, metadata::text(old, "namespace")),
        ("storage.k8s.io", "csinodes") => asked.only_if(asked.name == node, OWN_CSI_NODE),
        _ => Ok(()),
    }
}

/// Before an object is deleted.
pub async fn on_delete(registry: &Registry, entry: &Entry, namespace: &str, name: &str, user: &User) -> Result<()> {
    let Some(node) = node(user)? else { return Ok(()) };
    let info = entry.info();
    let asked = Asked { node, resource: info.group_resource(), name };
    match (info.group, info.plural) {
        ("", "pods") => {
            // A pod that is not there is told so by who looks for it.
            let Some(pod) = registry.find("pods", namespace, name).await? else { return Ok(()) };
            let why = format!("node {} can only delete pods with spec.nodeName set to itself", asked.quoted());
            asked.only_if(text(&pod, "/spec/nodeName") == node, why)
        }
        ("", "nodes") => own_node(&asked),
        ("coordination.k8s.io", "leases") => lease(&asked, namespace),
        ("storage.k8s.io", "csinodes") => asked.only_if(name == node, OWN_CSI_NODE),
        _ => Ok(()),
    }
}

/// Before something is created below a pod or a service account: `binding`, `eviction`, `token`.
pub async fn on_part(
    registry: &Registry,
    (plural, part): (&str, Subresource),
    (namespace, name): (&str, &str),
    body: &Value,
    user: &User,
) -> Result<()> {
    let Some(node) = node(user)? else { return Ok(()) };
    let asked = Asked { node, resource: GroupResource { group: "", resource: plural }, name };
    match (plural, part) {
        ("pods", Subresource::Eviction) => {
            let pod = existing(registry, POD, namespace, name).await?;
            let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
            asked.only_if(text(&pod, "/spec/nodeName") == node, why)
        }
        ("pods", other) => Err(asked.no(unexpected(other))),
        ("serviceaccounts", Subresource::Token) => token(registry, &asked, namespace, body).await,
        _ => Ok(()),
    }
}

fn unexpected(part: Subresource) -> String {
    let name = quote(api::discovery::subresource_name(part));
    format!("unexpected pod subresource {name}, only 'status' and 'eviction' are allowed")
}

/// An object that must be there; one that is not is named as upstream's plugin names it.
async fn existing(registry: &Registry, kind: (&str, &str), namespace: &str, name: &str) -> Result<Value> {
    let (plural, singular) = kind;
    let found = registry.find(plural, namespace, name).await?;
    found.ok_or_else(|| Status::not_found(GroupResource { group: "", resource: singular }, name))
}

const POD: (&str, &str) = ("pods", "pod");
const NODE: (&str, &str) = ("nodes", "node");

/// Only mirror pods, bound to and owned by the node, that give it nothing to read.
async fn new_pod(registry: &Registry, asked: &Asked<'_>, object: &Value) -> Result<()> {
    let node = asked.quoted();
    let pod: Pod = serde_json::from_value(object.clone()).map_err(|error| Status::bad_request(error.to_string()))?;
    let mirror = format!("pod does not have {} annotation, node {node} can only create mirror pods", quote(refs::MIRROR));
    asked.only_if(refs::is_mirror(&pod), mirror)?;
    let bound = text(object, "/spec/nodeName") == asked.node;
    asked.only_if(bound, format!("node {node} can only create pods with spec.nodeName set to itself"))?;
    let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
        [owner] => owner,
        [] => return Err(asked.no(format!("node {node} can only create pods with an owner reference set to itself"))),
        _ => return Err(asked.no(format!("node {node} can only create pods with a single owner reference set to itself"))),
    };
    let own = owner.api_version == "v1" && owner.kind == "Node" && owner.name == asked.node;
    asked.only_if(own, format!("node {node} can only create pods with an owner reference set to itself"))?;
    let controls = owner.controller == Some(true);
    asked.only_if(controls, format!("node {node} can only create pods with a controller owner reference set to itself"))?;
    let blocks = owner.block_owner_deletion == Some(true);
    asked.only_if(!blocks, format!("node {node} must not set blockOwnerDeletion on an owner reference"))?;
    let found = existing(registry, NODE, "", asked.node).await?;
    let uid = metadata::text(&found, "uid");
    let why = format!("node {} UID mismatch: expected {} got {uid}", asked.node, owner.uid);
    asked.only_if(owner.uid == uid, why)?;
    let named = refs::references(&pod);
    let nothing =
        |empty: bool, what: &str| asked.only_if(empty, format!("node {node} can not create pods that reference {what}"));
    nothing(named.service_account.is_empty(), "a service account")?;
    nothing(named.secrets.is_empty(), "secrets")?;
    nothing(named.config_maps.is_empty(), "configmaps")?;
    nothing(named.claims.is_empty(), "persistentvolumeclaims")
}

fn changed_pod(asked: &Asked<'_>, new: &Value, old: &Value, at: Option<Subresource>) -> Result<()> {
    let node = asked.quoted();
    match at {
        None => {
            let why = format!("unexpected operation \"UPDATE\", node {node} can only create and delete mirror pods");
            Err(asked.no(why))
        }
        Some(Subresource::Status) => {
            let bound = text(old, "/spec/nodeName") == asked.node;
            let why = format!("node {node} can only update pod status for pods with spec.nodeName set to itself");
            asked.only_if(bound, why)?;
            let labels = !modified_labels(new, old).is_empty();
            asked.only_if(!labels, format!("node {node} cannot update labels through pod status"))?;
            let claims = |pod: &Value| pod.pointer("/status/resourceClaimStatuses").filter(|c| !c.is_null()).cloned();
            asked.only_if(claims(new) == claims(old), format!("node {node} cannot update resource claim statues"))
        }
        Some(other) => Err(asked.no(unexpected(other))),
    }
}

fn own_node(asked: &Asked<'_>) -> Result<()> {
    let why = format!("node {} is not allowed to modify node {}", asked.quoted(), quote(asked.name));
    asked.only_if(asked.name == asked.node, why)
}

/// Where a kubelet is to read its configuration; none does any more.
fn config_source(node: &Value) -> Option<&Value> {
    node.pointer("/spec/configSource").filter(|source| !source.is_null())
}

fn changed_node(asked: &Asked<'_>, new: &Value, old: &Value) -> Result<()> {
    let source = config_source(new);
    let why = format!("node {} is not allowed to update configSource to a new non-nil configSource", asked.quoted());
    asked.only_if(source.is_none() || source == config_source(old), why)?;
    let taints = |node: &Value| {
        let taints = node.pointer("/spec/taints").and_then(Value::as_array);
        taints.filter(|taints| !taints.is_empty()).cloned()
    };
    let why = format!("node {} is not allowed to modify taints", asked.quoted());
    asked.only_if(taints(new) == taints(old), why)?;
    let forbidden = forbidden_labels(new, old);
    asked.only_if(forbidden.is_empty(), format!("is not allowed to modify labels: {}", forbidden.join(", ")))
}

fn modified_labels(new: &Value, old: &Value) -> BTreeSet<String> {
    let labels = |object: &Value| object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let (new, old) = (labels(new), labels(old));
    new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key)).cloned().collect()
}

/// Labels that a node must not add, remove or change, sorted.
fn forbidden_labels(new: &Value, old: &Value) -> Vec<String> {
    modified_labels(new, old).into_iter().filter(|label| !may_set(label)).collect()
}

fn is_below(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    if is_below(domain, RESTRICTED) {
        return false;
    }
    let of_kubernetes = is_below(domain, "kubernetes.io") || is_below(domain, "k8s.io");
    !of_kubernetes || OURS.contains(&label) || OUR_DOMAINS.iter().any(|parent| is_below(domain, parent))
}

fn lease(asked: &Asked<'_>, namespace: &str) -> Result<()> {
    asked.only_if(namespace == LEASES, "can only access leases in the \"kube-node-lease\" system namespace")?;
    asked.only_if(asked.name == asked.node, OWN_LEASE)
}

/// A certificate for a node is asked for by that node.
fn certificate_request(asked: &Asked<'_>, object: &Value) -> Result<()> {
    let (signer, request) = certificates::read(object);
    if signer != KUBELET_CLIENT_SIGNER && signer != KUBELET_SERVING_SIGNER {
        return Ok(());
    }
    let request = request.map_err(|why| asked.no(format!("unable to parse csr: {why}")))?;
    let Some(name) = request.common_name.strip_prefix(USER_PREFIX) else { return Ok(()) };
    asked.only_if(name == asked.node, format!("can only create a node CSR with CN={USER_PREFIX}{}", asked.node))
}

/// A token is for a pod that runs on the node, and for what the pod asks tokens for.
async fn token(registry: &Registry, asked: &Asked<'_>, namespace: &str, request: &Value) -> Result<()> {
    let of = |field: &str| text(request, &format!("/spec/boundObjectRef/{field}"));
    let bound = of("apiVersion") == "v1" && of("kind") == "Pod" && !of("name").is_empty();
    asked.only_if(bound, "node requested token not bound to a pod")?;
    let uid = of("uid");
    asked.only_if(!uid.is_empty(), "node requested token with a pod binding without a uid")?;
    let pod = existing(registry, POD, namespace, of("name")).await?;
    let why = format!(
        "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
    );
    asked.only_if(metadata::text(&pod, "uid") == uid, why)?;
    let here = text(&pod, "/spec/nodeName") == asked.node;
    asked.only_if(here, "node requested token bound to a pod scheduled on a different node")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labelled(labels: &[&str]) -> Value {
        let labels: serde_json::Map<String, Value> = labels.iter().map(|label| ((*label).to_owned(), json!("x"))).collect();
        json!({"metadata": {"labels": labels}})
    }

    #[test]
    fn labels_that_steer_workloads_are_not_a_nodes_to_set() {
        let own = [
            "mine",
            "example.com/a",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "kubelet.kubernetes.io/a",
            "x.node.kubernetes.io/a",
            "xkubernetes.io/a",
        ];
        let others = [
            "a.node-restriction.kubernetes.io/a",
            "foo.k8s.io/a",
            "k8s.io/a",
            "kubernetes.io/role",
            "node-restriction.kubernetes.io/a",
            "node-role.kubernetes.io/master",
        ];
        assert_eq!(forbidden_labels(&labelled(&own), &Value::Null), Vec::<String>::new());
        assert_eq!(forbidden_labels(&labelled(&others), &Value::Null), others);
        assert_eq!(forbidden_labels(&labelled(&own), &labelled(&others)), others);
        assert_eq!(forbidden_labels(&labelled(&others), &labelled(&others)), Vec::<String>::new());
    }
}
