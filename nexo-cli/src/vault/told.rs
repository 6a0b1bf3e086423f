//! What accounts say of their own chains in their messages, while the relay does not show it.

use super::{Tx, VaultError, array};
use crate::e2ee::AccountId;

/// An event of its own chain that an account named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Its number in the chain, from 0.
    pub seq: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

const PARTS: usize = 40;

impl Tx<'_> {
    /// What an account said last; `None` if the relay shows as much.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn told(&mut self, account: AccountId) -> Result<Option<Told>, VaultError> {
        let Some(bytes) = self.meta(&name(account))? else { return Ok(None) };
        let bytes: [u8; PARTS] = array("meta", &bytes)?;
        let (mut seq, mut hash) = ([0; 8], [0; 32]);
        seq.copy_from_slice(&bytes[..8]);
        hash.copy_from_slice(&bytes[8..]);
        Ok(Some(Told { seq: u64::from_be_bytes(seq), hash }))
    }

    /// Keeps what an account said. Of two words the one about the later event stays: messages come
    /// in any order.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn set_told(&mut self, account: AccountId, told: Told) -> Result<(), VaultError> {
        if self.told(account)?.is_some_and(|before| before.seq >= told.seq) {
            return Ok(());
        }
        self.set_meta(&name(account), &[&told.seq.to_be_bytes()[..], &told.hash].concat())
    }

    /// The relay shows what the account said.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn forget_told(&mut self, account: AccountId) -> Result<(), VaultError> {
        self.drop_meta(&name(account))
    }
}

fn name(account: AccountId) -> String {
    format!("told {account}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Vault;

    #[tokio::test]
    async fn the_latest_event_stays_until_it_is_shown() {
        let vault = Vault::in_memory().unwrap();
        let [bob, carol] = [2, 3].map(|n| AccountId::from_bytes([n; 32]));
        let told = |seq| Told { seq, hash: [7; 32] };
        let say = |of, seq| {
            let vault = &vault;
            async move { vault.write(|tx| tx.set_told(of, told(seq))).await.unwrap() }
        };
        let heard = |of| vault.read(|tx| tx.told(of)).unwrap();
        assert_eq!(heard(bob), None);
        say(bob, 2).await;
        say(bob, 5).await;
        say(bob, 4).await;
        say(carol, u64::MAX).await;
        assert_eq!((heard(bob), heard(carol)), (Some(told(5)), Some(told(u64::MAX))));
        vault.write(|tx| tx.forget_told(bob)).await.unwrap();
        assert_eq!((heard(bob), heard(carol)), (None, Some(told(u64::MAX))));
    }
}
