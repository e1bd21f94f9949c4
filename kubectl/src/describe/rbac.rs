//! Roles, with their rules taken apart and put together again by resource, and bindings.

use serde_json::Value;

use super::{
    json::{Json, go_list},
    parts,
    writer::Writer,
};
use crate::line;

/// What upstream's table has in a row: one resource of one group with all its verbs, or one URL and one verb.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule<'a> {
    verbs: Vec<&'a str>,
    target: Target<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
    Url(&'a str),
}

impl Rule<'_> {
    /// The rule as Go prints it: what upstream sorts by.
    fn key(&self) -> String {
        let verbs = go_list(&self.verbs);
        match self.target {
            Target::Resource { group, resource, name } => format!(
                "&PolicyRule{{Verbs:{verbs},APIGroups:[{group}],Resources:[{resource}],ResourceNames:[{}],NonResourceURLs:[],}}",
                name.unwrap_or("")
            ),
            Target::Url(url) => {
                format!("&PolicyRule{{Verbs:{verbs},APIGroups:[],Resources:[],ResourceNames:[],NonResourceURLs:[{url}],}}")
            }
        }
    }

    fn row(&self) -> String {
        let verbs = go_list(&self.verbs);
        match self.target {
            Target::Resource { group, resource, name } => {
                format!("{}\t[]\t[{}]\t{verbs}", qualified(resource, group), name.unwrap_or(""))
            }
            Target::Url(url) => format!("\t[{url}]\t[]\t{verbs}"),
        }
    }
}

/// `pods/log` of group `g` is `pods.g/log`.
fn qualified(resource: &str, group: &str) -> String {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, format!("/{subresource}")),
        None => (resource, String::new()),
    };
    match group {
        "" => format!("{resource}{subresource}"),
        group => format!("{resource}.{group}{subresource}"),
    }
}

fn compact(rules: &[Value]) -> Vec<Rule<'_>> {
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in rules {
        let names = rule.texts("resourceNames");
        let names: Vec<Option<&str>> = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
        let verbs = rule.texts("verbs");
        for group in rule.texts("apiGroups") {
            for resource in rule.texts("resources") {
                for (verb, name) in verbs.iter().flat_map(|verb| names.iter().map(move |name| (*verb, *name))) {
                    let target = Target::Resource { group, resource, name };
                    match compacted.iter_mut().find(|r| r.target == target) {
                        Some(known) if known.verbs.contains(&verb) => {}
                        Some(known) => known.verbs.push(verb),
                        None => compacted.push(Rule { verbs: vec![verb], target }),
                    }
                }
            }
        }
        for url in rule.texts("nonResourceURLs") {
            compacted.extend(verbs.iter().map(|verb| Rule { verbs: vec![verb], target: Target::Url(url) }));
        }
    }
    compacted.sort_by_key(Rule::key);
    compacted
}

/// A Role or a ClusterRole.
pub fn role(w: &mut Writer, role: &Value) {
    parts::heading(w, role, false);
    w.line(0, "PolicyRule:");
    w.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    w.line(1, "---------\t-----------------\t--------------\t-----");
    for rule in compact(role.items("rules")) {
        w.line(1, &rule.row());
    }
}

/// A RoleBinding or a ClusterRoleBinding.
pub fn binding(w: &mut Writer, binding: &Value) {
    parts::heading(w, binding, false);
    w.line(0, "Role:");
    line!(w, 1, "Kind:\t{}", binding.text("roleRef.kind"));
    line!(w, 1, "Name:\t{}", binding.text("roleRef.name"));
    w.line(0, "Subjects:");
    w.line(1, "Kind\tName\tNamespace");
    w.line(1, "----\t----\t---------");
    for subject in binding.items("subjects") {
        line!(w, 1, "{}\t{}\t{}", subject.text("kind"), subject.text("name"), subject.text("namespace"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_put_together_by_resource() {
        let rules = [
            json!({"verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods/log"]}),
            json!({"verbs": ["watch", "get"], "apiGroups": [""], "resources": ["pods/log"]}),
            json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}),
        ];
        let got: Vec<String> = compact(&rules).iter().map(Rule::row).collect();
        assert_eq!(got, ["pods/log\t[]\t[]\t[get list watch]", "pods.apps/log\t[]\t[]\t[get list]", "\t[/x]\t[]\t[get]"]);
    }
}
