//! Nobody gets into another's account, and nothing is kept of those who prove nothing.

use futures_util::future::join_all;
use nexo_cli::e2ee::DeviceSecret;
use nexo_schema::bytes::to_base64;
use nexo_schema::limits::MAX_CHALLENGES;
use serde_json::json;

use super::{Scene, winners};
use crate::harness::native::{Kind, genesis, genesis_json};
use crate::harness::plain::{answer, new_key, public, registration, signed};
use crate::harness::{Native, Plain, Server, Snapshot, random, text};

#[tokio::test]
async fn f1_hole_01_nobody_registers_over_a_device_id() {
    let server = Server::start();
    let wire = server.wire();
    let named = |handle: &str, key| json!({"handle": handle, "device_id": "laptop", "ed25519_pub": public(key)});
    let (hers, theirs) = (new_key(), new_key());
    // The attacker asks for the name before it is taken, and answers after.
    let early = wire.post("/auth/register", &named("mallory", &theirs)).await.ok();
    let challenge = wire.post("/auth/register", &named("alice", &hers)).await.ok();
    answer(&wire, &hers, &challenge).await.ok();
    let alice = Plain::log_in(&wire, "alice", hers.clone()).await;
    assert_eq!(alice.device, "laptop");
    let before = Snapshot::of(&server).await;
    let mine = alice.get("/devices/x25519_pub").await.ok();
    wire.post("/auth/register", &named("mallory", &theirs)).await.problem(409, "device_taken");
    wire.post("/auth/register", &named("alice", &theirs)).await.problem(409, "handle_taken");
    answer(&wire, &theirs, &early).await.refusal();
    assert_eq!(alice.get("/devices/x25519_pub").await.ok(), mine);
    before.unchanged(&server).await;
}

#[tokio::test]
async fn f1_hole_01_a_native_device_id_is_the_hash_of_its_key() {
    let server = Server::start();
    let alice = Native::new(&server, "alice").await;
    let before = Snapshot::of(&server).await;
    // A plain client cannot even call itself so, with any key.
    for key in [new_key(), alice.key.clone()] {
        let taken = json!({"handle": "mallory", "device_id": alice.device,
                           "ed25519_pub": public(&key)});
        server.wire().post("/auth/register", &taken).await.problem(400, "bad_request");
    }
    // A native one under another id than its own neither.
    let mallory = Native::unregistered(&server, "mallory", Kind::default());
    let mut named = mallory.registration();
    named["device_id"] = alice.device.clone().into();
    server.wire().post("/auth/register", &named).await.problem(400, "bad_request");
    before.unchanged(&server).await;
}

#[tokio::test]
async fn f2_hole_02_nobody_adds_a_device_to_a_handle() {
    let server = Server::start();
    let (wire, theirs) = (server.wire(), new_key());
    // Asked while the handles were free, answered when they were not.
    let mut early = Vec::new();
    for handle in ["alice", "nora"] {
        early.push(wire.post("/auth/register", &registration(handle, &theirs)).await.ok());
    }
    let (alice, nora) = (Plain::new(&server, "alice").await, Native::new(&server, "nora").await);
    let before = Snapshot::of(&server).await;
    for challenge in &early {
        answer(&wire, &theirs, challenge).await.problem(409, "handle_taken");
    }
    for handle in ["alice", "nora", " Alice "] {
        let plain = wire.post("/auth/register", &registration(handle, &theirs)).await;
        plain.problem(409, "handle_taken");
    }
    for handle in ["alice", "nora"] {
        let rival = Native::unregistered(&server, handle, Kind::default());
        let native = wire.post("/auth/register", &rival.registration()).await;
        native.problem(409, "handle_taken");
    }
    before.unchanged(&server).await;
    alice.get("/devices/x25519_pub").await.ok();
    nora.get("/devices/x25519_pub").await.ok();
}

#[tokio::test]
async fn b1_f2_hole_02_a_genesis_must_be_signed_by_its_device_for_this_handle_and_relay() {
    let server = Server::start();
    let nora = Native::unregistered(&server, "nora", Kind::default());
    let good = nora.registration();
    let foreign = DeviceSecret::from_seed(&random());
    let of = |secret: &DeviceSecret, origin: &str, handle: &str| {
        genesis_json(&genesis(secret, origin, handle, Kind::default()))
    };
    let signed_by_another = |field: &str| {
        let mut event = good["genesis"].clone();
        event[field] = of(&foreign, server.origin(), "nora")[field].clone();
        event
    };
    for (what, event) in [
        ("another relay's", of(&nora.secret, "other.example.org", "nora")),
        ("another handle's", of(&nora.secret, server.origin(), "alice")),
        ("another key's", of(&foreign, server.origin(), "nora")),
        ("an event signed by another", signed_by_another("sig")),
        ("a device that did not accept", signed_by_another("accept_sig")),
        (
            "signatures swapped",
            json!({"event": good["genesis"]["event"],
            "sig": good["genesis"]["accept_sig"], "accept_sig": good["genesis"]["sig"]}),
        ),
        ("no event", json!({"event": "", "sig": "", "accept_sig": ""})),
    ] {
        let mut bad = good.clone();
        bad["genesis"] = event;
        let refused = server.wire().post("/auth/register", &bad).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{what}");
    }
    // The same device without any of this is taken.
    server.wire().post("/auth/register", &good).await.ok();
}

#[tokio::test]
async fn hole_03_nothing_is_stored_before_the_key_is_proved() {
    let server = Server::start();
    let (wire, before) = (server.wire(), Snapshot::of(&server).await);
    let mine = new_key();
    let challenge = wire.post("/auth/register", &registration("alice", &mine)).await.ok();
    Native::unregistered(&server, "nora", Kind::default());
    let nora = Native::unregistered(&server, "nora", Kind::default());
    wire.post("/auth/register", &nora.registration()).await.ok();
    // Another's signature, or none to speak of, proves nothing.
    answer(&wire, &new_key(), &challenge).await.problem(401, "challenge_invalid");
    let mut empty = signed(&mine, &challenge);
    empty["signature"] = to_base64(&[0; 64]).into();
    wire.post("/auth/verify", &empty).await.problem(401, "challenge_invalid");
    before.unchanged(&server).await;
    // Abandoned registrations hold no handle.
    let alice = Plain::new(&server, "alice").await;
    assert_ne!(alice.key, mine);
    Native::new(&server, "nora").await;
    answer(&wire, &mine, &challenge).await.problem(409, "handle_taken");
}

#[tokio::test]
async fn hole_17_challenges_are_kept_in_the_database_and_bounded() {
    let mut server = Server::start();
    let key = new_key();
    let mut asked = Vec::new();
    for _ in 0..MAX_CHALLENGES + 4 {
        let request = registration("alice", &key);
        asked.push(server.wire().post("/auth/register", &request).await.ok());
    }
    // They survive the process,
    server.kill9();
    server.restart();
    let wire = server.wire();
    // but a device has so many at most, the newest.
    let mut live = 0;
    for challenge in &asked {
        let answered = answer(&wire, &key, challenge).await;
        live += winners(&[answered], 401, &["challenge_invalid"]);
    }
    assert!((1..=MAX_CHALLENGES).contains(&live), "{live} were live");
}

#[tokio::test]
async fn hole_51_the_device_id_is_told_and_always_the_same() {
    let server = Server::start();
    let key = new_key();
    let first = server.wire().post("/auth/register", &registration("alice", &key)).await.ok();
    let second = server.wire().post("/auth/register", &registration("alice", &key)).await.ok();
    assert_eq!(first["device_id"], second["device_id"]);
    let alice = Plain::log_in(&server.wire(), "alice", key).await;
    assert_eq!(alice.device, first["device_id"]);
    let other = Plain::new(&server, "bob").await;
    assert_ne!(other.device, alice.device);
}

#[tokio::test]
async fn hole_52_one_of_those_who_race_for_a_handle_gets_it() {
    let server = Server::start();
    let wire = server.wire();
    let keys: Vec<_> = (0..8).map(|_| new_key()).collect();
    let mut challenges = Vec::new();
    for key in &keys {
        challenges.push(wire.post("/auth/register", &registration("alice", key)).await.ok());
    }
    let race = keys.iter().zip(&challenges).map(|(key, asked)| answer(&wire, key, asked));
    let answers = join_all(race).await;
    assert_eq!(winners(&answers, 409, &["handle_taken"]), 1);
    let health = wire.get("/health").await.ok();
    assert_eq!((&health["users_count"], &health["sth_count"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn hole_51_a_key_that_is_in_under_one_name_does_not_get_in_under_another() {
    let server = Server::start();
    let (wire, key) = (server.wire(), new_key());
    let named =
        |name: &str| json!({"handle": "alice", "device_id": name, "ed25519_pub": public(&key)});
    let (one, two) = (
        wire.post("/auth/register", &named("one")).await.ok(),
        wire.post("/auth/register", &named("two")).await.ok(),
    );
    answer(&wire, &key, &one).await.ok();
    let before = Snapshot::of(&server).await;
    wire.post("/auth/register", &named("two")).await.problem(409, "device_taken");
    // Asked before, answered after: the same refusal.
    answer(&wire, &key, &two).await.problem(409, "device_taken");
    before.unchanged(&server).await;
}

#[tokio::test]
async fn hole_52_those_who_race_to_open_a_conversation_get_the_same_one() {
    let Scene { server: _server, alice, bob, mallory, .. } = Scene::new().await;
    let opened = (0..8).flat_map(|_| {
        [(&alice, "mallory"), (&mallory, "alice")]
            .map(|(asker, peer)| async move { asker.conversation(peer).await })
    });
    let ids = join_all(opened).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_ne!(ids[0], bob.conversation("alice").await);
}

#[tokio::test]
async fn hole_57_a_closed_relay_takes_no_account() {
    let dir = tempfile::tempdir().unwrap();
    let open = Server::setup().data(dir.path()).start();
    let alice = Plain::new(&open, "alice").await;
    // Asked while it was open, answered when it was closed.
    let late = new_key();
    let asked = open.wire().post("/auth/register", &registration("late", &late)).await.ok();
    drop(open);
    let server = Server::setup().data(dir.path()).args("--registration closed").start();
    let before = Snapshot::of(&server).await;
    let wire = server.wire();
    let refused = wire.post("/auth/register", &registration("bob", &new_key())).await;
    refused.problem(403, "registration_closed");
    let nora = Native::unregistered(&server, "nora", Kind::default());
    let refused = wire.post("/auth/register", &nora.registration()).await;
    refused.problem(403, "registration_closed");
    answer(&wire, &late, &asked).await.problem(403, "registration_closed");
    before.unchanged(&server).await;
    // Those who are in still get in.
    let again = Plain::log_in(&wire, "alice", alice.key).await;
    assert_eq!(text(&json!(again.account)), alice.account);
}
