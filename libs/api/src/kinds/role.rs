//! rbac.authorization.k8s.io/v1 Role.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;
use serde_json::Value;

use super::shared::{cells, columns::NAME, columns::column, metadata_accessors, rbac};
use crate::{
    field::FieldErrors,
    kind::{KindInfo, MetadataRules, NameRule, Resource},
};

/// The type of this kind.
pub type Served = Role;

impl Resource for Role {
    const INFO: KindInfo = KindInfo {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        plural: "roles",
        singular: "role",
        name_rule: NameRule::PathSegment,
        columns: &[NAME, column("Created At", "date", "When the object was created.")],
        metadata_rules: MetadataRules::TWICE,
        create_on_update: true,
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn validate(&self, errors: &mut FieldErrors) {
        rbac::rules(self.rules.as_deref().unwrap_or_default(), true, errors);
    }

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        vec![cells::name(&self.metadata), cells::created(&self.metadata)]
    }
}
