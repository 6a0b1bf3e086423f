//! Key types: what is secret wipes itself and prints nothing; what is public is
//! valid by construction and cannot be taken for another kind of key.
//!
//! A device has one 32-byte seed. Its Ed25519 key signs; the X25519 key that
//! takes part in key agreement is derived from the same seed, so one public key
//! is logged and compared (design/e2ee.md 2.4, with the conditions for that).
//! This file does not decide *what* may be signed: `DeviceSecret::sign` is
//! reachable from this folder alone, and only for labelled statements.

use super::ids::{AccountId, DeviceId};
use super::kem::{Kem, KemPublic, MlKem768};
use curve25519_dalek::edwards::CompressedEdwardsY;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use std::fmt;
use std::marker::PhantomData;
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Why 32 bytes are not a key we accept (the strict key rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefused {
    /// Another number of bytes than 32.
    #[error("an Ed25519 key has 32 bytes")]
    Length,
    /// The bytes are no point of the curve.
    #[error("not a point of the curve")]
    NotAPoint,
    /// A second spelling of a point; one key would have two device ids.
    #[error("not the canonical encoding of the point")]
    NotCanonical,
    /// A point of small order, under which a signature fits many messages.
    #[error("a point of small order")]
    SmallOrder,
    /// A point outside the prime-order group; several such keys share one
    /// X25519 key, so an identity would no longer be one key.
    #[error("a point outside the prime-order group")]
    Torsion,
}

/// A signature that is not valid for this key and these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct SignatureRefused;

/// A key agreement to which one side contributed nothing: the result would be
/// zero whatever the secret is (RFC 7748 section 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key agreement does not depend on both keys")]
pub struct NonContributory;

/// The public key of a device. A value of this type obeys the strict key rule.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DevicePublic(VerifyingKey);

impl DevicePublic {
    /// Applies the strict key rule: 32 bytes that decompress, compress back to
    /// themselves, and are a point of the prime-order group.
    ///
    /// # Errors
    /// [`KeyRefused`] names the first rule that is broken.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyRefused> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyRefused::Length)?;
        let point = CompressedEdwardsY(*bytes).decompress().ok_or(KeyRefused::NotAPoint)?;
        if point.compress().as_bytes() != bytes {
            return Err(KeyRefused::NotCanonical);
        }
        if point.is_small_order() {
            return Err(KeyRefused::SmallOrder);
        }
        if !point.is_torsion_free() {
            return Err(KeyRefused::Torsion);
        }
        VerifyingKey::from_bytes(bytes).map(Self).map_err(|_| KeyRefused::NotAPoint)
    }

    /// The 32 bytes that are logged, hashed and compared.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The id that certifies this key.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        DeviceId::of(self.as_bytes())
    }

    /// The X25519 key that belongs to this key (the birational map). A relay that
    /// serves another value than this one is lying.
    #[must_use]
    pub fn dh_public(&self) -> DhPublic {
        DhPublic(self.0.to_montgomery().to_bytes())
    }

    /// Verifies strictly (RFC 8032 section 5.1.7, with canonical `S` and no small
    /// order point anywhere), so that a statement has one signature only.
    ///
    /// # Errors
    /// [`SignatureRefused`], also for another length than 64 bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureRefused> {
        let signature = Signature::from_slice(signature).map_err(|_| SignatureRefused)?;
        self.0.verify_strict(message, &signature).map_err(|_| SignatureRefused)
    }
}

impl fmt::Debug for DevicePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevicePublic({})", nexo_schema::bytes::to_hex(self.as_bytes()))
    }
}

/// The secret key of a device. Wiped when dropped; no `Clone`, no `Serialize`.
pub struct DeviceSecret(SigningKey);

impl DeviceSecret {
    /// Makes the key of a 32-byte seed, which must come from a random generator.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for sealed storage and nothing else.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> DevicePublic {
        // An honest key is a multiple of the base point, so the rule holds.
        DevicePublic(self.0.verifying_key())
    }

    /// Signs a statement. Only this folder may call it, and only with bytes that
    /// begin with a label of their own: a signature must never fit two purposes.
    pub(in crate::e2ee) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        self.0.sign(statement).to_bytes()
    }

    /// The X25519 secret of the same seed: the first half of SHA-512(seed).
    /// Clamping happens at use (RFC 7748 section 5).
    pub(in crate::e2ee) fn dh_secret(&self) -> DhSecret {
        DhSecret(StaticSecret::from(*Zeroizing::new(self.0.to_scalar_bytes())))
    }
}

impl fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSecret({})", self.public().device_id())
    }
}

/// The public half of an account's recovery key, which obeys the same rule as a
/// device key and is kept apart from it by type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveryPublic(DevicePublic);

impl RecoveryPublic {
    /// Applies the strict key rule.
    ///
    /// # Errors
    /// [`KeyRefused`] names the first rule that is broken.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyRefused> {
        DevicePublic::from_bytes(bytes).map(Self)
    }

    /// The public key of a 32-byte recovery seed, which is shown to the owner once
    /// and kept by nobody else.
    #[must_use]
    pub fn of_seed(seed: &[u8; 32]) -> Self {
        Self(DeviceSecret::from_seed(seed).public())
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// An X25519 public key. Any 32 bytes are one (RFC 7748); what must not happen is
/// an agreement without contribution, and [`DhSecret::agree`] refuses that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DhPublic([u8; 32]);

impl DhPublic {
    /// Takes the bytes as received; they are hashed and sent as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes as received.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An X25519 secret key. Wiped when dropped.
pub struct DhSecret(StaticSecret);

impl DhSecret {
    /// Takes 32 random bytes; they are clamped at use.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> DhPublic {
        DhPublic(PublicKey::from(&self.0).to_bytes())
    }

    /// X25519 (RFC 7748). The result may only enter a key derivation that also
    /// hashes both public keys.
    ///
    /// # Errors
    /// [`NonContributory`] if the result is zero.
    pub fn agree(&self, theirs: &DhPublic) -> Result<Zeroizing<[u8; 32]>, NonContributory> {
        let shared = self.0.diffie_hellman(&PublicKey::from(theirs.0));
        if shared.was_contributory() {
            Ok(Zeroizing::new(shared.to_bytes()))
        } else {
            Err(NonContributory)
        }
    }

    /// The secret bytes, for sealed storage and known answers.
    pub(in crate::e2ee) fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for DhSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DhSecret(..)")
    }
}

/// Marks a prekey that many senders may use until it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {}

/// Marks a prekey that the relay gives to one sender only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneTime {}

/// The secret halves of a fallback prekey.
pub type FallbackSecret = PrekeySecret<Fallback>;
/// The secret halves of a one-time prekey.
pub type OneTimeSecret = PrekeySecret<OneTime>;

/// The secret halves of a prekey: X25519 secret and ML-KEM seed (64 bytes, kept
/// instead of the 2,400-byte expanded key). Wiped when dropped.
pub struct PrekeySecret<Use> {
    id: u32,
    dh: DhSecret,
    kem: Zeroizing<[u8; 64]>,
    purpose: PhantomData<Use>,
}

impl<Use> PrekeySecret<Use> {
    /// Makes the pair from 32 and 64 random bytes. `id` grows with every prekey
    /// of a device and is never used twice.
    #[must_use]
    pub fn from_seeds(id: u32, dh: [u8; 32], kem: [u8; 64]) -> Self {
        Self { id, dh: DhSecret::from_bytes(dh), kem: Zeroizing::new(kem), purpose: PhantomData }
    }

    /// The id under which senders name it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The two seeds (X25519 32 bytes, ML-KEM 64 bytes), for sealed storage.
    #[must_use]
    pub fn seeds(&self) -> (Zeroizing<[u8; 32]>, Zeroizing<[u8; 64]>) {
        (Zeroizing::new(*self.dh.as_bytes()), self.kem.clone())
    }

    /// The public halves.
    #[must_use]
    pub fn public(&self) -> PrekeyPublic {
        PrekeyPublic { id: self.id, dh: self.dh.public(), kem: MlKem768::generate(&self.kem) }
    }

    pub(in crate::e2ee) fn dh(&self) -> &DhSecret {
        &self.dh
    }

    pub(in crate::e2ee) fn kem_seed(&self) -> &[u8; 64] {
        &self.kem
    }
}

impl<Use> PartialEq for PrekeySecret<Use> {
    fn eq(&self, other: &Self) -> bool {
        let dh = self.dh.as_bytes().ct_eq(other.dh.as_bytes());
        self.id == other.id && bool::from(dh & self.kem.ct_eq(&*other.kem))
    }
}

impl<Use> fmt::Debug for PrekeySecret<Use> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrekeySecret({}, ..)", self.id)
    }
}

/// The public halves of a prekey, each in a field of its own type: an X25519 key
/// can never be read as a KEM key or the other way round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrekeyPublic {
    /// The id under which it is named.
    pub id: u32,
    /// `SPK` or `OTK`, the X25519 half.
    pub dh: DhPublic,
    /// The ML-KEM-768 half.
    pub kem: KemPublic,
}

/// One end of a message as the other end knows it: keys of a verified account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party {
    /// The account.
    pub account: AccountId,
    /// The device of that account, from its verified chain.
    pub device: DevicePublic,
}

/// This device, as one end of a message.
#[derive(Clone, Copy, Debug)]
pub struct LocalParty<'a> {
    /// The account this device belongs to.
    pub account: AccountId,
    /// The device key.
    pub secret: &'a DeviceSecret,
}

impl LocalParty<'_> {
    /// How others see this end.
    #[must_use]
    pub fn party(&self) -> Party {
        Party { account: self.account, device: self.secret.public() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print_themselves() {
        let seed = [0x5a; 32];
        let secret = DeviceSecret::from_seed(&seed);
        let prekey = FallbackSecret::from_seeds(3, seed, [0x5a; 64]);
        let text = format!("{secret:?} {prekey:?} {:?}", secret.dh_secret());
        assert!(!text.contains("5a5a") && !text.contains("90, 90"), "{text}");
    }

    #[test]
    fn stored_seeds_make_the_same_keys() {
        let secret = DeviceSecret::from_seed(&[1; 32]);
        assert_eq!(DeviceSecret::from_seed(&secret.seed()).public(), secret.public());
        let prekey = OneTimeSecret::from_seeds(3, [1; 32], [2; 64]);
        let (dh, kem) = prekey.seeds();
        assert!(OneTimeSecret::from_seeds(3, *dh, *kem) == prekey);
        assert!(OneTimeSecret::from_seeds(4, *dh, *kem) != prekey);
        assert!(OneTimeSecret::from_seeds(3, [9; 32], *kem) != prekey);
        assert!(OneTimeSecret::from_seeds(3, *dh, [9; 64]) != prekey);
    }

    #[test]
    fn own_keys_obey_the_strict_rule() {
        for n in 0..64 {
            let public = DeviceSecret::from_seed(&[n; 32]).public();
            assert_eq!(DevicePublic::from_bytes(public.as_bytes()), Ok(public));
        }
        assert_eq!(DevicePublic::from_bytes(&[0; 31]), Err(KeyRefused::Length));
    }
}
