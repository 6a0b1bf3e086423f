//! `send --stdin-lines`, and what `send` does until `--timeout`, over connections that end.

use std::io::Write as _;
use std::process::ChildStdin;

use diesel::prelude::*;
use diesel::sql_types::Binary;
use serde_json::Value;

use crate::cli_devices::link;
use crate::harness::proxy::World;
use crate::harness::shell::{Done, Follower, Person, start};
use crate::harness::{Engine, Server, Way, both, text};

const LINES: [&str; 4] = ["send", "bob", "--stdin-lines", "--json"];

/// `send --stdin-lines`, which is given a line at a time.
struct Sender {
    program: Follower,
    stdin: Option<ChildStdin>,
}

impl Sender {
    fn start(person: &Person, args: &[&str]) -> Self {
        let (program, stdin) = Follower::fed(&mut person.command(args));
        Self { program, stdin: Some(stdin) }
    }

    fn write(&mut self, lines: &[&str]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// What it says of the next line.
    fn told(&self) -> Value {
        serde_json::from_str(&self.program.line()).unwrap()
    }

    /// Closes its input, and waits for its end.
    fn end(mut self) -> Done {
        self.stdin.take();
        self.program.ended()
    }
}

fn place(told: &Value) -> u64 {
    text(&told["sth_index"]).parse().unwrap()
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("line {n}")).collect()
}

both!(each_line_is_a_message_and_is_told_of_in_its_order);
fn each_line_is_a_message_and_is_told_of_in_its_order(engine: Engine) {
    let world = World::new(engine);
    let (alice, bob) = world.people();
    let mut lines = texts(120);
    lines[7] = String::new();
    lines[8] = "  with   spaces, \"quotes\" and grüße ".to_owned();
    // The last line has no end.
    let sent = alice.pipe(&LINES, lines.join("\n").as_bytes());
    let told = sent.objects();
    assert_eq!(told.len(), lines.len(), "{sent:?}");
    let places: Vec<u64> = told.iter().map(place).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "in the order of the log: {places:?}");
    assert!(told.iter().all(|one| one["schema"] == "nexo.sent/1" && one["duplicate"] == false));
    let got = bob.received();
    assert_eq!(got.texts(), lines);
    let ids = |objects: &[Value]| objects.iter().map(|o| text(&o["msg_id"])).collect::<Vec<_>>();
    assert_eq!(ids(&got.objects()), ids(&told));
    // For people: an id and a place for each.
    let plain = alice.pipe(&["send", "bob", "--stdin-lines"], b"a\nb\n");
    assert_eq!(plain.ok().lines().count(), 2);
    assert_eq!(alice.pipe(&LINES, b"").ok(), "", "no line, no message");
    world.server.sound();
}

#[test]
fn what_is_not_acknowledged_is_sent_again_under_its_id() {
    let mut world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people_the_other_way();
    let watch = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
    let read = || text(&serde_json::from_str::<Value>(&watch.line()).unwrap()["text"]);
    let mut sender = Sender::start(&alice, &LINES);
    sender.write(&["one"]);
    assert_eq!(sender.told()["duplicate"], false);
    assert_eq!(read(), "one");
    // They arrive, and the answers do not.
    world.rough.set(Way::Deaf);
    sender.write(&["two", "three"]);
    assert_eq!([read(), read()], ["two", "three"]);
    world.rough.cut();
    world.rough.set(Way::Open);
    let again = [sender.told(), sender.told()];
    assert!(again.iter().all(|told| told["duplicate"] == true), "{again:?}");
    // Nothing arrives.
    let made = world.rough.made();
    world.rough.set(Way::Stalled);
    sender.write(&["four", "five"]);
    world.rough.cut();
    world.rough.made_more(made);
    world.rough.set(Way::Open);
    world.rough.cut();
    let told = [sender.told(), sender.told()];
    assert!(place(&again[1]) < place(&told[0]) && place(&told[0]) < place(&told[1]));
    world.restart();
    sender.write(&["six"]);
    sender.told();
    let end = sender.end();
    assert_eq!((end.code, &*end.out), (0, ""), "{end:?}");
    assert_eq!([read(), read(), read()], ["four", "five", "six"], "each of them once");
    assert_eq!(watch.signal("TERM").out, "");
    world.server.sound();
}

#[test]
fn lines_with_a_key_are_sent_once_however_often_they_are_sent() {
    let world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let args = [&LINES[..], &["--idempotency-key", "job-7"]].concat();
    let lines = texts(30);
    let input = lines.join("\n");
    for killed_after in [1, 12] {
        let mut sender = Sender::start(&alice, &args);
        sender.write(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        (0..killed_after).for_each(|_| drop(sender.told()));
        assert_eq!(sender.program.signal("KILL").code, -1);
    }
    let first = alice.pipe(&args, input.as_bytes());
    let told = first.objects();
    assert_eq!(told.len(), 30);
    assert!(told[..12].iter().all(|one| one["duplicate"] == true), "{first:?}");
    assert_eq!(alice.pipe(&args, input.as_bytes()).objects().len(), 30, "and once more");
    assert_eq!(bob.received().texts(), lines);
    // Other lines under the same key, from the third on.
    let other = alice.pipe(&args, b"line 0\nline 1\nanother\nline 3\n");
    assert_eq!((other.code, other.out.lines().count()), (65, 2), "{other:?}");
    // The key of a message by itself is not that of a line.
    alice.nexo(&["send", "bob", "by itself", "--idempotency-key", "job-7"]).sent();
    assert_eq!(bob.received().texts(), ["by itself"]);
}

#[test]
fn a_line_that_cannot_be_sent_ends_it_after_those_before() {
    let world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let long = vec![b'x'; 70_000];
    for (bad, words) in [(&b"b\xffd"[..], "line 3 of stdin is not UTF-8"), (&long, "longer than")] {
        let input = [b"one\ntwo\n", bad, b"\nnever\n"].concat();
        let done = alice.pipe(&LINES, &input);
        assert!(done.refused(65).contains(words), "{}", done.err);
        assert_eq!(done.out.lines().count(), 2);
        assert_eq!(bob.received().texts(), ["one", "two"]);
    }
    // What surrounds a text takes a part of the longest body.
    let almost = [b"one\n", &vec![b'x'; 65_500][..], b"\nnever\n"].concat();
    let done = alice.pipe(&LINES, &almost);
    done.refused(65);
    assert_eq!(bob.received().texts(), ["one"]);
    for args in [
        &["send", "bob", "text", "--stdin-lines"][..],
        &["send", "bob", "--body-file", "f", "--stdin-lines"],
        &["send", "bob", "--resume", "id", "--stdin-lines"],
    ] {
        alice.nexo(args).refused(64);
    }
    alice.pipe(&["send", "nobody", "--stdin-lines"], b"x\n").refused(67);
}

/// Has everything of the outbox that was not acknowledged sent, in its order.
fn resume(alice: &Person, lines: usize) {
    let unsent: Vec<Value> = alice.nexo(&["history", "--json"]).objects();
    let unsent: Vec<&Value> = unsent.iter().filter(|one| one["state"] == "unsent").collect();
    assert_eq!(unsent.len(), lines, "they are in the outbox");
    for one in unsent {
        alice.nexo(&["send", "bob", "--resume", &text(&one["msg_id"])]).sent();
    }
}

#[test]
fn lines_wait_for_as_long_as_the_timeout_says() {
    let mut world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let args = [&LINES[..], &["--timeout", "2"]].concat();
    let mut sender = Sender::start(&alice, &args);
    sender.write(&["one"]);
    sender.told();
    world.server.kill9();
    // Of several, those that are read after the end was heard of would stay on stdin.
    sender.write(&["two"]);
    let end = sender.program.ended();
    assert_eq!((end.code, &*end.out), (124, ""), "{end:?}");
    assert!(end.err.contains("1 line is not acknowledged"), "{end:?}");
    world.server.restart();
    resume(&alice, 1);
    assert_eq!(bob.received().texts(), ["one", "two"]);
}

#[test]
fn lines_wait_for_an_answer_for_as_long_as_the_timeout_says() {
    let world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people_the_other_way();
    let args = [&LINES[..], &["--timeout", "5"]].concat();
    let mut sender = Sender::start(&alice, &args);
    sender.write(&["one"]);
    sender.told();
    world.rough.set(Way::Stalled);
    sender.write(&["two", "three"]);
    let end = sender.program.ended();
    assert_eq!((end.code, &*end.out), (124, ""), "{end:?}");
    assert!(end.err.contains("2 lines are not acknowledged"), "{end:?}");
    world.rough.cut();
    world.rough.set(Way::Open);
    resume(&alice, 2);
    assert_eq!(bob.received().texts(), ["one", "two", "three"]);
}

#[test]
fn a_device_that_joins_meanwhile_gets_the_lines_that_follow() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let mut sender = Sender::start(&alice, &LINES);
    sender.write(&["one"]);
    sender.told();
    let phone = link(&server, &bob, "bob", "send,recv");
    // Sealed for the devices that were known, refused, and sealed once more.
    sender.write(&["two", "three", "four"]);
    let told = [sender.told(), sender.told(), sender.told()];
    assert!(told.is_sorted_by_key(place), "{told:?}");
    sender.write(&["five"]);
    sender.told();
    assert_eq!(sender.end().code, 0);
    assert_eq!(bob.received().texts(), ["one", "two", "three", "four", "five"]);
    assert_eq!(phone.received().texts(), ["two", "three", "four", "five"]);
    server.sound();
}

#[derive(QueryableByName)]
struct Request {
    #[diesel(sql_type = Binary)]
    request: Vec<u8>,
}

/// The bytes of every message that a person has stored to be sent.
fn requests(person: &Person) -> Vec<Vec<u8>> {
    let path = person.home().join("state.db");
    let mut state = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let query = "SELECT request FROM outbox ORDER BY created_at, cseq";
    let rows: Vec<Request> = diesel::sql_query(query).load(&mut state).unwrap();
    rows.into_iter().map(|row| row.request).collect()
}

#[test]
fn a_key_that_was_used_sends_the_bytes_that_were_sealed_then() {
    let mut world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    alice.nexo(&["send", "bob", "so that everything is known"]).sent();
    world.server.kill9();
    let args = ["send", "bob", "once", "--idempotency-key", "k", "--timeout", "3"];
    let late = alice.nexo(&args);
    assert!(late.refused(124).contains("--resume"), "{late:?}");
    let sealed = requests(&alice);
    assert_eq!(sealed.len(), 2);
    world.server.restart();
    let (id, at) = alice.nexo(&args[..5]).sent();
    assert_eq!(requests(&alice), sealed, "nothing was sealed again");
    assert_eq!(alice.nexo(&args[..5]).sent(), (id, at));
    alice.nexo(&["send", "bob", "another", "--idempotency-key", "k"]).refused(65);
    assert_eq!(bob.received().texts(), ["so that everything is known", "once"]);
}

#[test]
fn send_goes_on_until_the_relay_is_back() {
    let mut world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people_the_other_way();
    alice.nexo(&["send", "bob", "first"]).sent();
    world.server.kill9();
    let made = world.rough.made();
    let sending = start(&mut alice.command(&["send", "bob", "second", "--timeout", "300"]), b"");
    // More often than what is only asked is tried.
    world.rough.made_more(made + 6);
    world.server.restart();
    sending.finish().sent();
    assert_eq!(bob.received().texts(), ["first", "second"], "each of them once");
}
