//! What this device received, in log order, and how far it has read the log.
//!
//! A row is committed unprinted together with the cursor; it is marked printed after it was
//! written out and flushed. A crash in between prints it again, under the same message id.

use diesel::prelude::*;
use nexo_schema::ids::{DeviceId, Handle, MsgId};
use zeroize::Zeroizing;

use super::schema::inbox;
use super::sealed::Cell;
use super::{Tx, VaultError, array, signed, unsigned};
use crate::e2ee::{AccountId, ConversationId, EnvelopeHash};

/// Messages marked by one statement: SQLite takes 32,766 variables.
const MARKED_AT_ONCE: usize = 500;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxKind {
    /// Decrypted.
    Text,
    /// Decrypted, but of a type that this version does not show.
    Unsupported {
        /// What it is.
        reason: String,
    },
    /// Not decrypted.
    Undecryptable {
        /// Why.
        reason: String,
    },
    /// Deleted by its author for everyone.
    Deleted,
    /// Of the protocol itself; nobody's to read.
    Control,
}

impl InboxKind {
    pub(super) fn columns(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Text => ("text", None),
            Self::Unsupported { reason } => ("unsupported", Some(reason)),
            Self::Undecryptable { reason } => ("undecryptable", Some(reason)),
            Self::Deleted => ("deleted", None),
            Self::Control => ("control", None),
        }
    }
}

/// What the handshake that a message brought means for whoever watches the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionNote {
    /// The sender began anew and does not show that it holds an older session: its state was
    /// lost, or somebody else has its key.
    Reset,
    /// The sender replaced a session, and proved that it holds the old one.
    Rotated,
}

impl SessionNote {
    /// Its name, as in events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "session_reset",
            Self::Rotated => "session_rotated",
        }
    }

    fn parse(name: &str) -> Result<Self, VaultError> {
        [Self::Reset, Self::Rotated]
            .into_iter()
            .find(|note| note.name() == name)
            .ok_or(VaultError::Corrupt { table: "inbox", what: "an event" })
    }
}

/// A message as received; stored once, never shown twice but after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxRow {
    /// Position in the log, from 1.
    pub sth_index: u64,
    /// The conversation.
    pub conversation: ConversationId,
    /// The sender's id for it.
    pub msg_id: MsgId,
    /// The sender's account; `None` for a plain one.
    pub sender: Option<AccountId>,
    /// The sending device.
    pub sender_device: DeviceId,
    /// The sender's handle, if their chain was verified.
    pub sender_handle: Option<Handle>,
    /// What became of it.
    pub kind: InboxKind,
    /// The envelope hash, as recomputed here.
    pub envelope: Option<EnvelopeHash>,
    /// The text.
    pub text: Option<Zeroizing<String>>,
    /// The sender's word, RFC 3339.
    pub sent_at: Option<String>,
    /// Unix seconds of this machine.
    pub received_at: u64,
    /// Who it is for, by the word of the own other device that sent it.
    pub recipient: Option<Handle>,
    /// What the handshake that came with it means.
    pub event: Option<SessionNote>,
}

/// A message to be stored is one as read back.
pub type NewInbox = InboxRow;

/// The message a tombstone is for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its author, who signed the tombstone.
    pub author: AccountId,
    /// Its id.
    pub msg_id: &'a MsgId,
    /// Its envelope hash.
    pub envelope: EnvelopeHash,
}

/// Which rows to read.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Only those of this account.
    pub sender: Option<AccountId>,
    /// Only those in this conversation.
    pub conversation: Option<ConversationId>,
    /// Only those not printed yet.
    pub unprinted: bool,
    /// Only those received at or after, Unix seconds.
    pub since: Option<u64>,
}

pub(super) type Row = (
    i64,
    Vec<u8>,
    String,
    Option<Vec<u8>>,
    String,
    Option<String>,
    String,
    Option<String>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
    i64,
    bool,
    i64,
    Option<String>,
    Option<String>,
);

impl Tx<'_> {
    /// How far the log was read: position of the last item seen, from 1.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn cursor(&mut self) -> Result<u64, VaultError> {
        self.counter("cursor")
    }

    /// Moves the cursor from `from` to `to`; `false` if another process has moved it. Then the
    /// page in hand is not to be stored.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn move_cursor(&mut self, from: u64, to: u64) -> Result<bool, VaultError> {
        if self.counter("cursor")? != from {
            return Ok(false);
        }
        self.set_counter("cursor", to)?;
        Ok(true)
    }

    /// Whether a message of that device and id was received before.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn has_received(&mut self, device: &DeviceId, msg_id: &MsgId) -> Result<bool, VaultError> {
        let count: i64 = inbox::table
            .filter(inbox::sender_device.eq(device.as_str()))
            .filter(inbox::msg_id.eq(msg_id.as_str()))
            .count()
            .get_result(self.conn)?;
        Ok(count > 0)
    }

    /// Stores a message, unprinted. One that is here already stays as it is.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_inbox(&mut self, new: &NewInbox) -> Result<(), VaultError> {
        let index = signed(new.sth_index);
        let seal = |text: &Zeroizing<String>| {
            self.sealer.seal(&cell(&index.to_be_bytes(), 1), text.as_bytes())
        };
        let sealed = new.text.as_ref().map(seal).transpose()?;
        let (kind, reason) = new.kind.columns();
        diesel::insert_or_ignore_into(inbox::table)
            .values((
                inbox::sth_index.eq(index),
                inbox::conv_id.eq(&new.conversation.as_bytes()[..]),
                inbox::msg_id.eq(new.msg_id.as_str()),
                inbox::sender_account.eq(new.sender.map(|a| a.as_bytes().to_vec())),
                inbox::sender_device.eq(new.sender_device.as_str()),
                inbox::sender_handle.eq(new.sender_handle.as_ref().map(Handle::as_str)),
                inbox::kind.eq(kind),
                inbox::reason.eq(reason),
                inbox::envelope.eq(new.envelope.map(|e| e.as_bytes().to_vec())),
                inbox::sealed_text.eq(sealed),
                inbox::sent_at.eq(new.sent_at.as_deref()),
                inbox::received_at.eq(signed(new.received_at)),
                // There is nothing to print.
                inbox::printed.eq(new.kind == InboxKind::Control && new.event.is_none()),
                (
                    inbox::recipient.eq(new.recipient.as_ref().map(Handle::as_str)),
                    inbox::event.eq(new.event.map(SessionNote::name)),
                ),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Wipes the text of a message its author deleted, and has the deletion printed; `false` if
    /// there is no such message here, or it was wiped before.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn wipe_inbox(&mut self, target: &Target<'_>) -> Result<bool, VaultError> {
        let wiped = diesel::update(
            inbox::table
                .filter(inbox::sender_account.eq(target.author.as_bytes().to_vec()))
                .filter(inbox::msg_id.eq(target.msg_id.as_str()))
                .filter(inbox::envelope.eq(target.envelope.as_bytes().to_vec()))
                .filter(inbox::kind.ne("deleted")),
        )
        .set((
            inbox::kind.eq("deleted"),
            inbox::reason.eq(None::<String>),
            inbox::sealed_text.eq(None::<Vec<u8>>),
            inbox::printed.eq(false),
        ))
        .execute(self.conn)?;
        Ok(wiped == 1)
    }

    /// Messages in log order, those of the protocol itself only if they tell of an event.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn inbox(&mut self, wish: &Reading) -> Result<Vec<InboxRow>, VaultError> {
        let mut query = inbox::table
            .filter(inbox::kind.ne("control").or(inbox::event.is_not_null()))
            .order(inbox::sth_index)
            .into_boxed();
        if let Some(sender) = wish.sender {
            query = query.filter(inbox::sender_account.eq(sender.as_bytes().to_vec()));
        }
        if let Some(conversation) = wish.conversation {
            query = query.filter(inbox::conv_id.eq(conversation.as_bytes().to_vec()));
        }
        if wish.unprinted {
            query = query.filter(inbox::printed.eq(false));
        }
        if let Some(since) = wish.since {
            query = query.filter(inbox::received_at.ge(signed(since)));
        }
        let rows = query.load::<Row>(self.conn)?;
        rows.into_iter().map(|row| self.inbox_row(row)).collect()
    }

    /// The message was written out and flushed.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_printed(&mut self, indexes: &[u64]) -> Result<(), VaultError> {
        for indexes in indexes.chunks(MARKED_AT_ONCE) {
            let indexes = indexes.iter().copied().map(signed);
            diesel::update(inbox::table.filter(inbox::sth_index.eq_any(indexes)))
                .set(inbox::printed.eq(true))
                .execute(self.conn)?;
        }
        Ok(())
    }

    pub(super) fn inbox_row(&self, row: Row) -> Result<InboxRow, VaultError> {
        let (
            index,
            conv,
            id,
            account,
            device,
            handle,
            kind,
            reason,
            envelope,
            sealed,
            sent,
            at,
            _,
            v,
            recipient,
            event,
        ) = row;
        let corrupt = |what| VaultError::Corrupt { table: "inbox", what };
        let text = sealed
            .map(|s| self.sealer.open_text(&cell(&index.to_be_bytes(), v), &s))
            .transpose()?;
        let account = account.map(|bytes| array("inbox", &bytes)).transpose()?;
        let envelope = envelope.map(|bytes| array("inbox", &bytes)).transpose()?;
        let handle = handle.map(|h| Handle::parse(&h)).transpose();
        let recipient = recipient.map(|h| Handle::parse(&h)).transpose();
        Ok(InboxRow {
            sth_index: unsigned("inbox", index)?,
            conversation: ConversationId::from_bytes(array("inbox", &conv)?),
            msg_id: MsgId::parse(&id).map_err(|_| corrupt("a message id"))?,
            sender: account.map(AccountId::from_bytes),
            sender_device: DeviceId::parse(&device).map_err(|_| corrupt("a device id"))?,
            sender_handle: handle.map_err(|_| corrupt("a handle"))?,
            kind: match (kind.as_str(), reason) {
                ("text", None) => InboxKind::Text,
                ("unsupported", Some(reason)) => InboxKind::Unsupported { reason },
                ("undecryptable", Some(reason)) => InboxKind::Undecryptable { reason },
                ("deleted", None) => InboxKind::Deleted,
                ("control", None) => InboxKind::Control,
                _ => return Err(corrupt("a kind")),
            },
            envelope: envelope.map(EnvelopeHash::from_bytes),
            text,
            sent_at: sent,
            received_at: unsigned("inbox", at)?,
            recipient: recipient.map_err(|_| corrupt("a handle"))?,
            event: event.as_deref().map(SessionNote::parse).transpose()?,
        })
    }
}

fn cell(index: &[u8; 8], version: i64) -> Cell<'_> {
    Cell { table: "inbox", column: "text", row: index, version }
}
