//! A device that is on its way into an account: its key, and the event that brings it in. Kept
//! before the relay hears of the event, so that no account ever has a device whose key was lost
//! in a crash.

use diesel::prelude::*;
use nexo_schema::bytes::{dec, enc, fixed};
use nexo_schema::ids::Handle;
use zeroize::Zeroizing;

use super::chains::SignedEvent;
use super::schema::meta;
use super::sealed::Cell;
use super::{Tx, VaultError};
use crate::e2ee::AccountId;

const LABEL: &str = "nexo/1/store/pending";
const PENDING: Cell<'static> = Cell { table: "meta", column: "pending", row: b"", version: 1 };

/// A device that is not in its account for sure yet.
pub struct Pending {
    /// The account's handle.
    pub handle: Handle,
    /// The account.
    pub account: AccountId,
    /// The seed of the device's key.
    pub seed: Zeroizing<[u8; 32]>,
    /// The event that brings it in, accepted.
    pub admission: SignedEvent,
}

impl Tx<'_> {
    /// The device that waits, if there is one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn pending(&mut self) -> Result<Option<Pending>, VaultError> {
        let Some(sealed) = self.meta("pending")? else { return Ok(None) };
        let bytes = self.sealer.open(&PENDING, &sealed)?;
        let corrupt = |_| VaultError::Corrupt { table: "meta", what: "the pending device" };
        let [handle, account, seed, event, sig, accept] =
            dec::<6>(LABEL, &bytes).map_err(corrupt)?;
        let handle = std::str::from_utf8(handle).ok().and_then(|text| Handle::parse(text).ok());
        let absent = VaultError::Corrupt { table: "meta", what: "the pending device" };
        Ok(Some(Pending {
            handle: handle.ok_or(absent)?,
            account: AccountId::from_bytes(fixed(account).map_err(corrupt)?),
            seed: Zeroizing::new(fixed(seed).map_err(corrupt)?),
            admission: SignedEvent {
                event: event.to_vec(),
                sig: sig.to_vec(),
                accept_sig: accept.to_vec(),
            },
        }))
    }

    /// Keeps a device that waits, in the place of an earlier one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_pending(&mut self, pending: &Pending) -> Result<(), VaultError> {
        let Pending { handle, account, seed, admission } = pending;
        let bytes = Zeroizing::new(enc(
            LABEL,
            &[
                handle.as_str().as_bytes(),
                account.as_bytes(),
                &seed[..],
                &admission.event,
                &admission.sig,
                &admission.accept_sig,
            ],
        ));
        let sealed = self.sealer.seal(&PENDING, &bytes)?;
        self.set_meta("pending", &sealed)
    }

    /// Forgets it: it has come in, or never will.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn clear_pending(&mut self) -> Result<(), VaultError> {
        diesel::delete(meta::table.find("pending")).execute(self.conn)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Vault;

    #[tokio::test]
    async fn a_waiting_device_is_kept_and_forgotten() {
        let vault = Vault::in_memory().unwrap();
        assert!(vault.read(|tx| tx.pending()).unwrap().is_none());
        let admission = SignedEvent { event: vec![1], sig: vec![2; 64], accept_sig: vec![3; 64] };
        let pending = Pending {
            handle: Handle::parse("alice").unwrap(),
            account: AccountId::from_bytes([4; 32]),
            seed: Zeroizing::new([5; 32]),
            admission,
        };
        vault.write(|tx| tx.set_pending(&pending)).await.unwrap();
        let kept = vault.read(|tx| tx.pending()).unwrap().unwrap();
        assert_eq!((kept.handle, kept.account), (pending.handle, pending.account));
        assert_eq!((kept.seed, kept.admission), (pending.seed, pending.admission));
        vault.write(|tx| tx.clear_pending()).await.unwrap();
        assert!(vault.read(|tx| tx.pending()).unwrap().is_none());
    }
}
