//! Copies of a home, and an identity that moves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::shell::{Done, Person, run};
use crate::harness::tamper::copy_data;
use crate::harness::{Server, text};

/// A copy of a person's home, as its owner's new one would be.
fn copied(person: &Person, to: &Path) {
    copy_data(&person.home(), to);
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn h3_a_copied_home_is_refused_until_it_is_adopted() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    alice.nexo(&["send", "bob", "one"]).sent();
    let copy = alice.file("copy");
    copied(&alice, &copy);
    let there = |args: &[&str]| {
        let home = ["--home", copy.to_str().unwrap()];
        run(&mut alice.bare(&[&home[..], args].concat()), b"")
    };
    assert!(there(&["whoami"]).refused(90).contains("state adopt"));
    there(&["send", "bob", "x"]).refused(90);
    alice.nexo(&["send", "bob", "two"]).sent();
    there(&["state", "adopt"]).ok();
    there(&["send", "bob", "three"]).sent();
    // The original's counter is behind by now: it is the old one.
    alice.nexo(&["send", "bob", "x"]).refused(90);
    let got = bob.received();
    assert_eq!(got.texts(), ["one", "two", "three"]);
    assert_eq!(got.events(), ["session_reset"], "no key of the other copy is used again");
}

#[test]
fn h4_a_home_that_was_put_back_is_refused_by_the_relay() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    alice.nexo(&["send", "bob", "one"]).sent();
    let old = std::fs::read(alice.home().join("state.db")).unwrap();
    alice.nexo(&["send", "bob", "two"]).sent();
    // Into the very file, as a restored volume has it.
    for journal in ["state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(alice.home().join(journal));
    }
    std::fs::write(alice.home().join("state.db"), old).unwrap();
    alice.nexo(&["send", "bob", "x"]).refused(90);
    alice.nexo(&["state", "adopt"]).ok();
    alice.nexo(&["send", "bob", "three"]).sent();
    let got = bob.received();
    assert_eq!(got.texts(), ["one", "two", "three"]);
    assert_eq!(got.events(), ["session_reset"], "no key of the past is used again");
}

#[test]
fn an_identity_moves_without_its_past() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let known = bob.nexo(&["fingerprint"]).line().to_owned();
    alice.nexo(&["pin", "bob", &known]).ok();
    alice.nexo(&["send", "bob", "one"]).sent();
    let file = alice.file("export");
    let file = file.to_str().unwrap();
    alice.nexo(&["state", "export", "--out", file]).ok();
    alice.nexo(&["state", "export", "--out", file]).refused(73);
    let home = alice.file("new");
    let there = |args: &[&str]| {
        run(&mut alice.bare(&[&["--home", home.to_str().unwrap()][..], args].concat()), b"")
    };
    there(&["state", "import", file]).ok();
    there(&["state", "import", file]).refused(64);
    assert_eq!(there(&["pin"]).line(), format!("bob {known}"));
    assert_eq!(
        there(&["whoami", "--json"]).object()["device_id"],
        alice.nexo(&["whoami", "--json"]).object()["device_id"]
    );
    there(&["send", "bob", "from the new home"]).sent();
    bob.nexo(&["send", "alice", "to the new home"]).sent();
    let got = there(&["tail", "--json"]);
    assert_eq!(got.texts(), ["to the new home"], "its prekeys are new");
    assert_eq!(bob.received().texts(), ["one", "from the new home"]);
    alice.nexo(&["send", "bob", "x"]).refused(90);
    std::fs::write(alice.file("bad"), "nexo-state-1\n").unwrap();
    let bad = alice.file("bad");
    there(&["state", "import", bad.to_str().unwrap()]).refused(78);
}

#[test]
fn a_session_that_is_begun_anew_is_refused_where_that_is_asked_for() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    alice.nexo(&["send", "bob", "one"]).sent();
    assert_eq!(bob.received().texts(), ["one"]);
    // A state without its sessions, as whoever copied only the keys would have it.
    alice.nexo(&["state", "adopt"]).ok();
    let unread = |done: Done| {
        let objects = done.objects();
        assert_eq!(objects.len(), 1, "{done:?}");
        assert_eq!(objects[0]["error"]["kind"], "undecryptable");
        assert!(text(&objects[0]["error"]["reason"]).contains("new session"), "{done:?}");
    };
    alice.nexo(&["send", "bob", "two"]).sent();
    unread(bob.nexo(&["--on-reset", "refuse", "tail", "--json"]));
    alice.nexo(&["send", "bob", "three"]).sent();
    unread(run(bob.command(&["tail", "--json"]).env("NEXO_ON_RESET", "refuse"), b""));
    // Where nobody asked for that it is taken, and told; what was refused stays so.
    alice.nexo(&["send", "bob", "four"]).sent();
    let got = bob.received();
    assert_eq!(got.texts(), ["four"]);
    assert_eq!(got.events(), ["session_reset"]);
    bob.nexo(&["--on-reset", "perhaps", "tail"]).refused(64);
}
