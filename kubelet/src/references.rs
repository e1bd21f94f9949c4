//! ConfigMaps and Secrets that this node's pods refer to: one watch each, shared by the pods, ended with the last of them.
//!
//! Only what a pod names is watched (a node may not list secrets), and a change wakes the pods that name it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use client::{Informer, Key, Options};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Pod, Secret},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    pod::{env, spec},
    volume::payload,
};

/// How long a pod waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

type Interested = Arc<Mutex<HashSet<String>>>;

struct Watched<K> {
    informer: Informer<K>,
    pods: Interested,
    stop: CancellationToken,
}

type Table<K> = HashMap<(String, String), Watched<K>>;

/// The objects pods refer to.
pub struct References {
    client: kube::Client,
    shutdown: CancellationToken,
    wake: mpsc::UnboundedSender<String>,
    maps: Mutex<Table<ConfigMap>>,
    secrets: Mutex<Table<Secret>>,
}

/// What a pod refers to, as it is now. What does not exist is absent.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub config_maps: HashMap<String, ConfigMap>,
    /// By name.
    pub secrets: HashMap<String, Secret>,
}

impl References {
    /// Sends the UIDs of pods whose objects changed to `wake`.
    pub fn new(client: kube::Client, wake: mpsc::UnboundedSender<String>, shutdown: CancellationToken) -> Self {
        Self { client, shutdown, wake, maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Watches what the pod refers to.
    pub fn register(&self, pod: &Pod) {
        let (maps, secrets) = names(pod);
        let (uid, namespace) = (spec::uid(pod), spec::namespace(pod));
        self.enter(&self.maps, &uid, namespace, &maps);
        self.enter(&self.secrets, &uid, namespace, &secrets);
    }

    /// Lets go of what only this pod refers to.
    pub fn unregister(&self, uid: &str) {
        leave(&self.maps, uid);
        leave(&self.secrets, uid);
    }

    fn enter<K>(&self, table: &Mutex<Table<K>>, uid: &str, namespace: &str, names: &HashSet<String>)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + client::Object,
    {
        let mut table = table.lock();
        for name in names {
            let watched = table.entry((namespace.to_owned(), name.clone())).or_insert_with(|| self.watch(namespace, name));
            watched.pods.lock().insert(uid.to_owned());
        }
    }

    fn watch<K>(&self, namespace: &str, name: &str) -> Watched<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + client::Object,
    {
        let stop = self.shutdown.child_token();
        let options = Options {
            namespace: Some(namespace.to_owned()),
            fields: Some(format!("metadata.name={name}")),
            until: Some(stop.clone()),
            ..Options::default()
        };
        let informer = Informer::start(self.client.clone(), options, self.shutdown.clone());
        let pods = Interested::default();
        let (interested, wake) = (pods.clone(), self.wake.clone());
        informer.on_change(move |_| {
            for uid in interested.lock().iter() {
                // The receiver only goes with the kubelet.
                let _ = wake.send(uid.clone());
            }
        });
        Watched { informer, pods, stop }
    }

    /// Everything the pod refers to. The error names what there is no answer about.
    pub async fn objects(&self, pod: &Pod) -> Result<Objects, String> {
        let (maps, secrets) = names(pod);
        let namespace = spec::namespace(pod);
        let late = |kind: &str| format!("failed to sync {kind} cache: timed out waiting for the condition");
        let config_maps = collect(&self.maps, namespace, &maps).await.ok_or_else(|| late("configmap"))?;
        let secrets = collect(&self.secrets, namespace, &secrets).await.ok_or_else(|| late("secret"))?;
        Ok(Objects { config_maps, secrets })
    }
}

fn names(pod: &Pod) -> (HashSet<String>, HashSet<String>) {
    let (mut maps, mut secrets) = env::references(pod);
    let (more_maps, more_secrets) = payload::references(pod);
    maps.extend(more_maps);
    secrets.extend(more_secrets);
    (maps.into_iter().collect(), secrets.into_iter().filter(|s| !s.is_empty()).collect())
}

fn leave<K>(table: &Mutex<Table<K>>, uid: &str) {
    table.lock().retain(|_, watched| {
        let mut pods = watched.pods.lock();
        pods.remove(uid);
        let keep = !pods.is_empty();
        if !keep {
            watched.stop.cancel();
        }
        keep
    });
}

async fn collect<K: client::Object>(
    table: &Mutex<Table<K>>,
    namespace: &str,
    names: &HashSet<String>,
) -> Option<HashMap<String, K>> {
    let informers: Vec<(String, Informer<K>)> = {
        let table = table.lock();
        let find = |name: &String| Some((name.clone(), table.get(&(namespace.to_owned(), name.clone()))?.informer.clone()));
        names.iter().filter_map(find).collect()
    };
    let mut found = HashMap::new();
    for (name, informer) in informers {
        tokio::time::timeout(FIRST_ANSWER, informer.synced()).await.ok()?;
        if let Some(object) = informer.get(&Key::new(namespace, &name)) {
            found.insert(name, K::clone(&object));
        }
    }
    Some(found)
}
