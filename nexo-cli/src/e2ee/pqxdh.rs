//! The key agreement: X3DH with ML-KEM-768 (design/e2ee.md 2.8).
//!
//! ```text
//! DH1 = DH(IK_A, SPK_B)  DH2 = DH(EK_A, IK_B)  DH3 = DH(EK_A, SPK_B)  DH4 = DH(EK_A, OTK_B)
//! TH  = H(enc("nexo/1/pqxdh-transcript", [SUITE, origin, acct_A, dev_A, IKsig_A, acct_B, dev_B,
//!         IKsig_B, EK_A, fpk_id u32, SPK_B, kem_source u8, otk_id u32 or empty, OTK_B or empty,
//!         H(kem_ek), ct]))
//! RK0 || CONT0 = HKDF(salt = 32 zeros, ikm = 0xFF*32 || DH1 || DH2 || DH3 || [DH4] || ss,
//!                     info = enc("nexo/1/pqxdh", [TH]), 64)
//! ```
//!
//! `TH` names both accounts, devices and keys and all prekeys, so two sides that
//! disagree about any of them hold unrelated keys. The agreement authenticates
//! nobody by itself: only who opens a first message shows that they were the one.

use super::SUITE;
use super::ids::{AccountId, SessionId};
use super::kdf;
use super::kem::{Kem, KemPublic, MlKem768};
use super::keys::{
    DhSecret, FallbackSecret, LocalParty, NonContributory, OneTimeSecret, Party, PrekeyPublic,
};
use super::packet::PrekeyBlock;
use super::prekey::{FallbackPrekey, OneTimePrekey};
use nexo_schema::bytes::enc;
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why no keys come out of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefused {
    /// One of the X25519 results is zero: a key of small order was offered.
    #[error("a key of the handshake has small order")]
    NonContributory,
    /// The prekeys at hand are not those that the handshake names.
    #[error("the handshake names other prekeys")]
    WrongPrekey,
}

impl From<NonContributory> for HandshakeRefused {
    fn from(NonContributory: NonContributory) -> Self {
        Self::NonContributory
    }
}

/// The initiator's random bytes. Used for one handshake, wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct HandshakeRandomness {
    /// The secret of `EK_A`.
    pub ephemeral: [u8; 32],
    /// The `m` of ML-KEM encapsulation.
    pub kem: [u8; 32],
}

/// What both sides hold afterwards.
pub struct Handshake {
    transcript: [u8; 32],
    root: Zeroizing<[u8; 32]>,
    continuity: Zeroizing<[u8; 32]>,
}

impl Handshake {
    /// `TH`, the hash of everything both sides agree on.
    #[must_use]
    pub fn transcript(&self) -> &[u8; 32] {
        &self.transcript
    }

    /// The first 16 bytes of `H(enc("nexo/1/session-id",[TH]))`.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        let hash = kdf::hash(&enc("nexo/1/session-id", &[&self.transcript]));
        SessionId::from_bytes(kdf::first_half(&hash))
    }

    /// `CONT0`, with which a later session proves that it replaces this one.
    #[must_use]
    pub fn continuity_key(&self) -> &[u8; 32] {
        &self.continuity
    }

    /// `RK0`, the first root key; it never leaves this folder.
    pub(in crate::e2ee) fn root_key(&self) -> &[u8; 32] {
        &self.root
    }

    /// The common end of both sides: hash what was said, mix what was shared.
    fn derive(transcript: [u8; 32], secrets: &[Zeroizing<[u8; 32]>]) -> Self {
        // 32 bytes of 0xFF first, so the input never looks like the one of XEdDSA
        // or of another protocol over the same curve (X3DH section 3.3).
        let mut ikm = Zeroizing::new(Vec::with_capacity(32 * (secrets.len() + 1)));
        ikm.extend_from_slice(&[0xff; 32]);
        for secret in secrets {
            ikm.extend_from_slice(&secret[..]);
        }
        let okm = kdf::hkdf::<64>(&[0; 32], &ikm, &enc("nexo/1/pqxdh", &[&transcript]));
        let (mut root, mut continuity) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        root.copy_from_slice(&okm[..32]);
        continuity.copy_from_slice(&okm[32..]);
        Self { transcript, root, continuity }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshake({})", self.session_id())
    }
}

/// Starts a handshake from this device to the device that signed `fallback`, whose
/// account is `to`. Returns what must travel and the keys.
///
/// # Errors
/// [`HandshakeRefused::NonContributory`] if a prekey has small order, and
/// [`HandshakeRefused::WrongPrekey`] if the two prekeys are of different devices.
pub fn initiate(
    origin: &str,
    from: &LocalParty<'_>,
    to: AccountId,
    fallback: &FallbackPrekey,
    one_time: Option<&OneTimePrekey>,
    randomness: &HandshakeRandomness,
) -> Result<(PrekeyBlock, Handshake), HandshakeRefused> {
    let device = *fallback.device();
    if one_time.is_some_and(|prekey| *prekey.device() != device) {
        return Err(HandshakeRefused::WrongPrekey);
    }
    let ephemeral = DhSecret::from_bytes(randomness.ephemeral);
    let spk = fallback.keys();
    let otk = one_time.map(OneTimePrekey::keys);
    let mut secrets = vec![
        from.secret.dh_secret().agree(&spk.dh)?,
        ephemeral.agree(&device.dh_public())?,
        ephemeral.agree(&spk.dh)?,
    ];
    if let Some(otk) = otk {
        secrets.push(ephemeral.agree(&otk.dh)?);
    }
    let (ciphertext, shared) = MlKem768::encapsulate(&otk.unwrap_or(spk).kem, &randomness.kem);
    secrets.push(shared);
    let block = PrekeyBlock {
        ephemeral: ephemeral.public(),
        fallback_id: spk.id,
        one_time_id: otk.map(|otk| otk.id),
        ciphertext,
    };
    let said = Said { origin, from: from.party(), to: Party { account: to, device } };
    Ok((block.clone(), Handshake::derive(said.transcript(&block, spk, otk), &secrets)))
}

/// Answers a handshake that names prekeys of this device.
///
/// # Errors
/// [`HandshakeRefused::WrongPrekey`] if `fallback` or `one_time` are not the ones
/// named in `block`, and [`HandshakeRefused::NonContributory`].
pub fn respond(
    origin: &str,
    from: &Party,
    me: &LocalParty<'_>,
    fallback: &FallbackSecret,
    one_time: Option<&OneTimeSecret>,
    block: &PrekeyBlock,
) -> Result<Handshake, HandshakeRefused> {
    if fallback.id() != block.fallback_id || one_time.map(OneTimeSecret::id) != block.one_time_id {
        return Err(HandshakeRefused::WrongPrekey);
    }
    let mut secrets = vec![
        fallback.dh().agree(&from.device.dh_public())?,
        me.secret.dh_secret().agree(&block.ephemeral)?,
        fallback.dh().agree(&block.ephemeral)?,
    ];
    if let Some(one_time) = one_time {
        secrets.push(one_time.dh().agree(&block.ephemeral)?);
    }
    let kem_seed = one_time.map_or(fallback.kem_seed(), OneTimeSecret::kem_seed);
    secrets.push(MlKem768::decapsulate(kem_seed, &block.ciphertext));
    let said = Said { origin, from: *from, to: me.party() };
    let otk = one_time.map(OneTimeSecret::public);
    let transcript = said.transcript(block, &fallback.public(), otk.as_ref());
    Ok(Handshake::derive(transcript, &secrets))
}

/// Who speaks to whom, and where.
struct Said<'a> {
    origin: &'a str,
    from: Party,
    to: Party,
}

impl Said<'_> {
    fn transcript(
        &self,
        block: &PrekeyBlock,
        spk: &PrekeyPublic,
        otk: Option<&PrekeyPublic>,
    ) -> [u8; 32] {
        let otk_id = otk.map(|otk| otk.id.to_be_bytes());
        let kem: &KemPublic = &otk.unwrap_or(spk).kem;
        kdf::hash(&enc(
            "nexo/1/pqxdh-transcript",
            &[
                &[SUITE],
                self.origin.as_bytes(),
                self.from.account.as_bytes(),
                self.from.device.device_id().as_bytes(),
                self.from.device.as_bytes(),
                self.to.account.as_bytes(),
                self.to.device.device_id().as_bytes(),
                self.to.device.as_bytes(),
                block.ephemeral.as_bytes(),
                &spk.id.to_be_bytes(),
                spk.dh.as_bytes(),
                &[u8::from(otk.is_some())],
                otk_id.as_ref().map_or(&[][..], |id| &id[..]),
                otk.map_or(&[][..], |otk| otk.dh.as_bytes()),
                &kdf::hash(&kem.to_bytes()[..]),
                block.ciphertext.as_bytes(),
            ],
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::keys::{DeviceSecret, DhPublic};
    use crate::e2ee::prekey::{SignedFallback, SignedOneTime, Validity};

    const ORIGIN: &str = "relay.example.org";

    fn account(n: u8) -> AccountId {
        AccountId::from_bytes([n; 32])
    }

    fn fallback(device: &DeviceSecret, secret: &FallbackSecret) -> FallbackPrekey {
        SignedFallback::sign(device, ORIGIN, secret, Validity::longest(0).unwrap())
            .verify(ORIGIN, &device.public(), 1)
            .unwrap()
    }

    #[test]
    fn b1_the_transcript_names_both_accounts_devices_and_the_relay() {
        let (alice, bob) = (DeviceSecret::from_seed(&[1; 32]), DeviceSecret::from_seed(&[2; 32]));
        let secret = FallbackSecret::from_seeds(7, [3; 32], [4; 64]);
        let from = LocalParty { account: account(1), secret: &alice };
        let me = LocalParty { account: account(2), secret: &bob };
        let random = HandshakeRandomness { ephemeral: [5; 32], kem: [6; 32] };
        let prekey = fallback(&bob, &secret);
        let (block, hers) = initiate(ORIGIN, &from, account(2), &prekey, None, &random).unwrap();
        let same = respond(ORIGIN, &from.party(), &me, &secret, None, &block).unwrap();
        assert_eq!(same.transcript(), hers.transcript());

        // Carol relays Alice's handshake as her own, or the relay renames someone.
        let carol = DeviceSecret::from_seed(&[9; 32]).public();
        let alice_party = from.party();
        let renamed = LocalParty { account: account(3), secret: &bob };
        for (origin, from, me) in [
            (ORIGIN, Party { device: carol, ..alice_party }, me),
            (ORIGIN, Party { account: account(3), ..alice_party }, me),
            (ORIGIN, alice_party, renamed),
            ("relay.example.com", alice_party, me),
        ] {
            let other = respond(origin, &from, &me, &secret, None, &block).unwrap();
            assert_ne!(other.transcript(), hers.transcript());
            assert_ne!(other.root_key(), hers.root_key());
            assert_ne!(other.session_id(), hers.session_id());
        }
    }

    fn dh(secret: &DhSecret, public: &DhPublic) -> Zeroizing<[u8; 32]> {
        secret.agree(public).unwrap()
    }

    #[test]
    fn b2_a_leaked_identity_key_of_bobs_lets_nobody_pose_as_alice() {
        let (alice, bob) = (DeviceSecret::from_seed(&[1; 32]), DeviceSecret::from_seed(&[2; 32]));
        let secret = FallbackSecret::from_seeds(7, [3; 32], [4; 64]);
        let prekey = fallback(&bob, &secret);
        let (hers, his) = (alice.public(), bob.public());
        let from = Party { account: account(1), device: hers };
        let me = LocalParty { account: account(2), secret: &bob };
        // Mallory has Bob's device key and all that is public. She says, word for word, what
        // Alice would say.
        let (ephemeral, spk) = (DhSecret::from_bytes([5; 32]), prekey.keys());
        let (ciphertext, shared) = MlKem768::encapsulate(&spk.kem, &[6; 32]);
        let block = PrekeyBlock {
            ephemeral: ephemeral.public(),
            fallback_id: spk.id,
            one_time_id: None,
            ciphertext,
        };
        let said = Said { origin: ORIGIN, from, to: me.party() };
        let transcript = said.transcript(&block, spk, None);
        let bobs = respond(ORIGIN, &from, &me, &secret, None, &block).unwrap();
        assert_eq!(*bobs.transcript(), transcript);
        let (dh2, dh3) = (dh(&ephemeral, &his.dh_public()), dh(&ephemeral, &spk.dh));
        let keys = |first: Zeroizing<[u8; 32]>| {
            let rest = [first, dh2.clone(), dh3.clone(), shared.clone()];
            Handshake::derive(transcript, &rest)
        };
        // What she lacks is DH1, for which it takes Alice's key or the secret of the prekey.
        let by_alice = keys(dh(&alice.dh_secret(), &spk.dh));
        assert_eq!(by_alice.root_key(), bobs.root_key(), "all the rest is right");
        let leaked = bob.dh_secret();
        for guess in [
            dh(&leaked, &hers.dh_public()),
            dh(&leaked, &spk.dh),
            dh(&leaked, &ephemeral.public()),
            dh(&ephemeral, &hers.dh_public()),
            dh2.clone(),
            dh3.clone(),
            Zeroizing::new([0; 32]),
        ] {
            let keys = keys(guess);
            assert_ne!(keys.root_key(), bobs.root_key());
            assert_ne!(keys.continuity_key(), bobs.continuity_key());
        }
    }

    #[test]
    fn b7_another_kem_key_or_ciphertext_of_the_same_device_gives_other_keys() {
        let (alice, bob) = (DeviceSecret::from_seed(&[1; 32]), DeviceSecret::from_seed(&[2; 32]));
        let secret = FallbackSecret::from_seeds(7, [3; 32], [4; 64]);
        let swapped = FallbackSecret::from_seeds(7, [3; 32], [8; 64]);
        let from = LocalParty { account: account(1), secret: &alice };
        let me = LocalParty { account: account(2), secret: &bob };
        let random = HandshakeRandomness { ephemeral: [5; 32], kem: [6; 32] };
        let prekey = fallback(&bob, &secret);
        let (block, hers) = initiate(ORIGIN, &from, account(2), &prekey, None, &random).unwrap();
        let other = respond(ORIGIN, &from.party(), &me, &swapped, None, &block).unwrap();
        assert_ne!(other.transcript(), hers.transcript());

        // Re-encapsulation: who knows the KEM secret re-encrypts the same secret.
        // The secret may be equal; the ciphertext and its hash are not.
        let (again, _) = MlKem768::encapsulate(&secret.public().kem, &[7; 32]);
        let replaced = PrekeyBlock { ciphertext: again, ..block };
        let other = respond(ORIGIN, &from.party(), &me, &secret, None, &replaced).unwrap();
        assert_ne!(other.transcript(), hers.transcript());
        assert_ne!(other.root_key(), hers.root_key());
    }

    #[test]
    fn prekeys_of_two_devices_do_not_mix() {
        let (bob, carol) = (DeviceSecret::from_seed(&[2; 32]), DeviceSecret::from_seed(&[9; 32]));
        let prekey = fallback(&bob, &FallbackSecret::from_seeds(7, [3; 32], [4; 64]));
        let one_time = OneTimeSecret::from_seeds(1, [3; 32], [4; 64]);
        let one_time =
            SignedOneTime::sign(&carol, ORIGIN, &one_time).verify(ORIGIN, &carol.public()).unwrap();
        let from = LocalParty { account: account(1), secret: &bob };
        let random = HandshakeRandomness { ephemeral: [5; 32], kem: [6; 32] };
        let refused = initiate(ORIGIN, &from, account(2), &prekey, Some(&one_time), &random);
        assert_eq!(refused.unwrap_err(), HandshakeRefused::WrongPrekey);
    }
}
