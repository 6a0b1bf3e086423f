//! Frames of a socket that says hello: messages themselves, acknowledged, resumable.
//!
//! ```text
//! client                                   relay
//! hello {cursor?, after?, ..}        ->
//!                                    <-    hello {after, window, ..}
//!                                    <-    head {size, head, consistency?}
//!                                    <-    message {item} | delete {item}   in log order
//! ack {cursor}                       ->                                     keeps the place
//! send {..} | delete {..}            ->
//!                                    <-    ack {msg_id, ..} | nack {msg_id, problem}
//!                                    <-    bye {reason, cursor}, then the close
//! ```
//!
//! The relay's other frames are [`Notice`](crate::ws::Notice)s.

use serde::{Deserialize, Serialize};

use crate::http::{DeleteRequest, Item};
use crate::ids::{ConvId, CursorName};
use crate::limits::DEFAULT_WINDOW;

/// What a client may say besides an envelope, on a socket without `conv_id`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// The first frame of a socket that wants messages.
    Hello(Hello),
    /// Everything up to this position is dealt with and need not be sent again.
    Ack {
        /// Position in the log of an item that was sent.
        cursor: u64,
    },
    /// Deletes a message for everyone; answered with an ack that says `deleted`, or a nack.
    Delete(Delete),
}

/// What a socket is for, and where it goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Version; 1 where given.
    #[serde(default = "one")]
    pub ver: u32,
    /// The name under which the relay keeps the position of the acks, for this device. Absent:
    /// it keeps none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cursor: Option<CursorName>,
    /// The position to go on behind. Absent: the one kept under `cursor`, at first 0; without a
    /// `cursor` whatever comes from now on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub after: Option<u64>,
    /// The conversations; absent for everything the device may read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conversations: Option<Vec<ConvId>>,
    /// Messages that may be sent and not acknowledged, from 1.
    #[serde(default = "window")]
    pub window: u16,
    /// Whether items come with their paths, and heads before them.
    #[serde(default = "yes")]
    pub proofs: bool,
    /// Size of the newest checkpoint the client has verified: the first head comes with the
    /// consistency proof from there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tree_size: Option<u64>,
}

/// A deletion, as `POST /messages/delete` takes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delete {
    /// What is to be deleted.
    #[serde(flatten)]
    pub request: DeleteRequest,
    /// Whether the ack is to have a receipt. Native devices get one anyway.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub receipt: bool,
}

/// A message or a deletion on its way to a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Push {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: PushKind,
    /// As lists have it by `after`; with `proofs`, its path leads to the head told last.
    pub item: Item,
}

/// What is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushKind {
    /// A message.
    Message,
    /// The deletion of one, with its signed statement if it has one.
    Delete,
}

impl PushKind {
    /// Of an item.
    #[must_use]
    pub fn of(item: &Item) -> Self {
        if item.tombstone.is_some() { Self::Delete } else { Self::Message }
    }
}

fn one() -> u32 {
    1
}

fn window() -> u16 {
    DEFAULT_WINDOW
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_hello_asks_for_everything_from_now_on_with_proofs() {
        let Control::Hello(hello) = serde_json::from_str(r#"{"type":"hello"}"#).unwrap() else {
            panic!("a hello")
        };
        assert_eq!((hello.ver, hello.window, hello.proofs), (1, DEFAULT_WINDOW, true));
        assert!(hello.cursor.is_none() && hello.after.is_none() && hello.conversations.is_none());
    }

    #[test]
    fn what_is_no_control_is_not_read_as_one() {
        for bad in [
            r#"{"type":"ack"}"#,
            r#"{"type":"ack","cursor":-1}"#,
            r#"{"type":"ack","cursor":"1"}"#,
            r#"{"type":"hello","cursor":"Not A Name"}"#,
            r#"{"type":"hello","window":65536}"#,
            r#"{"type":"hello","conversations":["x"]}"#,
            r#"{"type":"hello","conversations":"all"}"#,
            r#"{"type":"delete"}"#,
            r#"{"type":"message"}"#,
            r#"{"cursor":1}"#,
        ] {
            assert!(serde_json::from_str::<Control>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_push_keeps_the_bytes_of_ad() {
        let conv = "ab".repeat(32);
        let json = format!(
            r#"{{"type":"message","item":{{"msg_id":"m","conv_id":"{conv}","sender_device":"d","cipher":"Yw==","ad":{{"n": 1.50}},"ts":1,"sth_index":2}}}}"#
        );
        let push: Push = serde_json::from_str(&json).unwrap();
        assert_eq!((push.kind, push.item.ad.get()), (PushKind::Message, r#"{"n": 1.50}"#));
        assert_eq!(serde_json::to_string(&push).unwrap(), json);
    }
}
