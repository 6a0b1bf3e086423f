//! Handles, and the accounts that people say they are.

use super::fingerprint;
use crate::harness::Server;
use crate::harness::shell::{Person, run};

#[test]
fn e14_a_handle_is_the_account_that_was_named_and_no_other() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let carol = Person::registered(&server, "carol");
    alice.nexo(&["pin", "bob", &fingerprint(&carol)]).ok();
    alice.nexo(&["send", "bob", "x"]).refused(80);
    alice.nexo(&["tail", "bob"]).refused(80);
    let listed = alice.nexo(&["pin"]);
    assert_eq!(listed.line(), format!("bob {}", fingerprint(&carol)));
    assert_eq!(
        alice.nexo(&["pin", "bob", &fingerprint(&bob)]).line(),
        format!("bob {}", fingerprint(&bob))
    );
    alice.nexo(&["send", "bob", "hello"]).sent();
    assert_eq!(alice.nexo(&["fingerprint", "bob"]).line(), fingerprint(&bob));
    assert_eq!(bob.received().texts(), ["hello"]);
    alice.nexo(&["pin", "bob", "--remove"]).ok();
    alice.nexo(&["pin", "bob", "--remove"]).refused(65);
    alice.nexo(&["pin", "bob", "nexo1:x"]).refused(64);
    alice.nexo(&["pin", "alice", &fingerprint(&bob)]).refused(80);
}

#[test]
fn a_policy_says_who_may_be_met() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let strict = ["--pin-policy", "pinned", "send", "bob"];
    alice.nexo(&[&strict[..], &["x"]].concat()).refused(80);
    let pins = alice.file("pins");
    std::fs::write(&pins, format!("# people\nbob {}\n", fingerprint(&bob))).unwrap();
    let pins = pins.to_str().unwrap();
    alice.nexo(&[&["--pins", pins][..], &strict, &["one"]].concat()).sent();
    // From the environment, as a script has it.
    let mut command = alice.command(&["send", "bob", "two"]);
    run(command.env("NEXO_PIN_POLICY", "pinned").env("NEXO_PINS", pins), b"").sent();
    assert_eq!(bob.received().texts(), ["one", "two"]);
    std::fs::write(alice.file("pins"), "bob\n").unwrap();
    alice.nexo(&["--pins", pins, "send", "bob", "x"]).refused(78);
    alice.nexo(&["--pin-policy", "never", "send", "bob", "x"]).refused(64);
}

#[test]
fn both_sides_see_one_safety_number() {
    let server = Server::start();
    let (alice, bob) = (Person::registered(&server, "alice"), Person::registered(&server, "bob"));
    let seen = alice.nexo(&["verify", "bob"]).line().to_owned();
    assert_eq!(seen.split(' ').count(), 12);
    assert_eq!(bob.nexo(&["verify", "alice"]).line(), seen);
    let words: Vec<&str> = seen.split(' ').collect();
    alice.nexo(&[&["verify", "bob"][..], &words].concat()).ok();
    assert_eq!(alice.nexo(&["pin"]).line(), format!("bob {}", fingerprint(&bob)));
    let wrong: String = seen.chars().map(|c| if c == '1' { '2' } else { c }).collect();
    let wrong = if wrong == seen { seen.replace('3', "4") } else { wrong };
    alice.nexo(&["verify", "bob", &wrong]).refused(80);
    alice.nexo(&["verify", "bob", "12345"]).refused(64);
    alice.nexo(&["verify", "nobody"]).refused(67);
}
