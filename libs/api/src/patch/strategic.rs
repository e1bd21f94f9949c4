//! Applying a strategic merge patch, and merging two patches into one (for three-way patches).

use serde_json::Value;

use super::{
    PatchError,
    directives::{
        At, DELETE_LIST, ORDER, Object, PATCH, RETAIN_KEYS, Rule, as_object, bad_kind, dedup_scalars, go_as_text,
        go_map_text, go_text, is_object_list, key_of, position, reorder, same_kind,
    },
};
use crate::schema::{PatchStrategy, TypeId};

/// What is being done: a patch applied to an object, or a patch merged into a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Directives are carried out, nulls without a counterpart dropped.
    Apply,
    /// Directives and nulls are kept for whoever applies the result.
    Combine,
}

/// The object with the patch applied.
pub fn apply(object: Object, patch: Object, ty: TypeId) -> Result<Object, PatchError> {
    merge_map(object, patch, At::In(ty), Mode::Apply)
}

fn malformed(what: &str) -> PatchError {
    PatchError::Malformed(format!("invalid patch format of {what}"))
}

pub(super) fn merge_map(mut original: Object, mut patch: Object, at: At, mode: Mode) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch, mode)?;
    merge_ordered_lists(&mut original, &mut patch, at, mode)?;
    for (key, value) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_LIST) {
            Some(_) if mode == Mode::Combine => {
                original.insert(key, value);
                continue;
            }
            Some(rest) => (rest.strip_prefix('/').ok_or_else(|| malformed("primitive list"))?.to_owned(), true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            if mode == Mode::Apply {
                continue;
            }
        }
        match original.get_mut(&key) {
            Some(old) if same_kind(old, &value) => {
                if matches!((at, &value), (At::Raw, Value::Object(_) | Value::Array(_))) {
                    at.has_field(&key)?;
                }
                let rule = at.field(&key);
                let merged = match (old.take(), value) {
                    (Value::Object(old), Value::Object(new)) if rule.strategy != PatchStrategy::Replace => {
                        Some(Value::Object(merge_map(old, new, rule.inside, mode)?))
                    }
                    (Value::Array(old), Value::Array(new)) if deletes || rule.strategy == PatchStrategy::Merge => {
                        Some(Value::Array(merge_list(old, new, rule, mode, deletes)?))
                    }
                    (Value::Object(_), new) | (Value::Array(_), new) => Some(new),
                    (_, new) => without_directives(new),
                };
                match merged {
                    Some(merged) => *old = merged,
                    None => drop(original.remove(&key)),
                }
            }
            _ if deletes => {}
            _ => {
                let mut value = value;
                if mode == Mode::Apply {
                    drop_nulls(&mut value);
                }
                match without_directives(value) {
                    Some(value) => drop(original.insert(key, value)),
                    None => drop(original.remove(&key)),
                }
            }
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, patch: &Object) -> PatchError {
    PatchError::Internal(format!("unknown patch type: {} in map: {}", go_as_text(directive), go_map_text(patch)))
}

fn retain_keys(original: &mut Object, patch: &mut Object, mode: Mode) -> Result<(), PatchError> {
    let Some(wanted) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    if mode == Mode::Combine {
        return match original.get(RETAIN_KEYS) {
            Some(there) if *there != wanted => Err(PatchError::Internal(format!(
                "{} and {} are not deep equal: this may happen when calculating the 3-way diff patch",
                go_text(there),
                go_text(&wanted)
            ))),
            Some(_) => Ok(()),
            None => {
                original.insert(RETAIN_KEYS.to_owned(), wanted);
                Ok(())
            }
        };
    }
    let Value::Array(wanted) = wanted else { return Err(malformed("retainKeys")) };
    let keeps = |key: &str| wanted.iter().any(|w| w == key);
    let special = |key: &str| key.starts_with(DELETE_LIST) || key.starts_with(ORDER);
    if patch.iter().any(|(k, v)| !v.is_null() && !special(k) && !keeps(k)) {
        return Err(malformed("retainKeys"));
    }
    original.retain(|key, _| keeps(key));
    Ok(())
}

/// Carries out every `$setElementOrder/LIST` of the patch together with the patch's LIST.
fn merge_ordered_lists(original: &mut Object, patch: &mut Object, at: At, mode: Mode) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        if mode == Mode::Combine {
            match original.get(&directive) {
                Some(there) if *there != order => return Err(malformed("setElementOrder list")),
                Some(_) => {}
                None => drop(original.insert(directive.clone(), order.clone())),
            }
        }
        let Value::Array(order) = order else { return Err(bad_kind("[]interface {}", &order)) };
        let key = directive[ORDER.len()..].strip_prefix('/').ok_or_else(|| malformed("setElementOrder list"))?;
        at.has_field(key)?;
        let rule = at.field(key);
        let old = take_list(original, key)?;
        let new = take_list(patch, key)?;
        check_order(new.as_deref().unwrap_or_default(), &order, rule.merge_key)?;
        let (server, merged) = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => (old.clone(), old),
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(new)) => (Vec::new(), new),
                _ => continue,
            },
            (Some(old), Some(new)) if rule.strategy == PatchStrategy::Merge => {
                let merged = merge_list(old.clone(), new, rule, mode, false)?;
                (server_order(old, &merged, rule.merge_key), merged)
            }
            (Some(old), Some(new)) => (old, new),
        };
        original.insert(key.to_owned(), Value::Array(arrange(merged, &order, &server, rule.merge_key)?));
    }
    Ok(())
}

/// The order the server's elements stand in. Where elements were deleted, upstream lets added ones take their places (it
/// edits the list in place), and so added elements get a place among the server's.
fn server_order(old: Vec<Value>, merged: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let length = old.len();
    let added = merged.iter().filter(|v| position(&old, v, merge_key).is_none()).cloned().collect::<Vec<_>>();
    let kept = old.into_iter().filter(|v| position(merged, v, merge_key).is_some());
    kept.chain(added).take(length).collect()
}

fn take_list(map: &mut Object, key: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(bad_kind("[]interface {}", &other)),
    }
}

/// The patch's elements must stand in the order that the directive gives.
fn check_order(list: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    if list.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut ordered = order.iter();
    for value in list.iter().filter(|v| v.get(PATCH).is_none()) {
        if let Some(key) = merge_key {
            key_of(value, key)?;
        }
        let mut found = false;
        for other in ordered.by_ref() {
            if let Some(key) = merge_key {
                key_of(other, key)?;
            }
            found = position(std::slice::from_ref(other), value, merge_key).is_some();
            if found {
                break;
            }
        }
        if !found {
            let text = |l: &[Value]| format!("[{}]", l.iter().map(go_text).collect::<Vec<_>>().join(" "));
            return Err(PatchError::Internal(format!(
                "The order in patch list:\n{}\n doesn't match {ORDER} list:\n{}\n",
                text(list),
                text(order)
            )));
        }
    }
    Ok(())
}

/// Elements the patch names in the patch's order, the server's own in between as they stood.
fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = merge_key {
        for value in merged.iter().chain(order) {
            as_object(value, key)?;
        }
    }
    let (ours, theirs): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(|v| position(order, v, merge_key).is_some());
    let ours = reorder(ours, order, merge_key);
    let theirs = reorder(theirs, server, merge_key);
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut left, mut right) = (theirs.into_iter().peekable(), ours.into_iter().peekable());
    loop {
        let left_first = match (left.peek(), right.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => match (position(server, l, merge_key), position(server, r, merge_key)) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            },
        };
        out.extend(if left_first { left.next() } else { right.next() });
    }
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, rule: Rule, mode: Mode, deletes: bool) -> Result<Vec<Value>, PatchError> {
    let Some(objects) = is_object_list(&[&old, &new])? else { return Ok(old) };
    if !objects {
        if deletes && mode == Mode::Apply {
            return Ok(old.into_iter().filter(|v| !new.contains(v)).collect());
        }
        let merged = dedup_scalars(old.iter().chain(&new).cloned().collect());
        return arrange(merged, &new, &old, None);
    }
    let Some(key) = rule.merge_key else {
        return Err(PatchError::Internal("cannot merge lists without merge key for struct".to_owned()));
    };
    let server = old.clone();
    let (mut merged, new) = carry_out_directives(old, new, key)?;
    for element in &new {
        key_of(element, key)?;
        match position(&merged, element, Some(key)) {
            Some(at) => {
                let (Value::Object(there), Value::Object(change)) = (merged[at].take(), element.clone()) else {
                    return Err(bad_kind("map[string]interface {}", element));
                };
                merged[at] = Value::Object(merge_map(there, change, rule.inside, mode)?);
            }
            // With its nulls and directives, which are data then.
            None => merged.push(element.clone()),
        }
    }
    arrange(merged, &new, &server, Some(key))
}

/// Deletes what the patch deletes, or everything if it replaces; the rest of the patch is returned.
fn carry_out_directives(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::new();
    let mut replace = false;
    for element in new {
        let Some(directive) = element.get(PATCH) else {
            rest.push(element);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let gone = key_of(&element, key)?;
                old.retain(|v| v.get(key) != Some(gone));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError::Internal("merging lists cannot yet be specified in the patch".to_owned()));
            }
            _ => {
                let empty = Object::new();
                return Err(unknown_directive(directive, element.as_object().unwrap_or(&empty)));
            }
        }
    }
    if replace { Ok((rest, Vec::new())) } else { Ok((old, rest)) }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// A new value without the objects that are only directives.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            Some(Value::Object(map.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}
