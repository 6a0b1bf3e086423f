//! Which event may follow in an account's chain (PROTOCOL.md 4), as far as chain and keys tell.
//!
//! ```text
//! add, update, close  signed by an admin device that is in the account
//! revoke              by one, or by the revoked device itself
//! set_recovery        by one, and accepted by the old recovery key
//! recover             by the recovery key, in nobody's name
//! ```
//!
//! A [`Chain`] is replayed from stored events, whose signatures were verified when they came. A
//! new one is verified by [`Chain::judge`], against the chain that its `prev` names. What it says
//! holds at the commit as long as that is still the newest event, which is what the commit looks
//! at (`store/admit/event.rs`), together with what a chain does not know: the time of the batch,
//! and the devices of other accounts.

use nexo_schema::bytes::DecodeError;
use nexo_schema::change::{Change, RESET};
use nexo_schema::entry;
use nexo_schema::ids::{AccountId, DeviceId, Handle, Origin};
use nexo_schema::limits::{
    CHAIN_RESERVE, MAX_CHAIN, MAX_DEVICE_CONVERSATIONS, MAX_DEVICES, MAX_EVENT,
};
use nexo_schema::sigchain::{self, Device, Event, caps};
use sha2::{Digest as _, Sha256};

use super::keys::DeviceKey;
use crate::store::{Effect, EventBytes, NewDevice, NewEvent};

type Hash = [u8; 32];

const NOBODY: Hash = [0; 32];

/// The rule that an event breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Longer than any event.
    #[error("an event is at most {MAX_EVENT} bytes long")]
    TooLong,
    /// Not the bytes of an event, or not of its type.
    #[error("the event: {0}")]
    Unreadable(#[from] DecodeError),
    /// Made for another relay.
    #[error("the event is for another relay")]
    Origin,
    /// A type that is not taken here.
    #[error("events of type {0} are not taken here")]
    Kind(u8),
    /// Of another account than the chain is.
    #[error("the event is of another account")]
    Account,
    /// It does not follow the newest event.
    #[error("the event does not follow the newest one of its chain, which is number {newest}")]
    Moved {
        /// Number of the newest event.
        newest: u64,
    },
    /// The account was closed.
    #[error("the account is closed")]
    Closed,
    /// No place is left for an event of its type.
    #[error("the chain has as many events as it may; a recovery or a close still fits")]
    Full,
    /// The signer is no device of the account, or not any more.
    #[error("the signing device is not in the account, was revoked or has expired")]
    Signer,
    /// The signer may not change the account.
    #[error("the signing device is no admin")]
    NotAdmin,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
    /// The acceptance is missing, does not verify, or stands where there is none.
    #[error("the acceptance is missing, does not verify, or belongs nowhere")]
    Acceptance,
    /// A key in it breaks the strict rule.
    #[error("a key in the event is not a valid Ed25519 key")]
    Key,
    /// The new device is limited to too many conversations.
    #[error("a device is limited to at most {MAX_DEVICE_CONVERSATIONS} conversations")]
    Conversations,
    /// The new device's key was in the account before.
    #[error("the device was in the account before")]
    Returned,
    /// One device too many.
    #[error("an account has at most {MAX_DEVICES} devices; revoke one first")]
    Crowd,
    /// The device that is revoked or updated is not in the account.
    #[error("the device that is changed is not in the account, or was revoked")]
    NoDevice,
    /// A device's `stateless` bit would change.
    #[error("a device stays stateless, or keeps state; add another one instead")]
    Stateless,
}

/// Stored events are no chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored events of an account are no chain: {0}")]
pub struct Broken(pub &'static str);

/// A device of an account, now or before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: DeviceId,
    /// As the events have it by now.
    pub device: Device,
    /// Position in the log of the event that added it.
    pub added: u64,
    /// Position of the event that ended it.
    pub ended: Option<u64>,
}

/// A chain, as far as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The account.
    pub account: AccountId,
    /// Every device it ever had, in the order in which they came.
    pub members: Vec<Member>,
    recovery: Hash,
    closed: bool,
    next: u64,
    head: Hash,
}

/// An event that may follow once it is accepted by whom it must.
#[derive(Debug)]
pub struct Next {
    event: Hash,
    acceptor: Option<Hash>,
    seq: u64,
    prev: Hash,
    signer: Option<DeviceId>,
    effect: Effect,
}

impl Chain {
    /// Follows stored events, each with its position in the log, from genesis on. `None` if there
    /// are none.
    ///
    /// # Errors
    /// [`Broken`] if they cannot have been admitted.
    pub fn replay<'e>(
        events: impl IntoIterator<Item = (u64, &'e [u8])>,
    ) -> Result<Option<Self>, Broken> {
        let mut chain: Option<Self> = None;
        for (place, bytes) in events {
            let event = Event::decode(bytes).map_err(|_| Broken("an event cannot be read"))?;
            let change = Change::decode(event.kind, event.body);
            let change = change.map_err(|_| Broken("a body cannot be read"))?;
            match &mut chain {
                None => chain = Some(Self::begin(place, bytes, change)?),
                Some(chain) => {
                    if event.seq != chain.next || event.prev != chain.head {
                        return Err(Broken("an event does not follow the one before it"));
                    }
                    chain.apply(place, &change)?;
                    chain.next += 1;
                    chain.head = hash(bytes);
                }
            }
        }
        Ok(chain)
    }

    fn begin(place: u64, bytes: &[u8], change: Change<'_>) -> Result<Self, Broken> {
        let Change::Genesis(genesis) = change else {
            return Err(Broken("the first event is no genesis"));
        };
        let head = hash(bytes);
        Ok(Self {
            account: AccountId(head),
            members: vec![Member::new(genesis.device, place)],
            recovery: genesis.recovery,
            closed: false,
            next: 1,
            head,
        })
    }

    fn apply(&mut self, place: u64, change: &Change<'_>) -> Result<(), Broken> {
        let strange = Broken("an event changes a device that is not there");
        match change {
            Change::Add(device) => self.members.push(Member::new(device.clone(), place)),
            Change::Recover(device) => {
                self.end_all(place);
                self.members.push(Member::new(device.clone(), place));
            }
            Change::Revoke { device, .. } => {
                self.standing_mut(device).ok_or(strange)?.ended = Some(place);
            }
            Change::Update { device, caps, not_after } => {
                let member = self.standing_mut(device).ok_or(strange)?;
                (member.device.caps, member.device.not_after) = (*caps, *not_after);
            }
            Change::SetRecovery(key) => self.recovery = *key,
            Change::Close => {
                self.end_all(place);
                self.closed = true;
            }
            Change::Genesis(_) | Change::Reset { .. } => {
                return Err(Broken("an event of a type that is not admitted"));
            }
        }
        Ok(())
    }

    fn end_all(&mut self, place: u64) {
        for member in &mut self.members {
            member.ended.get_or_insert(place);
        }
    }

    fn standing_mut(&mut self, id: &Hash) -> Option<&mut Member> {
        let id = DeviceId::native(id);
        self.members.iter_mut().find(|member| member.id == id && member.ended.is_none())
    }

    /// The member of this id, if it was not revoked.
    fn standing(&self, id: &Hash) -> Option<&Member> {
        let id = DeviceId::native(id);
        self.members.iter().find(|member| member.id == id && member.ended.is_none())
    }

    /// How many events it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.next
    }

    /// Judges an event and its signature at `now` (Unix seconds). Whether it was accepted is
    /// [`Next::accepted`]'s question: a new device may only now be asked.
    ///
    /// # Errors
    /// [`Violation`] names the rule.
    pub fn judge(
        &self,
        origin: &Origin,
        bytes: &[u8],
        sig: &[u8],
        now: u64,
    ) -> Result<Next, Violation> {
        let (event, change) = read(origin, bytes)?;
        if event.account != self.account.0 {
            return Err(Violation::Account);
        }
        if self.closed {
            return Err(Violation::Closed);
        }
        if event.seq != self.next || event.prev != self.head {
            return Err(Violation::Moved { newest: self.next.saturating_sub(1) });
        }
        let ending = matches!(change, Change::Revoke { .. } | Change::Recover(_) | Change::Close);
        if self.next >= if ending { MAX_CHAIN } else { MAX_CHAIN - CHAIN_RESERVE } {
            return Err(Violation::Full);
        }
        let key = self.signing_key(&event, &change, now)?;
        verify(&key, bytes, sig, Violation::Signature)?;
        let (effect, acceptor) = self.effect(&change)?;
        let signer = (event.signer != NOBODY).then(|| DeviceId::native(&event.signer));
        let (seq, prev) = (event.seq, event.prev);
        Ok(Next { event: hash(bytes), acceptor, seq, prev, signer, effect })
    }

    /// The key that has to have signed.
    fn signing_key(
        &self,
        event: &Event<'_>,
        change: &Change<'_>,
        now: u64,
    ) -> Result<Hash, Violation> {
        if let Change::Recover(_) = change {
            return if event.signer == NOBODY { Ok(self.recovery) } else { Err(Violation::Signer) };
        }
        let Member { device: signer, .. } =
            self.standing(&event.signer).ok_or(Violation::Signer)?;
        if signer.not_after != 0 && now >= signer.not_after {
            return Err(Violation::Signer);
        }
        let itself = matches!(change, Change::Revoke { device, .. } if *device == event.signer);
        if signer.caps & caps::ADMIN == 0 && !itself {
            return Err(Violation::NotAdmin);
        }
        Ok(signer.key)
    }

    /// What the change does to rows, and whose acceptance it needs.
    fn effect(&self, change: &Change<'_>) -> Result<(Effect, Option<Hash>), Violation> {
        Ok(match change {
            Change::Add(device) => {
                let new = self.newcomer(device)?;
                if self.members.iter().filter(|m| m.ended.is_none()).count() >= MAX_DEVICES {
                    return Err(Violation::Crowd);
                }
                (Effect::Add(new), Some(device.key))
            }
            Change::Recover(device) => (Effect::Recover(self.newcomer(device)?), Some(device.key)),
            Change::Revoke { device, .. } => {
                let member = self.standing(device).ok_or(Violation::NoDevice)?;
                (Effect::Revoke(member.id.clone()), None)
            }
            Change::Update { device, caps: bits, not_after } => {
                let member = self.standing(device).ok_or(Violation::NoDevice)?;
                // Send counters tell a state that went back; nobody gets rid of one like this.
                if (member.device.caps ^ bits) & caps::STATELESS != 0 {
                    return Err(Violation::Stateless);
                }
                let device = member.id.clone();
                (Effect::Update { device, caps: *bits, not_after: *not_after }, None)
            }
            Change::SetRecovery(key) => {
                DeviceKey::parse(key).map_err(|_| Violation::Key)?;
                (Effect::SetRecovery, Some(self.recovery))
            }
            Change::Close => (Effect::Close, None),
            Change::Genesis(_) | Change::Reset { .. } => {
                return Err(Violation::Kind(change.kind()));
            }
        })
    }

    /// A device that was never in the account.
    fn newcomer(&self, device: &Device) -> Result<NewDevice, Violation> {
        let key = DeviceKey::parse(&device.key).map_err(|_| Violation::Key)?;
        if device.conversations.len() > MAX_DEVICE_CONVERSATIONS {
            return Err(Violation::Conversations);
        }
        let id = device_id(&device.key);
        if self.members.iter().any(|member| member.id == id) {
            return Err(Violation::Returned);
        }
        Ok(NewDevice {
            id,
            key: device.key,
            x25519: key.x25519(),
            caps: device.caps,
            not_after: device.not_after,
            conversations: device.conversations.clone(),
        })
    }
}

impl Next {
    /// The new device, if it adds one.
    #[must_use]
    pub fn newcomer(&self) -> Option<&NewDevice> {
        match &self.effect {
            Effect::Add(device) | Effect::Recover(device) => Some(device),
            _ => None,
        }
    }

    /// Whether those accepted who have to, and nobody else.
    ///
    /// # Errors
    /// [`Violation::Acceptance`].
    pub fn accepted(&self, accept_sig: &[u8]) -> Result<(), Violation> {
        match &self.acceptor {
            Some(key) => {
                let message = sigchain::accept(&self.event);
                verify(key, &message, accept_sig, Violation::Acceptance)
            }
            None if accept_sig.is_empty() => Ok(()),
            None => Err(Violation::Acceptance),
        }
    }

    /// The item that brings it into the log, for the account of this handle.
    #[must_use]
    pub fn into_item(
        self,
        origin: &Origin,
        handle: &Handle,
        account: AccountId,
        signed: EventBytes,
    ) -> NewEvent {
        let label = hash(&entry::label(origin.as_str(), handle.as_str()));
        let signatures = hash(&sigchain::signatures(&signed.sig, &signed.accept_sig));
        NewEvent {
            account,
            seq: self.seq,
            prev: self.prev,
            signer: self.signer,
            effect: self.effect,
            entry: entry::key_event(&label, &self.event, &signatures),
            signed,
        }
    }
}

impl Member {
    fn new(device: Device, added: u64) -> Self {
        Self { id: device_id(&device.key), device, added, ended: None }
    }
}

/// Reads an event for the relay `origin`, of a type that may follow another.
///
/// # Errors
/// [`Violation`].
pub fn read<'b>(origin: &Origin, bytes: &'b [u8]) -> Result<(Event<'b>, Change<'b>), Violation> {
    if bytes.len() > MAX_EVENT {
        return Err(Violation::TooLong);
    }
    let event = Event::decode(bytes)?;
    if event.origin != origin.as_str().as_bytes() {
        return Err(Violation::Origin);
    }
    if [sigchain::GENESIS, RESET].contains(&event.kind) {
        return Err(Violation::Kind(event.kind));
    }
    let change = Change::decode(event.kind, event.body)?;
    Ok((event, change))
}

fn verify(key: &Hash, message: &[u8], sig: &[u8], broken: Violation) -> Result<(), Violation> {
    let key = DeviceKey::parse(key).map_err(|_| Violation::Key)?;
    let sig = sig.try_into().map_err(|_| broken)?;
    if key.verify(message, sig) { Ok(()) } else { Err(broken) }
}

/// The id of a native device with this key.
#[must_use]
pub fn device_id(key: &Hash) -> DeviceId {
    DeviceId::native(&hash(&entry::device(key)))
}

fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
