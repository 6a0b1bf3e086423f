//! The watch over the own account.

use super::link;
use crate::harness::shell::{Auditor, Person};
use crate::harness::{Server, text};

#[test]
fn e15_a_device_that_nobody_confirmed_stops_everything() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let phone = link(&server, &alice, "alice", "admin,send,recv");
    alice.nexo(&["tail"]).ok();
    // Whoever has the phone's key adds a device.
    let line = phone.file("line");
    let args = ["device", "issue", "--json", "--out", line.to_str().unwrap()];
    let intruder = text(&phone.nexo(&args).object()["device_id"]);
    let refused = alice.nexo(&["tail"]);
    let said = refused.refused(87);
    assert!(said.contains(&intruder) && said.contains("device confirm"), "{said}");
    alice.nexo(&["send", "bob", "x"]).refused(87);
    assert!(bob.received().texts().is_empty());
    // Others can see that the log has it.
    let evidence = std::fs::read_dir(alice.home().join("evidence")).unwrap();
    let files: Vec<_> = evidence.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one file however often: {files:?}");
    let vkey = text(&alice.nexo(&["whoami", "--json"]).object()["vkey"]);
    let file = files[0].to_str().unwrap();
    let judged = Auditor::new().run(&["evidence", "verify", file, "--vkey", &vkey]);
    assert!(judged.out.contains("foreign"), "{judged:?}");
    let listed = alice.nexo(&["device", "list"]);
    assert!(listed.ok().contains("NOT CONFIRMED"), "{listed:?}");
    alice.nexo(&["device", "confirm", &intruder]).ok();
    alice.nexo(&["tail"]).ok();
    alice.nexo(&["send", "bob", "all is well"]).sent();
    assert_eq!(bob.received().texts(), ["all is well"]);
    // The phone knows what it did itself, and a stranger is ended by whoever sees it.
    phone.nexo(&["tail"]).ok();
    let second = text(
        &phone
            .nexo(&["device", "issue", "--json", "--out", phone.file("2").to_str().unwrap()])
            .object()["device_id"],
    );
    alice.nexo(&["tail"]).refused(87);
    alice.nexo(&["device", "revoke", &second]).ok();
    alice.nexo(&["tail"]).ok();
}
