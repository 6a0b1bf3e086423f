//! A device's end: one position in the log, and nothing of the device behind it (F10, E6).

use std::sync::Arc;
use std::time::{Duration, Instant};

use nexo_schema::change::Change;
use nexo_schema::sigchain::caps;
use serde_json::json;
use tempfile::TempDir;

use super::Scene;
use crate::harness::chain::id_of;
use crate::harness::postgres::database;
use crate::harness::server::Setup;
use crate::harness::{Engine, Native, Snapshot, Socket, both, number, text};

/// How soon an open socket ends (e2ee 4.F10), with room for a busy machine.
const SOON: Duration = Duration::from_secs(10);

both!(async f10_a_revoked_device_is_at_its_end_in_one_position);
async fn f10_a_revoked_device_is_at_its_end_in_one_position(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let lost = scene.alice.sibling(&scene.server);
    let drawn = scene.adding(&lost, crate::harness::chain::full(&lost));
    scene.take(drawn).await;
    let tokens = lost.try_login().await.ok();
    let lost = lost.logged_in().await;
    lost.publish(1..=3).await.ok();
    let alice = &scene.alice;
    let sealed = scene.bob.seal_to(alice.account, &[alice, &lost], "to both");
    let sent = scene.bob.post("/messages", &sealed.body).await.ok();
    let mut reading = lost.socket(&format!("conv_id={}", scene.conv)).await;
    let mut bell = lost.socket("").await;
    let mut hers = alice.socket("").await;

    let late = lost.seal_to(scene.bob.account, &[&scene.bob, alice], "too late");
    let began = Instant::now();
    let drawn = scene.revoking(&lost);
    scene.take(drawn).await;
    // Its sockets end though nobody says anything on them.
    assert_eq!(reading.closed_at_once().await, 4401);
    assert_eq!(bell.closed_after_rings(number(&sent["message"]["sth_index"])).await, 4401);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // Its tokens, old and new, its login and its challenges.
    for path in ["/devices/x25519_pub", "/messages", "/prekeys", "/accounts/bob/bundle"] {
        lost.get(path).await.problem(401, "unauthorized");
    }
    let wire = scene.server.wire();
    wire.post("/auth/refresh", &json!({"refresh": tokens["refresh"]}))
        .await
        .problem(401, "refresh_invalid");
    lost.try_login().await.problem(401, "unauthorized");
    let query = format!("token={}", lost.token());
    assert_eq!(Socket::open(scene.server.url(), &query, &[]).await.closed().await, 4401);
    // Its messages, its deletions, its events.
    let before = Snapshot::of(&scene.server).await;
    lost.post("/messages", &late.body).await.problem(401, "unauthorized");
    let close = scene.line.draw(&lost.key, &Change::Close);
    scene.post(&close).await.problem(403, "forbidden");
    // And nobody writes to it any more.
    let alice = &scene.alice;
    let both = scene.bob.seal_to(alice.account, &[alice, &lost], "to both");
    scene.bob.post("/messages", &both.body).await.problem(409, "device_list_stale");
    before.unchanged(&scene.server).await;
    assert_eq!(scene.addressed().await, [alice.device.as_str()]);
    scene.bob.post("/messages", &scene.bob.seal(alice, "to one").body).await.ok();
    // The others go on.
    assert_eq!(hers.next().await["type"], "head");
}

/// The log's order is the only order: a message is either before the end of its device, or it is
/// refused, however close they come.
#[tokio::test(flavor = "multi_thread")]
async fn e6_no_message_is_logged_behind_its_devices_end() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let mut scene = Scene::new(engine).await;
        let lost = scene.second().await;
        let mut socket = lost.socket("").await;
        let (alice, bob) = (&scene.alice, &scene.bob);
        for n in 0..40 {
            let to = [bob, alice];
            let mut frame = lost.seal_to(bob.account, &to, &format!("{n}")).body;
            frame["type"] = "send".into();
            socket.send(&frame).await;
        }
        let answer = scene.post(&scene.revoking(&lost)).await.ok();
        let end = number(&answer["sth_index"]);
        let page = bob.get("/messages?after=0&limit=1000").await.ok();
        let theirs = page["items"].as_array().unwrap().iter();
        let places = theirs.filter(|item| item["sender_device"] == lost.device.as_str());
        let places: Vec<u64> = places.map(|item| number(&item["sth_index"])).collect();
        assert!(places.iter().all(|&place| place < end), "{places:?} and {end}");
        assert_eq!(socket.closed().await, 4401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_heard_by_the_sockets_of_other_servers() {
    let (database, keys) = (Arc::new(database()), TempDir::new().unwrap());
    let setup = Setup::default().keys(&keys.path().join("keys")).database(database);
    let (here, there) = (setup.clone().start(), setup.start());
    let mut scene = Scene::on(here).await;
    let lost = scene.second().await;
    let token = format!("Bearer {}", lost.token());
    let open = async |query: &str| {
        let opened = Socket::open(there.url(), query, &[("Authorization", &token)]).await;
        opened.settled().await
    };
    let mut reading = open(&format!("conv_id={}", scene.conv)).await;
    let mut bell = open("").await;
    let wire = there.wire().with_token(lost.token());
    wire.get("/devices/x25519_pub").await.ok();
    let began = Instant::now();
    let drawn = scene.revoking(&lost);
    scene.take(drawn).await;
    assert_eq!(reading.closed_at_once().await, 4401);
    assert_eq!(bell.closed_at_once().await, 4401);
    wire.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    // What only a type 7 changes is heard as well.
    let other = scene.second().await;
    let token = format!("Bearer {}", other.token());
    let query = format!("conv_id={}", scene.conv);
    let opened = Socket::open(there.url(), &query, &[("Authorization", &token)]).await;
    let mut reading = opened.settled().await;
    let deaf = Change::Update { device: id_of(&other.key), caps: caps::SEND, not_after: 0 };
    let drawn = scene.line.draw(&scene.alice.key, &deaf);
    scene.take(drawn).await;
    assert_eq!(reading.closed_at_once().await, 4403);
}

both!(async a_recovery_ends_all_sockets_and_a_close_the_last);
async fn a_recovery_ends_all_sockets_and_a_close_the_last(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let second = scene.second().await;
    let mut sockets = [scene.alice.socket("").await, second.socket("").await];
    let fresh = scene.alice.sibling(&scene.server);
    let recover = Change::Recover(crate::harness::chain::full(&fresh));
    let drawn = scene.line.draw(&scene.alice.recovery, &recover).accepted(&fresh.key);
    scene.take(drawn).await;
    for socket in &mut sockets {
        assert_eq!(socket.closed_at_once().await, 4401);
    }
    let fresh = fresh.logged_in().await;
    let mut socket = fresh.socket("").await;
    let drawn = scene.line.draw(&fresh.key, &Change::Close);
    scene.take(drawn).await;
    assert_eq!(socket.closed_at_once().await, 4401);
    // Nobody is there to be written to.
    let late = scene.bob.seal(&fresh, "hello?");
    scene.bob.post("/messages", &late.body).await.problem(409, "device_list_stale");
}

#[tokio::test]
async fn a_login_in_flight_ends_with_its_device() {
    let mut scene = Scene::new(Engine::Sqlite).await;
    let lost = scene.second().await;
    let asked = json!({"handle": "alice", "ed25519_pub": crate::harness::plain::public(&lost.key)});
    let wire = scene.server.wire();
    let challenge = wire.post("/auth/register", &asked).await.ok();
    let drawn = scene.revoking(&lost);
    scene.take(drawn).await;
    let answer = crate::harness::plain::answer(&wire, &lost.key, &challenge).await;
    answer.problem(401, "challenge_invalid");
}

#[tokio::test]
async fn who_gives_out_the_last_prekeys_says_so() {
    let scene = Scene::new(Engine::Sqlite).await;
    let Scene { server, alice, bob, .. } = &scene;
    alice.publish(1..=21).await.ok();
    let mut bell = alice.socket("").await;
    let claim = async |by: &Native| {
        let bundle = by.post("/accounts/alice/bundle", &json!({})).await.ok();
        text(&bundle["devices"][0]["otk_status"])
    };
    assert_eq!(claim(bob).await, "ok", "20 are left, which are enough");
    assert_eq!(claim(bob).await, "ok");
    assert_eq!(bell.next().await, json!({"type": "prekeys_low", "left": 19}));
    let stock = alice.get("/prekeys").await.ok();
    assert_eq!(stock["one_time"].as_array().unwrap().len(), 19);
    // Who never published any is not told.
    let mut his = bob.socket("").await;
    let third = Native::new(server, "carol").await;
    third.conversation("bob").await;
    third.post("/accounts/bob/bundle", &json!({})).await.ok();
    third.post("/messages", &third.seal(bob, "hi").body).await.ok();
    assert_eq!(his.next().await["type"], "head");
}
