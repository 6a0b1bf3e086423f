//! Account chains as they were verified, and which devices of the own account are known here.

use std::collections::BTreeSet;

use diesel::prelude::*;

use super::schema::{chain_events, own_devices};
use super::{Tx, VaultError, array, signed, unsigned};
use crate::e2ee::{AccountId, DeviceId};

pub use nexo_audit::sigchain::SignedEvent;

/// An event of a chain and its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEvent {
    /// The event and its signatures.
    pub signed: SignedEvent,
    /// Position in the log, from 1.
    pub sth_index: u64,
}

impl Tx<'_> {
    /// What was verified of an account's chain, from its first event on; empty for an account
    /// that was never looked up.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn chain(&mut self, account: AccountId) -> Result<Vec<ChainEvent>, VaultError> {
        type Row = (Vec<u8>, i64, i64, Vec<u8>, Vec<u8>, Vec<u8>);
        let rows: Vec<Row> = chain_events::table
            .filter(chain_events::account_id.eq(&account.as_bytes()[..]))
            .order(chain_events::seq.asc())
            .load(self.conn)?;
        let mut events = Vec::with_capacity(rows.len());
        for (_, seq, index, event, sig, accept_sig) in rows {
            if unsigned("chain_events", seq)? != events.len() as u64 {
                return Err(VaultError::Corrupt { table: "chain_events", what: "a gap" });
            }
            let signed = SignedEvent { event, sig, accept_sig };
            events.push(ChainEvent { signed, sth_index: unsigned("chain_events", index)? });
        }
        Ok(events)
    }

    /// Keeps a verified chain. The caller has compared it with the one kept before; events that
    /// are here already stay as they are.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_chain(
        &mut self,
        account: AccountId,
        events: &[ChainEvent],
    ) -> Result<(), VaultError> {
        for (seq, one) in events.iter().enumerate() {
            diesel::insert_into(chain_events::table)
                .values((
                    chain_events::account_id.eq(&account.as_bytes()[..]),
                    chain_events::seq.eq(signed(seq as u64)),
                    chain_events::sth_index.eq(signed(one.sth_index)),
                    chain_events::event.eq(&one.signed.event),
                    chain_events::sig.eq(&one.signed.sig),
                    chain_events::accept_sig.eq(&one.signed.accept_sig),
                ))
                .on_conflict_do_nothing()
                .execute(self.conn)?;
        }
        Ok(())
    }

    /// Devices of the own account that were added or confirmed here.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn known_own_devices(&mut self) -> Result<BTreeSet<DeviceId>, VaultError> {
        let rows: Vec<Vec<u8>> =
            own_devices::table.select(own_devices::device_id).load(self.conn)?;
        rows.iter().map(|id| Ok(DeviceId::from_bytes(array("own_devices", id)?))).collect()
    }

    /// Remembers a device of the own account as the owner's.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn know_own_device(&mut self, device: DeviceId, now: u64) -> Result<(), VaultError> {
        diesel::insert_into(own_devices::table)
            .values((
                own_devices::device_id.eq(&device.as_bytes()[..]),
                own_devices::known_at.eq(signed(now)),
            ))
            .on_conflict_do_nothing()
            .execute(self.conn)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Vault;

    fn event(byte: u8, sth_index: u64) -> ChainEvent {
        let signed = SignedEvent { event: vec![byte], sig: vec![1; 64], accept_sig: Vec::new() };
        ChainEvent { signed, sth_index }
    }

    #[tokio::test]
    async fn a_chain_grows_and_never_changes() {
        let vault = Vault::in_memory().unwrap();
        let account = AccountId::from_bytes([1; 32]);
        let put = |events: Vec<ChainEvent>| {
            let vault = &vault;
            async move { vault.write(|tx| tx.put_chain(account, &events)).await.unwrap() }
        };
        put(vec![event(1, 3)]).await;
        put(vec![event(9, 9), event(2, 5)]).await;
        let kept = vault.read(|tx| tx.chain(account)).unwrap();
        assert_eq!(kept, [event(1, 3), event(2, 5)]);
        assert!(vault.read(|tx| tx.chain(AccountId::from_bytes([2; 32]))).unwrap().is_empty());
    }

    #[tokio::test]
    async fn devices_are_known_once() {
        let vault = Vault::in_memory().unwrap();
        let device = DeviceId::from_bytes([1; 32]);
        for now in [1, 2] {
            vault.write(|tx| tx.know_own_device(device, now)).await.unwrap();
        }
        let known = vault.read(|tx| tx.known_own_devices()).unwrap();
        assert_eq!(known.into_iter().collect::<Vec<_>>(), [device]);
    }
}
