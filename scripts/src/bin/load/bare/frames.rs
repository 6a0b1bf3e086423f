//! What the bare loop reads and answers: the relay's own bytes, as to their number.

use nexo_schema::bytes::{from_base64, to_base64};
use nexo_schema::http::{Item, Receipt, SendRequest, SendResponse};
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::ws::{Cipher, Envelope};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::device;
use super::store::{HASH, Message, NOTE};
use super::writer::Placed;

/// A message, and what its acknowledgement repeats.
#[derive(Debug)]
pub(super) struct Letter {
    conv: ConvId,
    msg_id: MsgId,
    cipher: Vec<u8>,
    ad: Box<RawValue>,
    reply: Reply,
}

/// How a frame is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    /// By the envelope itself.
    Envelope,
    /// By an `ack`.
    Ack,
    /// By an `ack` with a receipt.
    Receipt,
}

/// A frame of either kind: a `send`, which says so, or the seed's envelope.
#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: Option<Kind>,
    conv_id: ConvId,
    msg_id: MsgId,
    cipher: Cipher,
    ad: Box<RawValue>,
    #[serde(default)]
    receipt: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Send,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "ack")]
struct Ack<'a> {
    msg_id: &'a MsgId,
    sth_index: u64,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

impl Letter {
    /// The message in the body of `POST /messages`.
    pub(super) fn of_request(body: &[u8]) -> Option<Self> {
        let SendRequest { conv_id, cipher, ad, msg_id, .. } = serde_json::from_slice(body).ok()?;
        let cipher = from_base64(&cipher).ok()?;
        Some(Self { conv: conv_id, msg_id: msg_id?, cipher, ad, reply: Reply::Envelope })
    }

    /// The message in a frame.
    pub(super) fn of_frame(text: &str) -> Option<Self> {
        let Frame { kind, conv_id, msg_id, cipher, ad, receipt } =
            serde_json::from_str(text).ok()?;
        let Cipher::Text(cipher) = cipher else { return None };
        let reply = match kind {
            None => Reply::Envelope,
            Some(Kind::Send) if receipt => Reply::Receipt,
            Some(Kind::Send) => Reply::Ack,
        };
        Some(Self { conv: conv_id, msg_id, cipher: from_base64(&cipher).ok()?, ad, reply })
    }

    /// What is stored of it.
    pub(super) fn message(&self) -> Message {
        Message {
            conv: self.conv.0,
            msg_id: self.msg_id.to_string(),
            device: device(&self.conv),
            cipher: self.cipher.clone(),
            ad: self.ad.get().as_bytes().to_vec(),
        }
    }

    /// The answer over REST.
    pub(super) fn response(self, placed: Placed) -> Option<SendResponse> {
        let sender_device = DeviceId::parse(&device(&self.conv)).ok()?;
        let message = Item {
            msg_id: self.msg_id,
            conv_id: self.conv,
            sender_device,
            cipher: to_base64(&self.cipher),
            ad: self.ad,
            ts: placed.time,
            sth_index: placed.place,
            native: None,
            tombstone: None,
            inclusion: None,
        };
        Some(SendResponse { ok: true, message, duplicate: false, receipt: None })
    }

    /// The answer on a socket.
    pub(super) fn frame(self, placed: Placed) -> Option<String> {
        let Placed { place, time } = placed;
        if self.reply == Reply::Envelope {
            return self.envelope(placed);
        }
        let receipt = (self.reply == Reply::Receipt).then(|| receipt(place));
        let ack = Ack { msg_id: &self.msg_id, sth_index: place, ts: time, receipt };
        serde_json::to_string(&ack).ok()
    }

    fn envelope(self, placed: Placed) -> Option<String> {
        let sender_device = DeviceId::parse(&device(&self.conv)).ok()?;
        serde_json::to_string(&Envelope {
            ver: 1,
            conv_id: self.conv,
            msg_id: self.msg_id,
            sender_device,
            cipher: Cipher::Text(to_base64(&self.cipher)),
            ad: self.ad,
            ts: placed.time,
            sth_index: placed.place,
            target_msg_id: None,
        })
        .ok()
    }
}

/// As long as a receipt: a signed head, and a hash for each level of the tree.
fn receipt(place: u64) -> Receipt {
    let levels = 64 - place.leading_zeros();
    Receipt {
        sth_index: place,
        head: "x".repeat(NOTE),
        inclusion: (0..levels).map(|_| to_base64(&[0x5a; HASH])).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Letters, Shape, Talk};
    use nexo_scripts::account::Seat;

    fn answered(shape: Shape) -> serde_json::Value {
        let seat = Seat { token: "t".into(), device: "d".into(), conv: "ab".repeat(32) };
        let text = Letters::new(&seat, shape, 30).write(4);
        let placed = Placed { place: 5, time: 77 };
        let answer = match shape {
            Shape::Rest { .. } => {
                let response = Letter::of_request(text.as_bytes()).unwrap().response(placed);
                serde_json::to_value(response.unwrap().message).unwrap()
            }
            Shape::Socket { .. } => {
                let frame = Letter::of_frame(&text).unwrap().frame(placed).unwrap();
                serde_json::from_str(&frame).unwrap()
            }
        };
        let sent: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&answer["msg_id"], &answer["sth_index"]), (&sent["msg_id"], &5.into()));
        assert_eq!(answer["ts"], 77);
        if answer["type"].is_null() {
            assert_eq!((&answer["cipher"], &answer["ad"]), (&sent["cipher"], &sent["ad"]));
        }
        answer
    }

    #[test]
    fn each_letter_is_answered_in_its_own_way() {
        let socket = |talk| Shape::Socket { connections: 1, in_flight: 1, talk };
        assert!(answered(Shape::Rest { clients: 1 })["type"].is_null());
        assert_eq!(answered(socket(Talk::Seed))["ver"], 1);
        let ack = answered(socket(Talk::Acks));
        assert_eq!((&ack["type"], ack.as_object().unwrap().len()), (&"ack".into(), 4));
        let ack = answered(socket(Talk::Receipts));
        assert_eq!(ack["receipt"]["inclusion"].as_array().unwrap().len(), 3);
        assert_eq!(ack["receipt"]["head"].as_str().unwrap().len(), NOTE);
    }

    #[test]
    fn what_is_no_letter_is_none() {
        assert!(Letter::of_request(b"{}").is_none());
        assert!(Letter::of_frame("").is_none());
        assert!(Letter::of_frame(r#"{"type":"head","size":1}"#).is_none());
    }
}
