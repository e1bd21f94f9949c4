//! Which revisions an object has had: from ReplicaSets for deployments, from ControllerRevisions for the others.

use std::collections::BTreeMap;

use api::{field::go_quote, patch::apply_strategic, selector::Selector};
use serde_json::{Map, Value, json};

use crate::{
    client::Call,
    context::Context,
    failure::{Failure, plain},
    typed,
    write::path,
};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// Annotations of a deployment that a rollback keeps; a ReplicaSet's copies of them do not come back.
const KEPT: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

/// Kinds with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Keeps ReplicaSets.
    Deployment,
    /// Keeps ControllerRevisions.
    DaemonSet,
    /// Keeps ControllerRevisions.
    StatefulSet,
}

impl Kind {
    /// The kind of that name, if it has a history.
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            ("apps" | "extensions", "Deployment") => Some(Self::Deployment),
            ("apps" | "extensions", "DaemonSet") => Some(Self::DaemonSet),
            ("apps", "StatefulSet") => Some(Self::StatefulSet),
            _ => None,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::DaemonSet => "daemonsets",
            Self::StatefulSet => "statefulsets",
        }
    }

    fn named_in_errors(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "Statefulset",
        }
    }
}

/// An object and the objects that keep its revisions, in the server's order.
pub struct History {
    /// What it is the history of.
    pub kind: Kind,
    /// The object.
    pub object: Value,
    /// ReplicaSets or ControllerRevisions that it controls.
    pub records: Vec<Value>,
}

impl History {
    /// Asks the server.
    ///
    /// # Errors
    /// It refuses, or the object is not there.
    pub async fn read(cx: &Context, kind: Kind, namespace: &str, name: &str) -> Result<Self, Failure> {
        let client = cx.client()?;
        let base = format!("/apis/apps/v1/namespaces/{}", path(namespace));
        let failed = |what: &str, f: &Failure| plain(format!("failed to retrieve {what} {name}: {}", f.message()));
        let object = client.json(Call::get(format!("{base}/{}/{}", kind.plural(), path(name)))).await;
        let object = object.map_err(|f| failed(kind.named_in_errors(), &f))?;
        let selector = object["spec"]["selector"].clone();
        let selector = serde_json::from_value(selector).ok().and_then(|s| Selector::from_label_selector(Some(&s)).ok());
        let selector = selector.map(|s| s.to_string()).unwrap_or_default();
        let records = if kind == Kind::Deployment { "replicasets" } else { "controllerrevisions" };
        let list = client.json(Call::get(format!("{base}/{records}")).query_if("labelSelector", &selector)).await;
        let list = list.map_err(|f| match kind {
            Kind::Deployment => failed("replica sets from deployment", &f),
            _ => plain(format!("unable to find history controlled by {} {name}: {}", object_kind(kind), f.message())),
        })?;
        let uid = &object["metadata"]["uid"];
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let records = items.into_iter().filter(|item| controller(item).is_some_and(|c| c["uid"] == *uid)).collect();
        Ok(Self { kind, object, records })
    }

    /// Pod templates by revision, with the cause of the change among their annotations.
    pub fn templates(&self) -> Result<BTreeMap<i64, Value>, String> {
        let mut templates = BTreeMap::new();
        for record in &self.records {
            let (Some(revision), template) = (self.revision_of(record), self.template_of(record)?) else { continue };
            templates.insert(revision, template);
        }
        Ok(templates)
    }

    /// What `-o` prints for each revision: the ReplicaSet, or the object as it was.
    pub fn objects(&self) -> Result<BTreeMap<i64, Value>, String> {
        let mut objects = BTreeMap::new();
        for record in &self.records {
            let Some(revision) = self.revision_of(record) else { continue };
            let mut object = match self.kind {
                Kind::Deployment => record.clone(),
                _ => self.as_it_was(record)?,
            };
            object["apiVersion"] = json!("apps/v1");
            object["kind"] = json!(if self.kind == Kind::Deployment { "ReplicaSet" } else { object_kind(self.kind) });
            objects.insert(revision, object);
        }
        Ok(objects)
    }

    fn revision_of(&self, record: &Value) -> Option<i64> {
        match self.kind {
            Kind::Deployment => revision(record).ok(),
            _ => record["revision"].as_i64(),
        }
    }

    fn template_of(&self, record: &Value) -> Result<Value, String> {
        let mut template = match self.kind {
            Kind::Deployment => record["spec"]["template"].clone(),
            _ => self.as_it_was(record)?["spec"]["template"].clone(),
        };
        let cause = cause(record);
        if self.kind == Kind::Deployment && !cause.is_empty() {
            template["metadata"]["annotations"][CHANGE_CAUSE] = json!(cause);
        }
        Ok(template)
    }

    /// The object with the patch that a ControllerRevision keeps.
    fn as_it_was(&self, record: &Value) -> Result<Value, String> {
        let ty = typed::type_of(&json!({"apiVersion": "apps/v1", "kind": object_kind(self.kind)}));
        let (Some(ty), Value::Object(object), Value::Object(patch)) = (ty, &self.object, &record["data"]) else {
            return Err(format!("unable to parse history {}", record["metadata"]["name"].as_str().unwrap_or_default()));
        };
        apply_strategic(object.clone(), patch.clone(), ty).map(Value::Object).map_err(|e| e.to_string())
    }

    /// The table of revisions, or one revision's template in words.
    pub fn view(&self, revision: i64, describe: impl Fn(&Value) -> String) -> Result<String, String> {
        let templates = self.templates()?;
        if templates.is_empty() {
            return Ok("No rollout history found.".to_owned());
        }
        if revision > 0 {
            let template = templates.get(&revision).ok_or("unable to find the specified revision")?;
            return Ok(describe(template));
        }
        let causes: BTreeMap<i64, String> = match self.kind {
            Kind::Deployment => templates.iter().map(|(r, t)| (*r, cause(t))).collect(),
            _ => self.records.iter().filter_map(|r| Some((self.revision_of(r)?, cause(r)))).collect(),
        };
        let rows: Vec<(String, &str)> =
            causes.iter().map(|(r, c)| (r.to_string(), if c.is_empty() { "<none>" } else { c.as_str() })).collect();
        let width = rows.iter().map(|(r, _)| r.len()).chain(["REVISION".len()]).max().unwrap_or_default();
        let mut text = format!("{:width$}  CHANGE-CAUSE\n", "REVISION");
        for (revision, cause) in rows {
            text.push_str(&format!("{revision:width$}  {cause}\n"));
        }
        Ok(text)
    }

    /// What an undo to a revision (0: the one before) has to do.
    pub fn undo(&self, to: i64) -> Result<Undo, String> {
        if to < 0 {
            return Err(not_found(to));
        }
        match self.kind {
            Kind::Deployment => self.undo_deployment(to),
            _ => self.undo_revision(to),
        }
    }

    fn undo_deployment(&self, to: i64) -> Result<Undo, String> {
        let mut by_revision: Vec<(i64, &Value)> = self.records.iter().filter_map(|r| Some((revision(r).ok()?, r))).collect();
        by_revision.sort_by_key(|(revision, _)| *revision);
        let record = match to {
            0 => by_revision.iter().rev().nth(1).map(|(_, r)| *r).ok_or_else(|| {
                let name = go_quote(self.object["metadata"]["name"].as_str().unwrap_or_default());
                format!("no rollout history found for deployment {name}")
            })?,
            to => by_revision.iter().find(|(revision, _)| *revision == to).map(|(_, r)| *r).ok_or_else(|| not_found(to))?,
        };
        let template = &record["spec"]["template"];
        let bare = without_hash(template);
        let mut annotations = Map::new();
        for (key, value) in self.object["metadata"]["annotations"].as_object().into_iter().flatten() {
            if KEPT.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        for (key, value) in record["metadata"]["annotations"].as_object().into_iter().flatten() {
            if !KEPT.contains(&key.as_str()) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        let change = if self.object["spec"]["paused"] == true {
            Change::Paused
        } else if bare == without_hash(&self.object["spec"]["template"]) {
            Change::None
        } else {
            Change::Json(json!([
                {"op": "replace", "path": "/spec/template", "value": bare},
                {"op": "replace", "path": "/metadata/annotations", "value": annotations},
            ]))
        };
        Ok(Undo { template: template.clone(), change })
    }

    fn undo_revision(&self, to: i64) -> Result<Undo, String> {
        let mut records: Vec<&Value> = self.records.iter().collect();
        records.sort_by_key(|r| r["revision"].as_i64());
        let record = match to {
            0 => records.iter().rev().nth(1).ok_or("no last revision to roll back to")?,
            to => records.iter().find(|r| r["revision"] == to).ok_or_else(|| not_found(to))?,
        };
        let template = self.as_it_was(record)?["spec"]["template"].clone();
        let change = if template == self.object["spec"]["template"] {
            Change::None
        } else {
            Change::Strategic(record["data"].clone())
        };
        Ok(Undo { template, change })
    }
}

/// The decision of an undo.
#[derive(Debug, PartialEq)]
pub struct Undo {
    /// The pod template that comes back.
    pub template: Value,
    /// How.
    pub change: Change,
}

/// What an undo writes.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// The template is the current one.
    None,
    /// Paused deployments are not rolled back.
    Paused,
    /// A JSON patch.
    Json(Value),
    /// A strategic merge patch.
    Strategic(Value),
}

fn object_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Deployment => "Deployment",
        Kind::DaemonSet => "DaemonSet",
        Kind::StatefulSet => "StatefulSet",
    }
}

fn not_found(revision: i64) -> String {
    format!("unable to find specified revision {revision} in history")
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    template
}

/// The owner that controls an object.
pub fn controller(object: &Value) -> Option<&Value> {
    object["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}

fn cause(object: &Value) -> String {
    object["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap_or_default().to_owned()
}

/// The revision that a deployment or a ReplicaSet is annotated with; 0 where it is not.
pub fn revision(object: &Value) -> Result<i64, String> {
    match object["metadata"]["annotations"][REVISION].as_str() {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| format!("strconv.ParseInt: parsing {}: invalid syntax", go_quote(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica_set(revision: i64, image: &str, cause: &str) -> Value {
        let mut object = json!({"metadata": {"annotations": {REVISION: revision.to_string()}},
            "spec": {"template": {"metadata": {"labels": {"app": "x", HASH: "h"}}, "spec": {"image": image}}}});
        if !cause.is_empty() {
            object["metadata"]["annotations"][CHANGE_CAUSE] = json!(cause);
        }
        object
    }

    fn history() -> History {
        let object = json!({"metadata": {"name": "d", "annotations": {REVISION: "10", "own": "gone"}},
            "spec": {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {"image": "c"}}}});
        let records = vec![replica_set(10, "c", ""), replica_set(2, "a", "first"), replica_set(3, "b", "")];
        History { kind: Kind::Deployment, object, records }
    }

    #[test]
    fn revisions_are_listed_in_order() {
        let want = "REVISION  CHANGE-CAUSE\n2         first\n3         <none>\n10        <none>\n";
        assert_eq!(history().view(0, |_| String::new()), Ok(want.to_owned()));
        assert_eq!(history().view(4, |_| String::new()), Err("unable to find the specified revision".to_owned()));
    }

    #[test]
    fn an_undo_takes_the_revision_before() {
        let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"image": "b"}});
        let patch = json!([
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "replace", "path": "/metadata/annotations", "value": {REVISION: "10"}},
        ]);
        assert_eq!(history().undo(0).unwrap().change, Change::Json(patch));
        assert_eq!(history().undo(10).unwrap().change, Change::None);
        assert_eq!(history().undo(7), Err("unable to find specified revision 7 in history".to_owned()));
    }
}
