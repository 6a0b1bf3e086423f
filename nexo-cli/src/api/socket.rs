//! A WebSocket to the relay, as this device: frames out, frames in, and whether anybody is there.
//!
//! After [`Socket::hello`] the relay sends the messages themselves, with heads and proofs, and
//! keeps to a window that acks open. Without it the socket only rings. On either, envelopes may
//! be sent and are answered. Nothing here judges what the relay says: items go to `receive`,
//! receipts to `deliver`.
//!
//! Frames are put in a queue and leave while the socket is read, so that a client that sends
//! much and a relay that answers much never wait for each other. Whoever does not read does not
//! send.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt as _, Sink as _, Stream as _};
use nexo_schema::stream::{Control, Hello};
use reqwest::Method;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};

use super::frames::{Greeting, Heard, read};
use super::{ApiError, Member, refusal};
use nexo_schema::error::ErrorCode;

const PATH: &str = "/ws";
/// Longest frame taken: an item has at most 80 KiB of ciphertext and 4 KiB of each other part,
/// in base64, and 64 hashes.
const MAX_FRAME: usize = 512 * 1024;
/// tungstenite's default of 128 KiB per socket is for more than a client has.
const READ_BUFFER: usize = 32 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the relay may be silent before a hello says how often it pings.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bounds of what a relay can make of that.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
const MOST_PATIENCE: Duration = Duration::from_secs(75);

/// An open socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Frames that have not left.
    out: VecDeque<Message>,
    /// Why nothing leaves any more. What the relay said before is still read.
    failed: Option<ApiError>,
    /// Silence after which the other side is taken to be gone. After half of it, it is asked.
    patience: Duration,
    asked: bool,
    /// When the silence is next thought about.
    until: Instant,
}

impl Socket {
    /// Connects. The proof is for this one upgrade.
    ///
    /// # Errors
    /// [`ApiError`]. That the relay does not take the token is heard later, as
    /// [`ErrorCode::Unauthorized`]; see [`Member::forget_token`].
    pub async fn connect(member: &Member<'_>) -> Result<Self, ApiError> {
        let relay = member.relay();
        let credentials = member.credentials(&Method::GET, PATH).await?;
        let mut request =
            relay.url.socket(PATH).as_str().into_client_request().map_err(|e| broken(&e))?;
        let headers = [("Authorization", credentials.authorization), ("DPoP", credentials.dpop)];
        for (name, value) in headers {
            let Some(value) = value else { continue };
            let value = HeaderValue::from_str(&value).map_err(|_| ApiError::Encoding)?;
            request.headers_mut().insert(name, value);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let connector = Some(Connector::Rustls(relay.tls.clone()));
        let connecting = connect_async_tls_with_config(request, Some(config), true, connector);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((stream, _))) => Ok(Self {
                stream,
                out: VecDeque::new(),
                failed: None,
                patience: PATIENCE,
                asked: false,
                until: Instant::now() + PATIENCE / 2,
            }),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(ApiError::Network("the WebSocket did not open in time".to_owned())),
        }
    }

    /// Connects and says hello: from now on the relay sends items.
    ///
    /// # Errors
    /// [`ApiError`]; a hello that the relay refuses is [`ApiError::Refused`].
    pub async fn hello(member: &Member<'_>, hello: &Hello) -> Result<(Self, Greeting), ApiError> {
        match Self::greeted(member, hello).await {
            // A token may end before its time, as when the relay's secret is replaced.
            Err(error) if error.code() == Some(ErrorCode::Unauthorized) => {
                member.forget_token();
                Self::greeted(member, hello).await
            }
            other => other,
        }
    }

    async fn greeted(member: &Member<'_>, hello: &Hello) -> Result<(Self, Greeting), ApiError> {
        let mut socket = Self::connect(member).await?;
        socket.say(&Control::Hello(hello.clone()))?;
        loop {
            match socket.next().await? {
                Heard::Greeting(greeting) => {
                    let patience = Duration::from_secs(greeting.ping_every.into()) * 5 / 2;
                    socket.patience = patience.clamp(LEAST_PATIENCE, MOST_PATIENCE);
                    socket.alive();
                    return Ok((socket, greeting));
                }
                Heard::Refused { msg_id: None, problem } => {
                    return Err(ApiError::Refused(problem));
                }
                // What was rung before the relay had read the hello.
                _ => {}
            }
        }
    }

    /// Says that everything up to a position, of an item that was heard here, is dealt with.
    ///
    /// # Errors
    /// [`ApiError::Encoding`].
    pub fn ack(&mut self, cursor: u64) -> Result<(), ApiError> {
        self.say(&Control::Ack { cursor })
    }

    fn say(&mut self, control: &Control) -> Result<(), ApiError> {
        let text = serde_json::to_string(control).map_err(|_| ApiError::Encoding)?;
        self.out.push_back(Message::text(text));
        Ok(())
    }

    /// Sends the exact bytes of a message, as `POST /messages` takes them. It is answered, in no
    /// fixed order, with [`Heard::Ack`] or [`Heard::Refused`] under its `msg_id`.
    ///
    /// # Errors
    /// [`ApiError::Encoding`] for what is no JSON object.
    pub fn submit(&mut self, request: &[u8]) -> Result<(), ApiError> {
        let text = std::str::from_utf8(request).map_err(|_| ApiError::Encoding)?;
        let rest = text.strip_prefix('{').ok_or(ApiError::Encoding)?;
        self.out.push_back(Message::text(format!("{{\"type\":\"send\",{rest}")));
        Ok(())
    }

    /// The next thing that the relay says; frames this version does not know are skipped. Frames
    /// of ours leave meanwhile. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ApiError`]: the socket has ended, and says why.
    pub async fn next(&mut self) -> Result<Heard, ApiError> {
        loop {
            let until = self.until;
            match timeout_at(until, self.frame()).await {
                Ok(frame) => {
                    let frame = frame?;
                    self.alive();
                    if let Some(heard) = read(frame)? {
                        return Ok(heard);
                    }
                }
                Err(_) if self.asked => {
                    let text = format!("nothing was heard of it for {:?}", self.patience);
                    return Err(ApiError::Network(text));
                }
                Err(_) => {
                    self.asked = true;
                    self.until = Instant::now() + self.patience / 2;
                    self.out.push_back(Message::Ping(Bytes::new()));
                }
            }
        }
    }

    /// As [`Socket::next`], if it is there already.
    ///
    /// # Errors
    /// As [`Socket::next`].
    pub fn ready(&mut self) -> Option<Result<Heard, ApiError>> {
        self.next().now_or_never()
    }

    fn alive(&mut self) {
        self.asked = false;
        self.until = Instant::now() + self.patience / 2;
    }

    async fn frame(&mut self) -> Result<Message, ApiError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, ApiError>> {
        if let Err(error) = self.write(cx) {
            self.out.clear();
            self.failed = Some(broken(&error));
        }
        match Pin::new(&mut self.stream).poll_next(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(frame)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(broken(&error))),
            Poll::Ready(None) => Poll::Ready(Err(ended())),
            Poll::Pending => match self.failed.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }

    /// Has what is queued leave, as far as there is room.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), SocketError> {
        let mut stream = Pin::new(&mut self.stream);
        while !self.out.is_empty() {
            match stream.as_mut().poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(()),
            }
            if let Some(frame) = self.out.pop_front() {
                stream.as_mut().start_send(frame)?;
            }
        }
        match stream.poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }
}

/// The connection is gone, and nobody said why.
pub(super) fn ended() -> ApiError {
    ApiError::Network("the connection ended".to_owned())
}

fn broken(error: &SocketError) -> ApiError {
    match error {
        SocketError::Http(response) => {
            let wait = response.headers().get("Retry-After").and_then(|v| v.to_str().ok());
            let wait = wait.and_then(|seconds| seconds.trim().parse().ok());
            let body = response.body().as_deref().unwrap_or_default();
            refusal(response.status().as_u16(), wait, body)
        }
        SocketError::Capacity(_) => {
            ApiError::TooLong { route: format!("GET {PATH}"), limit: MAX_FRAME }
        }
        other => ApiError::Network(other.to_string()),
    }
}
