//! The relay's own ledger, failing on demand: before it asks the database, inside of the
//! transaction, and after the commit.
//!
//! It never lies: what is said to be rolled back was, and what was committed is at worst said to
//! be in doubt.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diesel::prelude::*;

use super::super::{Conn, Database, Item, Placed, Refusal, SqlLedger};
use crate::log::{Admission, CommitError, Ledger, LedgerError, Staged, Staging, Step, Stored};

/// What goes wrong at a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    None,
    /// Fails before the database is asked, and says that nothing was written.
    RolledBack,
    /// The same, but says that it does not know.
    Lost,
    /// Panics before the database is asked.
    PanicBefore,
    /// Every connection to the database ends before; PostgreSQL's alone can.
    HangUp,
    /// Another server commits just before.
    Overtaken,
    /// Another server commits just before, and the log will not go on from there.
    Disowned,
    /// One admission too few, so that the log stages nothing.
    TooShort,
    /// Panics inside of the transaction, or behind its end, when this step is done.
    PanicAt(Step),
    /// Every connection to the database ends when this step is done; PostgreSQL's alone can.
    CutAt(Step),
    /// Commits, and says that it does not know.
    Forgotten,
    /// Commits, another server commits behind it, and then says that it does not know.
    Buried,
    /// Commits, and panics.
    PanicAfter,
}

impl Fault {
    /// Whether the writer does not survive it.
    pub(super) fn kills(self) -> bool {
        matches!(self, Self::PanicBefore | Self::PanicAt(_) | Self::PanicAfter)
    }
}

/// What is to go wrong. Clones are the same plan; locked, it holds the ledger back.
#[derive(Clone, Default)]
pub(super) struct Plan(Arc<Mutex<Planned>>);

#[derive(Default)]
pub(super) struct Planned {
    /// At the next commits, the renewals of a head among them.
    pub(super) commits: VecDeque<Fault>,
    /// How many of the next reads of the head fail.
    pub(super) loads: u32,
    /// The writer has panicked.
    pub(super) fallen: bool,
}

impl Plan {
    pub(super) fn lock(&self) -> MutexGuard<'_, Planned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if the next read of the head is to fail.
    fn read(&self) -> Result<(), LedgerError> {
        let mut plan = self.lock();
        let Some(left) = plan.loads.checked_sub(1) else { return Ok(()) };
        plan.loads = left;
        Err(LedgerError("a fault of the test".into()))
    }

    /// Panics, without a word on standard error: it is meant.
    fn fall(&self) -> ! {
        self.lock().fallen = true;
        resume_unwind(Box::new("a fault of the test"))
    }

    /// Lets everything go well again.
    pub(super) fn clear(&self) {
        *self.lock() = Planned::default();
    }
}

/// What another server does when it is its turn.
pub(super) type Meanwhile = Box<dyn FnMut() + Send>;

/// The ledger.
pub(super) struct Failing {
    pub(super) inner: SqlLedger,
    pub(super) plan: Plan,
    pub(super) database: Database,
    pub(super) meanwhile: Meanwhile,
}

impl Ledger for Failing {
    type Item = Item;
    type Placed = Placed;
    type Refusal = Refusal;

    fn load(&mut self) -> Result<Stored, LedgerError> {
        self.plan.read()?;
        self.inner.load()
    }

    fn size(&mut self) -> Result<u64, LedgerError> {
        self.plan.read()?;
        self.inner.size()
    }

    fn commit(
        &mut self,
        expected: u64,
        items: &mut Vec<Item>,
        log: &mut dyn Staging<Item, Placed, Refusal>,
    ) -> Result<(), CommitError> {
        let fault = self.plan.lock().commits.pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::RolledBack => return Err(CommitError::RolledBack("a fault of the test".into())),
            Fault::Lost => return Err(CommitError::Unknown("a fault of the test".into())),
            Fault::PanicBefore => self.plan.fall(),
            Fault::HangUp => hang_up(&self.database),
            Fault::Overtaken | Fault::Disowned => (self.meanwhile)(),
            _ => {}
        }
        let (plan, database) = (&self.plan, &self.database);
        let mut staging = Meddling { log, fault, plan, database };
        let outcome = self.inner.commit(expected, items, &mut staging);
        match fault {
            Fault::Forgotten => outcome?,
            Fault::Buried => {
                outcome?;
                (self.meanwhile)();
            }
            Fault::PanicAfter => self.plan.fall(),
            _ => return outcome,
        }
        Err(CommitError::Unknown("a fault of the test".into()))
    }

    fn adopted(&mut self, size: u64, items: Vec<Item>) {
        self.inner.adopted(size, items);
    }
}

/// The log's part in the transaction, with the fault between it and the ledger.
struct Meddling<'a> {
    log: &'a mut dyn Staging<Item, Placed, Refusal>,
    fault: Fault,
    plan: &'a Plan,
    database: &'a Database,
}

impl Meddling<'_> {
    fn reach(&self, step: Step) {
        match self.fault {
            Fault::PanicAt(at) if at == step => self.plan.fall(),
            Fault::CutAt(at) if at == step => hang_up(self.database),
            _ => {}
        }
    }
}

impl Staging<Item, Placed, Refusal> for Meddling<'_> {
    fn gather(&mut self, items: &mut Vec<Item>) {
        self.log.gather(items);
    }

    fn moved(&mut self, stored: Stored) -> Option<u64> {
        if self.fault == Fault::Disowned { None } else { self.log.moved(stored) }
    }

    fn stage(&mut self, mut admissions: Vec<Admission<Placed, Refusal>>) -> Option<Arc<Staged>> {
        if self.fault == Fault::TooShort {
            admissions.pop();
        }
        let staged = self.log.stage(admissions);
        self.reach(Step::Stage);
        staged
    }

    fn done(&mut self, step: Step) {
        self.log.done(step);
        self.reach(step);
    }
}

/// Ends every connection to a PostgreSQL database, as its restart does.
pub(super) fn hang_up(database: &Database) {
    let Conn::Postgres(mut conn) = database.connect().unwrap() else { return };
    let all = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    diesel::sql_query(all).execute(&mut conn).unwrap();
}
