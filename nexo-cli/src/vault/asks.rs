//! Retries (e2ee 2.14), from both ends: messages that did not open here and are asked for, and
//! messages of this device that others ask for.

use diesel::prelude::*;
use nexo_schema::ids::MsgId;

use super::inbox::{InboxKind, InboxRow, NewInbox, Row};
use super::schema::{answers, asks, inbox};
use super::{Tx, VaultError, array, signed, unsigned};
use crate::e2ee::{AccountId, DeviceId, Peer, SessionId};

/// How far the asking for a message that did not open has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Times.
    pub times: u8,
    /// The last time, Unix seconds; `None` before the first.
    pub at: Option<u64>,
    /// The session that the message came in.
    pub session: Option<SessionId>,
}

/// A retry that somebody asked this device for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The message, of this device.
    pub msg_id: MsgId,
    /// Who asked.
    pub to: Peer,
    /// The new packet, once it is sealed.
    pub packet: Option<Vec<u8>>,
}

type AskRow = (i64, i64, Option<i64>, Option<Vec<u8>>);

type AnswerRow = (String, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

impl Tx<'_> {
    /// The message at `index`, which did not open, may be asked for.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_ask(&mut self, index: u64, asked: &Asked) -> Result<(), VaultError> {
        diesel::replace_into(asks::table)
            .values((
                asks::sth_index.eq(signed(index)),
                asks::times.eq(i64::from(asked.times)),
                asks::asked_at.eq(asked.at.map(signed)),
                asks::session_id.eq(asked.session.map(|id| id.as_bytes().to_vec())),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// The message at `index` is not asked for any more; `false` if it was not.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn drop_ask(&mut self, index: u64) -> Result<bool, VaultError> {
        Ok(diesel::delete(asks::table.find(signed(index))).execute(self.conn)? == 1)
    }

    /// Messages that are asked for, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn asks(&mut self, limit: i64) -> Result<Vec<(InboxRow, Asked)>, VaultError> {
        let rows: Vec<AskRow> = asks::table.order(asks::sth_index).limit(limit).load(self.conn)?;
        let mut found = Vec::with_capacity(rows.len());
        for (index, times, at, session) in rows {
            let row = inbox::table.find(index).first::<Row>(self.conn).optional()?;
            let Some(row) = row else { continue };
            let times = u8::try_from(times)
                .map_err(|_| VaultError::Corrupt { table: "asks", what: "a count" })?;
            let session = session.map(|id| array("asks", &id)).transpose()?;
            let asked = Asked {
                times,
                at: at.map(|at| unsigned("asks", at)).transpose()?,
                session: session.map(SessionId::from_bytes),
            };
            found.push((self.inbox_row(row)?, asked));
        }
        Ok(found)
    }

    /// Puts a message that has opened after all into the place of the one that had not, to be
    /// printed. Only while it is asked for: `false` if another process has put it there, or its
    /// author has deleted it.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn replace_asked(&mut self, opened: &NewInbox) -> Result<bool, VaultError> {
        let (unread, _) = InboxKind::Undecryptable { reason: String::new() }.columns();
        let row = inbox::table.find(signed(opened.sth_index)).filter(inbox::kind.eq(unread));
        if !self.drop_ask(opened.sth_index)? || diesel::delete(row).execute(self.conn)? == 0 {
            return Ok(false);
        }
        self.put_inbox(opened)?;
        Ok(true)
    }

    /// Somebody asks for a message of this device. Asking again begins anew.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_answer(&mut self, answer: &Answer, now: u64) -> Result<(), VaultError> {
        diesel::replace_into(answers::table)
            .values((
                answers::msg_id.eq(answer.msg_id.as_str()),
                answers::device_id.eq(&answer.to.device.as_bytes()[..]),
                answers::account_id.eq(&answer.to.account.as_bytes()[..]),
                answers::packet.eq(answer.packet.as_deref()),
                answers::asked_at.eq(signed(now)),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// The relay has the packet, or there will be none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn drop_answer(&mut self, msg_id: &MsgId, device: DeviceId) -> Result<(), VaultError> {
        let row = answers::table.find((msg_id.as_str(), &device.as_bytes()[..]));
        diesel::delete(row).execute(self.conn)?;
        Ok(())
    }

    /// What others asked for, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn answers(&mut self, limit: i64) -> Result<Vec<Answer>, VaultError> {
        let rows: Vec<AnswerRow> = answers::table
            .order(answers::asked_at)
            .limit(limit)
            .select((answers::msg_id, answers::device_id, answers::account_id, answers::packet))
            .load(self.conn)?;
        let read = |(id, device, account, packet): AnswerRow| {
            let to = Peer {
                account: AccountId::from_bytes(array("answers", &account)?),
                device: DeviceId::from_bytes(array("answers", &device)?),
            };
            let msg_id = MsgId::parse(&id)
                .map_err(|_| VaultError::Corrupt { table: "answers", what: "a message id" })?;
            Ok(Answer { msg_id, to, packet })
        };
        rows.into_iter().map(read).collect()
    }
}
