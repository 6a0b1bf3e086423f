//! Where a message is in the log, for those who know its id.

use diesel::prelude::*;
use nexo_schema::ids::{ConvId, DeviceId, MsgId};

use super::schema::{devices, messages, participants};
use super::{Conn, StoreError, unsigned};

/// The messages of this id in a conversation: who sent each and its position (from 1), in log
/// order. More than one only if several of its devices chose the same id.
///
/// # Errors
/// [`StoreError`].
pub fn message_places(
    conn: &mut Conn,
    conv: &ConvId,
    msg_id: &MsgId,
) -> Result<Vec<(DeviceId, u64)>, StoreError> {
    // By way of the devices, because that is how ids are indexed: per sender.
    let accounts = participants::table
        .filter(participants::conv_id.eq(conv.as_bytes()))
        .select(participants::account_id);
    let senders =
        devices::table.filter(devices::account_id.eq_any(accounts)).select(devices::device_id);
    let rows = messages::table
        .filter(messages::sender_device.eq_any(senders))
        .filter(messages::msg_id.eq(msg_id.as_str()))
        .filter(messages::conv_id.eq(conv.as_bytes()))
        .order(messages::sth_index)
        .select((messages::sender_device, messages::sth_index))
        .load::<(String, i64)>(conn)?;
    let place = |(device, index): (String, i64)| {
        let device = DeviceId::parse(&device)
            .map_err(|_| StoreError::corrupt("messages", "the device id is none"))?;
        Ok((device, unsigned("messages", index)?))
    };
    rows.into_iter().map(place).collect()
}
