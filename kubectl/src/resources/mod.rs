//! What a command line's arguments and files name: upstream's resource builder.
//!
//! [`Query`] says what was given; [`Query::targets`] makes of it what is to be listed, read or has been read from files, with
//! upstream's complaints about wrong combinations; [`Query::objects`] fetches all of it.

mod arguments;
mod documents;
mod files;
mod follow;
mod local;
mod schema;
mod visit;

use std::{collections::VecDeque, sync::Arc};

use api::{field::go_quote, selector::Selector};
use serde_json::Value;

use self::local::{Files, Ready};
pub use self::{
    arguments::has_names,
    documents::documents_in,
    files::{FileArgs, PlainFileArgs, cleaned, parse_text, read_url},
    follow::Follower,
    local::mistyped,
    visit::Sources,
};
use crate::{
    client::{Call, Client, JSON, log},
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain},
};

/// An object and where it belongs.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its resource.
    pub mapping: Arc<Mapping>,
    /// Its namespace; `None` for kinds without.
    pub namespace: Option<String>,
    /// Its name; empty with `generateName`.
    pub name: String,
    /// The object itself.
    pub value: Value,
    /// The file or URL it came from; empty if it came from the server.
    pub source: String,
}

impl Object {
    /// Its path on the server.
    pub fn path(&self) -> String {
        self.mapping.path(self.namespace.as_deref(), Some(&self.name))
    }

    /// Its collection's path on the server.
    pub fn collection(&self) -> String {
        self.mapping.path(self.namespace.as_deref(), None)
    }

    /// `deployment.apps/web`.
    pub fn named(&self) -> String {
        self.mapping.named(&self.name)
    }

    /// The same object as the server has it now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn latest(&self, client: &Client) -> Result<Value, Failure> {
        if self.name.is_empty() {
            return Err(nameless());
        }
        client.json(Call::get(self.path())).await
    }

    /// The same, where it also counts whether there is the namespace: what is not there for that reason is told so.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn current(&self, client: &Client) -> Result<Value, Failure> {
        nameable(&self.name)?;
        get(client, self.path(), self.namespace.as_deref(), JSON).await
    }

    /// An object that the server sent.
    pub fn received(mapping: &Arc<Mapping>, value: Value) -> Self {
        let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
        let namespace = mapping.namespaced.then(|| text("namespace"));
        Self { mapping: mapping.clone(), namespace, name: text("name"), source: String::new(), value }
    }
}

/// One thing that was asked for.
#[derive(Clone, Debug)]
pub enum Target {
    /// All objects of a resource, or those that selectors choose.
    List {
        /// The resource.
        mapping: Arc<Mapping>,
        /// `None` is all namespaces, or none at all.
        namespace: Option<String>,
    },
    /// One object by name.
    Named {
        /// The resource.
        mapping: Arc<Mapping>,
        /// `None` for kinds without.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
    /// An object from a file.
    Local(Object),
}

impl Target {
    /// The resource.
    pub fn mapping(&self) -> &Arc<Mapping> {
        match self {
            Self::List { mapping, .. } | Self::Named { mapping, .. } => mapping,
            Self::Local(object) => &object.mapping,
        }
    }
}

/// What a command was asked for. Fill in what the verb has flags for; the rest is `..Query::default()`.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    /// Arguments: `pods`, `pods a b`, `pod/a svc/b`, `pods,services`.
    pub args: &'a [String],
    /// `-f`, `-k`, `-R`.
    pub files: Option<&'a FileArgs>,
    /// `-l`.
    pub labels: Option<&'a str>,
    /// `--field-selector`.
    pub fields: Option<&'a str>,
    /// `--all`.
    pub all: bool,
    /// `-A`.
    pub all_namespaces: bool,
    /// A type alone means all objects of it (get, describe), even without `--all` or a selector.
    pub type_suffices: bool,
    /// Objects from files are fetched from the server.
    pub latest: bool,
    /// No server is asked at all; only files count.
    pub local: bool,
    /// How objects from files are checked before anything is sent: `Strict`, `Warn`, or not at all.
    pub validate: &'static str,
    /// Objects from files are decoded into types that the client has compiled in.
    pub typed: bool,
    /// Requests go to the version that the server has of a kind where a file names none. Else they go to the file's, which nobody
    /// serves.
    pub by_kind: bool,
    /// That something is not there is no failure.
    pub ignore_not_found: bool,
    /// Objects from files must say what namespace they are in.
    pub no_default_namespace: bool,
    /// Types are no categories.
    pub exact: bool,
    /// Only one type may be named.
    pub single_type: bool,
    /// `--subresource`.
    pub subresource: &'a str,
    /// `--chunk-size`; zero is everything at once.
    pub chunk_size: i64,
    /// A type for arguments that are bare names (`logs POD`).
    pub default_type: Option<&'a str>,
}

/// What was asked for, one after another. Files are read as their turns come: what one holds may be acted on before the next is
/// looked at.
#[derive(Debug, Default)]
pub struct Targets {
    /// Whether exactly one thing was named.
    pub single: bool,
    /// What comes next; of files, the rest of a document.
    ready: VecDeque<Ready>,
    files: Option<Files>,
}

/// One thing that was asked for, or why it is not to be had.
#[derive(Debug)]
pub struct Turn {
    /// The list in a file that this is about: what goes wrong with parts of one list is told together.
    pub list: Option<usize>,
    /// The thing.
    pub target: Result<Target, Failure>,
}

/// The objects that were asked for and what could not be had.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order they were asked for.
    pub objects: Vec<Object>,
    /// What went wrong with others.
    pub failures: Vec<Failure>,
    /// Whether exactly one thing was named.
    pub single: bool,
}

impl Targets {
    fn of(targets: Vec<Target>, single: bool) -> Self {
        let ready = |target| Ready::Turn(Turn { list: None, target: Ok(target) });
        let ready = targets.into_iter().map(ready).collect();
        Self { single, ready, files: None }
    }

    /// Whether all of it is objects by their names, given as arguments.
    pub fn by_name(&self) -> bool {
        let named = |ready: &Ready| matches!(ready, Ready::Turn(Turn { target: Ok(Target::Named { .. }), .. }));
        self.files.is_none() && self.ready.iter().all(named)
    }
}

impl Found {
    /// The objects if nothing went wrong.
    ///
    /// # Errors
    /// All that went wrong.
    pub fn all(self) -> Result<Vec<Object>, Failure> {
        Failure::of(self.failures).map(|()| self.objects)
    }
}

const MISSING: &str = "You must provide one or more resources by argument or filename.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'
   '<resource> <name>'
   '<resource>'";

const MISSING_LOCAL: &str = "error: you must specify resources by --filename when --local is set.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'";

/// What upstream says before it asks for an object without a name.
pub fn nameless() -> Failure {
    unsent("resource name may not be empty".to_owned())
}

/// A request that is not made.
fn unsent(why: String) -> Failure {
    log::at(4, "request.go:1178", &format!("Error in request: {why}"));
    plain(why)
}

/// Upstream's check of what becomes a part of a path.
fn segment(what: &str, name: &str) -> Result<(), Failure> {
    let why = match name {
        "." => "may not be '.'",
        ".." => "may not be '..'",
        name if name.contains('/') => "may not contain '/'",
        name if name.contains('%') => "may not contain '%'",
        _ => return Ok(()),
    };
    Err(unsent(format!("invalid {what} {}: [{why}]", go_quote(name))))
}

/// Upstream's check of a name before it asks for an object.
///
/// # Errors
/// If no object can have it.
pub fn nameable(name: &str) -> Result<(), Failure> {
    if name.is_empty() { Err(nameless()) } else { segment("resource name", name) }
}

/// What upstream says when nothing at all was named.
pub fn missing() -> Failure {
    plain(MISSING)
}

/// What upstream says of some commands' arguments where no server may be asked.
pub fn missing_locally() -> Failure {
    Failure::Verbatim(MISSING_LOCAL.to_owned(), 1)
}

impl Query<'_> {
    /// Makes out what was asked for.
    ///
    /// # Errors
    /// Wrong combinations, unknown types, unreadable files.
    pub async fn targets(&self, cx: &Context) -> Result<Targets, Failure> {
        let said = |selector: Option<&'_ str>| selector.is_some_and(|text| !text.trim().is_empty());
        let mut selectors = (self.labels.filter(|_| said(self.labels)), self.fields.filter(|_| said(self.fields)));
        if !self.local {
            cx.namespace()?;
        }
        let (mut origins, mut single, mut wrong) = (VecDeque::new(), false, Vec::new());
        if let Some(files) = self.files {
            files.validate()?;
            (origins, single, wrong) = files.origins();
        }
        if self.all && (selectors.0.is_some() || selectors.1.is_some()) {
            return Err(plain("setting 'all' parameter but found a non empty selector. "));
        }
        let given = match arguments::Given::of(self, cx).await {
            Ok(given) => {
                Failure::of(wrong)?;
                given
            }
            Err(failure) => {
                wrong.push(failure);
                return Failure::of(wrong).map(|()| Targets::default());
            }
        };
        if self.type_suffices && given.alone && selectors.0.is_none() {
            selectors.0 = Some("");
        }
        if self.all {
            selectors.0 = Some("");
        }
        if self.files.is_some_and(|f| !f.is_empty()) {
            return self.by_files(origins, single, &given);
        }
        if selectors.0.is_some() || selectors.1.is_some() {
            return self.by_selector(cx, &given).await;
        }
        if !given.pairs.is_empty() {
            return self.by_pairs(cx, &given).await;
        }
        if !given.names.is_empty() {
            return self.by_names(cx, &given).await;
        }
        for resource in &given.types {
            cx.discovery().map_err(Failure::in_list)?.resolve(resource).await?;
        }
        Err(if given.types.is_empty() { missing() } else { plain("resource(s) were provided, but no name was specified") })
    }

    /// The namespace to look in, by a resource's scope; with `named`, one must be known.
    fn namespace(&self, cx: &Context, mapping: &Mapping, named: bool) -> Result<Option<String>, Failure> {
        match (mapping.namespaced, self.all_namespaces) {
            (false, _) => Ok(None),
            (true, true) if named => Err(plain("a resource cannot be retrieved by name across all namespaces")),
            (true, true) => Ok(None),
            (true, false) => cx.namespace().map(Some),
        }
    }

    async fn mappings(&self, cx: &Context, types: &[String]) -> Result<Vec<Arc<Mapping>>, Failure> {
        if types.len() > 1 && self.single_type {
            return Err(plain("you may only specify a single resource type"));
        }
        let mut mappings: Vec<Arc<Mapping>> = Vec::new();
        for name in types {
            let mapping = cx.discovery().map_err(Failure::in_list)?.resolve(name).await?;
            if !mappings.contains(&mapping) {
                mappings.push(mapping);
            }
        }
        Ok(mappings)
    }

    async fn by_selector(&self, cx: &Context, given: &arguments::Given) -> Result<Targets, Failure> {
        if !given.names.is_empty() {
            return Err(plain("name cannot be provided when a selector is specified"));
        }
        if !given.pairs.is_empty() {
            return Err(plain("selectors and the all flag cannot be used when passing resource/name arguments"));
        }
        if given.types.is_empty() {
            return Err(plain("at least one resource must be specified to use a selector"));
        }
        if !self.subresource.is_empty() {
            return Err(plain("subresource cannot be used when bulk resources are specified"));
        }
        let mut targets = Vec::new();
        for mapping in self.mappings(cx, &given.types).await? {
            let namespace = self.namespace(cx, &mapping, false)?;
            targets.push(Target::List { mapping, namespace });
        }
        Ok(Targets::of(targets, false))
    }

    async fn by_pairs(&self, cx: &Context, given: &arguments::Given) -> Result<Targets, Failure> {
        let mut targets = Vec::new();
        let mut types: Vec<Arc<Mapping>> = Vec::new();
        for (resource, name) in &given.pairs {
            let mapping = cx.discovery()?.resolve(resource).await?;
            if !types.contains(&mapping) {
                types.push(mapping.clone());
            }
            if types.len() > 1 && self.single_type {
                return Err(plain("you may only specify a single resource type"));
            }
            if self.no_default_namespace && mapping.namespaced {
                return Err(plain("namespace may not be empty when retrieving a resource by name"));
            }
            let namespace = self.namespace(cx, &mapping, true)?;
            targets.push(Target::Named { mapping, namespace, name: name.clone() });
        }
        let single = targets.len() == 1;
        Ok(Targets::of(targets, single))
    }

    async fn by_names(&self, cx: &Context, given: &arguments::Given) -> Result<Targets, Failure> {
        if given.types.is_empty() {
            return Err(plain("you must provide a resource and a resource name together"));
        }
        if given.types.len() > 1 {
            return Err(plain("you must specify only one resource"));
        }
        let mappings = self.mappings(cx, &given.types).await?;
        let mut targets = Vec::new();
        for mapping in mappings.into_iter().take(1) {
            let namespace = self.namespace(cx, &mapping, true)?;
            let named =
                |name: &String| Target::Named { mapping: mapping.clone(), namespace: namespace.clone(), name: name.clone() };
            targets = given.names.iter().map(named).collect();
        }
        let single = targets.len() == 1;
        Ok(Targets::of(targets, single))
    }

    /// Fetches a target with the given `Accept`: one body for an object, one a chunk for a list.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub async fn fetch(&self, client: &Client, target: &Target, accept: &str) -> Result<Vec<Value>, Failure> {
        if let Target::List { namespace: Some(namespace), .. } | Target::Named { namespace: Some(namespace), .. } = target {
            segment("namespace", namespace)?;
        }
        match target {
            Target::Local(object) if !self.latest || object.name.is_empty() => Ok(vec![object.value.clone()]),
            Target::Local(object) => {
                let page = get(client, object.path(), object.namespace.as_deref(), accept).await?;
                // Upstream goes by the labels of the answer, even where that is a table.
                let chosen = self.selector()?.is_none_or(|selector| selector.matches_object(&page));
                Ok(if chosen { vec![page] } else { Vec::new() })
            }
            Target::Named { mapping, namespace, name } => {
                let mut path = mapping.path(namespace.as_deref(), Some(name));
                nameable(name)?;
                if !self.subresource.is_empty() {
                    path.push_str(&format!("/{}", self.subresource));
                }
                Ok(vec![get(client, path, namespace.as_deref(), accept).await?])
            }
            Target::List { mapping, namespace } => {
                let mut pages: Vec<Value> = Vec::new();
                let mut token = String::new();
                loop {
                    let mut call = Call::get(mapping.path(namespace.as_deref(), None)).accept(accept);
                    call = call.query_if("labelSelector", self.labels.unwrap_or_default());
                    call = call.query_if("fieldSelector", self.fields.unwrap_or_default());
                    if self.chunk_size != 0 {
                        call = call.query("limit", self.chunk_size.to_string()).query_if("continue", &token);
                    }
                    let page = client.json(call).await.map_err(|failure| self.list_failure(failure, mapping))?;
                    token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                    pages.push(page);
                    if token.is_empty() || self.chunk_size <= 0 {
                        return Ok(pages);
                    }
                }
            }
        }
    }

    /// The label selector, read where it is applied here.
    fn selector(&self) -> Result<Option<Selector>, Failure> {
        let Some(labels) = self.labels.filter(|labels| !labels.is_empty()) else { return Ok(None) };
        let wrong = |why: String| plain(format!("the provided selector {} is not valid: {why}", go_quote(labels)));
        Selector::parse(labels).map(Some).map_err(|error| wrong(error.0))
    }

    fn list_failure(&self, failure: Failure, mapping: &Mapping) -> Failure {
        let Failure::Status(mut status) = failure else { return failure };
        if matches!(status.reason.as_str(), "BadRequest" | "NotFound") {
            let resource = go_quote(&format!("{}/{}, Resource={}", mapping.group, mapping.version, mapping.resource));
            let (labels, fields) = (self.labels.unwrap_or_default(), self.fields.unwrap_or_default());
            status.message = if labels.is_empty() && fields.is_empty() {
                format!("Unable to list {resource}: {}", status.message)
            } else {
                let (labels, fields) = (go_quote(labels), go_quote(fields));
                format!(
                    "Unable to find {resource} that match label selector {labels}, field selector {fields}: {}",
                    status.message
                )
            };
        }
        Failure::Status(status)
    }
}

/// One object. If it is not there because its namespace is not, that is what is said.
async fn get(client: &Client, path: String, namespace: Option<&str>, accept: &str) -> Result<Value, Failure> {
    match client.json(Call::get(path).accept(accept)).await {
        Err(failure) if failure.is_not_found() => {
            if let Some(namespace) = namespace.filter(|n| *n != "default") {
                let path = format!("/api/v1/namespaces/{}", crate::client::escape(namespace, ""));
                if let Err(other) = client.call(Call::get(path)).await
                    && other.is_not_found()
                {
                    return Err(other);
                }
            }
            Err(failure)
        }
        other => other,
    }
}

/// A list's items, with the `apiVersion` and `kind` that each has by the list's.
pub fn items(mut list: Value) -> Vec<Value> {
    let api_version = list["apiVersion"].clone();
    let kind = list["kind"].as_str().unwrap_or_default();
    let kind = kind.strip_suffix("List").unwrap_or(kind).to_owned();
    let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) else { return Vec::new() };
    let complete = |mut item: Value| {
        if let Some(map) = item.as_object_mut().filter(|m| !m.contains_key("kind")) {
            map.insert("apiVersion".to_owned(), api_version.clone());
            map.insert("kind".to_owned(), kind.clone().into());
        }
        item
    };
    items.into_iter().map(complete).collect()
}
