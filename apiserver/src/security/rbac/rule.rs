//! One rule: what it allows, what it covers, how it reads.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::request::RequestInfo;

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// `get`, `*`.
    #[serde(deserialize_with = "nullable")]
    pub verbs: Vec<String>,
    /// `""`, `apps`, `*`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Empty allows every name.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// `/healthz`, `/api/*`.
    #[serde(rename = "nonResourceURLs", deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Lists may be `null`.
fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn has(set: &[String], value: &str) -> bool {
    set.iter().any(|v| v == value)
}

fn has_or_all(set: &[String], value: &str) -> bool {
    set.iter().any(|v| v == "*" || v == value)
}

fn url_covers(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

/// Whether `pattern` (`pods`, `pods/log`, `*/log`, `*`) stands for `resource` with `subresource` (which may be empty).
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((head, tail)) => !subresource.is_empty() && tail == subresource && (head == "*" || head == resource),
    }
}

impl Rule {
    /// Whether it allows a request.
    pub fn allows(&self, request: &RequestInfo) -> bool {
        if !has_or_all(&self.verbs, request.verb) {
            return false;
        }
        if !request.is_resource {
            return self.non_resource_urls.iter().any(|url| url_covers(url, &request.path));
        }
        has_or_all(&self.api_groups, &request.group)
            && self.resources.iter().any(|r| resource_matches(r, &request.resource, &request.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, &request.name))
    }

    /// The rules of one verb, group, resource and name each that it amounts to.
    pub fn atoms(&self) -> Vec<Rule> {
        let one = |text: &str| vec![text.to_owned()];
        let mut out = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom =
                        Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        out.push(atom);
                    } else {
                        out.extend(self.resource_names.iter().map(|n| Rule { resource_names: one(n), ..atom.clone() }));
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                out.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
            }
        }
        out
    }

    /// Whether it grants all that an atom grants.
    fn covers(&self, atom: &Rule) -> bool {
        let resource = |wanted: &String| {
            has_or_all(&self.resources, wanted)
                || wanted.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
        };
        atom.verbs.iter().all(|v| has_or_all(&self.verbs, v))
            && atom.api_groups.iter().all(|g| has_or_all(&self.api_groups, g))
            && atom.resources.iter().all(resource)
            && atom.non_resource_urls.iter().all(|p| self.non_resource_urls.iter().any(|o| url_covers(o, p)))
            && (self.resource_names.is_empty()
                || !atom.resource_names.is_empty() && atom.resource_names.iter().all(|n| has(&self.resource_names, n)))
    }
}

/// What of `wanted` is not granted by `held`, verbs of the same resource put together, in order of how it reads.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for atom in wanted.iter().flat_map(Rule::atoms) {
        if held.iter().any(|rule| rule.covers(&atom)) {
            continue;
        }
        let same = out.iter_mut().find(|r| {
            atom.non_resource_urls.is_empty()
                && r.non_resource_urls.is_empty()
                && r.api_groups == atom.api_groups
                && r.resources == atom.resources
                && r.resource_names == atom.resource_names
        });
        match same {
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => out.push(atom),
        }
    }
    out.sort_by_cached_key(ToString::to_string);
    out.dedup();
    out
}

/// A list as Go prints it with `%q`.
pub fn quoted(list: &[String]) -> String {
    list.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Rule {
    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:[{}]", quoted(list)))
        .collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        Rule {
            verbs: list(verbs),
            api_groups: groups.split(',').map(str::to_owned).collect(),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: Vec::new(),
        }
    }

    pub fn asks(verb: &'static str, group: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            is_resource: true,
            verb,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn resources_match_as_upstream_documents() {
        let cases = [
            ("pods", "pods", true),
            ("pods", "pods/log", false),
            ("pods/*", "pods/log", false),
            ("pods/log", "pods/log", true),
            ("pods/log", "pods", false),
            ("*/log", "pods/log", true),
            ("*/log", "pods", false),
            ("*", "pods/log", true),
            ("*", "pods", true),
        ];
        for (pattern, resource, want) in cases {
            let got = rule("get", "", pattern, "").allows(&asks("get", "", resource, "x"));
            assert_eq!(got, want, "{pattern} {resource}");
        }
    }

    #[test]
    fn names_limit() {
        let named = rule("get,list", "", "secrets", "a,b");
        assert!(named.allows(&asks("get", "", "secrets", "b")));
        assert!(!named.allows(&asks("get", "", "secrets", "c")));
        assert!(!named.allows(&asks("list", "", "secrets", "")));
    }

    #[test]
    fn urls_match_by_prefix() {
        let rule = Rule { verbs: vec!["get".into()], non_resource_urls: vec!["/api/*".into()], ..Rule::default() };
        let path = |path: &str| RequestInfo { verb: "get", path: path.into(), ..RequestInfo::default() };
        let got = ["/api/", "/api/v1", "/api", "/apis"].map(|p| rule.allows(&path(p)));
        assert_eq!(got, [true, true, false, false]);
    }

    #[test]
    fn missing_rights_read_as_upstream_prints_them() {
        let held = [rule("get", "", "pods", ""), rule("*", "", "*/log", ""), rule("update", "", "secrets", "a")];
        let wanted =
            [rule("get,list,watch", "", "pods", ""), rule("get", "", "pods/log", ""), rule("update", "", "secrets", "a,b")];
        let got: Vec<String> = missing(&held, &wanted).iter().map(ToString::to_string).collect();
        let want = [
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
            r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["update"]}"#,
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn a_wildcard_is_only_covered_by_a_wildcard() {
        let all = rule("*", "*", "*", "");
        assert_eq!(missing(std::slice::from_ref(&all), std::slice::from_ref(&all)), vec![]);
        assert_eq!(missing(&[rule("get", "*", "*", "")], std::slice::from_ref(&all)), vec![all]);
    }
}
