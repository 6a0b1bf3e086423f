//! Events of an account's chain, made by hand: who signs what, and who accepts it, is the test's
//! word. Nothing here asks whether that is allowed.

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_cli::e2ee::Capabilities;
use nexo_schema::bytes::to_base64;
use nexo_schema::change::{Change, RECOVER};
use nexo_schema::sigchain::{self, Device, Event};
use nexo_schema::{entry, http::SignedEvent};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Native, now, random};

type Hash = [u8; 32];

/// The end of a chain: where the next event goes.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) origin: String,
    pub(crate) account: Hash,
    pub(crate) handle: String,
    pub(crate) seq: u64,
    pub(crate) prev: Hash,
    /// Every event so far.
    pub(crate) events: Vec<Drawn>,
}

/// An event and its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) event: Vec<u8>,
    pub(crate) sig: Vec<u8>,
    pub(crate) accept: Vec<u8>,
}

impl Line {
    /// Behind the genesis of an account.
    pub(crate) fn of(founder: &Native) -> Self {
        let genesis = &founder.genesis;
        let first = Drawn {
            event: genesis.event.clone(),
            sig: genesis.signature.to_vec(),
            accept: genesis.accept_signature.to_vec(),
        };
        let (origin, handle) = (founder.origin.clone(), founder.handle.clone());
        let account = hash(&first.event);
        Self { origin, account, handle, seq: 1, prev: account, events: vec![first] }
    }

    /// The next event, signed in the name of `by`'s device; a recovery in nobody's.
    pub(crate) fn draw(&self, by: &SigningKey, change: &Change<'_>) -> Drawn {
        let nobody = change.kind() == RECOVER;
        self.draw_as(by, if nobody { [0; 32] } else { id_of(by) }, change)
    }

    /// The next event, signed by a key in the name of any device.
    pub(crate) fn draw_as(&self, by: &SigningKey, signer: Hash, change: &Change<'_>) -> Drawn {
        self.draw_with(by, change, |event| event.signer = signer)
    }

    /// The next event with a changed header, which is what is signed.
    pub(crate) fn draw_with(
        &self,
        by: &SigningKey,
        change: &Change<'_>,
        alter: impl FnOnce(&mut Event<'_>),
    ) -> Drawn {
        let body = change.encode();
        let mut event = Event {
            origin: self.origin.as_bytes(),
            account: self.account,
            seq: self.seq,
            prev: self.prev,
            kind: change.kind(),
            time_ms: now() * 1000,
            signer: id_of(by),
            body: &body,
        };
        alter(&mut event);
        Drawn::signed(by, event.encode())
    }

    /// Goes on behind an event.
    pub(crate) fn took(&mut self, drawn: Drawn) {
        self.seq += 1;
        self.prev = hash(&drawn.event);
        self.events.push(drawn);
    }

    /// The log entry of an event of this chain.
    pub(crate) fn entry(&self, drawn: &Drawn) -> Vec<u8> {
        let label = hash(&entry::label(&self.origin, &self.handle));
        let signatures = hash(&sigchain::signatures(&drawn.sig, &drawn.accept));
        entry::key_event(&label, &hash(&drawn.event), &signatures)
    }
}

impl Drawn {
    /// Any bytes, signed.
    pub(crate) fn signed(by: &SigningKey, event: Vec<u8>) -> Self {
        let sig = by.sign(&event).to_bytes().to_vec();
        Self { event, sig, accept: Vec::new() }
    }

    /// With the acceptance of a key.
    pub(crate) fn accepted(self, by: &SigningKey) -> Self {
        let accept = by.sign(&sigchain::accept(&hash(&self.event))).to_bytes().to_vec();
        Self { accept, ..self }
    }

    /// As it travels.
    pub(crate) fn json(&self) -> Value {
        serde_json::to_value(SignedEvent {
            event: to_base64(&self.event),
            sig: to_base64(&self.sig),
            accept_sig: to_base64(&self.accept),
        })
        .unwrap()
    }
}

/// What an event says of a device.
pub(crate) fn device(of: &Native, caps: u16, not_after: u64) -> Device {
    let key = of.key.verifying_key().to_bytes();
    Device { key, caps, not_after, name: random(), conversations: Vec::new() }
}

/// As [`device`], with everything that a first device may.
pub(crate) fn full(of: &Native) -> Device {
    device(of, Capabilities::FIRST.bits(), 0)
}

/// The id of a key's device.
pub(crate) fn id_of(key: &SigningKey) -> Hash {
    hash(&entry::device(&key.verifying_key().to_bytes()))
}

/// The body of `POST /links`.
pub(crate) fn link_request(of: &Native, opening: &[u8]) -> Value {
    let (key, name) = (of.key.verifying_key().to_bytes(), random());
    let message = nexo_schema::link::request(&of.origin, &key, &name, opening);
    let mut body = json!({"ed25519_pub": to_base64(&key), "name": to_base64(&name),
                          "sig": to_base64(&of.key.sign(&message).to_bytes())});
    if !opening.is_empty() {
        body["opening"] = to_base64(opening).into();
    }
    body
}

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}
