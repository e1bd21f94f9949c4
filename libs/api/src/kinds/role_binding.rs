//! rbac.authorization.k8s.io/v1 RoleBinding.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::Value;

use super::shared::{metadata_accessors, rbac};
use crate::{
    field::FieldErrors,
    kind::{KindInfo, MetadataRules, NameRule, Resource, Subresource},
    quoted,
};

/// The type of this kind.
pub type Served = RoleBinding;

impl Resource for RoleBinding {
    const INFO: KindInfo = KindInfo {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        singular: "rolebinding",
        name_rule: NameRule::PathSegment,
        columns: rbac::BINDING_COLUMNS,
        metadata_rules: MetadataRules::TWICE,
        create_on_update: true,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn set_defaults(&mut self) {
        rbac::default_binding(&mut self.role_ref, self.subjects.as_mut());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        rbac::binding(&self.role_ref, &["Role", "ClusterRole"], self.subjects.as_deref().unwrap_or_default(), true, errors);
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        self.validate(errors);
        if self.role_ref != old.role_ref {
            errors.invalid("roleRef", &quoted::ROLE_REF.quote(&self.role_ref), "cannot change roleRef");
        }
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        rbac::binding_cells(&self.metadata, &self.role_ref, self.subjects.as_deref().unwrap_or_default(), now)
    }
}
