//! Stories of whole clusters: all controllers at work against an API server in the same process.

mod certificates;
mod cluster;
mod deployments;
mod garbage;
mod leaders;
mod namespaces;
mod nodes;
mod replicas;
mod services;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cluster::Cluster;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, PropagationPolicy},
};
use serde_json::{Value, json};

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn web(replicas: i32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image)}})
}

/// (replicas, updated, available, observed generation, Progressing's reason)
fn rollout(deployments: &[Arc<Deployment>]) -> Vec<(i32, i32, i32, bool, String)> {
    let tell = |d: &Arc<Deployment>| {
        let s = d.status.clone().unwrap_or_default();
        let reason = s
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Progressing")
            .and_then(|c| c.reason.clone())
            .unwrap_or_default();
        let n = |v: Option<i32>| v.unwrap_or(0);
        (
            n(s.replicas),
            n(s.updated_replicas),
            n(s.available_replicas),
            s.observed_generation == d.metadata.generation,
            reason,
        )
    };
    deployments.iter().map(tell).collect()
}

fn complete(n: i32) -> Vec<(i32, i32, i32, bool, String)> {
    vec![(n, n, n, true, "NewReplicaSetAvailable".to_owned())]
}

/// Image -> (revision, size, actual size) of all ReplicaSets.
fn sets(sets: &[Arc<ReplicaSet>]) -> BTreeMap<String, (String, i32, i32)> {
    let tell = |s: &Arc<ReplicaSet>| {
        let spec = s.spec.clone().unwrap_or_default();
        let image = spec.template.and_then(|t| t.spec).and_then(|s| s.containers[0].image.clone()).unwrap_or_default();
        let revision = s.metadata.annotations.as_ref().and_then(|a| a.get("deployment.kubernetes.io/revision").cloned());
        (image, (revision.unwrap_or_default(), spec.replicas.unwrap_or(0), s.status.as_ref().map_or(0, |s| s.replicas)))
    };
    sets.iter().map(tell).collect()
}

fn table(rows: &[(&str, &str, i32)]) -> BTreeMap<String, (String, i32, i32)> {
    rows.iter().map(|(image, revision, size)| ((*image).to_owned(), ((*revision).to_owned(), *size, *size))).collect()
}

fn count<K>(objects: &[Arc<K>]) -> usize {
    objects.len()
}

/// (reason, message) of the events about objects of a kind, told apart by neither name nor count.
fn told(events: &[Arc<Event>], kind: &str) -> Vec<(String, String)> {
    let about = events.iter().filter(|e| e.involved_object.kind.as_deref() == Some(kind));
    let mut told: Vec<_> =
        about.map(|e| (e.reason.clone().unwrap_or_default(), e.message.clone().unwrap_or_default())).collect();
    told.sort();
    told
}

fn names<K: kube::Resource>(objects: &[Arc<K>]) -> Vec<String> {
    let mut names: Vec<_> = objects.iter().filter_map(|o| o.meta().name.clone()).collect();
    names.sort();
    names
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
