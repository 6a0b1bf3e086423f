//! The bytes of account events (e2ee 2.5). Encoding and reading only; who may sign what is
//! judged by those who hold keys.
//!
//! ```text
//! event   = enc("nexo/1/sigchain", [origin, account_id 32 (zeros in genesis), seq u64,
//!               prev 32, type u8, time_ms u64, signer_device_id 32, body])
//! genesis = enc("nexo/1/body/genesis", [handle, device, recovery_pub 32])
//! device  = enc("nexo/1/body/device", [ed25519_pub 32, caps u16, not_after u64,
//!               H(name opening) 32, conversation ids 32 each])
//! ```

use crate::bytes::{DecodeError, be_u16, be_u64, dec, enc, fixed};

type Hash = [u8; 32];

/// What a device may do, as bits of `caps`.
pub mod caps {
    /// Change the account's devices.
    pub const ADMIN: u16 = 1;
    /// Send messages.
    pub const SEND: u16 = 2;
    /// Be addressed.
    pub const RECV: u16 = 4;
    /// Keep no state: one-shot messages only, without a send counter.
    pub const STATELESS: u16 = 8;
    /// All bits that have a meaning.
    pub const ALL: u16 = ADMIN | SEND | RECV | STATELESS;
}

/// Type byte of a genesis event.
pub const GENESIS: u8 = 1;

/// One event of an account's chain, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The relay it is for.
    pub origin: &'a [u8],
    /// The account; zeros in genesis.
    pub account: Hash,
    /// Position in the chain, from 0.
    pub seq: u64,
    /// Hash of the event before; zeros in genesis.
    pub prev: Hash,
    /// 1 genesis, 2 add device, ... (e2ee 2.5).
    pub kind: u8,
    /// The signer's clock, milliseconds; for people.
    pub time_ms: u64,
    /// The signing device; zeros for recovery and operator events.
    pub signer: Hash,
    /// The body of this kind.
    pub body: &'a [u8],
}

/// A device as events introduce it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its Ed25519 key.
    pub key: Hash,
    /// Bits of [`caps`].
    pub caps: u16,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
    /// Commitment to its display name.
    pub name: Hash,
    /// Conversations it is limited to; empty for all.
    pub conversations: Vec<Hash>,
}

/// The body of a genesis event, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis<'a> {
    /// The handle it binds.
    pub handle: &'a [u8],
    /// The first device.
    pub device: Device,
    /// The recovery key.
    pub recovery: Hash,
}

impl<'a> Event<'a> {
    /// The bytes that are hashed and signed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        enc(
            "nexo/1/sigchain",
            &[
                self.origin,
                &self.account,
                &self.seq.to_be_bytes(),
                &self.prev,
                &[self.kind],
                &self.time_ms.to_be_bytes(),
                &self.signer,
                self.body,
            ],
        )
    }

    /// Reads an event; the body is not looked into.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but one canonical event.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let [origin, account, seq, prev, kind, time, signer, body] =
            dec::<8>("nexo/1/sigchain", bytes)?;
        Ok(Self {
            origin,
            account: fixed(account)?,
            seq: be_u64(seq)?,
            prev: fixed(prev)?,
            kind: fixed::<1>(kind)?[0],
            time_ms: be_u64(time)?,
            signer: fixed(signer)?,
            body,
        })
    }
}

impl Device {
    /// The bytes inside a body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        enc(
            "nexo/1/body/device",
            &[
                &self.key,
                &self.caps.to_be_bytes(),
                &self.not_after.to_be_bytes(),
                &self.name,
                &self.conversations.concat(),
            ],
        )
    }

    /// Reads a device; unknown capability bits are refused.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let [key, bits, not_after, name, convs] = dec::<5>("nexo/1/body/device", bytes)?;
        let bits = be_u16(bits)?;
        if bits & !caps::ALL != 0 || convs.len() % 32 != 0 {
            return Err(DecodeError::Field);
        }
        Ok(Self {
            key: fixed(key)?,
            caps: bits,
            not_after: be_u64(not_after)?,
            name: fixed(name)?,
            conversations: convs.chunks_exact(32).map(fixed).collect::<Result<_, _>>()?,
        })
    }
}

impl<'a> Genesis<'a> {
    /// The bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        enc("nexo/1/body/genesis", &[self.handle, &self.device.encode(), &self.recovery])
    }

    /// Reads the body of a genesis event.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let [handle, device, recovery] = dec::<3>("nexo/1/body/genesis", bytes)?;
        Ok(Self { handle, device: Device::decode(device)?, recovery: fixed(recovery)? })
    }
}

/// What a new device signs to accept its place; `event` is the event's hash.
#[must_use]
pub fn accept(event: &Hash) -> Vec<u8> {
    enc("nexo/1/sig/accept", &[event])
}

/// What is hashed to the signatures of an entry.
#[must_use]
pub fn signatures(sig: &[u8], accept_sig: &[u8]) -> Vec<u8> {
    enc("nexo/1/signatures", &[sig, accept_sig])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device() -> Device {
        Device { key: [1; 32], caps: 7, not_after: 0, name: [2; 32], conversations: vec![] }
    }

    #[test]
    fn a_genesis_reads_back() {
        let genesis = Genesis { handle: b"alice", device: device(), recovery: [3; 32] };
        let body = genesis.encode();
        let event = Event {
            origin: b"o",
            account: [0; 32],
            seq: 0,
            prev: [0; 32],
            kind: GENESIS,
            time_ms: 5,
            signer: [4; 32],
            body: &body,
        };
        let bytes = event.encode();
        let read = Event::decode(&bytes).unwrap();
        assert_eq!(read, event);
        assert_eq!(Genesis::decode(read.body).unwrap(), genesis);
    }

    #[test]
    fn unknown_capabilities_and_ragged_lists_are_refused() {
        let unknown = Device { caps: 16, ..device() }.encode();
        assert_eq!(Device::decode(&unknown), Err(DecodeError::Field));
        let ragged = enc("nexo/1/body/device", &[&[1; 32], &[0, 7], &[0; 8], &[2; 32], &[9; 31]]);
        assert_eq!(Device::decode(&ragged), Err(DecodeError::Field));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            let _ = (Event::decode(&bytes), Device::decode(&bytes), Genesis::decode(&bytes));
        }
    }
}
