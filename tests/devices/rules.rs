//! Every event that breaks a rule is refused by its code, and leaves nothing behind.

use ed25519_dalek::SigningKey;
use nexo_schema::bytes::to_base64;
use nexo_schema::change::Change;
use nexo_schema::limits::{MAX_DEVICE_CONVERSATIONS, MAX_DEVICES};
use nexo_schema::sigchain::{Device, caps};
use serde_json::json;

use super::Scene;
use crate::harness::chain::{Drawn, Line, device, full, id_of};
use crate::harness::{Engine, Native, Snapshot, both, now, past, plus_order, random};

/// Posts what is refused, and nothing of it is stored.
async fn refused(scene: &Scene, drawn: &Drawn, status: u16, code: &str) {
    let before = Snapshot::of(&scene.server).await;
    scene.post(drawn).await.problem(status, code);
    before.unchanged(&scene.server).await;
}

both!(async e2_e5_an_event_has_one_place_in_one_chain_of_one_relay);
async fn e2_e5_an_event_has_one_place_in_one_chain_of_one_relay(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let new = scene.alice.sibling(&scene.server);
    let add = Change::Add(full(&new));
    let key = scene.alice.key.clone();
    let draw = |scene: &Scene, alter: fn(&mut nexo_schema::sigchain::Event<'_>)| {
        scene.line.draw_with(&key, &add, alter).accepted(&new.key)
    };
    refused(&scene, &draw(&scene, |event| event.prev = [7; 32]), 409, "chain_moved").await;
    refused(&scene, &draw(&scene, |event| event.seq += 1), 409, "chain_moved").await;
    refused(&scene, &draw(&scene, |event| event.seq = 0), 409, "chain_moved").await;
    refused(&scene, &draw(&scene, |event| event.seq = u64::MAX), 409, "chain_moved").await;
    refused(&scene, &draw(&scene, |event| event.origin = b"other"), 400, "bad_request").await;
    refused(&scene, &draw(&scene, |event| event.account = [7; 32]), 404, "not_found").await;
    for kind in [0, 1, 6, 9] {
        let drawn = scene.line.draw_with(&key, &add, |event| event.kind = kind);
        refused(&scene, &drawn.accepted(&new.key), 400, "bad_request").await;
    }
    // A fork: another event where one is.
    let fork = scene.line.draw(&key, &Change::Close);
    let drawn = scene.adding(&new, full(&new));
    scene.take(drawn.clone()).await;
    refused(&scene, &fork, 409, "chain_moved").await;
    // In bob's chain it is bob's relay that looks, and finds alice's account in it.
    let bobs = Line::of(&scene.bob);
    let moved = bobs.draw_as(&key, id_of(&key), &add).accepted(&new.key);
    refused(&scene, &moved, 403, "forbidden").await;
    let named = bobs.draw_as(&key, id_of(&scene.bob.key), &add).accepted(&new.key);
    refused(&scene, &named, 400, "bad_request").await;
}

both!(async a8_an_event_has_one_signature_and_so_one_entry);
async fn a8_an_event_has_one_signature_and_so_one_entry(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let new = scene.alice.sibling(&scene.server);
    let good = scene.adding(&new, full(&new));
    let twisted = [
        Drawn { sig: plus_order(&good.sig), ..good.clone() },
        Drawn { accept: plus_order(&good.accept), ..good.clone() },
    ];
    for event in &twisted {
        refused(&scene, event, 400, "bad_request").await;
    }
    let first = scene.take(good.clone()).await;
    // Behind it the event has its place: whoever repeats it is told that, and no more is stored.
    let before = Snapshot::of(&scene.server).await;
    for event in twisted.iter().chain([&good]) {
        let again = scene.post(event).await.ok();
        assert_eq!((&again["duplicate"], &again["sth_index"]), (&true.into(), &first["sth_index"]));
    }
    before.unchanged(&scene.server).await;
    // What is served is what was signed.
    let bundle = scene.bob.get("/accounts/alice/bundle").await.ok();
    assert_eq!(bundle["events"][1]["sig"], good.json()["sig"]);
    assert_eq!(bundle["events"][1]["accept_sig"], good.json()["accept_sig"]);
}

both!(async e4_only_an_active_admin_device_of_the_account_signs);
async fn e4_only_an_active_admin_device_of_the_account_signs(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let mallory = SigningKey::from_bytes(&random());
    let new = scene.alice.sibling(&scene.server);
    let add = Change::Add(full(&new));
    let gone = scene.second().await;
    let plain = scene.with(|new| device(new, caps::SEND | caps::RECV, 0)).await;
    let brief = scene.alice.sibling(&scene.server);
    let until = now() + 8;
    let drawn = scene.adding(&brief, device(&brief, caps::ADMIN, until));
    scene.take(drawn).await;
    let drawn = scene.revoking(&gone);
    scene.take(drawn).await;
    let by = |scene: &Scene, key: &SigningKey| scene.line.draw(key, &add).accepted(&new.key);
    refused(&scene, &by(&scene, &mallory), 403, "forbidden").await;
    refused(&scene, &by(&scene, &scene.bob.key), 403, "forbidden").await;
    refused(&scene, &by(&scene, &gone.key), 403, "forbidden").await;
    refused(&scene, &by(&scene, &plain.key), 403, "forbidden").await;
    let name = id_of(&scene.alice.key);
    let forged = scene.line.draw_as(&mallory, name, &add).accepted(&new.key);
    refused(&scene, &forged, 400, "bad_request").await;
    past(&scene.server, until).await;
    refused(&scene, &by(&scene, &brief.key), 403, "forbidden").await;
    // No admin: it ends nobody but itself.
    let end = |of: &Native| Change::Revoke { device: id_of(&of.key), reason: b"" };
    let other = scene.line.draw(&plain.key, &end(&scene.alice));
    refused(&scene, &other, 403, "forbidden").await;
    let drawn = scene.line.draw(&plain.key, &end(&plain));
    scene.take(drawn).await;
    plain.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    // A recovery is signed by the recovery key, in nobody's name.
    let recover = Change::Recover(full(&new));
    let drawn = scene.line.draw(&scene.alice.key, &recover).accepted(&new.key);
    refused(&scene, &drawn, 400, "bad_request").await;
    let drawn = scene.line.draw_as(&scene.alice.recovery, name, &recover).accepted(&new.key);
    refused(&scene, &drawn, 403, "forbidden").await;
}

both!(async e3_nobody_is_added_without_accepting_this_very_event);
async fn e3_nobody_is_added_without_accepting_this_very_event(engine: Engine) {
    let scene = Scene::new(engine).await;
    let new = scene.alice.sibling(&scene.server);
    let good = scene.adding(&new, full(&new));
    let mut missing = good.clone();
    missing.accept.clear();
    refused(&scene, &missing, 400, "bad_request").await;
    let by_admin = good.clone().accepted(&scene.alice.key);
    refused(&scene, &by_admin, 400, "bad_request").await;
    // The acceptance of bob's offer does not make it alice's device.
    let add = Change::Add(full(&new));
    let theirs = Line::of(&scene.bob).draw(&scene.bob.key, &add).accepted(&new.key);
    let replayed = Drawn { accept: theirs.accept, ..good.clone() };
    refused(&scene, &replayed, 400, "bad_request").await;
    // The old recovery key has to agree to its end, and nobody accepts where nothing is to be.
    let rescue = SigningKey::from_bytes(&random());
    let set = Change::SetRecovery(rescue.verifying_key().to_bytes());
    let set = scene.line.draw(&scene.alice.key, &set);
    refused(&scene, &set, 400, "bad_request").await;
    refused(&scene, &set.accepted(&rescue), 400, "bad_request").await;
    let close = scene.line.draw(&scene.alice.key, &Change::Close).accepted(&scene.alice.key);
    refused(&scene, &close, 400, "bad_request").await;
    assert_eq!(scene.post(&good).await.status, 200, "what was refused stands in nobody's way");
}

both!(async an_account_has_sixteen_devices_and_a_key_comes_once);
async fn an_account_has_sixteen_devices_and_a_key_comes_once(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let mut devices = Vec::new();
    for _ in 1..MAX_DEVICES {
        let new = scene.alice.sibling(&scene.server);
        let drawn = scene.adding(&new, device(&new, caps::RECV, 0));
        scene.take(drawn).await;
        devices.push(new);
    }
    let new = scene.alice.sibling(&scene.server);
    refused(&scene, &scene.adding(&new, full(&new)), 409, "device_limit").await;
    let drawn = scene.revoking(&devices[0]);
    scene.take(drawn).await;
    // Who left does not come back, and who is bob's does not come.
    let back = scene.adding(&devices[0], full(&devices[0]));
    refused(&scene, &back, 409, "device_taken").await;
    let bobs = scene.adding(&scene.bob, full(&scene.bob));
    refused(&scene, &bobs, 409, "device_taken").await;
    let nobody = scene.revoking(&devices[0]);
    refused(&scene, &nobody, 400, "bad_request").await;
    let drawn = scene.adding(&new, full(&new));
    scene.take(drawn).await;
}

both!(async what_an_event_says_of_a_device_is_sound);
async fn what_an_event_says_of_a_device_is_sound(engine: Engine) {
    let scene = Scene::new(engine).await;
    let new = scene.alice.sibling(&scene.server);
    let add = |device: Device| scene.adding(&new, device);
    // The point of order one; no signature of it is taken, and the key itself is not.
    let weak = Device {
        key: {
            let mut key = [0; 32];
            key[0] = 1;
            key
        },
        ..full(&new)
    };
    refused(&scene, &add(weak), 400, "bad_request").await;
    refused(&scene, &add(Device { caps: 16, ..full(&new) }), 400, "bad_request").await;
    let conversations = vec![[1; 32]; MAX_DEVICE_CONVERSATIONS + 1];
    refused(&scene, &add(Device { conversations, ..full(&new) }), 413, "too_large").await;
    let name = id_of(&scene.alice.key);
    let update = |caps| Change::Update { device: name, caps, not_after: 0 };
    let stateless = scene.line.draw(&scene.alice.key, &update(caps::ALL));
    refused(&scene, &stateless, 403, "forbidden").await;
    let reason = [b'x'; 65];
    let long = Change::Revoke { device: name, reason: &reason };
    refused(&scene, &scene.line.draw(&scene.alice.key, &long), 400, "bad_request").await;
    let weak = Change::SetRecovery([0; 32]);
    let weak = scene.line.draw(&scene.alice.key, &weak).accepted(&scene.alice.recovery);
    refused(&scene, &weak, 400, "bad_request").await;
}

both!(async a_closed_account_takes_nothing_and_keeps_its_handle);
async fn a_closed_account_takes_nothing_and_keeps_its_handle(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let drawn = scene.line.draw(&scene.alice.key, &Change::Close);
    scene.take(drawn).await;
    let new = scene.alice.sibling(&scene.server);
    let add = scene.adding(&new, full(&new));
    refused(&scene, &add, 409, "chain_ended").await;
    let recover = Change::Recover(full(&new));
    let recover = scene.line.draw(&scene.alice.recovery, &recover).accepted(&new.key);
    refused(&scene, &recover, 409, "chain_ended").await;
    scene.alice.try_login().await.problem(401, "unauthorized");
    let again =
        Native::unregistered(&scene.server, "alice", crate::harness::native::Kind::default());
    let before = Snapshot::of(&scene.server).await;
    let register = scene.server.wire().post("/auth/register", &again.registration()).await;
    register.problem(409, "handle_taken");
    before.unchanged(&scene.server).await;
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let scene = Scene::new(Engine::Sqlite).await;
    let before = Snapshot::of(&scene.server).await;
    let wire = scene.server.wire();
    let good = scene.line.draw(&scene.alice.key, &Change::Close).json();
    for (field, value) in [
        ("event", json!("")),
        ("event", json!("*")),
        ("event", json!(7)),
        ("event", json!(to_base64(&[0; 300]))),
        ("sig", json!("")),
        ("sig", json!(to_base64(&[0; 64]))),
        ("accept_sig", json!("*")),
    ] {
        let mut body = good.clone();
        body[field] = value;
        wire.post("/account/events", &body).await.problem(400, "bad_request");
    }
    let mut long = good.clone();
    long["event"] = to_base64(&vec![0; 5000]).into();
    wire.post("/account/events", &long).await.problem(413, "too_large");
    long["event"] = to_base64(&vec![0; 9000]).into();
    wire.post("/account/events", &long).await.problem(413, "too_large");
    before.unchanged(&scene.server).await;
    wire.post("/account/events", &good).await.ok();
}

#[tokio::test]
async fn strangers_events_are_few() {
    let server = crate::harness::Server::setup().rate_limits().start();
    let alice = Native::new(&server, "alice").await;
    let stray = Line::of(&alice).draw(&SigningKey::from_bytes(&random()), &Change::Close).json();
    let wire = server.wire();
    let mut refused = 0;
    for _ in 0..200 {
        let answer = wire.post("/account/events", &stray).await;
        match answer.status {
            403 => refused += 1,
            _ => {
                answer.problem(429, "rate_limited");
                break;
            }
        }
    }
    assert!((50..200).contains(&refused), "{refused}");
}
