//! Object metadata: names of versions and resources, keys, validation on creation and on update.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use serde_json::Value;

use crate::{
    field::{ErrorKind, FieldErrors},
    kind::KindInfo,
    names, quoted,
};

/// `group/version` of the kind named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Pod`.
    pub kind: String,
}

/// `group/version` of the resource named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `pods`.
    pub resource: String,
}

/// `apps/v1` into group and version; the core group's `v1` has an empty group.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Group and version as `apiVersion` spells them.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

impl GroupVersionKind {
    /// From an object's `apiVersion` and `kind`.
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// From an object, where it says.
    pub fn of(object: &Value) -> Option<Self> {
        Some(Self::new(object.get("apiVersion")?.as_str()?, object.get("kind")?.as_str()?))
    }

    /// `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl fmt::Display for GroupVersionKind {
    /// Upstream's form: `apps/v1, Kind=Deployment`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            "" => write!(f, "/{}, Kind={}", self.version, self.kind),
            group => write!(f, "{group}/{}, Kind={}", self.version, self.kind),
        }
    }
}

impl fmt::Display for GroupVersionResource {
    /// Upstream's form: `apps/v1, Resource=deployments`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Resource={}", self.group, self.version, self.resource)
    }
}

/// `namespace/name`, or `name` alone for cluster-scoped objects: what queues and caches index by.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// A [`key`] into namespace and name.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// The key of an object.
pub fn key_of(metadata: &ObjectMeta) -> String {
    key(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// The owner with `controller: true`.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// All annotations' keys and values together, in bytes.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;
const FIELD_MANAGER_MAX: usize = 128;
const SUBRESOURCE_MAX: usize = 256;

/// Label keys and values at `path`.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.into_iter().flatten() {
        for message in names::qualified_name(key) {
            errors.invalid(path, key, message);
        }
        for message in names::label_value(value) {
            errors.invalid(path, value, message);
        }
    }
}

/// Annotation keys and the total size at `path`.
pub fn validate_annotations(annotations: Option<&BTreeMap<String, String>>, path: &str, errors: &mut FieldErrors) {
    let mut total = 0;
    for (key, value) in annotations.into_iter().flatten() {
        for message in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key, message);
        }
        total += key.len() + value.len();
    }
    if total > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

fn validate_owners(owners: &[OwnerReference], path: &str, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in owners {
        // Upstream gives no index here.
        let (_, version) = split_api_version(&owner.api_version);
        let version = if version.contains('/') { "" } else { version };
        for (field, value, name) in [
            ("apiVersion", version, "version"),
            ("kind", owner.kind.as_str(), "kind"),
            ("name", owner.name.as_str(), "name"),
            ("uid", owner.uid.as_str(), "uid"),
        ] {
            if value.is_empty() {
                let shown = if field == "apiVersion" { owner.api_version.as_str() } else { value };
                errors.invalid(format!("{path}.{field}"), &shown, format!("{name} must not be empty"));
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.invalid(path, &quoted::OWNER_REFERENCE.quote(owner), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller == Some(true) {
            let this = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    &quoted::OWNER_REFERENCE.quote(&owners),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                ),
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(finalizers: &[String], path: &str, errors: &mut FieldErrors) {
    for finalizer in finalizers {
        for message in names::qualified_name(finalizer) {
            errors.invalid(path, finalizer, message);
        }
    }
    let has = |name: &str| finalizers.iter().any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(path, &finalizers, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// What built-in kinds ask of finalizers beyond what all do: a known one, or one with a domain.
fn validate_qualified_finalizers(finalizers: &[String], path: &str, errors: &mut FieldErrors) {
    for (index, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && !matches!(finalizer.as_str(), "kubernetes" | "orphan" | "foregroundDeletion") {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(format!("{path}[{index}]"), finalizer, why);
        }
    }
}

/// A field manager's name, as query parameter or in managedFields.
pub fn validate_field_manager(manager: &str, path: &str, errors: &mut FieldErrors) {
    if manager.len() > FIELD_MANAGER_MAX {
        errors.too_long(path, FIELD_MANAGER_MAX);
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let message = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        errors.invalid(path, &manager, message);
    }
}

fn validate_managed_fields(entries: &[ManagedFieldsEntry], path: &str, errors: &mut FieldErrors) {
    for (i, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let operation = entry.operation.as_deref().unwrap_or_default();
        if !matches!(operation, "Apply" | "Update") {
            errors.invalid(format!("{path}.operation"), &operation, "must be `Apply` or `Update`");
        }
        let fields_type = entry.fields_type.as_deref().unwrap_or_default();
        if !matches!(fields_type, "" | "FieldsV1") {
            errors.invalid(format!("{path}.fieldsType"), &fields_type, "must be `FieldsV1`");
        }
        let manager = entry.manager.as_deref().unwrap_or_default();
        validate_field_manager(manager, &format!("{path}.manager"), errors);
        if entry.subresource.as_ref().is_some_and(|s| s.len() > SUBRESOURCE_MAX) {
            errors.too_long(format!("{path}.subresource"), SUBRESOURCE_MAX);
        }
    }
}

/// What creation and update check alike.
fn validate_common(meta: &ObjectMeta, path: &str, errors: &mut FieldErrors) {
    validate_labels(meta.labels.as_ref(), &format!("{path}.labels"), errors);
    validate_annotations(meta.annotations.as_ref(), &format!("{path}.annotations"), errors);
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    validate_owners(owners, &format!("{path}.ownerReferences"), errors);
}

/// Where metadata is.
const METADATA: &str = "metadata";

/// An object's metadata, after its name was generated. `known_finalizers`: finalizers have names of domains or are known ones.
pub fn validate(meta: &ObjectMeta, info: &KindInfo, known_finalizers: bool, errors: &mut FieldErrors) {
    let (path, rule, namespaced) = (METADATA, info.name_rule, info.namespaced);
    let generate = meta.generate_name.as_deref().unwrap_or_default();
    if !generate.is_empty() {
        for message in names::object_name(rule, generate, true) {
            errors.invalid(format!("{path}.generateName"), &generate, message);
        }
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.required(format!("{path}.name"), "name or generateName is required"),
        name => {
            for message in names::object_name(rule, name, false) {
                errors.invalid(format!("{path}.name"), &name, message);
            }
        }
    }
    match (namespaced, meta.namespace.as_deref().unwrap_or_default()) {
        (true, "") => errors.required(format!("{path}.namespace"), ""),
        (true, namespace) => {
            for message in names::dns1123_label(namespace) {
                errors.invalid(format!("{path}.namespace"), &namespace, message);
            }
        }
        (false, "") => {}
        (false, _) => errors.forbidden(format!("{path}.namespace"), "not allowed on this type"),
    }
    if let Some(generation) = meta.generation.filter(|g| *g < 0) {
        errors.invalid(format!("{path}.generation"), &generation, "must be greater than or equal to 0");
    }
    validate_common(meta, path, errors);
    validate_finalizers(meta.finalizers.as_deref().unwrap_or_default(), &format!("{path}.finalizers"), errors);
    validate_managed_fields(meta.managed_fields.as_deref().unwrap_or_default(), &format!("{path}.managedFields"), errors);
    if known_finalizers {
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        validate_qualified_finalizers(finalizers, &format!("{path}.finalizers"), errors);
    }
}

/// Pushes `field is immutable` when the two differ.
pub fn validate_immutable<T: PartialEq + serde::Serialize>(
    new: &T,
    old: &T,
    path: impl Into<String>,
    errors: &mut FieldErrors,
) {
    if new != old {
        errors.push(ErrorKind::Invalid, path, new, "field is immutable");
    }
}

/// An update's metadata against the stored one; `known_finalizers` as for [`validate`].
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, known_finalizers: bool, errors: &mut FieldErrors) {
    let path = METADATA;
    if old.deletion_timestamp.is_some() {
        let old = old.finalizers.as_deref().unwrap_or_default();
        let mut extra: Vec<&String> = new.finalizers.iter().flatten().filter(|f| !old.contains(f)).collect();
        extra.sort();
        extra.dedup();
        if !extra.is_empty() {
            let list = extra.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
            let message = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
            );
            errors.forbidden(format!("{path}.finalizers"), message);
        }
    }
    if new.resource_version.as_deref().unwrap_or_default().is_empty() {
        errors.invalid(format!("{path}.resourceVersion"), &"", "must be specified for an update");
    }
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        errors.invalid(format!("{path}.generation"), &new.generation.unwrap_or(0), "must not be decremented");
    }
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    validate_immutable(&text(&new.name), &text(&old.name), format!("{path}.name"), errors);
    validate_immutable(&text(&new.namespace), &text(&old.namespace), format!("{path}.namespace"), errors);
    validate_immutable(&text(&new.uid), &text(&old.uid), format!("{path}.uid"), errors);
    validate_immutable(&new.creation_timestamp, &old.creation_timestamp, format!("{path}.creationTimestamp"), errors);
    validate_immutable(&new.deletion_timestamp, &old.deletion_timestamp, format!("{path}.deletionTimestamp"), errors);
    validate_immutable(
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
        format!("{path}.deletionGracePeriodSeconds"),
        errors,
    );
    validate_common(new, path, errors);
    validate_managed_fields(new.managed_fields.as_deref().unwrap_or_default(), &format!("{path}.managedFields"), errors);
    if known_finalizers {
        let finalizers = new.finalizers.as_deref().unwrap_or_default();
        validate_qualified_finalizers(finalizers, &format!("{path}.finalizers"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(run: impl FnOnce(&mut FieldErrors)) -> Vec<String> {
        let mut errors = FieldErrors::default();
        run(&mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn creation() {
        let meta = ObjectMeta::default();
        assert_eq!(
            messages(|e| validate(&meta, &KindInfo::BASE, true, e)),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        let meta = ObjectMeta {
            name: Some("a".into()),
            namespace: Some("b".into()),
            finalizers: Some(vec!["orphan".into(), "foregroundDeletion".into()]),
            ..ObjectMeta::default()
        };
        assert_eq!(
            messages(|e| validate(&meta, &KindInfo { namespaced: false, ..KindInfo::BASE }, true, e)),
            [
                "metadata.namespace: Forbidden: not allowed on this type",
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set"
            ]
        );
    }

    #[test]
    fn update() {
        let old = ObjectMeta { name: Some("a".into()), generation: Some(2), ..ObjectMeta::default() };
        let new = ObjectMeta { name: Some("b".into()), generation: Some(1), ..ObjectMeta::default() };
        assert_eq!(
            messages(|e| validate_update(&new, &old, true, e)),
            [
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }

    #[test]
    fn annotations_are_bounded() {
        let big: BTreeMap<String, String> = [("a".to_owned(), "x".repeat(ANNOTATIONS_MAX))].into();
        assert_eq!(
            messages(|e| validate_annotations(Some(&big), "metadata.annotations", e)),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }
}
