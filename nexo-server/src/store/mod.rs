//! All SQL of the relay: one writer, several readers, on either engine.
//!
//! Functions are verbs of the domain and return plain or schema types; rows never leave this
//! folder. `conn.rs` names the engines; everything else is written for both. `store` implements
//! the log's [`Ledger`](crate::log::Ledger) and knows nothing else of `log`.
//!
//! Blocking calls run in [`Store::read`] and [`Store::write`], in the sequencer's thread and in two
//! of their own (`listen.rs`, `write_back.rs`), nowhere else.

mod accounts;
mod admit;
mod auditors;
mod challenges;
mod claims;
mod conn;
mod conversations;
mod counters;
mod cursors;
mod directory;
mod edge;
#[cfg(test)]
mod faults;
mod fresh;
mod invites;
mod ledger;
mod links;
mod listen;
mod messages;
mod outage;
mod pg_write;
mod places;
mod prekeys;
mod proofs;
mod refresh;
mod retries;
mod schema;
#[cfg(test)]
mod suite;
mod tree;
mod unwritable;
mod usage;
pub mod whole;
mod write_back;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

pub use accounts::{Account, Device, EventRow, device_by_id, find_account, find_account_by_id};
pub use accounts::{active_devices, count_accounts, events, events_from};
pub use admit::{Effect, EventBytes, Item, NativeDeletion, NativeMessage, NewDeletion, NewDevice};
pub use admit::{NewEvent, NewMessage, Packet, Placed, Refusal, Registration};
pub use auditors::{auditors, drop_auditor, is_auditor, put_auditor};
pub use challenges::{Pending, live_challenges, put_challenge, take_challenge};
pub use claims::{Claim, claim_one_time};
pub use conn::{Conn, Database};
pub use conversations::{
    count_conversations, is_participant, open_conversation, shares_conversation,
};
pub use cursors::{CursorMove, cursor_of, move_cursors, open_cursor};
pub use directory::{KeyEvent, KeyEvents, key_events_after};
pub use fresh::{Audience, Fresh, FreshItem, Present};
pub use invites::put_invite;
pub use ledger::SqlLedger;
pub use links::{Link, Offer, PutLink, live_link, offer, put_link};
pub use messages::{Deletion, Feed, PacketsOf, PageSize, Rows, StoredItem};
pub use messages::{feed, message_by_id, page_after, page_since};
pub use places::message_places;
pub use prekeys::{PrekeyRow, PublishRefusal, fallback, one_time_left, publish, stock};
pub use proofs::{forget_proofs, use_proof};
pub use refresh::{Login, RotateError, login_of, put_login, rotate};
pub use retries::{RetryCount, RetryRefusal, Wanted, answer_again, ask_again};
pub use tree::{StoredHeadRow, StoredTiles, bundle, head_at, head_covering, newest_head, tile};
pub use usage::StorageQuota;

use conn::{Readers, Shared, exclusive, snapshot};
use outage::Outage;

/// What one server's changes wait for while another makes its own. On SQLite the file's own
/// write lock does that.
const WRITE_LOCK: &str = "SELECT pg_advisory_xact_lock(715827883)";

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error.
    #[error("database: {0}")]
    Db(#[from] diesel::result::Error),
    /// No connection could be opened.
    #[error("database connection: {0}")]
    Connect(String),
    /// A path that the database needs cannot be written.
    #[error("{} cannot be written: {source}; {remedy}", path.display())]
    Unwritable {
        /// The database, a file beside it, or their folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
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
    /// Whether a row was there already.
    fn is_duplicate(&self) -> bool {
        use diesel::result::{DatabaseErrorKind::UniqueViolation, Error::DatabaseError};
        matches!(self, Self::Db(DatabaseError(UniqueViolation, _)))
    }

    /// Whether it can pass without anyone mending the relay: the database is away or busy, or
    /// its disk is full. Then nothing of what was asked has happened.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Busy | Self::Connect(_) => true,
            Self::Db(error) => outage::may_pass(error),
            _ => false,
        }
    }

    fn corrupt(table: &'static str, what: &'static str) -> Self {
        Self::Corrupt { table, what }
    }
}

/// The database behind the relay. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
    /// SQLite's one writer, which the log shares; PostgreSQL has locks for that.
    writer: Option<Arc<Shared>>,
    readers: Readers,
    /// What this server is called among those that share the database.
    own_name: Arc<str>,
}

impl Store {
    /// Opens and migrates the database; a SQLite file is created, mode 0600, in a 0700 folder
    /// made by the caller.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be opened or was made by a newer program.
    pub fn open(database: &Database) -> Result<Self, StoreError> {
        let conn = database.prepare()?;
        let outage = Arc::new(Outage::default());
        let readers = database.readers(&outage)?;
        let writer = match conn {
            Conn::Sqlite(_) => Some(Arc::new(Shared::new(conn, database.clone(), outage))),
            Conn::Postgres(_) => None,
        };
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| StoreError::Connect(e.to_string()))?;
        let own_name = nexo_schema::bytes::to_hex(&random).into();
        Ok(Self { database: database.clone(), writer, readers, own_name })
    }

    /// Rings `bell` whenever another server on the same database may have written.
    ///
    /// # Errors
    /// [`StoreError`] if there is no thread to listen.
    pub fn listen(&self, bell: Arc<Notify>) -> Result<(), StoreError> {
        listen::listen(self.database.clone(), self.own_name.to_string(), bell)
    }

    fn own_name(&self) -> &str {
        &self.own_name
    }

    /// A writer's connection for the log. On SQLite batches and other changes take turns on
    /// one; on PostgreSQL the log has its own.
    fn writer(&self) -> Result<Arc<Shared>, StoreError> {
        match &self.writer {
            Some(writer) => Ok(writer.clone()),
            None => {
                let (conn, outage) = (self.database.connect()?, self.readers.outage());
                Ok(Arc::new(Shared::new(conn, self.database.clone(), outage)))
            }
        }
    }

    /// Whether other servers may be working on the same database.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.writer.is_none()
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
            let mut conn = readers.get()?;
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
        self.read(move |conn| snapshot(conn, look)).await
    }

    /// Runs `change` in one transaction, alone among all such changes; an error undoes all of
    /// it.
    ///
    /// # Errors
    /// What `change` returns; then nothing of it is stored.
    pub async fn write<T, E, F>(&self, change: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + From<diesel::result::Error> + Send + 'static,
        F: FnOnce(&mut Conn) -> Result<T, E> + Send + 'static,
    {
        let (writer, readers) = (self.writer.clone(), self.readers.clone());
        blocking(move || match writer {
            Some(writer) => exclusive(&mut *writer.lock()?, None, change),
            None => {
                let mut conn = readers.get()?;
                exclusive(&mut conn, Some(WRITE_LOCK), change)
            }
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
