//! The seed's socket: `/ws?conv_id=&token=`, envelopes both ways, close code 4401.

use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};

use crate::harness::plain::{frame, message};
use crate::harness::{Engine, Plain, Server, Socket, both, number};

/// A server, two plain accounts and their conversation.
async fn pair(engine: Engine) -> (Server, Plain, Plain, String) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    (server, alice, bob, conv)
}

both!(async an_envelope_reaches_both_sides_in_the_shape_it_was_sent);
async fn an_envelope_reaches_both_sides_in_the_shape_it_was_sent(engine: Engine) {
    let (_server, alice, bob, conv) = pair(engine).await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    let sent = frame(&conv, "m-1", "hello");
    hers.send(&sent).await;
    let echo = hers.next().await;
    assert_eq!(his.next().await, echo);
    for field in ["ver", "conv_id", "msg_id", "cipher", "ad"] {
        assert_eq!(echo[field], sent[field], "{field}");
    }
    assert_eq!((&echo["sender_device"], &echo["sth_index"]), (&json!(alice.device), &json!(3)));
    // Both ways, on the same sockets.
    his.send(&frame(&conv, "m-2", "hi")).await;
    assert_eq!(hers.next().await["sth_index"], 4);
    assert_eq!(his.next().await["sender_device"], bob.device);
    // REST shows what was sent over the socket, nonce first.
    let items = alice.items(&conv).await;
    assert_eq!(items[0]["cipher"], to_base64(&[&[7; 24][..], b"hello"].concat()));
    for field in ["msg_id", "sender_device", "ts", "sth_index", "ad"] {
        assert_eq!(items[0][field], echo[field], "{field}");
    }
    assert_eq!(items.len(), 2);
}

both!(async an_envelope_with_its_cipher_in_one_string_stays_so);
async fn an_envelope_with_its_cipher_in_one_string_stays_so(engine: Engine) {
    let (_server, alice, _bob, conv) = pair(engine).await;
    let mut socket = alice.socket(&conv).await;
    let mut sent = frame(&conv, "m-1", "");
    sent["cipher"] = to_base64(b"whole").into();
    socket.send(&sent).await;
    assert_eq!(socket.next().await["cipher"], sent["cipher"]);
    assert_eq!(alice.items(&conv).await[0]["cipher"], sent["cipher"]);
}

both!(async the_least_envelope_gets_an_id_and_an_empty_ad);
async fn the_least_envelope_gets_an_id_and_an_empty_ad(engine: Engine) {
    let (_server, alice, _bob, conv) = pair(engine).await;
    let mut socket = alice.socket(&conv).await;
    socket.send(&json!({"conv_id": conv, "cipher": "aGk="})).await;
    let echo = socket.next().await;
    assert!(echo["msg_id"].as_str().is_some_and(|id| !id.is_empty()));
    assert_eq!(echo["ad"], json!({}));
    assert_eq!(alice.items(&conv).await[0]["msg_id"], echo["msg_id"]);
}

both!(async what_is_posted_over_rest_reaches_sockets);
async fn what_is_posted_over_rest_reaches_sockets(engine: Engine) {
    let (_server, alice, bob, conv) = pair(engine).await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    let posted = alice.say(&conv, "hello").await;
    for socket in [&mut hers, &mut his] {
        let seen = socket.next().await;
        for field in ["msg_id", "conv_id", "sender_device", "cipher", "ad", "ts", "sth_index"] {
            assert_eq!(seen[field], posted[field], "{field}");
        }
    }
}

both!(async a_deletion_reaches_sockets_as_the_seeds_client_looks_for_it);
async fn a_deletion_reaches_sockets_as_the_seeds_client_looks_for_it(engine: Engine) {
    let (_server, alice, bob, conv) = pair(engine).await;
    let posted = alice.say(&conv, "oops").await;
    let mut his = bob.socket(&conv).await;
    let deleted = alice.delete(&conv, posted["msg_id"].as_str().unwrap()).await.ok();
    let seen = his.next().await;
    assert_eq!(seen["ad"], json!({"type": "delete"}));
    assert_eq!(seen["target_msg_id"], posted["msg_id"]);
    assert_eq!((&seen["cipher"], &seen["sth_index"]), (&json!(""), &deleted["sth_index"]));
}

both!(async a_socket_with_a_bad_token_is_accepted_and_closed_with_4401);
async fn a_socket_with_a_bad_token_is_accepted_and_closed_with_4401(engine: Engine) {
    let (server, alice, _bob, conv) = pair(engine).await;
    let mut tampered = alice.token().to_owned();
    tampered.replace_range(tampered.len() - 6..tampered.len() - 5, "!");
    for query in [
        format!("conv_id={conv}&token=nonsense"),
        format!("conv_id={conv}&token={tampered}"),
        format!("conv_id={conv}&token="),
        format!("conv_id={conv}"),
        String::new(),
    ] {
        // Opening fails the test if the relay refuses the upgrade.
        let mut socket = Socket::open(server.url(), &query, &[]).await;
        assert_eq!(socket.closed().await, 4401, "{query}");
    }
}

both!(async a_token_is_taken_from_the_header_as_well);
async fn a_token_is_taken_from_the_header_as_well(engine: Engine) {
    let (server, alice, _bob, conv) = pair(engine).await;
    let bearer = format!("Bearer {}", alice.token());
    let header = [("Authorization", bearer.as_str())];
    let query = format!("conv_id={conv}");
    let mut socket = Socket::open(server.url(), &query, &header).await.settled().await;
    socket.send(&frame(&conv, "m", "x")).await;
    assert_eq!(socket.next().await["msg_id"], "m");
}

both!(async a_retried_envelope_is_shown_to_its_sender_alone);
async fn a_retried_envelope_is_shown_to_its_sender_alone(engine: Engine) {
    let (_server, alice, bob, conv) = pair(engine).await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    hers.send(&frame(&conv, "m-1", "hello")).await;
    let first = hers.next().await;
    hers.send(&frame(&conv, "m-1", "hello")).await;
    assert_eq!(hers.next().await, first, "the first place, in the shape it was sent");
    // The same message over REST is the same message.
    let mut rest = message(&conv, "");
    rest["msg_id"] = "m-1".into();
    rest["cipher"] = to_base64(&[&[7; 24][..], b"hello"].concat()).into();
    rest["ad"] = json!({"ts": 1, "type": "text"});
    let again = alice.post("/messages", &rest).await.ok();
    assert_eq!(
        (&again["duplicate"], &again["message"]["sth_index"]),
        (&json!(true), &first["sth_index"])
    );
    hers.send(&frame(&conv, "m-2", "next")).await;
    assert_eq!(his.next().await["msg_id"], "m-1");
    assert_eq!(his.next().await["msg_id"], "m-2", "he saw the first once");
}

both!(async a_socket_resumes_behind_after);
async fn a_socket_resumes_behind_after(engine: Engine) {
    let (server, alice, bob, conv) = pair(engine).await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(alice.say(&conv, &format!("{n}")).await);
    }
    let from = number(&sent[1]["sth_index"]);
    let query = format!("conv_id={conv}&after={from}&token={}", bob.token());
    let mut socket = Socket::open(server.url(), &query, &[]).await;
    for message in &sent[2..] {
        assert_eq!(socket.next().await["msg_id"], message["msg_id"]);
    }
    let live = alice.say(&conv, "live").await;
    assert_eq!(socket.next().await["msg_id"], live["msg_id"]);
}

both!(async a_socket_misses_nothing_that_was_sent_once_it_was_open);
async fn a_socket_misses_nothing_that_was_sent_once_it_was_open(engine: Engine) {
    let (_server, alice, bob, conv) = pair(engine).await;
    for round in 0..20 {
        // Open is what the handshake says; no message has passed on this socket yet.
        let mut socket = bob.knock(&conv).await;
        let posted: Value = alice.say(&conv, &format!("{round}")).await;
        assert_eq!(socket.next().await["msg_id"], posted["msg_id"], "round {round}");
    }
}
