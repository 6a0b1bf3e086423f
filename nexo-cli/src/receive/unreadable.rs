//! Why a message was delivered and yet cannot be read.

use crate::body::BodyRefused;
use crate::e2ee::packet::PacketRefused;
use crate::e2ee::ratchet::PlaceRefused;
use crate::e2ee::{ArrivalRefused, OpenRefused};
use crate::trust::PeerError;
use crate::vault::InboxKind;

/// Why a message was delivered and yet cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it was not encrypted: its sender has a plain account")]
    Plain,
    #[error("its sender is not verified: {0}")]
    Sender(PeerError),
    #[error("it was sent from a device that is not its account's")]
    Device,
    #[error("it is in another conversation than its sender and this account's")]
    Conversation,
    #[error("{0}")]
    Packet(#[from] PacketRefused),
    #[error("the prekey it was sealed to is gone")]
    PrekeyGone,
    #[error("{0}")]
    Open(#[from] OpenRefused),
    #[error("{0}")]
    Arrival(#[from] ArrivalRefused),
    #[error("it was delivered before under another id")]
    Replay,
    #[error("{0}")]
    Body(#[from] BodyRefused),
    #[error("it is of type {0:?}, which this version does not know")]
    Unsupported(String),
    #[error("its id is not that of a native message")]
    Id,
}

impl Unreadable {
    /// Whether it may be an honest message that meets a state which lost its key, so that its
    /// sender is asked for another packet. What is a replay or a lie stays what it is.
    pub(super) fn may_ask(&self) -> bool {
        matches!(
            self,
            Self::PrekeyGone
                | Self::Arrival(
                    ArrivalRefused::UnknownSession(_)
                        | ArrivalRefused::HandshakeReplayed
                        | ArrivalRefused::OtherPrekey { .. }
                        | ArrivalRefused::PrekeyReused { .. }
                        | ArrivalRefused::Place(
                            PlaceRefused::ReplayOrExpired
                                | PlaceRefused::Counters
                                | PlaceRefused::OutOfStep
                        )
                        | ArrivalRefused::Broken
                )
        )
    }
}

/// The row of a message that cannot be read.
pub(super) fn undecryptable(reason: &Unreadable) -> InboxKind {
    InboxKind::Undecryptable { reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::{SessionId, sessions::ResetRefused};

    #[test]
    fn what_a_lost_key_explains_is_asked_for_and_nothing_else() {
        let session = SessionId::from_bytes([1; 16]);
        for honest in [
            Unreadable::PrekeyGone,
            ArrivalRefused::UnknownSession(session).into(),
            ArrivalRefused::PrekeyReused { named: 1 }.into(),
            ArrivalRefused::Broken.into(),
        ] {
            assert!(honest.may_ask(), "{honest}");
        }
        for other in [
            Unreadable::Plain,
            Unreadable::Conversation,
            Unreadable::Replay,
            Unreadable::Body(BodyRefused::Form),
            ArrivalRefused::WithSelf.into(),
            ArrivalRefused::Reset(ResetRefused::TooMany).into(),
        ] {
            assert!(!other.may_ask(), "{other}");
        }
    }
}
