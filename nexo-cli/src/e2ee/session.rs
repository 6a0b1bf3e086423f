//! One session with one device of a peer: handshake, ratchet and what is needed to
//! replace it (design/e2ee.md 2.8, 2.9, 2.14).
//!
//! A [`Session`] is a value. Sending and receiving return the session that follows
//! and leave the old one as it was, so a caller that stores the new one in the same
//! transaction as the message has either both or neither. Which session of a device
//! is in use, and when the next one is due, is [`super::sessions`]'; how it is
//! stored is [`super::session_state`]'s.
//!
//! ```text
//! continuity = HMAC-SHA256(CONT0 of the old session, enc("nexo/1/continuity", [TH of the new one]))
//! ```
//!
//! Who replaces a session shows with it that they still hold the old one. The
//! initiator repeats handshake and proof with every message until it has opened one
//! of the peer's.

use super::chain::Key;
use super::ids::{AccountId, DeviceId, SessionId};
use super::kdf;
use super::keys::{FallbackSecret, LocalParty, OneTimeSecret, Party};
use super::packet::{PrekeyBlock, header_bytes};
use super::pqxdh::{self, Handshake, HandshakeRandomness, HandshakeRefused};
use super::prekey::{FallbackPrekey, OneTimePrekey};
use super::ratchet::{ChainRefused, Place, Ratchet};
use super::session_packet::{TYPE_PREKEY, TYPE_RATCHET};
use nexo_schema::bytes::enc;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A device as one end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The account it belongs to.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
}

impl From<&Party> for Peer {
    fn from(party: &Party) -> Self {
        Self { account: party.account, device: party.device.device_id() }
    }
}

/// The verified prekeys of a device that a session is to be started with.
#[derive(Debug, Clone, Copy)]
pub struct Prekeys<'a> {
    /// The fallback prekey, which names the device.
    pub fallback: &'a FallbackPrekey,
    /// The one-time prekey, if the relay gave one. Without it the first messages
    /// become safe from a thief of the peer's keys later.
    pub one_time: Option<&'a OneTimePrekey>,
}

/// The secrets of own prekeys that a handshake names.
#[derive(Debug, Clone, Copy)]
pub struct PrekeySecrets<'a> {
    /// The fallback prekey.
    pub fallback: &'a FallbackSecret,
    /// The one-time prekey, if one is named and still held.
    pub one_time: Option<&'a OneTimeSecret>,
}

/// The random bytes of one key packet: what a handshake takes, if one is due, and
/// the next ratchet key. Used once, wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SessionRandomness {
    /// The secret of `EK_A`.
    pub ephemeral: [u8; 32],
    /// The `m` of ML-KEM encapsulation.
    pub kem: [u8; 32],
    /// The secret of the next ratchet key.
    pub ratchet: [u8; 32],
}

/// Why no session is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InitiateRefused {
    /// The prekey is of this very device; notes to self are one-shot.
    #[error("a device has no session with itself")]
    WithSelf,
    /// The prekeys allow no key agreement.
    #[error(transparent)]
    Handshake(#[from] HandshakeRefused),
}

/// What the initiator repeats until it is answered.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) block: PrekeyBlock,
    pub(super) proof: Option<[u8; 32]>,
}

/// Where a session stands among those with the same device.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    /// One more than the session that it replaced; 1 for a first one.
    pub(super) generation: u32,
    /// Since when it has been for receiving only, Unix seconds.
    pub(super) retired_at: Option<u64>,
    /// The peer has said that it does not hold it.
    pub(super) given_up: bool,
}

impl Standing {
    pub(super) const FIRST: Self = Self { generation: 1, retired_at: None, given_up: false };
}

/// One side of a session. Secret; no `Debug` of its contents, wiped when dropped.
#[derive(Clone)]
pub struct Session {
    pub(super) peer: Peer,
    pub(super) transcript: [u8; 32],
    pub(super) continuity: Key,
    pub(super) opening: Option<Opening>,
    pub(super) ratchet: Ratchet,
    pub(super) standing: Standing,
}

/// What one message of a session is sealed with.
pub(super) struct Sealing {
    pub(super) header: Vec<u8>,
    pub(super) key: Key,
    pub(super) proof: Option<[u8; 32]>,
}

impl Session {
    /// Starts a session with the device that signed `prekeys`, whose account is
    /// `to`. `replaces` is the session it takes over from; `now` in Unix seconds.
    ///
    /// # Errors
    /// [`InitiateRefused`].
    pub(super) fn initiate(
        origin: &str,
        from: &LocalParty<'_>,
        to: AccountId,
        prekeys: &Prekeys<'_>,
        replaces: Option<&Self>,
        draw: &SessionRandomness,
        now: u64,
    ) -> Result<Self, InitiateRefused> {
        let device = prekeys.fallback.device().device_id();
        if device == from.secret.public().device_id() {
            return Err(InitiateRefused::WithSelf);
        }
        let Prekeys { fallback, one_time } = *prekeys;
        let random = HandshakeRandomness { ephemeral: draw.ephemeral, kem: draw.kem };
        let (block, handshake) = pqxdh::initiate(origin, from, to, fallback, one_time, &random)?;
        let (root, first) = (Key::new(*handshake.root_key()), Key::new(draw.ratchet));
        let ratchet =
            Ratchet::initiate(handshake.session_id(), &root, first, &fallback.keys().dh, now)
                .map_err(HandshakeRefused::from)?;
        let proof = replaces.map(|old| old.continuity_proof(handshake.transcript()));
        let opening = Some(Opening { block, proof });
        Ok(Self::of(Peer { account: to, device }, &handshake, opening, ratchet))
    }

    /// The session that a received handshake starts; `place` is that of the message
    /// it came with. It authenticates nobody until that message has opened.
    pub(super) fn respond(
        origin: &str,
        from: &Party,
        me: &LocalParty<'_>,
        secrets: &PrekeySecrets<'_>,
        block: &PrekeyBlock,
        place: &Place,
    ) -> Result<Self, HandshakeRefused> {
        let PrekeySecrets { fallback, one_time } = *secrets;
        let handshake = pqxdh::respond(origin, from, me, fallback, one_time, block)?;
        let root = Key::new(*handshake.root_key());
        let session = handshake.session_id();
        let ratchet = Ratchet::respond(session, &root, fallback.dh(), &place.ratchet)?;
        Ok(Self::of(Peer::from(from), &handshake, None, ratchet))
    }

    fn of(peer: Peer, handshake: &Handshake, opening: Option<Opening>, ratchet: Ratchet) -> Self {
        let (transcript, standing) = (*handshake.transcript(), Standing::FIRST);
        let continuity = Key::new(*handshake.continuity_key());
        Self { peer, transcript, continuity, opening, ratchet, standing }
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.ratchet.session
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Whether the peer has shown that it holds this session.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.opening.is_none()
    }

    /// The next message of this session, and the session after it.
    pub(super) fn send(
        &self,
        draw: &SessionRandomness,
        now: u64,
    ) -> Result<(Self, Sealing), ChainRefused> {
        let (ratchet, outward) = self.ratchet.send(&Key::new(draw.ratchet), now)?;
        let block = self.opening.as_ref().map(|opening| &opening.block);
        let kind = if block.is_some() { TYPE_PREKEY } else { TYPE_RATCHET };
        let header = header_bytes(kind, self.id(), &outward.place, block);
        let proof = self.opening.as_ref().and_then(|opening| opening.proof);
        let sealing = Sealing { header, key: outward.key, proof };
        Ok((Self { ratchet, ..self.clone() }, sealing))
    }

    /// This session with `ratchet`, after a message of the peer has opened.
    pub(super) fn heard(&self, ratchet: Ratchet) -> Self {
        Self { ratchet, opening: None, ..self.clone() }
    }

    fn continuity_proof(&self, transcript: &[u8; 32]) -> [u8; 32] {
        kdf::hmac(&self.continuity, &enc("nexo/1/continuity", &[transcript]))
    }

    /// Whether `proof` shows that the session `of` replaces this one.
    pub(super) fn vouches(&self, of: &Self, proof: &[u8; 32]) -> bool {
        self.continuity_proof(&of.transcript).ct_eq(proof).into()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} with {})", self.id(), self.peer.device)
    }
}
