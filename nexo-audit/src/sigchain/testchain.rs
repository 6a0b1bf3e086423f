//! For tests: people with keys, and accounts whose events they sign, rightly or not.

use super::event::SignedEvent;
use super::name::device_id;
use super::wire::enc;
use crate::key::LogKey;
use crate::merkle::Hash;
use crate::testlog::{ORIGIN as LOG, Signers};
use ed25519_dalek::{Signer, SigningKey};

/// The log's origin, as bytes.
pub(crate) const ORIGIN: &[u8] = LOG.as_bytes();

/// The log's key.
pub(crate) fn log_key() -> LogKey {
    Signers::new(LOG).log_key()
}

/// Somebody with a key: a device, a recovery key, or the operator.
#[derive(Clone)]
pub(crate) struct Person(SigningKey);

impl Person {
    /// The same for the same seed.
    pub(crate) fn new(seed: u8) -> Self {
        // Seeds of the test log's own keys are other ones.
        Self(SigningKey::from_bytes(&[seed ^ 0x80; 32]))
    }

    /// Who has the log's key.
    pub(crate) fn log() -> Self {
        Self(SigningKey::from_bytes(&[1; 32]))
    }

    pub(crate) fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    pub(crate) fn device_id(&self) -> Hash {
        device_id(&self.public())
    }
}

/// A device in a body.
pub(crate) struct DeviceBody {
    pub(crate) key: [u8; 32],
    pub(crate) caps: u16,
    pub(crate) conversations: Vec<u8>,
}

impl DeviceBody {
    pub(crate) fn of(person: &Person, caps: u16) -> Self {
        Self { key: person.public(), caps, conversations: vec![] }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let caps = self.caps.to_be_bytes();
        enc("nexo/1/body/device", &[&self.key, &caps, &[0; 8], &[5; 32], &self.conversations])
    }
}

/// The bytes of any event.
pub(crate) fn raw(
    origin: &[u8],
    account: Hash,
    seq: u64,
    prev: Hash,
    kind: u8,
    signer: Hash,
    body: &[u8],
) -> Vec<u8> {
    let time = 1_700_000_000_000u64.to_be_bytes();
    enc(
        "nexo/1/sigchain",
        &[origin, &account, &seq.to_be_bytes(), &prev, &[kind], &time, &signer, body],
    )
}

/// An event with its signatures.
pub(crate) fn seal(event: Vec<u8>, by: &Person, accepted: Option<&Person>) -> SignedEvent {
    let sig = by.0.sign(&event).to_bytes().to_vec();
    let mut signed = SignedEvent { event, sig, accept_sig: vec![] };
    if let Some(person) = accepted {
        signed.accept_sig = person.0.sign(&signed.acceptance()).to_bytes().to_vec();
    }
    signed
}

/// An account and its events.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) events: Vec<SignedEvent>,
}

impl Account {
    pub(crate) fn new(handle: &str, device: &Person, recovery: &Person) -> Self {
        let body = enc(
            "nexo/1/body/genesis",
            &[handle.as_bytes(), &DeviceBody::of(device, 7).encode(), &recovery.public()],
        );
        let event = raw(ORIGIN, [0; 32], 0, [0; 32], 1, device.device_id(), &body);
        Self { events: vec![seal(event, device, Some(device))] }
    }

    pub(crate) fn add(&mut self, by: &Person, device: &Person, caps: u16) {
        let body = DeviceBody::of(device, caps).encode();
        self.push(2, by.device_id(), &body, by, Some(device));
    }

    pub(crate) fn revoke(&mut self, by: &Person, device: &Person) {
        let body = enc("nexo/1/body/revoke", &[&device.device_id(), b"lost"]);
        self.push(3, by.device_id(), &body, by, None);
    }

    pub(crate) fn set_recovery(&mut self, by: &Person, old: &Person, new: &Person) {
        let body = enc("nexo/1/body/recovery", &[&new.public()]);
        self.push(4, by.device_id(), &body, by, Some(old));
    }

    pub(crate) fn recover(&mut self, recovery: &Person, device: &Person) {
        let body = DeviceBody::of(device, 7).encode();
        self.push(5, [0; 32], &body, recovery, Some(device));
    }

    pub(crate) fn reset(&mut self, by: &Person, genesis: Hash) {
        self.push(6, [0; 32], &enc("nexo/1/body/reset", &[&genesis]), by, None);
    }

    pub(crate) fn update(&mut self, by: &Person, device: &Person, caps: u16, not_after: u64) {
        let fields: [&[u8]; 3] =
            [&device.device_id(), &caps.to_be_bytes(), &not_after.to_be_bytes()];
        self.push(7, by.device_id(), &enc("nexo/1/body/update", &fields), by, None);
    }

    pub(crate) fn close(&mut self, by: &Person) {
        self.push(8, by.device_id(), &enc("nexo/1/body/close", &[]), by, None);
    }

    fn push(
        &mut self,
        kind: u8,
        signer: Hash,
        body: &[u8],
        by: &Person,
        accepted: Option<&Person>,
    ) {
        let account = self.events[0].event_hash();
        let prev = self.events[self.events.len() - 1].event_hash();
        let seq = self.events.len() as u64;
        let event = raw(ORIGIN, account, seq, prev, kind, signer, body);
        self.events.push(seal(event, by, accepted));
    }
}
