//! `nexo-server db copy`: a whole database into another one, of the same engine or the other.
//!
//! The source takes no writes meanwhile. All of the destination is one transaction, committed
//! only if every table has as many rows as in the source and the entries hash, on either side,
//! to the root of the signed head. The marker in the data directory then still fits.

use indicatif::ProgressBar;
use nexo_schema::bytes::to_hex;

use super::verify::entries_root;
use crate::log::{Hash, LogKeys, OwnNoteError};
use crate::store::whole::{
    CopyError, LogHeadRow, TABLES, copy_all, log_head, row_counts, transfer,
};
use crate::store::{Conn, Database, StoreError};

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Reading, writing, or something in the way.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The log in the source does not hold together.
    #[error(
        "the entries of the source do not hash to the root of its head; see `nexo-server log verify`"
    )]
    Damaged,
    /// The head in the source is not signed by the given keys.
    #[error("{0}; are these the keys of the source?")]
    Keys(#[from] OwnNoteError),
    /// A table has another number of rows.
    #[error("{table} has {from} rows, and {into} after the copy; nothing was kept")]
    Rows {
        /// The table.
        table: &'static str,
        /// Rows in the source.
        from: u64,
        /// Rows in the destination.
        into: u64,
    },
    /// The copied entries hash to another root.
    #[error("the copied entries do not hash to the root of the source; nothing was kept")]
    Root,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Copy(error.into())
    }
}

/// What was copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Copied {
    /// The log's name; `None` if nothing was ever signed.
    pub origin: Option<String>,
    /// Entries in the log.
    pub size: u64,
    /// Its root, computed on either side.
    pub root: Option<Hash>,
    /// Rows of all tables.
    pub rows: u64,
}

impl std::fmt::Display for Copied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { origin, size, root, rows } = self;
        write!(f, "copied {rows} rows")?;
        match (origin, root) {
            (Some(origin), Some(root)) => {
                write!(f, "; {origin}: {size} entries, root {} on both sides", to_hex(root))
            }
            _ => write!(f, "; there was no log yet"),
        }
    }
}

/// Copies `source` to `destination`, which is made and must be empty. With `keys`, the head of
/// the source must be theirs.
///
/// # Errors
/// [`Failed`]; then the destination has no rows.
pub fn copy(
    source: &Database,
    destination: &Database,
    keys: Option<&LogKeys>,
    bar: &ProgressBar,
) -> Result<Copied, Failed> {
    transfer(source, destination, |from, into| {
        let before = row_counts(from)?;
        let rows = before.iter().map(|(_, rows)| rows).sum();
        let head = log_head(from)?;
        if let (Some(keys), Some(head)) = (keys, &head) {
            keys.verify_own(&head.note)?;
        }
        let size = head.as_ref().map_or(0, |head| u64::try_from(head.size).unwrap_or(0));
        // Entries are hashed twice, rows moved once.
        bar.set_length(rows + 2 * size);
        let root = root(from, head.as_ref(), bar)?.ok_or(Failed::Damaged)?;
        copy_all(from, into, &mut |table, more| {
            bar.set_message(table);
            bar.inc(more as u64);
        })?;
        compare(&before, &row_counts(into)?)?;
        let copied = log_head(into)?;
        if self::root(into, copied.as_ref(), bar)? != Some(root) {
            return Err(Failed::Root);
        }
        Ok(Copied { origin: head.map(|head| head.origin), size, root, rows })
    })
}

/// The root that the entries hash to, if that is the one of the head; `Some(None)` without a
/// log.
fn root(
    conn: &mut Conn,
    head: Option<&LogHeadRow>,
    bar: &ProgressBar,
) -> Result<Option<Option<Hash>>, StoreError> {
    let Some(head) = head else { return Ok(Some(None)) };
    bar.set_message("hashing entries");
    let Ok(size) = u64::try_from(head.size) else { return Ok(None) };
    let computed = entries_root(conn, size, &|entries| bar.inc(entries))?;
    Ok(computed.filter(|root| root[..] == head.root).map(Some))
}

fn compare(from: &[(&'static str, u64)], into: &[(&'static str, u64)]) -> Result<(), Failed> {
    debug_assert_eq!(from.len(), TABLES.len());
    for ((table, from), (_, into)) in from.iter().zip(into) {
        if from != into {
            return Err(Failed::Rows { table, from: *from, into: *into });
        }
    }
    Ok(())
}
