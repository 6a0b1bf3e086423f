//! The ends of devices, as their programs see them.

use super::{device, fingerprint, link};
use crate::harness::Server;
use crate::harness::shell::{Person, start};

#[test]
fn f10_a_revoked_device_is_out_at_once() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let phone = link(&server, &alice, "alice", "send,recv");
    let following = start(&mut phone.command(&["tail", "--follow"]), b"");
    let revoked = alice.nexo(&["device", "revoke", &device(&phone)[..8], "--reason", "lost"]);
    assert!(revoked.line().starts_with(&format!("revoked {} ", device(&phone))), "{revoked:?}");
    // Its socket is closed and its key logs nobody in any more.
    assert_eq!(following.finish().code, 77);
    phone.nexo(&["send", "bob", "x"]).refused(77);
    phone.nexo(&["tail"]).refused(77);
    bob.nexo(&["send", "alice", "to the laptop"]).sent();
    assert_eq!(alice.received().texts(), ["to the laptop"]);
    let devices = alice.nexo(&["device", "list", "--json"]).objects();
    assert_eq!(devices[1]["state"], "revoked");
    alice.nexo(&["device", "revoke", &device(&phone)]).refused(65);
    alice.nexo(&["device", "revoke", "0123456789abcdef"]).refused(64);
}

#[test]
fn a_recovery_leaves_one_device_and_the_same_account() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    bob.nexo(&["send", "alice", "before"]).sent();
    let key = alice.home().join("recovery.key");
    let new = Person::at(&server);
    let key = key.to_str().unwrap();
    let recover = |person: &Person, expect: &str| {
        person.nexo(&["recover", "alice", "--recovery-key", key, "--expect", expect])
    };
    recover(&new, &fingerprint(&bob)).refused(80);
    let done = recover(&new, &fingerprint(&alice));
    assert_eq!(done.line(), format!("joined alice {}", fingerprint(&alice)));
    // The old device is out; whoever knew the account goes on with it.
    alice.nexo(&["tail"]).refused(77);
    bob.nexo(&["send", "alice", "again"]).sent();
    assert_eq!(new.received().texts(), ["again"]);
    new.nexo(&["send", "bob", "it is me"]).sent();
    assert_eq!(bob.received().texts(), ["it is me"]);
    recover(&new, &fingerprint(&new)).refused(78);
    // Another recovery key is nobody's.
    let wrong = new.file("wrong");
    std::fs::write(&wrong, format!("nexo-recovery-1:{}\n", "0b".repeat(32))).unwrap();
    let thief = Person::at(&server);
    let done = thief.nexo(&["recover", "alice", "--recovery-key", wrong.to_str().unwrap()]);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(!done.err.contains("0b0b"), "{done:?}");
    new.nexo(&["tail"]).ok();
}

#[test]
fn a_recovery_key_is_replaced_with_the_old_one_only() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let old = alice.home().join("recovery.key");
    let foreign = bob.home().join("recovery.key");
    let (first, second) = (alice.file("first"), alice.file("second"));
    let set = |from: &std::path::Path, to: &std::path::Path| {
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        alice.nexo(&["device", "set-recovery", "--old", from, "--out", to])
    };
    set(&foreign, &first).refused(65);
    set(&old, &second).ok();
    let new = Person::at(&server);
    let by = |key: &std::path::Path| {
        new.nexo(&["recover", "alice", "--recovery-key", key.to_str().unwrap()])
    };
    assert_ne!(by(&old).code, 0, "it was replaced");
    by(&second).ok();
}
