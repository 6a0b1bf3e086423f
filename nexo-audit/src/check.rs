//! One audit: from a log and what is remembered of it, to a verdict and a new memory.
//!
//! ```text
//! 1 open      /checkpoint under the pinned key; /log/keys names the time key
//! 2 compare   with the remembered head: smaller is a rollback, same size and other root a fork
//! 3 prove     /log/consistency between the two heads, by RFC 9162
//! 4 rebuild   hash every new entry, and every level 0 tile, into the remembered peaks; pass
//!             through the newest head that was ever accepted, should that be a later one
//! 5 fresh     the head's age by the time key, last: older news must not hide worse ones
//! ```
//!
//! Step 4 alone proves consistency: the remembered peaks stand for the remembered root, and a
//! tree grown from them that ends at the new root has the old tree as its prefix. Step 3 asks the
//! log for the same in the form that clients get it, so that a log which hands out proofs that
//! do not hold is found by auditors too.
//!
//! Nothing is written here. The caller stores [`Verified::memory`] when it has it, and nothing
//! when it has a [`Failure`], so a lie never replaces what was verified.

use crate::checkpoint::{SignedHead, parse_log_keys};
use crate::encoding::hash_from_base64;
use crate::fetch::{FetchError, Source};
use crate::finding::{Finding, Malformed};
use crate::growth::{Target, grow};
use crate::key::{LogKey, TimeKey};
use crate::merkle::{CompactRange, Hash, verify_consistency};
use crate::note::MAX_NOTE;
use crate::rebuild::Milestone;
use crate::state::{Heads, Memory, ProgressFile};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHECKPOINT: &str = "checkpoint";
const LOG_KEYS: &str = "log/keys";
const LOG_VKEY: &str = "log/vkey";
/// Longest vkey line that is read; a name is at most 260 bytes.
const MAX_VKEY: usize = 1024;
/// How far a head may be ahead of this clock, seconds: two clocks are never equal.
const CLOCK_SKEW: u64 = 300;
/// Longest consistency proof: 63 levels twice, each hash 44 characters and its quotes, and room
/// for spaces.
pub(crate) const MAX_PROOF: usize = 64 * 1024;

/// What the audit starts from.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Nothing but the log's key: every entry is new.
    Key(Box<LogKey>),
    /// The last head that was verified, and its tree.
    Memory(Box<Memory>),
}

/// Settings of an audit.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Oldest head that is still fresh.
    pub max_age: Duration,
    /// This machine's time, POSIX seconds.
    pub clock: fn() -> u64,
}

/// What a verified audit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The log.
    pub origin: String,
    /// Entries under the head.
    pub size: u64,
    /// The head's root.
    pub root: Hash,
    /// Size of the head that was remembered; `None` at the first audit.
    pub previous: Option<u64>,
    /// Entries that were read and hashed now.
    pub new: u64,
    /// When the log last vouched for the head, POSIX seconds.
    pub time: u64,
    /// Seconds from then until the head was read.
    pub age: u64,
    /// The time key that was remembered, when the log names another one now.
    pub replaced_time_key: Option<TimeKey>,
}

/// A verified audit.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What to say.
    pub report: Report,
    /// What to remember.
    pub memory: Memory,
}

/// A finding and the signed notes around it, which are the evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{finding}")]
pub struct Failure {
    /// What was found.
    pub finding: Finding,
    /// The head that was judged, verbatim, when there was one that the log signed.
    pub head: Option<String>,
    /// The head that is remembered, verbatim.
    pub remembered: Option<String>,
}

/// What the auditor's files add to the memory. Nothing of it is needed for an audit.
#[derive(Debug, Default)]
pub(crate) struct Aids<'a> {
    /// The newest head that was ever accepted. It is ahead of the memory after a crash, or when
    /// an older memory was put back.
    pub(crate) newest: Option<SignedHead>,
    /// Every head that was ever accepted.
    pub(crate) heads: Option<Heads>,
    /// Where the audit's progress is kept.
    pub(crate) progress: Option<&'a mut ProgressFile>,
}

/// Audits the log at `source`. `progress` is called with the entries read and the entries to
/// read. Runs inside a Tokio runtime.
///
/// # Errors
/// A [`Failure`] for everything but a genuine, fresh head that extends the remembered one.
pub async fn check<S: Source>(
    source: Arc<S>,
    trust: Trust,
    options: Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, Box<Failure>> {
    check_with(source, &trust, options, Aids::default(), progress).await
}

/// [`check`], with the help of the auditor's files.
pub(crate) async fn check_with<S: Source>(
    source: Arc<S>,
    trust: &Trust,
    options: Options,
    aids: Aids<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, Box<Failure>> {
    let mut notes = Notes::of(trust, &aids);
    let outcome = audit(source, trust, options, aids, progress, &mut notes).await;
    outcome.map_err(|finding| notes.of_failure(finding))
}

/// The signed notes that a finding is about.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) head: Option<String>,
    pub(crate) remembered: Option<String>,
}

impl Notes {
    /// Before anything is asked, there is only what is remembered.
    pub(crate) fn of(trust: &Trust, aids: &Aids<'_>) -> Self {
        let remembered = known(trust, aids.newest.as_ref());
        Self { head: None, remembered: remembered.map(|head| head.note.clone()) }
    }

    pub(crate) fn of_failure(self, finding: Finding) -> Box<Failure> {
        Box::new(Failure { finding, head: self.head, remembered: self.remembered })
    }
}

/// The newest head that is known.
pub(crate) fn known<'a>(trust: &'a Trust, kept: Option<&'a SignedHead>) -> Option<&'a SignedHead> {
    let remembered = trust.memory().map(|memory| &memory.head);
    remembered.into_iter().chain(kept).max_by_key(|head| head.checkpoint.size)
}

impl Trust {
    /// The pinned key.
    #[must_use]
    pub fn log_key(&self) -> &LogKey {
        match self {
            Self::Key(key) => key,
            Self::Memory(memory) => &memory.log_key,
        }
    }

    /// What is remembered, if anything is.
    #[must_use]
    pub fn memory(&self) -> Option<&Memory> {
        match self {
            Self::Key(_) => None,
            Self::Memory(memory) => Some(memory),
        }
    }
}

/// The key that the log itself offers, for a first use without a pinned one. It proves nothing
/// but that later heads are of the same log. `None` when the log offers none, as it may.
///
/// # Errors
/// A [`Finding`] when there is no answer, or not a key.
pub async fn offered_key<S: Source>(source: &S) -> Result<Option<LogKey>, Finding> {
    let bytes = match source.get(LOG_VKEY, MAX_VKEY).await {
        Err(FetchError::NotFound) => return Ok(None),
        other => other.map_err(|error| Finding::of_fetch(LOG_VKEY, error))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    LogKey::parse(text).map(Some).map_err(|cause| Finding::Malformed {
        path: LOG_VKEY.to_owned(),
        cause: Malformed::Key(cause),
    })
}

/// This machine's time, POSIX seconds; 0 if its clock stands before 1970.
#[must_use]
pub fn system_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn audit<S: Source>(
    source: Arc<S>,
    trust: &Trust,
    options: Options,
    aids: Aids<'_>,
    progress: &mut dyn FnMut(u64, u64),
    notes: &mut Notes,
) -> Result<Verified, Finding> {
    let (log_key, memory) = (trust.log_key(), trust.memory());
    let Opened { head, time_key, now } = open_head(&*source, log_key, options.clock, notes).await?;
    let known = known(trust, aids.newest.as_ref());
    compare(&head, known, aids.heads.as_ref(), log_key, notes)?;
    prove(&*source, &head, known).await?;

    let older = memory.map_or_else(CompactRange::new, |memory| memory.range.clone());
    let (from, to) = (older.size(), head.checkpoint.size);
    let milestone = known.map(Milestone::of).filter(|known| known.size > from);
    let target = Target { head: &head.checkpoint, milestone };
    let range = grow(source, &older, target, aids.progress, progress).await?;
    let (time, age) = freshness(&head, &time_key, now, options.max_age)?;

    let report = Report {
        origin: head.checkpoint.origin.clone(),
        size: to,
        root: head.checkpoint.root,
        previous: memory.map(|memory| memory.range.size()),
        new: to - from,
        time,
        age,
        replaced_time_key: replaced(memory, Some(&time_key)),
    };
    let memory = Memory { log_key: log_key.clone(), time_key: Some(time_key), head, range };
    Ok(Verified { report, memory })
}

/// The time key that is remembered, when it is another one now.
pub(crate) fn replaced(memory: Option<&Memory>, now: Option<&TimeKey>) -> Option<TimeKey> {
    let old = memory.and_then(|memory| memory.time_key.as_ref());
    old.filter(|old| now.is_some_and(|now| now != *old)).cloned()
}

/// A head under the pinned key, and its clock.
pub(crate) struct Opened {
    pub(crate) head: SignedHead,
    pub(crate) time_key: TimeKey,
    /// When the head was read, POSIX seconds.
    pub(crate) now: u64,
}

pub(crate) async fn open_head<S: Source>(
    source: &S,
    log_key: &LogKey,
    clock: fn() -> u64,
    notes: &mut Notes,
) -> Result<Opened, Finding> {
    let bytes = fetch_head(source).await?;
    // Taken here: reading a million entries must not make the head look older.
    let now = clock();
    let head = signed_head(&bytes, log_key, None)?;
    notes.head = Some(head.note);
    let time_key = fetch_time_key(source, log_key).await?;
    let head = signed_head(&bytes, log_key, Some(&time_key))?;
    Ok(Opened { head, time_key, now })
}

pub(crate) async fn fetch_head<S: Source>(source: &S) -> Result<Vec<u8>, Finding> {
    source.get(CHECKPOINT, MAX_NOTE).await.map_err(no_checkpoint)
}

pub(crate) fn signed_head(
    bytes: &[u8],
    log_key: &LogKey,
    time_key: Option<&TimeKey>,
) -> Result<SignedHead, Finding> {
    SignedHead::open(bytes, log_key, time_key).map_err(|error| Finding::of_head(CHECKPOINT, error))
}

/// An address without a checkpoint is not a log that lost something: it is no log.
fn no_checkpoint(error: FetchError) -> Finding {
    match error {
        FetchError::NotFound => {
            Finding::Unreachable { path: CHECKPOINT.to_owned(), cause: FetchError::NotFound }
        }
        other => Finding::of_fetch(CHECKPOINT, other),
    }
}

pub(crate) async fn fetch_time_key<S: Source>(
    source: &S,
    log_key: &LogKey,
) -> Result<TimeKey, Finding> {
    let bytes = source.get(LOG_KEYS, MAX_NOTE).await;
    let bytes = bytes.map_err(|error| Finding::of_fetch(LOG_KEYS, error))?;
    parse_log_keys(&bytes, log_key).map_err(|error| Finding::of_log_keys(LOG_KEYS, error))
}

/// Sizes and roots of the two heads, before anything is fetched for them. A smaller head than the
/// known one is a fork when another head of its size was accepted once.
pub(crate) fn compare(
    head: &SignedHead,
    known: Option<&SignedHead>,
    kept: Option<&Heads>,
    log_key: &LogKey,
    notes: &mut Notes,
) -> Result<(), Finding> {
    let Some(known) = known else { return Ok(()) };
    let (old, new) = (&known.checkpoint, &head.checkpoint);
    let fork = |remembered| Finding::Fork { size: new.size, remembered, served: new.root };
    if new.size == old.size && new.root != old.root {
        return Err(fork(old.root));
    }
    if new.size >= old.size {
        return Ok(());
    }
    // Where that file does not help, it is a rollback all the same.
    let twin = kept.and_then(|heads| heads.of_size(new.size, log_key).ok().flatten());
    if let Some(twin) = twin.filter(|twin| twin.checkpoint.root != new.root) {
        notes.remembered = Some(twin.note);
        return Err(fork(twin.checkpoint.root));
    }
    Err(Finding::Rollback { remembered: old.size, served: new.size })
}

/// Answer of `/log/consistency?from=&to=`.
#[derive(Deserialize)]
struct ConsistencyAnswer {
    from: u64,
    to: u64,
    hashes: Vec<String>,
}

/// Verifies the log's own proof that the known tree starts the new one.
pub(crate) async fn prove<S: Source>(
    source: &S,
    head: &SignedHead,
    known: Option<&SignedHead>,
) -> Result<(), Finding> {
    let Some(known) = known else { return Ok(()) };
    let (old, new) = (&known.checkpoint, &head.checkpoint);
    // The empty tree starts every tree, and a tree itself; neither has a proof.
    if old.size == 0 || old.size == new.size {
        return Ok(());
    }
    let path = format!("log/consistency?from={}&to={}", old.size, new.size);
    let bytes = source.get(&path, MAX_PROOF).await;
    let bytes = bytes.map_err(|error| Finding::of_fetch(&path, error))?;
    let proof = read_proof(&bytes, old.size, new.size)
        .ok_or(Finding::Malformed { path, cause: Malformed::Proof })?;
    verify_consistency(old.size, &old.root, new.size, &new.root, &proof)
        .map_err(|cause| Finding::Inconsistent { from: old.size, to: new.size, cause })
}

pub(crate) fn read_proof(bytes: &[u8], from: u64, to: u64) -> Option<Vec<Hash>> {
    let answer: ConsistencyAnswer = serde_json::from_slice(bytes).ok()?;
    let asked = answer.from == from && answer.to == to;
    asked.then(|| answer.hashes.iter().map(|text| hash_from_base64(text)).collect())?
}

/// Time and age of the head.
pub(crate) fn freshness(
    head: &SignedHead,
    time_key: &TimeKey,
    now: u64,
    max_age: Duration,
) -> Result<(u64, u64), Finding> {
    let name = time_key.name().to_owned();
    let time = head.time.ok_or(Finding::NoTime { name })?;
    let (age, ahead) = (now.saturating_sub(time), time.saturating_sub(now));
    if ahead > CLOCK_SKEW {
        return Err(Finding::Clock { ahead });
    }
    if age > max_age.as_secs() {
        return Err(Finding::Stale { age, max_age: max_age.as_secs() });
    }
    Ok((time, age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::ProofError;
    use crate::note::SignatureError;
    use crate::state::StateFile;
    use crate::testlog::{NOW, Shelf, Signers, TestLog, oracle_root};

    const OPTIONS: Options = Options { max_age: Duration::from_secs(86_400), clock: || NOW };

    async fn run(shelf: Shelf, trust: Trust) -> Result<Verified, Box<Failure>> {
        check(Arc::new(shelf), trust, OPTIONS, &mut |_, _| {}).await
    }

    fn key(log: &TestLog) -> Trust {
        Trust::Key(Box::new(log.signers.log_key()))
    }

    /// What an auditor remembers after an audit of `log`.
    async fn remembered(log: &TestLog) -> Trust {
        Trust::Memory(Box::new(run(log.publish(&[]), key(log)).await.unwrap().memory))
    }

    async fn finding(shelf: Shelf, trust: Trust) -> Finding {
        run(shelf, trust).await.map(|verified| verified.report).unwrap_err().finding
    }

    #[tokio::test]
    async fn an_honest_log_is_verified_from_every_older_head() {
        let sizes = [0, 1, 2, 255, 256, 257, 511, 512, 600];
        for (at, old) in sizes.into_iter().enumerate() {
            for new in sizes.into_iter().skip(at) {
                let log = TestLog::with(new);
                let proofs = if old > 0 && old < new { vec![old] } else { vec![] };
                let trust = remembered(&TestLog::with(old)).await;
                let verified = run(log.publish(&proofs), trust).await.unwrap();
                let report = verified.report;
                let root = oracle_root(&log.hashes());
                assert_eq!((report.size, report.root, report.new), (new, root, new - old));
                assert_eq!((report.previous, report.age), (Some(old), 0), "{old} to {new}");
                assert_eq!(verified.memory.range.root(), root);
                assert_eq!(verified.memory.head.note, log.head());
            }
        }
    }

    #[tokio::test]
    async fn the_first_audit_reads_everything_and_tells_how_far_it_is() {
        let log = TestLog::with(600);
        let mut steps = Vec::new();
        let mut progress = |done, all| steps.push((done, all));
        let source = Arc::new(log.publish(&[]).shuffled());
        let verified = check(source, key(&log), OPTIONS, &mut progress).await.unwrap();
        assert_eq!(verified.report.previous, None);
        assert_eq!(verified.report.new, 600);
        assert_eq!(steps, [(256, 600), (512, 600), (600, 600)]);
    }

    #[tokio::test]
    async fn a_fork_keeps_both_signed_heads() {
        let honest = TestLog::with(300);
        let mut forked = honest.clone();
        forked.entries.swap(10, 11);
        let failure = run(forked.publish(&[]), remembered(&honest).await).await.unwrap_err();
        let (remembered, served) = (oracle_root(&honest.hashes()), oracle_root(&forked.hashes()));
        assert_eq!(failure.finding, Finding::Fork { size: 300, remembered, served });
        assert_eq!((failure.head, failure.remembered), (Some(forked.head()), Some(honest.head())));
    }

    #[tokio::test]
    async fn a_log_that_rewrote_its_past_is_inconsistent() {
        let mut rewritten = TestLog::with(600);
        rewritten.entries.swap(10, 11);
        let trust = remembered(&TestLog::with(300)).await;
        let failure = run(rewritten.publish(&[300]), trust.clone()).await.unwrap_err();
        let (from, to) = (300, 600);
        let inconsistent = Finding::Inconsistent { from, to, cause: ProofError::OldRoot };
        assert_eq!(failure.finding, inconsistent);
        assert_eq!(failure.head, Some(rewritten.head()));
        // The honest tree's proof does not lead to the rewritten root either.
        let shelf = rewritten.publish(&[]);
        let path = "log/consistency?from=300&to=600";
        shelf.put(path, TestLog::with(600).publish(&[300]).take(path));
        let cause = ProofError::Root;
        assert_eq!(finding(shelf, trust).await, Finding::Inconsistent { from, to, cause });
    }

    #[tokio::test]
    async fn the_rebuild_alone_refuses_a_rewritten_past() {
        let mut rewritten = TestLog::with(600);
        rewritten.entries.swap(10, 11);
        let Trust::Memory(memory) = remembered(&TestLog::with(300)).await else {
            panic!("a memory");
        };
        let (log_key, note) = (rewritten.signers.log_key(), rewritten.head());
        let head = SignedHead::open(note.as_bytes(), &log_key, None).unwrap();
        let source = Arc::new(rewritten.publish(&[]));
        let target = Target { head: &head.checkpoint, milestone: None };
        let found = grow(source, &memory.range, target, None, &mut |_, _| {}).await;
        assert!(matches!(found, Err(Finding::RootMismatch { size: 600, .. })), "{found:?}");
    }

    #[tokio::test]
    async fn proofs_that_do_not_hold_are_found() {
        let log = TestLog::with(600);
        let trust = remembered(&TestLog::with(300)).await;
        let path = "log/consistency?from=300&to=600".to_owned();
        let shelf = log.publish(&[300]);
        let proof = shelf.take(&path);
        let text = String::from_utf8(proof).unwrap();
        let missing = Finding::MissingResource { path: path.clone() };
        assert_eq!(finding(shelf, trust.clone()).await, missing);

        let malformed = Finding::Malformed { path: path.clone(), cause: Malformed::Proof };
        let inconsistent = Finding::Inconsistent { from: 300, to: 600, cause: ProofError::Length };
        let short = serde_json::json!({ "from": 300, "to": 600, "hashes": [] }).to_string();
        for (body, wanted) in [
            (short, inconsistent),
            (text.replace("300", "299"), malformed.clone()),
            (text.replace("600", "601"), malformed.clone()),
            (text.replacen("=\"", "\"", 1), malformed.clone()),
            ("[]".to_owned(), malformed.clone()),
            (String::new(), malformed),
        ] {
            let shelf = log.publish(&[]);
            shelf.put(&path, body.clone().into_bytes());
            assert_eq!(finding(shelf, trust.clone()).await, wanted, "{body}");
        }
    }

    #[tokio::test]
    async fn who_signed_what_is_named() {
        let log = TestLog::with(5);
        let shelf = || log.publish(&[]);
        let stranger = Signers::other("log.example");
        let missing = SignatureError::Missing { name: "log.example".into() };

        let forged = shelf();
        forged.put("checkpoint", stranger.head(5, &[0; 32], NOW).into_bytes());
        let path = "checkpoint".to_owned();
        let bad = Finding::BadSignature { path, cause: missing.clone() };
        assert_eq!(finding(forged, key(&log)).await, bad);

        let forged = shelf();
        forged.put("log/keys", stranger.key_list().into_bytes());
        let bad = Finding::BadSignature { path: "log/keys".into(), cause: missing };
        assert_eq!(finding(forged, key(&log)).await, bad);

        let name = "log.example/time".to_owned();
        let other_time = shelf();
        let renewed = log.signers.with_new_time_key();
        other_time.put("checkpoint", renewed.head(5, &oracle_root(&log.hashes()), NOW).into());
        assert_eq!(finding(other_time, key(&log)).await, Finding::NoTime { name });

        let no_keys = shelf();
        no_keys.take("log/keys");
        let path = "log/keys".to_owned();
        assert_eq!(finding(no_keys, key(&log)).await, Finding::MissingResource { path });

        let no_log =
            Finding::Unreachable { path: "checkpoint".into(), cause: FetchError::NotFound };
        assert_eq!(finding(Shelf::default(), key(&log)).await, no_log);
    }

    #[tokio::test]
    async fn an_empty_tree_has_the_empty_root() {
        let log = TestLog::with(0);
        assert_eq!(run(log.publish(&[]), key(&log)).await.unwrap().report.new, 0);
        let shelf = log.publish(&[]);
        shelf.put("checkpoint", log.signers.head(0, &[7; 32], NOW).into());
        let found = finding(shelf, key(&log)).await;
        assert!(matches!(found, Finding::RootMismatch { size: 0, .. }), "{found:?}");
    }

    #[tokio::test]
    async fn a_new_time_key_of_the_log_is_taken_and_told() {
        let old = TestLog::with(5);
        let trust = remembered(&old).await;
        let new = TestLog { signers: old.signers.with_new_time_key(), ..old.clone() };
        let verified = run(new.publish(&[]), trust).await.unwrap();
        assert_eq!(verified.report.replaced_time_key, Some(old.signers.time_key()));
        assert_eq!(verified.memory.time_key, Some(new.signers.time_key()));
    }

    #[tokio::test]
    async fn the_age_of_a_head_has_bounds() {
        let at = |time| TestLog { time, ..TestLog::with(5) };
        for (time, age) in [(NOW, 0), (NOW - 86_400, 86_400), (NOW + 300, 0)] {
            let report = run(at(time).publish(&[]), key(&at(time))).await.unwrap().report;
            assert_eq!((report.time, report.age), (time, age));
        }
        let found = finding(at(NOW - 86_401).publish(&[]), key(&at(0))).await;
        assert_eq!(found, Finding::Stale { age: 86_401, max_age: 86_400 });
        let found = finding(at(NOW + 301).publish(&[]), key(&at(0))).await;
        assert_eq!(found, Finding::Clock { ahead: 301 });
    }

    #[tokio::test]
    async fn worse_news_come_before_stale_ones() {
        let mut old_fork = TestLog { time: NOW - 1_000_000, ..TestLog::with(5) };
        let trust = remembered(&TestLog::with(5)).await;
        old_fork.entries.swap(1, 2);
        let found = finding(old_fork.publish(&[]), trust).await;
        assert!(matches!(found, Finding::Fork { .. }), "{found:?}");
    }

    #[tokio::test]
    async fn the_offered_key_is_the_logs_line() {
        let log = TestLog::with(1);
        let shelf = log.publish(&[]);
        assert_eq!(offered_key(&shelf).await, Ok(Some(log.signers.log_key())));
        assert_eq!(offered_key(&Shelf::default()).await, Ok(None));
        shelf.put("log/vkey", log.signers.time_key().to_string().into());
        let found = offered_key(&shelf).await;
        assert!(matches!(found, Err(Finding::Malformed { .. })), "{found:?}");
    }

    /// Heads of these logs, as accepted one after the other; the newest of them.
    async fn kept(folder: &tempfile::TempDir, logs: &[&TestLog]) -> (Heads, SignedHead) {
        let state = StateFile::lock(&folder.path().join("state.json")).unwrap();
        for log in logs {
            state.save(&run(log.publish(&[]), key(log)).await.unwrap().memory).unwrap();
        }
        let log_key = logs[0].signers.log_key();
        (state.heads(), state.heads().newest(&log_key).unwrap().unwrap())
    }

    async fn with_heads(
        shelf: Shelf,
        trust: &Trust,
        (heads, newest): &(Heads, SignedHead),
    ) -> Result<Verified, Box<Failure>> {
        let (heads, newest) = (Some(heads.clone()), Some(newest.clone()));
        let aids = Aids { newest, heads, progress: None };
        check_with(Arc::new(shelf), trust, OPTIONS, aids, &mut |_, _| {}).await
    }

    #[tokio::test]
    async fn a_smaller_head_is_a_fork_when_another_of_its_size_was_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (TestLog::with(300), TestLog::with(600));
        let heads = kept(&folder, &[&old, &new]).await;
        let trust = remembered(&new).await;
        let back = with_heads(old.publish(&[]), &trust, &heads).await.unwrap_err();
        assert_eq!(back.finding, Finding::Rollback { remembered: 600, served: 300 });
        assert_eq!(back.remembered, Some(new.head()));
        let mut other = old.clone();
        other.entries.swap(1, 2);
        let fork = with_heads(other.publish(&[]), &trust, &heads).await.unwrap_err();
        assert!(matches!(fork.finding, Finding::Fork { size: 300, .. }), "{fork}");
        assert_eq!((fork.remembered, fork.head), (Some(old.head()), Some(other.head())));
    }

    #[tokio::test]
    async fn an_older_memory_does_not_make_the_newest_head_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (TestLog::with(300), TestLog::with(600));
        let heads = kept(&folder, &[&old, &new]).await;
        for trust in [remembered(&old).await, key(&old)] {
            let back = with_heads(TestLog::with(500).publish(&[]), &trust, &heads).await;
            let rollback = Finding::Rollback { remembered: 600, served: 500 };
            assert_eq!(back.unwrap_err().finding, rollback);
            let later = TestLog::with(700);
            let verified = with_heads(later.publish(&[600]), &trust, &heads).await.unwrap();
            assert_eq!(verified.report.size, 700);
            // The tree is grown from the older head, and must pass the newest one.
            let mut other = later.clone();
            other.entries.swap(400, 401);
            let shelf = other.publish(&[]);
            let proof = "log/consistency?from=600&to=700";
            shelf.put(proof, other.publish(&[600]).take(proof));
            let found = with_heads(shelf, &trust, &heads).await.unwrap_err();
            let (from, to, cause) = (600, 700, ProofError::OldRoot);
            assert_eq!(found.finding, Finding::Inconsistent { from, to, cause });
            assert_eq!(found.remembered, Some(new.head()));
        }
    }
}
