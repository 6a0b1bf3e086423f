//! SQLite's files: which ones there are, and whether anybody has them open.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

/// Why a database's file cannot be had alone.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Another process has it open.
    #[error("{}: a process has the database open; stop the server first ({source})", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: diesel::result::Error,
    },
    /// It cannot be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: ConnectionError,
    },
}

/// Fails while any process has the SQLite file open; afterwards its journal is in the one file.
///
/// # Errors
/// [`FileError`].
pub fn lock_out(path: &Path) -> Result<(), FileError> {
    let open = |source| FileError::Open { path: path.to_owned(), source };
    let mut conn = SqliteConnection::establish(&path.to_string_lossy()).map_err(open)?;
    // In this mode SQLite wants the file for itself, and every open connection of a server
    // holds a part of it.
    let alone = "PRAGMA busy_timeout = 2000; PRAGMA locking_mode = EXCLUSIVE; \
         BEGIN EXCLUSIVE; COMMIT; PRAGMA wal_checkpoint(TRUNCATE);";
    let in_use = |source| FileError::InUse { path: path.to_owned(), source };
    conn.batch_execute(alone).map_err(in_use)
}

/// The names under which a SQLite database may have files.
#[must_use]
pub fn database_files(path: &Path) -> Vec<PathBuf> {
    let named = |end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        PathBuf::from(name)
    };
    ["", "-wal", "-shm"].map(named).into()
}
