//! Message rows and their packets, each engine in its own way.
//!
//! SQLite is in this process: a row is inserted where it stands, and the index of `msg_id` and
//! sender says whether it was there before. PostgreSQL is a round trip away: rows are gathered
//! and go in with COPY. Where that finds one that was there before, the whole batch is rolled
//! back and decided again, with all its ids looked up at once first: retries are rare.

use std::collections::HashMap;

use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};

use super::item::{Hash, Item, NewMessage};
use crate::store::accounts::Device;
use crate::store::schema::{messages, packets};
use crate::store::{Conn, StoreError, hash32, signed, unsigned};

/// Where a message of this sender and id is.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    /// Position, from 1.
    pub(super) index: u64,
    pub(super) nonce_len: u32,
    pub(super) ts: u64,
    pub(super) content: Hash,
}

/// The rows of one batch.
#[derive(Default)]
pub(super) struct Rows<'a> {
    messages: Vec<MessageRow<'a>>,
    packets: Vec<PacketRow<'a>>,
    /// Whether `stored` is all there is.
    looked_up: bool,
    /// By number in the batch: what was stored before it.
    stored: HashMap<usize, Earlier>,
    /// By sender and id: what this batch placed.
    placed: HashMap<(&'a str, &'a str), Earlier>,
}

#[derive(Insertable)]
#[diesel(table_name = messages, treat_none_as_default_value = false)]
struct MessageRow<'a> {
    sth_index: i64,
    conv_id: &'a [u8],
    msg_id: &'a str,
    sender_device: &'a str,
    sender_account: Vec<u8>,
    native: bool,
    nonce_len: i32,
    cipher: &'a [u8],
    ad: &'a [u8],
    ts: i64,
    content_hash: Vec<u8>,
}

#[derive(Insertable)]
#[diesel(table_name = packets, treat_none_as_default_value = false)]
struct PacketRow<'a> {
    sth_index: i64,
    device_id: &'a str,
    packet: &'a [u8],
    hash: &'a [u8],
}

/// Which of a batch's messages PostgreSQL has: ordinal from 1, place, nonce length, time, hash.
/// A fixed text, so that it is prepared once.
#[derive(QueryId)]
struct LookUp {
    devices: Vec<String>,
    ids: Vec<String>,
}

impl QueryFragment<Pg> for LookUp {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT k.n, m.sth_index, m.nonce_len, m.ts, m.content_hash FROM unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.devices)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.ids)?;
        out.push_sql(
            ") WITH ORDINALITY AS k (device, id, n) JOIN messages m \
             ON m.sender_device = k.device COLLATE \"C\" AND m.msg_id = k.id COLLATE \"C\"",
        );
        Ok(())
    }
}

impl Query for LookUp {
    type SqlType = (BigInt, BigInt, Integer, BigInt, Binary);
}

impl RunQueryDsl<PgConnection> for LookUp {}

/// A message into SQLite, unless its sender used the id before. A fixed text as well: Diesel would
/// write its own anew for every row, a third of the work.
struct Insert<'a>(&'a MessageRow<'a>);

// Derived, it would not be `'static`.
impl QueryId for Insert<'_> {
    type QueryId = Insert<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl QueryFragment<Sqlite> for Insert<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let row = self.0;
        out.push_sql(
            "INSERT INTO messages (sth_index, conv_id, msg_id, sender_device, sender_account, \
             native, nonce_len, cipher, ad, ts, content_hash) VALUES (",
        );
        out.push_bind_param::<BigInt, _>(&row.sth_index)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(row.conv_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(row.msg_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(row.sender_device)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&row.sender_account)?;
        out.push_sql(", ");
        out.push_bind_param::<Bool, _>(&row.native)?;
        out.push_sql(", ");
        out.push_bind_param::<Integer, _>(&row.nonce_len)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(row.cipher)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(row.ad)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&row.ts)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&row.content_hash)?;
        out.push_sql(") ON CONFLICT (sender_device, msg_id) DO NOTHING");
        Ok(())
    }
}

impl RunQueryDsl<SqliteConnection> for Insert<'_> {}

impl<'a> Rows<'a> {
    pub(super) fn look_up(&mut self, conn: &mut Conn, items: &[Item]) -> Result<(), StoreError> {
        let Conn::Postgres(conn) = conn else { return Ok(()) };
        self.looked_up = true;
        let asked: Vec<(usize, &NewMessage)> = items
            .iter()
            .enumerate()
            .filter_map(|(number, item)| match item {
                Item::Message(new) => Some((number, new)),
                Item::Register(_) | Item::Event(_) | Item::Deletion(_) => None,
            })
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let query = LookUp {
            devices: asked.iter().map(|(_, new)| new.device.to_string()).collect(),
            ids: asked.iter().map(|(_, new)| new.msg_id.to_string()).collect(),
        };
        let found: Vec<(i64, i64, i32, i64, Vec<u8>)> = query.load(conn)?;
        for (ordinal, index, nonce_len, ts, content) in found {
            let asked = usize::try_from(ordinal - 1).ok().and_then(|n| asked.get(n));
            let (number, _) = asked.ok_or_else(|| StoreError::corrupt("messages", "an ordinal"))?;
            self.stored.insert(*number, earlier((index, nonce_len, ts, content))?);
        }
        Ok(())
    }

    /// The message of this sender and id that is stored or was placed earlier in the batch.
    pub(super) fn earlier(
        &self,
        conn: &mut Conn,
        number: usize,
        new: &NewMessage,
    ) -> Result<Option<Earlier>, StoreError> {
        match self.gathered(number, new) {
            Some(earlier) => Ok(Some(earlier)),
            None if self.looked_up => Ok(None),
            None => find(conn, new),
        }
    }

    /// As [`Rows::earlier`], as far as it is known without asking.
    fn gathered(&self, number: usize, new: &NewMessage) -> Option<Earlier> {
        let key = (new.device.as_str(), new.msg_id.as_str());
        self.stored.get(&number).or_else(|| self.placed.get(&key)).cloned()
    }

    /// Places `new`, the batch's `number`th item, unless its sender used the id before: then
    /// where, and nothing is written.
    pub(super) fn place(
        &mut self,
        conn: &mut Conn,
        number: usize,
        new: &'a NewMessage,
        sender: &Device,
        at: Earlier,
    ) -> Result<Option<Earlier>, StoreError> {
        let row = MessageRow::of(new, sender, &at);
        match conn {
            Conn::Sqlite(sqlite) => {
                if !insert(sqlite, &row)? {
                    return find(conn, new);
                }
                for packet in PacketRow::all_of(new, row.sth_index) {
                    diesel::insert_into(packets::table).values(&packet).execute(sqlite)?;
                }
            }
            Conn::Postgres(_) => {
                if let Some(earlier) = self.gathered(number, new) {
                    return Ok(Some(earlier));
                }
                self.packets.extend(PacketRow::all_of(new, row.sth_index));
                self.messages.push(row);
                self.placed.insert((new.device.as_str(), new.msg_id.as_str()), at);
            }
        }
        Ok(None)
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self, conn: &mut Conn) -> Result<(), StoreError> {
        if let Conn::Postgres(conn) = conn {
            copy(conn, &self.messages, &self.packets)?;
            self.messages.clear();
            self.packets.clear();
        }
        Ok(())
    }
}

fn copy(
    conn: &mut PgConnection,
    messages: &[MessageRow<'_>],
    packets: &[PacketRow<'_>],
) -> QueryResult<()> {
    if !messages.is_empty() {
        diesel::copy_from(messages::table).from_insertable(messages).execute(conn)?;
    }
    if !packets.is_empty() {
        diesel::copy_from(packets::table).from_insertable(packets).execute(conn)?;
    }
    Ok(())
}

fn insert(conn: &mut SqliteConnection, row: &MessageRow<'_>) -> QueryResult<bool> {
    Ok(Insert(row).execute(conn)? == 1)
}

fn find(conn: &mut Conn, new: &NewMessage) -> Result<Option<Earlier>, StoreError> {
    let row = messages::table
        .filter(messages::sender_device.eq(new.device.as_str()))
        .filter(messages::msg_id.eq(new.msg_id.as_str()))
        .select((messages::sth_index, messages::nonce_len, messages::ts, messages::content_hash))
        .first::<(i64, i32, i64, Vec<u8>)>(conn)
        .optional()?;
    row.map(earlier).transpose()
}

fn earlier(row: (i64, i32, i64, Vec<u8>)) -> Result<Earlier, StoreError> {
    let (index, nonce_len, ts, content) = row;
    Ok(Earlier {
        index: unsigned("messages", index)?,
        nonce_len: u32::try_from(nonce_len).unwrap_or(u32::MAX),
        ts: unsigned("messages", ts)?,
        content: hash32("messages", &content)?,
    })
}

impl<'a> MessageRow<'a> {
    fn of(new: &'a NewMessage, sender: &Device, at: &Earlier) -> Self {
        Self {
            sth_index: signed(at.index),
            conv_id: new.conv.as_bytes(),
            msg_id: new.msg_id.as_str(),
            sender_device: new.device.as_str(),
            sender_account: sender.account.as_bytes().to_vec(),
            native: new.native.is_some(),
            nonce_len: i32::try_from(new.nonce_len).unwrap_or(i32::MAX),
            cipher: &new.cipher,
            ad: &new.ad,
            ts: signed(at.ts),
            content_hash: at.content.to_vec(),
        }
    }
}

impl<'a> PacketRow<'a> {
    fn all_of(new: &'a NewMessage, sth_index: i64) -> impl Iterator<Item = Self> {
        new.native.iter().flat_map(|native| &native.packets).map(move |packet| Self {
            sth_index,
            device_id: packet.device.as_str(),
            packet: &packet.bytes,
            hash: &packet.hash,
        })
    }
}
