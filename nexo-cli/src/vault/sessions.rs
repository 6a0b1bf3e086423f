//! Sessions with other devices: one sealed row each, and one for each device with what belongs
//! to no session of its own (e2ee 2.9, 2.14).
//!
//! What is read here is used and written back within one transaction, never kept beyond it:
//! another process may have used up the next message key meanwhile.

use diesel::prelude::*;
use zeroize::Zeroizing;

use super::schema::{answers, kept, pairs, sessions, skipped};
use super::sealed::Cell;
use super::{Tx, VaultError, array};
use crate::e2ee::session_state::StateRefused;
use crate::e2ee::{AccountId, DeviceId, Peer, Session, SessionId, Sessions};

impl Tx<'_> {
    /// The sessions with a device; none if there never were any.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn sessions(&mut self, peer: Peer) -> Result<Sessions, VaultError> {
        let device = peer.device.as_bytes();
        let pair: Option<(Vec<u8>, i64)> = pairs::table
            .find(&device[..])
            .select((pairs::sealed_state, pairs::version))
            .first(self.conn)
            .optional()?;
        let pair = pair
            .map(|(sealed, version)| self.sealer.open(&pair_cell(device, version), &sealed))
            .transpose()?;
        let rows: Vec<(Vec<u8>, Vec<u8>, i64)> = sessions::table
            .filter(sessions::device_id.eq(&device[..]))
            .select((sessions::session_id, sessions::sealed_state, sessions::version))
            .load(self.conn)?;
        let mut held = Vec::with_capacity(rows.len());
        for (id, sealed, version) in rows {
            let id = SessionId::from_bytes(array("sessions", &id)?);
            let state = self.sealer.open(&session_cell(&row(peer.device, id), version), &sealed)?;
            held.push(Session::from_bytes(&state).map_err(damaged)?);
        }
        let pair = pair.as_ref().map(|bytes: &Zeroizing<Vec<u8>>| &bytes[..]);
        Sessions::restore(peer, pair, held).map_err(damaged)
    }

    /// Writes what the sessions with a device have become since this transaction read them.
    /// Skipped keys of sessions that are gone go with them.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_sessions(
        &mut self,
        peer: Peer,
        before: &Sessions,
        after: &Sessions,
    ) -> Result<(), VaultError> {
        let writes = after.writes_since(before);
        for session in &writes.put {
            self.put_session(peer, session)?;
        }
        for id in &writes.delete {
            let gone = (&peer.device.as_bytes()[..], &id.as_bytes()[..]);
            diesel::delete(sessions::table.find(gone)).execute(self.conn)?;
            diesel::delete(skipped::table.filter(skipped::session_id.eq(&id.as_bytes()[..])))
                .execute(self.conn)?;
        }
        match writes.pair {
            Some(pair) => self.put_pair(peer, after, &pair),
            None => Ok(()),
        }
    }

    /// Ends every session: another copy of this state may go on with them, and no key may be
    /// used twice. What is kept to be sent again goes, too.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn forget_sessions(&mut self) -> Result<(), VaultError> {
        diesel::delete(sessions::table).execute(self.conn)?;
        diesel::delete(pairs::table).execute(self.conn)?;
        diesel::delete(skipped::table).execute(self.conn)?;
        diesel::delete(answers::table).execute(self.conn)?;
        diesel::delete(kept::table).execute(self.conn)?;
        Ok(())
    }

    fn put_session(&mut self, peer: Peer, session: &Session) -> Result<(), VaultError> {
        let (device, id) = (peer.device.as_bytes(), session.id());
        let old: Option<i64> = sessions::table
            .find((&device[..], &id.as_bytes()[..]))
            .select(sessions::version)
            .first(self.conn)
            .optional()?;
        let version = old.unwrap_or(0).saturating_add(1);
        let cell_row = row(peer.device, id);
        let sealed = self.sealer.seal(&session_cell(&cell_row, version), &session.to_bytes())?;
        diesel::replace_into(sessions::table)
            .values((
                sessions::device_id.eq(&device[..]),
                sessions::session_id.eq(&id.as_bytes()[..]),
                sessions::account_id.eq(&peer.account.as_bytes()[..]),
                sessions::sealed_state.eq(sealed),
                sessions::version.eq(version),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    fn put_pair(&mut self, peer: Peer, after: &Sessions, pair: &[u8]) -> Result<(), VaultError> {
        let device = peer.device.as_bytes();
        let old: Option<i64> =
            pairs::table.find(&device[..]).select(pairs::version).first(self.conn).optional()?;
        let version = old.unwrap_or(0).saturating_add(1);
        let sealed = self.sealer.seal(&pair_cell(device, version), pair)?;
        diesel::replace_into(pairs::table)
            .values((
                pairs::device_id.eq(&device[..]),
                pairs::account_id.eq(&peer.account.as_bytes()[..]),
                // At the end of time every answer that is owed is due.
                pairs::owes.eq(after.heartbeat_due(u64::MAX)),
                pairs::sealed_state.eq(sealed),
                pairs::version.eq(version),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// The devices whose content waits for an answer, due or not.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn waiting_peers(&mut self) -> Result<Vec<Peer>, VaultError> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = pairs::table
            .filter(pairs::owes.eq(true))
            .select((pairs::account_id, pairs::device_id))
            .load(self.conn)?;
        let peer = |(account, device): (Vec<u8>, Vec<u8>)| {
            Ok(Peer {
                account: AccountId::from_bytes(array("pairs", &account)?),
                device: DeviceId::from_bytes(array("pairs", &device)?),
            })
        };
        rows.into_iter().map(peer).collect()
    }
}

/// What a session's row is called in its seal.
fn row(device: DeviceId, session: SessionId) -> Vec<u8> {
    [&device.as_bytes()[..], session.as_bytes()].concat()
}

fn session_cell(row: &[u8], version: i64) -> Cell<'_> {
    Cell { table: "sessions", column: "state", row, version }
}

fn pair_cell(device: &[u8; 32], version: i64) -> Cell<'_> {
    Cell { table: "pairs", column: "state", row: device, version }
}

fn damaged(_: StateRefused) -> VaultError {
    VaultError::Corrupt { table: "sessions", what: "a state" }
}

#[cfg(test)]
mod tests {
    use super::super::session_tests::{NOW, Talker};
    use super::super::{Vault, VaultError};
    use diesel::prelude::*;

    #[tokio::test]
    async fn a_session_is_read_back_as_it_was_written_and_goes_with_its_keys() {
        let vault = Vault::in_memory().unwrap();
        let mut alice = Talker::new(1);
        let bob = Talker::new(2);
        let empty = vault.read(|tx| tx.sessions(bob.peer())).unwrap();
        assert!(empty.held().is_empty());
        let after = alice.sessions_after_writing_to(&bob, &empty);
        vault.write(|tx| tx.put_sessions(bob.peer(), &empty, &after)).await.unwrap();
        let read = vault.read(|tx| tx.sessions(bob.peer())).unwrap();
        assert!(read.writes_since(&after).put.is_empty(), "the same state");
        assert_eq!(read.active().unwrap().id(), after.active().unwrap().id());
        let others = vault.read(|tx| tx.sessions(Talker::new(3).peer())).unwrap();
        assert!(others.held().is_empty(), "of another device there are none");

        let id = after.active().unwrap().id();
        vault.write(|tx| tx.change_skipped(id, &Talker::skipped(3), NOW)).await.unwrap();
        assert_eq!(vault.read(|tx| tx.skipped(id)).unwrap().len(), 3);
        let gone = after.forgotten();
        vault.write(|tx| tx.put_sessions(bob.peer(), &after, &gone)).await.unwrap();
        assert!(vault.read(|tx| tx.sessions(bob.peer())).unwrap().held().is_empty());
        assert!(vault.read(|tx| tx.skipped(id)).unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_older_state_does_not_pass_for_the_newer_one() {
        let vault = Vault::in_memory().unwrap();
        let mut alice = Talker::new(1);
        let bob = Talker::new(2);
        let none = vault.read(|tx| tx.sessions(bob.peer())).unwrap();
        let first = alice.sessions_after_writing_to(&bob, &none);
        vault.write(|tx| tx.put_sessions(bob.peer(), &none, &first)).await.unwrap();
        let old: Vec<u8> = {
            use super::super::schema::sessions::dsl;
            let mut conn = vault.conn.borrow_mut();
            dsl::sessions.select(dsl::sealed_state).first(&mut *conn).unwrap()
        };
        let second = alice.sessions_after_writing_to(&bob, &first);
        vault.write(|tx| tx.put_sessions(bob.peer(), &first, &second)).await.unwrap();
        {
            use super::super::schema::sessions::dsl;
            let mut conn = vault.conn.borrow_mut();
            diesel::update(dsl::sessions)
                .set(dsl::sealed_state.eq(old))
                .execute(&mut *conn)
                .unwrap();
        }
        let refused = vault.read(|tx| tx.sessions(bob.peer()));
        assert!(matches!(refused, Err(VaultError::Corrupt { table: "sessions", .. })));
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_is_found_without_opening_anything() {
        let vault = Vault::in_memory().unwrap();
        let (mut alice, bob) = (Talker::new(1), Talker::new(2));
        let none = vault.read(|tx| tx.sessions(alice.peer())).unwrap();
        let heard = bob.sessions_after_hearing(&mut alice, &none);
        vault.write(|tx| tx.put_sessions(alice.peer(), &none, &heard)).await.unwrap();
        assert_eq!(vault.read(|tx| tx.waiting_peers()).unwrap(), [alice.peer()]);
        let mut bob = bob;
        let answered = bob.sessions_after_writing_to(&alice, &heard);
        vault.write(|tx| tx.put_sessions(alice.peer(), &heard, &answered)).await.unwrap();
        assert!(vault.read(|tx| tx.waiting_peers()).unwrap().is_empty());
    }
}
