//! nexo-cli in sessions, with the real programs: what is written in one, what is lost and found
//! again, and that no kill and no crowd has a message key used twice (e2ee 2.9, 2.13, 2.14).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text};

use serde_json::json;

use crate::cli_devices::{device, link, linked};
use crate::harness::between::{self, Deed};
use crate::harness::shell::{Follower, Person, run, start};
use crate::harness::{Engine, Server, both, number, random, text};

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

#[derive(QueryableByName)]
struct Packet {
    #[diesel(sql_type = Text)]
    device_id: String,
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

/// Every key packet of a relay on SQLite, in the order of the log.
fn packets(server: &Server) -> Vec<Packet> {
    let mut relay = database(&server.data().join("nexo.db"));
    let query = "SELECT device_id, packet FROM packets ORDER BY sth_index";
    diesel::sql_query(query).load(&mut relay).unwrap()
}

/// How many key packets a relay on SQLite ever got for a device.
fn packets_for(server: &Server, device: &str) -> usize {
    packets(server).iter().filter(|packet| packet.device_id == device).count()
}

/// Fails if two packets of sessions have one place in one: then one message key sealed both.
fn no_key_served_twice(server: &Server) {
    let packets = packets(server);
    let in_sessions: Vec<_> = packets.iter().filter(|row| row.packet[1] != 3).collect();
    let places: BTreeSet<&[u8]> = in_sessions.iter().map(|row| &row.packet[2..58]).collect();
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

// --- several devices ---

#[test]
fn two_devices_on_each_side_read_everything_in_sessions() {
    let (server, alice, bob) = two(Engine::Sqlite);
    let phone = link(&server, &alice, "alice", "send,recv");
    let tablet = link(&server, &bob, "bob", "send,recv");
    let all = [&alice, &phone, &bob, &tablet];
    let handles = ["alice", "alice", "bob", "bob"];
    for round in 0..2 {
        for (from, writer) in all.iter().enumerate() {
            let to = if handles[from] == "alice" { "bob" } else { "alice" };
            let words = format!("round {round} from {from}");
            let (id, _) = writer.nexo(&["send", to, &words]).sent();
            for (n, reader) in all.iter().enumerate() {
                let got = reader.received();
                assert_eq!(got.events(), [""; 0], "{n}");
                if n == from {
                    // What was sent from here is in the history already.
                    assert!(got.texts().is_empty(), "{n}: {got:?}");
                    continue;
                }
                let object = &got.objects()[0];
                assert_eq!(got.texts(), std::slice::from_ref(&words), "{n}");
                assert_eq!(
                    (text(&object["msg_id"]), text(&object["from"])),
                    (id.clone(), handles[from].to_owned())
                );
                assert_eq!(text(&object["device_id"]), device(writer));
            }
        }
    }
    // Each has a session with each of the three others, and nothing went without one.
    assert!(all.iter().all(|person| sessions(person) == 3));
    assert!(packets(&server).iter().all(|row| row.packet[1] != 3));
    no_key_served_twice(&server);
    server.sound();
}

#[test]
fn a_device_that_comes_later_is_in_the_next_message() {
    let (server, alice, bob) = two(Engine::Sqlite);
    alice.nexo(&["send", "bob", "before"]).sent();
    assert_eq!(bob.received().texts(), ["before"]);
    bob.nexo(&["send", "alice", "hello"]).sent();
    alice.received().ok();
    let tablet = link(&server, &bob, "bob", "send,recv");
    // Alice has not heard of it: the relay refuses her first envelope, and she seals another.
    alice.nexo(&["send", "bob", "after"]).sent();
    assert_eq!(tablet.received().texts(), ["after"]);
    assert_eq!(bob.received().texts(), ["after"]);
    assert_eq!((sessions(&alice), sessions(&tablet)), (2, 1));
    // The first device goes on in the session it had, and the envelope that was refused has cost
    // a number and nothing else.
    assert_eq!(packets_for(&server, &device(&bob)), 2);
    tablet.nexo(&["send", "alice", "from the tablet"]).sent();
    assert_eq!(alice.received().texts(), ["from the tablet"]);
    assert_eq!(bob.received().texts(), ["from the tablet"]);
    no_key_served_twice(&server);
    server.sound();
}

#[test]
fn a_device_that_is_revoked_in_the_middle_gets_nothing_more() {
    let (server, alice, bob) = two(Engine::Sqlite);
    let tablet = link(&server, &bob, "bob", "send,recv");
    let gone = device(&tablet);
    alice.nexo(&["send", "bob", "to both"]).sent();
    assert_eq!(bob.received().texts(), ["to both"]);
    assert_eq!(tablet.received().texts(), ["to both"]);
    let sent = packets_for(&server, &gone);
    bob.nexo(&["device", "revoke", &gone]).ok();
    // Alice has not heard of it: her message is refused once, and sealed again for those left.
    let (id, _) = alice.nexo(&["send", "bob", "to one"]).sent();
    let got = bob.received();
    assert_eq!((got.texts(), text(&got.objects()[0]["msg_id"])), (vec!["to one".to_owned()], id));
    assert_eq!(packets_for(&server, &gone), sent, "no packet was ever taken for it");
    tablet.nexo(&["tail"]).refused(77);
    bob.nexo(&["send", "alice", "and back"]).sent();
    assert_eq!(alice.received().texts(), ["and back"]);
    assert_eq!(count(&alice, "SELECT count(*) AS n FROM outbox"), 2, "one row for each message");
    no_key_served_twice(&server);
    server.sound();
}

// --- a relay that lies ---

/// Three of them: alice, bob, and bob's tablet; each on a way of its own.
#[test]
fn e7_a_revocation_that_the_relay_hides_is_told_by_its_account_and_nothing_is_sent() {
    let (server, [to_alice, to_bob]) = between::relay();
    let (alice, bob) = (Person::by(&to_alice), Person::by(&to_bob));
    alice.nexo(&["register", "alice"]).ok();
    bob.nexo(&["register", "bob"]).ok();
    let tablet = linked(Person::by(&to_bob), &bob, "bob", "send,recv");
    // What alice is shown of bob's account is kept, as it is before anything happens.
    let (keep, kept) = std::sync::mpsc::channel();
    to_alice.does(move |asked| {
        let keep = keep.clone();
        if !asked.path.contains("/bundle") {
            return Deed::Pass;
        }
        Deed::Alter(Box::new(move |bundle| drop(keep.send(bundle.clone()))))
    });
    alice.nexo(&["send", "bob", "to both"]).sent();
    let (bobs, gone) = (device(&bob), device(&tablet));
    let old = kept.try_iter().find(|bundle| bundle["handle"] == "bob").unwrap();
    assert_eq!(old["events"].as_array().unwrap().len(), 2);
    bob.nexo(&["device", "revoke", &gone]).ok();
    to_alice.does(move |asked| {
        if !asked.path.contains("/bundle") {
            return Deed::Pass;
        }
        let old = old.clone();
        Deed::Alter(Box::new(move |bundle| {
            if bundle["handle"] == "bob" {
                bundle["devices"] = old["devices"].clone();
                bundle["events"].as_array_mut().unwrap().truncate(2);
            }
        }))
    });
    bob.nexo(&["send", "alice", "I lost my tablet"]).sent();
    let told = alice.received();
    assert_eq!(told.texts(), ["I lost my tablet"]);
    assert!(told.err.contains("device_withheld"), "{told:?}");
    to_alice.asked();
    for args in [&["send", "bob", "x"][..], &["send", "bob", "x", "--oneshot"]] {
        alice.nexo(args).refused(96);
    }
    assert!(to_alice.posted().is_empty(), "nothing is sent to whom the relay still shows");
    assert_eq!(packets_for(&server, &gone), 1);
    // When the relay shows it, all is well.
    to_alice.passes();
    alice.nexo(&["send", "bob", "to one"]).sent();
    assert_eq!(bob.received().texts(), ["to both", "to one"]);
    assert_eq!((packets_for(&server, &gone), packets_for(&server, &bobs)), (1, 2));
    server.sound();
}

#[test]
fn d6_a_page_that_shows_other_packets_than_were_logged_is_an_incident() {
    let (server, [to_alice, to_bob]) = between::relay();
    let (alice, bob) = (Person::by(&to_alice), Person::by(&to_bob));
    alice.nexo(&["register", "alice"]).ok();
    bob.nexo(&["register", "bob"]).ok();
    let tablet = linked(Person::by(&to_bob), &bob, "bob", "send,recv");
    alice.nexo(&["send", "bob", "to both"]).sent();
    let other = device(&tablet);
    for field in ["packet_hashes", "cipher", "packet"] {
        let other = other.clone();
        to_bob.does(move |asked| {
            let other = other.clone();
            if !asked.is("GET", "/messages") {
                return Deed::Pass;
            }
            Deed::Alter(Box::new(move |page| {
                let Some(item) = page["items"].as_array_mut().unwrap().first_mut() else { return };
                match field {
                    "packet_hashes" => item[field][&other] = "00".repeat(32).into(),
                    _ => item[field] = flipped(&text(&item[field])).into(),
                }
            }))
        });
        // The log does not hold what the relay shows; nothing is taken of it.
        bob.nexo(&["tail", "--json"]).refused(81);
        assert_eq!(count(&bob, "SELECT count(*) AS n FROM inbox"), 0, "{field}");
    }
    to_bob.passes();
    assert_eq!(bob.received().texts(), ["to both"]);
    assert_eq!(tablet.received().texts(), ["to both"]);
    server.sound();
}

/// Base64 of other bytes of the same length.
fn flipped(text: &str) -> String {
    let first = if text.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &text[1..])
}

#[test]
fn a_relay_that_refuses_to_hear_of_it_does_not_keep_the_sender_from_being_asked() {
    let (server, [to_alice, to_bob]) = between::relay();
    let (alice, bob) = (Person::by(&to_alice), Person::by(&to_bob));
    alice.nexo(&["register", "alice"]).ok();
    bob.nexo(&["register", "bob"]).ok();
    alice.nexo(&["send", "bob", "one"]).sent();
    bob.received().ok();
    bob.nexo(&["send", "alice", "two"]).sent();
    alice.received().ok();
    lose_sessions(&bob);
    alice.nexo(&["send", "bob", "lost"]).sent();
    to_bob.asked();
    to_bob.does(|asked| {
        let retry = asked.is("POST", "/retry");
        let detail = "not here";
        let problem = json!({"type": "urn:nexo:error:forbidden", "title": "Forbidden",
                             "status": 403, "detail": detail, "code": "forbidden"});
        if retry { Deed::Answer(403, problem) } else { Deed::Pass }
    });
    let unread = bob.received();
    assert_eq!(unread.objects()[0]["error"]["kind"], "undecryptable");
    let asked = to_bob.asked();
    let place = |method, end| asked.iter().position(|asked| asked.is(method, end));
    let (told, sealed) = (place("POST", "/retry").unwrap(), place("POST", "/messages").unwrap());
    assert!(told < sealed, "the relay first, then the sender, sealed");
    // Alice hears it, and begins another session; there is no place for another packet.
    assert_eq!(alice.received().events(), ["session_reset"]);
    to_bob.passes();
    assert!(bob.received().out.is_empty());
    assert!(bob.received().out.is_empty());
    assert!(to_bob.asked().iter().all(|asked| !asked.is("POST", "/retry")), "and not again");
    alice.nexo(&["send", "bob", "three"]).sent();
    assert_eq!(bob.received().texts(), ["three"]);
    no_key_served_twice(&server);
    server.sound();
}

// --- many at once, and kills ---

/// How long a send waited for the state, in milliseconds, as it says itself.
fn waited(done: &crate::harness::shell::Done) -> u64 {
    number(&done.object()["lock_wait_ms"])
}

#[test]
fn h1_fifty_senders_at_once_use_fifty_keys() {
    let (server, alice, bob) = two(Engine::Sqlite);
    // To herself, so that the fifty are the first that Bob hears of her.
    let began = Instant::now();
    alice.nexo(&["send", "alice", "alone"]).sent();
    let alone = u64::try_from(began.elapsed().as_millis()).unwrap();
    let texts: BTreeSet<String> = (0..50).map(|n| format!("m{n}")).collect();
    let running: Vec<_> = texts
        .iter()
        .map(|text| {
            let patience = ["--timeout", "120", "--lock-timeout", "120"];
            let args = [&patience[..], &["--json", "send", "bob", text]].concat();
            start(&mut alice.command(&args), b"")
        })
        .collect();
    let done: Vec<_> = running.into_iter().map(|one| one.finish()).collect();
    let ids: BTreeSet<_> = done.iter().map(|one| text(&one.object()["msg_id"])).collect();
    assert_eq!(ids.len(), 50);
    let places: BTreeSet<_> = done.iter().map(|one| text(&one.object()["sth_index"])).collect();
    assert_eq!(places.len(), 50);
    let worst = done.iter().map(waited).max().unwrap();
    println!("the longest wait of fifty for the state: {worst} ms");
    // As a measure of speed this would be one of the machine; that nobody came near giving up, or
    // on a slow machine waited longer than for all of them one by one, is one of the program.
    assert!(worst < (50 * alone).max(5_000), "{worst} ms, {alone} ms alone");
    let got: BTreeSet<String> = bob.received().texts().into_iter().collect();
    assert_eq!(got, texts, "all of them open");
    no_key_served_twice(&server);
    server.sound();
}

#[test]
fn h10_a_follower_does_not_hold_up_those_who_send() {
    let (server, alice, bob) = two(Engine::Sqlite);
    alice.nexo(&["send", "bob", "hello"]).sent();
    let following = Follower::start(&mut alice.command(&["tail", "--follow"]));
    bob.nexo(&["send", "alice", "first"]).sent();
    assert!(following.line().ends_with("first"));
    let sends = (0..20).map(|n| {
        let words = format!("m{n}");
        start(&mut alice.command(&["--timeout", "120", "--json", "send", "bob", &words]), b"")
    });
    let running: Vec<_> = sends.collect();
    for n in 0..5 {
        bob.nexo(&["send", "alice", &format!("b{n}")]).sent();
    }
    let worst = running.into_iter().map(|one| waited(&one.finish())).max().unwrap();
    println!("the longest wait of twenty beside a follower: {worst} ms");
    assert!(worst < 5_000, "{worst} ms");
    for n in 0..5 {
        assert!(following.line().ends_with(&format!("b{n}")));
    }
    assert_eq!(following.signal("TERM").code, 143);
    assert_eq!(bob.received().texts().len(), 21);
    no_key_served_twice(&server);
    server.sound();
}

#[test]
fn h11_what_is_sent_again_is_the_same_to_the_byte() {
    let (server, [to_alice, to_bob]) = between::relay();
    let (alice, bob) = (Person::by(&to_alice), Person::by(&to_bob));
    alice.nexo(&["register", "alice"]).ok();
    bob.nexo(&["register", "bob"]).ok();
    alice.nexo(&["send", "bob", "hello"]).sent();
    // Lost on the way there, and lost on the way back; each by another process.
    for (n, lose) in [|| Deed::Lose, || Deed::LoseAnswer].into_iter().enumerate() {
        to_alice.does(move |asked| if asked.is("POST", "/messages") { lose() } else { Deed::Pass });
        to_alice.asked();
        let (words, key) = (format!("m{n}"), format!("k{n}"));
        let args = ["send", "bob", &words, "--idempotency-key", &key];
        alice.nexo(&args).refused(69);
        let first = to_alice.posted();
        assert!(!first.is_empty());
        to_alice.passes();
        let sent = alice.nexo(&[&["--json"][..], &args].concat()).object();
        let again = to_alice.posted();
        assert!(first.iter().chain(&again).all(|body| *body == first[0]), "{n}");
        assert_eq!(again.len(), 1, "the first answer is believed");
        assert_eq!(sent["duplicate"], n == 1, "the relay had it, or not");
    }
    // Without the key it is told by its id.
    to_alice.does(|asked| if asked.is("POST", "/messages") { Deed::Lose } else { Deed::Pass });
    alice.nexo(&["send", "bob", "m2"]).refused(69);
    let first = to_alice.posted();
    to_alice.passes();
    let shown = alice.nexo(&["history", "--json"]).objects();
    let id = text(&shown.iter().find(|row| row["text"] == "m2").unwrap()["msg_id"]);
    alice.nexo(&["send", "bob", "--resume", &id]).sent();
    assert_eq!(to_alice.posted(), [first[0].clone()]);
    assert_eq!(bob.received().texts(), ["hello", "m0", "m1", "m2"]);
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
    // Moments are spread over what one send takes here, so that most of them come before its end.
    let began = Instant::now();
    bob.nexo(&["send", "alice", "how long does it take?"]).sent();
    let span = u64::try_from(began.elapsed().as_millis()).unwrap().clamp(5, 400);
    for round in 0..rounds {
        let words = format!("m{round}");
        let key = format!("k{round}");
        let args = ["send", "bob", &words, "--idempotency-key", &key];
        kills += usize::from(killed(&mut alice.command(&args), span));
        alice.nexo(&args).sent();
        kills += usize::from(killed(&mut bob.command(&["tail", "--json"]), span));
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
fn h2_a_few_kills_lose_nothing() {
    kills(4);
}

#[test]
#[ignore = "takes minutes; scripts/cli-kills runs it"]
fn h2_many_kills_lose_nothing() {
    let rounds = std::env::var("NEXO_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    kills(rounds);
}
