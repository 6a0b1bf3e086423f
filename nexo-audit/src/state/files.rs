//! Files of the auditor's own: private, replaced whole, and durable when a write returns.
//!
//! Replacing writes a new file beside the old one, syncs it, renames it over the old one and
//! syncs the folder. A crash leaves the old file or the new one. The name of the new file is
//! always the same: the lock of the state file keeps other audits away, and what a crash left is
//! overwritten.

use super::StateError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Replaces the file at `path` by these bytes, for good when this returns.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let new = beside(path, "new");
    let write = || {
        let mut file = private().write(true).truncate(true).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(at(&new))?;
    fs::rename(&new, path).map_err(at(path))?;
    sync_folder(folder(path)).map_err(at(folder(path)))
}

/// The bytes of the file at `path`, of which no more than `limit` are read; `None` when there is
/// no file.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StateError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(Some(bytes))
}

/// The file at `path` for reading; `None` when there is none.
pub(super) fn open(path: &Path) -> Result<Option<File>, StateError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Names the file in an error.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// `<path>.<suffix>`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The folder of a file, by name.
pub(super) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates files that only the owner reads: what an auditor watches is nobody else's business.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder that only the owner enters, and those above it.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a rename or a new file durable. Only Unix can sync a folder; elsewhere the rename has to
/// do.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}
