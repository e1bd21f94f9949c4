//! What the writing verbs share: requests, flags, the last-applied annotation, waiting.

pub mod applied;
mod flags;
mod gone;
mod helper;
mod overrides;
pub mod raw;
pub mod record;
mod selector;
mod show;

use crate::failure::Failure;

pub use self::{
    flags::{SaveConfig, Validate},
    gone::gone,
    helper::Helper,
    overrides::overridden,
    selector::label_selector,
    show::Show,
};

/// An unknown resource type where upstream asks its mapper itself: shown without `error: `.
pub fn unresolved(failure: Failure) -> Failure {
    match failure {
        Failure::NoResource(..) => Failure::Verbatim(failure.message(), 1),
        other => other,
    }
}

/// One segment of a path.
pub fn path(segment: &str) -> String {
    crate::client::escape(segment, "")
}

/// A warning of our own, as the server's are shown.
pub fn warn(text: &str) {
    eprintln!("Warning: {text}");
}
