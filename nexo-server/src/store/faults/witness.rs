//! What was told to anyone, and whether the database keeps to it.
//!
//! Proofs are made by the server's code and checked here, by code written from RFC 9162 2.1.3.2
//! and 2.1.4.2 that shares nothing with the tree's. Rows, entries, tiles and heads are compared
//! with each other by the check behind `nexo-server log verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};

use super::super::{
    Conn, Database, Feed, Item, Placed, StoreError, StoredItem, StoredTiles, bundle, feed,
    newest_head,
};
use super::people::{NATIVE, PLAIN, People};
use crate::log::{
    Head, LogKeys, Receipt, Tiles, bundle_entries, consistency, empty_root, inclusion, width,
};
use crate::tools::verify::{Order, verify};

type Hash = [u8; 32];

/// What clients of these tests have been told, over all servers and restarts.
#[derive(Default)]
pub(super) struct Witness {
    /// The first receipt of each number.
    told: BTreeMap<u64, Told>,
    /// Root by size, of every head that was seen.
    heads: BTreeMap<u64, Hash>,
    /// Their notes.
    notes: BTreeSet<Arc<[u8]>>,
}

struct Told {
    index: u64,
    ts: u64,
    size: u64,
}

impl Witness {
    /// A head was seen.
    pub(super) fn hear(&mut self, head: &Head, keys: &LogKeys) {
        if !self.notes.insert(Arc::clone(&head.note)) {
            return;
        }
        let signed = keys.verify_own(&head.note).unwrap();
        assert_eq!((signed.size, signed.root, signed.time), (head.size, head.root, head.time));
        let first = *self.heads.entry(head.size).or_insert(head.root);
        assert_eq!(first, head.root, "two heads of {} entries", head.size);
    }

    /// A receipt was given for this item.
    pub(super) fn take(
        &mut self,
        (number, item): (u64, &Item),
        receipt: &Receipt<Placed>,
        people: &People,
        keys: &LogKeys,
    ) {
        self.hear(&receipt.head, keys);
        let Receipt { index, placed: Placed { ts }, known, ref head } = *receipt;
        assert!(index < head.size, "number {number} lies behind its own head");
        // What the submitter of something new is sent, without a look at the database.
        if !known {
            let path = head.tiles.path(index).expect("a new place lies in the head's own tiles");
            let computed = root_of_path(index, head.size, leaf(&people.entry(item, ts)), &path);
            assert_eq!(computed, Some(head.root), "the path that number {number} was sent");
        }
        match self.told.get(&number) {
            Some(first) => assert_eq!((known, index), (true, first.index), "number {number}"),
            None => drop(self.told.insert(number, Told { index, ts, size: head.size })),
        }
    }

    /// Holds the database to all that was told; what it has.
    pub(super) fn check(
        &self,
        people: &People,
        database: &Database,
        keys: &LogKeys,
        data_dir: &Path,
    ) -> Content {
        let mut conn = database.connect().unwrap();
        let content = Content::read(&mut conn, people);
        let Content { size, root, .. } = content;
        let mut tiles = Cached { conn: &mut conn, size, read: BTreeMap::new() };
        for (&older, old_root) in &self.heads {
            assert!(older <= size, "a head of {older} entries was told, the database has {size}");
            let proof = consistency(older, size, &mut tiles).unwrap();
            assert!(is_consistent((older, old_root), (size, &root), &proof), "{older} to {size}");
        }
        for (&number, told) in &self.told {
            let item = people.item(number);
            let entry = people.entry(&item, told.ts);
            let at = usize::try_from(told.index).unwrap();
            assert_eq!(content.entries[at], entry, "the entry of number {number}");
            assert_eq!(content.place_of(people, &item), Some(told.index), "number {number}");
            let unsaid = People::unsays(number + 6) && self.told.contains_key(&(number + 6));
            content.compare(&item, told.index, unsaid);
            let path = inclusion(told.index, told.size, &mut tiles).unwrap();
            let computed = root_of_path(told.index, told.size, leaf(&entry), &path);
            assert_eq!(computed, Some(self.heads[&told.size]), "the path of number {number}");
        }
        let order = Order { database, keys, data_dir, jobs: 2, state: None };
        let report = verify(&order, &ProgressBar::hidden(), &AtomicBool::new(false)).unwrap();
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
        assert_eq!((report.size, report.root, report.count), (size, Some(root), 0));
        content
    }
}

/// What the database has.
pub(super) struct Content {
    pub(super) size: u64,
    root: Hash,
    entries: Vec<Vec<u8>>,
    /// Messages and deletions, as bob and dave see them.
    items: BTreeMap<u64, StoredItem>,
}

impl Content {
    pub(super) fn read(conn: &mut Conn, people: &People) -> Self {
        let head = newest_head(conn).unwrap().unwrap();
        let mut entries = Vec::new();
        for index in 0..=head.size / 256 {
            let bytes = bundle(conn, index).unwrap().unwrap_or_default();
            entries.extend(bundle_entries(&bytes).unwrap().into_iter().map(<[u8]>::to_vec));
        }
        assert_eq!(entries.len() as u64, head.size);
        let [_, bob, _, dave] = &people.all;
        let mut items = BTreeMap::new();
        for (conv, reader) in [(NATIVE, bob), (PLAIN, dave)] {
            let mut after = 0;
            loop {
                let of = Feed::Conversation(conv);
                let rows = feed(conn, &of, &reader.device, after, 200).unwrap();
                after = rows.items.last().map_or(after, |item| item.index);
                items.extend(rows.items.into_iter().map(|item| (item.index - 1, item)));
                if !rows.more {
                    break;
                }
            }
        }
        Self { size: head.size, root: head.root, entries, items }
    }

    /// The index (from 0) of an item that is there.
    pub(super) fn place_of(&self, people: &People, item: &Item) -> Option<u64> {
        let (msg_id, unsays) = match item {
            Item::Message(new) => (&new.msg_id, false),
            Item::Deletion(new) => (&new.target, true),
            Item::Register(_) | Item::Event(_) => {
                let entry = people.entry(item, 0);
                return self.entries.iter().position(|e| *e == entry).map(|at| at as u64);
            }
        };
        let mut rows = self.items.iter();
        let found = rows.find(|(_, i)| i.msg_id == *msg_id && i.deletion.is_some() == unsays);
        found.map(|(index, _)| *index)
    }

    /// The row at `index` is the item's. `unsaid`: it was told that the message is deleted.
    fn compare(&self, item: &Item, index: u64, unsaid: bool) {
        let Item::Message(new) = item else { return };
        let row = &self.items[&index];
        assert_eq!((row.conv, &row.device), (new.conv, &new.device));
        let deletion = |i: &StoredItem| i.deletion.as_ref().map(|d| d.target_index);
        let gone = self.items.values().any(|i| deletion(i) == Some(index + 1));
        assert!(row.deleted == gone && (gone || !unsaid), "the message at {index}");
        if gone {
            assert!(row.cipher.is_empty() && row.ad.is_empty());
            return;
        }
        assert_eq!((&row.cipher, &row.ad), (&new.cipher, &new.ad));
        if let Some(native) = &new.native {
            let packets = row.packets.as_ref().unwrap();
            let sent = native.packets.iter().map(|p| (p.device.clone(), p.hash));
            assert_eq!(packets.hashes, sent.collect::<Vec<_>>());
            assert!(packets.own.as_ref().is_none_or(|own| *own == native.packets[0].bytes));
        }
    }
}

/// The stored tiles of a log, each read once.
struct Cached<'a> {
    conn: &'a mut Conn,
    size: u64,
    read: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl Tiles for Cached<'_> {
    type Error = StoreError;

    fn tile(&mut self, level: u8, index: u64, asked: u16) -> Result<Vec<Hash>, StoreError> {
        if !self.read.contains_key(&(level, index)) {
            let all = width(self.size, level, index);
            let tile = StoredTiles(self.conn).tile(level, index, all)?;
            self.read.insert((level, index), tile);
        }
        Ok(self.read[&(level, index)][..usize::from(asked)].to_vec())
    }
}

fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root that an audit path leads to; `None` if it is too long or too short (RFC 9162
/// 2.1.3.2).
fn root_of_path(index: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    let (mut at, mut last, mut root) = (index, size.checked_sub(1)?, leaf);
    if at > last {
        return None;
    }
    for sibling in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            root = node(sibling, &root);
            while at % 2 == 0 && at != 0 {
                (at, last) = (at / 2, last / 2);
            }
        } else {
            root = node(&root, sibling);
        }
        (at, last) = (at / 2, last / 2);
    }
    (last == 0).then_some(root)
}

/// Whether `proof` shows that the tree of the first size is the beginning of that of the second
/// (RFC 9162 2.1.4.2).
fn is_consistent((from, old): (u64, &Hash), (to, new): (u64, &Hash), proof: &[Hash]) -> bool {
    if from == 0 {
        return *old == empty_root() && proof.is_empty();
    }
    if from >= to {
        return from == to && old == new && proof.is_empty();
    }
    let mut hashes = from.is_power_of_two().then_some(old).into_iter().chain(proof);
    let Some(first) = hashes.next() else { return false };
    let (mut at, mut last) = (from - 1, to - 1);
    while at % 2 == 1 {
        (at, last) = (at / 2, last / 2);
    }
    let (mut older, mut newer) = (*first, *first);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            (older, newer) = (node(hash, &older), node(hash, &newer));
            while at % 2 == 0 && at != 0 {
                (at, last) = (at / 2, last / 2);
            }
        } else {
            newer = node(&newer, hash);
        }
        (at, last) = (at / 2, last / 2);
    }
    last == 0 && older == *old && newer == *new
}

/// The root of RFC 9162 2.1.1, word for word.
fn tree(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&tree(left), &tree(right))
        }
    }
}

/// Tiles made of leaves, without the tree's code.
struct Leaves<'a>(&'a [Hash]);

impl Tiles for Leaves<'_> {
    type Error = StoreError;

    fn tile(&mut self, _: u8, _: u64, width: u16) -> Result<Vec<Hash>, StoreError> {
        Ok(self.0[..usize::from(width)].to_vec())
    }
}

#[test]
fn what_does_not_prove_is_not_believed() {
    let leaves: Vec<Hash> = (0..40u8).map(|n| leaf(&[n])).collect();
    for size in 1..=40 {
        let (all, root) = (size as u64, tree(&leaves[..size]));
        for before in 1..=size {
            let index = before as u64 - 1;
            let path = inclusion(index, all, &mut Leaves(&leaves)).unwrap();
            let through = |path: &[Hash]| root_of_path(index, all, leaves[before - 1], path);
            assert_eq!(through(&path), Some(root), "{index} of {size}");
            let older = (before as u64, &tree(&leaves[..before]));
            let proof = consistency(older.0, all, &mut Leaves(&leaves)).unwrap();
            assert!(is_consistent(older, (all, &root), &proof), "{before} to {size}");
            for bad in spoiled(&path) {
                assert_ne!(through(&bad), Some(root), "{index} of {size}");
            }
            for bad in spoiled(&proof) {
                assert!(!is_consistent(older, (all, &root), &bad), "{before} to {size}");
            }
            assert!(!is_consistent((older.0, &[7; 32]), (all, &root), &proof));
            assert!(!is_consistent(older, (all, &[7; 32]), &proof));
        }
    }
}

/// A proof with a hash changed, one too few and one too many.
fn spoiled(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = vec![[proof, &[[7; 32]]].concat()];
    for at in 0..proof.len() {
        let mut changed = proof.to_vec();
        changed[at][0] ^= 1;
        all.push(changed);
    }
    if let Some((_, fewer)) = proof.split_last() {
        all.push(fewer.to_vec());
    }
    all
}
