//! WebSocket frames: JSON text.
//!
//! On `/ws?conv_id=` frames are the seed's envelopes, in both directions; the relay adds
//! `sender_device`, `ts` and `sth_index`, and the sender's own envelope coming back is the
//! acknowledgement. On `/ws` without `conv_id` the relay rings: a [`Notice::Head`] says that
//! something this device may read is in the log; the messages are read over REST. On either, an
//! envelope with `"type":"send"` is answered with a [`Notice::Ack`]. A socket without `conv_id`
//! that says hello is sent the messages themselves: [`stream`](crate::stream).
//! [`Notice`] frames carry `type`, envelopes from the relay never do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Problem;
use crate::http::Receipt;
use crate::ids::{ConvId, DeviceId, MsgId};

/// Close code: the token is not valid (seed).
pub const CLOSE_UNAUTHORIZED: u16 = 4401;
/// Close code: the device is not a participant of the conversation.
pub const CLOSE_FORBIDDEN: u16 = 4403;
/// Close code: a frame or parameter that does not parse.
pub const CLOSE_MALFORMED: u16 = 4400;

/// `cipher` in either of the seed's shapes; fanned out in the shape received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cipher {
    /// Base64 of the whole.
    Text(String),
    /// Ciphertext and nonce apart, base64 each; stored and shown by REST as n || c.
    Split {
        /// Ciphertext.
        c: String,
        /// Nonce.
        n: String,
    },
}

impl Cipher {
    /// The text, or of a split one the ciphertext alone.
    #[must_use]
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Split { c: text, .. } => text,
        }
    }
}

/// What a client asks for with a frame. Absent in the seed's envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Answer with a [`Notice::Ack`] when the envelope is committed.
    Send,
}

/// An envelope from a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submit {
    /// Absent: the seed's envelope, on its conversation's socket alone.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub ask: Option<Ask>,
    /// Version; 1 where given.
    #[serde(default = "one")]
    pub ver: u32,
    /// The conversation. On a socket with a conversation it is that one; another is refused.
    pub conv_id: ConvId,
    /// Made by the relay when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub msg_id: Option<MsgId>,
    /// The ciphertext.
    pub cipher: Cipher,
    /// A JSON object; `{}` when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ad: Option<Box<RawValue>>,
    /// Native: key packets, as over REST.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub packets: Option<BTreeMap<DeviceId, String>>,
    /// Native: the send counter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dseq: Option<u64>,
    /// With `type`: whether the answer is to have a receipt. Native devices get one anyway.
    #[serde(skip_serializing_if = "is_false", default)]
    pub receipt: bool,
}

/// An envelope to a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// 1.
    pub ver: u32,
    /// The conversation.
    pub conv_id: ConvId,
    /// The message; in a deletion the deletion's target again.
    pub msg_id: MsgId,
    /// The sending device.
    pub sender_device: DeviceId,
    /// The ciphertext, in the shape received; empty text in a deletion.
    pub cipher: Cipher,
    /// As received; `{"type":"delete"}` in a deletion.
    pub ad: Box<RawValue>,
    /// The relay's time, Unix seconds.
    pub ts: u64,
    /// Position in the log, from 1.
    pub sth_index: u64,
    /// In a deletion: the message deleted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target_msg_id: Option<MsgId>,
}

/// Frames of the relay that are no envelopes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Notice {
    /// Something this device may read was committed; the log has at least `size` entries. After
    /// a hello it goes before the messages whose paths lead to it, with the checkpoint.
    Head {
        /// Tree size.
        size: u64,
        /// The signed checkpoint.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        head: Option<String>,
        /// The consistency proof from the checkpoint told before on this socket, or the one that
        /// the client's hello named; base64.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        consistency: Option<Vec<String>>,
    },
    /// The answer to a client's hello.
    Hello {
        /// 1.
        ver: u32,
        /// The device the socket belongs to.
        device_id: DeviceId,
        /// Everything that the socket is for behind this position will be sent.
        after: u64,
        /// Messages sent before the relay waits for an acknowledgement.
        window: u16,
        /// Seconds between the relay's pings; two unanswered ones end the socket.
        ping_every: u32,
        /// Largest frame, bytes.
        max_frame: usize,
        /// Envelopes of the client that may wait for their commit; then it is not read.
        max_in_flight: usize,
        /// Entries in the log.
        size: u64,
    },
    /// An envelope with `"type":"send"` is in the log, durably and under a signed head.
    Ack {
        /// The envelope; the relay's name for it if it had none.
        msg_id: MsgId,
        /// Position in the log, from 1.
        sth_index: u64,
        /// The relay's time for it, Unix seconds.
        ts: u64,
        /// The device had sent the same before: this is its first place.
        #[serde(skip_serializing_if = "is_false", default)]
        duplicate: bool,
        /// It is the deletion of `msg_id` that is in the log.
        #[serde(skip_serializing_if = "is_false", default)]
        deleted: bool,
        /// As over REST.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        receipt: Option<Receipt>,
    },
    /// The device was revoked; a bye and the close follow.
    DeviceRevoked {
        /// Which.
        device_id: DeviceId,
    },
    /// The relay ends the socket after this frame, after a hello.
    Bye {
        /// Why.
        reason: Farewell,
        /// Seconds after which it is worth coming back; absent if it is not, as it is.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        retry_after: Option<u64>,
        /// The position up to which the client has acknowledged: a hello goes on from there.
        cursor: u64,
    },
    /// Few of the device's one-time prekeys are left; on sockets without a conversation.
    PrekeysLow {
        /// How many.
        left: u64,
    },
    /// A submitted envelope was refused; nothing of it was stored, but that with
    /// `unavailable` it may not be known: the same msg_id may be sent again.
    Nack {
        /// The envelope, if it named itself.
        msg_id: Option<MsgId>,
        /// Why.
        problem: Problem,
    },
}

/// Why the relay ends a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Farewell {
    /// The relay shuts down.
    Shutdown,
    /// It is busy, or its database is away.
    Busy,
    /// The device is revoked or expired.
    Unauthorized,
    /// The device may not read, or not this.
    Forbidden,
    /// The client sent what is no frame, or not one of these.
    Malformed,
    /// A bug on the relay.
    Internal,
}

fn one() -> u32 {
    1
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_clients_frame_is_read() {
        let conv = "ab".repeat(32);
        let text = format!(
            r#"{{"ver":1,"conv_id":"{conv}","msg_id":"m","cipher":{{"c":"Yw==","n":"bg=="}},"ad":{{"ts": 1}}}}"#
        );
        let frame: Submit = serde_json::from_str(&text).unwrap();
        assert_eq!(frame.cipher, Cipher::Split { c: "Yw==".into(), n: "bg==".into() });
        assert_eq!(frame.ad.unwrap().get(), r#"{"ts": 1}"#, "byte for byte");
    }

    #[test]
    fn only_send_asks_for_an_answer() {
        let conv = "ab".repeat(32);
        let read = |kind: &str| {
            let text = format!(r#"{{{kind}"conv_id":"{conv}","cipher":"Yw=="}}"#);
            serde_json::from_str::<Submit>(&text).map(|frame| (frame.ask, frame.receipt))
        };
        assert_eq!(read("").unwrap(), (None, false));
        assert_eq!(read(r#""type":"send","#).unwrap(), (Some(Ask::Send), false));
        let asked = r#""type":"send","receipt":true,"#;
        assert_eq!(read(asked).unwrap(), (Some(Ask::Send), true));
        for wrong in [r#""type":"text","#, r#""type":1,"#, r#""receipt":"yes","#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn notices_are_told_apart_by_type() {
        let json = serde_json::to_string(&Notice::Head { size: 7, head: None, consistency: None })
            .unwrap();
        assert_eq!(json, r#"{"type":"head","size":7}"#);
        let ack = |duplicate| Notice::Ack {
            msg_id: MsgId::parse("m").unwrap(),
            sth_index: 2,
            ts: 3,
            duplicate,
            deleted: false,
            receipt: None,
        };
        let json = serde_json::to_string(&ack(false)).unwrap();
        assert_eq!(json, r#"{"type":"ack","msg_id":"m","sth_index":2,"ts":3}"#);
        let json = serde_json::to_string(&ack(true)).unwrap();
        assert!(json.ends_with(r#""duplicate":true}"#), "{json}");
    }
}
