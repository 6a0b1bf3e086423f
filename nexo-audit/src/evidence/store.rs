//! The folder of evidence files.
//!
//! A file is named after what it shows, `<32 hex digits>.json`, so an auditor that finds the same
//! thing every minute for a year writes one file, with the time when it was first seen. It is
//! written whole or not at all, and never replaced: the first one stays. Nothing in it is secret;
//! its mode is what the umask leaves.
//!
//! The folder does not grow without end: a log that lies can be caught in something new every
//! minute, with megabytes of what it served each time. What nobody signed must not fill the disk
//! of who found it, nor take the place of proofs.

use super::{Evidence, Standing, verify};
use crate::encoding::to_hex;
use crate::key::LogKey;
use crate::note::Note;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How many bytes a folder of evidence may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// With one more observation.
    pub(super) observations: u64,
    /// With one more proof.
    pub(super) proofs: u64,
}

const ROOM: Room = Room { observations: 256 << 20, proofs: 1 << 30 };
/// What a small file takes at least.
const BLOCK: u64 = 4096;

impl Evidence {
    /// Writes the file into `folder`, which is made if it is missing, and returns its path.
    ///
    /// # Errors
    /// What the operating system said; there is then no such file, or a whole one. And
    /// [`io::ErrorKind::StorageFull`] when the folder has 256 MiB of files, or 1 GiB where this is
    /// a proof.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        self.write_within(folder, ROOM)
    }

    pub(super) fn write_within(&self, folder: &Path, room: Room) -> io::Result<PathBuf> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)? + "\n";
        fs::create_dir_all(folder)?;
        let name = self.name();
        let path = folder.join(format!("{name}.json"));
        if path.try_exists()? {
            return Ok(path);
        }
        let limit = if self.is_proof() { room.proofs } else { room.observations };
        if held(folder)? + taken(text.len() as u64) > limit {
            let words = format!(
                "there are {} MiB of evidence in it already, or nearly; move some away",
                limit >> 20
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, words));
        }
        // The process id keeps two audits apart that share a folder. What a crash left there, or
        // somebody's link, is not written into.
        let new = folder.join(format!(".{name}.{}.new", std::process::id()));
        let _ = fs::remove_file(&new);
        let mut file = File::create_new(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        // Only Unix can sync a folder; elsewhere the rename has to do.
        if cfg!(unix) {
            File::open(folder)?.sync_all()?;
        }
        Ok(path)
    }

    fn is_proof(&self) -> bool {
        let judged = LogKey::parse(&self.log_vkey).ok().and_then(|key| verify(self, &key).ok());
        judged.is_some_and(|judged| judged.standing == Standing::Proof)
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

/// What the files in a folder of evidence take.
fn held(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        // One that is gone by now takes nothing.
        let length = entry?.metadata().map_or(0, |found| taken(found.len()));
        bytes += length;
    }
    Ok(bytes)
}

fn taken(length: u64) -> u64 {
    length.max(BLOCK)
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
