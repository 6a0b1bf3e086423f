//! Power cuts: SIGKILL under load, at several moments.
//!
//! What a client was told is a promise: after every restart each acknowledged message is where
//! the acknowledgement said, every head that anyone saw is a prefix of the one served now, the
//! indexes have no gap, and what was not acknowledged can be sent again without doubling it.
//! An auditor that keeps its memory over all of it finds nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{SinkExt as _, StreamExt as _};
use nexo_audit::checkpoint::Checkpoint;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::harness::plain::{frame, message};
use crate::harness::reader::Reader;
use crate::harness::shell::Auditor;
use crate::harness::{DEADLINE, Plain, Server, number, text};

/// Acknowledgements after which the power goes, round by round.
const ROUNDS: [usize; 6] = [1, 9, 40, 90, 150, 220];
const REST_SENDERS: usize = 6;
const SOCKET_SENDERS: usize = 3;

/// What a client saw before the power went.
enum Seen {
    Acked {
        msg_id: String,
        index: u64,
    },
    Head(String),
    /// Sent, and never answered.
    Lost {
        who: usize,
        msg_id: String,
    },
}

/// All that clients were told over all rounds.
#[derive(Default)]
struct Told {
    messages: BTreeMap<u64, String>,
    heads: BTreeSet<String>,
}

impl Told {
    fn note(&mut self, seen: &Seen) {
        match seen {
            Seen::Acked { msg_id, index } => {
                let before = self.messages.insert(*index, msg_id.clone());
                assert!(before.is_none_or(|m| m == *msg_id), "two messages at {index}");
            }
            Seen::Head(note) => drop(self.heads.insert(note.clone())),
            Seen::Lost { .. } => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_sigkill() {
    let mut server = Server::start();
    let auditor = Auditor::new();
    let hub = Plain::new(&server, "hub").await;
    let mut senders = Vec::new();
    for number in 0..REST_SENDERS + SOCKET_SENDERS {
        let sender = Plain::new(&server, &format!("sender{number}")).await;
        let conv = sender.conversation("hub").await;
        senders.push((sender, conv));
    }
    let accounts = senders.len() as u64 + 1;
    let mut told = Told::default();
    for (round, acks) in ROUNDS.into_iter().enumerate() {
        let mut seen = load(&server, &senders, round).await;
        let mut acked = 0;
        while acked < acks {
            let event = seen.recv().await.expect("the load goes on until the power goes");
            acked += usize::from(matches!(event, Seen::Acked { .. }));
            told.note(&event);
        }
        server.kill9();
        let mut lost = Vec::new();
        while let Some(event) = seen.recv().await {
            told.note(&event);
            if let Seen::Lost { who, msg_id } = event {
                lost.push((who, msg_id));
            }
        }
        server.restart();
        check(&server, &hub, accounts, &told).await;
        send_again(&server, &senders, &hub, &lost, &mut told).await;
        auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    }
}

/// Starts all senders and somebody who watches the head. The channel ends when all have noticed
/// that the server is gone.
async fn load(
    server: &Server,
    senders: &[(Plain, String)],
    round: usize,
) -> UnboundedReceiver<Seen> {
    let (tell, seen) = unbounded_channel();
    let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
    for (who, (sender, conv)) in senders.iter().enumerate() {
        let work = Work {
            who,
            round,
            url: server.url().to_owned(),
            token: sender.token().to_owned(),
            conv: conv.clone(),
            tell: tell.clone(),
        };
        if who < REST_SENDERS {
            tokio::spawn(work.over_rest(http.clone()));
        } else {
            let socket = work.socket().await;
            tokio::spawn(work.over_a_socket(socket));
        }
    }
    tokio::spawn(watch(http, server.url().to_owned(), tell));
    seen
}

async fn watch(http: reqwest::Client, url: String, tell: UnboundedSender<Seen>) {
    while let Ok(answer) = http.get(format!("{url}/checkpoint")).send().await {
        let Ok(note) = answer.text().await else { return };
        if tell.send(Seen::Head(note)).is_err() {
            return;
        }
    }
}

type Stream =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// One sender of one round. Unlike the clients of the harness it expects its relay to vanish.
struct Work {
    who: usize,
    round: usize,
    url: String,
    token: String,
    conv: String,
    tell: UnboundedSender<Seen>,
}

impl Work {
    fn msg_id(&self, number: usize) -> String {
        format!("{}-{}-{number}", self.round, self.who)
    }

    fn acked(&self, message: &Value) {
        let (msg_id, index) = (text(&message["msg_id"]), number(&message["sth_index"]));
        // Nobody listens any more when the test has failed already.
        let _ = self.tell.send(Seen::Acked { msg_id, index });
    }

    fn lost(&self, msg_id: String) {
        let _ = self.tell.send(Seen::Lost { who: self.who, msg_id });
    }

    async fn over_rest(self, http: reqwest::Client) {
        for number in 0.. {
            let msg_id = self.msg_id(number);
            match self.post(&http, &msg_id).await {
                Some(answer) => {
                    self.acked(&answer["message"]);
                    let _ = self.tell.send(Seen::Head(text(&answer["receipt"]["head"])));
                }
                None => return self.lost(msg_id),
            }
        }
    }

    async fn post(&self, http: &reqwest::Client, msg_id: &str) -> Option<Value> {
        let request = http.post(format!("{}/messages?receipt=1", self.url));
        let request = request.bearer_auth(&self.token).body(body(&self.conv, msg_id).to_string());
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.ok()?;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    async fn socket(&self) -> Stream {
        let url = self.url.replacen("http", "ws", 1);
        let mut request = format!("{url}/ws?conv_id={}", self.conv).into_client_request().unwrap();
        let token = HeaderValue::from_str(&format!("Bearer {}", self.token)).unwrap();
        request.headers_mut().insert("authorization", token);
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let opened = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
        opened.await.unwrap().0
    }

    /// Four at a time, so that the power finds some in every state.
    async fn over_a_socket(self, mut socket: Stream) {
        for batch in 0.. {
            let mut open: BTreeSet<String> = (0..4).map(|n| self.msg_id(batch * 4 + n)).collect();
            for msg_id in &open {
                let frame = frame(&self.conv, msg_id, msg_id).to_string();
                let _ = socket.send(Message::text(frame)).await;
            }
            while !open.is_empty() {
                match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        assert!(open.remove(frame["msg_id"].as_str().unwrap()), "{frame}");
                        self.acked(&frame);
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => {
                        return open.into_iter().for_each(|msg_id| self.lost(msg_id));
                    }
                    Some(Ok(other)) => panic!("{other:?}"),
                }
            }
        }
    }
}

fn body(conv: &str, msg_id: &str) -> Value {
    let mut body = message(conv, msg_id);
    body["msg_id"] = msg_id.into();
    body
}

/// Everything in the log, by its index, as the hub reads it.
async fn stored(hub: &Plain, server: &Server) -> BTreeMap<u64, String> {
    let (mut found, mut after, mut more) = (BTreeMap::new(), 0, true);
    let wire = server.wire().with_token(hub.token());
    while more {
        let page = wire.get(&format!("/messages?after={after}&limit=1000")).await.ok();
        for item in page["items"].as_array().unwrap() {
            found.insert(number(&item["sth_index"]), text(&item["msg_id"]));
        }
        after = number(&page["next"]);
        more = page["more"].as_bool().unwrap();
    }
    found
}

/// Holds the relay to all it has ever said.
async fn check(server: &Server, hub: &Plain, accounts: u64, told: &Told) {
    let reader = Reader::of(server);
    let head = reader.head().await.checkpoint;
    let stored = stored(hub, server).await;
    for (index, msg_id) in &told.messages {
        assert_eq!(stored.get(index), Some(msg_id), "the message acknowledged at {index}");
    }
    let places: Vec<u64> = stored.keys().copied().collect();
    assert_eq!(places, (accounts + 1..=head.size).collect::<Vec<_>>(), "no gap");
    assert_eq!(stored.values().collect::<BTreeSet<_>>().len(), stored.len(), "no message twice");
    let mut heads: Vec<Checkpoint> = told.heads.iter().map(|note| reader.open(note)).collect();
    heads.sort_by_key(|head| head.size);
    // The time is renewed under the same head; equal ones need one proof.
    heads.dedup();
    for old in heads {
        reader.extends(&old, &head).await;
    }
}

/// Sends what was never answered once more, under its id: it is there once, wherever it was when
/// the power went.
async fn send_again(
    server: &Server,
    senders: &[(Plain, String)],
    hub: &Plain,
    lost: &[(usize, String)],
    told: &mut Told,
) {
    let before: BTreeSet<String> = stored(hub, server).await.into_values().collect();
    for (who, msg_id) in lost {
        let (sender, conv) = &senders[*who];
        let again = match *who < REST_SENDERS {
            true => body(conv, msg_id),
            // What came as {c,n} is stored as n || c.
            false => {
                let cipher = [&[7; 24], msg_id.as_bytes()].concat();
                json!({"conv_id": conv, "msg_id": msg_id, "ad": {"ts": 1, "type": "text"},
                       "cipher": nexo_schema::bytes::to_base64(&cipher)})
            }
        };
        let size = Reader::of(server).head().await.checkpoint.size;
        let wire = server.wire().with_token(sender.token());
        let answer = wire.post("/messages", &again).await.ok();
        let index = number(&answer["message"]["sth_index"]);
        assert_eq!(answer["duplicate"], before.contains(msg_id), "{answer}");
        if !before.contains(msg_id) {
            assert_eq!(index, size + 1, "the next place");
        }
        told.note(&Seen::Acked { msg_id: msg_id.clone(), index });
    }
}
