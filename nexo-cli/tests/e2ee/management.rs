//! Which session is used, when another one is due, and what is sent again
//! (design/e2ee.md 2.14).

use crate::fixture::NOW;
use crate::node::{Node, Refused};
use crate::sessions::{REPLAY, acquainted};
use nexo_cli::e2ee::resend::{KEPT_FOR, KeptMessage, MAX_RETRIES, ResendRefused, next_ask};
use nexo_cli::e2ee::session_packet::{TYPE_PREKEY, TYPE_RATCHET};
use nexo_cli::e2ee::sessions::{
    HEARTBEAT_AFTER, HEARTBEAT_AT, MAX_UNANSWERED, RECEIVE_ONLY_TTL, RESET_PERIOD, ResetRefused,
};
use nexo_cli::e2ee::{
    ArrivalRefused, HandshakeDue, Nature, OnReset, SessionEvent, SessionId, Sessions,
};

const DAY: u64 = 86_400;

fn active(node: &Node, other: &Node) -> SessionId {
    node.sessions_with(other).active().unwrap().id()
}

/// One message each way; both are opened.
fn exchange(one: &mut Node, other: &mut Node, now: u64) {
    let there = one.send(other, b"there", now);
    other.take(&there, now).unwrap();
    let back = other.send(one, b"back", now);
    one.take(&back, now).unwrap();
}

/// Gives up the session in use, so that the next message starts another one.
fn give_up(node: &mut Node, other: &Node, now: u64) {
    let sessions = node.sessions_with(other);
    let after = sessions.give_up(sessions.active().unwrap().id(), now);
    assert_eq!(after.handshake_due(now), Some(HandshakeDue::GivenUp));
    node.store(other.peer(), &after);
}

#[test]
fn b11_two_that_begin_at_once_converge_with_the_first_message_of_each() {
    for (a, b) in [(1, 2), (3, 4), (5, 6), (7, 8)] {
        let (mut alice, mut bob) = (Node::new(1, a), Node::new(2, b));
        let (hers, his) = (alice.send(&bob, b"a", NOW), bob.send(&alice, b"b", NOW));
        let (hers2, his2) = (alice.send(&bob, b"a2", NOW), bob.send(&alice, b"b2", NOW));
        let established = Some(SessionEvent::Established);
        assert_eq!(bob.take(&hers, NOW).unwrap().event, established);
        assert_eq!(alice.take(&his, NOW).unwrap().event, established);
        let winner = hers.place().0.min(his.place().0);
        assert_eq!((active(&alice, &bob), active(&bob, &alice)), (winner, winner));
        // What is still under way on the other one opens and changes nothing.
        bob.take(&hers2, NOW).unwrap();
        alice.take(&his2, NOW).unwrap();
        exchange(&mut alice, &mut bob, NOW);
        exchange(&mut bob, &mut alice, NOW);
        assert_eq!((active(&alice, &bob), active(&bob, &alice)), (winner, winner));
        assert_eq!(alice.send(&bob, b"c", NOW).kind(), TYPE_RATCHET);
    }
}

#[test]
fn b11_two_that_replace_a_session_at_once_converge() {
    for (a, b) in [(1, 2), (3, 4), (5, 6), (7, 8)] {
        let (mut alice, mut bob) = (Node::new(1, a), Node::new(2, b));
        exchange(&mut alice, &mut bob, NOW);
        let old = active(&alice, &bob);
        // Neither has heard the other for two weeks.
        exchange(&mut alice, &mut bob, NOW);
        alice.send(&bob, b"lost", NOW);
        let later = NOW + MAX_UNANSWERED;
        let last = bob.send(&alice, b"lost too", NOW);
        assert_eq!(last.place().0, old);
        let (hers, his) = (alice.send(&bob, b"a", later), bob.send(&alice, b"b", later));
        let rotated = Some(SessionEvent::Rotated { replaced: old });
        assert_eq!(bob.take(&hers, later).unwrap().event, rotated);
        assert_eq!(alice.take(&his, later).unwrap().event, rotated);
        let winner = hers.place().0.min(his.place().0);
        assert_eq!((active(&alice, &bob), active(&bob, &alice)), (winner, winner));
    }
}

#[test]
fn c10_a_heartbeat_is_due_and_heals_one_who_only_sends() {
    let (mut alice, mut bob) = acquainted();
    let mut last = None;
    for n in 0..=HEARTBEAT_AT {
        assert!(!bob.sessions_with(&alice).heartbeat_due(NOW), "before message {n}");
        let message = alice.send(&bob, b"log line", NOW);
        bob.take(&message, NOW).unwrap();
        last = Some(message);
    }
    assert_eq!(last.as_ref().map(|message| message.place().2), Some(HEARTBEAT_AT));
    assert!(bob.sessions_with(&alice).heartbeat_due(NOW));
    let heartbeat = bob.send(&alice, b"hb", NOW);
    assert!(!bob.sessions_with(&alice).heartbeat_due(NOW + 30 * DAY));
    // It triggers none, however late it is looked at, and it heals.
    alice.take_as(&heartbeat, Nature::Control, OnReset::Accept, NOW).unwrap();
    assert!(!alice.sessions_with(&bob).heartbeat_due(NOW + 30 * DAY));
    let next = alice.send(&bob, b"log line", NOW);
    assert_eq!(next.place().2, 0);
    assert_ne!(next.place().1, last.unwrap().place().1);
    bob.take(&next, NOW).unwrap();
}

#[test]
fn c10_content_that_has_waited_a_day_is_answered_and_a_heartbeat_is_not() {
    let (mut alice, mut bob) = acquainted();
    let control = alice.send(&bob, b"hb", NOW);
    bob.take_as(&control, Nature::Control, OnReset::Accept, NOW).unwrap();
    assert!(!bob.sessions_with(&alice).heartbeat_due(NOW + 30 * DAY));
    let content = alice.send(&bob, b"text", NOW);
    bob.take(&content, NOW + 5).unwrap();
    let more = alice.send(&bob, b"text", NOW);
    bob.take(&more, NOW + 50).unwrap();
    let due = |at| bob.sessions_with(&alice).heartbeat_due(at);
    assert!(!due(NOW + 5 + HEARTBEAT_AFTER - 1));
    assert!(due(NOW + 5 + HEARTBEAT_AFTER));
    // Fifty heartbeats do not add up to content.
    bob.send(&alice, b"answer", NOW);
    let (mut alice, mut bob) = acquainted();
    for _ in 0..HEARTBEAT_AT + 5 {
        let control = alice.send(&bob, b"hb", NOW);
        bob.take_as(&control, Nature::Control, OnReset::Accept, NOW).unwrap();
    }
    assert!(!bob.sessions_with(&alice).heartbeat_due(NOW + 30 * DAY));
}

#[test]
fn c11_a_burst_to_somebody_offline_uses_several_sessions_and_is_read_later() {
    let (mut alice, mut bob) = acquainted();
    let old = active(&alice, &bob);
    let burst: Vec<_> = (0..5_000u32).map(|n| alice.send(&bob, &n.to_be_bytes(), NOW)).collect();
    assert_eq!(burst[999].place().0, old);
    let fresh = burst[1_000].place();
    assert_eq!((burst[1_000].kind(), fresh.2), (TYPE_PREKEY, 0));
    assert_ne!(fresh.0, old);
    assert!(alice.sessions_with(&bob).held().len() <= 4);
    for (n, message) in burst.iter().enumerate() {
        let got = bob.take(message, NOW + 20 * DAY).unwrap();
        assert_eq!(got.body, u32::try_from(n).unwrap().to_be_bytes());
        let begins = n > 0 && n % 1_000 == 0;
        let rotated = matches!(got.event, Some(SessionEvent::Rotated { .. }));
        assert_eq!((got.event.is_some(), rotated), (begins, begins), "message {n}");
    }
    assert!(bob.sessions_with(&alice).held().len() <= 4);
    assert_eq!(active(&alice, &bob), active(&bob, &alice));
    exchange(&mut bob, &mut alice, NOW + 20 * DAY);
}

#[test]
fn h14_a_clock_that_goes_back_a_year_loses_nothing() {
    let (mut alice, mut bob) = acquainted();
    let past = NOW - 365 * DAY;
    let (early, late) = (alice.send(&bob, b"early", NOW), alice.send(&bob, b"late", NOW));
    bob.take(&late, NOW).unwrap();
    let session = active(&bob, &alice);
    assert_eq!(bob.skipped(alice.id(), session).len(), 1);
    // The key that was passed over in the future still opens its message, once.
    assert_eq!(bob.take(&early, past).unwrap().body, b"early");
    assert_eq!(bob.refuses(&early, past), REPLAY);
    exchange(&mut bob, &mut alice, past);
    exchange(&mut alice, &mut bob, past);
    assert_eq!((active(&alice, &bob), active(&bob, &alice)), (session, session));
    assert_eq!(alice.sessions_with(&bob).handshake_due(past), None);
    assert!(!bob.sessions_with(&alice).heartbeat_due(past));
    // A reset before the time of the last one counts as every other.
    for (today, at) in [(1, NOW), (2, past)] {
        alice.store(bob.peer(), &Sessions::default());
        let anew = alice.send(&bob, b"again", at);
        let event = bob.take(&anew, at).unwrap().event;
        assert_eq!(event, Some(SessionEvent::Reset { today }));
    }
    exchange(&mut alice, &mut bob, past);
    // And when the clock is right again, it goes on.
    exchange(&mut bob, &mut alice, NOW + 1);
    assert_eq!(active(&alice, &bob), active(&bob, &alice));
}

#[test]
fn an_unanswered_session_is_replaced_after_two_weeks() {
    let (mut alice, mut bob) = acquainted();
    let at = NOW + 10;
    alice.send(&bob, b"x", at);
    alice.send(&bob, b"y", at + DAY);
    let due = |alice: &Node, bob: &Node, at| alice.sessions_with(bob).handshake_due(at);
    assert_eq!(due(&alice, &bob, at + MAX_UNANSWERED - 1), None);
    assert_eq!(due(&alice, &bob, at + MAX_UNANSWERED), Some(HandshakeDue::Unanswered));
    // An answer starts the time anew, with the next message of ours.
    let (mut carol, mut dave) = acquainted();
    let message = carol.send(&dave, b"x", at);
    dave.take(&message, at).unwrap();
    let answer = dave.send(&carol, b"y", at);
    carol.take(&answer, at).unwrap();
    assert_eq!(due(&carol, &dave, at + 100 * DAY), None);
    // And without any session at all.
    let due = Sessions::default().handshake_due(NOW);
    assert_eq!(due, Some(HandshakeDue::FirstContact));
    bob.send(&alice, b"unused", NOW);
}

#[test]
fn old_sessions_receive_for_a_week_and_are_not_used_again() {
    let (mut alice, mut bob) = acquainted();
    let old = active(&alice, &bob);
    // Alice starts another one; Bob's messages on the old one are still under way.
    let late: Vec<_> = (0..3).map(|_| bob.send(&alice, b"late", NOW)).collect();
    give_up(&mut alice, &bob, NOW);
    let fresh = alice.send(&bob, b"fresh", NOW);
    assert_ne!(active(&alice, &bob), old);
    alice.take(&late[0], NOW).unwrap();
    assert_ne!(active(&alice, &bob), old, "what opens on an old session does not revive it");
    alice.take(&late[1], NOW + RECEIVE_ONLY_TTL - 1).unwrap();
    let unknown = Refused::Arrival(ArrivalRefused::UnknownSession(old));
    assert_eq!(alice.refuses(&late[2], NOW + RECEIVE_ONLY_TTL), unknown);
    // It is removed with the next message, its skipped keys too.
    alice.send(&bob, b"x", NOW + RECEIVE_ONLY_TTL);
    assert_eq!(alice.sessions_with(&bob).held().len(), 1);
    bob.take(&fresh, NOW).unwrap();
    assert_eq!(bob.sessions_with(&alice).tidied(NOW + RECEIVE_ONLY_TTL).held().len(), 1);
}

#[test]
fn there_are_never_more_than_four_sessions() {
    let (mut alice, mut bob) = acquainted();
    for n in 0..8 {
        let now = NOW + n * DAY;
        give_up(&mut alice, &bob, now);
        let message = alice.send(&bob, b"again", now);
        bob.take(&message, now).unwrap();
        assert!(alice.sessions_with(&bob).held().len() <= 4);
        assert!(bob.sessions_with(&alice).held().len() <= 4);
        assert_eq!(active(&alice, &bob), active(&bob, &alice));
    }
}

#[test]
fn a_replacement_with_proof_is_silent_and_one_without_is_a_reset() {
    let (mut alice, mut bob) = acquainted();
    let old = active(&alice, &bob);
    for _ in 0..1_000 {
        alice.send(&bob, b"lost", NOW);
    }
    let due = alice.sessions_with(&bob).handshake_due(NOW);
    assert_eq!(due, Some(HandshakeDue::ChainFull));
    let rotation = alice.send(&bob, b"new session", NOW);
    assert_eq!(rotation.packets[0].1.len(), 1_331);
    let event = bob.take_as(&rotation, Nature::Content, OnReset::Refuse, NOW).unwrap().event;
    assert_eq!(event, Some(SessionEvent::Rotated { replaced: old }));
    // A proof of something else is none: the message opens, and is a reset.
    let mut stranger = alice.copy(1);
    stranger.store(bob.peer(), &stranger.sessions_with(&bob).forgotten());
    let reset = stranger.send(&bob, b"who am I", NOW);
    assert_eq!(reset.packets[0].1.len(), 1_299);
    let by_policy = ArrivalRefused::Reset(ResetRefused::ByPolicy);
    let before = bob.kept.clone();
    let refused = bob.take_as(&reset, Nature::Content, OnReset::Refuse, NOW).unwrap_err();
    assert_eq!(refused, Refused::Arrival(by_policy));
    assert!(before == bob.kept);
    let event = bob.take(&reset, NOW).unwrap().event;
    assert_eq!(event, Some(SessionEvent::Reset { today: 1 }));
    assert_eq!(active(&bob, &alice), reset.place().0);
}

#[test]
fn three_resets_a_day_are_all() {
    let (mut alice, mut bob) = acquainted();
    let reset = |alice: &mut Node, bob: &Node, now| {
        alice.store(bob.peer(), &Sessions::default());
        alice.send(bob, b"reset", now)
    };
    for today in 1..=3 {
        let now = NOW + u64::try_from(today).unwrap() * 100;
        let message = reset(&mut alice, &bob, now);
        let event = bob.take(&message, now).unwrap().event;
        assert_eq!(event, Some(SessionEvent::Reset { today }));
        // A rotation in between is not counted.
        give_up(&mut bob, &alice, now);
    }
    let message = reset(&mut alice, &bob, NOW + 400);
    let too_many = Refused::Arrival(ArrivalRefused::Reset(ResetRefused::TooMany));
    assert_eq!(bob.refuses(&message, NOW + 400), too_many);
    // A day after the first one there is room again.
    assert_eq!(bob.refuses(&message, NOW + 100 + RESET_PERIOD - 1), too_many);
    let event = bob.take(&message, NOW + 100 + RESET_PERIOD).unwrap().event;
    assert_eq!(event, Some(SessionEvent::Reset { today: 3 }));
}

#[test]
fn a_peer_that_lost_its_state_is_heard_at_once() {
    let (mut alice, mut bob) = acquainted();
    // Alice goes on; Bob restores an export, which has no session.
    let lost = alice.send(&bob, b"lost", NOW);
    bob.store(alice.peer(), &Sessions::default());
    let unknown = Refused::Arrival(ArrivalRefused::UnknownSession(lost.place().0));
    assert_eq!(bob.refuses(&lost, NOW), unknown);
    let fresh = bob.send(&alice, b"I lost my state", NOW);
    let event = alice.take(&fresh, NOW).unwrap().event;
    assert_eq!(event, Some(SessionEvent::Reset { today: 1 }));
    assert_eq!(active(&alice, &bob), fresh.place().0);
    exchange(&mut alice, &mut bob, NOW);
}

#[test]
fn a_retry_brings_the_same_message_to_the_device_that_missed_it() {
    let (mut alice, mut bob) = acquainted();
    let mut phone = Node::new(2, 4);
    let (mut missed, kept) = alice.send_all(&[(&bob, None), (&phone, None)], b"missed", NOW);
    phone.take(&missed, NOW).unwrap();
    let session = missed.clone().packet_for(bob.id())[2..18].to_vec();
    bob.store(alice.peer(), &Sessions::default());
    assert!(matches!(
        bob.refuses(&missed, NOW),
        Refused::Arrival(ArrivalRefused::UnknownSession(_))
    ));
    // Bob's request comes on a session of his; Alice gives the dead one up.
    let request = bob.send(&alice, b"ctl/retry", NOW);
    alice.take_as(&request, Nature::Control, OnReset::Accept, NOW).unwrap();
    let dead = SessionId::from_bytes(session.try_into().unwrap());
    alice.store(bob.peer(), &alice.sessions_with(&bob).give_up(dead, NOW));
    let kept = KeptMessage::from_bytes(&kept.to_bytes()).unwrap();
    let before = missed.hash;
    let kept = alice.resend(&kept, &bob, &mut missed, NOW + 5).unwrap();
    let got = bob.take(&missed, NOW + 5).unwrap();
    // It is the message that was logged, though the packet is another one.
    assert_eq!((&got.body[..], got.envelope), (&b"missed"[..], before));
    assert_eq!(bob.refuses(&missed, NOW + 5), REPLAY);
    assert!(!kept.is_over(NOW + 5));
}

#[test]
fn retries_are_for_those_addressed_three_times_within_a_week() {
    let (mut alice, bob) = acquainted();
    let (carol, phone) = (Node::new(3, 3), Node::new(2, 4));
    let (mut message, kept) = alice.send_all(&[(&bob, None), (&phone, None)], b"x", NOW);
    let stranger = alice.resend(&kept, &carol, &mut message, NOW);
    assert_eq!(stranger.unwrap_err(), ResendRefused::NotWaiting);
    let gone = alice.resend(&kept, &bob, &mut message, NOW + KEPT_FOR);
    assert_eq!(gone.unwrap_err(), ResendRefused::TooOld);
    let mut left = kept.clone();
    for _ in 0..MAX_RETRIES {
        left = alice.resend(&left, &bob, &mut message, NOW).unwrap();
        left = KeptMessage::from_bytes(&left.to_bytes()).unwrap();
    }
    let again = alice.resend(&left, &bob, &mut message, NOW).unwrap_err();
    assert_eq!(again, ResendRefused::TooOften);
    alice.resend(&left, &phone, &mut message, NOW).unwrap();
    let acknowledged = kept.acknowledged(phone.id());
    let late = alice.resend(&acknowledged, &phone, &mut message, NOW).unwrap_err();
    assert_eq!(late, ResendRefused::NotWaiting);
    assert!(!acknowledged.is_over(NOW) && acknowledged.is_over(NOW + KEPT_FOR));
    assert!(acknowledged.acknowledged(bob.id()).is_over(NOW));
    assert_eq!([0, 1, 2, 3, 255].map(next_ask), [Some(1), Some(2), Some(3), None, None]);
}
