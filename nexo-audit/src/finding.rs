//! What an audit can end with: one table of verdicts, and the findings with their data.
//!
//! [`TABLE`] is the only place where a verdict gets its name and exit code. Names and codes are
//! a contract with scripts: a later version may add rows, but a name keeps its meaning.
//!
//! Every verdict about what a log signed or served has an exit code that no other has, but
//! `bad_data`, which is 65 as bad input of any kind is. Its *family* is the code that
//! nexo-cli ends with for the same kind of thing (80 key, 81 entries and proofs, 83 signature,
//! 84 contradicting heads, 85 time, 86 quorum), for scripts that want the kind alone. The first
//! of a family has the family's own number.

use crate::checkpoint::{CheckpointError, HeadError, LogKeysError};
use crate::encoding::to_base64;
use crate::entry::{BundleError, EntryError};
use crate::fetch::FetchError;
use crate::merkle::{Hash, ProofError};
use crate::note::{NoteError, SignatureError};
use crate::policy::{Disagreement, Unmet};
use crate::sigchain::Violation;
use serde::{Serialize, Serializer};
use std::fmt::{Display, Write as _};

/// One row of [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Which verdict this is.
    pub verdict: Verdict,
    /// Its stable name, in output and JSON.
    pub name: &'static str,
    /// The exit code.
    pub code: u8,
    /// The exit code of nexo-cli for the same kind of thing.
    pub family: u8,
    /// One line for the list of exit codes.
    pub meaning: &'static str,
    /// What to do about it, when there is one thing to do.
    pub hint: Option<&'static str>,
}

/// Makes the enum and the table out of one list, so that neither can miss a row of the other.
macro_rules! verdicts {
    ($($verdict:ident, $code:literal / $family:literal, $name:literal, $meaning:literal,
        $hint:expr;)+) => {
        /// How an audit ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Verdict {
            $(#[doc = $meaning] $verdict,)+
        }

        /// Every verdict with its name and exit code, by code.
        pub const TABLE: &[Outcome] = &[$(Outcome {
            verdict: Verdict::$verdict,
            name: $name,
            code: $code,
            family: $family,
            meaning: $meaning,
            hint: $hint,
        },)+];
    };
}

/// What to do with two heads that no honest log signs.
const EVIDENCE: Option<&str> = Some(
    "keep this: both signed heads are in the evidence file and in --json; show them to others who \
     use the log",
);
/// What to do with bytes that the log must not serve under its head.
const EVIDENCE_FILE: Option<&str> =
    Some("keep the evidence file; whoever has the log's vkey can verify it");

verdicts! {
    Verified, 0 / 0, "verified", "the newest head is genuine, fresh, and extends the last one", None;
    Usage, 64 / 64, "usage", "the command line is wrong, or no key is pinned", None;
    BadData, 65 / 65, "bad_data", "the answer is not in the format of a log", None;
    BadState, 65 / 65, "bad_state", "the state file is damaged or contradicts itself",
        Some("restore the state file from a backup; deleting it forgets the last head seen");
    BadEvidence, 65 / 65, "bad_evidence", "the file does not prove what it says", None;
    NoInput, 66 / 66, "no_input", "an input file is missing", None;
    UnknownHandle, 67 / 67, "unknown_handle", "the log's server knows no such handle", None;
    Unreachable, 69 / 69, "unreachable", "the log could not be reached or did not answer", None;
    Io, 74 / 74, "io", "a local file could not be read or written", None;
    Busy, 75 / 75, "busy", "another audit holds the state file",
        Some("wait for it and run again");
    NotAllowed, 77 / 77, "not_allowed", "the log's server refused the token", None;
    PolicyViolation, 78 / 78, "policy_violation", "the trust file is unsound, or not followed",
        None;
    ForeignDevice, 80 / 80, "foreign_device", "an account has a device that is not expected",
        EVIDENCE_FILE;
    InclusionMismatch, 81 / 81, "inclusion_mismatch", "an inclusion proof fails", None;
    BadSignature, 83 / 83, "bad_signature", "a signature of the log is missing or bad",
        Some("compare the pinned vkey with the one its operator publishes");
    Fork, 84 / 84, "fork", "the log signed two heads of one size", EVIDENCE;
    Stale, 85 / 85, "stale", "the head is older than --max-age", None;
    QuorumLost, 86 / 86, "quorum_lost", "too few witnesses vouch for the head", None;
    RootMismatch, 91 / 81, "root_mismatch", "the entries do not hash to the signed root",
        EVIDENCE_FILE;
    MissingResource, 92 / 81, "missing_resource", "the log does not serve what it signed", None;
    EntryMismatch, 93 / 81, "entry_mismatch", "an entry is not the one the tree was built from",
        EVIDENCE_FILE;
    TileMismatch, 94 / 81, "tile_mismatch", "a tile is not the one the tree was built from",
        EVIDENCE_FILE;
    BadEntry, 95 / 81, "bad_entry", "an entry or bundle of the tree is malformed", EVIDENCE_FILE;
    SigchainViolation, 96 / 81, "sigchain_violation",
        "an account's events break the rules of its chain", EVIDENCE_FILE;
    WrongOrigin, 97 / 83, "wrong_origin", "the log's key signed for another log", EVIDENCE_FILE;
    Rollback, 98 / 84, "rollback", "the log went back to an older head", EVIDENCE;
    Inconsistent, 99 / 84, "inconsistent", "the new head does not extend the last one", EVIDENCE;
    WitnessDisagrees, 100 / 84, "witness_disagrees", "a witness was shown another log", EVIDENCE;
    Clock, 101 / 85, "clock", "the head is from the future; one of the clocks is wrong", None;
    NoTime, 102 / 85, "no_time", "the head carries no time of the log's time key", None;
    Timeout, 124 / 124, "timeout", "--timeout passed before there was a verdict", None;
}

impl Verdict {
    /// The verdict's row.
    #[must_use]
    pub fn outcome(self) -> &'static Outcome {
        // The macro writes variants and rows in the same order.
        &TABLE[self as usize]
    }

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.outcome().name
    }

    /// Its exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self.outcome().code
    }

    /// The exit code of nexo-cli for the same kind of thing.
    #[must_use]
    pub fn family(self) -> u8 {
        self.outcome().family
    }
}

/// The table as text for `--help`.
#[must_use]
pub fn exit_codes() -> String {
    let mut text = String::from("Exit codes:\n");
    for row in TABLE {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {:>3}  {:<18}  {}", row.code, row.name, row.meaning);
    }
    text
}

/// Why an audit did not end with [`Verdict::Verified`], as far as the log is concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(untagged)]
pub enum Finding {
    /// No answer, or not one a log gives.
    #[error("{path}: {cause}")]
    Unreachable {
        /// Path below the log's URL.
        path: String,
        /// What happened.
        #[serde(serialize_with = "as_text")]
        cause: FetchError,
    },
    /// An answer that is not in its format.
    #[error("{path}: {cause}")]
    Malformed {
        /// Path below the log's URL.
        path: String,
        /// What differs.
        #[serde(serialize_with = "as_text")]
        cause: Malformed,
    },
    /// Something that must be there, by a head the log signed, is not.
    #[error("{path} does not exist, and a log with this head has to serve it")]
    MissingResource {
        /// Path below the log's URL.
        path: String,
    },
    /// The head or key list is not signed by the pinned key.
    #[error("{path}: {cause}")]
    BadSignature {
        /// Path below the log's URL.
        path: String,
        /// What differs.
        #[serde(serialize_with = "as_text")]
        cause: SignatureError,
    },
    /// The pinned key signed a head of another origin.
    #[error("the pinned key is of {expected}, and signed a head of {found}")]
    WrongOrigin {
        /// The origin that the key names.
        expected: String,
        /// The origin in the head.
        found: String,
    },
    /// The head is smaller than the remembered one.
    #[error("the head has {served} entries, and the log signed one with {remembered} before")]
    Rollback {
        /// Size of the head that is remembered.
        remembered: u64,
        /// Size of the head that was served.
        served: u64,
    },
    /// Another root at the remembered size.
    #[error("the log signed two different heads of size {size}")]
    Fork {
        /// The size of both.
        size: u64,
        /// The root that is remembered.
        #[serde(serialize_with = "as_base64")]
        remembered: Hash,
        /// The root that was served.
        #[serde(serialize_with = "as_base64")]
        served: Hash,
    },
    /// The log's own consistency proof does not hold.
    #[error("no proof that the {from} entries seen before start the {to} signed now: {cause}")]
    Inconsistent {
        /// Size of the head that is remembered.
        from: u64,
        /// Size of the head that was served.
        to: u64,
        /// What does not hold.
        #[serde(serialize_with = "as_text")]
        cause: ProofError,
    },
    /// Entries and tiles agree with each other and not with the signed root.
    #[error("the {size} entries do not hash to the signed root")]
    RootMismatch {
        /// Size of the head.
        size: u64,
        /// The root in the head.
        #[serde(serialize_with = "as_base64")]
        signed: Hash,
        /// The root of what was served.
        #[serde(serialize_with = "as_base64")]
        rebuilt: Hash,
    },
    /// The tiles lead to the signed root, the entries do not.
    #[error("the entry at leaf {index} is not the one the tree was built from")]
    EntryMismatch {
        /// RFC 6962 index, from 0, of the first such entry; its `sth_index` is one more.
        index: u64,
        /// The leaf hash in the tile.
        #[serde(serialize_with = "as_base64")]
        tile: Hash,
        /// The leaf hash of the entry.
        #[serde(serialize_with = "as_base64")]
        entry: Hash,
    },
    /// The tiles do not lead to the signed root.
    #[error("the tile hash of leaf {index} is not the one the tree was built from")]
    TileMismatch {
        /// RFC 6962 index, from 0, of the first leaf where tile and entry differ.
        index: u64,
        /// The leaf hash in the tile.
        #[serde(serialize_with = "as_base64")]
        tile: Hash,
        /// The leaf hash of the entry.
        #[serde(serialize_with = "as_base64")]
        entry: Hash,
    },
    /// The leaves lead to the signed root, and a hash of inner nodes is not the one they make.
    #[error("{path}: hash {position} is not the one the tree was built from")]
    UpperTile {
        /// Path below the log's URL.
        path: String,
        /// Position of the hash in the tile, from 0.
        position: u16,
        /// The hash in the tile.
        #[serde(serialize_with = "as_base64")]
        tile: Hash,
        /// The hash that the leaves make.
        #[serde(serialize_with = "as_base64")]
        rebuilt: Hash,
    },
    /// A tile with another number of bytes than its hashes have.
    #[error("{path} has {bytes} bytes instead of {width} hashes of 32")]
    BadTile {
        /// Path below the log's URL.
        path: String,
        /// Hashes it should have.
        width: u16,
        /// Bytes it has.
        bytes: usize,
    },
    /// An entry that the tree holds and that is none.
    #[error("leaf {index}: {cause}")]
    BadEntry {
        /// RFC 6962 index, from 0.
        index: u64,
        /// What differs.
        #[serde(serialize_with = "as_text")]
        cause: EntryError,
    },
    /// A bundle that is not cut into entries as it should be.
    #[error("{path}: {cause}")]
    BadBundle {
        /// Path below the log's URL.
        path: String,
        /// What differs.
        #[serde(serialize_with = "as_text")]
        cause: BundleError,
    },
    /// An inclusion proof that does not lead to the signed root.
    #[error("the proof does not show that the entry is leaf {index} of {size}: {cause}")]
    InclusionMismatch {
        /// RFC 6962 index, from 0.
        index: u64,
        /// Size of the head.
        size: u64,
        /// What does not hold.
        #[serde(serialize_with = "as_text")]
        cause: ProofError,
    },
    /// Too few witnesses vouch for the head.
    #[error("{unmet}")]
    QuorumLost {
        /// Who did and who did not.
        #[serde(flatten)]
        unmet: Box<Unmet>,
        /// Oldest cosignature that counts, seconds.
        max_age: u64,
    },
    /// A witness cosigned a head of the log that contradicts this one.
    #[error("the witness {witness} saw a head of {seen} entries, {cause}, of {served}")]
    WitnessDisagrees {
        /// The witness's name in the trust file.
        witness: String,
        /// When it cosigned, POSIX seconds.
        time: u64,
        /// Size of the head that it saw.
        seen: u64,
        /// Size of the head that was served.
        served: u64,
        /// How they contradict.
        #[serde(serialize_with = "as_text")]
        cause: Disagreement,
    },
    /// The head is too old.
    #[error("the head is {age} s old, more than the {max_age} s allowed")]
    Stale {
        /// Seconds since the log last vouched for it.
        age: u64,
        /// Seconds that are allowed.
        max_age: u64,
    },
    /// The head is too far in the future.
    #[error("the head is from {ahead} s in the future: the log's clock or this one is wrong")]
    Clock {
        /// Seconds between this clock and the head's time.
        ahead: u64,
    },
    /// The head has no cosignature of the time key the log names.
    #[error("the head carries no time signed by {name}")]
    NoTime {
        /// Name of the time key.
        name: String,
    },
    /// An account's entries or events break the rules of its chain.
    #[error("{handle}, leaf {index}: {cause}")]
    SigchainViolation {
        /// Whose.
        handle: String,
        /// RFC 6962 index, from 0, of the first entry where a rule is broken.
        index: u64,
        /// The rule.
        #[serde(serialize_with = "as_text")]
        cause: Violation,
    },
    /// An account or device that is not on the list.
    #[error("{handle} has what is not expected: {}", foreign.join(", "))]
    ForeignDevice {
        /// Whose.
        handle: String,
        /// Device ids, names of plain devices (`name:..`) and account fingerprints (`nexo1:..`).
        foreign: Vec<String>,
    },
    /// The log has no entry for a handle.
    #[error("the log has no account {handle}")]
    UnknownHandle {
        /// Who was asked for.
        handle: String,
    },
    /// The server tells this to nobody, or to holders of another token.
    #[error("{path}: the server wants an auditor token, or another one")]
    NotAllowed {
        /// Path below the log's URL.
        path: String,
    },
}

/// Why an answer is not in its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More bytes than such an answer can have.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The most that is read.
        limit: usize,
    },
    /// Not a signed note.
    #[error(transparent)]
    Note(NoteError),
    /// Signed, but not a checkpoint.
    #[error(transparent)]
    Checkpoint(CheckpointError),
    /// Signed, but not a key list.
    #[error(transparent)]
    LogKeys(LogKeysError),
    /// Not a usable vkey.
    #[error(transparent)]
    Key(crate::key::KeyError),
    /// Not JSON with the members that this route's answers have.
    #[error("the answer does not have the members that were asked for")]
    Answer,
    /// Not a consistency proof for the sizes that were asked for.
    #[error("the answer is not a consistency proof for the sizes that were asked for")]
    Proof,
}

impl Finding {
    /// The finding's row in the table.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreachable { .. } => Verdict::Unreachable,
            Self::Malformed { .. } => Verdict::BadData,
            Self::MissingResource { .. } => Verdict::MissingResource,
            Self::BadSignature { .. } => Verdict::BadSignature,
            Self::WrongOrigin { .. } => Verdict::WrongOrigin,
            Self::Rollback { .. } => Verdict::Rollback,
            Self::Fork { .. } => Verdict::Fork,
            Self::Inconsistent { .. } => Verdict::Inconsistent,
            Self::RootMismatch { .. } => Verdict::RootMismatch,
            Self::EntryMismatch { .. } => Verdict::EntryMismatch,
            Self::TileMismatch { .. } | Self::UpperTile { .. } | Self::BadTile { .. } => {
                Verdict::TileMismatch
            }
            Self::BadEntry { .. } | Self::BadBundle { .. } => Verdict::BadEntry,
            Self::InclusionMismatch { .. } => Verdict::InclusionMismatch,
            Self::QuorumLost { .. } => Verdict::QuorumLost,
            Self::WitnessDisagrees { .. } => Verdict::WitnessDisagrees,
            Self::Stale { .. } => Verdict::Stale,
            Self::Clock { .. } => Verdict::Clock,
            Self::SigchainViolation { .. } => Verdict::SigchainViolation,
            Self::ForeignDevice { .. } => Verdict::ForeignDevice,
            Self::UnknownHandle { .. } => Verdict::UnknownHandle,
            Self::NotAllowed { .. } => Verdict::NotAllowed,
            Self::NoTime { .. } => Verdict::NoTime,
        }
    }

    /// What a failed request means for something the log must have.
    pub(crate) fn of_fetch(path: &str, error: FetchError) -> Self {
        let path = path.to_owned();
        match error {
            FetchError::NotFound => Self::MissingResource { path },
            FetchError::TooLarge { limit } => {
                Self::Malformed { path, cause: Malformed::TooLarge { limit } }
            }
            cause => Self::Unreachable { path, cause },
        }
    }

    /// What a head that does not open means.
    pub(crate) fn of_head(path: &str, error: HeadError) -> Self {
        let path = path.to_owned();
        match error {
            HeadError::Note(cause) => Self::Malformed { path, cause: Malformed::Note(cause) },
            HeadError::Checkpoint(cause) => {
                Self::Malformed { path, cause: Malformed::Checkpoint(cause) }
            }
            HeadError::Signature(cause) => Self::BadSignature { path, cause },
            HeadError::Origin { expected, found } => Self::WrongOrigin { expected, found },
        }
    }

    /// What a key list that does not open means.
    pub(crate) fn of_log_keys(path: &str, error: LogKeysError) -> Self {
        let path = path.to_owned();
        match error {
            LogKeysError::Signature(cause) => Self::BadSignature { path, cause },
            cause => Self::Malformed { path, cause: Malformed::LogKeys(cause) },
        }
    }
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_base64<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_base64(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_in_order_and_names_are_unique() {
        let mut names = HashSet::new();
        for row in TABLE {
            assert_eq!(row.verdict.outcome(), row);
            assert!(names.insert(row.name), "{} twice", row.name);
            assert!(row.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert!(TABLE.is_sorted_by_key(|row| row.code));
    }

    #[test]
    fn the_codes_are_the_ones_scripts_know() {
        for (verdict, code, family) in [
            (Verdict::Verified, 0, 0),
            (Verdict::Usage, 64, 64),
            (Verdict::BadData, 65, 65),
            (Verdict::Unreachable, 69, 69),
            (Verdict::Io, 74, 74),
            (Verdict::PolicyViolation, 78, 78),
            (Verdict::ForeignDevice, 80, 80),
            (Verdict::InclusionMismatch, 81, 81),
            (Verdict::BadSignature, 83, 83),
            (Verdict::Fork, 84, 84),
            (Verdict::Stale, 85, 85),
            (Verdict::QuorumLost, 86, 86),
            (Verdict::RootMismatch, 91, 81),
            (Verdict::MissingResource, 92, 81),
            (Verdict::EntryMismatch, 93, 81),
            (Verdict::TileMismatch, 94, 81),
            (Verdict::BadEntry, 95, 81),
            (Verdict::SigchainViolation, 96, 81),
            (Verdict::WrongOrigin, 97, 83),
            (Verdict::Rollback, 98, 84),
            (Verdict::Inconsistent, 99, 84),
            (Verdict::WitnessDisagrees, 100, 84),
            (Verdict::Clock, 101, 85),
            (Verdict::NoTime, 102, 85),
            (Verdict::Timeout, 124, 124),
        ] {
            assert_eq!((verdict.code(), verdict.family()), (code, family), "{}", verdict.name());
        }
        assert!(exit_codes().contains("\n   84  fork "));
    }

    /// 90 is nexo-cli's alone, 126 and up belong to shells.
    #[test]
    fn a_verdict_about_a_log_has_a_code_of_its_own() {
        let shared = |code| TABLE.iter().filter(|row| row.code == code).count() > 1;
        let names: Vec<_> =
            TABLE.iter().filter(|row| shared(row.code)).map(|row| row.name).collect();
        assert_eq!(names, ["bad_data", "bad_state", "bad_evidence"]);
        for row in TABLE {
            assert!(row.code != 90 && row.code < 126, "{}", row.name);
            let first = TABLE.iter().find(|other| other.code == row.family);
            assert!(first.is_some_and(|first| first.family == row.family), "{}", row.name);
        }
    }

    #[test]
    fn a_finding_tells_its_data_in_json() {
        let fork = Finding::Fork { size: 8, remembered: [0; 32], served: [1; 32] };
        let json = serde_json::to_value(&fork).unwrap();
        assert_eq!(json["size"], 8);
        assert_eq!(json["remembered"], to_base64(&[0; 32]));
        let bad = Finding::BadEntry { index: 3, cause: EntryError::Kind };
        let json = serde_json::to_value(&bad).unwrap();
        assert_eq!(json["cause"], EntryError::Kind.to_string());
    }
}
