//! What went wrong, as a person reads it and as a script does: one table from every error of
//! this crate to an exit code, and one to a hint.

use std::io;
use std::time::Duration;

use nexo_schema::error::ErrorCode;

use crate::api::{ApiError, UrlError};
use crate::deliver::DeliverError;
use crate::devices::DeviceError;
use crate::e2ee::FanoutRefused;
use crate::e2ee::fanout::PacketRefused;
use crate::e2ee::session::InitiateRefused;
use crate::exit::Exit;
use crate::home::{HomeError, LockError};
use crate::identity::IdentityError;
use crate::options::OptionsError;
use crate::profile::ProfileError;
use crate::receive::ReceiveError;
use crate::trust::{PeerError, TrustError};
use crate::upkeep::UpkeepError;
use crate::vault::{Locked, StateKeyError, VaultError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Input that cannot be used.
    #[error("{0}")]
    BadData(String),
    /// An input file that is not there.
    #[error("{path}: {source}")]
    Input {
        /// The file.
        path: String,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// No such message.
    #[error("there is no message {0} that this device sent")]
    NoMessage(String),
    /// A message that cannot be deleted now.
    #[error("message {0} was never acknowledged; there is nothing to delete")]
    NotSent(String),
    /// A stateless identity has no inbox.
    #[error("a stateless identity keeps no messages: {0} needs an account with a home")]
    Stateless(&'static str),
    /// The directory belongs to somebody else.
    #[error("this home belongs to {0}")]
    OtherHandle(String),
    /// The relay states a log key that is none.
    #[error("the relay states an unusable log key: {0}")]
    StatedVkey(String),
    /// The relay's log shows another account or event under our handle than ours.
    #[error("the log shows another account under the handle {0} than this one")]
    NotOurs(String),
    /// The deadline passed.
    #[error("not done after {seconds} seconds{}", .waiting.as_ref().map_or(String::new(), |w| format!("; {w}")))]
    Timeout {
        /// The deadline.
        seconds: u64,
        /// What was tried again and again, if anything.
        waiting: Option<String>,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// SIGTERM.
    #[error("terminated")]
    Terminated,
    /// stdout.
    #[error("output: {0}")]
    Output(#[from] io::Error),
    /// A file that is to be written.
    #[error("{path}: {source}")]
    OutputFile {
        /// The file.
        path: String,
        /// Why it cannot be written.
        source: io::Error,
    },
    /// Another process writes that file.
    #[error("{0} is in use by another process")]
    OutputBusy(String),
    /// The operating system.
    #[error("{0}")]
    Os(String),
    /// Resolving options.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Opening the identity.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Reading an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Judging a peer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Judging the log.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Talking to the relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Prekeys.
    #[error(transparent)]
    Upkeep(#[from] UpkeepError),
    /// Sending.
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    /// Receiving.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// Changing the account's devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The number that people compare is another one.
    #[error("the safety number is not that of {0} and this account")]
    SafetyNumber(String),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] crate::random::RandomError),
}

impl CliError {
    /// The code a script sees.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Stateless(_) => Exit::Usage,
            Self::BadData(_) | Self::NotSent(_) => Exit::BadData,
            Self::Input { .. } | Self::NoMessage(_) => Exit::NoInput,
            Self::OtherHandle(_) => Exit::Config,
            Self::StatedVkey(_) => Exit::BadSignature,
            Self::NotOurs(_) | Self::SafetyNumber(_) => Exit::KeyChanged,
            Self::Device(error) => device(error),
            Self::Timeout { .. } => Exit::Timeout,
            Self::Interrupted => Exit::Interrupted,
            Self::Terminated => Exit::Terminated,
            Self::Output(_) => Exit::Io,
            Self::OutputFile { .. } => Exit::CannotCreate,
            Self::OutputBusy(_) => Exit::Temporary,
            Self::Os(_) | Self::Random(_) => Exit::Os,
            Self::Options(error) => options(error),
            Self::Profile(error) => profile(error),
            Self::Identity(_) => Exit::Config,
            Self::Peer(error) => peer(error),
            Self::Trust(error) => trust(error),
            Self::Api(error) => api(error),
            Self::Vault(error) => vault(error),
            Self::Home(error) => home(error),
            Self::Upkeep(error) => upkeep(error),
            Self::Deliver(error) => deliver(error),
            Self::Receive(error) => receive(error),
        }
    }

    /// What to do about it, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        if let Self::Deliver(DeliverError::Undelivered { msg_id, handle, .. }) = self
            && self.is_temporary()
        {
            return Some(format!("the message is stored: send {handle} --resume {msg_id}"));
        }
        self.fixed_hint().map(str::to_owned)
    }

    fn fixed_hint(&self) -> Option<&'static str> {
        match self {
            Self::Profile(ProfileError::NotRegistered(_)) => {
                Some("run: nexo-cli --server URL register HANDLE")
            }
            Self::Profile(ProfileError::OtherServer { .. }) => {
                Some("use another --home for another relay")
            }
            Self::Peer(PeerError::Changed { .. })
            | Self::Deliver(DeliverError::Peer(PeerError::Changed { .. })) => {
                Some("ask them for their new fingerprint, then: send --expect nexo1:...")
            }
            Self::Timeout { .. } => Some(
                "raise --timeout; history shows a message that was stored and not sent, and \
                 send --resume goes on with it",
            ),
            Self::Stateless(_) => Some("register without --stateless"),
            error => match error.exit() {
                Exit::StateRollback => Some(
                    "this home was copied, restored from an older copy, or is in use twice; put the \
                     newest one back, or if the original is gone for good: nexo-cli state adopt",
                ),
                Exit::SplitView => Some(
                    "keep the evidence, tell the relay's users, and let \
                     nexo-audit check the log",
                ),
                Exit::ForeignDevice => Some(
                    "look at device list; device revoke DEVICE if it is not yours, device confirm \
                     DEVICE if it is",
                ),
                Exit::Stale => Some("check this machine's clock first"),
                _ => None,
            },
        }
    }
}

fn options(error: &OptionsError) -> Exit {
    match error {
        OptionsError::Server(_) => Exit::Usage,
        OptionsError::NoHome => Exit::Config,
        OptionsError::Identity { .. } => Exit::NoInput,
        OptionsError::Pins { .. } | OptionsError::Passphrase(_) => Exit::Config,
    }
}

fn profile(error: &ProfileError) -> Exit {
    match error {
        ProfileError::Home(error) => home(error),
        ProfileError::Vault(error) => vault(error),
        ProfileError::Api(error) => api(error),
        ProfileError::Url(UrlError::Plaintext) => Exit::Usage,
        ProfileError::NotRegistered(_)
        | ProfileError::OtherServer { .. }
        | ProfileError::OtherVkey { .. }
        | ProfileError::Url(_)
        | ProfileError::Key(_)
        | ProfileError::Identity(_)
        | ProfileError::Tls(_) => Exit::Config,
        ProfileError::StateKey(error) => state_key(error),
    }
}

fn state_key(error: &StateKeyError) -> Exit {
    match error {
        StateKeyError::File(_) | StateKeyError::Form(_) | StateKeyError::Passphrase(_) => {
            Exit::Config
        }
        StateKeyError::Work | StateKeyError::Keyring(_) | StateKeyError::Random(_) => Exit::Os,
    }
}

fn home(error: &HomeError) -> Exit {
    match error {
        HomeError::Io { .. } => Exit::Io,
        HomeError::Open { .. } | HomeError::NetworkFs { .. } => Exit::Config,
        HomeError::Exists(_) => Exit::CannotCreate,
    }
}

fn vault(error: &VaultError) -> Exit {
    match error {
        VaultError::Lock(LockError::Busy { .. }) => Exit::Temporary,
        VaultError::Newer => Exit::ClientTooOld,
        VaultError::Locked(Locked::Several | Locked::Sealed) => Exit::Usage,
        VaultError::WrongKey | VaultError::WrongPassphrase | VaultError::Locked(_) => Exit::Config,
        VaultError::StateKey(error) => state_key(error),
        VaultError::Copied => Exit::StateRollback,
        VaultError::Home(error) => home(error),
        VaultError::Random(_) => Exit::Os,
        VaultError::Db(_)
        | VaultError::Open(_)
        | VaultError::Migrate(_)
        | VaultError::Corrupt { .. }
        | VaultError::Lock(LockError::Io(_)) => Exit::Io,
    }
}

fn api(error: &ApiError) -> Exit {
    match error {
        ApiError::Refused(problem) => refused(problem.code, problem.status),
        ApiError::Network(_) => Exit::Unreachable,
        ApiError::Status(status) => refused(ErrorCode::Unknown, *status),
        ApiError::Tls(_) => Exit::Config,
        ApiError::Random(_) => Exit::Os,
        ApiError::Encoding | ApiError::Client(_) => Exit::Bug,
        ApiError::Malformed { .. }
        | ApiError::TooLong { .. }
        | ApiError::Challenge(_)
        | ApiError::Proof(_)
        | ApiError::OtherAccount => Exit::Protocol,
    }
}

fn refused(code: ErrorCode, status: u16) -> Exit {
    match code {
        ErrorCode::Unauthorized
        | ErrorCode::DpopInvalid
        | ErrorCode::ChallengeInvalid
        | ErrorCode::RefreshInvalid
        | ErrorCode::Forbidden
        | ErrorCode::ChainEnded
        | ErrorCode::RegistrationClosed
        | ErrorCode::QuotaExceeded => Exit::NotAllowed,
        ErrorCode::HandleTaken | ErrorCode::DeviceTaken | ErrorCode::DeviceLimit => {
            Exit::CannotCreate
        }
        ErrorCode::StateRollback => Exit::StateRollback,
        ErrorCode::ChainMoved
        | ErrorCode::DeviceListStale
        | ErrorCode::RateLimited
        | ErrorCode::Unavailable => Exit::Temporary,
        ErrorCode::TooLarge => Exit::BadData,
        ErrorCode::Internal => Exit::Unreachable,
        ErrorCode::BadRequest
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::IdempotencyConflict
        | ErrorCode::PrekeyReused => Exit::Protocol,
        ErrorCode::Unknown if matches!(status, 429 | 502..=504) => Exit::Temporary,
        ErrorCode::Unknown if status >= 500 => Exit::Unreachable,
        ErrorCode::Unknown => Exit::Protocol,
    }
}

fn trust(error: &TrustError) -> Exit {
    match error {
        TrustError::Head(_) | TrustError::Keys(_) => Exit::BadSignature,
        TrustError::SplitView { .. }
        | TrustError::Inconsistent { .. }
        | TrustError::Unprovable { .. }
        | TrustError::Unresolved => Exit::SplitView,
        TrustError::Stale { .. } | TrustError::Ahead { .. } | TrustError::NoTime => Exit::Stale,
        TrustError::NotIncluded { .. } | TrustError::Path { .. } => Exit::BadProof,
        TrustError::Api(error) => api(error),
        TrustError::Vault(error) => vault(error),
        TrustError::Home(error) => home(error),
    }
}

fn peer(error: &PeerError) -> Exit {
    match error {
        PeerError::Unknown(_) | PeerError::Plain(_) => Exit::UnknownPeer,
        PeerError::NotCapable { .. } | PeerError::Ended(_) => Exit::UnknownPeer,
        PeerError::Chain { .. }
        | PeerError::Withheld { .. }
        | PeerError::Forked { .. }
        | PeerError::Hidden { .. } => Exit::BrokenChain,
        PeerError::Intruder { .. } => Exit::ForeignDevice,
        PeerError::Expelled(_) => Exit::NotAllowed,
        PeerError::NoPrekey(_) => Exit::Temporary,
        PeerError::Wire(_) => Exit::Protocol,
        PeerError::OtherAccount
        | PeerError::Changed { .. }
        | PeerError::NotExpected { .. }
        | PeerError::ForeignDevice(_)
        | PeerError::NotPinned(_)
        | PeerError::WrongX25519(_)
        | PeerError::Prekey { .. } => Exit::KeyChanged,
        PeerError::Trust(error) => trust(error),
        PeerError::Api(error) => api(error),
        PeerError::Vault(error) => vault(error),
    }
}

fn device(error: &DeviceError) -> Exit {
    match error {
        DeviceError::NotAdmin | DeviceError::NoDevice(_) | DeviceError::Ambiguous(_) => Exit::Usage,
        DeviceError::Code
        | DeviceError::Recovery(_)
        | DeviceError::OtherRecovery(_)
        | DeviceError::LastAdmin => Exit::BadData,
        DeviceError::NoRequest => Exit::NoInput,
        DeviceError::OtherKey | DeviceError::OtherAccount { .. } => Exit::KeyChanged,
        DeviceError::Offer(_) | DeviceError::Key(_) => Exit::Protocol,
        DeviceError::TooLate => Exit::Timeout,
        DeviceError::Moved => Exit::Temporary,
        DeviceError::Peer(error) => peer(error),
        DeviceError::Trust(error) => trust(error),
        DeviceError::Api(error) => api(error),
        DeviceError::Vault(error) => vault(error),
        DeviceError::Random(_) => Exit::Os,
    }
}

fn upkeep(error: &UpkeepError) -> Exit {
    match error {
        UpkeepError::Api(error) => api(error),
        UpkeepError::Trust(error) => trust(error),
        UpkeepError::Vault(error) => vault(error),
        UpkeepError::Random(_) => Exit::Os,
        UpkeepError::Window(_) => Exit::Stale,
    }
}

fn deliver(error: &DeliverError) -> Exit {
    match error {
        DeliverError::Undelivered { source, .. } => deliver(source),
        DeliverError::Peer(error) => peer(error),
        DeliverError::Trust(error) => trust(error),
        DeliverError::Api(error) => api(error),
        DeliverError::Vault(error) => vault(error),
        DeliverError::Random(_) => Exit::Os,
        DeliverError::Seal(FanoutRefused::Body(_))
        | DeliverError::OtherText
        | DeliverError::Deleted => Exit::BadData,
        DeliverError::Seal(FanoutRefused::Packet {
            reason: PacketRefused::Initiate(InitiateRefused::Handshake(_)),
            ..
        }) => Exit::KeyChanged,
        DeliverError::Seal(_) => Exit::Bug,
        DeliverError::Control(_) => Exit::Io,
        DeliverError::Conversation => Exit::Protocol,
        DeliverError::NoReceipt => Exit::BadProof,
    }
}

fn receive(error: &ReceiveError) -> Exit {
    match error {
        ReceiveError::Api(error) => api(error),
        ReceiveError::Trust(error) => trust(error),
        ReceiveError::Vault(error) => vault(error),
        ReceiveError::Page(_) => Exit::Protocol,
    }
}

impl CliError {
    /// Whether the same may succeed by itself, so that `tail --follow` goes on.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self.exit(), Exit::Temporary | Exit::Unreachable)
    }

    /// How long the relay asked to wait, if it did.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api(error) | Self::Receive(ReceiveError::Api(error)) => error.retry_after(),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
