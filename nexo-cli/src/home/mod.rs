//! The directory of one identity: where it is, who may read it, and its lock.
//!
//! ```text
//! home/            0700
//!   state.db       0600   everything (vault)
//!   state.db.old   0600   for a week: as it was before a newer program changed its tables
//!   state.key      0600   the key it is sealed under, unless another or a passphrase was named
//!   state.lock     0600   held while state.db is written; contains the holder's pid
//!   login.0 to .3  0600   held while logging in, so that few do so at once
//!   recovery.key   0600   made at registration; to be moved offline
//!   evidence/      0700   signed heads that contradict each other
//! ```
//!
//! Permissions are set when a file is made, not left to the umask, and checked at each start.

mod lock;
mod mounts;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::options::named;
pub use lock::{Held, LockError, StateLock};
use mounts::refuse_network_fs;
use nexo_schema::bytes::enc;
use sha2::{Digest as _, Sha256};

/// The machine's id (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The file system refused.
    #[error("{}: {source}", named(path))]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Others can read or write it.
    #[error("{} is open to others (mode {mode:04o})", named(path))]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// SQLite's locks and WAL are unsafe there.
    #[error("{} is on a network file system ({kind})", path.display())]
    NetworkFs {
        /// The home.
        path: PathBuf,
        /// The file system's type.
        kind: String,
    },
    /// A file that must be made anew is there already.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
}

/// A directory that only its owner can read.
#[derive(Debug, Clone)]
pub struct Home {
    path: PathBuf,
}

impl Home {
    /// Opens the directory, or makes it.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn create(path: &Path, allow_network_fs: bool) -> Result<Self, HomeError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(|e| io(path, e))?;
        Self::checked(path, allow_network_fs)
    }

    /// Opens the directory; `None` if there is no state in it.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn existing(path: &Path, allow_network_fs: bool) -> Result<Option<Self>, HomeError> {
        if !path.join("state.db").exists() {
            return Ok(None);
        }
        Self::checked(path, allow_network_fs).map(Some)
    }

    fn checked(path: &Path, allow_network_fs: bool) -> Result<Self, HomeError> {
        let path = path.canonicalize().map_err(|e| io(path, e))?;
        private(&path)?;
        if !allow_network_fs {
            refuse_network_fs(&path)?;
        }
        let home = Self { path };
        for name in ["state.db", "state.db.old", "state.key", "state.lock"] {
            let file = home.file(name);
            if file.exists() {
                private(&file)?;
            }
        }
        Ok(home)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the state is: this machine and the very file. A copy has another one.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn place(&self) -> Result<[u8; 32], HomeError> {
        // Machines without an id, as containers are, are told apart by the file alone.
        let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
        let state = self.file("state.db");
        let inode = state.metadata().map_err(|e| io(&state, e))?.ino();
        let fields: [&[u8]; 2] = [machine.trim_ascii().as_bytes(), &inode.to_be_bytes()];
        Ok(Sha256::digest(enc("nexo/1/store/place", &fields)).into())
    }

    /// Gives the finished `draft` the name of what it replaces, durably: whoever looks finds the
    /// old file or the whole new one.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn put_in_place(&self, draft: &str, name: &str) -> Result<(), HomeError> {
        let (draft, path) = (self.file(draft), self.file(name));
        File::open(&draft).and_then(|file| file.sync_all()).map_err(|e| io(&draft, e))?;
        std::fs::rename(&draft, &path).map_err(|e| io(&path, e))?;
        sync_dir(&self.path)
    }

    /// Removes a file, durably; there may be none.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn forget(&self, name: &str) -> Result<(), HomeError> {
        let path = self.file(name);
        match std::fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.path),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io(&path, e)),
        }
    }

    /// Removes a file that was written longer ago than `age`.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn forget_older(&self, name: &str, age: Duration) -> Result<(), HomeError> {
        let written = self.file(name).metadata().and_then(|found| found.modified());
        // A time in the future is that of a clock that was wrong: it is not old yet.
        let old = written.is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed > age));
        if old { self.forget(name) } else { Ok(()) }
    }

    /// Makes `evidence/<name>` and returns its path; evidence that is there already stays.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn write_evidence(&self, name: &str, content: &[u8]) -> Result<PathBuf, HomeError> {
        let folder = self.file("evidence");
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(io(&folder, e)),
            _ => {}
        }
        let path = folder.join(name);
        match write_new_private(&path, content) {
            Ok(()) | Err(HomeError::Exists(_)) => Ok(path),
            Err(error) => Err(error),
        }
    }
}

/// Makes a file of mode 0600 that was not there before, durably.
///
/// # Errors
/// [`HomeError::Exists`], or that the file system refused.
pub fn write_new_private(path: &Path, content: &[u8]) -> Result<(), HomeError> {
    if path.symlink_metadata().is_ok() {
        return Err(HomeError::Exists(path.to_owned()));
    }
    let draft = draft_of(path);
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(&draft).map_err(|e| io(&draft, e))?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    // A link is made only where there is nothing: another process sees the whole file or none.
    let placed = written.and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    placed.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => HomeError::Exists(path.to_owned()),
        _ => io(path, e),
    })?;
    // The name is durable only with its directory.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent)
}

fn sync_dir(path: &Path) -> Result<(), HomeError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| io(path, e))
}

/// A name beside `path` that no other process or thread takes.
fn draft_of(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}.{number}.draft", std::process::id()));
    path.with_file_name(name)
}

/// Refuses a file or directory with any permission for group or others.
///
/// # Errors
/// [`HomeError::Open`], or that it cannot be looked at.
pub fn private(path: &Path) -> Result<(), HomeError> {
    let mode = path.metadata().map_err(|e| io(path, e))?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(HomeError::Open { path: path.to_owned(), mode }) }
}

fn io(path: &Path, source: std::io::Error) -> HomeError {
    HomeError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn h9_a_home_is_made_private_and_refused_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let home = Home::create(&path, true).unwrap();
        assert_eq!(mode(home.path()), 0o700);
        set_mode(home.path(), 0o750);
        assert!(matches!(Home::create(&path, true), Err(HomeError::Open { mode: 0o750, .. })));
        set_mode(home.path(), 0o700);
        for name in ["state.db", "state.key", "state.lock"] {
            write_new_private(&home.file(name), b"x").unwrap();
            assert_eq!(mode(&home.file(name)), 0o600);
            set_mode(&home.file(name), 0o604);
            assert!(matches!(Home::create(&path, true), Err(HomeError::Open { .. })), "{name}");
            set_mode(&home.file(name), 0o600);
        }
        assert!(Home::existing(&path, true).unwrap().is_some());
    }

    #[test]
    fn nothing_is_overwritten_and_evidence_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        let path = home.file("recovery.key");
        write_new_private(&path, b"one").unwrap();
        assert!(matches!(write_new_private(&path, b"two"), Err(HomeError::Exists(_))));
        let first = home.write_evidence("e.json", b"one").unwrap();
        assert_eq!(home.write_evidence("e.json", b"two").unwrap(), first);
        assert_eq!(std::fs::read(&first).unwrap(), b"one");
        assert_eq!(mode(first.parent().unwrap()), 0o700);
    }

    #[test]
    fn what_replaces_a_file_is_whole_and_what_is_forgotten_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        for content in [&b"one"[..], b"two"] {
            write_new_private(&home.file("draft"), content).unwrap();
            home.put_in_place("draft", "file").unwrap();
            assert_eq!(std::fs::read(home.file("file")).unwrap(), content);
            assert!(!home.file("draft").exists());
        }
        assert!(matches!(home.put_in_place("draft", "file"), Err(HomeError::Io { .. })));
        home.forget_older("file", Duration::from_secs(3600)).unwrap();
        assert!(home.file("file").exists());
        home.forget("file").unwrap();
        home.forget("file").unwrap();
        home.forget_older("file", Duration::ZERO).unwrap();
        assert!(!home.file("file").exists());
    }

    #[test]
    fn without_state_there_is_no_home() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Home::existing(&dir.path().join("none"), true).unwrap().is_none());
    }
}
