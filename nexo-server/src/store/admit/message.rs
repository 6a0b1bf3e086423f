//! Messages, and their retries.

use std::collections::HashSet;

use diesel::prelude::*;
use nexo_schema::entry;
use nexo_schema::ids::DeviceId;
use nexo_schema::sigchain::caps;
use sha2::{Digest as _, Sha256};

use super::item::{Hash, NativeMessage, NewMessage, Refusal};
use super::{Admission, Decision, Outcome, Placed};
use crate::store::accounts::{Device, active_devices};
use crate::store::counters::use_counter;
use crate::store::prekeys::fallback;
use crate::store::schema::{messages, packets};
use crate::store::{StoreError, signed, unsigned};

impl Admission<'_> {
    pub(super) fn message(&mut self, new: &NewMessage, index: u64) -> Outcome {
        let Some(device) = self.acting(&new.device, caps::SEND)? else {
            refuse!(Refusal::DeviceBarred);
        };
        if !self.members(&new.conv)?.contains(&device.account) {
            refuse!(Refusal::NotParticipant);
        }
        // A retry is known by its id, whatever has changed since: devices, counters, prekeys.
        if let Some(known) = self.known(new)? {
            return Ok(known);
        }
        if let Some(native) = &new.native
            && let Some(refusal) = self.check_native(new, native, &device)?
        {
            refuse!(refusal);
        }
        let content = self.content_hash(new, new.nonce_len, self.now);
        self.insert_message(new, &device, &content, index)?;
        self.touched.push(new.conv);
        let entry = match &new.native {
            Some(_) => entry::message(&content),
            None => entry::plain_message(&content),
        };
        Ok(Ok(Decision::Place { entry, placed: Placed { ts: self.now } }))
    }

    /// The hash that the entry of `new` holds, had it been stored with this shape and time.
    fn content_hash(&self, new: &NewMessage, nonce_len: u32, ts: u64) -> Hash {
        if let Some(native) = &new.native {
            return native.envelope;
        }
        let record = entry::plain_message_record(&entry::PlainMessage {
            origin: self.origin.as_str(),
            conv: &new.conv.0,
            msg_id: new.msg_id.as_str(),
            device: new.device.as_str(),
            nonce_len,
            cipher: &new.cipher,
            ad: &new.ad,
            ts,
        });
        Sha256::digest(record).into()
    }

    /// Whether this device used the `msg_id` before: the same message again, or a conflict.
    /// Comparing hashes rather than bytes also works after the ciphertext was deleted.
    fn known(&mut self, new: &NewMessage) -> Result<Option<Result<Decision, Refusal>>, StoreError> {
        let row = messages::table
            .filter(messages::sender_device.eq(new.device.as_str()))
            .filter(messages::msg_id.eq(new.msg_id.as_str()))
            .select((
                messages::sth_index,
                messages::nonce_len,
                messages::ts,
                messages::content_hash,
            ))
            .first::<(i64, i32, i64, Vec<u8>)>(self.conn)
            .optional()?;
        let Some((index, nonce_len, ts, content)) = row else { return Ok(None) };
        let ts = unsigned("messages", ts)?;
        let nonce_len = u32::try_from(nonce_len).unwrap_or(u32::MAX);
        if content != self.content_hash(new, nonce_len, ts) {
            return Ok(Some(Err(Refusal::Conflict)));
        }
        let index = unsigned("messages", index)?;
        Ok(Some(Ok(Decision::Known { index, placed: Placed { ts } })))
    }

    /// The rules of native messages: packets for the right devices, a counter not used before.
    fn check_native(
        &mut self,
        new: &NewMessage,
        native: &NativeMessage,
        sender: &Device,
    ) -> Result<Option<Refusal>, StoreError> {
        if !self.packets_fit(new, native, sender)? {
            return Ok(Some(Refusal::DevicesChanged));
        }
        let stateless = sender.may(caps::STATELESS);
        let Some(dseq) = native.dseq.filter(|_| !stateless) else {
            let fits = stateless && native.dseq.is_none();
            return Ok((!fits).then_some(Refusal::CounterForm));
        };
        let fresh = use_counter(self.conn, &mut self.counters, &new.device, dseq)?;
        Ok((!fresh).then_some(Refusal::CounterUsed))
    }

    /// Every packet is for an active device of a participant that receives, and every such
    /// device that can be reached has one. The sending device needs none, except alone with itself.
    fn packets_fit(
        &mut self,
        new: &NewMessage,
        native: &NativeMessage,
        sender: &Device,
    ) -> Result<bool, StoreError> {
        let members = self.members(&new.conv)?.clone();
        let alone = members.len() == 1;
        let mut left: HashSet<&DeviceId> = native.packets.iter().map(|p| &p.device).collect();
        for member in &members {
            for device in active_devices(self.conn, member, self.now)? {
                if !device.may(caps::RECV) || (device.id == sender.id && !alone) {
                    continue;
                }
                let addressed = left.remove(&device.id);
                if !addressed && fallback(self.conn, &device.id, self.now)?.is_some() {
                    return Ok(false);
                }
            }
        }
        Ok(left.is_empty() && !native.packets.is_empty())
    }

    fn insert_message(
        &mut self,
        new: &NewMessage,
        sender: &Device,
        content: &Hash,
        index: u64,
    ) -> Result<(), StoreError> {
        diesel::insert_into(messages::table)
            .values((
                messages::sth_index.eq(signed(index)),
                messages::conv_id.eq(new.conv.as_bytes()),
                messages::msg_id.eq(new.msg_id.as_str()),
                messages::sender_device.eq(new.device.as_str()),
                messages::sender_account.eq(sender.account.as_bytes()),
                messages::native.eq(new.native.is_some()),
                messages::nonce_len.eq(i32::try_from(new.nonce_len).unwrap_or(i32::MAX)),
                messages::cipher.eq(&new.cipher),
                messages::ad.eq(&new.ad),
                messages::ts.eq(signed(self.now)),
                messages::content_hash.eq(&content[..]),
            ))
            .execute(self.conn)?;
        for packet in new.native.iter().flat_map(|n| &n.packets) {
            diesel::insert_into(packets::table)
                .values((
                    packets::sth_index.eq(signed(index)),
                    packets::device_id.eq(packet.device.as_str()),
                    packets::packet.eq(&packet.bytes),
                    packets::hash.eq(&packet.hash[..]),
                ))
                .execute(self.conn)?;
        }
        Ok(())
    }
}
