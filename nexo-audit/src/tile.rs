//! Where leaves lie: tiles and entry bundles (C2SP tlog-tiles), as arithmetic and paths.
//!
//! ```text
//! tile/<level>/<N>[.p/<W>]       hashes, 32 bytes each; level 0 holds leaf hashes
//! tile/entries/<N>[.p/<W>]       the entries under a level 0 tile
//!
//! N = 1234067  ->  x001/x234/067        W = 1..255, absent when all 256 are there
//! ```
//!
//! Only level 0 and entries are asked for: the rebuild needs no inner node, and takes none on
//! trust. Tiles of higher levels serve people who make proofs, and a wrong one there makes a
//! proof that does not verify.

use crate::merkle::Hash;

/// Leaves of a full tile or bundle.
pub const WIDTH: u64 = 256;

/// The leaves of one tile that a newer head adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The tile's index.
    pub tile: u64,
    /// Leaves in the tile under the newer head, 1 to 256.
    pub width: u16,
    /// Leaves of it that the older head already had, 0 to 255.
    pub skip: u16,
}

impl Span {
    /// Index in the log of the first leaf of the tile.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.tile * WIDTH
    }

    /// Path of the leaf hashes.
    #[must_use]
    pub fn tile_path(&self) -> String {
        self.path("tile/0")
    }

    /// Path of the entries.
    #[must_use]
    pub fn bundle_path(&self) -> String {
        self.path("tile/entries")
    }

    /// The same tile with all its 256 leaves, which replaces its partial ones once it exists.
    #[must_use]
    pub fn full(&self) -> Self {
        Self { width: 256, ..*self }
    }

    /// Whether fewer than 256 leaves are asked for.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        u64::from(self.width) < WIDTH
    }

    fn path(&self, prefix: &str) -> String {
        path(prefix, self.tile, self.width)
    }
}

/// Path of the tile with this index at any level, when `width` of its hashes are asked for.
#[must_use]
pub fn level_path(level: u8, tile: u64, width: u16) -> String {
    path(&format!("tile/{level}"), tile, width)
}

fn path(prefix: &str, tile: u64, width: u16) -> String {
    let number = grouped(tile);
    if u64::from(width) < WIDTH {
        format!("{prefix}/{number}.p/{width}")
    } else {
        format!("{prefix}/{number}")
    }
}

/// The tiles that hold the leaves `from..to`, in order.
pub fn spans(from: u64, to: u64) -> impl Iterator<Item = Span> {
    // Sizes are below 2^63, so the end of a tile does not overflow.
    let all = (from / WIDTH..to.div_ceil(WIDTH)).map(move |tile| {
        let start = tile * WIDTH;
        Span { tile, width: within(to - start), skip: within(from.saturating_sub(start)) }
    });
    all.filter(|span| span.skip < span.width)
}

/// A number of leaves, cut to one tile.
fn within(leaves: u64) -> u16 {
    u16::try_from(leaves.min(WIDTH)).unwrap_or(256)
}

/// The hashes of a tile; `None` when the bytes are not `width` of them.
#[must_use]
pub fn hashes(bytes: &[u8], width: u16) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && hashes.len() == usize::from(width)).then(|| hashes.to_vec())
}

/// A tile index in groups of three digits, all but the last with an `x`.
fn grouped(mut index: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    while index >= 1000 {
        index /= 1000;
        text = format!("x{:03}/{text}", index % 1000);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn indexes_are_grouped_as_the_specification_says() {
        for (index, text) in [
            (0, "000"),
            (5, "005"),
            (999, "999"),
            (1000, "x001/000"),
            (1_234_067, "x001/x234/067"),
            (1_000_000, "x001/x000/000"),
            (u64::MAX, "x018/x446/x744/x073/x709/x551/615"),
        ] {
            assert_eq!(grouped(index), text);
        }
    }

    #[test]
    fn spans_cover_what_is_new() {
        let all = |from, to| spans(from, to).map(|s| (s.tile, s.width, s.skip)).collect::<Vec<_>>();
        assert_eq!(all(0, 0), []);
        assert_eq!(all(7, 7), []);
        assert_eq!(all(300, 300), []);
        assert_eq!(all(0, 1), [(0, 1, 0)]);
        assert_eq!(all(0, 256), [(0, 256, 0)]);
        assert_eq!(all(0, 257), [(0, 256, 0), (1, 1, 0)]);
        assert_eq!(all(256, 300), [(1, 44, 0)]);
        assert_eq!(all(300, 600), [(1, 256, 44), (2, 88, 0)]);
        let span = spans(300, 600).next().unwrap();
        assert_eq!(span.tile_path(), "tile/0/001");
        assert_eq!(span.bundle_path(), "tile/entries/001");
        let span = spans(70_000 - 1, 70_000).next().unwrap();
        assert_eq!(span.tile_path(), "tile/0/273.p/112");
        assert_eq!(span.bundle_path(), "tile/entries/273.p/112");
        assert_eq!(span.full().bundle_path(), "tile/entries/273");
        assert_eq!(level_path(1, 1, 17), "tile/1/001.p/17");
        assert_eq!(level_path(2, 1_234_067, 256), "tile/2/x001/x234/067");
    }

    #[test]
    fn a_tile_has_exactly_its_hashes() {
        let bytes = [[1; 32], [2; 32]].concat();
        assert_eq!(hashes(&bytes, 2), Some(vec![[1; 32], [2; 32]]));
        assert_eq!(hashes(&bytes, 1), None);
        assert_eq!(hashes(&bytes, 3), None);
        assert_eq!(hashes(&bytes[1..], 2), None);
    }

    proptest! {
        #[test]
        fn every_new_leaf_is_in_one_span(from in 0u64..5000, more in 0u64..3000) {
            let to = from + more;
            let leaves: Vec<u64> = spans(from, to)
                .flat_map(|s| s.start() + u64::from(s.skip)..s.start() + u64::from(s.width))
                .collect();
            prop_assert_eq!(leaves, (from..to).collect::<Vec<_>>());
        }
    }
}
