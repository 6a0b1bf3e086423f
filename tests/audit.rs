//! The real auditor against a real server, honest and not.
//!
//! The lies are those an operator could tell with the data directory in hand: altered entries
//! and tiles, an older copy, another history. Each is refused with its exit code and name, and
//! the auditor's memory stays what it was. Lies of the network are tested beside the auditor.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::harness::shell::{Auditor, Done};
use crate::harness::tamper::{alter_entry, alter_tile, copy_data};
use crate::harness::{DEADLINE, Plain, Server, number, text};

/// A person who writes to herself; registered at a server that may come and go.
struct Writer {
    alice: Plain,
    conv: String,
}

impl Writer {
    async fn at(server: &Server) -> Self {
        let alice = Plain::new(server, "alice").await;
        let conv = alice.conversation("alice").await;
        Self { alice, conv }
    }

    async fn write(&self, server: &Server, count: usize) {
        let wire = server.wire().with_token(self.alice.token());
        for number in 0..count {
            let body = crate::harness::plain::message(&self.conv, &format!("entry {number}"));
            wire.post("/messages", &body).await.ok();
        }
    }
}

/// Fails unless the auditor ended with this code and verdict, in words and in JSON alike, and
/// kept its memory.
fn found(auditor: &Auditor, url: &str, args: &[&str], code: i32, verdict: &str) -> Value {
    let before = auditor.memory();
    let words = auditor.check(url, args);
    words.refused(code);
    assert!(words.out.starts_with(&format!("{verdict}  ")), "{words:?}");
    let json = auditor.check(url, &[args, &["--json"]].concat());
    json.refused(code);
    let object = json.object();
    assert_eq!(object["schema"], "nexo.audit/1");
    assert_eq!((&object["verdict"], &object["code"]), (&verdict.into(), &code.into()), "{object}");
    assert_eq!(auditor.memory(), before, "a finding is not remembered as the truth");
    object
}

/// A server on a copy of a data directory, changed before it starts.
fn liar(data: &Path, copy: &Path, lie: impl FnOnce(&Path)) -> Server {
    copy_data(data, copy);
    lie(copy);
    Server::setup().data(copy).start()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_log_is_verified_and_only_what_is_new_is_read() {
    let server = Server::start();
    let (auditor, writer) = (Auditor::new(), Writer::at(&server).await);
    writer.write(&server, 30).await;
    let first = auditor.check(server.url(), &["--vkey", server.vkey()]);
    let line = first.line().to_owned();
    assert!(line.starts_with("verified  "), "{line}");
    for word in [&format!("origin={}", server.origin()), "size=31", "new=31"] {
        assert!(line.split(' ').any(|w| w == word), "{word} is not in {line}");
    }
    assert_eq!(first.err, "", "nothing to say");
    private(&auditor.state());

    // The key is remembered.
    writer.write(&server, 10).await;
    let second = auditor.check(server.url(), &["--json"]).object();
    assert_eq!(
        (&second["schema"], &second["verdict"]),
        (&"nexo.audit/1".into(), &"verified".into())
    );
    assert_eq!((number(&second["code"]), number(&second["size"])), (0, 41));
    assert_eq!((number(&second["previous_size"]), number(&second["new"])), (31, 10));
    assert_eq!(text(&second["origin"]), server.origin());
    let third = auditor.check(server.url(), &[]);
    assert!(third.line().contains(" new=0 "), "{third:?}");

    // Past a tile boundary, and over a restart.
    writer.write(&server, 230).await;
    let mut server = server;
    server.kill9();
    server.restart();
    let fourth = auditor.check(server.url(), &["--json"]).object();
    assert_eq!((number(&fourth["size"]), number(&fourth["new"])), (271, 230));
}

fn private(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = file.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o022, 0, "others may write {}: {mode:o}", file.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_audited_has_its_own_codes() {
    let mut server = Server::start();
    let url = server.url().to_owned();
    let auditor = Auditor::new();
    // No key is pinned, and none is guessed.
    auditor.check(&url, &[]).refused(64);
    auditor.check(&url, &["--vkey", "nonsense"]).refused(64);
    auditor.check("ftp://localhost", &["--vkey", server.vkey()]).refused(64);
    auditor.run(&["check"]).refused(64);
    auditor.run(&["chek", &url]).refused(64);
    assert!(auditor.run(&["--help"]).ok().contains("Exit codes:"));
    let other = Server::start();
    let wrong = found(&auditor, &url, &["--vkey", other.vkey()], 83, "bad_signature");
    assert!(wrong["head"].is_null(), "a head that is not the log's is no evidence: {wrong}");
    assert_eq!(auditor.memory(), None);

    auditor.check(&url, &["--vkey", server.vkey()]).ok();
    auditor.check(&url, &["--vkey", other.vkey()]).refused(64);
    // A log under the address of another.
    found(&auditor, other.url(), &[], 83, "bad_signature");
    server.terminate();
    found(&auditor, &url, &[], 69, "unreachable");
    std::fs::write(auditor.state(), "{}").unwrap();
    auditor.check(&url, &[]).refused(65);
    assert_eq!(auditor.memory().as_deref(), Some("{}"), "left for a person to look at");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_first_use_the_logs_own_word_is_taken_only_when_asked_to_and_said() {
    let server = Server::start();
    let auditor = Auditor::new();
    let first = auditor.check(server.url(), &["--tofu"]);
    first.line();
    assert!(first.err.contains("warning") && first.err.contains(server.vkey()), "{first:?}");
    assert_eq!(auditor.check(server.url(), &[]).code, 0);
    let other = Server::start();
    found(&auditor, other.url(), &["--tofu"], 83, "bad_signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_head_is_stale() {
    let server = Server::start();
    let auditor = Auditor::new();
    auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    // Renewed once a minute, so within seconds the head is more than no seconds old.
    let start = Instant::now();
    let stale: Done = loop {
        let done = auditor.check(server.url(), &["--max-age", "0s"]);
        if done.code != 0 {
            break done;
        }
        assert!(start.elapsed() < DEADLINE, "the head never ages");
    };
    stale.refused(85);
    assert!(stale.out.starts_with("stale  "), "{stale:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_entries_and_tiles_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let (data, copy) = (temp.path().join("data"), temp.path().join("copy"));
    let mut server = Server::setup().data(&data).start();
    let (auditor, writer) = (Auditor::new(), Writer::at(&server).await);
    writer.write(&server, 199).await;
    auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    // The first tile is full then, and the server itself reads only the edge.
    writer.write(&server, 100).await;
    let vkey = server.vkey().to_owned();
    server.terminate();

    let forged = liar(&data, &copy, |copy| alter_entry(copy, 250));
    let found_entry = found(&auditor, forged.url(), &[], 93, "entry_mismatch");
    assert_eq!(found_entry["detail"]["index"], 250, "{found_entry}");
    let fresh = Auditor::new();
    found(&fresh, forged.url(), &["--vkey", &vkey], 93, "entry_mismatch");
    assert_eq!(fresh.memory(), None);
    // What was hashed before is not read again, and a first audit sees it.
    drop(forged);
    let old = liar(&data, &copy, |copy| alter_entry(copy, 20));
    found(&fresh, old.url(), &["--vkey", &vkey], 93, "entry_mismatch");
    drop(old);

    let tile = liar(&data, &copy, |copy| alter_tile(copy, 250));
    found(&fresh, tile.url(), &["--vkey", &vkey], 94, "tile_mismatch");
    // The server's own proofs are made of the altered tile.
    found(&auditor, tile.url(), &[], 99, "inconsistent");
    drop(tile);

    // Put right again, the log is the one that is remembered.
    server.restart();
    let again = auditor.check(server.url(), &["--json"]).object();
    assert_eq!((number(&again["size"]), number(&again["new"])), (300, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_or_split_is_refused_with_both_heads() {
    let temp = tempfile::tempdir().unwrap();
    let (data, old) = (temp.path().join("data"), temp.path().join("old"));
    let mut server = Server::setup().data(&data).start();
    let (auditor, writer) = (Auditor::new(), Writer::at(&server).await);
    writer.write(&server, 9).await;
    server.terminate();
    copy_data(&data, &old);
    server.restart();
    writer.write(&server, 5).await;
    auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    server.terminate();

    // An operator who puts the backup back, and takes the marker away that would stop it.
    std::fs::remove_file(old.join("head.marker")).unwrap();
    let back = Server::setup().data(&old).start();
    let rollback = found(&auditor, back.url(), &[], 98, "rollback");
    let detail = &rollback["detail"];
    assert_eq!((&detail["remembered"], &detail["served"]), (&15.into(), &10.into()));
    writer.write(&back, 5).await;
    let fork = found(&auditor, back.url(), &[], 84, "fork");
    for head in ["head", "remembered"] {
        // Evidence: both are notes that the same key signed.
        crate::harness::note::Checkpoint::verify(&text(&fork[head]), server.vkey());
    }
    assert_ne!(fork["head"], fork["remembered"]);
    writer.write(&back, 1).await;
    found(&auditor, back.url(), &[], 99, "inconsistent");
    drop(back);
    server.restart();
    auditor.check(server.url(), &[]).ok();
}
