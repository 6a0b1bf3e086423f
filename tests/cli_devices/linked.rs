//! A new device, its code, and what it gets from then on.

use super::{device, fingerprint, link};
use crate::harness::Server;
use crate::harness::shell::{Follower, Person};

#[test]
fn every_device_gets_what_the_account_gets() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    bob.nexo(&["send", "alice", "before"]).sent();
    let phone = link(&server, &alice, "alice", "send,recv");
    bob.nexo(&["send", "alice", "to both"]).sent();
    assert_eq!(alice.received().texts(), ["before", "to both"]);
    assert_eq!(phone.received().texts(), ["to both"], "what was before it was not for it");
    // Each sees what the other one sends.
    phone.nexo(&["send", "bob", "from the phone"]).sent();
    alice.nexo(&["send", "bob", "from the laptop"]).sent();
    assert_eq!(bob.received().texts(), ["from the phone", "from the laptop"]);
    assert_eq!(alice.received().texts(), ["from the phone"]);
    assert_eq!(phone.received().texts(), ["from the laptop"]);
    let devices = alice.nexo(&["device", "list", "--json"]).objects();
    assert_eq!(devices.len(), 2, "{devices:?}");
    assert!(devices.iter().all(|d| d["state"] == "active" && d["confirmed"] == true));
    assert_eq!(devices[1]["device_id"].as_str().unwrap(), device(&phone));
    assert_eq!(devices[1]["capabilities"], serde_json::json!(["send", "recv"]));
    // It is no admin.
    phone.nexo(&["device", "revoke", &device(&alice)]).refused(64);
}

#[test]
fn a_code_lets_in_the_device_that_shows_it_and_no_other() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let new = Person::at(&server);
    let args = ["device", "link", "alice", "--expect", &fingerprint(&bob)];
    let linking = Follower::start(&mut new.command(&args));
    let code = linking.line();
    let mistyped = format!("{}{}", if code.starts_with('a') { 'b' } else { 'a' }, &code[1..]);
    alice.nexo(&["device", "approve", &mistyped]).refused(65);
    alice.nexo(&["device", "approve", &code, "--caps", "stateless"]).refused(64);
    // Somebody else's account answers: the new device expects another one.
    alice.nexo(&["device", "approve", &code]).ok();
    let done = linking.ended();
    assert_eq!(done.code, 80, "{done:?}");
    assert_eq!(alice.nexo(&["device", "list"]).ok().lines().count(), 1);
    new.nexo(&["whoami"]).refused(78);
    // Nobody asks under a code of another key.
    let other = Person::at(&server);
    let linking = Follower::start(&mut other.command(&["device", "link", "alice"]));
    let fresh = linking.line();
    assert_ne!(fresh, code);
    drop(linking);
    alice.nexo(&["device", "approve", &fresh]).ok();
    alice.nexo(&["device", "approve", "aaaa-aaaa"]).refused(65);
}
