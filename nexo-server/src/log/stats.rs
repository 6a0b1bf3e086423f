//! What the writer does and where its time goes, counted for whoever measures.
//!
//! Cheap to add to (relaxed atomics, a handful per batch), read whole. Nothing here decides
//! anything; names and formats for operators are made elsewhere (`http/metrics.rs`).

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A part of what happens to a batch. Together they are all of the writer's work; the rest of
/// its time it waits for items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Begin, lock the head, re-check the items: reads.
    Admit,
    /// Write the items' rows.
    Insert,
    /// Hash, append to the edge, sign: no database.
    Stage,
    /// Write tiles, bundles and the head.
    Tree,
    /// Make it durable.
    Commit,
    /// Adopt the head, ring, answer the submitters.
    Adopt,
}

impl Step {
    /// Every step, in the order in which they happen.
    pub const ALL: [Self; 6] =
        [Self::Admit, Self::Insert, Self::Stage, Self::Tree, Self::Commit, Self::Adopt];

    /// Its name for operators.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Insert => "insert",
            Self::Stage => "stage",
            Self::Tree => "tree",
            Self::Commit => "commit",
            Self::Adopt => "adopt",
        }
    }
}

/// Upper bounds of [`BatchStats::batch_leaves`], leaves.
pub const LEAVES_BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Upper bounds of [`BatchStats::batch_time`], microseconds: from a fast disk's flush to what
/// clients would call an outage.
pub const TIME_BOUNDS: [u64; 14] = [
    250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 125_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

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
    /// Items that were refused when they were checked again.
    pub refused: u64,
    /// Items that found the queue full.
    pub turned_away: u64,
    /// Batches that were not committed, or not known to be.
    pub failed: u64,
    /// Leaves per batch.
    pub batch_leaves: Histogram<11>,
    /// Microseconds per batch, from the transaction's begin to its durable end.
    pub batch_time: Histogram<14>,
    /// Nanoseconds by step, in the order of [`Step::ALL`].
    nanos: [u64; 6],
}

impl BatchStats {
    /// Time spent in a step.
    #[must_use]
    pub fn spent(&self, step: Step) -> Duration {
        Duration::from_nanos(self.nanos[step as usize])
    }
}

/// How many observations were at most as large as each of `N` bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    /// Observations by the first bound that holds them; not cumulative.
    pub within: [u64; N],
    /// Observations above the last bound.
    pub above: u64,
    /// Sum of all observations.
    pub sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { within: [0; N], above: 0, sum: 0 }
    }
}

/// [`BatchStats`] while they are counted. The writer and the ledger inside its transaction add,
/// anybody reads.
#[derive(Debug, Default)]
pub struct Counters {
    batches: AtomicU64,
    leaves: AtomicU64,
    last_batch: AtomicU64,
    renewals: AtomicU64,
    refused: AtomicU64,
    turned_away: AtomicU64,
    failed: AtomicU64,
    batch_leaves: Buckets<11>,
    batch_time: Buckets<14>,
    nanos: [AtomicU64; 6],
}

impl Counters {
    /// Adds to the time of a step.
    pub fn spent(&self, step: Step, time: Duration) {
        add(&self.nanos[step as usize], nanos(time));
    }

    /// Counts a committed head with that many new leaves (none: a renewal), `time` after its
    /// transaction began.
    pub fn committed(&self, leaves: u64, time: Duration) {
        if leaves == 0 {
            add(&self.renewals, 1);
        } else {
            add(&self.batches, 1);
            add(&self.leaves, leaves);
            self.last_batch.store(leaves, Ordering::Relaxed);
            self.batch_leaves.observe(&LEAVES_BOUNDS, leaves);
            self.batch_time.observe(&TIME_BOUNDS, nanos(time) / 1000);
        }
    }

    /// Counts items that were refused when they were checked again.
    pub fn refused(&self, items: u64) {
        add(&self.refused, items);
    }

    /// Counts an item that found the queue full.
    pub fn turned_away(&self) {
        add(&self.turned_away, 1);
    }

    /// Counts a batch that was not committed, or not known to be.
    pub fn failed(&self) {
        add(&self.failed, 1);
    }

    /// The counts now. Each is right; two may differ by what happens in between.
    #[must_use]
    pub fn read(&self) -> BatchStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BatchStats {
            batches: get(&self.batches),
            leaves: get(&self.leaves),
            last_batch: get(&self.last_batch),
            renewals: get(&self.renewals),
            refused: get(&self.refused),
            turned_away: get(&self.turned_away),
            failed: get(&self.failed),
            batch_leaves: self.batch_leaves.read(),
            batch_time: self.batch_time.read(),
            nanos: array::from_fn(|i| get(&self.nanos[i])),
        }
    }
}

/// A [`Histogram`] while it is counted.
#[derive(Debug)]
struct Buckets<const N: usize> {
    within: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        let within = array::from_fn(|_| AtomicU64::default());
        Self { within, above: AtomicU64::default(), sum: AtomicU64::default() }
    }
}

impl<const N: usize> Buckets<N> {
    fn observe(&self, bounds: &[u64; N], value: u64) {
        let bucket = self.within.get(bounds.partition_point(|&bound| bound < value));
        add(bucket.unwrap_or(&self.above), 1);
        add(&self.sum, value);
    }

    fn read(&self) -> Histogram<N> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Histogram {
            within: array::from_fn(|i| get(&self.within[i])),
            above: get(&self.above),
            sum: get(&self.sum),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// For sums; five centuries fit.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_each_in_its_place() {
        let counters = Counters::default();
        for (n, step) in (1..).zip(Step::ALL) {
            counters.spent(step, Duration::from_nanos(n));
            counters.spent(step, Duration::from_nanos(10));
        }
        let stats = counters.read();
        let spent = Step::ALL.map(|step| stats.spent(step).as_nanos());
        assert_eq!(spent, [11, 12, 13, 14, 15, 16]);
    }

    #[test]
    fn observations_go_to_the_first_bound_that_holds_them() {
        let counters = Counters::default();
        for leaves in [1, 2, 3, 1000, 1024, 1025, 5000] {
            counters.committed(leaves, Duration::from_micros(251));
        }
        let stats = counters.read();
        assert_eq!(stats.batch_leaves.within, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!((stats.batch_leaves.above, stats.batch_leaves.sum), (2, 8055));
        assert_eq!((stats.batch_time.within[0], stats.batch_time.within[1]), (0, 7));
        assert_eq!((stats.batches, stats.leaves, stats.last_batch), (7, 8055, 5000));
    }

    #[test]
    fn a_renewal_is_no_batch() {
        let counters = Counters::default();
        counters.committed(0, Duration::from_secs(1));
        let stats = counters.read();
        assert_eq!((stats.renewals, stats.batches, stats.leaves), (1, 0, 0));
        assert_eq!(stats.batch_leaves, Histogram::default());
        assert_eq!(stats.batch_time, Histogram::default());
    }

    #[test]
    fn what_went_wrong_is_counted_apart() {
        let counters = Counters::default();
        counters.refused(3);
        counters.turned_away();
        counters.failed();
        counters.failed();
        let stats = counters.read();
        assert_eq!((stats.refused, stats.turned_away, stats.failed), (3, 1, 2));
    }
}
