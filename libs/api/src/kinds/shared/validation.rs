//! Broken rules, case by case: `testdata/validation/FILE.json` holds an object (`base`), what each case changes of it (a merge
//! patch, on creation or as an update of the stored base at some place) and everything that is then said, errors or
//! warnings. `KNARR_BLESS=1 cargo test` rewrites what is said; read the difference before committing.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::*;
use crate::kind::{Admitted, Context, Hooks, Refused, Requester, Subresource};

#[derive(Deserialize, Serialize)]
struct Suite {
    /// Group, version, kind.
    kind: (String, String, String),
    base: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize, Serialize)]
struct Case {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    update: Option<String>,
    change: Value,
    #[serde(default)]
    said: Vec<String>,
}

fn place(update: &str) -> Option<Subresource> {
    match update {
        "status" => Some(Subresource::Status),
        "approval" => Some(Subresource::Approval),
        "finalize" => Some(Subresource::Finalize),
        "ephemeralcontainers" => Some(Subresource::EphemeralContainers),
        "resize" => Some(Subresource::Resize),
        _ => None,
    }
}

fn said(hooks: &dyn Hooks, base: &Value, case: &Case) -> Vec<String> {
    let ctx = Context { now: "2026-01-02T03:04:05Z".parse().unwrap(), user: "tester", requester: Requester::UNKNOWN };
    let outcome = match &case.update {
        None => {
            let mut object = base.clone();
            json_patch::merge(&mut object, &case.change);
            hooks.create(object, &ctx)
        }
        Some(at) => {
            let mut old = hooks.create(base.clone(), &ctx).unwrap_or_else(|refused| panic!("{refused:?}")).object;
            old["metadata"]["resourceVersion"] = "1".into();
            let mut new = old.clone();
            json_patch::merge(&mut new, &case.change);
            hooks.update(new, &old, place(at), &ctx)
        }
    };
    match outcome {
        Ok(Admitted { warnings, .. }) => warnings.into_iter().map(|text| format!("Warning: {text}")).collect(),
        Err(Refused::Invalid(errors)) => errors.0.iter().map(ToString::to_string).collect(),
        Err(Refused::Malformed(error)) => vec![format!("Malformed: {error}")],
    }
}

#[test]
fn rules_say_what_upstream_says() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/validation");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut suite: Suite = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let (group, version, name) = &suite.kind;
        let kind = all().into_iter().find(|kind| {
            let info = &kind.info;
            (info.group, info.version, info.kind) == (group.as_str(), version.as_str(), name.as_str())
        });
        let kind = kind.unwrap_or_else(|| panic!("{}: no such kind", path.display()));
        for case in &mut suite.cases {
            cases += 1;
            let got = said(&*kind.hooks, &suite.base, case);
            if got != case.said {
                wrong.push(format!("{}: {}\n  got {got:#?}\n  want {:#?}", path.display(), case.change, case.said));
                case.said = got;
            }
        }
        if std::env::var_os("KNARR_BLESS").is_some() {
            fs::write(&path, serde_json::to_string_pretty(&suite).unwrap() + "\n").unwrap();
        }
    }
    assert!(cases > 0 && (wrong.is_empty() || std::env::var_os("KNARR_BLESS").is_some()), "{}", wrong.join("\n"));
}
