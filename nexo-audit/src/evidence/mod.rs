//! Evidence: one file from which a third party re-derives a verdict, offline.
//!
//! Whoever reads it trusts nothing but the log's vkey, which they have from elsewhere. The file is
//! JSON of schema `nexo.evidence/1`; the bytes that count are in it verbatim:
//!
//! ```text
//! { "schema": "nexo.evidence/1",
//!   "verdict": "fork",             name in the table of verdicts ("kind" in nexo-cli's files)
//!   "origin": "...", "log_vkey": "<vkey>", "seen_at": "<RFC 3339>",
//!   "message": "words", "detail": { the finding's data },          for people, never trusted
//!   "held": "<signed note>",       the head that was verified before
//!   "shown": "<signed note>",      the head that was judged
//!   "log_keys": "<signed note>",   names the time key, for the times of both
//!   "prefix": ["<base64>", ...],   nodes of the larger head's tree (see below)
//!   "peaks": ["<base64>", ...],    full subtrees of the tree of "held"
//!   "handle": "...",               whose events these are:
//!   "leaves": [{ "index": 7, "entry": "<base64>", "path": ["<base64>", ...],
//!                "event": { "event", "sig", "accept_sig": "<base64>" }, or "plain": {...} }],
//!   "resources": [{ "path": "tile/0/000", "bytes": "<base64>" }],  as they were served
//!   "policy": "<trust file>" }     all from "held" on only where the verdict needs it
//! ```
//!
//! What is signed cannot be denied: two heads of one size, a tree that does not start with the
//! older one, an entry that is none and yet under a signed root. Such a file is a *proof*. What a
//! log served without signing it, or did not serve, is the word of whoever wrote the file: an
//! *observation*, which shows that the heads in it are genuine and that the rest fits together.
//! [`verify`] says which of the two a file is.
//!
//! `prefix` is an RFC 6962 consistency proof that always begins with its start node. Its hashes
//! make two roots: of the larger tree, which must be the signed one, and of that tree's first
//! leaves, as many as the smaller head has. If that root is not the smaller head's, the log
//! signed two histories, and no answer of the log is needed to believe it.
//!
//! Not here: how a finding is made ([`crate::check`]), and what is done about it.

#[cfg(test)]
mod account_tests;
mod gather;
#[cfg(test)]
mod honest_tests;
mod judge;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use gather::of_account;
pub use gather::{Case, gather};
pub use judge::{Judgement, JudgementError, Standing, verify};

use crate::finding::Verdict;
use crate::key::LogKey;
use crate::merkle::Hash;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name and version of the format.
pub const SCHEMA: &str = "nexo.evidence/1";
/// Longest file that is read, bytes: two bundles of the longest kind in base64, and room.
pub const MAX_FILE: usize = 8 << 20;

/// What is known of a verdict, as its file has it. The fields are a stranger's until [`verify`]
/// has judged them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    schema: String,
    /// Name of the verdict in [`crate::finding::TABLE`].
    #[serde(alias = "kind")]
    pub verdict: String,
    /// The log's origin, for people.
    #[serde(default)]
    pub origin: String,
    /// The log's key, as whoever wrote the file knew it.
    pub log_vkey: String,
    /// When it was seen, RFC 3339.
    pub seen_at: String,
    /// The finding in words.
    #[serde(default)]
    pub message: String,
    /// The finding's data, as in `--json`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
    /// The head that was verified before, a signed note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The head that was judged, a signed note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
    /// The note at `/log/keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_keys: Option<String>,
    /// Nodes of the larger head's tree that make its root and the root of its first leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64_hashes")]
    pub prefix: Vec<Hash>,
    /// Roots of the full subtrees of the tree of [`Self::held`], largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "base64_hashes")]
    pub peaks: Vec<Hash>,
    /// The account that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Entries under [`Self::shown`], with the paths that lead there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves: Vec<Leaf>,
    /// What the log served, without a signature of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// The trust file that was not satisfied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// An entry of the log, and its place under a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// RFC 6962 index, from 0.
    pub index: u64,
    /// The entry, as in its bundle.
    #[serde(with = "base64_bytes")]
    pub entry: Vec<u8>,
    /// Audit path (RFC 6962 2.1.1), the leaf's sibling first.
    #[serde(with = "base64_hashes")]
    pub path: Vec<Hash>,
    /// The key event behind it, where the verdict is about a native account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// The key record behind it, where the verdict is about a plain account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<PlainKey>,
}

/// A key event of a native account, whose hashes are in the entry (PROTOCOL.md 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The event's bytes.
    #[serde(with = "base64_bytes")]
    pub event: Vec<u8>,
    /// The signature on it.
    #[serde(with = "base64_bytes")]
    pub sig: Vec<u8>,
    /// The signature of the device or key that accepts it; empty in types without one.
    #[serde(with = "base64_bytes")]
    pub accept_sig: Vec<u8>,
}

/// The key record of a plain account, whose hash is in the entry (PROTOCOL.md 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainKey {
    /// The account's name.
    pub handle: String,
    /// Its id, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub account_id: Vec<u8>,
    /// Its one device, as it is named.
    pub device_id: String,
    /// The device's key, 32 bytes.
    #[serde(with = "base64_bytes")]
    pub ed25519_pub: Vec<u8>,
}

/// Bytes that were served at a path below the log's URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// The path.
    pub path: String,
    /// What came back.
    #[serde(with = "base64_bytes")]
    pub bytes: Vec<u8>,
}

/// Why bytes are not evidence in this format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Longer than [`MAX_FILE`].
    #[error("the file is longer than {MAX_FILE} bytes")]
    TooLong,
    /// Not JSON with the members of evidence, or a byte string in another spelling than base64.
    #[error("it is not JSON with the members of evidence (line {line})")]
    Json {
        /// Line of the first difference.
        line: usize,
    },
    /// Another schema.
    #[error("its schema is not {SCHEMA}; was it written by a newer nexo-audit?")]
    Schema,
}

impl Evidence {
    /// Evidence of `verdict` about the log of `key`, without any of its parts yet. `now` is in
    /// POSIX seconds.
    #[must_use]
    pub fn new(verdict: Verdict, key: &LogKey, now: u64) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            verdict: verdict.name().to_owned(),
            origin: key.origin().to_owned(),
            log_vkey: key.to_string(),
            seen_at: rfc3339(now),
            message: String::new(),
            detail: Value::Null,
            held: None,
            shown: None,
            log_keys: None,
            prefix: Vec::new(),
            peaks: Vec::new(),
            handle: None,
            leaves: Vec::new(),
            resources: Vec::new(),
            policy: None,
        }
    }

    /// Reads a file. Members that this version does not know are read over; what they hold cannot
    /// be part of what [`verify`] says.
    ///
    /// # Errors
    /// [`EvidenceError`] names what differs.
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_FILE {
            return Err(EvidenceError::TooLong);
        }
        let evidence: Self = serde_json::from_slice(bytes)
            .map_err(|error| EvidenceError::Json { line: error.line() })?;
        if evidence.schema == SCHEMA { Ok(evidence) } else { Err(EvidenceError::Schema) }
    }
}

/// POSIX seconds as RFC 3339; the far end of time for what does not fit.
fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|time| jiff::Timestamp::from_second(time).ok());
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// The other way; `None` for text that is no time after 1970.
fn posix(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_second()).ok()
}

/// Bytes as strict base64.
mod base64_bytes {
    use crate::encoding::{from_base64, to_base64};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&to_base64(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(text: D) -> Result<Vec<u8>, D::Error> {
        let text = Cow::<'de, str>::deserialize(text)?;
        from_base64(&text).ok_or_else(|| D::Error::custom("not base64"))
    }
}

/// Hashes as strict base64 of 32 bytes each.
mod base64_hashes {
    use crate::encoding::{hash_from_base64, to_base64};
    use crate::merkle::Hash;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hashes: &[Hash], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(hashes.iter().map(|hash| to_base64(hash)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(texts: D) -> Result<Vec<Hash>, D::Error> {
        let texts = Vec::<String>::deserialize(texts)?;
        let hashes = texts.iter().map(|text| hash_from_base64(text));
        hashes.collect::<Option<_>>().ok_or_else(|| D::Error::custom("not base64 of 32 bytes"))
    }
}
