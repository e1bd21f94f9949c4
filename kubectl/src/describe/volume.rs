//! Volumes of pods and of pod templates: one table of sources, and the few that need more than their fields.

use api::quantity::{Quantity, canonical};
use serde_json::Value;

use super::{
    json::{Json, go_list},
    parts,
    writer::Writer,
};
use crate::line;

/// How a field of a source is written.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Int,
    Flag,
    List,
    /// A list with commas.
    Joined,
    /// `<none>` if missing.
    OrNone,
    /// A pointer to a local object reference.
    Reference,
    /// A pointer to a number.
    IntPointer,
}
use Shape::{Flag, Int, IntPointer, Joined, List, OrNone, Reference, Text};

struct Source {
    field: &'static str,
    kind: &'static str,
    rows: &'static [(&'static str, &'static str, Shape)],
}

const fn source(field: &'static str, kind: &'static str, rows: &'static [(&'static str, &'static str, Shape)]) -> Source {
    Source { field, kind, rows }
}

/// In upstream's order, which decides when several are set.
const SOURCES: &[Source] = &[
    source(
        "hostPath",
        "HostPath (bare host directory volume)",
        &[("Path:", "path", Text), ("HostPathType:", "type", OrNone)],
    ),
    source("emptyDir", "EmptyDir (a temporary directory that shares a pod's lifetime)", &[("Medium:", "medium", Text)]),
    source(
        "gcePersistentDisk",
        "GCEPersistentDisk (a Persistent Disk resource in Google Compute Engine)",
        &[
            ("PDName:", "pdName", Text),
            ("FSType:", "fsType", Text),
            ("Partition:", "partition", Int),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "awsElasticBlockStore",
        "AWSElasticBlockStore (a Persistent Disk resource in AWS)",
        &[
            ("VolumeID:", "volumeID", Text),
            ("FSType:", "fsType", Text),
            ("Partition:", "partition", Int),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "gitRepo",
        "GitRepo (a volume that is pulled from git when the pod is created)",
        &[("Repository:", "repository", Text), ("Revision:", "revision", Text)],
    ),
    source(
        "secret",
        "Secret (a volume populated by a Secret)",
        &[("SecretName:", "secretName", Text), ("Optional:", "optional", Flag)],
    ),
    source(
        "configMap",
        "ConfigMap (a volume populated by a ConfigMap)",
        &[("Name:", "name", Text), ("Optional:", "optional", Flag)],
    ),
    source(
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[("Server:", "server", Text), ("Path:", "path", Text), ("ReadOnly:", "readOnly", Flag)],
    ),
    source(
        "iscsi",
        "ISCSI (an ISCSI Disk resource that is attached to a kubelet's host machine and then exposed to the pod)",
        &[
            ("TargetPortal:", "targetPortal", Text),
            ("IQN:", "iqn", Text),
            ("Lun:", "lun", Int),
            ("ISCSIInterface", "iscsiInterface", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Flag),
            ("Portals:", "portals", List),
            ("DiscoveryCHAPAuth:", "chapAuthDiscovery", Flag),
            ("SessionCHAPAuth:", "chapAuthSession", Flag),
            ("SecretRef:", "secretRef", Reference),
            ("InitiatorName:", "initiatorName", OrNone),
        ],
    ),
    source(
        "glusterfs",
        "Glusterfs (a Glusterfs mount on the host that shares a pod's lifetime)",
        &[("EndpointsName:", "endpoints", Text), ("Path:", "path", Text), ("ReadOnly:", "readOnly", Flag)],
    ),
    source(
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName:", "claimName", Text), ("ReadOnly:", "readOnly", Flag)],
    ),
    source(
        "ephemeral",
        "EphemeralVolume (an inline specification for a volume that gets created and deleted with the pod)",
        &[],
    ),
    source(
        "rbd",
        "RBD (a Rados Block Device mount on the host that shares a pod's lifetime)",
        &[
            ("CephMonitors:", "monitors", List),
            ("RBDImage:", "image", Text),
            ("FSType:", "fsType", Text),
            ("RBDPool:", "pool", Text),
            ("RadosUser:", "user", Text),
            ("Keyring:", "keyring", Text),
            ("SecretRef:", "secretRef", Reference),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "quobyte",
        "Quobyte (a Quobyte mount on the host that shares a pod's lifetime)",
        &[("Registry:", "registry", Text), ("Volume:", "volume", Text), ("ReadOnly:", "readOnly", Flag)],
    ),
    source("downwardAPI", "DownwardAPI (a volume populated by information about the pod)", &[]),
    source(
        "azureDisk",
        "AzureDisk (an Azure Data Disk mount on the host and bind mount to the pod)",
        &[
            ("DiskName:", "diskName", Text),
            ("DiskURI:", "diskURI", Text),
            ("Kind: ", "kind", Text),
            ("FSType:", "fsType", Text),
            ("CachingMode:", "cachingMode", Text),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "vsphereVolume",
        "vSphereVolume (a Persistent Disk resource in vSphere)",
        &[
            ("VolumePath:", "volumePath", Text),
            ("FSType:", "fsType", Text),
            ("StoragePolicyName:", "storagePolicyName", Text),
        ],
    ),
    source(
        "cinder",
        "Cinder (a Persistent Disk resource in OpenStack)",
        &[
            ("VolumeID:", "volumeID", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Flag),
            ("SecretRef:", "secretRef", Reference),
        ],
    ),
    source(
        "photonPersistentDisk",
        "PhotonPersistentDisk (a Persistent Disk resource in photon platform)",
        &[("PdID:", "pdID", Text), ("FSType:", "fsType", Text)],
    ),
    source("portworxVolume", "PortworxVolume (a Portworx Volume resource)", &[("VolumeID:", "volumeID", Text)]),
    source(
        "scaleIO",
        "ScaleIO (a persistent volume backed by a block device in ScaleIO)",
        &[
            ("Gateway:", "gateway", Text),
            ("System:", "system", Text),
            ("Protection Domain:", "protectionDomain", Text),
            ("Storage Pool:", "storagePool", Text),
            ("Storage Mode:", "storageMode", Text),
            ("VolumeName:", "volumeName", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "cephfs",
        "CephFS (a CephFS mount on the host that shares a pod's lifetime)",
        &[
            ("Monitors:", "monitors", List),
            ("Path:", "path", Text),
            ("User:", "user", Text),
            ("SecretFile:", "secretFile", Text),
            ("SecretRef:", "secretRef", Reference),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "storageos",
        "StorageOS (a StorageOS Persistent Disk resource)",
        &[
            ("VolumeName:", "volumeName", Text),
            ("VolumeNamespace:", "volumeNamespace", Text),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "fc",
        "FC (a Fibre Channel disk)",
        &[
            ("TargetWWNs:", "targetWWNs", Joined),
            ("LUN:", "lun", IntPointer),
            ("FSType:", "fsType", Text),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "azureFile",
        "AzureFile (an Azure File Service mount on the host and bind mount to the pod)",
        &[("SecretName:", "secretName", Text), ("ShareName:", "shareName", Text), ("ReadOnly:", "readOnly", Flag)],
    ),
    source(
        "flexVolume",
        "FlexVolume (a generic volume resource that is provisioned/attached using an exec based plugin)",
        &[
            ("Driver:", "driver", Text),
            ("FSType:", "fsType", Text),
            ("SecretRef:", "secretRef", Reference),
            ("ReadOnly:", "readOnly", Flag),
        ],
    ),
    source(
        "flocker",
        "Flocker (a Flocker volume mounted by the Flocker agent)",
        &[("DatasetName:", "datasetName", Text), ("DatasetUUID:", "datasetUUID", Text)],
    ),
    source("projected", "Projected (a volume that contains injected data from multiple sources)", &[]),
    source(
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[("Driver:", "driver", Text), ("FSType:", "fsType", Text), ("ReadOnly:", "readOnly", Flag)],
    ),
    source(
        "image",
        "Image (a container image or OCI artifact)",
        &[("Reference:", "reference", Text), ("PullPolicy:", "pullPolicy", Text)],
    ),
];

/// The volumes of a pod, or of a template (which is indented).
pub fn volumes(w: &mut Writer, volumes: &[Value], template: bool) {
    let (space, indent) = if template { ("  ", " ") } else { ("", "") };
    if volumes.is_empty() {
        line!(w, 0, "{space}Volumes:\t<none>");
        return;
    }
    line!(w, 0, "{space}Volumes:");
    for volume in volumes {
        line!(w, 1, "{indent}{}:", volume.text("name"));
        match SOURCES.iter().find(|source| volume.has(source.field)) {
            Some(source) => write_source(w, source, volume.at(source.field)),
            None => w.line(1, "<unknown>"),
        }
    }
}

fn write_source(w: &mut Writer, source: &Source, value: &Value) {
    line!(w, 2, "Type:\t{}", source.kind);
    for (label, field, shape) in source.rows {
        line!(w, 2, "{label}\t{}", text(value.at(field), *shape));
    }
    match source.field {
        "emptyDir" => line!(w, 2, "SizeLimit:\t{}", size_limit(value.text("sizeLimit"))),
        "downwardAPI" => downward(w, value.items("items")),
        "projected" => projected(w, value.items("sources")),
        "csi" => attributes(w, &value.pairs("volumeAttributes")),
        "ephemeral" if value.has("volumeClaimTemplate") => w.nested(2, |w| claim(w, value.at("volumeClaimTemplate"))),
        // Upstream follows options by their map as Go prints it.
        "flexVolume" => {
            let options: Vec<String> = value.pairs("options").iter().map(|(k, v)| format!("{k}:{v}")).collect();
            line!(w, 2, "Options:\tmap[{}]", options.join(" "));
        }
        _ => {}
    }
}

fn text(value: &Value, shape: Shape) -> String {
    match shape {
        Text => value.as_str().unwrap_or("").to_owned(),
        Int => value.as_i64().unwrap_or(0).to_string(),
        Flag => value.as_bool().unwrap_or(false).to_string(),
        List => go_list(&strings(value)),
        Joined => strings(value).join(", "),
        OrNone => value.as_str().unwrap_or("<none>").to_owned(),
        Reference if value.is_null() => "nil".to_owned(),
        Reference => format!("&LocalObjectReference{{Name:{},}}", value.text("name")),
        IntPointer => value.as_i64().map_or_else(|| "<none>".to_owned(), |n| n.to_string()),
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn size_limit(limit: &str) -> String {
    match limit.parse::<Quantity>() {
        Ok(amount) if amount.sign() > 0 => canonical(limit).unwrap_or_default(),
        _ => "<unset>".to_owned(),
    }
}

fn downward(w: &mut Writer, items: &[Value]) {
    w.line(2, "Items:");
    for item in items {
        for field in ["fieldRef.fieldPath", "resourceFieldRef.resource"] {
            if item.has(field) {
                line!(w, 3, "{} -> {}", item.text(field), item.text("path"));
            }
        }
    }
}

/// Where upstream 1.32 prints the address of what is set, we print what is there.
fn pointer(optional: &Value) -> String {
    optional.as_bool().map_or_else(|| "<nil>".to_owned(), |optional| optional.to_string())
}

fn projected(w: &mut Writer, sources: &[Value]) {
    for source in sources {
        if source.has("secret") {
            line!(w, 2, "SecretName:\t{}", source.text("secret.name"));
            line!(w, 2, "SecretOptionalName:\t{}", pointer(source.at("secret.optional")));
        } else if source.has("downwardAPI") {
            w.line(2, "DownwardAPI:\ttrue");
        } else if source.has("configMap") {
            line!(w, 2, "ConfigMapName:\t{}", source.text("configMap.name"));
            line!(w, 2, "ConfigMapOptional:\t{}", pointer(source.at("configMap.optional")));
        } else if source.has("serviceAccountToken") {
            line!(w, 2, "TokenExpirationSeconds:\t{}", source.int("serviceAccountToken.expirationSeconds"));
        }
    }
}

fn attributes(w: &mut Writer, attributes: &[(&str, &str)]) {
    w.write(2, "VolumeAttributes:\t");
    if attributes.is_empty() {
        w.raw("<none>\n");
    }
    for (n, (key, value)) in attributes.iter().enumerate() {
        if n > 0 {
            w.write(2, "");
            w.write(2, "\t");
        }
        let text = format!("{key}={value}");
        match text.as_bytes().get(..140) {
            Some(start) if text.len() > 140 => line!(w, 2, "{}...", String::from_utf8_lossy(start)),
            _ => w.line(2, &text),
        }
    }
}

/// The template of a claim that lives as long as its pod.
fn claim(w: &mut Writer, template: &Value) {
    let class = template
        .pairs("metadata.annotations")
        .into_iter()
        .find(|(key, _)| *key == "volume.beta.kubernetes.io/storage-class");
    line!(w, 0, "StorageClass:\t{}", class.map_or(template.text("spec.storageClassName"), |(_, class)| class));
    line!(w, 0, "Volume:\t{}", template.text("spec.volumeName"));
    parts::metadata_maps(w, template);
    line!(w, 0, "Capacity:\t");
    line!(w, 0, "Access Modes:\t");
    if template.has("spec.volumeMode") {
        line!(w, 0, "VolumeMode:\t{}", template.text("spec.volumeMode"));
    }
    let from = template.at("spec.dataSource");
    if !from.is_null() {
        w.line(0, "DataSource:");
        if from.has("apiGroup") {
            line!(w, 1, "APIGroup:\t{}", from.text("apiGroup"));
        }
        line!(w, 1, "Kind:\t{}", from.text("kind"));
        line!(w, 1, "Name:\t{}", from.text("name"));
    }
}
