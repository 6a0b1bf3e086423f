//! Messages, and their retries.

use std::collections::HashSet;
use std::sync::Arc;

use nexo_schema::entry;
use nexo_schema::ids::{AccountId, DeviceId};
use nexo_schema::sigchain::caps;
use sha2::{Digest as _, Sha256};

use super::item::{Hash, NativeMessage, NewMessage, Refusal};
use super::rows::Earlier;
use super::{Admission, Decision, Outcome, Placed};
use crate::store::StoreError;
use crate::store::accounts::{Device, standing_devices};
use crate::store::counters::counter_of;
use crate::store::fresh::Row;
use crate::store::prekeys::fallback;
use crate::store::usage::UsedUp;

impl<'a> Admission<'a> {
    pub(super) fn message(&mut self, number: usize, new: &'a NewMessage, index: u64) -> Outcome {
        let Some(device) = self.acting(&new.device, caps::SEND)? else {
            refuse!(Refusal::DeviceBarred);
        };
        if !device.reaches(&new.conv) {
            refuse!(Refusal::NotParticipant);
        }
        if !self.members(&new.conv)?.contains(&device.account) {
            refuse!(Refusal::NotParticipant);
        }
        if let Some(refusal) = self.barred(new, &device)? {
            // A retry is known by its id, whatever has changed since: devices, counters, prekeys,
            // what is stored.
            return match self.rows.earlier(self.conn, number, new)? {
                Some(earlier) => Ok(self.again(new, &earlier)),
                None => Ok(Err(refusal)),
            };
        }
        let (nonce_len, ts) = (new.nonce_len, self.now);
        let content = self.content_hash(new, nonce_len, ts);
        let at = Earlier { index, nonce_len, ts, content };
        if let Some(earlier) = self.rows.place(self.conn, number, new, &device, at)? {
            return Ok(self.again(new, &earlier));
        }
        self.known.usages.stored(self.conn, &device.account, new)?;
        if let Some(dseq) = new.native.as_ref().and_then(|native| native.dseq) {
            counter_of(self.conn, &mut self.known.counters, &new.device)?.mark(dseq);
        }
        self.placed(number, new.conv, Row { index, account: device.account, ts, target: 0 });
        let entry = match &new.native {
            Some(_) => entry::message(&content),
            None => entry::plain_message(&content),
        };
        Ok(Ok(Decision::Place { entry, placed: Placed { ts } }))
    }

    /// Why a message that is not a retry gets no place, if it gets none.
    fn barred(&mut self, new: &NewMessage, device: &Device) -> Result<Option<Refusal>, StoreError> {
        if let Some(native) = &new.native
            && let Some(refusal) = self.check_native(new, native, device)?
        {
            return Ok(Some(refusal));
        }
        let (usages, quota) = (&mut self.known.usages, self.quota);
        Ok(usages.refuses(self.conn, quota, &device.account, new)?.map(|used_up| match used_up {
            UsedUp::Messages => Refusal::MessagesUsedUp,
            UsedUp::Bytes => Refusal::BytesUsedUp,
        }))
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

    /// The same message again, or a conflict. Comparing hashes rather than bytes also works
    /// after the ciphertext was deleted.
    fn again(&self, new: &NewMessage, earlier: &Earlier) -> Result<Decision, Refusal> {
        let Earlier { index, nonce_len, ts, content } = *earlier;
        if content != self.content_hash(new, nonce_len, ts) {
            return Err(Refusal::Conflict);
        }
        Ok(Decision::Known { index, placed: Placed { ts } })
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
        let counter = counter_of(self.conn, &mut self.known.counters, &new.device)?;
        Ok((!counter.is_unused(dseq)).then_some(Refusal::CounterUsed))
    }

    /// Every packet is for an active device of a participant that receives, and every such
    /// device that can be reached has one. The sending device needs none, except alone with itself.
    fn packets_fit(
        &mut self,
        new: &NewMessage,
        native: &NativeMessage,
        sender: &Device,
    ) -> Result<bool, StoreError> {
        let members = self.members(&new.conv)?.to_vec();
        let alone = members.len() == 1;
        let mut left: HashSet<&DeviceId> = native.packets.iter().map(|p| &p.device).collect();
        for member in &members {
            for device in self.devices_of(member)?.iter().filter(|d| d.is_active(self.now)) {
                let reads = device.may(caps::RECV) && device.reaches(&new.conv);
                if !reads || (device.id == sender.id && !alone) {
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

    /// The account's devices that are not revoked.
    fn devices_of(&mut self, account: &AccountId) -> Result<Arc<[Device]>, StoreError> {
        if let Some(devices) = self.known.devices_of.get(account) {
            return Ok(devices.clone());
        }
        let devices: Arc<[Device]> = standing_devices(self.conn, account)?.into();
        self.known.devices_of.insert(*account, devices.clone());
        Ok(devices)
    }
}
