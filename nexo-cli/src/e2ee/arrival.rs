//! A message of a session, opened (design/e2ee.md 2.8, 2.9, 2.12, 2.14).
//!
//! What has to happen around it, and whose it is:
//!
//! 1. The caller verifies the sender's chain and device, that both accounts belong
//!    to the conversation, and the entry of [`Arrival::envelope_hash`] in the log;
//!    a `(device, message id)` that it has had already never comes here.
//! 2. If [`Sessions::find`] knows the packet's session, [`open_in_session`];
//!    else, if the packet has a prekey block, [`open_handshake`] with the secrets of
//!    the prekeys it names; else the message is lost and a retry is asked for.
//! 3. The body is read. [`Opened::settle`] then gives the state that follows, and
//!    the caller stores all of it with the message in one transaction.
//!
//! Nothing changes before step 3: whoever sends rubbish, however well aimed, leaves
//! every stored byte as it was.

use super::envelope::{MessageContext, RecipientHash, RecipientsRefused, packet_aad};
use super::ids::{DeviceId, EnvelopeHash, SessionId};
use super::keys::LocalParty;
use super::oneshot::ReplayKey;
use super::payload::Received;
use super::pqxdh::HandshakeRefused;
use super::ratchet::{Place, PlaceRefused};
use super::seal::{Purpose, nx_open};
use super::session::{Peer, PrekeySecrets, Session};
use super::session_packet::SessionPacket;
use super::sessions::{Nature, OnReset, ResetRefused, SessionEvent, Sessions};
use super::skipped::{SkippedChange, SkippedKeys};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A message of type 1 or 2 as the relay delivered it to this device.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Relay, conversation, message id and sender, as the caller has verified them.
    pub context: MessageContext<'a>,
    /// The common payload.
    pub sealed: &'a [u8],
    /// This device's key packet.
    pub packet: &'a SessionPacket<'a>,
    /// Device and packet hash of every other recipient.
    pub others: &'a [RecipientHash],
    /// The hash of this device's packet in the log, if the packet here was made
    /// later because the logged one did not open (2.14). What vouches for the
    /// payload is then the new packet, and for its place in the log the old hash.
    pub logged: Option<[u8; 32]>,
    /// Unix seconds.
    pub now: u64,
}

impl Arrival<'_> {
    /// `EH` as it follows from what was delivered to device `me`. The caller
    /// compares the entry that [`message_leaf`](super::envelope::message_leaf) makes
    /// of it with the log.
    ///
    /// # Errors
    /// [`RecipientsRefused`], also if `me` is among the others.
    pub fn envelope_hash(&self, me: DeviceId) -> Result<EnvelopeHash, RecipientsRefused> {
        self.envelope_of(me, &Received::of(&self.context, self.sealed))
    }

    fn envelope_of(
        &self,
        device: DeviceId,
        payload: &Received<'_>,
    ) -> Result<EnvelopeHash, RecipientsRefused> {
        let mine = match self.logged {
            Some(packet) => RecipientHash { device, packet },
            None => RecipientHash::of(device, self.packet.bytes()),
        };
        payload.envelope(mine, self.others)
    }

    /// What the caller's table of handshakes knows this message's by.
    #[must_use]
    pub fn replay_key(&self) -> Option<ReplayKey> {
        let block = self.packet.block()?;
        Some(ReplayKey { fallback_id: block.fallback_id, ephemeral: block.ephemeral })
    }
}

/// Why a message is not opened. Nothing has changed anywhere by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalRefused {
    /// The list of recipients is malformed.
    #[error(transparent)]
    Recipients(#[from] RecipientsRefused),
    /// No session with this device has this id: it was lost here, or its time is
    /// over. A retry may be asked for.
    #[error("session {0} with this device is not held")]
    UnknownSession(SessionId),
    /// The packet starts no session, so there is no handshake to open.
    #[error("the message starts no session")]
    NoHandshake,
    /// The handshake was answered before and its session is gone.
    #[error("the handshake was used before")]
    HandshakeReplayed,
    /// The fallback secret given is not the one that is named.
    #[error("the message was sealed to fallback prekey {named}")]
    OtherPrekey {
        /// The id in the packet.
        named: u32,
    },
    /// The one-time prekey named is not held: another handshake used it up. To be
    /// reported as `prekey_reused`.
    #[error("one-time prekey {named} was used before")]
    PrekeyReused {
        /// The id in the packet.
        named: u32,
    },
    /// A device has no session with itself.
    #[error("the message claims a session of this device with itself")]
    WithSelf,
    /// The place in the session.
    #[error(transparent)]
    Place(#[from] PlaceRefused),
    /// A key of the handshake has small order.
    #[error("a key of the handshake has small order")]
    NonContributory,
    /// It opens, and replaces sessions in a way that is not accepted.
    #[error(transparent)]
    Reset(#[from] ResetRefused),
    /// The message is not what this sender sealed for this device, in any respect.
    #[error("the message does not open")]
    Broken,
}

/// An opened message, and the state that follows if it is settled.
pub struct Opened {
    /// The body the sender sealed.
    pub body: Zeroizing<Vec<u8>>,
    /// `EH`; see [`Arrival::envelope_hash`].
    pub envelope: EnvelopeHash,
    /// The session it came on.
    pub session: SessionId,
    after: After,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({} on {})", self.envelope, self.session)
    }
}

struct After {
    sessions: Sessions,
    session: Session,
    skipped: SkippedChange,
    handshake: Option<HandshakeUsed>,
    event: Option<SessionEvent>,
    place: Place,
    now: u64,
}

/// What a handshake used up, for the tables of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeUsed {
    /// Goes into the table of handshakes until the fallback prekey is deleted.
    pub replay: ReplayKey,
    /// The session it started.
    pub session: SessionId,
    /// The one-time prekey whose secret must be deleted now.
    pub one_time: Option<u32>,
}

/// All that has to be stored with an opened message, in one transaction.
#[derive(Debug)]
pub struct Settled {
    /// The sessions with the sender's device.
    pub sessions: Sessions,
    /// What becomes of the skipped keys of the message's session.
    pub skipped: SkippedChange,
    /// What the handshake used up, if the message brought one.
    pub handshake: Option<HandshakeUsed>,
    /// What the handshake meant.
    pub event: Option<SessionEvent>,
}

impl Opened {
    /// The state after this message, whose body turned out to be `nature`.
    #[must_use]
    pub fn settle(self, nature: Nature) -> Settled {
        let After { sessions, session, skipped, handshake, event, place, now } = self.after;
        let noted = event.map_or_else(|| sessions.clone(), |event| sessions.noted(event, now));
        let sessions = noted.heard(session, &place, nature, now);
        Settled { sessions, skipped, handshake, event }
    }
}

/// Opens a message of a session that is held; `skipped` are that session's keys.
///
/// # Errors
/// [`ArrivalRefused`]; everything that depends on a secret is
/// [`ArrivalRefused::Broken`].
pub fn open_in_session(
    me: &LocalParty<'_>,
    sessions: &Sessions,
    skipped: &SkippedKeys,
    arrival: &Arrival<'_>,
) -> Result<Opened, ArrivalRefused> {
    let id = arrival.packet.session_id();
    let sender = Peer::from(&arrival.context.sender);
    let session = sessions.find(id, arrival.now).filter(|session| session.peer() == sender);
    let session = session.ok_or(ArrivalRefused::UnknownSession(id))?;
    let opened = open(me, session, skipped, arrival)?;
    let after = After {
        sessions: sessions.clone(),
        session: opened.session,
        skipped: opened.skipped,
        handshake: None,
        event: None,
        place: *arrival.packet.place(),
        now: arrival.now,
    };
    Ok(Opened { body: opened.body, envelope: opened.envelope, session: id, after })
}

/// Opens a message that brings the handshake of a session which is not held.
/// `sessions` are those with the same device, `secrets` the prekeys that the packet
/// names, `seen` whether the caller's table has [`Arrival::replay_key`].
///
/// # Errors
/// [`ArrivalRefused`]; everything that depends on a secret is
/// [`ArrivalRefused::Broken`].
pub fn open_handshake(
    me: &LocalParty<'_>,
    sessions: &Sessions,
    secrets: &PrekeySecrets<'_>,
    arrival: &Arrival<'_>,
    seen: bool,
    on_reset: OnReset,
) -> Result<Opened, ArrivalRefused> {
    let Arrival { context, packet, now, .. } = arrival;
    let block = packet.block().ok_or(ArrivalRefused::NoHandshake)?;
    // A session that is held was begun before, whatever the table says.
    if seen || sessions.held().iter().any(|held| held.id() == packet.session_id()) {
        return Err(ArrivalRefused::HandshakeReplayed);
    }
    if context.sender.device == me.secret.public() {
        return Err(ArrivalRefused::WithSelf);
    }
    if let (Some(named), None) = (block.one_time_id, secrets.one_time) {
        return Err(ArrivalRefused::PrekeyReused { named });
    }
    let begun =
        Session::respond(context.origin, &context.sender, me, secrets, block, packet.place());
    let session = begun.map_err(|reason| match reason {
        HandshakeRefused::NonContributory => ArrivalRefused::NonContributory,
        HandshakeRefused::WrongPrekey => ArrivalRefused::OtherPrekey { named: block.fallback_id },
    })?;
    let opened = open(me, &session, &SkippedKeys::default(), arrival)?;
    // The id is in what was authenticated, so only the initiator can have made it up.
    let same = session.id().as_bytes().ct_eq(packet.session_id().as_bytes());
    if !bool::from(same) {
        return Err(ArrivalRefused::Broken);
    }
    let (session, event) = sessions.judge(opened.session, opened.proof.as_ref(), on_reset, *now)?;
    let replay = ReplayKey { fallback_id: block.fallback_id, ephemeral: block.ephemeral };
    let id = session.id();
    let handshake = HandshakeUsed { replay, session: id, one_time: block.one_time_id };
    let after = After {
        sessions: sessions.clone(),
        session,
        skipped: opened.skipped,
        handshake: Some(handshake),
        event: Some(event),
        place: *packet.place(),
        now: *now,
    };
    Ok(Opened { body: opened.body, envelope: opened.envelope, session: id, after })
}

/// What comes out of one packet and its payload.
struct OpenedPacket {
    body: Zeroizing<Vec<u8>>,
    envelope: EnvelopeHash,
    proof: Option<[u8; 32]>,
    session: Session,
    skipped: SkippedChange,
}

fn open(
    me: &LocalParty<'_>,
    session: &Session,
    skipped: &SkippedKeys,
    arrival: &Arrival<'_>,
) -> Result<OpenedPacket, ArrivalRefused> {
    let Arrival { context, sealed, packet, now, .. } = arrival;
    let device = me.secret.public().device_id();
    let payload = Received::of(context, sealed);
    let envelope = arrival.envelope_of(device, &payload)?;
    if payload.is_too_long() {
        return Err(ArrivalRefused::Broken);
    }
    let found = session.ratchet.find(skipped, packet.place(), *now)?;
    let aad = packet_aad(context, me.account, device, &payload.digest, packet.header());
    let secret = nx_open(&found.key, Purpose::KeyPacket, &aad, packet.sealed_key())
        .map_err(|_| ArrivalRefused::Broken)?;
    let (content_key, proof) = secret.split_first_chunk().ok_or(ArrivalRefused::Broken)?;
    // The parser has let through the two lengths that a packet has.
    let proof = proof.try_into().ok();
    let body = payload.open(content_key).map_err(|_| ArrivalRefused::Broken)?;
    let (ratchet, skipped) = session.ratchet.settle(found, packet.place(), skipped, *now);
    Ok(OpenedPacket { body, envelope, proof, session: session.heard(ratchet), skipped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::envelope::PayloadDigest;
    use crate::e2ee::kat::Session as Worked;
    use crate::e2ee::padding::pad;
    use crate::e2ee::seal::nx_seal;
    use crate::e2ee::session::{Prekeys, SessionRandomness};

    /// What Bob makes of a first message that Alice, who may be malicious, made
    /// authentic in every respect with `change` in its header.
    fn opened(change: impl Fn(&mut [u8])) -> Result<Vec<u8>, ArrivalRefused> {
        let s = Worked::named("session_fallback_only");
        let alice = LocalParty { account: s.alice_account(), secret: &s.alice };
        let bob = LocalParty { account: s.bob_account(), secret: &s.bob };
        let (fallback, _) = s.prekeys();
        let prekeys = Prekeys { fallback: &fallback, one_time: None };
        let draw = SessionRandomness { ephemeral: [1; 32], kem: [2; 32], ratchet: [3; 32] };
        let to = bob.account;
        let session = Session::initiate(s.origin(), &alice, to, &prekeys, None, &draw, 0).unwrap();
        let (_, sealing) = session.send(&draw, 0).unwrap();

        let context = s.context();
        let (aad, plaintext) = (context.payload_aad(), pad(b"hi").unwrap());
        let sealed = nx_seal(&[6; 32], Purpose::Payload, &aad, &plaintext, &[7; 32]);
        let digest = PayloadDigest::of(&aad, &sealed);
        let mut packet = sealing.header;
        change(&mut packet);
        let device = bob.secret.public().device_id();
        let aad = packet_aad(&context, to, device, &digest, &packet);
        packet.extend(nx_seal(&sealing.key, Purpose::KeyPacket, &aad, &[6; 32], &[8; 32]));

        let packet = SessionPacket::parse(&packet).unwrap();
        let (sealed, others, logged) = (&sealed[..], &[][..], None);
        let arrival = Arrival { context, sealed, packet: &packet, others, logged, now: 0 };
        let secrets = PrekeySecrets { fallback: &s.fallback, one_time: None };
        let sessions = Sessions::default();
        let opened = open_handshake(&bob, &sessions, &secrets, &arrival, false, OnReset::Accept)?;
        Ok(opened.body.to_vec())
    }

    #[test]
    fn an_initiator_cannot_name_another_session_than_the_one_it_made() {
        assert_eq!(opened(|_| {}).as_deref(), Ok(&b"hi"[..]));
        assert_eq!(opened(|header| header[2] ^= 1), Err(ArrivalRefused::Broken));
    }

    #[test]
    fn a_packet_without_handshake_starts_no_session() {
        let s = Worked::named("session_fallback_only");
        let bob = LocalParty { account: s.bob_account(), secret: &s.bob };
        let mut packet = vec![1, 2];
        packet.resize(170, 0);
        let packet = SessionPacket::parse(&packet).unwrap();
        let (sealed, others, logged) = (&[][..], &[][..], None);
        let arrival =
            Arrival { context: s.context(), sealed, packet: &packet, others, logged, now: 0 };
        let secrets = PrekeySecrets { fallback: &s.fallback, one_time: None };
        let sessions = Sessions::default();
        let opened = open_handshake(&bob, &sessions, &secrets, &arrival, false, OnReset::Accept);
        assert_eq!(opened.map(|_| ()), Err(ArrivalRefused::NoHandshake));
        assert_eq!(arrival.replay_key(), None);
    }
}
