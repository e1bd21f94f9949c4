//! One verb a file: `Args` and `run`.

pub mod describe;
pub mod get;
