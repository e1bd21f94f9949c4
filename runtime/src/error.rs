//! What can go wrong, sorted by what a caller can do about it.

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing.
    #[error("{0}: not found")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It exists, or is being made.
    #[error("{0}")]
    Exists(String),
    /// Not in this state.
    #[error("{0}")]
    State(String),
    /// Not offered.
    #[error("{0}")]
    Unsupported(String),
    /// It took longer than asked for.
    #[error("{0}")]
    Timeout(String),
    /// A step failed inside a shim or a container; the text is for people.
    #[error("{0}")]
    Failed(String),
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A result of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says which step failed.
pub(crate) trait Step<T> {
    /// With words at hand.
    fn step(self, step: &str) -> Result<T>;
    /// With words that cost something to make.
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Step<T> for std::result::Result<T, E> {
    fn step(self, step: &str) -> Result<T> {
        self.step_with(|| step.to_owned())
    }
    fn step_with(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Step { step: step(), source: source.into() })
    }
}

/// The error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NotFound(_) => tonic::Code::NotFound,
            Error::Invalid(_) => tonic::Code::InvalidArgument,
            Error::Exists(_) => tonic::Code::AlreadyExists,
            Error::State(_) => tonic::Code::FailedPrecondition,
            Error::Unsupported(_) => tonic::Code::Unimplemented,
            Error::Timeout(_) => tonic::Code::DeadlineExceeded,
            Error::Failed(_) | Error::Step { .. } => tonic::Code::Unknown,
        };
        tonic::Status::new(code, chain(&error))
    }
}
