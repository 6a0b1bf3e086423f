//! nexo-cli in sessions, with the real programs: what is written in one, what is lost and found
//! again, and that no kill and no crowd has a message key used twice (e2ee 2.9, 2.13, 2.14).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary};

use crate::harness::shell::{Follower, Person, run, start};
use crate::harness::{Engine, Server, both, random, text};

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

#[derive(QueryableByName)]
struct Bytes {
    #[diesel(sql_type = Binary)]
    packet: Vec<u8>,
}

fn database(path: &Path) -> SqliteConnection {
    let mut db = SqliteConnection::establish(&path.to_string_lossy()).unwrap();
    db.batch_execute("PRAGMA busy_timeout = 10000").unwrap();
    db
}

/// Rows of a person's state that a query counts (`AS n`).
fn count(person: &Person, query: &str) -> i64 {
    let mut state = database(&person.home().join("state.db"));
    let row: Count = diesel::sql_query(query).get_result(&mut state).unwrap();
    row.n
}

fn sessions(person: &Person) -> i64 {
    count(person, "SELECT count(*) AS n FROM sessions")
}

/// Every key packet of a relay on SQLite.
fn packets(server: &Server) -> Vec<Vec<u8>> {
    let mut relay = database(&server.data().join("nexo.db"));
    let rows: Vec<Bytes> =
        diesel::sql_query("SELECT packet FROM packets").load(&mut relay).unwrap();
    rows.into_iter().map(|row| row.packet).collect()
}

/// Fails if two packets of sessions have one place in one: then one message key sealed both.
fn no_key_served_twice(server: &Server) {
    let packets = packets(server);
    let in_sessions: Vec<_> = packets.iter().filter(|packet| packet[1] != 3).collect();
    let places: BTreeSet<&[u8]> = in_sessions.iter().map(|packet| &packet[2..58]).collect();
    assert_eq!(places.len(), in_sessions.len());
}

fn two(engine: Engine) -> (Server, Person, Person) {
    let server = engine.start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    (server, alice, bob)
}

both!(people_talk_in_one_session_both_ways);
fn people_talk_in_one_session_both_ways(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let keys = "SELECT count(*) AS n FROM prekeys WHERE kind = 'one_time'";
    let before = count(&bob, keys);
    for round in 0..3 {
        alice.nexo(&["send", "bob", &format!("a{round}")]).sent();
        alice.nexo(&["send", "bob", &format!("b{round}")]).sent();
        assert_eq!(bob.received().texts(), [format!("a{round}"), format!("b{round}")]);
        bob.nexo(&["send", "alice", &format!("c{round}")]).sent();
        assert_eq!(alice.received().texts(), [format!("c{round}")]);
    }
    assert_eq!((sessions(&alice), sessions(&bob)), (1, 1));
    assert_eq!(count(&bob, keys), before - 1, "the one-time prekey was used and is gone");
    let replays = "SELECT count(*) AS n FROM replays";
    assert_eq!(count(&bob, replays), 1, "the handshake is remembered");
}

both!(without_sessions_when_asked_and_in_notes_to_self);
fn without_sessions_when_asked_and_in_notes_to_self(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "by itself", "--oneshot"]).sent();
    alice.nexo(&["send", "alice", "note"]).sent();
    assert_eq!((sessions(&alice), sessions(&bob)), (0, 0));
    assert_eq!(bob.received().texts(), ["by itself"]);
    assert_eq!(alice.received().texts(), ["note"]);
    alice.nexo(&["send", "bob", "together"]).sent();
    assert_eq!(bob.received().texts(), ["together"]);
    assert_eq!((sessions(&alice), sessions(&bob)), (1, 1));
}

both!(sessions_that_cross_become_one_conversation);
fn sessions_that_cross_become_one_conversation(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "first of alice"]).sent();
    bob.nexo(&["send", "alice", "first of bob"]).sent();
    let (to_alice, to_bob) = (alice.received(), bob.received());
    assert_eq!(to_alice.texts(), ["first of bob"], "nothing is reported as a reset");
    assert_eq!(to_bob.texts(), ["first of alice"]);
    for round in 0..2 {
        alice.nexo(&["send", "bob", &format!("{round}")]).sent();
        assert_eq!(bob.received().texts(), [format!("{round}")]);
        bob.nexo(&["send", "alice", &format!("{round}")]).sent();
        assert_eq!(alice.received().texts(), [format!("{round}")]);
    }
}

/// Of a home without its ratchets: every session is lost, nothing else.
fn lose_sessions(person: &Person) {
    let mut state = database(&person.home().join("state.db"));
    state.batch_execute("DELETE FROM sessions; DELETE FROM pairs; DELETE FROM skipped").unwrap();
}

both!(a_message_to_a_lost_session_is_asked_for_and_comes);
fn a_message_to_a_lost_session_is_asked_for_and_comes(engine: Engine) {
    let (server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "one"]).sent();
    assert_eq!(bob.received().texts(), ["one"]);
    bob.nexo(&["send", "alice", "two"]).sent();
    assert_eq!(alice.received().texts(), ["two"]);
    lose_sessions(&bob);
    let (id, _) = alice.nexo(&["send", "bob", "lost"]).sent();
    let unread = &bob.received().objects()[0];
    assert_eq!(unread["error"]["kind"], "undecryptable");
    assert_eq!(text(&unread["msg_id"]), id);
    // Alice is told that Bob began anew, and sends it again.
    let told = alice.received();
    let events: Vec<String> = told.objects().iter().map(|o| text(&o["event"])).collect();
    assert_eq!(events, ["session_reset"], "{told:?}");
    assert_eq!(told.objects()[0]["schema"], "nexo.event/1");
    assert_eq!(told.objects()[0]["from"], "bob");
    assert!(told.err.contains("began a new session"), "{told:?}");
    let found = &bob.received().objects()[0];
    assert_eq!((text(&found["text"]), text(&found["msg_id"])), ("lost".to_owned(), id));
    assert_eq!(bob.received().objects().len(), 0, "once");
    // And the conversation goes on.
    alice.nexo(&["send", "bob", "three"]).sent();
    assert_eq!(bob.received().texts(), ["three"]);
    server.sound();
}

both!(a_deleted_message_is_not_sent_again);
fn a_deleted_message_is_not_sent_again(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "one"]).sent();
    bob.received().ok();
    lose_sessions(&bob);
    let (id, _) = alice.nexo(&["send", "bob", "regretted"]).sent();
    bob.received().ok();
    alice.nexo(&["delete", &id]).ok();
    alice.received().ok();
    let shown = bob.received();
    assert!(!shown.out.contains("regretted"), "{shown:?}");
    assert_eq!(shown.objects()[0]["schema"], "nexo.deletion/1");
}

both!(a_heartbeat_answers_content_and_is_shown_to_nobody);
fn a_heartbeat_answers_content_and_is_shown_to_nobody(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    // The first has number 0, so the last has 50.
    let texts: Vec<String> = (0..51).map(|n| format!("m{n}")).collect();
    for text in &texts {
        alice.nexo(&["send", "bob", text]).sent();
    }
    assert_eq!(count(&bob, "SELECT count(*) AS n FROM outbox"), 0);
    assert_eq!(bob.received().texts(), texts);
    assert_eq!(count(&bob, "SELECT count(*) AS n FROM outbox WHERE control = 1"), 1);
    assert_eq!(bob.nexo(&["history", "-n", "1", "--json"]).texts(), ["m50"]);
    assert_eq!(alice.nexo(&["tail"]).ok(), "");
    assert_eq!(count(&alice, "SELECT count(*) AS n FROM inbox WHERE kind = 'control'"), 1);
    bob.received().ok();
    assert_eq!(count(&bob, "SELECT count(*) AS n FROM outbox"), 1, "one is enough");
}

#[test]
fn fifty_senders_at_once_use_fifty_keys() {
    let (server, alice, bob) = two(Engine::Sqlite);
    let texts: BTreeSet<String> = (0..50).map(|n| format!("m{n}")).collect();
    let running: Vec<_> = texts
        .iter()
        .map(|text| start(&mut alice.command(&["--timeout", "120", "send", "bob", text]), b""))
        .collect();
    let ids: BTreeSet<_> = running.into_iter().map(|one| one.finish().sent()).collect();
    assert_eq!(ids.len(), 50);
    let got: BTreeSet<String> = bob.received().texts().into_iter().collect();
    assert_eq!(got, texts, "all of them open");
    no_key_served_twice(&server);
    server.sound();
}

/// Starts a command and kills it at a random moment, or lets it end before.
fn killed(command: &mut Command, longest: u64) -> bool {
    let follower = Follower::start(command);
    let [low, high] = random::<2>();
    sleep(Duration::from_millis(u64::from(u16::from_be_bytes([low, high])) % longest));
    follower.signal("KILL").code == -1
}

/// `NEXO_KILLS` rounds of a killed `send`, finished by another run, and a killed `tail`.
fn kills(rounds: usize) {
    let (server, alice, bob) = two(Engine::Sqlite);
    let (mut texts, mut kills) = (BTreeSet::new(), 0);
    for round in 0..rounds {
        let words = format!("m{round}");
        let key = format!("k{round}");
        let args = ["send", "bob", &words, "--idempotency-key", &key];
        kills += usize::from(killed(&mut alice.command(&args), 400));
        alice.nexo(&args).sent();
        kills += usize::from(killed(&mut bob.command(&["tail", "--json"]), 400));
        if round % 3 == 0 {
            bob.nexo(&["send", "alice", "so that keys turn"]).sent();
            alice.received().ok();
        }
        texts.insert(words);
    }
    bob.received().ok();
    let all = run(&mut bob.command(&["tail", "--since", "all", "--json"]), b"");
    let got = all.texts();
    assert_eq!(got.len(), rounds, "each is kept once");
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), texts, "and none is lost");
    no_key_served_twice(&server);
    server.sound();
    println!("{kills} kills survived");
}

#[test]
fn a_few_kills_lose_nothing() {
    kills(4);
}

#[test]
#[ignore = "takes minutes; scripts/cli-kills runs it"]
fn many_kills_lose_nothing() {
    let rounds = std::env::var("NEXO_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    kills(rounds);
}
