//! A challenge is for one relay, device and request, and is good once.

use futures_util::future::join_all;
use nexo_schema::bytes::{from_base64, to_base64, to_base64url};
use serde_json::{Value, json};

use super::{Scene, winners};
use crate::harness::plain::{answer, new_key, registration, signed};
use crate::harness::proof::{claims_of, jwt};
use crate::harness::{Plain, Server, Snapshot, plus_order, random, text};

#[tokio::test]
async fn hole_05_known_secrets_are_refused() {
    let thirty_two = "dev_secret_change_me".repeat(2);
    for weak in ["dev_secret_change_me", &thirty_two, "k7#x", &"ab".repeat(40)] {
        let refused = Server::setup().env("JWT_SECRET", weak).try_start().err();
        let refused = refused.unwrap_or_else(|| panic!("{weak} was taken"));
        assert_eq!(refused.code, Some(78), "{refused:?}");
        assert!(!refused.stderr.contains(weak), "the secret is quoted");
    }
    // Where none is configured, two relays have different ones, kept from others.
    let (one, two) = (Server::start(), Server::start());
    let secret = |server: &Server| std::fs::read(server.data().join("jwt.secret")).unwrap();
    assert_ne!(secret(&one), secret(&two));
    let alice = Plain::new(&one, "alice").await;
    let head = json!({"typ": "JWT", "alg": "HS256"});
    let forged = jwt(&head, &claims_of(alice.token()), b"dev_secret_change_me");
    let refused = one.wire().with_token(&forged).get("/devices/x25519_pub").await;
    refused.problem(401, "unauthorized");
}

#[tokio::test]
async fn f3_hole_15_a_challenge_is_good_once() {
    let server = Server::start();
    let (wire, key) = (server.wire(), new_key());
    // The first makes the account, the second is a login: neither is good again.
    for round in ["new", "known"] {
        let challenge = wire.post("/auth/register", &registration("alice", &key)).await.ok();
        answer(&wire, &key, &challenge).await.ok();
        let replayed = answer(&wire, &key, &challenge).await;
        assert_eq!(replayed.problem(401, "challenge_invalid")["status"], 401, "{round}");
    }
}

#[tokio::test]
async fn f3_hole_15_of_concurrent_uses_exactly_one_wins() {
    let server = Server::start();
    let (wire, key) = (server.wire(), new_key());
    for round in ["new", "known", "known"] {
        let challenge = wire.post("/auth/register", &registration("alice", &key)).await.ok();
        let uses = (0..12).map(|_| answer(&wire, &key, &challenge));
        let answers = join_all(uses).await;
        assert_eq!(winners(&answers, 401, &["challenge_invalid"]), 1, "{round}");
    }
    assert_eq!(wire.get("/health").await.ok()["sth_count"], 1, "one account, one entry");
}

#[tokio::test]
async fn f3_hole_15_asking_in_anothers_name_voids_no_challenge() {
    let server = Server::start();
    let (wire, key) = (server.wire(), new_key());
    let hers = wire.post("/auth/register", &registration("alice", &key)).await.ok();
    for n in 0..7 {
        // Handle and key are public; so anybody can ask.
        let theirs = wire.post("/auth/register", &registration("alice", &key)).await.ok();
        assert_ne!(theirs["nonce"], hers["nonce"], "{n}");
    }
    answer(&wire, &key, &hers).await.ok();
}

#[tokio::test]
async fn f3_hole_16_a_signature_serves_one_relay_one_device_and_one_request() {
    let (server, other) = (Server::start(), Server::start());
    let (wire, key) = (server.wire(), new_key());
    let challenge = wire.post("/auth/register", &registration("alice", &key)).await.ok();
    let nonce = text(&challenge["nonce"]);
    // A relay that passes on another relay's nonce gets a signature that serves it alone.
    let foreign = other.wire().post("/auth/register", &registration("alice", &key)).await.ok();
    assert!(text(&foreign["nonce"]).contains(other.origin()));
    answer(&wire, &key, &foreign).await.problem(401, "challenge_invalid");
    // Each word counts: the signed bytes are the whole line.
    let words: Vec<&str> = nonce.split(' ').collect();
    for n in 0..words.len() {
        let mut changed = words.clone();
        changed[n] = "x";
        let bent = json!({"nonce": changed.join(" "), "device_id": challenge["device_id"]});
        answer(&wire, &key, &bent).await.problem(401, "challenge_invalid");
    }
    // Another device's answer, or an answer in another device's name.
    answer(&wire, &new_key(), &challenge).await.problem(401, "challenge_invalid");
    let bob = new_key();
    let his = wire.post("/auth/register", &registration("bob", &bob)).await.ok();
    let mut crossed = signed(&key, &challenge);
    crossed["device_id"] = his["device_id"].clone();
    wire.post("/auth/verify", &crossed).await.problem(401, "challenge_invalid");
    answer(&wire, &key, &challenge).await.ok();
}

#[tokio::test]
async fn f3_hole_16_what_is_signed_is_consent_to_one_request() {
    let server = Server::start();
    let (wire, key) = (server.wire(), new_key());
    // One key, two handles asked for: the answer to the second says nothing about the first.
    let first = wire.post("/auth/register", &registration("first", &key)).await.ok();
    let second = wire.post("/auth/register", &registration("second", &key)).await.ok();
    let tokens = answer(&wire, &key, &second).await.ok();
    assert_eq!(claims_of(tokens["access"].as_str().unwrap())["hdl"], "second");
    // The first challenge asked for another account than the key now has.
    answer(&wire, &key, &first).await.problem(409, "device_taken");
    let user = Plain::new(&server, "first").await;
    assert_ne!(user.key, key, "the first handle was still free");
}

#[tokio::test]
async fn hole_35_a_signature_of_any_shape_is_refused_not_stumbled_over() {
    let server = Server::start();
    let (wire, key) = (server.wire(), new_key());
    let challenge = wire.post("/auth/register", &registration("alice", &key)).await.ok();
    let good = signed(&key, &challenge);
    let with = |signature: Value| json!({"device_id": good["device_id"], "signature": signature});
    let bytes = from_base64(good["signature"].as_str().unwrap()).unwrap();
    for length in [0, 1, 32, 63, 65, 128, 4096] {
        let odd: Vec<u8> = bytes.iter().copied().cycle().take(length).collect();
        let refused = wire.post("/auth/verify", &with(to_base64(&odd).into())).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{length} bytes");
    }
    for odd in [json!(null), json!(7), json!({}), json!("*"), json!(to_base64url(&bytes))] {
        wire.post("/auth/verify", &with(odd)).await.problem(400, "bad_request");
    }
    // The same signature with S + L is another spelling of it, and refused (RFC 8032 5.1.7).
    let malleated = with(to_base64(&plus_order(&bytes)).into());
    wire.post("/auth/verify", &malleated).await.problem(401, "challenge_invalid");
    wire.post("/auth/verify", &good).await.ok();
}

#[tokio::test]
async fn g_hole_37_a_token_names_its_relay_and_serves_no_other() {
    let secret = to_base64url(&random::<32>());
    let start = |origin| Server::setup().env("JWT_SECRET", &secret).args(origin).start();
    let (one, two) = (start("--origin one.example.org"), start("--origin two.example.org"));
    let key = new_key();
    let (here, there) = (
        Plain::log_in(&one.wire(), "alice", key.clone()).await,
        Plain::log_in(&two.wire(), "alice", key).await,
    );
    let claims = claims_of(here.token());
    for name in ["sub", "hdl", "iss", "aud", "iat", "nbf", "exp", "jti"] {
        assert!(!claims[name].is_null(), "{name}: {claims}");
    }
    assert_eq!(claims["aud"], "one.example.org");
    assert_ne!(claims["jti"], claims_of(there.token())["jti"]);
    // Same secret, same device, same handle: only the audience differs.
    assert_eq!(here.device, there.device);
    let crossed = two.wire().with_token(here.token()).get("/devices/x25519_pub").await;
    crossed.problem(401, "unauthorized");
}

#[tokio::test]
async fn f12_hole_45_handles_cannot_be_tried_at_speed() {
    let scene = Scene::on(Server::setup().rate_limits().start()).await;
    let before = Snapshot::of(&scene.server).await;
    let mut limited = None;
    for n in 0..80 {
        let guess = json!({"peer_handle": format!("guess{n}")});
        let reply = scene.mallory.post("/conversations", &guess).await;
        if reply.status == 429 {
            limited = Some(reply);
            break;
        }
        reply.problem(404, "not_found");
    }
    let limited = limited.expect("80 guesses in a row were answered");
    let problem = limited.problem(429, "rate_limited");
    let wait: u64 = limited.header("retry-after").parse().unwrap();
    assert!(wait >= 1 && problem["retry_after"] == wait, "{limited:?}");
    // The limit is the guesser's own.
    assert_eq!(scene.alice.conversation("bob").await, scene.conv);
    before.unchanged(&scene.server).await;
}

#[tokio::test]
async fn f12_hole_45_verify_tells_nothing_of_which_devices_exist() {
    let Scene { server, alice, .. } = Scene::new().await;
    let key = new_key();
    let guess = |device: &str| signed(&key, &json!({"nonce": "x", "device_id": device}));
    let known = server.wire().post("/auth/verify", &guess(&alice.device)).await;
    let unknown = server.wire().post("/auth/verify", &guess("no-such-device")).await;
    known.problem(401, "challenge_invalid");
    assert_eq!((known.status, known.body), (unknown.status, unknown.body));
}
