//! What is kept between a notice and its delivery, and over restarts.
//!
//! ```text
//! <folder>/lock                     held while somebody watches
//! <folder>/status.json              what watching has come to (judge::Status)
//! <folder>/<number>-<id>.json       a notice that somebody has yet to take, in order
//!     { "notice": {...}, "taken": ["hook:10-mail", "webhook"] }
//! ```
//!
//! The order of writes is the contract. A notice is on the disk before the status that knows of
//! it: a crash in between makes the same round say the same again, under the same id and so into
//! the same file. It is on the disk before anybody is told, and leaves it after everybody took
//! it: a crash in between tells somebody twice. Every file is replaced whole.

use super::judge::Status;
use super::notice::Notice;
use crate::files::{self, FileError, at};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const STATUS: &str = "status.json";
const LOCK: &str = "lock";
/// Longest file that is read: a notice has two heads of at most 128 KiB, escaped.
const MAX_FILE: u64 = 2 << 20;
/// Most notices that wait. News is rare; so many mean that nobody has listened for years.
const MAX_WAITING: usize = 10_000;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody watches with it.
    #[error("{} is in use by another watch", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file in it is not what it should be.
    #[error("{} is not a file of this spool; move it away to go on without it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It is of another log.
    #[error("{} is the spool of {url}", path.display())]
    OtherLog {
        /// The folder.
        path: PathBuf,
        /// The log.
        url: String,
    },
    /// Nobody takes notices.
    #[error("{MAX_WAITING} notices wait in {}: nobody takes them", path.display())]
    Full {
        /// The folder.
        path: PathBuf,
    },
}

impl From<FileError> for SpoolError {
    fn from(FileError { path, source }: FileError) -> Self {
        Self::Io { path, source }
    }
}

/// The folder, locked until it is dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    _lock: File,
}

/// A notice that somebody has yet to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    path: PathBuf,
    /// What is to be told.
    pub(crate) notice: Notice,
    /// Who took it.
    pub(crate) taken: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    notice: Notice,
    taken: Vec<String>,
}

impl Spool {
    /// Locks the folder, which is made (mode 0700) when it is missing.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) fn open(folder: &Path) -> Result<Self, SpoolError> {
        files::make_folder(folder)?;
        match files::lock(&folder.join(LOCK))? {
            Some(lock) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            None => Err(SpoolError::Busy { path: folder.to_owned() }),
        }
    }

    /// The status of watching the log at `url`; a new one when there is none.
    ///
    /// # Errors
    /// [`SpoolError::Damaged`] for a file that is none, which stays as it is.
    pub(crate) fn status(&self, url: &str) -> Result<Status, SpoolError> {
        let path = self.folder.join(STATUS);
        let Some(bytes) = read(&path)? else { return Ok(Status::new(url)) };
        let status: Option<Status> = serde_json::from_slice(&bytes).ok();
        match status.filter(Status::is_known) {
            Some(status) if status.url == url => Ok(status),
            Some(status) => {
                Err(SpoolError::OtherLog { path: self.folder.clone(), url: status.url })
            }
            None => Err(SpoolError::Damaged { path }),
        }
    }

    /// Keeps notices, and then the status that knows of them. `status.told` counts them.
    ///
    /// # Errors
    /// [`SpoolError`]; the status on the disk then knows of none of them.
    pub(crate) fn record(&self, notices: &[Notice], status: &Status) -> Result<(), SpoolError> {
        if notices.is_empty() {
            return self.save(status);
        }
        if self.names()?.len() + notices.len() > MAX_WAITING {
            return Err(SpoolError::Full { path: self.folder.clone() });
        }
        let first = status.told.saturating_sub(notices.len() as u64);
        for (number, notice) in (first..).zip(notices) {
            let path = self.folder.join(format!("{number:012}-{}.json", notice.id));
            // The round that a crash cut short left it here, and maybe somebody took it since.
            if !path.exists() {
                write(&path, &Stored { notice: notice.clone(), taken: Vec::new() })?;
            }
        }
        self.save(status)
    }

    fn save(&self, status: &Status) -> Result<(), SpoolError> {
        write(&self.folder.join(STATUS), status)
    }

    /// What waits, oldest first.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) fn waiting(&self) -> Result<Vec<Waiting>, SpoolError> {
        let mut all = Vec::new();
        for name in self.names()? {
            let path = self.folder.join(name);
            let Some(bytes) = read(&path)? else { continue };
            let stored: Option<Stored> = serde_json::from_slice(&bytes).ok();
            let Some(Stored { notice, taken }) = stored else {
                return Err(SpoolError::Damaged { path });
            };
            all.push(Waiting { path, notice, taken });
        }
        Ok(all)
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.names().map_or(0, |names| names.len())
    }

    /// Remembers that `receiver` took a notice.
    ///
    /// # Errors
    /// [`SpoolError`]; the receiver may then be told again.
    pub(crate) fn taken(&self, waiting: &mut Waiting, receiver: &str) -> Result<(), SpoolError> {
        waiting.taken.push(receiver.to_owned());
        let stored = Stored { notice: waiting.notice.clone(), taken: waiting.taken.clone() };
        write(&waiting.path, &stored)
    }

    /// Forgets a notice that everybody took.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) fn done(&self, waiting: &Waiting) -> Result<(), SpoolError> {
        fs::remove_file(&waiting.path).map_err(at(&waiting.path))?;
        Ok(files::sync_folder(&self.folder)?)
    }

    /// Names of waiting notices: their numbers have one width, so their order is that of time.
    fn names(&self) -> Result<Vec<String>, SpoolError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(at(&self.folder))? {
            let name = entry.map_err(at(&self.folder))?.file_name();
            let name = name.to_str().filter(|name| is_notice(name)).map(str::to_owned);
            names.extend(name);
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// `<12 digits>-<32 hex digits>.json`
fn is_notice(name: &str) -> bool {
    let parts = name.strip_suffix(".json").and_then(|stem| stem.split_once('-'));
    parts.is_some_and(|(number, id)| {
        number.len() == 12
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && id.len() == 32
            && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The bytes of a file; `None` when there is none. A longer one is cut here and then is no JSON.
fn read(path: &Path) -> Result<Option<Vec<u8>>, SpoolError> {
    Ok(files::read(path, MAX_FILE)?)
}

/// Replaces a file by a value, for good when this returns.
fn write(path: &Path, value: &impl Serialize) -> Result<(), SpoolError> {
    let text = serde_json::to_vec_pretty(value).map_err(|e| at(path)(io::Error::other(e)))?;
    Ok(files::replace(path, &text)?)
}

#[cfg(test)]
mod tests {
    use super::super::judge::{Bounds, End};
    use super::super::notice::Account;
    use super::*;
    use crate::finding::Verdict;

    const URL: &str = "https://log.example";
    const BOUNDS: Bounds = Bounds { patience: 0, max_age: 60 };

    fn judged(status: &mut Status, verdict: Verdict) -> Vec<Notice> {
        let end = End { verdict, head_time: Some(0), account: Account::default() };
        status.judge(end, 0, BOUNDS)
    }

    #[test]
    fn what_is_recorded_waits_in_order_until_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let mut status = spool.status(URL).unwrap();
        for verdict in [Verdict::Verified, Verdict::Stale, Verdict::Verified, Verdict::Fork] {
            let notices = judged(&mut status, verdict);
            spool.record(&notices, &status).unwrap();
        }
        drop(spool);
        let spool = Spool::open(folder.path()).unwrap();
        assert_eq!(spool.status(URL).unwrap(), status);
        let mut waiting = spool.waiting().unwrap();
        let verdicts: Vec<&str> = waiting.iter().map(|w| w.notice.verdict.as_str()).collect();
        assert_eq!(verdicts, ["verified", "stale", "verified", "fork"]);
        spool.taken(&mut waiting[1], "exec").unwrap();
        spool.done(&waiting[0]).unwrap();
        let left = spool.waiting().unwrap();
        assert_eq!((left.len(), left[0].taken.clone()), (3, vec!["exec".to_owned()]));
        assert_eq!(spool.count(), 3);
    }

    #[test]
    fn a_crash_before_the_status_repeats_no_notice() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let before = spool.status(URL).unwrap();
        let mut status = before.clone();
        let notices = judged(&mut status, Verdict::Fork);
        spool.record(&notices, &status).unwrap();
        let mut waiting = spool.waiting().unwrap();
        spool.taken(&mut waiting[0], "exec").unwrap();
        // The status was not written: the next round starts from the one before.
        spool.save(&before).unwrap();
        let mut status = spool.status(URL).unwrap();
        let notices = judged(&mut status, Verdict::Fork);
        spool.record(&notices, &status).unwrap();
        assert_eq!(spool.waiting().unwrap(), waiting, "and who took it is not told again");
    }

    #[test]
    fn a_spool_is_of_one_watch_and_one_log() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        assert!(matches!(Spool::open(folder.path()), Err(SpoolError::Busy { .. })));
        spool.record(&[], &Status::new(URL)).unwrap();
        let other = spool.status("https://other.example");
        assert!(matches!(other, Err(SpoolError::OtherLog { .. })));
    }

    #[test]
    fn damaged_files_are_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        let mut status = spool.status(URL).unwrap();
        let notices = judged(&mut status, Verdict::Fork);
        spool.record(&notices, &status).unwrap();
        let waiting = spool.waiting().unwrap().remove(0);
        for junk in [&b""[..], b"{}", b"\0\0", br#"{"schema":"nexo.audit-watch/9"}"#] {
            for path in [&folder.path().join(STATUS), &waiting.path] {
                fs::write(path, junk).unwrap();
                assert_eq!(fs::read(path).unwrap(), junk);
            }
            assert!(matches!(spool.status(URL), Err(SpoolError::Damaged { .. })));
            assert!(matches!(spool.waiting(), Err(SpoolError::Damaged { .. })));
        }
    }

    #[test]
    fn other_files_are_nobodys_notice() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::open(folder.path()).unwrap();
        for name in ["x.json", "000000000001-zz.json", "1-00000000000000000000000000000000.json"] {
            fs::write(folder.path().join(name), "junk").unwrap();
        }
        assert_eq!(spool.waiting().unwrap(), []);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/spool");
        let spool = Spool::open(&place).unwrap();
        spool.record(&[], &Status::new(URL)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&place), mode(&place.join(STATUS))), (0o700, 0o600));
    }
}
