//! The shapes of load: what clients do, and the messages they do it with.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nexo_schema::bytes::to_base64;
use nexo_schema::ids::MsgId;
use nexo_scripts::account::Seat;
use serde::Deserialize;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// REST, keep-alive, one request in flight each.
    Rest {
        /// How many.
        clients: usize,
    },
    /// WebSockets.
    Socket {
        /// How many.
        connections: usize,
        /// Messages in flight on each.
        in_flight: usize,
        /// In which frames.
        talk: Talk,
    },
}

/// The frames of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Talk {
    /// `send` and `ack`, on the account's socket.
    Acks,
    /// The same with a receipt in each `ack`.
    Receipts,
    /// The seed's envelopes, on the conversation's socket: one's own, come back, is the
    /// acknowledgement.
    Seed,
}

impl Shape {
    /// Accounts it takes.
    pub(crate) fn seats(&self) -> usize {
        match *self {
            Self::Rest { clients } => clients,
            Self::Socket { connections, .. } => connections,
        }
    }

    /// Whether never more than one message is in flight.
    pub(crate) fn is_alone(&self) -> bool {
        match *self {
            Self::Rest { clients } => clients == 1,
            Self::Socket { connections, in_flight, .. } => connections * in_flight == 1,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest { clients } => write!(f, "REST {clients} x 1"),
            Self::Socket { connections, in_flight, talk } => {
                write!(
                    f,
                    "WS {connections} x {in_flight}{}",
                    match talk {
                        Talk::Acks => "",
                        Talk::Receipts => ", receipts",
                        Talk::Seed => ", seed",
                    }
                )
            }
        }
    }
}

/// A worker's messages: all alike but for the id, which holds the message's number. It is laid out
/// as native clients do it, by time: where an id lies in the relay's index is part of its work.
#[derive(Debug, Clone)]
pub(crate) struct Letters {
    before_id: String,
    lane: u32,
    after_id: &'static str,
}

/// Low bits of what a client may draw for an id, which number the message; the rest is its worker's.
const NUMBER_BITS: u32 = 52;

/// What an id has behind its second fixed field.
const LOW: u128 = (1 << 62) - 1;

/// Workers so far in this process: no two use the same ids.
static LANES: AtomicU32 = AtomicU32::new(0);

impl Letters {
    /// Messages of `payload` bytes of ciphertext into the conversation of `seat`.
    pub(crate) fn new(seat: &Seat, shape: Shape, payload: usize) -> Self {
        // What a server does with ciphertext does not depend on its bits.
        let cipher = to_base64(&vec![0x5a; payload]);
        let conv = &seat.conv;
        let first = match shape {
            Shape::Rest { .. } => "",
            Shape::Socket { talk: Talk::Acks, .. } => r#""type":"send","#,
            Shape::Socket { talk: Talk::Receipts, .. } => r#""type":"send","receipt":true,"#,
            Shape::Socket { talk: Talk::Seed, .. } => r#""ver":1,"#,
        };
        Self {
            before_id: format!(
                r#"{{{first}"conv_id":"{conv}","cipher":"{cipher}","ad":{{"type":"text"}},"msg_id":""#
            ),
            lane: LANES.fetch_add(1, Ordering::Relaxed),
            after_id: r#""}"#,
        }
    }

    /// Message `number`, of at most [`NUMBER_BITS`] bits, as JSON.
    pub(crate) fn write(&self, number: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = self.id(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), number);
        format!("{}{id}{}", self.before_id, self.after_id)
    }

    fn id(&self, millis: u64, number: u64) -> MsgId {
        let drawn = u128::from(self.lane) << NUMBER_BITS | u128::from(number);
        // The layout has two bits of its own between the low 62 and the rest.
        let spread = drawn >> 62 << 64 | drawn & LOW;
        let mut random = [0; 10];
        random.copy_from_slice(&spread.to_be_bytes()[6..]);
        MsgId::native(&MsgId::timed(millis, random))
    }

    /// The number of the message with this id, if it is one of these.
    pub(crate) fn number(&self, msg_id: &str) -> Option<u64> {
        let id = u128::from_be_bytes(MsgId::parse(msg_id).ok()?.native_bytes()?);
        let drawn = id >> 64 << 62 & ((1 << 74) - 1) | id & LOW;
        (drawn >> NUMBER_BITS == u128::from(self.lane))
            .then(|| u64::try_from(drawn & ((1 << NUMBER_BITS) - 1)).ok())
            .flatten()
    }
}

/// What both servers answer about a message: bare in a frame, inside `message` over REST.
#[derive(Debug, Deserialize)]
pub(crate) struct Placed<'a> {
    /// Of a frame; absent in the seed's envelopes and over REST.
    #[serde(rename = "type", default)]
    pub(crate) kind: Option<&'a str>,
    /// Which one; absent in bells.
    #[serde(default)]
    pub(crate) msg_id: Option<&'a str>,
    /// Its place in the log, from 1; absent in refusals and bells.
    #[serde(default)]
    pub(crate) sth_index: Option<u64>,
}

impl Placed<'_> {
    /// Whether it only says that the log has grown.
    pub(crate) fn is_bell(&self) -> bool {
        self.kind == Some("head")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::http::SendRequest;
    use nexo_schema::ws::Submit;

    const SOCKET: Shape = Shape::Socket { connections: 1, in_flight: 1, talk: Talk::Seed };

    #[test]
    fn letters_are_what_the_contract_says_and_are_known_again() {
        let seat = Seat { token: "t".into(), device: "d".into(), conv: "ab".repeat(32) };
        let rest = Letters::new(&seat, Shape::Rest { clients: 1 }, 300);
        let text = rest.write(77);
        let request: SendRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(request.cipher.len(), 400);
        let msg_id = request.msg_id.unwrap();
        assert!(msg_id.native_bytes().is_some());
        assert_eq!(rest.number(msg_id.as_str()), Some(77));
        let largest = (1 << NUMBER_BITS) - 1;
        assert_eq!(rest.number(rest.id(1, largest).as_str()), Some(largest));
        assert!(rest.id(1, largest) < rest.id(2, 0), "they ascend with time");
        let socket = Letters::new(&seat, SOCKET, 1);
        let frame: Submit = serde_json::from_str(&socket.write(1)).unwrap();
        assert_eq!((frame.ver, frame.conv_id.to_string()), (1, seat.conv));
        assert_eq!(socket.number(msg_id.as_str()), None, "another worker's");
        assert_eq!(socket.number("é"), None);
    }

    #[test]
    fn a_shape_says_what_it_is() {
        let shape = |in_flight, talk| Shape::Socket { connections: 1, in_flight, talk };
        assert_eq!(shape(1, Talk::Acks).to_string(), "WS 1 x 1");
        assert_eq!(shape(32, Talk::Receipts).to_string(), "WS 1 x 32, receipts");
        assert!(shape(1, Talk::Acks).is_alone() && !shape(2, Talk::Acks).is_alone());
        assert!(!Shape::Rest { clients: 2 }.is_alone());
    }

    #[test]
    fn a_bell_is_no_answer() {
        let placed = |text| serde_json::from_str::<Placed<'_>>(text).unwrap();
        assert!(placed(r#"{"type":"head","size":7}"#).is_bell());
        let ack = placed(r#"{"type":"ack","msg_id":"m","sth_index":7,"ts":1}"#);
        assert_eq!((ack.is_bell(), ack.msg_id, ack.sth_index), (false, Some("m"), Some(7)));
        let nack = placed(r#"{"type":"nack","msg_id":"m","problem":{}}"#);
        assert_eq!((nack.is_bell(), nack.msg_id, nack.sth_index), (false, Some("m"), None));
    }
}
