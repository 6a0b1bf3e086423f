//! A message asked for again, and answered again: by whom, how often, and with what (PROTOCOL.md 7
//! and 8). What a retry is for is in `sessions`; here is what is refused.

use nexo_schema::bytes::to_base64;
use nexo_schema::limits::{MAX_PACKET, MAX_RETRIES};
use serde_json::{Value, json};

use crate::harness::chain::{Line, full, id_of};
use crate::harness::native::Sealed;
use crate::harness::{Engine, Native, Plain, Reply, Server, Snapshot, both, text};

/// Nora has written to otto, who has two devices, and to whom the second one was new.
struct Scene {
    server: Server,
    nora: Native,
    otto: Native,
    /// Otto's other device, to which nothing is addressed.
    phone: Native,
    line: Line,
    sent: Sealed,
}

impl Scene {
    async fn new(engine: Engine) -> Self {
        let server = engine.start();
        let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
        nora.conversation("otto").await;
        let (sent, _) = nora.say(&otto, "hello").await;
        let mut line = Line::of(&otto);
        let phone = otto.sibling(&server);
        let add = nexo_schema::change::Change::Add(full(&phone));
        let drawn = line.draw(&otto.key, &add).accepted(&phone.key);
        server.wire().post("/account/events", &drawn.json()).await.ok();
        line.took(drawn);
        let phone = phone.logged_in().await;
        Self { server, nora, otto, phone, line, sent }
    }

    fn asking(&self, sender: &Native) -> String {
        let Sealed { conversation, message, .. } = &self.sent;
        format!("/messages/{conversation}/{message}/retry?device_id={}", sender.device)
    }

    fn answering(&self, reader: &Native) -> String {
        let Sealed { conversation, message, .. } = &self.sent;
        format!("/messages/{conversation}/{message}/packets/{}", reader.device)
    }

    /// Otto asks for nora's message.
    async fn ask(&self) -> Reply {
        self.otto.post(&self.asking(&self.nora), &json!({})).await
    }

    /// Nora gives otto this packet.
    async fn give(&self, packet: &[u8]) -> Reply {
        put(&self.nora, &self.answering(&self.otto), packet).await
    }

    /// The message as otto reads it: its packet, and whether it is another than the first.
    async fn read(&self) -> (String, bool) {
        let page = self.otto.get("/messages?after=0").await.ok();
        let items = page["items"].as_array().unwrap();
        assert_eq!(items.len(), 1);
        (text(&items[0]["packet"]), items[0]["resent"] == true)
    }
}

async fn put(by: &Native, path: &str, packet: &[u8]) -> Reply {
    put_json(by, path, &json!({"packet": to_base64(packet)})).await
}

async fn put_json(by: &Native, path: &str, body: &Value) -> Reply {
    by.wire.call("PUT", path, &[], body.to_string().into_bytes()).await
}

both!(async a_packet_takes_the_place_of_the_first_for_its_reader_alone);
async fn a_packet_takes_the_place_of_the_first_for_its_reader_alone(engine: Engine) {
    let scene = Scene::new(engine).await;
    let before = Snapshot::of(&scene.server).await;
    let (first, resent) = scene.read().await;
    assert!(!resent);
    assert_eq!(scene.ask().await.ok(), json!({"asked": 1, "answered": false}));
    // To ask again before there was an answer is the same question.
    assert_eq!(scene.ask().await.ok(), json!({"asked": 1, "answered": false}));
    assert_eq!(scene.read().await, (first, false));
    assert_eq!(scene.give(b"second").await.ok(), json!({"asked": 1, "answered": true}));
    assert_eq!(scene.give(b"second").await.ok(), json!({"asked": 1, "answered": true}));
    assert_eq!(scene.read().await, (to_base64(b"second"), true));
    // The log stays as it is: what was logged was the first packet's hash.
    before.unchanged(&scene.server).await;
    let page = scene.otto.get("/messages?after=0&proofs=1").await.ok();
    let item = &page["items"][0];
    let hashes = item["packet_hashes"].as_object().unwrap();
    assert_eq!(hashes.keys().collect::<Vec<_>>(), [&scene.otto.device]);
}

both!(async a_message_is_asked_for_three_times_and_answered_once_each);
async fn a_message_is_asked_for_three_times_and_answered_once_each(engine: Engine) {
    let scene = Scene::new(engine).await;
    scene.give(b"unasked").await.problem(403, "forbidden");
    for round in 1..=MAX_RETRIES {
        assert_eq!(scene.ask().await.ok(), json!({"asked": round, "answered": false}));
        let packet = format!("packet {round}");
        assert_eq!(scene.give(packet.as_bytes()).await.ok()["answered"], true);
        // Twice the same is a retry of the answer, another packet is a second answer.
        scene.give(packet.as_bytes()).await.ok();
        scene.give(b"another").await.problem(403, "forbidden");
        assert_eq!(scene.read().await, (to_base64(packet.as_bytes()), true));
    }
    let last = scene.read().await;
    scene.ask().await.problem(403, "forbidden");
    scene.give(b"late").await.problem(403, "forbidden");
    assert_eq!(scene.read().await, last);
}

both!(async only_a_device_that_a_message_was_for_asks_for_it);
async fn only_a_device_that_a_message_was_for_asks_for_it(engine: Engine) {
    let scene = Scene::new(engine).await;
    let Scene { server, nora, otto, phone, .. } = &scene;
    let eve = Native::new(server, "eve").await;
    let pam = Plain::new(server, "pam").await;
    let with_pam = nora.conversation("pam").await;
    let asking = scene.asking(nora);
    server.wire().post(&asking, &json!({})).await.problem(401, "unauthorized");
    // Who is in no conversation with the sender, who wrote it, and whose account it was for, but
    // not that device.
    for other in [&eve, nora, phone] {
        other.post(&asking, &json!({})).await.problem(403, "forbidden");
    }
    // A conversation of the asker's own, and its message in another one.
    let own = eve.conversation("otto").await;
    let moved = asking.replace(&scene.sent.conversation.to_string(), &own);
    eve.post(&moved, &json!({})).await.problem(404, "not_found");
    otto.post(&moved, &json!({})).await.problem(404, "not_found");
    // A plain account has no packets, be it in the conversation or not.
    let plain = format!("/messages/{with_pam}/m/retry?device_id={}", nora.device);
    pam.post(&plain, &json!({})).await.problem(403, "forbidden");
    // Another sender of the conversation, and a message that nobody sent.
    otto.post(&scene.asking(otto), &json!({})).await.problem(404, "not_found");
    otto.post(&scene.asking(&eve), &json!({})).await.problem(404, "not_found");
    let unknown = asking.replace(&scene.sent.message.to_string(), &"00".repeat(16));
    otto.post(&unknown, &json!({})).await.problem(404, "not_found");
    for bad in [
        asking.split('?').next().unwrap().to_owned(),
        asking.replace("device_id=", "device_id=%20"),
        asking.replace(&scene.sent.conversation.to_string(), "zz"),
        asking.replace(&scene.sent.message.to_string(), "%00"),
    ] {
        otto.post(&bad, &json!({})).await.problem(400, "bad_request");
    }
    // None of it counted.
    assert_eq!(scene.ask().await.ok()["asked"], 1);
}

both!(async only_the_author_answers_and_only_who_asked);
async fn only_the_author_answers_and_only_who_asked(engine: Engine) {
    let scene = Scene::new(engine).await;
    let Scene { server, nora, otto, phone, .. } = &scene;
    let eve = Native::new(server, "eve").await;
    eve.conversation("otto").await;
    scene.ask().await.ok();
    let first = scene.read().await;
    let answering = scene.answering(otto);
    server
        .wire()
        .call("PUT", &answering, &[], br#"{"packet":"aGk="}"#.to_vec())
        .await
        .problem(401, "unauthorized");
    put(&eve, &answering, b"x").await.problem(403, "forbidden");
    // The reader itself, and the reader's other device, are not the author.
    put(otto, &answering, b"x").await.problem(404, "not_found");
    put(phone, &answering, b"x").await.problem(404, "not_found");
    // Devices that it was not for: the author's own, one of the account, one of nobody.
    for other in [nora, phone, &eve] {
        put(nora, &scene.answering(other), b"x").await.problem(403, "forbidden");
    }
    let unknown = answering.replace(&scene.sent.message.to_string(), &"00".repeat(16));
    put(nora, &unknown, b"x").await.problem(404, "not_found");
    let elsewhere = nora.conversation("eve").await;
    let moved = answering.replace(&scene.sent.conversation.to_string(), &elsewhere);
    put(nora, &moved, b"x").await.problem(404, "not_found");
    // Packets that are none.
    put(nora, &answering, &[]).await.problem(413, "too_large");
    put(nora, &answering, &vec![7; MAX_PACKET + 1]).await.problem(413, "too_large");
    for bad in [json!({}), json!({"packet": "*"}), json!({"packet": 7}), json!({"packet": "aGk"})] {
        put_json(nora, &answering, &bad).await.problem(400, "bad_request");
    }
    assert_eq!(scene.read().await, first, "nothing of it was taken");
    let largest = vec![7; MAX_PACKET];
    scene.give(&largest).await.ok();
    assert_eq!(scene.read().await, (to_base64(&largest), true));
}

both!(async what_was_deleted_is_neither_asked_for_nor_answered);
async fn what_was_deleted_is_neither_asked_for_nor_answered(engine: Engine) {
    let scene = Scene::new(engine).await;
    scene.ask().await.ok();
    let deletion = scene.nora.deletion(&scene.nora.tombstone(&scene.sent));
    scene.nora.post("/messages/delete", &deletion).await.ok();
    scene.give(b"late").await.problem(404, "not_found");
    scene.ask().await.problem(404, "not_found");
    let page = scene.otto.get("/messages?after=0").await.ok();
    assert!(page["items"][0].get("packet").is_none_or(Value::is_null), "{page}");
}

both!(async a_revoked_device_neither_asks_nor_answers);
async fn a_revoked_device_neither_asks_nor_answers(engine: Engine) {
    let mut scene = Scene::new(engine).await;
    scene.nora.conversation("otto").await;
    // To both of otto's, of which one is lost.
    let to = [&scene.otto, &scene.phone];
    let sealed = scene.nora.seal_to(scene.otto.account, &to, "to both");
    scene.nora.post("/messages", &sealed.body).await.ok();
    scene.sent = sealed;
    let asking = scene.asking(&scene.nora);
    scene.phone.post(&asking, &json!({})).await.ok();
    let end =
        |of: &Native| nexo_schema::change::Change::Revoke { device: id_of(&of.key), reason: b"" };
    let drawn = scene.line.draw(&scene.otto.key, &end(&scene.phone));
    scene.server.wire().post("/account/events", &drawn.json()).await.ok();
    scene.phone.post(&asking, &json!({})).await.problem(401, "unauthorized");
    scene.otto.post(&asking, &json!({})).await.ok();
    // The author's own end.
    let line = Line::of(&scene.nora);
    let close = line.draw(&scene.nora.key, &nexo_schema::change::Change::Close);
    scene.server.wire().post("/account/events", &close.json()).await.ok();
    scene.give(b"late").await.problem(401, "unauthorized");
}
