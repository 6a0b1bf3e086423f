//! Proofs of possession on requests: DPoP (RFC 9449) with the device's Ed25519 key
//! and an `origin` claim (README.md 7).
//!
//! ```text
//! base64url(header) . base64url(claims) . base64url(signature over the first two)
//! header = {"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":…}}
//! claims = {"jti":…,"htm":…,"htu":…,"iat":…,"origin":…[,"ath":…]}
//! ```
//!
//! A proof begins with `eyJ`, the base64url of `{"`, and so never looks like a
//! labelled statement or a challenge. It is made here, whole, because nothing
//! outside this folder can have bytes of its own signed.

use super::kdf;
use super::keys::DeviceSecret;
use nexo_schema::bytes::to_base64url;

/// Why no proof is made: a text that would have to be escaped in JSON, which no
/// method, URL or origin of ours contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} of a request proof has a character outside plain ASCII")]
pub struct ProofRefused(&'static str);

/// The request to prove.
#[derive(Clone, Copy)]
pub struct ProofOf<'a> {
    /// HTTP method, in upper case.
    pub method: &'a str,
    /// Absolute URL without query and fragment (RFC 9449 section 4.2).
    pub url: &'a str,
    /// The relay's origin string.
    pub origin: &'a str,
    /// Now, in Unix seconds.
    pub issued_at: u64,
    /// 16 random bytes, fresh for each proof: the relay accepts each once.
    pub id: [u8; 16],
    /// The access token the request carries, if it carries one.
    pub token: Option<&'a str>,
}

/// Makes the value of a `DPoP` header.
///
/// # Errors
/// [`ProofRefused`].
pub fn dpop_proof(device: &DeviceSecret, request: &ProofOf<'_>) -> Result<String, ProofRefused> {
    let key = to_base64url(device.public().as_bytes());
    let header = format!(
        r#"{{"typ":"dpop+jwt","alg":"EdDSA","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{key}"}}}}"#
    );
    let token_hash = request.token.map(|token| to_base64url(&kdf::hash(token.as_bytes())));
    let ath = token_hash.map_or(String::new(), |hash| format!(r#","ath":"{hash}""#));
    let claims = format!(
        r#"{{"jti":"{}","htm":"{}","htu":"{}","iat":{},"origin":"{}"{ath}}}"#,
        to_base64url(&request.id),
        plain("method", request.method)?,
        plain("URL", request.url)?,
        request.issued_at,
        plain("origin", request.origin)?,
    );
    let mut proof =
        format!("{}.{}", to_base64url(header.as_bytes()), to_base64url(claims.as_bytes()));
    let signature = device.sign(proof.as_bytes());
    proof.push('.');
    proof.push_str(&to_base64url(&signature));
    Ok(proof)
}

/// Text that stands for itself inside a JSON string.
fn plain<'a>(what: &'static str, text: &'a str) -> Result<&'a str, ProofRefused> {
    let stands = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if text.bytes().all(stands) { Ok(text) } else { Err(ProofRefused(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::from_base64url;
    use serde_json::{Value, json};

    fn request() -> ProofOf<'static> {
        ProofOf {
            method: "POST",
            url: "http://127.0.0.1:8000/messages",
            origin: "relay.example.org",
            issued_at: 1_700_000_000,
            id: [7; 16],
            token: Some("a.b.c"),
        }
    }

    #[test]
    fn a_proof_is_a_signed_jwt_that_names_key_and_request() {
        let device = DeviceSecret::from_seed(&[1; 32]);
        let proof = dpop_proof(&device, &request()).unwrap();
        assert!(proof.starts_with("eyJ"));
        let parts: Vec<_> = proof.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("{proof}") };
        let signed = format!("{header}.{claims}");
        let signature = from_base64url(signature).unwrap();
        assert_eq!(device.public().verify(signed.as_bytes(), &signature), Ok(()));
        let read =
            |part| -> Value { serde_json::from_slice(&from_base64url(part).unwrap()).unwrap() };
        let key = to_base64url(device.public().as_bytes());
        assert_eq!(
            read(header),
            json!({"typ": "dpop+jwt", "alg": "EdDSA",
                "jwk": {"kty": "OKP", "crv": "Ed25519", "x": key}})
        );
        assert_eq!(
            read(claims),
            json!({"jti": to_base64url(&[7; 16]), "htm": "POST", "iat": 1_700_000_000,
                "htu": "http://127.0.0.1:8000/messages", "origin": "relay.example.org",
                "ath": to_base64url(&kdf::hash(b"a.b.c"))})
        );
        let without = dpop_proof(&device, &ProofOf { token: None, ..request() }).unwrap();
        let claims = read(without.split('.').nth(1).unwrap());
        assert!(claims.get("ath").is_none());
    }

    #[test]
    fn nothing_breaks_out_of_the_json() {
        let device = DeviceSecret::from_seed(&[1; 32]);
        for bad in ["a\"", "a\\", "a b", "a\n", "é"] {
            let url = dpop_proof(&device, &ProofOf { url: bad, ..request() });
            assert_eq!(url, Err(ProofRefused("URL")));
            let method = dpop_proof(&device, &ProofOf { method: bad, ..request() });
            assert_eq!(method, Err(ProofRefused("method")));
            let origin = dpop_proof(&device, &ProofOf { origin: bad, ..request() });
            assert_eq!(origin, Err(ProofRefused("origin")));
        }
    }
}
