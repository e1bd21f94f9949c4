//! Which form an answer takes: JSON, YAML or protobuf, the object itself, its metadata only, or a table.

use api::status::Status;
use http::{HeaderMap, header};

use crate::error::Result;

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Protobuf in upstream's envelope.
    Protobuf,
}

/// What an answer consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// The object.
    #[default]
    Object,
    /// `meta.k8s.io` Table in this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata (or its list) in this version.
    Metadata(&'static str),
}

/// An answer's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// The encoding.
    pub encoding: Encoding,
    /// The content.
    pub shape: Shape,
    /// Indented JSON.
    pub pretty: bool,
}

impl Form {
    /// The Content-Type header.
    pub fn content_type(&self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => api::protobuf::MEDIA_TYPE,
        }
    }

    /// Whether cached bytes can be sent as they are.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// What requests are about, as far as forms differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A single object.
    Object,
    /// What is answered and never stored: no table shows it.
    Review,
    /// A list.
    List,
    /// A stream of events.
    Watch,
}

const ACCEPTED: &[&str] = &["application/json", "application/yaml", api::protobuf::MEDIA_TYPE];
const STREAMED: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

const LISTED: &[&str] = &[
    "application/json",
    "application/yaml",
    api::protobuf::MEDIA_TYPE,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];

/// Whether upstream's router finds a representation: it knows no wildcard but the whole one, and no parameters.
fn is_routed(accept: &str) -> bool {
    let kinds = accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    accept.is_empty() || kinds.into_iter().any(|kind| kind == "*/*" || ACCEPTED.contains(&kind))
}

fn unroutable(representations: &[&str]) -> Status {
    let mut status = Status::not_acceptable(&[]);
    status.message = format!("406: Not Acceptable\n\nAvailable representations: {}", representations.join(", "));
    status.details = Some(Box::default());
    status
}

/// The encoding of a document that has only itself to show: discovery.
pub fn document(headers: &HeaderMap) -> Result<Encoding> {
    let text = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("").trim();
    if !is_routed(text) {
        return Err(unroutable(ACCEPTED));
    }
    if text.is_empty() {
        return Ok(Encoding::Json);
    }
    let clauses = clauses(text);
    let plain = clauses.iter().filter(|clause| !clause.parameters.iter().any(|(key, _)| *key == "as"));
    plain.filter_map(Clause::encoding).next().ok_or_else(|| Status::not_acceptable(ACCEPTED))
}

struct Clause<'a> {
    kind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    fn encoding(&self) -> Option<Encoding> {
        match self.kind {
            "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
            "application/yaml" => Some(Encoding::Yaml),
            api::protobuf::MEDIA_TYPE => Some(Encoding::Protobuf),
            _ => None,
        }
    }
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause> = accept
        .split(',')
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let kind = parts.next().unwrap_or("");
            let mut quality = 1.0;
            let mut parameters = Vec::new();
            for (key, value) in parts.filter_map(|p| p.split_once('=')) {
                match key.trim() {
                    "q" => quality = value.trim().parse().unwrap_or(1.0),
                    key => parameters.push((key, value.trim())),
                }
            }
            Clause { kind, parameters, quality }
        })
        .collect();
    found.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    found
}

fn shape(clause: &Clause, purpose: For) -> Option<Shape> {
    let get = |name: &str| clause.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
    let Some(kind) = get("as") else { return Some(Shape::Object) };
    if get("g") != Some("meta.k8s.io") {
        return None;
    }
    let version = match get("v") {
        Some("v1") => "meta.k8s.io/v1",
        Some("v1beta1") => "meta.k8s.io/v1beta1",
        _ => return None,
    };
    match (kind, purpose) {
        ("Table", For::Review) => None,
        ("Table", _) => Some(Shape::Table(version)),
        ("PartialObjectMetadata", For::Object | For::Review | For::Watch) => Some(Shape::Metadata(version)),
        ("PartialObjectMetadataList", For::List) => Some(Shape::Metadata(version)),
        _ => None,
    }
}

/// Chooses the form of an answer.
pub fn accept(headers: &HeaderMap, pretty: Option<&str>, purpose: For) -> Result<Form> {
    let text = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("").trim();
    let pretty = match pretty {
        Some(value) => !matches!(value, "0" | "false"),
        None => {
            // Browsers and curl get something to read, as upstream does.
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
        }
    };
    // What is indented is re-encoded; a stream is one line an event.
    let pretty = pretty && purpose != For::Watch;
    if text.is_empty() || text == "application/json" || text == "*/*" {
        return Ok(Form { pretty, ..Form::default() });
    }
    if !is_routed(text) {
        return Err(unroutable(match purpose {
            For::Object | For::Review => ACCEPTED,
            For::List | For::Watch => LISTED,
        }));
    }
    let mut unstreamed = false;
    for clause in clauses(text) {
        let Some(encoding) = clause.encoding() else { continue };
        if purpose == For::Watch && encoding == Encoding::Yaml {
            unstreamed = true;
            continue;
        }
        match shape(&clause, purpose) {
            // Tables have no form in protobuf, and the older metadata lists had another than these.
            Some(Shape::Table(_) | Shape::Metadata("meta.k8s.io/v1beta1")) if encoding == Encoding::Protobuf => {}
            Some(shape) => return Ok(Form { encoding, shape, pretty }),
            None => {}
        }
    }
    Err(Status::not_acceptable(if unstreamed { STREAMED } else { ACCEPTED }))
}

/// How errors are written: as the first thing the client lists that can be served.
pub fn preferred(headers: &HeaderMap) -> Encoding {
    let text = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    if text.is_empty() || text.starts_with("application/json") && !text.contains(";q=") {
        return Encoding::Json;
    }
    clauses(text).iter().find_map(Clause::encoding).unwrap_or_default()
}

/// How a request's body is written; `patch` types are the caller's.
pub fn content_encoding(headers: &HeaderMap) -> Result<Encoding> {
    match media_type(headers).to_ascii_lowercase().as_str() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        api::protobuf::MEDIA_TYPE => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(ACCEPTED)),
    }
}

/// The media type of a request's body without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(value: &str, purpose: For) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        accept(&headers, None, purpose).ok()
    }

    #[test]
    fn the_first_clause_that_can_be_served_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table, For::List).unwrap().shape, Shape::Table("meta.k8s.io/v1"));
        let protobuf = Form { encoding: Encoding::Protobuf, ..Form::default() };
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json", For::Object), Some(protobuf));
        assert_eq!(form("application/json,application/vnd.kubernetes.protobuf;q=0.5", For::List), Some(Form::default()));
        let table = "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1";
        assert_eq!(form(table, For::List), None);
        assert_eq!(form("application/json;as=Table;v=v1;g=meta.k8s.io", For::Review), None);
        assert_eq!(form("application/cbor", For::Object), None);
        assert_eq!(form("application/yaml", For::Object).unwrap().encoding, Encoding::Yaml);
        assert_eq!(form("application/yaml", For::Watch), None);
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(form(partial, For::List).unwrap().shape, Shape::Metadata("meta.k8s.io/v1"));
    }
}
