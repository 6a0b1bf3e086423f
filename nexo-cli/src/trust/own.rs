//! The own account, as the relay shows it to everybody (e2ee 2.6, self-monitoring).
//!
//! Everything that this device knows of its own account stands in the chain already when
//! somebody else reads it. So a device that was not added here, and that its owner did not
//! confirm here, was added by somebody who has another key of the account: nothing is sent to it
//! before a person has said whose it is.

use std::path::PathBuf;

use super::PeerError;
use super::account::{Recipient, account_with_devices};
use super::chain::{Account, Device};
use super::incident::{Incident, record};
use super::log::{LogSource, LogTrust, TrustError};
use crate::api::Member;
use crate::e2ee::{AccountId, DeviceId};
use crate::identity::Identity;
use crate::vault::SignedEvent;
use nexo_schema::ids::Handle;

/// The devices of the own account, this one too, from what was verified lately, else from the
/// relay. Messages of this device are addressed to the others as well.
///
/// # Errors
/// [`PeerError`]; that the relay shows another account under the own handle is
/// [`PeerError::NotExpected`], that this device is not in it any more [`PeerError::Expelled`],
/// and that a device is in it that nobody confirmed here [`PeerError::Intruder`].
pub async fn own_devices<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    identity: &Identity,
    refresh: bool,
    now: u64,
) -> Result<Recipient, PeerError> {
    let own = own_account(trust, member, identity, refresh, now).await?;
    let mine = own.account.device(identity.device_id()).filter(|device| device.is_active());
    if mine.is_none() {
        return Err(PeerError::Expelled(identity.handle.to_string()));
    }
    watch(trust, &own.account, now).await?;
    Ok(own)
}

/// As [`own_devices`], for those who look after the account's devices: nothing is said about
/// whose they are.
///
/// # Errors
/// [`PeerError`].
pub async fn own_account<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    identity: &Identity,
    refresh: bool,
    now: u64,
) -> Result<Recipient, PeerError> {
    let (handle, expect) = (&identity.handle, Some(identity.account));
    account_with_devices(trust, member, handle, expect, refresh, now).await
}

/// The devices of the own account that nobody confirmed here. The first look ever takes those
/// that are there: they were there when this device joined.
///
/// # Errors
/// [`TrustError::Vault`].
pub async fn unconfirmed<S: LogSource>(
    trust: &LogTrust<'_, S>,
    own: &Account,
    now: u64,
) -> Result<Vec<DeviceId>, TrustError> {
    // A stateless identity has no memory to compare with.
    if !trust.vault().is_durable() {
        return Ok(Vec::new());
    }
    let known = trust.vault().read(|tx| tx.known_own_devices())?;
    if known.is_empty() {
        let all: Vec<DeviceId> = own.devices.iter().map(Device::id).collect();
        trust
            .vault()
            .write(|tx| all.into_iter().try_for_each(|id| tx.know_own_device(id, now)))
            .await?;
        return Ok(Vec::new());
    }
    Ok(own.devices.iter().map(Device::id).filter(|id| !known.contains(id)).collect())
}

/// The account that a device has just joined, verified as everybody else would: the first event
/// of its chain. Its devices are taken as they are found.
///
/// # Errors
/// [`PeerError`]; also if the device is not in the account.
pub async fn newcomer<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    handle: &Handle,
    account: AccountId,
    me: DeviceId,
    now: u64,
) -> Result<SignedEvent, PeerError> {
    let own = account_with_devices(trust, member, handle, Some(account), true, now).await?;
    if !own.account.device(me).is_some_and(Device::is_active) {
        return Err(PeerError::Expelled(handle.to_string()));
    }
    unconfirmed(trust, &own.account, now).await?;
    let first = trust.vault().read(|tx| tx.chain(account))?.into_iter().next();
    first.map(|first| first.signed).ok_or(PeerError::OtherAccount)
}

async fn watch<S: LogSource>(
    trust: &LogTrust<'_, S>,
    own: &Account,
    now: u64,
) -> Result<(), PeerError> {
    let intruders = unconfirmed(trust, own, now).await?;
    if intruders.is_empty() {
        return Ok(());
    }
    let devices: Vec<String> = intruders.iter().map(ToString::to_string).collect();
    let devices = devices.join(", ");
    let evidence = testimony(trust, own, &devices, now).await?;
    Err(PeerError::Intruder { handle: own.handle.to_string(), devices, evidence })
}

/// The account's chain as it is in the log, for whoever has to be told.
async fn testimony<S: LogSource>(
    trust: &LogTrust<'_, S>,
    own: &Account,
    devices: &str,
    now: u64,
) -> Result<Option<PathBuf>, PeerError> {
    let (events, head) =
        trust.vault().read(|tx| Ok::<_, PeerError>((tx.chain(own.id)?, tx.newest_head()?)))?;
    let Some(head) = head else { return Ok(None) };
    let incident = Incident {
        verdict: "foreign_device",
        message: format!("nobody confirmed these devices of {}: {devices}", own.handle),
        handle: &own.handle,
        events: events.iter().collect(),
        head: &head,
    };
    Ok(record(trust, &incident, now).await.map_err(TrustError::from)?)
}
