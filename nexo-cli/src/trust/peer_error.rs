//! Why an account's keys are not used.

use std::path::PathBuf;

use super::chain::ChainRefused;
use super::log::{TrustError, kept};
use crate::api::ApiError;
use crate::e2ee::prekey::PrekeyRefused;
use crate::vault::VaultError;
use crate::wire::WireError;

/// Why an account's keys are not used.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The relay knows no such account.
    #[error("there is no {0} on this relay")]
    Unknown(String),
    /// An account without a chain.
    #[error("{0} has no native account; messages to it cannot be encrypted")]
    Plain(String),
    /// The relay answered about somebody else, or made an account up.
    #[error("the relay's answer is about another account than asked for")]
    OtherAccount,
    /// Its events are no chain.
    #[error("the chain of {handle} is refused: {reason}")]
    Chain {
        /// Whose.
        handle: String,
        /// Why.
        reason: ChainRefused,
    },
    /// The relay leaves out events that were in the log before.
    #[error(
        "the relay withholds events of {handle}: {shown} are shown, {known} were in the log{}",
        kept(.evidence)
    )]
    Withheld {
        /// Whose.
        handle: String,
        /// Events verified before.
        known: usize,
        /// Events shown now.
        shown: usize,
        /// Where they were written down.
        evidence: Option<PathBuf>,
    },
    /// The log has two events for one place of the chain.
    #[error(
        "the chain of {handle} has forked: event {seq} is not the one that was there{}",
        kept(.evidence)
    )]
    Forked {
        /// Whose.
        handle: String,
        /// The first event that differs.
        seq: usize,
        /// Where both were written down.
        evidence: Option<PathBuf>,
    },
    /// The account named an event of its own chain that the relay does not show.
    #[error(
        "the relay hides event {seq} of {handle}, which {handle} named in a message: a device may \
         have been revoked"
    )]
    Hidden {
        /// Whose.
        handle: String,
        /// The event, from 0.
        seq: u64,
    },
    /// Devices of the own account that nobody confirmed here.
    #[error("this account has devices that nobody confirmed here: {devices}{}", kept(.evidence))]
    Intruder {
        /// Whose account.
        handle: String,
        /// Their ids.
        devices: String,
        /// Where the chain was written down.
        evidence: Option<PathBuf>,
    },
    /// This device is not in its account.
    #[error("this device is not in the account of {0}, or was revoked")]
    Expelled(String),
    /// Only accounts that a person named are accepted.
    #[error("no fingerprint is pinned for {0}, and --pin-policy is pinned")]
    NotPinned(String),
    /// The account was closed, or ended by the operator.
    #[error("the account of {0} has ended")]
    Ended(String),
    /// A field of the answer.
    #[error("the relay's answer about an account: {0}")]
    Wire(#[from] WireError),
    /// The handle was pinned to another account.
    #[error("{handle} is now another account: {shown}, pinned is {pinned}")]
    Changed {
        /// Whose.
        handle: String,
        /// Fingerprint of the pin.
        pinned: String,
        /// Fingerprint of what the relay shows.
        shown: String,
    },
    /// The account is not the one of `--expect`.
    #[error("{handle} is {shown}, not the account expected")]
    NotExpected {
        /// Whose.
        handle: String,
        /// Fingerprint of what the relay shows.
        shown: String,
    },
    /// A device that is in no event of the chain.
    #[error("the relay shows a device of {0} that is not in its chain")]
    ForeignDevice(String),
    /// The X25519 key the relay states is not that of the device's key.
    #[error("the relay states a wrong key for a device of {0}")]
    WrongX25519(String),
    /// A device that may not, or does not any more.
    #[error("the device of {handle} {what}")]
    NotCapable {
        /// Whose.
        handle: String,
        /// What it may not.
        what: &'static str,
    },
    /// No prekey in force.
    #[error("{0} cannot be written to now: no prekey is published")]
    NoPrekey(String),
    /// The prekey is not used.
    #[error("the prekey of {handle} is refused: {reason}")]
    Prekey {
        /// Whose.
        handle: String,
        /// Why.
        reason: PrekeyRefused,
    },
    /// The log.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
}
