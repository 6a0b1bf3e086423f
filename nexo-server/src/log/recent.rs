//! The newest tiles in memory, so that a fresh receipt costs neither a database
//! read nor a hash of its own.
//!
//! Published with each head and gone with it; not a cache. A path (RFC 6962
//! 2.1.1) in the tree of `size` leaves has three parts. The tree is a row of
//! complete subtrees, the peaks, one for each bit of `size`; a leaf lies in one:
//!
//! ```text
//! size 13:  [   peak of 8   ] [ peak of 4 ] [1]
//!           0 1 2 3 4 5 6 7    8  9  10 11   12
//! path of 9:  8, [10,12)    inside its peak: nodes of tiles       (layers.rs)
//!             [12,13)       all smaller peaks, joined: the ragged  (once a head)
//!             [0,8)         larger peaks, the nearest first        (once a head)
//! ```
//!
//! The inner nodes of a tile, and the peaks, are hashed when the first receipt
//! asks for them, on its thread and not on the writer's.
//!
//! Memory: 8 KiB a tile, and as much again for its nodes. A batch of
//! [`MAX_BATCH`](super::MAX_BATCH) leaves lies in at most 5 tiles of level 0 and
//! 2 of each level above: with its nodes a head has at most 144 KiB at ten
//! million entries and 304 KiB in the largest log.

use super::layers::Layers;
use super::proof::{Tiles, consistency};
use super::tree::{Hash, TILE_HEIGHT, TileWrite, node_hash};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The tiles around a head: those its batch wrote and the whole right edge.
/// Enough for the path of every leaf of that batch in that head.
#[derive(Debug, Default)]
pub struct RecentTiles {
    size: u64,
    tiles: BTreeMap<(u8, u64), Layers>,
    edge: OnceLock<Option<RightEdge>>,
}

/// What all paths under a head share. At most 63 hashes each.
#[derive(Debug)]
struct RightEdge {
    /// The complete subtrees the tree is made of, the smallest (rightmost) first.
    peaks: Vec<Hash>,
    /// The root of each peak together with all smaller ones.
    ragged: Vec<Hash>,
}

impl RecentTiles {
    /// Of the tree of `size` leaves: its partial tiles, and any others.
    pub(crate) fn new(size: u64, tiles: impl IntoIterator<Item = TileWrite>) -> Self {
        let tiles = tiles.into_iter().map(|t| ((t.level, t.index), Layers::of(t.hashes))).collect();
        Self { size, tiles, edge: OnceLock::new() }
    }

    /// The audit path of leaf `index` (0-based), the leaf's sibling first, in the tree these
    /// tiles are of: what [`inclusion`](super::inclusion) makes of stored tiles. `None` if there
    /// is no such leaf, or if it is older than these tiles.
    #[must_use]
    pub fn path(&self, index: u64) -> Option<Vec<Hash>> {
        if index >= self.size {
            return None;
        }
        // The first bit in which they differ is a bit of the size: the peak the leaf is in.
        let height = (index ^ self.size).ilog2();
        let mut path = Vec::with_capacity(64);
        self.climb(index, height, &mut path)?;
        let RightEdge { peaks, ragged } = self.edge.get_or_init(|| self.right_edge()).as_ref()?;
        let smaller = self.size & ((1 << height) - 1);
        let own = usize::try_from(smaller.count_ones()).expect("at most 63");
        path.extend(own.checked_sub(1).map(|joined| ragged[joined]));
        path.extend_from_slice(&peaks[own + 1..]);
        Some(path)
    }

    /// The consistency proof (RFC 6962 2.1.2) from the tree of `from` leaves to the one these
    /// tiles are of: what [`consistency`] makes of stored tiles. `None` if that is smaller, or if
    /// the proof takes a tile that is older than these; it takes none where `from` is the size of
    /// the head before.
    #[must_use]
    pub fn since(&self, from: u64) -> Option<Vec<Hash>> {
        consistency(from, self.size, &mut AsTiles(self)).ok()
    }

    /// The siblings of a leaf and of its ancestors, below `height`.
    fn climb(&self, index: u64, height: u32, path: &mut Vec<Hash>) -> Option<()> {
        for below in 0..height {
            path.push(self.node(below, (index >> below) ^ 1)?);
        }
        Some(())
    }

    /// The node over the 2^`height` leaves from `place` * 2^`height`.
    fn node(&self, height: u32, place: u64) -> Option<Hash> {
        let (level, layer) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        // The tile has 2^(8 - layer) places in this layer.
        let (tile, within) = (place >> (TILE_HEIGHT - layer), place & (0xff >> layer));
        let layers = self.tiles.get(&(u8::try_from(level).ok()?, tile))?;
        layers.node(layer, usize::try_from(within).ok()?)
    }

    fn right_edge(&self) -> Option<RightEdge> {
        let heights = (0..u64::BITS).filter(|height| (self.size >> height) & 1 == 1);
        // The last whole subtree of its height, by where the size ends.
        let peaks: Option<Vec<Hash>> =
            heights.map(|height| self.node(height, (self.size >> height) - 1)).collect();
        let peaks = peaks?;
        let mut ragged: Vec<Hash> = Vec::with_capacity(peaks.len());
        for peak in &peaks {
            ragged.push(ragged.last().map_or(*peak, |right| node_hash(peak, right)));
        }
        Some(RightEdge { peaks, ragged })
    }
}

/// A tile that is not one of the recent ones.
#[derive(Debug)]
struct Older;

struct AsTiles<'a>(&'a RecentTiles);

impl Tiles for AsTiles<'_> {
    type Error = Older;

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, Older> {
        let layers = self.0.tiles.get(&(level, index)).ok_or(Older)?;
        layers.hashes(width).ok_or(Older)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::tests::MapTiles;
    use super::super::proof::{inclusion, width};
    use super::super::tree::tests::leaves;
    use super::super::tree::{Edge, MAX_SIZE};
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::time::{Duration, Instant};

    /// The tiles of a head whose batch brought `leaves`.
    fn appended(edge: &mut Edge, leaves: &[Hash]) -> RecentTiles {
        let writes = edge.append(leaves);
        RecentTiles::new(edge.size(), writes.into_iter().chain(edge.partial_tiles()))
    }

    /// RFC 6962 2.1 and 2.1.1 by their definitions, remembering every MTH.
    struct Definition {
        leaves: Vec<Hash>,
        roots: HashMap<(usize, usize), Hash>,
    }

    impl Definition {
        fn mth(&mut self, start: usize, end: usize) -> Hash {
            if end - start == 1 {
                return self.leaves[start];
            }
            if let Some(known) = self.roots.get(&(start, end)) {
                return *known;
            }
            let middle = start + (end - start).next_power_of_two() / 2;
            let root = node_hash(&self.mth(start, middle), &self.mth(middle, end));
            self.roots.insert((start, end), root);
            root
        }

        fn path(&mut self, m: usize, start: usize, end: usize) -> Vec<Hash> {
            if end - start == 1 {
                return Vec::new();
            }
            let middle = start + (end - start).next_power_of_two() / 2;
            let (mut path, sibling) = if m < middle {
                (self.path(m, start, middle), self.mth(middle, end))
            } else {
                (self.path(m, middle, end), self.mth(start, middle))
            };
            path.push(sibling);
            path
        }
    }

    #[test]
    fn paths_equal_the_definition_for_every_size_to_a_thousand_and_every_leaf_of_its_batch() {
        let leaves = leaves(1000);
        let mut definition = Definition { leaves: leaves.clone(), roots: HashMap::new() };
        let mut edges = vec![Edge::default()];
        for leaf in &leaves {
            let mut edge = edges[edges.len() - 1].clone();
            edge.append(&[*leaf]);
            edges.push(edge);
        }
        for size in 1..=1000usize {
            // Batches of 1 to 300; some that are the whole log.
            let batch = if size % 97 == 0 { size } else { (1 + size * 31 % 300).min(size) };
            let start = size - batch;
            let recent = appended(&mut edges[start].clone(), &leaves[start..size]);
            for index in start..size {
                let path = recent.path(index as u64);
                assert_eq!(path, Some(definition.path(index, 0, size)), "leaf {index} of {size}");
            }
            assert_eq!(recent.path(size as u64), None);
        }
    }

    #[test]
    fn a_leaf_of_an_older_tile_is_left_to_the_store() {
        let leaves = leaves(66_500);
        let mut all = MapTiles::of(&leaves);
        let mut edge = Edge::default();
        edge.append(&leaves[..65_300]);
        let mut at = 65_300u64;
        for batch in [1, 235, 1, 255, 256, 1, 451] {
            let start = usize::try_from(at).unwrap();
            let recent = appended(&mut edge, &leaves[start..start + batch]);
            for index in at..edge.size() {
                let stored = inclusion(index, edge.size(), &mut all).unwrap();
                assert_eq!(recent.path(index), Some(stored), "leaf {index} of {}", edge.size());
            }
            // Earlier batches of a tile that is here are here too; the tile before is not.
            let first = at / 256 * 256;
            assert!(recent.path(first).is_some());
            for old in [0, 5, first - 1] {
                assert_eq!(recent.path(old), None, "leaf {old}");
            }
            at = edge.size();
        }
        assert_eq!(at, 66_500);
        let renewed = RecentTiles::new(edge.size(), edge.partial_tiles());
        assert_eq!(
            renewed.path(66_499).unwrap(),
            inclusion(66_499, edge.size(), &mut all).unwrap()
        );
        assert_eq!(renewed.path(66_303), None, "a full tile that this head did not write");
    }

    #[test]
    fn tiles_that_do_not_make_a_tree_give_no_path() {
        let none = RecentTiles::default();
        assert_eq!((none.path(0), none.path(u64::MAX)), (None, None));
        let mut edge = Edge::default();
        edge.append(&leaves(70_000));
        for missing in 0..3 {
            let tiles = edge.partial_tiles().filter(|tile| tile.level != missing);
            assert_eq!(RecentTiles::new(70_000, tiles).path(69_999), None, "without {missing}");
        }
        assert!(RecentTiles::new(70_000, edge.partial_tiles()).path(69_999).is_some());
    }

    /// The partial tiles of a log of any size, their hashes made up.
    fn made_up(size: u64) -> Vec<TileWrite> {
        let tile = |level: u8| {
            let index = (size >> (8 * u32::from(level))) / 256;
            let hashes = (0..width(size, level, index)).flat_map(|place| {
                let mut hash = [level; 32];
                hash[..2].copy_from_slice(&place.to_be_bytes());
                hash
            });
            TileWrite { level, index, hashes: hashes.collect() }
        };
        (0..8).map(tile).filter(|tile| !tile.hashes.is_empty()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn paths_in_larger_logs_equal_those_of_stored_tiles(
            before in 60_000usize..70_000, batches in prop::collection::vec(1usize..1500, 1..4),
        ) {
            let leaves = leaves((before + batches.iter().sum::<usize>()) as u64);
            let mut edge = Edge::default();
            let mut all = MapTiles::default();
            all.store(edge.append(&leaves[..before]));
            let mut done = before;
            for batch in batches {
                let writes = edge.append(&leaves[done..done + batch]);
                all.store(writes.clone());
                let recent =
                    RecentTiles::new(edge.size(), writes.into_iter().chain(edge.partial_tiles()));
                for index in (done..done + batch).step_by(3).map(|index| index as u64) {
                    let stored = inclusion(index, edge.size(), &mut all).unwrap();
                    prop_assert_eq!(recent.path(index), Some(stored));
                }
                for from in (done..=done + batch).step_by(7).map(|size| size as u64) {
                    let stored = consistency(from, edge.size(), &mut all).unwrap();
                    prop_assert_eq!(recent.since(from), Some(stored), "from {}", from);
                }
                // An older one is right as well, where it is there.
                for from in (0..done).step_by(997).map(|size| size as u64) {
                    let stored = consistency(from, edge.size(), &mut all).unwrap();
                    prop_assert!(recent.since(from).is_none_or(|proof| proof == stored));
                }
                prop_assert_eq!(recent.since(edge.size() + 1), None);
                done += batch;
            }
        }

        #[test]
        fn paths_in_logs_of_any_size_equal_the_slow_way(
            bits in 1u32..63, noise in 1..=MAX_SIZE, back in 0u64..256,
        ) {
            for size in [1 << bits, (1 << bits) - 1, noise >> (63 - bits), noise, MAX_SIZE] {
                let (recent, mut all) = (RecentTiles::new(size, made_up(size)), MapTiles::default());
                all.store(made_up(size));
                let in_tile = size % 256;
                if in_tile == 0 {
                    continue;
                }
                let index = size - 1 - back % in_tile;
                let slow = inclusion(index, size, &mut all).unwrap();
                prop_assert_eq!(recent.path(index), Some(slow), "leaf {} of {}", index, size);
            }
        }
    }

    /// Prints what a path costs, looked up and hashed anew: `cargo test -p nexo-server --lib
    /// price_of_a_path -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement, of which nothing is asserted"]
    fn price_of_a_path() {
        let size = 10_000_000;
        let stored = made_up(size);
        let partial: Vec<_> = stored.iter().map(|t| (t.level, t.hashes.clone())).collect();
        let edge = Edge::restore(size, &partial).unwrap();
        let fresh = leaves(1000);
        for batch in [1, 64, 1000] {
            let (mut quick, mut slow) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..20 {
                let (mut grown, mut all) = (edge.clone(), MapTiles::default());
                let writes = grown.append(&fresh[..batch]);
                all.store(stored.iter().chain(&writes).cloned());
                let recent =
                    RecentTiles::new(grown.size(), writes.into_iter().chain(grown.partial_tiles()));
                let batch = size..grown.size();
                let began = Instant::now();
                let looked_up: Vec<_> = batch.clone().map(|i| recent.path(i).unwrap()).collect();
                quick += began.elapsed();
                let began = Instant::now();
                let hashed = batch.map(|i| inclusion(i, recent.size, &mut all).unwrap());
                let hashed: Vec<_> = hashed.collect();
                slow += began.elapsed();
                assert_eq!(looked_up, hashed);
            }
            let each = |spent: Duration| spent.as_secs_f64() * 1e6 / (20 * batch) as f64;
            let (quick, slow) = (each(quick), each(slow));
            println!("batch of {batch:4}: {quick:7.2} us looked up, {slow:7.2} us hashed anew");
        }
    }
}
