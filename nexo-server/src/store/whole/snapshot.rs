//! Several connections that see one state of the database.

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::super::schema::log_head;
use super::super::{Conn, Database, StoreError};

/// What the tools change of a server's settings: their queries may take long, and so may the
/// pauses between them.
const PATIENCE: &str = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;";
/// One state for all queries, to which other connections can be set.
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection inside a transaction that only reads. Ends with its value.
pub struct Snapshot(pub(super) Conn);

impl Snapshot {
    /// The connection, for the queries of this folder and of [`crate::store`].
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.0
    }
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

/// Opens `count` connections on one and the same state of the database. It is not created or
/// brought up to date, and servers go on beside it: only for a moment does a SQLite file take
/// no writes.
///
/// # Errors
/// [`StoreError`] if it is not there, not of this program's version, or busy.
pub fn snapshots(database: &Database, count: usize) -> Result<Vec<Snapshot>, StoreError> {
    let mut gate = existing(database)?;
    match &mut gate {
        // While one holds the write lock nothing changes, so all that begin are of one state.
        Conn::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")?;
        }
        Conn::Postgres(conn) => AnsiTransactionManager::begin_transaction_sql(conn, BEGIN)?,
    }
    let name = match &mut gate {
        Conn::Sqlite(_) => None,
        Conn::Postgres(conn) => {
            let exported = "SELECT pg_export_snapshot() AS name";
            Some(diesel::sql_query(exported).get_result::<Name>(conn)?.name)
        }
    };
    let opened = (0..count).map(|_| member(database, name.as_deref())).collect();
    match &mut gate {
        Conn::Sqlite(conn) => AnsiTransactionManager::rollback_transaction(conn)?,
        Conn::Postgres(conn) => AnsiTransactionManager::rollback_transaction(conn)?,
    }
    opened
}

fn member(database: &Database, name: Option<&str>) -> Result<Snapshot, StoreError> {
    let mut conn = database.connect()?;
    match &mut conn {
        Conn::Sqlite(conn) => {
            conn.batch_execute("PRAGMA query_only = ON")?;
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN")?;
        }
        Conn::Postgres(conn) => {
            conn.batch_execute(PATIENCE)?;
            AnsiTransactionManager::begin_transaction_sql(conn, BEGIN)?;
            if let Some(name) = name {
                // A name PostgreSQL has just made: hex digits and dashes.
                conn.batch_execute(&format!("SET TRANSACTION SNAPSHOT '{name}'"))?;
            }
        }
    }
    // SQLite's snapshot is taken with the first read.
    log_head::table.count().get_result::<i64>(&mut conn)?;
    Ok(Snapshot(conn))
}

/// A connection to a database that is there and has this program's schema.
pub(super) fn existing(database: &Database) -> Result<Conn, StoreError> {
    if let Database::File(path) = database
        && !path.is_file()
    {
        return Err(StoreError::Connect(format!("{}: there is no such file", path.display())));
    }
    let mut conn = database.connect()?;
    let list = "SELECT version FROM __diesel_schema_migrations ORDER BY version";
    let applied: Vec<Version> = diesel::sql_query(list).load(&mut conn).map_err(|_| {
        StoreError::Migrate("this is not a database of nexo-server, or an empty one".into())
    })?;
    let known = database.schema_versions()?;
    if applied.iter().any(|v| !known.contains(&v.version)) {
        let what = "the database was made by a newer nexo-server; run that one";
        return Err(StoreError::Migrate(what.into()));
    }
    if applied.len() < known.len() {
        let what = "the database is of an older nexo-server; start this one on it once";
        return Err(StoreError::Migrate(what.into()));
    }
    if let Conn::Postgres(conn) = &mut conn {
        conn.batch_execute(PATIENCE)?;
    }
    Ok(conn)
}
