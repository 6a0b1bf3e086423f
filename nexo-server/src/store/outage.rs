//! Whether the database can be used, for the operator: one line when it fails, one when it is
//! back.
//!
//! While a database is away every request fails for the same reason, and each is told to come
//! back; saying so once is enough. Diesel tells a connection's [`Watch`] how its queries end, so
//! the cause is known here before it is turned into an answer.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel::r2d2::HandleError;
use diesel::result::DatabaseErrorKind::{
    ClosedConnection, ReadOnlyTransaction, SerializationFailure,
};
use diesel::result::Error::{BrokenTransactionManager, DatabaseError};

use super::StoreError;

/// Milliseconds without a failure that make a database one that is back. On a full disk reads
/// go on between the writes that fail.
const CALM: u64 = 5_000;

/// What SQLite (`sqlite3_errstr`), PostgreSQL (the C library's strerror) and libpq say of what
/// passes by itself, or with room on the disk. Codes do not reach us, and a connection that ends
/// in the middle of rows comes without its kind.
const PASSING: [&str; 8] = [
    "disk is full",
    "disk I/O error",
    "is locked",
    "readonly database",
    "No space left on device",
    "server closed the connection unexpectedly",
    "terminating connection",
    "no connection to the server",
];

/// Whether a failed query may succeed later without anyone mending the relay.
pub(super) fn may_pass(error: &diesel::result::Error) -> bool {
    match error {
        BrokenTransactionManager => true,
        DatabaseError(kind, said) => {
            matches!(kind, ClosedConnection | ReadOnlyTransaction | SerializationFailure)
                || PASSING.iter().any(|words| said.message().contains(words))
        }
        _ => false,
    }
}

/// The state of a database, shared by its connections.
#[derive(Debug)]
pub(super) struct Outage {
    began: Instant,
    /// Milliseconds since `began`, plus one, of the last failure; 0 if there is no outage.
    failed: AtomicU64,
}

impl Default for Outage {
    fn default() -> Self {
        Self { began: Instant::now(), failed: AtomicU64::new(0) }
    }
}

impl Outage {
    /// The database failed.
    pub(super) fn failed(&self, error: &(dyn Error + 'static)) {
        if self.begins(self.now()) {
            tracing::warn!(error, "the database cannot be used; said once until it is back");
        }
    }

    /// The database did what it was asked.
    fn worked(&self) {
        if self.failed.load(Ordering::Relaxed) != 0 && self.ends(self.now()) {
            tracing::info!("the database can be used again");
        }
    }

    /// Whether a failure at that time is the first of an outage.
    fn begins(&self, now: u64) -> bool {
        self.failed.swap(now, Ordering::Relaxed) == 0
    }

    /// Whether a success at that time ends an outage.
    fn ends(&self, now: u64) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        let calm = failed != 0 && now.saturating_sub(failed) >= CALM;
        // A failure meanwhile goes on with the outage; of several successes one is told.
        calm && self
            .failed
            .compare_exchange(failed, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    fn now(&self) -> u64 {
        u64::try_from(Instant::now().duration_since(self.began).as_millis())
            .map_or(u64::MAX, |millis| millis.saturating_add(1))
    }
}

/// A connection's, or a pool's, word to the [`Outage`] that all share.
#[derive(Debug, Clone)]
pub(super) struct Watch(pub(super) Arc<Outage>);

impl Instrumentation for Watch {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::FinishQuery { error: None, .. } => self.0.worked(),
            InstrumentationEvent::FinishQuery { error: Some(error), .. } if may_pass(error) => {
                self.0.failed(error);
            }
            _ => {}
        }
    }
}

/// Instead of r2d2's own, which logs an error for every try to connect.
impl HandleError<StoreError> for Watch {
    fn handle_error(&self, error: StoreError) {
        self.0.failed(&error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_said_once_and_ends_when_it_is_calm() {
        let outage = Outage::default();
        assert!(!outage.ends(1), "nothing has begun");
        assert!(outage.begins(10));
        for now in [11, 500, 4_000] {
            assert!(!outage.begins(now), "{now}");
            // A read that works on a full disk.
            assert!(!outage.ends(now + 1), "{now}");
        }
        assert!(!outage.ends(4_000 + CALM - 1));
        assert!(outage.ends(4_000 + CALM));
        assert!(!outage.ends(4_000 + CALM), "said once");
        assert!(outage.begins(20_000), "the next one");
    }

    #[test]
    fn what_may_pass_is_known_by_kind_or_words() {
        let said = |kind, words: &str| DatabaseError(kind, Box::new(words.to_owned()));
        use diesel::result::DatabaseErrorKind::{UniqueViolation, Unknown};
        for error in [
            BrokenTransactionManager,
            said(ClosedConnection, "x"),
            said(Unknown, "database or disk is full"),
            said(Unknown, "could not extend file \"base/1\": No space left on device"),
            said(Unknown, "attempt to write a readonly database"),
            said(Unknown, "server closed the connection unexpectedly\n\tThis probably means"),
            said(Unknown, "terminating connection due to administrator command"),
        ] {
            assert!(may_pass(&error), "{error}");
        }
        for error in [
            diesel::result::Error::NotFound,
            said(UniqueViolation, "x"),
            said(Unknown, "database disk image is malformed"),
        ] {
            assert!(!may_pass(&error), "{error}");
        }
    }
}
