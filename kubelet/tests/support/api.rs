//! As much of an API server as a kubelet talks to: objects in a map, lists, watches, patches, graceful deletion.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ::api::patch::{Patch, PatchType};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::PATIENCE;

type Key = (String, String, String);

#[derive(Default)]
struct Inner {
    revision: u64,
    objects: BTreeMap<Key, Value>,
    log: Vec<(u64, &'static str, String, Value)>,
}

/// The server.
pub struct Api {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    down: AtomicBool,
}

impl Default for Api {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::Sender::new(0), down: AtomicBool::new(false) }
    }
}

struct Place {
    resource: String,
    namespace: String,
    name: String,
    sub: String,
}

/// `/api/v1/namespaces/NS/RESOURCE/NAME/SUB` and the like.
fn place(path: &str) -> Place {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let mut namespace = "";
    if parts[0] == "namespaces" && parts.len() > 2 {
        namespace = parts[1];
        parts.drain(..2);
    }
    let part = |i: usize| parts.get(i).copied().unwrap_or_default().to_owned();
    Place { resource: part(0), namespace: namespace.to_owned(), name: part(1), sub: part(2) }
}

fn kind(resource: &str) -> &'static str {
    match resource {
        "pods" => "Pod",
        "nodes" => "Node",
        "leases" => "Lease",
        "configmaps" => "ConfigMap",
        "secrets" => "Secret",
        "services" => "Service",
        "events" => "Event",
        _ => "Unknown",
    }
}

fn version(resource: &str) -> &'static str {
    if resource == "leases" { "coordination.k8s.io/v1" } else { "v1" }
}

impl Api {
    /// A client of this server.
    pub fn client(self: &Arc<Self>) -> kube::Client {
        let router = Router::new().fallback(serve).with_state(self.clone());
        kube::Client::new(router, "default")
    }

    /// From now on nobody gets an answer, or everybody again.
    pub fn down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    fn store(&self, resource: &str, mut object: Value, event: &'static str) -> Value {
        let mut inner = self.inner.lock().unwrap();
        inner.revision += 1;
        let revision = inner.revision;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        object["kind"] = kind(resource).into();
        object["apiVersion"] = version(resource).into();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (resource.to_owned(), text("namespace"), text("name"));
        if event == "DELETED" {
            inner.objects.remove(&key);
        } else {
            inner.objects.insert(key, object.clone());
        }
        inner.log.push((revision, event, resource.to_owned(), object.clone()));
        drop(inner);
        self.changed.send_replace(revision);
        object
    }

    /// Creates or replaces an object in a collection.
    pub fn put(&self, collection: &str, object: Value) -> Value {
        let place = place(&format!("{collection}/x"));
        let mut object = object;
        if !place.namespace.is_empty() {
            object["metadata"]["namespace"] = place.namespace.clone().into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{name}").into();
        }
        let event = if self.get(&place.resource, &place.namespace, &name).is_some() { "MODIFIED" } else { "ADDED" };
        self.store(&place.resource, object, event)
    }

    /// An object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.inner.lock().unwrap().objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    /// Every state that an object was in, in order.
    pub fn history(&self, resource: &str, name: &str) -> Vec<Value> {
        let inner = self.inner.lock().unwrap();
        let its = inner.log.iter().filter(|(_, _, r, o)| r == resource && o["metadata"]["name"] == name);
        its.map(|(_, _, _, o)| o.clone()).collect()
    }

    /// Asks for a pod's deletion as kubectl does.
    pub fn delete_pod(&self, name: &str, grace: i64) {
        let mut pod = self.get("pods", "default", name).expect("the pod");
        if grace == 0 {
            self.store("pods", pod, "DELETED");
            return;
        }
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        pod["metadata"]["deletionTimestamp"] = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.store("pods", pod, "MODIFIED");
    }

    /// Waits until an object is as `test` wants it.
    pub async fn wait(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        what: &str,
        test: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut changed = self.changed.subscribe();
        let look = || self.get(resource, namespace, name);
        let wait = async {
            loop {
                if let Some(object) = look().filter(|o| test(o)) {
                    return object;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(object) => object,
            Err(_) => panic!("{resource} {name} never became {what}: {:#}", look().unwrap_or_default()["status"]),
        }
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, resource: &str, namespace: &str, name: &str) {
        let mut changed = self.changed.subscribe();
        let gone = changed.wait_for(|_| self.get(resource, namespace, name).is_none());
        assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "{resource} {name} stays");
    }

    /// `reason: message` of every event about an object, in order.
    pub fn events(&self, name: &str) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        let about = inner.log.iter().filter(|(_, _, r, o)| r == "events" && o["involvedObject"]["name"] == name);
        let text = |o: &Value, f: &str| o[f].as_str().unwrap_or_default().to_owned();
        about.map(|(_, _, _, o)| format!("{}: {}", text(o, "reason"), text(o, "message"))).collect()
    }

    /// Waits for an event that contains `text`.
    pub async fn event(&self, name: &str, text: &str) {
        let mut changed = self.changed.subscribe();
        let there = changed.wait_for(|_| self.events(name).iter().any(|e| e.contains(text)));
        let found = tokio::time::timeout(PATIENCE, there).await.is_ok();
        assert!(found, "no event {text:?} about {name}: {:#?}", self.events(name));
    }
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": message, "code": code.as_u16()});
    (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}

fn success(object: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response()
}

fn selected(query: &BTreeMap<String, String>, namespace: &str, object: &Value) -> bool {
    let here = namespace.is_empty() || object["metadata"]["namespace"] == namespace;
    let fields = query.get("fieldSelector").cloned().unwrap_or_default();
    here && fields.split(',').filter_map(|f| f.split_once('=')).all(|(path, value)| {
        let mut at = object;
        for part in path.split('.') {
            at = &at[part];
        }
        at == value
    })
}

async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    if api.down.load(Ordering::Relaxed) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "down");
    }
    let (parts, body) = request.into_parts();
    let place = place(parts.uri.path());
    let decode = |v: &str| v.replace("%3D", "=").replace("%2C", ",");
    let query: BTreeMap<String, String> = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|p| p.split_once('='))
        .map(|(k, v)| (k.to_owned(), decode(v)))
        .collect();
    let body = axum::body::to_bytes(body, 1 << 22).await.unwrap_or_default();
    let content = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match (parts.method, place.name.is_empty()) {
        (Method::GET, true) if query.contains_key("watch") => api.watch(place, query),
        (Method::GET, true) => api.list(&place, &query),
        (Method::GET, false) => api.answer(&place),
        (Method::POST, _) => api.create(&place, &body),
        (Method::PATCH, _) => api.patch(&place, content, &body),
        (Method::DELETE, _) => match api.get(&place.resource, &place.namespace, &place.name) {
            Some(object) => success(&api.store(&place.resource, object, "DELETED")),
            None => failure(StatusCode::NOT_FOUND, "NotFound", "not found"),
        },
        _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "no"),
    }
}

impl Api {
    fn answer(&self, place: &Place) -> Response {
        match self.get(&place.resource, &place.namespace, &place.name) {
            Some(object) => success(&object),
            None => failure(StatusCode::NOT_FOUND, "NotFound", "not found"),
        }
    }

    fn list(&self, place: &Place, query: &BTreeMap<String, String>) -> Response {
        let inner = self.inner.lock().unwrap();
        let all = inner.objects.iter().filter(|((r, _, _), _)| *r == place.resource).map(|(_, o)| o);
        let items: Vec<&Value> = all.filter(|o| selected(query, &place.namespace, o)).collect();
        success(&json!({"kind": format!("{}List", kind(&place.resource)), "apiVersion": version(&place.resource),
            "metadata": {"resourceVersion": inner.revision.to_string()}, "items": items}))
    }

    fn watch(self: Arc<Self>, place: Place, query: BTreeMap<String, String>) -> Response {
        let from: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let changed = self.changed.subscribe();
        let stream = futures::stream::unfold(
            (self, place, query, from, changed),
            |(api, place, query, from, mut changed)| async move {
                loop {
                    let (lines, newest) = {
                        let inner = api.inner.lock().unwrap();
                        let news = inner.log.iter().filter(|(rev, _, r, o)| {
                            *rev > from && *r == place.resource && selected(&query, &place.namespace, o)
                        });
                        let lines: String =
                            news.map(|(_, kind, _, o)| format!("{}\n", json!({"type": kind, "object": o}))).collect();
                        (lines, inner.revision)
                    };
                    if !lines.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(lines)), (api, place, query, newest, changed)));
                    }
                    changed.changed().await.ok()?;
                }
            },
        );
        ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response()
    }

    fn create(&self, place: &Place, body: &[u8]) -> Response {
        let mut object: Value = serde_json::from_slice(body).unwrap();
        match (place.resource.as_str(), place.sub.as_str()) {
            ("serviceaccounts", "token") => {
                let seconds = object["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
                let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
                object["status"] = json!({"token": "the-token", "expirationTimestamp": at.to_string()});
                return success(&object);
            }
            ("tokenreviews", _) => {
                let known = ["good", "admin"].iter().any(|t| object["spec"]["token"] == *t);
                let name = object["spec"]["token"].clone();
                object["status"] = json!({"authenticated": known, "user": {"username": name, "groups": ["g"]}});
                return success(&object);
            }
            ("subjectaccessreviews", _) => {
                let attributes = &object["spec"]["resourceAttributes"];
                // The one may read but run nothing, the other everything.
                let allowed = attributes["verb"] == "get" || object["spec"]["user"] == "admin";
                object["status"] = json!({"allowed": allowed});
                return success(&object);
            }
            _ => {}
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.get(&place.resource, &place.namespace, &name).is_some() {
            return failure(StatusCode::CONFLICT, "AlreadyExists", "already exists");
        }
        if !place.namespace.is_empty() {
            object["metadata"]["namespace"] = place.namespace.clone().into();
        }
        object["metadata"]["uid"] = format!("uid-{name}").into();
        success(&self.store(&place.resource, object, "ADDED"))
    }

    fn patch(&self, place: &Place, content: &str, body: &[u8]) -> Response {
        let Some(object) = self.get(&place.resource, &place.namespace, &place.name) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", "not found");
        };
        let (patch, _) = Patch::parse(PatchType::from_content_type(content).unwrap(), body).unwrap();
        let ty = ::api::schema::table().by_kind("", "v1", kind(&place.resource));
        let new = patch.apply(&object, ty).unwrap();
        match new == object {
            true => success(&object),
            false => success(&self.store(&place.resource, new, "MODIFIED")),
        }
    }
}
