//! `nx_seal` and `nx_open`: the only place in this program that calls an AEAD
//! (design/e2ee.md 2.10).
//!
//! ```text
//! r      = HMAC-SHA256(K, enc("nexo/1/hedge", [rand32, H(aad), H(pt)]))
//! okm    = HKDF(salt = r, ikm = K, info = enc(label, [H(aad)]), 88)
//!        = key 32 || nonce 24 || commit 32
//! sealed = r 32 || commit 32 || XChaCha20-Poly1305(key, nonce, aad, pt) || tag 16
//! ```
//!
//! No caller chooses or counts a nonce. Even a repeated `K` with a repeated
//! `rand32` gives a fresh key and nonce unless aad and plaintext repeat too.
//! `commit` ties the bytes to one key and aad, so nobody can make one sealed text
//! that opens differently under two keys. What this file does not do: hide the
//! length of the plaintext (see [`super::padding`]) or refuse a replay.

use super::kdf;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use nexo_schema::bytes::enc;
use std::borrow::Cow;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes that sealing adds: `r` 32, `commit` 32, tag 16.
pub const SEAL_OVERHEAD: usize = 80;

/// What a key seals. Bytes sealed for one purpose never open for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// The padded body of a message, under its content key.
    Payload,
    /// A content key, under a message key.
    KeyPacket,
    /// A column of the local database, under the state key; holds the table's name.
    Store(&'a str),
    /// An exported profile.
    Export,
}

impl Purpose<'_> {
    fn label(self) -> Cow<'static, str> {
        match self {
            Self::Payload => "nexo/1/payload".into(),
            Self::KeyPacket => "nexo/1/keypacket".into(),
            Self::Store(table) => format!("nexo/1/store/{table}").into(),
            Self::Export => "nexo/1/export".into(),
        }
    }
}

/// Sealed bytes that do not open. There is one reason for every cause, on purpose:
/// which check failed is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not open")]
pub struct SealBroken;

/// Seals `plaintext` under `key`; `aad` must be given again to open it. `hedge` is
/// 32 bytes from a random generator; if they ever repeat, see above.
///
/// # Panics
/// If `plaintext` exceeds 256 GiB, the limit of the cipher.
#[must_use]
pub fn nx_seal(
    key: &[u8; 32],
    purpose: Purpose<'_>,
    aad: &[u8],
    plaintext: &[u8],
    hedge: &[u8; 32],
) -> Vec<u8> {
    let aad_hash = kdf::hash(aad);
    let fields: [&[u8]; 3] = [hedge, &aad_hash, &kdf::hash(plaintext)];
    let salt = kdf::hmac(key, &enc("nexo/1/hedge", &fields));
    let keys = SealKeys::derive(key, purpose, &salt, &aad_hash);
    let ciphertext = keys
        .cipher()
        .encrypt(&keys.nonce(), Payload { msg: plaintext, aad })
        .expect("no plaintext in memory reaches the cipher's limit of 256 GiB");
    [&salt[..], keys.commitment(), &ciphertext].concat()
}

/// Opens what [`nx_seal`] made with the same key, purpose and aad.
///
/// # Errors
/// [`SealBroken`] for everything else; nothing is decrypted before the commitment
/// has been compared, in constant time.
pub fn nx_open(
    key: &[u8; 32],
    purpose: Purpose<'_>,
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealBroken> {
    let (salt, rest) = sealed.split_first_chunk::<32>().ok_or(SealBroken)?;
    let (commitment, ciphertext) = rest.split_first_chunk::<32>().ok_or(SealBroken)?;
    let keys = SealKeys::derive(key, purpose, salt, &kdf::hash(aad));
    if !bool::from(keys.commitment().ct_eq(commitment)) {
        return Err(SealBroken);
    }
    let opened = keys.cipher().decrypt(&keys.nonce(), Payload { msg: ciphertext, aad });
    opened.map(Zeroizing::new).map_err(|_| SealBroken)
}

/// `key 32 || nonce 24 || commit 32`.
struct SealKeys(Zeroizing<[u8; 88]>);

impl SealKeys {
    fn derive(key: &[u8; 32], purpose: Purpose<'_>, salt: &[u8; 32], aad_hash: &[u8; 32]) -> Self {
        Self(kdf::hkdf(salt, key, &enc(&purpose.label(), &[aad_hash])))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new_from_slice(&self.0[..32]).expect("a key of 32 bytes is given")
    }

    fn nonce(&self) -> XNonce {
        let mut nonce = XNonce::default();
        nonce.copy_from_slice(&self.0[32..56]);
        nonce
    }

    fn commitment(&self) -> &[u8] {
        &self.0[56..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::kat::{hex, hex_n, load};
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    #[test]
    fn d1_a_ciphertext_for_two_keys_does_not_open() {
        let file = load("nexo/salamander_xchacha20poly1305.json");
        let ciphertext = [hex(&file["ct"]), hex(&file["tag"])].concat();
        let keys: [[u8; 32]; 2] = [hex_n(&file["key1"]), hex_n(&file["key2"])];
        let mut nonce = XNonce::default();
        nonce.copy_from_slice(&hex(&file["nonce"]));
        for (key, plaintext) in keys.iter().zip(["plaintext_under_key1", "plaintext_under_key2"]) {
            let cipher = XChaCha20Poly1305::new_from_slice(key).unwrap();
            let opened = cipher.decrypt(&nonce, &ciphertext[..]).unwrap();
            assert_eq!(opened, hex(&file[plaintext]), "the file shows what it claims");
        }
        // Whatever salt and commitment a forger puts in front, one of both refuses;
        // here the most favourable ones, those that key 1 itself would derive.
        let keys1 = SealKeys::derive(&keys[0], Purpose::Payload, &[0; 32], &kdf::hash(b""));
        let forged = [&[0; 32], keys1.commitment(), &ciphertext].concat();
        for key in &keys {
            assert_eq!(nx_open(key, Purpose::Payload, b"", &forged), Err(SealBroken));
            assert_eq!(nx_open(key, Purpose::Payload, b"", &ciphertext), Err(SealBroken));
        }
        // The same forgery where the cipher would open under both keys: the
        // commitment alone separates them.
        let sealed = nx_seal(&keys[0], Purpose::Payload, b"", b"x", &[1; 32]);
        assert!(nx_open(&keys[0], Purpose::Payload, b"", &sealed).is_ok());
        assert_eq!(nx_open(&keys[1], Purpose::Payload, b"", &sealed), Err(SealBroken));
    }

    #[test]
    fn d1_the_commitment_is_checked_by_itself() {
        let mut sealed = nx_seal(&KEY, Purpose::Payload, b"a", b"x", &[1; 32]);
        for byte in 32..64 {
            sealed[byte] ^= 1;
            assert_eq!(nx_open(&KEY, Purpose::Payload, b"a", &sealed), Err(SealBroken));
            sealed[byte] ^= 1;
        }
        assert!(nx_open(&KEY, Purpose::Payload, b"a", &sealed).is_ok());
    }

    #[test]
    fn d4_a_repeated_random_number_repeats_no_key_or_nonce() {
        let one = nx_seal(&KEY, Purpose::Payload, b"aad", b"plaintext", &[1; 32]);
        for (aad, plaintext) in [(&b"aad"[..], &b"plaintexT"[..]), (b"aaD", b"plaintext")] {
            let other = nx_seal(&KEY, Purpose::Payload, aad, plaintext, &[1; 32]);
            // Salt and commitment are outputs of the same derivation as key and nonce.
            assert_ne!(one[..32], other[..32]);
            assert_ne!(one[32..64], other[32..64]);
        }
    }

    #[test]
    fn d5_equal_inputs_give_equal_bytes() {
        let seal = || nx_seal(&KEY, Purpose::Export, b"aad", b"plaintext", &[1; 32]);
        assert_eq!(seal(), seal());
        assert_eq!(seal().len(), 9 + SEAL_OVERHEAD);
    }

    #[test]
    fn d9_bytes_of_one_purpose_open_for_no_other() {
        let purposes = [
            Purpose::Payload,
            Purpose::KeyPacket,
            Purpose::Store("inbox"),
            Purpose::Store("outbox"),
            Purpose::Export,
        ];
        for made in purposes {
            let sealed = nx_seal(&KEY, made, b"aad", b"plaintext", &[1; 32]);
            for asked in purposes {
                let opened = nx_open(&KEY, asked, b"aad", &sealed);
                assert_eq!(opened.is_ok(), made == asked, "{made:?} as {asked:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_nothing_else_does(
            key: [u8; 32], hedge: [u8; 32], aad: Vec<u8>, plaintext: Vec<u8>, flip: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let mut sealed = nx_seal(&key, Purpose::KeyPacket, &aad, &plaintext, &hedge);
            let opened = nx_open(&key, Purpose::KeyPacket, &aad, &sealed);
            prop_assert_eq!(opened.as_deref(), Ok(&plaintext));
            let longer = [&aad[..], &[0]].concat();
            prop_assert_eq!(nx_open(&key, Purpose::KeyPacket, &longer, &sealed), Err(SealBroken));
            let at = flip.index(sealed.len());
            prop_assert_eq!(nx_open(&key, Purpose::KeyPacket, &aad, &sealed[..at]), Err(SealBroken));
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(nx_open(&key, Purpose::KeyPacket, &aad, &sealed), Err(SealBroken));
        }

        #[test]
        fn opening_noise_never_panics(key: [u8; 32], noise: Vec<u8>) {
            prop_assert_eq!(nx_open(&key, Purpose::Payload, b"", &noise), Err(SealBroken));
        }
    }
}
