//! Ending and starting again: what a relay keeps, and what it refuses to go on from.
//!
//! A log that comes back shorter, with other keys or with another tree would sign a second
//! history. Each of these is refused at the start, with words that say what to do, and nothing
//! is served. Power cuts are in `crash.rs`.

use std::fs;

use serde_json::json;

use crate::harness::plain::message;
use crate::harness::reader::Reader;
use crate::harness::server::NotStarted;
use crate::harness::tamper::{Backup, alter_edge, alter_newest};
use crate::harness::{Engine, Native, Plain, Server, both, number, past, text};

both!(async a_renewed_head_leaves_the_date_of_its_entries);
async fn a_renewed_head_leaves_the_date_of_its_entries(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let place = number(&alice.say(&conv, "dated").await["sth_index"]);
    let path = format!("/log/head?covering={place}");
    let dated = server.wire().get(&path).await.ok();
    assert_eq!(number(&dated["size"]), place);
    past(&server, number(&dated["time"])).await;
    assert!(server.terminate().success());
    // A start renews the time of the newest head.
    server.restart();
    let newest = server.wire().get("/log/head").await.ok();
    assert_eq!((&newest["size"], &newest["root"]), (&dated["size"], &dated["root"]));
    assert!(number(&newest["time"]) > number(&dated["time"]), "{newest}");
    assert_eq!(server.wire().get(&path).await.ok(), dated);
    assert_eq!(server.wire().get(&format!("/log/head/{place}")).await.ok(), dated);
}

both!(async a_restart_keeps_accounts_messages_and_the_log);
async fn a_restart_keeps_accounts_messages_and_the_log(engine: Engine) {
    let mut server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let native = Native::new(&server, "nina").await;
    let conv = alice.conversation("bob").await;
    for number in 0..20 {
        alice.say(&conv, &format!("m{number}")).await;
    }
    let deleted = alice.say(&conv, "gone").await;
    alice.delete(&conv, &text(&deleted["msg_id"])).await.ok();

    let reader = Reader::of(&server);
    let before = reader.head().await;
    let (items, health) = (bob.items(&conv).await, server.wire().get("/health").await.ok());
    let (vkey, origin) = (server.vkey().to_owned(), server.origin().to_owned());
    assert!(server.terminate().success(), "asked to end, it ends well");
    server.restart();

    assert_eq!((server.vkey(), server.origin()), (&*vkey, &*origin));
    let reader = Reader::of(&server);
    let after = reader.head().await;
    assert_eq!(after.checkpoint, before.checkpoint);
    assert!(after.time >= before.time);
    let wire = server.wire();
    let again = Plain::log_in(&wire, "bob", bob.key.clone()).await;
    assert_eq!((&again.account, &again.device), (&bob.account, &bob.device));
    assert_eq!(again.items(&conv).await, items);
    let now = wire.get("/health").await.ok();
    assert_eq!(now["users_count"], health["users_count"]);
    assert_eq!(now["sth_count"], health["sth_count"]);
    // Tokens of before are good, and a taken handle stays taken.
    assert_eq!(wire.with_token(alice.token()).get("/devices/x25519_pub").await.status, 200);
    let stranger = crate::harness::plain::new_key();
    let taken = crate::harness::plain::registration("nina", &stranger);
    wire.post("/auth/register", &taken).await.problem(409, "handle_taken");
    drop(native);

    let alice = Plain::log_in(&wire, "alice", alice.key.clone()).await;
    let next = alice.say(&conv, "after").await;
    assert_eq!(number(&next["sth_index"]), before.checkpoint.size + 1);
    reader.extends(&before.checkpoint, &reader.head().await.checkpoint).await;
}

both!(async a_retry_over_a_restart_is_answered_with_its_first_place);
async fn a_retry_over_a_restart_is_answered_with_its_first_place(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let mut body = message(&conv, "once");
    body["msg_id"] = json!("m-1");
    let first = alice.post("/messages?receipt=1", &body).await.ok();
    server.kill9();
    server.restart();
    let again = server.wire().with_token(alice.token());
    let again = again.post("/messages?receipt=1", &body).await.ok();
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(again["message"], first["message"]);
    Reader::of(&server).receipt(&again["message"], &again["receipt"]);
}

/// A server with two accounts and five messages, ended.
async fn ended(engine: Engine, args: &str) -> Server {
    let mut server = engine.setup().args(args).start();
    let alice = Plain::new(&server, "alice").await;
    Plain::new(&server, "bob").await;
    let conv = alice.conversation("bob").await;
    for number in 0..5 {
        alice.say(&conv, &format!("m{number}")).await;
    }
    assert!(server.terminate().success());
    server
}

/// Fails unless the server refuses to start with this code and these words, and says no more
/// than that.
fn refused(started: Result<(), NotStarted>, code: i32, words: &[&str]) {
    started.expect_err("it must not start").because(code, words);
}

both!(async a_restored_older_database_is_refused);
async fn a_restored_older_database_is_refused(engine: Engine) {
    let mut server = ended(engine, "--origin relay.test").await;
    let older = Backup::of(&server);
    server.restart();
    let wire = server.wire();
    let carol = Plain::log_in(&wire, "carol", crate::harness::plain::new_key()).await;
    let told = Reader::of(&server).head().await.checkpoint;
    assert!(server.terminate().success());
    let newest = Backup::of(&server);

    older.restore(&mut server);
    refused(
        server.try_restart(),
        74,
        &["7 entries", "8 were announced", "restored from an older copy"],
    );
    // The newest one again, and nothing is lost.
    newest.restore(&mut server);
    server.restart();
    assert_eq!(Reader::of(&server).head().await.checkpoint, told);
    Plain::log_in(&server.wire(), "carol", carol.key.clone()).await;
}

both!(async another_history_of_the_same_length_is_refused);
async fn another_history_of_the_same_length_is_refused(engine: Engine) {
    let mut server = ended(engine, "--origin relay.test").await;
    let stolen = Backup::of(&server);
    // The thief's copy goes on its own way, with keys and all but the marker.
    let mut forked = stolen.place().start();
    Plain::new(&forked, "mallory").await;
    forked.terminate();
    let fork = Backup::of(&forked);
    server.restart();
    Plain::new(&server, "carol").await;
    server.terminate();
    fork.restore(&mut server);
    refused(server.try_restart(), 74, &["another log of 8 entries"]);
}

both!(async foreign_keys_are_refused);
async fn foreign_keys_are_refused(engine: Engine) {
    let mut ours = ended(engine, "--origin relay.test").await;
    let mut theirs = ended(engine, "--origin relay.test").await;
    for name in ["log.key", "time.key"] {
        let kept = fs::read(ours.data().join(name)).unwrap();
        fs::copy(theirs.data().join(name), ours.data().join(name)).unwrap();
        refused(ours.try_restart(), 74, &["stored head", "keys"]);
        fs::write(ours.data().join(name), kept).unwrap();
    }
    ours.restart();

    // Keys of a log with another name.
    let other = ended(engine, "--origin other.test").await;
    theirs.restart();
    theirs.terminate();
    for name in ["log.key", "time.key"] {
        fs::copy(other.data().join(name), theirs.data().join(name)).unwrap();
    }
    let started = theirs.place().try_start().map(drop);
    refused(started, 74, &["another origin", "keys that belong to this database"]);
}

both!(async missing_and_readable_keys_are_refused);
async fn missing_and_readable_keys_are_refused(engine: Engine) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut server = ended(engine, "--origin relay.test").await;
    let (key, away) = (server.data().join("log.key"), server.data().join("log.key.away"));
    fs::rename(&key, &away).unwrap();
    refused(server.try_restart(), 78, &["log.key", "missing"]);
    assert!(!key.exists(), "a new key would be another log");
    fs::rename(&away, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(server.try_restart(), 78, &["log.key", "644"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    server.restart();
}

both!(async an_altered_tree_is_refused);
async fn an_altered_tree_is_refused(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    // One full tile, whose root is at the edge, and some entries behind it.
    for number in 2..=260 {
        assert_eq!(alice.say(&conv, "x").await["sth_index"], number);
    }
    server.terminate();
    let good = Backup::of(&server);
    alter_edge(&server, 0);
    refused(server.try_restart(), 74, &["tiles give the root", "stored head says"]);
    good.restore(&mut server);
    alter_newest(&server, |entries| *entries.last_mut().unwrap() ^= 1);
    refused(server.try_restart(), 74, &["tiles give the root", "stored head says"]);
    good.restore(&mut server);
    alter_newest(&server, |entries| entries.truncate(entries.len() - 1));
    refused(server.try_restart(), 74, &["last 4 entries are not stored"]);
    good.restore(&mut server);
    server.restart();
}

both!(async the_origin_is_for_good);
async fn the_origin_is_for_good(engine: Engine) {
    let ended = ended(engine, "--origin relay.test").await;
    let renamed = ended.place().args("--origin other.test").try_start();
    refused(renamed.map(drop), 78, &["relay.test", "other.test"]);
    // It is kept without being named again.
    let server = ended.place().start();
    assert_eq!(server.origin(), "relay.test");
}
