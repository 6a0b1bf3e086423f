//! `send` and `ack`: a socket's way to send and to be told, as sure as a POST.

use nexo_audit::{leaf_hash, verify_inclusion};
use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::plain::{frame, message};
use crate::harness::reader::{Reader, hashes, plain_entry};
use crate::harness::{Native, Plain, Server, Snapshot, Socket, number, text};

/// A server, two plain accounts and their conversation.
async fn pair() -> (Server, Plain, Plain, String) {
    let server = Server::start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    (server, alice, bob, conv)
}

/// The socket without a conversation.
async fn open(of: &Plain) -> Socket {
    let query = format!("token={}", of.token());
    Socket::open(&of.wire.url, &query, &[]).await.settled().await
}

/// A `send` frame with a text as its own ciphertext.
fn send(conv: &str, msg_id: &str, what: &str) -> Value {
    json!({"type": "send", "conv_id": conv, "msg_id": msg_id, "cipher": to_base64(what.as_bytes()),
           "ad": {"type": "text"}})
}

/// The next frame of a type. Others are for others to look at: bells ring when they do.
async fn next(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let frame = socket.next().await;
        if frame["type"] == kind {
            return frame;
        }
        assert_ne!(frame["type"], "nack", "{frame}");
    }
}

async fn refused(socket: &mut Socket, frame: &Value) -> Value {
    socket.send(frame).await;
    loop {
        let answer = socket.next().await;
        assert_ne!(answer["type"], "ack", "{answer}");
        if answer["type"] == "nack" {
            return answer;
        }
    }
}

#[tokio::test]
async fn an_ack_says_what_the_list_says() {
    let (mut server, alice, bob, conv) = pair().await;
    let mut socket = open(&alice).await;
    socket.send(&send(&conv, "m-1", "hello")).await;
    let ack = next(&mut socket, "ack").await;
    let item = &bob.items(&conv).await[0];
    assert_eq!(ack, json!({"type": "ack", "msg_id": "m-1", "sth_index": 3, "ts": item["ts"]}));
    for (field, value) in [("msg_id", &ack["msg_id"]), ("sth_index", &ack["sth_index"])] {
        assert_eq!(item[field], *value, "{field}");
    }
    assert_eq!(item["cipher"], to_base64(b"hello"));
    // An ack is after the commit: a relay that is killed and comes back has what it acked.
    socket.send(&send(&conv, "m-2", "kept")).await;
    next(&mut socket, "ack").await;
    server.kill9();
    server.restart();
    let bob = Plain::log_in(&server.wire(), "bob", bob.key.clone()).await;
    assert_eq!(bob.items(&conv).await[1]["msg_id"], "m-2");
}

#[tokio::test]
async fn any_conversation_of_ones_own_may_be_written_to() {
    let (_server, alice, bob, conv) = pair().await;
    let notes = alice.conversation("alice").await;
    let mut socket = open(&alice).await;
    for (n, conv) in [&conv, &notes, &conv].into_iter().enumerate() {
        socket.send(&send(conv, &format!("m-{n}"), "x")).await;
    }
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(number(&next(&mut socket, "ack").await["sth_index"]));
    }
    places.sort_unstable();
    assert_eq!(places, [3, 4, 5]);
    assert_eq!((alice.items(&notes).await.len(), bob.items(&conv).await.len()), (1, 2));
}

#[tokio::test]
async fn without_an_id_the_ack_tells_the_relays() {
    let (_server, alice, _bob, conv) = pair().await;
    let mut socket = open(&alice).await;
    socket.send(&json!({"type": "send", "conv_id": conv, "cipher": "aGk="})).await;
    let ack = next(&mut socket, "ack").await;
    assert!(ack["msg_id"].as_str().is_some_and(|id| !id.is_empty()));
    let item = &alice.items(&conv).await[0];
    assert_eq!((&item["msg_id"], &item["ad"]), (&ack["msg_id"], &json!({})));
}

#[tokio::test]
async fn on_a_conversations_socket_it_is_acked_and_comes_back() {
    let (_server, alice, bob, conv) = pair().await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    for n in 0..20 {
        let sent = send(&conv, &format!("m-{n}"), "hello");
        hers.send(&sent).await;
        let (one, two) = (hers.next().await, hers.next().await);
        // In either order.
        let (ack, echo) = if one["type"] == "ack" { (one, two) } else { (two, one) };
        assert_eq!(ack["type"], "ack", "{ack} {echo}");
        for field in ["msg_id", "sth_index", "ts"] {
            assert_eq!(ack[field], echo[field], "{field}");
        }
        assert!(echo["type"].is_null());
        assert_eq!((&echo["cipher"], &echo["ad"]), (&sent["cipher"], &sent["ad"]));
        assert_eq!(his.next().await, echo);
    }
    // The seed's envelopes go on beside it, and are not acked.
    hers.send(&frame(&conv, "seed", "x")).await;
    assert_eq!(hers.next().await["msg_id"], "seed");
    hers.send(&frame(&conv, "seed-2", "x")).await;
    assert_eq!(hers.next().await["msg_id"], "seed-2");
}

#[tokio::test]
async fn a_repeated_send_is_acked_with_its_first_place() {
    let (_server, alice, bob, conv) = pair().await;
    let posted = {
        let mut body = message(&conv, "hello");
        body["msg_id"] = "m-1".into();
        alice.post("/messages", &body).await.ok()["message"].clone()
    };
    let (mut general, mut hers) = (open(&alice).await, alice.socket(&conv).await);
    let mut his = bob.socket(&conv).await;
    let expected = json!({"type": "ack", "msg_id": "m-1", "sth_index": posted["sth_index"],
                          "ts": posted["ts"], "duplicate": true});
    general.send(&send(&conv, "m-1", "hello")).await;
    assert_eq!(next(&mut general, "ack").await, expected);
    hers.send(&send(&conv, "m-1", "hello")).await;
    assert_eq!(hers.next().await, expected, "and it does not come back");
    // The next thing anybody sees is the next message: the duplicate was shown to nobody.
    let next_one = alice.say(&conv, "next").await;
    for socket in [&mut hers, &mut his] {
        assert_eq!(socket.next().await["msg_id"], next_one["msg_id"]);
    }
}

#[tokio::test]
async fn what_is_refused_is_nacked_and_the_socket_goes_on() {
    let (server, alice, bob, conv) = pair().await;
    let mallory = Plain::new(&server, "mallory").await;
    let foreign = mallory.conversation("bob").await;
    let (mut general, mut hers) = (open(&alice).await, alice.socket(&conv).await);
    general.send(&send(&conv, "used", "hello")).await;
    next(&mut general, "ack").await;
    assert_eq!(hers.next().await["msg_id"], "used");
    let before = Snapshot::of(&server).await;
    let mut long = send(&conv, "m", "");
    long["cipher"] = to_base64(&[0; 90_000]).into();
    let mut native = send(&conv, "m", "x");
    native["packets"] = json!({});
    let mut version = send(&conv, "m", "x");
    version["ver"] = 2.into();
    for (what, code) in [
        (send(&conv, "used", "other"), "idempotency_conflict"),
        (send(&foreign, "m", "x"), "forbidden"),
        (send(&"00".repeat(32), "m", "x"), "forbidden"),
        (send(&conv, "m", ""), "bad_request"),
        (long, "too_large"),
        (native, "bad_request"),
        (version, "bad_request"),
    ] {
        for socket in [&mut general, &mut hers] {
            let answer = refused(socket, &what).await;
            assert_eq!(
                (&answer["problem"]["code"], &answer["msg_id"]),
                (&json!(code), &what["msg_id"])
            );
        }
    }
    before.unchanged(&server).await;
    // Her own, but not this socket's.
    let own = alice.conversation("alice").await;
    let answer = refused(&mut hers, &send(&own, "m", "x")).await;
    assert_eq!(answer["problem"]["code"], "forbidden");
    before.unchanged(&server).await;
    assert_eq!(bob.items(&foreign).await.len(), 0);
    general.send(&send(&own, "m", "x")).await;
    next(&mut general, "ack").await;
}

#[tokio::test]
async fn what_is_no_send_frame_ends_the_socket() {
    let (server, alice, _bob, conv) = pair().await;
    let before = Snapshot::of(&server).await;
    let with = |field: &str, value: Value| {
        let mut frame = send(&conv, "m", "x");
        frame[field] = value;
        frame
    };
    for wrong in [
        with("type", json!("sent")),
        with("type", json!(1)),
        with("type", json!("ack")),
        with("receipt", json!("yes")),
        with("conv_id", json!("x")),
        with("msg_id", json!("")),
        with("cipher", json!(null)),
        with("dseq", json!(-1)),
        json!({"type": "send"}),
        json!(["send"]),
    ] {
        for mut socket in [open(&alice).await, alice.socket(&conv).await] {
            socket.send(&wrong).await;
            assert_eq!(socket.closed_at_once().await, 4400, "{wrong}");
        }
    }
    // Without a type only where the conversation is in the query.
    let mut socket = open(&alice).await;
    socket.send(&with("type", json!(null))).await;
    assert_eq!(socket.closed_at_once().await, 4400);
    let mut socket = open(&alice).await;
    socket.send_any(Message::binary(send(&conv, "m", "x").to_string().into_bytes())).await;
    assert_eq!(socket.closed_at_once().await, 1003);
    before.unchanged(&server).await;
}

#[tokio::test]
async fn a_receipt_comes_when_asked_for_and_verifies() {
    let (server, alice, _bob, conv) = pair().await;
    let log = Reader::of(&server);
    let mut socket = open(&alice).await;
    for n in 0..30 {
        let id = format!("m-{n}");
        let mut asking = send(&conv, &id, "proven");
        asking["receipt"] = true.into();
        // A second time it is an old entry under a newer head.
        for duplicate in [false, true] {
            socket.send(&asking).await;
            let ack = next(&mut socket, "ack").await;
            assert_eq!((&ack["msg_id"], ack["duplicate"] == true), (&json!(id), duplicate));
            let entry = plain_entry(
                log.origin(),
                &json!({
                    "conv_id": conv, "msg_id": id, "sender_device": alice.device,
                    "cipher": asking["cipher"], "ad": asking["ad"], "ts": ack["ts"],
                }),
            );
            verify(&log, &ack, &entry);
        }
        socket.send(&send(&conv, &format!("unasked-{n}"), "x")).await;
        assert!(next(&mut socket, "ack").await["receipt"].is_null());
    }
}

/// Verifies the receipt of an ack: the entry is in a tree that the log signed.
fn verify(log: &Reader, ack: &Value, entry: &[u8]) {
    let receipt = &ack["receipt"];
    assert_eq!(receipt["sth_index"], ack["sth_index"]);
    let head = log.open(&text(&receipt["head"]));
    let index = number(&ack["sth_index"]) - 1;
    let path = hashes(&receipt["inclusion"]);
    let verdict = verify_inclusion(&leaf_hash(entry), index, head.size, &path, &head.root);
    assert_eq!(verdict, Ok(()), "{ack}");
}

#[tokio::test]
async fn native_devices_send_packets_and_get_receipts_unasked() {
    let server = Server::start();
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    let conv = nora.conversation("otto").await;
    let log = Reader::of(&server);
    for query in [String::new(), format!("conv_id={conv}")] {
        let mut socket = nora.socket(&query).await;
        let sealed = nora.seal(&otto, "secret");
        let mut frame = sealed.body.clone();
        frame["type"] = "send".into();
        socket.send(&frame).await;
        let ack = next(&mut socket, "ack").await;
        assert_eq!(ack["msg_id"], sealed.body["msg_id"]);
        verify(&log, &ack, &sealed.leaf);
        let page = otto.get(&format!("/messages/{conv}?after=0")).await.ok();
        let item = page["items"].as_array().unwrap().last().unwrap();
        assert_eq!((&item["msg_id"], &item["cipher"]), (&ack["msg_id"], &sealed.body["cipher"]));
        assert_eq!(item["packet"], sealed.body["packets"][&otto.device]);
        // As over REST: a used counter is a rollback, and packets are a must.
        let reused = nora.seal_as(&otto, "again", random_message(), number(&frame["dseq"]));
        let mut reused = reused.body;
        reused["type"] = "send".into();
        assert_eq!(refused(&mut socket, &reused).await["problem"]["code"], "state_rollback");
        frame.as_object_mut().unwrap().remove("packets");
        assert_eq!(refused(&mut socket, &frame).await["problem"]["code"], "bad_request");
    }
}

fn random_message() -> nexo_cli::e2ee::MessageId {
    nexo_cli::e2ee::MessageId::from_bytes(crate::harness::random())
}

/// Many in flight at once, from both sides and over both corridors: each is acked once, and
/// both see all of them, in one order, each once.
#[tokio::test]
async fn many_in_flight_are_all_acked_and_seen_once_in_order() {
    const EACH: usize = 300;
    let (_server, alice, bob, conv) = pair().await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    let mut general = open(&alice).await;
    for n in 0..EACH {
        hers.send(&send(&conv, &format!("hers-{n}"), "x")).await;
        his.send(&frame(&conv, &format!("his-{n}"), "x")).await;
        general.send(&send(&conv, &format!("general-{n}"), "x")).await;
    }
    let mut acked = Vec::new();
    while acked.len() < EACH {
        acked.push(text(&next(&mut general, "ack").await["msg_id"]));
    }
    acked.sort();
    acked.dedup();
    assert_eq!(acked.len(), EACH);
    let (mut hers_seen, mut hers_acked) = (Vec::new(), 0);
    while hers_seen.len() < 3 * EACH || hers_acked < EACH {
        let frame = hers.next().await;
        match frame["type"].as_str() {
            Some("ack") => hers_acked += 1,
            None => hers_seen.push(frame),
            Some(_) => panic!("{frame}"),
        }
    }
    let mut his_seen = Vec::new();
    while his_seen.len() < 3 * EACH {
        his_seen.push(his.next().await);
    }
    assert_eq!(his_seen, hers_seen);
    let places: Vec<u64> = his_seen.iter().map(|seen| number(&seen["sth_index"])).collect();
    assert_eq!(places, (3..3 + 3 * EACH as u64).collect::<Vec<_>>());
}

/// A reader that does not read for a while is handed nothing it cannot keep, and misses nothing.
#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    const MESSAGES: usize = 400;
    let (_server, alice, bob, conv) = pair().await;
    let (mut writer, mut slow) = (open(&alice).await, bob.socket(&conv).await);
    let bulk = "x".repeat(60_000);
    // 32 MB: more than the buffers of the wire and the room together.
    for n in 0..MESSAGES {
        writer.send(&send(&conv, &format!("m-{n}"), &bulk)).await;
    }
    for _ in 0..MESSAGES {
        next(&mut writer, "ack").await;
    }
    for n in 0..MESSAGES {
        assert_eq!(slow.next().await["msg_id"], format!("m-{n}"));
    }
}
