//! The error codes of the wire: RFC 9457 problem documents with a stable `code`.

use serde::{Deserialize, Serialize};

/// Media type of every error answer (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Declares the codes once: name on the wire, HTTP status, title.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, as a stable name. Scripts match on it; words may change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
            /// A code newer than this program.
            #[serde(other)]
            Unknown,
        }

        impl ErrorCode {
            /// Every code, in the order of PROTOCOL.md.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The name on the wire.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* Self::Unknown => "unknown" }
            }

            /// The HTTP status it is answered with.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* Self::Unknown => 500 }
            }

            /// A short title for people.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* Self::Unknown => "Unknown error" }
            }
        }
    };
}

codes! {
    /// Body, parameter, id, key or encoding that does not parse.
    BadRequest = "bad_request", 400, "Malformed request";
    /// No token, or one that is not valid here and now.
    Unauthorized = "unauthorized", 401, "Not authenticated";
    /// The token is bound to a key (or the relay requires it) and the proof is missing or wrong.
    DpopInvalid = "dpop_invalid", 401, "DPoP proof missing or not valid";
    /// No live challenge of this device was signed by it.
    ChallengeInvalid = "challenge_invalid", 401, "No live challenge was answered";
    /// The refresh token is unknown, expired, or was used before.
    RefreshInvalid = "refresh_invalid", 401, "Refresh token not valid";
    /// The asker is no participant, or lacks the capability.
    Forbidden = "forbidden", 403, "Not allowed";
    /// This relay does not take registrations, or wants an invite.
    RegistrationClosed = "registration_closed", 403, "Registration is closed";
    /// The account has as much of something as this relay keeps for one.
    QuotaExceeded = "quota_exceeded", 403, "The account's quota is used up";
    /// No such thing, or none the asker may know of.
    NotFound = "not_found", 404, "Not found";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// The handle belongs to another account.
    HandleTaken = "handle_taken", 409, "The handle is taken";
    /// The device id belongs to another key.
    DeviceTaken = "device_taken", 409, "The device id is taken";
    /// The event does not follow the newest one of its chain: read the chain and make it again.
    ChainMoved = "chain_moved", 409, "The chain has moved";
    /// The account was closed, or its chain is full.
    ChainEnded = "chain_ended", 409, "The chain takes no more events";
    /// The account has as many devices as it may.
    DeviceLimit = "device_limit", 409, "Too many devices";
    /// The `msg_id` was used with other content.
    IdempotencyConflict = "idempotency_conflict", 409, "The msg_id was used with other content";
    /// A send counter was used before with another envelope: the sender's state went back.
    StateRollback = "state_rollback", 409, "The send counter went back";
    /// Key packets do not match the recipients' active devices.
    DeviceListStale = "device_list_stale", 409, "The recipients' devices have changed";
    /// A prekey id at or below the highest one published, with another key.
    PrekeyReused = "prekey_reused", 409, "The prekey id was used before";
    /// Longer than the limit.
    TooLarge = "too_large", 413, "Too large";
    /// Too many requests; wait for `retry_after` seconds.
    RateLimited = "rate_limited", 429, "Too many requests";
    /// A bug on the relay; nothing was stored.
    Internal = "internal", 500, "Internal error";
    /// The queue is full or the log is closed; the same request may be sent again.
    Unavailable = "unavailable", 503, "Temporarily unavailable";
}

/// The body of an error answer (RFC 9457). `detail` is also where FastAPI clients look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:nexo:error:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people; the same for every problem of one code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// For people; names what was wrong with this request.
    pub detail: String,
    /// For programs.
    pub code: ErrorCode,
    /// Seconds after which the same request may succeed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem of this code, about this request.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:nexo:error:{}", code.name()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            retry_after: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_names_and_unknown_ones_are_read() {
        for &code in ErrorCode::ALL {
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.name()));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), code);
            assert!((400..600).contains(&code.status()));
        }
        assert_eq!(serde_json::from_str::<ErrorCode>("\"new\"").unwrap(), ErrorCode::Unknown);
    }
}
