//! The JWT secret: configured, or kept in a file of the data directory.
//!
//! ```text
//! jwt.secret   64 lower-case hex digits LF       mode 0600
//! ```
//!
//! The text is the secret, so `JWT_SECRET="$(cat jwt.secret)"` on another replica is the same
//! one. This is also the key of refresh-token successors (`auth/token.rs`).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nexo_schema::bytes::to_hex;
use zeroize::Zeroizing;

use crate::private_file;

/// Least bytes of a secret: the strength of HMAC-SHA256 (RFC 7518 section 3.2).
const LEAST: usize = 32;
/// A secret file longer than this is not one.
const MOST: usize = 4096;
/// Fewer different bytes than a random secret of the least length can plausibly have.
const LEAST_VARIETY: usize = 8;
/// Parts of secrets that stand in documentation and examples, in lower case.
const PUBLISHED: [&str; 9] = [
    "dev_secret_change_me",
    "change_me",
    "change-me",
    "changeme",
    "your-256-bit-secret",
    "a-string-secret-at-least-256-bits-long",
    "your_secret",
    "supersecret",
    "password",
];

/// A secret that is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakSecret {
    /// Fewer than 32 bytes.
    #[error("the JWT secret is shorter than {LEAST} bytes; try: openssl rand -hex 32")]
    Short,
    /// A default that everybody knows.
    #[error("the JWT secret is a published default; try: openssl rand -hex 32")]
    Published,
    /// A pattern.
    #[error("the JWT secret repeats a few characters; try: openssl rand -hex 32")]
    Pattern,
}

/// Why there is no JWT secret. Never quotes one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is weak.
    #[error(transparent)]
    Weak(#[from] WeakSecret),
    /// Its file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("{}: mode {mode:03o} lets others at the secret; delete it (all log in again) or chmod 600 it", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is far longer than a secret.
    #[error("{}: longer than {MOST} bytes", path.display())]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("no random bytes for a JWT secret: {0}")]
    Random(getrandom::Error),
}

/// The key of access tokens. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct ServerSecret(Zeroizing<Vec<u8>>);

impl ServerSecret {
    /// Takes bytes that may be a secret.
    ///
    /// # Errors
    /// [`WeakSecret`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, WeakSecret> {
        let bytes = Zeroizing::new(bytes);
        // A known default is named as such, however short.
        let lower = Zeroizing::new(bytes.to_ascii_lowercase());
        let holds = |part: &str| lower.windows(part.len()).any(|window| window == part.as_bytes());
        if PUBLISHED.iter().any(|part| holds(part)) {
            return Err(WeakSecret::Published);
        }
        if bytes.len() < LEAST {
            return Err(WeakSecret::Short);
        }
        let mut seen = [false; 256];
        bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
        if seen.iter().filter(|seen| **seen).count() < LEAST_VARIETY {
            return Err(WeakSecret::Pattern);
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerSecret(..)")
    }
}

/// A secret that the operator keeps in a file. Its mode is the operator's business: secrets
/// mounted into containers are often readable for all in there.
pub(super) fn read(path: &Path) -> Result<ServerSecret, SecretError> {
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    read_from(file, path)
}

/// Our own secret file; made if it is not there.
pub(super) fn open_or_make(path: &Path) -> Result<ServerSecret, SecretError> {
    if let Some(secret) = open(path)? {
        return Ok(secret);
    }
    match make(path) {
        // Another process made it between our two looks; then that one is the secret.
        Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    open(path)?.ok_or_else(|| io_error(path, io::ErrorKind::NotFound.into()))
}

fn open(path: &Path) -> Result<Option<ServerSecret>, SecretError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|source| io_error(path, source))?,
    };
    let mode = file.metadata().map_err(|source| io_error(path, source))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SecretError::OpenToOthers { path: path.to_owned(), mode: mode & 0o777 });
    }
    read_from(file, path).map(Some)
}

fn read_from(file: File, path: &Path) -> Result<ServerSecret, SecretError> {
    // As large as can be from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST + 1));
    file.take(MOST as u64 + 1).read_to_end(&mut bytes).map_err(|source| io_error(path, source))?;
    if bytes.len() > MOST {
        return Err(SecretError::Long { path: path.to_owned() });
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Ok(ServerSecret::parse(text.to_vec())?)
}

/// Writes a new secret; fails if there is one already.
fn make(path: &Path) -> Result<(), SecretError> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).map_err(SecretError::Random)?;
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(to_hex(&*random))));
    private_file::create(path, text.as_bytes()).map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> SecretError {
    SecretError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn weak_secrets_are_refused() {
        let parse = |text: &str| ServerSecret::parse(text.as_bytes().to_vec()).err();
        for (text, why) in [
            ("", WeakSecret::Short),
            ("V8t3kq1LwZx9Rb7mNc5Yd2Hf6Jg4Ps0", WeakSecret::Short),
            ("dev_secret_change_me", WeakSecret::Published),
            ("DEV_SECRET_CHANGE_ME_0123456789abcdef", WeakSecret::Published),
            ("a-string-secret-at-least-256-bits-long", WeakSecret::Published),
            (&"a".repeat(64), WeakSecret::Pattern),
            (&"abcdefg".repeat(9), WeakSecret::Pattern),
            (&"\0".repeat(32), WeakSecret::Pattern),
        ] {
            assert_eq!(parse(text), Some(why), "{text}");
        }
        assert_eq!(parse("V8t3kq1LwZx9Rb7mNc5Yd2Hf6Jg4Ps0A"), None);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = ServerSecret::parse(b"V8t3kq1LwZx9Rb7mNc5Yd2Hf6Jg4Ps0A".to_vec()).unwrap();
        assert_eq!(format!("{secret:?}"), "ServerSecret(..)");
    }

    #[test]
    fn a_secret_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwt.secret");
        let first = open_or_make(&path).unwrap();
        assert_eq!(open_or_make(&path).unwrap().as_bytes(), first.as_bytes());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim_end().as_bytes(), first.as_bytes());
        assert_eq!(text.len(), 65);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(make(&path).is_err());
        let other = open_or_make(&dir.path().join("other.secret")).unwrap();
        assert_ne!(other.as_bytes(), first.as_bytes());
    }

    #[test]
    fn servers_that_start_at_the_same_moment_use_one_secret() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let (path, start) = (dir.path().join("jwt.secret"), Barrier::new(4));
            let open = || {
                start.wait();
                open_or_make(&path).unwrap()
            };
            let all: Vec<ServerSecret> = thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let kept = open_or_make(&path).unwrap();
            assert!(all.iter().all(|secret| secret.as_bytes() == kept.as_bytes()));
        }
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwt.secret");
        open_or_make(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = open_or_make(&path);
            assert!(matches!(refused, Err(SecretError::OpenToOthers { mode: m, .. }) if m == mode));
            assert!(read(&path).is_ok());
        }
    }

    #[test]
    fn damaged_files_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwt.secret");
        for text in ["", "\n", "short", &"a".repeat(5000)] {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(open_or_make(&path).is_err(), "{text:.9}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_line_end_is_no_part_of_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for end in ["", "\n", "\r\n"] {
            fs::write(&path, format!("V8t3kq1LwZx9Rb7mNc5Yd2Hf6Jg4Ps0A{end}")).unwrap();
            assert_eq!(read(&path).unwrap().as_bytes(), b"V8t3kq1LwZx9Rb7mNc5Yd2Hf6Jg4Ps0A");
        }
    }
}
