//! One verb a file: `Args` and `run`.

pub mod annotate;
pub mod api_resources;
pub mod api_versions;
pub mod apply;
pub mod auth;
pub mod cluster_info;
pub mod config;
pub mod create;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod drain;
pub mod edit;
pub mod explain;
pub mod expose;
pub mod get;
pub mod label;
mod labels;
pub mod options;
pub mod patch;
pub mod replace;
pub mod rollout;
pub mod scale;
pub mod set;
pub mod taint;
pub mod version;
pub mod wait;
