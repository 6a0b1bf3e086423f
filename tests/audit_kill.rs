//! SIGKILL of the auditor at every part of its way: its memory is the old one or the new one, and
//! the next run goes on from it.
//!
//! How long a run takes is measured first; the kills are spread over that time, from before the
//! first byte is read to after the last one is written.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nexo_audit::merkle::node_hash;
use nexo_audit::tile::level_path;
use nexo_audit::{Hash, leaf_hash};
use serde_json::Value;

use crate::harness::liar::{Log, bundle};
use crate::harness::shell::Auditor;
use crate::harness::{Plain, Server, number};

/// Kills of `check`.
const CHECKS: u32 = 40;
/// Kills of `full`.
const FULLS: u32 = 24;
/// Entries of a log whose full audit is kept as progress on the way: two units of 65,536, and some.
const MANY: usize = 2 * 65_536 + 1000;

/// Runs a program and kills it after this time, if it is still there.
fn killed(command: &mut Command, after: Duration) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // Not to wait for anything: the moment itself is what is tested.
    thread::sleep(after);
    let _ = child.kill();
    child.wait().unwrap();
}

/// The size of the head in the state file.
fn remembered(auditor: &Auditor) -> Option<u64> {
    let state: Value = serde_json::from_str(&auditor.memory()?).unwrap();
    Some(number(&state["size"]))
}

/// How many heads are kept beside the state file, each of which must be whole.
fn heads(auditor: &Auditor) -> usize {
    let path = format!("{}.heads", auditor.state().display());
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "the last run dropped what was cut");
    let whole = |line: &str| serde_json::from_str::<Value>(line).unwrap()["note"].is_string();
    assert!(text.lines().all(whole));
    text.lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_killed_has_the_old_memory_or_the_new_one() {
    let server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let wire = server.wire().with_token(alice.token());
    let auditor = Auditor::new();
    let start = Instant::now();
    auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    let usual = start.elapsed();
    let (mut old, mut rounds_of_both) = (remembered(&auditor).unwrap(), [0, 0]);
    for round in 0..CHECKS {
        let body = crate::harness::plain::message(&conv, &format!("round {round}"));
        wire.post("/messages", &body).await.ok();
        let after = usual * (round + 1) * 5 / (CHECKS * 4);
        killed(auditor.command(&["check", server.url()]).args(["--json"]), after);
        let now = remembered(&auditor).unwrap();
        assert!(now == old || now == old + 1, "{old} and then {now}");
        rounds_of_both[usize::from(now > old)] += 1;
        let next = auditor.check(server.url(), &["--json"]).object();
        assert_eq!((&next["verdict"], number(&next["previous_size"])), (&"verified".into(), now));
        old = number(&next["size"]);
    }
    assert!(rounds_of_both[0] > 0, "no kill came before the end");
    // One head for the first run, and one for every round, whoever wrote it.
    assert_eq!(heads(&auditor), 1 + CHECKS as usize);
    let fresh = Auditor::new();
    fresh.check(server.url(), &["--vkey", server.vkey()]).ok();
    let tree = |auditor: &Auditor| {
        let state: Value = serde_json::from_str(&auditor.memory().unwrap()).unwrap();
        (state["size"].clone(), state["peaks"].clone())
    };
    assert_eq!(tree(&auditor), tree(&fresh));
}

#[test]
fn a_full_audit_that_is_killed_goes_on_where_it_was() {
    let log = Log::of(MANY);
    let auditor = Auditor::new();
    let copy = auditor.file("copy");
    write(&log, &copy);
    let place = copy.to_str().unwrap().to_owned();
    let vkey = log.signers.vkey();
    let full = |auditor: &Auditor| {
        let mut command = auditor.command(&["full", &place]);
        command.args(["--vkey", &vkey, "--json"]);
        command
    };
    let whole = |auditor: &Auditor| crate::harness::shell::run(&mut full(auditor), b"").object();

    let start = Instant::now();
    let first = whole(&auditor);
    let usual = start.elapsed();
    assert_eq!((&first["verdict"], number(&first["size"])), (&"verified".into(), MANY as u64));
    let (memory, mut resumed) = (auditor.memory(), Vec::new());
    for round in 0..FULLS {
        let other = Auditor::new();
        killed(&mut full(&other), usual * (round + 1) * 5 / (FULLS * 4));
        let kept = other.memory();
        assert!(kept.is_none() || kept == memory, "half a memory");
        let next = whole(&other);
        assert_eq!((&next["verdict"], other.memory()), (&"verified".into(), memory.clone()));
        assert_eq!(heads(&other), 1);
        resumed.push(number(&next["resumed"]));
        let files = fs::read_dir(other.state().parent().unwrap()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert!(!names.into_iter().any(|name| name.ends_with("progress")), "progress of nothing");
    }
    assert!(resumed.iter().all(|done| done.is_multiple_of(65_536)), "{resumed:?}");
}

/// The files of a log, as a mirror has them.
fn write(log: &Log, folder: &Path) {
    let put = |path: &str, bytes: &[u8]| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let mut row: Vec<Hash> = log.entries.iter().map(|entry| leaf_hash(entry)).collect();
    for (tile, entries) in (0..).zip(log.entries.chunks(256)) {
        let width = u16::try_from(entries.len()).unwrap();
        let path = level_path(0, tile, width).replacen("tile/0/", "tile/entries/", 1);
        put(&path, &bundle(entries));
    }
    let mut level = 0;
    while !row.is_empty() {
        for (tile, hashes) in (0..).zip(row.chunks(256)) {
            let width = u16::try_from(hashes.len()).unwrap();
            put(&level_path(level, tile, width), hashes.as_flattened());
        }
        row = row.as_chunks::<256>().0.iter().map(|tile| over(tile)).collect();
        level += 1;
    }
    put("checkpoint", log.head().as_bytes());
    put("log/keys", log.signers.key_list().as_bytes());
}

/// The root over a full row.
fn over(row: &[Hash]) -> Hash {
    match row {
        [one] => *one,
        _ => {
            let (left, right) = row.split_at(row.len() / 2);
            node_hash(&over(left), &over(right))
        }
    }
}
