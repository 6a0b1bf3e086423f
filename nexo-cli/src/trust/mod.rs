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
//! | `account` | accounts: chain, log entry, pins, prekeys |
//! | `receipt` | that a message of ours is in the log |

mod account;
mod log;
mod peer_error;
mod receipt;
#[cfg(test)]
pub(crate) mod testlog;

pub use account::{Asked, Recipient, account_of, account_of_own, may, recipient_of, sender_of};
pub use log::{LogSource, LogTrust, MAX_AGE, TrustError};
pub use peer_error::PeerError;
pub use receipt::verify_receipt;

pub use nexo_audit::checkpoint::{HeadError, LogKeysError};
pub use nexo_audit::key::{KeyError, LogKey, TimeKey};
pub use nexo_audit::merkle::{Hash, ProofError};
