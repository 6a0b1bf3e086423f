//! Where the logs lie: one that grows, and a copy of it at each size.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nexo_scripts::disk::{self, DiskError};
use tempfile::TempDir;

use crate::args::Plan;

/// The database in a data directory.
pub(crate) const DATABASE: &str = "nexo.db";

/// Bytes of disk that a leaf takes besides its ciphertext: its row, two index entries, its
/// entry, its hash, its part of a head; and pages that are not full. Measured, and rounded up.
const LEAF: u64 = 600;

/// Below so many leaves, what is measured would itself be growth; such logs are copied anew for
/// each round.
const SMALL: u64 = 500_000;

/// Why the logs have no place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SiteError {
    /// Files.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The disk cannot be asked.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It would end full, or nearly so.
    #[error(
        "logs of these sizes take about {needed} MB, and {} has {free} MB free: less than twice \
         that; make room, name another --dir, or smaller --sizes",
        dir.display()
    )]
    Narrow {
        /// Megabytes of all logs.
        needed: u64,
        /// Megabytes.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
}

/// The directory of the run; it goes with this.
#[derive(Debug)]
pub(crate) struct Site {
    dir: TempDir,
    growing: PathBuf,
    /// The largest size: its log is the one that grew.
    last: u64,
}

/// The data directory of a log that is to be measured, and goes afterwards if it is a copy.
#[derive(Debug)]
pub(crate) enum Place {
    /// Measured where it is.
    Kept(PathBuf),
    /// For one round.
    Copy(TempDir),
}

impl Place {
    /// The data directory.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Copy(dir) => dir.path(),
        }
    }
}

impl Site {
    /// Makes the directory if the disk has twice the room that the logs will take.
    pub(crate) fn prepare(plan: &Plan) -> Result<Self, SiteError> {
        let parent = plan.dir.clone().unwrap_or_else(std::env::temp_dir);
        let needed = needed(&plan.sizes, plan.payload);
        let free = disk::free(&parent)?;
        if free / 2 < needed {
            let (needed, free) = (needed >> 20, free >> 20);
            return Err(SiteError::Narrow { needed, free, dir: parent });
        }
        let dir = TempDir::new_in(&parent).map_err(at(&parent))?;
        let growing = dir.path().join("growing");
        private(&growing)?;
        Ok(Self { dir, growing, last: plan.sizes.last().copied().unwrap_or_default() })
    }

    /// The log that grows, until the last size is reached.
    pub(crate) fn growing(&self) -> &Path {
        &self.growing
    }

    /// Keeps the log as it is now, closed, as the one of this size.
    pub(crate) fn keep(&mut self, size: u64) -> Result<(), SiteError> {
        if size == self.last {
            return Ok(());
        }
        let kept = self.kept(size);
        private(&kept)?;
        copy(&self.growing, &kept)
    }

    /// The log of this size, for one round.
    pub(crate) fn place(&self, size: u64) -> Result<Place, SiteError> {
        let kept = if size == self.last { self.growing.clone() } else { self.kept(size) };
        if size >= SMALL {
            return Ok(Place::Kept(kept));
        }
        let scratch = TempDir::new_in(self.dir.path()).map_err(at(self.dir.path()))?;
        copy(&kept, scratch.path())?;
        Ok(Place::Copy(scratch))
    }

    fn kept(&self, size: u64) -> PathBuf {
        self.dir.path().join(size.to_string())
    }
}

/// Takes the database out of the system's cache.
pub(crate) fn chill(data: &Path) -> Result<(), SiteError> {
    Ok(disk::chill(&data.join(DATABASE))?)
}

/// Bytes that logs of all these sizes take, one beside the other.
fn needed(sizes: &[u64], payload: u16) -> u64 {
    let leaves: u64 = sizes.iter().sum();
    leaves.saturating_mul(LEAF + u64::from(payload))
}

fn private(dir: &Path) -> Result<(), SiteError> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(at(dir))
}

/// Copies the files of a data directory.
fn copy(from: &Path, to: &Path) -> Result<(), SiteError> {
    for entry in fs::read_dir(from).map_err(at(from))? {
        let file = entry.map_err(at(from))?;
        fs::copy(file.path(), to.join(file.file_name())).map_err(at(&file.path()))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SiteError {
    let path = path.to_owned();
    |source| SiteError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn plan(dir: &Path, sizes: &str) -> Plan {
        let dir = dir.to_str().unwrap();
        Plan::parse_from(["growth", "--spawn", "x", "--dir", dir, "--sizes", sizes])
    }

    #[test]
    fn a_log_is_kept_at_each_size_and_small_ones_are_copied_for_a_round() {
        let dir = tempfile::tempdir().unwrap();
        let mut site = Site::prepare(&plan(dir.path(), "1k,600k")).unwrap();
        let read = |place: &Place| fs::read_to_string(place.path().join(DATABASE)).unwrap();
        fs::write(site.growing().join(DATABASE), "small").unwrap();
        site.keep(1000).unwrap();
        fs::write(site.growing().join(DATABASE), "large").unwrap();
        site.keep(600_000).unwrap();
        let small = site.place(1000).unwrap();
        assert_eq!(read(&small), "small");
        fs::write(small.path().join(DATABASE), "used").unwrap();
        let scratch = small.path().to_owned();
        drop(small);
        assert!(!scratch.exists());
        assert_eq!(read(&site.place(1000).unwrap()), "small");
        let large = site.place(600_000).unwrap();
        assert_eq!((read(&large).as_str(), large.path()), ("large", site.growing()));
        drop(site);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_too_small_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Site::prepare(&plan(dir.path(), "1000m,999m,998m,997m,996m,995m"));
        assert!(matches!(refused, Err(SiteError::Narrow { .. })));
        assert_eq!(needed(&[10, 20], 40), 30 * (LEAF + 40));
    }
}
