//! Tombstones: the author's signed wish that a message be deleted everywhere
//! (design/e2ee.md 2.16).
//!
//! ```text
//! enc("nexo/1/sig/tombstone", [origin, conv_id 32, target_msg_id 16, target_EH 32,
//!                              acct 32, dev 32, time_ms u64])
//! leaf = enc("nexo/1/leaf", [0x03, H(tombstone), H(signature)])
//! ```
//!
//! A valid tombstone says who wants what. Whether that account wrote the target,
//! and whether the device is active in it, is the caller's to check. It never says
//! that a peer's copy is gone.

use super::ids::{AccountId, ConversationId, DeviceId, EnvelopeHash, MessageId};
use super::kdf;
use super::keys::{DevicePublic, DeviceSecret};
use nexo_schema::bytes::{DecodeError, be_u64, dec, fixed};
use nexo_schema::entry;
use nexo_schema::envelope::{self, Route};

const LABEL: &str = "nexo/1/sig/tombstone";

/// Why a tombstone is neither signed nor believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TombstoneRefused {
    /// The bytes are no tombstone.
    #[error("not a tombstone: {0}")]
    Encoding(#[from] DecodeError),
    /// It was made for another relay.
    #[error("the tombstone is for another relay")]
    Origin,
    /// It names another device than the key at hand.
    #[error("the tombstone is of device {0}")]
    Device(DeviceId),
    /// The signature is not valid.
    #[error("the tombstone's signature is not valid")]
    Signature,
}

/// A tombstone's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone<'a> {
    /// The relay's origin string.
    pub origin: &'a str,
    /// The conversation of the target.
    pub conversation: ConversationId,
    /// The message to delete.
    pub target: MessageId,
    /// Its envelope hash, so that no other message under that id is meant.
    pub target_envelope: EnvelopeHash,
    /// The author's account.
    pub account: AccountId,
    /// The signing device, which may be another one than wrote the target.
    pub device: DeviceId,
    /// When it was signed, in Unix milliseconds; for display.
    pub time_ms: u64,
}

impl<'a> Tombstone<'a> {
    /// The signed bytes.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let route = Route {
            origin: self.origin,
            conv: self.conversation.as_bytes(),
            msg_id: self.target.as_bytes(),
            account: self.account.as_bytes(),
            device: self.device.as_bytes(),
        };
        envelope::tombstone(&route, self.target_envelope.as_bytes(), self.time_ms)
    }

    /// Signs it.
    ///
    /// # Errors
    /// [`TombstoneRefused::Device`] if it names another device than `secret`'s.
    pub fn sign(&self, secret: &DeviceSecret) -> Result<[u8; 64], TombstoneRefused> {
        if self.device != secret.public().device_id() {
            return Err(TombstoneRefused::Device(self.device));
        }
        Ok(secret.sign(&self.message()))
    }

    /// Reads signed bytes.
    ///
    /// # Errors
    /// [`TombstoneRefused::Encoding`].
    pub fn parse(message: &'a [u8]) -> Result<Self, TombstoneRefused> {
        let [origin, conversation, target, envelope, account, device, time] = dec(LABEL, message)?;
        Ok(Self {
            origin: std::str::from_utf8(origin).map_err(|_| DecodeError::Field)?,
            conversation: ConversationId::from_bytes(fixed(conversation)?),
            target: MessageId::from_bytes(fixed(target)?),
            target_envelope: EnvelopeHash::from_bytes(fixed(envelope)?),
            account: AccountId::from_bytes(fixed(account)?),
            device: DeviceId::from_bytes(fixed(device)?),
            time_ms: be_u64(time)?,
        })
    }

    /// Reads signed bytes and verifies them as received, under the key of the
    /// device they name.
    ///
    /// # Errors
    /// [`TombstoneRefused`].
    pub fn verify(
        origin: &str,
        message: &'a [u8],
        signature: &[u8],
        device: &DevicePublic,
    ) -> Result<Self, TombstoneRefused> {
        let tombstone = Self::parse(message)?;
        if tombstone.origin != origin {
            return Err(TombstoneRefused::Origin);
        }
        if tombstone.device != device.device_id() {
            return Err(TombstoneRefused::Device(tombstone.device));
        }
        device.verify(message, signature).map_err(|_| TombstoneRefused::Signature)?;
        Ok(tombstone)
    }
}

/// The log entry of a tombstone, from the signed bytes and the signature.
#[must_use]
pub fn tombstone_leaf(message: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    entry::tombstone(&kdf::hash(message), &kdf::hash(signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tombstone(secret: &DeviceSecret) -> Tombstone<'static> {
        Tombstone {
            origin: "o",
            conversation: ConversationId::from_bytes([1; 32]),
            target: MessageId::from_bytes([2; 16]),
            target_envelope: EnvelopeHash::from_bytes([3; 32]),
            account: AccountId::from_bytes([4; 32]),
            device: secret.public().device_id(),
            time_ms: 5,
        }
    }

    #[test]
    fn signed_bytes_verify_and_say_what_was_signed() {
        let secret = DeviceSecret::from_seed(&[1; 32]);
        let made = tombstone(&secret);
        let (message, signature) = (made.message(), made.sign(&secret).unwrap());
        let read = Tombstone::verify("o", &message, &signature, &secret.public());
        assert_eq!(read, Ok(made));
        let leaf = tombstone_leaf(&message, &signature);
        let [kind, hash, signed] = dec("nexo/1/leaf", &leaf).unwrap();
        assert_eq!((kind, hash), (&[3][..], &kdf::hash(&message)[..]));
        assert_eq!(signed, kdf::hash(&signature));
    }

    #[test]
    fn foreign_relays_devices_and_signatures_are_refused() {
        let secret = DeviceSecret::from_seed(&[1; 32]);
        let other = DeviceSecret::from_seed(&[2; 32]);
        let made = tombstone(&secret);
        let (message, signature) = (made.message(), made.sign(&secret).unwrap());
        let verify = |origin, signature: &[u8], key: &DeviceSecret| {
            Tombstone::verify(origin, &message, signature, &key.public()).map(|_| ())
        };
        assert_eq!(verify("p", &signature, &secret), Err(TombstoneRefused::Origin));
        let device = TombstoneRefused::Device(made.device);
        assert_eq!(verify("o", &signature, &other), Err(device));
        assert_eq!(made.sign(&other), Err(device));
        let forged = other.sign(&message);
        assert_eq!(verify("o", &forged, &secret), Err(TombstoneRefused::Signature));
        assert_eq!(verify("o", &signature[..63], &secret), Err(TombstoneRefused::Signature));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at: prop::sample::Index, bit in 0u8..8) {
            let secret = DeviceSecret::from_seed(&[1; 32]);
            let made = tombstone(&secret);
            let (mut message, signature) = (made.message(), made.sign(&secret).unwrap());
            let at = at.index(message.len());
            message[at] ^= 1 << bit;
            prop_assert!(Tombstone::verify("o", &message, &signature, &secret.public()).is_err());
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            prop_assert!(Tombstone::parse(&noise).is_err());
        }
    }
}
