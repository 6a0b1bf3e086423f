//! One server, all servers or the database fail under load; the rest goes on.

use std::time::Instant;

use serde_json::Value;

use super::{Pair, SOON, at};
use crate::harness::load::{Crew, LATER, Seen, Told};
use crate::harness::plain::message;
use crate::harness::postgres::{Cluster, Disk};
use crate::harness::server::Setup;
use crate::harness::shell::Auditor;
use crate::harness::{Plain, Server, Socket, number};

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
        tokio::join!(outage(&pair.a, sender, conv), outage(&pair.b, sender, conv));
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
        server.told_of_outages(2);
    }
    // The socket was told all of it, or told to come back and then given the rest.
    let mut last = message(conv, "the last");
    last["msg_id"] = "last".into();
    at(&pair.a, sender).post("/messages", &last).await.ok();
    let (mut seen, mut closed) = watcher.until("last").await;
    while seen.last().is_none_or(|frame| frame["msg_id"] != "last") {
        assert_eq!(closed, Some(LATER));
        let after = seen.last().map_or(0, |frame| number(&frame["sth_index"]));
        let query = format!("{query}&after={after}");
        let more;
        (more, closed) = Socket::open(pair.b.url(), &query, &[]).await.until("last").await;
        seen.extend(more);
    }
    let seen: Vec<&Value> = seen.iter().map(|frame| &frame["msg_id"]).collect();
    let items = at(&pair.b, sender).get(&format!("/messages/{conv}?after=0&limit=1000")).await.ok();
    let items: Vec<&Value> =
        items["items"].as_array().unwrap().iter().map(|item| &item["msg_id"]).collect();
    assert_eq!(seen, items, "everything, once, in log order");
}

/// What a server answers whose database is away.
async fn outage(server: &Server, who: &Plain, conv: &str) {
    let (wire, path) = (server.wire(), format!("/messages/{conv}"));
    let token = at(server, who);
    let (health, list) = tokio::join!(wire.get("/health"), token.get(&path));
    health.unavailable();
    list.unavailable();
    // What is signed stays signed, and needs no database.
    assert_eq!(wire.get("/checkpoint").await.status, 200);
}
