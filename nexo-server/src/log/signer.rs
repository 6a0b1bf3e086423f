//! The server's two signing keys, and what they sign.
//!
//! The *log key* says "this is my tree": it signs the checkpoint's text. The
//! *time key* says "and this was the newest I knew at that second": a C2SP
//! cosignature, so that a head's age can be told without times in the tree. The
//! log key vouches for the time key in the key list (`GET /log/keys`).
//!
//! Only `batch.rs` asks for signed heads, and no byte of one leaves the process
//! before its commit. The keys live in `log.key` and `time.key` of the data
//! directory, mode 0600; replicas share both files. The log's origin is the name
//! in `log.key`, kept nowhere else.

use super::keyfile::{KeyFileError, NamedKey};
use super::tree::Hash;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use nexo_schema::bytes::{fixed, to_hex};
use nexo_schema::checkpoint::{
    Checkpoint, KIND_COSIGNATURE, KIND_ED25519, Note, TextError, VKey, cosignature,
    cosignature_message, key_list_text, parse_cosignature, signature_line,
};
use nexo_schema::ids::Origin;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// File of the log key in the data directory.
pub const LOG_KEY_FILE: &str = "log.key";
/// File of the time key in the data directory.
pub const TIME_KEY_FILE: &str = "time.key";

/// Why there are no keys to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file cannot be read, written or understood.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The time key is there but the log key is gone. A new log key would be
    /// another log.
    #[error("{} is missing but {TIME_KEY_FILE} is there; restore it from a backup", path.display())]
    LogKeyMissing {
        /// Where the log key should be.
        path: PathBuf,
    },
    /// The name in `log.key` is not an origin.
    #[error("{}: the key's name is not an origin", path.display())]
    BadOrigin {
        /// The log key's file.
        path: PathBuf,
    },
    /// The two keys are of different logs.
    #[error(
        "{LOG_KEY_FILE} is of {log}, but {TIME_KEY_FILE} is named {time}; they belong together"
    )]
    Strangers {
        /// Origin in the log key.
        log: Origin,
        /// Name of the time key.
        time: String,
    },
    /// Another origin is asked for than the log has. It may change only while
    /// the log is empty, by [`LogKeys::rename`].
    #[error(
        "this log is {kept}; it cannot become {asked}, because its entries and its readers know it as {kept}"
    )]
    OriginChanged {
        /// The origin in `log.key`.
        kept: Origin,
        /// The origin asked for.
        asked: Origin,
    },
    /// The system gives no random bytes.
    #[error("no random bytes for a new key: {0}")]
    Random(getrandom::Error),
}

/// Why a note is not one that these keys made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OwnNoteError {
    /// Not a checkpoint note.
    #[error("the stored head is not a checkpoint: {0}")]
    Text(#[from] TextError),
    /// A checkpoint of another log.
    #[error("the stored head is of a log with another origin")]
    Origin,
    /// Not exactly one line of the log key and then one of the time key.
    #[error("the stored head is not signed by this server's log key and time key")]
    Signers,
    /// A signature does not verify.
    #[error("a signature of the stored head does not verify under this server's keys")]
    Signature,
    /// The bytes are not the ones this program writes.
    #[error("the stored head is not written the way this server writes it")]
    Bytes,
}

/// A head read back from a note of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnHead {
    /// Number of leaves.
    pub size: u64,
    /// Root of those leaves.
    pub root: Hash,
    /// POSIX seconds of the time key's signature.
    pub time: u64,
}

/// The log key and the time key of one log.
pub struct LogKeys {
    origin: Origin,
    log: NamedKey,
    time: NamedKey,
}

impl LogKeys {
    /// The keys in `dir`; at first start, new ones. A new log is called `asked`,
    /// or `nexo-` and 16 hex digits of SHA-256(log public key). Of several servers that start
    /// on one directory at the same moment one makes each key, and all use it; the log is
    /// called what the one that made the log key was asked.
    ///
    /// # Errors
    /// [`KeyError`]. With [`KeyError::OriginChanged`] the caller may look
    /// whether the log is empty, and [`LogKeys::rename`] it if so.
    pub fn open(dir: &Path, asked: Option<&Origin>) -> Result<Self, KeyError> {
        let log_path = dir.join(LOG_KEY_FILE);
        // The time key is read first, because it is made last: another server that makes both
        // between the two looks must not look like one that has lost its log key.
        let time = NamedKey::read(&dir.join(TIME_KEY_FILE), KIND_COSIGNATURE)?;
        let log = NamedKey::read(&log_path, KIND_ED25519)?;
        let log = match (log, &time) {
            (Some(log), _) => log,
            (None, Some(_)) => return Err(KeyError::LogKeyMissing { path: log_path }),
            (None, None) => new_log_key(&log_path, asked)?,
        };
        let origin = Origin::parse(&log.vkey.name)
            .map_err(|_| KeyError::BadOrigin { path: log_path.clone() })?;
        if let Some(asked) = asked.filter(|asked| **asked != origin) {
            return Err(KeyError::OriginChanged { kept: origin, asked: asked.clone() });
        }
        // A crash may fall between the two files; the log key alone has signed nothing.
        let time = match time {
            Some(time) => time,
            None => new_time_key(dir, &origin)?,
        };
        if time.vkey.name != time_name(&origin) {
            return Err(KeyError::Strangers { log: origin, time: time.vkey.name });
        }
        Ok(Self { origin, log, time })
    }

    /// Gives the log in `dir` another origin, with the same keys. Only for a log
    /// without entries: the caller has looked.
    ///
    /// # Errors
    /// [`KeyError`]. After a failure or a crash half way, the same call again
    /// finishes the work.
    pub fn rename(dir: &Path, origin: &Origin) -> Result<Self, KeyError> {
        let (log_path, time_path) = (dir.join(LOG_KEY_FILE), dir.join(TIME_KEY_FILE));
        // The log key last: until it has the new name, `open` reports the old.
        if let Some(time) = NamedKey::read(&time_path, KIND_COSIGNATURE)? {
            let time = NamedKey::new(&time_name(origin), KIND_COSIGNATURE, time.signing.as_bytes());
            time.replace(&time_path)?;
        }
        let Some(log) = NamedKey::read(&log_path, KIND_ED25519)? else {
            return Err(KeyError::LogKeyMissing { path: log_path });
        };
        let log = NamedKey::new(origin.as_str(), KIND_ED25519, log.signing.as_bytes());
        log.replace(&log_path)?;
        Self::open(dir, Some(origin))
    }

    /// The log's name.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The log key as clients pin it.
    #[must_use]
    pub fn log_vkey(&self) -> &VKey {
        &self.log.vkey
    }

    /// The time key, as the key list names it.
    #[must_use]
    pub fn time_vkey(&self) -> &VKey {
        &self.time.vkey
    }

    /// The key list: the log key says which time key is its own.
    #[must_use]
    pub fn key_list(&self) -> Vec<u8> {
        let text = key_list_text(self.origin.as_str(), &self.time.vkey);
        let line = self.log.signed(text.as_bytes());
        format!("{text}\n{line}").into_bytes()
    }

    /// The signed note of a head: checkpoint, the log key's line, and the time
    /// key's line for `time` (POSIX seconds).
    pub(super) fn sign_head(&self, size: u64, root: Hash, time: u64) -> Vec<u8> {
        let text = Checkpoint { origin: self.origin.to_string(), size, root }.text();
        let log = self.log.signed(text.as_bytes());
        let message = cosignature_message(time, &text);
        let signature = self.time.signing.sign(message.as_bytes()).to_bytes();
        let VKey { name, key_id, .. } = &self.time.vkey;
        let time = signature_line(name, *key_id, &cosignature(time, &signature));
        format!("{text}\n{log}{time}").into_bytes()
    }

    /// Reads a head's note that these keys signed, byte for byte as this program
    /// writes it: for the head in our own database.
    ///
    /// # Errors
    /// [`OwnNoteError`] says in which way it is not ours.
    pub fn verify_own(&self, note: &[u8]) -> Result<OwnHead, OwnNoteError> {
        let parsed = Note::parse(note)?;
        let Checkpoint { origin, size, root } = Checkpoint::parse(parsed.text)?;
        if origin != self.origin.as_str() {
            return Err(OwnNoteError::Origin);
        }
        let [log, time] = &parsed.signatures[..] else {
            return Err(OwnNoteError::Signers);
        };
        for (line, key) in [(log, &self.log.vkey), (time, &self.time.vkey)] {
            if line.name != key.name || line.key_id != key.key_id {
                return Err(OwnNoteError::Signers);
            }
        }
        let signature = fixed(&log.signature).map_err(|_| OwnNoteError::Signature)?;
        self.log.verifies(parsed.text.as_bytes(), &signature)?;
        let (seconds, signature) = parse_cosignature(&time.signature)?;
        let message = cosignature_message(seconds, parsed.text);
        self.time.verifies(message.as_bytes(), &signature)?;
        // Ed25519 as we sign is deterministic: ours has one spelling.
        if note != self.sign_head(size, root, seconds) {
            return Err(OwnNoteError::Bytes);
        }
        Ok(OwnHead { size, root, time: seconds })
    }
}

impl std::fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogKeys({}, {})", self.log.vkey, self.time.vkey)
    }
}

impl NamedKey {
    /// This key's line for a note with that text.
    fn signed(&self, text: &[u8]) -> String {
        let signature = self.signing.sign(text).to_bytes();
        signature_line(&self.vkey.name, self.vkey.key_id, &signature)
    }

    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), OwnNoteError> {
        let key: VerifyingKey = self.signing.verifying_key();
        key.verify_strict(message, &Signature::from_bytes(signature))
            .map_err(|_| OwnNoteError::Signature)
    }
}

fn time_name(origin: &Origin) -> String {
    format!("{origin}/time")
}

fn new_log_key(path: &Path, asked: Option<&Origin>) -> Result<NamedKey, KeyError> {
    let seed = new_seed()?;
    let key = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
    let own_name = || format!("nexo-{}", to_hex(&Sha256::digest(key.as_bytes())[..8]));
    let name = asked.map_or_else(own_name, Origin::to_string);
    Ok(NamedKey::new(&name, KIND_ED25519, &seed).create(path)?)
}

fn new_time_key(dir: &Path, origin: &Origin) -> Result<NamedKey, KeyError> {
    let key = NamedKey::new(&time_name(origin), KIND_COSIGNATURE, &*new_seed()?);
    Ok(key.create(&dir.join(TIME_KEY_FILE))?)
}

fn new_seed() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(KeyError::Random)?;
    Ok(seed)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ed25519_dalek::Verifier as _;
    use nexo_schema::checkpoint::parse_key_list;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Barrier;
    use std::thread;

    /// Fixed keys of a log called `name`.
    pub(crate) fn keys(name: &str, seed: u8) -> LogKeys {
        let origin = Origin::parse(name).unwrap();
        let log = NamedKey::new(name, KIND_ED25519, &[seed; 32]);
        let time = NamedKey::new(&time_name(&origin), KIND_COSIGNATURE, &[seed + 1; 32]);
        LogKeys { origin, log, time }
    }

    fn origin(name: &str) -> Origin {
        Origin::parse(name).unwrap()
    }

    #[test]
    fn a_head_verifies_by_hand() {
        let keys = keys("relay.example.org", 1);
        let note = keys.sign_head(3, [5; 32], 1_700_000_000);
        let note = String::from_utf8(note).unwrap();
        let lines: Vec<&str> = note.split('\n').collect();
        let [origin, size, root, "", log, time, ""] = lines[..] else { panic!("{note}") };
        assert_eq!((origin, size), ("relay.example.org", "3"));
        assert_eq!(root, "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=");

        let unpack = |line: &str, name: &str, kind: u8, key: &[u8; 32]| {
            let blob = line.strip_prefix(&format!("\u{2014} {name} ")).unwrap();
            let blob = nexo_schema::bytes::from_base64(blob).unwrap();
            let id = Sha256::digest([name.as_bytes(), b"\n", &[kind], key].concat());
            assert_eq!(blob[..4], id[..4]);
            blob[4..].to_vec()
        };
        let text = format!("{origin}\n{size}\n{root}\n");
        let log_key = keys.log.signing.verifying_key();
        let signature = unpack(log, "relay.example.org", 1, log_key.as_bytes());
        let signature = Signature::from_slice(&signature).unwrap();
        log_key.verify(text.as_bytes(), &signature).unwrap();

        let time_key = keys.time.signing.verifying_key();
        let signature = unpack(time, "relay.example.org/time", 4, time_key.as_bytes());
        assert_eq!(signature[..8], 1_700_000_000u64.to_be_bytes());
        let message = format!("cosignature/v1\ntime 1700000000\n{text}");
        let signature = Signature::from_slice(&signature[8..]).unwrap();
        time_key.verify(message.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn the_key_list_is_signed_by_the_log_key() {
        let keys = keys("relay.example.org", 1);
        let list = keys.key_list();
        let note = Note::parse(&list).unwrap();
        let named = parse_key_list(note.text).unwrap();
        assert_eq!(named, ("relay.example.org", keys.time_vkey().clone()));
        let [line] = &note.signatures[..] else { panic!("one line") };
        assert_eq!((line.name, line.key_id), ("relay.example.org", keys.log_vkey().key_id));
        let signature = Signature::from_slice(&line.signature).unwrap();
        keys.log.signing.verifying_key().verify(note.text.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn only_our_own_notes_are_our_own() {
        let keys = keys("a", 1);
        let good = keys.sign_head(3, [5; 32], 9);
        assert_eq!(keys.verify_own(&good), Ok(OwnHead { size: 3, root: [5; 32], time: 9 }));

        let text = String::from_utf8(good).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let join = |parts: &[&str]| parts.iter().map(|l| format!("{l}\n")).collect::<String>();
        let (body, log, time) = (join(&lines[..4]), join(&lines[4..5]), join(&lines[5..]));
        let other = String::from_utf8(self::keys("a", 9).sign_head(3, [5; 32], 9)).unwrap();
        let later = String::from_utf8(keys.sign_head(3, [5; 32], 10)).unwrap();
        let later = format!("{}\n", later.lines().last().unwrap());
        let renamed = self::keys("b", 1).sign_head(3, [5; 32], 9);
        for (bad, why) in [
            (text.replace("\n3\n", "\n4\n"), OwnNoteError::Signature),
            (other, OwnNoteError::Signers),
            (format!("{body}{log}"), OwnNoteError::Signers),
            (format!("{body}{time}{log}"), OwnNoteError::Signers),
            (format!("{body}{log}{time}{later}"), OwnNoteError::Signers),
            (format!("x{text}"), OwnNoteError::Origin),
            (String::from_utf8(renamed).unwrap(), OwnNoteError::Origin),
            (text.replacen("\n3\n", "\n03\n", 1), OwnNoteError::Text(TextError::Number)),
            (String::new(), OwnNoteError::Text(TextError::Lines)),
        ] {
            assert_eq!(keys.verify_own(bad.as_bytes()), Err(why), "{bad}");
        }
        assert!(keys.verify_own(format!("{body}{log}{later}").as_bytes()).is_ok());
    }

    #[test]
    fn the_first_start_makes_keys_and_the_next_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let first = LogKeys::open(dir.path(), None).unwrap();
        let hash = Sha256::digest(first.log_vkey().key);
        assert_eq!(first.origin().as_str(), format!("nexo-{}", to_hex(&hash[..8])));
        assert_eq!(first.time_vkey().name, format!("{}/time", first.origin()));
        assert_ne!(first.time_vkey().key, first.log_vkey().key);
        for file in [LOG_KEY_FILE, TIME_KEY_FILE] {
            let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let again = LogKeys::open(dir.path(), Some(first.origin())).unwrap();
        assert_eq!(again.log_vkey(), first.log_vkey());
        assert_eq!(again.key_list(), first.key_list());
        let shown = format!("{again:?}");
        let secret = nexo_schema::bytes::to_base64(again.log.signing.as_bytes());
        assert!(!shown.contains(&secret[1..40]));
    }

    #[test]
    fn another_origin_is_refused_and_may_be_taken_by_rename() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (origin("old.example"), origin("new.example"));
        let first = LogKeys::open(dir.path(), Some(&old)).unwrap();
        assert_eq!(LogKeys::open(dir.path(), None).unwrap().origin(), &old);
        let Err(KeyError::OriginChanged { kept, asked }) = LogKeys::open(dir.path(), Some(&new))
        else {
            panic!("took another origin")
        };
        assert_eq!((&kept, &asked), (&old, &new));
        let renamed = LogKeys::rename(dir.path(), &new).unwrap();
        assert_eq!(renamed.origin(), &new);
        assert_eq!(renamed.log_vkey().key, first.log_vkey().key);
        assert_ne!(renamed.log_vkey().key_id, first.log_vkey().key_id);
        assert_eq!(LogKeys::open(dir.path(), None).unwrap().time_vkey().name, "new.example/time");
    }

    #[test]
    fn lost_and_mixed_up_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        LogKeys::open(dir.path(), None).unwrap();
        LogKeys::open(other.path(), None).unwrap();
        let (log, time) = (dir.path().join(LOG_KEY_FILE), dir.path().join(TIME_KEY_FILE));
        fs::copy(other.path().join(TIME_KEY_FILE), &time).unwrap();
        let refused = LogKeys::open(dir.path(), None);
        assert!(matches!(refused, Err(KeyError::Strangers { .. })));
        fs::remove_file(&log).unwrap();
        let refused = LogKeys::open(dir.path(), None);
        assert!(matches!(refused, Err(KeyError::LogKeyMissing { .. })));
        assert!(!log.exists(), "no new log key is made");
        fs::copy(&time, &log).unwrap();
        assert!(matches!(LogKeys::open(dir.path(), None), Err(KeyError::File(_))));
    }

    #[test]
    fn servers_that_start_at_the_same_moment_use_one_pair_of_keys() {
        for round in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let (start, asked) = (Barrier::new(4), origin("relay.example.org"));
            // Asked for a name by some, by none and by all.
            let open = |n: u32| {
                let (dir, start) = (dir.path(), &start);
                let asked = (n < round % 5).then_some(&asked);
                move || {
                    start.wait();
                    LogKeys::open(dir, asked)
                }
            };
            let all: Vec<_> = thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|n| scope.spawn(open(n))).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let kept = LogKeys::open(dir.path(), None).unwrap();
            for keys in all {
                match keys {
                    Ok(keys) => assert_eq!(keys.key_list(), kept.key_list()),
                    // Who came too late with a wish is told so, and signs nothing.
                    Err(KeyError::OriginChanged { kept: name, .. }) => {
                        assert!(name == *kept.origin() && name != asked);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn a_crash_between_the_two_key_files_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let first = LogKeys::open(dir.path(), None).unwrap();
        fs::remove_file(dir.path().join(TIME_KEY_FILE)).unwrap();
        let again = LogKeys::open(dir.path(), None).unwrap();
        assert_eq!(again.log_vkey(), first.log_vkey());
        assert!(dir.path().join(TIME_KEY_FILE).exists());
    }
}
