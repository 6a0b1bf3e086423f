//! The tiles above the leaves, beside the hashes that the leaves make.
//!
//! ```text
//! level 2   | hashes of level 1 tiles ...
//! level 1   | hash of tile 0 | hash of tile 1 | ...      256 to a tile
//! level 0   | 256 leaves     | 256 leaves     | ...
//! ```
//!
//! Only full tiles have a hash in the level above (C2SP tlog-tiles). Per level there is one tile
//! in the making, so the memory is that of a few tiles however large the log is.

use crate::download::{MAX_TILE, served};
use crate::fetch::Source;
use crate::finding::Finding;
use crate::merkle::{Hash, full_root};
use crate::tile::{WIDTH, level_path};

/// Every level from 1 on.
pub(super) struct Levels<'a, S> {
    source: &'a S,
    rows: Vec<Row>,
    /// The first difference, which counts when the leaves lead to the signed root.
    pub(super) differs: Option<Finding>,
    /// Roots of level 1 tiles: units of the tree.
    pub(super) units: Vec<Hash>,
    /// Tiles that were compared.
    pub(super) compared: u64,
}

/// The tile in the making of one level.
#[derive(Default)]
struct Row {
    tile: u64,
    hashes: Vec<Hash>,
}

impl<'a, S: Source> Levels<'a, S> {
    pub(super) fn new(source: &'a S) -> Self {
        Self { source, rows: Vec::new(), differs: None, units: Vec::new(), compared: 0 }
    }

    /// Starts after units whose level 1 tiles were compared before.
    pub(super) async fn after(source: &'a S, units: Vec<Hash>) -> Result<Self, Finding> {
        let mut levels = Self::new(source);
        levels.rows.push(Row { tile: units.len() as u64, hashes: Vec::new() });
        for unit in &units {
            levels.push(1, *unit).await?;
        }
        levels.units = units;
        Ok(levels)
    }

    /// Adds the roots of the next level 0 tiles.
    pub(super) async fn add(&mut self, tiles: &[Hash]) -> Result<(), Finding> {
        for tile in tiles {
            self.push(0, *tile).await?;
        }
        Ok(())
    }

    /// Compares the partial tiles at the right edge.
    pub(super) async fn finish(&mut self) -> Result<(), Finding> {
        for row in 0..self.rows.len() {
            if !self.rows[row].hashes.is_empty() {
                self.compare(row).await?;
            }
        }
        Ok(())
    }

    /// Row 0 is level 1.
    async fn push(&mut self, mut row: usize, mut hash: Hash) -> Result<(), Finding> {
        loop {
            if row == self.rows.len() {
                self.rows.push(Row::default());
            }
            let hashes = &mut self.rows[row].hashes;
            hashes.push(hash);
            if (hashes.len() as u64) < WIDTH {
                return Ok(());
            }
            self.compare(row).await?;
            let Row { tile, hashes } = &mut self.rows[row];
            hash = full_root(hashes);
            hashes.clear();
            *tile += 1;
            if row == 0 {
                self.units.push(hash);
            }
            row += 1;
        }
    }

    /// Fetches the tile that this row should be.
    async fn compare(&mut self, row: usize) -> Result<(), Finding> {
        let Row { tile, hashes } = &self.rows[row];
        // 63 bits of size are 8 levels, and a row has at most 256 hashes.
        let level = u8::try_from(row + 1).unwrap_or(u8::MAX);
        let width = u16::try_from(hashes.len()).unwrap_or(256);
        let path_of = |width| level_path(level, *tile, width);
        let found = served(self.source, width, MAX_TILE, path_of).await?;
        self.compared += 1;
        let mut pairs = (0u16..).zip(found.hashes()?.iter().zip(hashes));
        if let Some((position, (tile, rebuilt))) = pairs.find(|(_, (tile, made))| tile != made) {
            let (path, tile, rebuilt) = (found.path.clone(), *tile, *rebuilt);
            self.differs.get_or_insert(Finding::UpperTile { path, position, tile, rebuilt });
        }
        Ok(())
    }
}
