//! `nexo-server log new-origin`: the way on when the newest database is lost.
//!
//! A server whose database is older than what it announced must not go on: it would sign a
//! second history. What it can do honestly is to begin another log, under another name and with
//! other keys. Everything in the old one is bound to the old name, by signatures that the relay
//! cannot make: account events, prekeys, ids of accounts and conversations, messages. So the new
//! log begins empty, people register again, and the old database is put aside, whole.
//!
//! ```text
//! 1 KEYS/new-origin/          made, with the new keys        before this nothing has begun
//! 2 KEYS/log.key              ─► log.key.old-<key id>        from here on no server starts
//! 3 DATA/nexo.db              ─► nexo.db.old-<key id>
//! 4 KEYS/new-origin/log.key   ─► KEYS/log.key
//! 5 KEYS/new-origin/time.key  ─► KEYS/time.key, which was linked as time.key.old-<key id>
//! 6 DATA/head.marker          ─► head.marker.old-<key id>
//! ```
//!
//! A crash anywhere is mended by the same command again. Without a log key a server refuses to
//! start, then for two keys of different logs, then for the marker of another.
//!
//! A PostgreSQL database cannot be put aside by us: there a fresh one is named in `DB_URL`
//! first, and step 3 falls away. Of servers that share keys, the first begins the new log; on
//! each other one the same command only puts its marker aside.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nexo_schema::bytes::to_hex;
use nexo_schema::checkpoint::VKey;
use nexo_schema::ids::Origin;

use super::{KeysError, existing_keys};
use crate::log::{
    Announced, KeyError, LOG_KEY_FILE, LogKeys, MARKER_FILE, MarkerError, TIME_KEY_FILE, announced,
};
use crate::store::whole::{FileError, LogHeadRow, database_files, lock_out, log_head, snapshots};
use crate::store::{Database, StoreError};

/// Where the new keys are until they are in place, in the keys' directory.
const DRAFT: &str = "new-origin";
/// In there: how old files are called.
const SUFFIX_FILE: &str = "old-suffix";

/// What is to be begun anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where the marker is.
    pub data_dir: PathBuf,
    /// Where the log's keys are.
    pub keys_dir: PathBuf,
    /// The database.
    pub database: Database,
    /// The new log's name; if none is given, one made from its key.
    pub origin: Option<Origin>,
    /// Also where the log could go on as it is.
    pub force: bool,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// There is a new log.
    New {
        /// The name of the one before.
        old: String,
        /// Its key, as clients and auditors are to pin it.
        vkey: VKey,
    },
    /// The keys were of a new log already; the marker of the old one was put aside.
    Joined {
        /// The old log's name.
        old: String,
        /// The new log's key.
        vkey: VKey,
    },
}

/// Why no new log was begun.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database's file is in use.
    #[error(transparent)]
    File(#[from] FileError),
    /// The marker cannot be read.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// Nothing is wrong with the log there is.
    #[error(
        "the log {0} can go on as it is: its database is not behind what was announced; a new log would end it for everyone (--force)"
    )]
    Healthy(Origin),
    /// The old name again.
    #[error("the new log needs another name than {0}: who knows that name knows another history")]
    SameName(Origin),
    /// A PostgreSQL database with the old log.
    #[error(
        "{0} holds the old log: create a fresh database, name it in DB_URL, and run this again"
    )]
    NotFresh(Database),
    /// A file cannot be moved or made.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Begins a new log, or finishes what an earlier call began.
///
/// # Errors
/// [`Failed`]. After a failure half way, the same call again finishes the work.
pub fn begin(order: &Order) -> Result<Begun, Failed> {
    let draft = order.keys_dir.join(DRAFT);
    let marked = announced(&order.data_dir)?;
    if !draft.join(SUFFIX_FILE).exists() {
        let old = existing_keys(&order.keys_dir)?;
        if let Some(marked) = marked.as_ref().filter(|m| m.origin != old.origin().as_str()) {
            return join(order, &old, marked);
        }
        judge(order, &old, marked.as_ref())?;
        draw_up(order, &draft, &old)?;
    }
    let read = fs::read_to_string(draft.join(SUFFIX_FILE));
    let suffix = read.map_err(at(&draft.join(SUFFIX_FILE)))?;
    let (old, suffix) = suffix.split_once('\n').unwrap_or(("", &suffix));
    carry_out(order, &draft, suffix)?;
    let keys = existing_keys(&order.keys_dir)?;
    Ok(Begun::New { old: old.to_owned(), vkey: keys.log_vkey().clone() })
}

/// Puts a marker aside that is of another log than the keys.
fn join(order: &Order, keys: &LogKeys, marked: &Announced) -> Result<Begun, Failed> {
    aside(&order.data_dir.join(MARKER_FILE), "old")?;
    Ok(Begun::Joined { old: marked.origin.clone(), vkey: keys.log_vkey().clone() })
}

/// Whether a new log is called for, and possible.
fn judge(order: &Order, old: &LogKeys, marked: Option<&Announced>) -> Result<(), Failed> {
    if order.origin.as_ref() == Some(old.origin()) {
        return Err(Failed::SameName(old.origin().clone()));
    }
    // A database that cannot even be read is one to begin anew from.
    let head = snapshots(&order.database, 1)
        .and_then(|mut opened| opened.pop().map_or(Ok(None), |mut one| log_head(one.conn())));
    let head = head.ok().flatten();
    if !order.force && head.as_ref().is_some_and(|head| goes_on(head, old, marked)) {
        return Err(Failed::Healthy(old.origin().clone()));
    }
    match &order.database {
        Database::Postgres(_) if head.is_some() => Err(Failed::NotFresh(order.database.clone())),
        Database::File(path) if path.exists() => Ok(lock_out(path)?),
        _ => Ok(()),
    }
}

/// Whether a server would take this head, as far as head and marker tell.
fn goes_on(head: &LogHeadRow, keys: &LogKeys, marked: Option<&Announced>) -> bool {
    let Ok(own) = keys.verify_own(&head.note) else { return false };
    marked.is_none_or(|marked| match own.size.cmp(&marked.size) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => own.root == marked.root,
        std::cmp::Ordering::Greater => true,
    })
}

/// Makes the new keys beside the old ones. The name for old files is written last: before it is
/// there, nothing has begun.
fn draw_up(order: &Order, draft: &Path, old: &LogKeys) -> Result<(), Failed> {
    DirBuilder::new().recursive(true).mode(0o700).create(draft).map_err(at(draft))?;
    let new = match LogKeys::open(draft, order.origin.as_ref()) {
        // Keys of an earlier call that came no further, under another name; nobody has seen them.
        Err(KeyError::OriginChanged { asked, .. }) => LogKeys::rename(draft, &asked),
        opened => opened,
    };
    drop(new.map_err(KeysError::from)?);
    let path = draft.join(SUFFIX_FILE);
    let text = format!("{}\nold-{}", old.origin(), to_hex(&old.log_vkey().key_id));
    let half = draft.join("draft");
    fs::write(&half, text).map_err(at(&half))?;
    File::open(&half).and_then(|file| file.sync_all()).map_err(at(&half))?;
    fs::rename(&half, &path).map_err(at(&path))?;
    sync(draft)
}

/// Every step may have been taken before.
fn carry_out(order: &Order, draft: &Path, suffix: &str) -> Result<(), Failed> {
    let [new_log, new_time] = [LOG_KEY_FILE, TIME_KEY_FILE].map(|name| draft.join(name));
    let [log, time] = [LOG_KEY_FILE, TIME_KEY_FILE].map(|name| order.keys_dir.join(name));
    if new_log.exists() {
        if log.exists() {
            aside(&log, suffix)?;
        }
        database_aside(order, suffix)?;
        rename(&new_log, &log)?;
    }
    if new_time.exists() {
        // Never missing: a server that starts without a time key makes one.
        let old = with_suffix(&time, suffix);
        if time.exists() && !old.exists() {
            fs::hard_link(&time, &old).map_err(at(&old))?;
        }
        rename(&new_time, &time)?;
    }
    let marker = order.data_dir.join(MARKER_FILE);
    if marker.exists() {
        aside(&marker, suffix)?;
    }
    fs::remove_dir_all(draft).map_err(at(draft))?;
    sync(&order.keys_dir)
}

fn database_aside(order: &Order, suffix: &str) -> Result<(), Failed> {
    let Database::File(path) = &order.database else { return Ok(()) };
    for file in database_files(path).iter().filter(|file| file.exists()) {
        let old = with_suffix(file, suffix);
        if !old.exists() {
            rename(file, &old)?;
        }
    }
    Ok(())
}

/// Gives a file a name of its own that ends in `suffix`.
fn aside(path: &Path, suffix: &str) -> Result<(), Failed> {
    let first = with_suffix(path, suffix);
    let mut free = first.clone();
    for number in 2u32.. {
        if !free.exists() {
            break;
        }
        free = with_suffix(&first, &number.to_string());
    }
    rename(path, &free)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Renames durably: the order of the steps is what a crash may rely on.
fn rename(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::rename(from, to).map_err(at(from))?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty());
    sync(dir.unwrap_or(Path::new(".")))
}

fn sync(dir: &Path) -> Result<(), Failed> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failed {
    let path = path.to_owned();
    move |source| Failed::Io { path, source }
}
