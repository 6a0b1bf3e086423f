//! Invites, by hash, with a number of uses and an end.

use diesel::prelude::*;

use super::schema::invites;
use super::{Conn, StoreError, signed};

/// Keeps an invite.
///
/// # Errors
/// [`StoreError`].
pub fn put_invite(conn: &mut Conn, hash: &[u8; 32], uses: u64, exp: u64) -> Result<(), StoreError> {
    diesel::insert_into(invites::table)
        .values((
            invites::hash.eq(&hash[..]),
            invites::uses_left.eq(signed(uses)),
            invites::exp.eq(signed(exp)),
        ))
        .execute(conn)?;
    Ok(())
}

/// Takes one use of an invite; `false` if it has none left, has ended or never was.
pub(super) fn spend_invite(conn: &mut Conn, hash: &[u8; 32], now: u64) -> Result<bool, StoreError> {
    let open = invites::table
        .filter(invites::hash.eq(&hash[..]))
        .filter(invites::uses_left.gt(0))
        .filter(invites::exp.ge(signed(now)));
    let spent =
        diesel::update(open).set(invites::uses_left.eq(invites::uses_left - 1)).execute(conn)?;
    Ok(spent == 1)
}
