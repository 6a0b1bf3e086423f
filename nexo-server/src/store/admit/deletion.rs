//! Deletions for everyone.

use diesel::prelude::*;
use nexo_schema::entry;
use nexo_schema::ids::AccountId;
use nexo_schema::sigchain::caps;
use sha2::{Digest as _, Sha256};

use super::item::{Hash, NewDeletion, Refusal};
use super::{Admission, Decision, Outcome, Placed};
use crate::store::accounts::Device;
use crate::store::fresh::Row;
use crate::store::schema::{deletions, messages, packets, retries};
use crate::store::{StoreError, hash32, signed, unsigned};

impl Admission<'_> {
    pub(super) fn deletion(&mut self, number: usize, new: &NewDeletion, index: u64) -> Outcome {
        let Some(device) = self.acting(&new.device, caps::SEND)? else {
            refuse!(Refusal::DeviceBarred);
        };
        if !device.reaches(&new.conv) || !self.members(&new.conv)?.contains(&device.account) {
            refuse!(Refusal::NotParticipant);
        }
        let Some(target) = self.target(new, &device.account)? else {
            refuse!(Refusal::NoTarget);
        };
        if let Some(native) = &new.native
            && native.target_envelope != target.content
        {
            refuse!(Refusal::WrongTarget);
        }
        if let Some(index) = target.deleted {
            let placed = Placed { ts: self.now };
            return Ok(Ok(Decision::Known { index: unsigned("messages", index)?, placed }));
        }
        self.known.usages.deleted(self.conn, &device.account, target.index)?;
        self.insert_deletion(new, &device, &target, index)?;
        let (account, ts) = (device.account, self.now);
        let row = Row { index, account, ts, target: unsigned("messages", target.index)? };
        self.placed(number, new.conv, row);
        let entry = self.deletion_entry(new, &target);
        Ok(Ok(Decision::Place { entry, placed: Placed { ts: self.now } }))
    }

    /// The account's message of that id in the conversation; if several of its devices used the
    /// id, the asking device's own.
    fn target(
        &mut self,
        new: &NewDeletion,
        account: &AccountId,
    ) -> Result<Option<Target>, StoreError> {
        let rows = messages::table
            .filter(messages::conv_id.eq(new.conv.as_bytes()))
            .filter(messages::msg_id.eq(new.target.as_str()))
            .filter(messages::sender_account.eq(account.as_bytes()))
            .order(messages::sth_index)
            .select((
                messages::sth_index,
                messages::sender_device,
                messages::content_hash,
                messages::deleted_index,
            ))
            .load::<(i64, String, Vec<u8>, Option<i64>)>(self.conn)?;
        let own = rows.iter().position(|(_, device, ..)| device == new.device.as_str());
        let Some((index, _, content, deleted)) = rows.into_iter().nth(own.unwrap_or(0)) else {
            return Ok(None);
        };
        Ok(Some(Target { index, content: hash32("messages", &content)?, deleted }))
    }

    fn deletion_entry(&self, new: &NewDeletion, target: &Target) -> Vec<u8> {
        match &new.native {
            Some(native) => entry::tombstone(
                &Sha256::digest(&native.statement).into(),
                &Sha256::digest(&native.sig).into(),
            ),
            None => {
                let record = entry::plain_deletion_record(
                    self.origin.as_str(),
                    &new.conv.0,
                    new.device.as_str(),
                    &target.content,
                    self.now,
                );
                entry::plain_deletion(&Sha256::digest(record).into())
            }
        }
    }

    /// Clears what was said, keeps what was logged.
    fn insert_deletion(
        &mut self,
        new: &NewDeletion,
        device: &Device,
        target: &Target,
        index: u64,
    ) -> Result<(), StoreError> {
        let nothing: &[u8] = &[];
        diesel::update(messages::table.find(target.index))
            .set((
                messages::cipher.eq(nothing),
                messages::ad.eq(nothing),
                messages::deleted_index.eq(signed(index)),
            ))
            .execute(self.conn)?;
        diesel::update(packets::table.filter(packets::sth_index.eq(target.index)))
            .set(packets::packet.eq(nothing))
            .execute(self.conn)?;
        diesel::delete(retries::table.filter(retries::sth_index.eq(target.index)))
            .execute(self.conn)?;
        diesel::insert_into(deletions::table)
            .values((
                deletions::sth_index.eq(signed(index)),
                deletions::conv_id.eq(new.conv.as_bytes()),
                deletions::target_index.eq(target.index),
                deletions::target_msg_id.eq(new.target.as_str()),
                deletions::device_id.eq(new.device.as_str()),
                deletions::account_id.eq(device.account.as_bytes()),
                deletions::statement.eq(new.native.as_ref().map(|n| &n.statement)),
                deletions::sig.eq(new.native.as_ref().map(|n| &n.sig)),
                deletions::ts.eq(signed(self.now)),
            ))
            .execute(self.conn)?;
        Ok(())
    }
}

/// The message a deletion is about.
struct Target {
    index: i64,
    content: Hash,
    deleted: Option<i64>,
}
