//! Verifier keys of a log: the key that signs its heads, and the key that says when.
//!
//! A verifier key ("vkey", C2SP signed-note) is one line of text:
//!
//! ```text
//! vkey   = <name> + <key id, 8 lower-case hex digits> + <base64(kind || public key)>
//! key id = first 4 bytes of SHA-256(name || LF || kind || public key)
//! kind   = 0x01 Ed25519 over a note's text            -> LogKey
//!          0x04 Ed25519 timestamped cosignature       -> TimeKey, WitnessKey
//!          0x06 ML-DSA-44 cosignature                 -> not verified here, see post_quantum_key
//! ```
//!
//! The base64 may hold a `+` itself, so only the first two split. Each role is a type, because a
//! signature of one must never pass for another. Secret keys do not occur here.

use crate::encoding::{from_base64, to_base64, to_hex};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use std::fmt;

const KIND_LOG: u8 = 0x01;
const KIND_TIME: u8 = 0x04;
const KIND_POST_QUANTUM: u8 = 0x06;
/// Bytes of an ML-DSA-44 public key (FIPS 204).
const POST_QUANTUM_KEY: usize = 1312;
/// Longest name. An origin is at most 255 bytes (C2SP#242), and names add `/time` to it.
const MAX_NAME: usize = 260;

/// Why text is not a usable verifier key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not three parts joined by `+`, or the last is not canonical base64 of 33 bytes.
    #[error("a vkey is NAME+HEXID+BASE64, and this is not")]
    Shape,
    /// The name is empty, too long, or has a space, a control character or a `+`.
    #[error("the name in the vkey is empty, too long or has a space or control character")]
    Name,
    /// The key id is not the hash of name and key: a typing error, or a forgery.
    #[error("the key id in the vkey does not belong to its name and key; was it cut or mistyped?")]
    Id,
    /// Another kind of key than asked for.
    #[error("the vkey is of kind {found:#04x}, and {wanted:#04x} is needed here")]
    Kind {
        /// The kind that is needed.
        wanted: u8,
        /// The kind byte in the vkey.
        found: u8,
    },
    /// Not a point, not canonical, of small order or with a torsion part: under such a key one
    /// signature may verify for more than one message or reader.
    #[error("the vkey holds a weak or malformed Ed25519 key")]
    Weak,
}

/// The key that signs a log's heads (kind 0x01). Its name is the log's origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKey(Verifier);

/// The key that says when a head was the newest (kind 0x04). Its name is the origin and `/time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeKey(Verifier);

/// The key with which a witness cosigns heads (kind 0x04): somebody who is not the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey(Verifier);

impl LogKey {
    /// Reads a vkey of kind 0x01.
    ///
    /// # Errors
    /// [`KeyError`] names what differs.
    pub fn parse(vkey: &str) -> Result<Self, KeyError> {
        Verifier::parse(vkey, KIND_LOG).map(Self)
    }

    /// The log's origin, which is the name of its key.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        &self.0
    }
}

impl TimeKey {
    /// Reads a vkey of kind 0x04.
    ///
    /// # Errors
    /// [`KeyError`] names what differs.
    pub fn parse(vkey: &str) -> Result<Self, KeyError> {
        Verifier::parse(vkey, KIND_TIME).map(Self)
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        &self.0
    }
}

impl WitnessKey {
    /// Reads a vkey of kind 0x04.
    ///
    /// # Errors
    /// [`KeyError`] names what differs.
    pub fn parse(vkey: &str) -> Result<Self, KeyError> {
        Verifier::parse(vkey, KIND_TIME).map(Self)
    }

    /// The key's name, which is in its signature lines.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn verifier(&self) -> &Verifier {
        &self.0
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The public key in a vkey of kind 0x06, whose signatures are not verified here; `None` for a
/// vkey of any other kind, which its own type reads.
///
/// # Errors
/// [`KeyError`] names what differs in a vkey of that kind.
pub(crate) fn post_quantum_key(vkey: &str) -> Result<Option<Vec<u8>>, KeyError> {
    let parts = Parts::of(vkey)?;
    if parts.kind != KIND_POST_QUANTUM {
        return Ok(None);
    }
    if parts.key.len() != POST_QUANTUM_KEY {
        return Err(KeyError::Shape);
    }
    parts.id()?;
    Ok(Some(parts.key))
}

/// A key of an account: a device's, or the one that recovers it. It has no name and no kind; what
/// it signs begins with a label of its own (PROTOCOL.md 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountKey(VerifyingKey);

impl AccountKey {
    /// Takes a key under the strict rule.
    ///
    /// # Errors
    /// [`KeyError::Weak`].
    pub fn parse(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        strict_key(bytes).map(Self)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether `signature` is this key's over `message`, strictly.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// What both kinds are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verifier {
    kind: u8,
    name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

impl Verifier {
    fn parse(vkey: &str, wanted: u8) -> Result<Self, KeyError> {
        let parts = Parts::of(vkey)?;
        // The kind first: another kind's key has another length, and deserves the better words.
        if parts.kind != wanted {
            return Err(KeyError::Kind { wanted, found: parts.kind });
        }
        let key: [u8; 32] = parts.key.as_slice().try_into().map_err(|_| KeyError::Shape)?;
        let id = parts.id()?;
        Ok(Self { kind: wanted, name: parts.name.to_owned(), id, key: strict_key(&key)? })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The public key without its name and kind.
    pub(crate) fn key_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blob = vec![self.kind];
        blob.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, to_hex(&self.id), to_base64(&blob))
    }
}

/// A vkey, split.
struct Parts<'a> {
    name: &'a str,
    id: &'a str,
    kind: u8,
    key: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn of(vkey: &'a str) -> Result<Self, KeyError> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(blob)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(KeyError::Shape);
        };
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        let blob = from_base64(blob).ok_or(KeyError::Shape)?;
        let (&kind, key) = blob.split_first().ok_or(KeyError::Shape)?;
        Ok(Self { name, id, kind, key: key.to_vec() })
    }

    /// The key id, which must be the one of name, kind and key.
    fn id(&self) -> Result<[u8; 4], KeyError> {
        let id = key_id(self.name, self.kind, &self.key);
        if self.id == to_hex(&id) { Ok(id) } else { Err(KeyError::Id) }
    }
}

/// Whether `text` can name a key or a log: no Unicode space, no control character, no `+`.
pub(crate) fn is_name(text: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !text.is_empty() && text.len() <= MAX_NAME && !text.contains(bad)
}

fn key_id(name: &str, kind: u8, key: &[u8]) -> [u8; 4] {
    let hash = Sha256::new()
        .chain_update(name)
        .chain_update(b"\n")
        .chain_update([kind])
        .chain_update(key)
        .finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Decompresses, compresses back to the same bytes, and lies in the prime-order group.
/// The last two rules happen to refuse every encoding that is not canonical; all three are here
/// because PROTOCOL.md names them, and a reader should not need that proof.
fn strict_key(bytes: &[u8; 32]) -> Result<VerifyingKey, KeyError> {
    let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Weak)?;
    let point = key.to_edwards();
    let strict = point.compress().to_bytes() == *bytes && !key.is_weak() && point.is_torsion_free();
    if strict { Ok(key) } else { Err(KeyError::Weak) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::vector;

    const EXAMPLE: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    fn vkey(name: &str, kind: u8, key: &[u8; 32]) -> String {
        let blob = to_base64(&[&[kind], &key[..]].concat());
        format!("{name}+{}+{blob}", to_hex(&key_id(name, kind, key)))
    }

    fn good_bytes() -> [u8; 32] {
        *LogKey::parse(EXAMPLE).unwrap().verifier().key_bytes()
    }

    #[test]
    fn the_key_of_the_specification_is_read_and_written() {
        let key = LogKey::parse(EXAMPLE).unwrap();
        assert_eq!(key.origin(), "example.com/foo");
        assert_eq!(key.to_string(), EXAMPLE);
        let log = vector("tlog/tessera-testlog.json");
        let text = log["vkey"].as_str().unwrap();
        assert_eq!(LogKey::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn kinds_do_not_mix() {
        let time = vkey("a/time", KIND_TIME, &good_bytes());
        assert_eq!(TimeKey::parse(&time).unwrap().to_string(), time);
        assert_eq!(TimeKey::parse(&time).unwrap().name(), "a/time");
        assert_eq!(LogKey::parse(&time), Err(KeyError::Kind { wanted: 1, found: 4 }));
        assert_eq!(TimeKey::parse(EXAMPLE), Err(KeyError::Kind { wanted: 4, found: 1 }));
        assert_ne!(
            TimeKey::parse(&time).unwrap().verifier().id(),
            LogKey::parse(&vkey("a/time", KIND_LOG, &good_bytes())).unwrap().verifier().id()
        );
    }

    #[test]
    fn other_text_is_refused() {
        let good = vkey("a", KIND_LOG, &good_bytes());
        let long = "n".repeat(MAX_NAME + 1);
        for (bad, why) in [
            (String::new(), KeyError::Shape),
            ("a+00000000".into(), KeyError::Shape),
            (good.replace("a+", "b+"), KeyError::Id),
            (EXAMPLE.replace("530d903a", "530D903A"), KeyError::Id),
            (EXAMPLE.replace("530d903a", "530d903"), KeyError::Id),
            (EXAMPLE.replace("U2k", "U2g"), KeyError::Id),
            (EXAMPLE.replace("U2k", "U2"), KeyError::Shape),
            (format!("{EXAMPLE}\n"), KeyError::Shape),
            (vkey("", KIND_LOG, &good_bytes()), KeyError::Name),
            (vkey("a b", KIND_LOG, &good_bytes()), KeyError::Name),
            (vkey("a\u{2003}b", KIND_LOG, &good_bytes()), KeyError::Name),
            (vkey("a\u{1b}b", KIND_LOG, &good_bytes()), KeyError::Name),
            (vkey(&long, KIND_LOG, &good_bytes()), KeyError::Name),
            (vkey("a", 6, &good_bytes()), KeyError::Kind { wanted: 1, found: 6 }),
        ] {
            assert_eq!(LogKey::parse(&bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_witness_has_a_key_of_the_cosigning_kind() {
        let text = vkey("w.example", KIND_TIME, &good_bytes());
        let key = WitnessKey::parse(&text).unwrap();
        assert_eq!((key.name(), key.to_string()), ("w.example", text));
        assert_eq!(WitnessKey::parse(EXAMPLE), Err(KeyError::Kind { wanted: 4, found: 1 }));
    }

    #[test]
    fn a_post_quantum_key_is_read_and_not_used() {
        let public = vec![7; POST_QUANTUM_KEY];
        let text = |public: &[u8]| {
            let id = to_hex(&key_id("w", KIND_POST_QUANTUM, public));
            format!("w+{id}+{}", to_base64(&[&[KIND_POST_QUANTUM], public].concat()))
        };
        let good = text(&public);
        assert_eq!(post_quantum_key(&good), Ok(Some(public.clone())));
        assert_eq!(post_quantum_key(EXAMPLE), Ok(None));
        assert_eq!(post_quantum_key(&text(&public[1..])), Err(KeyError::Shape));
        assert_eq!(post_quantum_key(&good.replacen("w+", "x+", 1)), Err(KeyError::Id));
        assert_eq!(post_quantum_key("w"), Err(KeyError::Shape));
        assert_eq!(WitnessKey::parse(&good), Err(KeyError::Kind { wanted: 4, found: 6 }));
    }

    #[test]
    fn weak_keys_are_refused() {
        let identity = {
            let mut k = [0; 32];
            k[0] = 1;
            k
        };
        let order_four = [0; 32];
        // y = p + 1: the identity again, not reduced.
        let unreduced = {
            let mut k = [0xff; 32];
            k[0] = 0xee;
            k[31] = 0x7f;
            k
        };
        let no_point = {
            let mut k = [0; 32];
            k[0] = 2;
            k
        };
        for bad in [identity, order_four, unreduced, no_point] {
            assert_eq!(LogKey::parse(&vkey("a", KIND_LOG, &bad)), Err(KeyError::Weak), "{bad:?}");
        }
    }

    #[test]
    fn every_y_that_is_not_reduced_is_refused() {
        for (above, sign) in (0..19).flat_map(|above| [(above, 0), (above, 0x80)]) {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (0xed + above, 0x7f | sign);
            let refused = LogKey::parse(&vkey("a", KIND_LOG, &bytes));
            assert_eq!(refused, Err(KeyError::Weak), "p + {above}");
        }
    }

    #[test]
    fn the_cctv_edge_cases_pass_only_where_nothing_is_odd() {
        let file = vector("cctv/ed25519vectors.json");
        let cases = file.as_array().unwrap();
        let mut accepted = 0;
        for case in cases {
            let bytes = crate::testlog::unhex(&case["key"]);
            let signature: [u8; 64] = crate::testlog::unhex(&case["sig"]).try_into().unwrap();
            let text = vkey("a", KIND_LOG, &bytes.try_into().unwrap());
            let message = case["msg"].as_str().unwrap().as_bytes();
            let ok = LogKey::parse(&text).is_ok_and(|k| k.0.verifies(message, &signature));
            assert_eq!(ok, case["flags"].is_null(), "{case}");
            accepted += usize::from(ok);
        }
        assert_eq!((cases.len(), accepted), (914, 1));
    }
}
