//! A small API server straight on the store, for as long as the registry does not serve: enough for the components and for
//! kubectl's everyday verbs. What it lacks (the watch cache, admission, tables, pagination, strict decoding, dry run) is
//! the registry's, which replaces this module whole.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use api::{
    discovery,
    kind::{Context, Kind, KindInfo, Subresource},
    kinds,
    patch::{Patch, PatchType},
    selector::{FieldSelector, Selector},
    status::Status,
};
use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::{Request, StatusCode, header, request::Parts};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Durability, Event, Op, Outcome, Range, Store, Txn, WatchMessage};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::{Decision, Gate},
    identity::{Identity, User},
    request::{RequestInfo, decode},
    security::{self, Security},
};

type Result<T, E = Status> = std::result::Result<T, E>;

/// What the server is started with.
pub struct Config {
    /// Where keys and certificates are.
    pub pki: PathBuf,
    /// Addresses for its certificate.
    pub addresses: Vec<String>,
    /// Where it listens.
    pub listen: SocketAddr,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys, TLS or roles.
    #[error("set up security")]
    Security(#[from] security::setup::Error),
    /// The port is not to be had.
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// A running server.
pub struct Server {
    api: Arc<Api>,
    /// Keys, certificates and the seams.
    pub security: Security,
}

impl Server {
    /// Starts on a store and serves until `shutdown`.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> std::result::Result<Self, Error> {
        let lookup = Arc::new(security::lookup::InStore(store.clone()));
        let keys = security::Config { pki: config.pki, addresses: config.addresses, loopback_kubelets: false };
        let security = Security::start(&keys, store.clone(), lookup, shutdown.clone()).await?;
        let api = Arc::new(Api { store, gate: security.gate.clone(), kinds: kinds::all() });
        api.bootstrap().await;
        let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|e| Error::Listen(config.listen, e))?;
        tokio::spawn(security::tls::serve(listener, security.tls.clone(), api.clone().router(None), shutdown));
        Ok(Self { api, security })
    }

    /// The server for a component in the same process, which acts as `user`.
    pub fn service(&self, user: &str, groups: &[&str]) -> Router {
        self.api.clone().router(Some(Arc::new(User::new(user, groups))))
    }
}

struct Api {
    store: Arc<dyn Store>,
    gate: Gate,
    kinds: Vec<Kind>,
}

/// A request's target and options.
struct Target<'a> {
    kind: &'a Kind,
    info: &'a RequestInfo,
    namespace: String,
    query: BTreeMap<String, String>,
}

impl Target<'_> {
    fn key(&self, name: &str) -> Arc<str> {
        key(&self.kind.info, &self.namespace, name).into()
    }

    fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.kind.info.group_resource(), name)
    }
}

fn key(info: &KindInfo, namespace: &str, name: &str) -> String {
    let prefix = info.prefix();
    if namespace.is_empty() {
        format!("/registry/{prefix}/{name}")
    } else {
        format!("/registry/{prefix}/{namespace}/{name}")
    }
}

fn failed(error: &dyn std::error::Error) -> Status {
    Status::internal(&error.to_string())
}

fn time(at: Timestamp) -> Value {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

/// A stored object as its kind shows it.
fn show(kind: &Kind, bytes: &[u8], revision: u64) -> Value {
    let mut object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    if kind.info.stored_as.is_some() { kind.hooks.from_stored(object) } else { object }
}

fn stored(kind: &Kind, mut object: Value) -> Bytes {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let object = if kind.info.stored_as.is_some() { kind.hooks.to_stored(object) } else { object };
    object.to_string().into()
}

fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

impl Api {
    async fn bootstrap(&self) {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let namespace = json!({"metadata": {"name": name}});
            // There already, most of the time.
            let _ = self.create_in("", "v1", "namespaces", "", namespace).await;
        }
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        });
        let _ = self.create_in("", "v1", "services", "default", service).await;
    }

    fn router(self: Arc<Self>, user: Option<Identity>) -> Router {
        Router::new().fallback(move |request: Request<Body>| {
            let (api, user) = (self.clone(), user.clone());
            async move {
                match api.handle(request, user).await {
                    Ok(response) => response,
                    Err(status) => {
                        let code = u16::try_from(status.code).ok().and_then(|c| StatusCode::from_u16(c).ok());
                        answer(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), status.to_bytes())
                    }
                }
            }
        })
    }

    async fn handle(&self, request: Request<Body>, user: Option<Identity>) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query());
        let user = match user {
            Some(user) => user,
            None => {
                let found = self.gate.authenticate.authenticate(&parts).await;
                found.map_err(|e| Status::unauthorized(&e.0))?.unwrap_or_else(|| Arc::new(User::anonymous()))
            }
        };
        if let Decision::Deny(why) = self.gate.authorize.authorize(&user, &info) {
            return Err(Status::forbidden(
                api::status::GroupResource { group: &info.group, resource: &info.resource },
                &info.name,
                &format!("User {:?} cannot {} it{why}", user.name, info.verb),
            ));
        }
        if !info.is_resource {
            return self.document(&info.path).map(|document| answer(StatusCode::OK, document));
        }
        if info.resource == "subjectaccessreviews" || info.resource == "tokenreviews" {
            return self.review(&info.resource, &read(body).await?).await;
        }
        let kind = self.kind(&info.group, &info.version, &info.resource)?;
        let namespace = if kind.info.namespaced { info.namespace.clone() } else { String::new() };
        let pairs = parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_owned(), decode(value))).collect();
        let target = Target { kind, info: &info, namespace, query };
        if matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") {
            let object = self.get(&target, &info.name).await?;
            let mut request = Request::from_parts(parts, body);
            request.extensions_mut().insert(user);
            return Ok(self.gate.connect.connect(&info, &object, request).await);
        }
        let body = read(body).await?;
        self.serve(&target, &parts, &body).await
    }

    fn kind(&self, group: &str, version: &str, plural: &str) -> Result<&Kind> {
        let is = |info: &KindInfo| info.group == group && info.version == version && info.plural == plural;
        self.kinds.iter().find(|kind| is(&kind.info)).ok_or_else(Status::no_such_path)
    }

    fn document(&self, path: &str) -> Result<Vec<u8>> {
        let infos: Vec<&KindInfo> = self.kinds.iter().map(|kind| &kind.info).collect();
        let version = json!({
            "major": "1", "minor": "35", "gitVersion": "v1.35.0+knarr1", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        });
        match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["api"] => Ok(discovery::api_versions("10.43.0.1:443")),
            ["apis"] => Ok(discovery::api_group_list(&infos)),
            ["api", version] => discovery::api_resource_list(&infos, "", version).ok_or_else(Status::no_such_path),
            ["apis", group] => discovery::api_group(&infos, group).ok_or_else(Status::no_such_path),
            ["apis", group, version] => {
                discovery::api_resource_list(&infos, group, version).ok_or_else(Status::no_such_path)
            }
            ["openapi", "v2"] => Ok(api::schema::openapi::v2_json(&infos)),
            ["openapi", "v3"] => Ok(api::schema::openapi::v3_index(&infos)),
            ["openapi", "v3", "api", version] => {
                api::schema::openapi::v3(&infos, "", version).ok_or_else(Status::no_such_path)
            }
            ["openapi", "v3", "apis", group, version] => {
                api::schema::openapi::v3(&infos, group, version).ok_or_else(Status::no_such_path)
            }
            ["version"] => Ok(version.to_string().into_bytes()),
            ["healthz" | "readyz" | "livez"] => Ok(b"ok".to_vec()),
            _ => Err(Status::no_such_path()),
        }
    }

    async fn review(&self, resource: &str, body: &[u8]) -> Result<Response> {
        let mut review: Value = serde_json::from_slice(body).map_err(|e| failed(&e))?;
        review["status"] = match resource {
            "tokenreviews" => self.gate.authenticate.review(&review["spec"]).await,
            _ => self.access(&review["spec"]),
        };
        Ok(answer(StatusCode::CREATED, review.to_string()))
    }

    fn access(&self, spec: &Value) -> Value {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let groups: Vec<String> = spec["groups"].as_array().into_iter().flatten().map(text).collect();
        let user = User { name: text(&spec["user"]), groups, ..User::default() };
        let asked = &spec["resourceAttributes"];
        let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy"];
        let verb = |given: &Value| verbs.into_iter().find(|verb| given == verb).unwrap_or("get");
        let info = RequestInfo {
            is_resource: !asked.is_null(),
            path: text(&spec["nonResourceAttributes"]["path"]),
            verb: verb(if asked.is_null() { &spec["nonResourceAttributes"]["verb"] } else { &asked["verb"] }),
            group: text(&asked["group"]),
            version: text(&asked["version"]),
            namespace: text(&asked["namespace"]),
            resource: text(&asked["resource"]),
            subresource: text(&asked["subresource"]),
            name: text(&asked["name"]),
            ..RequestInfo::default()
        };
        match self.gate.authorize.authorize(&user, &info) {
            Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
            Decision::Deny(reason) => json!({"allowed": false, "reason": reason}),
        }
    }

    async fn serve(&self, target: &Target<'_>, parts: &Parts, body: &Bytes) -> Result<Response> {
        let (info, kind) = (target.info, target.kind);
        let name = info.name.as_str();
        let place = match info.subresource.as_str() {
            "status" => Some(Subresource::Status),
            "finalize" => Some(Subresource::Finalize),
            _ => None,
        };
        let object = match (info.verb, info.subresource.as_str()) {
            ("watch", _) => return self.watch(target).await,
            ("list", _) => self.list(target).await?,
            ("get", "scale") => scale(kind, &self.get(target, name).await?),
            ("get", _) => self.get(target, name).await?,
            ("create", "binding") => self.bind(target, &parse(parts, body)?).await?,
            ("create", "token") => self.gate.tokens.issue(&self.get(target, name).await?, parse(parts, body)?).await?,
            ("create", "") => {
                let created =
                    self.create_in(&info.group, &info.version, &info.resource, &target.namespace, parse(parts, body)?);
                return Ok(answer(StatusCode::CREATED, created.await?.to_string()));
            }
            ("update" | "patch", "scale") => {
                let wanted = parse(parts, body)?["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok());
                let wanted = wanted.ok_or_else(|| Status::bad_request("spec.replicas is missing"))?;
                let scaled = self.write(target, name, None, |old| {
                    kind.hooks.with_scale(old.clone(), wanted).map_err(|r| Status::refused(&kind.info, name, &r))
                });
                scale(kind, &scaled.await?)
            }
            ("update", _) => {
                let new = parse(parts, body)?;
                match self.write(target, name, place, |_| Ok(new.clone())).await {
                    Err(status) if status.code == 404 && kind.info.create_on_update => {
                        self.create_in(&info.group, &info.version, &info.resource, &target.namespace, new).await?
                    }
                    other => other?,
                }
            }
            ("patch", _) => {
                let media = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
                let media = PatchType::from_content_type(media).ok_or_else(|| Status::unsupported_media_type(&[]))?;
                let (patch, _) = Patch::parse(media, body).map_err(|e| e.to_status())?;
                let schema = api::schema::table().by_kind(kind.info.group, kind.info.version, kind.info.kind);
                self.write(target, name, place, |old| patch.apply(old, schema).map_err(|e| e.to_status())).await?
            }
            ("delete", _) => self.delete(target, name, &parse(parts, body)?).await?,
            _ => return Err(Status::method_not_allowed()),
        };
        Ok(answer(StatusCode::OK, object.to_string()))
    }

    async fn get(&self, target: &Target<'_>, name: &str) -> Result<Value> {
        let (entry, _) = self.store.get(&target.key(name)).await.map_err(|e| failed(&e))?;
        entry.map(|e| show(target.kind, &e.value, e.mod_revision)).ok_or_else(|| target.not_found(name))
    }

    async fn list(&self, target: &Target<'_>) -> Result<Value> {
        let selection = Selection::of(target)?;
        let range = Range::prefix(&target.key(""));
        let page = self.store.range(range).await.map_err(|e| failed(&e))?;
        let items: Vec<Value> = page
            .entries
            .iter()
            .map(|entry| show(target.kind, &entry.value, entry.mod_revision))
            .filter(|object| selection.matches(target.kind, object))
            .collect();
        Ok(json!({
            "kind": format!("{}List", target.kind.info.kind),
            "apiVersion": target.kind.info.api_version(),
            "metadata": {"resourceVersion": page.revision.to_string()},
            "items": items,
        }))
    }

    async fn watch(&self, target: &Target<'_>) -> Result<Response> {
        let selection = Selection::of(target)?;
        let prefix = target.key("");
        let from = target.query.get("resourceVersion").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        let (first, from) = match from {
            0 => {
                let page = self.store.range(Range::prefix(&prefix)).await.map_err(|e| failed(&e))?;
                (page.entries, page.revision)
            }
            from => (Vec::new(), from),
        };
        let watch = self.store.watch(&prefix, from + 1).await;
        let mut watch = watch.map_err(|_| Status::expired("The resourceVersion for the provided watch is too old."))?;
        let info = &target.kind.info;
        let kind = kinds::all().into_iter().find(|kind| kind.info == *info).ok_or_else(Status::no_such_path)?;
        let (lines, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::convert::Infallible>>(64);
        tokio::spawn(async move {
            let first = first.into_iter().map(|e| ("ADDED", show(&kind, &e.value, e.mod_revision)));
            for (change, object) in first.filter(|(_, object)| selection.matches(&kind, object)).collect::<Vec<_>>() {
                if lines.send(Ok(line(change, &object))).await.is_err() {
                    return;
                }
            }
            loop {
                let message = tokio::select! { message = watch.recv() => message, () = lines.closed() => return };
                let Some(Ok(message)) = message else { return };
                let WatchMessage::Events(events) = message else { continue };
                for event in events {
                    let Some(line) = selection.line(&kind, &event) else { continue };
                    if lines.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(answer(StatusCode::OK, Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn create_in(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value> {
        let kind = self.kind(group, version, plural)?;
        let (info, now) = (&kind.info, Timestamp::now());
        if !object.is_object() {
            return Err(Status::bad_request("the body is no object"));
        }
        object["kind"] = info.kind.into();
        object["apiVersion"] = info.api_version().into();
        if info.namespaced {
            object["metadata"]["namespace"] = namespace.into();
        }
        if let (None, Some(base)) = (object["metadata"]["name"].as_str(), object["metadata"]["generateName"].as_str()) {
            object["metadata"]["name"] = api::names::generate_name(base, &mut rand::rng()).into();
        }
        object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
        object["metadata"]["creationTimestamp"] = time(now);
        match (group, plural) {
            ("", "services") => assign_address(&mut object),
            ("", "pods") if object["spec"]["serviceAccountName"].is_null() => {
                object["spec"]["serviceAccountName"] = "default".into();
            }
            _ => {}
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let admitted = kind.hooks.create(object, &Context { now, user: "" });
        let bytes = stored(kind, admitted.map_err(|r| Status::refused(info, &name, &r))?.object);
        let key: Arc<str> = key(info, if info.namespaced { namespace } else { "" }, &name).into();
        let ttl = info.ttl_seconds.map(Duration::from_secs);
        let put = Op::Put { key: key.clone(), value: bytes.clone(), ttl };
        let txn = Txn { compare: vec![(key, 0)], ops: vec![put], durability: durability(info) };
        match self.store.commit(txn).await.map_err(|e| failed(&e))? {
            Outcome::Committed(revision) => Ok(show(kind, &bytes, revision)),
            Outcome::Conflict(_) => Err(Status::already_exists(info.group_resource(), &name)),
        }
    }

    async fn bind(&self, target: &Target<'_>, binding: &Value) -> Result<Value> {
        let node = binding["target"]["name"].clone();
        let bound = |old: &Value| {
            let mut pod = old.clone();
            if pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty()) {
                return Err(Status::conflict(target.kind.info.group_resource(), &target.info.name, "it is bound already"));
            }
            pod["spec"]["nodeName"] = node.clone();
            let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": time(Timestamp::now())});
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let others = conditions.into_iter().filter(|c| c["type"] != "PodScheduled");
            pod["status"]["conditions"] = others.chain([scheduled]).collect();
            Ok(pod)
        };
        self.replace(target, &target.info.name, bound, |_, new| Ok(new)).await?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
    }

    async fn delete(&self, target: &Target<'_>, name: &str, options: &Value) -> Result<Value> {
        let info = &target.kind.info;
        let doom = |old: &Value| {
            let wanted = options["preconditions"]["uid"].as_str();
            if wanted.is_some_and(|uid| old["metadata"]["uid"] != uid) {
                return Err(Status::conflict(info.group_resource(), name, "the uid in the precondition is another one"));
            }
            let graceful = info.plural == "pods" && old["spec"]["nodeName"].is_string();
            let own = old["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
            let grace = if graceful { options["gracePeriodSeconds"].as_i64().unwrap_or(own).max(0) } else { 0 };
            let mut object = old.clone();
            let known = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
            if object["metadata"]["deletionTimestamp"].is_null() || known.is_some_and(|known| grace < known) {
                let at = Timestamp::now() + jiff::SignedDuration::from_secs(grace);
                object["metadata"]["deletionTimestamp"] = time(at);
                object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            }
            Ok(object)
        };
        self.replace(target, name, doom, |_, new| Ok(new)).await
    }

    async fn write(
        &self,
        target: &Target<'_>,
        name: &str,
        at: Option<Subresource>,
        change: impl Fn(&Value) -> Result<Value>,
    ) -> Result<Value> {
        let kind = target.kind;
        let decide = |old: &Value, new: Value| {
            let context = Context { now: Timestamp::now(), user: "" };
            let admitted = kind.hooks.update(new, old, at, &context).map_err(|r| Status::refused(&kind.info, name, &r))?;
            let mut object = admitted.object;
            if kind.info.has_generation && at.is_none() && object["spec"] != old["spec"] {
                object["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(1) + 1).into();
            }
            Ok(object)
        };
        self.replace(target, name, change, decide).await
    }

    /// Compare-and-set until it holds; an object whose deletion is complete goes.
    async fn replace(
        &self,
        target: &Target<'_>,
        name: &str,
        change: impl Fn(&Value) -> Result<Value>,
        decide: impl Fn(&Value, Value) -> Result<Value>,
    ) -> Result<Value> {
        let (kind, key) = (target.kind, target.key(name));
        for _ in 0..20 {
            let (entry, _) = self.store.get(&key).await.map_err(|e| failed(&e))?;
            let entry = entry.ok_or_else(|| target.not_found(name))?;
            let old = show(kind, &entry.value, entry.mod_revision);
            let mut new = change(&old)?;
            let given = new["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            if !given.is_empty() && given != entry.mod_revision.to_string() {
                return Err(Status::modified(kind.info.group_resource(), name));
            }
            carry_over(&mut new, &old);
            new["kind"] = kind.info.kind.into();
            new["apiVersion"] = kind.info.api_version().into();
            let new = decide(&old, new)?;
            let gone = is_gone(&new);
            let bytes = stored(kind, new);
            if bytes == entry.value && !gone {
                return Ok(old);
            }
            let put = Op::Put { key: key.clone(), value: bytes.clone(), ttl: None };
            let op = if gone { Op::Delete { key: key.clone() } } else { put };
            let compare = vec![(key.clone(), entry.mod_revision)];
            let txn = Txn { compare, ops: vec![op], durability: durability(&kind.info) };
            if let Outcome::Committed(revision) = self.store.commit(txn).await.map_err(|e| failed(&e))? {
                return Ok(show(kind, &bytes, revision));
            }
        }
        Err(Status::modified(kind.info.group_resource(), name))
    }
}

fn durability(info: &KindInfo) -> Durability {
    if info.relaxed_durability { Durability::Relaxed } else { Durability::Synced }
}

/// What an update leaves out of the server's own metadata stays.
fn carry_over(new: &mut Value, old: &Value) {
    let fields =
        ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name"];
    for field in fields {
        if new["metadata"][field].is_null() && !old["metadata"][field].is_null() {
            new["metadata"][field] = old["metadata"][field].clone();
        }
    }
}

fn is_gone(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let held = |list: &Value| list.as_array().is_some_and(|finalizers| !finalizers.is_empty());
    metadata["deletionTimestamp"].is_string()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !held(&metadata["finalizers"])
        && !held(&object["spec"]["finalizers"])
}

/// An address of the service range by chance: nobody counts them here.
fn assign_address(service: &mut Value) {
    let spec = &mut service["spec"];
    if spec["type"] == "ExternalName" || spec["clusterIP"].as_str().is_some_and(|ip| !ip.is_empty()) {
        let given = spec["clusterIP"].clone();
        if given.is_string() {
            spec["clusterIPs"] = json!([given]);
        }
        return;
    }
    let address = format!("10.43.{}.{}", rand::random_range(1..=254u8), rand::random_range(1..=254u8));
    spec["clusterIPs"] = json!([address]);
    spec["clusterIP"] = address.into();
    let exposed = spec["type"] == "NodePort" || spec["type"] == "LoadBalancer";
    for port in spec["ports"].as_array_mut().into_iter().flatten().filter(|_| exposed) {
        if port["nodePort"].is_null() {
            port["nodePort"] = rand::random_range(30_000..=32_767u16).into();
        }
    }
}

fn scale(kind: &Kind, object: &Value) -> Value {
    let scale = kind.hooks.scale(object).unwrap_or_default();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {"name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"]},
        "spec": {"replicas": scale.replicas},
        "status": {"replicas": scale.status_replicas, "selector": scale.selector},
    })
}

async fn read(body: Body) -> Result<Bytes> {
    axum::body::to_bytes(body, 3 << 20).await.map_err(|_| Status::body_too_large(3 << 20))
}

fn parse(parts: &Parts, body: &[u8]) -> Result<Value> {
    if parts.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().ends_with(b"protobuf")) {
        return Err(Status::unsupported_media_type(&["application/json", "application/yaml"]));
    }
    let yaml = parts.headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().ends_with(b"yaml"));
    match (body.is_empty(), yaml) {
        (true, _) => Ok(json!({})),
        (false, true) => api::schema::yaml::parse(body).map(|parsed| parsed.value).map_err(Status::bad_request),
        (false, false) => serde_json::from_slice(body).map_err(|e| Status::bad_request(e.to_string())),
    }
}

fn line(change: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": change, "object": object})).into()
}

/// Which objects a list or watch is about.
struct Selection {
    labels: Option<Selector>,
    fields: Option<FieldSelector>,
}

impl Selection {
    fn of(target: &Target<'_>) -> Result<Self> {
        let given = |name: &str| target.query.get(name).filter(|text| !text.is_empty());
        Ok(Self {
            labels: given("labelSelector").map(|t| Selector::parse(t)).transpose().map_err(|e| failed(&e))?,
            fields: given("fieldSelector").map(|t| FieldSelector::parse(t)).transpose().map_err(|e| failed(&e))?,
        })
    }

    fn matches(&self, kind: &Kind, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        let own = |fields: &FieldSelector| {
            let values = kind.hooks.fields(object);
            fields.matches_with(|field| match field {
                "metadata.name" => object["metadata"]["name"].as_str(),
                "metadata.namespace" => object["metadata"]["namespace"].as_str(),
                field => values.iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str()),
            })
        };
        self.labels.as_ref().is_none_or(|labels| labels.matches_with(label)) && self.fields.as_ref().is_none_or(own)
    }

    /// What a watcher is told of a change, if anything.
    fn line(&self, kind: &Kind, event: &Event) -> Option<Bytes> {
        let seen = |value: &Option<Bytes>| {
            let object = show(kind, value.as_ref()?, event.revision);
            self.matches(kind, &object).then_some(object)
        };
        match (seen(&event.previous), seen(&event.value)) {
            (None, Some(new)) => Some(line("ADDED", &new)),
            (Some(_), Some(new)) => Some(line("MODIFIED", &new)),
            (Some(old), None) => Some(line("DELETED", &old)),
            (None, None) => None,
        }
    }
}
