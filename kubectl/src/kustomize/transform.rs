//! The plain transformations: namespace, prefix and suffix, labels, annotations, replicas, images. Each is a function of the
//! resources and of what the kustomization says.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    fields::{FieldSpec, Make},
    file::{Image, Replica},
    resource::{Gvk, ORIGIN, Resource, TRANSFORMATIONS, scalar},
    set::Resources,
};
use crate::output::json::compact;

/// Puts everything into a namespace.
///
/// # Errors
/// Two resources come to be called the same.
pub fn namespace(set: &mut Resources, namespace: &str, specs: &[FieldSpec]) -> Result<(), String> {
    let mut put = |value: &mut Value| {
        *value = namespace.into();
        Ok(())
    };
    for at in 0..set.0.len() {
        let resource = &mut set.0[at];
        resource.remember();
        let gvk = resource.gvk();
        if !gvk.is_cluster_scoped() {
            let own = FieldSpec { path: "metadata/namespace".to_owned(), create: true, ..FieldSpec::default() };
            own.visit(resource, Make::Scalar, &mut put)?;
        }
        if matches!(gvk.kind.as_str(), "RoleBinding" | "ClusterRoleBinding") {
            default_subjects(&mut resource.value["subjects"], namespace);
        }
        let core = gvk.group.is_empty() && gvk.version == "v1";
        for spec in specs.iter().filter(|spec| spec.path != "metadata/namespace") {
            if spec.path != "metadata/name" || core {
                let visited = spec.visit(resource, Make::Scalar, &mut put);
                visited.map_err(|why| format!("namespace transformation failed: {why}"))?;
            }
        }
        let id = set.0[at].id();
        let same: Vec<String> = set.0.iter().filter(|r| r.id().equals(&id)).map(|r| compact(&r.value)).collect();
        if same.len() > 1 {
            return Err(format!("namespace transformation produces ID conflict: [{}]", same.join(" ")));
        }
    }
    Ok(())
}

/// The accounts called `default` are those of the namespace.
fn default_subjects(subjects: &mut Value, namespace: &str) {
    for subject in subjects.as_array_mut().into_iter().flatten() {
        if subject["name"] == "default" {
            subject["namespace"] = namespace.into();
        }
    }
}

/// Kinds whose names are not theirs to choose.
fn keeps_its_name(gvk: &Gvk) -> bool {
    match gvk.kind.as_str() {
        "CustomResourceDefinition" | "Namespace" => true,
        "APIService" => gvk.group == "apiregistration.k8s.io",
        _ => false,
    }
}

/// Which end of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Prefix,
    Suffix,
}

/// Gives names a prefix or a suffix.
///
/// # Errors
/// A name is no text.
pub fn affix(set: &mut Resources, end: End, text: &str, specs: &[FieldSpec]) -> Result<(), String> {
    for resource in &mut set.0 {
        let first = resource.original_id().gvk;
        if keeps_its_name(&first) {
            continue;
        }
        for spec in specs.iter().filter(|spec| first.is_selected(&spec.gvk)) {
            if spec.path == "metadata/name" {
                let list = if end == End::Prefix { &mut resource.prefixes } else { &mut resource.suffixes };
                list.push(text.to_owned());
                resource.remember();
            }
            spec.visit(resource, Make::Scalar, &mut |value| {
                let old = scalar(value);
                *value = if end == End::Prefix { format!("{text}{old}") } else { format!("{old}{text}") }.into();
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Sets labels or annotations.
///
/// # Errors
/// Something that should be a map is none.
pub fn entries(set: &mut Resources, entries: &BTreeMap<String, String>, specs: &[FieldSpec]) -> Result<(), String> {
    for resource in &mut set.0 {
        for (key, text) in entries {
            for spec in specs {
                spec.visit(resource, Make::Map, &mut |value| match value {
                    Value::Object(map) => {
                        map.insert(key.clone(), text.clone().into());
                        Ok(())
                    }
                    Value::Null => Ok(()),
                    other => Err(wrong_kind("MappingNode", other)),
                })?;
            }
        }
    }
    Ok(())
}

/// What upstream says of a value of the wrong kind.
pub fn wrong_kind(expected: &str, value: &Value) -> String {
    let got = match value {
        Value::Array(_) => "SequenceNode",
        Value::Object(_) => "MappingNode",
        _ => "ScalarNode",
    };
    format!("wrong node kind: expected {expected} but got {got}: node contents:\n{}", api::yaml::to_string(value))
}

/// Sets the number of replicas of all that is or was called so.
///
/// # Errors
/// Nothing is.
pub fn replicas(set: &mut Resources, replica: &Replica, specs: &[FieldSpec]) -> Result<(), String> {
    let mut found = false;
    for spec in specs {
        for resource in &mut set.0 {
            if resource.ids().iter().any(|id| id.name == replica.name && id.gvk.is_selected(&spec.gvk)) {
                found = true;
                spec.visit(resource, Make::Scalar, &mut |value| {
                    *value = replica.count.into();
                    Ok(())
                })?;
            }
        }
    }
    if found {
        return Ok(());
    }
    let kinds: Vec<String> = specs.iter().map(|spec| spec.gvk.to_string()).collect();
    let name = &replica.name;
    Err(format!("resource with name {name} does not match a config with the following GVK [{}]", kinds.join(" ")))
}

/// Gives images other names, tags or digests.
///
/// # Errors
/// An image is no text.
pub fn images(set: &mut Resources, image: &Image, specs: &[FieldSpec]) -> Result<(), String> {
    // As with upstream the name is a regular expression; what is none fits nothing.
    let expression = format!("^{}(:[a-zA-Z0-9_.{{}}-]*)?(@sha256:[a-zA-Z0-9_.{{}}-]*)?$", image.name);
    let Ok(fits) = regex::Regex::new(&expression) else { return Ok(()) };
    for resource in set.0.iter_mut().filter(|resource| resource.kind() != "CustomResourceDefinition") {
        let mut update = |value: &mut Value| match value {
            Value::Null => Ok(()),
            Value::Array(_) | Value::Object(_) => Err(wrong_kind("ScalarNode", value)),
            value if fits.is_match(&scalar(value)) => {
                *value = renamed(&scalar(value), image).into();
                Ok(())
            }
            _ => Ok(()),
        };
        containers(&mut resource.value, &mut update)?;
        for spec in specs {
            // An image that is not there is none to be renamed.
            let spec = FieldSpec { create: false, ..spec.clone() };
            spec.visit(resource, Make::Nothing, &mut update)?;
        }
    }
    Ok(())
}

/// Goes to the images of whatever is called containers, wherever it is.
fn containers(value: &mut Value, update: &mut dyn FnMut(&mut Value) -> Result<(), String>) -> Result<(), String> {
    match value {
        Value::Object(map) => map.iter_mut().try_for_each(|(key, inner)| {
            containers(inner, update)?;
            match inner {
                Value::Array(items) if key == "containers" || key == "initContainers" => {
                    items.iter_mut().filter_map(|item| item.get_mut("image")).try_for_each(&mut *update)
                }
                _ => Ok(()),
            }
        }),
        Value::Array(items) => items.iter_mut().try_for_each(|item| containers(item, update)),
        _ => Ok(()),
    }
}

/// An image's name, tag and digest; the latter two may be empty.
fn parts(image: &str) -> (&str, &str, &str) {
    let start = image.find('/').unwrap_or_default();
    let (rest, digest) = match image[start..].find('@') {
        Some(at) => (&image[..start + at], &image[start + at + 1..]),
        None => (image, ""),
    };
    match rest[start..].find(':') {
        Some(at) => (&rest[..start + at], &rest[start + at + 1..], digest),
        None => (rest, "", digest),
    }
}

fn renamed(text: &str, image: &Image) -> String {
    let (name, tag, digest) = parts(text);
    let mut out = if image.new_name.is_empty() { name.to_owned() } else { image.new_name.clone() };
    let (tag, digest) = match (image.new_tag.as_str(), image.digest.as_str(), image.tag_suffix.as_str()) {
        ("", "", "") => (tag.to_owned(), digest),
        ("", "", suffix) => (format!("{tag}{suffix}"), ""),
        (tag, digest, _) => (tag.to_owned(), digest),
    };
    for (sign, part) in [(':', tag.as_str()), ('@', digest)] {
        if !part.is_empty() {
            out.push(sign);
            out.push_str(part);
        }
    }
    out
}

/// Gives what was generated its hash.
pub fn hashes(set: &mut Resources) {
    for resource in set.0.iter_mut().filter(|resource| resource.hashed) {
        let name = format!("{}-{}", resource.name(), super::generate::hash(resource));
        resource.remember();
        resource.set_name(name);
    }
}

/// Leaves out what is for kustomize only, and turns annotations into text, as upstream does where it keeps notes of its own.
pub fn finish(set: &mut Resources, origins: bool, transformations: bool) {
    for resource in &mut set.0 {
        let mut annotations = super::resource::strings(&resource.value["metadata"]["annotations"]);
        let notes = [(ORIGIN, origins), (TRANSFORMATIONS, transformations)];
        notes.iter().filter(|(_, keep)| !keep).for_each(|(key, _)| drop(annotations.remove(*key)));
        let Some(metadata) = resource.value["metadata"].as_object_mut() else { continue };
        if annotations.is_empty() {
            metadata.remove("annotations");
        } else {
            metadata.insert("annotations".to_owned(), Value::Object(annotations));
        }
    }
}

/// A resource that is to be left out of what is printed.
pub fn is_local(resource: &Resource) -> bool {
    let mark = &resource.value["metadata"]["annotations"]["config.kubernetes.io/local-config"];
    !mark.is_null() && scalar(mark) != "false"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_parts() {
        assert_eq!(parts("nginx"), ("nginx", "", ""));
        assert_eq!(parts("h:5000/a/b:1@sha256:2"), ("h:5000/a/b", "1", "sha256:2"));
        assert_eq!(parts("a@sha256:2"), ("a", "", "sha256:2"));
    }

    #[test]
    fn images_are_renamed() {
        let image = |new_name: &str, new_tag: &str, digest: &str, tag_suffix: &str| Image {
            name: String::new(),
            new_name: new_name.to_owned(),
            tag_suffix: tag_suffix.to_owned(),
            new_tag: new_tag.to_owned(),
            digest: digest.to_owned(),
        };
        assert_eq!(renamed("a:1", &image("b", "", "", "")), "b:1");
        assert_eq!(renamed("a:1@sha256:2", &image("", "3", "", "")), "a:3");
        assert_eq!(renamed("a:1", &image("", "", "sha256:4", "")), "a@sha256:4");
        assert_eq!(renamed("a:1", &image("", "5", "sha256:4", "")), "a:5@sha256:4");
        assert_eq!(renamed("a:1", &image("", "", "", "-x")), "a:1-x");
    }
}
