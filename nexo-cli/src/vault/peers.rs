//! Accounts whose chain was verified, and which of them a handle is pinned to.

use diesel::prelude::*;
use nexo_schema::http::Prekey;
use nexo_schema::ids::Handle;

use super::schema::peers;
use super::{Tx, VaultError, array, signed, unsigned};
use crate::e2ee::{AccountId, SignedGenesis};

/// A verified account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The account.
    pub account: AccountId,
    /// Its handle.
    pub handle: Handle,
    /// Whether the handle is pinned to this account.
    pub pinned: bool,
    /// Its first event, verified again whenever its keys are used.
    pub genesis: SignedGenesis,
    /// Where that event stands in the log, from 1.
    pub sth_index: u64,
    /// The prekey last served for its device.
    pub fallback: Option<PeerFallback>,
    /// Whether the relay has opened the conversation with it.
    pub conversation: bool,
}

/// A prekey as served; public, and verified again at each use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFallback {
    /// The prekey.
    pub prekey: Prekey,
    /// When it was fetched, Unix seconds of this machine.
    pub fetched_at: u64,
}

type Row = (
    Vec<u8>,
    String,
    bool,
    String,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    i64,
    i64,
    Option<String>,
    Option<i64>,
    bool,
);

impl Tx<'_> {
    /// A verified account by its id.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn peer(&mut self, account: AccountId) -> Result<Option<Peer>, VaultError> {
        let row = peers::table.find(&account.as_bytes()[..]).first::<Row>(self.conn).optional()?;
        row.map(peer).transpose()
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
        row.map(peer).transpose()
    }

    /// Stores a verified account and pins its handle to it. The caller has decided that the
    /// handle may be pinned to this account.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn pin_peer(&mut self, new: &Peer, device_id: &str, now: u64) -> Result<(), VaultError> {
        diesel::update(peers::table.filter(peers::handle.eq(new.handle.as_str())))
            .set(peers::pinned.eq(false))
            .execute(self.conn)?;
        diesel::insert_into(peers::table)
            .values((
                peers::account_id.eq(&new.account.as_bytes()[..]),
                peers::handle.eq(new.handle.as_str()),
                peers::pinned.eq(true),
                peers::device_id.eq(device_id),
                peers::genesis_event.eq(&new.genesis.event),
                peers::genesis_sig.eq(&new.genesis.signature[..]),
                peers::genesis_accept.eq(&new.genesis.accept_signature[..]),
                peers::sth_index.eq(signed(new.sth_index)),
                peers::first_seen.eq(signed(now)),
                peers::conversation.eq(false),
            ))
            .on_conflict(peers::account_id)
            .do_update()
            .set(peers::pinned.eq(true))
            .execute(self.conn)?;
        Ok(())
    }

    /// Keeps the prekey that was served for an account's device.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_peer_fallback(
        &mut self,
        account: AccountId,
        fallback: Option<&PeerFallback>,
    ) -> Result<(), VaultError> {
        let text = fallback
            .map(|f| serde_json::to_string(&f.prekey))
            .transpose()
            .map_err(|_| VaultError::Corrupt { table: "peers", what: "a prekey" })?;
        diesel::update(peers::table.find(&account.as_bytes()[..]))
            .set((
                peers::fallback.eq(text),
                peers::fallback_at.eq(fallback.map(|f| signed(f.fetched_at))),
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
}

fn peer(row: Row) -> Result<Peer, VaultError> {
    let (account, handle, pinned, _, event, sig, accept, index, _, fallback, at, conversation) =
        row;
    let corrupt = |what| VaultError::Corrupt { table: "peers", what };
    let fallback = match (fallback, at) {
        (Some(text), Some(at)) => Some(PeerFallback {
            prekey: serde_json::from_str(&text).map_err(|_| corrupt("a prekey"))?,
            fetched_at: unsigned("peers", at)?,
        }),
        _ => None,
    };
    Ok(Peer {
        account: AccountId::from_bytes(array("peers", &account)?),
        handle: Handle::parse(&handle).map_err(|_| corrupt("a handle"))?,
        pinned,
        genesis: SignedGenesis {
            event,
            signature: array("peers", &sig)?,
            accept_signature: array("peers", &accept)?,
        },
        sth_index: unsigned("peers", index)?,
        fallback,
        conversation,
    })
}
