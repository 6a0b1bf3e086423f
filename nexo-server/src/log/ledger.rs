//! The durable seam: what the log asks of a database, and the values they share.
//!
//! Read, commit, be told. The log knows no SQL and the store knows no tree: they meet here
//! as plain values. There is one implementation in the store, and one in memory
//! for this module's tests, because every durable step has to be failed before
//! it persists and after.
//!
//! ```text
//! bundle = (u16 length || entry) * 1..256      big-endian (C2SP tlog-tiles)
//! ```

use super::stats::Step;
use super::tree::{Hash, TileWrite};
use std::error::Error;
use std::sync::Arc;

/// Longest entry, bytes: its length is a u16 in the bundle.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// The bytes of one leaf, as the tree hashes and the bundle serves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry(Vec<u8>);

/// An entry longer than [`MAX_ENTRY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {len} bytes is longer than {MAX_ENTRY}")]
pub struct EntryTooLong {
    /// Its length in bytes.
    pub len: usize,
}

impl Entry {
    /// Takes the bytes of an entry.
    ///
    /// # Errors
    /// [`EntryTooLong`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, EntryTooLong> {
        let len = bytes.len();
        if len > MAX_ENTRY { Err(EntryTooLong { len }) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A full entry bundle to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleWrite {
    /// Position, from 0; bundle `i` holds the entries from `256 * i`.
    pub index: u64,
    /// 256 entries, each after its length.
    pub data: Vec<u8>,
}

/// Entries behind the last full bundle, to append to those stored before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailWrite {
    /// 0-based index of the first of them.
    pub start: u64,
    /// At least one entry, each after its length.
    pub data: Vec<u8>,
}

/// What a batch makes of the log, to be written with the items in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Leaves after the batch.
    pub size: u64,
    /// Root after the batch.
    pub root: Hash,
    /// Signed checkpoint of that size and root.
    pub note: Vec<u8>,
    /// POSIX seconds in the note's time signature.
    pub time: u64,
    /// Tiles that are new or longer; insert or replace by (level, index). Of level 0 only the
    /// full ones: a partial one is the hashes of the tail.
    pub tiles: Vec<TileWrite>,
    /// Bundles that became full; insert. The tail before them goes.
    pub bundles: Vec<BundleWrite>,
    /// What this batch adds behind the last full bundle; insert.
    pub tail: Option<TailWrite>,
}

/// The newest head in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHead {
    /// Its number of leaves.
    pub size: u64,
    /// Its root.
    pub root: Hash,
    /// Its signed checkpoint, as written.
    pub note: Vec<u8>,
    /// POSIX seconds in the note's time signature.
    pub time: u64,
}

/// What the database holds of the log's right edge. The default is a log that
/// was never begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The newest head; none before the first start.
    pub head: Option<StoredHead>,
    /// (level, hashes) of the partial tile of each level above 0 that has one
    /// at the head's size.
    pub edge_tiles: Vec<(u8, Vec<u8>)>,
    /// The entries behind the last full bundle, each after its length.
    pub tail: Vec<u8>,
}

/// What became of an item, position by position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission<P, R> {
    /// It is the next leaf. The `k`-th placed item of a batch (from 0) has the
    /// 0-based index `size + k` behind the head that the batch goes on from, for which its rows
    /// were written.
    Placed {
        /// Its leaf.
        entry: Entry,
        /// What its submitter gets besides the index.
        placed: P,
    },
    /// It is in the log already, or was placed earlier in this batch: a retry.
    Known {
        /// Its 0-based index.
        index: u64,
        /// What its submitter gets besides the index.
        placed: P,
    },
    /// It may not enter; nothing was written for it.
    Refused(R),
}

/// The log's part in a commit, called from inside the ledger's transaction. If the
/// database makes the transaction start over, the calls are made again; the last
/// ones count. See [`Ledger::commit`].
pub trait Staging<I, P, R> {
    /// Adds to the batch what arrived while the transaction waited for its turn.
    fn gather(&mut self, items: &mut Vec<I>);

    /// The head is not the expected one: another server wrote, and this is what is
    /// stored now. The size to go on from, or `None` if that is no log to go on
    /// from; then the transaction is to be rolled back.
    fn moved(&mut self, stored: Stored) -> Option<u64>;

    /// Gives the admissions of the batch and gets what to write for them; `None`
    /// when there is nothing to write and the transaction is to be rolled back.
    fn stage(&mut self, admissions: Vec<Admission<P, R>>) -> Option<Arc<Staged>>;

    /// A step of the work is done; its time is counted from the last call.
    fn done(&mut self, step: Step);
}

/// The state of the log could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the log could not be read from the database")]
pub struct LedgerError(#[from] pub Box<dyn Error + Send + Sync>);

/// Why a batch was not committed, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another server has moved the head to where [`Staging::moved`] would not
    /// go on from. Nothing was written.
    #[error("the head in the database is not one to go on from")]
    HeadMoved,
    /// The transaction was rolled back: nothing was written.
    #[error("the batch was rolled back")]
    RolledBack(#[source] Box<dyn Error + Send + Sync>),
    /// The transaction may or may not have been committed. Any failure of
    /// COMMIT itself belongs here, and any lost connection.
    #[error("it is not known whether the batch was committed")]
    Unknown(#[source] Box<dyn Error + Send + Sync>),
}

/// A database that keeps the log. One thread owns it.
pub trait Ledger: Send + 'static {
    /// What wants a place in the log: a message, a key event, a deletion.
    type Item: Send + 'static;
    /// What the submitter of a placed or known item gets besides the index.
    type Placed: Send + 'static;
    /// A refusal in the domain's words.
    type Refusal: Send + 'static;

    /// Reads head and right edge, in one transaction so that they agree.
    ///
    /// # Errors
    /// [`LedgerError`]; what was read is checked by the log, not here.
    fn load(&mut self) -> Result<Stored, LedgerError>;

    /// The size of the newest head in the database, without more; 0 before the first.
    ///
    /// # Errors
    /// [`LedgerError`].
    fn size(&mut self) -> Result<u64, LedgerError>;

    /// One transaction, durable when it returns `Ok`:
    ///
    /// 1. begin, taking the write lock, and read the head row; no row counts as
    ///    size 0. If its size is not `expected`, another server had the lock:
    ///    [`Staging::gather`] what came meanwhile, read the right edge and ask
    ///    [`Staging::moved`] whether to go on from there.
    /// 2. for each item in order, check what may have changed since it was let
    ///    in, seeing the items before it, and write its rows for its index.
    ///    An item that is refused or known leaves nothing behind.
    /// 3. call [`Staging::stage`] with one admission per item. `None`: roll back, `Ok`.
    /// 4. write tiles, bundles, tail and the head, and commit.
    ///
    /// Without items this renews the head's time signature: steps 1, 3 and 4,
    /// with the same size and root.
    ///
    /// # Errors
    /// [`CommitError`]. In doubt, `Unknown`.
    fn commit(
        &mut self,
        expected: u64,
        items: &mut Vec<Self::Item>,
        staging: &mut dyn Staging<Self::Item, Self::Placed, Self::Refusal>,
    ) -> Result<(), CommitError>;

    /// The log is public up to `size` entries: whoever waits for something in it
    /// may be woken. `items` are those of the last `commit` if that is what made
    /// it so, and none if other servers did.
    fn adopted(&mut self, size: u64, items: Vec<Self::Item>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_its_length_prefix() {
        assert_eq!(Entry::new(vec![1; MAX_ENTRY]).unwrap().as_bytes().len(), 65_535);
        assert_eq!(Entry::new(vec![1; 65_536]), Err(EntryTooLong { len: 65_536 }));
        assert!(Entry::new(Vec::new()).is_ok());
    }
}
