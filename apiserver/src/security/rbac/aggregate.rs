//! Aggregated ClusterRoles: their rules are those of every role that their selectors choose.
//!
//! Plain decisions; [`super::follow`] applies them. Safe to run twice: a role that has its rules already is left alone.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

/// What of a ClusterRole aggregation looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `aggregationRule.clusterRoleSelectors`, if there is one.
    pub selectors: Option<Vec<Selector>>,
    /// `rules`.
    pub rules: Vec<Value>,
}

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Selector {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let expression = |e: &Expression| {
            let value = labels.get(&e.key);
            match e.operator.as_str() {
                "In" => value.is_some_and(|v| e.values.contains(v)),
                "NotIn" => value.is_none_or(|v| !e.values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        };
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v)) && self.match_expressions.iter().all(expression)
    }
}

impl Part {
    /// The part of a ClusterRole object.
    pub fn of(object: &Value) -> Self {
        let text = |(k, v): (&String, &Value)| Some((k.clone(), v.as_str()?.to_owned()));
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        let selectors = object.get("aggregationRule").filter(|rule| !rule.is_null()).map(|rule| {
            let list = rule.get("clusterRoleSelectors").cloned().unwrap_or_default();
            serde_json::from_value::<Option<Vec<Selector>>>(list).ok().flatten().unwrap_or_default()
        });
        Self {
            labels: labels.into_iter().flatten().filter_map(text).collect(),
            selectors,
            rules: object.get("rules").and_then(Value::as_array).cloned().unwrap_or_default(),
        }
    }
}

/// The rules that the role called `name` should have; `None` if it is not aggregated or has them.
///
/// Per selector in order, then by name; a rule that is there already is not repeated.
pub fn decide(name: &str, roles: &BTreeMap<String, Part>) -> Option<Value> {
    let role = roles.get(name)?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in role.selectors.as_ref()? {
        for (_, other) in roles.iter().filter(|(n, r)| *n != name && selector.matches(&r.labels)) {
            for rule in &other.rules {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (rules != role.rules).then(|| json!(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_collected_once_and_settle() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let role = |label: &str, rules: Vec<Value>| Part {
            labels: BTreeMap::from([(format!("to-{label}"), "true".to_owned())]),
            selectors: None,
            rules,
        };
        let selectors = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to-view": "true"}}]}});
        let mut roles = BTreeMap::from([
            ("view".to_owned(), Part::of(&selectors)),
            ("a".to_owned(), role("view", vec![rule("get"), rule("list")])),
            ("b".to_owned(), role("view", vec![rule("list"), rule("watch")])),
            ("c".to_owned(), role("edit", vec![rule("delete")])),
        ]);
        let want = json!([rule("get"), rule("list"), rule("watch")]);
        assert_eq!(decide("view", &roles), Some(want.clone()));
        assert_eq!(decide("a", &roles), None);
        roles.get_mut("view").unwrap().rules = want.as_array().unwrap().clone();
        assert_eq!(decide("view", &roles), None);
    }
}
