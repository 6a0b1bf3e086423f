//! Accounts of several devices: chains, what their events do at once, linking (design/e2ee.md
//! 2.5, 2.22; attacks E3 to E6, F2 and F10 of section 4).
//!
//! | file | asks |
//! |---|---|
//! | `types` | does each type of event do what it says, and do auditors agree |
//! | `rules` | is every event that breaks a rule refused, and nothing stored |
//! | `ends` | is a revoked device's end the end of all that it could do |
//! | `limits` | what a device with few capabilities may do |
//! | `links` | does a new device come in by its code, and by nothing else |

mod ends;
mod limits;
mod links;
mod rules;
mod types;

use nexo_schema::change::Change;
use nexo_schema::sigchain::Device;
use serde_json::Value;

use crate::harness::chain::{Drawn, Line, full, id_of};
use crate::harness::{Engine, Native, Reply, Server, text};

/// A relay with alice, her chain, and bob, who has a conversation with her.
struct Scene {
    server: Server,
    alice: Native,
    line: Line,
    bob: Native,
    /// Of alice and bob.
    conv: String,
}

impl Scene {
    async fn new(engine: Engine) -> Self {
        Self::on(engine.start()).await
    }

    async fn on(server: Server) -> Self {
        let alice = Native::new(&server, "alice").await;
        let bob = Native::new(&server, "bob").await;
        let conv = bob.conversation("alice").await;
        let line = Line::of(&alice);
        Self { server, alice, line, bob, conv }
    }

    async fn post(&self, drawn: &Drawn) -> Reply {
        self.server.wire().post("/account/events", &drawn.json()).await
    }

    /// Posts the next event, which is taken.
    async fn take(&mut self, drawn: Drawn) -> Value {
        let answer = self.post(&drawn).await.ok();
        self.line.took(drawn);
        answer
    }

    /// The event that adds a device, signed by alice's first one and accepted.
    fn adding(&self, new: &Native, device: Device) -> Drawn {
        self.line.draw(&self.alice.key, &Change::Add(device)).accepted(&new.key)
    }

    /// The event by which alice's first device ends another.
    fn revoking(&self, other: &Native) -> Drawn {
        let device = id_of(&other.key);
        self.line.draw(&self.alice.key, &Change::Revoke { device, reason: b"lost" })
    }

    /// Another device of alice's that may do everything, logged in.
    async fn second(&mut self) -> Native {
        self.with(full).await
    }

    /// Another device of alice's, logged in.
    async fn with(&mut self, device: impl FnOnce(&Native) -> Device) -> Native {
        let new = self.alice.sibling(&self.server);
        let drawn = self.adding(&new, device(&new));
        self.take(drawn).await;
        new.logged_in().await
    }

    /// The ids of alice's devices, as a sender sees them.
    async fn addressed(&self) -> Vec<String> {
        let bundle = self.bob.get("/accounts/alice/bundle").await.ok();
        let devices = bundle["devices"].as_array().unwrap();
        devices.iter().map(|device| text(&device["device_id"])).collect()
    }
}
