//! Defaulting an object twice is defaulting it once, whatever part of a golden object is missing; and no object, however odd
//! its values, makes a kind panic.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::kind::{Context, Requester, Subresource};

/// The golden object of each kind.
static INPUTS: std::sync::LazyLock<Vec<Value>> = std::sync::LazyLock::new(|| {
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/kinds");
    let read = |file: &&str| {
        let text = std::fs::read_to_string(folder.join(format!("{file}.json"))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["input"].clone()
    };
    FILES.iter().map(read).collect()
});

/// Takes members out of the object: `choices` says which of those met on the way.
fn thin_out(value: &mut Value, choices: &mut impl Iterator<Item = bool>) {
    match value {
        Value::Object(fields) => fields.retain(|_, field| {
            let keep = choices.next().unwrap_or(true);
            if keep {
                thin_out(field, choices);
            }
            keep
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| thin_out(item, choices)),
        _ => {}
    }
}

/// Scalars at the edges of what types hold and rules expect.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![i64::MIN, -1, 0, 1, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX])
            .prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "..",
            "%",
            "1e999999999",
            "-9223372036854775808",
            "9999999999999999999Ei",
            "0",
            "a/b/c",
            "['']",
            "\u{0}é",
            "9999-12-31T23:59:59Z",
            "::",
            "300.1.1.1/99",
            "hugepages-0",
            "None",
            "Always",
            "100%%",
        ])
        .prop_map(Value::from),
    ]
}

/// Puts odd values in place of scalars: `places` says which of those met on the way.
fn deface(value: &mut Value, places: &mut impl Iterator<Item = Option<Value>>) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| deface(field, places)),
        Value::Array(items) => items.iter_mut().for_each(|item| deface(item, places)),
        scalar => {
            if let Some(Some(odd)) = places.next() {
                *scalar = odd;
            }
        }
    }
}

/// A selector that was left out is written as an empty one, which is read as one that was given.
fn one_spelling(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(Value::Object(selector)) = object.pointer_mut("/spec/selector") {
        selector.retain(|_, part| part.as_object().is_none_or(|labels| !labels.is_empty()));
    }
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn odd_values_are_refused_or_kept(
        which in 0..FILES.len(),
        choices in proptest::collection::vec(prop::bool::weighted(0.95), 0..200),
        places in proptest::collection::vec(proptest::option::weighted(0.05, odd()), 0..300),
    ) {
        let ctx = Context { now: jiff::Timestamp::UNIX_EPOCH, user: "tester", requester: Requester::UNKNOWN };
        let whole = INPUTS[which].clone();
        let mut object = whole.clone();
        thin_out(&mut object, &mut choices.into_iter());
        deface(&mut object, &mut places.into_iter());
        let hooks = &all()[which].hooks;
        let old = hooks.create(whole, &ctx).map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?.object;
        // Whatever comes of it, it comes back.
        let _ = hooks.create(object.clone(), &ctx);
        for at in [None, Some(Subresource::Status), Some(Subresource::Finalize), Some(Subresource::Resize), Some(Subresource::EphemeralContainers)] {
            let _ = hooks.update(object.clone(), &old, at, &ctx);
        }
        let _ = (hooks.cells(&object, ctx.now), hooks.fields(&object), hooks.scale(&object));
        let bytes = serde_json::to_vec(&object).unwrap();
        let _ = (hooks.cells_from_bytes(&bytes, ctx.now), hooks.fields_from_bytes(&bytes));
    }

    #[test]
    fn defaulting_is_idempotent(which in 0..FILES.len(), choices in proptest::collection::vec(prop::bool::weighted(0.85), 0..200)) {
        let mut object = INPUTS[which].clone();
        thin_out(&mut object, &mut choices.into_iter());
        let kind = &all()[which];
        // Taking members out can leave what does not decode: then there is nothing to default.
        if let Ok(once) = kind.hooks.default(object) {
            let twice = kind.hooks.default(once.clone()).map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
            prop_assert_eq!(one_spelling(&once), one_spelling(&twice));
            // Reading fields and rows of anything that decodes works.
            prop_assert_eq!(kind.hooks.cells(&once, jiff::Timestamp::UNIX_EPOCH).len(), kind.info.columns.len());
            let bytes = serde_json::to_vec(&kind.hooks.to_stored(once.clone())).unwrap();
            prop_assert_eq!(kind.hooks.fields_from_bytes(&bytes), kind.hooks.fields(&once));
        }
    }
}
