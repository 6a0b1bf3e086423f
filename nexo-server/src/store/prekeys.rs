//! Prekeys as devices publish them (e2ee 2.7).

use diesel::prelude::*;
use nexo_schema::ids::DeviceId;

use super::schema::{fallback_prekeys, one_time_prekeys, prekey_marks};
use super::{Conn, StoreError, signed};

/// A prekey as published. One-time prekeys have no times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrekeyRow {
    /// Strictly increasing per device and kind.
    pub id: u32,
    /// X25519.
    pub x25519: Vec<u8>,
    /// ML-KEM-768 encapsulation key.
    pub kem: Vec<u8>,
    /// Unix seconds, `(not_before, not_after)`.
    pub validity: Option<(u64, u64)>,
    /// The device's signature.
    pub sig: Vec<u8>,
}

/// A prekey that was not taken; nothing of the publication is kept then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRefusal {
    /// Its id is not above the highest published, and it is not that very key again.
    Reused(u32),
    /// More one-time prekeys than the relay keeps.
    TooMany,
}

/// Publishes a fallback prekey and one-time prekeys, and drops `remove`. Publishing the same
/// keys again changes nothing.
///
/// # Errors
/// [`StoreError`]; the inner error is a refusal, after which the caller must roll back.
pub fn publish(
    conn: &mut Conn,
    device: &DeviceId,
    new_fallback: Option<&PrekeyRow>,
    one_time: &[PrekeyRow],
    remove: &[u32],
    most: usize,
) -> Result<Result<(), PublishRefusal>, StoreError> {
    if let Some(key) = new_fallback
        && !replace_fallback(conn, device, key)?
    {
        return Ok(Err(PublishRefusal::Reused(key.id)));
    }
    let remove = remove.iter().map(|&id| i64::from(id));
    diesel::delete(one_time_prekeys::table)
        .filter(one_time_prekeys::device_id.eq(device.as_str()))
        .filter(one_time_prekeys::id.eq_any(remove))
        .execute(conn)?;
    for key in one_time {
        if !add_one_time(conn, device, key)? {
            return Ok(Err(PublishRefusal::Reused(key.id)));
        }
    }
    let left: i64 = one_time_prekeys::table
        .filter(one_time_prekeys::device_id.eq(device.as_str()))
        .count()
        .get_result(conn)?;
    Ok(if left > most as i64 { Err(PublishRefusal::TooMany) } else { Ok(()) })
}

/// The device's fallback prekey, if one is in force at `now`.
///
/// # Errors
/// [`StoreError`].
pub fn fallback(
    conn: &mut Conn,
    device: &DeviceId,
    now: u64,
) -> Result<Option<PrekeyRow>, StoreError> {
    Ok(published_fallback(conn, device)?.filter(|key| {
        key.validity.is_some_and(|(not_before, not_after)| (not_before..not_after).contains(&now))
    }))
}

/// What the relay holds of a device: the fallback prekey (in force or not), one-time prekeys.
///
/// # Errors
/// [`StoreError`].
pub fn stock(
    conn: &mut Conn,
    device: &DeviceId,
) -> Result<(Option<PrekeyRow>, Vec<PrekeyRow>), StoreError> {
    let rows = one_time_prekeys::table
        .filter(one_time_prekeys::device_id.eq(device.as_str()))
        .order(one_time_prekeys::id)
        .select(ONE_TIME)
        .load::<OneTimeRow>(conn)?;
    let one_time = rows.into_iter().map(one_time).collect::<Result<_, _>>()?;
    Ok((published_fallback(conn, device)?, one_time))
}

/// How many one-time prekeys of the device are left; `None` if it never published any.
///
/// # Errors
/// [`StoreError`].
pub fn one_time_left(conn: &mut Conn, device: &DeviceId) -> Result<Option<u64>, StoreError> {
    let mark = prekey_marks::table.find(device.as_str()).select(prekey_marks::one_time);
    if mark.first::<i64>(conn).optional()?.is_none() {
        return Ok(None);
    }
    let left = one_time_prekeys::table
        .filter(one_time_prekeys::device_id.eq(device.as_str()))
        .count()
        .get_result(conn)?;
    super::unsigned("one_time_prekeys", left).map(Some)
}

/// Removes and returns the device's oldest one-time prekey.
pub(super) fn take_one_time(
    conn: &mut Conn,
    device: &DeviceId,
) -> Result<Option<PrekeyRow>, StoreError> {
    let row = one_time_prekeys::table
        .filter(one_time_prekeys::device_id.eq(device.as_str()))
        .order(one_time_prekeys::id)
        .select(ONE_TIME)
        .first::<OneTimeRow>(conn)
        .optional()?;
    let Some(key) = row.map(one_time).transpose()? else { return Ok(None) };
    let gone = one_time_prekeys::table.find((device.as_str(), i64::from(key.id)));
    diesel::delete(gone).execute(conn)?;
    Ok(Some(key))
}

fn published_fallback(conn: &mut Conn, device: &DeviceId) -> Result<Option<PrekeyRow>, StoreError> {
    let row = fallback_prekeys::table
        .find(device.as_str())
        .select((
            (
                fallback_prekeys::id,
                fallback_prekeys::x25519,
                fallback_prekeys::kem,
                fallback_prekeys::sig,
            ),
            fallback_prekeys::not_before,
            fallback_prekeys::not_after,
        ))
        .first::<(OneTimeRow, i64, i64)>(conn)
        .optional()?;
    row.map(|(row, not_before, not_after)| {
        let time = |t| super::unsigned("fallback_prekeys", t);
        Ok(PrekeyRow { validity: Some((time(not_before)?, time(not_after)?)), ..one_time(row)? })
    })
    .transpose()
}

/// `false` if the id was used before for another key.
fn replace_fallback(
    conn: &mut Conn,
    device: &DeviceId,
    key: &PrekeyRow,
) -> Result<bool, StoreError> {
    if let Some(current) = published_fallback(conn, device)?
        && key.id <= current.id
    {
        return Ok(*key == current);
    }
    diesel::delete(fallback_prekeys::table.find(device.as_str())).execute(conn)?;
    let (not_before, not_after) = key.validity.unwrap_or_default();
    diesel::insert_into(fallback_prekeys::table)
        .values((
            fallback_prekeys::device_id.eq(device.as_str()),
            fallback_prekeys::id.eq(i64::from(key.id)),
            fallback_prekeys::x25519.eq(&key.x25519),
            fallback_prekeys::kem.eq(&key.kem),
            fallback_prekeys::not_before.eq(signed(not_before)),
            fallback_prekeys::not_after.eq(signed(not_after)),
            fallback_prekeys::sig.eq(&key.sig),
        ))
        .execute(conn)?;
    Ok(true)
}

/// `false` if the id was used before for another key, or for one already claimed.
fn add_one_time(conn: &mut Conn, device: &DeviceId, key: &PrekeyRow) -> Result<bool, StoreError> {
    let mark: Option<i64> = prekey_marks::table
        .find(device.as_str())
        .select(prekey_marks::one_time)
        .first(conn)
        .optional()?;
    if mark.is_some_and(|mark| i64::from(key.id) <= mark) {
        let held = one_time_prekeys::table
            .find((device.as_str(), i64::from(key.id)))
            .select(ONE_TIME)
            .first::<OneTimeRow>(conn)
            .optional()?;
        return Ok(held.map(one_time).transpose()?.as_ref() == Some(key));
    }
    diesel::insert_into(one_time_prekeys::table)
        .values((
            one_time_prekeys::device_id.eq(device.as_str()),
            one_time_prekeys::id.eq(i64::from(key.id)),
            one_time_prekeys::x25519.eq(&key.x25519),
            one_time_prekeys::kem.eq(&key.kem),
            one_time_prekeys::sig.eq(&key.sig),
        ))
        .execute(conn)?;
    raise_mark(conn, device, key.id, mark.is_some())?;
    Ok(true)
}

fn raise_mark(conn: &mut Conn, device: &DeviceId, id: u32, exists: bool) -> Result<(), StoreError> {
    let id = i64::from(id);
    if exists {
        diesel::update(prekey_marks::table.find(device.as_str()))
            .set(prekey_marks::one_time.eq(id))
            .execute(conn)?;
    } else {
        diesel::insert_into(prekey_marks::table)
            .values((prekey_marks::device_id.eq(device.as_str()), prekey_marks::one_time.eq(id)))
            .execute(conn)?;
    }
    Ok(())
}

const ONE_TIME: (
    one_time_prekeys::id,
    one_time_prekeys::x25519,
    one_time_prekeys::kem,
    one_time_prekeys::sig,
) = (one_time_prekeys::id, one_time_prekeys::x25519, one_time_prekeys::kem, one_time_prekeys::sig);

type OneTimeRow = (i64, Vec<u8>, Vec<u8>, Vec<u8>);

fn one_time((id, x25519, kem, sig): OneTimeRow) -> Result<PrekeyRow, StoreError> {
    let id = u32::try_from(id).map_err(|_| StoreError::corrupt("prekeys", "the id is no u32"))?;
    Ok(PrekeyRow { id, x25519, kem, validity: None, sig })
}
