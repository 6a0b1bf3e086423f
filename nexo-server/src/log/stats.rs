//! Counts of the writer's work, for whoever measures: cheap to add to, read whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts of the writer's work since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Heads committed with new leaves.
    pub batches: u64,
    /// Leaves in them.
    pub leaves: u64,
    /// Leaves in the last one.
    pub last_batch: u64,
    /// Heads committed only to renew the time.
    pub renewals: u64,
    /// Nanoseconds spent hashing and signing.
    pub stage_nanos: u64,
    /// Nanoseconds spent in the database, with the checks there.
    pub commit_nanos: u64,
}

/// [`BatchStats`] while they are counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    batches: AtomicU64,
    leaves: AtomicU64,
    last_batch: AtomicU64,
    renewals: AtomicU64,
    stage_nanos: AtomicU64,
    commit_nanos: AtomicU64,
}

impl Counters {
    /// Counts a committed head with that many new leaves.
    pub(super) fn count(&self, leaves: u64, staging: Duration, committing: Duration) {
        let add = |counter: &AtomicU64, n| counter.fetch_add(n, Ordering::Relaxed);
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        if leaves == 0 {
            add(&self.renewals, 1);
        } else {
            add(&self.batches, 1);
            add(&self.leaves, leaves);
            self.last_batch.store(leaves, Ordering::Relaxed);
        }
        add(&self.stage_nanos, nanos(staging));
        add(&self.commit_nanos, nanos(committing));
    }

    pub(super) fn read(&self) -> BatchStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BatchStats {
            batches: get(&self.batches),
            leaves: get(&self.leaves),
            last_batch: get(&self.last_batch),
            renewals: get(&self.renewals),
            stage_nanos: get(&self.stage_nanos),
            commit_nanos: get(&self.commit_nanos),
        }
    }
}
