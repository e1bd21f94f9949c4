//! Every kind has a golden object: `testdata/kinds/FILE.json` holds what a client sends (`input`, and `now`) and what becomes
//! of it (`stored`, `fields`, `cells`). `KNARR_BLESS=1 cargo test` rewrites the latter; read the difference before committing.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::kind::{Context, Refused, Requester};

fn golden_path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/kinds").join(format!("{file}.json"))
}

fn context() -> Context<'static> {
    Context { now: "2026-01-02T03:04:05Z".parse().unwrap(), user: "tester", requester: Requester::UNKNOWN }
}

#[test]
fn every_kind_has_a_golden_object() {
    let mut wrong = Vec::new();
    for (file, kind) in FILES.iter().zip(all()) {
        let path = golden_path(file);
        let Ok(text) = fs::read_to_string(&path) else {
            wrong.push(format!("{file}: {} is missing", path.display()));
            continue;
        };
        let golden: Value = serde_json::from_str(&text).unwrap();
        let input = golden["input"].clone();
        let stored = match kind.hooks.create(input.clone(), &context()) {
            Ok(admitted) => admitted.object,
            Err(refused) => panic!("{file}: {refused:?}"),
        };
        // What only a status update brings is shown in the table too.
        let mut shown = stored.clone();
        if let Some(status) = golden.get("status") {
            shown["status"] = status.clone();
        }
        let bytes = serde_json::to_vec(&shown).unwrap();
        let own_bytes = serde_json::to_vec(&kind.hooks.to_stored(shown.clone())).unwrap();
        let fields = kind.hooks.fields(&shown);
        let cells = kind.hooks.cells(&shown, context().now);
        assert_eq!(kind.hooks.fields_from_bytes(&own_bytes), fields, "{file}: fields of bytes");
        assert_eq!(kind.hooks.cells_from_bytes(&own_bytes, context().now), cells, "{file}: cells of bytes");
        assert_eq!(fields.iter().map(|(name, _)| *name).collect::<Vec<_>>(), kind.info.fields, "{file}: names of fields");
        assert_eq!(kind.hooks.fields_from_bytes(b"{}").len(), fields.len(), "{file}: fields of an empty object");
        assert_eq!(cells.len(), kind.info.columns.len(), "{file}: a cell for each column");
        assert_eq!(kind.hooks.default(stored.clone()).unwrap(), stored, "{file}: defaulting is idempotent");
        assert_eq!(kind.hooks.from_stored(serde_json::from_slice(&own_bytes).unwrap()), shown, "{file}: storage form");
        assert!(!bytes.is_empty());
        let fields: serde_json::Map<_, _> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let table: serde_json::Map<_, _> = kind.info.columns.iter().map(|c| c.name.to_owned()).zip(cells).collect();
        let mut got = json!({"input": input, "stored": stored, "fields": fields, "cells": table});
        if let Some(status) = golden.get("status") {
            got["status"] = status.clone();
        }
        if got != golden {
            if std::env::var_os("KNARR_BLESS").is_some() {
                fs::write(&path, serde_json::to_string_pretty(&got).unwrap() + "\n").unwrap();
            } else {
                wrong.push(format!("{file}: {got:#}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A fully populated object survives decoding and encoding with nothing lost (inputs of golden objects are such objects).
#[test]
fn decoding_keeps_everything() {
    for file in FILES {
        let golden: Value = serde_json::from_str(&fs::read_to_string(golden_path(file)).unwrap()).unwrap();
        let mut lost = Vec::new();
        missing(&golden["input"], &golden["stored"], String::new(), &mut lost);
        // Status is the server's, `stringData` becomes `data`.
        lost.retain(|path| !path.starts_with(".status") && !path.starts_with(".stringData"));
        assert_eq!(lost, Vec::<String>::new(), "{file}");
    }
}

fn missing(want: &Value, have: &Value, path: String, out: &mut Vec<String>) {
    match (want, have) {
        (Value::Object(want), Value::Object(have)) => {
            for (key, value) in want {
                let path = format!("{path}.{key}");
                match have.get(key) {
                    Some(other) => missing(value, other, path, out),
                    None => out.push(path),
                }
            }
        }
        (Value::Array(want), Value::Array(have)) if want.len() <= have.len() => {
            for (index, (want, have)) in want.iter().zip(have).enumerate() {
                missing(want, have, format!("{path}[{index}]"), out);
            }
        }
        (want, have) if want == have => {}
        _ => out.push(path),
    }
}

#[test]
fn kinds_are_told_apart() {
    for info in INFOS {
        assert_eq!(by_kind(info.group, info.version, info.kind), Some(info));
        assert_eq!(by_resource(info.group, info.version, info.plural), Some(info));
        let subresources: Vec<_> = info.subresources.iter().map(|sub| crate::discovery::subresource_name(*sub)).collect();
        assert!(subresources.is_sorted(), "{}: {subresources:?}", info.kind);
        if let Some((group, version, kind)) = info.stored_as {
            assert_eq!(by_kind(group, version, kind).map(KindInfo::prefix), Some(info.prefix()));
        }
    }
}

#[test]
fn wrong_types_are_malformed() {
    for (file, kind) in FILES.iter().zip(all()) {
        let refused = kind.hooks.create(json!({"metadata": {"name": 1}}), &context());
        assert!(matches!(refused, Err(Refused::Malformed(_))), "{file}");
    }
}
