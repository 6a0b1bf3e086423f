//! The newest verified head, and heads that contradict it.

use diesel::prelude::*;

use super::schema::{heads, split_views};
use super::{Tx, VaultError, array, signed, unsigned};

/// A head that was verified against everything verified before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldHead {
    /// Leaves.
    pub size: u64,
    /// RFC 6962 root.
    pub root: [u8; 32],
    /// The signed note, verbatim.
    pub note: String,
    /// The relay's time signature on it, Unix seconds.
    pub time: u64,
}

/// Two signed heads that cannot both be true, as notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitView {
    /// What this device held.
    pub held: String,
    /// What it was shown then.
    pub shown: String,
}

impl Tx<'_> {
    /// The newest verified head; `None` before the first.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn newest_head(&mut self) -> Result<Option<HeldHead>, VaultError> {
        type Row = (i64, Vec<u8>, String, i64);
        let row = heads::table
            .find(1)
            .select((heads::size, heads::root, heads::note, heads::time))
            .first::<Row>(self.conn)
            .optional()?;
        let Some((size, root, note, time)) = row else { return Ok(None) };
        Ok(Some(HeldHead {
            size: unsigned("heads", size)?,
            root: array("heads", &root)?,
            note,
            time: unsigned("heads", time)?,
        }))
    }

    /// Puts `head` in the place of `held`, which must still be the newest; `false` if another
    /// process was faster. Then nothing has changed, and `head` must be compared with that one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn replace_head(
        &mut self,
        held: Option<&HeldHead>,
        head: &HeldHead,
    ) -> Result<bool, VaultError> {
        if self.newest_head()?.as_ref() != held {
            return Ok(false);
        }
        diesel::replace_into(heads::table)
            .values((
                heads::id.eq(1),
                heads::size.eq(signed(head.size)),
                heads::root.eq(&head.root[..]),
                heads::note.eq(&head.note),
                heads::time.eq(signed(head.time)),
            ))
            .execute(self.conn)?;
        Ok(true)
    }

    /// Keeps the proof that the relay signed two histories.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn record_split_view(&mut self, seen: &SplitView, now: u64) -> Result<(), VaultError> {
        diesel::insert_into(split_views::table)
            .values((
                split_views::seen_at.eq(signed(now)),
                split_views::held.eq(&seen.held),
                split_views::shown.eq(&seen.shown),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Whether such a proof is unresolved.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn has_split_view(&mut self) -> Result<bool, VaultError> {
        let count: i64 = split_views::table.count().get_result(self.conn)?;
        Ok(count > 0)
    }
}
