//! Accounts that were verified, and which of them a handle is pinned to.

use diesel::prelude::*;
use nexo_schema::http::DeviceBundle;
use nexo_schema::ids::Handle;

use super::chains::ChainEvent;
use super::schema::peers;
use super::{Tx, VaultError, array, signed, unsigned};
use crate::e2ee::AccountId;

/// A verified account.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The account.
    pub account: AccountId,
    /// Its handle.
    pub handle: Handle,
    /// Whether the handle is pinned to this account.
    pub pinned: bool,
    /// Its chain from the first event on, replayed again whenever its keys are used.
    pub events: Vec<ChainEvent>,
    /// The prekeys last served for its devices.
    pub served: Option<Served>,
    /// Whether the relay has opened the conversation with it.
    pub conversation: bool,
}

/// Prekeys as served; public, and verified again at each use.
#[derive(Debug, Clone)]
pub struct Served {
    /// By device.
    pub devices: Vec<DeviceBundle>,
    /// When they were fetched, Unix seconds of this machine.
    pub fetched_at: u64,
}

type Row = (Vec<u8>, String, bool, i64, bool, Option<String>, Option<i64>);

impl Tx<'_> {
    /// A verified account by its id.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn peer(&mut self, account: AccountId) -> Result<Option<Peer>, VaultError> {
        let row = peers::table.find(&account.as_bytes()[..]).first::<Row>(self.conn).optional()?;
        row.map(|row| self.whole(row)).transpose()
    }

    /// The account a handle is pinned to.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn pinned_peer(&mut self, handle: &Handle) -> Result<Option<Peer>, VaultError> {
        let row = peers::table
            .filter(peers::handle.eq(handle.as_str()).and(peers::pinned.eq(true)))
            .first::<Row>(self.conn)
            .optional()?;
        row.map(|row| self.whole(row)).transpose()
    }

    /// Stores a verified account and pins its handle to it. The caller has decided that the
    /// handle may be pinned to this account.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn pin_peer(&mut self, new: &Peer, now: u64) -> Result<(), VaultError> {
        diesel::update(peers::table.filter(peers::handle.eq(new.handle.as_str())))
            .set(peers::pinned.eq(false))
            .execute(self.conn)?;
        diesel::insert_into(peers::table)
            .values((
                peers::account_id.eq(&new.account.as_bytes()[..]),
                peers::handle.eq(new.handle.as_str()),
                peers::pinned.eq(true),
                peers::first_seen.eq(signed(now)),
                peers::conversation.eq(false),
            ))
            .on_conflict(peers::account_id)
            .do_update()
            .set(peers::pinned.eq(true))
            .execute(self.conn)?;
        Ok(())
    }

    /// Keeps the prekeys that were served for an account's devices.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_peer_served(
        &mut self,
        account: AccountId,
        served: Option<&Served>,
    ) -> Result<(), VaultError> {
        let text = served
            .map(|s| serde_json::to_string(&s.devices))
            .transpose()
            .map_err(|_| VaultError::Corrupt { table: "peers", what: "a bundle" })?;
        diesel::update(peers::table.find(&account.as_bytes()[..]))
            .set((
                peers::bundle.eq(text),
                peers::bundle_at.eq(served.map(|s| signed(s.fetched_at))),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Remembers that the relay has opened the conversation with an account.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_conversation_open(&mut self, account: AccountId) -> Result<(), VaultError> {
        diesel::update(peers::table.find(&account.as_bytes()[..]))
            .set(peers::conversation.eq(true))
            .execute(self.conn)?;
        Ok(())
    }

    fn whole(&mut self, row: Row) -> Result<Peer, VaultError> {
        let (account, handle, pinned, _, conversation, bundle, at) = row;
        let corrupt = |what| VaultError::Corrupt { table: "peers", what };
        let account = AccountId::from_bytes(array("peers", &account)?);
        let served = match (bundle, at) {
            (Some(text), Some(at)) => Some(Served {
                devices: serde_json::from_str(&text).map_err(|_| corrupt("a bundle"))?,
                fetched_at: unsigned("peers", at)?,
            }),
            _ => None,
        };
        Ok(Peer {
            account,
            handle: Handle::parse(&handle).map_err(|_| corrupt("a handle"))?,
            pinned,
            events: self.chain(account)?,
            served,
            conversation,
        })
    }
}
