//! Blocks and nodes against values.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

use super::{Block, Bound, Error, Found, Node, error, print::go_format};

pub(super) struct Evaluator {
    pub allow_missing: bool,
}

/// A part of a value: borrowed from what is borrowed, owned from what is owned.
fn parts<'a>(value: Cow<'a, Value>) -> Vec<Cow<'a, Value>> {
    match value {
        Cow::Borrowed(Value::Array(items)) => items.iter().map(Cow::Borrowed).collect(),
        Cow::Borrowed(Value::Object(map)) => map.values().map(Cow::Borrowed).collect(),
        Cow::Owned(Value::Array(items)) => items.into_iter().map(Cow::Owned).collect(),
        Cow::Owned(Value::Object(map)) => map.into_iter().map(|(_, v)| Cow::Owned(v)).collect(),
        other => match other.as_str() {
            // Go ranges over a string's bytes.
            Some(text) => text.bytes().map(|b| Cow::Owned(Value::from(b))).collect(),
            None => Vec::new(),
        },
    }
}

/// The value's Go type, as messages name it.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

impl Evaluator {
    pub fn blocks<'a>(&self, blocks: &'a [Block], current: &Cow<'a, Value>) -> Result<Vec<Found<'a>>, Error> {
        let mut out = Vec::new();
        for block in blocks {
            match block {
                Block::Text(text) => out.push(vec![Cow::Owned(Value::from(text.as_str()))]),
                Block::Action(nodes) => out.push(self.nodes(vec![current.clone()], nodes)?),
                Block::Range(nodes, body) => {
                    for item in self.nodes(vec![current.clone()], nodes)? {
                        out.extend(self.blocks(body, &item)?);
                    }
                }
                Block::StrayEnd => return error("not in range, nothing to end"),
            }
        }
        Ok(out)
    }

    fn nodes<'a>(&self, input: Found<'a>, nodes: &'a [Node]) -> Result<Found<'a>, Error> {
        nodes.iter().try_fold(input, |values, node| self.node(values, node))
    }

    fn node<'a>(&self, input: Found<'a>, node: &'a Node) -> Result<Found<'a>, Error> {
        let constant = |value: Value| Ok(input.iter().map(|_| Cow::Owned(value.clone())).collect());
        match node {
            Node::Text(text) => Ok(vec![Cow::Owned(Value::from(text.as_str()))]),
            Node::Int(int) => constant(Value::from(*int)),
            Node::Float(float) => constant(Value::from(*float)),
            Node::Bool(bool) => constant(Value::from(*bool)),
            Node::Field(name) => self.field(input, name),
            Node::Slice(bounds) => slice(input, bounds),
            Node::Wildcard => Ok(input.into_iter().flat_map(parts).collect()),
            Node::Recursive => {
                let mut out = Vec::new();
                input.into_iter().for_each(|value| descend(value, &mut out));
                Ok(out)
            }
            Node::Union(lists) => {
                let mut out = Vec::new();
                for list in lists {
                    out.extend(self.nodes(input.clone(), list)?);
                }
                Ok(out)
            }
            Node::Filter { left, right, operator } => self.filter(input, left, right, operator),
            Node::Unknown(word) => error(format!("unrecognized identifier {word}")),
        }
    }

    fn field<'a>(&self, input: Found<'a>, name: &str) -> Result<Found<'a>, Error> {
        if input.is_empty() {
            return Ok(input);
        }
        let found: Found<'a> = input
            .into_iter()
            .filter_map(|value| match value {
                Cow::Borrowed(Value::Object(map)) => map.get(name).map(Cow::Borrowed),
                Cow::Owned(Value::Object(mut map)) => map.remove(name).map(Cow::Owned),
                _ => None,
            })
            .collect();
        if found.is_empty() && !self.allow_missing {
            return error(format!("{name} is not found"));
        }
        Ok(found)
    }

    fn filter<'a>(&self, input: Found<'a>, left: &'a [Node], right: &'a [Node], operator: &str) -> Result<Found<'a>, Error> {
        let mut out = Vec::new();
        for value in input {
            if !value.is_array() {
                return error(format!("{} is not array or slice and cannot be filtered", go_format(&value)));
            }
            for item in parts(value) {
                let lefts = self.nodes(vec![item.clone()], left);
                if operator == "exists" {
                    if lefts.is_ok_and(|l| !l.is_empty()) {
                        out.push(item);
                    }
                    continue;
                }
                let (lefts, rights) = (lefts?, self.nodes(vec![item.clone()], right)?);
                if lefts.is_empty() || rights.is_empty() {
                    continue;
                }
                if lefts.len() > 1 || rights.len() > 1 {
                    return error("can only compare one element at a time");
                }
                if compare(&lefts[0], &rights[0], operator)? {
                    out.push(item);
                }
            }
        }
        Ok(out)
    }
}

/// Everything that has parts, itself first.
fn descend<'a>(value: Cow<'a, Value>, out: &mut Found<'a>) {
    let inner = parts(value.clone());
    if !inner.is_empty() {
        out.push(value);
        inner.into_iter().for_each(|part| descend(part, out));
    }
}

fn slice<'a>(input: Found<'a>, bounds: &[Bound; 3]) -> Result<Found<'a>, Error> {
    let mut out = Vec::new();
    for value in input {
        if value.is_null() {
            continue;
        }
        let Some(length) = value.as_array().map(|a| a.len() as i64) else {
            return error(format!("{} is not array or slice", go_type(&value)));
        };
        let [from, to, step] = bounds;
        let mut start = if from.known { from.value } else { 0 };
        if start < 0 {
            start = start.saturating_add(length);
        }
        let mut end = if to.known { to.value } else { length };
        if end < 0 || (end == 0 && to.derived) {
            end = end.saturating_add(length);
        }
        if start == end {
            return Ok(out);
        }
        if start >= length || start < 0 {
            return error(format!("array index out of bounds: index {start}, length {length}"));
        }
        if end > length || end < 0 {
            return error(format!("array index out of bounds: index {}, length {length}", end.saturating_sub(1)));
        }
        if start > end {
            return error(format!("starting index {start} is greater than ending index {end}"));
        }
        if step.known && step.value <= 0 {
            return error("step must be > 0");
        }
        let stride = if step.known { usize::try_from(step.value).unwrap_or(usize::MAX) } else { 1 };
        let (start, count) = (start as usize, (end - start) as usize);
        out.extend(parts(value).into_iter().skip(start).take(count).step_by(stride));
    }
    Ok(out)
}

/// Go's template comparison: only like with like.
fn compare(left: &Value, right: &Value, operator: &str) -> Result<bool, Error> {
    const BAD_TYPE: &str = "invalid type for comparison";
    let order = match (left, right) {
        (Value::Bool(l), Value::Bool(r)) => {
            if !matches!(operator, "==" | "!=") {
                return known(operator).and_then(|()| error(BAD_TYPE));
            }
            if l == r { Some(Ordering::Equal) } else { Some(Ordering::Less) }
        }
        (Value::String(l), Value::String(r)) => Some(l.as_bytes().cmp(r.as_bytes())),
        (Value::Number(l), Value::Number(r)) if l.is_f64() && r.is_f64() => l.as_f64().partial_cmp(&r.as_f64()),
        (Value::Number(l), Value::Number(r)) if !l.is_f64() && !r.is_f64() => Some(l.as_i64().cmp(&r.as_i64())),
        (Value::Null | Value::Array(_) | Value::Object(_), _) | (_, Value::Null | Value::Array(_) | Value::Object(_)) => {
            return known(operator).and_then(|()| error(BAD_TYPE));
        }
        _ => return known(operator).and_then(|()| error("incompatible types for comparison")),
    };
    let is = |wanted: &[Ordering]| order.is_some_and(|o| wanted.contains(&o));
    Ok(match operator {
        "<" => is(&[Ordering::Less]),
        ">" => is(&[Ordering::Greater]),
        "==" => is(&[Ordering::Equal]),
        "!=" => !is(&[Ordering::Equal]),
        "<=" => is(&[Ordering::Less, Ordering::Equal]),
        ">=" => is(&[Ordering::Greater, Ordering::Equal]),
        _ => return known(operator).map(|()| false),
    })
}

fn known(operator: &str) -> Result<(), Error> {
    match operator {
        "<" | ">" | "==" | "!=" | "<=" | ">=" => Ok(()),
        other => error(format!("unrecognized filter operator {other}")),
    }
}
