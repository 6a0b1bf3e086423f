//! What a committed batch made public, for those who wait for it.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId};

use super::admit::{Item, NewDeletion, NewMessage};
use super::messages::{Deletion, PacketsOf, StoredItem};
use super::schema::{deletions, devices, messages, participants};
use super::{Conn, StoreError, hash32, signed};

/// A batch that is public, or all that other servers on the same database added since.
#[derive(Debug, Clone, Default)]
pub struct Fresh {
    /// Entries in the log before it.
    pub before: u64,
    /// Entries in the log with it.
    pub size: u64,
    /// Conversations in which something was placed; ascending, no two alike.
    pub conversations: Vec<ConvId>,
    /// Accounts that take part in them; ascending, no two alike.
    pub accounts: Vec<AccountId>,
    /// Accounts whose devices changed.
    pub keys_changed: Vec<AccountId>,
    /// Its messages and deletions in log order, as the database would give them, but without
    /// their packets. `None` if another server made it: then only the database has them.
    pub items: Option<Vec<StoredItem>>,
}

impl Fresh {
    /// What lies behind position `before`, up to `size`, whoever placed it; but for the keys.
    pub(super) fn behind(conn: &mut Conn, before: u64, size: u64) -> Result<Self, StoreError> {
        let said = messages::table
            .filter(messages::sth_index.gt(signed(before)))
            .filter(messages::sth_index.le(signed(size)))
            .select(messages::conv_id);
        let unsaid = deletions::table
            .filter(deletions::sth_index.gt(signed(before)))
            .filter(deletions::sth_index.le(signed(size)))
            .select(deletions::conv_id);
        let concerned: Vec<(Vec<u8>, Vec<u8>)> = participants::table
            .filter(participants::conv_id.eq_any(said).or(participants::conv_id.eq_any(unsaid)))
            .select((participants::conv_id, participants::account_id))
            .load(conn)?;
        let (mut conversations, mut accounts) = (BTreeSet::new(), BTreeSet::new());
        for (conv, account) in concerned {
            conversations.insert(ConvId(hash32("participants", &conv)?));
            accounts.insert(AccountId(hash32("participants", &account)?));
        }
        Ok(Self {
            before,
            size,
            conversations: conversations.into_iter().collect(),
            accounts: accounts.into_iter().collect(),
            keys_changed: Vec::new(),
            items: None,
        })
    }
}

/// Accounts whose devices changed behind position `before`.
pub(super) fn keys_changed(conn: &mut Conn, before: u64) -> Result<Vec<AccountId>, StoreError> {
    let changed: Vec<Vec<u8>> = devices::table
        .filter(devices::added_index.gt(signed(before)))
        .or_filter(devices::revoked_index.gt(signed(before)))
        .select(devices::account_id)
        .distinct()
        .load(conn)?;
    changed.iter().map(|id| Ok(AccountId(hash32("devices", id)?))).collect()
}

/// What a batch placed, to be told once it is public.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By the number of the item in the batch, in log order.
    pub(super) placed: Vec<(usize, Row)>,
    /// Entries of the batch, also those that no one waits for.
    pub(super) entries: u64,
    /// Accounts that take part in what was touched.
    pub(super) accounts: Vec<AccountId>,
    /// Accounts whose devices changed.
    pub(super) keys_changed: Vec<AccountId>,
}

/// What became of an item when it was placed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Position, from 1.
    pub(super) index: u64,
    /// Whose it is.
    pub(super) account: AccountId,
    /// Unix seconds.
    pub(super) ts: u64,
    /// The deleted message's position, of deletions.
    pub(super) target: u64,
}

impl Told {
    /// The batch for those who wait, made of its `items`, in a log of `size` entries.
    pub(super) fn fresh(mut self, size: u64, items: Vec<Item>) -> Fresh {
        let mut rows = self.placed.iter().peekable();
        let mut out: Vec<StoredItem> = Vec::with_capacity(self.placed.len());
        let deletes = items.iter().any(|item| matches!(item, Item::Deletion(_)));
        let mut at: HashMap<u64, usize> = HashMap::new();
        for (number, item) in items.into_iter().enumerate() {
            let Some((_, row)) = rows.next_if(|(placed, _)| *placed == number) else { continue };
            match item {
                Item::Message(new) => {
                    if deletes {
                        at.insert(row.index, out.len());
                    }
                    out.push(message(new, row));
                }
                Item::Deletion(new) => {
                    // Said and unsaid in one batch: nobody sees what was said.
                    if let Some(gone) = at.get(&row.target).and_then(|&at| out.get_mut(at)) {
                        gone.deleted = true;
                        (gone.cipher, gone.ad) = (Vec::new(), Vec::new());
                    }
                    out.push(deletion(new, row));
                }
                Item::Register(_) => {}
            }
        }
        let mut conversations: Vec<ConvId> = out.iter().map(|item| item.conv).collect();
        conversations.sort_unstable();
        conversations.dedup();
        self.accounts.sort_unstable();
        self.accounts.dedup();
        Fresh {
            before: size - self.entries.min(size),
            size,
            conversations,
            accounts: self.accounts,
            keys_changed: self.keys_changed,
            items: Some(out),
        }
    }
}

fn message(new: NewMessage, row: &Row) -> StoredItem {
    StoredItem {
        index: row.index,
        conv: new.conv,
        msg_id: new.msg_id,
        device: new.device,
        account: row.account,
        nonce_len: usize::try_from(new.nonce_len).unwrap_or(usize::MAX).min(new.cipher.len()),
        cipher: new.cipher,
        ad: new.ad,
        ts: row.ts,
        deleted: false,
        packets: new.native.map(|_| PacketsOf::default()),
        deletion: None,
    }
}

fn deletion(new: NewDeletion, row: &Row) -> StoredItem {
    StoredItem {
        index: row.index,
        conv: new.conv,
        msg_id: new.target,
        device: new.device,
        account: row.account,
        nonce_len: 0,
        cipher: Vec::new(),
        ad: Vec::new(),
        ts: row.ts,
        deleted: false,
        packets: None,
        deletion: Some(Deletion {
            target_index: row.target,
            signed: new.native.map(|native| (native.statement, native.sig)),
        }),
    }
}
