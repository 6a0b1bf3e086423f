//! What a home is sealed under: a key, a passphrase, nothing; and a change of that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::harness::shell::{Done, Follower, Person, run, start};
use crate::harness::{Server, random};

const PASSPHRASE: &str = "nine words that nobody else would put like this";

/// A file that only its owner can read.
fn secret(person: &Person, name: &str, content: &str) -> String {
    let path = person.file(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `nexo-cli` with the passphrase in its environment.
fn knowing(person: &Person, args: &[&str]) -> Done {
    run(person.command(args).env("NEXO_PASSPHRASE", PASSPHRASE), b"")
}

/// Every file of a home.
fn contents(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(home).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn a_passphrase_is_taken_from_three_places_and_said_in_none() {
    let server = Server::setup().env("NEXO_LOG", "debug").start();
    let (alice, bob) = (Person::at(&server), Person::registered(&server, "bob"));
    let file = secret(&alice, "passphrase", &format!("{PASSPHRASE}\n"));
    let wrong = secret(&alice, "wrong", "another one entirely, that was never used\n");
    let mut said = String::new();
    let mut heard = |done: Done, code: i32| {
        assert_eq!(done.code, code, "{done:?}");
        said += &done.out;
        said += &done.err;
        done
    };
    heard(alice.nexo(&["--passphrase-file", &file, "register", "alice"]), 0);
    assert!(!alice.home().join("state.key").exists());
    // A file, a descriptor, a variable.
    heard(alice.nexo(&["--passphrase-file", &file, "send", "bob", "one"]), 0);
    heard(alice.pipe(&["--passphrase-fd", "0", "send", "bob", "two"], PASSPHRASE.as_bytes()), 0);
    heard(knowing(&alice, &["send", "bob", "three"]), 0);
    heard(run(alice.command(&["whoami"]).env("NEXO_PASSPHRASE_FILE", &file), b""), 0);
    assert_eq!(bob.received().texts(), ["one", "two", "three"]);
    // Without it, with another one, with a key: closed, and why.
    let closed = heard(alice.nexo(&["send", "bob", "x"]), 78);
    assert!(closed.err.contains("sealed under a passphrase"), "{closed:?}");
    let closed = heard(alice.nexo(&["--passphrase-file", &wrong, "whoami"]), 78);
    assert!(closed.err.contains("not the passphrase of this state"), "{closed:?}");
    let key = bob.home().join("state.key");
    heard(alice.nexo(&["--state-key-file", key.to_str().unwrap(), "whoami"]), 78);
    heard(alice.pipe(&["--passphrase-fd", "0", "whoami"], b"\n"), 78);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    heard(alice.nexo(&["--passphrase-file", &file, "whoami"]), 78);
    // Nor is it in the words of the relay, or in the home.
    said += &server.stderr();
    for words in [PASSPHRASE, "another one entirely"] {
        assert!(!said.contains(words));
        for (path, bytes) in contents(&alice.home()) {
            let found = bytes.windows(words.len()).any(|part| part == words.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn who_looks_at_processes_sees_no_passphrase() {
    let server = Server::start();
    let alice = Person::at(&server);
    let file = secret(&alice, "passphrase", PASSPHRASE);
    alice.nexo(&["--passphrase-file", &file, "register", "alice"]).ok();
    alice.nexo(&["--passphrase-file", &file, "send", "alice", "a note"]).sent();
    // The handler is a child of tail; it looks at both, as others on the machine would.
    let look = "cat /proc/$PPID/cmdline /proc/$PPID/environ; env";
    let args = ["tail", "--exec", look, "--exec-tries", "1"];
    let by_file = alice.nexo(&[&["--passphrase-file", &file][..], &args].concat());
    assert!(by_file.ok().contains("NEXO_MSG_ID=") && !by_file.out.contains(PASSPHRASE));
    // In a variable it stands in the environment of the one process, and goes no further.
    alice.nexo(&["--passphrase-file", &file, "send", "alice", "another"]).sent();
    let env = knowing(&alice, &["tail", "--exec", "env", "--exec-tries", "1"]);
    assert!(env.ok().contains("NEXO_MSG_ID=") && !env.out.contains(PASSPHRASE), "{env:?}");
}

#[test]
fn a_home_is_sealed_under_something_else_and_its_messages_stay() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    alice.nexo(&["send", "bob", "one"]).sent();
    let own = alice.home().join("state.key");
    let old_key = secret(&alice, "old", &fs::read_to_string(&own).unwrap());
    let file = secret(&alice, "passphrase", PASSPHRASE);
    // A program that has it open goes on.
    let following = Follower::start(&mut alice.command(&["tail", "--follow"]));
    bob.nexo(&["send", "alice", "before"]).sent();
    assert!(following.line().ends_with("before"));
    let changed = alice.nexo(&["state", "protect", "--new-passphrase-file", &file, "--json"]);
    assert_eq!(changed.object()["sealed_under"], "passphrase");
    bob.nexo(&["send", "alice", "after"]).sent();
    assert!(following.line().ends_with("after"));
    assert_eq!(following.signal("TERM").code, 143);
    assert!(!own.exists(), "no key lies beside it");
    alice.nexo(&["whoami"]).refused(78);
    alice.nexo(&["--state-key-file", &old_key, "whoami"]).refused(78);
    // To another passphrase; the one in force comes as always.
    let second = "the second of them";
    let args = ["state", "protect", "--new-passphrase-fd", "0"];
    let by = |old: &str| run(alice.command(&args).env("NEXO_PASSPHRASE", old), second.as_bytes());
    by(second).refused(78);
    by(PASSPHRASE).ok();
    knowing(&alice, &["whoami"]).refused(78);
    let with = |args: &[&str]| run(alice.command(args).env("NEXO_PASSPHRASE", second), b"");
    assert_eq!(with(&["history", "--json"]).texts().len(), 3);
    // To nothing, and back to a key that is found by itself.
    with(&["state", "protect", "--in-clear"]).ok();
    with(&["whoami"]).refused(78);
    alice.nexo(&["send", "bob", "two"]).sent();
    let own = own.to_str().unwrap();
    alice.nexo(&["state", "protect", "--new-key-file", own]).ok();
    alice.nexo(&["send", "bob", "three"]).sent();
    alice.nexo(&["--state-key-file", &old_key, "whoami"]).refused(78);
    assert_eq!(bob.received().texts(), ["one", "two", "three"]);
    // One thing at a time, and something.
    alice.nexo(&["state", "protect"]).refused(64);
    alice.nexo(&["state", "protect", "--in-clear", "--new-key-file", own]).refused(64);
}

#[test]
fn a_state_in_clear_is_asked_for() {
    let server = Server::start();
    let alice = Person::at(&server);
    alice.nexo(&["--plaintext-state", "register", "alice"]).ok();
    assert!(!alice.home().join("state.key").exists());
    alice.nexo(&["whoami"]).ok();
    let refused = knowing(&alice, &["whoami"]);
    assert!(refused.refused(78).contains("kept in clear"), "{refused:?}");
    let bob = Person::registered(&server, "bob");
    assert!(bob.nexo(&["--plaintext-state", "whoami"]).refused(64).contains("sealed"));
    // A new home is made in one way; so is one that is imported.
    let carol = Person::at(&server);
    let both = ["--plaintext-state", "register", "carol"];
    knowing(&carol, &both).refused(64);
    let export = alice.file("export");
    let export = export.to_str().unwrap();
    alice.nexo(&["state", "export", "--out", export]).ok();
    knowing(&carol, &["state", "import", export]).ok();
    carol.nexo(&["whoami"]).refused(78);
    knowing(&carol, &["whoami"]).ok();
}

/// SIGKILL at any moment of a change: one of the two keys opens the state, and no third thing is
/// left. Keys and not passphrases, so that the moments are those of the disk.
#[test]
fn a_change_that_is_killed_leaves_the_old_secret_or_the_new_one() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let keys = [alice.file("a"), alice.file("b")];
    let named: Vec<&str> = keys.iter().map(|key| key.to_str().unwrap()).collect();
    alice.nexo(&["state", "protect", "--new-key-file", named[0]]).ok();
    let opens = |key: &str| {
        let done = alice.nexo(&["--state-key-file", key, "whoami"]);
        assert!([0, 78].contains(&done.code), "{done:?}");
        done.code == 0
    };
    let (mut at, mut changes) = (0, 0);
    for round in 0..40u64 {
        let (old, new) = (named[at], named[1 - at]);
        // Its key file is made anew in some rounds, and that may be cut, too.
        if round % 4 == 0 {
            let _ = fs::remove_file(new);
        }
        let args = ["--state-key-file", old, "state", "protect", "--new-key-file", new];
        let running = start(&mut alice.command(&args), b"");
        sleep(Duration::from_micros(u64::from(u16::from_be_bytes(random())) / 2));
        // Killed with SIGKILL, if it still runs.
        drop(running);
        match (opens(old), Path::new(new).exists() && opens(new)) {
            (true, false) => {}
            (false, true) => {
                at = 1 - at;
                changes += 1;
            }
            both => panic!("round {round}: {both:?}"),
        }
    }
    println!("{changes} of 40 changes came through");
    let args = ["--state-key-file", named[at], "send", "alice", "still here"];
    alice.nexo(&args).sent();
}

/// What was left of a change to a passphrase is finished by whoever opens the state next.
#[test]
fn no_key_is_left_beside_a_state_that_was_killed_while_it_was_sealed() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let own = alice.home().join("state.key");
    let key = fs::read_to_string(&own).unwrap();
    let file = secret(&alice, "passphrase", PASSPHRASE);
    alice.nexo(&["state", "protect", "--new-passphrase-file", &file]).ok();
    fs::write(&own, key).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    alice.nexo(&["whoami"]).refused(78);
    knowing(&alice, &["whoami"]).ok();
    assert!(!own.exists());
}

/// Programs of the same passphrase do not wait for each other's work under the lock.
#[test]
fn many_at_once_with_a_passphrase_get_through() {
    let server = Server::start();
    let (alice, bob) = (Person::at(&server), Person::registered(&server, "bob"));
    let file = secret(&alice, "passphrase", PASSPHRASE);
    alice.nexo(&["--passphrase-file", &file, "register", "alice"]).ok();
    alice.nexo(&["--passphrase-file", &file, "send", "bob", "0"]).sent();
    let send = |n: usize| -> Command {
        let text = n.to_string();
        alice.command(&["--passphrase-file", &file, "send", "bob", &text])
    };
    let running: Vec<_> = (1..=8).map(|n| start(&mut send(n), b"")).collect();
    for one in running {
        one.finish().sent();
    }
    let mut texts = bob.received().texts();
    texts.sort();
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
}
