//! What may enter the log, decided inside the transaction that writes it.
//!
//! Handlers have checked all of this before; here it is checked again, because between a
//! handler and the commit a device can be revoked, a handle taken, a message id used. What
//! fails is answered with a [`Refusal`], gets no entry and has written nothing: every check
//! of an item comes before its first write.

use std::collections::HashMap;

use nexo_schema::ids::{AccountId, ConvId, DeviceId, Origin};

use super::accounts::{Device, device_by_id};
use super::conversations::participants_of;
use super::counters::Counter;
use super::{Conn, StoreError};

/// Leaves the function with a refusal.
macro_rules! refuse {
    ($why:expr) => {
        return Ok(Err($why))
    };
}

mod deletion;
mod item;
mod message;
mod register;

pub use item::{
    Item, NativeDeletion, NativeMessage, NewDeletion, NewMessage, Packet, Placed, Refusal,
    Registration, SignedGenesis,
};

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
