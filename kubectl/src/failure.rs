//! The one error type of kubectl. What it displays is exactly what goes to stderr, its exit code included.
//!
//! Upstream decides late, in one place, how an error of any type is shown; here the variants are those shapes. Errors that
//! carry no shape of their own are [`Failure::Plain`] and get the `error: ` in front.

use std::fmt;

use api::{field::go_quote, status::Status};

/// Why a command ended without success.
#[derive(Clone, Debug)]
pub enum Failure {
    /// `error: MESSAGE`.
    Plain(String),
    /// The text as it stands, with an exit code.
    Verbatim(String, i32),
    /// `error: MESSAGE` of a single thing that is wrong with a configuration; see [`Failure::in_list`].
    Unusable(String),
    /// Nothing is printed any more; the exit code tells.
    Silent(i32),
    /// The server answered with an error.
    Status(Box<Status>),
    /// The server could not be reached: the host as in the URL, what was asked of it, and why.
    Connection {
        /// `127.0.0.1:6443`.
        host: String,
        /// `Get "https://127.0.0.1:6443/api"`.
        request: String,
        /// The reason in Go's words.
        reason: String,
    },
    /// No such resource type: resource, group, version (the latter two may be empty).
    NoResource(String, String, String),
    /// No kind of that name: group, kind, version.
    NoKind(String, String, String),
    /// Several errors, a line each, plain ones without `error: ` (even if there is only one: see [`Failure::of`]).
    Many(Vec<Failure>),
}

/// A failure printed as `error: MESSAGE`.
pub fn plain(message: impl Into<String>) -> Failure {
    Failure::Plain(message.into())
}

/// A mistake in how a command was called: `error: MESSAGE` and where help is found.
pub fn usage(command: &str, message: impl fmt::Display) -> Failure {
    Failure::Plain(format!("{message}\nSee 'kubectl {command} -h' for help and examples"))
}

impl Failure {
    /// One failure of several: none is success, one is itself.
    pub fn of(mut failures: Vec<Self>) -> Result<(), Self> {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Many(failures)),
        }
    }

    /// As the one error of a list of errors, which upstream opens once, not twice: what is wrong with a configuration is then
    /// told as that.
    pub fn in_list(self) -> Self {
        match self {
            Self::Unusable(message) => Self::Verbatim(format!("Error in configuration: {message}"), 1),
            other => other,
        }
    }

    /// The first of several.
    pub fn first(self) -> Self {
        match self {
            Self::Many(failures) if !failures.is_empty() => failures.into_iter().next().unwrap_or(Self::Silent(1)),
            other => other,
        }
    }

    /// Failures that upstream gathers by themselves, and tells with others: they are one message then, unless they are alone.
    pub fn grouped(failures: Vec<Self>, alone: bool) -> Vec<Self> {
        let one = |failure: Self| match failure {
            Self::Many(_) => Self::Plain(failure.message()),
            other => other,
        };
        match failures.len() {
            0 => failures,
            1 if alone => failures,
            _ if alone => failures.into_iter().map(one).collect(),
            _ => vec![Self::Plain(Self::Many(failures).message())],
        }
    }

    /// What is left without what says that something is not there.
    pub fn but_missing(failures: Vec<Self>) -> Vec<Self> {
        let left = |failure| match failure {
            Self::Many(failures) => Some(Self::but_missing(failures)).filter(|left| !left.is_empty()).map(Self::Many),
            other => Some(other).filter(|failure| !failure.is_not_found()),
        };
        failures.into_iter().filter_map(left).collect()
    }

    /// All that is gathered in failures, each by itself.
    pub fn flat(failures: Vec<Self>) -> Vec<Self> {
        let one = |failure| match failure {
            Self::Many(failures) => Self::flat(failures),
            other => vec![other],
        };
        failures.into_iter().flat_map(one).collect()
    }

    /// As told where upstream does not read the Status in an answer.
    pub fn unread(mut self) -> Self {
        if let Self::Status(status) = &mut self
            && status.reason == "Unauthorized"
        {
            status.message = "the server has asked for the client to provide credentials".to_owned();
        }
        self
    }

    /// The process's exit code.
    pub fn code(&self) -> i32 {
        match self {
            Self::Verbatim(_, code) | Self::Silent(code) => *code,
            _ => 1,
        }
    }

    /// The server's Status, where the server refused.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Whether the server said that something is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }

    /// Whether the server said `Conflict`.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    /// Whether the server said `AlreadyExists`.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    /// The Status's reason, or nothing.
    pub fn reason(&self) -> &str {
        self.status().map_or("", |s| s.reason.as_str())
    }

    /// Says what was being done to what: `error when creating "x.yaml": ...`. A Status stays one, as upstream's
    /// `AddSourceToErr` has it; an `Invalid` one therefore shows its causes only.
    pub fn with_source(self, verb: &str, source: &str) -> Self {
        if source.is_empty() {
            return self;
        }
        match self {
            Self::Status(mut status) => {
                status.message = format!("error when {verb} {}: {}", go_quote(source), status.message);
                Self::Status(status)
            }
            other => Self::Plain(format!("error when {verb} {}: {}", go_quote(source), other.message())),
        }
    }

    /// The message without `error: ` or the server's reason in front: what Go's `err.Error()` gives.
    pub fn message(&self) -> String {
        match self {
            Self::Plain(message) | Self::Unusable(message) => message.clone(),
            Self::Status(status) => status.message.clone(),
            Self::Connection { request, reason, .. } => format!("{request}: {reason}"),
            Self::NoResource(..) => self.to_string().trim_start_matches("error: ").to_owned(),
            Self::NoKind(group, kind, version) => no_kind(group, kind, version),
            Self::Many(failures) => match failures.as_slice() {
                [one] => one.message(),
                _ => match self.messages().as_slice() {
                    [one] => one.clone(),
                    several => format!("[{}]", several.join(", ")),
                },
            },
            Self::Verbatim(text, _) => text.clone(),
            Self::Silent(_) => "exit".to_owned(),
        }
    }

    /// Every message once, of what is gathered here and in what it holds.
    fn messages(&self) -> Vec<String> {
        let mut out = Vec::new();
        let found = match self {
            Self::Many(failures) => failures.iter().flat_map(Self::messages).collect(),
            other => vec![other.message()],
        };
        for message in found {
            if !out.contains(&message) {
                out.push(message);
            }
        }
        out
    }

    /// One line among several errors: as alone, but plain messages without `error: ` (upstream's `messageForError`).
    pub fn line(&self) -> String {
        match self {
            Self::Status(status) => from_server(status),
            Self::Connection { .. } => self.to_string(),
            other => other.message(),
        }
    }
}

fn no_kind(group: &str, kind: &str, version: &str) -> String {
    match (group, version) {
        ("", "") => format!("no matches for kind {} in group \"\"", go_quote(kind)),
        ("", version) => format!("no matches for kind {} in version {}", go_quote(kind), go_quote(version)),
        (group, "") => format!("no matches for kind {} in group {}", go_quote(kind), go_quote(group)),
        (group, version) => {
            format!("no matches for kind {} in version {}", go_quote(kind), go_quote(&format!("{group}/{version}")))
        }
    }
}

fn from_server(status: &Status) -> String {
    match status.reason.as_str() {
        "Unauthorized" => format!("error: You must be logged in to the server ({})", status.message),
        "" => format!("Error from server: {}", status.message),
        reason => format!("Error from server ({reason}): {}", status.message),
    }
}

fn invalid(status: &Status) -> String {
    let Some(details) = &status.details else {
        return match status.message.as_str() {
            "" => "The request is invalid".to_owned(),
            message => format!("The request is invalid: {message}"),
        };
    };
    let about = if !details.kind.is_empty() || !details.name.is_empty() {
        format!("The {} {} is invalid", details.kind, go_quote(&details.name))
    } else if !status.message.is_empty() && details.causes.is_empty() {
        format!("The request is invalid: {}", status.message)
    } else {
        "The request is invalid".to_owned()
    };
    let mut causes: Vec<String> = Vec::new();
    for cause in &details.causes {
        let text = format!("{}: {}", cause.field, cause.message);
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    match causes.as_slice() {
        [] => about,
        // Upstream ends this with a newline, whatever it ends with already.
        [one] if one.ends_with('\n') => format!("{about}: {one}\n"),
        [one] => format!("{about}: {one}"),
        several => format!("{about}: \n* {}", several.join("\n* ")),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(message) if message.starts_with("error: ") => f.write_str(message),
            Self::Plain(message) | Self::Unusable(message) => write!(f, "error: {message}"),
            Self::Verbatim(text, _) => f.write_str(text),
            Self::Silent(_) => Ok(()),
            Self::Status(status) if status.reason == "Invalid" => f.write_str(&invalid(status)),
            Self::Status(status) => f.write_str(&from_server(status)),
            Self::Connection { host, reason, .. } if reason.contains("connection refused") => {
                write!(f, "The connection to the server {host} was refused - did you specify the right host or port?")
            }
            Self::Connection { reason, .. } => write!(f, "Unable to connect to the server: {reason}"),
            Self::NoResource(resource, group, version) => {
                write!(f, "error: the server doesn't have a resource type {}", go_quote(resource))?;
                match (group.as_str(), version.as_str()) {
                    ("", "") => Ok(()),
                    (group, "") => write!(f, " in group {}", go_quote(group)),
                    ("", version) => write!(f, " in version {}", go_quote(version)),
                    (group, version) => write!(f, " in group {} and version {}", go_quote(group), go_quote(version)),
                }
            }
            Self::NoKind(..) => write!(f, "error: {}", self.message()),
            Self::Many(failures) => {
                let lines = failures.iter().map(Self::line).collect::<Vec<_>>().join("\n");
                // Each has a newline behind it, whatever it ends with already.
                write!(f, "{lines}{}", if lines.ends_with('\n') { "\n" } else { "" })
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Plain(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Plain(error.to_string())
    }
}

impl From<api::yaml::ControlCharacter> for Failure {
    fn from(error: api::yaml::ControlCharacter) -> Self {
        Self::Plain(error.to_string())
    }
}

impl From<api::jsonpath::Error> for Failure {
    fn from(error: api::jsonpath::Error) -> Self {
        Self::Plain(error.0)
    }
}

/// A file error in Go's words: `open x: no such file or directory`.
pub fn file_error(operation: &str, path: impl fmt::Display, error: &std::io::Error) -> Failure {
    Failure::Plain(format!("{operation} {path}: {}", go_io(error)))
}

/// Bytes in base64, read as Go reads them, with its complaint.
pub fn from_base64(text: &str) -> Result<Vec<u8>, String> {
    api::schema::from_base64(text).map_err(|at| format!("illegal base64 data at input byte {at}"))
}

/// What Go calls an operating system's error.
pub fn go_io(error: &std::io::Error) -> String {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound => "no such file or directory".to_owned(),
        Kind::PermissionDenied => "permission denied".to_owned(),
        Kind::ConnectionRefused => "connect: connection refused".to_owned(),
        Kind::IsADirectory => "is a directory".to_owned(),
        Kind::TimedOut => "i/o timeout".to_owned(),
        Kind::UnexpectedEof => "EOF".to_owned(),
        _ => {
            let text = error.to_string();
            match text.rfind(" (os error ") {
                Some(at) => text[..at].to_lowercase(),
                None => text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> Failure {
        Failure::Status(Box::new(serde_json::from_value(value).unwrap()))
    }

    #[test]
    fn server_errors_are_shown_as_upstream_does() {
        let cases = [
            (
                json!({"reason": "NotFound", "message": "pods \"x\" not found"}),
                "Error from server (NotFound): pods \"x\" not found",
            ),
            (json!({"message": "odd"}), "Error from server: odd"),
            (
                json!({"reason": "Unauthorized", "message": "Unauthorized"}),
                "error: You must be logged in to the server (Unauthorized)",
            ),
            (
                json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "x",
                    "causes": [{"field": "spec.a", "message": "Required value"}]}}),
                "The Pod \"x\" is invalid: spec.a: Required value",
            ),
            (
                json!({"reason": "Invalid", "message": "m", "details": {"kind": "Pod", "name": "x", "causes": [
                    {"field": "a", "message": "one"}, {"field": "a", "message": "one"}, {"field": "b", "message": "two"}]}}),
                "The Pod \"x\" is invalid: \n* a: one\n* b: two",
            ),
            (json!({"reason": "Invalid", "message": "m"}), "The request is invalid: m"),
        ];
        for (value, want) in cases {
            assert_eq!(status(value).to_string(), want);
        }
    }

    #[test]
    fn several_errors_take_a_line_each() {
        let not_found = status(json!({"reason": "NotFound", "message": "pods \"x\" not found"}));
        let many = Failure::of(vec![not_found, plain("other")]).unwrap_err();
        assert_eq!(many.to_string(), "Error from server (NotFound): pods \"x\" not found\nother");
    }

    #[test]
    fn sources_are_named() {
        let failure = status(json!({"reason": "NotFound", "message": "m"})).with_source("creating", "a.yaml");
        assert_eq!(failure.to_string(), "Error from server (NotFound): error when creating \"a.yaml\": m");
        assert_eq!(plain("m").with_source("creating", "a.yaml").to_string(), "error: error when creating \"a.yaml\": m");
    }
}
