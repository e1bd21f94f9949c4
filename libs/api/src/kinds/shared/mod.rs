//! What several kinds share: table cells, pod-spec defaults and rules, selectors' printed form.

pub mod cells;
pub mod columns;
pub mod network;
pub mod pod_defaults;
pub mod pod_rules;
pub mod rbac;
pub mod replicas;

/// `metadata()` and `metadata_mut()` of a type whose field is `metadata`.
macro_rules! metadata_accessors {
    () => {
        fn metadata(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            &self.metadata
        }
        fn metadata_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            &mut self.metadata
        }
    };
}
pub(crate) use metadata_accessors;

/// The string of an optional string field, empty if unset.
pub(crate) fn text(field: Option<&String>) -> &str {
    field.map_or("", String::as_str)
}

/// Sets a field that is unset.
pub(crate) fn default_to<T>(field: &mut Option<T>, value: impl Into<T>) {
    if field.is_none() {
        *field = Some(value.into());
    }
}
