//! What a lie about an account leaves behind: a file that others can judge (PROTOCOL.md 6).
//!
//! `nexo-audit evidence verify` reads it. Two events for one place of a chain are a proof;
//! events that were withheld, or a device that its owner does not know, are the word of this
//! device about what is in the log.

use std::path::PathBuf;

use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::ids::Handle;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::bundle::leaf;
use super::log::{LogSource, LogTrust};
use crate::clock;
use crate::home::HomeError;
use crate::vault::{ChainEvent, HeldHead};

/// Most events of a chain that go into a file.
const MAX_LEAVES: usize = 64;

/// What was found about an account.
pub(super) struct Incident<'a> {
    /// The verdict's name, as `nexo-audit` has it.
    pub(super) verdict: &'static str,
    /// In words.
    pub(super) message: String,
    /// Whose account.
    pub(super) handle: &'a Handle,
    /// Events that were logged, of every side of the story.
    pub(super) events: Vec<&'a ChainEvent>,
    /// The head that holds them.
    pub(super) head: &'a HeldHead,
}

/// Writes the file; `None` for a device that has no place for it. Paths are asked of the relay,
/// and an event that it does not prove is left out.
///
/// # Errors
/// [`HomeError`].
pub(super) async fn record<S: LogSource>(
    trust: &LogTrust<'_, S>,
    incident: &Incident<'_>,
    now: u64,
) -> Result<Option<PathBuf>, HomeError> {
    let Some(home) = trust.home() else { return Ok(None) };
    let leaves = leaves(trust, incident).await;
    let Incident { verdict, message, handle, head, .. } = incident;
    // One file for one matter, under whatever head it is seen again.
    let name = incident
        .events
        .iter()
        .fold(Sha256::new().chain_update(format!("{verdict}\n{handle}\n")), |name, one| {
            name.chain_update(one.signed.event_hash())
        });
    let name = to_hex(&name.finalize());
    let file = json!({
        "schema": "nexo.evidence/1",
        "verdict": verdict,
        "log_vkey": trust.log_key().to_string(),
        "seen_at": clock::rfc3339(now),
        "message": message,
        "handle": handle,
        "shown": head.note,
        "leaves": leaves,
    });
    home.write_evidence(&format!("{name}.json"), format!("{file:#}\n").as_bytes()).map(Some)
}

async fn leaves<S: LogSource>(trust: &LogTrust<'_, S>, incident: &Incident<'_>) -> Vec<Value> {
    let mut events = incident.events.clone();
    events.sort_by_key(|one| one.sth_index);
    events.dedup();
    // The newest ones say what happened.
    let first = events.len().saturating_sub(MAX_LEAVES);
    let mut leaves = Vec::new();
    for one in &events[first..] {
        let index = one.sth_index.saturating_sub(1);
        let Ok(path) = trust.source().inclusion(index, incident.head.size).await else { continue };
        let entry = leaf(trust.origin(), incident.handle, &one.signed);
        let proved =
            trust.included("an event", incident.head, &entry, one.sth_index, &path).is_ok();
        if !proved {
            continue;
        }
        leaves.push(json!({
            "index": index,
            "entry": to_base64(&entry),
            "path": path.iter().map(|hash| to_base64(hash)).collect::<Vec<_>>(),
            "event": {
                "event": to_base64(&one.signed.event),
                "sig": to_base64(&one.signed.sig),
                "accept_sig": to_base64(&one.signed.accept_sig),
            },
        }));
    }
    leaves
}
