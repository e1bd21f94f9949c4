//! Replacements: a field's value, or a part of it, put into other fields.

use serde_json::{Map, Value};

use super::{
    fields::split,
    file::{FieldOptions, Replacement, ReplacementSource, ReplacementTarget, Selector},
    resource::{Gvk, Id, Resource, is_empty, scalar},
    set::{Resources, fits, selector_of},
    transform::wrong_kind,
};

/// What a plain scalar of YAML is: a number, a boolean, nothing, or text.
pub fn typed(text: &str) -> Value {
    let plain =
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_' | '~'));
    let read = plain.then(|| api::schema::yaml::documents_1_2(&format!("v: {text}")).ok()).flatten();
    let value = read.and_then(|documents| documents.into_iter().next()).map(|mut document| document["v"].take());
    value.filter(|value| !value.is_object() && !value.is_array()).unwrap_or_else(|| text.into())
}

/// A path's parts. What stands in brackets with a `=` chooses from a list; in others, dots divide nothing.
fn parts(path: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut pending: Option<String> = None;
    for part in split(path, '.') {
        let whole = match pending.take() {
            Some(begun) => format!("{begun}.{part}"),
            None => part,
        };
        if whole.starts_with('[') && !whole.ends_with(']') {
            pending = Some(whole);
        } else if whole.starts_with('[') && whole.contains('.') && !whole.contains('=') {
            out.push(whole.trim_matches(['[', ']']).to_owned());
        } else {
            out.push(whole);
        }
    }
    out.extend(pending);
    out.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// `[NAME=VALUE]`
fn choice(part: &str) -> Option<Result<(&str, &str), String>> {
    let inner = part.strip_prefix('[')?.strip_suffix(']')?;
    let wrong = "list path element must contain fieldName=fieldValue for element to match";
    Some(inner.split_once('=').ok_or_else(|| wrong.to_owned()))
}

/// A field's value; nothing if it is not there.
///
/// # Errors
/// The path does not fit what is there.
pub fn lookup<'a>(value: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let mut at = value;
    for part in parts(path) {
        let list = |value: &'a Value| value.as_array().ok_or_else(|| wrong_kind("SequenceNode", value));
        let next = match (choice(&part), part.parse::<usize>()) {
            _ if at.is_null() => None,
            (Some(choice), _) => {
                let (name, wanted) = choice?;
                let fits = |item: &&Value| scalar(if name.is_empty() { item } else { &item[name] }) == wanted;
                list(at)?.iter().find(fits)
            }
            (None, Ok(index)) if at.is_array() => list(at)?.get(index),
            (None, _) if part == "-" => list(at)?.last(),
            (None, _) if part == "*" => return Err("wildcard is not supported in PathGetter".to_owned()),
            (None, _) => match at {
                Value::Object(map) => map.get(&part),
                other => return Err(wrong_kind("MappingNode", other)),
            },
        };
        match next {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

fn id_of(selector: &Selector) -> Id {
    let Selector { group, version, kind, name, namespace, .. } = selector.clone();
    Id { gvk: Gvk { group, version, kind }, name, namespace }
}

fn default_path(path: &str) -> &str {
    if path.is_empty() { "metadata.name" } else { path }
}

/// The value to be put elsewhere.
fn value_of(set: &Resources, source: &ReplacementSource) -> Result<Value, String> {
    let wanted = id_of(&source.selector);
    let told = || {
        let options = source.options.as_ref().filter(|options| !options.delimiter.is_empty() || options.create);
        let options = options.map(|o| format!(":{}({}), create={}", o.delimiter, o.index, o.create)).unwrap_or_default();
        let path = if source.field_path.is_empty() { String::new() } else { format!(":{}", source.field_path) };
        format!("{wanted}{path}{options}")
    };
    let mut found = set.0.iter().filter(|resource| resource.ids().iter().any(|id| id.is_selected(&wanted)));
    let resource = match (found.next(), found.next()) {
        (Some(resource), None) => resource,
        (None, _) => return Err(format!("nothing selected by {}", told())),
        (Some(_), Some(_)) => return Err(format!("multiple matches for selector {}", told())),
    };
    let path = default_path(&source.field_path);
    let value = lookup(&resource.value, path).map_err(|why| format!("error looking up replacement source: {why}"))?;
    let value = value
        .filter(|value| !is_empty(value))
        .ok_or_else(|| format!("fieldPath `{path}` is missing for replacement source {wanted}"))?;
    let Some(options) = source.options.as_ref().filter(|options| !options.delimiter.is_empty()) else {
        return Ok(value.clone());
    };
    if value.is_object() || value.is_array() {
        return Err("delimiter option can only be used with scalar nodes".to_owned());
    }
    let text = scalar(value);
    let part = usize::try_from(options.index).ok().and_then(|at| text.split(&options.delimiter).nth(at));
    let part = part.ok_or_else(|| format!("options.index {} is out of bounds for value {text}", options.index))?;
    Ok(if value.is_string() { part.into() } else { typed(part) })
}

/// Puts a value into a field, which stays what it is: text is text, and numbers are numbers.
fn put(field: &mut Value, made: bool, value: &Value, options: Option<&FieldOptions>) -> Result<(), String> {
    let plain = !field.is_object() && !field.is_array();
    let mut text = scalar(value);
    let delimiter = options.filter(|options| !options.delimiter.is_empty());
    if let Some(FieldOptions { delimiter, index, .. }) = delimiter {
        if !plain {
            return Err("delimiter option can only be used with scalar nodes".to_owned());
        }
        let old = scalar(field);
        let mut parts: Vec<&str> = old.split(delimiter).collect();
        match usize::try_from(*index) {
            Err(_) => parts.insert(0, &text),
            Ok(at) if at >= parts.len() => parts.push(&text),
            Ok(at) => parts[at] = &text,
        }
        text = parts.join(delimiter);
    } else if !plain {
        *field = value.clone();
        return Ok(());
    }
    *field = if field.is_string() && !made { text.into() } else { typed(&text) };
    Ok(())
}

/// What is made of a field that is not there: nothing, or what the value is.
type Made = Option<Value>;

/// What a part of a path leads to if it has to be made.
fn made_for(next: Option<&String>, made: &Value) -> Value {
    match next {
        None => made.clone(),
        Some(next) if choice(next).is_some() || next.parse::<usize>().is_ok() => Value::Array(Vec::new()),
        Some(_) => Value::Object(Map::new()),
    }
}

/// Does something to all fields of a path, and says how many there were. The second argument tells of those just made.
fn visit(
    value: &mut Value,
    path: &[String],
    made: &Made,
    new: bool,
    set: &mut dyn FnMut(&mut Value, bool) -> Result<(), String>,
) -> Result<usize, String> {
    let Some((part, rest)) = path.split_first() else {
        set(value, new)?;
        return Ok(1);
    };
    if let Some(choice) = choice(part).filter(|_| part.parse::<usize>().is_err()) {
        return visit_chosen(value, choice?, rest, made, set);
    }
    if let Ok(index) = part.parse::<usize>() {
        let Value::Array(items) = value else { return Err(wrong_kind("SequenceNode", value)) };
        let is_new = items.len() == index && made.is_some();
        items.extend(made.as_ref().filter(|_| is_new).map(|made| made_for(rest.first(), made)));
        let count = items.len();
        let item = items.get_mut(index);
        let item = item.ok_or_else(|| format!("index {index} specified but only {count} elements found"))?;
        return visit(item, rest, made, is_new, set);
    }
    if part == "*" {
        let Value::Array(items) = value else { return Err(wrong_kind("SequenceNode", value)) };
        return items.iter_mut().try_fold(0, |count, item| Ok(count + visit(item, rest, made, false, set)?));
    }
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok(0),
        other => return Err(wrong_kind("MappingNode", other)),
    };
    let is_new = !map.contains_key(part);
    match (made, is_new) {
        (Some(made), true) => drop(map.insert(part.clone(), made_for(rest.first(), made))),
        (None, true) => return Ok(0),
        (_, false) => {}
    }
    visit(&mut map[part], rest, made, is_new, set)
}

fn visit_chosen(
    value: &mut Value,
    (name, pattern): (&str, &str),
    rest: &[String],
    made: &Made,
    set: &mut dyn FnMut(&mut Value, bool) -> Result<(), String>,
) -> Result<usize, String> {
    let Value::Array(items) = value else { return Err(wrong_kind("SequenceNode", value)) };
    let wanted = regex::Regex::new(pattern).map_err(|_| format!("error parsing regexp: `{pattern}`"))?;
    let fits = |item: &Value| match name {
        "" => wanted.is_match(&scalar(item)),
        name => item.get(name).is_some_and(|value| wanted.is_match(&scalar(value))),
    };
    if made.is_some() && !items.iter().any(fits) {
        let item = match name {
            "" => typed(pattern),
            name => Value::Object([(name.to_owned(), typed(pattern))].into_iter().collect()),
        };
        items.push(item);
    }
    let chosen = items.iter_mut().filter(|item| fits(item));
    // Among scalars the item itself is meant, whatever follows.
    let rest = if name.is_empty() { &[] } else { rest };
    chosen.into_iter().try_fold(0, |count, item| Ok(count + visit(item, rest, made, false, set)?))
}

fn is_meant(resource: &Resource, target: &ReplacementTarget, select: &Selector) -> Result<bool, String> {
    let by_marks = |selector: &Selector| -> Result<bool, String> {
        let labels = selector_of(&selector.label_selector)?;
        let annotations = selector_of(&selector.annotation_selector)?;
        Ok(fits(labels.as_ref(), resource, "labels") && fits(annotations.as_ref(), resource, "annotations"))
    };
    if !by_marks(select)? {
        return Ok(false);
    }
    for reject in &target.reject {
        let marked = !reject.label_selector.is_empty() || !reject.annotation_selector.is_empty();
        if marked && by_marks(reject)? {
            return Ok(false);
        }
    }
    let ids = resource.ids();
    let any = |selector: &Id| ids.iter().any(|id| id.is_selected(selector));
    let rejected = target.reject.iter().map(id_of).any(|reject| !reject.is_empty() && any(&reject));
    Ok(any(&id_of(select)) && !rejected)
}

/// Carries out replacements.
///
/// # Errors
/// There is no such value, or nowhere to put it.
pub fn apply(set: &mut Resources, replacements: &[Replacement]) -> Result<(), String> {
    for replacement in replacements {
        let (Some(source), Some(targets)) = (&replacement.source, &replacement.targets) else {
            return Err("replacements must specify a source and at least one target".to_owned());
        };
        let value = value_of(set, source)?;
        for target in targets {
            let select = target.select.as_ref().ok_or("target must specify resources to select")?;
            for resource in &mut set.0 {
                if is_meant(resource, target, select)? {
                    put_into(resource, target, &value)?;
                }
            }
        }
    }
    Ok(())
}

fn put_into(resource: &mut Resource, target: &ReplacementTarget, value: &Value) -> Result<(), String> {
    let options = target.options.as_ref();
    let create = options.is_some_and(|options| options.create);
    let made = create.then(|| match value {
        Value::Array(_) => Value::Array(Vec::new()),
        Value::Object(_) => Value::Object(Map::new()),
        _ => Value::String(String::new()),
    });
    let names = ["metadata.name".to_owned()];
    let paths = if target.field_paths.is_empty() { names.as_slice() } else { &target.field_paths };
    for path in paths {
        let wrong = || {
            let what = if create { "find or create" } else { "find" };
            format!("unable to {what} field {} in replacement target", api::field::go_quote(path))
        };
        let mut refused = None;
        let mut set =
            |field: &mut Value, new: bool| put(field, new, value, options).inspect_err(|why| refused = Some(why.clone()));
        let visited = visit(&mut resource.value, &parts(path), &made, false, &mut set);
        match (visited, refused) {
            (_, Some(why)) => return Err(why),
            (Err(why), None) => return Err(format!("{}: {why}", wrong())),
            (Ok(0), None) => return Err(wrong()),
            (Ok(_), None) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_have_parts() {
        assert_eq!(parts("a.b.[name=x.y].c"), ["a", "b", "[name=x.y]", "c"]);
        assert_eq!(parts(r"metadata.annotations.a\.b/c"), ["metadata", "annotations", "a.b/c"]);
        assert_eq!(parts("metadata.annotations.[a.b/c]"), ["metadata", "annotations", "a.b/c"]);
    }

    #[test]
    fn fields_keep_their_types() {
        let put = |mut field: Value, value: &Value| {
            put(&mut field, false, value, None).unwrap();
            field
        };
        assert_eq!(put(json!(1), &json!("2")), json!(2));
        assert_eq!(put(json!("1"), &json!(2)), json!("2"));
        assert_eq!(put(json!({"a": 1}), &json!("x")), json!("x"));
        assert_eq!(typed("true"), json!(true));
        assert_eq!(typed("yes"), json!("yes"));
        assert_eq!(typed("a: b"), json!("a: b"));
    }
}
