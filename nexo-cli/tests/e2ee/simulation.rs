//! Two devices over a network that loses, repeats and reorders, and over several
//! sessions (C1 of design/e2ee.md 4).

use crate::fixture::NOW;
use crate::node::{Envelope, Node};
use crate::sessions::acquainted;
use nexo_cli::e2ee::skipped::{MAX_STORED, SkippedKey};
use nexo_cli::e2ee::{Packet, Session, Sessions};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeSet;

/// What happens next. `bool` says whose turn it is: Alice's if true.
#[derive(Debug, Clone)]
enum Step {
    /// So many messages are sent.
    Send(bool, u8),
    /// A message under way to that side arrives, whichever, and is gone.
    Deliver(bool, Index),
    /// A message that arrived before arrives again.
    Repeat(bool, Index),
    /// A message under way is lost.
    Lose(bool, Index),
    /// A message arrives with one bit changed.
    Damage(bool, Index, Index, u8),
    /// That side starts another session with its next message.
    Renew(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 1u8..6).prop_map(|(who, n)| Step::Send(who, n)),
        12 => (any::<bool>(), any::<Index>()).prop_map(|(who, at)| Step::Deliver(who, at)),
        2 => (any::<bool>(), any::<Index>()).prop_map(|(who, at)| Step::Repeat(who, at)),
        2 => (any::<bool>(), any::<Index>()).prop_map(|(who, at)| Step::Lose(who, at)),
        2 => (any::<bool>(), any::<Index>(), any::<Index>(), 0u8..8)
            .prop_map(|(who, at, byte, bit)| Step::Damage(who, at, byte, bit)),
        1 => any::<bool>().prop_map(Step::Renew),
    ]
}

/// One direction: its sender, what is under way and what has arrived.
struct Way {
    node: Node,
    sent: u32,
    renewals: u8,
    under_way: Vec<(u32, Envelope)>,
    arrived: Vec<Envelope>,
}

impl Way {
    fn of(node: Node) -> Self {
        Self { node, sent: 0, renewals: 0, under_way: Vec::new(), arrived: Vec::new() }
    }
}

struct World {
    ways: [Way; 2],
    places: BTreeSet<(bool, nexo_cli::e2ee::SessionId, [u8; 32], u32)>,
    now: u64,
}

impl World {
    fn new() -> Self {
        let ways = [Way::of(Node::new(1, 1)), Way::of(Node::new(2, 2))];
        Self { ways, places: BTreeSet::new(), now: NOW }
    }

    /// The direction whose sender is Alice, if so, and the other one.
    fn both(&mut self, alice: bool) -> (&mut Way, &mut Way) {
        let [one, other] = &mut self.ways;
        if alice { (one, other) } else { (other, one) }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        let now = self.now;
        match step {
            Step::Send(alice, count) => {
                for _ in 0..*count {
                    let (mine, theirs) = self.both(*alice);
                    mine.sent += 1;
                    let envelope = mine.node.send(&theirs.node, &mine.sent.to_be_bytes(), now);
                    mine.under_way.push((mine.sent, envelope.clone()));
                    let (session, ratchet, n) = envelope.place();
                    let fresh = self.places.insert((*alice, session, ratchet, n));
                    assert!(fresh, "a message key was used twice");
                }
            }
            Step::Deliver(to_alice, at) => {
                let (receiver, sender) = self.both(*to_alice);
                if sender.under_way.is_empty() {
                    return;
                }
                let (n, envelope) = sender.under_way.remove(at.index(sender.under_way.len()));
                let got = receiver.node.take(&envelope, now);
                let got = got.unwrap_or_else(|refused| panic!("message {n}: {refused:?}"));
                assert_eq!(got.body, n.to_be_bytes());
                assert_eq!(got.envelope, envelope.hash);
                sender.arrived.push(envelope);
            }
            Step::Repeat(to_alice, at) => {
                let (receiver, sender) = self.both(*to_alice);
                if !sender.arrived.is_empty() {
                    receiver.node.refuses(at.get(&sender.arrived), now);
                }
            }
            Step::Lose(to_alice, at) => {
                let (_, sender) = self.both(*to_alice);
                if !sender.under_way.is_empty() {
                    sender.under_way.remove(at.index(sender.under_way.len()));
                }
            }
            Step::Damage(to_alice, at, byte, bit) => {
                let (receiver, sender) = self.both(*to_alice);
                if !sender.under_way.is_empty() {
                    let damaged = at.get(&sender.under_way).1.clone();
                    receiver.node.refuses(&damage(damaged, *byte, *bit), now);
                }
            }
            Step::Renew(alice) => self.renew(*alice),
        }
    }

    /// At most one per side: together with two that begin at once that makes four
    /// sessions, the most that are held.
    fn renew(&mut self, alice: bool) {
        let now = self.now;
        let (mine, theirs) = self.both(alice);
        let sessions = mine.node.sessions_with(&theirs.node);
        if let (0, Some(active)) = (mine.renewals, sessions.active()) {
            mine.renewals += 1;
            let after = sessions.give_up(active.id(), now);
            mine.node.store(theirs.node.peer(), &after);
        }
    }

    fn check_bounds(&mut self) {
        let (alice, bob) = self.both(true);
        for (one, other) in [(&*alice, &*bob), (&*bob, &*alice)] {
            let sessions = one.node.sessions_with(&other.node);
            assert!(sessions.held().len() <= 4);
            for session in sessions.held() {
                assert!(session.to_bytes().len() < 4_096);
                assert!(one.node.skipped(other.node.id(), session.id()).len() <= MAX_STORED);
            }
        }
    }

    /// Everything under way arrives in order, then each side reads the other.
    fn settle(&mut self) {
        for _ in 0..3 {
            for alice in [true, false] {
                let (receiver, sender) = self.both(alice);
                let under_way = std::mem::take(&mut sender.under_way);
                let now = NOW + 1_000_000 / 2;
                for (n, envelope) in under_way {
                    let got = receiver.node.take(&envelope, now).unwrap();
                    assert_eq!(got.body, n.to_be_bytes());
                }
                self.step(&Step::Send(alice, 1));
            }
        }
        let (alice, bob) = self.both(true);
        let active = |one: &Node, other: &Node| one.sessions_with(other).active().map(Session::id);
        assert!(active(&alice.node, &bob.node).is_some());
    }
}

fn damage(mut envelope: Envelope, byte: Index, bit: u8) -> Envelope {
    let payload = envelope.sealed.len();
    let packet = envelope.packets[0].1.len();
    match byte.index(payload + packet) {
        at if at < payload => envelope.sealed[at] ^= 1 << bit,
        at => envelope.packets[0].1[at - payload] ^= 1 << bit,
    }
    envelope
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn c1_everything_delivered_opens_exactly_once(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.check_bounds();
        world.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn c1_losses_up_to_the_window_are_bridged(gaps in prop::collection::vec(1usize..400, 1..5)) {
        let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
        let mut sent = 0;
        for gap in gaps {
            if sent + gap > 999 {
                break;
            }
            sent += gap;
            let mut last = alice.send(&bob, b"x", NOW);
            let first = last.clone();
            for _ in 1..gap {
                last = alice.send(&bob, b"x", NOW);
            }
            prop_assert!(bob.take(&last, NOW).is_ok());
            prop_assert_eq!(bob.take(&first, NOW).is_ok(), gap > 1);
            prop_assert!(bob.take(&last, NOW).is_err());
        }
    }
}

proptest! {
    #[test]
    fn i_no_parser_of_packets_or_state_panics(noise in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = Packet::parse(&noise);
        prop_assert!(Session::from_bytes(&noise).is_err());
        prop_assert!(SkippedKey::from_bytes(&noise).is_err());
        let peer = Node::new(1, 1).peer();
        prop_assert!(Sessions::restore(peer, Some(&noise), Vec::new()).is_err());
        prop_assert!(nexo_cli::e2ee::resend::KeptMessage::from_bytes(&noise).is_err());
    }
}

#[test]
fn i_damaged_state_is_refused_or_stays_canonical() {
    let (alice, bob) = acquainted();
    for (node, other) in [(&alice, &bob), (&bob, &alice)] {
        let good = node.sessions_with(other).held()[0].to_bytes();
        let mut refused = 0;
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff, good[at] ^ 1] {
                let mut bytes = good.clone();
                bytes[at] = value;
                match Session::from_bytes(&bytes) {
                    Ok(read) => assert_eq!(read.to_bytes(), bytes),
                    Err(_) => refused += 1,
                }
            }
        }
        // At least the label and the lengths.
        assert!(refused > 200, "{refused}");
    }
}
