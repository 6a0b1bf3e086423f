//! The bytes of a native message that both the relay and the clients hash (e2ee 2.7, 2.11, 2.16).
//!
//! ```text
//! aad_pay = enc("nexo/1/payload-aad", [SUITE, origin, conv_id, msg_id 16, acct_A, dev_A])
//! PD      = H(enc("nexo/1/payload-digest", [aad_pay, sealed]))
//! EH      = H(enc("nexo/1/envelope", [aad_pay, PD, (device_id || H(kp)) per recipient]))
//!           recipients in ascending order of device_id
//! ```
//!
//! The relay recomputes EH from what it stores, so the entry of a message covers every byte
//! that a receiver checks. Sealing is the clients' alone: nexo-cli's `e2ee`.

use crate::bytes::enc;

type Hash = [u8; 32];

/// X25519, Ed25519, ML-KEM-768, XChaCha20-Poly1305, HKDF-SHA256.
pub const SUITE: u8 = 0x01;

/// Bytes of an ML-KEM-768 encapsulation key.
pub const KEM_KEY: usize = 1184;

/// Who sends what to which conversation.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The relay's origin.
    pub origin: &'a str,
    /// The conversation.
    pub conv: &'a Hash,
    /// The message.
    pub msg_id: &'a [u8; 16],
    /// The sender's account.
    pub account: &'a Hash,
    /// The sending device.
    pub device: &'a Hash,
}

impl Route<'_> {
    /// `aad_pay`.
    #[must_use]
    pub fn payload_aad(&self) -> Vec<u8> {
        enc(
            "nexo/1/payload-aad",
            &[&[SUITE], self.origin.as_bytes(), self.conv, self.msg_id, self.account, self.device],
        )
    }
}

/// What is hashed to the payload digest PD.
#[must_use]
pub fn payload_digest(payload_aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    enc("nexo/1/payload-digest", &[payload_aad, sealed])
}

/// What is hashed to the envelope hash EH. `packets` holds each recipient's device id and the
/// hash of its key packet, in ascending order of device id.
#[must_use]
pub fn envelope(payload_aad: &[u8], digest: &Hash, packets: &[(Hash, Hash)]) -> Vec<u8> {
    debug_assert!(packets.windows(2).all(|p| p[0].0 < p[1].0), "one order, no repeats");
    let pairs: Vec<[u8; 64]> =
        packets.iter().map(|(device, packet)| pair(device, packet)).collect();
    let mut fields: Vec<&[u8]> = vec![payload_aad, digest];
    fields.extend(pairs.iter().map(|p| &p[..]));
    enc("nexo/1/envelope", &fields)
}

fn pair(device: &Hash, packet: &Hash) -> [u8; 64] {
    let mut out = [0; 64];
    out[..32].copy_from_slice(device);
    out[32..].copy_from_slice(packet);
    out
}

/// What the author's device signs to delete a message for everyone.
#[must_use]
pub fn tombstone(route: &Route<'_>, target_envelope: &Hash, time_ms: u64) -> Vec<u8> {
    enc(
        "nexo/1/sig/tombstone",
        &[
            route.origin.as_bytes(),
            route.conv,
            route.msg_id,
            target_envelope,
            route.account,
            route.device,
            &time_ms.to_be_bytes(),
        ],
    )
}

/// A prekey pair's public half, as devices publish it.
#[derive(Debug, Clone, Copy)]
pub struct PrekeyPublic<'a> {
    /// Strictly increasing per device and kind, never reused.
    pub id: u32,
    /// X25519.
    pub x25519: &'a Hash,
    /// ML-KEM-768 encapsulation key, [`KEM_KEY`] bytes.
    pub kem: &'a [u8],
}

/// What a device signs to publish a fallback prekey; times in Unix seconds.
#[must_use]
pub fn fallback_prekey(
    origin: &str,
    device: &Hash,
    key: &PrekeyPublic<'_>,
    not_before: u64,
    not_after: u64,
) -> Vec<u8> {
    enc(
        "nexo/1/sig/fpk",
        &[
            origin.as_bytes(),
            device,
            &[SUITE],
            &key.id.to_be_bytes(),
            key.x25519,
            key.kem,
            &not_before.to_be_bytes(),
            &not_after.to_be_bytes(),
        ],
    )
}

/// What a device signs to publish a one-time prekey.
#[must_use]
pub fn one_time_prekey(origin: &str, device: &Hash, key: &PrekeyPublic<'_>) -> Vec<u8> {
    enc(
        "nexo/1/sig/otk",
        &[origin.as_bytes(), device, &[SUITE], &key.id.to_be_bytes(), key.x25519, key.kem],
    )
}
