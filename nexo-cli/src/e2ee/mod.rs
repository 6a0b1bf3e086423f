//! The encryption core: Nexo E2EE v1, suite 0x01 (PROTOCOL.md; design/e2ee.md 2).
//!
//! What it promises: given verified public keys, [`seal_fanout`] and
//! [`seal_oneshot`] make a message that only the addressed devices can open, and
//! [`open_in_session`], [`open_handshake`] and [`open_oneshot`] return a body only
//! if exactly the named sender sealed exactly these bytes for this device,
//! conversation and message id. A device key signs five kinds of labelled statements
//! (account events, requests to be linked, prekeys, tombstones, relay logins) and nothing else.
//!
//! What it is not: it does no I/O, reads no clock and owns no random generator.
//! Times and random bytes are arguments, and every function is a pure function of
//! them. It keeps nothing: sessions are values, and each change of one is a new
//! value that the caller stores, or does not, with the message that made it. It
//! decides nothing about trust: whether an account is the right one, its device
//! still active, its log leaf included, its message a replay, is the caller's to
//! check with what is returned here (fingerprints, leaves, envelope hashes, replay
//! keys).
//!
//! What may be used here: `crate::e2ee`, `nexo_schema::bytes`, `thiserror` and the
//! RustCrypto/dalek crates.
//!
//! | file | holds |
//! |---|---|
//! | [`keys`], [`kem`] | the key types, the strict key rule, X25519 and ML-KEM-768 |
//! | [`ids`] | self-certifying ids, the handle rule |
//! | [`sigchain`], [`event`] | the genesis event of an account, and those that follow |
//! | [`prekey`] | signed fallback and one-time prekeys |
//! | [`pqxdh`] | the key agreement |
//! | [`seal`] | the only AEAD call site |
//! | [`padding`], [`packet`], [`session_packet`], [`envelope`] | the bytes of a message |
//! | [`payload`] | the common part of a message |
//! | [`oneshot`] | whole messages without session, sealed and opened |
//! | [`chain`], [`ratchet`], [`skipped`] | the Double Ratchet |
//! | [`session`], [`session_state`] | one session, and its stored form |
//! | [`sessions`] | all sessions with a device: which is in use, when the next is due |
//! | [`fanout`], [`arrival`] | whole messages in sessions, sealed and opened |
//! | [`resend`] | messages that did not open |
//! | [`tombstone`], [`auth`], [`dpop`] | the other signed statements |
//! | [`fingerprint`] | what people and scripts compare |
#![warn(missing_docs)]

pub mod arrival;
pub mod auth;
pub mod chain;
pub mod dpop;
pub mod envelope;
pub mod event;
pub mod fanout;
pub mod fingerprint;
pub mod ids;
mod kdf;
pub mod kem;
pub mod keys;
pub mod oneshot;
pub mod packet;
pub mod padding;
pub mod payload;
pub mod pqxdh;
pub mod prekey;
pub mod ratchet;
pub mod resend;
pub mod seal;
pub mod session;
pub mod session_packet;
pub mod session_state;
pub mod sessions;
pub mod sigchain;
pub mod skipped;
pub mod tombstone;

#[cfg(test)]
mod kat;
#[cfg(test)]
mod kat_session;

pub use arrival::{
    Arrival, ArrivalRefused, HandshakeUsed, Settled, open_handshake, open_in_session,
};
pub use auth::sign_challenge;
pub use envelope::MessageContext;
pub use event::RecoverySecret;
pub use fanout::{Address, Fanout, FanoutRandomness, FanoutRefused, seal_fanout};
pub use fingerprint::{
    account_fingerprint, code_text, parse_code, parse_fingerprint, safety_number,
};
pub use ids::{AccountId, ConversationId, DeviceId, EnvelopeHash, Handle, MessageId, SessionId};
pub use keys::{
    DevicePublic, DeviceSecret, DhPublic, FallbackSecret, LocalParty, OneTimeSecret, Party,
};
pub use oneshot::{
    Incoming, OneShotRandomness, OpenRefused, Opened, Recipient, SealRefused, SealedMessage,
    open_oneshot, seal_oneshot,
};
pub use packet::KeyPacket;
pub use payload::Outgoing;
pub use prekey::{FallbackPrekey, OneTimePrekey, SignedFallback, SignedOneTime, Validity};
pub use seal::{Purpose, nx_open, nx_seal};
pub use session::{Peer, PrekeySecrets, Prekeys, Session};
pub use session_packet::{Packet, SessionPacket};
pub use sessions::{HandshakeDue, Nature, OnReset, SessionEvent, Sessions};
pub use sigchain::{Account, Capabilities, SignedGenesis};
pub use skipped::SkippedKeys;
pub use tombstone::Tombstone;

/// X25519, Ed25519, ML-KEM-768, XChaCha20-Poly1305, HKDF-SHA256. It is in every
/// signature over a prekey, every transcript and every header, so another suite
/// can never be negotiated down to this one.
pub const SUITE: u8 = 0x01;
