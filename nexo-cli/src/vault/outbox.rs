//! What this device sent, or is about to send.

use diesel::prelude::*;
use nexo_schema::ids::{Handle, MsgId};
use zeroize::Zeroizing;

use super::schema::outbox;
use super::sealed::Cell;
use super::{Tx, VaultError, array, signed, unsigned};
use crate::e2ee::{AccountId, ConversationId, EnvelopeHash};

/// How far a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxState {
    /// Stored; the relay may or may not have it.
    Unsent,
    /// Its receipt was verified.
    Sent {
        /// Position in the log, from 1.
        sth_index: u64,
    },
    /// Deleted for everyone; the text is gone.
    Deleted {
        /// Position the message had.
        sth_index: u64,
    },
}

/// The numbers a new message gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Of the device.
    pub dseq: u64,
    /// Of the device's messages in this conversation.
    pub cseq: u64,
    /// The device's message before in this conversation.
    pub prev: Option<MsgId>,
}

/// A message to be stored before it is sent.
#[derive(Debug, Clone, Copy)]
pub struct NewOutbox<'a> {
    /// Its id.
    pub msg_id: &'a MsgId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Who it is for.
    pub peer: AccountId,
    /// Their handle.
    pub peer_handle: &'a Handle,
    /// `None` for a stateless device.
    pub dseq: Option<u64>,
    /// See [`Counters`].
    pub cseq: u64,
    /// The envelope hash.
    pub envelope: EnvelopeHash,
    /// The exact bytes of the request.
    pub request: &'a [u8],
    /// The text, or what stands in its place in a control message.
    pub text: &'a str,
    /// Whether it is a message of the protocol itself, which nobody reads.
    pub control: bool,
    /// Now, Unix seconds.
    pub created_at: u64,
}

/// A message as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its id.
    pub msg_id: MsgId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Who it is for.
    pub peer: AccountId,
    /// Their handle.
    pub peer_handle: Handle,
    /// See [`NewOutbox::dseq`].
    pub dseq: Option<u64>,
    /// See [`Counters`].
    pub cseq: u64,
    /// The envelope hash.
    pub envelope: EnvelopeHash,
    /// The exact bytes of the request.
    pub request: Vec<u8>,
    /// `None` once deleted.
    pub text: Option<Zeroizing<String>>,
    /// Unix seconds.
    pub created_at: u64,
    /// How far it got.
    pub state: OutboxState,
    /// See [`NewOutbox::control`].
    pub control: bool,
}

type Row = (
    String,
    Vec<u8>,
    Vec<u8>,
    String,
    Option<i64>,
    i64,
    Vec<u8>,
    Vec<u8>,
    Option<Vec<u8>>,
    i64,
    String,
    Option<i64>,
    i64,
    bool,
);

impl Tx<'_> {
    /// Takes the next send counters. Numbers taken in a transaction that commits are never
    /// given out again, sent or not.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn take_counters(&mut self, conversation: ConversationId) -> Result<Counters, VaultError> {
        let dseq = self.counter("dseq")? + 1;
        self.set_counter("dseq", dseq)?;
        let last: Option<(i64, String)> = outbox::table
            .filter(outbox::conv_id.eq(&conversation.as_bytes()[..]))
            .order(outbox::cseq.desc())
            .select((outbox::cseq, outbox::msg_id))
            .first(self.conn)
            .optional()?;
        let (cseq, prev) = match last {
            Some((cseq, id)) => (unsigned("outbox", cseq)? + 1, Some(message_id(&id)?)),
            None => (1, None),
        };
        Ok(Counters { dseq, cseq, prev })
    }

    /// Stores a message, in the same transaction as its counters.
    ///
    /// # Errors
    /// [`VaultError`], also if the id is taken.
    pub fn put_outbox(&mut self, new: &NewOutbox<'_>) -> Result<(), VaultError> {
        let sealed = self.sealer.seal(&cell(new.msg_id.as_str(), 1), new.text.as_bytes())?;
        diesel::insert_into(outbox::table)
            .values((
                outbox::msg_id.eq(new.msg_id.as_str()),
                outbox::conv_id.eq(&new.conversation.as_bytes()[..]),
                outbox::peer_account.eq(&new.peer.as_bytes()[..]),
                outbox::peer_handle.eq(new.peer_handle.as_str()),
                outbox::dseq.eq(new.dseq.map(signed)),
                outbox::cseq.eq(signed(new.cseq)),
                outbox::envelope.eq(&new.envelope.as_bytes()[..]),
                outbox::request.eq(new.request),
                outbox::sealed_text.eq(Some(sealed)),
                outbox::created_at.eq(signed(new.created_at)),
                outbox::state.eq("unsent"),
                outbox::control.eq(new.control),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Puts a new envelope into an unsent row, under the same id and counters: for a message
    /// that the relay refused because the recipients' devices had changed. Only if the row
    /// still holds the envelope `refused`: another process may have put one there already.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn reseal_outbox(
        &mut self,
        msg_id: &MsgId,
        refused: EnvelopeHash,
        envelope: EnvelopeHash,
        request: &[u8],
    ) -> Result<(), VaultError> {
        let row = outbox::table
            .find(msg_id.as_str())
            .filter(outbox::state.eq("unsent"))
            .filter(outbox::envelope.eq(&refused.as_bytes()[..]));
        diesel::update(row)
            .set((outbox::envelope.eq(&envelope.as_bytes()[..]), outbox::request.eq(request)))
            .execute(self.conn)?;
        Ok(())
    }

    /// A message by its id.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn outbox(&mut self, msg_id: &MsgId) -> Result<Option<OutboxRow>, VaultError> {
        let row = outbox::table.find(msg_id.as_str()).first::<Row>(self.conn).optional()?;
        row.map(|row| self.outbox_row(row)).transpose()
    }

    /// Messages of the protocol itself that the relay has not acknowledged, oldest first, at most
    /// `limit`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn unsent_controls(&mut self, limit: i64) -> Result<Vec<OutboxRow>, VaultError> {
        let rows = outbox::table
            .filter(outbox::control.eq(true).and(outbox::state.eq("unsent")))
            .order((outbox::created_at, outbox::dseq))
            .limit(limit)
            .load::<Row>(self.conn)?;
        rows.into_iter().map(|row| self.outbox_row(row)).collect()
    }

    /// Messages of people to one peer or to all, oldest first.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn outbox_rows(&mut self, peer: Option<AccountId>) -> Result<Vec<OutboxRow>, VaultError> {
        let mut query = outbox::table
            .filter(outbox::control.eq(false))
            .order((outbox::created_at, outbox::dseq))
            .into_boxed();
        if let Some(peer) = peer {
            query = query.filter(outbox::peer_account.eq(peer.as_bytes().to_vec()));
        }
        let rows = query.load::<Row>(self.conn)?;
        rows.into_iter().map(|row| self.outbox_row(row)).collect()
    }

    /// The receipt was verified. A message that was deleted meanwhile stays so.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_sent(&mut self, msg_id: &MsgId, sth_index: u64) -> Result<(), VaultError> {
        diesel::update(outbox::table.find(msg_id.as_str()).filter(outbox::state.eq("unsent")))
            .set((outbox::state.eq("sent"), outbox::sth_index.eq(Some(signed(sth_index)))))
            .execute(self.conn)?;
        Ok(())
    }

    /// Wipes the text and the request of a message that was sent, and what would answer retries of
    /// it; the marker stays.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn wipe_outbox(&mut self, msg_id: &MsgId) -> Result<bool, VaultError> {
        let changed =
            diesel::update(outbox::table.find(msg_id.as_str()).filter(outbox::state.eq("sent")))
                .set((
                    outbox::state.eq("deleted"),
                    outbox::sealed_text.eq(None::<Vec<u8>>),
                    outbox::request.eq(Vec::new()),
                ))
                .execute(self.conn)?;
        if changed == 1 {
            self.delete_kept(msg_id)?;
        }
        Ok(changed == 1)
    }

    fn outbox_row(&self, row: Row) -> Result<OutboxRow, VaultError> {
        let (
            id,
            conv,
            peer,
            handle,
            dseq,
            cseq,
            envelope,
            request,
            sealed,
            at,
            state,
            index,
            v,
            control,
        ) = row;
        let corrupt = |what| VaultError::Corrupt { table: "outbox", what };
        let text = sealed.map(|s| self.sealer.open_text(&cell(&id, v), &s)).transpose()?;
        let index = index.map(|i| unsigned("outbox", i)).transpose()?;
        let state = match (state.as_str(), index) {
            ("unsent", None) => OutboxState::Unsent,
            ("sent", Some(sth_index)) => OutboxState::Sent { sth_index },
            ("deleted", Some(sth_index)) => OutboxState::Deleted { sth_index },
            _ => return Err(corrupt("a state")),
        };
        Ok(OutboxRow {
            msg_id: message_id(&id)?,
            conversation: ConversationId::from_bytes(array("outbox", &conv)?),
            peer: AccountId::from_bytes(array("outbox", &peer)?),
            peer_handle: Handle::parse(&handle).map_err(|_| corrupt("a handle"))?,
            dseq: dseq.map(|n| unsigned("outbox", n)).transpose()?,
            cseq: unsigned("outbox", cseq)?,
            envelope: EnvelopeHash::from_bytes(array("outbox", &envelope)?),
            request,
            text,
            created_at: unsigned("outbox", at)?,
            state,
            control,
        })
    }
}

fn cell(msg_id: &str, version: i64) -> Cell<'_> {
    Cell { table: "outbox", column: "text", row: msg_id.as_bytes(), version }
}

fn message_id(text: &str) -> Result<MsgId, VaultError> {
    MsgId::parse(text).map_err(|_| VaultError::Corrupt { table: "outbox", what: "a message id" })
}
