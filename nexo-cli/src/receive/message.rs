//! One native message: its entry in the log and its sender. Its text is opened where it is
//! stored, in [`super::open`].

use nexo_schema::bytes::{from_base64, from_hex};
use nexo_schema::http::{Item, NativeItem};
use nexo_schema::{entry, envelope};
use sha2::{Digest as _, Sha256};

use super::open::Verified;
use super::unreadable::{Unreadable, undecryptable};
use super::{ReceiveError, Taken, inclusion, unverified};
use crate::e2ee::envelope::RecipientHash;
use crate::e2ee::{AccountId, ConversationId, DeviceId, EnvelopeHash, Party};
use crate::profile::Session;
use crate::trust::{Sender, judge_sender, sender_of};
use crate::vault::{HeldHead, InboxKind, InboxRow, VaultError};
use crate::wire;

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
        return Ok(Taken::Row(Box::new(row)));
    };
    let Some(sealed) = Sealed::read(session, item, native)? else {
        let row = row(item, now, undecryptable(&Unreadable::Id));
        return Ok(Taken::Row(Box::new(row)));
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
    sealed.sent(session, item, native, head, now).await
}

/// The bytes of a native message, with the envelope hash that follows from them.
struct Sealed {
    payload: Vec<u8>,
    packet: Vec<u8>,
    others: Vec<RecipientHash>,
    /// The hash that the log has of this device's packet, if another one was delivered.
    logged: Option<[u8; 32]>,
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
        let mut logged = None;
        let mut hashes = Vec::with_capacity(native.packet_hashes.len());
        for (id, hash) in &native.packet_hashes {
            let id = wire::device(id).ok_or(ReceiveError::Page("has a malformed message"))?;
            let mut packet_hash = from_hex(hash).map_err(malformed)?;
            if let (true, Some(packet)) = (id == mine, &packet) {
                if native.resent {
                    logged = Some(packet_hash);
                } else {
                    // What was delivered counts, not what the relay says of it.
                    packet_hash = Sha256::digest(packet).into();
                }
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
            logged,
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

    /// Verifies who sent it.
    async fn sent(
        self,
        session: &Session<'_>,
        item: &Item,
        native: &NativeItem,
        head: &HeldHead,
        now: u64,
    ) -> Result<Taken, ReceiveError> {
        let account = wire::account(native.sender_account);
        let mut row = row(item, now, InboxKind::Text);
        row.sender = Some(account);
        row.envelope = Some(self.envelope);
        let sender = match sender(session, item, account, head, now).await? {
            Ok(sender) => sender,
            Err(reason) => {
                row.kind = undecryptable(&reason);
                return Ok(Taken::Row(Box::new(row)));
            }
        };
        row.sender_handle = Some(sender.account.handle.clone());
        let Some(message) = wire::message(&item.msg_id) else {
            row.kind = undecryptable(&Unreadable::Id);
            return Ok(Taken::Row(Box::new(row)));
        };
        let Self { payload, packet, others, logged, .. } = self;
        let sender = Party { account: sender.account.id, device: sender.device.key };
        let ad = item.ad.get().to_owned();
        let verified = Verified { row, message, sender, payload, packet, others, logged, ad };
        Ok(Taken::Message(Box::new(verified)))
    }
}

/// Judges a message that was taken before and did not open, as the relay serves it now; `None` if
/// there is no packet for it but the one that did not open.
pub(super) async fn again(
    session: &Session<'_>,
    item: &Item,
    head: &HeldHead,
    now: u64,
) -> Result<Option<Taken>, ReceiveError> {
    let Some(native) = item.native.as_ref().filter(|native| native.resent) else { return Ok(None) };
    let Some(sealed) = Sealed::read(session, item, native)? else { return Ok(None) };
    sealed.included(session, item, head)?;
    sealed.sent(session, item, native, head, now).await.map(Some)
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
    // An own device writes where it likes; what it sealed names the conversation.
    let direct = ConversationId::direct(session.trust.origin(), identity.account, account);
    if account != identity.account && direct != wire::conversation(item.conv_id) {
        return Ok(Err(Unreadable::Conversation));
    }
    Ok(Ok(sender))
}

/// The row of an item, with nothing verified in it.
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
        recipient: None,
        event: None,
    }
}
