//! The newest tiles in memory, so that a fresh receipt costs no database read.
//!
//! Published with each head. Not a cache: it holds the tiles of one batch and
//! the right edge, and goes when the head does.

use super::proof::Tiles;
use super::tree::{Hash, TileWrite, tile_hashes};
use std::collections::BTreeMap;

/// The tiles around a head: those its batch wrote and the whole right edge.
/// Enough for the inclusion path of every leaf of that batch in that head, so
/// that a fresh receipt's path takes no database read.
#[derive(Debug, Clone, Default)]
pub struct RecentTiles {
    tiles: BTreeMap<(u8, u64), Vec<u8>>,
}

impl RecentTiles {
    pub(super) fn new(tiles: impl IntoIterator<Item = TileWrite>) -> Self {
        Self { tiles: tiles.into_iter().map(|t| ((t.level, t.index), t.hashes)).collect() }
    }

    /// The first `width` hashes of a tile, if they are here.
    #[must_use]
    pub fn tile(&self, level: u8, index: u64, width: u16) -> Option<Vec<Hash>> {
        let bytes = self.tiles.get(&(level, index))?;
        tile_hashes(bytes.get(..usize::from(width) * 32)?)
    }

    /// These tiles, and for those that are not here, `below`.
    pub fn over<'a, T: Tiles>(&'a self, below: &'a mut T) -> Layered<'a, T> {
        Layered { recent: self, below }
    }
}

/// [`RecentTiles`] in front of slower ones.
#[derive(Debug)]
pub struct Layered<'a, T> {
    recent: &'a RecentTiles,
    below: &'a mut T,
}

impl<T: Tiles> Tiles for Layered<'_, T> {
    type Error = T::Error;

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, T::Error> {
        match self.recent.tile(level, index, width) {
            Some(hashes) => Ok(hashes),
            None => self.below.tile(level, index, width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proof::tests::{Absent, MapTiles};
    use super::super::proof::{ProofError, inclusion};
    use super::super::tree::Edge;
    use super::super::tree::tests::leaves;
    use super::*;

    #[test]
    fn recent_tiles_answer_for_their_whole_batch_and_leave_the_rest() {
        struct Nothing;
        impl Tiles for Nothing {
            type Error = Absent;
            fn tile(&mut self, _: u8, _: u64, _: u16) -> Result<Vec<Hash>, Absent> {
                Err(Absent)
            }
        }
        let leaves = leaves(66_500);
        let mut all = MapTiles::of(&leaves);
        let mut edge = Edge::default();
        edge.append(&leaves[..65_300]);
        let mut at = 65_300;
        for batch in [1, 235, 1, 255, 256, 1, 451] {
            let writes = edge.append(&leaves[at..at + batch]);
            let recent = RecentTiles::new(writes.into_iter().chain(edge.partial_tiles()));
            for index in (at..at + batch).map(|i| i as u64) {
                let quick = inclusion(index, edge.size(), &mut recent.over(&mut Nothing));
                assert_eq!(quick.unwrap(), inclusion(index, edge.size(), &mut all).unwrap());
            }
            at += batch;
            let missed = inclusion(5, edge.size(), &mut recent.over(&mut Nothing));
            assert_eq!(missed, Err(ProofError::Tiles(Absent)));
            assert!(inclusion(5, edge.size(), &mut recent.over(&mut all)).is_ok());
        }
        assert_eq!(at, 66_500);
    }
}
