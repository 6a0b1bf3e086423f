//! Devices lately looked up: what a request or a frame needs to know of its sender without
//! asking the database every time.
//!
//! Only devices that exist are kept, as the database had them; whether one has expired is asked
//! of the clock at each use ([`Device::is_active`]). Two things make an entry void. A batch that
//! changes an account's devices names the account, and its devices are dropped before anyone is
//! told of the batch. And [`MAX_AGE`] after it was read an entry is read again: a replica that
//! misses a change by another server is wrong for no longer than that. The writer does not
//! look here: it checks again, under the head's lock (`store/admit`).
//!
//! A look-up that was under way when something changed may have read the old row. It carries the
//! count of changes from before it read, and is kept only if that is still the count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nexo_schema::ids::{AccountId, DeviceId};

use crate::store::Device;

/// How old a device's row may be when it is believed; PROTOCOL.md 5 says so too.
pub const MAX_AGE: Duration = Duration::from_secs(2);

/// Devices kept, about 500 bytes each. When one more comes, all are forgotten: they would be
/// read again within [`MAX_AGE`] anyway.
const CAPACITY: usize = 16 * 1024;

/// The devices. Cheap to clone.
#[derive(Clone, Default)]
pub struct Devices(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    by_id: HashMap<DeviceId, Entry>,
    /// The keys of `by_id`, by owner.
    of_account: HashMap<AccountId, Vec<DeviceId>>,
    /// How often something changed.
    changes: u64,
}

struct Entry {
    device: Arc<Device>,
    read_at: Instant,
}

/// A look-up that is about to read the database.
#[derive(Debug, Clone, Copy)]
pub struct Lookup {
    changes: u64,
    began: Instant,
}

impl Devices {
    /// The device, if it was read within [`MAX_AGE`] and has not changed since.
    #[must_use]
    pub fn lately(&self, id: &DeviceId) -> Option<Arc<Device>> {
        self.read_since(id, Instant::now().checked_sub(MAX_AGE)?)
    }

    fn read_since(&self, id: &DeviceId, then: Instant) -> Option<Arc<Device>> {
        let known = self.lock();
        let entry = known.by_id.get(id).filter(|entry| entry.read_at > then)?;
        Some(Arc::clone(&entry.device))
    }

    /// To be called before the database is read.
    #[must_use]
    pub fn look_up(&self) -> Lookup {
        Lookup { changes: self.lock().changes, began: Instant::now() }
    }

    /// Keeps what a look-up found, unless something has changed since it began.
    pub fn keep(&self, lookup: Lookup, device: Device) -> Arc<Device> {
        let device = Arc::new(device);
        let mut known = self.lock();
        if known.changes == lookup.changes {
            known.insert(Entry { device: Arc::clone(&device), read_at: lookup.began });
        }
        device
    }

    /// Forgets the devices of these accounts: a committed batch has changed them.
    pub fn changed(&self, accounts: &[AccountId]) {
        if accounts.is_empty() {
            return;
        }
        let mut known = self.lock();
        known.changes += 1;
        for account in accounts {
            for id in known.of_account.remove(account).unwrap_or_default() {
                known.by_id.remove(&id);
            }
        }
    }

    /// No code that can panic runs between two steps of a change, so a poisoned lock guards
    /// whole maps.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, entry: Entry) {
        let (id, account) = (entry.device.id.clone(), entry.device.account);
        if self.by_id.len() >= CAPACITY && !self.by_id.contains_key(&id) {
            self.by_id.clear();
            self.of_account.clear();
        }
        // A device never changes hands, so an id that is here is listed under its owner.
        if self.by_id.insert(id.clone(), entry).is_none() {
            self.of_account.entry(account).or_default().push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::ids::Handle;
    use proptest::prelude::*;

    fn device(name: &str, account: u8) -> Device {
        Device {
            id: DeviceId::parse(name).unwrap(),
            account: AccountId([account; 32]),
            native: false,
            handle: Handle::parse("alice").unwrap(),
            key: [0; 32],
            x25519: [0; 32],
            caps: 7,
            not_after: 0,
            revoked: false,
            account_index: 1,
            conversations: Vec::new(),
        }
    }

    fn id(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    #[test]
    fn a_device_is_believed_until_it_changes() {
        let devices = Devices::default();
        assert!(devices.lately(&id("a")).is_none());
        devices.keep(devices.look_up(), device("a", 1));
        devices.keep(devices.look_up(), device("a2", 1));
        devices.keep(devices.look_up(), device("b", 2));
        assert_eq!(devices.lately(&id("a")).unwrap().account, AccountId([1; 32]));
        devices.changed(&[]);
        devices.changed(&[AccountId([3; 32])]);
        assert!(devices.lately(&id("a")).is_some());
        devices.changed(&[AccountId([1; 32])]);
        assert!(devices.lately(&id("a")).is_none() && devices.lately(&id("a2")).is_none());
        assert!(devices.lately(&id("b")).is_some());
    }

    #[test]
    fn a_device_is_believed_for_a_while_only() {
        let devices = Devices::default();
        let lookup = devices.look_up();
        devices.keep(lookup, device("a", 1));
        let before = lookup.began - Duration::from_nanos(1);
        assert!(devices.read_since(&id("a"), before).is_some());
        assert!(devices.read_since(&id("a"), lookup.began).is_none(), "as old as may be");
        // Reading it again makes it young.
        let again = devices.look_up();
        devices.keep(again, device("a", 1));
        assert!(devices.read_since(&id("a"), lookup.began).is_some());
        assert_eq!(devices.lock().of_account[&AccountId([1; 32])].len(), 1);
    }

    #[test]
    fn a_look_up_that_raced_with_a_change_is_not_kept() {
        let devices = Devices::default();
        let lookup = devices.look_up();
        // The old row is being read; meanwhile the batch that revokes it becomes public.
        devices.changed(&[AccountId([1; 32])]);
        let found = devices.keep(lookup, device("a", 1));
        assert_eq!(found.id, id("a"), "its own asker asked before");
        assert!(devices.lately(&id("a")).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let devices = Devices::default();
        for n in 0..=CAPACITY {
            devices.keep(devices.look_up(), device(&format!("d{n}"), 1));
        }
        let known = devices.lock();
        assert_eq!((known.by_id.len(), known.of_account[&AccountId([1; 32])].len()), (1, 1));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Row `n` changes in the database; not yet announced.
        Commit(usize),
        /// The changes so far are announced.
        Announce,
        /// A look-up of row `n` takes its ticket.
        Begin(usize),
        /// The oldest look-up reads its row.
        Read,
        /// The oldest look-up that has read hands in what it read.
        Keep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3usize).prop_map(Step::Commit),
            Just(Step::Announce),
            (0..3usize).prop_map(Step::Begin),
            Just(Step::Read),
            Just(Step::Keep),
        ]
    }

    proptest! {
        /// However look-ups and changes interleave: once a change is announced, no row from
        /// before it is believed. `caps` counts a row's versions.
        #[test]
        fn no_row_from_before_an_announced_change_is_believed(
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let devices = Devices::default();
            let (mut stored, mut announced) = ([0u16; 3], [0u16; 3]);
            let (mut begun, mut read) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Commit(n) => stored[n] += 1,
                    Step::Announce => {
                        let changed: Vec<_> = (0u8..3)
                            .filter(|&n| stored[usize::from(n)] != announced[usize::from(n)])
                            .map(|n| AccountId([n; 32]))
                            .collect();
                        devices.changed(&changed);
                        announced = stored;
                    }
                    Step::Begin(n) => begun.push((devices.look_up(), n)),
                    Step::Read if !begun.is_empty() => {
                        let (lookup, n) = begun.remove(0);
                        let owner = u8::try_from(n).unwrap();
                        let row = Device { caps: stored[n], ..device(&format!("d{n}"), owner) };
                        read.push((lookup, row));
                    }
                    Step::Keep if !read.is_empty() => {
                        let (lookup, row) = read.remove(0);
                        devices.keep(lookup, row);
                    }
                    Step::Read | Step::Keep => {}
                }
                for (n, &announced) in announced.iter().enumerate() {
                    if let Some(known) = devices.lately(&id(&format!("d{n}"))) {
                        prop_assert!(known.caps >= announced);
                    }
                }
            }
        }
    }
}
