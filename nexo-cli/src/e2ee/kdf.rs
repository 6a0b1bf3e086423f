//! SHA-256, HMAC and HKDF in the shapes the protocol uses them: fixed sizes,
//! secrets that wipe themselves. Nothing here knows a label.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// `H` of the protocol text.
pub(super) fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// `HMAC-SHA256(key, message)` (RFC 2104).
pub(super) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// `HKDF(salt, ikm, info, N)` (RFC 5869, extract then expand).
pub(super) fn hkdf<const N: usize>(salt: &[u8], ikm: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    expand(&Hkdf::<Sha256>::new(Some(salt), ikm), info)
}

/// `HKDF-Expand(prk, info, N)` alone, for a `prk` that is already a uniform key.
pub(super) fn hkdf_expand<const N: usize>(prk: &[u8; 32], info: &[u8]) -> Zeroizing<[u8; N]> {
    expand(&Hkdf::<Sha256>::from_prk(prk).expect("32 bytes are one SHA-256 block of prk"), info)
}

/// The first 16 bytes of a hash, where an id is shorter than one.
pub(super) fn first_half(hash: &[u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32) };
    let mut okm = Zeroizing::new([0; N]);
    hkdf.expand(info, okm.as_mut()).expect("N is at most 255 blocks, checked at compile time");
    okm
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::kat::{hex, load};

    #[test]
    fn hkdf_is_the_one_of_rfc_5869() {
        for case in load("rfc_vectors.json")["rfc5869_sha256"].as_array().unwrap() {
            let (salt, ikm, info) = (hex(&case["salt"]), hex(&case["ikm"]), hex(&case["info"]));
            assert_eq!(hkdf::<42>(&salt, &ikm, &info).as_slice(), hex(&case["okm"]));
            let prk = hmac(
                &{
                    let mut k = [0; 32];
                    k[..salt.len()].copy_from_slice(&salt);
                    k
                },
                &ikm,
            );
            assert_eq!(hkdf_expand::<42>(&prk, &info).as_slice(), hex(&case["okm"]));
        }
    }

    #[test]
    fn wycheproof_hkdf_and_hmac_through_the_wrappers() {
        let mut seen = 0;
        for group in load("wycheproof/hkdf_sha256_test.json")["testGroups"].as_array().unwrap() {
            for case in group["tests"].as_array().unwrap() {
                let args = (hex(&case["salt"]), hex(&case["ikm"]), hex(&case["info"]));
                let okm = match case["size"].as_u64().unwrap() {
                    20 => hkdf::<20>(&args.0, &args.1, &args.2).to_vec(),
                    42 => hkdf::<42>(&args.0, &args.1, &args.2).to_vec(),
                    64 => hkdf::<64>(&args.0, &args.1, &args.2).to_vec(),
                    _ => continue,
                };
                assert_eq!(okm, hex(&case["okm"]), "case {}", case["tcId"]);
                seen += 1;
            }
        }
        assert!(seen > 40, "only {seen} HKDF cases had a size we use");
        let mut seen = 0;
        for group in load("wycheproof/hmac_sha256_test.json")["testGroups"].as_array().unwrap() {
            for case in group["tests"].as_array().unwrap() {
                let Ok(key) = <[u8; 32]>::try_from(hex(&case["key"])) else { continue };
                let tag = hex(&case["tag"]);
                let same = hmac(&key, &hex(&case["msg"]))[..tag.len()] == tag;
                assert_eq!(same, case["result"] == "valid", "case {}", case["tcId"]);
                seen += 1;
            }
        }
        assert!(seen > 40, "only {seen} HMAC cases had a key of our size");
    }
}
