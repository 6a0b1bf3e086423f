//! How the relay ends when it is asked to: everybody is told, and nothing that was taken is lost.

use std::io::{Read as _, Write as _};
use std::process::Command;

use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Engine, Plain, Server, Socket, both, number, text};

fn send(conv: &str, n: usize) -> Value {
    json!({"type": "send", "conv_id": conv, "msg_id": format!("m-{n}"),
           "cipher": to_base64(b"hello")})
}

fn signal(server: &Server, name: &str) {
    let id = server.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// A socket that said hello.
async fn stream(of: &Plain, fields: Value) -> Socket {
    let query = format!("token={}", of.token());
    let mut socket = Socket::open(&of.wire.url, &query, &[]).await;
    socket.hello(fields).await;
    socket
}

/// Frames up to and with the bye, and the close code.
async fn to_the_end(socket: &mut Socket) -> (Vec<Value>, u16) {
    let mut frames: Vec<Value> = Vec::new();
    while frames.last().is_none_or(|frame| frame["type"] != "bye") {
        frames.push(socket.next().await);
    }
    (frames, socket.closed_at_once().await)
}

both!(async what_was_taken_is_acked_before_the_bye);
async fn what_was_taken_is_acked_before_the_bye(engine: Engine) {
    const MESSAGES: usize = 400;
    let mut server = engine.setup().args("--grace 20").start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let mut his = stream(&bob, json!({"cursor": "tail", "window": 1, "proofs": false})).await;
    let mut hers = stream(&alice, json!({"proofs": false})).await;
    for n in 0..MESSAGES {
        hers.send(&send(&conv, n)).await;
    }
    // He reads and acks one, so that his place is not the beginning.
    let place = number(&his.next().await["item"]["sth_index"]);
    // A window of one, so that the next message says that the ack was taken.
    his.send(&json!({"type": "ack", "cursor": place})).await;
    let next = his.next().await;
    assert!(number(&next["item"]["sth_index"]) > place);
    signal(&server, "-TERM");
    let (frames, code) = to_the_end(&mut hers).await;
    assert_eq!((code, &frames.last().unwrap()["reason"]), (1001, &json!("shutdown")));
    assert_eq!(frames.last().unwrap()["retry_after"], 1);
    let acked: Vec<&Value> = frames.iter().filter(|frame| frame["type"] == "ack").collect();
    let (frames, code) = to_the_end(&mut his).await;
    let bye = frames.last().unwrap();
    assert_eq!((code, &bye["cursor"]), (1001, &json!(place)));
    drop((his, hers));
    assert!(server.until_ended().success());
    server.restart();
    // Exactly what was acked is there, where the acks said, and he goes on where he was.
    let alice = Plain::log_in(&server.wire(), "alice", alice.key.clone()).await;
    let page = alice.get("/messages?after=0&limit=1000").await.ok();
    let items = page["items"].as_array().unwrap();
    for ack in &acked {
        let item = items.iter().find(|item| item["msg_id"] == ack["msg_id"]);
        assert_eq!(item.expect("it was acked")["sth_index"], ack["sth_index"]);
    }
    assert_eq!(items.len(), acked.len(), "nothing was taken in silence");
    let bob = Plain::log_in(&server.wire(), "bob", bob.key.clone()).await;
    let query = format!("token={}", bob.token());
    let mut socket = Socket::open(&bob.wire.url, &query, &[]).await;
    assert_eq!(socket.hello(json!({"cursor": "tail"})).await["after"], place);
}

#[tokio::test]
async fn the_seeds_sockets_are_closed_without_a_word() {
    let mut server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let mut seed = alice.socket(&conv).await;
    let query = format!("token={}", alice.token());
    let mut bell = Socket::open(server.url(), &query, &[]).await.settled().await;
    signal(&server, "-TERM");
    assert_eq!(seed.closed_at_once().await, 1001);
    assert_eq!(bell.closed_at_once().await, 1001);
    assert!(server.until_ended().success());
}

/// A balancer hears of the end while the relay still serves; a second signal ends the wait.
#[tokio::test]
async fn a_relay_that_drains_is_not_ready_and_still_serves() {
    let mut server = Server::setup().args("--drain 3600").start();
    let wire = server.wire();
    assert_eq!(wire.get("/livez").await.ok(), json!({"status": "live"}));
    assert_eq!(wire.get("/readyz").await.ok(), json!({"status": "ready"}));
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let mut socket = stream(&alice, json!({})).await;
    signal(&server, "-TERM");
    // The signal takes its time to arrive; then it is told on every connection.
    let started = std::time::Instant::now();
    while wire.get("/readyz").await.status == 200 {
        assert!(started.elapsed() < DEADLINE);
    }
    wire.get("/readyz").await.unavailable();
    assert_eq!(wire.get("/livez").await.status, 200);
    alice.say(&conv, "still served").await;
    assert_eq!(socket.next().await["type"], "head");
    assert_eq!(text(&socket.next().await["type"]), "message");
    signal(&server, "-TERM");
    assert_eq!(to_the_end(&mut socket).await.1, 1001);
    drop(socket);
    assert!(server.until_ended().success());
}

/// Who does not answer two pings is gone, whatever its side of the connection thinks.
#[tokio::test]
async fn a_half_open_socket_is_found_by_its_silence() {
    let server = Server::setup().args("--ping-every 1").start();
    let alice = Plain::new(&server, "alice").await;
    let mut lively = stream(&alice, json!({})).await;
    let address = server.address().to_owned();
    let token = alice.token().to_owned();
    let silent = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let upgrade = format!(
            "GET /ws?token={token} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(upgrade.as_bytes()).unwrap();
        // It reads and says nothing: pings come, then the end.
        let mut came = Vec::new();
        stream.read_to_end(&mut came).unwrap();
        came
    });
    // The other one answers while it reads, and outlives it.
    let conv = alice.conversation("alice").await;
    while !silent.is_finished() {
        alice.say(&conv, "tick").await;
        let item = loop {
            let frame = lively.next().await;
            if frame["type"] == "message" {
                break frame["item"].clone();
            }
        };
        lively.send(&json!({"type": "ack", "cursor": item["sth_index"]})).await;
    }
    let came = silent.await.unwrap();
    let start = came.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let (mut rest, mut pings) = (&came[start..], 0);
    while let [kind, len, tail @ ..] = rest {
        assert!(*len < 126, "bells and pings are short");
        pings += usize::from(*kind == 0x89);
        rest = &tail[usize::from(*len)..];
    }
    assert_eq!(pings, 2, "{:?}", &came[start..]);
    alice.say(&conv, "still there").await;
    while lively.next().await["type"] != "message" {}
}
