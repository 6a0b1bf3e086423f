//! Accounts: whose keys they are, and whether they may be used (e2ee 2.6).
//!
//! A view of a chain and its prekeys serves for ten minutes; after that, or when the relay says
//! that devices have changed, it is asked for again. Whatever is asked for is compared with what
//! was verified before: a chain only ever grows.

use std::time::Duration;

use nexo_schema::error::ErrorCode;
use nexo_schema::http::Bundle;
use nexo_schema::ids::Handle;

use super::PeerError;
use super::bundle::{
    Addressee, Asked, Claimed, Verified, account_of_events, addressees, claimed, keep_chain,
    unreachable, verify_bundle,
};
use super::chain::{Account, Device, Grant};
use super::incident::{Incident, record};
use super::log::{LogSource, LogTrust, TrustError};
use super::policy::PinMode;
use crate::api::{ApiError, Member};
use crate::clock;
use crate::e2ee::{AccountId, Capabilities, ConversationId, DeviceId, account_fingerprint};
use crate::vault::{HeldHead, Peer, Served, Told};
use crate::wire;

/// How long a chain and prekeys that were verified serve without being asked for again, seconds
/// (e2ee 2.6). The relay refuses a message whose devices have changed since.
const CACHE: u64 = 600;

/// How often the state is looked at while the relay has not answered.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Somebody to write to, verified.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The account.
    pub account: Account,
    /// The handle.
    pub handle: Handle,
    /// Its devices that can be written to, with prekeys valid now; the own one too, if it is the
    /// own account.
    pub devices: Vec<Addressee>,
    /// Devices that may receive and have no prekey in force: what is sent now does not reach
    /// them.
    pub unreachable: Vec<DeviceId>,
    /// Whether the relay has opened the conversation.
    pub conversation: bool,
}

impl Recipient {
    /// The devices that take part in a conversation.
    pub fn devices_in(&self, conversation: ConversationId) -> impl Iterator<Item = &Addressee> {
        self.devices.iter().filter(move |device| device.reaches(conversation))
    }
}

/// A sending device, at the place in the log where its message stands.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Whose it is.
    pub account: Account,
    /// The device.
    pub device: Device,
    /// What it might do there.
    pub grant: Grant,
}

/// Who a handle is, from the pin if it is recent, else from the relay. `expect` names the only
/// account that is accepted, and moves the pin to it.
///
/// # Errors
/// [`PeerError`]; also if no device of it can be written to, or if it said of itself what the
/// relay does not show.
pub async fn recipient_of<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    expect: Option<AccountId>,
    refresh: bool,
    now: u64,
) -> Result<Recipient, PeerError> {
    let mut found = account_with_devices(trust, member, handle, expect, refresh, now).await?;
    let mut hidden = hidden(trust, &found.account).await?;
    if (found.devices.is_empty() || hidden.is_some()) && !refresh {
        // What is remembered may be from before its first prekey, or before what it said since.
        found = account_with_devices(trust, member, handle, expect, true, now).await?;
        hidden = self::hidden(trust, &found.account).await?;
    }
    if let Some(told) = hidden {
        return Err(PeerError::Hidden { handle: handle.to_string(), seq: told.seq });
    }
    if found.devices.is_empty() { Err(unreachable(&found.account)) } else { Ok(found) }
}

/// What an account said of itself and its chain here does not have.
async fn hidden<S: LogSource>(
    trust: &LogTrust<'_, S>,
    account: &Account,
) -> Result<Option<Told>, PeerError> {
    let Some(told) = trust.vault().read(|tx| tx.told(account.id))? else { return Ok(None) };
    let chain = trust.vault().read(|tx| tx.chain(account.id))?;
    let here = usize::try_from(told.seq).ok().and_then(|seq| chain.get(seq));
    if here.is_none_or(|event| event.signed.event_hash() != told.hash) {
        return Ok(Some(told));
    }
    trust.vault().write(|tx| tx.forget_told(account.id)).await?;
    Ok(None)
}

/// As [`recipient_of`], but for an account that may have nobody to write to.
pub(super) async fn account_with_devices<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    expect: Option<AccountId>,
    refresh: bool,
    now: u64,
) -> Result<Recipient, PeerError> {
    let expect = expected(trust, handle, expect)?;
    let pinned = trust.vault().read(|tx| tx.pinned_peer(handle))?;
    if let Some(peer) = pinned.filter(|peer| !refresh && usable(peer, expect, now)) {
        // A cached prekey may have expired meanwhile; then the relay is asked.
        if let Ok(recipient) = recipient(trust, &peer) {
            return Ok(recipient);
        }
    }
    let looked_up = look_up(trust, member, handle, expect, now);
    let peer = tokio::select! {
        biased;
        peer = looked_up => peer?,
        peer = pinned_meanwhile(trust, handle, expect), if !refresh => peer?,
    };
    recipient(trust, &peer)
}

async fn look_up<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    expect: Option<AccountId>,
    now: u64,
) -> Result<Peer, PeerError> {
    let held = trust.held_size()?;
    let bundle = member.bundle(handle, held).await;
    let bundle = bundle.map_err(|e| not_found(e, handle.as_str()))?;
    let verified = verify_bundle(trust, &bundle, Asked::Handle(handle), held, now).await?;
    pin(trust, verified, expect, now).await
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

/// Claims prekeys for new sessions with an account's devices: at most one one-time prekey for
/// each, and the fallback prekey always. To whoever shares no conversation with the account yet
/// the relay gives no one-time prekeys.
///
/// # Errors
/// [`PeerError`]; a prekey that its device did not sign spoils all of them.
pub async fn claim_prekeys<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    expect: Option<AccountId>,
    now: u64,
) -> Result<Vec<Claimed>, PeerError> {
    let expect = expected(trust, handle, expect)?;
    let held = trust.held_size()?;
    let bundle = match member.claim(handle, held).await {
        Err(error) if error.code() == Some(ErrorCode::Forbidden) => {
            member.bundle(handle, held).await
        }
        other => other,
    };
    let bundle: Bundle = bundle.map_err(|e| not_found(e, handle.as_str()))?;
    let verified = verify_bundle(trust, &bundle, Asked::Handle(handle), held, now).await?;
    let peer = pin(trust, verified, expect, now).await?;
    let account = account_of_events(trust, &peer.handle, &peer.events)?;
    claimed(trust.origin(), &account, &bundle.devices, trust.relay_time()?)
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
    let expect = expected(trust, handle, None)?;
    let pinned = trust.vault().read(|tx| tx.pinned_peer(handle))?;
    if let Some(peer) = pinned.filter(|peer| expect.is_none_or(|e| e == peer.account)) {
        return Ok(peer.account);
    }
    Ok(look_up(trust, member, handle, expect, now).await?.account)
}

/// The account that a message names as its sender's, from what was verified lately, else from
/// the relay: also when it is of a device that was not known yet.
///
/// # Errors
/// [`PeerError`].
pub async fn sender_of<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    account: AccountId,
    device: DeviceId,
    now: u64,
) -> Result<Account, PeerError> {
    if let Some(known) = known_account(trust, account, now)?
        && known.device(device).is_some()
    {
        return Ok(known);
    }
    let peer = look_again(trust, member, account, now).await?;
    account_of_events(trust, &peer.handle, &peer.events)
}

/// Reads an account again, whatever is known of it.
///
/// # Errors
/// [`PeerError`].
pub(super) async fn look_again<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    account: AccountId,
    now: u64,
) -> Result<Peer, PeerError> {
    let held = trust.held_size()?;
    let bundle = member
        .bundle_by_id(wire::account_out(account), held)
        .await
        .map_err(|e| not_found(e, &account_fingerprint(account)))?;
    let verified = verify_bundle(trust, &bundle, Asked::Account(account), held, now).await?;
    let expect = expected(trust, &verified.peer.handle, None)?;
    pin(trust, verified, expect, now).await
}

/// The account, if it was verified lately and still has its handle's pin.
fn known_account<S: LogSource>(
    trust: &LogTrust<'_, S>,
    account: AccountId,
    now: u64,
) -> Result<Option<Account>, PeerError> {
    let Some(peer) = trust.vault().read(|tx| tx.peer(account))? else { return Ok(None) };
    if !peer.pinned {
        // Its handle was given to another account, by whoever knew the fingerprint.
        return Err(moved_away(trust, &peer)?);
    }
    if !is_recent(peer.served.as_ref(), now) {
        return Ok(None);
    }
    account_of_events(trust, &peer.handle, &peer.events).map(Some)
}

fn moved_away<S: LogSource>(trust: &LogTrust<'_, S>, peer: &Peer) -> Result<PeerError, PeerError> {
    let pinned = trust.vault().read(|tx| tx.pinned_peer(&peer.handle))?;
    let pinned = pinned.map_or_else(String::new, |peer| account_fingerprint(peer.account));
    let (handle, shown) = (peer.handle.to_string(), account_fingerprint(peer.account));
    Ok(PeerError::Changed { handle, pinned, shown })
}

/// The device that sent what stands at `sth_index`, if it was in the account there and might
/// send. `time` is that of a head that covers the place; it judges the device's end.
///
/// # Errors
/// [`PeerError::NotCapable`] says what it was not.
fn sender_at(
    account: Account,
    device: DeviceId,
    sth_index: u64,
    time: u64,
) -> Result<Sender, PeerError> {
    let handle = account.handle.to_string();
    let refused = |what| PeerError::NotCapable { handle: handle.clone(), what };
    let found = account.device(device).cloned();
    let device = found.ok_or_else(|| refused("is not in the account"))?;
    if device.added >= sth_index {
        return Err(refused("joined the account later"));
    }
    let grant = device.at(sth_index).ok_or_else(|| refused("was revoked before"))?;
    if !grant.capabilities.contains(Capabilities::SEND) {
        return Err(refused("may not send"));
    }
    if grant.is_over(time) {
        return Err(refused("has expired"));
    }
    Ok(Sender { account, device, grant })
}

/// As `sender_at`, with the time of the earliest head that covers the place, asked for only
/// where it matters. `head` covers it.
///
/// # Errors
/// [`PeerError`].
pub async fn judge_sender<S: LogSource>(
    trust: &LogTrust<'_, S>,
    account: Account,
    device: DeviceId,
    sth_index: u64,
    head: &HeldHead,
    now: u64,
) -> Result<Sender, PeerError> {
    let there = account.device(device).and_then(|device| device.at(sth_index));
    let time = match there {
        Some(grant) if grant.is_over(head.time) => trust.time_of(sth_index, head, now).await?,
        _ => head.time,
    };
    sender_at(account, device, sth_index, time)
}

/// The only account that a handle may be: what this command was told, else what this run's pins
/// or a person before said.
fn expected<S: LogSource>(
    trust: &LogTrust<'_, S>,
    handle: &Handle,
    expect: Option<AccountId>,
) -> Result<Option<AccountId>, PeerError> {
    let said = expect.or_else(|| trust.policy().named(handle));
    let said = match said {
        Some(said) => Some(said),
        None => trust.vault().read(|tx| tx.named_account(handle))?,
    };
    if said.is_none() && trust.policy().mode == PinMode::Pinned {
        return Err(PeerError::NotPinned(handle.to_string()));
    }
    Ok(said)
}

/// Stores a verified account, if its handle is free, already its own, or moved by `expect` or a
/// policy that lets handles move. A lie about its chain leaves evidence.
pub(super) async fn pin<S: LogSource>(
    trust: &LogTrust<'_, S>,
    verified: Verified,
    expect: Option<AccountId>,
    now: u64,
) -> Result<Peer, PeerError> {
    let Verified { mut peer, head } = verified;
    let shown = account_fingerprint(peer.account);
    if expect.is_some_and(|expected| expected != peer.account) {
        return Err(PeerError::NotExpected { handle: peer.handle.to_string(), shown });
    }
    let stays = expect.is_none() && trust.policy().mode != PinMode::Tofu;
    let stored = trust
        .vault()
        .write(|tx| {
            keep_chain(tx, &mut peer, head.size)?;
            let before = tx.pinned_peer(&peer.handle)?.map(|pinned| pinned.account);
            let moved = before.filter(|before| *before != peer.account);
            if let Some(pinned) = moved.filter(|_| stays) {
                let (handle, pinned) = (peer.handle.to_string(), account_fingerprint(pinned));
                return Err(PeerError::Changed { handle, pinned, shown: shown.clone() });
            }
            if before != Some(peer.account) {
                tx.pin_peer(&peer, now)?;
            }
            tx.set_peer_served(peer.account, peer.served.as_ref())?;
            let stored = tx.peer(peer.account)?;
            Ok((stored.ok_or(PeerError::OtherAccount)?, moved))
        })
        .await;
    match stored {
        Ok((stored, moved)) => {
            if let Some(before) = moved {
                let (handle, before) = (&stored.handle, account_fingerprint(before));
                trust.notice(format!("{handle} is another account now: {shown}, was {before}"));
            }
            Ok(stored)
        }
        Err(error) => Err(with_evidence(trust, error, &peer, &head, now).await?),
    }
}

/// Writes down what a lie about a chain was about.
async fn with_evidence<S: LogSource>(
    trust: &LogTrust<'_, S>,
    mut error: PeerError,
    shown: &Peer,
    head: &HeldHead,
    now: u64,
) -> Result<PeerError, PeerError> {
    let message = error.to_string();
    let (PeerError::Withheld { evidence, .. } | PeerError::Forked { evidence, .. }) = &mut error
    else {
        return Ok(error);
    };
    let known = trust.vault().read(|tx| tx.chain(shown.account))?;
    let incident = Incident {
        verdict: "sigchain_violation",
        message,
        handle: &shown.handle,
        events: known.iter().chain(&shown.events).collect(),
        head,
    };
    *evidence = record(trust, &incident, now).await.map_err(TrustError::from)?;
    Ok(error)
}

/// Whether a pinned account answers the question without the relay.
fn usable(peer: &Peer, expect: Option<AccountId>, now: u64) -> bool {
    is_recent(peer.served.as_ref(), now) && expect.is_none_or(|e| e == peer.account)
}

fn is_recent(served: Option<&Served>, now: u64) -> bool {
    served.is_some_and(|s| s.fetched_at <= now && now - s.fetched_at < CACHE)
}

pub(super) fn recipient<S: LogSource>(
    trust: &LogTrust<'_, S>,
    peer: &Peer,
) -> Result<Recipient, PeerError> {
    let account = account_of_events(trust, &peer.handle, &peer.events)?;
    if account.id != peer.account {
        return Err(PeerError::OtherAccount);
    }
    let served = peer.served.as_ref().map_or(&[][..], |served| &served.devices);
    let (devices, unreachable) = addressees(trust.origin(), &account, served, trust.relay_time()?)?;
    let (handle, conversation) = (peer.handle.clone(), peer.conversation);
    Ok(Recipient { account, handle, devices, unreachable, conversation })
}

pub(super) fn not_found(error: ApiError, who: &str) -> PeerError {
    match error.code() {
        Some(ErrorCode::NotFound) => PeerError::Unknown(who.to_owned()),
        _ => error.into(),
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
