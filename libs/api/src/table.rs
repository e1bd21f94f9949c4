//! Server-side tables (`meta.k8s.io/v1` Table) and metadata-only objects, written around encoded objects.
//!
//! Objects come as the watch cache holds them, encoded; nothing is decoded but `metadata` where only that is wanted.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::kind::Column;

/// What a row says of its object (`?includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, as a PartialObjectMetadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// The query parameter's value; empty is [`IncludeObject::Metadata`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// A list's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The revision the list was read at.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The token for the next page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub r#continue: String,
    /// How many more there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

#[derive(Serialize)]
struct ColumnDefinition<'a> {
    name: &'a str,
    r#type: &'a str,
    format: &'a str,
    description: &'a str,
    priority: i32,
}

fn push_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing our own plain structs into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// A table under construction: [`Table::row`] for each object, then [`Table::finish`].
#[derive(Debug)]
pub struct Table {
    out: Vec<u8>,
    include: IncludeObject,
    rows: usize,
}

impl Table {
    /// Begins a table. `columns` is `None` for all but the first of a watch's tables.
    pub fn new(version: &str, meta: &ListMeta, columns: Option<&[Column]>, include: IncludeObject) -> Self {
        let mut out = format!("{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":").into_bytes();
        push_json(&mut out, meta);
        out.extend_from_slice(b",\"columnDefinitions\":");
        let definition = |c: &Column| ColumnDefinition {
            name: c.name,
            r#type: c.kind,
            format: c.format,
            description: c.description,
            priority: c.priority,
        };
        // The names are static; only the wrappers are made here.
        let columns: Option<Vec<ColumnDefinition<'static>>> = columns.map(|c| c.iter().map(definition).collect());
        push_json(&mut out, &columns);
        out.extend_from_slice(b",\"rows\":[");
        Self { out, include, rows: 0 }
    }

    /// Adds a row for an encoded object.
    pub fn row(&mut self, cells: &[Value], object: &[u8]) {
        if self.rows > 0 {
            self.out.push(b',');
        }
        self.rows += 1;
        self.out.extend_from_slice(b"{\"cells\":");
        push_json(&mut self.out, &cells);
        self.out.extend_from_slice(b",\"object\":");
        match self.include {
            IncludeObject::None => self.out.extend_from_slice(b"null"),
            IncludeObject::Object => self.out.extend_from_slice(trimmed(object)),
            IncludeObject::Metadata => push_partial_metadata(&mut self.out, object),
        }
        self.out.push(b'}');
    }

    /// The table's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"]}\n");
        self.out
    }
}

fn trimmed(object: &[u8]) -> &[u8] {
    object.trim_ascii_end()
}

/// Appends the PartialObjectMetadata of an encoded object.
pub fn push_partial_metadata(out: &mut Vec<u8>, object: &[u8]) {
    #[derive(Deserialize)]
    struct Partial<'a> {
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    let partial: Option<Partial<'_>> = serde_json::from_slice(object).ok();
    let metadata = partial.and_then(|p| p.metadata).map_or("{}", RawValue::get);
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
}

/// The PartialObjectMetadata of an encoded object.
pub fn partial_metadata(object: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_partial_metadata(&mut out, object);
    out.push(b'\n');
    out
}

/// A PartialObjectMetadataList of encoded objects.
pub fn partial_metadata_list<'a>(meta: &ListMeta, objects: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = b"{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":".to_vec();
    push_json(&mut out, meta);
    out.extend_from_slice(b",\"items\":[");
    for (i, object) in objects.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_partial_metadata(&mut out, object);
    }
    out.extend_from_slice(b"]}\n");
    out
}

/// What an `Accept` header's first acceptable part asks objects to be shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// As they are.
    Object,
    /// `as=Table;g=meta.k8s.io;v=v1`
    Table,
    /// `as=PartialObjectMetadata;g=meta.k8s.io;v=v1`
    PartialMetadata,
    /// `as=PartialObjectMetadataList;g=meta.k8s.io;v=v1`
    PartialMetadataList,
}

impl As {
    /// The first form of JSON in the header that we have; `None` if none is acceptable.
    pub fn from_accept(header: &str) -> Option<Self> {
        if header.trim().is_empty() {
            return Some(Self::Object);
        }
        header.split(',').find_map(|media| {
            let mut parts = media.split(';').map(str::trim);
            if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
                return None;
            }
            let (mut shown, mut group, mut version) = (None, "", "");
            for (key, value) in parts.filter_map(|p| p.split_once('=')) {
                match key {
                    "as" => shown = Some(value),
                    "g" => group = value,
                    "v" => version = value,
                    _ => {}
                }
            }
            let ours = group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
            match shown {
                None => Some(Self::Object),
                Some("Table") if ours => Some(Self::Table),
                Some("PartialObjectMetadata") if ours => Some(Self::PartialMetadata),
                Some("PartialObjectMetadataList") if ours => Some(Self::PartialMetadataList),
                Some(_) => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: Column = Column { name: "Name", kind: "string", format: "name", description: "d", priority: 0 };
    const OBJECT: &[u8] = br#"{"kind":"Pod","metadata":{"name":"x"},"spec":{}}"#;

    #[test]
    fn tables_of_each_sort() {
        let meta = ListMeta { resource_version: "7".to_owned(), ..ListMeta::default() };
        for (include, object) in [
            (IncludeObject::None, "null"),
            (
                IncludeObject::Metadata,
                r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"x"}}"#,
            ),
            (IncludeObject::Object, r#"{"kind":"Pod","metadata":{"name":"x"},"spec":{}}"#),
        ] {
            let mut table = Table::new("meta.k8s.io/v1", &meta, Some(&[NAME]), include);
            table.row(&[json!("x")], OBJECT);
            let want = format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{{\"resourceVersion\":\"7\"}},\"columnDefinitions\":[{{\"name\":\"Name\",\"type\":\"string\",\"format\":\"name\",\"description\":\"d\",\"priority\":0}}],\"rows\":[{{\"cells\":[\"x\"],\"object\":{object}}}]}}\n"
            );
            assert_eq!(String::from_utf8(table.finish()).unwrap(), want);
        }
    }

    #[test]
    fn accept_headers() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(As::from_accept(kubectl), Some(As::Table));
        assert_eq!(As::from_accept("*/*"), Some(As::Object));
        assert_eq!(As::from_accept("text/html"), None);
        assert_eq!(As::from_accept("application/vnd.kubernetes.protobuf,application/json"), Some(As::Object));
    }
}
