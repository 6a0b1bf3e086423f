//! The two key derivations of the ratchet (design/e2ee.md 2.9).
//!
//! ```text
//! KDF_RK(RK, dh) = HKDF(salt = RK, ikm = dh, info = enc("nexo/1/ratchet/root", [session_id]), 64)
//!                = RK' || CK
//! KDF_CK(CK, n)  = HKDF-Expand(prk = CK, info = enc("nexo/1/ratchet/chain", [session_id, n u32]), 64)
//!                = CK' || MK
//! ```
//!
//! A `Chain` only moves forward: no key of it leads back to an earlier one. Which
//! chain is whose, and what becomes of keys that are passed over, is the ratchet's.

use super::ids::SessionId;
use super::kdf;
use nexo_schema::bytes::enc;
use zeroize::Zeroizing;

/// Messages of one chain: n = 0 to 999. As a jump can skip no more than a chain
/// holds, no loss of honest messages makes the next one unreadable, and a forged
/// header costs its reader at most this many derivations.
pub const CHAIN_CAP: u32 = 1_000;

/// 32 secret bytes: a root, chain or message key. Wiped when dropped.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// One root step: the next root key and the first key of a new chain.
pub(super) fn root_step(root: &Key, shared: &[u8; 32], session: SessionId) -> (Key, Chain) {
    let info = enc("nexo/1/ratchet/root", &[session.as_bytes()]);
    let (root, key) = halves(&kdf::hkdf(&root[..], shared, &info));
    (root, Chain { key, n: 0 })
}

/// A chain at the place of its next message.
#[derive(Clone)]
pub(super) struct Chain {
    key: Key,
    n: u32,
}

impl Chain {
    /// A chain as it was stored.
    pub(super) fn restore(key: Key, n: u32) -> Self {
        Self { key, n }
    }

    /// The number of the next message.
    pub(super) fn n(&self) -> u32 {
        self.n
    }

    /// `CK`, for sealed storage and known answers.
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether all messages of the chain are used up.
    pub(super) fn is_full(&self) -> bool {
        self.n >= CHAIN_CAP
    }

    /// The next message key; the chain moves on.
    pub(super) fn step(&mut self, session: SessionId) -> Key {
        let fields: [&[u8]; 2] = [session.as_bytes(), &self.n.to_be_bytes()];
        let okm = kdf::hkdf_expand(&self.key, &enc("nexo/1/ratchet/chain", &fields));
        let (next, message) = halves(&okm);
        self.key = next;
        self.n += 1;
        message
    }

    /// The keys of all messages before `n`, in order; none if the chain is past it.
    pub(super) fn skip_to(&mut self, n: u32, session: SessionId) -> Vec<(u32, Key)> {
        let mut passed = Vec::with_capacity(n.saturating_sub(self.n) as usize);
        while self.n < n {
            passed.push((self.n, self.step(session)));
        }
        passed
    }
}

fn halves(okm: &Zeroizing<[u8; 64]>) -> (Key, Key) {
    let (mut first, mut second) = (Key::default(), Key::default());
    first.copy_from_slice(&okm[..32]);
    second.copy_from_slice(&okm[32..]);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId::from_bytes([1; 16]);

    fn chain() -> Chain {
        root_step(&Key::new([2; 32]), &[3; 32], SESSION).1
    }

    #[test]
    fn no_two_places_or_sessions_share_a_key() {
        let mut seen = std::collections::BTreeSet::new();
        for session in [SESSION, SessionId::from_bytes([9; 16])] {
            let mut chain = root_step(&Key::new([2; 32]), &[3; 32], session).1;
            for (_, key) in chain.skip_to(CHAIN_CAP, session) {
                assert!(seen.insert(*key));
            }
            assert!(chain.is_full());
            assert!(seen.insert(**chain.key()));
        }
    }

    #[test]
    fn skipping_and_stepping_meet() {
        let (mut one, mut other) = (chain(), chain());
        let skipped = one.skip_to(5, SESSION);
        for (n, key) in skipped {
            assert_eq!(other.n(), n);
            assert_eq!(other.step(SESSION), key);
        }
        assert_eq!(one.key(), other.key());
        assert!(one.skip_to(5, SESSION).is_empty() && one.skip_to(2, SESSION).is_empty());
        assert_eq!(one.n(), 5);
    }
}
