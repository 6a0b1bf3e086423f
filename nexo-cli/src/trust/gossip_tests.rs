//! Heads and rosters of honest senders, of other histories, and of liars.

use super::*;
use crate::trust::testlog::TestLog;
use crate::vault::{ChainEvent, SignedEvent, Vault};

fn log_of(size: u8) -> TestLog {
    let log = TestLog::new("relay.example.test");
    for n in 0..size {
        log.append(&[n]);
    }
    log
}

/// A client that holds the newest head of a log.
async fn follower<'a>(
    log: &'a TestLog,
    vault: &'a Vault,
    key: &'a crate::trust::LogKey,
) -> LogTrust<'a, TestLog> {
    let trust = LogTrust::new(log, vault, key, None, None);
    trust.fetch_head(log.now()).await.unwrap();
    trust
}

#[tokio::test]
async fn e8_two_roots_of_one_size_end_everything() {
    let (log, lie, vault) = (log_of(4), log_of(4), Vault::in_memory().unwrap());
    lie.rewrite_last();
    let key = log.key();
    let trust = follower(&log, &vault, &key).await;
    head_heard(&trust, &log.note(4), log.now()).await.unwrap();
    let split = head_heard(&trust, &lie.note(4), log.now()).await;
    assert!(matches!(split, Err(TrustError::SplitView { size: 4, .. })), "{split:?}");
    assert!(matches!(trust.one_history(), Err(TrustError::Unresolved)), "also in later runs");
}

#[tokio::test]
async fn heads_of_other_sizes_wait_for_their_proof() {
    let (log, vault) = (log_of(6), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = follower(&log, &vault, &key).await;
    for size in [0, 2, 5, 6] {
        head_heard(&trust, &log.note(size), log.now()).await.unwrap();
    }
    let waiting = || vault.read(|tx| tx.heard(9)).unwrap().len();
    assert_eq!(waiting(), 2, "the empty tree and the one held need no proof");
    settle(&trust, log.now()).await.unwrap();
    assert_eq!(waiting(), 0);
    // A longer one than the relay shows here waits, and is proved when it is there.
    let ahead = log_of(8);
    head_heard(&trust, &ahead.note(8), log.now()).await.unwrap();
    settle(&trust, log.now()).await.unwrap();
    assert_eq!(waiting(), 1);
    log.append(&[6]);
    log.append(&[7]);
    settle(&trust, log.now()).await.unwrap();
    assert_eq!(waiting(), 0);
}

#[tokio::test]
async fn e9_a_head_of_another_history_is_found_out() {
    let (log, lie, vault) = (log_of(6), log_of(3), Vault::in_memory().unwrap());
    lie.rewrite_last();
    let key = log.key();
    let trust = follower(&log, &vault, &key).await;
    head_heard(&trust, &lie.note(3), log.now()).await.unwrap();
    let found = settle(&trust, log.now()).await;
    assert!(matches!(found, Err(TrustError::Inconsistent { held: 6, shown: 3, .. })), "{found:?}");
}

#[tokio::test]
async fn a_head_that_is_not_proved_for_a_day_is_an_incident() {
    let (log, ahead, vault) = (log_of(3), log_of(5), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = follower(&log, &vault, &key).await;
    head_heard(&trust, &ahead.note(5), log.now()).await.unwrap();
    settle(&trust, log.now() + PROOF_WITHIN).await.unwrap();
    let late = settle(&trust, log.now() + PROOF_WITHIN + 1).await;
    assert!(matches!(late, Err(TrustError::Unprovable { size: 5, .. })), "{late:?}");
}

#[tokio::test]
async fn e11_what_the_log_did_not_sign_means_nothing() {
    let (log, vault) = (log_of(3), Vault::in_memory().unwrap());
    let key = log.key();
    let trust = follower(&log, &vault, &key).await;
    let other = TestLog::new("other.example.test");
    let forged = log.note(3).replacen("\n3\n", "\n2\n", 1);
    for note in [other.note(0), forged, String::new(), "x".repeat(100)] {
        head_heard(&trust, &note, log.now()).await.unwrap();
    }
    assert!(vault.read(|tx| tx.heard(9)).unwrap().is_empty());
}

fn event(byte: u8) -> ChainEvent {
    let signed = SignedEvent { event: vec![byte], sig: vec![1; 64], accept_sig: Vec::new() };
    ChainEvent { signed, sth_index: u64::from(byte) }
}

fn entry(account: AccountId, seq: u64, hash: [u8; 32]) -> RosterEntry {
    RosterEntry { account: account.to_string(), seq, hash: to_hex(&hash) }
}

#[tokio::test]
async fn e7_a_roster_shows_what_was_hidden_here() {
    let vault = Vault::in_memory().unwrap();
    let account = AccountId::from_bytes([1; 32]);
    vault.write(|tx| tx.put_chain(account, &[event(1), event(2)])).await.unwrap();
    let hash = |byte| event(byte).signed.event_hash();
    let judged = |roster: &[RosterEntry]| {
        let found = vault.read(|tx| doubts(tx, roster)).unwrap();
        found.into_iter().map(|doubt| (doubt.seq, doubt.forked)).collect::<Vec<_>>()
    };
    assert_eq!(judged(&[entry(account, 1, hash(2))]), [], "the same view");
    assert_eq!(judged(&[entry(account, 0, hash(1))]), [], "an older view");
    assert_eq!(judged(&[entry(account, 2, hash(3))]), [(2, false)], "an event is hidden here");
    assert_eq!(judged(&[entry(account, u64::MAX, hash(3))]), [(u64::MAX, false)]);
    assert_eq!(judged(&[entry(account, 1, hash(9))]), [(1, true)], "another event");
    let unknown = AccountId::from_bytes([2; 32]);
    assert_eq!(judged(&[entry(unknown, 5, hash(1))]), [], "nobody here knows that account");
    let nonsense = RosterEntry { account: "x".into(), seq: 0, hash: "y".into() };
    assert_eq!(judged(&[nonsense]), []);
}

#[test]
fn gossip_is_read_leniently_and_bounded() {
    let one = entry(AccountId::from_bytes([1; 32]), 3, [2; 32]);
    let body = serde_json::json!({ "v": 1, "sth": "note\n", "roster": vec![&one; 40], "x": 1 });
    let read = Gossip::read(body.to_string().as_bytes());
    assert_eq!((read.sth.as_deref(), read.roster.len()), (Some("note\n"), MAX_ROSTER));
    assert_eq!(read.roster[0], one);
    let long = serde_json::json!({ "sth": "x".repeat(MAX_NOTE + 1), "roster": [] });
    assert_eq!(Gossip::read(long.to_string().as_bytes()), Gossip::default());
    for other in ["", "{}", "[]", r#"{"roster":5}"#] {
        assert_eq!(Gossip::read(other.as_bytes()), Gossip::default(), "{other}");
    }
}
