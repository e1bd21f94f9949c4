//! One object as the cache keeps it: encoded once, in the form in which watchers, lists and gets send it.
//!
//! The store holds an object's JSON without `resourceVersion`. When a change arrives, one buffer is made of it: the watch
//! event's line (`{"type":"MODIFIED","object":{...}}` and a newline) with the revision spliced into the metadata. The
//! object's JSON is a slice of that buffer, so a watch event costs no second copy. Labels and selectable fields are decoded
//! on first use by a selector.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use api::kind::Hooks;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use store::Revision;

/// What a watch event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new (to the watcher).
    Added,
    /// It changed.
    Modified,
    /// It is gone (from the watcher's view).
    Deleted,
}

impl Change {
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    fn head(self) -> &'static [u8] {
        match self {
            Self::Added => b"{\"type\":\"ADDED\",\"object\":",
            Self::Modified => b"{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => b"{\"type\":\"DELETED\",\"object\":",
        }
    }
}

const TAIL: &[u8] = b"}\n";

/// What selectors look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selectable {
    labels: Vec<(Box<str>, Box<str>)>,
    fields: Vec<(&'static str, String)>,
}

impl Selectable {
    /// Decodes what selectors need of an encoded object.
    pub fn of(json: &[u8], hooks: &dyn Hooks) -> Self {
        Self { labels: labels_of(json), fields: hooks.fields_from_bytes(json) }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// The value of a selectable field other than name and namespace.
    pub fn field(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str())
    }
}

/// An object at one revision.
#[derive(Debug)]
pub struct Object {
    key: Arc<str>,
    prefix: u32,
    revision: Revision,
    created: Revision,
    frame: Bytes,
    json: Bytes,
    selectable: OnceLock<Box<Selectable>>,
}

impl Object {
    /// Makes the shared form of a stored value. `prefix` is how much of the key is the resource's.
    pub fn new(key: Arc<str>, prefix: usize, stored: &[u8], created: Revision, revision: Revision, change: Change) -> Self {
        let (frame, json) = encode_frame(stored, revision, change);
        Self { key, prefix: prefix as u32, revision, created, frame, json, selectable: OnceLock::new() }
    }

    /// The same object as another event shows it: the content unchanged, the revision that of the event.
    pub fn as_of(&self, revision: Revision, change: Change) -> Self {
        let stored = self.stored();
        Self::new(self.key.clone(), self.prefix as usize, &stored, self.created, revision, change)
    }

    /// The whole store key.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn path(&self) -> &str {
        &self.key[self.prefix as usize..]
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.path().rsplit_once('/').map_or(self.path(), |(_, name)| name)
    }

    /// The object's namespace, empty if it has none.
    pub fn namespace(&self) -> &str {
        self.path().rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The revision of its last change.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The revision that created it.
    pub fn created(&self) -> Revision {
        self.created
    }

    /// The encoded object, resourceVersion included.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The watch line of the change that made this revision.
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The bytes as they are in the store.
    pub fn stored(&self) -> Vec<u8> {
        strip_revision(&self.json)
    }

    /// The decoded object.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// Labels and fields, decoded once.
    pub fn selectable(&self, hooks: &dyn Hooks) -> &Selectable {
        self.selectable.get_or_init(|| Box::new(Selectable::of(&self.json, hooks)))
    }
}

/// A watch line for an encoded object.
pub fn frame(change: Change, json: &[u8]) -> Bytes {
    let head = change.head();
    let mut out = BytesMut::with_capacity(head.len() + json.len() + TAIL.len());
    out.put_slice(head);
    out.put_slice(json);
    out.put_slice(TAIL);
    out.freeze()
}

/// Appends a watch line to a buffer.
pub fn write_frame(out: &mut BytesMut, change: Change, json: &[u8]) {
    out.put_slice(change.head());
    out.put_slice(json);
    out.put_slice(TAIL);
}

fn encode_frame(stored: &[u8], revision: Revision, change: Change) -> (Bytes, Bytes) {
    let mut digits = [0; 20];
    let digits = format_decimal(revision, &mut digits);
    let reencoded;
    let (stored, at) = match metadata_start(stored) {
        Some(at) => (stored, at),
        None => {
            reencoded = reencode(stored);
            let at = metadata_start(&reencoded).unwrap_or(0);
            (reencoded.as_slice(), at)
        }
    };
    let head = change.head();
    let mut out = BytesMut::with_capacity(head.len() + stored.len() + MARK.len() + digits.len() + 2 + TAIL.len());
    out.put_slice(head);
    out.put_slice(&stored[..at]);
    if at > 0 {
        out.put_slice(MARK);
        out.put_slice(digits);
        out.put_u8(b'"');
        if stored.get(at) != Some(&b'}') {
            out.put_u8(b',');
        }
    }
    out.put_slice(&stored[at..]);
    out.put_slice(TAIL);
    let frame = out.freeze();
    let json = frame.slice(head.len()..frame.len() - TAIL.len());
    (frame, json)
}

const MARK: &[u8] = b"\"resourceVersion\":\"";

fn format_decimal(mut value: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &buffer[at..];
        }
    }
}

/// Where the members of `metadata` begin, for bytes that [`encode`] made: kind, apiVersion and metadata come first.
fn metadata_start(stored: &[u8]) -> Option<usize> {
    let mut rest = stored.strip_prefix(b"{\"kind\":\"")?;
    rest = &rest[rest.iter().position(|b| *b == b'"')? + 1..];
    rest = rest.strip_prefix(b",\"apiVersion\":\"")?;
    rest = &rest[rest.iter().position(|b| *b == b'"')? + 1..];
    rest = rest.strip_prefix(b",\"metadata\":{")?;
    Some(stored.len() - rest.len())
}

fn reencode(stored: &[u8]) -> Vec<u8> {
    serde_json::from_slice::<Value>(stored).map(|value| encode(&value)).unwrap_or_default()
}

/// Takes the resourceVersion that [`Object::new`] spliced in out again.
fn strip_revision(json: &[u8]) -> Vec<u8> {
    let Some(at) = metadata_start(json) else { return json.to_vec() };
    let Some(rest) = json[at..].strip_prefix(MARK) else { return json.to_vec() };
    let digits = rest.iter().position(|b| *b == b'"').unwrap_or(0);
    let mut after = &rest[digits + 1..];
    after = after.strip_prefix(b",").unwrap_or(after);
    let mut out = Vec::with_capacity(json.len());
    out.extend_from_slice(&json[..at]);
    out.extend_from_slice(after);
    out
}

/// Encodes an object for the store: kind, apiVersion and metadata first, no resourceVersion.
pub fn encode(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    out.extend_from_slice(b"{\"kind\":");
    write_json(&mut out, &text("kind"));
    out.extend_from_slice(b",\"apiVersion\":");
    write_json(&mut out, &text("apiVersion"));
    out.extend_from_slice(b",\"metadata\":{");
    let mut first = true;
    for (key, value) in object.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        if key == "resourceVersion" {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_json(&mut out, key);
        out.push(b':');
        write_json(&mut out, value);
    }
    out.push(b'}');
    for (key, value) in object.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            continue;
        }
        out.push(b',');
        write_json(&mut out, key);
        out.push(b':');
        write_json(&mut out, value);
    }
    out.push(b'}');
    out
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Writing values and strings to memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// The stored bytes with the revision in them, for the answer to a write.
pub fn with_revision(stored: &[u8], revision: Revision) -> Bytes {
    encode_frame(stored, revision, Change::Modified).1
}

/// Encoded bytes without a revision with one as a client wrote it, for the answer to a creation that is only tried.
pub fn with_revision_as_given(encoded: &[u8], revision: &str) -> Bytes {
    let at = metadata_start(encoded).unwrap_or(encoded.len());
    let mut out = encoded[..at].to_vec();
    if at < encoded.len() {
        out.extend_from_slice(b"\"resourceVersion\":");
        write_json(&mut out, revision);
        // Whoever is created has a name.
        out.push(b',');
    }
    out.extend_from_slice(&encoded[at..]);
    out.into()
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow, default)]
    metadata: OnlyLabels<'a>,
}

#[derive(Default, Deserialize)]
struct OnlyLabels<'a> {
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

fn labels_of(json: &[u8]) -> Vec<(Box<str>, Box<str>)> {
    let labels = serde_json::from_slice::<OnlyMetadata>(json).ok().and_then(|o| o.metadata.labels).unwrap_or_default();
    labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_goes_in_and_out_again() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"metadata": "{"}, "metadata": {"name": "a", "labels": {"x": "y"}}});
        let stored = encode(&object);
        let made =
            Object::new("/registry/configmaps/ns/a".into(), "/registry/configmaps/".len(), &stored, 3, 42, Change::Added);
        let mut want = object;
        want["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(made.value(), want);
        assert_eq!(made.stored(), stored);
        assert_eq!((made.namespace(), made.name()), ("ns", "a"));
        let line: Value = serde_json::from_slice(made.frame()).unwrap();
        assert_eq!(line, json!({"type": "ADDED", "object": want}));
    }

    #[test]
    fn foreign_field_order_and_empty_metadata_are_understood() {
        let made = with_revision(br#"{"metadata":{},"apiVersion":"v1","kind":"A"}"#, 7);
        assert_eq!(&made[..], br#"{"kind":"A","apiVersion":"v1","metadata":{"resourceVersion":"7"}}"#);
    }
}
