//! Making strategic merge patches: the difference of two objects, and kubectl's three-way patch.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::{
    PatchError,
    directives::{
        At, DELETE_LIST, ORDER, Object, PATCH, RETAIN_KEYS, Rule, dedup_scalars, go_text, is_object_list, key_of, reorder,
        same_kind,
    },
    strategic::{Mode, merge_map},
};
use crate::schema::{PatchStrategy, TypeId};

/// Which half of a difference is wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    changes: bool,
    deletions: bool,
    /// Whether merged lists say their order.
    order: bool,
    /// Whether the object at hand lists the keys that stay.
    retain_keys: bool,
}

/// The patch that makes `modified` of `original`.
pub fn two_way(original: &Value, modified: &Value, ty: TypeId) -> Result<Value, PatchError> {
    let wanted = Wanted { changes: true, deletions: true, order: true, retain_keys: false };
    diff_maps(&object(original)?, &object(modified)?, At::In(ty), wanted).map(Value::Object)
}

/// kubectl's patch: what was in `original` (last applied) and is no longer in `modified` is deleted from `current`;
/// what `current` lacks or has otherwise than `modified` is set. Unless `overwrite`, a change that somebody else made
/// to a field that the patch sets is a [`PatchError::Conflict`].
pub fn three_way(
    original: &Value,
    modified: &Value,
    current: &Value,
    ty: TypeId,
    overwrite: bool,
) -> Result<Value, PatchError> {
    let at = At::In(ty);
    let (original, modified, current) = (object(original)?, object(modified)?, object(current)?);
    let changes = Wanted { changes: true, deletions: false, order: true, retain_keys: false };
    let changes = diff_maps(&current, &modified, at, changes)?;
    let deletions = Wanted { changes: false, deletions: true, order: true, retain_keys: false };
    let deletions = diff_maps(&original, &modified, at, deletions)?;
    let patch = merge_map(deletions, changes, at, Mode::Combine)?;
    if !overwrite {
        let all = Wanted { changes: true, deletions: true, order: false, retain_keys: false };
        let changed = diff_maps(&original, &current, at, all)?;
        if maps_conflict(&patch, &changed, at) {
            return Err(PatchError::Conflict {
                patch: Value::Object(patch).to_string(),
                changed: Value::Object(changed).to_string(),
            });
        }
    }
    Ok(Value::Object(patch))
}

/// Null stands for an object that is not there.
fn object(value: &Value) -> Result<Object, PatchError> {
    match value {
        Value::Object(map) => Ok(map.clone()),
        Value::Null => Ok(Object::new()),
        _ => Err(PatchError::Malformed("invalid JSON document".to_owned())),
    }
}

fn diff_maps(original: &Object, modified: &Object, at: At, wanted: Wanted) -> Result<Object, PatchError> {
    let mut patch = Object::new();
    for (key, new) in modified {
        let Some(old) = original.get(key) else {
            if wanted.changes {
                patch.insert(key.clone(), new.clone());
            }
            continue;
        };
        if key == PATCH {
            if old != new {
                patch.insert(key.clone(), new.clone());
            }
            continue;
        }
        let rule = at.field(key);
        let inner = Wanted { retain_keys: rule.retain_keys, ..wanted };
        match (old, new) {
            (Value::Object(old), Value::Object(map)) => {
                if rule.strategy == PatchStrategy::Replace {
                    if wanted.changes && old != map {
                        patch.insert(key.clone(), new.clone());
                    }
                } else {
                    let inside = diff_maps(old, map, rule.inside, inner)?;
                    if !inside.is_empty() {
                        patch.insert(key.clone(), Value::Object(inside));
                    }
                }
            }
            (Value::Array(old), Value::Array(list)) if rule.strategy == PatchStrategy::Merge => {
                diff_lists(&mut patch, key, old, list, rule, inner)?;
            }
            _ if wanted.changes && !(same_kind(old, new) && old == new) => {
                patch.insert(key.clone(), new.clone());
            }
            _ => {}
        }
    }
    if wanted.deletions {
        for key in original.keys().filter(|k| !modified.contains_key(*k)) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    if wanted.retain_keys {
        let mut keys: Vec<&String> = modified.iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k).collect();
        let field_gone = original.iter().any(|(k, v)| !v.is_null() && !modified.contains_key(k));
        if !keys.is_empty() && (!patch.is_empty() || field_gone) {
            keys.sort();
            patch.insert(RETAIN_KEYS.to_owned(), json!(keys));
        }
    }
    Ok(patch)
}

fn diff_lists(
    patch: &mut Object,
    key: &str,
    old: &[Value],
    new: &[Value],
    rule: Rule,
    wanted: Wanted,
) -> Result<(), PatchError> {
    if old.is_empty() {
        if !new.is_empty() && wanted.changes {
            patch.insert(key.to_owned(), Value::Array(new.to_vec()));
        }
        return Ok(());
    }
    let objects = is_object_list(&[old, new])? == Some(true);
    match rule.merge_key {
        Some(merge_key) if objects => {
            let list = reorder(diff_objects(old, new, merge_key, rule.inside, wanted)?, new, Some(merge_key));
            let same_order =
                old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.get(merge_key) == b.get(merge_key));
            let says_order = (wanted.changes && (!list.is_empty() || !same_order)) || (wanted.deletions && !list.is_empty());
            if !list.is_empty() {
                patch.insert(key.to_owned(), Value::Array(list));
            }
            if wanted.order && says_order && !new.is_empty() {
                let order = new.iter().map(|v| json!({ merge_key: v[merge_key].clone() })).collect();
                patch.insert(format!("{ORDER}/{key}"), Value::Array(order));
            }
        }
        _ if objects => {
            if wanted.changes && old != new {
                patch.insert(key.to_owned(), Value::Array(new.to_vec()));
            }
        }
        _ => {
            let (added, gone) = diff_scalars(old, new);
            let gone = if wanted.deletions { gone } else { Vec::new() };
            // Upstream has sorted the old list by then, and compares that: an unsorted list always says its order.
            let mut sorted = old.to_vec();
            sorted.sort_by_key(go_text);
            let says_order = !gone.is_empty() || (wanted.changes && sorted != new);
            if wanted.changes && !added.is_empty() {
                patch.insert(key.to_owned(), Value::Array(reorder(added, new, None)));
            }
            if !gone.is_empty() {
                patch.insert(format!("{DELETE_LIST}/{key}"), Value::Array(gone));
            }
            if wanted.order && says_order && !new.is_empty() {
                patch.insert(format!("{ORDER}/{key}"), Value::Array(new.to_vec()));
            }
        }
    }
    Ok(())
}

/// What was added and what went; both as sets.
fn diff_scalars(old: &[Value], new: &[Value]) -> (Vec<Value>, Vec<Value>) {
    let minus = |a: &[Value], b: &[Value]| {
        let mut out = dedup_scalars(a.iter().filter(|v| !b.contains(v)).cloned().collect());
        out.sort_by_key(go_text);
        out
    };
    (minus(new, old), minus(old, new))
}

fn diff_objects(old: &[Value], new: &[Value], key: &str, at: At, wanted: Wanted) -> Result<Vec<Value>, PatchError> {
    let sorted = |list| by_key(list, key).map(|sorted| sorted.into_iter().peekable());
    let (mut olds, mut news) = (sorted(old)?, sorted(new)?);
    let (mut patch, mut gone) = (Vec::new(), Vec::new());
    // Elements with the same key, which a merge key does not rule out, are paired one by one.
    loop {
        let next = match (olds.peek(), news.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let there = if next.is_le() { olds.next() } else { None };
        let element = if next.is_ge() { news.next() } else { None };
        match (there, element) {
            (Some((_, Value::Object(there))), Some((_, Value::Object(element)))) => {
                let mut inside = diff_maps(there, element, at, wanted)?;
                if !inside.is_empty() {
                    inside.insert(key.to_owned(), element[key].clone());
                    patch.push(Value::Object(inside));
                }
            }
            (None, Some((_, element))) if wanted.changes => patch.push(element.clone()),
            (Some((_, there)), None) if wanted.deletions => gone.push(json!({ key: there[key].clone(), PATCH: "delete" })),
            _ => {}
        }
    }
    patch.extend(gone);
    Ok(patch)
}

/// Elements with their keys as text, by which upstream sorts them.
fn by_key<'a>(list: &'a [Value], key: &str) -> Result<Vec<(String, &'a Value)>, PatchError> {
    let keyed = list.iter().map(|element| Ok((go_text(key_of(element, key)?), element)));
    let mut keyed: Vec<(String, &Value)> = keyed.collect::<Result<_, _>>()?;
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(keyed)
}

fn maps_conflict(left: &Object, right: &Object, at: At) -> bool {
    if left.get(PATCH) != right.get(PATCH) {
        return true;
    }
    let shared = left.iter().filter(|(k, _)| *k != PATCH && *k != RETAIN_KEYS);
    shared.filter_map(|(k, l)| Some((k, l, right.get(k)?))).any(|(k, l, r)| conflict(l, r, at.field(k)))
}

fn conflict(left: &Value, right: &Value, rule: Rule) -> bool {
    match (left, right) {
        (Value::Object(l), Value::Object(r)) => rule.strategy != PatchStrategy::Replace && maps_conflict(l, r, rule.inside),
        (Value::Array(l), Value::Array(r)) => match (rule.strategy, rule.merge_key) {
            (PatchStrategy::Merge, Some(key)) => l.iter().any(|l| {
                let same = r.iter().find(|r| r.get(key).is_some() && r.get(key) == l.get(key));
                match (l, same) {
                    (Value::Object(l), Some(Value::Object(r))) => maps_conflict(l, r, rule.inside),
                    _ => false,
                }
            }),
            (PatchStrategy::Merge, None) => false,
            _ => l != r,
        },
        _ => left != right,
    }
}
