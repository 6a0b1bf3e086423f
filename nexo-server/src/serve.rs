//! Building the relay from its configuration, and running it to the end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::tokio::time::timeout;
use rocket::{Build, Rocket};
use tokio_util::task::TaskTracker;

use crate::app::{App, Parts};
use crate::auth::dpop::DpopChecker;
use crate::auth::provider;
use crate::auth::seen::SeenTokens;
use crate::auth::token::AccessTokens;
use crate::clock::Clock;
use crate::config::Config;
use crate::devices::Devices;
use crate::http::allowance::Allowances;
use crate::http::headers::{Cors, SecurityHeaders};
use crate::http::limits::Limits;
use crate::http::metrics::{Listener, Metrics};
use crate::http::request_id::RequestIds;
use crate::log::{Log, LogKeys, Options, StartError, Writer};
use crate::relay::{Cursors, Rooms};
use crate::shutdown::{Signals, Stopping};
use crate::store::{Audience, Fresh, Present, SqlLedger, Store, StoreError};

/// Why the relay did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration does not hold together.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigError),
    /// The keys in the data directory.
    #[error("{0}")]
    Keys(#[from] crate::log::KeyError),
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The log in it.
    #[error("{0}")]
    Log(#[from] StartError),
    /// The web server.
    #[error("the web server: {0}")]
    Rocket(String),
    /// The signals that end it.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The log's writer gave up.
    #[error("{0}")]
    Halted(#[from] crate::log::Halt),
}

/// The relay, and the writer to shut down when it has ended.
pub struct Relay {
    /// To be launched.
    pub rocket: Rocket<Build>,
    writer: Writer,
    app: App,
}

/// Those in this process who are told of batches.
struct Hearers {
    devices: Devices,
    rooms: Rooms,
}

impl Audience for Hearers {
    fn tell(&self, fresh: Fresh) {
        // First: whoever hears of the batch may ask with what it changed.
        self.devices.changed(&fresh.keys_changed);
        self.rooms.ring(fresh);
    }

    fn present(&self) -> Present {
        self.rooms.present()
    }
}

/// Builds the relay: the one place where its parts are wired together.
///
/// # Errors
/// [`ServeError`] says what is wrong and what to do.
pub fn build(config: Config, clock: Clock) -> Result<Relay, ServeError> {
    provider::install();
    let secret = config.server_secret()?;
    let keys = open_keys(&config.keys_dir, config.origin.as_ref())?;
    let origin = keys.origin().clone();
    let store = Store::open(&config.database)?;
    let rooms = Rooms::default();
    let devices = Devices::default();
    let hearers = Box::new(Hearers { devices: devices.clone(), rooms: rooms.clone() });
    let ledger = SqlLedger::new(store.clone(), origin.clone(), clock.clone(), hearers)
        .with_quota(config.quota);
    let log_clock = clock.clone();
    let options = Options::new(Box::new(move || log_clock.seconds()));
    store.listen(options.others.clone())?;
    let (log, writer) = Log::start(ledger, keys, &config.data_dir, options)?;
    rooms.under(log.heads());
    let app = App::new(Parts {
        tokens: AccessTokens::new(&secret, &config, &origin),
        dpop: DpopChecker::new(&config, &origin, clock.seconds()),
        limits: Limits::new(config.rate_limit),
        metrics: Metrics::default(),
        sockets: TaskTracker::new(),
        stopping: Stopping::default(),
        origin,
        clock,
        store,
        log,
        rooms,
        cursors: Cursors::default(),
        devices,
        seen: SeenTokens::default(),
        secret,
        config,
    });
    Ok(Relay { rocket: mount(&app), writer, app })
}

/// The keys in their directory, made there at the first start.
///
/// # Errors
/// [`crate::log::KeyError`].
pub fn open_keys(
    dir: &Path,
    origin: Option<&nexo_schema::ids::Origin>,
) -> Result<LogKeys, crate::log::KeyError> {
    LogKeys::open(dir, origin)
}

fn mount(app: &App) -> Rocket<Build> {
    let config = rocket::Config {
        address: app.config.listen.ip(),
        port: app.config.listen.port(),
        ident: rocket::config::Ident::none(),
        // Rocket would believe `X-Real-IP` from anyone.
        ip_header: app.config.client_ip_header.clone().map(Into::into),
        log_level: rocket::log::LogLevel::Off,
        cli_colors: false,
        shutdown: rocket::config::Shutdown {
            // The signals are ours: see `shutdown`.
            ctrlc: false,
            signals: HashSet::new(),
            grace: app.config.grace,
            mercy: 5,
            ..rocket::config::Shutdown::default()
        },
        ..rocket::Config::default()
    };
    let rocket = match app.config.metrics {
        Some(_) => rocket::custom(config).attach(app.metrics.clone()),
        None => rocket::custom(config),
    };
    rocket
        .manage(app.clone())
        .mount("/", crate::http::all())
        .register("/", crate::error::catchers())
        // Without Rocket's own: they would go on the 101 as well, where proxies choke on them.
        .attach(rocket::shield::Shield::new())
        .attach(SecurityHeaders)
        .attach(Allowances)
        .attach(RequestIds)
        .attach(Cors::new(&app.config.cors_origins))
}

impl Relay {
    /// Serves until a signal ends it, then drains the log.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn run(self) -> Result<(), ServeError> {
        let Self { rocket, writer, app } = self;
        let metrics = match app.config.metrics {
            Some(address) => Some(Listener::open(&app, address).await.map_err(ServeError::Rocket)?),
            None => None,
        };
        let metrics_at = metrics.as_ref().map(|metrics| metrics.address);
        let announced = app.clone();
        // Before anybody is told that the relay is there to be ended.
        let signals = Signals::take().map_err(ServeError::Signals)?;
        let rocket = rocket.attach(AdHoc::on_liftoff("announce", move |rocket| {
            Box::pin(async move {
                let address = SocketAddr::new(rocket.config().address, rocket.config().port);
                announce(&announced, address, metrics_at);
                let drain = Duration::from_secs(announced.config.drain.into());
                tokio::spawn(signals.end(announced.stopping.clone(), drain, rocket.shutdown()));
                tokio::spawn(announced.cursors.clone().keep(announced.store.clone()));
                tokio::spawn(stop_with_log(announced, rocket.shutdown()));
            })
        }));
        let launched = rocket.launch().await;
        // Rocket waits for requests; sockets have been told to end as well.
        app.sockets.close();
        let grace = Duration::from_secs(app.config.grace.into());
        let _ = timeout(grace, app.sockets.wait()).await;
        if let Some(metrics) = metrics {
            metrics.close().await;
        }
        // What is not stored is sent again; the store has told why.
        let _ = app.cursors.flush(&app.store).await;
        drop(app);
        writer.shutdown()?;
        launched.map(drop).map_err(|e| ServeError::Rocket(e.pretty_print().to_string()))
    }
}

/// What an operator pastes into clients, on stdout; the first line says that it is ready.
fn announce(app: &App, address: SocketAddr, metrics: Option<SocketAddr>) {
    app.dpop.listening_on(address);
    let mut lines = format!(
        "nexo-server listening on http://{address}\norigin  {}\nvkey    {}\ndata    {}\n",
        app.origin,
        app.log.log_vkey(),
        app.config.data_dir.display()
    );
    if let Some(metrics) = metrics {
        lines.push_str(&format!("metrics http://{metrics}/metrics\n"));
    }
    // Not println: it panics when nobody reads.
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), lines.as_bytes());
}

/// A relay whose log has stopped can only refuse; better to end and be started again.
async fn stop_with_log(app: App, shutdown: rocket::Shutdown) {
    let log = app.log.clone();
    drop(app);
    log.closed().await;
    shutdown.notify();
}
