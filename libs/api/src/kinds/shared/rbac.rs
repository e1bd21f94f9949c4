//! What the four RBAC kinds share.

use jiff::Timestamp;
use k8s_openapi::{
    api::rbac::v1::{RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{
    cells,
    columns::{AGE, NAME, column, wide},
    text,
};
use crate::kind::Column;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Columns of both kinds of bindings.
pub const BINDING_COLUMNS: &[Column] = &[
    NAME,
    column("Role", "string", "The role that is granted."),
    AGE,
    wide("Users", "string", "Users that get the role."),
    wide("Groups", "string", "Groups that get the role."),
    wide("ServiceAccounts", "string", "Service accounts that get the role."),
];

/// Fills in the API group of the role and of users and groups.
pub fn default_binding(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role.api_group.is_empty() {
        role.api_group = GROUP.to_owned();
    }
    for subject in subjects.into_iter().flatten() {
        if subject.api_group.as_deref() == Some("") {
            subject.api_group = None;
        }
        if subject.api_group.is_none() && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

/// Cells for [`BINDING_COLUMNS`].
pub fn binding_cells(metadata: &ObjectMeta, role: &RoleRef, subjects: &[Subject], now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let names = subjects.iter().filter(|subject| subject.kind == kind).map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(subject.namespace.as_ref()), subject.name),
            _ => subject.name.clone(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        cells::name(metadata),
        format!("{}/{}", role.kind, role.name).into(),
        cells::age(metadata, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
