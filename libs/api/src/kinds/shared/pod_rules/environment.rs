//! A container's environment: variables, their sources, and references to fields of the pod.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};

use super::{Rules, text, volume_sources::non_reserved_path};
use crate::{field::FieldErrors, field_path::Path, names};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields that a downward API volume may show.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `env` at `path`.
pub(super) fn variables(rules: &Rules, variables: &[EnvVar], path: &Path, errors: &mut FieldErrors) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        if variable.name.is_empty() {
            errors.required(path.child("name"), "");
        } else {
            errors.each(&path.child("name"), &variable.name, names::env_var_name(&variable.name));
        }
        if let Some(source) = &variable.value_from {
            value_from(rules, source, text(variable.value.as_ref()), &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(rules: &Rules, source: &EnvVarSource, value: &str, path: &Path, errors: &mut FieldErrors) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        field_ref(field, FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(field) = &source.resource_field_ref {
        sources += 1;
        resource_field_ref(field, false, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        sources += 1;
        key_ref(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        sources += 1;
        key_ref(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(key) = &source.file_key_ref {
        sources += 1;
        file_key_ref(rules, key, &path.child("fileKeyRef"), errors);
    }
    if sources == 0 {
        let message =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, &"", message);
    } else if !value.is_empty() {
        errors.invalid(path, &"", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, &"", "may not have more than one field specified at a time");
    }
}

fn key_ref(name: &str, key: &str, path: &Path, errors: &mut FieldErrors) {
    errors.each(&path.child("name"), name, names::dns1123_subdomain(name));
    if key.is_empty() {
        errors.required(path.child("key"), "");
    } else {
        errors.each(&path.child("key"), key, names::config_map_key(key));
    }
}

fn file_key_ref(rules: &Rules, key: &FileKeySelector, path: &Path, errors: &mut FieldErrors) {
    if key.volume_name.is_empty() {
        errors.required(path.child("volumeName"), "");
    } else if rules.volume(&key.volume_name).is_none() {
        errors.not_found(path.child("volumeName"), &key.volume_name);
    }
    errors.non_empty(&path.child("path"), &key.path);
    non_reserved_path(&key.path, &path.child("path"), errors);
    if key.key.is_empty() {
        errors.required(path.child("key"), "");
    } else {
        errors.each(&path.child("key"), &key.key, names::env_var_name(&key.key));
    }
}

/// A reference to a field of the pod: one of `fields`, or one label or annotation by its key.
pub(super) fn field_ref(field: &ObjectFieldSelector, fields: &[&str], path: &Path, errors: &mut FieldErrors) {
    let version = text(field.api_version.as_ref());
    if version.is_empty() {
        return errors.required(path.child("apiVersion"), "");
    }
    let name = field.field_path.as_str();
    if name.is_empty() {
        return errors.required(path.child("fieldPath"), "");
    }
    let (base, subscript) = match name.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        Some((base, key)) => (base, Some(key)),
        None => (name, None),
    };
    const KNOWN: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.hostNetwork",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.host",
        "status.hostIP",
        "status.hostIPs",
        "status.phase",
        "status.podIP",
        "status.podIPs",
    ];
    let path_name = path.child("fieldPath");
    if version != "v1" {
        let message = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(path_name, &name, message);
    }
    match (base, subscript) {
        ("metadata.annotations", Some(key)) => {
            errors.each(path, &key.to_lowercase(), names::qualified_name(&key.to_lowercase()))
        }
        ("metadata.labels", Some(key)) => errors.each(path, key, names::qualified_name(key)),
        (_, Some(_)) => {
            let message = format!("error converting fieldPath: field label does not support subscript: {name}");
            errors.invalid(path_name, &name, message);
        }
        (_, None) if !KNOWN.contains(&base) => {
            errors.invalid(path_name, &name, format!("error converting fieldPath: field label not supported: {name}"));
        }
        (_, None) => errors.one_of(&path_name, Some(base), fields),
    }
}

/// A reference to a container's request or limit.
pub(super) fn resource_field_ref(field: &ResourceFieldSelector, in_volume: bool, path: &Path, errors: &mut FieldErrors) {
    let resource = field.resource.as_str();
    let is_huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && text(field.container_name.as_ref()).is_empty() {
        errors.required(path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(path.child("resource"), "");
    } else if !is_huge {
        errors.one_of(&path.child("resource"), Some(resource), RESOURCES);
    }
    let divisor = field.divisor.as_ref().map_or("0", |divisor| divisor.0.as_str());
    if divisor == "0" {
        return;
    }
    let bytes = |kind| format!("only divisor's values {} are supported with the {kind} resource", BYTES.join(", "));
    let (allowed, message) = match resource {
        "limits.cpu" | "requests.cpu" => {
            (&["1m", "1"][..], "only divisor's values 1m and 1 are supported with the cpu resource".to_owned())
        }
        "limits.memory" | "requests.memory" => (BYTES, bytes("memory")),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTES, bytes("local ephemeral storage")),
        _ if is_huge => (BYTES, bytes("hugepages")),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        errors.invalid(path.child("divisor"), &resource, message);
    }
}

/// `envFrom` at `path`.
pub(super) fn sources(sources: &[EnvFromSource], path: &Path, errors: &mut FieldErrors) {
    for (i, source) in sources.iter().enumerate() {
        let item = path.index(i);
        if let Some(prefix) = source.prefix.as_ref().filter(|prefix| !prefix.is_empty()) {
            errors.each(&item.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let map = source.config_map_ref.as_ref().map(|reference| ("configMapRef", &reference.name));
        let secret = source.secret_ref.as_ref().map(|reference| ("secretRef", &reference.name));
        for (field, name) in [map, secret].into_iter().flatten() {
            let path = item.child(field);
            if name.is_empty() {
                errors.required(path.child("name"), "");
            } else {
                errors.each(&path.child("name"), name, names::dns1123_subdomain(name));
            }
        }
        match (map, secret) {
            (None, None) => errors.invalid(path, &"", "must specify one of: `configMapRef` or `secretRef`"),
            (Some(_), Some(_)) => errors.invalid(path, &"", "may not have more than one field specified at a time"),
            _ => {}
        }
    }
}
