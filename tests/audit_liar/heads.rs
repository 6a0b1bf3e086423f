//! Lies about what was signed.

use super::{NOW, Observation, Proof, SEEN, Victim, told_to_both, truth};
use crate::harness::liar::{Answer, Log, Signers, Site};
use crate::harness::note::Checkpoint;
use crate::harness::{now, text};

/// The log when the victim saw it, with another entry in it.
fn other_history() -> Log {
    Log::of(SEEN).but(|log| log.entries.swap(10, 11))
}

#[test]
fn e9_a_fork() {
    let found = Victim::who_knows_the_log().finds(Site::of(&other_history()), 84, "fork", Proof);
    let vkey = Log::of(0).signers.vkey();
    let heads = ["head", "remembered"].map(|head| Checkpoint::verify(&text(&found[head]), &vkey));
    assert_eq!((heads[0].size, heads[1].size), (300, 300));
    assert_ne!(heads[0].root, heads[1].root);
}

#[test]
fn a_fork_of_one_bit_in_a_head() {
    let mut root = Log::of(SEEN).root();
    root[31] ^= 1;
    let head = Log::of(SEEN).head_of(SEEN as u64, &root);
    let lie = Site::of(&Log::of(SEEN)).with("checkpoint", Answer::ok(head));
    Victim::who_knows_the_log().finds(lie, 84, "fork", Proof);
}

#[test]
fn e13_a_rollback() {
    let victim = Victim::who_knows_the_log();
    for size in [0, 1, SEEN - 1] {
        // Vouched for before the one that the victim saw: it was signed in its time, and that it
        // was shown now is the victim's word.
        let older = Log::of(size).but(|log| log.time -= 60);
        let found = victim.finds(Site::of(&older), 98, "rollback", Observation);
        let detail = &found["detail"];
        assert_eq!((&detail["served"], &detail["remembered"]), (&size.into(), &SEEN.into()));
    }
}

#[test]
fn a_rollback_that_was_vouched_for_afterwards() {
    let older = Log::of(SEEN - 1).but(|log| log.time += 60);
    Victim::who_knows_the_log().finds(Site::of(&older), 98, "rollback", Observation);
}

#[test]
fn e11_a_head_signed_by_another_key() {
    let other = Signers::of("liar.example", 2);
    let lie = || Site::of(&Log::of(NOW).but(|log| log.signers = other.clone()));
    let found = told_to_both(lie, 83, "bad_signature", Observation);
    assert!(found["head"].is_null(), "not a head of this log: {found}");
}

#[test]
fn a_signature_of_another_text() {
    let newer = Log::of(NOW + 1).head();
    let (_, signatures) = newer.split_once("\n\n").unwrap();
    let mixed = Log::of(NOW).head();
    let mixed = format!("{}\n\n{signatures}", mixed.split_once("\n\n").unwrap().0);
    told_to_both(
        || truth().with("checkpoint", Answer::ok(mixed.clone())),
        83,
        "bad_signature",
        Observation,
    );
}

#[test]
fn a_head_without_signature() {
    let log = Log::of(NOW);
    let head = log.head();
    let (body, _) = head.split_once("\n\n").unwrap();
    let text = format!("{body}\n");
    let timed = format!("{text}\n{}", log.signers.time_line(&text, now()));
    told_to_both(
        || truth().with("checkpoint", Answer::ok(timed.clone())),
        83,
        "bad_signature",
        Observation,
    );
    told_to_both(
        || truth().with("checkpoint", Answer::ok(text.clone())),
        65,
        "bad_data",
        Observation,
    );
}

#[test]
fn a_good_signature_beside_a_bad_one_of_the_same_key() {
    let (log, newer) = (Log::of(NOW), Log::of(NOW + 1));
    let other = newer.head();
    let bad = other.lines().nth(4).unwrap();
    let head = format!("{}{bad}\n", log.head());
    told_to_both(
        || truth().with("checkpoint", Answer::ok(head.clone())),
        83,
        "bad_signature",
        Observation,
    );
}

#[test]
fn e11_a_head_of_another_log_by_this_key() {
    let log = Log::of(NOW);
    let body = log.head().replacen("liar.example\n", "other.example\n", 1);
    let (body, _) = body.split_once("\n\n").unwrap();
    let text = format!("{body}\n");
    let head = format!("{text}\n{}", log.signers.line(&text));
    told_to_both(
        || truth().with("checkpoint", Answer::ok(head.clone())),
        97,
        "wrong_origin",
        Observation,
    );
}

#[test]
fn another_signed_text_instead_of_a_head() {
    let keys = Log::of(NOW).signers.key_list();
    told_to_both(
        || truth().with("checkpoint", Answer::ok(keys.clone())),
        65,
        "bad_data",
        Observation,
    );
}

#[test]
fn a_time_key_of_a_stranger() {
    let strangers = Signers::of("liar.example", 2).key_list();
    told_to_both(
        || truth().with("log/keys", Answer::ok(strangers.clone())),
        83,
        "bad_signature",
        Observation,
    );
}

#[test]
fn the_log_key_as_its_own_time_key() {
    let signers = Log::of(0).signers;
    let text = format!("nexo/1/log-keys\nliar.example\ntime {}\n", signers.vkey());
    let list = format!("{text}\n{}", signers.line(&text));
    told_to_both(|| truth().with("log/keys", Answer::ok(list.clone())), 65, "bad_data", Proof);
}

#[test]
fn e10_a_stale_head() {
    let old = |age| Site::of(&Log::of(NOW).but(|log| log.time -= age));
    told_to_both(|| old(24 * 3600 + 60), 85, "stale", Observation);
    let found =
        Victim::who_is_new().finds_with(old(120), &["--max-age", "60s"], 85, "stale", Observation);
    assert!(found["detail"]["age"].as_u64().unwrap() >= 120, "{found}");
    // The same head and an auditor who is less strict.
    Victim::who_is_new().check(old(120).serve().url(), &["--max-age", "1h"]).ok();
}

#[test]
fn e10_a_head_from_the_future() {
    told_to_both(|| Site::of(&Log::of(NOW).but(|log| log.time += 3600)), 101, "clock", Observation);
}

#[test]
fn a_head_without_time() {
    let log = Log::of(NOW);
    let head = log.head();
    let (body, _) = head.split_once("\n\n").unwrap();
    let text = format!("{body}\n");
    let untimed = format!("{text}\n{}", log.signers.line(&text));
    told_to_both(
        || truth().with("checkpoint", Answer::ok(untimed.clone())),
        102,
        "no_time",
        Observation,
    );
}

#[test]
fn a_time_that_was_not_signed() {
    let log = Log::of(NOW);
    let head = log.head();
    let (body, _) = head.split_once("\n\n").unwrap();
    let text = format!("{body}\n");
    // The time key's word about another text.
    let line = log.signers.time_line("liar.example\n1\n", now());
    let mixed = format!("{text}\n{}{line}", log.signers.line(&text));
    told_to_both(
        || truth().with("checkpoint", Answer::ok(mixed.clone())),
        83,
        "bad_signature",
        Observation,
    );
}

#[test]
fn a_tree_that_is_larger_than_the_log() {
    let head = |size| Answer::ok(Log::of(NOW).head_of(size, &[7; 32]));
    let lie = |size| move || truth().with("checkpoint", head(size));
    told_to_both(lie(1 << 62), 92, "missing_resource", Observation);
    told_to_both(lie(1 << 63), 65, "bad_data", Proof);
}

#[test]
fn an_empty_log_with_a_root() {
    let empty = Log::of(0).but(|log| log.time -= 60);
    let lie = || Site::of(&empty).with("checkpoint", Answer::ok(empty.head_of(0, &[7; 32])));
    Victim::who_is_new().finds(lie(), 91, "root_mismatch", Proof);
    Victim::who_knows_the_log().finds(lie(), 98, "rollback", Observation);
}
