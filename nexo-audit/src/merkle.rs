//! The Merkle tree of the log: hashes, proof verifiers, and a root built leaf by leaf.
//!
//! Written from RFC 6962 section 2.1 (hashes) and RFC 9162 sections 2.1.3.2 and 2.1.4.2
//! (verification). It holds no tree: [`CompactRange`] keeps one hash per set bit of the size,
//! which is all that is needed to append and to know the root. It makes no proofs.
//!
//! ```text
//! leaf hash  = SHA-256(0x00 || entry)
//! node hash  = SHA-256(0x01 || left || right)
//! empty root = SHA-256("")
//!
//! size 6 = 110b   peaks:   [0..4)   [4..6)        root = node([0..4), [4..6))
//! size 7 = 111b   peaks:   [0..4)   [4..6)  6     root = node([0..4), node([4..6), 6))
//! ```

use crate::hashing;
use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Why a proof does not prove what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The index is not below the size.
    #[error("the tree has no leaf at that index")]
    Index,
    /// The older size is zero or above the newer one.
    #[error("the sizes are not 0 < older <= newer")]
    Sizes,
    /// The path has more or fewer hashes than the sizes ask for.
    #[error("the proof does not have the number of hashes these sizes ask for")]
    Length,
    /// The path does not lead to the root (of the newer tree).
    #[error("the proof does not lead to the signed root")]
    Root,
    /// The path does not lead to the root of the older tree.
    #[error("the proof does not lead to the older root")]
    OldRoot,
}

/// RFC 6962 hash of an entry.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    hashing::leaf(entry)
}

/// RFC 6962 hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hashing::node(left, right)
}

/// The root over as many hashes as a full subtree has, a power of two. They are used up.
pub(crate) fn full_root(row: &mut [Hash]) -> Hash {
    let mut length = row.len();
    while length > 1 {
        length /= 2;
        for at in 0..length {
            row[at] = node_hash(&row[2 * at], &row[2 * at + 1]);
        }
    }
    row.first().copied().unwrap_or_else(empty_root)
}

/// The root of the tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// Verifies that `leaf` is at `index` (from 0) in the tree of `size` leaves under `root`
/// (RFC 9162 2.1.3.2). `path` goes from the leaf's sibling up.
///
/// Index, size and root must come from where they are trusted: the size and the root from a
/// verified head.
///
/// # Errors
/// [`ProofError`] names what does not hold.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index);
    }
    let mut walk = Walk { node: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in path {
        if walk.last == 0 {
            return Err(ProofError::Length);
        }
        hash = if walk.is_right_or_lone() {
            walk.skip_promotions();
            node_hash(sibling, &hash)
        } else {
            node_hash(&hash, sibling)
        };
        walk.up();
    }
    if walk.last != 0 {
        return Err(ProofError::Length);
    }
    if hash == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Verifies that the tree of `size1` leaves under `root1` is a prefix of the tree of `size2`
/// leaves under `root2` (RFC 9162 2.1.4.2).
///
/// `size1` = 0 is an error: the empty tree is a prefix of every tree, there is no proof to
/// verify, and a caller that knows nothing yet must say so itself.
///
/// # Errors
/// [`ProofError`] names what does not hold.
pub fn verify_consistency(
    size1: u64,
    root1: &Hash,
    size2: u64,
    root2: &Hash,
    path: &[Hash],
) -> Result<(), ProofError> {
    if size1 == 0 || size1 > size2 {
        return Err(ProofError::Sizes);
    }
    if size1 == size2 {
        let equal = if root1 == root2 { Ok(()) } else { Err(ProofError::Root) };
        return if path.is_empty() { equal } else { Err(ProofError::Length) };
    }
    // When the older tree is one full subtree, its root starts the path and is left out of it.
    let (start, rest) = if size1.is_power_of_two() {
        (root1, path)
    } else {
        path.split_first().ok_or(ProofError::Length)?
    };
    let (old, new) = climb(size1, size2, start, rest)?;
    if old != *root1 {
        return Err(ProofError::OldRoot);
    }
    if new == *root2 { Ok(()) } else { Err(ProofError::Root) }
}

/// The two roots that a consistency proof makes: of the first `size1` leaves, and of all `size2`.
///
/// Unlike in RFC 9162 the path always begins with its start node, also where that is the whole
/// older tree. So nothing of it comes from whoever compares: if the second root is the one that a
/// log signed, the first is what its tree of `size2` leaves starts with, whatever else it signed.
///
/// # Errors
/// [`ProofError`] when the sizes are not 0 < `size1` < `size2`, or the path has another number of
/// hashes than they ask for.
pub fn prefix_roots(size1: u64, size2: u64, path: &[Hash]) -> Result<(Hash, Hash), ProofError> {
    if size1 == 0 || size1 >= size2 {
        return Err(ProofError::Sizes);
    }
    let (start, rest) = path.split_first().ok_or(ProofError::Length)?;
    climb(size1, size2, start, rest)
}

/// From the start node of a consistency proof to both roots (RFC 9162 2.1.4.2).
fn climb(size1: u64, size2: u64, start: &Hash, path: &[Hash]) -> Result<(Hash, Hash), ProofError> {
    let mut walk = Walk { node: size1 - 1, last: size2 - 1 };
    while walk.node & 1 == 1 {
        walk.up();
    }
    let (mut old, mut new) = (*start, *start);
    for sibling in path {
        if walk.last == 0 {
            return Err(ProofError::Length);
        }
        if walk.is_right_or_lone() {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            walk.skip_promotions();
        } else {
            new = node_hash(&new, sibling);
        }
        walk.up();
    }
    if walk.last == 0 { Ok((old, new)) } else { Err(ProofError::Length) }
}

/// The RFC's `fn` and `sn`: a node and the last node of the same level, on the way up.
struct Walk {
    node: u64,
    last: u64,
}

impl Walk {
    /// The sibling stands left: this is a right child, or the last node of its level.
    fn is_right_or_lone(&self) -> bool {
        self.node & 1 == 1 || self.node == self.last
    }

    /// A last node without a sibling rises unchanged until it is a right child.
    fn skip_promotions(&mut self) {
        while self.node & 1 == 0 && self.node != 0 {
            self.up();
        }
    }

    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

/// The peaks do not belong to the size: a tree of n leaves has one peak per set bit of n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves does not have {peaks} peaks")]
pub struct PeaksError {
    /// The size that was given.
    pub size: u64,
    /// The number of peaks that was given.
    pub peaks: usize,
}

/// A tree that can be appended to: its size and the roots of its full subtrees ("peaks"),
/// largest first.
///
/// Starting from the peaks of an older head, appending leaves cannot change what lies under
/// those peaks. So if the root after the last append is the root of a newer head, the older
/// tree is a prefix of the newer one: the rebuild is itself a consistency proof.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompactRange {
    size: u64,
    peaks: Vec<Hash>,
}

impl CompactRange {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree with these peaks, largest first.
    ///
    /// The root does not bind the size: two peaks have one root, be they of 3, 5 or 6 leaves. So
    /// the size must come from where the root comes from.
    ///
    /// # Errors
    /// [`PeaksError`] if the number of peaks is not the number of set bits of `size`.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Result<Self, PeaksError> {
        if peaks.len() == size.count_ones() as usize {
            Ok(Self { size, peaks })
        } else {
            Err(PeaksError { size, peaks: peaks.len() })
        }
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the full subtrees, largest first.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds one leaf at the end.
    pub fn append(&mut self, leaf: Hash) {
        self.append_subtree(0, leaf);
    }

    /// Adds a full subtree of 2^`level` leaves at the end. The size must be a multiple of that:
    /// elsewhere no such subtree begins, and the root would be one of no tree.
    pub(crate) fn append_subtree(&mut self, level: u32, root: Hash) {
        debug_assert!(self.size.trailing_zeros() >= level, "2^{level} leaves at {}", self.size);
        let mut hash = root;
        // Each trailing one bit of the size is a peak as large as what is being carried.
        for _ in 0..(self.size >> level).trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1 << level;
    }

    /// Adds the leaves of a range that was built by itself and begins where this one ends. The
    /// size must be a multiple of the power of two that the range's size is at most.
    pub(crate) fn append_range(&mut self, later: &Self) {
        let levels = (0..u64::BITS).rev().filter(|level| later.size >> level & 1 == 1);
        for (level, peak) in levels.zip(&later.peaks) {
            self.append_subtree(level, *peak);
        }
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{hash_from_base64, to_hex};
    use crate::testlog::{oracle_consistency, oracle_inclusion, oracle_root, unhex, vector_files};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;
    use serde_json::Value;

    /// A vector's hash. Where it is deliberately not 32 bytes, a hash of it stands in: what was
    /// equal stays equal and what was different stays different, so the verdict must too.
    fn hash(value: &Value) -> Hash {
        let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
        bytes.try_into().unwrap_or_else(|odd: Vec<u8>| Sha256::digest(odd).into())
    }

    fn path(value: &Value) -> Vec<Hash> {
        value.as_array().map_or(Vec::new(), |list| list.iter().map(hash).collect())
    }

    /// A leaf hash that is not 32 bytes has to be refused; here the type does it.
    fn inclusion_case(case: &Value) -> bool {
        let number = |name: &str| case[name].as_u64().unwrap();
        let (index, size) = (number("leafIdx"), number("treeSize"));
        let (path, root) = (path(&case["proof"]), hash(&case["root"]));
        hash_from_base64(case["leafHash"].as_str().unwrap())
            .is_some_and(|leaf| verify_inclusion(&leaf, index, size, &path, &root).is_ok())
    }

    fn consistency_case(case: &Value) -> bool {
        let number = |name: &str| case[name].as_u64().unwrap();
        let (old, new) = (hash(&case["root1"]), hash(&case["root2"]));
        let (size1, size2) = (number("size1"), number("size2"));
        verify_consistency(size1, &old, size2, &new, &path(&case["proof"])).is_ok()
    }

    fn run_vectors(folder: &str, verify: fn(&Value) -> bool) {
        let cases = vector_files(folder);
        assert_eq!(cases.len(), 98);
        let mut accepted = 0;
        for (name, case) in cases {
            let wanted = !case["wantErr"].as_bool().unwrap();
            let got = verify(&case);
            assert_eq!(got, wanted, "{name}: {}", case["desc"]);
            accepted += usize::from(got);
        }
        assert!(accepted >= 5, "a verifier that refuses everything is not right either");
    }

    #[test]
    fn all_98_inclusion_vectors() {
        run_vectors("merkle/inclusion", inclusion_case);
    }

    #[test]
    fn all_98_consistency_vectors() {
        run_vectors("merkle/consistency", consistency_case);
    }

    #[test]
    fn reference_roots_of_rfc_6962() {
        let file = crate::testlog::vector("tlog/rfc6962-roots-and-accumulated.json");
        let reference = &file["rfc6962"];
        let mut range = CompactRange::new();
        assert_eq!(range.root().to_vec(), unhex(&reference["empty_root_hex"]));
        let roots = reference["root_hashes_hex_by_size_1_to_8"].as_array().unwrap();
        for (leaf, root) in reference["leaf_inputs_hex"].as_array().unwrap().iter().zip(roots) {
            range.append(leaf_hash(&unhex(leaf)));
            assert_eq!(range.root().to_vec(), unhex(root));
        }
        assert_eq!(range.size(), 8);
    }

    /// Whether [start, end) can be one node of a tree, which may be the last, incomplete one.
    fn is_subtree(start: usize, end: usize) -> bool {
        let length = end - start;
        length == 0 || start.is_multiple_of(length.next_power_of_two())
    }

    /// One hash over every subtree of 130 one-byte leaves, and one over every inclusion path,
    /// which the compact range and the verifier also have to agree with.
    #[test]
    fn accumulated_vectors_of_the_certificate_tree_draft() {
        let all: Vec<Hash> = (0..130u8).map(|n| leaf_hash(&[n])).collect();
        let (mut subtrees, mut paths) = (Sha256::new(), Sha256::new());
        for end in 0..=all.len() {
            for start in (0..=end).filter(|start| is_subtree(*start, end)) {
                let leaves = &all[start..end];
                let mut range = CompactRange::new();
                leaves.iter().for_each(|leaf| range.append(*leaf));
                let root = range.root();
                subtrees.update(format!("[{start}, {end}) {}\n", to_hex(&root)));
                for (at, leaf) in leaves.iter().enumerate() {
                    let path = oracle_inclusion(at, leaves);
                    paths.update(format!("{} [{start}, {end})", start + at));
                    path.iter().for_each(|hash| paths.update(format!(" {}", to_hex(hash))));
                    paths.update("\n");
                    let (index, size) = (at as u64, leaves.len() as u64);
                    assert_eq!(verify_inclusion(leaf, index, size, &path, &root), Ok(()));
                }
            }
        }
        let file = crate::testlog::vector("tlog/rfc6962-roots-and-accumulated.json");
        let accumulated = &file["accumulated"];
        let expected = |name: &str| unhex(&accumulated[name]);
        assert_eq!(subtrees.finalize().to_vec(), expected("TestSubtreeHashVectors"));
        assert_eq!(paths.finalize().to_vec(), expected("TestSubtreeInclusionProofVectors"));
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    #[test]
    fn the_compact_range_is_the_recursive_tree() {
        let leaves = leaves(600);
        let mut range = CompactRange::new();
        for size in 0..=leaves.len() {
            assert_eq!(range.root(), oracle_root(&leaves[..size]), "size {size}");
            let peaks = range.peaks().to_vec();
            assert_eq!(CompactRange::from_peaks(range.size(), peaks), Ok(range.clone()));
            if let Some(leaf) = leaves.get(size) {
                range.append(*leaf);
            }
        }
    }

    #[test]
    fn subtrees_and_ranges_are_added_as_their_leaves_are() {
        let all = leaves(600);
        for (start, length) in [(0, 0), (0, 5), (256, 1), (256, 200), (256, 256), (512, 88)] {
            let (mut one_by_one, mut later) = (CompactRange::new(), CompactRange::new());
            all[..start].iter().for_each(|leaf| one_by_one.append(*leaf));
            let mut joined = one_by_one.clone();
            for leaf in &all[start..start + length] {
                one_by_one.append(*leaf);
                later.append(*leaf);
            }
            joined.append_range(&later);
            assert_eq!(joined, one_by_one, "{start} {length}");
        }
        let mut tiles = CompactRange::new();
        for tile in all.chunks_exact(256) {
            tiles.append_subtree(8, full_root(&mut tile.to_vec()));
        }
        all[512..].iter().for_each(|leaf| tiles.append(*leaf));
        assert_eq!(tiles.root(), oracle_root(&all));
        assert_eq!(full_root(&mut []), empty_root());
        assert_eq!(full_root(&mut [[7; 32]]), [7; 32]);
    }

    #[test]
    fn peaks_must_fit_the_size() {
        for (size, peaks) in [(0, 1), (1, 0), (3, 1), (4, 2), (u64::MAX, 63)] {
            let given = vec![[0; 32]; peaks];
            assert_eq!(
                CompactRange::from_peaks(size, given),
                Err(PeaksError { size, peaks }),
                "{size} {peaks}"
            );
        }
    }

    #[test]
    fn every_proof_of_small_trees_verifies() {
        let all = leaves(40);
        for size in 1..=all.len() {
            let (tree, root) = (&all[..size], oracle_root(&all[..size]));
            for older in 1..=size {
                let (size1, size2) = (older as u64, size as u64);
                let index = size1 - 1;
                let path = oracle_inclusion(older - 1, tree);
                let leaf = &all[older - 1];
                assert_eq!(verify_inclusion(leaf, index, size2, &path, &root), Ok(()));
                let proof = oracle_consistency(older, tree);
                let old_root = oracle_root(&all[..older]);
                assert_eq!(verify_consistency(size1, &old_root, size2, &root, &proof), Ok(()));
            }
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let all = leaves(7);
        let root = oracle_root(&all);
        let path = oracle_inclusion(2, &all);
        let longer = [&path[..], &path[..1]].concat();
        let check = |index, size, path: &[Hash], root: &Hash| {
            verify_inclusion(&all[2], index, size, path, root)
        };
        assert_eq!(check(7, 7, &path, &root), Err(ProofError::Index));
        assert_eq!(check(0, 0, &[], &empty_root()), Err(ProofError::Index));
        assert_eq!(check(2, 7, &path[..2], &root), Err(ProofError::Length));
        assert_eq!(check(2, 7, &longer, &root), Err(ProofError::Length));
        assert_eq!(check(2, 7, &path, &empty_root()), Err(ProofError::Root));

        let old = oracle_root(&all[..3]);
        let proof = oracle_consistency(3, &all);
        let longer = [&proof[..], &proof[..1]].concat();
        let check = |size1, old: &Hash, size2, new: &Hash, proof: &[Hash]| {
            verify_consistency(size1, old, size2, new, proof)
        };
        assert_eq!(check(0, &old, 7, &root, &proof), Err(ProofError::Sizes));
        assert_eq!(check(8, &old, 7, &root, &proof), Err(ProofError::Sizes));
        assert_eq!(check(3, &old, 7, &root, &[]), Err(ProofError::Length));
        assert_eq!(check(3, &old, 7, &root, &proof[..1]), Err(ProofError::Length));
        assert_eq!(check(3, &old, 7, &root, &longer), Err(ProofError::Length));
        assert_eq!(check(3, &root, 7, &root, &proof), Err(ProofError::OldRoot));
        assert_eq!(check(3, &old, 7, &old, &proof), Err(ProofError::Root));
        assert_eq!(check(7, &root, 7, &root, &[]), Ok(()));
        assert_eq!(check(7, &root, 7, &old, &[]), Err(ProofError::Root));
        assert_eq!(check(7, &root, 7, &root, &proof), Err(ProofError::Length));
    }

    #[test]
    fn a_prefix_makes_both_roots_of_its_own() {
        let all = leaves(40);
        for size in 2..=all.len() {
            let (tree, root) = (&all[..size], oracle_root(&all[..size]));
            for older in 1..size {
                let (size1, size2) = (older as u64, size as u64);
                let mut path = oracle_consistency(older, tree);
                if size1.is_power_of_two() {
                    path.insert(0, oracle_root(&all[..older]));
                }
                let roots = (oracle_root(&all[..older]), root);
                assert_eq!(prefix_roots(size1, size2, &path), Ok(roots), "{older} {size}");
                path.push([0; 32]);
                assert_eq!(prefix_roots(size1, size2, &path), Err(ProofError::Length));
                path.truncate(path.len() - 2);
                assert_eq!(prefix_roots(size1, size2, &path), Err(ProofError::Length));
            }
        }
        for (size1, size2) in [(0, 1), (1, 1), (7, 7), (8, 7)] {
            assert_eq!(prefix_roots(size1, size2, &[[0; 32]]), Err(ProofError::Sizes));
        }
        assert_eq!(prefix_roots(1, 2, &[]), Err(ProofError::Length));
        let huge = u64::MAX >> 1;
        assert_eq!(prefix_roots(huge - 1, huge, &[[0; 32]]), Err(ProofError::Length));
    }

    proptest! {
        #[test]
        fn a_damaged_inclusion_proof_is_refused(
            size in 1usize..600, pick: u64, bit in 0usize..256, node: u64,
        ) {
            let all = leaves(size as u64);
            let (size64, root) = (size as u64, oracle_root(&all));
            let index = pick % size64;
            let at = usize::try_from(index).unwrap();
            let path = oracle_inclusion(at, &all);
            let leaf = all[at];
            prop_assert_eq!(verify_inclusion(&leaf, index, size64, &path, &root), Ok(()));
            // Another index of the same tree, for the same leaf and path.
            for other in [index.wrapping_sub(1), index + 1, index ^ 1, u64::MAX] {
                let shifted = verify_inclusion(&leaf, other, size64, &path, &root);
                prop_assert!(shifted.is_err(), "{} passed as {}", index, other);
            }
            let mut bad = leaf;
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_inclusion(&bad, index, size64, &path, &root).is_err());
            if !path.is_empty() {
                let node = usize::try_from(node % path.len() as u64).unwrap();
                let mut bad = path.clone();
                bad[node][bit / 8] ^= 1 << (bit % 8);
                prop_assert!(verify_inclusion(&leaf, index, size64, &bad, &root).is_err());
                let mut bad = path.clone();
                bad.remove(node);
                prop_assert!(verify_inclusion(&leaf, index, size64, &bad, &root).is_err());
            }
        }

        #[test]
        fn a_damaged_consistency_proof_is_refused(
            size in 2usize..600, pick: u64, bit in 0usize..256, node: u64,
        ) {
            let all = leaves(size as u64);
            let older = 1 + usize::try_from(pick % (size as u64 - 1)).unwrap();
            let (old, new) = (oracle_root(&all[..older]), oracle_root(&all));
            let (size1, size2) = (older as u64, size as u64);
            let proof = oracle_consistency(older, &all);
            prop_assert_eq!(verify_consistency(size1, &old, size2, &new, &proof), Ok(()));
            let node = usize::try_from(node % proof.len() as u64).unwrap();
            let mut bad = proof.clone();
            bad[node][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_consistency(size1, &old, size2, &new, &bad).is_err());
            let mut bad = proof.clone();
            bad.remove(node);
            prop_assert!(verify_consistency(size1, &old, size2, &new, &bad).is_err());
            let mut bad = proof.clone();
            bad.insert(node, [7; 32]);
            prop_assert!(verify_consistency(size1, &old, size2, &new, &bad).is_err());
            let mut bad = old;
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_consistency(size1, &bad, size2, &new, &proof).is_err());
        }

        #[test]
        fn no_proof_panics(
            index: u64, size: u64, older: u64, path in prop::collection::vec(any::<Hash>(), 0..70),
        ) {
            let _ = verify_inclusion(&[1; 32], index, size, &path, &[2; 32]);
            let _ = verify_consistency(older, &[1; 32], size, &[2; 32], &path);
        }
    }
}
