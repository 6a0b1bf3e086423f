//! Linking: a new device comes in by its code, an offer and its own word.

use nexo_schema::bytes::{from_base64, to_base64, to_hex};
use nexo_schema::change::Change;
use nexo_schema::link;
use nexo_schema::sigchain::caps;
use serde_json::{Value, json};

use super::Scene;
use crate::harness::chain::{Drawn, device, full, hash, link_request};
use crate::harness::note::check_receipt;
use crate::harness::{Engine, Native, Snapshot, both, now, number, text};

/// What a person carries from the new device to the old one.
fn code(of: &Native) -> String {
    let key = of.key.verifying_key().to_bytes();
    to_hex(&hash(&link::code(&of.origin, &key))[..link::LINK_ID])
}

/// An offer as it is posted.
fn answer(drawn: &Drawn) -> Value {
    json!({"event": to_base64(&drawn.event), "sig": to_base64(&drawn.sig)})
}

both!(async a_new_device_asks_is_offered_a_place_and_takes_it);
async fn a_new_device_asks_is_offered_a_place_and_takes_it(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let new = scene.alice.sibling(&scene.server);
    let wire = scene.server.wire();
    let request = link_request(&new, b"salt and name");
    let asked = wire.post("/links", &request).await.ok();
    let path = format!("/links/{}", code(&new));
    assert_eq!(asked["link_id"], code(&new), "the relay computes what the person carries");
    assert!(number(&asked["exp"]) <= now() + 600);
    // Alice's device sees what was asked, byte for byte.
    let seen = scene.alice.get(&path).await.ok();
    assert_eq!(seen, asked);
    for field in ["ed25519_pub", "name", "opening", "sig"] {
        assert_eq!(seen[field], request[field], "{field}");
    }
    let before = Snapshot::of(&scene.server).await;
    let drawn = scene.line.draw(&scene.alice.key, &Change::Add(full(&new)));
    scene.alice.post(&format!("{path}/offer"), &answer(&drawn)).await.ok();
    before.unchanged(&scene.server).await;
    // The new device polls, sees whose account it would join, and agrees.
    let offered = wire.get(&path).await.ok();
    let offer = &offered["offer"];
    assert_eq!(
        (&offer["handle"], text(&offer["account_id"])),
        (&json!("alice"), scene.alice.account.to_string())
    );
    assert_eq!(from_base64(offer["event"].as_str().unwrap()).unwrap(), drawn.event);
    before.unchanged(&scene.server).await;
    let accepted = drawn.accepted(&new.key);
    let word = json!({"accept_sig": to_base64(&accepted.accept)});
    let placed = wire.post(&format!("{path}/accept"), &word).await.ok();
    assert_eq!((number(&placed["seq"]), &placed["duplicate"]), (1, &json!(false)));
    check_receipt(&placed["receipt"], &scene.line.entry(&accepted), &scene.server);
    // A lost answer is asked for again.
    let again = wire.post(&format!("{path}/accept"), &word).await.ok();
    assert_eq!((&again["sth_index"], &again["duplicate"]), (&placed["sth_index"], &json!(true)));
    scene.line.took(accepted);
    let new = new.logged_in().await;
    assert_eq!(scene.addressed().await, [scene.alice.device.clone(), new.device.clone()]);
    // The request is used up: the key is in an account.
    wire.post("/links", &request).await.problem(409, "device_taken");
}

both!(async only_what_holds_is_offered_and_taken);
async fn only_what_holds_is_offered_and_taken(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let plain = scene.with(|new| device(new, caps::SEND, 0)).await;
    let new = scene.alice.sibling(&scene.server);
    let (wire, path) = (scene.server.wire(), format!("/links/{}", code(&new)));
    let (offer, accept) = (format!("{path}/offer"), format!("{path}/accept"));
    let add = Change::Add(full(&new));
    let good = scene.line.draw(&scene.alice.key, &add);
    let word =
        |drawn: &Drawn| json!({"accept_sig": to_base64(&drawn.clone().accepted(&new.key).accept)});
    // Before there is a request, and before there is an offer.
    scene.alice.post(&offer, &answer(&good)).await.problem(404, "not_found");
    wire.get(&path).await.problem(404, "not_found");
    wire.post("/links", &link_request(&new, b"")).await.ok();
    wire.post(&accept, &word(&good)).await.problem(404, "not_found");
    // Offers that could not be accepted.
    let before = Snapshot::of(&scene.server).await;
    wire.post(&offer, &answer(&good)).await.problem(401, "unauthorized");
    let by_plain = scene.line.draw(&plain.key, &add);
    plain.post(&offer, &answer(&by_plain)).await.problem(403, "forbidden");
    let forged = Drawn { sig: vec![0; 64], ..good.clone() };
    scene.alice.post(&offer, &answer(&forged)).await.problem(400, "bad_request");
    let moved = scene.line.draw_with(&scene.alice.key, &add, |event| event.seq += 1);
    scene.alice.post(&offer, &answer(&moved)).await.problem(409, "chain_moved");
    let other = scene.alice.sibling(&scene.server);
    let another = scene.line.draw(&scene.alice.key, &Change::Add(full(&other)));
    scene.alice.post(&offer, &answer(&another)).await.problem(400, "bad_request");
    let close = scene.line.draw(&scene.alice.key, &Change::Close);
    scene.alice.post(&offer, &answer(&close)).await.problem(400, "bad_request");
    // Somebody else's chain: the event is of the asking device's account.
    scene.bob.post(&offer, &answer(&good)).await.problem(400, "bad_request");
    assert!(wire.get(&path).await.ok()["offer"].is_null());
    before.unchanged(&scene.server).await;
    // One account answers; it may think again.
    scene.alice.post(&offer, &answer(&good)).await.ok();
    let bobs = crate::harness::chain::Line::of(&scene.bob).draw(&scene.bob.key, &add);
    scene.bob.post(&offer, &answer(&bobs)).await.problem(403, "forbidden");
    let better = scene.line.draw(&scene.alice.key, &Change::Add(device(&new, caps::RECV, 0)));
    scene.alice.post(&offer, &answer(&better)).await.ok();
    // What was not offered last is not accepted, nor by anybody else's key.
    wire.post(&accept, &word(&good)).await.problem(400, "bad_request");
    let by_alice = better.clone().accepted(&scene.alice.key);
    let theirs = json!({"accept_sig": to_base64(&by_alice.accept)});
    wire.post(&accept, &theirs).await.problem(400, "bad_request");
    wire.post(&accept, &json!({"accept_sig": ""})).await.problem(400, "bad_request");
    before.unchanged(&scene.server).await;
    // The chain moves on: the offer is stale, and made again.
    let drawn = scene.revoking(&plain);
    scene.take(drawn).await;
    wire.post(&accept, &word(&better)).await.problem(409, "chain_moved");
    let again = scene.line.draw(&scene.alice.key, &add);
    scene.alice.post(&offer, &answer(&again)).await.ok();
    wire.post(&accept, &word(&again)).await.ok();
}

#[tokio::test]
async fn a_request_is_by_the_key_it_names() {
    let scene = Scene::new(Engine::Sqlite).await;
    let new = scene.alice.sibling(&scene.server);
    let wire = scene.server.wire();
    let good = link_request(&new, b"opening");
    for (field, value) in [
        ("ed25519_pub", json!(crate::harness::plain::public(&scene.bob.key))),
        ("ed25519_pub", json!(to_base64(&[0; 32]))),
        ("ed25519_pub", json!("")),
        ("name", json!(to_base64(&[1; 32]))),
        ("name", json!(to_base64(&[1; 31]))),
        ("opening", json!(to_base64(b"another"))),
        ("sig", json!(to_base64(&[0; 64]))),
        ("sig", json!("")),
    ] {
        let mut body = good.clone();
        body[field] = value;
        wire.post("/links", &body).await.problem(400, "bad_request");
    }
    let long = link_request(&new, &[0; 257]);
    wire.post("/links", &long).await.problem(413, "too_large");
    for id in ["x", &"0".repeat(31), &"A".repeat(32)] {
        wire.get(&format!("/links/{id}")).await.problem(400, "bad_request");
    }
    wire.post("/links", &good).await.ok();
    // Asking again begins anew: what was offered is gone.
    let path = format!("/links/{}", code(&new));
    let drawn = scene.line.draw(&scene.alice.key, &Change::Add(full(&new)));
    scene.alice.post(&format!("{path}/offer"), &answer(&drawn)).await.ok();
    wire.post("/links", &link_request(&new, b"")).await.ok();
    let view = wire.get(&path).await.ok();
    assert!(view["offer"].is_null() && view["opening"].is_null());
}
