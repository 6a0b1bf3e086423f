//! All tables of one database into another, empty one, of any engine.
//!
//! The source takes no writes meanwhile, and the destination has all or nothing: what is copied
//! is one transaction there. Rows stream in the order of their keys; a few hundred are in memory
//! at a time.

use diesel::connection::{
    AnsiTransactionManager, DefaultLoadingMode, SimpleConnection as _, TransactionManager as _,
};
use diesel::pg::PgRowByRowLoadingMode;
use diesel::prelude::*;

use super::super::{Conn, Database, StoreError};
use super::snapshot::existing;

/// Rows written at once.
const CHUNK: usize = 500;

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A server is writing to the source and does not stop.
    #[error("the source is being written to; stop its servers first ({0})")]
    SourceBusy(diesel::result::Error),
    /// There is something at the destination.
    #[error("the destination is not empty: it has rows in {0}; name a fresh database")]
    NotEmpty(&'static str),
}

impl From<diesel::result::Error> for CopyError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Locks `source` against writers, makes `destination` an empty database of this program's
/// schema, and runs `work` with both. What `work` does to the destination is kept only if it
/// succeeds.
///
/// # Errors
/// [`CopyError`], or what `work` returns.
pub fn transfer<T, E: From<CopyError>>(
    source: &Database,
    destination: &Database,
    work: impl FnOnce(&mut Conn, &mut Conn) -> Result<T, E>,
) -> Result<T, E> {
    let mut from = locked(source)?;
    let mut into = fresh(destination)?;
    let done = work(&mut from, &mut into)?;
    commit(&mut into).map_err(CopyError::from)?;
    Ok(done)
}

/// The source, in a transaction that keeps writers out until its connection ends.
fn locked(source: &Database) -> Result<Conn, CopyError> {
    let mut conn = existing(source)?;
    let locked = match &mut conn {
        Conn::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")
        }
        Conn::Postgres(conn) => {
            // The locks first: the state that the queries see is the one after them.
            let all = TABLES.join(", ");
            let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ";
            AnsiTransactionManager::begin_transaction_sql(conn, begin)
                .and_then(|()| conn.batch_execute(&format!("LOCK TABLE {all} IN SHARE MODE")))
        }
    };
    locked.map_err(CopyError::SourceBusy)?;
    Ok(conn)
}

/// The destination with its tables, all empty, in a transaction.
fn fresh(destination: &Database) -> Result<Conn, CopyError> {
    drop(destination.prepare()?);
    let mut conn = existing(destination)?;
    match &mut conn {
        Conn::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")?;
        }
        Conn::Postgres(conn) => AnsiTransactionManager::begin_transaction(conn)?,
    }
    match row_counts(&mut conn)?.into_iter().find(|(_, rows)| *rows > 0) {
        Some((table, _)) => Err(CopyError::NotEmpty(table)),
        None => Ok(conn),
    }
}

fn commit(conn: &mut Conn) -> QueryResult<()> {
    match conn {
        Conn::Sqlite(conn) => AnsiTransactionManager::commit_transaction(conn),
        Conn::Postgres(conn) => {
            AnsiTransactionManager::commit_transaction(conn)?;
            // Without counts of its own PostgreSQL would plan the first queries badly.
            conn.batch_execute("ANALYZE")
        }
    }
}

/// Gives the rows to `put` in chunks, and says how many they were.
fn pour<R>(
    rows: impl Iterator<Item = QueryResult<R>>,
    mut put: impl FnMut(Vec<R>) -> QueryResult<()>,
) -> Result<u64, StoreError> {
    let (mut chunk, mut all) = (Vec::with_capacity(CHUNK), 0);
    for row in rows {
        chunk.push(row?);
        all += 1;
        if chunk.len() == CHUNK {
            put(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)))?;
        }
    }
    if !chunk.is_empty() {
        put(chunk)?;
    }
    Ok(all)
}

/// Everything that is said of each table, once: its columns, and the key by which it is read.
macro_rules! tables {
    ($($table:ident($($column:ident: $kind:ty),+) by ($($key:ident),+);)+) => {
        /// Every table, in an order in which each row finds what it points at.
        pub const TABLES: &[&str] = &[$(stringify!($table)),+];

        /// How many rows each table has.
        ///
        /// # Errors
        /// [`StoreError`].
        pub fn row_counts(conn: &mut Conn) -> Result<Vec<(&'static str, u64)>, StoreError> {
            Ok(vec![$((stringify!($table), $table::count(conn)?)),+])
        }

        /// Copies every row. `told` hears a table's name and how many more rows of it are there.
        ///
        /// # Errors
        /// [`StoreError`].
        pub fn copy_all(
            from: &mut Conn,
            into: &mut Conn,
            told: &mut dyn FnMut(&'static str, usize),
        ) -> Result<(), StoreError> {
            $($table::copy(from, into, told)?;)+
            Ok(())
        }

        $(mod $table {
            use super::*;
            use crate::store::schema::$table::{self, dsl};

            #[derive(Queryable, Insertable)]
            #[diesel(table_name = $table)]
            #[diesel(treat_none_as_default_value = false)]
            struct Row {
                $($column: $kind),+
            }

            pub(super) fn count(conn: &mut Conn) -> Result<u64, StoreError> {
                let rows: i64 = $table::table.count().get_result(conn)?;
                crate::store::unsigned(stringify!($table), rows)
            }

            pub(super) fn copy(
                from: &mut Conn,
                into: &mut Conn,
                told: &mut dyn FnMut(&'static str, usize),
            ) -> Result<u64, StoreError> {
                let rows = $table::table.order(($(dsl::$key,)+));
                let put = |rows: Vec<Row>| {
                    put(into, &rows)?;
                    told(stringify!($table), rows.len());
                    Ok(())
                };
                match from {
                    Conn::Sqlite(from) => {
                        pour(rows.load_iter::<Row, DefaultLoadingMode>(from)?, put)
                    }
                    Conn::Postgres(from) => {
                        pour(rows.load_iter::<Row, PgRowByRowLoadingMode>(from)?, put)
                    }
                }
            }

            fn put(into: &mut Conn, rows: &Vec<Row>) -> QueryResult<()> {
                match into {
                    Conn::Sqlite(into) => {
                        diesel::insert_into($table::table).values(rows).execute(into).map(drop)
                    }
                    Conn::Postgres(into) => {
                        diesel::copy_from($table::table)
                            .from_insertable(rows)
                            .execute(into)
                            .map(drop)
                    }
                }
            }
        })+
    };
}

tables! {
    accounts(account_id: Vec<u8>, handle: String, native: bool, created_index: i64)
        by (account_id);
    devices(device_id: String, account_id: Vec<u8>, ed25519_pub: Vec<u8>, x25519_pub: Vec<u8>,
        caps: i32, not_after: i64, added_index: i64, revoked_index: Option<i64>,
        conversations: Vec<u8>)
        by (device_id);
    key_events(sth_index: i64, account_id: Vec<u8>, seq: i64, event: Vec<u8>, sig: Vec<u8>,
        accept_sig: Vec<u8>)
        by (sth_index);
    send_counters(device_id: String, highest: i64, used: Vec<u8>) by (device_id);
    account_usage(account_id: Vec<u8>, messages: i64, bytes: i64) by (account_id);
    usage_counted(id: i32) by (id);
    challenges(nonce: String, device_id: String, request: Vec<u8>, exp: i64) by (nonce);
    refresh_tokens(hash: Vec<u8>, family: Vec<u8>, device_id: String, jkt: Option<String>,
        exp: i64, rotated_at: Option<i64>)
        by (hash);
    link_requests(link_id: Vec<u8>, ed25519_pub: Vec<u8>, name: Vec<u8>, opening: Vec<u8>,
        sig: Vec<u8>, exp: i64, account_id: Option<Vec<u8>>, event: Option<Vec<u8>>,
        event_sig: Option<Vec<u8>>)
        by (link_id);
    invites(hash: Vec<u8>, uses_left: i64, exp: i64) by (hash);
    auditor_tokens(hash: Vec<u8>, exp: i64) by (hash);
    proofs_seen(mark: Vec<u8>, exp: i64) by (mark);
    socket_cursors(device_id: String, name: String, place: i64) by (device_id, name);
    conversations(conv_id: Vec<u8>, kind: String, created: i64) by (conv_id);
    participants(conv_id: Vec<u8>, account_id: Vec<u8>) by (conv_id, account_id);
    messages(sth_index: i64, conv_id: Vec<u8>, msg_id: String, sender_device: String,
        sender_account: Vec<u8>, native: bool, nonce_len: i32, cipher: Vec<u8>, ad: Vec<u8>,
        ts: i64, content_hash: Vec<u8>, deleted_index: Option<i64>)
        by (sth_index);
    packets(sth_index: i64, device_id: String, packet: Vec<u8>, hash: Vec<u8>)
        by (sth_index, device_id);
    retries(sth_index: i64, device_id: String, asked: i32, answered: i32,
        packet: Option<Vec<u8>>, at: i64)
        by (sth_index, device_id);
    deletions(sth_index: i64, conv_id: Vec<u8>, target_index: i64, target_msg_id: String,
        device_id: String, account_id: Vec<u8>, statement: Option<Vec<u8>>,
        sig: Option<Vec<u8>>, ts: i64)
        by (sth_index);
    fallback_prekeys(device_id: String, id: i64, x25519: Vec<u8>, kem: Vec<u8>,
        not_before: i64, not_after: i64, sig: Vec<u8>)
        by (device_id);
    one_time_prekeys(device_id: String, id: i64, x25519: Vec<u8>, kem: Vec<u8>, sig: Vec<u8>)
        by (device_id, id);
    prekey_marks(device_id: String, one_time: i64) by (device_id);
    prekey_claims(claimer: Vec<u8>, device_id: String, at: i64) by (claimer, device_id, at);
    log_head(id: i32, origin: String, size: i64, root: Vec<u8>, note: Vec<u8>, time: i64)
        by (id);
    heads(size: i64, root: Vec<u8>, note: Vec<u8>, time: i64, staged_at: i64) by (size);
    tiles(level: i32, idx: i64, hashes: Vec<u8>) by (level, idx);
    bundles(idx: i64, entries: Vec<u8>) by (idx);
    tail(start: i64, entries: Vec<u8>) by (start);
}

#[cfg(test)]
mod tests {
    use diesel::sql_types::Text;

    use super::*;

    #[derive(QueryableByName)]
    struct Name {
        #[diesel(sql_type = Text)]
        name: String,
    }

    /// A table that was forgotten would be lost with the source.
    #[test]
    fn every_table_of_the_schema_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = Database::File(dir.path().join("nexo.db")).prepare().unwrap();
        let list = "SELECT name FROM sqlite_schema WHERE type = 'table' \
             AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '\\_\\_%' ESCAPE '\\' ORDER BY name";
        let there: Vec<Name> = diesel::sql_query(list).load(&mut conn).unwrap();
        let there: Vec<&str> = there.iter().map(|table| table.name.as_str()).collect();
        let mut copied = TABLES.to_vec();
        copied.sort_unstable();
        assert_eq!(copied, there);
    }

    #[test]
    fn a_source_that_is_written_to_is_not_copied_and_neither_is_one_of_another_version() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| Database::File(dir.path().join(name));
        let (source, destination) = (place("a.db"), place("b.db"));
        drop(source.prepare().unwrap());
        let mut server = source.connect().unwrap();
        let Conn::Sqlite(writer) = &mut server else { panic!() };
        AnsiTransactionManager::begin_transaction_sql(writer, "BEGIN IMMEDIATE").unwrap();
        let copied = transfer(&source, &destination, |_, _| Ok::<_, CopyError>(()));
        assert!(matches!(copied, Err(CopyError::SourceBusy(_))));
        assert!(!dir.path().join("b.db").exists(), "nothing is made for nothing");
        AnsiTransactionManager::rollback_transaction(writer).unwrap();
        transfer(&source, &destination, |_, _| Ok::<_, CopyError>(())).unwrap();

        let forget = "DELETE FROM __diesel_schema_migrations WHERE version = \
             (SELECT max(version) FROM __diesel_schema_migrations)";
        writer.batch_execute(forget).unwrap();
        let copied = transfer(&source, &destination, |_, _| Ok::<_, CopyError>(()));
        assert!(matches!(copied, Err(CopyError::Store(StoreError::Migrate(_)))));
        let nowhere = transfer(&place("none.db"), &destination, |_, _| Ok::<_, CopyError>(()));
        assert!(matches!(nowhere, Err(CopyError::Store(StoreError::Connect(_)))));
        assert!(!dir.path().join("none.db").exists());
    }
}
