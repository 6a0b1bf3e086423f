//! Key events in bulk: who may read them, that pages lose nothing, and that each event is the one
//! its entry was made of.
//!
//! Entries are read from the public bundles, not from the server's word.

use std::process::Command;

use nexo_schema::bytes::{from_base64, from_hex};
use nexo_schema::{entry, sigchain};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::shell::run;
use crate::harness::wire::Wire;
use crate::harness::{Engine, Native, Plain, Server, both, number, server_binary, text};

/// Runs `nexo-server auditor-token` with these words and gives its output.
fn token(server: &Server, words: &str) -> String {
    run(&mut server.command(format!("auditor-token {words}").trim()), b"").ok().trim().to_owned()
}

/// The way to the relay with an auditor token.
fn auditor(server: &Server) -> Wire {
    server.wire().with_token(&token(server, ""))
}

/// Every event behind `from`, read in pages of `limit`.
async fn all(wire: &Wire, mut from: u64, limit: u64) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let page = wire.get(&format!("/log/events?from={from}&limit={limit}")).await.ok();
        let told = page["events"].as_array().unwrap();
        assert!(told.len() as u64 <= limit);
        events.extend(told.iter().cloned());
        let next = number(&page["next"]);
        if next == number(&page["size"]) {
            return events;
        }
        assert!(next > from && told.len() as u64 == limit, "a page that is cut is full");
        assert_eq!(next, number(&told.last().unwrap()["index"]) + 1);
        from = next;
    }
}

/// The entries of the log, each with its kind.
async fn entries(server: &Server) -> Vec<Vec<u8>> {
    let size = number(&server.wire().get("/log/head").await.ok()["size"]);
    let mut entries = Vec::new();
    for bundle in 0..=size / 256 {
        let width = u64::min(256, size - bundle * 256);
        let part = if width < 256 { format!(".p/{width}") } else { String::new() };
        if width > 0 {
            let reply = server.wire().get(&format!("/tile/entries/{bundle:03}{part}")).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let mut rest = &reply.body[..];
            while let Some((length, after)) = rest.split_first_chunk() {
                let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
                entries.push(entry.to_vec());
                rest = after;
            }
        }
    }
    entries
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn bytes(value: &Value) -> Vec<u8> {
    from_base64(value.as_str().unwrap()).unwrap()
}

/// The entry that an event must have been logged as.
fn entry_of(server: &Server, event: &Value) -> Vec<u8> {
    let label = |handle: &str| hash(&entry::label(server.origin(), handle));
    if let Some(native) = event.get("native") {
        assert!(event.get("plain").is_none());
        let signed = bytes(&native["event"]);
        let signatures =
            sigchain::signatures(&bytes(&native["sig"]), &bytes(&native["accept_sig"]));
        let body = sigchain::Event::decode(&signed).unwrap().body;
        let handle = sigchain::Genesis::decode(body).unwrap().handle;
        let handle = std::str::from_utf8(handle).unwrap();
        return entry::key_event(&label(handle), &hash(&signed), &hash(&signatures));
    }
    let plain = &event["plain"];
    let account = from_hex::<32>(plain["account_id"].as_str().unwrap()).unwrap();
    let key: [u8; 32] = bytes(&plain["ed25519_pub"]).try_into().unwrap();
    let (handle, device) = (text(&plain["handle"]), text(&plain["device_id"]));
    let record = entry::plain_key_record(server.origin(), &handle, &account, &device, &key);
    entry::plain_key(&label(&handle), &hash(&record))
}

both!(async every_key_entry_has_its_event_whatever_the_pages);
async fn every_key_entry_has_its_event_whatever_the_pages(engine: Engine) {
    let server = engine.start();
    let wire = auditor(&server);
    let page = wire.get("/log/events").await.ok();
    assert_eq!(page, json!({"events": [], "next": 0, "size": 0}));
    for round in 0..3 {
        let pam = Plain::new(&server, &format!("pam{round}")).await;
        let nat = Native::new(&server, &format!("nat{round}")).await;
        let conv = pam.conversation(&pam.handle).await;
        pam.say(&conv, "between two events").await;
        nat.conversation(&nat.handle).await;
        nat.say(&nat, "and another").await;
        Plain::new(&server, &format!("paul{round}")).await;
    }
    let entries = entries(&server).await;
    assert_eq!(entries.len(), 15);
    let every = all(&wire, 0, 1000).await;
    assert_eq!(every.len(), 9);
    for event in &every {
        let index = usize::try_from(number(&event["index"])).unwrap();
        assert_eq!(entry_of(&server, event), entries[index], "{event}");
    }
    let indexes: Vec<u64> = every.iter().map(|event| number(&event["index"])).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
    for limit in 1..=10 {
        assert_eq!(all(&wire, 0, limit).await, every, "pages of {limit}");
    }
    for (skipped, index) in indexes.iter().enumerate() {
        assert_eq!(all(&wire, *index, 2).await, every[skipped..]);
        assert_eq!(all(&wire, index + 1, 2).await, every[skipped + 1..]);
    }
    // Behind the log there is nothing, and the next page begins where this one did.
    let page = wire.get("/log/events?from=99").await.ok();
    assert_eq!(page, json!({"events": [], "next": 99, "size": 15}));
    server.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_page_is_refused() {
    let server = Server::start();
    let wire = auditor(&server);
    for query in ["from=x", "from=-1", "limit=x", "from=99999999999999999999", "limit=1.5"] {
        wire.get(&format!("/log/events?{query}")).await.problem(400, "bad_request");
    }
    // Out of bounds is the bound, as in the other lists.
    for query in ["limit=0", "limit=99999999"] {
        wire.get(&format!("/log/events?{query}")).await.ok();
    }
    wire.post("/log/events", &json!({})).await.problem(405, "method_not_allowed");
}

both!(async only_auditors_read_and_until_they_are_revoked);
async fn only_auditors_read_and_until_they_are_revoked(engine: Engine) {
    let mut server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let [one, two] = [token(&server, "--days 1"), token(&server, "")];
    assert!(one.starts_with("nxa_") && one != two);
    let ask = async |server: &Server, token: &str| {
        server.wire().with_token(token).get("/log/events").await
    };
    for good in [&one, &two] {
        assert_eq!(ask(&server, good).await.ok()["events"].as_array().unwrap().len(), 1);
    }
    let nothing = server.wire().get("/log/events").await;
    nothing.problem(401, "unauthorized");
    assert!(nothing.header("www-authenticate").contains("Bearer"));
    let longer = format!("{one}A");
    let other = one.replacen("nxa_", "nxa_A", 1);
    for bad in [alice.token(), &alice.refresh, "nxa_", "x", &longer, &other[..47]] {
        ask(&server, bad).await.problem(401, "unauthorized");
    }
    // It opens nothing else.
    let wire = server.wire().with_token(&one);
    for path in ["/messages", "/prekeys", "/devices/x25519_pub", "/accounts/alice/bundle"] {
        wire.get(path).await.problem(401, "unauthorized");
    }
    let query = format!("/log/events?token={one}");
    server.wire().get(&query).await.problem(401, "unauthorized");

    let listed = token(&server, "--list");
    let names: Vec<&str> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names.len(), 2);
    assert!(!listed.contains(&one) && !listed.contains(&two));
    // By its end: the one of a day comes first.
    token(&server, &format!("--revoke {}", names[0]));
    ask(&server, &one).await.problem(401, "unauthorized");
    ask(&server, &two).await.ok();
    run(&mut server.command(&format!("auditor-token --revoke {}", names[0])), b"").refused(66);
    server.terminate();
    server.restart();
    ask(&server, &one).await.problem(401, "unauthorized");
    ask(&server, &two).await.ok();
    server.terminate();
    let holds = |part: &str| {
        server.stored().iter().any(|file| file.windows(part.len()).any(|w| w == part.as_bytes()))
    };
    assert!(!holds(&two) && !server.stderr().contains(&two), "only a hash is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_directory_is_everybodys() {
    let server = Server::setup().args("--public-directory").start();
    let alice = Plain::new(&server, "alice").await;
    let reply = server.wire().get("/log/events").await;
    assert_eq!(reply.ok()["events"][0]["plain"]["account_id"], alice.account);
    assert_eq!(reply.header("access-control-allow-origin"), "*");
    assert_eq!(reply.header("cache-control"), "no-store");
    // Who shows a token that is none is not turned away from what is open.
    server.wire().with_token("x").get("/log/events").await.ok();
    let twice = reply.header("etag");
    let again = server.wire().call("GET", "/log/events", &[("If-None-Match", twice)], vec![]).await;
    assert_eq!(again.status, 304);
}

#[test]
fn the_token_is_data_and_all_else_are_words() {
    let server = Server::start();
    let made = run(&mut server.command("auditor-token --days 2"), b"");
    let token = made.line();
    assert_eq!(token.len(), 47);
    assert!(made.err.contains("until ") && !made.err.contains(token), "{made:?}");
    let mut command = Command::new(server_binary());
    run(command.args(["auditor-token", "--days", "0"]), b"").refused(64);
    let none = run(&mut server.command("auditor-token --revoke 0123456789abcdef"), b"");
    assert!(none.refused(66).contains("no auditor token"), "{none:?}");
}
