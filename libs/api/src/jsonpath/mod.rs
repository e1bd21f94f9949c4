//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, ranges, filters, unions, slices, recursive descent.
//!
//! The dialect, what it prints and its error messages are client-go's, oddities included (kubectl's `-o jsonpath`,
//! `-o custom-columns`, `--sort-by` and `wait --for=jsonpath` all speak it). A template is parsed once into a tree and
//! evaluated against a value without changing either.

mod eval;
mod parse;
mod print;

use std::borrow::Cow;

use serde_json::Value;

pub use self::print::go_format;

/// Why a template does not parse or does not apply; client-go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

fn error<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error(message.into()))
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Field(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    /// Start, end, step.
    Slice([Bound; 3]),
    Wildcard,
    Recursive,
    Union(Vec<Vec<Node>>),
    Filter {
        left: Vec<Node>,
        right: Vec<Node>,
        operator: String,
    },
    /// A word that is neither `range` nor `end`: an error once it is evaluated.
    Unknown(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bound {
    value: i64,
    known: bool,
    /// The end of `[i]`, which is `i + 1`.
    derived: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Block {
    /// Text outside braces.
    Text(String),
    /// `{...}`
    Action(Vec<Node>),
    /// `{range ...}` up to its `{end}`.
    Range(Vec<Node>, Vec<Block>),
    /// An `{end}` without a range.
    StrayEnd,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    blocks: Vec<Block>,
    allow_missing: bool,
}

/// What one piece of a template found.
pub type Found<'a> = Vec<Cow<'a, Value>>;

impl JsonPath {
    /// Parses a template.
    pub fn parse(template: &str) -> Result<Self, Error> {
        Ok(Self { blocks: parse::template(template)?, allow_missing: false })
    }

    /// Parses what custom columns, `--sort-by` and `--for=jsonpath` take: `{.a.b}`, `.a.b` or `a.b`.
    pub fn parse_relaxed(expression: &str) -> Result<Self, Error> {
        Self::parse(&relaxed(expression)?)
    }

    /// Whether a missing key is nothing found instead of an error.
    pub fn allow_missing_keys(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// What each piece of the template finds, in order.
    pub fn find<'a>(&'a self, value: &'a Value) -> Result<Vec<Found<'a>>, Error> {
        eval::Evaluator { allow_missing: self.allow_missing }.blocks(&self.blocks, &Cow::Borrowed(value))
    }

    /// The template filled in: `-o jsonpath`.
    pub fn execute(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        for results in self.find(value)? {
            let texts: Vec<String> = results.iter().map(|r| print::text(r)).collect();
            out.push_str(&texts.join(" "));
        }
        Ok(out)
    }

    /// What each piece found as an indented JSON list: `-o jsonpath-as-json`.
    pub fn execute_as_json(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        for results in self.find(value)? {
            let list = Value::Array(results.into_iter().map(Cow::into_owned).collect());
            out.push_str(&print::indented(&list));
            out.push('\n');
        }
        Ok(out)
    }
}

/// The nodes of a path without braces (`pods.spec`), as explain reads it: names of fields, and `None` for any other.
///
/// # Errors
/// What the parser says, or more than one action.
pub fn nodes(path: &str) -> Result<Vec<Option<String>>, Error> {
    let path = path.strip_suffix('.').unwrap_or(path);
    let blocks = parse::template(&format!("{{.{path}}}"))?;
    let [Block::Action(nodes)] = blocks.as_slice() else { return error("must pass in 1 jsonpath string") };
    let name = |node: &Node| if let Node::Field(name) = node { Some(name.clone()) } else { None };
    Ok(nodes.iter().map(name).collect())
}

/// A relaxed expression as a template. Empty stays empty.
pub fn relaxed(expression: &str) -> Result<String, Error> {
    if expression.is_empty() {
        return Ok(String::new());
    }
    let inner = expression.strip_prefix('{').and_then(|e| e.strip_suffix('}')).unwrap_or(expression);
    let inner = inner.strip_prefix('.').unwrap_or(inner);
    if inner.is_empty() || inner.contains(['{', '}']) {
        return error(
            "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'",
        );
    }
    Ok(format!("{{.{inner}}}"))
}

#[cfg(test)]
mod tests;
