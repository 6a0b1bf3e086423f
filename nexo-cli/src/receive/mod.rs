//! From the relay's pages, and from a socket, to the inbox: verify first, then decrypt and store
//! at once (e2ee 2.12).
//!
//! What only a lying relay can cause (an item that is not in the log) ends the run and moves
//! nothing. What a sender can cause (rubbish, an unknown version, a wrong name) becomes an
//! `undecryptable` row with its reason, and the stream goes on.
//!
//! | file | does |
//! |---|---|
//! | `message`, `deletion` | verify an item, with the network |
//! | `open` | opens a message in the transaction that stores it |
//! | `again` | takes messages that did not open and were sent again |
//! | `live` | takes messages from a socket as they come |

mod again;
mod deletion;
mod live;
mod message;
mod open;
mod unreadable;

use nexo_schema::http::{Item, Page};
use nexo_schema::ids::MsgId;

use crate::api::{ApiError, path};
use crate::e2ee::{AccountId, EnvelopeHash};
use crate::profile::Session;
use crate::trust::gossip::{self, Speaker, settle};
use crate::trust::{Hash, PeerError, TrustError};
use crate::vault::{HeldHead, NewInbox, Target, Tx, VaultError};
use open::{Heard, Outcome, Reader, Verified};
use unreadable::Unreadable;

pub use again::take_again;
pub use live::{Live, News};

/// Items asked for at a time: full pages of 64 KiB messages stay in bounds.
const PAGE: u32 = 200;
/// Items stored in one transaction: others who wait for the state wait no longer than it takes
/// to open these.
const AT_ONCE: usize = 50;
/// One item, by its place.
const PAGE_OF_ONE: u32 = 1;

/// Why receiving ended.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The relay.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The log.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The local state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A page that cannot be one, or items of a socket that cannot follow each other.
    #[error("the relay's page of messages {0}")]
    Page(&'static str),
}
/// What an item comes to.
enum Taken {
    /// Nothing to keep: not for this device, already here, or gone.
    Nothing,
    /// To be stored as it is.
    Row(Box<NewInbox>),
    /// To be opened where it is stored.
    Message(Box<Verified>),
    Deletion {
        author: AccountId,
        msg_id: MsgId,
        envelope: EnvelopeHash,
    },
    /// A deletion nobody may have asked for.
    Refused(String),
}

/// Reads everything new into the inbox, unprinted; `warn` hears of refused deletions.
///
/// # Errors
/// [`ReceiveError`]; pages stored before it stay stored.
pub async fn sync(
    session: &Session<'_>,
    now: u64,
    warn: &dyn Fn(&str),
    progress: &dyn Fn(u64, u64),
) -> Result<(), ReceiveError> {
    let vault = &session.profile.vault;
    loop {
        let cursor = vault.read(|tx| tx.cursor())?;
        let held = session.trust.held_size()?;
        let page = session.member.page(cursor, PAGE, held).await?;
        check_page(&page, cursor)?;
        let note = page.head.as_deref().ok_or(ReceiveError::Page("has no head"))?;
        let proof = page.consistency.as_deref().and_then(path).map(|path| (held, path));
        let head = session.trust.accept_fresh(note.as_bytes(), proof, now).await?;
        // Some items have no proof of their own; none may lead the cursor out of the log.
        if page.items.last().is_some_and(|item| item.sth_index > head.size) {
            return Err(ReceiveError::Page("shows what its head does not hold"));
        }
        let moved = store_items(session, &page.items, &head, cursor, warn, now).await?;
        // What the messages said of the log is proved once they are safe.
        settle(&session.trust, now).await?;
        if moved && !page.more {
            return Ok(());
        }
        progress(page.next, head.size);
    }
}

/// In log order, behind the cursor, and getting somewhere.
fn check_page(page: &Page, cursor: u64) -> Result<(), ReceiveError> {
    let last = in_order(&page.items, cursor)?;
    if page.next < last || (page.more && page.next == cursor) {
        return Err(ReceiveError::Page("does not lead on"));
    }
    // Nothing behind the last item was shown, so nothing behind it may be skipped.
    if page.next > last { Err(ReceiveError::Page("skips what it does not show")) } else { Ok(()) }
}

/// The position of the last item; each has to be behind the one before, and the first behind
/// `cursor`.
fn in_order(items: &[Item], cursor: u64) -> Result<u64, ReceiveError> {
    let mut last = cursor;
    for item in items {
        if item.sth_index <= last {
            return Err(ReceiveError::Page("is out of order"));
        }
        last = item.sth_index;
    }
    Ok(last)
}

/// Takes items that lead to `head`, some at a time; `false` if another process has moved the
/// cursor.
async fn store_items(
    session: &Session<'_>,
    items: &[Item],
    head: &HeldHead,
    mut cursor: u64,
    warn: &dyn Fn(&str),
    now: u64,
) -> Result<bool, ReceiveError> {
    let origin = session.trust.origin();
    let profile = session.profile;
    let reader = Reader { identity: &profile.identity, origin, now, on_reset: profile.on_reset };
    for items in items.chunks(AT_ONCE) {
        let mut taken = Vec::with_capacity(items.len());
        for item in items {
            taken.push(take(session, item, head, now).await?);
        }
        for taken in &taken {
            if let Taken::Refused(reason) = taken {
                warn(reason);
            }
        }
        let to = items.last().map_or(cursor, |item| item.sth_index);
        // One transaction: rows, sessions, deletions, cursor. A crash before it repeats these
        // items; another process that was faster makes this one start over.
        let stored = session.profile.vault.write(|tx| store(tx, reader, cursor, to, taken)).await?;
        let Some(heard) = stored else { return Ok(false) };
        hear(session, &heard, now).await?;
        cursor = to;
    }
    Ok(true)
}

fn store(
    tx: &mut Tx<'_>,
    reader: Reader<'_>,
    from: u64,
    to: u64,
    taken: Vec<Taken>,
) -> Result<Option<Vec<Heard>>, VaultError> {
    if !tx.move_cursor(from, to)? {
        return Ok(None);
    }
    let mut heard = Vec::new();
    for taken in taken {
        match taken {
            Taken::Nothing | Taken::Refused(_) => {}
            Taken::Row(row) => tx.put_inbox(&row)?,
            Taken::Message(verified) => heard.extend(store_message(tx, reader, &verified)?),
            Taken::Deletion { author, msg_id, envelope } => {
                tx.wipe_inbox(&Target { author, msg_id: &msg_id, envelope })?;
                // What was sent from here is this account's alone to delete.
                if reader.identity.account == author
                    && tx.outbox(&msg_id)?.is_some_and(|row| row.envelope == envelope)
                {
                    tx.wipe_outbox(&msg_id)?;
                }
            }
        }
    }
    Ok(Some(heard))
}

fn store_message(
    tx: &mut Tx<'_>,
    reader: Reader<'_>,
    verified: &Verified,
) -> Result<Option<Heard>, VaultError> {
    // Twice in one page is twice too.
    if tx.has_received(&verified.row.sender_device, &verified.row.msg_id)? {
        return Ok(None);
    }
    let Outcome { row, ask, heard } = reader.open(tx, verified)?;
    tx.put_inbox(&row)?;
    if let Some(asked) = ask {
        tx.put_ask(row.sth_index, &asked)?;
    }
    Ok(heard)
}

/// Compares what opened messages said of the log and of accounts with what is known here.
async fn hear(session: &Session<'_>, heard: &[Heard], now: u64) -> Result<(), ReceiveError> {
    let (trust, member) = (&session.trust, &session.member);
    let own = session.profile.identity.account;
    let mut before = None;
    for Heard { from, account, gossip } in heard {
        // Who sends much at once says the same in all of it.
        if before.replace((from, gossip)) == Some((from, gossip)) {
            continue;
        }
        let account = (*account != own).then_some(*account);
        let from = Speaker { handle: from.as_str(), account };
        if let Err(error) = gossip::heard(trust, member, gossip, from, now).await {
            // That an account cannot be looked at again is not the message's fault.
            let _ = unverified(error)?;
        }
    }
    Ok(())
}

async fn take(
    session: &Session<'_>,
    item: &Item,
    head: &HeldHead,
    now: u64,
) -> Result<Taken, ReceiveError> {
    match &item.tombstone {
        Some(tombstone) => deletion::take(session, item, tombstone, head, now).await,
        None => message::take(session, item, head, now).await,
    }
}

fn inclusion(item: &Item) -> Result<Vec<Hash>, ReceiveError> {
    let path = item.inclusion.as_deref().and_then(path);
    path.ok_or(ReceiveError::Page("has an item without a proof"))
}
/// What is no fault of the sender ends the run; the message will be there the next time.
fn unverified(error: PeerError) -> Result<Unreadable, ReceiveError> {
    match error {
        PeerError::Trust(error) => Err(error.into()),
        PeerError::Api(error) => Err(error.into()),
        PeerError::Vault(error) => Err(error.into()),
        fault => Ok(Unreadable::Sender(fault)),
    }
}
#[cfg(test)]
mod tests;
