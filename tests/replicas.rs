//! Several servers on one PostgreSQL: one log, one set of accounts, whichever of them is asked,
//! and each goes on without the others.
//!
//! The database is on a disk that is waited for. Pulling its plug is ending PostgreSQL without a
//! goodbye, so that it recovers from its journal; what was acknowledged before must be there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::load::{Crew, Seen, Told};
use crate::harness::plain::{answer, frame, message, new_key, registration};
use crate::harness::postgres::{Cluster, Database, Disk, durable_database};
use crate::harness::proof::Proof;
use crate::harness::reader::Reader;
use crate::harness::server::Setup;
use crate::harness::shell::{Auditor, Follower, Person};
use crate::harness::{DEADLINE, Plain, Reply, Server, Socket, Wire, number, text};

/// How soon the rest of the world goes on when one machine has failed.
const SOON: Duration = Duration::from_secs(10);

/// Two servers of one log.
struct Pair {
    a: Server,
    b: Server,
    database: Arc<Database>,
    keys: TempDir,
}

impl Pair {
    fn start() -> Self {
        Self::on(durable_database(), Setup::default())
    }

    fn on(database: Database, setup: Setup) -> Self {
        let (database, keys) = (Arc::new(database), TempDir::new().unwrap());
        let setup = setup.keys(&keys.path().join("keys")).database(Arc::clone(&database));
        let (a, b) = (setup.clone().start(), setup.start());
        assert_eq!((a.origin(), a.vkey()), (b.origin(), b.vkey()));
        Self { a, b, database, keys }
    }

    fn servers(&mut self) -> [&mut Server; 2] {
        [&mut self.a, &mut self.b]
    }

    fn check_up(&mut self) {
        for server in self.servers() {
            assert!(server.is_up());
            server.sound();
        }
    }

    /// Waits until both have told of a log of this size.
    async fn grown(&self, size: u64) {
        for server in [&self.a, &self.b] {
            let (reader, end) = (Reader::of(server), Instant::now() + DEADLINE);
            while reader.head().await.checkpoint.size < size {
                assert!(Instant::now() < end, "{} does not hear of it", server.url());
            }
        }
    }
}

/// The way to a server with the token that another one gave.
fn at(server: &Server, who: &Plain) -> Wire {
    server.wire().with_token(who.token())
}

// --- one relay ---

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
async fn a_proof_is_used_up_at_every_server() {
    let setup = Setup::default().args("--public-url https://relay.test");
    let pair = Pair::on(durable_database(), setup);
    let key = new_key();
    let asked = pair.a.wire().post("/auth/register", &registration("alice", &key)).await.ok();
    let proof = |method: &str, path: &str, token: Option<&str>| {
        let url = format!("https://relay.test{path}");
        Proof::of(&key, (method, &url), pair.a.origin(), token).sign(&key)
    };
    let login = proof("POST", "/auth/verify", None);
    let body = crate::harness::plain::signed(&key, &asked).to_string().into_bytes();
    let tokens = pair.a.wire().call("POST", "/auth/verify", &[("DPoP", &login)], body).await.ok();
    let token = text(&tokens["access"]);
    let show = async |server: &Server, proof: &str| -> Reply {
        let wire = server.wire().with_token(&token);
        wire.call("GET", "/devices/x25519_pub", &[("DPoP", proof)], Vec::new()).await
    };
    for (first, second) in [(&pair.a, &pair.b), (&pair.b, &pair.a)] {
        let one = proof("GET", "/devices/x25519_pub", Some(&token));
        show(first, &one).await.ok();
        show(second, &one).await.problem(401, "dpop_invalid");
    }
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

// --- machines that fail ---

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_takes_nothing_along() {
    let mut pair = Pair::start();
    let crew = Crew::new(&pair.a, 6, 4).await;
    let mut told = Told::default();
    for round in 0..4 {
        let mut load = crew.load(&[&pair.a, &pair.b], round).await;
        load.acks(&mut told, 40 + 30 * round).await;
        let victim = round % 2;
        pair.servers()[victim].kill9();
        let killed = Instant::now();
        // Senders go to one and the other in turn.
        let others: Vec<usize> = (0..10).filter(|who| who % 2 != victim).collect();
        load.each(&mut told, &others, 5, Seen::acked).await;
        assert!(killed.elapsed() < SOON, "the other one stood still: {:?}", killed.elapsed());
        load.end(&mut told).await;
        let survivor = if victim == 0 { &pair.b } else { &pair.a };
        crew.check(survivor, &told).await;
        crew.send_again(survivor, &mut told).await;
        pair.servers()[victim].restart();
        for server in [&pair.a, &pair.b] {
            crew.check(server, &told).await;
        }
    }
    pair.check_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_killed_come_back_with_all_they_said() {
    let mut pair = Pair::start();
    let crew = Crew::new(&pair.a, 6, 4).await;
    let auditor = Auditor::new();
    let mut told = Told::default();
    for round in 0..3 {
        let mut load = crew.load(&[&pair.a, &pair.b], round).await;
        load.acks(&mut told, 20 + 60 * round).await;
        pair.a.kill9();
        pair.b.kill9();
        load.all_lost(&mut told).await;
        pair.b.restart();
        pair.a.restart();
        for server in [&pair.a, &pair.b] {
            crew.check(server, &told).await;
            crew.send_again(server, &mut told).await;
            auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
        }
    }
    pair.check_up();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_fails_is_waited_for_and_nothing_is_lost() {
    let cluster = Cluster::start(Disk::Durable);
    let mut pair = Pair::on(cluster.database(), Setup::default());
    let crew = Crew::new(&pair.a, 6, 2).await;
    let everyone: Vec<usize> = (0..8).collect();
    let (sender, conv) = crew.sender(0);
    // Posted at A, watched at B.
    let query = format!("conv_id={conv}&token={}", sender.token());
    let mut watcher = Socket::open(pair.b.url(), &query, &[]).await.settled().await;
    let mut told = Told::default();
    for round in 0..2 {
        let mut load = crew.load(&[&pair.a, &pair.b], round).await;
        load.acks(&mut told, 100).await;
        cluster.crash();
        load.each(&mut told, &everyone, 1, Seen::refused).await;
        for server in [&pair.a, &pair.b] {
            server.wire().get("/health").await.unavailable();
            at(server, sender).get(&format!("/messages/{conv}")).await.unavailable();
            // What is signed stays signed, and needs no database.
            assert_eq!(server.wire().get("/checkpoint").await.status, 200);
        }
        cluster.go();
        let back = Instant::now();
        load.each(&mut told, &everyone, 3, Seen::acked).await;
        assert!(back.elapsed() < 3 * SOON, "{:?}", back.elapsed());
        load.end(&mut told).await;
        for server in [&pair.a, &pair.b] {
            crew.check(server, &told).await;
            crew.send_again(server, &mut told).await;
        }
    }
    for server in pair.servers() {
        assert!(server.is_up(), "it went on by itself");
    }
    // The socket was told all of it, or told to come back and then given the rest.
    let mut last = message(conv, "the last");
    last["msg_id"] = "last".into();
    at(&pair.a, sender).post("/messages", &last).await.ok();
    let mut seen = watcher.until("last").await;
    while seen.last().is_none_or(|frame| frame["msg_id"] != "last") {
        let after = seen.last().map_or(0, |frame| number(&frame["sth_index"]));
        let query = format!("{query}&after={after}");
        seen.extend(Socket::open(pair.b.url(), &query, &[]).await.until("last").await);
    }
    let seen: Vec<&Value> = seen.iter().map(|frame| &frame["msg_id"]).collect();
    let items = at(&pair.b, sender).get(&format!("/messages/{conv}?after=0&limit=1000")).await.ok();
    let items: Vec<&Value> =
        items["items"].as_array().unwrap().iter().map(|item| &item["msg_id"]).collect();
    assert_eq!(seen, items, "everything, once, in log order");
}

// --- what is refused ---

#[tokio::test(flavor = "multi_thread")]
async fn first_starts_at_the_same_moment_make_one_log() {
    for _ in 0..3 {
        let (database, keys) = (Arc::new(durable_database()), TempDir::new().unwrap());
        let setup = Setup::default().keys(&keys.path().join("keys")).database(database);
        let servers: Vec<Server> = thread::scope(|scope| {
            let starting: Vec<_> = (0..3).map(|_| scope.spawn(|| setup.clone().start())).collect();
            starting.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for server in &servers {
            assert_eq!(server.vkey(), servers[0].vkey());
        }
        let names = ["alice", "bob", "carol"];
        let new = servers.iter().zip(names).map(|(server, name)| Plain::new(server, name));
        let people = join_all(new).await;
        let conv = people[0].conversation("bob").await;
        let sent = people[1].say(&conv, "hi").await;
        assert_eq!(sent["sth_index"], 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_other_keys_is_refused() {
    let pair = Pair::start();
    Plain::new(&pair.a, "alice").await;
    let stranger = || Setup::default().database(Arc::clone(&pair.database));
    let refused = stranger().try_start().map(drop).unwrap_err();
    refused.because(74, &["another origin", "keys that belong to this database"]);
    let named = stranger().args(&format!("--origin {}", pair.a.origin()));
    named.try_start().map(drop).unwrap_err().because(74, &["stored head", "keys"]);
    // One foreign key is one too many.
    let mixed = TempDir::new().unwrap();
    for name in ["log.key", "time.key", "jwt.secret"] {
        std::fs::copy(pair.keys.path().join("keys").join(name), mixed.path().join(name)).unwrap();
    }
    let other = Server::start();
    std::fs::copy(other.data().join("time.key"), mixed.path().join("time.key")).unwrap();
    let refused = stranger().keys(mixed.path()).try_start().map(drop).unwrap_err();
    refused.because(78, &["time.key"]);
    // Nobody who was refused has left anything: the pair goes on.
    Plain::new(&pair.b, "bob").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_older_database_is_refused_by_every_server_that_saw_more() {
    let mut pair = Pair::start();
    let alice = Plain::new(&pair.a, "alice").await;
    let conv = alice.conversation("alice").await;
    for _ in 0..4 {
        alice.say(&conv, "kept").await;
    }
    let older = Arc::new(pair.database.backup());
    // Two entries that A takes; B only hears of them.
    alice.say(&conv, "lost").await;
    alice.say(&conv, "lost").await;
    pair.grown(7).await;
    let told = Reader::of(&pair.b).head().await.checkpoint;
    let newest = Arc::clone(&pair.database);
    for server in pair.servers() {
        assert!(server.terminate().success());
        server.use_database(Arc::clone(&older));
        let words = ["5 entries", "7 were announced", "restored from an older copy"];
        server.try_restart().unwrap_err().because(74, &words);
        server.use_database(Arc::clone(&newest));
    }
    for server in pair.servers() {
        server.restart();
        assert_eq!(Reader::of(server).head().await.checkpoint, told);
    }
    assert_eq!(at(&pair.b, &alice).post("/messages", &message(&conv, "x")).await.status, 200);
}

/// Posts until nobody answers; until then, it is told to come back later.
async fn knock(wire: Wire, body: Value) {
    let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
    let post = || {
        let request = http.post(format!("{}/messages", wire.url)).body(body.to_string());
        request.bearer_auth(wire.token.as_deref().unwrap()).send()
    };
    while let Ok(answer) = post().await {
        assert_eq!(answer.status(), 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_put_under_running_servers_stops_them() {
    let mut pair = Pair::start();
    let alice = Plain::new(&pair.a, "alice").await;
    let conv = alice.conversation("alice").await;
    alice.say(&conv, "kept").await;
    let older = pair.database.backup();
    alice.say(&conv, "lost").await;
    pair.grown(3).await;
    pair.database.swap(&older);
    // Connections end first, and that alone is no reason to give up; what follows is.
    for server in pair.servers() {
        let knocking = tokio::spawn(knock(at(server, &alice), message(&conv, "wrong log")));
        assert_eq!(server.until_ended().code(), Some(74));
        knocking.await.unwrap();
        let said = server.stderr();
        assert!(said.contains("went back from 3 to 2 entries"), "{said}");
        server.try_restart().unwrap_err().because(74, &["restored from an older copy"]);
    }
    pair.database.swap(&older);
    for server in pair.servers() {
        server.restart();
        assert_eq!(number(&server.wire().get("/health").await.ok()["sth_count"]), 3);
    }
}
