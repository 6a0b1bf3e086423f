//! Access tokens (JWT, HS256) and refresh tokens (opaque, hashed at rest).
//!
//! ```text
//! access   base64url(header) . base64url(claims) . base64url(HMAC-SHA256)
//!          {"sub":device,"hdl":handle,"iss":issuer,"aud":origin,
//!           "iat":…,"nbf":…,"exp":…,"jti":…[,"cnf":{"jkt":…}]}
//! refresh  "nxr_" base64url(32 bytes)
//! ```
//!
//! A token says who it was made for and nothing about now: whether the device still exists is
//! looked up on every request. Every claim that is validated is also required, and has one type
//! (a remainder of CVE-2026-25537: jsonwebtoken lets a number pass for an optional `iss`).
//! Where tokens are kept and rotated is the store's work.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Extras, Header, Validation};
use nexo_schema::bytes::{enc, to_base64url};
use nexo_schema::ids::{DeviceId, Handle, Origin};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::provider;
use crate::config::Config;

pub use crate::config::ServerSecret;

/// Longest access token looked at, bytes; ours are about 600, with the longest origin 1,000.
pub const MAX_TOKEN: usize = 2048;

/// Seconds two replicas' clocks may differ.
pub const LEEWAY: u64 = 5;

/// What every refresh token starts with, so that secret scanners can find a leaked one.
const REFRESH_PREFIX: &str = "nxr_";

/// What a valid access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The device it was made for.
    pub device: DeviceId,
    /// The account's handle when it was made; for display, not for look-ups.
    pub handle: Handle,
    /// Thumbprint of the key it is bound to (RFC 9449 section 6.1).
    pub jkt: Option<String>,
    /// Unix seconds after which it is void.
    pub exp: u64,
    /// Its own name.
    pub jti: String,
}

/// Why an access token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN`].
    #[error("the access token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three base64url parts, or not JSON, or a header of another kind of token.
    #[error("the access token is not a JWT of this relay")]
    Malformed,
    /// Signed with another algorithm than HS256, or not at all.
    #[error("the access token is not signed with HS256")]
    Algorithm,
    /// Changed, or signed with another secret.
    #[error("the access token's signature is not valid")]
    Signature,
    /// A claim is missing, twice there, unknown, or of another type.
    #[error("the access token's claims are not the ones this relay writes")]
    Claims,
    /// From another issuer.
    #[error("the access token is from another issuer")]
    Issuer,
    /// For another relay.
    #[error("the access token is for another relay")]
    Audience,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the access token is not valid yet")]
    TooEarly,
}

/// Why no access token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The system gives no random bytes.
    #[error("no random bytes for a token: {0}")]
    Random(#[from] getrandom::Error),
    /// jsonwebtoken refused to sign; a bug of ours.
    #[error("signing a token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    sub: DeviceId,
    hdl: Handle,
    iss: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cnf: Option<Confirmation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    jkt: String,
}

/// Makes and checks the access tokens of one relay. Wipes its secret when dropped.
pub struct AccessTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    validation: Validation,
    issuer: String,
    origin: String,
    lifetime: u64,
}

impl AccessTokens {
    /// Tokens for the relay `origin`, with the issuer and the lifetime of the configuration.
    #[must_use]
    pub fn new(secret: &ServerSecret, config: &Config, origin: &Origin) -> Self {
        Self::with(secret, &config.jwt_issuer, origin, config.access_ttl)
    }

    pub(super) fn with(
        secret: &ServerSecret,
        issuer: &str,
        origin: &Origin,
        lifetime: u64,
    ) -> Self {
        provider::install();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[origin]);
        validation.set_required_spec_claims(&["sub", "iss", "aud", "exp", "nbf"]);
        // Time is checked below, by the clock we were handed.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            signing: EncodingKey::from_secret(secret.as_bytes()),
            verifying: DecodingKey::from_secret(secret.as_bytes()),
            validation,
            issuer: issuer.to_owned(),
            origin: origin.to_string(),
            lifetime,
        }
    }

    /// A token for a device, made at `now`; bound to the key with thumbprint `jkt`, if any.
    ///
    /// # Errors
    /// [`MintError`], which is never the asker's fault.
    pub fn mint(
        &self,
        device: &DeviceId,
        handle: &Handle,
        jkt: Option<&str>,
        now: u64,
    ) -> Result<String, MintError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let claims = Claims {
            sub: device.clone(),
            hdl: handle.clone(),
            iss: self.issuer.clone(),
            aud: self.origin.clone(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(self.lifetime),
            jti: to_base64url(&id),
            cnf: jkt.map(|jkt| Confirmation { jkt: jkt.to_owned() }),
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)?)
    }

    /// Judges a token at `now`.
    ///
    /// # Errors
    /// [`TokenError`] says why; the order in which rules are tried is no promise.
    pub fn check(&self, token: &str, now: u64) -> Result<Access, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let read = jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation);
        let read = read.map_err(|error| refusal(token, error.kind()))?;
        if !is_our_header(read.header) {
            return Err(TokenError::Malformed);
        }
        let claims = read.claims;
        // Once more by hand: what jsonwebtoken skips when a claim has another shape is caught
        // by the types of `Claims`, and these two lines keep it so should they ever loosen.
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer);
        }
        if claims.aud != self.origin {
            return Err(TokenError::Audience);
        }
        if claims.exp.saturating_add(LEEWAY) < now {
            return Err(TokenError::Expired);
        }
        if claims.nbf > now.saturating_add(LEEWAY) || claims.iat > now.saturating_add(LEEWAY) {
            return Err(TokenError::TooEarly);
        }
        Ok(Access {
            device: claims.sub,
            handle: claims.hdl,
            jkt: claims.cnf.map(|cnf| cnf.jkt),
            exp: claims.exp,
            jti: claims.jti,
        })
    }
}

/// `{"typ":"JWT","alg":"HS256"}` and nothing else: no key hint, URL or extension is followed,
/// so none is let through. Also keeps DPoP proofs and tokens apart by their `typ`.
fn is_our_header(header: Header) -> bool {
    let Header { typ, alg, cty, jku, jwk, kid, x5u, x5c, x5t, x5t_s256, crit, enc, zip, .. } =
        header;
    let plain = typ.is_none_or(|typ| typ.eq_ignore_ascii_case("JWT")) && alg == Algorithm::HS256;
    let texts = [cty, jku, kid, x5u, x5t, x5t_s256, header.url, header.nonce];
    plain
        && texts.iter().all(Option::is_none)
        && (jwk.is_none() && x5c.is_none() && crit.is_none())
        && (enc.is_none() && zip.is_none())
        && header.extras == Extras::default()
}

fn refusal(token: &str, kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenError::Algorithm,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => TokenError::Claims,
        // Header and claims fail alike; the claims are looked at when the header was good.
        ErrorKind::Json(error) if error.is_data() && jsonwebtoken::decode_header(token).is_ok() => {
            TokenError::Claims
        }
        _ => TokenError::Malformed,
    }
}

/// A new refresh token.
///
/// # Errors
/// If the system gives no random bytes.
pub fn new_refresh() -> Result<String, getrandom::Error> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    Ok(refresh_text(&random))
}

/// What is stored of a refresh token: SHA-256 of its text. It has 256 random bits, so no salt
/// or slow hash adds anything.
#[must_use]
pub fn refresh_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The token that replaces `token`, whatever the text is.
///
/// ```text
/// HMAC-SHA256(secret, enc("nexo/1/refresh-successor", [token]))
/// ```
///
/// Computed, not drawn: a client that lost the answer and repeats its token gets the same
/// successor, and none is stored in clear. Without the secret it looks random. A JWT is never
/// such an input: `enc` starts with a zero byte, a JWT with base64url.
#[must_use]
pub fn successor(secret: &ServerSecret, token: &str) -> String {
    let input = enc("nexo/1/refresh-successor", &[token.as_bytes()]);
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .expect("HMAC takes keys of any length")
        .chain_update(input);
    refresh_text(&mac.finalize().into_bytes().into())
}

fn refresh_text(bytes: &[u8; 32]) -> String {
    format!("{REFRESH_PREFIX}{}", to_base64url(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use nexo_schema::bytes::from_base64url;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: u64 = 1_700_000_000;
    const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

    fn secret(byte: u8) -> ServerSecret {
        ServerSecret::parse((0..32).map(|i| byte ^ (i * 7)).collect()).unwrap()
    }

    fn tokens() -> AccessTokens {
        AccessTokens::with(&secret(1), "nexo", &Origin::parse("relay.example.org").unwrap(), 900)
    }

    fn minted(jkt: Option<&str>) -> String {
        let (device, handle) = (DeviceId::parse("tab-1").unwrap(), Handle::parse("al").unwrap());
        tokens().mint(&device, &handle, jkt, NOW).unwrap()
    }

    fn claims() -> Value {
        json!({"sub": "tab-1", "hdl": "al", "iss": "nexo", "aud": "relay.example.org",
            "iat": NOW, "nbf": NOW, "exp": NOW + 900, "jti": "x"})
    }

    /// Signs any header and claims with HMAC-SHA256 under any key.
    fn forged(header: &str, claims: &str, key: &[u8]) -> String {
        let message =
            format!("{}.{}", to_base64url(header.as_bytes()), to_base64url(claims.as_bytes()));
        let mac = Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(&message);
        format!("{message}.{}", to_base64url(&mac.finalize().into_bytes()))
    }

    fn with_claims(claims: &str) -> Result<Access, TokenError> {
        tokens().check(&forged(HEADER, claims, secret(1).as_bytes()), NOW)
    }

    #[test]
    fn a_minted_token_is_accepted_in_its_time() {
        let token = minted(None);
        let access = tokens().check(&token, NOW).unwrap();
        assert_eq!((access.device.as_str(), access.handle.as_str()), ("tab-1", "al"));
        assert_eq!((access.jkt, access.exp), (None, NOW + 900));
        assert_ne!(tokens().check(&minted(None), NOW).unwrap().jti, access.jti);
        assert!(tokens().check(&token, NOW + 900 + LEEWAY).is_ok());
        assert_eq!(tokens().check(&token, NOW + 901 + LEEWAY), Err(TokenError::Expired));
        assert!(tokens().check(&token, NOW - LEEWAY).is_ok());
        assert_eq!(tokens().check(&token, NOW - LEEWAY - 1), Err(TokenError::TooEarly));
        assert_eq!(tokens().check(&minted(Some("abc")), NOW).unwrap().jkt.unwrap(), "abc");
    }

    #[test]
    fn another_library_may_write_the_same_token() {
        let header = r#"{ "alg" : "HS256" }"#;
        let token = forged(header, &claims().to_string(), secret(1).as_bytes());
        assert!(tokens().check(&token, NOW).is_ok());
    }

    #[test]
    fn the_longest_token_we_make_fits_the_bound() {
        let origin = Origin::parse(&"o".repeat(250)).unwrap();
        let device = DeviceId::parse(&"\"".repeat(64)).unwrap();
        let handle = Handle::parse(&"h".repeat(32)).unwrap();
        let tokens = AccessTokens::with(&secret(1), &"i".repeat(255), &origin, 900);
        let token = tokens.mint(&device, &handle, Some(&"j".repeat(43)), NOW).unwrap();
        assert!(token.len() < MAX_TOKEN, "{}", token.len());
        assert!(tokens.check(&token, NOW).is_ok());
    }

    #[test]
    fn g_other_algorithms_are_refused() {
        let body = claims().to_string();
        let none = forged(r#"{"typ":"JWT","alg":"none"}"#, &body, b"");
        let unsigned = format!("{}.", none.rsplit_once('.').unwrap().0);
        assert_eq!(tokens().check(&none, NOW), Err(TokenError::Malformed));
        assert_eq!(tokens().check(&unsigned, NOW), Err(TokenError::Malformed));
        for alg in ["HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA"] {
            let header = format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#);
            let token = forged(&header, &body, secret(1).as_bytes());
            assert_eq!(tokens().check(&token, NOW), Err(TokenError::Algorithm), "{alg}");
        }
        for alg in ["hs256", "HS256 ", "nOnE", "", "ZZ"] {
            let header = format!(r#"{{"typ":"JWT","alg":"{alg}"}}"#);
            assert!(tokens().check(&forged(&header, &body, secret(1).as_bytes()), NOW).is_err());
        }
    }

    #[test]
    fn g_a_public_key_is_no_secret() {
        let device = SigningKey::from_bytes(&[5; 32]);
        let public = device.verifying_key();
        let token = forged(HEADER, &claims().to_string(), public.as_bytes());
        assert_eq!(tokens().check(&token, NOW), Err(TokenError::Signature));
        // Nor does a device's own signature make a token.
        let message = token.rsplit_once('.').unwrap().0;
        let signature = to_base64url(&device.sign(message.as_bytes()).to_bytes());
        let token = format!("{message}.{signature}");
        assert_eq!(tokens().check(&token, NOW), Err(TokenError::Signature));
    }

    #[test]
    fn g_only_our_header_is_let_through() {
        for header in [
            r#"{"typ":"JWT","alg":"HS256","kid":"1"}"#,
            r#"{"typ":"dpop+jwt","alg":"HS256"}"#,
            r#"{"typ":"JWT","alg":"HS256","crit":["b64"],"b64":false}"#,
            r#"{"typ":"JWT","alg":"HS256","jku":"https://evil.test"}"#,
            r#"{"typ":"JWT","alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#,
            r#"{"typ":"JWT","alg":"HS256","zip":"DEF"}"#,
            r#"{"typ":"JWT","alg":"HS256","x":1}"#,
            r#"{"typ":"JWT","alg":"HS256","alg":"none"}"#,
            r#"{"typ":"JWT","alg":"none","alg":"HS256"}"#,
            r#"{"typ":"JWT"}"#,
            r#"["HS256"]"#,
            "",
        ] {
            let token = forged(header, &claims().to_string(), secret(1).as_bytes());
            assert!(tokens().check(&token, NOW).is_err(), "{header}");
        }
    }

    #[test]
    fn g_every_claim_is_required_and_has_one_type() {
        assert!(with_claims(&claims().to_string()).is_ok());
        let names: Vec<String> = claims().as_object().unwrap().keys().cloned().collect();
        assert_eq!(names.len(), 8);
        for name in &names {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            assert_eq!(with_claims(&without.to_string()), Err(TokenError::Claims), "{name}");
            for other in [json!(null), json!([]), json!({}), json!(true), json!(-1), json!(1.5)] {
                let mut mistyped = claims();
                mistyped[name] = other.clone();
                let verdict = with_claims(&mistyped.to_string());
                assert_eq!(verdict, Err(TokenError::Claims), "{name}: {other}");
            }
        }
    }

    #[test]
    fn g_claims_of_another_type_are_refused() {
        for (name, value) in [
            ("iss", json!(7)),
            ("iss", json!(["nexo"])),
            ("exp", json!("x")),
            ("exp", json!("1700000900")),
            ("aud", json!([])),
            ("aud", json!(["relay.example.org"])),
            ("aud", json!(["relay.example.org", "other"])),
            ("sub", json!("a b")),
            ("hdl", json!("No Handle")),
            ("cnf", json!({})),
            ("cnf", json!({"jkt": 1})),
            ("cnf", json!({"jkt": "a", "x5t#S256": "b"})),
            ("admin", json!(true)),
        ] {
            let mut changed = claims();
            changed[name] = value.clone();
            let verdict = with_claims(&changed.to_string());
            assert_eq!(verdict, Err(TokenError::Claims), "{name}: {value}");
        }
    }

    #[test]
    fn g_other_issuers_relays_and_times_are_refused() {
        for (name, value, why) in [
            ("iss", json!("nexo2"), TokenError::Issuer),
            ("iss", json!(""), TokenError::Issuer),
            ("aud", json!("other.example.org"), TokenError::Audience),
            ("aud", json!("relay.example.org/"), TokenError::Audience),
            ("exp", json!(NOW - LEEWAY - 1), TokenError::Expired),
            ("exp", json!(0), TokenError::Expired),
            ("nbf", json!(NOW + LEEWAY + 1), TokenError::TooEarly),
            ("nbf", json!(u64::MAX), TokenError::TooEarly),
            ("iat", json!(NOW + LEEWAY + 1), TokenError::TooEarly),
        ] {
            let mut changed = claims();
            changed[name] = value.clone();
            assert_eq!(with_claims(&changed.to_string()), Err(why), "{name}: {value}");
        }
        let mut endless = claims();
        endless["exp"] = json!(u64::MAX);
        assert!(with_claims(&endless.to_string()).is_ok());
    }

    #[test]
    fn g_members_that_come_twice_are_refused() {
        let good = claims().to_string();
        for (name, again) in [("sub", r#""tab-2""#), ("exp", "9999999999"), ("iss", r#""nexo""#)] {
            let twice = format!(r#"{},"{name}":{again}}}"#, good.strip_suffix('}').unwrap());
            assert_eq!(with_claims(&twice), Err(TokenError::Claims), "{name}");
        }
        let cnf = good.replace(r#""jti""#, r#""cnf":{"jkt":"a","jkt":"b"},"jti""#);
        assert_eq!(with_claims(&cnf), Err(TokenError::Claims));
    }

    #[test]
    fn g_a_token_has_one_spelling() {
        let token = minted(None);
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, tag] = parts[..] else { panic!("{token}") };
        for bad in [
            format!("{header}.{claims}.{tag}="),
            format!("{header}.{claims}=.{tag}"),
            format!("{header}=.{claims}.{tag}"),
            format!("{header}.{claims}.{tag}."),
            format!("{header}.{claims}.{tag}.{tag}"),
            format!("{header}.{claims}"),
            format!("{header}.{claims}."),
            format!(".{claims}.{tag}"),
            format!(" {header}.{claims}.{tag}"),
            format!("{header}.{claims}.{tag}\n"),
            format!("{header}.{claims}.{}", &tag[..42]),
            String::new(),
            "..".to_owned(),
        ] {
            assert!(tokens().check(&bad, NOW).is_err(), "{bad:?}");
        }
        // The last digit of 32 bytes carries two bits that mean nothing: only zeros are taken.
        let last = tag.chars().last().unwrap();
        let twins: Vec<String> = ('a'..='z')
            .chain('A'..='Z')
            .chain('0'..='9')
            .filter(|c| *c != last)
            .map(|c| format!("{header}.{claims}.{}{c}", &tag[..42]))
            .collect();
        assert!(twins.iter().all(|twin| tokens().check(twin, NOW).is_err()));
    }

    #[test]
    fn g_huge_tokens_are_not_looked_at() {
        let huge = format!("{}.{}", minted(None), "A".repeat(10_000_000));
        assert_eq!(tokens().check(&huge, NOW), Err(TokenError::TooLong));
        let deep = forged(HEADER, &"[".repeat(1000), secret(1).as_bytes());
        assert!(tokens().check(&deep, NOW).is_err());
    }

    #[test]
    fn refresh_tokens_are_fresh_and_their_successors_computed() {
        let token = new_refresh().unwrap();
        let body = token.strip_prefix("nxr_").unwrap();
        assert_eq!(from_base64url(body).unwrap().len(), 32);
        assert_ne!(new_refresh().unwrap(), token);
        let next = successor(&secret(1), &token);
        assert_eq!(next.len(), token.len());
        assert_eq!(successor(&secret(1), &token), next);
        assert_ne!(successor(&secret(2), &token), next);
        assert_ne!(successor(&secret(1), &next), next);
        assert_ne!(refresh_hash(&next), refresh_hash(&token));
        assert_eq!(refresh_hash("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    proptest! {
        #[test]
        fn no_text_panics_or_passes(text: String) {
            prop_assert!(tokens().check(&text, NOW).is_err());
            prop_assert_eq!(successor(&secret(1), &text).len(), 47);
        }

        #[test]
        fn one_changed_byte_is_noticed(at: usize, to in "[A-Za-z0-9_-]") {
            let token = minted(Some("abc"));
            let at = at % token.len();
            let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
            prop_assume!(changed != token);
            prop_assert!(tokens().check(&changed, NOW).is_err());
        }
    }
}
