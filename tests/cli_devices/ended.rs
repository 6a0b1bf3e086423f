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
    let recover = |words: &str| thief.nexo(&["recover", "alice", "--recovery-key", words]);
    for _ in 0..2 {
        let said = recover(wrong.to_str().unwrap());
        assert!(said.refused(65).contains("not the recovery key of alice"), "{said:?}");
        assert!(!said.err.contains(&"0b".repeat(8)), "{said:?}");
    }
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
    assert!(set(&foreign, &first).refused(65).contains("not the recovery key of alice"));
    set(&old, &second).ok();
    let new = Person::at(&server);
    let by = |key: &std::path::Path| {
        new.nexo(&["recover", "alice", "--recovery-key", key.to_str().unwrap()])
    };
    assert!(by(&old).refused(65).contains("or it was replaced"));
    by(&second).ok();
}

/// The 24 words of a recovery file, as a person wrote them down.
fn words(file: &std::path::Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.split_once('\n').unwrap().1.to_uppercase()
}

#[test]
fn a_recovery_key_is_kept_as_words() {
    let server = Server::start();
    let alice = Person::registered(&server, "alice");
    let kept = words(&alice.home().join("recovery.key"));
    let seen = alice.nexo(&["whoami"]);
    assert_eq!(kept.split_whitespace().count(), 24);
    // By a descriptor, by stdin; by an argument there is no way.
    let new = Person::at(&server);
    let mistyped = kept.replacen(kept.split_whitespace().next().unwrap(), "ABANDONED", 1);
    let recover = |person: &Person, source: &[&str], typed: &str| {
        person.pipe(&[&["recover", "alice"], source].concat(), typed.as_bytes())
    };
    let refused = recover(&new, &["--recovery-key", "-"], &mistyped);
    assert!(refused.refused(65).contains("word 1 is not in the list"), "{refused:?}");
    assert!(!refused.err.to_uppercase().contains("ABANDONED"));
    let line = "nexo-recovery-1:";
    new.nexo(&["recover", "alice", line]).refused(64);
    new.nexo(&["recover", "alice"]).refused(64);
    recover(&new, &["--recovery-key-fd", "0"], &kept).ok();
    // A new key is replaced and used in the same way.
    let next = new.file("next");
    let args = ["device", "set-recovery", "--old", "-", "--out", next.to_str().unwrap()];
    new.pipe(&args, kept.as_bytes()).ok();
    let last = Person::at(&server);
    recover(&last, &["--recovery-key", "-"], &words(&next)).ok();
    assert_eq!(fingerprint(&last), fingerprint(&new));
    assert!(seen.ok().contains(&fingerprint(&last)), "{seen:?}");
}
