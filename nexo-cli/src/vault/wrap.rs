//! The state's key (DEK), sealed under what its owner keeps elsewhere.
//!
//! ```text
//! meta.wrap = enc("nexo/1/store/wrap", [kind u8, params, sealed])
//! sealed    = nx_seal(KEK, "nexo/1/store/wrap", enc("nexo/1/store-wrap", [kind, params]), DEK)
//! kind  KEK                                          params
//! 1     the 32 bytes of a key file or descriptor     none
//! 2     Argon2id of a passphrase                     salt 32 || memory KiB u32 || passes u32 || lanes u32
//! 3     none: `sealed` is the DEK itself             none
//! ```
//!
//! It is one row, so that changing it is one transaction: after a power cut the old secret opens
//! the state or the new one does. The DEK is drawn once and stays: who had it before keeps it,
//! so after a leak of the whole home an identity moves on by `state export` and `state import`.
//! A state without this row is of a version before: there the key file holds the DEK itself.

use nexo_schema::bytes::{DecodeError, dec, enc, fixed};
use zeroize::Zeroizing;

use super::passphrase::{Passphrase, WORK, Work};
use super::sealed::{StateKey, StateKeyError};
use crate::e2ee::{Purpose, nx_open, nx_seal};
use crate::random;

const LABEL: &str = "nexo/1/store/wrap";

/// What a state is sealed under.
#[derive(Clone, Copy)]
pub enum Protection<'a> {
    /// A key kept in a file, or handed over by a descriptor.
    Key(&'a StateKey),
    /// A passphrase.
    Passphrase(&'a Passphrase),
    /// Nothing.
    Clear,
}

/// The row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrap {
    pub(super) kind: Kind,
    sealed: Zeroizing<Vec<u8>>,
}

/// Under what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Passphrase { salt: [u8; 32], work: Work },
    Clear,
}

impl Kind {
    fn fields(self) -> (u8, Vec<u8>) {
        match self {
            Self::Key => (1, Vec::new()),
            Self::Passphrase { salt, work } => (2, [&salt[..], &work.encode()].concat()),
            Self::Clear => (3, Vec::new()),
        }
    }

    fn aad(self) -> Vec<u8> {
        let (kind, params) = self.fields();
        enc("nexo/1/store-wrap", &[&[kind], &params])
    }
}

impl Wrap {
    /// Seals a DEK; slow for a passphrase.
    pub(super) fn seal(under: Protection<'_>, dek: &StateKey) -> Result<Self, StateKeyError> {
        let (kind, kek) = match under {
            Protection::Key(key) => (Kind::Key, key.clone()),
            Protection::Passphrase(passphrase) => {
                let salt = random::array::<32>()?;
                (Kind::Passphrase { salt, work: WORK }, passphrase.key(&salt, WORK)?)
            }
            Protection::Clear => {
                let sealed = Zeroizing::new(dek.bytes().to_vec());
                return Ok(Self { kind: Kind::Clear, sealed });
            }
        };
        let hedge = random::array::<32>()?;
        let sealed = nx_seal(kek.bytes(), Purpose::Store("wrap"), &kind.aad(), dek.bytes(), &hedge);
        Ok(Self { kind, sealed: Zeroizing::new(sealed) })
    }

    /// The DEK, if `kek` is the key it was sealed under.
    pub(super) fn open(&self, kek: &StateKey) -> Option<StateKey> {
        let aad = self.kind.aad();
        let opened = nx_open(kek.bytes(), Purpose::Store("wrap"), &aad, &self.sealed).ok()?;
        fixed(&opened).ok().map(|key| StateKey::from_bytes(Zeroizing::new(key)))
    }

    /// The DEK of a state that is sealed under nothing.
    pub(super) fn in_clear(&self) -> Option<StateKey> {
        let key = (self.kind == Kind::Clear).then(|| fixed(&self.sealed).ok())??;
        Some(StateKey::from_bytes(Zeroizing::new(key)))
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (kind, params) = self.kind.fields();
        Zeroizing::new(enc(LABEL, &[&[kind], &params, &self.sealed]))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let [kind, params, sealed] = dec::<3>(LABEL, bytes)?;
        let kind = match (kind, params) {
            ([1], []) => Kind::Key,
            ([2], params) => {
                let (salt, work) = params.split_first_chunk().ok_or(DecodeError::Field)?;
                Kind::Passphrase { salt: *salt, work: Work::decode(work)? }
            }
            ([3], []) => Kind::Clear,
            _ => return Err(DecodeError::Field),
        };
        Ok(Self { kind, sealed: Zeroizing::new(sealed.to_vec()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> StateKey {
        StateKey::from_bytes(Zeroizing::new([byte; 32]))
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes(), "a test").unwrap()
    }

    #[test]
    fn a_key_opens_what_was_sealed_under_it() {
        let wrap = Wrap::seal(Protection::Key(&key(1)), &key(9)).unwrap();
        assert!(!wrap.encode().windows(32).any(|bytes| bytes == [9; 32]));
        let read = Wrap::decode(&wrap.encode()).unwrap();
        assert_eq!(read, wrap);
        assert_eq!(read.open(&key(1)).unwrap().bytes(), &[9; 32]);
        assert!(read.open(&key(2)).is_none());
        assert!(read.open(&key(9)).is_none());
        assert!(read.in_clear().is_none());
    }

    #[test]
    fn a_passphrase_is_asked_with_the_salt_and_work_of_the_row() {
        let wrap = Wrap::seal(Protection::Passphrase(&passphrase("one")), &key(9)).unwrap();
        let again = Wrap::seal(Protection::Passphrase(&passphrase("one")), &key(9)).unwrap();
        assert_ne!(wrap.kind, again.kind, "each with a salt of its own");
        let read = Wrap::decode(&wrap.encode()).unwrap();
        let Kind::Passphrase { salt, work } = read.kind else { panic!("{read:?}") };
        assert_eq!(work, WORK);
        assert!(read.open(&passphrase("one").key(&salt, work).unwrap()).is_some());
        assert!(read.open(&passphrase("two").key(&salt, work).unwrap()).is_none());
        // A kind or parameter that was changed does not open, even with the right key.
        let key = passphrase("one").key(&salt, work).unwrap();
        assert!(Wrap { kind: Kind::Key, ..read.clone() }.open(&key).is_none());
        let kind = Kind::Passphrase { salt: [0; 32], work };
        assert!(Wrap { kind, ..read }.open(&key).is_none());
    }

    #[test]
    fn a_state_in_clear_says_so() {
        let wrap = Wrap::seal(Protection::Clear, &key(9)).unwrap();
        let read = Wrap::decode(&wrap.encode()).unwrap();
        assert_eq!(read.in_clear().unwrap().bytes(), &[9; 32]);
        assert!(read.open(&key(9)).is_none());
    }

    proptest! {
        #[test]
        fn what_is_no_row_is_refused(cut in 0usize..200, flip in 0usize..200, bit in 0u8..8) {
            let sealed = Wrap::seal(Protection::Key(&key(1)), &key(9)).unwrap();
            let good = sealed.encode();
            prop_assert!(Wrap::decode(&good[..cut.min(good.len() - 1)]).is_err());
            let mut bad = good.to_vec();
            let at = flip % bad.len();
            bad[at] ^= 1 << bit;
            // Whatever still reads does not open, nor pass for a key in clear.
            if let Ok(read) = Wrap::decode(&bad) {
                prop_assert!(read.open(&key(1)).is_none() && read.in_clear().is_none());
            }
        }
    }
}
