//! The auditor's memory: the last head it verified, and the tree under it, in one file.
//!
//! ```text
//! { "schema": "nexo.audit-state/2",
//!   "origin": "...", "log_key": "<vkey>", "time_key": "<vkey>" or null,
//!   "size": 42, "peaks": ["<base64>", ...],         largest subtree first
//!   "head": "<the signed note, verbatim>" }
//! ```
//!
//! The memory is what makes a rollback or fork visible, so it is never trusted on its looks: a
//! file whose head is not signed by its key, or whose peaks do not hash to that head's root, is
//! refused and left as it is. It never goes back to a smaller head. That somebody put an older
//! genuine file back shows in the heads beside it ([`Heads`]), unless they put that back as well;
//! keep both where only the auditor writes. Files of version 1, in which the time key is never
//! null, are read too.
//!
//! Writing replaces the file whole, as the last step of an audit: a crash leaves the old file or
//! the new one. An advisory lock on `<file>.lock` keeps two audits apart, of which the slower
//! could otherwise put its older head back.

mod heads;
mod progress;

pub use heads::{Heads, HeadsError};
#[cfg(test)]
pub(crate) use progress::UNIT;
pub(crate) use progress::{Progress, ProgressFile, UNIT_LEVEL};

use crate::checkpoint::{HeadError, SignedHead};
use crate::encoding::{hash_from_base64, to_base64};
use crate::files::{self, FileError, beside};
use crate::key::{KeyError, LogKey, TimeKey};
use crate::merkle::{CompactRange, PeaksError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

const SCHEMA: &str = "nexo.audit-state/2";
/// Written by the first version, and read for ever.
const SCHEMA_1: &str = "nexo.audit-state/1";
/// Longest file that is read: a note, 63 peaks and two keys are far below.
const MAX_FILE: u64 = 1 << 20;

/// What is remembered of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The key that signed the head.
    pub log_key: LogKey,
    /// The time key the log named last; `None` when it has named none, as a copy of a log may.
    pub time_key: Option<TimeKey>,
    /// The newest head that was verified.
    pub head: SignedHead,
    /// The tree under it.
    pub range: CompactRange,
}

/// Why bytes are not a memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Not JSON of this shape.
    #[error("it is not JSON with the members of an audit state (line {line})")]
    Json {
        /// Line of the first difference.
        line: usize,
    },
    /// Another schema.
    #[error("its schema is not {SCHEMA}; was it written by a newer nexo-audit?")]
    Schema,
    /// A key that is none.
    #[error("one of its keys: {0}")]
    Key(#[from] KeyError),
    /// A head that the key did not sign.
    #[error("its head: {0}")]
    Head(#[from] HeadError),
    /// The origin or the size is not the one of the head.
    #[error("its origin or size is not the one of its head")]
    Contradiction,
    /// The peaks do not belong to the size.
    #[error("its peaks: {0}")]
    Peaks(#[from] PeaksError),
    /// The peaks are not hashes, or do not lead to the root of the head.
    #[error("its peaks do not hash to the root of its head")]
    Root,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    schema: String,
    origin: String,
    log_key: String,
    time_key: Option<String>,
    size: u64,
    peaks: Vec<String>,
    head: String,
}

impl Memory {
    /// Reads and verifies a memory.
    ///
    /// # Errors
    /// [`MemoryError`] names what does not hold.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MemoryError> {
        let stored: Stored = serde_json::from_slice(bytes)
            .map_err(|error| MemoryError::Json { line: error.line() })?;
        let known = match &*stored.schema {
            SCHEMA => true,
            SCHEMA_1 => stored.time_key.is_some(),
            _ => false,
        };
        if !known {
            return Err(MemoryError::Schema);
        }
        let log_key = LogKey::parse(&stored.log_key)?;
        let time_key = stored.time_key.as_deref().map(TimeKey::parse).transpose()?;
        let head = SignedHead::open(stored.head.as_bytes(), &log_key, time_key.as_ref())?;
        if stored.origin != head.checkpoint.origin || stored.size != head.checkpoint.size {
            return Err(MemoryError::Contradiction);
        }
        let peaks = stored.peaks.iter().map(|text| hash_from_base64(text));
        let peaks = peaks.collect::<Option<Vec<_>>>().ok_or(MemoryError::Root)?;
        let range = CompactRange::from_peaks(stored.size, peaks)?;
        if range.root() != head.checkpoint.root {
            return Err(MemoryError::Root);
        }
        Ok(Self { log_key, time_key, head, range })
    }

    /// The memory as the text of its file.
    ///
    /// # Errors
    /// Never for a memory that was verified: the serializer's error is only passed on.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let stored = Stored {
            schema: SCHEMA.to_owned(),
            origin: self.head.checkpoint.origin.clone(),
            log_key: self.log_key.to_string(),
            time_key: self.time_key.as_ref().map(ToString::to_string),
            size: self.range.size(),
            peaks: self.range.peaks().iter().map(|peak| to_base64(peak)).collect(),
            head: self.head.note.clone(),
        };
        serde_json::to_string_pretty(&stored).map(|text| text + "\n")
    }
}

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another audit has it.
    #[error("{} is in use by another audit", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is not a memory that verifies.
    #[error("{}: {cause}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        cause: MemoryError,
    },
    /// The file of accepted heads is not one.
    #[error("{}: {cause}", path.display())]
    Heads {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        cause: HeadsError,
    },
    /// It holds a larger head than the one to be written, or another one of its size.
    #[error("{} has a head of size {held}, and does not go to another of {given}", path.display())]
    Backwards {
        /// The file.
        path: PathBuf,
        /// Size of the head in it.
        held: u64,
        /// Size of the head that was to replace it.
        given: u64,
    },
}

impl From<FileError> for StateError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::Io { path, source }
    }
}

/// The file of a memory, locked for this audit until it is dropped.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Holds the lock; the file itself stays empty.
    _lock: File,
}

impl StateFile {
    /// Locks the state file at `path`, which need not exist; makes its folder (mode 0700).
    ///
    /// # Errors
    /// [`StateError::Busy`] when another audit holds it, [`StateError::Io`] otherwise.
    pub fn lock(path: &Path) -> Result<Self, StateError> {
        files::make_folder(files::folder(path))?;
        match files::lock(&beside(path, "lock"))? {
            Some(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            None => Err(StateError::Busy { path: path.to_owned() }),
        }
    }

    /// The memory in the file; `None` when there is no file.
    ///
    /// # Errors
    /// [`StateError::Invalid`] for a file that does not verify, which stays as it is.
    pub fn load(&self) -> Result<Option<Memory>, StateError> {
        // A longer file is cut here and then is no JSON.
        let Some(bytes) = files::read(&self.path, MAX_FILE)? else { return Ok(None) };
        let invalid = |cause| StateError::Invalid { path: self.path.clone(), cause };
        Memory::from_json(&bytes).map(Some).map_err(invalid)
    }

    /// Every head that was accepted.
    #[must_use]
    pub fn heads(&self) -> Heads {
        Heads::beside(&self.path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the head of `memory` for ever, and replaces the file by it, for good when this
    /// returns.
    ///
    /// # Errors
    /// [`StateError::Backwards`] for a smaller head than the one in the file or the newest one
    /// kept, or another one of that size; nothing is written then. Otherwise the file is the old
    /// one or the new one.
    pub fn save(&self, memory: &Memory) -> Result<(), StateError> {
        let (heads, key) = (self.heads(), &memory.log_key);
        let given = memory.head.checkpoint.size;
        let before = self.load()?;
        let newest = heads.newest(key)?;
        let held = before.iter().map(|held| &held.head).chain(&newest);
        let contradicted = |held: &&SignedHead| {
            let (held, new) = (&held.checkpoint, &memory.head.checkpoint);
            held.size > given || (held.size == given && held.root != new.root)
        };
        if let Some(held) = held.filter(contradicted).map(|head| head.checkpoint.size).max() {
            return Err(StateError::Backwards { path: self.path.clone(), held, given });
        }
        // A state file of version 1 has no heads beside it: the first one is its own.
        if let Some(before) = before.filter(|_| newest.is_none()) {
            heads.append(&before.head, key)?;
        }
        heads.append(&memory.head, key)?;
        let text = memory.to_json().map_err(|e| files::at(&self.path)(io::Error::other(e)))?;
        Ok(files::replace(&self.path, text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::parse_log_keys;
    use crate::testlog::TestLog;
    use serde_json::{Value, json};
    use std::fs;

    fn memory(size: u64) -> Memory {
        let log = TestLog::with(size);
        let log_key = log.signers.log_key();
        let time_key = parse_log_keys(log.signers.key_list().as_bytes(), &log_key).unwrap();
        let note = log.head();
        let head = SignedHead::open(note.as_bytes(), &log_key, Some(&time_key)).unwrap();
        let time_key = Some(time_key);
        let mut range = CompactRange::new();
        log.hashes().into_iter().for_each(|leaf| range.append(leaf));
        Memory { log_key, time_key, head, range }
    }

    fn path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/state.json");
        (folder, path)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        assert_eq!(file.load().unwrap(), None);
        for size in [0, 1, 7, 300] {
            let memory = memory(size);
            file.save(&memory).unwrap();
            assert_eq!(file.load().unwrap(), Some(memory));
        }
        let mut names: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["state.json", "state.json.heads", "state.json.lock"]);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        file.save(&memory(3)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[test]
    fn two_audits_do_not_share_it() {
        let (_folder, path) = path();
        let first = StateFile::lock(&path).unwrap();
        assert!(matches!(StateFile::lock(&path), Err(StateError::Busy { .. })));
        drop(first);
        assert!(StateFile::lock(&path).is_ok());
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_file() {
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        file.save(&memory(3)).unwrap();
        let before = fs::read(&path).unwrap();
        // A folder in the place of the new file: it cannot be opened for writing.
        fs::create_dir(beside(&path, "new")).unwrap();
        assert!(matches!(file.save(&memory(4)), Err(StateError::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn it_never_goes_back() {
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        file.save(&memory(7)).unwrap();
        file.save(&memory(7)).unwrap();
        let (state, heads) = (fs::read(&path).unwrap(), fs::read(file.heads().path()).unwrap());
        let refused = file.save(&memory(6));
        assert!(matches!(refused, Err(StateError::Backwards { held: 7, given: 6, .. })));
        assert_eq!(fs::read(&path).unwrap(), state);
        assert_eq!(fs::read(file.heads().path()).unwrap(), heads);
        let mut fork = memory(7);
        fork.head.checkpoint.root = [9; 32];
        assert!(matches!(file.save(&fork), Err(StateError::Backwards { held: 7, .. })));
        // Nor when an older genuine file was put back, or the file was lost.
        fs::write(&path, memory(3).to_json().unwrap()).unwrap();
        assert!(matches!(file.save(&memory(6)), Err(StateError::Backwards { held: 7, .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(file.save(&memory(6)), Err(StateError::Backwards { held: 7, .. })));
        file.save(&memory(8)).unwrap();
        assert_eq!(file.load().unwrap(), Some(memory(8)));
    }

    #[test]
    fn a_crash_between_the_two_files_is_no_harm() {
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        file.save(&memory(3)).unwrap();
        let old = fs::read(&path).unwrap();
        file.save(&memory(7)).unwrap();
        let heads = fs::read(file.heads().path()).unwrap();
        fs::write(&path, old).unwrap();
        file.save(&memory(7)).unwrap();
        assert_eq!(file.load().unwrap(), Some(memory(7)));
        assert_eq!(fs::read(file.heads().path()).unwrap(), heads, "no head is there twice");
    }

    #[test]
    fn a_file_of_version_1_is_read_and_its_head_is_kept() {
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        let mut old: Value = serde_json::from_str(&memory(7).to_json().unwrap()).unwrap();
        old["schema"] = json!("nexo.audit-state/1");
        fs::write(&path, old.to_string()).unwrap();
        assert_eq!(file.load().unwrap(), Some(memory(7)));
        file.save(&memory(9)).unwrap();
        let key = memory(0).log_key;
        let heads: Vec<_> =
            file.heads().milestones(&key).unwrap().map(|head| head.unwrap().size).collect();
        assert_eq!(heads, [7, 9]);
        // Version 1 always had a time key.
        old["time_key"] = Value::Null;
        fs::write(&path, old.to_string()).unwrap();
        assert!(matches!(file.load(), Err(StateError::Invalid { .. })));
        old["schema"] = json!(SCHEMA);
        fs::write(&path, old.to_string()).unwrap();
        assert_eq!(file.load().unwrap().unwrap().time_key, None);
    }

    #[test]
    fn a_poisoned_file_is_refused_and_kept() {
        let (_folder, path) = path();
        let file = StateFile::lock(&path).unwrap();
        let good: Value = serde_json::from_str(&memory(7).to_json().unwrap()).unwrap();
        let other: Value = serde_json::from_str(&memory(6).to_json().unwrap()).unwrap();
        let stranger = crate::testlog::Signers::other("log.example").log_key().to_string();
        let zero = to_base64(&[0; 32]);
        let with = |member: &str, value: Value| {
            let mut bad = good.clone();
            bad[member] = value;
            bad
        };
        for bad in [
            with("schema", json!("nexo.audit-state/3")),
            with("origin", json!("elsewhere")),
            with("size", json!(6)),
            with("size", json!(11)), // as many peaks as 7, and so the same root
            with("size", json!(-1)),
            with("size", Value::Null),
            with("peaks", json!([zero, zero, zero])),
            with("peaks", json!([good["peaks"][1], good["peaks"][0], good["peaks"][2]])),
            with("peaks", json!([good["peaks"][0], good["peaks"][1]])),
            with("peaks", json!(["", "", ""])),
            with("peaks", other["peaks"].clone()),
            with("head", other["head"].clone()),
            with("head", json!(good["head"].as_str().unwrap().replacen("\n7\n", "\n8\n", 1))),
            with("log_key", json!(stranger)),
            with("log_key", good["time_key"].clone()),
            with("time_key", json!("")),
            json!([]),
        ] {
            let bytes = serde_json::to_vec(&bad).unwrap();
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(file.load(), Err(StateError::Invalid { .. })), "{bad}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        for junk in [&b""[..], b"{", b"\0\0\0", &vec![b' '; (1 << 20) + 1]] {
            fs::write(&path, junk).unwrap();
            assert!(matches!(file.load(), Err(StateError::Invalid { .. })));
        }
        fs::write(&path, good.to_string()).unwrap();
        assert_eq!(file.load().unwrap(), Some(memory(7)));
    }
}
