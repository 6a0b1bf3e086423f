//! Signed prekeys: what a device publishes so that others can write to it while
//! it is away (design/e2ee.md 2.7; times as amended by README.md 20).
//!
//! A `Signed…` value is what travels and proves nothing. `verify` turns it into a
//! [`FallbackPrekey`] or [`OneTimePrekey`], the only forms the handshake takes.
//! The two kinds are signed under different labels, so neither passes for the
//! other. Seconds are Unix seconds.
//!
//! ```text
//! enc("nexo/1/sig/fpk", [origin, device_id 32, SUITE 1, id u32, x25519 32,
//!                        mlkem_ek 1184, not_before u64, not_after u64])
//! enc("nexo/1/sig/otk", [origin, device_id 32, SUITE 1, id u32, x25519 32, mlkem_ek 1184])
//! ```

use super::ids::DeviceId;
use super::kem::{KemKeyRefused, KemPublic};
use super::keys::{
    DevicePublic, DeviceSecret, DhPublic, FallbackSecret, OneTimeSecret, PrekeyPublic,
    SignatureRefused,
};
use nexo_schema::envelope;

/// Longest validity of a fallback prekey: 7 days in use and 30 days more, in which
/// messages that were sent to it may still arrive.
pub const MAX_VALIDITY_SECONDS: u64 = 37 * 86_400;

/// Why times make no validity window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fallback prekey is valid for 1 second to 37 days")]
pub struct WindowRefused;

/// The times in which a fallback prekey may be used: `not_before <= t < not_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    not_before: u64,
    not_after: u64,
}

impl Validity {
    /// A window of Unix seconds.
    ///
    /// # Errors
    /// [`WindowRefused`] if it is empty or longer than [`MAX_VALIDITY_SECONDS`].
    pub fn new(not_before: u64, not_after: u64) -> Result<Self, WindowRefused> {
        match not_after.checked_sub(not_before) {
            Some(1..=MAX_VALIDITY_SECONDS) => Ok(Self { not_before, not_after }),
            _ => Err(WindowRefused),
        }
    }

    /// The longest window from `not_before` on, which is what devices publish.
    ///
    /// # Errors
    /// [`WindowRefused`] if the end does not fit 64 bits.
    pub fn longest(not_before: u64) -> Result<Self, WindowRefused> {
        let not_after = not_before.checked_add(MAX_VALIDITY_SECONDS).ok_or(WindowRefused)?;
        Self::new(not_before, not_after)
    }

    /// First second of the window.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// First second after the window.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Checks that `now` lies in the window.
    ///
    /// # Errors
    /// [`PrekeyRefused::NotYetValid`] or [`PrekeyRefused::Expired`].
    pub fn check(&self, now: u64) -> Result<(), PrekeyRefused> {
        if now < self.not_before {
            Err(PrekeyRefused::NotYetValid { not_before: self.not_before })
        } else if now >= self.not_after {
            Err(PrekeyRefused::Expired { not_after: self.not_after })
        } else {
            Ok(())
        }
    }
}

/// Why a published prekey is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrekeyRefused {
    /// The signature is not by this device over these values for this relay.
    #[error("the prekey's signature is not valid")]
    Signature,
    /// The ML-KEM half is missing, has another length or is not reduced.
    #[error("the prekey's ML-KEM key is not valid")]
    KemKey,
    /// The signed times are no window of 1 second to 37 days.
    #[error("the prekey's validity is no window of at most 37 days")]
    Window,
    /// It may be used from `not_before` on.
    #[error("the prekey is not valid before {not_before}")]
    NotYetValid {
        /// Unix seconds.
        not_before: u64,
    },
    /// It could be used until `not_after`.
    #[error("the prekey expired at {not_after}")]
    Expired {
        /// Unix seconds.
        not_after: u64,
    },
}

impl From<SignatureRefused> for PrekeyRefused {
    fn from(SignatureRefused: SignatureRefused) -> Self {
        Self::Signature
    }
}

impl From<KemKeyRefused> for PrekeyRefused {
    fn from(KemKeyRefused: KemKeyRefused) -> Self {
        Self::KemKey
    }
}

/// A fallback prekey as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFallback {
    /// The id under which senders name it.
    pub id: u32,
    /// X25519 half.
    pub dh: DhPublic,
    /// ML-KEM half, of any length until verified.
    pub kem: Vec<u8>,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// Ed25519 signature of the device.
    pub signature: [u8; 64],
}

impl SignedFallback {
    /// Signs the public halves of `secret` for publication at `origin`. The secret
    /// must be durable before the result leaves this machine.
    #[must_use]
    pub fn sign(
        device: &DeviceSecret,
        origin: &str,
        secret: &FallbackSecret,
        validity: Validity,
    ) -> Self {
        let PrekeyPublic { id, dh, kem } = secret.public();
        let Validity { not_before, not_after } = validity;
        let kem = kem.to_bytes().to_vec();
        let mut signed = Self { id, dh, kem, not_before, not_after, signature: [0; 64] };
        signed.signature = device.sign(&signed.statement(origin, device.public().device_id()));
        signed
    }

    /// Verifies key, signature and times; `now` is in Unix seconds.
    ///
    /// # Errors
    /// [`PrekeyRefused`]; the signature is checked before the times are believed.
    pub fn verify(
        &self,
        origin: &str,
        device: &DevicePublic,
        now: u64,
    ) -> Result<FallbackPrekey, PrekeyRefused> {
        let kem = KemPublic::from_bytes(&self.kem)?;
        device.verify(&self.statement(origin, device.device_id()), &self.signature)?;
        let validity = Validity::new(self.not_before, self.not_after)
            .map_err(|WindowRefused| PrekeyRefused::Window)?;
        validity.check(now)?;
        let keys = PrekeyPublic { id: self.id, dh: self.dh, kem };
        Ok(FallbackPrekey { device: *device, keys, validity })
    }

    pub(super) fn statement(&self, origin: &str, device: DeviceId) -> Vec<u8> {
        let key =
            envelope::PrekeyPublic { id: self.id, x25519: self.dh.as_bytes(), kem: &self.kem };
        let (not_before, not_after) = (self.not_before, self.not_after);
        envelope::fallback_prekey(origin, device.as_bytes(), &key, not_before, not_after)
    }
}

/// A fallback prekey that its device signed for this relay and that was valid when
/// it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackPrekey {
    device: DevicePublic,
    keys: PrekeyPublic,
    validity: Validity,
}

impl FallbackPrekey {
    /// The device that signed it.
    #[must_use]
    pub fn device(&self) -> &DevicePublic {
        &self.device
    }

    /// Its public halves and id.
    #[must_use]
    pub fn keys(&self) -> &PrekeyPublic {
        &self.keys
    }

    /// When it may be used.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

/// A one-time prekey as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOneTime {
    /// The id under which the sender names it.
    pub id: u32,
    /// X25519 half.
    pub dh: DhPublic,
    /// ML-KEM half, of any length until verified.
    pub kem: Vec<u8>,
    /// Ed25519 signature of the device.
    pub signature: [u8; 64],
}

impl SignedOneTime {
    /// Signs the public halves of `secret` for publication at `origin`. The secret
    /// must be durable before the result leaves this machine.
    #[must_use]
    pub fn sign(device: &DeviceSecret, origin: &str, secret: &OneTimeSecret) -> Self {
        let PrekeyPublic { id, dh, kem } = secret.public();
        let mut signed = Self { id, dh, kem: kem.to_bytes().to_vec(), signature: [0; 64] };
        signed.signature = device.sign(&signed.statement(origin, device.public().device_id()));
        signed
    }

    /// Verifies key and signature.
    ///
    /// # Errors
    /// [`PrekeyRefused::KemKey`] or [`PrekeyRefused::Signature`].
    pub fn verify(
        &self,
        origin: &str,
        device: &DevicePublic,
    ) -> Result<OneTimePrekey, PrekeyRefused> {
        let kem = KemPublic::from_bytes(&self.kem)?;
        device.verify(&self.statement(origin, device.device_id()), &self.signature)?;
        let keys = PrekeyPublic { id: self.id, dh: self.dh, kem };
        Ok(OneTimePrekey { device: *device, keys })
    }

    pub(super) fn statement(&self, origin: &str, device: DeviceId) -> Vec<u8> {
        let key =
            envelope::PrekeyPublic { id: self.id, x25519: self.dh.as_bytes(), kem: &self.kem };
        envelope::one_time_prekey(origin, device.as_bytes(), &key)
    }
}

/// A one-time prekey that its device signed for this relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTimePrekey {
    device: DevicePublic,
    keys: PrekeyPublic,
}

impl OneTimePrekey {
    /// The device that signed it.
    #[must_use]
    pub fn device(&self) -> &DevicePublic {
        &self.device
    }

    /// Its public halves and id.
    #[must_use]
    pub fn keys(&self) -> &PrekeyPublic {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn device() -> DeviceSecret {
        DeviceSecret::from_seed(&[1; 32])
    }

    fn fallback(not_before: u64, not_after: u64) -> SignedFallback {
        let secret = FallbackSecret::from_seeds(7, [2; 32], [3; 64]);
        let window = Validity::longest(0).unwrap();
        let mut signed = SignedFallback::sign(&device(), "o", &secret, window);
        (signed.not_before, signed.not_after) = (not_before, not_after);
        let id = device().public().device_id();
        signed.signature = device().sign(&signed.statement("o", id));
        signed
    }

    fn verdict(signed: &SignedFallback) -> Result<(), PrekeyRefused> {
        signed.verify("o", &device().public(), NOW).map(|_| ())
    }

    #[test]
    fn b6_window_edges() {
        let max = MAX_VALIDITY_SECONDS;
        assert_eq!(verdict(&fallback(NOW, NOW + 1)), Ok(()));
        assert_eq!(verdict(&fallback(NOW - max + 1, NOW + 1)), Ok(()));
        let expired = PrekeyRefused::Expired { not_after: NOW };
        assert_eq!(verdict(&fallback(NOW - 1, NOW)), Err(expired));
        let early = PrekeyRefused::NotYetValid { not_before: NOW + 1 };
        assert_eq!(verdict(&fallback(NOW + 1, NOW + 9)), Err(early));
        for (from, to) in [(NOW, NOW), (NOW, NOW - 1), (NOW, NOW + max + 1), (0, u64::MAX)] {
            assert_eq!(verdict(&fallback(from, to)), Err(PrekeyRefused::Window), "{from}..{to}");
        }
        assert_eq!(Validity::longest(u64::MAX - max + 1), Err(WindowRefused));
        assert_eq!(Validity::longest(NOW).unwrap().not_after(), NOW + max);
    }

    #[test]
    fn every_signed_value_is_bound() {
        let good = fallback(NOW, NOW + 9);
        let changes: [fn(&mut SignedFallback); 6] = [
            |p| p.id += 1,
            |p| p.dh = DhPublic::from_bytes([9; 32]),
            |p| p.kem = other_kem().to_bytes().to_vec(),
            |p| p.not_before -= 1,
            |p| p.not_after += 1,
            |p| p.signature[3] ^= 1,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(verdict(&bad), Err(PrekeyRefused::Signature), "change {n}");
        }
        let other = DeviceSecret::from_seed(&[9; 32]).public();
        assert_eq!(good.verify("o", &other, NOW), Err(PrekeyRefused::Signature));
        let elsewhere = good.verify("p", &device().public(), NOW);
        assert_eq!(elsewhere, Err(PrekeyRefused::Signature));
    }

    fn other_kem() -> KemPublic {
        FallbackSecret::from_seeds(7, [2; 32], [4; 64]).public().kem
    }

    #[test]
    fn b5_neither_kind_passes_for_the_other() {
        let one_time_secret = OneTimeSecret::from_seeds(7, [2; 32], [3; 64]);
        let one_time = SignedOneTime::sign(&device(), "o", &one_time_secret);
        let mut forged = fallback(NOW, NOW + 9);
        let fallback_signature = forged.signature;
        forged.signature = one_time.signature;
        assert_eq!(verdict(&forged), Err(PrekeyRefused::Signature));
        let forged = SignedOneTime { signature: fallback_signature, ..one_time };
        let refused = forged.verify("o", &device().public());
        assert_eq!(refused, Err(PrekeyRefused::Signature));
    }

    #[test]
    fn b12_a_prekey_without_its_kem_half_is_refused() {
        for len in [0, 32, 1183, 1185] {
            let mut stripped = fallback(NOW, NOW + 9);
            stripped.kem.resize(len, 0);
            // Refused even if the device itself had signed it.
            let id = device().public().device_id();
            stripped.signature = device().sign(&stripped.statement("o", id));
            assert_eq!(verdict(&stripped), Err(PrekeyRefused::KemKey));
        }
    }
}
