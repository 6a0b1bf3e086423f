//! Full audits of logs in memory, honest and not.

use super::*;
use crate::finding::Verdict;
use crate::merkle::ProofError;
use crate::state::{ProgressFile, StateFile, UNIT};
use crate::testlog::{NOW, Shelf, TestLog, oracle_root};
use proptest::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A shelf that every thread reads, and that is silent about one path.
#[derive(Clone)]
struct Many {
    shelf: Arc<Shelf>,
    silent: Option<&'static str>,
}

impl Many {
    fn of(shelf: Shelf) -> Self {
        Self { shelf: Arc::new(shelf), silent: None }
    }

    fn silent_about(&self, path: &'static str) -> Self {
        Self { silent: Some(path), ..self.clone() }
    }

    fn open(&self) -> Open<Self> {
        let many = self.clone();
        Arc::new(move || Ok(many.clone()))
    }
}

impl Source for Many {
    async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        if self.silent == Some(path) {
            return Err(FetchError::TimedOut);
        }
        self.shelf.get(path, limit).await
    }
}

fn options(threads: usize) -> Options {
    let threads = NonZero::new(threads).unwrap();
    Options { max_age: Some(Duration::from_secs(86_400)), clock: || NOW, threads }
}

fn key(log: &TestLog) -> Trust {
    Trust::Key(Box::new(log.signers.log_key()))
}

async fn run(many: &Many, trust: &Trust, aids: Aids<'_>) -> Result<Verified, FullError> {
    full(many.open(), trust, options(2), aids, &mut |_, _| {}).await
}

async fn finding(shelf: Shelf, trust: &Trust) -> Finding {
    match run(&Many::of(shelf), trust, Aids::default()).await {
        Err(FullError::Failure(failure)) => failure.finding,
        other => panic!("{other:?}"),
    }
}

/// Tiles of all levels of a tree.
fn tiles_of(mut size: u64) -> u64 {
    let mut tiles = 0;
    while size > 0 {
        tiles += size.div_ceil(256);
        size /= 256;
    }
    tiles
}

/// A log with three levels of tiles, and its files, made once. Whoever alters a file puts it
/// back before the next has its turn.
fn large() -> (&'static TestLog, MutexGuard<'static, Many>) {
    static LARGE: OnceLock<(TestLog, Mutex<Many>)> = OnceLock::new();
    let (log, files) = LARGE.get_or_init(|| {
        let log = TestLog::with(2 * UNIT + 700);
        let files = Many::of(log.publish(&[]));
        (log, Mutex::new(files))
    });
    (log, files.lock().unwrap_or_else(PoisonError::into_inner))
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[tokio::test]
async fn an_honest_log_is_verified_at_every_size() {
    for size in [0, 1, 255, 256, 257, 600, 16_384, 16_385, 65_535] {
        let log = TestLog::with(size);
        let many = Many::of(log.publish(&[]));
        let Verified { report, memory } = run(&many, &key(&log), Aids::default()).await.unwrap();
        let root = oracle_root(&log.hashes());
        assert_eq!((report.size, report.root, memory.range.root()), (size, root, root));
        assert_eq!((report.tiles, report.heads), (tiles_of(size), 0), "{size}");
        assert_eq!((report.previous, report.time, report.age), (None, Some(NOW), Some(0)));
        assert_eq!(memory.head.note, log.head());
    }
}

#[test]
fn the_number_of_threads_changes_nothing_but_the_time() {
    let (log, many) = large();
    let (mut steps, trust) = (Vec::new(), key(log));
    for threads in [1, 2, 3, 8, 100] {
        let mut progress = |done, all| steps.push((done, all));
        let (open, aids) = (many.open(), Aids::default());
        let verified = block(full(open, &trust, options(threads), aids, &mut progress)).unwrap();
        assert_eq!(verified.memory.range.root(), verified.report.root);
        assert_eq!(verified.report.tiles, tiles_of(log.size()));
    }
    assert_eq!(steps.last(), Some(&(log.size(), log.size())));
}

#[test]
fn of_several_lies_the_first_in_the_log_is_named() {
    let (log, many) = large();
    let broken = ["tile/entries/300", "tile/entries/100"];
    for path in broken {
        many.shelf.alter(path, |bytes| bytes.push(0));
    }
    for threads in [1, 2, 8] {
        let (open, trust, aids) = (many.open(), key(log), Aids::default());
        let found = block(full(open, &trust, options(threads), aids, &mut |_, _| {}));
        let Err(FullError::Failure(failure)) = found else { panic!("verified") };
        assert!(matches!(&failure.finding, Finding::BadBundle { path, .. } if path == broken[1]));
        assert_eq!(failure.head, Some(log.head()));
    }
    for path in broken {
        many.shelf.alter(path, |bytes| bytes.truncate(bytes.len() - 1));
    }
}

/// What a flipped bit at a path must lead to.
fn names(finding: &Finding, path: &str, position: usize) -> bool {
    let leaf = |index: u64| {
        let tile = path.trim_start_matches("tile/").split(['/', '.']).nth(1).unwrap();
        index / 256 == tile.parse::<u64>().unwrap()
    };
    match finding {
        Finding::EntryMismatch { index, .. } => path.starts_with("tile/entries/") && leaf(*index),
        Finding::BadBundle { path: named, .. } => named == path,
        Finding::TileMismatch { index, .. } => path.starts_with("tile/0/") && leaf(*index),
        Finding::UpperTile { path: named, position: at, .. } => {
            named == path && usize::from(*at) == position / 32
        }
        _ => false,
    }
}

fn flipped(path: &str, position: prop::sample::Index) {
    let (log, many) = large();
    let mut place = 0;
    many.shelf.alter(path, |bytes| {
        place = position.index(bytes.len());
        bytes[place] ^= 1;
    });
    let found = block(run(&many, &key(log), Aids::default()));
    many.shelf.alter(path, |bytes| bytes[place] ^= 1);
    let Err(FullError::Failure(failure)) = found else { panic!("{path} {place}: verified") };
    assert!(names(&failure.finding, path, place), "{path} {place}: {:?}", failure.finding);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_flipped_bit_in_any_tile_or_bundle_is_found_and_named(
        path in prop_oneof![
            (0u32..512).prop_map(|tile| format!("tile/0/{tile:03}")),
            (0u32..512).prop_map(|tile| format!("tile/entries/{tile:03}")),
            prop::sample::select(vec![
                "tile/0/514.p/188".to_owned(),
                "tile/entries/514.p/188".to_owned(),
                "tile/1/000".to_owned(),
                "tile/1/001".to_owned(),
                "tile/1/002.p/2".to_owned(),
                "tile/2/000.p/2".to_owned(),
            ]),
        ],
        position: prop::sample::Index,
    ) {
        flipped(&path, position);
    }
}

#[tokio::test]
async fn every_tile_has_to_be_there_and_whole() {
    let log = TestLog::with(600);
    for path in ["tile/0/001", "tile/entries/002.p/88", "tile/1/000.p/2"] {
        let shelf = log.publish(&[]);
        shelf.take(path);
        let path = path.to_owned();
        assert_eq!(finding(shelf, &key(&log)).await, Finding::MissingResource { path });
    }
    let shelf = log.publish(&[]);
    shelf.alter("tile/1/000.p/2", |bytes| bytes.truncate(63));
    let bad = Finding::BadTile { path: "tile/1/000.p/2".into(), width: 2, bytes: 63 };
    assert_eq!(finding(shelf, &key(&log)).await, bad);
    // A partial tile may be gone when the full one is there.
    let (shelf, later) = (log.publish(&[]), TestLog::with(65_536).publish(&[]));
    shelf.take("tile/1/000.p/2");
    shelf.put("tile/1/000", later.take("tile/1/000"));
    assert!(run(&Many::of(shelf), &key(&log), Aids::default()).await.is_ok());
}

#[tokio::test]
async fn lies_that_check_knows_are_found_here_too() {
    let (log, old) = (TestLog::with(600), TestLog::with(300));
    let mut trust = key(&log);
    let mut fork = log.clone();
    fork.entries.swap(10, 11);
    let verified = run(&Many::of(old.publish(&[])), &trust, Aids::default()).await.unwrap();
    trust = Trust::Memory(Box::new(verified.memory));
    let report = run(&Many::of(log.publish(&[300])), &trust, Aids::default()).await.unwrap().report;
    assert_eq!((report.previous, report.heads), (Some(300), 1));

    let found = finding(fork.publish(&[300]), &trust).await;
    assert_eq!(found.verdict(), Verdict::Inconsistent);
    let smaller = finding(TestLog::with(200).publish(&[]), &trust).await;
    assert_eq!(smaller, Finding::Rollback { remembered: 300, served: 200 });
    fork.entries.truncate(300);
    assert_eq!(finding(fork.publish(&[]), &trust).await.verdict(), Verdict::Fork);
    let swapped = log.publish(&[300]);
    for path in ["tile/entries/001", "tile/0/001"] {
        let mut other = log.clone();
        other.entries.swap(400, 401);
        swapped.put(path, other.publish(&[]).take(path));
    }
    assert_eq!(finding(swapped, &trust).await.verdict(), Verdict::RootMismatch);
    let mut junk = log.clone();
    junk.entries[500] = b"junk".to_vec();
    assert_eq!(finding(junk.publish(&[300]), &trust).await.verdict(), Verdict::BadEntry);
    let stale = TestLog { time: NOW - 86_401, ..log };
    assert_eq!(finding(stale.publish(&[300]), &trust).await.verdict(), Verdict::Stale);
}

/// A state file whose newest head is of `log`, with heads of other sizes beside it.
fn kept(folder: &Path, logs: &[&TestLog]) -> Heads {
    let state = StateFile::lock(&folder.join("state.json")).unwrap();
    for log in logs {
        let verified = block(run(&Many::of(log.publish(&[])), &key(log), Aids::default()));
        state.save(&verified.unwrap().memory).unwrap();
    }
    state.heads()
}

#[test]
fn the_tree_must_have_been_at_every_head_ever_accepted() {
    let sizes = [1, 255, 256, 300, 16_384, 20_000];
    let logs: Vec<_> = sizes.iter().map(|size| TestLog::with(*size)).collect();
    let folder = tempfile::tempdir().unwrap();
    let heads = kept(folder.path(), &logs.iter().collect::<Vec<_>>());
    let log = TestLog::with(33_000);
    let many = Many::of(log.publish(&[]));
    let aids = || Aids { heads: Some(heads.clone()), ..Aids::default() };
    assert_eq!(block(run(&many, &key(&log), aids())).unwrap().report.heads, 6);

    for at in 0..sizes.len() {
        let folder = tempfile::tempdir().unwrap();
        let mut logs = logs.clone();
        logs[at].entries[0] = logs[5].entries[1].clone();
        let heads = kept(folder.path(), &logs.iter().collect::<Vec<_>>());
        let aids = Aids { heads: Some(heads), ..Aids::default() };
        let Err(FullError::Failure(failure)) = block(run(&many, &key(&log), aids)) else {
            panic!("{}: verified", sizes[at]);
        };
        let (from, to, cause) = (sizes[at], 33_000, ProofError::OldRoot);
        assert_eq!(failure.finding, Finding::Inconsistent { from, to, cause });
    }
}

#[test]
fn a_head_that_is_not_signed_accuses_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (old, log) = (TestLog::with(300), TestLog::with(600));
    let heads = kept(folder.path(), &[&old]);
    let text = std::fs::read_to_string(heads.path()).unwrap();
    std::fs::write(heads.path(), text.replacen("300", "301", 1)).unwrap();
    let aids = Aids { heads: Some(heads), ..Aids::default() };
    let found = block(run(&Many::of(log.publish(&[])), &key(&log), aids));
    assert!(matches!(found, Err(FullError::State(StateError::Heads { .. }))), "{found:?}");
}

fn progress(folder: &Path, log: &TestLog) -> ProgressFile {
    ProgressFile::beside(&folder.join("state.json"), "full", &log.signers.log_key()).eager()
}

#[test]
fn an_audit_that_broke_off_anywhere_goes_on_and_ends_alike() {
    let (log, many) = large();
    let whole = block(run(&many, &key(log), Aids::default())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (path, kept) in [
        ("checkpoint", 0),
        ("tile/0/000", 0),
        ("tile/entries/255", 0),
        ("tile/1/000", 0),
        ("tile/0/256", UNIT),
        ("tile/1/001", UNIT),
        ("tile/entries/514.p/188", 2 * UNIT),
        ("tile/1/002.p/2", 2 * UNIT),
        ("tile/2/000.p/2", 2 * UNIT),
    ] {
        let mut file = progress(folder.path(), log);
        file.remove();
        let aids = Aids { progress: Some(&mut file), ..Aids::default() };
        let broken = block(run(&many.silent_about(path), &key(log), aids));
        let Err(FullError::Failure(failure)) = broken else { panic!("{path}: verified") };
        assert!(matches!(failure.finding, Finding::Unreachable { .. }), "{path}: {failure:?}");
        let aids = Aids { progress: Some(&mut file), ..Aids::default() };
        let again = block(run(&many, &key(log), aids)).unwrap();
        assert_eq!((again.memory, again.report.resumed), (whole.memory.clone(), kept), "{path}");
    }
}

#[test]
fn wrong_progress_costs_time_and_accuses_nobody() {
    let (log, many) = large();
    let folder = tempfile::tempdir().unwrap();
    let mut file = progress(folder.path(), log);
    for (units, heads) in [(vec![[9; 32]], 0), (vec![[9; 32]; 2], 0), (vec![[9; 32]], 1)] {
        file.save(&Progress { from: 0, heads, units }).unwrap();
        let aids = Aids { progress: Some(&mut file), ..Aids::default() };
        let verified = block(run(&many, &key(log), aids)).unwrap();
        assert_eq!(verified.report.resumed, 0);
    }
    // What lies beyond it is judged by a whole run.
    many.shelf.alter("tile/2/000.p/2", |bytes| bytes[0] ^= 1);
    file.save(&Progress { from: 0, heads: 0, units: vec![[9; 32]] }).unwrap();
    let aids = Aids { progress: Some(&mut file), ..Aids::default() };
    let found = block(run(&many, &key(log), aids));
    many.shelf.alter("tile/2/000.p/2", |bytes| bytes[0] ^= 1);
    let Err(FullError::Failure(failure)) = found else { panic!("verified") };
    assert!(matches!(failure.finding, Finding::UpperTile { position: 0, .. }), "{failure:?}");
}

#[test]
fn only_what_is_in_order_is_kept_as_progress() {
    let (log, many) = large();
    let folder = tempfile::tempdir().unwrap();
    for (path, kept) in
        [("tile/0/300", Some(UNIT)), ("tile/1/000", None), ("tile/1/001", Some(UNIT))]
    {
        let mut file = progress(folder.path(), log);
        file.remove();
        many.shelf.alter(path, |bytes| bytes[5] ^= 1);
        let aids = Aids { progress: Some(&mut file), ..Aids::default() };
        let found = block(run(&many, &key(log), aids));
        many.shelf.alter(path, |bytes| bytes[5] ^= 1);
        assert!(matches!(found, Err(FullError::Failure(_))), "{path}");
        assert_eq!(file.load(0, log.size()).map(|done| done.size()), kept, "{path}");
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_opened_is_told() {
    let log = TestLog::with(600);
    let many = Many::of(log.publish(&[]));
    let calls = AtomicU64::new(0);
    // The first is for the head, the others are the threads'.
    let open: Open<Many> = Arc::new(move || match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(many.clone()),
        _ => Err(FetchError::TimedOut),
    });
    let refused = full(open, &key(&log), options(2), Aids::default(), &mut |_, _| {}).await;
    assert!(matches!(refused, Err(FullError::Client(FetchError::TimedOut))), "{refused:?}");
}
