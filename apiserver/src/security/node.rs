//! The Node authorizer: what a kubelet (`system:node:NAME` in `system:nodes`) may do, as upstream's mode `Node` decides it.
//!
//! A node reads what its pods name and nothing else: Secrets, ConfigMaps and claims that the spec of a pod bound to it
//! names, tokens of those pods' service accounts, its pods, its own Node, Lease and CSINode. All else is what the role
//! `system:node` says, the same for every node.
//!
//! Upstream keeps a graph of all objects beside its informers. Here the watch cache knows the pods of each node; what a pod names
//! is worked out when its node first asks and remembered with the pod's revision. So a write costs nothing, other users'
//! requests cost a look at their name, and a node that has seen a pod on a watch is never refused what the pod needs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use api::kinds::pod::refs::{self, References};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::rbac::rule::Rule;
use crate::{
    cache::{Cache, Object},
    request::RequestInfo,
};

const LEASES: &str = "kube-node-lease";

/// Where pods are found by the node they are bound to.
pub trait BoundPods: Send + Sync + 'static {
    /// The pods of a node, as fresh as the cache is.
    fn on_node(&self, node: &str) -> Vec<Arc<Object>>;
}

impl BoundPods for Cache {
    fn on_node(&self, node: &str) -> Vec<Arc<Object>> {
        self.indexed(node)
    }
}

/// No pods, for tests without a cache.
impl BoundPods for () {
    fn on_node(&self, _node: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }
}

/// What is remembered of a node's pods, by their keys.
type Known = HashMap<Arc<str>, (u64, References)>;

/// The authorizer.
pub struct NodeAuthorizer {
    pods: Arc<dyn BoundPods>,
    known: Mutex<HashMap<String, Known>>,
    rules: Vec<Rule>,
}

/// More nodes than this are forgotten and learnt again: names of nodes that are gone must not pile up.
const NODES: usize = 10_000;

impl NodeAuthorizer {
    /// `rules` are those of the role `system:node`.
    pub fn new(pods: Arc<dyn BoundPods>, rules: Vec<Rule>) -> Self {
        Self { pods, known: Mutex::default(), rules }
    }

    /// Whether the node may do it; `Err` says why not, which may be nothing.
    pub fn decide(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        if node.is_empty() {
            return Err("unknown node for user \"system:node:\"".to_owned());
        }
        if info.is_resource {
            let namespace = info.namespace.as_str();
            let name = info.name.as_str();
            match (info.group.as_str(), info.resource.as_str()) {
                ("", "secrets") => {
                    readable(info)?;
                    return self.related(node, info, |refs| refs.secrets.contains(name));
                }
                ("", "configmaps") => {
                    readable(info)?;
                    return self.related(node, info, |refs| refs.config_maps.contains(name));
                }
                ("", "persistentvolumeclaims") => {
                    if info.subresource == "status" {
                        let fit = matches!(info.verb, "update" | "patch");
                        allow_if(fit, "can only get/update/patch this type")?;
                    } else {
                        gettable(info)?;
                    }
                    return self.related(node, info, |refs| refs.claims.contains(name));
                }
                // What claims are bound to is not served: nothing leads from a pod to it.
                ("", "persistentvolumes")
                | ("storage.k8s.io", "volumeattachments")
                | ("resource.k8s.io", "resourceclaims") => {
                    gettable(info)?;
                    return self.related(node, info, |_| false);
                }
                ("", "serviceaccounts") => {
                    let fit = info.verb == "create" && !name.is_empty();
                    allow_if(fit, "can only create tokens for individual service accounts")?;
                    allow_if(info.subresource == "token", "can only create token subresource of serviceaccount")?;
                    return self.related(node, info, |refs| refs.service_account == name);
                }
                ("coordination.k8s.io", "leases") => return lease(node, namespace, info),
                ("storage.k8s.io", "csinodes") => return csi_node(node, info),
                ("", "nodes") => return self.node(node, info),
                ("", "pods") => return self.pod(node, info),
                _ => {}
            }
        }
        self.by_role(info)
    }

    fn by_role(&self, info: &RequestInfo) -> Result<(), String> {
        if self.rules.iter().any(|rule| rule.allows(info)) { Ok(()) } else { Err(String::new()) }
    }

    /// Reads are of the node itself; writes are admission's to look at, since the object tells whose it is.
    fn node(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        if info.subresource.is_empty() && matches!(info.verb, "get" | "list" | "watch") && info.name != node {
            return Err(format!("node '{node}' cannot read '{}', only its own Node object", info.name));
        }
        self.by_role(info)
    }

    /// Reads are of pods bound to the node.
    fn pod(&self, node: &str, info: &RequestInfo) -> Result<(), String> {
        match (info.subresource.as_str(), info.verb) {
            ("", "get") => {
                let bound = |pod: &Arc<Object>| pod.namespace() == info.namespace && pod.name() == info.name;
                if self.pods.on_node(node).iter().any(bound) { Ok(()) } else { Err(unrelated(node)) }
            }
            ("", "list" | "watch") if info.selected_node != node => {
                Err("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
            _ => self.by_role(info),
        }
    }

    /// Whether a pod bound to the node names the object.
    fn related(&self, node: &str, info: &RequestInfo, names: impl Fn(&References) -> bool) -> Result<(), String> {
        allow_if(!info.name.is_empty(), "No Object name found")?;
        let pods = self.pods.on_node(node);
        let mut nodes = self.known.lock();
        if nodes.len() > NODES {
            nodes.clear();
        }
        let known = nodes.entry(node.to_owned()).or_default();
        if known.len() > 2 * pods.len() + 16 {
            let here: HashSet<&Arc<str>> = pods.iter().map(|pod| pod.key()).collect();
            known.retain(|key, _| here.contains(key));
        }
        let found = pods.iter().filter(|pod| pod.namespace() == info.namespace).any(|pod| match known.get(pod.key()) {
            Some((revision, refs)) if *revision == pod.revision() => names(refs),
            _ => {
                let refs = named_by(pod);
                let hit = names(&refs);
                known.insert(pod.key().clone(), (pod.revision(), refs));
                hit
            }
        });
        if found { Ok(()) } else { Err(unrelated(node)) }
    }
}

/// A mirror pod is its node's own writing: it gives no rights.
fn named_by(pod: &Object) -> References {
    let pod: Option<Pod> = serde_json::from_slice(pod.json()).ok();
    pod.filter(|pod| !refs::is_mirror(pod)).map(|pod| refs::references(&pod)).unwrap_or_default()
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn allow_if(fit: bool, why: &str) -> Result<(), String> {
    if fit { Ok(()) } else { Err(why.to_owned()) }
}

fn readable(info: &RequestInfo) -> Result<(), String> {
    allow_if(matches!(info.verb, "get" | "list" | "watch"), "can only read resources of this type")?;
    allow_if(info.subresource.is_empty(), "cannot read subresource")?;
    allow_if(!info.namespace.is_empty(), "can only read namespaced object of this type")
}

fn gettable(info: &RequestInfo) -> Result<(), String> {
    allow_if(info.verb == "get", "can only get individual resources of this type")?;
    allow_if(info.subresource.is_empty(), "cannot get subresource")
}

fn lease(node: &str, namespace: &str, info: &RequestInfo) -> Result<(), String> {
    let known = matches!(info.verb, "get" | "create" | "update" | "patch" | "delete");
    allow_if(known, "can only get, create, update, patch, or delete a node lease")?;
    allow_if(namespace == LEASES, "can only access leases in the \"kube-node-lease\" system namespace")?;
    let own = info.verb == "create" || info.name == node;
    allow_if(own, "can only access node lease with the same name as the requesting node")
}

fn csi_node(node: &str, info: &RequestInfo) -> Result<(), String> {
    let known = matches!(info.verb, "get" | "create" | "update" | "patch" | "delete");
    allow_if(known, "can only get, create, update, patch, or delete a CSINode")?;
    allow_if(info.subresource.is_empty(), "cannot authorize CSINode subresources")?;
    let own = info.verb == "create" || info.name == node;
    allow_if(own, "can only access CSINode with the same name as the requesting node")
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::{cache::Change, security::rbac::policy};

    #[derive(Default)]
    struct Pods(Mutex<Vec<(String, Arc<Object>)>>);

    impl BoundPods for Pods {
        fn on_node(&self, node: &str) -> Vec<Arc<Object>> {
            self.0.lock().iter().filter(|(on, _)| on == node).map(|(_, pod)| pod.clone()).collect()
        }
    }

    fn pod(name: &str, node: &str, revision: u64, mut object: Value) -> (String, Arc<Object>) {
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("d");
        object["spec"]["nodeName"] = json!(node);
        (object["kind"], object["apiVersion"]) = (json!("Pod"), json!("v1"));
        let bytes = crate::cache::object::encode(&object);
        let key = format!("/registry/pods/d/{name}");
        (node.to_owned(), Arc::new(Object::new(key.into(), 15, &bytes, 1, revision, Change::Added)))
    }

    fn with_secret(name: &str) -> Value {
        json!({"metadata": {}, "spec": {"serviceAccountName": "robot", "volumes": [{"name": "v", "secret": {"secretName": name}}]}})
    }

    fn ask(authorizer: &NodeAuthorizer, node: &str, method: &Method, uri: &str) -> Result<(), String> {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        authorizer.decide(node, &RequestInfo::parse(method, path, query))
    }

    fn authorizer() -> (Arc<Pods>, NodeAuthorizer) {
        let pods = Arc::new(Pods::default());
        (pods.clone(), NodeAuthorizer::new(pods, policy::rules_of_role("system:node")))
    }

    #[test]
    fn a_node_reads_what_its_pods_name() {
        let (pods, authorizer) = authorizer();
        let mut mirror = with_secret("m");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        *pods.0.lock() =
            vec![pod("p", "a", 2, with_secret("s")), pod("q", "b", 3, with_secret("t")), pod("m", "a", 4, mirror)];
        let unrelated = Err("no relationship found between node 'a' and this object".to_owned());
        let get = |uri: &str| ask(&authorizer, "a", &Method::GET, uri);
        assert_eq!(get("/api/v1/namespaces/d/secrets/s"), Ok(()));
        assert_eq!(get("/api/v1/namespaces/d/secrets?fieldSelector=metadata.name%3Ds&watch=1"), Ok(()));
        assert_eq!(get("/api/v1/namespaces/d/secrets/t"), unrelated);
        assert_eq!(get("/api/v1/namespaces/d/secrets/m"), unrelated);
        assert_eq!(get("/api/v1/namespaces/e/secrets/s"), unrelated);
        assert_eq!(get("/api/v1/namespaces/d/configmaps/s"), unrelated);
        assert_eq!(get("/api/v1/namespaces/d/secrets"), Err("No Object name found".into()));
        assert_eq!(get("/api/v1/secrets"), Err("can only read namespaced object of this type".into()));
        let token = |account: &str| {
            ask(&authorizer, "a", &Method::POST, &format!("/api/v1/namespaces/d/serviceaccounts/{account}/token"))
        };
        assert_eq!((token("robot"), token("default")), (Ok(()), unrelated.clone()));
        // The pod's successor at another revision names another secret.
        pods.0.lock()[0] = pod("p", "a", 5, with_secret("u"));
        assert_eq!(get("/api/v1/namespaces/d/secrets/s"), unrelated);
        assert_eq!(get("/api/v1/namespaces/d/secrets/u"), Ok(()));
        pods.0.lock().clear();
        assert_eq!(get("/api/v1/namespaces/d/secrets/u"), unrelated);
    }

    #[test]
    fn a_node_has_its_own_objects_and_its_role() {
        let (pods, authorizer) = authorizer();
        *pods.0.lock() = vec![pod("p", "a", 2, with_secret("s")), pod("q", "b", 3, with_secret("t"))];
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let csi = "/apis/storage.k8s.io/v1/csinodes";
        let allowed = [
            (Method::GET, "/api/v1/nodes/a".to_owned()),
            (Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Da&watch=true".to_owned()),
            (Method::POST, "/api/v1/nodes".to_owned()),
            (Method::PATCH, "/api/v1/nodes/a/status".to_owned()),
            (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Da".to_owned()),
            (Method::GET, "/api/v1/namespaces/d/pods/p".to_owned()),
            (Method::POST, "/api/v1/namespaces/d/pods".to_owned()),
            (Method::PATCH, "/api/v1/namespaces/d/pods/p/status".to_owned()),
            (Method::GET, "/api/v1/services".to_owned()),
            (Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews".to_owned()),
            (Method::POST, "/apis/certificates.k8s.io/v1/certificatesigningrequests".to_owned()),
            (Method::POST, leases.to_owned()),
            (Method::PUT, format!("{leases}/a")),
            (Method::PUT, format!("{csi}/a")),
        ];
        for (method, uri) in allowed {
            assert_eq!(ask(&authorizer, "a", &method, &uri), Ok(()), "{method} {uri}");
        }
        let own_lease = "can only access node lease with the same name as the requesting node";
        let refused = [
            (Method::GET, "/api/v1/nodes/b".to_owned(), "node 'a' cannot read 'b', only its own Node object"),
            (Method::GET, "/api/v1/nodes".to_owned(), "node 'a' cannot read '', only its own Node object"),
            (Method::DELETE, "/api/v1/nodes/a".to_owned(), ""),
            (Method::GET, "/api/v1/pods".to_owned(), "can only list/watch pods with spec.nodeName field selector"),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=spec.nodeName%3Db".to_owned(),
                "can only list/watch pods with spec.nodeName field selector",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/d/pods/q".to_owned(),
                "no relationship found between node 'a' and this object",
            ),
            (Method::PUT, "/api/v1/namespaces/d/secrets/s".to_owned(), "can only read resources of this type"),
            (
                Method::GET,
                "/api/v1/namespaces/d/serviceaccounts/robot".to_owned(),
                "can only create tokens for individual service accounts",
            ),
            (Method::GET, "/api/v1/persistentvolumes".to_owned(), "can only get individual resources of this type"),
            (Method::PUT, format!("{leases}/b"), own_lease),
            (Method::GET, leases.to_owned(), "can only get, create, update, patch, or delete a node lease"),
            (
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/d/leases/a".to_owned(),
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            (Method::GET, format!("{csi}/b"), "can only access CSINode with the same name as the requesting node"),
            (Method::GET, "/apis/apps/v1/deployments".to_owned(), ""),
            (Method::GET, "/metrics".to_owned(), ""),
        ];
        for (method, uri, why) in refused {
            assert_eq!(ask(&authorizer, "a", &method, &uri), Err(why.to_owned()), "{method} {uri}");
        }
    }

    #[test]
    #[ignore = "prints what a decision costs"]
    fn cost_of_a_decision() {
        let (pods, authorizer) = authorizer();
        *pods.0.lock() = (0..110).map(|n| pod(&format!("p{n}"), "a", 2, with_secret(&format!("s{n}")))).collect();
        let info = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/d/secrets/s109", None);
        let begin = std::time::Instant::now();
        for _ in 0..10_000 {
            assert!(authorizer.decide("a", &info).is_ok());
        }
        println!("a secret named by the last of 110 pods: {:?}", begin.elapsed() / 10_000);
    }
}
