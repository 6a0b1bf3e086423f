//! One event of a chain: its bytes, and what they say.
//!
//! ```text
//! event    = enc("nexo/1/sigchain", [origin, account_id 32, seq u64, prev 32, type u8,
//!                time_ms u64, signer_device_id 32, body])
//! device   = enc("nexo/1/body/device", [ed25519_pub 32, caps u16, not_after u64, name 32,
//!                conversation ids, 32 each])
//!
//! 1 genesis         enc("nexo/1/body/genesis", [handle, device, recovery_pub 32])
//! 2 add_device      device
//! 3 revoke_device   enc("nexo/1/body/revoke", [device_id 32, reason])
//! 4 set_recovery    enc("nexo/1/body/recovery", [recovery_pub 32])
//! 5 recover         device
//! 6 operator_reset  enc("nexo/1/body/reset", [H(new genesis event) 32])
//! 7 update_device   enc("nexo/1/body/update", [device_id 32, caps u16, not_after u64])
//! 8 close           enc("nexo/1/body/close", [])
//! ```
//!
//! A value of [`Event`] is well formed; whether it may stand where it stands is for `rules`.

use super::name::{Handle, device_id};
use super::wire::{self, EncodingError, dec, fixed, hash};
use crate::key::AccountKey;
use crate::merkle::Hash;
use std::fmt;

/// Longest event that is read, bytes. A genesis is under 600; the rest is room for lists of
/// conversations.
pub(crate) const MAX_EVENT: usize = 64 * 1024;
/// Longest reason for a revocation, bytes.
const MAX_REASON: usize = 64;

/// An event and its signatures, as an entry's hashes cover them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedEvent {
    /// The event's bytes.
    pub event: Vec<u8>,
    /// The signer's signature over them.
    pub sig: Vec<u8>,
    /// The acceptance; empty where the event needs none.
    pub accept_sig: Vec<u8>,
}

impl SignedEvent {
    /// What stands in the entry for the event.
    #[must_use]
    pub fn event_hash(&self) -> Hash {
        hash(&self.event)
    }

    /// What stands in the entry for the signatures.
    #[must_use]
    pub fn signatures_hash(&self) -> Hash {
        hash(&wire::enc("nexo/1/signatures", &[&self.sig, &self.accept_sig]))
    }

    /// What is signed to accept a place or a key.
    pub(super) fn acceptance(&self) -> Vec<u8> {
        wire::enc("nexo/1/sig/accept", &[&self.event_hash()])
    }
}

/// Why bytes are not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Longer than any event.
    #[error("the event is longer than {MAX_EVENT} bytes")]
    TooLong,
    /// Not the encoding of an event.
    #[error("the event: {0}")]
    Event(EncodingError),
    /// The body is not the encoding its type has.
    #[error("the body of the event: {0}")]
    Body(EncodingError),
    /// A type that this auditor does not know.
    #[error("the event is of type {0}, which is not known")]
    Kind(u8),
    /// The genesis binds text that is no handle.
    #[error("the handle in the genesis is none")]
    Handle,
    /// Bits that are no capability.
    #[error("the device has capabilities that are not known")]
    Caps,
    /// A list of conversations that is no list of ids.
    #[error("the device's list of conversations is not cut into ids")]
    Conversations,
    /// A key that breaks the strict rule (PROTOCOL.md 3).
    #[error("a key in the event is weak or malformed")]
    WeakKey,
    /// A longer reason than may be given.
    #[error("the reason is longer than {MAX_REASON} bytes")]
    Reason,
}

/// What a device may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps(u16);

impl Caps {
    const NAMES: [(u16, &str); 4] = [(1, "admin"), (2, "send"), (4, "recv"), (8, "stateless")];

    fn parse(bits: [u8; 2]) -> Result<Self, EventError> {
        let bits = u16::from_be_bytes(bits);
        if bits & !0x0f == 0 { Ok(Self(bits)) } else { Err(EventError::Caps) }
    }

    /// Whether it may change the account's devices.
    #[must_use]
    pub fn admin(self) -> bool {
        self.0 & 1 != 0
    }

    /// The bits, as they stand in the event.
    #[must_use]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Its names, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.0 & bit != 0).map(|(_, name)| name)
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

/// A device as an event introduces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its key.
    pub key: AccountKey,
    /// What it may do.
    pub caps: Caps,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
    /// Commitment to its display name.
    pub name: Hash,
    /// The conversations it is limited to; empty for all.
    pub conversations: Vec<Hash>,
}

impl Device {
    /// Its id, which follows from its key.
    #[must_use]
    pub fn id(&self) -> Hash {
        device_id(self.key.as_bytes())
    }

    fn parse(bytes: &[u8]) -> Result<Self, EventError> {
        let [key, caps, not_after, name, conversations] =
            dec::<5>("nexo/1/body/device", bytes).map_err(EventError::Body)?;
        let (ids, rest) = conversations.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(EventError::Conversations);
        }
        Ok(Self {
            key: key_of(key)?,
            caps: Caps::parse(body(caps)?)?,
            not_after: u64::from_be_bytes(body(not_after)?),
            name: body(name)?,
            conversations: ids.to_vec(),
        })
    }
}

/// What makes an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The handle it binds.
    pub handle: Handle,
    /// The first device.
    pub device: Device,
    /// The key that can recover the account.
    pub recovery: AccountKey,
}

/// What an event does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes the account.
    Genesis(Box<Genesis>),
    /// Adds a device.
    Add(Device),
    /// Ends a device.
    Revoke {
        /// Its id.
        device: Hash,
    },
    /// Replaces the recovery key.
    SetRecovery(AccountKey),
    /// Ends every device and adds one, by the recovery key.
    Recover(Device),
    /// Ends the chain for another one of the same handle, by the operator.
    Reset {
        /// Hash of the genesis that has to follow.
        genesis: Hash,
    },
    /// Changes what a device may do, and until when.
    Update {
        /// Its id.
        device: Hash,
        /// What it may do from here on.
        caps: Caps,
        /// Unix seconds after which it is void; 0 for none.
        not_after: u64,
    },
    /// Ends the account.
    Close,
}

impl Change {
    /// The type's name in PROTOCOL.md.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Genesis(_) => "genesis",
            Self::Add(_) => "add_device",
            Self::Revoke { .. } => "revoke_device",
            Self::SetRecovery(_) => "set_recovery",
            Self::Recover(_) => "recover",
            Self::Reset { .. } => "operator_reset",
            Self::Update { .. } => "update_device",
            Self::Close => "close",
        }
    }

    /// The device that it concerns.
    #[must_use]
    pub fn device(&self) -> Option<Hash> {
        match self {
            Self::Genesis(genesis) => Some(genesis.device.id()),
            Self::Add(device) | Self::Recover(device) => Some(device.id()),
            Self::Revoke { device } | Self::Update { device, .. } => Some(*device),
            Self::SetRecovery(_) | Self::Reset { .. } | Self::Close => None,
        }
    }

    fn parse(kind: u8, bytes: &[u8]) -> Result<Self, EventError> {
        Ok(match kind {
            1 => {
                let [handle, device, recovery] =
                    dec::<3>("nexo/1/body/genesis", bytes).map_err(EventError::Body)?;
                let text = str::from_utf8(handle).map_err(|_| EventError::Handle)?;
                let handle = Handle::parse(text).map_err(|_| EventError::Handle)?;
                let (device, recovery) = (Device::parse(device)?, key_of(recovery)?);
                Self::Genesis(Box::new(Genesis { handle, device, recovery }))
            }
            2 => Self::Add(Device::parse(bytes)?),
            3 => {
                let [device, reason] =
                    dec::<2>("nexo/1/body/revoke", bytes).map_err(EventError::Body)?;
                if reason.len() > MAX_REASON {
                    return Err(EventError::Reason);
                }
                Self::Revoke { device: body(device)? }
            }
            4 => {
                let [key] = dec::<1>("nexo/1/body/recovery", bytes).map_err(EventError::Body)?;
                Self::SetRecovery(key_of(key)?)
            }
            5 => Self::Recover(Device::parse(bytes)?),
            6 => {
                let [genesis] = dec::<1>("nexo/1/body/reset", bytes).map_err(EventError::Body)?;
                Self::Reset { genesis: body(genesis)? }
            }
            7 => Self::parse_update(bytes)?,
            8 => {
                let [] = dec::<0>("nexo/1/body/close", bytes).map_err(EventError::Body)?;
                Self::Close
            }
            other => return Err(EventError::Kind(other)),
        })
    }

    fn parse_update(bytes: &[u8]) -> Result<Self, EventError> {
        let [device, caps, not_after] =
            dec::<3>("nexo/1/body/update", bytes).map_err(EventError::Body)?;
        Ok(Self::Update {
            device: body(device)?,
            caps: Caps::parse(body(caps)?)?,
            not_after: u64::from_be_bytes(body(not_after)?),
        })
    }
}

/// An event, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The log it is for.
    pub origin: Vec<u8>,
    /// The account; zeros in a genesis.
    pub account: Hash,
    /// Its number in the chain, from 0.
    pub seq: u64,
    /// Hash of the event before; zeros in a genesis.
    pub prev: Hash,
    /// The signer's clock, Unix milliseconds; for people.
    pub time_ms: u64,
    /// The signing device; zeros where no device signs.
    pub signer: Hash,
    /// What it does.
    pub change: Change,
}

impl Event {
    /// Reads the one encoding of an event.
    ///
    /// # Errors
    /// [`EventError`] names what differs.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventError> {
        if bytes.len() > MAX_EVENT {
            return Err(EventError::TooLong);
        }
        let [origin, account, seq, prev, kind, time, signer, inner] =
            dec::<8>("nexo/1/sigchain", bytes).map_err(EventError::Event)?;
        let [kind] = outer(kind)?;
        Ok(Self {
            origin: origin.to_vec(),
            account: outer(account)?,
            seq: u64::from_be_bytes(outer(seq)?),
            prev: outer(prev)?,
            time_ms: u64::from_be_bytes(outer(time)?),
            signer: outer(signer)?,
            change: Change::parse(kind, inner)?,
        })
    }
}

fn outer<const N: usize>(field: &[u8]) -> Result<[u8; N], EventError> {
    fixed(field).map_err(EventError::Event)
}

fn body<const N: usize>(field: &[u8]) -> Result<[u8; N], EventError> {
    fixed(field).map_err(EventError::Body)
}

fn key_of(field: &[u8]) -> Result<AccountKey, EventError> {
    AccountKey::parse(&body(field)?).map_err(|_| EventError::WeakKey)
}

#[cfg(test)]
mod tests {
    use super::super::testchain::{DeviceBody, Person, raw};
    use super::super::wire::enc;
    use super::*;
    use crate::encoding::to_hex;
    use proptest::prelude::*;

    fn device() -> Vec<u8> {
        DeviceBody::of(&Person::new(1), 7).encode()
    }

    fn read(kind: u8, body: &[u8]) -> Result<Event, EventError> {
        Event::parse(&raw(b"log", [0; 32], 0, [0; 32], kind, [0; 32], body))
    }

    fn key(seed: u8) -> Vec<u8> {
        Person::new(seed).public().to_vec()
    }

    #[test]
    fn every_type_is_read() {
        let id = [9; 32];
        let genesis = enc("nexo/1/body/genesis", &[b"alice", &device(), &key(2)]);
        let update = enc("nexo/1/body/update", &[&id, &[0, 6], &[0; 8]]);
        for (kind, body, name, concerns) in [
            (1, genesis, "genesis", Some(Person::new(1).device_id())),
            (2, device(), "add_device", Some(Person::new(1).device_id())),
            (3, enc("nexo/1/body/revoke", &[&id, b"lost"]), "revoke_device", Some(id)),
            (4, enc("nexo/1/body/recovery", &[&key(3)]), "set_recovery", None),
            (5, device(), "recover", Some(Person::new(1).device_id())),
            (6, enc("nexo/1/body/reset", &[&id]), "operator_reset", None),
            (7, update, "update_device", Some(id)),
            (8, enc("nexo/1/body/close", &[]), "close", None),
        ] {
            let event = read(kind, &body).unwrap();
            assert_eq!((event.change.name(), event.change.device()), (name, concerns));
            // No type's body passes for another's, but 2 and 5, which have the same.
            let alike =
                |other: u8| other == kind || [other, kind] == [2, 5] || [other, kind] == [5, 2];
            for other in (1..=8).filter(|other| !alike(*other)) {
                assert!(read(other, &body).is_err(), "{kind} as {other}");
            }
            let longer = [&body[..], &[0]].concat();
            assert_eq!(read(kind, &longer), Err(EventError::Body(EncodingError::Trailing)));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let weak = {
            let mut identity = vec![0; 32];
            identity[0] = 1;
            identity
        };
        let with = |caps: [u8; 2], conversations: &[u8], key: &[u8]| {
            enc("nexo/1/body/device", &[key, &caps, &[0; 8], &[5; 32], conversations])
        };
        let genesis = |handle: &[u8]| enc("nexo/1/body/genesis", &[handle, &device(), &key(2)]);
        let body = EventError::Body;
        for (kind, bytes, why) in [
            (0, vec![], EventError::Kind(0)),
            (9, device(), EventError::Kind(9)),
            (2, with([0, 16], &[], &key(1)), EventError::Caps),
            (2, with([1, 0], &[], &key(1)), EventError::Caps),
            (2, with([0, 7], &[0; 31], &key(1)), EventError::Conversations),
            (2, with([0, 7], &[], &weak), EventError::WeakKey),
            (2, with([0, 7], &[], &[1; 31]), body(EncodingError::Width)),
            (4, enc("nexo/1/body/recovery", &[&weak]), EventError::WeakKey),
            (1, genesis(b"Alice"), EventError::Handle),
            (1, genesis(&[0xff, 0xfe]), EventError::Handle),
            (3, enc("nexo/1/body/revoke", &[&[1; 32], &[b'x'; 65]]), EventError::Reason),
            (3, enc("nexo/1/body/revoke", &[&[1; 31], b""]), body(EncodingError::Width)),
            (8, enc("nexo/1/body/close", &[&[]]), body(EncodingError::Count { found: 1 })),
        ] {
            assert_eq!(read(kind, &bytes), Err(why), "{kind}");
        }
        assert_eq!(Event::parse(&vec![0; MAX_EVENT + 1]), Err(EventError::TooLong));
        let short = enc("nexo/1/sigchain", &[&[][..]; 7]);
        let count = EncodingError::Count { found: 7 };
        assert_eq!(Event::parse(&short), Err(EventError::Event(count)));
    }

    #[test]
    fn the_longest_event_and_reason_are_read_and_one_byte_more_is_not() {
        let close = enc("nexo/1/body/close", &[]);
        let of_size = |size: usize| {
            let bare = raw(b"", [0; 32], 0, [0; 32], 8, [0; 32], &close).len();
            let event = raw(&vec![b'o'; size - bare], [0; 32], 0, [0; 32], 8, [0; 32], &close);
            assert_eq!(event.len(), size);
            Event::parse(&event).map(|event| event.change)
        };
        assert_eq!(of_size(65_536), Ok(Change::Close));
        assert_eq!(of_size(65_537), Err(EventError::TooLong));
        let revoke = |reason: usize| {
            let body = enc("nexo/1/body/revoke", &[&[9; 32], &vec![b'x'; reason]]);
            read(3, &body).map(|event| event.change)
        };
        assert_eq!(revoke(64), Ok(Change::Revoke { device: [9; 32] }));
        assert_eq!(revoke(65), Err(EventError::Reason));
    }

    /// Bytes and hashes of PROTOCOL.md 4, made by hand.
    #[test]
    fn what_is_signed_and_logged_is_over_these_bytes() {
        let of = |accept_sig: Vec<u8>| SignedEvent {
            event: b"abc".to_vec(),
            sig: vec![1; 64],
            accept_sig,
        };
        let both = of(vec![2; 64]);
        let event_hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(to_hex(&both.event_hash()), event_hash);
        let (label, field) = (b"\0\0\0\x11nexo/1/sig/accept", b"\0\0\0\x01\0\0\0\x20");
        assert_eq!(both.acceptance(), [&label[..], &field[..], &both.event_hash()].concat());
        for (signed, hash) in [
            (both, "a1856182cea7c2dac2cae8b14a286e54e4c7aef0c68f88985625ed91102fa751"),
            (of(vec![]), "0320dbcd0c58af4377f1ea7058e15dc70aca7ff38d691a75df115c804d929610"),
        ] {
            assert_eq!(to_hex(&signed.signatures_hash()), hash);
        }
    }

    #[test]
    fn capabilities_have_names() {
        let caps = Caps::parse([0, 11]).unwrap();
        assert_eq!((caps.to_string().as_str(), caps.admin()), ("admin,send,stateless", true));
        assert_eq!(caps.bits(), 11);
        assert!(!Caps::parse([0, 14]).unwrap().admin());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_flip_passes_unseen(bytes: Vec<u8>, at: prop::sample::Index) {
            let _ = Event::parse(&bytes);
            let good = raw(b"log", [0; 32], 0, [0; 32], 2, [0; 32], &device());
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 1;
            prop_assert_ne!(Event::parse(&bad), Event::parse(&good));
        }
    }
}
