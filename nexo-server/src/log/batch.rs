//! Staging: what a batch of entries makes of the log, computed beside it.
//!
//! A function of the live [`Tail`], the entries, the keys and the time; it
//! touches nothing. The sequencer adopts the result once it is durable, and
//! otherwise drops it. The one thing that must not happen to a dropped result is
//! that its signed note is seen: it never leaves the process.

use super::ledger::{BundleWrite, Entry, Staged, StoredHead, TailWrite};
use super::recent::RecentTiles;
use super::signer::LogKeys;
use super::tree::{Edge, Hash, TILE_WIDTH, leaf_hash};
use std::sync::Arc;

/// The end of the log: all that appending needs to know of what came before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Right edge of the tree.
    pub(super) edge: Edge,
    /// The partial bundle: the last `size % 256` entries, each after its length.
    pub(super) bundle: Vec<u8>,
}

/// A batch, computed but not yet true.
#[derive(Debug)]
pub(super) struct Candidate {
    /// What goes into the database.
    pub(super) staged: Arc<Staged>,
    /// The log's end if it gets there.
    pub(super) tail: Tail,
}

/// Appends `entries` to a copy of `tail` and signs the head that results, with
/// the second `time` in it. No entries: the same tree, signed anew.
pub(super) fn stage(tail: &Tail, entries: &[&Entry], keys: &LogKeys, time: u64) -> Candidate {
    let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry.as_bytes())).collect();
    let mut edge = tail.edge.clone();
    let (bundles, bundle) = bundles(edge.size(), &tail.bundle, entries);
    let appended = appended(edge.size(), &tail.bundle, &bundles, &bundle, entries.len());
    let mut tiles = edge.append(&leaves);
    tiles.retain(|tile| tile.level > 0 || tile.hashes.len() == TILE_WIDTH * 32);
    let (size, root) = (edge.size(), edge.root());
    let note = keys.sign_head(size, root, time);
    let staged = Staged { size, root, note, time, tiles, bundles, tail: appended };
    Candidate { staged: Arc::new(staged), tail: Tail { edge, bundle } }
}

/// What the partial bundle `after` has that `before` had not; all of it if a bundle was filled.
fn appended(
    size: u64,
    before: &[u8],
    full: &[BundleWrite],
    after: &[u8],
    entries: usize,
) -> Option<TailWrite> {
    let width = TILE_WIDTH as u64;
    let (start, data) = match full {
        [] => (size, &after[before.len()..]),
        _ => ((size + entries as u64) / width * width, after),
    };
    (!data.is_empty()).then(|| TailWrite { start, data: data.to_vec() })
}

impl Candidate {
    /// The tiles around the head that this batch makes.
    pub(super) fn recent_tiles(&self) -> RecentTiles {
        let edge = self.tail.edge.partial_tiles();
        RecentTiles::new(self.staged.size, self.staged.tiles.iter().cloned().chain(edge))
    }

    /// Whether the database's newest head is the one staged here.
    pub(super) fn is(&self, head: &StoredHead) -> bool {
        (head.size, &head.root, &head.note)
            == (self.staged.size, &self.staged.root, &self.staged.note)
    }
}

/// The bundles that `entries` fill, and the partial one they leave.
fn bundles(size: u64, partial: &[u8], entries: &[&Entry]) -> (Vec<BundleWrite>, Vec<u8>) {
    let (mut writes, mut data, mut next) = (Vec::new(), partial.to_vec(), size);
    for entry in entries {
        let len = u16::try_from(entry.as_bytes().len()).expect("an Entry fits a u16 length");
        data.extend_from_slice(&len.to_be_bytes());
        data.extend_from_slice(entry.as_bytes());
        next += 1;
        if next.is_multiple_of(TILE_WIDTH as u64) {
            let index = next / TILE_WIDTH as u64 - 1;
            writes.push(BundleWrite { index, data: std::mem::take(&mut data) });
        }
    }
    (writes, data)
}

/// The entries of a bundle; `None` if its lengths do not add up.
#[must_use]
pub fn bundle_entries(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (len, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

/// How far a head's time may hold on to the one before it when the clock is set
/// back, in seconds. More than a step of time synchronisation; as much as
/// clients forgive a head that seems to come from the future.
const CLOCK_STEP: u64 = 300;

/// The second to sign, by a clock that says `now`, after a head of `previous`.
/// Times do not go back for a small step of the clock. For a large one they do:
/// it was wrong before, and a relay must not go on signing a wrong time.
pub(super) fn head_time(now: u64, previous: u64) -> u64 {
    if previous.saturating_sub(now) <= CLOCK_STEP { now.max(previous) } else { now }
}

#[cfg(test)]
mod tests {
    use super::super::signer::tests::keys;
    use super::super::tree::tests::mth;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entries(n: usize) -> Vec<Entry> {
        (0..n)
            .map(|i| Entry::new(vec![b'e'; i % 7].into_iter().chain(i.to_be_bytes()).collect()))
            .map(Result::unwrap)
            .collect()
    }

    #[test]
    fn a_batch_is_staged_beside_the_live_log() {
        let keys = keys("a", 1);
        let entries = entries(300);
        let all: Vec<&Entry> = entries.iter().collect();
        let live = Tail::default();
        let first = stage(&live, &all[..200], &keys, 7);
        assert_eq!(live, Tail::default());
        let again = stage(&live, &all[..200], &keys, 7);
        assert_eq!(first.staged, again.staged);
        let second = stage(&first.tail, &all[200..], &keys, 8);
        let staged = &second.staged;
        let leaves: Vec<Hash> = all.iter().map(|e| leaf_hash(e.as_bytes())).collect();
        assert_eq!((staged.size, staged.root, staged.time), (300, mth(&leaves), 8));
        let head = keys.verify_own(&staged.note).unwrap();
        assert_eq!((head.size, head.root, head.time), (300, staged.root, 8));
        let bundles: Vec<u64> = staged.bundles.iter().map(|b| b.index).collect();
        assert_eq!(bundles, [0]);
        let tail = staged.tail.as_ref().unwrap();
        assert_eq!((tail.start, &tail.data), (256, &second.tail.bundle));
        assert_eq!(bundle_entries(&tail.data).unwrap().len(), 44);
        let more = stage(&second.tail, &all[..3], &keys, 9).staged;
        let tail = more.tail.as_ref().unwrap();
        assert_eq!((more.bundles.len(), tail.start), (0, 300));
        assert_eq!(bundle_entries(&tail.data).unwrap().len(), 3, "only what is new");
        assert!(staged.tiles.iter().all(|t| t.level > 0 || t.hashes.len() == 256 * 32));
    }

    #[test]
    fn no_entries_sign_the_same_tree_anew() {
        let keys = keys("a", 1);
        let entries = entries(3);
        let tail = stage(&Tail::default(), &entries.iter().collect::<Vec<_>>(), &keys, 7).tail;
        let renewed = stage(&tail, &[], &keys, 67);
        let Staged { size, root, time, tiles, bundles, .. } = &*renewed.staged;
        assert_eq!((*size, *root, *time), (3, tail.edge.root(), 67));
        assert!(tiles.is_empty() && bundles.is_empty());
        assert_eq!(renewed.tail, tail);
    }

    #[test]
    fn bundles_are_read_to_the_last_byte_or_not_at_all() {
        assert_eq!(bundle_entries(b""), Some(vec![]));
        assert_eq!(bundle_entries(b"\0\x02ab\0\0\0\x01c"), Some(vec![&b"ab"[..], b"", b"c"]));
        assert_eq!(bundle_entries(b"\0\x02a"), None);
        assert_eq!(bundle_entries(b"\0\x01a\0"), None);
    }

    #[test]
    fn time_holds_still_for_a_small_step_back_only() {
        assert_eq!(head_time(1001, 1000), 1001);
        assert_eq!(head_time(999, 1000), 1000);
        assert_eq!(head_time(700, 1000), 1000);
        assert_eq!(head_time(699, 1000), 699);
        assert_eq!(head_time(0, u64::MAX), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bundles_hold_the_entries_in_order(sizes in prop::collection::vec(0usize..600, 1..6)) {
            let entries = entries(sizes.iter().sum());
            let (mut stored, mut partial, mut done) = (BTreeMap::new(), Vec::new(), 0);
            for size in sizes {
                let batch: Vec<&Entry> = entries[done..done + size].iter().collect();
                let (writes, rest) = bundles(done as u64, &partial, &batch);
                stored.extend(writes.into_iter().map(|b| (b.index, b.data)));
                (partial, done) = (rest, done + size);
            }
            for (index, data) in &stored {
                let from = usize::try_from(*index).unwrap() * 256;
                let expected: Vec<&[u8]> =
                    entries[from..].iter().take(256).map(Entry::as_bytes).collect();
                prop_assert_eq!(bundle_entries(data), Some(expected));
            }
            prop_assert_eq!(stored.len(), done / 256);
            prop_assert_eq!(bundle_entries(&partial).unwrap().len(), done % 256);
        }

        #[test]
        fn no_bundle_panics(bytes: Vec<u8>) {
            let _ = bundle_entries(&bytes);
        }
    }
}
