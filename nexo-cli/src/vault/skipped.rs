//! Message keys that were passed over, one sealed row each (e2ee 2.9), and what is kept of sent
//! messages to answer retries (2.14).

use diesel::prelude::*;
use nexo_schema::ids::MsgId;

use super::schema::{kept, skipped};
use super::sealed::Cell;
use super::{Tx, VaultError, signed};
use crate::e2ee::resend::{KEPT_FOR, KeptMessage};
use crate::e2ee::skipped::{SKIPPED_TTL, SkippedChange, SkippedKey};
use crate::e2ee::{SessionId, SkippedKeys};

impl Tx<'_> {
    /// The skipped keys of a session.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn skipped(&mut self, session: SessionId) -> Result<SkippedKeys, VaultError> {
        let corrupt = |_| VaultError::Corrupt { table: "skipped", what: "a key" };
        let rows: Vec<(i64, Vec<u8>)> = skipped::table
            .filter(skipped::session_id.eq(&session.as_bytes()[..]))
            .select((skipped::serial, skipped::sealed_key))
            .load(self.conn)?;
        let mut keys = Vec::with_capacity(rows.len());
        for (serial, sealed) in rows {
            let key = self.sealer.open(&key_cell(&key_row(session, serial)), &sealed)?;
            keys.push(SkippedKey::from_bytes(&key).map_err(corrupt)?);
        }
        SkippedKeys::restore(keys).map_err(corrupt)
    }

    /// Does to the rows of a session what an opened message asks for; `now` in Unix seconds.
    ///
    /// # Errors
    /// [`VaultError`], also if a serial is taken.
    pub fn change_skipped(
        &mut self,
        session: SessionId,
        change: &SkippedChange,
        now: u64,
    ) -> Result<(), VaultError> {
        let of = &session.as_bytes()[..];
        let gone: Vec<i64> = change.delete.iter().copied().map(signed).collect();
        for gone in gone.chunks(500) {
            let rows = skipped::session_id.eq(of).and(skipped::serial.eq_any(gone));
            diesel::delete(skipped::table.filter(rows)).execute(self.conn)?;
        }
        for key in &change.put {
            let serial = signed(key.serial());
            let cell_row = key_row(session, serial);
            let sealed = self.sealer.seal(&key_cell(&cell_row), &key.to_bytes())?;
            diesel::insert_into(skipped::table)
                .values((
                    skipped::session_id.eq(of),
                    skipped::serial.eq(serial),
                    skipped::sealed_key.eq(sealed),
                    skipped::stored_at.eq(signed(now)),
                ))
                .execute(self.conn)?;
        }
        Ok(())
    }

    /// Keeps what answers retries of a message, in the place of what was kept before.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put_kept(
        &mut self,
        msg_id: &MsgId,
        message: &KeptMessage,
        now: u64,
    ) -> Result<(), VaultError> {
        let old: Option<(i64, i64)> = kept::table
            .find(msg_id.as_str())
            .select((kept::version, kept::sealed_at))
            .first(self.conn)
            .optional()?;
        let (version, sealed_at) =
            old.map_or((1, signed(now)), |(version, at)| (version.saturating_add(1), at));
        let sealed = self.sealer.seal(&kept_cell(msg_id.as_str(), version), &message.to_bytes())?;
        diesel::replace_into(kept::table)
            .values((
                kept::msg_id.eq(msg_id.as_str()),
                kept::sealed_state.eq(sealed),
                kept::sealed_at.eq(sealed_at),
                kept::version.eq(version),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// What was kept of a message, if it still is.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn kept(&mut self, msg_id: &MsgId) -> Result<Option<KeptMessage>, VaultError> {
        let row: Option<(Vec<u8>, i64)> = kept::table
            .find(msg_id.as_str())
            .select((kept::sealed_state, kept::version))
            .first(self.conn)
            .optional()?;
        let Some((sealed, version)) = row else { return Ok(None) };
        let bytes = self.sealer.open(&kept_cell(msg_id.as_str(), version), &sealed)?;
        let message = KeptMessage::from_bytes(&bytes);
        message.map(Some).map_err(|_| VaultError::Corrupt { table: "kept", what: "a state" })
    }

    /// A message that is gone needs no answers.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn delete_kept(&mut self, msg_id: &MsgId) -> Result<(), VaultError> {
        diesel::delete(kept::table.find(msg_id.as_str())).execute(self.conn)?;
        Ok(())
    }

    /// Deletes what has outlived its time: skipped keys after 30 days, what is kept for retries
    /// after 7; `now` in Unix seconds.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn wipe_old_keys(&mut self, now: u64) -> Result<(), VaultError> {
        let keys = skipped::stored_at.le(signed(now.saturating_sub(SKIPPED_TTL)));
        diesel::delete(skipped::table.filter(keys)).execute(self.conn)?;
        let messages = kept::sealed_at.le(signed(now.saturating_sub(KEPT_FOR)));
        diesel::delete(kept::table.filter(messages)).execute(self.conn)?;
        Ok(())
    }
}

/// What a skipped key's row is called in its seal.
fn key_row(session: SessionId, serial: i64) -> Vec<u8> {
    [&session.as_bytes()[..], &serial.to_be_bytes()].concat()
}

/// A serial is used once, so a row has one version.
fn key_cell(row: &[u8]) -> Cell<'_> {
    Cell { table: "skipped", column: "key", row, version: 1 }
}

fn kept_cell(msg_id: &str, version: i64) -> Cell<'_> {
    Cell { table: "kept", column: "state", row: msg_id.as_bytes(), version }
}

#[cfg(test)]
mod tests {
    use super::super::Vault;
    use super::super::session_tests::{NOW, Talker};
    use super::*;
    use crate::e2ee::SessionId;

    const SESSION: SessionId = SessionId::from_bytes([7; 16]);

    fn serials(vault: &Vault) -> Vec<u64> {
        let keys = vault.read(|tx| tx.skipped(SESSION)).unwrap();
        keys.iter().map(SkippedKey::serial).collect()
    }

    #[tokio::test]
    async fn skipped_keys_come_and_go_as_told_and_end_with_their_time() {
        let vault = Vault::in_memory().unwrap();
        vault.write(|tx| tx.change_skipped(SESSION, &Talker::skipped(3), NOW)).await.unwrap();
        assert_eq!(serials(&vault), [0, 1, 2]);
        let again = vault.write(|tx| tx.change_skipped(SESSION, &Talker::skipped(1), NOW)).await;
        assert!(again.is_err(), "a serial is used once");
        let used = SkippedChange { put: Vec::new(), delete: [1].into() };
        vault.write(|tx| tx.change_skipped(SESSION, &used, NOW)).await.unwrap();
        assert_eq!(serials(&vault), [0, 2]);
        vault.write(|tx| tx.wipe_old_keys(NOW + SKIPPED_TTL - 1)).await.unwrap();
        assert_eq!(serials(&vault), [0, 2]);
        vault.write(|tx| tx.wipe_old_keys(NOW + SKIPPED_TTL)).await.unwrap();
        assert!(serials(&vault).is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_for_retries_is_replaced_and_wiped_after_a_week() {
        let vault = Vault::in_memory().unwrap();
        let id = MsgId::parse("m1").unwrap();
        let message = Talker::new(1).kept_of_a_message_to(&Talker::new(2));
        vault.write(|tx| tx.put_kept(&id, &message, NOW)).await.unwrap();
        let later = message.acknowledged(Talker::new(2).peer().device);
        vault.write(|tx| tx.put_kept(&id, &later, NOW + KEPT_FOR - 1)).await.unwrap();
        let read = vault.read(|tx| tx.kept(&id)).unwrap().unwrap();
        assert_eq!(read.to_bytes(), later.to_bytes());
        vault.write(|tx| tx.wipe_old_keys(NOW + KEPT_FOR - 1)).await.unwrap();
        assert!(vault.read(|tx| tx.kept(&id)).unwrap().is_some());
        vault.write(|tx| tx.wipe_old_keys(NOW + KEPT_FOR)).await.unwrap();
        assert!(vault.read(|tx| tx.kept(&id)).unwrap().is_none(), "by when it was first sealed");
    }
}
