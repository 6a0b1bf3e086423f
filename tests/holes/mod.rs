//! Every hole of the seed that a relay can close, as a test that fails if it opens again. Tests
//! are named after the rows of design/e2ee.md 4.B; the attacks of 4.F that each stands for are in
//! brackets.
//!
//! | file | rows |
//! |---|---|
//! | `accounts` | 1 (F1), 2 (F2), 3, 17, 51, 52, 57 |
//! | `login` | 5, 15 (F3), 16, 35, 37, 45 (F12) |
//! | `keys` | 32, 33, 34 |
//! | `access` | 6, 7, 8 (F4, F7), 12 (F6), 36, 44, 50 |
//! | `messages` | 18, 20, 21 (F13), 22, 23, 24, 25, 40 (F8), 41, 43, 49, 58 |
//! | `sockets` | 9, 11 (F5), 13 (F10), 14, 47 |
//!
//! Elsewhere: 38 and 57 in `tokens`, F9 in `prekeys`, F11 in `malformed`. Not the relay's: 4, 10,
//! 26 to 31, 48, 54, 56. Not visible from outside: 19 is the auditor's, 42 and 46 are tested
//! beside the code; 53 and 55 stay in shape by decision.

mod access;
mod accounts;
mod keys;
mod login;
mod messages;
mod sockets;

use serde_json::Value;

use crate::harness::{Plain, Reply, Server};

/// A server with a conversation of alice and bob, and mallory, who is in none of it.
struct Scene {
    server: Server,
    alice: Plain,
    bob: Plain,
    mallory: Plain,
    /// Of alice and bob.
    conv: String,
}

impl Scene {
    async fn new() -> Self {
        Self::on(Server::start()).await
    }

    async fn on(server: Server) -> Self {
        let alice = Plain::new(&server, "alice").await;
        let bob = Plain::new(&server, "bob").await;
        let mallory = Plain::new(&server, "mallory").await;
        let conv = alice.conversation("bob").await;
        Self { server, alice, bob, mallory, conv }
    }
}

/// The log's entries, from the first on.
async fn entries(server: &Server) -> Vec<Vec<u8>> {
    let size = crate::harness::note::Checkpoint::of(server).await.size;
    assert!((1..256).contains(&size), "one partial bundle");
    let bundle = server.wire().get(&format!("/tile/entries/000.p/{size}")).await;
    assert_eq!(bundle.status, 200, "{bundle:?}");
    let (mut rest, mut found) = (&bundle.body[..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (entry, tail) = tail.split_at(u16::from_be_bytes(*length).into());
        found.push(entry.to_vec());
        rest = tail;
    }
    assert_eq!(found.len(), usize::try_from(size).unwrap());
    found
}

/// How many of the answers are 200; the others must all be this refusal.
fn winners(answers: &[Reply], status: u16, codes: &[&str]) -> usize {
    let lost = answers.iter().filter(|answer| answer.status != 200);
    for answer in lost {
        let code = answer.refusal()["code"].clone();
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(codes.iter().any(|known| code == *known), "{answer:?}");
    }
    answers.iter().filter(|answer| answer.status == 200).count()
}

/// A member without its value.
fn without(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove(name).unwrap();
    object
}
