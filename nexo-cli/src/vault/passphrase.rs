//! A passphrase, and the slow way from it to a key (Argon2id, RFC 9106).
//!
//! ```text
//! key = Argon2id(passphrase, salt 32, memory, passes, lanes), 32 bytes, version 0x13
//! ```
//!
//! The bytes are used as given: two ways to type one letter (Unicode has them) are two
//! passphrases. What it costs to try one is stored beside the salt, so that it can be raised
//! later without a new program having to guess what an old one used.

use std::path::Path;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use nexo_schema::bytes::{DecodeError, fixed};
use zeroize::{Zeroize as _, Zeroizing};

use super::sealed::{StateKey, StateKeyError, read_bounded};
use crate::home::private;

/// Longest passphrase, bytes.
const MAX_PASSPHRASE: usize = 1024;

/// What a stored state may ask for at most: a doctored one must not eat the machine.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 64;

/// What somebody remembers. Wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes it as a file or variable has it, without the end of its line. `what` names the
    /// place in words.
    ///
    /// # Errors
    /// [`StateKeyError::Passphrase`] if it is empty or longer than 1,024 bytes.
    pub fn new(text: &[u8], what: &str) -> Result<Self, StateKeyError> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() || line.len() > MAX_PASSPHRASE {
            return Err(StateKeyError::Passphrase(what.to_owned()));
        }
        Ok(Self(Zeroizing::new(line.to_vec())))
    }

    /// Reads it from a file that only its owner can read.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn read(path: &Path) -> Result<Self, StateKeyError> {
        private(path)?;
        Self::from_open(path)
    }

    /// Reads it from an open file descriptor, as service managers hand secrets over.
    ///
    /// # Errors
    /// [`StateKeyError`].
    pub fn from_descriptor(fd: u32) -> Result<Self, StateKeyError> {
        // Opening the descriptor by name needs no unsafe code.
        Self::from_open(Path::new(&format!("/dev/fd/{fd}")))
    }

    fn from_open(path: &Path) -> Result<Self, StateKeyError> {
        // Two bytes for the end of the line, and one that shows that it is too long.
        let bytes = read_bounded(path, MAX_PASSPHRASE as u64 + 3)?;
        Self::new(&bytes, &path.display().to_string())
    }
}

/// What it costs to try a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    /// KiB of memory.
    memory: u32,
    passes: u32,
    lanes: u32,
}

/// What is used for a new one (e2ee 2.20).
pub(super) const WORK: Work = Work { memory: 64 * 1024, passes: 3, lanes: 4 };

impl Work {
    /// `memory u32 || passes u32 || lanes u32`.
    pub(super) fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (at, number) in [self.memory, self.passes, self.lanes].into_iter().enumerate() {
            bytes[at * 4..][..4].copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// What was stored, if it is within bounds.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bytes: [u8; 12] = fixed(bytes)?;
        let number = |at: usize| {
            let four = bytes[at * 4..][..4].try_into();
            four.map(u32::from_be_bytes).unwrap_or(u32::MAX)
        };
        let work = Self { memory: number(0), passes: number(1), lanes: number(2) };
        let bounded = work.memory <= MAX_MEMORY_KIB
            && work.passes <= MAX_PASSES
            && work.lanes <= MAX_LANES
            && work.params().is_ok();
        if bounded { Ok(work) } else { Err(DecodeError::Field) }
    }

    fn params(self) -> Result<Params, argon2::Error> {
        Params::new(self.memory, self.passes, self.lanes, Some(32))
    }
}

impl Passphrase {
    /// The key of this passphrase under a salt: as slow as `work` says, on purpose. Never called
    /// while a lock is held, where that can be helped.
    ///
    /// # Errors
    /// [`StateKeyError::Work`] if this machine cannot do it.
    pub(super) fn key(&self, salt: &[u8; 32], work: Work) -> Result<StateKey, StateKeyError> {
        let params = work.params().map_err(|_| StateKeyError::Work)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut blocks = vec![Block::default(); argon2.params().block_count()];
        let mut key = Zeroizing::new([0; 32]);
        let done = argon2.hash_password_into_with_memory(&self.0, salt, &mut *key, &mut blocks);
        // The passphrase can be tried against what stands there, and without the memory.
        blocks.iter_mut().for_each(|block| block.zeroize());
        done.map_err(|_| StateKeyError::Work)?;
        Ok(StateKey::from_bytes(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::to_hex;

    const LIGHT: Work = Work { memory: 8, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes(), "a test").unwrap()
    }

    /// Values of another implementation (pyca/cryptography 45, which asks OpenSSL).
    #[test]
    fn keys_are_those_of_argon2id() {
        let salt: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap());
        for (work, key) in [
            (WORK, "fc5d642bb060f1becda3a96cf47ed429465a98babc939c96228302fc85e53a4f"),
            (LIGHT, "1a4d67e895d9436522566ac7f7a8902e7ac3f3288a89e1db332935361219f106"),
        ] {
            let made = passphrase("correct horse").key(&salt, work).unwrap();
            assert_eq!(to_hex(made.bytes()), key);
        }
    }

    #[test]
    fn the_end_of_a_line_is_none_of_the_passphrase() {
        for text in ["a b", "a b\n", "a b\r\n"] {
            assert_eq!(*passphrase(text).0, b"a b");
        }
        assert_eq!(*passphrase(" a\n\n").0, b" a\n", "one line end, and no other space");
        for bad in [Vec::new(), b"\n".to_vec(), vec![b'a'; MAX_PASSPHRASE + 1]] {
            assert!(matches!(Passphrase::new(&bad, "x"), Err(StateKeyError::Passphrase(_))));
        }
    }

    #[test]
    fn work_reads_back_and_is_bounded() {
        assert_eq!(Work::decode(&WORK.encode()), Ok(WORK));
        let with = |change: fn(&mut Work)| {
            let mut work = WORK;
            change(&mut work);
            Work::decode(&work.encode())
        };
        assert!(with(|work| work.memory *= 2).is_ok(), "it can be raised");
        assert!(with(|work| work.memory = MAX_MEMORY_KIB + 1).is_err());
        assert!(with(|work| work.passes = MAX_PASSES + 1).is_err());
        assert!(with(|work| work.lanes = MAX_LANES + 1).is_err());
        assert!(with(|work| work.memory = 0).is_err());
        assert!(with(|work| work.passes = 0).is_err());
        assert!(Work::decode(&WORK.encode()[..11]).is_err());
    }

    #[test]
    fn files_of_passphrases_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        crate::home::write_new_private(&path, b"secret\n").unwrap();
        assert_eq!(*Passphrase::read(&path).unwrap().0, b"secret");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Passphrase::read(&path), Err(StateKeyError::File(_))));
        let long = dir.path().join("long");
        crate::home::write_new_private(&long, &vec![b'a'; 5000]).unwrap();
        assert!(matches!(Passphrase::read(&long), Err(StateKeyError::Passphrase(_))));
    }
}
