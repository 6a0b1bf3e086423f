//! Every message is stored once, logged once, under all its fields, and shown in bounded pages
//! that lose nothing.

use futures_util::future::join_all;
use nexo_schema::bytes::{enc, from_base64, from_hex, to_base64};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Scene, entries, without};
use crate::harness::note::check_receipt;
use crate::harness::plain::{frame, message};
use crate::harness::{Native, Plain, Server, Snapshot, number, text};

/// The log entry of a plain message, from what a reader is shown (PROTOCOL.md 6).
fn entry_of(item: &Value, origin: &str, nonce_len: u32) -> Vec<u8> {
    let conv: [u8; 32] = from_hex(item["conv_id"].as_str().unwrap()).unwrap();
    let cipher = from_base64(item["cipher"].as_str().unwrap()).unwrap();
    let ad = item["ad"].to_string();
    let record = enc(
        "nexo/1/plain/message",
        &[
            origin.as_bytes(),
            &conv,
            item["msg_id"].as_str().unwrap().as_bytes(),
            item["sender_device"].as_str().unwrap().as_bytes(),
            &nonce_len.to_be_bytes(),
            &cipher,
            ad.as_bytes(),
            &number(&item["ts"]).to_be_bytes(),
        ],
    );
    enc("nexo/1/leaf", &[&[0x12], &Sha256::digest(record)])
}

#[tokio::test]
async fn hole_18_the_entry_covers_every_field_that_is_shown() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let sent = alice.post("/messages?receipt=1", &message(&conv, "over REST")).await.ok();
    let rest = entry_of(&sent["message"], server.origin(), 0);
    let index = check_receipt(&sent["receipt"], &rest, &server);
    assert_eq!(sent["message"]["sth_index"], index);
    let mut socket = alice.socket(&conv).await;
    socket.send(&frame(&conv, "m", "over WS")).await;
    socket.next().await;
    let items = alice.items(&conv).await;
    // One meaning of an entry, whichever way the message came.
    let logged = entries(&server).await;
    assert_eq!(logged[3..], [rest, entry_of(&items[1], server.origin(), 24)]);
}

#[tokio::test]
async fn hole_18_a_native_entry_is_the_envelope_hash() {
    let server = Server::start();
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    nora.conversation("otto").await;
    let (sealed, sent) = nora.say(&otto, "hello").await;
    // A native client gets its receipt unasked.
    let index = check_receipt(&sent["receipt"], &sealed.leaf, &server);
    assert_eq!(sent["message"]["sth_index"], index);
    let deleted = nora.post("/messages/delete", &nora.deletion(&nora.tombstone(&sealed))).await;
    let logged = entries(&server).await;
    assert_eq!(logged[2], sealed.leaf);
    check_receipt(&deleted.ok()["receipt"], &logged[3], &server);
    assert_eq!(logged.len(), 4);
}

#[tokio::test]
async fn f13_hole_20_the_index_goes_on_after_a_restart() {
    let Scene { mut server, alice, conv, .. } = Scene::new().await;
    let mut sent = vec![alice.say(&conv, "before").await];
    for _ in 0..2 {
        server.kill9();
        server.restart();
        let again = Plain::log_in(&server.wire(), "alice", alice.key.clone()).await;
        sent.push(again.say(&conv, "after").await);
    }
    let indexes: Vec<_> = sent.iter().map(|message| number(&message["sth_index"])).collect();
    assert_eq!(indexes, [4, 5, 6]);
    let again = Plain::log_in(&server.wire(), "alice", alice.key).await;
    assert_eq!(again.items(&conv).await, sent);
}

#[tokio::test]
async fn f13_hole_21_concurrent_senders_get_one_place_each() {
    let Scene { server, alice, bob, conv, .. } = Scene::new().await;
    let mut socket = alice.socket(&conv).await;
    for n in 0..20 {
        socket.send(&frame(&conv, &format!("ws-{n}"), "x")).await;
    }
    let sends = (0..20).flat_map(|n| {
        let conv = &conv;
        [&alice, &bob].map(|sender| async move { sender.say(conv, &format!("{n}")).await })
    });
    let rest = join_all(sends).await;
    let mut places: Vec<u64> = rest.iter().map(|message| number(&message["sth_index"])).collect();
    // The socket shows all sixty, its own and the others'.
    let mut shown = Vec::new();
    for _ in 0..60 {
        shown.push(number(&socket.next().await["sth_index"]));
    }
    assert_eq!(shown, (4..64).collect::<Vec<u64>>(), "in order, without a gap");
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 40);
    let items = bob.items(&conv).await;
    let listed: Vec<u64> = items.iter().map(|item| number(&item["sth_index"])).collect();
    assert_eq!(listed, shown);
    assert_eq!(server.wire().get("/health").await.ok()["sth_count"], 63);
}

#[tokio::test]
async fn hole_22_a_socket_says_so_when_an_envelope_is_not_stored() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let mut socket = alice.socket(&conv).await;
    let before = Snapshot::of(&server).await;
    for (change, code) in [
        (("ad", json!([])), "bad_request"),
        (("ad", json!("x")), "bad_request"),
        (("cipher", json!("")), "bad_request"),
        (("cipher", json!({"c": "", "n": ""})), "bad_request"),
        (("cipher", json!({"c": "*", "n": "aGk="})), "bad_request"),
        (("cipher", json!("a".repeat(4 * 30_000))), "too_large"),
        (("ver", json!(2)), "bad_request"),
        (("packets", json!({})), "bad_request"),
    ] {
        let mut bad = frame(&conv, "m-1", "x");
        bad[change.0] = change.1;
        socket.send(&bad).await;
        let refused = socket.next().await;
        assert_eq!((&refused["type"], &refused["msg_id"]), (&json!("nack"), &json!("m-1")));
        let problem = &refused["problem"];
        assert_eq!(problem["code"], code, "{} {refused}", change.0);
        assert!(problem["detail"].is_string());
    }
    before.unchanged(&server).await;
    // The socket goes on, and the id was not used up.
    socket.send(&frame(&conv, "m-1", "x")).await;
    assert_eq!(socket.next().await["sth_index"], 4);
}

#[tokio::test]
async fn hole_23_what_the_seeds_own_client_sends_is_stored() {
    let Scene { server: _server, alice, bob, conv, .. } = Scene::new().await;
    let mut socket = alice.socket(&conv).await;
    let id = "2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d";
    socket.send(&frame(&conv, id, "secret")).await;
    socket.next().await;
    let items = bob.items(&conv).await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["msg_id"], id);
    let cipher = from_base64(items[0]["cipher"].as_str().unwrap()).unwrap();
    assert_eq!(cipher, [&[7; 24][..], b"secret"].concat());
}

#[tokio::test]
async fn hole_24_nobody_can_take_anothers_message_id() {
    let Scene { server: _server, alice, bob, mallory, conv } = Scene::new().await;
    let mut named = message(&conv, "mine");
    named["msg_id"] = "m-1".into();
    // Used first by the peer, and by a stranger elsewhere.
    let elsewhere = mallory.conversation("mallory").await;
    let mut theirs = message(&elsewhere, "squat");
    theirs["msg_id"] = "m-1".into();
    mallory.post("/messages", &theirs).await.ok();
    let mut his = named.clone();
    his["cipher"] = to_base64(b"his").into();
    bob.post("/messages", &his).await.ok();
    let hers = alice.post("/messages", &named).await.ok();
    assert_eq!(hers["duplicate"], false);
    assert_eq!(hers["message"]["cipher"], named["cipher"]);
    let ciphers: Vec<_> = alice.items(&conv).await.iter().map(|i| text(&i["cipher"])).collect();
    assert_eq!(ciphers, [to_base64(b"his"), to_base64(b"mine")]);
    // Each deletes the own one.
    alice.delete(&conv, "m-1").await.ok();
    let left: Vec<_> = bob.items(&conv).await.iter().map(|i| text(&i["cipher"])).collect();
    assert_eq!(left, [to_base64(b"his"), String::new()]);
}

#[tokio::test]
async fn hole_24_an_id_used_for_something_else_is_a_conflict_and_is_not_broadcast() {
    let Scene { server, alice, bob, conv, .. } = Scene::new().await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    hers.send(&frame(&conv, "m-1", "one")).await;
    his.next().await;
    hers.next().await;
    let before = Snapshot::of(&server).await;
    hers.send(&frame(&conv, "m-1", "two")).await;
    assert_eq!(hers.next().await["problem"]["code"], "idempotency_conflict");
    // In another conversation it is another message, and so a conflict too.
    let notes = alice.conversation("alice").await;
    let mut moved = message(&notes, "one");
    moved["msg_id"] = "m-1".into();
    alice.post("/messages", &moved).await.problem(409, "idempotency_conflict");
    before.unchanged(&server).await;
    hers.send(&frame(&conv, "m-2", "next")).await;
    assert_eq!(his.next().await["msg_id"], "m-2", "nothing in between");
}

#[tokio::test]
async fn hole_25_a_retry_stores_nothing_even_when_it_overtakes() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let mut body = message(&conv, "once");
    body["msg_id"] = "m-1".into();
    let tries = join_all((0..16).map(|_| alice.post("/messages", &body))).await;
    let answers: Vec<Value> = tries.iter().map(|reply| reply.ok()).collect();
    let fresh = answers.iter().filter(|answer| answer["duplicate"] == false).count();
    assert_eq!(fresh, 1);
    assert!(answers.iter().all(|answer| answer["message"] == answers[0]["message"]));
    let before = Snapshot::of(&server).await;
    // A retry after the deletion is known, and brings nothing back.
    alice.delete(&conv, "m-1").await.ok();
    let late = alice.post("/messages", &body).await.ok();
    assert_eq!((&late["duplicate"], &late["message"]["cipher"]), (&json!(true), &json!("")));
    assert_ne!(before, Snapshot::of(&server).await, "the deletion is an entry");
    assert_eq!(alice.items(&conv).await.len(), 1);
}

#[tokio::test]
async fn hole_25_a_native_retry_is_compared_by_its_envelope() {
    let server = Server::start();
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    nora.conversation("otto").await;
    let (sealed, first) = nora.say(&otto, "hello").await;
    let again = nora.post("/messages", &sealed.body).await.ok();
    assert_eq!((&again["duplicate"], &again["message"]), (&json!(true), &first["message"]));
    check_receipt(&again["receipt"], &sealed.leaf, &server);
    let before = Snapshot::of(&server).await;
    // Sealed anew under the same id: another envelope.
    let other = nora.seal_as(&otto, "hello", sealed.message, 7);
    nora.post("/messages", &other.body).await.problem(409, "idempotency_conflict");
    // A counter that was used, under a new id: the sender's state went back.
    let used = nora.seal_as(&otto, "x", nexo_cli::e2ee::MessageId::from_bytes([9; 16]), 1);
    nora.post("/messages", &used.body).await.problem(409, "state_rollback");
    let bare = without(&nora.seal(&otto, "x").body, "dseq");
    nora.post("/messages", &bare).await.problem(400, "bad_request");
    before.unchanged(&server).await;
}

#[tokio::test]
async fn f8_hole_40_pages_lose_nothing_between_equal_seconds() {
    let Scene { server: _server, alice, bob, conv, .. } = Scene::new().await;
    let mut sent = Vec::new();
    for n in 0..40 {
        let sender = if n % 3 == 0 { &bob } else { &alice };
        sent.push(sender.say(&conv, &format!("{n}")).await);
    }
    let times: Vec<_> = sent.iter().map(|message| number(&message["ts"])).collect();
    let repeated = times.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(repeated > 0, "some share a second, or this tests nothing");
    for limit in [1, 3, 7, 40, 41] {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let path = format!("/messages/{conv}?after={after}&limit={limit}");
            let page = alice.get(&path).await.ok();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            seen.extend(items.clone());
            after = number(&page["next"]);
            if page["more"] == false {
                break;
            }
        }
        assert_eq!(seen, sent, "by {limit}");
        assert_eq!(after, number(&sent[39]["sth_index"]));
    }
    // Zero is a time like any other, and the whole of a second is shown or nothing of it.
    let all = alice.get(&format!("/messages/{conv}?since=0")).await.ok();
    assert_eq!(all["items"], json!(sent));
    for ts in times {
        let page = alice.get(&format!("/messages/{conv}?since={}", ts - 1)).await.ok();
        let rest: Vec<_> = sent.iter().filter(|m| number(&m["ts"]) >= ts).cloned().collect();
        assert_eq!(page["items"], json!(rest));
    }
}

#[tokio::test]
async fn f11_hole_41_a_page_is_bounded() {
    let Scene { server: _server, alice, conv, .. } = Scene::new().await;
    let mut socket = alice.socket(&conv).await;
    for n in 0..1005 {
        socket.send(&frame(&conv, &format!("m-{n}"), "x")).await;
        if n % 100 == 99 {
            // Keeps fewer in flight than the relay takes.
            for _ in 0..100 {
                socket.next().await;
            }
        }
    }
    for _ in 0..5 {
        socket.next().await;
    }
    for (query, most) in [("", 200), ("?limit=1000000", 1000), ("?limit=99999999999", 1000)] {
        let by_time = alice.get(&format!("/messages/{conv}{query}")).await.ok();
        assert!((1..=most).contains(&by_time["items"].as_array().unwrap().len()), "{query:?}");
        assert_eq!(by_time["more"], true);
        let query =
            if query.is_empty() { "?after=0".to_owned() } else { format!("{query}&after=0") };
        for path in [format!("/messages/{conv}{query}"), format!("/messages{query}")] {
            let page = alice.get(&path).await.ok();
            assert_eq!(page["items"].as_array().unwrap().len(), most, "{path}");
            assert_eq!(page["more"], true);
        }
    }
}

#[tokio::test]
async fn f11_hole_43_ad_is_a_small_object() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let before = Snapshot::of(&server).await;
    let send = async |ad: &str| {
        let body = format!(r#"{{"conv_id":"{conv}","cipher":"aGk=","ad":{ad}}}"#);
        alice.wire.post_bytes("/messages", body).await
    };
    // Counted as sent, spaces and all.
    let wide = format!("{{{}}}", " ".repeat(4096));
    let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(4090));
    for large in [wide, long] {
        send(&large).await.problem(413, "too_large");
    }
    before.unchanged(&server).await;
    let fits = format!(r#"{{"x":"{}"}}"#, "y".repeat(4088));
    assert_eq!(fits.len(), 4096);
    let sent = send(&fits).await.ok();
    assert_eq!(sent["message"]["ad"]["x"].as_str().unwrap().len(), 4088);
}

#[tokio::test]
async fn hole_49_a_deletion_is_an_entry_of_its_own() {
    let Scene { server, alice, conv, .. } = Scene::new().await;
    let sent = alice.say(&conv, "oops").await;
    let logged = entries(&server).await;
    let deleted = alice.delete(&conv, sent["msg_id"].as_str().unwrap()).await.ok();
    let after = entries(&server).await;
    assert_eq!(after[..4], logged, "no entry is touched");
    assert_eq!(deleted["sth_index"], 5);
    let original = entry_of(&sent, server.origin(), 0);
    assert_eq!(after[3], original);
    // label, count, kind: a deletion of a plain account (0x13).
    let kind = enc("nexo/1/leaf", &[&[0x13], &[0; 32]]);
    assert_eq!(
        (after[4].len(), &after[4][..kind.len() - 36]),
        (kind.len(), &kind[..kind.len() - 36])
    );
    // Readers that go by position see it, and where its target stands.
    let page = alice.get(&format!("/messages/{conv}?after=4")).await.ok();
    let item = &page["items"][0];
    assert_eq!(item["tombstone"]["target_sth_index"], sent["sth_index"]);
    assert_eq!((&item["msg_id"], &item["sth_index"]), (&sent["msg_id"], &json!(5)));
}

#[tokio::test]
async fn hole_58_ad_is_never_anything_but_an_object() {
    let Scene { server, alice, bob, conv, .. } = Scene::new().await;
    let before = Snapshot::of(&server).await;
    for ad in ["null", "true", "7", "\"text\"", "[]", "[{}]"] {
        let body = format!(r#"{{"conv_id":"{conv}","cipher":"aGk=","ad":{ad}}}"#);
        let refused = alice.wire.post_bytes("/messages", body).await;
        assert_eq!(refused.problem(400, "bad_request")["status"], 400, "{ad}");
    }
    before.unchanged(&server).await;
    // What is deleted keeps nothing of its sender's.
    let mut body = message(&conv, "x");
    body["ad"] = json!({"type": "delete", "mark": "kept for ever"});
    let sent = alice.post("/messages", &body).await.ok()["message"].clone();
    alice.delete(&conv, sent["msg_id"].as_str().unwrap()).await.ok();
    let shown = bob.get(&format!("/messages/{conv}?after=0")).await;
    assert_eq!(shown.ok()["items"][0]["ad"], json!({"type": "delete"}));
    assert!(!shown.text().contains("kept for ever"));
}
