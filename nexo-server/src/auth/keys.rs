//! Device keys under the strict rule, and the only signature check of the server's edge.
//!
//! ```text
//! 32 bytes that decompress, compress back to themselves, and are a point of the
//! prime-order group other than the identity
//! ```
//!
//! Anything laxer lets one device have several keys, ids or signatures (design/e2ee.md 2.4).
//! There is no signing here: the relay's own keys live in `log/signer.rs`.

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use nexo_schema::bytes::to_hex;

/// Why bytes are not a key we accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Another number of bytes than 32.
    #[error("an Ed25519 key has 32 bytes")]
    Length,
    /// The bytes are no point of the curve.
    #[error("not a point of the curve")]
    NotAPoint,
    /// A second spelling of a point: one key would have two device ids.
    #[error("not the canonical encoding of the point")]
    NotCanonical,
    /// A point of small order, under which a signature fits many messages.
    #[error("a point of small order")]
    SmallOrder,
    /// A point outside the prime-order group: several such keys share one X25519 key.
    #[error("a point outside the prime-order group")]
    Torsion,
}

/// The Ed25519 key of a device. A value of this type obeys the strict rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceKey(VerifyingKey);

impl DeviceKey {
    /// Applies the strict rule.
    ///
    /// # Errors
    /// [`KeyRefused`] names the first part of the rule that is broken.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyRefused> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyRefused::Length)?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyRefused::NotAPoint)?;
        let point = key.to_edwards();
        if point.compress().as_bytes() != bytes {
            return Err(KeyRefused::NotCanonical);
        }
        if point.is_small_order() {
            return Err(KeyRefused::SmallOrder);
        }
        if !point.is_torsion_free() {
            return Err(KeyRefused::Torsion);
        }
        Ok(Self(key))
    }

    /// The 32 bytes as received, logged and compared.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The X25519 key of the same device (the birational map; libsodium's conversion).
    #[must_use]
    pub fn x25519(&self) -> [u8; 32] {
        self.0.to_montgomery().to_bytes()
    }

    /// Whether `signature` is this key's over `message`, strictly: canonical `S`, no point of
    /// small order (RFC 8032 section 5.1.7), so that one message has one signature.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", to_hex(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::from_hex;
    use serde_json::Value;

    fn vectors(path: &str) -> Value {
        let path = format!("{}/../schema/vectors/{path}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// A key of a vector, which may break the rule, and also the hex.
    fn key(value: &Value) -> Result<DeviceKey, KeyRefused> {
        DeviceKey::parse(&from_hex::<32>(value.as_str().unwrap()).unwrap())
    }

    /// Whether key rule and signature check both say yes.
    fn accepts(key_hex: &Value, message: &[u8], signature: &Value) -> bool {
        let Ok(signature) = from_hex::<64>(signature.as_str().unwrap()) else { return false };
        key(key_hex).is_ok_and(|key| key.verify(message, &signature))
    }

    #[test]
    fn keys_convert_to_x25519_as_libsodium_does() {
        let file = vectors("nexo/ed25519_to_x25519.json");
        let accept = file["accept"].as_array().unwrap();
        assert_eq!(accept.len(), 4);
        for case in accept {
            let key = key(&case["ed25519_pub"]).unwrap();
            assert_eq!(to_hex(&key.x25519()), case["x25519_pub"].as_str().unwrap());
        }
    }

    #[test]
    fn of_the_keys_that_share_an_x25519_key_only_the_honest_pair_is_a_key() {
        let file = vectors("nexo/ed25519_to_x25519.json");
        let cases = file["equivalent_dh"].as_array().unwrap();
        assert_eq!(cases.len(), 16);
        let mut accepted = Vec::new();
        for case in cases {
            match key(&case["ed25519_pub"]) {
                Ok(key) => accepted.push(*key.as_bytes()),
                Err(refused) => assert_eq!(refused, KeyRefused::Torsion, "{case}"),
            }
        }
        // A and -A are both in the prime-order group; they are different device ids.
        accepted.sort_unstable();
        accepted.dedup();
        assert_eq!(accepted.len(), 2);
    }

    #[test]
    fn every_key_to_refuse_is_refused() {
        let file = vectors("nexo/ed25519_to_x25519.json");
        let reject = file["reject"].as_array().unwrap();
        assert_eq!(reject.len(), 31);
        for case in reject {
            assert!(key(&case["ed25519_pub"]).is_err(), "{case}");
        }
        assert_eq!(DeviceKey::parse(&[0; 31]), Err(KeyRefused::Length));
        assert_eq!(DeviceKey::parse(&[0; 33]), Err(KeyRefused::Length));
        // y = 2 is on no point; y = 1 is the identity; y = p + 1 is the identity again.
        let y = |first: u8, rest: u8, last: u8| {
            let mut bytes = [rest; 32];
            (bytes[0], bytes[31]) = (first, last);
            DeviceKey::parse(&bytes)
        };
        assert_eq!(y(2, 0, 0), Err(KeyRefused::NotAPoint));
        assert_eq!(y(1, 0, 0), Err(KeyRefused::SmallOrder));
        assert_eq!(y(0xee, 0xff, 0x7f), Err(KeyRefused::NotCanonical));
    }

    #[test]
    fn of_the_cctv_vectors_only_the_one_without_flags_is_accepted() {
        let file = vectors("cctv/ed25519vectors.json");
        let cases = file.as_array().unwrap();
        assert_eq!(cases.len(), 914);
        for case in cases {
            let message = case["msg"].as_str().unwrap().as_bytes();
            let honest = case["flags"].is_null();
            assert_eq!(accepts(&case["key"], message, &case["sig"]), honest, "{case}");
        }
    }

    #[test]
    fn none_of_the_speccheck_cases_is_accepted() {
        let file = vectors("ed25519-speccheck/cases.json");
        let cases = file.as_array().unwrap();
        assert_eq!(cases.len(), 12);
        for case in cases {
            let message = from_hex::<32>(case["message"].as_str().unwrap()).unwrap();
            assert!(!accepts(&case["pub_key"], &message, &case["signature"]), "{case}");
        }
    }

    #[test]
    fn wycheproof_signatures_are_judged_as_the_file_says() {
        let file = vectors("wycheproof/ed25519_test.json");
        let mut seen = 0;
        for group in file["testGroups"].as_array().unwrap() {
            for case in group["tests"].as_array().unwrap() {
                let message = unhex(case["msg"].as_str().unwrap());
                let verdict = accepts(&group["publicKey"]["pk"], &message, &case["sig"]);
                assert_eq!(verdict, case["result"] == "valid", "{case}");
                seen += 1;
            }
        }
        assert_eq!(seen, 151);
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| from_hex::<1>(&text[at..at + 2]).unwrap()[0]).collect()
    }
}
