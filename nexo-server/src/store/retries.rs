//! Messages that a device could not open: who asked for which, and the packets made for them
//! (e2ee 2.14). What was logged of a message stays as it is.

use diesel::prelude::*;
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::limits::{MAX_RETRIES, RETRY_TTL};

use super::schema::{messages, packets, retries};
use super::{Conn, StoreError, signed};

/// A message as its conversation names it, and when somebody asks about it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The conversation.
    pub conv: ConvId,
    /// The sending device.
    pub sender: DeviceId,
    /// Its id for the message.
    pub msg_id: MsgId,
    /// Unix seconds.
    pub now: u64,
}

/// How the asking for a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryCount {
    /// How often the device has asked.
    pub asked: i32,
    /// How many of those times were answered.
    pub answered: i32,
}

/// Why nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryRefusal {
    /// There is no such message, or it was deleted.
    NoMessage,
    /// It was not for that device.
    NotAddressed,
    /// It is older than seven days.
    TooOld,
    /// The device was answered three times.
    TooOften,
    /// The device did not ask, or was answered since.
    NotAsked,
}

/// Notes that `reader` cannot open a message. Asking again before an answer changes nothing.
/// Must run in a transaction.
///
/// # Errors
/// [`StoreError`].
pub fn ask_again(
    conn: &mut Conn,
    wanted: &Wanted,
    reader: &DeviceId,
) -> Result<Result<RetryCount, RetryRefusal>, StoreError> {
    let old = signed(wanted.now.saturating_sub(RETRY_TTL));
    diesel::delete(retries::table.filter(retries::at.le(old))).execute(conn)?;
    let index = match place(conn, wanted, reader)? {
        Ok(index) => index,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Some((count, _)) = row(conn, index, reader)? else {
        diesel::insert_into(retries::table)
            .values((
                retries::sth_index.eq(index),
                retries::device_id.eq(reader.as_str()),
                retries::asked.eq(1),
                retries::answered.eq(0),
                retries::at.eq(signed(wanted.now)),
            ))
            .execute(conn)?;
        return Ok(Ok(RetryCount { asked: 1, answered: 0 }));
    };
    if count.asked > count.answered {
        return Ok(Ok(count));
    }
    if count.asked >= MAX_RETRIES {
        return Ok(Err(RetryRefusal::TooOften));
    }
    let next = RetryCount { asked: count.asked + 1, ..count };
    diesel::update(retries::table.find((index, reader.as_str())))
        .set(retries::asked.eq(next.asked))
        .execute(conn)?;
    Ok(Ok(next))
}

/// Puts a packet for `reader`, who has asked for it, into the place of the one before. The same
/// packet again changes nothing. Must run in a transaction.
///
/// # Errors
/// [`StoreError`].
pub fn answer_again(
    conn: &mut Conn,
    wanted: &Wanted,
    reader: &DeviceId,
    packet: &[u8],
) -> Result<Result<RetryCount, RetryRefusal>, StoreError> {
    let index = match place(conn, wanted, reader)? {
        Ok(index) => index,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Some((count, there)) = row(conn, index, reader)? else {
        return Ok(Err(RetryRefusal::NotAsked));
    };
    if count.asked <= count.answered {
        let same = there.as_deref() == Some(packet);
        return Ok(if same { Ok(count) } else { Err(RetryRefusal::NotAsked) });
    }
    diesel::update(retries::table.find((index, reader.as_str())))
        .set((retries::packet.eq(Some(packet)), retries::answered.eq(count.asked)))
        .execute(conn)?;
    Ok(Ok(RetryCount { answered: count.asked, ..count }))
}

/// The packets that were made for `reader` later than those that were logged, by position.
pub(super) fn packets_again(
    conn: &mut Conn,
    native: &[i64],
    reader: &DeviceId,
) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    let rows = retries::table
        .filter(retries::sth_index.eq_any(native))
        .filter(retries::device_id.eq(reader.as_str()))
        .filter(retries::packet.is_not_null())
        .select((retries::sth_index, retries::packet))
        .load::<(i64, Option<Vec<u8>>)>(conn)?;
    Ok(rows.into_iter().filter_map(|(index, packet)| Some((index, packet?))).collect())
}

/// Where the message stands, if it is there, young enough and was for `reader`.
fn place(
    conn: &mut Conn,
    wanted: &Wanted,
    reader: &DeviceId,
) -> Result<Result<i64, RetryRefusal>, StoreError> {
    let found: Option<(i64, i64, Option<i64>)> = messages::table
        .filter(messages::sender_device.eq(wanted.sender.as_str()))
        .filter(messages::msg_id.eq(wanted.msg_id.as_str()))
        .filter(messages::conv_id.eq(wanted.conv.as_bytes()))
        .select((messages::sth_index, messages::ts, messages::deleted_index))
        .first(conn)
        .optional()?;
    let Some((index, ts, None)) = found else { return Ok(Err(RetryRefusal::NoMessage)) };
    let addressed: i64 = packets::table
        .filter(packets::sth_index.eq(index))
        .filter(packets::device_id.eq(reader.as_str()))
        .count()
        .get_result(conn)?;
    if addressed == 0 {
        return Ok(Err(RetryRefusal::NotAddressed));
    }
    if ts <= signed(wanted.now.saturating_sub(RETRY_TTL)) {
        return Ok(Err(RetryRefusal::TooOld));
    }
    Ok(Ok(index))
}

type Kept = (RetryCount, Option<Vec<u8>>);

fn row(conn: &mut Conn, index: i64, reader: &DeviceId) -> Result<Option<Kept>, StoreError> {
    let row: Option<(i32, i32, Option<Vec<u8>>)> = retries::table
        .find((index, reader.as_str()))
        .select((retries::asked, retries::answered, retries::packet))
        .first(conn)
        .optional()?;
    Ok(row.map(|(asked, answered, packet)| (RetryCount { asked, answered }, packet)))
}
