//! The bare loop: what the relay is compared with.
//!
//! The same web server, the same request and acknowledgement bytes, the same tables, indexes
//! and pragmas, the same group commit by one writer, one Ed25519 signature a batch, and rows of
//! the same size for tiles, bundles, tail and heads. Nothing else: no tokens, no look-ups, no
//! checks, no hashing, no tree, no room to fan out to, no bells, nothing read back from the
//! database. It runs as a process of its own, as the relay does.
//!
//! Beside it [`Commits`]: what one client alone is compared with.

mod frames;
mod store;
mod web;
mod writer;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nexo_schema::ids::ConvId;
use nexo_scripts::account::{Seat, name};
use nexo_scripts::stats::Sample;

use crate::CommitSamples;
use store::Store;

/// Why the bare loop does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareError {
    /// Files.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The database does not open.
    #[error("the database does not open: {0}")]
    Open(#[from] diesel::ConnectionError),
    /// The database does not answer.
    #[error("the database: {0}")]
    Query(#[from] diesel::result::Error),
    /// Its tables.
    #[error("the database's tables: {0}")]
    Migrate(String),
    /// The web server.
    #[error("the web server: {0}")]
    Rocket(String),
}

/// `load bare`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BareArgs {
    /// Directory for its database; made
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Accounts and conversations it knows
    #[arg(long)]
    pub(crate) seats: usize,
}

/// Serves on a free port, says where, and runs until it is killed.
pub(crate) fn serve(args: &BareArgs) -> ExitCode {
    match web::serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "load bare: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Seat `number` of the bare loop: a request from it is as long as from one at the relay.
pub(crate) fn seat(number: usize, token: &str) -> Seat {
    let conv = conversation(number);
    Seat { token: token.to_owned(), device: device(&conv), conv: conv.to_string() }
}

/// The conversation of seat `number`: the number itself, in 32 bytes.
fn conversation(number: usize) -> ConvId {
    let mut id = [0; 32];
    id[24..].copy_from_slice(&(number as u64).to_be_bytes());
    ConvId(id)
}

/// The device that writes to a conversation.
fn device(conv: &ConvId) -> String {
    let [.., a, b, c, d, e, f, g, h] = conv.0;
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    name([0; 4], usize::try_from(number).unwrap_or(usize::MAX))
}

/// Lone commits, one at a time: what the disk and SQLite allow whoever does not batch.
pub(crate) struct Commits {
    /// Of one row, and of all that one message writes; each in a database of its own.
    stores: [Store; 2],
    samples: [Sample; 2],
}

impl Commits {
    /// Makes the databases in `dir`.
    ///
    /// # Errors
    /// [`BareError`].
    pub(crate) fn open(dir: &Path) -> Result<Self, BareError> {
        let store = |name| Store::create(&dir.join(name), 1);
        let stores = [store("commit-row")?, store("commit-message")?];
        Ok(Self { stores, samples: Default::default() })
    }

    /// Commits for `length`, half of it rows and half of it messages of `payload` bytes.
    ///
    /// # Errors
    /// [`BareError`].
    pub(crate) fn measure(&mut self, length: Duration, payload: usize) -> Result<(), BareError> {
        let commits = [Store::commit_row, Store::commit_message];
        for ((store, sample), commit) in self.stores.iter_mut().zip(&mut self.samples).zip(commits)
        {
            let begin = Instant::now();
            while begin.elapsed() < length / 2 {
                let start = Instant::now();
                commit(store, payload)?;
                sample.took(start.elapsed());
            }
            sample.measured += begin.elapsed();
        }
        Ok(())
    }

    /// What was measured, with the names the table gives it.
    pub(crate) fn samples(self) -> CommitSamples {
        let [row, message] = self.samples;
        [("commit of 1 row", row), ("commit of 1 message", message)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_tells_whose_it_is() {
        assert_eq!(device(&conversation(63)), name([0; 4], 63));
        assert_ne!(conversation(1), conversation(256));
        assert_eq!(seat(7, "token").conv.len(), 64);
        assert_eq!(device(&ConvId([0xff; 32])), name([0; 4], usize::MAX), "and never panics");
    }

    #[test]
    fn commits_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut commits = Commits::open(dir.path()).unwrap();
        commits.measure(Duration::from_millis(100), 300).unwrap();
        for (name, sample) in commits.samples() {
            let summary = sample.summary();
            assert!(summary.rate > 0.0 && summary.p50 > 0.0, "{name}");
        }
    }
}
