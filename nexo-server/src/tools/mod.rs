//! The operator's tools, beside serving: they look at a whole database, carry it elsewhere, or
//! begin a new log. None of them writes an entry; that is the log's alone.
//!
//! `verify/` is `log verify` · `copy.rs` is `db copy` · `origin.rs` is `log new-origin` ·
//! `auditor_token.rs` is `auditor-token` · `run.rs` takes a command line's order to its output and exit code · `progress.rs` shows how
//! far a tool is, `interrupt.rs` hears Ctrl-C.

pub mod auditor_token;
pub mod copy;
mod interrupt;
pub mod origin;
mod progress;
pub mod run;
pub mod verify;

use std::path::Path;

use crate::log::{KeyError, LOG_KEY_FILE, LogKeys, TIME_KEY_FILE};

/// Why there are no keys to work with.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There is no log yet, or its keys are elsewhere.
    #[error("no {file} in {dir}: keys are made when the server first starts, and looked for with --keys", file = .0, dir = .1)]
    None(&'static str, String),
    /// They cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// The keys in a directory. Makes none: a log named by accident would stay named so.
///
/// # Errors
/// [`KeysError`].
pub fn existing_keys(dir: &Path) -> Result<LogKeys, KeysError> {
    for file in [LOG_KEY_FILE, TIME_KEY_FILE] {
        if !dir.join(file).exists() {
            return Err(KeysError::None(file, dir.display().to_string()));
        }
    }
    Ok(LogKeys::open(dir, None)?)
}
