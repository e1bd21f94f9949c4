//! Label and field selectors: parsing, matching and printing, with upstream's grammar and error messages.

pub mod field;
mod lexer;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

pub use self::field::FieldSelector;
use self::lexer::{Item, Token};
use crate::{
    field::{ErrorKind, FieldErrors},
    names,
};

/// Why a selector was refused; the whole of upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

/// How a requirement relates its key to its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `!key`
    DoesNotExist,
    /// `key=value`
    Equals,
    /// `key==value`
    DoubleEquals,
    /// `key in (a,b)`
    In,
    /// `key!=value`
    NotEquals,
    /// `key notin (a,b)`
    NotIn,
    /// `key`
    Exists,
    /// `key>1`
    GreaterThan,
    /// `key<1`
    LessThan,
}

impl Operator {
    fn text(self) -> &'static str {
        match self {
            Self::DoesNotExist => "!",
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::In => " in ",
            Self::NotEquals => "!=",
            Self::NotIn => " notin ",
            Self::Exists => "",
            Self::GreaterThan => ">",
            Self::LessThan => "<",
        }
    }
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it relates to the values.
    pub operator: Operator,
    /// The values, as many as the operator wants.
    pub values: Vec<String>,
}

impl Requirement {
    /// Checks key, number and form of the values; the message is upstream's aggregate.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, ParseError> {
        let mut errors = FieldErrors::default();
        check_key(key, "key", &mut errors);
        let wrong_count = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        if let Some(message) = wrong_count {
            errors.invalid("values", &values, message);
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (i, value) in values.iter().enumerate().filter(|(_, v)| v.parse::<i64>().is_err()) {
                let message = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.invalid(format!("values[{i}]"), value, message);
            }
        }
        for (i, value) in values.iter().enumerate() {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.invalid(format!("values[{i}][{key}]"), value, wrong.join("; "));
            }
        }
        match errors.is_empty() {
            true => Ok(Self { key: key.to_owned(), operator, values }),
            false => Err(ParseError(errors.to_string())),
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|v| self.values.iter().any(|x| x == v));
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => listed(),
            Operator::NotIn | Operator::NotEquals => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let left = value.and_then(|v| v.parse::<i64>().ok());
                let right = self.values.first().and_then(|v| v.parse::<i64>().ok());
                let greater = self.operator == Operator::GreaterThan;
                left.zip(right).is_some_and(|(l, r)| if greater { l > r } else { l < r })
            }
        }
    }
}

fn check_key(key: &str, path: &str, errors: &mut FieldErrors) {
    let wrong = names::qualified_name(key);
    if !wrong.is_empty() {
        errors.push(ErrorKind::Invalid, path, &key, wrong.join("; "));
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = self.operator.text();
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        match self.operator {
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::Exists => f.write_str(&self.key),
            Operator::In | Operator::NotIn => write!(f, "{}{operator}({values})", self.key),
            _ => write!(f, "{}{operator}{values}", self.key),
        }
    }
}

/// Conditions that must all hold, sorted by key; or nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object (an absent LabelSelector).
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// The string form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let items = lexer::scan(text);
        Parser { items, at: 0 }.selector().map(Self::new)
    }

    /// From requirements that hold together.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Every pair must be present (`spec.selector` of Services and ReplicationControllers). No pairs match everything.
    pub fn from_set<'a>(set: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let exact = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self::new(set.into_iter().map(exact).collect())
    }

    /// `metav1.LabelSelectorAsSelector`: absent matches nothing, empty everything.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, ParseError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// Whether it restricts nothing.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it can match nothing.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels, looked up by key, fulfil every condition.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }

    /// Whether `labels` fulfil every condition.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether optional labels (`metadata.labels`) fulfil every condition.
    pub fn matches_opt(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
    }

    /// Whether an object's `metadata.labels` fulfil every condition.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        self.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

/// `metav1.FormatLabelSelector`: the string form, `<none>` for an empty or absent one, `<error>` for a bad one.
pub fn format_label_selector(selector: Option<&LabelSelector>) -> String {
    match Selector::from_label_selector(selector).map(|s| s.to_string()) {
        Ok(text) if text.is_empty() => "<none>".to_owned(),
        Ok(text) => text,
        Err(_) => "<error>".to_owned(),
    }
}

/// `labels.FormatLabels`: a set as `a=b,c=d`, `<none>` when empty.
pub fn format_set(set: Option<&BTreeMap<String, String>>) -> String {
    match set {
        Some(set) if !set.is_empty() => set.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
        _ => "<none>".to_owned(),
    }
}

struct Parser {
    items: Vec<Item>,
    at: usize,
}

/// Where `in` and `notin` are words of the language, and where they are values.
#[derive(Clone, Copy, PartialEq)]
enum In {
    Operator,
    Values,
}

impl Parser {
    fn peek(&self, context: In) -> (Token, &str) {
        // The last item is always the end, and it is never stepped over.
        let item = &self.items[self.at.min(self.items.len() - 1)];
        match item.token {
            Token::In | Token::NotIn if context == In::Values => (Token::Identifier, &item.text),
            token => (token, &item.text),
        }
    }

    fn next(&mut self, context: In) -> (Token, String) {
        let (token, text) = self.peek(context);
        let found = (token, text.to_owned());
        self.at += 1;
        found
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, ParseError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek(In::Values) {
                (Token::Identifier | Token::Not, _) => {
                    let requirement = self.requirement();
                    requirements.push(requirement.map_err(|e| ParseError(format!("unable to parse requirement: {e}")))?);
                    match self.next(In::Values) {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek(In::Values) {
                            (Token::Identifier | Token::Not, _) => {}
                            (_, text) => return expected(text, "identifier after ','"),
                        },
                        (_, text) => return expected(&text, "',' or 'end of string'"),
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => return expected(text, "!, identifier, or 'end of string'"),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let (mut token, mut key) = self.next(In::Values);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next(In::Values);
        }
        if token != Token::Identifier {
            return expected(&key, "identifier");
        }
        let mut errors = FieldErrors::default();
        // Upstream validates against a nil path here, and prints it.
        check_key(&key, "<nil>", &mut errors);
        if !errors.is_empty() {
            return Err(ParseError(errors.to_string()));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(In::Values).0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = match self.next(In::Operator) {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals, _) => Operator::Equals,
            (Token::DoubleEquals, _) => Operator::DoubleEquals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::GreaterThan,
            (Token::Less, _) => Operator::LessThan,
            (_, text) => return expected(&text, "in, notin, =, ==, !=, gt, lt"),
        };
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(&key, operator, values)
    }

    fn values(&mut self) -> Result<Vec<String>, ParseError> {
        let (token, text) = self.next(In::Values);
        if token != Token::Open {
            return Err(ParseError(format!("found '{text}' expected: '('")));
        }
        let (token, text) = self.peek(In::Values);
        let first = text.to_owned();
        match token {
            Token::Identifier | Token::Comma => {
                let values = self.list()?;
                match self.next(In::Values) {
                    (Token::Close, _) => Ok(values),
                    _ => expected(&first, "')'"),
                }
            }
            Token::Close => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            _ => expected(&first, "',', ')' or identifier"),
        }
    }

    fn list(&mut self) -> Result<Vec<String>, ParseError> {
        let mut values = Vec::new();
        loop {
            match self.next(In::Values) {
                (Token::Identifier, text) => {
                    values.push(text);
                    match self.peek(In::Values) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return expected(text, "',' or ')'"),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek(In::Values).0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.at += 1;
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return expected(&text, "',', or identifier"),
            }
        }
    }

    fn exact(&mut self) -> Result<String, ParseError> {
        if matches!(self.peek(In::Values).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next(In::Values) {
            (Token::Identifier, text) => Ok(text),
            (_, text) => expected(&text, "identifier"),
        }
    }
}

fn expected<T>(found: &str, what: &str) -> Result<T, ParseError> {
    Err(ParseError(format!("found '{found}', expected: {what}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(text: &str) -> String {
        Selector::parse(text).unwrap().to_string()
    }

    #[test]
    fn parses_and_prints_like_upstream() {
        for (text, want) in [
            ("", ""),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("z=c,x=a", "x=a,z=c"),
            ("x!=a,y=b", "x!=a,y=b"),
            ("x==a", "x==a"),
            ("x=", "x="),
            ("x= ", "x="),
            ("x=,z= ", "x=,z="),
            ("!x", "!x"),
            ("x>1,z<5", "x>1,z<5"),
            ("x in (b, a)", "x in (a,b)"),
            ("x notin (foo,,baz)", "x notin (,baz,foo)"),
            ("y,x in ()", "x in (),y"),
            ("in in (in,notin)", "in in (in,notin)"),
            ("a.b/c in (x)", "a.b/c in (x)"),
        ] {
            assert_eq!(printed(text), want, "{text}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (text, want) in [
            ("a=b=", "found '=', expected: ',' or 'end of string'"),
            ("x==a==b", "found '==', expected: ',' or 'end of string'"),
            ("!x=a", "found '=', expected: ',' or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("(a)", "found '(', expected: !, identifier, or 'end of string'"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x y", "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            let error = Selector::parse(text).unwrap_err().0;
            assert_eq!(error, want, "{text}");
        }
        assert_eq!(Selector::parse("a=b c").unwrap_err().0, "found 'c', expected: ',' or 'end of string'");
        let error = Selector::parse("-a=b").unwrap_err().0;
        assert!(error.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"));
        let error = Selector::parse("a=-b").unwrap_err().0;
        assert!(error.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must"));
    }

    #[test]
    fn matching() {
        let labels: BTreeMap<String, String> =
            [("a", "1"), ("b", "x")].iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        for (text, want) in [
            ("", true),
            ("a=1", true),
            ("a!=1", false),
            ("c!=1", true),
            ("c notin (z)", true),
            ("a in (1,2),b", true),
            ("!c", true),
            ("!a", false),
            ("a>0,a<2", true),
            ("b>0", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels), want, "{text}");
        }
        assert!(!Selector::from_label_selector(None).unwrap().matches(&labels));
        assert!(Selector::from_label_selector(Some(&LabelSelector::default())).unwrap().matches(&labels));
    }

    proptest! {
        #![proptest_config(crate::testing::cases(3000))]

        #[test]
        fn never_panics(text in "\\PC{0,30}|[a-c=!<>(), \\t]{0,30}|[a-c in notin(),=!]{0,30}") {
            if let Ok(selector) = Selector::parse(&text) {
                let again = Selector::parse(&selector.to_string()).unwrap();
                prop_assert_eq!(again.to_string(), selector.to_string());
            }
        }
    }
}
