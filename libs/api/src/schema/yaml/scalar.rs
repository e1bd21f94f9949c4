//! What a scalar means, by YAML 1.1 and the tag it may have.

use std::cmp::Ordering;

use base64::Engine as _;

use super::nodes::OWN_TAGS;
use crate::yaml::{is_float, is_timestamp};

/// A scalar's value.
#[derive(Clone, Debug)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond [`i64`].
    Large(u64),
    Float(f64),
    Text(String),
}

impl Scalar {
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int(_) => 2,
            Self::Large(_) => 3,
            Self::Float(_) => 4,
            Self::Text(_) => 5,
        }
    }
}

/// Keys of one map are one if they are of one type and equal.
impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Large(a), Self::Large(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scalar {}

/// Which words are booleans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// `yes`, `on`, `y` and their like, too.
    Yaml11,
    /// `true` and `false` only.
    Yaml12,
}

/// The value of a scalar.
///
/// # Errors
/// It is not what its tag says.
pub(super) fn resolve(text: &str, tag: &str, plain: bool, words: Words) -> Result<Scalar, String> {
    let as_text = || Ok(Scalar::Text(text.to_owned()));
    let tag = match tag.strip_prefix(OWN_TAGS) {
        None if tag.is_empty() && plain => "",
        // A tag of somebody's own says nothing.
        None => return as_text(),
        Some("str") => return as_text(),
        Some("binary") => return binary(text),
        Some(own @ ("bool" | "int" | "float" | "null" | "timestamp")) => own,
        Some(_) => return as_text(),
    };
    let (found, value) = look(text, tag, words);
    match (tag, value) {
        ("float", Scalar::Int(number)) => Ok(Scalar::Float(number as f64)),
        (tag, value) if tag.is_empty() || tag == found => Ok(value),
        _ => Err(format!("yaml: cannot decode !!{found} `{text}` as a !!{tag}")),
    }
}

fn binary(text: &str) -> Result<Scalar, String> {
    let bare: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(&bare)
        .or_else(|_| LENIENT.decode(&bare))
        .map_err(|_| "yaml: !!binary value contains invalid base64 data".to_owned())?;
    Ok(Scalar::Text(go_lossy(&bytes)))
}

/// Go does not mind what the last bits are.
const LENIENT: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Text of bytes, in which every byte that belongs to no character becomes one of its own, as in Go.
fn go_lossy(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    out
}

/// The type that a scalar looks like, and its value.
fn look(text: &str, tag: &str, words: Words) -> (&'static str, Scalar) {
    let word = |old: bool| old && words == Words::Yaml11;
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ("null", Scalar::Null),
        "true" | "True" | "TRUE" => return ("bool", Scalar::Bool(true)),
        "false" | "False" | "FALSE" => return ("bool", Scalar::Bool(false)),
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" if word(true) => return ("bool", Scalar::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" if word(true) => return ("bool", Scalar::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return ("float", Scalar::Float(f64::NAN)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return ("float", Scalar::Float(f64::INFINITY)),
        "-.inf" | "-.Inf" | "-.INF" => return ("float", Scalar::Float(f64::NEG_INFINITY)),
        _ => {}
    }
    let float = |text: &str| {
        let number = is_float(text).then(|| text.parse().ok()).flatten().filter(|number: &f64| number.is_finite());
        number.map(|number| ("float", Scalar::Float(number)))
    };
    let found = match text.as_bytes()[0] {
        b'.' => float(text),
        b'0'..=b'9' | b'+' | b'-' => {
            if matches!(tag, "" | "timestamp") && is_timestamp(text) {
                return ("timestamp", Scalar::Text(text.to_owned()));
            }
            let bare = text.replace('_', "");
            integer(&bare).map(|number| ("int", number)).or_else(|| float(&bare)).or_else(|| {
                let digits = match bare.strip_prefix("-0b") {
                    Some(digits) => format!("-{digits}"),
                    None => bare.strip_prefix("0b")?.to_owned(),
                };
                whole(&digits, 2).map(|number| ("int", number))
            })
        }
        _ => None,
    };
    found.unwrap_or_else(|| ("str", Scalar::Text(text.to_owned())))
}

/// A whole number in Go's notation: `0x1f`, `0b1`, `0o17` and `017`.
fn integer(text: &str) -> Option<Scalar> {
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'+' | b'-') => text.split_at(1),
        _ => ("", text),
    };
    let prefixed = |at: &str| rest.len() > 2 && rest[..2].eq_ignore_ascii_case(at);
    let (radix, digits) = match rest.as_bytes() {
        [b'0', ..] if rest.is_char_boundary(2) && prefixed("0x") => (16, &rest[2..]),
        [b'0', ..] if rest.is_char_boundary(2) && prefixed("0b") => (2, &rest[2..]),
        [b'0', ..] if rest.is_char_boundary(2) && prefixed("0o") => (8, &rest[2..]),
        [b'0', _, ..] => (8, &rest[1..]),
        _ => (10, rest),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    whole(&format!("{sign}{digits}"), radix)
}

fn whole(text: &str, radix: u32) -> Option<Scalar> {
    match i64::from_str_radix(text, radix) {
        Ok(number) => Some(Scalar::Int(number)),
        // What has a sign is no unsigned number.
        Err(_) if text.starts_with(['+', '-']) => None,
        Err(_) => u64::from_str_radix(text, radix).ok().map(Scalar::Large),
    }
}
