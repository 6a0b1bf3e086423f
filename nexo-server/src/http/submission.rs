//! From a client's message to an item of the log: one reading for REST and WebSocket.

use std::collections::BTreeMap;

use nexo_schema::bytes::{dec, fixed, from_base64};
use nexo_schema::envelope::{self, Route};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::DeleteRequest;
use nexo_schema::ids::{ConvId, DeviceId, MsgId, Origin};
use nexo_schema::limits::{MAX_AD, MAX_AD_DEPTH, MAX_CIPHER, MAX_PACKET, MAX_PACKETS};
use nexo_schema::ws::Cipher;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::auth::keys::DeviceKey;
use crate::error::ApiError;
use crate::store::{Device, NativeDeletion, NativeMessage, NewDeletion, NewMessage, Packet};

/// A message as a client sent it, over either corridor.
pub struct Draft<'a> {
    /// Where to.
    pub conv: ConvId,
    /// Its id; every draft has one by now.
    pub msg_id: MsgId,
    /// In either shape.
    pub cipher: &'a Cipher,
    /// `None` for `{}`.
    pub ad: Option<&'a RawValue>,
    /// Native: key packets.
    pub packets: Option<&'a BTreeMap<DeviceId, String>>,
    /// Native: the send counter.
    pub dseq: Option<u64>,
}

impl Draft<'_> {
    /// Reads the draft as sent by `sender`.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] or [`ErrorCode::TooLarge`], naming the field.
    pub fn into_message(self, origin: &Origin, sender: &Device) -> Result<NewMessage, ApiError> {
        let (cipher, nonce_len) = cipher(self.cipher)?;
        let ad = self.ad.map_or("{}", RawValue::get);
        check_ad(ad)?;
        let native = match (sender.native, self.packets) {
            (true, Some(packets)) => Some(self.native(origin, sender, &cipher, packets)?),
            (true, None) => return Err(bad("packets: a native device sends key packets")),
            (false, None) => None,
            (false, Some(_)) => return Err(bad("packets: only native devices send them")),
        };
        Ok(NewMessage {
            conv: self.conv,
            msg_id: self.msg_id,
            device: sender.id.clone(),
            nonce_len,
            cipher,
            ad: ad.as_bytes().to_vec(),
            native,
        })
    }

    /// The envelope hash over what will be stored (e2ee 2.11).
    fn native(
        &self,
        origin: &Origin,
        sender: &Device,
        sealed: &[u8],
        packets: &BTreeMap<DeviceId, String>,
    ) -> Result<NativeMessage, ApiError> {
        let msg_id = self.msg_id.native_bytes();
        let msg_id = msg_id.ok_or_else(|| bad("msg_id: native ones are 32 hex digits"))?;
        let device = sender.id.native_bytes();
        let device = device.ok_or_else(|| ApiError::internal("a native device has a name"))?;
        let packets = read_packets(packets)?;
        let aad = Route {
            origin: origin.as_str(),
            conv: &self.conv.0,
            msg_id: &msg_id,
            account: &sender.account.0,
            device: &device,
        }
        .payload_aad();
        let digest = hash(&envelope::payload_digest(&aad, sealed));
        let hashes: Vec<_> = packets.iter().map(|(device, p)| (*device, p.hash)).collect();
        Ok(NativeMessage {
            envelope: hash(&envelope::envelope(&aad, &digest, &hashes)),
            packets: packets.into_iter().map(|(_, packet)| packet).collect(),
            dseq: self.dseq,
        })
    }
}

/// Reads a deletion. A native account signs a statement (e2ee 2.16) and its device's signature
/// is verified here; what it says of the target is checked where the target is known.
///
/// # Errors
/// [`ErrorCode::BadRequest`], naming the field.
pub fn deletion(
    request: &DeleteRequest,
    origin: &Origin,
    sender: &Device,
) -> Result<NewDeletion, ApiError> {
    let native = match (sender.native, &request.statement, &request.sig) {
        (false, None, None) => None,
        (false, ..) => return Err(bad("statement: only native accounts sign deletions")),
        (true, Some(statement), Some(sig)) => {
            let statement = from_base64(statement).map_err(|e| bad(format!("statement: {e}")))?;
            let sig = from_base64(sig).map_err(|e| bad(format!("sig: {e}")))?;
            Some(signed_deletion(request, origin, sender, statement, sig)?)
        }
        (true, ..) => return Err(bad("statement, sig: a native account signs deletions")),
    };
    Ok(NewDeletion {
        conv: request.conv_id,
        target: request.target_msg_id.clone(),
        device: sender.id.clone(),
        native,
    })
}

fn signed_deletion(
    request: &DeleteRequest,
    origin: &Origin,
    sender: &Device,
    statement: Vec<u8>,
    sig: Vec<u8>,
) -> Result<NativeDeletion, ApiError> {
    let foreign = || bad("statement: not a tombstone by this device for this message");
    let (target_envelope, time) = dec::<7>("nexo/1/sig/tombstone", &statement)
        .and_then(|f| Ok((fixed::<32>(f[3])?, fixed::<8>(f[6]).map(u64::from_be_bytes)?)))
        .map_err(|e| bad(format!("statement: {e}")))?;
    let msg_id = request.target_msg_id.native_bytes().ok_or_else(foreign)?;
    let device = sender.id.native_bytes().ok_or_else(foreign)?;
    let route = Route {
        origin: origin.as_str(),
        conv: &request.conv_id.0,
        msg_id: &msg_id,
        account: &sender.account.0,
        device: &device,
    };
    // Made again from what we know: every field is ours, or the bytes differ.
    if envelope::tombstone(&route, &target_envelope, time) != statement {
        return Err(foreign());
    }
    let signature: &[u8; 64] =
        sig.as_slice().try_into().map_err(|_| bad("sig: expected 64 bytes"))?;
    let key = DeviceKey::parse(&sender.key)
        .map_err(|_| ApiError::internal("a stored device key is not valid"))?;
    if !key.verify(&statement, signature) {
        return Err(bad("sig: not this device's signature"));
    }
    Ok(NativeDeletion { statement, sig, target_envelope })
}

fn read_packets(packets: &BTreeMap<DeviceId, String>) -> Result<Vec<([u8; 32], Packet)>, ApiError> {
    if packets.len() > MAX_PACKETS {
        return Err(large(format!("packets: at most {MAX_PACKETS}")));
    }
    // Hex keeps the order of bytes, so the map's order is the order of device ids.
    packets
        .iter()
        .map(|(device, text)| {
            let id = device.native_bytes();
            let id = id.ok_or_else(|| bad("packets: a device id is 64 hex digits"))?;
            let bytes = from_base64(text).map_err(|e| bad(format!("packets: {e}")))?;
            if bytes.is_empty() || bytes.len() > MAX_PACKET {
                return Err(large(format!("packets: 1 to {MAX_PACKET} bytes each")));
            }
            let hash = hash(&bytes);
            Ok((id, Packet { device: device.clone(), bytes, hash }))
        })
        .collect()
}

/// The stored bytes, n || c, and how many of them are the nonce.
fn cipher(cipher: &Cipher) -> Result<(Vec<u8>, u32), ApiError> {
    let read = |text: &str| from_base64(text).map_err(|e| bad(format!("cipher: {e}")));
    let (bytes, nonce_len) = match cipher {
        Cipher::Text(text) => (read(text)?, 0),
        Cipher::Split { c, n } => {
            let mut bytes = read(n)?;
            let nonce_len = bytes.len();
            bytes.extend_from_slice(&read(c)?);
            (bytes, nonce_len)
        }
    };
    if bytes.is_empty() {
        return Err(bad("cipher: empty"));
    }
    if bytes.len() > MAX_CIPHER {
        return Err(large(format!("cipher: at most {MAX_CIPHER} bytes")));
    }
    let nonce_len = u32::try_from(nonce_len).map_err(|_| bad("cipher: the nonce is too long"))?;
    Ok((bytes, nonce_len))
}

/// `ad` is a JSON object of bounded size and depth; its bytes are kept, its content is nobody's
/// here. It must be one for every reader: a raw value may still hold half a surrogate pair or a
/// number beyond any float, and who was sent that could not read the page it is on.
fn check_ad(ad: &str) -> Result<(), ApiError> {
    if ad == "{}" {
        return Ok(());
    }
    if ad.len() > MAX_AD {
        return Err(large(format!("ad: at most {MAX_AD} bytes")));
    }
    let value: Value = serde_json::from_str(ad).map_err(|e| bad(format!("ad: {e}")))?;
    if !value.is_object() {
        return Err(bad("ad: expected a JSON object"));
    }
    if depth(&value) > MAX_AD_DEPTH {
        return Err(bad(format!("ad: at most {MAX_AD_DEPTH} levels deep")));
    }
    Ok(())
}

/// Levels of arrays and objects; the parser has bounded them already.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

fn large(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, detail)
}
