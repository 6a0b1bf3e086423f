//! Heads under an honest log and under one that lies.

use super::*;
use crate::trust::testlog::TestLog;
use nexo_schema::error::{ErrorCode, Problem};

fn log_of(size: u8) -> TestLog {
    let log = TestLog::new("relay.example.test");
    for n in 0..size {
        log.append(&[n]);
    }
    log
}

/// A fork: the same log with another last entry.
fn forked(size: u8) -> TestLog {
    let log = log_of(size);
    log.rewrite_last();
    log
}

#[tokio::test]
async fn an_honest_log_is_followed_and_only_forward() {
    let (log, vault) = (log_of(3), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    assert_eq!(trust.held_size().unwrap(), 0);
    assert_eq!(trust.fetch_head(log.now()).await.unwrap().size, 3);
    log.append(b"more");
    log.append(b"and more");
    let older = log.note(4);
    assert_eq!(trust.fetch_head(log.now()).await.unwrap().size, 5);
    assert_eq!(log.asked.get(), 1, "a proof was asked for");
    let shown = trust.accept(older.as_bytes(), None, log.now()).await.unwrap();
    assert_eq!((shown.size, trust.held_size().unwrap()), (4, 5), "proven older, newest stays");
}

#[tokio::test]
async fn a_proof_that_came_along_spares_a_question() {
    let (log, vault) = (log_of(3), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    trust.fetch_head(log.now()).await.unwrap();
    log.append(b"more");
    let proof = log.consistency(3, 4).await.unwrap();
    log.asked.set(0);
    let wrong_from = Some((2, proof.clone()));
    trust.accept(log.note(4).as_bytes(), Some((3, proof)), log.now()).await.unwrap();
    assert_eq!(log.asked.get(), 0);
    log.append(b"again");
    trust.accept(log.note(5).as_bytes(), wrong_from, log.now()).await.unwrap();
    assert_eq!(log.asked.get(), 1, "a proof from another size is not used");
}

#[tokio::test]
async fn e8_two_trees_of_one_size_are_evidence_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::create(&dir.path().join("h"), true).unwrap();
    let (log, lie, vault) = (log_of(4), forked(4), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, Some(&home));
    trust.fetch_head(log.now()).await.unwrap();
    let caught = trust.accept(lie.note(4).as_bytes(), None, log.now()).await;
    let Err(TrustError::SplitView { evidence: Some(path), size: 4 }) = caught else {
        panic!("{caught:?}")
    };
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(kept["held"], log.note(4));
    assert_eq!(kept["shown"], lie.note(4));
    let after = trust.fetch_head(log.now()).await;
    assert!(matches!(after, Err(TrustError::Unresolved)), "{after:?}");
}

#[tokio::test]
async fn e9_a_fork_behind_a_larger_size_has_no_proof() {
    let (log, lie, vault) = (log_of(4), forked(4), Vault::in_memory().unwrap());
    lie.append(b"more");
    let key = log.key();
    LogTrust::new(&log, &vault, &key, None, None).fetch_head(log.now()).await.unwrap();
    let trust = LogTrust::new(&lie, &vault, &key, None, None);
    let caught = trust.fetch_head(log.now()).await;
    assert!(matches!(caught, Err(TrustError::Inconsistent { held: 4, shown: 5, .. })));
    assert_eq!(trust.held_size().unwrap(), 4, "a head that cannot be proven is not kept");
}

/// A relay that shows a head of a log, and proves it with what a test says.
struct Proving<'a> {
    log: &'a TestLog,
    note: String,
    proof: Option<Vec<Hash>>,
}

impl LogSource for Proving<'_> {
    async fn checkpoint(&self) -> Result<Vec<u8>, ApiError> {
        Ok(self.note.clone().into_bytes())
    }

    async fn log_keys(&self) -> Result<Vec<u8>, ApiError> {
        self.log.log_keys().await
    }

    async fn consistency(&self, _: u64, _: u64) -> Result<Vec<Hash>, ApiError> {
        let absent = || ApiError::Refused(Problem::new(ErrorCode::NotFound, "no such proof"));
        self.proof.clone().ok_or_else(absent)
    }

    async fn head_covering(&self, sth_index: u64) -> Result<Option<Vec<u8>>, ApiError> {
        self.log.head_covering(sth_index).await
    }

    async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ApiError> {
        LogSource::inclusion(self.log, index, size).await
    }
}

#[tokio::test]
async fn e9_a_proof_that_is_missing_wrong_or_for_other_sizes_proves_nothing() {
    let (log, vault) = (log_of(5), Vault::in_memory().unwrap());
    let key = log.key();
    LogTrust::new(&log, &vault, &key, None, None).fetch_head(log.now()).await.unwrap();
    log.append(b"more");
    log.append(b"and more");
    let right = log.consistency(5, 7).await.unwrap();
    let other = async |from, to| log.consistency(from, to).await.unwrap();
    let mut bent = right.clone();
    bent[0][31] ^= 1;
    let wrong = [
        Vec::new(),
        right[1..].to_vec(),
        right[..right.len() - 1].to_vec(),
        [&right[..], &right[..1]].concat(),
        right.iter().rev().copied().collect(),
        bent,
        other(4, 7).await,
        other(5, 6).await,
        vec![[0; 32]; 64],
    ];
    let note = log.note(7);
    for proof in wrong.iter().cloned().map(Some).chain([None]) {
        let liar = Proving { log: &log, note: note.clone(), proof };
        let trust = LogTrust::new(&liar, &vault, &key, None, None);
        let fetched = trust.fetch_head(log.now()).await;
        let inconsistent =
            matches!(fetched, Err(TrustError::Inconsistent { held: 5, shown: 7, .. }));
        assert!(inconsistent, "{:?}: {fetched:?}", liar.proof);
        let along = liar.proof.clone().map(|proof| (5, proof));
        assert!(trust.accept(note.as_bytes(), along, log.now()).await.is_err());
        assert_eq!(trust.held_size().unwrap(), 5);
    }
    // Heads of sizes that no proof leads to: none at all, and more than any log has.
    for size in [0, 1 << 63, u64::MAX] {
        for proof in [right.clone(), Vec::new(), vec![[0; 32]; 64]] {
            let note = log.note_of(size, &[7; 32]);
            let liar = Proving { log: &log, note, proof: Some(proof) };
            let trust = LogTrust::new(&liar, &vault, &key, None, None);
            assert!(trust.fetch_head(log.now()).await.is_err(), "{size}");
            assert_eq!(trust.held_size().unwrap(), 5);
        }
    }
    let honest = Proving { log: &log, note, proof: Some(right) };
    let trust = LogTrust::new(&honest, &vault, &key, None, None);
    assert_eq!(trust.fetch_head(log.now()).await.unwrap().size, 7);
}

#[tokio::test]
async fn h14_a_clock_that_goes_back_a_year_stops_and_forgets_nothing() {
    let (log, vault) = (log_of(3), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let held = trust.fetch_head(log.now()).await.unwrap();
    let past = log.now() - 365 * 86_400;
    for _ in 0..2 {
        let ahead = trust.fetch_head(past).await;
        assert!(matches!(ahead, Err(TrustError::Ahead { .. })), "{ahead:?}");
    }
    log.append(b"more");
    assert!(trust.fetch_head(past).await.is_err());
    assert_eq!(vault.read(|tx| tx.newest_head()).unwrap(), Some(held));
    assert_eq!(trust.relay_time().unwrap(), log.now(), "the log's clock is the one that counts");
    assert_eq!(trust.fetch_head(log.now()).await.unwrap().size, 4);
}

#[tokio::test]
async fn e13_a_log_that_went_back_is_refused() {
    let (log, vault) = (log_of(4), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    trust.fetch_head(log.now()).await.unwrap();
    log.forget_last();
    let caught = trust.fetch_head(log.now()).await;
    assert!(matches!(caught, Err(TrustError::Inconsistent { held: 4, shown: 3, .. })));
    for _ in 0..3 {
        log.forget_last();
    }
    let caught = trust.fetch_head(log.now()).await;
    assert!(matches!(caught, Err(TrustError::Inconsistent { held: 4, shown: 0, .. })));
}

#[tokio::test]
async fn e11_another_key_is_not_the_log() {
    let (log, vault) = (log_of(2), Vault::in_memory().unwrap());
    let (key, other) = (log.key(), TestLog::new("other.example.test"));
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let foreign = trust.accept(other.note(0).as_bytes(), None, log.now()).await;
    assert!(matches!(foreign, Err(TrustError::Head(_))));
    let tampered = log.note(2).replacen("\n2\n", "\n3\n", 1);
    let tampered = trust.accept(tampered.as_bytes(), None, log.now()).await;
    assert!(matches!(tampered, Err(TrustError::Head(_))));
}

#[tokio::test]
async fn e10_a_head_is_fresh_for_a_day_and_never_from_the_future() {
    let (log, vault) = (log_of(1), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let now = log.now();
    for (at, good) in [
        (now, true),
        (now + MAX_AGE, true),
        (now + MAX_AGE + 1, false),
        (now - MAX_AHEAD, true),
        (now - MAX_AHEAD - 1, false),
    ] {
        assert_eq!(trust.fetch_head(at).await.is_ok(), good, "{at}");
    }
    let unstamped = log.note(1);
    let unstamped = unstamped.rsplit_once('\u{2014}').unwrap().0;
    let refused = trust.accept(unstamped.as_bytes(), None, now).await;
    assert!(matches!(refused, Err(TrustError::NoTime)));
}

#[tokio::test]
async fn a_new_time_key_is_taken_from_the_log_key_only() {
    let (log, vault) = (log_of(1), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, Some(log.time_key()), None);
    trust.fetch_head(log.now()).await.unwrap();
    log.change_time_key();
    log.set_now(log.now() + 60);
    let head = trust.fetch_head(log.now()).await.unwrap();
    assert_eq!(head.time, log.now());
    assert_eq!(trust.relay_time().unwrap(), log.now(), "renewed on the same size");
}

#[tokio::test]
async fn an_entry_is_as_old_as_the_first_head_that_covers_it() {
    let (log, vault) = (log_of(6), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = LogTrust::new(&log, &vault, &key, None, None);
    let head = trust.fetch_head(log.now()).await.unwrap();
    log.batch_time.set(Some(log.now() - 5000));
    for (place, age) in [(3, 5000), (4, 5000), (5, 5000), (6, 5000), (7, 0)] {
        let time = trust.time_of(place, &head, log.now()).await.unwrap();
        assert_eq!(log.now() - time, age, "entry {place}");
    }
    // A head of another history is no clock.
    let lie = log_of(6);
    lie.rewrite_last();
    let other = LogTrust::new(&lie, &vault, &key, None, None);
    let mixed = HeldHead { size: 7, ..head };
    assert!(other.time_of(6, &mixed, log.now()).await.is_err());
}
