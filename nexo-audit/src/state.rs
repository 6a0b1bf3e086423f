//! The auditor's memory: the last head it verified, and the tree under it, in one file.
//!
//! ```text
//! { "schema": "nexo.audit-state/1",
//!   "origin": "...", "log_key": "<vkey>", "time_key": "<vkey>",
//!   "size": 42, "peaks": ["<base64>", ...],         largest subtree first
//!   "head": "<the signed note, verbatim>" }
//! ```
//!
//! The memory is what makes a rollback or fork visible, so it is never trusted on its looks: a
//! file whose head is not signed by its key, or whose peaks do not hash to that head's root, is
//! refused and left as it is. What it cannot know is that somebody put an older genuine file
//! back; keep it where only the auditor writes.
//!
//! Writing replaces the file whole: a new file beside it, synced, renamed over it, and the folder
//! synced. A crash leaves the old file or the new one. An advisory lock on `<file>.lock` keeps
//! two audits apart, of which the slower could otherwise put its older head back.

use crate::checkpoint::{HeadError, SignedHead};
use crate::encoding::{hash_from_base64, to_base64};
use crate::key::{KeyError, LogKey, TimeKey};
use crate::merkle::{CompactRange, PeaksError};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const SCHEMA: &str = "nexo.audit-state/1";
/// Longest file that is read: a note, 63 peaks and two keys are far below.
const MAX_FILE: u64 = 1 << 20;

/// What is remembered of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The key that signed the head.
    pub log_key: LogKey,
    /// The time key the log named last.
    pub time_key: TimeKey,
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
    time_key: String,
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
        if stored.schema != SCHEMA {
            return Err(MemoryError::Schema);
        }
        let log_key = LogKey::parse(&stored.log_key)?;
        let time_key = TimeKey::parse(&stored.time_key)?;
        let head = SignedHead::open(stored.head.as_bytes(), &log_key, Some(&time_key))?;
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
            time_key: self.time_key.to_string(),
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
        make_folder(folder(path)).map_err(at(folder(path)))?;
        let lock_path = beside(path, "lock");
        let lock = private().append(true).open(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(at(&lock_path)(source)),
        }
    }

    /// The memory in the file; `None` when there is no file.
    ///
    /// # Errors
    /// [`StateError::Invalid`] for a file that does not verify, which stays as it is.
    pub fn load(&self) -> Result<Option<Memory>, StateError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&self.path)(error)),
        };
        let mut bytes = Vec::new();
        // A longer file is cut here and then is no JSON.
        file.take(MAX_FILE).read_to_end(&mut bytes).map_err(at(&self.path))?;
        let invalid = |cause| StateError::Invalid { path: self.path.clone(), cause };
        Memory::from_json(&bytes).map(Some).map_err(invalid)
    }

    /// Replaces the file by `memory`, for good when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; the file is then the old one or the new one.
    pub fn save(&self, memory: &Memory) -> Result<(), StateError> {
        let text = memory.to_json().map_err(|e| at(&self.path)(io::Error::other(e)))?;
        // One name is enough: the lock keeps other audits away, and a crash leaves a file that
        // the next one overwrites.
        let new = beside(&self.path, "new");
        let write = || {
            let mut file = private().write(true).truncate(true).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(at(&new))?;
        fs::rename(&new, &self.path).map_err(at(&self.path))?;
        sync_folder(folder(&self.path)).map_err(at(folder(&self.path)))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates files that only the owner reads: what an auditor watches is nobody else's business.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a rename durable. Only Unix can sync a folder; elsewhere the rename has to do.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::parse_log_keys;
    use crate::testlog::TestLog;
    use serde_json::{Value, json};

    fn memory(size: u64) -> Memory {
        let log = TestLog::with(size);
        let log_key = log.signers.log_key();
        let time_key = parse_log_keys(log.signers.key_list().as_bytes(), &log_key).unwrap();
        let note = log.head();
        let head = SignedHead::open(note.as_bytes(), &log_key, Some(&time_key)).unwrap();
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
        assert_eq!(names, ["state.json", "state.json.lock"]);
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
            with("schema", json!("nexo.audit-state/2")),
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
