//! GET and LIST: bytes of the cache, copied into bodies and nothing else, unless a table or another form is asked for.

use std::{collections::VecDeque, sync::Arc};

use api::{
    kind::KindInfo,
    status::Status,
    table::{IncludeObject, ListMeta, Table, partial_metadata, partial_metadata_list},
};
use axum::{body::Body, response::Response};
use base64::{
    Engine,
    engine::{
        GeneralPurpose,
        general_purpose::{NO_PAD, URL_SAFE_NO_PAD},
    },
};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Range;

use super::{App, Ask};
use crate::{
    cache::{Change, Listing, Object, Selection},
    error::{self, Result},
    registry::{Entry, Registry, check_key, check_place},
    wire::{
        body::Pieces,
        negotiate::{self, Encoding, For, Shape},
        options::{ListOptions, Match, read_revision},
    },
};

/// Brings the cache to where a resourceVersion wants it.
async fn freshen(registry: &Registry, revision: Option<u64>) -> Result<()> {
    match revision {
        None => registry.catch_up().await,
        Some(0) => Ok(()),
        Some(revision) => registry.reach(revision).await,
    }
}

/// One object.
pub async fn get(app: &App, entry: &Entry, ask: &Ask) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::Object)?;
    check_include(ask, form)?;
    if ask.query.flag("export") == Some(true) {
        return Err(Status::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    let revision = read_revision(ask.query.get("resourceVersion").unwrap_or(""));
    let revision = revision.map_err(|errors| Status::unexpected(errors.to_string()))?;
    let namespace = if entry.info().namespaced { ask.info.namespace.as_str() } else { "" };
    check_place(entry.info(), namespace, &ask.info.name)?;
    freshen(&app.registry, revision).await?;
    let found = entry.cache.get(namespace, &ask.info.name);
    let found = found.ok_or_else(|| Status::not_found(entry.info().group_resource(), &ask.info.name))?;
    Ok(super::object(entry, ask, form, StatusCode::OK, entry.encoded(&found)))
}

/// Columns of kinds that have none of their own.
pub fn cells(entry: &Entry, ask: &Ask, json: &[u8]) -> Vec<Value> {
    entry.hooks().cells_from_bytes(json, ask.now)
}

/// Refuses a table whose rows are to say of their objects what there is no name for.
pub fn check_include(ask: &Ask, form: negotiate::Form) -> Result<()> {
    let wanted = ask.query.get("includeObject").unwrap_or("");
    if matches!(form.shape, Shape::Table(_)) && IncludeObject::parse(wanted).is_none() {
        return Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
            api::status::quote(wanted)
        )));
    }
    Ok(())
}

/// What a table's rows say of their objects.
pub fn include(ask: &Ask) -> IncludeObject {
    IncludeObject::parse(ask.query.get("includeObject").unwrap_or("")).unwrap_or_default()
}

/// A table of encoded objects (in the kind's form).
fn table_of(entry: &Entry, ask: &Ask, version: &'static str, meta: &ListMeta, objects: &[Bytes]) -> Bytes {
    let mut table = Table::new(version, meta, Some(entry.info().columns), include(ask));
    for json in objects {
        let value = || serde_json::from_slice(json).unwrap_or_default();
        let row = if entry.converts() { entry.hooks().cells(&value(), ask.now) } else { cells(entry, ask, json) };
        table.row(&row, json);
    }
    table.finish().into()
}

/// A list of encoded objects (in the kind's form) in the shape asked for.
pub fn shaped_list(entry: &Entry, ask: &Ask, shape: Shape, meta: &ListMeta, objects: Vec<Bytes>) -> Bytes {
    match shape {
        Shape::Object | Shape::Unfit(_) => {
            encode(entry.info(), meta, objects).iter().flat_map(|piece| piece.to_vec()).collect::<Vec<u8>>().into()
        }
        Shape::Metadata(_) => partial_metadata_list(meta, objects.iter().map(|json| &json[..])).into(),
        Shape::Table(version) => table_of(entry, ask, version, meta, &objects),
    }
}

/// An encoded object (in the kind's form) in the shape asked for.
pub fn shaped(entry: &Entry, ask: &Ask, shape: Shape, json: Bytes) -> Bytes {
    match shape {
        Shape::Object | Shape::Unfit(_) => json,
        Shape::Metadata(_) => partial_metadata(&json).into(),
        Shape::Table(version) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            let meta = ListMeta {
                resource_version: crate::registry::metadata::text(&value, "resourceVersion").to_owned(),
                ..ListMeta::default()
            };
            table_of(entry, ask, version, &meta, &[json])
        }
    }
}

/// What a list or watch is about, checked against the fields the kind knows.
pub fn selection(entry: &Entry, ask: &Ask, options: &ListOptions) -> Result<Selection> {
    let info = entry.info();
    let unknown = |field: String| {
        Status::bad_request(if info.fields.is_empty() {
            let quoted = api::status::quote(&field);
            format!("{quoted} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {field}")
        })
    };
    let fields = options.fields.clone().map(|fields| fields.renamed(|name| info.selectable(name)));
    let fields = fields.transpose().map_err(unknown)?;
    let namespace = (info.namespaced && !ask.info.namespace.is_empty()).then(|| ask.info.namespace.clone());
    Ok(Selection {
        namespace,
        name: None,
        labels: options.labels.clone(),
        fields,
        foreign: entry.converts().then(|| entry.kind.clone()),
    })
}

/// Where a paged list goes on.
#[derive(Deserialize, Serialize)]
struct Continue {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// The revision of a token that goes on with whatever there is by then.
const INCONSISTENT: i64 = -1;

fn encode_token(revision: i64, start: String) -> String {
    let token = Continue { v: "meta.k8s.io/v1".to_owned(), rv: revision, start };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn continue_token(entry: &Entry, revision: u64, last: &Object) -> String {
    encode_token(revision as i64, format!("{}\0", &last.key()[entry.cache.prefix().len()..]))
}

/// As Go's decoder, which does not mind what stands behind the last byte.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

fn parse_token(text: &str) -> Result<Continue> {
    let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = LENIENT.decode(text).map_err(|e| bad(&illegal_base64(text, &e)))?;
    let parsed = api::schema::json::parse(&bytes).map_err(|e| bad(&e.to_string()))?.value;
    for (field, go, fits) in [
        ("v", "string", Value::is_string as fn(&Value) -> bool),
        ("rv", "int64", Value::is_i64),
        ("start", "string", Value::is_string),
    ] {
        if let Some(value) = parsed.get(field).filter(|value| !value.is_null() && !fits(value)) {
            let found = api::schema::go::kind(value);
            return Err(bad(&format!(
                "json: cannot unmarshal {found} into Go struct field continueToken.{field} of type {go}"
            )));
        }
    }
    let token: Continue = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(bad(&format!("server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
    }
    // A key that leads out of the resource's own prefix.
    if token.start.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad(&token.start));
    }
    Ok(token)
}

fn illegal_base64(text: &str, error: &base64::DecodeError) -> String {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            format!("illegal base64 data at input byte {at}")
        }
        base64::DecodeError::InvalidLength(length) => format!("illegal base64 data at input byte {}", length / 4 * 4),
        base64::DecodeError::InvalidPadding => {
            format!("illegal base64 data at input byte {}", text.find('=').unwrap_or_default())
        }
    }
}

/// A page of an older state, from the store.
async fn range(
    registry: &Registry,
    entry: &Entry,
    selection: &Selection,
    after: Option<&str>,
    limit: usize,
    at: u64,
) -> Result<Listing> {
    let prefix = entry.cache.prefix();
    let within = match &selection.namespace {
        Some(namespace) => format!("{prefix}{namespace}/"),
        None => prefix.to_owned(),
    };
    let end = store::prefix_end(&within);
    let mut start = after.map(|a| format!("{prefix}{a}")).filter(|a| *a > within).unwrap_or(within);
    let mut listing = Listing { revision: at, ..Listing::default() };
    let chunk = if limit == 0 { 0 } else { limit.max(100) };
    loop {
        let page =
            registry.store().range(Range { start: start.clone(), end: end.clone(), limit: chunk, at: Some(at) }).await;
        let page = page.map_err(|e| expired(&e, after))?;
        let total = page.entries.len() as u64 + page.remaining;
        let mut seen = 0;
        for found in page.entries {
            seen += 1;
            start = format!("{}\0", found.key);
            let object = Object::new(
                found.key,
                prefix.len(),
                &found.value,
                found.create_revision,
                found.mod_revision,
                Change::Modified,
            );
            if selection.matches(&object, entry.hooks()) {
                listing.objects.push(Arc::new(object));
                if limit > 0 && listing.objects.len() == limit {
                    listing.remaining = total - seen;
                    listing.more = listing.remaining > 0;
                    return Ok(listing);
                }
            }
        }
        if page.remaining == 0 {
            return Ok(listing);
        }
    }
}

fn expired(error: &store::Error, after: Option<&str>) -> Status {
    match (error, after) {
        (store::Error::Compacted { .. }, Some(start)) => {
            let mut status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            );
            status.metadata.r#continue = encode_token(INCONSISTENT, start.to_owned());
            status
        }
        (store::Error::Compacted { .. }, None) => Status::expired("The resourceVersion for the provided list is too old."),
        (other, _) => error::store(other),
    }
}

/// The objects that a list is about.
pub async fn listing(registry: &Registry, entry: &Entry, selection: &Selection, options: &ListOptions) -> Result<Listing> {
    let revision = options.revision.clone()?;
    if let Some(token) = &options.continue_token {
        let token = parse_token(token)?;
        if revision.is_some_and(|r| r != 0) {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        registry.catch_up().await?;
        let at = u64::try_from(token.rv).ok().filter(|at| *at > 0).unwrap_or_else(|| registry.caches().applied().revision());
        if entry.cache.last_change() <= at && registry.remembers(at) {
            // A token of a time to come is no token of ours.
            registry.reach(at).await?;
            // Nothing changed since: the cache still is that snapshot.
            let after = format!("{}{}", entry.cache.prefix(), token.start);
            let mut listing = entry.cache.list(selection, Some(&after), options.limit);
            listing.revision = at;
            return Ok(listing);
        }
        return range(registry, entry, selection, Some(&token.start), options.limit, at).await;
    }
    if let (Some(at), Some(Match::Exact)) = (revision, options.revision_match) {
        registry.reach(at).await?;
        return range(registry, entry, selection, None, options.limit, at).await;
    }
    if let (Some(at), None, true) = (revision.filter(|r| *r > 0), options.revision_match, options.limit > 0) {
        // A limit with a bare resourceVersion means exactly that one, for compatibility.
        registry.reach(at).await?;
        return range(registry, entry, selection, None, options.limit, at).await;
    }
    freshen(registry, revision).await?;
    // As upstream, who takes any state gets all of it.
    let limit = if revision == Some(0) { 0 } else { options.limit };
    Ok(entry.cache.list(selection, None, limit))
}

/// LIST.
pub async fn list(app: &App, entry: &Entry, ask: &Ask) -> Result<Response> {
    let form = negotiate::accept(&ask.headers, ask.query.get("pretty"), For::List)?;
    check_include(ask, form)?;
    let options = ListOptions::parse(&ask.query, false)?;
    let selection = selection(entry, ask, &options)?;
    if options.revision.clone()? != Some(0) {
        check_key(entry.info(), &ask.info.namespace, "")?;
    }
    let listing = listing(&app.registry, entry, &selection, &options).await?;
    if let Shape::Unfit(asked) = form.shape {
        return Err(error::unfit(asked, entry.info()));
    }
    let meta = list_meta(entry, &options, &listing);
    let objects = listing.objects;
    if form.encoding == Encoding::Protobuf {
        return Ok(respond(VecDeque::from([protobuf(entry, form, &meta, &objects)?]), form.content_type()));
    }
    match form.shape {
        Shape::Object if form.encoding == Encoding::Json && !form.pretty => {
            let pieces = pieces(entry, &meta, &objects);
            Ok(respond(pieces, form.content_type()))
        }
        Shape::Object | Shape::Unfit(_) => {
            let all: Vec<u8> = pieces(entry, &meta, &objects).iter().flat_map(|p| p.to_vec()).collect();
            Ok(super::encoded(StatusCode::OK, form, all.into()))
        }
        Shape::Table(version) => {
            let mut table = Table::new(version, &meta, Some(entry.info().columns), include(ask));
            for object in &objects {
                table.row(&cells(entry, ask, object.json()), &entry.encoded(object));
            }
            Ok(whole(form, table.finish()))
        }
        Shape::Metadata(_) => {
            let json = partial_metadata_list(&meta, objects.iter().map(|o| &o.json()[..]));
            Ok(whole(form, json))
        }
    }
}

/// What a list says of itself.
pub fn list_meta(entry: &Entry, options: &ListOptions, listing: &Listing) -> ListMeta {
    let mut meta = ListMeta { resource_version: listing.revision.to_string(), ..ListMeta::default() };
    if let (true, Some(last)) = (listing.more, listing.objects.last()) {
        meta.r#continue = continue_token(entry, listing.revision, last);
        // Upstream leaves the count out where selectors make it a guess.
        let exact = options.labels.is_none() && options.fields.is_none();
        meta.remaining_item_count = exact.then_some(listing.remaining as i64);
    }
    meta
}

fn whole(form: negotiate::Form, json: Vec<u8>) -> Response {
    if form.encoding == Encoding::Json && !form.pretty {
        return respond(VecDeque::from([Bytes::from(json)]), form.content_type());
    }
    super::encoded(StatusCode::OK, form, json.into())
}

/// Objects below this are copied together, larger ones are shared.
const SMALL: usize = 16 * 1024;
const CHUNK: usize = 64 * 1024;

/// How encoded objects of a kind begin.
fn head(info: &KindInfo) -> String {
    format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", info.kind, info.api_version())
}

/// What a list's item has of an encoded object, the first brace aside: kind and version are told by the list.
fn item(json: &Bytes, head: &str) -> Bytes {
    json.slice(if json.starts_with(head.as_bytes()) { head.len() } else { 1 }..)
}

/// A list's body.
fn pieces(entry: &Entry, meta: &ListMeta, objects: &[Arc<Object>]) -> VecDeque<Bytes> {
    encode(entry.info(), meta, objects.iter().map(|object| entry.encoded(object)))
}

/// A list of encoded objects.
pub fn encode(info: &KindInfo, meta: &ListMeta, objects: impl IntoIterator<Item = Bytes>) -> VecDeque<Bytes> {
    let item_head = head(info);
    let mut out = VecDeque::new();
    let objects = objects.into_iter();
    let mut chunk = BytesMut::with_capacity(CHUNK.min(1024 + objects.size_hint().0 * 1024));
    let meta = serde_json::to_string(meta).unwrap_or_default();
    chunk.extend_from_slice(
        format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
            info.kind,
            info.api_version()
        )
        .as_bytes(),
    );
    for (at, object) in objects.enumerate() {
        chunk.extend_from_slice(if at > 0 { b",{" } else { b"{" });
        let json = item(&object, &item_head);
        if json.len() > SMALL {
            out.push_back(chunk.split().freeze());
            out.push_back(json);
            continue;
        }
        if chunk.len() + json.len() > CHUNK {
            out.push_back(std::mem::replace(&mut chunk, BytesMut::with_capacity(CHUNK)).freeze());
        }
        chunk.extend_from_slice(&json);
    }
    chunk.extend_from_slice(b"]}\n");
    out.push_back(chunk.freeze());
    out
}

/// A list in protobuf.
fn protobuf(entry: &Entry, form: negotiate::Form, meta: &ListMeta, objects: &[Arc<Object>]) -> Result<Bytes> {
    let info = entry.info();
    let meta = serde_json::to_value(meta).unwrap_or_default();
    let write = || {
        let mut list = match form.shape {
            Shape::Metadata(version) => api::protobuf::List::new(version, "PartialObjectMetadata", &meta)?,
            _ => api::protobuf::List::new(&info.api_version(), info.kind, &meta)?,
        };
        objects.iter().try_for_each(|object| list.push(&entry.decode(object)))?;
        list.finish().map(Bytes::from)
    };
    write().map_err(|e: api::protobuf::Error| error::not_marshalable(&e))
}

fn respond(pieces: VecDeque<Bytes>, kind: &'static str) -> Response {
    let mut response = Response::new(Body::new(Pieces::new(pieces)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
