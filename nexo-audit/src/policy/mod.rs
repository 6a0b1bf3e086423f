//! Whom an auditor believes besides the log: pinned keys, witnesses, and how many of them.
//!
//! A trust file is a C2SP tlog-policy, which other people's tools read as well. What that format
//! does not have is in comments that begin `#nexo:`, so they still read it:
//!
//! ```text
//! log <vkey> [<url>]                     a head must be signed by one of them
//! witness <name> <vkey> [<url>]          url: <url>/<hex SHA-256 of the origin>/checkpoint
//! group <name> any|all|<k> <member>...   witnesses and earlier groups, each a member once
//! quorum <name>|none                     exactly one
//!
//! #nexo: max-age 15m                     oldest head, and oldest cosignature that counts
//! #nexo: faulty 1                        witnesses that may lie (0 without this line)
//! #nexo: clients 3                       what clients ask of the quorum group, if not the same
//! ```
//!
//! **Sound** is a file under which no two quorums can be shown two logs: any quorum of clients
//! and any quorum of this auditor share more than `faulty` witnesses. For `k1` and `k2` of `n`
//! witnesses that is k1 + k2 > n + f. An unsound file is refused when it is read, because its
//! quorum would look like protection and be none; so is one that two readers could take in two
//! ways.
//!
//! A witness's word is a cosignature/v1 (type 0x04, Ed25519, with a time) on the log's note. The
//! post-quantum kind 0x06 is not verified here: such a witness may stand in the file and never
//! counts towards a quorum, as if it had not signed.
//!
//! `views` asks the witnesses themselves which head they saw last. Being a witness (C2SP
//! tlog-witness, the other direction: a log submits heads to us, and we cosign) is not here; its
//! place is a module `witness` beside this one, over [`crate::state`] for its compare-and-swap
//! and [`crate::merkle::verify_consistency`] for its one decision.

mod parse;
mod quorum;
mod reading;
mod safety;
#[cfg(test)]
mod tests;
pub(crate) mod views;

pub use quorum::{Ballot, Cosigned, Unmet};
pub use reading::{MAX_FILE, PolicyError};
pub use safety::Unsound;
pub use views::Disagreement;

use crate::key::{LogKey, TimeKey, WitnessKey};
use std::time::Duration;

/// A trust file that was read and is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<Log>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    quorum: Option<Member>,
    rules: Rules,
}

/// A `log` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Its key; `None` for a kind of key that this auditor cannot verify.
    pub key: Option<LogKey>,
    /// Its address, as written.
    pub url: Option<String>,
}

/// A `witness` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// Its name in the file, which is not the name of its key.
    pub name: String,
    /// Its key; `None` for a kind of key that this auditor cannot verify.
    pub key: Option<WitnessKey>,
    /// Where its newest heads are, as written.
    pub url: Option<String>,
}

/// A `group` line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<Member>,
}

/// Position of a witness or group in the file's list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

/// The `#nexo:` lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rules {
    max_age: Option<Duration>,
    faulty: Option<usize>,
    clients: Option<usize>,
}

impl Policy {
    /// Reads a trust file and refuses one that is unsound. `faulty` replaces the file's.
    ///
    /// # Errors
    /// [`PolicyError`] names the line, or why no quorum of it protects.
    pub fn parse(bytes: &[u8], faulty: Option<usize>) -> Result<Self, PolicyError> {
        let mut policy = parse::parse(bytes)?;
        policy.rules.faulty = faulty.or(policy.rules.faulty);
        policy.check_safety()?;
        Ok(policy)
    }

    /// The logs that are listed; none when the file leaves that to its user.
    #[must_use]
    pub fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// The witnesses that are listed, also those that no quorum asks for.
    #[must_use]
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Oldest head, and oldest cosignature, that counts.
    #[must_use]
    pub fn max_age(&self) -> Option<Duration> {
        self.rules.max_age
    }

    /// Whether heads of this key may be believed: it is listed, or the file lists no log.
    #[must_use]
    pub fn admits(&self, key: &LogKey) -> bool {
        self.logs.is_empty() || self.logs.iter().any(|log| log.key.as_ref() == Some(key))
    }

    /// The witness that cosigns with a key of the log's own, and so is none.
    #[must_use]
    pub fn own_witness(&self, log_key: &LogKey, time_key: Option<&TimeKey>) -> Option<&str> {
        let log = log_key.verifier().key_bytes();
        let time = time_key.map(|key| key.verifier().key_bytes());
        let same = |key: &WitnessKey| {
            let key = key.verifier().key_bytes();
            key == log || Some(key) == time
        };
        let found = self.witnesses.iter().find(|witness| witness.key.as_ref().is_some_and(same));
        found.map(|witness| witness.name.as_str())
    }

    /// Name of the quorum; `none` when no witness is asked for.
    #[must_use]
    pub fn quorum_name(&self) -> &str {
        self.quorum.map_or("none", |member| self.name_of(member))
    }

    fn name_of(&self, member: Member) -> &str {
        match member {
            Member::Witness(at) => &self.witnesses[at].name,
            Member::Group(at) => &self.groups[at].name,
        }
    }
}
