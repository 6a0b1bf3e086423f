//! Heads that senders say they hold, until they are proved to be of one history with ours.

use diesel::prelude::*;

use super::schema::heard_heads;
use super::{Tx, VaultError, array, signed, unsigned};

/// Most heads that wait; what comes then is heard again in later messages.
const MAX_HEARD: i64 = 256;

/// A head from somebody's message, signed by the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardHead {
    /// Leaves.
    pub size: u64,
    /// RFC 6962 root.
    pub root: [u8; 32],
    /// The note, verbatim.
    pub note: String,
    /// When it was heard first, Unix seconds of this machine.
    pub heard_at: u64,
}

impl Tx<'_> {
    /// Keeps a head that waits for its proof, once.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_heard(&mut self, head: &HeardHead) -> Result<(), VaultError> {
        let waiting: i64 = heard_heads::table.count().get_result(self.conn)?;
        if waiting >= MAX_HEARD {
            return Ok(());
        }
        diesel::insert_into(heard_heads::table)
            .values((
                heard_heads::size.eq(signed(head.size)),
                heard_heads::root.eq(&head.root[..]),
                heard_heads::note.eq(&head.note),
                heard_heads::heard_at.eq(signed(head.heard_at)),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)?;
        Ok(())
    }

    /// Heads that wait, the oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn heard(&mut self, limit: i64) -> Result<Vec<HeardHead>, VaultError> {
        let rows: Vec<(i64, Vec<u8>, String, i64)> = heard_heads::table
            .order((heard_heads::heard_at.asc(), heard_heads::size.asc()))
            .limit(limit)
            .load(self.conn)?;
        rows.into_iter()
            .map(|(size, root, note, at)| {
                Ok(HeardHead {
                    size: unsigned("heard_heads", size)?,
                    root: array("heard_heads", &root)?,
                    note,
                    heard_at: unsigned("heard_heads", at)?,
                })
            })
            .collect()
    }

    /// Forgets a head that was proved.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn settle_heard(&mut self, head: &HeardHead) -> Result<(), VaultError> {
        diesel::delete(heard_heads::table.find((signed(head.size), &head.root[..])))
            .execute(self.conn)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Vault;

    #[tokio::test]
    async fn heads_wait_once_and_not_without_bound() {
        let vault = Vault::in_memory().unwrap();
        let head = |size| HeardHead { size, root: [1; 32], note: "n".into(), heard_at: 7 };
        let put = |head: HeardHead| {
            let vault = &vault;
            async move { vault.write(|tx| tx.put_heard(&head)).await.unwrap() }
        };
        put(head(1)).await;
        put(HeardHead { heard_at: 9, ..head(1) }).await;
        assert_eq!(vault.read(|tx| tx.heard(9)).unwrap(), [head(1)]);
        for size in 2..400 {
            put(head(size)).await;
        }
        assert_eq!(vault.read(|tx| tx.heard(1000)).unwrap().len(), 256);
        vault.write(|tx| tx.settle_heard(&head(1))).await.unwrap();
        assert_eq!(vault.read(|tx| tx.heard(1)).unwrap(), [head(2)]);
    }
}
