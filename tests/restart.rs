//! Ending and starting again: what a relay keeps, and what it refuses to go on from.
//!
//! A log that comes back shorter, with other keys or with another tree would sign a second
//! history. Each of these is refused at the start, with words that say what to do, and nothing
//! is served. Power cuts are in `crash.rs`.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::plain::message;
use crate::harness::reader::Reader;
use crate::harness::server::NotStarted;
use crate::harness::tamper::{alter_entry, alter_tile, copy_data, put_database};
use crate::harness::{Native, Plain, Server, number, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_accounts_messages_and_the_log() {
    let mut server = Server::start();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_over_a_restart_is_answered_with_its_first_place() {
    let mut server = Server::start();
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

/// A server with its own data directory, two accounts and five messages, ended.
async fn ended(data: &Path, args: &str) -> Server {
    let mut server = Server::setup().data(data).args(args).start();
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
    let refusal = started.expect_err("it must not start");
    assert_eq!(refusal.code, Some(code), "{refusal:?}");
    let said = refusal.stderr.lines().last().unwrap_or_default();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    assert!(!refusal.stderr.contains("panicked"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_older_database_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (data, backup, newest) =
        (temp.path().join("data"), temp.path().join("backup"), temp.path().join("newest"));
    let mut server = ended(&data, "--origin relay.test").await;
    copy_data(&data, &backup);
    server.restart();
    let wire = server.wire();
    let carol = Plain::log_in(&wire, "carol", crate::harness::plain::new_key()).await;
    let told = Reader::of(&server).head().await.checkpoint;
    assert!(server.terminate().success());
    copy_data(&data, &newest);

    put_database(&backup, &data);
    refused(
        server.try_restart(),
        74,
        &["7 entries", "8 were announced", "restored from an older copy"],
    );
    // The newest one again, and nothing is lost.
    put_database(&newest, &data);
    server.restart();
    assert_eq!(Reader::of(&server).head().await.checkpoint, told);
    Plain::log_in(&server.wire(), "carol", carol.key.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_of_the_same_length_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (data, fork) = (temp.path().join("data"), temp.path().join("fork"));
    let mut server = ended(&data, "--origin relay.test").await;
    copy_data(&data, &fork);
    // The thief's copy goes on its own way, with keys and all but the marker.
    let mut forked = Server::setup().data(&fork).start();
    Plain::new(&forked, "mallory").await;
    forked.terminate();
    server.restart();
    Plain::new(&server, "carol").await;
    server.terminate();
    put_database(&fork, &data);
    refused(server.try_restart(), 74, &["another log of 8 entries"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_keys_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (ours, theirs) = (temp.path().join("ours"), temp.path().join("theirs"));
    let mut server = ended(&ours, "--origin relay.test").await;
    ended(&theirs, "--origin relay.test").await;
    for name in ["log.key", "time.key"] {
        let kept = fs::read(ours.join(name)).unwrap();
        fs::copy(theirs.join(name), ours.join(name)).unwrap();
        refused(server.try_restart(), 74, &["stored head", "keys"]);
        fs::write(ours.join(name), kept).unwrap();
    }
    server.restart();

    // Keys of a log with another name.
    let other = temp.path().join("other");
    ended(&other, "--origin other.test").await;
    let mut elsewhere = Server::setup().data(&theirs).start();
    elsewhere.terminate();
    for name in ["log.key", "time.key"] {
        fs::copy(other.join(name), theirs.join(name)).unwrap();
    }
    let started = Server::setup().data(&theirs).try_start().map(drop);
    refused(started, 74, &["another origin", "keys that belong to this database"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_readable_keys_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let mut server = ended(temp.path(), "--origin relay.test").await;
    let (key, away) = (temp.path().join("log.key"), temp.path().join("log.key.away"));
    fs::rename(&key, &away).unwrap();
    refused(server.try_restart(), 78, &["log.key", "missing"]);
    assert!(!key.exists(), "a new key would be another log");
    fs::rename(&away, &key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(server.try_restart(), 78, &["log.key", "644"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    server.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_tree_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let mut server = ended(&data, "--origin relay.test").await;
    let good = temp.path().join("good");
    copy_data(&data, &good);
    alter_tile(&data, 3);
    refused(server.try_restart(), 74, &["tiles give the root", "stored head says"]);
    put_database(&good, &data);
    alter_entry(&data, 3);
    refused(server.try_restart(), 74, &["entries are not those of the stored tile"]);
    put_database(&good, &data);
    server.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_is_for_good() {
    let temp = tempfile::tempdir().unwrap();
    drop(ended(temp.path(), "--origin relay.test").await);
    let renamed = Server::setup().data(temp.path()).args("--origin other.test").try_start();
    refused(renamed.map(drop), 78, &["relay.test", "other.test"]);
    // It is kept without being named again.
    let server = Server::setup().data(temp.path()).start();
    assert_eq!(server.origin(), "relay.test");
}
