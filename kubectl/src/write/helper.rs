//! Writes of one kind's objects: what every writing verb asks of the server.

use std::sync::Arc;

use api::patch::PatchType;
use serde_json::{Value, json};

use crate::{client::Call, context::Context, discovery::Mapping, failure::Failure, output::DryRun, resources::nameless};

/// A kind and how it is to be written.
#[derive(Clone)]
pub struct Helper<'a> {
    cx: &'a Context,
    mapping: Arc<Mapping>,
    subresource: String,
    dry_run: bool,
    manager: String,
    validation: String,
}

fn named(name: &str) -> Result<(), Failure> {
    if name.is_empty() { Err(nameless()) } else { Ok(()) }
}

impl<'a> Helper<'a> {
    /// Writes as they are, without a manager's name.
    pub fn new(cx: &'a Context, mapping: &Arc<Mapping>) -> Self {
        let (subresource, manager, validation) = (String::new(), String::new(), String::new());
        Self { cx, mapping: mapping.clone(), subresource, dry_run: false, manager, validation }
    }

    /// The server tries and keeps nothing, if the strategy says so.
    #[must_use]
    pub fn dry_run(mut self, strategy: DryRun) -> Self {
        self.dry_run = strategy == DryRun::Server;
        self
    }

    /// `fieldManager`.
    #[must_use]
    pub fn manager(mut self, name: &str) -> Self {
        name.clone_into(&mut self.manager);
        self
    }

    /// `fieldValidation`: `Strict`, `Warn`, `Ignore`.
    #[must_use]
    pub fn validation(mut self, directive: &str) -> Self {
        directive.clone_into(&mut self.validation);
        self
    }

    /// Below the objects: `status`, `scale`.
    #[must_use]
    pub fn subresource(mut self, name: &str) -> Self {
        name.clone_into(&mut self.subresource);
        self
    }

    fn path(&self, namespace: &str, name: Option<&str>) -> String {
        let path = self.mapping.path(Some(namespace), name);
        if self.subresource.is_empty() || name.is_none() { path } else { format!("{path}/{}", self.subresource) }
    }

    fn with_options(&self, call: Call) -> Call {
        let call = call.query_if("dryRun", if self.dry_run { "All" } else { "" });
        call.query_if("fieldManager", &self.manager).query_if("fieldValidation", &self.validation)
    }

    /// The object.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Value, Failure> {
        named(name)?;
        self.cx.client()?.json(Call::get(self.path(namespace, Some(name)))).await
    }

    /// Creates; a resourceVersion in the object is left out, as an object that is not there has none.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create(&self, namespace: &str, object: &Value) -> Result<Value, Failure> {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        self.cx.client()?.json(self.with_options(Call::post(self.path(namespace, None), &object))).await
    }

    /// Creates the subresource of an object (`token`, `eviction`).
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create_under(&self, namespace: &str, name: &str, object: &Value) -> Result<Value, Failure> {
        self.cx.client()?.json(self.with_options(Call::post(self.path(namespace, Some(name)), object))).await
    }

    /// Patches.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn patch(&self, namespace: &str, name: &str, kind: PatchType, patch: &str) -> Result<Value, Failure> {
        named(name)?;
        let call = Call::patch(self.path(namespace, Some(name)), kind.content_type(), patch.to_owned());
        self.cx.client()?.json(self.with_options(call)).await
    }

    /// Replaces. Without a resourceVersion in the object, and if `overwrite`, whatever is there is replaced: the current
    /// resourceVersion is asked for, for kinds that cannot be updated without one.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn replace(&self, namespace: &str, name: &str, overwrite: bool, object: &Value) -> Result<Value, Failure> {
        let mut object = object.clone();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if version.is_empty() && overwrite {
            // Where the object cannot be had, the update says why.
            if let Ok(current) = self.get(namespace, name).await {
                object["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
            }
        }
        named(name)?;
        self.cx.client()?.json(self.with_options(Call::put(self.path(namespace, Some(name)), &object))).await
    }

    /// Deletes, with these options.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn delete(&self, namespace: &str, name: &str, mut options: Value) -> Result<Value, Failure> {
        named(name)?;
        options["kind"] = json!("DeleteOptions");
        options["apiVersion"] = json!(self.mapping.api_version());
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        self.cx.client()?.json(Call::delete(self.path(namespace, Some(name))).json(&options)).await
    }
}
