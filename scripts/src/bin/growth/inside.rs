//! The log in this process, by the server's own code: growing it, what a batch costs, and what a
//! proof costs before it becomes an HTTP answer.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use nexo_scripts::stats::Sample;
use nexo_server::app::Waiting;
use nexo_server::clock::Clock;
use nexo_server::log::{
    Halt, KeyError, Log, LogKeys, MAX_BATCH, Options, ProofError, QUEUE, StartError, SubmitError,
    Writer, consistency, inclusion,
};
use nexo_server::store::{Database, SqlLedger, Store, StoreError, StoredTiles};

use crate::progress;
use crate::site::DATABASE;
use crate::table::Proofs;
use crate::writers::{Writers, mixed};

/// Messages of the batches that are measured.
pub(crate) const BATCHES: [usize; 2] = [256, 1000];

/// Tickets held while growing; the queue takes more.
const HELD: usize = 4 * MAX_BATCH;

/// Leaves between two words on how far it is.
const SAY_EVERY: u64 = 500_000;

/// Why the log did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InsideError {
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A query, outside the store's functions.
    #[error(transparent)]
    Query(#[from] diesel::result::Error),
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It takes nothing.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It took a message and did not keep it.
    #[error("a message was not placed: {0}")]
    Denied(String),
    /// No proof.
    #[error(transparent)]
    Proof(#[from] ProofError<StoreError>),
    /// It stopped.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// No batch had the size that was to be measured.
    #[error("no batch of {0} messages was seen")]
    NoBatch(usize),
}

/// A log that is open here.
pub(crate) struct Inside {
    log: Log<SqlLedger>,
    writer: Writer,
    store: Store,
}

/// As a relay runs its log.
pub(crate) fn usual() -> Options {
    Options::new(Box::new(|| Clock::System.seconds()))
}

/// So that a queue filled at once becomes batches of exactly `batch`.
pub(crate) fn exactly(batch: usize, count: u16) -> Options {
    Options { max_batch: batch, queue: (batch * filled(count)).max(QUEUE), ..usual() }
}

/// How many batches may be measured on one log of `size` leaves before it is no longer of about
/// that size: they do not more than double it.
pub(crate) fn fitting(batch: usize, size: u64) -> u16 {
    u16::try_from(size / batch as u64).unwrap_or(u16::MAX).max(1)
}

/// Batches to submit where `count` are wanted: the first is cut short, because the writer does
/// not wait for it, and with it the last.
fn filled(count: u16) -> usize {
    usize::from(count) + 2
}

impl Inside {
    /// Opens the log in a data directory that a relay has made.
    pub(crate) fn open(data: &Path, options: Options) -> Result<Self, InsideError> {
        let keys = LogKeys::open(data, None)?;
        let store = Store::open(&Database::File(data.join(DATABASE)))?;
        // Nobody listens.
        let ring = Box::new(|_| ());
        let ledger = SqlLedger::new(store.clone(), keys.origin().clone(), Clock::System, ring);
        let (log, writer) = Log::start(ledger, keys, data, options)?;
        Ok(Self { log, writer, store })
    }

    /// Closes it; the database is one file again.
    pub(crate) fn close(self) -> Result<(), InsideError> {
        let Self { log, writer, store } = self;
        drop((log, store));
        Ok(writer.shutdown()?)
    }
}

/// Adds messages until the log has `size` leaves.
pub(crate) async fn grow(inside: &Inside, writers: &Writers, size: u64) -> Result<(), InsideError> {
    let begin = inside.log.head().size;
    let (mut held, start) = (VecDeque::with_capacity(HELD), Instant::now());
    for taken in 0..size.saturating_sub(begin) {
        if held.len() == HELD {
            settle(held.drain(..MAX_BATCH)).await?;
        }
        held.push_back(inside.log.submit(writers.item())?);
        if taken > 0 && taken.is_multiple_of(SAY_EVERY) {
            let rate = taken as f64 / start.elapsed().as_secs_f64();
            progress(format_args!("{} of {size} leaves, {rate:.0} a second", begin + taken));
        }
    }
    settle(held.drain(..)).await
}

async fn settle(waiting: impl Iterator<Item = Waiting>) -> Result<(), InsideError> {
    for ticket in waiting {
        ticket.receipt().await.map_err(|denied| InsideError::Denied(denied.to_string()))?;
    }
    Ok(())
}

/// How long batches of `batch` messages take, one after the other, from head to head: reading
/// the queue, checks, rows, tree, signature, commit, marker, answers. The log must have been
/// opened with [`exactly`].
pub(crate) async fn batches(
    inside: &Inside,
    writers: &Writers,
    batch: usize,
    count: u16,
) -> Result<Sample, InsideError> {
    let mut bell = inside.log.heads();
    let end = bell.borrow_and_update().size + (batch * filled(count)) as u64;
    let items: Vec<_> = (0..batch * filled(count)).map(|_| writers.item()).collect();
    let watching = tokio::spawn(async move {
        let mut seen: Vec<(Instant, u64)> = Vec::new();
        while bell.changed().await.is_ok() {
            let size = bell.borrow_and_update().size;
            seen.push((Instant::now(), size));
            if size >= end {
                break;
            }
        }
        seen
    });
    let waiting = items.into_iter().map(|item| inside.log.submit(item));
    settle(waiting.collect::<Result<Vec<_>, _>>()?.into_iter()).await?;
    let seen = watching.await.unwrap_or_default();
    let mut sample = Sample::default();
    for pair in seen.windows(2) {
        let [(before, from), (after, to)] = pair else { continue };
        // Others were cut short, or two came while nobody looked.
        if to - from == batch as u64 {
            sample.took(*after - *before);
            sample.measured += *after - *before;
        }
    }
    if sample.measured.is_zero() { Err(InsideError::NoBatch(batch)) } else { Ok(sample) }
}

/// How long proofs take in a tree of `size` leaves, as a handler has them made: on a reader of
/// the pool, in one snapshot. Leaves and sizes are the same in every call.
pub(crate) async fn proofs(inside: &Inside, size: u64, count: u16) -> Result<Proofs, InsideError> {
    let mut proofs = Proofs::default();
    for number in 0..u64::from(count) {
        let (index, from) = asked(number, size);
        let start = Instant::now();
        let path = inside.store.snapshot(move |conn| {
            Ok::<_, InsideError>(inclusion(index, size, &mut StoredTiles(conn))?)
        });
        path.await?;
        proofs.inclusion.took(start.elapsed());
        let start = Instant::now();
        let path = inside.store.snapshot(move |conn| {
            Ok::<_, InsideError>(consistency(from, size, &mut StoredTiles(conn))?)
        });
        path.await?;
        proofs.consistency.took(start.elapsed());
    }
    Ok(proofs)
}

/// The leaf (from 0) and the smaller size of proof `number` in a tree of `size`.
pub(crate) fn asked(number: u64, size: u64) -> (u64, u64) {
    (mixed(number) % size, 1 + mixed(!number) % size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_server::log::TILE_WIDTH;

    #[test]
    fn a_log_does_not_outgrow_its_size_while_it_is_measured() {
        assert_eq!(fitting(1000, 10_000), 10);
        assert_eq!(fitting(1000, 999), 1);
        assert_eq!(fitting(256, u64::MAX), u16::MAX);
        let Options { queue, max_batch, .. } = exactly(256, 40);
        assert_eq!((queue >= 256 * 42, max_batch), (true, TILE_WIDTH));
    }

    #[test]
    fn every_proof_that_is_asked_for_exists() {
        for size in [1, 2, 1000, u64::MAX - 1] {
            for number in 0..1000 {
                let (index, from) = asked(number, size);
                assert!(index < size && (1..=size).contains(&from), "{number} of {size}");
            }
        }
    }
}
