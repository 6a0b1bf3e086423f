//! Names: handles, the labels under which the log has them, device ids, fingerprints.
//!
//! ```text
//! handle       [a-z0-9][a-z0-9._-]{1,31}
//! label        H(enc("nexo/1/label", [origin, handle]))
//! device id    H(enc("nexo/1/device-id", [ed25519_pub]))
//! fingerprint  "nexo1:" and the account id in base32 (RFC 4648 6), lower case, 52 characters
//! ```

use super::wire::{enc, hash};
use crate::merkle::Hash;
use std::fmt;

const FINGERPRINT: &str = "nexo1:";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The name of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle(String);

/// Text that is no handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a handle is 2 to 32 of a-z 0-9 . _ - and begins with a letter or digit")]
pub struct HandleError;

impl Handle {
    /// Reads a handle, as it stands.
    ///
    /// # Errors
    /// [`HandleError`].
    pub fn parse(text: &str) -> Result<Self, HandleError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = (2..=32).contains(&text.len())
            && text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
            && text.bytes().next().is_some_and(plain);
        if good { Ok(Self(text.to_owned())) } else { Err(HandleError) }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands in the log for a handle. Whoever guesses the handle finds its entries.
#[must_use]
pub fn label(origin: &str, handle: &Handle) -> Hash {
    hash(&enc("nexo/1/label", &[origin.as_bytes(), handle.0.as_bytes()]))
}

/// The id of a native device, which follows from its key.
pub(crate) fn device_id(key: &[u8; 32]) -> Hash {
    hash(&enc("nexo/1/device-id", &[key]))
}

/// An account id as people and scripts pin it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub Hash);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FINGERPRINT)?;
        let bit = |at: usize| self.0.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
        for start in (0..256).step_by(5) {
            let symbol = (start..start + 5).fold(0, |value, at| value << 1 | bit(at));
            write!(f, "{}", char::from(ALPHABET[usize::from(symbol)]))?;
        }
        Ok(())
    }
}

impl Fingerprint {
    /// Reads a fingerprint in its one spelling; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(FINGERPRINT).filter(|digits| digits.len() == 52)?;
        let mut id = [0; 32];
        for (place, digit) in digits.bytes().enumerate() {
            let value = ALPHABET.iter().position(|symbol| *symbol == digit)?;
            for bit in 0..5 {
                if value >> (4 - bit) & 1 == 1 {
                    let at = place * 5 + bit;
                    // The last character has four bits that belong to no byte.
                    *id.get_mut(at / 8)? |= 0x80 >> (at % 8);
                }
            }
        }
        Some(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::to_hex;
    use proptest::prelude::*;

    #[test]
    fn handles() {
        for good in ["al", "0.", "a_b-c.d", &"a".repeat(32)] {
            let handle = Handle::parse(good).unwrap();
            assert_eq!((handle.as_str(), handle.to_string().as_str()), (good, good));
        }
        for bad in ["", "a", ".a", "-a", "Al", "a b", "ä1", "a/b", &"a".repeat(33)] {
            assert_eq!(Handle::parse(bad), Err(HandleError), "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_has_one_spelling() {
        let text = Fingerprint([0xff; 32]).to_string();
        assert_eq!(text, format!("nexo1:{}q", "7".repeat(51)));
        // A set bit behind the last byte, a shorter one, capitals, no prefix.
        for bad in [
            format!("nexo1:{}r", "7".repeat(51)),
            text[..57].to_owned(),
            text.to_uppercase(),
            text[6..].to_owned(),
            format!("nexo1:{}1", "7".repeat(51)),
        ] {
            assert_eq!(Fingerprint::parse(&bad), None, "{bad}");
        }
    }

    /// The hashes are over the encodings of PROTOCOL.md 3, made by hand.
    #[test]
    fn labels_and_device_ids_are_these() {
        let known = "59d242f976ca00a43fb067ad41694a9ac7e48e7569497bad21d6bb76f01ccec0";
        assert_eq!(to_hex(&label("log.example", &Handle::parse("alice").unwrap())), known);
        let known = "844258086ad270f5bd3ee219877eb8ebb24f15055f96bf58304cbf91da77a121";
        assert_eq!(to_hex(&device_id(&[1; 32])), known);
    }

    #[test]
    fn labels_differ_by_log_and_handle() {
        let (a, b) = (Handle::parse("al").unwrap(), Handle::parse("bo").unwrap());
        let labels = [label("x", &a), label("y", &a), label("x", &b)];
        assert!(labels[0] != labels[1] && labels[0] != labels[2]);
    }

    proptest! {
        #[test]
        fn fingerprints_read_back(id: [u8; 32], text: String) {
            let shown = Fingerprint(id).to_string();
            prop_assert_eq!(Fingerprint::parse(&shown), Some(Fingerprint(id)));
            let _ = Fingerprint::parse(&text);
        }
    }
}
