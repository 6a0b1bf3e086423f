//! The walk over all leaves: jobs for threads, joined in order.
//!
//! ```text
//! jobs      [ 64 tiles ][ 64 tiles ][ 64 tiles ] ... [ the rest ]
//! threads       each takes the next job, reads its tiles and bundles, hashes them
//! here          takes what they made, in the order of the log: one tree, the levels above it,
//!               and after each unit the progress
//! ```
//!
//! A thread has a client and a runtime of its own, so that reading, decrypting and hashing all
//! happen on all cores. What it hands over is small: peaks and the roots of its tiles. No more
//! than [`IN_FLIGHT`] tiles with their bundles are in flight at a time, over all threads (or one
//! for each, where there are more threads), which bounds the memory whatever is served.

use super::Open;
use super::levels::Levels;
use crate::checkpoint::Checkpoint;
use crate::download::{Download, chunk};
use crate::fetch::{FetchError, Source};
use crate::finding::Finding;
use crate::merkle::{CompactRange, Hash};
use crate::rebuild::{Milestone, Rebuild};
use crate::state::{Progress, ProgressFile, StateError};
use crate::tile::{WIDTH, spans};
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

/// Leaves of a job: 64 tiles.
const JOB: u64 = 64 * WIDTH;
/// Tiles in flight, with bundles of at most 1 MiB each; enough to hide a round trip.
const IN_FLIGHT: usize = 32;
/// How often is told how far the threads are.
const TICK: Duration = Duration::from_millis(200);

/// Older heads by size.
pub(super) type Milestones = Box<dyn Iterator<Item = Result<Milestone, StateError>> + Send>;

/// Why a walk ended.
#[derive(Debug)]
pub(super) enum WalkError {
    Finding(Finding),
    State(StateError),
    Client(FetchError),
    Thread(std::io::Error),
}

impl From<Finding> for WalkError {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

impl From<StateError> for WalkError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// What a walk that led to the head has seen.
pub(super) struct Walked {
    pub(super) range: CompactRange,
    pub(super) heads: u64,
    pub(super) tiles: u64,
    pub(super) resumed: u64,
}

/// Some tiles for one thread.
struct Job {
    number: u64,
    start: u64,
    end: u64,
    /// Heads of sizes above `start`, up to `end`.
    heads: Vec<Milestone>,
}

/// What a thread made of a job.
struct Done {
    tree: Rebuild,
    tile_roots: Vec<Hash>,
    heads: u64,
}

type Outcome = (u64, Result<Done, WalkError>);

/// Jobs that nobody took yet.
struct Jobs {
    number: u64,
    start: u64,
    end: u64,
    heads: Peekable<Milestones>,
}

impl Jobs {
    fn next(&mut self) -> Option<Result<Job, (u64, StateError)>> {
        if self.start >= self.end {
            return None;
        }
        let (number, start) = (self.number, self.start);
        let end = self.end.min(start + JOB);
        (self.number, self.start) = (number + 1, end);
        let mut heads = Vec::new();
        // An error waits behind the heads before it.
        while let Some(head) =
            self.heads.next_if(|head| !matches!(head, Ok(head) if head.size > end))
        {
            match head {
                Ok(head) if head.size > start => heads.push(head),
                Ok(_) => {}
                Err(error) => return Some(Err((number, error))),
            }
        }
        Some(Ok(Job { number, start, end, heads }))
    }
}

/// What the threads share.
struct Shared<S> {
    open: Open<S>,
    jobs: Mutex<Jobs>,
    /// Leaves that were hashed.
    hashed: AtomicU64,
    stop: watch::Receiver<bool>,
    ahead: usize,
}

impl<S> Shared<S> {
    fn job(&self) -> Option<Result<Job, (u64, StateError)>> {
        // Taking a job does not panic; if it did, another thread would go on from there.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

/// A walk, with its threads at work. Dropping it stops them.
pub(super) struct Walk<'a, S> {
    head: &'a Checkpoint,
    source: &'a S,
    done: Progress,
    shared: Arc<Shared<S>>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    /// Closed when this is dropped, which the threads see.
    _stop: watch::Sender<bool>,
}

impl<'a, S: Source> Walk<'a, S> {
    /// Starts so many threads on the leaves after what is done.
    pub(super) fn start(
        source: &'a S,
        open: &Open<S>,
        head: &'a Checkpoint,
        heads: Milestones,
        done: Progress,
        threads: usize,
    ) -> Result<Self, WalkError> {
        let (start, end) = (done.size(), head.size);
        let jobs = (end - start).div_ceil(JOB);
        let threads = threads.min(usize::try_from(jobs).unwrap_or(usize::MAX));
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            open: Arc::clone(open),
            jobs: Mutex::new(Jobs { number: 0, start, end, heads: heads.peekable() }),
            hashed: AtomicU64::new(0),
            stop: stopped,
            ahead: (IN_FLIGHT / threads.max(1)).max(1),
        });
        let (told, outcomes) = mpsc::unbounded_channel();
        for _ in 0..threads {
            let (shared, told) = (Arc::clone(&shared), told.clone());
            let thread = std::thread::Builder::new().name("audit".to_owned());
            thread.spawn(move || work(&shared, &told)).map_err(WalkError::Thread)?;
        }
        Ok(Self { head, source, done, shared, outcomes, _stop: stop })
    }

    /// Joins what the threads make, up to the head.
    pub(super) async fn run(
        mut self,
        mut file: Option<&mut ProgressFile>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Walked, WalkError> {
        let done = std::mem::take(&mut self.done);
        let (resumed, mut heads, size) = (done.size(), done.heads, self.head.size);
        let mut tree = Rebuild::from(CompactRange::new());
        tree.append_units(&done.units);
        let mut levels = Levels::after(self.source, done.units).await?;
        let (mut arrived, mut next) = (BTreeMap::new(), 0);
        let mut tiles = 0;
        while tree.size() < size {
            let Some((number, outcome)) = self.outcome(resumed, progress).await else {
                // No thread is left, and the jobs are not done: they panicked.
                return Err(WalkError::Thread(std::io::Error::other("a thread ended early")));
            };
            arrived.insert(number, outcome);
            while let Some(outcome) = arrived.remove(&next) {
                let Done { tree: part, tile_roots, heads: passed } = outcome?;
                tiles += (part.size() - tree.size()).div_ceil(WIDTH);
                tree.join(part);
                heads += passed;
                levels.add(&tile_roots).await?;
                next += 1;
                if let Some(file) = &mut file
                    && tree.is_clean()
                    && levels.differs.is_none()
                {
                    keep(file, tree.size(), heads, &levels.units);
                }
            }
        }
        progress(size, size);
        levels.finish().await?;
        let range = tree.finish(self.head)?;
        match levels.differs {
            Some(finding) => Err(finding.into()),
            None => Ok(Walked { range, heads, tiles: tiles + levels.compared, resumed }),
        }
    }

    /// The next thing that a thread has made, telling meanwhile how far they are.
    async fn outcome(
        &mut self,
        resumed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Option<Outcome> {
        loop {
            progress(resumed + self.shared.hashed.load(Ordering::Relaxed), self.head.size);
            if let Ok(outcome) = tokio::time::timeout(TICK, self.outcomes.recv()).await {
                return outcome;
            }
        }
    }
}

/// Keeps the units, when what was joined ends where the last of them does.
fn keep(file: &mut ProgressFile, size: u64, heads: u64, units: &[Hash]) {
    let progress = Progress { from: 0, heads, units: units.to_vec() };
    if progress.size() == size {
        // Without it the next audit only has more to read.
        let _ = file.save(&progress);
    }
}

/// What a thread does: jobs, until there is none, one fails, or nobody waits for them.
fn work<S: Source>(shared: &Shared<S>, told: &mpsc::UnboundedSender<Outcome>) {
    let ready = ready(shared);
    while let Some(job) = shared.job() {
        let (number, outcome) = match (job, &ready) {
            (Err((number, error)), _) => (number, Err(error.into())),
            (Ok(job), Ok((runtime, source))) => {
                let number = job.number;
                let outcome = runtime.block_on(unless_stopped(shared, job, source));
                let Some(outcome) = outcome else { return };
                (number, outcome)
            }
            (Ok(job), Err(error)) => (job.number, Err(error.again())),
        };
        let failed = outcome.is_err();
        if told.send((number, outcome)).is_err() || failed {
            return;
        }
    }
}

/// What a thread works with.
fn ready<S: Source>(shared: &Shared<S>) -> Result<(Runtime, Arc<S>), NotReady> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(NotReady::Thread)?;
    let source = (shared.open)().map_err(NotReady::Client)?;
    Ok((runtime, Arc::new(source)))
}

/// Why a thread cannot work.
enum NotReady {
    Thread(std::io::Error),
    Client(FetchError),
}

impl NotReady {
    fn again(&self) -> WalkError {
        match self {
            Self::Thread(error) => WalkError::Thread(std::io::Error::from(error.kind())),
            Self::Client(error) => WalkError::Client(error.clone()),
        }
    }
}

/// `None` when nobody waits any more.
async fn unless_stopped<S: Source>(
    shared: &Shared<S>,
    job: Job,
    source: &Arc<S>,
) -> Option<Result<Done, WalkError>> {
    let mut stop = shared.stop.clone();
    tokio::select! {
        outcome = hash(shared, job, source) => Some(outcome.map_err(WalkError::Finding)),
        // An error: the sender is gone.
        _ = stop.changed() => None,
    }
}

/// Hashes the tiles of a job.
async fn hash<S: Source>(shared: &Shared<S>, job: Job, source: &Arc<S>) -> Result<Done, Finding> {
    let heads = job.heads.len() as u64;
    let mut tree = Rebuild::part(job.start).passing(job.heads);
    let mut spans = spans(job.start, job.end);
    if S::LOCAL {
        for span in spans {
            if shared.stop.has_changed().is_err() {
                // The answers are there at once, so nothing else lets the stop be seen.
                tokio::task::yield_now().await;
            }
            add(shared, &mut tree, &chunk(&**source, span).await?)?;
        }
    } else {
        let mut chunks =
            Download::new(Arc::clone(source), job.start / WIDTH, &mut spans, shared.ahead);
        while let Some(chunk) = chunks.next().await {
            add(shared, &mut tree, &chunk?)?;
        }
    }
    let tile_roots = tree.take_tile_roots();
    Ok(Done { tree, tile_roots, heads })
}

fn add<S>(
    shared: &Shared<S>,
    tree: &mut Rebuild,
    chunk: &crate::rebuild::Chunk,
) -> Result<(), Finding> {
    let before = tree.size();
    tree.add(chunk)?;
    shared.hashed.fetch_add(tree.size() - before, Ordering::Relaxed);
    Ok(())
}
