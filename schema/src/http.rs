//! Bodies of the REST API. Field names of the seed stay; native clients add optional fields.
//!
//! Bytes travel as standard base64, ids as lower-case hex, `ad` as the exact JSON received.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{AccountId, ConvId, DeviceId, Handle, MsgId};

/// `POST /auth/register`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Trimmed and lowered by the relay, as the seed did.
    pub handle: String,
    /// A plain client's name for its device; native ids follow from the key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device_id: Option<String>,
    /// The device's Ed25519 key.
    pub ed25519_pub: String,
    /// Native accounts: the genesis event.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub genesis: Option<SignedEvent>,
    /// Where registration is by invite.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub invite: Option<String>,
}

/// An account event with its signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedEvent {
    /// The event's bytes.
    pub event: String,
    /// The signer's signature over them.
    pub sig: String,
    /// The new device's acceptance.
    pub accept_sig: String,
}

/// Answer of `POST /auth/register`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Challenge {
    /// One line to sign; see [`crate::auth::Nonce`].
    pub nonce: String,
    /// Unix seconds.
    pub exp: u64,
    /// The device the challenge is for.
    pub device_id: DeviceId,
}

/// `POST /auth/verify`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// From the challenge.
    pub device_id: String,
    /// Ed25519 over the nonce's bytes.
    pub signature: String,
}

/// `POST /auth/refresh`.
#[derive(Clone, Serialize, Deserialize)]
pub struct RefreshRequest {
    /// The newest refresh token.
    pub refresh: String,
}

/// Answer of verify and refresh. No `Debug`: it holds secrets.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tokens {
    /// A JWT for `Authorization`.
    pub access: String,
    /// Opaque; good for one use.
    pub refresh: String,
    /// `DPoP` when the token is bound to the device's key, else `Bearer`.
    pub token_type: String,
    /// Seconds the access token lives.
    pub expires_in: u64,
    /// The device.
    pub device_id: DeviceId,
    /// The account.
    pub account_id: AccountId,
    /// Where the account's first key event stands in the log (1-based).
    pub account_sth_index: u64,
}

/// `POST /conversations`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConversationRequest {
    /// The other side; one's own handle opens notes to self.
    pub peer_handle: String,
}

/// Answer of `POST /conversations`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conversation {
    /// The conversation.
    pub conv_id: ConvId,
    /// X25519 key of the asker's first device.
    pub me_x25519: String,
    /// X25519 key of the peer's first device.
    pub peer_x25519: String,
    /// The asker's account.
    pub me_account: AccountId,
    /// The peer's account.
    pub peer_account: AccountId,
    /// Whether the peer has a sigchain; native clients encrypt to no other.
    pub peer_native: bool,
}

/// `POST /messages`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SendRequest {
    /// The conversation.
    pub conv_id: ConvId,
    /// Base64. Native: the sealed payload.
    pub cipher: String,
    /// A JSON object, kept byte for byte.
    pub ad: Box<RawValue>,
    /// The client's id for the message; with it (or `Idempotency-Key`) a retry is safe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub msg_id: Option<MsgId>,
    /// Native: a key packet for every device addressed, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub packets: Option<BTreeMap<DeviceId, String>>,
    /// Native, unless the device is stateless: the send counter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dseq: Option<u64>,
}

/// A message, or a deletion, as lists and answers show it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Item {
    /// The message; in a deletion the message deleted.
    pub msg_id: MsgId,
    /// The conversation.
    pub conv_id: ConvId,
    /// The sending device.
    pub sender_device: DeviceId,
    /// Base64; empty once deleted.
    pub cipher: String,
    /// As received; `{"type":"delete"}` once deleted, and in a deletion.
    pub ad: Box<RawValue>,
    /// The relay's time, Unix seconds.
    pub ts: u64,
    /// Position in the log, from 1.
    pub sth_index: u64,
    /// Native: what a receiver needs to verify and open it.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub native: Option<NativeItem>,
    /// In a deletion (only in lists by `after`).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tombstone: Option<Tombstone>,
    /// Audit path, leaf to root, base64, in the tree of the list's `head`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub inclusion: Option<Vec<String>>,
}

/// The native part of an [`Item`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NativeItem {
    /// The sender's account.
    pub sender_account: AccountId,
    /// The asker's own key packet, base64; absent if the message was not for this device.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub packet: Option<String>,
    /// SHA-256 of every key packet as logged, hex, by device.
    pub packet_hashes: BTreeMap<DeviceId, String>,
    /// `packet` was made later than the one that was logged, which this device asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub resent: bool,
}

/// `PUT /messages/{conv_id}/{msg_id}/packets/{device_id}`: a key packet in the place of one that
/// did not open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PacketAgain {
    /// The packet, base64.
    pub packet: String,
}

/// Answer of `POST /messages/{conv_id}/{msg_id}/retry` and of the route of [`PacketAgain`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetryState {
    /// How often the device has asked for the message.
    pub asked: u8,
    /// Whether a packet answers its last time of asking.
    pub answered: bool,
}

/// A deletion of a message for everyone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tombstone {
    /// Where the deleted message stands in the log.
    pub target_sth_index: u64,
    /// Native: the signed bytes, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub statement: Option<String>,
    /// Native: the signature, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sig: Option<String>,
}

/// Where something stands in the log, provably.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receipt {
    /// 1-based position: RFC 6962 leaf index + 1.
    pub sth_index: u64,
    /// A signed checkpoint (C2SP note) whose tree holds the entry.
    pub head: String,
    /// Audit path (RFC 6962 2.1.1), leaf to root, base64.
    pub inclusion: Vec<String>,
}

/// Answer of `POST /messages`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SendResponse {
    /// Always true; the seed's clients look at it.
    pub ok: bool,
    /// The message as stored.
    pub message: Item,
    /// Whether it had been accepted before.
    pub duplicate: bool,
    /// To native clients, and to others with `?receipt=1`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub receipt: Option<Receipt>,
}

/// Answer of `GET /messages/{conv_id}` and `GET /messages`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page {
    /// In log order.
    pub items: Vec<Item>,
    /// Pass as `after=` for what follows.
    pub next: u64,
    /// Whether more is there now.
    pub more: bool,
    /// With `proofs=1`: the signed checkpoint the paths lead to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub head: Option<String>,
    /// With `tree_size=N`: the consistency proof from that size to `head`, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub consistency: Option<Vec<String>>,
}

/// `POST /messages/delete`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// The conversation.
    pub conv_id: ConvId,
    /// The message, one of the asker's own.
    pub target_msg_id: MsgId,
    /// Native: the signed statement (e2ee 2.16), base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub statement: Option<String>,
    /// Native: its signature, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sig: Option<String>,
}

/// Answer of `POST /messages/delete`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteResponse {
    /// Always true.
    pub ok: bool,
    /// Position of the deletion in the log.
    pub sth_index: u64,
    /// Whether it had been deleted before.
    pub duplicate: bool,
    /// To native clients, and to others with `?receipt=1`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub receipt: Option<Receipt>,
}

/// Answer of `GET /livez` and `GET /readyz`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// `live` or `ready`.
    pub status: String,
}

/// Answer of `GET /devices/x25519_pub`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MyX25519 {
    /// Base64.
    pub x25519_pub_b64: String,
}

/// Answer of `GET /health`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    /// `healthy`.
    pub status: String,
    /// The relay's clock, Unix seconds.
    pub timestamp: u64,
    /// Accounts.
    pub users_count: u64,
    /// Entries in the log.
    pub sth_count: u64,
}

/// A published prekey (e2ee 2.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prekey {
    /// Strictly increasing per device and kind.
    pub id: u32,
    /// X25519, base64.
    pub x25519: String,
    /// ML-KEM-768 encapsulation key, base64.
    pub kem: String,
    /// Fallback prekeys: Unix seconds. One-time prekeys have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_before: Option<u64>,
    /// See `not_before`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub not_after: Option<u64>,
    /// The device's signature, base64.
    pub sig: String,
}

/// `POST /prekeys`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PrekeyUpload {
    /// Replaces the one published before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fallback: Option<Prekey>,
    /// Added to those published.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub one_time: Vec<Prekey>,
    /// One-time prekeys whose private half is gone.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub remove: Vec<u32>,
}

/// What the relay holds of a prekey: enough to find the private half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrekeyRef {
    /// The id.
    pub id: u32,
    /// SHA-256 of x25519 || kem, hex.
    pub hash: String,
}

/// Answer of `GET /prekeys` and `POST /prekeys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrekeyStock {
    /// The fallback prekey in force.
    pub fallback: Option<PrekeyRef>,
    /// One-time prekeys not yet claimed.
    pub one_time: Vec<PrekeyRef>,
}

/// Whether a one-time prekey was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OneTimeStatus {
    /// It is in `otk`.
    Ok,
    /// `GET` claims none.
    NotAsked,
    /// None are left; use the fallback prekey.
    Exhausted,
    /// The asker took too many; use the fallback prekey.
    Throttled,
}

/// Answer of `GET` (claims nothing) and `POST` (claims one-time prekeys)
/// `/accounts/{handle}/bundle`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The handle.
    pub handle: Handle,
    /// The account.
    pub account_id: AccountId,
    /// The account's chain, from genesis.
    pub events: Vec<LoggedEvent>,
    /// The signed checkpoint the paths lead to.
    pub head: String,
    /// With `tree_size=N`: the consistency proof from that size to `head`, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub consistency: Option<Vec<String>>,
    /// Active devices that can be addressed.
    pub devices: Vec<DeviceBundle>,
}

/// An account event and its place in the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoggedEvent {
    /// The event.
    #[serde(flatten)]
    pub signed: SignedEvent,
    /// Position in the log, from 1.
    pub sth_index: u64,
    /// Audit path, base64.
    pub inclusion: Vec<String>,
}

/// Answer of `POST /account/events`, which takes a [`SignedEvent`], and of a link's acceptance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventPlaced {
    /// The account.
    pub account_id: AccountId,
    /// Position in its chain, from 0.
    pub seq: u64,
    /// Position in the log, from 1.
    pub sth_index: u64,
    /// Whether the relay had it before.
    pub duplicate: bool,
    /// Where it stands, provably.
    pub receipt: Receipt,
}

/// Answer of `GET /accounts/{handle}/chain`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChainPage {
    /// The handle.
    pub handle: Handle,
    /// The account.
    pub account_id: AccountId,
    /// Its events from `from` on, in the order of the chain.
    pub events: Vec<LoggedEvent>,
    /// Goes into `from` of the next call.
    pub next: u64,
    /// Whether more is there now.
    pub more: bool,
    /// The signed checkpoint the paths lead to.
    pub head: String,
    /// With `tree_size=N`: the consistency proof from that size to `head`, base64.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub consistency: Option<Vec<String>>,
}

/// `POST /links`: a new device asks to be added to an account, whose it does not say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkRequest {
    /// Its Ed25519 key.
    pub ed25519_pub: String,
    /// The commitment to its display name, 32 bytes.
    pub name: String,
    /// For the device that approves; the relay does not look into it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub opening: Option<String>,
    /// The new device's signature; see [`crate::link::request`].
    pub sig: String,
}

/// A link request, as both sides see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Link {
    /// The first 16 bytes of the code, hex.
    pub link_id: String,
    /// The new device's Ed25519 key.
    pub ed25519_pub: String,
    /// The commitment to its display name.
    pub name: String,
    /// As it came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub opening: Option<String>,
    /// The new device's signature over the request.
    pub sig: String,
    /// Unix seconds.
    pub exp: u64,
    /// What an account's device answered; the new device accepts it or does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offer: Option<LinkOffer>,
}

/// An event that would add the new device, without its acceptance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkOffer {
    /// The account it would be added to.
    pub account_id: AccountId,
    /// That account's handle.
    pub handle: Handle,
    /// The event.
    pub event: String,
    /// The admin device's signature.
    pub sig: String,
}

/// `POST /links/{link_id}/offer`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkAnswer {
    /// An event of type 2 with the new device's key.
    pub event: String,
    /// The asking device's signature.
    pub sig: String,
}

/// `POST /links/{link_id}/accept`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkAcceptance {
    /// The new device's acceptance of the event on offer.
    pub accept_sig: String,
}

/// One device's keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceBundle {
    /// The device.
    pub device_id: DeviceId,
    /// The X25519 key the relay derived, as the seed served it; clients compare, never use it.
    pub x25519_pub: String,
    /// The fallback prekey; absent when none is in force: the device cannot be reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fpk: Option<Prekey>,
    /// A one-time prekey, if one was claimed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub otk: Option<Prekey>,
    /// Why there is none.
    pub otk_status: OneTimeStatus,
}

/// Answer of `GET /log/head` and `GET /log/head/{size}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeadView {
    /// The log's origin.
    pub origin: String,
    /// Entries in the tree.
    pub size: u64,
    /// RFC 6962 root, base64.
    pub root: String,
    /// When the relay last vouched for it, Unix seconds.
    pub time: u64,
    /// The signed checkpoint, verbatim.
    pub note: String,
}

/// Answer of `GET /log/inclusion?index=&size=`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InclusionView {
    /// RFC 6962 leaf index, from 0: `sth_index` - 1.
    pub index: u64,
    /// The tree's size.
    pub size: u64,
    /// The leaf's hash, base64.
    pub leaf_hash: String,
    /// Audit path, leaf to root, base64.
    pub hashes: Vec<String>,
}

/// Answer of `GET /log/consistency?from=&to=`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsistencyView {
    /// The older size, at least 1.
    pub from: u64,
    /// The newer size.
    pub to: u64,
    /// RFC 6962 2.1.2 proof, base64.
    pub hashes: Vec<String>,
}

/// Answer of `GET /log/events?from=&limit=`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventPage {
    /// Every key event from `from` up to `next`, in the order of the log.
    pub events: Vec<KeyEventView>,
    /// Goes into `from` of the next call.
    pub next: u64,
    /// Entries under the newest head; there are no more events where `next` reaches it.
    pub size: u64,
}

/// What a key entry was made of: one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyEventView {
    /// RFC 6962 leaf index of its entry, from 0: `sth_index` - 1.
    pub index: u64,
    /// An event of a native account's chain.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub native: Option<SignedEvent>,
    /// The record of a plain account.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plain: Option<PlainKey>,
}

/// The fields of a plain account's key record (PROTOCOL.md 6).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlainKey {
    /// The handle.
    pub handle: Handle,
    /// The account.
    pub account_id: AccountId,
    /// Its one device.
    pub device_id: DeviceId,
    /// The device's Ed25519 key.
    pub ed25519_pub: String,
}
