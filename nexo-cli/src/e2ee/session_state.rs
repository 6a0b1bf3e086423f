//! Sessions as bytes for a store that seals them (design/e2ee.md 2.20).
//!
//! ```text
//! session = enc("nexo/1/state/session", [1 u8, session_id 16, account 32, device_id 32, TH 32,
//!               CONT0 32, opening, RK 32, sending, receiving, PN u32, retired,
//!               next_serial u64, generation u32, retired_at, given_up u8])
//! opening    prekey block 1129 [|| continuity 32], or empty once the peer has answered
//! sending    secret 32 || public 32 || CK 32 || n u32 || since u64, or empty until we answer
//! receiving  ratchet_pub 32 || CK 32 || n u32, or empty before the first answer
//! retired    ratchet keys of 32 bytes, at most 64, oldest first
//! retired_at u64, or empty while in use
//!
//! pair    = enc("nexo/1/state/pair", [1 u8, resets, owed])
//! resets     u64 each, at most 3, oldest first        owed   since u64 || n u32, or empty
//! ```
//!
//! The bytes are secret and carry no protection of their own. A store seals each
//! session under its id and keeps skipped keys in rows beside it
//! ([`super::skipped`]); at most 4 sessions of at most 4 kB belong to a device. One
//! session has one spelling, so equal bytes mean an equal state.

use super::chain::{CHAIN_CAP, Chain, Key};
use super::ids::{AccountId, DeviceId, SessionId};
use super::keys::DhPublic;
use super::packet::{PREKEY_BLOCK_LEN, PrekeyBlock, array};
use super::ratchet::{Ratchet, Receiving, SEEN_RATCHET, Sending, Turn};
use super::session::{Opening, Peer, Session, Standing};
use nexo_schema::bytes::{DecodeError, be_u64, dec, enc, fixed};
use std::collections::VecDeque;
use zeroize::Zeroizing;

const LABEL: &str = "nexo/1/state/session";
const VERSION: u8 = 1;

/// Why stored bytes are no state of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateRefused {
    /// Not the encoding drawn above.
    #[error("the stored state is malformed: {0}")]
    Encoding(#[from] DecodeError),
    /// Written by a newer version of this program.
    #[error("the stored state has version {0}")]
    Version(u8),
    /// A value that no session has; it is named.
    #[error("the stored state has an impossible value: {0}")]
    Value(&'static str),
}

impl StateRefused {
    pub(super) fn check_version(field: &[u8], known: u8) -> Result<(), Self> {
        match fixed::<1>(field)? {
            [version] if version == known => Ok(()),
            [version] => Err(Self::Version(version)),
        }
    }
}

impl Session {
    /// The stored form, drawn above; secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let Self { peer, ratchet, standing, .. } = self;
        let (sending, receiving) = match &ratchet.turn {
            Turn::Spoke(sending, receiving) => (Some(sending), receiving.as_ref()),
            Turn::Heard(receiving) => (None, Some(receiving)),
        };
        let retired: Vec<u8> =
            ratchet.retired.iter().flat_map(|key| key.as_bytes()).copied().collect();
        Zeroizing::new(enc(
            LABEL,
            &[
                &[VERSION],
                self.id().as_bytes(),
                peer.account.as_bytes(),
                peer.device.as_bytes(),
                &self.transcript,
                &self.continuity[..],
                &self.opening.as_ref().map(Opening::to_bytes).unwrap_or_default(),
                &ratchet.root[..],
                &sending.map(Sending::to_bytes).unwrap_or_default(),
                &receiving.map(Receiving::to_bytes).unwrap_or_default(),
                &ratchet.previous.to_be_bytes(),
                &retired,
                &ratchet.next_serial.to_be_bytes(),
                &standing.generation.to_be_bytes(),
                standing.retired_at.map(u64::to_be_bytes).as_ref().map_or(&[], |at| &at[..]),
                &[u8::from(standing.given_up)],
            ],
        ))
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`StateRefused`] for anything but what [`Self::to_bytes`] makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateRefused> {
        let [
            version,
            id,
            account,
            device,
            transcript,
            continuity,
            opening,
            root,
            sending,
            receiving,
            previous,
            retired,
            next_serial,
            generation,
            retired_at,
            given_up,
        ] = dec::<16>(LABEL, bytes)?;
        StateRefused::check_version(version, VERSION)?;
        let turn = match (optional(sending, Sending::read)?, optional(receiving, Receiving::read)?)
        {
            (Some(sending), receiving) => Turn::Spoke(sending, receiving),
            (None, Some(receiving)) => Turn::Heard(receiving),
            (None, None) => return Err(StateRefused::Value("chains")),
        };
        let ratchet = Ratchet {
            session: SessionId::from_bytes(fixed(id)?),
            root: Key::new(fixed(root)?),
            turn,
            previous: counter(fixed(previous)?)?,
            retired: read_retired(retired)?,
            next_serial: be_u64(next_serial)?,
        };
        Ok(Self {
            peer: Peer {
                account: AccountId::from_bytes(fixed(account)?),
                device: DeviceId::from_bytes(fixed(device)?),
            },
            transcript: fixed(transcript)?,
            continuity: Key::new(fixed(continuity)?),
            opening: optional(opening, Opening::read)?,
            ratchet,
            standing: Standing {
                generation: u32::from_be_bytes(fixed(generation)?),
                retired_at: optional(retired_at, |field| Ok(be_u64(field)?))?,
                given_up: flag(fixed(given_up)?)?,
            },
        })
    }
}

impl Opening {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let proof = self.proof.as_ref().map_or(&[][..], |proof| &proof[..]);
        Zeroizing::new([&self.block.to_bytes(), proof].concat())
    }

    fn read(field: &[u8]) -> Result<Self, StateRefused> {
        let (block, proof) =
            field.split_first_chunk::<PREKEY_BLOCK_LEN>().ok_or(DecodeError::Field)?;
        let block = PrekeyBlock::read(block).map_err(|_| StateRefused::Value("prekey block"))?;
        Ok(Self { block, proof: optional(proof, |proof| Ok(fixed(proof)?))? })
    }
}

impl Sending {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let (n, since) = (self.chain.n().to_be_bytes(), self.since.to_be_bytes());
        Zeroizing::new(
            [&self.secret[..], self.public.as_bytes(), &self.chain.key()[..], &n, &since].concat(),
        )
    }

    fn read(field: &[u8]) -> Result<Self, StateRefused> {
        let field: Zeroizing<[u8; 108]> = Zeroizing::new(fixed(field)?);
        Ok(Self {
            secret: Key::new(array(&field[..], 0)),
            public: DhPublic::from_bytes(array(&field[..], 32)),
            chain: Chain::restore(Key::new(array(&field[..], 64)), counter(array(&field[..], 96))?),
            since: u64::from_be_bytes(array(&field[..], 100)),
        })
    }
}

impl Receiving {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let n = self.chain.n().to_be_bytes();
        Zeroizing::new([&self.ratchet.as_bytes()[..], &self.chain.key()[..], &n].concat())
    }

    fn read(field: &[u8]) -> Result<Self, StateRefused> {
        let field: Zeroizing<[u8; 68]> = Zeroizing::new(fixed(field)?);
        Ok(Self {
            ratchet: DhPublic::from_bytes(array(&field[..], 0)),
            chain: Chain::restore(Key::new(array(&field[..], 32)), counter(array(&field[..], 64))?),
        })
    }
}

fn read_retired(field: &[u8]) -> Result<VecDeque<DhPublic>, StateRefused> {
    let (keys, rest) = field.as_chunks::<32>();
    if !rest.is_empty() || keys.len() > SEEN_RATCHET {
        return Err(StateRefused::Value("retired ratchet keys"));
    }
    Ok(keys.iter().map(|key| DhPublic::from_bytes(*key)).collect())
}

/// A count of messages in a chain.
fn counter(bytes: [u8; 4]) -> Result<u32, StateRefused> {
    match u32::from_be_bytes(bytes) {
        n if n <= CHAIN_CAP => Ok(n),
        _ => Err(StateRefused::Value("counter")),
    }
}

fn flag([byte]: [u8; 1]) -> Result<bool, StateRefused> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(StateRefused::Value("flag")),
    }
}

/// A field that may be empty.
pub(super) fn optional<T>(
    field: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, StateRefused>,
) -> Result<Option<T>, StateRefused> {
    if field.is_empty() { Ok(None) } else { read(field).map(Some) }
}
