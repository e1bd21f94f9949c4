//! Which kinds the API server serves, for the controllers that care about all of them.

use client::{Error, Step};
use kube::{
    Client,
    client::{APIGroupDiscovery, APIGroupDiscoveryList},
    core::ApiResource,
};

/// A served kind, at its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Group, version, kind and plural.
    pub api: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    verbs: Vec<String>,
}

impl Resource {
    /// Whether all of these verbs are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

/// Asks for all kinds (two requests). Of several versions of a kind the preferred one counts.
pub async fn resources(client: &Client) -> Result<Vec<Resource>, Error> {
    let (core, groups) =
        futures::future::join(client.list_core_api_versions_aggregated(), client.list_api_groups_aggregated()).await;
    let (core, groups) = (core.step("discovering the core kinds")?, groups.step("discovering the kinds of all groups")?);
    Ok(flatten(core).chain(flatten(groups)).collect())
}

fn flatten(list: APIGroupDiscoveryList) -> impl Iterator<Item = Resource> {
    list.items.into_iter().flat_map(preferred)
}

fn preferred(group: APIGroupDiscovery) -> Vec<Resource> {
    let name = group.metadata.and_then(|m| m.name).unwrap_or_default();
    let mut found: Vec<Resource> = Vec::new();
    for version in group.versions {
        let number = version.version.unwrap_or_default();
        for resource in version.resources {
            let plural = resource.resource.unwrap_or_default();
            if found.iter().any(|r| r.api.plural == plural) {
                continue;
            }
            let kind = resource
                .response_kind
                .and_then(|k| serde_json::to_value(k).ok())
                .and_then(|k| Some(k.get("kind")?.as_str()?.to_owned()));
            let api_version = if name.is_empty() { number.clone() } else { format!("{name}/{number}") };
            let api = ApiResource {
                group: name.clone(),
                version: number.clone(),
                api_version,
                kind: kind.unwrap_or_default(),
                plural,
            };
            found.push(Resource { api, namespaced: resource.scope.as_deref() == Some("Namespaced"), verbs: resource.verbs });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_preferred_version_of_each_kind() {
        let resource = |plural, kind, verbs: &[&str]| json!({"resource": plural, "scope": "Namespaced", "verbs": verbs, "responseKind": {"group": "g", "version": "v", "kind": kind}});
        let list = json!({"items": [{"metadata": {"name": "g"}, "versions": [
            {"version": "v1", "resources": [resource("as", "A", &["list", "watch"])]},
            {"version": "v1beta1", "resources": [resource("as", "A", &["list"]), resource("bs", "B", &["get"])]}]}]});
        let found: Vec<_> = flatten(serde_json::from_value(list).expect("a list")).collect();
        let told: Vec<_> = found
            .iter()
            .map(|r| (r.api.api_version.as_str(), r.api.kind.as_str(), r.namespaced, r.can(&["list", "watch"])))
            .collect();
        assert_eq!(told, [("g/v1", "A", true, true), ("g/v1beta1", "B", true, false)]);
    }
}
