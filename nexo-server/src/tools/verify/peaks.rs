//! The tree as its peaks: roots of the complete subtrees of a run of leaves, largest first.
//!
//! It shares nothing with `log/tree.rs` but the hash of two nodes: what builds the log's tiles
//! is not what checks them.
//!
//! ```text
//! 11 leaves:   peaks of 8, 2 and 1 leaves (heights 3, 1, 0)
//! root (RFC 6962 2.1)  = node(peak 8, node(peak 2, peak 1))
//! ```

use crate::log::{Hash, node_hash};

/// Peaks of a run of leaves, or of blocks of 2^h leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Peaks(Vec<(u32, Hash)>);

impl Peaks {
    /// Adds the root of 2^`height` leaves behind the others, none of which is smaller.
    pub(super) fn push(&mut self, height: u32, root: Hash) {
        let mut added = (height, root);
        while let Some((before, left)) = self.0.pop_if(|peak| peak.0 <= added.0) {
            debug_assert_eq!(before, added.0, "blocks come in falling sizes");
            added = (before + 1, node_hash(&left, &added.1));
        }
        self.0.push(added);
    }

    /// Root of all, followed by a ragged part with the root `rest`; `None` without any leaf.
    pub(super) fn root(&self, rest: Option<Hash>) -> Option<Hash> {
        let left_of = |right: Hash, (_, left): &(u32, Hash)| node_hash(left, &right);
        match (rest, self.0.split_last()) {
            (None, None) => None,
            (Some(rest), _) => Some(self.0.iter().rev().fold(rest, left_of)),
            (None, Some((last, above))) => Some(above.iter().rev().fold(last.1, left_of)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::log::{Edge, subtree_root};

    fn leaves(n: u64) -> Vec<Hash> {
        (0..n).map(|i| Sha256::digest(i.to_be_bytes()).into()).collect()
    }

    #[test]
    fn roots_are_those_of_the_builder_at_every_size() {
        let leaves = leaves(1100);
        let (mut peaks, mut edge) = (Peaks::default(), Edge::default());
        assert_eq!(peaks.root(None), None);
        for leaf in &leaves {
            peaks.push(0, *leaf);
            edge.append(&[*leaf]);
            assert_eq!(peaks.root(None), Some(edge.root()));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn blocks_and_a_ragged_rest_are_one_tree(blocks in 0u64..9, rest in 0usize..300) {
            let all = leaves(blocks * 256 + rest as u64);
            let (mut peaks, mut ragged) = (Peaks::default(), Peaks::default());
            let (full, loose) = all.split_at(all.len() - rest % 256);
            for tile in full.chunks(256) {
                peaks.push(8, subtree_root(tile));
            }
            for leaf in loose {
                ragged.push(0, *leaf);
            }
            let root = (!all.is_empty()).then(|| subtree_root(&all));
            prop_assert_eq!(peaks.root(ragged.root(None)), root);
        }
    }
}
