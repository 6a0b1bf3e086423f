//! What the operator's Prometheus reads: counts of requests, sockets and the log's writer.
//!
//! On a listener of its own (`--metrics ADDR:PORT`), off by default: counts say how busy people
//! are, and are nobody's but the operator's. The text is OpenMetrics 1.0, which Prometheus asks
//! for. Labels come from fixed sets (route templates, never paths), and none names a person. A
//! scrape touches no database. The share of the writer's time by step:
//!
//! ```text
//! rate(nexo_log_step_seconds_total[1m])        the rest, to 1 per second, is waiting
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram as Durations;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rocket::fairing::{self, AdHoc, Fairing, Kind};
use rocket::http::{ContentType, Method};
use rocket::{Build, Ignite, Request, Response, Rocket, State, get, routes};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::headers::SecurityHeaders;
use crate::App;
use crate::error::ApiError;
use crate::log::{BatchStats, Histogram, LEAVES_BOUNDS, Step, TIME_BOUNDS};

/// Upper bounds of request durations, seconds.
const DURATION_BOUNDS: [f64; 11] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// A request as it is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    /// The route's template; `none` where there is no route.
    route: String,
    status: u16,
}

/// A route as its durations are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

/// What is counted outside the log. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Asked, Counter>,
    durations: Family<Route, Durations, fn() -> Durations>,
    sockets: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations = || Durations::new(DURATION_BOUNDS);
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            sockets: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Counts a socket as open, until the value is dropped.
    #[must_use]
    pub fn open_socket(&self) -> OpenSocket {
        self.sockets.inc();
        OpenSocket(self.sockets.clone())
    }

    fn register(&self, registry: &mut Registry) {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The program", Info::new(version));
        let help = "Requests answered, by route template";
        registry.register("http_requests", help, self.requests.clone());
        let (help, durations) = ("From request to answer", self.durations.clone());
        registry.register_with_unit("http_request_duration", help, Unit::Seconds, durations);
        registry.register("ws_connections", "Sockets open", self.sockets.clone());
    }
}

/// See [`Metrics::open_socket`].
pub struct OpenSocket(Gauge);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// When a request came, and how: Rocket makes HEAD a GET before it answers.
struct Came(Instant, Method);

/// Counts what the relay answers. Attached only where somebody reads it.
#[rocket::async_trait]
impl Fairing for Metrics {
    fn info(&self) -> fairing::Info {
        fairing::Info { name: "request counts", kind: Kind::Request | Kind::Response }
    }

    async fn on_request(&self, request: &mut Request<'_>, _: &mut rocket::Data<'_>) {
        let method = request.method();
        request.local_cache(|| Came(Instant::now(), method));
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        let Came(came, method) = request.local_cache(|| Came(Instant::now(), request.method()));
        let route = request.route().map_or("none", |route| route.uri.path()).to_owned();
        let (method, status) = (method.as_str(), response.status().code);
        self.durations
            .get_or_create(&Route { route: route.clone() })
            .observe(came.elapsed().as_secs_f64());
        self.requests.get_or_create(&Asked { method, route, status }).inc();
    }
}

/// What the log is like at this moment.
struct Moment {
    size: u64,
    /// Unix seconds of the newest head's time signature.
    time: u64,
    waiting: usize,
    capacity: usize,
}

/// The log's counts, read when asked for.
struct LogCounts<F>(F);

impl<F> fmt::Debug for LogCounts<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogCounts")
    }
}

impl<F: Fn() -> (BatchStats, Moment) + Send + Sync + 'static> Collector for LogCounts<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (stats, moment) = (self.0)();
        let mut page = Page(encoder);
        page.gauge("log_tree_size", "Entries in the log", moment.size)?;
        page.gauge("log_head_timestamp_seconds", "When the newest head was signed", moment.time)?;
        page.gauge("log_queue_items", "Items that wait for the writer", moment.waiting as u64)?;
        page.gauge("log_queue_capacity", "Items that may wait", moment.capacity as u64)?;
        page.counter("log_batches", "Heads committed with new entries", stats.batches)?;
        page.counter("log_leaves", "Entries committed", stats.leaves)?;
        page.counter("log_renewals", "Heads committed to renew the time", stats.renewals)?;
        page.counter("log_failed_batches", "Batches not committed or in doubt", stats.failed)?;
        page.counter("log_refused", "Items refused at their commit", stats.refused)?;
        page.counter("log_turned_away", "Items that found the queue full", stats.turned_away)?;
        page.histogram(
            "log_batch_leaves",
            "Entries per batch",
            None,
            |bound| bound,
            (&LEAVES_BOUNDS, &stats.batch_leaves),
        )?;
        let seconds = |microseconds| microseconds / 1e6;
        page.histogram(
            "log_commit",
            "From a batch's begin to its durable end",
            Some(&Unit::Seconds),
            seconds,
            (&TIME_BOUNDS, &stats.batch_time),
        )?;
        page.steps(&stats)
    }
}

/// The page while it is written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.begin(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.begin(name, help, None, MetricType::Counter)?)
    }

    fn steps(&mut self, stats: &BatchStats) -> fmt::Result {
        let (help, unit) = ("The writer's time by step", Some(&Unit::Seconds));
        let mut family = self.begin("log_step", help, unit, MetricType::Counter)?;
        for step in Step::ALL {
            let spent = ConstCounter::new(stats.spent(step).as_secs_f64());
            spent.encode(family.encode_family(&[("step", step.name())])?)?;
        }
        Ok(())
    }

    /// `scale` makes the metric's unit of the one that is counted in.
    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        scale: fn(f64) -> f64,
        (bounds, counted): (&[u64; N], &Histogram<N>),
    ) -> fmt::Result {
        let bounds = bounds.iter().map(|&bound| scale(float(bound))).chain([f64::INFINITY]);
        let counts = counted.within.iter().copied().chain([counted.above]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let (sum, count) = (scale(float(counted.sum)), buckets.iter().map(|(_, n)| n).sum());
        let mut metric = self.begin(name, help, unit, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, &format!("{help}."), unit, kind)
    }
}

/// Counts above 2^53 lose digits nobody reads.
#[expect(clippy::cast_precision_loss, reason = "the format knows floats only")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Everything that is told of a running relay.
fn registry(app: &App) -> Registry {
    let mut registry = Registry::with_prefix("nexo");
    app.metrics.register(&mut registry);
    let log = app.log.clone();
    registry.register_collector(Box::new(LogCounts(move || {
        let (head, (waiting, capacity)) = (log.head(), log.waiting());
        (log.stats(), Moment { size: head.size, time: head.time, waiting, capacity })
    })));
    registry
}

#[get("/metrics")]
fn scrape(registry: &State<Arc<Registry>>) -> Result<(ContentType, String), ApiError> {
    let kind = ContentType::new("application", "openmetrics-text");
    let kind = kind.with_params([("version", "1.0.0"), ("charset", "utf-8")]);
    let mut page = String::new();
    encode(&mut page, registry).map_err(ApiError::internal)?;
    Ok((kind, page))
}

/// The listener, until it is stopped.
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    stop: rocket::Shutdown,
    ended: JoinHandle<Result<Rocket<Ignite>, rocket::Error>>,
}

impl Listener {
    /// Serves the counts of `app` at `address`, as soon as this returns.
    ///
    /// # Errors
    /// What Rocket says, if it cannot listen there.
    pub async fn open(app: &App, address: SocketAddr) -> Result<Self, String> {
        let (ready, listening) = oneshot::channel();
        let rocket = site(registry(app), address);
        let rocket = rocket.attach(AdHoc::on_liftoff("announce", move |rocket| {
            let at = SocketAddr::new(rocket.config().address, rocket.config().port);
            // Heard by the lines below, which wait for it.
            let _ = ready.send(at);
            Box::pin(async {})
        }));
        let rocket = rocket.ignite().await.map_err(|error| told(&error))?;
        let stop = rocket.shutdown();
        let ended = tokio::spawn(rocket.launch());
        match listening.await {
            Ok(address) => Ok(Self { address, stop, ended }),
            Err(_) => Err(match ended.await {
                Ok(Err(error)) => told(&error),
                Ok(Ok(_)) => "the metrics listener ended at once".to_owned(),
                Err(error) => error.to_string(),
            }),
        }
    }

    /// Stops it and waits until it has.
    pub async fn close(self) {
        self.stop.notify();
        // How it ended changes nothing for a relay that has ended itself.
        let _ = self.ended.await;
    }
}

fn told(error: &rocket::Error) -> String {
    format!("metrics: {}", error.pretty_print())
}

fn site(registry: Registry, address: SocketAddr) -> Rocket<Build> {
    let config = rocket::Config {
        address: address.ip(),
        port: address.port(),
        ident: rocket::config::Ident::none(),
        log_level: rocket::log::LogLevel::Off,
        cli_colors: false,
        // It ends when the relay has; signals are the relay's.
        shutdown: rocket::config::Shutdown {
            ctrlc: false,
            signals: std::collections::HashSet::new(),
            grace: 1,
            mercy: 1,
            ..rocket::config::Shutdown::default()
        },
        ..rocket::Config::default()
    };
    rocket::custom(config)
        .manage(Arc::new(registry))
        .mount("/", routes![scrape])
        .register("/", crate::error::catchers())
        .attach(rocket::shield::Shield::new())
        .attach(SecurityHeaders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Counters;
    use rocket::local::blocking::Client;
    use std::time::Duration;

    #[get("/tile/<level>")]
    fn tile(level: &str) -> String {
        level.to_owned()
    }

    fn page_of(registry: Registry) -> String {
        let client = Client::untracked(site(registry, ([127, 0, 0, 1], 0).into())).unwrap();
        let answer = client.get("/metrics").dispatch();
        let kind = answer.headers().get_one("Content-Type").unwrap().to_owned();
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert_eq!(answer.headers().get_one("Cache-Control"), Some("no-store"));
        let page = answer.into_string().unwrap();
        assert!(page.ends_with("# EOF\n"), "{page}");
        page
    }

    fn has(page: &str, line: &str) {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }

    #[test]
    fn requests_are_counted_by_template_and_never_by_path() {
        let metrics = Metrics::default();
        let config = rocket::Config {
            log_level: rocket::log::LogLevel::Off,
            ..rocket::Config::debug_default()
        };
        let relay = rocket::custom(config).mount("/", routes![tile]).attach(metrics.clone());
        let client = Client::untracked(relay).unwrap();
        for path in ["/tile/1", "/tile/2", "/secret?token=x", "/secrets"] {
            client.get(path).dispatch();
        }
        client.head("/tile/3").dispatch();
        let (one, two) = (metrics.open_socket(), metrics.open_socket());
        drop(one);
        let mut registry = Registry::with_prefix("nexo");
        metrics.register(&mut registry);
        let page = page_of(registry);
        drop(two);
        let count = |method: &str, route: &str, status: u16, count: u64| {
            let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
            has(&page, &format!("nexo_http_requests_total{{{labels}}} {count}"));
        };
        count("GET", "/tile/<level>", 200, 2);
        count("HEAD", "/tile/<level>", 200, 1);
        count("GET", "none", 404, 2);
        has(&page, "nexo_http_request_duration_seconds_count{route=\"/tile/<level>\"} 3");
        has(&page, "nexo_ws_connections 1");
        assert_eq!(metrics.sockets.get(), 0);
        assert!(!page.contains("secret") && !page.contains("token"), "{page}");
    }

    #[test]
    fn the_logs_counts_are_told_in_base_units() {
        let counters = Counters::default();
        counters.committed(3, Duration::from_micros(1500));
        counters.committed(2000, Duration::from_secs(9));
        counters.committed(0, Duration::from_secs(1));
        counters.spent(Step::Insert, Duration::from_millis(250));
        counters.refused(4);
        counters.turned_away();
        let moment = || Moment { size: 2003, time: 1_700_000_000, waiting: 7, capacity: 8192 };
        let mut registry = Registry::with_prefix("nexo");
        registry.register_collector(Box::new(LogCounts(move || (counters.read(), moment()))));
        let page = page_of(registry);
        for line in [
            "# TYPE nexo_log_tree_size gauge",
            "nexo_log_tree_size 2003",
            "nexo_log_head_timestamp_seconds 1700000000",
            "nexo_log_queue_items 7",
            "nexo_log_queue_capacity 8192",
            "# TYPE nexo_log_batches counter",
            "nexo_log_batches_total 2",
            "nexo_log_leaves_total 2003",
            "nexo_log_renewals_total 1",
            "nexo_log_failed_batches_total 0",
            "nexo_log_refused_total 4",
            "nexo_log_turned_away_total 1",
            "nexo_log_batch_leaves_bucket{le=\"2.0\"} 0",
            "nexo_log_batch_leaves_bucket{le=\"4.0\"} 1",
            "nexo_log_batch_leaves_bucket{le=\"1024.0\"} 1",
            "nexo_log_batch_leaves_bucket{le=\"+Inf\"} 2",
            "nexo_log_batch_leaves_sum 2003.0",
            "nexo_log_batch_leaves_count 2",
            "# UNIT nexo_log_commit_seconds seconds",
            "nexo_log_commit_seconds_bucket{le=\"0.001\"} 0",
            "nexo_log_commit_seconds_bucket{le=\"0.002\"} 1",
            "nexo_log_commit_seconds_sum 9.0015",
            "nexo_log_step_seconds_total{step=\"insert\"} 0.25",
            "nexo_log_step_seconds_total{step=\"commit\"} 0.0",
        ] {
            has(&page, line);
        }
    }
}
