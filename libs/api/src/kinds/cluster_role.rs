//! rbac.authorization.k8s.io/v1 ClusterRole.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;

use super::shared::{cells, columns::NAME, columns::column, metadata_accessors, pod_rules::label_selector, rbac};
use crate::{
    field::FieldErrors,
    field_path::Path,
    kind::{KindInfo, MetadataRules, NameRule, Resource},
    selector::Selector,
};

/// The type of this kind.
pub type Served = ClusterRole;

impl Resource for ClusterRole {
    const INFO: KindInfo = KindInfo {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        namespaced: false,
        name_rule: NameRule::PathSegment,
        columns: &[NAME, column("Created At", "date", "When the object was created.")],
        metadata_rules: MetadataRules::TWICE,
        create_on_update: true,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn validate(&self, errors: &mut FieldErrors) {
        rbac::rules(self.rules.as_deref().unwrap_or_default(), false, errors);
        if let Some(aggregation) = &self.aggregation_rule {
            let path = Path::root("aggregationRule.clusterRoleSelectors");
            let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
            if selectors.is_empty() {
                errors.required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
            }
            for (i, selector) in selectors.iter().enumerate() {
                label_selector(Some(selector), &path.index(i), errors);
                if Selector::from_label_selector(Some(selector)).is_err() {
                    errors.invalid(path.index(i), &(), "invalid label selector.");
                }
            }
        }
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        vec![cells::name(&self.metadata), cells::created(&self.metadata)]
    }
}
