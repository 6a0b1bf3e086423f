//! From a file to what it shows, with the log's vkey and nothing else.
//!
//! The file is a stranger's. Its verdict is a claim, its detail is for people; what counts is made
//! again here, from the notes, nodes, entries and bytes in it:
//!
//! | verdict | a proof when | else an observation when |
//! |---|---|---|
//! | fork | two signed heads, one size, two roots | |
//! | inconsistent | nodes under the larger head make another root for the smaller size | two signed heads, and an answer that proves nothing |
//! | rollback | | both are signed (the times are those of the log's clock, which may go back too) |
//! | root_mismatch | a head of size 0 has another root than the empty tree | the tiles and entries in the file lead elsewhere, if they are in it (up to 2 MiB of bundles are) |
//! | bad_entry | the entry is under the signed root and is none | the bundle in the file cannot be cut |
//! | entry_mismatch, tile_mismatch | | tile and entry in the file do not fit each other |
//! | wrong_origin | | the key signed a head of another origin |
//! | bad_data | the key signed what is no checkpoint or key list | the bytes in the file are not in their format |
//! | bad_signature | | the note in the file is not signed by the key |
//! | witness_disagrees | as fork and inconsistent, and a witness of the trust file cosigned one of them | as rollback |
//! | quorum_lost | | the head does not meet the trust file at `seen_at` |
//! | sigchain_violation | one event breaks a rule by itself, or two have one place in a chain | the events in the file break one together |
//! | foreign_device | | the events in the file are logged |
//! | missing_resource, stale, clock, no_time | | the head is signed |

mod accounts;
mod heads;
mod tree;

use super::Evidence;
use crate::checkpoint::{HeadError, LogKeysError, SignedHead, parse_log_keys};
use crate::finding::{TABLE, Verdict};
use crate::key::{LogKey, TimeKey};
use crate::note::NoteError;
use crate::policy::PolicyError;

/// What a file is worth to somebody who has the log's vkey and does not know who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// What the log signed contradicts itself or the protocol; nobody else could have made it.
    Proof,
    /// The heads in it are genuine and its parts fit together; that the log served the rest, or
    /// did not, is the writer's word.
    Observation,
}

impl Standing {
    /// Its name in output and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Observation => "observation",
        }
    }
}

/// What a file shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict it is about.
    pub verdict: Verdict,
    /// What it is worth.
    pub standing: Standing,
    /// What follows from it, in a sentence.
    pub shows: String,
}

/// Why a file does not show what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgementError {
    /// No verdict, or one of which there is no evidence.
    #[error("there is no evidence of {name:?}")]
    Verdict {
        /// The name in the file.
        name: String,
    },
    /// A part is missing.
    #[error("the file has no {part}, which its verdict needs")]
    Part {
        /// Name of the member.
        part: &'static str,
    },
    /// A head that the log's key did not sign.
    #[error("{part}: {cause}")]
    Head {
        /// Name of the member.
        part: &'static str,
        /// What differs.
        cause: HeadError,
    },
    /// A key list that the log's key did not sign.
    #[error("log_keys: {0}")]
    LogKeys(#[from] LogKeysError),
    /// A note that is none.
    #[error("a note in it: {0}")]
    Note(#[from] NoteError),
    /// A trust file that is refused.
    #[error("policy: {0}")]
    Policy(#[from] PolicyError),
    /// What the verdict says does not follow from the parts.
    #[error("its verdict does not follow: {why}")]
    Unfounded {
        /// What holds instead.
        why: &'static str,
    },
}

/// Judges a file under the key of the log it is about. The vkey in the file plays no part.
///
/// # Errors
/// [`JudgementError`]; such a file shows nothing.
pub fn verify(evidence: &Evidence, key: &LogKey) -> Result<Judgement, JudgementError> {
    let verdict = verdict(&evidence.verdict)?;
    let trial = Trial::open(evidence, key)?;
    let (standing, shows) = match verdict {
        Verdict::Fork => heads::fork(&trial),
        Verdict::Inconsistent => heads::inconsistent(&trial),
        Verdict::Rollback => heads::rollback(&trial),
        Verdict::WitnessDisagrees => heads::witness(&trial),
        Verdict::QuorumLost => heads::quorum(&trial),
        Verdict::WrongOrigin => heads::wrong_origin(&trial),
        Verdict::BadSignature => heads::bad_signature(&trial),
        Verdict::BadData => heads::bad_data(&trial),
        Verdict::RootMismatch => tree::root(&trial),
        Verdict::EntryMismatch => tree::entry(&trial),
        Verdict::TileMismatch => tree::tile(&trial),
        Verdict::BadEntry => tree::bad_entry(&trial),
        Verdict::SigchainViolation => accounts::violation(&trial),
        Verdict::ForeignDevice => accounts::devices(&trial),
        Verdict::MissingResource | Verdict::Stale | Verdict::Clock | Verdict::NoTime => {
            heads::signed(&trial)
        }
        _ => Err(JudgementError::Verdict { name: evidence.verdict.clone() }),
    }?;
    Ok(Judgement { verdict, standing, shows })
}

/// The verdict of that name. nexo-cli calls a fork a split view; and of a head from somebody's
/// message, which the log did not prove for a day, it can say no more than that.
fn verdict(name: &str) -> Result<Verdict, JudgementError> {
    let stable = match name {
        "split_view" => Verdict::Fork.name(),
        "sth_unprovable" => Verdict::Inconsistent.name(),
        other => other,
    };
    let row = TABLE.iter().find(|row| row.name == stable);
    row.map(|row| row.verdict).ok_or_else(|| JudgementError::Verdict { name: name.to_owned() })
}

/// Level and index of the tile at a path; `None` for a bundle, or no path of tiles.
pub(super) fn level_and_tile(path: &str) -> Option<(u8, u64)> {
    let place = tree::place(path)?;
    place.level.map(|level| (level, place.tile))
}

type Shown = Result<(Standing, String), JudgementError>;

/// A file and what is known to be true: the key, and the time key that it names.
struct Trial<'a> {
    evidence: &'a Evidence,
    key: &'a LogKey,
    time_key: Option<TimeKey>,
}

impl<'a> Trial<'a> {
    fn open(evidence: &'a Evidence, key: &'a LogKey) -> Result<Self, JudgementError> {
        let list = evidence.log_keys.as_ref();
        let time_key = list.map(|note| parse_log_keys(note.as_bytes(), key)).transpose()?;
        let trial = Self { evidence, key, time_key };
        // Also where the verdict has no use for it: no file passes with a forged head in it.
        if evidence.held.is_some() {
            trial.held()?;
        }
        Ok(trial)
    }

    fn held(&self) -> Result<SignedHead, JudgementError> {
        self.head("held", self.evidence.held.as_deref())
    }

    fn shown(&self) -> Result<SignedHead, JudgementError> {
        self.head("shown", self.evidence.shown.as_deref())
    }

    fn head(&self, part: &'static str, note: Option<&str>) -> Result<SignedHead, JudgementError> {
        let note = note.ok_or(JudgementError::Part { part })?;
        SignedHead::open(note.as_bytes(), self.key, self.time_key.as_ref())
            .map_err(|cause| JudgementError::Head { part, cause })
    }
}

fn unfounded(why: &'static str) -> JudgementError {
    JudgementError::Unfounded { why }
}
