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
//! On its way the tree passes the sizes of older heads ([`Milestone`]). If the entries lead to
//! the new root, they must have led to each of those roots too; one that they did not is
//! [`Finding::Inconsistent`].
//!
//! A tree may be rebuilt in parts that know nothing of each other ([`Rebuild::part`]) and are
//! joined in order ([`Rebuild::join`]); the verdict is the one of a single run.
//!
//! No I/O here: [`Rebuild::add`] takes bytes, whoever fetched them.

use crate::checkpoint::{Checkpoint, SignedHead};
use crate::entry::{Entry, EntryError, split_bundle};
use crate::finding::Finding;
use crate::merkle::{CompactRange, Hash, ProofError, full_root, leaf_hash};
use crate::state::UNIT_LEVEL;
use crate::tile::{Span, WIDTH};
use std::collections::VecDeque;

/// Level of the root of a full tile: 2^8 = 256.
const TILE_LEVEL: u32 = 8;

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

impl Served {
    /// The hashes of a tile.
    ///
    /// # Errors
    /// [`Finding::BadTile`] when the bytes are not as many hashes as its path says.
    pub fn hashes(&self) -> Result<&[Hash], Finding> {
        let (hashes, rest) = self.bytes.as_chunks::<32>();
        if rest.is_empty() && hashes.len() == usize::from(self.width) {
            return Ok(hashes);
        }
        let (path, bytes) = (self.path.clone(), self.bytes.len());
        Err(Finding::BadTile { path, width: self.width, bytes })
    }
}

/// A head that was accepted before: the tree had this root when it had this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milestone {
    /// Number of leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Milestone {
    /// What a signed head says of the tree.
    #[must_use]
    pub fn of(head: &SignedHead) -> Self {
        Self { size: head.checkpoint.size, root: head.checkpoint.root }
    }
}

/// The two trees, from an older head towards a newer one.
#[derive(Debug, Clone)]
pub struct Rebuild {
    /// Where a part begins; 0 for the whole.
    start: u64,
    entries: CompactRange,
    tiles: CompactRange,
    differs: Option<Difference>,
    malformed: Option<(u64, EntryError)>,
    /// Heads to come, by size.
    ahead: VecDeque<Milestone>,
    /// Heads that a part came past, and its own tree there. The whole compares at once.
    passed: Vec<(Milestone, CompactRange)>,
    contradicts: Option<Milestone>,
    tile_roots: Vec<Hash>,
    row: Vec<Hash>,
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
        Self {
            start: 0,
            entries: verified.clone(),
            tiles: verified,
            differs: None,
            malformed: None,
            ahead: VecDeque::new(),
            passed: Vec::new(),
            contradicts: None,
            tile_roots: Vec::new(),
            row: Vec::with_capacity(256),
        }
    }

    /// A part of the tree: leaves from `start` on, which must be a multiple of a power of two
    /// that the part will not have more leaves than.
    #[must_use]
    pub fn part(start: u64) -> Self {
        Self { start, ..Self::from(CompactRange::new()) }
    }

    /// Compares with these heads on the way. They must come by size, none twice; those that are
    /// not above the leaves so far are not looked at.
    #[must_use]
    pub fn passing(mut self, heads: impl IntoIterator<Item = Milestone>) -> Self {
        let size = self.size();
        self.ahead = heads.into_iter().filter(|head| head.size > size).collect();
        self
    }

    /// Leaves so far, with those before a part.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.start + self.entries.size()
    }

    /// Whether all entries and tiles so far agree, are well formed and fit the heads passed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.differs.is_none() && self.malformed.is_none() && self.contradicts.is_none()
    }

    /// Roots over the entries of every full tile that was added whole and not taken yet.
    pub(crate) fn take_tile_roots(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.tile_roots)
    }

    /// Adds the new leaves of `chunk`, which must be the one after the last.
    ///
    /// # Errors
    /// [`Finding::BadTile`] or [`Finding::BadBundle`] for bytes that cannot be cut into leaves.
    /// All else waits for [`Self::finish`], because the cause shows only at the root.
    pub fn add(&mut self, chunk: &Chunk) -> Result<(), Finding> {
        let Span { skip, width, .. } = chunk.span;
        let new = usize::from(skip)..usize::from(width);
        let hashes = chunk.tile.hashes()?.get(new.clone()).unwrap_or_default();
        let bundle = &chunk.bundle;
        let entries = split_bundle(&bundle.bytes, bundle.width)
            .map_err(|cause| Finding::BadBundle { path: bundle.path.clone(), cause })?;
        let entries = entries.get(new).unwrap_or_default();

        let first = self.size();
        self.row.clear();
        for (index, entry) in (first..).zip(entries) {
            self.row.push(leaf_hash(entry));
            if let Err(cause) = Entry::parse(entry) {
                self.malformed.get_or_insert((index, cause));
            }
        }
        let same = self.row == hashes;
        if !same && self.differs.is_none() {
            let mut pairs = (first..).zip(hashes.iter().zip(&self.row));
            let first = pairs.find(|(_, (tile, entry))| tile != entry);
            self.differs = first.map(|(index, (tile, entry))| Difference {
                index,
                tile: *tile,
                entry: *entry,
            });
        }
        let whole = skip == 0 && u64::from(width) == WIDTH;
        let passes = self.ahead.front().is_some_and(|head| head.size < first + WIDTH);
        if whole && !passes {
            self.append_tile(same, hashes)
        } else {
            self.append_leaves(hashes)
        }
        Ok(())
    }

    /// A whole tile without a head inside it needs no peaks on the way.
    fn append_tile(&mut self, same: bool, hashes: &[Hash]) {
        let entries = full_root(&mut self.row);
        let tiles = if same { entries } else { full_root(&mut hashes.to_vec()) };
        self.entries.append_subtree(TILE_LEVEL, entries);
        self.tiles.append_subtree(TILE_LEVEL, tiles);
        self.tile_roots.push(entries);
        self.pass();
    }

    fn append_leaves(&mut self, hashes: &[Hash]) {
        let row = std::mem::take(&mut self.row);
        for (entry, tile) in row.iter().zip(hashes) {
            self.entries.append(*entry);
            self.tiles.append(*tile);
            self.pass();
        }
        if row.len() as u64 == WIDTH {
            self.tile_roots.push(full_root(&mut row.clone()));
        }
        self.row = row;
    }

    /// Compares with the head of this size, if there is one.
    fn pass(&mut self) {
        let size = self.size();
        while let Some(head) = self.ahead.front().copied().filter(|head| head.size <= size) {
            self.ahead.pop_front();
            if self.start > 0 {
                self.passed.push((head, self.entries.clone()));
            } else if self.entries.root() != head.root {
                self.contradicts.get_or_insert(head);
            }
        }
    }

    /// Adds whole units of the tree of which only the roots are known, to both trees. The size
    /// must be a multiple of a unit. Heads within them are not compared with.
    pub(crate) fn append_units(&mut self, roots: &[Hash]) {
        for root in roots {
            self.entries.append_subtree(UNIT_LEVEL, *root);
            self.tiles.append_subtree(UNIT_LEVEL, *root);
        }
        let size = self.size();
        self.ahead.retain(|head| head.size > size);
    }

    /// Adds a part, which must begin where this one ends.
    pub fn join(&mut self, part: Self) {
        for (head, tree) in part.passed {
            let mut whole = self.entries.clone();
            whole.append_range(&tree);
            if whole.root() != head.root {
                self.contradicts.get_or_insert(head);
            }
        }
        self.entries.append_range(&part.entries);
        self.tiles.append_range(&part.tiles);
        self.differs = self.differs.or(part.differs);
        self.malformed = self.malformed.or(part.malformed);
        self.contradicts = self.contradicts.or(part.contradicts);
    }

    /// The tree of `head`, if what was added leads there.
    ///
    /// # Errors
    /// The [`Finding`] of the table above.
    pub fn finish(self, head: &Checkpoint) -> Result<CompactRange, Finding> {
        let (entries, tiles) = (self.entries.root(), self.tiles.root());
        match self.differs {
            None if entries == head.root => self.with_its_past(head),
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

    /// The entries are those of the tree; it must hold what older heads promised, and entries.
    fn with_its_past(self, head: &Checkpoint) -> Result<CompactRange, Finding> {
        if let Some(Milestone { size, .. }) = self.contradicts {
            let cause = ProofError::OldRoot;
            return Err(Finding::Inconsistent { from: size, to: head.size, cause });
        }
        match self.malformed {
            Some((index, cause)) => Err(Finding::BadEntry { index, cause }),
            None => Ok(self.entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::BundleError;
    use crate::testlog::{bundle, enc, oracle_root, unhex, vector};
    use crate::tile;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

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
        // A part of a hash too little and too much, and whole hashes of which one is.
        for bytes in [159, 161, 128, 192] {
            let mut odd = chunk(&all, &honest, 0);
            odd.tile.bytes.resize(bytes, 0);
            let bad = Finding::BadTile { path: "tile".into(), width: 5, bytes };
            assert_eq!(rebuild(&odd, &head(&honest)), Err(bad));
        }
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

    /// Every head of `hashes` at these sizes.
    fn milestones(hashes: &[Hash], sizes: &[usize]) -> Vec<Milestone> {
        let head =
            |size: &usize| Milestone { size: *size as u64, root: oracle_root(&hashes[..*size]) };
        sizes.iter().map(head).collect()
    }

    fn many(count: u16) -> Vec<Vec<u8>> {
        (0..count).map(|n| enc("nexo/1/leaf", &[&[2], &[n.to_be_bytes(); 16].concat()])).collect()
    }

    fn chunks(entries: &[Vec<u8>]) -> Vec<Chunk> {
        let hashes = hashes(entries);
        let tiles = entries.chunks(256).zip(hashes.chunks(256));
        tiles.map(|(entries, hashes)| chunk(entries, hashes, 0)).collect()
    }

    #[test]
    fn older_heads_are_met_wherever_they_lie() {
        let all = many(600);
        let hashes = hashes(&all);
        let sizes = [1, 2, 100, 255, 256, 257, 511, 512, 599, 600];
        for start in [0usize, 256] {
            let mut older = CompactRange::new();
            hashes[..start].iter().for_each(|hash| older.append(*hash));
            let good = milestones(&hashes, &sizes);
            for lie in std::iter::once(None).chain((0..sizes.len()).map(Some)) {
                let mut heads = good.clone();
                if let Some(at) = lie {
                    heads[at].root = [9; 32];
                }
                let mut rebuild = Rebuild::from(older.clone()).passing(heads);
                for chunk in &chunks(&all)[start / 256..] {
                    rebuild.add(chunk).unwrap();
                }
                let lie = lie.map(|at| sizes[at] as u64).filter(|size| *size > start as u64);
                assert_eq!(rebuild.is_clean(), lie.is_none(), "{start} {lie:?}");
                let contradiction = lie.map(|from| Finding::Inconsistent {
                    from,
                    to: 600,
                    cause: ProofError::OldRoot,
                });
                assert_eq!(rebuild.finish(&head(&hashes)).err(), contradiction);
            }
        }
    }

    #[test]
    fn of_two_tiles_that_differ_the_first_is_named() {
        let all = many(512);
        let honest = hashes(&all);
        let mut chunks = chunks(&all);
        for chunk in &mut chunks {
            *chunk.bundle.bytes.last_mut().unwrap() ^= 1;
        }
        let mut rebuild = Rebuild::from(CompactRange::new());
        chunks.iter().for_each(|chunk| rebuild.add(chunk).unwrap());
        let found = rebuild.finish(&head(&honest));
        assert!(matches!(found, Err(Finding::EntryMismatch { index: 255, .. })), "{found:?}");
    }

    #[test]
    fn a_tile_that_an_older_head_cuts_is_gone_on_with() {
        let all = many(300);
        let honest = hashes(&all);
        for known in [1, 100, 255] {
            let mut older = CompactRange::new();
            honest[..known].iter().for_each(|hash| older.append(*hash));
            let mut chunks = chunks(&all);
            chunks[0].span.skip = u16::try_from(known).unwrap();
            let mut rebuild = Rebuild::from(older);
            chunks.iter().for_each(|chunk| rebuild.add(chunk).unwrap());
            assert_eq!(rebuild.finish(&head(&honest)).unwrap().root(), oracle_root(&honest));
        }
    }

    /// An audit that goes on from what it kept: a unit of which only the root is known, leaves
    /// behind it, and older heads before, at and after its end.
    #[test]
    fn units_stand_for_their_leaves_and_for_the_heads_within_them() {
        let unit = 1 << UNIT_LEVEL;
        let tail = entries(30);
        let mut leaves: Vec<Hash> = (0..unit).map(|n: u32| leaf_hash(&n.to_be_bytes())).collect();
        let root = full_root(&mut leaves.clone());
        leaves.extend(hashes(&tail));
        let signed = head(&leaves);
        let after = milestones(&leaves, &[65_540])[0];
        let wrong = |size| Milestone { size, root: [9; 32] };
        for (last, outcome) in [
            (after, Ok(signed.root)),
            (
                wrong(65_540),
                Err(Finding::Inconsistent { from: 65_540, to: 65_566, cause: ProofError::OldRoot }),
            ),
        ] {
            let mut rebuild =
                Rebuild::from(CompactRange::new()).passing([wrong(65_530), wrong(65_536), last]);
            rebuild.append_units(&[root]);
            rebuild.add(&chunk(&tail, &hashes(&tail), 0)).unwrap();
            assert_eq!(rebuild.finish(&signed).map(|tree| tree.root()), outcome);
        }
    }

    /// In order, but each by itself: the second of them starts at `cut` tiles.
    fn in_parts(chunks: &[Chunk], cut: usize, heads: &[Milestone]) -> Rebuild {
        let mut whole = Rebuild::from(CompactRange::new());
        let (mut start, mut rest) = (0, chunks);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            let mut part = Rebuild::part(start).passing(heads.iter().copied());
            now.iter().for_each(|chunk| part.add(chunk).unwrap());
            assert_eq!(
                part.take_tile_roots().len(),
                now.iter().filter(|c| !c.span.is_partial()).count()
            );
            start = part.size();
            whole.join(part);
            rest = later;
        }
        whole
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// However it is cut and whatever is altered, parts come to the verdict of one run.
        #[test]
        fn parts_are_the_whole(
            size in 1u16..1300,
            cut in 0u32..3,
            at: prop::sample::Index,
            altered in 0u8..5,
            head_at: prop::sample::Index,
        ) {
            let all = many(size);
            let hashes = hashes(&all);
            let signed = head(&hashes);
            let mut chunks = chunks(&all);
            let (tile, count) = (at.index(chunks.len()), chunks.len());
            match altered {
                1 => *chunks[tile].bundle.bytes.last_mut().unwrap() ^= 1,
                2 => chunks[tile].tile.bytes[0] ^= 1,
                3 => chunks[tile].bundle.bytes[10] ^= 1,
                _ => {}
            }
            let mut heads = milestones(&hashes, &[1 + head_at.index(usize::from(size))]);
            if altered == 4 {
                heads[0].root = [9; 32];
            }
            for (start, chunk) in (0..).zip(&mut chunks) {
                chunk.span.tile = start;
            }
            let mut one = Rebuild::from(CompactRange::new()).passing(heads.clone());
            chunks.iter().for_each(|chunk| one.add(chunk).unwrap());
            let parts = in_parts(&chunks, 1 << cut, &heads);
            prop_assert_eq!(parts.size(), u64::from(size));
            prop_assert_eq!(parts.is_clean(), altered == 0, "{} of {}", tile, count);
            let verdict = one.finish(&signed);
            prop_assert_eq!(verdict.is_ok(), altered == 0);
            prop_assert_eq!(parts.finish(&signed), verdict);
        }
    }
}
