//! Ranges, joined in order into the whole tree: its upper tiles, and the root of every head.

use std::fmt;

use nexo_schema::bytes::to_hex;

use super::findings::{Findings, Kind};
use super::peaks::Peaks;
use super::range::{Claim, ClaimBy, Done, RANGE, RANGE_HEIGHT, compare_tile};
use crate::log::{Hash, TILE_HEIGHT, TILE_WIDTH, empty_root};
use crate::store::{Conn, StoreError};

/// The level whose hashes are ranges.
const BOTTOM: u8 = 2;
/// Levels above 1 that a tree of 2^63 entries has.
const MAX_LEVELS: usize = 6;

/// The tree over all full ranges so far. This is all that a later run needs to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// Full ranges.
    ranges: u64,
    /// The hashes of the partial tile of level 2, 3 and so on.
    levels: Vec<Vec<Hash>>,
    peaks: Peaks,
}

/// The levels given are not those of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hashes are not those of a tree of that size")]
pub(super) struct NoTree;

impl Tree {
    /// A tree of `entries` entries from the hashes of its partial tiles above level 1.
    pub(super) fn restore(entries: u64, levels: Vec<Vec<Hash>>) -> Result<Self, NoTree> {
        let ranges = entries / RANGE;
        let mut peaks = Peaks::default();
        let mut left = ranges;
        for hashes in &levels {
            if hashes.len() as u64 != left % TILE_WIDTH as u64 {
                return Err(NoTree);
            }
            left /= TILE_WIDTH as u64;
        }
        if left > 0 || levels.len() > MAX_LEVELS || !entries.is_multiple_of(RANGE) {
            return Err(NoTree);
        }
        // The largest blocks come first.
        let heights: Vec<u32> = (0u32..).take(levels.len()).collect();
        for (height, hashes) in heights.iter().zip(&levels).rev() {
            for hash in hashes {
                peaks.push(RANGE_HEIGHT + height * TILE_HEIGHT, *hash);
            }
        }
        Ok(Self { ranges, levels, peaks })
    }

    /// Entries in it.
    pub(super) fn entries(&self) -> u64 {
        self.ranges * RANGE
    }

    /// The hashes of its partial tiles above level 1.
    pub(super) fn levels(&self) -> &[Vec<Hash>] {
        &self.levels
    }

    /// Adds a full range; a tile that is full by it is compared with the stored one.
    fn push(&mut self, conn: &mut Conn, hash: Hash, findings: &Findings) -> Result<(), StoreError> {
        self.ranges += 1;
        self.peaks.push(RANGE_HEIGHT, hash);
        let (mut carry, mut tiles) = (hash, self.ranges);
        for level in 0usize.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(carry);
            if self.levels[level].len() < TILE_WIDTH {
                break;
            }
            let full = std::mem::take(&mut self.levels[level]);
            tiles /= TILE_WIDTH as u64;
            compare_tile(conn, (level_of(level), tiles - 1), &full.concat(), findings)?;
            carry = root_of(&full);
        }
        Ok(())
    }

    /// Compares the partial tiles at the right edge with the stored ones.
    fn compare_edge(&self, conn: &mut Conn, findings: &Findings) -> Result<(), StoreError> {
        let mut full_tiles = self.ranges;
        for (level, hashes) in self.levels.iter().enumerate() {
            full_tiles /= TILE_WIDTH as u64;
            if !hashes.is_empty() {
                compare_tile(conn, (level_of(level), full_tiles), &hashes.concat(), findings)?;
            }
        }
        Ok(())
    }
}

fn level_of(above_bottom: usize) -> u8 {
    u8::try_from(above_bottom).map_or(u8::MAX, |level| level.saturating_add(BOTTOM))
}

fn root_of(hashes: &[Hash]) -> Hash {
    let mut peaks = Peaks::default();
    for hash in hashes {
        peaks.push(0, *hash);
    }
    peaks.root(None).unwrap_or_else(empty_root)
}

/// A claim that the entries do not bear out.
struct Wrong {
    claim: Claim,
    computed: Hash,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (computed, claimed) = (to_hex(&self.computed), to_hex(&self.claim.root));
        match self.claim.by {
            ClaimBy::Head => write!(f, "the entries give the root {computed}, not {claimed}"),
            ClaimBy::Marker => {
                write!(f, "the root {claimed} was announced, but the entries give {computed}")
            }
        }
    }
}

/// Takes the ranges in order.
pub(super) struct Joiner<'a> {
    pub(super) tree: Tree,
    findings: &'a Findings,
    /// The first signed root that is wrong; one altered entry makes all later ones wrong.
    wrong: Option<Wrong>,
    more: u64,
    /// Entries are missing: roots behind them cannot be told.
    blind: bool,
    ragged: Option<Hash>,
}

impl<'a> Joiner<'a> {
    /// Goes on from `tree`.
    pub(super) fn new(tree: Tree, findings: &'a Findings) -> Self {
        Self { tree, findings, wrong: None, more: 0, blind: false, ragged: None }
    }

    /// Takes the next range.
    pub(super) fn take(&mut self, conn: &mut Conn, done: Done) -> Result<(), StoreError> {
        self.blind |= done.blind;
        for (claim, part) in done.claims {
            let computed = self.tree.peaks.root(Some(part)).unwrap_or_else(empty_root);
            self.judge(Wrong { claim, computed });
        }
        self.ragged = done.ragged;
        match done.full {
            Some(hash) if !self.blind => self.tree.push(conn, hash, self.findings),
            _ => Ok(()),
        }
    }

    fn judge(&mut self, made: Wrong) {
        if self.blind || made.computed == made.claim.root {
            return;
        }
        match made.claim.by {
            ClaimBy::Marker => {
                let what = made.to_string();
                self.findings.add(Kind::Marker, made.claim.size, "head.marker".into(), what);
            }
            ClaimBy::Head if self.wrong.is_none() => self.wrong = Some(made),
            ClaimBy::Head => self.more += 1,
        }
    }

    /// After the last range: the right edge, and what was wrong. The tree as far as its ranges
    /// are full, and the root of all.
    pub(super) fn finish(self, conn: &mut Conn) -> Result<(Tree, Option<Hash>), StoreError> {
        if let Some(wrong) = &self.wrong {
            let mut what = wrong.to_string();
            if self.more > 0 {
                what.push_str(&format!("; so it is with {} later heads", self.more));
            }
            let size = wrong.claim.size;
            self.findings.add(Kind::Root, size, format!("heads {size}"), what);
        }
        if self.blind {
            return Ok((self.tree, None));
        }
        self.tree.compare_edge(conn, self.findings)?;
        let root = self.tree.peaks.root(self.ragged).unwrap_or_else(empty_root);
        Ok((self.tree, Some(root)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::subtree_root;
    use sha2::{Digest as _, Sha256};

    fn ranges(n: u64) -> Vec<Hash> {
        (0..n).map(|i| Sha256::digest(i.to_be_bytes()).into()).collect()
    }

    /// The partial tiles over these ranges, by the builder's code.
    fn levels(mut row: Vec<Hash>) -> Vec<Vec<Hash>> {
        let mut levels = Vec::new();
        while !row.is_empty() {
            let (full, rest) = row.split_at(row.len() / TILE_WIDTH * TILE_WIDTH);
            levels.push(rest.to_vec());
            row = full.chunks(TILE_WIDTH).map(subtree_root).collect();
        }
        levels
    }

    #[test]
    fn a_tree_is_restored_from_its_edge_and_has_the_same_root() {
        for n in [0, 1, 2, 255, 256, 257, 511, 512, 70_000] {
            let all = ranges(n);
            let tree = Tree::restore(n * RANGE, levels(all.clone())).unwrap();
            assert_eq!(tree.entries(), n * RANGE);
            let root = (n > 0).then(|| subtree_root(&all));
            assert_eq!(tree.peaks.root(None), root, "{n} ranges");
        }
    }

    #[test]
    fn other_numbers_of_hashes_are_no_tree() {
        let good = levels(ranges(300));
        assert_eq!(Tree::restore(300 * RANGE + 1, good.clone()), Err(NoTree));
        assert_eq!(Tree::restore(301 * RANGE, good.clone()), Err(NoTree));
        assert_eq!(Tree::restore(300 * RANGE, good[..1].to_vec()), Err(NoTree));
        let mut more = good.clone();
        more[1].push([0; 32]);
        assert_eq!(Tree::restore(300 * RANGE, more), Err(NoTree));
        assert!(Tree::restore(300 * RANGE, good).is_ok());
    }
}
