//! Pages that cannot be, and what a page does to the state. The way from sealing to the inbox
//! is tested against a real relay in `tests/`.

use super::message::row;
use super::*;
use crate::body::{self, AD, Control, Draft, Matter};
use crate::e2ee::oneshot::ReplayKey;
use crate::e2ee::{
    Address, ConversationId, FanoutRandomness, MessageId, OneTimePrekey, Outgoing, Packet, Party,
    Peer, Prekeys, Recipient, Sessions, SignedFallback, SignedOneTime, Validity, seal_fanout,
};
use crate::identity::Identity;
use crate::identity::tests::identity;
use crate::random;
use crate::trust::testlog::TestLog;
use crate::upkeep::{fallback_secret, one_time_secret};
use crate::vault::{
    InboxKind, InboxRow, NewInbox, NewOutbox, PrekeyKind, Reading, StoredPrekey, Vault,
};
use crate::wire;
use nexo_schema::ids::{ConvId, DeviceId, Handle};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

pub(super) fn item(index: u64) -> Item {
    Item {
        msg_id: MsgId::parse(&format!("m{index}")).unwrap(),
        conv_id: ConvId([1; 32]),
        sender_device: DeviceId::parse("d").unwrap(),
        cipher: String::new(),
        ad: RawValue::from_string("{}".into()).unwrap(),
        ts: 0,
        sth_index: index,
        native: None,
        tombstone: None,
        inclusion: None,
    }
}

fn page(indexes: &[u64], next: u64, more: bool) -> Page {
    let items = indexes.iter().copied().map(item).collect();
    Page { items, next, more, head: None, consistency: None }
}

#[test]
fn a_page_leads_on_in_log_order_and_skips_nothing() {
    assert!(check_page(&page(&[6, 9], 9, true), 5).is_ok());
    assert!(check_page(&page(&[], 5, false), 5).is_ok());
    for (bad, why) in [
        (page(&[5], 5, false), "not behind the cursor"),
        (page(&[7, 6], 7, false), "out of order"),
        (page(&[6, 6], 6, false), "twice"),
        (page(&[6, 9], 8, false), "ends before its last item"),
        (page(&[6], 100, false), "skips"),
        (page(&[], 5, true), "leads nowhere"),
        (page(&[], 4, false), "back"),
    ] {
        assert!(check_page(&bad, 5).is_err(), "{why}");
    }
}

const NOW: u64 = 1_800_000_000;
const ORIGIN: &str = "relay.example.test";

fn people() -> (Identity, Identity) {
    let log = TestLog::new(ORIGIN);
    (identity(&log, "alice", 1), identity(&log, "bob", 2))
}

fn reader(me: &Identity) -> Reader<'_> {
    Reader { identity: me, origin: ORIGIN, now: NOW, on_reset: crate::e2ee::OnReset::Accept }
}

fn prekey(id: u32, byte: u8) -> StoredPrekey {
    StoredPrekey {
        id,
        dh: Zeroizing::new([byte; 32]),
        kem: Zeroizing::new([byte; 64]),
        created_at: NOW,
        not_before: Some(NOW),
        published: true,
    }
}

/// Alice's state: prekeys, and nothing else.
async fn home() -> Vault {
    let vault = Vault::in_memory().unwrap();
    vault
        .write(|tx| {
            tx.put_prekey(PrekeyKind::Fallback, &prekey(1, 1))?;
            tx.put_prekey(PrekeyKind::OneTime, &prekey(7, 7))
        })
        .await
        .unwrap();
    vault
}

fn one_time(alice: &Identity) -> OneTimePrekey {
    SignedOneTime::sign(&alice.device, ORIGIN, &one_time_secret(&prekey(7, 7)))
        .verify(ORIGIN, &alice.device.public())
        .unwrap()
}

/// How Bob writes.
enum How<'a> {
    OneShot,
    Session(&'a mut Sessions, Option<&'a OneTimePrekey>),
}

/// What Bob sends to Alice, as it comes to where it is opened.
fn sent(alice: &Identity, bob: &Identity, index: u64, matter: Matter<'_>, how: How<'_>) -> Taken {
    let secret = fallback_secret(&prekey(1, 1));
    let fallback =
        SignedFallback::sign(&alice.device, ORIGIN, &secret, Validity::longest(NOW).unwrap())
            .verify(ORIGIN, &alice.device.public(), NOW)
            .unwrap();
    let sent_at = "2026-11-23T10:00:00Z";
    let (from, to) = (&bob.handle, &alice.handle);
    let (sth, roster) = ("", &[][..]);
    let body = body::write(&Draft { matter, sent_at, cseq: 1, prev: None, from, to, sth, roster });
    let message = MessageId::from_bytes([u8::try_from(index).unwrap(); 16]);
    let conversation = ConversationId::direct(ORIGIN, alice.account, bob.account);
    let outgoing = Outgoing { origin: ORIGIN, conversation, message, body: &body };
    let draw = FanoutRandomness::draw(1, random::fill).unwrap();
    let party = bob.party();
    let peer = Peer { account: alice.account, device: alice.device_id() };
    let fanout = match how {
        How::OneShot => {
            let to = Recipient { account: alice.account, fallback: &fallback };
            seal_fanout(&party, &outgoing, &[Address::OneShot(to)], draw, NOW).unwrap()
        }
        How::Session(sessions, one_time) => {
            let prekeys = Some(Prekeys { fallback: &fallback, one_time });
            let to = Address::Session { to: peer, sessions, prekeys };
            let fanout = seal_fanout(&party, &outgoing, &[to], draw, NOW).unwrap();
            *sessions = fanout.sessions[0].1.clone();
            fanout
        }
    };
    let mut row = row(&item(index), NOW, InboxKind::Text);
    row.msg_id = wire::message_out(message);
    row.conversation = conversation;
    row.sender = Some(bob.account);
    row.sender_device = wire::device_out(bob.device_id());
    row.sender_handle = Some(bob.handle.clone());
    row.envelope = Some(fanout.message.envelope);
    Taken::Message(Box::new(Verified {
        row,
        message,
        sender: Party { account: bob.account, device: bob.device.public() },
        payload: fanout.message.sealed,
        packet: fanout.message.packets[0].1.clone(),
        others: Vec::new(),
        logged: None,
        ad: AD.to_owned(),
    }))
}

async fn stored(vault: &Vault, alice: &Identity, from: u64, to: u64, taken: Vec<Taken>) -> bool {
    vault.write(|tx| store(tx, reader(alice), from, to, taken)).await.unwrap().is_some()
}

fn rows(vault: &Vault) -> Vec<InboxRow> {
    vault.read(|tx| tx.inbox(&Reading::default())).unwrap()
}

fn is_refused(kind: &InboxKind, words: &str) -> bool {
    matches!(kind, InboxKind::Undecryptable { reason } if reason.contains(words))
}

fn kinds(vault: &Vault) -> Vec<InboxKind> {
    let rows = vault.read(|tx| tx.inbox(&Reading::default())).unwrap();
    rows.into_iter().map(|row| row.kind).collect()
}

/// The same packet and payload under another id does not open, so what repeats a handshake is
/// what the relay could not have made: the test makes it.
#[tokio::test]
async fn a_repeated_handshake_is_a_replay_whatever_its_id() {
    let (vault, (alice, bob)) = (home().await, people());
    let first = sent(&alice, &bob, 1, Matter::Text("one"), How::OneShot);
    let other = sent(&alice, &bob, 2, Matter::Text("two"), How::OneShot);
    let Taken::Message(message) = &first else { panic!("a message") };
    let Ok(Packet::OneShot(packet)) = Packet::parse(&message.packet) else { panic!("one-shot") };
    let (fallback_id, ephemeral) = (packet.block().fallback_id, packet.block().ephemeral);
    let key = ReplayKey { fallback_id, ephemeral };
    vault.write(|tx| tx.note_handshake(&key)).await.unwrap();
    assert!(stored(&vault, &alice, 0, 2, vec![first, other]).await);
    let rows = rows(&vault);
    assert!(is_refused(&rows[0].kind, "another id"), "{:?}", rows[0].kind);
    assert_eq!(rows[0].text, None, "and its text is not kept");
    assert_eq!(rows[1].text.as_deref().map(String::as_str), Some("two"));
}

#[tokio::test]
async fn a_page_is_stored_whole_and_once() {
    let (vault, (alice, bob)) = (home().await, people());
    let one = sent(&alice, &bob, 1, Matter::Text("one"), How::OneShot);
    assert!(stored(&vault, &alice, 0, 2, vec![one, Taken::Nothing]).await);
    let late = sent(&alice, &bob, 2, Matter::Text("two"), How::OneShot);
    assert!(!stored(&vault, &alice, 0, 2, vec![late]).await, "the cursor has moved");
    assert_eq!(kinds(&vault).len(), 1);
    assert_eq!(vault.read(|tx| tx.cursor()).unwrap(), 2);
}

#[tokio::test]
async fn a_session_goes_on_from_what_is_stored_and_its_one_time_prekey_is_gone() {
    let (vault, (alice, bob)) = (home().await, people());
    let (one_time, mut sessions) = (one_time(&alice), Sessions::default());
    for index in 1..=3 {
        let how = How::Session(&mut sessions, Some(&one_time));
        let message = sent(&alice, &bob, index, Matter::Text("hi"), how);
        assert!(stored(&vault, &alice, index - 1, index, vec![message]).await);
    }
    assert_eq!(kinds(&vault), [InboxKind::Text, InboxKind::Text, InboxKind::Text]);
    assert!(vault.read(|tx| tx.one_time(7)).unwrap().is_none());
    let peer = Peer { account: bob.account, device: bob.device_id() };
    let held = vault.read(|tx| tx.sessions(peer)).unwrap();
    assert_eq!(held.held().len(), 1, "the repeated handshake began no second session");
    assert!(rows(&vault).iter().all(|row| row.event.is_none()));
    // Who writes to a prekey that is used up has a session that nobody can open.
    let how = How::Session(&mut Sessions::default(), Some(&one_time));
    let again = sent(&alice, &bob, 4, Matter::Text("lost"), how);
    assert!(stored(&vault, &alice, 3, 4, vec![again]).await);
    assert!(is_refused(&kinds(&vault)[3], "used before"));
    let asks = vault.read(|tx| tx.asks(9)).unwrap();
    assert_eq!(asks.len(), 1, "and its sender is asked");
    assert!(asks[0].1.session.is_some());
}

#[tokio::test]
async fn messages_of_a_session_open_in_any_order_and_twice_is_once() {
    let (vault, (alice, bob)) = (home().await, people());
    let mut sessions = Sessions::default();
    let mut send = |index| {
        let how = How::Session(&mut sessions, None);
        sent(&alice, &bob, index, Matter::Text("hi"), how)
    };
    let (one, two, three) = (send(1), send(2), send(3));
    let peer = Peer { account: bob.account, device: bob.device_id() };
    assert!(stored(&vault, &alice, 0, 3, vec![three]).await);
    let id = vault.read(|tx| tx.sessions(peer)).unwrap().active().unwrap().id();
    assert_eq!(vault.read(|tx| tx.skipped(id)).unwrap().len(), 2);
    assert!(stored(&vault, &alice, 3, 4, vec![one]).await);
    assert_eq!(vault.read(|tx| tx.skipped(id)).unwrap().len(), 1);
    assert!(stored(&vault, &alice, 4, 5, vec![two]).await);
    assert_eq!(vault.read(|tx| tx.skipped(id)).unwrap().len(), 0);
    assert_eq!(kinds(&vault), [InboxKind::Text, InboxKind::Text, InboxKind::Text]);
}

#[tokio::test]
async fn a_message_that_does_not_open_changes_nothing_but_its_row() {
    let (vault, (alice, bob)) = (home().await, people());
    let mut sessions = Sessions::default();
    let first = sent(&alice, &bob, 1, Matter::Text("hi"), How::Session(&mut sessions, None));
    assert!(stored(&vault, &alice, 0, 1, vec![first]).await);
    let peer = Peer { account: bob.account, device: bob.device_id() };
    let before = vault.read(|tx| tx.sessions(peer)).unwrap();
    let mut bad = sent(&alice, &bob, 2, Matter::Text("hi"), How::Session(&mut sessions, None));
    let Taken::Message(message) = &mut bad else { panic!("a message") };
    *message.packet.last_mut().unwrap() ^= 1;
    assert!(stored(&vault, &alice, 1, 2, vec![bad]).await);
    assert!(is_refused(&kinds(&vault)[1], "does not open"));
    let after = vault.read(|tx| tx.sessions(peer)).unwrap();
    assert!(after.writes_since(&before).put.is_empty());
    // The next one opens.
    let next = sent(&alice, &bob, 3, Matter::Text("hi"), How::Session(&mut sessions, None));
    assert!(stored(&vault, &alice, 2, 3, vec![next]).await);
    assert_eq!(kinds(&vault)[2], InboxKind::Text);
}

#[tokio::test]
async fn a_session_without_proof_of_the_old_one_is_told() {
    let (vault, (alice, bob)) = (home().await, people());
    let how = How::Session(&mut Sessions::default(), None);
    let first = sent(&alice, &bob, 1, Matter::Text("hi"), how);
    let how = How::Session(&mut Sessions::default(), None);
    let anew = sent(&alice, &bob, 2, Matter::Control(&Control::Heartbeat), how);
    assert!(stored(&vault, &alice, 0, 2, vec![first, anew]).await);
    let rows = rows(&vault);
    assert_eq!((rows[0].event, &rows[1].kind), (None, &InboxKind::Control));
    assert_eq!(rows[1].event, Some(crate::vault::SessionNote::Reset));
}

#[tokio::test]
async fn a_request_for_a_message_is_noted_only_while_the_message_is_kept() {
    let (vault, (alice, bob)) = (home().await, people());
    let ask = |id: &str| {
        let msg_id = MsgId::parse(id).unwrap();
        Control::Retry { msg_id, session: None }
    };
    let mut sessions = Sessions::default();
    let control = ask("m9");
    let how = How::Session(&mut sessions, None);
    let unknown = sent(&alice, &bob, 1, Matter::Control(&control), how);
    assert!(stored(&vault, &alice, 0, 1, vec![unknown]).await);
    assert!(vault.read(|tx| tx.answers(9)).unwrap().is_empty());
    let kept = {
        let (alice, bob) = people();
        kept_of(&alice, &bob)
    };
    let id = MsgId::parse("m9").unwrap();
    vault.write(|tx| tx.put_kept(&id, &kept, NOW)).await.unwrap();
    let how = How::Session(&mut sessions, None);
    let known = sent(&alice, &bob, 2, Matter::Control(&control), how);
    assert!(stored(&vault, &alice, 1, 2, vec![known]).await);
    let answers = vault.read(|tx| tx.answers(9)).unwrap();
    let peer = Peer { account: bob.account, device: bob.device_id() };
    assert_eq!((answers.len(), answers[0].to), (1, peer));
    assert_eq!((answers[0].msg_id.as_str(), &answers[0].packet), ("m9", &None));
    assert!(rows(&vault).is_empty(), "nobody's to read");
}

fn kept_of(alice: &Identity, bob: &Identity) -> crate::e2ee::resend::KeptMessage {
    let secret = fallback_secret(&prekey(1, 1));
    let fallback =
        SignedFallback::sign(&bob.device, ORIGIN, &secret, Validity::longest(NOW).unwrap())
            .verify(ORIGIN, &bob.device.public(), NOW)
            .unwrap();
    let conversation = ConversationId::direct(ORIGIN, alice.account, bob.account);
    let message = MessageId::from_bytes([9; 16]);
    let outgoing = Outgoing { origin: ORIGIN, conversation, message, body: b"{}" };
    let draw = FanoutRandomness::draw(1, random::fill).unwrap();
    let to = Address::OneShot(Recipient { account: bob.account, fallback: &fallback });
    seal_fanout(&alice.party(), &outgoing, &[to], draw, NOW).unwrap().kept
}

fn text(index: u64) -> Box<NewInbox> {
    let mut row = row(&item(index), 1, InboxKind::Text);
    row.sender = Some(AccountId::from_bytes([2; 32]));
    row.envelope = Some(EnvelopeHash::from_bytes([3; 32]));
    row.text = Some(Zeroizing::new(format!("text {index}")));
    Box::new(row)
}

#[tokio::test]
async fn a_deletion_in_the_same_page_wins() {
    let (vault, (alice, _)) = (home().await, people());
    let deletion = |author: u8| Taken::Deletion {
        author: AccountId::from_bytes([author; 32]),
        msg_id: MsgId::parse("m1").unwrap(),
        envelope: EnvelopeHash::from_bytes([3; 32]),
    };
    let taken = vec![Taken::Row(text(1)), deletion(9)];
    stored(&vault, &alice, 0, 2, taken).await;
    assert_eq!(kinds(&vault), [InboxKind::Text], "not by somebody else");
    stored(&vault, &alice, 2, 3, vec![deletion(2)]).await;
    assert_eq!(kinds(&vault), [InboxKind::Deleted]);
}

#[tokio::test]
async fn a_strangers_tombstone_does_not_wipe_what_was_sent_from_here() {
    let (vault, (alice, _)) = (home().await, people());
    let (id, envelope) = (MsgId::parse("m9").unwrap(), EnvelopeHash::from_bytes([3; 32]));
    let (conversation, peer) =
        (ConversationId::from_bytes([5; 32]), AccountId::from_bytes([6; 32]));
    let peer_handle = Handle::parse("bob").unwrap();
    vault
        .write(|tx| {
            tx.put_outbox(&NewOutbox {
                msg_id: &id,
                conversation,
                peer,
                peer_handle: &peer_handle,
                dseq: Some(1),
                cseq: 1,
                envelope,
                request: b"bytes",
                text: "mine",
                control: false,
                created_at: 1,
            })?;
            tx.set_sent(&id, 1)
        })
        .await
        .unwrap();
    let by = |author| vec![Taken::Deletion { author, msg_id: id.clone(), envelope }];
    stored(&vault, &alice, 0, 2, by(peer)).await;
    assert!(vault.read(|tx| tx.outbox(&id)).unwrap().unwrap().text.is_some());
    stored(&vault, &alice, 2, 3, by(alice.account)).await;
    assert!(vault.read(|tx| tx.outbox(&id)).unwrap().unwrap().text.is_none());
}
