//! Objects from files: which documents are valid, what kind they are of, and where they belong.

use std::sync::Arc;

use api::{field::go_quote, schema::go};
use serde_json::Value;

use super::{Document, Object, Query, Target, Targets, arguments, missing};
use crate::{
    client::Call,
    context::Context,
    discovery::{Mapping, split_api_version},
    failure::{Failure, plain},
    typed,
};

impl Query<'_> {
    /// What files name.
    pub(super) async fn by_files(&self, cx: &Context, given: &arguments::Given) -> Result<Targets, Failure> {
        if !given.types.is_empty() {
            return Err(plain(
                "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well",
            ));
        }
        if !given.names.is_empty() {
            return Err(plain("name cannot be provided when a path is specified"));
        }
        if !given.pairs.is_empty() {
            return Err(plain("resource/name arguments cannot be provided when a path is specified"));
        }
        let Some(files) = self.files else { return Err(missing()) };
        if let Err(failure) = files.no_kustomization() {
            return Ok(Targets { failures: vec![failure], failed_at: vec![0], ..Targets::default() });
        }
        let read = files.read().await?;
        // Of what is asked for again, the answers' labels count.
        let selector = self.selector()?.filter(|_| !self.latest);
        let mut out = Targets { single: read.single, ..Targets::default() };
        let mut bad = None;
        let mut reading = read.failures.into_iter().zip(read.failed_at).peekable();
        for (at, document) in read.documents.into_iter().enumerate() {
            while let Some((failure, _)) = reading.next_if(|(_, before)| *before <= at) {
                out.failed(failure);
            }
            if bad == Some(document.stream) {
                continue;
            }
            if let Err(failure) = self.check(cx, &document).await {
                // No more is read of where something invalid was found.
                bad = Some(document.stream);
                out.failed(failure);
                continue;
            }
            match self.object(cx, document).await {
                Ok(objects) => {
                    let chosen =
                        |object: &Object| selector.as_ref().is_none_or(|selector| selector.matches_object(&object.value));
                    out.targets.extend(objects.into_iter().filter(chosen).map(Target::Local));
                }
                Err(failure) => out.failed(failure),
            }
        }
        reading.for_each(|(failure, _)| out.failed(failure));
        Ok(out)
    }

    /// Upstream's check of a document against what the server serves (`--validate`).
    async fn check(&self, cx: &Context, document: &Document) -> Result<(), Failure> {
        if !self.validate {
            return Ok(());
        }
        self.valid(cx, &document.value).await.map_err(|why| {
            plain(format!(
                "error validating {}: error validating data: {why}; if you choose to ignore these errors, turn validation off with --validate=false",
                go_quote(&document.source)
            ))
        })
    }

    async fn valid(&self, cx: &Context, value: &Value) -> Result<(), String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        match (api_version, kind) {
            _ if !value.is_object() => return Err("invalid object to validate".to_owned()),
            ("", "") => return Err("[apiVersion not set, kind not set]".to_owned()),
            ("", _) => return Err("apiVersion not set".to_owned()),
            (_, "") => return Err("kind not set".to_owned()),
            _ if api_version.matches('/').count() > 1 => {
                return Err(format!("unexpected GroupVersion string: {api_version}"));
            }
            _ => {}
        }
        reachable(cx).await.map_err(|why| format!("failed to download openapi: {why}"))?;
        if kind == "List" {
            for item in value.get("items").and_then(Value::as_array).into_iter().flatten() {
                Box::pin(self.valid(cx, item)).await?;
            }
        } else if self.unchecked(cx, api_version, kind).await.map_err(|failure| failure.message())? {
            return Err(
                "failed to check CRD: failed to list CRDs: the server could not find the requested resource".to_owned()
            );
        }
        Ok(())
    }

    /// The objects of one document: one, or a list's items.
    async fn object(&self, cx: &Context, document: Document) -> Result<Vec<Object>, Failure> {
        let Document { value, source, stream } = document;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if !value.is_object() {
            return Err(plain(format!(
                "unable to decode {}: json: cannot unmarshal {} into Go value of type unstructured.detector",
                go_quote(&source),
                go::kind(&value)
            )));
        }
        for (field, name) in [(&kind, "Kind"), (&api_version, "apiVersion")] {
            if field.is_empty() {
                return Err(plain(format!(
                    "unable to decode {}: Object '{name}' is missing in '{value}'",
                    go_quote(&source)
                )));
            }
        }
        if let (Some(items), true) = (value.get("items").and_then(Value::as_array), kind.ends_with("List")) {
            let mut objects = Vec::new();
            for item in items {
                let mut item = item.clone();
                if let Some(map) = item.as_object_mut().filter(|_| kind != "List") {
                    map.entry("apiVersion").or_insert_with(|| api_version.clone().into());
                    map.entry("kind").or_insert_with(|| kind.trim_end_matches("List").into());
                }
                objects.extend(Box::pin(self.object(cx, Document { value: item, source: source.clone(), stream })).await?);
            }
            return Ok(objects);
        }
        if self.typed && !typed::is_registered(&api_version, &kind) {
            return Err(plain(format!(
                "unable to decode {}: no kind {} is registered for version {} in scheme \"pkg/scheme/scheme.go:28\"",
                go_quote(&source),
                go_quote(&kind),
                go_quote(&api_version)
            )));
        }
        let wrong = match typed::type_of(&value).filter(|_| self.typed) {
            Some(ty) => api::schema::check::check(&mut value.clone(), ty).err(),
            None => mistyped(&value["metadata"]).map(|why| format!("json: cannot unmarshal {why}")),
        };
        if let Some(why) = wrong {
            return Err(plain(format!("unable to decode {}: {why}", go_quote(&source))));
        }
        let meta = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
        let (name, namespace) = (meta("name"), meta("namespace"));
        let mapping = if self.local {
            Arc::new(Mapping::guessed(&api_version, &kind))
        } else {
            cx.discovery()?.kind(&api_version, &kind).await.map_err(|failure| match failure {
                Failure::NoKind(..) => plain(format!(
                    "resource mapping not found for name: {} namespace: {} from {}: {}\nensure CRDs are installed first",
                    go_quote(&name),
                    go_quote(&namespace),
                    go_quote(&source),
                    failure.message()
                )),
                other => plain(format!("unable to recognize {}: {}", go_quote(&source), other.message())),
            })?
        };
        let mut object = Object { mapping, namespace: None, name, value, source };
        self.place(cx, &mut object, &namespace)?;
        Ok(vec![object])
    }

    /// Whether the server has the API version but not the kind, and no custom kinds at all: upstream looks for a custom kind
    /// then, and stops when it cannot.
    async fn unchecked(&self, cx: &Context, api_version: &str, kind: &str) -> Result<bool, Failure> {
        let (group, version) = split_api_version(api_version);
        if !matches!(cx.discovery()?.kind(api_version, kind).await, Err(Failure::NoKind(..))) {
            return Ok(false);
        }
        let catalog = cx.discovery()?.catalog().await?;
        let served = |wanted: &str, version: Option<&str>| {
            catalog.mappings.iter().any(|m| m.group == wanted && version.is_none_or(|version| m.version == version))
        };
        Ok(served(group, Some(version)) && !served("apiextensions.k8s.io", None))
    }

    /// Gives an object from a file its namespace.
    fn place(&self, cx: &Context, object: &mut Object, own: &str) -> Result<(), Failure> {
        if self.local {
            object.namespace = object.mapping.namespaced.then(|| own.to_owned());
            return Ok(());
        }
        if !object.mapping.namespaced {
            if let Some(metadata) = object.value["metadata"].as_object_mut() {
                metadata.remove("namespace");
            }
            return Ok(());
        }
        let namespace = match (own, cx.explicit_namespace()) {
            ("", _) if self.no_default_namespace => {
                let Mapping { group, version, resource, .. } = &*object.mapping;
                let name = go_quote(&object.name);
                return Err(plain(format!("no namespace set on resource {group}/{version}, Resource={resource} {name}")));
            }
            ("", _) => {
                let namespace = cx.namespace()?;
                if !object.value["metadata"].is_object() {
                    object.value["metadata"] = Value::Object(serde_json::Map::new());
                }
                object.value["metadata"]["namespace"] = namespace.clone().into();
                namespace
            }
            (own, Some(namespace)) if own != namespace => {
                return Err(plain(format!(
                    "the namespace from the provided object {} does not match the namespace {}. You must pass '--namespace={own}' to perform this operation.",
                    go_quote(own),
                    go_quote(namespace)
                )));
            }
            (own, _) => own.to_owned(),
        };
        object.namespace = Some(namespace);
        Ok(())
    }
}

/// What in an object's metadata is of a wrong type: clients read that much of every object.
fn mistyped(metadata: &Value) -> Option<String> {
    let wrong = |value: &Value, field: &str, wanted: &str| {
        Some(format!("{} into Go struct field ObjectMeta.metadata.{field} of type {wanted}", go::kind(value)))
    };
    for field in ["name", "generateName", "namespace", "uid", "resourceVersion"] {
        match &metadata[field] {
            Value::Null | Value::String(_) => {}
            other => return wrong(other, field, "string"),
        }
    }
    for field in ["labels", "annotations"] {
        match &metadata[field] {
            Value::Null => {}
            Value::Object(map) => {
                if let Some(other) = map.values().find(|value| !value.is_string() && !value.is_null()) {
                    return wrong(other, field, "string");
                }
            }
            other => return wrong(other, field, "map[string]string"),
        }
    }
    None
}

/// Asks for the API's description, as upstream does before it checks anything.
async fn reachable(cx: &Context) -> Result<(), String> {
    let client = cx.client().map_err(|failure| failure.message())?;
    // The index says whether there is one; the document is large.
    match client.call(Call::get("/openapi/v3").soon()).await {
        Ok(_) => Ok(()),
        Err(_) => client.call(Call::get("/openapi/v2").soon()).await.map(drop).map_err(|failure| failure.unread().message()),
    }
}
