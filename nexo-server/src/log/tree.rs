//! The tree: RFC 6962 over SHA-256, hashed by rs_merkle tile by tile.
//!
//! The only file of the workspace that may name rs_merkle (`tests/house.rs`
//! looks). It knows hashes and positions; it knows no entries, no SQL, no keys.
//!
//! rs_merkle is never given the whole log: its `commit` copies every layer, so
//! the log would cost O(n²), and its verifier accepts proofs it should not
//! (design/limits.md 1). It is given runs of at most 16 hashes. That is enough,
//! because pairing level by level and promoting a lone right node is the RFC's
//! tree, and such a tree of 2^k-aligned blocks is the tree of the blocks' roots:
//!
//! ```text
//! level 2                     . . .                    hash = root of a full tile below
//! level 1   [t0 t1 ... t255][t256 t257]                tile = 256 hashes of one level
//! level 0   [l0 l1 ... l255][ ... ][l65536 ... ][l66048 l66049]
//!           |0-15|16-31| ... |                         block = 16 hashes of a tile
//! ```
//!
//! What is kept is the right edge: the last, partial tile of each level (C2SP
//! tlog-tiles). A batch costs its own leaves and two short runs per level,
//! whatever the size of the log.

use rs_merkle::{Hasher, MerkleTree};
use sha2::{Digest as _, Sha256};

/// A leaf hash, node or root.
pub type Hash = [u8; 32];

/// Hashes in a full tile.
pub const TILE_WIDTH: usize = 256;
/// log2 of [`TILE_WIDTH`]: tree heights between one tile level and the next.
pub const TILE_HEIGHT: u32 = 8;
/// Largest tree: sizes are signed 64-bit integers in SQL and in C2SP.
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Hashes given to rs_merkle at once; a tile is 16 blocks of 16.
const BLOCK: usize = 16;

/// RFC 6962 2.1: 0x00 before a leaf, 0x01 before two children.
#[derive(Clone)]
struct Rfc6962;

impl Hasher for Rfc6962 {
    type Hash = Hash;

    fn hash(data: &[u8]) -> Hash {
        Sha256::new().chain_update([0x00]).chain_update(data).finalize().into()
    }

    // The default goes through `hash` and would put a leaf's prefix on a node.
    fn concat_and_hash(left: &Hash, right: Option<&Hash>) -> Hash {
        right.map_or(*left, |right| node_hash(left, right))
    }
}

/// Hash of an entry as a leaf.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Rfc6962::hash(entry)
}

/// Hash of two subtrees as one.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([0x01]).chain_update(left).chain_update(right).finalize().into()
}

/// Root of the tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest(b"").into()
}

/// Root of the tree whose lowest row is `hashes`; none have [`empty_root`].
#[must_use]
pub fn subtree_root(hashes: &[Hash]) -> Hash {
    let tops: Vec<Hash> = hashes.chunks(BLOCK).map(block_root).collect();
    match tops.len() {
        0 => empty_root(),
        1..=BLOCK => block_root(&tops),
        _ => subtree_root(&tops),
    }
}

/// Root of one to 16 hashes. Uncommitted on purpose: a commit would copy the
/// tree twice, once into a history nobody reads.
fn block_root(hashes: &[Hash]) -> Hash {
    let mut tree = MerkleTree::<Rfc6962>::new();
    tree.append(&mut hashes.to_vec());
    tree.uncommitted_root().expect("a tree of at least one leaf has a root")
}

/// The hashes of a stored tile; `None` if it is not a whole number of them.
#[must_use]
pub fn tile_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// Hashes of a level in a tree of `size` leaves: the roots of all full subtrees
/// of 256^level leaves.
#[must_use]
pub fn level_hashes(size: u64, level: u32) -> u64 {
    size.checked_shr(level.saturating_mul(TILE_HEIGHT)).unwrap_or(0)
}

/// A tile to store: its whole content, whether it is full or still growing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileWrite {
    /// 0 for leaf hashes, 1 for roots of level 0 tiles, and so on.
    pub level: u8,
    /// Position in its level, from 0.
    pub index: u64,
    /// 1 to 256 hashes of 32 bytes. The first ones of a tile never change.
    pub hashes: Vec<u8>,
}

/// Why stored tiles are not the right edge of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    /// The size is beyond [`MAX_SIZE`].
    #[error("a log of {size} entries is larger than any")]
    Size {
        /// The size asked for.
        size: u64,
    },
    /// A level's last tile has another width than the size implies.
    #[error("level {level}: the last tile should hold {expected} hashes, not {found} bytes")]
    Width {
        /// The tile's level.
        level: u8,
        /// Hashes the size implies.
        expected: u64,
        /// Bytes that are there; 0 when the tile is missing.
        found: usize,
    },
    /// Two tiles of one level, or one of a level that the tree does not have.
    #[error("level {level}: there is a tile too many")]
    Surplus {
        /// The tile's level.
        level: u8,
    },
}

/// The right edge of a tree: enough to append to it and to know its root.
/// A copy is some 8 KiB per level, and there are at most eight levels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Level>,
}

/// The partial tile of a level, and the roots of its complete blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Level {
    hashes: Vec<Hash>,
    blocks: Vec<Hash>,
}

impl Edge {
    /// The edge of a tree of `size` leaves from its stored partial tiles:
    /// (level, hashes), in any order, none for levels whose last tile is full.
    ///
    /// # Errors
    /// [`EdgeError`] if they are not exactly the tiles that `size` implies.
    /// Whether they are the *right* hashes is for [`Edge::root`] to tell.
    pub fn restore(size: u64, tiles: &[(u8, Vec<u8>)]) -> Result<Self, EdgeError> {
        if size > MAX_SIZE {
            return Err(EdgeError::Size { size });
        }
        let mut edge = Self { size, levels: Vec::new() };
        for level in 0u8.. {
            let hashes = level_hashes(size, level.into());
            if hashes == 0 {
                break;
            }
            let expected = hashes % TILE_WIDTH as u64;
            let mut stored = tiles.iter().filter(|(l, _)| *l == level).map(|(_, hashes)| hashes);
            let bytes = stored.next().map_or(&[][..], Vec::as_slice);
            let found = bytes.len();
            let hashes = tile_hashes(bytes)
                .filter(|hashes| hashes.len() as u64 == expected)
                .ok_or(EdgeError::Width { level, expected, found })?;
            if stored.next().is_some() {
                return Err(EdgeError::Surplus { level });
            }
            edge.levels.push(Level::of(hashes));
        }
        match tiles.iter().find(|(level, _)| usize::from(*level) >= edge.levels.len()) {
            Some((level, _)) => Err(EdgeError::Surplus { level: *level }),
            None => Ok(edge),
        }
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root of all leaves.
    #[must_use]
    pub fn root(&self) -> Hash {
        let none = None;
        self.levels.iter().fold(none, |carry, level| level.root(carry)).unwrap_or_else(empty_root)
    }

    /// Appends leaves and returns every tile that is new or longer for it,
    /// full ones first. The size stays below [`MAX_SIZE`]: at a million leaves
    /// a second that takes 290,000 years.
    pub fn append(&mut self, leaves: &[Hash]) -> Vec<TileWrite> {
        let mut writes = Vec::new();
        let mut touched = 0;
        for leaf in leaves {
            self.size += 1;
            touched = touched.max(self.push(*leaf, &mut writes));
        }
        writes.extend(self.partial_tiles().filter(|tile| usize::from(tile.level) < touched));
        writes
    }

    /// The partial tiles of the edge, one for each level whose last tile is not full.
    pub fn partial_tiles(&self) -> impl Iterator<Item = TileWrite> + '_ {
        let numbered = (0u8..).zip(&self.levels);
        numbered.filter(|(_, level)| !level.hashes.is_empty()).map(|(level, tile)| TileWrite {
            level,
            index: self.full_tiles(level),
            hashes: tile.hashes.concat(),
        })
    }

    /// Puts a leaf on level 0 and each full tile's root on the level above.
    /// Returns how many levels it reached.
    fn push(&mut self, leaf: Hash, writes: &mut Vec<TileWrite>) -> usize {
        let mut carry = leaf;
        for level in 0u8.. {
            let row = usize::from(level);
            if self.levels.len() == row {
                self.levels.push(Level::default());
            }
            let Some(full) = self.levels[row].push(carry) else {
                return row + 1;
            };
            carry = full.root;
            writes.push(TileWrite {
                level,
                index: self.full_tiles(level) - 1,
                hashes: full.hashes.concat(),
            });
        }
        unreachable!("below 2^63 leaves no tile of level 7 is full")
    }

    /// Full tiles of a level in a tree of the present size.
    fn full_tiles(&self, level: u8) -> u64 {
        level_hashes(self.size, u32::from(level) + 1)
    }
}

/// A tile that has just been completed.
struct FullTile {
    hashes: Vec<Hash>,
    root: Hash,
}

impl Level {
    fn of(hashes: Vec<Hash>) -> Self {
        let blocks = hashes.chunks_exact(BLOCK).map(block_root).collect();
        Self { hashes, blocks }
    }

    /// Adds a hash; a tile that is full by it is handed out and the next begun.
    fn push(&mut self, hash: Hash) -> Option<FullTile> {
        self.hashes.push(hash);
        if self.hashes.len().is_multiple_of(BLOCK) {
            self.blocks.push(block_root(&self.hashes[self.hashes.len() - BLOCK..]));
        }
        if self.hashes.len() < TILE_WIDTH {
            return None;
        }
        let root = block_root(&self.blocks);
        self.blocks.clear();
        Some(FullTile { hashes: std::mem::take(&mut self.hashes), root })
    }

    /// Root of the partial tile followed by `carry`, the root of the ragged
    /// part below it.
    fn root(&self, carry: Option<Hash>) -> Option<Hash> {
        let loose = self.hashes[self.blocks.len() * BLOCK..].iter().copied().chain(carry);
        let loose: Vec<Hash> = loose.collect();
        let mut tops = self.blocks.clone();
        if !loose.is_empty() {
            tops.push(block_root(&loose));
        }
        (!tops.is_empty()).then(|| block_root(&tops))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// MTH of RFC 6962 2.1, word for word, over leaf hashes.
    pub(crate) fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                let bytes = [&[1][..], &mth(left), &mth(right)].concat();
                Sha256::digest(bytes).into()
            }
        }
    }

    /// `n` different leaf hashes.
    pub(crate) fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| Sha256::digest(i.to_be_bytes()).into()).collect()
    }

    /// What a store would hold after these writes.
    fn store(tiles: &mut BTreeMap<(u8, u64), Vec<u8>>, writes: Vec<TileWrite>) {
        for tile in writes {
            if let Some(old) = tiles.insert((tile.level, tile.index), tile.hashes.clone()) {
                assert!(tile.hashes.starts_with(&old) && tile.hashes.len() > old.len());
            }
        }
    }

    #[test]
    fn roots_equal_the_definition_for_every_size_to_a_thousand() {
        let leaves = leaves(1000);
        let mut edge = Edge::default();
        assert_eq!(edge.root(), mth(&[]));
        for n in 1..=leaves.len() {
            edge.append(&leaves[n - 1..n]);
            assert_eq!(edge.root(), mth(&leaves[..n]), "size {n}");
            assert_eq!(subtree_root(&leaves[..n]), mth(&leaves[..n]), "size {n}");
        }
    }

    #[test]
    fn the_reference_roots_of_certificate_transparency() {
        let file = "/../schema/vectors/tlog/rfc6962-roots-and-accumulated.json";
        let text = std::fs::read(format!("{}{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let vectors: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let strings = |key: &str| -> Vec<String> {
            serde_json::from_value(vectors["rfc6962"][key].clone()).unwrap()
        };
        let hex = nexo_schema::bytes::to_hex;
        let inputs = strings("leaf_inputs_hex");
        let mut edge = Edge::default();
        assert_eq!(hex(&edge.root()), vectors["rfc6962"]["empty_root_hex"]);
        for (input, root) in inputs.iter().zip(strings("root_hashes_hex_by_size_1_to_8")) {
            let entry: Vec<u8> = (0..input.len() / 2)
                .map(|i| u8::from_str_radix(&input[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            edge.append(&[leaf_hash(&entry)]);
            assert_eq!(hex(&edge.root()), root);
        }
        assert_eq!(edge.size(), 8);
    }

    #[test]
    fn the_writes_are_the_tiles_of_the_layout() {
        // The example of tlog-tiles: 70,000 entries.
        let leaves = leaves(70_000);
        let (mut edge, mut tiles) = (Edge::default(), BTreeMap::new());
        for batch in leaves.chunks(999) {
            store(&mut tiles, edge.append(batch));
        }
        let width = |level, index| tiles.get(&(level, index)).map(|t: &Vec<u8>| t.len() / 32);
        assert_eq!((width(0, 272), width(0, 273), width(0, 274)), (Some(256), Some(112), None));
        assert_eq!((width(1, 0), width(1, 1), width(1, 2)), (Some(256), Some(17), None));
        assert_eq!((width(2, 0), width(2, 1)), (Some(1), None));
        assert_eq!(tiles[&(0, 3)], leaves[768..1024].concat());
        assert_eq!(tiles[&(1, 0)][..32], mth(&leaves[..256]));
        assert_eq!(tiles[&(2, 0)], mth(&leaves[..65_536]));
        assert_eq!(edge.root(), mth(&leaves));
    }

    #[test]
    fn an_edge_is_restored_from_its_own_tiles_only() {
        let mut edge = Edge::default();
        edge.append(&leaves(66_000));
        let good: Vec<_> = edge.partial_tiles().map(|t| (t.level, t.hashes)).collect();
        assert_eq!(Edge::restore(66_000, &good), Ok(edge));

        let width = |level, expected, found| Err(EdgeError::Width { level, expected, found });
        assert_eq!(Edge::restore(66_001, &good), width(0, 209, 208 * 32));
        assert_eq!(Edge::restore(66_000, &good[1..]), width(0, 208, 0));
        assert_eq!(Edge::restore(66_000, &good[..2]), width(2, 1, 0));
        let mut cut = good.clone();
        cut[0].1.pop();
        assert_eq!(Edge::restore(66_000, &cut), width(0, 208, 208 * 32 - 1));
        let twice = [&good[..], &good[1..2]].concat();
        assert_eq!(Edge::restore(66_000, &twice), Err(EdgeError::Surplus { level: 1 }));
        let high = [&good[..], &[(3, vec![0; 32])]].concat();
        assert_eq!(Edge::restore(66_000, &high), Err(EdgeError::Surplus { level: 3 }));
        assert_eq!(Edge::restore(0, &[]), Ok(Edge::default()));
        assert_eq!(Edge::restore(1 << 63, &[]), Err(EdgeError::Size { size: 1 << 63 }));
    }

    #[test]
    fn the_largest_sizes_do_not_overflow() {
        let tiles: Vec<_> = (0u8..8)
            .map(|level| (level, vec![level; 32 * if level == 7 { 127 } else { 255 }]))
            .collect();
        let size = MAX_SIZE - 1;
        let tiles_below: Vec<_> = tiles
            .iter()
            .map(|(l, t)| (*l, if *l == 0 { t[32..].to_vec() } else { t.clone() }))
            .collect();
        let mut edge = Edge::restore(size, &tiles_below).unwrap();
        assert_eq!(edge.append(&[[0; 32]]).len(), 1);
        assert_eq!((edge.size(), edge.partial_tiles().count()), (MAX_SIZE, 8));
        assert!(Edge::restore(MAX_SIZE, &tiles).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn batches_of_any_size_give_the_same_tree_and_tiles(
            batches in prop::collection::vec(1usize..9000, 1..16), restart: prop::sample::Index,
        ) {
            let leaves = leaves(batches.iter().sum::<usize>() as u64);
            let (mut edge, mut tiles, mut done) = (Edge::default(), BTreeMap::new(), 0);
            for (i, batch) in batches.iter().enumerate() {
                if i == restart.index(batches.len()) {
                    let stored: Vec<_> =
                        edge.partial_tiles().map(|t| (t.level, t.hashes)).collect();
                    edge = Edge::restore(edge.size(), &stored).unwrap();
                }
                store(&mut tiles, edge.append(&leaves[done..done + batch]));
                done += batch;
                prop_assert_eq!(edge.root(), subtree_root(&leaves[..done]));
            }
            prop_assert_eq!(edge.root(), mth(&leaves));
            let level0: Vec<u8> =
                tiles.range((0, 0)..(1, 0)).flat_map(|(_, t)| t.clone()).collect();
            prop_assert_eq!(level0, leaves.concat());
            for tile in edge.partial_tiles() {
                prop_assert_eq!(&tiles[&(tile.level, tile.index)], &tile.hashes);
            }
        }
    }
}
