//! Field selectors: `metadata.name=a,spec.nodeName!=b`, with `\\`, `\,` and `\=` as escapes in values.

use std::fmt;

use super::ParseError;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field's path, e.g. `spec.nodeName`.
    pub field: String,
    /// Whether the field must be `value` (or must not be).
    pub equal: bool,
    /// The value, unescaped.
    pub value: String,
}

/// Conditions that must all hold, in the order of their text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Parses the string form.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let Some((field, equal, value)) = split_term(part) else {
                return Err(ParseError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            let value = unescape(value)?;
            // Upstream drops terms that are empty on both sides.
            if !(field.is_empty() && value.is_empty()) {
                terms.push(Term { field: field.to_owned(), equal, value });
            }
        }
        Ok(Self { terms })
    }

    /// From one field that must have one value.
    pub fn equal(field: &str, value: &str) -> Self {
        Self { terms: vec![Term { field: field.to_owned(), equal: true, value: value.to_owned() }] }
    }

    /// The conditions.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The same with other names of fields; `Err` is the first one that `name` has none for.
    pub fn renamed(mut self, name: impl Fn(&str) -> Option<&'static str>) -> Result<Self, String> {
        for term in &mut self.terms {
            name(&term.field).ok_or_else(|| term.field.clone())?.clone_into(&mut term.field);
        }
        Ok(self)
    }

    /// Whether it restricts nothing.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value `field` must have, where the selector demands one.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether fields, looked up by path, fulfil every condition. A field that is not there counts as empty.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (get(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// A literal value as it must be written in a field selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(text: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let sequence: String = other.into_iter().collect();
                    let message = format!("invalid field selector: invalid escape sequence: \\{sequence}");
                    return Err(ParseError(message));
                }
            },
            // Upstream prints the character's number.
            ',' | '=' => {
                let message = format!("invalid field selector: unescaped character in value: {}", u32::from(c));
                return Err(ParseError(message));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    term.char_indices().find_map(|(i, _)| {
        let rest = &term[i..];
        [("!=", false), ("==", true), ("=", true)]
            .into_iter()
            .find_map(|(operator, equal)| rest.strip_prefix(operator).map(|value| (&term[..i], equal, value)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_and_errors() {
        for (text, want) in [
            ("", Ok("")),
            ("a=b,c!=d", Ok("a=b,c!=d")),
            ("c==d,,a=b", Ok("a=b,c=d")),
            ("a=x\\,y\\=z\\\\", Ok("a=x\\,y\\=z\\\\")),
            ("a", Err("invalid selector: 'a'; can't understand 'a'")),
            ("a=b=c", Err("invalid field selector: unescaped character in value: 61")),
            ("a=\\x", Err("invalid field selector: invalid escape sequence: \\x")),
            ("a=\\", Err("invalid field selector: invalid escape sequence: \\")),
        ] {
            let got = FieldSelector::parse(text).map(|s| s.to_string());
            assert_eq!(got.as_deref().map_err(|e| e.0.as_str()), want, "{text}");
        }
    }

    proptest! {
        #![proptest_config(crate::testing::cases(2000))]

        #[test]
        fn never_panics_and_round_trips(text in "\\PC{0,30}|[ab=!,\\\\]{0,30}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                let sorted = |s: &FieldSelector| {
                    let mut terms: Vec<String> = s.terms().iter().map(|t| format!("{t:?}")).collect();
                    terms.sort();
                    terms
                };
                let again = FieldSelector::parse(&selector.to_string()).unwrap();
                prop_assert_eq!(sorted(&again), sorted(&selector));
            }
        }
    }
}
