//! Events after the first of an account, as its devices sign them (design/e2ee.md 2.5, 2.22).
//!
//! ```text
//! event      = enc("nexo/1/sigchain", [origin, account_id, seq, prev, type, time_ms, signer, body])
//! sig        = Ed25519(signer, event); the recovery key's in a recovery, whose signer is zeros
//! accept_sig = Ed25519(new device or old recovery key, enc("nexo/1/sig/accept", [H(event)]))
//! request    = Ed25519(new device, enc("nexo/1/sig/link", [origin, pub, H(name opening), opening]))
//! code       = first 16 bytes of H(enc("nexo/1/link", [origin, pub]))
//! ```
//!
//! Signing says nothing about whether the event may stand where it is meant to: who holds the
//! chain judges that, and the relay does again.

use super::ids::AccountId;
use super::kdf;
use super::keys::{DevicePublic, DeviceSecret, RecoveryPublic};
use nexo_schema::change::{Change, RECOVER};
use nexo_schema::link;
use nexo_schema::sigchain::{self, Event};

/// The end of a chain, behind which an event is put.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The relay's origin string.
    pub origin: &'a str,
    /// The account.
    pub account: AccountId,
    /// The number of the next event.
    pub seq: u64,
    /// Hash of the newest event.
    pub prev: [u8; 32],
    /// Now, in Unix milliseconds; for people.
    pub time_ms: u64,
}

/// An event and its signer's signature; the acceptance is somebody else's to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// The signed bytes.
    pub event: Vec<u8>,
    /// The signature over them.
    pub signature: [u8; 64],
}

/// The secret half of an account's recovery key. It signs recoveries and accepts its successor.
pub struct RecoverySecret(DeviceSecret);

impl RecoverySecret {
    /// The key of a 32-byte seed, as it was kept offline.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(DeviceSecret::from_seed(seed))
    }

    /// What the chain names.
    #[must_use]
    pub fn public(&self) -> RecoveryPublic {
        RecoveryPublic::of_seed(&self.0.seed())
    }

    /// Signs a recovery: one new device instead of all.
    #[must_use]
    pub fn recover(&self, place: &Place<'_>, device: sigchain::Device) -> Proposed {
        propose(place, &self.0, &Change::Recover(device))
    }

    /// Accepts an event that replaces this key.
    #[must_use]
    pub fn accept(&self, event: &[u8]) -> [u8; 64] {
        accept(&self.0, event)
    }
}

/// Signs an event as a device of the account.
#[must_use]
pub fn propose(place: &Place<'_>, by: &DeviceSecret, change: &Change<'_>) -> Proposed {
    let body = change.encode();
    let nobody = change.kind() == RECOVER;
    let event = Event {
        origin: place.origin.as_bytes(),
        account: *place.account.as_bytes(),
        seq: place.seq,
        prev: place.prev,
        kind: change.kind(),
        time_ms: place.time_ms,
        signer: if nobody { [0; 32] } else { *by.public().device_id().as_bytes() },
        body: &body,
    }
    .encode();
    Proposed { signature: by.sign(&event), event }
}

/// Accepts a place in an account, as the device that an event brings in.
#[must_use]
pub fn accept(by: &DeviceSecret, event: &[u8]) -> [u8; 64] {
    by.sign(&sigchain::accept(&kdf::hash(event)))
}

/// Signs a request to be linked; `name` is the commitment to the device's name.
#[must_use]
pub fn ask_for_link(
    device: &DeviceSecret,
    origin: &str,
    name: &[u8; 32],
    opening: &[u8],
) -> [u8; 64] {
    device.sign(&link::request(origin, device.public().as_bytes(), name, opening))
}

/// What a person carries from the new device to the one that approves it: 16 bytes that only
/// this key has.
#[must_use]
pub fn link_code(origin: &str, device: &DevicePublic) -> [u8; link::LINK_ID] {
    kdf::first_half(&kdf::hash(&link::code(origin, device.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::sigchain::Device;

    fn place() -> Place<'static> {
        let account = AccountId::from_bytes([7; 32]);
        Place { origin: "o", account, seq: 3, prev: [8; 32], time_ms: 5 }
    }

    fn device(secret: &DeviceSecret) -> Device {
        let key = *secret.public().as_bytes();
        Device { key, caps: 7, not_after: 0, name: [1; 32], conversations: Vec::new() }
    }

    #[test]
    fn an_event_says_where_it_stands_and_who_signs() {
        let by = DeviceSecret::from_seed(&[1; 32]);
        let change = Change::Revoke { device: [9; 32], reason: b"lost" };
        let signed = propose(&place(), &by, &change);
        let event = Event::decode(&signed.event).unwrap();
        assert_eq!((event.origin, event.seq, event.prev), (&b"o"[..], 3, [8; 32]));
        assert_eq!(event.signer, *by.public().device_id().as_bytes());
        assert_eq!(Change::decode(event.kind, event.body).unwrap(), change);
        by.public().verify(&signed.event, &signed.signature).unwrap();
    }

    #[test]
    fn a_recovery_is_nobodys_and_the_recovery_keys() {
        let (recovery, new) =
            (RecoverySecret::from_seed(&[2; 32]), DeviceSecret::from_seed(&[3; 32]));
        let signed = recovery.recover(&place(), device(&new));
        assert_eq!(Event::decode(&signed.event).unwrap().signer, [0; 32]);
        let key = DevicePublic::from_bytes(recovery.public().as_bytes()).unwrap();
        key.verify(&signed.event, &signed.signature).unwrap();
        let accepted = accept(&new, &signed.event);
        new.public().verify(&sigchain::accept(&kdf::hash(&signed.event)), &accepted).unwrap();
        assert!(new.public().verify(&signed.event, &accepted).is_err(), "a label of its own");
    }

    #[test]
    fn codes_are_the_keys_own() {
        let (one, two) = (DeviceSecret::from_seed(&[1; 32]), DeviceSecret::from_seed(&[2; 32]));
        let code = link_code("o", &one.public());
        assert_ne!(code, link_code("o", &two.public()));
        assert_ne!(code, link_code("p", &one.public()));
        let sig = ask_for_link(&one, "o", &[4; 32], b"opening");
        let request = link::request("o", one.public().as_bytes(), &[4; 32], b"opening");
        one.public().verify(&request, &sig).unwrap();
    }
}
