//! The Double Ratchet with a bounded window (design/e2ee.md 2.9; Signal's "The
//! Double Ratchet Algorithm", sections 2 and 3, without header encryption).
//!
//! Nothing here changes in place. `Ratchet::send` returns the state after it, and
//! a received header is handled in two steps: `Ratchet::find` derives the key
//! that its message must have been sealed with, `Ratchet::settle` returns the
//! state after it and is called only when the message has opened. A forged header
//! therefore changes nothing, and costs one X25519 and
//! [`CHAIN_CAP`](super::chain::CHAIN_CAP) derivations at
//! the most; the keys that the old chain still owes are derived when it has proved
//! genuine.
//!
//! A new ratchet key of our own is drawn when we answer, not when we hear: nobody
//! can tell the difference from outside, a stolen state heals one message earlier,
//! and opening a message needs no random bytes. While we have not answered, no
//! honest peer has another ratchet key, so a header that shows one is refused
//! without any work.

use super::chain::{Chain, Key, root_step};
use super::ids::SessionId;
use super::keys::{DhPublic, DhSecret, NonContributory};
use super::skipped::{SkippedChange, SkippedKey, SkippedKeys};
use std::collections::VecDeque;

/// Retired ratchet keys that are remembered: they tell a late message from a new
/// chain without a key agreement.
pub const SEEN_RATCHET: usize = 64;

/// What a header says about the place of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The sender's ratchet key.
    pub ratchet: DhPublic,
    /// `PN`: messages in the sender's chain before this one.
    pub previous: u32,
    /// `n`: the message's number in its chain.
    pub n: u32,
}

/// Why the ratchet gives no key to send with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainRefused {
    /// [`CHAIN_CAP`](super::chain::CHAIN_CAP) messages were sent and none was
    /// answered: a new handshake is due.
    #[error("the sending chain is full")]
    Full,
    /// The peer's ratchet key has small order.
    #[error("a ratchet key has small order")]
    NonContributory,
}

/// Why the ratchet gives no key to open with. Nothing has been derived from the
/// message itself by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceRefused {
    /// The key of this message was used, or its time is over.
    #[error("the message was opened before, or its key is no longer kept")]
    ReplayOrExpired,
    /// `PN` is smaller than what was received of that chain.
    #[error("the counters of the header contradict what was received before")]
    Counters,
    /// Another ratchet key, though the peer has had no answer to its last one: the
    /// header is forged, or this state is older than the one the peer spoke to.
    #[error("the peer's ratchet key does not follow from this state")]
    OutOfStep,
    /// The ratchet key has small order.
    #[error("a ratchet key has small order")]
    NonContributory,
}

/// Who has spoken last.
#[derive(Clone)]
pub(super) enum Turn {
    /// We answered the peer's newest ratchet key, or began.
    Spoke(Sending, Option<Receiving>),
    /// The peer showed a new ratchet key that we have not answered.
    Heard(Receiving),
}

/// Our ratchet key and our chain under it.
#[derive(Clone)]
pub(super) struct Sending {
    pub(super) secret: Key,
    pub(super) public: DhPublic,
    pub(super) chain: Chain,
    /// When the chain began, Unix seconds.
    pub(super) since: u64,
}

/// The peer's ratchet key and its chain under it.
#[derive(Clone)]
pub(super) struct Receiving {
    pub(super) ratchet: DhPublic,
    pub(super) chain: Chain,
}

/// The state of one side of a session.
#[derive(Clone)]
pub(super) struct Ratchet {
    pub(super) session: SessionId,
    pub(super) root: Key,
    pub(super) turn: Turn,
    /// Messages of our chain before the present one.
    pub(super) previous: u32,
    /// The peer's former ratchet keys, oldest first.
    pub(super) retired: VecDeque<DhPublic>,
    /// The serial of the next skipped key.
    pub(super) next_serial: u64,
}

/// The key and place of a message to be sent.
pub(super) struct Outward {
    pub(super) place: Place,
    pub(super) key: Key,
}

/// The key that a received message must open with, and how it was found.
pub(super) struct Found {
    pub(super) key: Key,
    how: How,
}

enum How {
    /// It had been passed over.
    Stored(u64),
    /// The receiving chain leads to it.
    Chain(Walk),
    /// A new chain leads to it, under a new root.
    NewChain(Key, Walk),
}

/// A chain behind the found message, and the keys on the way there.
struct Walk {
    chain: Chain,
    passed: Vec<(u32, Key)>,
}

impl Ratchet {
    /// The side that starts: its first ratchet key is `secret`, the peer's is the
    /// fallback prekey. `now` is in Unix seconds.
    pub(super) fn initiate(
        session: SessionId,
        root: &Key,
        secret: Key,
        theirs: &DhPublic,
        now: u64,
    ) -> Result<Self, NonContributory> {
        let (root, sending) = Sending::begin(session, root, secret, theirs, now)?;
        let turn = Turn::Spoke(sending, None);
        Ok(Self { session, root, turn, previous: 0, retired: VecDeque::new(), next_serial: 0 })
    }

    /// The side that answers: its first ratchet key is the fallback prekey, and
    /// `theirs` is the ratchet key of the first message it sees.
    pub(super) fn respond(
        session: SessionId,
        root: &Key,
        prekey: &DhSecret,
        theirs: &DhPublic,
    ) -> Result<Self, NonContributory> {
        let (root, chain) = root_step(root, &*prekey.agree(theirs)?, session);
        let turn = Turn::Heard(Receiving { ratchet: *theirs, chain });
        Ok(Self { session, root, turn, previous: 0, retired: VecDeque::new(), next_serial: 0 })
    }

    /// Whether the next message needs another session.
    pub(super) fn is_full(&self) -> bool {
        matches!(&self.turn, Turn::Spoke(sending, _) if sending.chain.is_full())
    }

    /// Since when we have been talking without a new ratchet key of the peer.
    pub(super) fn unanswered_since(&self) -> Option<u64> {
        match &self.turn {
            Turn::Spoke(sending, _) => Some(sending.since),
            Turn::Heard(_) => None,
        }
    }

    fn receiving(&self) -> Option<&Receiving> {
        match &self.turn {
            Turn::Spoke(_, receiving) => receiving.as_ref(),
            Turn::Heard(receiving) => Some(receiving),
        }
    }

    /// Whether `place` is in the chain that we have not answered yet.
    pub(super) fn owes_an_answer_to(&self, place: &Place) -> bool {
        matches!(&self.turn, Turn::Heard(receiving) if receiving.ratchet == place.ratchet)
    }

    /// The next message key and the state after it. `fresh` are 32 random bytes,
    /// which become our ratchet key if this message answers the peer's.
    pub(super) fn send(&self, fresh: &Key, now: u64) -> Result<(Self, Outward), ChainRefused> {
        let (root, mut sending, receiving, previous) = match &self.turn {
            Turn::Spoke(sending, receiving) => {
                (self.root.clone(), sending.clone(), receiving.clone(), self.previous)
            }
            Turn::Heard(receiving) => {
                let theirs = &receiving.ratchet;
                let begun = Sending::begin(self.session, &self.root, fresh.clone(), theirs, now);
                let (root, sending) = begun.map_err(|_| ChainRefused::NonContributory)?;
                (root, sending, Some(receiving.clone()), self.previous)
            }
        };
        if sending.chain.is_full() {
            return Err(ChainRefused::Full);
        }
        let place = Place { ratchet: sending.public, previous, n: sending.chain.n() };
        let key = sending.chain.step(self.session);
        let turn = Turn::Spoke(sending, receiving);
        let retired = self.retired.clone();
        Ok((Self { root, turn, previous, retired, ..*self }, Outward { place, key }))
    }

    /// The key of the message at `place`.
    pub(super) fn find(
        &self,
        skipped: &SkippedKeys,
        place: &Place,
        now: u64,
    ) -> Result<Found, PlaceRefused> {
        if let Some(stored) = skipped.find(&place.ratchet, place.n, now) {
            return Ok(Found { key: stored.key.clone(), how: How::Stored(stored.serial) });
        }
        if self.retired.contains(&place.ratchet) {
            return Err(PlaceRefused::ReplayOrExpired);
        }
        let heard = self.receiving();
        if let Some(receiving) = heard.filter(|receiving| receiving.ratchet == place.ratchet) {
            if place.n < receiving.chain.n() {
                return Err(PlaceRefused::ReplayOrExpired);
            }
            let (key, walk) = Walk::to(receiving.chain.clone(), place.n, self.session);
            return Ok(Found { key, how: How::Chain(walk) });
        }
        let Turn::Spoke(sending, _) = &self.turn else { return Err(PlaceRefused::OutOfStep) };
        let consistent = match heard {
            Some(receiving) => place.previous >= receiving.chain.n(),
            None => place.previous == 0,
        };
        if !consistent {
            return Err(PlaceRefused::Counters);
        }
        let shared = DhSecret::from_bytes(*sending.secret).agree(&place.ratchet);
        let shared = shared.map_err(|NonContributory| PlaceRefused::NonContributory)?;
        let (root, chain) = root_step(&self.root, &shared, self.session);
        let (key, walk) = Walk::to(chain, place.n, self.session);
        Ok(Found { key, how: How::NewChain(root, walk) })
    }

    /// The state after the message at `place`, which `found` has opened, and what
    /// becomes of the skipped keys.
    pub(super) fn settle(
        &self,
        found: Found,
        place: &Place,
        skipped: &SkippedKeys,
        now: u64,
    ) -> (Self, SkippedChange) {
        let mut next = self.clone();
        let mut keep = Keep { next_serial: self.next_serial, fresh: Vec::new(), now };
        let mut used = None;
        match found.how {
            How::Stored(serial) => used = Some(serial),
            How::Chain(walk) => {
                keep.all(place.ratchet, walk.passed);
                let receiving = Receiving { ratchet: place.ratchet, chain: walk.chain };
                next.turn = match next.turn {
                    Turn::Spoke(sending, _) => Turn::Spoke(sending, Some(receiving)),
                    Turn::Heard(_) => Turn::Heard(receiving),
                };
            }
            How::NewChain(root, walk) => {
                if let Turn::Spoke(sending, old) = next.turn {
                    next.previous = sending.chain.n();
                    if let Some(Receiving { ratchet, mut chain }) = old {
                        keep.all(ratchet, chain.skip_to(place.previous, self.session));
                        next.retired.push_back(ratchet);
                    }
                }
                if next.retired.len() > SEEN_RATCHET {
                    next.retired.pop_front();
                }
                keep.all(place.ratchet, walk.passed);
                next.root = root;
                next.turn = Turn::Heard(Receiving { ratchet: place.ratchet, chain: walk.chain });
            }
        }
        next.next_serial = keep.next_serial;
        (next, skipped.change(used, keep.fresh, now))
    }
}

impl Sending {
    fn begin(
        session: SessionId,
        root: &Key,
        secret: Key,
        theirs: &DhPublic,
        now: u64,
    ) -> Result<(Key, Self), NonContributory> {
        let pair = DhSecret::from_bytes(*secret);
        let (root, chain) = root_step(root, &*pair.agree(theirs)?, session);
        Ok((root, Self { public: pair.public(), secret, chain, since: now }))
    }
}

impl Walk {
    fn to(mut chain: Chain, n: u32, session: SessionId) -> (Key, Self) {
        let passed = chain.skip_to(n, session);
        let key = chain.step(session);
        (key, Self { chain, passed })
    }
}

/// Numbers the keys that were passed over.
struct Keep {
    next_serial: u64,
    fresh: Vec<SkippedKey>,
    now: u64,
}

impl Keep {
    fn all(&mut self, ratchet: DhPublic, passed: Vec<(u32, Key)>) {
        for (n, key) in passed {
            let (serial, stored_at) = (self.next_serial, self.now);
            self.fresh.push(SkippedKey { serial, ratchet, n, key, stored_at });
            // 2^64 keys are not passed over in the life of a session.
            self.next_serial = self.next_serial.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::chain::CHAIN_CAP;
    use crate::e2ee::skipped::MAX_STORED;

    const SESSION: SessionId = SessionId::from_bytes([1; 16]);

    /// One side with its skipped keys and the numbers it draws.
    #[derive(Clone)]
    struct Side {
        ratchet: Ratchet,
        skipped: SkippedKeys,
        draws: u32,
    }

    impl Side {
        fn pair() -> (Self, Self) {
            let prekey = DhSecret::from_bytes([3; 32]);
            let (root, spk) = (Key::new([2; 32]), prekey.public());
            let alice = Ratchet::initiate(SESSION, &root, Key::new([100; 32]), &spk, 0).unwrap();
            let Turn::Spoke(sending, _) = &alice.turn else { panic!("she begins") };
            let bob = Ratchet::respond(SESSION, &root, &prekey, &sending.public).unwrap();
            let side = |ratchet, draws| Self { ratchet, skipped: SkippedKeys::default(), draws };
            (side(alice, 1), side(bob, 1 << 16))
        }

        fn send(&mut self) -> (Place, Key) {
            self.draws += 1;
            let mut fresh = Key::new([5; 32]);
            fresh[..4].copy_from_slice(&self.draws.to_be_bytes());
            let (next, outward) = self.ratchet.send(&fresh, 7).unwrap();
            self.ratchet = next;
            (outward.place, outward.key)
        }

        fn find(&self, place: &Place) -> Result<Key, PlaceRefused> {
            self.ratchet.find(&self.skipped, place, 0).map(|found| found.key)
        }

        /// Takes a message as opened.
        fn take(&mut self, place: &Place) -> Result<Key, PlaceRefused> {
            let found = self.ratchet.find(&self.skipped, place, 0)?;
            let key = found.key.clone();
            let (next, change) = self.ratchet.settle(found, place, &self.skipped, 0);
            self.ratchet = next;
            self.skipped.apply(&change);
            Ok(key)
        }
    }

    /// One message each way, Alice first.
    fn round(alice: &mut Side, bob: &mut Side) {
        for _ in 0..2 {
            let (place, key) = alice.send();
            assert_eq!(bob.take(&place).as_ref(), Ok(&key));
            std::mem::swap(alice, bob);
        }
    }

    #[test]
    fn both_sides_agree_on_every_key_in_any_order() {
        let (mut alice, mut bob) = Side::pair();
        for _ in 0..3 {
            let sent: Vec<_> = (0..4).map(|_| alice.send()).collect();
            for (place, key) in [&sent[2], &sent[0], &sent[3]] {
                assert_eq!(bob.take(place).as_ref(), Ok(key));
                assert_eq!(bob.take(place), Err(PlaceRefused::ReplayOrExpired));
            }
            let (place, key) = bob.send();
            assert_eq!(alice.take(&place), Ok(key));
            // A new chain; the straggler of the old one still opens, once.
            let (next, key) = alice.send();
            assert_eq!(bob.take(&next), Ok(key));
            assert_eq!(bob.take(&sent[1].0).as_ref(), Ok(&sent[1].1));
            assert_eq!(bob.take(&sent[1].0), Err(PlaceRefused::ReplayOrExpired));
            let (place, key) = bob.send();
            assert_eq!(alice.take(&place), Ok(key));
        }
        assert!(bob.skipped.is_empty());
    }

    #[test]
    fn c7_a_message_of_a_retired_chain_costs_no_key_agreement() {
        let (mut alice, mut bob) = Side::pair();
        round(&mut alice, &mut bob);
        let (old, _) = alice.send();
        bob.take(&old).unwrap();
        round(&mut bob, &mut alice);
        round(&mut alice, &mut bob);
        assert!(bob.ratchet.retired.contains(&old.ratchet));
        // Any number of the retired chain, seen or not, is refused by the name of
        // its key alone; before there is an answer even a new key is.
        for n in [0, old.n, old.n + 1, 999] {
            assert_eq!(bob.find(&Place { n, ..old }), Err(PlaceRefused::ReplayOrExpired));
        }
        let (place, _) = alice.send();
        bob.take(&place).unwrap();
        let stranger = DhSecret::from_bytes([77; 32]).public();
        let forged = Place { ratchet: stranger, previous: 0, n: 0 };
        assert_eq!(bob.find(&forged), Err(PlaceRefused::OutOfStep));
    }

    #[test]
    fn c7_the_list_of_retired_keys_is_bounded() {
        let (mut alice, mut bob) = Side::pair();
        for _ in 0..SEEN_RATCHET + 6 {
            round(&mut alice, &mut bob);
        }
        assert_eq!(bob.ratchet.retired.len(), SEEN_RATCHET);
        // Alice began with no key of Bob's to retire.
        assert_eq!(alice.ratchet.retired.len(), SEEN_RATCHET);
    }

    #[test]
    fn c3_forged_counters_are_refused_or_cost_one_chain() {
        let (mut alice, mut bob) = Side::pair();
        round(&mut alice, &mut bob);
        for _ in 0..3 {
            let (place, _) = alice.send();
            bob.take(&place).unwrap();
        }
        bob.send();
        let ratchet = DhSecret::from_bytes([77; 32]).public();
        // Fewer messages in the chain than were received of it.
        let low = Place { ratchet, previous: 2, n: 0 };
        assert_eq!(bob.find(&low), Err(PlaceRefused::Counters));
        // As many as a chain can hold: the keys of the old chain are not derived
        // before the message has opened.
        let high = Place { ratchet, previous: CHAIN_CAP, n: CHAIN_CAP - 1 };
        let found = bob.ratchet.find(&bob.skipped, &high, 0).unwrap();
        let How::NewChain(_, walk) = found.how else { panic!("a new chain") };
        assert_eq!(walk.passed.len(), 999);
        // Who has had no answer has nothing that a PN could speak of.
        let (alice, _) = Side::pair();
        let first = Place { ratchet, previous: 1, n: 0 };
        assert_eq!(alice.find(&first), Err(PlaceRefused::Counters));
    }

    #[test]
    fn c4_skipped_keys_stay_bounded_under_the_worst_losses() {
        let (mut alice, mut bob) = Side::pair();
        for _ in 0..4 {
            for _ in 0..500 {
                alice.send();
            }
            let (place, _) = alice.send();
            bob.take(&place).unwrap();
            for _ in 0..499 {
                alice.send();
            }
            assert!(bob.skipped.len() <= MAX_STORED);
            let (place, _) = bob.send();
            alice.take(&place).unwrap();
        }
        let (place, key) = alice.send();
        assert_eq!(bob.take(&place), Ok(key));
        assert_eq!(bob.skipped.len(), MAX_STORED);
    }

    #[test]
    fn a1_a_ratchet_key_of_small_order_is_refused() {
        let (mut alice, mut bob) = Side::pair();
        let (place, _) = alice.send();
        bob.take(&place).unwrap();
        bob.send();
        let low = DhPublic::from_bytes([0; 32]);
        let forged = Place { ratchet: low, previous: 1, n: 0 };
        assert_eq!(bob.find(&forged), Err(PlaceRefused::NonContributory));
        let prekey = DhSecret::from_bytes([3; 32]);
        assert!(Ratchet::respond(SESSION, &Key::default(), &prekey, &low).is_err());
        assert!(Ratchet::initiate(SESSION, &Key::default(), Key::default(), &low, 0).is_err());
    }

    #[test]
    fn c2_a_chain_ends_after_a_thousand_messages() {
        let (mut alice, mut bob) = Side::pair();
        let mut last = None;
        for _ in 0..CHAIN_CAP {
            assert!(!alice.ratchet.is_full());
            last = Some(alice.send());
        }
        let (place, key) = last.unwrap();
        assert_eq!(place.n, 999);
        assert!(alice.ratchet.is_full());
        let refused = alice.ratchet.send(&Key::default(), 0).map(|_| ());
        assert_eq!(refused, Err(ChainRefused::Full));
        assert_eq!(bob.take(&place), Ok(key));
        assert_eq!(bob.skipped.len(), 999);
        // An answer opens another chain.
        let (place, _) = bob.send();
        alice.take(&place).unwrap();
        let (place, key) = alice.send();
        assert_eq!((place.previous, place.n), (1_000, 0));
        assert_eq!(bob.take(&place), Ok(key));
    }

    #[test]
    fn c8_a_stolen_state_heals_with_the_next_answer() {
        let (mut alice, mut bob) = Side::pair();
        round(&mut alice, &mut bob);
        let (place, _) = alice.send();
        bob.take(&place).unwrap();
        // The thief has all of Bob, and reads along.
        let mut thief = Side { draws: 1 << 20, ..bob.clone() };
        let (place, key) = alice.send();
        bob.take(&place).unwrap();
        assert_eq!(thief.take(&place), Ok(key), "until Bob answers, the thief reads");
        // Bob answers with a key that was drawn afterwards.
        let (place, _) = bob.send();
        alice.take(&place).unwrap();
        let (place, key) = alice.send();
        assert_eq!(bob.take(&place).as_ref(), Ok(&key));
        assert_eq!(thief.find(&place), Err(PlaceRefused::OutOfStep));
        // Nor does an answer of the thief's own lead there.
        thief.send();
        assert_ne!(thief.find(&place), Ok(key));
    }

    #[test]
    fn c9_a_stolen_state_does_not_open_what_was_read_before() {
        let (mut alice, mut bob) = Side::pair();
        let mut earlier = Vec::new();
        for _ in 0..3 {
            for _ in 0..3 {
                let (place, key) = alice.send();
                bob.take(&place).unwrap();
                earlier.push((place, key));
            }
            let (place, _) = bob.send();
            alice.take(&place).unwrap();
        }
        for thief in [&bob, &alice] {
            for (place, key) in &earlier {
                assert_ne!(thief.find(place).as_ref(), Ok(key));
            }
        }
    }
}
