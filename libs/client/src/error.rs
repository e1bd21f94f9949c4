//! Why a piece of work did not get done, and questions to ask of an API server's refusal.

use std::time::Duration;

use kube::core::Status;

/// What a reconciler returns when it could not finish. The driver backs off and tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("{step}")]
    Api {
        /// What was being done.
        step: &'static str,
        /// The answer.
        #[source]
        source: kube::Error,
    },
    /// The cache did not see our own write in time; deciding now could do it twice.
    #[error("the cache of {kind} has not reached revision {revision} within {waited:?}")]
    Behind {
        /// The kind of the cache.
        kind: String,
        /// What it was waiting for.
        revision: u64,
        /// For how long.
        waited: Duration,
    },
    /// Anything else that a controller wants to try again later.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Whether the API server said that the object has changed since it was read: not a fault, a request to look again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_conflict(source))
    }

    /// Whether the object, or its namespace, is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_not_found(source))
    }

    /// The API server's answer, if there was one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api { source, .. } => status_of(source),
            _ => None,
        }
    }

    /// The message that users see in events and conditions: the API server's own words where it spoke.
    pub fn user_message(&self) -> String {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => status.message.clone(),
            Self::Api { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

/// Names the step that an API call was.
pub trait Step<T> {
    /// Wraps the error with what was being done.
    fn step(self, step: &'static str) -> Result<T, Error>;
}

impl<T> Step<T> for Result<T, kube::Error> {
    fn step(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Api { step, source })
    }
}

/// The `Status` in an error, if the API server answered with one.
pub fn status_of(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// 409 because the object has changed (not because it exists).
pub fn is_conflict(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|s| s.code == 409 && s.reason != "AlreadyExists")
}

/// 409 because an object of that name exists.
pub fn is_already_exists(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|s| s.code == 409 && s.reason == "AlreadyExists")
}

/// 404.
pub fn is_not_found(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|s| s.code == 404)
}
