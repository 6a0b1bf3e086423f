//! Offline proofs (C2SP tlog-proof) of everything in the log, by index, message and handle.
//!
//! A file is verified here under the log's key alone, by code made from the specifications
//! (`harness/note.rs`) and again by the auditor's library; what its entry must be is worked out
//! from the message or key event. Who may ask by name is tested too. `tlog.rs` has strangers'
//! code read the same files.

use nexo_audit::entry::Entry;
use nexo_audit::verify_inclusion;
use nexo_schema::bytes::from_base64;
use serde_json::{Value, json};

use crate::harness::note::Proof;
use crate::harness::reader::{Reader, hashes, plain_entry};
use crate::harness::{Engine, Native, Plain, Reply, Server, both, number, plain, text};

/// Judges an answer with a proof; the proof and its text.
fn proven(reply: &Reply, server: &Server) -> (Proof, String) {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
    let proof = Proof::verify(&reply.text(), server.vkey());
    let name = format!("attachment; filename=\"{}.tlog-proof\"", proof.index);
    assert_eq!(reply.header("content-disposition"), name);
    (proof, reply.text())
}

both!(async every_entry_of_a_log_is_proved_at_every_size);
async fn every_entry_of_a_log_is_proved_at_every_size(engine: Engine) {
    let server = engine.start();
    let reader = Reader::of(&server);
    reader.get("/log/proof?index=0").await.problem(404, "not_found");
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    for size in 1..=17u64 {
        let entries = reader.entries(size).await;
        for (index, entry) in (0..size).zip(&entries) {
            let reply = reader.get(&format!("/log/proof?index={index}")).await;
            let (proof, file) = proven(&reply, &server);
            assert_eq!((proof.index, &proof.entry), (index, entry));
            assert_eq!(proof.head.size, size);
            // And by the auditor's library.
            let (lines, note) = file.split_once("\n\n").unwrap();
            let path = lines.lines().skip(3).map(|line| from_base64(line).unwrap());
            let path: Vec<[u8; 32]> = path.map(|hash| hash.try_into().unwrap()).collect();
            let head = reader.open(note);
            let leaf = nexo_audit::leaf_hash(entry);
            assert_eq!(verify_inclusion(&leaf, index, size, &path, &head.root), Ok(()));
        }
        reader.get(&format!("/log/proof?index={size}")).await.problem(404, "not_found");
        alice.say(&conv, &format!("entry {size}")).await;
    }
    for bad in ["", "?index=", "?index=-1", "?index=x", "?index=9223372036854775808"] {
        reader.get(&format!("/log/proof{bad}")).await.problem(400, "bad_request");
    }
}

both!(async participants_get_the_proof_of_a_message_by_its_id);
async fn participants_get_the_proof_of_a_message_by_its_id(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let eve = Plain::new(&server, "eve").await;
    let conv = alice.conversation("bob").await;
    let other = alice.conversation("alice").await;
    let said = alice.say(&conv, "hello").await;
    let index = number(&said["sth_index"]) - 1;
    let message = format!("/messages/{conv}/{}", text(&said["msg_id"]));
    let expected = plain_entry(server.origin(), &said);
    for reader in [&alice, &bob] {
        let reply = reader.get(&format!("{message}/proof")).await;
        let (proof, file) = proven(&reply, &server);
        assert_eq!((proof.index, &proof.entry), (index, &expected));
        assert_eq!(reply.header("cache-control"), "no-store", "it is for its reader");
        let public = server.wire().get(&format!("/log/proof?index={index}")).await;
        assert_eq!(file.split("\n\n").next(), public.text().split("\n\n").next());

        let view = reader.get(&format!("{message}/inclusion")).await.ok();
        let head = Reader::of(&server).head_at(number(&view["size"])).await;
        let (leaf, path) = (nexo_audit::leaf_hash(&expected), hashes(&view["hashes"]));
        assert_eq!(from_base64(&text(&view["leaf_hash"])).unwrap(), leaf);
        let verdict = verify_inclusion(&leaf, index, head.size, &path, &head.root);
        assert_eq!((number(&view["index"]), verdict), (index, Ok(())));
        let size = index + 1;
        let view = reader.get(&format!("{message}/inclusion?size={size}")).await.ok();
        let public = format!("/log/inclusion?index={index}&size={size}");
        assert_eq!(view, server.wire().get(&public).await.ok());
    }
    for what in ["proof", "inclusion"] {
        let path = format!("{message}/{what}");
        eve.get(&path).await.problem(403, "forbidden");
        server.wire().get(&path).await.problem(401, "unauthorized");
        let absent = format!("/messages/{conv}/no-such-message/{what}");
        alice.get(&absent).await.problem(404, "not_found");
        // Of one's own, and not in that conversation.
        let elsewhere = format!("/messages/{other}/{}/{what}", text(&said["msg_id"]));
        alice.get(&elsewhere).await.problem(404, "not_found");
        let nowhere = format!("/messages/{}/x/{what}", "0".repeat(64));
        alice.get(&nowhere).await.problem(403, "forbidden");
        alice.get(&format!("/messages/zz/x/{what}")).await.problem(400, "bad_request");
    }
    let future = format!("{message}/inclusion?size=99");
    alice.get(&future).await.problem(404, "not_found");
    let past = format!("{message}/inclusion?size={index}");
    alice.get(&past).await.problem(400, "bad_request");
}

both!(async an_id_used_by_both_sides_means_ones_own_message_unless_said);
async fn an_id_used_by_both_sides_means_ones_own_message_unless_said(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let mut places = Vec::new();
    for sender in [&alice, &bob] {
        let mut body = plain::message(&conv, "hi");
        // Ids of plain clients may be any printable ASCII.
        body["msg_id"] = "a/b?c%d".into();
        let sent = sender.post("/messages", &body).await.ok();
        places.push(number(&sent["message"]["sth_index"]) - 1);
    }
    let at = async |reader: &Plain, query: &str| {
        let path = format!("/messages/{conv}/a%2Fb%3Fc%25d/proof{query}");
        proven(&reader.get(&path).await, &server).0.index
    };
    assert_eq!([at(&alice, "").await, at(&bob, "").await], places[..]);
    let hers = format!("?device_id={}", alice.device);
    let his = format!("?device_id={}", bob.device);
    assert_eq!([at(&bob, &hers).await, at(&alice, &his).await], places[..]);
    let path = format!("/messages/{conv}/a%2Fb%3Fc%25d/proof?device_id=nobody");
    alice.get(&path).await.problem(404, "not_found");
    let path = format!("/messages/{conv}/a%2Fb%3Fc%25d/proof?device_id=");
    alice.get(&path).await.problem(400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_message_is_proved_by_its_envelope_also_when_it_is_deleted() {
    let server = Server::start();
    let (alice, bob) = (Native::new(&server, "alice").await, Native::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let (sealed, _) = alice.say(&bob, "{}").await;
    let path = format!("/messages/{conv}/{}/proof", sealed.message);
    let (before, _) = proven(&bob.get(&path).await, &server);
    assert_eq!(before.entry, sealed.leaf);
    let deletion = alice.deletion(&alice.tombstone(&sealed));
    let gone = alice.post("/messages/delete", &deletion).await.ok();
    let (after, _) = proven(&bob.get(&path).await, &server);
    assert_eq!((after.index, &after.entry), (before.index, &before.entry));
    // The deletion has a place of its own.
    let index = number(&gone["sth_index"]) - 1;
    let reply = bob.get(&format!("/log/proof?index={index}")).await;
    let (tombstone, _) = proven(&reply, &server);
    assert!(matches!(Entry::parse(&tombstone.entry), Ok(Entry::Tombstone { .. })));
}

both!(async whoever_is_logged_in_gets_the_proof_of_an_accounts_key);
async fn whoever_is_logged_in_gets_the_proof_of_an_accounts_key(engine: Engine) {
    let server = engine.start();
    let native = Native::new(&server, "alice").await;
    let plain = Plain::new(&server, "bob").await;
    let eve = Plain::new(&server, "eve").await;
    let of = async |handle: &str| {
        let (newest, _) = proven(&eve.get(&format!("/accounts/{handle}/proof")).await, &server);
        let first = eve.get(&format!("/accounts/{handle}/proof?seq=0")).await;
        assert_eq!(proven(&first, &server).0, newest, "there is one event");
        let none = eve.get(&format!("/accounts/{handle}/proof?seq=1")).await;
        none.problem(404, "not_found");
        newest
    };
    let (hers, his) = (of("alice").await, of("bob").await);
    // The account's own first device is in the log where verify said; bundles say the same.
    let bundle = eve.get("/accounts/alice/bundle").await.ok();
    assert_eq!(number(&bundle["events"][0]["sth_index"]), hers.index + 1);
    let event = from_base64(&text(&bundle["events"][0]["event"])).unwrap();
    assert_eq!(event, native.genesis.event);
    match Entry::parse(&hers.entry).unwrap() {
        Entry::KeyEvent { event: hash, .. } => {
            assert_eq!(hash[..], <sha2::Sha256 as sha2::Digest>::digest(&event)[..]);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(Entry::parse(&his.entry), Ok(Entry::PlainKey { .. })), "{his:?}");
    assert_eq!(his.index, hers.index + 1, "registered one after the other");
    assert_eq!(plain.handle, "bob");

    server.wire().get("/accounts/alice/proof").await.problem(401, "unauthorized");
    eve.get("/accounts/nobody/proof").await.problem(404, "not_found");
    for bad in ["/accounts/-/proof", "/accounts/alice/proof?seq=x"] {
        eve.get(bad).await.problem(400, "bad_request");
    }
    let body: Value = json!({"ask": "by POST"});
    eve.post("/accounts/alice/proof", &body).await.problem(405, "method_not_allowed");
}
