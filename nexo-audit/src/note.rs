//! Signed notes (C2SP signed-note): a text and the lines that sign it.
//!
//! ```text
//! <text, ends with LF>
//! LF                                          the last empty line splits
//! — <key name> <base64 of blob> LF            one or more
//!
//! blob = u32 key id || signature              big-endian
//!     of a LogKey       signature = 64 bytes over the text
//!     of a TimeKey or   signature = u64 POSIX seconds || 64 bytes over
//!        a WitnessKey               "cosignature/v1" LF "time " <seconds> LF <text>
//! ```
//!
//! Lines of unknown keys are ignored, because a log may have signers this auditor does not know.
//! A line that carries the name and id of a known key must verify, or the whole note is refused:
//! a signer whose key broke is noticed, and not outvoted by another one.

use crate::encoding::from_base64;
use crate::key::{LogKey, TimeKey, Verifier, WitnessKey, is_name};

/// Longest note that is read, bytes. Room for [`MAX_SIGNATURES`] post-quantum lines would be
/// 320 kB; nobody signs with that many, and C2SP asks for 16.
pub const MAX_NOTE: usize = 128 * 1024;
/// Most signature lines. C2SP asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;
/// A signature line starts with an em dash and a space.
const DASH: &str = "\u{2014} ";

/// Why bytes are not a signed note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than [`MAX_NOTE`].
    #[error("the note is longer than {MAX_NOTE} bytes")]
    TooLong,
    /// Not UTF-8, or with a control character other than the line end.
    #[error("the note is not UTF-8 or has control characters")]
    Characters,
    /// No empty line between text and signatures, or no line end at the end.
    #[error("the note does not consist of a text, an empty line and signatures")]
    Parts,
    /// A signature line is not `— NAME BASE64`.
    #[error("signature line {line} of the note is malformed")]
    SignatureLine {
        /// Counted from 1.
        line: usize,
    },
    /// More than [`MAX_SIGNATURES`] lines.
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
}

/// Why a note is not signed as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No line carries the name and id of the key.
    #[error("no signature of the key {name}")]
    Missing {
        /// The key's name.
        name: String,
    },
    /// A line claims to be of the key and does not verify.
    #[error("a signature that claims to be of {name} does not verify")]
    Bad {
        /// The key's name.
        name: String,
    },
}

/// A note that was split, not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<SignatureLine<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SignatureLine<'a> {
    name: &'a str,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

impl<'a> Note<'a> {
    /// Splits `bytes` into text and signature lines.
    ///
    /// # Errors
    /// [`NoteError`] names what differs.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong);
        }
        let note = str::from_utf8(bytes).map_err(|_| NoteError::Characters)?;
        if note.contains(|c: char| c.is_ascii_control() && c != '\n') {
            return Err(NoteError::Characters);
        }
        let (head, tail) = note.rsplit_once("\n\n").ok_or(NoteError::Parts)?;
        let text = &note[..=head.len()];
        let tail = tail.strip_suffix('\n').ok_or(NoteError::Parts)?;
        let mut signatures = Vec::new();
        for (at, line) in tail.split('\n').enumerate() {
            if at == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            let line =
                SignatureLine::parse(line).ok_or(NoteError::SignatureLine { line: at + 1 })?;
            signatures.push(line);
        }
        Ok(Self { text, signatures })
    }

    /// The text after the log's signature on it verified.
    ///
    /// # Errors
    /// [`SignatureError`] when there is no such signature, or one of them is bad.
    pub fn signed_by(&self, key: &LogKey) -> Result<&'a str, SignatureError> {
        let key = key.verifier();
        let found = self.verify_each(key, |line| {
            let signature = line.signature.as_slice().try_into().ok()?;
            key.verifies(self.text.as_bytes(), signature).then_some(())
        })?;
        match found.first() {
            Some(()) => Ok(self.text),
            None => Err(SignatureError::Missing { name: key.name().to_owned() }),
        }
    }

    /// When `key` last vouched for the text, POSIX seconds; `None` without a cosignature of it.
    ///
    /// # Errors
    /// [`SignatureError::Bad`] when one of its cosignatures does not verify.
    pub fn cosigned_at(&self, key: &TimeKey) -> Result<Option<u64>, SignatureError> {
        self.newest_cosignature(key.verifier())
    }

    /// When a witness last cosigned the text, POSIX seconds; `None` without a cosignature of it.
    ///
    /// # Errors
    /// [`SignatureError::Bad`] when one of its cosignatures does not verify.
    pub fn witnessed_at(&self, key: &WitnessKey) -> Result<Option<u64>, SignatureError> {
        self.newest_cosignature(key.verifier())
    }

    fn newest_cosignature(&self, key: &Verifier) -> Result<Option<u64>, SignatureError> {
        let times = self.verify_each(key, |line| {
            let (time, signature) = line.signature.split_first_chunk::<8>()?;
            let time = u64::from_be_bytes(*time);
            // tlog-cosignature bounds the time so that a signed 64-bit integer holds it.
            i64::try_from(time).ok()?;
            let message = format!("cosignature/v1\ntime {time}\n{}", self.text);
            key.verifies(message.as_bytes(), signature.try_into().ok()?).then_some(time)
        })?;
        Ok(times.into_iter().max())
    }

    /// Applies `verify` to every line of `key`; one that does not verify refuses the note.
    fn verify_each<T>(
        &self,
        key: &Verifier,
        verify: impl Fn(&SignatureLine<'_>) -> Option<T>,
    ) -> Result<Vec<T>, SignatureError> {
        let known = |line: &&SignatureLine<'_>| line.name == key.name() && line.key_id == key.id();
        let bad = || SignatureError::Bad { name: key.name().to_owned() };
        self.signatures.iter().filter(known).map(|line| verify(line).ok_or_else(bad)).collect()
    }
}

impl<'a> SignatureLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (name, blob) = line.strip_prefix(DASH)?.split_once(' ')?;
        let blob = from_base64(blob)?;
        let (key_id, signature) = blob.split_first_chunk::<4>()?;
        let whole = is_name(name) && !signature.is_empty();
        whole.then(|| Self { name, key_id: *key_id, signature: signature.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::to_base64;
    use crate::testlog::{Signers, signature_line, vector};
    use proptest::prelude::*;

    fn signed(text: &str, lines: &[&str]) -> String {
        format!("{text}\n{}", lines.concat())
    }

    fn missing(name: &str) -> SignatureError {
        SignatureError::Missing { name: name.into() }
    }

    fn bad(name: &str) -> SignatureError {
        SignatureError::Bad { name: name.into() }
    }

    #[test]
    fn the_example_of_the_specification_verifies() {
        let example = vector("tlog/c2sp-signed-note-example.json");
        let key = LogKey::parse(example["vkey"].as_str().unwrap()).unwrap();
        let bytes = example["note"].as_str().unwrap();
        let note = Note::parse(bytes.as_bytes()).unwrap();
        assert_eq!(note.signed_by(&key), Ok("This is an example message.\n"));
        let altered = bytes.replace("example message", "Example message");
        let note = Note::parse(altered.as_bytes()).unwrap();
        assert_eq!(note.signed_by(&key), Err(bad("example.com/foo")));
    }

    #[test]
    fn the_last_empty_line_splits() {
        let signers = Signers::new("log");
        let text = "one\n\ntwo\n\n\nthree\n";
        let bytes = signed(text, &[&signers.log_line(text)]);
        let note = Note::parse(bytes.as_bytes()).unwrap();
        assert_eq!(note.signed_by(&signers.log_key()), Ok(text));
    }

    #[test]
    fn a_note_of_the_largest_size_is_read_and_one_byte_more_is_not() {
        let signers = Signers::new("log");
        for (size, outcome) in [(MAX_NOTE, Ok(())), (MAX_NOTE + 1, Err(NoteError::TooLong))] {
            let line = signers.log_line("");
            let text = "x".repeat(size - line.len() - 2) + "\n";
            let bytes = signed(&text, &[&line]);
            assert_eq!(bytes.len(), size);
            assert_eq!(Note::parse(bytes.as_bytes()).map(drop), outcome);
        }
    }

    #[test]
    fn unknown_keys_are_ignored_and_known_ones_must_verify() {
        let (ours, theirs) = (Signers::new("log"), Signers::other("log"));
        let key = ours.log_key();
        let text = "text\n";
        let (good, foreign) = (ours.log_line(text), theirs.log_line(text));
        let wrong = ours.log_line("other text\n");
        // Our name with a key id of nobody, our id under another name: both unknown.
        let other_id = signature_line("log", [1, 2, 3, 4], &[0; 64]);
        let other_name = good.replace(" log ", " gol ");
        let short = signature_line("log", key.verifier().id(), &[0; 63]);
        let ok = Ok(text);
        for (lines, outcome) in [
            (vec![&good], ok.clone()),
            (vec![&foreign, &good], ok.clone()),
            (vec![&other_id, &other_name, &good, &good], ok),
            (vec![&foreign], Err(missing("log"))),
            (vec![&other_id, &other_name], Err(missing("log"))),
            (vec![&good, &wrong], Err(bad("log"))),
            (vec![&wrong, &good], Err(bad("log"))),
            (vec![&good, &short], Err(bad("log"))),
        ] {
            let lines: Vec<&str> = lines.iter().map(|l| l.as_str()).collect();
            let bytes = signed(text, &lines);
            let note = Note::parse(bytes.as_bytes()).unwrap();
            assert_eq!(note.signed_by(&key), outcome, "{bytes}");
        }
    }

    #[test]
    fn the_newest_cosignature_gives_the_time() {
        let signers = Signers::new("log");
        let (key, text) = (signers.time_key(), "text\n");
        let at = |lines: &[&str]| {
            let bytes = signed(text, lines);
            Note::parse(bytes.as_bytes()).unwrap().cosigned_at(&key)
        };
        let (early, late) = (signers.time_line(100, text), signers.time_line(200, text));
        assert_eq!(at(&[&early]), Ok(Some(100)));
        assert_eq!(at(&[&late, &early]), Ok(Some(200)));
        assert_eq!(at(&[&early, &late]), Ok(Some(200)));
        assert_eq!(at(&[&signers.log_line(text)]), Ok(None));
        let other_text = signers.time_line(100, "other\n");
        assert_eq!(at(&[&early, &other_text]), Err(bad("log/time")));
        // A time that was not the signed one, a time out of range, a cut blob.
        let id = key.verifier().id();
        let blob = |line: &str| from_base64(line.trim_end().rsplit(' ').next().unwrap()).unwrap();
        let mut moved = blob(&early)[4..].to_vec();
        moved[7] ^= 1;
        assert_eq!(at(&[&signature_line("log/time", id, &moved)]), Err(bad("log/time")));
        assert_eq!(at(&[&signers.time_line(1 << 63, text)]), Err(bad("log/time")));
        let cut = signature_line("log/time", id, &blob(&early)[4..75]);
        assert_eq!(at(&[&cut]), Err(bad("log/time")));
        assert_eq!(at(&[&signature_line("log/time", id, &[1])]), Err(bad("log/time")));
    }

    #[test]
    fn broken_notes_are_refused() {
        let line = signature_line("a", [0; 4], &[1; 64]);
        let blob = to_base64(&[7; 68]);
        let at = |line| NoteError::SignatureLine { line };
        for (broken, why) in [
            (String::new(), NoteError::Parts),
            ("text\n".into(), NoteError::Parts),
            ("text\n\n".into(), NoteError::Parts),
            (format!("text\n{line}"), NoteError::Parts),
            (format!("text\n\n{}", line.trim_end()), NoteError::Parts),
            (format!("text\n\n{line}\n"), NoteError::Parts),
            (format!("text\n\n{line}\n\n"), NoteError::Parts),
            (format!("text\n\n{line}junk\n"), at(2)),
            (format!("text\n\n- a {blob}\n"), at(1)),
            (format!("text\n\n{DASH}a\n"), at(1)),
            (format!("text\n\n{DASH} {blob}\n"), at(1)),
            (format!("text\n\n{DASH}a+b {blob}\n"), at(1)),
            (format!("text\n\n{DASH}a\u{a0}b {blob}\n"), at(1)),
            (format!("text\n\n{DASH}a  {blob}\n"), at(1)),
            (format!("text\n\n{DASH}a {blob} \n"), at(1)),
            (format!("text\n\n{DASH}a {}\n", blob.trim_end_matches('=')), at(1)),
            (format!("text\n\n{DASH}a {}\n", to_base64(&[1, 2, 3, 4])), at(1)),
            (format!("te\rxt\n\n{line}"), NoteError::Characters),
            (format!("te\0xt\n\n{line}"), NoteError::Characters),
            (format!("te\x7fxt\n\n{line}"), NoteError::Characters),
            (format!("te\txt\n\n{line}"), NoteError::Characters),
            (format!("{}\n\n{line}", "x".repeat(MAX_NOTE)), NoteError::TooLong),
            (format!("t\n\n{}", line.repeat(MAX_SIGNATURES + 1)), NoteError::TooManySignatures),
        ] {
            assert_eq!(Note::parse(broken.as_bytes()), Err(why), "{broken:?}");
        }
        assert_eq!(Note::parse(b"t\xff\n\n"), Err(NoteError::Characters));
        let full = format!("t\n\n{}", line.repeat(MAX_SIGNATURES));
        assert!(Note::parse(full.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes: Vec<u8>, text: String) {
            let _ = Note::parse(&bytes);
            let _ = Note::parse(format!("{text}\n\n{DASH}{text}\n").as_bytes());
        }
    }
}
