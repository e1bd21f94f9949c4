//! Kinds and the machinery they share, without I/O and without a runtime: metadata, selectors, quantities, defaults,
//! validation, patches, schemas, tables, certificate requests and `Status` errors.

// Tests write objects in place: `pod(json!({..}))`.
#![cfg_attr(test, allow(clippy::needless_pass_by_value))]

pub mod discovery;
pub mod duration;
pub mod field;
pub mod field_path;
pub mod jsonpath;
pub mod key_pair;
pub mod kind;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod normalize;
pub mod patch;
pub mod pem;
pub mod pkcs10;
pub mod pluck;
pub mod protobuf;
pub mod quantity;
pub mod quoted;
pub mod schema;
pub mod selector;
pub mod servers;
pub mod status;
pub mod table;
pub mod unified_diff;
pub mod yaml;

#[cfg(test)]
mod testing;
