//! Names of objects, types, and entries of the kubeconfig that begin as a word does. What cannot be had is no choice.

use std::time::Duration;

use serde_json::Value;

use super::{Answer, NO_FILES, NO_SPACE};
use crate::{
    cli::Globals,
    context::Context,
    describe::json::Json,
    flags::Line,
    pods,
    resources::{Object, Query},
    verbs::api_resources,
};

/// What `TYPE/NAME` may begin with where pods are meant.
const WITH_PODS: [&str; 8] =
    ["daemonsets", "deployments", "pods", "jobs", "replicasets", "replicationcontrollers", "services", "statefulsets"];

/// The cluster that a command line speaks of.
pub struct Objects {
    cx: Context,
}

impl Objects {
    /// By the flags of a command line.
    ///
    /// # Errors
    /// What is wrong with a flag's value.
    pub fn new(line: &Line) -> Result<Self, String> {
        let globals = Globals::of(line).map_err(|error| error.to_string())?;
        Ok(Self { cx: Context::new(globals, None) })
    }

    async fn get(&self, arguments: &[&str]) -> Vec<Object> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let query = Query { args: &arguments, type_suffices: true, chunk_size: 500, ..Query::default() };
        query.objects(&self.cx).await.map(|found| found.objects).unwrap_or_default()
    }

    /// The names of a type's objects.
    pub async fn names(&self, kind: &str, word: &str) -> Vec<String> {
        let all = self.get(&[kind]).await;
        all.into_iter().map(|object| object.name).filter(|name| name.starts_with(word)).collect()
    }

    /// The same for a first argument.
    pub async fn first(&self, kind: &str, arguments: &[String], word: &str) -> Answer {
        Answer::only(match arguments {
            [] => self.names(kind, word).await,
            _ => Vec::new(),
        })
    }

    /// The types that can be had, after those that stand before a last comma.
    async fn types(&self, word: &str) -> Vec<String> {
        let Ok(discovery) = self.cx.discovery() else { return Vec::new() };
        let Ok(catalog) = discovery.catalog().await else { return Vec::new() };
        let (before, word) = word.split_at(word.rfind(',').map_or(0, |at| at + 1));
        let all = api_resources::names(&catalog, "get");
        all.into_iter().filter(|name| name.starts_with(word)).map(|name| format!("{before}{name}")).collect()
    }

    /// `TYPE NAME...` and `TYPE/NAME...`; only of these types unless there are none, and only one name unless `several`.
    pub async fn types_and_names(&self, types: &[&str], several: bool, arguments: &[String], word: &str) -> Answer {
        let known = async |word: &str| match types {
            [] => self.types(word).await,
            types => Answer::of(types, word).choices,
        };
        match arguments {
            [kind, names @ ..] if !kind.contains('/') => {
                if !several && !names.is_empty() {
                    return Answer::only(Vec::new());
                }
                let found = self.names(kind, word).await;
                Answer::only(found.into_iter().filter(|name| !names.contains(name)).collect())
            }
            [_, ..] if !several => Answer { choices: Vec::new(), directive: NO_FILES },
            _ => match word.split_once('/') {
                Some((kind, name)) => {
                    let found = self.names(kind, name).await.into_iter().map(|name| format!("{kind}/{name}"));
                    Answer::only(found.filter(|pair| !arguments.contains(pair)).collect())
                }
                None if arguments.is_empty() => Answer::only(known(word).await),
                // The arguments before have the form TYPE/NAME: so has this one.
                None => {
                    let choices = known(word).await.into_iter().map(|kind| format!("{kind}/")).collect();
                    Answer { choices, directive: NO_FILES | NO_SPACE }
                }
            },
        }
    }

    /// Pods by name, and `TYPE/NAME` of what has pods.
    pub async fn pods(&self, word: &str) -> Answer {
        if let Some((kind, name)) = word.split_once('/') {
            let names = self.names(kind, name).await;
            return Answer::only(names.into_iter().map(|name| format!("{kind}/{name}")).collect());
        }
        let mut choices = self.names("pod", word).await;
        let directive = if choices.is_empty() { NO_FILES | NO_SPACE } else { NO_FILES };
        choices.extend(WITH_PODS.iter().filter(|kind| kind.starts_with(word)).map(|kind| format!("{kind}/")));
        Answer { choices, directive }
    }

    /// The containers of a pod, or of the pod that `TYPE/NAME` stands for.
    pub async fn containers(&self, pod: &str, word: &str) -> Vec<String> {
        let Some(pod) = self.pod(pod).await else { return Vec::new() };
        let all = [pod.items("spec.initContainers"), pod.items("spec.containers")].concat();
        let names = all.iter().map(|container| container.text("name").to_owned());
        names.filter(|name| name.starts_with(word)).collect()
    }

    async fn pod(&self, named: &str) -> Option<Value> {
        let words = [named.to_owned()];
        let object = pods::named(&self.cx, &words).await.ok()?.into_iter().next()?;
        // Nobody waits at a prompt for a pod to appear.
        pods::attachable(self.cx.client().ok()?, &object, Duration::from_millis(100)).await.ok()
    }

    /// What `cp` may copy: files of pods here or in other namespaces, or local ones.
    pub async fn copied(&self, arguments: &[String], word: &str) -> Answer {
        let choices = match word {
            _ if !arguments.is_empty() || word.starts_with(['/', '.', '~']) || word.contains(':') => Vec::new(),
            _ => match word.split_once('/') {
                Some((namespace, _)) => {
                    let globals = Globals { namespace: Some(namespace.to_owned()), ..self.cx.globals().clone() };
                    let there = Self { cx: Context::new(globals, None) };
                    let pods = there.names("pod", "").await.into_iter().map(|pod| format!("{namespace}/{pod}:"));
                    pods.filter(|pod| pod.starts_with(word)).collect()
                }
                None => self.pods_and_files(word).await,
            },
        };
        Answer { choices, directive: NO_SPACE }
    }

    async fn pods_and_files(&self, word: &str) -> Vec<String> {
        let mut choices: Vec<String> = self.names("namespace", word).await.iter().map(|name| format!("{name}/")).collect();
        choices.extend(self.names("pod", word).await.iter().map(|name| format!("{name}:")));
        if word.is_empty() {
            choices.extend(["./".to_owned(), "/".to_owned()]);
        } else if !choices.is_empty() {
            // Without choices the shell offers files by itself.
            let mut files: Vec<String> = std::fs::read_dir(".")
                .into_iter()
                .flatten()
                .filter_map(|entry| {
                    let entry = entry.ok()?;
                    let name = entry.file_name().into_string().ok()?;
                    let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    name.starts_with(word).then(|| if folder { format!("{name}/") } else { name })
                })
                .collect();
            files.sort();
            choices.extend(files);
        }
        choices
    }

    /// The kubeconfig's contexts, clusters or users.
    pub fn entries(&self, what: &str, word: &str) -> Vec<String> {
        let Ok(config) = self.cx.kubeconfig() else { return Vec::new() };
        let entries = match what {
            "context" => &config.contexts,
            "cluster" => &config.clusters,
            _ => &config.users,
        };
        entries.keys().filter(|name| name.starts_with(word)).cloned().collect()
    }

    /// The same for a first argument.
    pub fn entry(&self, what: &str, arguments: &[String], word: &str) -> Answer {
        Answer::only(match arguments {
            [] => self.entries(what, word),
            _ => Vec::new(),
        })
    }
}
