//! Requests and sockets as bytes: what a test says is what is sent.

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::{DEADLINE, Server};

/// What no refusal may tell of the relay's inside.
const INSIDE: [&str; 11] = [
    "diesel",
    "sqlite",
    "postgres",
    "libpq",
    "connection",
    "panicked",
    "rocket",
    ".rs:",
    "src/",
    "serde::",
    "/tmp",
];

/// A way to one relay, with a token or without. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Wire {
    http: reqwest::Client,
    /// The relay's base URL.
    pub(crate) url: String,
    /// Sent as `Authorization: Bearer`.
    pub(crate) token: Option<String>,
}

impl Wire {
    /// Without a token.
    pub(crate) fn new(http: reqwest::Client, url: &str) -> Self {
        Self { http, url: url.to_owned(), token: None }
    }

    /// With this token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], Vec::new()).await
    }

    /// POST of a JSON body.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, &[], body.to_string().into_bytes()).await
    }

    /// POST of any bytes.
    pub(crate) async fn post_bytes(&self, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        self.call("POST", path, &[], body.into()).await
    }

    /// Any request; the token goes along.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Reply {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let answer = request.send().await.unwrap_or_else(|e| panic!("{path}: {e:?}"));
        Reply {
            asked: path.to_owned(),
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.bytes().await.unwrap().to_vec(),
        }
    }
}

/// Sends bytes over a connection of their own and reads all that comes back. For requests that
/// no HTTP library would send.
pub(crate) fn raw(server: &Server, request: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // A relay that answers early may have closed its side.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // A reset after the answer, because not all of the request was read.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => {
            let asked = String::from_utf8_lossy(&request[..request.len().min(200)]);
            let so_far = String::from_utf8_lossy(&answer);
            panic!("no end of the answer to {asked:?}: {e}: {so_far}");
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// An answer.
pub(crate) struct Reply {
    asked: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The body of a 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        self.json()
    }

    /// A header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Judges a refusal: this status and code, as a problem document that tells nothing of the
    /// relay's inside.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.refusal();
        assert_eq!((self.status, &problem["code"]), (status, &Value::from(code)), "{self:?}");
        problem
    }

    /// Judges the answer of a relay that cannot do it now: 503, and when to come back.
    pub(crate) fn unavailable(&self) {
        let problem = self.judged();
        assert_eq!((self.status, &problem["code"]), (503, &"unavailable".into()), "{self:?}");
        let seconds: u64 = self.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{self:?}");
    }

    /// Judges a refusal of any 4xx status.
    pub(crate) fn refusal(&self) -> Value {
        assert!((400..500).contains(&self.status), "{self:?}");
        self.judged()
    }

    fn judged(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("urn:nexo:error:{code}"));
        assert!(problem["title"].is_string(), "{self:?}");
        let detail = problem["detail"].as_str().unwrap().to_lowercase();
        assert!(!detail.is_empty());
        for inside in INSIDE {
            assert!(!detail.contains(inside), "{inside} is in {self:?}");
        }
        problem
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{} answered {}: {}", self.asked, self.status, body.get(..500).unwrap_or(&body))
    }
}

/// A socket of a test.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens `/ws` with this query (without `?`) and these headers.
    pub(crate) async fn open(url: &str, query: &str, headers: &[(&'static str, &str)]) -> Self {
        let url = url.replacen("http", "ws", 1);
        let mut request = format!("{url}/ws?{query}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
        }
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let opened = connect_async_with_config(request, Some(config), true);
        let (stream, _) = timeout(DEADLINE, opened).await.unwrap().unwrap();
        Self(stream)
    }

    /// Waits until the relay serves the socket: it answers a ping.
    pub(crate) async fn settled(mut self) -> Self {
        self.0.send(Message::Ping("?".into())).await.unwrap();
        match timeout(DEADLINE, self.0.next()).await.expect("a pong in time") {
            Some(Ok(Message::Pong(_))) => self,
            other => panic!("expected a pong: {other:?}"),
        }
    }

    /// Sends a JSON frame.
    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends a text frame.
    pub(crate) async fn send_text(&mut self, frame: &str) {
        self.0.send(Message::text(frame)).await.unwrap();
    }

    /// Sends a frame of any kind; the relay may have hung up already.
    pub(crate) async fn send_any(&mut self, frame: Message) {
        let _ = self.0.send(frame).await;
    }

    /// Writes bytes that need not be a frame.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next text frame, byte for byte.
    pub(crate) async fn next_text(&mut self) -> String {
        match self.read().await {
            Some(Message::Text(text)) => text.to_string(),
            other => panic!("expected a text frame: {other:?}"),
        }
    }

    /// The next frame as JSON.
    pub(crate) async fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text().await).unwrap()
    }

    /// Says hello with these fields; the relay's hello. A ring may come in between, from what was
    /// committed just before.
    pub(crate) async fn hello(&mut self, mut fields: Value) -> Value {
        fields["type"] = "hello".into();
        self.send(&fields).await;
        loop {
            let frame = self.next().await;
            if frame["type"] == "hello" {
                return frame;
            }
            assert_eq!(frame["type"], "head", "{frame}");
        }
    }

    /// The code with which the relay closes; it may send frames before. A connection that just
    /// ends is no clean close.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match self.read().await {
                Some(Message::Close(Some(frame))) => return frame.code.into(),
                Some(Message::Text(_)) => {}
                other => panic!("expected a close frame: {other:?}"),
            }
        }
    }

    /// The code with which the relay closes, having sent nothing more.
    pub(crate) async fn closed_at_once(&mut self) -> u16 {
        match self.read().await {
            Some(Message::Close(Some(frame))) => frame.code.into(),
            other => panic!("expected a close frame and nothing else: {other:?}"),
        }
    }

    /// The same, but that a ring may come first of what was committed before: whoever posts is
    /// answered just before others hear of it.
    pub(crate) async fn closed_after_rings(&mut self, size: u64) -> u16 {
        loop {
            match self.read().await {
                Some(Message::Close(Some(frame))) => return frame.code.into(),
                Some(Message::Text(text)) => {
                    let ring: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(ring["type"], "head", "{ring}");
                    assert!(super::number(&ring["size"]) <= size, "{ring} behind {size}");
                }
                other => panic!("expected rings and a close frame: {other:?}"),
            }
        }
    }

    /// Frames up to and with the one named `msg_id`, or up to a clean close and its code.
    pub(crate) async fn until(&mut self, msg_id: &str) -> (Vec<Value>, Option<u16>) {
        let mut frames: Vec<Value> = Vec::new();
        loop {
            match self.read().await {
                Some(Message::Text(text)) => frames.push(serde_json::from_str(&text).unwrap()),
                Some(Message::Close(Some(end))) => return (frames, Some(end.code.into())),
                other => panic!("expected a frame or a close: {other:?}"),
            }
            if frames.last().is_some_and(|frame| frame["msg_id"] == msg_id) {
                return (frames, None);
            }
        }
    }

    /// What comes next, but for pings.
    async fn read(&mut self) -> Option<Message> {
        // The relay's pings do not move the deadline.
        let end = Instant::now() + DEADLINE;
        loop {
            match timeout_at(end, self.0.next()).await.expect("a frame in time") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(frame)) => return Some(frame),
                Some(Err(Error::ConnectionClosed)) | None => return None,
                Some(Err(error)) => panic!("the socket broke: {error}"),
            }
        }
    }
}
