//! Counting cosignatures on a head.

use super::{Member, Policy};
use crate::note::{Note, SignatureError};
use serde::Serialize;
use std::time::Duration;

/// How far a cosignature may be ahead of this clock, seconds: two clocks are never equal.
const CLOCK_SKEW: u64 = 300;

/// A witness and its newest cosignature on a head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// The witness's name in the trust file.
    pub witness: String,
    /// When it cosigned, POSIX seconds.
    pub time: u64,
}

/// What the witnesses of a trust file say about one head, each in one list, in the file's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ballot {
    /// Those that cosigned it in time.
    pub counted: Vec<Cosigned>,
    /// Those that cosigned it too long ago, or in the future.
    pub untimely: Vec<Cosigned>,
    /// Those without a cosignature on it that can be verified.
    pub absent: Vec<String>,
    /// Places in the file of those that count: two names that look alike are not one witness.
    #[serde(skip)]
    places: Vec<usize>,
}

/// Too few witnesses vouch for a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error(
    "{} of the witnesses vouch for the head, {} did too long ago, and the quorum {quorum} is not \
     met", ballot.counted.len(), ballot.untimely.len()
)]
pub struct Unmet {
    /// Name of the quorum.
    pub quorum: String,
    /// Who did and who did not.
    #[serde(flatten)]
    pub ballot: Ballot,
}

#[cfg(test)]
impl Ballot {
    /// A ballot in which the witnesses at these places count.
    pub(super) fn of_places(places: Vec<usize>) -> Self {
        Self { places, ..Self::default() }
    }
}

impl Policy {
    /// Counts the cosignatures on `note`. One that is older than `max_age` at `now` (POSIX
    /// seconds) says nothing about today: a log could show it beside a fresh head of its own to
    /// one reader alone.
    ///
    /// # Errors
    /// [`SignatureError::Bad`] when a line that claims to be of a listed witness does not verify.
    pub fn ballot(
        &self,
        note: &Note<'_>,
        now: u64,
        max_age: Duration,
    ) -> Result<Ballot, SignatureError> {
        let mut ballot = Ballot::default();
        for (place, witness) in self.witnesses.iter().enumerate() {
            let time = match &witness.key {
                Some(key) => note.witnessed_at(key)?,
                None => None,
            };
            let witness = witness.name.clone();
            match time {
                None => ballot.absent.push(witness),
                Some(time) if timely(time, now, max_age) => {
                    ballot.counted.push(Cosigned { witness, time });
                    ballot.places.push(place);
                }
                Some(time) => ballot.untimely.push(Cosigned { witness, time }),
            }
        }
        Ok(ballot)
    }

    /// Whether the quorum is met.
    ///
    /// # Errors
    /// [`Unmet`] with the ballot.
    pub fn judge(&self, ballot: Ballot) -> Result<Ballot, Unmet> {
        let met = self.quorum.is_none_or(|quorum| self.vouches(quorum, &ballot));
        let quorum = self.quorum_name().to_owned();
        if met { Ok(ballot) } else { Err(Unmet { quorum, ballot }) }
    }

    fn vouches(&self, member: Member, ballot: &Ballot) -> bool {
        match member {
            Member::Witness(at) => ballot.places.contains(&at),
            Member::Group(at) => {
                let group = &self.groups[at];
                let vouching = group.members.iter().filter(|member| self.vouches(**member, ballot));
                vouching.count() >= group.threshold
            }
        }
    }
}

fn timely(time: u64, now: u64, max_age: Duration) -> bool {
    time <= now.saturating_add(CLOCK_SKEW) && now.saturating_sub(time) <= max_age.as_secs()
}
