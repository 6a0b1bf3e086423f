//! The state as a whole: tables, locks, counters, boxes.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use diesel::sql_query;
use diesel::sql_types::Text;
use nexo_schema::ids::{DeviceId, Handle, MsgId};
use zeroize::Zeroizing;

use super::*;
use crate::e2ee::oneshot::ReplayKey;
use crate::e2ee::{AccountId, ConversationId, DhPublic, EnvelopeHash, Peer, SessionId};

const NOW: u64 = 1_800_000_000;

async fn open(dir: &Path) -> Vault {
    let home = Home::create(&dir.join("home"), true).unwrap();
    Vault::open(&home, &Access::of_home(&home), Duration::from_secs(10)).await.unwrap()
}

fn conversation(n: u8) -> ConversationId {
    ConversationId::from_bytes([n; 32])
}

fn outgoing(tx: &mut Tx<'_>, id: &str, text: &str) -> Result<Counters, VaultError> {
    let counters = tx.take_counters(conversation(1))?;
    tx.put_outbox(&NewOutbox {
        msg_id: &MsgId::parse(id).unwrap(),
        conversation: conversation(1),
        peer: AccountId::from_bytes([2; 32]),
        peer_handle: &Handle::parse("bob").unwrap(),
        dseq: Some(counters.dseq),
        cseq: counters.cseq,
        envelope: EnvelopeHash::from_bytes([3; 32]),
        request: b"the exact bytes",
        text,
        control: false,
        created_at: NOW,
    })?;
    Ok(counters)
}

fn incoming(index: u64, id: &str, text: &str) -> InboxRow {
    InboxRow {
        sth_index: index,
        conversation: conversation(1),
        msg_id: MsgId::parse(id).unwrap(),
        sender: Some(AccountId::from_bytes([2; 32])),
        sender_device: DeviceId::parse("d").unwrap(),
        sender_handle: Some(Handle::parse("bob").unwrap()),
        kind: InboxKind::Text,
        envelope: Some(EnvelopeHash::from_bytes([3; 32])),
        text: Some(Zeroizing::new(text.to_owned())),
        sent_at: None,
        received_at: NOW,
        recipient: None,
        event: None,
    }
}

#[derive(diesel::QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    name: String,
}

#[test]
fn diesel_sees_the_tables_that_the_migration_makes() {
    let vault = Vault::in_memory().unwrap();
    let mut conn = vault.conn.borrow_mut();
    let source = include_str!("schema.rs");
    let tables: Vec<Column> = sql_query(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_\\_%' ESCAPE '\\'",
    )
    .load(&mut *conn)
    .unwrap();
    assert_eq!(tables.len(), 20);
    for table in tables {
        let block =
            source.split("table! {").find(|b| b.trim().starts_with(&format!("{} (", table.name)));
        let block = block.unwrap_or_else(|| panic!("no table {}", table.name));
        let seen: BTreeSet<&str> =
            block.lines().filter_map(|line| Some(line.split_once(" -> ")?.0.trim())).collect();
        let query = format!("SELECT name FROM pragma_table_info('{}')", table.name);
        let made: Vec<Column> = sql_query(query).load(&mut *conn).unwrap();
        let made: BTreeSet<&str> = made.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(seen, made, "{}", table.name);
    }
}

#[tokio::test]
async fn files_are_private_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let vault = open(dir.path()).await;
    vault.write(|tx| tx.set_prekeys_checked_at(1)).await.unwrap();
    for file in std::fs::read_dir(dir.path().join("home")).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
    }
}

#[tokio::test]
async fn another_state_key_does_not_open_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await);
    let home = Home::create(&dir.path().join("home"), true).unwrap();
    let other = Access::from(StateKey::ephemeral().unwrap());
    let refused = Vault::open(&home, &other, Duration::ZERO).await;
    assert!(matches!(refused.map(drop), Err(VaultError::WrongKey)));
}

#[tokio::test]
async fn a_newer_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let vault = open(dir.path()).await;
    sql_query("INSERT INTO __diesel_schema_migrations (version) VALUES ('99990101000000')")
        .execute(&mut *vault.conn.borrow_mut())
        .unwrap();
    drop(vault);
    let home = Home::create(&dir.path().join("home"), true).unwrap();
    let refused = Vault::open(&home, &Access::of_home(&home), Duration::ZERO).await;
    assert!(matches!(refused.map(drop), Err(VaultError::Newer)));
}

#[tokio::test]
async fn no_text_stands_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let vault = open(dir.path()).await;
    let needle = "a sentence that is easy to find";
    vault
        .write(|tx| {
            outgoing(tx, "m1", needle)?;
            tx.put_inbox(&incoming(1, "m2", needle))
        })
        .await
        .unwrap();
    for file in std::fs::read_dir(dir.path().join("home")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(needle.len()).any(|w| w == needle.as_bytes()));
    }
    let row = vault.read(|tx| tx.outbox(&MsgId::parse("m1").unwrap())).unwrap().unwrap();
    assert_eq!(row.text.as_deref().map(String::as_str), Some(needle));
}

#[tokio::test]
async fn an_error_undoes_the_whole_transaction() {
    let vault = Vault::in_memory().unwrap();
    let failed: Result<(), VaultError> = vault
        .write(|tx| {
            outgoing(tx, "m1", "x")?;
            Err(VaultError::WrongKey)
        })
        .await;
    assert!(matches!(failed, Err(VaultError::WrongKey)));
    assert!(vault.read(|tx| tx.outbox(&MsgId::parse("m1").unwrap())).unwrap().is_none());
    let counters = vault.write(|tx| outgoing(tx, "m1", "x")).await.unwrap();
    assert_eq!(counters, Counters { dseq: 1, cseq: 1, prev: None });
}

#[test]
fn fifty_parallel_senders_share_the_counters() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let send = |n: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let vault = open(path).await;
            vault.write(|tx| outgoing(tx, &format!("m{n}"), "x")).await.unwrap()
        })
    };
    let counters: Vec<Counters> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50).map(|n| scope.spawn(move || send(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let dseqs: BTreeSet<u64> = counters.iter().map(|c| c.dseq).collect();
    let cseqs: BTreeSet<u64> = counters.iter().map(|c| c.cseq).collect();
    assert_eq!((dseqs.first(), dseqs.last(), dseqs.len()), (Some(&1), Some(&50), 50));
    assert_eq!((cseqs.first(), cseqs.last(), cseqs.len()), (Some(&1), Some(&50), 50));
    let prevs: BTreeSet<Option<MsgId>> = counters.into_iter().map(|c| c.prev).collect();
    assert_eq!(prevs.len(), 50, "each message names another one before it");
}

#[tokio::test]
async fn a_sent_message_keeps_its_bytes_and_a_deleted_one_nothing() {
    let vault = Vault::in_memory().unwrap();
    let id = MsgId::parse("m1").unwrap();
    vault.write(|tx| outgoing(tx, "m1", "x")).await.unwrap();
    assert!(!vault.write(|tx| tx.wipe_outbox(&id)).await.unwrap(), "an unsent one is not deleted");
    let first = vault.read(|tx| tx.outbox(&id)).unwrap().unwrap().envelope;
    let other = EnvelopeHash::from_bytes([0xee; 32]);
    vault.write(|tx| tx.reseal_outbox(&id, other, other, b"other")).await.unwrap();
    let kept = vault.read(|tx| tx.outbox(&id)).unwrap().unwrap();
    assert_eq!(kept.envelope, first, "another process has put a new envelope there");
    vault.write(|tx| tx.set_sent(&id, 7)).await.unwrap();
    let row = vault.read(|tx| tx.outbox(&id)).unwrap().unwrap();
    assert_eq!(
        (row.state, &row.request[..]),
        (OutboxState::Sent { sth_index: 7 }, &b"the exact bytes"[..])
    );
    vault.write(|tx| tx.reseal_outbox(&id, row.envelope, other, b"other")).await.unwrap();
    let late = vault.read(|tx| tx.outbox(&id)).unwrap().unwrap();
    assert_eq!(&late.request[..], b"the exact bytes", "what was acknowledged stays");
    assert!(vault.write(|tx| tx.wipe_outbox(&id)).await.unwrap());
    let row = vault.read(|tx| tx.outbox(&id)).unwrap().unwrap();
    assert_eq!((row.state, row.text), (OutboxState::Deleted { sth_index: 7 }, None));
    assert!(row.request.is_empty());
}

#[tokio::test]
async fn the_cursor_moves_once_per_page() {
    let vault = Vault::in_memory().unwrap();
    assert!(vault.write(|tx| tx.move_cursor(0, 5)).await.unwrap());
    assert!(!vault.write(|tx| tx.move_cursor(0, 9)).await.unwrap(), "somebody was faster");
    assert_eq!(vault.read(|tx| tx.cursor()).unwrap(), 5);
}

#[tokio::test]
async fn a_message_is_stored_once_and_printed_when_marked() {
    let vault = Vault::in_memory().unwrap();
    let unprinted = Reading { unprinted: true, ..Reading::default() };
    let rows = || vault.read(|tx| tx.inbox(&unprinted)).unwrap();
    vault
        .write(|tx| {
            tx.put_inbox(&incoming(2, "m2", "two"))?;
            tx.put_inbox(&incoming(1, "m1", "one"))?;
            tx.put_inbox(&incoming(3, "m1", "again"))
        })
        .await
        .unwrap();
    let texts: Vec<String> =
        rows().iter().map(|row| row.text.as_ref().unwrap().to_string()).collect();
    assert_eq!(texts, ["one", "two"], "in log order; a repeated id is dropped");
    let (device, id) = (DeviceId::parse("d").unwrap(), MsgId::parse("m1").unwrap());
    assert!(vault.read(|tx| tx.has_received(&device, &id)).unwrap());
    vault.write(|tx| tx.set_printed(&[1])).await.unwrap();
    assert_eq!(rows().iter().map(|row| row.sth_index).collect::<Vec<_>>(), [2]);
    let later = Reading { since: Some(NOW + 1), ..Reading::default() };
    assert!(vault.read(|tx| tx.inbox(&later)).unwrap().is_empty());
    let other = Reading { conversation: Some(conversation(9)), ..Reading::default() };
    assert!(vault.read(|tx| tx.inbox(&other)).unwrap().is_empty());
}

/// A backlog of so many came out again and again: "too many SQL variables" when it was marked.
#[tokio::test]
async fn a_backlog_larger_than_a_statement_is_marked() {
    let dir = tempfile::tempdir().unwrap();
    let vault = open(dir.path()).await;
    let indexes: Vec<u64> = (1..=40_000).collect();
    vault.write(|tx| tx.set_printed(&indexes)).await.unwrap();
}

#[tokio::test]
async fn only_the_author_and_the_very_message_are_wiped() {
    let vault = Vault::in_memory().unwrap();
    vault.write(|tx| tx.put_inbox(&incoming(1, "m1", "one"))).await.unwrap();
    vault.write(|tx| tx.set_printed(&[1])).await.unwrap();
    let id = MsgId::parse("m1").unwrap();
    let right = Target {
        author: AccountId::from_bytes([2; 32]),
        msg_id: &id,
        envelope: EnvelopeHash::from_bytes([3; 32]),
    };
    for wrong in [
        Target { author: AccountId::from_bytes([9; 32]), ..right },
        Target { envelope: EnvelopeHash::from_bytes([9; 32]), ..right },
        Target { msg_id: &MsgId::parse("m2").unwrap(), ..right },
    ] {
        assert!(!vault.write(|tx| tx.wipe_inbox(&wrong)).await.unwrap(), "{wrong:?}");
    }
    assert!(vault.write(|tx| tx.wipe_inbox(&right)).await.unwrap());
    assert!(!vault.write(|tx| tx.wipe_inbox(&right)).await.unwrap(), "once");
    let rows =
        vault.read(|tx| tx.inbox(&Reading { unprinted: true, ..Reading::default() })).unwrap();
    assert_eq!((rows[0].kind.clone(), rows[0].text.clone()), (InboxKind::Deleted, None));
}

#[tokio::test]
async fn a_handshake_is_new_once() {
    let vault = Vault::in_memory().unwrap();
    let key = |id, byte| ReplayKey { fallback_id: id, ephemeral: DhPublic::from_bytes([byte; 32]) };
    for (key, new) in [(key(1, 1), true), (key(1, 1), false), (key(1, 2), true), (key(2, 1), true)]
    {
        assert_eq!(vault.write(|tx| tx.note_handshake(&key)).await.unwrap(), new);
    }
}

#[tokio::test]
async fn heads_are_swapped_only_for_the_one_that_was_seen() {
    let vault = Vault::in_memory().unwrap();
    let head = |size| HeldHead { size, root: [1; 32], note: "n".into(), time: NOW };
    assert!(vault.write(|tx| tx.replace_head(None, &head(1))).await.unwrap());
    assert!(!vault.write(|tx| tx.replace_head(None, &head(2))).await.unwrap());
    assert!(vault.write(|tx| tx.replace_head(Some(&head(1)), &head(2))).await.unwrap());
    assert_eq!(vault.read(|tx| tx.newest_head()).unwrap(), Some(head(2)));
}

#[tokio::test]
async fn a_registered_identity_is_never_replaced() {
    use crate::identity::tests::identity;
    let log = crate::trust::testlog::TestLog::new("relay.example.test");
    let vault = Vault::in_memory().unwrap();
    vault.write(|tx| tx.put_identity(&identity(&log, "taken", 1))).await.unwrap();
    vault.write(|tx| tx.put_identity(&identity(&log, "alice", 2))).await.unwrap();
    vault.write(|tx| tx.set_registered()).await.unwrap();
    assert!(vault.write(|tx| tx.put_identity(&identity(&log, "eve", 3))).await.is_err());
    let (stored, registered) = vault.read(|tx| tx.identity()).unwrap().unwrap();
    assert!(registered);
    assert_eq!(stored.device.public(), identity(&log, "alice", 2).device.public());
}

#[tokio::test]
async fn what_was_received_and_sent_before_there_were_sessions_is_still_there_after() {
    let vault = Vault::in_memory().unwrap();
    vault
        .write(|tx| {
            outgoing(tx, "m1", "out")?;
            tx.put_inbox(&incoming(1, "m2", "in"))
        })
        .await
        .unwrap();
    {
        let mut conn = vault.conn.borrow_mut();
        conn.revert_last_migration(MIGRATIONS).unwrap();
        conn.run_pending_migrations(MIGRATIONS).unwrap();
    }
    let rows = vault.read(|tx| tx.inbox(&Reading::default())).unwrap();
    assert_eq!(rows, [incoming(1, "m2", "in")]);
    assert!(!vault.read(|tx| tx.outbox_rows(None)).unwrap()[0].control);
}

#[tokio::test]
async fn a_message_that_is_asked_for_is_replaced_once() {
    let vault = Vault::in_memory().unwrap();
    let mut lost = incoming(1, "m1", "");
    lost.kind = InboxKind::Undecryptable { reason: "no session".to_owned() };
    lost.text = None;
    let asked =
        Asked { times: 1, at: Some(NOW + 5), session: Some(SessionId::from_bytes([7; 16])) };
    vault
        .write(|tx| {
            tx.put_inbox(&lost)?;
            tx.put_ask(1, &Asked { times: 0, at: None, session: None })?;
            tx.put_ask(1, &asked)?;
            tx.set_printed(&[1])
        })
        .await
        .unwrap();
    let wanted = || vault.read(|tx| tx.asks(10)).unwrap();
    assert_eq!(wanted(), [(lost.clone(), asked)]);
    let found = incoming(1, "m1", "found");
    assert!(vault.write(|tx| tx.replace_asked(&found)).await.unwrap());
    assert!(!vault.write(|tx| tx.replace_asked(&found)).await.unwrap(), "once");
    assert!(wanted().is_empty());
    let unprinted = Reading { unprinted: true, ..Reading::default() };
    assert_eq!(vault.read(|tx| tx.inbox(&unprinted)).unwrap(), [found], "and it is printed");
}

#[tokio::test]
async fn a_message_that_was_deleted_is_not_put_back() {
    let vault = Vault::in_memory().unwrap();
    let mut lost = incoming(1, "m1", "");
    lost.kind = InboxKind::Undecryptable { reason: "no session".to_owned() };
    let (id, envelope) = (MsgId::parse("m1").unwrap(), EnvelopeHash::from_bytes([3; 32]));
    let target = Target { author: AccountId::from_bytes([2; 32]), msg_id: &id, envelope };
    vault
        .write(|tx| {
            tx.put_inbox(&lost)?;
            tx.put_ask(1, &Asked { times: 0, at: None, session: None })?;
            assert!(tx.wipe_inbox(&target)?);
            assert!(!tx.replace_asked(&incoming(1, "m1", "late"))?);
            Ok::<_, VaultError>(())
        })
        .await
        .unwrap();
    let rows = vault.read(|tx| tx.inbox(&Reading::default())).unwrap();
    assert_eq!(rows[0].kind, InboxKind::Deleted);
}

#[tokio::test]
async fn what_others_ask_for_is_kept_until_it_is_answered() {
    let vault = Vault::in_memory().unwrap();
    let peer = |n| Peer { account: AccountId::from_bytes([n; 32]), device: session_device(n) };
    let answer = |n| Answer { msg_id: MsgId::parse("m1").unwrap(), to: peer(n), packet: None };
    let sealed = Answer { packet: Some(b"packet".to_vec()), ..answer(1) };
    vault
        .write(|tx| {
            tx.put_answer(&answer(1), NOW)?;
            tx.put_answer(&answer(2), NOW + 1)?;
            tx.put_answer(&sealed, NOW)
        })
        .await
        .unwrap();
    assert_eq!(vault.read(|tx| tx.answers(10)).unwrap(), [sealed.clone(), answer(2)]);
    vault.write(|tx| tx.drop_answer(&sealed.msg_id, sealed.to.device)).await.unwrap();
    assert_eq!(vault.read(|tx| tx.answers(10)).unwrap(), [answer(2)]);
}

fn session_device(n: u8) -> crate::e2ee::DeviceId {
    crate::e2ee::DeviceId::from_bytes([n; 32])
}

#[tokio::test]
async fn messages_of_the_protocol_are_not_shown_but_for_their_events() {
    let vault = Vault::in_memory().unwrap();
    let control = |index, id, event| InboxRow {
        kind: InboxKind::Control,
        text: None,
        event,
        ..incoming(index, id, "")
    };
    vault
        .write(|tx| {
            tx.put_inbox(&control(1, "m1", None))?;
            tx.put_inbox(&control(2, "m2", Some(SessionNote::Reset)))
        })
        .await
        .unwrap();
    let shown = vault.read(|tx| tx.inbox(&Reading::default())).unwrap();
    assert_eq!(shown, [control(2, "m2", Some(SessionNote::Reset))]);
    let id = MsgId::parse("m1").unwrap();
    assert!(vault.read(|tx| tx.has_received(&DeviceId::parse("d").unwrap(), &id)).unwrap());
}

#[tokio::test]
async fn a_one_time_prekey_is_deleted_by_its_id() {
    let vault = Vault::in_memory().unwrap();
    let key = |id| StoredPrekey {
        id,
        dh: Zeroizing::new([1; 32]),
        kem: Zeroizing::new([2; 64]),
        created_at: NOW,
        not_before: None,
        published: true,
    };
    vault
        .write(|tx| {
            tx.put_prekey(PrekeyKind::OneTime, &key(1))?;
            tx.put_prekey(PrekeyKind::OneTime, &key(2))?;
            tx.put_prekey(PrekeyKind::Fallback, &key(1))?;
            tx.delete_one_time(1)
        })
        .await
        .unwrap();
    let has = |id| vault.read(|tx| tx.one_time(id)).unwrap().is_some();
    assert_eq!((has(1), has(2)), (false, true));
    assert!(vault.read(|tx| tx.fallback(1)).unwrap().is_some(), "of the other kind");
}
