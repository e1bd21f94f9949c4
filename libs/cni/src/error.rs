//! What can go wrong with plugins, in the words that other runtimes use for it.

use std::{io, path::PathBuf};

/// Why a network step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or a program could not be used.
    #[error("{step}")]
    System {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A configuration says something that cannot be followed.
    #[error("failed to load CNI config file {path}: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What a pod is to be connected with makes no sense to plugins.
    #[error("{0}")]
    Invalid(String),
    /// There is no such program.
    #[error("plugin {plugin} failed ({verb}): failed to find plugin {kind:?} in path {folders:?}")]
    Missing {
        /// The plugin.
        plugin: String,
        /// What it was asked for.
        verb: String,
        /// The program's name.
        kind: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
    /// A plugin said no.
    #[error("plugin {plugin} failed ({verb}): {message}")]
    Plugin {
        /// The plugin.
        plugin: String,
        /// What it was asked for.
        verb: String,
        /// What it said, or what came of it.
        message: String,
        /// Its error's code (CNI specification, section 5); 0 if it gave none.
        code: u32,
    },
    /// Plugins succeeded, but what they gave is no network.
    #[error("{0}")]
    Result(String),
}

impl Error {
    pub(crate) fn system(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::System { step, source }
    }
}

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;
