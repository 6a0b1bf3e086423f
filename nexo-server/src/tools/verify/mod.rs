//! `nexo-server log verify`: every row, entry, tile, head and deletion of the whole database,
//! against each other and against the log's keys.
//!
//! Everything is read in one state of the database, so servers may go on beside it. Nothing that
//! is stored is believed because it is stored: the tree is hashed anew from the entries, by code
//! that the builder does not have (`peaks.rs`), and every entry is made anew from the row it is
//! of. What it cannot tell is whether this is the log that others saw, but for the marker: that
//! is what clients and auditors are for.
//!
//! ```text
//! accounts (256 shards) and rules ──► ranges of 65,536 entries ──► tree, heads, root
//!     in parallel                         in parallel                 in order
//! ```
//!
//! `accounts.rs` accounts and devices · `step.rs` the checks of rows, one function each ·
//! `range.rs` entries and lower tiles · `tree.rs` upper tiles and roots · `head.rs` the newest
//! head and the marker · `state.rs` what a later run goes on from · `findings.rs` what is found ·
//! `workers.rs` threads

mod accounts;
mod entry;
mod findings;
mod head;
mod peaks;
mod range;
mod state;
mod step;
#[cfg(test)]
mod suite;
mod tree;
mod workers;

pub use findings::{Finding, Kind, MAX_LISTED};
pub use state::StateError;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use self::accounts::{Claimed, Ledgers, check_shard};
use self::findings::Findings;
use self::range::{Bundles, Checks, RANGE, check_range};
use self::tree::{Joiner, Tree};
use self::workers::in_order;
use crate::log::{Hash, LogKeys, MarkerError, announced};
use crate::store::whole::{Broken, Rule, Snapshot, broken, rules, snapshots};
use crate::store::{Conn, Database, StoreError};

/// How often the state is written while entries are verified.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What is to be verified.
#[derive(Debug)]
pub struct Order<'a> {
    /// The database.
    pub database: &'a Database,
    /// The log's keys.
    pub keys: &'a LogKeys,
    /// Where the marker is.
    pub data_dir: &'a Path,
    /// Threads, each with a connection of its own.
    pub jobs: usize,
    /// Where an earlier run left what it verified, and this one leaves it.
    pub state: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Entries in the log.
    pub size: u64,
    /// Its root, computed; `None` if entries are missing or the run was cut short.
    pub root: Option<Hash>,
    /// Entries that earlier runs had verified.
    pub from: u64,
    /// The first [`MAX_LISTED`] findings.
    pub findings: Vec<Finding>,
    /// All findings.
    pub count: u64,
    /// It was told to stop before everything was verified.
    pub stopped: bool,
}

/// Why a database could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// The marker cannot be read.
    #[error(transparent)]
    Marker(#[from] MarkerError),
}

/// Verifies the database, until `stop` is set. `bar` shows how far it is.
///
/// # Errors
/// [`VerifyError`]; whatever is wrong inside of the database is a finding instead.
pub fn verify(
    order: &Order<'_>,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> Result<Report, VerifyError> {
    let vkey = order.keys.log_vkey().to_string();
    let tree = order.state.as_ref().map(|path| state::read(path, &vkey)).transpose()?;
    // Before the snapshot: what is announced later may be newer than it.
    let marked = announced(order.data_dir)?;
    let jobs = order.jobs.max(1);
    let mut snapshots = snapshots(order.database, jobs + 1)?;
    let findings = Findings::default();
    let mut main = snapshots.pop().ok_or(StoreError::Busy)?;
    let conn = main.conn();
    let head = head::check(conn, order.keys, &findings)?;
    let size = head.as_ref().map_or(0, |head| head.size);
    let tree = head::resumed(tree.unwrap_or_default(), size, &findings);
    let marked = head::marked(marked, order.keys.origin(), size, &findings);
    let from = tree.entries();
    let rules = rules(size);
    let (ranged, whole): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|rule| rule.ranged);
    let run = Run {
        order,
        vkey,
        findings: &findings,
        bundles: Bundles::open(conn, size, &findings)?,
        claimed: Claimed::new(from, size),
        bar,
        stop,
    };
    run.accounts(&mut snapshots, &whole, from)?;
    let checks = Checks {
        keys: order.keys,
        bundles: &run.bundles,
        claimed: &run.claimed,
        rules: &ranged,
        marked,
        findings: &findings,
    };
    let joiner = run.ranges(&mut snapshots, &mut main, &checks, tree)?;
    let stopped = stop.load(Ordering::Relaxed);
    let root = match stopped {
        true => None,
        false => joiner.finish(main.conn())?.1,
    };
    let (findings, count) = findings.into_list();
    Ok(Report { size, root, from, findings, count, stopped })
}

/// One run.
struct Run<'a> {
    order: &'a Order<'a>,
    vkey: String,
    findings: &'a Findings,
    bundles: Bundles,
    claimed: Claimed,
    bar: &'a ProgressBar,
    stop: &'a AtomicBool,
}

/// A piece of the first phase.
enum Piece<'a> {
    Rule(&'a Rule),
    Shard(u8),
}

impl Run<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What is not in the order of the log.
    fn accounts(
        &self,
        snapshots: &mut [Snapshot],
        rules: &[Rule],
        behind: u64,
    ) -> Result<(), StoreError> {
        self.bar.set_message("accounts, references and counters");
        let ledgers = Ledgers {
            origin: self.order.keys.origin(),
            bundles: &self.bundles,
            behind,
            claimed: &self.claimed,
            findings: self.findings,
        };
        let pieces: Vec<Piece<'_>> =
            rules.iter().map(Piece::Rule).chain((0..=u8::MAX).map(Piece::Shard)).collect();
        let work = |conn: &mut Conn, number: u64| {
            let piece = usize::try_from(number).ok().and_then(|at| pieces.get(at));
            match piece.filter(|_| !self.stopped()) {
                Some(Piece::Rule(rule)) => apply(conn, rule, (0, 0), self.findings),
                Some(Piece::Shard(shard)) => check_shard(conn, &ledgers, *shard),
                None => Ok(()),
            }
        };
        in_order(snapshots, 0..pieces.len() as u64, &work, &mut |()| Ok(()))
    }

    /// The log itself.
    fn ranges<'f>(
        &'f self,
        snapshots: &mut [Snapshot],
        main: &mut Snapshot,
        checks: &Checks<'_>,
        tree: Tree,
    ) -> Result<Joiner<'f>, VerifyError> {
        let (from, size) = (tree.entries(), self.bundles.size);
        self.bar.set_message("entries");
        self.bar.set_length(size);
        self.bar.set_position(from);
        self.bar.reset_eta();
        let mut joiner = Joiner::new(tree, self.findings);
        let mut saved = Instant::now();
        let work = |conn: &mut Conn, number: u64| {
            let told = |entries| self.bar.inc(entries);
            check_range(conn, checks, number, &|| self.stopped(), &told)
        };
        let mut take = |done: Option<range::Done>| {
            // A range that was cut short is the end: those behind it have nothing to join.
            let Some(done) = done.filter(|_| !self.stopped()) else { return Ok(()) };
            joiner.take(main.conn(), done)?;
            if saved.elapsed() >= SAVE_EVERY {
                saved = Instant::now();
                self.save(&joiner.tree)?;
            }
            Ok::<_, VerifyError>(())
        };
        in_order(snapshots, from / RANGE..size.div_ceil(RANGE), &work, &mut take)?;
        self.save(&joiner.tree)?;
        Ok(joiner)
    }

    /// Leaves what was verified. Where anything is wrong the next run is to find it again.
    fn save(&self, tree: &Tree) -> Result<(), StateError> {
        match &self.order.state {
            Some(path) if self.findings.count() == 0 => state::write(path, &self.vkey, tree),
            _ => Ok(()),
        }
    }
}

/// The root that the entries of a log of `size` hash to; `None` if some are missing. `told` hears
/// of entries as they are hashed.
///
/// # Errors
/// [`StoreError`].
pub(super) fn entries_root(
    conn: &mut Conn,
    size: u64,
    told: &dyn Fn(u64),
) -> Result<Option<Hash>, StoreError> {
    range::entries_root(conn, size, told)
}

/// Asks for the rows that break a rule.
fn apply(
    conn: &mut Conn,
    rule: &Rule,
    range: (u64, u64),
    findings: &Findings,
) -> Result<(), StoreError> {
    let kind = match rule.broken {
        Broken::Reference => Kind::Reference,
        Broken::Counter => Kind::Counter,
        Broken::Surplus => Kind::Surplus,
    };
    // One more than is listed, so that the count shows that there are more.
    for place in broken(conn, rule, range, findings.room() + 1)? {
        findings.add(kind, 0, place, rule.what);
    }
    Ok(())
}
