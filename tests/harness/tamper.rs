//! What a stopped server keeps, copied and altered: what an operator, a thief or a bad disk could
//! do to it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Binary;
use nexo_schema::bytes::to_hex;
use tempfile::TempDir;

use super::Server;
use super::postgres::Database;
use super::server::Setup;

#[derive(QueryableByName)]
struct Blob {
    #[diesel(sql_type = Binary)]
    bytes: Vec<u8>,
}

/// Copies a data directory, keys and modes included, over whatever is there.
pub(crate) fn copy_data(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// All that a stopped server keeps, put aside.
pub(crate) struct Backup {
    data: TempDir,
    database: Option<Database>,
}

impl Backup {
    /// A copy of its data directory and database.
    pub(crate) fn of(server: &Server) -> Self {
        let data = TempDir::new().unwrap();
        copy_data(server.data(), data.path());
        Self { data, database: server.database().map(|database| database.copy()) }
    }

    /// Puts the database in place of a stopped server's, which keeps all else.
    pub(crate) fn restore(&self, server: &mut Server) {
        if let Some(database) = &self.database {
            return server.use_database(Arc::new(database.copy()));
        }
        for name in ["nexo.db", "nexo.db-wal", "nexo.db-shm"] {
            let (from, into) = (self.data.path().join(name), server.data().join(name));
            let _ = fs::remove_file(&into);
            if from.exists() {
                fs::copy(from, into).unwrap();
            }
        }
    }

    /// To be started with everything that was put aside, in the backup itself.
    pub(crate) fn place(&self) -> Setup {
        let setup = Setup::default().data(self.data.path());
        match &self.database {
            None => setup,
            Some(database) => setup.database(Arc::new(database.copy())),
        }
    }
}

/// Where a stopped server's tables are.
pub(crate) enum Tables<'a> {
    /// In this data directory.
    File(&'a Path),
    /// In PostgreSQL.
    Database(&'a Database),
}

impl<'a> From<&'a Path> for Tables<'a> {
    fn from(data: &'a Path) -> Self {
        Self::File(data)
    }
}

impl<'a> From<&'a Server> for Tables<'a> {
    fn from(server: &'a Server) -> Self {
        server.database().map_or(Self::File(server.data()), |database| Self::Database(database))
    }
}

/// Changes the hash of a full tile (from 0) in the stored level 1 tile above it.
pub(crate) fn alter_edge<'a>(tables: impl Into<Tables<'a>>, tile: usize) {
    tables.into().alter("tiles", "hashes", "level = 1 AND idx = 0", |edge| edge[tile * 32] ^= 1);
}

/// Forgets the event of a chain at a leaf (from 0), and keeps its entry.
pub(crate) fn forget_event(data: &Path, leaf: u64) {
    let path = data.join("nexo.db");
    let mut db = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let delete = format!("DELETE FROM key_events WHERE sth_index = {}", leaf + 1);
    assert_eq!(diesel::sql_query(delete).execute(&mut db).unwrap(), 1);
    db.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

/// Changes the event of a chain at a leaf (from 0), and keeps its entry.
pub(crate) fn alter_event(data: &Path, leaf: u64, change: impl FnOnce(&mut Vec<u8>)) {
    alter_file(data, "key_events", "event", &format!("sth_index = {}", leaf + 1), change);
}

/// Changes the newest batch of entries, which is not in a full bundle yet.
pub(crate) fn alter_newest<'a>(tables: impl Into<Tables<'a>>, change: impl FnOnce(&mut Vec<u8>)) {
    tables.into().alter("tail", "entries", "start = (SELECT max(start) FROM tail)", change);
}

/// Changes the hash of a leaf (from 0) in its stored level 0 tile, which is full.
pub(crate) fn alter_tile<'a>(tables: impl Into<Tables<'a>>, leaf: usize) {
    let row = format!("level = 0 AND idx = {}", leaf / 256);
    tables.into().alter("tiles", "hashes", &row, |tile| tile[leaf % 256 * 32] ^= 1);
}

/// Changes one bit in the last field of an entry (from 0) of a full bundle, which stays well
/// formed.
pub(crate) fn alter_entry<'a>(tables: impl Into<Tables<'a>>, leaf: usize) {
    let row = format!("idx = {}", leaf / 256);
    tables.into().alter("bundles", "entries", &row, |bundle| {
        let mut end = 0;
        for _ in 0..=leaf % 256 {
            end += 2 + usize::from(u16::from_be_bytes([bundle[end], bundle[end + 1]]));
        }
        bundle[end - 1] ^= 1;
    });
}

impl Tables<'_> {
    /// Runs `change` over one stored value.
    fn alter(&self, table: &str, column: &str, row: &str, change: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::File(data) => alter_file(data, table, column, row, change),
            Self::Database(database) => {
                let select = format!("SELECT encode({column}, 'hex') FROM {table} WHERE {row}");
                let hex = database.sql(&select);
                let mut value = from_hex(hex.trim());
                change(&mut value);
                let value = to_hex(&value);
                let set = format!("SET {column} = decode('{value}', 'hex') WHERE {row}");
                assert_eq!(database.sql(&format!("UPDATE {table} {set} RETURNING 1")), "1\n");
            }
        }
    }
}

fn alter_file(
    data: &Path,
    table: &str,
    column: &str,
    row: &str,
    change: impl FnOnce(&mut Vec<u8>),
) {
    let path = data.join("nexo.db");
    let mut db = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let select = format!("SELECT {column} AS bytes FROM {table} WHERE {row}");
    let found: Vec<Blob> = diesel::sql_query(&select).load(&mut db).unwrap();
    let [Blob { bytes: before }] = &found[..] else { panic!("{} rows: {select}", found.len()) };
    let mut after = before.clone();
    change(&mut after);
    assert_ne!(*before, after);
    let update = format!("UPDATE {table} SET {column} = ? WHERE {row}");
    let changed = diesel::sql_query(update).bind::<Binary, _>(after).execute(&mut db).unwrap();
    assert_eq!(changed, 1);
    // All of it in the one file.
    db.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

/// Bytes of any number; the schema crate's reader wants to know it.
fn from_hex(text: &str) -> Vec<u8> {
    let byte = |pair| u8::from_str_radix(pair, 16).unwrap();
    (0..text.len()).step_by(2).map(|at| byte(&text[at..at + 2])).collect()
}
