//! Messages that did not open, asked for and sent again (design/e2ee.md 2.14).
//!
//! A receiver that cannot open a message asks its sender, at most three times
//! ([`next_ask`]). The sender keeps the content key of what it sent until everyone
//! has acknowledged it, at most 7 days, and answers a device that the message was
//! addressed to with a new key packet for the *same* payload: the log entry stays
//! what it was. Nobody else is ever given a key, and no other message: whether the
//! device is still one to be trusted is the caller's to check.
//!
//! ```text
//! enc("nexo/1/state/kept", [1 u8, CEK 32, PD 32, sealed_at u64, devices])
//! devices    account 32 || device_id 32 || answers u8, at most 64, those that have not acknowledged
//! ```

use super::chain::Key;
use super::envelope::{MAX_RECIPIENTS, PayloadDigest};
use super::fanout::{Address, PacketDraw, PacketRefused, PacketSealer};
use super::ids::{AccountId, DeviceId};
use super::keys::LocalParty;
use super::packet::array;
use super::payload::Outgoing;
use super::session::Peer;
use super::session_state::StateRefused;
use super::sessions::Sessions;
use nexo_schema::bytes::{be_u64, dec, enc, fixed};
use std::fmt;
use zeroize::Zeroizing;

/// How often one device may ask for one message, and is answered.
pub const MAX_RETRIES: u8 = 3;
/// How long a sender can answer, in seconds.
pub const KEPT_FOR: u64 = 7 * 86_400;

const LABEL: &str = "nexo/1/state/kept";
const VERSION: u8 = 1;

/// The number of the next request for a message after `asked` of them, if there may
/// be one.
#[must_use]
pub fn next_ask(asked: u8) -> Option<u8> {
    (asked < MAX_RETRIES).then(|| asked + 1)
}

/// What a sender keeps of a message to answer retries. Secret.
#[derive(Clone)]
pub struct KeptMessage {
    content_key: Key,
    digest: PayloadDigest,
    sealed_at: u64,
    waiting: Vec<(Peer, u8)>,
}

/// Why a retry is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResendRefused {
    /// The message was not addressed to this device, or it has acknowledged it.
    #[error("the message was not addressed to this device, or was acknowledged by it")]
    NotWaiting,
    /// It was answered [`MAX_RETRIES`] times.
    #[error("the device has been answered {MAX_RETRIES} times")]
    TooOften,
    /// The message was sealed more than [`KEPT_FOR`] ago.
    #[error("the message is too old to be sent again")]
    TooOld,
    /// No packet can be made.
    #[error(transparent)]
    Packet(#[from] PacketRefused),
}

/// A new key packet for a message that was sent before.
pub struct Resent {
    /// The packet.
    pub packet: Vec<u8>,
    /// The sessions with the device after it.
    pub sessions: Option<Sessions>,
    /// What is kept from now on.
    pub kept: KeptMessage,
}

impl KeptMessage {
    pub(super) fn new(sealer: &PacketSealer<'_>, to: impl Iterator<Item = Peer>) -> Self {
        let PacketSealer { content_key, digest, now, .. } = sealer;
        let waiting = to.map(|peer| (peer, 0)).collect();
        Self { content_key: content_key.clone(), digest: *digest, sealed_at: *now, waiting }
    }

    /// Whether nobody will be answered any more, so that it must be deleted.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.waiting.is_empty() || now.saturating_sub(self.sealed_at) >= KEPT_FOR
    }

    /// After `device` has acknowledged the message.
    #[must_use]
    pub fn acknowledged(&self, device: DeviceId) -> Self {
        let mut next = self.clone();
        next.waiting.retain(|(peer, _)| peer.device != device);
        next
    }

    /// Answers a retry of the device of `to` with a new packet. `outgoing` must name
    /// the message as it was sealed; its body is not needed.
    ///
    /// # Errors
    /// [`ResendRefused`]; then nothing has been used up.
    pub fn resend(
        &self,
        sender: &LocalParty<'_>,
        outgoing: &Outgoing<'_>,
        to: &Address<'_>,
        draw: &PacketDraw,
        now: u64,
    ) -> Result<Resent, ResendRefused> {
        if now.saturating_sub(self.sealed_at) >= KEPT_FOR {
            return Err(ResendRefused::TooOld);
        }
        let mut kept = self.clone();
        let waiting = kept.waiting.iter_mut().find(|(peer, _)| *peer == to.peer());
        let (_, answers) = waiting.ok_or(ResendRefused::NotWaiting)?;
        *answers = next_ask(*answers).ok_or(ResendRefused::TooOften)?;
        let content_key = self.content_key.clone();
        let (context, digest) = (outgoing.context(sender), self.digest);
        let sealer = PacketSealer { sender, context, digest, content_key, now };
        let (packet, sessions) = sealer.seal(to, draw)?;
        Ok(Resent { packet, sessions, kept })
    }

    /// The stored form, drawn above; secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut devices = Vec::with_capacity(self.waiting.len() * 65);
        for (peer, answers) in &self.waiting {
            devices.extend(peer.account.as_bytes());
            devices.extend(peer.device.as_bytes());
            devices.push(*answers);
        }
        let sealed_at = self.sealed_at.to_be_bytes();
        let fields =
            [&[VERSION][..], &self.content_key[..], self.digest.as_bytes(), &sealed_at, &devices];
        Zeroizing::new(enc(LABEL, &fields))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`StateRefused`] for anything but what [`Self::to_bytes`] makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateRefused> {
        let [version, content_key, digest, sealed_at, devices] = dec::<5>(LABEL, bytes)?;
        StateRefused::check_version(version, VERSION)?;
        let (devices, rest) = devices.as_chunks::<65>();
        if !rest.is_empty() || devices.len() > MAX_RECIPIENTS {
            return Err(StateRefused::Value("devices"));
        }
        let waiting = devices.iter().map(|row| {
            let account = AccountId::from_bytes(array(row, 0));
            let device = DeviceId::from_bytes(array(row, 32));
            (Peer { account, device }, row[64])
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.iter().any(|(_, answers)| *answers > MAX_RETRIES) {
            return Err(StateRefused::Value("answers"));
        }
        Ok(Self {
            content_key: Key::new(fixed(content_key)?),
            digest: PayloadDigest::restore(fixed(digest)?),
            sealed_at: be_u64(sealed_at)?,
            waiting,
        })
    }
}

impl fmt::Debug for KeptMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptMessage({} devices waiting)", self.waiting.len())
    }
}
