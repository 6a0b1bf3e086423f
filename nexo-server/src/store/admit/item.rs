//! What can enter the log, and why it may not.

use nexo_schema::ids::{AccountId, ConvId, DeviceId, Handle, MsgId};

pub(super) type Hash = [u8; 32];

/// Something that wants a place in the log.
#[derive(Debug)]
pub enum Item {
    /// A new account with its first device.
    Register(Registration),
    /// An event of an account's chain, behind its genesis.
    Event(NewEvent),
    /// A message.
    Message(NewMessage),
    /// The deletion of a message for everyone.
    Deletion(NewDeletion),
}

impl Item {
    /// As [`NewMessage::bytes`]; others have none to speak of.
    pub(in crate::store) fn bytes(&self) -> usize {
        if let Self::Message(new) = self { new.bytes() } else { 0 }
    }
}

impl NewMessage {
    /// Bytes of its parts that are not bounded by a few hundred.
    pub(in crate::store) fn bytes(&self) -> usize {
        let packets = self.native.iter().flat_map(|native| &native.packets);
        self.cipher.len() + self.ad.len() + packets.map(|packet| packet.bytes.len()).sum::<usize>()
    }
}

/// A new account, proved and checked but for what may have changed since.
#[derive(Debug)]
pub struct Registration {
    /// Its name.
    pub handle: Handle,
    /// Its id.
    pub account: AccountId,
    /// Its first device.
    pub device: DeviceId,
    /// Ed25519.
    pub key: Hash,
    /// The X25519 key derived from it.
    pub x25519: Hash,
    /// The device's capabilities.
    pub caps: u16,
    /// Unix seconds after which the device is void; 0 for none.
    pub not_after: u64,
    /// The challenge that was answered; used up with the registration.
    pub nonce: String,
    /// Hash of the invite to spend.
    pub invite: Option<Hash>,
    /// Native accounts: the event as signed.
    pub genesis: Option<EventBytes>,
    /// The log entry.
    pub entry: Vec<u8>,
}

/// An account event as signed.
#[derive(Debug, Clone)]
pub struct EventBytes {
    /// The event.
    pub event: Vec<u8>,
    /// The signer's signature.
    pub sig: Vec<u8>,
    /// The acceptance; empty where the event needs none.
    pub accept_sig: Vec<u8>,
}

/// An event that follows the chain's rules if `prev` is still the newest event, `signer` has not
/// expired, and the device it adds is nobody's.
#[derive(Debug)]
pub struct NewEvent {
    /// The account.
    pub account: AccountId,
    /// Its number in the chain, from 1.
    pub seq: u64,
    /// Hash of the event before.
    pub prev: Hash,
    /// The device that signed; none in a recovery.
    pub signer: Option<DeviceId>,
    /// What it does.
    pub effect: Effect,
    /// As signed.
    pub signed: EventBytes,
    /// The log entry.
    pub entry: Vec<u8>,
}

/// What an event changes besides the chain.
#[derive(Debug)]
pub enum Effect {
    /// A device more.
    Add(NewDevice),
    /// One device instead of all.
    Recover(NewDevice),
    /// A device less.
    Revoke(DeviceId),
    /// Other capabilities, another end.
    Update {
        /// The device.
        device: DeviceId,
        /// From here on.
        caps: u16,
        /// Unix seconds; 0 for none.
        not_after: u64,
    },
    /// Another recovery key, which stands in the chain alone.
    SetRecovery,
    /// No devices any more.
    Close,
}

/// A device that an event adds.
#[derive(Debug)]
pub struct NewDevice {
    /// Its id.
    pub id: DeviceId,
    /// Ed25519.
    pub key: Hash,
    /// The X25519 key derived from it.
    pub x25519: Hash,
    /// Its capabilities.
    pub caps: u16,
    /// Unix seconds after which it is void; 0 for none.
    pub not_after: u64,
    /// Conversations it is limited to; empty for all.
    pub conversations: Vec<Hash>,
}

/// A message to store.
#[derive(Debug)]
pub struct NewMessage {
    /// Where to.
    pub conv: ConvId,
    /// Its id.
    pub msg_id: MsgId,
    /// Who sends it.
    pub device: DeviceId,
    /// Bytes of `cipher` that are its nonce, when it came as `{c,n}`.
    pub nonce_len: u32,
    /// The ciphertext.
    pub cipher: Vec<u8>,
    /// The exact bytes received.
    pub ad: Vec<u8>,
    /// Set on native messages.
    pub native: Option<NativeMessage>,
}

/// What a native message has besides.
#[derive(Debug)]
pub struct NativeMessage {
    /// The envelope hash EH over all that is stored.
    pub envelope: Hash,
    /// A key packet per device, in ascending order of device id.
    pub packets: Vec<Packet>,
    /// The send counter; stateless devices have none.
    pub dseq: Option<u64>,
}

/// A key packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Whom it is for.
    pub device: DeviceId,
    /// The packet.
    pub bytes: Vec<u8>,
    /// Its SHA-256.
    pub hash: Hash,
}

/// A deletion to store.
#[derive(Debug)]
pub struct NewDeletion {
    /// Where.
    pub conv: ConvId,
    /// What.
    pub target: MsgId,
    /// Who asks.
    pub device: DeviceId,
    /// Native accounts sign.
    pub native: Option<NativeDeletion>,
}

/// A signed tombstone, its signature verified.
#[derive(Debug)]
pub struct NativeDeletion {
    /// The signed bytes.
    pub statement: Vec<u8>,
    /// The signature.
    pub sig: Vec<u8>,
    /// The envelope hash it names.
    pub target_envelope: Hash,
}

/// What a submitter learns besides the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The relay's time for it, Unix seconds.
    pub ts: u64,
}

/// Why an item got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The challenge was used or has expired.
    #[error("the challenge was used or has expired")]
    ChallengeGone,
    /// The handle belongs to another account.
    #[error("the handle is taken")]
    HandleTaken,
    /// The device id belongs to another key.
    #[error("the device id is taken")]
    DeviceTaken,
    /// Another event was placed where this one wants to be.
    #[error("the event does not follow the newest one of its chain any more")]
    ChainMoved,
    /// The invite has no use left.
    #[error("the invite is not valid")]
    InviteSpent,
    /// The device is revoked, expired or lacks the capability.
    #[error("the device may not do this")]
    DeviceBarred,
    /// The account takes no part in the conversation, or it does not exist.
    #[error("not a participant of the conversation")]
    NotParticipant,
    /// The `msg_id` was used with other content.
    #[error("the msg_id was used with other content")]
    Conflict,
    /// The account stores as many messages as it may.
    #[error("the account has as many messages as it may store")]
    MessagesUsedUp,
    /// The account stores as many bytes as it may, or would with this.
    #[error("the account has as many bytes as it may store; deleting messages makes room")]
    BytesUsedUp,
    /// The send counter was used, or lies below the window.
    #[error("the send counter was used before")]
    CounterUsed,
    /// A native device that keeps state sent no send counter, or a stateless one did.
    #[error("the send counter is missing or not wanted")]
    CounterForm,
    /// Key packets do not match the participants' devices.
    #[error("the participants' devices have changed")]
    DevicesChanged,
    /// There is no such message of this account in the conversation.
    #[error("no such message of yours in this conversation")]
    NoTarget,
    /// The tombstone names another envelope.
    #[error("the tombstone names another envelope")]
    WrongTarget,
}
