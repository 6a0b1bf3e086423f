//! The bell: who waits for what, and how they are woken.
//!
//! A room holds no message, only the size of the log when something in it last changed. A
//! socket that is woken reads what is new from the database behind its own cursor, so nothing
//! can be lost here and a slow reader costs a number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nexo_schema::ids::{AccountId, ConvId};
use rocket::tokio::sync::watch;

/// What one can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Anything in this conversation.
    Conversation(ConvId),
    /// Anything this account may read.
    Account(AccountId),
}

/// All rooms. Cheap to clone.
#[derive(Clone, Default)]
pub struct Rooms(Arc<Mutex<HashMap<Topic, watch::Sender<u64>>>>);

impl Rooms {
    /// Waits in a room from now on.
    #[must_use]
    pub fn enter(&self, topic: Topic) -> Seat {
        let bell = self.lock().entry(topic).or_insert_with(|| watch::channel(0).0).subscribe();
        Seat { bell, topic, rooms: self.clone() }
    }

    /// Wakes everyone in these rooms: the log has reached `size`.
    pub fn ring(&self, topics: impl IntoIterator<Item = Topic>, size: u64) {
        let rooms = self.lock();
        for topic in topics {
            if let Some(bell) = rooms.get(&topic) {
                bell.send_replace(size);
            }
        }
    }

    /// The map is consistent between any two statements, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, HashMap<Topic, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a room; leaving the last one closes it.
pub struct Seat {
    bell: watch::Receiver<u64>,
    topic: Topic,
    rooms: Rooms,
}

impl Seat {
    /// Returns at the next ring, or at once if one was missed; the size of the log then.
    /// Cancel safe.
    pub async fn rung(&mut self) -> u64 {
        // The sender lives in the map for as long as this seat does.
        let _ = self.bell.changed().await;
        *self.bell.borrow_and_update()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut rooms = self.rooms.lock();
        // This seat still counts as one.
        if rooms.get(&self.topic).is_some_and(|bell| bell.receiver_count() <= 1) {
            rooms.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rocket::async_test]
    async fn rings_reach_the_room_and_no_other_and_are_not_missed() {
        let rooms = Rooms::default();
        let (a, b) = (Topic::Account(AccountId([1; 32])), Topic::Conversation(ConvId([1; 32])));
        let mut seat = rooms.enter(a);
        let mut other = rooms.enter(b);
        rooms.ring([a], 7);
        rooms.ring([a], 9);
        assert_eq!(seat.rung().await, 9, "two rings before a look are one");
        rooms.ring([b], 10);
        assert_eq!(other.rung().await, 10);
    }

    #[rocket::async_test]
    async fn empty_rooms_are_forgotten() {
        let rooms = Rooms::default();
        let topic = Topic::Conversation(ConvId([2; 32]));
        let (one, two) = (rooms.enter(topic), rooms.enter(topic));
        drop(one);
        assert_eq!(rooms.lock().len(), 1);
        drop(two);
        assert_eq!(rooms.lock().len(), 0);
    }
}
