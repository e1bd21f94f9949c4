//! `application/vnd.kubernetes.protobuf`: objects as clients of upstream's Go libraries send and ask for them.
//!
//! Objects are JSON values here, and stay so: this writes one as protobuf and back by the table of types, which knows every
//! field's number. Each body is four bytes (`k8s\0`) and a `runtime.Unknown` with the kind and the message; a watch sends
//! frames of a four-byte length and a `WatchEvent` that holds such a body. Fields without a value are not written, where Go
//! writes zeros: readers cannot tell the difference.

mod decode;
mod encode;
mod layout;
mod wire;

use serde_json::{Map, Value, json};

use self::wire::{Payload, Reader};
use crate::schema::table::{Type, TypeId, table};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
pub const PREFIX: &[u8; 4] = b"k8s\0";
/// How deep messages may be nested.
const MAX_DEPTH: usize = 100;

/// Why something could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An empty body.
    #[error("empty data")]
    Empty,
    /// A body without [`PREFIX`].
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// Nothing after [`PREFIX`].
    #[error("empty body")]
    EmptyBody,
    /// The bytes end within a field.
    #[error("unexpected EOF")]
    EndOfInput,
    /// The bytes are no protobuf.
    #[error("proto: {0}")]
    Wire(&'static str),
    /// A value that does not fit its type.
    #[error("{0}")]
    Value(String),
    /// A kind that the API does not know.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `v1`.
        api_version: String,
        /// `Pod`.
        kind: String,
    },
    /// A type that has no form in protobuf here.
    #[error("object {0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message")]
    Unsupported(&'static str),
}

/// Whether bytes begin like such a body.
pub fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFIX)
}

/// The type of a kind. `DeleteOptions` and its like belong to every group.
fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let meta = || match kind {
        "DeleteOptions" | "Status" | "WatchEvent" => table().by_name(&format!("{META}.{kind}")),
        _ => None,
    };
    table().by_kind(group, version, kind).or_else(meta)
}

/// Whether a type without fields holds JSON; others of the sort are empty messages.
fn is_raw(ty: &Type) -> bool {
    match ty {
        Type::Ref(id) => matches!(table().get(*id).short_name(), "RawExtension" | "FieldsV1"),
        _ => false,
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Whether the kind has a form in protobuf, as far as its outermost type tells.
pub fn supports(api_version: &str, kind: &str) -> bool {
    match kind {
        "PartialObjectMetadata" | "PartialObjectMetadataList" => true,
        _ => type_of(api_version, kind).is_some_and(|id| layout::layout(id).complete),
    }
}

/// Reads a body. Its kind says its type; one that the table does not know is read as `expected`.
///
/// # Errors
/// Bytes that are no such body, or hold a kind that is unknown.
pub fn decode(bytes: &[u8], expected: Option<TypeId>) -> Result<Value, Error> {
    decode_at(bytes, expected, 0)
}

struct Unknown<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

fn envelope(bytes: &[u8]) -> Result<Unknown<'_>, Error> {
    if bytes.is_empty() {
        return Err(Error::Empty);
    }
    let body = bytes.strip_prefix(PREFIX).ok_or(Error::Prefix)?;
    if body.is_empty() {
        return Err(Error::EmptyBody);
    }
    let mut found = Unknown { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader(body);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(mut inner)) => {
                let mut reader = Reader(std::mem::take(&mut inner));
                while let Some((number, payload)) = reader.next()? {
                    match (number, payload) {
                        (1, Payload::Bytes(text)) => found.api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Payload::Bytes(text)) => found.kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(raw)) => found.raw = raw,
            _ => {}
        }
    }
    Ok(found)
}

fn decode_at(bytes: &[u8], expected: Option<TypeId>, depth: usize) -> Result<Value, Error> {
    let body = envelope(bytes)?;
    if body.kind.starts_with("PartialObjectMetadata") {
        return partial(&body, depth);
    }
    let id = type_of(&body.api_version, &body.kind).or(expected);
    let Some(id) = id else { return Err(Error::UnknownKind { api_version: body.api_version, kind: body.kind }) };
    let mut map = Map::new();
    if !body.api_version.is_empty() {
        map.insert("apiVersion".to_owned(), body.api_version.into());
    }
    if !body.kind.is_empty() {
        map.insert("kind".to_owned(), body.kind.into());
    }
    decode::object(body.raw, &mut map, id, depth)?;
    Ok(Value::Object(map))
}

/// Metadata-only objects are in no table: they are a field or two.
fn partial(body: &Unknown<'_>, depth: usize) -> Result<Value, Error> {
    let list = body.kind.ends_with("List");
    let mut object = json!({"apiVersion": body.api_version, "kind": body.kind});
    let meta = meta_type(if list { "ListMeta" } else { "ObjectMeta" })?;
    let read = |bytes: &[u8], id| {
        let mut map = Map::new();
        decode::object(bytes, &mut map, id, depth).map(|()| Value::Object(map))
    };
    let mut items = Vec::new();
    let mut reader = Reader(body.raw);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => object["metadata"] = read(bytes, meta)?,
            (2, Payload::Bytes(item)) if list => {
                let mut shown = json!({});
                let mut reader = Reader(item);
                while let Some((number, payload)) = reader.next()? {
                    if let (1, Payload::Bytes(bytes)) = (number, payload) {
                        shown["metadata"] = read(bytes, meta_type("ObjectMeta")?)?;
                    }
                }
                items.push(shown);
            }
            _ => {}
        }
    }
    if list {
        object["items"] = Value::Array(items);
    }
    Ok(object)
}

fn write_type(out: &mut Vec<u8>, api_version: &str, kind: &str) -> Result<(), Error> {
    out.extend_from_slice(PREFIX);
    wire::message(out, 1, |out| {
        wire::bytes(out, 1, api_version.as_bytes());
        wire::bytes(out, 2, kind.as_bytes());
        Ok(())
    })
}

fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(raw.len() + 48);
    write_type(&mut out, api_version, kind)?;
    wire::bytes(&mut out, 2, raw);
    // contentEncoding and contentType are always there.
    wire::bytes(&mut out, 3, b"");
    wire::bytes(&mut out, 4, b"");
    Ok(out)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Writes an object or list as a body, by its own kind.
///
/// # Errors
/// A kind that has no form in protobuf, or values that don't fit their types.
pub fn encode(object: &Value) -> Result<Vec<u8>, Error> {
    let (api_version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let map = object.as_object().ok_or_else(|| Error::Value("no object".to_owned()))?;
    let mut raw = Vec::with_capacity(1024);
    match kind {
        "PartialObjectMetadata" => partial_metadata(&mut raw, object)?,
        "PartialObjectMetadataList" => {
            list_meta(&mut raw, object.get("metadata"))?;
            for item in object.get("items").and_then(Value::as_array).into_iter().flatten() {
                wire::message(&mut raw, 2, |out| partial_metadata(out, item))?;
            }
        }
        _ => {
            let id = type_of(api_version, kind)
                .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
            encode::object(&mut raw, map, id)?;
        }
    }
    wrap(api_version, kind, &raw)
}

fn meta_type(name: &str) -> Result<TypeId, Error> {
    table().by_name(&format!("{META}.{name}")).ok_or(Error::Unsupported("metadata"))
}

fn list_meta(out: &mut Vec<u8>, meta: Option<&Value>) -> Result<(), Error> {
    let Some(Value::Object(meta)) = meta else { return Ok(()) };
    let id = meta_type("ListMeta")?;
    wire::message(out, 1, |out| encode::object(out, meta, id))
}

fn partial_metadata(out: &mut Vec<u8>, object: &Value) -> Result<(), Error> {
    let Some(Value::Object(meta)) = object.get("metadata") else { return Ok(()) };
    let id = meta_type("ObjectMeta")?;
    wire::message(out, 1, |out| encode::object(out, meta, id))
}

/// A list written item by item, so that no value of the whole list is ever held.
#[derive(Debug)]
pub struct List {
    api_version: String,
    kind: String,
    item: Option<TypeId>,
    raw: Vec<u8>,
}

impl List {
    /// Begins a list of `kind` (`Pod`) with its metadata; metadata-only lists are `PartialObjectMetadata` ones.
    ///
    /// # Errors
    /// A kind that has no form in protobuf.
    pub fn new(api_version: &str, kind: &str, meta: &Value) -> Result<Self, Error> {
        let item = match kind {
            "PartialObjectMetadata" => None,
            _ => Some(
                type_of(api_version, kind)
                    .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?,
            ),
        };
        let mut raw = Vec::with_capacity(4096);
        list_meta(&mut raw, Some(meta))?;
        Ok(Self { api_version: api_version.to_owned(), kind: format!("{kind}List"), item, raw })
    }

    /// Adds an item.
    ///
    /// # Errors
    /// Values that don't fit their types.
    pub fn push(&mut self, item: &Value) -> Result<(), Error> {
        let id = self.item;
        wire::message(&mut self.raw, 2, |out| match (id, item) {
            (Some(id), Value::Object(map)) => encode::object(out, map, id),
            _ => partial_metadata(out, item),
        })
    }

    /// The body.
    ///
    /// # Errors
    /// None today; the envelope is written by fallible means.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        wrap(&self.api_version, &self.kind, &self.raw)
    }
}

/// A frame of a watch: length, and a `WatchEvent` of the given type (`ADDED`) around an object.
///
/// # Errors
/// As [`encode`].
pub fn watch_frame(change: &str, object: &Value) -> Result<Vec<u8>, Error> {
    let body = encode(object)?;
    let mut out = vec![0; 4];
    wire::bytes(&mut out, 1, change.as_bytes());
    wire::message(&mut out, 2, |out| {
        wire::bytes(out, 1, &body);
        Ok(())
    })?;
    let length = u32::try_from(out.len() - 4).map_err(|_| Error::Value("an event is too large".to_owned()))?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// Reads the first whole frame: the event's type, its object, and how many bytes it took. `None` where more are needed.
///
/// # Errors
/// As [`decode`].
pub fn read_watch_frame(bytes: &[u8]) -> Result<Option<(String, Value, usize)>, Error> {
    let Some((head, rest)) = bytes.split_at_checked(4) else { return Ok(None) };
    let length = head.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    let Some(event) = rest.get(..length) else { return Ok(None) };
    let (mut change, mut object) = (String::new(), Value::Null);
    let mut reader = Reader(event);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(text)) => change = String::from_utf8_lossy(text).into_owned(),
            (2, Payload::Bytes(extension)) => {
                let mut reader = Reader(extension);
                while let Some((number, payload)) = reader.next()? {
                    if let (1, Payload::Bytes(body)) = (number, payload) {
                        object = decode(body, None)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Some((change, object, length + 4)))
}

#[cfg(test)]
mod tests;
