//! A stopped server's data directory, copied and altered: what an operator, a thief or a bad
//! disk could do to it.

use std::fs;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::Binary;

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

/// Puts the database of one data directory in place of another's, which keeps all else.
pub(crate) fn put_database(from: &Path, into: &Path) {
    for name in ["nexo.db", "nexo.db-wal", "nexo.db-shm"] {
        let _ = fs::remove_file(into.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), into.join(name)).unwrap();
        }
    }
}

/// Changes the hash of a leaf (from 0) in its stored level 0 tile.
pub(crate) fn alter_tile(data: &Path, leaf: usize) {
    alter(
        data,
        &format!("hashes AS bytes FROM tiles WHERE level = 0 AND idx = {}", leaf / 256),
        |t| {
            t[leaf % 256 * 32] ^= 1;
        },
    );
}

/// Changes one bit in the last field of a stored entry (from 0), which stays well formed.
pub(crate) fn alter_entry(data: &Path, leaf: usize) {
    alter(data, &format!("entries AS bytes FROM bundles WHERE idx = {}", leaf / 256), |bundle| {
        let mut end = 0;
        for _ in 0..=leaf % 256 {
            end += 2 + usize::from(u16::from_be_bytes([bundle[end], bundle[end + 1]]));
        }
        bundle[end - 1] ^= 1;
    });
}

/// Runs `change` over one stored value, named as in `SELECT <column> AS bytes FROM <row>`.
fn alter(data: &Path, value: &str, change: impl FnOnce(&mut [u8])) {
    let path = data.join("nexo.db");
    let mut db = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    let found: Vec<Blob> = diesel::sql_query(format!("SELECT {value}")).load(&mut db).unwrap();
    let [Blob { bytes: before }] = &found[..] else { panic!("{} rows: {value}", found.len()) };
    let mut after = before.clone();
    change(&mut after);
    assert_ne!(*before, after);
    let (column, rest) = value.split_once(" AS bytes FROM ").unwrap();
    let (table, row) = rest.split_once(" WHERE ").unwrap();
    let update = format!("UPDATE {table} SET {column} = ? WHERE {row}");
    let changed = diesel::sql_query(update).bind::<Binary, _>(after).execute(&mut db).unwrap();
    assert_eq!(changed, 1);
    // All of it in the one file.
    db.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}
