//! Auditor tokens: what opens the bulk reading of key events, and nothing else.
//!
//! ```text
//! "nxa_" base64url(32 random bytes)
//! ```
//!
//! Opaque, kept as SHA-256 with an end. A signed token would still need a row to be revoked by,
//! and a row is all that this one needs. It is no JWT, so that no check of access tokens can be
//! talked into taking it, and an access token does not begin as it does.

use nexo_schema::bytes::{from_base64url, to_base64url, to_hex};
use sha2::{Digest as _, Sha256};

/// What every auditor token starts with, so that secret scanners can find a leaked one.
const PREFIX: &str = "nxa_";

/// A new token.
///
/// # Errors
/// If the system gives no random bytes.
pub fn new() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(format!("{PREFIX}{}", to_base64url(&random)))
}

/// What is stored of a token, SHA-256 of its text; `None` for text that is none. It has 256
/// random bits, so no salt or slow hash adds anything.
#[must_use]
pub fn hash(token: &str) -> Option<[u8; 32]> {
    let bytes = from_base64url(token.strip_prefix(PREFIX)?).ok()?;
    (bytes.len() == 32).then(|| Sha256::digest(token).into())
}

/// How a token is named where it is not shown: 16 hex digits of its hash.
#[must_use]
pub fn name(hash: &[u8; 32]) -> String {
    to_hex(&hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_their_form_and_differ() {
        let (one, two) = (new().unwrap(), new().unwrap());
        assert_eq!(one.len(), 47);
        assert!(one.starts_with("nxa_") && one != two);
        assert_ne!(hash(&one), hash(&two));
        assert_eq!(name(&hash(&one).unwrap()).len(), 16);
    }

    #[test]
    fn nothing_else_is_one() {
        let good = new().unwrap();
        let long = format!("{good}A");
        let other = good.replacen("nxa_", "nxr_", 1);
        let padded = format!("{good}=");
        let shouted = good.replacen("nxa_", "NXA_", 1);
        for bad in ["", "nxa_", &good[..46], &long, &other, &padded, &shouted, "a.b.c", " nxa_"] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}
