//! The account's devices, changed by one that may (e2ee 2.22).
//!
//! Every change is an event behind the newest one: the chain is read, the event signed, and its
//! receipt believed only with its proof. If another event was faster, it is done again.

use nexo_schema::bytes::{from_base64, to_base64, to_hex};
use nexo_schema::change::Change;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{EventPlaced, LinkAnswer, SignedEvent as WireEvent};
use nexo_schema::link;
use nexo_schema::sigchain::Device as NewDevice;

use crate::api::ApiError;
use crate::clock;
use crate::e2ee::event::{Place, accept, link_code, propose};
use crate::e2ee::keys::{KeyRefused, RecoveryPublic};
use crate::e2ee::sigchain::name_commitment;
use crate::e2ee::{
    Capabilities, ConversationId, DeviceId, DevicePublic, DeviceSecret, RecoverySecret,
};
use crate::identity::Identity;
use crate::profile::Session;
use crate::random::{self, RandomError};
use crate::recovery::RecoveryRefused;
use crate::trust::{
    Account, PeerError, Recipient, TrustError, event_leaf, own_account, verify_receipt,
};
use crate::vault::{SignedEvent, VaultError};

/// How often an event is signed again because another one was faster.
const TRIES: usize = 4;

/// Why the account's devices were not changed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// This device may not.
    #[error("this device is no admin of its account")]
    NotAdmin,
    /// No such device.
    #[error("the account has no device {0}")]
    NoDevice(String),
    /// More than one device begins like this.
    #[error("more than one device begins with {0}")]
    Ambiguous(String),
    /// Not a code.
    #[error("this is no code of a new device; look for a mistyped character")]
    Code,
    /// Not the account's recovery key.
    #[error("the recovery key: {0}")]
    Recovery(#[from] RecoveryRefused),
    /// The recovery key of another account, or one that was replaced.
    #[error("this is not the recovery key of {0}, or it was replaced")]
    OtherRecovery(String),
    /// Nobody asked, or too long ago.
    #[error("no device waits under this code; it asks for ten minutes")]
    NoRequest,
    /// The relay shows another key than the code's.
    #[error("the relay shows another device's key under this code")]
    OtherKey,
    /// Another account than expected.
    #[error("this is {shown}, not the account expected")]
    OtherAccount {
        /// Fingerprint.
        shown: String,
    },
    /// An offer that is none.
    #[error("the relay's offer {0}")]
    Offer(&'static str),
    /// A key that breaks the strict rule.
    #[error("the new device's key: {0}")]
    Key(#[from] KeyRefused),
    /// Nobody approved.
    #[error("nobody approved this device in time; begin again")]
    TooLate,
    /// Nobody could change the account any more.
    #[error("no other device is admin; make another one admin first, or close the account")]
    LastAdmin,
    /// Others changed the account again and again.
    #[error("the account is being changed by others; try again")]
    Moved,
    /// The account.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The log.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// What a new device shall be.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What it may do.
    pub capabilities: Capabilities,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
    /// The conversations it is limited to; empty for all.
    pub conversations: Vec<ConversationId>,
}

/// A device that asks to be linked, checked against the code that a person carried over.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Its key.
    pub key: DevicePublic,
    /// The name it gives itself; a word, not a proof.
    pub name: String,
    commitment: [u8; 32],
    id: String,
}

/// A device with a key made here, for a place without a home.
pub struct Issued {
    /// Who it is; its line is a secret.
    pub identity: Identity,
    signed: SignedEvent,
}

/// The own account as it is in the log now.
///
/// # Errors
/// [`DeviceError`].
pub async fn now_in_log(session: &Session<'_>, now: u64) -> Result<Recipient, DeviceError> {
    let (trust, member) = (&session.trust, &session.member);
    Ok(own_account(trust, member, &session.profile.identity, true, now).await?)
}

/// The device of the account that a person means: its id, or at least eight characters of it.
///
/// # Errors
/// [`DeviceError::NoDevice`], [`DeviceError::Ambiguous`].
pub fn meant(account: &Account, text: &str) -> Result<DeviceId, DeviceError> {
    let begins = |id: &DeviceId| text.len() >= 8 && id.to_string().starts_with(text);
    let mut found = account.devices.iter().map(crate::trust::Device::id).filter(begins);
    let first = found.next().ok_or_else(|| DeviceError::NoDevice(text.to_owned()))?;
    if found.next().is_some() { Err(DeviceError::Ambiguous(text.to_owned())) } else { Ok(first) }
}

/// Ends a device. Returns the event's position in the log, from 1.
///
/// # Errors
/// [`DeviceError`].
pub async fn revoke(
    session: &Session<'_>,
    device: DeviceId,
    reason: &str,
    now: u64,
) -> Result<u64, DeviceError> {
    let change = Change::Revoke { device: *device.as_bytes(), reason: reason.as_bytes() };
    let itself = device == session.profile.identity.device_id();
    place(session, &change, itself, &|_| Vec::new(), now).await
}

/// Changes what a device may do, and until when. Returns the event's position in the log, from 1.
///
/// # Errors
/// [`DeviceError`]; [`DeviceError::LastAdmin`] if nobody could change the account any more.
pub async fn update(
    session: &Session<'_>,
    device: DeviceId,
    grant: (Capabilities, u64),
    now: u64,
) -> Result<u64, DeviceError> {
    let (capabilities, not_after) = grant;
    let own = now_in_log(session, now).await?;
    may_sign(session, &own.account, false)?;
    let others = own.account.active().filter(|other| other.id() != device);
    let led = |other: &crate::trust::Device| {
        let grant = other.grant();
        grant.capabilities.contains(Capabilities::ADMIN) && !grant.is_over(now)
    };
    if !capabilities.contains(Capabilities::ADMIN) && !others.into_iter().any(led) {
        return Err(DeviceError::LastAdmin);
    }
    let change =
        Change::Update { device: *device.as_bytes(), caps: capabilities.bits(), not_after };
    place(session, &change, false, &|_| Vec::new(), now).await
}

/// Ends the account. Returns the event's position in the log, from 1.
///
/// # Errors
/// [`DeviceError`].
pub async fn close(session: &Session<'_>, now: u64) -> Result<u64, DeviceError> {
    session.trust.one_history()?;
    for _ in 0..TRIES {
        let own = now_in_log(session, now).await?;
        let signed = signed(session, &own.account, &Change::Close, false, &|_| Vec::new())?;
        // Nobody of the account reads its chain after this; the receipt says that it is done.
        match bring_in(session, &signed, now).await {
            Err(DeviceError::Api(error)) if error.code() == Some(ErrorCode::ChainMoved) => {}
            other => return other,
        }
    }
    Err(DeviceError::Moved)
}

/// Replaces the recovery key.
///
/// # Errors
/// [`DeviceError`].
pub async fn set_recovery(
    session: &Session<'_>,
    old: &RecoverySecret,
    new: &RecoveryPublic,
    now: u64,
) -> Result<u64, DeviceError> {
    let own = now_in_log(session, now).await?;
    if own.account.recovery != old.public() {
        let handle = session.profile.identity.handle.to_string();
        return Err(DeviceError::OtherRecovery(handle));
    }
    let change = Change::SetRecovery(*new.as_bytes());
    place(session, &change, false, &|event| old.accept(event).to_vec(), now).await
}

/// Signs an event behind the newest one and brings it into the log. `anyone` may sign it, else an
/// admin only; `accepted` is asked for the acceptance.
async fn place(
    session: &Session<'_>,
    change: &Change<'_>,
    anyone: bool,
    accepted: &dyn Fn(&[u8]) -> Vec<u8>,
    now: u64,
) -> Result<u64, DeviceError> {
    session.trust.one_history()?;
    for _ in 0..TRIES {
        let own = now_in_log(session, now).await?;
        let signed = signed(session, &own.account, change, anyone, accepted)?;
        match enter(session, &signed, now).await {
            Err(DeviceError::Api(error)) if error.code() == Some(ErrorCode::ChainMoved) => {}
            other => return other,
        }
    }
    Err(DeviceError::Moved)
}

fn signed(
    session: &Session<'_>,
    own: &Account,
    change: &Change<'_>,
    anyone: bool,
    accepted: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Result<SignedEvent, DeviceError> {
    may_sign(session, own, anyone)?;
    let identity = &session.profile.identity;
    let proposed = propose(&behind(session.trust.origin(), own), &identity.device, change);
    let accept_sig = accepted(&proposed.event);
    Ok(SignedEvent { event: proposed.event, sig: proposed.signature.to_vec(), accept_sig })
}

/// Whether this device may sign for the account: as an admin, or if `anyone` may.
fn may_sign(session: &Session<'_>, own: &Account, anyone: bool) -> Result<(), DeviceError> {
    let mine = own.device(session.profile.identity.device_id());
    let mine = mine.filter(|device| device.is_active()).ok_or(DeviceError::NotAdmin)?;
    let leads = mine.grant().capabilities.contains(Capabilities::ADMIN);
    if anyone || leads { Ok(()) } else { Err(DeviceError::NotAdmin) }
}

/// The place behind the newest event of an account.
fn behind<'a>(origin: &'a str, own: &Account) -> Place<'a> {
    let (account, seq, prev) = (own.id, own.length, own.head);
    Place { origin, account, seq, prev, time_ms: clock::millis() }
}

/// Brings a signed event into the log, and reads the account again.
async fn enter(session: &Session<'_>, signed: &SignedEvent, now: u64) -> Result<u64, DeviceError> {
    let index = bring_in(session, signed, now).await?;
    now_in_log(session, now).await?;
    Ok(index)
}

async fn bring_in(
    session: &Session<'_>,
    signed: &SignedEvent,
    now: u64,
) -> Result<u64, DeviceError> {
    let placed = session.member.relay().place_event(&on_the_wire(signed)).await?;
    placed_at(session, &placed, signed, now).await
}

/// Believes that an event is in the log only with its proof.
async fn placed_at(
    session: &Session<'_>,
    placed: &EventPlaced,
    signed: &SignedEvent,
    now: u64,
) -> Result<u64, DeviceError> {
    let handle = &session.profile.identity.handle;
    let leaf = event_leaf(session.trust.origin(), handle, signed);
    Ok(verify_receipt(&session.trust, &placed.receipt, "the event", &leaf, now).await?)
}

/// An event as it travels.
#[must_use]
pub fn on_the_wire(signed: &SignedEvent) -> WireEvent {
    WireEvent {
        event: to_base64(&signed.event),
        sig: to_base64(&signed.sig),
        accept_sig: to_base64(&signed.accept_sig),
    }
}

/// The device that waits under a code, if the relay shows the key that the code is made of.
///
/// # Errors
/// [`DeviceError`].
pub async fn asking(
    session: &Session<'_>,
    code: [u8; link::LINK_ID],
) -> Result<Asking, DeviceError> {
    let id = to_hex(&code);
    let link = match session.member.relay().link(&id).await {
        Err(error) if error.code() == Some(ErrorCode::NotFound) => {
            return Err(DeviceError::NoRequest);
        }
        other => other?,
    };
    let bytes = |text: &str| from_base64(text).map_err(|_| DeviceError::OtherKey);
    let key = DevicePublic::from_bytes(&bytes(&link.ed25519_pub)?)?;
    let origin = session.trust.origin();
    if link_code(origin, &key) != code {
        return Err(DeviceError::OtherKey);
    }
    let commitment: [u8; 32] = bytes(&link.name)?.try_into().map_err(|_| DeviceError::OtherKey)?;
    let opening = link.opening.as_deref().map(bytes).transpose()?.unwrap_or_default();
    let request = link::request(origin, key.as_bytes(), &commitment, &opening);
    if key.verify(&request, &bytes(&link.sig)?).is_err() {
        return Err(DeviceError::OtherKey);
    }
    Ok(Asking { key, name: name_in(&opening, &commitment), commitment, id })
}

/// The name in an opening; empty if it is not what the device committed to.
fn name_in(opening: &[u8], commitment: &[u8; 32]) -> String {
    let Some((salt, name)) = opening.split_first_chunk::<32>() else { return String::new() };
    let name = String::from_utf8_lossy(name).into_owned();
    if name_commitment(salt, &name) == *commitment { name } else { String::new() }
}

/// Offers a device that asks a place in the account. It is in the log once that device accepts.
///
/// # Errors
/// [`DeviceError`].
pub async fn approve(
    session: &Session<'_>,
    asking: &Asking,
    wish: &Wish,
    now: u64,
) -> Result<(), DeviceError> {
    session.trust.one_history()?;
    let change = Change::Add(wish.device(&asking.key, asking.commitment));
    for _ in 0..TRIES {
        let own = now_in_log(session, now).await?;
        let signed = signed(session, &own.account, &change, false, &|_| Vec::new())?;
        know(session, &asking.key, now).await?;
        let answer = LinkAnswer { event: to_base64(&signed.event), sig: to_base64(&signed.sig) };
        match session.member.offer(&asking.id, &answer).await {
            Err(error) if error.code() == Some(ErrorCode::ChainMoved) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
    Err(DeviceError::Moved)
}

/// A device with a new key, which is in the log once it was placed. Whoever keeps its line keeps
/// it before that.
///
/// # Errors
/// [`DeviceError`].
pub async fn issue(
    session: &Session<'_>,
    wish: &Wish,
    name: &str,
    now: u64,
) -> Result<Issued, DeviceError> {
    session.trust.one_history()?;
    let own = now_in_log(session, now).await?;
    let ours = &session.profile.identity;
    let device = DeviceSecret::from_seed(&*random::secret::<32>()?);
    let commitment = name_commitment(&*random::secret::<32>()?, name);
    let change = Change::Add(wish.device(&device.public(), commitment));
    let accepted = |event: &[u8]| accept(&device, event).to_vec();
    let signed = signed(session, &own.account, &change, false, &accepted)?;
    let identity = Identity {
        handle: ours.handle.clone(),
        account: ours.account,
        genesis: ours.genesis.clone(),
        admission: Some(signed.clone()),
        idem: random::secret()?,
        device,
    };
    Ok(Issued { identity, signed })
}

impl Issued {
    /// Brings the device into the account. Returns the event's position in the log, from 1.
    ///
    /// # Errors
    /// [`DeviceError`]; `chain_moved` if another event was faster, and then nothing was changed.
    pub async fn place(&self, session: &Session<'_>, now: u64) -> Result<u64, DeviceError> {
        know(session, &self.identity.device.public(), now).await?;
        enter(session, &self.signed, now).await
    }
}

impl Wish {
    fn device(&self, key: &DevicePublic, name: [u8; 32]) -> NewDevice {
        NewDevice {
            key: *key.as_bytes(),
            caps: self.capabilities.bits(),
            not_after: self.not_after,
            name,
            conversations: self.conversations.iter().map(|id| *id.as_bytes()).collect(),
        }
    }
}

/// Remembers a device as the owner's before the log has it: a crash must not make it a stranger.
async fn know(session: &Session<'_>, key: &DevicePublic, now: u64) -> Result<(), DeviceError> {
    let id = key.device_id();
    Ok(session.profile.vault.write(|tx| tx.know_own_device(id, now)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_only_as_committed() {
        let (salt, name) = ([7; 32], "laptop");
        let opening = [&salt[..], name.as_bytes()].concat();
        let commitment = name_commitment(&salt, name);
        assert_eq!(name_in(&opening, &commitment), name);
        assert_eq!(name_in(&opening, &[0; 32]), "");
        assert_eq!(name_in(&opening[..31], &commitment), "");
    }
}
