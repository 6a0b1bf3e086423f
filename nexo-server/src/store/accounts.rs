//! Accounts, devices and the account events behind them. Rows are made by the log alone
//! (`admit`); here they are found.

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, ConvId, DeviceId, Handle};

use super::schema::{accounts, devices, key_events};
use super::{Conn, StoreError, hash32, signed, unsigned};

/// An account.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub handle: Handle,
    /// Whether it has a sigchain.
    pub native: bool,
    /// Position of the entry that made it.
    pub created_index: u64,
}

/// A device and whose it is.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its account.
    pub account: AccountId,
    /// Whether the account has a sigchain.
    pub native: bool,
    /// The account's name.
    pub handle: Handle,
    /// Ed25519.
    pub key: [u8; 32],
    /// The X25519 key derived from it.
    pub x25519: [u8; 32],
    /// Bits of `nexo_schema::sigchain::caps`.
    pub caps: u16,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
    /// Whether an event revoked it.
    pub revoked: bool,
    /// Position of the entry that made its account.
    pub account_index: u64,
    /// Conversations it is limited to; empty for all.
    pub conversations: Vec<ConvId>,
}

impl Device {
    /// Whether it may act at `now` (Unix seconds).
    #[must_use]
    pub fn is_active(&self, now: u64) -> bool {
        !self.revoked && (self.not_after == 0 || now < self.not_after)
    }

    /// Whether it has all of `caps`.
    #[must_use]
    pub fn may(&self, caps: u16) -> bool {
        self.caps & caps == caps
    }

    /// Whether it is not limited to other conversations than this one.
    #[must_use]
    pub fn reaches(&self, conv: &ConvId) -> bool {
        self.conversations.is_empty() || self.conversations.contains(conv)
    }
}

type AccountRow = (Vec<u8>, String, bool, i64);
type DeviceRow = (String, Vec<u8>, Vec<u8>, Vec<u8>, i32, i64, Option<i64>, Vec<u8>);

/// The account of this name.
///
/// # Errors
/// [`StoreError`].
pub fn find_account(conn: &mut Conn, handle: &Handle) -> Result<Option<Account>, StoreError> {
    let row = accounts::table
        .filter(accounts::handle.eq(handle.as_str()))
        .first::<AccountRow>(conn)
        .optional()?;
    row.map(account).transpose()
}

/// The account of this id.
///
/// # Errors
/// [`StoreError`].
pub fn find_account_by_id(conn: &mut Conn, id: &AccountId) -> Result<Option<Account>, StoreError> {
    let row = accounts::table
        .filter(accounts::account_id.eq(id.as_bytes()))
        .first::<AccountRow>(conn)
        .optional()?;
    row.map(account).transpose()
}

/// How many accounts there are.
///
/// # Errors
/// [`StoreError`].
pub fn count_accounts(conn: &mut Conn) -> Result<u64, StoreError> {
    unsigned("accounts", accounts::table.count().get_result(conn)?)
}

/// The device of this id, revoked or not.
///
/// # Errors
/// [`StoreError`].
pub fn device_by_id(conn: &mut Conn, id: &DeviceId) -> Result<Option<Device>, StoreError> {
    let row = devices::table
        .inner_join(accounts::table)
        .filter(devices::device_id.eq(id.as_str()))
        .select((DEVICE, ACCOUNT))
        .first::<(DeviceRow, AccountRow)>(conn)
        .optional()?;
    row.map(|(row, owner)| device(row, account(owner)?)).transpose()
}

/// The account's devices that are neither revoked nor expired at `now`, oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn active_devices(
    conn: &mut Conn,
    id: &AccountId,
    now: u64,
) -> Result<Vec<Device>, StoreError> {
    let mut devices = standing_devices(conn, id)?;
    devices.retain(|device| device.is_active(now));
    Ok(devices)
}

/// The account's devices that are not revoked, expired or not, oldest first.
pub(super) fn standing_devices(conn: &mut Conn, id: &AccountId) -> Result<Vec<Device>, StoreError> {
    let rows = devices::table
        .inner_join(accounts::table)
        .filter(devices::account_id.eq(id.as_bytes()))
        .filter(devices::revoked_index.is_null())
        .order((devices::added_index, devices::device_id))
        .select((DEVICE, ACCOUNT))
        .load::<(DeviceRow, AccountRow)>(conn)?;
    rows.into_iter().map(|(row, owner)| device(row, account(owner)?)).collect()
}

/// An account event with its signatures, and its position in the log.
pub type EventRow = (u64, [Vec<u8>; 3]);

/// The account's events from genesis on: position, and event, signature, acceptance.
///
/// # Errors
/// [`StoreError`].
pub fn events(conn: &mut Conn, id: &AccountId) -> Result<Vec<EventRow>, StoreError> {
    let rows = key_events::table
        .filter(key_events::account_id.eq(id.as_bytes()))
        .order(key_events::seq)
        .select(EVENT)
        .load::<EventColumns>(conn)?;
    rows.into_iter().map(event).collect()
}

/// At most `limit` of the account's events from number `from` on.
///
/// # Errors
/// [`StoreError`].
pub fn events_from(
    conn: &mut Conn,
    id: &AccountId,
    from: u64,
    limit: u32,
) -> Result<Vec<EventRow>, StoreError> {
    let rows = key_events::table
        .filter(key_events::account_id.eq(id.as_bytes()))
        .filter(key_events::seq.ge(signed(from)))
        .order(key_events::seq)
        .limit(i64::from(limit))
        .select(EVENT)
        .load::<EventColumns>(conn)?;
    rows.into_iter().map(event).collect()
}

const EVENT: (key_events::sth_index, key_events::event, key_events::sig, key_events::accept_sig) =
    (key_events::sth_index, key_events::event, key_events::sig, key_events::accept_sig);

type EventColumns = (i64, Vec<u8>, Vec<u8>, Vec<u8>);

fn event((index, event, sig, accept): EventColumns) -> Result<EventRow, StoreError> {
    Ok((unsigned("key_events", index)?, [event, sig, accept]))
}

const ACCOUNT: (accounts::account_id, accounts::handle, accounts::native, accounts::created_index) =
    (accounts::account_id, accounts::handle, accounts::native, accounts::created_index);

const DEVICE: (
    devices::device_id,
    devices::account_id,
    devices::ed25519_pub,
    devices::x25519_pub,
    devices::caps,
    devices::not_after,
    devices::revoked_index,
    devices::conversations,
) = (
    devices::device_id,
    devices::account_id,
    devices::ed25519_pub,
    devices::x25519_pub,
    devices::caps,
    devices::not_after,
    devices::revoked_index,
    devices::conversations,
);

fn account((id, handle, native, index): AccountRow) -> Result<Account, StoreError> {
    Ok(Account {
        id: AccountId(hash32("accounts", &id)?),
        handle: Handle::parse(&handle)
            .map_err(|_| StoreError::corrupt("accounts", "the handle is none"))?,
        native,
        created_index: unsigned("accounts", index)?,
    })
}

fn device(row: DeviceRow, owner: Account) -> Result<Device, StoreError> {
    let (id, account, key, x25519, caps, not_after, revoked, conversations) = row;
    let (conversations, rest) = conversations.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(StoreError::corrupt("devices", "its conversations are no ids"));
    }
    Ok(Device {
        id: DeviceId::parse(&id)
            .map_err(|_| StoreError::corrupt("devices", "the device id is none"))?,
        account: AccountId(hash32("devices", &account)?),
        native: owner.native,
        handle: owner.handle,
        key: hash32("devices", &key)?,
        x25519: hash32("devices", &x25519)?,
        caps: u16::try_from(caps).map_err(|_| StoreError::corrupt("devices", "unknown caps"))?,
        not_after: unsigned("devices", not_after)?,
        revoked: revoked.is_some(),
        account_index: owner.created_index,
        conversations: conversations.iter().copied().map(ConvId).collect(),
    })
}
