//! Evidence about accounts: chains in a log, kept as `nexo-audit keys` keeps them, judged
//! elsewhere.

use super::*;
use crate::finding::Finding;
use crate::keys::Proved;
use crate::sigchain::testchain::{Account as Chain, Person, log_key};
use crate::sigchain::{Body, Handle, SignedEvent, Violation, label};
use crate::testlog::{NOW, ORIGIN, TestLog, enc, oracle_inclusion};

fn alice() -> Handle {
    Handle::parse("alice").unwrap()
}

fn entry(signed: &SignedEvent) -> Vec<u8> {
    let (event, signatures) = (signed.event_hash(), signed.signatures_hash());
    enc("nexo/1/leaf", &[&[1], &label(ORIGIN, &alice()), &event, &signatures])
}

/// A log of 12 entries with these events at leaves 2, 4, 6 and so on.
fn log(events: &[SignedEvent]) -> TestLog {
    let mut log = TestLog::with(12);
    for (event, at) in events.iter().zip((2..).step_by(2)) {
        log.entries[at] = entry(event);
    }
    log
}

fn proved(log: &TestLog, events: &[SignedEvent]) -> Vec<Proved> {
    let hashes = log.hashes();
    let one = |(event, at): (&SignedEvent, usize)| Proved {
        index: at as u64,
        entry: log.entries[at].clone(),
        path: oracle_inclusion(at, &hashes),
        body: Some(Body::Native(event.clone())),
    };
    events.iter().zip((2..).step_by(2)).map(one).collect()
}

fn chain() -> Chain {
    let first = Person::new(1);
    let mut chain = Chain::new("alice", &first, &Person::new(2));
    chain.add(&first, &Person::new(3), 7);
    chain.revoke(&first, &Person::new(3));
    chain
}

/// The evidence of a violation, if it shows one.
fn of(log: &TestLog, proved: &[Proved], cause: Violation) -> Option<Evidence> {
    let index = proved.last().map_or(0, |last| last.index);
    let finding = Finding::SigchainViolation { handle: "alice".into(), index, cause };
    of_account(&log_key(), &finding, &log.head(), &alice(), proved, NOW)
}

fn judged(evidence: &Evidence) -> Judgement {
    let bytes = serde_json::to_vec(evidence).unwrap();
    verify(&Evidence::parse(&bytes).unwrap(), &log_key()).unwrap()
}

#[test]
fn an_account_that_follows_the_rules_is_no_violation() {
    let events = chain().events;
    let log = log(&events);
    let proved = proved(&log, &events);
    assert_eq!(of(&log, &proved, Violation::Previous), None);
    assert_eq!(of(&log, &[], Violation::Previous), None);
    // Its devices are there for everybody to see.
    let finding = Finding::ForeignDevice { handle: "alice".into(), foreign: vec![] };
    let evidence = of_account(&log_key(), &finding, &log.head(), &alice(), &proved, NOW).unwrap();
    assert_eq!(judged(&evidence).standing, Standing::Observation);
    let mut unplaced = proved;
    unplaced[1].path.pop();
    let none = of_account(&log_key(), &finding, &log.head(), &alice(), &unplaced, NOW);
    assert_eq!(none, None);
}

#[test]
fn a_withheld_event_is_observed() {
    let events = chain().events;
    let log = log(&events);
    let mut proved = proved(&log, &events);
    proved[2].body = None;
    let evidence = of(&log, &proved, Violation::Withheld).unwrap();
    let judgement = judged(&evidence);
    assert_eq!(judgement.standing, Standing::Observation);
    assert!(judgement.shows.contains("leaf 6"), "{}", judgement.shows);
}

#[test]
fn an_event_that_was_never_logged_is_observed() {
    let events = chain().events;
    let log = log(&events);
    let mut proved = proved(&log, &events);
    proved[1].body = Some(Body::Native(events[2].clone()));
    let evidence = of(&log, &proved, Violation::NotLogged).unwrap();
    assert_eq!(judged(&evidence).standing, Standing::Observation);
}

/// Whoever leaves out an event makes an honest chain look broken; that proves nothing.
#[test]
fn a_gap_in_the_file_is_no_proof() {
    let events = chain().events;
    let log = log(&events);
    let mut proved = proved(&log, &events);
    proved.remove(1);
    let evidence = of(&log, &proved, Violation::Sequence { expected: 1, found: 2 }).unwrap();
    let judgement = judged(&evidence);
    assert_eq!(judgement.standing, Standing::Observation);
    assert!(judgement.shows.contains("looks for itself"), "{}", judgement.shows);
    proved.remove(0);
    let evidence = of(&log, &proved, Violation::NotGenesis).unwrap();
    assert_eq!(judged(&evidence).standing, Standing::Observation);
}

#[test]
fn two_events_for_one_place_are_proof() {
    let first = Person::new(1);
    let (mut chain, mut fork) = (chain(), chain());
    chain.events.pop();
    fork.events.pop();
    chain.close(&first);
    fork.add(&first, &Person::new(4), 7);
    let events = [chain.events, vec![fork.events[2].clone()]].concat();
    let log = log(&events);
    let mut proved = proved(&log, &events);
    let evidence = of(&log, &proved, Violation::Previous).unwrap();
    let judgement = judged(&evidence);
    assert_eq!(judgement.standing, Standing::Proof, "{}", judgement.shows);
    assert!(judgement.shows.starts_with("the log holds two events number 2"));
    // The two alone are enough; one that the log does not have is not the second.
    proved.drain(..2);
    assert_eq!(judged(&of(&log, &proved, Violation::Previous).unwrap()).standing, Standing::Proof);
    proved[1].body = Some(Body::Native(chain_event()));
    let forged = of(&log, &proved, Violation::Previous).map(|evidence| judged(&evidence).standing);
    assert_ne!(forged, Some(Standing::Proof));
}

/// Another event number 2 of the same account, that no log has.
fn chain_event() -> SignedEvent {
    let mut other = chain();
    other.events.pop();
    other.add(&Person::new(1), &Person::new(9), 7);
    other.events[2].clone()
}

#[test]
fn a_genesis_that_breaks_a_rule_is_proof_by_itself() {
    let stranger = Chain::new("bob", &Person::new(1), &Person::new(2)).events;
    let log = log(&stranger);
    let proved = proved(&log, &stranger);
    let evidence = of(&log, &proved, Violation::Handle).unwrap();
    let judgement = judged(&evidence);
    assert_eq!(judgement.standing, Standing::Proof, "{}", judgement.shows);
    // Of another handle than the entry's the file says nothing.
    let mut other = evidence;
    other.handle = Some("bob".to_owned());
    assert!(verify(&other, &log_key()).is_err());
    other.handle = None;
    assert_eq!(verify(&other, &log_key()), Err(JudgementError::Part { part: "handle" }));
}
