//! One verb a file: `Args` and `run`.

pub mod get;
