//! Discovery documents: what groups, versions and resources are served, in the legacy and the aggregated form.
//!
//! Every function takes the served kinds and returns the body as upstream's encoder writes it, newline included.

use base64::Engine;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    kind::{KindInfo, Subresource},
    meta::api_version,
};

/// Groups in upstream's order of priority; unknown ones follow by name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "resource.k8s.io",
    "storagemigration.k8s.io",
];

/// The path segment of a subresource.
pub fn subresource_name(subresource: Subresource) -> &'static str {
    match subresource {
        Subresource::Status => "status",
        Subresource::Scale => "scale",
        Subresource::Binding => "binding",
        Subresource::Eviction => "eviction",
        Subresource::EphemeralContainers => "ephemeralcontainers",
        Subresource::Resize => "resize",
        Subresource::Log => "log",
        Subresource::Exec => "exec",
        Subresource::Attach => "attach",
        Subresource::PortForward => "portforward",
        Subresource::Proxy => "proxy",
        Subresource::Finalize => "finalize",
        Subresource::Token => "token",
        Subresource::Approval => "approval",
    }
}

/// The verbs of a subresource, sorted.
pub fn subresource_verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Status
        | Subresource::Scale
        | Subresource::EphemeralContainers
        | Subresource::Resize
        | Subresource::Approval => &["get", "patch", "update"],
        Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
        Subresource::Log => &["get"],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
        Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
        Subresource::Finalize => &["update"],
    }
}

/// The kind a subresource speaks, as (group, version, kind), where it is another than its parent's.
pub fn subresource_kind(info: &KindInfo, subresource: Subresource) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match subresource {
        Subresource::Scale => ("autoscaling", "v1", "Scale"),
        Subresource::Eviction => ("policy", "v1", "Eviction"),
        Subresource::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
        Subresource::Binding => ("", "v1", "Binding"),
        Subresource::Exec => ("", "v1", "PodExecOptions"),
        Subresource::Attach => ("", "v1", "PodAttachOptions"),
        Subresource::PortForward => ("", "v1", "PodPortForwardOptions"),
        Subresource::Proxy => match info.kind {
            "Service" => ("", "v1", "ServiceProxyOptions"),
            "Node" => ("", "v1", "NodeProxyOptions"),
            _ => ("", "v1", "PodProxyOptions"),
        },
        _ => return None,
    })
}

/// Upstream's hash of the kind objects are stored as.
pub fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// A version's rank: `v2` before `v1` before `v1beta2` before `v1alpha1`, others last.
fn version_rank(version: &str) -> (u8, i64, i64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let major: i64 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (0, "0"),
            tail => tail.strip_prefix("beta").map(|m| (1, m)).or_else(|| Some((2, tail.strip_prefix("alpha")?)))?,
        };
        Some((stage, -major, -minor.parse::<i64>().ok()?))
    };
    parse().unwrap_or((3, 0, 0))
}

/// Orders two versions of a group, the preferred first.
pub fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    version_rank(a).cmp(&version_rank(b)).then_with(|| a.cmp(b))
}

/// The served groups and their versions, both in order of preference.
pub fn group_versions<'a>(kinds: &[&'a KindInfo]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for info in kinds {
        match groups.iter_mut().find(|(group, _)| *group == info.group) {
            Some((_, versions)) if versions.contains(&info.version) => {}
            Some((_, versions)) => versions.push(info.version),
            None => groups.push((info.group, vec![info.version])),
        }
    }
    let rank = |group: &str| GROUP_ORDER.iter().position(|g| *g == group).unwrap_or(GROUP_ORDER.len());
    groups.sort_by(|a, b| rank(a.0).cmp(&rank(b.0)).then_with(|| a.0.cmp(b.0)));
    for (_, versions) in &mut groups {
        versions.sort_by(|a, b| compare_versions(a, b));
    }
    groups
}

/// A body as upstream ends it.
fn body(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiVersions<'a> {
    kind: &'a str,
    versions: [&'a str; 1],
    #[serde(rename = "serverAddressByClientCIDRs")]
    addresses: [ServerAddress<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerAddress<'a> {
    #[serde(rename = "clientCIDR")]
    client_cidr: &'a str,
    server_address: &'a str,
}

/// `/api`: the core group's versions and where the server is (`10.0.0.1:6443`).
pub fn api_versions(server_address: &str) -> Vec<u8> {
    body(&ApiVersions {
        kind: "APIVersions",
        versions: ["v1"],
        addresses: [ServerAddress { client_cidr: "0.0.0.0/0", server_address }],
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version<'a> {
    group_version: String,
    version: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'a str>,
    name: &'a str,
    versions: Vec<Version<'a>>,
    preferred_version: Version<'a>,
}

fn group<'a>(name: &'a str, versions: &[&'a str], typed: bool) -> Group<'a> {
    let version = |v: &&'a str| Version { group_version: api_version(name, v), version: v };
    Group {
        kind: typed.then_some("APIGroup"),
        api_version: typed.then_some("v1"),
        name,
        versions: versions.iter().map(version).collect(),
        preferred_version: version(versions.first().unwrap_or(&"")),
    }
}

/// `/apis`: every group but the core one.
pub fn api_group_list(kinds: &[&KindInfo]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        kind: &'a str,
        api_version: &'a str,
        groups: Vec<Group<'a>>,
    }
    let groups = group_versions(kinds);
    let groups = groups.iter().filter(|(name, _)| !name.is_empty()).map(|(name, versions)| group(name, versions, false));
    body(&List { kind: "APIGroupList", api_version: "v1", groups: groups.collect() })
}

/// `/apis/GROUP`, or `None` if the group is not served.
pub fn api_group(kinds: &[&KindInfo], name: &str) -> Option<Vec<u8>> {
    let groups = group_versions(kinds);
    let (name, versions) = groups.iter().find(|(group, _)| *group == name)?;
    Some(body(&group(name, versions, true)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    name: String,
    singular_name: &'a str,
    namespaced: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    kind: &'a str,
    verbs: &'a [&'a str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'a [&'a str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'a [&'a str],
    #[serde(skip_serializing_if = "String::is_empty")]
    storage_version_hash: String,
}

/// `/api/v1` or `/apis/GROUP/VERSION`, or `None` if that is not served.
pub fn api_resource_list(kinds: &[&KindInfo], group: &str, version: &str) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        kind: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        api_version: &'a str,
        group_version: String,
        resources: Vec<Resource<'a>>,
    }
    let mut resources = Vec::new();
    for info in kinds.iter().filter(|k| k.group == group && k.version == version) {
        // Kinds that are only created (reviews) are not stored and have no hash.
        let stored = info.verbs.contains(&"get") && info.verbs.contains(&"create");
        resources.push(Resource {
            name: info.plural.to_owned(),
            singular_name: info.singular,
            namespaced: info.namespaced,
            group: "",
            version: "",
            kind: info.kind,
            verbs: info.verbs,
            short_names: info.short_names,
            categories: info.categories,
            storage_version_hash: if stored { storage_version_hash(group, version, info.kind) } else { String::new() },
        });
        for subresource in info.subresources {
            let (sub_group, sub_version, kind) = subresource_kind(info, *subresource).unwrap_or(("", "", info.kind));
            let foreign = (sub_group, sub_version) != (info.group, info.version);
            resources.push(Resource {
                name: format!("{}/{}", info.plural, subresource_name(*subresource)),
                singular_name: "",
                namespaced: info.namespaced,
                group: if foreign { sub_group } else { "" },
                version: if foreign { sub_version } else { "" },
                kind,
                verbs: subresource_verbs(*subresource),
                short_names: &[],
                categories: &[],
                storage_version_hash: String::new(),
            });
        }
    }
    if resources.is_empty() {
        return None;
    }
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    // Upstream writes no apiVersion for the core group's list.
    let api = if group.is_empty() { "" } else { "v1" };
    Some(body(&List { kind: "APIResourceList", api_version: api, group_version: api_version(group, version), resources }))
}

/// The versions of the aggregated document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

impl Aggregated {
    /// From an `Accept` header: the form asked for, if any of it is (`...;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`),
    /// and whether in YAML.
    pub fn from_accept(header: &str) -> Option<(Self, bool)> {
        header.split(',').find_map(|media| {
            let mut parts = media.split(';').map(str::trim);
            let kind = parts.next()?;
            let yaml = kind == "application/yaml";
            let known = yaml || matches!(kind, "application/json" | "application/*" | "*/*");
            let parts: Vec<&str> = parts.collect();
            let has = |p: &str| parts.contains(&p);
            let wanted = known && has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList");
            match wanted {
                true if has("v=v2") => Some((Self::V2, yaml)),
                true if has("v=v2beta1") => Some((Self::V2Beta1, yaml)),
                _ => None,
            }
        })
    }

    /// The group and version.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }

    /// The answer's media type.
    pub fn content_type(self, yaml: bool) -> &'static str {
        match (self, yaml) {
            (Self::V2, false) => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            (Self::V2, true) => "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            (Self::V2Beta1, false) => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            (Self::V2Beta1, true) => "application/yaml;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

#[derive(Serialize)]
struct GroupVersionKind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubresourceDiscovery<'a> {
    subresource: &'a str,
    response_kind: GroupVersionKind<'a>,
    verbs: &'a [&'a str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceDiscovery<'a> {
    resource: &'a str,
    response_kind: GroupVersionKind<'a>,
    scope: &'a str,
    singular_resource: &'a str,
    verbs: &'a [&'a str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    short_names: &'a [&'a str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    categories: &'a [&'a str],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<SubresourceDiscovery<'a>>,
}

#[derive(Serialize)]
struct VersionDiscovery<'a> {
    version: &'a str,
    resources: Vec<ResourceDiscovery<'a>>,
    freshness: &'a str,
}

#[derive(Serialize)]
struct Named<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
}

#[derive(Serialize)]
struct GroupDiscovery<'a> {
    metadata: Named<'a>,
    versions: Vec<VersionDiscovery<'a>>,
}

/// The aggregated document: of the core group (`/api`), or of all others (`/apis`).
pub fn aggregated(kinds: &[&KindInfo], form: Aggregated, core: bool) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        kind: &'a str,
        api_version: &'a str,
        metadata: Named<'a>,
        items: Vec<GroupDiscovery<'a>>,
    }
    let items = group_versions(kinds).into_iter().filter(|(group, _)| group.is_empty() == core);
    let items = items.map(|(group, versions)| GroupDiscovery {
        metadata: Named { name: group },
        versions: versions.into_iter().map(|version| version_discovery(kinds, group, version)).collect(),
    });
    body(&List {
        kind: "APIGroupDiscoveryList",
        api_version: form.api_version(),
        metadata: Named { name: "" },
        items: items.collect(),
    })
}

fn version_discovery<'a>(kinds: &[&'a KindInfo], group: &str, version: &'a str) -> VersionDiscovery<'a> {
    let mut served: Vec<&KindInfo> = kinds.iter().copied().filter(|k| k.group == group && k.version == version).collect();
    served.sort_by_key(|k| k.plural);
    let resource = |info: &'a KindInfo| {
        let mut subresources: Vec<SubresourceDiscovery<'a>> = info
            .subresources
            .iter()
            .map(|s| {
                let (group, version, kind) = subresource_kind(info, *s).unwrap_or(("", "", info.kind));
                let response_kind = GroupVersionKind { group, version, kind };
                SubresourceDiscovery { subresource: subresource_name(*s), response_kind, verbs: subresource_verbs(*s) }
            })
            .collect();
        subresources.sort_by_key(|s| s.subresource);
        ResourceDiscovery {
            resource: info.plural,
            response_kind: GroupVersionKind { group: "", version: "", kind: info.kind },
            scope: if info.namespaced { "Namespaced" } else { "Cluster" },
            singular_resource: info.singular,
            verbs: info.verbs,
            short_names: info.short_names,
            categories: info.categories,
            subresources,
        }
    };
    VersionDiscovery { version, resources: served.into_iter().map(resource).collect(), freshness: "Current" }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn kinds() -> Vec<KindInfo> {
        crate::kinds::all().into_iter().map(|k| k.info).collect()
    }

    #[test]
    fn hashes_are_upstreams() {
        assert_eq!(storage_version_hash("", "v1", "ConfigMap"), "qFsyl6wFWjQ=");
        assert_eq!(storage_version_hash("", "v1", "Node"), "XwShjMxG9Fs=");
    }

    #[test]
    fn versions_by_maturity() {
        let mut versions = ["v1alpha1", "v1", "foo", "v2", "v1beta2", "v1beta10", "v11"];
        versions.sort_by(|a, b| compare_versions(a, b));
        assert_eq!(versions, ["v11", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }

    #[test]
    fn legacy_bytes_are_upstreams() {
        let kinds = kinds();
        let kinds: Vec<&KindInfo> = kinds.iter().collect();
        let text = String::from_utf8(api_resource_list(&kinds, "apps", "v1").unwrap()).unwrap();
        assert!(
            text.contains(r#"{"name":"deployments","singularName":"deployment","namespaced":true,"kind":"Deployment","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["deploy"],"categories":["all"],"storageVersionHash":"8aSe+NMegvE="},{"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","patch","update"]}"#),
            "{text}"
        );
        assert!(text.starts_with(r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":["#));
        let groups: Value = serde_json::from_slice(&api_group_list(&kinds)).unwrap();
        assert_eq!(groups["groups"][0]["name"], "apps");
        assert_eq!(groups["groups"][1]["name"], "events.k8s.io");
    }

    #[test]
    fn aggregated_lists_subresources() {
        let kinds = kinds();
        let kinds: Vec<&KindInfo> = kinds.iter().collect();
        let document: Value = serde_json::from_slice(&aggregated(&kinds, Aggregated::V2, true)).unwrap();
        assert_eq!(document["apiVersion"], "apidiscovery.k8s.io/v2");
        let resources = document["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let pods = resources.iter().find(|r| r["resource"] == "pods").unwrap();
        let eviction = pods["subresources"].as_array().unwrap().iter().find(|s| s["subresource"] == "eviction").unwrap();
        assert_eq!(eviction["responseKind"]["group"], "policy");
    }

    #[test]
    fn accept_headers() {
        let header = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(Aggregated::from_accept(header), Some((Aggregated::V2, false)));
        let yaml = "application/yaml;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!(Aggregated::from_accept(yaml), Some((Aggregated::V2, true)));
        assert_eq!(Aggregated::from_accept("application/json"), None);
    }
}
