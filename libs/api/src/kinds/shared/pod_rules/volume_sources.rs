//! The rules of each source of a volume. Sources that no node of ours can mount are checked for what they must name.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::*;

use super::{environment, text};
use crate::{field::FieldErrors, field_path::Path, names};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const PARTITION: &str = "must be between 1 and 255, inclusive";
/// See upstream's rule for iSCSI initiators.
pub(super) const ISCSI_TOO_LONG: &str =
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// The rules of a source at `path`.
pub(super) trait Check {
    fn check(&self, path: &Path, errors: &mut FieldErrors);
}

fn mode(mode: Option<i32>, field: &str, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path.child(field), &mode, MODE);
    }
}

/// Whether no part of the path is `..`.
pub(super) fn no_backsteps(target: &str) -> bool {
    target.split('/').all(|part| part != "..")
}

fn check_backsteps(target: &str, path: &Path, errors: &mut FieldErrors) {
    if !no_backsteps(target) {
        errors.invalid(path, &target, "must not contain '..'");
    }
}

/// A relative path that stays below where it starts.
pub(super) fn descending_path(target: &str, path: &Path, errors: &mut FieldErrors) {
    if target.starts_with('/') {
        errors.invalid(path, &target, "must be a relative path");
    }
    check_backsteps(target, path, errors);
}

/// [`descending_path`], without the prefix that atomic writers reserve.
pub(super) fn non_reserved_path(target: &str, path: &Path, errors: &mut FieldErrors) {
    descending_path(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, &target, "must not start with '..'");
    }
}

fn items(items: &[KeyToPath], path: &Path, errors: &mut FieldErrors) {
    for (i, item) in items.iter().enumerate() {
        let path = path.child("items");
        let path = path.index(i);
        errors.non_empty(&path.child("key"), &item.key);
        errors.non_empty(&path.child("path"), &item.path);
        non_reserved_path(&item.path, &path.child("path"), errors);
        mode(item.mode, "mode", &path, errors);
    }
}

impl Check for HostPathVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        if self.path.is_empty() {
            return errors.required(path.child("path"), "");
        }
        check_backsteps(&self.path, &path.child("path"), errors);
        let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
        errors.one_of(&path.child("type"), self.type_.as_deref(), &kinds);
    }
}

impl Check for SecretVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("secretName"), text(self.secret_name.as_ref()));
        mode(self.default_mode, "defaultMode", path, errors);
        items(self.items.as_deref().unwrap_or_default(), path, errors);
    }
}

impl Check for ConfigMapVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("name"), &self.name);
        mode(self.default_mode, "defaultMode", path, errors);
        items(self.items.as_deref().unwrap_or_default(), path, errors);
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut FieldErrors) {
    errors.non_empty(&path.child("path"), &file.path);
    non_reserved_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            environment::field_ref(field, environment::VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let message = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, &"resource", message);
            }
        }
        (None, Some(resource)) => {
            environment::resource_field_ref(resource, true, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file.mode, "mode", path, errors);
}

impl Check for DownwardAPIVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        mode(self.default_mode, "defaultMode", path, errors);
        self.items.iter().flatten().for_each(|file| downward_file(file, path, errors));
    }
}

impl Check for ProjectedVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        mode(self.default_mode, "defaultMode", path, errors);
        let mut taken = BTreeSet::new();
        for (i, source) in self.sources.iter().flatten().enumerate() {
            let sources = path.child("sources");
            let item = sources.index(i);
            projection(source, &item, path, &mut taken, errors);
            let kinds = [
                source.secret.is_some(),
                source.config_map.is_some(),
                source.downward_api.is_some(),
                source.service_account_token.is_some(),
                source.cluster_trust_bundle.is_some(),
                source.pod_certificate.is_some(),
            ];
            if kinds.iter().filter(|set| **set).count() > 1 {
                errors.forbidden(item, "may not specify more than 1 volume type");
            }
        }
    }
}

fn projection<'a>(
    source: &'a VolumeProjection,
    item: &Path,
    volume: &Path,
    taken: &mut BTreeSet<&'a str>,
    errors: &mut FieldErrors,
) {
    const CONFLICT: &str = "conflicting duplicate paths";
    let secret = source.secret.as_ref().map(|s| ("secret", &s.name, &s.items));
    let map = source.config_map.as_ref().map(|m| ("configMap", &m.name, &m.items));
    for (field, name, list) in [secret, map].into_iter().flatten() {
        let path = item.child(field);
        errors.non_empty(&path.child("name"), name);
        let list = list.as_deref().unwrap_or_default();
        items(list, &path, errors);
        for entry in list.iter().filter(|entry| !entry.path.is_empty()) {
            if !taken.insert(entry.path.as_str()) {
                errors.invalid(volume, name, CONFLICT);
            }
        }
    }
    for file in source.downward_api.iter().flat_map(|downward| downward.items.iter().flatten()) {
        downward_file(file, &item.child("downwardAPI"), errors);
        if !file.path.is_empty() && !taken.insert(file.path.as_str()) {
            errors.invalid(volume, &file.path, CONFLICT);
        }
    }
    if let Some(token) = &source.service_account_token {
        let path = item.child("serviceAccountToken");
        let seconds = token.expiration_seconds.unwrap_or(0);
        let expiration = path.child("expirationSeconds");
        if seconds < 600 {
            errors.invalid(expiration, &seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            errors.invalid(expiration, &seconds, "may not specify a duration larger than 2^32 seconds");
        }
        errors.non_empty(&volume.child("path"), &token.path);
    }
}

impl Check for ImageVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("reference"), text(self.reference.as_ref()));
        let policies = ["Always", "IfNotPresent", "Never"];
        errors.required_one_of(&path.child("pullPolicy"), self.pull_policy.as_deref(), &policies);
    }
}

impl Check for NFSVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("server"), &self.server);
        errors.non_empty(&path.child("path"), &self.path);
        if !self.path.starts_with('/') {
            errors.invalid(path.child("path"), &self.path, "must be an absolute path");
        }
    }
}

impl Check for GitRepoVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("repository"), &self.repository);
        descending_path(text(self.directory.as_ref()), &path.child("directory"), errors);
    }
}

impl Check for CSIVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        let driver = path.child("driver");
        errors.non_empty(&driver, &self.driver);
        if self.driver.len() > 63 {
            errors.too_long(driver, 63);
        }
        errors.each(&driver, &self.driver, names::dns1123_subdomain(&self.driver.to_lowercase()));
        if let Some(secret) = &self.node_publish_secret_ref {
            if secret.name.is_empty() {
                errors.required(path.child("nodePublishSecretRef").child("name"), "");
            } else {
                errors.each(&path.child("name"), &secret.name, names::dns1123_subdomain(&secret.name));
            }
        }
    }
}

impl Check for EphemeralVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        let path = path.child("volumeClaimTemplate");
        let Some(template) = &self.volume_claim_template else { return errors.required(path, "") };
        let path = path.child("spec");
        let modes = template.spec.access_modes.as_deref().unwrap_or_default();
        if modes.is_empty() {
            errors.required(path.child("accessModes"), "at least 1 access mode is required");
        }
        for mode in modes {
            let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
            errors.one_of(&path.child("accessModes"), Some(mode), &known);
        }
        let requests = template.spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        if requests.is_none_or(|requests| !requests.contains_key("storage")) {
            errors.required(path.child("resources").key("storage"), "");
        }
    }
}

/// Sources for which only the presence of fields is checked.
macro_rules! required_fields {
    ($($source:ident { $($member:ident $field:literal)* })*) => {
        $(impl Check for $source {
            fn check(&self, path: &Path, errors: &mut FieldErrors) {
                $(if self.$member.is_empty() {
                    errors.required(path.child($field), "");
                })*
            }
        })*
    };
}

required_fields! {
    PersistentVolumeClaimVolumeSource { claim_name "claimName" }
    GlusterfsVolumeSource { endpoints "endpoints" path "path" }
    RBDVolumeSource { monitors "monitors" image "image" }
    CinderVolumeSource { volume_id "volumeID" }
    CephFSVolumeSource { monitors "monitors" }
    QuobyteVolumeSource { registry "registry" volume "volume" }
    FlexVolumeSource { driver "driver" }
    AzureFileVolumeSource { secret_name "secretName" share_name "shareName" }
    VsphereVirtualDiskVolumeSource { volume_path "volumePath" }
    PhotonPersistentDiskVolumeSource { pd_id "pdID" }
    PortworxVolumeSource { volume_id "volumeID" }
    AzureDiskVolumeSource { disk_name "diskName" disk_uri "diskURI" }
    ScaleIOVolumeSource { gateway "gateway" system "system" }
    ISCSIVolumeSource { target_portal "targetPortal" iqn "iqn" }
}

fn partition(partition: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(number) = partition.filter(|number| !(0..=255).contains(number)) {
        errors.invalid(path.child("partition"), &number, PARTITION);
    }
}

impl Check for GCEPersistentDiskVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("pdName"), &self.pd_name);
        partition(self.partition, path, errors);
    }
}

impl Check for AWSElasticBlockStoreVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("volumeID"), &self.volume_id);
        partition(self.partition, path, errors);
    }
}

impl Check for FCVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        let names = self.target_wwns.as_deref().unwrap_or_default();
        let ids = self.wwids.as_deref().unwrap_or_default();
        match (names.is_empty(), ids.is_empty()) {
            (true, true) => {
                errors.required(path.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
            }
            (false, false) => {
                let message = "targetWWNs and wwids can not be specified simultaneously";
                errors.invalid(path.child("targetWWNs"), &names, message);
            }
            _ => {}
        }
        if !names.is_empty() {
            match self.lun {
                None => errors.required(path.child("lun"), "lun is required if targetWWNs is specified"),
                Some(lun) => errors.each(&path.child("lun"), &lun, names::in_range(lun.into(), 0, 255)),
            }
        }
    }
}

impl Check for FlockerVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        let (name, uuid) = (text(self.dataset_name.as_ref()), text(self.dataset_uuid.as_ref()));
        if name.is_empty() && uuid.is_empty() {
            errors.required(path, "one of datasetName and datasetUUID is required");
        }
        if !name.is_empty() && !uuid.is_empty() {
            errors.invalid(path, &"resource", "datasetName and datasetUUID can not be specified simultaneously");
        }
        if name.contains('/') {
            errors.invalid(path.child("datasetName"), &name, "must not contain '/'");
        }
    }
}

impl Check for StorageOSVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        let name = text(self.volume_name.as_ref());
        if name.is_empty() {
            errors.required(path.child("volumeName"), "");
        } else {
            errors.each(&path.child("volumeName"), name, names::dns1123_label(name));
        }
    }
}
