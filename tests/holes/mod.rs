//! Every hole of the seed that a relay can close, as a test that fails if it opens again. Tests
//! are named after the rows of design/e2ee.md 4.B, and after the attacks of 4.F that each stands
//! for.
//!
//! | file | rows |
//! |---|---|
//! | `accounts` | 1 (F1), 2 (F2, B1), 3, 17, 51, 52, 57 |
//! | `login` | 5, 15 and 16 (F3), 35, 37 (G), 45 (F12) |
//! | `keys` | 32 (A4), 33, 34 |
//! | `access` | 6, 7 (F4), 8 (F4, F7), 12 (F6), 36, 44, 50 |
//! | `messages` | 18, 20 and 21 (F13), 22, 23, 24, 25, 40 (F8), 41 and 43 (F11), 49, 58 |
//! | `sockets` | 9 (F4), 11 (F5), 13 (F10, G), 14, 47 (F11) |
//!
//! Elsewhere, where their tests have other names (`attacks.rs` has the list and holds it true):
//!
//! | rows | of whom | where |
//! |---|---|---|
//! | 4, 27, 30, 31, 56 | the encryption | `nexo-cli/tests/e2ee` |
//! | 10, 29 | the client's trust | `nexo-cli/src/trust/account_tests.rs` |
//! | 26, 28 | the client's state | `nexo-cli/src/vault/tests.rs`, `nexo-cli/src/receive/tests.rs` |
//! | 48, 55 | the client's program | `exits` |
//! | 19 | the log | `audit_liar` |
//! | 38, 39 | tokens | `tokens` |
//! | 42, 46 | bounds | `abuse` |
//! | 53, 54 | nobody | stays in shape by decision; not here |
//!
//! F9 is in `prekeys`, F10 in `devices` too, F11 in `malformed` too.

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
