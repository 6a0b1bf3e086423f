//! The bare loop's database: the relay's own tables and pragmas, the fewest statements.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Text};
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use ed25519_dalek::{Signer as _, SigningKey};

use super::{BareError, conversation, device};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../schema/migrations/server/sqlite");

/// As the relay's, but that a commit copies the WAL back as SQLite does by itself.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 10000; \
     PRAGMA cache_size = -16000;";

const FIRST_HEAD: &str = "INSERT INTO log_head (id, origin, size, root, note, time) \
     VALUES (1, 'bare', 0, x'', x'', 0)";

/// Hashes in a tile, entries in a bundle.
const TILE: usize = 256;
/// Bytes of a hash.
pub(super) const HASH: usize = 32;
/// Bytes of a message's entry with its length in front: `enc("nexo/1/leaf", [kind, hash])`.
const ENTRY: usize = 2 + 4 + 11 + 4 + 4 + 1 + 4 + HASH;
/// Bytes of a signed head with its two signatures.
pub(super) const NOTE: usize = 380;

diesel::table! {
    messages (sth_index) {
        sth_index -> BigInt,
        conv_id -> Binary,
        msg_id -> Text,
        sender_device -> Text,
        sender_account -> Binary,
        native -> Bool,
        nonce_len -> Integer,
        cipher -> Binary,
        ad -> Binary,
        ts -> BigInt,
        content_hash -> Binary,
    }
}

diesel::table! {
    tiles (level, idx) {
        level -> Integer,
        idx -> BigInt,
        hashes -> Binary,
    }
}

diesel::table! {
    bundles (idx) {
        idx -> BigInt,
        entries -> Binary,
    }
}

diesel::table! {
    tail (start) {
        start -> BigInt,
        entries -> Binary,
    }
}

diesel::table! {
    heads (size) {
        size -> BigInt,
        root -> Binary,
        note -> Binary,
        time -> BigInt,
        staged_at -> BigInt,
    }
}

diesel::table! {
    log_head (id) {
        id -> Integer,
        size -> BigInt,
        root -> Binary,
        note -> Binary,
        time -> BigInt,
    }
}

/// A message on its way in.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The conversation.
    pub(super) conv: [u8; 32],
    /// Its id.
    pub(super) msg_id: String,
    /// Who sends it.
    pub(super) device: String,
    /// The ciphertext.
    pub(super) cipher: Vec<u8>,
    /// The exact bytes.
    pub(super) ad: Vec<u8>,
}

/// The database, with its one writer's connection.
pub(super) struct Store {
    conn: SqliteConnection,
    key: SigningKey,
    size: i64,
}

impl Store {
    /// Makes the database in `dir`, with `seats` devices and conversations.
    pub(super) fn create(dir: &Path, seats: usize) -> Result<Self, BareError> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("bare.db");
        let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
        conn.batch_execute(PRAGMAS)?;
        conn.run_pending_migrations(MIGRATIONS).map_err(|e| BareError::Migrate(e.to_string()))?;
        conn.transaction(|conn| (0..seats).try_for_each(|number| add_seat(conn, number)))?;
        conn.batch_execute(FIRST_HEAD)?;
        Ok(Self { conn, key: SigningKey::from_bytes(&[7; 32]), size: 0 })
    }

    /// Commits a batch at the second `now`; the place of its first message, from 1.
    pub(super) fn commit(&mut self, batch: &[Message], now: i64) -> Result<u64, BareError> {
        let Self { conn, key, size } = self;
        let (first, last) = (*size + 1, *size + batch.len() as i64);
        conn.immediate_transaction(|conn| {
            for (message, place) in batch.iter().zip(first..) {
                insert(conn, message, place, now)?;
            }
            write_edge(conn, *size, last)?;
            write_head(conn, key, last, now)
        })?;
        *size = last;
        Ok(first.unsigned_abs())
    }

    /// Commits what one message makes the relay write, alone, without a signature: the
    /// message of `payload` bytes, the log's edge and its head.
    pub(super) fn commit_message(&mut self, payload: usize) -> Result<(), BareError> {
        let message = self.next(payload);
        let Self { conn, size, .. } = self;
        conn.immediate_transaction(|conn| {
            insert(conn, &message, *size, 0)?;
            write_edge(conn, *size - 1, *size)?;
            store_head(conn, *size, &[0; NOTE], 0)
        })?;
        Ok(())
    }

    /// Commits the row of one message, alone.
    pub(super) fn commit_row(&mut self, payload: usize) -> Result<(), BareError> {
        let message = self.next(payload);
        let Self { conn, size, .. } = self;
        conn.immediate_transaction(|conn| insert(conn, &message, *size, 0))?;
        Ok(())
    }

    /// A message for the next place, which is taken.
    fn next(&mut self, payload: usize) -> Message {
        self.size += 1;
        Message {
            conv: conversation(0).0,
            msg_id: format!("{:032x}", self.size),
            device: device(&conversation(0)),
            cipher: vec![0x5a; payload],
            ad: br#"{"type":"text"}"#.to_vec(),
        }
    }
}

/// An account, its device and its conversation, for the foreign keys.
fn add_seat(conn: &mut SqliteConnection, number: usize) -> QueryResult<()> {
    let conv = conversation(number);
    let (id, name) = (conv.as_bytes(), device(&conv));
    for statement in [
        "INSERT INTO accounts (account_id, handle, native, created_index) VALUES (?1, ?2, 0, 0)",
        "INSERT INTO devices (device_id, account_id, ed25519_pub, x25519_pub, caps, not_after, \
         added_index) VALUES (?2, ?1, ?1, ?1, 0, 0, 0)",
        "INSERT INTO conversations (conv_id, kind, created) VALUES (?1, substr(?2, 1, 4), 0)",
    ] {
        diesel::sql_query(statement).bind::<Binary, _>(id).bind::<Text, _>(&name).execute(conn)?;
    }
    Ok(())
}

fn insert(conn: &mut SqliteConnection, message: &Message, place: i64, now: i64) -> QueryResult<()> {
    diesel::insert_into(messages::table)
        .values((
            messages::sth_index.eq(place),
            messages::conv_id.eq(&message.conv[..]),
            messages::msg_id.eq(&message.msg_id),
            messages::sender_device.eq(&message.device),
            messages::sender_account.eq(&message.conv[..]),
            messages::native.eq(false),
            messages::nonce_len.eq(0),
            messages::cipher.eq(&message.cipher),
            messages::ad.eq(&message.ad),
            messages::ts.eq(now),
            // As long as a hash.
            messages::content_hash.eq(&message.conv[..]),
        ))
        .execute(conn)
        .map(drop)
}

/// What a log growing from `from` to `to` entries writes of its edge. Level 0 and bundles are
/// written once they are full, and the entries behind them are added to the tail; tiles above
/// are written again whenever they grow.
fn write_edge(conn: &mut SqliteConnection, from: i64, to: i64) -> QueryResult<()> {
    let filler = [0xa5; TILE * ENTRY];
    let (tile, full) = (TILE as i64, to >> 8);
    for index in from >> 8..full {
        put_tile(conn, 0, index, &filler[..TILE * HASH])?;
        diesel::insert_into(bundles::table)
            .values((bundles::idx.eq(index), bundles::entries.eq(&filler[..])))
            .execute(conn)?;
    }
    for (level, shift) in [(1, 8), (2, 16)] {
        for (index, width) in changed(from >> shift, to >> shift) {
            put_tile(conn, level, index, &filler[..width * HASH])?;
        }
    }
    if from >> 8 < full {
        diesel::delete(tail::table).execute(conn)?;
    }
    let start = from.max(full * tile);
    if start < to {
        let added = usize::try_from(to - start).unwrap_or(TILE) * ENTRY;
        diesel::insert_into(tail::table)
            .values((tail::start.eq(start), tail::entries.eq(&filler[..added])))
            .execute(conn)?;
    }
    Ok(())
}

/// A tile of level 0 is stored once; one above grows in place.
fn put_tile(conn: &mut SqliteConnection, level: i32, index: i64, hashes: &[u8]) -> QueryResult<()> {
    if level > 0 {
        let row = diesel::update(tiles::table.find((level, index)));
        if row.set(tiles::hashes.eq(hashes)).execute(conn)? > 0 {
            return Ok(());
        }
    }
    diesel::insert_into(tiles::table)
        .values((tiles::level.eq(level), tiles::idx.eq(index), tiles::hashes.eq(hashes)))
        .execute(conn)
        .map(drop)
}

/// Index and new width of the tiles that change when a level grows.
fn changed(from: i64, to: i64) -> impl Iterator<Item = (i64, usize)> {
    let tile = TILE as i64;
    let indexes = if from < to { from / tile..(to - 1) / tile + 1 } else { 0..0 };
    indexes.map(move |index| {
        let width = (to - index * tile).clamp(0, tile);
        (index, usize::try_from(width).unwrap_or(TILE))
    })
}

/// A signed head, as long as the relay's.
fn write_head(
    conn: &mut SqliteConnection,
    key: &SigningKey,
    size: i64,
    now: i64,
) -> QueryResult<()> {
    let mut note = [b'x'; NOTE];
    note[..8].copy_from_slice(&size.to_be_bytes());
    let signature = key.sign(&note[..100]).to_bytes();
    note[NOTE - signature.len()..].copy_from_slice(&signature);
    store_head(conn, size, &note, now)
}

fn store_head(conn: &mut SqliteConnection, size: i64, note: &[u8], now: i64) -> QueryResult<()> {
    let root = [0x5a; HASH];
    diesel::update(log_head::table.find(1))
        .set((
            log_head::size.eq(size),
            log_head::root.eq(&root[..]),
            log_head::note.eq(note),
            log_head::time.eq(now),
        ))
        .execute(conn)?;
    diesel::insert_into(heads::table)
        .values((
            heads::size.eq(size),
            heads::root.eq(&root[..]),
            heads::note.eq(note),
            heads::time.eq(now),
            heads::staged_at.eq(now),
        ))
        .execute(conn)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: usize) -> Message {
        let conv = conversation(number % 3);
        Message {
            conv: conv.0,
            msg_id: format!("{number:032x}"),
            device: device(&conv),
            cipher: vec![1; 300],
            ad: b"{}".to_vec(),
        }
    }

    #[test]
    fn batches_fill_tables_as_the_relays_do() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path(), 3).unwrap();
        let all: Vec<Message> = (0..700).map(message).collect();
        assert_eq!(store.commit(&all[..100], 7).unwrap(), 1);
        assert_eq!(store.commit(&all[100..600], 8).unwrap(), 101);
        assert_eq!(store.commit(&all[600..], 9).unwrap(), 601);
        let conn = &mut store.conn;
        assert_eq!(messages::table.count().get_result(conn), Ok(700));
        assert_eq!(heads::table.select(heads::size).load(conn), Ok(vec![100i64, 600, 700]));
        let stored: Vec<(i32, i64, Vec<u8>)> =
            tiles::table.order((tiles::level, tiles::idx)).load(conn).unwrap();
        let widths: Vec<_> = stored.iter().map(|(l, i, h)| (*l, *i, h.len() / HASH)).collect();
        assert_eq!(widths, [(0, 0, 256), (0, 1, 256), (1, 0, 2)]);
        let entries: Vec<Vec<u8>> = bundles::table.select(bundles::entries).load(conn).unwrap();
        assert_eq!(entries.iter().map(|e| e.len() / ENTRY).collect::<Vec<_>>(), [256, 256]);
        let tail: Vec<(i64, Vec<u8>)> = tail::table.order(tail::start).load(conn).unwrap();
        let tail: Vec<_> = tail.iter().map(|(start, e)| (*start, e.len() / ENTRY)).collect();
        assert_eq!(tail, [(512, 88), (600, 100)], "as each batch left it");
    }

    #[test]
    fn lone_commits_write_the_same_tables() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path(), 1).unwrap();
        for _ in 0..257 {
            store.commit_message(300).unwrap();
        }
        let conn = &mut store.conn;
        assert_eq!(messages::table.count().get_result(conn), Ok(257));
        assert_eq!(heads::table.count().get_result(conn), Ok(257));
        assert_eq!(bundles::table.count().get_result(conn), Ok(1));
        assert_eq!(tail::table.select(tail::start).load(conn), Ok(vec![256i64]));
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path(), 1).unwrap();
        store.commit_row(300).unwrap();
        assert_eq!(messages::table.count().get_result(&mut store.conn), Ok(1));
        assert_eq!(heads::table.count().get_result(&mut store.conn), Ok(0));
    }

    #[test]
    fn an_entry_is_as_long_as_the_relays() {
        assert_eq!(2 + nexo_schema::entry::plain_message(&[0; HASH]).len(), ENTRY);
    }

    #[test]
    fn what_a_foreign_key_forbids_is_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path(), 1).unwrap();
        assert!(store.commit(&[message(1)], 7).is_err());
        assert_eq!(store.commit(&[message(0)], 7).unwrap(), 1);
    }
}
