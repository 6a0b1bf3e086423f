//! Which DPoP proofs were seen: the memory that makes each good for one request.
//!
//! It lives in this process. So a proof made before the process started is refused elsewhere
//! ([`super::dpop`]). Replicas that answer under one URL have a second one between them, in the
//! database they share ([`Shared`]); this one comes first, and bounds what goes there.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::store::{Store, StoreError, forget_proofs, use_proof};

/// Proofs after which those that are void are dropped from the database.
const SWEEP_EVERY: u32 = 1024;

/// Why a proof is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayRefusal {
    /// It was let through before.
    Seen,
    /// There is no room to remember another; forgetting one would let it be replayed.
    Full,
}

/// First half of SHA-256(key || id): 128 bits, and whoever finds a collision under a key of
/// their own has only refused themselves.
pub type Mark = [u8; 16];

/// A bounded set of proofs, each kept for a fixed time.
pub struct ReplayCache {
    capacity: usize,
    keep: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    marks: HashSet<Mark>,
    /// In the order they came, with the second each was seen.
    order: VecDeque<(u64, Mark)>,
    /// The latest second told: time does not go back here, so that setting the system's clock
    /// back does not reorder what is kept.
    latest: u64,
}

impl ReplayCache {
    /// Remembers at most `capacity` proofs (about 80 bytes each), each for `keep` seconds,
    /// which must cover the time in which one proof can be valid.
    #[must_use]
    pub fn new(capacity: usize, keep: u64) -> Self {
        Self { capacity, keep, seen: Mutex::default() }
    }

    /// Lets the proof `id` of `key` through once.
    ///
    /// # Errors
    /// [`ReplayRefusal`]; nothing is remembered then.
    pub fn admit(&self, key: &[u8; 32], id: &str, now: u64) -> Result<(), ReplayRefusal> {
        let mark = mark(key, id);
        // No code that can panic runs under the lock, so a poisoned one is still whole.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.latest = seen.latest.max(now);
        let horizon = seen.latest.saturating_sub(self.keep);
        seen.forget_before(horizon);
        if seen.marks.contains(&mark) {
            return Err(ReplayRefusal::Seen);
        }
        if seen.order.len() >= self.capacity {
            return Err(ReplayRefusal::Full);
        }
        let at = seen.latest;
        seen.marks.insert(mark);
        seen.order.push_back((at, mark));
        Ok(())
    }
}

impl Seen {
    fn forget_before(&mut self, second: u64) {
        while let Some(&(at, mark)) = self.order.front()
            && at < second
        {
            self.order.pop_front();
            self.marks.remove(&mark);
        }
    }
}

/// The memory that servers on one database have between them.
#[derive(Default)]
pub struct Shared(AtomicU32);

impl Shared {
    /// Lets a proof through that no other server has let through. Where no other can be, nothing
    /// is asked.
    ///
    /// # Errors
    /// [`StoreError`]: it is not known.
    pub async fn admit(
        &self,
        store: &Store,
        mark: Mark,
        now: u64,
        keep: u64,
    ) -> Result<bool, StoreError> {
        if !store.is_shared() {
            return Ok(true);
        }
        let sweep = self.0.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1;
        store
            .read(move |conn| {
                if sweep {
                    forget_proofs(conn, now)?;
                }
                use_proof(conn, &mark, now.saturating_add(keep))
            })
            .await
    }
}

/// What is remembered of a proof.
#[must_use]
pub fn mark(key: &[u8; 32], id: &str) -> Mark {
    let hash: [u8; 32] = Sha256::new().chain_update(key).chain_update(id).finalize().into();
    let mut mark = [0; 16];
    mark.copy_from_slice(&hash[..16]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplayRefusal::{Full, Seen};

    #[test]
    fn a_proof_is_let_through_once_in_its_time() {
        let cache = ReplayCache::new(10, 120);
        assert_eq!(cache.admit(&[1; 32], "a", 1000), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "a", 1000), Err(Seen));
        assert_eq!(cache.admit(&[1; 32], "a", 1120), Err(Seen));
        // Another key may use the same id.
        assert_eq!(cache.admit(&[2; 32], "a", 1120), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "a", 1121), Ok(()));
    }

    #[test]
    fn a_full_cache_refuses_and_forgets_nothing() {
        let cache = ReplayCache::new(2, 120);
        assert_eq!(cache.admit(&[1; 32], "a", 1000), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "b", 1010), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "c", 1010), Err(Full));
        assert_eq!(cache.admit(&[1; 32], "a", 1010), Err(Seen));
        assert_eq!(cache.admit(&[1; 32], "c", 1121), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "b", 1121), Err(Seen));
    }

    #[test]
    fn a_clock_set_back_forgets_nothing() {
        let cache = ReplayCache::new(10, 120);
        assert_eq!(cache.admit(&[1; 32], "a", 1000), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "b", 500), Ok(()));
        assert_eq!(cache.admit(&[1; 32], "b", 700), Err(Seen));
        assert_eq!(cache.admit(&[1; 32], "a", 1120), Err(Seen));
    }
}
