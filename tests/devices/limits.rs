//! Devices that may do less than all, and until when.

use nexo_schema::change::Change;
use nexo_schema::sigchain::{Device, caps};

use super::Scene;
use crate::harness::chain::{device, id_of};
use crate::harness::{Engine, Native, Snapshot, Socket, both, now, past};

both!(async without_recv_nothing_is_read);
async fn without_recv_nothing_is_read(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let sender = scene.with(|new| device(new, caps::SEND, 0)).await;
    assert_eq!(scene.addressed().await, [scene.alice.device.clone()], "it is not addressed");
    sender.get("/messages").await.problem(403, "forbidden");
    sender.get(&format!("/messages/{}", scene.conv)).await.problem(403, "forbidden");
    let query = format!("conv_id={}&token={}", scene.conv, sender.token());
    assert_eq!(Socket::open(scene.server.url(), &query, &[]).await.closed().await, 4403);
    // It sends, over REST and over a socket that does not ring for it.
    let mut socket = sender.socket("").await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let mut frame = sender.seal_to(bob.account, &[bob, alice], "over a socket").body;
    frame["type"] = "send".into();
    socket.send(&frame).await;
    assert_eq!(socket.next().await["type"], "ack");
    let body = sender.seal_to(bob.account, &[bob, alice], "over REST").body;
    sender.post("/messages", &body).await.ok();
    let mut frame = sender.seal_to(bob.account, &[bob, alice], "again").body;
    frame["type"] = "send".into();
    socket.send(&frame).await;
    assert_eq!(socket.next().await["type"], "ack", "no bell in between");
}

both!(async without_send_nothing_is_written);
async fn without_send_nothing_is_written(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let reader = scene.with(|new| device(new, caps::RECV, 0)).await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let sealed = bob.seal_to(alice.account, &[alice, &reader], "to read");
    bob.post("/messages", &sealed.body).await.ok();
    let before = Snapshot::of(&scene.server).await;
    let body = reader.seal_to(bob.account, &[bob, alice], "no").body;
    reader.post("/messages", &body).await.problem(403, "forbidden");
    let add = Change::Close;
    let drawn = scene.line.draw(&reader.key, &add);
    scene.post(&drawn).await.problem(403, "forbidden");
    before.unchanged(&scene.server).await;
    let page = reader.get("/messages").await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert!(page["items"][0]["packet"].is_string());
    // An event can give it what it lacks, at once.
    let more =
        Change::Update { device: id_of(&reader.key), caps: caps::SEND | caps::RECV, not_after: 0 };
    let drawn = scene.line.draw(&scene.alice.key, &more);
    scene.take(drawn).await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let body = reader.seal_to(bob.account, &[bob, alice], "now").body;
    reader.post("/messages", &body).await.ok();
}

both!(async a_limited_device_knows_its_conversations_alone);
async fn a_limited_device_knows_its_conversations_alone(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let carol = Native::new(&scene.server, "carol").await;
    let other = carol.conversation("alice").await;
    let allowed = nexo_schema::bytes::from_hex::<32>(&scene.conv).unwrap();
    let limited =
        scene.with(|new| Device { conversations: vec![allowed], ..device(new, 6, 0) }).await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    // In its conversation it is a device like others.
    let body = bob.seal_to(alice.account, &[alice], "without it").body;
    bob.post("/messages", &body).await.problem(409, "device_list_stale");
    let body = bob.seal_to(alice.account, &[alice, &limited], "with it").body;
    bob.post("/messages", &body).await.ok();
    let body = limited.seal_to(bob.account, &[bob, alice], "yes").body;
    limited.post("/messages", &body).await.ok();
    let page = limited.get(&format!("/messages/{}", scene.conv)).await.ok();
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    // Elsewhere it does not exist.
    let body = carol.seal_to(alice.account, &[alice, &limited], "with it").body;
    carol.post("/messages", &body).await.problem(409, "device_list_stale");
    carol.post("/messages", &carol.seal(alice, "without it").body).await.ok();
    limited.get(&format!("/messages/{other}")).await.problem(403, "forbidden");
    limited.get("/messages").await.problem(403, "forbidden");
    let body = limited.seal_to(carol.account, &[&carol, alice], "no").body;
    limited.post("/messages", &body).await.problem(403, "forbidden");
    let query = format!("conv_id={other}&token={}", limited.token());
    assert_eq!(Socket::open(scene.server.url(), &query, &[]).await.closed().await, 4403);
    scene.server.terminate();
    crate::harness::shell::run(&mut scene.server.command("log verify"), b"").ok();
}

both!(async a_device_ends_when_its_time_is_over_and_lives_on_when_it_is_given_more);
async fn a_device_ends_when_its_time_is_over_and_lives_on_when_it_is_given_more(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    let until = now() + 8;
    let brief = scene.with(|new| device(new, 6, until)).await;
    past(&scene.server, until).await;
    brief.get("/devices/x25519_pub").await.problem(401, "unauthorized");
    brief.try_login().await.problem(401, "unauthorized");
    let (alice, bob) = (&scene.alice, &scene.bob);
    let body = bob.seal_to(alice.account, &[alice, &brief], "to both").body;
    bob.post("/messages", &body).await.problem(409, "device_list_stale");
    let more = Change::Update { device: id_of(&brief.key), caps: 6, not_after: 0 };
    let drawn = scene.line.draw(&scene.alice.key, &more);
    scene.take(drawn).await;
    brief.get("/devices/x25519_pub").await.ok();
    let (alice, bob) = (&scene.alice, &scene.bob);
    let body = bob.seal_to(alice.account, &[alice, &brief], "to both").body;
    bob.post("/messages", &body).await.ok();
}
