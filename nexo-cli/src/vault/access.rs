//! Getting at the state's key: what this run was given, against what the state is sealed under.
//!
//! Nothing is guessed and nothing falls back: a state under a passphrase opens by the passphrase
//! alone, whatever key files lie about, and a passphrase that is given for a state which knows
//! none is refused, because whoever gives one believes that it protects something.

use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::passphrase::{Passphrase, Work};
use super::sealed::StateKey;
use super::wrap::{Kind, Protection, Wrap};
use super::{VaultError, delete_meta_of, meta_of, set_meta_of};
use crate::home::{Home, HomeError};

/// What this run was given to open the state with.
#[derive(Default)]
pub struct Access {
    /// A key from a file or descriptor.
    pub key: Option<StateKey>,
    /// A passphrase.
    pub passphrase: Option<Passphrase>,
    /// Make a new state in clear.
    pub in_clear: bool,
    /// The home's own key file, where no other secret is given: made for a new state.
    pub own_key: Option<PathBuf>,
}

/// Why what was given does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Locked {
    /// A passphrase is needed.
    #[error(
        "the state is sealed under a passphrase; give it with --passphrase-fd, --passphrase-file \
         or NEXO_PASSPHRASE"
    )]
    Passphrase,
    /// A key is needed.
    #[error("the state is sealed under a key; give it with --state-key-fd or --state-key-file")]
    Key,
    /// The keyring was to have a key.
    #[error(
        "the keyring has no key to this state any more; give the passphrase or key, and run \
         state unlock again"
    )]
    Forgotten,
    /// A passphrase was given that protects nothing.
    #[error("the state is not sealed under a passphrase; state protect changes that")]
    NoPassphrase,
    /// A secret was given that protects nothing.
    #[error("the state is kept in clear, and no secret opens it; state protect changes that")]
    InClear,
    /// A sealed state is not in clear.
    #[error("--plaintext-state is for a new state, and this one is sealed; see state protect")]
    Sealed,
    /// More than one secret for a new state.
    #[error(
        "a new state is sealed under one thing: a passphrase, a key, or with --plaintext-state \
         nothing"
    )]
    Several,
}

impl From<StateKey> for Access {
    fn from(key: StateKey) -> Self {
        Self { key: Some(key), ..Self::default() }
    }
}

impl From<Passphrase> for Access {
    fn from(passphrase: Passphrase) -> Self {
        Self { passphrase: Some(passphrase), ..Self::default() }
    }
}

/// The key that a passphrase gave, with what it was asked with.
pub(super) struct Derived {
    salt: [u8; 32],
    work: Work,
    key: StateKey,
}

impl Access {
    /// With the key file of the home, for when nothing else is given.
    #[must_use]
    pub fn of_home(home: &Home) -> Self {
        Self { own_key: Some(home.file("state.key")), ..Self::default() }
    }

    /// Asks the passphrase before any lock is held: many processes at once would have each other
    /// wait. `None` if there is none, or the state does not say yet what to ask it with.
    pub(super) fn derive(&self, state: &Path) -> Result<Option<Derived>, VaultError> {
        let Some(passphrase) = &self.passphrase else { return Ok(None) };
        if !state.exists() {
            return Ok(None);
        }
        // Whatever is wrong with the state is found and said under the lock.
        let Ok(mut conn) = SqliteConnection::establish(&state.to_string_lossy()) else {
            return Ok(None);
        };
        let Ok(Some(wrap)) = stored_wrap(&mut conn) else { return Ok(None) };
        let Kind::Passphrase { salt, work } = wrap.kind else { return Ok(None) };
        Ok(Some(Derived { salt, work, key: passphrase.key(&salt, work)? }))
    }

    /// The key of the state, which is sealed under what was given if it is new. The caller holds
    /// the lock.
    pub(super) fn unlock(
        &self,
        conn: &mut SqliteConnection,
        derived: Option<Derived>,
    ) -> Result<StateKey, VaultError> {
        if let Some(wrap) = stored_wrap(conn)? {
            return match self.open(&wrap, derived) {
                Err(VaultError::Locked(needed @ (Locked::Passphrase | Locked::Key)))
                    if self.key.is_none() && self.passphrase.is_none() =>
                {
                    by_keyring(conn, needed)
                }
                other => other,
            };
        }
        if meta_of(conn, "key_check")?.is_none() {
            return self.begin(conn);
        }
        // A state of the version before: its key file holds the key itself.
        self.without_passphrase()?;
        self.held_key()
    }

    fn open(&self, wrap: &Wrap, derived: Option<Derived>) -> Result<StateKey, VaultError> {
        match wrap.kind {
            Kind::Clear => {
                if self.key.is_some() || self.passphrase.is_some() {
                    return Err(Locked::InClear.into());
                }
                let damaged = VaultError::Corrupt { table: "meta", what: "the state's key" };
                wrap.in_clear().ok_or(damaged)
            }
            Kind::Key => {
                self.without_passphrase()?;
                wrap.open(&self.held_key()?).ok_or(VaultError::WrongKey)
            }
            Kind::Passphrase { salt, work } => {
                if self.in_clear {
                    return Err(Locked::Sealed.into());
                }
                let passphrase = self.passphrase.as_ref().ok_or(Locked::Passphrase)?;
                // Another process may have changed the passphrase meanwhile.
                let key = match derived.filter(|d| d.salt == salt && d.work == work) {
                    Some(derived) => derived.key,
                    None => passphrase.key(&salt, work)?,
                };
                wrap.open(&key).ok_or(VaultError::WrongPassphrase)
            }
        }
    }

    /// Refuses what a state under a key has no use for.
    fn without_passphrase(&self) -> Result<(), VaultError> {
        if self.in_clear {
            return Err(Locked::Sealed.into());
        }
        if self.passphrase.is_some() && self.key.is_none() {
            return Err(Locked::NoPassphrase.into());
        }
        Ok(())
    }

    /// The key that was given, else the home's own.
    fn held_key(&self) -> Result<StateKey, VaultError> {
        match (&self.key, &self.own_key) {
            (Some(key), _) => Ok(key.clone()),
            (None, Some(path)) if path.exists() => Ok(StateKey::read(path)?),
            _ => Err(Locked::Key.into()),
        }
    }

    /// A new state: its key is drawn, and is on disk only as its owner wants it.
    fn begin(&self, conn: &mut SqliteConnection) -> Result<StateKey, VaultError> {
        let own;
        let under = match (&self.key, &self.passphrase, self.in_clear) {
            (None, Some(passphrase), false) => Protection::Passphrase(passphrase),
            (Some(key), None, false) => Protection::Key(key),
            (None, None, true) => Protection::Clear,
            (None, None, false) => {
                let path = self.own_key.as_ref().ok_or(Locked::Key)?;
                own = StateKey::read_or_create(path)?;
                Protection::Key(&own)
            }
            _ => return Err(Locked::Several.into()),
        };
        let dek = StateKey::ephemeral()?;
        let wrap = Wrap::seal(under, &dek)?;
        set_meta_of(conn, "wrap", &wrap.encode())?;
        Ok(dek)
    }
}

/// The key that `state unlock` has put into the keyring, if this program knows keyrings.
#[cfg(feature = "keyring")]
fn by_keyring(conn: &mut SqliteConnection, needed: Locked) -> Result<StateKey, VaultError> {
    super::keyring::open(conn, needed)
}

#[cfg(not(feature = "keyring"))]
fn by_keyring(_: &mut SqliteConnection, needed: Locked) -> Result<StateKey, VaultError> {
    Err(needed.into())
}

fn stored_wrap(conn: &mut SqliteConnection) -> Result<Option<Wrap>, VaultError> {
    let damaged = |_| VaultError::Corrupt { table: "meta", what: "what the state is sealed under" };
    meta_of(conn, "wrap")?.map(|bytes| Wrap::decode(&bytes).map_err(damaged)).transpose()
}

impl super::Vault {
    /// Seals the state's key under something else, in one transaction: whenever the power goes,
    /// the old secret opens the state or the new one does. Then what the old one could open is
    /// cleared away, as far as a file system lets one.
    ///
    /// # Errors
    /// [`VaultError`].
    pub async fn protect(&self, under: Protection<'_>, home: &Home) -> Result<(), VaultError> {
        // Before the lock is taken: a passphrase takes its time.
        let wrap = Wrap::seal(under, &self.sealer.0)?;
        self.write(|tx| {
            set_meta_of(tx.conn, "wrap", &wrap.encode())?;
            // What a keyring has opens nothing any more, also if this program knows no keyrings.
            delete_meta_of(tx.conn, "wrap_keyring")
        })
        .await?;
        self.forget_old_pages()?;
        home.forget("state.db.old")?;
        retire_own_key(home, &wrap)?;
        Ok(())
    }
}

/// Removes the home's own key file when it does not open the state any more.
pub(super) fn retire_own_key(home: &Home, wrap: &Wrap) -> Result<(), HomeError> {
    let path = home.file("state.key");
    if !path.exists() {
        return Ok(());
    }
    // What cannot be read as a key is not ours to remove.
    match StateKey::read(&path) {
        Ok(key) if wrap.open(&key).is_none() => home.forget("state.key"),
        _ => Ok(()),
    }
}

/// After a power cut in the middle of [`super::Vault::protect`]: no key lies beside a state that
/// is sealed under a passphrase.
pub(super) fn finish_protecting(
    conn: &mut SqliteConnection,
    home: &Home,
) -> Result<(), VaultError> {
    if !home.file("state.key").exists() {
        return Ok(());
    }
    match stored_wrap(conn)? {
        Some(wrap) if matches!(wrap.kind, Kind::Passphrase { .. }) => {
            Ok(retire_own_key(home, &wrap)?)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MIGRATIONS, Vault, bring_up_to_date, connection};
    use super::*;
    use crate::home::write_new_private;
    use nexo_schema::bytes::to_hex;
    use std::time::Duration;

    fn home(dir: &tempfile::TempDir) -> Home {
        Home::create(&dir.path().join("home"), true).unwrap()
    }

    async fn open(home: &Home, access: &Access) -> Result<Vault, VaultError> {
        Vault::open(home, access, Duration::from_secs(10)).await
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes(), "a test").unwrap()
    }

    fn key(byte: u8) -> StateKey {
        StateKey::from_bytes(zeroize::Zeroizing::new([byte; 32]))
    }

    fn clear() -> Access {
        Access { in_clear: true, ..Access::default() }
    }

    /// What a refusal said, for a table.
    async fn refusal(home: &Home, access: Access) -> String {
        match open(home, &access).await {
            Ok(_) => "opened".to_owned(),
            Err(VaultError::Locked(locked)) => format!("{locked:?}"),
            Err(VaultError::WrongKey) => "WrongKey".to_owned(),
            Err(VaultError::WrongPassphrase) => "WrongPassphrase".to_owned(),
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn a_passphrase_opens_what_it_sealed_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let own = || Access::of_home(&home);
        let vault = open(&home, &Access { passphrase: Some(passphrase("one")), ..own() }).await;
        vault.unwrap().write(|tx| tx.set_prekeys_checked_at(7)).await.unwrap();
        assert!(!home.file("state.key").exists());
        assert_eq!(refusal(&home, passphrase("two").into()).await, "WrongPassphrase");
        assert_eq!(refusal(&home, own()).await, "Passphrase");
        assert_eq!(refusal(&home, key(1).into()).await, "Passphrase");
        assert_eq!(refusal(&home, clear()).await, "Sealed");
        assert!(!home.file("state.key").exists(), "asking makes nothing");
        let vault = open(&home, &passphrase("one").into()).await.unwrap();
        assert_eq!(vault.read(|tx| tx.prekeys_checked_at()).unwrap(), 7);
    }

    #[tokio::test]
    async fn a_key_and_no_key_are_what_they_were_made() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        open(&home, &key(1).into()).await.unwrap();
        assert_eq!(refusal(&home, key(2).into()).await, "WrongKey");
        assert_eq!(refusal(&home, Access::of_home(&home)).await, "Key");
        assert_eq!(refusal(&home, passphrase("one").into()).await, "NoPassphrase");
        assert_eq!(refusal(&home, clear()).await, "Sealed");
        let both = Access { key: Some(key(1)), ..passphrase("of other homes").into() };
        assert_eq!(refusal(&home, both).await, "opened");

        let dir = tempfile::tempdir().unwrap();
        let home = self::home(&dir);
        open(&home, &clear()).await.unwrap();
        assert_eq!(refusal(&home, Access::of_home(&home)).await, "opened");
        assert_eq!(refusal(&home, clear()).await, "opened");
        assert_eq!(refusal(&home, key(1).into()).await, "InClear");
        assert_eq!(refusal(&home, passphrase("one").into()).await, "InClear");

        let dir = tempfile::tempdir().unwrap();
        let home = self::home(&dir);
        let both = Access { key: Some(key(1)), ..passphrase("one").into() };
        assert_eq!(refusal(&home, both).await, "Several");
        assert_eq!(refusal(&home, Access { in_clear: true, ..key(1).into() }).await, "Several");
    }

    #[tokio::test]
    async fn a_state_of_the_version_before_opens_by_its_key_and_is_sealed_anew() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        write_new_private(&home.file("state.key"), to_hex(&[5; 32]).as_bytes()).unwrap();
        write_new_private(&home.file("state.db"), b"").unwrap();
        let mut conn = connection(&home.file("state.db").to_string_lossy()).unwrap();
        bring_up_to_date(&mut conn, MIGRATIONS, Some(&home)).unwrap();
        drop(Vault::with_key(conn, key(5), None).unwrap());
        assert_eq!(refusal(&home, key(6).into()).await, "WrongKey");
        assert_eq!(refusal(&home, passphrase("one").into()).await, "NoPassphrase");
        let vault = open(&home, &Access::of_home(&home)).await.unwrap();
        vault.protect(Protection::Passphrase(&passphrase("one")), &home).await.unwrap();
        // Who has the state open goes on; who opens it now needs the new secret.
        vault.write(|tx| tx.set_prekeys_checked_at(7)).await.unwrap();
        assert!(!home.file("state.key").exists());
        assert_eq!(refusal(&home, key(5).into()).await, "Passphrase");
        let vault = open(&home, &passphrase("one").into()).await.unwrap();
        assert_eq!(vault.read(|tx| tx.prekeys_checked_at()).unwrap(), 7);
    }

    #[tokio::test]
    async fn protecting_clears_away_what_the_old_secret_could_open() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        let vault = open(&home, &Access::of_home(&home)).await.unwrap();
        let old_key = std::fs::read(home.file("state.key")).unwrap();
        let old_row = vault.read(|tx| tx.meta("wrap")).unwrap().unwrap();
        write_new_private(&home.file("state.db.old"), b"an old state").unwrap();
        vault.protect(Protection::Passphrase(&passphrase("one")), &home).await.unwrap();
        assert!(!home.file("state.key").exists() && !home.file("state.db.old").exists());
        for file in std::fs::read_dir(home.path()).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(old_row.len()).any(|part| part == old_row);
            assert!(!found, "the old row is in {}", path.display());
        }
        drop(vault);
        // The power went before the old key file was gone.
        write_new_private(&home.file("state.key"), &old_key).unwrap();
        assert_eq!(refusal(&home, Access::of_home(&home)).await, "Passphrase");
        drop(open(&home, &passphrase("one").into()).await.unwrap());
        assert!(!home.file("state.key").exists());
        // A key of its own again, where it is looked for.
        let vault = open(&home, &passphrase("one").into()).await.unwrap();
        let own = StateKey::read_or_create(&home.file("state.key")).unwrap();
        vault.protect(Protection::Key(&own), &home).await.unwrap();
        drop(vault);
        assert_eq!(refusal(&home, Access::of_home(&home)).await, "opened");
        assert_eq!(refusal(&home, passphrase("one").into()).await, "NoPassphrase");
    }
}
