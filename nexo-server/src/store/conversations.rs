//! Conversations and who takes part.

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId};

use super::schema::{conversations, participants};
use super::{Conn, StoreError, hash32, signed, unsigned};

/// Opens the conversation of two accounts (or of one with itself), or finds it.
///
/// # Errors
/// [`StoreError`].
pub fn open_conversation(
    conn: &mut Conn,
    conv: &ConvId,
    one: &AccountId,
    other: &AccountId,
    now: u64,
) -> Result<(), StoreError> {
    // Changes take turns: what is not there now will not be there before we put it there.
    let found = conversations::table.find(conv.as_bytes());
    if diesel::select(diesel::dsl::exists(found)).get_result(conn)? {
        return Ok(());
    }
    diesel::insert_into(conversations::table)
        .values((
            conversations::conv_id.eq(conv.as_bytes()),
            conversations::kind.eq("direct"),
            conversations::created.eq(signed(now)),
        ))
        .execute(conn)?;
    let others = (other != one).then_some(other);
    for account in [one].into_iter().chain(others) {
        diesel::insert_into(participants::table)
            .values((
                participants::conv_id.eq(conv.as_bytes()),
                participants::account_id.eq(account.as_bytes()),
            ))
            .execute(conn)?;
    }
    Ok(())
}

/// How many conversations the account takes part in.
///
/// # Errors
/// [`StoreError`].
pub fn count_conversations(conn: &mut Conn, account: &AccountId) -> Result<u64, StoreError> {
    let count: i64 = participants::table
        .filter(participants::account_id.eq(account.as_bytes()))
        .count()
        .get_result(conn)?;
    unsigned("participants", count)
}

/// Whether the account takes part in the conversation. A conversation that does not exist has
/// no participants.
///
/// # Errors
/// [`StoreError`].
pub fn is_participant(
    conn: &mut Conn,
    conv: &ConvId,
    account: &AccountId,
) -> Result<bool, StoreError> {
    let row = participants::table.find((conv.as_bytes(), account.as_bytes()));
    Ok(diesel::select(diesel::dsl::exists(row)).get_result(conn)?)
}

/// The conversation's participants, one for notes to self.
pub(super) fn participants_of(
    conn: &mut Conn,
    conv: &ConvId,
) -> Result<Vec<AccountId>, StoreError> {
    let rows = participants::table
        .filter(participants::conv_id.eq(conv.as_bytes()))
        .select(participants::account_id)
        .load::<Vec<u8>>(conn)?;
    rows.iter().map(|row| Ok(AccountId(hash32("participants", row)?))).collect()
}

/// Whether the two accounts have a conversation in common.
///
/// # Errors
/// [`StoreError`].
pub fn shares_conversation(
    conn: &mut Conn,
    one: &AccountId,
    other: &AccountId,
) -> Result<bool, StoreError> {
    let theirs = diesel::alias!(participants as theirs);
    let in_theirs = theirs
        .filter(theirs.field(participants::account_id).eq(other.as_bytes()))
        .select(theirs.field(participants::conv_id));
    let common: Option<Vec<u8>> = participants::table
        .filter(participants::account_id.eq(one.as_bytes()))
        .filter(participants::conv_id.eq_any(in_theirs))
        .select(participants::conv_id)
        .first(conn)
        .optional()?;
    Ok(common.is_some())
}
