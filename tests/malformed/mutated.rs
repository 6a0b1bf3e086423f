//! Valid requests with random changes: an answer below 500 each time, and the log has grown by
//! exactly what was acknowledged.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Request, Stage};
use crate::harness::plain::frame;
use crate::harness::{Server, number};

/// One change of a text.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Drop(usize, usize),
    Insert(usize, &'static str),
    Repeat(usize, usize),
}

/// What parsers trip over.
const TOKENS: [&str; 16] = [
    "\0",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-0",
    "1e999",
    "\\ud800",
    "\u{feff}",
    "999999999999999999999",
    "=",
];

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = 0..10_000usize;
    let change = prop_oneof![
        4 => (at.clone(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (at.clone(), 1..40usize).prop_map(|(at, n)| Change::Drop(at, n)),
        3 => (at.clone(), prop::sample::select(&TOKENS[..])).prop_map(|(at, t)| Change::Insert(at, t)),
        1 => (at, 1..60usize).prop_map(|(at, n)| Change::Repeat(at, n)),
    ];
    prop::collection::vec(change, 1..4)
}

fn apply(text: &str, changes: &[Change]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for change in changes {
        let spot = |at: usize| at % bytes.len().max(1);
        match *change {
            _ if bytes.is_empty() => {}
            Change::Flip(at, bit) => {
                let at = spot(at);
                bytes[at] ^= 1 << bit;
            }
            Change::Drop(at, n) => {
                let at = spot(at);
                bytes.drain(at..(at + n).min(bytes.len()));
            }
            Change::Insert(at, token) => {
                let at = spot(at);
                bytes.splice(at..at, token.bytes());
            }
            Change::Repeat(at, n) => {
                let at = spot(at);
                let part = bytes[at..(at + n).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

/// Enough to meet each change on each route; more finds nothing new and costs time.
const CASES: u32 = 300;

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        // A case changes what the relay holds, so a smaller one would not be the same case.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    })
}

async fn size(server: &Server) -> u64 {
    number(&server.wire().get("/health").await.ok()["sth_count"])
}

/// Sends a changed request; says whether it made an entry, as the answer has it.
async fn acknowledged(request: &Request, server: &Server, body: Vec<u8>) -> bool {
    let reply = request.wire(server).post_bytes(request.path, body).await;
    if reply.status != 200 {
        reply.refusal();
        return false;
    }
    match request.path {
        "/messages" | "/messages/delete" => reply.json()["duplicate"] == false,
        // Only an account that was not there before is an entry; here none is answered twice.
        "/auth/verify" => true,
        _ => false,
    }
}

#[test]
fn requests_with_random_changes_are_answered_and_counted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new());
    let requests = runtime.block_on(stage.requests());
    let strategy = (0..requests.len(), changes());
    let case = |(which, changes): (usize, Vec<Change>)| {
        let request: &Request = &requests[which];
        let body = apply(&request.body.to_string(), &changes);
        runtime.block_on(async {
            let before = size(&stage.server).await;
            let entries = u64::from(acknowledged(request, &stage.server, body).await);
            prop_assert_eq!(size(&stage.server).await, before + entries);
            Ok(())
        })
    };
    runner().run(&strategy, case).unwrap();
    runtime.block_on(stage.works());
}

#[test]
fn frames_with_random_changes_are_answered_and_counted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new());
    let good = frame(&stage.conv, "m-0", "hello").to_string();
    let count = std::cell::Cell::new(0);
    let case = |changes: Vec<Change>| {
        // What is not text cannot be sent as text; that is tested in `frames`.
        let Ok(text) = String::from_utf8(apply(&good, &changes)) else { return Ok(()) };
        runtime.block_on(async {
            let before = size(&stage.server).await;
            let mut socket = stage.alice.socket(&stage.conv).await;
            socket.send_any(Message::text(text)).await;
            // An envelope that is whole, and after the other in the log; unless there is a close.
            let marker = format!("marker {}", count.replace(count.get() + 1));
            let whole = json!({"conv_id": stage.conv, "cipher": "aGk=", "msg_id": marker});
            socket.send_any(Message::text(whole.to_string())).await;
            let (answers, _) = socket.until(&marker).await;
            let stored = answers.iter().filter(|answer| answer["sth_index"].is_u64());
            let fresh = stored.filter(|answer| number(&answer["sth_index"]) > before).count();
            prop_assert_eq!(size(&stage.server).await, before + fresh as u64);
            Ok(())
        })
    };
    runner().run(&changes(), case).unwrap();
    runtime.block_on(stage.works());
}
