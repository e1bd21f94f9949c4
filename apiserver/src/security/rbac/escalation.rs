//! Nobody grants more than they have: what upstream checks when roles and bindings are written.

use serde_json::Value;

use super::{
    GROUP, Rbac,
    index::{RoleRef, Source},
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

/// Refuses to write `object` if `user` would grant rights that they don't have. `Err` is what follows `… is forbidden: `.
pub fn check(rbac: &Rbac, user: &User, info: &RequestInfo, object: &Value) -> Result<(), String> {
    if info.group != GROUP || user.is_in(MASTERS) {
        return Ok(());
    }
    match info.resource.as_str() {
        "clusterroles" => role(rbac, user, info, Source::ClusterRole, object),
        "roles" => role(rbac, user, info, Source::Role, object),
        "clusterrolebindings" => binding(rbac, user, "", object),
        "rolebindings" => binding(rbac, user, &info.namespace, object),
        _ => Ok(()),
    }
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

fn role(rbac: &Rbac, user: &User, info: &RequestInfo, source: Source, object: &Value) -> Result<(), String> {
    if may(rbac, user, "escalate", &info.namespace, source.plural(), &info.name) {
        return Ok(());
    }
    let rules: Vec<Rule> = object
        .get("rules")
        .and_then(|rules| serde_json::from_value::<Option<Vec<Rule>>>(rules.clone()).ok().flatten())
        .unwrap_or_default();
    let aggregates = object.get("aggregationRule").is_some_and(|rule| !rule.is_null());
    // Touching nothing but metadata grants nothing (and lets the garbage collector take finalizers away).
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or(&info.name);
    let stored = rbac.index.read().role(source, &info.namespace, name);
    let unchanged = matches!(info.verb, "update" | "patch") && stored.is_some_and(|stored| *stored == *rules);
    if !unchanged {
        holds(rbac, user, &info.namespace, &rules)?;
    }
    if aggregates && source == Source::ClusterRole && holds(rbac, user, "", &everything()).is_err() {
        return Err("must have cluster-admin privileges to use the aggregationRule".to_owned());
    }
    Ok(())
}

fn binding(rbac: &Rbac, user: &User, namespace: &str, object: &Value) -> Result<(), String> {
    let role: RoleRef = object.get("roleRef").and_then(|r| serde_json::from_value(r.clone()).ok()).unwrap_or_default();
    let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(rbac, user, "bind", namespace, resource, &role.name) {
        return Ok(());
    }
    let rules = rbac.index.read().resolve(namespace, &role)?;
    holds(rbac, user, namespace, &rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        let want = "user \"alice\" (groups=[\"staff\" \"system:authenticated\"]) is attempting to grant RBAC \
                    permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"create\"]}";
        assert_eq!(check(&rbac, &user("alice"), &write("roles"), &role), Err(want.to_owned()));
        let within = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        assert_eq!(check(&rbac, &user("alice"), &write("roles"), &within), Ok(()));
        assert_eq!(check(&rbac, &User::new("root", &[MASTERS]), &write("roles"), &role), Ok(()));
    }

    #[test]
    fn bindings_need_the_roles_rights_or_bind() {
        let rbac = cluster();
        let to = |role: &str| json!({"roleRef": {"kind": "ClusterRole", "name": role}});
        assert_eq!(check(&rbac, &user("alice"), &write("rolebindings"), &to("pods")), Ok(()));
        assert!(check(&rbac, &user("alice"), &write("rolebindings"), &to("secrets")).is_err());
        assert_eq!(check(&rbac, &user("bob"), &write("rolebindings"), &to("secrets")), Ok(()));
        assert!(check(&rbac, &user("bob"), &write("rolebindings"), &to("pods")).is_err());
        let unknown = check(&rbac, &user("alice"), &write("rolebindings"), &to("nope"));
        assert_eq!(unknown, Err("clusterrole.rbac.authorization.k8s.io \"nope\" not found".to_owned()));
    }

    #[test]
    fn aggregation_is_for_administrators() {
        let rbac = cluster();
        let role = json!({"aggregationRule": {"clusterRoleSelectors": []}, "rules": null});
        let info = RequestInfo { namespace: String::new(), ..write("clusterroles") };
        let want = "must have cluster-admin privileges to use the aggregationRule";
        assert_eq!(check(&rbac, &user("alice"), &info, &role), Err(want.to_owned()));
    }
}
