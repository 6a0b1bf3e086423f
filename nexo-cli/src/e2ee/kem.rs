//! ML-KEM-768 (FIPS 203) behind three functions.
//!
//! The crate in use has not been audited. It stands behind [`Kem`] so that another
//! can replace it, and it is never used alone: every shared secret is hashed
//! together with X25519 secrets, so a flaw here costs the protection against
//! quantum computers and nothing else (design/e2ee.md 2.24).

use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey};
use ml_kem::{Decapsulate, KeyExport, TryKeyInit};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of an encapsulation key (FIPS 203 table 3).
pub const KEM_PUBLIC_LEN: usize = 1184;
/// Bytes of a ciphertext (FIPS 203 table 3).
pub const KEM_CIPHERTEXT_LEN: usize = 1088;

/// Key encapsulation with all randomness given: pure functions of their inputs.
pub trait Kem {
    /// The public key of a 64-byte seed (`d || z`, FIPS 203 algorithm 16).
    fn generate(seed: &[u8; 64]) -> KemPublic;

    /// A ciphertext for `key` and the 32-byte secret in it (FIPS 203 algorithm 17).
    /// `m` must be 32 random bytes, used once.
    fn encapsulate(key: &KemPublic, m: &[u8; 32]) -> (KemCiphertext, Zeroizing<[u8; 32]>);

    /// The secret in a ciphertext (FIPS 203 algorithm 18). A wrong ciphertext
    /// gives an unrelated secret and no error, in the same time.
    fn decapsulate(seed: &[u8; 64], ciphertext: &KemCiphertext) -> Zeroizing<[u8; 32]>;
}

/// The one implementation: the RustCrypto crate `ml-kem`.
#[derive(Debug, Clone, Copy)]
pub struct MlKem768;

impl Kem for MlKem768 {
    fn generate(seed: &[u8; 64]) -> KemPublic {
        KemPublic(expand(seed).encapsulation_key().clone())
    }

    fn encapsulate(key: &KemPublic, m: &[u8; 32]) -> (KemCiphertext, Zeroizing<[u8; 32]>) {
        let (ciphertext, shared) = key.0.encapsulate_deterministic(&(*m).into());
        (KemCiphertext(Box::new(ciphertext.into())), Zeroizing::new(shared.into()))
    }

    fn decapsulate(seed: &[u8; 64], ciphertext: &KemCiphertext) -> Zeroizing<[u8; 32]> {
        let ciphertext: &Ciphertext = (&*ciphertext.0).into();
        Zeroizing::new(expand(seed).decapsulate(ciphertext).into())
    }
}

fn expand(seed: &[u8; 64]) -> DecapsulationKey {
    DecapsulationKey::from_seed((*seed).into())
}

/// Bytes that are no encapsulation key: another length than 1,184, or a
/// coefficient that is not reduced (FIPS 203 section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ML-KEM-768 encapsulation key")]
pub struct KemKeyRefused;

/// An encapsulation key that passed the check of FIPS 203 section 7.2.
#[derive(Clone, PartialEq, Eq)]
pub struct KemPublic(EncapsulationKey);

impl KemPublic {
    /// Checks length and reduction.
    ///
    /// # Errors
    /// [`KemKeyRefused`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KemKeyRefused> {
        let bytes: &[u8; KEM_PUBLIC_LEN] = bytes.try_into().map_err(|_| KemKeyRefused)?;
        let key: EncapsulationKey = TryKeyInit::new(bytes.into()).map_err(|_| KemKeyRefused)?;
        Ok(Self(key))
    }

    /// The 1,184 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8; KEM_PUBLIC_LEN]> {
        Box::new(self.0.to_bytes().into())
    }
}

impl fmt::Debug for KemPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KemPublic({}..)", nexo_schema::bytes::to_hex(&self.to_bytes()[..8]))
    }
}

/// A ciphertext. Any 1,088 bytes are one.
#[derive(Clone, PartialEq, Eq)]
pub struct KemCiphertext(Box<[u8; KEM_CIPHERTEXT_LEN]>);

impl KemCiphertext {
    /// Takes the bytes as received.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEM_CIPHERTEXT_LEN]) -> Self {
        Self(Box::new(*bytes))
    }

    /// The bytes as received.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEM_CIPHERTEXT_LEN] {
        &self.0
    }
}

impl fmt::Debug for KemCiphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KemCiphertext(1088 bytes)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_ciphertext_gives_another_secret_and_no_error() {
        let seed = [7; 64];
        let (ciphertext, shared) = MlKem768::encapsulate(&MlKem768::generate(&seed), &[9; 32]);
        assert_eq!(MlKem768::decapsulate(&seed, &ciphertext), shared);
        let mut changed = *ciphertext.as_bytes();
        changed[500] ^= 1;
        let changed = KemCiphertext::from_bytes(&changed);
        assert_ne!(MlKem768::decapsulate(&seed, &changed), shared);
        assert_ne!(MlKem768::decapsulate(&[8; 64], &ciphertext), shared);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let key = MlKem768::generate(&[7; 64]).to_bytes();
        assert!(KemPublic::from_bytes(&key[..]).is_ok());
        assert_eq!(KemPublic::from_bytes(&key[..1183]), Err(KemKeyRefused));
        assert_eq!(KemPublic::from_bytes(&[&key[..], &[0]].concat()), Err(KemKeyRefused));
        assert_eq!(KemPublic::from_bytes(&[]), Err(KemKeyRefused));
    }
}
