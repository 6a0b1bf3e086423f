//! The one writer: takes what waits, stages it, commits it, then tells.
//!
//! Group commit that clocks itself: while one batch is in the database the next
//! one gathers. No batch waits for company. Every step that can fail leaves
//! either the old state or the new one:
//!
//! ```text
//! Ledger::commit  HeadMoved    another server wrote: load, check, try the same items again
//!                 RolledBack   nothing happened: answer NotCommitted, go on
//!                 Unknown      load: our staged head is there = it happened: answer receipts
//!                              else answer OutcomeUnknown (it may still arrive), go on
//! load or marker  fails        halt: answer, take no more, end the thread
//! ```

use super::batch::{Candidate, Tail, head_time, stage};
use super::ledger::{Admission, CommitError, Entry, Ledger, Staged, StoredHead};
use super::load::{LoadError, verified};
use super::marker::{Marker, MarkerError};
use super::recent::RecentTiles;
use super::signer::LogKeys;
use super::stats::Counters;
use super::{Clock, Denied, Head, Receipt, StartError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Tries of a batch whose head keeps moving. Between load and commit other
/// servers may win the lock; a batch that loses so often is told to come back.
const ATTEMPTS: usize = 8;

/// What a ticket is answered with.
pub(super) type Answer<P, R> = Result<Receipt<P>, Denied<R>>;

/// An item on its way in.
pub(super) struct Submission<L: Ledger> {
    pub(super) item: L::Item,
    pub(super) answer: oneshot::Sender<Answer<L::Placed, L::Refusal>>,
}

/// Why the writer gave up. The process should end; start-up checks everything.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// After a commit in doubt or by another server, the database could not be
    /// read or is not one to go on from.
    #[error("the log stopped: {0}")]
    Load(#[from] LoadError),
    /// The database fell behind what was told.
    #[error("the log stopped: {0}")]
    Behind(#[from] MarkerError),
    /// The marker could not be written.
    #[error("the log stopped: the marker of the newest head could not be written: {0}")]
    Marker(#[source] io::Error),
    /// The writer's thread panicked.
    #[error("the log stopped: its writer panicked")]
    Panicked,
}

/// Why a batch has no receipts.
#[derive(Debug)]
enum Failure {
    /// Nothing was written.
    NotCommitted(Box<dyn std::error::Error + Send + Sync>),
    /// Something may have been written.
    Unknown,
    /// And nothing more will be.
    Halt(Halt),
}

impl Failure {
    /// What the submitters are told.
    fn denial<R>(&self) -> Denied<R> {
        match self {
            Self::NotCommitted(_) => Denied::NotCommitted,
            Self::Unknown | Self::Halt(_) => Denied::OutcomeUnknown,
        }
    }

    /// What the operator is told. A commit in doubt was reported when it was found.
    fn report(&self, items: usize) {
        match self {
            Self::NotCommitted(error) => {
                tracing::warn!(items, error = &**error, "a batch was not committed");
            }
            Self::Unknown => {}
            Self::Halt(halt) => {
                tracing::error!(items, error = halt as &dyn std::error::Error, "the log stops");
            }
        }
    }
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

type Admissions<L> = Vec<Admission<<L as Ledger>::Placed, <L as Ledger>::Refusal>>;

/// The writer's state. Everything here is committed: staged values live in
/// [`Attempt`] and are adopted whole.
pub(super) struct Sequencer<L: Ledger> {
    ledger: L,
    keys: LogKeys,
    clock: Clock,
    tail: Tail,
    /// Time in the newest head; 0 before the first.
    time: u64,
    marker: Marker,
    heads: watch::Sender<Arc<Head>>,
    counters: Arc<Counters>,
    /// When the newest head was adopted, for the renewal of idle logs.
    adopted: Instant,
}

impl<L: Ledger> Sequencer<L> {
    /// Loads and checks the log, and commits a head of this second, so that there
    /// is one, and a fresh one, before anyone can ask.
    pub(super) fn open(
        mut ledger: L,
        keys: LogKeys,
        dir: &Path,
        clock: Clock,
    ) -> Result<(Self, watch::Receiver<Arc<Head>>), StartError> {
        let (tail, stored) = verified(ledger.load().map_err(LoadError::from)?, &keys)?;
        let marker = Marker::open(dir, keys.origin())?;
        marker.check(tail.edge.size(), &tail.edge.root())?;
        if marker.is_blank() && tail.edge.size() > 0 {
            tracing::warn!(size = tail.edge.size(), "no marker of the newest head; beginning one");
        }
        let time = stored.as_ref().map_or(0, |head| head.time);
        // Nobody sees this one: the receiver is handed out after the next.
        let unsigned = Head {
            size: tail.edge.size(),
            root: tail.edge.root(),
            note: Arc::from([]),
            time,
            tiles: RecentTiles::default(),
        };
        let heads = watch::Sender::new(Arc::new(unsigned));
        let (counters, adopted) = (Arc::default(), Instant::now());
        let mut log = Self { ledger, keys, clock, tail, time, marker, heads, counters, adopted };
        match log.commit(&[]) {
            Ok(_) => {
                let bell = log.heads.subscribe();
                Ok((log, bell))
            }
            Err(Failure::Halt(Halt::Load(e))) => Err(e.into()),
            Err(Failure::Halt(Halt::Behind(e))) => Err(e.into()),
            Err(Failure::Halt(halt)) => Err(StartError::FirstHead(halt.into())),
            Err(Failure::NotCommitted(e)) => Err(StartError::FirstHead(e)),
            Err(Failure::Unknown) => Err(StartError::FirstHead(
                "the outcome of the commit is not known; start again".into(),
            )),
        }
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Sequences until the queue is closed and empty.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Submission<L>>,
        mut stop: oneshot::Receiver<()>,
        max_batch: usize,
        renew_every: Duration,
    ) -> Result<(), Halt> {
        let mut batch = Vec::with_capacity(max_batch);
        let mut renew_at = self.adopted + renew_every;
        let mut stopping = false;
        let outcome = loop {
            let taken = tokio::select! {
                biased;
                _ = &mut stop, if !stopping => {
                    stopping = true;
                    queue.close();
                    continue;
                }
                taken = queue.recv_many(&mut batch, max_batch) => taken,
                () = tokio::time::sleep_until(renew_at.into()) => 0,
            };
            if taken == 0 && queue.is_closed() && queue.is_empty() {
                break Ok(());
            }
            let before = self.adopted;
            let due = Instant::now() >= renew_at;
            let mut done = if taken > 0 { self.sequence(batch.drain(..)) } else { Ok(()) };
            // Refused items commit nothing: a busy log may need renewal too.
            if done.is_ok() && due && self.adopted == before {
                done = self.sequence(std::iter::empty());
            }
            if done.is_err() {
                break done;
            }
            if due || self.adopted != before {
                renew_at = Instant::now() + renew_every;
            }
        };
        queue.close();
        while let Ok(Submission { answer, .. }) = queue.try_recv() {
            let _ = answer.send(Err(Denied::NotCommitted));
        }
        outcome
    }

    /// Commits a batch and answers everyone in it. An empty one renews the head.
    fn sequence(&mut self, batch: impl Iterator<Item = Submission<L>>) -> Result<(), Halt> {
        let (items, answers): (Vec<_>, Vec<_>) = batch.map(|s| (s.item, s.answer)).unzip();
        let failure = match self.commit(&items) {
            Ok(admissions) => {
                self.answer(admissions, answers);
                self.ledger.adopted(self.tail.edge.size());
                return Ok(());
            }
            Err(failure) => failure,
        };
        failure.report(items.len());
        for answer in answers {
            // Who dropped the ticket does not want to know.
            let _ = answer.send(Err(failure.denial()));
        }
        match failure {
            Failure::Halt(halt) => Err(halt),
            Failure::NotCommitted(_) | Failure::Unknown => Ok(()),
        }
    }

    /// Gives every submitter its place, counting from where the batch began.
    fn answer(
        &self,
        admissions: Admissions<L>,
        answers: Vec<oneshot::Sender<Answer<L::Placed, L::Refusal>>>,
    ) {
        let head = self.heads.borrow().clone();
        let placed = admissions.iter().filter(|a| matches!(a, Admission::Placed { .. })).count();
        let mut next = head.size - placed as u64;
        for (admission, answer) in admissions.into_iter().zip(answers) {
            let head = Arc::clone(&head);
            let _ = answer.send(match admission {
                Admission::Placed { placed, .. } => {
                    next += 1;
                    Ok(Receipt { index: next - 1, placed, known: false, head })
                }
                Admission::Known { index, placed } => {
                    Ok(Receipt { index, placed, known: true, head })
                }
                Admission::Refused(refusal) => Err(Denied::Refused(refusal)),
            });
        }
    }

    /// Brings the items into the log and adopts what that makes of it.
    fn commit(&mut self, items: &[L::Item]) -> Result<Admissions<L>, Failure> {
        for _ in 0..ATTEMPTS {
            let time = head_time((self.clock)(), self.time);
            let mut attempt = Attempt::<L> {
                tail: &self.tail,
                keys: &self.keys,
                time,
                items: items.len(),
                made: None,
            };
            let (expected, began) = (self.tail.edge.size(), Instant::now());
            let outcome =
                self.ledger.commit(expected, items, &mut |admissions| attempt.stage(admissions));
            let made = attempt.made;
            match (outcome, made) {
                (Ok(()), Some(made)) => return self.settle(made, began),
                (Err(CommitError::HeadMoved { found }), _) => {
                    tracing::info!(expected, found, "another server moved the head");
                    self.reload()?;
                }
                (Err(CommitError::RolledBack(error)), _) => {
                    return Err(Failure::NotCommitted(error));
                }
                (Err(CommitError::Unknown(error)), made) => {
                    tracing::error!(error = &*error, expected, "a commit is in doubt");
                    return self.resolve(made, began);
                }
                // The ledger broke its contract; believe only what is stored.
                (Ok(()), None) => {
                    tracing::error!(expected, "a commit was reported that was never staged");
                    return self.resolve(None, began);
                }
            }
        }
        Err(Failure::NotCommitted("other servers kept moving the head".into()))
    }

    /// After a commit that is known to have happened.
    fn settle(&mut self, made: Made<L>, began: Instant) -> Result<Admissions<L>, Failure> {
        let Made { admissions, candidate, staging } = made;
        if let Some(candidate) = candidate {
            let before = self.tail.edge.size();
            let head = head_of(&candidate);
            self.adopt(candidate.tail, head)?;
            let items = self.tail.edge.size() - before;
            self.counters.count(items, staging, began.elapsed().saturating_sub(staging));
        }
        Ok(admissions)
    }

    /// After a commit in doubt: it happened if the database has its head. If not,
    /// that is no proof: it may still be on its way there, or lie under a head
    /// that another server has added since.
    fn resolve(&mut self, made: Option<Made<L>>, began: Instant) -> Result<Admissions<L>, Failure> {
        let (tail, stored) = self.loaded()?;
        match made {
            Some(made) if made.is(stored.as_ref()) => self.settle(made, began),
            _ => {
                self.adopt_stored(tail, stored)?;
                Err(Failure::Unknown)
            }
        }
    }

    /// Takes the database's newest head for ours.
    fn reload(&mut self) -> Result<(), Halt> {
        let (tail, stored) = self.loaded()?;
        self.adopt_stored(tail, stored)
    }

    /// The database's newest head, checked also against what we know.
    fn loaded(&mut self) -> Result<(Tail, Option<StoredHead>), Halt> {
        let (tail, stored) = verified(self.ledger.load().map_err(LoadError::from)?, &self.keys)?;
        let known = self.tail.edge.size();
        let (size, root) = (tail.edge.size(), tail.edge.root());
        if size < known || (size == known && root != self.tail.edge.root()) {
            return Err(LoadError::WentBack { known, stored: size }.into());
        }
        self.marker.check(size, &root)?;
        Ok((tail, stored))
    }

    fn adopt_stored(&mut self, tail: Tail, stored: Option<StoredHead>) -> Result<(), Halt> {
        // Still none when the very first commit failed: nothing to adopt.
        let Some(StoredHead { size, root, note, time }) = stored else { return Ok(()) };
        let tiles = RecentTiles::new(tail.edge.partial_tiles());
        self.adopt(tail, Head { size, root, note: note.into(), time, tiles })
    }

    /// Makes a committed head ours, and tells. The marker goes first: whoever
    /// hears of this head may hold us to it.
    fn adopt(&mut self, tail: Tail, head: Head) -> Result<(), Halt> {
        self.marker.set(head.size, head.root).map_err(Halt::Marker)?;
        (self.tail, self.time, self.adopted) = (tail, head.time, Instant::now());
        self.heads.send_replace(Arc::new(head));
        Ok(())
    }
}

fn head_of(candidate: &Candidate) -> Head {
    let Staged { size, root, note, time, .. } = &*candidate.staged;
    let tiles = candidate.recent_tiles();
    Head { size: *size, root: *root, note: note.as_slice().into(), time: *time, tiles }
}

/// One call of [`Ledger::commit`], as seen from inside it.
struct Attempt<'a, L: Ledger> {
    tail: &'a Tail,
    keys: &'a LogKeys,
    time: u64,
    items: usize,
    made: Option<Made<L>>,
}

/// What an attempt has staged.
struct Made<L: Ledger> {
    admissions: Admissions<L>,
    /// None if no item was placed: there is nothing to commit.
    candidate: Option<Candidate>,
    staging: Duration,
}

impl<L: Ledger> Made<L> {
    /// Whether the database's newest head is the one made here.
    fn is(&self, stored: Option<&StoredHead>) -> bool {
        self.candidate.as_ref().zip(stored).is_some_and(|(made, stored)| made.is(stored))
    }
}

impl<L: Ledger> Attempt<'_, L> {
    fn stage(&mut self, admissions: Admissions<L>) -> Option<Arc<Staged>> {
        // One admission each, or the answers would go to the wrong submitters.
        if admissions.len() != self.items {
            self.made = None;
            return None;
        }
        let began = Instant::now();
        let entries: Vec<&Entry> = admissions.iter().filter_map(Admission::entry).collect();
        let worth = self.items == 0 || !entries.is_empty();
        let candidate = worth.then(|| stage(self.tail, &entries, self.keys, self.time));
        let staged = candidate.as_ref().map(|candidate| Arc::clone(&candidate.staged));
        self.made = Some(Made { admissions, candidate, staging: began.elapsed() });
        staged
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
