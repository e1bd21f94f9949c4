//! One resource, what it is called, and what it was called before.

use serde_json::{Map, Value};

/// A kind: `group` is empty for the core group, and each may be empty in what selects resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// Kinds that upstream knows to be in no namespace. All others count as namespaced, those of later versions too.
const CLUSTER_SCOPED: &[(&str, &[&str], &[&str])] = &[
    ("", &["v1"], &["ComponentStatus", "Namespace", "Node", "NodeProxyOptions", "PersistentVolume"]),
    (
        "admissionregistration.k8s.io",
        &["v1", "v1beta1"],
        &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"],
    ),
    ("apiextensions.k8s.io", &["v1", "v1beta1"], &["CustomResourceDefinition"]),
    ("apiregistration.k8s.io", &["v1", "v1beta1"], &["APIService"]),
    ("certificates.k8s.io", &["v1", "v1beta1"], &["CertificateSigningRequest"]),
    ("flowcontrol.apiserver.k8s.io", &["v1beta1"], &["FlowSchema", "PriorityLevelConfiguration"]),
    ("networking.k8s.io", &["v1", "v1beta1"], &["IngressClass"]),
    ("node.k8s.io", &["v1", "v1beta1"], &["RuntimeClass"]),
    ("policy", &["v1beta1"], &["PodSecurityPolicy"]),
    ("rbac.authorization.k8s.io", &["v1", "v1beta1"], &["ClusterRole", "ClusterRoleBinding"]),
    ("scheduling.k8s.io", &["v1", "v1beta1"], &["PriorityClass"]),
    ("storage.k8s.io", &["v1", "v1beta1"], &["CSIDriver", "CSINode", "StorageClass", "VolumeAttachment"]),
];

/// The effective namespace of what is in none.
const NO_NAMESPACE: &str = "_non_namespaceable_";

impl Gvk {
    /// Of a resource's `apiVersion` and `kind`.
    pub fn of(value: &Value) -> Self {
        let (api_version, kind) = (scalar(&value["apiVersion"]), scalar(&value["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        Self { group: group.to_owned(), version: version.to_owned(), kind }
    }

    /// Whether it is one that a selector means, whose empty parts mean any.
    pub fn is_selected(&self, by: &Self) -> bool {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        fits(&by.group, &self.group) && fits(&by.version, &self.version) && fits(&by.kind, &self.kind)
    }

    pub fn is_cluster_scoped(&self) -> bool {
        CLUSTER_SCOPED.iter().any(|(group, versions, kinds)| {
            self.group == *group && versions.contains(&&*self.version) && kinds.contains(&&*self.kind)
        })
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// `Deployment.v1.apps`.
impl std::fmt::Display for Gvk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", or(&self.kind, "[noKind]"), or(&self.version, "[noVer]"), or(&self.group, "[noGrp]"))
    }
}

/// What a resource is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Id {
    pub gvk: Gvk,
    pub name: String,
    pub namespace: String,
}

impl Id {
    /// The namespace it counts as being in: `default` without one.
    pub fn effective_namespace(&self) -> &str {
        if self.gvk.is_cluster_scoped() { NO_NAMESPACE } else { or(&self.namespace, "default") }
    }

    /// Whether both name the same resource.
    pub fn equals(&self, other: &Self) -> bool {
        self.gvk == other.gvk && self.name == other.name && self.effective_namespace() == other.effective_namespace()
    }

    /// Whether it is one that a selector means, whose empty parts mean any.
    pub fn is_selected(&self, by: &Self) -> bool {
        (by.name.is_empty() || by.name == self.name)
            && (by.namespace.is_empty() || by.effective_namespace() == self.effective_namespace())
            && self.gvk.is_selected(&by.gvk)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `Deployment.v1.apps/web.shop`.
impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}.{}", self.gvk, or(&self.name, "[noName]"), or(&self.namespace, "[noNs]"))
    }
}

/// The annotation of where a resource came from.
pub const ORIGIN: &str = "config.kubernetes.io/origin";
/// The annotation of what has transformed it.
pub const TRANSFORMATIONS: &str = "alpha.config.kubernetes.io/transformations";

/// What a generated resource does with one that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    #[default]
    Create,
    Replace,
    Merge,
}

/// A former name, namespace (the effective one) and kind.
type Former = (String, String, String);

/// A resource on its way through a build.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    pub value: Value,
    former: Vec<Former>,
    pub prefixes: Vec<String>,
    pub suffixes: Vec<String>,
    pub behavior: Behavior,
    /// Whether its name is to end with a hash of its content.
    pub hashed: bool,
    /// The variables that take their values from it.
    pub variables: Vec<String>,
}

impl Resource {
    pub fn new(value: Value) -> Self {
        Self { value, ..Self::default() }
    }

    pub fn gvk(&self) -> Gvk {
        Gvk::of(&self.value)
    }

    pub fn kind(&self) -> String {
        scalar(&self.value["kind"])
    }

    pub fn name(&self) -> String {
        scalar(&self.value["metadata"]["name"])
    }

    pub fn namespace(&self) -> String {
        scalar(&self.value["metadata"]["namespace"])
    }

    /// What it is called now.
    pub fn id(&self) -> Id {
        Id { gvk: self.gvk(), name: self.name(), namespace: self.namespace() }
    }

    /// What it was called before, the oldest first; of its kind only the word is remembered.
    pub fn former_ids(&self) -> Vec<Id> {
        let gvk = self.gvk();
        let id = |(name, namespace, kind): &Former| Id {
            gvk: Gvk { kind: kind.clone(), ..gvk.clone() },
            name: name.clone(),
            namespace: namespace.clone(),
        };
        self.former.iter().map(id).collect()
    }

    /// All of what it was and is called.
    pub fn ids(&self) -> Vec<Id> {
        let mut ids = self.former_ids();
        ids.push(self.id());
        ids
    }

    /// What it was called first.
    pub fn original_id(&self) -> Id {
        self.ids().swap_remove(0)
    }

    /// Remembers what it is called, before that changes.
    pub fn remember(&mut self) {
        let id = self.id();
        self.former.push((id.name.clone(), id.effective_namespace().to_owned(), id.gvk.kind));
    }

    pub fn set_name(&mut self, name: String) {
        self.metadata().insert("name".to_owned(), name.into());
    }

    pub fn set_namespace(&mut self, namespace: String) {
        if namespace.is_empty() {
            self.metadata().remove("namespace");
        } else {
            self.metadata().insert("namespace".to_owned(), namespace.into());
        }
    }

    fn metadata(&mut self) -> &mut Map<String, Value> {
        object_in(&mut self.value, "metadata")
    }

    /// Takes over what another is called and was called, and its labels and annotations where it has none of its own: what
    /// becomes of a generated resource that replaces another.
    pub fn take_place_of(&mut self, other: &Self) {
        for field in ["labels", "annotations"] {
            let mut all = strings(&other.value["metadata"][field]);
            all.extend(strings(&self.value["metadata"][field]));
            if all.is_empty() {
                self.metadata().remove(field);
            } else {
                self.metadata().insert(field.to_owned(), all.into());
            }
        }
        self.set_name(other.name());
        self.set_namespace(other.namespace());
        self.hashed &= other.hashed;
        self.behavior = other.behavior;
        self.former.clone_from(&other.former);
        self.prefixes.clone_from(&other.prefixes);
        self.suffixes.clone_from(&other.suffixes);
        self.variables.clone_from(&other.variables);
    }

    /// Adds another's data where it has none of its own.
    pub fn merge_data_of(&mut self, other: &Self) {
        for field in ["data", "binaryData"] {
            let mut all = strings(&other.value[field]);
            all.extend(strings(&self.value[field]));
            if let Some(map) = self.value.as_object_mut().filter(|map| !all.is_empty() || map.contains_key(field)) {
                map.insert(field.to_owned(), all.into());
            }
        }
    }

    /// Notes something in an annotation.
    pub fn note(&mut self, key: &str, text: String) {
        object_in(self.metadata_value(), "annotations").insert(key.to_owned(), text.into());
    }

    /// Notes what has been done to it: where it came from if that is not noted yet, else what it went through.
    pub fn note_change(&mut self, note: &str) {
        let annotations = object_in(self.metadata_value(), "annotations");
        if !annotations.contains_key(ORIGIN) {
            annotations.insert(ORIGIN.to_owned(), note.into());
            return;
        }
        let item: Vec<String> = note.lines().map(|line| format!("  {line}\n")).collect();
        let before = annotations.get(TRANSFORMATIONS).map(scalar).unwrap_or_default();
        let list = format!("{before}- {}", item.concat().trim_start());
        annotations.insert(TRANSFORMATIONS.to_owned(), list.into());
    }

    fn metadata_value(&mut self) -> &mut Value {
        self.metadata();
        &mut self.value["metadata"]
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        is_empty(&self.value)
    }
}

/// Whether a value is nothing, or a list or a map of nothing.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The map in a field, made if it is not there.
pub fn object_in<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let inner = &mut value[field];
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    match inner {
        Value::Object(map) => map,
        _ => unreachable!("it has just been made one"),
    }
}

/// A scalar's text; nothing for what is no scalar.
pub fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// A map's scalars as strings.
pub fn strings(value: &Value) -> Map<String, Value> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), scalar(value).into())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_told_apart_by_effective_namespace() {
        let id = |namespace: &str, kind: &str| {
            let value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "namespace": namespace}});
            Resource::new(value).id()
        };
        assert!(id("", "Pod").equals(&id("default", "Pod")) && !id("", "Pod").equals(&id("x", "Pod")));
        assert!(id("", "Node").equals(&id("x", "Node")));
        assert_eq!(id("", "Pod").to_string(), "Pod.v1.[noGrp]/a.[noNs]");
    }

    #[test]
    fn former_names_are_remembered_in_order() {
        let mut resource = Resource::new(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}));
        resource.remember();
        resource.set_name("b".to_owned());
        let names: Vec<String> = resource.ids().iter().map(Id::to_string).collect();
        assert_eq!(names, ["Deployment.v1.apps/a.default", "Deployment.v1.apps/b.[noNs]"]);
        assert_eq!(resource.original_id().name, "a");
    }
}
