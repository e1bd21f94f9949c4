//! Defaulting an object twice is defaulting it once, whatever part of a golden object is missing.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The golden object of each kind.
fn inputs() -> Vec<Value> {
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/kinds");
    let read = |file: &&str| {
        let text = std::fs::read_to_string(folder.join(format!("{file}.json"))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["input"].clone()
    };
    FILES.iter().map(read).collect()
}

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn defaulting_is_idempotent(which in 0..FILES.len(), choices in proptest::collection::vec(prop::bool::weighted(0.85), 0..200)) {
        let mut object = inputs()[which].clone();
        thin_out(&mut object, &mut choices.into_iter());
        let kind = &all()[which];
        // Taking members out can leave what does not decode: then there is nothing to default.
        if let Ok(once) = kind.hooks.default(object) {
            let twice = kind.hooks.default(once.clone()).map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
            prop_assert_eq!(&once, &twice);
            // Reading fields and rows of anything that decodes works.
            prop_assert_eq!(kind.hooks.cells(&once, jiff::Timestamp::UNIX_EPOCH).len(), kind.info.columns.len());
            let bytes = serde_json::to_vec(&kind.hooks.to_stored(once.clone())).unwrap();
            prop_assert_eq!(kind.hooks.fields_from_bytes(&bytes), kind.hooks.fields(&once));
        }
    }
}
