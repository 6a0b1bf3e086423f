//! How far a device's programs have got: a position of the log under each of a few names.
//!
//! A place moves forward only. It is a convenience of the client's, not a promise of the log:
//! one that is behind has messages sent again, which their ids tell.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text};
use nexo_schema::ids::{CursorName, DeviceId};
use nexo_schema::limits::MAX_CURSORS;

use super::schema::socket_cursors::{self, dsl};
use super::{Conn, StoreError, signed, unsigned};

/// A cursor that has moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorMove {
    /// Whose.
    pub device: DeviceId,
    /// Which of its.
    pub name: CursorName,
    /// The position it is at now, from 0.
    pub place: u64,
}

/// Where a cursor is; `None` if there is none of this name.
///
/// # Errors
/// [`StoreError`].
pub fn cursor_of(
    conn: &mut Conn,
    device: &DeviceId,
    name: &CursorName,
) -> Result<Option<u64>, StoreError> {
    let place: Option<i64> = socket_cursors::table
        .find((device.as_str(), name.as_str()))
        .select(dsl::place)
        .first(conn)
        .optional()?;
    place.map(|place| unsigned("socket_cursors", place)).transpose()
}

/// Makes a cursor at a position, unless there is one; where it is. `None` if the device has
/// as many as it may.
///
/// # Errors
/// [`StoreError`].
pub fn open_cursor(
    conn: &mut Conn,
    device: &DeviceId,
    name: &CursorName,
    place: u64,
) -> Result<Option<u64>, StoreError> {
    if let Some(there) = cursor_of(conn, device, name)? {
        return Ok(Some(there));
    }
    let had: i64 = socket_cursors::table
        .filter(dsl::device_id.eq(device.as_str()))
        .count()
        .get_result(conn)?;
    if unsigned("socket_cursors", had)? >= MAX_CURSORS as u64 {
        return Ok(None);
    }
    diesel::insert_into(socket_cursors::table)
        .values((
            dsl::device_id.eq(device.as_str()),
            dsl::name.eq(name.as_str()),
            dsl::place.eq(signed(place)),
        ))
        .execute(conn)?;
    Ok(Some(place))
}

/// PostgreSQL moves all at once.
const MOVE_ALL: &str = "UPDATE socket_cursors SET place = moved.place \
     FROM unnest($1, $2, $3) AS moved (device_id, name, place) \
     WHERE socket_cursors.device_id = moved.device_id AND socket_cursors.name = moved.name \
     AND socket_cursors.place < moved.place";

/// Moves cursors that are there forward.
///
/// # Errors
/// [`StoreError`].
pub fn move_cursors(conn: &mut Conn, moves: &[CursorMove]) -> Result<(), StoreError> {
    match conn {
        Conn::Sqlite(conn) => {
            for CursorMove { device, name, place } in moves {
                let behind = socket_cursors::table
                    .find((device.as_str(), name.as_str()))
                    .filter(dsl::place.lt(signed(*place)));
                diesel::update(behind).set(dsl::place.eq(signed(*place))).execute(conn)?;
            }
        }
        Conn::Postgres(conn) => {
            let devices: Vec<&str> = moves.iter().map(|moved| moved.device.as_str()).collect();
            let names: Vec<&str> = moves.iter().map(|moved| moved.name.as_str()).collect();
            let places: Vec<i64> = moves.iter().map(|moved| signed(moved.place)).collect();
            diesel::sql_query(MOVE_ALL)
                .bind::<Array<Text>, _>(devices)
                .bind::<Array<Text>, _>(names)
                .bind::<Array<BigInt>, _>(places)
                .execute(conn)?;
        }
    }
    Ok(())
}
