//! What may enter the log, decided inside the transaction that writes it.
//!
//! Handlers have checked all of this before; here it is checked again, because between a
//! handler and the commit a device can be revoked, a handle taken, a message id used. What
//! fails is answered with a [`Refusal`], gets no entry and has written nothing: every check
//! of an item comes before its first write.

use std::collections::HashMap;

use diesel::prelude::*;
use nexo_schema::entry;
use nexo_schema::ids::{AccountId, ConvId, DeviceId, Handle, MsgId, Origin};
use nexo_schema::sigchain::caps;
use sha2::{Digest as _, Sha256};

use super::accounts::{Device, active_devices, device_by_id, find_account};
use super::challenges::take_challenge;
use super::conversations::participants_of;
use super::counters::{Counter, use_counter};
use super::invites::spend_invite;
use super::prekeys::fallback;
use super::schema::{accounts, deletions, devices, key_events, messages, packets};
use super::{Conn, StoreError, hash32, signed, unsigned};

type Hash = [u8; 32];

/// Something that wants a place in the log.
#[derive(Debug)]
pub enum Item {
    /// A new account with its first device.
    Register(Registration),
    /// A message.
    Message(NewMessage),
    /// The deletion of a message for everyone.
    Deletion(NewDeletion),
}

/// A new account, proved and checked but for what may have changed since.
#[derive(Debug)]
pub struct Registration {
    /// Its name.
    pub handle: Handle,
    /// Its id.
    pub account: AccountId,
    /// Its first device.
    pub device: DeviceId,
    /// Ed25519.
    pub key: Hash,
    /// The X25519 key derived from it.
    pub x25519: Hash,
    /// The device's capabilities.
    pub caps: u16,
    /// Unix seconds after which the device is void; 0 for none.
    pub not_after: u64,
    /// The challenge that was answered; used up with the registration.
    pub nonce: String,
    /// Hash of the invite to spend.
    pub invite: Option<Hash>,
    /// Native accounts: the event as signed.
    pub genesis: Option<SignedGenesis>,
    /// The log entry.
    pub entry: Vec<u8>,
}

/// A genesis event as signed.
#[derive(Debug)]
pub struct SignedGenesis {
    /// The event.
    pub event: Vec<u8>,
    /// The device's signature.
    pub sig: Vec<u8>,
    /// The device's acceptance.
    pub accept_sig: Vec<u8>,
}

/// A message to store.
#[derive(Debug)]
pub struct NewMessage {
    /// Where to.
    pub conv: ConvId,
    /// Its id.
    pub msg_id: MsgId,
    /// Who sends it.
    pub device: DeviceId,
    /// Bytes of `cipher` that are its nonce, when it came as `{c,n}`.
    pub nonce_len: u32,
    /// The ciphertext.
    pub cipher: Vec<u8>,
    /// The exact bytes received.
    pub ad: Vec<u8>,
    /// Set on native messages.
    pub native: Option<NativeMessage>,
}

/// What a native message has besides.
#[derive(Debug)]
pub struct NativeMessage {
    /// The envelope hash EH over all that is stored.
    pub envelope: Hash,
    /// A key packet per device, in ascending order of device id.
    pub packets: Vec<Packet>,
    /// The send counter; stateless devices have none.
    pub dseq: Option<u64>,
}

/// A key packet.
#[derive(Debug)]
pub struct Packet {
    /// Whom it is for.
    pub device: DeviceId,
    /// The packet.
    pub bytes: Vec<u8>,
    /// Its SHA-256.
    pub hash: Hash,
}

/// A deletion to store.
#[derive(Debug)]
pub struct NewDeletion {
    /// Where.
    pub conv: ConvId,
    /// What.
    pub target: MsgId,
    /// Who asks.
    pub device: DeviceId,
    /// Native accounts sign.
    pub native: Option<NativeDeletion>,
}

/// A signed tombstone, its signature verified.
#[derive(Debug)]
pub struct NativeDeletion {
    /// The signed bytes.
    pub statement: Vec<u8>,
    /// The signature.
    pub sig: Vec<u8>,
    /// The envelope hash it names.
    pub target_envelope: Hash,
}

/// What a submitter learns besides the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The relay's time for it, Unix seconds.
    pub ts: u64,
}

/// Why an item got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The challenge was used or has expired.
    #[error("the challenge was used or has expired")]
    ChallengeGone,
    /// The handle belongs to another account.
    #[error("the handle is taken")]
    HandleTaken,
    /// The device id belongs to another key.
    #[error("the device id is taken")]
    DeviceTaken,
    /// The invite has no use left.
    #[error("the invite is not valid")]
    InviteSpent,
    /// The device is revoked, expired or lacks the capability.
    #[error("the device may not do this")]
    DeviceBarred,
    /// The account takes no part in the conversation, or it does not exist.
    #[error("not a participant of the conversation")]
    NotParticipant,
    /// The `msg_id` was used with other content.
    #[error("the msg_id was used with other content")]
    Conflict,
    /// The send counter was used, or lies below the window.
    #[error("the send counter was used before")]
    CounterUsed,
    /// A native device that keeps state sent no send counter, or a stateless one did.
    #[error("the send counter is missing or not wanted")]
    CounterForm,
    /// Key packets do not match the participants' devices.
    #[error("the participants' devices have changed")]
    DevicesChanged,
    /// There is no such message of this account in the conversation.
    #[error("no such message of yours in this conversation")]
    NoTarget,
    /// The tombstone names another envelope.
    #[error("the tombstone names another envelope")]
    WrongTarget,
}

/// What admission came to.
pub(super) enum Decision {
    /// Written; `entry` goes into the tree at the position given.
    Place { entry: Vec<u8>, placed: Placed },
    /// It had its place before, at 1-based `index`.
    Known { index: u64, placed: Placed },
    /// Nothing was written.
    Refuse(Refusal),
}

/// The state of one batch: its time, and rows that its items share.
pub(super) struct Admission<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) origin: &'a Origin,
    /// The time of every item of the batch, Unix seconds; never before an earlier batch's.
    pub(super) now: u64,
    devices: HashMap<DeviceId, Option<Device>>,
    members: HashMap<ConvId, Vec<AccountId>>,
    counters: HashMap<DeviceId, Counter>,
    /// Conversations in which something was placed.
    pub(super) touched: Vec<ConvId>,
}

type Outcome = Result<Result<Decision, Refusal>, StoreError>;

/// Leaves the function with a refusal.
macro_rules! refuse {
    ($why:expr) => {
        return Ok(Err($why))
    };
}

impl<'a> Admission<'a> {
    pub(super) fn new(conn: &'a mut Conn, origin: &'a Origin, now: u64) -> Self {
        Self {
            conn,
            origin,
            now,
            devices: HashMap::new(),
            members: HashMap::new(),
            counters: HashMap::new(),
            touched: Vec::new(),
        }
    }

    /// Decides on `item`, writing it at 1-based `index` if it is placed.
    pub(super) fn decide(&mut self, item: &Item, index: u64) -> Result<Decision, StoreError> {
        let outcome = match item {
            Item::Register(new) => self.register(new, index),
            Item::Message(new) => self.message(new, index),
            Item::Deletion(new) => self.deletion(new, index),
        }?;
        Ok(outcome.unwrap_or_else(Decision::Refuse))
    }

    /// Writes what the batch kept in memory.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        for (device, counter) in self.counters.drain() {
            counter.store(self.conn, &device)?;
        }
        Ok(())
    }

    fn register(&mut self, new: &Registration, index: u64) -> Outcome {
        if let Some(account) = find_account(self.conn, &new.handle)? {
            // The same registration, proved twice at once: the second is a login, and like a
            // login uses its challenge up afterwards (a known item writes nothing).
            if account.id != new.account {
                refuse!(Refusal::HandleTaken);
            }
            let placed = Placed { ts: self.now };
            return Ok(Ok(Decision::Known { index: account.created_index, placed }));
        }
        if device_by_id(self.conn, &new.device)?.is_some() {
            refuse!(Refusal::DeviceTaken);
        }
        // Spending writes, so everything that can fail is looked at first.
        if let Some(invite) = &new.invite {
            if !self.challenge_is_live(&new.nonce)? {
                refuse!(Refusal::ChallengeGone);
            }
            if !spend_invite(self.conn, invite, self.now)? {
                refuse!(Refusal::InviteSpent);
            }
        }
        if !take_challenge(self.conn, &new.nonce, self.now)? {
            refuse!(Refusal::ChallengeGone);
        }
        self.insert_account(new, index)?;
        self.devices.remove(&new.device);
        let placed = Placed { ts: self.now };
        Ok(Ok(Decision::Place { entry: new.entry.clone(), placed }))
    }

    fn challenge_is_live(&mut self, nonce: &str) -> Result<bool, StoreError> {
        use super::schema::challenges;
        let live = challenges::table.find(nonce).filter(challenges::exp.ge(signed(self.now)));
        Ok(diesel::select(diesel::dsl::exists(live)).get_result(self.conn)?)
    }

    fn insert_account(&mut self, new: &Registration, index: u64) -> Result<(), StoreError> {
        diesel::insert_into(accounts::table)
            .values((
                accounts::account_id.eq(new.account.as_bytes()),
                accounts::handle.eq(new.handle.as_str()),
                accounts::native.eq(new.genesis.is_some()),
                accounts::created_index.eq(signed(index)),
            ))
            .execute(self.conn)?;
        diesel::insert_into(devices::table)
            .values((
                devices::device_id.eq(new.device.as_str()),
                devices::account_id.eq(new.account.as_bytes()),
                devices::ed25519_pub.eq(&new.key[..]),
                devices::x25519_pub.eq(&new.x25519[..]),
                devices::caps.eq(i32::from(new.caps)),
                devices::not_after.eq(signed(new.not_after)),
                devices::added_index.eq(signed(index)),
            ))
            .execute(self.conn)?;
        if let Some(genesis) = &new.genesis {
            diesel::insert_into(key_events::table)
                .values((
                    key_events::sth_index.eq(signed(index)),
                    key_events::account_id.eq(new.account.as_bytes()),
                    key_events::seq.eq(0),
                    key_events::event.eq(&genesis.event),
                    key_events::sig.eq(&genesis.sig),
                    key_events::accept_sig.eq(&genesis.accept_sig),
                ))
                .execute(self.conn)?;
        }
        Ok(())
    }

    fn message(&mut self, new: &NewMessage, index: u64) -> Outcome {
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
        if let Some(native) = &new.native {
            if let Some(refusal) = self.check_native(new, native, &device)? {
                refuse!(refusal);
            }
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
            .select((messages::sth_index, messages::nonce_len, messages::ts, messages::content_hash))
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
        let mut left: HashMap<&DeviceId, ()> =
            native.packets.iter().map(|p| (&p.device, ())).collect();
        for member in &members {
            for device in active_devices(self.conn, member, self.now)? {
                if !device.may(caps::RECV) || (device.id == sender.id && !alone) {
                    continue;
                }
                let addressed = left.remove(&device.id).is_some();
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

    fn deletion(&mut self, new: &NewDeletion, index: u64) -> Outcome {
        let Some(device) = self.acting(&new.device, caps::SEND)? else {
            refuse!(Refusal::DeviceBarred);
        };
        if !self.members(&new.conv)?.contains(&device.account) {
            refuse!(Refusal::NotParticipant);
        }
        let Some(target) = self.target(new, &device.account)? else {
            refuse!(Refusal::NoTarget);
        };
        if let Some(native) = &new.native {
            if native.target_envelope != target.content {
                refuse!(Refusal::WrongTarget);
            }
        }
        if let Some(index) = target.deleted {
            let placed = Placed { ts: self.now };
            return Ok(Ok(Decision::Known { index: unsigned("messages", index)?, placed }));
        }
        self.insert_deletion(new, &device, &target, index)?;
        self.touched.push(new.conv);
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

    /// The device, if it may act now and has `caps`.
    fn acting(&mut self, id: &DeviceId, caps: u16) -> Result<Option<Device>, StoreError> {
        if !self.devices.contains_key(id) {
            let found = device_by_id(self.conn, id)?;
            self.devices.insert(id.clone(), found);
        }
        let device = self.devices.get(id).cloned().flatten();
        Ok(device.filter(|d| d.is_active(self.now) && d.may(caps)))
    }

    fn members(&mut self, conv: &ConvId) -> Result<&Vec<AccountId>, StoreError> {
        if !self.members.contains_key(conv) {
            let found = participants_of(self.conn, conv)?;
            self.members.insert(*conv, found);
        }
        Ok(&self.members[conv])
    }

    /// Everyone who may read what was placed: conversations, then accounts.
    pub(super) fn audience(&self) -> (Vec<ConvId>, Vec<AccountId>) {
        let mut convs = self.touched.clone();
        convs.sort_unstable();
        convs.dedup();
        let mut accounts: Vec<AccountId> =
            convs.iter().filter_map(|c| self.members.get(c)).flatten().copied().collect();
        accounts.sort_unstable();
        accounts.dedup();
        (convs, accounts)
    }
}

/// The message a deletion is about.
struct Target {
    index: i64,
    content: Hash,
    deleted: Option<i64>,
}
