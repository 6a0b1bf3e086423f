//! Verdicts about accounts: events that the log holds, replayed.
//!
//! That an event is in the log is proved by its entry and path. That there is no other one in
//! between is not: who writes the file may leave events out. So a chain as a whole is observed,
//! and proved is only what one event shows by itself, or two that claim one place.

use super::super::Leaf;
use super::{JudgementError, Shown, Standing, Trial, unfounded};
use crate::encoding::to_hex;
use crate::entry::Entry;
use crate::merkle::{Hash, leaf_hash, verify_inclusion};
use crate::sigchain::{
    Body, Event, Handle, Logged, PlainRecord, SignedEvent, Violation, label, replay,
};
use std::collections::HashMap;

/// A rule that is broken.
pub(super) fn violation(trial: &Trial<'_>) -> Shown {
    let (handle, entries) = entries(trial)?;
    let told: Vec<Logged> = entries.iter().map_while(|(_, logged)| logged.clone()).collect();
    if let Some((account, seq)) = contested(&told) {
        let account = to_hex(&account);
        let shows = format!("the log holds two events number {seq} of the account {account}");
        return Ok((Standing::Proof, shows));
    }
    let (index, violation) = match replay(trial.key, &handle, &told) {
        Err(broken) => broken,
        // The events that were shown follow the rules, and one was not shown.
        Ok(_) => match entries.get(told.len()) {
            Some((index, None)) => (*index, Violation::Withheld),
            _ => return Err(unfounded("the events in the file follow the rules")),
        },
    };
    if by_itself(violation) && told.first().is_some_and(|first| first.index == index) {
        return Ok((Standing::Proof, format!("of the key event at leaf {index}: {violation}")));
    }
    let shows = format!(
        "of the key event at leaf {index}, after the others in the file: {violation}; that there \
         are no others, and that this is what was served, is the word of who wrote this \
         (nexo-audit keys looks for itself)"
    );
    Ok((Standing::Observation, shows))
}

/// The devices of an account.
pub(super) fn devices(trial: &Trial<'_>) -> Shown {
    let (handle, entries) = entries(trial)?;
    let told: Vec<Logged> = entries.into_iter().filter_map(|(_, logged)| logged).collect();
    let replayed = replay(trial.key, &handle, &told);
    if !replayed.is_ok_and(|history| history.is_some()) {
        return Err(unfounded("the events in the file are no account"));
    }
    let shows = format!(
        "the log holds the {} key events of {} in it; which device is foreign is the word of who \
         wrote this",
        told.len(),
        handle.as_str()
    );
    Ok((Standing::Observation, shows))
}

type Entries = Vec<(u64, Option<Logged>)>;

/// The key entries of the handle in the file, each in the log at its place, and what is shown for
/// them.
fn entries(trial: &Trial<'_>) -> Result<(Handle, Entries), JudgementError> {
    let head = trial.shown()?.checkpoint;
    let handle = trial.evidence.handle.as_ref().ok_or(JudgementError::Part { part: "handle" })?;
    let handle = Handle::parse(handle).map_err(|_| unfounded("the handle is none"))?;
    if trial.evidence.leaves.is_empty() {
        return Err(JudgementError::Part { part: "leaves" });
    }
    if !trial.evidence.leaves.is_sorted_by(|a, b| a.index < b.index) {
        return Err(unfounded("the entries are not in the order of the log"));
    }
    let wanted = label(trial.key.origin(), &handle);
    let mut entries = Vec::with_capacity(trial.evidence.leaves.len());
    for leaf in &trial.evidence.leaves {
        let hash = leaf_hash(&leaf.entry);
        verify_inclusion(&hash, leaf.index, head.size, &leaf.path, &head.root)
            .map_err(|_| unfounded("an entry is not under the signed root"))?;
        let entry = Entry::parse(&leaf.entry).ok().filter(|entry| match entry {
            Entry::KeyEvent { label, .. } | Entry::PlainKey { label, .. } => *label == wanted,
            _ => false,
        });
        let entry = entry.ok_or(unfounded("an entry is no key event of the handle"))?;
        let logged = body(leaf)?.map(|body| Logged { index: leaf.index, entry, body });
        entries.push((leaf.index, logged));
    }
    Ok((handle, entries))
}

/// What is shown for a leaf; `None` when that was withheld.
fn body(leaf: &Leaf) -> Result<Option<Body>, JudgementError> {
    Ok(match (&leaf.event, &leaf.plain) {
        (Some(event), None) => Some(Body::Native(SignedEvent {
            event: event.event.clone(),
            sig: event.sig.clone(),
            accept_sig: event.accept_sig.clone(),
        })),
        (None, Some(plain)) => Some(Body::Plain(PlainRecord {
            handle: plain.handle.clone(),
            account: sized(&plain.account_id)?,
            device: plain.device_id.clone(),
            key: sized(&plain.ed25519_pub)?,
        })),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(unfounded("an entry is of two kinds")),
    })
}

fn sized(bytes: &[u8]) -> Result<[u8; 32], JudgementError> {
    bytes.try_into().map_err(|_| unfounded("a key or id is not 32 bytes"))
}

/// Whether the rule is broken whatever came before.
fn by_itself(violation: Violation) -> bool {
    matches!(
        violation,
        Violation::Unreadable(_)
            | Violation::Origin
            | Violation::Genesis
            | Violation::Handle
            | Violation::FirstDevice
    )
}

/// An account and a number in its chain that two different logged events have.
fn contested(told: &[Logged]) -> Option<(Hash, u64)> {
    let mut places = HashMap::new();
    for one in told {
        let (Body::Native(signed), Entry::KeyEvent { event, .. }) = (&one.body, &one.entry) else {
            continue;
        };
        let read = Event::parse(&signed.event).ok();
        // Only what the entry was made of counts. A genesis names no account, so two of them
        // contest nothing by that.
        let logged = signed.event_hash() == *event;
        let Some(read) = read.filter(|read| logged && read.seq > 0) else { continue };
        let place = (read.account, read.seq);
        if places.insert(place, *event).is_some_and(|other| other != *event) {
            return Some(place);
        }
    }
    None
}
