//! The server's kinds: aggregated discovery, kept on disk for six hours, and names resolved to kinds.
//!
//! The cache is beside upstream's under `~/.kube/cache/discovery/HOST` in a file and form of our own: one small file is read
//! where upstream reads one a group. A name that is not found in what came from disk makes us ask the server again.
//!
//! Upstream asks a server that it cannot reach again for every way to read a name, and logs each time that it could not; we ask
//! once and log as often.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    client::{Answer, Call, Client, Warnings, escape, log},
    failure::Failure,
};

const FRESH: Duration = Duration::from_secs(6 * 3600);
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// A resource of a version of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mapping {
    /// `""` for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `pods`.
    pub resource: String,
    /// `pod`.
    pub singular: String,
    /// `Pod`.
    pub kind: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What can be done.
    pub verbs: Vec<String>,
    /// `["po"]`.
    pub short_names: Vec<String>,
    /// `["all"]`.
    pub categories: Vec<String>,
    /// `["status", "scale"]`.
    pub subresources: Vec<String>,
    /// Whether this is the group's preferred version.
    pub preferred: bool,
}

impl Mapping {
    /// A resource as it is most likely named, where no server is asked.
    pub fn guessed(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        let singular = kind.to_lowercase();
        let resource = match singular.as_str() {
            s if s.ends_with('s') || s.ends_with('x') => format!("{s}es"),
            s if s.ends_with('y') && !s.ends_with("ay") => format!("{}ies", s.trim_end_matches('y')),
            s => format!("{s}s"),
        };
        let cluster_wide =
            ["Namespace", "Node", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PriorityClass"];
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            resource,
            singular,
            kind: kind.to_owned(),
            namespaced: !cluster_wide.contains(&kind),
            preferred: true,
            ..Self::default()
        }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods`, `deployments.apps`.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// `pod`, `deployment.apps`: what stands before the slash in messages.
    pub fn type_name(&self) -> String {
        type_name(&self.group, &self.kind)
    }

    /// `deployment.apps/web`.
    pub fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.type_name())
    }

    /// The path of its group's version: `/api/v1`, `/apis/apps/v1`; without a version that of the group.
    pub fn version_path(&self) -> String {
        let mut path = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        if !self.version.is_empty() {
            path.push_str(&format!("/{}", self.version));
        }
        path
    }

    /// The path of the collection in a namespace (or everywhere), or of one object.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = self.version_path();
        if let Some(namespace) = namespace.filter(|n| self.namespaced && !n.is_empty()) {
            path.push_str(&format!("/namespaces/{}", escape(namespace, "")));
        }
        path.push_str(&format!("/{}", self.resource));
        if let Some(name) = name {
            path.push_str(&format!("/{}", escape(name, ":@$&+=!*'(),;")));
        }
        path
    }

    /// Whether a verb is served.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// `pod`, `deployment.apps`: a group and kind as messages name them.
pub fn type_name(group: &str, kind: &str) -> String {
    let kind = kind.to_lowercase();
    if group.is_empty() { kind } else { format!("{kind}.{group}") }
}

/// Splits `apps/v1` into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Everything the server has, groups and versions in its order of preference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Resources, without subresources.
    pub mappings: Vec<Arc<Mapping>>,
    /// `v1`, `apps/v1`: served versions, also those without resources.
    pub versions: Vec<String>,
}

impl Catalog {
    /// Reads aggregated documents, the core group's first.
    pub fn from_aggregated(documents: &[Value]) -> Self {
        let mut catalog = Self::default();
        for group in documents.iter().filter_map(|d| d["items"].as_array()).flatten() {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for (at, version) in group["versions"].as_array().into_iter().flatten().enumerate() {
                let label = version["version"].as_str().unwrap_or_default();
                catalog.versions.push(if name.is_empty() { label.to_owned() } else { format!("{name}/{label}") });
                for resource in version["resources"].as_array().into_iter().flatten() {
                    catalog.mappings.push(Arc::new(aggregated(name, label, at == 0, resource)));
                }
            }
        }
        catalog
    }

    /// Reads legacy lists: (group, version, preferred, list).
    pub fn from_legacy(lists: &[(String, String, bool, Value)]) -> Self {
        let mut catalog = Self::default();
        for (group, version, preferred, list) in lists {
            catalog.versions.push(if group.is_empty() { version.clone() } else { format!("{group}/{version}") });
            let resources = || list["resources"].as_array().into_iter().flatten();
            for resource in resources() {
                let name = resource["name"].as_str().unwrap_or_default();
                if name.contains('/') {
                    continue;
                }
                let prefix = format!("{name}/");
                let subresources =
                    resources().filter_map(|r| r["name"].as_str()?.strip_prefix(&prefix)).map(str::to_owned).collect();
                catalog.mappings.push(Arc::new(Mapping {
                    group: group.clone(),
                    version: version.clone(),
                    resource: name.to_owned(),
                    singular: resource["singularName"].as_str().unwrap_or_default().to_owned(),
                    kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
                    namespaced: resource["namespaced"].as_bool().unwrap_or_default(),
                    verbs: texts(&resource["verbs"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    subresources,
                    preferred: *preferred,
                }));
            }
        }
        catalog
    }

    fn full_name(&self, group: &str, name: &str) -> bool {
        self.mappings.iter().any(|m| (group.is_empty() || m.group == group) && (m.resource == name || m.singular == name))
    }

    /// What a short name stands for: resource and group. Full names stand for themselves.
    fn expand<'a>(&'a self, group: &'a str, name: &'a str) -> (&'a str, &'a str) {
        if self.full_name(group, name) {
            return (group, name);
        }
        let short = |fits: &dyn Fn(&Mapping) -> bool| {
            self.mappings.iter().find(|m| fits(m) && m.short_names.iter().any(|s| s == name))
        };
        let found = short(&|m| group.is_empty() || m.group == group)
            .or_else(|| if group.is_empty() { None } else { short(&|m| m.group.starts_with(group)) });
        found.map_or((group, name), |m| (m.group.as_str(), m.resource.as_str()))
    }

    /// Other resources that a short name could stand for than the one that was found.
    fn overshadowed(&self, name: &str, found: &Mapping) -> Vec<String> {
        let mut others = Vec::new();
        if self.full_name("", name) {
            return others;
        }
        for other in self.mappings.iter().filter(|m| m.short_names.iter().any(|short| short == name)) {
            let (other, found) = (other.group_resource(), found.group_resource());
            if other != found && !others.contains(&other) {
                others.push(other);
            }
        }
        others
    }

    /// A resource by group (its beginning suffices), version (empty for the preferred one) and name.
    pub fn resource(&self, group: &str, version: &str, name: &str) -> Option<&Arc<Mapping>> {
        let (group, name) = self.expand(group, name);
        let name = name.to_lowercase();
        let named = |m: &&Arc<Mapping>| {
            m.resource == name || m.singular == name || (m.singular.is_empty() && m.kind.to_lowercase() == name)
        };
        let pick = |fits: &dyn Fn(&Mapping) -> bool| {
            let mut all = self.mappings.iter().filter(named).filter(|m| fits(m));
            if version.is_empty() {
                let all: Vec<_> = all.collect();
                all.iter().find(|m| m.preferred).or(all.first()).copied()
            } else {
                all.find(|m| m.version == version)
            }
        };
        pick(&|m| group.is_empty() || m.group == group)
            .or_else(|| pick(&|m| !group.is_empty() && m.group.starts_with(group)))
    }

    /// A kind; without a version, or if the version is not there and `strict` is not set, its preferred one.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Mapping>> {
        let all = || self.mappings.iter().filter(|m| m.group == group && m.kind == kind);
        if version.is_empty() {
            all().find(|m| m.preferred).or_else(|| all().next())
        } else {
            all().find(|m| m.version == version)
        }
    }

    /// The kind of lists: `List` in every version, `PodList` where there are pods. Upstream guesses what their resource would be
    /// called, and so finds none behind it.
    fn list(&self, group: &str, version: &str, kind: &str) -> Option<Mapping> {
        let of = kind.strip_suffix("List").filter(|_| !version.is_empty())?;
        let namespaced = match of {
            "" => self.mappings.iter().any(|m| m.group == group && m.version == version).then_some(false)?,
            of => self.kind(group, version, of)?.namespaced,
        };
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Some(Mapping { namespaced, ..Mapping::guessed(&api_version, kind) })
    }

    /// What an argument names: `po`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub fn argument(&self, argument: &str) -> Option<&Arc<Mapping>> {
        let parts: Vec<&str> = argument.splitn(3, '.').collect();
        if let [name, version, group] = parts.as_slice()
            && let Some(found) = self.resource(group, version, name)
        {
            return Some(found);
        }
        let (name, group) = argument.split_once('.').unwrap_or((argument, ""));
        if let Some(found) = self.resource(group, "", name) {
            return Some(found);
        }
        if let [kind, version, group] = parts.as_slice()
            && let Some(found) = self.kind(group, version, kind)
        {
            return Some(found);
        }
        self.kind(group, "", name)
    }

    /// The resources of a category (`all`), in the preferred versions.
    pub fn category(&self, category: &str) -> Vec<Arc<Mapping>> {
        self.mappings.iter().filter(|m| m.preferred && m.categories.iter().any(|c| c == category)).cloned().collect()
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn aggregated(group: &str, version: &str, preferred: bool, resource: &Value) -> Mapping {
    let text = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
    let subresources = resource["subresources"].as_array().into_iter().flatten();
    Mapping {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: text("resource"),
        singular: text("singularResource"),
        kind: resource["responseKind"]["kind"].as_str().unwrap_or_default().to_owned(),
        namespaced: resource["scope"] == "Namespaced",
        verbs: texts(&resource["verbs"]),
        short_names: texts(&resource["shortNames"]),
        categories: texts(&resource["categories"]),
        subresources: subresources.filter_map(|s| s["subresource"].as_str()).map(str::to_owned).collect(),
        preferred,
    }
}

/// So often upstream asks when it looks whether what it knows is out of date.
const AGAIN: usize = 3;

struct State {
    catalog: Arc<Catalog>,
    from_disk: bool,
}

/// The server's kinds, asked for when needed.
pub struct Discovery {
    client: Client,
    file: PathBuf,
    state: Mutex<Option<State>>,
    failure: OnceLock<Failure>,
    warnings: Warnings,
}

impl Discovery {
    /// Nothing is read yet. `cache` is the cache's directory.
    pub fn new(client: Client, cache: PathBuf) -> Self {
        let endpoint = client.endpoint();
        let host: String = format!("{}{}", endpoint.authority, endpoint.prefix)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "_/.()".contains(c) { c } else { '_' })
            .collect();
        let mut file = cache;
        file.extend(["discovery", &host, "knarr.json"]);
        Self { client, file, state: Mutex::new(None), failure: OnceLock::new(), warnings: Warnings::default() }
    }

    fn known(&self) -> Option<(Arc<Catalog>, bool)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_ref().map(|s| (s.catalog.clone(), s.from_disk))
    }

    fn remember(&self, catalog: Arc<Catalog>, from_disk: bool) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(State { catalog, from_disk });
    }

    /// The kinds, from disk if that is fresh.
    ///
    /// # Errors
    /// If the server must be asked and cannot be.
    pub async fn catalog(&self) -> Result<Arc<Catalog>, Failure> {
        self.tried(1).await
    }

    /// The kinds, where upstream would try so many times.
    async fn tried(&self, times: usize) -> Result<Arc<Catalog>, Failure> {
        if let Some((catalog, _)) = self.known() {
            return Ok(catalog);
        }
        if let Some(catalog) = read(&self.file) {
            let catalog = Arc::new(catalog);
            self.remember(catalog.clone(), true);
            return Ok(catalog);
        }
        self.ask(times).await
    }

    /// The kinds as the server has them now.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn refresh(&self) -> Result<Arc<Catalog>, Failure> {
        self.ask(1).await
    }

    async fn ask(&self, times: usize) -> Result<Arc<Catalog>, Failure> {
        self.client.matched().await?;
        let failure = match self.failure.get() {
            Some(failure) => failure.clone(),
            None => match self.fetch().await {
                Ok(catalog) => return Ok(catalog),
                Err(failure) => self.failure.get_or_init(|| failure.unread()).clone(),
            },
        };
        for _ in 0..times {
            log::unhandled("memcache.go:265", &format!("couldn't get current server API group list: {}", failure.message()));
        }
        Err(failure)
    }

    async fn fetch(&self) -> Result<Arc<Catalog>, Failure> {
        let ask = async |path: &str| match self.client.call(Call::get(path).accept(AGGREGATED).soon()).await {
            // Who may not see what there is finds nothing.
            Err(failure) if matches!(failure.reason(), "NotFound" | "Forbidden") => Ok(None),
            answer => answer.map(Some),
        };
        let answers = [ask("/api").await?, ask("/apis").await?];
        let aggregated =
            |answer: &Option<Answer>| answer.as_ref().is_none_or(|answer| answer.media().contains("APIGroupDiscoveryList"));
        let values = answers.iter().flatten().map(Answer::json).collect::<Result<Vec<_>, _>>()?;
        let catalog = match values.as_slice() {
            values if answers.iter().all(aggregated) => Catalog::from_aggregated(values),
            [core, groups] => self.legacy(core, groups).await?,
            [one] => self.legacy(one, one).await?,
            _ => Catalog::default(),
        };
        let catalog = Arc::new(catalog);
        write(&self.file, &catalog);
        self.remember(catalog.clone(), false);
        Ok(catalog)
    }

    async fn legacy(&self, core: &Value, groups: &Value) -> Result<Catalog, Failure> {
        let mut wanted: Vec<(String, String, bool)> = Vec::new();
        for (at, version) in texts(&core["versions"]).into_iter().enumerate() {
            wanted.push((String::new(), version, at == 0));
        }
        for group in groups["groups"].as_array().into_iter().flatten() {
            let preferred = &group["preferredVersion"]["version"];
            for version in group["versions"].as_array().into_iter().flatten() {
                let name = group["name"].as_str().unwrap_or_default().to_owned();
                let label = version["version"].as_str().unwrap_or_default().to_owned();
                wanted.push((name, label, version["version"] == *preferred));
            }
        }
        let lists = wanted.into_iter().map(|(group, version, preferred)| async move {
            let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            match self.client.json(Call::get(path).soon()).await {
                Ok(list) => Ok((group, version, preferred, list)),
                // One extension's server that is away must not hide all the others.
                Err(Failure::Status(_)) => Ok((group, version, preferred, Value::Null)),
                Err(error) => Err(error),
            }
        });
        Ok(Catalog::from_legacy(&futures::future::try_join_all(lists).await?))
    }

    /// Looks something up; if it is not there and what we know came from disk, asks the server and looks again.
    ///
    /// # Errors
    /// If the server must be asked and cannot be.
    pub async fn find<T>(&self, look: impl Fn(&Catalog) -> Option<T>) -> Result<Option<T>, Failure> {
        self.look(2, look).await
    }

    async fn look<T>(&self, times: usize, look: impl Fn(&Catalog) -> Option<T>) -> Result<Option<T>, Failure> {
        if let Some(found) = look(&*self.tried(times).await?) {
            return Ok(Some(found));
        }
        match self.known() {
            Some((_, true)) => {
                log::at(6, "discovery.go:214", "Invalidating discovery information");
                Ok(look(&*self.ask(AGAIN).await?))
            }
            _ => Ok(None),
        }
    }

    /// What an argument names: `po`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    ///
    /// # Errors
    /// `the server doesn't have a resource type`.
    pub async fn resolve(&self, argument: &str) -> Result<Arc<Mapping>, Failure> {
        // As a resource and as a kind, with a version and without; each is looked for twice.
        let times = if argument.matches('.').count() >= 2 { 6 } else { 4 };
        self.resolve_in(times, argument).await
    }

    /// The same for arguments that are resources and never kinds.
    ///
    /// # Errors
    /// As [`Discovery::resolve`].
    pub async fn resource(&self, argument: &str) -> Result<Arc<Mapping>, Failure> {
        self.resolve_in(2, argument).await
    }

    async fn resolve_in(&self, times: usize, argument: &str) -> Result<Arc<Mapping>, Failure> {
        let found = self.look(times, |catalog| catalog.argument(argument).cloned()).await?;
        let name = argument.split('.').next().unwrap_or_default();
        if let Some(found) = &found {
            self.warn_of(argument, found);
        }
        found.ok_or_else(|| Failure::NoResource(name.to_owned(), String::new(), String::new()))
    }

    /// Says what else a short name could have stood for.
    pub fn warn_of(&self, argument: &str, found: &Mapping) {
        for other in self.known().map(|(catalog, _)| catalog.overshadowed(argument, found)).unwrap_or_default() {
            let short = api::field::go_quote(argument);
            self.warnings.tell(&format!("short name {short} could also match lower priority resource {other}"));
        }
    }

    /// The resource of an object's `apiVersion` and `kind`.
    ///
    /// # Errors
    /// `no matches for kind`.
    pub async fn kind(&self, api_version: &str, kind: &str) -> Result<Arc<Mapping>, Failure> {
        let (group, version) = split_api_version(api_version);
        let look = |catalog: &Catalog| {
            catalog.kind(group, version, kind).cloned().or_else(|| catalog.list(group, version, kind).map(Arc::new))
        };
        let found = self.look(1, look).await?;
        found.ok_or_else(|| Failure::NoKind(group.to_owned(), kind.to_owned(), version.to_owned()))
    }
}

fn read(file: &Path) -> Option<Catalog> {
    let written = std::fs::metadata(file).ok()?.modified().ok()?;
    if SystemTime::now().duration_since(written).ok()? > FRESH {
        return None;
    }
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Whoever cannot write a cache goes without.
fn write(file: &Path, catalog: &Catalog) {
    let Some(directory) = file.parent() else { return };
    let Ok(bytes) = serde_json::to_vec(catalog) else { return };
    if std::fs::create_dir_all(directory).is_err() {
        return;
    }
    let temporary = directory.join(format!(".knarr.{}", std::process::id()));
    if std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, file)).is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn catalog() -> Catalog {
        let resource = |name: &str, singular: &str, kind: &str, short: &[&str]| {
            json!({"resource": name, "singularResource": singular, "responseKind": {"kind": kind}, "scope": "Namespaced",
                   "verbs": ["get"], "shortNames": short, "categories": ["all"]})
        };
        let group = |name: &str, version: &str, resources: Vec<Value>| json!({"metadata": {"name": name}, "versions": [{"version": version, "resources": resources}]});
        Catalog::from_aggregated(&[
            json!({"items": [group("", "v1", vec![resource("pods", "pod", "Pod", &["po"]), resource("events", "event", "Event", &["ev"])])]}),
            json!({"items": [
                group("apps", "v1", vec![resource("deployments", "deployment", "Deployment", &["deploy"])]),
                group("events.k8s.io", "v1", vec![resource("events", "event", "Event", &["ev"])]),
            ]}),
        ])
    }

    #[test]
    fn names_resolve_as_upstream_has_it() {
        let catalog = catalog();
        let found = |argument: &str| catalog.argument(argument).map(|m| m.path(Some("n"), None));
        for argument in ["po", "pod", "pods", "Pod", "PODS"] {
            assert_eq!(found(argument).as_deref(), Some("/api/v1/namespaces/n/pods"), "{argument}");
        }
        for argument in
            ["deploy", "deployments.apps", "deployment.v1.apps", "Deployment.apps", "deployments.app", "deploy.ap"]
        {
            assert_eq!(found(argument).as_deref(), Some("/apis/apps/v1/namespaces/n/deployments"), "{argument}");
        }
        assert_eq!(found("events").as_deref(), Some("/api/v1/namespaces/n/events"));
        assert_eq!(found("events.events.k8s.io").as_deref(), Some("/apis/events.k8s.io/v1/namespaces/n/events"));
        for argument in ["foo", "pods.apps", "deployments.v2.apps"] {
            assert_eq!(found(argument), None, "{argument}");
        }
    }

    #[test]
    fn short_names_may_be_shared() {
        let catalog = catalog();
        let others = |name: &str| catalog.overshadowed(name, catalog.argument(name).unwrap());
        assert_eq!(others("ev"), ["events.events.k8s.io"]);
        assert_eq!((others("events"), others("po")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn messages_name_kinds_with_their_group() {
        let mapping = catalog().argument("deploy").unwrap().named("web");
        assert_eq!(mapping, "deployment.apps/web");
    }
}
