//! Proofs of possession (DPoP, RFC 9449): that a request comes from the key its token is for.
//!
//! ```text
//! base64url(header) . base64url(claims) . base64url(signature over the first two)
//! header = {"typ":"dpop+jwt","alg":"EdDSA","jwk":{"kty":"OKP","crv":"Ed25519","x":…}}
//! claims = {"jti":…,"htm":…,"htu":…,"iat":…,"origin":…[,"ath":…]}
//! ```
//!
//! The `origin` claim is ours: a proof made for one relay is worth nothing at another, whatever
//! URLs they have. Whether a token needs a proof, and by which key, is the table of `binding.rs`;
//! whether the key is the device's is the guard's question.
//!
//! A proof is good once. What was seen is remembered in this process, and between servers on one
//! PostgreSQL there; a proof made in a second before the process started is refused too. What is
//! left, where the process is the only memory: a client whose clock is
//! ahead by up to [`DPOP_SKEW`] makes proofs that a restart within that span forgets; whoever
//! repeats one must have stolen it, with its token, inside TLS.

use std::net::SocketAddr;
use std::sync::OnceLock;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use nexo_schema::auth::{DpopClaims, thumbprint_input};
use nexo_schema::bytes::{from_base64url, to_base64url};
use nexo_schema::ids::Origin;
use nexo_schema::limits::DPOP_SKEW;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::provider;
use super::public_url::PublicUrl;
use super::replay::{ReplayCache, ReplayRefusal, Shared, mark};
use crate::config::Config;
use crate::store::Store;

pub use super::binding::{Binding, DpopPolicy};

/// Longest proof looked at, bytes; ours are about 500.
pub const MAX_PROOF: usize = 2048;

/// Longest `jti`, bytes.
const MAX_ID: usize = 128;

/// Seconds a proof is remembered: made at most a skew ahead, it is valid a skew beyond that.
const KEEP: u64 = 2 * DPOP_SKEW;

/// Proofs of requests with a valid token remembered at once: over 4,000 a second, in 40 MB.
const REQUESTS: usize = 1 << 19;

/// Proofs of log-ins remembered at once, apart from the others: here anybody can send proofs,
/// and a flood of them must not shut out those who have a token.
const LOGINS: usize = 1 << 15;

/// A proof that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Thumbprint of the key (RFC 7638): what a token's `cnf.jkt` names.
    pub jkt: String,
    /// The key, which obeys the strict rule.
    pub key: [u8; 32],
    /// Its id, for using it up.
    pub(super) jti: String,
}

/// Why a proof is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// Longer than [`MAX_PROOF`].
    #[error("the proof is longer than {MAX_PROOF} bytes")]
    TooLong,
    /// Not three base64url parts of JSON with the members of a proof, each once.
    #[error("the proof is not a DPoP proof JWT")]
    Malformed,
    /// Another `typ` or `alg`, a critical extension, or another kind of key.
    #[error("the proof's header must be dpop+jwt, EdDSA, with an OKP Ed25519 public key")]
    Header,
    /// The header holds a private key.
    #[error("the proof's header holds a private key, which is no longer private")]
    PrivateKey,
    /// The key breaks the strict rule.
    #[error("the proof's key is not a valid Ed25519 key")]
    Key,
    /// The signature is not the key's.
    #[error("the proof's signature is not valid")]
    Signature,
    /// `jti` is empty or longer than 128 bytes.
    #[error("the proof's jti must have 1 to 128 bytes")]
    Id,
    /// Made for another method.
    #[error("the proof is for another method (htm)")]
    Method,
    /// Made for another URL.
    #[error("the proof is for another URL (htu); this relay answers to its --public-url")]
    Url,
    /// Made too long ago, or in the future.
    #[error("the proof was made at {iat} by your clock; it is {now} here")]
    Time {
        /// The proof's `iat`.
        iat: u64,
        /// The relay's clock, Unix seconds.
        now: u64,
    },
    /// Made before this process started, which may have been seen by the one before.
    #[error("the proof was made before the relay started; make a new one")]
    BeforeStart,
    /// `ath` is missing, of another token, or there although there is no token.
    #[error("the proof is not for this access token (ath)")]
    Token,
    /// Made for another relay.
    #[error("the proof is for another relay (origin)")]
    Origin,
    /// Used before.
    #[error("the proof was used before")]
    Replayed,
    /// No more proofs can be remembered, so none can be let through.
    #[error("too many proofs at once")]
    Busy,
}

#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
    crit: Option<IgnoredAny>,
}

/// Unknown members are ignored (RFC 7517 section 4); a thumbprint leaves them out.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    d: Option<IgnoredAny>,
}

/// Checks the proofs sent to one relay.
pub struct DpopChecker {
    origin: String,
    /// Set once, at the latest when the listener is bound.
    urls: OnceLock<Vec<PublicUrl>>,
    started: u64,
    validation: Validation,
    requests: ReplayCache,
    shared: Shared,
    logins: ReplayCache,
}

impl DpopChecker {
    /// For the relay `origin` under its configured URLs, in a process that started at
    /// `started` (Unix seconds, rounded down). Where no URL is configured, no proof holds
    /// until [`Self::listening_on`].
    #[must_use]
    pub fn new(config: &Config, origin: &Origin, started: u64) -> Self {
        let checker = Self::with(origin, started);
        if !config.public_urls.is_empty() {
            checker.answer_to(config.public_urls.clone());
        }
        checker
    }

    /// Tells the address that was bound, which is the relay's URL where none is configured.
    pub fn listening_on(&self, address: SocketAddr) {
        self.answer_to(PublicUrl::of_listener(address));
    }

    fn answer_to(&self, urls: Vec<PublicUrl>) {
        // The first word counts: what is configured is not replaced by what was bound.
        self.urls.get_or_init(|| urls);
    }

    fn with(origin: &Origin, started: u64) -> Self {
        provider::install();
        let mut validation = Validation::new(Algorithm::EdDSA);
        // A proof has none of the claims that jsonwebtoken knows; its own are checked here.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        Self {
            origin: origin.to_string(),
            urls: OnceLock::new(),
            started,
            validation,
            requests: ReplayCache::new(REQUESTS, KEEP),
            shared: Shared::default(),
            logins: ReplayCache::new(LOGINS, KEEP),
        }
    }

    /// Judges the value of a `DPoP` header sent with `method` and `path`, and with the access
    /// token `token` if there is one. The proof is not used up: whoever has more to look at
    /// does so before it takes up memory.
    ///
    /// # Errors
    /// [`DpopError`].
    pub fn verify(
        &self,
        proof: &str,
        method: &str,
        path: &str,
        token: Option<&str>,
        now: u64,
    ) -> Result<Proven, DpopError> {
        let (key_text, key) = read_key(proof)?;
        let verifying = DecodingKey::from_ed_der(&key);
        let read = jsonwebtoken::decode::<DpopClaims>(proof, &verifying, &self.validation);
        let claims = read.map_err(|error| refusal(error.kind()))?.claims;
        self.check_claims(&claims, method, path, now)?;
        let hash = token.map(|token| to_base64url(&Sha256::digest(token)));
        if claims.ath != hash {
            return Err(DpopError::Token);
        }
        let jkt = to_base64url(&Sha256::digest(thumbprint_input(&key_text)));
        Ok(Proven { jkt, key, jti: claims.jti })
    }

    /// Uses a verified proof up, here and between servers that share the database.
    ///
    /// # Errors
    /// As [`DpopChecker::use_up`]; [`DpopError::Busy`] also if the database cannot be asked.
    pub async fn use_up_everywhere(
        &self,
        store: &Store,
        proven: &Proven,
        with_token: bool,
        now: u64,
    ) -> Result<(), DpopError> {
        self.use_up(proven, with_token, now)?;
        let mark = mark(&proven.key, &proven.jti);
        match self.shared.admit(store, mark, now, KEEP).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(DpopError::Replayed),
            // The store has told the operator.
            Err(_) => Err(DpopError::Busy),
        }
    }

    /// Uses a verified proof up. `with_token` says that it came with an access token found
    /// valid: only then is the larger memory used.
    ///
    /// # Errors
    /// [`DpopError::Replayed`], or [`DpopError::Busy`] when there is no memory for it.
    pub fn use_up(&self, proven: &Proven, with_token: bool, now: u64) -> Result<(), DpopError> {
        let seen = if with_token { &self.requests } else { &self.logins };
        seen.admit(&proven.key, &proven.jti, now).map_err(|refusal| match refusal {
            ReplayRefusal::Seen => DpopError::Replayed,
            ReplayRefusal::Full => DpopError::Busy,
        })
    }

    fn check_claims(
        &self,
        claims: &DpopClaims,
        method: &str,
        path: &str,
        now: u64,
    ) -> Result<(), DpopError> {
        if !(1..=MAX_ID).contains(&claims.jti.len()) {
            return Err(DpopError::Id);
        }
        if claims.origin != self.origin {
            return Err(DpopError::Origin);
        }
        if claims.htm != method {
            return Err(DpopError::Method);
        }
        let urls = self.urls.get().map_or(&[][..], Vec::as_slice);
        if !urls.iter().any(|url| url.covers(&claims.htu, path)) {
            return Err(DpopError::Url);
        }
        if claims.iat.abs_diff(now) > DPOP_SKEW {
            return Err(DpopError::Time { iat: claims.iat, now });
        }
        if claims.iat < self.started {
            return Err(DpopError::BeforeStart);
        }
        Ok(())
    }
}

/// The key in the header, as text and bytes, before anything is verified: RFC 9449 section 4.3,
/// checks 2 to 7. The strict rule is applied where the signature is checked.
fn read_key(proof: &str) -> Result<(String, [u8; 32]), DpopError> {
    if proof.len() > MAX_PROOF {
        return Err(DpopError::TooLong);
    }
    let mut parts = proof.split('.');
    let (Some(header), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(DpopError::Malformed);
    };
    let header = from_base64url(header).map_err(|_| DpopError::Malformed)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| DpopError::Malformed)?;
    let Header { typ, alg, jwk, crit } = header;
    if jwk.d.is_some() {
        return Err(DpopError::PrivateKey);
    }
    let kind = (&*typ, &*alg, &*jwk.kty, &*jwk.crv);
    if kind != ("dpop+jwt", "EdDSA", "OKP", "Ed25519") || crit.is_some() {
        return Err(DpopError::Header);
    }
    let key = from_base64url(&jwk.x).ok().and_then(|key| key.try_into().ok());
    Ok((jwk.x, key.ok_or(DpopError::Key)?))
}

fn refusal(kind: &ErrorKind) -> DpopError {
    match kind {
        ErrorKind::InvalidEddsaKey => DpopError::Key,
        ErrorKind::InvalidSignature => DpopError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => DpopError::Header,
        _ => DpopError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use nexo_schema::auth::dpop_header;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: u64 = 1_700_000_000;
    const TOKEN: &str = "a.b.c";
    /// base64url(SHA-256("a.b.c"))
    const ATH: &str = "hF4wRIgJ4ryJWOsCW_x5UjXROwd6U9DDq70jhRcNybg";

    impl DpopChecker {
        /// Verifies a proof and uses it up.
        fn check(
            &self,
            proof: &str,
            method: &str,
            path: &str,
            token: Option<&str>,
            now: u64,
        ) -> Result<Proven, DpopError> {
            let proven = self.verify(proof, method, path, token, now)?;
            self.use_up(&proven, token.is_some(), now)?;
            Ok(proven)
        }
    }

    fn device(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn checker() -> DpopChecker {
        let origin = Origin::parse("relay.example.org").unwrap();
        let checker = DpopChecker::with(&origin, NOW - 30);
        checker.answer_to(vec!["https://relay.example.org".parse().unwrap()]);
        checker
    }

    fn claims() -> Value {
        json!({"jti": "one", "htm": "POST", "htu": "https://relay.example.org/messages",
            "iat": NOW, "ath": ATH, "origin": "relay.example.org"})
    }

    fn header(key: &SigningKey) -> String {
        dpop_header(&to_base64url(key.verifying_key().as_bytes()))
    }

    fn signed(key: &SigningKey, header: &str, claims: &str) -> String {
        let message =
            format!("{}.{}", to_base64url(header.as_bytes()), to_base64url(claims.as_bytes()));
        format!("{message}.{}", to_base64url(&key.sign(message.as_bytes()).to_bytes()))
    }

    fn proof(claims: &Value) -> String {
        signed(&device(1), &header(&device(1)), &claims.to_string())
    }

    fn check(proof: &str) -> Result<Proven, DpopError> {
        checker().check(proof, "POST", "/messages", Some(TOKEN), NOW)
    }

    fn changed(name: &str, value: Value) -> String {
        let mut claims = claims();
        claims[name] = value;
        proof(&claims)
    }

    #[test]
    fn a_proof_holds_once() {
        let checker = checker();
        let proof = proof(&claims());
        let go = || checker.check(&proof, "POST", "/messages", Some(TOKEN), NOW);
        let proven = go().unwrap();
        assert_eq!(proven.key, *device(1).verifying_key().as_bytes());
        assert_eq!(go(), Err(DpopError::Replayed));
        let other = signed(&device(2), &header(&device(2)), &claims().to_string());
        let other = checker.check(&other, "POST", "/messages", Some(TOKEN), NOW).unwrap();
        assert_ne!(other.jkt, proven.jkt);
    }

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_8037() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let jkt = to_base64url(&Sha256::digest(thumbprint_input(x)));
        assert_eq!(jkt, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn the_relay_answers_to_its_configured_urls_or_its_address() {
        let origin = Origin::parse("relay.example.org").unwrap();
        let mut config = crate::config::tests::config(std::path::Path::new("/d"));
        let here = proof(&claims());
        let local = changed("htu", json!("http://localhost:8000/messages"));
        let go = |checker: &DpopChecker, proof: &str| {
            checker.check(proof, "POST", "/messages", Some(TOKEN), NOW).map(|_| ())
        };
        let bound = "127.0.0.1:8000".parse().unwrap();
        let checker = DpopChecker::new(&config, &origin, NOW);
        assert_eq!(go(&checker, &local), Err(DpopError::Url));
        checker.listening_on(bound);
        assert_eq!(go(&checker, &local), Ok(()));
        assert_eq!(go(&checker, &here), Err(DpopError::Url));
        config.public_urls = vec!["https://relay.example.org".parse().unwrap()];
        let checker = DpopChecker::new(&config, &origin, NOW);
        checker.listening_on(bound);
        assert_eq!(go(&checker, &here), Ok(()));
        assert_eq!(go(&checker, &local), Err(DpopError::Url));
    }

    #[test]
    fn a_refused_proof_is_not_used_up() {
        let checker = checker();
        let proof = proof(&claims());
        let get = checker.check(&proof, "GET", "/messages", Some(TOKEN), NOW);
        assert_eq!(get, Err(DpopError::Method));
        assert!(checker.check(&proof, "POST", "/messages", Some(TOKEN), NOW).is_ok());
    }

    #[test]
    fn claims_for_another_request_are_refused() {
        for (name, value, why) in [
            ("jti", json!(""), DpopError::Id),
            ("jti", json!("x".repeat(129)), DpopError::Id),
            ("htm", json!("GET"), DpopError::Method),
            ("htm", json!("post"), DpopError::Method),
            ("htu", json!("https://relay.example.org/ws"), DpopError::Url),
            ("htu", json!("https://evil.test/messages"), DpopError::Url),
            ("htu", json!("/messages"), DpopError::Url),
            ("origin", json!("other.example.org"), DpopError::Origin),
            ("ath", json!(ATH.to_lowercase()), DpopError::Token),
            ("ath", json!(""), DpopError::Token),
            ("iat", json!(NOW + 61), DpopError::Time { iat: NOW + 61, now: NOW }),
            ("iat", json!(NOW - 61), DpopError::Time { iat: NOW - 61, now: NOW }),
            ("iat", json!(u64::MAX), DpopError::Time { iat: u64::MAX, now: NOW }),
            ("iat", json!(0), DpopError::Time { iat: 0, now: NOW }),
            ("iat", json!(NOW - 31), DpopError::BeforeStart),
        ] {
            assert_eq!(check(&changed(name, value.clone())), Err(why), "{name}: {value}");
        }
        assert!(check(&changed("iat", json!(NOW - 30))).is_ok());
        assert!(check(&changed("iat", json!(NOW + 60))).is_ok());
        assert!(check(&changed("htu", json!("HTTPS://relay.example.org:443/messages?a"))).is_ok());
        assert!(check(&changed("nonce", json!("x"))).is_ok());
    }

    #[test]
    fn a_proof_is_for_one_token_or_for_none() {
        let mut without = claims();
        without.as_object_mut().unwrap().remove("ath");
        assert_eq!(check(&proof(&without)), Err(DpopError::Token));
        let at_login = |proof: &str| checker().check(proof, "POST", "/messages", None, NOW);
        assert!(at_login(&proof(&without)).is_ok());
        assert_eq!(at_login(&proof(&claims())), Err(DpopError::Token));
        let other = checker().check(&proof(&claims()), "POST", "/messages", Some("a.b.d"), NOW);
        assert_eq!(other, Err(DpopError::Token));
    }

    #[test]
    fn claims_are_required_once_and_typed() {
        let names: Vec<String> = claims().as_object().unwrap().keys().cloned().collect();
        for name in names.iter().filter(|name| *name != "ath") {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            assert_eq!(check(&proof(&without)), Err(DpopError::Malformed), "{name}");
            for other in [json!(null), json!([]), json!(true), json!(1.5), json!(-1)] {
                let verdict = check(&changed(name, other.clone()));
                assert_eq!(verdict, Err(DpopError::Malformed), "{name}: {other}");
            }
        }
        let text = claims().to_string();
        let twice = format!(r#"{},"htm":"POST"}}"#, text.strip_suffix('}').unwrap());
        let twice = signed(&device(1), &header(&device(1)), &twice);
        assert_eq!(check(&twice), Err(DpopError::Malformed));
    }

    #[test]
    fn only_a_public_ed25519_key_in_a_dpop_header_will_do() {
        let good = header(&device(1));
        let key = to_base64url(device(1).verifying_key().as_bytes());
        let with = |from: &str, to: &str| {
            let header = good.replace(from, to);
            assert_ne!(header, good);
            check(&signed(&device(1), &header, &claims().to_string()))
        };
        for (from, to) in [
            ("dpop+jwt", "JWT"),
            ("dpop+jwt", "DPOP+JWT"),
            ("EdDSA", "none"),
            ("EdDSA", "HS256"),
            ("EdDSA", "ES256"),
            ("EdDSA", "Ed25519"),
            ("OKP", "EC"),
            ("OKP", "oct"),
            (r#""crv":"Ed25519""#, r#""crv":"X25519""#),
            (r#""typ""#, r#""crit":["x"],"typ""#),
        ] {
            assert_eq!(with(from, to), Err(DpopError::Header), "{from} {to}");
        }
        assert_eq!(with(r#""crv""#, r#""d":"AAAA","crv""#), Err(DpopError::PrivateKey));
        assert_eq!(with(r#""alg""#, r#""alg":"none","alg""#), Err(DpopError::Malformed));
        assert_eq!(with(r#""crv""#, r#""x":"AAAA","crv""#), Err(DpopError::Malformed));
        assert_eq!(with(&key, &format!("{key}=")), Err(DpopError::Key));
        assert_eq!(with(&key, &key[..42]), Err(DpopError::Key));
        assert_eq!(with(r#""typ":"dpop+jwt","#, ""), Err(DpopError::Malformed));
        assert!(with(r#""crv""#, r#""kid":"1","crv""#).is_ok());
    }

    #[test]
    fn the_key_in_the_header_must_be_the_signers_and_strict() {
        let foreign = signed(&device(2), &header(&device(1)), &claims().to_string());
        assert_eq!(check(&foreign), Err(DpopError::Signature));
        let mut identity = [0; 32];
        identity[0] = 1;
        let weak = dpop_header(&to_base64url(&identity));
        assert_eq!(check(&signed(&device(1), &weak, &claims().to_string())), Err(DpopError::Key));
        // An HMAC under the public key is no signature.
        let proof = proof(&claims());
        let message = proof.rsplit_once('.').unwrap().0;
        let tag = to_base64url(&[7; 32]);
        assert_eq!(check(&format!("{message}.{tag}")), Err(DpopError::Signature));
    }

    #[test]
    fn a_proof_has_one_spelling_and_a_bounded_length() {
        let good = proof(&claims());
        for bad in [
            format!("{good}="),
            format!("{good}."),
            format!("{good}.AAAA"),
            format!(" {good}"),
            good.replace('.', ".."),
            good.rsplit_once('.').unwrap().0.to_owned(),
            String::new(),
            "..".to_owned(),
        ] {
            assert_eq!(check(&bad), Err(DpopError::Malformed), "{bad}");
        }
        let long = changed("htu", json!(format!("https://{}", "a".repeat(MAX_PROOF))));
        assert_eq!(check(&long), Err(DpopError::TooLong));
    }

    #[test]
    fn a_flood_at_login_does_not_shut_out_those_with_tokens() {
        let mut checker = checker();
        checker.logins = ReplayCache::new(1, KEEP);
        let mut login = claims();
        login.as_object_mut().unwrap().remove("ath");
        let go = |claims: &Value, token| {
            checker.check(&proof(claims), "POST", "/messages", token, NOW).map(|_| ())
        };
        assert_eq!(go(&login, None), Ok(()));
        login["jti"] = json!("two");
        assert_eq!(go(&login, None), Err(DpopError::Busy));
        assert_eq!(go(&claims(), Some(TOKEN)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_text_panics_or_passes(text: String) {
            prop_assert!(check(&text).is_err());
        }

        #[test]
        fn one_changed_byte_is_noticed(at: usize, to in "[A-Za-z0-9_-]") {
            let good = proof(&claims());
            let at = at % good.len();
            let changed = format!("{}{to}{}", &good[..at], &good[at + 1..]);
            prop_assume!(changed != good);
            prop_assert!(check(&changed).is_err());
        }
    }
}
