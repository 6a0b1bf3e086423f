//! The commands: plain inputs, a printer, and an error that maps to the table of verdicts.

pub(crate) mod check;

use crate::check::Failure;
use crate::fetch::FetchError;
use crate::finding::Verdict;
use crate::key::LogKey;
use crate::state::StateError;
use std::io;
use std::path::PathBuf;

/// Why a command did not end with [`Verdict::Verified`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Neither a pinned nor a remembered key.
    #[error("no key is pinned for this log")]
    NoKey,
    /// `--tofu`, and nothing to trust.
    #[error("the log does not offer its key")]
    NoOffer,
    /// The pinned key is not the remembered one.
    #[error(
        "--vkey is the key of {}, and {} remembers another key, of {}",
        given.origin(), path.display(), remembered.origin()
    )]
    OtherKey { path: PathBuf, given: Box<LogKey>, remembered: Box<LogKey> },
    /// No home directory, so no place for the state file.
    #[error("there is no state directory for this user")]
    NoStateDirectory,
    /// The HTTP client could not be made.
    #[error("{0}")]
    Client(FetchError),
    /// The log is not as it should be.
    #[error(transparent)]
    Failure(Box<Failure>),
    /// The memory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The verdict could not be written, or the program could not start.
    #[error("{0}")]
    Io(io::Error),
    /// `--timeout` passed.
    #[error("no verdict before --timeout passed")]
    Timeout,
}

impl RunError {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::NoKey | Self::NoOffer | Self::OtherKey { .. } | Self::NoStateDirectory => {
                Verdict::Usage
            }
            Self::Client(_) => Verdict::Unreachable,
            Self::Failure(failure) => failure.finding.verdict(),
            Self::State(StateError::Io { .. }) | Self::Io(_) => Verdict::Io,
            Self::State(StateError::Busy { .. }) => Verdict::Busy,
            Self::State(StateError::Invalid { .. }) => Verdict::BadState,
            Self::Timeout => Verdict::Timeout,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoKey => Some(
                "give --vkey with the key that the log's operator publishes, or --tofu to trust \
                 the log's own word this once",
            ),
            Self::NoOffer => Some("give --vkey with the key that the log's operator publishes"),
            Self::OtherKey { .. } => {
                Some("use another --state for another log; a log never changes its key")
            }
            Self::NoStateDirectory => Some("give --state with a file to remember the head in"),
            other => other.verdict().outcome().hint,
        }
    }
}

impl From<Box<Failure>> for RunError {
    fn from(failure: Box<Failure>) -> Self {
        Self::Failure(failure)
    }
}
