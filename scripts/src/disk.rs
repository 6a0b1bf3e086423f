//! Space on a disk, and files out of its cache: what the system's own `df` and `dd` do.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why the disk cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The program does not run.
    #[error("{program} does not run: {source}")]
    Spawn {
        /// Which one.
        program: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It ran and did not do it.
    #[error("{program} did not do it for {path}: {said}")]
    Failed {
        /// Which one.
        program: &'static str,
        /// Whereon.
        path: PathBuf,
        /// What it says.
        said: String,
    },
}

/// Bytes that may be written to the file system of `path`.
///
/// # Errors
/// [`DiskError`].
pub fn free(path: &Path) -> Result<u64, DiskError> {
    let said = run("df", path, &["-Pk".into(), path.as_os_str().to_owned()])?;
    parse_df(&said).ok_or_else(|| failed("df", path, &said))
}

/// Takes a file out of the system's cache, so that the next read of it is one of the disk.
/// What of it is not written yet stays.
///
/// # Errors
/// [`DiskError`].
pub fn chill(file: &Path) -> Result<(), DiskError> {
    let mut input = std::ffi::OsString::from("if=");
    input.push(file);
    // Counting no block, it reads nothing, and advises for the whole file.
    run("dd", file, &[input, "iflag=nocache".into(), "count=0".into()]).map(drop)
}

fn run(
    program: &'static str,
    path: &Path,
    args: &[std::ffi::OsString],
) -> Result<String, DiskError> {
    let done = Command::new(program).args(args).env("LC_ALL", "C").output();
    let done = done.map_err(|source| DiskError::Spawn { program, source })?;
    if !done.status.success() {
        return Err(failed(program, path, &String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn failed(program: &'static str, path: &Path, said: &str) -> DiskError {
    DiskError::Failed { program, path: path.to_owned(), said: said.trim().to_owned() }
}

/// ```text
/// Filesystem 1024-blocks Used Available Capacity Mounted on      POSIX df -Pk
/// ```
fn parse_df(said: &str) -> Option<u64> {
    let available = said.lines().nth(1)?.split_whitespace().nth(3)?;
    available.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_is_read_in_its_portable_form() {
        let said = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                    /dev/vda 263174212 24 70787244 27% /\n";
        assert_eq!(parse_df(said), Some(70_787_244 * 1024));
        assert_eq!(parse_df(""), None);
        assert_eq!(parse_df("a\nb c d -1"), None);
    }

    #[test]
    fn a_disk_has_some_room_and_a_file_can_be_chilled() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free(dir.path()).unwrap() > 0);
        let file = dir.path().join("a file");
        std::fs::write(&file, "text").unwrap();
        chill(&file).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text", "and nothing else happened");
        let missing = dir.path().join("missing");
        assert!(matches!(free(&missing), Err(DiskError::Failed { program: "df", .. })));
        assert!(matches!(chill(&missing), Err(DiskError::Failed { program: "dd", .. })));
    }
}
