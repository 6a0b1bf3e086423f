//! What the database says of the log, believed only after checking.
//!
//! At start-up and whenever the sequencer has to read the truth again: the root
//! is recomputed from the edge tiles, the last entries are hashed again, our own
//! signatures are verified. Nothing here reads more than the right edge, so the
//! cost does not grow with the log. What is not checked is what lies behind the
//! edge; clients and auditors do that.

use super::batch::{Tail, bundle_entries};
use super::ledger::{LedgerError, Stored, StoredHead};
use super::signer::{LogKeys, OwnNoteError};
use super::tree::{Edge, EdgeError, Hash, TILE_WIDTH, leaf_hash};
use nexo_schema::bytes::to_hex;

/// Why the log in the database is not one to go on from.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no head, but something of a tree.
    #[error("the database has tiles of a log but no head; restore it from a backup")]
    NoHead,
    /// The edge tiles are not those of the head's size.
    #[error("the stored tiles do not fit the stored head: {0}; restore the database from a backup")]
    Edge(#[from] EdgeError),
    /// The tiles hash to another root than the head has.
    #[error("the stored tiles give the root {computed} at {size} entries, the stored head says {stored}; restore the database from a backup", computed = to_hex(computed), stored = to_hex(stored))]
    Root {
        /// Entries of the head.
        size: u64,
        /// Root in the head.
        stored: Hash,
        /// Root of the tiles.
        computed: Hash,
    },
    /// The stored signed note is not ours.
    #[error(
        "{0}; restore the keys that belong to this database, or the database that belongs to these keys"
    )]
    Note(#[from] OwnNoteError),
    /// The signed note says something else than the head's row.
    #[error(
        "the stored signed note is of {note} entries or of another root or time than its row of {row}; restore the database from a backup"
    )]
    Row {
        /// Entries in the note.
        note: u64,
        /// Entries in the row.
        row: u64,
    },
    /// The entries behind the last full bundle are not as many as the size implies.
    #[error(
        "the log's last {expected} entries are not stored as such; restore the database from a backup"
    )]
    Bundle {
        /// Entries it should hold.
        expected: usize,
    },
    /// The database went back while we were running.
    #[error(
        "the database went back from {known} to {stored} entries, or to another log of that size, while the server was running"
    )]
    WentBack {
        /// Entries of the newest head known before.
        known: u64,
        /// Entries in the database now.
        stored: u64,
    },
}

/// Checks what was stored, and makes the log's live end of it.
pub(super) fn verified(
    stored: Stored,
    keys: &LogKeys,
) -> Result<(Tail, Option<StoredHead>), LoadError> {
    let Stored { head, mut edge_tiles, tail } = stored;
    let Some(head) = head else {
        let blank = edge_tiles.is_empty() && tail.is_empty();
        return if blank { Ok((Tail::default(), None)) } else { Err(LoadError::NoHead) };
    };
    let leaves = tail_leaves(head.size, &tail)?;
    if !leaves.is_empty() {
        edge_tiles.push((0, leaves.concat()));
    }
    let edge = Edge::restore(head.size, &edge_tiles)?;
    let computed = edge.root();
    if computed != head.root {
        return Err(LoadError::Root { size: head.size, stored: head.root, computed });
    }
    let note = keys.verify_own(&head.note)?;
    if (note.size, note.root, note.time) != (head.size, head.root, head.time) {
        return Err(LoadError::Row { note: note.size, row: head.size });
    }
    Ok((Tail { edge, bundle: tail }, Some(head)))
}

/// Hashes of the entries behind the last full bundle: the partial tile of level 0.
fn tail_leaves(size: u64, tail: &[u8]) -> Result<Vec<Hash>, LoadError> {
    let expected = usize::try_from(size % TILE_WIDTH as u64).unwrap_or(TILE_WIDTH);
    let entries = bundle_entries(tail).filter(|entries| entries.len() == expected);
    let entries = entries.ok_or(LoadError::Bundle { expected })?;
    Ok(entries.into_iter().map(leaf_hash).collect())
}

#[cfg(test)]
mod tests {
    use super::super::batch::stage;
    use super::super::ledger::Entry;
    use super::super::signer::tests::keys;
    use super::*;

    fn stored(n: u8) -> Stored {
        let entries: Vec<Entry> = (0..n).map(|i| Entry::new(vec![i; 9]).unwrap()).collect();
        let all: Vec<&Entry> = entries.iter().collect();
        let made = stage(&Tail::default(), &all, &keys("a", 1), 7);
        let (staged, tail) = (made.staged, made.tail);
        let (size, root, note) = (staged.size, staged.root, staged.note.clone());
        Stored {
            head: Some(StoredHead { size, root, note, time: 7 }),
            edge_tiles: tail.edge.partial_tiles().skip(1).map(|t| (t.level, t.hashes)).collect(),
            tail: tail.bundle,
        }
    }

    fn refusal(change: impl FnOnce(&mut Stored)) -> LoadError {
        let mut stored = stored(5);
        change(&mut stored);
        verified(stored, &keys("a", 1)).unwrap_err()
    }

    #[test]
    fn an_honest_database_is_believed() {
        for n in [0, 1, 5, 255] {
            let (tail, head) = verified(stored(n), &keys("a", 1)).unwrap();
            assert_eq!(tail.edge.size(), u64::from(n));
            assert_eq!(head.map(|h| h.root), Some(tail.edge.root()));
        }
        let (tail, head) = verified(Stored::default(), &keys("a", 1)).unwrap();
        assert_eq!((tail, head), (Tail::default(), None));
    }

    #[test]
    fn every_difference_is_a_refusal_of_its_own() {
        let head = |s: &mut Stored| s.head.take().unwrap();
        let wrong_root = refusal(|s| s.head.as_mut().unwrap().root[0] ^= 1);
        assert!(matches!(wrong_root, LoadError::Root { size: 5, .. }));
        let tile_too_many = refusal(|s| s.edge_tiles.push((1, vec![0; 32])));
        assert!(matches!(tile_too_many, LoadError::Edge(EdgeError::Surplus { level: 1 })));
        let no_head = refusal(|s| drop(head(s)));
        assert!(matches!(no_head, LoadError::NoHead));
        let other_time = refusal(|s| s.head.as_mut().unwrap().time = 8);
        assert!(matches!(other_time, LoadError::Row { note: 5, row: 5 }));
        let other_size = refusal(|s| {
            let note = stored(4).head.unwrap().note;
            s.head.as_mut().unwrap().note = note;
        });
        assert!(matches!(other_size, LoadError::Row { note: 4, row: 5 }));
        let lost_entry = refusal(|s| s.tail.truncate(44));
        assert!(matches!(lost_entry, LoadError::Bundle { expected: 5 }));
        let altered_entry = refusal(|s| s.tail[3] ^= 1);
        assert!(matches!(altered_entry, LoadError::Root { size: 5, .. }));
        let torn_entry = refusal(|s| s.tail.truncate(50));
        assert!(matches!(torn_entry, LoadError::Bundle { expected: 5 }));
    }

    #[test]
    fn a_head_signed_by_another_server_is_refused() {
        let foreign = verified(stored(5), &keys("a", 9)).unwrap_err();
        assert!(matches!(foreign, LoadError::Note(OwnNoteError::Signers)), "{foreign}");
        let renamed = verified(stored(5), &keys("b", 1)).unwrap_err();
        assert!(matches!(renamed, LoadError::Note(OwnNoteError::Origin)), "{renamed}");
        let forged = refusal(|s| {
            let note = &mut s.head.as_mut().unwrap().note;
            // A character inside the log key's signature.
            let at = note.iter().rposition(|b| *b == b'\n').unwrap() - 130;
            note[at] = if note[at] == b'A' { b'B' } else { b'A' };
        });
        assert!(matches!(forged, LoadError::Note(_)), "{forged}");
    }
}
