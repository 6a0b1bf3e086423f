//! The folder of evidence files.
//!
//! A file is named after what it shows, `<32 hex digits>.json`, so an auditor that finds the same
//! thing every minute for a year writes one file, with the time when it was first seen. It is
//! written whole or not at all, and never replaced: the first one stays. Nothing in it is secret;
//! its mode is what the umask leaves.

use super::Evidence;
use crate::encoding::to_hex;
use crate::note::Note;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

impl Evidence {
    /// Writes the file into `folder`, which is made if it is missing, and returns its path.
    ///
    /// # Errors
    /// What the operating system said; there is then no such file, or a whole one.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)? + "\n";
        fs::create_dir_all(folder)?;
        let name = self.name();
        let path = folder.join(format!("{name}.json"));
        if path.try_exists()? {
            return Ok(path);
        }
        // The process id keeps two audits apart that share a folder.
        let new = folder.join(format!(".{name}.{}.new", std::process::id()));
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        // Only Unix can sync a folder; elsewhere the rename has to do.
        if cfg!(unix) {
            File::open(folder)?.sync_all()?;
        }
        Ok(path)
    }

    /// The same for the same finding: neither times nor the cosignatures on a head are in it,
    /// which an idle log renews every minute.
    fn name(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(self.verdict.as_bytes());
        part(self.log_vkey.as_bytes());
        for note in [&self.held, &self.shown] {
            part(note.as_deref().map_or("", signed_text).as_bytes());
        }
        part(self.handle.as_deref().unwrap_or_default().as_bytes());
        self.prefix.iter().for_each(|hash| part(hash));
        for leaf in &self.leaves {
            part(&leaf.index.to_be_bytes());
            part(&leaf.entry);
        }
        for served in &self.resources {
            part(served.path.as_bytes());
            part(signed_bytes(&served.bytes));
        }
        to_hex(&hash.finalize()[..16])
    }
}

/// A note without its signatures.
fn signed_text(note: &str) -> &str {
    note.rsplit_once("\n\n").map_or(note, |(text, _)| text)
}

/// The same of bytes that may be a note.
fn signed_bytes(bytes: &[u8]) -> &[u8] {
    match (Note::parse(bytes), str::from_utf8(bytes)) {
        (Ok(_), Ok(note)) => signed_text(note).as_bytes(),
        _ => bytes,
    }
}
