//! What an account has stored, and what it may: messages and bytes, counted in the transaction
//! that stores them.
//!
//! Servers without a quota do not count. The first one with a quota counts what is there, once,
//! under the lock of the log's head; from then on every server that starts on the database
//! counts, with a quota or without, so that the numbers stay those of the rows. Servers whose
//! batches race are one after the other by that lock, and so are the counts.
//!
//! A message is `cipher`, `ad` and key packets. Deleting one gives its bytes back and not its
//! number: its entry stays in the log for ever, and what entries cost is what the number bounds.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary};
use nexo_schema::ids::AccountId;

use super::admit::NewMessage;
use super::schema::{account_usage, messages, packets, usage_counted};
use super::{Conn, StoreError, signed, unsigned};

/// What an account may store; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageQuota {
    /// Messages, the deleted ones among them.
    pub messages: u64,
    /// Bytes of the messages that are not deleted.
    pub bytes: u64,
}

/// Which of the two an account has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsedUp {
    Messages,
    Bytes,
}

impl StorageQuota {
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// What one account has stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    messages: u64,
    bytes: u64,
    changed: bool,
}

impl Usage {
    fn load(conn: &mut Conn, account: &AccountId) -> Result<Self, StoreError> {
        let row = account_usage::table
            .find(account.as_bytes().to_vec())
            .select((account_usage::messages, account_usage::bytes))
            .first::<(i64, i64)>(conn)
            .optional()?;
        let Some((messages, bytes)) = row else { return Ok(Self::default()) };
        let read = |number| unsigned("account_usage", number);
        Ok(Self { messages: read(messages)?, bytes: read(bytes)?, changed: false })
    }

    /// Whether a message of `bytes` more goes beyond the quota.
    fn exceeds(self, quota: StorageQuota, bytes: u64) -> Option<UsedUp> {
        let beyond = |stored: u64, more: u64, most| most > 0 && stored.saturating_add(more) > most;
        if beyond(self.messages, 1, quota.messages) {
            return Some(UsedUp::Messages);
        }
        beyond(self.bytes, bytes, quota.bytes).then_some(UsedUp::Bytes)
    }

    fn add(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.changed = true;
    }

    fn give_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.changed = true;
    }
}

/// The counts of those who write, from batch to batch.
#[derive(Default)]
pub(super) struct Usages {
    /// Whether this database is counted; not known yet where it is none.
    counted: Option<bool>,
    known: HashMap<AccountId, Usage>,
}

impl Usages {
    /// Rows that are kept.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// After another server wrote.
    pub(super) fn moved(&mut self) {
        self.known.clear();
    }

    /// Why the account may not store `new`, if it may not.
    pub(super) fn refuses(
        &mut self,
        conn: &mut Conn,
        quota: StorageQuota,
        account: &AccountId,
        new: &NewMessage,
    ) -> Result<Option<UsedUp>, StoreError> {
        if quota.is_none() {
            return Ok(None);
        }
        self.begin(conn, quota)?;
        Ok(self.of(conn, account)?.exceeds(quota, new.bytes() as u64))
    }

    /// Counts a message that was stored.
    pub(super) fn stored(
        &mut self,
        conn: &mut Conn,
        account: &AccountId,
        new: &NewMessage,
    ) -> Result<(), StoreError> {
        if self.begin(conn, StorageQuota::default())? {
            self.of(conn, account)?.add(new.bytes() as u64);
        }
        Ok(())
    }

    /// Counts the message at this position as deleted, before its bytes are cleared.
    pub(super) fn deleted(
        &mut self,
        conn: &mut Conn,
        account: &AccountId,
        index: i64,
    ) -> Result<(), StoreError> {
        if !self.begin(conn, StorageQuota::default())? {
            return Ok(());
        }
        let (cipher, ad) = messages::table
            .find(index)
            .select((messages::cipher, messages::ad))
            .first::<(Vec<u8>, Vec<u8>)>(conn)?;
        let packets = packets::table
            .filter(packets::sth_index.eq(index))
            .select(packets::packet)
            .load::<Vec<u8>>(conn)?;
        let bytes = cipher.len() + ad.len() + packets.iter().map(Vec::len).sum::<usize>();
        self.of(conn, account)?.give_back(bytes as u64);
        Ok(())
    }

    /// Whether this database is counted; with a quota it is from now on.
    fn begin(&mut self, conn: &mut Conn, quota: StorageQuota) -> Result<bool, StoreError> {
        let counted = match self.counted {
            Some(counted) => counted,
            None => usage_counted::table.count().get_result::<i64>(conn)? > 0,
        };
        if !counted && !quota.is_none() {
            count_all(conn)?;
        }
        let counted = counted || !quota.is_none();
        self.counted = Some(counted);
        Ok(counted)
    }

    fn of(&mut self, conn: &mut Conn, account: &AccountId) -> Result<&mut Usage, StoreError> {
        if !self.known.contains_key(account) {
            self.known.insert(*account, Usage::load(conn, account)?);
        }
        let lost = || StoreError::corrupt("account_usage", "a lost count");
        self.known.get_mut(account).ok_or_else(lost)
    }

    /// Writes back what changed.
    pub(super) fn store(&mut self, conn: &mut Conn) -> Result<(), StoreError> {
        let changed: Vec<(&AccountId, &mut Usage)> =
            self.known.iter_mut().filter(|(_, usage)| usage.changed).collect();
        if changed.is_empty() {
            return Ok(());
        }
        match conn {
            Conn::Sqlite(conn) => {
                for (account, usage) in &changed {
                    let (messages, bytes) = (signed(usage.messages), signed(usage.bytes));
                    diesel::insert_into(account_usage::table)
                        .values((
                            account_usage::account_id.eq(account.as_bytes().to_vec()),
                            account_usage::messages.eq(messages),
                            account_usage::bytes.eq(bytes),
                        ))
                        .on_conflict(account_usage::account_id)
                        .do_update()
                        .set((account_usage::messages.eq(messages), account_usage::bytes.eq(bytes)))
                        .execute(conn)?;
                }
            }
            Conn::Postgres(conn) => {
                let accounts: Vec<Vec<u8>> =
                    changed.iter().map(|(account, _)| account.as_bytes().to_vec()).collect();
                let messages: Vec<i64> = changed.iter().map(|(_, u)| signed(u.messages)).collect();
                let bytes: Vec<i64> = changed.iter().map(|(_, u)| signed(u.bytes)).collect();
                diesel::sql_query(STORE_ALL)
                    .bind::<Array<Binary>, _>(accounts)
                    .bind::<Array<BigInt>, _>(messages)
                    .bind::<Array<BigInt>, _>(bytes)
                    .execute(conn)?;
            }
        }
        changed.into_iter().for_each(|(_, usage)| usage.changed = false);
        Ok(())
    }
}

/// PostgreSQL takes all of a batch's at once.
const STORE_ALL: &str = "INSERT INTO account_usage (account_id, messages, bytes) \
     SELECT * FROM unnest($1, $2, $3) ON CONFLICT (account_id) \
     DO UPDATE SET messages = EXCLUDED.messages, bytes = EXCLUDED.bytes";

/// What the rows say; the same text on both engines.
const COUNT_ALL: &str = "INSERT INTO account_usage (account_id, messages, bytes) \
     SELECT m.sender_account, count(*), sum(length(m.cipher) + length(m.ad) + coalesce( \
     (SELECT sum(length(p.packet)) FROM packets p WHERE p.sth_index = m.sth_index), 0)) \
     FROM messages m GROUP BY m.sender_account";

/// Counts every account's messages, and says that this is done.
fn count_all(conn: &mut Conn) -> Result<(), StoreError> {
    tracing::info!("counting what accounts have stored, once, for their quotas");
    match conn {
        Conn::Sqlite(conn) => diesel::sql_query(COUNT_ALL).execute(conn)?,
        Conn::Postgres(conn) => diesel::sql_query(COUNT_ALL).execute(conn)?,
    };
    diesel::insert_into(usage_counted::table).values(usage_counted::id.eq(1)).execute(conn)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_what_fits_and_nothing_is_no_quota() {
        let mut usage = Usage::default();
        let quota = StorageQuota { messages: 2, bytes: 100 };
        assert_eq!(usage.exceeds(quota, 100), None);
        assert_eq!(usage.exceeds(quota, 101), Some(UsedUp::Bytes));
        usage.add(60);
        assert_eq!(
            (usage.exceeds(quota, 40), usage.exceeds(quota, 41)),
            (None, Some(UsedUp::Bytes))
        );
        usage.add(40);
        assert_eq!(usage.exceeds(quota, 0), Some(UsedUp::Messages));
        usage.give_back(100);
        assert_eq!(usage.exceeds(quota, 0), Some(UsedUp::Messages), "its entry stays");
        assert_eq!(usage.exceeds(StorageQuota { messages: 0, bytes: 100 }, 100), None);
        assert_eq!(usage.exceeds(StorageQuota::default(), u64::MAX), None);
        usage.give_back(1);
        assert_eq!(usage.bytes, 0, "never below nothing");
    }
}
