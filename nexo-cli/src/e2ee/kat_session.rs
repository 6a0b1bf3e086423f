//! Known answers of sessions: the ratchet values of kat_draft.json, and
//! kat_session.json, a conversation that scripts/kat_session.py worked out with no
//! code of ours.

use super::arrival::{Arrival, Settled, open_handshake, open_in_session};
use super::chain::{Key, root_step};
use super::fanout::{Address, Fanout, FanoutRandomness, seal_fanout};
use super::ids::{MessageId, SessionId};
use super::kat::{Session as Worked, hex, hex_n, load};
use super::kdf::hash;
use super::keys::{DhSecret, LocalParty};
use super::payload::Outgoing;
use super::ratchet::Turn;
use super::session::{Peer, PrekeySecrets, Prekeys, Session};
use super::session_packet::{Packet, SessionPacket};
use super::sessions::{HandshakeDue, MAX_UNANSWERED, Nature, OnReset, SessionEvent, Sessions};
use super::skipped::SkippedKeys;

const NOW: u64 = 1_700_000_000;

#[test]
fn kat_ratchet_keys() {
    for s in Worked::all() {
        let session = SessionId::from_bytes(s.fixed("session_id"));
        let alice = DhSecret::from_bytes(s.fixed("alice_ratchet_secret0"));
        let bob = DhSecret::from_bytes(s.fixed("bob_ratchet_secret0"));
        let shared = alice.agree(&s.fallback.public().dh).unwrap();
        let (root, mut chain) = root_step(&Key::new(s.fixed("rk0")), &shared, session);
        assert_eq!(*root, s.fixed("rk1"));
        assert_eq!(**chain.key(), s.fixed("ck0"));
        for name in ["mk0", "mk1"] {
            assert_eq!(*chain.step(session), s.fixed(name));
        }
        let shared = bob.agree(&alice.public()).unwrap();
        let (root, chain) = root_step(&root, &shared, session);
        assert_eq!(*root, s.fixed("bob_rk_after"));
        assert_eq!(**chain.key(), s.fixed("bob_cks_after"));
    }
}

/// Hands out `values` in turn.
fn randomness(values: [[u8; 32]; 6]) -> FanoutRandomness {
    let mut values = values.iter();
    FanoutRandomness::draw(1, |out| {
        out.copy_from_slice(values.next().ok_or(())?);
        Ok::<(), ()>(())
    })
    .unwrap()
}

fn drawn(name: &str) -> [u8; 32] {
    hash(format!("nexo kat_session {name}").as_bytes())
}

/// The randomness of the message `name`, with the given handshake and ratchet key.
fn drawn_for(name: &str, handshake: [[u8; 32]; 2], ratchet: [u8; 32]) -> FanoutRandomness {
    let [ephemeral, kem] = handshake;
    let of = |what: &str| drawn(&format!("{name} {what}"));
    randomness([of("cek"), of("payload hedge"), ephemeral, kem, ratchet, of("packet hedge")])
}

#[test]
fn kat_first_message_of_both_draft_sessions() {
    for s in Worked::all() {
        let me = LocalParty { account: s.alice_account(), secret: &s.alice };
        let context = s.context();
        let outgoing = Outgoing {
            origin: s.origin(),
            conversation: context.conversation,
            message: context.message,
            body: br#"{"t":"text","text":"hi"}"#,
        };
        let (fallback, one_time) = s.prekeys();
        let prekeys = Prekeys { fallback: &fallback, one_time: one_time.as_ref() };
        let (to, sessions) = (Peer::from(&s.bob_party()), Sessions::default());
        let to = Address::Session { to, sessions: &sessions, prekeys: Some(prekeys) };
        let names = ["cek", "payload_rand32", "ephemeral_secret", "kem_m", "alice_ratchet_secret0"];
        let [a, b, c, d, e] = names.map(|name| s.fixed(name));
        let draws = randomness([a, b, c, d, e, s.fixed("kp_rand32")]);
        let sent = seal_fanout(&me, &outgoing, &[to], draws, NOW).unwrap();
        let packet = [hex(s.value("kp_header")), hex(s.value("sealed_keypacket"))].concat();
        assert_eq!(sent.message.sealed, hex(s.value("sealed_payload")));
        assert_eq!(sent.message.packets, [(s.bob.public().device_id(), packet)]);
        assert_eq!(sent.message.envelope.as_bytes()[..], hex(s.value("envelope_hash")));
    }
}

/// Alice and Bob of session_with_otk, each with the sessions it has.
struct Talk {
    s: Worked,
    alice: Sessions,
    bob: Sessions,
}

impl Talk {
    fn local(&self, alice: bool) -> LocalParty<'_> {
        let (account, secret) = if alice {
            (self.s.alice_account(), &self.s.alice)
        } else {
            (self.s.bob_account(), &self.s.bob)
        };
        LocalParty { account, secret }
    }

    /// Seals the message `name` and compares it with the vector.
    fn send(&mut self, alice: bool, name: &str, draws: FanoutRandomness, now: u64) -> Fanout {
        let kat = load("nexo/kat_session.json");
        let want = if name == "rotation" { &kat[name] } else { &kat["messages"][name] };
        let outgoing = Outgoing {
            origin: self.s.origin(),
            conversation: self.s.context().conversation,
            message: MessageId::from_bytes(hex_n(&want["msg_id"])),
            body: want["body"].as_str().unwrap().as_bytes(),
        };
        let (fallback, one_time) = self.s.prekeys();
        let prekeys = Prekeys { fallback: &fallback, one_time: one_time.as_ref() };
        let sessions = if alice { &self.alice } else { &self.bob };
        let to = Peer::from(&self.local(!alice).party());
        let to = Address::Session { to, sessions, prekeys: alice.then_some(prekeys) };
        let mut sent = seal_fanout(&self.local(alice), &outgoing, &[to], draws, now).unwrap();
        assert_eq!(sent.message.sealed, hex(&want["sealed"]), "{name}");
        assert_eq!(sent.message.packets[0].1, hex(&want["packet"]), "{name}");
        assert_eq!(sent.message.envelope.as_bytes()[..], hex(&want["envelope_hash"]), "{name}");
        let (_, after) = sent.sessions.remove(0);
        *(if alice { &mut self.alice } else { &mut self.bob }) = after;
        sent
    }

    /// Opens the vector `name` and keeps what follows.
    fn take(&mut self, alice: bool, name: &str, now: u64) -> Settled {
        let kat = load("nexo/kat_session.json");
        let want = if name == "rotation" { &kat[name] } else { &kat["messages"][name] };
        let (sealed, packet) = (hex(&want["sealed"]), hex(&want["packet"]));
        let Ok(Packet::Session(packet)) = Packet::parse(&packet) else { panic!("a session") };
        let mut context = self.s.context();
        context.message = MessageId::from_bytes(hex_n(&want["msg_id"]));
        context.sender = self.local(!alice).party();
        let (sealed, others, logged) = (&sealed[..], &[][..], None);
        let arrival = Arrival { context, sealed, packet: &packet, others, logged, now };
        let opened = self.open(alice, &packet, &arrival);
        assert_eq!(opened.body[..], *want["body"].as_str().unwrap().as_bytes(), "{name}");
        assert_eq!(opened.envelope.as_bytes()[..], hex(&want["envelope_hash"]), "{name}");
        let settled = opened.settle(Nature::Content);
        *(if alice { &mut self.alice } else { &mut self.bob }) = settled.sessions.clone();
        settled
    }

    fn open(
        &self,
        alice: bool,
        packet: &SessionPacket<'_>,
        arrival: &Arrival<'_>,
    ) -> super::arrival::Opened {
        let (me, sessions) = (self.local(alice), if alice { &self.alice } else { &self.bob });
        if sessions.find(packet.session_id(), arrival.now).is_some() {
            return open_in_session(&me, sessions, &SkippedKeys::default(), arrival).unwrap();
        }
        let secrets =
            PrekeySecrets { fallback: &self.s.fallback, one_time: self.s.one_time.as_ref() };
        open_handshake(&me, sessions, &secrets, arrival, false, OnReset::Refuse).unwrap()
    }

    fn handshake(&self) -> [[u8; 32]; 2] {
        [self.s.fixed("ephemeral_secret"), self.s.fixed("kem_m")]
    }
}

#[test]
fn kat_a_conversation_in_one_session() {
    let s = Worked::named("session_with_otk");
    let mut talk = Talk { s, alice: Sessions::default(), bob: Sessions::default() };
    let alice0 = talk.s.fixed("alice_ratchet_secret0");
    talk.send(true, "a0", drawn_for("a0", talk.handshake(), alice0), NOW);
    let settled = talk.take(false, "a0", NOW);
    assert_eq!(settled.event, Some(SessionEvent::Established));
    assert_eq!(settled.handshake.unwrap().one_time, Some(42));
    let bob0 = talk.s.fixed("bob_ratchet_secret0");
    talk.send(false, "b0", drawn_for("b0", [[0; 32]; 2], bob0), NOW);
    talk.send(false, "b1", drawn_for("b1", [[0; 32]; 2], [0; 32]), NOW);
    talk.take(true, "b0", NOW);
    talk.send(true, "a1", drawn_for("a1", [[0; 32]; 2], drawn("a1 ratchet")), NOW);
    talk.take(true, "b1", NOW);
    talk.take(false, "a1", NOW);

    let kat = load("nexo/kat_session.json");
    let sending = |sessions: &Sessions| {
        let ratchet = sessions.active().unwrap().ratchet.clone();
        match ratchet.turn {
            Turn::Spoke(sending, _) => (*sending.secret, *ratchet.root, **sending.chain.key()),
            Turn::Heard(_) => panic!("it has not answered"),
        }
    };
    let (secret, root, chain) = sending(&talk.alice);
    assert_eq!(secret[..], hex(&kat["alice_ratchet_secret1"]));
    assert_eq!(root[..], hex(&kat["alice_root_after_a1"]));
    assert_eq!(chain[..], hex(&kat["alice_chain_after_a1"]));
}

#[test]
fn kat_a_session_that_replaces_another_one() {
    // The session to be replaced is the other one of kat_draft.json.
    let old = Worked::named("session_fallback_only");
    let me = LocalParty { account: old.alice_account(), secret: &old.alice };
    let (fallback, _) = old.prekeys();
    let prekeys = Prekeys { fallback: &fallback, one_time: None };
    let draw = super::session::SessionRandomness {
        ephemeral: old.fixed("ephemeral_secret"),
        kem: old.fixed("kem_m"),
        ratchet: old.fixed("alice_ratchet_secret0"),
    };
    let bob = old.bob_account();
    let begun = Session::initiate(old.origin(), &me, bob, &prekeys, None, &draw, NOW).unwrap();
    let place = begun.send(&draw, NOW).unwrap().1;
    let packet = [place.header, vec![0; 112]].concat();
    let packet = SessionPacket::parse(&packet).unwrap();
    let bob = LocalParty { account: bob, secret: &old.bob };
    let secrets = PrekeySecrets { fallback: &old.fallback, one_time: None };
    let (block, from) = (packet.block().unwrap(), old.alice_party());
    let answered =
        Session::respond(old.origin(), &from, &bob, &secrets, block, packet.place()).unwrap();
    let replaced = begun.id();
    assert_eq!(answered.id(), replaced);

    let held = |session| Sessions::default().sent(session, NOW);
    let s = Worked::named("session_with_otk");
    let mut talk = Talk { s, alice: held(begun), bob: held(answered) };
    let later = NOW + MAX_UNANSWERED;
    assert_eq!(talk.alice.handshake_due(later), Some(HandshakeDue::Unanswered));
    let alice0 = talk.s.fixed("alice_ratchet_secret0");
    talk.send(true, "rotation", drawn_for("rotation", talk.handshake(), alice0), later);
    let settled = talk.take(false, "rotation", later);
    assert_eq!(settled.event, Some(SessionEvent::Rotated { replaced }));
    let active = talk.bob.active().unwrap();
    assert_eq!(active.id().as_bytes()[..], hex(talk.s.value("session_id")));
}
