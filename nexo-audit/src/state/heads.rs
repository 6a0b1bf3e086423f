//! Every head that was ever accepted, in a file that only grows.
//!
//! ```text
//! <state file>.heads      one line per head, by size, none twice:
//! {"note":"<the signed note, verbatim>"} LF
//! ```
//!
//! The state file holds the newest head alone. The older ones prove what a log signed when it
//! denies it later: a smaller head is then not only a rollback, but a fork when this file has
//! another one of its size, and [`crate::full`] makes the tree pass through all of them.
//!
//! Nothing in it is taken on its looks: a head counts only with the pinned key's signature. A
//! line that a crash cut short is dropped by the next audit. A head is appended before the state
//! file is replaced, so that after a crash this file is one head ahead, never behind; an older
//! state file that somebody put back is seen by that.
//!
//! Reading is bounded: lines one by one, the newest head from the end of the file.

use super::StateError;
use crate::checkpoint::{Checkpoint, HeadError, SignedHead};
use crate::files;
use crate::key::LogKey;
use crate::note::MAX_NOTE;
use crate::rebuild::Milestone;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Longest line: a note in which every byte is escaped, and the object around it.
const MAX_LINE: usize = 2 * MAX_NOTE + 64;

/// Why the file of heads cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadsError {
    /// Not a line with a note.
    #[error("line {line} is not a head")]
    Line {
        /// The line, from 1; 0 when it is the last one, and lines were not counted.
        line: u64,
    },
    /// The pinned key did not sign it.
    #[error("a head in it: {0}")]
    Head(#[from] HeadError),
    /// Sizes do not ascend.
    #[error("line {line} is a head that is not larger than the one before")]
    Order {
        /// The line, from 1.
        line: u64,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    note: String,
}

/// The heads that were accepted from one log.
#[derive(Debug, Clone)]
pub struct Heads {
    path: PathBuf,
}

impl Heads {
    /// The heads beside this state file.
    #[must_use]
    pub fn beside(state: &Path) -> Self {
        Self { path: files::beside(state, "heads") }
    }

    /// Where they are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest head; `None` when there is none yet.
    ///
    /// # Errors
    /// [`StateError`] when the file cannot be read, or the head is not one that `key` signed.
    pub fn newest(&self, key: &LogKey) -> Result<Option<SignedHead>, StateError> {
        let Some(mut file) = files::open(&self.path)? else { return Ok(None) };
        let (tail, _) = self.tail(&mut file)?;
        tail.map(|line| self.open(&line, 0, key)).transpose()
    }

    /// The head of this size; `None` when none was accepted.
    ///
    /// # Errors
    /// As [`Self::newest`].
    pub fn of_size(&self, size: u64, key: &LogKey) -> Result<Option<SignedHead>, StateError> {
        for head in self.milestones(key)? {
            if head?.size == size {
                return self.nth_of_size(size, key);
            }
        }
        Ok(None)
    }

    /// Sizes and roots of all heads, by size. Every signature is verified as it is read.
    ///
    /// # Errors
    /// [`StateError::Io`] when the file cannot be opened; other errors come from the iterator.
    pub fn milestones(
        &self,
        key: &LogKey,
    ) -> Result<impl Iterator<Item = Result<Milestone, StateError>> + use<>, StateError> {
        let (heads, key, mut last) = (self.clone(), key.clone(), None);
        let lines = self.lines()?;
        Ok(lines.map(move |line| {
            let (number, line) = line?;
            let Checkpoint { size, root, .. } = heads.open(&line, number, &key)?.checkpoint;
            if last.replace(size).is_some_and(|last| last >= size) {
                return Err(heads.invalid(HeadsError::Order { line: number }));
            }
            Ok(Milestone { size, root })
        }))
    }

    /// Adds a head, durably, unless the newest one is as large. Who calls holds the state file's
    /// lock.
    pub(super) fn append(&self, head: &SignedHead, key: &LogKey) -> Result<(), StateError> {
        let at = || files::at(&self.path);
        let new = !self.path.exists();
        let mut file = files::private().read(true).append(true).open(&self.path).map_err(at())?;
        let (tail, whole) = self.tail(&mut file)?;
        let newest = tail.map(|line| self.open(&line, 0, key)).transpose()?;
        if newest.is_some_and(|newest| newest.checkpoint.size >= head.checkpoint.size) {
            return Ok(());
        }
        // What a crash left of a line that was never part of any memory.
        file.set_len(whole).map_err(at())?;
        let line = serde_json::to_string(&Line { note: head.note.clone() });
        let line = line.map_err(|error| at()(io::Error::other(error)))? + "\n";
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(at())?;
        if new {
            files::sync_folder(files::folder(&self.path))?;
        }
        Ok(())
    }

    fn nth_of_size(&self, size: u64, key: &LogKey) -> Result<Option<SignedHead>, StateError> {
        for line in self.lines()? {
            let (number, line) = line?;
            let head = self.open(&line, number, key)?;
            if head.checkpoint.size == size {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// The whole lines with their numbers. One that the end of the file cuts short is left out.
    fn lines(
        &self,
    ) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>), StateError>> + use<>, StateError> {
        let file = files::open(&self.path)?;
        let (heads, mut reader) = (self.clone(), file.map(BufReader::new));
        Ok((1u64..).map_while(move |number| {
            let mut line = Vec::new();
            let mut bounded = reader.as_mut()?.take(MAX_LINE as u64);
            match bounded.read_until(b'\n', &mut line) {
                Err(error) => Some(Err(files::at(&heads.path)(error).into())),
                Ok(_) if line.ends_with(b"\n") => Some(Ok((number, line))),
                Ok(read) if read < MAX_LINE => None,
                Ok(_) => Some(Err(heads.invalid(HeadsError::Line { line: number }))),
            }
        }))
    }

    /// The last whole line, and the length of the file up to its end.
    fn tail(&self, file: &mut File) -> Result<(Option<Vec<u8>>, u64), StateError> {
        let at = || files::at(&self.path);
        let length = file.metadata().map_err(at())?.len();
        // The last whole line, and one after it that may be cut.
        let start = length.saturating_sub(2 * MAX_LINE as u64);
        file.seek(SeekFrom::Start(start)).map_err(at())?;
        let mut bytes = Vec::new();
        file.take(2 * MAX_LINE as u64).read_to_end(&mut bytes).map_err(at())?;
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            // Nothing but the beginning of a first line, or no file of heads at all.
            let cut = length < MAX_LINE as u64;
            return if cut {
                Ok((None, 0))
            } else {
                Err(self.invalid(HeadsError::Line { line: 0 }))
            };
        };
        let whole = start + end as u64 + 1;
        let begin = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.truncate(end + 1);
        bytes.drain(..begin);
        Ok((Some(bytes), whole))
    }

    fn open(&self, line: &[u8], number: u64, key: &LogKey) -> Result<SignedHead, StateError> {
        let Line { note } = serde_json::from_slice(line)
            .map_err(|_| self.invalid(HeadsError::Line { line: number }))?;
        let head = SignedHead::open(note.as_bytes(), key, None);
        head.map_err(|cause| self.invalid(cause.into()))
    }

    fn invalid(&self, cause: HeadsError) -> StateError {
        StateError::Heads { path: self.path.clone(), cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::TestLog;
    use std::fs;

    fn head(size: u64) -> SignedHead {
        let log = TestLog::with(size);
        SignedHead::open(log.head().as_bytes(), &log.signers.log_key(), None).unwrap()
    }

    fn key() -> LogKey {
        TestLog::with(0).signers.log_key()
    }

    fn heads(sizes: &[u64]) -> (tempfile::TempDir, Heads) {
        let folder = tempfile::tempdir().unwrap();
        let heads = Heads::beside(&folder.path().join("state.json"));
        for size in sizes {
            heads.append(&head(*size), &key()).unwrap();
        }
        (folder, heads)
    }

    fn sizes(heads: &Heads) -> Vec<u64> {
        heads.milestones(&key()).unwrap().map(|head| head.unwrap().size).collect()
    }

    #[test]
    fn every_head_is_kept_once_and_found() {
        let (_folder, heads) = heads(&[]);
        assert_eq!((heads.newest(&key()).unwrap(), sizes(&heads)), (None, vec![]));
        for size in [0, 3, 3, 7, 2, 7, 300] {
            heads.append(&head(size), &key()).unwrap();
        }
        assert_eq!(sizes(&heads), [0, 3, 7, 300]);
        assert_eq!(heads.newest(&key()).unwrap(), Some(head(300)));
        for size in [0, 3, 7, 300] {
            assert_eq!(heads.of_size(size, &key()).unwrap(), Some(head(size)));
        }
        assert_eq!(heads.of_size(2, &key()).unwrap(), None);
        let root = |size| head(size).checkpoint.root;
        let milestones: Vec<_> = heads.milestones(&key()).unwrap().map(Result::unwrap).collect();
        assert_eq!(milestones[2], Milestone { size: 7, root: root(7) });
    }

    #[test]
    fn a_line_that_a_crash_cut_is_dropped() {
        let (_folder, heads) = heads(&[3, 7]);
        let bytes = fs::read(heads.path()).unwrap();
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in [first + 1, bytes.len() - 2, bytes.len() - 1] {
            fs::write(heads.path(), &bytes[..cut]).unwrap();
            assert_eq!(sizes(&heads), [3], "{cut}");
            assert_eq!(heads.newest(&key()).unwrap(), Some(head(3)));
            heads.append(&head(9), &key()).unwrap();
            assert_eq!(sizes(&heads), [3, 9]);
        }
        fs::write(heads.path(), &bytes[..5]).unwrap();
        heads.append(&head(7), &key()).unwrap();
        assert_eq!(sizes(&heads), [7]);
    }

    #[test]
    fn what_the_key_did_not_sign_is_refused() {
        let refused = |lines: &str| {
            let (_folder, heads) = heads(&[]);
            fs::write(heads.path(), lines).unwrap();
            let all = heads.milestones(&key()).unwrap().collect::<Result<Vec<_>, _>>();
            let Err(StateError::Heads { cause, .. }) = all else { panic!("{lines}") };
            assert_eq!(fs::read_to_string(heads.path()).unwrap(), lines);
            (cause, heads.newest(&key()).is_err())
        };
        let line = |note: &str| serde_json::json!({ "note": note }).to_string() + "\n";
        let good = |size| line(&head(size).note);
        let forged = line(&head(3).note.replacen("\n3\n", "\n4\n", 1));
        assert!(matches!(refused(&forged), (HeadsError::Head(HeadError::Signature(_)), true)));
        assert_eq!(refused("junk\n"), (HeadsError::Line { line: 1 }, true));
        assert_eq!(refused(&(good(3) + "\n")), (HeadsError::Line { line: 2 }, true));
        assert_eq!(refused(&(good(7) + &good(3))), (HeadsError::Order { line: 2 }, false));
        assert_eq!(refused(&(good(7) + &good(7))), (HeadsError::Order { line: 2 }, false));
        let long = "x".repeat(3 * MAX_LINE);
        assert_eq!(refused(&long), (HeadsError::Line { line: 1 }, true));
        assert_eq!(refused(&(long + "\n")), (HeadsError::Line { line: 1 }, true));
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, heads) = heads(&[3]);
        let mode = fs::metadata(heads.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
