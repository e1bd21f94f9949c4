//! rbac.authorization.k8s.io/v1 ClusterRole.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;

use super::shared::{cells, columns::NAME, columns::column, metadata_accessors};
use crate::kind::{KindInfo, NameRule, Resource};

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
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn cells(&self, _now: Timestamp) -> Vec<Value> {
        vec![cells::name(&self.metadata), cells::created(&self.metadata)]
    }
}
