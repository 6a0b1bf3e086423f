//! Files of the auditor's own: private, replaced whole, and durable when a write returns.
//!
//! Replacing writes a new file beside the old one, syncs it, renames it over the old one and
//! syncs the folder. A crash leaves the old file or the new one. The name of the new file is
//! always the same: a lock keeps other audits away, and what a crash left is removed first. So is
//! a link that somebody put there, which would otherwise be written through.
//!
//! The state file, the heads beside it, an audit's progress and the spool of a watch are kept
//! this way. Evidence is not: it is for others to read (`evidence/store.rs`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(crate) struct FileError {
    /// The file or folder.
    pub(crate) path: PathBuf,
    /// What the operating system said.
    pub(crate) source: io::Error,
}

/// Replaces the file at `path` by these bytes, for good when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let new = beside(path, "new");
    write_new(&new, bytes).map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))?;
    sync_folder(folder(path))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The bytes of the file at `path`, of which no more than `limit` are read; `None` when there is
/// no file.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(Some(bytes))
}

/// The file at `path` for reading; `None` when there is none.
pub(crate) fn open(path: &Path) -> Result<Option<File>, FileError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// An advisory lock on the file at `path`, which is made and stays empty; it is held until the
/// file is dropped. `None` when somebody else holds it.
pub(crate) fn lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = private().append(true).open(path).map_err(at(path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(at(path)(source)),
    }
}

/// Names the file in an error.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { path, source }
}

/// `<path>.<suffix>`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The folder of a file, by name.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates files that only the owner reads: what an auditor watches is nobody else's business.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder that only the owner enters, and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), FileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(at(path))
}

/// Makes a rename, a new file or a removal durable. Only Unix can sync a folder; elsewhere the
/// operation has to do.
pub(crate) fn sync_folder(path: &Path) -> Result<(), FileError> {
    if !cfg!(unix) {
        return Ok(());
    }
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replaces_a_file_is_there_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        assert_eq!(read(&path, 10).unwrap(), None);
        for text in ["one", "two", ""] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(read(&path, 10).unwrap(), Some(text.as_bytes().to_vec()));
        }
        replace(&path, &[7; 20]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), Some(vec![7; 10]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_place_of_the_new_file_is_not_written_through() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.json"), folder.path().join("other"));
        fs::write(&other, "precious").unwrap();
        symlink(&other, beside(&path, "new")).unwrap();
        replace(&path, b"ours").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        // What a crash left there, readable by all, does not lend its mode.
        let new = beside(&path, "new");
        fs::write(&new, "half").unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"whole").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lock_is_held_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(held.is_some());
        assert!(lock(&path).unwrap().is_none());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
        assert_eq!(lock(folder.path()).unwrap_err().path, folder.path());
    }
}
