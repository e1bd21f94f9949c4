//! What k8s-openapi's sources don't say: where server-side apply and strategic merge patch disagree about a list, which
//! fields retain keys, defaults that are part of upstream's schema, and the shape of types with an encoding of their own.

/// The shape of a type that is no plain object.
pub fn scalar(definition: &str) -> Option<&'static str> {
    let (_, name) = definition.rsplit_once('.')?;
    Some(match name {
        "Quantity" => "quantity",
        "IntOrString" => "int-or-string",
        "MicroTime" => "s:micro-time",
        "FieldsV1" | "RawExtension" => "o",
        "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => "any",
        _ => return None,
    })
}

/// Keys of server-side apply where they are more than the patch's merge key. Empty means the list is atomic there.
const APPLY_KEYS: &[(&str, &str, &[&str])] = &[
    ("core.v1.Container", "ports", &["containerPort", "protocol"]),
    ("core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    ("core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("core.v1.PodStatus", "hostIPs", &[]),
    ("batch.v1.JobStatus", "conditions", &[]),
];

/// Lists that server-side apply merges and a strategic merge patch replaces.
const NOT_PATCH_MERGED: &[(&str, &str)] = &[
    ("admissionregistration.v1.ValidatingAdmissionPolicyStatus", "conditions"),
    ("admissionregistration.v1beta1.ValidatingAdmissionPolicyStatus", "conditions"),
    ("apiserverinternal.v1alpha1.StorageVersionStatus", "conditions"),
    ("apiserverinternal.v1alpha1.StorageVersionStatus", "storageVersions"),
    ("certificates.v1.CertificateSigningRequestStatus", "conditions"),
    ("core.v1.ResourceRequirements", "claims"),
    ("core.v1.ResourceStatus", "resources"),
    ("resource.v1.AllocatedDeviceStatus", "conditions"),
    ("resource.v1.ResourceClaimStatus", "devices"),
    ("resource.v1beta1.AllocatedDeviceStatus", "conditions"),
    ("resource.v1beta1.ResourceClaimStatus", "devices"),
    ("resource.v1beta2.AllocatedDeviceStatus", "conditions"),
    ("resource.v1beta2.ResourceClaimStatus", "devices"),
    ("scheduling.v1alpha1.WorkloadSpec", "podGroups"),
    ("apiextensions.v1.CustomResourceDefinitionStatus", "conditions"),
];

/// Lists of scalars that a strategic merge patch merges; others marked as sets are sets of server-side apply alone.
const PATCH_MERGED_SETS: &[(&str, &str)] = &[("core.v1.NodeSpec", "podCIDRs"), ("meta.v1.ObjectMeta", "finalizers")];

/// Fields whose patch says which keys are to stay (`$retainKeys`).
const RETAIN_KEYS: &[(&str, &str)] = &[
    ("apps.v1.DeploymentSpec", "strategy"),
    ("core.v1.PodSpec", "volumes"),
    ("core.v1.PodSpec", "resourceClaims"),
    ("core.v1.PodStatus", "resourceClaimStatuses"),
];

/// Fields a strategic merge patch replaces although they are objects.
const PATCH_REPLACED: &[(&str, &str)] = &[("policy.v1.PodDisruptionBudgetSpec", "selector")];

const DEFAULTS: &[(&str, &str, &str)] = &[
    ("core.v1.ContainerPort", "protocol", "\"TCP\""),
    ("core.v1.ServicePort", "protocol", "\"TCP\""),
    ("core.v1.LocalObjectReference", "name", "\"\""),
    ("core.v1.ConfigMapEnvSource", "name", "\"\""),
    ("core.v1.ConfigMapKeySelector", "name", "\"\""),
    ("core.v1.ConfigMapProjection", "name", "\"\""),
    ("core.v1.ConfigMapVolumeSource", "name", "\"\""),
    ("core.v1.SecretEnvSource", "name", "\"\""),
    ("core.v1.SecretKeySelector", "name", "\"\""),
    ("core.v1.SecretProjection", "name", "\"\""),
    ("core.v1.GRPCAction", "service", "\"\""),
    ("core.v1.FileKeySelector", "optional", "false"),
    ("core.v1.ReplicationControllerSpec", "replicas", "1"),
    ("core.v1.ReplicationControllerSpec", "minReadySeconds", "0"),
    ("core.v1.AzureDiskVolumeSource", "cachingMode", "\"ReadWrite\""),
    ("core.v1.AzureDiskVolumeSource", "fsType", "\"ext4\""),
    ("core.v1.AzureDiskVolumeSource", "kind", "\"Shared\""),
    ("core.v1.AzureDiskVolumeSource", "readOnly", "false"),
    ("core.v1.ISCSIPersistentVolumeSource", "iscsiInterface", "\"default\""),
    ("core.v1.ISCSIVolumeSource", "iscsiInterface", "\"default\""),
    ("core.v1.RBDPersistentVolumeSource", "keyring", "\"/etc/ceph/keyring\""),
    ("core.v1.RBDPersistentVolumeSource", "pool", "\"rbd\""),
    ("core.v1.RBDPersistentVolumeSource", "user", "\"admin\""),
    ("core.v1.RBDVolumeSource", "keyring", "\"/etc/ceph/keyring\""),
    ("core.v1.RBDVolumeSource", "pool", "\"rbd\""),
    ("core.v1.RBDVolumeSource", "user", "\"admin\""),
    ("core.v1.ScaleIOPersistentVolumeSource", "fsType", "\"xfs\""),
    ("core.v1.ScaleIOPersistentVolumeSource", "storageMode", "\"ThinProvisioned\""),
    ("core.v1.ScaleIOVolumeSource", "fsType", "\"xfs\""),
    ("core.v1.ScaleIOVolumeSource", "storageMode", "\"ThinProvisioned\""),
    ("autoscaling.v1.ScaleSpec", "replicas", "0"),
    ("resource.v1.DeviceToleration", "operator", "\"Equal\""),
    ("resource.v1beta1.DeviceToleration", "operator", "\"Equal\""),
    ("resource.v1beta2.DeviceToleration", "operator", "\"Equal\""),
];

/// The values of enumerations whose Go constants are spelled by those of other packages.
pub fn values(definition: &str, field: &str) -> Option<&'static str> {
    ((short(definition), field) == ("discovery.v1.EndpointSlice", "addressType")).then_some("FQDN|IPv4|IPv6")
}

/// Fields that k8s-openapi requires and upstream does not: every kind's metadata, and what has a default.
pub fn optional(definition: &str, field: &str, is_kind: bool) -> bool {
    (is_kind && field == "metadata") || DEFAULTS.iter().any(|(o, f, _)| (*o, *f) == (short(definition), field))
}

/// Fields that upstream requires and k8s-openapi does not.
pub fn required(definition: &str, field: &str) -> bool {
    [("events.v1.Event", "eventTime"), ("core.v1.Event", "metadata")].contains(&(short(definition), field))
}

/// The description every kind's `apiVersion` shares, in our words.
pub const API_VERSION_DOC: &str = "The version of the schema this object is written in. Servers convert it to the version they work with and may refuse versions they don't know.";
/// The same for `kind`.
pub const KIND_DOC: &str = "The name of the REST resource this object represents, in CamelCase. It cannot be changed.";
/// The same for a list's `metadata`.
pub const LIST_META_DOC: &str = "Standard list metadata.";

fn short(definition: &str) -> &str {
    definition
        .strip_prefix("io.k8s.api.")
        .or_else(|| definition.split_once(".apis.").map(|(_, rest)| rest))
        .unwrap_or(definition)
}

/// The flags of a field's line: list type, apply keys, patch strategy and merge key, retained keys, default.
pub fn flags(definition: &str, field: &str, merge: Option<(&str, &[String])>) -> String {
    let owner = short(definition);
    let is = |table: &[(&str, &str)]| table.contains(&(owner, field));
    let mut out = String::new();
    match merge {
        Some(("list::map", keys)) if !keys.is_empty() && keys != ["metadata.name"] => {
            let apply = APPLY_KEYS.iter().find(|(o, f, _)| (*o, *f) == (owner, field)).map(|(_, _, k)| k.join(","));
            match apply.unwrap_or_else(|| keys.join(",")) {
                keys if keys.is_empty() => out.push_str(" l=atomic"),
                keys => out.push_str(&format!(" l=map k={keys}")),
            }
            if !is(NOT_PATCH_MERGED) {
                out.push_str(&format!(" p=merge m={}", keys[0]));
            }
        }
        Some(("list::map", _)) => out.push_str(" l=atomic"),
        Some(("list::set", _)) => {
            out.push_str(" l=set");
            if is(PATCH_MERGED_SETS) {
                out.push_str(" p=merge");
            }
        }
        Some(("list::atomic", _)) => out.push_str(" l=atomic"),
        Some(("map::atomic", _)) => out.push_str(" t=atomic"),
        _ => {}
    }
    if is(PATCH_REPLACED) {
        out.push_str(" p=replace");
    }
    if is(RETAIN_KEYS) {
        out.push_str(" r");
    }
    if let Some((_, _, value)) = DEFAULTS.iter().find(|(o, f, _)| (*o, *f) == (owner, field)) {
        out.push_str(&format!(" d={value}"));
    }
    out
}
