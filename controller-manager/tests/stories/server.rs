//! A stand-in for the API server: objects in memory, with the kinds' own defaults, preparation and validation, and the registry's
//! rules for names, revisions, generations, finalizers and watches. No authentication, tables, history limits or durability.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api::{
    discovery::{Aggregated, aggregated},
    kind::{Context, Kind, NameRule, Subresource},
    kinds,
    selector::Selector,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::Method,
    response::Response,
};
use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Clone)]
struct Event {
    revision: u64,
    key: String,
    kind: &'static str,
    object: Value,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    history: Vec<Event>,
    revision: u64,
}

/// The stand-in. Clones share the objects.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    news: Arc<watch::Sender<u64>>,
    kinds: Arc<HashMap<(String, String), Kind>>,
}

type Answer = Result<Value, Value>;

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message, "metadata": {}})
}

/// A path taken apart.
struct Target {
    group: String,
    plural: String,
    namespace: String,
    name: String,
    sub: String,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let group = match *parts.first()? {
            "api" => parts.drain(..2).next().map(|_| "")?,
            "apis" if parts.len() > 3 => parts.drain(..3).nth(1)?,
            _ => return None,
        };
        let namespace = match parts[..] {
            ["namespaces", _, sub, ..] if !["status", "finalize"].contains(&sub) => parts.drain(..2).nth(1)?,
            _ => "",
        };
        let part = |n: usize| parts.get(n).map(|p| (*p).to_owned()).unwrap_or_default();
        Some(Self { group: group.to_owned(), plural: part(0), namespace: namespace.to_owned(), name: part(1), sub: part(2) })
    }

    fn prefix(&self) -> String {
        let namespace = if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) };
        format!("{}/{}/{namespace}", self.group, self.plural)
    }

    fn key(&self, name: &str) -> String {
        let prefix = self.prefix();
        if self.namespace.is_empty() { format!("{prefix}/{name}") } else { format!("{prefix}{name}") }
    }
}

fn query(request: &Request) -> HashMap<String, String> {
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            match bytes[at] {
                b'+' => out.push(b' '),
                b'%' => {
                    out.extend(u8::from_str_radix(&text[at + 1..at + 3], 16));
                    at += 2;
                }
                byte => out.push(byte),
            }
            at += 1;
        }
        String::from_utf8(out).unwrap_or_default()
    };
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|p| p.split_once('='));
    pairs.map(|(k, v)| (decode(k), decode(v))).collect()
}

struct Selection {
    labels: Selector,
    fields: Vec<(String, String)>,
}

impl Selection {
    fn of(query: &HashMap<String, String>) -> Self {
        let labels =
            query.get("labelSelector").map_or_else(Selector::everything, |s| Selector::parse(s).expect("a selector"));
        let fields = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
        let fields = fields
            .split(',')
            .filter_map(|f| f.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.trim_start_matches('=').to_owned()));
        Self { labels, fields: fields.collect() }
    }

    fn matches(&self, object: &Value) -> bool {
        let field = |path: &str| path.split('.').fold(object, |at, part| &at[part]).as_str().unwrap_or_default().to_owned();
        self.labels.matches_object(object) && self.fields.iter().all(|(path, value)| field(path) == *value)
    }
}

impl State {
    fn commit(&mut self, key: &str, kind: &'static str, mut object: Value) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if kind == "DELETED" {
            self.objects.remove(key);
        } else {
            self.objects.insert(key.to_owned(), object.clone());
        }
        self.history.push(Event { revision: self.revision, key: key.to_owned(), kind, object: object.clone() });
        object
    }
}

impl Server {
    /// An empty server with namespaces `default` and `kube-system`.
    pub fn new() -> Self {
        let kinds = kinds::all().into_iter().map(|k| ((k.info.group.to_owned(), k.info.plural.to_owned()), k)).collect();
        let server = Self { state: Arc::default(), news: Arc::new(watch::Sender::new(0)), kinds: Arc::new(kinds) };
        server.state.lock().revision = 1;
        for name in ["default", "kube-system"] {
            let target = Target::parse("/api/v1/namespaces").expect("a path");
            server
                .create(&target, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
                .expect("created");
        }
        server
    }

    /// A client that needs no network.
    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        kube::Client::new(
            Router::new().fallback(move |request: Request| async move { server.serve(request).await }),
            "default",
        )
    }

    /// A client with a bad connection: requests fail before or after they did something, and watches break off.
    pub fn flaky_client(&self) -> kube::Client {
        let (server, luck) = (self.clone(), Arc::new(Mutex::new(StdRng::seed_from_u64(7))));
        let unavailable = || {
            let body = failure(503, "ServiceUnavailable", "try again").to_string();
            Response::builder().status(503).body(Body::from(body)).expect("a response")
        };
        let handler = move |request: Request| async move {
            let watch = request.uri().query().is_some_and(|q| q.contains("watch=true"));
            if luck.lock().random_ratio(1, 10) {
                return unavailable();
            }
            let answer = server.serve(request).await;
            if watch {
                let (parts, body) = answer.into_parts();
                return Response::from_parts(
                    parts,
                    Body::from_stream(body.into_data_stream().take(luck.lock().random_range(0..12))),
                );
            }
            if luck.lock().random_ratio(1, 20) { unavailable() } else { answer }
        };
        kube::Client::new(Router::new().fallback(handler), "default")
    }

    async fn serve(self, request: Request) -> Response {
        let respond = |status: u16, body: Body| {
            Response::builder().status(status).header("content-type", "application/json").body(body).expect("a response")
        };
        let path = request.uri().path().to_owned();
        if path == "/api" || path == "/apis" {
            let infos: Vec<_> = kinds::INFOS.iter().collect();
            return respond(200, Body::from(aggregated(&infos, Aggregated::V2, path == "/api")));
        }
        let Some(target) = Target::parse(&path) else {
            return respond(404, Body::from(failure(404, "NotFound", &path).to_string()));
        };
        let (method, query) = (request.method().clone(), query(&request));
        let patch_type = request.headers().get("content-type").and_then(|t| t.to_str().ok()).unwrap_or_default().to_owned();
        if method == Method::GET && query.get("watch").is_some_and(|w| w == "true" || w == "1") {
            let from = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            return respond(200, Body::from_stream(self.watch(&target, Selection::of(&query), from)));
        }
        let body = to_bytes(request.into_body(), usize::MAX).await.expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let answer = match (method, target.name.is_empty()) {
            (Method::GET, true) => Ok(self.list(&target, &Selection::of(&query))),
            (Method::GET, false) => self.get(&target),
            (Method::POST, true) => self.create(&target, body),
            (Method::POST, false) => self.bind(&target, &body),
            (Method::PUT, _) => self.update(&target, |_| Ok(body)),
            (Method::PATCH, _) => self.update(&target, |old| {
                let kind = api::patch::PatchType::from_content_type(&patch_type).expect("a patch type");
                let (patch, _) = api::patch::Patch::parse(kind, body.to_string().as_bytes()).expect("a patch");
                Ok(patch
                    .apply(
                        old,
                        self.kind(&target)
                            .ok()
                            .and_then(|k| api::schema::table().by_kind(k.info.group, k.info.version, k.info.kind)),
                    )
                    .expect("applies"))
            }),
            (Method::DELETE, true) => self.delete_all(&target, &body),
            (Method::DELETE, false) => self.delete(&target, &body),
            _ => Err(failure(405, "MethodNotAllowed", "no")),
        };
        self.news.send_replace(self.state.lock().revision);
        match answer {
            Ok(object) => respond(200, Body::from(object.to_string())),
            Err(status) => respond(status["code"].as_u64().unwrap_or(500) as u16, Body::from(status.to_string())),
        }
    }

    fn kind(&self, target: &Target) -> Result<&Kind, Value> {
        let kind = self.kinds.get(&(target.group.clone(), target.plural.clone()));
        kind.ok_or_else(|| failure(404, "NotFound", "the server could not find the requested resource"))
    }

    fn missing(target: &Target) -> Value {
        failure(404, "NotFound", &format!("{} {:?} not found", target.plural, target.name))
    }

    fn get(&self, target: &Target) -> Answer {
        self.state.lock().objects.get(&target.key(&target.name)).cloned().ok_or_else(|| Self::missing(target))
    }

    fn list(&self, target: &Target, selection: &Selection) -> Value {
        let (state, prefix) = (self.state.lock(), target.prefix());
        let items: Vec<_> = state
            .objects
            .range(prefix.clone()..)
            .take_while(|(k, _)| k.starts_with(&prefix))
            .map(|(_, o)| o)
            .filter(|o| selection.matches(o))
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.revision.to_string()}, "items": items})
    }

    fn watch(
        &self,
        target: &Target,
        selection: Selection,
        from: u64,
    ) -> impl Stream<Item = Result<String, std::io::Error>> + use<> {
        let (state, prefix, news) = (self.state.clone(), target.prefix(), self.news.subscribe());
        let start = state.lock().history.partition_point(|e| e.revision <= from);
        let events = stream::unfold((start, news), move |(mut at, mut news)| {
            let (state, prefix) = (state.clone(), prefix.clone());
            async move {
                loop {
                    let fresh: Vec<Event> = state.lock().history[at..].to_vec();
                    at += fresh.len();
                    let ours: Vec<_> = fresh.into_iter().filter(|e| e.key.starts_with(&prefix)).collect();
                    if !ours.is_empty() {
                        return Some((ours, (at, news)));
                    }
                    news.changed().await.ok()?;
                }
            }
        });
        let selection = Arc::new(selection);
        events.flat_map(stream::iter).filter_map(move |event| {
            let wanted = selection.matches(&event.object);
            async move { wanted.then(|| Ok(format!("{}\n", json!({"type": event.kind, "object": event.object})))) }
        })
    }

    fn create(&self, target: &Target, mut object: Value) -> Answer {
        let kind = self.kind(target)?;
        let mut state = self.state.lock();
        if !target.namespace.is_empty() {
            let namespace = state.objects.get(&format!("/namespaces//{}", target.namespace));
            match namespace {
                None => return Err(failure(404, "NotFound", &format!("namespaces {:?} not found", target.namespace))),
                Some(namespace) if !namespace["metadata"]["deletionTimestamp"].is_null() => {
                    let mut status = failure(403, "Forbidden", "the namespace is being terminated");
                    status["details"] =
                        json!({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]});
                    return Err(status);
                }
                Some(_) => {}
            }
            object["metadata"]["namespace"] = json!(target.namespace);
        }
        if object["metadata"]["name"].is_null() {
            let suffix: String =
                (0..5).map(|_| char::from(b"bcdfghjklmnpqrstvwxz2456789"[rand::random_range(0..27)])).collect();
            object["metadata"]["name"] =
                json!(format!("{}{suffix}", object["metadata"]["generateName"].as_str().unwrap_or_default()));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = target.key(&name);
        if state.objects.contains_key(&key) {
            return Err(failure(409, "AlreadyExists", &format!("{} {name:?} already exists", target.plural)));
        }
        let now = Timestamp::now();
        let meta = &mut object["metadata"];
        meta["uid"] = json!(format!("{:032x}", rand::random::<u128>()));
        meta["creationTimestamp"] = json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        if kind.info.has_generation {
            meta["generation"] = json!(1);
        }
        assert!(kind.info.name_rule != NameRule::DnsLabel || name.len() < 64);
        let admitted = kind.hooks.create(object, &Context { now, user: "test" });
        let admitted = admitted.map_err(|e| failure(422, "Invalid", &format!("{e:?}")))?;
        Ok(state.commit(&key, "ADDED", admitted.object))
    }

    /// `pods/NAME/binding`.
    fn bind(&self, target: &Target, body: &Value) -> Answer {
        let mut state = self.state.lock();
        let key = target.key(&target.name);
        let mut pod = state.objects.get(&key).cloned().ok_or_else(|| Self::missing(target))?;
        pod["spec"]["nodeName"] = body["target"]["name"].clone();
        state.commit(&key, "MODIFIED", pod);
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "metadata": {}}))
    }

    fn update(&self, target: &Target, change: impl FnOnce(&Value) -> Answer) -> Answer {
        let kind = self.kind(target)?;
        let mut state = self.state.lock();
        let key = target.key(&target.name);
        let old = state.objects.get(&key).cloned().ok_or_else(|| Self::missing(target))?;
        let mut new = change(&old)?;
        let (asked, has) =
            (new["metadata"]["resourceVersion"].as_str().unwrap_or_default(), old["metadata"]["resourceVersion"].as_str());
        if !asked.is_empty() && Some(asked) != has {
            return Err(failure(
                409,
                "Conflict",
                &format!("Operation cannot be fulfilled on {} {:?}: modified", target.plural, target.name),
            ));
        }
        for fixed in
            ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace"]
        {
            new["metadata"][fixed] = old["metadata"][fixed].clone();
        }
        new["metadata"].as_object_mut().expect("metadata").retain(|_, v| !v.is_null());
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        let at = match target.sub.as_str() {
            "status" => Some(Subresource::Status),
            "finalize" => Some(Subresource::Finalize),
            _ => None,
        };
        let context = Context { now: Timestamp::now(), user: "test" };
        let admitted = kind.hooks.update(new, &old, at, &context).map_err(|e| failure(422, "Invalid", &format!("{e:?}")))?;
        let mut new = admitted.object;
        if kind.info.has_generation && new["spec"] != old["spec"] {
            new["metadata"]["generation"] = json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        let held = |o: &Value| {
            [&o["metadata"]["finalizers"], &o["spec"]["finalizers"]]
                .iter()
                .any(|f| f.as_array().is_some_and(|f| !f.is_empty()))
        };
        if !new["metadata"]["deletionTimestamp"].is_null() && !held(&new) && held(&old) {
            return Ok(state.commit(&key, "DELETED", new));
        }
        if new == old {
            return Ok(old);
        }
        Ok(state.commit(&key, "MODIFIED", new))
    }

    fn delete(&self, target: &Target, options: &Value) -> Answer {
        self.kind(target)?;
        let mut state = self.state.lock();
        let key = target.key(&target.name);
        let mut object = state.objects.get(&key).cloned().ok_or_else(|| Self::missing(target))?;
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return Err(failure(409, "Conflict", "another uid"));
        }
        let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        match options["propagationPolicy"].as_str() {
            Some("Foreground") => finalizers.push(json!("foregroundDeletion")),
            Some("Orphan") => finalizers.push(json!("orphan")),
            _ => {}
        }
        finalizers.dedup();
        let bound = target.plural == "pods" && !object["spec"]["nodeName"].is_null();
        let graceful = bound && options["gracePeriodSeconds"].as_i64() != Some(0);
        if finalizers.is_empty() && !graceful && target.plural != "namespaces" {
            return Ok(state.commit(&key, "DELETED", object));
        }
        if !object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["finalizers"].as_array().is_some_and(|f| *f == finalizers)
        {
            return Ok(object);
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        object["metadata"]["deletionTimestamp"] = json!(now);
        object["metadata"]["deletionGracePeriodSeconds"] = json!(if graceful { 30 } else { 0 });
        if !finalizers.is_empty() {
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        if target.plural == "namespaces" {
            object["status"]["phase"] = json!("Terminating");
        }
        Ok(state.commit(&key, "MODIFIED", object))
    }

    fn delete_all(&self, target: &Target, options: &Value) -> Answer {
        let list = self.list(target, &Selection::of(&HashMap::new()));
        for item in list["items"].as_array().expect("items") {
            let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let one = Target {
                name,
                sub: String::new(),
                group: target.group.clone(),
                plural: target.plural.clone(),
                namespace: target.namespace.clone(),
            };
            self.delete(&one, options)?;
        }
        Ok(list)
    }
}
