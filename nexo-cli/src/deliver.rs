//! From a text to a verified receipt (e2ee 2.13).
//!
//! The message is sealed and stored with its counters in one transaction before the network
//! hears of it. Every try, now or in a later run, sends those stored bytes; nothing is sealed
//! twice, but once when the relay refused the first because devices had changed.

use std::time::Duration;

use nexo_schema::bytes::to_base64;
use nexo_schema::entry;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{SendRequest, SendResponse};
use nexo_schema::ids::{Handle, MsgId};
use serde_json::value::RawValue;

use crate::api::ApiError;
use crate::body::{self, AD, Draft};
use crate::clock;
use crate::e2ee::{
    AccountId, ConversationId, DeviceId, EnvelopeHash, MessageId, OneShotRandomness, Outgoing,
    Recipient as Address, SealRefused, SealedMessage, seal_oneshot,
};
use crate::profile::{Profile, Session};
use crate::random::{self, RandomError};
use crate::trust::{
    PeerError, Recipient, TrustError, gossip_out, own_devices, recipient_of, verify_receipt,
};
use crate::vault::{Counters, NewOutbox, OutboxRow, OutboxState, Tx, VaultError};
use crate::wire;

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
    Seal(#[from] SealRefused),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
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
    /// The text.
    pub text: &'a str,
    /// `--idempotency-key`.
    pub key: Option<&'a str>,
    /// `--expect`.
    pub expect: Option<AccountId>,
}

/// Who gets a message, verified: every device of both sides that can be written to.
#[derive(Debug)]
pub struct Addressees {
    /// The account it is for.
    pub to: Recipient,
    /// The own account; the same one in notes to self.
    pub own: Recipient,
}

impl Addressees {
    /// Both sides, from what was verified lately, else from the relay.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn find(
        session: &Session<'_>,
        handle: &Handle,
        expect: Option<AccountId>,
        refresh: bool,
        now: u64,
    ) -> Result<Self, PeerError> {
        let (trust, member) = (&session.trust, &session.member);
        let identity = &session.profile.identity;
        let own = own_devices(trust, member, identity, refresh, now).await?;
        let itself = *handle == identity.handle;
        let expect = expect.or(itself.then_some(identity.account));
        // The own account was asked for a moment ago.
        let refresh = refresh && !itself;
        let to = recipient_of(trust, member, handle, expect, refresh, now).await?;
        Ok(Self { to, own })
    }

    /// The devices that get a packet in a conversation: every one of both accounts but the
    /// sending one, which writes to itself only in notes to self.
    fn packets(&self, conversation: ConversationId, from: DeviceId) -> Vec<Address<'_>> {
        let itself = self.to.account.id == self.own.account.id;
        let own = self.own.devices_in(conversation).filter(|_| !itself);
        let devices = self.to.devices_in(conversation).map(|d| (self.to.account.id, d));
        devices
            .chain(own.map(|d| (self.own.account.id, d)))
            .filter(|(_, device)| itself || device.id() != from)
            .map(|(account, device)| Address { account, fallback: &device.fallback })
            .collect()
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
        Some(row) if row.text.as_ref().is_some_and(|text| text.as_str() != letter.text) => {
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
    let profile = session.profile;
    let own = profile.identity.account;
    let conversation = ConversationId::direct(session.trust.origin(), own, to.to.account.id);
    open_conversation(session, to, conversation).await?;
    let row = match earlier(profile, conversation, letter)? {
        Some(row) => row,
        None => put(session, to, conversation, letter, now).await?,
    };
    resume(session, to, letter, row, now).await
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

/// Has the relay open the conversation once; its id must be the one both clients compute.
async fn open_conversation(
    session: &Session<'_>,
    to: &Addressees,
    conversation: ConversationId,
) -> Result<(), DeliverError> {
    if to.to.conversation {
        return Ok(());
    }
    let opened = tokio::select! {
        biased;
        done = opened_meanwhile(session.profile, &to.to) => return done,
        opened = session.member.open_conversation(&to.to.handle) => opened?,
    };
    let right = wire::conversation(opened.conv_id) == conversation
        && wire::account(opened.peer_account) == to.to.account.id;
    if !right {
        return Err(DeliverError::Conversation);
    }
    session.profile.vault.write(|tx| tx.set_conversation_open(to.to.account.id)).await?;
    Ok(())
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

/// The transaction before the network: counters, seal, outbox row (TX1).
async fn put(
    session: &Session<'_>,
    to: &Addressees,
    conversation: ConversationId,
    letter: &Letter<'_>,
    now: u64,
) -> Result<OutboxRow, DeliverError> {
    let profile = session.profile;
    let id = match letter.key {
        Some(key) => MessageId::for_idempotency_key(&profile.identity.idem, conversation, key),
        None => MessageId::from_bytes(MsgId::timed(clock::millis(), random::array()?)),
    };
    let msg_id = wire::message_out(id);
    profile
        .vault
        .write(|tx| {
            // Another process with the same key may have been faster.
            if let Some(row) = tx.outbox(&msg_id)? {
                let same = row.text.as_ref().is_some_and(|text| text.as_str() == letter.text);
                return if same { Ok(row) } else { Err(DeliverError::OtherText) };
            }
            let counters = tx.take_counters(conversation)?;
            let sealed = seal(profile, tx, to, conversation, id, letter.text, &counters, now)?;
            let dseq = (!profile.is_stateless()).then_some(counters.dseq);
            let request = request(conversation, &msg_id, &sealed, dseq)?;
            tx.put_outbox(&NewOutbox {
                msg_id: &msg_id,
                conversation,
                peer: to.to.account.id,
                peer_handle: &to.to.handle,
                dseq,
                cseq: counters.cseq,
                envelope: sealed.envelope,
                request: &request,
                text: letter.text,
                created_at: now,
            })?;
            let row = tx.outbox(&msg_id)?;
            row.ok_or(DeliverError::Vault(VaultError::Corrupt { table: "outbox", what: "a row" }))
        })
        .await
}

#[expect(clippy::too_many_arguments, reason = "everything that goes into one seal, named once")]
fn seal(
    profile: &Profile,
    tx: &mut Tx<'_>,
    to: &Addressees,
    conversation: ConversationId,
    message: MessageId,
    text: &str,
    counters: &Counters,
    now: u64,
) -> Result<SealedMessage, DeliverError> {
    let head = tx.newest_head()?.ok_or(TrustError::NoTime)?;
    let body = body::write(&Draft {
        text,
        sent_at: &clock::rfc3339(now),
        cseq: if profile.is_stateless() { 0 } else { counters.cseq },
        prev: counters.prev.as_ref(),
        from: &profile.identity.handle,
        sth: &head.note,
        roster: &gossip_out(&[&to.to.account, &to.own.account]),
    });
    let origin = profile.pin.origin.as_str();
    let outgoing = Outgoing { origin, conversation, message, body: &body };
    let addresses = to.packets(conversation, profile.identity.device_id());
    let randomness = OneShotRandomness::draw(addresses.len(), random::fill)?;
    Ok(seal_oneshot(&profile.identity.party(), &outgoing, &addresses, randomness)?)
}

/// The bytes of the request, made once.
fn request(
    conversation: ConversationId,
    msg_id: &MsgId,
    sealed: &SealedMessage,
    dseq: Option<u64>,
) -> Result<Vec<u8>, DeliverError> {
    let packets =
        sealed.packets.iter().map(|(id, packet)| (wire::device_out(*id), to_base64(packet)));
    let request = SendRequest {
        conv_id: wire::conversation_out(conversation),
        cipher: to_base64(&sealed.sealed),
        ad: RawValue::from_string(AD.to_owned()).map_err(|_| ApiError::Encoding)?,
        msg_id: Some(msg_id.clone()),
        packets: Some(packets.collect()),
        dseq,
    };
    Ok(serde_json::to_vec(&request).map_err(|_| ApiError::Encoding)?)
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
            let row = reseal(session, to, letter, &row, now).await?;
            let answer = session.member.post_message(&row.request).await;
            (row, answer)
        }
        _ => (row, answer),
    };
    let answer = match answer {
        Err(error) if is_repeat_of_stateless(session.profile, letter, &error) => {
            return Ok(delivered(&row, None, true));
        }
        answer => answer?,
    };
    let sth_index = receipt(session, &answer, row.envelope, now).await?;
    session.profile.vault.write(|tx| tx.set_sent(&row.msg_id, sth_index)).await?;
    Ok(delivered(&row, Some(sth_index), again || answer.duplicate))
}

/// Without an outbox the bytes of the first try are gone: the relay's refusal of other bytes
/// under the same id says that it has the message (e2ee 2.13).
fn is_repeat_of_stateless(profile: &Profile, letter: &Letter<'_>, error: &ApiError) -> bool {
    let conflict = error.code() == Some(ErrorCode::IdempotencyConflict);
    conflict && profile.is_stateless() && letter.key.is_some()
}

async fn receipt(
    session: &Session<'_>,
    answer: &SendResponse,
    envelope: EnvelopeHash,
    now: u64,
) -> Result<u64, DeliverError> {
    let receipt = answer.receipt.as_ref().ok_or(DeliverError::NoReceipt)?;
    let leaf = entry::message(envelope.as_bytes());
    Ok(verify_receipt(&session.trust, receipt, "the message", &leaf, now).await?)
}

/// The recipient's devices have changed: the same message under the same id and counters, in a
/// new envelope. The relay accepted nothing of the first.
async fn reseal(
    session: &Session<'_>,
    to: &Addressees,
    letter: &Letter<'_>,
    row: &OutboxRow,
    now: u64,
) -> Result<OutboxRow, DeliverError> {
    let to = Addressees::find(session, &to.to.handle, letter.expect, true, now).await?;
    if to.to.account.id != row.peer {
        return Err(DeliverError::Conversation);
    }
    let id = wire::message(&row.msg_id)
        .ok_or(VaultError::Corrupt { table: "outbox", what: "a message id" })?;
    let profile = session.profile;
    profile
        .vault
        .write(|tx| {
            let counters = Counters { dseq: row.dseq.unwrap_or(0), cseq: row.cseq, prev: None };
            let (conversation, text) = (row.conversation, letter.text);
            let sealed = seal(profile, tx, &to, conversation, id, text, &counters, now)?;
            let request = request(conversation, &row.msg_id, &sealed, row.dseq)?;
            tx.reseal_outbox(&row.msg_id, row.envelope, sealed.envelope, &request)?;
            let row = tx.outbox(&row.msg_id)?;
            row.ok_or(DeliverError::Vault(VaultError::Corrupt { table: "outbox", what: "a row" }))
        })
        .await
}

fn delivered(row: &OutboxRow, sth_index: Option<u64>, duplicate: bool) -> Delivered {
    let (msg_id, conversation) = (row.msg_id.clone(), row.conversation);
    Delivered { msg_id, conversation, sth_index, duplicate }
}
