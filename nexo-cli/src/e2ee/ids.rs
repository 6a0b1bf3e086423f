//! Self-certifying ids and the handle rule (design/e2ee.md 2.3).
//!
//! Each id is its own type, because an account id where a device id is meant has
//! broken other systems. In text every id is lower-case hex.

use super::kdf;
use nexo_schema::bytes::{DecodeError, enc, from_hex, to_hex};
use nexo_schema::entry;
use std::fmt;
use std::str::FromStr;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Takes bytes as received or stored; every value has the right shape.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes, as they stand in every encoding.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = DecodeError;

            fn from_str(text: &str) -> Result<Self, DecodeError> {
                from_hex(text).map(Self)
            }
        }
    };
}

id! {
    /// An account: the hash of its genesis event. It is what people verify.
    AccountId, 32
}
id! {
    /// A device: the hash of its Ed25519 key, so no other key can claim it.
    DeviceId, 32
}
id! {
    /// A conversation; see [`ConversationId::direct`].
    ConversationId, 32
}
id! {
    /// A message, chosen by its sender; unique per sending device.
    MessageId, 16
}
id! {
    /// A session or, in one-shot mode, one handshake.
    SessionId, 16
}
id! {
    /// `EH`: everything the relay stores of a message, in one hash.
    EnvelopeHash, 32
}

impl AccountId {
    /// The id of a plain account, one that was registered as in the seed and has
    /// no sigchain: `H(enc("nexo/1/plain-account",[origin, handle, ed25519_pub]))`.
    /// Native clients never encrypt to it.
    #[must_use]
    pub fn plain(origin: &str, handle: &Handle, ed25519: &[u8; 32]) -> Self {
        Self(kdf::hash(&entry::plain_account(origin, handle.as_str(), ed25519)))
    }
}

impl DeviceId {
    /// `H(enc("nexo/1/device-id",[ed25519_pub]))`.
    #[must_use]
    pub fn of(ed25519: &[u8; 32]) -> Self {
        Self(kdf::hash(&entry::device(ed25519)))
    }
}

impl ConversationId {
    /// The conversation of two accounts, or of one with itself, in either order:
    /// `H(enc("nexo/1/conv/direct",[origin, min, max]))`. Both clients compute it
    /// and never take the relay's word.
    #[must_use]
    pub fn direct(origin: &str, one: AccountId, other: AccountId) -> Self {
        let text = entry::direct_conversation(origin, one.as_bytes(), other.as_bytes());
        Self(kdf::hash(&text))
    }
}

impl MessageId {
    /// The id of a message sent under an idempotency key: the same key gives the
    /// same id on a retry, and the relay learns nothing about the key.
    /// `secret` is a 32-byte secret of this device used for nothing else.
    #[must_use]
    pub fn for_idempotency_key(secret: &[u8; 32], conversation: ConversationId, key: &str) -> Self {
        let message = enc("nexo/1/idem", &[conversation.as_bytes(), key.as_bytes()]);
        Self(kdf::first_half(&kdf::hmac(secret, &message)))
    }
}

/// Why a text is not a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a handle is 2 to 32 of a-z 0-9 . _ - and starts with a letter or digit")]
pub struct HandleRefused;

/// `[a-z0-9][a-z0-9._-]{1,31}`, compared as bytes. Case and look-alike letters
/// are refused rather than folded, so one name has one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(String);

impl Handle {
    /// Checks and keeps `text`.
    ///
    /// # Errors
    /// [`HandleRefused`] for any other text.
    pub fn parse(text: &str) -> Result<Self, HandleRefused> {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let (first, rest) = text.as_bytes().split_first().ok_or(HandleRefused)?;
        let shape = plain(first) && rest.iter().all(|b| plain(b) || b"._-".contains(b));
        if shape && (1..=31).contains(&rest.len()) {
            Ok(Self(text.into()))
        } else {
            Err(HandleRefused)
        }
    }

    /// The handle's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The label under which the log shows an account's key events:
/// `H(enc("nexo/1/label",[origin, handle]))`. It can be guessed from a word list.
#[must_use]
pub fn account_label(origin: &str, handle: &Handle) -> [u8; 32] {
    kdf::hash(&entry::label(origin, handle.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles() {
        for good in ["ab", "a.", "0-_.x", &"a".repeat(32)] {
            assert_eq!(Handle::parse(good).map(|h| h.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "a",
            "Al",
            ".ab",
            "-ab",
            "_ab",
            "a b",
            "аlice",
            "al\u{200b}",
            "a\n",
            &"a".repeat(33),
        ] {
            assert_eq!(Handle::parse(bad), Err(HandleRefused), "{bad:?}");
        }
    }

    #[test]
    fn ids_read_their_own_text_only() {
        let id = MessageId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(format!("{id:?}"), format!("MessageId({id})"));
        assert_eq!("AB".repeat(16).parse::<MessageId>(), Err(DecodeError::Text));
        assert_eq!("ab".repeat(15).parse::<MessageId>(), Err(DecodeError::Text));
    }

    #[test]
    fn derived_ids_depend_on_every_input() {
        let (a, b) = (AccountId::from_bytes([1; 32]), AccountId::from_bytes([2; 32]));
        let direct = ConversationId::direct("o", a, b);
        assert_eq!(direct, ConversationId::direct("o", b, a));
        assert_ne!(direct, ConversationId::direct("p", a, b));
        assert_ne!(direct, ConversationId::direct("o", a, a));
        let id = MessageId::for_idempotency_key(&[1; 32], direct, "k");
        assert_eq!(id, MessageId::for_idempotency_key(&[1; 32], direct, "k"));
        assert_ne!(id, MessageId::for_idempotency_key(&[2; 32], direct, "k"));
        assert_ne!(id, MessageId::for_idempotency_key(&[1; 32], direct, "l"));
        let handle = Handle::parse("alice").unwrap();
        assert_ne!(
            AccountId::plain("o", &handle, &[1; 32]),
            AccountId::plain("o", &handle, &[2; 32])
        );
        assert_ne!(account_label("o", &handle), account_label("p", &handle));
    }
}
