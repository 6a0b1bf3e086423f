//! What is signed to log in, and to prove possession of a token's key.
//!
//! The login nonce is one line of text that names its relay, device and request (design 5):
//!
//! ```text
//! nexo/1/auth <origin> <device_id> <hex SHA-256 of the register request body> <exp> <random>
//! ```

use serde::{Deserialize, Serialize};

use crate::bytes::{from_hex, to_hex};
use crate::ids::{DeviceId, Origin};

/// A login nonce, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce {
    /// The relay that asks.
    pub origin: Origin,
    /// The device that is to answer.
    pub device: DeviceId,
    /// SHA-256 of the exact bytes of the register request's body.
    pub request: [u8; 32],
    /// Unix seconds after which it is void.
    pub exp: u64,
    /// At least 128 random bits, as text without spaces.
    pub random: String,
}

impl Nonce {
    /// The line that the device signs.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!(
            "nexo/1/auth {} {} {} {} {}",
            self.origin,
            self.device,
            to_hex(&self.request),
            self.exp,
            self.random
        )
    }

    /// Reads a line; `None` for any other text.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("nexo/1/auth ")?;
        let parts: Vec<&str> = rest.split(' ').collect();
        let [origin, device, request, exp, random] = parts[..] else { return None };
        let nonce = Self {
            origin: Origin::parse(origin).ok()?,
            device: DeviceId::parse(device).ok()?,
            request: from_hex(request).ok()?,
            exp: exp.parse().ok()?,
            random: random.to_owned(),
        };
        let plain = !random.is_empty() && random.bytes().all(|b| b.is_ascii_graphic());
        // One spelling only: a line that prints differently was not ours.
        (plain && nonce.to_line() == line).then_some(nonce)
    }
}

/// Claims of a DPoP proof (RFC 9449 section 4.2), with the relay's origin besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DpopClaims {
    /// Unique per proof.
    pub jti: String,
    /// The request's method.
    pub htm: String,
    /// The request's URL without query and fragment.
    pub htu: String,
    /// When the proof was made, Unix seconds.
    pub iat: u64,
    /// Unpadded base64url of SHA-256 of the access token; absent when a token is asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ath: Option<String>,
    /// The relay the proof is for.
    pub origin: String,
}

/// The header of a DPoP proof: `typ`, `alg` and the device's public key (RFC 8037).
#[must_use]
pub fn dpop_header(key_base64url: &str) -> String {
    format!(
        r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{key_base64url}"}}}}"#
    )
}

/// What is hashed to the thumbprint of that key (RFC 7638, RFC 8037 section 2).
#[must_use]
pub fn thumbprint_input(key_base64url: &str) -> String {
    format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{key_base64url}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce() -> Nonce {
        Nonce {
            origin: Origin::parse("relay.example.org").unwrap(),
            device: DeviceId::parse("tab-1").unwrap(),
            request: [0xab; 32],
            exp: 1_700_000_000,
            random: "r4nd0m".into(),
        }
    }

    #[test]
    fn a_nonce_reads_back() {
        assert_eq!(Nonce::parse(&nonce().to_line()), Some(nonce()));
    }

    #[test]
    fn any_other_line_is_refused() {
        let line = nonce().to_line();
        for bad in [
            String::new(),
            line.replace("auth", "auht"),
            format!("{line} more"),
            format!("{line}\n"),
            line.replace(" r4nd0m", " "),
            line.replace(" r4nd0m", ""),
            line.replace("1700000000", "+1700000000"),
            line.replace("1700000000", "01700000000"),
            line.replace("abab", "ABAB"),
            line.replace("tab-1", "tab  1"),
        ] {
            assert_eq!(Nonce::parse(&bad), None, "{bad:?}");
        }
    }
}
