//! The directory of one identity: where it is, who may read it, and its lock.
//!
//! ```text
//! home/            0700
//!   state.db       0600   everything (vault)
//!   state.key      0600   the state key, unless --state-key-file names another
//!   state.lock     0600   held while state.db is written; contains the holder's pid
//!   recovery.key   0600   made at registration; to be moved offline
//!   evidence/      0700   signed heads that contradict each other
//! ```
//!
//! Permissions are set when a file is made, not left to the umask, and checked at each start.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// How often a busy lock is tried again. There is no fair queue: short waits share it well.
const LOCK_POLL: Duration = Duration::from_millis(5);

/// File systems on which locks and WAL do not do what SQLite needs, or only on one host.
const NETWORK_FS: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "9p",
    "ceph",
    "glusterfs",
    "lustre",
    "ocfs2",
    "gfs2",
    "ncpfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.gcsfuse",
];

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Others can read or write it.
    #[error("{} is open to others (mode {mode:04o})", path.display())]
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

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process held it all the time.
    #[error("the state is locked by process {holder}; waited {waited} seconds")]
    Busy {
        /// The holder's pid, as it wrote it; `?` if it wrote none.
        holder: String,
        /// Seconds.
        waited: u64,
    },
    /// The file system refused.
    #[error("state.lock: {0}")]
    Io(#[from] std::io::Error),
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
        for name in ["state.db", "state.key", "state.lock"] {
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
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => HomeError::Exists(path.to_owned()),
        _ => io(path, e),
    })?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(|e| io(path, e))?;
    // The name is durable only with its directory.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io(parent, e))
}

/// Refuses a file or directory with any permission for group or others.
///
/// # Errors
/// [`HomeError::Open`], or that it cannot be looked at.
pub fn private(path: &Path) -> Result<(), HomeError> {
    let mode = path.metadata().map_err(|e| io(path, e))?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(HomeError::Open { path: path.to_owned(), mode }) }
}

/// The lock of the state. It goes with the process, however that ends.
#[derive(Debug)]
pub struct StateLock {
    path: PathBuf,
    patience: Duration,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held for its drop, which unlocks")] File);

impl StateLock {
    /// The lock of `home`; waiting for it ends after `patience`.
    #[must_use]
    pub fn of(home: &Home, patience: Duration) -> Self {
        Self { path: home.file("state.lock"), patience }
    }

    /// Takes the lock. Never hold it across the network or a prompt.
    ///
    /// # Errors
    /// [`LockError`].
    pub async fn take(&self) -> Result<Held, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&self.path)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() >= self.patience => {
                    return Err(LockError::Busy {
                        holder: holder(&mut file),
                        waited: self.patience.as_secs(),
                    });
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
                Err(TryLockError::Error(e)) => return Err(e.into()),
            }
        }
        // For the message of those who wait; fixed width, so a shorter pid leaves nothing over.
        file.rewind()?;
        file.write_all(format!("{:<10}\n", std::process::id()).as_bytes())?;
        Ok(Held(file))
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let pid = text.trim();
    let plain = read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    if plain { pid.to_owned() } else { "?".to_owned() }
}

/// `statfs` would need unsafe code, so the kernel's text table is asked. Where there is none
/// (not Linux), nothing is refused.
fn refuse_network_fs(path: &Path) -> Result<(), HomeError> {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return Ok(()) };
    match file_system_of(path, &table) {
        Some(kind) if NETWORK_FS.contains(&kind.as_str()) => {
            Err(HomeError::NetworkFs { path: path.to_owned(), kind })
        }
        _ => Ok(()),
    }
}

/// The type of the file system `path` is on: that of the longest mount point above it, the
/// last one mounted there.
///
/// ```text
/// 36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw     (proc(5))
/// ```
fn file_system_of(path: &Path, table: &str) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in table.lines() {
        let (mount, rest) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        let kind = rest.split(' ').next()?;
        let depth = point.components().count();
        if path.starts_with(&point) && best.is_none_or(|(length, _)| depth >= length) {
            best = Some((depth, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Mount points write space, tab, line end and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let plain = text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n");
    PathBuf::from(plain.replace("\\134", "\\"))
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
    fn a_home_is_made_private_and_refused_when_it_is_not() {
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
    fn without_state_there_is_no_home() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Home::existing(&dir.path().join("none"), true).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_busy_lock_names_its_holder_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        let lock = StateLock::of(&home, Duration::from_millis(30));
        let held = lock.take().await.unwrap();
        match lock.take().await {
            Err(LockError::Busy { holder, .. }) => {
                assert_eq!(holder, std::process::id().to_string());
            }
            other => panic!("{other:?}"),
        }
        drop(held);
        lock.take().await.unwrap();
        assert_eq!(mode(&home.file("state.lock")), 0o600);
    }

    #[test]
    fn the_longest_and_last_mount_decides() {
        let table = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 0:41 / /home/a\\040b rw - tmpfs tmpfs rw
32 22 0:42 / /mnt rw - ext4 /dev/sdb rw
33 32 0:43 / /mnt rw master:2 - fuse.sshfs host: rw
";
        for (path, kind) in [
            ("/etc", "ext4"),
            ("/home/x", "nfs4"),
            ("/homes", "ext4"),
            ("/home/a b/c", "tmpfs"),
            ("/mnt/x", "fuse.sshfs"),
        ] {
            assert_eq!(file_system_of(Path::new(path), table).as_deref(), Some(kind), "{path}");
        }
        assert!(NETWORK_FS.contains(&"nfs4") && !NETWORK_FS.contains(&"tmpfs"));
        assert_eq!(file_system_of(Path::new("/"), "garbage"), None);
    }
}
