//! What a pod is to this node: plain decisions over its spec, what the runtime holds of it and what the worker remembers.
//!
//! Nothing here awaits, reads a clock or touches a file. [`crate::worker`] observes, asks these functions and acts.

pub mod admission;
pub mod backoff;
pub mod container_config;
pub mod decide;
pub mod env;
pub mod env_file;
pub mod expand;
pub mod image;
pub mod memory;
pub mod record;
pub mod resize;
pub mod resolver;
pub mod resources;
pub mod sandbox_config;
pub mod spec;
pub mod status;
pub mod status_patch;
pub mod terminate;
