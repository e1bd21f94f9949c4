//! Names that follow the resources they are of: what refers to a resource by a name that it had is given the one it has.

use std::collections::HashSet;

use serde_json::Value;

use super::{
    fields::{FieldSpec, Make},
    resource::{Gvk, Id, Resource, scalar},
    set::Resources,
    tables::Referred,
};

/// What may be referred to.
struct Candidate {
    id: Id,
    former: Vec<Id>,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
}

impl Candidate {
    fn of(resource: &Resource) -> Self {
        Self {
            id: resource.id(),
            former: resource.former_ids(),
            prefixes: resource.prefixes.clone(),
            suffixes: resource.suffixes.clone(),
        }
    }

    fn first_namespace(&self) -> &str {
        self.former.first().unwrap_or(&self.id).effective_namespace()
    }
}

/// Whether the shorter one is the end of the longer.
fn same_end(a: &[String], b: &[String]) -> bool {
    let (short, long) = if a.len() > b.len() { (b, a) } else { (a, b) };
    if short.is_empty() { long.is_empty() } else { long.ends_with(short) }
}

/// Namespaces of a role binding's accounts, which may be others than its own.
fn subjects_namespaces(resource: &Resource) -> HashSet<String> {
    if resource.kind() != "RoleBinding" {
        return HashSet::new();
    }
    let subjects = resource.value["subjects"].as_array().into_iter().flatten();
    let accounts = subjects.filter(|subject| subject["kind"] == "ServiceAccount");
    accounts.filter_map(|subject| Some(subject["namespace"].as_str()?.to_owned())).collect()
}

/// One kind of reference of one resource.
struct Reference<'a> {
    /// Who refers.
    from: &'a Candidate,
    /// To what kind.
    to: &'a Gvk,
    candidates: &'a [&'a Candidate],
    /// The kind that a role binding says it refers to.
    role: Option<Gvk>,
}

impl<'a> Reference<'a> {
    /// What is referred to by a name; nothing if nothing had it.
    fn find(&self, name: &str, among: &[&'a Candidate], namespaces: bool) -> Result<Option<&'a Candidate>, String> {
        let was = |candidate: &Candidate, kind: &Gvk| candidate.former.iter().any(|id| id.gvk.is_selected(kind));
        let mut found: Vec<&Candidate> = among.to_vec();
        found.retain(|candidate| {
            candidate.former.iter().any(|id| id.name == name)
                && was(candidate, self.to)
                && self.role.as_ref().is_none_or(|role| was(candidate, role))
                && self.is_in_reach(candidate)
        });
        if found.len() > 1 {
            let either = |a: &[String], b: &[String]| a.is_empty() || b.is_empty() || same_end(a, b);
            let from = self.from;
            found.retain(|c| either(&c.prefixes, &from.prefixes) && either(&c.suffixes, &from.suffixes));
            if found.len() > 1 {
                found.retain(|c| same_end(&c.prefixes, &from.prefixes) && same_end(&c.suffixes, &from.suffixes));
            }
        }
        let Some(first) = found.first() else { return Ok(None) };
        let same = |c: &&Candidate| c.id.name == first.id.name && (!namespaces || c.id.namespace == first.id.namespace);
        if found.iter().all(same) {
            return Ok(Some(first));
        }
        let ids: Vec<String> = found.iter().map(|candidate| candidate.id.to_string()).collect();
        Err(format!("found multiple possible referrals: {}", ids.join(", ")))
    }

    fn is_in_reach(&self, candidate: &Candidate) -> bool {
        self.from.id.gvk.is_cluster_scoped()
            || candidate.id.gvk.is_cluster_scoped()
            || candidate.id.gvk.kind == "ServiceAccount"
            || self.from.id.effective_namespace() == candidate.id.effective_namespace()
    }

    /// Puts the present name in a field: a name, a map with one, or a list of these.
    fn update(&self, value: &mut Value) -> Result<(), String> {
        match value {
            Value::Null => Ok(()),
            Value::Array(items) => items.iter_mut().try_for_each(|item| match item {
                Value::Array(_) => Err("a list is expected to be of strings or maps".to_owned()),
                item => self.update(item),
            }),
            Value::Object(_) => self.update_map(value),
            name => {
                if let Some(found) = self.find(&scalar(name), self.candidates, false)? {
                    *name = found.id.name.clone().into();
                }
                Ok(())
            }
        }
    }

    fn update_map(&self, value: &mut Value) -> Result<(), String> {
        let Some(name) = value.get("name") else {
            return Err("path config error; no 'name' field in node".to_owned());
        };
        let name = scalar(name);
        let among = match value.get("namespace").map(scalar) {
            None => self.candidates.to_vec(),
            Some(namespace) => self.of_namespace(&namespace),
        };
        let Some(found) = self.find(&name, &among, true)? else { return Ok(()) };
        value["name"] = found.id.name.clone().into();
        if !found.id.namespace.is_empty() {
            value["namespace"] = found.id.namespace.clone().into();
        }
        Ok(())
    }

    /// Candidates that were in a namespace at first; if there were none, those that are.
    fn of_namespace(&self, namespace: &str) -> Vec<&'a Candidate> {
        let of = |of: fn(&Candidate) -> &str| -> Vec<&'a Candidate> {
            self.candidates.iter().copied().filter(|candidate| of(candidate) == namespace).collect()
        };
        let first = of(Candidate::first_namespace);
        if first.is_empty() { of(|candidate| candidate.id.effective_namespace()) } else { first }
    }
}

/// The kind in `roleRef`.
fn role_of(resource: &Resource, spec: &FieldSpec) -> Option<Gvk> {
    let role = &resource.value["roleRef"];
    let said = spec.path.ends_with("roleRef/name") && !role["apiGroup"].is_null() && !role["kind"].is_null();
    said.then(|| Gvk { group: scalar(&role["apiGroup"]), version: String::new(), kind: scalar(&role["kind"]) })
}

/// Gives all that is referred to its present name.
///
/// # Errors
/// It is not clear what is referred to.
pub fn update(set: &mut Resources, table: &[Referred]) -> Result<(), String> {
    let all: Vec<Candidate> = set.0.iter().map(Candidate::of).collect();
    for (resource, from) in set.0.iter_mut().zip(&all) {
        let first = resource.original_id().gvk;
        let others = subjects_namespaces(resource);
        let reach = |candidate: &&Candidate| {
            from.id.gvk.is_cluster_scoped()
                || candidate.id.gvk.is_cluster_scoped()
                || candidate.id.effective_namespace() == from.id.effective_namespace()
                || others.contains(&candidate.id.namespace)
        };
        // What has kept its names needs none to follow.
        let candidates: Vec<&Candidate> = all.iter().filter(|c| !c.former.is_empty()).filter(reach).collect();
        if candidates.is_empty() {
            continue;
        }
        for referred in table {
            for spec in referred.by.iter().filter(|spec| first.is_selected(&spec.gvk)) {
                let role = role_of(resource, spec);
                let reference = Reference { from, to: &referred.gvk, candidates: &candidates, role };
                let spec = FieldSpec { path: spec.path.clone(), ..FieldSpec::default() };
                let updated = spec.visit(resource, Make::Nothing, &mut |value| reference.update(value));
                updated
                    .map_err(|why| format!("updating name reference in '{}' field of '{}': {why}", spec.path, from.id))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_list_is_the_end_of_the_longer() {
        let list = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
        assert!(same_end(&list(&["a", "b"]), &list(&["b"])) && same_end(&[], &[]));
        assert!(!same_end(&list(&["a"]), &[]) && !same_end(&list(&["a", "b"]), &list(&["a"])));
    }
}
