//! Login challenges: single use, short-lived, bounded per device.

use diesel::prelude::*;
use nexo_schema::ids::DeviceId;
use nexo_schema::limits::MAX_CHALLENGES;

use super::schema::challenges;
use super::{Conn, StoreError, signed};

/// A challenge that waits for its answer.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The line to be signed.
    pub nonce: String,
    /// The register request it belongs to, byte for byte.
    pub request: Vec<u8>,
}

/// Keeps a challenge, dropping expired ones and the device's oldest beyond the bound: whoever
/// asks in a device's name can crowd out older challenges, but never use or void one in flight
/// without asking [`MAX_CHALLENGES`] times within the rate limit.
///
/// # Errors
/// [`StoreError`].
pub fn put_challenge(
    conn: &mut Conn,
    device: &DeviceId,
    pending: &Pending,
    exp: u64,
    now: u64,
) -> Result<(), StoreError> {
    diesel::delete(challenges::table.filter(challenges::exp.lt(signed(now)))).execute(conn)?;
    let crowd: Vec<String> = challenges::table
        .filter(challenges::device_id.eq(device.as_str()))
        .order((challenges::exp.desc(), challenges::nonce))
        .offset(MAX_CHALLENGES as i64 - 1)
        .limit(MAX_CHALLENGES as i64)
        .select(challenges::nonce)
        .load(conn)?;
    diesel::delete(challenges::table.filter(challenges::nonce.eq_any(crowd))).execute(conn)?;
    diesel::insert_into(challenges::table)
        .values((
            challenges::nonce.eq(&pending.nonce),
            challenges::device_id.eq(device.as_str()),
            challenges::request.eq(&pending.request),
            challenges::exp.eq(signed(exp)),
        ))
        .execute(conn)?;
    Ok(())
}

/// The device's challenges that are live at `now`, newest first.
///
/// # Errors
/// [`StoreError`].
pub fn live_challenges(
    conn: &mut Conn,
    device: &DeviceId,
    now: u64,
) -> Result<Vec<Pending>, StoreError> {
    let rows = challenges::table
        .filter(challenges::device_id.eq(device.as_str()))
        .filter(challenges::exp.ge(signed(now)))
        .order((challenges::exp.desc(), challenges::nonce))
        .limit(MAX_CHALLENGES as i64)
        .select((challenges::nonce, challenges::request))
        .load::<(String, Vec<u8>)>(conn)?;
    Ok(rows.into_iter().map(|(nonce, request)| Pending { nonce, request }).collect())
}

/// Uses a challenge up. `false` if it is gone or has expired: of concurrent users one wins.
///
/// # Errors
/// [`StoreError`].
pub fn take_challenge(conn: &mut Conn, nonce: &str, now: u64) -> Result<bool, StoreError> {
    let live = challenges::table
        .filter(challenges::nonce.eq(nonce))
        .filter(challenges::exp.ge(signed(now)));
    Ok(diesel::delete(live).execute(conn)? == 1)
}
