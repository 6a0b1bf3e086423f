//! What the log commits to: one small, deterministic entry per event, a kind and hashes.
//!
//! ```text
//! entry = enc("nexo/1/leaf", [kind u8, ...])          leaf hash = SHA-256(0x00 || entry)
//!
//! 0x01 key event, native      label 32, H(event) 32, H(signatures) 32
//! 0x02 message, native        EH 32
//! 0x03 tombstone, native      H(tombstone) 32, H(sig) 32
//! 0x11 key record, plain      label 32, H(plain key record) 32
//! 0x12 message, plain         H(plain message record) 32
//! 0x13 deletion, plain        H(plain deletion record) 32
//! ```
//!
//! No entry holds an id, a name, a time or a length; the label of key events, the hash of
//! origin and handle, is the one guessable value (PROTOCOL.md 6). This crate hashes nothing:
//! callers pass hashes in, and hash the records made here.

use crate::bytes::enc;

type Hash = [u8; 32];

/// The label of every entry.
pub const LEAF: &str = "nexo/1/leaf";

/// Entry of a native key event.
#[must_use]
pub fn key_event(label: &Hash, event: &Hash, signatures: &Hash) -> Vec<u8> {
    enc(LEAF, &[&[0x01], label, event, signatures])
}

/// Entry of a native message: its envelope hash.
#[must_use]
pub fn message(envelope: &Hash) -> Vec<u8> {
    enc(LEAF, &[&[0x02], envelope])
}

/// Entry of a signed tombstone.
#[must_use]
pub fn tombstone(statement: &Hash, signature: &Hash) -> Vec<u8> {
    enc(LEAF, &[&[0x03], statement, signature])
}

/// Entry of a plain account's key.
#[must_use]
pub fn plain_key(label: &Hash, record: &Hash) -> Vec<u8> {
    enc(LEAF, &[&[0x11], label, record])
}

/// Entry of a plain message.
#[must_use]
pub fn plain_message(record: &Hash) -> Vec<u8> {
    enc(LEAF, &[&[0x12], record])
}

/// Entry of a plain deletion.
#[must_use]
pub fn plain_deletion(record: &Hash) -> Vec<u8> {
    enc(LEAF, &[&[0x13], record])
}

/// The record whose hash a plain key entry holds: a plain account and its one device.
#[must_use]
pub fn plain_key_record(
    origin: &str,
    handle: &str,
    account: &Hash,
    device: &str,
    key: &Hash,
) -> Vec<u8> {
    enc(
        "nexo/1/plain/key",
        &[origin.as_bytes(), handle.as_bytes(), account, device.as_bytes(), key],
    )
}

/// Every stored field of a plain message (design 9).
#[derive(Debug, Clone, Copy)]
pub struct PlainMessage<'a> {
    /// The relay's origin.
    pub origin: &'a str,
    /// The conversation.
    pub conv: &'a Hash,
    /// The message id, as text.
    pub msg_id: &'a str,
    /// The sending device, as text.
    pub device: &'a str,
    /// Bytes of `cipher` that are its nonce, when it came as `{c,n}`; 0 when it came as a string.
    pub nonce_len: u32,
    /// The ciphertext.
    pub cipher: &'a [u8],
    /// The exact bytes of `ad`.
    pub ad: &'a [u8],
    /// The relay's time, seconds.
    pub ts: u64,
}

/// The record whose hash a plain message entry holds.
#[must_use]
pub fn plain_message_record(message: &PlainMessage<'_>) -> Vec<u8> {
    enc(
        "nexo/1/plain/message",
        &[
            message.origin.as_bytes(),
            message.conv,
            message.msg_id.as_bytes(),
            message.device.as_bytes(),
            &message.nonce_len.to_be_bytes(),
            message.cipher,
            message.ad,
            &message.ts.to_be_bytes(),
        ],
    )
}

/// The record whose hash a plain deletion entry holds. `target` is the content hash of the
/// deleted message (what its own entry holds).
#[must_use]
pub fn plain_deletion_record(
    origin: &str,
    conv: &Hash,
    device: &str,
    target: &Hash,
    ts: u64,
) -> Vec<u8> {
    enc(
        "nexo/1/plain/deletion",
        &[origin.as_bytes(), conv, device.as_bytes(), target, &ts.to_be_bytes()],
    )
}

/// What is hashed to the id of a plain account (design 6).
#[must_use]
pub fn plain_account(origin: &str, handle: &str, key: &Hash) -> Vec<u8> {
    enc("nexo/1/plain-account", &[origin.as_bytes(), handle.as_bytes(), key])
}

/// What is hashed to the id of the conversation of two accounts, in either order.
#[must_use]
pub fn direct_conversation(origin: &str, one: &Hash, other: &Hash) -> Vec<u8> {
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    enc("nexo/1/conv/direct", &[origin.as_bytes(), low, high])
}

/// What is hashed to the id of a native device.
#[must_use]
pub fn device(key: &Hash) -> Vec<u8> {
    enc("nexo/1/device-id", &[key])
}

/// What is hashed to the label of an account's key events.
#[must_use]
pub fn label(origin: &str, handle: &str) -> Vec<u8> {
    enc("nexo/1/label", &[origin.as_bytes(), handle.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_has_one_id_for_both_sides() {
        let (a, b) = ([1; 32], [2; 32]);
        assert_eq!(direct_conversation("o", &a, &b), direct_conversation("o", &b, &a));
        assert_ne!(direct_conversation("o", &a, &b), direct_conversation("o", &a, &a));
        assert_ne!(direct_conversation("o", &a, &b), direct_conversation("p", &a, &b));
    }

    #[test]
    fn every_field_of_a_plain_message_is_in_its_record() {
        let base = PlainMessage {
            origin: "o",
            conv: &[1; 32],
            msg_id: "m",
            device: "d",
            nonce_len: 0,
            cipher: b"c",
            ad: b"{}",
            ts: 1,
        };
        let others = [
            PlainMessage { origin: "p", ..base },
            PlainMessage { conv: &[2; 32], ..base },
            PlainMessage { msg_id: "n", ..base },
            PlainMessage { device: "e", ..base },
            PlainMessage { nonce_len: 1, ..base },
            PlainMessage { cipher: b"d", ..base },
            PlainMessage { ad: b"{ }", ..base },
            PlainMessage { ts: 2, ..base },
        ];
        for other in others {
            assert_ne!(plain_message_record(&base), plain_message_record(&other), "{other:?}");
        }
    }
}
