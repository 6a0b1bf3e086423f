//! The log's seam, over SQL: read the right edge, commit a batch.

use std::sync::Arc;

use nexo_schema::ids::{AccountId, Origin};

use super::admit::{Admission, Decision, Item, Known, Placed, Refusal};
use super::conn::{Shared, exclusive, snapshot};
use super::edge::{Moved, last_staged, load_edge, lock_head, moved, write_log};
use super::fresh::{Audience, Fresh, Told, keys_changed};
use super::tree::{StoredHeadRow, newest_head};
use super::usage::StorageQuota;
use super::write_back::WriteBack;
use super::{Conn, Store, StoreError};
use crate::clock::Clock;
use crate::log::{
    Admission as Admitted, CommitError, Entry, Ledger, LedgerError, Staging, Step, Stored,
};

/// The log in the relay's database.
pub struct SqlLedger {
    store: Store,
    writer: Option<Arc<Shared>>,
    origin: Origin,
    clock: Clock,
    audience: Box<dyn Audience>,
    /// What was read of rows that only the log writes; empty whenever in doubt.
    known: Known,
    /// What each account may store.
    quota: StorageQuota,
    /// Entries that waiters were told of; none before the first head.
    told: Option<u64>,
    /// How far other servers brought the log, if they did, and whose devices they changed.
    theirs: Option<Theirs>,
    /// What the last batch placed.
    ours: Told,
    write_back: Option<WriteBack>,
}

/// What other servers did: the log's size, and the accounts whose devices changed.
type Theirs = (u64, Vec<AccountId>);

impl SqlLedger {
    /// A ledger in the store.
    #[must_use]
    pub fn new(store: Store, origin: Origin, clock: Clock, audience: Box<dyn Audience>) -> Self {
        Self {
            write_back: WriteBack::start(&store.database),
            store,
            writer: None,
            origin,
            clock,
            audience,
            known: Known::default(),
            quota: StorageQuota::default(),
            told: None,
            theirs: None,
            ours: Told::default(),
        }
    }

    /// With a quota for each account.
    #[must_use]
    pub fn with_quota(self, quota: StorageQuota) -> Self {
        Self { quota, ..self }
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

    /// One transaction; if it fails, also whether it had come to its COMMIT.
    fn attempt(
        &mut self,
        writer: &Shared,
        expected: u64,
        items: &mut Vec<Item>,
        look_up: bool,
        staging: &mut dyn Staging<Item, Placed, Refusal>,
    ) -> Result<(), (Abort, bool)> {
        let now = self.clock.seconds();
        let (origin, own_name) = (&self.origin, self.store.own_name());
        let known = &mut self.known;
        let quota = self.quota;
        let mut batch = Batch { origin, own_name, now, known, quota, items, look_up, theirs: None };
        let mut written = None;
        let outcome = writer.lock().map_err(Abort::from).and_then(|mut conn| {
            exclusive(&mut conn, None, |conn| {
                written = Some(batch.write(conn, expected, staging)?);
                Ok(())
            })
        });
        self.theirs = batch.theirs;
        let reached_commit = written.is_some();
        self.ours = written.unwrap_or_default();
        outcome.map_err(|abort| (abort, reached_commit))
    }

    /// After an error: nothing that was read is relied on, and a server is asked anew.
    fn doubt(&mut self) {
        self.known.forget();
        self.writer = None;
    }

    fn failed(&mut self, error: StoreError) -> LedgerError {
        self.doubt();
        LedgerError(error.into())
    }

    /// Says at once whose devices changed: whoever is answered may ask with what changed.
    fn tell_keys(&mut self) {
        let keys_changed = std::mem::take(&mut self.ours.keys_changed);
        if !keys_changed.is_empty() {
            let told = self.told.unwrap_or(0);
            self.audience.tell(Fresh {
                before: told,
                size: told,
                keys_changed,
                ..Fresh::default()
            });
        }
    }

    /// Tells of what other servers placed up to `size`. If the database does not say what that
    /// was, everybody is told to look.
    fn tell_theirs(&mut self, size: u64, keys_changed: Vec<AccountId>) {
        let Some(before) = self.told.filter(|&told| told < size) else { return };
        let present = self.audience.present();
        let found = self
            .connection()
            .and_then(|writer| Fresh::behind(&mut *writer.lock()?, (before, size), present));
        match found {
            Ok(fresh) => self.audience.tell(Fresh { keys_changed, ..fresh }),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "not known what is new");
                self.doubt();
                // A word that begins behind the last one says that some are missing.
                self.audience.tell(Fresh { before: size, size, keys_changed, ..Fresh::default() });
            }
        }
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
                let head = newest_head(conn)?;
                let size = head.as_ref().map_or(0, |head| head.size);
                let changed = told.map(|told| keys_changed(conn, told)).transpose()?;
                Ok::<_, StoreError>((load_edge(conn, head)?, changed.map(|keys| (size, keys))))
            })
        });
        let (stored, theirs) = found.map_err(|error| self.failed(error))?;
        self.theirs = theirs;
        Ok(stored)
    }

    fn size(&mut self) -> Result<u64, LedgerError> {
        let found = self.connection().and_then(|writer| newest_head(&mut *writer.lock()?));
        let head = found.map_err(|error| self.failed(error))?;
        Ok(head.map_or(0, |head| head.size))
    }

    fn commit(
        &mut self,
        expected: u64,
        items: &mut Vec<Item>,
        staging: &mut dyn Staging<Item, Placed, Refusal>,
    ) -> Result<(), CommitError> {
        let writer = self.connection().map_err(|e| CommitError::RolledBack(e.into()))?;
        let mut outcome = self.attempt(&writer, expected, items, false, staging);
        if matches!(&outcome, Err((Abort::Store(error), false)) if error.is_duplicate()) {
            // Someone sent what it had sent before: now it is looked for.
            self.known.forget();
            outcome = self.attempt(&writer, expected, items, true, staging);
        }
        match &outcome {
            Ok(()) => {
                self.tell_keys();
                staging.done(Step::Commit);
            }
            Err((Abort::Nothing, _)) => self.known.forget(),
            Err(_) => self.doubt(),
        }
        match outcome {
            Ok(()) | Err((Abort::Nothing, _)) => Ok(()),
            Err((Abort::Moved, _)) => Err(CommitError::HeadMoved),
            // Before COMMIT ran, an error has rolled everything back. An error of COMMIT
            // itself proves nothing.
            Err((Abort::Store(e), true)) => Err(CommitError::Unknown(e.into())),
            Err((Abort::Store(e), false)) => Err(CommitError::RolledBack(e.into())),
        }
    }

    fn adopted(&mut self, size: u64, items: Vec<Item>) {
        if let Some((theirs, keys_changed)) = self.theirs.take() {
            self.tell_theirs(theirs.min(size), keys_changed);
        }
        let written = (items.len(), items.iter().map(Item::bytes).sum());
        let ours = std::mem::take(&mut self.ours).fresh(size, items);
        // Also what concerns nobody: a word that is left out looks like one that was lost.
        if ours.size > ours.before {
            self.audience.tell(ours);
        }
        self.told = Some(size);
        if let (Some(write_back), Some(writer)) = (&mut self.write_back, &self.writer) {
            write_back.committed(written, writer);
        }
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
    quota: StorageQuota,
    items: &'a mut Vec<Item>,
    /// Whether to look first which messages were placed before.
    look_up: bool,
    theirs: Option<Theirs>,
}

impl Batch<'_> {
    fn write(
        &mut self,
        conn: &mut Conn,
        expected: u64,
        staging: &mut dyn Staging<Item, Placed, Refusal>,
    ) -> Result<Told, Abort> {
        let head = lock_head(conn)?;
        let before = head.as_ref().map(|head| head.size);
        let found = before.unwrap_or(0);
        if found != expected {
            self.go_on_from(conn, head, expected, staging)?;
        }
        // `ts` never runs backwards through the log, whatever the clock does.
        let last = match self.known.last_staged() {
            Some(last) => last,
            None => last_staged(conn)?,
        };
        let now = self.now.max(last);
        let (admitted, ours) = self.admit(conn, now, found, staging)?;
        let staged = staging.stage(admitted).ok_or(Abort::Nothing)?;
        write_log(conn, self.origin, &staged, now, before, self.own_name)?;
        self.known.staged_at(now);
        staging.done(Step::Tree);
        Ok(ours)
    }

    /// Follows another server, if the log does.
    fn go_on_from(
        &mut self,
        conn: &mut Conn,
        head: Option<StoredHeadRow>,
        expected: u64,
        staging: &mut dyn Staging<Item, Placed, Refusal>,
    ) -> Result<(), Abort> {
        // The other server had the lock: more has come than when the batch was begun.
        staging.gather(self.items);
        let Moved { stored, last_staged, keys_changed } = moved(conn, head, expected)?;
        let found = stored.head.as_ref().map(|head| head.size);
        if staging.moved(stored) != found {
            return Err(Abort::Moved);
        }
        self.known.moved(last_staged);
        self.known.changed_accounts(&keys_changed);
        self.theirs = found.map(|size| (size, keys_changed));
        Ok(())
    }

    fn admit(
        &mut self,
        conn: &mut Conn,
        now: u64,
        size: u64,
        staging: &mut dyn Staging<Item, Placed, Refusal>,
    ) -> Result<(Vec<Admitted<Placed, Refusal>>, Told), StoreError> {
        let mut admission = Admission::new(conn, self.origin, now, self.known, self.quota);
        if self.look_up {
            admission.look_up(self.items)?;
        }
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
