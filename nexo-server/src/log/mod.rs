//! The log: one transparency log per server, one door, one writer.
//!
//! What it promises. An item that [`Log::submit`] took and whose [`Ticket`] was
//! answered with a [`Receipt`] is durable, has the index it was told, and lies
//! in the tree of the signed head that came with it. Indexes have no gap and no
//! duplicate, over restarts and crashes. No byte of a head leaves the process
//! before its commit. A database that is not the one this server last spoke of
//! is refused at start-up. A full queue is an answer, not a wait.
//!
//! What it is not. It knows no SQL (the store implements [`Ledger`]), no HTTP,
//! no meaning of an item. It verifies no proof: those who do not trust it do.
//!
//! ```text
//! submit ─► bounded queue ─► sequencer thread ─► Ledger::commit: begin, lock head, re-check items,
//!    full: an answer              │                  stage (batch.rs, tree.rs, signer.rs), commit
//!                                 └─► marker ─► adopt ─► bell (watch) ─► answer every ticket
//! ```
//!
//! `tree.rs` hashes (and alone knows the tree crate), `proof.rs` proves. A `head.rs` has what
//! its receipts share, so that their paths are looked up (`recent.rs`, `layers.rs`).
//! `signer.rs` and `keyfile.rs` keep and use the keys, `load.rs` checks what the database
//! says, `marker.rs` remembers what was told, `sequencer.rs` is the writer and `attempt.rs` its
//! part inside the transaction, `stats.rs` counts.

mod attempt;
mod batch;
mod head;
mod keyfile;
mod layers;
mod ledger;
mod load;
mod marker;
#[cfg(test)]
mod memory;
mod proof;
mod recent;
#[cfg(test)]
mod scenarios;
mod sequencer;
mod signer;
mod stats;
mod tree;

pub use batch::bundle_entries;
pub use head::Head;
pub use keyfile::KeyFileError;
pub use ledger::{
    Admission, BundleWrite, CommitError, Entry, EntryTooLong, Ledger, LedgerError, MAX_ENTRY,
    Staged, Staging, Stored, StoredHead, TailWrite,
};
pub use load::LoadError;
pub use marker::{Announced, MARKER_FILE, MarkerError, announced};
pub use proof::{ProofError, Tiles, consistency, inclusion, width};
pub use recent::RecentTiles;
pub use sequencer::Halt;
pub use signer::{KeyError, LOG_KEY_FILE, LogKeys, OwnHead, OwnNoteError, TIME_KEY_FILE};
pub use stats::{BatchStats, Counters, Histogram, LEAVES_BOUNDS, Step, TIME_BOUNDS};
pub use tree::{
    Edge, EdgeError, Hash, MAX_SIZE, TILE_HEIGHT, TILE_WIDTH, TileWrite, empty_root, leaf_hash,
    level_hashes, node_hash, subtree_root, tile_hashes,
};

use nexo_schema::checkpoint::VKey;
use nexo_schema::ids::Origin;
use sequencer::{Answer, Pace, Sequencer, Submission};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Items that may wait. At the rates one writer commits this is a tenth of a
/// second; what is beyond is better told to come back.
pub const QUEUE: usize = 8192;
/// Items in one transaction. Larger batches gain little and make the tail of the
/// latencies long (design/limits.md 6a).
pub const MAX_BATCH: usize = 1000;
/// Age at which an idle log's head is signed anew.
pub const RENEW_EVERY: Duration = Duration::from_secs(60);

const RENEW_RANGE: (Duration, Duration) =
    (Duration::from_millis(1), Duration::from_secs(24 * 3600));

/// The time: POSIX seconds.
pub type Clock = Box<dyn Fn() -> u64 + Send>;

/// How the log is run.
pub struct Options {
    /// Items that may wait, at least one; see [`QUEUE`].
    pub queue: usize,
    /// Most items in one transaction, at least one; see [`MAX_BATCH`].
    pub max_batch: usize,
    /// Without a commit for so long, the head's time is signed anew. Between a
    /// millisecond and a day, at which clients call a head stale.
    pub renew_every: Duration,
    /// Where the signed seconds come from.
    pub clock: Clock,
    /// Rings when another server on the same database may have written.
    pub others: Arc<Notify>,
    /// Where the writer's work is counted.
    pub counters: Arc<Counters>,
}

impl Options {
    /// The usual options under a clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            queue: QUEUE,
            max_batch: MAX_BATCH,
            renew_every: RENEW_EVERY,
            clock,
            others: Arc::default(),
            counters: Arc::default(),
        }
    }
}

/// What a submitter holds when its item is in the log.
#[derive(Debug, Clone)]
pub struct Receipt<P> {
    /// Position of its leaf, from 0. (`sth_index` is one more.)
    pub index: u64,
    /// What the store gave for it.
    pub placed: P,
    /// It had been in the log before; this is its old place.
    pub known: bool,
    /// A head that covers it. `head.tiles` have its path if it is new; that of an
    /// older place follows from [`inclusion`] over stored tiles.
    pub head: Arc<Head>,
}

/// Why an item was not even queued. Nothing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many items wait as may.
    #[error("the log's queue is full; try again in a moment")]
    Full,
    /// The log is shutting down or has stopped.
    #[error("the log takes no more items")]
    Closed,
}

/// Why a queued item has no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied<R> {
    /// The store refused it, in its own words. Nothing was written.
    #[error("the item was refused")]
    Refused(R),
    /// The database failed and nothing was written: try again later.
    #[error("the log could not commit the item; nothing was written, try again")]
    NotCommitted,
    /// It may or may not be in the log: try again with the same id, which is
    /// answered with the old place if it is.
    #[error("it is not known whether the item was committed; try again with the same msg_id")]
    OutcomeUnknown,
}

/// Why the log does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log in the database is not one to go on from.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The database is not the one whose head was last told.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The first head, or the renewed one, could not be committed.
    #[error("the log's head could not be committed")]
    FirstHead(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No thread or timer for the writer.
    #[error("the log's writer could not be started: {0}")]
    Thread(#[from] io::Error),
}

/// The door to the log. Clones are the same log.
pub struct Log<L: Ledger> {
    queue: mpsc::Sender<Submission<L>>,
    heads: watch::Receiver<Arc<Head>>,
    identity: Arc<Identity>,
    counters: Arc<Counters>,
    others: Arc<Notify>,
}

/// What the log tells of itself besides its heads.
#[derive(Debug)]
struct Identity {
    origin: Origin,
    log_vkey: VKey,
    time_vkey: VKey,
    key_list: Vec<u8>,
}

impl<L: Ledger> Log<L> {
    /// Loads the log, checks it against itself, the keys and the marker in
    /// `dir`, signs its head anew (the first one, if there is none) and starts
    /// the writer. Blocks on the database.
    ///
    /// # Errors
    /// [`StartError`] says what differs and what to do.
    pub fn start(
        ledger: L,
        keys: LogKeys,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Writer), StartError> {
        let identity = Arc::new(Identity {
            origin: keys.origin().clone(),
            log_vkey: keys.log_vkey().clone(),
            time_vkey: keys.time_vkey().clone(),
            key_list: keys.key_list(),
        });
        let (queue_in, queue) = mpsc::channel(options.queue.max(1));
        let pace = Pace {
            max_batch: options.max_batch.max(1),
            renew_every: options.renew_every.clamp(RENEW_RANGE.0, RENEW_RANGE.1),
            others: Arc::clone(&options.others),
        };
        let (others, counters) = (options.others, options.counters);
        let (sequencer, heads) =
            Sequencer::open(ledger, keys, dir, options.clock, Arc::clone(&counters))?;
        // On its own thread with its own timer: the database blocks it.
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("log".into())
            .spawn(move || sequencer.run_out(&timer, queue, stopped, pace))?;
        let log = Self { queue: queue_in, heads, identity, counters, others };
        Ok((log, Writer { stop, thread }))
    }

    /// Hands an item to the writer, without waiting. Once taken it may enter the
    /// log, whether or not its ticket is kept.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing happened.
    pub fn submit(&self, item: L::Item) -> Result<Ticket<L::Placed, L::Refusal>, SubmitError> {
        let (answer, ticket) = oneshot::channel();
        self.queue.try_send(Submission { item, answer }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => {
                self.counters.turned_away();
                SubmitError::Full
            }
            mpsc::error::TrySendError::Closed(_) => SubmitError::Closed,
        })?;
        Ok(Ticket(ticket))
    }

    /// The newest committed head.
    #[must_use]
    pub fn head(&self) -> Arc<Head> {
        self.heads.borrow().clone()
    }

    /// The bell: changes with every committed head, also with one that only
    /// renews the time. A new receiver may ring at once, for a head it did not
    /// miss; it never misses one.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Arc<Head>> {
        self.heads.clone()
    }

    /// Has the writer look whether another server has moved the head.
    pub fn look(&self) {
        self.others.notify_one();
    }

    /// Completes when the writer takes no more items, because it was shut down
    /// or has halted.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }

    /// Whether [`Log::closed`] has completed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.identity.origin
    }

    /// The log key, as clients pin it.
    #[must_use]
    pub fn log_vkey(&self) -> &VKey {
        &self.identity.log_vkey
    }

    /// The time key.
    #[must_use]
    pub fn time_vkey(&self) -> &VKey {
        &self.identity.time_vkey
    }

    /// The signed note that names the time key, to be served verbatim.
    #[must_use]
    pub fn key_list(&self) -> &[u8] {
        &self.identity.key_list
    }

    /// Items that wait for the writer, and how many may.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let most = self.queue.max_capacity();
        (most - self.queue.capacity(), most)
    }

    /// Counts of what the writer has done since the start.
    #[must_use]
    pub fn stats(&self) -> BatchStats {
        self.counters.read()
    }
}

// Derived, it would ask for a clonable ledger.
impl<L: Ledger> Clone for Log<L> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            heads: self.heads.clone(),
            identity: Arc::clone(&self.identity),
            counters: Arc::clone(&self.counters),
            others: Arc::clone(&self.others),
        }
    }
}

/// The claim to the answer for one item. Dropping it does not take the item back.
#[derive(Debug)]
pub struct Ticket<P, R>(oneshot::Receiver<Answer<P, R>>);

impl<P, R> Ticket<P, R> {
    /// Waits for the item's batch.
    ///
    /// # Errors
    /// [`Denied`]; if the writer died over the batch, `OutcomeUnknown`.
    pub async fn receipt(self) -> Result<Receipt<P>, Denied<R>> {
        self.0.await.unwrap_or(Err(Denied::OutcomeUnknown))
    }
}

/// The running writer. Dropping it begins the shutdown without waiting for it.
#[derive(Debug)]
pub struct Writer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Halt>>,
}

impl Writer {
    /// Takes no more items, commits those that wait, answers them, and ends the
    /// thread. Blocks until that is done.
    ///
    /// # Errors
    /// [`Halt`] if the writer had to give up, now or earlier.
    pub fn shutdown(self) -> Result<(), Halt> {
        // A writer that has halted is not there to hear it.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or(Err(Halt::Panicked))
    }
}
