//! The local state of one device: SQLite, one file, all SQL of this crate (e2ee 2.20).
//!
//! What it promises: a change is one transaction under the lock of the directory, durable when
//! the call returns; secrets are sealed; nothing of a transaction is cached beyond it, so two
//! processes on one directory never work from each other's past. What it is not: it judges
//! nothing. What to trust is decided in `trust`, what to send in `commands`.
//!
//! Lock order: `state.lock`, then `BEGIN IMMEDIATE`. Neither is ever held across the network.
//! Reads are snapshots and take no lock. Queries take well under a millisecond and run on the
//! caller's thread; this program has one.
//!
//! | file | tables |
//! |---|---|
//! | `identity` | identity, server_pin |
//! | `peers` | peers |
//! | `chains` | chain_events, own_devices |
//! | `pins` | pins |
//! | `place` | meta: where the state lives |
//! | `access`, `wrap`, `passphrase` | meta: the state's key, and what it is sealed under |
//! | `upgrade` | all of them, when they change |
//! | `pending` | meta: a device on its way in |
//! | `heads` | heads, split_views |
//! | `heard` | heard_heads |
//! | `prekeys` | prekeys, replays |
//! | `outbox` | outbox, and the send counters of meta |
//! | `inbox` | inbox, and the cursor of meta |
//! | `outputs` | how far files were written, in meta |
//! | `asks` | asks, answers |
//! | `sessions` | sessions, pairs |
//! | `skipped` | skipped, kept |
//! | `told` | meta: what accounts say of themselves |

mod access;
mod asks;
mod chains;
mod heads;
mod heard;
mod identity;
mod inbox;
#[cfg(feature = "keyring")]
mod keyring;
mod outbox;
mod outputs;
mod passphrase;
mod peers;
mod pending;
mod pins;
mod place;
mod prekeys;
mod schema;
mod sealed;
mod sessions;
mod skipped;
mod told;
mod upgrade;
mod wrap;

use std::cell::RefCell;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

pub use access::{Access, Locked};
pub use asks::{Answer, Asked};
pub use chains::{ChainEvent, SignedEvent};
pub use heads::{HeldHead, SplitView};
pub use heard::HeardHead;
pub use identity::StoredPin;
pub use inbox::{InboxKind, InboxRow, NewInbox, Reading, SessionNote, Target};
pub use outbox::{Counters, NewOutbox, OutboxRow, OutboxState};
pub use outputs::Written;
pub use passphrase::Passphrase;
pub use peers::{Peer, Served};
pub use pending::Pending;
pub use prekeys::{PrekeyKind, StoredPrekey};
pub use sealed::{StateKey, StateKeyError};
pub use told::Told;
pub use wrap::Protection;

use crate::home::{Home, HomeError, LockError, StateLock, write_new_private};
use crate::random::{self, RandomError};
use access::finish_protecting;
use schema::meta;
use sealed::{Cell, Sealer};
use upgrade::bring_up_to_date;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../schema/migrations/cli");

/// WAL keeps readers and the writer apart; FULL makes a commit durable before anything is sent;
/// secure_delete overwrites what is deleted; trusted_schema keeps a doctored file from running
/// functions. busy_timeout covers readers during a checkpoint; writers wait for the lock file.
const PRAGMAS: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; \
     PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; \
     PRAGMA trusted_schema = OFF;";

/// What `meta.key_check` seals: opening it proves that the state key is this state's.
const KEY_CHECK: Cell<'static> = Cell { table: "meta", column: "key_check", row: b"", version: 1 };

/// Why the local state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The database answered with an error.
    #[error("state.db: {0}")]
    Db(#[from] diesel::result::Error),
    /// It could not be opened.
    #[error("state.db cannot be opened: {0}")]
    Open(String),
    /// The tables could not be made.
    #[error("state.db cannot be brought up to date: {0}")]
    Migrate(String),
    /// It was made by a newer program.
    #[error("state.db was written by a newer nexo-cli")]
    Newer,
    /// A row does not hold what this program wrote.
    #[error("state.db: {what} in {table} is damaged, or was put there by somebody else")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It was made at another place.
    #[error("state.db is a copy: it was made on another machine, or as another file")]
    Copied,
    /// Another key than the one it was sealed under.
    #[error("the state key does not belong to this state.db")]
    WrongKey,
    /// Another passphrase than the one it was sealed under.
    #[error("this is not the passphrase of this state")]
    WrongPassphrase,
    /// What was given is not what it was sealed under.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// The key cannot be read or made.
    #[error(transparent)]
    StateKey(#[from] StateKeyError),
    /// The file could not be made.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Another process keeps it busy.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No random bytes for sealing.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The state, open.
pub struct Vault {
    // One thread, and no borrow outlives a transaction, which never awaits.
    conn: RefCell<SqliteConnection>,
    sealer: Sealer,
    /// `None` for a state in memory.
    lock: Option<StateLock>,
}

/// One transaction on the state; the verbs are in the files of this folder.
pub struct Tx<'a> {
    conn: &'a mut SqliteConnection,
    sealer: &'a Sealer,
}

impl Vault {
    /// Opens the state of `home`, making and migrating it as needed. `patience` bounds each wait
    /// for the lock.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn open(
        home: &Home,
        access: &Access,
        patience: Duration,
    ) -> Result<Self, VaultError> {
        Self::open_at(home, access, patience, |tx, place| tx.check_place(place)).await
    }

    /// As [`Vault::open`], for a copy that its owner goes on with: it belongs here from now on.
    /// The caller sets its counters beyond the original's ([`Tx::leap`]).
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn adopt(
        home: &Home,
        access: &Access,
        patience: Duration,
    ) -> Result<Self, VaultError> {
        Self::open_at(home, access, patience, |tx, place| tx.set_place(place)).await
    }

    async fn open_at(
        home: &Home,
        access: &Access,
        patience: Duration,
        placed: impl FnOnce(&mut Tx<'_>, &[u8; 32]) -> Result<(), VaultError>,
    ) -> Result<Self, VaultError> {
        let lock = StateLock::of(home, patience);
        let path = home.file("state.db");
        let derived = access.derive(&path)?;
        let held = lock.take().await?;
        // SQLite would follow the umask; its -wal and -shm take the mode of this file.
        match write_new_private(&path, b"") {
            Ok(()) | Err(HomeError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut conn = connection(&path.to_string_lossy())?;
        refuse_newer(&mut conn)?;
        bring_up_to_date(&mut conn, MIGRATIONS, Some(home))?;
        let key = access.unlock(&mut conn, derived)?;
        let mut vault = Self::with_key(conn, key, Some(lock))?;
        finish_protecting(vault.conn.get_mut(), home)?;
        let place = home.place()?;
        vault.transaction(|tx| placed(tx, &place))?;
        drop(held);
        Ok(vault)
    }

    /// A state that lives and dies with the process, for stateless identities.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn in_memory() -> Result<Self, VaultError> {
        let mut conn = connection(":memory:")?;
        bring_up_to_date(&mut conn, MIGRATIONS, None)?;
        Self::with_key(conn, StateKey::ephemeral()?, None)
    }

    /// Checks the key of a database that is up to date; the caller holds the lock.
    fn with_key(
        conn: SqliteConnection,
        key: StateKey,
        lock: Option<StateLock>,
    ) -> Result<Self, VaultError> {
        let vault = Self { conn: RefCell::new(conn), sealer: Sealer(key), lock };
        vault.transaction(|tx| tx.check_key())?;
        Ok(vault)
    }

    /// Whether the state outlives the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.lock.is_some()
    }

    /// The longest that this process waited for its turn to write.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        self.lock.as_ref().map_or(Duration::ZERO, StateLock::longest_wait)
    }

    /// Runs `look` on one snapshot.
    ///
    /// # Errors
    /// What `look` returns.
    pub fn read<T, E: From<VaultError>>(
        &self,
        look: impl FnOnce(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut conn = self.conn.borrow_mut();
        conn.transaction(|conn| {
            look(&mut Tx { conn, sealer: &self.sealer }).map_err(Rollback::Inner)
        })
        .map_err(Rollback::into_inner)
    }

    /// Runs `change` in one transaction under the lock; an error undoes all of it.
    ///
    /// # Errors
    /// What `change` returns, or that the lock was not to be had.
    pub async fn write<T, E: From<VaultError>>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let held = match &self.lock {
            Some(lock) => Some(lock.take().await.map_err(VaultError::from)?),
            None => None,
        };
        let done = self.transaction(change);
        drop(held);
        done
    }

    fn transaction<T, E: From<VaultError>>(
        &self,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut conn = self.conn.borrow_mut();
        conn.immediate_transaction(|conn| {
            change(&mut Tx { conn, sealer: &self.sealer }).map_err(Rollback::Inner)
        })
        .map_err(Rollback::into_inner)
    }
}

fn connection(url: &str) -> Result<SqliteConnection, VaultError> {
    let mut conn = SqliteConnection::establish(url).map_err(|e| VaultError::Open(e.to_string()))?;
    conn.batch_execute(PRAGMAS)?;
    Ok(conn)
}

/// Carries the caller's error through Diesel, which wants to add its own.
enum Rollback<E> {
    Inner(E),
    Db(diesel::result::Error),
}

impl<E> From<diesel::result::Error> for Rollback<E> {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error)
    }
}

impl<E: From<VaultError>> Rollback<E> {
    fn into_inner(self) -> E {
        match self {
            Self::Inner(error) => error,
            Self::Db(error) => VaultError::from(error).into(),
        }
    }
}

impl Tx<'_> {
    /// Makes or opens the key check.
    fn check_key(&mut self) -> Result<(), VaultError> {
        match self.meta("key_check")? {
            Some(sealed) => {
                self.sealer.open(&KEY_CHECK, &sealed).map_err(|_| VaultError::WrongKey)?;
            }
            None => {
                let sealed = self.sealer.seal(&KEY_CHECK, b"nexo")?;
                self.set_meta("key_check", &sealed)?;
                self.set_meta("instance", &random::array::<16>()?)?;
            }
        }
        Ok(())
    }

    fn meta(&mut self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        meta_of(self.conn, name)
    }

    fn set_meta(&mut self, name: &str, value: &[u8]) -> Result<(), VaultError> {
        set_meta_of(self.conn, name, value)
    }

    fn drop_meta(&mut self, name: &str) -> Result<(), VaultError> {
        diesel::delete(meta::table.find(name)).execute(self.conn)?;
        Ok(())
    }

    /// A counter of `meta`; 0 before it is first set.
    fn counter(&mut self, name: &'static str) -> Result<u64, VaultError> {
        let Some(bytes) = self.meta(name)? else { return Ok(0) };
        let bytes = bytes.try_into();
        bytes.map(u64::from_be_bytes).map_err(|_| VaultError::Corrupt { table: "meta", what: name })
    }

    fn set_counter(&mut self, name: &'static str, value: u64) -> Result<(), VaultError> {
        self.set_meta(name, &value.to_be_bytes())
    }

    /// When the prekeys were last compared with the relay's, Unix seconds; 0 for never.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn prekeys_checked_at(&mut self) -> Result<u64, VaultError> {
        self.counter("prekeys_checked_at")
    }

    /// See [`Tx::prekeys_checked_at`].
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_prekeys_checked_at(&mut self, now: u64) -> Result<(), VaultError> {
        self.set_counter("prekeys_checked_at", now)
    }
}

fn meta_of(conn: &mut SqliteConnection, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
    Ok(meta::table.find(name).select(meta::value).first(conn).optional()?)
}

fn set_meta_of(conn: &mut SqliteConnection, name: &str, value: &[u8]) -> Result<(), VaultError> {
    diesel::replace_into(meta::table)
        .values((meta::name.eq(name), meta::value.eq(value)))
        .execute(conn)?;
    Ok(())
}

fn delete_meta_of(conn: &mut SqliteConnection, name: &str) -> Result<(), VaultError> {
    diesel::delete(meta::table.find(name)).execute(conn)?;
    Ok(())
}

/// A state with migrations this program does not know was written by a newer one.
fn refuse_newer(conn: &mut SqliteConnection) -> Result<(), VaultError> {
    let migrate = |e: Box<dyn std::error::Error + Send + Sync>| VaultError::Migrate(e.to_string());
    let applied = conn.applied_migrations().map_err(migrate)?;
    let ours =
        diesel::migration::MigrationSource::<diesel::sqlite::Sqlite>::migrations(&MIGRATIONS)
            .map_err(migrate)?;
    if applied.iter().all(|version| ours.iter().any(|m| m.name().version() == *version)) {
        Ok(())
    } else {
        Err(VaultError::Newer)
    }
}

/// SQLite's integers are signed; sizes, times and counters of this program stay below 2^63.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(table: &'static str, value: i64) -> Result<u64, VaultError> {
    u64::try_from(value).map_err(|_| VaultError::Corrupt { table, what: "a negative number" })
}

fn array<const N: usize>(table: &'static str, bytes: &[u8]) -> Result<[u8; N], VaultError> {
    bytes.try_into().map_err(|_| VaultError::Corrupt { table, what: "a value of another size" })
}

#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
