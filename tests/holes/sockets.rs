//! A socket is as guarded as a route: at the door, with every frame, and while it is open.

use nexo_cli::e2ee::Capabilities;
use nexo_schema::bytes::to_base64url;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::Scene;
use crate::harness::native::Kind;
use crate::harness::plain::{frame, message};
use crate::harness::proof::{claims_of, jwt};
use crate::harness::{Native, Plain, Server, Snapshot, Socket, now, past, random};

#[tokio::test]
async fn f4_hole_09_strangers_cannot_subscribe() {
    let Scene { server: _server, alice, bob, mallory, conv } = Scene::new().await;
    let nowhere = "00".repeat(32);
    for guess in [&conv, &nowhere] {
        let mut socket = mallory.knock(guess).await;
        assert_eq!(socket.closed().await, 4403, "the same, whether it exists or not");
    }
    // Her bell does not ring for what she may not read: the first ring is for her own message.
    let query = format!("token={}", mallory.token());
    let mut bell = Socket::open(&mallory.wire.url, &query, &[]).await.settled().await;
    alice.say(&conv, "between us").await;
    bob.say(&conv, "yes").await;
    let notes = mallory.conversation("mallory").await;
    let own = mallory.say(&notes, "mine").await;
    let ring = bell.next().await;
    assert_eq!((&ring["type"], &ring["size"]), (&json!("head"), &own["sth_index"]));
}

#[tokio::test]
async fn f5_hole_11_an_envelope_for_another_conversation_is_refused() {
    let Scene { server, alice, bob, mallory, conv } = Scene::new().await;
    let others = mallory.conversation("bob").await;
    let own = alice.conversation("alice").await;
    let mut socket = alice.socket(&conv).await;
    let before = Snapshot::of(&server).await;
    // Not hers, hers but another, and none.
    for elsewhere in [&others, &own, &"00".repeat(32)] {
        socket.send(&frame(elsewhere, "m", "injected")).await;
        let refused = socket.next().await;
        assert_eq!(
            (&refused["type"], &refused["problem"]["code"]),
            (&json!("nack"), &json!("forbidden"))
        );
    }
    before.unchanged(&server).await;
    for (reader, conv) in [(&bob, &others), (&alice, &own), (&alice, &conv)] {
        assert_eq!(reader.items(conv).await.len(), 0);
    }
}

#[tokio::test]
async fn g_hole_13_a_device_that_does_not_exist_gets_no_socket() {
    let secret = to_base64url(&random::<32>());
    let scene = Scene::on(Server::setup().env("JWT_SECRET", &secret).start()).await;
    let head = json!({"typ": "JWT", "alg": "HS256"});
    let mut claims = claims_of(scene.alice.token());
    // Signed by the relay's own key: only looking the device up can tell.
    claims["sub"] = "ghost".into();
    let ghost = jwt(&head, &claims, secret.as_bytes());
    let query = format!("conv_id={}&token={ghost}", scene.conv);
    let mut socket = Socket::open(scene.server.url(), &query, &[]).await;
    assert_eq!(socket.closed().await, 4401);
    let wire = scene.server.wire().with_token(&ghost);
    wire.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    wire.post("/messages", &message(&scene.conv, "x")).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn f10_hole_13_a_devices_end_is_its_sockets_end() {
    let server = Server::start();
    let kind = Kind { caps: Capabilities::FIRST, not_after: now() + 15 };
    let brief = Native::of_kind(&server, "brief", kind).await;
    let (otto, alice) = (Native::new(&server, "otto").await, Plain::new(&server, "alice").await);
    let (with_otto, with_alice) =
        (otto.conversation("brief").await, alice.conversation("brief").await);
    let mut writing = brief.socket(&format!("conv_id={with_otto}")).await;
    let mut reading = brief.socket(&format!("conv_id={with_alice}")).await;
    let mut bell = brief.socket("").await;
    alice.say(&with_alice, "while it lives").await;
    reading.next().await;
    bell.next().await;
    past(&server, kind.not_after).await;
    // The token is valid for a quarter of an hour still; the device is not.
    brief.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    let query = format!("conv_id={with_otto}&token={}", brief.token());
    assert_eq!(Socket::open(server.url(), &query, &[]).await.closed().await, 4401);
    // What it sends over an open socket gets no place, and nobody can write to it.
    let before = Snapshot::of(&server).await;
    writing.send(&brief.seal(&otto, "too late").body).await;
    assert_eq!(writing.next().await["problem"]["code"], "forbidden");
    let late = otto.post("/messages", &otto.seal(&brief, "too late").body).await;
    late.problem(409, "device_list_stale");
    before.unchanged(&server).await;
    // What would have been shown to it ends its sockets instead.
    alice.say(&with_alice, "not for it any more").await;
    assert_eq!(reading.closed_at_once().await, 4401);
    assert_eq!(bell.closed_at_once().await, 4401);
}

#[tokio::test]
async fn hole_14_tokens_are_not_in_the_log_of_the_relay() {
    let scene = Scene::on(Server::setup().env("NEXO_LOG", "trace").start()).await;
    let Scene { server, alice, conv, .. } = &scene;
    let mut socket = alice.socket(conv).await;
    socket.send(&frame(conv, "m-1", "hello")).await;
    socket.next().await;
    // Where a token stands in a query although nobody reads it there, and where things go wrong.
    let secret = alice.token();
    for path in ["/health", "/messages", "/nowhere", "/tile/0/x", "/devices/x25519_pub"] {
        server.wire().get(&format!("{path}?token={secret}")).await;
        alice.get(path).await;
    }
    let nowhere = format!("conv_id={}&token={secret}", "00".repeat(32));
    Socket::open(server.url(), &nowhere, &[]).await.closed().await;
    let garbage = format!("conv_id=*&token={secret}");
    Socket::open(server.url(), &garbage, &[]).await.closed().await;
    let refresh = json!({"refresh": alice.refresh});
    server.wire().post("/auth/refresh", &refresh).await.ok();
    server.wire().post("/auth/refresh", &json!({"refresh": [alice.refresh]})).await.refusal();
    let said = server.stderr();
    assert!(said.len() > 100, "the relay logs, or this shows nothing: {said}");
    // A token's first part is the same for all tokens and no secret.
    let parts = secret.split('.').skip(1).chain([alice.refresh.as_str(), "token="]);
    for part in parts {
        let line = said.lines().find(|line| line.contains(part));
        assert_eq!(line, None, "{part}");
    }
}

#[tokio::test]
async fn f11_hole_47_what_is_no_envelope_ends_the_socket_and_is_not_logged() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let before = Snapshot::of(&server).await;
    for (garbage, code) in [
        (Message::text(""), 4400),
        (Message::text("hello"), 4400),
        (Message::text("{"), 4400),
        (Message::text("null"), 4400),
        (Message::text("{}"), 4400),
        (Message::text(format!("[{}]", frame(&conv, "m", "x"))), 4400),
        (Message::text("[".repeat(100_000)), 4400),
        (Message::binary(frame(&conv, "m", "x").to_string().into_bytes()), 1003),
    ] {
        let mut socket = alice.socket(&conv).await;
        let shown = garbage.to_string();
        socket.send_any(garbage).await;
        let shown = &shown[..shown.len().min(40)];
        assert_eq!(socket.closed().await, code, "{shown}");
    }
    before.unchanged(&server).await;
    // A socket that only rings takes nothing.
    let query = format!("token={}", alice.token());
    let mut bell = Socket::open(server.url(), &query, &[]).await.settled().await;
    bell.send(&frame(&conv, "m", "x")).await;
    assert_eq!(bell.closed().await, 4400);
    before.unchanged(&server).await;
}

#[tokio::test]
async fn f11_hole_47_a_frame_that_is_too_large_is_refused_with_a_close_code() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let before = Snapshot::of(&server).await;
    // The largest that fits is read: it is refused for its cipher, and the socket goes on.
    let mut socket = alice.socket(&conv).await;
    let fits = frame(&conv, "m", &"x".repeat(190_000));
    assert!(fits.to_string().len() < 256 * 1024);
    socket.send(&fits).await;
    assert_eq!(socket.next().await["problem"]["code"], "too_large");
    // RFC 6455 7.4.1: 1009, message too big.
    socket.send_any(Message::text(frame(&conv, "m", &"x".repeat(200_000)).to_string())).await;
    assert_eq!(socket.closed().await, 1009);
    before.unchanged(&server).await;
}
