//! Access tokens that were found valid, so that a client's next request need not have its token
//! taken apart again.
//!
//! The relay's secret and issuer do not change while it runs, so a token that was signed stays
//! signed. What can change is the time, and that is asked again at each use; whether the device
//! still exists is not asked here at all. Only valid tokens are kept, under their SHA-256: a
//! look-up says nothing about the bytes of the tokens that are here, and dumped memory holds
//! none. Nobody fills this who cannot log in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::token::{Access, AccessTokens, LEEWAY, MAX_TOKEN, TokenError};

/// Tokens kept, about 400 bytes each. When one more comes, all are forgotten.
const CAPACITY: usize = 16 * 1024;

/// Valid tokens, by their hash.
#[derive(Default)]
pub struct SeenTokens(Mutex<HashMap<[u8; 32], Arc<Access>>>);

impl SeenTokens {
    /// As [`AccessTokens::check`].
    ///
    /// # Errors
    /// [`TokenError`], and nothing is remembered.
    pub fn check(
        &self,
        tokens: &AccessTokens,
        token: &str,
        now: u64,
    ) -> Result<Arc<Access>, TokenError> {
        // Nothing of any length is hashed for a stranger.
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let name: [u8; 32] = Sha256::digest(token).into();
        if let Some(access) = self.find(&name, now) {
            return Ok(access);
        }
        let access = Arc::new(tokens.check(token, now)?);
        // Single steps on the map, so a poisoned lock guards a whole one.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= CAPACITY {
            seen.clear();
        }
        seen.insert(name, Arc::clone(&access));
        Ok(access)
    }

    /// A token that has begun does not un-begin, so its end alone is looked at. One that has
    /// ended is judged in full again, and refused in the usual words.
    fn find(&self, name: &[u8; 32], now: u64) -> Option<Arc<Access>> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let access = seen.get(name)?;
        if access.exp.saturating_add(LEEWAY) < now {
            seen.remove(name);
            return None;
        }
        Some(Arc::clone(access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::token::ServerSecret;
    use nexo_schema::ids::{DeviceId, Handle, Origin};

    const NOW: u64 = 1_700_000_000;
    const LIFE: u64 = 900;

    fn tokens(byte: u8) -> AccessTokens {
        let secret = ServerSecret::parse((0..32).map(|i| byte ^ (i * 7)).collect()).unwrap();
        AccessTokens::with(&secret, "nexo", &Origin::parse("relay.example.org").unwrap(), LIFE)
    }

    fn minted() -> String {
        let (device, handle) = (DeviceId::parse("tab-1").unwrap(), Handle::parse("al").unwrap());
        tokens(1).mint(&device, &handle, Some("thumbprint"), NOW).unwrap()
    }

    fn kept(seen: &SeenTokens) -> usize {
        seen.0.lock().unwrap().len()
    }

    #[test]
    fn a_token_seen_says_what_it_said_until_it_ends() {
        let (seen, tokens, token) = (SeenTokens::default(), tokens(1), minted());
        let last = NOW + LIFE + LEEWAY;
        for now in [NOW, NOW + 1, last] {
            let access = seen.check(&tokens, &token, now).unwrap();
            assert_eq!(*access, tokens.check(&token, now).unwrap());
            assert_eq!(kept(&seen), 1);
        }
        assert_eq!(seen.check(&tokens, &token, last + 1), Err(TokenError::Expired));
        assert_eq!(kept(&seen), 0);
        assert_eq!(seen.check(&tokens, &token, last + 1), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_seen_is_not_taken_apart_again() {
        let (seen, token) = (SeenTokens::default(), minted());
        seen.check(&tokens(1), &token, NOW).unwrap();
        // Only one that looked at the signature would know that this is another relay.
        assert!(seen.check(&tokens(2), &token, NOW).is_ok());
        assert!(SeenTokens::default().check(&tokens(2), &token, NOW).is_err());
    }

    #[test]
    fn what_is_refused_is_not_remembered() {
        let (seen, tokens, token) = (SeenTokens::default(), tokens(1), minted());
        seen.check(&tokens, &token, NOW).unwrap();
        for n in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[n] = if other[n] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            let verdict = tokens.check(&other, NOW);
            assert_eq!(seen.check(&tokens, &other, NOW).map(|a| (*a).clone()), verdict);
        }
        let early = NOW - LEEWAY - 1;
        let fresh = SeenTokens::default();
        assert_eq!(fresh.check(&tokens, &token, early), Err(TokenError::TooEarly));
        assert_eq!(fresh.check(&tokens, &"t".repeat(MAX_TOKEN + 1), NOW), Err(TokenError::TooLong));
        assert_eq!((kept(&seen), kept(&fresh)), (1, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let (seen, tokens, token) = (SeenTokens::default(), tokens(1), minted());
        let access = Arc::new(tokens.check(&token, NOW).unwrap());
        for n in 0..CAPACITY as u64 {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&n.to_be_bytes());
            seen.0.lock().unwrap().insert(name, Arc::clone(&access));
        }
        seen.check(&tokens, &token, NOW).unwrap();
        assert_eq!(kept(&seen), 1);
    }
}
