//! Reading messages and deletions, in log order, by position.

use std::collections::HashMap;

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId, DeviceId, MsgId};

use super::retries::packets_again;
use super::schema::{deletions, heads, messages, packets, participants};
use super::{Conn, StoreError, hash32, signed, unsigned};

/// A message or a deletion as stored.
#[derive(Debug, Clone)]
pub struct StoredItem {
    /// Position in the log, from 1.
    pub index: u64,
    /// The conversation.
    pub conv: ConvId,
    /// The message; in a deletion its target.
    pub msg_id: MsgId,
    /// The sending device.
    pub device: DeviceId,
    /// Its account.
    pub account: AccountId,
    /// Bytes of `cipher` that are its nonce, when it came as `{c,n}`.
    pub nonce_len: usize,
    /// Empty once deleted.
    pub cipher: Vec<u8>,
    /// The exact bytes received; empty once deleted.
    pub ad: Vec<u8>,
    /// Unix seconds.
    pub ts: u64,
    /// Whether the message was deleted (never set on a deletion).
    pub deleted: bool,
    /// Native messages: the reader's packet and every packet's hash.
    pub packets: Option<PacketsOf>,
    /// Set on deletions.
    pub deletion: Option<Deletion>,
}

/// The key packets of a native message, as one device sees them.
#[derive(Debug, Clone, Default)]
pub struct PacketsOf {
    /// The reader's own; `None` if the message was not for it, or is deleted.
    pub own: Option<Vec<u8>>,
    /// SHA-256 by recipient, as logged.
    pub hashes: Vec<(DeviceId, [u8; 32])>,
    /// Whether `own` was made later, because the reader asked for it.
    pub resent: bool,
}

/// What a deletion adds to its item.
#[derive(Debug, Clone)]
pub struct Deletion {
    /// Position of the deleted message.
    pub target_index: u64,
    /// Native: the signed bytes and the signature.
    pub signed: Option<(Vec<u8>, Vec<u8>)>,
}

/// Which conversations a page is of.
#[derive(Debug, Clone)]
pub enum Feed {
    /// One.
    Conversation(ConvId),
    /// Every one the account takes part in.
    Account(AccountId),
    /// Those of these that the account takes part in.
    Some(AccountId, Vec<ConvId>),
}

/// Bytes in one page of a list: ciphertext, `ad` and packets.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// What a page may hold at most: what it costs is bounded by its bytes as well as by its rows. It
/// holds at least one message.
#[derive(Debug, Clone, Copy)]
pub struct PageSize {
    /// Messages and deletions.
    pub rows: u32,
    /// Bytes of ciphertext, `ad` and packets.
    pub bytes: usize,
}

impl From<u32> for PageSize {
    /// The usual bytes.
    fn from(rows: u32) -> Self {
        Self { rows, bytes: PAGE_BYTES }
    }
}

/// A page of rows.
#[derive(Debug, Clone)]
pub struct Rows {
    /// In log order.
    pub items: Vec<StoredItem>,
    /// Whether there are more behind them.
    pub more: bool,
}

/// A page of messages and deletions behind position `after`, as `reader` sees them.
///
/// # Errors
/// [`StoreError`].
pub fn feed(
    conn: &mut Conn,
    of: &Feed,
    reader: &DeviceId,
    after: u64,
    size: impl Into<PageSize>,
) -> Result<Rows, StoreError> {
    let size = size.into();
    let said = messages_after(conn, of, after, size)?;
    let unsaid = deletions_after(conn, of, after, size)?;
    // Where one of the two was cut, the other's rows behind it belong to the next page.
    let end = said.end().min(unsaid.end());
    let mut more = said.more || unsaid.more;
    let mut items = said.items;
    items.extend(unsaid.items);
    items.retain(|item| item.index <= end);
    items.sort_unstable_by_key(|item| item.index);
    more |= items.len() > size.rows as usize;
    items.truncate(size.rows as usize);
    attach_packets(conn, &mut items, reader)?;
    let mut rows = Rows { items, more };
    rows.cut(size.bytes);
    Ok(rows)
}

impl Rows {
    /// The position up to which these rows are all there are.
    fn end(&self) -> u64 {
        let last = self.items.last().map_or(0, |item| item.index);
        if self.more { last } else { u64::MAX }
    }

    /// Takes rows until the page is full.
    fn take(
        rows: impl Iterator<Item = Result<StoredItem, StoreError>>,
        size: PageSize,
    ) -> Result<Self, StoreError> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        for row in rows {
            let row: StoredItem = row?;
            bytes += row.bytes();
            if items.len() == size.rows as usize || (bytes > size.bytes && !items.is_empty()) {
                return Ok(Self { items, more: true });
            }
            items.push(row);
        }
        Ok(Self { items, more: false })
    }

    /// Leaves the rest to the next page where the packets made this one too large.
    fn cut(&mut self, bytes: usize) {
        let mut held = 0;
        let fits = self.items.iter().take_while(|item| {
            held += item.bytes();
            held <= bytes
        });
        let fits = fits.count().max(1);
        self.more |= fits < self.items.len();
        self.items.truncate(fits);
    }
}

impl StoredItem {
    /// Bytes of its parts that are not bounded by a few hundred.
    fn bytes(&self) -> usize {
        let packets = self.packets.as_ref().map_or(0, |packets| {
            let own = packets.own.as_ref().map_or(0, Vec::len);
            own + packets.hashes.len() * size_of::<(DeviceId, [u8; 32])>()
        });
        self.cipher.len() + self.ad.len() + packets
    }
}

/// Up to `limit` messages behind position `after`, without deletions: what the seed's list shows.
///
/// # Errors
/// [`StoreError`].
pub fn page_after(
    conn: &mut Conn,
    conv: &ConvId,
    reader: &DeviceId,
    after: u64,
    limit: u32,
) -> Result<Rows, StoreError> {
    let mut rows = messages_after(conn, &Feed::Conversation(*conv), after, limit.into())?;
    attach_packets(conn, &mut rows.items, reader)?;
    Ok(rows)
}

/// The position behind which every message has a `ts` above `since` (Unix seconds).
///
/// # Errors
/// [`StoreError`].
pub fn page_since(conn: &mut Conn, since: u64) -> Result<u64, StoreError> {
    let size: Option<i64> = heads::table
        .filter(heads::staged_at.le(signed(since)))
        .select(diesel::dsl::max(heads::size))
        .first(conn)?;
    unsigned("heads", size.unwrap_or(0))
}

/// One message by the account that sent it, as `reader` sees it.
///
/// # Errors
/// [`StoreError`].
pub fn message_by_id(
    conn: &mut Conn,
    conv: &ConvId,
    msg_id: &MsgId,
    reader: &DeviceId,
) -> Result<Option<StoredItem>, StoreError> {
    let row = messages::table
        .filter(messages::sender_device.eq(reader.as_str()))
        .filter(messages::msg_id.eq(msg_id.as_str()))
        .filter(messages::conv_id.eq(conv.as_bytes()))
        .first::<MessageRow>(conn)
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let mut items = [message(row)?];
    attach_packets(conn, &mut items, reader)?;
    let [item] = items;
    Ok(Some(item))
}

type MessageRow =
    (i64, Vec<u8>, String, String, Vec<u8>, bool, i32, Vec<u8>, Vec<u8>, i64, Vec<u8>, Option<i64>);

type DeletionRow =
    (i64, Vec<u8>, i64, String, String, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>, i64);

fn messages_after(
    conn: &mut Conn,
    of: &Feed,
    after: u64,
    size: PageSize,
) -> Result<Rows, StoreError> {
    let page = messages::table
        .filter(messages::sth_index.gt(signed(after)))
        .order(messages::sth_index)
        .limit(i64::from(size.rows) + 1);
    let read = |row: QueryResult<MessageRow>| message(row?);
    match of {
        Feed::Conversation(conv) => {
            let page = page.filter(messages::conv_id.eq(conv.as_bytes()));
            Rows::take(page.load_iter::<MessageRow, DefaultLoadingMode>(conn)?.map(read), size)
        }
        Feed::Account(account) => {
            let theirs = participants::table
                .filter(participants::account_id.eq(account.as_bytes()))
                .select(participants::conv_id);
            let page = page.filter(messages::conv_id.eq_any(theirs));
            Rows::take(page.load_iter::<MessageRow, DefaultLoadingMode>(conn)?.map(read), size)
        }
        Feed::Some(account, convs) => {
            let theirs = participants::table
                .filter(participants::account_id.eq(account.as_bytes()))
                .filter(participants::conv_id.eq_any(convs.iter().map(ConvId::as_bytes)))
                .select(participants::conv_id);
            let page = page.filter(messages::conv_id.eq_any(theirs));
            Rows::take(page.load_iter::<MessageRow, DefaultLoadingMode>(conn)?.map(read), size)
        }
    }
}

fn deletions_after(
    conn: &mut Conn,
    of: &Feed,
    after: u64,
    size: PageSize,
) -> Result<Rows, StoreError> {
    let page = deletions::table
        .filter(deletions::sth_index.gt(signed(after)))
        .order(deletions::sth_index)
        .limit(i64::from(size.rows) + 1);
    let read = |row: QueryResult<DeletionRow>| deletion(row?);
    match of {
        Feed::Conversation(conv) => {
            let page = page.filter(deletions::conv_id.eq(conv.as_bytes()));
            Rows::take(page.load_iter::<DeletionRow, DefaultLoadingMode>(conn)?.map(read), size)
        }
        Feed::Account(account) => {
            let theirs = participants::table
                .filter(participants::account_id.eq(account.as_bytes()))
                .select(participants::conv_id);
            let page = page.filter(deletions::conv_id.eq_any(theirs));
            Rows::take(page.load_iter::<DeletionRow, DefaultLoadingMode>(conn)?.map(read), size)
        }
        Feed::Some(account, convs) => {
            let theirs = participants::table
                .filter(participants::account_id.eq(account.as_bytes()))
                .filter(participants::conv_id.eq_any(convs.iter().map(ConvId::as_bytes)))
                .select(participants::conv_id);
            let page = page.filter(deletions::conv_id.eq_any(theirs));
            Rows::take(page.load_iter::<DeletionRow, DefaultLoadingMode>(conn)?.map(read), size)
        }
    }
}

/// Adds to native messages what a receiver needs: three queries for the whole page.
fn attach_packets(
    conn: &mut Conn,
    items: &mut [StoredItem],
    reader: &DeviceId,
) -> Result<(), StoreError> {
    let native: Vec<i64> =
        items.iter().filter(|i| i.packets.is_some()).map(|i| signed(i.index)).collect();
    if native.is_empty() {
        return Ok(());
    }
    let mut of: HashMap<i64, PacketsOf> = HashMap::with_capacity(native.len());
    let hashes = packets::table
        .filter(packets::sth_index.eq_any(&native))
        .order((packets::sth_index, packets::device_id))
        .select((packets::sth_index, packets::device_id, packets::hash))
        .load::<(i64, String, Vec<u8>)>(conn)?;
    for (index, device, hash) in hashes {
        let device = device_id("packets", &device)?;
        of.entry(index).or_default().hashes.push((device, hash32("packets", &hash)?));
    }
    let own = packets::table
        .filter(packets::sth_index.eq_any(&native))
        .filter(packets::device_id.eq(reader.as_str()))
        .select((packets::sth_index, packets::packet))
        .load::<(i64, Vec<u8>)>(conn)?;
    for (index, packet) in own {
        of.entry(index).or_default().own = Some(packet).filter(|p| !p.is_empty());
    }
    for (index, packet) in packets_again(conn, &native, reader)? {
        let of = of.entry(index).or_default();
        (of.own, of.resent) = (Some(packet), true);
    }
    for item in items.iter_mut().filter(|i| i.packets.is_some()) {
        item.packets = Some(of.remove(&signed(item.index)).unwrap_or_default());
    }
    Ok(())
}

fn message(row: MessageRow) -> Result<StoredItem, StoreError> {
    let (index, conv, msg_id, device, account, native, nonce_len, cipher, ad, ts, _, gone) = row;
    let nonce_len = usize::try_from(nonce_len)
        .ok()
        .filter(|&len| gone.is_some() || len <= cipher.len())
        .ok_or_else(|| StoreError::corrupt("messages", "the nonce is longer than the cipher"))?;
    Ok(StoredItem {
        index: unsigned("messages", index)?,
        conv: ConvId(hash32("messages", &conv)?),
        msg_id: message_id("messages", &msg_id)?,
        device: device_id("messages", &device)?,
        account: AccountId(hash32("messages", &account)?),
        nonce_len,
        cipher,
        ad,
        ts: unsigned("messages", ts)?,
        deleted: gone.is_some(),
        packets: native.then(PacketsOf::default),
        deletion: None,
    })
}

fn deletion(row: DeletionRow) -> Result<StoredItem, StoreError> {
    let (index, conv, target, msg_id, device, account, statement, sig, ts) = row;
    Ok(StoredItem {
        index: unsigned("deletions", index)?,
        conv: ConvId(hash32("deletions", &conv)?),
        msg_id: message_id("deletions", &msg_id)?,
        device: device_id("deletions", &device)?,
        account: AccountId(hash32("deletions", &account)?),
        nonce_len: 0,
        cipher: Vec::new(),
        ad: Vec::new(),
        ts: unsigned("deletions", ts)?,
        deleted: false,
        packets: None,
        deletion: Some(Deletion {
            target_index: unsigned("deletions", target)?,
            signed: statement.zip(sig),
        }),
    })
}

fn device_id(table: &'static str, text: &str) -> Result<DeviceId, StoreError> {
    DeviceId::parse(text).map_err(|_| StoreError::corrupt(table, "the device id is none"))
}

fn message_id(table: &'static str, text: &str) -> Result<MsgId, StoreError> {
    MsgId::parse(text).map_err(|_| StoreError::corrupt(table, "the msg_id is none"))
}
