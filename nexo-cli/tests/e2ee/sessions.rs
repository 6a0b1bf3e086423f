//! Attacks on messages in sessions (B, C, D of design/e2ee.md 4).

use crate::fixture::{NOW, small_order_keys};
use crate::node::{Envelope, Node, Refused};
use nexo_cli::e2ee::chain::CHAIN_CAP;
use nexo_cli::e2ee::fanout::PacketRefused as NoPacket;
use nexo_cli::e2ee::packet::PacketRefused;
use nexo_cli::e2ee::ratchet::PlaceRefused;
use nexo_cli::e2ee::session::InitiateRefused;
use nexo_cli::e2ee::session_packet::{TYPE_PREKEY, TYPE_RATCHET};
use nexo_cli::e2ee::skipped::SKIPPED_TTL;
use nexo_cli::e2ee::{
    ArrivalRefused, FanoutRefused, MessageId, Nature, OnReset, Party, Purpose, Session,
    SessionEvent, nx_seal,
};
use std::time::Duration;

pub(crate) const REPLAY: Refused =
    Refused::Arrival(ArrivalRefused::Place(PlaceRefused::ReplayOrExpired));
pub(crate) const BROKEN: Refused = Refused::Arrival(ArrivalRefused::Broken);

/// Alice and Bob, who have answered each other.
pub(crate) fn acquainted() -> (Node, Node) {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let hello = alice.send(&bob, b"hello", NOW);
    bob.take(&hello, NOW).unwrap();
    let answer = bob.send(&alice, b"hello yourself", NOW);
    alice.take(&answer, NOW).unwrap();
    (alice, bob)
}

#[test]
fn a_message_opens_on_all_devices_and_the_handshake_ends_with_the_first_answer() {
    let (mut alice, mut bob, mut own) = (Node::new(1, 1), Node::new(2, 2), Node::new(1, 3));
    let prekey = bob.one_time(7);
    let (first, _) = alice.send_all(&[(&bob, Some(&prekey)), (&own, None)], b"one", NOW);
    assert_eq!(bob.take(&first, NOW).unwrap().event, Some(SessionEvent::Established));
    assert_eq!(own.take(&first, NOW).unwrap().body, b"one");
    assert!(bob.kept.one_time.is_empty(), "a used one-time prekey is gone");
    let mut second = alice.send(&bob, b"two", NOW);
    assert_eq!(second.kind(), TYPE_PREKEY);
    let got = bob.take(&second, NOW).unwrap();
    assert_eq!((&got.body[..], got.event, got.envelope), (&b"two"[..], None, second.hash));
    let answer = bob.send(&alice, b"three", NOW);
    assert_eq!((answer.kind(), answer.packets[0].1.len()), (TYPE_RATCHET, 170));
    assert_eq!(alice.take(&answer, NOW).unwrap().body, b"three");
    let third = alice.send(&bob, b"four", NOW);
    assert_eq!(third.kind(), TYPE_RATCHET);
    assert_eq!(bob.take(&third, NOW).unwrap().body, b"four");
    // The payload reveals sizes in steps only.
    assert_eq!(second.sealed.len(), third.sealed.len());
    assert_eq!(second.packet_for(bob.id()).len(), 1_299);
}

#[test]
fn b1_b3_a_message_posed_as_somebody_elses_or_for_another_device_does_not_open() {
    let (mut alice, mut bob, mut carol) = (Node::new(1, 1), Node::new(2, 2), Node::new(3, 3));
    let first = alice.send(&bob, b"hi", NOW);
    let (alices, carols) = (first.sender, carol.device.local().party());
    for sender in [
        carols,
        Party { account: carols.account, ..alices },
        Party { account: alices.account, ..carols },
    ] {
        assert_eq!(bob.refuses(&Envelope { sender, ..first.clone() }, NOW), BROKEN);
    }
    let mut moved = first.clone();
    moved.packets[0].0 = carol.id();
    let other = ArrivalRefused::OtherPrekey { named: bob.device.fallback.id() };
    assert_eq!(carol.refuses(&moved, NOW), Refused::Arrival(other));
    bob.take(&first, NOW).unwrap();
    // In a session: it is looked for among those with the alleged sender.
    let second = alice.send(&bob, b"hi", NOW);
    let posed = Envelope { sender: carols, ..second.clone() };
    let replayed = Refused::Arrival(ArrivalRefused::HandshakeReplayed);
    assert_eq!(bob.refuses(&posed, NOW), replayed);
    let answer = bob.send(&alice, b"hi", NOW);
    let posed = Envelope { sender: carols, ..answer.clone() };
    let unknown = ArrivalRefused::UnknownSession(answer.place().0);
    assert_eq!(alice.refuses(&posed, NOW), Refused::Arrival(unknown));
    // Bob's own message, sent back to him.
    let mut reflected = answer;
    reflected.packets[0].0 = bob.id();
    reflected.sender = alices;
    assert!(matches!(bob.refuses(&reflected, NOW), Refused::Arrival(_)));
    bob.take(&second, NOW).unwrap();
}

#[test]
fn b4_adding_or_removing_the_one_time_prekey_breaks_it() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let prekey = bob.one_time(7);
    bob.one_time(8);
    let (with, _) = alice.send_all(&[(&bob, Some(&prekey))], b"hi", NOW);
    let mut without = with.clone();
    without.packet_for(bob.id())[94..99].fill(0);
    assert_eq!(bob.refuses(&without, NOW), BROKEN);
    let mut other = with.clone();
    other.packet_for(bob.id())[98] = 8;
    assert_eq!(bob.refuses(&other, NOW), BROKEN);
    let mut half = with.clone();
    half.packet_for(bob.id())[94] = 0;
    let inconsistent = Refused::Packet(PacketRefused::PrekeyBlock);
    assert_eq!(bob.refuses(&half, NOW), inconsistent);
    let mut carol = Node::new(3, 3);
    let mut plain = carol.send(&bob, b"hi", NOW);
    plain.packet_for(bob.id())[94..99].copy_from_slice(&[1, 0, 0, 0, 8]);
    assert_eq!(bob.refuses(&plain, NOW), BROKEN);
    assert_eq!(bob.kept.one_time.len(), 2);
    bob.take(&with, NOW).unwrap();
}

#[test]
fn b7_b12_a_handshake_without_its_kem_half_is_refused() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let first = alice.send(&bob, b"hi", NOW);
    let mut zeroed = first.clone();
    zeroed.packet_for(bob.id())[99..1_187].fill(0);
    assert_eq!(bob.refuses(&zeroed, NOW), BROKEN);
    let mut stripped = first.clone();
    stripped.packet_for(bob.id()).drain(99..1_187);
    assert!(matches!(bob.refuses(&stripped, NOW), Refused::Packet(PacketRefused::Length(211))));
    // As a message of a session there is none of.
    let mut bare = first.clone();
    bare.packet_for(bob.id()).drain(58..1_187);
    bare.packet_for(bob.id())[1] = TYPE_RATCHET;
    let unknown = ArrivalRefused::UnknownSession(first.place().0);
    assert_eq!(bob.refuses(&bare, NOW), Refused::Arrival(unknown));
    let mut suite = first.clone();
    suite.packet_for(bob.id())[0] = 2;
    assert_eq!(bob.refuses(&suite, NOW), Refused::Packet(PacketRefused::Suite(2)));
    bob.take(&first, NOW).unwrap();
}

#[test]
fn b8_a_one_time_prekey_serves_one_sender() {
    let (mut alice, mut bob, mut carol) = (Node::new(1, 1), Node::new(2, 2), Node::new(3, 3));
    let prekey = bob.one_time(7);
    let (hers, _) = alice.send_all(&[(&bob, Some(&prekey))], b"alice", NOW);
    let (his, _) = carol.send_all(&[(&bob, Some(&prekey))], b"carol", NOW);
    bob.take(&hers, NOW).unwrap();
    let reused = ArrivalRefused::PrekeyReused { named: 7 };
    assert_eq!(bob.refuses(&his, NOW), Refused::Arrival(reused));
    // The first session is none the worse.
    let more = alice.send(&bob, b"more", NOW);
    assert_eq!(bob.take(&more, NOW).unwrap().body, b"more");
}

#[test]
fn b9_a_first_message_that_does_not_open_uses_nothing_up() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let prekey = bob.one_time(7);
    let (first, _) = alice.send_all(&[(&bob, Some(&prekey))], b"hi", NOW);
    let mut broken = first.clone();
    *broken.packet_for(bob.id()).last_mut().unwrap() ^= 1;
    assert_eq!(bob.refuses(&broken, NOW), BROKEN);
    let mut broken = first.clone();
    broken.sealed[100] ^= 1;
    assert_eq!(bob.refuses(&broken, NOW), BROKEN);
    assert!(bob.kept.one_time.contains(&7));
    bob.take(&first, NOW).unwrap();
    assert!(bob.kept.one_time.is_empty());
}

#[test]
fn b10_a_first_message_that_comes_again_is_a_duplicate_or_refused() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let first = alice.send(&bob, b"hi", NOW);
    bob.take(&first, NOW).unwrap();
    // Every message is opened from stored bytes: a restart makes no difference.
    assert_eq!(bob.refuses(&first, NOW), REPLAY);
    let answer = bob.send(&alice, b"hi", NOW);
    alice.take(&answer, NOW).unwrap();
    let next = alice.send(&bob, b"again", NOW);
    bob.take(&next, NOW).unwrap();
    assert_eq!(bob.refuses(&first, NOW), REPLAY);
    // The sessions are forgotten, the table of handshakes is not.
    let forgotten = bob.sessions_with(&alice).forgotten();
    bob.store(alice.peer(), &forgotten);
    assert!(bob.sessions_with(&alice).held().is_empty());
    let replayed = Refused::Arrival(ArrivalRefused::HandshakeReplayed);
    assert_eq!(bob.refuses(&first, NOW), replayed);
    let unknown = ArrivalRefused::UnknownSession(first.place().0);
    assert_eq!(bob.refuses(&next, NOW), Refused::Arrival(unknown));
}

#[test]
fn b14_own_devices_have_sessions_and_no_device_has_one_with_itself() {
    let (mut alice, mut phone) = (Node::new(1, 1), Node::new(1, 3));
    let note = alice.send(&phone, b"note", NOW);
    assert_eq!(phone.take(&note, NOW).unwrap().body, b"note");
    let twin = Node::new(1, 1);
    let refused = alice.seal(&[(&twin, None)], b"me", NOW).map(|_| ()).unwrap_err();
    let reason = NoPacket::Initiate(InitiateRefused::WithSelf);
    assert_eq!(refused, FanoutRefused::Packet { device: alice.id(), reason });
    // A message that claims to come from this very device.
    let mut posed = Node::new(1, 5).send(&alice, b"me", NOW);
    posed.sender = alice.device.local().party();
    assert_eq!(alice.refuses(&posed, NOW), Refused::Arrival(ArrivalRefused::WithSelf));
}

#[test]
fn a1_keys_of_small_order_are_refused() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let first = alice.send(&bob, b"hi", NOW);
    // As the ratchet key of a first message, and as its ephemeral key.
    for key in small_order_keys() {
        for at in [18, 58] {
            let mut low = first.clone();
            low.packet_for(bob.id())[at..at + 32].copy_from_slice(&key);
            let refused = bob.refuses(&low, NOW);
            assert_eq!(refused, Refused::Arrival(ArrivalRefused::NonContributory));
        }
    }
    bob.take(&first, NOW).unwrap();
    let mut answer = bob.send(&alice, b"hi", NOW);
    for key in small_order_keys() {
        answer.packet_for(alice.id())[18..50].copy_from_slice(&key);
        let low = ArrivalRefused::Place(PlaceRefused::NonContributory);
        assert_eq!(alice.refuses(&answer, NOW), Refused::Arrival(low));
    }
}

#[test]
fn a11_a_wrong_ciphertext_looks_like_a_wrong_tag() {
    let (mut alice, mut bob, carol) = (Node::new(1, 1), Node::new(2, 2), Node::new(3, 3));
    let first = alice.send(&bob, b"hi", NOW);
    let mut torn = first.clone();
    *torn.packet_for(bob.id()).last_mut().unwrap() ^= 1;
    assert_eq!(bob.refuses(&torn, NOW), BROKEN);
    // Implicit rejection: some secret comes out, and it opens nothing.
    for at in (99..1_187).step_by(64) {
        let mut bent = first.clone();
        bent.packet_for(bob.id())[at] ^= 1;
        assert_eq!(bob.refuses(&bent, NOW), BROKEN, "ciphertext byte {}", at - 99);
    }
    // One that is sound, but for another key.
    let mut hers = alice.send(&carol, b"hi", NOW);
    let mut moved = first.clone();
    let ciphertext = hers.packet_for(carol.id())[99..1_187].to_vec();
    moved.packet_for(bob.id())[99..1_187].copy_from_slice(&ciphertext);
    assert_eq!(bob.refuses(&moved, NOW), BROKEN);
    let (mut shorter, mut longer) = (first.clone(), first.clone());
    shorter.packet_for(bob.id()).remove(500);
    longer.packet_for(bob.id()).insert(500, 0);
    for (wrong, length) in [(shorter, 1_298), (longer, 1_300)] {
        let refused = Refused::Packet(PacketRefused::Length(length));
        assert_eq!(bob.refuses(&wrong, NOW), refused);
    }
    bob.take(&first, NOW).unwrap();
}

#[test]
fn c2_the_first_message_may_be_the_last_of_its_chain() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let mut last = alice.send(&bob, b"0", NOW);
    let first = last.clone();
    for _ in 1..CHAIN_CAP {
        last = alice.send(&bob, b"n", NOW);
    }
    assert_eq!(last.place().2, 999);
    let mut beyond = last.clone();
    beyond.packet_for(bob.id())[54..58].copy_from_slice(&1_000u32.to_be_bytes());
    assert_eq!(bob.refuses(&beyond, NOW), Refused::Packet(PacketRefused::Counters));
    bob.take(&last, NOW).unwrap();
    assert_eq!(bob.skipped(alice.id(), last.place().0).len(), 999);
    assert_eq!(bob.take(&first, NOW).unwrap().body, b"0");
    // An answer with a PN that no chain can have, and one that it can.
    let mut answer = bob.send(&alice, b"hi", NOW);
    for (previous, refused) in [
        (1_001u32, Refused::Packet(PacketRefused::Counters)),
        (1_000, Refused::Arrival(ArrivalRefused::Place(PlaceRefused::Counters))),
    ] {
        answer.packet_for(alice.id())[50..54].copy_from_slice(&previous.to_be_bytes());
        assert_eq!(alice.refuses(&answer, NOW), refused);
    }
}

#[test]
fn c3_a_forged_pn_changes_nothing() {
    let (mut alice, mut bob) = acquainted();
    for _ in 0..3 {
        let message = alice.send(&bob, b"a", NOW);
        bob.take(&message, NOW).unwrap();
    }
    alice.send(&bob, b"lost", NOW);
    let answer = bob.send(&alice, b"b", NOW);
    alice.take(&answer, NOW).unwrap();
    // Its PN is 4: three that came, and one that was lost.
    let honest = alice.send(&bob, b"next chain", NOW);
    let counters = Refused::Arrival(ArrivalRefused::Place(PlaceRefused::Counters));
    for forged in [0u32, 1, 2, 3, 4, 6, 7, 999, CHAIN_CAP, CHAIN_CAP + 1, u32::MAX] {
        let mut bent = honest.clone();
        let field = &mut bent.packet_for(bob.id())[50..54];
        if *field == forged.to_be_bytes() {
            continue;
        }
        field.copy_from_slice(&forged.to_be_bytes());
        let refused = bob.refuses(&bent, NOW);
        let malformed = refused == Refused::Packet(PacketRefused::Counters);
        assert_eq!(malformed, forged > CHAIN_CAP, "PN {forged}: {refused:?}");
        assert!(malformed || refused == BROKEN || refused == counters, "PN {forged}: {refused:?}");
    }
    bob.take(&honest, NOW).unwrap();
}

/// How many forged headers are made; unoptimised code is given fewer.
const FORGED: u32 = if cfg!(debug_assertions) { 1_000 } else { 10_000 };

#[test]
fn c5_ten_thousand_forged_headers_cost_seconds() {
    let (mut alice, mut bob) = acquainted();
    // Bob has spoken last, so a new ratchet key makes him agree and derive.
    let spoken = bob.send(&alice, b"b", NOW);
    let honest = alice.send(&bob, b"a", NOW);
    let before = bob.kept.clone();
    let began = cpu_time();
    for n in 0..FORGED {
        let mut forged = honest.clone();
        let header = forged.packet_for(bob.id());
        let known = n % 4 == 0;
        if !known {
            let key = nexo_cli::e2ee::keys::DhSecret::from_bytes(
                [n.to_be_bytes(); 8].concat().try_into().unwrap(),
            );
            header[18..50].copy_from_slice(key.public().as_bytes());
        }
        header[50..54].copy_from_slice(&(n * 7 % (CHAIN_CAP + 1)).to_be_bytes());
        header[54..58].copy_from_slice(&(n * 13 % CHAIN_CAP).to_be_bytes());
        assert!(matches!(bob.take(&forged, NOW), Err(Refused::Arrival(_))), "header {n}");
    }
    let spent = cpu_time() - began;
    assert!(bob.kept == before);
    assert!(spent < Duration::from_secs(10), "{spent:?} for {FORGED} headers");
    println!("{FORGED} forged headers: {spent:?}");
    bob.take(&honest, NOW).unwrap();
    alice.take(&spoken, NOW).unwrap();
}

/// CPU time of this thread: what others do on the machine does not count.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn c4_skipped_keys_are_kept_for_thirty_days() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let early = alice.send(&bob, b"early", NOW);
    let late = alice.send(&bob, b"late", NOW);
    let next = alice.send(&bob, b"next", NOW);
    bob.take(&next, NOW).unwrap();
    let session = next.place().0;
    assert_eq!(bob.skipped(alice.id(), session).len(), 2);
    assert_eq!(bob.take(&early, NOW + SKIPPED_TTL - 1).unwrap().body, b"early");
    assert_eq!(bob.refuses(&late, NOW + SKIPPED_TTL), REPLAY);
    // The next message that opens takes the rest away.
    let another = alice.send(&bob, b"another", NOW);
    bob.take(&another, NOW + SKIPPED_TTL).unwrap();
    assert!(bob.skipped(alice.id(), session).is_empty());
}

#[test]
fn c6_every_byte_of_payload_and_packet_counts_and_changes_nothing() {
    let (mut alice, mut bob) = (Node::new(1, 1), Node::new(2, 2));
    let prekey = bob.one_time(7);
    let (first, _) = alice.send_all(&[(&bob, Some(&prekey))], b"hi", NOW);
    every_byte_counts(&mut bob, &first);
    bob.take(&first, NOW).unwrap();
    let answer = bob.send(&alice, b"hi", NOW);
    every_byte_counts(&mut alice, &answer);
    alice.take(&answer, NOW).unwrap();
    alice.send(&bob, b"lost", NOW);
    let third = alice.send(&bob, b"hi", NOW);
    every_byte_counts(&mut bob, &third);
    bob.take(&third, NOW).unwrap();
}

fn every_byte_counts(node: &mut Node, honest: &Envelope) {
    // A whole handshake is computed for each byte of a first message: some stand for
    // the rest of the payload and of the KEM ciphertext there.
    let first = honest.kind() == TYPE_PREKEY;
    for at in (0..honest.sealed.len()).step_by(if first { 9 } else { 1 }) {
        let mut changed = honest.clone();
        changed.sealed[at] ^= 0x10;
        assert_eq!(node.refuses(&changed, NOW), BROKEN, "payload byte {at}");
    }
    let every = |at: &usize| !first || !(99..1_187).contains(at) || at.is_multiple_of(32);
    for at in (0..honest.packets[0].1.len()).filter(every) {
        let mut changed = honest.clone();
        changed.packets[0].1[at] ^= 0x10;
        let refused = node.refuses(&changed, NOW);
        // The header says what is looked for; behind it there is one reason.
        let behind = at >= if first { 99 } else { 58 };
        assert!(!behind || refused == BROKEN, "packet byte {at}: {refused:?}");
    }
    let renamed = MessageId::from_bytes([7; 16]);
    assert_eq!(node.refuses(&Envelope { message: renamed, ..honest.clone() }, NOW), BROKEN);
    let conversation = nexo_cli::e2ee::ConversationId::from_bytes([9; 32]);
    assert_eq!(node.refuses(&Envelope { conversation, ..honest.clone() }, NOW), BROKEN);
}

#[test]
fn c7_a_message_of_a_retired_chain_is_a_replay() {
    let (mut alice, mut bob) = acquainted();
    let old = alice.send(&bob, b"old", NOW);
    bob.take(&old, NOW).unwrap();
    for _ in 0..3 {
        let answer = bob.send(&alice, b"b", NOW);
        alice.take(&answer, NOW).unwrap();
        let next = alice.send(&bob, b"a", NOW);
        bob.take(&next, NOW).unwrap();
    }
    assert_eq!(bob.refuses(&old, NOW), REPLAY);
}

#[test]
fn c8_c9_a_stolen_state_reads_neither_the_past_nor_what_comes_after_an_answer() {
    let (mut alice, mut bob) = acquainted();
    let past = alice.send(&bob, b"past", NOW);
    bob.take(&past, NOW).unwrap();
    let mut thief = bob.copy(1);
    assert_eq!(thief.refuses(&past, NOW), REPLAY);
    let answer = bob.send(&alice, b"healing", NOW);
    alice.take(&answer, NOW).unwrap();
    let future = alice.send(&bob, b"future", NOW);
    let out_of_step = ArrivalRefused::Place(PlaceRefused::OutOfStep);
    assert_eq!(thief.refuses(&future, NOW), Refused::Arrival(out_of_step));
    bob.take(&future, NOW).unwrap();
}

#[test]
fn d2_a_co_recipient_cannot_replace_the_payload() {
    let (mut alice, mut bob, mut mallory) = (Node::new(1, 1), Node::new(2, 2), Node::new(3, 3));
    let (honest, _) = alice.send_all(&[(&bob, None), (&mallory, None)], b"pay 1", NOW);
    assert_eq!(mallory.take(&honest, NOW).unwrap().body, b"pay 1");
    // She knows the content key (its bytes do not matter here: no key opens it).
    let aad = nexo_cli::e2ee::MessageContext {
        origin: crate::fixture::ORIGIN,
        conversation: honest.conversation,
        message: honest.message,
        sender: honest.sender,
    }
    .payload_aad();
    let padded = nexo_cli::e2ee::padding::pad(b"pay 9").unwrap();
    let sealed = nx_seal(&[7; 32], Purpose::Payload, &aad, &padded, &[8; 32]);
    assert_eq!(bob.refuses(&Envelope { sealed, ..honest.clone() }, NOW), BROKEN);
    assert_eq!(bob.take(&honest, NOW).unwrap().body, b"pay 1");
}

#[test]
fn d3_parts_of_two_messages_do_not_mix() {
    let (mut alice, mut bob) = acquainted();
    let (one, two) = (alice.send(&bob, b"one", NOW), alice.send(&bob, b"two", NOW));
    for mixed in [
        Envelope { sealed: two.sealed.clone(), ..one.clone() },
        Envelope { packets: two.packets.clone(), ..one.clone() },
        Envelope { message: two.message, ..one.clone() },
    ] {
        assert_eq!(bob.refuses(&mixed, NOW), BROKEN);
    }
    // A header of one in front of the sealed key of the other.
    let mut spliced = one.clone();
    let tail = two.packets[0].1[58..].to_vec();
    spliced.packet_for(bob.id()).splice(58.., tail);
    assert_eq!(bob.refuses(&spliced, NOW), BROKEN);
    bob.take(&two, NOW).unwrap();
    bob.take(&one, NOW).unwrap();
}

#[test]
fn d4_h4_two_messages_of_a_state_that_was_rolled_back_share_no_key_stream() {
    let (mut alice, bob) = acquainted();
    let mut bob = bob;
    let copy = alice.kept.clone();
    let one = alice.send(&bob, b"attack at dawn", NOW);
    alice.kept = copy;
    let two = alice.send(&bob, b"attack at dusk", NOW);
    // The same place in the same session, so the same message key.
    assert_eq!(one.place().0, two.place().0);
    assert_eq!(one.place().2, two.place().2);
    let (one_key, two_key) = (&one.packets[0].1[58..], &two.packets[0].1[58..]);
    let equal = one_key.iter().zip(two_key).filter(|(a, b)| a == b).count();
    assert!(equal < 8, "{equal} of 112 bytes agree");
    bob.take(&one, NOW).unwrap();
    assert!(matches!(bob.refuses(&two, NOW), Refused::Arrival(_)));
}

#[test]
fn d6_a_changed_recipient_list_changes_the_entry() {
    let (mut alice, mut bob, carol) = (Node::new(1, 1), Node::new(2, 2), Node::new(3, 3));
    let (sent, _) = alice.send_all(&[(&bob, None), (&carol, None)], b"hi", NOW);
    let before = bob.kept.clone();
    assert_eq!(bob.take(&sent, NOW).unwrap().envelope, sent.hash);
    bob.kept = before;
    let mut hidden = sent.clone();
    hidden.packets.retain(|(device, _)| *device == bob.id());
    assert_ne!(bob.take(&hidden, NOW).unwrap().envelope, sent.hash);
}

#[test]
fn one_device_that_cannot_be_written_to_stops_the_message() {
    let (mut alice, bob) = acquainted();
    let before = alice.kept.clone();
    let twin = Node::new(1, 1);
    assert!(alice.seal(&[(&bob, None), (&twin, None)], b"hi", NOW).is_err());
    assert!(alice.seal(&[(&bob, None), (&bob, None)], b"hi", NOW).is_err());
    assert!(alice.seal(&[], b"hi", NOW).is_err());
    assert!(alice.seal(&[(&bob, None)], &vec![0; 70_000], NOW).is_err());
    assert!(before == alice.kept);
}

#[test]
fn what_is_not_settled_has_not_happened() {
    let (mut alice, mut bob) = acquainted();
    let message = alice.send(&bob, b"hi", NOW);
    // Opened, and then the body is no use or the transaction fails.
    let before = bob.kept.clone();
    bob.take_as(&message, Nature::Content, OnReset::Accept, NOW).unwrap();
    bob.kept = before;
    assert_eq!(bob.take(&message, NOW).unwrap().body, b"hi");
}

#[test]
fn stored_sessions_come_back_byte_for_byte_and_nothing_else_does() {
    let (mut alice, mut bob) = acquainted();
    alice.send(&bob, b"x", NOW);
    let first = Node::new(5, 5).send(&bob, b"y", NOW);
    bob.take(&first, NOW).unwrap();
    for node in [&alice, &bob] {
        for session in [alice.peer(), bob.peer()].map(|peer| node.sessions(peer)) {
            for session in session.held() {
                let bytes = session.to_bytes();
                let again = Session::from_bytes(&bytes).unwrap();
                assert_eq!(again.to_bytes(), bytes);
                assert_eq!((again.id(), again.peer()), (session.id(), session.peer()));
                for cut in 0..bytes.len() {
                    assert!(Session::from_bytes(&bytes[..cut]).is_err());
                }
                assert!(Session::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
            }
        }
    }
}
