//! The common part of a message: one body, padded and sealed once under a content
//! key that every addressed device gets in a packet of its own (design/e2ee.md 2.11).
//!
//! How a device gets the content key is not known here: see [`super::oneshot`] and
//! [`super::fanout`].

use super::envelope::{
    MessageContext, PayloadDigest, RecipientHash, RecipientsRefused, envelope_hash,
};
use super::ids::{ConversationId, DeviceId, EnvelopeHash, MessageId};
use super::keys::LocalParty;
use super::oneshot::SealedMessage;
use super::padding::{BodyTooLong, MAX_PADDED, pad, unpad};
use super::seal::{Purpose, SEAL_OVERHEAD, nx_open, nx_seal};
use zeroize::Zeroizing;

/// A message to be sealed.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// The relay's origin string.
    pub origin: &'a str,
    /// The conversation; for a direct one see [`ConversationId::direct`].
    pub conversation: ConversationId,
    /// The id; a retry under the same id must send the stored bytes, not new ones.
    pub message: MessageId,
    /// The body, at most [`super::padding::MAX_BODY`] bytes.
    pub body: &'a [u8],
}

impl<'a> Outgoing<'a> {
    pub(super) fn context(&self, sender: &LocalParty<'_>) -> MessageContext<'a> {
        MessageContext {
            origin: self.origin,
            conversation: self.conversation,
            message: self.message,
            sender: sender.party(),
        }
    }
}

/// A sealed payload without packets.
pub(super) struct Payload {
    aad: Vec<u8>,
    sealed: Vec<u8>,
    pub(super) digest: PayloadDigest,
}

impl Payload {
    pub(super) fn seal(
        context: &MessageContext<'_>,
        body: &[u8],
        content_key: &[u8; 32],
        hedge: &[u8; 32],
    ) -> Result<Self, BodyTooLong> {
        let (aad, plaintext) = (context.payload_aad(), pad(body)?);
        let sealed = nx_seal(content_key, Purpose::Payload, &aad, &plaintext, hedge);
        let digest = PayloadDigest::of(&aad, &sealed);
        Ok(Self { aad, sealed, digest })
    }

    /// The whole message.
    pub(super) fn with(
        self,
        mut packets: Vec<(DeviceId, Vec<u8>)>,
    ) -> Result<SealedMessage, RecipientsRefused> {
        packets.sort_unstable_by_key(|(device, _)| *device);
        let hashes: Vec<_> =
            packets.iter().map(|(device, packet)| RecipientHash::of(*device, packet)).collect();
        let envelope = envelope_hash(&self.aad, &self.digest, &hashes)?;
        Ok(SealedMessage { sealed: self.sealed, packets, envelope })
    }
}

/// A payload that is not what its content key sealed. One reason for every cause.
pub(super) struct PayloadBroken;

/// A received payload with what binds it.
pub(super) struct Received<'a> {
    aad: Vec<u8>,
    sealed: &'a [u8],
    pub(super) digest: PayloadDigest,
}

impl<'a> Received<'a> {
    pub(super) fn of(context: &MessageContext<'_>, sealed: &'a [u8]) -> Self {
        let aad = context.payload_aad();
        let digest = PayloadDigest::of(&aad, sealed);
        Self { aad, sealed, digest }
    }

    /// `EH`, with the hash of the packet for this device among the others'.
    pub(super) fn envelope(
        &self,
        mine: RecipientHash,
        others: &[RecipientHash],
    ) -> Result<EnvelopeHash, RecipientsRefused> {
        let mut all = others.to_vec();
        all.push(mine);
        envelope_hash(&self.aad, &self.digest, &all)
    }

    /// Whether it is longer than any payload.
    pub(super) fn is_too_long(&self) -> bool {
        self.sealed.len() > MAX_PADDED + SEAL_OVERHEAD
    }

    pub(super) fn open(&self, content_key: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, PayloadBroken> {
        let opened = nx_open(content_key, Purpose::Payload, &self.aad, self.sealed);
        let plaintext = opened.map_err(|_| PayloadBroken)?;
        let body = unpad(&plaintext).map_err(|_| PayloadBroken)?;
        Ok(Zeroizing::new(body.to_vec()))
    }
}
