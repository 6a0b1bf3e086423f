//! The own account, as the relay shows it to everybody (e2ee 2.6).

use super::PeerError;
use super::account::{Recipient, account_with_devices};
use super::log::{LogSource, LogTrust};
use crate::api::Member;
use crate::e2ee::account_fingerprint;
use crate::identity::Identity;

/// The devices of the own account, this one too, from what was verified lately, else from the
/// relay. Messages of this device are addressed to the others as well.
///
/// # Errors
/// [`PeerError`]; that the relay shows another account under the own handle is
/// [`PeerError::NotExpected`], and that this device is not in it any more
/// [`PeerError::NotCapable`].
pub async fn own_devices<S: LogSource>(
    trust: &LogTrust<'_, S>,
    member: &Member<'_>,
    identity: &Identity,
    refresh: bool,
    now: u64,
) -> Result<Recipient, PeerError> {
    let (handle, expect) = (&identity.handle, Some(identity.account));
    let own = account_with_devices(trust, member, handle, expect, refresh, now).await?;
    let mine = own.account.device(identity.device_id()).filter(|device| device.is_active());
    if mine.is_none() {
        let handle = format!("{handle} ({})", account_fingerprint(identity.account));
        return Err(PeerError::NotCapable { handle, what: "is not in the account any more" });
    }
    Ok(own)
}
