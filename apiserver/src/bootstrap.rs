//! What every cluster has: the default namespaces, the system's priority classes, and the `kubernetes` Service with the endpoints behind it.

use std::{net::Ipv4Addr, sync::Arc};

use api::kinds::priority_class::SYSTEM_CLASSES;
use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    error::Result,
    identity::{MASTERS, User},
    registry::{Registry, Write},
    wire::options::WriteOptions,
};

/// The namespaces that are always there.
pub const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

async fn ensure(
    registry: &Registry,
    (group, version, plural): (&str, &str, &str),
    namespace: &str,
    object: Value,
) -> Result<()> {
    let Some(entry) = registry.entry(group, version, plural) else { return Ok(()) };
    let user = User::new("system:apiserver", &[MASTERS]);
    let options = WriteOptions::default();
    let write = Write { user: &user, now: Timestamp::now(), options: &options };
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if registry.current(entry, namespace, &name).await?.is_none() {
        return match Box::pin(registry.create(entry, namespace, object, write)).await {
            // Another server was faster, be it told of the name or of the address that the object has.
            Err(_) if registry.current(entry, namespace, &name).await?.is_some() => Ok(()),
            other => other.map(drop),
        };
    }
    let mut wish = |current: &Value| {
        let mut new = current.clone();
        for field in ["subsets", "endpoints", "ports", "addressType"] {
            if let Some(value) = object.get(field) {
                new[field] = value.clone();
            }
        }
        Ok(new)
    };
    registry.update(entry, (namespace, &name), None, write, &mut wish).await.map(drop)
}

/// Makes the namespaces.
pub async fn namespaces(registry: &Registry) -> Result<()> {
    for name in NAMESPACES {
        ensure(registry, ("", "v1", "namespaces"), "", json!({"metadata": {"name": name}})).await?;
    }
    Ok(())
}

/// Makes the classes of pods that a cluster needs to run.
async fn priority_classes(registry: &Registry) -> Result<()> {
    for (name, value, description) in SYSTEM_CLASSES {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description});
        ensure(registry, ("scheduling.k8s.io", "v1", "priorityclasses"), "", class).await?;
    }
    Ok(())
}

/// Makes the `kubernetes` Service.
async fn service(registry: &Registry, cluster_ip: Ipv4Addr, port: u16) -> Result<()> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip.to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
        },
    });
    ensure(registry, ("", "v1", "services"), "default", service).await
}

/// Makes the `kubernetes` Service lead to the API servers at these addresses, and to no others.
pub async fn endpoints(registry: &Registry, addresses: &[String], port: u16) -> Result<()> {
    let loopback = |address: &String| address.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    if let Some(address) = addresses.iter().find(|address| loopback(address)) {
        tracing::warn!(address, "no pod can reach a loopback address: the kubernetes Service has no endpoints");
        return Ok(());
    }
    let each = |entry: &dyn Fn(&String) -> Value| addresses.iter().map(entry).collect::<Vec<_>>();
    let mirrored = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": mirrored},
        "subsets": [{"addresses": each(&|ip| json!({"ip": ip})), "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    ensure(registry, ("", "v1", "endpoints"), "default", endpoints).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": each(&|ip| json!({"addresses": [ip], "conditions": {"ready": true}})),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(registry, ("discovery.k8s.io", "v1", "endpointslices"), "default", slice).await
}

/// Namespaces, priority classes and the Service, as far as they are missing.
pub async fn cluster(registry: &Arc<Registry>, cluster_ip: Ipv4Addr, advertised: Option<(&str, u16)>) -> Result<()> {
    namespaces(registry).await?;
    priority_classes(registry).await?;
    match advertised {
        Some((_, port)) => service(registry, cluster_ip, port).await,
        None => Ok(()),
    }
}

/// Where an API server is reached, as `https://HOST:PORT`.
pub enum Place {
    /// At an address of its own.
    Own(String),
    /// At one that leads to whichever server lives.
    Common(String),
}

/// Publishes where the cluster is and by which authority it is known, for machines that are to join: everybody may read
/// `kube-public/cluster-info`, and who has the authority's hash can tell a true one. As kubeadm writes it.
pub async fn cluster_info(registry: &Registry, place: &Place, authorities: &str) -> Result<()> {
    const NAME: &str = "cluster-info";
    let authority = STANDARD.encode(authorities);
    let (Place::Own(server) | Place::Common(server)) = place;
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: {server}\n  name: \"\"\n\
         contexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n"
    );
    let entry = registry.core("configmaps")?;
    let user = User::new("system:apiserver", &[MASTERS]);
    let options = WriteOptions::default();
    let write = Write { user: &user, now: Timestamp::now(), options: &options };
    let known = registry.current(entry, "kube-public", NAME).await?;
    let kept = known.as_ref().and_then(|found| found.value.pointer("/data/kubeconfig")?.as_str().map(str::to_owned));
    let told = match place {
        // Another server's address is as good as ours.
        Place::Own(_) => kept.is_some_and(|text| text.contains(&authority)),
        Place::Common(_) => kept.as_ref() == Some(&kubeconfig),
    };
    if told {
        return Ok(());
    }
    if known.is_none() {
        let object = json!({"metadata": {"name": NAME, "namespace": "kube-public"}, "data": {"kubeconfig": kubeconfig}});
        return match registry.create(entry, "kube-public", object, write).await {
            Err(status) if status.is("AlreadyExists") => Ok(()),
            other => other.map(drop),
        };
    }
    let mut wish = |current: &Value| {
        let mut new = current.clone();
        new["data"]["kubeconfig"] = json!(kubeconfig);
        Ok(new)
    };
    registry.update(entry, ("kube-public", NAME), None, write, &mut wish).await.map(drop)
}
