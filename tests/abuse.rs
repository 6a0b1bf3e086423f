//! Clients that do not behave: who stalls, floods, sends garbage, half frames, too much, or nothing.
//! The others go on, and what it costs the relay is bounded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{DEADLINE, Plain, Server, Socket, number};

/// A message's text: large, so that what is held for someone shows.
const LARGE: usize = 60_000;

fn send(conv: &str, id: &str, bytes: usize) -> Value {
    json!({"type": "send", "conv_id": conv, "msg_id": id, "cipher": to_base64(&vec![7; bytes])})
}

/// Memory of the server's that is in RAM, KiB.
fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A connection that has been upgraded and is not read.
fn upgraded(server: &Server, token: &str, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let upgrade = format!(
        "GET /ws?token={token}{query} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        server.address()
    );
    stream.write_all(upgrade.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// A client's text frame; the mask is zero.
fn text_frame(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut frame = vec![0x81];
    match u16::try_from(bytes.len()) {
        Ok(len) if len < 126 => frame.push(0x80 | len.to_be_bytes()[1]),
        Ok(len) => {
            frame.push(0x80 | 126);
            frame.extend(len.to_be_bytes());
        }
        Err(_) => panic!("longer than these tests need"),
    }
    frame.extend([0; 4]);
    frame.extend(bytes);
    frame
}

/// The answer to a send, whatever else comes.
async fn answer(socket: &mut Socket) -> Value {
    loop {
        let frame = socket.next().await;
        if ["ack", "nack"].iter().any(|kind| frame["type"] == *kind) {
            return frame;
        }
    }
}

async fn bell(of: &Plain) -> Socket {
    Socket::open(&of.wire.url, &format!("token={}", of.token()), &[]).await.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stall_cost_a_bounded_amount_and_nobody_else_anything() {
    const STALLED: usize = 8;
    const MESSAGES: usize = 500;
    let server = Server::start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let mut stalled = Vec::new();
    for n in 0..STALLED {
        // Half of them by hello, with the largest window, half on the seed's socket.
        let seed = format!("&conv_id={conv}");
        let mut stream = upgraded(&server, bob.token(), if n % 2 == 0 { "" } else { &seed });
        if n % 2 == 0 {
            let hello = r#"{"type":"hello","after":0,"window":1024}"#;
            stream.write_all(&text_frame(hello)).unwrap();
        }
        stalled.push(stream);
    }
    let mut reader = bell(&bob).await;
    reader.send(&json!({"type": "hello", "after": 0, "window": 2, "proofs": false})).await;
    let mut writer = bell(&alice).await;
    let before = resident(&server);
    let mut read = 0;
    for n in 0..MESSAGES {
        writer.send(&send(&conv, &format!("m-{n}"), LARGE)).await;
        assert_eq!(answer(&mut writer).await["type"], "ack");
        // Each is read before the next one is sent: nobody waits for those who do not.
        while read <= n {
            let frame = reader.next().await;
            if frame["type"] == "message" {
                let cursor = number(&frame["item"]["sth_index"]);
                reader.send(&json!({"type": "ack", "cursor": cursor})).await;
                read += 1;
            }
        }
    }
    let grown = resident(&server).saturating_sub(before);
    // Each of the stalled was sent 40 MB of frames; they were kept for none of them.
    let bound = 120 * 1024;
    assert!(grown < bound, "{grown} KiB for {STALLED} that do not read");
    server.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooder_is_told_to_wait_and_others_go_on() {
    let server = Server::setup().rate_limits().start();
    let (alice, mallory) =
        (Plain::new(&server, "alice").await, Plain::new(&server, "mallory").await);
    let (conv, own) = (alice.conversation("alice").await, mallory.conversation("mallory").await);
    let (mut flood, mut writer) = (bell(&mallory).await, bell(&alice).await);
    // Empty, so that refusing each costs little: what is judged before is the allowance.
    let empty = json!({"type": "send", "conv_id": own, "cipher": ""});
    let (mut judged, mut limited) = (0, 0);
    for round in 0..100 {
        for _ in 0..500 {
            flood.send(&empty).await;
        }
        writer.send(&send(&conv, &format!("m-{round}"), 10)).await;
        assert_eq!(answer(&mut writer).await["type"], "ack");
        for _ in 0..500 {
            let problem = &answer(&mut flood).await["problem"];
            if problem["code"] == "bad_request" {
                judged += 1;
                continue;
            }
            assert_eq!(problem["code"], "rate_limited");
            assert!(number(&problem["retry_after"]) >= 1);
            limited += 1;
        }
        if limited > 0 {
            break;
        }
    }
    assert!(limited > 0 && judged >= 2000, "{judged} {limited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_tokens_is_slowed_down_and_their_neighbour_is_not() {
    let server = Server::setup().rate_limits().start();
    let alice = Plain::new(&server, "alice").await;
    let guess = server.wire().with_token("guess");
    let mut answers = Vec::new();
    while answers.last() != Some(&429) {
        answers.push(guess.get("/devices/x25519_pub").await.status);
        assert!(answers.len() < 2000, "nobody is slowed down");
    }
    assert!(answers.len() > 100 && answers[..100].iter().all(|&status| status == 401));
    alice.get("/devices/x25519_pub").await.ok();
    let mut socket = Socket::open(server.url(), "token=guess", &[]).await;
    assert!([1013, 4401].contains(&socket.closed_at_once().await));
    bell(&alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_socket_alone() {
    let server = Server::start();
    let (alice, mallory) =
        (Plain::new(&server, "alice").await, Plain::new(&server, "mallory").await);
    let conv = alice.conversation("alice").await;
    let mut writer = bell(&alice).await;
    let before = resident(&server);
    for n in 0..60 {
        // Another account: no ring of what alice writes comes in between.
        let mut socket = bell(&mallory).await;
        if n % 2 == 0 {
            socket.hello(json!({})).await;
        }
        let expected = match n % 6 {
            0 | 1 => {
                socket.send_text(["{", "\u{0}", "[[[[", "{\"type\":\"ack\"}"][n / 6 % 4]).await;
                4400
            }
            2 | 3 => {
                socket.send_any(Message::text("x".repeat(300_000))).await;
                1009
            }
            _ => {
                // An opcode that there is not.
                socket.send_raw(&[0x83, 0x80, 0, 0, 0, 0]).await;
                1002
            }
        };
        assert_eq!(socket.closed().await, expected, "{n}");
        writer.send(&send(&conv, &format!("m-{n}"), 10)).await;
        assert_eq!(answer(&mut writer).await["type"], "ack");
    }
    assert!(resident(&server).saturating_sub(before) < 60 * 1024);
    server.sound();
}

/// Connections that begin something and do not go on: half a request, half a frame, the length
/// of a frame that never comes, or nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_and_not_finished_holds_up_nobody() {
    let server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let mut writer = bell(&alice).await;
    let before = resident(&server);
    let mut open = Vec::new();
    for n in 0..100 {
        let mut stream = match n % 4 {
            0 | 1 => TcpStream::connect(server.address()).unwrap(),
            _ => upgraded(&server, alice.token(), ""),
        };
        let begun: &[u8] = match n % 4 {
            0 => b"",
            1 => b"POST /messages HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{\"conv",
            2 => &[0x81, 0x80 | 120, 0, 0, 0, 0, b'{'],
            // A quarter of a MiB is announced, and would be allowed.
            _ => &[0x81, 0x80 | 127, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0],
        };
        stream.write_all(begun).unwrap();
        open.push(stream);
        writer.send(&send(&conv, &format!("m-{n}"), 10)).await;
        assert_eq!(answer(&mut writer).await["type"], "ack");
        alice.get("/health").await.ok();
    }
    assert!(resident(&server).saturating_sub(before) < 60 * 1024);
    drop(open);
    server.sound();
}

/// What the relay says at its usual level names nobody and quotes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_the_relay_quotes_nobody() {
    let server = Server::setup().env("NEXO_LOG", "info").rate_limits().start();
    let (alice, bob) = (
        Plain::new(&server, "alice-in-the-log").await,
        Plain::new(&server, "bob-in-the-log").await,
    );
    let conv = alice.conversation("bob-in-the-log").await;
    let mut socket = bell(&bob).await;
    socket.send(&json!({"type": "hello", "cursor": "cursor-in-the-log", "after": 0})).await;
    let mut body = json!({"conv_id": conv, "msg_id": "msg-in-the-log", "ad": {"ad": "in-the-log"}});
    body["cipher"] = to_base64(b"text-in-the-log").into();
    alice.post("/messages", &body).await.ok();
    while socket.next().await["type"] != "message" {}
    // Refusals of every kind say no more.
    for path in ["/messages?after=in-the-log", "/nowhere/in-the-log", "/messages/in-the-log"] {
        alice.get(path).await.refusal();
        alice
            .wire
            .call("GET", path, &[("X-Request-Id", "id-in-the-log")], Vec::new())
            .await
            .refusal();
    }
    alice.post("/conversations", &json!({"peer_handle": "who-in-the-log"})).await.refusal();
    alice.wire.post_bytes("/messages", "{\"in-the-log").await.refusal();
    server.wire().with_token("token-in-the-log").get("/messages").await.refusal();
    Socket::open(server.url(), "token=token-in-the-log", &[]).await.closed().await;
    socket.send_text("garbage-in-the-log").await;
    socket.closed().await;
    let said = server.stderr();
    let public = to_base64(alice.key.verifying_key().as_bytes());
    for secret in [
        "in-the-log",
        "token=",
        "after=",
        conv.as_str(),
        alice.token(),
        alice.refresh.as_str(),
        alice.account.as_str(),
        alice.device.as_str(),
        public.as_str(),
        body["cipher"].as_str().unwrap(),
    ] {
        assert!(!said.contains(secret), "{secret:?} is in {said}");
    }
}
