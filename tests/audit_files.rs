//! The auditor's commands on files: proofs, heads to compare, evidence for somebody else.
//!
//! The server and its proofs are real; the forger is an operator with an older copy of the data
//! directory, on which another history went on. Lies of the network are in `audit_liar/`.

use std::fs;

use serde_json::Value;

use crate::harness::reader::Reader;
use crate::harness::shell::{Auditor, Done};
use crate::harness::tamper::copy_data;
use crate::harness::{Plain, Server, plain};

/// Writes to oneself, at a server that may be a copy of the first.
async fn write(server: &Server, alice: &Plain, count: usize) {
    let conv = alice.conversation("alice").await;
    let wire = server.wire().with_token(alice.token());
    for number in 0..count {
        wire.post("/messages", &plain::message(&conv, &format!("entry {number}"))).await.ok();
    }
}

/// A file beside the auditor's state; its path as text.
fn file(auditor: &Auditor, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = auditor.file(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn checkpoint(server: &Server) -> String {
    Reader::of(server).get("/checkpoint").await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_proofs_are_verified_offline() {
    let (server, other) = (Server::start(), Server::start());
    let alice = Plain::new(&server, "alice").await;
    write(&server, &alice, 6).await;
    let (auditor, reader) = (Auditor::new(), Reader::of(&server));
    for index in 0..7 {
        let proof = reader.get(&format!("/log/proof?index={index}")).await.text();
        let proof = file(&auditor, "a.tlog-proof", proof);
        let verify = |vkey: &str, more: &[&str]| -> Done {
            auditor.run(&[&["proof", "verify", &proof, "--json", "--vkey", vkey], more].concat())
        };
        let done = verify(server.vkey(), &[]);
        done.ok();
        let shown = done.object();
        assert_eq!((&shown["index"], &shown["tied_to"]), (&index.into(), &"extra".into()));
        let kind = if index == 0 { "plain_key" } else { "plain_message" };
        assert_eq!(shown["kind"], kind);
        let leaf = shown["leaf_hash"].as_str().unwrap();
        verify(server.vkey(), &["--leaf-hash", leaf]).ok();
        let entries = reader.entries(7).await;
        let entry = file(&auditor, "entry", &entries[usize::try_from(index).unwrap()]);
        verify(server.vkey(), &["--entry", &entry]).ok();
        let another =
            file(&auditor, "another", &entries[usize::try_from((index + 1) % 7).unwrap()]);
        verify(server.vkey(), &["--entry", &another]).refused(81);
        verify(other.vkey(), &[]).refused(83);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_one_log_are_told_apart_and_proved_to_a_stranger() {
    let mut server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    write(&server, &alice, 5).await;
    let here = Auditor::new();
    here.check(server.url(), &["--vkey", server.vkey()]).ok();
    let copy = server.temp().join("copy");
    server.terminate();
    copy_data(server.data(), &copy);
    server.restart();
    let at_six = file(&here, "six.txt", checkpoint(&server).await);
    write(&server, &alice, 4).await;
    let at_ten = file(&here, "ten.txt", checkpoint(&server).await);

    // The copy is the beginning of what the server shows now, until it goes on by itself.
    let fork = Server::setup().data(&copy).start();
    let vkey = server.vkey().to_owned();
    let compare = |a: &str, b: &str, more: &[&str]| -> Done {
        let evidence = here.file("evidence");
        let fixed = ["compare", a, b, "--evidence", evidence.to_str().unwrap(), "--json"];
        here.run(&[&fixed, more].concat())
    };
    let key = ["--vkey", vkey.as_str()];
    let state = here.state();
    let state = state.to_str().unwrap();
    compare(&at_six, fork.url(), &key).ok();
    compare(server.url(), fork.url(), &key).ok();
    compare(state, server.url(), &[]).ok();
    compare(state, &at_ten, &["--log", server.url()]).ok();
    compare(state, &at_ten, &[]).refused(64);
    assert!(!here.file("evidence").exists(), "nothing was found");

    // Behind what it signed, as large, and beyond; each time on another way.
    write(&fork, &alice, 3).await;
    compare(&at_ten, fork.url(), &key).refused(98);
    write(&fork, &alice, 1).await;
    let found = compare(&at_ten, fork.url(), &key);
    found.refused(84);
    let object: Value = found.object();
    assert_eq!((&object["verdict"], &object["family"]), (&"fork".into(), &84.into()));
    write(&fork, &alice, 2).await;
    compare(&at_ten, fork.url(), &key).refused(99);
    compare(fork.url(), server.url(), &key).refused(99);
    drop(fork);
    server.terminate();

    // Elsewhere, with the files and the key alone.
    let stranger = Auditor::new();
    let files: Vec<_> = fs::read_dir(here.file("evidence")).unwrap().collect();
    assert_eq!(files.len(), 4);
    for evidence in files {
        let copy = file(&stranger, "copy.json", fs::read(evidence.unwrap().path()).unwrap());
        let verify =
            |vkey: &str| stranger.run(&["evidence", "verify", &copy, "--vkey", vkey, "--json"]);
        let shown = verify(&vkey).object();
        // Two heads of one second do not tell which of them came later.
        let proof = shown["evidence"]["standing"] == "proof";
        assert!(proof || shown["evidence"]["verdict"] == "rollback", "{shown}");
        verify(Server::start().vkey()).refused(65);
        let text = fs::read_to_string(&copy).unwrap();
        file(&stranger, "copy.json", text.replacen("\\n10\\n", "\\n11\\n", 1));
        verify(&vkey).refused(65);
    }
}
