//! One-shot messages: each one a handshake of its own to the receiver's fallback
//! prekey, with no session before or after (design/e2ee.md 2.15).
//!
//! ```text
//! MK     = HKDF-Expand(RK0, enc("nexo/1/oneshot", [session_id]), 32)
//! sealed = nx_seal(CEK, "nexo/1/payload", aad_pay, pad(body))
//! kp_B   = header || nx_seal(MK_B, "nexo/1/keypacket", aad_kp_B, CEK)        for each device B
//! ```
//!
//! The price of keeping no state: a message becomes unreadable to a thief of the
//! receiver's keys only when the receiver deletes that prekey (at most 37 days),
//! and the receiver cannot see that a message is missing. A repeated message is
//! not noticed here either: the caller keeps [`Opened::replay`] for as long as the
//! prekey and drops what it has seen, and it keeps `(device, message id)`.

use super::envelope::{
    MessageContext, PayloadDigest, RecipientHash, RecipientsRefused, check_recipients,
    message_leaf, packet_aad,
};
use super::ids::{AccountId, DeviceId, EnvelopeHash};
use super::kdf;
use super::keys::{DhPublic, FallbackSecret, LocalParty};
use super::packet::{KeyPacket, one_shot_header};
use super::padding::BodyTooLong;
use super::payload::{Outgoing, Payload, PayloadBroken, Received};
use super::pqxdh::{self, Handshake, HandshakeRandomness, HandshakeRefused};
use super::prekey::FallbackPrekey;
use super::seal::{Purpose, nx_open, nx_seal};
use nexo_schema::bytes::enc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A device to write to: its verified account and verified prekey. It may be the
/// sender's own device (notes to self).
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The account the device belongs to.
    pub account: AccountId,
    /// The prekey, which names the device.
    pub fallback: &'a FallbackPrekey,
}

/// The random bytes of one message. Taken by value, so they serve one message.
pub struct OneShotRandomness {
    content_key: Zeroizing<[u8; 32]>,
    payload_hedge: [u8; 32],
    packets: Vec<PacketRandomness>,
}

pub(super) struct PacketRandomness {
    pub(super) handshake: HandshakeRandomness,
    pub(super) hedge: [u8; 32],
}

impl OneShotRandomness {
    /// Draws the bytes for a message to `recipients` devices. `fill` overwrites a
    /// buffer from a cryptographic random generator and is called for, in this
    /// order: content key, hedge of the payload, then for each recipient X25519
    /// secret, ML-KEM `m`, hedge of its packet (each 32 bytes).
    ///
    /// # Errors
    /// Whatever `fill` returns.
    pub fn draw<E>(
        recipients: usize,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut content_key = Zeroizing::new([0; 32]);
        fill(content_key.as_mut())?;
        let mut payload_hedge = [0; 32];
        fill(&mut payload_hedge)?;
        let mut packets = Vec::with_capacity(recipients);
        for _ in 0..recipients {
            let mut handshake = HandshakeRandomness { ephemeral: [0; 32], kem: [0; 32] };
            fill(&mut handshake.ephemeral)?;
            fill(&mut handshake.kem)?;
            let mut hedge = [0; 32];
            fill(&mut hedge)?;
            packets.push(PacketRandomness { handshake, hedge });
        }
        Ok(Self { content_key, payload_hedge, packets })
    }
}

/// Why a message is not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealRefused {
    /// Too many recipients, none, or one twice.
    #[error(transparent)]
    Recipients(#[from] RecipientsRefused),
    /// The body does not fit inline.
    #[error(transparent)]
    Body(#[from] BodyTooLong),
    /// A device's prekey allows no key agreement.
    #[error("no handshake with device {device}: {reason}")]
    Handshake {
        /// The device whose prekey is to blame.
        device: DeviceId,
        /// Why.
        reason: HandshakeRefused,
    },
    /// The randomness was drawn for another number of recipients.
    #[error("random bytes were drawn for {drawn} recipients, there are {recipients}")]
    Randomness {
        /// Recipients the bytes suffice for.
        drawn: usize,
        /// Recipients given.
        recipients: usize,
    },
}

/// A sealed message, ready for the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedMessage {
    /// The common payload.
    pub sealed: Vec<u8>,
    /// One key packet for each device, in device id order.
    pub packets: Vec<(DeviceId, Vec<u8>)>,
    /// `EH`, which a retry must repeat.
    pub envelope: EnvelopeHash,
}

impl SealedMessage {
    /// The log entry the relay must make of it.
    #[must_use]
    pub fn leaf(&self) -> Vec<u8> {
        message_leaf(self.envelope)
    }
}

/// Seals `outgoing` from this device to all `recipients`.
///
/// # Errors
/// [`SealRefused`]; nothing is returned for some recipients only.
pub fn seal_oneshot(
    sender: &LocalParty<'_>,
    outgoing: &Outgoing<'_>,
    recipients: &[Recipient<'_>],
    randomness: OneShotRandomness,
) -> Result<SealedMessage, SealRefused> {
    check_recipients(recipients.iter().map(|to| to.fallback.device().device_id()))?;
    let OneShotRandomness { content_key, payload_hedge, packets: draws } = randomness;
    if draws.len() != recipients.len() {
        return Err(SealRefused::Randomness { drawn: draws.len(), recipients: recipients.len() });
    }
    let context = outgoing.context(sender);
    let payload = Payload::seal(&context, outgoing.body, &content_key, &payload_hedge)?;
    let mut packets = Vec::with_capacity(recipients.len());
    for (to, draw) in recipients.iter().zip(draws) {
        packets.push(seal_packet(sender, &context, &payload.digest, &content_key, to, &draw)?);
    }
    Ok(payload.with(packets)?)
}

pub(super) fn seal_packet(
    sender: &LocalParty<'_>,
    context: &MessageContext<'_>,
    digest: &PayloadDigest,
    content_key: &[u8; 32],
    to: &Recipient<'_>,
    draw: &PacketRandomness,
) -> Result<(DeviceId, Vec<u8>), SealRefused> {
    let device = to.fallback.device().device_id();
    let (block, handshake) =
        pqxdh::initiate(context.origin, sender, to.account, to.fallback, None, &draw.handshake)
            .map_err(|reason| SealRefused::Handshake { device, reason })?;
    let mut packet = one_shot_header(handshake.session_id(), &block);
    let aad = packet_aad(context, to.account, device, digest, &packet);
    let key = message_key(&handshake);
    packet.extend(nx_seal(&key, Purpose::KeyPacket, &aad, content_key, &draw.hedge));
    Ok((device, packet))
}

/// `MK` of a one-shot message.
pub(super) fn message_key(handshake: &Handshake) -> Zeroizing<[u8; 32]> {
    let info = enc("nexo/1/oneshot", &[handshake.session_id().as_bytes()]);
    kdf::hkdf_expand(handshake.root_key(), &info)
}

/// A message as the relay delivered it to this device.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Relay, conversation, message id and sender, as the caller has verified them:
    /// the sender's device is active in its account's chain, and both accounts
    /// belong to the conversation.
    pub context: MessageContext<'a>,
    /// The common payload.
    pub sealed: &'a [u8],
    /// This device's key packet.
    pub packet: &'a KeyPacket<'a>,
    /// Device and packet hash of every other recipient.
    pub others: &'a [RecipientHash],
}

impl Incoming<'_> {
    /// `EH` as it follows from what was delivered to device `me`. The caller
    /// compares the entry [`message_leaf`] makes of it with the log.
    ///
    /// # Errors
    /// [`RecipientsRefused`], also if `me` is among the others.
    pub fn envelope_hash(&self, me: DeviceId) -> Result<EnvelopeHash, RecipientsRefused> {
        let payload = Received::of(&self.context, self.sealed);
        payload.envelope(RecipientHash::of(me, self.packet.bytes()), self.others)
    }
}

/// Why a message is not opened. Nothing has changed anywhere by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// The list of recipients is malformed.
    #[error(transparent)]
    Recipients(#[from] RecipientsRefused),
    /// The secret given is not of the prekey the packet names; the caller looks it
    /// up by `packet.block().fallback_id` and finds none when it has been deleted.
    #[error("the message was sealed to fallback prekey {named}")]
    OtherPrekey {
        /// The id in the packet.
        named: u32,
    },
    /// A key of small order was sent.
    #[error("a key of the handshake has small order")]
    NonContributory,
    /// The message is not what this sender sealed for this device, in any respect.
    #[error("the message does not open")]
    Broken,
}

impl OpenRefused {
    fn of_handshake(reason: HandshakeRefused, named: u32) -> Self {
        match reason {
            HandshakeRefused::NonContributory => Self::NonContributory,
            HandshakeRefused::WrongPrekey => Self::OtherPrekey { named },
        }
    }
}

/// What identifies a one-shot handshake. Two messages with an equal key are one
/// message, delivered twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayKey {
    /// The fallback prekey; when it is deleted its entries may be, too.
    pub fallback_id: u32,
    /// `EK_A`.
    pub ephemeral: DhPublic,
}

/// An opened message.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The body the sender sealed.
    pub body: Zeroizing<Vec<u8>>,
    /// `EH`; see [`Incoming::envelope_hash`].
    pub envelope: EnvelopeHash,
    /// What the replay table keeps.
    pub replay: ReplayKey,
}

/// Opens `incoming`, which was addressed to this device, with the secret of the
/// fallback prekey that its packet names.
///
/// # Errors
/// [`OpenRefused`]; everything that depends on a secret is [`OpenRefused::Broken`].
pub fn open_oneshot(
    me: &LocalParty<'_>,
    fallback: &FallbackSecret,
    incoming: &Incoming<'_>,
) -> Result<Opened, OpenRefused> {
    let Incoming { context, sealed, packet, .. } = incoming;
    let device = me.secret.public().device_id();
    let payload = Received::of(context, sealed);
    let mine = RecipientHash::of(device, packet.bytes());
    let envelope = payload.envelope(mine, incoming.others)?;
    if payload.is_too_long() {
        return Err(OpenRefused::Broken);
    }
    let block = packet.block();
    let handshake = pqxdh::respond(context.origin, &context.sender, me, fallback, None, block)
        .map_err(|reason| OpenRefused::of_handshake(reason, block.fallback_id))?;
    let content_key = open_packet(me, context, &payload.digest, packet, &handshake)?;
    Ok(Opened {
        body: payload.open(&content_key).map_err(|PayloadBroken| OpenRefused::Broken)?,
        envelope,
        replay: ReplayKey { fallback_id: block.fallback_id, ephemeral: block.ephemeral },
    })
}

fn open_packet(
    me: &LocalParty<'_>,
    context: &MessageContext<'_>,
    digest: &PayloadDigest,
    packet: &KeyPacket<'_>,
    handshake: &Handshake,
) -> Result<Zeroizing<[u8; 32]>, OpenRefused> {
    let to = me.party();
    let aad = packet_aad(context, to.account, to.device.device_id(), digest, packet.header());
    let key = message_key(handshake);
    let opened = nx_open(&key, Purpose::KeyPacket, &aad, packet.sealed_key());
    let same = handshake.session_id().as_bytes().ct_eq(packet.session_id().as_bytes());
    match opened {
        Ok(opened) if bool::from(same) => {
            let content_key = opened[..].try_into().map_err(|_| OpenRefused::Broken)?;
            Ok(Zeroizing::new(content_key))
        }
        _ => Err(OpenRefused::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::ids::{ConversationId, MessageId};
    use crate::e2ee::keys::DeviceSecret;
    use crate::e2ee::padding::{MAX_PADDED, pad};
    use crate::e2ee::prekey::{SignedFallback, Validity};

    const ORIGIN: &str = "relay.example.org";

    struct Scene {
        alice: DeviceSecret,
        bob: DeviceSecret,
        fallback: FallbackSecret,
        prekey: FallbackPrekey,
    }

    impl Scene {
        fn new() -> Self {
            let bob = DeviceSecret::from_seed(&[2; 32]);
            let fallback = FallbackSecret::from_seeds(7, [3; 32], [4; 64]);
            let window = Validity::longest(0).unwrap();
            let prekey = SignedFallback::sign(&bob, ORIGIN, &fallback, window)
                .verify(ORIGIN, &bob.public(), 1)
                .unwrap();
            Self { alice: DeviceSecret::from_seed(&[1; 32]), bob, fallback, prekey }
        }

        fn alice(&self) -> LocalParty<'_> {
            LocalParty { account: AccountId::from_bytes([1; 32]), secret: &self.alice }
        }

        fn bob(&self) -> LocalParty<'_> {
            LocalParty { account: AccountId::from_bytes([2; 32]), secret: &self.bob }
        }

        fn context(&self) -> MessageContext<'static> {
            MessageContext {
                origin: ORIGIN,
                conversation: ConversationId::from_bytes([4; 32]),
                message: MessageId::from_bytes([5; 16]),
                sender: self.alice().party(),
            }
        }

        fn draw() -> PacketRandomness {
            let handshake = HandshakeRandomness { ephemeral: [8; 32], kem: [9; 32] };
            PacketRandomness { handshake, hedge: [10; 32] }
        }

        fn open(&self, sealed: &[u8], packet: &[u8]) -> Result<Vec<u8>, OpenRefused> {
            let packet = KeyPacket::parse(packet).unwrap();
            let context = self.context();
            let incoming = Incoming { context, sealed, packet: &packet, others: &[] };
            open_oneshot(&self.bob(), &self.fallback, &incoming).map(|opened| opened.body.to_vec())
        }
    }

    const KEY: [u8; 32] = [6; 32];

    /// What Bob makes of a message in which Alice, who may be malicious, seals
    /// `plaintext` as it stands.
    fn opened(plaintext: &[u8], break_tag: bool) -> Result<Vec<u8>, OpenRefused> {
        let scene = Scene::new();
        let aad = scene.context().payload_aad();
        let mut sealed = nx_seal(&KEY, Purpose::Payload, &aad, plaintext, &[7; 32]);
        if break_tag {
            *sealed.last_mut().unwrap() ^= 1;
        }
        let digest = PayloadDigest::of(&aad, &sealed);
        let to = Recipient { account: scene.bob().account, fallback: &scene.prekey };
        let draw = Scene::draw();
        let (_, packet) =
            seal_packet(&scene.alice(), &scene.context(), &digest, &KEY, &to, &draw).unwrap();
        scene.open(&sealed, &packet)
    }

    #[test]
    fn a_sender_cannot_name_another_session_than_the_one_it_made() {
        let scene = Scene::new();
        let (alice, context) = (scene.alice(), scene.context());
        let aad = context.payload_aad();
        let plaintext = pad(b"hi").unwrap();
        let sealed = nx_seal(&KEY, Purpose::Payload, &aad, &plaintext, &[7; 32]);
        let digest = PayloadDigest::of(&aad, &sealed);
        let bob = scene.bob().party();
        let (block, handshake) = pqxdh::initiate(
            ORIGIN,
            &alice,
            bob.account,
            &scene.prekey,
            None,
            &Scene::draw().handshake,
        )
        .unwrap();
        let honest = handshake.session_id();
        for session in [honest, crate::e2ee::SessionId::from_bytes([0; 16])] {
            // The packet is authentic in every other respect.
            let mut packet = one_shot_header(session, &block);
            let aad = packet_aad(&context, bob.account, bob.device.device_id(), &digest, &packet);
            let key = message_key(&handshake);
            packet.extend(nx_seal(&key, Purpose::KeyPacket, &aad, &KEY, &[1; 32]));
            let want =
                if session == honest { Ok(b"hi".to_vec()) } else { Err(OpenRefused::Broken) };
            assert_eq!(scene.open(&sealed, &packet), want);
        }
    }

    #[test]
    fn d7_bad_padding_and_a_bad_tag_look_alike() {
        let good = pad(b"hello").unwrap();
        assert_eq!(opened(&good, false).as_deref(), Ok(&b"hello"[..]));
        let broken = Err(OpenRefused::Broken);
        assert_eq!(opened(&good, true), broken);
        let mut nonzero = good.clone();
        nonzero[200] = 1;
        assert_eq!(opened(&nonzero, false), broken);
        let mut long = good.clone();
        long[..4].copy_from_slice(&253u32.to_be_bytes());
        assert_eq!(opened(&long, false), broken);
        assert_eq!(opened(&good[..100], false), broken);
        assert_eq!(opened(&[], false), broken);
        assert_eq!(opened(&vec![0; MAX_PADDED + 256], false), broken);
    }
}
