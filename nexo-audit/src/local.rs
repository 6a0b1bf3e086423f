//! A copy of a log's files in a directory, laid out as C2SP tlog-tiles names them.
//!
//! ```text
//! DIR/checkpoint
//! DIR/tile/<L>/<N>[.p/<W>]    DIR/tile/entries/<N>[.p/<W>]
//! DIR/log/keys, DIR/log/vkey                              where the log has them
//! ```
//!
//! Such a copy is what `wget` or a mirror makes of a log, and is read with the same distrust.

use crate::encoding::to_hex;
use crate::fetch::{FetchError, LogUrl, Source, UrlError};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Where a log is: an address, or a directory with a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Behind HTTP.
    Url(LogUrl),
    /// In files.
    Directory(PathBuf),
}

impl Place {
    /// What begins with `http://` or `https://` is an address, anything else a directory, which
    /// need not exist yet.
    ///
    /// # Errors
    /// [`UrlError`] for what begins like an address and is none.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return LogUrl::parse(text).map(Self::Url);
        }
        Ok(Self::Directory(PathBuf::from(text)))
    }

    /// A file name that no other place has.
    #[must_use]
    pub fn file_stem(&self) -> String {
        match self {
            Self::Url(url) => url.file_stem(),
            Self::Directory(path) => {
                // One name for a directory by all its paths; where there is none yet, by this.
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
                // A '+' begins no host name.
                format!("+directory+{}", to_hex(&hash[..8]))
            }
        }
    }
}

/// A log in a directory.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The log whose files are below `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Source for Directory {
    const LOCAL: bool = true;

    async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        let path = self.root.join(path);
        // Before it is opened: opening a pipe would wait for somebody who writes into it.
        let found = path.metadata().map_err(|error| of_io(&error))?;
        let length = found.len();
        if !found.is_file() {
            return Err(FetchError::NotFound);
        }
        let mut file = File::open(path).map_err(|error| of_io(&error))?;
        if length > limit as u64 {
            return Err(FetchError::TooLarge { limit });
        }
        // Not to the end, wherever that is by then, but what there is now: in one read.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(limit)];
        file.read_exact(&mut bytes).map_err(|error| of_io(&error))?;
        Ok(bytes)
    }
}

fn of_io(error: &io::Error) -> FetchError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => FetchError::NotFound,
        _ => FetchError::Broken { cause: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn places_are_told_apart() {
        let url = LogUrl::parse("https://a/b").unwrap();
        assert_eq!(Place::parse("https://a/b/"), Ok(Place::Url(url)));
        for path in ["copy", "/srv/log", "./http:", "ftp://a"] {
            assert_eq!(Place::parse(path), Ok(Place::Directory(path.into())));
        }
        assert_eq!(Place::parse("http://a?x"), Err(UrlError::Extra));
    }

    #[test]
    fn a_directory_has_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::create_dir(&path).unwrap();
        let stem = |path: PathBuf| Place::Directory(path).file_stem();
        assert_eq!(stem(path.clone()), stem(path.join("../a/.")));
        assert_ne!(stem(path), stem(other));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_pipe_in_a_copy_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("checkpoint");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let found = Directory::at(folder.path()).get("checkpoint", 9).await;
        assert_eq!(found, Err(FetchError::NotFound));
    }

    #[tokio::test]
    async fn files_are_read_within_their_bounds() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("tile/0")).unwrap();
        fs::write(folder.path().join("tile/0/000"), b"12345").unwrap();
        fs::write(folder.path().join("tile/0/001"), b"").unwrap();
        let source = Directory::at(folder.path());
        assert_eq!(source.get("tile/0/000", 5).await, Ok(b"12345".to_vec()));
        assert_eq!(source.get("tile/0/000", 4).await, Err(FetchError::TooLarge { limit: 4 }));
        assert_eq!(source.get("tile/0/001", 0).await, Ok(vec![]));
        for absent in ["tile/0/002", "tile/0/000/x", "tile/0", "log/consistency?from=1&to=2"] {
            assert_eq!(source.get(absent, 9).await, Err(FetchError::NotFound), "{absent}");
        }
    }
}
