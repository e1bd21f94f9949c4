//! What the writing verbs share: requests, flags, the last-applied annotation, waiting.

pub mod applied;
mod flags;
mod gone;
mod helper;
pub mod raw;
mod selector;
mod show;

pub use self::{
    flags::{SaveConfig, Validate},
    gone::gone,
    helper::Helper,
    selector::label_selector,
    show::Show,
};

/// One segment of a path.
pub fn path(segment: &str) -> String {
    crate::client::escape(segment, "")
}

/// A warning of our own, as the server's are shown.
pub fn warn(text: &str) {
    eprintln!("Warning: {text}");
}
