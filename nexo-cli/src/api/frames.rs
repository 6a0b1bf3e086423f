//! What the relay says on a socket, as a client acts upon it.

use nexo_schema::error::{ErrorCode, Problem};
use nexo_schema::http::{Item, Receipt};
use nexo_schema::ids::MsgId;
use nexo_schema::stream::Push;
use nexo_schema::ws::{CLOSE_FORBIDDEN, CLOSE_MALFORMED, CLOSE_UNAUTHORIZED, Farewell, Notice};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::ApiError;
use super::socket::ended;

/// What was heard. Items, heads and receipts are not verified.
#[derive(Debug)]
pub enum Heard {
    /// The answer to a hello.
    Greeting(Greeting),
    /// There is something new; on a socket without a hello.
    Ring,
    /// The head to which the paths of the items after it lead.
    Head {
        /// The signed checkpoint.
        note: String,
        /// The consistency proof from the head told before, or from the hello's `tree_size`.
        consistency: Option<Vec<String>>,
    },
    /// A message or a deletion.
    Item(Box<Item>),
    /// An envelope of ours is in the log, durably.
    Ack(Box<Ack>),
    /// An envelope of ours is refused; without an id, a hello or an ack.
    Refused {
        /// Which.
        msg_id: Option<MsgId>,
        /// Why.
        problem: Problem,
    },
    /// Few one-time prekeys of this device are left.
    PrekeysLow,
}

/// What the relay answers to a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Everything behind this position will be sent.
    pub after: u64,
    /// Items sent beyond the newest ack.
    pub window: u16,
    /// Seconds between the relay's pings.
    pub ping_every: u32,
    /// Entries in the log.
    pub size: u64,
}

/// That an envelope is in the log.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The envelope.
    pub msg_id: MsgId,
    /// Position in the log, from 1, by the word of the relay.
    pub sth_index: u64,
    /// The device had sent the same before.
    pub duplicate: bool,
    /// It proves the position; native devices always get one.
    pub receipt: Option<Receipt>,
}

/// Reads a frame; `None` for one that says nothing to act upon. A frame that ends the socket is
/// an error, which says whether to come back.
pub(super) fn read(frame: Message) -> Result<Option<Heard>, ApiError> {
    match frame {
        Message::Text(text) => heard(&text),
        // Pings are answered by tungstenite as the stream is polled.
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        Message::Binary(_) => Err(malformed()),
        Message::Close(close) => Err(closed(close)),
    }
}

/// The one field by which frames are told apart. [`Notice`] and [`Push`] are not read as one
/// enum: what tries both would lose the bytes of `ad`.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn heard(text: &str) -> Result<Option<Heard>, ApiError> {
    let kind: Kind = json(text)?;
    match kind.kind.as_deref() {
        Some("message" | "delete") => Ok(Some(Heard::Item(Box::new(json::<Push>(text)?.item)))),
        Some("head" | "hello" | "ack" | "nack" | "prekeys_low" | "device_revoked" | "bye") => {
            notice(json(text)?).map(Some)
        }
        // The seed's envelopes, which are not for this socket, and what is newer than this program.
        _ => Ok(None),
    }
}

fn notice(notice: Notice) -> Result<Heard, ApiError> {
    Ok(match notice {
        Notice::Head { head: None, .. } => Heard::Ring,
        Notice::Head { head: Some(note), consistency, .. } => Heard::Head { note, consistency },
        Notice::Hello { after, window, ping_every, size, .. } => {
            Heard::Greeting(Greeting { after, window, ping_every, size })
        }
        Notice::Ack { msg_id, sth_index, duplicate, receipt, .. } => {
            Heard::Ack(Box::new(Ack { msg_id, sth_index, duplicate, receipt }))
        }
        Notice::Nack { msg_id, problem } => Heard::Refused { msg_id, problem },
        Notice::PrekeysLow { .. } => Heard::PrekeysLow,
        Notice::DeviceRevoked { .. } => {
            let words = "this device was revoked";
            return Err(ApiError::Refused(Problem::new(ErrorCode::Unauthorized, words)));
        }
        Notice::Bye { reason, retry_after, .. } => return Err(sent_away(reason, retry_after)),
    })
}

fn closed(close: Option<CloseFrame>) -> ApiError {
    let Some(close) = close else { return ended() };
    let reason = match u16::from(close.code) {
        1001 => Farewell::Shutdown,
        1013 => Farewell::Busy,
        1011 => Farewell::Internal,
        CLOSE_UNAUTHORIZED => Farewell::Unauthorized,
        CLOSE_FORBIDDEN => Farewell::Forbidden,
        CLOSE_MALFORMED | 1002 | 1003 | 1007 | 1009 => Farewell::Malformed,
        _ => return ended(),
    };
    sent_away(reason, None)
}

/// Why the relay ended a socket, as it would say it over REST.
fn sent_away(reason: Farewell, retry_after: Option<u64>) -> ApiError {
    let (code, words) = match reason {
        Farewell::Shutdown => (ErrorCode::Unavailable, "the relay shuts down"),
        Farewell::Busy => (ErrorCode::Unavailable, "the relay is busy"),
        Farewell::Internal => (ErrorCode::Unavailable, "the relay has failed"),
        Farewell::Unauthorized => (ErrorCode::Unauthorized, "the login is not valid any more"),
        Farewell::Forbidden => (ErrorCode::Forbidden, "this device may not read that"),
        Farewell::Malformed => (ErrorCode::BadRequest, "a frame was not understood"),
    };
    ApiError::Refused(Problem { retry_after, ..Problem::new(code, words) })
}

fn json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ApiError> {
    serde_json::from_str(text).map_err(|_| malformed())
}

fn malformed() -> ApiError {
    ApiError::Malformed { route: "GET /ws".to_owned(), expected: "a frame of the protocol" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    fn text(json: &str) -> Result<Option<Heard>, ApiError> {
        read(Message::text(json))
    }

    #[test]
    fn frames_are_told_apart() {
        let item = format!(
            r#""item":{{"msg_id":"m","conv_id":"{}","sender_device":"d","cipher":"","ad":{{"n": 1.50}},"ts":1,"sth_index":2}}"#,
            "ab".repeat(32)
        );
        for kind in ["message", "delete"] {
            let Some(Heard::Item(item)) = text(&format!(r#"{{"type":"{kind}",{item}}}"#)).unwrap()
            else {
                panic!("an item")
            };
            assert_eq!(item.ad.get(), r#"{"n": 1.50}"#, "byte for byte");
        }
        assert!(matches!(text(r#"{"type":"head","size":7}"#), Ok(Some(Heard::Ring))));
        let head = text(r#"{"type":"head","size":7,"head":"note","consistency":["x"]}"#);
        assert!(matches!(head, Ok(Some(Heard::Head { note, .. })) if note == "note"));
        let ack = text(r#"{"type":"ack","msg_id":"m","sth_index":2,"ts":3,"duplicate":true}"#);
        assert!(matches!(ack, Ok(Some(Heard::Ack(ack))) if ack.duplicate && ack.sth_index == 2));
        for unknown in [r#"{"type":"typing","who":"x"}"#, r#"{"ver":1}"#] {
            assert!(matches!(text(unknown), Ok(None)), "{unknown}");
        }
        for bad in [r#"{"type":"message"}"#, r#"{"type":"ack"}"#, "[]", "", r#"{"type":1}"#] {
            assert!(matches!(text(bad), Err(ApiError::Malformed { .. })), "{bad}");
        }
        assert!(read(Message::Binary(Vec::new().into())).is_err());
    }

    #[test]
    fn an_end_says_whether_to_come_back() {
        let bye = |reason: &str| text(&format!(r#"{{"type":"bye",{reason},"cursor":3}}"#));
        let error = bye(r#""reason":"shutdown","retry_after":2"#).unwrap_err();
        assert!(error.is_temporary());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        for fatal in ["unauthorized", "forbidden", "malformed"] {
            let error = bye(&format!(r#""reason":"{fatal}""#)).unwrap_err();
            assert!(!error.is_temporary(), "{fatal}");
        }
        assert!(!text(r#"{"type":"device_revoked","device_id":"d"}"#).unwrap_err().is_temporary());
        let close = |code: u16| {
            let code = CloseCode::from(code);
            read(Message::Close(Some(CloseFrame { code, reason: "".into() }))).unwrap_err()
        };
        for (code, temporary) in
            [(1001, true), (1013, true), (1011, true), (1000, true), (4401, false), (4400, false)]
        {
            assert_eq!(close(code).is_temporary(), temporary, "{code}");
        }
        assert_eq!(close(4401).code(), Some(ErrorCode::Unauthorized));
        assert!(read(Message::Close(None)).unwrap_err().is_temporary());
    }
}
