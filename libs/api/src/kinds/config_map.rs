//! core/v1 ConfigMap.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
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
    names,
};

/// The type of this kind.
pub type Served = ConfigMap;

/// All values of a ConfigMap or Secret together, in bytes.
pub(super) const SIZE_MAX: usize = 1024 * 1024;

pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

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

    fn validate(&self, errors: &mut FieldErrors) {
        let (data, binary) = (self.data.iter().flatten(), self.binary_data.iter().flatten());
        let mut size = 0;
        for (key, value) in data {
            let path = Path::root("data");
            errors.each(&path.key(key), key, names::config_map_key(key));
            if self.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                errors.invalid(path.key(key), key, "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        for (key, value) in binary {
            errors.each(&Path::root("binaryData").key(key), key, names::config_map_key(key));
            size += value.0.len();
        }
        if size > SIZE_MAX {
            // The whole object has no name in a path.
            errors.too_long("[]", SIZE_MAX);
        }
    }

    fn validate_update(&self, old: &Self, _at: Option<Subresource>, errors: &mut FieldErrors) {
        if old.immutable == Some(true) {
            let changed = [
                ("immutable", self.immutable != Some(true)),
                ("data", self.data != old.data),
                ("binaryData", self.binary_data != old.binary_data),
            ];
            for (field, _) in changed.iter().filter(|(_, changed)| *changed) {
                errors.forbidden(*field, IMMUTABLE);
            }
        }
        self.validate(errors);
    }

    fn cells(&self, now: Timestamp) -> Vec<Value> {
        let keys = self.data.as_ref().map_or(0, |d| d.len()) + self.binary_data.as_ref().map_or(0, |d| d.len());
        vec![cells::name(&self.metadata), keys.into(), cells::age(&self.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_together_are_bounded() {
        let value = "x".repeat(SIZE_MAX / 2 + 1);
        let data = ["a", "b"].map(|key| (key.to_owned(), value.clone()));
        let map = ConfigMap { data: Some(data.into()), ..ConfigMap::default() };
        let mut errors = FieldErrors::default();
        map.validate(&mut errors);
        assert_eq!(errors.to_string(), "[]: Too long: may not be more than 1048576 bytes");
    }
}
