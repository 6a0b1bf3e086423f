//! The commands: plain inputs, a printer, and an error that maps to the table of verdicts.

pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod evidence;
pub(crate) mod full;
pub(crate) mod input;
pub(crate) mod keys;
pub(crate) mod proof;
pub(crate) mod session;
pub(crate) mod trust;
pub(crate) mod watch;

use crate::check::{Failure, system_clock};
use crate::cli::{Command, EvidenceCommand, ProofCommand};
use crate::evidence::{EvidenceError, JudgementError};
use crate::fetch::{FetchError, UrlError};
use crate::finding::Verdict;
use crate::full::FullError;
use crate::key::{KeyError, LogKey};
use crate::keys::expect::ExpectError;
use crate::output::Printer;
use crate::policy::PolicyError;
use crate::proof::OfflineProofError;
use crate::state::StateError;
use crate::watch::spool::SpoolError;
use compare::HeadFileError;
use std::future::Future;
use std::io;
use std::path::PathBuf;

/// Runs a command to its end.
pub(crate) fn run(command: &Command, printer: &mut Printer<'_>) -> Result<(), RunError> {
    match command {
        Command::Check(args) => wait(check::run(args, system_clock, printer)),
        Command::Compare(args) => wait(compare::run(args, system_clock, printer)),
        Command::Evidence { command: EvidenceCommand::Verify(args) } => {
            evidence::run(args, printer)
        }
        Command::Proof { command: ProofCommand::Verify(args) } => {
            proof::run(args, system_clock, printer)
        }
        Command::Keys(args) => wait(keys::run(args, system_clock, printer)),
        Command::Watch(args) => wait(watch::run(args, system_clock, printer)),
        Command::Full(args) => wait(full::run(args, system_clock, printer)),
    }
}

/// One thread is enough to wait for a log.
fn wait<T>(work: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(RunError::Io)?.block_on(work)
}

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
    /// An input file could not be read.
    #[error("{}: {source}", path.display())]
    Input { path: PathBuf, source: io::Error },
    /// Something that begins like an address and is none.
    #[error("{cause}")]
    Address { cause: UrlError },
    /// A file without a head in it.
    #[error("{}: {cause}", path.display())]
    HeadFile { path: PathBuf, cause: HeadFileError },
    /// Heads of two sizes, and no log to prove that one extends the other.
    #[error("the heads are of two sizes, and there is no log to ask for the proof between them")]
    NoLog,
    /// Not an offline proof.
    #[error("{}: {cause}", path.display())]
    ProofFile { path: PathBuf, cause: OfflineProofError },
    /// An offline proof without an entry, and none given.
    #[error("the proof has no entry in it, so there is nothing to look for")]
    NoEntry,
    /// A file that is longer than any entry.
    #[error("{} is longer than an entry of a log can be", path.display())]
    LongEntry { path: PathBuf },
    /// Not a file of evidence.
    #[error("{}: {cause}", path.display())]
    Evidence { path: PathBuf, cause: EvidenceError },
    /// Evidence about no key.
    #[error("{}: {cause}", path.display())]
    EvidenceKey { path: PathBuf, cause: KeyError },
    /// Evidence that does not show what it says.
    #[error("{}: {cause}", path.display())]
    Judgement { path: PathBuf, cause: JudgementError },
    /// A trust file that is refused.
    #[error("{}: {cause}", path.display())]
    Policy { path: PathBuf, cause: PolicyError },
    /// A log that the trust file does not list.
    #[error("{} does not list the key of {origin}", path.display())]
    NotListed { path: PathBuf, origin: String },
    /// A witness that is the log.
    #[error("{}: the witness {name} has a key of the log it should witness", path.display())]
    OwnWitness { path: PathBuf, name: String },
    /// The memory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// `--resolve` with an id of nothing that stands.
    #[error("no finding of the event id {id} stands")]
    NoFinding { id: String },
    /// A file without a webhook's URL in it.
    #[error("{} does not hold the URL of a webhook", path.display())]
    NoWebhook { path: PathBuf },
    /// A file without a token in it.
    #[error("{} does not hold a token", path.display())]
    NoToken { path: PathBuf },
    /// A token that others could read on its way.
    #[error("a token is sent over https, or to this machine, alone")]
    TokenInClear,
    /// A list that is no text, or too long.
    #[error("{} is not a list of devices", path.display())]
    NoList { path: PathBuf },
    /// A line in a list that is none.
    #[error("{}: {cause}", path.display())]
    Expect { path: PathBuf, cause: ExpectError },
    /// The verdict could not be written, or the program could not start.
    #[error("{0}")]
    Io(io::Error),
    /// `--timeout` passed, or the time that a round of a watch has.
    #[error("no verdict before --timeout passed")]
    Timeout,
}

impl RunError {
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::NoKey
            | Self::NoOffer
            | Self::OtherKey { .. }
            | Self::NoStateDirectory
            | Self::Address { .. }
            | Self::NoLog
            | Self::NoEntry => Verdict::Usage,
            Self::Input { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Verdict::NoInput
            }
            Self::Input { .. } => Verdict::Io,
            Self::HeadFile { .. } | Self::ProofFile { .. } | Self::LongEntry { .. } => {
                Verdict::BadData
            }
            Self::Evidence { .. } | Self::EvidenceKey { .. } | Self::Judgement { .. } => {
                Verdict::BadEvidence
            }
            Self::Policy { .. } | Self::NotListed { .. } | Self::OwnWitness { .. } => {
                Verdict::PolicyViolation
            }
            Self::Client(_) => Verdict::Unreachable,
            Self::Failure(failure) => failure.finding.verdict(),
            Self::State(StateError::Io { .. }) | Self::Io(_) => Verdict::Io,
            Self::State(StateError::Busy { .. }) => Verdict::Busy,
            Self::State(
                StateError::Invalid { .. }
                | StateError::Heads { .. }
                | StateError::Backwards { .. },
            ) => Verdict::BadState,
            Self::NoFinding { .. } | Self::TokenInClear => Verdict::Usage,
            Self::NoWebhook { .. }
            | Self::NoToken { .. }
            | Self::NoList { .. }
            | Self::Expect { .. } => Verdict::BadData,
            Self::Spool(SpoolError::Io { .. } | SpoolError::Full { .. }) => Verdict::Io,
            Self::Spool(SpoolError::Busy { .. }) => Verdict::Busy,
            Self::Spool(SpoolError::Damaged { .. } | SpoolError::OtherLog { .. }) => {
                Verdict::BadState
            }
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
            Self::NoLog => Some("give --log with the address of the log"),
            Self::NoEntry => Some("give --entry or --leaf-hash"),
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

impl From<FullError> for RunError {
    fn from(error: FullError) -> Self {
        match error {
            FullError::Failure(failure) => Self::Failure(failure),
            FullError::State(error) => Self::State(error),
            FullError::Client(error) => Self::Client(error),
            FullError::Thread(error) => Self::Io(error),
        }
    }
}
