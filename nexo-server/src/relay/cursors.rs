//! Acknowledged positions on their way to the database: gathered, and written together.
//!
//! An ack moves a number in memory. Once a second what has moved since is one transaction, so
//! acks cost the database the same however many there are. What a crash loses of the last
//! second is sent again, and recognised by its `msg_id`. A socket that says hello looks here
//! before it believes the database.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nexo_schema::ids::{CursorName, DeviceId};
use rocket::tokio::sync::Notify;
use rocket::tokio::time::sleep;

use crate::store::{CursorMove, Store, StoreError, move_cursors};

/// How long moves are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// Cursors in one transaction: it is not to keep the log's batches waiting.
const AT_ONCE: usize = 512;

/// Positions that have moved and are not stored. Cheap to clone.
#[derive(Clone, Default)]
pub struct Cursors(Arc<Gathered>);

#[derive(Default)]
struct Gathered {
    /// No more than there are sockets and rows: only opened cursors are moved.
    moved: Mutex<HashMap<(DeviceId, CursorName), u64>>,
    bell: Notify,
}

impl Cursors {
    /// Says that a cursor that was opened is at this position.
    pub(super) fn moved(&self, device: &DeviceId, name: &CursorName, place: u64) {
        {
            let mut moved = self.lock();
            let at = moved.entry((device.clone(), name.clone())).or_default();
            *at = place.max(*at);
        }
        self.0.bell.notify_one();
    }

    /// Where a cursor is, if it has moved and that is not stored yet.
    pub(super) fn moved_to(&self, device: &DeviceId, name: &CursorName) -> Option<u64> {
        self.lock().get(&(device.clone(), name.clone())).copied()
    }

    /// Stores what moves, until it is dropped.
    pub async fn keep(self, store: Store) {
        loop {
            self.0.bell.notified().await;
            sleep(GATHER).await;
            if self.flush(&store).await.is_err() {
                // The store has told the operator; what moved is kept and tried again.
                self.0.bell.notify_one();
            }
        }
    }

    /// Stores what has moved.
    ///
    /// # Errors
    /// [`StoreError`]; what is not stored stays to be stored.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let moves: Vec<CursorMove> = {
            let moved = self.lock();
            let moved = moved.iter();
            moved
                .map(|((device, name), &place)| (device.clone(), name.clone(), place))
                .map(|(device, name, place)| CursorMove { device, name, place })
                .collect()
        };
        for part in moves.chunks(AT_ONCE) {
            let moves = part.to_vec();
            store.write(move |conn| move_cursors(conn, &moves)).await?;
            self.forget(part);
        }
        Ok(())
    }

    /// Forgets what is stored and has not moved since.
    fn forget(&self, stored: &[CursorMove]) {
        let mut moved = self.lock();
        for CursorMove { device, name, place } in stored {
            let key = (device.clone(), name.clone());
            if moved.get(&key) == Some(place) {
                moved.remove(&key);
            }
        }
    }

    /// Single steps on the map, so a poisoned lock guards a whole one.
    fn lock(&self) -> MutexGuard<'_, HashMap<(DeviceId, CursorName), u64>> {
        self.0.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Database, cursor_of, open_cursor};

    #[test]
    fn what_moved_is_stored_once_and_what_moves_meanwhile_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Database::File(dir.path().join("nexo.db"))).unwrap();
        let (device, name) = (DeviceId::parse("tab").unwrap(), CursorName::parse("tail").unwrap());
        let cursors = Cursors::default();
        rocket::execute(async {
            let (of, named) = (device.clone(), name.clone());
            let opened = store.write(move |conn| open_cursor(conn, &of, &named, 0)).await;
            assert_eq!(opened.unwrap(), Some(0));
            for place in [3, 9, 7] {
                cursors.moved(&device, &name, place);
            }
            assert_eq!(cursors.moved_to(&device, &name), Some(9));
            cursors.flush(&store).await.unwrap();
            assert_eq!(cursors.moved_to(&device, &name), None);
            cursors.moved(&device, &name, 11);
            let stored = CursorMove { device: device.clone(), name: name.clone(), place: 9 };
            cursors.forget(&[stored]);
            assert_eq!(cursors.moved_to(&device, &name), Some(11), "it moved since");
            let (of, named) = (device.clone(), name.clone());
            let stored = store.read(move |conn| cursor_of(conn, &of, &named)).await;
            assert_eq!(stored.unwrap(), Some(9));
        });
    }
}
