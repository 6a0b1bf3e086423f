//! What one run leaves for the next: how far the log was verified, and the tree up to there.
//!
//! ```json
//! {"format":"nexo/1/verified","vkey":"<log key>","entries":131072,"levels":[["<hex>","<hex>"]]}
//! ```
//!
//! `levels` holds the hashes of the partial tiles above level 1, which with the entries that
//! follow give the root of every later head. The file is replaced whole; whoever can write it
//! can make a run skip entries, so it belongs with the database's operator.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nexo_schema::bytes::{from_hex, to_hex};
use serde::{Deserialize, Serialize};

use super::tree::Tree;
use crate::log::Hash;

const FORMAT: &str = "nexo/1/verified";
/// Eight levels of 255 hashes are 140 kB; nothing longer is read.
const MAX_FILE: u64 = 1 << 20;

/// Why there is no state to go on from, or to leave.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not what an earlier run wrote.
    #[error("{}: not a state file of log verify; delete it to verify everything", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It is of a log with another key.
    #[error("{}: of the log {found}; name another file", path.display())]
    OtherLog {
        /// The file.
        path: PathBuf,
        /// The log's key in it.
        found: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    vkey: String,
    entries: u64,
    levels: Vec<Vec<String>>,
}

/// The tree that the file holds for this log; an empty one if there is no file.
pub(super) fn read(path: &Path, vkey: &str) -> Result<Tree, StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let malformed = || StateError::Malformed { path: path.to_owned() };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Tree::default()),
        Ok(data) if data.len() > MAX_FILE => return Err(malformed()),
        Err(source) => return Err(io(source)),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(io)?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| malformed())?;
    if stored.format != FORMAT {
        return Err(malformed());
    }
    if stored.vkey != vkey {
        return Err(StateError::OtherLog { path: path.to_owned(), found: stored.vkey });
    }
    let hashes = |level: Vec<String>| level.iter().map(|hash| from_hex(hash)).collect();
    let levels: Result<Vec<Vec<Hash>>, _> = stored.levels.into_iter().map(hashes).collect();
    let levels = levels.map_err(|_| malformed())?;
    Tree::restore(stored.entries, levels).map_err(|_| malformed())
}

/// Replaces the file: whole or not at all, whenever the program ends.
pub(super) fn write(path: &Path, vkey: &str, tree: &Tree) -> Result<(), StateError> {
    let io = |source| StateError::Io { path: path.to_owned(), source };
    let levels = tree.levels().iter();
    let stored = Stored {
        format: FORMAT.to_owned(),
        vkey: vkey.to_owned(),
        entries: tree.entries(),
        levels: levels.map(|level| level.iter().map(|hash| to_hex(hash)).collect()).collect(),
    };
    let text = serde_json::to_vec(&stored).map_err(|e| io(e.into()))?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = File::create(&draft)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|source| {
        // What could not be put in place is of no use to anyone.
        let _ = fs::remove_file(&draft);
        io(source)
    })
}

#[cfg(test)]
mod tests {
    use super::super::range::RANGE;
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(read(&path, "k").unwrap(), Tree::default());
        let tree = Tree::restore(3 * RANGE, vec![vec![[7; 32]; 3]]).unwrap();
        write(&path, "k", &tree).unwrap();
        write(&path, "k", &tree).unwrap();
        assert_eq!(read(&path, "k").unwrap(), tree);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
        assert!(
            matches!(read(&path, "l"), Err(StateError::OtherLog { found, .. }) if found == "k")
        );
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            good[1..].to_owned(),
            good.replace("nexo/1", "nexo/2"),
            good.replace("196608", "131072"),
            good.replace("0707", "07"),
            good.replace("entries", "entry"),
        ] {
            fs::write(&path, &bad).unwrap();
            assert!(matches!(read(&path, "k"), Err(StateError::Malformed { .. })), "{bad}");
        }
        let nowhere = dir.path().join("no/such/dir");
        assert!(matches!(write(&nowhere, "k", &tree), Err(StateError::Io { .. })));
    }
}
