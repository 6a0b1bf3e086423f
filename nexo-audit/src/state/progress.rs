//! How far an audit that did not end has come: the roots of whole units of the tree.
//!
//! ```text
//! <state file>.<command>-progress
//! { "schema": "nexo.audit-progress/1", "log_key": "<vkey>",
//!   "from": 0,                the tree that the audit began with had so many leaves
//!   "heads": 3,               so many older heads lie within what is done
//!   "units": ["<hex>", ...] } roots of 65,536 leaves each, of the first unit after `from` on
//! ```
//!
//! It saves time and decides nothing. The units become part of the tree that must end at the
//! signed root, so wrong ones cannot be taken for right ones; and an audit that goes on from
//! here and finds something begins again without it before it accuses anyone. Only what was in
//! order is written here. A file that is damaged or of another audit is passed over.

use super::StateError;
use crate::encoding::to_hex;
use crate::files;
use crate::key::LogKey;
use crate::merkle::Hash;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SCHEMA: &str = "nexo.audit-progress/1";
/// Longest file that is read: units of 2^34 leaves, and room.
const MAX_FILE: u64 = 32 << 20;
/// How often it is written at most.
const PAUSE: Duration = Duration::from_secs(1);
/// Leaves of a unit are 2^16: one full tile of level 1.
pub(crate) const UNIT_LEVEL: u32 = 16;
/// Leaves of a unit.
pub(crate) const UNIT: u64 = 1 << UNIT_LEVEL;

/// What was done of an audit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Leaves of the tree that the audit began with.
    pub(crate) from: u64,
    /// Older heads that lie within what is done.
    pub(crate) heads: u64,
    /// Roots of units, the first of which begins at [`Self::first_unit`].
    pub(crate) units: Vec<Hash>,
}

impl Progress {
    /// The first leaf at or after `from` where a unit begins.
    pub(crate) fn first_unit(&self) -> u64 {
        self.from.next_multiple_of(UNIT)
    }

    /// Leaves up to the end of the last unit; 0 without one.
    pub(crate) fn size(&self) -> u64 {
        if self.units.is_empty() { 0 } else { self.first_unit() + self.units.len() as u64 * UNIT }
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    schema: String,
    log_key: String,
    from: u64,
    heads: u64,
    units: Vec<String>,
}

/// The file of a command's progress, which need not exist.
#[derive(Debug)]
pub(crate) struct ProgressFile {
    path: PathBuf,
    log_key: String,
    written: Option<Instant>,
    pause: Duration,
}

impl ProgressFile {
    /// The file of `command` beside this state file. Who calls holds the state file's lock.
    pub(crate) fn beside(state: &Path, command: &str, log_key: &LogKey) -> Self {
        let path = files::beside(state, &format!("{command}-progress"));
        Self { path, log_key: log_key.to_string(), written: None, pause: PAUSE }
    }

    /// Writes every time.
    #[cfg(test)]
    pub(crate) fn eager(self) -> Self {
        Self { pause: Duration::ZERO, ..self }
    }

    /// What was done of an audit of this log from `from` leaves up to `to`, if anything was.
    pub(crate) fn load(&self, from: u64, to: u64) -> Option<Progress> {
        let bytes = files::read(&self.path, MAX_FILE).ok()??;
        let stored: Stored = serde_json::from_slice(&bytes).ok()?;
        let ours = stored.schema == SCHEMA && stored.log_key == self.log_key;
        let units = stored.units.iter().map(|text| from_hex(text)).collect::<Option<Vec<_>>>()?;
        let progress = Progress { from, heads: stored.heads, units };
        (ours && stored.from == from && (1..=to).contains(&progress.size())).then_some(progress)
    }

    /// Replaces the file, if the last time is long enough ago.
    pub(crate) fn save(&mut self, progress: &Progress) -> Result<(), StateError> {
        if self.written.is_some_and(|last| last.elapsed() < self.pause) {
            return Ok(());
        }
        let stored = Stored {
            schema: SCHEMA.to_owned(),
            log_key: self.log_key.clone(),
            from: progress.from,
            heads: progress.heads,
            units: progress.units.iter().map(|root| to_hex(root)).collect(),
        };
        let bytes = serde_json::to_vec(&stored);
        let bytes = bytes.map_err(|e| files::at(&self.path)(std::io::Error::other(e)))?;
        files::replace(&self.path, &bytes)?;
        self.written = Some(Instant::now());
        Ok(())
    }

    /// Removes the file. That it stays is harmless: it is verified before it is of use.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::Signers;
    use serde_json::{Value, json};

    fn file(folder: &Path) -> ProgressFile {
        let key = Signers::new("log.example").log_key();
        ProgressFile::beside(&folder.join("state.json"), "full", &key).eager()
    }

    #[test]
    fn what_is_saved_is_loaded_for_the_same_audit_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut ours = file(folder.path());
        assert_eq!(ours.load(0, 1 << 40), None);
        let progress = Progress { from: 70_000, heads: 2, units: vec![[1; 32], [0xab; 32]] };
        ours.save(&progress).unwrap();
        assert_eq!((progress.first_unit(), progress.size()), (131_072, 262_144));
        assert_eq!(ours.load(70_000, 262_144), Some(progress));
        assert_eq!(ours.load(70_000, 262_143), None, "beyond the head");
        assert_eq!(ours.load(70_001, 1 << 40), None, "another beginning");
        let other = Signers::other("log.example").log_key();
        let theirs = ProgressFile::beside(&folder.path().join("state.json"), "full", &other);
        assert_eq!(theirs.load(70_000, 1 << 40), None, "another log");
        ours.remove();
        assert_eq!(ours.load(70_000, 1 << 40), None);
        ours.remove();
    }

    #[test]
    fn it_is_not_written_at_every_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut slow = ProgressFile { pause: PAUSE * 1000, ..file(folder.path()) };
        let one = Progress { from: 0, heads: 0, units: vec![[1; 32]] };
        slow.save(&one).unwrap();
        slow.save(&Progress { units: vec![[1; 32]; 2], ..one.clone() }).unwrap();
        assert_eq!(slow.load(0, 1 << 40), Some(one));
    }

    #[test]
    fn a_damaged_file_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut ours = file(folder.path());
        ours.save(&Progress { from: 0, heads: 0, units: vec![[7; 32]] }).unwrap();
        let good: Value = serde_json::from_slice(&fs::read(&ours.path).unwrap()).unwrap();
        let with = |member: &str, value: Value| {
            let mut bad = good.clone();
            bad[member] = value;
            bad.to_string()
        };
        for bad in [
            String::new(),
            "{".to_owned(),
            with("schema", json!("nexo.audit-progress/2")),
            with("units", json!(["0".repeat(63)])),
            with("units", json!(["g".repeat(64)])),
            with("units", json!([])),
            with("from", json!(-1)),
        ] {
            fs::write(&ours.path, &bad).unwrap();
            assert_eq!(ours.load(0, 1 << 40), None, "{bad}");
        }
    }
}
