//! What binds the parts of a message together (design/e2ee.md 2.11).
//!
//! ```text
//! aad_pay = enc("nexo/1/payload-aad", [SUITE, origin, conv_id 32, msg_id 16, acct_A 32, dev_A 32])
//! PD      = H(enc("nexo/1/payload-digest", [aad_pay, sealed]))
//! aad_kp  = enc("nexo/1/kp-aad", [origin, acct_A, dev_A, acct_B, dev_B, conv_id, msg_id, PD, header])
//! EH      = H(enc("nexo/1/envelope", [aad_pay, PD, (device_id || H(kp)) in device_id order ...]))
//! leaf    = enc("nexo/1/leaf", [0x02, EH])
//! ```
//!
//! `PD` in each pairwise AAD is what authenticates the payload: a co-recipient
//! knows the content key, and still cannot make another's key packet vouch for a
//! payload of its own. `EH` covers everything the relay stores, so every recipient
//! can recompute the log entry from its own packet and the hashes of the others.

use super::ids::{AccountId, ConversationId, DeviceId, EnvelopeHash, MessageId};
use super::kdf;
use super::keys::Party;
use nexo_schema::bytes::enc;
use nexo_schema::entry;
use nexo_schema::envelope::{self as bytes, Route};

/// Most devices one message addresses. Pairwise packets stay below 93 kB, in sessions
/// below 11 kB.
pub const MAX_RECIPIENTS: usize = 64;

/// Which message this is, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageContext<'a> {
    /// The relay's origin string.
    pub origin: &'a str,
    /// The conversation.
    pub conversation: ConversationId,
    /// The message id its sender chose.
    pub message: MessageId,
    /// The sender.
    pub sender: Party,
}

impl MessageContext<'_> {
    /// `aad_pay`, the additional data of the payload.
    #[must_use]
    pub fn payload_aad(&self) -> Vec<u8> {
        Route {
            origin: self.origin,
            conv: self.conversation.as_bytes(),
            msg_id: self.message.as_bytes(),
            account: self.sender.account.as_bytes(),
            device: self.sender.device.device_id().as_bytes(),
        }
        .payload_aad()
    }
}

/// `PD`: one payload in one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadDigest([u8; 32]);

impl PayloadDigest {
    /// The digest of a sealed payload and its additional data.
    #[must_use]
    pub fn of(payload_aad: &[u8], sealed: &[u8]) -> Self {
        Self(kdf::hash(&bytes::payload_digest(payload_aad, sealed)))
    }

    /// A digest as it was kept for sealing further packets.
    pub(super) fn restore(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// `aad_kp`, the additional data of one key packet.
pub(super) fn packet_aad(
    context: &MessageContext<'_>,
    to_account: AccountId,
    to_device: DeviceId,
    digest: &PayloadDigest,
    header: &[u8],
) -> Vec<u8> {
    enc(
        "nexo/1/kp-aad",
        &[
            context.origin.as_bytes(),
            context.sender.account.as_bytes(),
            context.sender.device.device_id().as_bytes(),
            to_account.as_bytes(),
            to_device.as_bytes(),
            context.conversation.as_bytes(),
            context.message.as_bytes(),
            digest.as_bytes(),
            header,
        ],
    )
}

/// What one recipient adds to the envelope: its device and `H(kp)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientHash {
    /// The addressed device.
    pub device: DeviceId,
    /// SHA-256 of its key packet.
    pub packet: [u8; 32],
}

impl RecipientHash {
    /// Hashes the key packet `packet` for `device`.
    #[must_use]
    pub fn of(device: DeviceId, packet: &[u8]) -> Self {
        Self { device, packet: kdf::hash(packet) }
    }
}

/// Why recipients make no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecipientsRefused {
    /// Nobody is addressed.
    #[error("a message needs a recipient")]
    None,
    /// More than [`MAX_RECIPIENTS`].
    #[error("{0} devices are addressed, {MAX_RECIPIENTS} is the most")]
    TooMany(usize),
    /// One device is addressed twice, so its packet would not be determined.
    #[error("device {0} is addressed twice")]
    Twice(DeviceId),
}

/// `EH`. The recipients may be given in any order.
///
/// # Errors
/// [`RecipientsRefused`].
pub fn envelope_hash(
    payload_aad: &[u8],
    digest: &PayloadDigest,
    recipients: &[RecipientHash],
) -> Result<EnvelopeHash, RecipientsRefused> {
    check_recipients(recipients.iter().map(|recipient| recipient.device))?;
    let mut recipients = recipients.to_vec();
    recipients.sort_unstable_by_key(|recipient| recipient.device);
    let packets: Vec<_> = recipients
        .iter()
        .map(|recipient| (*recipient.device.as_bytes(), recipient.packet))
        .collect();
    let text = bytes::envelope(payload_aad, digest.as_bytes(), &packets);
    Ok(EnvelopeHash::from_bytes(kdf::hash(&text)))
}

/// Between one and [`MAX_RECIPIENTS`] devices, each once.
pub(super) fn check_recipients(
    devices: impl Iterator<Item = DeviceId>,
) -> Result<(), RecipientsRefused> {
    let mut devices: Vec<_> = devices.collect();
    match devices.len() {
        0 => return Err(RecipientsRefused::None),
        1..=MAX_RECIPIENTS => {}
        more => return Err(RecipientsRefused::TooMany(more)),
    }
    devices.sort_unstable();
    match devices.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(RecipientsRefused::Twice(pair[0])),
        None => Ok(()),
    }
}

/// The log entry of a message.
#[must_use]
pub fn message_leaf(envelope: EnvelopeHash) -> Vec<u8> {
    entry::message(envelope.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::dec;

    fn recipient(n: u8) -> RecipientHash {
        RecipientHash::of(DeviceId::from_bytes([n; 32]), &[n])
    }

    #[test]
    fn the_envelope_hash_depends_on_every_recipient_and_not_on_their_order() {
        let digest = PayloadDigest::of(b"aad", b"sealed");
        let hash = |recipients: &[RecipientHash]| envelope_hash(b"aad", &digest, recipients);
        let both = hash(&[recipient(1), recipient(2)]).unwrap();
        assert_eq!(hash(&[recipient(2), recipient(1)]), Ok(both));
        assert_ne!(hash(&[recipient(1)]), Ok(both));
        assert_ne!(hash(&[recipient(1), recipient(3)]), Ok(both));
        let swapped = RecipientHash { packet: recipient(3).packet, ..recipient(2) };
        assert_ne!(hash(&[recipient(1), swapped]), Ok(both));
        let other = PayloadDigest::of(b"aad", b"sealee");
        assert_ne!(envelope_hash(b"aad", &other, &[recipient(1), recipient(2)]), Ok(both));
        assert_ne!(envelope_hash(b"aae", &digest, &[recipient(1), recipient(2)]), Ok(both));
    }

    #[test]
    fn recipients_are_counted_and_unique() {
        let digest = PayloadDigest::of(b"", b"");
        let hash = |recipients: &[RecipientHash]| envelope_hash(b"", &digest, recipients);
        let many: Vec<_> = (0..65).map(recipient).collect();
        assert!(hash(&many[..64]).is_ok());
        assert_eq!(hash(&many), Err(RecipientsRefused::TooMany(65)));
        assert_eq!(hash(&[]), Err(RecipientsRefused::None));
        let twice = [recipient(1), recipient(2), recipient(1)];
        assert_eq!(hash(&twice), Err(RecipientsRefused::Twice(recipient(1).device)));
    }

    #[test]
    fn the_leaf_is_kind_and_hash() {
        let leaf = message_leaf(EnvelopeHash::from_bytes([9; 32]));
        assert_eq!(dec::<2>("nexo/1/leaf", &leaf), Ok([&[2][..], &[9; 32][..]]));
    }
}
