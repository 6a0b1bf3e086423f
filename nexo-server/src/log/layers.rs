//! The nodes inside one tile: its hashes, joined pair by pair, layer over layer.
//!
//! What lets a path be looked up instead of hashed. It holds only nodes over a
//! complete run of hashes; a ragged one depends on the tiles below too, and
//! `recent.rs` joins it.
//!
//! ```text
//! layer 2   [0,4)                         node 0
//! layer 1   [0,2)   [2,4)   [4,6)         nodes 0 to 2
//! layer 0   0   1   2   3   4   5   6     the tile, here of 7 hashes
//! ```
//!
//! There is no layer 8: the root of a full tile is a hash of the level above.

use super::tree::{Hash, TILE_HEIGHT, node_hash};
use std::iter;
use std::sync::OnceLock;

/// A tile, and once somebody asks for more than its hashes, all its inner nodes.
/// At most 8 KiB each.
#[derive(Debug)]
pub(super) struct Layers {
    /// Layer 0: hashes of 32 bytes.
    tile: Vec<u8>,
    /// Layers 1 to 7.
    inner: OnceLock<Vec<Vec<Hash>>>,
}

impl Layers {
    /// Of a tile: 1 to 256 hashes of 32 bytes. Hashes nothing yet.
    pub(super) fn of(tile: Vec<u8>) -> Self {
        Self { tile, inner: OnceLock::new() }
    }

    /// The first `width` hashes of the tile; `None` if it has fewer.
    pub(super) fn hashes(&self, width: u16) -> Option<Vec<Hash>> {
        self.tile.as_chunks::<32>().0.get(..usize::from(width)).map(<[Hash]>::to_vec)
    }

    /// The node over the 2^`layer` hashes from `place` * 2^`layer`, for a layer below 8.
    /// `None` if the tile does not have all of them.
    pub(super) fn node(&self, layer: u32, place: usize) -> Option<Hash> {
        let tile = self.tile.as_chunks::<32>().0;
        match layer.checked_sub(1) {
            None => tile.get(place).copied(),
            Some(above) => {
                let inner = self.inner.get_or_init(|| inner(tile));
                inner.get(usize::try_from(above).ok()?)?.get(place).copied()
            }
        }
    }
}

/// Layers 1 to 7 over a tile; one hash for each of their nodes.
fn inner(tile: &[Hash]) -> Vec<Vec<Hash>> {
    let layers = iter::successors(Some(joined(tile)), |layer| Some(joined(layer)));
    layers.take(TILE_HEIGHT as usize - 1).collect()
}

/// The layer above. A last hash without a partner has no node there.
fn joined(layer: &[Hash]) -> Vec<Hash> {
    layer.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::{leaves, mth};
    use super::*;

    #[test]
    fn nodes_are_the_roots_of_complete_runs_in_tiles_of_every_width() {
        let leaves = leaves(256);
        for width in 1..=256 {
            let layers = Layers::of(leaves[..width].concat());
            assert!(layers.inner.get().is_none(), "nothing is hashed before it is asked for");
            for layer in 0..8 {
                let run = 1 << layer;
                // Each is looked at in the first tile that has it, and in the full one.
                for place in 0..width / run {
                    let run = place * run..(place + 1) * run;
                    if run.end == width || width == 256 {
                        let node = layers.node(layer, place);
                        assert_eq!(node, Some(mth(&leaves[run])), "{layer}/{place} of {width}");
                    }
                }
                assert_eq!(layers.node(layer, width / run), None, "{layer} of {width}");
            }
            assert_eq!((layers.node(8, 0), layers.node(9, 0)), (None, None));
        }
    }
}
