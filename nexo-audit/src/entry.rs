//! Entries of the log, and the bundles that carry them.
//!
//! ```text
//! bundle = (u16 length || entry) * 256, or as many as a partial bundle has      big-endian
//! entry  = u32(11) || "nexo/1/leaf" || u32(k) || (u32(length) || field) * k
//!
//! 0x01 key event, native   k=4   kind 1, label 32, H(event) 32, H(signatures) 32
//! 0x02 message, native     k=2   kind 1, envelope hash 32
//! 0x03 tombstone, native   k=3   kind 1, H(tombstone) 32, H(signature) 32
//! 0x11 key record, plain   k=3   kind 1, label 32, H(record) 32
//! 0x12 message, plain      k=2   kind 1, H(record) 32
//! 0x13 deletion, plain     k=2   kind 1, H(record) 32
//! ```
//!
//! This reader is written from that drawing alone. It decides only whether an entry is one of
//! these; whether one may follow another (a key event after its predecessor, say) is not seen
//! from hashes.

use crate::merkle::Hash;

/// Label of every entry.
const LABEL: &[u8] = b"nexo/1/leaf";

/// An entry, by kind. Every hash is SHA-256 of something the log does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 0x01: a change of a native account's devices or keys.
    KeyEvent {
        /// Hash of origin and handle: the one value that can be guessed.
        label: Hash,
        /// Hash of the event.
        event: Hash,
        /// Hash of its signatures.
        signatures: Hash,
    },
    /// 0x02: a native message.
    Message {
        /// Hash of its envelope.
        envelope: Hash,
    },
    /// 0x03: a signed deletion.
    Tombstone {
        /// Hash of the statement.
        statement: Hash,
        /// Hash of its signature.
        signature: Hash,
    },
    /// 0x11: a plain account's key.
    PlainKey {
        /// Hash of origin and handle.
        label: Hash,
        /// Hash of the record.
        record: Hash,
    },
    /// 0x12: a plain message.
    PlainMessage {
        /// Hash of the record.
        record: Hash,
    },
    /// 0x13: a plain deletion.
    PlainDeletion {
        /// Hash of the record.
        record: Hash,
    },
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The bytes end inside a length or field.
    #[error("the entry is cut short")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the last field of the entry")]
    Trailing,
    /// Not the label of entries.
    #[error("the entry does not start with the label of entries")]
    Label,
    /// The kind is not one byte, or one this auditor does not know.
    #[error("the kind of the entry is unknown")]
    Kind,
    /// The kind has another number of fields.
    #[error("an entry of kind {kind:#04x} does not have {fields} fields")]
    Count {
        /// The kind byte.
        kind: u8,
        /// How many fields the entry has.
        fields: u32,
    },
    /// A hash is not 32 bytes.
    #[error("a hash in the entry is not 32 bytes")]
    Size,
}

/// Why bytes are not the bundle they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The bytes end before the last entry does.
    #[error("the bundle ends inside or before its entry {position}")]
    Truncated {
        /// Position in the bundle, from 0, of the first entry that is not whole.
        position: u16,
    },
    /// Bytes follow the last entry.
    #[error("bytes follow the last entry of the bundle")]
    Trailing,
}

impl Entry {
    /// Reads an entry; anything but the one encoding of a known kind is refused.
    ///
    /// # Errors
    /// [`EntryError`] names what differs.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut reader = Reader { rest: bytes };
        if reader.field()? != LABEL {
            return Err(EntryError::Label);
        }
        let fields = reader.number()?;
        let &[kind] = reader.kind(fields)? else { return Err(EntryError::Kind) };
        let wanted = match kind {
            0x01 => 4,
            0x03 | 0x11 => 3,
            0x02 | 0x12 | 0x13 => 2,
            _ => return Err(EntryError::Kind),
        };
        if fields != wanted {
            return Err(EntryError::Count { kind, fields });
        }
        let first = reader.hash()?;
        let entry = match kind {
            0x01 => {
                let (event, signatures) = (reader.hash()?, reader.hash()?);
                Self::KeyEvent { label: first, event, signatures }
            }
            0x02 => Self::Message { envelope: first },
            0x03 => Self::Tombstone { statement: first, signature: reader.hash()? },
            0x11 => Self::PlainKey { label: first, record: reader.hash()? },
            0x12 => Self::PlainMessage { record: first },
            _ => Self::PlainDeletion { record: first },
        };
        if reader.rest.is_empty() { Ok(entry) } else { Err(EntryError::Trailing) }
    }
}

/// Reads the encoding from the front.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u32, EntryError> {
        let (number, rest) = self.rest.split_first_chunk().ok_or(EntryError::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn field(&mut self) -> Result<&'a [u8], EntryError> {
        let length = self.number()? as usize;
        let (field, rest) = self.rest.split_at_checked(length).ok_or(EntryError::Truncated)?;
        self.rest = rest;
        Ok(field)
    }

    /// The first field, which an entry without fields does not have.
    fn kind(&mut self, fields: u32) -> Result<&'a [u8], EntryError> {
        if fields == 0 { Err(EntryError::Kind) } else { self.field() }
    }

    fn hash(&mut self) -> Result<Hash, EntryError> {
        self.field()?.try_into().map_err(|_| EntryError::Size)
    }
}

/// Splits a bundle into its entries, which must be exactly `count`.
///
/// # Errors
/// [`BundleError`] names what differs.
pub fn split_bundle(bytes: &[u8], count: u16) -> Result<Vec<&[u8]>, BundleError> {
    let mut rest = bytes;
    let mut entries = Vec::with_capacity(usize::from(count));
    for position in 0..count {
        let cut = BundleError::Truncated { position };
        let (length, after) = rest.split_first_chunk().ok_or(cut)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, after) = after.split_at_checked(length).ok_or(cut)?;
        entries.push(entry);
        rest = after;
    }
    if rest.is_empty() { Ok(entries) } else { Err(BundleError::Trailing) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::{bundle, enc, vector};
    use base64::Engine as _;
    use proptest::prelude::*;

    const A: Hash = [1; 32];
    const B: Hash = [2; 32];
    const C: Hash = [3; 32];

    fn leaf(fields: &[&[u8]]) -> Vec<u8> {
        enc("nexo/1/leaf", fields)
    }

    #[test]
    fn every_kind_is_read() {
        for (fields, wanted) in [
            (vec![&[1][..], &A, &B, &C], Entry::KeyEvent { label: A, event: B, signatures: C }),
            (vec![&[2], &A], Entry::Message { envelope: A }),
            (vec![&[3], &A, &B], Entry::Tombstone { statement: A, signature: B }),
            (vec![&[0x11], &A, &B], Entry::PlainKey { label: A, record: B }),
            (vec![&[0x12], &A], Entry::PlainMessage { record: A }),
            (vec![&[0x13], &A], Entry::PlainDeletion { record: A }),
        ] {
            let bytes = leaf(&fields);
            assert_eq!(Entry::parse(&bytes), Ok(wanted));
            // One byte less, one field less, one byte more.
            assert_eq!(Entry::parse(&bytes[..bytes.len() - 1]), Err(EntryError::Truncated));
            let kind = fields[0][0];
            let (fewer, count) = (leaf(&fields[..fields.len() - 1]), fields.len() - 1);
            let count = u32::try_from(count).unwrap();
            assert_eq!(Entry::parse(&fewer), Err(EntryError::Count { kind, fields: count }));
            let more = [&bytes[..], &[0]].concat();
            assert_eq!(Entry::parse(&more), Err(EntryError::Trailing));
        }
    }

    #[test]
    fn the_bytes_of_a_message_are_these() {
        let mut bytes = vec![0, 0, 0, 11];
        bytes.extend(b"nexo/1/leaf");
        bytes.extend([0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 0, 0, 32]);
        bytes.extend(A);
        assert_eq!(Entry::parse(&bytes), Ok(Entry::Message { envelope: A }));
    }

    #[test]
    fn anything_else_is_refused() {
        for (bad, why) in [
            (vec![], EntryError::Truncated),
            (vec![0, 0, 0], EntryError::Truncated),
            (vec![0xff; 64], EntryError::Truncated),
            (b"one".to_vec(), EntryError::Truncated),
            (enc("nexo/2/leaf", &[&[2], &A]), EntryError::Label),
            (enc("", &[&[2], &A]), EntryError::Label),
            (leaf(&[]), EntryError::Kind),
            (leaf(&[&[]]), EntryError::Kind),
            (leaf(&[&[0, 2], &A]), EntryError::Kind),
            (leaf(&[&[0], &A]), EntryError::Kind),
            (leaf(&[&[4], &A]), EntryError::Kind),
            (leaf(&[&[0x14], &A]), EntryError::Kind),
            (leaf(&[&[2], &A, &B]), EntryError::Count { kind: 2, fields: 3 }),
            (leaf(&[&[2], &A[..31]]), EntryError::Size),
            (leaf(&[&[2], &[0; 33]]), EntryError::Size),
            (leaf(&[&[3], &A, &[]]), EntryError::Size),
        ] {
            assert_eq!(Entry::parse(&bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn bundles_have_exactly_their_entries() {
        let entries = [&b"one"[..], b"", b"three"];
        let bytes = bundle(&entries);
        assert_eq!(split_bundle(&bytes, 3), Ok(entries.to_vec()));
        assert_eq!(split_bundle(&bytes, 2), Err(BundleError::Trailing));
        assert_eq!(split_bundle(&bytes, 4), Err(BundleError::Truncated { position: 3 }));
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(split_bundle(cut, 3), Err(BundleError::Truncated { position: 2 }));
        assert_eq!(split_bundle(&bytes[..1], 3), Err(BundleError::Truncated { position: 0 }));
        assert_eq!(split_bundle(&[], 0), Ok(vec![]));
    }

    #[test]
    fn the_bundles_of_a_foreign_log_are_read() {
        let log = vector("tlog/tessera-testlog.json");
        let bytes = |text: &serde_json::Value| {
            base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap()
        };
        let entries: Vec<Vec<u8>> = log["entries"].as_array().unwrap().iter().map(bytes).collect();
        for count in 1..=15u16 {
            let body = bytes(&log["tiles"][format!("tile/entries/000.p/{count}")]);
            assert_eq!(split_bundle(&body, count).unwrap(), entries[..usize::from(count)]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_each_entry_has_one_encoding(bytes: Vec<u8>, count: u16, a: Hash) {
            let _ = split_bundle(&bytes, count);
            let _ = Entry::parse(&bytes);
            let good = leaf(&[&[2], &a]);
            for at in 0..good.len() - 32 {
                let mut bad = good.clone();
                bad[at] ^= 1;
                // Kind 0x02 with its low bit flipped is 0x03, which has more fields.
                prop_assert!(Entry::parse(&bad).is_err(), "byte {}", at);
            }
        }
    }
}
