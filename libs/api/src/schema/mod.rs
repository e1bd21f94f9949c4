//! Schemas of every API type: strict decoding of requests, OpenAPI documents, the merge keys of patches.

pub mod check;
pub mod docs;
pub mod json;
pub mod openapi;
mod proto;
pub mod table;
pub mod yaml;
mod yaml_words;

pub use self::{
    check::{DecodeError, Decoded, FieldValidation, MediaType, decode},
    table::{Field, ListType, PatchStrategy, Table, Type, TypeDef, TypeId, table},
};
