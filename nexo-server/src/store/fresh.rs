//! What a committed batch made public, for those who wait for it.

use std::collections::{BTreeSet, HashMap};

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId, DeviceId};

use super::admit::{Item, NewDeletion, NewMessage, Packet};
use super::messages::{Deletion, PacketsOf, StoredItem};
use super::schema::{deletions, devices, key_events, messages, participants};
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
    /// Its messages and deletions in log order. `None` if another server made it: then only the
    /// database has them.
    pub items: Option<Vec<FreshItem>>,
    /// Who takes part in each of `conversations`; known where `items` are.
    pub members: HashMap<ConvId, Vec<AccountId>>,
}

/// An item of a batch, with everybody's part of it.
#[derive(Debug, Clone)]
pub struct FreshItem {
    /// As the database would give it, but for the packets of native messages, which are empty.
    pub item: StoredItem,
    /// Native messages: the key packets, ascending by device id; empty ones once deleted.
    pub packets: Vec<Packet>,
}

impl FreshItem {
    /// What the database would give a device of the packets; `None` of what is not native.
    #[must_use]
    pub fn packets_of(&self, reader: &DeviceId) -> Option<PacketsOf> {
        self.item.packets.as_ref()?;
        let own = self.packets.iter().find(|packet| packet.device == *reader);
        Some(PacketsOf {
            own: own.map(|packet| packet.bytes.clone()).filter(|bytes| !bytes.is_empty()),
            hashes: self.packets.iter().map(|p| (p.device.clone(), p.hash)).collect(),
            resent: false,
        })
    }

    /// About what it takes in memory, bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let packets: usize = self.packets.iter().map(|p| size_of::<Packet>() + p.bytes.len()).sum();
        size_of::<Self>() + self.item.cipher.len() + self.item.ad.len() + packets
    }
}

/// Those who are told of batches, on the writer's thread.
pub trait Audience: Send {
    /// Tells of a batch that is public. Calls come in the order of the log.
    fn tell(&self, fresh: Fresh);

    /// Who is there: what nobody waits for is not looked up. Whoever comes later reads the
    /// database, and what other servers committed is there by then.
    fn present(&self) -> Present {
        Present { conversations: true, accounts: true }
    }
}

impl<F: Fn(Fresh) + Send> Audience for F {
    fn tell(&self, fresh: Fresh) {
        self(fresh);
    }
}

/// Whether anyone waits for something new,
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// in a conversation;
    pub conversations: bool,
    /// for an account.
    pub accounts: bool,
}

impl Fresh {
    /// What lies behind position `before`, up to `size`, whoever placed it; but for the keys,
    /// and for what none of those present would hear of.
    pub(super) fn behind(
        conn: &mut Conn,
        (before, size): (u64, u64),
        present: Present,
    ) -> Result<Self, StoreError> {
        let mut fresh = Self { before, size, ..Self::default() };
        if !present.conversations && !present.accounts {
            return Ok(fresh);
        }
        let mut touched: Vec<Vec<u8>> = messages::table
            .filter(messages::sth_index.gt(signed(before)))
            .filter(messages::sth_index.le(signed(size)))
            .select(messages::conv_id)
            .distinct()
            .load(conn)?;
        touched.extend(
            deletions::table
                .filter(deletions::sth_index.gt(signed(before)))
                .filter(deletions::sth_index.le(signed(size)))
                .select(deletions::conv_id)
                .distinct()
                .load::<Vec<u8>>(conn)?,
        );
        touched.sort_unstable();
        touched.dedup();
        if present.accounts {
            fresh.accounts = participants_of(conn, &touched)?;
        }
        let ids = touched.iter().map(|id| Ok(ConvId(hash32("messages", id)?)));
        fresh.conversations = ids.collect::<Result<_, StoreError>>()?;
        Ok(fresh)
    }
}

/// Accounts in any of the conversations; ascending, no two alike.
fn participants_of(conn: &mut Conn, convs: &[Vec<u8>]) -> Result<Vec<AccountId>, StoreError> {
    let mut accounts = BTreeSet::new();
    // SQLite takes a bounded number of values.
    for convs in convs.chunks(500) {
        let found: Vec<Vec<u8>> = participants::table
            .filter(participants::conv_id.eq_any(convs))
            .select(participants::account_id)
            .distinct()
            .load(conn)?;
        for account in found {
            accounts.insert(AccountId(hash32("participants", &account)?));
        }
    }
    Ok(accounts.into_iter().collect())
}

/// Accounts whose devices changed behind position `before`: those with an event there, and the
/// plain ones made there.
pub(super) fn keys_changed(conn: &mut Conn, before: u64) -> Result<Vec<AccountId>, StoreError> {
    let mut changed: Vec<Vec<u8>> = key_events::table
        .filter(key_events::sth_index.gt(signed(before)))
        .select(key_events::account_id)
        .distinct()
        .load(conn)?;
    let made = devices::table
        .filter(devices::added_index.gt(signed(before)))
        .select(devices::account_id)
        .distinct();
    changed.extend(made.load::<Vec<u8>>(conn)?);
    changed.sort_unstable();
    changed.dedup();
    changed.iter().map(|id| Ok(AccountId(hash32("devices", id)?))).collect()
}

/// What a batch placed, to be told once it is public.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By the number of the item in the batch, in log order.
    pub(super) placed: Vec<(usize, Row)>,
    /// Entries of the batch, also those that no one waits for.
    pub(super) entries: u64,
    /// Who takes part in what was touched.
    pub(super) members: HashMap<ConvId, Vec<AccountId>>,
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
    pub(super) fn fresh(self, size: u64, items: Vec<Item>) -> Fresh {
        let mut rows = self.placed.iter().peekable();
        let mut out: Vec<FreshItem> = Vec::with_capacity(self.placed.len());
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
                        gone.item.deleted = true;
                        (gone.item.cipher, gone.item.ad) = (Vec::new(), Vec::new());
                        gone.packets.iter_mut().for_each(|packet| packet.bytes.clear());
                    }
                    out.push(deletion(new, row));
                }
                Item::Register(_) | Item::Event(_) => {}
            }
        }
        let mut conversations: Vec<ConvId> = out.iter().map(|fresh| fresh.item.conv).collect();
        conversations.sort_unstable();
        conversations.dedup();
        let accounts: BTreeSet<AccountId> = self.members.values().flatten().copied().collect();
        Fresh {
            before: size - self.entries.min(size),
            size,
            conversations,
            accounts: accounts.into_iter().collect(),
            keys_changed: self.keys_changed,
            items: Some(out),
            members: self.members,
        }
    }
}

fn message(new: NewMessage, row: &Row) -> FreshItem {
    let native = new.native.is_some();
    let item = StoredItem {
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
        packets: native.then(PacketsOf::default),
        deletion: None,
    };
    FreshItem { item, packets: new.native.map(|native| native.packets).unwrap_or_default() }
}

fn deletion(new: NewDeletion, row: &Row) -> FreshItem {
    let item = StoredItem {
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
    };
    FreshItem { item, packets: Vec::new() }
}
