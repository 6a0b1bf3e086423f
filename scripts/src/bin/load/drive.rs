//! One measured window of one shape of load on one or more servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexo_scripts::account::Seat;
use nexo_scripts::http::HttpError;
use nexo_scripts::process::cpu_time;
use nexo_scripts::stats::{Sample, Window};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use crate::args::Plan;
use crate::shape::{Letters, Shape};
use crate::{rest, socket};

/// How long after the window the last answers may come.
const DRAIN: Duration = Duration::from_secs(30);

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

impl Phase {
    /// As it was asked for.
    pub(crate) fn of(plan: &Plan) -> Self {
        Self {
            warm_up: Duration::from_secs(plan.warmup),
            measured: plan.seconds(),
            payload: plan.payload,
        }
    }
}

/// Servers under load that share one log; clients are dealt out to them in turn.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Where they listen; at least one.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Processes whose time counts; none where they are not known.
    pub(crate) pids: Vec<u32>,
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
    let seats = target.seats.iter().take(shape.seats()).cloned();
    for (seat, &address) in seats.zip(target.addresses.iter().cycle()) {
        let letters = Letters::new(&seat, shape, phase.payload);
        let worker = Worker { address, seat, window, letters };
        match shape {
            Shape::Rest { .. } => workers.spawn(rest::work(worker)),
            Shape::Socket { in_flight, talk, .. } => {
                workers.spawn(socket::work(worker, in_flight, talk))
            }
        };
    }
    let cpu = cpu_between(target.pids.clone(), window);
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

/// CPU time that the processes use within the window; `None` if one cannot be asked.
pub(crate) async fn cpu_between(pids: Vec<u32>, window: Window) -> Option<Duration> {
    let used = || pids.iter().map(|&pid| cpu_time(pid)).sum::<Option<Duration>>();
    sleep_until(window.opens.into()).await;
    let before = used().filter(|_| !pids.is_empty());
    sleep_until(window.shuts.into()).await;
    used()?.checked_sub(before?)
}
