//! What the four RBAC kinds share.

use jiff::Timestamp;
use k8s_openapi::{
    api::rbac::v1::{PolicyRule, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{
    cells,
    columns::{AGE, NAME, column, wide},
    text,
};
use crate::{field::FieldErrors, field_path::Path, kind::Column, names};

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

/// The rules of a role.
pub fn rules(rules: &[PolicyRule], namespaced: bool, errors: &mut FieldErrors) {
    fn is_empty(list: Option<&Vec<String>>) -> bool {
        list.is_none_or(|list| list.is_empty())
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = Path::root("rules");
        let path = path.index(i);
        if rule.verbs.is_empty() {
            errors.required(path.child("verbs"), "verbs must contain at least one value");
        }
        let groups = is_empty(rule.api_groups.as_ref());
        let resources = is_empty(rule.resources.as_ref());
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            let path = path.child("nonResourceURLs");
            if namespaced {
                errors.invalid(path, urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !groups || !resources || !is_empty(rule.resource_names.as_ref()) {
                errors.invalid(path, urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if groups {
            errors.required(path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if resources {
            errors.required(path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

/// A binding's role, of one of `kinds`, and its subjects.
pub fn binding(role: &RoleRef, kinds: &[&str], subjects: &[Subject], namespaced: bool, errors: &mut FieldErrors) {
    let path = Path::root("roleRef");
    errors.one_of(&path.child("apiGroup"), Some(&role.api_group), &[GROUP]);
    errors.one_of(&path.child("kind"), Some(&role.kind), kinds);
    if role.name.is_empty() {
        errors.required(path.child("name"), "");
    } else {
        errors.each(&path.child("name"), &role.name, names::path_segment(&role.name));
    }
    let subjects_path = Path::root("subjects");
    for (i, subject) in subjects.iter().enumerate() {
        let path = subjects_path.index(i);
        errors.non_empty(&path.child("name"), &subject.name);
        let group = text(subject.api_group.as_ref());
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    errors.each(&path.child("name"), &subject.name, names::dns1123_subdomain(&subject.name));
                }
                errors.one_of(&path.child("apiGroup"), Some(group), &[""]);
                if !namespaced {
                    errors.non_empty(&path.child("namespace"), text(subject.namespace.as_ref()));
                }
            }
            "User" | "Group" => errors.one_of(&path.child("apiGroup"), Some(group), &[GROUP]),
            kind => errors.not_supported(path.child("kind"), &kind, &["ServiceAccount", "User", "Group"]),
        }
    }
}
