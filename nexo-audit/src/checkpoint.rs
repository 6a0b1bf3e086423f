//! Heads of the log: the checkpoint text, and the signed note around it.
//!
//! ```text
//! <origin> LF
//! <size, decimal without leading zeros> LF
//! <base64 of the 32-byte root> LF
//! <extension line> LF                     any number, each non-empty; read over
//! ```
//!
//! A [`Checkpoint`] is only what a text says. A [`SignedHead`] is what the log's key signed, and
//! keeps the exact bytes, because two of them that contradict each other are the evidence.

use crate::encoding::{hash_from_base64, to_base64};
use crate::key::{LogKey, TimeKey, is_name};
use crate::merkle::Hash;
use crate::note::{Note, NoteError, SignatureError};

/// First line of the note that names the time key.
const LOG_KEYS: &str = "nexo/1/log-keys";

/// Why a text is not a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer than three lines, an empty extension line, or no line end at the end.
    #[error("a checkpoint has at least three lines and no empty one")]
    Lines,
    /// The origin is empty, too long, or has a space, a control character or a `+`.
    #[error("the checkpoint's origin is not a name")]
    Origin,
    /// The size is not canonical decimal, or is 2^63 or more.
    #[error("the checkpoint's size is not a number in its one spelling below 2^63")]
    Size,
    /// The root is not canonical base64 of 32 bytes.
    #[error("the checkpoint's root is not base64 of 32 bytes")]
    Root,
}

/// Why bytes are not a head of the pinned log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Not signed by the pinned key.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Signed, but not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Signed by the key of one log as the head of another.
    #[error("the head is of {found:?}, and the key is of {expected:?}")]
    Origin {
        /// The origin that the key names.
        expected: String,
        /// The origin in the checkpoint.
        found: String,
    },
}

/// Why bytes are not the key list of the pinned log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogKeysError {
    /// Not a signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Not signed by the pinned log key.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not the three lines of a key list, or of another origin.
    #[error("the key list does not have its three lines for this origin")]
    Lines,
    /// The time key is no usable vkey of kind 0x04.
    #[error("the time key in the key list: {0}")]
    Key(#[from] crate::key::KeyError),
    /// The time key has another name than origin and `/time`, or is the log key again.
    #[error("the time key does not have the name of this log's time key, or is its log key")]
    OtherKey,
}

/// What a checkpoint text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Number of leaves, below 2^63.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a checkpoint text (C2SP tlog-checkpoint). Extension lines are allowed and carry
    /// no meaning here.
    ///
    /// # Errors
    /// [`CheckpointError`] names the line that differs.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let text = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?;
        let mut lines = text.split('\n');
        let mut line = || lines.next().ok_or(CheckpointError::Lines);
        let (origin, size, root) = (line()?, line()?, line()?);
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Lines);
        }
        if !is_name(origin) {
            return Err(CheckpointError::Origin);
        }
        Ok(Self {
            origin: origin.to_owned(),
            size: decimal(size).ok_or(CheckpointError::Size)?,
            root: hash_from_base64(root).ok_or(CheckpointError::Root)?,
        })
    }

    /// The root as the checkpoint writes it.
    #[must_use]
    pub fn root_base64(&self) -> String {
        to_base64(&self.root)
    }
}

/// A head that the pinned log key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// The signed note, byte for byte.
    pub note: String,
    /// When the log's time key last vouched for it, POSIX seconds. `None` when no time key was
    /// given or none of its cosignatures is on the note.
    pub time: Option<u64>,
}

impl SignedHead {
    /// Opens the bytes of a signed checkpoint: the signature of `log_key` must verify, its name
    /// must be the checkpoint's origin, and every cosignature of `time_key` must verify too.
    ///
    /// # Errors
    /// [`HeadError`] names what differs. Nothing of a refused note may be used.
    pub fn open(
        note: &[u8],
        log_key: &LogKey,
        time_key: Option<&TimeKey>,
    ) -> Result<Self, HeadError> {
        let parsed = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(parsed.signed_by(log_key)?)?;
        if checkpoint.origin != log_key.origin() {
            let expected = log_key.origin().to_owned();
            return Err(HeadError::Origin { expected, found: checkpoint.origin });
        }
        let time = time_key.map_or(Ok(None), |key| parsed.cosigned_at(key))?;
        // A note that parsed is UTF-8, so nothing is replaced here.
        let note = String::from_utf8_lossy(note).into_owned();
        Ok(Self { checkpoint, note, time })
    }
}

/// Opens the note at `/log/keys`, in which the log key names the log's time key:
///
/// ```text
/// nexo/1/log-keys LF
/// <origin> LF
/// time <vkey of kind 0x04, name = origin "/time"> LF
/// ```
///
/// # Errors
/// [`LogKeysError`]; a list that the pinned log key did not sign is refused.
pub fn parse_log_keys(note: &[u8], log_key: &LogKey) -> Result<TimeKey, LogKeysError> {
    let text = Note::parse(note)?.signed_by(log_key)?;
    let vkey = text
        .strip_prefix(LOG_KEYS)
        .and_then(|rest| rest.strip_prefix('\n'))
        .and_then(|rest| rest.strip_prefix(log_key.origin()))
        .and_then(|rest| rest.strip_prefix("\ntime "))
        .and_then(|rest| rest.strip_suffix('\n'))
        .filter(|vkey| !vkey.contains('\n'))
        .ok_or(LogKeysError::Lines)?;
    let key = TimeKey::parse(vkey)?;
    // One key for both roles would let a cosignature stand for a signature of the log: the
    // message does not say which role signed it.
    let shared = key.verifier().key_bytes() == log_key.verifier().key_bytes();
    if shared || key.name().strip_suffix("/time") != Some(log_key.origin()) {
        return Err(LogKeysError::OtherKey);
    }
    Ok(key)
}

/// Whether a text is the key list of some log, whatever its name and keys.
pub(crate) fn is_key_list(text: &str) -> bool {
    let lines: Vec<&str> = text.split('\n').collect();
    let [LOG_KEYS, origin, vkey, ""] = lines[..] else { return false };
    let key = vkey.strip_prefix("time ").and_then(|vkey| TimeKey::parse(vkey).ok());
    key.is_some_and(|key| key.name().strip_suffix("/time") == Some(origin))
}

/// Decimal in its one spelling. Sizes stay below 2^63 because a signed 64-bit integer has to
/// hold them in every database, and no log gets there.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.starts_with('0') && text.len() > 1) {
        return None;
    }
    text.parse().ok().filter(|size| i64::try_from(*size).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyError;
    use crate::testlog::{Signers, unhex, vector};
    use proptest::prelude::*;

    #[test]
    fn the_sixteen_heads_of_a_foreign_log_open() {
        let log = vector("tlog/tessera-testlog.json");
        let key = LogKey::parse(log["vkey"].as_str().unwrap()).unwrap();
        let heads = log["checkpoints"].as_array().unwrap();
        assert_eq!(heads.len(), 16);
        for head in heads {
            let note = head["note"].as_str().unwrap();
            let open = SignedHead::open(note.as_bytes(), &key, None).unwrap();
            assert_eq!(open.checkpoint.origin, log["origin"].as_str().unwrap());
            assert_eq!(open.checkpoint.size, head["size"].as_u64().unwrap());
            assert_eq!(open.checkpoint.root.to_vec(), unhex(&head["root_hex"]));
            assert_eq!(open.note, note);
            assert_eq!(open.time, None);
            let altered = note.replacen("testdata\n", "testdata\n1", 1);
            let refused = SignedHead::open(altered.as_bytes(), &key, None);
            assert!(matches!(refused, Err(HeadError::Signature(SignatureError::Bad { .. }))));
        }
    }

    #[test]
    fn a_checkpoint_has_one_spelling() {
        let root = to_base64(&[5; 32]);
        let good = format!("log\n42\n{root}\n");
        let parsed = Checkpoint::parse(&good).unwrap();
        assert_eq!(parsed, Checkpoint { origin: "log".into(), size: 42, root: [5; 32] });
        assert_eq!(parsed.root_base64(), root);
        assert_eq!(Checkpoint::parse(&format!("{good}ext 1\next 2\n")), Ok(parsed));
        assert!(Checkpoint::parse(&format!("a\n9223372036854775807\n{root}\n")).is_ok());
        for (bad, why) in [
            (String::new(), CheckpointError::Lines),
            ("a\n1\n".into(), CheckpointError::Lines),
            (format!("a\n1\n{root}"), CheckpointError::Lines),
            (format!("a\n1\n{root}\n\n"), CheckpointError::Lines),
            (format!("a\n1\n{root}\n\next\n"), CheckpointError::Lines),
            (format!("\n1\n{root}\n"), CheckpointError::Origin),
            (format!("a b\n1\n{root}\n"), CheckpointError::Origin),
            (format!("a+b\n1\n{root}\n"), CheckpointError::Origin),
            (format!("a\n\n{root}\n"), CheckpointError::Size),
            (format!("a\n01\n{root}\n"), CheckpointError::Size),
            (format!("a\n+1\n{root}\n"), CheckpointError::Size),
            (format!("a\n-1\n{root}\n"), CheckpointError::Size),
            (format!("a\n1 \n{root}\n"), CheckpointError::Size),
            (format!("a\n0x1\n{root}\n"), CheckpointError::Size),
            (format!("a\n9223372036854775808\n{root}\n"), CheckpointError::Size),
            (format!("a\n99999999999999999999999\n{root}\n"), CheckpointError::Size),
            (format!("a\n1\n{}\n", to_base64(&[5; 31])), CheckpointError::Root),
            (format!("a\n1\n{}\n", &root[..43]), CheckpointError::Root),
            (format!("a\n1\n {root}\n"), CheckpointError::Root),
        ] {
            assert_eq!(Checkpoint::parse(&bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_head_carries_the_time_of_its_time_key_only() {
        let signers = Signers::new("log");
        let note = signers.head(3, &[9; 32], 1000);
        let (log, time) = (signers.log_key(), signers.time_key());
        let head = SignedHead::open(note.as_bytes(), &log, Some(&time)).unwrap();
        assert_eq!((head.checkpoint.size, head.time), (3, Some(1000)));
        assert_eq!(SignedHead::open(note.as_bytes(), &log, None).unwrap().time, None);
        let stranger = Signers::other("log").time_key();
        assert_eq!(SignedHead::open(note.as_bytes(), &log, Some(&stranger)).unwrap().time, None);
        // The known time key on another text refuses the note.
        let mixed = [note.as_str(), &signers.time_line(1001, "x\n")].concat();
        let refused = SignedHead::open(mixed.as_bytes(), &log, Some(&time));
        assert!(matches!(refused, Err(HeadError::Signature(SignatureError::Bad { .. }))));
    }

    #[test]
    fn a_head_of_another_log_or_key_is_refused() {
        let (ours, theirs) = (Signers::new("log"), Signers::other("log"));
        let note = theirs.head(3, &[9; 32], 1000);
        let refused = SignedHead::open(note.as_bytes(), &ours.log_key(), None);
        let missing = SignatureError::Missing { name: "log".into() };
        assert_eq!(refused, Err(HeadError::Signature(missing)));

        let text = format!("gol\n3\n{}\n", to_base64(&[9; 32]));
        let note = format!("{text}\n{}", ours.log_line(&text));
        let (expected, found) = ("log".to_owned(), "gol".to_owned());
        let refused = SignedHead::open(note.as_bytes(), &ours.log_key(), None);
        assert_eq!(refused, Err(HeadError::Origin { expected, found }));

        let note = format!("hello\n\n{}", ours.log_line("hello\n"));
        let refused = SignedHead::open(note.as_bytes(), &ours.log_key(), None);
        assert_eq!(refused, Err(HeadError::Checkpoint(CheckpointError::Lines)));
        // A key list is no head, though the same key signs it.
        let refused = SignedHead::open(ours.key_list().as_bytes(), &ours.log_key(), None);
        assert_eq!(refused, Err(HeadError::Checkpoint(CheckpointError::Size)));
    }

    #[test]
    fn the_key_list_is_the_logs_word_alone() {
        let (ours, theirs) = (Signers::new("log"), Signers::other("log"));
        let key = ours.log_key();
        assert_eq!(parse_log_keys(ours.key_list().as_bytes(), &key), Ok(ours.time_key()));
        assert!(matches!(
            parse_log_keys(theirs.key_list().as_bytes(), &key),
            Err(LogKeysError::Signature(SignatureError::Missing { .. }))
        ));
        let forged =
            ours.key_list().replace(&ours.time_key().to_string(), &theirs.time_key().to_string());
        assert!(matches!(
            parse_log_keys(forged.as_bytes(), &key),
            Err(LogKeysError::Signature(SignatureError::Bad { .. }))
        ));
        let time = ours.time_key();
        let elsewhere = Signers::new("gol").time_key();
        for (text, why) in [
            (format!("nexo/2/log-keys\nlog\ntime {time}\n"), LogKeysError::Lines),
            (format!("nexo/1/log-keys\ngol\ntime {time}\n"), LogKeysError::Lines),
            (format!("nexo/1/log-keys\nlog\n{time}\n"), LogKeysError::Lines),
            (format!("nexo/1/log-keys\nlog\ntime {time}\nmore\n"), LogKeysError::Lines),
            (format!("nexo/1/log-keys\nlog\ntime {elsewhere}\n"), LogKeysError::OtherKey),
            (
                format!("nexo/1/log-keys\nlog\ntime {}\n", ours.log_key_as_time_key()),
                LogKeysError::OtherKey,
            ),
            (
                format!("nexo/1/log-keys\nlog\ntime {key}\n"),
                LogKeysError::Key(KeyError::Kind { wanted: 4, found: 1 }),
            ),
        ] {
            let note = format!("{text}\n{}", ours.log_line(&text));
            assert_eq!(parse_log_keys(note.as_bytes(), &key), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, size: u64) {
            let _ = Checkpoint::parse(&text);
            let parsed = decimal(&size.to_string());
            prop_assert_eq!(parsed, (size >> 63 == 0).then_some(size));
        }
    }
}
