//! `tail --exec` and `tail --output` with the real programs, which are killed.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::shell::{Follower, Person, run};
use crate::harness::{DEADLINE, Engine, Server, both};

fn two(engine: Engine) -> (Server, Person, Person) {
    let server = engine.start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    (server, alice, bob)
}

/// The file once it holds this many lines.
fn lines(path: &Path, count: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count && text.ends_with('\n') {
            return lines;
        }
        assert!(began.elapsed() < DEADLINE, "{count} lines in time: {text:?}");
        sleep(Duration::from_millis(10));
    }
}

fn texts(lines: &[String]) -> Vec<String> {
    let text = |line: &String| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        object["text"].as_str().unwrap().to_owned()
    };
    lines.iter().map(text).collect()
}

both!(a_handler_gets_every_message_until_it_takes_it);
fn a_handler_gets_every_message_until_it_takes_it(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let (seen, bad) = (bob.file("seen"), bob.file("bad"));
    for text in ["one", "two", "three"] {
        alice.nexo(&["send", "bob", text]).sent();
    }
    // Refuses "two" for as long as the file is there.
    fs::write(&bad, "").unwrap();
    let handler = format!(
        "line=$(cat); case $line in *'\"two\"'*) if [ -e {bad} ]; then rm {bad}; exit 9; fi;; esac; \
         echo \"$NEXO_FROM $NEXO_ATTEMPT ${{NEXO_TOKEN-none}} $line\" >> {seen}",
        bad = bad.display(),
        seen = seen.display()
    );
    let mut command = bob.command(&["tail", "--exec", &handler]);
    command.env("NEXO_TOKEN", "a secret of somebody's");
    let done = run(&mut command, b"");
    assert_eq!(done.ok(), "", "stdout is the handler's");
    assert!(done.err.contains("ended with exit status: 9; again in"), "{done:?}");
    let seen = lines(&seen, 3);
    for (line, (attempt, text)) in seen.iter().zip([(1, "one"), (2, "two"), (1, "three")]) {
        let object = line.strip_prefix(&format!("alice {attempt} none ")).unwrap_or_else(|| {
            panic!("attempt {attempt}: {line}");
        });
        assert_eq!(texts(&[object.to_owned()]), [text]);
    }
    assert_eq!(bob.received().objects().len(), 0, "each was taken");
}

both!(what_no_handler_takes_is_a_dead_letter_and_the_stream_goes_on);
fn what_no_handler_takes_is_a_dead_letter_and_the_stream_goes_on(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    alice.nexo(&["send", "bob", "poison"]).sent();
    alice.nexo(&["send", "bob", "cure"]).sent();
    let args = ["tail", "--exec-tries", "1", "--exec", "! grep -q poison"];
    let done = bob.nexo(&args);
    done.ok();
    assert!(done.err.contains("dead-letters.jsonl"), "{done:?}");
    let dead = lines(&bob.home().join("dead-letters.jsonl"), 1);
    let letter: Value = serde_json::from_str(&dead[0]).unwrap();
    assert_eq!((dead.len(), &letter["message"]["text"]), (1, &Value::from("poison")));
    assert_eq!(letter["schema"], "nexo.dead_letter/1");
    assert_eq!(bob.received().objects().len(), 0, "both are settled");
}

both!(a_message_whose_handler_was_killed_with_tail_comes_again);
fn a_message_whose_handler_was_killed_with_tail_comes_again(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let seen = bob.file("seen");
    let (id, _) = alice.nexo(&["send", "bob", "hold on"]).sent();
    // It outlives tail, and must not hold its streams.
    let hang = format!("echo $NEXO_MSG_ID >> {}; exec sleep 60 >&- 2>&-", seen.display());
    let tail = Follower::start(&mut bob.command(&["tail", "--follow", "--exec", &hang]));
    assert_eq!(lines(&seen, 1).concat(), id);
    assert_eq!(tail.signal("KILL").code, -1);
    let again = format!("echo $NEXO_MSG_ID >> {}", seen.display());
    bob.nexo(&["tail", "--exec", &again]).ok();
    assert_eq!(lines(&seen, 2), [id.clone(), id]);
}

both!(an_output_file_has_every_message_once_however_often_tail_is_killed);
fn an_output_file_has_every_message_once_however_often_tail_is_killed(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let out = bob.file("out.jsonl");
    let path = out.to_str().unwrap();
    let args = ["tail", "--follow", "--json", "--output", path];
    let mut sent = Vec::new();
    for round in 0..8 {
        let tail = Follower::start(&mut bob.command(&args));
        for number in 0..2 {
            let text = format!("{round}.{number}");
            alice.nexo(&["send", "bob", &text]).sent();
            sent.push(text);
        }
        // In some rounds before it wrote anything, in others in the middle, in others after.
        if round % 3 > 0 {
            lines(&out, sent.len() - round % 2);
        }
        assert_eq!(tail.signal("KILL").code, -1);
        // What a write that was cut short leaves behind.
        let mut torn = OpenOptions::new().append(true).create(true).open(&out).unwrap();
        if round % 2 == 0 && torn.metadata().unwrap().len() > 0 {
            torn.write_all(b"{\"schema\":\"nexo.mess").unwrap();
        }
    }
    bob.nexo(&args.map(|arg| if arg == "--follow" { "--quiet" } else { arg })).ok();
    assert_eq!(texts(&lines(&out, sent.len())), sent, "in order, each once");
    let ids: BTreeSet<String> = lines(&out, 1).into_iter().collect();
    assert_eq!(ids.len(), sent.len());
}

both!(an_output_file_in_use_is_refused_and_a_rotated_one_begun_anew);
fn an_output_file_in_use_is_refused_and_a_rotated_one_begun_anew(engine: Engine) {
    let (_server, alice, bob) = two(engine);
    let out = bob.file("out.jsonl");
    let args = ["tail", "--json", "--output", out.to_str().unwrap()];
    alice.nexo(&["send", "bob", "first"]).sent();
    let held = Follower::start(&mut bob.command(&[&args[..], &["--follow"]].concat()));
    lines(&out, 1);
    bob.nexo(&args).refused(75);
    held.signal("TERM");
    fs::rename(&out, bob.file("old.jsonl")).unwrap();
    fs::write(&out, "somebody's line\n").unwrap();
    alice.nexo(&["send", "bob", "second"]).sent();
    bob.nexo(&args).ok();
    let text = fs::read_to_string(&out).unwrap();
    let ours = text.strip_prefix("somebody's line\n").unwrap();
    assert_eq!(texts(&[ours.trim_end().to_owned()]), ["second"]);
    bob.nexo(&["tail", "--output", "/no/such/folder/file"]).refused(73);
}
