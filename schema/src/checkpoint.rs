//! The texts of the log: checkpoint, signed note, vkey, cosignature, key list.
//!
//! Formatting and strict parsing of the C2SP formats as Nexo writes them
//! (tlog-checkpoint, signed-note, tlog-cosignature). Nothing here hashes, signs
//! or verifies: key ids and signatures come in and go out as bytes, and text
//! that parses is not thereby authentic.
//!
//! ```text
//! checkpoint text            signed note                 key list text
//! <origin> LF                <text, ends with LF>        nexo/1/log-keys LF
//! <size, decimal> LF         LF                          <origin> LF
//! <base64 of root> LF        — <name> <base64> LF  * n   time <vkey> LF
//!
//! base64 of a signature line = u32 key id || signature
//!     kind 0x01 signature    = 64 bytes, over the text
//!     kind 0x04 signature    = u64 seconds || 64 bytes, over the cosignature message
//! vkey                       = <name>+<8 hex key id>+<base64(kind || public key)>
//! cosignature message        = "cosignature/v1" LF "time " <seconds> LF <text>
//! ```
//!
//! Integers inside base64 are big-endian. There is no CR and no other control
//! character anywhere.

use crate::bytes::{fixed, from_base64, from_hex, to_base64, to_hex};

/// Kind byte of a plain Ed25519 key: signs the note's text.
pub const KIND_ED25519: u8 = 0x01;
/// Kind byte of an Ed25519 cosignature key: signs a time and the note's text.
pub const KIND_COSIGNATURE: u8 = 0x04;
/// Longest note that is looked at. C2SP asks for at least 16 signatures, the
/// longest of which (post-quantum) are near 5 kB.
pub const MAX_NOTE: usize = 128 * 1024;
/// First line of the key list.
const KEY_LIST: &str = "nexo/1/log-keys";
/// Starts a signature line: em dash, space.
const DASH: &str = "\u{2014} ";
const COSIGNATURE_HEADER: &str = "cosignature/v1";
/// Times and sizes stay inside a signed 64-bit integer (tlog-cosignature; SQL).
const MAX_INTEGER: u64 = i64::MAX as u64;

/// Why text is not the format it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not UTF-8, longer than [`MAX_NOTE`], or with a control character other than LF.
    #[error("the text is too long, is not UTF-8 or contains control characters")]
    Characters,
    /// The lines are not the ones the format has.
    #[error("the text does not have the lines of its format")]
    Lines,
    /// A name or origin is empty or has a space or a `+`.
    #[error("a name or origin is empty or contains a space or a plus sign")]
    Name,
    /// A number is not written in its one decimal way, or is 2^63 or more.
    #[error("a number is not written in canonical decimal or is too large")]
    Number,
    /// A hash, key or signature is not canonical base64 or hex of its length.
    #[error("a hash, key or signature is not canonical base64 or hex of its length")]
    Bytes,
}

/// What a log says of itself: this many leaves, under this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name; the name of its key too.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// RFC 6962 root of those leaves.
    pub root: [u8; 32],
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, to_base64(&self.root))
    }

    /// Reads a checkpoint text of exactly three lines. Nexo logs write no
    /// extension lines, so none are taken.
    ///
    /// # Errors
    /// [`TextError`] names what differs.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let [origin, size, root] = lines(text)?;
        Ok(Self { origin: name(origin)?.to_owned(), size: number(size)?, root: base64_of(root)? })
    }
}

/// A text and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    /// Everything before the last empty line, with its final LF.
    pub text: &'a str,
    /// The lines after it, in order.
    pub signatures: Vec<SignatureLine<'a>>,
}

impl<'a> Note<'a> {
    /// Splits a signed note at its last empty line.
    ///
    /// # Errors
    /// [`TextError`]; a note without a signature is refused too.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TextError> {
        let note = str::from_utf8(bytes).map_err(|_| TextError::Characters)?;
        if note.len() > MAX_NOTE || note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(TextError::Characters);
        }
        let gap = note.rfind("\n\n").ok_or(TextError::Lines)?;
        let (text, rest) = (&note[..=gap], &note[gap + 2..]);
        let rest = rest.strip_suffix('\n').ok_or(TextError::Lines)?;
        let signatures = rest.split('\n').map(SignatureLine::parse).collect::<Result<_, _>>()?;
        Ok(Self { text, signatures })
    }
}

/// One line of a signed note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine<'a> {
    /// The signer's key name.
    pub name: &'a str,
    /// First four bytes of SHA-256(name || LF || kind || public key).
    pub key_id: [u8; 4],
    /// The signature; what it holds depends on the key's kind.
    pub signature: Vec<u8>,
}

impl<'a> SignatureLine<'a> {
    fn parse(line: &'a str) -> Result<Self, TextError> {
        let (signer, blob) =
            line.strip_prefix(DASH).and_then(|l| l.split_once(' ')).ok_or(TextError::Lines)?;
        let blob = from_base64(blob).map_err(|_| TextError::Bytes)?;
        let (key_id, signature) = blob.split_first_chunk::<4>().ok_or(TextError::Bytes)?;
        if signature.is_empty() {
            return Err(TextError::Bytes);
        }
        Ok(Self { name: name(signer)?, key_id: *key_id, signature: signature.to_vec() })
    }
}

/// The line that carries `signature`, with its LF.
#[must_use]
pub fn signature_line(name: &str, key_id: [u8; 4], signature: &[u8]) -> String {
    format!("{DASH}{name} {}\n", to_base64(&[&key_id[..], signature].concat()))
}

/// A public key as people pass it around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VKey {
    /// The key's name.
    pub name: String,
    /// First four bytes of SHA-256(name || LF || kind || public key). Parsing
    /// does not check it: that takes a hash, and is the verifier's to do.
    pub key_id: [u8; 4],
    /// [`KIND_ED25519`] or [`KIND_COSIGNATURE`].
    pub kind: u8,
    /// The Ed25519 public key.
    pub key: [u8; 32],
}

impl VKey {
    /// Reads `name+hhhhhhhh+base64`. The base64 may hold `+` itself.
    ///
    /// # Errors
    /// [`TextError`]; another kind of key is [`TextError::Bytes`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let mut parts = text.splitn(3, '+');
        let (Some(owner), Some(id), Some(blob)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(TextError::Lines);
        };
        let [kind, key @ ..] = base64_of::<33>(blob)?;
        if kind != KIND_ED25519 && kind != KIND_COSIGNATURE {
            return Err(TextError::Bytes);
        }
        let key_id = from_hex(id).map_err(|_| TextError::Bytes)?;
        Ok(Self { name: name(owner)?.to_owned(), key_id, kind, key })
    }
}

impl std::fmt::Display for VKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blob = to_base64(&[&[self.kind], &self.key[..]].concat());
        write!(f, "{}+{}+{blob}", self.name, to_hex(&self.key_id))
    }
}

/// What a cosigner signs to say: at `time` (POSIX seconds) this `text` was the
/// largest tree I knew for its origin.
#[must_use]
pub fn cosignature_message(time: u64, text: &str) -> String {
    format!("{COSIGNATURE_HEADER}\ntime {time}\n{text}")
}

/// The signature bytes of a cosignature line.
#[must_use]
pub fn cosignature(time: u64, signature: &[u8; 64]) -> Vec<u8> {
    [&time.to_be_bytes()[..], signature].concat()
}

/// Time (POSIX seconds) and signature of a cosignature line.
///
/// # Errors
/// [`TextError::Bytes`] for another length, [`TextError::Number`] for a time
/// beyond 2^63 - 1.
pub fn parse_cosignature(bytes: &[u8]) -> Result<(u64, [u8; 64]), TextError> {
    let (time, signature) = bytes.split_first_chunk::<8>().ok_or(TextError::Bytes)?;
    let time = u64::from_be_bytes(*time);
    if time > MAX_INTEGER {
        return Err(TextError::Number);
    }
    Ok((time, fixed(signature).map_err(|_| TextError::Bytes)?))
}

/// The text of `GET /log/keys`: the log at `origin` has this time key.
#[must_use]
pub fn key_list_text(origin: &str, time: &VKey) -> String {
    format!("{KEY_LIST}\n{origin}\ntime {time}\n")
}

/// Origin and time key of a key list's text.
///
/// # Errors
/// [`TextError`] names what differs; a time key of another kind than
/// [`KIND_COSIGNATURE`] is [`TextError::Bytes`].
pub fn parse_key_list(text: &str) -> Result<(&str, VKey), TextError> {
    let [header, origin, time] = lines(text)?;
    let time = time.strip_prefix("time ").ok_or(TextError::Lines)?;
    if header != KEY_LIST {
        return Err(TextError::Lines);
    }
    let time = VKey::parse(time)?;
    if time.kind != KIND_COSIGNATURE {
        return Err(TextError::Bytes);
    }
    Ok((name(origin)?, time))
}

/// Exactly `N` lines, each ended by LF.
fn lines<const N: usize>(text: &str) -> Result<[&str; N], TextError> {
    let text = text.strip_suffix('\n').ok_or(TextError::Lines)?;
    let mut parts = text.split('\n');
    let mut found = [""; N];
    for slot in &mut found {
        *slot = parts.next().ok_or(TextError::Lines)?;
    }
    if parts.next().is_some() { Err(TextError::Lines) } else { Ok(found) }
}

fn name(text: &str) -> Result<&str, TextError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if text.is_empty() || text.contains(bad) { Err(TextError::Name) } else { Ok(text) }
}

fn number(text: &str) -> Result<u64, TextError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(TextError::Number);
    }
    text.parse().ok().filter(|n| *n <= MAX_INTEGER).ok_or(TextError::Number)
}

fn base64_of<const N: usize>(text: &str) -> Result<[u8; N], TextError> {
    from_base64(text).and_then(|b| fixed(&b)).map_err(|_| TextError::Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const C2SP_VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const C2SP_NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    fn empty_log() -> Checkpoint {
        let root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        Checkpoint {
            origin: "example.com/log/testdata".into(),
            size: 0,
            root: fixed(&from_base64(root).unwrap()).unwrap(),
        }
    }

    fn time_key() -> VKey {
        VKey { name: "a/time".into(), key_id: [0xab; 4], kind: KIND_COSIGNATURE, key: [7; 32] }
    }

    #[test]
    fn a_checkpoint_of_another_implementation_is_reproduced() {
        let text = "example.com/log/testdata\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";
        assert_eq!(empty_log().text(), text);
        assert_eq!(Checkpoint::parse(text), Ok(empty_log()));
    }

    #[test]
    fn every_other_checkpoint_text_is_refused() {
        let root = to_base64(&[0; 32]);
        for (bad, why) in [
            (format!("a\n1\n{root}"), TextError::Lines),
            (format!("a\n1\n{root}\n\n"), TextError::Lines),
            (format!("a\n1\n{root}\nextension\n"), TextError::Lines),
            ("a\n1\n".into(), TextError::Lines),
            (format!("\n1\n{root}\n"), TextError::Name),
            (format!("a b\n1\n{root}\n"), TextError::Name),
            (format!("a+b\n1\n{root}\n"), TextError::Name),
            (format!("a\r\n1\n{root}\n"), TextError::Name),
            (format!("a\n01\n{root}\n"), TextError::Number),
            (format!("a\n+1\n{root}\n"), TextError::Number),
            (format!("a\n-1\n{root}\n"), TextError::Number),
            (format!("a\n\n{root}\n"), TextError::Number),
            (format!("a\n1 \n{root}\n"), TextError::Number),
            (format!("a\n9223372036854775808\n{root}\n"), TextError::Number),
            (format!("a\n99999999999999999999\n{root}\n"), TextError::Number),
            (format!("a\n1\n{}\n", to_base64(&[0; 31])), TextError::Bytes),
            (format!("a\n1\n{}\n", &root[..43]), TextError::Bytes),
        ] {
            assert_eq!(Checkpoint::parse(&bad), Err(why), "{bad:?}");
        }
        assert!(Checkpoint::parse(&format!("a\n9223372036854775807\n{root}\n")).is_ok());
    }

    #[test]
    fn the_example_of_the_note_specification_parses() {
        let note = Note::parse(C2SP_NOTE.as_bytes()).unwrap();
        let key = VKey::parse(C2SP_VKEY).unwrap();
        assert_eq!(note.text, "This is an example message.\n");
        let [line] = &note.signatures[..] else { panic!("one signature") };
        assert_eq!((line.name, line.key_id), (&*key.name, key.key_id));
        assert_eq!(line.signature.len(), 64);
        assert_eq!(key.to_string(), C2SP_VKEY);
        let again = signature_line(line.name, line.key_id, &line.signature);
        assert_eq!(format!("{}\n{again}", note.text), C2SP_NOTE);
    }

    #[test]
    fn a_note_is_split_at_its_last_empty_line() {
        let note = C2SP_NOTE.replacen("This", "Before.\n\nThis", 1);
        let note = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(note.text, "Before.\n\nThis is an example message.\n");
    }

    #[test]
    fn broken_notes_are_refused() {
        let line = signature_line("a", [0; 4], &[1; 64]);
        for (bad, why) in [
            ("text\n".to_owned(), TextError::Lines),
            ("text\n\n".to_owned(), TextError::Lines),
            (format!("text\n\n{}", line.trim_end()), TextError::Lines),
            (format!("text\n\n{line}{}", &line[3..]), TextError::Lines),
            (format!("text\n\n{}", line.replace('\u{2014}', "-")), TextError::Lines),
            (format!("te\rxt\n\n{line}"), TextError::Characters),
            (format!("{}\n\n{line}", "x".repeat(MAX_NOTE)), TextError::Characters),
            (format!("text\n\n{}", signature_line("a", [0; 4], &[])), TextError::Bytes),
            (format!("text\n\n{DASH}a AAA=\n"), TextError::Bytes),
            (format!("text\n\n{}", line.replace(" a ", " a  ")), TextError::Bytes),
            (format!("text\n\n{}", signature_line("", [0; 4], &[1; 64])), TextError::Name),
        ] {
            assert_eq!(Note::parse(bad.as_bytes()), Err(why), "{bad:?}");
        }
        assert_eq!(Note::parse(b"\xff\n\n"), Err(TextError::Characters));
    }

    #[test]
    fn vkeys_have_one_spelling() {
        let good = time_key().to_string();
        assert_eq!(VKey::parse(&good), Ok(time_key()));
        let blob = to_base64(&[&[4], &[7; 32][..]].concat());
        for (bad, why) in [
            ("a/time+abababab".to_owned(), TextError::Lines),
            (format!("+abababab+{blob}"), TextError::Name),
            (format!("a time+abababab+{blob}"), TextError::Name),
            (format!("a/time+ABABABAB+{blob}"), TextError::Bytes),
            (format!("a/time+ababab+{blob}"), TextError::Bytes),
            (format!("a/time+abababab+{}", to_base64(&[4; 32])), TextError::Bytes),
            (format!("a/time+abababab+{}", to_base64(&[6; 33])), TextError::Bytes),
        ] {
            assert_eq!(VKey::parse(&bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_cosignature_carries_its_time() {
        let text = empty_log().text();
        let message = cosignature_message(1_700_000_000, &text);
        assert_eq!(message, format!("cosignature/v1\ntime 1700000000\n{text}"));
        let blob = cosignature(1_700_000_000, &[9; 64]);
        assert_eq!(blob.len(), 72);
        assert_eq!(parse_cosignature(&blob), Ok((1_700_000_000, [9; 64])));
        assert_eq!(parse_cosignature(&blob[1..]), Err(TextError::Bytes));
        assert_eq!(parse_cosignature(&blob[..7]), Err(TextError::Bytes));
        assert_eq!(parse_cosignature(&cosignature(1 << 63, &[9; 64])), Err(TextError::Number));
    }

    #[test]
    fn the_key_list_names_one_time_key() {
        let text = key_list_text("a", &time_key());
        assert_eq!(text, format!("nexo/1/log-keys\na\ntime {}\n", time_key()));
        assert_eq!(parse_key_list(&text), Ok(("a", time_key())));
        let mut log_key = time_key();
        log_key.kind = KIND_ED25519;
        for (bad, why) in [
            (text.replace("/1/", "/2/"), TextError::Lines),
            (text.replace("time ", ""), TextError::Lines),
            (text.replace("\na\n", "\n\n"), TextError::Name),
            (format!("{text}more\n"), TextError::Lines),
            (key_list_text("a", &log_key), TextError::Bytes),
        ] {
            assert_eq!(parse_key_list(&bad), Err(why), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            origin in "[!-*,-~]{1,40}", size in 0..=MAX_INTEGER, root: [u8; 32], sig: Vec<u8>,
        ) {
            let checkpoint = Checkpoint { origin, size, root };
            let text = checkpoint.text();
            prop_assert_eq!(Checkpoint::parse(&text), Ok(checkpoint.clone()));
            let sig = [&[1], &sig[..]].concat();
            let line = signature_line(&checkpoint.origin, [1, 2, 3, 4], &sig);
            let bytes = format!("{text}\n{line}{line}");
            let note = Note::parse(bytes.as_bytes()).unwrap();
            prop_assert_eq!(note.text, &text);
            prop_assert_eq!(note.signatures.len(), 2);
            prop_assert_eq!(&note.signatures[1].signature, &sig);
        }

        #[test]
        fn no_input_panics(text: String, bytes: Vec<u8>) {
            let _ = Checkpoint::parse(&text);
            let _ = (VKey::parse(&text), parse_key_list(&text), parse_cosignature(&bytes));
            let _ = (Note::parse(&bytes), Note::parse(format!("a\n\n{DASH}{text}\n").as_bytes()));
        }
    }
}
