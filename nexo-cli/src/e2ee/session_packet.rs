//! Key packets of a session (design/e2ee.md 2.11), and the one parser for packets
//! of every type.
//!
//! ```text
//! offset  size  field
//!      0     1  suite          0x01
//!      1     1  type           1 = prekey, 2 = ratchet
//!      2    16  session_id
//!     18    32  ratchet_pub    the sender's ratchet key
//!     50     4  PN             messages in the sender's chain before; type 1: 0
//!     54     4  n              0 to 999
//!     58  1129  prekey block   type 1 alone; drawn in packet.rs
//!  58 / 1187   nx_seal(MK, "nexo/1/keypacket", aad_kp, CEK 32)                    112 bytes
//!         or   nx_seal(MK, "nexo/1/keypacket", aad_kp, CEK 32 || continuity 32)   144 bytes
//! ```
//!
//! The longer form is of type 1 alone, in a session that replaces another one.
//! Parsing accepts one spelling of each header and proves nothing; opening does.

use super::SUITE;
use super::chain::CHAIN_CAP;
use super::ids::SessionId;
use super::keys::DhPublic;
use super::packet::{
    HEADER_LEN, KeyPacket, PacketRefused, PrekeyBlock, RATCHET_HEADER_LEN, SEALED_KEY_LEN,
    TYPE_ONE_SHOT, array,
};
use super::ratchet::Place;

/// `type` of a message in a session that its initiator has had no answer in.
pub const TYPE_PREKEY: u8 = 1;
/// `type` of every other message in a session.
pub const TYPE_RATCHET: u8 = 2;
/// Bytes that a proof of continuity adds to a packet.
pub const PROOF_LEN: usize = 32;

/// A key packet of any type, parsed but not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Type 3: a message without session.
    OneShot(KeyPacket<'a>),
    /// Type 1 or 2.
    Session(SessionPacket<'a>),
}

impl<'a> Packet<'a> {
    /// Reads a key packet.
    ///
    /// # Errors
    /// [`PacketRefused`]; suite and type are looked at first, so that what a newer
    /// program sent is told apart from rubbish.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketRefused> {
        match bytes {
            [SUITE, TYPE_PREKEY | TYPE_RATCHET, ..] => {
                SessionPacket::parse(bytes).map(Self::Session)
            }
            // Another suite or type is refused there, by name.
            _ => KeyPacket::parse(bytes).map(Self::OneShot),
        }
    }
}

/// A key packet of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPacket<'a> {
    bytes: &'a [u8],
    session: SessionId,
    place: Place,
    block: Option<PrekeyBlock>,
}

impl<'a> SessionPacket<'a> {
    /// Reads a packet of type 1 or 2.
    ///
    /// # Errors
    /// [`PacketRefused`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketRefused> {
        let [suite, kind, ..] = bytes else { return Err(PacketRefused::Length(bytes.len())) };
        if *suite != SUITE {
            return Err(PacketRefused::Suite(*suite));
        }
        let with_proof = HEADER_LEN + SEALED_KEY_LEN + PROOF_LEN;
        let right_length = match *kind {
            TYPE_PREKEY => [HEADER_LEN + SEALED_KEY_LEN, with_proof].contains(&bytes.len()),
            TYPE_RATCHET => bytes.len() == RATCHET_HEADER_LEN + SEALED_KEY_LEN,
            other => return Err(PacketRefused::Type(other)),
        };
        if !right_length {
            return Err(PacketRefused::Length(bytes.len()));
        }
        let place = Place {
            ratchet: DhPublic::from_bytes(array(bytes, 18)),
            previous: u32::from_be_bytes(array(bytes, 50)),
            n: u32::from_be_bytes(array(bytes, 54)),
        };
        // Who has had no answer is still in the first chain.
        let most_before = if *kind == TYPE_PREKEY { 0 } else { CHAIN_CAP };
        if place.n >= CHAIN_CAP || place.previous > most_before {
            return Err(PacketRefused::Counters);
        }
        let block = match *kind {
            TYPE_PREKEY => Some(PrekeyBlock::read(&array(bytes, RATCHET_HEADER_LEN))?),
            _ => None,
        };
        Ok(Self { bytes, session: SessionId::from_bytes(array(bytes, 2)), place, block })
    }

    /// The session it claims to belong to.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        self.session
    }

    /// Its place in the session.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The handshake of the session, while its initiator repeats it.
    #[must_use]
    pub fn block(&self) -> Option<&PrekeyBlock> {
        self.block.as_ref()
    }

    /// The whole packet as received, which is what is hashed.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn header(&self) -> &'a [u8] {
        self.bytes.split_at(self.header_len()).0
    }

    pub(super) fn sealed_key(&self) -> &'a [u8] {
        self.bytes.split_at(self.header_len()).1
    }

    fn header_len(&self) -> usize {
        if self.block.is_some() { HEADER_LEN } else { RATCHET_HEADER_LEN }
    }
}

const _: () = assert!(TYPE_ONE_SHOT != TYPE_PREKEY && TYPE_ONE_SHOT != TYPE_RATCHET);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::kem::{KEM_CIPHERTEXT_LEN, KemCiphertext};
    use crate::e2ee::packet::header_bytes;
    use proptest::prelude::*;

    fn block(one_time_id: Option<u32>) -> PrekeyBlock {
        PrekeyBlock {
            ephemeral: DhPublic::from_bytes([2; 32]),
            fallback_id: 0x0102_0304,
            one_time_id,
            ciphertext: KemCiphertext::from_bytes(&[3; KEM_CIPHERTEXT_LEN]),
        }
    }

    fn packet(
        kind: u8,
        previous: u32,
        n: u32,
        block: Option<&PrekeyBlock>,
        sealed: usize,
    ) -> Vec<u8> {
        let place = Place { ratchet: DhPublic::from_bytes([9; 32]), previous, n };
        let mut bytes = header_bytes(kind, SessionId::from_bytes([1; 16]), &place, block);
        bytes.extend(vec![4; sealed]);
        bytes
    }

    fn refused(bytes: &[u8]) -> PacketRefused {
        Packet::parse(bytes).unwrap_err()
    }

    #[test]
    fn every_field_stands_where_it_is_drawn() {
        let bytes = packet(TYPE_RATCHET, 0x0102, 0x0203, None, 112);
        assert_eq!(bytes.len(), 170);
        let Ok(Packet::Session(read)) = Packet::parse(&bytes) else { panic!("type 2") };
        assert_eq!(read.session_id().as_bytes(), &[1; 16]);
        let place = Place { ratchet: DhPublic::from_bytes([9; 32]), previous: 0x0102, n: 0x0203 };
        assert_eq!((read.place(), read.block()), (&place, None));
        assert_eq!((read.header(), read.sealed_key()), bytes.split_at(58));
        for one_time in [None, Some(0), Some(77)] {
            for sealed in [112, 144] {
                let bytes = packet(TYPE_PREKEY, 0, 999, Some(&block(one_time)), sealed);
                let Ok(Packet::Session(read)) = Packet::parse(&bytes) else { panic!("type 1") };
                assert_eq!(read.block(), Some(&block(one_time)));
                assert_eq!((read.header(), read.sealed_key()), bytes.split_at(1_187));
                assert_eq!(read.place().n, 999);
            }
        }
    }

    #[test]
    fn c2_counters_beyond_a_chain_are_malformed() {
        let counters = PacketRefused::Counters;
        assert!(Packet::parse(&packet(TYPE_RATCHET, 1_000, 999, None, 112)).is_ok());
        for (previous, n) in [(0, 1_000), (1_001, 0), (u32::MAX, 0), (0, u32::MAX)] {
            assert_eq!(refused(&packet(TYPE_RATCHET, previous, n, None, 112)), counters);
        }
        for (previous, n) in [(1, 0), (0, 1_000)] {
            let bytes = packet(TYPE_PREKEY, previous, n, Some(&block(None)), 112);
            assert_eq!(refused(&bytes), counters);
        }
    }

    #[test]
    fn b4_b12_other_shapes_are_refused() {
        let good = packet(TYPE_PREKEY, 0, 0, Some(&block(Some(7))), 112);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(refused(&with(0, 2)), PacketRefused::Suite(2));
        for kind in [0, 4, 255] {
            assert_eq!(refused(&with(1, kind)), PacketRefused::Type(kind));
        }
        // The lengths of types 1 and 3 are equal; then the fields decide.
        assert_eq!(refused(&with(1, TYPE_ONE_SHOT)), PacketRefused::RatchetFields);
        assert_eq!(refused(&with(1, TYPE_RATCHET)), PacketRefused::Length(good.len()));
        // The flag says no one-time prekey and the id names one; or another source.
        for flag in [0, 2, 255] {
            assert_eq!(refused(&with(94, flag)), PacketRefused::PrekeyBlock);
        }
        let ratchet = packet(TYPE_RATCHET, 0, 0, None, 112);
        for cut in [0, 1, 2, 57, 58, 169] {
            assert_eq!(refused(&ratchet[..cut]), PacketRefused::Length(cut));
        }
        for (kind, block, sealed) in [(2, None, 144), (2, None, 113), (1, Some(&block(None)), 128)]
        {
            let bytes = packet(kind, 0, 0, block, sealed);
            assert_eq!(refused(&bytes), PacketRefused::Length(bytes.len()));
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..1400)) {
            let _ = Packet::parse(&noise);
            for kind in 1..=3 {
                let typed = [&[SUITE, kind][..], noise.get(2..).unwrap_or_default()].concat();
                let _ = Packet::parse(&typed);
            }
        }

        #[test]
        fn a_packet_that_parses_has_one_spelling(noise in prop::collection::vec(any::<u8>(), 1299)) {
            let mut bytes = noise;
            bytes[..2].copy_from_slice(&[SUITE, TYPE_PREKEY]);
            bytes[50..56].fill(0);
            bytes[94] &= 1;
            if let Ok(Packet::Session(read)) = Packet::parse(&bytes) {
                let again = header_bytes(TYPE_PREKEY, read.session_id(), read.place(), read.block());
                prop_assert_eq!(&again[..], read.header());
            }
        }
    }
}
