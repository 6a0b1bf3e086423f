//! Verdicts about the tree: entries, tiles and bundles under a head.

use super::super::{Leaf, Resource};
use super::heads::wrong_empty_root;
use super::{JudgementError, Shown, Standing, Trial, unfounded};
use crate::checkpoint::Checkpoint;
use crate::entry::{Entry, split_bundle};
use crate::merkle::{CompactRange, Hash, full_root, leaf_hash, verify_inclusion};
use crate::tile::{WIDTH, spans};

/// Words that end what is only observed.
const WORD: &str = "that this was served is the word of who wrote this";

/// A resource's place: `entries` or a level, the tile's index, and how many leaves or hashes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) level: Option<u8>,
    pub(super) tile: u64,
    width: u16,
}

/// A root that the tree does not have.
pub(super) fn root(trial: &Trial<'_>) -> Shown {
    let shown = trial.shown()?;
    let held = trial.evidence.held.is_some().then(|| trial.held()).transpose()?;
    for head in held.iter().chain([&shown]) {
        if wrong_empty_root(head) {
            let shows = "the log signed a head without entries and with a root of some";
            return Ok((Standing::Proof, shows.to_owned()));
        }
    }
    let size = shown.checkpoint.size;
    if trial.evidence.resources.is_empty() {
        let shows = format!(
            "the log signed a head of {size} entries; that what it serves does not lead to its \
             root is the word of who wrote this"
        );
        return Ok((Standing::Observation, shows));
    }
    let older = match &held {
        None => CompactRange::new(),
        Some(held) => {
            let peaks = trial.evidence.peaks.clone();
            let older = CompactRange::from_peaks(held.checkpoint.size, peaks);
            let older = older.map_err(|_| unfounded("the peaks are not those of the head"))?;
            if older.root() != held.checkpoint.root {
                return Err(unfounded("the peaks are not those of the head"));
            }
            older
        }
    };
    let rebuilt = grown(older, &shown.checkpoint, &trial.evidence.resources)?;
    if rebuilt == shown.checkpoint.root {
        return Err(unfounded("the entries in the file lead to the signed root"));
    }
    let shows =
        format!("the entries in it do not lead to the root of the signed head of {size}; {WORD}");
    Ok((Standing::Observation, shows))
}

/// The root of the older tree and the entries after it, from their bundles.
fn grown(
    mut tree: CompactRange,
    head: &Checkpoint,
    resources: &[Resource],
) -> Result<Hash, JudgementError> {
    let from = tree.size();
    // A span without its bundle ends this, so a huge size in a head costs nothing.
    for span in spans(from, head.size) {
        let paths = [(span.bundle_path(), span.width), (span.full().bundle_path(), 256)];
        let found = paths.iter().find_map(|(path, width)| {
            let served = resources.iter().find(|served| served.path == *path)?;
            Some((served, *width))
        });
        let (served, width) = found.ok_or(JudgementError::Part { part: "resources" })?;
        let entries = split_bundle(&served.bytes, width)
            .map_err(|_| unfounded("a bundle in the file cannot be cut"))?;
        let new = entries.iter().take(span.width.into()).skip(span.skip.into());
        new.for_each(|entry| tree.append(leaf_hash(entry)));
    }
    Ok(tree.root())
}

/// An entry that is not the one under its leaf hash.
pub(super) fn entry(trial: &Trial<'_>) -> Shown {
    let (head, leaf, tile) = leaf_and_tile(trial)?;
    let (index, size) = (leaf.index, head.size);
    if verify_inclusion(&tile, index, size, &leaf.path, &head.root).is_err() {
        return Err(unfounded("the hash in the tile is not under the signed root"));
    }
    let shows = format!(
        "the signed tree of {size} entries has another one at leaf {index} than the one in it; \
         {WORD}"
    );
    Ok((Standing::Observation, shows))
}

/// A tile that is not of the tree, or of another width.
pub(super) fn tile(trial: &Trial<'_>) -> Shown {
    if trial.evidence.leaves.is_empty() {
        return tile_alone(trial);
    }
    let (head, leaf, _) = leaf_and_tile(trial)?;
    let (index, size) = (leaf.index, head.size);
    let hash = leaf_hash(&leaf.entry);
    let shows = if verify_inclusion(&hash, index, size, &leaf.path, &head.root).is_ok() {
        format!(
            "the signed tree of {size} entries has another hash at leaf {index} than the tile in \
             it; {WORD}"
        )
    } else {
        format!("the tile and the entry in it differ at leaf {index}; {WORD}")
    };
    Ok((Standing::Observation, shows))
}

/// The head, the leaf, and the hash that the tile has for it, which is not the entry's.
fn leaf_and_tile<'a>(trial: &Trial<'a>) -> Result<(Checkpoint, &'a Leaf, Hash), JudgementError> {
    let head = trial.shown()?.checkpoint;
    let leaf = trial.evidence.leaves.first().ok_or(JudgementError::Part { part: "leaves" })?;
    let tile = trial.evidence.resources.first();
    let tile = tile.ok_or(JudgementError::Part { part: "resources" })?;
    let place = place(&tile.path).filter(|place| place.level == Some(0));
    let here = place.is_some_and(|place| place.tile == leaf.index / WIDTH);
    if !here || leaf.index >= head.size {
        return Err(unfounded("the tile in the file is not the leaf's"));
    }
    let at = usize::try_from(leaf.index % WIDTH).unwrap_or(usize::MAX);
    let hash = tile.bytes.as_chunks::<32>().0.get(at);
    let hash = *hash.ok_or(unfounded("the tile in the file does not reach the leaf"))?;
    if hash == leaf_hash(&leaf.entry) {
        return Err(unfounded("tile and entry agree"));
    }
    Ok((head, leaf, hash))
}

/// A tile of the wrong length, or one that is not made of the tile below it.
fn tile_alone(trial: &Trial<'_>) -> Shown {
    let size = trial.shown()?.checkpoint.size;
    let [upper, rest @ ..] = &trial.evidence.resources[..] else {
        return Err(JudgementError::Part { part: "resources" });
    };
    let at = place(&upper.path).filter(|at| at.lies_under(size));
    let (at, level) = at
        .and_then(|at| at.level.map(|level| (at, level)))
        .ok_or(unfounded("the head does not imply that tile"))?;
    let (hashes, odd) = upper.bytes.as_chunks::<32>();
    let path = &upper.path;
    if !odd.is_empty() || hashes.len() != usize::from(at.width) {
        let width = at.width;
        let shows = format!("the tile {path} in it does not have its {width} hashes; {WORD}");
        return Ok((Standing::Observation, shows));
    }
    for lower in rest {
        let Some(below) = place(&lower.path) else { continue };
        let first = at.tile * WIDTH;
        let child = below.level.is_some_and(|below| below.checked_add(1) == Some(level));
        let position = below.tile.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        let Some(hash) = position.and_then(|at| hashes.get(at)).filter(|_| child) else { continue };
        let (row, odd) = lower.bytes.as_chunks::<32>();
        if odd.is_empty() && row.len() == 256 && full_root(&mut row.to_vec()) != *hash {
            let shows = format!("the tile {path} in it is not made of {}; {WORD}", lower.path);
            return Ok((Standing::Observation, shows));
        }
    }
    Err(unfounded("the tiles in the file are whole and fit each other"))
}

/// An entry of the tree that is none.
pub(super) fn bad_entry(trial: &Trial<'_>) -> Shown {
    let head = trial.shown()?.checkpoint;
    if let Some(leaf) = trial.evidence.leaves.first() {
        let hash = leaf_hash(&leaf.entry);
        let (index, size) = (leaf.index, head.size);
        verify_inclusion(&hash, index, size, &leaf.path, &head.root)
            .map_err(|_| unfounded("the entry is not under the signed root"))?;
        return match Entry::parse(&leaf.entry) {
            Ok(_) => Err(unfounded("the entry is well formed")),
            Err(cause) => {
                let shows = format!("the log signed a tree with a leaf {index} of which {cause}");
                Ok((Standing::Proof, shows))
            }
        };
    }
    let bundle = trial.evidence.resources.first();
    let bundle = bundle.ok_or(JudgementError::Part { part: "resources" })?;
    let at = place(&bundle.path).filter(|at| at.level.is_none() && at.lies_under(head.size));
    let at = at.ok_or(unfounded("the head does not imply that bundle"))?;
    match split_bundle(&bundle.bytes, at.width) {
        Ok(_) => Err(unfounded("the bundle can be cut into its entries")),
        Err(cause) => {
            let shows = format!("in the bundle {} in it, {cause}; {WORD}", bundle.path);
            Ok((Standing::Observation, shows))
        }
    }
}

impl Place {
    /// Whether a tree of that size has a hash or entry there.
    fn lies_under(&self, size: u64) -> bool {
        let height = u32::from(self.level.unwrap_or(0)) * 8;
        let row = size.checked_shr(height).unwrap_or(0);
        self.tile < row.div_ceil(WIDTH)
    }
}

/// Reads a path of tiles: `tile/<level>|entries/<groups of three digits>[.p/<W>]`.
pub(super) fn place(path: &str) -> Option<Place> {
    let (level, number) = path.strip_prefix("tile/")?.split_once('/')?;
    let level = if level == "entries" { None } else { Some(level.parse().ok()?) };
    let (number, width) = match number.split_once(".p/") {
        None => (number, 256),
        Some((number, width)) => (number, width.parse().ok()?),
    };
    let mut tile: u64 = 0;
    for group in number.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        let digits: u64 = digits.parse().ok().filter(|digits| *digits < 1000)?;
        tile = tile.checked_mul(1000)?.checked_add(digits)?;
    }
    // A tile's index times 256 has to be a number of leaves.
    (tile < 1 << 55 && width > 0 && width <= 256).then_some(Place { level, tile, width })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::level_path;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_place_is_its_path(level in 0u8..64, tile in 0u64..1 << 55, width in 1u16..=256) {
            let read = place(&level_path(level, tile, width));
            prop_assert_eq!(read, Some(Place { level: Some(level), tile, width }));
        }

        #[test]
        fn no_path_panics(path: String, tail in "tile/(entries|0|256)/[x0-9/.p]*") {
            let _ = place(&path);
            let _ = place(&tail);
        }
    }
}
