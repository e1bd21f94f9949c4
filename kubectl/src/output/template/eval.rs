//! Nodes against values.

use api::{field::go_quote, jsonpath::go_format};
use serde_json::Value;

use super::{At, Literal, Node, Operand, Pipe, Template, functions};

/// A value. Numbers of objects are `int64` or `float64`, those that are written or counted are `int`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val {
    /// A key that is not there.
    Missing,
    Int(i64),
    Json(Value),
}

impl Val {
    pub fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Json(Value::Null) => false,
            Self::Int(int) => *int != 0,
            Self::Json(Value::Bool(bool)) => *bool,
            Self::Json(Value::Number(number)) => number.as_f64() != Some(0.0),
            Self::Json(Value::String(text)) => !text.is_empty(),
            Self::Json(Value::Array(items)) => !items.is_empty(),
            Self::Json(Value::Object(map)) => !map.is_empty(),
        }
    }

    /// A whole number of either type.
    pub fn whole(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            Self::Json(Value::Number(number)) => number.as_i64(),
            _ => None,
        }
    }

    pub fn go_type(&self) -> &'static str {
        match self {
            Self::Missing | Self::Json(Value::Null) => "<nil>",
            Self::Int(_) => "int",
            Self::Json(Value::Bool(_)) => "bool",
            Self::Json(Value::Number(number)) if number.is_f64() => "float64",
            Self::Json(Value::Number(_)) => "int64",
            Self::Json(Value::String(_)) => "string",
            Self::Json(Value::Array(_)) => "[]interface {}",
            Self::Json(Value::Object(_)) => "map[string]interface {}",
        }
    }

    pub fn basic(&self) -> bool {
        !matches!(self, Self::Missing | Self::Json(Value::Null | Value::Array(_) | Value::Object(_)))
    }

    /// As an action prints it.
    pub fn printed(&self) -> String {
        match self {
            Self::Missing | Self::Json(Value::Null) => "<no value>".to_owned(),
            other => other.printed_nil(),
        }
    }

    /// As `print` prints it.
    pub fn printed_nil(&self) -> String {
        match self {
            Self::Missing | Self::Json(Value::Null) => "<nil>".to_owned(),
            Self::Int(int) => int.to_string(),
            Self::Json(value) => go_format(&floats(value)),
        }
    }
}

/// The value with its floats as text, as Go prints them.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => go_float(number.as_f64().unwrap_or_default()).into(),
        Value::Array(items) => items.iter().map(floats).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), floats(v))).collect(),
        other => other.clone(),
    }
}

/// Go's `%v` of a float.
fn go_float(float: f64) -> String {
    let text = format!("{float:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let power: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&power) {
        return format!("{float}");
    }
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

enum Flow {
    Next,
    Break,
    Continue,
}

struct State<'a> {
    template: &'a Template,
    /// The name of the one that is filled in.
    name: &'a str,
    /// What was looked at last, for messages.
    last: (At, String),
    variables: Vec<(String, Val)>,
    depth: usize,
}

/// How deep templates may call one another.
const MAX_DEPTH: usize = 1000;

pub(super) fn run(template: &Template, value: &Value, out: &mut String) -> Result<(), String> {
    let dot = Val::Json(value.clone());
    let variables = vec![("$".to_owned(), dot.clone())];
    let mut state = State { template, name: "output", last: (At::default(), String::new()), variables, depth: 0 };
    state.list(&template.nodes, &dot, out).map(|_| ())
}

/// An operand as the template has it, for messages.
fn source(operand: &Operand) -> String {
    match operand {
        Operand::Dot(_) => ".".to_owned(),
        Operand::Nil(_) => "nil".to_owned(),
        Operand::Literal(_, source, _) => source.clone(),
        Operand::Function(name, _) => name.clone(),
        Operand::Variable(name, fields, _) => {
            std::iter::once(name.as_str()).chain(fields.iter().map(String::as_str)).collect::<Vec<_>>().join(".")
        }
        Operand::Field(fields, _) => format!(".{}", fields.join(".")),
        Operand::Pipe(pipe, fields) => {
            let fields: String = fields.iter().map(|f| format!(".{f}")).collect();
            format!("({}){fields}", pipe_source(pipe))
        }
    }
}

fn pipe_source(pipe: &Pipe) -> String {
    pipe.commands.iter().map(|command| command_source(command)).collect::<Vec<_>>().join(" | ")
}

fn command_source(command: &[Operand]) -> String {
    command.iter().map(source).collect::<Vec<_>>().join(" ")
}

/// Where a command stands.
fn place(command: &[Operand]) -> At {
    match command.first() {
        Some(
            Operand::Function(_, at)
            | Operand::Variable(_, _, at)
            | Operand::Field(_, at)
            | Operand::Dot(at)
            | Operand::Nil(at)
            | Operand::Literal(_, _, at),
        ) => *at,
        Some(Operand::Pipe(pipe, _)) => pipe.commands.first().map(|command| place(command)).unwrap_or_default(),
        None => At::default(),
    }
}

impl State<'_> {
    fn failed(&self, at: At, what: &str, why: impl std::fmt::Display) -> String {
        let name = go_quote(self.name);
        format!("template: output:{}:{}: executing {name} at <{what}>: {why}", at.line, at.column)
    }

    fn list(&mut self, nodes: &[Node], dot: &Val, out: &mut String) -> Result<Flow, String> {
        for node in nodes {
            match self.node(node, dot, out)? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Val, out: &mut String) -> Result<Flow, String> {
        let scope = self.variables.len();
        let flow = match node {
            Node::Text(text) => {
                out.push_str(text);
                Flow::Next
            }
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    out.push_str(&value.printed());
                }
                return Ok(Flow::Next);
            }
            Node::If(pipe, body, other) => {
                let branch = if self.pipe(pipe, dot)?.truth() { body } else { other };
                self.list(branch, dot, out)?
            }
            Node::With(pipe, body, other) => {
                let value = self.pipe(pipe, dot)?;
                if value.truth() { self.list(body, &value, out)? } else { self.list(other, dot, out)? }
            }
            Node::Range(pipe, body, other) => self.range(pipe, body, other, dot, out)?,
            Node::Template(name, pipe, at) => {
                let Some((name, nodes)) = self.template.defined.get_key_value(name) else {
                    let given = pipe.as_ref().map(|pipe| format!(" {}", pipe_source(pipe))).unwrap_or_default();
                    let name = go_quote(name);
                    let what = format!("{{{{template {name}{given}}}}}");
                    return Err(self.failed(*at, &what, format!("template {name} not defined")));
                };
                if self.depth >= MAX_DEPTH {
                    return Err(format!("template: output: exceeded maximum template depth ({MAX_DEPTH})"));
                }
                let value = match pipe {
                    Some(pipe) => self.pipe(pipe, dot)?,
                    None => Val::Missing,
                };
                let mut inner = State {
                    template: self.template,
                    name,
                    last: self.last.clone(),
                    variables: vec![("$".to_owned(), value.clone())],
                    depth: self.depth + 1,
                };
                inner.list(nodes, &value, out)?;
                Flow::Next
            }
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], other: &[Node], dot: &Val, out: &mut String) -> Result<Flow, String> {
        let value = self.value(pipe, dot)?;
        let pairs: Vec<(Val, Val)> = match value {
            Val::Json(Value::Array(items)) => {
                items.into_iter().enumerate().map(|(i, v)| (Val::Int(i as i64), Val::Json(v))).collect()
            }
            Val::Json(Value::Object(map)) => {
                let mut entries: Vec<_> = map.into_iter().collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                entries.into_iter().map(|(k, v)| (Val::Json(k.into()), Val::Json(v))).collect()
            }
            Val::Missing | Val::Json(Value::Null) => Vec::new(),
            other => {
                return Err(self.failed_last(format!("range can't iterate over {}", other.printed())));
            }
        };
        if pairs.is_empty() {
            return self.list(other, dot, out);
        }
        for (key, item) in pairs {
            let scope = self.variables.len();
            match pipe.variables.as_slice() {
                [one] => self.set(one, item.clone(), pipe.assigns)?,
                [first, second, ..] => {
                    self.set(first, key, pipe.assigns)?;
                    self.set(second, item.clone(), pipe.assigns)?;
                }
                [] => {}
            }
            let flow = self.list(body, &item, out)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// What goes wrong after something was looked at.
    fn failed_last(&self, why: String) -> String {
        let (at, what) = &self.last;
        self.failed(*at, what, why)
    }

    fn set(&mut self, name: &str, value: Val, assigns: bool) -> Result<(), String> {
        match self.variables.iter_mut().rev().find(|(n, _)| assigns && n == name) {
            Some((_, old)) => *old = value,
            None if assigns => return Err(self.failed_last(format!("undefined variable: {name}"))),
            None => self.variables.push((name.to_owned(), value)),
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Val) -> Result<Val, String> {
        let value = self.value(pipe, dot)?;
        if let Some(name) = pipe.variables.first() {
            self.set(name, value.clone(), pipe.assigns)?;
        }
        Ok(value)
    }

    fn value(&mut self, pipe: &Pipe, dot: &Val) -> Result<Val, String> {
        let mut last: Option<Val> = None;
        for command in &pipe.commands {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Val::Missing))
    }

    fn command(&mut self, command: &[Operand], last: Option<Val>, dot: &Val) -> Result<Val, String> {
        let place = place(command);
        let Some(Operand::Function(name, _)) = command.first() else {
            let Some(first) = command.first() else { return Ok(Val::Missing) };
            let what = source(first);
            if command.len() > 1 || last.is_some() {
                if let Operand::Field(fields, _) = first
                    && let Some((name, before)) = fields.split_last()
                    && let Ok(Val::Json(Value::Object(_))) = self.fields(dot.clone(), before)
                {
                    return Err(self.failed(place, &what, format!("{name} is not a method but has arguments")));
                }
                return Err(self.failed(place, &what, format!("can't give argument to non-function {what}")));
            }
            if matches!(first, Operand::Nil(_)) {
                return Err(self.failed(place, "nil", "nil is not a command"));
            }
            return self.operand(first, dot);
        };
        self.last = (place, name.clone());
        if matches!(name.as_str(), "and" | "or") {
            let mut value = None;
            for operand in &command[1..] {
                let found = self.operand(operand, dot)?;
                if found.truth() == (name == "or") {
                    return Ok(found);
                }
                value = Some(found);
            }
            return last
                .or(value)
                .ok_or_else(|| self.failed(place, name, format!("wrong number of args for {name}: want at least 1 got 0")));
        }
        let count = command.len() - 1 + usize::from(last.is_some());
        functions::check_count(name, count).map_err(|why| self.failed(place, name, why))?;
        let mut args = Vec::new();
        for operand in &command[1..] {
            if let Operand::Literal(literal, source, at) = operand
                && args.is_empty()
                && matches!(name.as_str(), "printf" | "base64decode")
                && !matches!(literal, Literal::Text(_))
            {
                return Err(self.failed(*at, source, format!("expected string; found {source}")));
            }
            args.push(self.operand(operand, dot)?);
        }
        args.extend(last);
        if name == "call" {
            // Upstream's own slip.
            let Some(called) = command.get(1) else {
                return Err("caught panic: runtime error: index out of range [0] with length 0".to_owned());
            };
            let why = match &args[0] {
                Val::Missing | Val::Json(Value::Null) => "call of nil".to_owned(),
                value => format!("non-function {} of type {}", source(called), value.go_type()),
            };
            return Err(self.failed(place, &command_source(command), format!("error calling call: {why}")));
        }
        functions::call(name, &args).map_err(|why| self.failed(place, &command_source(command), why))
    }

    fn operand(&mut self, operand: &Operand, dot: &Val) -> Result<Val, String> {
        let at = || source(operand);
        let place = place(std::slice::from_ref(operand));
        if !matches!(operand, Operand::Pipe(..)) {
            self.last = (place, source(operand));
        }
        match operand {
            Operand::Dot(_) => Ok(dot.clone()),
            Operand::Nil(_) => Ok(Val::Missing),
            Operand::Literal(literal, ..) => Ok(match literal {
                Literal::Bool(bool) => Val::Json(Value::Bool(*bool)),
                Literal::Int(int) => Val::Int(*int),
                Literal::Float(float) => Val::Json((*float).into()),
                Literal::Text(text) => Val::Json(text.as_str().into()),
            }),
            Operand::Function(..) => self.command(std::slice::from_ref(operand), None, dot),
            Operand::Field(fields, _) => self.fields(dot.clone(), fields).map_err(|why| self.failed(place, &at(), why)),
            Operand::Variable(name, fields, _) => {
                let value = self.variables.iter().rev().find(|(n, _)| n == name).map_or(Val::Missing, |(_, v)| v.clone());
                self.fields(value, fields).map_err(|why| self.failed(place, &at(), why))
            }
            Operand::Pipe(pipe, fields) => {
                let value = self.value(pipe, dot)?;
                self.fields(value, fields).map_err(|why| self.failed(place, &at(), why))
            }
        }
    }

    fn fields(&self, value: Val, fields: &[String]) -> Result<Val, String> {
        let mut value = value;
        for name in fields {
            value = match value {
                Val::Json(Value::Object(mut map)) => match map.remove(name) {
                    Some(found) => Val::Json(found),
                    None if self.template.allow_missing => Val::Missing,
                    None => return Err(format!("map has no entry for key {}", go_quote(name))),
                },
                Val::Missing if self.template.allow_missing => Val::Missing,
                Val::Missing => return Err(format!("nil data; no entry for key {}", go_quote(name))),
                Val::Json(Value::Null) => return Err(format!("nil pointer evaluating interface {{}}.{name}")),
                Val::Int(_) => return Err(format!("can't evaluate field {name} in type int")),
                Val::Json(_) => return Err(format!("can't evaluate field {name} in type interface {{}}")),
            };
        }
        Ok(value)
    }
}
