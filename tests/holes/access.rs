//! Who is in no conversation reads, writes, deletes and learns nothing there; who is in one acts
//! in the own name.

use ed25519_dalek::Signer as _;
use nexo_cli::e2ee::{EnvelopeHash, MessageId};
use nexo_schema::bytes::to_base64;
use serde_json::json;

use super::Scene;
use crate::harness::plain::{frame, message, new_key};
use crate::harness::{Native, Server, Snapshot, random, text};

/// A conversation that does not exist.
const NOWHERE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test]
async fn f4_hole_06_strangers_cannot_read() {
    let Scene { server: _server, alice, bob, mallory, conv } = Scene::new().await;
    alice.say(&conv, "between us").await;
    // The seed's exploit: conversations with both, and what their ids have in common.
    let (one, two) = (mallory.conversation("alice").await, mallory.conversation("bob").await);
    for guess in [&conv, NOWHERE] {
        for query in ["", "?since=0", "?after=0", "?after=0&limit=1000&proofs=1"] {
            mallory.get(&format!("/messages/{guess}{query}")).await.problem(403, "forbidden");
        }
    }
    // What is not theirs looks as if it were not there.
    let hidden = mallory.get(&format!("/messages/{conv}")).await;
    let absent = mallory.get(&format!("/messages/{NOWHERE}")).await;
    assert_eq!((hidden.status, hidden.body), (absent.status, absent.body));
    for (id, other) in [(&one, &two), (&one, &conv), (&two, &conv)] {
        assert_ne!(id, other);
    }
    let all = mallory.get("/messages?after=0").await.ok();
    assert_eq!(all["items"], json!([]));
    assert_eq!(bob.items(&conv).await.len(), 1);
}

#[tokio::test]
async fn f4_hole_07_strangers_cannot_write() {
    let Scene { server, mallory, alice, conv, .. } = Scene::new().await;
    let before = Snapshot::of(&server).await;
    let inside = mallory.post("/messages", &message(&conv, "hi")).await;
    let nowhere = mallory.post("/messages", &message(NOWHERE, "hi")).await;
    inside.problem(403, "forbidden");
    assert_eq!((inside.status, inside.body), (nowhere.status, nowhere.body));
    before.unchanged(&server).await;
    assert_eq!(alice.items(&conv).await.len(), 0);
}

#[tokio::test]
async fn f4_f7_hole_08_only_the_author_deletes() {
    let Scene { server, alice, bob, mallory, conv } = Scene::new().await;
    let hers = alice.say(&conv, "mine").await;
    let id = hers["msg_id"].as_str().unwrap();
    // The same id in another conversation of the thief's own.
    let own = mallory.conversation("mallory").await;
    let before = Snapshot::of(&server).await;
    mallory.delete(&conv, id).await.problem(403, "forbidden");
    mallory.delete(&own, id).await.problem(404, "not_found");
    mallory.delete(NOWHERE, id).await.problem(403, "forbidden");
    bob.delete(&conv, id).await.problem(404, "not_found");
    let other = alice.conversation("alice").await;
    alice.delete(&other, id).await.problem(404, "not_found");
    before.unchanged(&server).await;
    assert_eq!(bob.items(&conv).await, [hers]);
}

#[tokio::test]
async fn f7_hole_08_a_native_deletion_is_signed_by_its_author() {
    let server = Server::start();
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    nora.conversation("otto").await;
    let (sealed, sent) = nora.say(&otto, "mine").await;
    let good = nora.deletion(&nora.tombstone(&sealed));
    let before = Snapshot::of(&server).await;
    let (route, refuse) = ("/messages/delete", (400, "bad_request"));
    let mut bare = good.clone();
    for field in ["statement", "sig"] {
        bare.as_object_mut().unwrap().remove(field);
        nora.post(route, &bare).await.problem(refuse.0, refuse.1);
    }
    // A statement that says something else than it must, signed well.
    let base = nora.tombstone(&sealed);
    let theirs = otto.tombstone(&sealed);
    for bent in [
        nexo_cli::e2ee::Tombstone { origin: "other.example.org", ..base },
        nexo_cli::e2ee::Tombstone { account: otto.account, ..base },
        nexo_cli::e2ee::Tombstone { device: theirs.device, ..base },
        nexo_cli::e2ee::Tombstone { target_envelope: EnvelopeHash::from_bytes([1; 32]), ..base },
    ] {
        nora.post(route, &nora.deletion(&bent)).await.problem(refuse.0, refuse.1);
    }
    let mut other_target = good.clone();
    let elsewhere = nexo_cli::e2ee::Tombstone { target: MessageId::from_bytes(random()), ..base };
    other_target["statement"] = nora.deletion(&elsewhere)["statement"].clone();
    nora.post(route, &other_target).await.problem(refuse.0, refuse.1);
    // The right statement, signed by another key.
    let mut forged = good.clone();
    forged["sig"] = to_base64(&new_key().sign(&base.message()).to_bytes()).into();
    nora.post(route, &forged).await.problem(refuse.0, refuse.1);
    // The other side: with the author's statement, and with one of its own.
    otto.post(route, &good).await.problem(refuse.0, refuse.1);
    otto.post(route, &otto.deletion(&theirs)).await.problem(404, "not_found");
    before.unchanged(&server).await;
    let deleted = nora.post(route, &good).await.ok();
    assert_eq!(deleted["sth_index"], sent["message"]["sth_index"].as_u64().unwrap() + 1);
}

#[tokio::test]
async fn f6_hole_12_the_sender_is_who_holds_the_token() {
    let Scene { server: _server, alice, bob, conv, .. } = Scene::new().await;
    let mut posted = message(&conv, "forged over REST");
    let mut framed = frame(&conv, "m", "forged over WS");
    for body in [&mut posted, &mut framed] {
        body["sender_device"] = bob.device.clone().into();
        body["sender_account"] = bob.account.clone().into();
        body["sth_index"] = 1.into();
        body["ts"] = 1.into();
    }
    let stored = alice.post("/messages", &posted).await.ok()["message"].clone();
    assert_eq!(stored["sender_device"], alice.device);
    assert!(stored["ts"].as_u64().unwrap() > 1 && stored["sth_index"].as_u64().unwrap() > 3);
    let mut socket = alice.socket(&conv).await;
    socket.send(&framed).await;
    let echo = socket.next().await;
    assert_eq!(echo["sender_device"], alice.device);
    assert!(echo["ts"].as_u64().unwrap() > 1 && echo["sth_index"].as_u64().unwrap() > 3);
    for item in bob.items(&conv).await {
        assert_eq!(item["sender_device"], alice.device);
    }
}

#[tokio::test]
async fn hole_36_no_page_is_let_in_by_default_and_none_with_credentials_by_a_star() {
    let evil = [("Origin", "https://evil.test"), ("Access-Control-Request-Method", "POST")];
    for (setup, allowed) in [(Server::setup(), ""), (Server::setup().args("--cors-origin *"), "*")]
    {
        let server = setup.start();
        for (method, path) in [("GET", "/health"), ("OPTIONS", "/messages"), ("GET", "/messages")] {
            let reply = server.wire().call(method, path, &evil, Vec::new()).await;
            assert_eq!(reply.header("access-control-allow-origin"), allowed, "{method} {path}");
            assert_eq!(reply.header("access-control-allow-credentials"), "", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn hole_44_a_conversation_id_tells_nothing_of_its_accounts() {
    let Scene { server: _server, alice, bob, conv, .. } = Scene::new().await;
    assert!(conv.len() == 64 && conv.bytes().all(|b| b"0123456789abcdef".contains(&b)), "{conv}");
    for account in [&alice.account, &bob.account] {
        assert!(!conv.contains(&account[..16]) && !account.contains(&conv[..16]));
    }
}

#[tokio::test]
async fn hole_50_nothing_refers_to_what_does_not_exist() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let before = Snapshot::of(&server).await;
    alice.post("/messages", &message(NOWHERE, "x")).await.problem(403, "forbidden");
    alice.delete(&conv, "never-sent").await.problem(404, "not_found");
    alice.post("/conversations", &json!({"peer_handle": "nobody"})).await.problem(404, "not_found");
    before.unchanged(&server).await;
    // A message for a device that does not exist.
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    nora.conversation("otto").await;
    let before = Snapshot::of(&server).await;
    let mut sealed = nora.seal(&otto, "x").body;
    let packet = sealed["packets"][&otto.device].clone();
    sealed["packets"]["ab".repeat(32)] = packet;
    nora.post("/messages", &sealed).await.problem(409, "device_list_stale");
    before.unchanged(&server).await;
    assert_eq!(text(&json!(nora.handle)), "nora");
}
