//! Devices for scripts: one line, few rights, an end.

use super::device;
use crate::harness::shell::{Done, Person, run};
use crate::harness::{Server, text};

/// Sends with a line and nothing else.
fn send_with(person: &Person, line: &str, to: &str, words: &str) -> Done {
    run(&mut person.bare(&["--identity-file", line, "send", to, words]), b"")
}

#[test]
fn h5_a_script_sends_with_a_line_that_a_person_issued() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let carol = Person::registered(&server, "carol");
    let (line, path) = (alice.file("ci"), alice.file("ci"));
    let line = line.to_str().unwrap();
    let issued = alice.nexo(&[
        "device",
        "issue",
        "--caps",
        "send,stateless",
        "--expires",
        "90d",
        "--name",
        "ci",
        "--to",
        "bob",
        "--out",
        line,
        "--json",
    ]);
    let id = text(&issued.object()["device_id"]);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("nexo-identity-2:"));
    send_with(&alice, line, "bob", "built").sent();
    let got = bob.received();
    assert_eq!(got.texts(), ["built"]);
    assert_eq!(got.objects()[0]["from"], "alice");
    assert_eq!(got.objects()[0]["device_id"].as_str().unwrap(), id);
    assert_eq!(alice.received().texts(), ["built"], "the account's own copy");
    // Only where it may.
    send_with(&alice, line, "carol", "not here").refused(77);
    assert!(carol.received().texts().is_empty());
    // What it may not.
    run(&mut alice.bare(&["--identity-file", line, "tail"]), b"").refused(64);
    run(&mut alice.bare(&["--identity-file", line, "device", "revoke", &device(&alice)]), b"")
        .refused(64);
    alice.nexo(&["device", "revoke", &id]).ok();
    send_with(&alice, line, "bob", "too late").refused(77);
    assert!(bob.received().texts().is_empty());
}

#[test]
fn what_a_line_cannot_be_is_refused() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let out = alice.file("line");
    let out = out.to_str().unwrap();
    for args in [
        &["--caps", "send"][..],
        &["--caps", "send,recv,stateless"],
        &["--caps", "root,stateless"],
        &["--expires", "soon"],
        &["--expires", "0s"],
    ] {
        let all = [&["device", "issue", "--out", out][..], args].concat();
        alice.nexo(&all).refused(64);
    }
    assert!(!alice.file("line").exists());
    alice.nexo(&["device", "issue", "--out", out]).ok();
    alice.nexo(&["device", "issue", "--out", out]).refused(73);
    assert_eq!(alice.nexo(&["device", "list"]).ok().lines().count(), 2);
    let printed = alice.nexo(&["device", "issue"]);
    assert!(printed.line().starts_with("nexo-identity-2:"));
}
