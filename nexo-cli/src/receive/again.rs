//! Messages that did not open, and that their senders have sent again (e2ee 2.14).

use super::open::Reader;
use super::{PAGE_OF_ONE, ReceiveError, Taken, check_page, message};
use crate::api::path;
use crate::e2ee::resend::{KEPT_FOR, next_ask};
use crate::profile::Session;
use crate::vault::{Asked, InboxRow, VaultError};

/// Messages looked for at a time.
const MOST: i64 = 20;

/// Looks for the packets that were asked for, and opens what has come. What has grown too old to
/// be answered is given up.
///
/// # Errors
/// [`ReceiveError`].
pub async fn take_again(session: &Session<'_>, now: u64) -> Result<(), ReceiveError> {
    let vault = &session.profile.vault;
    let asks = vault.read(|tx| tx.asks(MOST))?;
    for (row, asked) in asks {
        if now.saturating_sub(row.received_at) >= KEPT_FOR {
            vault.write(|tx| tx.drop_ask(row.sth_index).map(drop)).await?;
        } else if asked.at.is_some() {
            take_one(session, &row, asked, now).await?;
        }
    }
    Ok(())
}

async fn take_one(
    session: &Session<'_>,
    row: &InboxRow,
    asked: Asked,
    now: u64,
) -> Result<(), ReceiveError> {
    let after = row.sth_index.saturating_sub(1);
    let held = session.trust.held_size()?;
    let page = session.member.page(after, PAGE_OF_ONE, held).await?;
    check_page(&page, after)?;
    let note = page.head.as_deref().ok_or(ReceiveError::Page("has no head"))?;
    let proof = page.consistency.as_deref().and_then(path).map(|path| (held, path));
    let head = session.trust.accept_fresh(note.as_bytes(), proof, now).await?;
    let Some(item) = page.items.first().filter(|item| {
        item.sth_index == row.sth_index
            && item.msg_id == row.msg_id
            && item.sender_device == row.sender_device
    }) else {
        return Ok(());
    };
    let Some(Taken::Message(verified)) = message::again(session, item, &head, now).await? else {
        return Ok(());
    };
    let origin = session.trust.origin();
    let profile = session.profile;
    let reader = Reader { identity: &profile.identity, origin, now, on_reset: profile.on_reset };
    session
        .profile
        .vault
        .write(|tx| {
            // Another process may have been faster.
            let still = tx.asks(MOST)?;
            let Some((_, current)) = still.iter().find(|(r, _)| r.sth_index == row.sth_index)
            else {
                return Ok(());
            };
            if *current != asked {
                return Ok(());
            }
            let opened = reader.open(tx, &verified)?;
            match opened.ask {
                // This packet does not open either: ask at once, if another time is left.
                Some(_) if next_ask(asked.times).is_none() => tx.drop_ask(row.sth_index).map(drop),
                Some(ask) => {
                    let session = ask.session.or(asked.session);
                    tx.put_ask(row.sth_index, &Asked { at: None, session, ..asked })
                }
                None => tx.replace_asked(&opened.row).map(drop),
            }
        })
        .await
        .map_err(|error: VaultError| error.into())
}
