//! One measured window of one shape of load on one server.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nexo_schema::bytes::to_base64;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use crate::account::Seat;
use crate::http::HttpError;
use crate::process::cpu_time;
use crate::stats::{Sample, Window};
use crate::{rest, socket};

/// How long after the window the last answers may come.
const DRAIN: Duration = Duration::from_secs(30);

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
    },
}

impl Shape {
    /// Accounts it takes.
    pub(crate) fn seats(&self) -> usize {
        match *self {
            Self::Rest { clients } => clients,
            Self::Socket { connections, .. } => connections,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest { clients } => write!(f, "REST {clients} x 1"),
            Self::Socket { connections, in_flight } => write!(f, "WS {connections} x {in_flight}"),
        }
    }
}

/// How long, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    /// Before the window.
    pub(crate) warm_up: Duration,
    /// The window.
    pub(crate) measured: Duration,
    /// Bytes of ciphertext a message.
    pub(crate) payload: usize,
}

/// A server under load.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its process, where known.
    pub(crate) pid: Option<u32>,
    /// Who may write what.
    pub(crate) seats: Arc<Vec<Seat>>,
}

/// Why a window has no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveError {
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// WebSocket.
    #[error("the socket: {0}")]
    Socket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// The server closed a socket.
    #[error("the server closed the socket: {0}")]
    Closed(String),
    /// An acknowledgement of nothing that was sent.
    #[error("not an acknowledgement: {0}")]
    Stray(String),
    /// Answers are missing.
    #[error("answers were still missing {DRAIN:?} after the window")]
    Hung,
    /// A worker panicked.
    #[error("a worker ended: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

/// What a worker needs.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Its seat.
    pub(crate) seat: Seat,
    /// What counts, and when to stop.
    pub(crate) window: Window,
    /// The messages.
    pub(crate) letters: Letters,
}

/// Puts `shape` on `target` for one phase.
///
/// # Errors
/// [`DriveError`] of the first worker that fails.
pub(crate) async fn drive(
    target: &Target,
    shape: Shape,
    phase: Phase,
) -> Result<Sample, DriveError> {
    let opens = Instant::now() + phase.warm_up;
    let window = Window { opens, shuts: opens + phase.measured };
    let mut workers = JoinSet::new();
    for seat in target.seats.iter().take(shape.seats()).cloned() {
        let letters = Letters::new(&seat, shape, phase.payload);
        let worker = Worker { address: target.address, seat, window, letters };
        match shape {
            Shape::Rest { .. } => workers.spawn(rest::work(worker)),
            Shape::Socket { in_flight, .. } => workers.spawn(socket::work(worker, in_flight)),
        };
    }
    let cpu = cpu_between(target.pid, window);
    let all = async {
        let mut sample = Sample::default();
        while let Some(done) = workers.join_next().await {
            sample.add(done??);
        }
        Ok::<_, DriveError>(sample)
    };
    let all = async {
        timeout_at((window.shuts + DRAIN).into(), all).await.unwrap_or(Err(DriveError::Hung))
    };
    let (mut sample, cpu) = tokio::try_join!(all, async { Ok(cpu.await) })?;
    sample.measured = phase.measured;
    sample.cpu = cpu;
    Ok(sample)
}

/// CPU time a process uses within the window.
async fn cpu_between(pid: Option<u32>, window: Window) -> Option<Duration> {
    sleep_until(window.opens.into()).await;
    let before = cpu_time(pid?);
    sleep_until(window.shuts.into()).await;
    cpu_time(pid?)?.checked_sub(before?)
}

/// A worker's messages: all alike but for the id, which holds the message's number.
#[derive(Debug, Clone)]
pub(crate) struct Letters {
    before_id: String,
    lane: u32,
    after_id: &'static str,
}

/// Workers so far in this process: no two use the same ids.
static LANES: AtomicU32 = AtomicU32::new(0);

impl Letters {
    fn new(seat: &Seat, shape: Shape, payload: usize) -> Self {
        // What a server does with ciphertext does not depend on its bits.
        let cipher = to_base64(&vec![0x5a; payload]);
        let conv = &seat.conv;
        let version = if matches!(shape, Shape::Socket { .. }) { r#""ver":1,"# } else { "" };
        Self {
            before_id: format!(
                r#"{{{version}"conv_id":"{conv}","cipher":"{cipher}","ad":{{"type":"text"}},"msg_id":""#
            ),
            lane: LANES.fetch_add(1, Ordering::Relaxed),
            after_id: r#""}"#,
        }
    }

    /// Message `number`, as JSON.
    pub(crate) fn write(&self, number: u64) -> String {
        let Self { before_id, lane, after_id } = self;
        format!("{before_id}{lane:08x}{number:024x}{after_id}")
    }

    /// The number of the message with this id, if it is one of these.
    pub(crate) fn number(&self, msg_id: &str) -> Option<u64> {
        let (lane, number) = msg_id.split_at_checked(8)?;
        (u32::from_str_radix(lane, 16) == Ok(self.lane))
            .then(|| u64::from_str_radix(number, 16).ok())
            .flatten()
    }
}

/// What both servers answer about a message: bare in a frame, inside `message` over REST.
#[derive(Debug, Deserialize)]
pub(crate) struct Placed<'a> {
    /// Which one; absent in notices.
    #[serde(default)]
    pub(crate) msg_id: Option<&'a str>,
    /// Its place in the log, from 1; absent in notices.
    #[serde(default)]
    pub(crate) sth_index: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::http::SendRequest;
    use nexo_schema::ws::Submit;

    #[test]
    fn letters_are_what_the_contract_says_and_are_known_again() {
        let seat = Seat { token: "t".into(), conv: "ab".repeat(32) };
        let rest = Letters::new(&seat, Shape::Rest { clients: 1 }, 300);
        let text = rest.write(77);
        let request: SendRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(request.cipher.len(), 400);
        let msg_id = request.msg_id.unwrap();
        assert!(msg_id.native_bytes().is_some());
        assert_eq!(rest.number(msg_id.as_str()), Some(77));
        let socket = Letters::new(&seat, Shape::Socket { connections: 1, in_flight: 1 }, 1);
        let frame: Submit = serde_json::from_str(&socket.write(1)).unwrap();
        assert_eq!((frame.ver, frame.conv_id.to_string()), (1, seat.conv));
        assert_eq!(socket.number(msg_id.as_str()), None, "another worker's");
        assert_eq!(socket.number("é"), None);
    }
}
