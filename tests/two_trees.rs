//! Builder against checker: the tree that nexo-server grows tile by tile, against the one that
//! nexo-audit folds from RFC 6962 and 9162 without having seen the other's code.
//!
//! Every root and every proof of the builder must satisfy the checker. A proof with one bit
//! flipped, one node dropped or added, or made for another place must not: a checker that
//! takes everything would agree with any builder.
//!
//! Not here: the wire. `reading.rs` checks the same proofs as a running server serves them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nexo_audit::merkle::{
    CompactRange, ProofError, leaf_hash, verify_consistency, verify_inclusion,
};
use nexo_server::log::{Edge, Hash, Tiles, consistency, inclusion};
use proptest::prelude::*;
use proptest::sample::Index;

/// Enough for the third tile level to exist (256 tiles of 256 leaves), and a ragged end.
const LARGE: u64 = 256 * 256 + 700;

/// A log as both sides know it: the builder's tiles, the checker's root at every size.
struct Grown {
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
    leaves: Vec<Hash>,
    roots: Vec<Hash>,
}

impl Grown {
    /// Grows a log by batches of these sizes, comparing the two roots after each.
    fn by(batches: impl IntoIterator<Item = u64>) -> Self {
        let (mut edge, mut range) = (Edge::default(), CompactRange::new());
        let mut log =
            Self { tiles: BTreeMap::new(), leaves: Vec::new(), roots: vec![range.root()] };
        assert_eq!(edge.root(), range.root(), "the empty tree");
        for batch in batches {
            let first = edge.size();
            let leaves: Vec<Hash> = (first..first + batch).map(leaf).collect();
            for tile in edge.append(&leaves) {
                let hashes = tile.hashes.as_chunks::<32>().0.to_vec();
                log.tiles.insert((tile.level, tile.index), hashes);
            }
            for leaf in &leaves {
                range.append(*leaf);
                log.roots.push(range.root());
            }
            log.leaves.extend(leaves);
            assert_eq!((edge.size(), edge.root()), (range.size(), range.root()));
        }
        log
    }

    fn path(&self, index: u64, size: u64) -> Vec<Hash> {
        inclusion(index, size, &mut Shelf(self)).unwrap()
    }

    fn proof(&self, from: u64, to: u64) -> Vec<Hash> {
        consistency(from, to, &mut Shelf(self)).unwrap()
    }

    fn leaf(&self, index: u64) -> &Hash {
        &self.leaves[usize::try_from(index).unwrap()]
    }

    fn root(&self, size: u64) -> &Hash {
        &self.roots[usize::try_from(size).unwrap()]
    }

    fn includes(&self, index: u64, size: u64, path: &[Hash]) -> Result<(), ProofError> {
        verify_inclusion(self.leaf(index), index, size, path, self.root(size))
    }

    fn extends(&self, from: u64, to: u64, proof: &[Hash]) -> Result<(), ProofError> {
        verify_consistency(from, self.root(from), to, self.root(to), proof)
    }
}

/// The tiles as a store gives them out: cut to the width that was asked for.
struct Shelf<'a>(&'a Grown);

impl Tiles for Shelf<'_> {
    type Error = (u8, u64, u16);

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, Self::Error> {
        let stored = self.0.tiles.get(&(level, index)).and_then(|t| t.get(..usize::from(width)));
        stored.map(<[Hash]>::to_vec).ok_or((level, index, width))
    }
}

/// No two leaves are alike, so a proof for one place is never one for another.
fn leaf(index: u64) -> Hash {
    leaf_hash(&index.to_be_bytes())
}

/// A log past the second tile boundary, grown in ragged batches.
fn small() -> &'static Grown {
    static LOG: OnceLock<Grown> = OnceLock::new();
    LOG.get_or_init(|| Grown::by([1, 1, 7, 240, 7, 1, 254, 2, 90]))
}

fn large() -> &'static Grown {
    static LOG: OnceLock<Grown> = OnceLock::new();
    LOG.get_or_init(|| Grown::by([1000; 66].into_iter().chain([LARGE - 66_000])))
}

#[test]
fn every_place_in_every_small_tree_is_proved() {
    let log = small();
    for size in (1..=66).chain(253..=259).chain(510..=514) {
        for index in 0..size {
            assert_eq!(log.includes(index, size, &log.path(index, size)), Ok(()), "{index} {size}");
        }
    }
}

#[test]
fn every_pair_of_small_trees_is_proved() {
    let log = small();
    let sizes: Vec<u64> = (1..=66).chain(253..=259).chain(510..=514).collect();
    for (at, &from) in sizes.iter().enumerate() {
        for &to in &sizes[at..] {
            assert_eq!(log.extends(from, to, &log.proof(from, to)), Ok(()), "{from} {to}");
        }
    }
}

#[test]
fn the_builder_proves_nothing_that_is_not_there() {
    let log = small();
    assert!(inclusion(5, 5, &mut Shelf(log)).is_err());
    assert!(inclusion(0, 0, &mut Shelf(log)).is_err());
    assert!(consistency(6, 5, &mut Shelf(log)).is_err());
    // A tile that the store lost is an error, never a shorter proof.
    let beyond = log.leaves.len() as u64 + 1;
    assert!(inclusion(beyond - 1, beyond, &mut Shelf(log)).is_err());
}

#[test]
fn the_checker_takes_no_proof_from_nothing() {
    let log = small();
    let nothing = log.extends(0, 9, &[]);
    assert_eq!(nothing, Err(ProofError::Sizes));
    assert_eq!(log.extends(9, 8, &log.proof(8, 9)), Err(ProofError::Sizes));
    assert_eq!(log.includes(9, 9, &[]), Err(ProofError::Index));
}

/// Two sizes of the large log, and a leaf of the larger.
fn places() -> impl Strategy<Value = (u64, u64, u64)> {
    let edges = prop_oneof![
        3 => 2..=LARGE,
        1 => (1u64..=256).prop_flat_map(|tile| tile * 256 - 1..=tile * 256 + 1),
        1 => 65_535u64..=65_537,
    ];
    edges.prop_flat_map(|size| (Just(size), 1..size, 0..size))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_trees_have_one_root_whatever_the_batches(
        batches in prop::collection::vec(0u64..300, 1..12),
    ) {
        // The comparison is in there.
        Grown::by(batches);
    }

    #[test]
    fn every_proof_of_the_builder_satisfies_the_checker((to, from, index) in places()) {
        let log = large();
        prop_assert_eq!(log.includes(index, to, &log.path(index, to)), Ok(()));
        prop_assert_eq!(log.extends(from, to, &log.proof(from, to)), Ok(()));
    }

    #[test]
    fn a_damaged_inclusion_proof_fails(
        (size, _, index) in places(), node in any::<Index>(), bit in 0usize..256,
    ) {
        let log = large();
        let path = log.path(index, size);
        for damaged in damaged(&path, node, bit) {
            prop_assert!(log.includes(index, size, &damaged).is_err());
        }
        let mut leaf = *log.leaf(index);
        flip(&mut leaf, bit);
        prop_assert!(verify_inclusion(&leaf, index, size, &path, log.root(size)).is_err());
        let mut root = *log.root(size);
        flip(&mut root, bit);
        prop_assert!(verify_inclusion(log.leaf(index), index, size, &path, &root).is_err());
    }

    #[test]
    fn an_inclusion_proof_is_for_one_place_in_one_tree(
        (size, other, index) in places(), elsewhere in any::<Index>(),
    ) {
        let log = large();
        let path = log.path(index, size);
        let spot = elsewhere.index(usize::try_from(size).unwrap()) as u64;
        for wrong in [index.wrapping_sub(1), index + 1, spot] {
            if wrong != index && wrong < size {
                let (leaf, root) = (log.leaf(index), log.root(size));
                prop_assert!(verify_inclusion(leaf, wrong, size, &path, root).is_err());
                prop_assert!(log.includes(wrong, size, &path).is_err());
            }
        }
        // `other` is smaller than `size`, and so is another tree.
        prop_assert!(verify_inclusion(log.leaf(index), index, size, &path, log.root(other)).is_err());
    }

    #[test]
    fn a_damaged_consistency_proof_fails(
        (to, from, _) in places(), node in any::<Index>(), bit in 0usize..256,
    ) {
        let log = large();
        let proof = log.proof(from, to);
        for damaged in damaged(&proof, node, bit) {
            prop_assert!(log.extends(from, to, &damaged).is_err());
        }
        for (old, new) in [(true, false), (false, true)] {
            let (mut root1, mut root2) = (*log.root(from), *log.root(to));
            if old { flip(&mut root1, bit) }
            if new { flip(&mut root2, bit) }
            prop_assert!(verify_consistency(from, &root1, to, &root2, &proof).is_err());
        }
    }

    #[test]
    fn a_consistency_proof_is_for_one_pair_of_trees((to, from, other) in places()) {
        let log = large();
        let proof = log.proof(from, to);
        for wrong in [from - 1, from + 1, other] {
            if wrong != from && (1..to).contains(&wrong) {
                prop_assert!(log.extends(wrong, to, &proof).is_err());
            }
        }
        // The same sizes, with the roots of another pair.
        let swapped = verify_consistency(from, log.root(to), to, log.root(from), &proof);
        prop_assert!(swapped.is_err());
    }
}

/// One bit of one node flipped, that node dropped, doubled, and a node put before and behind.
fn damaged(proof: &[Hash], node: Index, bit: usize) -> Vec<Vec<Hash>> {
    let mut all = vec![[&[[7; 32]], proof].concat(), [proof, &[[7; 32]]].concat()];
    if !proof.is_empty() {
        let at = node.index(proof.len());
        let mut flipped = proof.to_vec();
        flip(&mut flipped[at], bit);
        let mut dropped = proof.to_vec();
        dropped.remove(at);
        let mut doubled = proof.to_vec();
        doubled.insert(at, proof[at]);
        all.extend([flipped, dropped, doubled]);
        if at > 0 {
            let mut swapped = proof.to_vec();
            swapped.swap(at - 1, at);
            all.push(swapped);
        }
    }
    all
}

fn flip(hash: &mut Hash, bit: usize) {
    hash[bit / 8] ^= 1 << (bit % 8);
}
