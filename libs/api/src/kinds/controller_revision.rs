//! apps/v1 ControllerRevision.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    metadata_accessors,
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, Resource, Subresource},
};

/// The type of this kind.
pub type Served = ControllerRevision;

impl Resource for ControllerRevision {
    const INFO: KindInfo = KindInfo {
        group: "apps",
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        columns: &[
            NAME,
            column("Controller", "string", "The controller whose history this is."),
            column("Revision", "string", "The revision's number."),
            AGE,
        ],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn validate(&self, errors: &mut FieldErrors) {
        if self.data.is_none() {
            errors.required("data", "data is mandatory");
        }
        errors.non_negative(&Path::root("revision"), Some(self.revision));
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        self.validate(errors);
        errors.immutable(&Path::root("data"), &self.data, &old.data);
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let owner = self.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let controller = owner.map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let kind = match owner.api_version.split_once('/') {
                    Some((group, _)) => format!("{}.{group}", owner.kind),
                    None => owner.kind.clone(),
                };
                format!("{}/{}", kind.to_lowercase(), owner.name)
            },
        );
        vec![cells::name(&self.metadata), controller.into(), self.revision.into(), cells::age(&self.metadata, now)]
    }
}
