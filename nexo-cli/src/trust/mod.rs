//! What this device believes of the relay: heads of the log, and accounts whose keys are in it.
//!
//! What it promises (e2ee 2.6): nothing the relay says about a key or a message is used unless
//! it stands in a log that the pinned key signed, that extends everything seen before, and that
//! is fresh by its own time signature. What contradicts that is kept as evidence and ends the
//! run. What it is not: it does no cryptography of its own. Merkle proofs and signed notes are
//! `nexo_audit`'s, the same code that audits the log; events and prekeys are `e2ee`'s.
//!
//! | file | judges |
//! |---|---|
//! | `log` | heads: signature, consistency, freshness, inclusion |
//! | `chain` | chains of events: whose devices could do what, and where in the log |
//! | `replayed` | chains that were judged already |
//! | `bundle` | what is served of an account: its chain in the log, its prekeys |
//! | `account` | accounts: pins, what was verified before, who may have sent |
//! | `own` | the own account, as others see it |
//! | `gossip` | what others saw of the log and of accounts |
//! | `contradiction` | evidence of heads that contradict each other |
//! | `policy` | which account a handle may be, on whose word |
//! | `incident` | evidence of lies about an account |
//! | `search` | a chain's place, for those who cannot ask for it |
//! | `receipt` | that a message of ours is in the log |

mod account;
mod bundle;
mod chain;
mod contradiction;
pub mod gossip;
mod incident;
mod log;
mod own;
mod peer_error;
mod policy;
mod receipt;
mod replayed;
mod search;
#[cfg(test)]
pub(crate) mod testlog;

pub use account::{
    Recipient, Sender, account_of, claim_prekeys, judge_sender, recipient_of, sender_of,
};
pub use bundle::{Addressee, Claimed, leaf as event_leaf};
pub use chain::{Account, ChainRefused, Device, End, Grant, replay};
pub use gossip::{Gossip, RosterEntry, gossip_out};
pub use log::{LogSource, LogTrust, MAX_AGE, TrustError};
pub use own::{newcomer, own_account, own_devices, unconfirmed};
pub use peer_error::PeerError;
pub use policy::{MAX_PINS, PinLineRefused, PinMode, PinPolicy, parse_pins};
pub use receipt::verify_receipt;
pub use search::find_chain;

pub use nexo_audit::checkpoint::{HeadError, LogKeysError};
pub use nexo_audit::key::{KeyError, LogKey, TimeKey};
pub use nexo_audit::merkle::{Hash, ProofError};
