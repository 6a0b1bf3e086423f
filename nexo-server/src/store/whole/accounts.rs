//! Accounts by their ids, a page at a time, with their devices and the places of their events.

use diesel::prelude::*;

use super::super::schema::{accounts, devices, key_events};
use super::super::{Conn, StoreError};

/// Accounts in a page.
const PAGE: i64 = 500;

/// An account's row.
#[derive(Debug, Clone, Queryable)]
pub struct AccountRow {
    /// Its id.
    pub account_id: Vec<u8>,
    /// Its name.
    pub handle: String,
    /// Whether it has a sigchain.
    pub native: bool,
    /// Place of the entry that made it.
    pub created_index: i64,
}

/// A device's row.
#[derive(Debug, Clone, Queryable)]
pub struct DeviceRow {
    /// Its id.
    pub device_id: String,
    /// Whose.
    pub account_id: Vec<u8>,
    /// Ed25519.
    pub ed25519_pub: Vec<u8>,
    /// The X25519 key derived from it.
    pub x25519_pub: Vec<u8>,
    /// What it may do.
    pub caps: i32,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: i64,
    /// Place of the entry that added it.
    pub added_index: i64,
    /// Place of the entry that revoked it.
    pub revoked_index: Option<i64>,
    /// The conversations it is limited to, joined; empty for all.
    pub conversations: Vec<u8>,
}

/// Where a key event is, and what it says.
#[derive(Debug, Clone)]
pub struct EventPlace {
    /// Whose.
    pub account_id: Vec<u8>,
    /// Place in the log.
    pub sth_index: i64,
    /// Position in the chain.
    pub seq: i64,
    /// The event.
    pub event: Vec<u8>,
}

/// Accounts, and all that belongs to them.
#[derive(Debug, Default)]
pub struct AccountPage {
    /// The accounts, by id.
    pub accounts: Vec<AccountRow>,
    /// Their devices.
    pub devices: Vec<DeviceRow>,
    /// Their events.
    pub events: Vec<EventPlace>,
}

/// The accounts behind `after` (an account id) whose ids begin with the byte `shard` and which
/// lie behind position `behind` of the log. An empty page is the last.
///
/// # Errors
/// [`StoreError`].
pub fn accounts_from(
    conn: &mut Conn,
    shard: u8,
    after: Option<&[u8]>,
    behind: i64,
) -> Result<AccountPage, StoreError> {
    let low = [shard];
    let mut query = accounts::table
        .filter(accounts::account_id.ge(&low[..]))
        .filter(accounts::created_index.gt(behind))
        .order(accounts::account_id)
        .limit(PAGE)
        .into_boxed();
    if let Some(high) = shard.checked_add(1) {
        query = query.filter(accounts::account_id.lt(vec![high]));
    }
    if let Some(after) = after {
        query = query.filter(accounts::account_id.gt(after.to_vec()));
    }
    let accounts: Vec<AccountRow> = query.load(conn)?;
    let ids: Vec<&[u8]> = accounts.iter().map(|a| &a.account_id[..]).collect();
    let devices = devices::table
        .filter(devices::account_id.eq_any(&ids))
        .order((devices::account_id, devices::added_index))
        .load(conn)?;
    let events = key_events::table
        .filter(key_events::account_id.eq_any(&ids))
        .order((key_events::account_id, key_events::seq))
        .select((key_events::account_id, key_events::sth_index, key_events::seq, key_events::event))
        .load::<(Vec<u8>, i64, i64, Vec<u8>)>(conn)?;
    let place =
        |(account_id, sth_index, seq, event)| EventPlace { account_id, sth_index, seq, event };
    Ok(AccountPage { accounts, devices, events: events.into_iter().map(place).collect() })
}
