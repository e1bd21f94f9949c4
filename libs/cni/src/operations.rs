//! Whole lists of plugins: connect and disconnect pods, and what is asked about them.
//!
//! ```text
//! ADD  record ── p1 ──prevResult── p2 ── ... ── record with the result
//! DEL  read ── ... ── p2 ── p1 ── removed          (each with the result of ADD, from 0.4.0 on)
//! ```
//!
//! An ADD that fails is undone by a DEL of all plugins at once. Where that fails, too, the record stays, and [`Plugins::retain`]
//! tries again.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{
    Error, List, Outcome, Result,
    config::is_name,
    plugin::{Place, Target, Verb, input},
    record::{Record, Records},
};

/// How plugins are used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the configuration is.
    pub conf_dir: PathBuf,
    /// Where the programs are, the first first.
    pub bin_dirs: Vec<PathBuf>,
    /// Where pods are recorded.
    pub state: PathBuf,
    /// The node's network namespace; the process' own if `None`.
    pub namespace: Option<PathBuf>,
    /// How long one plugin may take.
    pub patience: Duration,
}

/// A pod to be connected.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// The sandbox's ID.
    pub id: String,
    /// The file of its network namespace.
    pub namespace: PathBuf,
    /// Pairs of `CNI_ARGS`.
    pub arguments: Vec<(String, String)>,
    /// What plugins that declare a capability are told, by capability.
    pub capabilities: Map<String, Value>,
    /// Lines to keep with its record.
    pub notes: Vec<String>,
}

/// The name of a pod's interface.
pub const INTERFACE: &str = "eth0";

/// Plugins and the pods that they have connected. One pod's calls must not run at once.
#[derive(Clone, Debug)]
pub struct Plugins {
    conf_dir: PathBuf,
    place: Place,
    records: Records,
}

impl Plugins {
    /// With these settings. Nothing is read yet.
    pub fn new(settings: Settings) -> Self {
        let Settings { conf_dir, bin_dirs, state, namespace, patience } = settings;
        let place = Place { folders: bin_dirs, namespace, patience };
        Self { conf_dir, place, records: Records::new(state) }
    }

    /// Where the configuration is.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    /// The configuration as it is now.
    pub fn list(&self) -> Result<Option<List>> {
        List::load(&self.conf_dir)
    }

    /// Whether the pod may be connected.
    pub fn holds(&self, pod: &str) -> bool {
        self.records.has(pod)
    }

    /// The pod's record.
    pub fn record(&self, pod: &str) -> Result<Option<Record>> {
        self.records.read(pod)
    }

    /// The pods that may be connected.
    pub fn pods(&self) -> Vec<String> {
        self.records.pods()
    }

    /// Connects a pod.
    pub async fn add(&self, list: &List, pod: Pod) -> Result<Outcome> {
        if !is_name(&pod.id) {
            return Err(Error::Invalid(format!("{:?} is no container's ID", pod.id)));
        }
        // Nothing is begun that cannot be finished.
        for plugin in &list.plugins {
            self.place.find(plugin, Verb::Add)?;
        }
        let mut record = Record {
            list: list.source.clone(),
            interface: INTERFACE.to_owned(),
            arguments: arguments(&pod.arguments)?,
            capabilities: pod.capabilities,
            result: None,
            notes: pod.notes,
        };
        self.records.write(&pod.id, &record)?;
        let target = record.target(&pod.id, Some(pod.namespace));
        match self.run_add(list, &target, &record).await {
            Ok(outcome) => {
                record.result = Some(outcome.raw.clone());
                self.records.write(&pod.id, &record)?;
                Ok(outcome)
            }
            Err(error) => {
                if let Err(left) = self.undo(list, &target, &record).await {
                    tracing::warn!(pod = pod.id, error = %left, "a pod that could not be connected has left something");
                }
                Err(error)
            }
        }
    }

    async fn run_add(&self, list: &List, target: &Target, record: &Record) -> Result<Outcome> {
        let mut previous = None;
        for plugin in &list.plugins {
            let input = input(list, plugin, &record.capabilities, previous.as_ref());
            let output = self.place.call(plugin, Verb::Add, target, &input).await?;
            let result = serde_json::from_slice(&output).map_err(|error| Error::Plugin {
                plugin: plugin.described(),
                verb: Verb::Add.to_string(),
                message: format!("its result cannot be read: {error}"),
                code: 0,
            })?;
            previous = Some(result);
        }
        let outcome = Outcome::read(previous.unwrap_or_default(), &target.interface)?;
        match outcome.addresses.is_empty() {
            true => Err(Error::Result(format!("failed to find network info for sandbox {:?}", target.pod))),
            false => Ok(outcome),
        }
    }

    /// Disconnects a pod; one that is not connected is fine. `namespace` is `None` if that is gone.
    pub async fn delete(&self, pod: &str, namespace: Option<&Path>) -> Result<()> {
        let Some(record) = self.records.read(pod)? else { return Ok(()) };
        let Some(list) = self.recorded(&record)? else {
            return Err(Error::Invalid(format!("nothing is known any more about how {pod} was connected")));
        };
        self.undo(&list, &record.target(pod, namespace.map(Path::to_owned)), &record).await
    }

    async fn undo(&self, list: &List, target: &Target, record: &Record) -> Result<()> {
        let previous = record.result.as_ref().filter(|_| list.speaks("0.4.0"));
        for plugin in list.plugins.iter().rev() {
            let input = input(list, plugin, &record.capabilities, previous);
            self.place.call(plugin, Verb::Del, target, &input).await?;
        }
        self.records.remove(&target.pod)
    }

    /// Asks the plugins whether a connected pod is as they left it.
    pub async fn check(&self, pod: &str, namespace: &Path) -> Result<()> {
        let Some(record) = self.records.read(pod)? else { return Ok(()) };
        let Some(list) = self.recorded(&record)? else { return Ok(()) };
        let Some(previous) = record.result.as_ref().filter(|_| list.speaks("0.4.0") && !list.disable_check) else {
            return Ok(());
        };
        let target = record.target(pod, Some(namespace.to_owned()));
        for plugin in &list.plugins {
            let input = input(&list, plugin, &record.capabilities, Some(previous));
            self.place.call(plugin, Verb::Check, &target, &input).await?;
        }
        Ok(())
    }

    /// Asks the plugins whether pods can be connected; those of older versions are not asked.
    pub async fn status(&self, list: &List) -> Result<()> {
        for plugin in list.plugins.iter().filter(|_| list.speaks("1.1.0")) {
            let input = input(list, plugin, &Map::new(), None);
            self.place.call(plugin, Verb::Status, &Target::default(), &input).await?;
        }
        Ok(())
    }

    /// Disconnects all pods but these, and tells plugins which are left. What fails is tried with the others, and told.
    pub async fn retain(&self, kept: &HashSet<String>) -> Result<()> {
        let mut outcome = Ok(());
        for pod in self.records.pods().iter().filter(|pod| !kept.contains(*pod)) {
            outcome = self.delete(pod, None).await.and(outcome);
        }
        match self.list()? {
            Some(list) if list.speaks("1.1.0") && !list.disable_gc => self.collect(&list).await.and(outcome),
            _ => outcome,
        }
    }

    /// GC.
    async fn collect(&self, list: &List) -> Result<()> {
        let mut connected = BTreeSet::new();
        for pod in self.records.pods() {
            let record = self.records.read(&pod)?.filter(|record| record.list.get("name") == list.source.get("name"));
            connected.extend(record.map(|record| (pod, record.interface)));
        }
        let connected: Vec<Value> =
            connected.into_iter().map(|(pod, interface)| json!({"containerID": pod, "ifname": interface})).collect();
        for plugin in &list.plugins {
            let mut input = input(list, plugin, &Map::new(), None);
            input["cni.dev/valid-attachments"] = connected.clone().into();
            // What the first text of 1.1.0 called it.
            input["cni.dev/attachments"] = connected.clone().into();
            self.place.call(plugin, Verb::Gc, &Target::default(), &input).await?;
        }
        Ok(())
    }

    /// The list that a pod was connected with; the folder's if the record was lost.
    fn recorded(&self, record: &Record) -> Result<Option<List>> {
        match record.list.is_null() {
            true => self.list(),
            false => List::read(record.list.clone())
                .map(Some)
                .map_err(|reason| Error::Config { path: self.conf_dir.clone(), reason }),
        }
    }
}

impl Record {
    fn target(&self, pod: &str, namespace: Option<PathBuf>) -> Target {
        let interface = if self.interface.is_empty() { INTERFACE.to_owned() } else { self.interface.clone() };
        let arguments = self.arguments.clone();
        Target { pod: pod.to_owned(), namespace, interface, arguments }
    }
}

/// `CNI_ARGS` of pairs.
fn arguments(pairs: &[(String, String)]) -> Result<String> {
    let clean = |text: &str| !text.contains([';', '=', '\0', '\n']);
    match pairs.iter().find(|(key, value)| !clean(key) || !clean(value)) {
        Some((key, value)) => Err(Error::Invalid(format!("plugins cannot be told {key} {value:?}"))),
        None => Ok(pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")),
    }
}
