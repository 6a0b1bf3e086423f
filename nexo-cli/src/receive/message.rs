//! One native message: its entry in the log, its sender, its text.

use nexo_schema::bytes::{from_base64, from_hex};
use nexo_schema::http::{Item, NativeItem};
use nexo_schema::{entry, envelope};
use sha2::{Digest as _, Sha256};

use super::{ReceiveError, Taken, inclusion, unverified};
use crate::body::{self, BodyRefused, Content};
use crate::e2ee::envelope::RecipientHash;
use crate::e2ee::oneshot::ReplayKey;
use crate::e2ee::packet::PacketRefused;
use crate::e2ee::{
    AccountId, ConversationId, DeviceId, EnvelopeHash, Incoming, KeyPacket, MessageContext,
    OpenRefused, Party, open_oneshot,
};
use crate::profile::Session;
use crate::trust::gossip::{self, Gossip};
use crate::trust::{PeerError, Sender, judge_sender, sender_of};
use crate::upkeep::fallback_secret;
use crate::vault::{HeldHead, InboxKind, InboxRow, NewInbox, VaultError};
use crate::wire;

/// Why a message was delivered and yet cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it was not encrypted: its sender has a plain account")]
    Plain,
    #[error("its sender is not verified: {0}")]
    Sender(PeerError),
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

/// Judges one message of a page.
pub(super) async fn take(
    session: &Session<'_>,
    item: &Item,
    head: &HeldHead,
    now: u64,
) -> Result<Taken, ReceiveError> {
    if item.cipher.is_empty() {
        // Deleted before this device read it; the entry stands for bytes that are gone.
        return Ok(Taken::Nothing);
    }
    let Some(native) = &item.native else {
        if item.sender_device.native_bytes().is_some() {
            // Taken as plain it would need no proof, and stand in the way of the real one.
            return Err(ReceiveError::Page("shows a native message as a plain one"));
        }
        let row = row(item, now, undecryptable(&Unreadable::Plain));
        return Ok(Taken::Message(Box::new(row), None));
    };
    let Some(sealed) = Sealed::read(session, item, native)? else {
        let row = row(item, now, undecryptable(&Unreadable::Id));
        return Ok(Taken::Message(Box::new(row), None));
    };
    sealed.included(session, item, head)?;
    if native.packet.is_none() {
        let mine = wire::device_out(session.profile.identity.device_id());
        if native.packet_hashes.contains_key(&mine) {
            return Err(ReceiveError::Page("withholds this device's packet of a logged message"));
        }
        return Ok(Taken::Nothing);
    }
    if already_here(session, item)? {
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
    row.sender_handle = Some(sender.account.handle.clone());
    let handshake = match open(session, item, &sealed, &sender, &mut row)? {
        Ok((handshake, gossip)) => {
            let (trust, member) = (&session.trust, &session.member);
            let from = sender.account.handle.as_str();
            if let Err(error) = gossip::heard(trust, member, &gossip, from, now).await {
                // That an account cannot be looked at again is not the message's fault.
                let _ = unverified(error)?;
            }
            Some(handshake)
        }
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
            .map(|(id, packet)| (DeviceId::from_bytes(id), packet))
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
) -> Result<Result<Sender, Unreadable>, ReceiveError> {
    let identity = &session.profile.identity;
    let Some(device) = wire::device(&item.sender_device) else {
        return Ok(Err(Unreadable::Device));
    };
    let found = sender_of(&session.trust, &session.member, account, device, now).await;
    let judged = match found {
        Ok(found) => judge_sender(&session.trust, found, device, item.sth_index, head, now).await,
        Err(error) => Err(error),
    };
    let sender = match judged {
        Ok(sender) => sender,
        Err(error) => return unverified(error).map(Err),
    };
    let direct = ConversationId::direct(session.trust.origin(), identity.account, account);
    // An own device may write in every conversation of the account; which one is sealed with the
    // message, so the relay cannot move it.
    if account != identity.account && direct != wire::conversation(item.conv_id) {
        return Ok(Err(Unreadable::Conversation));
    }
    Ok(Ok(sender))
}
/// Opens the message into `row`.
fn open(
    session: &Session<'_>,
    item: &Item,
    sealed: &Sealed,
    sender: &Sender,
    row: &mut NewInbox,
) -> Result<Result<(ReplayKey, Gossip), Unreadable>, VaultError> {
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
            sender: Party { account: sender.account.id, device: sender.device.key },
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
    Ok(Ok((opened.replay, Gossip::read(&opened.body))))
}
pub(super) fn row(item: &Item, now: u64, kind: InboxKind) -> InboxRow {
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

pub(super) fn undecryptable(reason: &Unreadable) -> InboxKind {
    InboxKind::Undecryptable { reason: reason.to_string() }
}
