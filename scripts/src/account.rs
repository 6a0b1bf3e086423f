//! Plain accounts, by the seed's contract: register, sign the nonce, verify, open a conversation.

use std::net::SocketAddr;

use ed25519_dalek::{Signer as _, SigningKey};
use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::http::{Challenge, Conversation, ConversationRequest};
use nexo_schema::http::{RegisterRequest, Tokens, VerifyRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::http::{Connection, HttpError};

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The relay does not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The relay does not want to.
    #[error("{path} answered {status}: {body}")]
    Refused {
        /// The request.
        path: &'static str,
        /// The answer's status.
        status: u16,
        /// What it says.
        body: String,
    },
    /// A task that registered them panicked.
    #[error("a worker ended: {0}")]
    Worker(#[from] tokio::task::JoinError),
    /// The relay answers something else.
    #[error("JSON of {path}: {source}")]
    Json {
        /// The request.
        path: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Where a worker sits: an account logged in, and a conversation it alone writes to.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The access token.
    pub token: String,
    /// The device it belongs to.
    pub device: String,
    /// The conversation, 64 hex digits.
    pub conv: String,
}

/// Registers `count` accounts, and opens each one's conversation with the next.
///
/// # Errors
/// [`AccountError`]; what was registered by then stays.
pub async fn take_seats(address: SocketAddr, count: usize) -> Result<Vec<Seat>, AccountError> {
    let mut connection = Connection::open(address).await.map_err(HttpError::from)?;
    let mut run = [0; 4];
    getrandom::fill(&mut run)?;
    // Of two, both would have the same conversation.
    let accounts = count.max(3);
    let mut tokens = Vec::with_capacity(accounts);
    for number in 0..accounts {
        tokens.push(log_in(&mut connection, &name(run, number)).await?);
    }
    let mut seats = Vec::with_capacity(count);
    for (number, token) in tokens.into_iter().enumerate().take(count) {
        let peer_handle = name(run, (number + 1) % accounts);
        let request = ConversationRequest { peer_handle };
        let conv: Conversation =
            ask(&mut connection, "/conversations", Some(&token), &request).await?;
        let (device, conv) = (name(run, number), conv.conv_id.to_string());
        seats.push(Seat { token, device, conv });
    }
    Ok(seats)
}

/// Connections that register accounts at once.
const REGISTERING: usize = 32;

/// Registers `count` accounts, many at a time; their access tokens.
///
/// # Errors
/// As [`take_seats`].
pub async fn take_tokens(address: SocketAddr, count: usize) -> Result<Vec<String>, AccountError> {
    let mut run = [0; 4];
    getrandom::fill(&mut run)?;
    let mut registering = JoinSet::new();
    for first in 0..REGISTERING.min(count) {
        registering.spawn(async move {
            let mut connection = Connection::open(address).await.map_err(HttpError::from)?;
            let mut tokens = Vec::new();
            for number in (first..count).step_by(REGISTERING) {
                tokens.push(log_in(&mut connection, &name(run, number)).await?);
            }
            Ok::<_, AccountError>(tokens)
        });
    }
    let mut tokens = Vec::with_capacity(count);
    while let Some(registered) = registering.join_next().await {
        tokens.extend(registered??);
    }
    Ok(tokens)
}

/// The name of an account and of its device: new in every run, and always as long.
#[must_use]
pub fn name(run: [u8; 4], number: usize) -> String {
    format!("load-{}-{number:04}", to_hex(&run))
}

async fn log_in(connection: &mut Connection, name: &str) -> Result<String, AccountError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let key = SigningKey::from_bytes(&secret);
    let register = RegisterRequest {
        handle: name.to_owned(),
        device_id: Some(name.to_owned()),
        ed25519_pub: to_base64(key.verifying_key().as_bytes()),
        genesis: None,
        invite: None,
    };
    let challenge: Challenge = ask(connection, "/auth/register", None, &register).await?;
    let signature = to_base64(&key.sign(challenge.nonce.as_bytes()).to_bytes());
    let verify = VerifyRequest { device_id: challenge.device_id.to_string(), signature };
    let tokens: Tokens = ask(connection, "/auth/verify", None, &verify).await?;
    Ok(tokens.access)
}

async fn ask<T: DeserializeOwned>(
    connection: &mut Connection,
    path: &'static str,
    token: Option<&str>,
    request: &impl Serialize,
) -> Result<T, AccountError> {
    let json = |source| AccountError::Json { path, source };
    let body = serde_json::to_string(request).map_err(json)?;
    let answer = connection.post(path, token, &body).await?;
    if answer.status != 200 {
        let body = String::from_utf8_lossy(answer.body).into_owned();
        return Err(AccountError::Refused { path, status: answer.status, body });
    }
    serde_json::from_slice(answer.body).map_err(json)
}
