//! Starts that must not be, and those that must; databases that went back.

use std::sync::Arc;
use std::thread;

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;

use super::{Pair, at};
use crate::harness::plain::message;
use crate::harness::postgres::durable_database;
use crate::harness::reader::Reader;
use crate::harness::server::Setup;
use crate::harness::{DEADLINE, Plain, Server, Wire, number};

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
