//! `send`: one message, until it is provably in the log.
//!
//! A relay that is away, busy or at its limits is asked again until `--timeout`, with the same
//! bytes under the same id. What is not acknowledged by then stays in the outbox.

mod lines;

use nexo_schema::ids::{Handle, MsgId};
use serde_json::json;

use super::{Context, input};
use crate::body::Matter;
use crate::cli::Send;
use crate::clock;
use crate::deliver::{self, Addressees, DeliverError, Delivered, Letter, deliver, earlier};
use crate::e2ee::{AccountId, Capabilities, ConversationId, parse_fingerprint};
use crate::error::CliError;
use crate::profile::{Profile, Session};
use crate::trust::PeerError;
use crate::upkeep;
use crate::vault::OutboxState;

/// Longest idempotency key.
const MAX_KEY: usize = 1024;

pub(super) async fn run(context: &Context, args: &Send) -> Result<(), CliError> {
    let handle = input::handle(&args.handle)?;
    let expect = args.expect.as_deref().map(parse_fingerprint).transpose();
    let expect = expect.map_err(|e| CliError::Usage(format!("--expect: {e}")))?;
    if args.idempotency_key.as_ref().is_some_and(|k| k.is_empty() || k.len() > MAX_KEY) {
        let detail = format!("--idempotency-key: 1 to {MAX_KEY} bytes");
        return Err(CliError::Usage(detail));
    }
    let profile = Profile::open(&context.options).await?;
    if !profile.capabilities.contains(Capabilities::SEND) {
        return Err(CliError::Usage("this device may not send".to_owned()));
    }
    if let Some(msg_id) = &args.resume {
        return resume(context, &profile, &handle, msg_id, args.oneshot).await;
    }
    if args.stdin_lines {
        return lines::run(context, &profile, &handle, expect, args).await;
    }
    let text = input::message_text(args.text.as_deref(), args.body_file.as_deref()).await?;
    let letter = Letter {
        matter: Matter::Text(&text),
        key: args.idempotency_key.as_deref(),
        expect,
        oneshot: args.oneshot,
    };
    let delivered = match sent_before(&profile, &handle, &letter)? {
        Some(delivered) => delivered,
        None => send(context, &profile, &handle, &letter).await?,
    };
    show(context, &profile, &handle, &delivered)?;
    Ok(context.printer.flush()?)
}

/// A message with this key that was acknowledged before: its receipt was verified then, and no
/// network is needed to say so.
fn sent_before(
    profile: &Profile,
    handle: &Handle,
    letter: &Letter<'_>,
) -> Result<Option<Delivered>, DeliverError> {
    let Some(account) = known_account(profile, handle)? else { return Ok(None) };
    if letter.expect.is_some_and(|expected| expected != account) {
        return Ok(None);
    }
    let origin = profile.pin.origin.as_str();
    let conversation = ConversationId::direct(origin, profile.identity.account, account);
    let Some(row) = earlier(profile, conversation, letter)? else { return Ok(None) };
    let OutboxState::Sent { sth_index } = row.state else { return Ok(None) };
    Ok(Some(Delivered {
        msg_id: row.msg_id,
        conversation,
        sth_index: Some(sth_index),
        duplicate: true,
    }))
}

fn known_account(profile: &Profile, handle: &Handle) -> Result<Option<AccountId>, DeliverError> {
    if *handle == profile.identity.handle {
        return Ok(Some(profile.identity.account));
    }
    Ok(profile.vault.read(|tx| tx.pinned_peer(handle))?.map(|peer| peer.account))
}

async fn send(
    context: &Context,
    profile: &Profile,
    handle: &Handle,
    letter: &Letter<'_>,
) -> Result<Delivered, CliError> {
    let relay = profile.relay(&context.options, &context.printer)?;
    relay.persist(true);
    let session = profile.session(&relay, None);
    let now = clock::seconds();
    let to = recipient(context, &session, handle, letter.expect, now).await?;
    let delivered = deliver(&session, &to, letter, now).await?;
    // After the message: that it was sent must not hang on housekeeping.
    relay.persist(false);
    if let Err(error) = upkeep::tend(&session, now, false).await {
        context.printer.say(&format!("prekeys were not looked after: {error}"));
    }
    Ok(delivered)
}

/// Goes on with what an earlier run stored.
async fn resume(
    context: &Context,
    profile: &Profile,
    handle: &Handle,
    msg_id: &str,
    oneshot: bool,
) -> Result<(), CliError> {
    let absent = || CliError::NoMessage(msg_id.to_owned());
    let id = MsgId::parse(msg_id).map_err(|_| absent())?;
    let row = profile.vault.read(|tx| tx.outbox(&id))?;
    let row = row.filter(|row| row.peer_handle == *handle && !row.control).ok_or_else(absent)?;
    let text = row.text.clone().ok_or(DeliverError::Deleted)?;
    let letter = Letter { matter: Matter::Text(&text), key: None, expect: None, oneshot };
    let relay = profile.relay(&context.options, &context.printer)?;
    relay.persist(true);
    let session = profile.session(&relay, None);
    let now = clock::seconds();
    let to = recipient(context, &session, handle, None, now).await?;
    // The message was sealed for one account; if the handle is pinned to another by now, that
    // was somebody's decision, and going on with the old one must not undo it.
    if to.to.account.id != row.peer {
        return Err(DeliverError::Conversation.into());
    }
    let delivered = deliver::resume(&session, &to, &letter, row, now).await?;
    show(context, profile, handle, &delivered)?;
    Ok(context.printer.flush()?)
}

/// Who gets it, at a relay that may be told something. That the own handle shows another account
/// is an alarm, whoever the message is for.
async fn recipient(
    context: &Context,
    session: &Session<'_>,
    handle: &Handle,
    expect: Option<AccountId>,
    now: u64,
) -> Result<Addressees, CliError> {
    session.trust.one_history()?;
    let own = &session.profile.identity.handle;
    let found = Addressees::find(session, handle, expect, false, now).await;
    context.tell(session);
    match found {
        Err(PeerError::NotExpected { handle, .. })
            if handle == own.as_str() && expect.is_none() =>
        {
            Err(CliError::NotOurs(handle))
        }
        other => Ok(other?),
    }
}

fn show(
    context: &Context,
    profile: &Profile,
    handle: &Handle,
    delivered: &Delivered,
) -> Result<(), CliError> {
    let Delivered { msg_id, conversation, sth_index, duplicate } = delivered;
    let object = json!({
        "schema": "nexo.sent/1",
        "msg_id": msg_id,
        "conv_id": conversation.to_string(),
        "to": handle,
        "sth_index": sth_index.map(|index| index.to_string()),
        "duplicate": duplicate,
        // For those who run many at once: how long this one stood in line for the state.
        "lock_wait_ms": profile.vault.longest_wait().as_millis(),
    });
    let index = match sth_index {
        Some(index) => index.to_string(),
        None => {
            context.printer.warn(
                "the relay had a message under this key already; without state its receipt \
                 cannot be verified again",
            );
            "-".to_owned()
        }
    };
    Ok(context.printer.result(&object, &format!("{msg_id} {index}"))?)
}
