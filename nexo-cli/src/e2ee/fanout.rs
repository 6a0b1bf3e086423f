//! One message to many devices: one payload, and for each device a key packet in
//! its session, in a new session, or one-shot (design/e2ee.md 2.11, 2.13).
//!
//! Addressed are all devices of all participants, the sender's other devices too;
//! who they are is the caller's to know. [`seal_fanout`] gives nothing for some of
//! them only, and changes nothing: it returns the sessions that follow. The caller
//! stores those and the message in one transaction before any byte leaves, and
//! sends the stored bytes again when it must; a message key never seals twice.

use super::chain::Key;
use super::envelope::{
    MessageContext, PayloadDigest, RecipientsRefused, check_recipients, packet_aad,
};
use super::ids::DeviceId;
use super::keys::LocalParty;
use super::oneshot::{PacketRandomness, Recipient, SealRefused, SealedMessage, seal_packet};
use super::padding::BodyTooLong;
use super::payload::{Outgoing, Payload};
use super::pqxdh::{HandshakeRandomness, HandshakeRefused};
use super::ratchet::ChainRefused;
use super::resend::KeptMessage;
use super::seal::{Purpose, nx_seal};
use super::session::{InitiateRefused, Peer, Prekeys, Session, SessionRandomness};
use super::sessions::{HandshakeDue, Sessions};
use std::fmt;
use zeroize::Zeroizing;

/// A device to write to, as far as the caller has verified it.
#[derive(Debug, Clone, Copy)]
pub enum Address<'a> {
    /// In a session: the one in use, or a new one if
    /// [`Sessions::handshake_due`] says so.
    Session {
        /// The device.
        to: Peer,
        /// The sessions with it.
        sessions: &'a Sessions,
        /// Its prekeys; needed if a handshake is due, and ignored if not.
        prekeys: Option<Prekeys<'a>>,
    },
    /// Without a session, from a device that keeps none or to this very device.
    OneShot(Recipient<'a>),
}

impl Address<'_> {
    /// The device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        match self {
            Self::Session { to, .. } => to.device,
            Self::OneShot(to) => to.fallback.device().device_id(),
        }
    }

    /// The device with its account.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self {
            Self::Session { to, .. } => *to,
            Self::OneShot(to) => Peer { account: to.account, device: self.device() },
        }
    }
}

/// The random bytes of one message. Taken by value, so they serve one message.
pub struct FanoutRandomness {
    content_key: Key,
    payload_hedge: [u8; 32],
    packets: Vec<PacketDraw>,
}

/// The random bytes of one key packet, whatever its type.
pub struct PacketDraw {
    pub(super) session: SessionRandomness,
    pub(super) hedge: [u8; 32],
}

impl PacketDraw {
    /// Draws the bytes of one packet; `fill` is as for [`FanoutRandomness::draw`].
    ///
    /// # Errors
    /// Whatever `fill` returns.
    pub fn draw<E>(mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut session = SessionRandomness { ephemeral: [0; 32], kem: [0; 32], ratchet: [0; 32] };
        fill(&mut session.ephemeral)?;
        fill(&mut session.kem)?;
        fill(&mut session.ratchet)?;
        let mut hedge = [0; 32];
        fill(&mut hedge)?;
        Ok(Self { session, hedge })
    }
}

impl FanoutRandomness {
    /// Draws the bytes for a message to `devices` devices. `fill` overwrites a
    /// buffer from a cryptographic random generator and is called for, in this
    /// order: content key, hedge of the payload, then for each device X25519 secret
    /// and ML-KEM `m` of a handshake, ratchet key, hedge of its packet (each 32
    /// bytes). They are drawn whether a packet needs all of them or not.
    ///
    /// # Errors
    /// Whatever `fill` returns.
    pub fn draw<E>(
        devices: usize,
        mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut content_key = Key::default();
        fill(content_key.as_mut())?;
        let mut payload_hedge = [0; 32];
        fill(&mut payload_hedge)?;
        let packets: Result<_, E> = (0..devices).map(|_| PacketDraw::draw(&mut fill)).collect();
        Ok(Self { content_key, payload_hedge, packets: packets? })
    }
}

/// Why no packet is made for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketRefused {
    /// A handshake is due and the caller gave no prekeys.
    #[error("a handshake is due")]
    NeedsPrekeys(HandshakeDue),
    /// The sessions given are with another device.
    #[error("the sessions are with another device")]
    OtherDevice,
    /// This is the sending device; only notes to self go there, one-shot.
    #[error(transparent)]
    Initiate(#[from] InitiateRefused),
    /// The session gives no key.
    #[error(transparent)]
    Chain(#[from] ChainRefused),
}

/// Why a message is not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FanoutRefused {
    /// Too many devices, none, or one twice.
    #[error(transparent)]
    Recipients(#[from] RecipientsRefused),
    /// The body does not fit inline.
    #[error(transparent)]
    Body(#[from] BodyTooLong),
    /// One device cannot be written to.
    #[error("no key packet for device {device}: {reason}")]
    Packet {
        /// The device.
        device: DeviceId,
        /// Why.
        reason: PacketRefused,
    },
    /// The randomness was drawn for another number of devices.
    #[error("random bytes were drawn for {drawn} devices, there are {devices}")]
    Randomness {
        /// Devices the bytes suffice for.
        drawn: usize,
        /// Devices given.
        devices: usize,
    },
}

/// A sealed message and what has to be stored with it before it leaves.
pub struct Fanout {
    /// What goes to the relay.
    pub message: SealedMessage,
    /// The sessions of each device that is written to in one, after this message.
    pub sessions: Vec<(Peer, Sessions)>,
    /// What is kept to answer retries; secret.
    pub kept: KeptMessage,
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fanout({}, {} packets)", self.message.envelope, self.message.packets.len())
    }
}

/// Seals `outgoing` from this device to all of `to`; `now` in Unix seconds.
///
/// # Errors
/// [`FanoutRefused`]; then nothing has been used up.
pub fn seal_fanout(
    sender: &LocalParty<'_>,
    outgoing: &Outgoing<'_>,
    to: &[Address<'_>],
    randomness: FanoutRandomness,
    now: u64,
) -> Result<Fanout, FanoutRefused> {
    check_recipients(to.iter().map(Address::device))?;
    let FanoutRandomness { content_key, payload_hedge, packets: draws } = randomness;
    if draws.len() != to.len() {
        return Err(FanoutRefused::Randomness { drawn: draws.len(), devices: to.len() });
    }
    let context = outgoing.context(sender);
    let payload = Payload::seal(&context, outgoing.body, &content_key, &payload_hedge)?;
    let (mut packets, mut sessions) = (Vec::with_capacity(to.len()), Vec::new());
    let sealer = PacketSealer { sender, context, digest: payload.digest, content_key, now };
    for (address, draw) in to.iter().zip(draws) {
        let device = address.device();
        let sealed = sealer.seal(address, &draw);
        let (packet, after) = sealed.map_err(|reason| FanoutRefused::Packet { device, reason })?;
        packets.push((device, packet));
        sessions.extend(after.map(|after| (address.peer(), after)));
    }
    let kept = KeptMessage::new(&sealer, to.iter().map(Address::peer));
    Ok(Fanout { message: payload.with(packets)?, sessions, kept })
}

/// What all key packets of a message have in common.
pub(super) struct PacketSealer<'a> {
    pub(super) sender: &'a LocalParty<'a>,
    pub(super) context: MessageContext<'a>,
    pub(super) digest: PayloadDigest,
    pub(super) content_key: Key,
    pub(super) now: u64,
}

impl PacketSealer<'_> {
    /// The packet for one device, and its sessions afterwards if it has any.
    pub(super) fn seal(
        &self,
        to: &Address<'_>,
        draw: &PacketDraw,
    ) -> Result<(Vec<u8>, Option<Sessions>), PacketRefused> {
        match to {
            Address::OneShot(recipient) => self.one_shot(recipient, draw).map(|kp| (kp, None)),
            Address::Session { to, sessions, prekeys } => {
                let session = self.session(*to, sessions, prekeys.as_ref(), &draw.session)?;
                let (packet, after) = self.in_session(*to, &session, draw)?;
                Ok((packet, Some(sessions.sent(after, self.now))))
            }
        }
    }

    fn one_shot(&self, to: &Recipient<'_>, draw: &PacketDraw) -> Result<Vec<u8>, PacketRefused> {
        let SessionRandomness { ephemeral, kem, .. } = draw.session;
        let handshake = HandshakeRandomness { ephemeral, kem };
        let draw = PacketRandomness { handshake, hedge: draw.hedge };
        let key = &self.content_key;
        match seal_packet(self.sender, &self.context, &self.digest, key, to, &draw) {
            Ok((_, packet)) => Ok(packet),
            Err(SealRefused::Handshake { reason, .. }) => Err(InitiateRefused::from(reason).into()),
            // No other reason concerns one packet.
            Err(_) => Err(InitiateRefused::from(HandshakeRefused::WrongPrekey).into()),
        }
    }

    /// The session to write in: the one in use, or a new one.
    fn session(
        &self,
        to: Peer,
        sessions: &Sessions,
        prekeys: Option<&Prekeys<'_>>,
        draw: &SessionRandomness,
    ) -> Result<Session, PacketRefused> {
        if sessions.held().iter().any(|session| session.peer() != to) {
            return Err(PacketRefused::OtherDevice);
        }
        let Some(due) = sessions.handshake_due(self.now) else {
            let active = sessions.active().cloned();
            return active.ok_or(PacketRefused::NeedsPrekeys(HandshakeDue::FirstContact));
        };
        let prekeys = prekeys.ok_or(PacketRefused::NeedsPrekeys(due))?;
        if prekeys.fallback.device().device_id() != to.device {
            return Err(PacketRefused::OtherDevice);
        }
        let old = sessions.predecessor();
        let (origin, sender) = (self.context.origin, self.sender);
        let session = Session::initiate(origin, sender, to.account, prekeys, old, draw, self.now)?;
        Ok(sessions.started(session))
    }

    fn in_session(
        &self,
        to: Peer,
        session: &Session,
        draw: &PacketDraw,
    ) -> Result<(Vec<u8>, Session), PacketRefused> {
        let (after, sealing) = session.send(&draw.session, self.now)?;
        let mut packet = sealing.header;
        let aad = packet_aad(&self.context, to.account, to.device, &self.digest, &packet);
        let mut secret = Zeroizing::new(Vec::with_capacity(64));
        secret.extend_from_slice(&self.content_key[..]);
        secret.extend_from_slice(sealing.proof.as_ref().map_or(&[], |proof| &proof[..]));
        packet.extend(nx_seal(&sealing.key, Purpose::KeyPacket, &aad, &secret, &draw.hedge));
        Ok((packet, after))
    }
}
