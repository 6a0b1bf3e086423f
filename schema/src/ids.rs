//! Names of things, each its own type so that two cannot be mixed up.
//!
//! Ids made of bytes are written in lower-case hex in JSON and URLs. Parsing is
//! the only way in, so a value of the type is a valid id.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::{from_hex, to_hex};

/// Text that is not a valid id of the kind asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 64 lower-case hex digits.
    #[error("expected 64 lower-case hex digits")]
    Hex32,
    /// Not a handle.
    #[error("a handle is 2 to 32 characters of a-z 0-9 . _ - and starts with a letter or digit")]
    Handle,
    /// Not a device id.
    #[error("a device id is 1 to 64 printable ASCII characters without a space")]
    Device,
    /// Not a message id.
    #[error("a msg_id is 1 to 64 printable ASCII characters")]
    Message,
    /// Not the name of a cursor.
    #[error("a cursor's name is 1 to 32 characters of a-z 0-9 . _ -")]
    Cursor,
    /// Not an origin.
    #[error("an origin is 1 to 250 printable ASCII characters without a space or +")]
    Origin,
}

/// 32 bytes written as hex: the shape account and conversation ids share.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Reads 64 lower-case hex digits.
            ///
            /// # Errors
            /// [`IdError::Hex32`] for any other text.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                from_hex(text).map(Self).map_err(|_| IdError::Hex32)
            }

            /// The 32 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
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

        text_serde!($name);
    };
}

/// Text under a rule: the shape handles, device ids and message ids share.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $error:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(String);

        impl $name {
            /// Reads the id under its rule, without changing a byte.
            ///
            /// # Errors
            /// The [`IdError`] of this id.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let rule: fn(&str) -> bool = $rule;
                if rule(text) { Ok(Self(text.to_owned())) } else { Err($error) }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_serde!($name);
    };
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// An account: the hash of its genesis event, or of its plain record (PROTOCOL.md 3).
    AccountId
}

hex_id! {
    /// A conversation: for two accounts the hash of their ids (PROTOCOL.md 3).
    ConvId
}

text_id! {
    /// A device: 64 hex digits of the key's hash for a native one, a chosen name for a plain one.
    DeviceId, IdError::Device, |t| (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic())
}

text_id! {
    /// A message id, unique per sending device. Native ones are 32 hex digits.
    MsgId, IdError::Message,
    |t| (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

text_id! {
    /// What a device calls one of its places in the stream of messages.
    CursorName, IdError::Cursor,
    |t| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        (1..=32).contains(&t.len()) && t.bytes().all(fits)
    }
}

text_id! {
    /// An account's name, compared as bytes.
    Handle, IdError::Handle, is_handle
}

text_id! {
    /// The one name of a relay: in its checkpoint, keys, signatures, transcripts and AAD.
    /// At most 250 bytes, so that `<origin>/time` keeps within the 255 of C2SP.
    Origin, IdError::Origin,
    |t| (1..=250).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_graphic() && b != b'+')
}

impl Handle {
    /// Reads a handle as the seed did: surrounding white space dropped, ASCII letters lowered.
    ///
    /// # Errors
    /// [`IdError::Handle`] if what is left is not a handle.
    pub fn parse_lenient(text: &str) -> Result<Self, IdError> {
        Self::parse(&text.trim_ascii().to_ascii_lowercase())
    }
}

impl DeviceId {
    /// The id of a native device from its hash.
    #[must_use]
    pub fn native(hash: &[u8; 32]) -> Self {
        Self(to_hex(hash))
    }

    /// The 32 bytes behind a native id; `None` for a name a plain client chose.
    #[must_use]
    pub fn native_bytes(&self) -> Option<[u8; 32]> {
        from_hex(&self.0).ok()
    }
}

impl MsgId {
    /// The id of a native message.
    #[must_use]
    pub fn native(bytes: &[u8; 16]) -> Self {
        Self(to_hex(bytes))
    }

    /// The bytes of a new native id, made at this time (Unix milliseconds), laid out as a UUIDv7
    /// (RFC 9562 section 5.7): ids of one sender are close together in an index, not all over it.
    ///
    /// ```text
    /// 48 bits Unix ms || 0111 || 12 bits random || 10 || 62 bits random
    /// ```
    #[must_use]
    pub fn timed(millis: u64, random: [u8; 10]) -> [u8; 16] {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&random);
        id[6] = id[6] & 0x0f | 0x70;
        id[8] = id[8] & 0x3f | 0x80;
        id
    }

    /// The 16 bytes behind a native message id; `None` for any other text.
    #[must_use]
    pub fn native_bytes(&self) -> Option<[u8; 16]> {
        from_hex(&self.0).ok()
    }
}

fn is_handle(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (2..=32).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&b| word(b) || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles() {
        for good in ["al", "alice", "a.b_c-d", "0x", &"a".repeat(32)] {
            assert!(Handle::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(33);
        for bad in ["", "a", ".ab", "Alice", "al ice", "älice", "a\u{200b}b", "al\n", &long] {
            assert_eq!(Handle::parse(bad), Err(IdError::Handle), "{bad:?}");
        }
        assert_eq!(Handle::parse_lenient(" Alice\n").map(|h| h.to_string()), Ok("alice".into()));
        assert!(Handle::parse_lenient("Älice").is_err());
    }

    #[test]
    fn device_and_message_ids() {
        assert!(DeviceId::parse("tab-1").is_ok());
        assert!(DeviceId::parse("tab 1").is_err());
        assert!(DeviceId::parse("").is_err());
        assert!(MsgId::parse("a b").is_ok());
        assert!(MsgId::parse("a\tb").is_err());
        assert!(MsgId::parse(&"x".repeat(65)).is_err());
        assert_eq!(DeviceId::native(&[0xab; 32]).native_bytes(), Some([0xab; 32]));
        assert_eq!(MsgId::native(&[1; 16]).native_bytes(), Some([1; 16]));
        assert_eq!(MsgId::parse("0A").map(|m| m.native_bytes()), Ok(None));
    }

    #[test]
    fn timed_ids_are_those_of_the_standard() {
        // RFC 9562 appendix A.6; the bits that the layout sets are wrong in what is drawn.
        let random = [0xfc, 0xc3, 0x58, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f];
        let id = MsgId::native(&MsgId::timed(1_645_557_742_000, random));
        assert_eq!(id.as_str(), "017f22e279b07cc398c4dc0c0c07398f");
    }

    #[test]
    fn timed_ids_ascend_with_time_and_keep_what_was_drawn() {
        let id = |millis, byte| MsgId::native(&MsgId::timed(millis, [byte; 10]));
        for millis in [0, 255, 0xffff, 1_700_000_000_000, (1 << 48) - 2] {
            assert!(id(millis, 0xff) < id(millis + 1, 0), "{millis}");
        }
        for bit in 0..80 {
            let mut random = [0; 10];
            random[bit / 8] = 0x80 >> (bit % 8);
            let fixed = bit < 4 || bit == 16 || bit == 17;
            assert_eq!(MsgId::timed(1, random) == MsgId::timed(1, [0; 10]), fixed, "{bit}");
        }
    }

    #[test]
    fn cursor_names() {
        for good in ["tail", "a", "w-1.b_2", &"x".repeat(32)] {
            assert!(CursorName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Tail", "a b", "\u{e9}", "a/b", &"x".repeat(33)] {
            assert_eq!(CursorName::parse(bad), Err(IdError::Cursor), "{bad:?}");
        }
    }

    #[test]
    fn origins() {
        for good in ["relay.example.org", "nexo-0123456789abcdef", "https://relay.example.test"] {
            assert!(Origin::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a+b", "a\nb", "ä"] {
            assert!(Origin::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_goes_through_the_same_rule() {
        assert!(serde_json::from_str::<ConvId>(&format!("\"{}\"", "A".repeat(64))).is_err());
        assert!(serde_json::from_str::<Handle>("\"No Handle\"").is_err());
        let id = AccountId([7; 32]);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<AccountId>(&json).unwrap(), id);
    }
}
