//! What SQLite has in its write-ahead log (WAL) goes back into the file on a thread of its own.
//!
//! Left to itself, SQLite does that inside of a commit, once the WAL has a thousand pages: the
//! batch waits for all of them, and what comes meanwhile makes the next batch a large one. A
//! passive checkpoint on another connection holds up neither writer nor readers
//! (<https://www.sqlite.org/wal.html>). But only the writer can let the WAL begin again, and only
//! when nothing of it is left to copy: so it is told when hardly anything is, and copies that
//! between two batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use diesel::prelude::*;
use diesel::sql_types::Integer;

use super::conn::{Conn, Database};
use super::{Shared, StoreError};

/// Pages after which it is time again.
const PAGES: usize = 600;

/// Pages that a batch of any size writes: heads, tiles, the tables' right edges.
const PAGES_OF_A_BATCH: usize = 8;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Pages of a WAL that is to begin again.
const LONG: i32 = 3000;

/// Pages that a writer may have to copy for that.
const FEW: i32 = 300;

/// The thread's bell. Dropped, it ends the thread.
pub(super) struct WriteBack {
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Whether the WAL is long and hardly anything of it is left to copy.
    nearly_done: Arc<AtomicBool>,
    /// Pages since it rang, by estimate.
    waiting: usize,
}

impl WriteBack {
    /// For a SQLite file; `None` where there is nothing to write back, or no thread to do it:
    /// then the writer does it alone.
    pub(super) fn start(database: &Database) -> Option<Self> {
        let Database::File(_) = database else { return None };
        let (bell, rung) = sync_channel(1);
        let (database, nearly_done) = (database.clone(), Arc::<AtomicBool>::default());
        let found = Arc::clone(&nearly_done);
        let thread = thread::Builder::new().name("write-back".into());
        let thread = thread.spawn(move || write_back(&database, &rung, &found)).ok()?;
        Some(Self { bell: Some(bell), thread: Some(thread), nearly_done, waiting: 0 })
    }

    /// Says that a batch of so many items and bytes was committed and told, on this connection.
    pub(super) fn committed(&mut self, (items, bytes): (usize, usize), writer: &Shared) {
        if self.nearly_done.swap(false, Ordering::Relaxed) {
            // What it does not do now, it does another time.
            let _ = writer.lock().and_then(|mut conn| checkpoint(&mut conn));
        }
        // Each item has a place in an index that no other has to share.
        self.waiting += PAGES_OF_A_BATCH + items + bytes / PAGE;
        if self.waiting >= PAGES {
            self.waiting = 0;
            // A bell that still rings will do.
            let _ = self.bell.as_ref().map(|bell| bell.try_send(()));
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.bell = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn write_back(database: &Database, rung: &Receiver<()>, nearly_done: &AtomicBool) {
    let (mut conn, mut failing) = (None, false);
    for () in rung {
        let open = match &mut conn {
            Some(conn) => Ok(conn),
            None => database.connect().map(|new| conn.insert(new)),
        };
        // The second time there is only what came during the first, unless a reader holds it.
        match open.and_then(|conn| checkpoint(conn).and_then(|_| checkpoint(conn))) {
            Ok(Checkpoint { log, checkpointed }) => {
                let nearly = log >= LONG && log - checkpointed <= FEW;
                nearly_done.store(nearly, Ordering::Relaxed);
                failing = false;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error, "the database's write-ahead log cannot be written back");
                }
                conn = None;
            }
        }
    }
}

/// Pages in the WAL, and how many of them are in the file; -1 if there is no WAL.
#[derive(QueryableByName)]
struct Checkpoint {
    #[diesel(sql_type = Integer)]
    log: i32,
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}

/// Copies what it can without waiting for anyone.
fn checkpoint(conn: &mut Conn) -> Result<Checkpoint, StoreError> {
    Ok(diesel::sql_query("PRAGMA wal_checkpoint(PASSIVE)").get_result(conn)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Outage;
    use diesel::connection::SimpleConnection as _;
    use std::path::Path;

    /// A new database, and the connection that writes to it.
    fn opened(dir: &Path) -> (Database, Shared) {
        let database = Database::File(dir.join("nexo.db"));
        let conn = database.prepare().unwrap();
        let writer = Shared::new(conn, database.clone(), Arc::<Outage>::default());
        (database, writer)
    }

    #[test]
    fn what_was_committed_goes_into_the_file_while_the_writer_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let (database, writer) = opened(dir.path());
        let size = || std::fs::metadata(dir.path().join("nexo.db")).unwrap().len();
        let before = size();
        // Dropped, it does what was asked for and ends.
        let after = |batches: &[(usize, usize)]| {
            let mut write_back = WriteBack::start(&database).unwrap();
            batches.iter().for_each(|&batch| write_back.committed(batch, &writer));
            drop(write_back);
            size()
        };
        assert_eq!(after(&[(PAGES / 2, 0)]), before, "too little to be worth it");
        assert!(after(&[(PAGES / 2, PAGES / 2 * PAGE)]) > before);
    }

    #[test]
    fn a_long_log_begins_again_once_it_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (database, writer) = opened(dir.path());
        let write = |sql: &str| writer.lock().unwrap().batch_execute(sql).unwrap();
        write("CREATE TABLE wide (bytes BLOB)");
        // The WAL's header counts how often it has begun (sqlite.org/fileformat2.html, 4.1).
        let begun = || {
            let header = std::fs::read(dir.path().join("nexo.db-wal")).unwrap();
            u32::from_be_bytes(header[12..16].try_into().unwrap())
        };
        let rung = || {
            let mut write_back = WriteBack::start(&database).unwrap();
            write_back.committed((PAGES, 0), &writer);
            write_back.bell = None;
            write_back.thread.take().unwrap().join().unwrap();
            write_back
        };
        let nearly_done = |of: &WriteBack| of.nearly_done.load(Ordering::Relaxed);
        assert!(!nearly_done(&rung()), "a short one goes on");
        write(&format!("INSERT INTO wide VALUES (zeroblob({}))", 4096 * (LONG + 10)));
        let mut write_back = rung();
        assert!(nearly_done(&write_back));

        // The writer lets it begin again, but not before it has copied what is left.
        write("INSERT INTO wide VALUES (x'01')");
        let begun_before = begun();
        write("INSERT INTO wide VALUES (x'02')");
        assert_eq!(begun(), begun_before, "the first is not copied");
        write_back.committed((1, 0), &writer);
        write("INSERT INTO wide VALUES (x'03')");
        assert_eq!(begun(), begun_before + 1);
    }

    #[test]
    fn a_server_of_its_own_writes_back_itself() {
        assert!(WriteBack::start(&Database::Postgres("postgres://h/d".into())).is_none());
    }
}
