//! Auditor tokens, by hash, each until it ends or is revoked.

use diesel::prelude::*;

use super::schema::auditor_tokens;
use super::{Conn, StoreError, hash32, signed, unsigned};

/// Keeps a token, and forgets those that have ended.
///
/// # Errors
/// [`StoreError`].
pub fn put_auditor(conn: &mut Conn, hash: &[u8; 32], exp: u64, now: u64) -> Result<(), StoreError> {
    diesel::delete(auditor_tokens::table.filter(auditor_tokens::exp.lt(signed(now))))
        .execute(conn)?;
    diesel::insert_into(auditor_tokens::table)
        .values((auditor_tokens::hash.eq(&hash[..]), auditor_tokens::exp.eq(signed(exp))))
        .execute(conn)?;
    Ok(())
}

/// Whether a token is in force at `now`.
///
/// # Errors
/// [`StoreError`].
pub fn is_auditor(conn: &mut Conn, hash: &[u8; 32], now: u64) -> Result<bool, StoreError> {
    let live = auditor_tokens::table
        .filter(auditor_tokens::hash.eq(&hash[..]))
        .filter(auditor_tokens::exp.ge(signed(now)));
    Ok(diesel::select(diesel::dsl::exists(live)).get_result(conn)?)
}

/// Every token's hash and end (Unix seconds), by their ends.
///
/// # Errors
/// [`StoreError`].
pub fn auditors(conn: &mut Conn) -> Result<Vec<([u8; 32], u64)>, StoreError> {
    let rows = auditor_tokens::table
        .order((auditor_tokens::exp, auditor_tokens::hash))
        .select((auditor_tokens::hash, auditor_tokens::exp))
        .load::<(Vec<u8>, i64)>(conn)?;
    rows.into_iter()
        .map(|(hash, exp)| Ok((hash32("auditor_tokens", &hash)?, unsigned("auditor_tokens", exp)?)))
        .collect()
}

/// Forgets a token; `false` if there was none.
///
/// # Errors
/// [`StoreError`].
pub fn drop_auditor(conn: &mut Conn, hash: &[u8; 32]) -> Result<bool, StoreError> {
    let token = auditor_tokens::table.filter(auditor_tokens::hash.eq(&hash[..]));
    Ok(diesel::delete(token).execute(conn)? == 1)
}
