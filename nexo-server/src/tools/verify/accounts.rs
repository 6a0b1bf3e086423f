//! Accounts and their devices, against the entries that made them.
//!
//! Accounts are kept by id and not by place, so they are looked at first, in 256 shards by the
//! first byte of the id. What they leave behind is one bit per entry: a plain account lies here.
//! The entries are then held to it (`step.rs`), and so neither can have one that the other has
//! not.

use std::sync::atomic::{AtomicU64, Ordering};

use nexo_schema::entry;
use nexo_schema::ids::Origin;
use nexo_schema::sigchain::{Event, Genesis, caps};
use sha2::{Digest as _, Sha256};

use super::entry::Logged;
use super::findings::{Findings, Kind};
use super::range::Bundles;
use crate::auth::chain::{Broken, Chain, Member};
use crate::auth::keys::DeviceKey;
use crate::log::{Hash, TILE_WIDTH};
use crate::store::whole::{AccountPage, AccountRow, DeviceRow, EventPlace, accounts_from};
use crate::store::{Conn, StoreError};

/// A bit for each entry behind some place.
pub(super) struct Claimed {
    behind: u64,
    words: Vec<AtomicU64>,
}

impl Claimed {
    /// For the places `behind + 1` to `size`.
    pub(super) fn new(behind: u64, size: u64) -> Self {
        let words = size.saturating_sub(behind).div_ceil(64);
        Self { behind, words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    fn word(&self, place: u64) -> Option<(&AtomicU64, u64)> {
        let bit = place.checked_sub(self.behind + 1)?;
        let word = self.words.get(usize::try_from(bit / 64).ok()?)?;
        Some((word, 1 << (bit % 64)))
    }

    fn set(&self, place: u64) {
        if let Some((word, bit)) = self.word(place) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether a plain account lies at the place.
    pub(super) fn has(&self, place: u64) -> bool {
        self.word(place).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }
}

/// What a shard is checked with.
pub(super) struct Ledgers<'a> {
    /// The log's name.
    pub(super) origin: &'a Origin,
    /// The entries.
    pub(super) bundles: &'a Bundles,
    /// Accounts up to this place were checked before.
    pub(super) behind: u64,
    /// Where plain accounts lie.
    pub(super) claimed: &'a Claimed,
    /// Where findings go.
    pub(super) findings: &'a Findings,
}

/// Checks the accounts whose ids begin with `shard`.
pub(super) fn check_shard(
    conn: &mut Conn,
    ledgers: &Ledgers<'_>,
    shard: u8,
) -> Result<(), StoreError> {
    let behind = i64::try_from(ledgers.behind).unwrap_or(i64::MAX);
    let (mut after, mut cache) = (None, Cache::default());
    loop {
        let mut page = accounts_from(conn, shard, after.as_deref(), behind)?;
        let Some(last) = page.accounts.last() else { return Ok(()) };
        after = Some(last.account_id.clone());
        // In the order of the log, so that a bundle is read once.
        page.accounts.sort_by_key(|account| account.created_index);
        for account in &page.accounts {
            check_account(conn, ledgers, account, &page, &mut cache)?;
        }
    }
}

/// The bundle last looked into.
#[derive(Default)]
struct Cache(Option<(u64, Vec<Option<Logged>>)>);

impl Cache {
    fn logged(
        &mut self,
        conn: &mut Conn,
        bundles: &Bundles,
        place: u64,
    ) -> Result<Option<Logged>, StoreError> {
        let (index, offset) = ((place - 1) / TILE_WIDTH as u64, (place - 1) % TILE_WIDTH as u64);
        if self.0.as_ref().is_none_or(|(cached, _)| *cached != index) {
            self.0 = Some((index, bundles.logged(conn, index)?));
        }
        let entries = self.0.as_ref().map(|(_, entries)| &entries[..]).unwrap_or_default();
        Ok(usize::try_from(offset).ok().and_then(|at| entries.get(at).copied().flatten()))
    }
}

fn check_account(
    conn: &mut Conn,
    ledgers: &Ledgers<'_>,
    row: &AccountRow,
    page: &AccountPage,
    cache: &mut Cache,
) -> Result<(), StoreError> {
    let Ok(place) = u64::try_from(row.created_index) else { return Ok(()) };
    if place == 0 || place > ledgers.bundles.size {
        // A rule of its own finds those.
        return Ok(());
    }
    let devices: Vec<&DeviceRow> =
        page.devices.iter().filter(|d| d.account_id == row.account_id).collect();
    let events: Vec<&EventPlace> =
        page.events.iter().filter(|e| e.account_id == row.account_id).collect();
    let verdict = if row.native {
        native(row, &devices, &events)
    } else {
        ledgers.claimed.set(place);
        let logged = cache.logged(conn, ledgers.bundles, place)?;
        plain(ledgers.origin, row, &devices, logged)
    };
    if let Err((kind, what)) = verdict {
        let id = nexo_schema::bytes::to_hex(&row.account_id);
        let what = format!("{what} (handle {})", row.handle);
        ledgers.findings.add(kind, place, format!("accounts {id}"), what);
    }
    Ok(())
}

/// Which of the two rows is wrong, and why.
type Verdict = Result<(), (Kind, &'static str)>;

fn account(what: &'static str) -> (Kind, &'static str) {
    (Kind::Account, what)
}

fn device(what: &'static str) -> (Kind, &'static str) {
    (Kind::Device, what)
}

/// A native account is its genesis event; every device came, and went, by an event.
fn native(row: &AccountRow, devices: &[&DeviceRow], events: &[&EventPlace]) -> Verdict {
    let first = events.iter().find(|event| event.seq == 0);
    let first = first.ok_or_else(|| account("it has no genesis event"))?;
    if first.sth_index != row.created_index {
        return Err(account("its genesis event lies at another place than it says"));
    }
    if hash(&first.event)[..] != row.account_id {
        return Err(account("its id is not the hash of its genesis event"));
    }
    let event = Event::decode(&first.event).map_err(|_| account("its genesis cannot be read"))?;
    let genesis = Genesis::decode(event.body).map_err(|_| account("its genesis cannot be read"))?;
    if genesis.handle != row.handle.as_bytes() {
        return Err(account("its genesis event is of another handle"));
    }
    let stored = events.iter().map(|event| (event.sth_index.unsigned_abs(), &event.event[..]));
    let chain = Chain::replay(stored).map_err(|Broken(what)| account(what))?;
    let members = chain.map(|chain| chain.members).unwrap_or_default();
    if members.len() != devices.len() {
        return Err(device("its devices are not those that its events added"));
    }
    for member in &members {
        let row = devices.iter().find(|device| device.device_id == member.id.as_str());
        let row = row.ok_or_else(|| device("a device that its events added is not there"))?;
        same(member, row)?;
        exchange_key(row)?;
    }
    Ok(())
}

/// Whether a device's row is what the events say.
fn same(member: &Member, row: &DeviceRow) -> Verdict {
    let said = &member.device;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let keys = (&said.key[..], said.conversations.concat());
    if keys != (&row.ed25519_pub[..], row.conversations.clone()) {
        return Err(device("a device is not the one that its event added"));
    }
    if (i32::from(said.caps), number(said.not_after)) != (row.caps, row.not_after) {
        return Err(device("a device may do something else than its events say"));
    }
    if (number(member.added), member.ended.map(number)) != (row.added_index, row.revoked_index) {
        return Err(device("a device was added or revoked elsewhere than its events say"));
    }
    Ok(())
}

/// A plain account is its one device, and the entry is of both.
fn plain(
    origin: &Origin,
    row: &AccountRow,
    devices: &[&DeviceRow],
    logged: Option<Logged>,
) -> Verdict {
    let [one] = devices else {
        return Err(device("it is a plain one and has not exactly one device"));
    };
    let key = one.ed25519_pub[..].try_into().map_err(|_| device("its key has another length"))?;
    let id = hash(&entry::plain_account(origin.as_str(), &row.handle, &key));
    if id[..] != row.account_id {
        return Err(account("its id is not the hash of its handle and key"));
    }
    exchange_key(one)?;
    let fixed = (i32::from(caps::SEND | caps::RECV), 0, row.created_index, None);
    if (one.caps, one.not_after, one.added_index, one.revoked_index) != fixed {
        return Err(device("its device is not as a plain account's is"));
    }
    let label = hash(&entry::label(origin.as_str(), &row.handle));
    let record = entry::plain_key_record(origin.as_str(), &row.handle, &id, &one.device_id, &key);
    let made = Logged::PlainKey { label, record: hash(&record) };
    match logged {
        Some(logged) if logged != made => {
            Err(account("the entry at its place is not the one that makes it"))
        }
        _ => Ok(()),
    }
}

fn exchange_key(row: &DeviceRow) -> Verdict {
    let key = DeviceKey::parse(&row.ed25519_pub).map_err(|_| device("its key is no good one"))?;
    if key.x25519()[..] == row.x25519_pub {
        Ok(())
    } else {
        Err(device("its X25519 key is not the one of its Ed25519 key"))
    }
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::Claimed;

    #[test]
    fn bits_are_of_places_behind_the_first() {
        let claimed = Claimed::new(100, 230);
        for place in [101, 164, 165, 230] {
            assert!(!claimed.has(place));
            claimed.set(place);
            assert!(claimed.has(place));
        }
        assert!(!claimed.has(102) && !claimed.has(229));
        claimed.set(100);
        claimed.set(1 << 40);
        assert!(!claimed.has(100) && !claimed.has(0) && !claimed.has(1 << 40));
    }
}
