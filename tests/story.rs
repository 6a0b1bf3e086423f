//! The story of the README with the real programs: people, scripts and a server that comes and
//! goes.
//!
//! What is asserted is what a script relies on: stdout to the byte or the field, exit codes, and
//! that a message arrives once, in clear at the other side and nowhere else. Refusals and their
//! codes are in `exits.rs`, identities without a home in `stateless.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::shell::{Follower, Person, start};
use crate::harness::{Engine, Server, both, text};

/// A server with two people.
fn two(engine: Engine) -> (Server, Person, Person) {
    let server = engine.start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    (server, alice, bob)
}

/// Fails unless the line is `<RFC 3339> <rest>`.
fn dated(line: &str, rest: &str) {
    let (time, said) = line.split_once(' ').unwrap();
    let digits: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!((&*digits, said), ("0000-00-00T00:00:00Z", rest));
}

both!(two_people_write_to_each_other);
fn two_people_write_to_each_other(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Person::at(&server), Person::at(&server));
    let made = alice.nexo(&["--vkey", server.vkey(), "register", "alice"]);
    assert!(made.line().starts_with("registered alice nexo1:"), "{made:?}");
    assert!(!made.err.contains("first use"), "the key was given: {made:?}");
    let made = bob.nexo(&["register", "bob"]);
    made.line();
    assert!(made.err.contains("first use") && made.err.contains(server.vkey()), "{made:?}");

    // Two registrations are in the log already.
    let (first, index) = alice.nexo(&["send", "bob", "hello, bob"]).sent();
    assert_eq!(index, 3);
    let (second, index) = alice.nexo(&["send", "bob", "are you there?"]).sent();
    assert_eq!(index, 4);
    assert_ne!(first, second);
    let tail = bob.nexo(&["tail"]);
    let lines: Vec<&str> = tail.ok().lines().collect();
    assert_eq!(lines.len(), 2);
    dated(lines[0], "alice: hello, bob");
    dated(lines[1], "alice: are you there?");
    assert_eq!(bob.nexo(&["tail"]).ok(), "", "nothing twice");

    bob.nexo(&["send", "alice", "yes"]).sent();
    dated(alice.nexo(&["tail"]).line(), "bob: yes");
    assert_eq!(alice.nexo(&["tail"]).ok(), "");
    // The sender's own messages do not come back; history has both sides, in log order.
    let history = alice.nexo(&["history"]);
    let lines: Vec<&str> = history.ok().lines().collect();
    dated(lines[0], "alice -> bob: hello, bob");
    dated(lines[1], "alice -> bob: are you there?");
    dated(lines[2], "bob: yes");
}

both!(tail_prints_again_when_asked_to_and_no_more_than_asked_for);
fn tail_prints_again_when_asked_to_and_no_more_than_asked_for(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    for number in 1..=5 {
        alice.nexo(&["send", "bob", &format!("m{number}")]).sent();
    }
    let some = bob.nexo(&["tail", "--limit", "2", "--json"]);
    assert_eq!(some.texts(), ["m1", "m2"]);
    assert_eq!(bob.received().texts(), ["m3", "m4", "m5"], "what was not printed yet");
    assert_eq!(bob.received().objects().len(), 0);
    for since in ["all", "1h", "2001-01-01T00:00:00Z"] {
        let again = bob.nexo(&["tail", "--since", since, "--json"]);
        assert_eq!(again.texts(), ["m1", "m2", "m3", "m4", "m5"], "{since}");
    }
    let again = bob.nexo(&["tail", "alice", "--since", "all", "-n", "1", "--json"]);
    assert_eq!(again.texts(), ["m1"]);
    assert_eq!(bob.nexo(&["tail", "--since", "2999-01-01T00:00:00Z"]).ok(), "");
    bob.nexo(&["tail", "--since", "yesterday"]).refused(64);
    bob.nexo(&["tail", "--limit", "0"]).refused(64);
    let history = bob.nexo(&["history", "-n", "2", "--json"]);
    assert_eq!(history.texts(), ["m4", "m5"], "the last ones");
}

both!(tail_of_one_person_leaves_the_others_for_later);
fn tail_of_one_person_leaves_the_others_for_later(engine: Engine) {
    let (server, alice, bob) = two(engine);
    let carol = Person::registered(&server, "carol");
    alice.nexo(&["send", "bob", "from alice"]).sent();
    carol.nexo(&["send", "bob", "from carol"]).sent();
    assert_eq!(bob.nexo(&["tail", "carol", "--json"]).texts(), ["from carol"]);
    assert_eq!(bob.received().texts(), ["from alice"]);
    assert_eq!(bob.nexo(&["history", "carol", "--json"]).texts(), ["from carol"]);
}

both!(texts_come_from_an_argument_a_file_or_stdin_and_arrive_to_the_byte);
fn texts_come_from_an_argument_a_file_or_stdin_and_arrive_to_the_byte(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let wild = "two lines\n\ta tab, grüße ✓ 🦀\n\u{1b}[2J\u{7} \u{202e}turned\r\n";
    alice.nexo(&["send", "bob", "an argument"]).sent();
    alice.pipe(&["send", "bob", "-"], wild.as_bytes()).sent();
    alice.pipe(&["send", "bob"], b"implied").sent();
    fs::write(alice.file("body"), "from a file\n").unwrap();
    let file = alice.file("body");
    alice.nexo(&["send", "bob", "--body-file", file.to_str().unwrap()]).sent();
    // A dash first is text behind `--`.
    alice.nexo(&["send", "bob", "--", "--json"]).sent();
    let got = bob.received().texts();
    assert_eq!(got, ["an argument", wild, "implied", "from a file\n", "--json"]);

    let shown = bob.nexo(&["tail", "--since", "all"]);
    let shown = shown.ok();
    let lines: Vec<&str> = shown.lines().collect();
    dated(lines[1], "alice: two lines");
    assert!(lines[2].starts_with("    \ta tab, grüße ✓ 🦀"), "{:?}", lines[2]);
    let moves = |c: char| c != '\n' && c != '\t' && (c.is_control() || c == '\u{202e}');
    assert!(!shown.contains(moves), "no message moves a terminal's cursor: {shown:?}");
}

both!(every_object_has_its_schema);
fn every_object_has_its_schema(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Person::at(&server), Person::at(&server));
    bob.nexo(&["register", "bob"]).ok();
    let made = alice.nexo(&["--json", "register", "alice"]).object();
    assert_eq!(made["schema"], "nexo.registered/1");
    let me = alice.nexo(&["whoami", "--json"]).object();
    assert_eq!(me["schema"], "nexo.whoami/1");
    for field in ["handle", "account_id", "fingerprint", "device_id", "server", "origin", "vkey"] {
        assert_eq!(me[field], made[field], "{field}");
    }
    assert_eq!((&me["handle"], &me["server"]), (&"alice".into(), &server.url().into()));
    assert_eq!((&me["origin"], &me["vkey"]), (&server.origin().into(), &server.vkey().into()));

    let sent = alice.nexo(&["send", "bob", "hi", "--json"]).object();
    assert_eq!((&sent["schema"], &sent["to"]), (&"nexo.sent/1".into(), &"bob".into()));
    assert_eq!((&sent["sth_index"], &sent["duplicate"]), (&"3".into(), &false.into()));
    let got = &bob.received().objects()[0];
    assert_eq!((&got["schema"], &got["from"]), (&"nexo.message/1".into(), &"alice".into()));
    assert_eq!(got["text"], "hi");
    for field in ["msg_id", "conv_id", "sth_index"] {
        assert_eq!(got[field], sent[field], "{field}");
    }
    for field in ["account_id", "device_id"] {
        assert_eq!(got[field], me[field], "{field}");
    }
    dated(&format!("{} x", text(&got["sent_at"])), "x");
    dated(&format!("{} x", text(&got["received_at"])), "x");

    let head = alice.nexo(&["server", "--json"]).object();
    assert_eq!((&head["schema"], &head["size"]), (&"nexo.server/1".into(), &"3".into()));
    assert_eq!((&head["origin"], &head["vkey"]), (&me["origin"], &me["vkey"]));
    let gone = alice.nexo(&["delete", &text(&sent["msg_id"]), "--json"]).object();
    assert_eq!((&gone["schema"], &gone["sth_index"]), (&"nexo.deleted/1".into(), &"4".into()));
    let gone = &bob.received().objects()[0];
    assert_eq!((&gone["schema"], &gone["msg_id"]), (&"nexo.deletion/1".into(), &sent["msg_id"]));
    assert!(gone.get("text").is_none(), "{gone}");
}

both!(notes_to_oneself_are_kept_and_read_back);
fn notes_to_oneself_are_kept_and_read_back(engine: Engine) {
    let server = engine.start();
    let alice = Person::registered(&server, "alice");
    let (id, index) = alice.nexo(&["send", "alice", "buy milk"]).sent();
    assert_eq!(index, 2);
    let got = &alice.received().objects()[0];
    assert_eq!((text(&got["text"]), text(&got["msg_id"])), ("buy milk".to_owned(), id));
    assert_eq!(got["from"], "alice");
    assert_eq!(alice.nexo(&["history"]).ok().lines().count(), 1, "one note, not two");
    assert_eq!(alice.received().objects().len(), 0);
}

both!(an_idempotency_key_sends_once);
fn an_idempotency_key_sends_once(engine: Engine) {
    let (mut server, alice, bob) = two(engine);
    let send = |words: &str| {
        alice.nexo(&["send", "bob", words, "--idempotency-key", "build-42", "--json"])
    };
    let first = send("done").object();
    let again = send("done").object();
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&false.into(), &true.into()));
    assert_eq!((&first["msg_id"], &first["sth_index"]), (&again["msg_id"], &again["sth_index"]));
    send("something else").refused(65);
    // To somebody else the key is another one.
    let note = alice.nexo(&["send", "alice", "done", "--idempotency-key", "build-42", "--json"]);
    assert_ne!(note.object()["msg_id"], first["msg_id"]);

    // Five at once, as a build that was started twice and then some.
    let args = ["send", "bob", "at once", "--idempotency-key", "build-43"];
    let running: Vec<_> = (0..5).map(|_| start(&mut alice.command(&args), b"")).collect();
    let ids: BTreeSet<_> = running.into_iter().map(|one| one.finish().sent()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(bob.received().texts(), ["done", "at once"]);
    // What was acknowledged needs no relay to be said again.
    server.terminate();
    assert_eq!(send("done").object()["sth_index"], first["sth_index"]);
}

both!(history_and_whoami_need_no_server);
fn history_and_whoami_need_no_server(engine: Engine) {
    let (mut server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "remember this"]).sent();
    bob.nexo(&["tail"]).ok();
    let who = alice.nexo(&["whoami"]).ok().to_owned();
    server.terminate();
    assert_eq!(alice.nexo(&["whoami"]).ok(), who);
    dated(alice.nexo(&["history"]).line(), "alice -> bob: remember this");
    dated(bob.nexo(&["history", "alice"]).line(), "alice: remember this");
    let object = bob.nexo(&["history", "--json"]).object();
    assert_eq!(
        (&object["schema"], &object["text"]),
        (&"nexo.message/1".into(), &"remember this".into())
    );
}

both!(a_deletion_is_for_everyone);
fn a_deletion_is_for_everyone(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let (read, _) = alice.nexo(&["send", "bob", "wrong channel"]).sent();
    dated(bob.nexo(&["tail"]).line(), "alice: wrong channel");
    let (unread, _) = alice.nexo(&["send", "bob", "oops", "--idempotency-key", "k"]).sent();
    // Only its author may.
    bob.nexo(&["delete", &read]).refused(66);
    for (id, index) in [(&read, 5), (&unread, 6)] {
        assert_eq!(alice.nexo(&["delete", id]).sent(), (id.clone(), index));
    }
    let tail = bob.nexo(&["tail"]);
    let said = tail.line();
    dated(said, &format!("alice deleted message {read}"));
    for person in [&alice, &bob] {
        for command in [&["history"][..], &["tail", "--since", "all"]] {
            let shown = person.nexo(command);
            assert!(!shown.ok().contains("wrong channel") && !shown.ok().contains("oops"));
        }
    }
    // Once more is no harm, and a deleted message is not sent again by its key.
    alice.nexo(&["delete", &read]).ok();
    alice.nexo(&["send", "bob", "oops", "--idempotency-key", "k"]).refused(65);
    assert_eq!(bob.nexo(&["tail"]).ok(), "");
}

both!(follow_prints_as_it_comes_and_outlives_the_server);
fn follow_prints_as_it_comes_and_outlives_the_server(engine: Engine) {
    let (mut server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "before"]).sent();
    let follower = Follower::start(&mut bob.command(&["tail", "--follow"]));
    dated(&follower.line(), "alice: before");
    let began = Instant::now();
    for number in 0..3 {
        alice.nexo(&["send", "bob", &format!("live {number}")]).sent();
        dated(&follower.line(), &format!("alice: live {number}"));
    }
    // Without the bell it would look once a minute.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    server.kill9();
    server.restart();
    alice.nexo(&["send", "bob", "after the restart"]).sent();
    dated(&follower.line(), "alice: after the restart");
    let end = follower.signal("INT");
    assert_eq!((end.code, &*end.out), (130, ""), "{end:?}");
    assert_eq!(bob.received().objects().len(), 0, "all of it was printed");

    let follower = Follower::start(&mut bob.command(&["tail", "-f", "--json"]));
    alice.nexo(&["send", "bob", "to the second"]).sent();
    let object: Value = serde_json::from_str(&follower.line()).unwrap();
    assert_eq!(object["text"], "to the second");
    assert_eq!(follower.signal("TERM").code, 143);

    // Ends by itself when there is enough.
    let limited = start(&mut bob.command(&["tail", "-f", "-n", "1", "--json"]), b"");
    alice.nexo(&["send", "bob", "the last"]).sent();
    assert_eq!(text(&limited.finish().object()["text"]), "the last");
}

both!(twenty_parallel_sends_from_one_home_all_arrive);
fn twenty_parallel_sends_from_one_home_all_arrive(engine: Engine) {
    let (server, alice, bob) = two(engine);
    let words: Vec<String> = (0..20).map(|number| format!("job {number}")).collect();
    let start = |words: &String| start(&mut alice.command(&["send", "bob", words]), b"");
    let running: Vec<_> = words.iter().map(start).collect();
    let done: Vec<_> = running.into_iter().map(|one| one.finish().sent()).collect();
    let ids: BTreeSet<&str> = done.iter().map(|(id, _)| id.as_str()).collect();
    let places: BTreeSet<u64> = done.iter().map(|(_, place)| *place).collect();
    assert_eq!((ids.len(), places), (20, (3..=22).collect()));
    let got: BTreeSet<String> = bob.received().texts().into_iter().collect();
    assert_eq!(got, words.into_iter().collect());
    // No alarm about counters, and the next one goes out as well.
    alice.nexo(&["send", "bob", "one more"]).sent();
    assert_eq!(bob.received().texts(), ["one more"]);
    drop(server);
}

both!(a_send_that_was_killed_is_finished_once_by_the_next_one);
/// The power goes at whatever instruction; the next run with the same key ends what was begun.
fn a_send_that_was_killed_is_finished_once_by_the_next_one(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let mut words = Vec::new();
    for millis in [2, 8, 20, 35, 50, 70, 100, 150] {
        let text = format!("killed after {millis} ms");
        let args = ["send", "bob", &*text, "--idempotency-key", &*text];
        let running = start(&mut alice.command(&args), b"");
        // A moment is what is tested: nothing tells from outside when it has come.
        sleep(Duration::from_millis(millis));
        drop(running);
        let first = alice.nexo(&args).sent();
        assert_eq!(alice.nexo(&args).sent(), first);
        words.push(text.clone());
    }
    assert_eq!(bob.received().texts(), words);
    assert_eq!(alice.nexo(&["history"]).ok().lines().count(), words.len());
}

both!(registering_again_repairs_and_changes_nothing);
fn registering_again_repairs_and_changes_nothing(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let who = alice.nexo(&["whoami"]).ok().to_owned();
    let again = alice.nexo(&["register", "alice"]);
    assert!(again.line().starts_with("registered alice"), "{again:?}");
    assert_eq!(alice.nexo(&["whoami"]).ok(), who);
    // Also after it was killed at some moment of the first time.
    bob.nexo(&["send", "alice", "still you?"]).sent();
    assert_eq!(alice.received().texts(), ["still you?"]);
}

both!(words_are_in_clear_at_the_ends_only);
fn words_are_in_clear_at_the_ends_only(engine: Engine) {
    let (mut server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "attack at dawn"]).sent();
    bob.nexo(&["tail"]).ok();
    server.terminate();
    let needle = b"attack at dawn";
    let mut files = server.stored();
    assert!(files.iter().map(Vec::len).sum::<usize>() > 10_000, "the database was read");
    for home in [alice.home(), bob.home()] {
        let entries = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.map(|path| fs::read(path).unwrap_or_default()));
    }
    for bytes in files {
        let found = bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!found, "a message in clear is in {} bytes", bytes.len());
    }
}
