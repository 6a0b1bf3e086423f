//! Reading the log as others read it: heads, tiles, entry bundles.

use diesel::prelude::*;

use super::schema::{bundles, heads, log_head, tail, tiles};
use super::{Conn, StoreError, hash32, signed, unsigned};
use crate::log::{Hash, TILE_WIDTH, Tiles, bundle_entries, leaf_hash, tile_hashes};

/// A signed head as stored.
#[derive(Debug, Clone)]
pub struct StoredHeadRow {
    /// Entries in the tree.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
    /// The signed checkpoint.
    pub note: Vec<u8>,
    /// When it was signed, Unix seconds.
    pub time: u64,
}

pub(super) type HeadRow = (i64, Vec<u8>, Vec<u8>, i64);

/// The newest head, if anything was ever signed.
///
/// # Errors
/// [`StoreError`].
pub fn newest_head(conn: &mut Conn) -> Result<Option<StoredHeadRow>, StoreError> {
    let row = log_head::table
        .find(1)
        .select((log_head::size, log_head::root, log_head::note, log_head::time))
        // Not `first`: its LIMIT is a parameter, for which SQLite prepares the statement again.
        .get_result::<HeadRow>(conn)
        .optional()?;
    row.map(head).transpose()
}

/// The head signed at exactly this size, as it was first signed.
///
/// # Errors
/// [`StoreError`].
pub fn head_at(conn: &mut Conn, size: u64) -> Result<Option<StoredHeadRow>, StoreError> {
    let row = heads::table
        .find(signed(size))
        .select((heads::size, heads::root, heads::note, heads::time))
        .first::<HeadRow>(conn)
        .optional()?;
    row.map(head).transpose()
}

/// The smallest head whose tree has the entry at position `index`, from 1, as it was first signed.
///
/// # Errors
/// [`StoreError`].
pub fn head_covering(conn: &mut Conn, index: u64) -> Result<Option<StoredHeadRow>, StoreError> {
    let row = heads::table
        .filter(heads::size.ge(signed(index)))
        .order(heads::size)
        .select((heads::size, heads::root, heads::note, heads::time))
        .first::<HeadRow>(conn)
        .optional()?;
    row.map(head).transpose()
}

/// The hashes stored for a tile: at least what any published head implies.
///
/// # Errors
/// [`StoreError`].
pub fn tile(conn: &mut Conn, level: u8, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    if level == 0 {
        let entries = tail_of(conn, index)?;
        if !entries.is_empty() {
            return leaf_hashes(&entries).map(Some);
        }
    }
    let row = tiles::table.find((i32::from(level), signed(index))).select(tiles::hashes);
    Ok(row.first(conn).optional()?)
}

/// The entries stored for a bundle, each behind its 16-bit length.
///
/// # Errors
/// [`StoreError`].
pub fn bundle(conn: &mut Conn, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let entries = tail_of(conn, index)?;
    if !entries.is_empty() {
        return Ok(Some(entries));
    }
    Ok(bundles::table.find(signed(index)).select(bundles::entries).first(conn).optional()?)
}

/// The entries of a bundle that is not full yet. Read before the full ones: between the two
/// reads it may become one of them, but never the other way round.
pub(super) fn tail_of(conn: &mut Conn, bundle: u64) -> Result<Vec<u8>, StoreError> {
    let start = bundle.saturating_mul(TILE_WIDTH as u64);
    let end = start.saturating_add(TILE_WIDTH as u64);
    let parts: Vec<Vec<u8>> = tail::table
        .filter(tail::start.ge(signed(start)))
        .filter(tail::start.lt(signed(end)))
        .order(tail::start)
        .select(tail::entries)
        .load(conn)?;
    Ok(parts.concat())
}

fn leaf_hashes(entries: &[u8]) -> Result<Vec<u8>, StoreError> {
    let entries = bundle_entries(entries);
    let entries = entries.ok_or_else(|| StoreError::corrupt("tail", "an entry is cut off"))?;
    Ok(entries.into_iter().flat_map(leaf_hash).collect())
}

/// The stored tiles, for building proofs.
pub struct StoredTiles<'a>(pub &'a mut Conn);

impl Tiles for StoredTiles<'_> {
    type Error = StoreError;

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, StoreError> {
        let short = || StoreError::corrupt("tiles", "a tile is missing or shorter than its tree");
        let bytes = tile(self.0, level, index)?.ok_or_else(short)?;
        let wanted = bytes.get(..usize::from(width) * 32).ok_or_else(short)?;
        tile_hashes(wanted).ok_or_else(short)
    }
}

pub(super) fn head((size, root, note, time): HeadRow) -> Result<StoredHeadRow, StoreError> {
    Ok(StoredHeadRow {
        size: unsigned("heads", size)?,
        root: hash32("heads", &root)?,
        note,
        time: unsigned("heads", time)?,
    })
}
