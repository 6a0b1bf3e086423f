//! The rebuild: new entries hashed into the tree of an older head, beside the tiles.
//!
//! Two trees grow from the same remembered peaks: one from the hashes of the entries, one from
//! the leaf hashes in the level 0 tiles. Both must end at the signed root. When they do not, it
//! is their difference that tells which of the two the log altered:
//!
//! | entries lead to the root | tiles lead to the root | verdict |
//! |---|---|---|
//! | yes | yes | right (or [`Finding::BadEntry`], when a committed entry is malformed) |
//! | no | yes | [`Finding::EntryMismatch`] at the first leaf that differs |
//! | yes | no | [`Finding::TileMismatch`] at the first leaf that differs |
//! | no | no | [`Finding::TileMismatch`] if they differ, else [`Finding::RootMismatch`] |
//!
//! No I/O here: [`Rebuild::add`] takes bytes, whoever fetched them.

use crate::checkpoint::Checkpoint;
use crate::entry::{Entry, EntryError, split_bundle};
use crate::finding::Finding;
use crate::merkle::{CompactRange, Hash, leaf_hash};
use crate::tile::{self, Span};

/// A tile and the entries under it, as they were served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What was asked for.
    pub span: Span,
    /// The level 0 tile.
    pub tile: Served,
    /// The entry bundle.
    pub bundle: Served,
}

/// A resource, maybe the full one in place of a partial one that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The path it came from.
    pub path: String,
    /// Leaves it has by that path: the span's, or 256.
    pub width: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The two trees, from an older head towards a newer one.
#[derive(Debug, Clone)]
pub struct Rebuild {
    entries: CompactRange,
    tiles: CompactRange,
    differs: Option<Difference>,
    malformed: Option<(u64, EntryError)>,
}

/// Where an entry and its tile first disagree.
#[derive(Debug, Clone, Copy)]
struct Difference {
    index: u64,
    tile: Hash,
    entry: Hash,
}

impl Rebuild {
    /// Starts from the tree of a head that was verified before.
    #[must_use]
    pub fn from(verified: CompactRange) -> Self {
        Self { entries: verified.clone(), tiles: verified, differs: None, malformed: None }
    }

    /// Leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries.size()
    }

    /// Adds the new leaves of `chunk`, which must be the one after the last.
    ///
    /// # Errors
    /// [`Finding::BadTile`] or [`Finding::BadBundle`] for bytes that cannot be cut into leaves.
    /// All else waits for [`Self::finish`], because the cause shows only at the root.
    pub fn add(&mut self, chunk: &Chunk) -> Result<(), Finding> {
        let (tile, bundle) = (&chunk.tile, &chunk.bundle);
        let hashes = tile::hashes(&tile.bytes, tile.width).ok_or_else(|| Finding::BadTile {
            path: tile.path.clone(),
            width: tile.width,
            bytes: tile.bytes.len(),
        })?;
        let entries = split_bundle(&bundle.bytes, bundle.width)
            .map_err(|cause| Finding::BadBundle { path: bundle.path.clone(), cause })?;
        let Span { skip, width, .. } = chunk.span;
        let leaves = hashes.into_iter().zip(entries).take(width.into()).skip(skip.into());
        for (hash, entry) in leaves {
            self.append(hash, entry);
        }
        Ok(())
    }

    fn append(&mut self, tile: Hash, entry: &[u8]) {
        let index = self.size();
        let hash = leaf_hash(entry);
        if hash != tile {
            self.differs.get_or_insert(Difference { index, tile, entry: hash });
        }
        if let Err(cause) = Entry::parse(entry) {
            self.malformed.get_or_insert((index, cause));
        }
        self.entries.append(hash);
        self.tiles.append(tile);
    }

    /// The tree of `head`, if what was added leads there.
    ///
    /// # Errors
    /// The [`Finding`] of the table above.
    pub fn finish(self, head: &Checkpoint) -> Result<CompactRange, Finding> {
        let (entries, tiles) = (self.entries.root(), self.tiles.root());
        match self.differs {
            None if entries == head.root => self
                .malformed
                .map_or(Ok(self.entries), |(index, cause)| Err(Finding::BadEntry { index, cause })),
            None => {
                Err(Finding::RootMismatch { size: head.size, signed: head.root, rebuilt: entries })
            }
            Some(Difference { index, tile, entry }) if tiles == head.root => {
                Err(Finding::EntryMismatch { index, tile, entry })
            }
            Some(Difference { index, tile, entry }) => {
                Err(Finding::TileMismatch { index, tile, entry })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::BundleError;
    use crate::testlog::{bundle, enc, oracle_root, unhex, vector};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    fn entries(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|n| enc("nexo/1/leaf", &[&[2], &[n; 32]])).collect()
    }

    fn chunk(entries: &[Vec<u8>], hashes: &[Hash], skip: u16) -> Chunk {
        let width = u16::try_from(entries.len()).unwrap();
        let served = |path: &str, bytes| Served { path: path.into(), width, bytes };
        Chunk {
            span: Span { tile: 0, width, skip },
            tile: served("tile", hashes.concat()),
            bundle: served("bundle", bundle(entries)),
        }
    }

    fn hashes(entries: &[Vec<u8>]) -> Vec<Hash> {
        entries.iter().map(|e| leaf_hash(e)).collect()
    }

    fn head(hashes: &[Hash]) -> Checkpoint {
        Checkpoint { origin: "log".into(), size: hashes.len() as u64, root: oracle_root(hashes) }
    }

    fn rebuild(chunk: &Chunk, head: &Checkpoint) -> Result<CompactRange, Finding> {
        let mut rebuild = Rebuild::from(CompactRange::new());
        rebuild.add(chunk)?;
        rebuild.finish(head)
    }

    #[test]
    fn right_entries_lead_to_the_head_from_any_older_one() {
        let all = entries(20);
        let hashes = hashes(&all);
        let mut older = CompactRange::new();
        for skip in 0..20u16 {
            let mut rebuild = Rebuild::from(older.clone());
            rebuild.add(&chunk(&all, &hashes, skip)).unwrap();
            assert_eq!(rebuild.finish(&head(&hashes)).unwrap().root(), oracle_root(&hashes));
            older.append(hashes[usize::from(skip)]);
        }
    }

    #[test]
    fn a_full_resource_stands_in_for_a_partial_one() {
        let all = entries(20);
        let hashes = hashes(&all);
        let mut chunk = chunk(&all, &hashes, 0);
        chunk.span.width = 15;
        let head = head(&hashes[..15]);
        assert_eq!(rebuild(&chunk, &head).unwrap().size(), 15);
    }

    #[test]
    fn who_was_altered_shows_in_the_verdict() {
        let good = entries(9);
        let honest = hashes(&good);
        let mut altered = good.clone();
        altered[4] = enc("nexo/1/leaf", &[&[2], &[99; 32]]);
        let lied = hashes(&altered);
        let (tile, entry) = (honest[4], lied[4]);
        // The entry alone, the tile alone, both alike, both differently.
        assert_eq!(
            rebuild(&chunk(&altered, &honest, 0), &head(&honest)),
            Err(Finding::EntryMismatch { index: 4, tile, entry })
        );
        assert_eq!(
            rebuild(&chunk(&good, &lied, 0), &head(&honest)),
            Err(Finding::TileMismatch { index: 4, tile: entry, entry: tile })
        );
        let (signed, rebuilt) = (oracle_root(&honest), oracle_root(&lied));
        assert_eq!(
            rebuild(&chunk(&altered, &lied, 0), &head(&honest)),
            Err(Finding::RootMismatch { size: 9, signed, rebuilt })
        );
        let mut both = lied.clone();
        both[7] = [1; 32];
        assert_eq!(
            rebuild(&chunk(&altered, &both, 0), &head(&honest)),
            Err(Finding::TileMismatch { index: 7, tile: [1; 32], entry: honest[7] })
        );
    }

    #[test]
    fn swapped_entries_are_found_at_the_first() {
        let good = entries(9);
        let mut swapped = good.clone();
        swapped.swap(2, 3);
        let found = rebuild(&chunk(&swapped, &hashes(&good), 0), &head(&hashes(&good)));
        assert!(matches!(found, Err(Finding::EntryMismatch { index: 2, .. })));
    }

    #[test]
    fn a_malformed_entry_counts_only_in_the_right_tree() {
        let mut all = entries(5);
        all[3] = b"junk".to_vec();
        let honest = hashes(&all);
        let found = rebuild(&chunk(&all, &honest, 0), &head(&honest));
        assert_eq!(found, Err(Finding::BadEntry { index: 3, cause: EntryError::Truncated }));
        // The same junk where the tree has another entry is first of all another entry.
        let found = rebuild(&chunk(&all, &hashes(&entries(5)), 0), &head(&hashes(&entries(5))));
        assert!(matches!(found, Err(Finding::EntryMismatch { index: 3, .. })));
    }

    #[test]
    fn what_cannot_be_cut_is_named() {
        let all = entries(5);
        let honest = hashes(&all);
        let mut short = chunk(&all, &honest, 0);
        short.bundle.bytes.truncate(short.bundle.bytes.len() - 1);
        let cause = BundleError::Truncated { position: 4 };
        let path = "bundle".to_owned();
        let bad = Finding::BadBundle { path, cause };
        assert_eq!(rebuild(&short, &head(&honest)), Err(bad));
        let mut short = chunk(&all, &honest, 0);
        short.tile.bytes.pop();
        let bad = Finding::BadTile { path: "tile".into(), width: 5, bytes: 159 };
        assert_eq!(rebuild(&short, &head(&honest)), Err(bad));
    }

    /// The entries of that log are not Nexo's, which shows only where the tree is right.
    #[test]
    fn a_foreign_log_is_rebuilt_at_every_size() {
        let log = vector("tlog/tessera-testlog.json");
        let served = |path: &str, width| Served {
            path: path.to_owned(),
            width,
            bytes: STANDARD.decode(log["tiles"][path].as_str().unwrap()).unwrap(),
        };
        for (size, known) in (0u16..).zip(log["checkpoints"].as_array().unwrap()) {
            let root: Hash = unhex(&known["root_hex"]).try_into().unwrap();
            let head = Checkpoint { origin: "log".into(), size: size.into(), root };
            let mut rebuild = Rebuild::from(CompactRange::new());
            for span in tile::spans(0, size.into()) {
                let tile = served(&span.tile_path(), size);
                let bundle = served(&span.bundle_path(), size);
                rebuild.add(&Chunk { span, tile, bundle }).unwrap();
            }
            assert_eq!(rebuild.entries.root(), root, "entries of size {size}");
            assert_eq!(rebuild.tiles.root(), root, "tiles of size {size}");
            let found = rebuild.finish(&head);
            let foreign = Finding::BadEntry { index: 0, cause: EntryError::Truncated };
            assert_eq!(found.err(), (size > 0).then_some(foreign));
        }
    }

    #[test]
    fn too_few_leaves_are_no_tree_of_that_size() {
        let all = entries(5);
        let honest = hashes(&all);
        let found = rebuild(&chunk(&all[..4], &honest[..4], 0), &head(&honest));
        assert!(matches!(found, Err(Finding::RootMismatch { size: 5, .. })));
    }
}
