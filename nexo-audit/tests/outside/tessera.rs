//! A log that no one here wrote: the test log of transparency-dev/tessera at all its sizes, 0 to 15,
//! each against each, forwards and backwards (schema/vectors/tlog, which says where it is from).
//!
//! Its proofs are made here from its own tiles, by the recursive definitions of RFC 6962 2.1. What
//! judges them is the library.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nexo_audit::entry::split_bundle;
use nexo_audit::merkle::{CompactRange, ProofError, empty_root, node_hash};
use nexo_audit::tile::{hashes, spans};
use nexo_audit::{
    Checkpoint, Hash, LogKey, SignedHead, leaf_hash, verify_consistency, verify_inclusion,
};
use serde_json::Value;

/// The log as it is served at one size.
struct Size {
    head: Checkpoint,
    /// From its level 0 tile.
    leaves: Vec<Hash>,
    /// From its bundle.
    entries: Vec<Vec<u8>>,
}

/// Every size, the head opened under the log's key.
fn sizes() -> Vec<Size> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/vectors/tlog/tessera-testlog.json");
    let log: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let key = LogKey::parse(log["vkey"].as_str().unwrap()).unwrap();
    let served = |path: &str| STANDARD.decode(log["tiles"][path].as_str().unwrap()).unwrap();
    let size = |(size, known): (u64, &Value)| {
        let note = known["note"].as_str().unwrap();
        let head = SignedHead::open(note.as_bytes(), &key, None).unwrap().checkpoint;
        assert_eq!(head.size, size);
        let (mut leaves, mut entries) = (vec![], vec![]);
        for span in spans(0, size) {
            leaves.extend(hashes(&served(&span.tile_path()), span.width).unwrap());
            let bundle = served(&span.bundle_path());
            let split = split_bundle(&bundle, span.width).unwrap();
            entries.extend(split.into_iter().map(<[u8]>::to_vec));
        }
        Size { head, leaves, entries }
    };
    let sizes: Vec<Size> = (0..).zip(log["checkpoints"].as_array().unwrap()).map(size).collect();
    assert_eq!(sizes.len(), 16);
    sizes
}

/// The largest power of two below the length.
fn split(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}

fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => node_hash(&root(split(leaves).0), &root(split(leaves).1)),
    }
}

fn inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let (left, right) = split(leaves);
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (inclusion(index, left), right),
        Some(index) => (inclusion(index, right), left),
    };
    path.push(root(sibling));
    path
}

fn consistency(older: usize, leaves: &[Hash]) -> Vec<Hash> {
    fn subproof(older: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if older == leaves.len() {
            return if whole { vec![] } else { vec![root(leaves)] };
        }
        let (left, right) = split(leaves);
        let (mut proof, sibling) = if older <= left.len() {
            (subproof(older, left, whole), right)
        } else {
            (subproof(older - left.len(), right, false), left)
        };
        proof.push(root(sibling));
        proof
    }
    subproof(older, leaves, true)
}

#[test]
fn entries_tiles_and_heads_agree_at_every_size() {
    for Size { head, leaves, entries } in sizes() {
        let mut range = CompactRange::new();
        for (entry, leaf) in entries.iter().zip(&leaves) {
            assert_eq!(leaf_hash(entry), *leaf);
            range.append(*leaf);
        }
        assert_eq!((range.size(), range.root()), (head.size, head.root));
        assert_eq!((entries.len() as u64, leaves.len() as u64), (head.size, head.size));
    }
}

#[test]
fn every_size_grows_into_every_later_one_and_into_no_earlier_one() {
    let sizes = sizes();
    for (at, old) in sizes.iter().enumerate() {
        let mut older = CompactRange::new();
        old.leaves.iter().for_each(|leaf| older.append(*leaf));
        for new in &sizes[at..] {
            // By the peaks of the older head, as an auditor goes on from its state.
            let peaks = older.peaks().to_vec();
            let mut range = CompactRange::from_peaks(old.head.size, peaks).unwrap();
            new.leaves[at..].iter().for_each(|leaf| range.append(*leaf));
            assert_eq!(range.root(), new.head.root, "{at} to {}", new.head.size);
            if at == 0 {
                continue;
            }
            // By the proof that the log's tiles make.
            let proof = consistency(at, &new.leaves);
            let verify = |old: &Checkpoint, new: &Checkpoint, proof: &[Hash]| {
                verify_consistency(old.size, &old.root, new.size, &new.root, proof)
            };
            assert_eq!(verify(&old.head, &new.head, &proof), Ok(()));
            // Backwards, with the same proof: never, but for a head and itself.
            if old.head.size < new.head.size {
                assert_eq!(verify(&new.head, &old.head, &proof), Err(ProofError::Sizes));
                let swapped = Checkpoint { root: new.head.root, ..old.head.clone() };
                assert!(verify(&swapped, &new.head, &proof).is_err());
                let swapped = Checkpoint { root: old.head.root, ..new.head.clone() };
                assert!(verify(&old.head, &swapped, &proof).is_err());
            }
            for cut in 0..proof.len() {
                let refused = verify(&old.head, &new.head, &proof[..cut]);
                assert_eq!(refused, Err(ProofError::Length));
                let mut altered = proof.clone();
                altered[cut][0] ^= 1;
                assert!(verify(&old.head, &new.head, &altered).is_err());
            }
        }
    }
}

#[test]
fn every_entry_is_where_it_is_and_nowhere_else() {
    for Size { head, leaves, .. } in sizes() {
        for at in 0..leaves.len() {
            let path = inclusion(at, &leaves);
            for (index, leaf) in leaves.iter().enumerate() {
                let held = verify_inclusion(leaf, index as u64, head.size, &path, &head.root);
                assert_eq!(held.is_ok(), index == at, "{index} by the path of {at}");
            }
            let beyond = verify_inclusion(&leaves[at], head.size, head.size, &path, &head.root);
            assert_eq!(beyond, Err(ProofError::Index));
        }
    }
}
