//! Files that commands are given: read within a bound, from a path or from stdin.

use super::RunError;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The bytes of a file, or of stdin for `-`. Of a longer one `limit` bytes and one more, which
/// every format refuses as too long.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, RunError> {
    let open = || -> io::Result<Box<dyn Read>> {
        Ok(if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path)?)
        })
    };
    let mut bytes = Vec::new();
    open()
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| RunError::Input { path: path.to_owned(), source })?;
    Ok(bytes)
}
