//! Secret columns: sealed under the state key, each tied to its table, row and version.
//!
//! ```text
//! column = nx_seal(DEK, "nexo/1/store/<table>",
//!                  aad = enc("nexo/1/store-row", [column, key of the row, version u64]), secret)
//! state.key = 64 lower-case hex digits LF; what the DEK is sealed under ([`super::wrap`])
//! ```
//!
//! What this protects: a copied, leaked or backed-up `state.db` without the key gives away no
//! key and no text, and rows cannot be swapped. What it does not: with the key in the same
//! directory (the default) whoever copies the directory has both, so keep the key elsewhere
//! with `--state-key-file`, or use a passphrase, where backups are taken; and it hides neither who wrote to whom and
//! when, nor does it stop the whole file from being put back to an older state (the relay's
//! send counter shows that).

use std::io::Read as _;
use std::path::Path;

use nexo_schema::bytes::{enc, from_hex, to_hex};
use zeroize::Zeroizing;

use super::VaultError;
use crate::e2ee::{Purpose, nx_open, nx_seal};
use crate::home::{HomeError, private, write_new_private};
use crate::random;

/// Longest key file that is read, bytes; a key has 65.
const MAX_KEY_FILE: u64 = 1024;

/// A key of 32 bytes: that of the sealed columns (DEK), or one that it is sealed under (KEK).
/// Wiped when dropped.
#[derive(Clone)]
pub struct StateKey(Zeroizing<[u8; 32]>);

/// Why there is no state key.
#[derive(Debug, thiserror::Error)]
pub enum StateKeyError {
    /// The file is missing, open to others, or cannot be made.
    #[error(transparent)]
    File(#[from] HomeError),
    /// Not 64 hex digits.
    #[error("{0} does not hold a state key (64 lower-case hex digits)")]
    Form(String),
    /// Empty, or too long.
    #[error("{0} does not hold a passphrase (1 to 1024 bytes)")]
    Passphrase(String),
    /// The memory that a passphrase is tried with is not to be had.
    #[error("this machine cannot do the work that a passphrase takes")]
    Work,
    /// The kernel's keyring refused.
    #[error("the kernel's keyring: {0}")]
    Keyring(String),
    /// No random bytes for a new one.
    #[error(transparent)]
    Random(#[from] random::RandomError),
}

impl StateKey {
    /// Reads the key of a file that only its owner can read.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn read(path: &Path) -> Result<Self, StateKeyError> {
        private(path)?;
        Self::from_open(path)
    }

    /// Reads the key from an open file descriptor, as service managers hand secrets over.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn from_descriptor(fd: u32) -> Result<Self, StateKeyError> {
        // Opening the descriptor by name needs no unsafe code.
        Self::from_open(Path::new(&format!("/dev/fd/{fd}")))
    }

    fn from_open(path: &Path) -> Result<Self, StateKeyError> {
        let bytes = read_bounded(path, MAX_KEY_FILE)?;
        let text = std::str::from_utf8(bytes.trim_ascii_end()).unwrap_or_default();
        let key = from_hex(text).map_err(|_| StateKeyError::Form(path.display().to_string()))?;
        Ok(Self(Zeroizing::new(key)))
    }

    pub(super) fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the key, or makes it if there is no file. Two processes that start at once agree:
    /// the loser of the race reads what the winner wrote.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn read_or_create(path: &Path) -> Result<Self, StateKeyError> {
        if !path.exists() {
            let key = random::secret::<32>()?;
            let text = Zeroizing::new(format!("{}\n", to_hex(&*key)));
            match write_new_private(path, text.as_bytes()) {
                Ok(()) => return Ok(Self(key)),
                Err(HomeError::Exists(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Self::read(path)
    }

    /// A new key, for a state or for a test.
    ///
    /// # Errors
    /// [`random::RandomError`].
    pub fn ephemeral() -> Result<Self, random::RandomError> {
        Ok(Self(random::secret()?))
    }
}

/// At most `limit` bytes of a file, in memory that is wiped.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, HomeError> {
    // Its room is taken at once: a buffer that grows leaves copies behind.
    let room = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| HomeError::Io { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Which column of which row. The version is bumped when a row is rewritten, so an older
/// content of the same row does not pass for the newer one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) table: &'static str,
    pub(super) column: &'static str,
    pub(super) row: &'a [u8],
    pub(super) version: i64,
}

impl Cell<'_> {
    fn aad(&self) -> Vec<u8> {
        let fields: [&[u8]; 3] = [self.column.as_bytes(), self.row, &self.version.to_be_bytes()];
        enc("nexo/1/store-row", &fields)
    }
}

/// Seals and opens columns.
pub(super) struct Sealer(pub(super) StateKey);

impl Sealer {
    pub(super) fn seal(&self, cell: &Cell<'_>, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let hedge = random::array::<32>()?;
        Ok(nx_seal(&self.0.0, Purpose::Store(cell.table), &cell.aad(), secret, &hedge))
    }

    pub(super) fn open(
        &self,
        cell: &Cell<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        nx_open(&self.0.0, Purpose::Store(cell.table), &cell.aad(), sealed)
            .map_err(|_| VaultError::Corrupt { table: cell.table, what: "a sealed column" })
    }

    /// As [`Sealer::open`], for text.
    pub(super) fn open_text(
        &self,
        cell: &Cell<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<String>, VaultError> {
        let bytes = self.open(cell, sealed)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| VaultError::Corrupt { table: cell.table, what: "a text" })?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_column_opens_in_its_own_row_and_version_only() {
        let sealer = Sealer(StateKey::ephemeral().unwrap());
        let cell = Cell { table: "inbox", column: "text", row: b"1", version: 1 };
        let sealed = sealer.seal(&cell, b"secret").unwrap();
        assert_eq!(&sealer.open(&cell, &sealed).unwrap()[..], b"secret");
        for other in [
            Cell { table: "outbox", ..cell },
            Cell { column: "seed", ..cell },
            Cell { row: b"2", ..cell },
            Cell { version: 2, ..cell },
        ] {
            assert!(sealer.open(&other, &sealed).is_err(), "{other:?}");
        }
        let foreign = Sealer(StateKey::ephemeral().unwrap());
        assert!(foreign.open(&cell, &sealed).is_err());
    }

    #[test]
    fn the_key_file_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.key");
        let made = StateKey::read_or_create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*StateKey::read_or_create(&path).unwrap().0, *made.0);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(StateKey::read(&path).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (at, content) in ["", "00", &"A".repeat(64), &"0".repeat(65)].into_iter().enumerate() {
            let path = dir.path().join(at.to_string());
            write_new_private(&path, content.as_bytes()).unwrap();
            assert!(matches!(StateKey::read(&path), Err(StateKeyError::Form(_))), "{content:?}");
        }
        assert!(StateKey::read(&dir.path().join("none")).is_err());
    }
}
