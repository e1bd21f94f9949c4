//! What happens to objects before their kind decides: the built-in admission of upstream's default set, as far as it
//! concerns the kinds that are served.

mod certificates;
mod nodes;
mod pods;

use api::{
    kind::Subresource,
    kinds::priority_class::SYSTEM_CLASSES,
    status::{Cause, GroupResource, Status},
};
use serde_json::Value;

use crate::{
    error::Result,
    identity::User,
    registry::{Entry, Registry, Write, metadata},
};

/// Namespaces that are never deleted.
const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

fn is(entry: &Entry, plural: &str) -> bool {
    entry.info().group.is_empty() && entry.info().plural == plural
}

/// A refusal, which calls what has no name yet unknown.
fn forbidden(resource: GroupResource<'_>, name: &str, why: &str) -> Status {
    Status::forbidden(resource, if name.is_empty() { "Unknown" } else { name }, why)
}

/// Before a new object is defaulted and checked.
pub async fn on_create(
    registry: &Registry,
    entry: &Entry,
    namespace: &str,
    object: &mut Value,
    write: Write<'_>,
) -> Result<()> {
    if entry.info().namespaced {
        in_living_namespace(registry, entry.info().group_resource(), namespace, metadata::text(object, "name")).await?;
    }
    if is(entry, "pods") {
        pods::service_account(registry, namespace, object).await?;
    }
    // Few writes are by nodes: all others' futures stay small.
    if write.user.node().is_some() {
        Box::pin(nodes::on_create(registry, entry, namespace, object, write.user)).await?;
    }
    if is(entry, "pods") {
        pods::on_create(registry, object)?;
    } else if is(entry, "nodes") {
        api::kinds::node::taint_until_ready(object);
    } else if certificates::concern(entry) {
        certificates::on_create(entry, object)?;
    }
    Ok(())
}

/// Before an update is defaulted and checked.
pub fn on_update(entry: &Entry, object: &mut Value, old: &Value, at: Option<Subresource>, write: Write<'_>) -> Result<()> {
    nodes::on_update(entry, object, old, at, write.user)?;
    if is(entry, "pods") && at.is_none() {
        api::kinds::pod::keep_priority(object, old);
        api::kinds::pod::default_toleration_seconds(object);
    }
    Ok(())
}

/// Before a deletion of one object by its name. (As upstream: who deletes all priority classes deletes the system's too. They
/// are made again when a server starts, and their names mean the same meanwhile.)
pub fn may_be_deleted(entry: &Entry, name: &str) -> Result<()> {
    if entry.info().plural == "priorityclasses" && SYSTEM_CLASSES.iter().any(|(known, ..)| *known == name) {
        let why = "this is a system priority class and cannot be deleted";
        return Err(Status::forbidden(entry.info().group_resource(), name, why));
    }
    Ok(())
}

/// Before a deletion.
pub async fn on_delete(registry: &Registry, entry: &Entry, (namespace, name): (&str, &str), write: Write<'_>) -> Result<()> {
    if is(entry, "namespaces") && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(entry.info().group_resource(), name, "this namespace may not be deleted"));
    }
    match write.user.node() {
        Some(_) => Box::pin(nodes::on_delete(registry, entry, namespace, name, write.user)).await,
        None => Ok(()),
    }
}

/// Before something is created below an object: a binding, an eviction, a token.
pub async fn on_part(
    registry: &Registry,
    (plural, part): (&str, Subresource),
    (namespace, name): (&str, &str),
    body: &Value,
    user: &User,
) -> Result<()> {
    in_living_namespace(registry, GroupResource { group: "", resource: plural }, namespace, name).await?;
    nodes::on_part(registry, (plural, part), (namespace, name), body, user).await
}

/// `NamespaceLifecycle`: nothing is created in a namespace that is missing or going.
async fn in_living_namespace(registry: &Registry, resource: GroupResource<'_>, namespace: &str, name: &str) -> Result<()> {
    if namespace.is_empty() {
        return Ok(());
    }
    let wrong = api::names::path_segment(namespace).join(", ");
    if !wrong.is_empty() {
        return Err(Status::internal(&format!("invalid resource name {}: [{wrong}]", api::status::quote(namespace))));
    }
    let namespaces = registry.core("namespaces")?;
    let Some(found) = registry.find("namespaces", "", namespace).await? else {
        return Err(Status::not_found(namespaces.info().group_resource(), namespace));
    };
    if !metadata::is_terminating(&found) && found.pointer("/status/phase").and_then(Value::as_str) != Some("Terminating") {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = forbidden(resource, name, &why);
    status.details.get_or_insert_default().causes = vec![Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    }];
    Err(status)
}
