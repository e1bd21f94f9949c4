//! Network plugins of the Container Network Interface (CNI specification 0.1.0 to 1.1.0), as a runtime calls them.
//!
//! - [`config`]: which configuration a folder holds, read into a [`List`] of plugins;
//! - [`plugin`]: one program run once, with what it is told and what it says;
//! - [`outcome`]: what an ADD has given a pod;
//! - [`record`]: what is kept about a pod on disk from before its ADD until after its DEL;
//! - [`Plugins`]: ADD, DEL, CHECK, GC and STATUS of whole lists.
//!
//! A pod is disconnected with the configuration that it was connected with, however the folder has changed since, by a record
//! that is there before the first plugin runs: whatever dies in between, nothing of a pod is forgotten. Plugins are run
//! directly, by the name that the configuration gives them, and never by a path of its choice.

pub mod config;
mod error;
mod operations;
pub mod outcome;
pub mod plugin;
pub mod record;

pub use config::List;
pub use error::{Error, Result};
pub use operations::{Plugins, Pod, Settings};
pub use outcome::Outcome;
