//! kubeconfig files: read, merged, and what they say about one connection.
//!
//! Entries are kept as JSON maps and remember the file they came from: `kubectl config` changes them where they are.

mod types;
pub mod usable;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    cli::Globals,
    client::log,
    failure::{Failure, file_error, plain},
};

/// One cluster, user or context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Its fields as in the file.
    pub fields: Map<String, Value>,
    /// The file it came from.
    pub origin: PathBuf,
}

impl Entry {
    /// A text field, empty if it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// A boolean field.
    pub fn flag(&self, name: &str) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A file named by a field, seen from the directory of the kubeconfig.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        match self.text(name) {
            "" => None,
            path => Some(self.origin.parent().unwrap_or(Path::new("")).join(path)),
        }
    }

    /// What `NAME-data` (base64) or else the file at `NAME` holds.
    ///
    /// # Errors
    /// If neither can be read though one is named.
    pub fn data(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let encoded = self.text(&format!("{name}-data"));
        if !encoded.is_empty() {
            return crate::failure::from_base64(encoded).map(Some).map_err(plain);
        }
        match self.path(name) {
            None => Ok(None),
            Some(path) => std::fs::read(&path).map(Some).map_err(|e| unreadable(&path, &e)),
        }
    }
}

/// Go opens a file before it finds that it is a directory.
fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let step = if error.kind() == std::io::ErrorKind::IsADirectory { "read" } else { "open" };
    file_error(step, path.display(), error)
}

/// The entries of one kind by name.
pub type Entries = BTreeMap<String, Entry>;

/// One or several merged kubeconfigs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kubeconfig {
    /// `clusters`.
    pub clusters: Entries,
    /// `users`.
    pub users: Entries,
    /// `contexts`.
    pub contexts: Entries,
    /// `current-context`.
    pub current_context: String,
    /// `preferences`.
    pub preferences: Map<String, Value>,
    /// `extensions`, as in the file.
    pub extensions: Option<Value>,
    /// The file that said what the current context is.
    pub current_origin: PathBuf,
}

/// The extension of a cluster that names all of its servers: `{"servers": ["https://192.0.2.1:6443", ...]}`. What is not ours
/// keeps it and goes by `server` alone.
pub const SERVERS: &str = "knarr.io/servers";

/// The servers that a cluster's extension names.
pub fn servers(cluster: &Entry) -> Vec<&str> {
    let extensions = cluster.fields.get("extensions").and_then(Value::as_array).into_iter().flatten();
    let ours = extensions.filter(|extension| extension["name"] == SERVERS);
    let servers = ours.filter_map(|extension| extension["extension"]["servers"].as_array()).flatten();
    servers.filter_map(Value::as_str).collect()
}

const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];

impl Kubeconfig {
    fn entries_mut(&mut self, list: &str) -> &mut Entries {
        match list {
            "clusters" => &mut self.clusters,
            "users" => &mut self.users,
            _ => &mut self.contexts,
        }
    }

    fn entries(&self, list: &str) -> &Entries {
        match list {
            "clusters" => &self.clusters,
            "users" => &self.users,
            _ => &self.contexts,
        }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// If it is no YAML or no kubeconfig.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, String> {
        let Some(mut value) = api::schema::yaml::documents(text)?.into_iter().next() else { return Ok(Self::default()) };
        types::check(&mut value)?;
        let mut config = Self { current_origin: origin.to_owned(), ..Self::default() };
        for (list, item) in LISTS {
            for named in value.get(list).and_then(Value::as_array).into_iter().flatten() {
                let name = named.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                let fields = named.get(item).and_then(Value::as_object).cloned().unwrap_or_default();
                config.entries_mut(list).insert(name, Entry { fields, origin: origin.to_owned() });
            }
        }
        config.current_context = value.get("current-context").and_then(Value::as_str).unwrap_or_default().to_owned();
        config.preferences = value.get("preferences").and_then(Value::as_object).cloned().unwrap_or_default();
        config.extensions = value.get("extensions").filter(|e| !e.is_null()).cloned();
        Ok(config)
    }

    /// Reads a file; one that is not there is `None`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(plain(format!(
                    "error loading config file \"{}\": {}",
                    path.display(),
                    unreadable(path, &error).message()
                )));
            }
        };
        log::loaded(&path.display().to_string());
        let config = Self::parse(&text, path);
        config.map(Some).map_err(|e| plain(format!("error loading config file \"{}\": {e}", path.display())))
    }

    /// What several files say together: the first one that names something wins.
    #[must_use]
    pub fn merged(files: Vec<Self>) -> Self {
        let mut all = Self::default();
        for file in files {
            for (list, _) in LISTS {
                for (name, entry) in file.entries(list).clone() {
                    all.entries_mut(list).entry(name).or_insert(entry);
                }
            }
            if all.current_context.is_empty() && !file.current_context.is_empty() {
                all.current_context = file.current_context;
                all.current_origin = file.current_origin;
            }
            for (name, value) in file.preferences {
                all.preferences.entry(name).or_insert(value);
            }
            all.extensions = all.extensions.or(file.extensions);
        }
        all
    }

    /// The file's content as a value.
    pub fn to_value(&self) -> Value {
        let list = |list: &str, item: &str| -> Value {
            let entries = self.entries(list);
            if entries.is_empty() {
                return Value::Null;
            }
            entries.iter().map(|(name, entry)| json!({"name": name, item: complete(item, &entry.fields)})).collect()
        };
        let mut value = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "preferences": self.preferences,
            "current-context": self.current_context,
            "clusters": list("clusters", "cluster"),
            "users": list("users", "user"),
            "contexts": list("contexts", "context"),
        });
        if let (Some(extensions), Some(map)) = (&self.extensions, value.as_object_mut()) {
            map.insert("extensions".to_owned(), extensions.clone());
        }
        value
    }

    /// Whether nothing at all is configured.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty() && self.users.is_empty() && self.contexts.is_empty() && self.current_context.is_empty()
    }
}

/// An entry with the fields that upstream writes even if they are empty.
fn complete(item: &str, fields: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = fields.clone();
    let always: &[&str] = match item {
        "cluster" => &["server"],
        "context" => &["cluster", "user"],
        _ => &[],
    };
    for name in always {
        fields.entry(*name).or_insert_with(|| "".into());
    }
    if let Some(exec) = fields.get_mut("exec").and_then(Value::as_object_mut) {
        exec.entry("args").or_insert(Value::Null);
        exec.entry("env").or_insert(Value::Null);
        exec.entry("provideClusterInfo").or_insert(false.into());
    }
    fields
}

/// The user's home directory.
pub fn home() -> PathBuf {
    std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from).unwrap_or_default()
}

/// The files in question, and whether one was named on the command line.
pub fn paths(globals: &Globals) -> (Vec<PathBuf>, bool) {
    if let Some(path) = globals.kubeconfig.as_deref().filter(|p| !p.is_empty()) {
        return (vec![PathBuf::from(path)], true);
    }
    match std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
        Some(list) => {
            let mut paths: Vec<PathBuf> = Vec::new();
            for path in std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()) {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            (paths, false)
        }
        None => (vec![home().join(".kube/config")], false),
    }
}

/// Reads and merges the files in question.
///
/// # Errors
/// If one named on the command line is not there (and `lenient` is not set), or any cannot be read.
pub fn load(globals: &Globals, lenient: bool) -> Result<Kubeconfig, Failure> {
    let (paths, explicit) = paths(globals);
    let mut files = Vec::new();
    for path in &paths {
        match Kubeconfig::read(path)? {
            Some(file) => files.push(file),
            None if explicit && !lenient => {
                return Err(plain(format!("stat {}: no such file or directory", path.display())));
            }
            None => {}
        }
    }
    Ok(Kubeconfig::merged(files))
}

/// The parts of a configuration that one connection uses: names of files in them are seen from anywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// The context, empty if there is none.
    pub context: Entry,
    /// Its cluster.
    pub cluster: Entry,
    /// Its user.
    pub user: Entry,
    /// What the context is called in the kubeconfig.
    pub context_name: String,
    /// What the user is called in the kubeconfig.
    pub user_name: String,
    /// What the cluster is called in the kubeconfig.
    pub cluster_name: String,
    /// Which of the names are nobody's.
    pub strays: Strays,
    /// Whether the context's name was given on the command line.
    pub asked: bool,
}

impl Chosen {
    /// Whether nothing that was chosen or given counts for a connection in the open: upstream asks the cluster around it then, if
    /// there is one. Who one is, and a certificate's name and authority, count for nothing without TLS; as whom one acts does.
    pub fn names_nothing(&self) -> bool {
        let default = with_cluster_flags(Entry::default(), &Globals::default());
        let acts = ["as", "as-uid", "as-groups", "as-user-extra"].iter().any(|field| self.user.fields.contains_key(*field));
        self.cluster.text("server") == default.text("server") && self.cluster.text("proxy-url").is_empty() && !acts
    }
}

/// Names that nothing has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strays {
    /// The context's, given or current.
    pub context: bool,
    /// The user's, if it was given.
    pub user: bool,
    /// The cluster's, if it was given.
    pub cluster: bool,
}

/// Picks context, cluster and user as flags and the current context say; flags win over what is in them. A name that is
/// nobody's picks nothing: [`usable`] says so.
pub fn choose(config: &Kubeconfig, globals: &Globals) -> Chosen {
    let given = |flag: &Option<String>| flag.clone().filter(|f| !f.is_empty());
    let context_name = given(&globals.context).unwrap_or_else(|| config.current_context.clone());
    let context = config.contexts.get(&context_name).cloned();
    let named = |flag: &Option<String>, field: &str| {
        given(flag).unwrap_or_else(|| context.as_ref().map_or("", |context| context.text(field)).to_owned())
    };
    let (user_name, cluster_name) = (named(&globals.user, "user"), named(&globals.cluster, "cluster"));
    let user = config.users.get(&user_name).cloned();
    let cluster = config.clusters.get(&cluster_name).cloned();
    let strays = Strays {
        context: context.is_none() && !context_name.is_empty(),
        // What a context names may be missing.
        user: user.is_none() && given(&globals.user).is_some(),
        cluster: cluster.is_none() && given(&globals.cluster).is_some(),
    };
    let cluster = with_cluster_flags(resolved(cluster.unwrap_or_default()), globals);
    let user = with_user_flags(resolved(user.unwrap_or_default()), globals);
    let asked = given(&globals.context).is_some();
    Chosen { context: context.unwrap_or_default(), cluster, user, context_name, user_name, cluster_name, strays, asked }
}

/// The entry with its files named from the root.
fn resolved(mut entry: Entry) -> Entry {
    for name in ["certificate-authority", "client-certificate", "client-key", "tokenFile"] {
        if let Some(path) = entry.path(name) {
            let path = std::path::absolute(&path).unwrap_or(path);
            entry.fields.insert(name.to_owned(), path.display().to_string().into());
        }
    }
    if let Some(command) = entry.fields.get_mut("exec").and_then(|exec| exec.get_mut("command"))
        && let Some(text) = command.as_str().filter(|text| text.contains('/'))
    {
        let path = entry.origin.parent().unwrap_or(Path::new("")).join(text);
        *command = std::path::absolute(&path).unwrap_or(path).display().to_string().into();
    }
    entry.origin = PathBuf::new();
    entry
}

fn set(entry: &mut Entry, name: &str, value: impl Into<Value>) {
    entry.fields.insert(name.to_owned(), value.into());
}

fn with_cluster_flags(mut cluster: Entry, globals: &Globals) -> Entry {
    let given = |flag: &Option<String>| flag.clone().filter(|f| !f.is_empty());
    let authority = given(&globals.certificate_authority);
    if globals.insecure_skip_tls_verify || authority.is_some() {
        set(&mut cluster, "insecure-skip-tls-verify", globals.insecure_skip_tls_verify);
        set(&mut cluster, "certificate-authority", authority.unwrap_or_default());
        cluster.fields.remove("certificate-authority-data");
    }
    let (server, name) = (given(&globals.server), given(&globals.tls_server_name));
    // Another server has another name.
    if server.is_some() || name.is_some() {
        set(&mut cluster, "tls-server-name", name.unwrap_or_default());
    }
    if let Some(server) = server {
        set(&mut cluster, "server", server);
        // Who names one wants that one.
        cluster.fields.remove("extensions");
    }
    if cluster.text("server").is_empty() {
        let master = std::env::var("KUBERNETES_MASTER").ok().filter(|master| !master.is_empty());
        set(&mut cluster, "server", master.unwrap_or_else(|| "http://localhost:8080".to_owned()));
    }
    cluster
}

fn with_user_flags(mut user: Entry, globals: &Globals) -> Entry {
    for (name, flag, other) in [
        ("token", &globals.token, "tokenFile"),
        ("client-certificate", &globals.client_certificate, ""),
        ("client-key", &globals.client_key, ""),
        ("username", &globals.username, ""),
        ("password", &globals.password, ""),
        ("as", &globals.impersonate, ""),
        ("as-uid", &globals.impersonate_uid, ""),
    ] {
        if let Some(value) = flag.as_deref().filter(|value| !value.is_empty()) {
            set(&mut user, name, value);
            user.fields.remove(other);
        }
    }
    if !globals.impersonate_groups.is_empty() {
        set(&mut user, "as-groups", globals.impersonate_groups.clone());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: c\n  cluster: {server: 'https://one:6443', certificate-authority: ca.crt}\ncontexts:\n- name: a\n  context: {cluster: c, user: u, namespace: ns}\nusers:\n- name: u\n  user: {token: t}\n";
    const TWO: &str = "current-context: b\nclusters:\n- name: c\n  cluster: {server: 'https://two'}\n- name: d\n  cluster: {server: 'https://d'}\n";

    #[test]
    fn a_cluster_names_more_servers_unless_one_is_asked_for() {
        let text = "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: \
                    'https://one', extensions: [{name: x, extension: {servers: ['https://x']}}, {name: knarr.io/servers, \
                    extension: {servers: ['https://one', 'https://two:6443']}}]}}]\n";
        let config = Kubeconfig::parse(text, Path::new("/x/one")).unwrap();
        let asked = Globals { server: Some("https://three".to_owned()), ..Globals::default() };
        let [usual, asked] = [Globals::default(), asked].map(|globals| choose(&config, &globals).cluster);
        assert_eq!((servers(&usual), servers(&asked)), (vec!["https://one", "https://two:6443"], vec![]));
        let others = crate::server::others(&crate::server::parse(usual.text("server")).unwrap(), &servers(&usual));
        assert_eq!(others, [("two".to_owned(), 6443)]);
    }

    #[test]
    fn a_pod_asks_its_own_cluster_unless_something_is_named() {
        let text = |value: &str| Some(value.to_owned());
        let asks = |globals: Globals| choose(&Kubeconfig::default(), &globals).names_nothing();
        assert!(asks(Globals::default()));
        assert!(asks(Globals { token: text("t"), certificate_authority: text("/ca"), ..Globals::default() }));
        assert!(!asks(Globals { server: text("https://one"), ..Globals::default() }));
        // It would not act as who is named.
        assert!(!asks(Globals { impersonate: text("joe"), ..Globals::default() }));
        let one = Kubeconfig::parse(ONE, Path::new("/x/one")).unwrap();
        assert!(!choose(&one, &Globals::default()).names_nothing());
    }

    #[test]
    fn the_first_file_wins() {
        let files =
            vec![Kubeconfig::parse(ONE, Path::new("/x/one")).unwrap(), Kubeconfig::parse(TWO, Path::new("/y/two")).unwrap()];
        let merged = Kubeconfig::merged(files);
        assert_eq!(merged.current_context, "a");
        assert_eq!(merged.clusters["c"].text("server"), "https://one:6443");
        assert_eq!(merged.clusters["d"].text("server"), "https://d");
        assert_eq!(merged.clusters["c"].path("certificate-authority"), Some(PathBuf::from("/x/ca.crt")));
        let chosen = choose(&merged, &Globals::default());
        assert_eq!((chosen.context.text("namespace"), chosen.user.text("token")), ("ns", "t"));
        let globals = Globals { context: Some("zz".to_owned()), ..Globals::default() };
        let chosen = choose(&merged, &globals);
        assert_eq!(chosen.strays, Strays { context: true, ..Strays::default() });
    }
}
