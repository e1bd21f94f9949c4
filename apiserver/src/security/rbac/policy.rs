//! The roles and bindings that a cluster starts with (`policy.txt`), and how a start brings what is stored up to them.
//!
//! As upstream: what is missing is created; to what is there, missing rules and subjects are added and nothing is taken
//! away, unless its annotation `rbac.authorization.kubernetes.io/autoupdate` says `false`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    GROUP,
    aggregate::{self, Part},
    index::Source,
    rule::{self, Rule},
};

const TABLE: &str = include_str!("policy.txt");
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Where an object is: its kind, namespace and name.
pub type Place = (Source, String, String);

/// An object of the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Where.
    pub place: Place,
    /// The object without uid and creation time.
    pub object: Value,
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(|word| if word == "core" { String::new() } else { word.to_owned() }).collect()
}

fn parse_rule(line: &str) -> Rule {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [verbs, urls] => Rule { verbs: list(verbs), non_resource_urls: list(urls), ..Rule::default() },
        [verbs, groups, resources, names @ ..] => Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: names.first().map(|n| list(n)).unwrap_or_default(),
            ..Rule::default()
        },
        _ => Rule::default(),
    }
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("sa", name)) => {
            let (namespace, name) = name.split_once('/').unwrap_or(("kube-system", name));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Some((_, name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        None => Value::Null,
    }
}

fn object(source: Source, place: &str, labels: Map<String, Value>, fields: Value) -> Wanted {
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    let mut all = Map::from_iter([("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"))]);
    all.extend(labels);
    let mut object = json!({
        "kind": source.kind(),
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {"name": name, "labels": all, "annotations": {AUTOUPDATE: "true"}},
    });
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    Wanted { place: (source, namespace.to_owned(), name.to_owned()), object }
}

fn parse_role(source: Source, words: &[&str], rules: &[Rule]) -> Wanted {
    let label = |role: &str| format!("{GROUP}/aggregate-to-{role}");
    let mut labels = Map::new();
    let mut selectors = Vec::new();
    for word in &words[1..] {
        if let Some(role) = word.strip_prefix("to:") {
            labels.insert(label(role), json!("true"));
        } else if let Some(role) = word.strip_prefix("from:") {
            selectors.push(json!({"matchLabels": {label(role): "true"}}));
        }
    }
    let fields = if selectors.is_empty() {
        json!({"rules": rules})
    } else {
        json!({"aggregationRule": {"clusterRoleSelectors": selectors}, "rules": null})
    };
    object(source, words[0], labels, fields)
}

fn parse_binding(source: Source, words: &[&str]) -> Wanted {
    let (kind, name) = words.get(1).and_then(|role| role.split_once('/')).unwrap_or_default();
    let mut fields = json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}});
    let subjects: Vec<Value> = words.iter().skip(2).map(|s| subject(s)).collect();
    if !subjects.is_empty() {
        fields["subjects"] = json!(subjects);
    }
    object(source, words[0], Map::new(), fields)
}

/// The whole policy.
pub fn wanted() -> Vec<Wanted> {
    let mut out = Vec::new();
    let mut lines = TABLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).peekable();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut rules = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
            rules.push(parse_rule(line));
        }
        match (words[0], &words[1..]) {
            ("clusterrole", rest) => {
                out.push(parse_role(Source::ClusterRole, rest, &rules));
                if let Some(controller) = rest[0].strip_prefix("system:controller:") {
                    let (role, account) = (format!("ClusterRole/{}", rest[0]), format!("sa:kube-system/{controller}"));
                    out.push(parse_binding(Source::ClusterRoleBinding, &[rest[0], &role, &account]));
                }
            }
            ("role", rest) => out.push(parse_role(Source::Role, rest, &rules)),
            ("clusterrolebinding", rest) => out.push(parse_binding(Source::ClusterRoleBinding, rest)),
            (_, rest) => out.push(parse_binding(Source::RoleBinding, rest)),
        }
    }
    fill_aggregates(&mut out);
    out
}

/// Gives aggregated roles their rules at once: nobody should find `view` empty until a controller has run. Twice, because
/// `admin` is made of `edit` and that of `view`.
fn fill_aggregates(all: &mut [Wanted]) {
    for _ in 0..3 {
        let parts: BTreeMap<String, Part> = all
            .iter()
            .filter(|w| w.place.0 == Source::ClusterRole)
            .map(|w| (w.place.2.clone(), Part::of(&w.object)))
            .collect();
        for wanted in all.iter_mut().filter(|w| w.place.0 == Source::ClusterRole) {
            if let Some(rules) = aggregate::decide(&wanted.place.2, &parts) {
                wanted.object["rules"] = rules;
            }
        }
    }
}

/// The rules of a cluster role of the policy, whatever is stored of it.
pub fn rules_of_role(name: &str) -> Vec<Rule> {
    let role = wanted().into_iter().find(|wanted| wanted.place.0 == Source::ClusterRole && wanted.place.2 == name);
    role.map(|role| rules_of(&role.object)).unwrap_or_default()
}

fn rules_of(object: &Value) -> Vec<Rule> {
    serde_json::from_value(object.get("rules").cloned().unwrap_or_default()).unwrap_or_default()
}

/// Adds what `from` has and `to` lacks to the map at `pointer`; whether anything was added.
fn add_missing(to: &mut Value, from: &Value, parent: &str, field: &str) -> bool {
    let Some(from) = from.pointer(parent).and_then(|p| p.get(field)).and_then(Value::as_object) else { return false };
    let Some(parent) = to.pointer_mut(parent).and_then(Value::as_object_mut) else { return false };
    let slot = parent.entry(field).or_insert_with(|| json!({}));
    if slot.is_null() {
        *slot = json!({});
    }
    let Some(slot) = slot.as_object_mut() else { return false };
    let before = slot.len();
    for (key, value) in from {
        slot.entry(key).or_insert_with(|| value.clone());
    }
    slot.len() != before
}

/// What an object that is stored becomes; `None` if it may stay as it is.
pub fn reconcile(wanted: &Wanted, stored: &Value) -> Option<Value> {
    let annotation = stored.pointer("/metadata/annotations").and_then(|a| a.get(AUTOUPDATE));
    if annotation.and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut new = stored.clone();
    let mut changed = add_missing(&mut new, &wanted.object, "/metadata", "labels");
    changed |= add_missing(&mut new, &wanted.object, "/metadata", "annotations");
    match wanted.place.0 {
        Source::ClusterRole | Source::Role => {
            let aggregated = wanted.object.get("aggregationRule");
            if let Some(rule) = aggregated {
                if stored.get("aggregationRule").is_none_or(Value::is_null) {
                    new["aggregationRule"] = rule.clone();
                    changed = true;
                }
            } else {
                let mut rules = rules_of(stored);
                let missing = rule::missing(&rules, &rules_of(&wanted.object));
                if !missing.is_empty() {
                    rules.extend(missing);
                    new["rules"] = json!(rules);
                    changed = true;
                }
            }
        }
        Source::ClusterRoleBinding | Source::RoleBinding => {
            // A role cannot be exchanged under a binding: as upstream, the binding is made anew with its subjects.
            if stored.get("roleRef") != wanted.object.get("roleRef") {
                new["roleRef"] = wanted.object["roleRef"].clone();
                changed = true;
            }
            let mut subjects = stored.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
            let theirs = wanted.object.get("subjects").and_then(Value::as_array).cloned().unwrap_or_default();
            let before = subjects.len();
            for subject in theirs {
                if !subjects.contains(&subject) {
                    subjects.push(subject);
                }
            }
            if subjects.len() != before {
                new["subjects"] = json!(subjects);
                changed = true;
            }
        }
    }
    changed.then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::{Authorize, Decision},
        identity::User,
        request::RequestInfo,
        security::rbac::Rbac,
    };

    fn cluster() -> Rbac {
        let rbac = Rbac::default();
        for wanted in wanted() {
            let (source, namespace, name) = &wanted.place;
            rbac.apply(*source, namespace, name, Some(&wanted.object));
        }
        rbac
    }

    fn may(rbac: &Rbac, user: &User, method: &str, uri: &str) -> bool {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        let info = RequestInfo::parse(&http::Method::from_bytes(method.as_bytes()).unwrap(), path, query);
        matches!(rbac.authorize(user, &info), Decision::Allow(_))
    }

    #[test]
    fn every_line_is_an_object_and_every_binding_finds_its_role() {
        let all = wanted();
        for binding in all.iter().filter(|w| matches!(w.place.0, Source::ClusterRoleBinding | Source::RoleBinding)) {
            let role = &binding.object["roleRef"];
            let kind = if role["kind"] == "Role" { Source::Role } else { Source::ClusterRole };
            let namespace = if kind == Source::Role { binding.place.1.as_str() } else { "" };
            let place = (kind, namespace.to_owned(), role["name"].as_str().unwrap().to_owned());
            assert!(all.iter().any(|w| w.place == place), "{place:?}");
        }
        for role in all.iter().filter(|w| matches!(w.place.0, Source::ClusterRole | Source::Role)) {
            assert!(!rules_of(&role.object).is_empty(), "{:?}", role.place);
            assert!(rules_of(&role.object).iter().all(|r| !r.verbs.is_empty()), "{:?}", role.place);
        }
    }

    #[test]
    fn the_usual_identities_may_do_what_they_should() {
        let rbac = cluster();
        let user = |name: &str, groups: &[&str]| User::new(name, groups);
        let controllers = user("system:kube-controller-manager", &[]);
        let scheduler = user("system:kube-scheduler", &[]);
        let node = user("system:node:a", &["system:nodes"]);
        let fake = user("system:node:a", &[]);
        let proxy = user("system:kube-proxy", &[]);
        let account = user(
            "system:serviceaccount:kube-system:deployment-controller",
            &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
        );
        let nobody = User::anonymous();
        let someone = user("alice", &[]);
        let cases = [
            (&controllers, "POST", "/apis/apps/v1/namespaces/d/replicasets", true),
            (&controllers, "POST", "/api/v1/namespaces/d/pods", true),
            (&controllers, "PUT", "/api/v1/namespaces/d/finalize", true),
            (&controllers, "POST", "/api/v1/namespaces/d/pods/p/exec", false),
            (&account, "POST", "/apis/apps/v1/namespaces/d/replicasets", true),
            (&account, "POST", "/api/v1/namespaces/d/pods", false),
            (&scheduler, "POST", "/api/v1/namespaces/d/pods/p/binding", true),
            (&scheduler, "GET", "/api/v1/namespaces/d/secrets/s", false),
            (&scheduler, "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler", true),
            (&scheduler, "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/other", false),
            (&node, "PATCH", "/api/v1/nodes/a/status", false),
            (&node, "GET", "/apis", true),
            (&fake, "GET", "/api/v1/services?watch=1", false),
            (&proxy, "GET", "/api/v1/services?watch=1", true),
            (&proxy, "GET", "/api/v1/pods", true),
            (&proxy, "GET", "/api/v1/secrets", false),
            (&nobody, "GET", "/healthz", true),
            (&nobody, "GET", "/readyz", true),
            (&nobody, "GET", "/version", true),
            (&nobody, "GET", "/api", false),
            (&nobody, "GET", "/metrics", false),
            (&someone, "GET", "/apis/apps/v1", true),
            (&someone, "GET", "/openapi/v2", true),
            (&someone, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", true),
            (&someone, "GET", "/api/v1/pods", false),
        ];
        for (who, method, uri, want) in cases {
            assert_eq!(may(&rbac, who, method, uri), want, "{} {method} {uri}", who.name);
        }
    }

    /// Every path that a kind is served at, with its methods.
    fn routes(kind: &api::kind::KindInfo) -> Vec<(&'static str, String)> {
        use api::kind::Subresource as Sub;
        let group = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let namespace = if kind.namespaced { "/namespaces/d" } else { "" };
        let all = format!("{group}/{}{namespace}/{}", kind.version, kind.plural);
        let mut routes = Vec::new();
        for method in ["GET", "POST", "DELETE"] {
            routes.push((method, all.clone()));
        }
        routes.push(("GET", format!("{group}/{}/{}?watch=true", kind.version, kind.plural)));
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            routes.push((method, format!("{all}/x")));
        }
        for sub in kind.subresources {
            let name = match sub {
                Sub::Status => "status",
                Sub::Scale => "scale",
                Sub::Binding => "binding",
                Sub::Eviction => "eviction",
                Sub::EphemeralContainers => "ephemeralcontainers",
                Sub::Resize => "resize",
                Sub::Log => "log",
                Sub::Exec => "exec",
                Sub::Attach => "attach",
                Sub::PortForward => "portforward",
                Sub::Proxy => "proxy",
                Sub::Finalize => "finalize",
                Sub::Token => "token",
                Sub::Approval => "approval",
            };
            for method in ["GET", "POST", "PUT", "PATCH"] {
                routes.push((method, format!("{all}/x/{name}")));
            }
        }
        routes
    }

    #[test]
    fn every_route_of_every_kind_has_a_decision() {
        let rbac = cluster();
        let (root, alice) = (User::new("root", &[crate::identity::MASTERS]), User::new("alice", &[]));
        for kind in api::kinds::all() {
            for (method, uri) in routes(&kind.info) {
                let got = [&root, &alice, &User::anonymous()].map(|user| may(&rbac, user, method, &uri));
                assert_eq!(got, [true, false, false], "{method} {uri}");
                let path = uri.split('?').next().unwrap();
                let info = RequestInfo::parse(&http::Method::GET, path, None);
                let of = (info.is_resource, info.group.as_str(), info.resource.as_str());
                assert_eq!(of, (true, kind.info.group, kind.info.plural), "{uri}");
            }
        }
    }

    #[test]
    #[ignore = "prints what a decision costs"]
    fn cost_of_a_decision() {
        let rbac = cluster();
        let scheduler = User::new("system:kube-scheduler", &[]);
        let controllers = User::new("system:kube-controller-manager", &[]);
        let info = RequestInfo::parse(&http::Method::POST, "/api/v1/namespaces/d/pods/p/binding", None);
        let pods = RequestInfo::parse(&http::Method::POST, "/api/v1/namespaces/d/pods", None);
        let secret = RequestInfo::parse(&http::Method::GET, "/api/v1/namespaces/d/secrets/s", None);
        for (user, info) in [(&scheduler, &info), (&scheduler, &secret), (&controllers, &pods)] {
            let begin = std::time::Instant::now();
            for _ in 0..100_000 {
                std::hint::black_box(rbac.authorize(user, info));
            }
            println!("{} {} {}: {:?}", user.name, info.verb, info.resource, begin.elapsed() / 100_000);
        }
    }

    #[test]
    fn admin_edit_and_view_are_filled() {
        let all = wanted();
        let of = |name: &str| {
            let role = all.iter().find(|w| w.place == (Source::ClusterRole, String::new(), name.to_owned())).unwrap();
            rules_of(&role.object)
        };
        let (admin, edit, view) = (of("admin"), of("edit"), of("view"));
        assert_eq!(rule::missing(&admin, &edit), vec![]);
        assert_eq!(rule::missing(&edit, &view), vec![]);
        assert!(!rule::missing(&view, &edit).is_empty());
        assert!(!rule::missing(&edit, &admin).is_empty());
    }

    #[test]
    fn a_start_adds_what_is_missing_and_keeps_the_rest() {
        let all = wanted();
        let role = all.iter().find(|w| w.place.2 == "system:basic-user").unwrap();
        let mut stored = role.object.clone();
        assert_eq!(reconcile(role, &stored), None);
        let extra = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        stored["rules"] = json!([extra]);
        let new = reconcile(role, &stored).unwrap();
        let rules = rules_of(&new);
        assert_eq!(json!(rules[0]), extra);
        assert_eq!(rule::missing(&rules, &rules_of(&role.object)), vec![]);
        stored["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(reconcile(role, &stored), None);
    }

    #[test]
    fn bindings_get_missing_subjects_back() {
        let all = wanted();
        let binding =
            all.iter().find(|w| w.place == (Source::ClusterRoleBinding, String::new(), "cluster-admin".into())).unwrap();
        let mut stored = binding.object.clone();
        let mine = json!({"apiGroup": GROUP, "kind": "User", "name": "me"});
        stored["subjects"] = json!([mine]);
        let mut want = stored.clone();
        want["subjects"] = json!([mine, binding.object["subjects"][0]]);
        assert_eq!(reconcile(binding, &stored), Some(want));
    }
}
