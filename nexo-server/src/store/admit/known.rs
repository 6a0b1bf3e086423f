//! What was read of rows that only the log writes, kept from batch to batch.
//!
//! Devices, participants and counters change in the log's own transactions and nowhere else,
//! so what is here is true until this server's batch fails, and all of it is forgotten, or
//! another server writes, and what that may have changed is.

use std::collections::HashMap;
use std::sync::Arc;

use nexo_schema::ids::{AccountId, ConvId, DeviceId};

use crate::store::accounts::Device;
use crate::store::counters::Counter;
use crate::store::usage::Usages;

/// Rows kept at most, of all kinds; some ten megabytes.
const MOST: usize = 20_000;

/// See the top.
#[derive(Default)]
pub(in crate::store) struct Known {
    pub(super) devices: HashMap<DeviceId, Arc<Device>>,
    /// Participants of conversations that exist; nobody leaves or joins later.
    pub(super) members: HashMap<ConvId, Vec<AccountId>>,
    /// Devices that are not revoked.
    pub(super) devices_of: HashMap<AccountId, Arc<[Device]>>,
    pub(super) counters: HashMap<DeviceId, Counter>,
    pub(super) usages: Usages,
    last_staged: Option<u64>,
}

impl Known {
    /// Whenever it may not be true any more.
    pub(in crate::store) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The time of the newest batch, if it is known; Unix seconds.
    pub(in crate::store) fn last_staged(&self) -> Option<u64> {
        self.last_staged
    }

    pub(in crate::store) fn staged_at(&mut self, now: u64) {
        self.last_staged = Some(now);
    }

    /// After another server wrote: what it may have changed besides keys.
    pub(in crate::store) fn moved(&mut self, last_staged: u64) {
        self.counters.clear();
        self.usages.moved();
        self.last_staged = Some(last_staged);
    }

    /// After other servers changed the devices of these accounts.
    pub(in crate::store) fn changed_accounts(&mut self, accounts: &[AccountId]) {
        if !accounts.is_empty() {
            self.devices.retain(|_, device| !accounts.contains(&device.account));
            self.devices_of.retain(|account, _| !accounts.contains(account));
        }
    }

    /// After an account's devices changed.
    pub(super) fn changed(&mut self, account: &AccountId, device: &DeviceId) {
        self.devices.remove(device);
        self.devices_of.remove(account);
    }

    /// Makes room by forgetting, between batches.
    pub(super) fn bound(&mut self) {
        let rows = self.devices.len() + self.members.len() + self.devices_of.len();
        if rows + self.counters.len() + self.usages.len() > MOST {
            *self = Self { last_staged: self.last_staged, ..Self::default() };
        }
    }
}
