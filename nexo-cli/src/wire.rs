//! From the JSON of the wire to the types of the encryption core, and back. Shapes and sizes
//! only; nothing here is verified.

use nexo_schema::bytes::{from_base64, to_base64};
use nexo_schema::http::Prekey;
use nexo_schema::ids as schema;

use crate::e2ee::{
    AccountId, ConversationId, DeviceId, DhPublic, MessageId, SignedFallback, SignedOneTime,
};

/// A field of the wire that is not what its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is malformed")]
pub struct WireError(pub &'static str);

/// The account of the wire.
#[must_use]
pub fn account(id: schema::AccountId) -> AccountId {
    AccountId::from_bytes(id.0)
}

/// The account for the wire.
#[must_use]
pub fn account_out(id: AccountId) -> schema::AccountId {
    schema::AccountId(*id.as_bytes())
}

/// The conversation of the wire.
#[must_use]
pub fn conversation(id: schema::ConvId) -> ConversationId {
    ConversationId::from_bytes(id.0)
}

/// The conversation for the wire.
#[must_use]
pub fn conversation_out(id: ConversationId) -> schema::ConvId {
    schema::ConvId(*id.as_bytes())
}

/// The device of the wire; `None` for a name that a plain client chose.
#[must_use]
pub fn device(id: &schema::DeviceId) -> Option<DeviceId> {
    id.native_bytes().map(DeviceId::from_bytes)
}

/// The device for the wire.
#[must_use]
pub fn device_out(id: DeviceId) -> schema::DeviceId {
    schema::DeviceId::native(id.as_bytes())
}

/// The message id of the wire; `None` for one that a plain client chose.
#[must_use]
pub fn message(id: &schema::MsgId) -> Option<MessageId> {
    id.native_bytes().map(MessageId::from_bytes)
}

/// The message id for the wire.
#[must_use]
pub fn message_out(id: MessageId) -> schema::MsgId {
    schema::MsgId::native(id.as_bytes())
}

/// A fallback prekey as served.
///
/// # Errors
/// [`WireError`].
pub fn fallback(prekey: &Prekey) -> Result<SignedFallback, WireError> {
    Ok(SignedFallback {
        id: prekey.id,
        dh: DhPublic::from_bytes(bytes("x25519", &prekey.x25519)?),
        kem: from_base64(&prekey.kem).map_err(|_| WireError("kem"))?,
        not_before: prekey.not_before.ok_or(WireError("not_before"))?,
        not_after: prekey.not_after.ok_or(WireError("not_after"))?,
        signature: bytes("sig", &prekey.sig)?,
    })
}

/// A one-time prekey as served.
///
/// # Errors
/// [`WireError`].
pub fn one_time(prekey: &Prekey) -> Result<SignedOneTime, WireError> {
    Ok(SignedOneTime {
        id: prekey.id,
        dh: DhPublic::from_bytes(bytes("x25519", &prekey.x25519)?),
        kem: from_base64(&prekey.kem).map_err(|_| WireError("kem"))?,
        signature: bytes("sig", &prekey.sig)?,
    })
}

/// A fallback prekey for publication.
#[must_use]
pub fn fallback_out(signed: &SignedFallback) -> Prekey {
    Prekey {
        id: signed.id,
        x25519: to_base64(signed.dh.as_bytes()),
        kem: to_base64(&signed.kem),
        not_before: Some(signed.not_before),
        not_after: Some(signed.not_after),
        sig: to_base64(&signed.signature),
    }
}

/// A one-time prekey for publication.
#[must_use]
pub fn one_time_out(signed: &SignedOneTime) -> Prekey {
    Prekey {
        id: signed.id,
        x25519: to_base64(signed.dh.as_bytes()),
        kem: to_base64(&signed.kem),
        not_before: None,
        not_after: None,
        sig: to_base64(&signed.signature),
    }
}

fn bytes<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], WireError> {
    from_base64(text).ok().and_then(|b| b.try_into().ok()).ok_or(WireError(field))
}
