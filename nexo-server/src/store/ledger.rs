//! The log's seam, over SQL: read the right edge, commit a batch.

use std::sync::Arc;

use nexo_schema::ids::Origin;

use super::admit::{Admission, Decision, Item, Known, Placed, Refusal};
use super::conn::{Shared, exclusive, snapshot};
use super::edge::{last_staged, load_edge, ring_others, write_head, write_tree};
use super::fresh::{Fresh, Told};
use super::tree::newest_head;
use super::{Conn, Store, StoreError};
use crate::clock::Clock;
use crate::log::{
    Admission as Admitted, CommitError, Entry, Ledger, LedgerError, Staging, Step, Stored,
};

/// What PostgreSQL's servers wait for in turn; SQLite's write lock covers it.
const LOCK_HEAD: &str = "SELECT pg_advisory_xact_lock(715827884)";

/// Called on the writer's thread when a batch is public.
pub(super) type Ring = Box<dyn Fn(Fresh) + Send>;

/// The log in the relay's database.
pub struct SqlLedger {
    store: Store,
    writer: Option<Arc<Shared>>,
    origin: Origin,
    clock: Clock,
    ring: Ring,
    /// What was read of rows that only the log writes; empty whenever in doubt.
    known: Known,
    /// Entries that waiters were told of; none before the first head.
    told: Option<u64>,
    /// What other servers added behind `told`.
    theirs: Option<Fresh>,
    /// What the last batch placed.
    ours: Told,
}

impl SqlLedger {
    /// A ledger in the store.
    #[must_use]
    pub fn new(store: Store, origin: Origin, clock: Clock, ring: Ring) -> Self {
        let (known, ours) = (Known::default(), Told::default());
        Self { store, writer: None, origin, clock, ring, known, told: None, theirs: None, ours }
    }

    /// The connection to write on; a new one if there is none.
    fn connection(&mut self) -> Result<Arc<Shared>, StoreError> {
        if let Some(writer) = &self.writer {
            return Ok(writer.clone());
        }
        let writer = self.store.writer()?;
        self.writer = Some(writer.clone());
        Ok(writer)
    }

    /// After an error: nothing that was read is relied on, and a server is asked anew.
    fn doubt(&mut self) {
        self.known.forget();
        self.writer = None;
    }
}

impl Ledger for SqlLedger {
    type Item = Item;
    type Placed = Placed;
    type Refusal = Refusal;

    fn load(&mut self) -> Result<Stored, LedgerError> {
        self.known.forget();
        let told = self.told;
        let found = self.connection().and_then(|writer| {
            snapshot(&mut *writer.lock()?, |conn| {
                let stored = load_edge(conn)?;
                let size = stored.head.as_ref().map_or(0, |head| head.size);
                let theirs = told.map(|told| Fresh::behind(conn, told, size)).transpose()?;
                Ok::<_, StoreError>((stored, theirs))
            })
        });
        match found {
            Ok((stored, theirs)) => {
                self.theirs = theirs;
                Ok(stored)
            }
            Err(error) => {
                self.doubt();
                Err(LedgerError(error.into()))
            }
        }
    }

    fn commit(
        &mut self,
        expected: u64,
        items: &[Item],
        staging: &mut dyn Staging<Placed, Refusal>,
    ) -> Result<(), CommitError> {
        (self.theirs, self.ours) = (None, Told::default());
        let writer = self.connection().map_err(|e| CommitError::RolledBack(e.into()))?;
        let now = self.clock.seconds();
        let (origin, own_name) = (&self.origin, self.store.own_name());
        let known = &mut self.known;
        let mut batch = Batch { origin, own_name, now, known, items, theirs: None };
        let mut written = None;
        let outcome = writer.lock().map_err(Abort::from).and_then(|mut conn| {
            exclusive(&mut conn, Some(LOCK_HEAD), |conn| {
                written = Some(batch.write(conn, expected, staging)?);
                Ok(())
            })
        });
        self.theirs = batch.theirs;
        let reached_commit = written.is_some();
        self.ours = written.unwrap_or_default();
        match &outcome {
            Ok(()) => staging.done(Step::Commit),
            Err(Abort::Nothing) => self.known.forget(),
            Err(Abort::Moved | Abort::Store(_)) => self.doubt(),
        }
        match outcome {
            Ok(()) | Err(Abort::Nothing) => Ok(()),
            Err(Abort::Moved) => Err(CommitError::HeadMoved),
            // Before COMMIT ran, an error has rolled everything back. An error of COMMIT
            // itself proves nothing.
            Err(Abort::Store(e)) if reached_commit => Err(CommitError::Unknown(e.into())),
            Err(Abort::Store(e)) => Err(CommitError::RolledBack(e.into())),
        }
    }

    fn adopted(&mut self, size: u64, items: Vec<Item>) {
        if let Some(theirs) = self.theirs.take().filter(Fresh::concerns_anyone) {
            (self.ring)(theirs);
        }
        let ours = std::mem::take(&mut self.ours).fresh(size, items);
        if ours.concerns_anyone() {
            (self.ring)(ours);
        }
        self.told = Some(size);
    }
}

/// Why a transaction ended without a commit.
enum Abort {
    /// The head is not one to go on from.
    Moved,
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
    own_name: &'a str,
    now: u64,
    known: &'a mut Known,
    items: &'a [Item],
    /// What other servers added since.
    theirs: Option<Fresh>,
}

impl Batch<'_> {
    fn write(
        &mut self,
        conn: &mut Conn,
        expected: u64,
        staging: &mut dyn Staging<Placed, Refusal>,
    ) -> Result<Told, Abort> {
        let head = newest_head(conn)?;
        let found = head.as_ref().map_or(0, |head| head.size);
        if found != expected {
            self.known.forget();
            let size = staging.moved(load_edge(conn)?);
            if size != Some(found) {
                return Err(Abort::Moved);
            }
            self.theirs = Some(Fresh::behind(conn, expected, found)?);
        }
        // `ts` never runs backwards through the log, whatever the clock does.
        let last = match self.known.last_staged() {
            Some(last) => last,
            None => last_staged(conn)?,
        };
        let now = self.now.max(last);
        let (admitted, ours) = self.admit(conn, now, found, staging)?;
        let staged = staging.stage(admitted).ok_or(Abort::Nothing)?;
        write_tree(conn, &staged)?;
        write_head(conn, self.origin, &staged, now, head.as_ref().map(|head| head.size))?;
        ring_others(conn, self.own_name)?;
        self.known.staged_at(now);
        staging.done(Step::Tree);
        Ok(ours)
    }

    fn admit(
        &mut self,
        conn: &mut Conn,
        now: u64,
        size: u64,
        staging: &mut dyn Staging<Placed, Refusal>,
    ) -> Result<(Vec<Admitted<Placed, Refusal>>, Told), StoreError> {
        let mut admission = Admission::new(conn, self.origin, now, self.known);
        admission.look_up(self.items)?;
        staging.done(Step::Admit);
        let mut admitted = Vec::with_capacity(self.items.len());
        let mut index = size + 1;
        for (number, item) in self.items.iter().enumerate() {
            let decision = admitted_as(admission.decide(number, item, index)?)?;
            index += u64::from(matches!(decision, Admitted::Placed { .. }));
            admitted.push(decision);
        }
        let told = admission.finish()?;
        staging.done(Step::Insert);
        Ok((admitted, told))
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
