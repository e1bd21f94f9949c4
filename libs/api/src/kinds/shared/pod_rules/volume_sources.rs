//! The rules of each source of a volume; those of clouds and vendors are in [`super::vendor_sources`].

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::*, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{environment, scheduling, text};
use crate::{field::FieldErrors, field_path::Path, meta, names, quantity::Quantity};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
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

impl Check for PersistentVolumeClaimVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        errors.non_empty(&path.child("claimName"), &self.claim_name);
    }
}

impl Check for EphemeralVolumeSource {
    fn check(&self, path: &Path, errors: &mut FieldErrors) {
        let path = path.child("volumeClaimTemplate");
        let Some(template) = &self.volume_claim_template else { return errors.required(path, "") };
        if let Some(metadata) = &template.metadata {
            template_metadata(metadata, &path.child("metadata"), errors);
        }
        claim(&template.spec, &path.child("spec"), errors);
    }
}

/// Labels and annotations are all that a template of a claim may say about it.
fn template_metadata(metadata: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    meta::validate_annotations(metadata.annotations.as_ref(), &path.child("annotations").to_string(), errors);
    meta::validate_labels(metadata.labels.as_ref(), &path.child("labels").to_string(), errors);
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let others = [
        ("name", filled(&metadata.name)),
        ("generateName", filled(&metadata.generate_name)),
        ("namespace", filled(&metadata.namespace)),
        ("selfLink", filled(&metadata.self_link)),
        ("uID", filled(&metadata.uid)),
        ("resourceVersion", filled(&metadata.resource_version)),
        ("generation", metadata.generation.is_some_and(|generation| generation != 0)),
        ("creationTimestamp", metadata.creation_timestamp.is_some()),
        ("deletionTimestamp", metadata.deletion_timestamp.is_some()),
        ("deletionGracePeriodSeconds", metadata.deletion_grace_period_seconds.is_some()),
        ("ownerReferences", metadata.owner_references.is_some()),
        ("finalizers", metadata.finalizers.is_some()),
        ("managedFields", metadata.managed_fields.is_some()),
    ];
    for (field, _) in others.iter().filter(|(_, set)| *set) {
        errors.forbidden(path.child(field), "cannot be set");
    }
}

/// The spec of a claim for a volume.
fn claim(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut FieldErrors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let modes_path = path.child("accessModes");
    if modes.is_empty() {
        errors.required(modes_path, "at least 1 access mode is required");
    }
    scheduling::label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    modes.iter().for_each(|mode| errors.one_of(&modes_path, Some(mode), &known));
    let alone = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    if alone && modes.iter().any(|mode| known[..3].contains(&mode.as_str())) {
        errors.forbidden(modes_path, "may not use ReadWriteOncePod with other access modes");
    }
    let resources = path.child("resources");
    let storage = resources.key("storage");
    match spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage")) {
        None => errors.required(storage, ""),
        Some(size) if Quantity::of(size).sign() <= 0 => errors.invalid(storage, size, "must be greater than zero"),
        Some(_) => {}
    }
    for (field, class) in
        [("storageClassName", &spec.storage_class_name), ("volumeAttributesClassName", &spec.volume_attributes_class_name)]
    {
        if let Some(class) = class.as_ref().filter(|class| !class.is_empty()) {
            errors.each(&path.child(field), class, names::dns1123_subdomain(class));
        }
    }
    errors.one_of(&path.child("volumeMode"), spec.volume_mode.as_deref(), &["Block", "Filesystem"]);
    let source = spec.data_source.as_ref().map(|source| (&source.name, &source.kind, source.api_group.as_ref()));
    let reference = spec.data_source_ref.as_ref().map(|source| (&source.name, &source.kind, source.api_group.as_ref()));
    for (field, named) in [("dataSource", source), ("dataSourceRef", reference)] {
        let Some((name, kind, group)) = named else { continue };
        let path = path.child(field);
        errors.non_empty(&path.child("name"), name);
        errors.non_empty(&path.child("kind"), kind);
        if text(group).is_empty() && kind != "PersistentVolumeClaim" {
            errors.invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
        }
    }
    let namespace = spec.data_source_ref.as_ref().and_then(|source| source.namespace.as_ref());
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        errors.each(&path.child("dataSourceRef").child("namespace"), namespace, names::dns1123_label(namespace));
        if source.is_some() {
            let message = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(path, &path.child("dataSource").to_string(), message);
        }
    } else if source.is_some() && reference.is_some() && source != reference {
        errors.invalid(path, &path.child("dataSource").to_string(), "must match dataSourceRef");
    }
}
