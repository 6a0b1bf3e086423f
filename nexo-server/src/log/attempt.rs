//! One commit, as seen from inside its transaction: the log's side of
//! [`Ledger::commit`](super::Ledger::commit).
//!
//! It touches nothing that lives: the head of another server that was found under the lock and
//! the batch staged on it are kept here, and adopted by the sequencer once they are durable.

use super::batch::{Candidate, Tail, head_time, stage};
use super::ledger::{Admission, Entry, Ledger, Staged, Staging, Stored, StoredHead};
use super::load::{LoadError, verified};
use super::marker::Marker;
use super::sequencer::{Halt, not_back};
use super::signer::LogKeys;
use super::stats::{Counters, Step};
use std::sync::Arc;
use std::time::Instant;

pub(super) type Admissions<L> = Vec<Admission<<L as Ledger>::Placed, <L as Ledger>::Refusal>>;

/// One call of [`Ledger::commit`](super::Ledger::commit).
pub(super) struct Attempt<'a, L: Ledger> {
    tail: &'a Tail,
    keys: &'a LogKeys,
    marker: &'a Marker,
    counters: &'a Counters,
    now: u64,
    /// Time in the head that the batch goes on from.
    previous: u64,
    /// Puts what waits behind a batch.
    queue: &'a mut dyn FnMut(&mut Vec<L::Item>),
    items: usize,
    base: Option<(Tail, StoredHead)>,
    refused: Option<Halt>,
    made: Option<Made<L>>,
    lap: Instant,
}

/// What an attempt has staged.
pub(super) struct Made<L: Ledger> {
    pub(super) admissions: Admissions<L>,
    /// Another server's head, if the batch goes on from that.
    pub(super) base: Option<(Tail, StoredHead)>,
    /// None if no item was placed: there is nothing to commit.
    pub(super) candidate: Option<Candidate>,
}

impl<L: Ledger> Made<L> {
    /// Whether the database's newest head is the one made here.
    pub(super) fn is(&self, stored: Option<&StoredHead>) -> bool {
        self.candidate.as_ref().zip(stored).is_some_and(|(made, stored)| made.is(stored))
    }
}

impl<'a, L: Ledger> Attempt<'a, L> {
    /// An attempt behind `tail`, at `(now, time of the newest head)`, with what `queue` adds.
    pub(super) fn new(
        tail: &'a Tail,
        keys: &'a LogKeys,
        marker: &'a Marker,
        counters: &'a Counters,
        (now, previous): (u64, u64),
        items: usize,
        queue: &'a mut dyn FnMut(&mut Vec<L::Item>),
    ) -> Self {
        let (base, refused, made, lap) = (None, None, None, Instant::now());
        Self { tail, keys, marker, counters, now, previous, queue, items, base, refused, made, lap }
    }

    /// What was staged, and why another server's head was refused.
    pub(super) fn end(self) -> (Option<Made<L>>, Option<Halt>) {
        (self.made, self.refused)
    }

    fn base_of(&self, stored: Stored) -> Result<Option<(Tail, StoredHead)>, Halt> {
        let (tail, head) = verified(stored, self.keys)?;
        not_back(self.tail, &tail)?;
        self.marker.check(tail.edge.size(), &tail.edge.root())?;
        Ok(head.map(|head| (tail, head)))
    }
}

impl<L: Ledger> Staging<L::Item, L::Placed, L::Refusal> for Attempt<'_, L> {
    fn gather(&mut self, items: &mut Vec<L::Item>) {
        (self.queue)(items);
        self.items = items.len();
    }

    fn moved(&mut self, stored: Stored) -> Option<u64> {
        match self.base_of(stored) {
            Ok(Some((tail, head))) => {
                let size = tail.edge.size();
                (self.previous, self.base) = (head.time, Some((tail, head)));
                Some(size)
            }
            // It was said to have moved, and there is none: then it went back.
            Ok(None) => {
                let known = self.tail.edge.size();
                self.refused = Some(LoadError::WentBack { known, stored: 0 }.into());
                None
            }
            Err(halt) => {
                self.refused = Some(halt);
                None
            }
        }
    }

    fn stage(&mut self, admissions: Admissions<L>) -> Option<Arc<Staged>> {
        // One admission each, or the answers would go to the wrong submitters.
        if admissions.len() != self.items {
            self.made = None;
            return None;
        }
        let entries: Vec<&Entry> = admissions.iter().filter_map(Admission::entry).collect();
        let worth = self.items == 0 || !entries.is_empty();
        let base = self.base.take();
        let tail = base.as_ref().map_or(self.tail, |(tail, _)| tail);
        let time = head_time(self.now, self.previous);
        let candidate = worth.then(|| stage(tail, &entries, self.keys, time));
        let staged = candidate.as_ref().map(|candidate| Arc::clone(&candidate.staged));
        self.made = Some(Made { admissions, base, candidate });
        self.done(Step::Stage);
        staged
    }

    fn done(&mut self, step: Step) {
        let now = Instant::now();
        self.counters.spent(step, now - self.lap);
        self.lap = now;
    }
}

impl<P, R> Admission<P, R> {
    fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Placed { entry, .. } => Some(entry),
            Self::Known { .. } | Self::Refused(_) => None,
        }
    }
}
