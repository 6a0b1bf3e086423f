//! Inclusion and consistency proofs, read from stored tiles.
//!
//! RFC 6962 2.1.1 (PATH) and 2.1.2 (PROOF), for any index and any two sizes up
//! to 2^63 - 1. A proof reads O(log n) tiles, each at most once. This file makes
//! proofs; it never checks one: clients and the auditor do that with code of
//! their own.
//!
//! A proof is a list of subtrees. Those of 2^h leaves lie inside one tile, as a
//! run of 2^(h mod 8) hashes of level h / 8; the ragged one at the right edge is
//! folded from such pieces:
//!
//! ```text
//! size 7, index 2:   [3,4) [0,2) [4,7)         [4,7) = node([4,6), [6,7))
//! ```

use super::tree::{Hash, MAX_SIZE, TILE_HEIGHT, TILE_WIDTH, level_hashes, node_hash, subtree_root};
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Range;

/// Where tiles are read from.
pub trait Tiles {
    /// Why a tile could not be read.
    type Error;

    /// The first `width` (1 to 256) hashes of a tile. The tile may have grown
    /// longer since; that changes none of them.
    ///
    /// # Errors
    /// If it cannot be read or is shorter than `width`.
    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, Self::Error>;
}

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError<E> {
    /// The tree has no leaf of that index (0-based).
    #[error("a log of {size} entries has no leaf at index {index}")]
    IndexBeyondSize {
        /// The index asked for.
        index: u64,
        /// The size asked for.
        size: u64,
    },
    /// The older size is larger than the newer.
    #[error("a log of {from} entries is not older than one of {to}")]
    SizesReversed {
        /// The older size.
        from: u64,
        /// The newer size.
        to: u64,
    },
    /// No tree is that large.
    #[error("a log of {size} entries is larger than any")]
    SizeTooLarge {
        /// The size asked for.
        size: u64,
    },
    /// The source gave a tile of another width than asked for.
    #[error("tile {index} of level {level} came with {found} hashes instead of {asked}")]
    WrongWidth {
        /// The tile's level.
        level: u8,
        /// The tile's index in its level.
        index: u64,
        /// Hashes asked for.
        asked: u16,
        /// Hashes received.
        found: usize,
    },
    /// A tile could not be read.
    #[error("a tile of the log could not be read")]
    Tiles(#[source] E),
}

/// The audit path of leaf `index` (0-based) in the tree of `size` leaves, the
/// leaf's sibling first.
///
/// # Errors
/// [`ProofError`]; the caller has checked that the log has `size` entries.
pub fn inclusion<T: Tiles>(
    index: u64,
    size: u64,
    tiles: &mut T,
) -> Result<Vec<Hash>, ProofError<T::Error>> {
    if index >= size {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let (mut within, mut siblings) = (0..size, Vec::new());
    while span(&within) > 1 {
        let middle = within.start + split(span(&within));
        if index < middle {
            siblings.push(middle..within.end);
            within.end = middle;
        } else {
            siblings.push(within.start..middle);
            within.start = middle;
        }
    }
    Prover::over(size, tiles)?.roots(siblings)
}

/// The proof that the tree of `from` leaves is the beginning of the tree of
/// `to` leaves. Empty when there is nothing to prove: `from` 0 or equal to `to`.
///
/// # Errors
/// [`ProofError`]; the caller has checked that the log has `to` entries.
pub fn consistency<T: Tiles>(
    from: u64,
    to: u64,
    tiles: &mut T,
) -> Result<Vec<Hash>, ProofError<T::Error>> {
    if from > to {
        return Err(ProofError::SizesReversed { from, to });
    }
    let mut prover = Prover::over(to, tiles)?;
    if from == 0 || from == to {
        return Ok(Vec::new());
    }
    let (mut within, mut nodes, mut old_root_known) = (0..to, Vec::new(), true);
    while within.end != from {
        let middle = within.start + split(span(&within));
        if from <= middle {
            nodes.push(middle..within.end);
            within.end = middle;
        } else {
            nodes.push(within.start..middle);
            within.start = middle;
            old_root_known = false;
        }
    }
    if !old_root_known {
        nodes.push(within);
    }
    prover.roots(nodes)
}

fn span(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// Largest power of two strictly below `n`, for `n` of at least 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Reads subtree roots of one tree, remembering its tiles.
struct Prover<'a, T> {
    size: u64,
    tiles: &'a mut T,
    read: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<'a, T: Tiles> Prover<'a, T> {
    fn over(size: u64, tiles: &'a mut T) -> Result<Self, ProofError<T::Error>> {
        if size > MAX_SIZE {
            return Err(ProofError::SizeTooLarge { size });
        }
        Ok(Self { size, tiles, read: BTreeMap::new() })
    }

    /// Roots of the ranges, which were found from the top, in the RFC's order:
    /// from the bottom.
    fn roots(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Hash>, ProofError<T::Error>> {
        ranges.into_iter().rev().map(|range| self.root(range)).collect()
    }

    /// Root of leaves that start at a multiple of a power of two not below
    /// their number: complete subtrees from the left, joined from the right.
    fn root(&mut self, range: Range<u64>) -> Result<Hash, ProofError<T::Error>> {
        let (mut start, mut peaks) = (range.start, Vec::new());
        while start < range.end {
            let height = (range.end - start).ilog2();
            peaks.push(self.complete(start, height)?);
            start += 1 << height;
        }
        let joined = peaks.into_iter().rev().reduce(|right, left| node_hash(&left, &right));
        Ok(joined.expect("no proof asks for an empty range"))
    }

    /// Root of the 2^`height` leaves from `start`.
    fn complete(&mut self, start: u64, height: u32) -> Result<Hash, ProofError<T::Error>> {
        let level = height / TILE_HEIGHT;
        let first = start >> (level * TILE_HEIGHT);
        let offset = usize::try_from(first % TILE_WIDTH as u64).expect("below 256");
        let run = 1 << (height % TILE_HEIGHT);
        let level = u8::try_from(level).expect("a height is below 63");
        let tile = self.tile(level, first / TILE_WIDTH as u64)?;
        let run = tile.get(offset..offset + run);
        Ok(subtree_root(run.expect("a complete subtree lies inside the tile that holds its start")))
    }

    fn tile(&mut self, level: u8, index: u64) -> Result<&[Hash], ProofError<T::Error>> {
        let width = width(self.size, level, index);
        let entry = match self.read.entry((level, index)) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(place) => {
                let tile = self.tiles.tile(level, index, width).map_err(ProofError::Tiles)?;
                let found = tile.len();
                if found != usize::from(width) {
                    return Err(ProofError::WrongWidth { level, index, asked: width, found });
                }
                place.insert(tile)
            }
        };
        Ok(entry)
    }
}

/// Hashes that a tile has in a tree of `size` leaves: 0 if it does not exist.
#[must_use]
pub fn width(size: u64, level: u8, index: u64) -> u16 {
    let before = index.saturating_mul(TILE_WIDTH as u64);
    let width = level_hashes(size, level.into()).saturating_sub(before).min(TILE_WIDTH as u64);
    u16::try_from(width).expect("at most 256")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tree::tests::{leaves, mth};
    use super::super::tree::{Edge, TileWrite, leaf_hash, tile_hashes};
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};
    use std::collections::BTreeSet;

    /// All tiles of a log, in memory; counts what is read.
    #[derive(Default)]
    pub(crate) struct MapTiles {
        pub(crate) tiles: BTreeMap<(u8, u64), Vec<u8>>,
        reads: Vec<(u8, u64)>,
    }

    #[derive(Debug, PartialEq, Eq)]
    pub(crate) struct Absent;

    impl Tiles for MapTiles {
        type Error = Absent;

        fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, Absent> {
            self.reads.push((level, index));
            let tile = self.tiles.get(&(level, index)).ok_or(Absent)?;
            let bytes = tile.get(..usize::from(width) * 32).ok_or(Absent)?;
            tile_hashes(bytes).ok_or(Absent)
        }
    }

    impl MapTiles {
        pub(crate) fn of(leaves: &[Hash]) -> Self {
            let mut tiles = Self::default();
            tiles.store(Edge::default().append(leaves));
            tiles
        }

        pub(crate) fn store(&mut self, writes: impl IntoIterator<Item = TileWrite>) {
            self.tiles.extend(writes.into_iter().map(|t| ((t.level, t.index), t.hashes)));
        }
    }

    fn half(n: usize) -> usize {
        n.next_power_of_two() / 2
    }

    /// PATH(m, D[n]) of RFC 6962 2.1.1, word for word.
    pub(crate) fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(half(leaves.len()));
        let (mut path, sibling) = if m < left.len() {
            (path(m, left), mth(right))
        } else {
            (path(m - left.len(), right), mth(left))
        };
        path.push(sibling);
        path
    }

    /// SUBPROOF(m, D[n], b) of RFC 6962 2.1.2, word for word.
    fn subproof(m: usize, leaves: &[Hash], b: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if b { Vec::new() } else { vec![mth(leaves)] };
        }
        let (left, right) = leaves.split_at(half(leaves.len()));
        let (mut proof, other) = if m <= left.len() {
            (subproof(m, left, b), mth(right))
        } else {
            (subproof(m - left.len(), right, false), mth(left))
        };
        proof.push(other);
        proof
    }

    #[test]
    fn proofs_equal_the_definition_for_every_size_to_300_and_some_to_600() {
        let leaves = leaves(600);
        let mut tiles = MapTiles::of(&leaves);
        let sizes = (1..=300).chain([383, 384, 511, 512, 513, 599, 600]);
        for n in sizes {
            let step = if n <= 70 { 1 } else { 7 };
            for m in (0..n).step_by(step).chain([n - 1]) {
                let (small, size) = (m as u64, n as u64);
                let got = inclusion(small, size, &mut tiles).unwrap();
                assert_eq!(got, path(m, &leaves[..n]), "leaf {m} of {n}");
                let got = consistency(small + 1, size, &mut tiles).unwrap();
                assert_eq!(got, subproof(m + 1, &leaves[..n], true), "{} to {n}", m + 1);
            }
        }
    }

    #[test]
    fn the_accumulated_vectors_for_all_subtrees_to_130() {
        let file = "/../schema/vectors/tlog/rfc6962-roots-and-accumulated.json";
        let text = std::fs::read(format!("{}{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let vectors: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let hex = |h: &Hash| nexo_schema::bytes::to_hex(h);
        let leaves: Vec<Hash> = (0u8..130).map(|i| leaf_hash(&[i])).collect();
        // A subtree [s, e) starts at a multiple of a power of two not below e - s:
        // for inclusion it is a log of its own.
        let (mut roots, mut paths) = (Sha256::new(), Sha256::new());
        for end in 0..=130usize {
            for start in
                (0..=end).filter(|s| end == *s || s.is_multiple_of((end - s).next_power_of_two()))
            {
                let part = &leaves[start..end];
                roots.update(format!("[{start}, {end}) {}\n", hex(&subtree_root(part))));
                let mut tiles = MapTiles::of(part);
                for i in start..end {
                    let path =
                        inclusion((i - start) as u64, part.len() as u64, &mut tiles).unwrap();
                    let path: String = path.iter().map(|h| format!(" {}", hex(h))).collect();
                    paths.update(format!("{i} [{start}, {end}){path}\n"));
                }
            }
        }
        let accumulated = &vectors["accumulated"];
        assert_eq!(hex(&roots.finalize().into()), accumulated["TestSubtreeHashVectors"]);
        assert_eq!(hex(&paths.finalize().into()), accumulated["TestSubtreeInclusionProofVectors"]);
    }

    #[test]
    fn what_cannot_be_proved_is_refused() {
        let mut tiles = MapTiles::of(&leaves(5));
        let beyond = |index, size| Err(ProofError::IndexBeyondSize { index, size });
        assert_eq!(inclusion(5, 5, &mut tiles), beyond(5, 5));
        assert_eq!(inclusion(0, 0, &mut tiles), beyond(0, 0));
        assert_eq!(inclusion(u64::MAX, 5, &mut tiles), beyond(u64::MAX, 5));
        let size = 1 << 63;
        assert_eq!(inclusion(0, size, &mut tiles), Err(ProofError::SizeTooLarge { size }));
        assert_eq!(consistency(0, size, &mut tiles), Err(ProofError::SizeTooLarge { size }));
        let reversed = Err(ProofError::SizesReversed { from: 4, to: 3 });
        assert_eq!(consistency(4, 3, &mut tiles), reversed);
        assert_eq!(consistency(0, 5, &mut tiles), Ok(Vec::new()));
        assert_eq!(consistency(5, 5, &mut tiles), Ok(Vec::new()));
        assert_eq!(inclusion(0, 6, &mut tiles), Err(ProofError::Tiles(Absent)));
    }

    #[test]
    fn a_source_that_ignores_the_width_is_noticed() {
        struct Long;
        impl Tiles for Long {
            type Error = Absent;
            fn tile(&mut self, _: u8, _: u64, width: u16) -> Result<Vec<Hash>, Absent> {
                Ok(vec![[0; 32]; usize::from(width) + 1])
            }
        }
        let wrong = ProofError::WrongWidth { level: 0, index: 0, asked: 3, found: 4 };
        assert_eq!(inclusion(0, 3, &mut Long), Err(wrong));
    }

    #[test]
    fn the_largest_log_takes_few_tiles_each_once() {
        struct Deep(BTreeSet<(u8, u64)>);
        impl Tiles for Deep {
            type Error = Absent;
            fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, Absent> {
                assert!(self.0.insert((level, index)), "tile {level}/{index} read twice");
                assert!(width >= 1 && level < 8);
                Ok(vec![[level; 32]; usize::from(width)])
            }
        }
        for index in [0, 1, 1 << 40, (1 << 62) - 1, 1 << 62, MAX_SIZE - 1] {
            let mut tiles = Deep(BTreeSet::new());
            let path = inclusion(index, MAX_SIZE, &mut tiles).unwrap();
            assert!((62..=63).contains(&path.len()), "{index}: {}", path.len());
            assert!(tiles.0.len() <= 16, "{index}: {} tiles", tiles.0.len());
        }
        for from in [1, 3, (1 << 62) - 1, 1 << 62, (1 << 62) + 1, MAX_SIZE - 1] {
            let mut tiles = Deep(BTreeSet::new());
            let proof = consistency(from, MAX_SIZE, &mut tiles).unwrap();
            assert!(!proof.is_empty() && proof.len() <= 64);
            assert!(tiles.0.len() <= 16, "{from}: {} tiles", tiles.0.len());
        }
    }

    /// A proof reads at most two tiles a level: the one of the place and the one at the right
    /// edge, so their number grows by two when the log grows 256 times.
    #[test]
    fn reads_grow_with_the_logarithm_of_the_log() {
        struct Counted(u64, BTreeSet<(u8, u64)>);
        impl Tiles for Counted {
            type Error = Absent;
            fn tile(&mut self, level: u8, index: u64, asked: u16) -> Result<Vec<Hash>, Absent> {
                assert!(self.1.insert((level, index)), "tile {level}/{index} is read twice");
                assert_eq!(asked, width(self.0, level, index), "as wide as the tree has it");
                Ok(vec![[level; 32]; usize::from(asked)])
            }
        }
        for size in [10_000, 1_000_000, 10_000_000, 10_000_000_000, MAX_SIZE] {
            let levels = size.ilog2() / TILE_HEIGHT + 1;
            let most = usize::try_from(2 * levels).unwrap();
            for k in 0..100u64 {
                let at = k.wrapping_mul(0x9e37_79b9_7f4a_7c15) % size;
                let mut tiles = Counted(size, BTreeSet::new());
                let path = inclusion(at, size, &mut tiles).unwrap();
                assert!(path.len() <= 1 + size.ilog2() as usize);
                assert!(tiles.1.len() <= most, "leaf {at} of {size}: {:?}", tiles.1);
                let mut tiles = Counted(size, BTreeSet::new());
                let proof = consistency(at + 1, size, &mut tiles).unwrap();
                assert!(proof.len() <= 2 + size.ilog2() as usize);
                assert!(tiles.1.len() <= most, "{} to {size}: {:?}", at + 1, tiles.1);
            }
        }
    }

    #[test]
    fn widths_follow_the_layout() {
        let at = |level, index| width(70_000, level, index);
        assert_eq!((at(0, 272), at(0, 273), at(0, 274)), (256, 112, 0));
        assert_eq!((at(1, 0), at(1, 1), at(2, 0), at(3, 0)), (256, 17, 1, 0));
        assert_eq!((at(0, u64::MAX), at(255, 0)), (0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn proofs_in_large_logs_equal_the_definition(
            n in 60_000usize..70_000, a: prop::sample::Index, b: prop::sample::Index,
        ) {
            let leaves = leaves(n as u64);
            let mut tiles = MapTiles::of(&leaves);
            let (m, size) = (a.index(n), b.index(n) + 1);
            prop_assert_eq!(inclusion(m as u64, n as u64, &mut tiles).unwrap(), path(m, &leaves));
            prop_assert!(tiles.reads.len() <= 6);
            prop_assert_eq!(
                consistency(size as u64, n as u64, &mut tiles).unwrap(),
                subproof(size, &leaves, true)
            );
        }
    }
}
