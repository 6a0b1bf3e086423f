//! A ledger in memory, for tests: it keeps its promises, or breaks one on demand.

use super::batch::{Tail, bundle_entries, stage};
use super::ledger::{
    Admission, CommitError, Entry, Ledger, LedgerError, Staged, Staging, Stored, StoredHead,
};
use super::load::verified;
use super::proof::{Tiles, width};
use super::signer::LogKeys;
use super::tree::{Hash, tile_hashes};
use std::collections::{BTreeMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong at the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Fails before anything is persisted, and says so.
    RolledBack,
    /// Persists, and says it does not know.
    PersistedUnknown,
    /// Does not persist, and says it does not know.
    LostUnknown,
    /// Persists, another server adds an entry, and then says it does not know.
    BuriedUnknown,
    /// Another server adds an entry just before.
    OtherServer,
    /// Says it committed without asking what.
    NeverStaged,
    /// Gives one admission too few.
    ShortAnswer,
    /// Panics.
    Panic,
}

/// An item of the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Placed once, known ever after.
    Message(String),
    /// Refused.
    Unwanted,
}

/// The disk: survives the ledger, as a database survives its server.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Content>>);

#[derive(Default)]
pub(super) struct Content {
    pub(super) head: Option<StoredHead>,
    pub(super) tiles: BTreeMap<(u8, u64), Vec<u8>>,
    pub(super) bundles: BTreeMap<u64, Vec<u8>>,
    pub(super) tail: Vec<u8>,
    pub(super) rows: BTreeMap<String, u64>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) load_fails: bool,
    pub(super) commits: usize,
    pub(super) adopted: Vec<(u64, usize)>,
}

/// The ledger over a [`Disk`]; `keys` are those of the other server.
pub(super) struct Memory {
    pub(super) disk: Disk,
    pub(super) keys: LogKeys,
}

impl Disk {
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn fault(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    pub(super) fn size(&self) -> u64 {
        self.lock().size()
    }
}

impl Content {
    fn size(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.size)
    }

    pub(super) fn stored(&self) -> Stored {
        let size = self.size();
        let mut edge_tiles = Vec::new();
        for level in 1..8u8 {
            let hashes = size >> (8 * u32::from(level));
            let width = usize::from(width(size, level, hashes / 256));
            if width > 0 {
                edge_tiles.push((level, self.tiles[&(level, hashes / 256)][..width * 32].to_vec()));
            }
        }
        Stored { head: self.head.clone(), edge_tiles, tail: self.tail.clone() }
    }

    fn write(&mut self, staged: &Staged) {
        for tile in &staged.tiles {
            self.tiles.insert((tile.level, tile.index), tile.hashes.clone());
        }
        for bundle in &staged.bundles {
            assert!(self.bundles.insert(bundle.index, bundle.data.clone()).is_none());
            self.tail.clear();
        }
        self.tail.extend(staged.tail.iter().flat_map(|tail| &tail.data));
        let Staged { size, root, note, time, .. } = staged.clone();
        self.head = Some(StoredHead { size, root, note, time });
        self.commits += 1;
    }

    /// What another server with the same keys does in between.
    pub(super) fn other_server(&mut self, keys: &LogKeys) {
        let (tail, _) = verified(self.stored(), keys).unwrap();
        let entry = Entry::new(format!("other {}", self.commits).into_bytes()).unwrap();
        let staged = stage(&tail, &[&entry], keys, 5).staged;
        self.write(&staged);
    }
}

impl Ledger for Memory {
    type Item = Item;
    type Placed = String;
    type Refusal = &'static str;

    fn load(&mut self) -> Result<Stored, LedgerError> {
        let disk = self.disk.lock();
        if disk.load_fails {
            return Err(LedgerError("the disk is gone".into()));
        }
        Ok(disk.stored())
    }

    fn size(&mut self) -> Result<u64, LedgerError> {
        let disk = self.disk.lock();
        if disk.load_fails { Err(LedgerError("the disk is gone".into())) } else { Ok(disk.size()) }
    }

    fn commit(
        &mut self,
        expected: u64,
        items: &mut Vec<Item>,
        staging: &mut dyn Staging<Item, String, &'static str>,
    ) -> Result<(), CommitError> {
        let mut disk = self.disk.lock();
        let fault = disk.faults.pop_front();
        if fault == Some(Fault::OtherServer) {
            disk.other_server(&self.keys);
        }
        let mut next = expected;
        if disk.size() != expected {
            staging.gather(items);
            next = staging.moved(disk.stored()).ok_or(CommitError::HeadMoved)?;
        }
        let mut rows = disk.rows.clone();
        let mut admissions: Vec<_> =
            items.iter().map(|item| admit(item, &mut rows, &mut next)).collect();
        match fault {
            Some(Fault::RolledBack) => return Err(CommitError::RolledBack("disk full".into())),
            Some(Fault::NeverStaged) => return Ok(()),
            // Without a word on standard error: it is meant.
            Some(Fault::Panic) => resume_unwind(Box::new("a fault of the test")),
            Some(Fault::ShortAnswer) => drop(admissions.pop()),
            _ => {}
        }
        let Some(staged) = staging.stage(admissions) else { return Ok(()) };
        if fault != Some(Fault::LostUnknown) {
            disk.rows = rows;
            disk.write(&staged);
        }
        if fault == Some(Fault::BuriedUnknown) {
            disk.other_server(&self.keys);
        }
        match fault {
            Some(Fault::PersistedUnknown | Fault::LostUnknown | Fault::BuriedUnknown) => {
                Err(CommitError::Unknown("connection lost".into()))
            }
            _ => Ok(()),
        }
    }

    fn adopted(&mut self, size: u64, items: Vec<Item>) {
        self.disk.lock().adopted.push((size, items.len()));
    }
}

fn admit(
    item: &Item,
    rows: &mut BTreeMap<String, u64>,
    next: &mut u64,
) -> Admission<String, &'static str> {
    let Item::Message(id) = item else { return Admission::Refused("unwanted") };
    if let Some(index) = rows.get(id) {
        return Admission::Known { index: *index, placed: id.clone() };
    }
    rows.insert(id.clone(), *next);
    *next += 1;
    Admission::Placed { entry: Entry::new(id.clone().into_bytes()).unwrap(), placed: id.clone() }
}

impl Tiles for Disk {
    type Error = &'static str;

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, &'static str> {
        let disk = self.lock();
        let tile = match disk.tiles.get(&(level, index)) {
            Some(tile) => tile.clone(),
            None if level == 0 => bundle_entries(&disk.tail)
                .unwrap()
                .into_iter()
                .flat_map(super::tree::leaf_hash)
                .collect(),
            None => return Err("no such tile"),
        };
        tile.get(..usize::from(width) * 32).and_then(tile_hashes).ok_or("tile too short")
    }
}

/// Rebuilds the log from its stored entries and compares everything: what an
/// auditor would do, and that every row is where it says.
pub(super) fn audit(disk: &Disk, keys: &LogKeys) {
    let content = disk.lock();
    let Some(head) = content.head.clone() else { return };
    let entries: Vec<Vec<u8>> = content
        .bundles
        .values()
        .chain([&content.tail])
        .flat_map(|b| bundle_entries(b).unwrap())
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(entries.len() as u64, head.size);
    let entries: Vec<Entry> = entries.into_iter().map(|e| Entry::new(e).unwrap()).collect();
    let again = stage(&Tail::default(), &entries.iter().collect::<Vec<_>>(), keys, head.time);
    assert_eq!((again.staged.root, &again.staged.note), (head.root, &head.note));
    let tiles: BTreeMap<_, _> =
        again.staged.tiles.iter().map(|t| ((t.level, t.index), t.hashes.clone())).collect();
    assert_eq!(tiles, content.tiles);
    for (id, index) in &content.rows {
        let at = usize::try_from(*index).unwrap();
        assert_eq!(entries[at].as_bytes(), id.as_bytes(), "row of {id}");
    }
}
