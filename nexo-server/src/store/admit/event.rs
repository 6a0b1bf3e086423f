//! Events of a chain behind its genesis, and what they do to devices.
//!
//! The rules were judged against the chain that `prev` names (`auth/chain.rs`). A chain is a
//! function of its newest event, so they hold if that is what `prev` still names. What a chain
//! does not know is judged here: whether the signer has expired by the time of this batch, and
//! whether the new device is somebody's. Rows, entry and the end of a device's logins are one
//! transaction: there is no position in the log at which a revoked device has only half ended.

use diesel::prelude::*;
use nexo_schema::ids::{AccountId, DeviceId};
use sha2::{Digest as _, Sha256};

use super::item::{Effect, Hash, NewDevice, NewEvent, Refusal};
use super::{Admission, Decision, Outcome, Placed};
use crate::store::accounts::{device_by_id, standing_devices};
use crate::store::schema::{
    challenges, devices, fallback_prekeys, key_events, one_time_prekeys, prekey_marks,
    refresh_tokens,
};
use crate::store::{StoreError, signed, unsigned};

impl Admission<'_> {
    pub(super) fn event(&mut self, new: &NewEvent, index: u64) -> Outcome {
        let placed = Placed { ts: self.now };
        if let Some((place, event)) = self.stored_event(&new.account, new.seq)? {
            if event != new.signed.event {
                refuse!(Refusal::ChainMoved);
            }
            return Ok(Ok(Decision::Known { index: place, placed }));
        }
        if !self.is_newest(new)? {
            refuse!(Refusal::ChainMoved);
        }
        if let Some(signer) = &new.signer
            && self.acting(signer, 0)?.is_none()
        {
            refuse!(Refusal::DeviceBarred);
        }
        if let Effect::Add(device) | Effect::Recover(device) = &new.effect
            && device_by_id(self.conn, &device.id)?.is_some()
        {
            refuse!(Refusal::DeviceTaken);
        }
        self.insert_event(new, index)?;
        self.apply(&new.account, &new.effect, index)?;
        self.known.changed_accounts(&[new.account]);
        self.told.keys_changed.push(new.account);
        Ok(Ok(Decision::Place { entry: new.entry.clone(), placed }))
    }

    /// The account's event of this number and its position.
    fn stored_event(
        &mut self,
        account: &AccountId,
        seq: u64,
    ) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let row = key_events::table
            .filter(key_events::account_id.eq(account.as_bytes()))
            .filter(key_events::seq.eq(signed(seq)))
            .select((key_events::sth_index, key_events::event))
            .first::<(i64, Vec<u8>)>(self.conn)
            .optional()?;
        row.map(|(place, event)| Ok((unsigned("key_events", place)?, event))).transpose()
    }

    /// Whether the event follows the newest one; there is none of its own number.
    fn is_newest(&mut self, new: &NewEvent) -> Result<bool, StoreError> {
        let Some(before) = new.seq.checked_sub(1) else { return Ok(false) };
        let before = self.stored_event(&new.account, before)?;
        Ok(before.is_some_and(|(_, event)| Hash::from(Sha256::digest(event)) == new.prev))
    }

    fn insert_event(&mut self, new: &NewEvent, index: u64) -> Result<(), StoreError> {
        diesel::insert_into(key_events::table)
            .values((
                key_events::sth_index.eq(signed(index)),
                key_events::account_id.eq(new.account.as_bytes()),
                key_events::seq.eq(signed(new.seq)),
                key_events::event.eq(&new.signed.event),
                key_events::sig.eq(&new.signed.sig),
                key_events::accept_sig.eq(&new.signed.accept_sig),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    fn apply(
        &mut self,
        account: &AccountId,
        effect: &Effect,
        index: u64,
    ) -> Result<(), StoreError> {
        match effect {
            Effect::Add(device) => self.insert_device(account, device, index),
            Effect::Recover(device) => {
                self.end_all(account, index)?;
                self.insert_device(account, device, index)
            }
            Effect::Revoke(device) => self.end(account, device, index),
            Effect::Update { device, caps, not_after } => {
                let changed = diesel::update(devices::table)
                    .filter(devices::device_id.eq(device.as_str()))
                    .filter(devices::account_id.eq(account.as_bytes()))
                    .filter(devices::revoked_index.is_null())
                    .set((
                        devices::caps.eq(i32::from(*caps)),
                        devices::not_after.eq(signed(*not_after)),
                    ))
                    .execute(self.conn)?;
                one_row(changed)
            }
            Effect::SetRecovery => Ok(()),
            Effect::Close => self.end_all(account, index),
        }
    }

    fn insert_device(
        &mut self,
        account: &AccountId,
        device: &NewDevice,
        index: u64,
    ) -> Result<(), StoreError> {
        diesel::insert_into(devices::table)
            .values((
                devices::device_id.eq(device.id.as_str()),
                devices::account_id.eq(account.as_bytes()),
                devices::ed25519_pub.eq(&device.key[..]),
                devices::x25519_pub.eq(&device.x25519[..]),
                devices::caps.eq(i32::from(device.caps)),
                devices::not_after.eq(signed(device.not_after)),
                devices::added_index.eq(signed(index)),
                devices::conversations.eq(device.conversations.concat()),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    fn end_all(&mut self, account: &AccountId, index: u64) -> Result<(), StoreError> {
        for device in standing_devices(self.conn, account)? {
            self.end(account, &device.id, index)?;
        }
        Ok(())
    }

    /// Ends a device: from this position on it is nobody who may do anything, and what it could
    /// log in with or be written to by is gone. What was sent to it stays where it is logged;
    /// only the device itself could have asked for it.
    fn end(
        &mut self,
        account: &AccountId,
        device: &DeviceId,
        index: u64,
    ) -> Result<(), StoreError> {
        let id = device.as_str();
        let ended = diesel::update(devices::table)
            .filter(devices::device_id.eq(id))
            .filter(devices::account_id.eq(account.as_bytes()))
            .filter(devices::revoked_index.is_null())
            .set(devices::revoked_index.eq(signed(index)))
            .execute(self.conn)?;
        one_row(ended)?;
        let conn = &mut *self.conn;
        diesel::delete(refresh_tokens::table.filter(refresh_tokens::device_id.eq(id)))
            .execute(conn)?;
        diesel::delete(challenges::table.filter(challenges::device_id.eq(id))).execute(conn)?;
        diesel::delete(fallback_prekeys::table.find(id)).execute(conn)?;
        diesel::delete(one_time_prekeys::table.filter(one_time_prekeys::device_id.eq(id)))
            .execute(conn)?;
        diesel::delete(prekey_marks::table.find(id)).execute(conn)?;
        Ok(())
    }
}

/// The chain says that the device is there and not revoked; then so does its row.
fn one_row(changed: usize) -> Result<(), StoreError> {
    match changed {
        1 => Ok(()),
        _ => Err(StoreError::corrupt("devices", "a device is not as its chain has it")),
    }
}
