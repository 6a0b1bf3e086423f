//! Account chains: what the key entries of the log are hashes of, read and replayed.
//!
//! A native account is a chain of signed events (PROTOCOL.md 4): a genesis binds a handle and a
//! first device, each later event is signed by a key that the events before it brought in. A
//! plain account is one record. Written from the text of the protocol alone, and without I/O:
//! bytes and a log key in, a [`History`] or the rule that was broken out.
//!
//! What a replay cannot see: whether an event was in force too long (events have no time that
//! counts; the relay refuses expired signers at the commit), and whether the log holds events of
//! the account that nobody showed. The second is what [`crate::keys`] adds: it reads every entry.
//!
//! `wire` the encoding · `event` one event · `rules` which event may follow · `history` an
//! account from its first entry on · `name` handles, ids and fingerprints.

mod event;
mod history;
mod name;
mod rules;
#[cfg(test)]
pub(crate) mod testchain;
mod wire;

pub use event::{Caps, Change, Device, Event, EventError, Genesis, SignedEvent};
pub use history::{Accounts, Body, History, Logged, PlainRecord, Step, replay};
pub use name::{Fingerprint, Handle, HandleError, label};
pub use rules::{Chain, End, Member, Violation};
pub use wire::EncodingError;
