//! Verdicts about heads: what was signed, by whom, when.

use super::super::posix;
use super::{JudgementError, Shown, Standing, Trial, unfounded};
use crate::check::read_proof;
use crate::checkpoint::{
    Checkpoint, HeadError, LogKeysError, SignedHead, is_key_list, parse_log_keys,
};
use crate::merkle::{empty_root, prefix_roots, verify_consistency};
use crate::note::Note;
use crate::policy::Policy;
use serde_json::Value;
use std::time::Duration;

/// Why bytes that the key did not sign are not its bad data.
const UNSIGNED: &str = "the note in the file is not signed by the key";

/// Two roots of one size.
pub(super) fn fork(trial: &Trial<'_>) -> Shown {
    let (held, shown) = (trial.held()?.checkpoint, trial.shown()?.checkpoint);
    if held.size != shown.size || held.root == shown.root {
        return Err(unfounded("the heads are not two of one size"));
    }
    let size = held.size;
    Ok((Standing::Proof, format!("the log signed two different heads of size {size}")))
}

/// A larger tree that does not start with the smaller one.
pub(super) fn inconsistent(trial: &Trial<'_>) -> Shown {
    let (held, shown) = (trial.held()?, trial.shown()?);
    let (older, newer) = by_size(&held.checkpoint, &shown.checkpoint);
    let (from, to) = (older.size, newer.size);
    if from == to {
        return Err(unfounded("the heads have one size"));
    }
    if !trial.evidence.prefix.is_empty() {
        return contradiction(trial, older, newer);
    }
    let served = trial.evidence.resources.first();
    if let Some(served) = served.filter(|served| served.path.starts_with("log/consistency?")) {
        let proof = read_proof(&served.bytes, from, to);
        let holds = proof.is_some_and(|proof| {
            verify_consistency(from, &older.root, to, &newer.root, &proof).is_ok()
        });
        if holds {
            return Err(unfounded("the log's proof in the file holds"));
        }
    }
    let shows = format!(
        "the log signed heads of {from} and of {to} entries; that it has no proof from one to the \
         other is the word of who wrote this"
    );
    Ok((Standing::Observation, shows))
}

/// The nodes under the newer root that make another root for the older size.
fn contradiction(trial: &Trial<'_>, older: &Checkpoint, newer: &Checkpoint) -> Shown {
    let (from, to) = (older.size, newer.size);
    match prefix_roots(from, to, &trial.evidence.prefix) {
        Ok((root, whole)) if whole == newer.root && root != older.root => {}
        Ok((_, whole)) if whole == newer.root => {
            return Err(unfounded("the larger tree starts with the smaller one"));
        }
        _ => return Err(unfounded("the nodes do not lead to the larger head's root")),
    }
    let shows = format!(
        "the log signed a tree of {to} entries whose first {from} are not the {from} that it \
         signed as well"
    );
    Ok((Standing::Proof, shows))
}

/// A smaller head that the log vouched for after a larger one. Its times are its clock's, and a clock
/// that was ahead and was set right makes the same two notes of an honest log.
pub(super) fn rollback(trial: &Trial<'_>) -> Shown {
    let (held, shown) = (trial.held()?, trial.shown()?);
    let (before, after) = (held.checkpoint.size, shown.checkpoint.size);
    if after >= before {
        return Err(unfounded("the head that was shown is not the smaller one"));
    }
    let times = held.time.zip(shown.time).filter(|(earlier, later)| earlier < later);
    let shows = match times {
        Some((earlier, later)) => format!(
            "the log vouched for a head of {before} entries as its newest at {earlier} and for one \
             of {after} at {later}, by its own clock: it went back, or its clock did"
        ),
        None => format!(
            "the log signed heads of {before} and of {after} entries; that it showed the smaller \
             one later is the word of who wrote this"
        ),
    };
    Ok((Standing::Observation, shows))
}

/// A witness's head that contradicts the one that was shown. `held` is the witness's.
pub(super) fn witness(trial: &Trial<'_>) -> Shown {
    let text = trial.evidence.policy.as_ref().ok_or(JudgementError::Part { part: "policy" })?;
    let policy = Policy::parse(text.as_bytes(), Some(0))?;
    let (held, shown) = (trial.held()?, trial.shown()?);
    let note = Note::parse(held.note.as_bytes())?;
    let time = policy.witnesses().iter().find_map(|witness| {
        let key = witness.key.as_ref()?;
        note.witnessed_at(key).ok()?.map(|time| (witness.name.as_str(), time))
    });
    let (name, time) = time.ok_or(unfounded("no witness of the trust file cosigned the head"))?;
    let (standing, shows) = match (&held.checkpoint, &shown.checkpoint) {
        (held, shown) if held.size == shown.size => fork(trial)?,
        (held, shown) if held.size > shown.size && trial.evidence.prefix.is_empty() => {
            let shows = format!(
                "the log signed heads of {} and of {} entries; that it showed the smaller one \
                 later is the word of who wrote this",
                held.size, shown.size
            );
            (Standing::Observation, shows)
        }
        _ => inconsistent(trial)?,
    };
    Ok((standing, format!("{shows}; the witness {name} saw the other one at {time}")))
}

/// A head without the cosignatures that the trust file asks for.
pub(super) fn quorum(trial: &Trial<'_>) -> Shown {
    let text = trial.evidence.policy.as_ref().ok_or(JudgementError::Part { part: "policy" })?;
    // How many may lie was judged when it was read; it does not change what the quorum asks for.
    let policy = Policy::parse(text.as_bytes(), Some(0))?;
    let shown = trial.shown()?;
    let seen = posix(&trial.evidence.seen_at).ok_or(JudgementError::Part { part: "seen_at" })?;
    let max_age = trial.evidence.detail.get("max_age").and_then(Value::as_u64);
    let max_age = max_age.map(Duration::from_secs).or(policy.max_age()).unwrap_or(Duration::MAX);
    let note = Note::parse(shown.note.as_bytes())?;
    let ballot = policy.ballot(&note, seen, max_age);
    if ballot.is_ok_and(|ballot| policy.judge(ballot).is_ok()) {
        return Err(unfounded("the head meets the quorum of the trust file"));
    }
    let shows = format!(
        "the head of {} entries does not meet the quorum {} of the trust file in it; that there \
         were no more cosignatures is the word of who wrote this",
        shown.checkpoint.size,
        policy.quorum_name()
    );
    Ok((Standing::Observation, shows))
}

/// A head of another log under this log's key. The name on a signature line is not signed: a log that
/// was renamed before its first entry keeps its key (`nexo-server --origin`), and its heads can be
/// made to look like these by anybody.
pub(super) fn wrong_origin(trial: &Trial<'_>) -> Shown {
    match trial.shown() {
        Err(JudgementError::Head { cause: HeadError::Origin { expected, found }, .. }) => {
            let shows = format!(
                "the key of {expected} signed a head of {found}; that it was served as one of \
                 {expected} is the word of who wrote this"
            );
            Ok((Standing::Observation, shows))
        }
        Err(other) => Err(other),
        Ok(_) => Err(unfounded("the head is of the key's own log")),
    }
}

/// A note that the key did not sign.
pub(super) fn bad_signature(trial: &Trial<'_>) -> Shown {
    let served = trial.evidence.resources.first();
    let served = served.ok_or(JudgementError::Part { part: "resources" })?;
    let bad = if served.path == "log/keys" {
        matches!(parse_log_keys(&served.bytes, trial.key), Err(LogKeysError::Signature(_)))
    } else {
        let time_key = trial.time_key.as_ref();
        let head = SignedHead::open(&served.bytes, trial.key, time_key);
        matches!(head, Err(HeadError::Signature(_))) || badly_cosigned(trial, &served.bytes)?
    };
    if !bad {
        return Err(unfounded("the note in the file is signed as it should be"));
    }
    let shows = format!(
        "the note from {} in it is not signed by the key; that it was served is the word of who \
         wrote this",
        served.path
    );
    Ok((Standing::Observation, shows))
}

/// Whether a line that claims to be of a witness in the trust file does not verify.
fn badly_cosigned(trial: &Trial<'_>, note: &[u8]) -> Result<bool, JudgementError> {
    let Some(text) = &trial.evidence.policy else { return Ok(false) };
    let policy = Policy::parse(text.as_bytes(), Some(0))?;
    Ok(policy.ballot(&Note::parse(note)?, 0, Duration::MAX).is_err())
}

/// Bytes that are not in their format; with the log's signature on them, that is its own doing.
pub(super) fn bad_data(trial: &Trial<'_>) -> Shown {
    let served = trial.evidence.resources.first();
    let served = served.ok_or(JudgementError::Part { part: "resources" })?;
    let signed = match served.path.as_str() {
        "log/keys" => match parse_log_keys(&served.bytes, trial.key) {
            Ok(_) => return Err(unfounded("the key list in the file is one")),
            Err(LogKeysError::Signature(_)) => return Err(unfounded(UNSIGNED)),
            Err(LogKeysError::Note(_)) => false,
            Err(_) => true,
        },
        "checkpoint" => match SignedHead::open(&served.bytes, trial.key, None) {
            Ok(_) => return Err(unfounded("the head in the file is one")),
            Err(HeadError::Checkpoint(_) | HeadError::Origin { .. }) => true,
            Err(HeadError::Signature(_)) => return Err(unfounded(UNSIGNED)),
            Err(HeadError::Note(_)) => false,
        },
        _ => false,
    };
    let path = &served.path;
    Ok(if signed && !is_genuine(trial, &served.bytes) {
        (Standing::Proof, format!("the log signed what cannot stand at {path}"))
    } else {
        let shows = format!(
            "the bytes from {path} in it are not what stands there; that they were served is the \
             word of who wrote this"
        );
        (Standing::Observation, shows)
    })
}

/// Whether an honest log signed these bytes: a head or a key list, maybe not for the path that the
/// file names, and maybe under the name that it had before. Whoever writes a file can put either in
/// the other's place, and any name on a signature line.
fn is_genuine(trial: &Trial<'_>, note: &[u8]) -> bool {
    let head = SignedHead::open(note, trial.key, None);
    let head = matches!(head, Ok(_) | Err(HeadError::Origin { .. }));
    let text = Note::parse(note).ok().and_then(|note| note.signed_by(trial.key).ok());
    head || text.is_some_and(is_key_list)
}

/// A head that is genuine, and what else is said about it.
pub(super) fn signed(trial: &Trial<'_>) -> Shown {
    let shown = trial.shown()?;
    let time = shown.time.map_or(String::new(), |time| format!(", last vouched for at {time}"));
    let shows = format!(
        "the log signed a head of {} entries{time}; the rest is the word of who wrote this",
        shown.checkpoint.size
    );
    Ok((Standing::Observation, shows))
}

/// A head of no entries that has another root than the empty tree has.
pub(super) fn wrong_empty_root(head: &SignedHead) -> bool {
    head.checkpoint.size == 0 && head.checkpoint.root != empty_root()
}

fn by_size<'a>(a: &'a Checkpoint, b: &'a Checkpoint) -> (&'a Checkpoint, &'a Checkpoint) {
    if a.size < b.size { (a, b) } else { (b, a) }
}
