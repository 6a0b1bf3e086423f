//! The one writer: takes what waits, commits it, then tells.

use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use super::BareError;
use super::store::{Message, Store};

/// As the relay's.
const QUEUE: usize = 8192;
/// As the relay's.
const MAX_BATCH: usize = 1000;

/// Where a message was put, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// From 1.
    pub(super) place: u64,
    /// Unix seconds.
    pub(super) time: u64,
}

struct Job {
    message: Message,
    answer: oneshot::Sender<Placed>,
}

/// The way in.
#[derive(Clone)]
pub(super) struct Door(mpsc::Sender<Job>);

impl Door {
    /// Starts the writer's thread.
    pub(super) fn open(store: Store) -> Result<Self, BareError> {
        let (door, queue) = mpsc::channel(QUEUE);
        thread::Builder::new().name("writer".into()).spawn(move || write(store, queue))?;
        Ok(Self(door))
    }

    /// Resolves once the message is durable; `None` if it is not, and will not be.
    pub(super) async fn submit(&self, message: Message) -> Option<Placed> {
        let (answer, placed) = oneshot::channel();
        self.0.try_send(Job { message, answer }).ok()?;
        placed.await.ok()
    }
}

/// Ends with the last door, or with the first commit that fails: dropped answers say so.
fn write(mut store: Store, mut queue: mpsc::Receiver<Job>) {
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        while let Some(Job { message, answer }) = next {
            messages.push(message);
            answers.push(answer);
            next = if messages.len() < MAX_BATCH { queue.try_recv().ok() } else { None };
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let Ok(first) = store.commit(&messages, time.cast_signed()) else { return };
        for (answer, place) in answers.drain(..).zip(first..) {
            // Who hung up does not want to know.
            let _ = answer.send(Placed { place, time });
        }
        messages.clear();
    }
}
