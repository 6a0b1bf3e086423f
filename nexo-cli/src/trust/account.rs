//! Accounts: whose keys they are, and whether they may be used (e2ee 2.6).
//!
//! Chains of this version have one event, the genesis. A longer one was written by a newer
//! version: its later events may have revoked what the first one introduced, so it is refused.

use std::time::Duration;

use nexo_schema::http::{Bundle, DeviceBundle};
use nexo_schema::ids::Handle;

use super::PeerError;
use super::log::{LogSource, LogTrust};
use crate::api::{ApiError, Member, path};
use crate::clock;
use crate::e2ee::sigchain::GenesisRefused;
use crate::e2ee::{
    self, Account, AccountId, Capabilities, FallbackPrekey, SignedGenesis, account_fingerprint,
};
use crate::vault::{Peer, PeerFallback};
use crate::wire::{self, WireError};
use nexo_schema::bytes::to_base64;
use nexo_schema::error::ErrorCode;

/// How long a chain and prekey that were verified serve without being asked for again, seconds
/// (e2ee 2.6). The relay refuses a message whose devices have changed since.
const CACHE: u64 = 600;

/// How often the state is looked at while the relay has not answered.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whose bundle was asked for.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// Of a handle.
    Handle(&'a Handle),
    /// Of an account.
    Account(AccountId),
}

/// Somebody to write to, verified.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The account.
    pub account: Account,
    /// The handle.
    pub handle: Handle,
    /// The prekey, verified and valid now.
    pub fallback: FallbackPrekey,
    /// Whether the relay has opened the conversation.
    pub conversation: bool,
}

/// Who a handle is, from the pin if it is recent, else from the relay. `expect` names the only
/// account that is accepted, and moves the pin to it.
///
/// # Errors
/// [`PeerError`].
pub async fn recipient_of<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    expect: Option<AccountId>,
    refresh: bool,
    now: u64,
) -> Result<Recipient, PeerError> {
    let pinned = trust.vault().read(|tx| tx.pinned_peer(handle))?;
    if let Some(peer) = pinned.filter(|peer| !refresh && usable(peer, expect, now)) {
        // A cached prekey may have expired meanwhile; then the relay is asked.
        if let Ok(recipient) = recipient(trust, &peer) {
            return Ok(recipient);
        }
    }
    let looked_up = async {
        let held = trust.held_size()?;
        let bundle = member.bundle(handle, held).await;
        let bundle = bundle.map_err(|e| not_found(e, handle.as_str()))?;
        let (peer, _) = verify_bundle(trust, &bundle, Asked::Handle(handle), held, now).await?;
        pin(trust, peer, expect, now).await
    };
    let peer = tokio::select! {
        biased;
        peer = looked_up => peer?,
        peer = pinned_meanwhile(trust, handle, expect), if !refresh => peer?,
    };
    recipient(trust, &peer)
}

/// Waits until another process on the same state has pinned the handle. Of many that start at
/// once some are made to wait by the relay's limits, and need not ask once one has asked.
async fn pinned_meanwhile<S: LogSource>(
    trust: &LogTrust<'_, S>,
    handle: &Handle,
    expect: Option<AccountId>,
) -> Result<Peer, PeerError> {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let pinned = trust.vault().read(|tx| tx.pinned_peer(handle))?;
        if let Some(peer) = pinned.filter(|peer| usable(peer, expect, clock::seconds())) {
            return Ok(peer);
        }
    }
}

/// This device's own account as the relay shows it to others. The caller compares.
///
/// # Errors
/// [`PeerError`].
pub async fn account_of_own<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    now: u64,
) -> Result<Peer, PeerError> {
    let held = trust.held_size()?;
    let bundle = member.bundle(handle, held).await.map_err(|e| not_found(e, handle.as_str()))?;
    let (peer, _) = verify_bundle(trust, &bundle, Asked::Handle(handle), held, now).await?;
    Ok(peer)
}

/// Which account a handle is pinned to; pinned now if it was not.
///
/// # Errors
/// [`PeerError`].
pub async fn account_of<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    now: u64,
) -> Result<AccountId, PeerError> {
    if let Some(peer) = trust.vault().read(|tx| tx.pinned_peer(handle))? {
        return Ok(peer.account);
    }
    let held = trust.held_size()?;
    let bundle = member.bundle(handle, held).await.map_err(|e| not_found(e, handle.as_str()))?;
    let (peer, _) = verify_bundle(trust, &bundle, Asked::Handle(handle), held, now).await?;
    Ok(pin(trust, peer, None, now).await?.account)
}

/// Who an account is, from what was verified before, else from the relay: the sender of a
/// message.
///
/// # Errors
/// [`PeerError`].
pub async fn sender_of<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    account: AccountId,
    now: u64,
) -> Result<(Peer, Account), PeerError> {
    if let Some(known) = known_sender(trust, account)? {
        return Ok(known);
    }
    let held = trust.held_size()?;
    let bundle = member
        .bundle_by_id(wire::account_out(account), held)
        .await
        .map_err(|e| not_found(e, &account_fingerprint(account)))?;
    let (peer, verified) =
        verify_bundle(trust, &bundle, Asked::Account(account), held, now).await?;
    Ok((pin(trust, peer, None, now).await?, verified))
}

/// The sender, if the account was verified before and still has its handle's pin.
fn known_sender<S: LogSource>(
    trust: &LogTrust<'_, S>,
    account: AccountId,
) -> Result<Option<(Peer, Account)>, PeerError> {
    let Some(peer) = trust.vault().read(|tx| tx.peer(account))? else { return Ok(None) };
    if !peer.pinned {
        // Its handle was given to another account, by whoever knew the fingerprint.
        return Err(moved_away(trust, &peer)?);
    }
    let verified = genesis_of(trust.origin(), &peer)?;
    Ok(Some((peer, verified)))
}

fn moved_away<S: LogSource>(trust: &LogTrust<'_, S>, peer: &Peer) -> Result<PeerError, PeerError> {
    let pinned = trust.vault().read(|tx| tx.pinned_peer(&peer.handle))?;
    let pinned = pinned.map_or_else(String::new, |peer| account_fingerprint(peer.account));
    let (handle, shown) = (peer.handle.to_string(), account_fingerprint(peer.account));
    Ok(PeerError::Changed { handle, pinned, shown })
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
) -> Result<(Peer, Account), PeerError> {
    let handle = bundle.handle.to_string();
    let shown = wire::account(bundle.account_id);
    let right = match asked {
        Asked::Handle(handle) => bundle.handle == *handle,
        Asked::Account(account) => shown == account,
    };
    if !right {
        return Err(PeerError::OtherAccount);
    }
    let event = match &bundle.events[..] {
        [event] => event,
        [] => return Err(PeerError::Plain(handle)),
        more => return Err(PeerError::Newer { handle, events: more.len() }),
    };
    let genesis = wire::genesis(&event.signed)?;
    let account = verify_genesis(trust.origin(), &genesis, &bundle.handle)?;
    if account.id != shown {
        return Err(PeerError::OtherAccount);
    }
    let proof = bundle.consistency.as_deref().and_then(path).map(|path| (held, path));
    let head = trust.accept_fresh(bundle.head.as_bytes(), proof, now).await?;
    let inclusion = path(&event.inclusion).ok_or(WireError("inclusion"))?;
    let leaf = genesis.leaf(trust.origin(), &account.handle);
    trust.included("the account", &head, &leaf, event.sth_index, &inclusion)?;
    let fallback = devices(&bundle.devices, &account, &handle)?
        .map(|prekey| PeerFallback { prekey, fetched_at: now });
    let peer = Peer {
        account: account.id,
        handle: bundle.handle.clone(),
        pinned: false,
        genesis,
        sth_index: event.sth_index,
        fallback,
        conversation: false,
    };
    Ok((peer, account))
}

/// The prekey of the account's one device; devices that are in no event are refused.
fn devices(
    shown: &[DeviceBundle],
    account: &Account,
    handle: &str,
) -> Result<Option<nexo_schema::http::Prekey>, PeerError> {
    let ours = wire::device_out(account.device.device_id());
    let mut prekey = None;
    for device in shown {
        if device.device_id != ours {
            return Err(PeerError::ForeignDevice(handle.to_owned()));
        }
        if device.x25519_pub != to_base64(account.device.dh_public().as_bytes()) {
            return Err(PeerError::WrongX25519(handle.to_owned()));
        }
        prekey.clone_from(&device.fpk);
    }
    Ok(prekey)
}

/// Stores a verified account, if its handle is free, already its own, or moved by `expect`.
async fn pin<S: LogSource>(
    trust: &LogTrust<'_, S>,
    peer: Peer,
    expect: Option<AccountId>,
    now: u64,
) -> Result<Peer, PeerError> {
    let shown = account_fingerprint(peer.account);
    if expect.is_some_and(|expected| expected != peer.account) {
        return Err(PeerError::NotExpected { handle: peer.handle.to_string(), shown });
    }
    let device = {
        let account = genesis_of(trust.origin(), &peer)?;
        wire::device_out(account.device.device_id())
    };
    trust
        .vault()
        .write(|tx| {
            match tx.pinned_peer(&peer.handle)? {
                Some(pinned) if pinned.account != peer.account && expect.is_none() => {
                    let pinned = account_fingerprint(pinned.account);
                    let handle = peer.handle.to_string();
                    return Err(PeerError::Changed { handle, pinned, shown });
                }
                Some(pinned) if pinned.account == peer.account => {}
                _ => tx.pin_peer(&peer, device.as_str(), now)?,
            }
            tx.set_peer_fallback(peer.account, peer.fallback.as_ref())?;
            let stored = tx.peer(peer.account)?;
            stored.ok_or(PeerError::OtherAccount)
        })
        .await
}

/// Whether a pinned account answers the question without the relay.
fn usable(peer: &Peer, expect: Option<AccountId>, now: u64) -> bool {
    let recent = |f: &PeerFallback| f.fetched_at <= now && now - f.fetched_at < CACHE;
    peer.fallback.as_ref().is_some_and(recent) && expect.is_none_or(|e| e == peer.account)
}

fn recipient<S: LogSource>(trust: &LogTrust<'_, S>, peer: &Peer) -> Result<Recipient, PeerError> {
    let account = genesis_of(trust.origin(), peer)?;
    let handle = peer.handle.to_string();
    let time = trust.relay_time()?;
    may(&account, Capabilities::RECV, "may not receive", time)?;
    let Some(shown) = &peer.fallback else { return Err(PeerError::NoPrekey(handle)) };
    let fallback = wire::fallback(&shown.prekey)?
        .verify(trust.origin(), &account.device, time)
        .map_err(|reason| PeerError::Prekey { handle, reason })?;
    let (handle, conversation) = (peer.handle.clone(), peer.conversation);
    Ok(Recipient { account, handle, fallback, conversation })
}

/// Refuses a device without a capability, or past its end at `time` (the relay's clock).
///
/// # Errors
/// [`PeerError::NotCapable`].
pub fn may(
    account: &Account,
    capability: Capabilities,
    what: &'static str,
    time: u64,
) -> Result<(), PeerError> {
    let handle = || account.handle.to_string();
    if !account.capabilities.contains(capability) {
        return Err(PeerError::NotCapable { handle: handle(), what });
    }
    if account.not_after != 0 && time >= account.not_after {
        return Err(PeerError::NotCapable { handle: handle(), what: "has expired" });
    }
    Ok(())
}

/// A stored account, verified again: what is on disk is not believed either.
fn genesis_of(origin: &str, peer: &Peer) -> Result<Account, PeerError> {
    let account = verify_genesis(origin, &peer.genesis, &peer.handle)?;
    if account.id == peer.account { Ok(account) } else { Err(PeerError::OtherAccount) }
}

fn verify_genesis(
    origin: &str,
    genesis: &SignedGenesis,
    handle: &Handle,
) -> Result<Account, PeerError> {
    let refused = |reason| PeerError::Genesis { handle: handle.to_string(), reason };
    let name =
        e2ee::Handle::parse(handle.as_str()).map_err(|e| refused(GenesisRefused::Handle(e)))?;
    genesis.verify(origin, &name).map_err(refused)
}

fn not_found(error: ApiError, who: &str) -> PeerError {
    match error.code() {
        Some(ErrorCode::NotFound) => PeerError::Unknown(who.to_owned()),
        _ => error.into(),
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
