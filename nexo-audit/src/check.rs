//! One audit: from a log and what is remembered of it, to a verdict and a new memory.
//!
//! ```text
//! 1 open      /checkpoint under the pinned key; /log/keys names the time key
//! 2 compare   with the remembered head: smaller is a rollback, same size and other root a fork
//! 3 prove     /log/consistency between the two heads, by RFC 9162
//! 4 rebuild   hash every new entry, and every level 0 tile, into the remembered peaks
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
use crate::download::Download;
use crate::encoding::hash_from_base64;
use crate::fetch::{FetchError, Source};
use crate::finding::{Finding, Malformed};
use crate::key::{LogKey, TimeKey};
use crate::merkle::{CompactRange, Hash, verify_consistency};
use crate::note::MAX_NOTE;
use crate::rebuild::Rebuild;
use crate::state::Memory;
use crate::tile::{WIDTH, spans};
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
const MAX_PROOF: usize = 64 * 1024;

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
    let mut head = None;
    let outcome = audit(source, &trust, options, progress, &mut head).await;
    outcome.map_err(|finding| {
        let remembered = match trust {
            Trust::Key(_) => None,
            Trust::Memory(memory) => Some(memory.head.note),
        };
        Box::new(Failure { finding, head, remembered })
    })
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
    progress: &mut dyn FnMut(u64, u64),
    judged: &mut Option<String>,
) -> Result<Verified, Finding> {
    let (log_key, memory) = match trust {
        Trust::Key(key) => (&**key, None),
        Trust::Memory(memory) => (&memory.log_key, Some(&**memory)),
    };
    let bytes = source.get(CHECKPOINT, MAX_NOTE).await.map_err(no_checkpoint)?;
    // Taken here: reading a million entries must not make the head look older.
    let now = (options.clock)();
    let head = SignedHead::open(&bytes, log_key, None)
        .map_err(|error| Finding::of_head(CHECKPOINT, error))?;
    *judged = Some(head.note);
    let time_key = fetch_time_key(&*source, log_key).await?;
    let head = SignedHead::open(&bytes, log_key, Some(&time_key))
        .map_err(|error| Finding::of_head(CHECKPOINT, error))?;

    compare(&head, memory)?;
    prove(&*source, &head, memory).await?;
    let older = memory.map_or_else(CompactRange::new, |memory| memory.range.clone());
    let (from, to) = (older.size(), head.checkpoint.size);
    let range = rebuild(source, older, &head, progress).await?;
    let (time, age) = freshness(&head, &time_key, now, options.max_age)?;

    let report = Report {
        origin: head.checkpoint.origin.clone(),
        size: to,
        root: head.checkpoint.root,
        previous: memory.map(|memory| memory.range.size()),
        new: to - from,
        time,
        age,
        replaced_time_key: memory.map(|m| m.time_key.clone()).filter(|old| *old != time_key),
    };
    let memory = Memory { log_key: log_key.clone(), time_key, head, range };
    Ok(Verified { report, memory })
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

async fn fetch_time_key<S: Source>(source: &S, log_key: &LogKey) -> Result<TimeKey, Finding> {
    let bytes = source.get(LOG_KEYS, MAX_NOTE).await;
    let bytes = bytes.map_err(|error| Finding::of_fetch(LOG_KEYS, error))?;
    parse_log_keys(&bytes, log_key).map_err(|error| Finding::of_log_keys(LOG_KEYS, error))
}

/// Sizes and roots of the two heads, before anything is fetched for them.
fn compare(head: &SignedHead, memory: Option<&Memory>) -> Result<(), Finding> {
    let Some(memory) = memory else { return Ok(()) };
    let (old, new) = (&memory.head.checkpoint, &head.checkpoint);
    if new.size < old.size {
        return Err(Finding::Rollback { remembered: old.size, served: new.size });
    }
    if new.size == old.size && new.root != old.root {
        let (remembered, served) = (old.root, new.root);
        return Err(Finding::Fork { size: new.size, remembered, served });
    }
    Ok(())
}

/// Answer of `/log/consistency?from=&to=`.
#[derive(Deserialize)]
struct ConsistencyAnswer {
    from: u64,
    to: u64,
    hashes: Vec<String>,
}

/// Verifies the log's own proof that the remembered tree starts the new one.
async fn prove<S: Source>(
    source: &S,
    head: &SignedHead,
    memory: Option<&Memory>,
) -> Result<(), Finding> {
    let Some(memory) = memory else { return Ok(()) };
    let (old, new) = (&memory.head.checkpoint, &head.checkpoint);
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

fn read_proof(bytes: &[u8], from: u64, to: u64) -> Option<Vec<Hash>> {
    let answer: ConsistencyAnswer = serde_json::from_slice(bytes).ok()?;
    let asked = answer.from == from && answer.to == to;
    asked.then(|| answer.hashes.iter().map(|text| hash_from_base64(text)).collect())?
}

/// Grows `older` by every entry up to `head`.
async fn rebuild<S: Source>(
    source: Arc<S>,
    older: CompactRange,
    head: &SignedHead,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CompactRange, Finding> {
    let (from, to) = (older.size(), head.checkpoint.size);
    let mut rebuild = Rebuild::from(older);
    let mut chunks = Download::new(source, from / WIDTH, spans(from, to));
    while let Some(chunk) = chunks.next().await {
        rebuild.add(&chunk?)?;
        progress(rebuild.size() - from, to - from);
    }
    rebuild.finish(&head.checkpoint)
}

/// Time and age of the head.
fn freshness(
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
        let found = rebuild(source, memory.range, &head, &mut |_, _| {}).await;
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
        assert_eq!(verified.memory.time_key, new.signers.time_key());
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
}
