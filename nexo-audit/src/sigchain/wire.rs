//! The protocol's one encoding (PROTOCOL.md 2), with a fixed number of fields for each label.
//!
//! ```text
//! u32(len label) || label || u32(k) || (u32(len field) || field) * k       big-endian
//! ```

use crate::merkle::Hash;
use sha2::{Digest, Sha256};

/// Why bytes are not an encoding of this label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The bytes end inside a length or field.
    #[error("it is cut short")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow its last field")]
    Trailing,
    /// Another label.
    #[error("it has another label")]
    Label,
    /// Another number of fields.
    #[error("it has {found} fields")]
    Count {
        /// How many it has.
        found: u32,
    },
    /// A field has another width than its label gives it.
    #[error("a field has another width")]
    Width,
}

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The encoding of `fields` under `label`.
pub(crate) fn enc(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put(&mut out, label.as_bytes());
    put_length(&mut out, fields.len());
    fields.iter().for_each(|field| put(&mut out, field));
    out
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    // Everything that is encoded here was fetched under a limit far below 4 GiB. A length that
    // did not fit would make another hash, which fits nothing.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

/// The `N` fields of the encoding that `bytes` is, under `label`.
pub(crate) fn dec<'a, const N: usize>(
    label: &str,
    bytes: &'a [u8],
) -> Result<[&'a [u8]; N], EncodingError> {
    let mut rest = bytes;
    if field(&mut rest)? != label.as_bytes() {
        return Err(EncodingError::Label);
    }
    let found = number(&mut rest)?;
    if usize::try_from(found) != Ok(N) {
        return Err(EncodingError::Count { found });
    }
    let mut fields = [&[][..]; N];
    for slot in &mut fields {
        *slot = field(&mut rest)?;
    }
    if rest.is_empty() { Ok(fields) } else { Err(EncodingError::Trailing) }
}

/// A field of exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(field: &[u8]) -> Result<[u8; N], EncodingError> {
    field.try_into().map_err(|_| EncodingError::Width)
}

fn number(rest: &mut &[u8]) -> Result<u32, EncodingError> {
    let (number, after) = rest.split_first_chunk().ok_or(EncodingError::Truncated)?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], EncodingError> {
    let length = usize::try_from(number(rest)?).map_err(|_| EncodingError::Truncated)?;
    let (field, after) = rest.split_at_checked(length).ok_or(EncodingError::Truncated)?;
    *rest = after;
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_these() {
        let bytes = enc("ab", &[&[1, 2], &[]]);
        assert_eq!(bytes, b"\0\0\0\x02ab\0\0\0\x02\0\0\0\x02\x01\x02\0\0\0\0");
        assert_eq!(dec::<2>("ab", &bytes), Ok([&[1, 2][..], &[]]));
        assert_eq!(dec::<2>("abc", &bytes), Err(EncodingError::Label));
        assert_eq!(dec::<3>("ab", &bytes), Err(EncodingError::Count { found: 2 }));
        assert_eq!(dec::<2>("ab", &[&bytes[..], &[0]].concat()), Err(EncodingError::Trailing));
        assert_eq!(fixed::<3>(&[1, 2]), Err(EncodingError::Width));
    }

    #[test]
    fn a_length_beyond_the_end_is_cut_short() {
        let mut bytes = enc("ab", &[&[1, 2]]);
        bytes[10] = 0xff;
        assert_eq!(dec::<1>("ab", &bytes), Err(EncodingError::Truncated));
        // By one byte only: a length of three with two there.
        (bytes[10], bytes[13]) = (0, 3);
        assert_eq!(dec::<1>("ab", &bytes), Err(EncodingError::Truncated));
        assert_eq!(dec::<1>("ab", &[&bytes[..], &[9]].concat()), Ok([&[1, 2, 9][..]]));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_and_no_prefix_of_it(a: Vec<u8>, b: Vec<u8>, junk: Vec<u8>) {
            let bytes = enc("label", &[&a, &b]);
            prop_assert_eq!(dec::<2>("label", &bytes), Ok([&a[..], &b[..]]));
            for end in 0..bytes.len() {
                prop_assert_eq!(dec::<2>("label", &bytes[..end]), Err(EncodingError::Truncated));
            }
            let _ = dec::<2>("label", &junk);
        }
    }
}
