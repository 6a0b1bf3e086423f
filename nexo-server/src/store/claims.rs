//! Claiming one-time prekeys: at most one per device and request, few per claimer (e2ee 2.7).

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, DeviceId};
use nexo_schema::limits::{CLAIMS_PER_DAY, CLAIMS_PER_HOUR};

use super::prekeys::take_one_time;
use super::schema::prekey_claims;
use super::{Conn, PrekeyRow, StoreError, signed};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What a claim came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The key; nobody else gets it.
    Key(PrekeyRow),
    /// None are left.
    Exhausted,
    /// The claimer took its share of this device's keys.
    Throttled,
}

/// Claims a one-time prekey of `device`. Must run in a transaction.
///
/// # Errors
/// [`StoreError`].
pub fn claim_one_time(
    conn: &mut Conn,
    claimer: &AccountId,
    device: &DeviceId,
    now: u64,
) -> Result<Claim, StoreError> {
    let day_ago = signed(now.saturating_sub(DAY));
    diesel::delete(prekey_claims::table.filter(prekey_claims::at.le(day_ago))).execute(conn)?;
    let hour_ago = now.saturating_sub(HOUR);
    if claims_since(conn, claimer, device, hour_ago)? >= CLAIMS_PER_HOUR
        || claims_since(conn, claimer, device, now.saturating_sub(DAY))? >= CLAIMS_PER_DAY
    {
        return Ok(Claim::Throttled);
    }
    let Some(key) = take_one_time(conn, device)? else { return Ok(Claim::Exhausted) };
    diesel::insert_into(prekey_claims::table)
        .values((
            prekey_claims::claimer.eq(claimer.as_bytes()),
            prekey_claims::device_id.eq(device.as_str()),
            prekey_claims::at.eq(signed(now)),
        ))
        .execute(conn)?;
    Ok(Claim::Key(key))
}

fn claims_since(
    conn: &mut Conn,
    claimer: &AccountId,
    device: &DeviceId,
    since: u64,
) -> Result<i64, StoreError> {
    Ok(prekey_claims::table
        .filter(prekey_claims::claimer.eq(claimer.as_bytes()))
        .filter(prekey_claims::device_id.eq(device.as_str()))
        .filter(prekey_claims::at.gt(signed(since)))
        .count()
        .get_result(conn)?)
}
