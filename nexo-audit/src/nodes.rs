//! Nodes of a signed tree, made from its tiles: what proofs consist of.
//!
//! Any log that serves C2SP tiles can be asked for a proof this way, also one that has no route
//! for proofs, or a broken one. Nothing here is verified: who gets a path puts it to
//! [`crate::merkle`], under the signed root.
//!
//! ```text
//! path of leaf 4 of 7        siblings, upwards                  5..6   6..7   0..4
//! prefix of 6 leaves of 7    start node, siblings, upwards      4..6   6..7   0..4
//!
//! a range is one full subtree, or several at the right edge; a full subtree of 2^h leaves is a
//! hash of a tile of level h / 8, or made of 2^(h mod 8) of them
//! ```
//!
//! [`crate::download`] reads every leaf in order; this reads a few tiles at any place.

use crate::fetch::{FetchError, Source};
use crate::finding::Finding;
use crate::merkle::{Hash, empty_root, full_root, node_hash};
use crate::tile::{WIDTH, hashes, level_path};
use std::collections::HashMap;
use std::ops::Range;

/// A full tile.
const MAX_TILE: usize = 256 * 32;
/// Levels of tree in a tile: 2^8 = 256 hashes.
const TILE_HEIGHT: u32 = 8;

/// A tree of `size` leaves behind a log's tiles. Keeps the tiles it has read, of which one proof
/// needs at most two per level of tiles.
pub(crate) struct Nodes<'a, S> {
    source: &'a S,
    size: u64,
    tiles: HashMap<(u32, u64), Vec<Hash>>,
}

impl<'a, S: Source> Nodes<'a, S> {
    /// `size` must be below 2^63, as that of every signed head is.
    pub(crate) fn new(source: &'a S, size: u64) -> Self {
        Self { source, size, tiles: HashMap::new() }
    }

    /// The audit path of the leaf at `index`, its sibling first (RFC 6962 2.1.1). Empty for an
    /// index that the tree does not have.
    ///
    /// # Errors
    /// A [`Finding`] about the first tile that the log does not serve, or not in its width.
    pub(crate) async fn inclusion(&mut self, index: u64) -> Result<Vec<Hash>, Finding> {
        self.roots(siblings(index, self.size)).await
    }

    /// The nodes that make the root of the first `older` leaves and of the whole tree, as
    /// [`crate::merkle::prefix_roots`] takes them. `older` must be above 0 and below the size.
    ///
    /// # Errors
    /// As [`Self::inclusion`].
    pub(crate) async fn prefix(&mut self, older: u64) -> Result<Vec<Hash>, Finding> {
        self.roots(prefix(older, self.size)).await
    }

    async fn roots(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Hash>, Finding> {
        let mut roots = Vec::with_capacity(ranges.len());
        for range in ranges {
            roots.push(self.root(range).await?);
        }
        Ok(roots)
    }

    /// The root over a range of leaves that starts where a subtree of its size may.
    async fn root(&mut self, range: Range<u64>) -> Result<Hash, Finding> {
        let mut peaks = Vec::new();
        let mut start = range.start;
        while start < range.end {
            // The largest full subtree that starts here and ends within the range.
            let fits = (range.end - start).ilog2();
            let height = fits.min(start.trailing_zeros());
            peaks.push(self.node(height, start >> height).await?);
            start += 1 << height;
        }
        let mut peaks = peaks.into_iter().rev();
        let last = peaks.next().unwrap_or_else(empty_root);
        Ok(peaks.fold(last, |right, left| node_hash(&left, &right)))
    }

    /// The full subtree of 2^`height` leaves that is the `index`-th of its height.
    async fn node(&mut self, height: u32, index: u64) -> Result<Hash, Finding> {
        let (level, rest) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        // At most 128 hashes, at a multiple of their number, so all in one tile.
        let first = index << rest;
        let tile = self.tile(level, first / WIDTH).await?;
        let at = usize::try_from(first % WIDTH).unwrap_or(usize::MAX);
        let mut row: Vec<Hash> = tile.iter().skip(at).take(1 << rest).copied().collect();
        // The tile has every hash that the size implies, and a full subtree lies below the size.
        Ok(full_root(&mut row))
    }

    async fn tile(&mut self, level: u32, tile: u64) -> Result<&Vec<Hash>, Finding> {
        if !self.tiles.contains_key(&(level, tile)) {
            let read = self.read(level, tile).await?;
            self.tiles.insert((level, tile), read);
        }
        Ok(self.tiles.entry((level, tile)).or_default())
    }

    async fn read(&self, level: u32, tile: u64) -> Result<Vec<Hash>, Finding> {
        let here = (self.size >> (TILE_HEIGHT * level)).saturating_sub(tile * WIDTH);
        let width = u16::try_from(here.min(WIDTH)).unwrap_or(256);
        let level = u8::try_from(level).unwrap_or(u8::MAX);
        let path = level_path(level, tile, width);
        let (path, width, bytes) = match self.source.get(&path, MAX_TILE).await {
            Ok(bytes) => (path, width, bytes),
            // A partial tile may be gone once the full one exists (C2SP tlog-tiles).
            Err(FetchError::NotFound) if u64::from(width) < WIDTH => {
                let full = level_path(level, tile, 256);
                match self.source.get(&full, MAX_TILE).await {
                    Ok(bytes) => (full, 256, bytes),
                    Err(FetchError::NotFound) => return Err(Finding::MissingResource { path }),
                    Err(error) => return Err(Finding::of_fetch(&full, error)),
                }
            }
            Err(error) => return Err(Finding::of_fetch(&path, error)),
        };
        let found = bytes.len();
        hashes(&bytes, width).ok_or(Finding::BadTile { path, width, bytes: found })
    }
}

/// The siblings on the way up from a leaf (RFC 6962 2.1.1, PATH).
fn siblings(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while index < size && end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(middle..end);
            end = middle;
        } else {
            path.push(start..middle);
            start = middle;
        }
    }
    path.reverse();
    path
}

/// The node at which the first `older` leaves end, and the siblings on the way up from it
/// (RFC 6962 2.1.2, PROOF, with its start node always there).
fn prefix(older: u64, size: u64) -> Vec<Range<u64>> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while older != end {
        let middle = start + split(end - start);
        if older <= middle {
            path.push(middle..end);
            end = middle;
        } else {
            path.push(start..middle);
            start = middle;
        }
    }
    path.push(start..end);
    path.reverse();
    path
}

/// The largest power of two below `leaves`, which are at least two.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{leaf_hash, prefix_roots, verify_inclusion};
    use crate::testlog::{Shelf, TestLog, oracle_inclusion, oracle_root};
    use proptest::prelude::*;

    /// The tiles of every level of a tree, as a log has them at that size alone.
    fn tiles(leaves: &[Hash]) -> Shelf {
        let shelf = Shelf::default();
        let (mut level, mut row) = (0, leaves.to_vec());
        while !row.is_empty() {
            for (tile, hashes) in (0..).zip(row.chunks(256)) {
                let width = u16::try_from(hashes.len()).unwrap();
                shelf.put(&level_path(level, tile, width), hashes.concat());
            }
            row = row.as_chunks::<256>().0.iter().map(|tile| oracle_root(tile)).collect();
            level += 1;
        }
        shelf
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    #[tokio::test]
    async fn paths_from_tiles_are_the_recursive_ones() {
        for size in [1u64, 2, 3, 7, 255, 256, 257, 300, 511, 513, 1000] {
            let leaves = leaves(size);
            let shelf = tiles(&leaves);
            let mut nodes = Nodes::new(&shelf, size);
            for index in [0, 1, 2, 127, 128, 254, 255, 256, 299, 510, 511, 999] {
                if index < size {
                    let path = nodes.inclusion(index).await.unwrap();
                    let at = usize::try_from(index).unwrap();
                    assert_eq!(path, oracle_inclusion(at, &leaves), "{index} of {size}");
                }
            }
            assert_eq!(nodes.inclusion(size).await, Ok(vec![]));
        }
    }

    #[tokio::test]
    async fn a_prefix_from_tiles_makes_both_roots() {
        for size in [2u64, 3, 6, 7, 256, 257, 600, 70_000] {
            let leaves = leaves(size);
            let shelf = tiles(&leaves);
            let root = oracle_root(&leaves);
            let mut nodes = Nodes::new(&shelf, size);
            for older in [1, 2, 3, 4, 5, 6, 128, 255, 256, 257, 300, 512, 599, 65_536, 69_999] {
                if older < size {
                    let path = nodes.prefix(older).await.unwrap();
                    let first = oracle_root(&leaves[..usize::try_from(older).unwrap()]);
                    assert_eq!(
                        prefix_roots(older, size, &path),
                        Ok((first, root)),
                        "{older} {size}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn few_tiles_are_read_for_a_proof_in_a_large_tree() {
        // 2^24 leaves would be 65,536 tiles of level 0; a path reads one per level.
        let size = 70_000;
        let leaves = leaves(size);
        let shelf = tiles(&leaves);
        let mut nodes = Nodes::new(&shelf, size);
        let path = nodes.inclusion(40_000).await.unwrap();
        verify_inclusion(&leaves[40_000], 40_000, size, &path, &oracle_root(&leaves)).unwrap();
        assert!(nodes.tiles.len() <= 4, "{} tiles", nodes.tiles.len());
    }

    #[tokio::test]
    async fn a_partial_tile_that_is_gone_is_read_from_the_full_one() {
        let leaves = leaves(256);
        let shelf = tiles(&leaves);
        let path = Nodes::new(&shelf, 200).inclusion(3).await.unwrap();
        let root = oracle_root(&leaves[..200]);
        assert_eq!(verify_inclusion(&leaves[3], 3, 200, &path, &root), Ok(()));
    }

    #[tokio::test]
    async fn what_is_missing_or_cut_is_named() {
        let shelf = TestLog::with(7).publish(&[]);
        let path = "tile/0/000.p/7".to_owned();
        shelf.alter(&path, |bytes| bytes.truncate(32));
        let bad = Finding::BadTile { path: path.clone(), width: 7, bytes: 32 };
        assert_eq!(Nodes::new(&shelf, 7).inclusion(0).await, Err(bad));
        shelf.take(&path);
        let missing = Finding::MissingResource { path };
        assert_eq!(Nodes::new(&shelf, 7).prefix(3).await, Err(missing));
    }

    proptest! {
        /// The ranges of a path tile the tree but for the leaf itself, and those of a prefix all
        /// of it.
        #[test]
        fn ranges_cover_the_tree_once(size in 2u64..1 << 40, at: u64) {
            let index = at % size;
            let length = |ranges: &[Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
            prop_assert_eq!(length(&siblings(index, size)), size - 1);
            let older = 1 + at % (size - 1);
            let ranges = prefix(older, size);
            prop_assert_eq!(length(&ranges), size);
            prop_assert_eq!(ranges[0].end, older);
            prop_assert!(ranges.len() <= 64);
        }
    }
}
