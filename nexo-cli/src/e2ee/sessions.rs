//! All sessions with one device of a peer, and which of them is in use
//! (design/e2ee.md 2.14).
//!
//! Both sides put their sessions in one order: a session that replaces another one
//! stands before it (one more in *generation*), and of two that were started at
//! once the one with the lower id. The first of that order is used for sending; it
//! is not stored anywhere who is, so both sides agree as soon as both have seen
//! both. The others are for receiving only, for 7 days, and never come back into
//! use: else whoever stole an old state could have it used again.
//!
//! Like a session this is a value: every change returns the [`Sessions`] after it.
//! What a change means for rows is [`Sessions::writes_since`].

use super::ids::SessionId;
use super::ratchet::Place;
use super::session::{Peer, Session};
use super::session_state::{StateRefused, optional};
use nexo_schema::bytes::{be_u64, dec, enc, fixed};
use std::cmp::Reverse;
use zeroize::Zeroizing;

/// Sessions with one device for receiving only, beside the one in use. Few and short
/// lived: an old session that still works undoes the healing of the newer ones.
pub const MAX_RECEIVE_ONLY: usize = 3;
/// How long a session stays for receiving after another one took over, in seconds.
pub const RECEIVE_ONLY_TTL: u64 = 7 * 86_400;
/// How long we go on talking in a session without any answer, in seconds.
pub const MAX_UNANSWERED: u64 = 14 * 86_400;
/// Replacements without proof of continuity that one device may make in a day.
pub const MAX_RESETS: usize = 3;
/// That day, in seconds.
pub const RESET_PERIOD: u64 = 86_400;
/// A message with this number, in a chain that we have not answered, calls for an
/// answer: without one the peer's keys do not heal (OMEMO uses 53).
pub const HEARTBEAT_AT: u32 = 50;
/// So does content that has waited this long for an answer, in seconds.
pub const HEARTBEAT_AFTER: u64 = 86_400;

const LABEL: &str = "nexo/1/state/pair";
const VERSION: u8 = 1;

/// Why the next message to a device needs a handshake, and so its prekeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeDue {
    /// There is no session.
    FirstContact,
    /// 1,000 messages of ours have had no answer.
    ChainFull,
    /// There has been no answer for [`MAX_UNANSWERED`].
    Unanswered,
    /// The peer has said that it does not hold the session.
    GivenUp,
}

/// What an inbound handshake meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEvent {
    /// The first session with this device, or one that crossed our own first one.
    Established,
    /// The peer replaced a session and proved that it holds it. Nothing to report.
    Rotated {
        /// The session that was replaced.
        replaced: SessionId,
    },
    /// The peer has a new session and does not prove to hold an old one: its state
    /// is lost, or somebody has its device key. To be reported.
    Reset {
        /// Resets of this device within a day, this one included.
        today: usize,
    },
}

/// What to do with a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReset {
    /// Accept it, up to [`MAX_RESETS`] a day.
    Accept,
    /// Refuse it.
    Refuse,
}

/// A handshake that replaces sessions without proof, and is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResetRefused {
    /// By the caller's choice.
    #[error("the device started a new session without proof of the old one")]
    ByPolicy,
    /// There were [`MAX_RESETS`] within a day.
    #[error("the device has started {MAX_RESETS} new sessions without proof within a day")]
    TooMany,
}

/// What a message was, once its body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// It calls for an answer some day.
    Content,
    /// A heartbeat or another message of the protocol itself. It never calls for
    /// one, so two programs do not keep each other awake.
    Control,
}

/// Content that waits for an answer: since when, and how far its chain had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owed {
    since: u64,
    n: u32,
}

/// The sessions with one device, first in order first.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    held: Vec<Session>,
    resets: Vec<u64>,
    owed: Option<Owed>,
}

impl Sessions {
    /// The sessions that may be received on, the one in use first.
    #[must_use]
    pub fn held(&self) -> &[Session] {
        &self.held
    }

    /// The session that the next message goes out on, unless a handshake is due.
    #[must_use]
    pub fn active(&self) -> Option<&Session> {
        self.held.first().filter(|session| session.standing.retired_at.is_none())
    }

    /// The session `id`, unless its time is over.
    #[must_use]
    pub fn find(&self, id: SessionId, now: u64) -> Option<&Session> {
        self.held.iter().find(|session| session.id() == id).filter(|session| !is_over(session, now))
    }

    /// Why the next message needs a handshake, if it does. `now` in Unix seconds.
    #[must_use]
    pub fn handshake_due(&self, now: u64) -> Option<HandshakeDue> {
        let Some(active) = self.active() else {
            let none = self.held.is_empty();
            return Some(if none { HandshakeDue::FirstContact } else { HandshakeDue::GivenUp });
        };
        let waited = active.ratchet.unanswered_since().map(|since| now.saturating_sub(since));
        if active.ratchet.is_full() {
            Some(HandshakeDue::ChainFull)
        } else if waited.is_some_and(|waited| waited >= MAX_UNANSWERED) {
            Some(HandshakeDue::Unanswered)
        } else {
            None
        }
    }

    /// Whether the peer's messages have waited for an answer so long that an empty
    /// one should be sent.
    #[must_use]
    pub fn heartbeat_due(&self, now: u64) -> bool {
        self.owed.is_some_and(|Owed { since, n }| {
            n >= HEARTBEAT_AT || now.saturating_sub(since) >= HEARTBEAT_AFTER
        })
    }

    /// The session that a new one of ours replaces, and proves that it does.
    pub(super) fn predecessor(&self) -> Option<&Session> {
        self.held.iter().find(|session| !session.standing.given_up)
    }

    /// `session`, which we have started, at its place in the order.
    pub(super) fn started(&self, mut session: Session) -> Session {
        session.standing.generation = self.newest_generation().saturating_add(1);
        session
    }

    /// After a message went out on `session`.
    #[must_use]
    pub(super) fn sent(&self, session: Session, now: u64) -> Self {
        Self { owed: None, ..self.with(session, now) }
    }

    /// After the message at `place` was opened on `session`.
    #[must_use]
    pub(super) fn heard(&self, session: Session, place: &Place, nature: Nature, now: u64) -> Self {
        let owes = nature == Nature::Content && session.ratchet.owes_an_answer_to(place);
        let mut next = self.with(session, now);
        if owes {
            let owed = self.owed.unwrap_or(Owed { since: now, n: place.n });
            next.owed = Some(Owed { n: owed.n.max(place.n), ..owed });
        }
        next
    }

    /// Judges a handshake of the peer by its first message, which has opened:
    /// `session` at its place in the order, and what it means. Nothing changes
    /// before [`Self::heard`].
    pub(super) fn judge(
        &self,
        mut session: Session,
        proof: Option<&[u8; 32]>,
        on_reset: OnReset,
        now: u64,
    ) -> Result<(Session, SessionEvent), ResetRefused> {
        let mut live = self.held.iter().filter(|held| !is_over(held, now));
        let replaced =
            proof.and_then(|proof| live.clone().find(|old| old.vouches(&session, proof)));
        let (generation, event) = if let Some(old) = replaced {
            let event = SessionEvent::Rotated { replaced: old.id() };
            (old.standing.generation.saturating_add(1), event)
        } else if live.any(Session::is_answered) {
            let today = self.resets_since(now).count() + 1;
            if on_reset == OnReset::Refuse {
                return Err(ResetRefused::ByPolicy);
            }
            if today > MAX_RESETS {
                return Err(ResetRefused::TooMany);
            }
            (self.newest_generation().saturating_add(1), SessionEvent::Reset { today })
        } else {
            // The peer has none of our sessions to prove, as far as we know.
            (1, SessionEvent::Established)
        };
        session.standing.generation = generation;
        Ok((session, event))
    }

    /// Counts a reset; called with what [`Self::judge`] returned.
    #[must_use]
    pub(super) fn noted(&self, event: SessionEvent, now: u64) -> Self {
        let mut next = self.clone();
        if matches!(event, SessionEvent::Reset { .. }) {
            next.resets = self.resets_since(now).collect();
            next.resets.push(now);
        }
        next
    }

    /// After the peer has said that it cannot open what was sent on `id`: the next
    /// message starts another session. Without effect on any other session.
    #[must_use]
    pub fn give_up(&self, id: SessionId, now: u64) -> Self {
        let mut next = self.clone();
        if let Some(session) = next.held.iter_mut().find(|session| session.id() == id) {
            session.standing.given_up = true;
            session.standing.retired_at.get_or_insert(now);
        }
        next
    }

    /// Without any session, as after a rollback of this device's state: handshakes
    /// that were answered before must be refused by the caller's table of them.
    #[must_use]
    pub fn forgotten(&self) -> Self {
        Self { held: Vec::new(), resets: self.resets.clone(), owed: None }
    }

    /// Without the sessions whose time is over, for a store that cleans up without
    /// a message.
    #[must_use]
    pub fn tidied(&self, now: u64) -> Self {
        let mut next = self.clone();
        next.tidy(now);
        next
    }

    fn resets_since(&self, now: u64) -> impl Iterator<Item = u64> {
        let recent = move |at: &&u64| now.saturating_sub(**at) < RESET_PERIOD;
        self.resets.iter().filter(recent).copied()
    }

    fn newest_generation(&self) -> u32 {
        self.held.iter().map(|session| session.standing.generation).max().unwrap_or(0)
    }

    fn with(&self, session: Session, now: u64) -> Self {
        let mut next = self.clone();
        next.held.retain(|held| held.id() != session.id());
        next.held.push(session);
        next.tidy(now);
        next
    }

    fn tidy(&mut self, now: u64) {
        self.held.retain(|session| !is_over(session, now));
        self.held.sort_by_key(order);
        for session in self.held.iter_mut().skip(1) {
            session.standing.retired_at.get_or_insert(now);
        }
        while self.held.len() > 1 + MAX_RECEIVE_ONLY {
            // The one that has been for receiving only the longest; of equals the last.
            let others = self.held.iter().enumerate().skip(1).rev();
            let oldest = others.min_by_key(|(_, session)| session.standing.retired_at);
            let Some((at, _)) = oldest else { return };
            self.held.remove(at);
        }
    }
}

/// First the newer generation, then the lower id.
fn order(session: &Session) -> (Reverse<u32>, SessionId) {
    (Reverse(session.standing.generation), session.id())
}

fn is_over(session: &Session, now: u64) -> bool {
    let retired = session.standing.retired_at;
    retired.is_some_and(|at| now.saturating_sub(at) >= RECEIVE_ONLY_TTL)
}

/// What a store has to do after a change.
#[derive(Debug, Default)]
pub struct Writes {
    /// Sessions to be written, by [`Session::to_bytes`].
    pub put: Vec<Session>,
    /// Sessions to be deleted, with all their skipped keys.
    pub delete: Vec<SessionId>,
    /// The record of the pair, if it changed.
    pub pair: Option<Zeroizing<Vec<u8>>>,
}

impl Sessions {
    /// The sessions with `peer` as a store has them: its record of the pair, if
    /// there is one, and its sessions in any order.
    ///
    /// # Errors
    /// [`StateRefused`] if a session is with somebody else, is there twice or is
    /// one too many, or the record is not what [`Writes::pair`] was.
    pub fn restore(
        peer: Peer,
        pair: Option<&[u8]>,
        sessions: Vec<Session>,
    ) -> Result<Self, StateRefused> {
        let mut restored = match pair {
            Some(bytes) => Self::read_pair(bytes)?,
            None => Self::default(),
        };
        restored.held = sessions;
        restored.held.sort_by_key(order);
        let strangers = restored.held.iter().any(|session| session.peer() != peer);
        let ids: std::collections::BTreeSet<_> = restored.held.iter().map(Session::id).collect();
        let count = restored.held.len();
        if strangers || ids.len() < count || count > 1 + MAX_RECEIVE_ONLY {
            return Err(StateRefused::Value("sessions"));
        }
        Ok(restored)
    }

    /// What turns the rows of `before` into those of `self`.
    #[must_use]
    pub fn writes_since(&self, before: &Self) -> Writes {
        let stored = |sessions: &Self, id| {
            let found = sessions.held.iter().find(|session| session.id() == id);
            found.map(Session::to_bytes)
        };
        let is_new = |session: &&Session| stored(before, session.id()) != Some(session.to_bytes());
        let is_gone = |id: &SessionId| !self.held.iter().any(|session| session.id() == *id);
        let pair = self.pair_bytes();
        Writes {
            put: self.held.iter().filter(is_new).cloned().collect(),
            delete: before.held.iter().map(Session::id).filter(is_gone).collect(),
            pair: (pair != before.pair_bytes()).then_some(pair),
        }
    }

    fn pair_bytes(&self) -> Zeroizing<Vec<u8>> {
        let resets: Vec<u8> = self.resets.iter().flat_map(|at| at.to_be_bytes()).collect();
        let owed = self
            .owed
            .map(|Owed { since, n }| [&since.to_be_bytes()[..], &n.to_be_bytes()].concat());
        Zeroizing::new(enc(LABEL, &[&[VERSION], &resets, &owed.unwrap_or_default()]))
    }

    fn read_pair(bytes: &[u8]) -> Result<Self, StateRefused> {
        let [version, resets, owed] = dec::<3>(LABEL, bytes)?;
        StateRefused::check_version(version, VERSION)?;
        let (resets, rest) = resets.as_chunks::<8>();
        if !rest.is_empty() || resets.len() > MAX_RESETS {
            return Err(StateRefused::Value("resets"));
        }
        let owed = optional(owed, |owed| {
            let (since, n) = owed.split_at_checked(8).ok_or(StateRefused::Value("owed"))?;
            Ok(Owed { since: be_u64(since)?, n: u32::from_be_bytes(fixed(n)?) })
        })?;
        let resets = resets.iter().map(|at| u64::from_be_bytes(*at)).collect();
        Ok(Self { held: Vec::new(), resets, owed })
    }
}
