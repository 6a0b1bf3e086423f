//! DPoP proofs and access tokens made by hand, so that each part can be wrong.

use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use nexo_schema::bytes::{to_base64url, to_hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{now, random};

/// A DPoP proof to be (RFC 9449 section 4.2). Right as made by [`Proof::of`]; then changed.
#[derive(Clone)]
pub(crate) struct Proof {
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl Proof {
    /// A proof by `key` of a request to `url`, which carries `token` if it carries one.
    pub(crate) fn of(
        key: &SigningKey,
        (method, url): (&str, &str),
        origin: &str,
        token: Option<&str>,
    ) -> Self {
        let x = to_base64url(key.verifying_key().as_bytes());
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA",
                            "jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}});
        let mut claims = json!({"jti": to_hex(&random::<16>()), "htm": method, "htu": url,
                                "iat": now(), "origin": origin});
        if let Some(token) = token {
            claims["ath"] = to_base64url(&Sha256::digest(token)).into();
        }
        Self { header, claims }
    }

    /// With another claim, or without one (null).
    pub(crate) fn claim(mut self, name: &str, value: Value) -> Self {
        set(&mut self.claims, name, value);
        self
    }

    /// With another member in the header, or without one (null).
    pub(crate) fn head(mut self, name: &str, value: Value) -> Self {
        set(&mut self.header, name, value);
        self
    }

    /// Signed, as it travels.
    pub(crate) fn sign(&self, key: &SigningKey) -> String {
        let input = unsigned(&self.header, &self.claims);
        let signature = key.sign(input.as_bytes()).to_bytes();
        format!("{input}.{}", to_base64url(&signature))
    }
}

/// Signs a JWT with HMAC-SHA256, whatever its header says.
pub(crate) fn jwt(header: &Value, claims: &Value, secret: &[u8]) -> String {
    jwt_of(&header.to_string(), &claims.to_string(), secret)
}

/// As [`jwt`], of JSON texts that need not be JSON.
pub(crate) fn jwt_of(header: &str, claims: &str, secret: &[u8]) -> String {
    let input = format!("{}.{}", to_base64url(header.as_bytes()), to_base64url(claims.as_bytes()));
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(&input).finalize();
    format!("{input}.{}", to_base64url(&mac.into_bytes()))
}

/// The claims of a token, unverified.
pub(crate) fn claims_of(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&nexo_schema::bytes::from_base64url(part).unwrap()).unwrap()
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| to_base64url(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

fn set(object: &mut Value, name: &str, value: Value) {
    let members = object.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
}
