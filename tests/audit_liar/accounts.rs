//! Lies about an account: what the log holds of its keys breaks the rules, or is not what the
//! server shows. `nexo-audit keys` finds them; the log as a tree is in order.

use ed25519_dalek::SigningKey;
use nexo_schema::change::Change;
use nexo_schema::sigchain::{Device, Event, GENESIS, Genesis};
use serde_json::{Value, json};

use super::{NOW, Nothing, Observation, Proof, Victim, Worth};
use crate::harness::chain::{Drawn, Line, hash, id_of};
use crate::harness::liar::{Answer, Log, Site};

/// Where the account's entries are, in the order of its events.
const PLACES: [usize; 4] = [3, 300, 590, 595];

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// Alice's first device and recovery key, another device of hers, and somebody else's.
fn people() -> [SigningKey; 4] {
    [11, 12, 13, 14].map(key)
}

fn device(key: &SigningKey) -> Device {
    let key = key.verifying_key().to_bytes();
    Device { key, caps: 7, not_after: 0, name: [5; 32], conversations: vec![] }
}

/// The genesis of an account of Alice's at the log of this name.
fn genesis(origin: &str, first: &SigningKey) -> Drawn {
    let [_, recovery, ..] = people();
    let recovery = recovery.verifying_key().to_bytes();
    let body = Genesis { handle: b"alice", device: device(first), recovery }.encode();
    let event = Event {
        origin: origin.as_bytes(),
        account: [0; 32],
        seq: 0,
        prev: [0; 32],
        kind: GENESIS,
        time_ms: 1_700_000_000_000,
        signer: id_of(first),
        body: &body,
    };
    Drawn::signed(first, event.encode()).accepted(first)
}

/// Alice's account, after its genesis.
fn founded() -> Line {
    let [first, ..] = people();
    let genesis = genesis("liar.example", &first);
    let account = hash(&genesis.event);
    let (origin, handle) = ("liar.example".to_owned(), "alice".to_owned());
    Line { origin, account, handle, seq: 1, prev: account, events: vec![genesis] }
}

/// Adds a device: signed by one, accepted by the new one.
fn added(line: &Line, by: &SigningKey, new: &SigningKey) -> Drawn {
    line.draw(by, &Change::Add(device(new))).accepted(new)
}

fn revoked(line: &Line, by: &SigningKey, old: &SigningKey) -> Drawn {
    line.draw(by, &Change::Revoke { device: id_of(old), reason: b"lost" })
}

/// The honest account: a genesis, a second device, and its end.
fn honest() -> Line {
    let [first, _, second, _] = people();
    let mut line = founded();
    line.took(added(&line, &first, &second));
    line.took(revoked(&line, &first, &second));
    line
}

/// A log of [`NOW`] entries with these events among them, all of which are shown.
fn log(line: &Line, events: &[Drawn]) -> Log {
    Log::of(NOW).but(|log| {
        for (place, event) in PLACES.into_iter().zip(events) {
            log.entries[place] = line.entry(event);
            log.events.insert(place, json!({"native": event.json()}));
        }
    })
}

impl Victim {
    fn keys(&self, url: &str, args: &[&str]) -> crate::harness::shell::Done {
        let mut command = self.auditor.command(&["keys", "alice", url]);
        command.args(&self.vkey).args(["--evidence", self.evidence().to_str().unwrap()]).args(args);
        crate::harness::shell::run(&mut command, b"")
    }

    /// Fails unless `keys` ends so, with evidence of that worth.
    fn finds_of_alice(&self, lie: Site, args: &[&str], end: (i32, &str), worth: Worth) -> Value {
        let _ = std::fs::remove_dir_all(self.evidence());
        let liar = lie.serve();
        let words = self.keys(liar.url(), args);
        words.refused(end.0);
        let json = self.keys(liar.url(), &[args, &["--json"]].concat());
        let object = json.object();
        assert_eq!(
            (&object["code"], &object["verdict"]),
            (&end.0.into(), &end.1.into()),
            "{json:?}"
        );
        drop(liar);
        self.convinces(end.1, worth);
        object
    }
}

/// Fails unless the account with these events is found to break the rules at the last of them.
fn breaks(line: &Line, events: &[Drawn], worth: Worth) {
    let lie = Site::of(&log(line, events));
    let end = (96, "sigchain_violation");
    let found = Victim::who_is_new().finds_of_alice(lie, &[], end, worth);
    assert_eq!(found["detail"]["index"], PLACES[events.len() - 1], "{found}");
}

#[test]
fn the_truth_is_taken() {
    let line = honest();
    let site = Site::of(&log(&line, &line.events)).serve();
    let done = Victim::who_is_new().keys(site.url(), &["--json"]);
    done.ok();
    let shown = done.objects().remove(0);
    let changes: Vec<&Value> =
        shown["events"].as_array().unwrap().iter().map(|event| &event["change"]).collect();
    assert_eq!(changes, ["genesis", "add_device", "revoke_device"]);
}

#[test]
fn e2_a_fork_of_a_chain() {
    let [first, _, second, other] = people();
    let line = founded();
    let (one, two) = (added(&line, &first, &second), added(&line, &first, &other));
    breaks(&line, &[line.events[0].clone(), one, two], Proof);
}

#[test]
fn e7_a_hidden_revocation() {
    let line = honest();
    let end = (96, "sigchain_violation");
    // The log has it; it is not shown, or another event in its place.
    for other in [None, Some(&line.events[1]), Some(&line.events[0])] {
        let hidden = log(&line, &line.events).but(|log| {
            log.events.remove(&PLACES[2]);
            if let Some(event) = other {
                log.events.insert(PLACES[2], json!({"native": event.json()}));
            }
        });
        let victim = Victim::who_is_new();
        let found = victim.finds_of_alice(Site::of(&hidden), &[], end, Observation);
        assert_eq!(found["detail"]["index"], PLACES[2], "{found}");
    }
}

#[test]
fn e7_a_revocation_hidden_in_the_log() {
    let line = honest();
    let log = log(&line, &line.events);
    let without = log.but(|log| log.entries[PLACES[2]] = Log::of(NOW).entries[PLACES[2]].clone());
    let lie = || Site::of(&log).borrowed("tile/entries/002.p/88", &without);
    let end = (93, "entry_mismatch");
    Victim::who_is_new().finds_of_alice(lie(), &[], end, Observation);
    // To somebody whose audit has read these entries before.
    let victim = Victim::who_is_new();
    victim.check(Site::of(&log).serve().url(), &[]).ok();
    let victim = Victim { vkey: vec![], ..victim };
    // `keys` keeps evidence of accounts; that of the tree is for `full`.
    victim.finds_of_alice(lie(), &[], end, Nothing);
}

#[test]
fn e4_a_device_that_nobody_of_the_account_added() {
    let [.., other] = people();
    let line = founded();
    let alone = added(&line, &other, &other);
    breaks(&line, &[line.events[0].clone(), alone], Observation);
    // In the name of the first device.
    let [first, ..] = people();
    let forged = line.draw_as(&other, id_of(&first), &Change::Add(device(&other))).accepted(&other);
    breaks(&line, &[line.events[0].clone(), forged], Observation);
}

#[test]
fn e3_a_device_that_did_not_accept() {
    let [first, _, second, _] = people();
    let line = founded();
    let unasked = line.draw(&first, &Change::Add(device(&second)));
    breaks(&line, &[line.events[0].clone(), unasked], Observation);
}

#[test]
fn e4_a_revoked_device_that_acts() {
    let [_, _, second, other] = people();
    let line = honest();
    let late = added(&line, &second, &other);
    breaks(&line, &[&line.events[..], &[late]].concat(), Observation);
}

#[test]
fn a_revoked_device_that_comes_back() {
    let [first, _, second, _] = people();
    let line = honest();
    let again = added(&line, &first, &second);
    breaks(&line, &[&line.events[..], &[again]].concat(), Observation);
}

#[test]
fn e1_a_second_account_of_the_handle() {
    let [.., other] = people();
    let line = founded();
    let second = genesis("liar.example", &other);
    breaks(&line, &[line.events[0].clone(), second], Observation);
}

#[test]
fn e5_an_event_of_another_log() {
    let [first, ..] = people();
    breaks(&founded(), &[genesis("other.example", &first)], Proof);
}

#[test]
fn e15_a_foreign_device() {
    let [first, _, second, _] = people();
    let mut line = founded();
    line.took(added(&line, &first, &second));
    let site = Site::of(&log(&line, &line.events));
    let victim = Victim::who_is_new();
    let list = victim.auditor.file("expected");
    let known = |keys: &[&SigningKey]| {
        let ids = keys.iter().map(|key| nexo_schema::bytes::to_hex(&id_of(key)) + "\n");
        std::fs::write(&list, ids.collect::<String>()).unwrap();
    };
    let expect = ["--expect", list.to_str().unwrap()];
    known(&[&first, &second]);
    victim.keys(site.clone().serve().url(), &expect).ok();
    known(&[&first]);
    victim.finds_of_alice(site, &expect, (80, "foreign_device"), Observation);
}

#[test]
fn answers_about_keys_that_are_none() {
    let line = honest();
    let site = || Site::of(&log(&line, &line.events));
    let page = format!("log/events?from={}&limit=1", PLACES[1]);
    let victim = Victim::who_is_new;
    for body in [&b"junk"[..], b"\xff", b"[]", &[b' '; 1 << 20]] {
        let lie = site().with(&page, Answer::ok(body));
        victim().finds_of_alice(lie, &[], (65, "bad_data"), Nothing);
    }
    let path = format!("log/inclusion?index={}&size={NOW}", PLACES[1]);
    let lie = || site().with(&path, Answer::ok("{}"));
    victim().finds_of_alice(lie(), &[], (65, "bad_data"), Nothing);
    let other = String::from_utf8(log(&line, &[]).answer(&path).unwrap()).unwrap();
    let lie = site().with(&path, Answer::ok(other));
    victim().finds_of_alice(lie, &[], (81, "inclusion_mismatch"), Nothing);
}
