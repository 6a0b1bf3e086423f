//! What can go wrong between this program and the relay.

use std::time::Duration;

use nexo_schema::error::{ErrorCode, Problem};

use crate::e2ee::auth::ChallengeRefused;
use crate::e2ee::dpop::ProofRefused;
use crate::random::RandomError;

/// Why a request had no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The relay was not reached, or the connection broke.
    #[error("the relay cannot be reached: {0}")]
    Network(String),
    /// The relay's certificate is refused.
    #[error("no TLS connection to the relay: {0}")]
    Tls(String),
    /// The relay said no.
    #[error("the relay refused: {}", said(.0))]
    Refused(Problem),
    /// An error status without a problem document: a proxy, or no relay at all.
    #[error("the relay answered with status {0} and no reason")]
    Status(u16),
    /// An answer that is not what the protocol says.
    #[error("the relay's answer to {route} is not {expected}")]
    Malformed {
        /// Method and path.
        route: String,
        /// What was expected.
        expected: &'static str,
    },
    /// An answer longer than anything the protocol has.
    #[error("the relay's answer to {route} is longer than {limit} bytes")]
    TooLong {
        /// Method and path.
        route: String,
        /// Bytes.
        limit: usize,
    },
    /// The login challenge is not for us; it was not signed.
    #[error(transparent)]
    Challenge(#[from] ChallengeRefused),
    /// A request proof could not be made.
    #[error(transparent)]
    Proof(#[from] ProofRefused),
    /// The relay says we are another account.
    #[error("the relay logged us in as another account or device")]
    OtherAccount,
    /// No random bytes for a proof.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// A request could not be written as JSON.
    #[error("a request could not be encoded")]
    Encoding,
    /// The HTTP client could not be made.
    #[error("HTTP client: {0}")]
    Client(String),
}

fn said(problem: &Problem) -> String {
    // Relay text may hold anything; it goes to a terminal.
    let detail = if problem.detail.is_empty() { &problem.title } else { &problem.detail };
    let plain: String = detail.chars().filter(|c| !c.is_control()).take(300).collect();
    format!("{plain} ({})", problem.code.name())
}

impl ApiError {
    /// The relay's code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Network(_) => true,
            Self::Refused(problem) => matches!(problem.status, 429 | 502 | 503 | 504),
            Self::Status(status) => matches!(status, 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// How long the relay asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after.map(Duration::from_secs),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_temporary_is_tried_again() {
        let refused = |code| ApiError::Refused(Problem::new(code, "d"));
        assert!(refused(ErrorCode::RateLimited).is_temporary());
        assert!(refused(ErrorCode::Unavailable).is_temporary());
        assert!(ApiError::Network(String::new()).is_temporary());
        assert!(ApiError::Status(502).is_temporary());
        assert!(!refused(ErrorCode::Forbidden).is_temporary());
        assert!(!refused(ErrorCode::Internal).is_temporary());
        assert!(!ApiError::Status(500).is_temporary());
    }

    #[test]
    fn relay_text_is_cleaned_before_it_is_shown() {
        let problem = Problem::new(ErrorCode::Forbidden, "no\u{1b}[31m\nway");
        let text = ApiError::Refused(problem).to_string();
        assert_eq!(text, "the relay refused: no[31mway (forbidden)");
    }
}
