//! Go's text/template, as much of it as `-o go-template` can use: actions, pipelines, variables, `if`, `with`, `range`, `define`,
//! `template`, `block`, `break`, `continue`, trim markers, comments, all builtin functions (there is nothing that `call` could call), and
//! kubectl's `exists` and `base64decode`.
//!
//! Whole numbers of objects are `int64`, as kubectl's own decoder makes them: `eq .spec.replicas 2` is a question, with `2.0` it is an error.

mod eval;
mod functions;
mod parse;

use std::collections::BTreeMap;

use serde_json::Value;

/// One piece of a template.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Action(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    /// Its name, what it is given, and where the name stands.
    Template(String, Option<Pipe>, At),
    Break,
    Continue,
}

/// `$a, $b := command | command`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pipe {
    variables: Vec<String>,
    /// `=` instead of `:=`.
    assigns: bool,
    commands: Vec<Vec<Operand>>,
}

/// Where something stands in a template, as messages count: lines from one, bytes of the line from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct At {
    line: usize,
    column: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Dot(At),
    Nil(At),
    /// With what the template has for it.
    Literal(Literal, String, At),
    Function(String, At),
    /// `$x.a.b`; where the first field stands, or the name if there are none.
    Variable(String, Vec<String>, At),
    /// `.a.b`; where the second field stands, or the only one: Go reads the others as a chain.
    Field(Vec<String>, At),
    /// `(pipe).a.b`
    Pipe(Box<Pipe>, Vec<String>),
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
    defined: BTreeMap<String, Vec<Node>>,
    allow_missing: bool,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// Go's complaint.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (nodes, defined) = parse::template(text)?;
        Ok(Self { nodes, defined, allow_missing: true })
    }

    /// Whether a missing key is `<no value>` instead of an error.
    #[must_use]
    pub fn allow_missing_keys(mut self, allow: bool) -> Self {
        self.allow_missing = allow;
        self
    }

    /// The template filled in; what came before an error is in `out` all the same.
    ///
    /// # Errors
    /// Go's complaint.
    pub fn execute(&self, value: &Value, out: &mut String) -> Result<(), String> {
        eval::run(self, value, out)
    }
}

/// A value as Go's `%#v` prints it.
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => api::field::go_quote(text),
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let entries: Vec<String> =
                entries.into_iter().map(|(k, v)| format!("{}:{}", api::field::go_quote(k), go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fill(template: &str) -> Result<String, String> {
        let value = json!({
            "kind": "List", "n": 3, "big": 1_000_000, "b": true, "e": [], "nil": null, "code": "aGk=",
            "items": [{"name": "a", "labels": {"x": "1", "y": "<2>"}}, {"name": "b"}],
        });
        let mut out = String::new();
        Template::parse(text(template))?.execute(&value, &mut out)?;
        Ok(out)
    }

    fn text(template: &str) -> &str {
        template
    }

    #[test]
    fn templates_are_filled_as_go_does() {
        for (template, want) in [
            ("{{.kind}} {{ .n }} {{.big}} {{.b}}", "List 3 1000000 true"),
            ("{{.missing}} {{.missing.deeper}} {{.nil}}", "<no value> <no value> <no value>"),
            ("{{range .items}}{{.name}},{{end}}", "a,b,"),
            ("{{range $i, $v := .items}}{{$i}}={{$v.name}} {{end}}", "0=a 1=b "),
            ("{{range $k, $v := (index .items 0).labels}}{{$k}}:{{$v}} {{end}}", "x:1 y:<2> "),
            ("{{range .e}}x{{else}}none{{end}}", "none"),
            ("{{if .b}}yes{{else}}no{{end}}{{if .e}}yes{{else if .n}}n{{end}}", "yesn"),
            ("{{with .items}}{{len .}}{{end}}{{with .nil}}x{{else}}-{{end}}", "2-"),
            ("a {{- /* note */ -}} b", "ab"),
            ("a {{- 1 -}} b", "a1b"),
            ("{{$x := 1}}{{$x = 2}}{{$x}}{{$.kind}}", "2List"),
            (
                "{{printf \"%s-%5.1f|%-4s|%04d|%q|%v|%t\" .kind 3.0 \"a\" 7 \"q\" .e true}}",
                "List-  3.0|a   |0007|\"q\"|[]|true",
            ),
            ("{{printf \"%d\" .n}}", "3"),
            ("{{print 1 2 \"a\" \"b\" 3}}|{{println .kind}}", "1 2ab3|List\n"),
            ("{{eq .kind \"Pod\" \"List\"}} {{ne 1 2}} {{lt 1 2}} {{ge .n 3}}", "true true true true"),
            ("{{and .b .kind}} {{or .e .n}} {{not .b}}", "List 3 false"),
            ("{{index .items 1 \"name\"}} {{(index .items 0).name}} {{slice .kind 1 3}}", "b a is"),
            ("{{html \"<a>\"}} {{\"a b&c\" | urlquery}} {{js \"it's\"}}", "&lt;a&gt; a+b%26c it\\'s"),
            ("{{base64decode .code}} {{exists . \"kind\"}} {{exists . \"zz\"}} {{.kind | len}}", "hi true false 4"),
            ("{{define \"t\"}}[{{.}}]{{end}}{{template \"t\" .kind}}{{block \"u\" .n}}<{{.}}>{{end}}", "[List]<3>"),
            ("{{range .items}}{{if eq .name \"b\"}}{{break}}{{end}}{{.name}}{{end}}", "a"),
            ("{{range .items}}{{if eq .name \"a\"}}{{continue}}{{end}}{{.name}}{{end}}", "b"),
            ("{{(index .items 0).labels}} {{.e}}", "map[x:1 y:<2>] []"),
            ("{{`raw\\n`}}{{'a'}}{{0x10}}", "raw\\n9716"),
        ] {
            assert_eq!(fill(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (template, want) in [
            ("{{.kind", "template: output:1: unclosed action"),
            ("{{foo .kind}}", "template: output:1: function \"foo\" not defined"),
            ("{{if .b}}", "template: output:1: unexpected EOF"),
            ("{{end}}", "template: output:1: unexpected {{end}}"),
            ("{{$x}}", "template: output:1: undefined variable \"$x\""),
        ] {
            assert_eq!(fill(template), Err(want.to_owned()), "{template}");
        }
        assert!(fill("{{eq .n 3.0}}").unwrap_err().contains("incompatible types for comparison"));
        assert!(fill("{{index .items 5}}").unwrap_err().contains("index out of range: 5"));
    }

    #[test]
    fn missing_keys_may_be_errors() {
        let template = Template::parse("{{.x}}").unwrap().allow_missing_keys(false);
        let error = template.execute(&json!({}), &mut String::new()).unwrap_err();
        assert_eq!(error, "template: output:1:2: executing \"output\" at <.x>: map has no entry for key \"x\"");
    }
}
