//! Counts for the operator, in OpenMetrics, on a listener of their own.
//!
//! `GET /metrics` tells the counts, `GET /health` is 200 while nothing is wrong and 503
//! otherwise; both answer `HEAD`. No count names a handle or a device. The listener is for the
//! operator's own network: it asks nobody who they are.

use crate::finding::Verdict;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What scrapers ask for as a type.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Readers at a time; one more waits.
const MAX_READERS: usize = 16;
/// Longest a reader may take to ask and to read.
const LIMIT: Duration = Duration::from_secs(10);
/// Upper bounds of a round's duration, seconds.
const ROUND_BOUNDS: [f64; 9] = [0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tried {
    receiver: String,
    taken: &'static str,
}

/// What is counted. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    rounds: Family<Ended, Counter>,
    durations: Histogram,
    code: Gauge,
    healthy: Gauge,
    standing: Gauge,
    size: Gauge,
    head_time: Gauge,
    round_time: Gauge,
    verified_time: Gauge,
    entries: Counter,
    notices: Family<Told, Counter>,
    waiting: Gauge,
    attempts: Family<Tried, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            rounds: Family::default(),
            durations: Histogram::new(ROUND_BOUNDS),
            code: Gauge::default(),
            healthy: Gauge::default(),
            standing: Gauge::default(),
            size: Gauge::default(),
            head_time: Gauge::default(),
            round_time: Gauge::default(),
            verified_time: Gauge::default(),
            entries: Counter::default(),
            notices: Family::default(),
            waiting: Gauge::default(),
            attempts: Family::default(),
        }
    }
}

impl Metrics {
    /// A round ended at `now` (POSIX seconds) with `verdict`.
    pub(crate) fn round(&self, verdict: Verdict, took: Duration, now: u64) {
        self.rounds.get_or_create(&Ended { verdict: verdict.name() }).inc();
        self.durations.observe(took.as_secs_f64());
        self.code.set(verdict.code().into());
        self.round_time.set(signed(now));
    }

    /// A round verified a head of `size`, vouched for at `time`, and hashed `new` entries.
    pub(crate) fn verified(&self, size: u64, time: u64, new: u64, now: u64) {
        self.size.set(signed(size));
        self.head_time.set(signed(time));
        self.verified_time.set(signed(now));
        self.entries.inc_by(new);
    }

    /// How the log stands now.
    pub(crate) fn health(&self, healthy: bool, standing: usize) {
        self.healthy.set(healthy.into());
        self.standing.set(i64::try_from(standing).unwrap_or(i64::MAX));
    }

    /// A notice was recorded.
    pub(crate) fn noticed(&self, kind: &'static str) {
        self.notices.get_or_create(&Told { kind }).inc();
    }

    /// A receiver was told, or was not.
    pub(crate) fn tried(&self, receiver: &str, taken: bool) {
        let taken = if taken { "yes" } else { "no" };
        self.attempts.get_or_create(&Tried { receiver: receiver.to_owned(), taken }).inc();
    }

    /// How many notices wait.
    pub(crate) fn waiting(&self, count: usize) {
        self.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn registry(&self) -> Registry {
        let mut all = Registry::with_prefix("nexo_audit");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        all.register("build", "The program", Info::new(version));
        all.register("rounds", "Audits by their verdict", self.rounds.clone());
        let (help, durations) =
            ("From the beginning of an audit to its end", self.durations.clone());
        all.register_with_unit("round_duration", help, Unit::Seconds, durations);
        all.register("verdict_code", "Exit code of the newest verdict", self.code.clone());
        all.register("healthy", "1 while nothing is wrong with the log", self.healthy.clone());
        let help = "Findings that stand until somebody resolves them";
        all.register("standing_findings", help, self.standing.clone());
        all.register("tree_size", "Entries under the newest verified head", self.size.clone());
        for (name, help, gauge) in [
            ("head_timestamp", "When that head was vouched for", &self.head_time),
            ("last_round_timestamp", "When the newest audit ended", &self.round_time),
            ("last_verified_timestamp", "When an audit last verified", &self.verified_time),
        ] {
            all.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        }
        all.register("entries_verified", "Entries hashed into the tree", self.entries.clone());
        all.register("notices", "Notices recorded, by kind", self.notices.clone());
        all.register("notices_waiting", "Notices somebody has yet to take", self.waiting.clone());
        all.register("deliveries", "Attempts to tell a receiver", self.attempts.clone());
        all
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A listener, until it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the two pages are made of.
struct Pages {
    registry: Registry,
    healthy: Gauge,
}

impl Listener {
    /// Serves `metrics` at `address`, as soon as this returns; port 0 takes a free one. Runs
    /// inside a Tokio runtime.
    ///
    /// # Errors
    /// What the operating system says, if it cannot listen there.
    pub(crate) async fn open(metrics: &Metrics, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let pages = Pages { registry: metrics.registry(), healthy: metrics.healthy.clone() };
        let task = tokio::spawn(accept(listener, Arc::new(pages)));
        Ok(Self { address, task })
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>) {
    let readers = Arc::new(Semaphore::new(MAX_READERS));
    loop {
        // Never closed, so never an error.
        let Ok(place) = Arc::clone(&readers).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: what is open ends within the limit and gives them back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            serve(stream, pages).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, pages: Arc<Pages>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = pages.answer(request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(LIMIT).keep_alive(false);
    let connection = server.serve_connection(TokioIo::new(stream), answer);
    // A reader that breaks off or is too slow harms nobody but itself.
    let _ = tokio::time::timeout(LIMIT, connection).await;
}

impl Pages {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (status, kind, text) = match path {
            "/metrics" | "/health" if ![Method::GET, Method::HEAD].contains(method) => {
                (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned())
            }
            "/metrics" => self.counts(),
            "/health" if self.healthy.get() == 1 => (StatusCode::OK, TEXT, "healthy\n".to_owned()),
            "/health" => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not healthy\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, TEXT, "there are /metrics and /health\n".to_owned()),
        };
        let mut answer = Response::new(Full::new(Bytes::from(text)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    fn counts(&self) -> (StatusCode, HeaderValue, String) {
        let mut page = String::new();
        match encode(&mut page, &self.registry) {
            Ok(()) => (StatusCode::OK, OPENMETRICS, page),
            // Writing to a String does not fail.
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(at: SocketAddr, path: &str) -> String {
        ask(at, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    }

    async fn open(metrics: &Metrics) -> Listener {
        Listener::open(metrics, "127.0.0.1:0".parse().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn the_operator_reads_what_was_counted() {
        let metrics = Metrics::default();
        let listener = open(&metrics).await;
        metrics.round(Verdict::Verified, Duration::from_millis(70), 1000);
        metrics.verified(7, 999, 5, 1000);
        metrics.round(Verdict::Fork, Duration::from_secs(2), 1060);
        metrics.health(false, 1);
        metrics.noticed("finding");
        metrics.tried("hook:10-mail", false);
        metrics.waiting(3);
        let page = get(listener.address, "/metrics").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("application/openmetrics-text; version=1.0.0"), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
        for line in [
            "nexo_audit_rounds_total{verdict=\"verified\"} 1",
            "nexo_audit_rounds_total{verdict=\"fork\"} 1",
            "nexo_audit_round_duration_seconds_bucket{le=\"0.1\"} 1",
            "nexo_audit_round_duration_seconds_count 2",
            "nexo_audit_verdict_code 84",
            "nexo_audit_healthy 0",
            "nexo_audit_standing_findings 1",
            "nexo_audit_tree_size 7",
            "nexo_audit_head_timestamp_seconds 999",
            "nexo_audit_last_round_timestamp_seconds 1060",
            "nexo_audit_last_verified_timestamp_seconds 1000",
            "nexo_audit_entries_verified_total 5",
            "nexo_audit_notices_total{kind=\"finding\"} 1",
            "nexo_audit_notices_waiting 3",
            "nexo_audit_deliveries_total{receiver=\"hook:10-mail\",taken=\"no\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[tokio::test]
    async fn health_is_a_status() {
        let metrics = Metrics::default();
        let listener = open(&metrics).await;
        let at = listener.address;
        assert!(get(at, "/health").await.starts_with("HTTP/1.1 503 "), "before the first round");
        metrics.health(true, 0);
        assert!(get(at, "/health").await.starts_with("HTTP/1.1 200 "));
        let head = ask(at, "HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(get(at, "/").await.starts_with("HTTP/1.1 404 "));
        let post = ask(at, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
        assert!(ask(at, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }

    #[tokio::test]
    async fn a_listener_ends_with_its_owner() {
        let metrics = Metrics::default();
        let listener = open(&metrics).await;
        let at = listener.address;
        get(at, "/health").await;
        drop(listener);
        // The runtime drops the socket when it next looks at the task.
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
