//! From a text to a verified receipt (e2ee 2.13).
//!
//! The message is sealed in the sessions with every device addressed, and stored with them and
//! its counters in one transaction before the network hears of it. Every try, now or in a later
//! run, sends those stored bytes; nothing is sealed twice, but once when the relay refused the
//! first because devices had changed.
//!
//! | file | does |
//! |---|---|
//! | `addressees` | which devices get a packet, and prekeys for new sessions with them |
//! | `sealing` | the transactions before the network |
//! | `flow`, `queue` | many messages over one socket |
//! | `control` | messages of the protocol itself: heartbeats and retries |

mod addressees;
mod control;
mod flow;
mod queue;
mod sealing;

use std::borrow::Cow;

use std::time::Duration;

use nexo_schema::entry;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::Receipt;
use nexo_schema::ids::MsgId;

pub use addressees::Addressees;
pub use control::settle;
pub use flow::{Flow, Manner};

use crate::api::ApiError;
use crate::body::{BodyRefused, Matter};
use crate::e2ee::{AccountId, ConversationId, EnvelopeHash, FanoutRefused, MessageId};
use crate::profile::{Profile, Session};
use crate::random::RandomError;
use crate::trust::{PeerError, Recipient, TrustError, verify_receipt};
use crate::vault::{OutboxRow, OutboxState, VaultError};
use crate::wire;
use sealing::{put, reseal};

/// How often the state is looked at while the relay has not answered.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The recipient.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The log, or the receipt.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// It cannot be sealed.
    #[error(transparent)]
    Seal(#[from] FanoutRefused),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// A stored control message is none.
    #[error("a stored message of the protocol is damaged: {0}")]
    Control(#[from] BodyRefused),
    /// The idempotency key was used for something else.
    #[error("this idempotency key was used for another text")]
    OtherText,
    /// The relay puts us into another conversation than the two accounts make.
    #[error("the relay names another conversation than these two accounts have")]
    Conversation,
    /// The relay acknowledged without a receipt.
    #[error("the relay acknowledged the message without a receipt")]
    NoReceipt,
    /// The message is stored, but the relay has not acknowledged it.
    #[error("{source}")]
    Undelivered {
        /// Its id.
        msg_id: MsgId,
        /// Who it is for.
        handle: String,
        /// What happened.
        source: Box<DeliverError>,
    },
    /// The message was deleted for everyone before.
    #[error("the message was sent and then deleted for everyone")]
    Deleted,
}

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// What it says.
    pub matter: Matter<'a>,
    /// `--idempotency-key`.
    pub key: Option<&'a str>,
    /// `--expect`.
    pub expect: Option<AccountId>,
    /// `--oneshot`: without sessions.
    pub oneshot: bool,
}

impl Letter<'_> {
    /// What stands in the outbox as its text.
    fn stored(&self) -> Cow<'_, str> {
        match self.matter {
            Matter::Text(text) => Cow::Borrowed(text),
            Matter::Control(control) => Cow::Owned(control.to_text()),
        }
    }

    fn is_control(&self) -> bool {
        matches!(self.matter, Matter::Control(_))
    }
}

/// A delivered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Its id.
    pub msg_id: MsgId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Position in the log, from 1. `None` only for a stateless device that repeats a key: the
    /// relay has the message, and the bytes to check its receipt by are not here.
    pub sth_index: Option<u64>,
    /// Whether it had been delivered before.
    pub duplicate: bool,
}

/// A message that was delivered under this key before, if its text is the same; no network.
///
/// # Errors
/// [`DeliverError::OtherText`] or [`DeliverError::Deleted`].
pub fn earlier(
    profile: &Profile,
    conversation: ConversationId,
    letter: &Letter<'_>,
) -> Result<Option<OutboxRow>, DeliverError> {
    let Some(key) = letter.key else { return Ok(None) };
    let id = MessageId::for_idempotency_key(&profile.identity.idem, conversation, key);
    let row = profile.vault.read(|tx| tx.outbox(&wire::message_out(id)))?;
    match row {
        Some(OutboxRow { state: OutboxState::Deleted { .. }, .. }) => Err(DeliverError::Deleted),
        Some(row) if row.text.as_ref().is_some_and(|text| **text != *letter.stored()) => {
            Err(DeliverError::OtherText)
        }
        row => Ok(row),
    }
}

/// Sends `letter` to `to`.
///
/// # Errors
/// [`DeliverError`]; once the message is stored, a later run with the same key goes on with it.
pub async fn deliver(
    session: &Session<'_>,
    to: &Addressees,
    letter: &Letter<'_>,
    now: u64,
) -> Result<Delivered, DeliverError> {
    let conversation = open(session, to).await?;
    let row = match earlier(session.profile, conversation, letter)? {
        Some(row) => row,
        None => put(session, to, conversation, letter, now).await?,
    };
    resume(session, to, letter, row, now).await
}

/// Seals `letter` to `to` and stores it, without sending it.
///
/// # Errors
/// [`DeliverError`].
pub async fn prepare(
    session: &Session<'_>,
    to: &Addressees,
    letter: &Letter<'_>,
    now: u64,
) -> Result<OutboxRow, DeliverError> {
    let conversation = open(session, to).await?;
    put(session, to, conversation, letter, now).await
}

/// Goes on with a stored message: the same bytes, or the receipt if it was acknowledged.
///
/// # Errors
/// [`DeliverError::Undelivered`] with the reason.
pub async fn resume(
    session: &Session<'_>,
    to: &Addressees,
    letter: &Letter<'_>,
    row: OutboxRow,
    now: u64,
) -> Result<Delivered, DeliverError> {
    let (msg_id, handle) = (row.msg_id.clone(), row.peer_handle.to_string());
    post(session, to, letter, row, now).await.map_err(|error| DeliverError::Undelivered {
        msg_id,
        handle,
        source: Box::new(error),
    })
}

/// The conversation, which the relay opens once; its id must be the one both clients compute.
async fn open(session: &Session<'_>, to: &Addressees) -> Result<ConversationId, DeliverError> {
    let (own, to) = (session.profile.identity.account, &to.to);
    let conversation = ConversationId::direct(session.trust.origin(), own, to.account.id);
    if to.conversation {
        return Ok(conversation);
    }
    let opened = tokio::select! {
        biased;
        done = opened_meanwhile(session.profile, to) => return done.map(|()| conversation),
        opened = session.member.open_conversation(&to.handle) => opened?,
    };
    let right = wire::conversation(opened.conv_id) == conversation
        && wire::account(opened.peer_account) == to.account.id;
    if !right {
        return Err(DeliverError::Conversation);
    }
    session.profile.vault.write(|tx| tx.set_conversation_open(to.account.id)).await?;
    Ok(conversation)
}

/// Waits until another process on the same state has opened the conversation.
async fn opened_meanwhile(profile: &Profile, to: &Recipient) -> Result<(), DeliverError> {
    loop {
        let known = profile.vault.read(|tx| tx.peer(to.account.id))?;
        if known.is_some_and(|peer| peer.conversation) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Posts the stored bytes and believes the answer only with its proof.
async fn post(
    session: &Session<'_>,
    to: &Addressees,
    letter: &Letter<'_>,
    row: OutboxRow,
    now: u64,
) -> Result<Delivered, DeliverError> {
    let again = matches!(row.state, OutboxState::Sent { .. });
    if let OutboxState::Sent { sth_index } = row.state {
        return Ok(delivered(&row, Some(sth_index), true));
    }
    let answer = session.member.post_message(&row.request).await;
    let (row, answer) = match answer.as_ref().err().and_then(ApiError::code) {
        Some(ErrorCode::DeviceListStale) => {
            let handle = &to.to.handle;
            let to = Addressees::find(session, handle, letter.expect, true, now).await?;
            let row = reseal(session, &to, letter, &row, now).await?;
            let answer = session.member.post_message(&row.request).await;
            (row, answer)
        }
        _ => (row, answer),
    };
    let answer = match answer {
        Err(error) if is_repeat_of_stateless(session.profile, letter.key.is_some(), &error) => {
            return Ok(delivered(&row, None, true));
        }
        answer => answer?,
    };
    let sth_index = verified(session, answer.receipt.as_ref(), row.envelope, now).await?;
    session.profile.vault.write(|tx| tx.set_sent(&row.msg_id, sth_index)).await?;
    Ok(delivered(&row, Some(sth_index), again || answer.duplicate))
}

/// Without an outbox the bytes of the first try are gone: the relay's refusal of other bytes
/// under the same id says that it has the message (e2ee 2.13).
fn is_repeat_of_stateless(profile: &Profile, keyed: bool, error: &ApiError) -> bool {
    let conflict = error.code() == Some(ErrorCode::IdempotencyConflict);
    conflict && profile.is_stateless() && keyed
}

/// Where a message is in the log, by the receipt that came with its acknowledgement.
async fn verified(
    session: &Session<'_>,
    receipt: Option<&Receipt>,
    envelope: EnvelopeHash,
    now: u64,
) -> Result<u64, DeliverError> {
    let receipt = receipt.ok_or(DeliverError::NoReceipt)?;
    let leaf = entry::message(envelope.as_bytes());
    Ok(verify_receipt(&session.trust, receipt, "the message", &leaf, now).await?)
}

fn delivered(row: &OutboxRow, sth_index: Option<u64>, duplicate: bool) -> Delivered {
    let (msg_id, conversation) = (row.msg_id.clone(), row.conversation);
    Delivered { msg_id, conversation, sth_index, duplicate }
}
