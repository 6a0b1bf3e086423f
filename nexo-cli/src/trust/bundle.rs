//! What the relay serves of an account, judged: its chain in the log, and its devices' prekeys.

use nexo_audit::sigchain::SignedEvent;
use nexo_schema::bytes::{from_base64, to_base64};
use nexo_schema::entry;
use nexo_schema::http::{Bundle, DeviceBundle, LoggedEvent};
use nexo_schema::ids::Handle;
use sha2::{Digest as _, Sha256};

use super::PeerError;
use super::chain::Account;
use super::log::{LogSource, LogTrust};
use crate::api::path;
use crate::e2ee::{AccountId, Capabilities, ConversationId, DeviceId, DevicePublic};
use crate::e2ee::{FallbackPrekey, OneTimePrekey};
use crate::vault::{ChainEvent, HeldHead, Peer, Served, Tx};
use crate::wire::{self, WireError};

/// Whose bundle was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked<'a> {
    /// Of a handle.
    Handle(&'a Handle),
    /// Of an account.
    Account(AccountId),
}

/// A bundle that holds together, under a head that this device believes.
#[derive(Debug, Clone)]
pub(super) struct Verified {
    /// What to store; not pinned, and not compared with what was stored before.
    pub(super) peer: Peer,
    /// The head that holds its events.
    pub(super) head: HeldHead,
}

/// A device that can be written to.
#[derive(Debug, Clone)]
pub struct Addressee {
    /// Its key.
    pub key: DevicePublic,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Its fallback prekey, verified and valid now.
    pub fallback: FallbackPrekey,
    /// The conversations it is limited to; empty for all.
    pub conversations: Vec<ConversationId>,
}

/// Prekeys of a device, claimed for a new session.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The device's key.
    pub key: DevicePublic,
    /// Its fallback prekey.
    pub fallback: FallbackPrekey,
    /// A one-time prekey, if the relay had one to give.
    pub one_time: Option<OneTimePrekey>,
}

impl Addressee {
    /// The device's id.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.key.device_id()
    }

    /// Whether it takes part in a conversation.
    #[must_use]
    pub fn reaches(&self, conversation: ConversationId) -> bool {
        self.conversations.is_empty() || self.conversations.contains(&conversation)
    }
}

/// Verifies what the relay says of an account, up to but without the pin. `held` is the tree
/// size that the bundle's consistency proof was asked from.
///
/// # Errors
/// [`PeerError`].
pub(super) async fn verify_bundle<S: LogSource>(
    trust: &LogTrust<'_, S>,
    bundle: &Bundle,
    asked: Asked<'_>,
    held: u64,
    now: u64,
) -> Result<Verified, PeerError> {
    let shown = wire::account(bundle.account_id);
    let right = match asked {
        Asked::Handle(handle) => bundle.handle == *handle,
        Asked::Account(account) => shown == account,
    };
    if !right {
        return Err(PeerError::OtherAccount);
    }
    if bundle.events.is_empty() {
        return Err(PeerError::Plain(bundle.handle.to_string()));
    }
    let events = bundle.events.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    let account = account_of_events(trust, &bundle.handle, &events)?;
    if account.id != shown {
        return Err(PeerError::OtherAccount);
    }
    let proof = bundle.consistency.as_deref().and_then(path).map(|path| (held, path));
    let head = trust.accept_fresh(bundle.head.as_bytes(), proof, now).await?;
    for (one, served) in events.iter().zip(&bundle.events) {
        let inclusion = path(&served.inclusion).ok_or(WireError("inclusion"))?;
        let leaf = leaf(trust.origin(), &bundle.handle, &one.signed);
        trust.included("the account", &head, &leaf, one.sth_index, &inclusion)?;
    }
    check_devices(&bundle.devices, &account)?;
    let peer = Peer {
        account: account.id,
        handle: bundle.handle.clone(),
        pinned: false,
        events,
        served: Some(Served { devices: bundle.devices.clone(), fetched_at: now }),
        conversation: false,
    };
    Ok(Verified { peer, head })
}

/// The account that events prove, whether they were served or stored: what is on disk is not
/// believed either.
pub(super) fn account_of_events<S: LogSource>(
    trust: &LogTrust<'_, S>,
    handle: &Handle,
    events: &[ChainEvent],
) -> Result<Account, PeerError> {
    let account = trust.replayed().account(trust.log_key(), handle, events);
    account.map_err(|reason| PeerError::Chain { handle: handle.to_string(), reason })
}

/// The log entry of an event.
#[must_use]
pub fn leaf(origin: &str, handle: &Handle, signed: &SignedEvent) -> Vec<u8> {
    let label: [u8; 32] = Sha256::digest(entry::label(origin, handle.as_str())).into();
    entry::key_event(&label, &signed.event_hash(), &signed.signatures_hash())
}

fn event(served: &LoggedEvent) -> Result<ChainEvent, WireError> {
    let bytes = |field, text| from_base64(text).map_err(|_| WireError(field));
    let signed = SignedEvent {
        event: bytes("event", &served.signed.event)?,
        sig: bytes("sig", &served.signed.sig)?,
        accept_sig: bytes("accept_sig", &served.signed.accept_sig)?,
    };
    Ok(ChainEvent { signed, sth_index: served.sth_index })
}

/// Devices that are not in the chain are refused, and so is a key that is not the device's own.
fn check_devices(served: &[DeviceBundle], account: &Account) -> Result<(), PeerError> {
    let handle = || account.handle.to_string();
    for shown in served {
        let id = wire::device(&shown.device_id);
        let device = id.and_then(|id| account.device(id)).filter(|device| device.is_active());
        let device = device.ok_or_else(|| PeerError::ForeignDevice(handle()))?;
        if shown.x25519_pub != to_base64(device.key.dh_public().as_bytes()) {
            return Err(PeerError::WrongX25519(handle()));
        }
    }
    Ok(())
}

/// Compares a chain that was served under a head of `size` leaves with what was verified of it
/// before, and keeps the longer one.
///
/// # Errors
/// [`PeerError::Withheld`] and [`PeerError::Forked`].
pub(super) fn keep_chain(tx: &mut Tx<'_>, peer: &mut Peer, size: u64) -> Result<(), PeerError> {
    let known = tx.chain(peer.account)?;
    let handle = || peer.handle.to_string();
    let parted = known.iter().zip(&peer.events).position(|(known, shown)| known != shown);
    if let Some(seq) = parted {
        return Err(PeerError::Forked { handle: handle(), seq, evidence: None });
    }
    match known.get(peer.events.len()) {
        // Another process has looked at a newer head meanwhile.
        Some(next) if next.sth_index > size => peer.events = known,
        Some(_) => {
            let (known, shown) = (known.len(), peer.events.len());
            return Err(PeerError::Withheld { handle: handle(), known, shown, evidence: None });
        }
        None => tx.put_chain(peer.account, &peer.events)?,
    }
    Ok(())
}

/// The devices of a verified account that can be written to at `time` (the relay's clock), and
/// those that may receive but have no prekey in force.
///
/// # Errors
/// [`PeerError::Prekey`] for a prekey that its device did not sign.
pub(super) fn addressees(
    origin: &str,
    account: &Account,
    served: &[DeviceBundle],
    time: u64,
) -> Result<(Vec<Addressee>, Vec<DeviceId>), PeerError> {
    let (mut found, mut unreachable) = (Vec::new(), Vec::new());
    for device in account.active() {
        let grant = device.grant();
        if !grant.capabilities.contains(Capabilities::RECV) || grant.is_over(time) {
            continue;
        }
        let shown = served.iter().find(|shown| wire::device(&shown.device_id) == Some(device.id()));
        match shown.and_then(|shown| shown.fpk.as_ref()) {
            None => unreachable.push(device.id()),
            Some(fpk) => found.push(Addressee {
                key: device.key,
                capabilities: grant.capabilities,
                fallback: fallback(origin, account, &device.key, fpk, time)?,
                conversations: device.conversations.clone(),
            }),
        }
    }
    Ok((found, unreachable))
}

/// As [`addressees`], with the one-time prekeys that were claimed.
///
/// # Errors
/// [`PeerError::Prekey`] for a prekey that its device did not sign.
pub(super) fn claimed(
    origin: &str,
    account: &Account,
    served: &[DeviceBundle],
    time: u64,
) -> Result<Vec<Claimed>, PeerError> {
    let (devices, _) = addressees(origin, account, served, time)?;
    devices
        .into_iter()
        .map(|Addressee { key, fallback, .. }| {
            let id = wire::device_out(key.device_id());
            let otk = served.iter().find(|s| s.device_id == id).and_then(|s| s.otk.as_ref());
            let one_time = otk
                .map(|otk| {
                    let refused =
                        |reason| PeerError::Prekey { handle: account.handle.to_string(), reason };
                    wire::one_time(otk)?.verify(origin, &key).map_err(refused)
                })
                .transpose()?;
            Ok(Claimed { key, fallback, one_time })
        })
        .collect()
}

fn fallback(
    origin: &str,
    account: &Account,
    key: &DevicePublic,
    fpk: &nexo_schema::http::Prekey,
    time: u64,
) -> Result<FallbackPrekey, PeerError> {
    let refused = |reason| PeerError::Prekey { handle: account.handle.to_string(), reason };
    wire::fallback(fpk)?.verify(origin, key, time).map_err(refused)
}

/// Why a chain has nobody to write to.
pub(super) fn unreachable(account: &Account) -> PeerError {
    let handle = account.handle.to_string();
    if account.ended.is_some() {
        return PeerError::Ended(handle);
    }
    let receives =
        |device: &super::Device| device.grant().capabilities.contains(Capabilities::RECV);
    if account.active().any(receives) {
        PeerError::NoPrekey(handle)
    } else {
        PeerError::NotCapable { handle, what: "may receive" }
    }
}
