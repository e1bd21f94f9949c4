//! Kubeconfigs that name every server of a cluster, and clients that turn to the next one when a server cannot be reached.
//!
//! A cluster's entry has room for one `server`. The others stand in an extension of ours beside it, which other programs keep and
//! go without:
//!
//! ```text
//!   server: https://127.0.0.1:6444
//!   extensions:
//!   - name: knarr.io/servers
//!     extension: {servers: ["https://192.0.2.1:6443", "https://192.0.2.2:6443"]}
//! ```
//!
//! A server keeps that list true in its own `admin.kubeconfig` while it runs, and touches nothing else in it; what it writes at its
//! start are the fields of its own entries.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    balance::Servers,
    compose::join::{self, host_and_port},
    local::{kubeconfig::edit, record::write_whole},
};

/// The extension's name; our kubectl knows it too.
const SERVERS: &str = "knarr.io/servers";
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("contexts", "context"), ("users", "user")];

/// The kubeconfig `text` with these servers (`HOST:PORT`) in it; as it is if they are no more than it names already.
pub fn naming(text: &str, servers: &[String]) -> Result<String> {
    let mut config = parse(text)?;
    let mut changed = false;
    for cluster in clusters(&mut config) {
        changed |= name_servers(cluster, servers);
    }
    if changed { Ok(serde_saphyr::to_string(&config)?) } else { Ok(text.to_owned()) }
}

fn parse(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).context("read a kubeconfig")
}

fn entries<'a>(config: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    config.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

fn clusters(config: &mut Value) -> impl Iterator<Item = &mut Value> {
    entries(config, "clusters").filter_map(|entry| entry.get_mut("cluster"))
}

/// Puts the servers into a cluster's extension. Whether that changed anything.
fn name_servers(cluster: &mut Value, servers: &[String]) -> bool {
    let urls: Vec<String> = servers.iter().map(|server| format!("https://{server}")).collect();
    let Some(fields) = cluster.as_object_mut() else { return false };
    let own = fields.get("server").and_then(Value::as_str).unwrap_or_default();
    let needed = urls.iter().any(|url| url != own);
    if urls.is_empty() {
        return false;
    }
    let before = fields.get("extensions").cloned().unwrap_or_default();
    let mut after = before.as_array().cloned().unwrap_or_default();
    let wanted = json!({"name": SERVERS, "extension": {"servers": urls}});
    match after.iter_mut().find(|extension| extension["name"] == SERVERS) {
        // What else is in there stays.
        Some(ours) if ours["extension"].is_object() => ours["extension"]["servers"] = wanted["extension"]["servers"].clone(),
        Some(ours) => *ours = wanted,
        None if needed => after.push(wanted),
        None => return false,
    }
    let after = Value::from(after);
    let changed = after != before;
    fields.insert("extensions".to_owned(), after);
    changed
}

/// A server's own kubeconfig: the file, and what it says as the server makes it.
pub struct Own {
    path: PathBuf,
    text: String,
}

impl Own {
    /// That file, with that text.
    pub fn new(path: PathBuf, text: String) -> Self {
        Self { path, text }
    }

    /// Writes it, with these servers: the fields of its entries go over those that are in the file, whatever else is there stays.
    pub fn write(&self, servers: &[String]) -> Result<()> {
        let there = fs::read_to_string(&self.path).ok().and_then(|text| parse(&text).ok());
        if !there.is_some_and(|there| there.is_object()) {
            return write_whole(&self.path, naming(&self.text, servers)?.as_bytes(), 0o600);
        }
        let ours = parse(&self.text)?;
        edit(&self.path, |found| {
            let mut new = overlaid(found.clone(), &ours);
            tell_of(&mut new, &ours, servers);
            Ok((new != found).then_some(new))
        })
    }

    /// Tells the file of these servers, if its cluster is still in it.
    pub fn tell(&self, servers: &[String]) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let ours = parse(&self.text)?;
        edit(&self.path, |mut found| Ok(tell_of(&mut found, &ours, servers).then_some(found)))
    }
}

/// Puts the servers into the clusters of `found` that have our authority. Whether that changed anything.
fn tell_of(found: &mut Value, ours: &Value, servers: &[String]) -> bool {
    let authority = ours.pointer("/clusters/0/cluster/certificate-authority-data");
    let mut changed = false;
    for cluster in clusters(found).filter(|cluster| cluster.get("certificate-authority-data") == authority) {
        changed |= name_servers(cluster, servers);
    }
    changed
}

/// Our entries' fields over those of the same entries in `found`.
fn overlaid(mut found: Value, ours: &Value) -> Value {
    for (list, item) in LISTS {
        if !found[list].is_array() {
            found[list] = json!([]);
        }
        for entry in ours[list].as_array().into_iter().flatten() {
            let there = entries(&mut found, list).find(|there| there["name"] == entry["name"]);
            match there.and_then(|there| there.get_mut(item)?.as_object_mut()) {
                Some(fields) => fields.extend(entry[item].as_object().cloned().unwrap_or_default()),
                None => {
                    if let Some(all) = found[list].as_array_mut() {
                        all.retain(|there| there["name"] != entry["name"]);
                        all.push(entry.clone());
                    }
                }
            }
        }
    }
    if found["current-context"].as_str().is_none_or(str::is_empty) {
        found["current-context"] = ours["current-context"].clone();
    }
    found
}

/// The servers of the current context, its `server` first: `HOST:PORT`.
fn servers(config: &Kubeconfig) -> Vec<String> {
    let context = config.contexts.iter().find(|context| Some(&context.name) == config.current_context.as_ref());
    let name = context.and_then(|context| Some(&context.context.as_ref()?.cluster));
    let cluster = config.clusters.iter().find(|cluster| Some(&cluster.name) == name);
    let Some(cluster) = cluster.and_then(|cluster| cluster.cluster.as_ref()) else { return Vec::new() };
    let ours = cluster.extensions.iter().flatten().filter(|extension| extension.name == SERVERS);
    let more = ours.filter_map(|extension| extension.extension["servers"].as_array()).flatten().filter_map(Value::as_str);
    let mut all: Vec<String> = Vec::new();
    for server in cluster.server.as_deref().into_iter().chain(more).filter_map(|url| host_and_port(url).ok()) {
        if !all.contains(&server) {
            all.push(server);
        }
    }
    all
}

/// What a kubeconfig's file says, and the servers that it names.
pub async fn read(path: &Path) -> Result<(kube::Config, Vec<String>)> {
    // The error's text ends with its cause's: as a chain that would be said twice.
    let read = Kubeconfig::read_from(path).map_err(|error| anyhow::anyhow!("{error}"))?;
    let servers = servers(&read);
    let config =
        kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.context("use the kubeconfig")?;
    Ok((config, servers))
}

/// A client for what [`read`] returned, which turns to the next server when one cannot be reached.
pub fn client((config, servers): (kube::Config, Vec<String>)) -> Result<Client> {
    if servers.len() < 2 || config.proxy_url.is_some() {
        return Client::try_from(config).context("make a client");
    }
    over(config, &Servers::new(servers))
}

/// A client by way of these servers, whose certificates all have one name.
pub fn over(mut config: kube::Config, servers: &Arc<Servers>) -> Result<Client> {
    config.tls_server_name.get_or_insert_with(|| join::SERVER_NAME.to_owned());
    join::by_way_of(config, servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn config(server: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "k",
            "clusters": [{"name": "k", "cluster": {"certificate-authority-data": "QQ==", "server": server}}],
            "contexts": [{"name": "k", "context": {"cluster": "k", "user": "admin"}}],
            "users": [{"name": "admin", "user": {"client-certificate-data": server}}]})
    }

    fn named(server: &str, servers: &[&str]) -> Value {
        let mut named = config(server);
        named["clusters"][0]["cluster"]["extensions"] = json!([{"name": SERVERS, "extension": {"servers": servers}}]);
        named
    }

    #[test]
    fn a_kubeconfig_names_the_servers_that_it_has_no_room_for() {
        let text = config("https://a:1").to_string();
        assert_eq!(naming(&text, &list(&["a:1"])).unwrap(), text);
        assert_eq!(naming(&text, &[]).unwrap(), text);
        let two = naming(&text, &list(&["a:1", "b:1"])).unwrap();
        assert_eq!(parse(&two).unwrap(), named("https://a:1", &["https://a:1", "https://b:1"]));
        let read = Kubeconfig::from_yaml(&two).unwrap();
        assert_eq!(servers(&read), list(&["a:1", "b:1"]));
        assert_eq!(servers(&Kubeconfig::from_yaml(&text).unwrap()), list(&["a:1"]));
    }

    #[test]
    fn what_the_user_changed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.kubeconfig");
        let own = |server: &str| Own::new(path.clone(), config(server).to_string());
        let read = || parse(&fs::read_to_string(&path).unwrap()).unwrap();
        own("https://a:1").tell(&list(&["b:1"])).unwrap();
        assert!(!path.exists());
        own("https://a:1").write(&[]).unwrap();
        assert_eq!(read(), config("https://a:1"));

        let mut wanted = named("https://z:1", &["https://a:1", "https://b:1"]);
        wanted["contexts"][0]["context"]["namespace"] = "mine".into();
        wanted["clusters"][0]["cluster"]["extensions"][0]["extension"]["kept"] = true.into();
        let other = json!({"name": "other", "cluster": {"server": "https://o:1", "certificate-authority-data": "Qg=="}});
        wanted["clusters"].as_array_mut().unwrap().push(other);
        wanted["current-context"] = "other".into();
        fs::write(&path, wanted.to_string()).unwrap();
        own("https://a:1").tell(&list(&["b:1", "c:1"])).unwrap();
        wanted["clusters"][0]["cluster"]["extensions"][0]["extension"]["servers"] = json!(["https://b:1", "https://c:1"]);
        assert_eq!(read(), wanted);
        own("https://new:1").write(&list(&["c:1"])).unwrap();
        wanted["clusters"][0]["cluster"]["server"] = "https://new:1".into();
        wanted["clusters"][0]["cluster"]["extensions"][0]["extension"]["servers"] = json!(["https://c:1"]);
        wanted["users"][0]["user"]["client-certificate-data"] = "https://new:1".into();
        assert_eq!(read(), wanted);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
