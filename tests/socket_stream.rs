//! A socket that says hello: messages themselves, in log order, proved, acknowledged, and sent
//! again from where the acks stopped.

use nexo_audit::checkpoint::Checkpoint;
use nexo_audit::{leaf_hash, verify_consistency, verify_inclusion};
use nexo_schema::bytes::to_base64;
use serde_json::{Value, json};

use crate::harness::chain::{Line, full, id_of};
use crate::harness::reader::{Reader, hashes, plain_entry};
use crate::harness::{Engine, Native, Plain, Server, Snapshot, Socket, both, number, text};

/// A server, two plain accounts and their conversation.
async fn pair(server: Server) -> (Server, Plain, Plain, String) {
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    (server, alice, bob, conv)
}

/// A socket that said hello, and the head it was told last.
struct Stream {
    socket: Socket,
    /// The relay's hello.
    hello: Value,
    log: Option<Reader>,
    head: Option<Checkpoint>,
}

impl Stream {
    async fn open(url: &str, token: &str, fields: Value) -> Self {
        let mut socket = Socket::open(url, &format!("token={token}"), &[]).await;
        let hello = socket.hello(fields).await;
        Self { socket, hello, log: None, head: None }
    }

    async fn of(who: &Plain, fields: Value) -> Self {
        Self::open(&who.wire.url, who.token(), fields).await
    }

    /// Verifies what comes: every item in a head, every head an extension of the one before.
    fn verified(mut self, log: &Reader) -> Self {
        self.log = Some(log.clone());
        self
    }

    /// The next item, with what it came as.
    async fn item(&mut self) -> (String, Value) {
        loop {
            let frame = self.socket.next().await;
            match frame["type"].as_str() {
                Some("head") => self.take_head(&frame),
                Some(kind @ ("message" | "delete")) => {
                    self.verify(&frame["item"]);
                    return (kind.to_owned(), frame["item"].clone());
                }
                _ => panic!("expected an item: {frame}"),
            }
        }
    }

    fn take_head(&mut self, frame: &Value) {
        let Some(log) = &self.log else { return };
        let new = log.open(&text(&frame["head"]));
        assert_eq!(number(&frame["size"]), new.size);
        if let Some(old) = &self.head {
            let proof = hashes(&frame["consistency"]);
            let verdict = verify_consistency(old.size, &old.root, new.size, &new.root, &proof);
            assert_eq!(verdict, Ok(()), "{frame}");
        }
        self.head = Some(new);
    }

    fn verify(&self, item: &Value) {
        let Some(log) = &self.log else { return };
        let head = self.head.as_ref().expect("a head comes before what it proves");
        if item["sender_account"].is_null() && item["tombstone"].is_null() {
            let leaf = leaf_hash(&plain_entry(log.origin(), item));
            let (index, path) = (number(&item["sth_index"]) - 1, hashes(&item["inclusion"]));
            let verdict = verify_inclusion(&leaf, index, head.size, &path, &head.root);
            assert_eq!(verdict, Ok(()), "{item}");
        }
    }

    async fn ids(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(text(&self.item().await.1["msg_id"]));
        }
        ids
    }

    async fn ack(&mut self, cursor: u64) {
        self.socket.send(&json!({"type": "ack", "cursor": cursor})).await;
    }

    /// Fails unless the relay has handled everything and has nothing more to say.
    async fn quiet(self) -> Self {
        Self { socket: self.socket.settled().await, ..self }
    }

    /// The bye, what came before it, and the close code.
    async fn bye(mut self) -> (Vec<Value>, Value, u16) {
        let mut before = Vec::new();
        loop {
            let frame = self.socket.next().await;
            if frame["type"] == "bye" {
                return (before, frame, self.socket.closed_at_once().await);
            }
            before.push(frame);
        }
    }
}

fn hello(mut fields: Value) -> Value {
    fields["type"] = "hello".into();
    fields
}

/// Posts messages `from..to`; their positions.
async fn say(who: &Plain, conv: &str, numbers: std::ops::Range<usize>) -> Vec<u64> {
    let mut places = Vec::new();
    for n in numbers {
        let body = json!({"conv_id": conv, "msg_id": format!("m-{n}"), "ad": {"type": "text"},
                          "cipher": to_base64(format!("text {n}").as_bytes())});
        let sent = who.post("/messages", &body).await.ok();
        places.push(number(&sent["message"]["sth_index"]));
    }
    places
}

fn names(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("m-{n}")).collect()
}

both!(async everything_comes_once_in_log_order_and_proved);
async fn everything_comes_once_in_log_order_and_proved(engine: Engine) {
    let (server, alice, bob, conv) = pair(engine.start()).await;
    let log = Reader::of(&server);
    say(&alice, &conv, 0..5).await;
    let fields = json!({"after": 0, "tree_size": 0});
    let mut his = Stream::of(&bob, fields).await.verified(&log);
    assert_eq!(his.hello["after"], 0);
    assert_eq!(his.ids(5).await, names(0..5));
    // What is committed while he listens, over both corridors, his own included.
    say(&bob, &conv, 5..8).await;
    let mut frame = json!({"type": "send", "conv_id": conv, "msg_id": "m-8"});
    frame["cipher"] = to_base64(b"over the socket").into();
    frame["ad"] = json!({"type": "text"});
    let mut sender = Stream::of(&alice, json!({})).await;
    sender.socket.send(&frame).await;
    assert_eq!(his.ids(4).await, names(5..9));
    assert!(his.head.as_ref().is_some_and(|head| head.size >= 11));
    // Without a cursor and a position: from now on.
    let now = Stream::of(&bob, json!({})).await;
    assert_eq!(now.hello["after"], number(&now.hello["size"]));
    now.quiet().await;
    his.quiet().await;
}

#[tokio::test]
async fn a_head_extends_the_one_that_the_client_knows() {
    let (server, alice, bob, conv) = pair(Server::start()).await;
    let log = Reader::of(&server);
    say(&alice, &conv, 0..3).await;
    let known = log.head().await.checkpoint;
    say(&alice, &conv, 3..6).await;
    let fields = json!({"after": 0, "tree_size": known.size});
    let mut his = Stream::of(&bob, fields).await.verified(&log);
    his.head = Some(known.clone());
    assert_eq!(his.ids(6).await, names(0..6));
    assert!(his.head.as_ref().is_some_and(|head| head.size > known.size));
    // One that does not want proofs is told items alone.
    let mut bare = Stream::of(&bob, json!({"after": 0, "proofs": false})).await;
    let first = bare.socket.next().await;
    assert_eq!((&first["type"], &first["item"]["inclusion"]), (&json!("message"), &Value::Null));
}

both!(async what_is_not_acked_comes_again_and_what_is_acked_does_not);
async fn what_is_not_acked_comes_again_and_what_is_acked_does_not(engine: Engine) {
    let (mut server, alice, bob, conv) = pair(engine.start()).await;
    let places = say(&alice, &conv, 0..6).await;
    let fields = json!({"cursor": "tail"});
    let mut his = Stream::of(&bob, fields.clone()).await;
    assert_eq!(&his.hello["after"], &json!(0));
    assert_eq!(his.ids(6).await, names(0..6));
    his.ack(places[2]).await;
    drop(his.quiet().await);
    // The same process, another socket: the ack need not be stored yet.
    let mut his = Stream::of(&bob, fields.clone()).await;
    assert_eq!(&his.hello["after"], &json!(places[2]));
    assert_eq!(his.ids(3).await, names(3..6));
    his.ack(places[4]).await;
    // An ack that comes late says nothing.
    his.ack(places[0]).await;
    drop(his.quiet().await);
    // Another name is another place, and the client's own word goes before both.
    assert_eq!(Stream::of(&bob, json!({"cursor": "other"})).await.ids(6).await, names(0..6));
    let mut asked = Stream::of(&bob, json!({"cursor": "tail", "after": places[1]})).await;
    assert_eq!(asked.ids(4).await, names(2..6));
    drop(asked);
    assert!(server.terminate().success());
    server.restart();
    let bob = Plain::log_in(&server.wire(), "bob", bob.key.clone()).await;
    let mut his = Stream::of(&bob, fields).await;
    assert_eq!(&his.hello["after"], &json!(places[4]));
    assert_eq!(his.ids(1).await, names(5..6));
}

#[tokio::test]
async fn a_killed_relay_repeats_and_loses_nothing() {
    let (mut server, alice, mut bob, conv) = pair(Server::start()).await;
    let (mut seen, mut acked) = (Vec::new(), 0);
    for round in 0..4 {
        say(
            &Plain::log_in(&server.wire(), "alice", alice.key.clone()).await,
            &conv,
            round * 5..round * 5 + 5,
        )
        .await;
        let mut his = Stream::of(&bob, json!({"cursor": "tail", "window": 3})).await;
        assert!(number(&his.hello["after"]) <= acked, "nothing that was not acked is left out");
        loop {
            let (_, item) = his.item().await;
            let id = text(&item["msg_id"]);
            if !seen.contains(&id) {
                seen.push(id.clone());
            }
            acked = number(&item["sth_index"]);
            his.ack(acked).await;
            if id == format!("m-{}", round * 5 + 4) {
                break;
            }
        }
        server.kill9();
        server.restart();
        bob = Plain::log_in(&server.wire(), "bob", bob.key.clone()).await;
    }
    assert_eq!(seen, names(0..20));
}

#[tokio::test]
async fn no_more_is_sent_than_the_window_until_it_is_acked() {
    let (_server, alice, bob, conv) = pair(Server::start()).await;
    let places = say(&alice, &conv, 0..7).await;
    let mut his = Stream::of(&bob, json!({"after": 0, "window": 2, "proofs": false})).await;
    assert_eq!(his.hello["window"], 2);
    assert_eq!(his.ids(2).await, names(0..2));
    let mut his = his.quiet().await;
    his.ack(places[0]).await;
    assert_eq!(his.ids(1).await, names(2..3));
    let mut his = his.quiet().await;
    // What comes meanwhile waits too.
    say(&alice, &conv, 7..8).await;
    let mut his = {
        his.ack(places[0]).await;
        his.quiet().await
    };
    his.ack(places[2]).await;
    assert_eq!(his.ids(2).await, names(3..5));
    his.ack(places[4]).await;
    assert_eq!(his.ids(2).await, names(5..7));
    his.ack(places[6]).await;
    assert_eq!(his.ids(1).await, names(7..8));
}

#[tokio::test]
async fn a_socket_is_for_one_conversation_or_several_or_all() {
    let (server, alice, bob, conv) = pair(Server::start()).await;
    let carol = Plain::new(&server, "carol").await;
    let (with_carol, own) = (alice.conversation("carol").await, alice.conversation("alice").await);
    let mut all = Stream::of(&alice, json!({"after": 0})).await;
    let mut one = Stream::of(&alice, json!({"after": 0, "conversations": [conv]})).await;
    let several = json!({"after": 0, "conversations": [own, with_carol]});
    let mut several = Stream::of(&alice, several).await;
    say(&bob, &conv, 0..1).await;
    say(&carol, &with_carol, 1..2).await;
    say(&alice, &own, 2..3).await;
    // One opened later belongs to all.
    let dave = Plain::new(&server, "dave").await;
    let late = dave.conversation("alice").await;
    say(&dave, &late, 3..4).await;
    assert_eq!(all.ids(4).await, names(0..4));
    assert_eq!(one.ids(1).await, names(0..1));
    assert_eq!(several.ids(2).await, names(1..3));
    one.quiet().await;
    several.quiet().await;
    // Nobody else's, whether it exists or not.
    for elsewhere in [&with_carol, &"00".repeat(32)] {
        let query = format!("token={}", bob.token());
        let mut socket = Socket::open(server.url(), &query, &[]).await;
        socket.send(&hello(json!({"conversations": [conv, elsewhere]}))).await;
        let nack = socket.next().await;
        assert_eq!((&nack["type"], &nack["msg_id"]), (&json!("nack"), &Value::Null));
        assert_eq!(nack["problem"]["code"], "forbidden");
        assert_eq!(socket.closed_at_once().await, 4403);
    }
}

#[tokio::test]
async fn a_hello_that_cannot_be_taken_is_refused_with_its_reason() {
    let (server, alice, _bob, conv) = pair(Server::start()).await;
    let before = Snapshot::of(&server).await;
    for (fields, code) in [
        (json!({"ver": 2}), "bad_request"),
        (json!({"window": 0}), "bad_request"),
        (json!({"window": 1025}), "bad_request"),
        (json!({"conversations": []}), "bad_request"),
        (json!({"conversations": vec![conv.clone(); 65]}), "bad_request"),
        (json!({"tree_size": 1_000_000}), "bad_request"),
    ] {
        let mut socket = Socket::open(server.url(), &format!("token={}", alice.token()), &[]).await;
        socket.send(&hello(fields.clone())).await;
        assert_eq!(socket.next().await["problem"]["code"], code, "{fields}");
        assert_eq!(socket.closed_at_once().await, 4400, "{fields}");
    }
    // What is no hello at all is no frame; and neither is one on the seed's socket.
    for fields in [json!({"window": -1}), json!({"cursor": "No Name"}), json!({"after": "x"})] {
        let mut socket = Socket::open(server.url(), &format!("token={}", alice.token()), &[]).await;
        socket.send(&hello(fields.clone())).await;
        assert_eq!(socket.closed_at_once().await, 4400, "{fields}");
    }
    let mut seed = alice.socket(&conv).await;
    seed.send(&hello(json!({}))).await;
    assert_eq!(seed.closed_at_once().await, 4400);
    // A device has few cursors.
    for n in 0..8 {
        Stream::of(&alice, json!({"cursor": format!("c{n}")})).await;
    }
    let mut socket = Socket::open(server.url(), &format!("token={}", alice.token()), &[]).await;
    socket.send(&hello(json!({"cursor": "c8"}))).await;
    assert_eq!(socket.next().await["problem"]["code"], "too_large");
    before.unchanged(&server).await;
}

#[tokio::test]
async fn an_ack_of_what_was_not_sent_ends_the_socket_and_moves_nothing() {
    let (_server, alice, bob, conv) = pair(Server::start()).await;
    let places = say(&alice, &conv, 0..3).await;
    let mut his = Stream::of(&bob, json!({"cursor": "tail", "window": 1})).await;
    his.ids(1).await;
    his.ack(places[1]).await;
    let (before, bye, code) = his.bye().await;
    assert_eq!(before[0]["problem"]["code"], "bad_request");
    assert_eq!((&bye["reason"], &bye["cursor"], code), (&json!("malformed"), &json!(0), 4400));
    assert!(bye["retry_after"].is_null());
    assert_eq!(Stream::of(&bob, json!({"cursor": "tail"})).await.hello["after"], 0);
    // An ack before a hello, and a second hello.
    let mut his = Stream::of(&bob, json!({})).await;
    his.socket.send(&hello(json!({}))).await;
    assert_eq!(his.bye().await.2, 4400);
    let mut early = Socket::open(&bob.wire.url, &format!("token={}", bob.token()), &[]).await;
    early.send(&json!({"type": "ack", "cursor": 0})).await;
    assert_eq!(early.closed_at_once().await, 4400);
}

#[tokio::test]
async fn a_deletion_is_sent_acked_and_shown() {
    let (server, alice, bob, conv) = pair(Server::start()).await;
    let log = Reader::of(&server);
    let places = say(&alice, &conv, 0..2).await;
    let mut his = Stream::of(&bob, json!({"after": 0})).await.verified(&log);
    let mut hers = Stream::of(&alice, json!({})).await;
    his.ids(2).await;
    let delete = |id: &str| json!({"type": "delete", "conv_id": conv, "target_msg_id": id});
    let mut asking = delete("m-0");
    asking["receipt"] = true.into();
    hers.socket.send(&asking).await;
    let ack = answer(&mut hers.socket).await;
    assert_eq!((&ack["msg_id"], &ack["deleted"]), (&json!("m-0"), &json!(true)));
    assert_eq!(ack["receipt"]["sth_index"], ack["sth_index"]);
    let (kind, item) = his.item().await;
    assert_eq!((kind.as_str(), &item["msg_id"]), ("delete", &json!("m-0")));
    assert_eq!(item["tombstone"]["target_sth_index"], places[0]);
    assert_eq!(item["sth_index"], ack["sth_index"]);
    // Again, another's, and one that is not there.
    hers.socket.send(&delete("m-0")).await;
    assert_eq!(answer(&mut hers.socket).await["duplicate"], true);
    his.socket.send(&delete("m-1")).await;
    assert_eq!(answer(&mut his.socket).await["type"], "nack");
    hers.socket.send(&delete("nowhere")).await;
    assert_eq!(answer(&mut hers.socket).await["problem"]["code"], "not_found");
}

/// The next ack or nack.
async fn answer(socket: &mut Socket) -> Value {
    loop {
        let frame = socket.next().await;
        if ["ack", "nack"].iter().any(|kind| frame["type"] == *kind) {
            return frame;
        }
    }
}

#[tokio::test]
async fn native_messages_come_with_the_readers_packet_and_signed_deletions() {
    let server = Server::start();
    let (nora, otto) = (Native::new(&server, "nora").await, Native::new(&server, "otto").await);
    nora.conversation("otto").await;
    let (sealed, _) = nora.say(&otto, "secret").await;
    let mut his = Stream::open(server.url(), otto.token(), json!({"cursor": "tail"})).await;
    let (_, item) = his.item().await;
    assert_eq!(item["packet"], sealed.body["packets"][&otto.device]);
    assert_eq!(item["packet_hashes"].as_object().unwrap().len(), 1);
    let mut hers = Stream::open(server.url(), nora.token(), json!({})).await;
    let mut delete = nora.deletion(&nora.tombstone(&sealed));
    delete["type"] = "delete".into();
    hers.socket.send(&delete).await;
    let ack = answer(&mut hers.socket).await;
    assert!(ack["receipt"].is_object(), "native devices get one unasked: {ack}");
    let (kind, item) = his.item().await;
    assert_eq!((kind.as_str(), &item["tombstone"]["sig"]), ("delete", &delete["sig"]));
    assert_eq!(item["tombstone"]["statement"], delete["statement"]);
    // Unsigned, or with another's signature, nothing is deleted.
    delete["sig"] = to_base64(&[7; 64]).into();
    hers.socket.send(&delete).await;
    assert_eq!(answer(&mut hers.socket).await["problem"]["code"], "bad_request");
}

#[tokio::test]
async fn a_revoked_device_is_told_and_sent_away() {
    let server = Server::start();
    let alice = Native::new(&server, "alice").await;
    let mut line = Line::of(&alice);
    let lost = alice.sibling(&server);
    let change = nexo_schema::change::Change::Add(full(&lost));
    let drawn = line.draw(&alice.key, &change).accepted(&lost.key);
    server.wire().post("/account/events", &drawn.json()).await.ok();
    line.took(drawn);
    let lost = lost.logged_in().await;
    let stream = Stream::open(server.url(), lost.token(), json!({"cursor": "tail"})).await;
    let device = id_of(&lost.key);
    let change = nexo_schema::change::Change::Revoke { device, reason: b"lost" };
    let drawn = line.draw(&alice.key, &change);
    server.wire().post("/account/events", &drawn.json()).await.ok();
    let (before, bye, code) = stream.bye().await;
    let told = before.iter().find(|frame| frame["type"] == "device_revoked");
    assert_eq!(told.expect("it is told")["device_id"], lost.device.as_str());
    assert_eq!((&bye["reason"], code), (&json!("unauthorized"), 4401));
    assert!(bye["retry_after"].is_null(), "it need not come back");
}
