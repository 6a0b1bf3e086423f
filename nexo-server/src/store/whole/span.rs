//! The rows of 256 positions: one bundle, its tile, and every row that says it lies there.

use diesel::prelude::*;

use super::super::schema::{
    bundles, deletions, heads, key_events, log_head, messages, packets, tail, tiles,
};
use super::super::{Conn, StoreError, signed};

/// Rows behind the last full bundle that are looked at; more than there can be.
const MAX_TAIL: i64 = 1024;

/// A message's row.
#[derive(Debug, Clone, Queryable)]
pub struct MessageRow {
    /// 1-based place in the log.
    pub sth_index: i64,
    /// Where to.
    pub conv_id: Vec<u8>,
    /// Its id.
    pub msg_id: String,
    /// Who sent it.
    pub sender_device: String,
    /// Whose device that is.
    pub sender_account: Vec<u8>,
    /// Whether it is native.
    pub native: bool,
    /// Bytes of `cipher` that are its nonce.
    pub nonce_len: i32,
    /// The ciphertext; empty once deleted.
    pub cipher: Vec<u8>,
    /// As received; empty once deleted.
    pub ad: Vec<u8>,
    /// Unix seconds of its batch.
    pub ts: i64,
    /// What its entry holds.
    pub content_hash: Vec<u8>,
    /// Place of the deletion.
    pub deleted_index: Option<i64>,
}

/// A key packet's row.
#[derive(Debug, Clone, Queryable)]
pub struct PacketRow {
    /// Place of its message.
    pub sth_index: i64,
    /// Whom it is for.
    pub device_id: String,
    /// The packet; empty once deleted.
    pub packet: Vec<u8>,
    /// Its SHA-256.
    pub hash: Vec<u8>,
}

/// A key event's row.
#[derive(Debug, Clone, Queryable)]
pub struct EventRow {
    /// 1-based place in the log.
    pub sth_index: i64,
    /// Whose.
    pub account_id: Vec<u8>,
    /// Position in the account's chain.
    pub seq: i64,
    /// The event.
    pub event: Vec<u8>,
    /// The signer's signature.
    pub sig: Vec<u8>,
    /// The new device's signature.
    pub accept_sig: Vec<u8>,
}

/// A deletion's row.
#[derive(Debug, Clone, Queryable)]
pub struct DeletionRow {
    /// 1-based place in the log.
    pub sth_index: i64,
    /// Where.
    pub conv_id: Vec<u8>,
    /// Place of the message.
    pub target_index: i64,
    /// Its id.
    pub target_msg_id: String,
    /// Who deleted it.
    pub device_id: String,
    /// Whose device that is.
    pub account_id: Vec<u8>,
    /// What a native device signed.
    pub statement: Option<Vec<u8>>,
    /// Its signature.
    pub sig: Option<Vec<u8>>,
    /// Unix seconds of its batch.
    pub ts: i64,
}

/// A head's row.
#[derive(Debug, Clone, Queryable)]
pub struct HeadRow {
    /// Entries in the tree.
    pub size: i64,
    /// RFC 6962 root.
    pub root: Vec<u8>,
    /// The signed checkpoint.
    pub note: Vec<u8>,
    /// Unix seconds in the note's time signature.
    pub time: i64,
    /// Unix seconds of the batch that reached the size.
    pub staged_at: i64,
}

/// The newest head's row.
#[derive(Debug, Clone, Queryable)]
pub struct LogHeadRow {
    /// The log's name.
    pub origin: String,
    /// Entries in the tree.
    pub size: i64,
    /// RFC 6962 root.
    pub root: Vec<u8>,
    /// The signed checkpoint.
    pub note: Vec<u8>,
    /// Unix seconds in the note's time signature.
    pub time: i64,
}

/// Everything at the positions of one bundle.
#[derive(Debug, Default)]
pub struct Span {
    /// Messages there.
    pub messages: Vec<MessageRow>,
    /// Packets of messages there, whether or not there is one.
    pub packets: Vec<PacketRow>,
    /// Key events there.
    pub events: Vec<EventRow>,
    /// For the events that have one, the event before it in its account's chain.
    pub earlier: Vec<EventRow>,
    /// Deletions there.
    pub deletions: Vec<DeletionRow>,
    /// The messages they name.
    pub targets: Vec<MessageRow>,
    /// Packets of those.
    pub target_packets: Vec<PacketRow>,
    /// The deletions, anywhere, that name a message there.
    pub deleting: Vec<DeletionRow>,
    /// The last head before the span, those of a size in it, and the first one behind it.
    pub heads: Vec<HeadRow>,
}

/// The rows at the positions `first` to `last` (1-based, inclusive).
///
/// # Errors
/// [`StoreError`].
pub fn span(conn: &mut Conn, first: u64, last: u64) -> Result<Span, StoreError> {
    let (from, to) = (signed(first), signed(last));
    let messages: Vec<MessageRow> = messages::table
        .filter(messages::sth_index.between(from, to))
        .order(messages::sth_index)
        .load(conn)?;
    let packets = packets::table
        .filter(packets::sth_index.between(from, to))
        .order((packets::sth_index, packets::device_id))
        .load(conn)?;
    let events: Vec<EventRow> = key_events::table
        .filter(key_events::sth_index.between(from, to))
        .order(key_events::sth_index)
        .load(conn)?;
    let deletions: Vec<DeletionRow> = deletions::table
        .filter(deletions::sth_index.between(from, to))
        .order(deletions::sth_index)
        .load(conn)?;
    let (targets, target_packets) = targets(conn, &deletions)?;
    Ok(Span {
        earlier: earlier(conn, &events)?,
        deleting: deleting(conn, &messages)?,
        heads: heads_around(conn, from, to)?,
        messages,
        packets,
        events,
        deletions,
        targets,
        target_packets,
    })
}

fn earlier(conn: &mut Conn, events: &[EventRow]) -> Result<Vec<EventRow>, StoreError> {
    let mut found = Vec::new();
    for event in events.iter().filter(|event| event.seq > 0) {
        let before = key_events::table
            .filter(key_events::account_id.eq(&event.account_id))
            .filter(key_events::seq.eq(event.seq - 1));
        found.extend(before.first::<EventRow>(conn).optional()?);
    }
    Ok(found)
}

fn targets(
    conn: &mut Conn,
    deletions: &[DeletionRow],
) -> Result<(Vec<MessageRow>, Vec<PacketRow>), StoreError> {
    let places: Vec<i64> = deletions.iter().map(|d| d.target_index).collect();
    if places.is_empty() {
        return Ok(Default::default());
    }
    let of_messages = messages::table.filter(messages::sth_index.eq_any(&places)).load(conn)?;
    let of_packets = packets::table.filter(packets::sth_index.eq_any(&places)).load(conn)?;
    Ok((of_messages, of_packets))
}

fn deleting(conn: &mut Conn, rows: &[MessageRow]) -> Result<Vec<DeletionRow>, StoreError> {
    let deleted: Vec<i64> =
        rows.iter().filter(|m| m.deleted_index.is_some()).map(|m| m.sth_index).collect();
    if deleted.is_empty() {
        return Ok(Vec::new());
    }
    Ok(deletions::table.filter(deletions::target_index.eq_any(&deleted)).load(conn)?)
}

fn heads_around(conn: &mut Conn, from: i64, to: i64) -> Result<Vec<HeadRow>, StoreError> {
    let before = heads::table.filter(heads::size.lt(from)).order(heads::size.desc());
    let mut found: Vec<HeadRow> = before.first::<HeadRow>(conn).optional()?.into_iter().collect();
    let inside = heads::table.filter(heads::size.between(from, to)).order(heads::size);
    found.extend(inside.load::<HeadRow>(conn)?);
    let behind = heads::table.filter(heads::size.gt(to)).order(heads::size);
    found.extend(behind.first::<HeadRow>(conn).optional()?);
    Ok(found)
}

/// The newest head, if anything was ever signed.
///
/// # Errors
/// [`StoreError`].
pub fn log_head(conn: &mut Conn) -> Result<Option<LogHeadRow>, StoreError> {
    let columns =
        (log_head::origin, log_head::size, log_head::root, log_head::note, log_head::time);
    Ok(log_head::table.select(columns).first(conn).optional()?)
}

/// The stored bundle of this index; those that are not full yet are in [`tail_rows`].
///
/// # Errors
/// [`StoreError`].
pub fn bundle_at(conn: &mut Conn, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(bundles::table.find(signed(index)).select(bundles::entries).first(conn).optional()?)
}

/// The tile stored under this level and index.
///
/// # Errors
/// [`StoreError`].
pub fn stored_tile(conn: &mut Conn, level: u8, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let tile = tiles::table.find((i32::from(level), signed(index)));
    Ok(tile.select(tiles::hashes).first(conn).optional()?)
}

/// Where the entries behind the last full bundle are stored: position (0-based) and entries.
///
/// # Errors
/// [`StoreError`].
pub fn tail_rows(conn: &mut Conn) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    Ok(tail::table.order(tail::start).limit(MAX_TAIL).load(conn)?)
}
