//! The log's seam, over SQL: read the right edge, commit a batch.

use std::sync::{Arc, Mutex, PoisonError};

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId, Origin};

use super::admit::{Admission, Decision, Item, Placed, Refusal};
use super::conn::{exclusive, snapshot};
use super::schema::{bundles, heads, log_head, tail, tiles};
use super::tree::{newest_head, tail_of, tile};
use super::{Conn, StoreError, signed, unsigned};
use crate::clock::Clock;
use crate::log::{
    Admission as Admitted, CommitError, Entry, Ledger, LedgerError, Stage, Staged, Stored,
    StoredHead, TILE_HEIGHT, TILE_WIDTH, TileWrite,
};

/// What PostgreSQL's servers wait for in turn; SQLite's write lock covers it.
const LOCK_HEAD: &str = "SELECT pg_advisory_xact_lock(715827884)";

/// Called when a batch is public: the conversations and accounts it concerns, the log's size.
pub(super) type Ring = Box<dyn Fn(&[ConvId], &[AccountId], u64) + Send>;

/// The log in the relay's database.
pub struct SqlLedger {
    writer: Arc<Mutex<Conn>>,
    origin: Origin,
    clock: Clock,
    ring: Ring,
    /// Whom the last committed batch concerns.
    audience: (Vec<ConvId>, Vec<AccountId>),
}

impl SqlLedger {
    /// A ledger on the store's writer.
    #[must_use]
    pub fn new(writer: Arc<Mutex<Conn>>, origin: Origin, clock: Clock, ring: Ring) -> Self {
        Self { writer, origin, clock, ring, audience: Default::default() }
    }
}

impl Ledger for SqlLedger {
    type Item = Item;
    type Placed = Placed;
    type Refusal = Refusal;

    fn load(&mut self) -> Result<Stored, LedgerError> {
        let mut conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot(&mut conn, load_edge).map_err(|e: StoreError| LedgerError(e.into()))
    }

    fn commit(
        &mut self,
        expected: u64,
        items: &[Item],
        stage: &mut Stage<'_, Placed, Refusal>,
    ) -> Result<(), CommitError> {
        self.audience = Default::default();
        let mut conn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch { origin: &self.origin, now: self.clock.seconds(), expected, items };
        let mut written = None;
        let outcome = exclusive(&mut conn, Some(LOCK_HEAD), |conn| {
            written = Some(batch.write(conn, stage)?);
            Ok(())
        });
        let reached_commit = written.is_some();
        self.audience = written.unwrap_or_default();
        match outcome {
            Ok(()) => Ok(()),
            Err(Abort::Moved(found)) => Err(CommitError::HeadMoved { found }),
            Err(Abort::Nothing) => Ok(()),
            // Before COMMIT ran, an error has rolled everything back. An error of COMMIT
            // itself proves nothing.
            Err(Abort::Store(e)) if reached_commit => Err(CommitError::Unknown(e.into())),
            Err(Abort::Store(e)) => Err(CommitError::RolledBack(e.into())),
        }
    }

    fn adopted(&mut self, size: u64) {
        let (conversations, accounts) = std::mem::take(&mut self.audience);
        if !conversations.is_empty() {
            (self.ring)(&conversations, &accounts, size);
        }
    }
}

/// Why a transaction ended without a commit.
enum Abort {
    Moved(u64),
    /// The log had nothing to write.
    Nothing,
    Store(StoreError),
}

impl<E: Into<StoreError>> From<E> for Abort {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// One batch inside its transaction.
struct Batch<'a> {
    origin: &'a Origin,
    now: u64,
    expected: u64,
    items: &'a [Item],
}

impl Batch<'_> {
    fn write(
        &mut self,
        conn: &mut Conn,
        stage: &mut Stage<'_, Placed, Refusal>,
    ) -> Result<(Vec<ConvId>, Vec<AccountId>), Abort> {
        let head = newest_head(conn)?;
        let found = head.as_ref().map_or(0, |head| head.size);
        if found != self.expected {
            return Err(Abort::Moved(found));
        }
        // `ts` never runs backwards through the log, whatever the clock does.
        let now = self.now.max(last_staged(conn)?);
        let mut admission = Admission::new(conn, self.origin, now);
        let mut admitted = Vec::with_capacity(self.items.len());
        let mut index = self.expected + 1;
        for item in self.items {
            let decision = admitted_as(admission.decide(item, index)?)?;
            index += u64::from(matches!(decision, Admitted::Placed { .. }));
            admitted.push(decision);
        }
        admission.finish()?;
        let audience = admission.audience();
        let staged = stage(admitted).ok_or(Abort::Nothing)?;
        write_tree(conn, &staged)?;
        write_head(conn, self.origin, &staged, now, head.is_some())?;
        Ok(audience)
    }
}

fn admitted_as(decision: Decision) -> Result<Admitted<Placed, Refusal>, StoreError> {
    Ok(match decision {
        Decision::Place { entry, placed } => {
            let entry = Entry::new(entry)
                .map_err(|_| StoreError::corrupt("messages", "an entry is too long"))?;
            Admitted::Placed { entry, placed }
        }
        Decision::Known { index, placed } => Admitted::Known { index: index - 1, placed },
        Decision::Refuse(refusal) => Admitted::Refused(refusal),
    })
}

fn last_staged(conn: &mut Conn) -> Result<u64, StoreError> {
    let last: Option<i64> =
        heads::table.select(heads::staged_at).order(heads::size.desc()).first(conn).optional()?;
    unsigned("heads", last.unwrap_or(0))
}

fn load_edge(conn: &mut Conn) -> Result<Stored, StoreError> {
    let Some(head) = newest_head(conn)? else { return Ok(Stored::default()) };
    let width = TILE_WIDTH as u64;
    let mut edge_tiles = Vec::new();
    for level in 1u8..8 {
        let hashes = head.size >> (u32::from(level) * TILE_HEIGHT);
        let Ok(partial) = usize::try_from(hashes % width) else { continue };
        if partial > 0 {
            let mut stored = tile(conn, level, hashes / width)?.unwrap_or_default();
            stored.truncate(partial * 32);
            edge_tiles.push((level, stored));
        }
    }
    let tail = tail_of(conn, head.size / width)?;
    let head = StoredHead { size: head.size, root: head.root, note: head.note, time: head.time };
    Ok(Stored { head: Some(head), edge_tiles, tail })
}

fn write_tree(conn: &mut Conn, staged: &Staged) -> Result<(), StoreError> {
    for tile in &staged.tiles {
        put_tile(conn, tile)?;
    }
    for bundle in &staged.bundles {
        diesel::insert_into(bundles::table)
            .values((bundles::idx.eq(signed(bundle.index)), bundles::entries.eq(&bundle.data)))
            .execute(conn)?;
    }
    if !staged.bundles.is_empty() {
        diesel::delete(tail::table).execute(conn)?;
    }
    if let Some(added) = &staged.tail {
        diesel::insert_into(tail::table)
            .values((tail::start.eq(signed(added.start)), tail::entries.eq(&added.data)))
            .execute(conn)?;
    }
    Ok(())
}

/// A tile of level 0 is stored once; one above grows in place.
fn put_tile(conn: &mut Conn, tile: &TileWrite) -> Result<(), StoreError> {
    let key = (i32::from(tile.level), signed(tile.index));
    if tile.level > 0 {
        let grown = diesel::update(tiles::table.find(key))
            .set(tiles::hashes.eq(&tile.hashes))
            .execute(conn)?;
        if grown > 0 {
            return Ok(());
        }
    }
    diesel::insert_into(tiles::table)
        .values((tiles::level.eq(key.0), tiles::idx.eq(key.1), tiles::hashes.eq(&tile.hashes)))
        .execute(conn)?;
    Ok(())
}

/// The head, in both its places. A renewal keeps the size and with it the `staged_at` of the
/// batch that reached it.
fn write_head(
    conn: &mut Conn,
    origin: &Origin,
    staged: &Staged,
    now: u64,
    exists: bool,
) -> Result<(), StoreError> {
    let (size, time) = (signed(staged.size), signed(staged.time));
    let newest = (
        log_head::size.eq(size),
        log_head::root.eq(&staged.root[..]),
        log_head::note.eq(&staged.note),
        log_head::time.eq(time),
    );
    if exists {
        let changed = diesel::update(log_head::table.find(1)).set(newest).execute(conn)?;
        if changed != 1 {
            return Err(StoreError::corrupt("log_head", "the head is not one row"));
        }
    } else {
        let (size, root, note, time) = newest;
        diesel::insert_into(log_head::table)
            .values((
                log_head::id.eq(1),
                log_head::origin.eq(origin.as_str()),
                size,
                root,
                note,
                time,
            ))
            .execute(conn)?;
    }
    let renewed = diesel::update(heads::table.find(size))
        .set((heads::note.eq(&staged.note), heads::time.eq(time)))
        .execute(conn)?;
    if renewed == 0 {
        diesel::insert_into(heads::table)
            .values((
                heads::size.eq(size),
                heads::root.eq(&staged.root[..]),
                heads::note.eq(&staged.note),
                heads::time.eq(time),
                heads::staged_at.eq(signed(now)),
            ))
            .execute(conn)?;
    }
    Ok(())
}
