//! Wycheproof and RFC vectors through the wrappers, or through the crate where a
//! wrapper takes no raw key or nonce.

use crate::fixture::{hex, hex_n, load, wycheproof};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use nexo_cli::e2ee::kem::{Kem, KemCiphertext, KemKeyRefused, KemPublic, MlKem768};
use nexo_cli::e2ee::keys::{DhPublic, DhSecret, NonContributory};
use sha2::Sha256;

#[test]
fn a1_a2_a3_wycheproof_x25519() {
    let mut refused = 0;
    wycheproof("x25519", |_, case| {
        let secret = DhSecret::from_bytes(hex_n(&case["private"]));
        let shared = secret.agree(&DhPublic::from_bytes(hex_n(&case["public"])));
        let zero = case["flags"].as_array().unwrap().iter().any(|flag| flag == "ZeroSharedSecret");
        if zero {
            assert_eq!(shared, Err(NonContributory), "case {}", case["tcId"]);
            refused += 1;
        } else {
            // Non-canonical and twist keys are computed as RFC 7748 says.
            assert_eq!(shared.unwrap()[..], hex(&case["shared"]), "case {}", case["tcId"]);
        }
    });
    assert_eq!(refused, 31);
}

#[test]
fn rfc_7748_iterated() {
    let want = &load("rfc_vectors.json")["rfc7748_iterated"];
    let mut base = [0; 32];
    base[0] = 9;
    let (mut k, mut u) = (base, base);
    for round in 1..=1000 {
        let next = *DhSecret::from_bytes(k).agree(&DhPublic::from_bytes(u)).unwrap();
        (k, u) = (next, k);
        if round == 1 {
            assert_eq!(k[..], hex(&want["1"]));
        }
    }
    assert_eq!(k[..], hex(&want["1000"]));
}

fn open_raw(case: &serde_json::Value, nonce: &str) -> Option<Vec<u8>> {
    let nonce = XNonce::try_from(&hex(&case[nonce])[..]).ok()?;
    let ciphertext = [hex(&case["ct"]), hex(&case["tag"])].concat();
    let payload = Payload { msg: &ciphertext, aad: &hex(&case["aad"]) };
    XChaCha20Poly1305::new_from_slice(&hex(&case["key"])).unwrap().decrypt(&nonce, payload).ok()
}

#[test]
fn wycheproof_xchacha20_poly1305() {
    wycheproof("xchacha20_poly1305", |_, case| {
        let want = (case["result"] == "valid").then(|| hex(&case["msg"]));
        assert_eq!(open_raw(case, "iv"), want, "case {}", case["tcId"]);
    });
}

#[test]
fn xchacha_draft_a_3_1() {
    let case = &load("rfc_vectors.json")["xchacha20_poly1305_A31"];
    assert_eq!(open_raw(case, "nonce"), Some(hex(&case["pt"])));
}

#[test]
fn wycheproof_hkdf_sha256() {
    wycheproof("hkdf_sha256", |_, case| {
        let hkdf = Hkdf::<Sha256>::new(Some(&hex(&case["salt"])), &hex(&case["ikm"]));
        let mut okm = vec![0; usize::try_from(case["size"].as_u64().unwrap()).unwrap()];
        let done = hkdf.expand(&hex(&case["info"]), &mut okm);
        assert_eq!(done.is_ok(), case["result"] == "valid", "case {}", case["tcId"]);
        assert!(done.is_err() || okm == hex(&case["okm"]), "case {}", case["tcId"]);
    });
}

#[test]
fn wycheproof_hmac_sha256() {
    wycheproof("hmac_sha256", |_, case| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&hex(&case["key"])).unwrap();
        mac.update(&hex(&case["msg"]));
        let valid = mac.verify_truncated_left(&hex(&case["tag"])).is_ok();
        assert_eq!(valid, case["result"] == "valid", "case {}", case["tcId"]);
    });
}

#[test]
fn wycheproof_mlkem_768_key_generation() {
    wycheproof("mlkem_768_keygen_seed", |_, case| {
        let key = MlKem768::generate(&hex_n(&case["seed"]));
        assert_eq!(key.to_bytes()[..], hex(&case["ek"]), "case {}", case["tcId"]);
    });
}

#[test]
fn a11_wycheproof_mlkem_768_encapsulation() {
    let mut refused = 0;
    wycheproof("mlkem_768_encaps", |_, case| {
        let key = KemPublic::from_bytes(&hex(&case["ek"]));
        if case["result"] == "valid" {
            let (ciphertext, shared) = MlKem768::encapsulate(&key.unwrap(), &hex_n(&case["m"]));
            assert_eq!(ciphertext.as_bytes()[..], hex(&case["c"]), "case {}", case["tcId"]);
            assert_eq!(shared[..], hex(&case["K"]), "case {}", case["tcId"]);
        } else {
            assert_eq!(key, Err(KemKeyRefused), "case {}", case["tcId"]);
            refused += 1;
        }
    });
    assert_eq!(refused, 132);
}

#[test]
fn a11_wycheproof_mlkem_768_decapsulation() {
    wycheproof("mlkem_768", |_, case| {
        let seed = <[u8; 64]>::try_from(hex(&case["seed"]));
        let ciphertext = <[u8; 1088]>::try_from(hex(&case["c"]));
        if let (Ok(seed), Ok(ciphertext)) = (seed, ciphertext) {
            assert_eq!(case["result"], "valid", "case {}", case["tcId"]);
            assert_eq!(MlKem768::generate(&seed).to_bytes()[..], hex(&case["ek"]));
            let shared = MlKem768::decapsulate(&seed, &KemCiphertext::from_bytes(&ciphertext));
            assert_eq!(shared[..], hex(&case["K"]), "case {}", case["tcId"]);
        } else {
            // A seed or ciphertext of another length has no type to be put into.
            assert_eq!(case["result"], "invalid", "case {}", case["tcId"]);
        }
    });
}
