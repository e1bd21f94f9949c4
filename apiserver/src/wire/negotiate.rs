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
    /// What this sort of answer cannot be shown as: the name of that. Found out when there is something to show.
    Unfit(&'static str),
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
fn is_routed(accept: &str, made: &[&str]) -> bool {
    let kinds = accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    accept.is_empty() || kinds.into_iter().any(|kind| kind == "*/*" || made.contains(&kind))
}

/// The router's refusal.
pub fn unroutable(representations: &[&str]) -> Status {
    let mut status = Status::not_acceptable(&[]);
    status.message = format!("406: Not Acceptable\n\nAvailable representations: {}", representations.join(", "));
    status.details = Some(Box::default());
    status
}

fn accepted(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("").trim()
}

/// Refuses who doesn't take the one media type that a document has.
pub fn only(headers: &HeaderMap, media_type: &str) -> Result<()> {
    if is_routed(accepted(headers), &[media_type]) { Ok(()) } else { Err(unroutable(&[media_type])) }
}

/// The encoding of a document that has only itself to show: discovery. Not all such documents are behind the router.
pub fn document(headers: &HeaderMap, routed: bool) -> Result<Encoding> {
    let text = accepted(headers);
    if routed && !is_routed(text, ACCEPTED) {
        return Err(unroutable(ACCEPTED));
    }
    if text.is_empty() {
        return Ok(Encoding::Json);
    }
    choose(&clauses(text), |clause, encoding| clause.unconverted(encoding)).ok_or_else(|| Status::not_acceptable(ACCEPTED))
}

/// Which of these media types a header wants most.
pub fn wanted<'a>(headers: &HeaderMap, media_types: &[&'a str]) -> Option<&'a str> {
    let accept = Some(accepted(headers)).filter(|accept| !accept.is_empty()).unwrap_or("*/*");
    clauses(accept).iter().find_map(|clause| media_types.iter().copied().find(|kind| clause.matches(kind)))
}

/// One of the media ranges of an Accept header.
struct Clause<'a> {
    kind: &'a str,
    subkind: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Clause<'_> {
    fn matches(&self, media_type: &str) -> bool {
        let (kind, subkind) = media_type.split_once('/').unwrap_or((media_type, ""));
        (self.kind == kind && (self.subkind == subkind || self.subkind == "*")) || (self.kind == "*" && self.subkind == "*")
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// Whether a stream, a server's version or a conversion is asked for that there is not.
    fn is_possible(&self, encoding: Encoding) -> bool {
        let stream = self.get("stream").unwrap_or("");
        let streams = stream.is_empty() || encoding != Encoding::Yaml && stream == "watch";
        streams && self.get("sv").unwrap_or("").is_empty()
    }

    /// The encoding for what is never converted: errors, documents.
    fn unconverted(&self, encoding: Encoding) -> Option<Encoding> {
        let plain = ["as", "g", "v"].iter().all(|name| self.get(name).is_none());
        (plain && self.is_possible(encoding)).then_some(encoding)
    }

    /// The encoding and the shape of an answer.
    fn form(&self, encoding: Encoding, purpose: For) -> Option<(Encoding, Shape)> {
        (self.is_possible(encoding)).then(|| shape(self, encoding, purpose)).flatten().map(|shape| (encoding, shape))
    }
}

/// What the first clause that something can be made of makes: of our encodings, by preference.
fn choose<T>(clauses: &[Clause<'_>], of: impl Fn(&Clause<'_>, Encoding) -> Option<T>) -> Option<T> {
    const ENCODINGS: [Encoding; 3] = [Encoding::Json, Encoding::Yaml, Encoding::Protobuf];
    let encodings = |clause: &Clause<'_>| {
        let of_ours = ENCODINGS.into_iter().zip(ACCEPTED).filter(|(_, kind)| clause.matches(kind));
        of_ours.filter_map(|(encoding, _)| of(clause, encoding)).next()
    };
    clauses.iter().find_map(encodings)
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';');
    let (kind, subkind) = match parts.next().unwrap_or("").trim().split_once('/') {
        Some((_, subkind)) if subkind.is_empty() || subkind.contains('/') => return None,
        Some((kind, subkind)) => (kind.trim(), subkind.trim()),
        None if text.split(';').next().is_some_and(|kind| kind.trim() == "*") => ("*", "*"),
        None => return None,
    };
    let mut found = Clause { kind, subkind, parameters: Vec::new(), quality: 1.0 };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key.trim() {
            _ if value.is_empty() || value.contains('=') => {}
            "q" => found.quality = value.parse().unwrap_or(0.0),
            key => found.parameters.push((key, value.trim())),
        }
    }
    Some(found)
}

/// The clauses of a header, the most wanted ones first; what is none is passed over.
fn clauses(accept: &str) -> Vec<Clause<'_>> {
    // Upstream's order is no order (what is specific precedes a wildcard however much that is wanted), so that sorting means
    // what its sort does with few elements: insertion.
    let before = |a: &Clause, b: &Clause| {
        a.quality > b.quality || a.kind != "*" && b.kind == "*" || a.subkind != "*" && b.subkind == "*"
    };
    let mut sorted: Vec<Clause> = Vec::new();
    for clause in accept.split(',').filter_map(clause) {
        let at = sorted.iter().rposition(|other| !before(&clause, other)).map_or(0, |at| at + 1);
        sorted.insert(at, clause);
    }
    sorted
}

/// The shape that a clause asks for, if an answer of this sort can have it.
fn shape(clause: &Clause, encoding: Encoding, purpose: For) -> Option<Shape> {
    if ["as", "g", "v"].iter().all(|name| clause.get(name).is_none()) {
        return Some(Shape::Object);
    }
    let version = match (clause.get("g"), clause.get("v")) {
        (Some("meta.k8s.io"), Some("v1")) => "meta.k8s.io/v1",
        (Some("meta.k8s.io"), Some("v1beta1")) => "meta.k8s.io/v1beta1",
        _ => return None,
    };
    match (clause.get("as")?, purpose) {
        // Tables have no form in protobuf, and the older metadata lists had another than these.
        ("Table", For::Review) => None,
        ("Table", _) => (encoding != Encoding::Protobuf).then_some(Shape::Table(version)),
        (_, _) if encoding == Encoding::Protobuf && version == "meta.k8s.io/v1beta1" => None,
        ("PartialObjectMetadata", For::List) => Some(Shape::Unfit("PartialObjectMetadata")),
        ("PartialObjectMetadata", _) | ("PartialObjectMetadataList", For::List) => Some(Shape::Metadata(version)),
        ("PartialObjectMetadataList", _) => Some(Shape::Unfit("PartialObjectMetadataList")),
        _ => None,
    }
}

/// Whether JSON is to be indented.
pub fn pretty(headers: &HeaderMap, asked: Option<&str>) -> bool {
    match asked {
        Some(value) => !matches!(value, "0" | "false"),
        None => {
            // Browsers and curl get something to read, as upstream does.
            let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
        }
    }
}

/// Chooses the form of an answer.
pub fn accept(headers: &HeaderMap, asked: Option<&str>, purpose: For) -> Result<Form> {
    let text = accepted(headers);
    // What is indented is re-encoded; a stream is one line an event.
    let pretty = purpose != For::Watch && pretty(headers, asked);
    if text.is_empty() || text == "application/json" || text == "*/*" {
        return Ok(Form { pretty, ..Form::default() });
    }
    if !is_routed(text, ACCEPTED) {
        return Err(unroutable(match purpose {
            For::Object | For::Review => ACCEPTED,
            For::List | For::Watch => LISTED,
        }));
    }
    match choose(&clauses(text), |clause, encoding| clause.form(encoding, purpose)) {
        None => Err(Status::not_acceptable(ACCEPTED)),
        Some((Encoding::Yaml, _)) if purpose == For::Watch => Err(Status::not_acceptable(STREAMED)),
        Some((encoding, shape)) => Ok(Form { encoding, shape, pretty }),
    }
}

/// How errors are written: as the first thing the client lists that can be served, JSON where nothing can.
pub fn of_errors(headers: &HeaderMap, asked: Option<&str>) -> Form {
    let text = accepted(headers);
    let pretty = pretty(headers, asked);
    if text.is_empty() || text == "application/json" {
        return Form { pretty, ..Form::default() };
    }
    match choose(&clauses(text), |clause, encoding| clause.unconverted(encoding)) {
        Some(encoding) => Form { encoding, pretty, ..Form::default() },
        // As upstream: who takes no form gets one to read.
        None => Form { pretty: true, ..Form::default() },
    }
}

/// How a request's body is written; `patch` types are the caller's.
pub fn content_encoding(headers: &HeaderMap) -> Result<Encoding> {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if text.split(';').skip(1).any(|parameter| !parameter.trim().is_empty() && !parameter.contains(['=', '"'])) {
        return Err(Status::unsupported_media_type(ACCEPTED));
    }
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
        assert_eq!(form(partial, For::Object).unwrap().shape, Shape::Unfit("PartialObjectMetadataList"));
        let json = |parameters: &str| form(&format!("application/json;{parameters}"), For::List).map(|form| form.shape);
        assert_eq!(json("as=;q=0"), Some(Shape::Object));
        for wrong in ["v=v1;g=meta.k8s.io", "as=PartialObjectMetadata", "as=Table;v=v2;g=meta.k8s.io", "stream=all", "sv=1"]
        {
            assert_eq!(json(wrong), None, "{wrong}");
        }
        assert_eq!(form("application/yaml;stream=watch", For::List), None);
        assert_eq!(form("application/json;q=0.5,application/yaml", For::Watch), None);
    }
}
