//! Messages of the protocol itself: answers to content that has waited (heartbeats), requests for
//! messages that did not open, and answers to such requests (e2ee 2.14).
//!
//! They go the way of every message: sealed and stored first, then sent. What cannot be done for
//! one peer does not stop the others; it is told, and tried again the next time.

use std::collections::BTreeSet;

use nexo_schema::error::ErrorCode;
use nexo_schema::ids::Handle;

use super::addressees::{Addressees, End, with_prekeys};
use super::{DeliverError, Letter, deliver, resume};
use crate::api::ApiError;
use crate::body::{Control, Matter};
use crate::e2ee::fanout::PacketDraw;
use crate::e2ee::resend::{KEPT_FOR, Resent, next_ask};
use crate::e2ee::{AccountId, Capabilities, Outgoing};
use crate::profile::Session;
use crate::random;
use crate::vault::{Answer, Asked, InboxRow, OutboxRow, VaultError};
use crate::wire;

/// Of each kind, done at a time.
const MOST: i64 = 20;
/// Seconds until an unanswered request is made again.
const ASK_EVERY: u64 = 86_400;

/// Sends what the protocol owes to others. `told` hears of what could not be done.
///
/// # Errors
/// [`DeliverError`] of the log or of the local state; what concerns one peer is told.
pub async fn settle(
    session: &Session<'_>,
    told: &dyn Fn(&str),
    now: u64,
) -> Result<(), DeliverError> {
    if !session.profile.capabilities.contains(Capabilities::SEND) || session.profile.is_stateless()
    {
        return Ok(());
    }
    let vault = &session.profile.vault;
    for row in vault.read(|tx| tx.unsent_controls(MOST))? {
        tolerated(go_on(session, row, now).await, told)?;
    }
    for (row, asked) in vault.read(|tx| tx.asks(MOST))? {
        if is_due(&asked, now) {
            tolerated(ask(session, &row, asked, now).await, told)?;
        }
    }
    for answer in vault.read(|tx| tx.answers(MOST))? {
        tolerated(give(session, &answer, now).await, told)?;
    }
    for account in waiting(session, now)? {
        tolerated(heartbeat(session, account, now).await, told)?;
    }
    Ok(())
}

/// What concerns one peer is told; what concerns all of them ends the run.
fn tolerated(done: Result<(), DeliverError>, told: &dyn Fn(&str)) -> Result<(), DeliverError> {
    let Err(error) = done else { return Ok(()) };
    let cause = match &error {
        DeliverError::Undelivered { source, .. } => source,
        other => other,
    };
    let is_general = match cause {
        DeliverError::Trust(_) | DeliverError::Vault(_) | DeliverError::Random(_) => true,
        DeliverError::Api(error) => error.code() == Some(ErrorCode::StateRollback),
        _ => false,
    };
    if is_general {
        return Err(error);
    }
    told(&format!("a message of the protocol was not sent: {error}"));
    Ok(())
}

/// Goes on with a control message that an earlier run stored.
async fn go_on(session: &Session<'_>, row: OutboxRow, now: u64) -> Result<(), DeliverError> {
    let text = row.text.clone().ok_or(DeliverError::Deleted)?;
    let control = Control::from_text(&text)?;
    let to = Addressees::find(session, &row.peer_handle, Some(row.peer), false, now).await?;
    resume(session, &to, &letter(&control, row.peer), row, now).await.map(drop)
}

fn letter(control: &Control, to: AccountId) -> Letter<'_> {
    Letter { matter: Matter::Control(control), key: None, expect: Some(to), oneshot: false }
}

async fn send(
    session: &Session<'_>,
    handle: &Handle,
    account: AccountId,
    control: &Control,
    now: u64,
) -> Result<(), DeliverError> {
    let to = Addressees::find(session, handle, Some(account), false, now).await?;
    deliver(session, &to, &letter(control, account), now).await.map(drop)
}

/// The accounts whose content has waited long enough for an answer.
fn waiting(session: &Session<'_>, now: u64) -> Result<BTreeSet<AccountId>, VaultError> {
    session.profile.vault.read(|tx| {
        let mut due = BTreeSet::new();
        for peer in tx.waiting_peers()? {
            if tx.sessions(peer)?.heartbeat_due(now) {
                due.insert(peer.account);
            }
        }
        Ok(due)
    })
}

async fn heartbeat(
    session: &Session<'_>,
    account: AccountId,
    now: u64,
) -> Result<(), DeliverError> {
    let identity = &session.profile.identity;
    let handle = if account == identity.account {
        Some(identity.handle.clone())
    } else {
        session.profile.vault.read(|tx| tx.peer(account))?.map(|peer| peer.handle)
    };
    // Nobody is heard in a session whose account was never verified.
    let Some(handle) = handle else { return Ok(()) };
    send(session, &handle, account, &Control::Heartbeat, now).await
}

fn is_due(asked: &Asked, now: u64) -> bool {
    let rested = asked.at.is_none_or(|at| now.saturating_sub(at) >= ASK_EVERY);
    rested && next_ask(asked.times).is_some()
}

/// Asks the sender of a message for it: the relay first, which then takes a new packet.
async fn ask(
    session: &Session<'_>,
    row: &InboxRow,
    asked: Asked,
    now: u64,
) -> Result<(), DeliverError> {
    let (Some(handle), Some(account), Some(times)) =
        (&row.sender_handle, row.sender, next_ask(asked.times))
    else {
        return Ok(());
    };
    let vault = &session.profile.vault;
    let conversation = wire::conversation_out(row.conversation);
    let heard = session.member.ask_again(conversation, &row.msg_id, &row.sender_device).await;
    if heard.as_ref().is_err_and(is_final) {
        // There will be no packet. The sender is told all the same, to begin another session.
        vault.write(|tx| tx.drop_ask(row.sth_index).map(drop)).await?;
    } else {
        heard?;
        // Counted before it is asked: a crash in between loses one time of three.
        let next = Asked { times, at: Some(now), ..asked };
        vault.write(|tx| tx.put_ask(row.sth_index, &next)).await?;
    }
    let control = Control::Retry { msg_id: row.msg_id.clone(), session: asked.session };
    send(session, handle, account, &control, now).await
}

/// Whether asking again would be answered the same.
fn is_final(error: &ApiError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::NotFound | ErrorCode::Forbidden | ErrorCode::MethodNotAllowed)
    )
}

/// Answers one request: a new packet for the same payload, stored, then given to the relay.
async fn give(session: &Session<'_>, answer: &Answer, now: u64) -> Result<(), DeliverError> {
    let vault = &session.profile.vault;
    let Answer { msg_id, to, packet } = answer;
    let Some(row) = vault.read(|tx| tx.outbox(msg_id))? else {
        return Ok(vault.write(|tx| tx.drop_answer(msg_id, to.device)).await?);
    };
    let packet = match packet {
        Some(packet) => Some(packet.clone()),
        None => make(session, answer, &row, now).await?,
    };
    let Some(packet) = packet else {
        return Ok(vault.write(|tx| tx.drop_answer(msg_id, to.device)).await?);
    };
    let (conversation, device) =
        (wire::conversation_out(row.conversation), wire::device_out(to.device));
    let put = session.member.put_packet(conversation, msg_id, &device, &packet).await;
    if put.as_ref().is_ok() || put.as_ref().is_err_and(is_final) {
        vault.write(|tx| tx.drop_answer(msg_id, to.device)).await?;
    }
    put?;
    Ok(())
}

/// Seals the packet; `None` if this device is owed none: it was not addressed, has been revoked,
/// has asked too often, or asks too late.
async fn make(
    session: &Session<'_>,
    answer: &Answer,
    row: &OutboxRow,
    now: u64,
) -> Result<Option<Vec<u8>>, DeliverError> {
    let profile = session.profile;
    if now.saturating_sub(row.created_at) >= KEPT_FOR {
        return Ok(None);
    }
    let to = Addressees::find(session, &row.peer_handle, Some(row.peer), false, now).await?;
    let mut ends = to.ends(row.conversation, profile.identity.device_id());
    ends.retain(|end| end.peer == answer.to);
    with_prekeys(session, &to, &mut ends, now).await?;
    let Some(end) = ends.first() else { return Ok(None) };
    seal(session, answer, row, end, now).await
}

async fn seal(
    session: &Session<'_>,
    answer: &Answer,
    row: &OutboxRow,
    end: &End,
    now: u64,
) -> Result<Option<Vec<u8>>, DeliverError> {
    let profile = session.profile;
    let message = wire::message(&row.msg_id)
        .ok_or(VaultError::Corrupt { table: "outbox", what: "a message id" })?;
    let origin = profile.pin.origin.as_str();
    let outgoing = Outgoing { origin, conversation: row.conversation, message, body: b"" };
    let draw = PacketDraw::draw(random::fill)?;
    profile
        .vault
        .write(|tx| {
            let Some(kept) = tx.kept(&row.msg_id)? else { return Ok(None) };
            let before = end.sessions(tx)?;
            let party = profile.identity.party();
            let resent = kept.resend(&party, &outgoing, &end.address(&before), &draw, now);
            let Ok(Resent { packet, sessions, kept }) = resent else { return Ok(None) };
            if let Some(after) = &sessions {
                tx.put_sessions(end.peer, &before, after)?;
            }
            tx.put_kept(&row.msg_id, &kept, now)?;
            let sealed = Answer { packet: Some(packet.clone()), ..answer.clone() };
            tx.put_answer(&sealed, now)?;
            Ok(Some(packet))
        })
        .await
}
