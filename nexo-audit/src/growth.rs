//! The new part of a log, read in order: from a remembered tree to a newer head.
//!
//! ```text
//! from                first unit                                       head
//!  |  single tiles       |  65,536 leaves  |  65,536 leaves  |  tiles   |
//!                        '-- their roots are the progress that is kept -'
//! ```
//!
//! One tile after another, a few ahead in flight, so that the work is in proportion to what is
//! new. [`crate::full`] reads the whole log instead, in parallel, and all its tiles.

use crate::checkpoint::Checkpoint;
use crate::download::{AHEAD, Download};
use crate::fetch::Source;
use crate::finding::{Finding, Verdict};
use crate::merkle::{CompactRange, Hash, full_root};
use crate::rebuild::{Milestone, Rebuild};
use crate::state::{Progress, ProgressFile};
use crate::tile::{WIDTH, spans};
use std::sync::Arc;

/// What the tree has to become, and pass.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The newer head.
    pub(crate) head: &'a Checkpoint,
    /// A head between the remembered tree and the newer one that was accepted before.
    pub(crate) milestone: Option<Milestone>,
}

/// Grows `older` by every entry up to the target's head. `file` is where progress is kept.
pub(crate) async fn grow<S: Source>(
    source: Arc<S>,
    older: &CompactRange,
    target: Target<'_>,
    mut file: Option<&mut ProgressFile>,
    tick: &mut dyn FnMut(u64, u64),
) -> Result<CompactRange, Finding> {
    let (from, to) = (older.size(), target.head.size);
    let done = file.as_ref().and_then(|file| file.load(from, to));
    let done = done.filter(|done| done.heads == target.heads_within(done.size()));
    if let Some(done) = done {
        let resumed = Growth { older, target, tick: &mut *tick, file: file.as_deref_mut() };
        match resumed.run(Arc::clone(&source), done).await {
            Err(finding) if accuses(&finding) => {}
            outcome => return outcome,
        }
    }
    // Nobody is accused by what a file said: from the beginning, with nothing but the memory.
    let nothing = Progress { from, ..Progress::default() };
    Growth { older, target, tick, file }.run(source, nothing).await
}

/// Whether a finding is about the content of the log, and not about reaching it.
pub(crate) fn accuses(finding: &Finding) -> bool {
    !matches!(finding.verdict(), Verdict::Unreachable | Verdict::MissingResource)
}

impl Target<'_> {
    fn heads_within(&self, size: u64) -> u64 {
        self.milestone.iter().filter(|head| head.size <= size).count() as u64
    }
}

struct Growth<'a> {
    older: &'a CompactRange,
    target: Target<'a>,
    tick: &'a mut dyn FnMut(u64, u64),
    file: Option<&'a mut ProgressFile>,
}

impl Growth<'_> {
    async fn run<S: Source>(
        mut self,
        source: Arc<S>,
        done: Progress,
    ) -> Result<CompactRange, Finding> {
        let mut rebuild = Rebuild::from(self.older.clone()).passing(self.target.milestone);
        let (first_unit, to) = (done.first_unit(), self.target.head.size);
        self.read(&source, &mut rebuild, first_unit.min(to), None).await?;
        rebuild.append_units(&done.units);
        let mut units = Units::of(done.units);
        self.read(&source, &mut rebuild, to, Some(&mut units)).await?;
        rebuild.finish(self.target.head)
    }

    /// Adds the leaves up to `to`, the start of a tile or the end of the tree. With `units`, their
    /// tiles are counted into them, and these are kept.
    async fn read<S: Source>(
        &mut self,
        source: &Arc<S>,
        rebuild: &mut Rebuild,
        to: u64,
        mut units: Option<&mut Units>,
    ) -> Result<(), Finding> {
        let (from, start, end) = (self.older.size(), rebuild.size(), self.target.head.size);
        let wanted = spans(start, to);
        let mut chunks = Download::new(Arc::clone(source), start / WIDTH, wanted, AHEAD);
        while let Some(chunk) = chunks.next().await {
            rebuild.add(&chunk?)?;
            (self.tick)(rebuild.size() - from, end - from);
            let roots = rebuild.take_tile_roots();
            let Some(units) = &mut units else { continue };
            if units.add(&roots) && rebuild.is_clean() {
                self.keep(rebuild.size(), &units.roots);
            }
        }
        Ok(())
    }

    fn keep(&mut self, size: u64, units: &[Hash]) {
        let Some(file) = &mut self.file else { return };
        let (from, heads) = (self.older.size(), self.target.heads_within(size));
        // Without it the next audit only has more to read.
        let _ = file.save(&Progress { from, heads, units: units.to_vec() });
    }
}

/// Units of the tree, made of the tiles that come one after another from where a unit begins.
pub(crate) struct Units {
    tiles: Vec<Hash>,
    pub(crate) roots: Vec<Hash>,
}

impl Units {
    pub(crate) fn of(roots: Vec<Hash>) -> Self {
        Self { tiles: Vec::with_capacity(256), roots }
    }

    /// Adds roots of tiles; whether that completed a unit.
    pub(crate) fn add(&mut self, tiles: &[Hash]) -> bool {
        let before = self.roots.len();
        for tile in tiles {
            self.tiles.push(*tile);
            if self.tiles.len() as u64 == WIDTH {
                self.roots.push(full_root(&mut self.tiles));
                self.tiles.clear();
            }
        }
        self.roots.len() > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::FetchError;
    use crate::merkle::ProofError;
    use crate::state::{ProgressFile, UNIT};
    use crate::testlog::{Shelf, TestLog};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Counts what is asked for, and ends like a connection after so many answers.
    struct Counted {
        shelf: Shelf,
        left: AtomicU64,
        asked: AtomicU64,
    }

    impl Source for Counted {
        async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let left = self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            left.map_err(|_| FetchError::TimedOut)?;
            self.shelf.get(path, limit).await
        }
    }

    fn counted(log: &TestLog, left: u64) -> Arc<Counted> {
        let (left, asked) = (AtomicU64::new(left), AtomicU64::new(0));
        Arc::new(Counted { shelf: log.publish(&[]), left, asked })
    }

    fn checkpoint(log: &TestLog) -> Checkpoint {
        let mut range = CompactRange::new();
        log.hashes().into_iter().for_each(|hash| range.append(hash));
        Checkpoint { origin: "log.example".into(), size: log.size(), root: range.root() }
    }

    fn tree(log: &TestLog, size: usize) -> CompactRange {
        let mut range = CompactRange::new();
        log.hashes()[..size].iter().for_each(|hash| range.append(*hash));
        range
    }

    fn progress(folder: &tempfile::TempDir, log: &TestLog) -> ProgressFile {
        let state = folder.path().join("state.json");
        ProgressFile::beside(&state, "check", &log.signers.log_key()).eager()
    }

    async fn run(
        source: &Arc<Counted>,
        older: &CompactRange,
        head: &Checkpoint,
        milestone: Option<Milestone>,
        file: &mut ProgressFile,
    ) -> (Result<CompactRange, Finding>, u64) {
        let before = source.asked.load(Ordering::Relaxed);
        let target = Target { head, milestone };
        let outcome = grow(Arc::clone(source), older, target, Some(file), &mut |_, _| {}).await;
        (outcome, source.asked.load(Ordering::Relaxed) - before)
    }

    #[tokio::test]
    async fn an_audit_that_broke_off_goes_on_where_units_ended() {
        let log = TestLog::with(2 * UNIT + 3000);
        let head = checkpoint(&log);
        for start in [0usize, 1000] {
            let older = tree(&log, start);
            let folder = tempfile::tempdir().unwrap();
            let mut file = progress(&folder, &log);
            // Ends within the second, or (from 1000 on) the first whole unit: nothing, then one.
            let (broken, _) = run(&counted(&log, 200), &older, &head, None, &mut file).await;
            assert!(matches!(broken, Err(Finding::Unreachable { .. })));
            assert_eq!(file.load(older.size(), head.size), None);
            let enough = 4 * 256 + 10;
            let (broken, all) = run(&counted(&log, enough), &older, &head, None, &mut file).await;
            assert!(matches!(broken, Err(Finding::Unreachable { .. })), "{all}");
            let done = file.load(older.size(), head.size).unwrap();
            assert_eq!(done.size(), 2 * UNIT, "{start}");
            let (whole, asked) =
                run(&counted(&log, u64::MAX), &older, &head, None, &mut file).await;
            assert_eq!(whole.unwrap().root(), head.root);
            let before_units = if start == 0 { 0 } else { 2 * (256 - 3) };
            assert_eq!(asked, before_units + 2 * 12, "{start}");
        }
    }

    #[tokio::test]
    async fn wrong_progress_costs_time_and_accuses_nobody() {
        let log = TestLog::with(UNIT + 500);
        let (head, older) = (checkpoint(&log), CompactRange::new());
        let folder = tempfile::tempdir().unwrap();
        let mut file = progress(&folder, &log);
        for (units, heads) in [(vec![[9; 32]], 0), (vec![tree(&log, 65_536).root()], 7)] {
            file.save(&Progress { from: 0, heads, units }).unwrap();
            let (whole, asked) =
                run(&counted(&log, u64::MAX), &older, &head, None, &mut file).await;
            assert_eq!(whole.unwrap().root(), head.root);
            assert!(asked >= 2 * 258, "{asked}");
        }
        // A log that lies is found out all the same.
        let mut lied = log.clone();
        lied.entries.swap(3, 4);
        file.save(&Progress { from: 0, heads: 0, units: vec![[9; 32]] }).unwrap();
        let (found, _) = run(&counted(&lied, u64::MAX), &older, &head, None, &mut file).await;
        assert!(matches!(found, Err(Finding::RootMismatch { .. })), "{found:?}");
    }

    #[tokio::test]
    async fn only_what_is_in_order_is_kept() {
        let log = TestLog::with(2 * UNIT);
        let (head, older) = (checkpoint(&log), CompactRange::new());
        let folder = tempfile::tempdir().unwrap();
        let mut file = progress(&folder, &log);
        let source = counted(&log, u64::MAX);
        source.shelf.alter("tile/entries/300", |bytes| *bytes.last_mut().unwrap() ^= 1);
        let (found, _) = run(&source, &older, &head, None, &mut file).await;
        let index = 301 * 256 - 1;
        assert!(matches!(found, Err(Finding::EntryMismatch { index: at, .. }) if at == index));
        assert_eq!(file.load(0, head.size).unwrap().size(), UNIT);
        // With the first unit from the file the finding is the same.
        let (again, _) = run(&source, &older, &head, None, &mut file).await;
        assert_eq!(again, found);
    }

    #[tokio::test]
    async fn a_head_on_the_way_is_met_with_progress_and_without() {
        let log = TestLog::with(UNIT + 500);
        let (head, older) = (checkpoint(&log), CompactRange::new());
        let folder = tempfile::tempdir().unwrap();
        let mut file = progress(&folder, &log);
        for size in [40_000u64, UNIT + 100] {
            let at = usize::try_from(size).unwrap();
            let good = Milestone { size, root: tree(&log, at).root() };
            let bad = Milestone { size, root: [1; 32] };
            for _ in 0..2 {
                let source = counted(&log, u64::MAX);
                let (whole, _) = run(&source, &older, &head, Some(good), &mut file).await;
                assert!(whole.is_ok(), "{whole:?}");
            }
            file.remove();
            for _ in 0..2 {
                let source = counted(&log, u64::MAX);
                let (found, _) = run(&source, &older, &head, Some(bad), &mut file).await;
                let (from, to, cause) = (size, head.size, ProofError::OldRoot);
                assert_eq!(found, Err(Finding::Inconsistent { from, to, cause }));
            }
            file.remove();
        }
    }
}
