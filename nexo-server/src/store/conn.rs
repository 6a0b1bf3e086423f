//! The engines: SQLite in a file, PostgreSQL at a URL, behind one [`Conn`].
//!
//! Queries are written once, for both; where an engine wants its own words (locks, conflicts,
//! bulk loads) the code matches on [`Conn`]. PostgreSQL is reached with libpq, which is built
//! from source as SQLite is.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::{ManageConnection, Pool, PooledConnection, R2D2Connection as _};
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::StoreError;
use super::outage::{Outage, Watch};
use super::unwritable::unwritable;

/// A connection to either engine.
#[derive(diesel::MultiConnection)]
pub enum Conn {
    /// To a file.
    Sqlite(SqliteConnection),
    /// To a server.
    Postgres(PgConnection),
}

/// Where the relay's data is.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL database, as a URL that may hold a password.
    Postgres(String),
}

/// Without the URL's secrets.
impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            // Password and options may be secrets; host and name are not.
            Self::Postgres(url) => {
                let bare = url.split(['?', '#']).next().unwrap_or_default();
                let place = bare.rsplit_once('@').map_or_else(
                    || bare.split_once("://").map_or(bare, |(_, rest)| rest),
                    |(_, place)| place,
                );
                write!(f, "postgres://{place}")
            }
        }
    }
}

const SQLITE_MIGRATIONS: EmbeddedMigrations =
    embed_migrations!("../schema/migrations/server/sqlite");
const POSTGRES_MIGRATIONS: EmbeddedMigrations =
    embed_migrations!("../schema/migrations/server/postgres");

/// WAL so that readers never wait, FULL so that an ack is on the disk. What is in the WAL goes
/// back on a thread of its own ([`write_back`](super::write_back)); the last resort is here.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 10000; \
     PRAGMA cache_size = -16000; PRAGMA wal_autocheckpoint = 8000;";

/// The same promises from PostgreSQL: an ack is on its disk, and a server that hangs or is cut
/// off does not hold the head's lock for long.
const SETTINGS: &str = "SET synchronous_commit = on; SET client_encoding = 'UTF8'; \
     SET lock_timeout = '10s'; SET statement_timeout = '60s'; \
     SET idle_in_transaction_session_timeout = '15s'; SET application_name = 'nexo-server';";

/// What libpq is told unless the URL says otherwise (libpq 34.1.2): a dead network is noticed.
const CONNINFO: [(&str, &str); 5] = [
    ("connect_timeout", "5"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "30000"),
];

/// Connections beside the log's own. Two cores serve a relay; more readers only queue on them.
const POOL: u32 = 4;

/// How long a request waits for one of them.
const POOL_WAIT: Duration = Duration::from_secs(3);

/// Whom two servers migrating at once wait for; any number will do.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_lock(715827882)";
const MIGRATION_UNLOCK: &str = "SELECT pg_advisory_unlock(715827882)";

/// Connections handed out to readers, and on PostgreSQL to writers too.
#[derive(Clone)]
pub(super) struct Readers {
    pool: Pool<Opener>,
    outage: Arc<Outage>,
}

impl Readers {
    /// A connection, waited for if all are in use.
    ///
    /// # Errors
    /// [`StoreError::Busy`] after [`POOL_WAIT`].
    pub(super) fn get(&self) -> Result<PooledConnection<Opener>, StoreError> {
        self.pool.get().map_err(|error| {
            self.outage.failed(&error);
            StoreError::Busy
        })
    }

    /// What the operator has been told.
    pub(super) fn outage(&self) -> Arc<Outage> {
        Arc::clone(&self.outage)
    }
}

impl Database {
    /// The path or URL as Diesel takes it.
    fn url(&self) -> String {
        match self {
            Self::File(path) => path.to_string_lossy().into_owned(),
            Self::Postgres(url) => with_conninfo(url),
        }
    }

    /// Opens a connection that may write.
    pub(super) fn connect(&self) -> Result<Conn, StoreError> {
        let refused = |e: ConnectionError| StoreError::Connect(e.to_string());
        let url = self.url();
        let mut conn = match self {
            Self::File(_) => Conn::Sqlite(SqliteConnection::establish(&url).map_err(refused)?),
            Self::Postgres(_) => Conn::Postgres(PgConnection::establish(&url).map_err(refused)?),
        };
        conn.batch_execute(match self {
            Self::File(_) => PRAGMAS,
            Self::Postgres(_) => SETTINGS,
        })?;
        Ok(conn)
    }

    /// Creates the file if need be, brings the schema up to date and returns the connection.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Unwritable`] names the path in the way, if it is one.
    pub(super) fn prepare(&self) -> Result<Conn, StoreError> {
        self.prepared().map_err(|error| match self {
            Self::File(path) => unwritable(path).unwrap_or(error),
            Self::Postgres(_) => error,
        })
    }

    fn prepared(&self) -> Result<Conn, StoreError> {
        if let Self::File(path) = self {
            create_private(path).map_err(|e| StoreError::Connect(e.to_string()))?;
        }
        let mut conn = self.connect()?;
        match &mut conn {
            Conn::Sqlite(conn) => migrate(conn, SQLITE_MIGRATIONS)?,
            Conn::Postgres(conn) => {
                conn.batch_execute(MIGRATION_LOCK)?;
                let done = migrate(conn, POSTGRES_MIGRATIONS);
                conn.batch_execute(MIGRATION_UNLOCK)?;
                done?;
            }
        }
        Ok(conn)
    }

    /// The versions of the migrations that make up this program's schema.
    pub(super) fn schema_versions(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Self::File(_) => versions::<diesel::sqlite::Sqlite>(&SQLITE_MIGRATIONS),
            Self::Postgres(_) => versions::<diesel::pg::Pg>(&POSTGRES_MIGRATIONS),
        }
    }

    /// Opens the pool.
    pub(super) fn readers(&self, outage: &Arc<Outage>) -> Result<Readers, StoreError> {
        let watch = Watch(Arc::clone(outage));
        let pool = Pool::builder()
            .max_size(POOL)
            .min_idle(Some(1))
            .connection_timeout(POOL_WAIT)
            // A file does not hang up; asking a server costs a round trip, and a broken
            // connection would cost an answer.
            .test_on_check_out(matches!(self, Self::Postgres(_)))
            .error_handler(Box::new(watch.clone()))
            .build(Opener { database: self.clone(), watch })
            .map_err(|e| StoreError::Connect(e.to_string()))?;
        Ok(Readers { pool, outage: Arc::clone(outage) })
    }
}

/// Makes the pool's connections. Diesel's own manager would try each engine on the URL, and
/// tell only that none took it.
pub(super) struct Opener {
    database: Database,
    watch: Watch,
}

impl ManageConnection for Opener {
    type Connection = Conn;
    type Error = StoreError;

    fn connect(&self) -> Result<Conn, StoreError> {
        let mut conn = self.database.connect()?;
        if let Conn::Sqlite(conn) = &mut conn {
            // Only the writer writes.
            conn.batch_execute("PRAGMA query_only = ON;")?;
        }
        conn.set_instrumentation(self.watch.clone());
        Ok(conn)
    }

    fn is_valid(&self, conn: &mut Conn) -> Result<(), StoreError> {
        Ok(conn.ping()?)
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        std::thread::panicking() || conn.is_broken()
    }
}

/// The URL with our defaults for what it does not say.
fn with_conninfo(url: &str) -> String {
    let mut full = url.to_owned();
    for (name, value) in CONNINFO {
        let said = url.split_once('?').is_some_and(|(_, options)| {
            options.split('&').any(|o| o.split('=').next() == Some(name))
        });
        if !said {
            full.push(if full.contains('?') { '&' } else { '?' });
            full.push_str(&format!("{name}={value}"));
        }
    }
    full
}

fn migrate<C>(conn: &mut C, known: EmbeddedMigrations) -> Result<(), StoreError>
where
    C: MigrationHarness<C::Backend> + Connection,
    C::Backend: diesel::backend::Backend,
    EmbeddedMigrations: diesel::migration::MigrationSource<C::Backend>,
{
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| StoreError::Migrate(e.to_string());
    let ours = versions::<C::Backend>(&known)?;
    let applied = conn.applied_migrations().map_err(failed)?;
    if applied.iter().any(|version| !ours.contains(&version.to_string())) {
        let what = "the database was made by a newer nexo-server; run that one";
        return Err(StoreError::Migrate(what.into()));
    }
    conn.run_pending_migrations(known).map(drop).map_err(failed)
}

fn versions<DB>(known: &EmbeddedMigrations) -> Result<Vec<String>, StoreError>
where
    DB: diesel::backend::Backend,
    EmbeddedMigrations: diesel::migration::MigrationSource<DB>,
{
    let ours = diesel::migration::MigrationSource::<DB>::migrations(known);
    let ours = ours.map_err(|e| StoreError::Migrate(e.to_string()))?;
    Ok(ours.iter().map(|m| m.name().version().to_string()).collect())
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

/// A connection that several take turns on. A transaction that a failed rollback left open goes
/// with its connection, or every later one would be refused.
pub(super) struct Shared {
    conn: Mutex<Conn>,
    database: Database,
    outage: Arc<Outage>,
}

impl Shared {
    pub(super) fn new(mut conn: Conn, database: Database, outage: Arc<Outage>) -> Self {
        conn.set_instrumentation(Watch(Arc::clone(&outage)));
        Self { conn: Mutex::new(conn), database, outage }
    }

    /// The connection, outside of any transaction.
    ///
    /// # Errors
    /// [`StoreError`] if a new one is needed and cannot be opened.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Conn>, StoreError> {
        let mut conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_idle(&mut conn) {
            *conn = self.database.connect().inspect_err(|error| self.outage.failed(error))?;
            conn.set_instrumentation(Watch(Arc::clone(&self.outage)));
        }
        Ok(conn)
    }
}

fn is_idle(conn: &mut Conn) -> bool {
    let status = Conn::transaction_manager_status_mut(conn);
    matches!(status.transaction_depth(), Ok(None))
}

/// Runs `change` in a transaction that no other writer of its kind runs beside; an error undoes
/// all of it. `begin` is what PostgreSQL is asked first, for its lock.
pub(super) fn exclusive<T, E>(
    conn: &mut Conn,
    begin: Option<&str>,
    change: impl FnOnce(&mut Conn) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<diesel::result::Error>,
{
    match conn {
        Conn::Sqlite(conn) => {
            AnsiTransactionManager::begin_transaction_sql(conn, "BEGIN IMMEDIATE")?
        }
        Conn::Postgres(_) => Conn::begin_transaction(conn)?,
    }
    let first = match (&mut *conn, begin) {
        (Conn::Postgres(conn), Some(sql)) => conn.batch_execute(sql).map_err(E::from),
        _ => Ok(()),
    };
    let outcome = first.and_then(|()| {
        // A panic goes on, but not with the lock held: others would wait for it in vain.
        catch_unwind(AssertUnwindSafe(|| change(conn))).unwrap_or_else(|panic| {
            let _ = Conn::rollback_transaction(conn);
            resume_unwind(panic)
        })
    });
    match outcome {
        Ok(value) => {
            Conn::commit_transaction(conn)?;
            Ok(value)
        }
        Err(error) => {
            // The first error is the one to tell; a connection that cannot roll back is broken,
            // and found to be by whoever uses it next.
            let _ = Conn::rollback_transaction(conn);
            Err(error)
        }
    }
}

/// Runs `look` in a transaction in which all its queries see one state.
pub(super) fn snapshot<T, E>(
    conn: &mut Conn,
    look: impl FnOnce(&mut Conn) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<diesel::result::Error>,
{
    conn.transaction(|conn| {
        // SQLite's transactions are snapshots by themselves.
        if let Conn::Postgres(conn) = conn {
            conn.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        }
        look(conn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_secrets() {
        for (url, shown) in [
            ("postgres://u:secret@h:5432/d", "postgres://h:5432/d"),
            ("postgres://u:se@cret@h/d?sslpassword=x", "postgres://h/d"),
            ("postgresql:///d?host=/run&password=x", "postgres:///d"),
        ] {
            let database = Database::Postgres(url.into());
            assert_eq!(
                (format!("{database}"), format!("{database:?}")),
                (shown.into(), shown.into())
            );
        }
    }

    #[test]
    fn the_operators_words_win_over_ours() {
        let full = with_conninfo("postgres://h/d?connect_timeout=60");
        assert!(
            full.starts_with("postgres://h/d?connect_timeout=60&keepalives_idle=10&"),
            "{full}"
        );
        assert_eq!(full.matches("connect_timeout").count(), 1);
        assert!(with_conninfo("postgres://h/d").starts_with("postgres://h/d?connect_timeout=5&"));
    }
}
