//! Linking: what a new device shows of itself before any account knows it (PROTOCOL.md 4).
//!
//! ```text
//! code    = H(enc("nexo/1/link", [origin, ed25519_pub 32])), its first 16 bytes: the link id
//! request = enc("nexo/1/sig/link", [origin, ed25519_pub 32, H(name opening) 32, opening])
//! ```
//!
//! A person carries the code from one screen to the other, so the key that the relay hands over
//! is checked against something that the relay has not touched. How a code is written down is
//! the clients' affair.

use crate::bytes::enc;

type Hash = [u8; 32];

/// Bytes of a link id.
pub const LINK_ID: usize = 16;

/// What is hashed to the code of a device's key; its first [`LINK_ID`] bytes count.
#[must_use]
pub fn code(origin: &str, key: &Hash) -> Vec<u8> {
    enc("nexo/1/link", &[origin.as_bytes(), key])
}

/// What a new device signs to ask for a link. `opening` is for the device that approves.
#[must_use]
pub fn request(origin: &str, key: &Hash, name: &Hash, opening: &[u8]) -> Vec<u8> {
    enc("nexo/1/sig/link", &[origin.as_bytes(), key, name, opening])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_of_one_relay_and_one_key_and_no_request_is_a_code() {
        let texts = [
            code("a", &[1; 32]),
            code("b", &[1; 32]),
            code("a", &[2; 32]),
            request("a", &[1; 32], &[0; 32], b""),
            request("a", &[1; 32], &[0; 32], b"x"),
            request("a", &[1; 32], &[9; 32], b""),
        ];
        for (n, one) in texts.iter().enumerate() {
            assert!(texts[n + 1..].iter().all(|other| other != one), "{n}");
        }
    }
}
