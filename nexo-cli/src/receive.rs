//! From the relay's pages to the inbox: verify first, decrypt second, store once (e2ee 2.12).
//!
//! What only a lying relay can cause (an item that is not in the log) ends the run and moves
//! nothing. What a sender can cause (rubbish, an unknown version, a wrong name) becomes an
//! `undecryptable` row with its reason, and the stream goes on.

use nexo_schema::bytes::{from_base64, from_hex};
use nexo_schema::http::{Item, NativeItem, Page, Tombstone as WireTombstone};
use nexo_schema::{entry, envelope};
use sha2::{Digest as _, Sha256};

use crate::api::{ApiError, path};
use crate::body::{self, BodyRefused, Content};
use crate::e2ee::envelope::RecipientHash;
use crate::e2ee::oneshot::ReplayKey;
use crate::e2ee::packet::PacketRefused;
use crate::e2ee::tombstone::{TombstoneRefused, tombstone_leaf};
use crate::e2ee::{
    Account, AccountId, Capabilities, ConversationId, EnvelopeHash, Incoming, KeyPacket,
    MessageContext, OpenRefused, Party, Tombstone, open_oneshot,
};
use crate::profile::Session;
use crate::trust::{PeerError, TrustError, may, sender_of};
use crate::upkeep::fallback_secret;
use crate::vault::{HeldHead, InboxKind, InboxRow, NewInbox, Target, VaultError};
use crate::wire;
use nexo_schema::ids::{Handle, MsgId};

/// Items asked for at a time: full pages of 64 KiB messages stay in bounds.
const PAGE: u32 = 200;

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
    /// A page that cannot be one.
    #[error("the relay's page of messages {0}")]
    Page(&'static str),
}

/// Why a message was delivered and yet cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("it was not encrypted: its sender has a plain account")]
    Plain,
    #[error("its sender is not verified: {0}")]
    Sender(PeerError),
    #[error("its sender's device joined the account later")]
    TooEarly,
    #[error("it was sent from a device that is not its account's")]
    Device,
    #[error("it is in another conversation than its sender and this account's")]
    Conversation,
    #[error("{0}")]
    Packet(#[from] PacketRefused),
    #[error("the prekey it was sealed to is gone")]
    PrekeyGone,
    #[error("{0}")]
    Open(#[from] OpenRefused),
    #[error("it was delivered before under another id")]
    Replay,
    #[error("{0}")]
    Body(#[from] BodyRefused),
    #[error("it is of type {0:?}, which this version does not know")]
    Unsupported(String),
    #[error("its id is not that of a native message")]
    Id,
}

/// What an item comes to.
enum Taken {
    /// Nothing to keep: not for this device, already here, or gone.
    Nothing,
    Message(Box<NewInbox>, Option<ReplayKey>),
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
        let mut taken = Vec::with_capacity(page.items.len());
        for item in &page.items {
            taken.push(take(session, item, &head, now).await?);
        }
        for taken in &taken {
            if let Taken::Refused(reason) = taken {
                warn(reason);
            }
        }
        // One transaction: rows, handshakes seen, deletions, cursor. A crash before it repeats
        // the page; another process that was faster makes this one start over.
        let moved = vault.write(|tx| store(tx, cursor, page.next, taken)).await?;
        if moved && !page.more {
            return Ok(());
        }
        progress(page.next, head.size);
    }
}

/// In log order, behind the cursor, and getting somewhere.
fn check_page(page: &Page, cursor: u64) -> Result<(), ReceiveError> {
    let mut last = cursor;
    for item in &page.items {
        if item.sth_index <= last {
            return Err(ReceiveError::Page("is out of order"));
        }
        last = item.sth_index;
    }
    if page.next < last || (page.more && page.next == cursor) {
        return Err(ReceiveError::Page("does not lead on"));
    }
    // Nothing behind the last item was shown, so nothing behind it may be skipped.
    if page.next > last { Err(ReceiveError::Page("skips what it does not show")) } else { Ok(()) }
}

fn store(
    tx: &mut crate::vault::Tx<'_>,
    from: u64,
    to: u64,
    taken: Vec<Taken>,
) -> Result<bool, VaultError> {
    if !tx.move_cursor(from, to)? {
        return Ok(false);
    }
    for taken in taken {
        match taken {
            Taken::Nothing | Taken::Refused(_) => {}
            Taken::Message(mut row, handshake) => {
                if let Some(key) = handshake {
                    if !tx.note_handshake(&key)? {
                        row.kind = undecryptable(&Unreadable::Replay);
                        row.text = None;
                    }
                }
                tx.put_inbox(&row)?;
            }
            Taken::Deletion { author, msg_id, envelope } => {
                tx.wipe_inbox(&Target { author, msg_id: &msg_id, envelope })?;
                if tx.outbox(&msg_id)?.is_some_and(|row| row.envelope == envelope) {
                    tx.wipe_outbox(&msg_id)?;
                }
            }
        }
    }
    Ok(true)
}

async fn take(
    session: &Session<'_>,
    item: &Item,
    head: &HeldHead,
    now: u64,
) -> Result<Taken, ReceiveError> {
    if let Some(tombstone) = &item.tombstone {
        return deletion(session, item, tombstone, head, now).await;
    }
    if item.cipher.is_empty() {
        // Deleted before this device read it; the entry stands for bytes that are gone.
        return Ok(Taken::Nothing);
    }
    let Some(native) = &item.native else {
        let row = row(item, now, undecryptable(&Unreadable::Plain));
        return Ok(Taken::Message(Box::new(row), None));
    };
    let Some(sealed) = Sealed::read(session, item, native)? else {
        let row = row(item, now, undecryptable(&Unreadable::Id));
        return Ok(Taken::Message(Box::new(row), None));
    };
    sealed.included(session, item, head)?;
    if native.packet.is_none() || already_here(session, item)? {
        return Ok(Taken::Nothing);
    }
    let account = wire::account(native.sender_account);
    let mut row = row(item, now, InboxKind::Text);
    row.sender = Some(account);
    row.envelope = Some(sealed.envelope);
    let sender = match sender(session, item, account, head, now).await? {
        Ok(sender) => sender,
        Err(reason) => {
            row.kind = undecryptable(&reason);
            return Ok(Taken::Message(Box::new(row), None));
        }
    };
    row.sender_handle = Some(sender.0);
    let handshake = match open(session, item, &sealed, &sender.1, &mut row)? {
        Ok(handshake) => Some(handshake),
        Err(reason) => {
            row.kind = undecryptable(&reason);
            None
        }
    };
    Ok(Taken::Message(Box::new(row), handshake))
}

/// The bytes of a native message, with the envelope hash that follows from them.
struct Sealed {
    payload: Vec<u8>,
    packet: Vec<u8>,
    others: Vec<RecipientHash>,
    envelope: EnvelopeHash,
}

impl Sealed {
    /// `None` if ids are not native, so that there is no entry to check.
    fn read(
        session: &Session<'_>,
        item: &Item,
        native: &NativeItem,
    ) -> Result<Option<Self>, ReceiveError> {
        let malformed = |_| ReceiveError::Page("has a malformed message");
        let ids = (item.msg_id.native_bytes(), item.sender_device.native_bytes());
        let (Some(msg_id), Some(device)) = ids else { return Ok(None) };
        let payload = from_base64(&item.cipher).map_err(malformed)?;
        let packet = native.packet.as_deref().map(from_base64).transpose().map_err(malformed)?;
        let mine = session.profile.identity.device_id();
        let mut hashes = Vec::with_capacity(native.packet_hashes.len());
        for (id, hash) in &native.packet_hashes {
            let id = wire::device(id).ok_or(ReceiveError::Page("has a malformed message"))?;
            let mut packet_hash = from_hex(hash).map_err(malformed)?;
            if let (true, Some(packet)) = (id == mine, &packet) {
                // What was delivered counts, not what the relay says of it.
                packet_hash = Sha256::digest(packet).into();
            }
            hashes.push((*id.as_bytes(), packet_hash));
        }
        hashes.sort_unstable_by_key(|(id, _)| *id);
        if packet.is_some() && !hashes.iter().any(|(id, _)| id == mine.as_bytes()) {
            return Err(ReceiveError::Page("has a packet for a device that was not addressed"));
        }
        let route = envelope::Route {
            origin: session.profile.pin.origin.as_str(),
            conv: &item.conv_id.0,
            msg_id: &msg_id,
            account: &native.sender_account.0,
            device: &device,
        };
        let aad = route.payload_aad();
        let digest = Sha256::digest(envelope::payload_digest(&aad, &payload)).into();
        let hash = Sha256::digest(envelope::envelope(&aad, &digest, &hashes)).into();
        let others = hashes
            .into_iter()
            .map(|(id, packet)| (crate::e2ee::DeviceId::from_bytes(id), packet))
            .filter(|(id, _)| *id != mine)
            .map(|(device, packet)| RecipientHash { device, packet })
            .collect();
        Ok(Some(Self {
            payload,
            packet: packet.unwrap_or_default(),
            others,
            envelope: EnvelopeHash::from_bytes(hash),
        }))
    }

    fn included(
        &self,
        session: &Session<'_>,
        item: &Item,
        head: &HeldHead,
    ) -> Result<(), ReceiveError> {
        let leaf = entry::message(self.envelope.as_bytes());
        let path = inclusion(item)?;
        Ok(session.trust.included("a message", head, &leaf, item.sth_index, &path)?)
    }
}

fn inclusion(item: &Item) -> Result<Vec<crate::trust::Hash>, ReceiveError> {
    let path = item.inclusion.as_deref().and_then(path);
    path.ok_or(ReceiveError::Page("has an item without a proof"))
}

fn already_here(session: &Session<'_>, item: &Item) -> Result<bool, VaultError> {
    session.profile.vault.read(|tx| tx.has_received(&item.sender_device, &item.msg_id))
}

/// The sender as their chain proves it, judged at the message's place in the log.
async fn sender(
    session: &Session<'_>,
    item: &Item,
    account: AccountId,
    head: &HeldHead,
    now: u64,
) -> Result<Result<(Handle, Account), Unreadable>, ReceiveError> {
    let identity = &session.profile.identity;
    let (handle, verified, joined) = if account == identity.account {
        let origin = session.profile.pin.origin.as_str();
        let own =
            identity.e2ee_handle().ok().and_then(|h| identity.genesis.verify(origin, &h).ok());
        let Some(own) = own else { return Ok(Err(Unreadable::Device)) };
        (identity.handle.clone(), own, 0)
    } else {
        match sender_of(&session.trust, &session.member, account, now).await {
            Ok((peer, verified)) => (peer.handle, verified, peer.sth_index),
            Err(error) => return unverified(error).map(Err),
        }
    };
    if wire::device(&item.sender_device) != Some(verified.device.device_id()) {
        return Ok(Err(Unreadable::Device));
    }
    if joined >= item.sth_index {
        return Ok(Err(Unreadable::TooEarly));
    }
    if let Err(error) = may(&verified, Capabilities::SEND, "may not send", head.time) {
        return Ok(Err(Unreadable::Sender(error)));
    }
    let direct = ConversationId::direct(session.trust.origin(), identity.account, account);
    if direct != wire::conversation(item.conv_id) {
        return Ok(Err(Unreadable::Conversation));
    }
    Ok(Ok((handle, verified)))
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

/// Opens the message into `row`.
fn open(
    session: &Session<'_>,
    item: &Item,
    sealed: &Sealed,
    sender: &Account,
    row: &mut NewInbox,
) -> Result<Result<ReplayKey, Unreadable>, VaultError> {
    let packet = match KeyPacket::parse(&sealed.packet) {
        Ok(packet) => packet,
        Err(error) => return Ok(Err(error.into())),
    };
    let wanted = packet.block().fallback_id;
    let Some(stored) = session.profile.vault.read(|tx| tx.fallback(wanted))? else {
        return Ok(Err(Unreadable::PrekeyGone));
    };
    let Some(message) = wire::message(&item.msg_id) else { return Ok(Err(Unreadable::Id)) };
    let incoming = Incoming {
        context: MessageContext {
            origin: session.trust.origin(),
            conversation: wire::conversation(item.conv_id),
            message,
            sender: Party { account: sender.id, device: sender.device },
        },
        sealed: &sealed.payload,
        packet: &packet,
        others: &sealed.others,
    };
    let opened =
        match open_oneshot(&session.profile.identity.party(), &fallback_secret(&stored), &incoming)
        {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error.into())),
        };
    let Some(from) = row.sender_handle.clone() else { return Ok(Err(Unreadable::Device)) };
    match body::read(&opened.body, item.ad.get(), &from) {
        Ok(Content::Text { text, sent_at }) => {
            row.text = Some(text);
            row.sent_at = sent_at;
        }
        Ok(Content::Unsupported { kind, sent_at }) => {
            let reason = Unreadable::Unsupported(kind).to_string();
            row.kind = InboxKind::Unsupported { reason };
            row.sent_at = sent_at;
        }
        Err(error) => return Ok(Err(error.into())),
    }
    Ok(Ok(opened.replay))
}

/// A deletion is honoured only if the author of its target signed it.
async fn deletion(
    session: &Session<'_>,
    item: &Item,
    tombstone: &WireTombstone,
    head: &HeldHead,
    now: u64,
) -> Result<Taken, ReceiveError> {
    let (Some(statement), Some(sig)) = (&tombstone.statement, &tombstone.sig) else {
        // Plain accounts sign nothing; nothing of theirs is kept here as text.
        return Ok(Taken::Nothing);
    };
    let malformed = |_| ReceiveError::Page("has a malformed deletion");
    let statement = from_base64(statement).map_err(malformed)?;
    let sig = from_base64(sig).map_err(malformed)?;
    let sig: [u8; 64] =
        sig.try_into().map_err(|_| ReceiveError::Page("has a malformed deletion"))?;
    let leaf = tombstone_leaf(&statement, &sig);
    session.trust.included("a deletion", head, &leaf, item.sth_index, &inclusion(item)?)?;
    let refused = |reason: String| {
        let id = &item.msg_id;
        Ok(Taken::Refused(format!("a deletion of message {id} is not honoured: {reason}")))
    };
    let claimed = match Tombstone::parse(&statement) {
        Ok(claimed) => claimed,
        Err(error) => return refused(error.to_string()),
    };
    let key = match author_key(session, claimed.account, now).await? {
        Ok(key) => key,
        Err(error) => return refused(error.to_string()),
    };
    let verified: Result<_, TombstoneRefused> =
        Tombstone::verify(session.trust.origin(), &statement, &sig, &key);
    match verified {
        Ok(signed) => Ok(Taken::Deletion {
            author: signed.account,
            msg_id: wire::message_out(signed.target),
            envelope: signed.target_envelope,
        }),
        Err(error) => refused(error.to_string()),
    }
}

async fn author_key(
    session: &Session<'_>,
    author: AccountId,
    now: u64,
) -> Result<Result<crate::e2ee::DevicePublic, Unreadable>, ReceiveError> {
    let identity = &session.profile.identity;
    if author == identity.account {
        return Ok(Ok(identity.device.public()));
    }
    match sender_of(&session.trust, &session.member, author, now).await {
        Ok((_, account)) => Ok(Ok(account.device)),
        Err(error) => unverified(error).map(Err),
    }
}

fn row(item: &Item, now: u64, kind: InboxKind) -> InboxRow {
    InboxRow {
        sth_index: item.sth_index,
        conversation: wire::conversation(item.conv_id),
        msg_id: item.msg_id.clone(),
        sender: None,
        sender_device: item.sender_device.clone(),
        sender_handle: None,
        kind,
        envelope: None,
        text: None,
        sent_at: None,
        received_at: now,
    }
}

fn undecryptable(reason: &Unreadable) -> InboxKind {
    InboxKind::Undecryptable { reason: reason.to_string() }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
