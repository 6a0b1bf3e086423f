//! The cryptography behind jsonwebtoken: HS256 and EdDSA over the crates we already have.
//!
//! jsonwebtoken brings none of its own, and its ready-made providers bring a second crypto
//! stack (design 18). Everything but signing and verifying HS256 and verifying EdDSA is refused
//! with an error. EdDSA keys obey the strict rule of [`super::keys`].

use std::sync::Once;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use sha2::Sha256;

use super::keys::DeviceKey;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // Helpers for JWK import and thumbprints, which we do by hand; refusing beats panicking.
    key_utils: KeyUtils {
        rsa_pub_components_from_private_key: |_| Err(unsupported()),
        rsa_pub_components_from_public_key: |_| Err(unsupported()),
        ec_pub_components_from_private_key: |_, _| Err(unsupported()),
        ed_pub_components_from_private_key: |_, _| Err(unsupported()),
        compute_digest: |_, _| Err(unsupported()),
    },
};

/// Makes this the provider of the process; further calls do nothing. Whatever signs or checks
/// a token calls it when it is made, so no order of start-up can forget it.
pub fn install() {
    static ONCE: Once = Once::new();
    // It fails only if another provider was installed before, and nothing else installs one.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => Ok(Box::new(Hs256::new(key.as_bytes())?)),
        _ => Err(unsupported()),
    }
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    // The family is the key's, never the token's: a public key is no HMAC secret.
    match (algorithm, key.family()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac) => {
            Ok(Box::new(Hs256::new(key.try_get_as_bytes()?)?))
        }
        (Algorithm::EdDSA, AlgorithmFamily::Ed) => {
            let key = DeviceKey::parse(key.try_get_as_bytes()?);
            Ok(Box::new(EdDsa(key.map_err(|_| Error::from(ErrorKind::InvalidEddsaKey))?)))
        }
        _ => Err(unsupported()),
    }
}

fn unsupported() -> Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

/// HMAC with SHA-256 (RFC 7518 section 3.2), keyed.
struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn new(key: &[u8]) -> Result<Self> {
        Hmac::new_from_slice(key).map(Self).map_err(|_| ErrorKind::InvalidKeyFormat.into())
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(self.0.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        // Compares in constant time, and refuses any other length than 32.
        let mac = self.0.clone().chain_update(message);
        mac.verify_slice(tag).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

/// Ed25519 by a key that obeys the strict rule.
struct EdDsa(DeviceKey);

impl Verifier<Vec<u8>> for EdDsa {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        let signature = <&[u8; 64]>::try_from(&tag[..]).map_err(|_| signature::Error::new())?;
        let good = self.0.verify(message, signature);
        good.then_some(()).ok_or_else(signature::Error::new)
    }
}

impl JwtVerifier for EdDsa {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use jsonwebtoken::crypto::{sign, verify};
    use nexo_schema::bytes::{from_base64url, to_base64url};
    use serde_json::Value;

    fn vectors() -> Value {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../schema/vectors/wycheproof/json_web_signature_test.json"
        );
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// What `jsonwebtoken::decode` does before it looks at claims.
    fn accepts(jws: &str, key: &DecodingKey) -> bool {
        let Ok(header) = jsonwebtoken::decode_header(jws) else { return false };
        let parts: Vec<&str> = jws.split('.').collect();
        let [head, payload, tag] = parts[..] else { return false };
        header.alg == Algorithm::HS256
            && from_base64url(payload).is_ok()
            && verify(tag, format!("{head}.{payload}").as_bytes(), key, header.alg).unwrap_or(false)
    }

    #[test]
    fn g_wycheproof_hs256_is_judged_as_the_file_says_and_the_rest_refused() {
        install();
        let (mut shared, mut foreign) = (0, 0);
        for group in vectors()["testGroups"].as_array().unwrap() {
            let key = &group["private"];
            let secret = key["k"].as_str().map(|k| from_base64url(k).unwrap());
            for case in group["tests"].as_array().unwrap() {
                let jws = case["jws"].as_str().unwrap();
                let Some(secret) = &secret else {
                    let key = DecodingKey::from_ed_der(&[0x11; 32]);
                    assert!(!accepts(jws, &key), "{case}");
                    foreign += 1;
                    continue;
                };
                let valid = match case["tcId"].as_u64().unwrap() {
                    // The file lost the padding these are about: the bytes are those of 357.
                    367 | 370 => true,
                    // Called valid for lenient decoders; a `?` is no base64url.
                    372 | 373 => false,
                    _ => case["result"] == "valid",
                };
                assert_eq!(accepts(jws, &DecodingKey::from_secret(secret)), valid, "{case}");
                shared += 1;
            }
        }
        assert_eq!((shared, foreign), (40, 361));
    }

    #[test]
    fn hs256_signs_what_it_verifies() {
        install();
        install();
        let key = EncodingKey::from_secret(&[7; 32]);
        let tag = sign(b"a.b", &key, Algorithm::HS256).unwrap();
        let check = |tag: &str, message: &[u8], secret: &[u8]| {
            verify(tag, message, &DecodingKey::from_secret(secret), Algorithm::HS256)
        };
        assert!(check(&tag, b"a.b", &[7; 32]).unwrap());
        assert!(!check(&tag, b"a.c", &[7; 32]).unwrap());
        assert!(!check(&tag, b"a.b", &[8; 32]).unwrap());
        assert!(!check(&tag[..40], b"a.b", &[7; 32]).unwrap());
        assert!(check(&format!("{tag}="), b"a.b", &[7; 32]).is_err());
    }

    #[test]
    fn eddsa_needs_a_key_under_the_strict_rule_and_its_signature() {
        install();
        let signing = SigningKey::from_bytes(&[3; 32]);
        let public = DecodingKey::from_ed_der(signing.verifying_key().as_bytes());
        let tag = to_base64url(&signing.sign(b"a.b").to_bytes());
        assert!(verify(&tag, b"a.b", &public, Algorithm::EdDSA).unwrap());
        assert!(!verify(&tag, b"a.c", &public, Algorithm::EdDSA).unwrap());
        assert!(!verify(&tag[..84], b"a.b", &public, Algorithm::EdDSA).unwrap());
        // The identity verifies an all-but-zero signature under lax rules.
        let mut identity = [0; 32];
        identity[0] = 1;
        let weak = DecodingKey::from_ed_der(&identity);
        assert!(verify(&tag, b"a.b", &weak, Algorithm::EdDSA).is_err());
        let short = DecodingKey::from_ed_der(&[1; 5]);
        assert!(verify(&tag, b"a.b", &short, Algorithm::EdDSA).is_err());
    }

    #[test]
    fn no_other_pair_of_key_and_algorithm_is_served() {
        install();
        let secret = DecodingKey::from_secret(&[7; 32]);
        let public = DecodingKey::from_ed_der(&[7; 32]);
        for algorithm in [Algorithm::HS384, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
            assert!(verify("AAAA", b"a", &secret, algorithm).is_err(), "{algorithm:?}");
            assert!(sign(b"a", &EncodingKey::from_secret(&[7; 32]), algorithm).is_err());
        }
        assert!(verify("AAAA", b"a", &public, Algorithm::HS256).is_err());
        assert!(sign(b"a", &EncodingKey::from_ed_der(&[7; 48]), Algorithm::EdDSA).is_err());
    }
}
