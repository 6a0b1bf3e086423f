//! Accounts that a person named for a handle.

use diesel::prelude::*;
use nexo_schema::ids::Handle;

use super::schema::pins;
use super::{Tx, VaultError, array, signed};
use crate::e2ee::AccountId;

impl Tx<'_> {
    /// The account that a person named for a handle.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn named_account(&mut self, handle: &Handle) -> Result<Option<AccountId>, VaultError> {
        let found: Option<Vec<u8>> = pins::table
            .find(handle.as_str())
            .select(pins::account_id)
            .first(self.conn)
            .optional()?;
        found.map(|id| Ok(AccountId::from_bytes(array("pins", &id)?))).transpose()
    }

    /// Remembers which account a person named for a handle, in the place of an earlier one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn name_account(
        &mut self,
        handle: &Handle,
        account: AccountId,
        now: u64,
    ) -> Result<(), VaultError> {
        diesel::replace_into(pins::table)
            .values((
                pins::handle.eq(handle.as_str()),
                pins::account_id.eq(&account.as_bytes()[..]),
                pins::pinned_at.eq(signed(now)),
            ))
            .execute(self.conn)?;
        Ok(())
    }

    /// Forgets it; `false` if there was none.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn unname_account(&mut self, handle: &Handle) -> Result<bool, VaultError> {
        let gone = diesel::delete(pins::table.find(handle.as_str())).execute(self.conn)?;
        Ok(gone > 0)
    }

    /// Every named account, by handle.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn named_accounts(&mut self) -> Result<Vec<(Handle, AccountId)>, VaultError> {
        let rows: Vec<(String, Vec<u8>)> = pins::table
            .select((pins::handle, pins::account_id))
            .order(pins::handle.asc())
            .load(self.conn)?;
        rows.iter()
            .map(|(handle, id)| {
                let corrupt = |_| VaultError::Corrupt { table: "pins", what: "a handle" };
                let handle = Handle::parse(handle).map_err(corrupt)?;
                Ok((handle, AccountId::from_bytes(array("pins", id)?)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Vault;

    #[tokio::test]
    async fn the_last_word_counts() {
        let vault = Vault::in_memory().unwrap();
        let bob = Handle::parse("bob").unwrap();
        let account = |byte| AccountId::from_bytes([byte; 32]);
        for byte in [1, 2] {
            vault.write(|tx| tx.name_account(&bob, account(byte), 1)).await.unwrap();
        }
        assert_eq!(vault.read(|tx| tx.named_account(&bob)).unwrap(), Some(account(2)));
        assert_eq!(vault.read(|tx| tx.named_accounts()).unwrap(), [(bob.clone(), account(2))]);
        assert!(vault.write(|tx| tx.unname_account(&bob)).await.unwrap());
        assert!(!vault.write(|tx| tx.unname_account(&bob)).await.unwrap());
        assert_eq!(vault.read(|tx| tx.named_account(&bob)).unwrap(), None);
    }
}
