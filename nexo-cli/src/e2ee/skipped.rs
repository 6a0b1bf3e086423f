//! Message keys that were passed over: their messages were lost, or are still on
//! the way (design/e2ee.md 2.9).
//!
//! They live apart from the session on purpose. A session is small and is written
//! with every message; up to 2,000 keys beside it are not, so a store keeps each as
//! a row of its own under (session, serial), and an opened message says in a
//! [`SkippedChange`] which rows come and go. Nobody needs them to send.
//!
//! ```text
//! enc("nexo/1/state/skipped", [1 u8, serial u64, ratchet_pub 32, n u32, MK 32, stored_at u64])
//! ```
//!
//! The bytes are secret and carry no protection of their own: the store seals them.

use super::chain::{CHAIN_CAP, Key};
use super::keys::DhPublic;
use super::session_state::StateRefused;
use nexo_schema::bytes::{be_u64, dec, enc, fixed};
use std::collections::BTreeSet;
use std::fmt;
use zeroize::Zeroizing;

/// Most keys kept for one session; the oldest go first. About 200 kB at the most.
pub const MAX_STORED: usize = 2_000;
/// How long a key is kept, in seconds: 30 days, as long as the relay queues. Longer
/// would only pin keys of messages that are lost for good.
pub const SKIPPED_TTL: u64 = 30 * 86_400;

const LABEL: &str = "nexo/1/state/skipped";
const VERSION: u8 = 1;

/// The key of one message that has not come yet.
#[derive(Clone)]
pub struct SkippedKey {
    pub(super) serial: u64,
    pub(super) ratchet: DhPublic,
    pub(super) n: u32,
    pub(super) key: Key,
    pub(super) stored_at: u64,
}

impl SkippedKey {
    /// Its number in the session: grows with every key and is never used again.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The row, drawn above; secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(enc(
            LABEL,
            &[
                &[VERSION],
                &self.serial.to_be_bytes(),
                self.ratchet.as_bytes(),
                &self.n.to_be_bytes(),
                &self.key[..],
                &self.stored_at.to_be_bytes(),
            ],
        ))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`StateRefused`] for anything but what [`Self::to_bytes`] makes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateRefused> {
        let [version, serial, ratchet, n, key, stored_at] = dec::<6>(LABEL, bytes)?;
        StateRefused::check_version(version, VERSION)?;
        let n = u32::from_be_bytes(fixed(n)?);
        if n >= CHAIN_CAP {
            return Err(StateRefused::Value("n"));
        }
        Ok(Self {
            serial: be_u64(serial)?,
            ratchet: DhPublic::from_bytes(fixed(ratchet)?),
            n,
            key: Key::new(fixed(key)?),
            stored_at: be_u64(stored_at)?,
        })
    }

    fn place(&self) -> ([u8; 32], u32) {
        (*self.ratchet.as_bytes(), self.n)
    }

    pub(super) fn is_expired(&self, now: u64) -> bool {
        // A clock that was set back makes no key younger than new.
        now.saturating_sub(self.stored_at) >= SKIPPED_TTL
    }
}

impl fmt::Debug for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SkippedKey(#{}, n {})", self.serial, self.n)
    }
}

/// All skipped keys of one session, oldest first.
#[derive(Clone, Debug, Default)]
pub struct SkippedKeys(Vec<SkippedKey>);

impl SkippedKeys {
    /// The keys of a session as rows of a store, in any order.
    ///
    /// # Errors
    /// [`StateRefused::Value`] if there are more than [`MAX_STORED`], or two for
    /// one place.
    pub fn restore(mut rows: Vec<SkippedKey>) -> Result<Self, StateRefused> {
        if rows.len() > MAX_STORED {
            return Err(StateRefused::Value("number of skipped keys"));
        }
        rows.sort_unstable_by_key(|row| row.serial);
        let serials: BTreeSet<_> = rows.iter().map(|row| row.serial).collect();
        let places: BTreeSet<_> = rows.iter().map(SkippedKey::place).collect();
        if serials.len() < rows.len() || places.len() < rows.len() {
            return Err(StateRefused::Value("skipped keys"));
        }
        Ok(Self(rows))
    }

    /// The keys, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &SkippedKey> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does to these keys what the store does to its rows.
    pub fn apply(&mut self, change: &SkippedChange) {
        self.0.retain(|key| !change.delete.contains(&key.serial));
        self.0.extend(change.put.iter().cloned());
    }

    /// The rows whose time is over, for a store that cleans up without a message.
    #[must_use]
    pub fn expired(&self, now: u64) -> BTreeSet<u64> {
        self.iter().filter(|key| key.is_expired(now)).map(|key| key.serial).collect()
    }

    /// The key of message `n` of the chain `ratchet`, unless its time is over.
    pub(super) fn find(&self, ratchet: &DhPublic, n: u32, now: u64) -> Option<&SkippedKey> {
        let here = |key: &&SkippedKey| key.n == n && key.ratchet == *ratchet;
        self.iter().find(here).filter(|key| !key.is_expired(now))
    }

    /// What it takes to remove `used`, if any, and what has expired, to add `fresh`
    /// and to keep to [`MAX_STORED`].
    pub(super) fn change(
        &self,
        used: Option<u64>,
        fresh: Vec<SkippedKey>,
        now: u64,
    ) -> SkippedChange {
        let mut delete = self.expired(now);
        delete.extend(used);
        let left = self.0.len() - delete.len();
        let surplus = (left + fresh.len()).saturating_sub(MAX_STORED);
        let oldest = self.iter().map(|key| key.serial).filter(|serial| !delete.contains(serial));
        let oldest: Vec<_> = oldest.take(surplus).collect();
        // One message passes over fewer keys than may be kept, so all surplus is old.
        debug_assert_eq!(oldest.len(), surplus, "the surplus is in the store");
        delete.extend(oldest);
        SkippedChange { put: fresh, delete }
    }
}

/// What an opened message changes in the skipped keys of its session.
#[derive(Clone, Debug, Default)]
pub struct SkippedChange {
    /// Rows to be added; no serial of theirs is in the store.
    pub put: Vec<SkippedKey>,
    /// Serials of rows to be deleted: used, expired or too many.
    pub delete: BTreeSet<u64>,
}

impl SkippedChange {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.delete.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(serial: u64, n: u32, stored_at: u64) -> SkippedKey {
        let ratchet = DhPublic::from_bytes([7; 32]);
        SkippedKey { serial, ratchet, n, key: Key::new([8; 32]), stored_at }
    }

    #[test]
    fn rows_come_back_in_order_and_only_sound_ones() {
        let rows = vec![key(2, 5, 0), key(1, 4, 0)];
        let keys = SkippedKeys::restore(rows).unwrap();
        assert_eq!(keys.iter().map(SkippedKey::serial).collect::<Vec<_>>(), [1, 2]);
        assert!(SkippedKeys::restore(vec![key(1, 4, 0), key(1, 5, 0)]).is_err());
        assert!(SkippedKeys::restore(vec![key(1, 4, 0), key(2, 4, 0)]).is_err());
        let many = |len: u64| {
            (0..len).map(|i| {
                let ratchet = DhPublic::from_bytes([u8::try_from(i / 1_000).unwrap(); 32]);
                SkippedKey { ratchet, ..key(i, u32::try_from(i % 1_000).unwrap(), 0) }
            })
        };
        assert!(SkippedKeys::restore(many(2_000).collect()).is_ok());
        assert!(SkippedKeys::restore(many(2_001).collect()).is_err());
    }

    #[test]
    fn c4_the_oldest_give_way_and_time_runs_out() {
        let rows = (0..1_990).map(|i| SkippedKey {
            ratchet: DhPublic::from_bytes([u8::try_from(i / 1_000).unwrap(); 32]),
            ..key(i, u32::try_from(i % 1_000).unwrap(), u64::from(i >= 3) * 10)
        });
        let mut keys = SkippedKeys::restore(rows.collect()).unwrap();
        // Three have expired, one is used, so 14 of the 20 new ones find a place.
        let fresh = (0..20).map(|i| key(5_000 + i, u32::try_from(i).unwrap(), SKIPPED_TTL));
        let change = keys.change(Some(100), fresh.collect(), SKIPPED_TTL);
        let mut want: BTreeSet<u64> = (0..9).collect();
        want.insert(100);
        assert_eq!(change.delete, want);
        keys.apply(&change);
        assert_eq!(keys.len(), MAX_STORED);
        assert_eq!(keys.iter().last().map(SkippedKey::serial), Some(5_019));
        assert!(keys.expired(SKIPPED_TTL + 9).is_empty());
        assert_eq!(keys.expired(SKIPPED_TTL + 10).len(), 1_980);
    }

    #[test]
    fn an_expired_key_is_not_found_and_a_clock_set_back_expires_none() {
        let keys = SkippedKeys::restore(vec![key(1, 4, 1_000)]).unwrap();
        let ratchet = DhPublic::from_bytes([7; 32]);
        let found = |now| keys.find(&ratchet, 4, now).is_some();
        assert!(found(0) && found(1_000) && found(1_000 + SKIPPED_TTL - 1));
        assert!(!found(1_000 + SKIPPED_TTL) && !found(u64::MAX));
        assert!(keys.find(&ratchet, 5, 1_000).is_none());
        assert!(keys.find(&DhPublic::from_bytes([6; 32]), 4, 1_000).is_none());
    }

    #[test]
    fn a_row_does_not_print_its_key() {
        assert_eq!(format!("{:?}", key(3, 4, 5)), "SkippedKey(#3, n 4)");
    }

    proptest! {
        #[test]
        fn a_row_comes_back_and_noise_does_not(serial: u64, n in 0u32..1_000, at: u64, noise: Vec<u8>) {
            let bytes = key(serial, n, at).to_bytes();
            let again = SkippedKey::from_bytes(&bytes).unwrap();
            prop_assert_eq!(&again.to_bytes()[..], &bytes[..]);
            prop_assert!(SkippedKey::from_bytes(&noise).is_err());
            prop_assert!(SkippedKey::from_bytes(&bytes[..bytes.len() - 1]).is_err());
            prop_assert!(SkippedKey::from_bytes(&key(serial, n + 1_000, at).to_bytes()).is_err());
        }
    }
}
