//! The one writer: takes what waits, stages it, commits it, then tells.
//!
//! Group commit that clocks itself: while one batch is in the database the next
//! one gathers. No batch waits for company; one that had to wait for another
//! server takes along what came meanwhile. Every step that can fail leaves
//! either the old state or the new one:
//!
//! ```text
//! Ledger::commit  moved        another server wrote: check it, go on from there, same transaction
//!                 RolledBack   nothing happened: answer NotCommitted, go on
//!                 Unknown      load: our staged head is there = it happened: answer receipts
//!                              else answer OutcomeUnknown (it may still arrive), go on
//! load or marker  unreadable,  lost: answer NotCommitted to all that comes, try to load again
//!                 unwritable   until it works
//!                 wrong        halt: answer, take no more, end the thread
//! ```
//!
//! Servers that share a database ring each other: then the head is loaded, checked and told
//! here as well (`attempt.rs` is the part inside the transaction).

use super::attempt::{Admissions, Attempt, Made};
use super::batch::{Candidate, Tail};
use super::ledger::{Admission, CommitError, Ledger, Staged, StoredHead};
use super::load::{LoadError, verified};
use super::marker::{Marker, MarkerError};
use super::recent::RecentTiles;
use super::signer::LogKeys;
use super::stats::{Counters, Step};
use super::{Clock, Denied, Head, Receipt, StartError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// How often a truth that cannot be read is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How long after a batch another server's bell is left to the next batch, which sees what it
/// rang for under the lock. Only a log with nothing to do has to look.
const BELL_PAUSE: Duration = Duration::from_millis(5);

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
    /// After a commit in doubt or by another server, the database is not one to go on from.
    #[error("the log stopped: {0}")]
    Load(#[from] LoadError),
    /// The database fell behind what was told.
    #[error("the log stopped: {0}")]
    Behind(#[from] MarkerError),
    /// The writer's thread panicked.
    #[error("the log stopped: its writer panicked")]
    Panicked,
}

/// What keeps the writer from knowing, or telling, how far the log is.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    /// The database cannot be read.
    #[error("the log's head cannot be read: {0}")]
    Unreadable(LoadError),
    /// The marker cannot be written.
    #[error("the marker of the newest head cannot be written: {0}")]
    Marker(#[source] io::Error),
    /// And never will be.
    #[error(transparent)]
    Halt(Halt),
}

impl From<LoadError> for Obstacle {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Ledger(_) => Self::Unreadable(error),
            wrong => Self::Halt(wrong.into()),
        }
    }
}

impl From<MarkerError> for Obstacle {
    fn from(error: MarkerError) -> Self {
        Self::Halt(error.into())
    }
}

/// Why a batch has no receipts.
#[derive(Debug)]
enum Failure {
    /// Nothing was written.
    NotCommitted(Box<dyn std::error::Error + Send + Sync>),
    /// Something may have been written.
    Unknown,
    /// And what was cannot be known or told now.
    Lost(Obstacle),
}

impl Failure {
    /// What the submitters are told.
    fn denial<R>(&self) -> Denied<R> {
        match self {
            Self::NotCommitted(_) => Denied::NotCommitted,
            Self::Unknown | Self::Lost(_) => Denied::OutcomeUnknown,
        }
    }

    /// What the operator is told. A commit in doubt was reported when it was found.
    fn report(&self, items: usize) {
        match self {
            Self::NotCommitted(error) => {
                tracing::warn!(items, error = &**error, "a batch was not committed");
            }
            Self::Unknown => {}
            Self::Lost(obstacle) => {
                let error = obstacle as &dyn std::error::Error;
                tracing::error!(items, error, "the log stops");
            }
        }
    }
}

impl From<Obstacle> for Failure {
    fn from(obstacle: Obstacle) -> Self {
        Self::Lost(obstacle)
    }
}

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
    /// Since when the truth is not known; the next look at it is due then.
    lost: Option<Instant>,
    /// Whether the last batch failed, so that an outage is reported once.
    failing: bool,
}

/// How the sequencer is run; see [`Options`](super::Options).
pub(super) struct Pace {
    pub(super) max_batch: usize,
    pub(super) renew_every: Duration,
    /// Rings when another server may have written.
    pub(super) others: Arc<Notify>,
}

impl<L: Ledger> Sequencer<L> {
    /// Loads and checks the log, and commits a head of this second, so that there
    /// is one, and a fresh one, before anyone can ask.
    pub(super) fn open(
        mut ledger: L,
        keys: LogKeys,
        dir: &Path,
        clock: Clock,
        counters: Arc<Counters>,
    ) -> Result<(Self, watch::Receiver<Arc<Head>>), StartError> {
        let (tail, stored) = verified(ledger.load().map_err(LoadError::from)?, &keys)?;
        let marker = Marker::open(dir, keys.origin())?;
        marker.check(tail.edge.size(), &tail.edge.root())?;
        if marker.is_blank() && tail.edge.size() > 0 {
            tracing::warn!(size = tail.edge.size(), "no marker of the newest head; beginning one");
        }
        let time = stored.as_ref().map_or(0, |head| head.time);
        // Nobody sees this one: the receiver is handed out after the next.
        let (size, root) = (tail.edge.size(), tail.edge.root());
        let unsigned = Head::new(size, root, Arc::from([]), time, RecentTiles::default());
        let heads = watch::Sender::new(Arc::new(unsigned));
        let (adopted, lost, failing) = (Instant::now(), None, false);
        let mut log = Self {
            ledger,
            keys,
            clock,
            tail,
            time,
            marker,
            heads,
            counters,
            adopted,
            lost,
            failing,
        };
        match log.commit(&mut Vec::new(), &mut |_| ()) {
            Ok(_) => {
                log.ledger.adopted(log.tail.edge.size(), Vec::new());
                let bell = log.heads.subscribe();
                Ok((log, bell))
            }
            Err(Failure::Lost(Obstacle::Halt(Halt::Load(e)) | Obstacle::Unreadable(e))) => {
                Err(e.into())
            }
            Err(Failure::Lost(Obstacle::Halt(Halt::Behind(e)))) => Err(e.into()),
            Err(Failure::Lost(obstacle)) => Err(StartError::FirstHead(obstacle.into())),
            Err(Failure::NotCommitted(e)) => Err(StartError::FirstHead(e)),
            Err(Failure::Unknown) => Err(StartError::FirstHead(
                "the outcome of the commit is not known; start again".into(),
            )),
        }
    }

    /// Sequences on this thread until the queue is closed and empty, and answers what came too
    /// late for that.
    ///
    /// # Errors
    /// [`Halt`].
    pub(super) fn run_out(
        self,
        timer: &Runtime,
        mut queue: mpsc::Receiver<Submission<L>>,
        stop: oneshot::Receiver<()>,
        pace: Pace,
    ) -> Result<(), Halt> {
        let run = || timer.block_on(self.run(&mut queue, stop, pace));
        let ended = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(Halt::Panicked));
        queue.close();
        // Waits for what is on its way in: with the receiver dropped that would stay inside, and
        // whoever holds its ticket would wait for ever.
        while let Some(Submission { answer, .. }) = queue.blocking_recv() {
            let _ = answer.send(Err(Denied::NotCommitted));
        }
        ended
    }

    async fn run(
        mut self,
        queue: &mut mpsc::Receiver<Submission<L>>,
        mut stop: oneshot::Receiver<()>,
        pace: Pace,
    ) -> Result<(), Halt> {
        let mut batch = Vec::with_capacity(pace.max_batch);
        let mut renew_at = self.adopted + pace.renew_every;
        let (mut stopping, mut rung) = (false, false);
        loop {
            let looks = [self.lost, rung.then(|| self.adopted + BELL_PAUSE)];
            let wake = looks.into_iter().flatten().fold(renew_at, Instant::min);
            let taken = tokio::select! {
                biased;
                _ = &mut stop, if !stopping => {
                    stopping = true;
                    queue.close();
                    continue;
                }
                taken = queue.recv_many(&mut batch, pace.max_batch) => taken,
                () = pace.others.notified(), if !rung => {
                    rung = true;
                    continue;
                }
                () = tokio::time::sleep_until(wake.into()) => 0,
            };
            if taken == 0 && queue.is_closed() && queue.is_empty() {
                return Ok(());
            }
            let (before, due) = (self.adopted, Instant::now() >= renew_at);
            let mut done = match taken {
                0 => self.look(),
                _ => self.sequence(&mut batch, queue, pace.max_batch),
            };
            // Refused items commit nothing: a busy log may need renewal too.
            if done.is_ok() && due && self.adopted == before {
                done = self.sequence(&mut batch, queue, pace.max_batch);
            }
            done?;
            rung &= taken > 0 && self.adopted == before;
            if due || self.adopted != before {
                renew_at = Instant::now() + pace.renew_every;
            }
        }
    }

    /// Commits a batch, with what of the queue still fits into it, and answers everyone in it.
    /// An empty one renews the head.
    fn sequence(
        &mut self,
        batch: &mut Vec<Submission<L>>,
        queue: &mut mpsc::Receiver<Submission<L>>,
        max_batch: usize,
    ) -> Result<(), Halt> {
        let (mut items, mut answers): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|s| (s.item, s.answer)).unzip();
        let mut waiting = |items: &mut Vec<L::Item>| {
            while items.len() < max_batch
                && let Ok(Submission { item, answer }) = queue.try_recv()
            {
                items.push(item);
                answers.push(answer);
            }
        };
        let outcome = match self.lost {
            None => self.commit(&mut items, &mut waiting),
            Some(_) => match self.look() {
                Err(halt) => Err(Failure::Lost(Obstacle::Halt(halt))),
                Ok(()) if self.lost.is_none() => self.commit(&mut items, &mut waiting),
                Ok(()) => Err(Failure::NotCommitted("the log's head is not known".into())),
            },
        };
        let failure = match outcome {
            Ok(admissions) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(size = self.tail.edge.size(), "batches are committed again");
                }
                let began = Instant::now();
                self.answer(admissions, answers);
                self.ledger.adopted(self.tail.edge.size(), items);
                self.counters.spent(Step::Adopt, began.elapsed());
                return Ok(());
            }
            Err(failure) => failure,
        };
        if !std::mem::replace(&mut self.failing, true) {
            failure.report(items.len());
        }
        self.counters.failed();
        for answer in answers {
            // Who dropped the ticket does not want to know.
            let _ = answer.send(Err(failure.denial()));
        }
        match failure {
            Failure::Lost(obstacle) => self.lose(obstacle),
            Failure::NotCommitted(_) | Failure::Unknown => Ok(()),
        }
    }

    /// Looks whether another server has written, or whether what was lost is back.
    fn look(&mut self) -> Result<(), Halt> {
        if self.lost.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        let found = match self.ledger.size() {
            // Nothing new, as after our own commits.
            Ok(size) if self.lost.is_none() && size == self.tail.edge.size() => return Ok(()),
            Ok(_) => self.reload(),
            Err(error) => Err(LoadError::from(error).into()),
        };
        match found {
            Ok(()) => {
                if self.lost.take().is_some() {
                    tracing::info!(size = self.tail.edge.size(), "the log goes on");
                }
                self.ledger.adopted(self.tail.edge.size(), Vec::new());
                Ok(())
            }
            Err(obstacle) => self.lose(obstacle),
        }
    }

    /// Nothing is told from here on until a look at the truth succeeds.
    fn lose(&mut self, obstacle: Obstacle) -> Result<(), Halt> {
        if self.lost.is_none() {
            let error = &obstacle as &dyn std::error::Error;
            tracing::error!(error, "the log waits until this is mended");
        }
        self.lost = Some(Instant::now() + LOOK_AGAIN);
        match obstacle {
            Obstacle::Halt(halt) => Err(halt),
            Obstacle::Unreadable(_) | Obstacle::Marker(_) => Ok(()),
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
    fn commit(
        &mut self,
        items: &mut Vec<L::Item>,
        queue: &mut dyn FnMut(&mut Vec<L::Item>),
    ) -> Result<Admissions<L>, Failure> {
        let mut attempt = Attempt::<L>::new(
            &self.tail,
            &self.keys,
            &self.marker,
            &self.counters,
            ((self.clock)(), self.time),
            items.len(),
            queue,
        );
        let (expected, began) = (self.tail.edge.size(), Instant::now());
        let outcome = self.ledger.commit(expected, items, &mut attempt);
        let (made, refused) = attempt.end();
        match (outcome, made) {
            (Ok(()), Some(made)) => self.settle(made, began),
            (Err(CommitError::HeadMoved), made) => match refused {
                Some(halt) => Err(Failure::Lost(Obstacle::Halt(halt))),
                None => self.resolve(made, began),
            },
            (Err(CommitError::RolledBack(error)), _) => Err(Failure::NotCommitted(error)),
            (Err(CommitError::Unknown(error)), made) => {
                if !self.failing {
                    tracing::error!(error = &*error, expected, "a commit is in doubt");
                }
                self.resolve(made, began)
            }
            // The ledger broke its contract; believe only what is stored.
            (Ok(()), None) => {
                tracing::error!(expected, "a commit was reported that was never staged");
                self.resolve(None, began)
            }
        }
    }

    /// After a commit that is known to have happened.
    fn settle(&mut self, made: Made<L>, began: Instant) -> Result<Admissions<L>, Failure> {
        let Made { admissions, base, candidate } = made;
        let refused = admissions.iter().filter(|a| matches!(a, Admission::Refused(_))).count();
        self.counters.refused(refused as u64);
        if let Some(candidate) = candidate {
            let before = base.as_ref().map_or(self.tail.edge.size(), |(tail, _)| tail.edge.size());
            let head = head_of(&candidate);
            let leaves = head.size - before;
            self.adopt(candidate.tail, head)?;
            self.counters.committed(leaves, began.elapsed());
        } else if let Some((tail, stored)) = base {
            // Nothing of ours, but what is known of others must lie under the head told.
            self.adopt_stored(tail, Some(stored))?;
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
                self.ledger.adopted(self.tail.edge.size(), Vec::new());
                Err(Failure::Unknown)
            }
        }
    }

    /// Takes the database's newest head for ours.
    fn reload(&mut self) -> Result<(), Obstacle> {
        let (tail, stored) = self.loaded()?;
        self.adopt_stored(tail, stored)
    }

    /// The database's newest head, checked also against what we know.
    fn loaded(&mut self) -> Result<(Tail, Option<StoredHead>), Obstacle> {
        let (tail, stored) = verified(self.ledger.load().map_err(LoadError::from)?, &self.keys)?;
        not_back(&self.tail, &tail)?;
        self.marker.check(tail.edge.size(), &tail.edge.root())?;
        Ok((tail, stored))
    }

    fn adopt_stored(&mut self, tail: Tail, stored: Option<StoredHead>) -> Result<(), Obstacle> {
        // Still none when the very first commit failed: nothing to adopt.
        let Some(StoredHead { size, root, note, time }) = stored else { return Ok(()) };
        if *self.heads.borrow().note == *note {
            return Ok(());
        }
        let tiles = RecentTiles::new(size, tail.edge.partial_tiles());
        self.adopt(tail, Head::new(size, root, note.into(), time, tiles))
    }

    /// Makes a committed head ours, and tells. The marker goes first: whoever
    /// hears of this head may hold us to it.
    fn adopt(&mut self, tail: Tail, head: Head) -> Result<(), Obstacle> {
        self.marker.set(head.size, head.root).map_err(Obstacle::Marker)?;
        (self.tail, self.time, self.adopted) = (tail, head.time, Instant::now());
        self.heads.send_replace(Arc::new(head));
        Ok(())
    }
}

/// A log only grows: `now` must hold what `known` did.
///
/// # Errors
/// [`LoadError::WentBack`].
pub(super) fn not_back(known: &Tail, now: &Tail) -> Result<(), LoadError> {
    let (size, grown) = (known.edge.size(), now.edge.size());
    if grown < size || (grown == size && now.edge.root() != known.edge.root()) {
        return Err(LoadError::WentBack { known: size, stored: grown });
    }
    Ok(())
}

fn head_of(candidate: &Candidate) -> Head {
    let Staged { size, root, note, time, .. } = &*candidate.staged;
    Head::new(*size, *root, note.as_slice().into(), *time, candidate.recent_tiles())
}
