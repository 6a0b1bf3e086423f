//! A key to the state in the kernel's keyring, beside what the state is sealed under (feature
//! `keyring`, Linux).
//!
//! ```text
//! meta.wrap_keyring = as meta.wrap, kind 1, under a key of 32 random bytes
//! @u                  "nexo-cli:" and the state's instance, in hex: that key
//! ```
//!
//! It is a convenience, asked for by `state unlock` and taken back by `state lock`: the kernel
//! forgets it at the next start of the machine, or after a time, and then the passphrase or key
//! is needed as ever. So no home is lost with a keyring, and nothing here waits for anybody.
//! Whoever runs as the same user can ask the kernel for it, as they could read a key file.

use std::num::NonZeroU32;

use linux_keyutils::{
    Key, KeyError, KeyPermissionsBuilder, KeyRing, KeyRingIdentifier, Permission,
};
use nexo_schema::bytes::to_hex;
use zeroize::Zeroizing;

use super::access::Locked;
use super::sealed::{StateKey, StateKeyError};
use super::wrap::{Protection, Wrap};
use super::{Vault, VaultError, meta_of, set_meta_of};
use diesel::sqlite::SqliteConnection;

const SLOT: &str = "wrap_keyring";

impl Vault {
    /// Puts a new key to the state into the keyring, for so many seconds or until the machine is
    /// started again. The keyring is tried first: what it does not give back opens nothing.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn unlock(&self, seconds: Option<NonZeroU32>) -> Result<(), VaultError> {
        let name = self.read(|tx| name(tx.conn))?;
        let kek = StateKey::ephemeral()?;
        put(&name, &kek, seconds).map_err(broken)?;
        let back = get(&name).map_err(broken)?;
        if back.is_none_or(|back| back.bytes() != kek.bytes()) {
            return Err(StateKeyError::Keyring("it does not keep what it is given".into()).into());
        }
        let wrap = Wrap::seal(Protection::Key(&kek), &self.sealer.0)?;
        self.write(|tx| set_meta_of(tx.conn, SLOT, &wrap.encode())).await
    }

    /// Takes it back.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn lock_again(&self) -> Result<(), VaultError> {
        let name = self.read(|tx| name(tx.conn))?;
        self.write(|tx| forget(tx.conn)).await?;
        match find(&name).and_then(|key| key.invalidate()) {
            Ok(()) | Err(KeyError::KeyDoesNotExist | KeyError::KeyExpired) => Ok(()),
            Err(error) => Err(broken(error)),
        }
    }
}

/// The key of a state whose own secret was not given. `needed` says which that is.
pub(super) fn open(conn: &mut SqliteConnection, needed: Locked) -> Result<StateKey, VaultError> {
    let Some(slot) = meta_of(conn, SLOT)? else { return Err(needed.into()) };
    let damaged = |_| VaultError::Corrupt { table: "meta", what: "the keyring's part" };
    let wrap = Wrap::decode(&slot).map_err(damaged)?;
    let found = get(&name(conn)?).map_err(broken)?;
    found.and_then(|kek| wrap.open(&kek)).ok_or(Locked::Forgotten.into())
}

/// Whatever the keyring has opens nothing from here on.
pub(super) fn forget(conn: &mut SqliteConnection) -> Result<(), VaultError> {
    super::delete_meta_of(conn, SLOT)
}

fn name(conn: &mut SqliteConnection) -> Result<String, VaultError> {
    let instance = meta_of(conn, "instance")?;
    let absent = VaultError::Corrupt { table: "meta", what: "the instance" };
    Ok(format!("nexo-cli:{}", to_hex(&instance.ok_or(absent)?)))
}

fn find(name: &str) -> Result<Key, KeyError> {
    KeyRing::from_special_id(KeyRingIdentifier::User, false)?.search(name)
}

fn put(name: &str, kek: &StateKey, seconds: Option<NonZeroU32>) -> Result<(), KeyError> {
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true)?;
    let key = ring.add_key(name, kek.bytes())?;
    // Also for processes whose session is not linked to the user's keyring, like those of cron.
    let look = Permission::VIEW | Permission::READ | Permission::SEARCH;
    key.set_perms(KeyPermissionsBuilder::builder().posessor(Permission::ALL).user(look).build())?;
    match seconds.map(|seconds| usize::try_from(seconds.get())) {
        Some(Ok(seconds)) => key.set_timeout(seconds),
        _ => Ok(()),
    }
}

fn get(name: &str) -> Result<Option<StateKey>, KeyError> {
    let gone = |e: &KeyError| {
        matches!(e, KeyError::KeyDoesNotExist | KeyError::KeyExpired | KeyError::KeyRevoked)
    };
    let mut bytes = Zeroizing::new([0; 32]);
    match find(name).and_then(|key| key.read(&mut *bytes)) {
        Ok(32) => Ok(Some(StateKey::from_bytes(bytes))),
        Ok(_) => Ok(None),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn broken(error: KeyError) -> VaultError {
    StateKeyError::Keyring(format!("{error:?}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use crate::vault::{Access, Passphrase};
    use std::time::Duration;

    async fn open(home: &Home, access: &Access) -> Result<Vault, VaultError> {
        Vault::open(home, access, Duration::from_secs(10)).await
    }

    fn passphrase() -> Access {
        Passphrase::new(b"one", "a test").unwrap().into()
    }

    /// Asks the kernel: where it has no keyrings (some containers), this fails and says so.
    #[tokio::test]
    async fn a_state_is_open_until_it_is_locked_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        let nothing = Access::of_home(&home);
        let vault = open(&home, &passphrase()).await.unwrap();
        let locked = |done: Result<Vault, VaultError>| match done.map(drop) {
            Err(VaultError::Locked(locked)) => locked,
            other => panic!("{other:?}"),
        };
        assert_eq!(locked(open(&home, &nothing).await), Locked::Passphrase);
        vault.unlock(NonZeroU32::new(600)).await.unwrap();
        vault.write(|tx| tx.set_prekeys_checked_at(7)).await.unwrap();
        let by_keyring = open(&home, &nothing).await.unwrap();
        assert_eq!(by_keyring.read(|tx| tx.prekeys_checked_at()).unwrap(), 7);
        // The kernel forgets: said, and the passphrase still opens.
        let name = vault.read(|tx| name(tx.conn)).unwrap();
        find(&name).unwrap().invalidate().unwrap();
        assert_eq!(locked(open(&home, &nothing).await), Locked::Forgotten);
        open(&home, &passphrase()).await.unwrap().unlock(None).await.unwrap();
        open(&home, &nothing).await.unwrap();
        vault.lock_again().await.unwrap();
        assert_eq!(locked(open(&home, &nothing).await), Locked::Passphrase);
        assert!(get(&name).unwrap().is_none());
        vault.lock_again().await.unwrap();
        // Another secret ends it, too.
        vault.unlock(None).await.unwrap();
        let other = Passphrase::new(b"two", "a test").unwrap();
        vault.protect(Protection::Passphrase(&other), &home).await.unwrap();
        assert_eq!(locked(open(&home, &nothing).await), Locked::Passphrase);
        vault.lock_again().await.unwrap();
    }
}
