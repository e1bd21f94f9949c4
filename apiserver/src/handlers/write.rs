//! POST, PUT, PATCH and DELETE: decode, call the registry once, encode.

use api::{
    kind::{KindInfo, Subresource},
    patch::{Patch, PatchType},
    schema::{
        DecodeError, FieldValidation, MediaType, TypeId,
        body::{conform, first_mismatch, in_order, parse},
        table,
    },
    status::Status,
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::Value;

use super::{App, Ask, certificates, read};
use crate::{
    admission,
    error::{self, Result},
    gate::Decision,
    registry::{Entry, Write, Written, check_key, check_place, metadata},
    request::RequestInfo,
    wire::{
        body,
        negotiate::{self, Encoding, For, Form},
        options::{DeleteOptions, ListOptions, Match, Query, WriteOptions, parse_number},
    },
};

const PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// A kind's type in the schema table.
pub fn type_of(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    table::table().by_kind(group, version, kind)
}

/// A body as an object of a kind, and warnings.
pub fn decode(
    headers: &http::HeaderMap,
    bytes: &Bytes,
    (group, version, kind): (&str, &str, &str),
    options: &WriteOptions,
) -> Result<(Value, Vec<String>)> {
    let refuse = |e: DecodeError| Status::bad_request(e.message(version, kind, bytes));
    let ty = type_of(group, version, kind);
    // Objects of another kind are told so by name before their fields are looked at.
    let (raw, duplicates) = parse(bytes, media_type(headers)?, ty).map_err(refuse)?;
    let text = |field: &str| raw.get(field).and_then(Value::as_str).unwrap_or_default();
    let own = api::meta::api_version(group, version);
    // Evictions are also taken in their older version, whose fields are the same.
    let is_older = (kind, text("apiVersion")) == ("Eviction", "policy/v1beta1");
    let same = (text("kind").is_empty() || text("kind") == kind)
        && (text("apiVersion").is_empty() || text("apiVersion") == own || is_older);
    match ty {
        Some(ty) if same => {
            let json = media_type(headers)? == MediaType::Json;
            let ordered = |mut problems: Vec<String>| {
                if json {
                    in_order(&mut problems, bytes);
                }
                problems
            };
            let mut decoded = conform(raw, duplicates, ty, options.field_validation).map_err(|error| {
                refuse(match error {
                    DecodeError::Strict(problems) => DecodeError::Strict(ordered(problems)),
                    DecodeError::Type(why) if json => DecodeError::Type(first_mismatch(bytes, ty).unwrap_or(why)),
                    other => other,
                })
            })?;
            if is_older {
                decoded.object["apiVersion"] = own.into();
            }
            Ok((decoded.object, ordered(decoded.warnings)))
        }
        _ => Ok((raw, Vec::new())),
    }
}

fn media_type(headers: &http::HeaderMap) -> Result<MediaType> {
    Ok(match negotiate::content_encoding(headers)? {
        Encoding::Json => MediaType::Json,
        Encoding::Yaml => MediaType::Yaml,
        Encoding::Protobuf => MediaType::Protobuf,
    })
}

fn id(entry: &Entry) -> (&str, &str, &str) {
    (entry.info().group, entry.info().version, entry.info().kind)
}

/// Where the object lives: cluster-scoped ones in no namespace.
pub fn place<'a>(entry: &Entry, ask: &'a Ask) -> (&'a str, &'a str) {
    (if entry.info().namespaced { &ask.info.namespace } else { "" }, &ask.info.name)
}

/// POST.
pub async fn create(app: &App, entry: &Entry, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Object)?;
    let options = WriteOptions::parse(&ask.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let (mut object, mut warnings) = decode(&ask.headers, &bytes, id(entry), &options)?;
    warnings.extend(dedup_owners(&mut object, ""));
    app.gate.authorize.check_escalation(&ask.user, &ask.info, &object, None)?;
    let write = Write { user: &ask.user, now: ask.now, options: &options };
    let created = app.registry.create(entry, place(entry, ask).0, object, write).await;
    Ok(outcome(entry, ask, form, warnings, created))
}

/// When owners are found to be named twice by a patch.
pub const PATCHED: &str = " after mutating admission happens";

/// Takes out owners that are named twice, and what is said of them.
pub fn dedup_owners(object: &mut Value, when: &str) -> Option<String> {
    let twice = metadata::dedup_owners(object);
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )
    })
}

/// What a body was warned of is said whatever becomes of it.
fn outcome(entry: &Entry, ask: &Ask, form: Form, mut warnings: Vec<String>, result: Result<Written>) -> Response {
    match result {
        Ok(written) => super::written(entry, ask, form, warnings, written),
        Err(mut status) => {
            warnings.append(&mut status.take_warnings());
            let mut response = error::respond_as(&status, form);
            super::warn(&mut response, &warnings);
            response
        }
    }
}

/// The name in a body must be the path's.
pub fn check_name(object: &Value, name: &str) -> Result<()> {
    match metadata::text(object, "name") {
        own if own == name => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        own => {
            Err(Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({name})")))
        }
    }
}

/// What is put in an object's place, or added to it, may name what it is meant for: the object's identity, its revision.
pub fn check_meant(
    entry: &Entry,
    (namespace, name): (&str, &str),
    object: &Value,
    current: &Value,
    fields: &[(&str, &str)],
    dry_run: bool,
) -> Result<()> {
    for (field, said) in fields {
        let (meant, own) = (metadata::text(object, field), metadata::text(current, field));
        if !meant.is_empty() && meant != own {
            // As upstream: a dry run does not get as far as to where the store keeps objects.
            let key = entry.cache.key(namespace, name);
            let key = key.strip_prefix("/registry").filter(|_| dry_run).unwrap_or(&key);
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {said} in precondition: {meant}, {said} in object meta: {own}"
            );
            return Err(Status::conflict(entry.info().group_resource(), name, &why));
        }
    }
    Ok(())
}

/// How a message calls an object's identity.
pub const UID: (&str, &str) = ("uid", "UID");
/// How a message calls an object's revision.
pub const REVISION: (&str, &str) = ("resourceVersion", "ResourceVersion");

/// PUT, of the object or of a part of it.
pub async fn update(app: &App, entry: &Entry, ask: &Ask, at: Option<Subresource>, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Object)?;
    let options = WriteOptions::parse(&ask.query, "UpdateOptions")?;
    let bytes = body::read(body).await?;
    let (mut object, mut warnings) = decode(&ask.headers, &bytes, id(entry), &options)?;
    warnings.extend(dedup_owners(&mut object, ""));
    let written = put(app, entry, ask, at, object, &options).await;
    Ok(outcome(entry, ask, form, warnings, written))
}

async fn put(
    app: &App,
    entry: &Entry,
    ask: &Ask,
    at: Option<Subresource>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Written> {
    let (namespace, name) = place(entry, ask);
    metadata::fit_kind(&mut object, entry.info())?;
    metadata::fit_namespace(&mut object, namespace, entry.info().namespaced)?;
    check_name(&object, name)?;
    let write = Write { user: &ask.user, now: ask.now, options };
    let mut wish = |current: &Value| {
        check_meant(entry, (namespace, name), &object, current, &[UID], options.dry_run)?;
        app.gate.authorize.check_escalation(&ask.user, &ask.info, &object, Some(current))?;
        certificates::may_decide(app.gate.authorize.as_ref(), ask, entry, at, &object, current)?;
        Ok(object.clone())
    };
    match app.registry.update(entry, (namespace, name), at, write, &mut wish).await {
        Err(status) if status.is("NotFound") => {
            // What is meant for one object is not meant for none.
            check_meant(entry, (namespace, name), &object, &Value::Null, &[UID], options.dry_run)?;
            if at.is_some() || !entry.info().create_on_update {
                return Err(status);
            }
            app.gate.authorize.check_escalation(&ask.user, &ask.info, &object, None)?;
            // As upstream to this day, an error without a reason.
            let revision = metadata::text(&object, "resourceVersion");
            if !revision.is_empty() {
                parse_number(revision).map_err(Status::unexpected)?;
            }
            may_create(app, ask)?;
            app.registry.put_new(entry, namespace, object, write).await
        }
        other => other,
    }
}

/// Who puts an object where there is none creates it, which is a right of its own.
fn may_create(app: &App, ask: &Ask) -> Result<()> {
    let info = RequestInfo { verb: "create", ..ask.info.clone() };
    match app.gate.authorize.authorize(&ask.user, &info) {
        Decision::Deny(reason) => {
            let resource = api::status::GroupResource { group: &info.group, resource: &info.resource };
            Err(Status::forbidden(resource, &info.name, &reason))
        }
        Decision::Allow(_) => Ok(()),
    }
}

/// PATCH, of the object or of a part of it.
pub async fn patch(app: &App, entry: &Entry, ask: &Ask, at: Option<Subresource>, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Object)?;
    let kind = patch_type(ask, &body)?;
    let options = WriteOptions::parse(&ask.query, "PatchOptions")?;
    let (patch, mut warnings) = parse_patch_of(app, entry, ask, kind, &options, body).await?;
    let (mut unknown, mut twice, mut applied) = (Vec::new(), None, false);
    let write = Write { user: &ask.user, now: ask.now, options: &options };
    let mut wish = |current: &Value| {
        applied = true;
        let object;
        (object, unknown) = patched(&patch, current, entry.info(), &warnings, &options)?;
        let mut object = object;
        twice = dedup_owners(&mut object, PATCHED);
        check_name(&object, &ask.info.name)?;
        app.gate.authorize.check_escalation(&ask.user, &ask.info, &object, Some(current))?;
        certificates::may_decide(app.gate.authorize.as_ref(), ask, entry, at, &object, current)?;
        Ok(object)
    };
    let written = app.registry.update(entry, place(entry, ask), at, write, &mut wish).await;
    if options.field_validation == FieldValidation::Warn && applied {
        warnings.extend(unknown);
    } else {
        warnings.clear();
    }
    warnings.extend(twice);
    Ok(outcome(entry, ask, form, warnings, written))
}

/// What a patch makes of an object of a kind, and the fields that the kind doesn't know; `told` is what was complained of
/// before.
pub fn patched(
    patch: &Patch,
    current: &Value,
    info: &KindInfo,
    told: &[String],
    options: &WriteOptions,
) -> Result<(Value, Vec<String>)> {
    let ty = type_of(info.group, info.version, info.kind);
    let object = patch.apply(current, ty).map_err(|e| e.to_status())?;
    // Checking drops fields; what is refused is shown with them.
    let refuse = |why: &str| {
        let result = patch.refused(&patch.apply(current, ty).unwrap_or_default());
        let mut errors = api::field::FieldErrors::default();
        errors.invalid("patch", &result, why);
        Status::invalid(api::status::GroupResource { group: "", resource: "" }, "", &errors)
    };
    let mut object = patch.identified(object, current).map_err(|why| refuse(&why))?;
    metadata::check_kind(&object, info).map_err(|why| refuse(&why))?;
    let Some(ty) = ty else { return Ok((object, Vec::new())) };
    let versioned = object["apiVersion"].as_str().is_some_and(|version| !version.is_empty());
    let found = if versioned { patch.check(&mut object, ty).map_err(|why| refuse(&why))? } else { forget(&mut object) };
    let unknown: Vec<String> = found.iter().map(|path| format!("unknown field {}", api::status::quote(path))).collect();
    let problems: Vec<&str> = told.iter().chain(&unknown).map(String::as_str).collect();
    if options.field_validation == FieldValidation::Strict && !problems.is_empty() {
        return Err(refuse(&format!("strict decoding error: {}", problems.join(", "))));
    }
    Ok((object, unknown))
}

/// What upstream knows of an object without an apiVersion: that it is one. It is read as of the version inside of the server,
/// whose fields have other names; what is left has no name, which is what is told. Returns the fields that are lost.
fn forget(object: &mut Value) -> Vec<String> {
    let mut lost = Vec::new();
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|name, _| {
            let kept = matches!(name.as_str(), "kind" | "apiVersion");
            if !kept {
                lost.push(name.clone());
            }
            kept
        });
    }
    lost
}

/// The kind of patch that a request has, which is looked at before its options.
pub fn patch_type(ask: &Ask, body: &Body) -> Result<PatchType> {
    let text = ask.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    match PatchType::from_content_type(text) {
        // As upstream's router, which looks for a body by its announced length.
        None if http_body::Body::size_hint(body).exact().is_none_or(|length| length == 0) => Err(negotiate::unroutable(&[])),
        None => Err(Status::unsupported_patch()),
        Some(PatchType::Apply) => Err(Status::unsupported_media_type(PATCHES)),
        Some(kind) => Ok(kind),
    }
}

/// [`parse_patch`] of an object. As upstream, who reads a patch when there is something to apply it to.
pub async fn parse_patch_of(
    app: &App,
    entry: &Entry,
    ask: &Ask,
    kind: PatchType,
    options: &WriteOptions,
    body: Body,
) -> Result<(Patch, Vec<String>)> {
    match parse_patch(kind, options, body).await {
        Err(status) if status.is("BadRequest") || status.is("Invalid") => {
            let (namespace, name) = place(entry, ask);
            let found = app.registry.current(entry, namespace, name).await?;
            Err(found.map_or_else(|| Status::not_found(entry.info().group_resource(), name), |_| status))
        }
        parsed => parsed,
    }
}

/// Reads a patch; the second part is what strict validation complains of.
async fn parse_patch(kind: PatchType, options: &WriteOptions, body: Body) -> Result<(Patch, Vec<String>)> {
    let bytes = body::read(body).await?;
    let parsed = match options.field_validation {
        FieldValidation::Ignore => Patch::parse_ignoring(kind, &bytes).map(|patch| (patch, Vec::new())),
        FieldValidation::Warn | FieldValidation::Strict => Patch::parse(kind, &bytes),
    };
    parsed.map_err(|e| e.to_status())
}

/// The options of a deletion.
pub async fn delete_options(headers: &http::HeaderMap, query: &Query, body: Body) -> Result<DeleteOptions> {
    let bytes = body::read(body).await?;
    if bytes.is_empty() {
        return DeleteOptions::parse(query, None);
    }
    let (value, _) = parse(&bytes, media_type(headers)?, None).map_err(|e| Status::unexpected(e.to_string()))?;
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("kind"), "" | "DeleteOptions") {
        return Err(Status::unexpected(format!(
            "no kind {:?} is registered for version {:?} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
            text("kind"),
            Some(text("apiVersion")).filter(|version| !version.is_empty()).unwrap_or("meta.k8s.io/v1")
        )));
    }
    DeleteOptions::parse(query, Some(value))
}

/// DELETE of one object.
pub async fn delete(app: &App, entry: &Entry, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Object)?;
    let options = delete_options(&ask.headers, &ask.query, body).await?;
    let plain = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
    let write = Write { user: &ask.user, now: ask.now, options: &plain };
    admission::may_be_deleted(entry, &ask.info.name)?;
    let deleted = app.registry.delete(entry, place(entry, ask), &options, write).await?;
    let status =
        if !deleted.gone && options.orphan_dependents == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
    let json = deleted.json.into();
    Ok(if deleted.is_object { super::object(entry, ask, form, status, json) } else { super::encoded(status, form, json) })
}

/// DELETE of everything selected.
pub async fn delete_collection(app: &App, entry: &Entry, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::List)?;
    let mut list = ListOptions::parse(&ask.query, false)?;
    if list.revision_match.is_none() && list.continue_token.is_none() && matches!(list.revision, Ok(Some(1..))) {
        // As upstream, who reads collections in pages, of which a bare resourceVersion is the one that they show.
        list.revision_match = Some(Match::Exact);
    }
    let selection = read::selection(entry, ask, &list)?;
    let options = delete_options(&ask.headers, &ask.query, body).await?;
    let plain = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
    let write = Write { user: &ask.user, now: ask.now, options: &plain };
    check_key(entry.info(), &ask.info.namespace, "")?;
    let listed = read::listing(&app.registry, entry, &selection, &list).await?;
    if let Some(first) = listed.objects.first() {
        // As upstream: where no namespace is named there is nothing to delete, or something that cannot be.
        check_place(entry.info(), &ask.info.namespace, first.name())?;
    }
    let mut meta = read::list_meta(entry, &list, &listed);
    let deleted = app.registry.delete_collection(entry, listed.objects, &options, write).await?;
    meta.resource_version = app.registry.caches().applied().revision().to_string();
    if let negotiate::Shape::Unfit(asked) = form.shape {
        return Err(error::unfit(asked, entry.info()));
    }
    let json = read::shaped_list(entry, ask, form.shape, &meta, deleted);
    Ok(super::encoded(StatusCode::OK, form, json))
}

/// A review: answered and never stored.
pub async fn review(app: &App, ask: &Ask, body: Body) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Review)?;
    let options = WriteOptions::parse(&ask.query, "CreateOptions")?;
    let bytes = body::read(body).await?;
    let kind = match ask.info.resource.as_str() {
        "tokenreviews" => "TokenReview",
        "selfsubjectreviews" => "SelfSubjectReview",
        "subjectaccessreviews" => "SubjectAccessReview",
        "selfsubjectaccessreviews" => "SelfSubjectAccessReview",
        "localsubjectaccessreviews" => "LocalSubjectAccessReview",
        _ => "SelfSubjectRulesReview",
    };
    let (mut object, warnings) = decode(&ask.headers, &bytes, (&ask.info.group, &ask.info.version, kind), &options)?;
    let group = if ask.info.group == "authentication.k8s.io" { "authentication.k8s.io" } else { "authorization.k8s.io" };
    metadata::fit_kind(&mut object, &KindInfo { group, version: "v1", kind, ..KindInfo::BASE })?;
    if object["metadata"].is_null() {
        object["metadata"] = serde_json::json!({});
    }
    if kind == "SelfSubjectReview" {
        object["metadata"] = serde_json::json!({"creationTimestamp": metadata::timestamp(ask.now)});
    }
    let mut response = match crate::security::reviews::answer(&app.gate, &ask.user, &ask.info, object).await {
        Ok(answer) => {
            let json = serde_json::to_vec(&answer).unwrap_or_default();
            super::encoded(StatusCode::CREATED, form, json.into())
        }
        Err(status) => error::respond_as(&status, form),
    };
    super::warn(&mut response, &warnings);
    Ok(response)
}
