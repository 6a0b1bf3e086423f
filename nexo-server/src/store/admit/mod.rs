//! What may enter the log, decided inside the transaction that writes it.
//!
//! Handlers have checked all of this before; here it is checked again, because between a
//! handler and the commit a device can be revoked, a handle taken, a message id used. What
//! fails is answered with a [`Refusal`], gets no entry and has written nothing: every check
//! of an item comes before its first write.
//!
//! `item.rs` names what may enter, `known.rs` keeps what only the log changes, `rows.rs` writes
//! messages, each engine in its own way.

use std::sync::Arc;

use nexo_schema::ids::{AccountId, ConvId, DeviceId, Origin};

use super::accounts::{Device, device_by_id};
use super::conversations::participants_of;
use super::counters::store_all;
use super::fresh::{Row, Told};
use super::usage::StorageQuota;
use super::{Conn, StoreError};
use rows::Rows;

/// Leaves the function with a refusal.
macro_rules! refuse {
    ($why:expr) => {
        return Ok(Err($why))
    };
}

mod deletion;
mod event;
mod item;
mod known;
mod message;
mod register;
mod rows;

pub use item::{
    Effect, EventBytes, Item, NativeDeletion, NativeMessage, NewDeletion, NewDevice, NewEvent,
    NewMessage, Packet, Placed, Refusal, Registration,
};
pub(super) use known::Known;

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
    conn: &'a mut Conn,
    origin: &'a Origin,
    /// The time of every item of the batch, Unix seconds; never before an earlier batch's.
    now: u64,
    known: &'a mut Known,
    quota: StorageQuota,
    rows: Rows<'a>,
    told: Told,
    /// Conversations in which something was placed.
    touched: Vec<ConvId>,
}

type Outcome = Result<Result<Decision, Refusal>, StoreError>;

impl<'a> Admission<'a> {
    pub(super) fn new(
        conn: &'a mut Conn,
        origin: &'a Origin,
        now: u64,
        known: &'a mut Known,
        quota: StorageQuota,
    ) -> Self {
        known.bound();
        let (rows, told, touched) = Default::default();
        Self { conn, origin, now, known, quota, rows, told, touched }
    }

    /// Reads in bulk which messages were placed before, where an insert does not tell.
    pub(super) fn look_up(&mut self, items: &[Item]) -> Result<(), StoreError> {
        self.rows.look_up(self.conn, items)
    }

    /// Decides on `item`, the batch's `number`th from 0, writing it at 1-based `index` if it
    /// is placed.
    pub(super) fn decide(
        &mut self,
        number: usize,
        item: &'a Item,
        index: u64,
    ) -> Result<Decision, StoreError> {
        let outcome = match item {
            Item::Message(new) => self.message(number, new, index),
            Item::Register(new) => {
                self.rows.flush(self.conn)?;
                self.register(new, index)
            }
            Item::Event(new) => {
                self.rows.flush(self.conn)?;
                self.event(new, index)
            }
            Item::Deletion(new) => {
                self.rows.flush(self.conn)?;
                self.deletion(number, new, index)
            }
        }?;
        let decision = outcome.unwrap_or_else(Decision::Refuse);
        self.told.entries += u64::from(matches!(decision, Decision::Place { .. }));
        Ok(decision)
    }

    /// Writes what the batch kept in memory; whom to tell.
    pub(super) fn finish(mut self) -> Result<Told, StoreError> {
        self.rows.flush(self.conn)?;
        store_all(self.conn, &mut self.known.counters)?;
        self.known.usages.store(self.conn)?;
        self.touched.sort_unstable();
        self.touched.dedup();
        for conv in &self.touched {
            if let Some(members) = self.known.members.get(conv) {
                self.told.members.insert(*conv, members.clone());
            }
        }
        Ok(self.told)
    }

    /// The device, if it may act now and has `caps`.
    fn acting(&mut self, id: &DeviceId, caps: u16) -> Result<Option<Arc<Device>>, StoreError> {
        if !self.known.devices.contains_key(id) {
            let Some(found) = device_by_id(self.conn, id)? else { return Ok(None) };
            self.known.devices.insert(id.clone(), Arc::new(found));
        }
        let device = self.known.devices.get(id).cloned();
        Ok(device.filter(|d| d.is_active(self.now) && d.may(caps)))
    }

    /// The conversation's participants; none if there is no such conversation (yet).
    fn members(&mut self, conv: &ConvId) -> Result<&[AccountId], StoreError> {
        if !self.known.members.contains_key(conv) {
            let found = participants_of(self.conn, conv)?;
            if found.is_empty() {
                return Ok(&[]);
            }
            self.known.members.insert(*conv, found);
        }
        Ok(self.known.members.get(conv).map_or(&[], Vec::as_slice))
    }

    /// Remembers something placed in a conversation, to be told when it is public.
    fn placed(&mut self, number: usize, conv: ConvId, row: Row) {
        self.touched.push(conv);
        self.told.placed.push((number, row));
    }
}
