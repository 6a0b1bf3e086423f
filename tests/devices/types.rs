//! Every type of event, in turn, and what others make of the chain.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use nexo_audit::LogKey;
use nexo_audit::sigchain::{Chain, Handle, SignedEvent};
use nexo_schema::bytes::from_base64;
use nexo_schema::change::Change;
use serde_json::Value;

use super::Scene;
use crate::harness::chain::{full, id_of};
use crate::harness::note::{Checkpoint, check_receipt, leaf_hash};
use crate::harness::plain::new_key;
use crate::harness::{Engine, both, number, text};

/// The auditor's rules, which share no code with the relay's, over the events of a page.
fn audited(scene: &Scene, page: &Value) -> Chain {
    let key = LogKey::parse(scene.server.vkey()).unwrap();
    let handle = Handle::parse("alice").unwrap();
    let bytes = |event: &Value, name: &str| from_base64(event[name].as_str().unwrap()).unwrap();
    let mut events = page["events"].as_array().unwrap().iter().map(|event| {
        let signed = SignedEvent {
            event: bytes(event, "event"),
            sig: bytes(event, "sig"),
            accept_sig: bytes(event, "accept_sig"),
        };
        (number(&event["sth_index"]) - 1, signed)
    });
    let (index, genesis) = events.next().unwrap();
    let mut chain = Chain::begin(&key, &handle, index, &genesis).unwrap();
    for (index, signed) in events {
        chain.follow(&key, index, &signed).unwrap();
    }
    chain
}

both!(async every_type_in_turn);
async fn every_type_in_turn(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let (rescue, other) = (new_key(), scene.alice.recovery.clone());
    let second = scene.second().await;
    assert_eq!(scene.addressed().await, [scene.alice.device.clone(), second.device.clone()]);
    let third = scene.with(full).await;

    // The second device is an admin too.
    let update = Change::Update { device: id_of(&third.key), caps: 6, not_after: u64::MAX >> 1 };
    let drawn = scene.line.draw(&second.key, &update);
    scene.take(drawn).await;
    let set = Change::SetRecovery(rescue.verifying_key().to_bytes());
    let drawn = scene.line.draw(&second.key, &set).accepted(&other);
    scene.take(drawn).await;
    let drawn = scene.revoking(&second);
    scene.take(drawn).await;
    assert_eq!(scene.addressed().await, [scene.alice.device.clone(), third.device.clone()]);

    let fresh = scene.alice.sibling(&scene.server);
    let recover = Change::Recover(full(&fresh));
    let old = scene.line.draw(&other, &recover).accepted(&fresh.key);
    scene.post(&old).await.problem(400, "bad_request");
    let drawn = scene.line.draw(&rescue, &recover).accepted(&fresh.key);
    let answer = scene.take(drawn.clone()).await;
    assert_eq!((number(&answer["seq"]), &answer["duplicate"]), (6, &false.into()));
    let entry = scene.line.entry(&drawn);
    assert_eq!(
        check_receipt(&answer["receipt"], &entry, &scene.server),
        number(&answer["sth_index"])
    );
    for gone in [&scene.alice, &second, &third] {
        gone.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    }
    let fresh = fresh.logged_in().await;
    assert_eq!(scene.addressed().await, [fresh.device.as_str()]);

    let drawn = scene.line.draw(&fresh.key, &Change::Close);
    scene.take(drawn).await;
    fresh.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    assert_eq!(scene.addressed().await, Vec::<String>::new());

    let page = scene.bob.get("/accounts/alice/chain").await.ok();
    let chain = audited(&scene, &page);
    assert_eq!(chain.active().count(), 0);
    assert_eq!(chain.devices.len(), 4);
    scene.server.terminate();
    let mut verify = scene.server.command("log verify");
    crate::harness::shell::run(&mut verify, b"").ok();
}

both!(async a_chain_is_read_in_pages_with_proofs);
async fn a_chain_is_read_in_pages_with_proofs(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    for _ in 0..4 {
        let new = scene.alice.sibling(&scene.server);
        let drawn = scene.adding(&new, full(&new));
        scene.take(drawn).await;
    }
    let (mut from, mut seen) = (0, Vec::new());
    loop {
        let path = format!("/accounts/alice/chain?from={from}&limit=2&tree_size=1");
        let page = scene.bob.get(&path).await.ok();
        let head = Checkpoint::verify(page["head"].as_str().unwrap(), scene.server.vkey());
        for event in page["events"].as_array().unwrap() {
            let drawn = &scene.line.events[seen.len()];
            assert_eq!(event["event"], drawn.json()["event"]);
            let place = number(&event["sth_index"]);
            head.holds(&leaf_hash(&scene.line.entry(drawn)), place, &event["inclusion"]);
            seen.push(place);
        }
        assert!(page["consistency"].is_array());
        from = number(&page["next"]);
        assert_eq!(from, seen.len() as u64);
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted());
    let by_id = format!("/accounts/by-id/{}/chain", scene.alice.account);
    let whole = scene.bob.get(&by_id).await.ok();
    assert_eq!(whole["events"].as_array().unwrap().len(), 5);
    assert_eq!(audited(&scene, &whole).active().count(), 5);
    let bundle = scene.bob.get("/accounts/alice/bundle").await.ok();
    let bodies = |of: &Value| -> Vec<String> {
        of["events"].as_array().unwrap().iter().map(|event| text(&event["event"])).collect()
    };
    assert_eq!(bodies(&bundle), bodies(&whole), "the bundle has the whole chain too");
    let beyond = scene.bob.get("/accounts/alice/chain?from=9").await.ok();
    assert_eq!((beyond["events"].as_array().unwrap().len(), &beyond["more"]), (0, &false.into()));
    scene.bob.get("/accounts/nobody/chain").await.problem(404, "not_found");
    scene.bob.get("/accounts/alice/chain?from=x").await.problem(400, "bad_request");
    let stranger = scene.server.wire().get("/accounts/alice/chain").await;
    stranger.problem(401, "unauthorized");
}

both!(async a_retry_is_answered_with_its_first_place_whatever_came_since);
async fn a_retry_is_answered_with_its_first_place_whatever_came_since(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let second = scene.alice.sibling(&scene.server);
    let added = scene.adding(&second, full(&second));
    let first = scene.take(added.clone()).await;
    // A device that ends itself: its own signature is nobody's afterwards.
    let itself = Change::Revoke { device: id_of(&second.key), reason: b"" };
    let ended = scene.line.draw(&second.key, &itself);
    let last = scene.take(ended.clone()).await;
    for (drawn, answer) in [(&added, &first), (&ended, &last), (&added, &first)] {
        let again = scene.post(drawn).await.ok();
        assert_eq!(again["duplicate"], true);
        assert_eq!(again["sth_index"], answer["sth_index"]);
        let place = check_receipt(&again["receipt"], &scene.line.entry(drawn), &scene.server);
        assert_eq!(place, number(&answer["sth_index"]));
    }
    // The same, sent many times at once.
    let third = scene.alice.sibling(&scene.server);
    let drawn = scene.adding(&third, full(&third));
    let answers = join_all((0..8).map(|_| scene.post(&drawn))).await;
    let answers: Vec<Value> = answers.iter().map(|answer| answer.ok()).collect();
    let first = answers.iter().filter(|answer| answer["duplicate"] == false).count();
    let places: BTreeSet<u64> = answers.iter().map(|a| number(&a["sth_index"])).collect();
    assert_eq!((first, places.len()), (1, 1), "{answers:?}");
}

both!(async of_events_that_want_one_place_exactly_one_gets_it);
async fn of_events_that_want_one_place_exactly_one_gets_it(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    for round in 0..4 {
        let new: Vec<_> = (0..8).map(|_| scene.alice.sibling(&scene.server)).collect();
        let drawn: Vec<_> = new.iter().map(|new| scene.adding(new, full(new))).collect();
        let answers = join_all(drawn.iter().map(|drawn| scene.post(drawn))).await;
        let won: Vec<usize> = (0..8).filter(|&n| answers[n].status == 200).collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:?}");
        for (n, answer) in answers.iter().enumerate() {
            if n != won[0] {
                answer.problem(409, "chain_moved");
            }
        }
        scene.line.took(drawn[won[0]].clone());
    }
    let page = scene.bob.get("/accounts/alice/chain").await.ok();
    assert_eq!(audited(&scene, &page).active().count(), 5);
}
