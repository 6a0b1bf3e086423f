//! All SQL of the relay: one writer, several readers, one SQLite file.
//!
//! Functions are verbs of the domain and return plain or schema types; rows never leave this
//! folder. [`Conn`] is the one place that names the engine: PostgreSQL joins here, behind the
//! same functions. `store` implements the log's [`Ledger`](crate::log::Ledger) and knows
//! nothing else of `log`.
//!
//! Blocking calls run in [`Store::read`] and [`Store::write`] and in the sequencer's thread,
//! nowhere else.

mod accounts;
mod admit;
mod challenges;
mod claims;
mod conversations;
mod counters;
mod invites;
mod ledger;
mod messages;
mod prekeys;
mod refresh;
mod schema;
#[cfg(test)]
mod suite;
mod tree;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

pub use accounts::{Account, Device, EventRow, device_by_id, find_account, find_account_by_id};
pub use accounts::{active_devices, count_accounts, events};
pub use admit::{Item, NativeDeletion, NativeMessage, NewDeletion, NewMessage, Packet, Placed};
pub use admit::{Refusal, Registration, SignedGenesis};
pub use challenges::{Pending, live_challenges, put_challenge, take_challenge};
pub use claims::{Claim, claim_one_time};
pub use conversations::{is_participant, open_conversation, shares_conversation};
pub use invites::put_invite;
pub use ledger::SqlLedger;
pub use messages::{Deletion, Feed, PacketsOf, StoredItem, feed, message_by_id, page_after};
pub use messages::{Rows, page_since};
pub use prekeys::{PrekeyRow, PublishRefusal, fallback, publish, stock};
pub use refresh::{Login, RotateError, login_of, put_login, rotate};
pub use tree::{StoredHeadRow, StoredTiles, bundle, head_at, newest_head, tile};

/// The engine's connection.
pub type Conn = SqliteConnection;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../schema/migrations/server/sqlite");

/// Readers beside the writer. Two cores serve a relay; more readers only queue on them.
const READERS: u32 = 4;

/// Every connection: WAL so that readers never wait, FULL so that an ack is on the disk.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 10000; \
     PRAGMA cache_size = -16000;";

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error.
    #[error("database: {0}")]
    Db(#[from] diesel::result::Error),
    /// No connection could be opened.
    #[error("database connection: {0}")]
    Connect(String),
    /// Every reader was busy for too long.
    #[error("the database is busy")]
    Busy,
    /// The schema could not be brought up to date.
    #[error("database migration: {0}")]
    Migrate(String),
    /// A row does not hold what its writer put there.
    #[error("database row of {table}: {what}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The thread that ran the query is gone.
    #[error("the query was abandoned")]
    Abandoned,
}

impl StoreError {
    fn corrupt(table: &'static str, what: &'static str) -> Self {
        Self::Corrupt { table, what }
    }
}

/// The database behind the relay. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: Arc<Mutex<Conn>>,
    readers: Pool<ConnectionManager<Conn>>,
}

impl Store {
    /// Opens (creating it, mode 0600 in a 0700 folder made by the caller) and migrates the file.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be opened or was made by a newer program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|e| StoreError::Connect(e.to_string()))?;
        let mut writer = connect(path)?;
        refuse_newer(&mut writer)?;
        writer
            .run_pending_migrations(MIGRATIONS)
            .map_err(|e| StoreError::Migrate(e.to_string()))?;
        let readers = Pool::builder()
            .max_size(READERS)
            .min_idle(Some(1))
            .connection_timeout(Duration::from_secs(10))
            .connection_customizer(Box::new(Reader))
            .build(ConnectionManager::new(url(path)))
            .map_err(|e| StoreError::Connect(e.to_string()))?;
        Ok(Self { writer: Arc::new(Mutex::new(writer)), readers })
    }

    /// The writer, for the log: batches and other changes take turns on one connection.
    #[must_use]
    pub fn writer(&self) -> Arc<Mutex<Conn>> {
        self.writer.clone()
    }

    /// Runs `query` on a reader.
    ///
    /// # Errors
    /// What `query` returns, or that no reader could be had.
    pub async fn read<T, E, F>(&self, query: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, E> + Send + 'static,
    {
        let readers = self.readers.clone();
        blocking(move || {
            let mut conn = readers.get().map_err(|_| StoreError::Busy)?;
            query(&mut conn)
        })
        .await
    }

    /// Runs `look` on a reader, in one transaction: all its queries see one state.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub async fn snapshot<T, E, F>(&self, look: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + From<diesel::result::Error> + Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, E> + Send + 'static,
    {
        self.read(move |conn| conn.transaction(look)).await
    }

    /// Runs `change` in one immediate transaction on the writer; an error undoes all of it.
    ///
    /// # Errors
    /// What `change` returns; then nothing of it is stored.
    pub async fn write<T, E, F>(&self, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + From<diesel::result::Error> + Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, E> + Send + 'static,
    {
        let writer = self.writer.clone();
        blocking(move || {
            // A panic inside a transaction rolled it back; the connection itself is sound.
            let mut conn = writer.lock().unwrap_or_else(PoisonError::into_inner);
            conn.immediate_transaction(change)
        })
        .await
    }
}

/// Runs a blocking call off the async workers.
async fn blocking<T, E, F>(call: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Abandoned.into()),
    }
}

fn url(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn connect(path: &Path) -> Result<Conn, StoreError> {
    let mut conn = Conn::establish(&url(path)).map_err(|e| StoreError::Connect(e.to_string()))?;
    conn.batch_execute(PRAGMAS)?;
    Ok(conn)
}

/// A database with migrations this program does not know was written by a newer one.
fn refuse_newer(conn: &mut Conn) -> Result<(), StoreError> {
    let known = conn.applied_migrations().map_err(|e| StoreError::Migrate(e.to_string()))?;
    let ours =
        diesel::migration::MigrationSource::<diesel::sqlite::Sqlite>::migrations(&MIGRATIONS)
            .map_err(|e| StoreError::Migrate(e.to_string()))?;
    let newer = known.iter().any(|v| !ours.iter().any(|m| m.name().version() == *v));
    if newer {
        return Err(StoreError::Migrate(
            "the database was made by a newer nexo-server; run that one".into(),
        ));
    }
    Ok(())
}

fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

#[derive(Debug)]
struct Reader;

impl CustomizeConnection<Conn, diesel::r2d2::Error> for Reader {
    fn on_acquire(&self, conn: &mut Conn) -> Result<(), diesel::r2d2::Error> {
        let pragmas = format!("{PRAGMAS} PRAGMA query_only = ON;");
        conn.batch_execute(&pragmas).map_err(diesel::r2d2::Error::QueryError)
    }
}

/// 32 bytes from a column.
fn hash32(table: &'static str, bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::corrupt(table, "a hash is not 32 bytes long"))
}

/// A count or position from a column.
fn unsigned(table: &'static str, number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::corrupt(table, "a number is negative"))
}

/// A count or position for a column; positions stay below 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
