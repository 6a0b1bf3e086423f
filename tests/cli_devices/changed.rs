//! What a device may do changes, and an account ends.

use super::{device, link};
use crate::harness::Server;
use crate::harness::shell::Person;

#[test]
fn a_device_gets_other_rights_and_nobody_takes_it_for_a_stranger() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let phone = link(&server, &alice, "alice", "send,recv");
    let id = device(&phone);
    bob.nexo(&["send", "alice", "one"]).sent();
    phone.nexo(&["send", "bob", "from the phone"]).sent();
    let changed = alice.nexo(&["device", "update", &id[..8], "--caps", "recv"]);
    assert!(changed.line().starts_with(&format!("updated {id} ")), "{changed:?}");
    // What it may not any more is refused, what it may still goes on, and it is nobody's stranger.
    phone.nexo(&["send", "bob", "x"]).refused(77);
    bob.nexo(&["send", "alice", "two"]).sent();
    assert_eq!(phone.received().texts(), ["one", "two"]);
    assert_eq!(alice.received().texts(), ["one", "from the phone", "two"]);
    assert_eq!(bob.received().texts(), ["from the phone"], "it was in the log before");
    let listed = || alice.nexo(&["device", "list", "--json"]).objects()[1].clone();
    assert_eq!(listed()["capabilities"], serde_json::json!(["recv"]));
    assert_eq!(listed()["confirmed"], true);
    // An end, beside the rights, which stay; and none again.
    alice.nexo(&["device", "update", &id, "--expires", "90d"]).ok();
    assert!(listed()["expires"].is_string());
    assert_eq!(listed()["capabilities"], serde_json::json!(["recv"]));
    alice.nexo(&["device", "update", &id, "--expires", "never", "--caps", "send,recv"]).ok();
    assert!(listed()["expires"].is_null());
    phone.nexo(&["send", "bob", "again"]).sent();
    assert_eq!(bob.received().texts(), ["again"]);
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let phone = link(&server, &alice, "alice", "send,recv");
    let (own, id) = (device(&alice), device(&phone));
    let update = |args: &[&str]| alice.nexo(&[&["device", "update"], args].concat());
    update(&[&id]).refused(64);
    update(&[&id, "--caps", "root"]).refused(64);
    update(&[&id, "--expires", "soon"]).refused(64);
    update(&[&id, "--caps", "send,stateless"]).refused(64);
    update(&[&id, "--caps", "send,recv"]).refused(65);
    update(&["0123456789abcdef", "--caps", "send"]).refused(64);
    // Nobody is left without somebody who can change the account.
    let refused = update(&[&own, "--caps", "send,recv"]);
    assert!(refused.refused(65).contains("no other device is admin"), "{refused:?}");
    phone.nexo(&["device", "update", &own, "--caps", "recv"]).refused(64);
    update(&[&id, "--caps", "admin,send,recv"]).ok();
    update(&[&own, "--caps", "send,recv"]).ok();
    update(&[&id, "--caps", "recv"]).refused(64);
    phone.nexo(&["device", "revoke", &own]).ok();
    phone.nexo(&["device", "update", &own, "--caps", "send"]).refused(65);
}

#[test]
fn a_closed_account_is_nobodys_any_more() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let phone = link(&server, &alice, "alice", "send,recv");
    bob.nexo(&["send", "alice", "before"]).sent();
    assert_eq!(alice.received().texts(), ["before"]);
    alice.nexo(&["close"]).refused(64);
    phone.nexo(&["close", "--yes"]).refused(64);
    let closed = alice.nexo(&["close", "--yes", "--json"]);
    assert_eq!(closed.object()["handle"], "alice");
    // Whoever knew it and whoever looks it up now are told why, and nothing is sent.
    let carol = Person::registered(&server, "carol");
    for peer in [&bob, &carol] {
        let refused = peer.nexo(&["send", "alice", "x"]);
        assert!(refused.refused(67).contains("alice has ended"), "{refused:?}");
    }
    // All of its devices are out, and there is no way back.
    for own in [&alice, &phone] {
        own.nexo(&["tail"]).refused(77);
        own.nexo(&["send", "bob", "x"]).refused(77);
    }
    alice.nexo(&["close", "--yes"]).refused(77);
    let key = alice.home().join("recovery.key");
    let new = Person::at(&server);
    let recover = ["recover", "alice", "--recovery-key", key.to_str().unwrap()];
    new.nexo(&recover).refused(77);
    Person::at(&server).nexo(&["register", "alice"]).refused(73);
    // What was received stays readable.
    assert_eq!(alice.nexo(&["history", "--json"]).texts(), ["before"]);
}
