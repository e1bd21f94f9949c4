//! core/v1 Namespace.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    default_to, metadata_accessors, text,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{Context, KindInfo, NameRule, Resource, Subresource},
    names,
};

/// The type of this kind.
pub type Served = Namespace;

/// The finalizer that holds a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";

impl Resource for Namespace {
    const INFO: KindInfo = KindInfo {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        // Namespaces are deleted one by one: no deletecollection.
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[Subresource::Finalize, Subresource::Status],
        name_rule: NameRule::DnsLabel,
        columns: &[NAME, column("Status", "string", "Active, or Terminating while its content is being deleted."), AGE],
        fields: &["status.phase"],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        if let Some(name) = self.metadata.name.clone().filter(|name| !name.is_empty()) {
            self.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".to_owned(), name);
        }
        self.spec.get_or_insert_default();
        default_to(&mut self.status.get_or_insert_default().phase, "Active");
    }

    fn prepare_for_create(&mut self, _ctx: &Context) {
        self.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), conditions: None });
        let finalizers = self.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
    }

    fn prepare_for_update(&mut self, old: &Self, at: Option<Subresource>, _ctx: &Context) {
        let old_finalizers = || old.spec.as_ref().and_then(|spec| spec.finalizers.clone());
        match at {
            Some(Subresource::Status) => self.spec.clone_from(&old.spec),
            Some(Subresource::Finalize) => self.status.clone_from(&old.status),
            _ => {
                self.spec.get_or_insert_default().finalizers = old_finalizers();
                self.status.clone_from(&old.status);
            }
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        for finalizer in self.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()) {
            check_finalizer(finalizer, &Path::root("spec.finalizers"), errors);
        }
    }

    fn validate_update(&self, _old: &Self, at: Option<Subresource>, errors: &mut FieldErrors) {
        match at {
            Some(Subresource::Status) => {
                let phase = text(self.status.as_ref().and_then(|status| status.phase.as_ref()));
                let (wanted, when) = match self.metadata.deletion_timestamp {
                    None => ("Active", "empty"),
                    Some(_) => ("Terminating", "not empty"),
                };
                if phase != wanted {
                    let message = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
                    errors.invalid("status.Phase", &phase, message);
                }
            }
            Some(Subresource::Finalize) => {
                for (i, finalizer) in self.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).enumerate() {
                    check_finalizer(finalizer, &Path::root("spec.finalizers").index(i), errors);
                }
            }
            _ => self.validate(errors),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("status.phase", text(self.status.as_ref().and_then(|s| s.phase.as_ref())).to_owned())]
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let phase = text(self.status.as_ref().and_then(|s| s.phase.as_ref()));
        vec![cells::name(&self.metadata), phase.into(), cells::age(&self.metadata, now)]
    }
}

fn check_finalizer(finalizer: &str, path: &Path, errors: &mut FieldErrors) {
    errors.each(path, finalizer, names::qualified_name(finalizer));
    if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.invalid(path, &finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}
