//! A signing key in a file: the text format of Go's note signers.
//!
//! Reading, creating and replacing; which keys there are and what they sign is
//! `signer.rs`'s business. Secrets are wiped from every buffer used here.
//!
//! ```text
//! PRIVATE+KEY+<name>+<8 hex key id>+<base64(kind || 32-byte seed)> LF
//! ```

use super::tree::Hash;
use crate::private_file;
use ed25519_dalek::SigningKey;
use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::checkpoint::VKey;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const PREFIX: &str = "PRIVATE+KEY+";
/// A name is at most 255 bytes, the rest 70; nothing longer is read.
const MAX_FILE: u16 = 512;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("{}: mode {mode:03o} lets others at a secret key; chmod 600 it, and think about who may have read it", path.display())]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a key of the kind that belongs there, or its key id does not fit.
    #[error("{}: not a signing key of the expected kind; restore it from a backup", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A named Ed25519 key of a kind.
pub(super) struct NamedKey {
    pub(super) vkey: VKey,
    pub(super) signing: SigningKey,
}

impl NamedKey {
    pub(super) fn new(name: &str, kind: u8, seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let key = signing.verifying_key().to_bytes();
        let vkey = VKey { name: name.to_owned(), key_id: key_id(name, kind, &key), kind, key };
        Self { vkey, signing }
    }

    /// The key in the file, `None` if there is no file.
    pub(super) fn read(path: &Path, kind: u8) -> Result<Option<Self>, KeyFileError> {
        let io = |source| KeyFileError::Io { path: path.to_owned(), source };
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io)?,
        };
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::OpenToOthers { path: path.to_owned(), mode });
        }
        // As large as can be from the start: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(usize::from(MAX_FILE) + 1));
        file.take(MAX_FILE.into()).read_to_string(&mut text).map_err(io)?;
        let key = Self::parse(text.strip_suffix('\n').unwrap_or(&text), kind);
        key.map(Some).ok_or_else(|| KeyFileError::Malformed { path: path.to_owned() })
    }

    fn parse(text: &str, kind: u8) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.splitn(3, '+');
        let (name, id, blob) = (parts.next()?, parts.next()?, parts.next()?);
        let blob = Zeroizing::new(nexo_schema::bytes::from_base64(blob).ok()?);
        let (found, seed) = blob.split_first()?;
        let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).ok()?);
        let key = Self::new(name, kind, &seed);
        (*found == kind && id == to_hex(&key.vkey.key_id)).then_some(key)
    }

    fn text(&self) -> Zeroizing<String> {
        let mut blob = Zeroizing::new([self.vkey.kind; 33]);
        blob[1..].copy_from_slice(self.signing.as_bytes());
        let blob = Zeroizing::new(to_base64(&*blob));
        let (name, id) = (&self.vkey.name, to_hex(&self.vkey.key_id));
        Zeroizing::new(format!("{PREFIX}{name}+{id}+{}\n", *blob))
    }

    /// Writes a new key file; the key that is in it afterwards. That is another one if another
    /// server was faster: of several that start on one directory, none may sign with a key that
    /// it alone knows.
    pub(super) fn create(self, path: &Path) -> Result<Self, KeyFileError> {
        let io = |source| KeyFileError::Io { path: path.to_owned(), source };
        match private_file::create(path, self.text().as_bytes()) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let found = Self::read(path, self.vkey.kind)?;
                found.ok_or_else(|| io(io::ErrorKind::NotFound.into()))
            }
            made => made.map(|()| self).map_err(io),
        }
    }

    /// Writes the key file over the one that is there, whole or not at all.
    pub(super) fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
        let replaced = private_file::replace(path, self.text().as_bytes());
        replaced.map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
    }
}

/// First four bytes of SHA-256(name || LF || kind || public key) (C2SP signed-note).
fn key_id(name: &str, kind: u8, key: &[u8; 32]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', kind]).chain_update(key);
    let hash: Hash = hash.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::checkpoint::{KIND_COSIGNATURE, KIND_ED25519};
    use std::fs::{self, Permissions};

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_id_of_the_note_specification() {
        let text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        let key = VKey::parse(text).unwrap();
        assert_eq!(key_id(&key.name, key.kind, &key.key), key.key_id);
        assert_ne!(key_id(&key.name, KIND_COSIGNATURE, &key.key), key.key_id);
    }

    #[test]
    fn a_created_key_is_private_and_reads_back() {
        let dir = dir();
        let path = dir.path().join("log.key");
        assert!(NamedKey::read(&path, KIND_ED25519).unwrap().is_none());
        let key = NamedKey::new("relay.example.org", KIND_ED25519, &[7; 32]);
        let key = key.create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let text = fs::read_to_string(&path).unwrap();
        let id = to_hex(&key.vkey.key_id);
        assert!(text.starts_with(&format!("PRIVATE+KEY+relay.example.org+{id}+AQcHBwcH")));
        let again = NamedKey::read(&path, KIND_ED25519).unwrap().unwrap();
        assert_eq!(again.vkey, key.vkey);
        assert_eq!(again.signing.as_bytes(), &[7; 32]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn an_existing_key_is_never_created_over() {
        let dir = dir();
        let path = dir.path().join("log.key");
        NamedKey::new("a", KIND_ED25519, &[1; 32]).create(&path).unwrap();
        let second = || NamedKey::new("b", KIND_ED25519, &[2; 32]);
        let used = second().create(&path).unwrap();
        assert_eq!((used.signing.as_bytes(), &*used.vkey.name), (&[1; 32], "a"));
        let kept = NamedKey::read(&path, KIND_ED25519).unwrap().unwrap();
        assert_eq!(kept.signing.as_bytes(), &[1; 32]);
        // One of another kind is no winner of a race.
        let other = NamedKey::new("a", KIND_COSIGNATURE, &[3; 32]).create(&path);
        assert!(matches!(other, Err(KeyFileError::Malformed { .. })));
        second().replace(&path).unwrap();
        let kept = NamedKey::read(&path, KIND_ED25519).unwrap().unwrap();
        assert_eq!((kept.signing.as_bytes(), mode(&path)), (&[2; 32], 0o600));
    }

    #[test]
    fn a_key_others_may_read_is_refused() {
        let dir = dir();
        let path = dir.path().join("log.key");
        NamedKey::new("a", KIND_ED25519, &[1; 32]).create(&path).unwrap();
        for open in [0o640, 0o604, 0o620, 0o601, 0o644] {
            fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            let refused = NamedKey::read(&path, KIND_ED25519);
            let Err(KeyFileError::OpenToOthers { mode, .. }) = refused else { panic!("{open:o}") };
            assert_eq!(mode, open);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(NamedKey::read(&path, KIND_ED25519).unwrap().is_some());
    }

    #[test]
    fn damaged_and_foreign_key_files_are_refused() {
        let dir = dir();
        let path = dir.path().join("log.key");
        let key = NamedKey::new("a", KIND_ED25519, &[1; 32]);
        let key = key.create(&path).unwrap();
        assert!(NamedKey::read(&path, KIND_COSIGNATURE).is_err(), "another kind");
        let good = key.text();
        let id = to_hex(&key.vkey.key_id);
        for bad in [
            String::new(),
            good[..good.len() - 9].to_owned(),
            good.replace("PRIVATE", "PUBLIC"),
            good.replace("KEY+a+", "KEY+b+"),
            good.replace(&id, &to_hex(&[0; 4])),
            good.replace("AQEBAQ", "AQEBAg"),
            good.replace("+AQEB", "+BAEB"),
            format!("{}\n", *good),
            "x".repeat(1000),
        ] {
            fs::write(&path, &bad).unwrap();
            let refused = NamedKey::read(&path, KIND_ED25519);
            assert!(matches!(refused, Err(KeyFileError::Malformed { .. })), "{bad:?}");
        }
    }
}
