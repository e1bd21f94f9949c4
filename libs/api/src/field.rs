//! Field errors of validation: path, what is wrong, the bad value; rendered with upstream's words.

use std::fmt;

/// Upstream's `field.ErrorType`: decides the Status cause's reason and the message's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// `Required value`
    Required,
    /// `Invalid value`
    Invalid,
    /// `Unsupported value`
    NotSupported,
    /// `Duplicate value`
    Duplicate,
    /// `Forbidden`
    Forbidden,
    /// `Not found`
    NotFound,
    /// `Too long`
    TooLong,
    /// `Too many`
    TooMany,
    /// `Internal error`
    Internal,
    /// `Invalid value` of the wrong type
    TypeInvalid,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What sort of rule.
    pub kind: ErrorKind,
    /// `spec.containers[0].name`, `metadata.labels[a/b]`.
    pub path: String,
    /// The bad value as upstream renders it (`"x"` quoted, numbers bare, objects as JSON), where the kind shows it.
    pub value: String,
    /// The explanation after the value.
    pub detail: String,
}

impl ErrorKind {
    /// The cause's `reason` (`FieldValueInvalid`).
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn head(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

impl FieldError {
    /// The message without the path: a Status cause's `message`.
    pub fn body(&self) -> String {
        let shows_value =
            !matches!(self.kind, ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal);
        let mut out = self.kind.head().to_owned();
        if shows_value {
            out.push_str(": ");
            out.push_str(&self.value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// Broken rules in the order they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an error of any kind; `value` is rendered as JSON.
    pub fn push(
        &mut self,
        kind: ErrorKind,
        path: impl Into<String>,
        value: &impl serde::Serialize,
        detail: impl Into<String>,
    ) {
        let json = serde_json::to_string(value).unwrap_or_default();
        let text: Option<String> = json.starts_with('"').then(|| serde_json::from_str(&json).ok()).flatten();
        let value = text.map_or_else(|| escape_html(&json), |text| go_quote(&text));
        self.0.push(FieldError { kind, path: path.into(), value, detail: detail.into() });
    }

    /// `path: Required value: detail`
    pub fn required(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(ErrorKind::Required, path, &"", detail);
    }

    /// `path: Invalid value: value: detail`
    pub fn invalid(&mut self, path: impl Into<String>, value: &impl serde::Serialize, detail: impl Into<String>) {
        self.push(ErrorKind::Invalid, path, value, detail);
    }

    /// `path: Forbidden: detail`
    pub fn forbidden(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(ErrorKind::Forbidden, path, &"", detail);
    }

    /// `path: Duplicate value: value`
    pub fn duplicate(&mut self, path: impl Into<String>, value: &impl serde::Serialize) {
        self.push(ErrorKind::Duplicate, path, value, "");
    }

    /// `path: Too long: may not be more than N bytes`
    pub fn too_long(&mut self, path: impl Into<String>, max: usize) {
        let unit = if max == 1 { "byte" } else { "bytes" };
        self.push(ErrorKind::TooLong, path, &"", format!("may not be more than {max} {unit}"));
    }

    /// `path: Too many: COUNT: must have at most N items`
    pub fn too_many(&mut self, path: impl Into<String>, count: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        self.push(ErrorKind::TooMany, path, &count, format!("must have at most {max} {unit}"));
    }

    /// `path: Not found: value`
    pub fn not_found(&mut self, path: impl Into<String>, value: &impl serde::Serialize) {
        self.push(ErrorKind::NotFound, path, value, "");
    }

    /// `path: Unsupported value: value: supported values: "A", "B"`
    pub fn not_supported(&mut self, path: impl Into<String>, value: &impl serde::Serialize, supported: &[&str]) {
        let list = supported.iter().map(|s| go_quote(s)).collect::<Vec<_>>().join(", ");
        self.push(ErrorKind::NotSupported, path, value, format!("supported values: {list}"));
    }
}

impl fmt::Display for FieldErrors {
    /// One error alone, several as `[a, b]` without repetitions: upstream's aggregate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut texts: Vec<String> = Vec::new();
        for text in self.0.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [one] => f.write_str(one),
            _ => write!(f, "[{}]", texts.join(", ")),
        }
    }
}

/// What Go does not print as it is: besides control characters the spaces that are not the space, what only shapes the text
/// around it, and private characters. (Characters not assigned are left out.)
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || c != ' ' && c.is_whitespace()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}')
        || c >= '\u{e0000}'
}

/// JSON as Go's `json.Marshal` writes it: what HTML gives a meaning to is escaped. It occurs within strings only.
pub(crate) fn escape_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A string as Go's `%q` writes it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_unprintable(c) && u32::from(c) > 0xffff => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            c if is_unprintable(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
