//! Where a state lives, and how it goes on when it was moved there or put back.
//!
//! A copied directory is a second device with the same keys and counters; both would use one
//! message key twice. So a state knows its machine and its file, and refuses to be opened as
//! another one. A copy that replaces a lost original is adopted by a person's word: then its
//! counters are set beyond all that the original can have used.

use super::{Tx, VaultError};
use crate::e2ee::DeviceId;

/// Numbers for each second; the relay's window is 4,096.
const LEAP: u64 = 1 << 20;

impl Tx<'_> {
    /// Compares the place with the one this state knows; the first one is taken.
    ///
    /// # Errors
    /// [`VaultError::Copied`].
    pub(super) fn check_place(&mut self, place: &[u8; 32]) -> Result<(), VaultError> {
        match self.meta("place")? {
            Some(known) if known == place => Ok(()),
            Some(_) => Err(VaultError::Copied),
            None => self.set_meta("place", place),
        }
    }

    /// Takes the place for this state's own.
    pub(super) fn set_place(&mut self, place: &[u8; 32]) -> Result<(), VaultError> {
        self.set_meta("place", place)
    }

    /// Sets the send counter beyond everything that a lost original can have used, by more than
    /// the relay looks back: it counts messages, and the clock (`now`, Unix seconds) goes up by
    /// 2^20 a second here. Prekeys are compared with the relay's at once.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn leap(&mut self, now: u64) -> Result<(), VaultError> {
        let dseq = self.counter("dseq")?;
        // Also when it leapt before, and the clock has gone back since.
        let beyond = now.min(u64::from(u32::MAX)) * LEAP;
        self.set_counter("dseq", beyond.max(dseq.saturating_add(LEAP)))?;
        self.set_prekeys_checked_at(0)
    }

    /// Takes over what an export says beside the identity.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn know_own_devices(&mut self, devices: &[DeviceId], now: u64) -> Result<(), VaultError> {
        devices.iter().try_for_each(|device| self.know_own_device(*device, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::ConversationId;
    use crate::vault::Vault;

    #[tokio::test]
    async fn h3_a_state_knows_its_place() {
        let vault = Vault::in_memory().unwrap();
        let check = |place: u8| {
            let vault = &vault;
            async move { vault.write(|tx| tx.check_place(&[place; 32])).await }
        };
        check(1).await.unwrap();
        check(1).await.unwrap();
        assert!(matches!(check(2).await, Err(VaultError::Copied)));
        vault.write(|tx| tx.set_place(&[2; 32])).await.unwrap();
        check(2).await.unwrap();
    }

    #[tokio::test]
    async fn a_leap_is_beyond_what_was_counted() {
        let vault = Vault::in_memory().unwrap();
        let next = || async {
            let taken = vault.write(|tx| tx.take_counters(ConversationId::from_bytes([1; 32])));
            taken.await.unwrap().dseq
        };
        assert_eq!(next().await, 1);
        vault.write(|tx| tx.leap(1_800_000_000)).await.unwrap();
        assert_eq!(next().await, 1_800_000_000 * LEAP + 1);
        vault.write(|tx| tx.leap(5)).await.unwrap();
        assert!(next().await > 1_800_000_000 * LEAP + LEAP, "a clock that went back is no help");
        vault.write(|tx| tx.leap(u64::MAX)).await.unwrap();
        assert!(next().await < 1 << 53, "readers of JSON can count so far");
    }
}
