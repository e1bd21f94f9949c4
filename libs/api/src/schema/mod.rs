//! Schemas of every API type: strict decoding of requests, OpenAPI documents, the merge keys of patches.

pub mod body;
pub mod check;
pub mod docs;
pub mod go;
pub mod json;
pub mod nulls;
pub mod openapi;
mod proto;
mod scalars;
pub mod table;
pub mod yaml;

pub use self::{
    body::{DecodeError, Decoded, FieldValidation, MediaType, decode},
    scalars::from_base64,
    table::{Field, ListType, PatchStrategy, Table, Type, TypeDef, TypeId, table},
};
