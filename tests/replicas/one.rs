//! Whichever server is asked, it is one relay.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Pair, SOON, at};
use crate::harness::load::{Crew, Told};
use crate::harness::plain::{answer, frame, message, new_key, registration};
use crate::harness::reader::Reader;
use crate::harness::shell::{Auditor, Follower, Person};
use crate::harness::{Plain, Server, Wire, number, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_takes_comes_out_of_the_sockets_of_the_other() {
    let pair = Pair::start();
    let (alice, bob) = (Plain::new(&pair.a, "alice").await, Plain::new(&pair.b, "bob").await);
    let conv = alice.conversation("bob").await;
    let (mut hers, mut his) = (alice.socket(&conv).await, bob.socket(&conv).await);
    let began = Instant::now();
    let posted = alice.say(&conv, "over REST").await;
    for socket in [&mut hers, &mut his] {
        let seen = socket.next().await;
        for field in ["msg_id", "conv_id", "sender_device", "cipher", "ad", "ts", "sth_index"] {
            assert_eq!(seen[field], posted[field], "{field}");
        }
    }
    for (from, to, id) in [(&mut hers, &mut his, "m-1")] {
        from.send(&frame(&conv, id, "over a socket")).await;
        let echo = from.next().await;
        assert_eq!(to.next().await, echo);
        // In the shape it was sent.
        assert!(echo["cipher"]["c"].is_string() && echo["cipher"]["n"].is_string(), "{echo}");
    }
    his.send(&frame(&conv, "m-2", "and back")).await;
    assert_eq!(his.next().await, hers.next().await);
    let gone = bob.delete(&conv, "m-2").await.ok();
    for socket in [&mut hers, &mut his] {
        let seen = socket.next().await;
        assert_eq!(
            (&seen["target_msg_id"], &seen["sth_index"]),
            (&json!("m-2"), &gone["sth_index"])
        );
    }
    // A server that only looked once a minute would be found out here.
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let items = alice.items(&conv).await;
    assert_eq!(items.len(), 3);
    assert_eq!(bob.items(&conv).await, items);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_one_is_at_once_the_truth_at_the_other() {
    let pair = Pair::start();
    for round in 0..20 {
        // Each step at the other server than the one before.
        let key = new_key();
        let name = format!("user{round}");
        let asked = pair.a.wire().post("/auth/register", &registration(&name, &key)).await.ok();
        let tokens = answer(&pair.b.wire(), &key, &asked).await.ok();
        let token = text(&tokens["access"]);
        let [a, b] = [&pair.a, &pair.b].map(|server| server.wire().with_token(&token));
        a.get("/devices/x25519_pub").await.ok();
        let conv = a.post("/conversations", &json!({"peer_handle": name})).await.ok();
        let conv = text(&conv["conv_id"]);
        let sent = b.post("/messages", &message(&conv, "hi")).await.ok();
        let listed = a.get(&format!("/messages/{conv}")).await.ok();
        assert_eq!(listed["items"], json!([sent["message"]]), "round {round}");
        let again = b.post("/auth/refresh", &json!({"refresh": tokens["refresh"]})).await.ok();
        let repeat = a.post("/auth/refresh", &json!({"refresh": tokens["refresh"]})).await.ok();
        assert_eq!(again["refresh"], repeat["refresh"]);
    }
    let health = async |server: &Server| server.wire().get("/health").await.ok();
    assert_eq!(health(&pair.a).await["users_count"], 20);
    assert_eq!(health(&pair.b).await["users_count"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_write_to_each_other_at_two_servers() {
    let pair = Pair::start();
    let alice = Person::registered(&pair.a, "alice");
    let bob = Person::registered(&pair.b, "bob");
    let follower = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
    for words in ["hello", "from the other one"] {
        alice.nexo(&["send", "bob", words]).sent();
        let seen: Value = serde_json::from_str(&follower.line()).unwrap();
        assert_eq!((&seen["from"], &seen["text"]), (&json!("alice"), &json!(words)));
    }
    bob.nexo(&["send", "alice", "yes"]).sent();
    assert_eq!(alice.received().texts(), ["yes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_to_both_at_once_is_stored_once() {
    let pair = Pair::start();
    let alice = Plain::new(&pair.a, "alice").await;
    let conv = alice.conversation("alice").await;
    let wires = [at(&pair.a, &alice), at(&pair.b, &alice)];
    for round in 0..25 {
        let mut body = message(&conv, "once");
        body["msg_id"] = format!("m-{round}").into();
        let post = |wire: &Wire| {
            let (wire, body) = (wire.clone(), body.clone());
            async move { wire.post("/messages", &body).await.ok() }
        };
        let answers: Vec<Value> = join_all(wires.iter().chain(&wires).map(post)).await;
        let first = answers.iter().filter(|answer| answer["duplicate"] == false).count();
        let places: BTreeSet<u64> =
            answers.iter().map(|answer| number(&answer["message"]["sth_index"])).collect();
        assert_eq!((first, places.len()), (1, 1), "{answers:?}");
    }
    assert_eq!(alice.items(&conv).await.len(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_both_are_one_history() {
    let mut pair = Pair::start();
    let crew = Crew::new(&pair.a, 8, 4).await;
    let auditor = Auditor::new();
    let mut told = Told::default();
    let mut load = crew.load(&[&pair.a, &pair.b], 0).await;
    for _ in 0..4 {
        load.acks(&mut told, 150).await;
        // One memory for both: a fork between them is one it would find.
        for server in [&pair.a, &pair.b] {
            auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
        }
    }
    load.end(&mut told).await;
    for server in [&pair.a, &pair.b] {
        crew.check(server, &told).await;
    }
    let [one, other] = [Reader::of(&pair.a), Reader::of(&pair.b)];
    assert_eq!(one.head().await.checkpoint, other.head().await.checkpoint);
    pair.check_up();
}
