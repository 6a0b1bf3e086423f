//! Consistency proofs (RFC 6962 2.1.2) from the tiles of a copy, which `check` asks a log for.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nexo_audit::Hash;
use nexo_audit::merkle::node_hash;
use nexo_audit::tile::level_path;

/// The tree of so many leaves in a folder.
pub(crate) struct Tree {
    folder: PathBuf,
    size: u64,
}

impl Tree {
    pub(crate) fn new(folder: &Path, size: u64) -> Self {
        Self { folder: folder.to_owned(), size }
    }

    /// The proof that the first `older` leaves start the tree; `older` from 1 to its size.
    pub(crate) fn consistency(&self, older: u64) -> io::Result<Vec<Hash>> {
        let mut path = Vec::new();
        let (mut range, mut whole) = (0..self.size, true);
        while range.end > older {
            let middle = range.start + (range.end - range.start).next_power_of_two() / 2;
            if older <= middle {
                path.push(middle..range.end);
                range.end = middle;
            } else {
                path.push(range.start..middle);
                (range.start, whole) = (middle, false);
            }
        }
        if !whole {
            path.push(range);
        }
        path.into_iter().rev().map(|range| self.root(range)).collect()
    }

    fn root(&self, range: Range<u64>) -> io::Result<Hash> {
        let leaves = range.end - range.start;
        if leaves.is_power_of_two() {
            return self.full(leaves.ilog2(), range.start);
        }
        let middle = range.start + leaves.next_power_of_two() / 2;
        Ok(node_hash(&self.root(range.start..middle)?, &self.root(middle..range.end)?))
    }

    /// The full subtree of 2^`height` leaves from `start` on.
    fn full(&self, height: u32, start: u64) -> io::Result<Hash> {
        let (level, rest) = (height / 8, height % 8);
        let first = start >> (8 * level);
        let width = ((self.size >> (8 * level)) - first / 256 * 256).min(256);
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let number = |n| u16::try_from(n).map_err(|_| bad());
        let level = u8::try_from(level).map_err(|_| bad())?;
        let bytes = fs::read(self.folder.join(level_path(level, first / 256, number(width)?)))?;
        let at = usize::from(number(first % 256)?);
        let mut row: Vec<Hash> =
            bytes.as_chunks().0.get(at..at + (1 << rest)).ok_or_else(bad)?.to_vec();
        while let [_, _, ..] = row[..] {
            row = row.as_chunks::<2>().0.iter().map(|[a, b]| node_hash(a, b)).collect();
        }
        Ok(row[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::Copy;
    use nexo_audit::LogKey;
    use nexo_audit::checkpoint::SignedHead;
    use nexo_audit::verify_consistency;

    #[test]
    fn every_older_tree_starts_the_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut copy = Copy::make(folder.path(), 1, 7).unwrap();
        let key = LogKey::parse(&copy.vkey()).unwrap();
        let mut heads = Vec::new();
        for more in [0, 1, 5, 249, 1, 300, 43] {
            copy.grow(more, 7).unwrap();
            let note = fs::read(folder.path().join("checkpoint")).unwrap();
            heads.push(SignedHead::open(&note, &key, None).unwrap().checkpoint);
            let newer = &heads[heads.len() - 1];
            for older in &heads {
                let proof = Tree::new(folder.path(), newer.size).consistency(older.size).unwrap();
                let held =
                    verify_consistency(older.size, &older.root, newer.size, &newer.root, &proof);
                assert_eq!(held, Ok(()), "{} {}", older.size, newer.size);
            }
        }
    }
}
