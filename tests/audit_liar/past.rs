//! Lies about entries that the victim has seen: the log goes on from another past. Whatever proof
//! it gives, there is none.

use super::{NOW, Observation, Proof, SEEN, Victim, truth};
use crate::harness::liar::{Answer, Log, Site};

/// The log of now, with another past.
fn rewritten(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Log {
    Log::of(NOW).but(|log| change(&mut log.entries))
}

/// A past that is told with all there is to it: proofs, tiles and entries of the other tree.
fn is_found(change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let other = rewritten(change);
    let victim = Victim::who_knows_the_log();
    let found = victim.finds(Site::of(&other), 99, "inconsistent", Proof);
    assert_eq!(
        (&found["detail"]["from"], &found["detail"]["to"]),
        (&SEEN.into(), &other.size().into())
    );
    // With the honest log's proof beside it.
    let path = format!("log/consistency?from={SEEN}&to={NOW}");
    if other.size() == NOW {
        victim.finds(Site::of(&other).borrowed(&path, &Log::of(NOW)), 99, "inconsistent", Proof);
    }
    // A newcomer cannot know. What tells him is to compare heads with others.
    Victim::who_is_new().check(Site::of(&other).serve().url(), &[]).ok();
}

#[test]
fn a_dropped_entry() {
    is_found(|entries| drop(entries.remove(10)));
}

#[test]
fn a_dropped_last_entry() {
    is_found(|entries| drop(entries.remove(SEEN - 1)));
}

#[test]
fn an_inserted_entry() {
    is_found(|entries| entries.insert(10, entries[500].clone()));
}

#[test]
fn reordered_entries() {
    is_found(|entries| entries.swap(10, 11));
}

#[test]
fn a_rewritten_entry() {
    is_found(|entries| *entries[299].last_mut().unwrap() ^= 1);
}

#[test]
fn a_repeated_entry() {
    is_found(|entries| entries[11] = entries[10].clone());
}

#[test]
fn a_proof_that_proves_nothing() {
    let victim = Victim::who_knows_the_log();
    let path = format!("log/consistency?from={SEEN}&to={NOW}");
    let proof = |hashes: &[String]| {
        let hashes = hashes.iter().map(|hash| format!("\"{hash}\"")).collect::<Vec<_>>().join(",");
        Answer::ok(format!("{{\"from\":{SEEN},\"to\":{NOW},\"hashes\":[{hashes}]}}"))
    };
    let honest: serde_json::Value =
        serde_json::from_slice(&Log::of(NOW).answer(&path).unwrap()).unwrap();
    let honest: Vec<String> =
        honest["hashes"].as_array().unwrap().iter().map(crate::harness::text).collect();
    let reversed: Vec<String> = honest.iter().rev().cloned().collect();
    let longer = [&honest[..], &honest[..1]].concat();
    for lie in [&[][..], &honest[1..], &honest[..honest.len() - 1], &reversed, &longer] {
        victim.finds(truth().with(&path, proof(lie)), 99, "inconsistent", Observation);
    }
    victim.finds(truth().without(&path), 92, "missing_resource", Observation);
    let other = format!("log/consistency?from={}&to={NOW}", SEEN - 1);
    let other = Log::of(NOW).answer(&other).unwrap();
    for lie in [Answer::ok("{}"), Answer::ok("junk"), Answer::ok(other), proof(&["AA==".into()])] {
        victim.finds(truth().with(&path, lie), 65, "bad_data", Observation);
    }
}
