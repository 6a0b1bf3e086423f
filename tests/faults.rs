//! Disks that are full or may not be written: a clear refusal, reading goes on, nothing that was
//! acknowledged is lost, and service resumes by itself.
//!
//! A full disk is made with the system's bound on the size of files (RLIMIT_FSIZE): writes
//! beyond it fail as they do on a full disk, in the middle of whatever was being written. That
//! needs no privileges, and it can be lifted from outside while the server runs. What cannot be
//! written is made with modes; root, whom modes do not bind, gives that privilege up first.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::harness::load::{Crew, Seen, Told};
use crate::harness::plain::{frame, message, new_key, registration};
use crate::harness::reader::Reader;
use crate::harness::server::Setup;
use crate::harness::shell::Auditor;
use crate::harness::{DEADLINE, Plain, Server, number, text};

/// A write beyond the bound fails, instead of ending the process.
const UNKILLED: &str = "trap '' XFSZ; exec";

/// Bounds the size of the files of a server that was started [`UNKILLED`].
fn bound(server: &Server, bytes: Option<u64>) {
    let soft = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &server.id().to_string(), &format!("--fsize={soft}:unlimited")]);
    let done = prlimit.output().expect("prlimit, which is a part of util-linux");
    assert!(done.status.success(), "{done:?}");
}

/// Leaves room for a few more batches and no more.
fn fill(server: &Server) {
    let journal = server.data().join("nexo.db-wal").metadata().unwrap().len();
    bound(server, Some(journal + 100_000));
}

/// Leaves no room for a page of the database or of its journal, which has a header before it.
fn fill_up(server: &Server) {
    bound(server, Some(4096));
}

// --- full disks ---

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for_and_nothing_is_lost() {
    let mut server = Server::setup().under(UNKILLED).start();
    let crew = Crew::new(&server, 6, 2).await;
    let everyone: Vec<usize> = (0..8).collect();
    let auditor = Auditor::new();
    let mut told = Told::default();
    for round in 0..2 {
        let mut load = crew.load(&[&server], round).await;
        load.acks(&mut told, 50).await;
        fill(&server);
        load.each(&mut told, &everyone, 2, Seen::refused).await;
        reads_go_on(&server, &crew, &auditor).await;
        bound(&server, None);
        load.each(&mut told, &everyone, 5, Seen::acked).await;
        load.end(&mut told).await;
        assert!(server.is_up());
        crew.check(&server, &told).await;
        crew.send_again(&server, &mut told).await;
    }
    server.told_of_outages(2);
    // What is on the disk is what was said.
    server.kill9();
    server.restart();
    crew.check(&server, &told).await;
    auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
}

async fn reads_go_on(server: &Server, crew: &Crew, auditor: &Auditor) {
    let (sender, conv) = crew.sender(0);
    assert!(!sender.items(conv).await.is_empty());
    server.wire().get("/health").await.ok();
    let reader = Reader::of(server);
    let head = reader.head().await.checkpoint;
    reader.includes(0, &head).await;
    reader.extends(&reader.head_at(1).await, &head).await;
    auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_every_way_to_write_says_come_back() {
    let server = Server::setup().under(UNKILLED).start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let mut socket = alice.socket(&conv).await;
    let kept = alice.say(&conv, "kept").await;
    assert_eq!(socket.next().await["msg_id"], kept["msg_id"]);
    fill_up(&server);
    let key = new_key();
    let wire = server.wire();
    wire.post("/auth/register", &registration("bob", &key)).await.unavailable();
    wire.post("/auth/refresh", &json!({"refresh": alice.refresh})).await.unavailable();
    alice.post("/messages", &message(&conv, "more")).await.unavailable();
    alice.delete(&conv, &text(&kept["msg_id"])).await.unavailable();
    socket.send(&frame(&conv, "m-1", "over a socket")).await;
    let nack = socket.next().await;
    assert_eq!((&nack["type"], &nack["msg_id"]), (&json!("nack"), &json!("m-1")), "{nack}");
    assert_eq!(nack["problem"]["code"], "unavailable");

    bound(&server, None);
    // The very same clients, sockets and requests.
    let resumed = async || alice.post("/messages", &message(&conv, "after")).await;
    let end = Instant::now() + DEADLINE;
    while resumed().await.status != 200 {
        assert!(Instant::now() < end, "it does not resume");
    }
    Plain::log_in(&wire, "bob", key).await;
    wire.post("/auth/refresh", &json!({"refresh": alice.refresh})).await.ok();
    alice.delete(&conv, &text(&kept["msg_id"])).await.ok();
    socket.send(&frame(&conv, "m-1", "over a socket")).await;
    let (seen, closed) = socket.until("m-1").await;
    assert_eq!(closed, None, "the socket was open all along");
    assert_eq!(seen.last().unwrap()["type"], json!(null), "its place this time: {seen:?}");
    let health = wire.get("/health").await.ok();
    let items = alice.items(&conv).await;
    let ids: BTreeSet<String> = items.iter().map(|item| text(&item["msg_id"])).collect();
    assert_eq!(ids.len(), items.len());
    // Alice, bob and the deletion are entries besides the messages.
    assert_eq!(number(&health["sth_count"]), items.len() as u64 + 3);
    assert!(!server.stderr().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_is_refused_and_harms_nothing() {
    let mut server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    server.terminate();
    let full = "trap '' XFSZ; exec prlimit --fsize=2048:unlimited";
    let refusal = server.place().under(full).try_start().map(drop).unwrap_err();
    one_line(&refusal.stderr);
    refusal.because(74, &[server.data().to_str().unwrap(), "make room"]);
    server.restart();
    Plain::log_in(&server.wire(), "alice", alice.key.clone()).await;
    // The first start of all, with room for keys and none for a database.
    let refusal = Server::setup().under(full).try_start().map(drop).unwrap_err();
    one_line(&refusal.stderr);
    refusal.because(74, &["data cannot be written", "make room"]);
}

// --- what may not be written ---

/// For a shell: obey modes, also as root.
fn obedient() -> &'static str {
    match fs::metadata("/proc/self").unwrap().uid() {
        0 => "exec setpriv --bounding-set=-dac_override,-dac_read_search --",
        _ => "exec",
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Fails unless the server said one line, which is its name and a sentence.
fn one_line(stderr: &str) {
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("nexo-server: "), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_written_is_named_in_one_line() {
    let mut server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    alice.say(&conv, "kept").await;
    let head = Reader::of(&server).head().await.checkpoint;
    server.terminate();
    let data = server.data().to_owned();
    for (path, mode, kept) in [
        (data.clone(), 0o500, 0o700),
        (data.join("nexo.db"), 0o400, 0o600),
        (data.join("head.marker"), 0o400, 0o600),
    ] {
        set_mode(&path, mode);
        let refusal = server.place().under(obedient()).try_start().map(drop).unwrap_err();
        set_mode(&path, kept);
        one_line(&refusal.stderr);
        refusal.because(74, &[&format!(" {}", path.display()), "let the user", "write"]);
    }
    let server = server.place().under(obedient()).start();
    assert_eq!(Reader::of(&server).head().await.checkpoint, head, "nothing was harmed");
    let wire = server.wire().with_token(alice.token());
    wire.post("/messages", &message(&conv, "again")).await.ok();
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named_in_one_line() {
    let parent = tempfile::tempdir().unwrap();
    set_mode(parent.path(), 0o500);
    let data = parent.path().join("data");
    let setup = Setup::default().data(&data).under(obedient());
    let refusal = setup.try_start().map(drop).unwrap_err();
    set_mode(parent.path(), 0o700);
    one_line(&refusal.stderr);
    refusal.because(78, &[data.to_str().unwrap()]);
}
