//! The rules of [`chain`](super), event by event.

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_schema::sigchain::{GENESIS, Genesis};
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_000;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn public(n: u8) -> Hash {
    key(n).verifying_key().to_bytes()
}

fn id(n: u8) -> Hash {
    device_id(&public(n)).native_bytes().unwrap()
}

fn device(n: u8, caps: u16) -> Device {
    let (not_after, name, conversations) = (0, [0; 32], vec![]);
    Device { key: public(n), caps, not_after, name, conversations }
}

fn origin() -> Origin {
    Origin::parse("o").unwrap()
}

/// A chain and its stored events. Key 1 is the first device's, key 99 the recovery key.
struct Line {
    events: Vec<Vec<u8>>,
}

impl Line {
    fn new() -> Self {
        let recovery = public(99);
        let genesis = Genesis { handle: b"alice", device: device(1, 7), recovery };
        let body = genesis.encode();
        let event = Event {
            origin: b"o",
            account: [0; 32],
            seq: 0,
            prev: [0; 32],
            kind: GENESIS,
            time_ms: 1,
            signer: id(1),
            body: &body,
        };
        Self { events: vec![event.encode()] }
    }

    fn chain(&self) -> Chain {
        let events = (1..).zip(&self.events).map(|(place, event)| (place, &event[..]));
        Chain::replay(events).unwrap().unwrap()
    }

    /// The next event by key `by`, in which `change` has been made to the header.
    fn drawn(
        &self,
        by: u8,
        change: &Change<'_>,
        spoil: impl FnOnce(&mut Event<'_>),
    ) -> (Vec<u8>, Vec<u8>) {
        let chain = self.chain();
        let body = change.encode();
        let signer = if matches!(change, Change::Recover(_)) { NOBODY } else { id(by) };
        let mut event = Event {
            origin: b"o",
            account: chain.account.0,
            seq: chain.next,
            prev: chain.head,
            kind: change.kind(),
            time_ms: 1,
            signer,
            body: &body,
        };
        spoil(&mut event);
        let bytes = event.encode();
        let sig = key(by).sign(&bytes).to_bytes().to_vec();
        (bytes, sig)
    }

    fn judge(&self, by: u8, change: &Change<'_>) -> Result<Next, Violation> {
        let (bytes, sig) = self.drawn(by, change, |_| ());
        self.chain().judge(&origin(), &bytes, &sig, NOW)
    }

    fn refused(&self, by: u8, change: &Change<'_>) -> Violation {
        self.judge(by, change).unwrap_err()
    }

    /// Admits an event by key `by`, accepted by key `acceptor`.
    fn take(&mut self, by: u8, change: &Change<'_>, acceptor: Option<u8>) {
        let (bytes, sig) = self.drawn(by, change, |_| ());
        let next = self.chain().judge(&origin(), &bytes, &sig, NOW).unwrap();
        let message = sigchain::accept(&hash(&bytes));
        let accept = acceptor.map_or(vec![], |n| key(n).sign(&message).to_bytes().to_vec());
        next.accepted(&accept).unwrap();
        self.events.push(bytes);
    }

    fn standing(&self) -> Vec<DeviceId> {
        let chain = self.chain();
        let standing = chain.members.iter().filter(|member| member.ended.is_none());
        standing.map(|member| member.id.clone()).collect()
    }
}

fn ids(keys: &[u8]) -> Vec<DeviceId> {
    keys.iter().map(|&n| device_id(&public(n))).collect()
}

#[test]
fn every_type_does_what_it_says() {
    let mut line = Line::new();
    line.take(1, &Change::Add(device(2, caps::ADMIN)), Some(2));
    line.take(2, &Change::Add(device(3, caps::SEND)), Some(3));
    assert_eq!(line.standing(), ids(&[1, 2, 3]));
    line.take(2, &Change::Update { device: id(3), caps: caps::RECV, not_after: 77 }, None);
    let third = line.chain().members[2].device.clone();
    assert_eq!((third.caps, third.not_after), (caps::RECV, 77));
    line.take(1, &Change::Revoke { device: id(3), reason: b"lost" }, None);
    line.take(1, &Change::SetRecovery(public(98)), Some(99));
    line.take(98, &Change::Recover(device(4, caps::ADMIN)), Some(4));
    assert_eq!(line.standing(), ids(&[4]));
    let ends: Vec<_> = line.chain().members.iter().map(|member| member.ended).collect();
    assert_eq!(ends, [Some(7), Some(7), Some(5), None]);
    line.take(4, &Change::Close, None);
    assert_eq!((line.standing(), line.chain().length()), (vec![], 8));
    assert_eq!(line.refused(4, &Change::Close), Violation::Closed);
}

#[test]
fn headers_are_of_this_relay_account_and_place() {
    let mut line = Line::new();
    line.take(1, &Change::Add(device(2, caps::ADMIN)), Some(2));
    let close = Change::Close;
    let judge = |spoil: fn(&mut Event<'_>)| {
        let (bytes, sig) = line.drawn(1, &close, spoil);
        line.chain().judge(&origin(), &bytes, &sig, NOW).unwrap_err()
    };
    let moved = Violation::Moved { newest: 1 };
    assert_eq!(judge(|event| event.origin = b"p"), Violation::Origin);
    assert_eq!(judge(|event| event.account = [1; 32]), Violation::Account);
    assert_eq!(judge(|event| event.seq = 1), moved);
    assert_eq!(judge(|event| event.seq = 3), moved);
    assert_eq!(judge(|event| event.prev = [1; 32]), moved);
    assert_eq!(judge(|event| event.kind = GENESIS), Violation::Kind(GENESIS));
    assert_eq!(judge(|event| event.kind = RESET), Violation::Kind(RESET));
    let unreadable = Violation::Unreadable(DecodeError::Field);
    assert_eq!(judge(|event| event.kind = 9), unreadable);
    assert_eq!(judge(|event| event.signer = id(9)), Violation::Signer);
    assert_eq!(judge(|event| event.signer = id(2)), Violation::Signature);
    let long = vec![0; MAX_EVENT + 1];
    assert_eq!(line.chain().judge(&origin(), &long, &[], NOW).unwrap_err(), Violation::TooLong);
}

#[test]
fn only_who_may_signs() {
    let mut line = Line::new();
    line.take(1, &Change::Add(device(2, caps::SEND | caps::RECV)), Some(2));
    let brief = Device { not_after: NOW, ..device(3, caps::ADMIN) };
    line.take(1, &Change::Add(brief), Some(3));
    let add = Change::Add(device(4, caps::SEND));
    let revoke = |n| Change::Revoke { device: id(n), reason: b"" };
    assert_eq!(line.refused(2, &add), Violation::NotAdmin);
    assert_eq!(line.refused(2, &revoke(1)), Violation::NotAdmin);
    assert_eq!(line.refused(2, &Change::SetRecovery(public(5))), Violation::NotAdmin);
    assert_eq!(line.refused(3, &add), Violation::Signer, "expired at this second");
    assert_eq!(line.refused(1, &revoke(9)), Violation::NoDevice);
    let update = Change::Update { device: id(9), caps: 1, not_after: 0 };
    assert_eq!(line.refused(1, &update), Violation::NoDevice);
    // A device may end itself, whatever else it may not.
    line.take(2, &revoke(2), None);
    assert_eq!(line.refused(2, &revoke(2)), Violation::Signer);
    assert_eq!(line.refused(1, &revoke(2)), Violation::NoDevice);
    // A recovery is by the recovery key, in nobody's name.
    let recover = Change::Recover(device(4, 7));
    assert_eq!(line.refused(1, &recover), Violation::Signature);
    let (bytes, sig) = line.drawn(99, &recover, |event| event.signer = id(1));
    let judged = line.chain().judge(&origin(), &bytes, &sig, NOW);
    assert_eq!(judged.unwrap_err(), Violation::Signer);
}

#[test]
fn who_has_to_accept_accepts_this_very_event() {
    let line = Line::new();
    let accept = |next: &Next, by: u8, of: &[u8]| {
        next.accepted(&key(by).sign(&sigchain::accept(&hash(of))).to_bytes())
    };
    let refused = Err(Violation::Acceptance);
    let add = Change::Add(device(2, 7));
    let (bytes, sig) = line.drawn(1, &add, |_| ());
    let next = line.chain().judge(&origin(), &bytes, &sig, NOW).unwrap();
    assert_eq!(next.newcomer().map(|new| new.key), Some(public(2)));
    assert_eq!(accept(&next, 2, &bytes), Ok(()));
    for wrong in [accept(&next, 1, &bytes), accept(&next, 2, b"other"), next.accepted(&[])] {
        assert_eq!(wrong, refused);
    }
    let next = line.judge(1, &Change::SetRecovery(public(98))).unwrap();
    let (bytes, _) = line.drawn(1, &Change::SetRecovery(public(98)), |_| ());
    assert_eq!(accept(&next, 99, &bytes), Ok(()), "the old recovery key");
    assert_eq!(accept(&next, 98, &bytes), refused, "not the new one");
    let next = line.judge(1, &Change::Close).unwrap();
    assert_eq!((next.accepted(&[]), next.accepted(&[0; 64])), (Ok(()), refused));
}

#[test]
fn devices_are_new_sound_and_few() {
    let mut line = Line::new();
    let add = |n| Change::Add(device(n, caps::SEND));
    assert_eq!(line.refused(1, &add(1)), Violation::Returned);
    let weak = Device { key: [0; 32], ..device(2, 7) };
    assert_eq!(line.refused(1, &Change::Add(weak)), Violation::Key);
    assert_eq!(line.refused(1, &Change::SetRecovery([0; 32])), Violation::Key);
    let conversations = vec![[1; 32]; MAX_DEVICE_CONVERSATIONS + 1];
    let wide = Device { conversations, ..device(2, 7) };
    assert_eq!(line.refused(1, &Change::Add(wide)), Violation::Conversations);
    for n in 2..=16 {
        line.take(1, &add(n), Some(n));
    }
    assert_eq!(line.refused(1, &add(17)), Violation::Crowd);
    line.take(1, &Change::Revoke { device: id(2), reason: b"" }, None);
    assert_eq!(line.refused(1, &add(2)), Violation::Returned, "who left does not return");
    line.take(1, &add(17), Some(17));
    let stateless = caps::SEND | caps::STATELESS;
    let update = Change::Update { device: id(3), caps: stateless, not_after: 0 };
    assert_eq!(line.refused(1, &update), Violation::Stateless);
}

#[test]
fn a_full_chain_can_still_be_ended() {
    let mut line = Line::new();
    let update = Change::Update { device: id(1), caps: 7, not_after: 0 };
    while line.chain_length() < MAX_CHAIN - CHAIN_RESERVE {
        let (bytes, _) = line.drawn_next(&update);
        line.events.push(bytes);
    }
    assert_eq!(line.refused(1, &update), Violation::Full);
    assert_eq!(line.refused(1, &Change::Add(device(2, 7))), Violation::Full);
    line.take(99, &Change::Recover(device(2, 7)), Some(2));
    line.take(2, &Change::Close, None);
}

impl Line {
    fn chain_length(&self) -> u64 {
        self.events.len() as u64
    }

    /// As `drawn`, without replaying all that is there.
    fn drawn_next(&self, change: &Change<'_>) -> (Vec<u8>, Vec<u8>) {
        let body = change.encode();
        let event = Event {
            origin: b"o",
            account: hash(&self.events[0]),
            seq: self.chain_length(),
            prev: hash(&self.events[self.events.len() - 1]),
            kind: change.kind(),
            time_ms: 1,
            signer: id(1),
            body: &body,
        };
        (event.encode(), vec![])
    }
}

#[test]
fn what_cannot_have_been_admitted_is_no_chain() {
    let mut line = Line::new();
    line.take(1, &Change::Add(device(2, 7)), Some(2));
    line.take(1, &Change::Revoke { device: id(2), reason: b"" }, None);
    let replay = |events: &[&Vec<u8>]| {
        Chain::replay((1..).zip(events).map(|(place, event)| (place, &event[..])))
    };
    let [a, b, c] = [&line.events[0], &line.events[1], &line.events[2]];
    assert!(matches!(replay(&[a, b, c]), Ok(Some(_))));
    assert_eq!(replay(&[]), Ok(None));
    for broken in [&[b, c][..], &[a, c], &[a, b, b], &[a, a], &[a, &vec![1]]] {
        assert!(replay(broken).is_err());
    }
}

proptest! {
    /// Whatever bit of an event or a signature is flipped, the event is not taken.
    #[test]
    fn no_flipped_bit_is_taken(at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let line = Line::new();
        let (mut bytes, mut sig) = line.drawn(1, &Change::Add(device(2, 7)), |_| ());
        let all = bytes.len() + sig.len();
        let at = at.index(all);
        match at.checked_sub(bytes.len()) {
            None => bytes[at] ^= 1 << bit,
            Some(at) => sig[at] ^= 1 << bit,
        }
        prop_assert!(line.chain().judge(&origin(), &bytes, &sig, NOW).is_err());
    }
}
