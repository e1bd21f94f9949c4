//! Descriptions of objects: plain functions from an object and what belongs to it to text, a file for each family of kinds.
//!
//! [`describe`] fetches and calls them. Kinds that this project does not serve are described as upstream describes kinds
//! that it does not know. What 1.32 prints in no order (data of ConfigMaps and Secrets) is printed in that of names.

mod certificate;
mod config;
mod container;
mod generic;
pub mod json;
mod node;
pub mod parts;
mod pod;
mod policy;
mod rbac;
mod service;
mod volume;
mod workload;
pub mod writer;

pub use self::container::host_port;

use api::selector::Selector;
use serde_json::Value;

use self::{
    json::Json,
    workload::Phases,
    writer::{Clock, Writer},
};
use crate::{
    client::{Call, Client},
    discovery::Mapping,
    failure::Failure,
    line,
    resources::items,
};

/// What is wanted of descriptions.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether events belong to them.
    pub events: bool,
    /// How many objects a list request asks for; zero for all.
    pub chunk_size: i64,
}

/// A pod template in words, its tabs as they are (`rollout history --revision`).
pub fn template(template: &Value) -> String {
    let mut w = Writer::new(Clock::system());
    pod::template(&mut w, template);
    w.unaligned()
}

/// Fetches an object and all that its description needs.
///
/// # Errors
/// If the object cannot be read.
pub async fn describe(
    client: &Client,
    mapping: &Mapping,
    namespace: Option<&str>,
    name: &str,
    settings: Settings,
) -> Result<String, Failure> {
    let fetch = Fetch { client, settings };
    let object = match client.json(Call::get(mapping.path(namespace, Some(name)))).await {
        Ok(object) => object,
        Err(failure) if settings.events && mapping.group.is_empty() && mapping.kind == "Pod" => {
            return fetch.vanished_pod(name, namespace.unwrap_or_default(), failure).await;
        }
        Err(failure) => return Err(failure),
    };
    let mut w = Writer::new(Clock::system());
    let w_ref = &mut w;
    match (mapping.group.as_str(), mapping.kind.as_str()) {
        ("", "Pod") => pod::describe(w_ref, &object, fetch.pod_events(&object).await.as_deref()),
        ("", "Node") => fetch.node(w_ref, &object).await?,
        ("", "Service") => {
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", namespace.unwrap_or_default());
            let call = Call::get(path).query("labelSelector", format!("kubernetes.io/service-name={name}"));
            // Upstream goes without, too.
            let slices = fetch.client.json(call).await.map(items).unwrap_or_default();
            service::describe(w_ref, &object, &slices, fetch.events(&object, mapping).await.as_deref());
        }
        ("", "Endpoints") => service::endpoints(w_ref, &object, fetch.events(&object, mapping).await.as_deref()),
        ("discovery.k8s.io", "EndpointSlice") => {
            service::endpoint_slice(w_ref, &object, fetch.events(&object, mapping).await.as_deref());
        }
        ("", "ConfigMap") => config::config_map(w_ref, &object, fetch.events(&object, mapping).await.as_deref()),
        ("", "Secret") => config::secret(w_ref, &object),
        ("", "ServiceAccount") => fetch.service_account(w_ref, &object, mapping).await,
        ("", "Namespace") => {
            let quotas = fetch.served(&format!("/api/v1/namespaces/{name}/resourcequotas")).await?;
            let limits = fetch.served(&format!("/api/v1/namespaces/{name}/limitranges")).await?;
            config::namespace(w_ref, &object, quotas, limits);
        }
        ("", "ReplicationController") => {
            let selector: Selector =
                Selector::parse(&parts::set(&object.pairs("spec.selector"))).unwrap_or_else(|_| Selector::nothing());
            let phases = fetch.phases(&object, &selector).await?;
            workload::replication_controller(w_ref, &object, phases, fetch.events(&object, mapping).await.as_deref());
        }
        ("apps", "ReplicaSet") => {
            let phases = fetch.phases(&object, &parts::selector(object.at("spec.selector"))).await;
            let phases = phases.map_err(|failure| failure.message());
            workload::replica_set(w_ref, &object, &phases, fetch.events(&object, mapping).await.as_deref());
        }
        ("apps", "Deployment") => fetch.deployment(w_ref, &object, mapping).await,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => rbac::role(w_ref, &object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::binding(w_ref, &object),
        ("networking.k8s.io", "NetworkPolicy") => policy::describe(w_ref, &object),
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            certificate::describe(w_ref, &object, fetch.events(&object, mapping).await.as_deref())?;
        }
        ("scheduling.k8s.io", "PriorityClass") => {
            config::priority_class(w_ref, &object, fetch.events(&object, mapping).await.as_deref());
        }
        _ => generic::describe(w_ref, &object, fetch.events(&object, mapping).await.as_deref()),
    }
    Ok(w.finish())
}

struct Fetch<'a> {
    client: &'a Client,
    settings: Settings,
}

impl Fetch<'_> {
    /// All objects of a collection that selectors choose, in chunks.
    async fn list(&self, path: &str, labels: &str, fields: &str) -> Result<Vec<Value>, Failure> {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let mut call = Call::get(path).query_if("labelSelector", labels).query_if("fieldSelector", fields);
            if self.settings.chunk_size > 0 {
                call = call.query("limit", self.settings.chunk_size.to_string()).query_if("continue", &token);
            }
            let page = self.client.json(call).await?;
            token = page.text("metadata.continue").to_owned();
            found.extend(items(page));
            if token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Whether a collection is there.
    async fn served(&self, path: &str) -> Result<bool, Failure> {
        match self.list(path, "", "").await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Events about something. What cannot be read is as if there were none.
    async fn search(&self, name: &str, namespace: &str, kind: &str, uid: &str) -> Vec<Value> {
        let mut fields = format!("involvedObject.name={name},involvedObject.namespace={namespace}");
        for (field, value) in [("kind", kind), ("uid", uid)] {
            if !value.is_empty() {
                fields += &format!(",involvedObject.{field}={value}");
            }
        }
        let path = match namespace {
            "" => "/api/v1/events".to_owned(),
            namespace => format!("/api/v1/namespaces/{namespace}/events"),
        };
        self.list(&path, "", &fields).await.unwrap_or_default()
    }

    async fn events(&self, object: &Value, mapping: &Mapping) -> Option<Vec<Value>> {
        if !self.settings.events {
            return None;
        }
        let (name, namespace) = (object.text("metadata.name"), object.text("metadata.namespace"));
        Some(self.search(name, namespace, &mapping.kind, object.text("metadata.uid")).await)
    }

    async fn pod_events(&self, pod: &Value) -> Option<Vec<Value>> {
        if !self.settings.events {
            return None;
        }
        // Events of a static pod name the hash of its file.
        let annotations = pod.pairs("metadata.annotations");
        let mirrored = annotations.iter().find(|(key, _)| *key == "kubernetes.io/config.mirror");
        let uid = mirrored.map_or(pod.text("metadata.uid"), |(_, hash)| hash);
        Some(self.search(pod.text("metadata.name"), pod.text("metadata.namespace"), "", uid).await)
    }

    /// What is left of a pod that is gone: its events.
    async fn vanished_pod(&self, name: &str, namespace: &str, failure: Failure) -> Result<String, Failure> {
        let events = self.search(name, namespace, "", "").await;
        if events.is_empty() {
            return Err(failure);
        }
        let mut w = Writer::new(Clock::system());
        line!(w, 0, "Pod '{name}': error '{}', but found events.", failure.message());
        parts::events(&mut w, Some(&events));
        Ok(w.finish())
    }

    async fn phases(&self, owner: &Value, selector: &Selector) -> Result<Phases, Failure> {
        let path = format!("/api/v1/namespaces/{}/pods", owner.text("metadata.namespace"));
        let pods = self.list(&path, &selector.to_string(), "").await?;
        Ok(Phases::count(&pods, owner))
    }

    async fn deployment(&self, w: &mut Writer, deployment: &Value, mapping: &Mapping) {
        let events = self.events(deployment, mapping).await;
        let path = format!("/apis/apps/v1/namespaces/{}/replicasets", deployment.text("metadata.namespace"));
        let selector = parts::selector(deployment.at("spec.selector")).to_string();
        let sets = self.list(&path, &selector, "").await.unwrap_or_default();
        let (old, new) = workload::generations(deployment, &sets);
        workload::deployment(w, deployment, &old, &new, events.as_deref());
    }

    async fn service_account(&self, w: &mut Writer, account: &Value, mapping: &Mapping) {
        let path = format!("/api/v1/namespaces/{}/secrets", account.text("metadata.namespace"));
        let secrets = self.list(&path, "", "").await;
        let known = secrets.as_deref().unwrap_or_default();
        let is_own = |secret: &&Value| {
            let annotations = secret.pairs("metadata.annotations");
            let has = |key: &str, value: &str| annotations.contains(&(key, value));
            secret.text("type") == "kubernetes.io/service-account-token"
                && has("kubernetes.io/service-account.name", account.text("metadata.name"))
                && has("kubernetes.io/service-account.uid", account.text("metadata.uid"))
        };
        let tokens: Vec<&str> = known.iter().filter(is_own).map(|s| s.text("metadata.name")).collect();
        let named = account.items("secrets").iter().chain(account.items("imagePullSecrets")).map(|s| s.text("name"));
        let exists = |name: &&str| known.iter().any(|secret| secret.text("metadata.name") == *name);
        let missing: Vec<&str> = named.filter(|name| secrets.is_ok() && !exists(name)).collect();
        config::service_account(w, account, &tokens, &missing, self.events(account, mapping).await.as_deref());
    }

    async fn node(&self, w: &mut Writer, node: &Value) -> Result<(), Failure> {
        let name = node.text("metadata.name");
        let fields = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
        let pods = match self.list("/api/v1/pods", "", &fields).await {
            Ok(pods) => Some(pods),
            Err(failure) if failure.reason() == "Forbidden" => None,
            Err(failure) => return Err(failure),
        };
        let events = match self.settings.events {
            true => {
                // Controllers name a node by its UID, kubelets by its name.
                let mut events = self.search(name, "", "Node", node.text("metadata.uid")).await;
                events.extend(self.search(name, "", "Node", name).await);
                Some(events)
            }
            false => None,
        };
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        let lease = self.client.json(Call::get(lease)).await.map_err(|failure| failure.message());
        node::describe(w, node, &lease, pods.as_deref(), events.as_deref());
        Ok(())
    }
}
