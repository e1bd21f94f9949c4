//! Keeps the authorizer in step with the store, writes the bootstrap policy at start and aggregated roles when they change.
//!
//! It reads the store itself and not the watch cache: nobody is served, the cache's readers included, before the authorizer
//! knows its roles.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use store::{Event, Op, Outcome, Range, Revision, Store, Txn, WatchMessage};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    GROUP, Rbac,
    aggregate::{self, Part},
    index::Source,
    policy::{self, Place},
};

/// etcd refuses larger transactions.
const OPS: usize = 100;

/// The cache understands members in any order.
fn encode(object: &Value) -> Vec<u8> {
    // Writing a value to memory cannot fail.
    serde_json::to_vec(object).unwrap_or_default()
}

/// A role or binding in the store with the revision of its last change.
struct Stored {
    object: Value,
    revision: Revision,
}

fn prefix(source: Source) -> String {
    format!("/registry/{}/", source.plural())
}

fn key((source, namespace, name): &Place) -> Arc<str> {
    match namespace.as_str() {
        "" => format!("{}{name}", prefix(*source)),
        namespace => format!("{}{namespace}/{name}", prefix(*source)),
    }
    .into()
}

/// Namespace and name in a key behind its prefix.
fn place(source: Source, key: &str) -> Option<Place> {
    let rest = key.strip_prefix(&prefix(source))?;
    let (namespace, name) = match source {
        Source::Role | Source::RoleBinding => rest.split_once('/')?,
        _ => ("", rest),
    };
    Some((source, namespace.to_owned(), name.to_owned()))
}

async fn load(store: &dyn Store) -> Result<(BTreeMap<Arc<str>, Stored>, Revision), store::Error> {
    let mut all = BTreeMap::new();
    let mut at = None;
    for source in Source::ALL {
        let page = store.range(Range { at, ..Range::prefix(&prefix(source)) }).await?;
        at = Some(page.revision);
        for entry in page.entries {
            if let Ok(object) = serde_json::from_slice(&entry.value) {
                all.insert(entry.key, Stored { object, revision: entry.mod_revision });
            }
        }
    }
    Ok((all, at.unwrap_or_default()))
}

/// Writes what is missing of the bootstrap policy. Several servers may do it at once: a conflict means that another one did.
pub async fn bootstrap(store: &dyn Store, now: jiff::Timestamp) -> Result<(), store::Error> {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for _ in 0..5 {
        let (stored, _) = load(store).await?;
        let mut writes = Vec::new();
        for wanted in policy::wanted() {
            let key = key(&wanted.place);
            let (object, revision) = match stored.get(&key) {
                Some(found) => match policy::reconcile(&wanted, &found.object) {
                    Some(object) => (object, found.revision),
                    None => continue,
                },
                None => {
                    let mut object = wanted.object;
                    object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
                    object["metadata"]["creationTimestamp"] = json!(now);
                    (object, 0)
                }
            };
            writes.push((key, revision, encode(&object)));
        }
        let mut conflict = false;
        for chunk in writes.chunks(OPS) {
            let txn = Txn {
                compare: chunk.iter().map(|(key, revision, _)| (key.clone(), *revision)).collect(),
                ops: chunk
                    .iter()
                    .map(|(key, _, value)| Op::Put { key: key.clone(), value: value.clone().into(), ttl: None })
                    .collect(),
                ..Txn::default()
            };
            conflict |= matches!(store.commit(txn).await?, Outcome::Conflict(_));
        }
        if !conflict {
            return Ok(());
        }
    }
    tracing::warn!("Bootstrap roles keep changing under us; left as they are");
    Ok(())
}

/// Loads the authorizer; what it returns keeps it up to date.
pub async fn start(store: Arc<dyn Store>, rbac: Arc<Rbac>) -> Result<Follower, store::Error> {
    let mut follower = Follower { store, rbac, roles: BTreeMap::new(), known: BTreeMap::new(), revision: 0 };
    follower.reload().await?;
    Ok(follower)
}

/// Follows the store's roles and bindings.
pub struct Follower {
    store: Arc<dyn Store>,
    rbac: Arc<Rbac>,
    roles: BTreeMap<String, Part>,
    known: BTreeMap<Arc<str>, Place>,
    revision: Revision,
}

impl Follower {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let followed = tokio::select! {
                followed = self.follow() => followed,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = followed {
                tracing::info!(error = &error as &dyn std::error::Error, "Reading roles and bindings again");
            }
            while let Err(error) = self.reload().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "Could not read roles and bindings");
                // The store is away: nothing tells when it is back.
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }

    async fn reload(&mut self) -> Result<(), store::Error> {
        let (all, revision) = load(self.store.as_ref()).await?;
        let gone: Vec<Arc<str>> = self.known.keys().filter(|key| !all.contains_key(*key)).cloned().collect();
        for key in gone {
            self.apply(&key, None);
        }
        for (key, stored) in &all {
            self.apply(key, Some(&stored.object));
        }
        self.revision = revision;
        Ok(())
    }

    fn apply(&mut self, key: &Arc<str>, object: Option<&Value>) {
        let Some(place) = Source::ALL.iter().find_map(|source| place(*source, key)) else { return };
        let (source, namespace, name) = &place;
        self.rbac.apply(*source, namespace, name, object);
        if *source == Source::ClusterRole {
            match object {
                Some(object) => drop(self.roles.insert(name.clone(), Part::of(object))),
                None => drop(self.roles.remove(name)),
            }
        }
        match object {
            Some(_) => drop(self.known.insert(key.clone(), place)),
            None => drop(self.known.remove(key)),
        }
    }

    async fn follow(&mut self) -> Result<(), store::Error> {
        let (changes, mut changed) = mpsc::channel(16);
        let mut streams = tokio::task::JoinSet::new();
        for source in Source::ALL {
            let mut watch = self.store.watch(&prefix(source), self.revision + 1).await?;
            let changes = changes.clone();
            streams.spawn(async move {
                while let Some(message) = watch.recv().await {
                    if changes.send(message).await.is_err() {
                        return;
                    }
                }
                let _ = changes.send(Err(store::Error::Closed)).await;
            });
        }
        drop(changes);
        self.aggregate().await?;
        while let Some(message) = changed.recv().await {
            let WatchMessage::Events(events) = message? else { continue };
            let roles_changed = events.iter().any(|e| e.key.starts_with(&prefix(Source::ClusterRole)));
            for event in &events {
                self.note(event);
            }
            if roles_changed {
                self.aggregate().await?;
            }
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let object = event.value.as_ref().and_then(|value| serde_json::from_slice::<Value>(value).ok());
        self.apply(&event.key, object.as_ref());
    }

    /// Writes the rules of aggregated roles that have other ones. The change comes back through the watch.
    async fn aggregate(&self) -> Result<(), store::Error> {
        for name in self.roles.keys() {
            let Some(rules) = aggregate::decide(name, &self.roles) else { continue };
            let key = key(&(Source::ClusterRole, String::new(), name.clone()));
            let (Some(entry), _) = self.store.get(&key).await? else { continue };
            let Ok(mut object) = serde_json::from_slice::<Value>(&entry.value) else { continue };
            if object["rules"] == rules {
                continue;
            }
            object["rules"] = rules;
            let txn = Txn {
                compare: vec![(key.clone(), entry.mod_revision)],
                ops: vec![Op::Put { key, value: encode(&object).into(), ttl: None }],
                ..Txn::default()
            };
            // On a conflict the other write comes back through the watch and this runs again.
            if let Outcome::Committed(_) = self.store.commit(txn).await? {
                tracing::debug!(role = name, resource = %format_args!("clusterroles.{GROUP}"), "Aggregated a role");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gate::{Authorize, Decision},
        identity::User,
        request::RequestInfo,
    };

    struct Dir(std::path::PathBuf);

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn open() -> (Dir, Arc<dyn Store>) {
        let dir = Dir(std::env::temp_dir().join(format!("knarr-rbac-{}", uuid::Uuid::new_v4())));
        std::fs::create_dir_all(&dir.0).unwrap();
        let store = store::redb::RedbStore::open(dir.0.join("s.redb"), store::redb::Options::default()).unwrap();
        (dir, Arc::new(store))
    }

    async fn until(rbac: &Rbac, user: &User, info: &RequestInfo) {
        let allowed = async {
            while !matches!(rbac.authorize(user, info), Decision::Allow(_)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), allowed).await.unwrap();
    }

    #[tokio::test]
    async fn a_role_for_view_reaches_viewers() {
        let (_dir, store) = open();
        bootstrap(store.as_ref(), jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        let first = store.revision().await.unwrap();
        bootstrap(store.as_ref(), jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(store.revision().await.unwrap(), first);
        let rbac = Arc::new(Rbac::default());
        let follower = start(store.clone(), rbac.clone()).await.unwrap();
        let shutdown = CancellationToken::new();
        let following = tokio::spawn(follower.run(shutdown.clone()));
        let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "alice"}]});
        let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": "widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]}]});
        for (key, object) in [("clusterrolebindings/b", binding), ("clusterroles/widgets", role)] {
            let put = Op::Put { key: format!("/registry/{key}").into(), value: encode(&object).into(), ttl: None };
            store.commit(Txn { ops: vec![put], ..Txn::default() }).await.unwrap();
        }
        let info = RequestInfo::parse(&http::Method::GET, "/apis/example.com/v1/namespaces/d/widgets/w", None);
        until(&rbac, &User::new("alice", &[]), &info).await;
        shutdown.cancel();
        following.await.unwrap();
        store.close().await.unwrap();
    }
}
