//! `tail --output FILE`: every message exactly once, whatever ends the program.
//!
//! Written bytes are made durable first; how far they reach is then stored in the transaction
//! that marks the messages as printed. What lies behind that place when the program starts was
//! written by a run that was killed before it: it is cut off, and written again.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::error::CliError;
use crate::output::Printer;
use crate::vault::{InboxRow, Vault, VaultError, Written};

/// The file, held for this process alone.
pub(super) struct OutputFile {
    file: File,
    path: String,
    written: Written,
}

impl OutputFile {
    /// Opens or makes it (mode 0600), and cuts off what a killed run left over.
    pub(super) async fn open(
        path: &Path,
        vault: &Vault,
        printer: &Printer,
    ) -> Result<Self, CliError> {
        let named = path.display();
        let failed = |source| CliError::OutputFile { path: named.to_string(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CliError::OutputBusy(named.to_string())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        let path = std::fs::canonicalize(path).map_err(failed)?.display().to_string();
        let found = Written { device: found.dev(), inode: found.ino(), length: found.len() };
        let before = vault.read(|tx| tx.output(&path))?;
        let length = go_on(before, found);
        if length < found.length {
            let over = found.length - length;
            printer.say(&format!("{named}: {over} bytes of an unfinished write are written again"));
            file.set_len(length).map_err(failed)?;
        }
        file.seek(SeekFrom::Start(length)).map_err(failed)?;
        let written = Written { length, ..found };
        // Before the first byte, or what a kill leaves of it would be taken for somebody's.
        vault.write(|tx| tx.set_output(&path, written)).await.map_err(|e: VaultError| e)?;
        Ok(Self { file, path, written })
    }

    /// Writes the lines of these messages, and marks them as printed.
    pub(super) async fn write(
        &mut self,
        lines: &str,
        rows: &[InboxRow],
        vault: &Vault,
    ) -> Result<(), CliError> {
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_all()?;
        let length = self.written.length + lines.len() as u64;
        let written = Written { length, ..self.written };
        let indexes: Vec<u64> = rows.iter().map(|row| row.sth_index).collect();
        let marked = vault.write(|tx| {
            tx.set_printed(&indexes)?;
            tx.set_output(&self.path, written)
        });
        marked.await.map_err(|e: VaultError| e)?;
        self.written = written;
        Ok(())
    }
}

/// Where to go on in a file as it is found. A file of another number was put in the place of
/// ours (log rotation), and one that is shorter was cut: both are gone on with at their end.
fn go_on(before: Option<Written>, found: Written) -> u64 {
    match before {
        Some(before) if (before.device, before.inode) == (found.device, found.inode) => {
            before.length.min(found.length)
        }
        _ => found.length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_mark_is_cut_off_and_nothing_else() {
        let found = Written { device: 1, inode: 2, length: 100 };
        assert_eq!(go_on(None, found), 100, "somebody's file");
        let before = |inode, length| Some(Written { device: 1, inode, length });
        assert_eq!(go_on(before(2, 60), found), 60, "a killed run's");
        assert_eq!(go_on(before(2, 100), found), 100);
        assert_eq!(go_on(before(2, 300), found), 100, "cut by somebody");
        assert_eq!(go_on(before(3, 60), found), 100, "rotated");
    }
}
