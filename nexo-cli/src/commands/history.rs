//! `history`: what was sent and received, from the local state alone.

use super::show::{Shown, received, sent};
use super::{Context, input};
use crate::cli::History;
use crate::clock;
use crate::e2ee::{AccountId, ConversationId};
use crate::error::CliError;
use crate::profile::Profile;
use crate::trust::PeerError;
use crate::vault::{InboxKind, InboxRow, OutboxState, Reading, VaultError};
use crate::wire;

pub(super) async fn run(context: &Context, args: &History) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    if profile.is_stateless() {
        return Err(CliError::Stateless("history"));
    }
    let since = args.since.as_deref().map(|text| input::since(text, clock::seconds()));
    let since = since.transpose()?.unwrap_or(0);
    let peer = peer(&profile, args.handle.as_deref())?;
    let mut messages = messages(&profile, peer, since)?;
    if let Some(limit) = args.limit.and_then(|n| usize::try_from(n).ok()) {
        messages.drain(..messages.len().saturating_sub(limit));
    }
    for Shown { object, text, alarm } in messages {
        let text = if text.is_empty() { alarm.unwrap_or_default() } else { text };
        context.printer.result(&object, &text)?;
    }
    Ok(context.printer.flush()?)
}

/// The account a handle is pinned to; without network an unknown one has no history.
fn peer(profile: &Profile, handle: Option<&str>) -> Result<Option<AccountId>, CliError> {
    let Some(handle) = handle.map(input::handle).transpose()? else { return Ok(None) };
    if handle == profile.identity.handle {
        return Ok(Some(profile.identity.account));
    }
    let pinned = profile.vault.read(|tx| tx.pinned_peer(&handle))?;
    let peer = pinned.ok_or_else(|| PeerError::Unknown(handle.to_string()))?;
    Ok(Some(peer.account))
}

/// In log order; what was never sent comes last. A note to oneself is in both boxes and is
/// shown once.
fn messages(
    profile: &Profile,
    peer: Option<AccountId>,
    since: u64,
) -> Result<Vec<Shown>, CliError> {
    let own = profile.identity.account;
    let (inbox, outbox) = profile.vault.read(|tx| {
        // By conversation, for what own other devices wrote there.
        let with = |peer| ConversationId::direct(profile.pin.origin.as_str(), own, peer);
        let reading = Reading { conversation: peer.map(with), ..Reading::default() };
        Ok::<_, VaultError>((tx.inbox(&reading)?, tx.outbox_rows(peer)?))
    })?;
    let mut rows: Vec<(u64, Shown)> = Vec::new();
    for row in outbox.iter().filter(|row| row.created_at >= since) {
        let at = match row.state {
            OutboxState::Unsent => u64::MAX,
            OutboxState::Sent { sth_index } | OutboxState::Deleted { sth_index } => sth_index,
        };
        rows.push((at, sent(row, profile.identity.handle.as_str())));
    }
    let mine = wire::device_out(profile.identity.device_id());
    let shown = |row: &&InboxRow| row.received_at >= since && row.sender_device != mine;
    for row in inbox.iter().filter(shown).filter(|row| row.kind != InboxKind::Control) {
        rows.push((row.sth_index, received(row)));
    }
    rows.sort_by_key(|(at, _)| *at);
    Ok(rows.into_iter().map(|(_, shown)| shown).collect())
}
