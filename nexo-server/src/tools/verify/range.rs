//! 65,536 entries, bundle by bundle: what they hash to, and whether rows and tiles agree.
//!
//! ```text
//! range r = one hash of level 2 = tile r of level 1 = bundles 256 r to 256 r + 255
//! ```
//!
//! Ranges know nothing of each other, so any thread may take any; `tree.rs` joins them in order.

use nexo_schema::checkpoint::{Checkpoint, Note};

use super::accounts::Claimed;
use super::entry::Logged;
use super::findings::{Findings, Kind};
use super::peaks::Peaks;
use super::step::{CHECKS, Step};
use crate::log::{Hash, LogKeys, TILE_WIDTH, bundle_entries, empty_root, leaf_hash, tile_hashes};
use crate::store::whole::{HeadRow, Rule, bundle_at, span, stored_tile, tail_rows};
use crate::store::{Conn, StoreError};

/// Entries in a bundle.
const WIDTH: u64 = TILE_WIDTH as u64;
/// Bundles in a range.
const BUNDLES: u64 = WIDTH;
/// Entries in a range.
pub(super) const RANGE: u64 = WIDTH * BUNDLES;
/// log2 of [`RANGE`].
pub(super) const RANGE_HEIGHT: u32 = 16;
/// log2 of [`WIDTH`].
const TILE: u32 = 8;

/// Where entries are read: full bundles in the database, the rest at hand.
pub(super) struct Bundles {
    /// Entries in the log.
    pub(super) size: u64,
    tail: Vec<u8>,
}

impl Bundles {
    /// Of a log of `size` entries; what is wrong with the rows behind its last full bundle is
    /// found here.
    pub(super) fn open(
        conn: &mut Conn,
        size: u64,
        findings: &Findings,
    ) -> Result<Self, StoreError> {
        let (mut tail, mut next) = (Vec::new(), size / WIDTH * WIDTH);
        for (start, entries) in tail_rows(conn)? {
            if i64::try_from(next) != Ok(start) {
                let what = format!("the entries behind the last full bundle go on at {next}");
                findings.add(Kind::Bundle, next, format!("tail {start}"), what);
                break;
            }
            next += bundle_entries(&entries).map_or(0, |entries| entries.len() as u64);
            tail.extend_from_slice(&entries);
        }
        Ok(Self { size, tail })
    }

    /// The bytes of a bundle; `None` if it is not there.
    fn bytes(&self, conn: &mut Conn, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if index < self.size / WIDTH { bundle_at(conn, index) } else { Ok(Some(self.tail.clone())) }
    }

    /// The entries of a bundle that can be read.
    pub(super) fn logged(
        &self,
        conn: &mut Conn,
        index: u64,
    ) -> Result<Vec<Option<Logged>>, StoreError> {
        let bytes = self.bytes(conn, index)?.unwrap_or_default();
        let entries = bundle_entries(&bytes).unwrap_or_default();
        Ok(entries.into_iter().map(|entry| Logged::decode(entry).ok()).collect())
    }

    /// How many entries a bundle has.
    fn width(&self, index: u64) -> usize {
        let width = self.size.saturating_sub(index * WIDTH).min(WIDTH);
        usize::try_from(width).unwrap_or(TILE_WIDTH)
    }
}

/// A root that somebody signed or announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    /// Entries in the tree.
    pub(super) size: u64,
    /// The root said to be theirs.
    pub(super) root: Hash,
    /// Who says so.
    pub(super) by: ClaimBy,
}

/// Who says what a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimBy {
    /// A signed head.
    Head,
    /// The marker.
    Marker,
}

/// What ranges are checked with.
pub(super) struct Checks<'a> {
    pub(super) keys: &'a LogKeys,
    pub(super) bundles: &'a Bundles,
    pub(super) claimed: &'a Claimed,
    /// Those that are asked for a range of places.
    pub(super) rules: &'a [Rule],
    /// What the marker says.
    pub(super) marked: Option<Claim>,
    pub(super) findings: &'a Findings,
}

/// What a range hashes to.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Entries in it.
    pub(super) entries: u64,
    /// Root of a full range.
    pub(super) full: Option<Hash>,
    /// Root of a range that is not full, but has entries.
    pub(super) ragged: Option<Hash>,
    /// Claims about sizes in the range, and the root of the range's part of those trees.
    pub(super) claims: Vec<(Claim, Hash)>,
    /// Entries are missing, so the hashes are not the tree's.
    pub(super) blind: bool,
}

/// Checks range `number`, until `stop` says so (`None`). `told` hears of entries as they are done.
pub(super) fn check_range(
    conn: &mut Conn,
    checks: &Checks<'_>,
    number: u64,
    stop: &dyn Fn() -> bool,
    told: &dyn Fn(u64),
) -> Result<Option<Done>, StoreError> {
    let end = ((number + 1) * RANGE).min(checks.bundles.size);
    let mut hashing = Hashing::default();
    for index in number * BUNDLES..end.div_ceil(WIDTH) {
        if stop() {
            return Ok(None);
        }
        hashing.bundle(conn, checks, index)?;
        told(checks.bundles.width(index) as u64);
    }
    for rule in checks.rules {
        super::apply(conn, rule, (number * RANGE + 1, end), checks.findings)?;
    }
    let tile: Vec<u8> = hashing.tiles.concat();
    if !tile.is_empty() && !hashing.done.blind {
        compare_tile(conn, (1, number), &tile, checks.findings)?;
    }
    hashing.done.entries = end - number * RANGE;
    let root = hashing.range.root(hashing.rest);
    if hashing.done.entries == RANGE {
        hashing.done.full = root;
    } else {
        hashing.done.ragged = root;
    }
    Ok(Some(hashing.done))
}

/// Compares a stored tile with the one it should be.
pub(super) fn compare_tile(
    conn: &mut Conn,
    (level, index): (u8, u64),
    expected: &[u8],
    findings: &Findings,
) -> Result<(), StoreError> {
    let what = match stored_tile(conn, level, index)? {
        Some(stored) if stored == expected => return Ok(()),
        Some(_) => "it is not the one that the entries hash to",
        None => "it is missing",
    };
    findings.add(Kind::Tile, index, format!("tiles {level} {index}"), what);
    Ok(())
}

/// A range while it is read.
#[derive(Default)]
struct Hashing {
    range: Peaks,
    /// Roots of the full tiles of level 0.
    tiles: Vec<Hash>,
    /// Root of the last bundle's entries if it is not full.
    rest: Option<Hash>,
    done: Done,
}

impl Hashing {
    fn bundle(
        &mut self,
        conn: &mut Conn,
        checks: &Checks<'_>,
        index: u64,
    ) -> Result<(), StoreError> {
        let (first, width) = (index * WIDTH + 1, checks.bundles.width(index));
        let bytes = checks.bundles.bytes(conn, index)?;
        let raw = bytes.as_deref().map(bundle_entries);
        let (entries, leaves) = match raw {
            Some(Some(entries)) if entries.len() == width => {
                let leaves: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
                if width == TILE_WIDTH {
                    compare_tile(conn, (0, index), &leaves.concat(), checks.findings)?;
                }
                (read(&entries, first, checks.findings), leaves)
            }
            other => {
                missing(index, width, other.as_ref().map(Option::as_ref), checks.findings);
                (vec![None; width], self.tile_instead(conn, index, width)?)
            }
        };
        let rows = span(conn, first, first + width as u64 - 1)?;
        let step = Step {
            origin: checks.keys.origin(),
            keys: checks.keys,
            first,
            entries: &entries,
            rows: &rows,
            claimed: checks.claimed,
            findings: checks.findings,
        };
        for check in CHECKS {
            check(&step);
        }
        self.hash(first, &leaves, claims(&rows.heads, checks));
        Ok(())
    }

    /// Where entries are gone, the stored hashes still tell whether the rest of the tree is right.
    fn tile_instead(
        &mut self,
        conn: &mut Conn,
        index: u64,
        width: usize,
    ) -> Result<Vec<Hash>, StoreError> {
        let stored = stored_tile(conn, 0, index)?.and_then(|bytes| tile_hashes(&bytes));
        if let Some(hashes) = stored.filter(|hashes| hashes.len() == width) {
            return Ok(hashes);
        }
        self.done.blind = true;
        Ok(vec![[0; 32]; width])
    }

    fn hash(&mut self, first: u64, leaves: &[Hash], claims: Vec<Claim>) {
        let mut claims = claims.into_iter().peekable();
        let mut tile = Peaks::default();
        for (size, leaf) in (first..).zip(leaves) {
            tile.push(0, *leaf);
            while claims.peek().is_some_and(|claim| claim.size <= size) {
                let claim = claims.next().filter(|claim| claim.size == size);
                let root = self.range.root(tile.root(None));
                self.done.claims.extend(claim.zip(root));
            }
        }
        match tile.root(None) {
            Some(root) if leaves.len() == TILE_WIDTH => {
                self.range.push(TILE, root);
                self.tiles.push(root);
            }
            rest => self.rest = rest,
        }
    }
}

/// The entries of a bundle, read.
fn read(entries: &[&[u8]], first: u64, findings: &Findings) -> Vec<Option<Logged>> {
    let decode = |(place, entry): (u64, &&[u8])| match Logged::decode(entry) {
        Ok(logged) => Some(logged),
        Err(error) => {
            let what = format!("it is not an entry: {error}");
            findings.add(Kind::Entry, place, format!("entries {place}"), what);
            None
        }
    };
    (first..).zip(entries).map(decode).collect()
}

/// Says what is wrong with a bundle whose entries cannot be had.
fn missing(index: u64, width: usize, found: Option<Option<&Vec<&[u8]>>>, findings: &Findings) {
    let what = match found {
        None => "it is missing".to_owned(),
        Some(None) => "the lengths of its entries do not add up".to_owned(),
        Some(Some(entries)) => format!("it holds {} entries, not {width}", entries.len()),
    };
    let place = if width < TILE_WIDTH { "tail".to_owned() } else { format!("bundles {index}") };
    findings.add(Kind::Bundle, index, place, what);
}

/// The roots that heads and marker claim, by size. Of a head whose row and note differ there is
/// no telling which is meant; that they differ is found by a check of its own.
fn claims(heads: &[HeadRow], checks: &Checks<'_>) -> Vec<Claim> {
    let signed = heads.iter().filter_map(|row| {
        let note = Note::parse(&row.note).ok()?;
        let said = Checkpoint::parse(note.text).ok()?;
        let agree = i64::try_from(said.size) == Ok(row.size) && said.root[..] == row.root;
        agree.then_some(Claim { size: said.size, root: said.root, by: ClaimBy::Head })
    });
    let mut all: Vec<Claim> = signed.chain(checks.marked).collect();
    all.sort_by_key(|claim| claim.size);
    all
}

/// The root that the entries hash to, read one bundle after the other; `None` if some are missing.
pub(super) fn entries_root(
    conn: &mut Conn,
    size: u64,
    told: &dyn Fn(u64),
) -> Result<Option<Hash>, StoreError> {
    let bundles = Bundles::open(conn, size, &Findings::default())?;
    let mut peaks = Peaks::default();
    for index in 0..size.div_ceil(WIDTH) {
        let bytes = bundles.bytes(conn, index)?.unwrap_or_default();
        let entries = bundle_entries(&bytes).unwrap_or_default();
        if entries.len() != bundles.width(index) {
            return Ok(None);
        }
        for entry in &entries {
            peaks.push(0, leaf_hash(entry));
        }
        told(entries.len() as u64);
    }
    Ok(Some(peaks.root(None).unwrap_or_else(empty_root)))
}
