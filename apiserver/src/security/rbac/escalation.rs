//! Nobody grants more than they have: what upstream checks when roles and bindings are written.

use api::status::{GroupResource, Status};
use serde_json::Value;

use super::{
    GROUP, Rbac,
    index::{RoleRef, Rules, Source},
    rule::{self, Rule},
};
use crate::{
    gate::{Authorize, Decision},
    identity::{MASTERS, User},
    request::RequestInfo,
};

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

/// Refuses to write `object`, where `old` is what is there before, if `user` would grant rights that they don't have.
pub fn check(rbac: &Rbac, user: &User, info: &RequestInfo, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    if info.group != GROUP || user.is_in(MASTERS) || old.is_some_and(|old| lets_go(object, old)) {
        return Ok(());
    }
    let checked = match info.resource.as_str() {
        "clusterroles" => role(rbac, user, info, Source::ClusterRole, object, old),
        "roles" => role(rbac, user, info, Source::Role, object, old),
        "clusterrolebindings" => binding(rbac, user, "", object)?,
        "rolebindings" => binding(rbac, user, &info.namespace, object)?,
        _ => Ok(()),
    };
    checked.map_err(|why| {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        Status::forbidden(GroupResource { group: GROUP, resource: &info.resource }, name, &why)
    })
}

/// Whether nothing changes but what holds an object: the garbage collector grants nothing. (A label may: it can make a role part
/// of another.)
fn lets_go(object: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.retain(|field, _| {
                !matches!(field.as_str(), "ownerReferences" | "finalizers" | "managedFields" | "selfLink")
            });
        }
        object
    };
    rest(object) == rest(old)
}

fn may(rbac: &Rbac, user: &User, verb: &'static str, namespace: &str, resource: &str, name: &str) -> bool {
    let wish = RequestInfo {
        is_resource: true,
        verb,
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        namespace: namespace.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    };
    matches!(rbac.authorize(user, &wish), Decision::Allow(_))
}

/// Whether the user holds all of `wanted` in `namespace`.
fn holds(rbac: &Rbac, user: &User, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
    let mut held: Vec<Rule> = Vec::new();
    let mut unresolved = Vec::new();
    rbac.index.read().visit(user, namespace, &mut unresolved, |_, rules| {
        held.extend_from_slice(rules);
        true
    });
    let missing = rule::missing(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let mut message = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        rule::quoted(&user.groups),
        list.join("\n")
    );
    if !unresolved.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", unresolved.join(", ")));
    }
    Err(message)
}

fn role(
    rbac: &Rbac,
    user: &User,
    info: &RequestInfo,
    source: Source,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), String> {
    if may(rbac, user, "escalate", &info.namespace, source.plural(), &info.name) {
        return Ok(());
    }
    let rules: Vec<Rule> = object
        .get("rules")
        .and_then(|rules| serde_json::from_value::<Option<Vec<Rule>>>(rules.clone()).ok().flatten())
        .unwrap_or_default();
    holds(rbac, user, &info.namespace, &rules)?;
    // What selects roles can gather anything; without it a role is no longer made smaller.
    let gathers = |role: &Value| {
        let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
        selectors.is_some_and(|selectors| !selectors.is_empty())
    };
    if (gathers(object) || old.is_some_and(gathers)) && holds(rbac, user, "", &everything()).is_err() {
        return Err("must have cluster-admin privileges to use the aggregationRule".to_owned());
    }
    Ok(())
}

/// The outer error is of a role that cannot be found.
fn binding(rbac: &Rbac, user: &User, namespace: &str, object: &Value) -> Result<Result<(), String>, Status> {
    let role: RoleRef = object.get("roleRef").and_then(|r| serde_json::from_value(r.clone()).ok()).unwrap_or_default();
    let source = match role.kind.as_str() {
        "ClusterRole" => Source::ClusterRole,
        "Role" => Source::Role,
        kind => return Err(Status::unexpected(format!("unsupported role reference kind: {}", api::status::quote(kind)))),
    };
    if may(rbac, user, "bind", namespace, source.plural(), &role.name) {
        return Ok(Ok(()));
    }
    let rules = granted(rbac, namespace, source, &role)?;
    Ok(holds(rbac, user, namespace, &rules))
}

/// The rules of a role, which is looked for by its path.
fn granted(rbac: &Rbac, namespace: &str, source: Source, role: &RoleRef) -> Result<Rules, Status> {
    if source == Source::Role && namespace.is_empty() {
        return Err(Status::bad_request("Namespace parameter required."));
    }
    if role.name.is_empty() {
        return Err(Status::bad_request("Name parameter required."));
    }
    let missing = |_| Status::not_found(GroupResource { group: GROUP, resource: source.plural() }, &role.name);
    rbac.index.read().resolve(namespace, role).map_err(missing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said of a write where nothing was before.
    fn new(rbac: &Rbac, user: &User, info: &RequestInfo, object: &Value) -> Result<(), (i32, String)> {
        check(rbac, user, info, object, None).map_err(|status| (status.code, status.message))
    }

    fn cluster() -> Rbac {
        let rbac = Rbac::default();
        let role = |name: &str, rules: Value| {
            rbac.apply(Source::ClusterRole, "", name, Some(&json!({"metadata": {"name": name}, "rules": rules})));
        };
        role("pods", json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]));
        role("secrets", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]));
        role("rbac", json!([{"verbs": ["create", "update"], "apiGroups": [GROUP], "resources": ["roles", "rolebindings"]}]));
        role(
            "binder",
            json!([{"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["secrets"]}]),
        );
        let bind = |namespace: &str, name: &str, role: &str, user: &str| {
            let object = json!({
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": user}],
            });
            rbac.apply(Source::RoleBinding, namespace, name, Some(&object));
        };
        bind("dev", "a", "pods", "alice");
        bind("dev", "b", "rbac", "alice");
        bind("dev", "c", "binder", "bob");
        rbac
    }

    fn write(resource: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "create",
            group: GROUP.into(),
            resource: resource.into(),
            namespace: "dev".into(),
            ..RequestInfo::default()
        }
    }

    fn user(name: &str) -> User {
        User::new(name, &["staff"])
    }

    #[test]
    fn a_role_beyond_ones_own_rights_is_refused() {
        let rbac = cluster();
        let rules = json!([{"verbs": ["get", "delete", "create"], "apiGroups": [""], "resources": ["pods"]}]);
        let role = json!({"metadata": {"name": "r"}, "rules": rules});
        let want = "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"alice\" (groups=[\"staff\" \"system:authenticated\"]) is attempting to grant RBAC \
                    permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}";
        assert_eq!(new(&rbac, &user("alice"), &write("roles"), &role), Err((403, want.to_owned())));
        let within = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(new(&rbac, &user("alice"), &write("roles"), &within), Ok(()));
        assert_eq!(new(&rbac, &User::new("root", &[MASTERS]), &write("roles"), &role), Ok(()));
    }

    #[test]
    fn bindings_need_the_roles_rights_or_bind() {
        let rbac = cluster();
        let to = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}});
        assert_eq!(new(&rbac, &user("alice"), &write("rolebindings"), &to("pods")), Ok(()));
        assert!(new(&rbac, &user("alice"), &write("rolebindings"), &to("secrets")).is_err());
        assert_eq!(new(&rbac, &user("bob"), &write("rolebindings"), &to("secrets")), Ok(()));
        assert!(new(&rbac, &user("bob"), &write("rolebindings"), &to("pods")).is_err());
        let unknown = new(&rbac, &user("alice"), &write("rolebindings"), &to("nope"));
        assert_eq!(unknown, Err((404, "clusterroles.rbac.authorization.k8s.io \"nope\" not found".to_owned())));
        let odd = |kind: &str, name: &str, resource: &str| {
            let info =
                RequestInfo { namespace: if resource == "rolebindings" { "dev" } else { "" }.into(), ..write(resource) };
            new(&rbac, &user("alice"), &info, &json!({"roleRef": {"kind": kind, "name": name}})).unwrap_err()
        };
        assert_eq!(odd("Foo", "a", "rolebindings"), (500, "unsupported role reference kind: \"Foo\"".to_owned()));
        assert_eq!(odd("ClusterRole", "", "rolebindings"), (400, "Name parameter required.".to_owned()));
        assert_eq!(odd("Role", "a", "clusterrolebindings"), (400, "Namespace parameter required.".to_owned()));
    }

    #[test]
    fn aggregation_is_for_administrators() {
        let rbac = cluster();
        let role = json!({"aggregationRule": {"clusterRoleSelectors": [{}]}, "rules": null});
        let info = RequestInfo { namespace: String::new(), ..write("clusterroles") };
        let want = "clusterroles.rbac.authorization.k8s.io is forbidden: must have cluster-admin privileges to use the aggregationRule";
        assert_eq!(new(&rbac, &user("alice"), &info, &role), Err((403, want.to_owned())));
    }

    #[test]
    fn what_grants_is_looked_at_again_whenever_more_changes_than_what_holds_it() {
        let rbac = cluster();
        let info = RequestInfo { verb: "update", namespace: String::new(), ..write("clusterroles") };
        let old = json!({
            "metadata": {"name": "secrets", "finalizers": ["foregroundDeletion"]},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}],
        });
        let code = |object: &Value, old: &Value| {
            check(&rbac, &user("alice"), &info, object, Some(old)).map_err(|status| status.code)
        };
        let mut freed = old.clone();
        freed["metadata"]["finalizers"] = json!([]);
        assert_eq!(code(&freed, &old), Ok(()));
        let mut joined = old.clone();
        joined["metadata"]["labels"] = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
        assert_eq!(code(&joined, &old), Err(403));
        let gathering = json!({"metadata": {"name": "g"}, "aggregationRule": {"clusterRoleSelectors": [{}]}, "rules": []});
        let kept = json!({"metadata": {"name": "g"}, "rules": []});
        assert_eq!(code(&kept, &gathering), Err(403));
        assert_eq!(code(&kept, &kept), Ok(()));
    }
}
