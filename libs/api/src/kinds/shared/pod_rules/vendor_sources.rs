//! Volume sources that need a cloud's or a vendor's driver: what they must name, and its form.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::*;
use regex::Regex;

use super::{text, volume_sources::Check};
use crate::{field::FieldErrors, field_path::Path, names};

const PARTITION: &str = "must be between 1 and 255, inclusive";
const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";

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
    GlusterfsVolumeSource { endpoints "endpoints" path "path" }
    RBDVolumeSource { monitors "monitors" image "image" }
    CephFSVolumeSource { monitors "monitors" }
    AzureFileVolumeSource { secret_name "secretName" share_name "shareName" }
    VsphereVirtualDiskVolumeSource { volume_path "volumePath" }
    PhotonPersistentDiskVolumeSource { pd_id "pdID" }
    PortworxVolumeSource { volume_id "volumeID" }
}

fn secret_name(secret: Option<&LocalObjectReference>, path: &Path, errors: &mut FieldErrors) {
    if secret.is_some_and(|secret| secret.name.is_empty()) {
        errors.required(path.child("secretRef").child("name"), "");
    }
}

fn partition(partition: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(number) = partition.filter(|number| !(0..=255).contains(number)) {
        errors.invalid(path.child("partition"), &number, PARTITION);
    }
}

impl Check for CinderVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("volumeID"), &self.volume_id);
        secret_name(self.secret_ref.as_ref(), path, errors);
    }
}

impl Check for ScaleIOVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("gateway"), &self.gateway);
        errors.non_empty(&path.child("system"), &self.system);
        errors.non_empty(&path.child("volumeName"), text(self.volume_name.as_ref()));
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

/// What is wrong with the name of an iSCSI target or initiator (RFC 3720: `iqn.`, `eui.`, `naa.`).
fn iscsi_name(name: &str) -> Option<&'static str> {
    static FORMS: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
        let forms = [
            ("iqn", r"iqn\.[0-9]{4}-[0-9]{2}\.([a-zA-Z0-9.-]+)(:[^,;*&$|\t\n\x0c\r ]+)$"),
            ("eui", r"^eui.[a-zA-Z0-9]{16}$"),
            ("naa", r"^naa.[a-zA-Z0-9]{32}$"),
        ];
        forms.into_iter().filter_map(|(kind, form)| Some((kind, Regex::new(form).ok()?))).collect()
    });
    match FORMS.iter().find(|(kind, _)| name.starts_with(kind)) {
        None => Some("must be valid format starting with iqn, eui, or naa"),
        Some((_, form)) => (!form.is_match(name)).then_some("must be valid format"),
    }
}

impl Check for ISCSIVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("targetPortal"), &self.target_portal);
        if self.iqn.is_empty() {
            errors.required(path.child("iqn"), "");
        } else if let Some(message) = iscsi_name(&self.iqn) {
            errors.invalid(path.child("iqn"), &self.iqn, message);
        }
        errors.each(&path.child("lun"), &self.lun, names::in_range(self.lun.into(), 0, 255));
        let authenticates = self.chap_auth_discovery == Some(true) || self.chap_auth_session == Some(true);
        if authenticates && self.secret_ref.is_none() {
            errors.required(path.child("secretRef"), "");
        }
        if let Some(name) = &self.initiator_name
            && let Some(message) = iscsi_name(name)
        {
            errors.invalid(path.child("initiatorname"), name, message);
        }
    }
}

/// As Go splits `host:port`, `[host]:port`.
fn is_host_port(pair: &str) -> bool {
    let host_and_rest = match pair.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').and_then(|(host, rest)| Some((host, rest.strip_prefix(':')?))),
        None => pair.split_once(':'),
    };
    host_and_rest.is_some_and(|(host, port)| !host.contains(['[', ']']) && !port.contains([':', '[', ']']))
}

impl Check for QuobyteVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        if self.registry.is_empty() {
            errors.required(path.child("registry"), PAIRS);
        } else if text(self.tenant.as_ref()).len() >= 65 {
            let message = "must be a UUID and may not exceed a length of 64 characters";
            errors.required(path.child("tenant"), message);
        } else {
            for _ in self.registry.split(',').filter(|pair| !is_host_port(pair)) {
                errors.invalid(path.child("registry"), &self.registry, PAIRS);
            }
        }
        errors.non_empty(&path.child("volume"), &self.volume);
    }
}

impl Check for FlexVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("driver"), &self.driver);
        for key in self.options.iter().flatten().map(|(key, _)| key) {
            let namespace = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
            if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
                let message = "kubernetes.io and k8s.io namespaces are reserved";
                errors.invalid(path.child("options").key(key), key, message);
            }
        }
    }
}

impl Check for AzureDiskVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("diskName"), &self.disk_name);
        errors.non_empty(&path.child("diskURI"), &self.disk_uri);
        let caching = self.caching_mode.as_deref();
        errors.one_of(&path.child("cachingMode"), caching, &["None", "ReadOnly", "ReadWrite"]);
        errors.one_of(&path.child("kind"), self.kind.as_deref(), &["Dedicated", "Managed", "Shared"]);
        let (start, form) = match self.kind.as_deref() {
            None => return,
            Some("Managed") => (
                "/subscriptions/",
                "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
            ),
            Some(_) => ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"),
        };
        if !self.disk_uri.starts_with(start) {
            errors.not_supported(path.child("diskURI"), &self.disk_uri, &[form]);
        }
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
        let (name, namespace) = (text(self.volume_name.as_ref()), text(self.volume_namespace.as_ref()));
        if name.is_empty() {
            errors.required(path.child("volumeName"), "");
        } else {
            errors.each(&path.child("volumeName"), name, names::dns1123_label(name));
        }
        if !namespace.is_empty() {
            errors.each(&path.child("volumeNamespace"), namespace, names::dns1123_label(namespace));
        }
        secret_name(self.secret_ref.as_ref(), path, errors);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_iscsi_targets_have_their_form() {
        let forms = ["iqn.2001-04.com.example:storage", "eui.0123456789abcdef", "iqn.2001-04.com.example", "eui.1", "x"];
        let wrong: Vec<bool> = forms.iter().map(|name| iscsi_name(name).is_some()).collect();
        assert_eq!(wrong, [false, false, true, true, true]);
    }

    #[test]
    fn registries_are_pairs() {
        let pairs = ["host:80", ":", "[::1]:80", "host", "a:b:c", "[::1]", "[::1]80"];
        assert_eq!(pairs.map(is_host_port), [true, true, true, false, false, false, false]);
    }
}
