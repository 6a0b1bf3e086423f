//! `tail --follow` over connections that end in every way: cut, standing still, answered by
//! nobody, with the relay killed, or tail itself.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::proxy::World;
use crate::harness::shell::Follower;
use crate::harness::{Engine, Way, both, text};

fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// The next messages that are printed, which must be these.
fn expect(tail: &Follower, texts: &[String]) {
    for expected in texts {
        assert_eq!(text(&object(&tail.line())["text"]), *expected);
    }
}

both!(nothing_is_lost_or_repeated_whatever_becomes_of_the_connection);
fn nothing_is_lost_or_repeated_whatever_becomes_of_the_connection(engine: Engine) {
    let mut world = World::new(engine);
    let (alice, bob) = world.people();
    let mut sent = 0;
    let mut send = |count: usize| -> Vec<String> {
        let texts: Vec<String> = (sent..sent + count).map(|n| format!("m{n}")).collect();
        sent += count;
        texts.iter().for_each(|text| drop(alice.nexo(&["send", "bob", text]).sent()));
        texts
    };
    let before = send(2);
    let tail = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
    expect(&tail, &before);
    expect(&tail, &send(1));
    world.rough.cut();
    expect(&tail, &send(1));
    // Half open: both ends believe in a connection over which nothing comes.
    let made = world.rough.made();
    world.rough.set(Way::Stalled);
    let missed = send(2);
    world.rough.made_more(made);
    world.rough.cut();
    world.rough.set(Way::Open);
    expect(&tail, &missed);
    // The relay is asked, and its answers are lost: it has to say the same again.
    let made = world.rough.made();
    world.rough.set(Way::Deaf);
    let unheard = send(1);
    world.rough.made_more(made);
    world.rough.cut();
    world.rough.set(Way::Open);
    expect(&tail, &unheard);
    world.restart();
    expect(&tail, &send(2));
    // An end that is announced: it comes back when it was told to.
    assert!(world.server.terminate().success());
    world.server.restart();
    expect(&tail, &send(1));
    let end = tail.signal("TERM");
    assert_eq!((end.code, &*end.out), (143, ""), "{end:?}");
    assert_eq!(bob.received().objects().len(), 0, "all of it was printed");
    world.server.sound();
}

#[test]
fn a_killed_tail_goes_on_where_it_was_and_repeats_are_known_by_their_id() {
    let mut world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let (mut sent, mut seen) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let tail = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
        for n in 0..3 {
            sent.push(alice.nexo(&["send", "bob", &format!("{round}.{n}")]).sent());
        }
        // One that has printed something, one that may have, and one that may not even be up.
        if round % 3 == 0 {
            seen.push(tail.line());
        }
        let end = tail.signal("KILL");
        assert_eq!(end.code, -1);
        seen.extend(end.out.lines().map(str::to_owned));
        if round == 3 {
            world.restart();
        }
    }
    seen.extend(bob.received().ok().lines().map(str::to_owned));
    // What a kill has cut off is no line.
    let seen = seen.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
    for message in seen {
        let place = text(&message["sth_index"]).parse().unwrap();
        if ids.insert(text(&message["msg_id"])) {
            places.push((text(&message["msg_id"]), place));
        }
    }
    assert_eq!(places, sent, "every one at least once, in the order of the log");
}

#[test]
fn who_follows_is_brought_what_others_of_the_home_have_not_stored() {
    let world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let one = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
    alice.nexo(&["send", "bob", "to the first"]).sent();
    assert_eq!(text(&object(&one.line())["text"]), "to the first");
    // Two that follow share the messages: each is stored once, and printed by one at least.
    let two = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
    let mut sent = BTreeSet::new();
    for n in 0..8 {
        let (id, _) = alice.nexo(&["send", "bob", &format!("{n}")]).sent();
        sent.insert(id);
    }
    let all = bob.nexo(&["tail", "--since", "all", "--json"]);
    let kept: Vec<u64> =
        all.objects().iter().map(|o| text(&o["sth_index"]).parse().unwrap()).collect();
    assert_eq!(kept.len(), 9, "{all:?}");
    assert!(kept.is_sorted());
    let mut printed = all.out;
    for end in [one.signal("TERM"), two.signal("TERM")] {
        assert_eq!(end.code, 143, "{end:?}");
        printed += &end.out;
    }
    for id in sent {
        assert!(printed.contains(&id), "{id}");
    }
}

#[test]
fn a_large_backlog_comes_in_pieces_and_in_order() {
    let world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let lines: String = (0..300).map(|n| format!("{n}\n")).collect();
    let sent = alice.pipe(&["send", "bob", "--stdin-lines", "--json"], lines.as_bytes());
    assert_eq!(sent.objects().len(), 300);
    let args = ["tail", "--follow", "--json", "-n", "300"];
    let done = Follower::start(&mut bob.command(&args)).ended();
    let got: Vec<u64> = done.objects().iter().map(|o| text(&o["text"]).parse().unwrap()).collect();
    assert!(got.iter().copied().eq(0..300), "{got:?}");
}
