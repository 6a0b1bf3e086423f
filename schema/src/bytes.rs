//! The one canonical encoding, and strict base64 and hex.
//!
//! Everything that is hashed, signed, MACed or used as AAD or HKDF info is
//! [`enc`] of a label and a fixed list of fields (PROTOCOL.md 2):
//!
//! ```text
//! u32(len label) || label || u32(k) || (u32(len f_i) || f_i) * k      big-endian
//! ```
//!
//! JSON never takes part in authenticated data; it only carries these bytes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Why bytes are not a canonical encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a length or a field, or a length exceeds what is left.
    #[error("the encoding is cut short")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// The label is another one than the caller asked for.
    #[error("the label is not the expected one")]
    Label,
    /// The label has another number of fields.
    #[error("the number of fields is not the one this label has")]
    Count,
    /// A field has another size than its type.
    #[error("a field has the wrong size or value")]
    Field,
    /// Text that is not the one canonical base64 or hex spelling of any bytes.
    #[error("not canonical base64 or lower-case hex")]
    Text,
}

/// Encodes `fields` under `label`.
///
/// # Panics
/// If a field or the label is 4 GiB or longer, which no caller's bounds allow.
#[must_use]
pub fn enc(label: &str, fields: &[&[u8]]) -> Vec<u8> {
    let total: usize = fields.iter().map(|f| 4 + f.len()).sum();
    let mut out = Vec::with_capacity(8 + label.len() + total);
    push(&mut out, label.as_bytes());
    out.extend_from_slice(&length(fields.len()).to_be_bytes());
    for field in fields {
        push(&mut out, field);
    }
    out
}

/// Decodes the fields of `label`, which must be exactly `N`; refuses anything
/// but the bytes [`enc`] makes.
///
/// # Errors
/// [`DecodeError`] names what differs.
pub fn dec<'a, const N: usize>(label: &str, bytes: &'a [u8]) -> Result<[&'a [u8]; N], DecodeError> {
    let mut rest = bytes;
    if take(&mut rest)? != label.as_bytes() {
        return Err(DecodeError::Label);
    }
    let count = take_u32(&mut rest)? as usize;
    if count != N {
        return Err(DecodeError::Count);
    }
    let mut fields = [&[][..]; N];
    for field in &mut fields {
        *field = take(&mut rest)?;
    }
    if rest.is_empty() { Ok(fields) } else { Err(DecodeError::Trailing) }
}

/// A field of exactly `N` bytes.
///
/// # Errors
/// [`DecodeError::Field`] for any other length.
pub fn fixed<const N: usize>(field: &[u8]) -> Result<[u8; N], DecodeError> {
    field.try_into().map_err(|_| DecodeError::Field)
}

/// A big-endian u64 field.
///
/// # Errors
/// [`DecodeError::Field`] if it is not 8 bytes long.
pub fn be_u64(field: &[u8]) -> Result<u64, DecodeError> {
    fixed::<8>(field).map(u64::from_be_bytes)
}

/// A big-endian u16 field.
///
/// # Errors
/// [`DecodeError::Field`] if it is not 2 bytes long.
pub fn be_u16(field: &[u8]) -> Result<u16, DecodeError> {
    fixed::<2>(field).map(u16::from_be_bytes)
}

/// Standard base64 with padding, as the seed's fields are written.
#[must_use]
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads standard base64 with padding; junk, missing padding and non-zero
/// trailing bits are refused, so every byte string has one spelling.
///
/// # Errors
/// [`DecodeError::Text`].
pub fn from_base64(text: &str) -> Result<Vec<u8>, DecodeError> {
    STANDARD.decode(text).map_err(|_| DecodeError::Text)
}

/// URL-safe base64 without padding (JOSE, tokens, nonces).
#[must_use]
pub fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads URL-safe base64 without padding, strictly.
///
/// # Errors
/// [`DecodeError::Text`].
pub fn from_base64url(text: &str) -> Result<Vec<u8>, DecodeError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| DecodeError::Text)
}

/// Lower-case hex, as every id in JSON is written.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// Reads exactly `N` bytes of lower-case hex.
///
/// # Errors
/// [`DecodeError::Text`] for another length, upper case or any other character.
pub fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], DecodeError> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return Err(DecodeError::Text);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(out)
}

fn nibble(digit: u8) -> Result<u8, DecodeError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DecodeError::Text),
    }
}

fn push(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&length(field.len()).to_be_bytes());
    out.extend_from_slice(field);
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("callers bound every field far below 4 GiB")
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(u32::from_be_bytes(*head))
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let len = take_u32(rest)? as usize;
    let (field, tail) = rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
    *rest = tail;
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answer_of_kat_draft() {
        let out = enc("nexo/1/test", &[b"", &[0x00, 0xff], b"abc"]);
        assert_eq!(
            to_hex(&out),
            "0000000b6e65786f2f312f7465737400000003000000000000000200ff00000003616263"
        );
    }

    #[test]
    fn every_other_reading_is_refused() {
        let good = enc("nexo/1/test", &[b"ab", b""]);
        assert_eq!(dec::<2>("nexo/1/test", &good), Ok([&b"ab"[..], &b""[..]]));
        assert_eq!(dec::<2>("nexo/1/tess", &good), Err(DecodeError::Label));
        assert_eq!(dec::<1>("nexo/1/test", &good), Err(DecodeError::Count));
        assert_eq!(dec::<3>("nexo/1/test", &good), Err(DecodeError::Count));
        assert_eq!(
            dec::<2>("nexo/1/test", &[&good[..], b"x"].concat()),
            Err(DecodeError::Trailing)
        );
        for cut in 0..good.len() {
            assert!(dec::<2>("nexo/1/test", &good[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_input_allocates_nothing() {
        let mut huge = enc("nexo/1/test", &[b"ab"]);
        let at = huge.len() - 6;
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(dec::<1>("nexo/1/test", &huge), Err(DecodeError::Truncated));
    }

    #[test]
    fn text_has_one_spelling() {
        for bad in ["YQ", "YQ=", "YR==", " YQ==", "YQ==\n", "Y-==", "YQ==YQ=="] {
            assert_eq!(from_base64(bad), Err(DecodeError::Text), "{bad:?}");
        }
        assert_eq!(from_base64("YQ==").as_deref(), Ok(&b"a"[..]));
        for bad in ["0", "0A", "zz", "0a0", "é"] {
            assert_eq!(from_hex::<1>(bad), Err(DecodeError::Text), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn encodings_are_injective_and_decode(a: Vec<u8>, b: Vec<u8>, c: Vec<u8>) {
            let bytes = enc("nexo/1/test", &[&a, &b, &c]);
            prop_assert_eq!(dec::<3>("nexo/1/test", &bytes), Ok([&a[..], &b[..], &c[..]]));
            prop_assert_eq!(from_base64(&to_base64(&a)), Ok(a.clone()));
            prop_assert_eq!(from_base64url(&to_base64url(&b)), Ok(b));
        }

        #[test]
        fn no_input_panics(bytes: Vec<u8>, text: String) {
            let _ = dec::<2>("nexo/1/test", &bytes);
            let _ = (from_base64(&text), from_base64url(&text), from_hex::<4>(&text));
        }
    }
}
