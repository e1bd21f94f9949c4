//! Objects as upstream's messages quote them: `Invalid value: {"Key":"a","Operator":"Exists",...}`.
//!
//! Upstream hands the value that broke a rule to Go's `json.Marshal`. Most are internal types, which have no JSON names: every
//! field is written under its Go name, in the order of the struct, whether it is set or not. Types of `meta/v1` have JSON names and
//! leave out what is not set, but are in the order of their struct as well. A [`Shape`] says for one type what Go would write.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;

/// A Go struct, as JSON shows it.
#[derive(Debug)]
pub struct Shape {
    /// The API type of the value, by which a test finds fields that are missing here.
    pub of: &'static str,
    fields: &'static [Field],
}

#[derive(Debug)]
struct Field {
    /// Its name in the API.
    from: &'static str,
    /// Its name in a message.
    name: &'static str,
    unset: Unset,
    inner: Option<&'static Shape>,
}

/// What is written where the API's value says nothing.
#[derive(Clone, Copy, Debug)]
enum Unset {
    /// Nothing (`omitempty`).
    Omitted,
    /// `null`: pointers, lists and maps.
    Null,
    /// `""`.
    Text,
    /// `0`.
    Zero,
}

const fn field(from: &'static str, name: &'static str, unset: Unset) -> Field {
    Field { from, name, unset, inner: None }
}

const fn null(from: &'static str, name: &'static str) -> Field {
    field(from, name, Unset::Null)
}

const fn text(from: &'static str, name: &'static str) -> Field {
    field(from, name, Unset::Text)
}

const fn inner(from: &'static str, name: &'static str, shape: &'static Shape) -> Field {
    Field { inner: Some(shape), ..null(from, name) }
}

const fn own(name: &'static str) -> Field {
    field(name, name, Unset::Omitted)
}

/// `core.Toleration`
pub const TOLERATION: Shape = Shape {
    of: "io.k8s.api.core.v1.Toleration",
    fields: &[
        text("key", "Key"),
        text("operator", "Operator"),
        text("value", "Value"),
        text("effect", "Effect"),
        null("tolerationSeconds", "TolerationSeconds"),
    ],
};

/// `core.Taint`
pub const TAINT: Shape = Shape {
    of: "io.k8s.api.core.v1.Taint",
    fields: &[text("key", "Key"), text("value", "Value"), text("effect", "Effect"), null("timeAdded", "TimeAdded")],
};

/// `core.NodeAddress`
pub const NODE_ADDRESS: Shape =
    Shape { of: "io.k8s.api.core.v1.NodeAddress", fields: &[text("type", "Type"), text("address", "Address")] };

/// `core.NodeSelectorTerm`
pub const NODE_SELECTOR_TERM: Shape = Shape {
    of: "io.k8s.api.core.v1.NodeSelectorTerm",
    fields: &[
        inner("matchExpressions", "MatchExpressions", &NODE_SELECTOR_REQUIREMENT),
        inner("matchFields", "MatchFields", &NODE_SELECTOR_REQUIREMENT),
    ],
};

const NODE_SELECTOR_REQUIREMENT: Shape = Shape {
    of: "io.k8s.api.core.v1.NodeSelectorRequirement",
    fields: &[text("key", "Key"), text("operator", "Operator"), null("values", "Values")],
};

/// `core.SecurityContext`
pub const SECURITY_CONTEXT: Shape = Shape {
    of: "io.k8s.api.core.v1.SecurityContext",
    fields: &[
        inner("capabilities", "Capabilities", &CAPABILITIES),
        null("privileged", "Privileged"),
        inner("seLinuxOptions", "SELinuxOptions", &SE_LINUX_OPTIONS),
        inner("windowsOptions", "WindowsOptions", &WINDOWS_OPTIONS),
        null("runAsUser", "RunAsUser"),
        null("runAsGroup", "RunAsGroup"),
        null("runAsNonRoot", "RunAsNonRoot"),
        null("readOnlyRootFilesystem", "ReadOnlyRootFilesystem"),
        null("allowPrivilegeEscalation", "AllowPrivilegeEscalation"),
        null("procMount", "ProcMount"),
        inner("seccompProfile", "SeccompProfile", &SECCOMP_PROFILE),
        inner("appArmorProfile", "AppArmorProfile", &APP_ARMOR_PROFILE),
    ],
};

const CAPABILITIES: Shape =
    Shape { of: "io.k8s.api.core.v1.Capabilities", fields: &[null("add", "Add"), null("drop", "Drop")] };

const SE_LINUX_OPTIONS: Shape = Shape {
    of: "io.k8s.api.core.v1.SELinuxOptions",
    fields: &[text("user", "User"), text("role", "Role"), text("type", "Type"), text("level", "Level")],
};

const WINDOWS_OPTIONS: Shape = Shape {
    of: "io.k8s.api.core.v1.WindowsSecurityContextOptions",
    fields: &[
        null("gmsaCredentialSpecName", "GMSACredentialSpecName"),
        null("gmsaCredentialSpec", "GMSACredentialSpec"),
        null("runAsUserName", "RunAsUserName"),
        null("hostProcess", "HostProcess"),
    ],
};

const SECCOMP_PROFILE: Shape = Shape {
    of: "io.k8s.api.core.v1.SeccompProfile",
    fields: &[text("type", "Type"), null("localhostProfile", "LocalhostProfile")],
};

const APP_ARMOR_PROFILE: Shape = Shape { of: "io.k8s.api.core.v1.AppArmorProfile", ..SECCOMP_PROFILE };

/// `core.PodResourceClaim`
pub const POD_RESOURCE_CLAIM: Shape = Shape {
    of: "io.k8s.api.core.v1.PodResourceClaim",
    fields: &[
        text("name", "Name"),
        null("resourceClaimName", "ResourceClaimName"),
        null("resourceClaimTemplateName", "ResourceClaimTemplateName"),
    ],
};

/// `core.ContainerResizePolicy`
pub const RESIZE_POLICY: Shape = Shape {
    of: "io.k8s.api.core.v1.ContainerResizePolicy",
    fields: &[text("resourceName", "ResourceName"), text("restartPolicy", "RestartPolicy")],
};

/// `core.PodIP` and `core.HostIP`
pub const POD_IP: Shape = Shape { of: "io.k8s.api.core.v1.PodIP", fields: &[text("ip", "IP")] };

/// `core.ServicePort`
pub const SERVICE_PORT: Shape = Shape {
    of: "io.k8s.api.core.v1.ServicePort",
    fields: &[
        text("name", "Name"),
        text("protocol", "Protocol"),
        null("appProtocol", "AppProtocol"),
        field("port", "Port", Unset::Zero),
        field("targetPort", "TargetPort", Unset::Zero),
        field("nodePort", "NodePort", Unset::Zero),
    ],
};

/// `core.ObjectReference`
pub const OBJECT_REFERENCE: Shape = Shape {
    of: "io.k8s.api.core.v1.ObjectReference",
    fields: &[
        text("kind", "Kind"),
        text("namespace", "Namespace"),
        text("name", "Name"),
        text("uid", "UID"),
        text("apiVersion", "APIVersion"),
        text("resourceVersion", "ResourceVersion"),
        text("fieldPath", "FieldPath"),
    ],
};

/// `core.EventSource`
pub const EVENT_SOURCE: Shape =
    Shape { of: "io.k8s.api.core.v1.EventSource", fields: &[text("component", "Component"), text("host", "Host")] };

/// `rbac.RoleRef`
pub const ROLE_REF: Shape = Shape {
    of: "io.k8s.api.rbac.v1.RoleRef",
    fields: &[text("apiGroup", "APIGroup"), text("kind", "Kind"), text("name", "Name")],
};

/// `storage.CSINodeDriver`
pub const CSI_NODE_DRIVER: Shape = Shape {
    of: "io.k8s.api.storage.v1.CSINodeDriver",
    fields: &[
        text("name", "Name"),
        text("nodeID", "NodeID"),
        null("topologyKeys", "TopologyKeys"),
        inner("allocatable", "Allocatable", &NODE_RESOURCES),
    ],
};

const NODE_RESOURCES: Shape = Shape { of: "io.k8s.api.storage.v1.VolumeNodeResources", fields: &[null("count", "Count")] };

/// `authorization.NonResourceAttributes`
pub const NON_RESOURCE_ATTRIBUTES: Shape =
    Shape { of: "io.k8s.api.authorization.v1.NonResourceAttributes", fields: &[text("path", "Path"), text("verb", "Verb")] };

/// `metav1.LabelSelector`
pub const LABEL_SELECTOR: Shape = Shape {
    of: "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    fields: &[own("matchLabels"), own("matchExpressions")],
};

/// `metav1.OwnerReference`
pub const OWNER_REFERENCE: Shape = Shape {
    of: "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    fields: &[
        text("apiVersion", "apiVersion"),
        text("kind", "kind"),
        text("name", "name"),
        text("uid", "uid"),
        own("controller"),
        own("blockOwnerDeletion"),
    ],
};

/// `metav1.ObjectMeta`
pub const OBJECT_META: Shape = Shape {
    of: "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
    fields: &[
        own("name"),
        own("generateName"),
        own("namespace"),
        own("selfLink"),
        own("uid"),
        own("resourceVersion"),
        own("generation"),
        own("creationTimestamp"),
        own("deletionTimestamp"),
        own("deletionGracePeriodSeconds"),
        own("labels"),
        own("annotations"),
        Field { inner: Some(&OWNER_REFERENCE), ..own("ownerReferences") },
        own("finalizers"),
        own("managedFields"),
    ],
};

/// A value, or a list of values, of a shape.
#[derive(Debug)]
pub struct Quoted {
    shape: &'static Shape,
    value: Value,
}

impl Shape {
    /// `value` as Go writes it. What has no place in the shape is left out.
    pub fn quote(&'static self, value: &impl Serialize) -> Quoted {
        Quoted { shape: self, value: serde_json::to_value(value).unwrap_or_default() }
    }
}

impl Serialize for Quoted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shaped(self.shape, &self.value).serialize(serializer)
    }
}

struct Shaped<'a>(&'static Shape, &'a Value);

impl Serialize for Shaped<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = match self.1 {
            Value::Array(items) => return serializer.collect_seq(items.iter().map(|item| Shaped(self.0, item))),
            Value::Object(object) => object,
            other => return other.serialize(serializer),
        };
        let mut map = serializer.serialize_map(None)?;
        for field in self.0.fields {
            match (object.get(field.from).filter(|value| !value.is_null()), field.inner, field.unset) {
                (Some(value), Some(shape), _) => map.serialize_entry(field.name, &Shaped(shape, value))?,
                (Some(value), None, _) => map.serialize_entry(field.name, value)?,
                (None, _, Unset::Omitted) => {}
                (None, _, Unset::Null) => map.serialize_entry(field.name, &())?,
                (None, _, Unset::Text) => map.serialize_entry(field.name, "")?,
                (None, _, Unset::Zero) => map.serialize_entry(field.name, &0)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::schema::table;

    fn written(shape: &'static Shape, value: Value) -> String {
        serde_json::to_string(&shape.quote(&value)).unwrap()
    }

    #[test]
    fn internal_types_have_all_fields_in_their_order() {
        let toleration = json!({"effect": "NoExecute", "key": "a", "operator": "Exists", "value": "b"});
        let expected = r#"{"Key":"a","Operator":"Exists","Value":"b","Effect":"NoExecute","TolerationSeconds":null}"#;
        assert_eq!(written(&TOLERATION, toleration), expected);
        let term = json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]);
        let expected = r#"[{"MatchExpressions":[{"Key":"a","Operator":"Exists","Values":null}],"MatchFields":null}]"#;
        assert_eq!(written(&NODE_SELECTOR_TERM, term), expected);
        let expected = r#"{"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#;
        assert_eq!(written(&SERVICE_PORT, json!({"port": 80, "protocol": "TCP"})), expected);
    }

    #[test]
    fn types_with_json_names_leave_out_what_is_not_set() {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}], "matchLabels": {"b": "c"}});
        let expected = r#"{"matchLabels":{"b":"c"},"matchExpressions":[{"key":"a","operator":"Exists"}]}"#;
        assert_eq!(written(&LABEL_SELECTOR, selector), expected);
        let owner = json!({"kind": "Event", "apiVersion": "v1", "name": "a", "uid": "u", "controller": true});
        let expected = r#"{"apiVersion":"v1","kind":"Event","name":"a","uid":"u","controller":true}"#;
        assert_eq!(written(&OWNER_REFERENCE, owner), expected);
        assert_eq!(written(&LABEL_SELECTOR, Value::Null), "null");
    }

    #[test]
    fn every_field_of_the_api_has_a_place() {
        fn check(shape: &Shape) {
            let table = table();
            let id = table.by_name(shape.of).expect(shape.of);
            let expected: BTreeSet<_> = table.get(id).fields.iter().map(|field| field.name).collect();
            let placed: BTreeSet<_> = shape.fields.iter().map(|field| field.from).collect();
            assert_eq!(placed, expected, "{}", shape.of);
            shape.fields.iter().filter_map(|field| field.inner).for_each(check);
        }
        for shape in [
            &TOLERATION,
            &TAINT,
            &NODE_ADDRESS,
            &NODE_SELECTOR_TERM,
            &SECURITY_CONTEXT,
            &POD_RESOURCE_CLAIM,
            &RESIZE_POLICY,
            &POD_IP,
            &SERVICE_PORT,
            &OBJECT_REFERENCE,
            &EVENT_SOURCE,
            &ROLE_REF,
            &CSI_NODE_DRIVER,
            &NON_RESOURCE_ATTRIBUTES,
            &LABEL_SELECTOR,
            &OWNER_REFERENCE,
            &OBJECT_META,
        ] {
            check(shape);
        }
    }
}
