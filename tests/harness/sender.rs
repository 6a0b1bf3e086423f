//! One client that keeps sending to a server which may vanish or refuse, and says what it saw.
//!
//! Unlike the clients of the rest of the harness it expects trouble: it comes back when it is told
//! to, under the same msg_id, and gives up when nobody answers any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::plain::{frame, message};
use super::{number, text};

/// How long a sender waits that was told to come back. Less than it was told (a second or
/// more), so that the tests hurry.
const IMPATIENCE: Duration = Duration::from_millis(50);

/// The close code of a relay that will be back (PROTOCOL.md 9).
pub(crate) const LATER: u16 = 1013;

/// What a client saw.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A message of this sender has its place.
    Acked { who: usize, msg_id: String, index: u64 },
    /// A head, signed.
    Head(String),
    /// It was told to come back later, and will.
    Refused { who: usize },
    /// It sent this and was never answered; it has given up.
    Lost { who: usize, msg_id: String },
}

impl Seen {
    /// Whose message has its place.
    pub(crate) fn acked(&self) -> Option<usize> {
        if let Self::Acked { who, .. } = self { Some(*who) } else { None }
    }

    /// Who was told to come back.
    pub(crate) fn refused(&self) -> Option<usize> {
        if let Self::Refused { who } = self { Some(*who) } else { None }
    }
}

/// Says what head a server serves, whenever that is another one.
pub(super) async fn watch(
    http: reqwest::Client,
    url: String,
    stop: Arc<AtomicBool>,
    tell: UnboundedSender<Seen>,
) {
    let mut last = String::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(answer) = http.get(&url).send().await else { return };
        assert_eq!(answer.status(), 200, "{url}");
        let Ok(note) = answer.text().await else { return };
        if note == last {
            // Nothing is new; the machine has better things to do.
            sleep(Duration::from_millis(1)).await;
        } else if tell.send(Seen::Head(note.clone())).is_err() {
            return;
        }
        last = note;
    }
}

pub(super) type Stream =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// One sender of one round.
pub(super) struct Work {
    pub(super) who: usize,
    pub(super) round: usize,
    pub(super) url: String,
    pub(super) token: String,
    pub(super) conv: String,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) tell: UnboundedSender<Seen>,
}

/// What became of a request.
enum Answer {
    /// It has its place.
    Stored(Value),
    /// It is to come again later: this one, or all that were sent.
    Later(Option<String>),
    /// There is nobody who answers.
    Gone,
}

impl Work {
    fn msg_id(&self, number: usize) -> String {
        format!("{}-{}-{number}", self.round, self.who)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    // Nobody listens any more when the test has failed already.
    fn tell(&self, seen: Seen) {
        let _ = self.tell.send(seen);
    }

    fn acked(&self, message: &Value) {
        let (msg_id, index) = (text(&message["msg_id"]), number(&message["sth_index"]));
        self.tell(Seen::Acked { who: self.who, msg_id, index });
    }

    fn lost(&self, msg_id: String) {
        self.tell(Seen::Lost { who: self.who, msg_id });
    }

    /// One after the other, until the load is to end or nobody answers.
    pub(super) async fn over_rest(self, http: reqwest::Client) {
        for number in 0.. {
            let msg_id = self.msg_id(number);
            loop {
                match self.post(&http, &msg_id).await {
                    Answer::Stored(answer) => {
                        self.acked(&answer["message"]);
                        self.tell(Seen::Head(text(&answer["receipt"]["head"])));
                        break;
                    }
                    Answer::Later(_) if !self.is_over() => {
                        self.tell(Seen::Refused { who: self.who });
                        sleep(IMPATIENCE).await;
                    }
                    Answer::Later(_) | Answer::Gone => return self.lost(msg_id),
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    async fn post(&self, http: &reqwest::Client, msg_id: &str) -> Answer {
        let request = http.post(format!("{}/messages?receipt=1", self.url));
        let request = request.bearer_auth(&self.token).body(body(&self.conv, msg_id).to_string());
        let Ok(answer) = request.send().await else { return Answer::Gone };
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let Ok(bytes) = answer.bytes().await else { return Answer::Gone };
        let said = String::from_utf8_lossy(&bytes);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        match status {
            200 => Answer::Stored(said),
            503 => {
                assert!(headers.contains_key("retry-after"), "{headers:?} {said}");
                assert_eq!(said["code"], "unavailable", "{said}");
                Answer::Later(None)
            }
            _ => panic!("{} answered {status}: {said}", self.url),
        }
    }

    /// Opens the socket; an error if nobody is there.
    pub(super) async fn socket(&self) -> Result<Stream, Error> {
        let url = self.url.replacen("http", "ws", 1);
        let mut request = format!("{url}/ws?conv_id={}", self.conv).into_client_request()?;
        let token = HeaderValue::from_str(&format!("Bearer {}", self.token)).unwrap();
        request.headers_mut().insert("authorization", token);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let opened = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
        Ok(opened.await?.0)
    }

    /// Four at a time, so that the power finds some in every state.
    pub(super) async fn over_a_socket(self, mut socket: Stream) {
        // What was refused may have been stored nevertheless, and is then shown twice.
        let mut refused = BTreeSet::new();
        for batch in 0.. {
            let mut open: BTreeSet<String> = (0..4).map(|n| self.msg_id(batch * 4 + n)).collect();
            let mut unsent: Vec<String> = open.iter().cloned().collect();
            while !open.is_empty() {
                for msg_id in std::mem::take(&mut unsent) {
                    let frame = frame(&self.conv, &msg_id, &msg_id).to_string();
                    // A socket that is gone is noticed where it is read.
                    let _ = socket.send(Message::text(frame)).await;
                }
                match self.answer(&mut socket).await {
                    Answer::Stored(seen) => {
                        let msg_id = text(&seen["msg_id"]);
                        assert!(open.remove(&msg_id) || refused.contains(&msg_id), "{seen}");
                        self.acked(&seen);
                    }
                    Answer::Later(which) if !self.is_over() => {
                        self.tell(Seen::Refused { who: self.who });
                        sleep(IMPATIENCE).await;
                        let again = which.map_or_else(|| open.clone(), |one| [one].into());
                        refused.extend(again.iter().cloned());
                        unsent.extend(again);
                    }
                    Answer::Later(_) | Answer::Gone => {
                        return open.into_iter().for_each(|msg_id| self.lost(msg_id));
                    }
                }
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// What the socket says next. One that was closed because the relay cannot serve it now is
    /// opened again.
    async fn answer(&self, socket: &mut Stream) -> Answer {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(frame))) => {
                    let seen: Value = serde_json::from_str(&frame).unwrap();
                    if seen["type"] != "nack" {
                        return Answer::Stored(seen);
                    }
                    assert_eq!(seen["problem"]["code"], "unavailable", "{seen}");
                    return Answer::Later(Some(text(&seen["msg_id"])));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == LATER => {
                    match self.socket().await {
                        Ok(opened) => *socket = opened,
                        // Closed it stays; the next answer is asked of a closed one.
                        Err(Error::Http(refusal)) => assert_eq!(refusal.status(), 503),
                        Err(_) => return Answer::Gone,
                    }
                    return Answer::Later(None);
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Answer::Gone,
                Some(Ok(other)) => panic!("{other:?}"),
            }
        }
    }
}

/// The request for a message of the seed under this id.
pub(super) fn body(conv: &str, msg_id: &str) -> Value {
    let mut body = message(conv, msg_id);
    body["msg_id"] = msg_id.into();
    body
}
