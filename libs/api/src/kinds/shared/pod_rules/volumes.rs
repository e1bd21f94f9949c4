//! Volumes: names, and exactly one source each.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Volume;

use super::{
    Rules,
    volume_sources::{self as source, Check},
};
use crate::{field::FieldErrors, field_path::Path, names, quantity::Quantity};

const ONE_SOURCE: &str = "may not specify more than 1 volume type";

/// Checks all volumes; returns the names of those without an error.
pub(super) fn check<'a>(rules: &Rules<'a>, path: &Path, errors: &mut FieldErrors) -> BTreeSet<&'a str> {
    let mut valid = BTreeSet::new();
    let volumes = rules.spec.volumes.as_deref().unwrap_or_default();
    let pod = rules.pod.and_then(|pod| pod.name.as_deref()).unwrap_or_default();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let mut own = FieldErrors::default();
        sources(volume, pod, &path, &mut own);
        let name = path.child("name");
        if volume.name.is_empty() {
            own.required(name, "");
        } else {
            own.each(&name, &volume.name, names::dns1123_label(&volume.name));
        }
        if valid.contains(volume.name.as_str()) {
            own.duplicate(name, &volume.name);
        }
        if own.is_empty() {
            valid.insert(volume.name.as_str());
        }
        errors.0.extend(own.0);
        let created = |claim: &str| {
            !pod.is_empty() && volumes.iter().any(|v| v.ephemeral.is_some() && format!("{pod}-{}", v.name) == claim)
        };
        if let Some(claim) = volume.persistent_volume_claim.as_ref().filter(|claim| created(&claim.claim_name)) {
            let message = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(path.child("persistentVolumeClaim").child("claimName"), &claim.claim_name, message);
        }
    }
    valid
}

/// What upstream calls a source that is one too many.
fn second_name(field: &str) -> &str {
    match field {
        "cephfs" => "cephFS",
        "downwardAPI" => "downwarAPI",
        field => field,
    }
}

/// Exactly one source, valid by its own rules.
fn sources(volume: &Volume, pod: &str, path: &Path, errors: &mut FieldErrors) {
    let mut found = false;
    if let Some(dir) = &volume.empty_dir {
        found = true;
        if dir.size_limit.as_ref().is_some_and(|limit| Quantity::of(limit).sign() < 0) {
            let path = path.child("emptyDir");
            errors.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
    }
    fn check<T: Check>(source: Option<&T>, field: &str, found: &mut bool, path: &Path, errors: &mut FieldErrors) {
        let Some(source) = source else { return };
        if std::mem::replace(found, true) {
            errors.forbidden(path.child(second_name(field)), ONE_SOURCE);
        } else {
            source.check(&path.child(if field == "gcePersistentDisk" { "persistentDisk" } else { field }), errors);
        }
    }
    macro_rules! check {
        ($($member:ident $field:literal)*) => {
            $(check(volume.$member.as_ref(), $field, &mut found, path, errors);)*
        };
    }
    check! {
        host_path "hostPath"
        git_repo "gitRepo"
        gce_persistent_disk "gcePersistentDisk"
        aws_elastic_block_store "awsElasticBlockStore"
        secret "secret"
        nfs "nfs"
        iscsi "iscsi"
        glusterfs "glusterfs"
        flocker "flocker"
        persistent_volume_claim "persistentVolumeClaim"
        rbd "rbd"
        cinder "cinder"
        cephfs "cephfs"
        quobyte "quobyte"
        downward_api "downwardAPI"
        fc "fc"
        flex_volume "flexVolume"
        config_map "configMap"
        azure_file "azureFile"
        vsphere_volume "vsphereVolume"
        photon_persistent_disk "photonPersistentDisk"
        portworx_volume "portworxVolume"
        azure_disk "azureDisk"
        storageos "storageos"
        projected "projected"
        scale_io "scaleIO"
        csi "csi"
        ephemeral "ephemeral"
        image "image"
    }
    if volume.ephemeral.is_some() && !pod.is_empty() && !volume.name.is_empty() {
        let claim = format!("{pod}-{}", volume.name);
        for message in names::dns1123_subdomain(&claim) {
            errors.invalid(path.child("name"), &volume.name, format!("PVC name {claim:?}: {message}"));
        }
    }
    if !found {
        errors.required(path, "must specify a volume type");
    }
    if let Some(iscsi) = volume.iscsi.as_ref().filter(|iscsi| iscsi.initiator_name.is_some())
        && volume.name.len() + 1 + iscsi.target_portal.len() > 64
    {
        errors.invalid(path.child("name"), &volume.name, source::ISCSI_TOO_LONG);
    }
}
