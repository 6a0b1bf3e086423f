//! Opening a message whose place and sender are verified, in the transaction that stores it.
//!
//! What is read of sessions and prekeys here is what stands on disk at this moment, and what
//! the message makes of it is committed with the message or not at all (e2ee 2.12). A message
//! that does not open changes nothing but its own row.

use nexo_schema::ids::Handle;

use super::unreadable::{Unreadable, undecryptable};
use crate::body::{self, Content, Control};
use crate::e2ee::arrival::Opened;
use crate::e2ee::envelope::RecipientHash;
use crate::e2ee::{
    AccountId, Arrival, Incoming, KeyPacket, MessageContext, MessageId, Nature, OnReset, Packet,
    Party, Peer, PrekeySecrets, SessionEvent, SessionPacket, open_handshake, open_in_session,
    open_oneshot,
};
use crate::identity::Identity;
use crate::trust::gossip::Gossip;
use crate::upkeep::{fallback_secret, one_time_secret};
use crate::vault::{Answer, Asked, InboxKind, NewInbox, SessionNote, Tx, VaultError};

/// A message of a page: what it claims is in the log, and its sender could send it.
pub(super) struct Verified {
    /// The row, with its sender and without its content.
    pub(super) row: NewInbox,
    pub(super) message: MessageId,
    pub(super) sender: Party,
    pub(super) payload: Vec<u8>,
    pub(super) packet: Vec<u8>,
    pub(super) others: Vec<RecipientHash>,
    /// Set if `packet` is not the one that was logged.
    pub(super) logged: Option<[u8; 32]>,
    pub(super) ad: String,
}

/// This device, as it opens messages.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) identity: &'a Identity,
    pub(super) origin: &'a str,
    pub(super) now: u64,
    /// What becomes of a session that is begun anew without proof.
    pub(super) on_reset: OnReset,
}

/// What became of a message.
pub(super) struct Outcome {
    /// Its row, to be stored.
    pub(super) row: NewInbox,
    /// Set if its sender may be asked to send it again.
    pub(super) ask: Option<Asked>,
    /// What it said of the log, if it opened.
    pub(super) heard: Option<Heard>,
}

/// What a sender saw of the log and of accounts.
pub(super) struct Heard {
    pub(super) from: Handle,
    pub(super) account: AccountId,
    pub(super) gossip: Gossip,
}

/// An opened body.
struct Said {
    content: Content,
    heard: Heard,
    /// What became of the session.
    event: Option<SessionNote>,
}

impl Reader<'_> {
    /// Opens `verified`. All that changes with it is written; its row is the caller's to write.
    ///
    /// # Errors
    /// [`VaultError`]; what the message itself is to blame for stands in its row.
    pub(super) fn open(self, tx: &mut Tx<'_>, verified: &Verified) -> Result<Outcome, VaultError> {
        let packet = match Packet::parse(&verified.packet) {
            Ok(packet) => packet,
            Err(error) => return Ok(refused(verified.row.clone(), &error.into())),
        };
        match packet {
            Packet::OneShot(packet) => {
                let opened = self.one_shot(tx, verified, &packet)?;
                self.filled(tx, verified, opened, None)
            }
            Packet::Session(packet) => {
                let opened = self.in_session(tx, verified, &packet)?;
                self.filled(tx, verified, opened, Some(&packet))
            }
        }
    }

    /// The row of a message after its packet.
    fn filled(
        self,
        tx: &mut Tx<'_>,
        verified: &Verified,
        opened: Result<Said, Unreadable>,
        packet: Option<&SessionPacket<'_>>,
    ) -> Result<Outcome, VaultError> {
        let mut row = verified.row.clone();
        match opened {
            Ok(Said { content, heard, event }) => {
                row.event = event;
                self.fill(tx, &mut row, verified, content)?;
                Ok(Outcome { row, ask: None, heard: Some(heard) })
            }
            Err(reason) => {
                let session = packet.map(SessionPacket::session_id);
                let ask = reason.may_ask().then_some(Asked { times: 0, at: None, session });
                Ok(Outcome { ask, ..refused(row, &reason) })
            }
        }
    }

    fn context(&self, verified: &Verified) -> MessageContext<'_> {
        MessageContext {
            origin: self.origin,
            conversation: verified.row.conversation,
            message: verified.message,
            sender: verified.sender,
        }
    }

    fn one_shot(
        self,
        tx: &mut Tx<'_>,
        verified: &Verified,
        packet: &KeyPacket<'_>,
    ) -> Result<Result<Said, Unreadable>, VaultError> {
        let Some(stored) = tx.fallback(packet.block().fallback_id)? else {
            return Ok(Err(Unreadable::PrekeyGone));
        };
        let Verified { payload, others, .. } = verified;
        let incoming =
            Incoming { context: self.context(verified), sealed: payload, packet, others };
        let me = self.identity.party();
        let opened = match open_oneshot(&me, &fallback_secret(&stored), &incoming) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error.into())),
        };
        let said = read(verified, &opened.body);
        if said.is_ok() && !tx.note_handshake(&opened.replay)? {
            return Ok(Err(Unreadable::Replay));
        }
        Ok(said)
    }

    fn in_session(
        self,
        tx: &mut Tx<'_>,
        verified: &Verified,
        packet: &SessionPacket<'_>,
    ) -> Result<Result<Said, Unreadable>, VaultError> {
        let peer = Peer::from(&verified.sender);
        let before = tx.sessions(peer)?;
        let Verified { payload, others, logged, .. } = verified;
        let arrival = Arrival {
            context: self.context(verified),
            sealed: payload,
            packet,
            others,
            logged: *logged,
            now: self.now,
        };
        let me = self.identity.party();
        let is_held = before.find(packet.session_id(), self.now).is_some();
        let opened: Result<Opened, Unreadable> = if is_held || packet.block().is_none() {
            let skipped = tx.skipped(packet.session_id())?;
            open_in_session(&me, &before, &skipped, &arrival).map_err(Unreadable::from)
        } else {
            self.handshake(tx, &before, packet, &arrival)?
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(reason) => return Ok(Err(reason)),
        };
        let said = read(verified, &opened.body);
        // What cannot be read has used its key all the same.
        let nature = match said.as_ref().map(|said| &said.content) {
            Ok(Content::Text { .. } | Content::Unsupported { .. }) => Nature::Content,
            Ok(Content::Control(_)) | Err(_) => Nature::Control,
        };
        let session = opened.session;
        let settled = opened.settle(nature);
        tx.put_sessions(peer, &before, &settled.sessions)?;
        tx.change_skipped(session, &settled.skipped, self.now)?;
        if let Some(used) = settled.handshake {
            tx.note_handshake(&used.replay)?;
            if let Some(id) = used.one_time {
                tx.delete_one_time(id)?;
            }
        }
        let event = settled.event.and_then(|event| match event {
            SessionEvent::Established => None,
            SessionEvent::Rotated { .. } => Some(SessionNote::Rotated),
            SessionEvent::Reset { .. } => Some(SessionNote::Reset),
        });
        Ok(said.map(|said| Said { event, ..said }))
    }

    fn handshake(
        self,
        tx: &mut Tx<'_>,
        before: &crate::e2ee::Sessions,
        packet: &SessionPacket<'_>,
        arrival: &Arrival<'_>,
    ) -> Result<Result<Opened, Unreadable>, VaultError> {
        let (Some(block), Some(key)) = (packet.block(), arrival.replay_key()) else {
            return Ok(Err(crate::e2ee::ArrivalRefused::NoHandshake.into()));
        };
        let Some(fallback) = tx.fallback(block.fallback_id)? else {
            return Ok(Err(Unreadable::PrekeyGone));
        };
        let one_time = match block.one_time_id {
            Some(id) => tx.one_time(id)?.as_ref().map(one_time_secret),
            None => None,
        };
        let fallback = fallback_secret(&fallback);
        let secrets = PrekeySecrets { fallback: &fallback, one_time: one_time.as_ref() };
        let seen = tx.has_handshake(&key)?;
        let me = self.identity.party();
        let opened = open_handshake(&me, before, &secrets, arrival, seen, self.on_reset);
        Ok(opened.map_err(Unreadable::from))
    }

    /// Puts what a message says into its row.
    fn fill(
        self,
        tx: &mut Tx<'_>,
        row: &mut NewInbox,
        verified: &Verified,
        content: Content,
    ) -> Result<(), VaultError> {
        match content {
            Content::Text { text, sent_at, to } => {
                row.text = Some(text);
                row.sent_at = sent_at;
                // Only an own device's word on where it wrote is of any use.
                let own = verified.sender.account == self.identity.account;
                row.recipient = to.filter(|_| own);
            }
            Content::Unsupported { kind, sent_at } => {
                row.kind =
                    InboxKind::Unsupported { reason: Unreadable::Unsupported(kind).to_string() };
                row.sent_at = sent_at;
            }
            Content::Control(control) => {
                row.kind = InboxKind::Control;
                if let Control::Retry { msg_id, session } = control {
                    let peer = Peer::from(&verified.sender);
                    self.retry(tx, &Answer { msg_id, to: peer, packet: None }, session)?;
                }
            }
        }
        Ok(())
    }

    /// Somebody cannot open a message. Only one of this device that is still kept is sent again,
    /// and only to a device that it was for; that is judged when the packet is made.
    fn retry(
        self,
        tx: &mut Tx<'_>,
        answer: &Answer,
        session: Option<crate::e2ee::SessionId>,
    ) -> Result<(), VaultError> {
        if tx.kept(&answer.msg_id)?.is_none() {
            return Ok(());
        }
        if let Some(id) = session {
            let before = tx.sessions(answer.to)?;
            tx.put_sessions(answer.to, &before, &before.give_up(id, self.now))?;
        }
        tx.put_answer(answer, self.now)
    }
}

/// The body, if it is one and is the sender's.
fn read(verified: &Verified, body: &[u8]) -> Result<Said, Unreadable> {
    let from = verified.row.sender_handle.as_ref().ok_or(Unreadable::Device)?;
    let content = body::read(body, &verified.ad, from)?;
    let (from, account) = (from.clone(), verified.sender.account);
    let heard = Heard { from, account, gossip: Gossip::read(body) };
    Ok(Said { content, heard, event: None })
}

fn refused(mut row: NewInbox, reason: &Unreadable) -> Outcome {
    row.kind = undecryptable(reason);
    Outcome { row, ask: None, heard: None }
}
