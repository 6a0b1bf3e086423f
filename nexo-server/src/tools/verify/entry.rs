//! Entries, read: the other direction of `nexo_schema::entry`, and as strict.
//!
//! ```text
//! entry = enc("nexo/1/leaf", [kind u8, hash 32, ...])     PROTOCOL.md 6
//! ```

use nexo_schema::bytes::{DecodeError, dec, fixed};
use nexo_schema::entry::LEAF;

use crate::log::Hash;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logged {
    /// A native key event.
    Event {
        /// H of origin and handle.
        label: Hash,
        /// H of the event.
        event: Hash,
        /// H of its signatures.
        signatures: Hash,
    },
    /// A native message: EH.
    Message(Hash),
    /// A native tombstone.
    Tombstone {
        /// H of the statement.
        statement: Hash,
        /// H of its signature.
        sig: Hash,
    },
    /// A plain account's key.
    PlainKey {
        /// H of origin and handle.
        label: Hash,
        /// H of the record.
        record: Hash,
    },
    /// A plain message: H of its record.
    PlainMessage(Hash),
    /// A plain deletion: H of its record.
    PlainDeletion(Hash),
}

impl Logged {
    /// Reads an entry.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if let Ok([kind, one]) = dec::<2>(LEAF, bytes) {
            let hash = fixed(one)?;
            return match fixed(kind)? {
                [0x02] => Ok(Self::Message(hash)),
                [0x12] => Ok(Self::PlainMessage(hash)),
                [0x13] => Ok(Self::PlainDeletion(hash)),
                _ => Err(DecodeError::Field),
            };
        }
        if let Ok([kind, one, two]) = dec::<3>(LEAF, bytes) {
            let (one, two) = (fixed(one)?, fixed(two)?);
            return match fixed(kind)? {
                [0x03] => Ok(Self::Tombstone { statement: one, sig: two }),
                [0x11] => Ok(Self::PlainKey { label: one, record: two }),
                _ => Err(DecodeError::Field),
            };
        }
        let [kind, label, event, signatures] = dec::<4>(LEAF, bytes)?;
        let (label, event, signatures) = (fixed(label)?, fixed(event)?, fixed(signatures)?);
        match fixed(kind)? {
            [0x01] => Ok(Self::Event { label, event, signatures }),
            _ => Err(DecodeError::Field),
        }
    }

    /// The table whose row lies at the entry's place; `None` for a plain account, which is found
    /// by its id.
    pub(super) fn table(&self) -> Option<&'static str> {
        match self {
            Self::Event { .. } => Some("key_events"),
            Self::Message(_) | Self::PlainMessage(_) => Some("messages"),
            Self::Tombstone { .. } | Self::PlainDeletion(_) => Some("deletions"),
            Self::PlainKey { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use nexo_schema::{bytes::enc, entry};

    use super::*;

    #[test]
    fn every_kind_reads_back_and_nothing_else_does() {
        let (a, b, c) = ([1; 32], [2; 32], [3; 32]);
        let event = Logged::Event { label: a, event: b, signatures: c };
        for (bytes, read) in [
            (entry::key_event(&a, &b, &c), event),
            (entry::message(&a), Logged::Message(a)),
            (entry::tombstone(&a, &b), Logged::Tombstone { statement: a, sig: b }),
            (entry::plain_key(&a, &b), Logged::PlainKey { label: a, record: b }),
            (entry::plain_message(&a), Logged::PlainMessage(a)),
            (entry::plain_deletion(&a), Logged::PlainDeletion(a)),
        ] {
            assert_eq!(Logged::decode(&bytes), Ok(read));
            for cut in 0..bytes.len() {
                assert!(Logged::decode(&bytes[..cut]).is_err());
            }
            assert!(Logged::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
        for fields in [
            &[&[0x01][..], &a][..],
            &[&[0x02], &a, &b],
            &[&[0x03], &a, &b, &c],
            &[&[0x04], &a],
            &[&[0x02], &a[1..]],
            &[&[0x02, 0], &a],
            &[&[], &a],
            &[&[0x01], &a, &b, &c, &c],
        ] {
            assert!(Logged::decode(&enc(LEAF, fields)).is_err(), "{fields:?}");
        }
    }
}
