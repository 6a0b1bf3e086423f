//! Who gets a message: every device of both accounts that can be written to, but the sending one.

use std::time::Duration;

use nexo_schema::ids::Handle;

use super::DeliverError;
use crate::e2ee::{
    AccountId, Address, ConversationId, DeviceId, FallbackPrekey, OneTimePrekey, Peer, Prekeys,
    Recipient as OneShot, Sessions,
};
use crate::profile::{Profile, Session};
use crate::trust::{
    PeerError, Recipient, RosterEntry, claim_prekeys, gossip_out, own_devices, recipient_of,
};
use crate::vault::{Tx, VaultError};

/// How often the state is looked at while the relay has not answered.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Who gets a message, verified: every device of both sides that can be written to.
#[derive(Debug)]
pub struct Addressees {
    /// The account it is for.
    pub to: Recipient,
    /// The own account; the same one in notes to self.
    pub own: Recipient,
}

impl Addressees {
    /// Both sides, from what was verified lately, else from the relay.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn find(
        session: &Session<'_>,
        handle: &Handle,
        expect: Option<AccountId>,
        refresh: bool,
        now: u64,
    ) -> Result<Self, PeerError> {
        let (trust, member) = (&session.trust, &session.member);
        let identity = &session.profile.identity;
        let own = own_devices(trust, member, identity, refresh, now).await?;
        let itself = *handle == identity.handle;
        let expect = expect.or(itself.then_some(identity.account));
        // The own account was asked for a moment ago. What was verified of it before this device
        // had published its first prekey is no use for notes to self.
        let refresh = if itself { own.devices.is_empty() } else { refresh };
        let to = recipient_of(trust, member, handle, expect, refresh, now).await?;
        Ok(Self { to, own })
    }

    /// Both accounts, as they are known here.
    pub(super) fn roster(&self) -> Vec<RosterEntry> {
        gossip_out(&[&self.to.account, &self.own.account])
    }

    /// Whether it is a note to self.
    fn is_note(&self) -> bool {
        self.to.account.id == self.own.account.id
    }

    /// The devices that get a packet in a conversation. The sending one writes to itself only in
    /// notes to self.
    pub(super) fn ends(&self, conversation: ConversationId, from: DeviceId) -> Vec<End> {
        let itself = self.is_note();
        let own = self.own.devices_in(conversation).filter(|_| !itself);
        let devices = self.to.devices_in(conversation).map(|d| (self.to.account.id, d));
        devices
            .chain(own.map(|d| (self.own.account.id, d)))
            .filter(|(_, device)| itself || device.id() != from)
            .map(|(account, device)| End {
                peer: Peer { account, device: device.id() },
                fallback: device.fallback.clone(),
                one_time: None,
                session: device.id() != from,
            })
            .collect()
    }
}

/// A device that gets a packet.
#[derive(Debug)]
pub(super) struct End {
    /// The device.
    pub(super) peer: Peer,
    fallback: FallbackPrekey,
    one_time: Option<OneTimePrekey>,
    /// Whether it is written to in a session; if not, one-shot.
    session: bool,
}

impl End {
    /// The sessions with it, if it is written to in one.
    pub(super) fn sessions(&self, tx: &mut Tx<'_>) -> Result<Sessions, VaultError> {
        if self.session { tx.sessions(self.peer) } else { Ok(Sessions::default()) }
    }

    /// As the encryption core takes it.
    pub(super) fn address<'a>(&'a self, sessions: &'a Sessions) -> Address<'a> {
        let fallback = &self.fallback;
        if self.session {
            let prekeys = Prekeys { fallback, one_time: self.one_time.as_ref() };
            Address::Session { to: self.peer, sessions, prekeys: Some(prekeys) }
        } else {
            Address::OneShot(OneShot { account: self.peer.account, fallback })
        }
    }
}

/// The devices that a message goes to, with prekeys for those that need a new session.
///
/// One-time prekeys are claimed here, before anything is sealed. Should a session end between
/// this look and the sealing, the fallback prekey begins the next one.
pub(super) async fn ready(
    session: &Session<'_>,
    to: &Addressees,
    conversation: ConversationId,
    oneshot: bool,
    now: u64,
) -> Result<Vec<End>, DeliverError> {
    let profile = session.profile;
    let mut ends = to.ends(conversation, profile.identity.device_id());
    if oneshot || profile.is_stateless() {
        ends.iter_mut().for_each(|end| end.session = false);
    } else {
        with_prekeys(session, to, &mut ends, now).await?;
    }
    Ok(ends)
}

/// Claims prekeys for those of `ends` that the next message begins a session with.
pub(super) async fn with_prekeys(
    session: &Session<'_>,
    to: &Addressees,
    ends: &mut [End],
    now: u64,
) -> Result<(), DeliverError> {
    let profile = session.profile;
    let sides = [&to.to, &to.own];
    // In notes to self both sides are one.
    for side in sides.into_iter().take(if to.is_note() { 1 } else { 2 }) {
        let account = side.account.id;
        let due = due(profile, ends, account, now)?;
        if due.is_empty() {
            continue;
        }
        let (trust, member) = (&session.trust, &session.member);
        let claimed = tokio::select! {
            biased;
            claimed = claim_prekeys(trust, member, &side.handle, Some(account), now) => claimed?,
            begun = begun_meanwhile(profile, ends, account, now) => { begun?; Vec::new() }
        };
        for prekeys in claimed {
            let device = prekeys.key.device_id();
            let of = Peer { account, device };
            if let Some(end) = ends.iter_mut().find(|end| end.peer == of && due.contains(&device)) {
                end.fallback = prekeys.fallback;
                end.one_time = prekeys.one_time;
            }
        }
    }
    Ok(())
}

/// The devices of an account that the next message begins a session with.
fn due(
    profile: &Profile,
    ends: &[End],
    account: AccountId,
    now: u64,
) -> Result<Vec<DeviceId>, VaultError> {
    profile.vault.read(|tx| {
        let mut due = Vec::new();
        for end in ends.iter().filter(|end| end.session && end.peer.account == account) {
            if tx.sessions(end.peer)?.handshake_due(now).is_some() {
                due.push(end.peer.device);
            }
        }
        Ok(due)
    })
}

/// Waits until other processes on the same state have begun the sessions. Of many that start at
/// once some are made to wait by the relay's limits, and need not ask once one has asked.
async fn begun_meanwhile(
    profile: &Profile,
    ends: &[End],
    account: AccountId,
    now: u64,
) -> Result<(), VaultError> {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if due(profile, ends, account, now)?.is_empty() {
            return Ok(());
        }
    }
}
