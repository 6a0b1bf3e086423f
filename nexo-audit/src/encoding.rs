//! Strict base64 and lower-case hex, as the log's formats write them.
//!
//! Each value has one spelling: base64 with padding and without stray bits (RFC 4648 section 4),
//! hex in lower case. Anything else is refused, so that two readers cannot differ.

use crate::merkle::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// `None` when `text` is not the one spelling of any bytes.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A hash in base64; `None` for any other length.
pub(crate) fn hash_from_base64(text: &str) -> Option<Hash> {
    from_base64(text)?.try_into().ok()
}

/// A hash in lower-case hex; `None` for any other length or digit.
pub(crate) fn hash_from_hex(text: &str) -> Option<Hash> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    let bytes = bytes.collect::<Option<Vec<u8>>>()?;
    bytes.try_into().ok().filter(|_| odd.is_empty())
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(from_base64("AAECAw=="), Some(vec![0, 1, 2, 3]));
        assert_eq!(to_base64(&[0, 1, 2, 3]), "AAECAw==");
        for bad in ["AAECAw", "AAECAw=", "AAECAx==", "AAEC Aw==", "AAECAw==\n", "AA-_", "===="] {
            assert_eq!(from_base64(bad), None, "{bad:?}");
        }
        assert_eq!(hash_from_base64(&to_base64(&[9; 32])), Some([9; 32]));
        assert_eq!(hash_from_base64(&to_base64(&[9; 31])), None);
        assert_eq!(hash_from_base64(&to_base64(&[9; 33])), None);
        assert_eq!(to_hex(&[0x0a, 0xff]), "0aff");
        let hex = to_hex(&[0xa5; 32]);
        assert_eq!(hash_from_hex(&hex), Some([0xa5; 32]));
        for bad in [&hex[1..], &hex[2..], &format!("{hex}0"), &hex.to_uppercase(), ""] {
            assert_eq!(hash_from_hex(bad), None, "{bad:?}");
        }
    }
}
