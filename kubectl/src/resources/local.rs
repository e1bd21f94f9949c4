//! Objects from files: which documents are valid, what kind they are of, and where they belong.

use std::{collections::VecDeque, sync::Arc};

use api::{field::go_quote, schema::go, selector::Selector};
use serde_json::Value;

use super::{Object, Query, Target, Targets, Turn, arguments, documents::Documents, files::Origin, schema::Definitions};
use crate::{
    client::{Call, log},
    context::Context,
    discovery::{Mapping, split_api_version},
    failure::{Failure, plain},
    typed,
};

/// A document and where it came from.
struct Document {
    value: Value,
    /// How JSON says it, for messages; YAML is told as what it comes to.
    text: Option<String>,
    /// The file, `STDIN` or URL.
    source: String,
}

/// What is known of something before its turn has come.
#[derive(Debug)]
pub enum Ready {
    /// All there is to know.
    Turn(Turn),
    /// Its content.
    Item(Item),
}

/// A part of a list.
#[derive(Debug)]
pub struct Item {
    list: usize,
    value: Value,
    /// The list's.
    source: String,
}

/// Files that were named, and what is left of them.
#[derive(Debug, Default)]
pub struct Files {
    origins: VecDeque<Origin>,
    /// The one that is being read.
    open: Option<Documents>,
    /// What chooses among the objects.
    selector: Option<Selector>,
    /// How many documents there were.
    documents: usize,
}

impl Files {
    async fn next(&mut self) -> Option<Result<Document, Failure>> {
        loop {
            if let Some(open) = &mut self.open {
                let source = open.source.clone();
                match open.next() {
                    Some(Ok((value, text))) => return Some(Ok(Document { value, text, source })),
                    Some(Err(why)) => return Some(Err(plain(format!("error parsing {source}: {why}")))),
                    None => self.open = None,
                }
            }
            match self.origins.pop_front()?.open().await {
                Ok(documents) => self.open = Some(documents),
                Err(failure) => return Some(Err(failure)),
            }
        }
    }

    /// Each file by itself.
    fn apart(self) -> impl Iterator<Item = Self> {
        let Self { origins, selector, .. } = self;
        origins.into_iter().map(move |origin| Self {
            origins: VecDeque::from([origin]),
            selector: selector.clone(),
            ..Self::default()
        })
    }
}

impl Targets {
    /// What comes next, read now if a file holds it.
    pub async fn next(&mut self, query: &Query<'_>, cx: &Context) -> Option<Turn> {
        loop {
            if let Some(turn) = self.rest(query, cx).await {
                return Some(turn);
            }
            let files = self.files.as_mut()?;
            let failed = |failure| Some(Turn { list: None, target: Err(failure) });
            let document = match files.next().await? {
                Ok(document) => document,
                Err(failure) => return failed(failure),
            };
            if let Err(failure) = query.check(cx, &document).await {
                // No more is read of where something invalid was found.
                files.open = None;
                return failed(failure);
            }
            files.documents += 1;
            match query.read(cx, document, files.documents).await {
                Ok(found) => self.ready = found,
                Err(failure) => return failed(failure),
            }
        }
    }

    /// What comes next of the document that was read last.
    pub async fn rest(&mut self, query: &Query<'_>, cx: &Context) -> Option<Turn> {
        loop {
            let turn = match self.ready.pop_front()? {
                Ready::Turn(turn) => turn,
                Ready::Item(item) => query.item(cx, item).await,
            };
            let selector = self.files.as_ref().and_then(|files| files.selector.as_ref());
            match (selector, &turn.target) {
                (Some(chosen), Ok(Target::Local(object))) if !chosen.matches_object(&object.value) => {}
                _ => return Some(turn),
            }
        }
    }

    /// What was asked for, file by file; what arguments name is one part.
    pub fn parts(self) -> Vec<Self> {
        match self.files {
            Some(files) => files.apart().map(|files| Self { files: Some(files), ..Self::default() }).collect(),
            None => vec![self],
        }
    }
}

impl Query<'_> {
    /// What files name.
    pub(super) fn by_files(
        &self,
        origins: VecDeque<Origin>,
        single: bool,
        given: &arguments::Given,
    ) -> Result<Targets, Failure> {
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
        // Of what is asked for again, the answers' labels count.
        let selector = self.selector()?.filter(|_| !self.latest);
        let files = Files { origins, selector, ..Files::default() };
        Ok(Targets { single, files: Some(files), ..Targets::default() })
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
    async fn read(&self, cx: &Context, document: Document, at: usize) -> Result<VecDeque<Ready>, Failure> {
        let Document { mut value, text: written, source } = document;
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
        self.decoded(&mut value).map_err(undecoded)?;
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
                let object = self.placed(cx, mapping, value, source);
                let versioned = self.local || self.by_kind || !api_version.is_empty();
                let unversioned = |object: Object| match versioned {
                    true => object,
                    false => {
                        let mapping = Mapping { version: String::new(), ..(*object.mapping).clone() };
                        Object { mapping: Arc::new(mapping), ..object }
                    }
                };
                let target = object.map(unversioned).map(Target::Local);
                Ok(VecDeque::from([Ready::Turn(Turn { list: None, target })]))
            }
            Some(items) => {
                let texts = written.as_deref().map(items_of).unwrap_or_default().into_iter().map(Some);
                let items = items.into_iter().zip(texts.chain(std::iter::repeat(None))).collect();
                self.items(items, &source, at)
            }
        }
    }

    /// What upstream finds in a list, which goes by a number of its own.
    fn items(
        &self,
        items: VecDeque<(Value, Option<String>)>,
        source: &str,
        list: usize,
    ) -> Result<VecDeque<Ready>, Failure> {
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
            let wrong = flat.iter_mut().filter_map(|(item, written)| match (text(item, "apiVersion"), text(item, "kind")) {
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
        let item = |(value, _)| Ready::Item(Item { list, value, source: source.to_owned() });
        Ok(flat.into_iter().map(item).collect())
    }

    /// Looks up what a part of a list is.
    async fn item(&self, cx: &Context, item: Item) -> Turn {
        let Item { list, value, source } = item;
        Turn { list: Some(list), target: self.object(cx, value, source).await.map(Target::Local) }
    }

    async fn object(&self, cx: &Context, value: Value, source: String) -> Result<Object, Failure> {
        let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
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
            return Err(plain(format!("unable to get type info from the object \"*{ty}\": {what}")));
        }
        let mapping = self.mapping(cx, &api_version, &kind).await;
        let mapping = mapping.map_err(|failure| plain(format!("unable to recognize {}", failure.message())))?;
        self.placed(cx, mapping, value, source)
    }

    /// What decoding an object fails on: into its type if the verb goes by types, else into its metadata.
    fn decoded(&self, value: &mut Value) -> Result<(), String> {
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
        typed::decode(value)
    }

    async fn mapping(&self, cx: &Context, api_version: &str, kind: &str) -> Result<Arc<Mapping>, Failure> {
        if self.local {
            Ok(Arc::new(Mapping::guessed(api_version, kind)))
        } else {
            cx.discovery()?.kind(api_version, kind).await
        }
    }

    fn placed(&self, cx: &Context, mapping: Arc<Mapping>, value: Value, source: String) -> Result<Object, Failure> {
        let (name, namespace) = (text(&value["metadata"], "name"), text(&value["metadata"], "namespace"));
        let mut object = Object { mapping, namespace: None, name, value, source };
        self.place(cx, &mut object, &namespace)?;
        Ok(object)
    }

    /// Whether the server has the API version but not the kind, and no custom kinds at all: upstream looks for a custom kind
    /// then, and stops when it cannot.
    async fn unchecked(&self, cx: &Context, api_version: &str, kind: &str) -> Result<bool, Failure> {
        let (group, version) = split_api_version(api_version);
        let catalog = cx.discovery()?.catalog().await?;
        if catalog.kind(group, version, kind).is_some() {
            return Ok(false);
        }
        let customs = cx.client()?.call(Call::get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")).await;
        let known = catalog.mappings.iter().any(|m| m.group == group && m.version == version);
        if !known && self.validate == "Warn" {
            unchecked_by_server();
        }
        Ok(known && customs.is_err_and(|failure| failure.is_not_found()))
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
    log::warning("schema.go:145", SKIPPED);
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
