//! The log's right edge: what a batch reads and writes of heads, tiles, bundles and tail.

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, Origin};

use super::fresh::keys_changed;
use super::pg_write::{self, PutTree};
use super::schema::{bundles, heads, log_head, tail, tiles};
use super::tree::{StoredHeadRow, newest_head, tail_of, tile};
use super::{Conn, StoreError, signed, unsigned};
use crate::log::{Staged, Stored, StoredHead, TILE_HEIGHT, TILE_WIDTH, TileWrite};

/// The channel on which servers that share a database ring each other; the payload is the
/// ringing server's name, so that it does not hear itself.
pub(super) const CHANNEL: &str = "nexo_log";

/// The time of the newest batch, Unix seconds; 0 before the first.
pub(super) fn last_staged(conn: &mut Conn) -> Result<u64, StoreError> {
    let last: Option<i64> =
        heads::table.select(heads::staged_at).order(heads::size.desc()).first(conn).optional()?;
    unsigned("heads", last.unwrap_or(0))
}

/// The newest head. On PostgreSQL nobody else moves it until the transaction ends; on SQLite
/// the transaction has the file's write lock.
pub(super) fn lock_head(conn: &mut Conn) -> Result<Option<StoredHeadRow>, StoreError> {
    match conn {
        Conn::Sqlite(_) => newest_head(conn),
        Conn::Postgres(conn) => pg_write::lock_head(conn),
    }
}

/// The edge of the log under `head`, to be read in one snapshot with it, or under its lock.
pub(super) fn load_edge(
    conn: &mut Conn,
    head: Option<StoredHeadRow>,
) -> Result<Stored, StoreError> {
    let Some(head) = head else { return Ok(Stored::default()) };
    let width = TILE_WIDTH as u64;
    let mut edge_tiles = Vec::new();
    for level in 1u8..8 {
        let hashes = head.size >> (u32::from(level) * TILE_HEIGHT);
        let Ok(partial) = usize::try_from(hashes % width) else { continue };
        if partial > 0 {
            let mut stored = tile(conn, level, hashes / width)?.unwrap_or_default();
            stored.truncate(partial * 32);
            edge_tiles.push((level, stored));
        }
    }
    let tail = tail_of(conn, head.size / width)?;
    Ok(stored(head, edge_tiles, tail))
}

pub(super) fn stored(head: StoredHeadRow, edge_tiles: Vec<(u8, Vec<u8>)>, tail: Vec<u8>) -> Stored {
    let StoredHeadRow { size, root, note, time } = head;
    Stored { head: Some(StoredHead { size, root, note, time }), edge_tiles, tail }
}

/// What is to be known of a head that another server moved.
pub(super) struct Moved {
    pub(super) stored: Stored,
    /// The time of its batch, Unix seconds.
    pub(super) last_staged: u64,
    /// Accounts whose devices changed since.
    pub(super) keys_changed: Vec<AccountId>,
}

/// What another server made of the log behind position `expected`; its head is locked.
pub(super) fn moved(
    conn: &mut Conn,
    head: Option<StoredHeadRow>,
    expected: u64,
) -> Result<Moved, StoreError> {
    match (conn, head) {
        (Conn::Postgres(conn), Some(head)) => pg_write::moved(conn, head, expected),
        (conn, head) => Ok(Moved {
            stored: load_edge(conn, head)?,
            last_staged: last_staged(conn)?,
            keys_changed: keys_changed(conn, expected)?,
        }),
    }
}

/// Everything a batch makes of the log, after a head of size `before`. On PostgreSQL the commit
/// also rings the other servers.
pub(super) fn write_log(
    conn: &mut Conn,
    origin: &Origin,
    staged: &Staged,
    now: u64,
    before: Option<u64>,
    own_name: &str,
) -> Result<(), StoreError> {
    if let (Conn::Postgres(conn), Some(_)) = (&mut *conn, before) {
        PutTree::of(staged, now, own_name).execute(conn)?;
        return Ok(());
    }
    write_tree(conn, staged)?;
    write_head(conn, origin, staged, now, before)
}

/// Tiles, bundles and tail of a batch.
fn write_tree(conn: &mut Conn, staged: &Staged) -> Result<(), StoreError> {
    for tile in &staged.tiles {
        put_tile(conn, tile)?;
    }
    for bundle in &staged.bundles {
        diesel::insert_into(bundles::table)
            .values((bundles::idx.eq(signed(bundle.index)), bundles::entries.eq(&bundle.data)))
            .execute(conn)?;
    }
    if !staged.bundles.is_empty() {
        diesel::delete(tail::table).execute(conn)?;
    }
    if let Some(added) = &staged.tail {
        diesel::insert_into(tail::table)
            .values((tail::start.eq(signed(added.start)), tail::entries.eq(&added.data)))
            .execute(conn)?;
    }
    Ok(())
}

/// A tile of level 0 is stored once; one above grows in place.
fn put_tile(conn: &mut Conn, tile: &TileWrite) -> Result<(), StoreError> {
    let key = (i32::from(tile.level), signed(tile.index));
    if tile.level > 0 {
        let grown = diesel::update(tiles::table.find(key))
            .set(tiles::hashes.eq(&tile.hashes))
            .execute(conn)?;
        if grown > 0 {
            return Ok(());
        }
    }
    diesel::insert_into(tiles::table)
        .values((tiles::level.eq(key.0), tiles::idx.eq(key.1), tiles::hashes.eq(&tile.hashes)))
        .execute(conn)?;
    Ok(())
}

/// The newest head, after one of size `before`, and what is kept of each size: the head of the
/// batch that reached it. A renewal replaces the newest alone, for the first time signature over
/// an entry is what dates it.
fn write_head(
    conn: &mut Conn,
    origin: &Origin,
    staged: &Staged,
    now: u64,
    before: Option<u64>,
) -> Result<(), StoreError> {
    let (size, time) = (signed(staged.size), signed(staged.time));
    let newest = (
        log_head::size.eq(size),
        log_head::root.eq(&staged.root[..]),
        log_head::note.eq(&staged.note),
        log_head::time.eq(time),
    );
    if before.is_some() {
        let changed = diesel::update(log_head::table.find(1)).set(newest).execute(conn)?;
        if changed != 1 {
            return Err(StoreError::corrupt("log_head", "the head is not one row"));
        }
    } else {
        diesel::insert_into(log_head::table)
            .values((log_head::id.eq(1), log_head::origin.eq(origin.as_str()), newest))
            .execute(conn)?;
    }
    if before != Some(staged.size) {
        diesel::insert_into(heads::table)
            .values((
                heads::size.eq(size),
                heads::root.eq(&staged.root[..]),
                heads::note.eq(&staged.note),
                heads::time.eq(time),
                heads::staged_at.eq(signed(now)),
            ))
            .execute(conn)?;
    }
    Ok(())
}
