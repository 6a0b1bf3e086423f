//! The bell between servers on one PostgreSQL: LISTEN, in a thread of its own.
//!
//! A ring says only that the log may have grown; whoever hears it looks in the database. So a
//! ring that is lost while the connection is down costs time and nothing else: after every new
//! connection the bell is rung once.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use tokio::sync::Notify;

use super::conn::Conn;
use super::edge::CHANNEL;
use super::{Database, StoreError};

/// How long a ring may wait to be noticed: libpq hands notices out when it is asked, and asking
/// is one read that does not block.
const EAR: Duration = Duration::from_millis(4);

/// How long a lost connection is left alone.
const REST: Duration = Duration::from_millis(250);

/// Rings `bell` whenever another server may have written, for as long as someone else holds it.
/// Without a PostgreSQL there are no others.
///
/// # Errors
/// [`StoreError`] if there is no thread to listen.
pub(super) fn listen(
    database: Database,
    own_name: String,
    bell: Arc<Notify>,
) -> Result<(), StoreError> {
    if matches!(database, Database::File(_)) {
        return Ok(());
    }
    let ear = thread::Builder::new().name("bell".into());
    ear.spawn(move || {
        let mut heard = true;
        while Arc::strong_count(&bell) > 1 {
            let ended = listen_once(&database, &own_name, &bell, &mut heard);
            // Once for every outage.
            if let Err(error) = ended
                && std::mem::take(&mut heard)
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "the bell is not heard");
            }
            thread::sleep(REST);
        }
    })
    .map(drop)
    .map_err(|e| StoreError::Connect(e.to_string()))
}

/// Listens until the connection ends, or nobody waits any more.
fn listen_once(
    database: &Database,
    own_name: &str,
    bell: &Arc<Notify>,
    heard: &mut bool,
) -> Result<(), StoreError> {
    let Conn::Postgres(mut conn) = database.connect()? else { return Ok(()) };
    conn.batch_execute(&format!("LISTEN {CHANNEL}"))?;
    *heard = true;
    bell.notify_one();
    while Arc::strong_count(bell) > 1 {
        let mut rung = false;
        for notice in conn.notifications_iter() {
            rung |= notice?.payload != own_name;
        }
        if rung {
            bell.notify_one();
        }
        thread::sleep(EAR);
    }
    Ok(())
}
