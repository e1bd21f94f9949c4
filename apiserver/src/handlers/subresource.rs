//! Parts of objects with a path of their own.

use std::sync::Arc;

use api::{
    discovery::subresource_name,
    kind::{KindInfo, Subresource},
    schema::FieldValidation,
    status::{GroupResource, Status},
};
use axum::{body::Body, response::Response};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{App, Ask, read, write};
use crate::{
    admission,
    error::{self, Result},
    registry::{Entry, Write, check_place, metadata},
    request::RequestInfo,
    wire::{
        body,
        negotiate::{self, For},
        options::{DeleteOptions, Query, WriteOptions},
    },
};

/// Whether the request is carried on to a kubelet, pod or service.
pub fn is_streaming(info: &RequestInfo) -> bool {
    matches!(
        (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()),
        ("", "pods", "log" | "exec" | "attach" | "portforward" | "proxy") | ("", "services" | "nodes", "proxy")
    )
}

/// The part of an object of a kind that a path names. Only what a proxy carries on goes on below it.
pub fn of(kind: &KindInfo, asked: &RequestInfo) -> Option<Subresource> {
    let part = kind.subresources.iter().copied().find(|s| subresource_name(*s) == asked.subresource)?;
    (asked.rest.is_empty() || part == Subresource::Proxy).then_some(part)
}

/// The methods that a part's path knows.
pub fn methods(part: Subresource) -> &'static [Method] {
    match part {
        Subresource::Binding | Subresource::Eviction | Subresource::Token => &[Method::POST],
        Subresource::Finalize => &[Method::PUT],
        Subresource::Log => &[Method::GET],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &[Method::GET, Method::POST],
        Subresource::Proxy => {
            &[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS]
        }
        Subresource::Approval
        | Subresource::EphemeralContainers
        | Subresource::Resize
        | Subresource::Scale
        | Subresource::Status => &[Method::GET, Method::PUT, Method::PATCH],
    }
}

/// Carries it there.
pub async fn connect(app: &Arc<App>, info: &RequestInfo, request: Request<Body>) -> Result<Response> {
    if info.subresource != "log" && !Query::parse(request.uri().query()).all("dryRun").is_empty() {
        return Err(Status::bad_request("dryRun is not supported"));
    }
    let entry = app.registry.core(&info.resource)?;
    app.registry.catch_up().await?;
    let id = crate::upgrade::location::target(&info.name).map_or(info.name.as_str(), |t| t.name);
    let namespace = if entry.info().namespaced { info.namespace.as_str() } else { "" };
    check_place(entry.info(), namespace, id)?;
    let found = entry.cache.get(namespace, &info.name).or_else(|| entry.cache.get(namespace, id));
    let object = found.ok_or_else(|| Status::not_found(entry.info().group_resource(), id))?.value();
    Ok(app.gate.connect.connect(info, &object, request).await)
}

/// Any other subresource.
pub async fn answer(app: &App, entry: &Arc<Entry>, ask: Ask, body: Body) -> Result<Response> {
    let Some(part) = of(entry.info(), &ask.info) else { return super::unknown(app, &ask.info.path) };
    match (part, ask.info.verb) {
        (Subresource::Scale, _) => scale(app, entry, &ask, body).await,
        (Subresource::Binding, _) => bind(app, &ask, body).await,
        (Subresource::Eviction, _) => evict(app, entry, &ask, body).await,
        (Subresource::Token, _) => token(app, entry, &ask, body).await,
        (_, "get") => read::get(app, entry, &ask).await,
        (_, "update") => write::update(app, entry, &ask, Some(part), body).await,
        (_, "patch") => write::patch(app, entry, &ask, Some(part), body).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// An answer with what its request's body was warned of, whatever became of the request.
fn answered(form: negotiate::Form, warnings: &[String], result: Result<Response>) -> Response {
    let mut response = result.unwrap_or_else(|status| error::respond_as(&status, form));
    super::warn(&mut response, warnings);
    response
}

/// What a Scale is to those who read one.
const SCALE: KindInfo = KindInfo { group: "autoscaling", version: "v1", kind: "Scale", ..KindInfo::BASE };

/// An object's `autoscaling/v1` Scale.
fn scale_of(entry: &Entry, object: &Value) -> Value {
    let scale = entry.hooks().scale(object).unwrap_or_default();
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            meta[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": scale.status_replicas});
    if !scale.selector.is_empty() {
        status["selector"] = json!(scale.selector);
    }
    let mut spec = json!({});
    if scale.replicas != 0 {
        spec["replicas"] = json!(scale.replicas);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status})
}

/// The object that a wished Scale makes of the current one.
fn with_scale(entry: &Entry, current: &Value, scale: &Value) -> Result<Value> {
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    let mut errors = api::field::FieldErrors::default();
    let mut meta = metadata::typed(scale)?;
    meta.namespace = Some(metadata::text(current, "namespace").to_owned());
    api::meta::validate(&meta, &SCALE, true, &mut errors);
    if replicas < 0 {
        errors.invalid("spec.replicas", &replicas, "must be greater than or equal to 0");
    }
    if !errors.is_empty() {
        let kind = GroupResource { group: "autoscaling", resource: "Scale" };
        return Err(Status::invalid(kind, metadata::text(current, "name"), &errors));
    }
    let replicas = i32::try_from(replicas).map_err(|_| Status::bad_request("spec.replicas is too large"))?;
    let mut object = entry
        .hooks()
        .with_scale(current.clone(), replicas)
        .map_err(|e| Status::refused(entry.info(), metadata::text(current, "name"), &e))?;
    let meta = metadata::of(&mut object);
    match metadata::text(scale, "resourceVersion") {
        "" => meta.remove("resourceVersion"),
        wanted => meta.insert("resourceVersion".to_owned(), wanted.into()),
    };
    Ok(object)
}

async fn scale(app: &App, entry: &Entry, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Object)?;
    let (namespace, name) = write::place(entry, ask);
    let show = |object: &Value, status| {
        let json = serde_json::to_vec(&scale_of(entry, object)).unwrap_or_default();
        super::encoded(status, form, json.into())
    };
    let missing = || {
        let below = if ask.info.verb == "patch" { "" } else { "/scale" };
        let resource = format!("{}{below}", entry.info().plural);
        Status::not_found(GroupResource { group: entry.info().group, resource: &resource }, name)
    };
    if ask.info.verb == "get" {
        // As upstream, whatever is wrong with the question, there is no such scale.
        let current = app.registry.current(entry, namespace, name).await.ok().flatten().ok_or_else(missing)?;
        return Ok(show(&current.value, StatusCode::OK));
    }
    let patching = ask.info.verb == "patch";
    let kind = if patching { Some(write::patch_type(ask, &body)?) } else { None };
    let options = WriteOptions::parse(&ask.query, if patching { "PatchOptions" } else { "UpdateOptions" })?;
    let write_ = Write { user: &ask.user, now: ask.now, options: &options };
    let (written, warnings) = if let Some(kind) = kind {
        let (patch, mut warnings) = write::parse_patch_of(app, entry, ask, kind, &options, body).await?;
        let (mut unknown, mut twice) = (Vec::new(), None);
        let mut wish = |current: &Value| {
            let mut scale;
            (scale, unknown) = write::patched(&patch, &scale_of(entry, current), &SCALE, &warnings, &options)?;
            twice = write::dedup_owners(&mut scale, write::PATCHED);
            write::check_name(&scale, name)?;
            check_namespace(&scale, namespace)?;
            let (uid, own) = (metadata::text(&scale, "uid"), metadata::text(current, "uid"));
            if !uid.is_empty() && uid != own {
                let resource = format!("{}/scale", entry.info().plural);
                let resource = GroupResource { group: entry.info().group, resource: &resource };
                let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
                return Err(Status::conflict(resource, name, &why));
            }
            with_scale(entry, current, &scale)
        };
        let written = app.registry.update(entry, (namespace, name), None, write_, &mut wish).await;
        warnings.extend(unknown);
        let mut warnings = if options.field_validation == FieldValidation::Warn { warnings } else { Vec::new() };
        warnings.extend(twice);
        (written, warnings)
    } else {
        let bytes = body::read(body).await?;
        let (mut scale, mut warnings) =
            write::decode(&ask.headers, &bytes, (SCALE.group, SCALE.version, SCALE.kind), &options)?;
        warnings.extend(write::dedup_owners(&mut scale, ""));
        let fits = metadata::fit_kind(&mut scale, &SCALE)
            .and_then(|()| check_namespace(&scale, namespace))
            .and_then(|()| write::check_name(&scale, name));
        if let Err(status) = fits {
            return Ok(answered(form, &warnings, Err(status)));
        }
        let mut wish = |current: &Value| {
            write::check_meant(entry, (namespace, name), &scale, current, &[write::UID], options.dry_run)?;
            with_scale(entry, current, &scale)
        };
        (app.registry.update(entry, (namespace, name), None, write_, &mut wish).await, warnings)
    };
    let mut warnings = warnings;
    let shown = written.map_err(|status| if status.is("NotFound") { missing() } else { status }).map(|written| {
        warnings.extend(written.warnings);
        let object: Value = serde_json::from_slice(&written.json).unwrap_or_default();
        show(&object, StatusCode::OK)
    });
    Ok(answered(form, &warnings, shown))
}

/// What is created below an object may name no other namespace.
fn check_namespace(object: &Value, namespace: &str) -> Result<()> {
    match metadata::text(object, "namespace") {
        own if own.is_empty() || own == namespace => Ok(()),
        _ => {
            Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
        }
    }
}

/// What is created below an object is of one kind, which it may leave out.
fn check_kind(object: &Value, group: &'static str, wanted: &'static str) -> Result<()> {
    if object.get("kind").and_then(Value::as_str) == Some("DeleteOptions") {
        return Ok(());
    }
    let info = KindInfo { group, version: "v1", kind: wanted, ..KindInfo::BASE };
    metadata::fit_kind(&mut object.clone(), &info)
}

/// `{"status":"Success","code":201}`: what creating a binding or an eviction answers.
fn created(form: negotiate::Form) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    super::encoded(StatusCode::CREATED, form, serde_json::to_vec(&status).unwrap_or_default().into())
}

/// Binds a pod to a node: `pods/NAME/binding` and `bindings`.
pub async fn bind(app: &App, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, None, For::Review)?;
    let options = WriteOptions::parse(&ask.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let (binding, warnings) = write::decode(&ask.headers, &bytes, ("", "v1", "Binding"), &options)?;
    let bound = bind_to(app, ask, &options, &binding).await;
    Ok(answered(form, &warnings, bound.map(|()| created(form))))
}

async fn bind_to(app: &App, ask: &Ask, options: &WriteOptions, binding: &Value) -> Result<()> {
    let entry = app.registry.core("pods")?;
    let unnamed = ask.info.name.is_empty();
    let name = if unnamed { metadata::text(binding, "name") } else { ask.info.name.as_str() };
    check_kind(binding, "", "Binding")?;
    check_namespace(binding, &ask.info.namespace)?;
    let place = (ask.info.namespace.as_str(), name);
    admission::on_part(&app.registry, ("pods", Subresource::Binding), place, binding, &ask.user).await?;
    if metadata::text(binding, "name") != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let target = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default();
    let kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or_default();
    let mut errors = api::field::FieldErrors::default();
    if !matches!(kind, "" | "Node") {
        errors.not_supported("target.kind", &kind, &["Node", "<empty>"]);
    }
    if target.is_empty() {
        errors.required("target.name", "");
    }
    if !errors.is_empty() {
        return Err(Status::unexpected(errors.to_string()));
    }
    // As upstream: what is created anew has no identity yet.
    let meant: &[_] = if unnamed { &[write::REVISION] } else { &[write::UID, write::REVISION] };
    let now = metadata::timestamp(ask.now);
    let mut wish = |pod: &Value| {
        let conflict = |why: String| Status::conflict(GroupResource { group: "", resource: "pods/binding" }, name, &why);
        write::check_meant(entry, place, binding, pod, meant, options.dry_run)?;
        if metadata::is_terminating(pod) {
            return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        if let Some(node) = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|n| !n.is_empty()) {
            return Err(conflict(format!("pod {name} is already assigned to node {}", api::status::quote(node))));
        }
        if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
            return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut pod = pod.clone();
        pod["spec"]["nodeName"] = json!(target);
        if let Some(annotations) = binding.pointer("/metadata/annotations").and_then(Value::as_object) {
            let own = metadata::of(&mut pod).entry("annotations").or_insert_with(|| json!({}));
            annotations.iter().for_each(|(k, v)| own[k] = v.clone());
        }
        let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
        let status = &mut pod["status"];
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        if let Some(conditions) = status["conditions"].as_array_mut() {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        Ok(pod)
    };
    let write_ = Write { user: &ask.user, now: ask.now, options };
    app.registry.edit(entry, (&ask.info.namespace, name), write_, &mut wish).await?;
    Ok(())
}

async fn evict(app: &App, entry: &Entry, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, None, For::Review)?;
    let options = WriteOptions::parse(&ask.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let (eviction, warnings) = write::decode(&ask.headers, &bytes, ("policy", "v1", "Eviction"), &options)?;
    let evicted = evict_as_told(app, entry, ask, &options, &eviction).await;
    Ok(answered(form, &warnings, evicted.map(|()| created(form))))
}

async fn evict_as_told(app: &App, entry: &Entry, ask: &Ask, options: &WriteOptions, eviction: &Value) -> Result<()> {
    check_kind(eviction, "policy", "Eviction")?;
    check_namespace(eviction, &ask.info.namespace)?;
    let place = write::place(entry, ask);
    admission::on_part(&app.registry, ("pods", Subresource::Eviction), place, eviction, &ask.user).await?;
    if metadata::text(eviction, "name") != ask.info.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let pod = app.registry.current(entry, place.0, place.1).await?;
    let pod = pod.ok_or_else(|| Status::not_found(entry.info().group_resource(), place.1))?;
    let wanted = eviction.get("deleteOptions").filter(|o| o.is_object()).cloned();
    let inside = wanted.as_ref().and_then(|options| options["dryRun"].as_array()).filter(|dry| !dry.is_empty());
    if let (Some(inside), true) = (inside, options.dry_run) {
        let inside: Vec<&str> = inside.iter().filter_map(Value::as_str).collect();
        let outside = ask.query.all("dryRun");
        if inside != outside {
            let (outside, inside) = (outside.join(" "), inside.join(" "));
            let why = format!("Non-matching dry-run options in request and content: [{outside}] and [{inside}]");
            return Err(Status::unexpected(why));
        }
    }
    let mut deletion = DeleteOptions::parse(&Query::default(), wanted)?;
    deletion.dry_run |= options.dry_run;
    let write_ = Write { user: &ask.user, now: ask.now, options };
    if !deletion.dry_run && !metadata::is_terminating(&pod.value) {
        let marked = mark_disrupted(app, entry, ask, &deletion, write_).await?;
        // What was marked is what goes.
        deletion.revision = deletion.revision.map(|_| marked);
    }
    app.registry.delete(entry, place, &deletion, write_).await?;
    Ok(())
}

/// Notes on an evicted pod why it goes, unless it is another than the one that is meant; its revision then.
async fn mark_disrupted(app: &App, entry: &Entry, ask: &Ask, deletion: &DeleteOptions, write_: Write<'_>) -> Result<String> {
    let now = metadata::timestamp(ask.now);
    let meant = |field: &str, wanted: &Option<String>, pod: &Value| {
        wanted.as_deref().is_none_or(|wanted| wanted == metadata::text(pod, field))
    };
    let mut wish = |pod: &Value| {
        let mut pod = pod.clone();
        if !meant("uid", &deletion.uid, &pod) || !meant("resourceVersion", &deletion.revision, &pod) {
            return Ok(pod);
        }
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            "lastProbeTime": null, "lastTransitionTime": now,
        });
        let status = &mut pod["status"];
        if !status["conditions"].is_array() {
            status["conditions"] = json!([]);
        }
        if let Some(conditions) = status["conditions"].as_array_mut() {
            let told = conditions.iter().position(|c| c["type"] == "DisruptionTarget");
            match told.map(|at| &mut conditions[at]) {
                Some(told) if told["status"] == "True" => {
                    told["reason"] = condition["reason"].clone();
                    told["message"] = condition["message"].clone();
                }
                Some(told) => *told = condition,
                None => conditions.push(condition),
            }
        }
        Ok(pod)
    };
    let written = app.registry.edit(entry, write::place(entry, ask), write_, &mut wish).await?;
    let pod: Value = serde_json::from_slice(&written.json).unwrap_or_default();
    Ok(metadata::text(&pod, "resourceVersion").to_owned())
}

async fn token(app: &App, entry: &Entry, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, None, For::Review)?;
    let options = WriteOptions::parse(&ask.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let kind = ("authentication.k8s.io", "v1", "TokenRequest");
    let (request, warnings) = write::decode(&ask.headers, &bytes, kind, &options)?;
    let issued = issue(app, entry, ask, request).await;
    let shown = issued
        .map(|answer| super::encoded(StatusCode::CREATED, form, serde_json::to_vec(&answer).unwrap_or_default().into()));
    Ok(answered(form, &warnings, shown))
}

async fn issue(app: &App, entry: &Entry, ask: &Ask, mut request: Value) -> Result<Value> {
    check_kind(&request, "authentication.k8s.io", "TokenRequest")?;
    let (namespace, name) = write::place(entry, ask);
    let part = ("serviceaccounts", Subresource::Token);
    admission::on_part(&app.registry, part, (namespace, name), &request, &ask.user).await?;
    let current = app.registry.current(entry, namespace, name).await?;
    let account = current.ok_or_else(|| Status::not_found(entry.info().group_resource(), name))?.value;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    check_namespace(&request, namespace)?;
    let told = metadata::text(&request, "name");
    if !told.is_empty() && told != name {
        let mut errors = api::field::FieldErrors::default();
        errors.invalid("metadata.name", &told, "must match the service account name if specified");
        let kind = GroupResource { group: "authentication.k8s.io", resource: "TokenRequest" };
        return Err(Status::invalid(kind, name, &errors));
    }
    let meta = metadata::of(&mut request);
    meta.insert("name".to_owned(), name.into());
    meta.insert("namespace".to_owned(), namespace.into());
    meta.insert("creationTimestamp".to_owned(), metadata::timestamp(ask.now).into());
    app.gate.tokens.issue(&account, request).await
}
