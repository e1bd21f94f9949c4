//! The user's kubeconfig: a local cluster's entries go in and out, everything else stays.
//!
//! The file is the first one of `$KUBECONFIG`, else `~/.kube/config`. It is replaced whole, readable by its owner alone, under
//! the same `FILE.lock` that kubectl takes. Entries are ours if the context's user is called `knarr-CLUSTER`; a context of
//! the cluster's name that is not ours is neither overwritten nor removed.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{layout, process::Identity, record::write_whole};

/// The name of a cluster's administrator entry.
pub fn user(cluster: &str) -> String {
    format!("knarr-{cluster}")
}

/// Where the cluster's own kubeconfig is.
pub fn own_path(cluster: &str) -> PathBuf {
    layout::folder(cluster).join("admin.kubeconfig")
}

/// The cluster's own kubeconfig.
pub fn own(cluster: &str) -> Result<String> {
    let path = own_path(cluster);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Puts the cluster's entries into the user's kubeconfig and makes its context the current one. Returns the file's path.
pub fn publish(cluster: &str) -> Result<PathBuf> {
    let own: Value = parse(&own(cluster)?)?;
    let path = path()?;
    edit(&path, |config| merge(config, cluster, &own).map(Some))?;
    Ok(path)
}

/// Refuses a name under which the user's kubeconfig has somebody else's context.
pub fn check_free(cluster: &str) -> Result<()> {
    let path = path()?;
    let config = read(&path)?.unwrap_or(Value::Null);
    if is_foreign(&config, cluster) {
        bail!(
            "{} has a context {cluster:?} that is not ours; choose another --name, or point KUBECONFIG elsewhere",
            path.display()
        );
    }
    Ok(())
}

/// Takes the cluster's entries out of the user's kubeconfig.
pub fn forget(cluster: &str) -> Result<()> {
    let path = path()?;
    if !path.exists() {
        return Ok(());
    }
    edit(&path, |config| Ok(without(config, cluster)))
}

fn path() -> Result<PathBuf> {
    let listed = std::env::var("KUBECONFIG").unwrap_or_default();
    if let Some(first) = listed.split(':').find(|path| !path.is_empty()) {
        return Ok(first.into());
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir));
    Ok(home.context("no home directory to write .kube/config in; set KUBECONFIG")?.join(".kube/config"))
}

fn read(path: &Path) -> Result<Option<Value>> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => parse(&text).map(Some).with_context(|| format!("read {}", path.display())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
    }
}

fn parse(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

/// Replaces a kubeconfig's file by what `change` makes of it, while nobody else does.
pub fn edit(path: &Path, change: impl FnOnce(Value) -> Result<Option<Value>>) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let _lock = Lock::take(path)?;
    let config = read(path)?.unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config", "preferences": {}}));
    match change(config)? {
        Some(changed) => write_whole(path, serde_saphyr::to_string(&changed)?.as_bytes(), 0o600),
        None => Ok(()),
    }
}

/// kubectl's way of locking a kubeconfig: a file beside it that only one can create. Ours says whose it is, so that one left
/// by a killed process of ours is not in the way for ever.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match fs::OpenOptions::new().write(true).create_new(true).open(&lock) {
                Ok(mut file) => {
                    let own = serde_json::to_vec(&Identity::own())?;
                    // Without it the lock is as good as kubectl's.
                    let _ = std::io::Write::write_all(&mut file, &own);
                    return Ok(Self(lock));
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists && is_abandoned(&lock) => {
                    let _ = fs::remove_file(&lock);
                }
                // Its holder tells nobody when it lets go.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(e) => {
                    return Err(e).with_context(|| {
                        format!("take the lock {} (remove it if nobody is writing the file)", lock.display())
                    });
                }
            }
        }
    }
}

fn is_abandoned(lock: &Path) -> bool {
    let holder: Option<Identity> = fs::read(lock).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    holder.is_some_and(|holder| !holder.is_alive())
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn context_user<'a>(config: &'a Value, cluster: &str) -> Option<&'a str> {
    let contexts = config.get("contexts")?.as_array()?;
    contexts.iter().find(|c| c["name"] == cluster)?.get("context")?.get("user")?.as_str()
}

fn is_foreign(config: &Value, cluster: &str) -> bool {
    context_user(config, cluster).is_some_and(|found| found != user(cluster))
}

fn merge(mut config: Value, cluster: &str, own: &Value) -> Result<Value> {
    if is_foreign(&config, cluster) {
        bail!("there is a context {cluster:?} that is not ours");
    }
    let Some(fields) = config.as_object_mut() else { bail!("the kubeconfig is no YAML mapping") };
    for list in ["clusters", "contexts", "users"] {
        let entries = fields.entry(list).or_insert(Value::Null);
        if entries.is_null() {
            *entries = json!([]);
        }
        let Some(entries) = entries.as_array_mut() else { bail!("the kubeconfig's {list} are no list") };
        for ours in own[list].as_array().into_iter().flatten() {
            match entries.iter_mut().find(|entry| entry["name"] == ours["name"]) {
                Some(entry) => *entry = ours.clone(),
                None => entries.push(ours.clone()),
            }
        }
    }
    fields.insert("current-context".into(), cluster.into());
    Ok(config)
}

/// The kubeconfig without the cluster's entries; `None` if it has none.
fn without(mut config: Value, cluster: &str) -> Option<Value> {
    if context_user(&config, cluster)? != user(cluster) {
        return None;
    }
    let fields = config.as_object_mut()?;
    for (list, name) in [("clusters", cluster), ("contexts", cluster), ("users", &user(cluster))] {
        if let Some(entries) = fields.get_mut(list).and_then(Value::as_array_mut) {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if fields.get("current-context").is_some_and(|current| current == cluster) {
        fields.insert("current-context".into(), "".into());
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(names: &[&str], current: &str) -> Value {
        let list = |value: &dyn Fn(&str) -> Value| names.iter().map(|n| value(n)).collect::<Vec<_>>();
        json!({
            "clusters": list(&|n| json!({"name": n, "cluster": {"server": format!("https://{n}")}})),
            "contexts": list(&|n| json!({"name": n, "context": {"cluster": n, "user": format!("knarr-{n}")}})),
            "users": list(&|n| json!({"name": format!("knarr-{n}"), "user": {}})),
            "current-context": current,
            "others": "stay",
        })
    }

    #[test]
    fn entries_go_in_and_out() {
        let merged = merge(config(&["a"], "a"), "b", &config(&["b"], "b")).unwrap();
        assert_eq!(merged, config(&["a", "b"], "b"));
        assert_eq!(merge(merged.clone(), "b", &config(&["b"], "b")).unwrap(), merged);
        assert_eq!(without(merged, "b").unwrap(), config(&["a"], ""));
        assert_eq!(without(config(&["a"], "a"), "b"), None);
    }

    #[test]
    fn what_is_not_ours_stays() {
        let foreign = json!({"contexts": [{"name": "b", "context": {"cluster": "b", "user": "alice"}}]});
        assert!(merge(foreign.clone(), "b", &config(&["b"], "b")).is_err());
        assert_eq!(without(foreign, "b"), None);
        assert_eq!(merge(json!({"clusters": null}), "b", &config(&["b"], "b")).unwrap()["clusters"][0]["name"], "b");
    }

    #[test]
    fn the_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kube/config");
        edit(&path, |config| merge(config, "b", &config_of("b")).map(Some)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(context_user(&read(&path).unwrap().unwrap(), "b"), Some("knarr-b"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    fn config_of(name: &str) -> Value {
        config(&[name], name)
    }
}
