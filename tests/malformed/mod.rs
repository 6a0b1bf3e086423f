//! What is malformed is refused in the 400s, or its socket is closed; it is never a 500, and
//! nothing of it is stored. Afterwards the relay works as before (attack F11 of design/e2ee.md 4).
//!
//! | file | what is malformed |
//! |---|---|
//! | `bodies` | JSON, fields, sizes |
//! | `requests` | paths, queries, headers, methods, and HTTP itself |
//! | `frames` | WebSocket frames |
//! | `mutated` | valid requests with random changes |
//! | `unread` | nothing, but that its body is not of interest |

mod bodies;
mod frames;
mod mutated;
mod requests;
mod unread;

use serde_json::{Value, json};

use crate::harness::plain::{message, new_key, registration, signed};
use crate::harness::{Native, Plain, Server, Snapshot};

/// A server in use, and what it held before the test.
struct Stage {
    server: Server,
    alice: Plain,
    nora: Native,
    conv: String,
    before: Snapshot,
}

impl Stage {
    async fn new() -> Self {
        let server = Server::start();
        let alice = Plain::new(&server, "alice").await;
        let nora = Native::new(&server, "nora").await;
        let conv = alice.conversation("alice").await;
        let before = Snapshot::of(&server).await;
        Self { server, alice, nora, conv, before }
    }

    /// Nothing was stored, nothing went wrong inside, and the relay still works.
    async fn untouched(&self) {
        self.before.unchanged(&self.server).await;
        self.works().await;
    }

    async fn works(&self) {
        self.server.sound();
        let entries = async || self.server.wire().get("/health").await.ok()["sth_count"].clone();
        let size = entries().await.as_u64().unwrap();
        let sent = self.alice.say(&self.conv, "still here").await;
        assert_eq!(sent["sth_index"], size + 1);
        assert_eq!(entries().await, size + 1);
    }

    /// A valid body for each route that takes one, and who sends it.
    async fn requests(&self) -> Vec<Request> {
        let key = new_key();
        let wire = self.server.wire();
        let challenge = wire.post("/auth/register", &registration("bob", &key)).await.ok();
        let nobody = String::new();
        let [alice, nora] = [self.alice.token(), self.nora.token()].map(str::to_owned);
        let request = |path, token: &String, body, optional: &[&'static str]| Request {
            path,
            token: token.clone(),
            body,
            optional: optional.to_vec(),
        };
        let fallback = json!({"fallback": self.nora.fallback_json(2)});
        vec![
            request(
                "/auth/register",
                &nobody,
                registration("carol", &new_key()),
                &["device_id", "genesis", "invite"],
            ),
            request("/auth/verify", &nobody, signed(&key, &challenge), &[]),
            request("/auth/refresh", &nobody, json!({"refresh": self.alice.refresh}), &[]),
            request("/conversations", &alice, json!({"peer_handle": "nora"}), &[]),
            request(
                "/messages",
                &alice,
                message(&self.conv, "hello"),
                &["msg_id", "packets", "dseq"],
            ),
            request(
                "/messages/delete",
                &alice,
                json!({"conv_id": self.conv, "target_msg_id": "m-1"}),
                &["statement", "sig"],
            ),
            request("/prekeys", &nora, fallback, &["one_time", "remove"]),
        ]
    }
}

/// A valid request.
struct Request {
    path: &'static str,
    token: String,
    body: Value,
    /// Fields that may be absent.
    optional: Vec<&'static str>,
}

impl Request {
    /// The way to the relay as this request's sender.
    fn wire(&self, server: &Server) -> crate::harness::Wire {
        match self.token.is_empty() {
            true => server.wire(),
            false => server.wire().with_token(&self.token),
        }
    }
}
