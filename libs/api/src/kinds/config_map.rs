//! core/v1 ConfigMap.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use super::shared::{
    cells,
    columns::{AGE, NAME, column},
    metadata_accessors,
};
use crate::kind::{KindInfo, Resource};

/// The type of this kind.
pub type Served = ConfigMap;

impl Resource for ConfigMap {
    const INFO: KindInfo = KindInfo {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        columns: &[NAME, column("Data", "string", "How many keys it holds."), AGE],
        ..KindInfo::BASE
    };

    metadata_accessors!();

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, |d| d.len()) + self.binary_data.as_ref().map_or(0, |d| d.len());
        vec![cells::name(&self.metadata), keys.into(), cells::age(&self.metadata, now)]
    }
}
