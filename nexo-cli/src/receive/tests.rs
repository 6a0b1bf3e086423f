//! Pages that cannot be, and what a page does to the state. The way from sealing to the inbox
//! is tested against a real relay in `tests/`.

use super::message::row;
use super::*;
use crate::e2ee::{ConversationId, DhPublic};
use crate::vault::{InboxKind, NewOutbox, Reading, Vault};
use nexo_schema::ids::{ConvId, DeviceId, Handle};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

fn item(index: u64) -> Item {
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

fn text(index: u64) -> Box<NewInbox> {
    let mut row = row(&item(index), 1, InboxKind::Text);
    row.sender = Some(AccountId::from_bytes([2; 32]));
    row.envelope = Some(EnvelopeHash::from_bytes([3; 32]));
    row.text = Some(Zeroizing::new(format!("text {index}")));
    Box::new(row)
}

const OWN: AccountId = AccountId::from_bytes([1; 32]);

fn handshake(byte: u8) -> Option<ReplayKey> {
    Some(ReplayKey { fallback_id: 1, ephemeral: DhPublic::from_bytes([byte; 32]) })
}

fn kinds(vault: &Vault) -> Vec<InboxKind> {
    let rows = vault.read(|tx| tx.inbox(&Reading::default())).unwrap();
    rows.into_iter().map(|row| row.kind).collect()
}

#[tokio::test]
async fn a_repeated_handshake_is_a_replay_whatever_its_id() {
    let vault = Vault::in_memory().unwrap();
    let taken = vec![
        Taken::Message(text(1), handshake(1)),
        Taken::Message(text(2), handshake(1)),
        Taken::Message(text(3), handshake(2)),
    ];
    assert!(vault.write(|tx| store(tx, OWN, 0, 3, taken)).await.unwrap());
    let kinds = kinds(&vault);
    assert_eq!((&kinds[0], &kinds[2]), (&InboxKind::Text, &InboxKind::Text));
    assert_eq!(kinds[1], undecryptable(&Unreadable::Replay));
    let rows = vault.read(|tx| tx.inbox(&Reading::default())).unwrap();
    assert_eq!(rows[1].text, None, "and its text is not kept");
}

#[tokio::test]
async fn a_page_is_stored_whole_and_once() {
    let vault = Vault::in_memory().unwrap();
    let first = vec![Taken::Message(text(1), handshake(1)), Taken::Nothing];
    assert!(vault.write(|tx| store(tx, OWN, 0, 2, first)).await.unwrap());
    let late = vec![Taken::Message(text(2), handshake(2))];
    assert!(!vault.write(|tx| store(tx, OWN, 0, 2, late)).await.unwrap(), "the cursor has moved");
    assert_eq!(kinds(&vault).len(), 1);
    assert_eq!(vault.read(|tx| tx.cursor()).unwrap(), 2);
}

#[tokio::test]
async fn a_deletion_in_the_same_page_wins() {
    let vault = Vault::in_memory().unwrap();
    let deletion = |author: u8| Taken::Deletion {
        author: AccountId::from_bytes([author; 32]),
        msg_id: MsgId::parse("m1").unwrap(),
        envelope: EnvelopeHash::from_bytes([3; 32]),
    };
    let taken = vec![Taken::Message(text(1), handshake(1)), deletion(9)];
    vault.write(|tx| store(tx, OWN, 0, 2, taken)).await.unwrap();
    assert_eq!(kinds(&vault), [InboxKind::Text], "not by somebody else");
    vault.write(|tx| store(tx, OWN, 2, 3, vec![deletion(2)])).await.unwrap();
    assert_eq!(kinds(&vault), [InboxKind::Deleted]);
}

#[tokio::test]
async fn a_strangers_tombstone_does_not_wipe_what_was_sent_from_here() {
    let vault = Vault::in_memory().unwrap();
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
                created_at: 1,
            })?;
            tx.set_sent(&id, 1)
        })
        .await
        .unwrap();
    let by = |author| vec![Taken::Deletion { author, msg_id: id.clone(), envelope }];
    vault.write(|tx| store(tx, OWN, 0, 2, by(peer))).await.unwrap();
    assert!(vault.read(|tx| tx.outbox(&id)).unwrap().unwrap().text.is_some());
    vault.write(|tx| store(tx, OWN, 2, 3, by(OWN))).await.unwrap();
    assert!(vault.read(|tx| tx.outbox(&id)).unwrap().unwrap().text.is_none());
}
