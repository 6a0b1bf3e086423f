//! What an account's chain says: which devices it has, had, and what each might do when.
//!
//! The rules of a chain are `nexo_audit`'s, the auditor's own replay (PROTOCOL.md 4); this file
//! adds what a client needs of the result: keys of the encryption core's types, and every
//! device's capabilities at any place of the log. A message is judged by the place of its entry,
//! so what came later does not change what it was.

use nexo_audit::key::LogKey;
use nexo_audit::sigchain::{self as audit, Chain, Change, Event, Violation};
use nexo_schema::ids::Handle;

use crate::e2ee::keys::{KeyRefused, RecoveryPublic};
use crate::e2ee::{AccountId, Capabilities, ConversationId, DeviceId, DevicePublic};
use crate::vault::ChainEvent;

pub use nexo_audit::sigchain::End;

/// An account as its whole chain proves it.
#[derive(Debug, Clone)]
pub struct Account {
    /// The account id, which people compare.
    pub id: AccountId,
    /// Its handle.
    pub handle: Handle,
    /// Every device it ever had, in the order in which they came.
    pub devices: Vec<Device>,
    /// The key that can recover it.
    pub recovery: RecoveryPublic,
    /// How many events the chain has.
    pub length: u64,
    /// Hash of the newest event.
    pub head: [u8; 32],
    /// What ended the chain, if anything did.
    pub ended: Option<End>,
}

/// A device of an account, now or before.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its key.
    pub key: DevicePublic,
    /// Position in the log (from 1) of the event that added it.
    pub added: u64,
    /// Position of the event that ended it.
    pub ended: Option<u64>,
    /// Commitment to its name.
    pub name: [u8; 32],
    /// The conversations it is limited to; empty for all.
    pub conversations: Vec<ConversationId>,
    /// What it might do since when; never empty, ascending.
    grants: Vec<Grant>,
}

/// What a device may do from a place of the log on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Position of the event that says so, from 1.
    pub since: u64,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
}

/// Why events are no chain of this account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainRefused {
    /// There is no event.
    #[error("there is no first event")]
    Empty,
    /// The handle is none.
    #[error("the handle is none")]
    Handle,
    /// An event breaks a rule.
    #[error("event {seq}: {violation}")]
    Rule {
        /// Its number.
        seq: usize,
        /// The rule.
        violation: Violation,
    },
    /// An event stands in the log before the one that it follows.
    #[error("event {seq} stands in the log before the one that it follows")]
    Order {
        /// Its number.
        seq: usize,
    },
    /// A key that this program does not take, which the rules exclude already.
    #[error("a key in the chain: {0}")]
    Key(#[from] KeyRefused),
}

impl Device {
    /// Its id, which follows from its key.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.key.device_id()
    }

    /// Whether it is in the account at the end of the chain.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.ended.is_none()
    }

    /// What it may do by the newest event about it.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.grants.last().copied().unwrap_or(Grant {
            since: self.added,
            capabilities: Capabilities::NONE,
            not_after: 0,
        })
    }

    /// What it might do just before the entry at `sth_index`; `None` if it was not in the
    /// account there.
    #[must_use]
    pub fn at(&self, sth_index: u64) -> Option<Grant> {
        if self.ended.is_some_and(|ended| ended <= sth_index) {
            return None;
        }
        self.grants.iter().rev().find(|grant| grant.since < sth_index).copied()
    }

    /// Whether it takes part in a conversation.
    #[must_use]
    pub fn reaches(&self, conversation: ConversationId) -> bool {
        self.conversations.is_empty() || self.conversations.contains(&conversation)
    }
}

impl Grant {
    /// Whether it is over at `time`, Unix seconds.
    #[must_use]
    pub fn is_over(&self, time: u64) -> bool {
        self.not_after != 0 && time >= self.not_after
    }
}

impl Account {
    /// The device of an id, now or before.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.iter().find(|device| device.id() == id)
    }

    /// The devices that are in the account at the end of the chain.
    pub fn active(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.is_active())
    }

    fn end_all(&mut self, sth_index: u64) {
        for device in &mut self.devices {
            device.ended.get_or_insert(sth_index);
        }
    }

    fn take(&mut self, change: &Change, sth_index: u64) -> Result<(), KeyRefused> {
        match change {
            // The replay has refused a second genesis.
            Change::Genesis(_) => {}
            Change::Add(new) => self.devices.push(device(new, sth_index)?),
            Change::Recover(new) => {
                self.end_all(sth_index);
                self.devices.push(device(new, sth_index)?);
            }
            Change::Revoke { device } => {
                if let Some(device) = self.changed(device) {
                    device.ended = Some(sth_index);
                }
            }
            Change::Update { device, caps, not_after } => {
                let grant = grant(sth_index, *caps, *not_after);
                if let Some(device) = self.changed(device) {
                    device.grants.push(grant);
                }
            }
            Change::SetRecovery(key) => {
                self.recovery = RecoveryPublic::from_bytes(key.as_bytes())?;
            }
            Change::Reset { genesis } => {
                self.end_all(sth_index);
                self.ended = Some(End::Reset { genesis: *genesis });
            }
            Change::Close => {
                self.end_all(sth_index);
                self.ended = Some(End::Closed);
            }
        }
        Ok(())
    }

    fn changed(&mut self, id: &[u8; 32]) -> Option<&mut Device> {
        self.devices.iter_mut().find(|device| device.id().as_bytes() == id)
    }
}

/// Replays the chain of `handle` from its first event.
///
/// # Errors
/// [`ChainRefused`] names the event and the rule.
pub fn replay(
    log_key: &LogKey,
    handle: &Handle,
    events: &[ChainEvent],
) -> Result<Account, ChainRefused> {
    let name = audit::Handle::parse(handle.as_str()).map_err(|_| ChainRefused::Handle)?;
    let (first, later) = events.split_first().ok_or(ChainRefused::Empty)?;
    let broken = |seq| move |violation| ChainRefused::Rule { seq, violation };
    let leaf = |one: &ChainEvent| one.sth_index.saturating_sub(1);
    let mut chain = Chain::begin(log_key, &name, leaf(first), &first.signed).map_err(broken(0))?;
    let mut account = begin(handle, first)?;
    let mut place = first.sth_index;
    for (seq, one) in later.iter().enumerate().map(|(at, one)| (at + 1, one)) {
        let event = chain.follow(log_key, leaf(one), &one.signed).map_err(broken(seq))?;
        if one.sth_index <= place {
            return Err(ChainRefused::Order { seq });
        }
        place = one.sth_index;
        account.take(&event.change, place)?;
        account.length += 1;
        account.head = one.signed.event_hash();
    }
    Ok(account)
}

/// The account of a first event that the rules have taken.
fn begin(handle: &Handle, first: &ChainEvent) -> Result<Account, ChainRefused> {
    let not_first = |violation| ChainRefused::Rule { seq: 0, violation };
    let event = Event::parse(&first.signed.event).map_err(|e| not_first(e.into()))?;
    let Change::Genesis(genesis) = event.change else {
        return Err(not_first(Violation::NotGenesis));
    };
    let head = first.signed.event_hash();
    Ok(Account {
        id: AccountId::from_bytes(head),
        handle: handle.clone(),
        devices: vec![device(&genesis.device, first.sth_index)?],
        recovery: RecoveryPublic::from_bytes(genesis.recovery.as_bytes())?,
        length: 1,
        head,
        ended: None,
    })
}

fn device(new: &audit::Device, sth_index: u64) -> Result<Device, KeyRefused> {
    Ok(Device {
        key: DevicePublic::from_bytes(new.key.as_bytes())?,
        added: sth_index,
        ended: None,
        name: new.name,
        conversations: new.conversations.iter().copied().map(ConversationId::from_bytes).collect(),
        grants: vec![grant(sth_index, new.caps, new.not_after)],
    })
}

fn grant(since: u64, caps: audit::Caps, not_after: u64) -> Grant {
    // The auditor knows no bit that this program does not; one that it learns later gives nothing.
    let capabilities = Capabilities::from_bits(caps.bits()).unwrap_or(Capabilities::NONE);
    Grant { since, capabilities, not_after }
}
