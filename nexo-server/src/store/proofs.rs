//! DPoP proofs that were used up, between servers that share a database.
//!
//! A mark is made with one statement, so of two servers that are shown the same proof at once one
//! makes it. It does not wait for the disk: a database that crashes may forget the last moments,
//! and then each server still remembers what it was shown itself.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;

use super::schema::proofs_seen::{self, dsl};
use super::{Conn, StoreError, signed};

/// Marks a proof as used until `exp` (Unix seconds); `false` if it was.
///
/// # Errors
/// [`StoreError`].
pub fn use_proof(conn: &mut Conn, mark: &[u8; 16], exp: u64) -> Result<bool, StoreError> {
    let row = (dsl::mark.eq(&mark[..]), dsl::exp.eq(signed(exp)));
    let mark = diesel::insert_into(proofs_seen::table).values(row).on_conflict_do_nothing();
    let made = match conn {
        Conn::Sqlite(conn) => mark.execute(conn)?,
        Conn::Postgres(conn) => conn.transaction(|conn| {
            conn.batch_execute("SET LOCAL synchronous_commit TO off")?;
            mark.execute(conn)
        })?,
    };
    Ok(made == 1)
}

/// Forgets the proofs that are void at `now` anyway.
///
/// # Errors
/// [`StoreError`].
pub fn forget_proofs(conn: &mut Conn, now: u64) -> Result<(), StoreError> {
    diesel::delete(proofs_seen::table.filter(dsl::exp.lt(signed(now)))).execute(conn)?;
    Ok(())
}
