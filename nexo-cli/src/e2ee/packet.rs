//! Key packets: what each addressed device gets besides the common payload.
//!
//! ```text
//! offset  size  field
//!      0     1  suite          0x01
//!      1     1  type           3 = one-shot (1 and 2: [`super::session_packet`])
//!      2    16  session_id
//!     18    32  ratchet_pub    zeros in one-shot
//!     50     4  PN             0 in one-shot
//!     54     4  n              0 in one-shot
//!     58    32  EK_A           prekey block: X25519 key of this handshake
//!     90     4  fpk_id
//!     94     1  kem_source     0 = ML-KEM key of the FPK, 1 = of the OTK
//!     95     4  otk_id         0 without OTK
//!     99  1088  ct             ML-KEM-768 ciphertext
//!   1187   112  nx_seal(MK, "nexo/1/keypacket", aad_kp, CEK)
//! ```
//!
//! The whole header is in the AAD of the sealed key, as received. Parsing accepts
//! one spelling of each header and proves nothing; opening does.

use super::SUITE;
use super::ids::SessionId;
use super::kem::{KEM_CIPHERTEXT_LEN, KemCiphertext};
use super::keys::DhPublic;
use super::ratchet::Place;
use super::seal::SEAL_OVERHEAD;

/// `type` of a lone message that starts no session.
pub const TYPE_ONE_SHOT: u8 = 3;
/// Bytes of a header without prekey block.
pub const RATCHET_HEADER_LEN: usize = 58;
/// Bytes of a prekey block.
pub const PREKEY_BLOCK_LEN: usize = 41 + KEM_CIPHERTEXT_LEN;
/// Bytes of a header with its prekey block.
pub const HEADER_LEN: usize = RATCHET_HEADER_LEN + PREKEY_BLOCK_LEN;
/// Bytes of a sealed content key.
pub const SEALED_KEY_LEN: usize = 32 + SEAL_OVERHEAD;
/// Bytes of a one-shot key packet.
pub const PACKET_LEN: usize = HEADER_LEN + SEALED_KEY_LEN;

/// Why bytes are no one-shot key packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketRefused {
    /// A suite this program does not speak; the message is kept as unsupported.
    #[error("suite {0:#04x} is not supported")]
    Suite(u8),
    /// A type this program does not speak; the message is kept as unsupported.
    #[error("key packet type {0} is not supported")]
    Type(u8),
    /// Another size than its type has, or too short to have a suite and a type.
    #[error("no key packet of this type has {0} bytes")]
    Length(usize),
    /// A ratchet field is not zero, though there is no ratchet.
    #[error("a one-shot key packet has empty ratchet fields")]
    RatchetFields,
    /// A one-time prekey is named, or `kem_source` and `otk_id` are inconsistent:
    /// a one-shot message uses the fallback prekey alone.
    #[error("a one-shot key packet uses the fallback prekey alone")]
    OneTimeKey,
    /// A prekey block with a `kem_source` other than 0 and 1, or with an `otk_id`
    /// though no one-time prekey was used.
    #[error("the prekey block of a key packet is inconsistent")]
    PrekeyBlock,
    /// `n` or `PN` beyond what a chain holds, or a `PN` before the first answer.
    #[error("the counters of a key packet are out of range")]
    Counters,
}

/// The public half of a handshake as it travels (2.8): which prekeys were used and
/// what the initiator adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrekeyBlock {
    /// `EK_A`. A receiver remembers it for as long as it keeps the fallback
    /// prekey, and drops a message that repeats it.
    pub ephemeral: DhPublic,
    /// The fallback prekey that was used.
    pub fallback_id: u32,
    /// The one-time prekey that was used, if any.
    pub one_time_id: Option<u32>,
    /// The ML-KEM ciphertext.
    pub ciphertext: KemCiphertext,
}

impl PrekeyBlock {
    /// Reads a block; each value has one spelling.
    ///
    /// # Errors
    /// [`PacketRefused::PrekeyBlock`].
    pub(super) fn read(bytes: &[u8; PREKEY_BLOCK_LEN]) -> Result<Self, PacketRefused> {
        let id = u32::from_be_bytes(array(bytes, 37));
        let one_time_id = match (bytes[36], id) {
            (0, 0) => None,
            (1, id) => Some(id),
            _ => return Err(PacketRefused::PrekeyBlock),
        };
        Ok(Self {
            ephemeral: DhPublic::from_bytes(array(bytes, 0)),
            fallback_id: u32::from_be_bytes(array(bytes, 32)),
            one_time_id,
            ciphertext: KemCiphertext::from_bytes(&array::<KEM_CIPHERTEXT_LEN>(bytes, 41)),
        })
    }

    /// The bytes, as drawn above from offset 58 on.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        [
            &self.ephemeral.as_bytes()[..],
            &self.fallback_id.to_be_bytes(),
            &[u8::from(self.one_time_id.is_some())],
            &self.one_time_id.unwrap_or(0).to_be_bytes(),
            self.ciphertext.as_bytes(),
        ]
        .concat()
    }
}

/// A one-shot key packet, parsed but not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPacket<'a> {
    bytes: &'a [u8],
    session: SessionId,
    block: PrekeyBlock,
}

impl<'a> KeyPacket<'a> {
    /// Reads a key packet.
    ///
    /// # Errors
    /// [`PacketRefused`]; suite and type are looked at first, so that what a newer
    /// program sent is told apart from rubbish.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketRefused> {
        let [suite, kind, ..] = bytes else { return Err(PacketRefused::Length(bytes.len())) };
        if *suite != SUITE {
            return Err(PacketRefused::Suite(*suite));
        }
        if *kind != TYPE_ONE_SHOT {
            return Err(PacketRefused::Type(*kind));
        }
        if bytes.len() != PACKET_LEN {
            return Err(PacketRefused::Length(bytes.len()));
        }
        if bytes[18..58].iter().any(|byte| *byte != 0) {
            return Err(PacketRefused::RatchetFields);
        }
        if bytes[94..99].iter().any(|byte| *byte != 0) {
            return Err(PacketRefused::OneTimeKey);
        }
        let block = PrekeyBlock::read(&array(bytes, RATCHET_HEADER_LEN))?;
        Ok(Self { bytes, session: SessionId::from_bytes(array(bytes, 2)), block })
    }

    /// The handshake it carries.
    #[must_use]
    pub fn block(&self) -> &PrekeyBlock {
        &self.block
    }

    /// The session it claims to belong to.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        self.session
    }

    /// The whole packet as received, which is what is hashed.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(in crate::e2ee) fn header(&self) -> &'a [u8] {
        &self.bytes[..HEADER_LEN]
    }

    pub(in crate::e2ee) fn sealed_key(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..]
    }
}

/// `N` bytes at a fixed offset of a packet whose length has been checked.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// The header bytes, as drawn above.
pub(super) fn header_bytes(
    kind: u8,
    session: SessionId,
    place: &Place,
    block: Option<&PrekeyBlock>,
) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend([SUITE, kind]);
    header.extend(session.as_bytes());
    header.extend(place.ratchet.as_bytes());
    header.extend(place.previous.to_be_bytes());
    header.extend(place.n.to_be_bytes());
    if let Some(block) = block {
        header.extend(block.to_bytes());
    }
    header
}

/// The header of a one-shot packet, whose ratchet fields are empty.
pub(super) fn one_shot_header(session: SessionId, block: &PrekeyBlock) -> Vec<u8> {
    let empty = Place { ratchet: DhPublic::from_bytes([0; 32]), previous: 0, n: 0 };
    header_bytes(TYPE_ONE_SHOT, session, &empty, Some(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet() -> Vec<u8> {
        let block = PrekeyBlock {
            ephemeral: DhPublic::from_bytes([2; 32]),
            fallback_id: 0x0102_0304,
            one_time_id: None,
            ciphertext: KemCiphertext::from_bytes(&[3; KEM_CIPHERTEXT_LEN]),
        };
        let mut bytes = one_shot_header(SessionId::from_bytes([1; 16]), &block);
        bytes.extend_from_slice(&[4; SEALED_KEY_LEN]);
        bytes
    }

    #[test]
    fn every_field_stands_where_it_is_drawn() {
        let bytes = packet();
        let packet = KeyPacket::parse(&bytes).unwrap();
        assert_eq!(bytes.len(), PACKET_LEN);
        assert_eq!(packet.session_id().as_bytes(), &[1; 16]);
        assert_eq!(packet.block().ephemeral.as_bytes(), &[2; 32]);
        assert_eq!(packet.block().fallback_id, 0x0102_0304);
        assert_eq!(packet.block().ciphertext.as_bytes(), &[3; KEM_CIPHERTEXT_LEN]);
        assert_eq!(packet.header(), one_shot_header(packet.session_id(), packet.block()));
        assert_eq!(packet.sealed_key(), [4; SEALED_KEY_LEN]);
    }

    #[test]
    fn b12_other_suites_types_and_shapes_are_refused() {
        let with = |at: usize, value: u8| {
            let mut bytes = packet();
            bytes[at] = value;
            KeyPacket::parse(&bytes).map(|_| ())
        };
        assert_eq!(with(0, 0), Err(PacketRefused::Suite(0)));
        assert_eq!(with(0, 2), Err(PacketRefused::Suite(2)));
        for kind in [0, 1, 2, 4, 255] {
            assert_eq!(with(1, kind), Err(PacketRefused::Type(kind)));
        }
        for at in 18..58 {
            assert_eq!(with(at, 1), Err(PacketRefused::RatchetFields), "byte {at}");
        }
        for at in 94..99 {
            assert_eq!(with(at, 1), Err(PacketRefused::OneTimeKey), "byte {at}");
        }
        assert_eq!(with(94, 2), Err(PacketRefused::OneTimeKey));
        let good = packet();
        for len in [0, 1, 2, 58, HEADER_LEN, PACKET_LEN - 1] {
            assert_eq!(KeyPacket::parse(&good[..len]), Err(PacketRefused::Length(len)));
        }
        let long = [&good[..], &[0]].concat();
        assert_eq!(KeyPacket::parse(&long), Err(PacketRefused::Length(PACKET_LEN + 1)));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..1400)) {
            let _ = KeyPacket::parse(&noise);
        }

        #[test]
        fn a_packet_that_parses_has_one_spelling(noise in prop::collection::vec(any::<u8>(), PACKET_LEN)) {
            let mut bytes = noise;
            bytes[..2].copy_from_slice(&[SUITE, TYPE_ONE_SHOT]);
            bytes[18..58].fill(0);
            bytes[94..99].fill(0);
            let packet = KeyPacket::parse(&bytes).unwrap();
            prop_assert_eq!(one_shot_header(packet.session_id(), packet.block()), packet.header());
        }
    }
}
