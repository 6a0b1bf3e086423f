//! Reading the log as others read it: heads, tiles, entry bundles.

use diesel::prelude::*;

use super::schema::{bundles, heads, log_head, tiles};
use super::{Conn, StoreError, hash32, signed, unsigned};
use crate::log::{Hash, Tiles, tile_hashes};

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

type HeadRow = (i64, Vec<u8>, Vec<u8>, i64);

/// The newest head, if anything was ever signed.
///
/// # Errors
/// [`StoreError`].
pub fn newest_head(conn: &mut Conn) -> Result<Option<StoredHeadRow>, StoreError> {
    let row = log_head::table
        .select((log_head::size, log_head::root, log_head::note, log_head::time))
        .first::<HeadRow>(conn)
        .optional()?;
    row.map(head).transpose()
}

/// The head signed at exactly this size.
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

/// The hashes stored for a tile: at least what any published head implies.
///
/// # Errors
/// [`StoreError`].
pub fn tile(conn: &mut Conn, level: u8, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let row = tiles::table.find((i32::from(level), signed(index))).select(tiles::hashes);
    Ok(row.first(conn).optional()?)
}

/// The entries stored for a bundle, each behind its 16-bit length.
///
/// # Errors
/// [`StoreError`].
pub fn bundle(conn: &mut Conn, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(bundles::table.find(signed(index)).select(bundles::entries).first(conn).optional()?)
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

fn head((size, root, note, time): HeadRow) -> Result<StoredHeadRow, StoreError> {
    Ok(StoredHeadRow {
        size: unsigned("heads", size)?,
        root: hash32("heads", &root)?,
        note,
        time: unsigned("heads", time)?,
    })
}
