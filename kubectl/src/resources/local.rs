//! Objects from files: which documents are valid, what kind they are of, and where they belong.

use std::{collections::VecDeque, sync::Arc};

use api::{field::go_quote, schema::go};
use serde_json::Value;

use super::{Document, Object, Query, Target, Targets, arguments, missing, schema::Definitions};
use crate::{
    client::{Call, log},
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
        let read = files.read().await?;
        // Of what is asked for again, the answers' labels count.
        let selector = self.selector()?.filter(|_| !self.latest);
        let mut out = Targets { single: read.single, ..Targets::default() };
        let mut bad = None;
        let mut reading = read.failures.into_iter().peekable();
        for (at, document) in read.documents.into_iter().enumerate() {
            while let Some(unread) = reading.next_if(|unread| unread.at <= at) {
                if bad != Some(unread.stream) || !self.stops {
                    out.failed(unread.why, None, unread.stream);
                }
            }
            let stream = document.stream;
            if bad == Some(stream) {
                continue;
            }
            if let Err(failure) = self.check(cx, &document).await {
                // No more is read of where something invalid was found.
                bad = Some(stream);
                out.failed(failure, None, stream);
                continue;
            }
            let read = match self.read(cx, document, at).await {
                Ok(read) => read,
                Err(failure) => {
                    bad = self.stops.then_some(stream).or(bad);
                    out.failed(failure, None, stream);
                    continue;
                }
            };
            for (list, object) in read {
                match object {
                    Ok(object) if selector.as_ref().is_none_or(|wanted| wanted.matches_object(&object.value)) => {
                        out.targets.push(Target::Local(Object { stream, ..object }));
                    }
                    Ok(_) => {}
                    Err(failure) => {
                        bad = self.stops.then_some(stream).or(bad);
                        out.failed(failure, list, stream);
                    }
                }
            }
        }
        for unread in reading.filter(|unread| bad != Some(unread.stream) || !self.stops) {
            out.failed(unread.why, None, unread.stream);
        }
        Ok(out)
    }

    /// Upstream's check of a document against what the server serves (`--validate`).
    async fn check(&self, cx: &Context, document: &Document) -> Result<(), Failure> {
        if matches!(self.validate, "" | "Ignore") {
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
        let (api_version, kind) = kind_of(value).map_err(|wrong| together(&wrong))?;
        if (api_version, kind) == ("v1", "List") {
            return match self.validate {
                "Strict" => valid_items(cx, value).await,
                _ => {
                    unchecked_by_server();
                    Ok(())
                }
            };
        }
        reachable(cx).await.map_err(|why| format!("failed to download openapi: {why}"))?;
        if self.unchecked(cx, api_version, kind).await.map_err(|failure| failure.message())? {
            return Err(
                "failed to check CRD: failed to list CRDs: the server could not find the requested resource".to_owned()
            );
        }
        Ok(())
    }

    /// The objects of one document: one, or a list's items.
    async fn read(&self, cx: &Context, document: Document, at: usize) -> Result<Contents, Failure> {
        let Document { value, text: written, source, .. } = document;
        let undecoded = |why: String| plain(format!("unable to decode {}: {why}", go_quote(&source)));
        if !value.is_object() {
            let found = go::kind(&value);
            return Err(undecoded(format!("json: cannot unmarshal {found} into Go value of type unstructured.detector")));
        }
        let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
        let field = match (self.typed, kind.as_str()) {
            (true, "List") => "List.items of type []runtime.RawExtension",
            _ => "decodeList.items of type []json.RawMessage",
        };
        let mut items = match value.get("items") {
            None if self.typed && kind == "List" => Some(Vec::new()),
            None => None,
            Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(items)) => Some(items.clone()),
            // A type says by itself what it has.
            Some(_) if self.typed && kind != "List" => None,
            Some(other) => {
                let found = go::kind(other);
                return Err(undecoded(format!("json: cannot unmarshal {found} into Go struct field {field}")));
            }
        };
        if let Some(other) = items.iter().flatten().find(|item| !item.is_object() && !item.is_null()) {
            let found = go::kind(other);
            return Err(undecoded(format!(
                "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            )));
        }
        for (field, name) in [(&kind, "Kind"), (&api_version, "apiVersion")] {
            // Who does not go by types asks for the kind in whatever version there is.
            if field.is_empty() && (self.typed || name == "Kind") {
                let written = written.unwrap_or_else(|| value.to_string());
                return Err(undecoded(format!("Object '{name}' is missing in '{written}'")));
            }
        }
        self.decoded(&value).map_err(undecoded)?;
        for item in items.iter_mut().flatten() {
            if item.is_null() {
                *item = Value::Object(serde_json::Map::new());
            }
            // A list of any kinds leaves them to its items, as far as types go; one of a certain kind does not.
            let bare = text(item, "kind").is_empty() && text(item, "apiVersion").is_empty();
            let inherits = if self.typed { kind != "List" } else { bare };
            if inherits {
                item["kind"] = kind.trim_end_matches("List").into();
                item["apiVersion"] = api_version.clone().into();
            }
        }
        let (name, namespace) = (text(&value["metadata"], "name"), text(&value["metadata"], "namespace"));
        if !self.local {
            // Who has no client is told so, whatever the file holds.
            cx.discovery()?;
        }
        let mapping = self.mapping(cx, &api_version, &kind).await.map_err(|failure| match failure {
            Failure::NoKind(..) => {
                let why = match api_version.is_empty() {
                    true => format!("no matches for kind {} in version \"\"", go_quote(&kind)),
                    false => failure.message(),
                };
                plain(format!(
                    "resource mapping not found for name: {} namespace: {} from {}: {why}\nensure CRDs are installed first",
                    go_quote(&name),
                    go_quote(&namespace),
                    go_quote(&source),
                ))
            }
            other => plain(format!("unable to recognize {}: {}", go_quote(&source), other.message())),
        })?;
        match items {
            None => {
                let object = self.placed(cx, mapping, value, source, None);
                let versioned = self.local || self.by_kind || !api_version.is_empty();
                let unversioned = |object: Object| match versioned {
                    true => object,
                    false => {
                        let mapping = Mapping { version: String::new(), ..(*object.mapping).clone() };
                        Object { mapping: Arc::new(mapping), ..object }
                    }
                };
                Ok(vec![(None, object.map(unversioned))])
            }
            Some(items) => {
                let texts = written.as_deref().map(items_of).unwrap_or_default().into_iter().map(Some);
                let items = items.into_iter().zip(texts.chain(std::iter::repeat(None))).collect();
                self.items(cx, items, &source, at).await
            }
        }
    }

    /// What upstream finds in a list, which goes by a number of its own.
    async fn items(
        &self,
        cx: &Context,
        items: VecDeque<(Value, Option<String>)>,
        source: &str,
        list: usize,
    ) -> Result<Contents, Failure> {
        let list = Some(list);
        let mut out = Contents::new();
        let mut all = items;
        let mut flat = Vec::new();
        while let Some((mut item, written)) = all.pop_front() {
            match item.get_mut("items") {
                Some(Value::Array(inner)) if self.typed => all.extend(inner.drain(..).map(|item| (item, None))),
                Some(Value::Array(_)) => {
                    return Err(plain("*unstructured.Unstructured is not a list: no Items field in this object"));
                }
                _ => flat.push((item, written)),
            }
        }
        if self.typed {
            let missing = |name, item: &Value, written: Option<&String>| {
                let written = written.cloned().unwrap_or_else(|| item.to_string());
                Some(format!("Object '{name}' is missing in '{written}'"))
            };
            let wrong = flat.iter().filter_map(|(item, written)| match (text(item, "apiVersion"), text(item, "kind")) {
                (_, kind) if kind.is_empty() => missing("Kind", item, written.as_ref()),
                (api_version, _) if api_version.is_empty() => missing("apiVersion", item, written.as_ref()),
                (api_version, kind) if typed::is_registered(&api_version, &kind) => self.decoded(item).err(),
                _ => None,
            });
            let wrong: Vec<_> = wrong.map(plain).collect();
            if !wrong.is_empty() {
                return Err(Failure::Many(wrong));
            }
        }
        for (item, _) in flat {
            let (api_version, kind) = (text(&item, "apiVersion"), text(&item, "kind"));
            let missing = match (kind.as_str(), api_version.as_str()) {
                _ if self.typed && !typed::is_registered(&api_version, &kind) => Some((
                    "runtime.Unknown",
                    "no kind is registered for the type runtime.Unknown in scheme \"pkg/scheme/scheme.go:28\"",
                )),
                ("", _) => Some(("unstructured.Unstructured", "Object 'Kind' is missing in 'object has no kind field '")),
                (_, "") => {
                    Some(("unstructured.Unstructured", "Object 'apiVersion' is missing in 'object has no apiVersion field'"))
                }
                _ => None,
            };
            if let Some((ty, what)) = missing {
                let why = format!("unable to get type info from the object \"*{ty}\": {what}");
                out.push((list, Err(plain(why))));
                continue;
            }
            match self.mapping(cx, &api_version, &kind).await {
                Ok(mapping) => out.push((list, self.placed(cx, mapping, item, source.to_owned(), list))),
                Err(failure) => {
                    let why = format!("unable to recognize {}", failure.message());
                    out.push((list, Err(plain(why))));
                }
            }
        }
        Ok(out)
    }

    /// What decoding an object fails on: into its type if the verb goes by types, else into its metadata.
    fn decoded(&self, value: &Value) -> Result<(), String> {
        if !self.typed {
            return mistyped(&value["metadata"]).map_or(Ok(()), |why| Err(format!("json: cannot unmarshal {why}")));
        }
        let (api_version, kind) = (text(value, "apiVersion"), text(value, "kind"));
        if (kind.as_str(), api_version.as_str()) == ("List", "v1") {
            return Ok(());
        }
        if !typed::is_registered(&api_version, &kind) {
            let (kind, api_version) = (go_quote(&kind), go_quote(&api_version));
            return Err(format!(
                "no kind {kind} is registered for version {api_version} in scheme \"pkg/scheme/scheme.go:28\""
            ));
        }
        match typed::type_of(value) {
            Some(ty) => api::schema::check::check(&mut value.clone(), ty).map(drop),
            None => Ok(()),
        }
    }

    async fn mapping(&self, cx: &Context, api_version: &str, kind: &str) -> Result<Arc<Mapping>, Failure> {
        if self.local {
            Ok(Arc::new(Mapping::guessed(api_version, kind)))
        } else {
            cx.discovery()?.kind(api_version, kind).await
        }
    }

    fn placed(
        &self,
        cx: &Context,
        mapping: Arc<Mapping>,
        value: Value,
        source: String,
        list: Option<usize>,
    ) -> Result<Object, Failure> {
        let (name, namespace) = (text(&value["metadata"], "name"), text(&value["metadata"], "namespace"));
        let mut object = Object { mapping, namespace: None, name, value, source, list, stream: 0 };
        self.place(cx, &mut object, &namespace)?;
        Ok(object)
    }

    /// Whether the server has the API version but not the kind, and no custom kinds at all: upstream looks for a custom kind
    /// then, and stops when it cannot.
    async fn unchecked(&self, cx: &Context, api_version: &str, kind: &str) -> Result<bool, Failure> {
        let (group, version) = split_api_version(api_version);
        if cx.discovery()?.find(|catalog| catalog.kind(group, version, kind).cloned()).await?.is_some() {
            return Ok(false);
        }
        let catalog = cx.discovery()?.catalog().await?;
        let served = |wanted: &str, version: Option<&str>| {
            catalog.mappings.iter().any(|m| m.group == wanted && version.is_none_or(|version| m.version == version))
        };
        let known = served(group, Some(version));
        if !known && self.validate == "Warn" {
            unchecked_by_server();
        }
        Ok(known && !served("apiextensions.k8s.io", None))
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

/// What a document holds: objects, or why there is none, then with the list that this is about.
type Contents = Vec<(Option<usize>, Result<Object, Failure>)>;

/// A field's text, or nothing.
fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// Several things that are wrong, as one.
fn together(wrong: &[String]) -> String {
    Failure::Many(wrong.iter().map(plain).collect()).message()
}

/// An object's `apiVersion` and `kind`, and all that is wrong with them.
fn kind_of(value: &Value) -> Result<(&str, &str), Vec<String>> {
    if !value.is_object() {
        return Err(vec!["invalid object to validate".to_owned()]);
    }
    let mut wrong = Vec::new();
    let mut text = |field: &str| match value.get(field).filter(|value| !value.is_null()) {
        Some(Value::String(text)) if field == "apiVersion" && text.matches('/').count() > 1 => {
            wrong.push(format!("unexpected GroupVersion string: {text}"));
            ""
        }
        Some(Value::String(text)) => text.as_str(),
        Some(_) => {
            wrong.push(format!("{field} isn't string type"));
            ""
        }
        None => {
            wrong.push(format!("{field} not set"));
            ""
        }
    };
    let found = (text("apiVersion"), text("kind"));
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

/// Checks a `v1` List, whose items the server is not asked to check.
async fn valid_items(cx: &Context, list: &Value) -> Result<(), String> {
    let Some(items) = list.get("items").and_then(Value::as_array) else {
        return Err("invalid object to validate".to_owned());
    };
    let (mut wrong, mut definitions) = (Vec::new(), None);
    for item in items {
        match kind_of(item) {
            Err(why) => wrong.extend(why),
            Ok((api_version, kind)) => {
                if definitions.is_none() {
                    let client = cx.client().map_err(|failure| failure.message())?;
                    definitions = Some(Definitions::fetch(client).await);
                }
                match definitions.as_ref() {
                    Some(Ok(definitions)) => wrong.extend(definitions.check(item, api_version, kind)),
                    Some(Err(why)) => wrong.push(why.clone()),
                    None => {}
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(together(&wrong)) }
}

/// What upstream says where it was asked for warnings of what only it could check.
fn unchecked_by_server() {
    const SKIPPED: &str =
        "cannot perform warn validation if server-side field validation is unsupported, skipping validation";
    log::warning("schema.go:148", SKIPPED);
}

/// What in an object's metadata is of a wrong type: clients read that much of every object.
pub fn mistyped(metadata: &Value) -> Option<String> {
    if !metadata.is_object() && !metadata.is_null() {
        let found = go::kind(metadata);
        return Some(format!("{found} into Go struct field metadataOnlyObject.metadata of type v1.ObjectMeta"));
    }
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

/// How the items of a list are written.
fn items_of(list: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        items: Vec<&'a serde_json::value::RawValue>,
    }
    let items = serde_json::from_str::<List<'_>>(list).map(|list| list.items).unwrap_or_default();
    items.into_iter().map(|item| item.get().to_owned()).collect()
}
