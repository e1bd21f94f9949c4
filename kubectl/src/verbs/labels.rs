//! What `label` and `annotate` share: their flags, reading `KEY=VALUE` and `KEY-`, and changing one map of an object's metadata.

use serde_json::{Map, Value};

use crate::{
    context::Context,
    failure::{Failure, plain},
    output::{DryRun, DryRunArgs, OutputArgs},
    resources::{FileArgs, Object, Query},
};

/// Flags of both.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// How to print.
    #[command(flatten)]
    pub print: OutputArgs,
    /// Change what is there already
    #[arg(long)]
    pub overwrite: bool,
    /// Show what is there
    #[arg(long)]
    pub list: bool,
    /// Ask no server; change what files hold
    #[arg(long)]
    pub local: bool,
    /// Whether for real.
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    /// Fields of the objects
    #[arg(long)]
    field_selector: Option<String>,
    /// All objects of the given types in the namespace
    #[arg(long)]
    all: bool,
    /// Look in all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only if the object is at this version; for one object
    #[arg(long, default_value = "", hide_default_value = true)]
    pub resource_version: String,
    #[command(flatten)]
    files: FileArgs,
    /// Labels of the objects
    #[arg(long, short = 'l')]
    selector: Option<String>,
}

impl Common {
    /// Either lists or prints.
    ///
    /// # Errors
    /// Both are asked for.
    pub fn one_way_to_print(&self) -> Result<(), String> {
        match self.list && self.print.output.is_some() {
            true => Err("--list and --output may not be specified together".to_owned()),
            false => Ok(()),
        }
    }

    /// What is wrong with flags and arguments. `what` is what changes, `example` the name of a file that might be given.
    ///
    /// # Errors
    /// In upstream's words.
    pub fn validate(
        &self,
        resources: &[String],
        changes: &Changes,
        dry_run: DryRun,
        (what, example): (&str, &str),
    ) -> Result<(), String> {
        let refused = |why: &str| Err(why.to_owned());
        let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if self.all && given(&self.selector) {
            return refused("cannot set --all and --selector at the same time");
        }
        if self.all && given(&self.field_selector) {
            return refused("cannot set --all and --field-selector at the same time");
        }
        if self.local {
            let files = format!("-f {example}.yaml or --filename={example}.json");
            if dry_run == DryRun::Server {
                return refused("cannot specify --local and --dry-run=server - did you mean --dry-run=client?");
            }
            if !resources.is_empty() {
                return Err(format!("can only use local files by {files} when --local=true is set"));
            }
            if self.files.is_empty() {
                return Err(format!("one or more files must be specified as {files}"));
            }
        } else if resources.is_empty() && self.files.is_empty() {
            return refused("one or more resources must be specified as <resource> <name> or <resource>/<name>");
        }
        if changes.is_empty() && !self.list {
            return Err(format!("at least one {what} update is required"));
        }
        Ok(())
    }

    /// Does something to the objects that are meant; it is told whether exactly one was named.
    ///
    /// # Errors
    /// What cannot be found or read, and what went wrong.
    pub async fn visit(
        &self,
        cx: &Context,
        resources: &[String],
        mut act: impl AsyncFnMut(Object, bool) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let query = Query {
            args: resources,
            files: Some(&self.files),
            labels: self.selector.as_deref(),
            fields: self.field_selector.as_deref(),
            type_suffices: self.all,
            all_namespaces: self.all_namespaces,
            latest: !self.local,
            local: self.local,
            ..Query::default()
        };
        let targets = query.targets(cx).await?;
        let single = targets.single;
        if !single && !self.resource_version.is_empty() {
            return Err(plain("--resource-version may only be used with a single resource"));
        }
        targets.visit(&query, cx, async |object| act(object, single).await).await
    }
}

/// Arguments apart: resources first, then changes.
///
/// # Errors
/// A resource after a change.
pub fn split(arguments: &[String], what: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let (mut resources, mut changes) = (Vec::new(), Vec::new());
    for argument in arguments {
        let is_change =
            (argument.contains('=') && !argument.starts_with('=')) || (argument.ends_with('-') && argument != "-");
        match (is_change, changes.is_empty()) {
            (true, _) => changes.push(argument.clone()),
            (false, true) => resources.push(argument.clone()),
            (false, false) => return Err(format!("all resources must be specified before {what} changes: {argument}")),
        }
    }
    Ok((resources, changes))
}

/// What to set, sorted by key, and what to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys and their new values.
    pub set: std::collections::BTreeMap<String, String>,
    /// Keys to remove.
    pub remove: Vec<String>,
}

impl Changes {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Keys that are already there with another value, and that value.
    pub fn overwritten<'a>(&'a self, map: &'a Map<String, Value>) -> Vec<(&'a str, &'a str)> {
        let other = |(key, value): (&'a String, &'a String)| {
            let current = map.get(key)?.as_str()?;
            (current != value).then_some((key.as_str(), current))
        };
        self.set.iter().filter_map(other).collect()
    }

    /// Changes `metadata.FIELD`, which stays as an empty map when nothing is left of it.
    pub fn apply(&self, object: &mut Value, field: &str) {
        let metadata = &mut object["metadata"];
        let mut map = metadata[field].as_object().cloned().unwrap_or_default();
        for (key, value) in &self.set {
            map.insert(key.clone(), Value::String(value.clone()));
        }
        for key in &self.remove {
            map.remove(key);
        }
        metadata[field] = Value::Object(map);
    }
}

/// An object's `metadata.FIELD`.
pub fn map_of(object: &Value, field: &str) -> Map<String, Value> {
    object["metadata"][field].as_object().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resources_come_first() {
        assert_eq!(
            split(&strings(&["pod", "x", "a=b", "c-"]), "label"),
            Ok((strings(&["pod", "x"]), strings(&["a=b", "c-"])))
        );
        assert_eq!(
            split(&strings(&["pod", "a=b", "x"]), "label"),
            Err("all resources must be specified before label changes: x".to_owned())
        );
    }

    #[test]
    fn the_map_outlives_its_last_key() {
        let mut object = json!({"metadata": {"name": "x", "labels": {"a": "b"}}});
        Changes { remove: strings(&["a"]), ..Changes::default() }.apply(&mut object, "labels");
        assert_eq!(object, json!({"metadata": {"name": "x", "labels": {}}}));
    }
}
