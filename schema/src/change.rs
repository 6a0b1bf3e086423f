//! What an account event does: the body of each type, encoded and read (PROTOCOL.md 4).
//!
//! ```text
//! 1 genesis         enc("nexo/1/body/genesis", [handle, device, recovery_pub 32])
//! 2 add_device      device
//! 3 revoke_device   enc("nexo/1/body/revoke", [device_id 32, reason, at most 64 bytes])
//! 4 set_recovery    enc("nexo/1/body/recovery", [recovery_pub 32])
//! 5 recover         device
//! 6 operator_reset  enc("nexo/1/body/reset", [H(new genesis) 32])
//! 7 update_device   enc("nexo/1/body/update", [device_id 32, caps u16, not_after u64])
//! 8 close           enc("nexo/1/body/close", [])
//! ```
//!
//! Bytes only: whether an event may stand where it stands is judged by those who hold the chain
//! and its keys.

use crate::bytes::{DecodeError, be_u16, be_u64, dec, enc, fixed};
use crate::limits::MAX_REASON;
use crate::sigchain::{Device, GENESIS, Genesis, caps};

type Hash = [u8; 32];

/// Type byte: a device more.
pub const ADD: u8 = 2;
/// Type byte: a device less.
pub const REVOKE: u8 = 3;
/// Type byte: another recovery key.
pub const SET_RECOVERY: u8 = 4;
/// Type byte: one new device instead of all, by the recovery key.
pub const RECOVER: u8 = 5;
/// Type byte: the operator ends the chain for another genesis.
pub const RESET: u8 = 6;
/// Type byte: other capabilities or another end of a device.
pub const UPDATE: u8 = 7;
/// Type byte: the end of the account.
pub const CLOSE: u8 = 8;

/// The body of an event, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Makes the account.
    Genesis(Genesis<'a>),
    /// Adds a device.
    Add(Device),
    /// Ends a device.
    Revoke {
        /// Its id.
        device: Hash,
        /// For people, at most [`MAX_REASON`] bytes.
        reason: &'a [u8],
    },
    /// Replaces the recovery key.
    SetRecovery(Hash),
    /// Ends every device and adds one.
    Recover(Device),
    /// Ends the chain; the handle goes on with this genesis.
    Reset {
        /// Hash of that event.
        genesis: Hash,
    },
    /// Changes what a device may do, and until when.
    Update {
        /// Its id.
        device: Hash,
        /// Bits of [`caps`] from here on.
        caps: u16,
        /// Unix seconds after which it is void; 0 for none.
        not_after: u64,
    },
    /// Ends the account.
    Close,
}

impl<'a> Change<'a> {
    /// Its type byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Genesis(_) => GENESIS,
            Self::Add(_) => ADD,
            Self::Revoke { .. } => REVOKE,
            Self::SetRecovery(_) => SET_RECOVERY,
            Self::Recover(_) => RECOVER,
            Self::Reset { .. } => RESET,
            Self::Update { .. } => UPDATE,
            Self::Close => CLOSE,
        }
    }

    /// The bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Genesis(genesis) => genesis.encode(),
            Self::Add(device) | Self::Recover(device) => device.encode(),
            Self::Revoke { device, reason } => enc("nexo/1/body/revoke", &[device, reason]),
            Self::SetRecovery(key) => enc("nexo/1/body/recovery", &[key]),
            Self::Reset { genesis } => enc("nexo/1/body/reset", &[genesis]),
            Self::Update { device, caps, not_after } => {
                enc("nexo/1/body/update", &[device, &caps.to_be_bytes(), &not_after.to_be_bytes()])
            }
            Self::Close => enc("nexo/1/body/close", &[]),
        }
    }

    /// Reads the body of an event of type `kind`.
    ///
    /// # Errors
    /// [`DecodeError`]; a type that is not known is a wrong field.
    pub fn decode(kind: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(match kind {
            GENESIS => Self::Genesis(Genesis::decode(body)?),
            ADD => Self::Add(Device::decode(body)?),
            REVOKE => {
                let [device, reason] = dec::<2>("nexo/1/body/revoke", body)?;
                if reason.len() > MAX_REASON {
                    return Err(DecodeError::Field);
                }
                Self::Revoke { device: fixed(device)?, reason }
            }
            SET_RECOVERY => {
                let [key] = dec::<1>("nexo/1/body/recovery", body)?;
                Self::SetRecovery(fixed(key)?)
            }
            RECOVER => Self::Recover(Device::decode(body)?),
            RESET => {
                let [genesis] = dec::<1>("nexo/1/body/reset", body)?;
                Self::Reset { genesis: fixed(genesis)? }
            }
            UPDATE => {
                let [device, bits, not_after] = dec::<3>("nexo/1/body/update", body)?;
                let bits = be_u16(bits)?;
                if bits & !caps::ALL != 0 {
                    return Err(DecodeError::Field);
                }
                Self::Update { device: fixed(device)?, caps: bits, not_after: be_u64(not_after)? }
            }
            CLOSE => {
                let [] = dec::<0>("nexo/1/body/close", body)?;
                Self::Close
            }
            _ => return Err(DecodeError::Field),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device() -> impl Strategy<Value = Device> {
        let conversations = prop::collection::vec(any::<Hash>(), 0..3);
        (any::<Hash>(), 0..16u16, any::<u64>(), any::<Hash>(), conversations).prop_map(
            |(key, caps, not_after, name, conversations)| Device {
                key,
                caps,
                not_after,
                name,
                conversations,
            },
        )
    }

    const REASON: &[u8] = &[b'x'; MAX_REASON];

    fn change() -> impl Strategy<Value = Change<'static>> {
        prop_oneof![
            (device(), any::<Hash>()).prop_map(|(device, recovery)| Change::Genesis(Genesis {
                handle: b"alice",
                device,
                recovery
            })),
            device().prop_map(Change::Add),
            (any::<Hash>(), 0..=MAX_REASON)
                .prop_map(|(device, n)| Change::Revoke { device, reason: &REASON[..n] }),
            any::<Hash>().prop_map(Change::SetRecovery),
            device().prop_map(Change::Recover),
            any::<Hash>().prop_map(|genesis| Change::Reset { genesis }),
            (any::<Hash>(), 0..16u16, any::<u64>())
                .prop_map(|(device, caps, not_after)| Change::Update { device, caps, not_after }),
            Just(Change::Close),
        ]
    }

    proptest! {
        #[test]
        fn every_change_reads_back_and_only_under_its_type(change in change()) {
            let body = change.encode();
            prop_assert_eq!(Change::decode(change.kind(), &body), Ok(change.clone()));
            // Types 2 and 5 share a body: what they do is the type's word, which is signed.
            let twins = [ADD, RECOVER];
            for kind in 0..=9 {
                let twin = twins.contains(&kind) && twins.contains(&change.kind());
                prop_assert_eq!(
                    Change::decode(kind, &body).is_ok(), kind == change.kind() || twin, "{}", kind
                );
            }
            for cut in 0..body.len() {
                prop_assert!(Change::decode(change.kind(), &body[..cut]).is_err());
            }
            let longer = [&body[..], b"x"].concat();
            prop_assert!(Change::decode(change.kind(), &longer).is_err());
        }

        #[test]
        fn no_input_panics(kind: u8, bytes: Vec<u8>) {
            let _ = Change::decode(kind, &bytes);
        }
    }

    #[test]
    fn fields_are_bounded_and_of_known_bits() {
        let long = Change::Revoke { device: [1; 32], reason: &[b'x'; MAX_REASON + 1] }.encode();
        assert_eq!(Change::decode(REVOKE, &long), Err(DecodeError::Field));
        let unknown = Change::Update { device: [1; 32], caps: 16, not_after: 0 }.encode();
        assert_eq!(Change::decode(UPDATE, &unknown), Err(DecodeError::Field));
        let short = enc("nexo/1/body/update", &[&[1; 31], &[0, 7], &[0; 8]]);
        assert_eq!(Change::decode(UPDATE, &short), Err(DecodeError::Field));
    }
}
