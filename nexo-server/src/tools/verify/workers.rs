//! Pieces of work on several threads, each with a connection of its own; results in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::store::whole::Snapshot;
use crate::store::{Conn, StoreError};

/// Runs `work` for every number on the snapshots' threads and gives the results to `take` on
/// this one, in the order of the numbers. Numbers are handed out in order too, so that few
/// results wait for an earlier one. The first error ends it.
pub(super) fn in_order<T: Send, E: From<StoreError>>(
    snapshots: &mut [Snapshot],
    numbers: Range<u64>,
    work: &(dyn Fn(&mut Conn, u64) -> Result<T, StoreError> + Sync),
    take: &mut dyn FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let (next, over) = (AtomicU64::new(numbers.start), AtomicBool::new(false));
    let (results, done) = sync_channel(snapshots.len());
    let (next, over) = (&next, &over);
    let end = numbers.end;
    thread::scope(|scope| {
        for snapshot in snapshots {
            let results = results.clone();
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // The receiver leaves when it has had enough.
                    if number >= end
                        || results.send((number, work(snapshot.conn(), number))).is_err()
                    {
                        return;
                    }
                }
            });
        }
        drop(results);
        let outcome = ordered(done, numbers.start, take);
        over.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Gives results to `take` from `due` on. With the receiver gone, no thread waits to be heard.
fn ordered<T, E: From<StoreError>>(
    done: Receiver<(u64, Result<T, StoreError>)>,
    mut due: u64,
    take: &mut dyn FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let mut waiting = BTreeMap::new();
    for (number, result) in done {
        waiting.insert(number, result?);
        while let Some(result) = waiting.remove(&due) {
            due += 1;
            take(result)?;
        }
    }
    Ok(())
}
