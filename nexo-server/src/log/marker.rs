//! The newest head this server told anyone, kept outside the database.
//!
//! A database restored from a backup looks whole, but its log is shorter than
//! what clients have seen: going on from there would sign a second history. This
//! file remembers. It is written after each commit and before any answer, and
//! not flushed: it guards against backups, not against power loss, and must not
//! stop a server whose power failed. So there are two slots, written in turn, of
//! which a torn one does not count; a marker that is gone or torn in both is
//! begun anew.
//!
//! ```text
//! slot (512 bytes, at 0 and at 512), padded with LF:
//!   nexo/1/head LF <origin> LF <size> LF <hex of root> LF <hex of SHA-256 of these four lines> LF
//! ```

use super::tree::Hash;
use nexo_schema::bytes::{from_hex, to_hex};
use nexo_schema::ids::Origin;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// File of the marker in the data directory.
pub const MARKER_FILE: &str = "head.marker";

const HEADER: &str = "nexo/1/head";
/// A slot is at most 12 + 251 + 20 + 65 + 65 bytes of text.
const SLOT: usize = 512;

/// Why the database may not be served under this marker.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The marker cannot be read or created.
    #[error("{}: {source}; let the user that runs nexo-server read and write it", path.display())]
    Io {
        /// The marker's file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The marker is of a log with another name, which had entries.
    #[error(
        "{MARKER_FILE} is of the log {marked}, not of {ours}; this data directory belongs to another log (if {ours} was begun in its place: `nexo-server log new-origin` puts the marker aside)"
    )]
    OtherOrigin {
        /// Origin in the marker.
        marked: String,
        /// Our origin.
        ours: Origin,
    },
    /// Entries that were acknowledged are missing from the database.
    #[error(
        "the database holds {stored} entries, but {marked} were announced: it was restored from an older copy; restore the newest, or begin a new log with `nexo-server log new-origin`"
    )]
    DatabaseBehind {
        /// Entries in the database.
        stored: u64,
        /// Entries of the newest head that was told.
        marked: u64,
    },
    /// The database has another history of the same length.
    #[error(
        "the database has another log of {size} entries than the one announced; restore the right one, or begin a new log with `nexo-server log new-origin`"
    )]
    Differs {
        /// Entries of both.
        size: u64,
    },
}

/// A head that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    size: u64,
    root: Hash,
}

/// What a marker says, without its file being opened for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The log's name.
    pub origin: String,
    /// Entries of the newest head that was told to anyone.
    pub size: u64,
    /// Root of that head.
    pub root: Hash,
}

/// The newest head that the marker in `dir` remembers. Creates nothing, and takes the marker of
/// any log.
///
/// # Errors
/// [`MarkerError::Io`].
pub fn announced(dir: &Path) -> Result<Option<Announced>, MarkerError> {
    let path = dir.join(MARKER_FILE);
    let io = |source| MarkerError::Io { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io)?,
    };
    let mut newest: Option<Announced> = None;
    for number in 0..2 {
        let Some((origin, Mark { size, root })) = read(&file, number).map_err(io)? else {
            continue;
        };
        if newest.as_ref().is_none_or(|newest| size >= newest.size) {
            newest = Some(Announced { origin, size, root });
        }
    }
    Ok(newest)
}

/// The marker file, open for its one writer.
#[derive(Debug)]
pub(super) struct Marker {
    file: File,
    origin: Origin,
    newest: Option<Mark>,
    /// Slot to write next: the one that does not hold the newest.
    next: u64,
}

impl Marker {
    /// Opens the marker in `dir`, creating an empty one.
    ///
    /// # Errors
    /// [`MarkerError::Io`], or [`MarkerError::OtherOrigin`].
    pub(super) fn open(dir: &Path, origin: &Origin) -> Result<Self, MarkerError> {
        let path = dir.join(MARKER_FILE);
        let io = |source| MarkerError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(io)?;
        let (mut newest, mut next): (Option<Mark>, u64) = (None, 0);
        for slot in 0..2 {
            let Some((marked, mark)) = read(&file, slot).map_err(io)? else { continue };
            if marked != origin.as_str() && mark.size > 0 {
                return Err(MarkerError::OtherOrigin { marked, ours: origin.clone() });
            }
            // An empty log may have changed its name; such a mark says nothing.
            if marked == origin.as_str() && newest.is_none_or(|n| mark.size >= n.size) {
                (newest, next) = (Some(mark), 1 - slot);
            }
        }
        Ok(Self { file, origin: origin.clone(), newest, next })
    }

    /// Whether there is a mark to hold the database to.
    pub(super) fn is_blank(&self) -> bool {
        self.newest.is_none()
    }

    /// Whether a database with this newest head may be served. It may be ahead:
    /// a crash can fall between commit and marker.
    ///
    /// # Errors
    /// [`MarkerError::DatabaseBehind`] or [`MarkerError::Differs`].
    pub(super) fn check(&self, size: u64, root: &Hash) -> Result<(), MarkerError> {
        match &self.newest {
            Some(mark) if size < mark.size => {
                Err(MarkerError::DatabaseBehind { stored: size, marked: mark.size })
            }
            Some(mark) if size == mark.size && *root != mark.root => {
                Err(MarkerError::Differs { size })
            }
            _ => Ok(()),
        }
    }

    /// Remembers a committed head, before anyone is told.
    ///
    /// # Errors
    /// What the system says; the old mark still stands.
    pub(super) fn set(&mut self, size: u64, root: Hash) -> io::Result<()> {
        let mark = Mark { size, root };
        if self.newest == Some(mark) {
            return Ok(());
        }
        self.file.write_all_at(&slot(self.origin.as_str(), &mark), self.next * SLOT as u64)?;
        (self.newest, self.next) = (Some(mark), 1 - self.next);
        Ok(())
    }
}

/// The bytes of a slot.
fn slot(origin: &str, mark: &Mark) -> [u8; SLOT] {
    let lines = format!("{HEADER}\n{origin}\n{}\n{}\n", mark.size, to_hex(&mark.root));
    let text = format!("{lines}{}\n", to_hex(&Sha256::digest(&lines)));
    let mut slot = [b'\n'; SLOT];
    slot[..text.len()].copy_from_slice(text.as_bytes());
    slot
}

/// Origin and mark of a slot, `None` unless it is exactly what [`slot`] makes.
fn read(file: &File, number: u64) -> io::Result<Option<(String, Mark)>> {
    let mut bytes = [0; SLOT];
    match file.read_exact_at(&mut bytes, number * SLOT as u64) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(parse(&bytes).filter(|(origin, mark)| slot(origin, mark) == bytes))
}

fn parse(bytes: &[u8; SLOT]) -> Option<(String, Mark)> {
    let mut lines = str::from_utf8(bytes).ok()?.split('\n').skip(1);
    // A longer name would not fit a slot when it is written again to compare.
    let origin = lines.next().filter(|origin| Origin::parse(origin).is_ok())?;
    let size = lines.next()?.parse().ok()?;
    let root = from_hex(lines.next()?).ok()?;
    Some((origin.to_owned(), Mark { size, root }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn origin(name: &str) -> Origin {
        Origin::parse(name).unwrap()
    }

    fn open(dir: &tempfile::TempDir) -> Marker {
        Marker::open(dir.path(), &origin("a")).unwrap()
    }

    #[test]
    fn the_newest_mark_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(announced(dir.path()).unwrap(), None);
        assert!(!dir.path().join(MARKER_FILE).exists());
        assert!(open(&dir).is_blank());
        let mode = fs::metadata(dir.path().join(MARKER_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for size in 0..5u8 {
            let mut marker = open(&dir);
            marker.set(u64::from(size), [size; 32]).unwrap();
            marker.set(u64::from(size), [size; 32]).unwrap();
            let mark = Mark { size: u64::from(size), root: [size; 32] };
            assert_eq!(open(&dir).newest, Some(mark));
            let said = announced(dir.path()).unwrap().unwrap();
            assert_eq!((said.origin.as_str(), said.size, said.root), ("a", mark.size, mark.root));
        }
        assert_eq!(fs::metadata(dir.path().join(MARKER_FILE)).unwrap().len(), 1024);
    }

    #[test]
    fn a_database_is_held_to_it() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).check(0, &[0; 32]).unwrap();
        open(&dir).set(5, [5; 32]).unwrap();
        let marker = open(&dir);
        marker.check(5, &[5; 32]).unwrap();
        marker.check(6, &[9; 32]).unwrap();
        let behind = marker.check(4, &[4; 32]);
        assert!(matches!(behind, Err(MarkerError::DatabaseBehind { stored: 4, marked: 5 })));
        let differs = marker.check(5, &[6; 32]);
        assert!(matches!(differs, Err(MarkerError::Differs { size: 5 })));
    }

    #[test]
    fn a_torn_slot_leaves_the_other_and_no_damage_stops_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MARKER_FILE);
        let mut marker = open(&dir);
        marker.set(4, [4; 32]).unwrap();
        marker.set(5, [5; 32]).unwrap();
        let good = fs::read(&path).unwrap();
        for at in [0, 13, 16, 40, 130, 511] {
            let mut torn = good.clone();
            torn[SLOT + at] ^= 1;
            fs::write(&path, &torn).unwrap();
            let mut marker = open(&dir);
            assert_eq!(marker.newest.map(|m| m.size), Some(4), "byte {at}");
            marker.set(6, [6; 32]).unwrap();
            assert_eq!(open(&dir).newest.map(|m| m.size), Some(6));
        }
        for damage in [&[][..], &good[..100], &[0; 1024], &[0xff; 1024], &good[..600]] {
            fs::write(&path, damage).unwrap();
            let known = open(&dir).newest.map(|m| m.size);
            assert_eq!(known, (damage.len() == 600).then_some(4));
        }
    }

    #[test]
    fn another_logs_marker_is_refused_unless_that_log_was_empty() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).set(0, [0; 32]).unwrap();
        assert!(Marker::open(dir.path(), &origin("b")).unwrap().is_blank());
        open(&dir).set(1, [1; 32]).unwrap();
        let refused = Marker::open(dir.path(), &origin("b"));
        assert!(matches!(refused, Err(MarkerError::OtherOrigin { marked, .. }) if marked == "a"));
    }

    #[test]
    fn the_longest_mark_fits_its_slot() {
        let dir = tempfile::tempdir().unwrap();
        let long = origin(&"x".repeat(250));
        Marker::open(dir.path(), &long).unwrap().set(u64::MAX, [0xff; 32]).unwrap();
        let again = Marker::open(dir.path(), &long).unwrap();
        assert_eq!(again.newest, Some(Mark { size: u64::MAX, root: [0xff; 32] }));
    }
}
