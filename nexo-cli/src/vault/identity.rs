//! This device, and the relay it belongs to.

use diesel::prelude::*;
use zeroize::Zeroizing;

use super::chains::SignedEvent;
use super::schema::{identity, server_pin};
use super::sealed::Cell;
use super::{Tx, VaultError, array};
use crate::e2ee::{AccountId, DeviceSecret, SignedGenesis};
use crate::identity::Identity;
use nexo_schema::ids::Handle;

/// What was pinned at registration, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPin {
    /// The relay's URL.
    pub url: String,
    /// Its origin.
    pub origin: String,
    /// The key that signs its log.
    pub log_vkey: String,
    /// The key that dates its heads, if it was learned.
    pub time_vkey: Option<String>,
}

const SEED: Cell<'static> = Cell { table: "identity", column: "seed", row: b"1", version: 1 };
const IDEM: Cell<'static> = Cell { table: "identity", column: "idem", row: b"1", version: 1 };

type Row = (
    i32,
    String,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    bool,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
);

impl Tx<'_> {
    /// The device of this directory and whether it was seen in the log; `None` before
    /// registration.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn identity(&mut self) -> Result<Option<(Identity, bool)>, VaultError> {
        let row = identity::table.find(1).first::<Row>(self.conn).optional()?;
        let Some((_, handle, account, event, sig, accept, seed, idem, registered, a, b, c)) = row
        else {
            return Ok(None);
        };
        let admission = match (a, b, c) {
            (Some(event), Some(sig), Some(accept_sig)) => {
                Some(SignedEvent { event, sig, accept_sig })
            }
            _ => None,
        };
        let seed = self.sealer.open(&SEED, &seed)?;
        let idem = self.sealer.open(&IDEM, &idem)?;
        let corrupt = |what| VaultError::Corrupt { table: "identity", what };
        let identity = Identity {
            handle: Handle::parse(&handle).map_err(|_| corrupt("the handle"))?,
            account: AccountId::from_bytes(array("identity", &account)?),
            device: DeviceSecret::from_seed(&Zeroizing::new(array("identity", &seed)?)),
            genesis: SignedGenesis {
                event,
                signature: array("identity", &sig)?,
                accept_signature: array("identity", &accept)?,
            },
            admission,
            idem: Zeroizing::new(array("identity", &idem)?),
        };
        Ok(Some((identity, registered)))
    }

    /// Stores a new identity, not yet seen in the log, in the place of one that never was.
    ///
    /// # Errors
    /// [`VaultError`]; a registered identity is never replaced.
    pub fn put_identity(&mut self, new: &Identity) -> Result<(), VaultError> {
        diesel::delete(identity::table.filter(identity::registered.eq(false)))
            .execute(self.conn)?;
        diesel::insert_into(identity::table)
            .values((
                identity::id.eq(1),
                identity::handle.eq(new.handle.as_str()),
                identity::account_id.eq(&new.account.as_bytes()[..]),
                identity::genesis_event.eq(&new.genesis.event),
                identity::genesis_sig.eq(&new.genesis.signature[..]),
                identity::genesis_accept.eq(&new.genesis.accept_signature[..]),
                identity::sealed_seed.eq(self.sealer.seal(&SEED, &new.device.seed()[..])?),
                identity::sealed_idem.eq(self.sealer.seal(&IDEM, &new.idem[..])?),
                identity::registered.eq(false),
                identity::admission_event.eq(new.admission.as_ref().map(|a| &a.event)),
                identity::admission_sig.eq(new.admission.as_ref().map(|a| &a.sig)),
                identity::admission_accept.eq(new.admission.as_ref().map(|a| &a.accept_sig)),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Marks the identity as seen in the log.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_registered(&mut self) -> Result<(), VaultError> {
        diesel::update(identity::table).set(identity::registered.eq(true)).execute(self.conn)?;
        Ok(())
    }

    /// The relay this state belongs to; `None` before registration.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn server_pin(&mut self) -> Result<Option<StoredPin>, VaultError> {
        type Row = (i32, String, String, String, Option<String>);
        let row = server_pin::table.find(1).first::<Row>(self.conn).optional()?;
        Ok(row.map(|(_, url, origin, log_vkey, time_vkey)| StoredPin {
            url,
            origin,
            log_vkey,
            time_vkey,
        }))
    }

    /// Pins a relay. There is one per state, and it never changes its URL, origin or log key.
    ///
    /// # Errors
    /// [`VaultError`], also if one is pinned.
    pub fn pin_server(&mut self, pin: &StoredPin) -> Result<(), VaultError> {
        diesel::insert_into(server_pin::table)
            .values((
                server_pin::id.eq(1),
                server_pin::url.eq(&pin.url),
                server_pin::origin.eq(&pin.origin),
                server_pin::log_vkey.eq(&pin.log_vkey),
                server_pin::time_vkey.eq(pin.time_vkey.as_deref()),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Remembers the time key that the pinned log key named.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_time_key(&mut self, vkey: &str) -> Result<(), VaultError> {
        diesel::update(server_pin::table)
            .set(server_pin::time_vkey.eq(Some(vkey)))
            .execute(self.conn)?;
        Ok(())
    }
}
