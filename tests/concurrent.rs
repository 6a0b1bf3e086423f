//! Many at once: the log is one line, however many stand in it.
//!
//! Indexes have no gap and no duplicate over REST and sockets together, every receipt proves the
//! entry of its own message, and every socket sees everything once, in log order, also one that
//! keeps losing its connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexo_audit::checkpoint::Checkpoint;
use nexo_audit::leaf_hash;
use nexo_audit::merkle::CompactRange;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::harness::plain::{frame, message};
use crate::harness::reader::Reader;
use crate::harness::{Engine, Plain, Socket, both, number, random, text};

const SENDERS: usize = 32;
const MESSAGES: usize = 10_000;

both!(async ten_thousand_messages_of_thirty_two_senders_have_no_gap_and_every_receipt_verifies);
async fn ten_thousand_messages_of_thirty_two_senders_have_no_gap_and_every_receipt_verifies(
    engine: Engine,
) {
    let server = engine.start();
    let mut senders = Vec::new();
    Plain::new(&server, "hub").await;
    for number in 0..SENDERS {
        let sender = Plain::new(&server, &format!("sender{number}")).await;
        let conv = sender.conversation("hub").await;
        senders.push((sender, conv));
    }
    let mut work = JoinSet::new();
    for (who, (sender, conv)) in senders.into_iter().enumerate() {
        let share = MESSAGES / SENDERS + usize::from(who < MESSAGES % SENDERS);
        work.spawn(send(sender, conv, share));
    }
    let answers: Vec<Value> = work.join_all().await.into_iter().flatten().collect();
    assert_eq!(answers.len(), MESSAGES);

    let reader = Reader::of(&server);
    let accounts = SENDERS as u64 + 1;
    let (places, heads) = verified(&reader, &answers);
    let expected: Vec<u64> = (accounts + 1..=accounts + MESSAGES as u64).collect();
    assert_eq!(places.keys().copied().collect::<Vec<_>>(), expected, "no gap, no duplicate");

    let newest = reader.head().await.checkpoint;
    assert_eq!(newest.size, accounts + MESSAGES as u64);
    one_history(&reader, &heads, &newest).await;
    // The bundles hold exactly the entries that the receipts were for.
    let mut range = CompactRange::new();
    for (index, entry) in (1..).zip(reader.entries(newest.size).await) {
        let leaf = leaf_hash(&entry);
        range.append(leaf);
        assert!(index <= accounts || places[&index] == leaf, "the entry at {index}");
    }
    assert_eq!((range.size(), range.root()), (newest.size, newest.root));
}

/// Sends one message after the other; the answers.
async fn send(sender: Plain, conv: String, count: usize) -> Vec<Value> {
    let mut answers = Vec::new();
    for number in 0..count {
        let mut body = message(&conv, &format!("message {number}"));
        body["msg_id"] = format!("m{number}").into();
        let answer = sender.post("/messages?receipt=1", &body).await.ok();
        assert_eq!((&answer["ok"], &answer["duplicate"]), (&true.into(), &false.into()));
        assert_eq!(answer["message"]["msg_id"], body["msg_id"]);
        answers.push(answer);
    }
    answers
}

/// Verifies every receipt. The leaf at each place, and the heads by size.
fn verified(
    reader: &Reader,
    answers: &[Value],
) -> (BTreeMap<u64, [u8; 32]>, BTreeMap<u64, Checkpoint>) {
    let (mut places, mut heads) = (BTreeMap::new(), BTreeMap::new());
    let origin = reader.origin();
    for answer in answers {
        let (place, head) = reader.receipt(&answer["message"], &answer["receipt"]);
        let leaf = leaf_hash(&crate::harness::reader::plain_entry(origin, &answer["message"]));
        assert!(places.insert(place, leaf).is_none(), "two messages at {place}");
        let other = heads.insert(head.size, head.clone());
        assert!(other.is_none_or(|other| other == head), "two heads of size {}", head.size);
    }
    (places, heads)
}

/// Verifies that a sample of the heads, first and last among them, are prefixes of the newest.
async fn one_history(reader: &Reader, heads: &BTreeMap<u64, Checkpoint>, newest: &Checkpoint) {
    let step = heads.len().div_ceil(100);
    for head in heads.values().step_by(step).chain(heads.values().last()) {
        reader.extends(head, newest).await;
    }
}

both!(async rest_and_sockets_share_one_line_and_every_socket_sees_it);
async fn rest_and_sockets_share_one_line_and_every_socket_sees_it(engine: Engine) {
    const EACH: usize = 60;
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let (alice, bob) = (Arc::new(alice), Arc::new(bob));
    let mut watchers = JoinSet::new();
    for who in [&alice, &bob] {
        // The socket is open before anything is sent.
        watchers.spawn(watch(who.socket(&conv).await, 6 * EACH));
    }
    let mut lines = Vec::new();
    for number in 0..3 {
        for who in [&alice, &bob] {
            let socket = if number == 0 { Some(who.socket(&conv).await) } else { None };
            lines.push((who, socket, number));
        }
    }
    // Every socket is open by now.
    let mut senders = JoinSet::new();
    for (who, socket, number) in lines {
        senders.spawn(say(Arc::clone(who), socket, conv.clone(), number, EACH));
    }
    let mut acked: Vec<(u64, String)> = senders.join_all().await.into_iter().flatten().collect();
    acked.sort();
    let first = acked[0].0;
    let places: Vec<u64> = acked.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, (first..first + 6 * EACH as u64).collect::<Vec<_>>());
    for seen in watchers.join_all().await {
        assert_eq!(seen, acked, "everything, once, in log order");
    }
    let listed = bob.get(&format!("/messages/{conv}?after=0&limit=1000")).await.ok();
    let listed: Vec<_> = listed["items"].as_array().unwrap().iter().map(place).collect();
    assert_eq!(listed, acked);
}

/// Sends over the socket if there is one, else over REST; what was acknowledged.
async fn say(
    who: Arc<Plain>,
    socket: Option<Socket>,
    conv: String,
    number: usize,
    count: usize,
) -> Vec<(u64, String)> {
    let name = |n: usize| format!("{}-{number}-{n}", who.handle);
    let mut acked = Vec::new();
    let Some(mut socket) = socket else {
        for n in 0..count {
            let mut body = message(&conv, "over REST");
            body["msg_id"] = name(n).into();
            acked.push(place(&who.post("/messages", &body).await.ok()["message"]));
        }
        return acked;
    };
    // All of them at once; the acknowledgement is one's own envelope coming back.
    let mut open: BTreeSet<String> = (0..count).map(name).collect();
    for n in 0..count {
        socket.send(&frame(&conv, &name(n), "over a socket")).await;
    }
    while !open.is_empty() {
        let seen = place(&socket.next().await);
        if open.remove(&seen.1) {
            acked.push(seen);
        }
    }
    acked
}

async fn watch(mut socket: Socket, count: usize) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(place(&socket.next().await));
    }
    seen
}

both!(async a_receiver_that_keeps_reconnecting_misses_nothing);
async fn a_receiver_that_keeps_reconnecting_misses_nothing(engine: Engine) {
    const COUNT: usize = 1000;
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let sending = tokio::spawn({
        let conv = conv.clone();
        async move {
            let mut socket = alice.socket(&conv).await;
            for batch in 0..COUNT / 50 {
                for n in 0..50 {
                    socket.send(&frame(&conv, &format!("m{}", batch * 50 + n), "text")).await;
                }
                // Keeps pace with the log, so that the receiver drops out in the midst of it.
                watch_on(&mut socket, 50).await;
            }
        }
    });
    let (mut seen, mut connections) = (Vec::new(), 0);
    while seen.len() < COUNT {
        let after = seen.last().map_or(0, |(place, _): &(u64, String)| *place);
        let query = format!("conv_id={conv}&after={after}&token={}", bob.token());
        let mut socket = Socket::open(server.url(), &query, &[]).await;
        connections += 1;
        let some = 1 + usize::from(random::<1>()[0]) % 40;
        for _ in 0..some.min(COUNT - seen.len()) {
            seen.push(place(&socket.next().await));
        }
        // Dropped without a goodbye, as a train goes into a tunnel.
    }
    sending.await.unwrap();
    assert!(connections >= COUNT / 40);
    let first = seen[0].0;
    let places: Vec<u64> = seen.iter().map(|(place, _)| *place).collect();
    assert_eq!(
        places,
        (first..first + COUNT as u64).collect::<Vec<_>>(),
        "nothing missed or twice"
    );
    assert_eq!(seen.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), COUNT);
}

async fn watch_on(socket: &mut Socket, count: usize) {
    for _ in 0..count {
        socket.next().await;
    }
}

/// Where a message stands, and its id.
fn place(message: &Value) -> (u64, String) {
    (number(&message["sth_index"]), text(&message["msg_id"]))
}
