//! core/v1 PodTemplate.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{NAME, column},
    metadata_accessors, pod_defaults,
    pod_rules::{self, warnings},
};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, MetadataRules, Resource},
};

/// The type of this kind.
pub type Served = PodTemplate;

impl Resource for PodTemplate {
    const INFO: KindInfo = KindInfo {
        kind: "PodTemplate",
        plural: "podtemplates",
        singular: "podtemplate",
        columns: &[
            NAME,
            column("Containers", "string", "Names of the template's containers."),
            column("Images", "string", "Images of the template's containers."),
            column("Pod Labels", "string", "Labels of the pods."),
        ],
        has_generation: true,
        metadata_rules: MetadataRules::CHANGES,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        pod_defaults::template(self.template.get_or_insert_default());
    }

    fn generation_moves(&self, old: &Self) -> bool {
        self.template != old.template
    }

    fn validate(&self, errors: &mut FieldErrors) {
        pod_rules::template(&self.template.clone().unwrap_or_default(), &Path::root("template"), errors);
    }

    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        if old.is_some_and(|old| old.metadata.generation == self.metadata.generation) {
            return Vec::new();
        }
        warnings::template(self.template.as_ref(), "template")
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        let (names, images) = cells::template(self.template.as_ref());
        let labels = self.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
        vec![cells::name(&self.metadata), names.into(), images.into(), cells::labels(labels).into()]
    }
}
