//! Why a SQLite database cannot be opened, in words that name a path and say what to do.
//!
//! SQLite's own words name no file ("attempt to write a readonly database"). So when a database
//! did not open, its folder and its files are tried one by one. Of one that opens nothing is
//! asked: closing a file gives up the locks that this process holds on it (SQLite, "How To
//! Corrupt", 2.2).

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use nexo_schema::bytes::to_hex;

use super::StoreError;

/// What SQLite keeps beside a database while it is open, and the database itself.
const FILES: [&str; 3] = ["", "-wal", "-shm"];

/// A bit more than the smallest thing that SQLite writes: a page and its header in the journal.
const ROOM: usize = 8192;

/// The first path that cannot be written of those that a database needs, if there is one.
pub(super) fn unwritable(database: &Path) -> Option<StoreError> {
    let folder = match database.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let blame = |path: &Path, source: io::Error| {
        let remedy = remedy(source.kind());
        Some(StoreError::Unwritable { path: path.to_owned(), source, remedy })
    };
    for file in FILES.map(|suffix| with_suffix(database, suffix)) {
        match OpenOptions::new().append(true).open(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return blame(&file, error),
            _ => {}
        }
    }
    try_folder(database).err().and_then(|error| blame(folder, error))
}

/// Makes a file beside the database, writes it and removes it.
fn try_folder(database: &Path) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    let probe = with_suffix(database, &format!(".{}", to_hex(&random)));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&probe)?;
    let written = file.write_all(&[0; ROOM]);
    fs::remove_file(&probe)?;
    written
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "make it first",
        ErrorKind::PermissionDenied => "let the user that runs nexo-server write it (chown, chmod)",
        ErrorKind::ReadOnlyFilesystem => "mount its disk for writing",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "make room on its disk"
        }
        _ => "look at its disk",
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Database, Store};
    use super::*;

    fn refusal(database: &Path) -> (PathBuf, String) {
        match Store::open(&Database::File(database.to_owned())).map(drop) {
            Err(StoreError::Unwritable { path, source, remedy }) => {
                let error = StoreError::Unwritable { path: path.clone(), source, remedy };
                (path, error.to_string())
            }
            other => panic!("{}: {other:?}", database.display()),
        }
    }

    // Modes do not bind root, who may run the tests; tests/faults.rs has them.
    #[test]
    fn a_database_that_cannot_be_made_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (path, said) = refusal(&dir.path().join("missing/nexo.db"));
        assert_eq!(path, dir.path().join("missing"));
        assert!(
            said.starts_with(path.to_str().unwrap()) && said.ends_with("make it first"),
            "{said}"
        );
        let folder = dir.path().join("nexo.db");
        fs::create_dir(&folder).unwrap();
        assert_eq!(refusal(&folder).0, folder);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left");
    }

    #[test]
    fn a_database_that_is_none_is_not_blamed_on_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nexo.db");
        fs::write(&path, "this is no database at all, however long it is".repeat(99)).unwrap();
        let refused = Store::open(&Database::File(path)).map(drop);
        assert!(matches!(refused, Err(StoreError::Db(_))), "{refused:?}");
    }
}
