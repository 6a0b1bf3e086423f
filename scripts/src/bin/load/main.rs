//! `load`: how many durable, acknowledged messages a second a relay takes, and how fast.
//!
//! Every case runs twice: against a real `nexo-server`, and against a *bare loop* of the same
//! shape (`bare`): the same web server, request, acknowledgement, tables and durability, and
//! nothing of Nexo in between. The bare loop is what this machine could do at best; figures
//! that can be compared across machines are the ratios between the two, measured in turns in
//! one run (design 25).
//!
//! ```text
//! main ── args         what to run
//!      ├─ process      starts the two servers, reads their CPU time
//!      ├─ account      registers plain accounts, one conversation each
//!      ├─ drive        workers over rest or socket, for one measured window
//!      │    └─ http    a keep-alive connection
//!      ├─ stats, table percentiles, and the table at the end
//!      └─ bare         the bare loop, a process of its own (`load bare`)
//! ```
//!
//! This is not a test: it asserts that every acknowledged message has a place of its own in the
//! log, and leaves the judgement of speed to the reader.

mod account;
mod args;
mod bare;
mod drive;
mod http;
mod process;
mod rest;
mod socket;
mod stats;
mod table;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use account::{Seat, take_seats};
use args::{Args, Command, Plan};
use drive::{DriveError, Phase, Shape, Target, drive};
use process::{Process, StartError};
use stats::Sample;
use table::{Row, Side};

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// No place for the databases.
    #[error("no directory for the databases: {0}")]
    Directory(#[source] io::Error),
    /// A server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The relay did not take the accounts.
    #[error("registering accounts: {0}")]
    Account(#[from] account::AccountError),
    /// A worker failed.
    #[error("{case}, {side}: {source}")]
    Drive {
        /// The shape of the load.
        case: Shape,
        /// Which server.
        side: Side,
        /// What happened.
        source: DriveError,
    },
    /// The bare database.
    #[error("the bare commit: {0}")]
    Commit(#[from] bare::BareError),
    /// Two messages at one place, or a place that is none.
    #[error("{acked} messages were acknowledged at {places} places")]
    Places {
        /// Acknowledgements.
        acked: usize,
        /// Different positions among them.
        places: usize,
    },
    /// Ctrl-C, or somebody else's signal.
    #[error("interrupted")]
    Interrupted,
    /// The table could not be printed.
    #[error("printing: {0}")]
    Print(#[from] io::Error),
}

fn main() -> ExitCode {
    let args = match Args::try_parse_from(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            // clap knows which stream.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let done = match args.command {
        Some(Command::Bare(args)) => return bare::serve(&args),
        None => plan_and_run(&args.plan),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plan_and_run(plan: &Plan) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        // Whatever ends first: both servers and all files go with the dropped future.
        tokio::select! {
            done = run(plan) => done,
            _ = tokio::signal::ctrl_c() => Err(LoadError::Interrupted),
            _ = terminated.recv() => Err(LoadError::Interrupted),
        }
    })
}

/// The two servers, and all that goes when they go.
struct Servers {
    relay: Target,
    bare: Target,
    _processes: Vec<Process>,
    dir: TempDir,
}

async fn run(plan: &Plan) -> Result<(), LoadError> {
    let cases = plan.cases();
    let seats = cases.iter().map(Shape::seats).max().unwrap_or(1);
    let servers = start(plan, seats).await?;
    let mut rows = vec![Row::Alone {
        name: "SQLite, 1 row a commit",
        sample: bare::commits(servers.dir.path(), plan.seconds())?,
    }];
    let mut places = Vec::new();
    for case in cases {
        let (relay, bare) = measure(plan, &servers, case, &mut places).await?;
        rows.push(Row::Pair { case, relay, bare });
    }
    let acked = places.len();
    places.sort_unstable();
    places.dedup();
    // Places count from 1; a 0 would be an answer that named none.
    if places.len() != acked || places.first() == Some(&0) {
        return Err(LoadError::Places { acked, places: places.len() });
    }
    table::print(&mut io::stdout().lock(), plan, &rows, acked)?;
    Ok(())
}

async fn start(plan: &Plan, seats: usize) -> Result<Servers, LoadError> {
    let dir = match &plan.dir {
        Some(parent) => TempDir::new_in(parent),
        None => TempDir::new(),
    };
    let dir = dir.map_err(LoadError::Directory)?;
    let mut processes = Vec::new();
    let (address, pid) = match (&plan.spawn, plan.server) {
        (Some(program), _) => {
            let data = dir.path().join("relay").into_os_string();
            let relay = Process::start(program, relay_args(data))?;
            let known = (relay.address, Some(relay.pid()));
            processes.push(relay);
            known
        }
        (None, Some(address)) => (address, plan.pid),
        (None, None) => return Err(StartError::Nothing.into()),
    };
    let taken = take_seats(address, seats).await?;
    let this = std::env::current_exe().map_err(LoadError::Directory)?;
    let data = dir.path().join("bare").into_os_string();
    let bare = Process::start(&this, bare_args(data, seats))?;
    // The same bytes towards both; the bare loop reads the token as little as the name.
    let like = |(number, seat): (usize, &Seat)| bare::seat(number, &seat.token);
    let bare_seats = taken.iter().enumerate().map(like).collect();
    let (bare_address, bare_pid) = (bare.address, Some(bare.pid()));
    processes.push(bare);
    Ok(Servers {
        relay: Target { address, pid, seats: Arc::new(taken) },
        bare: Target { address: bare_address, pid: bare_pid, seats: Arc::new(bare_seats) },
        _processes: processes,
        dir,
    })
}

fn relay_args(data: OsString) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["serve", "--data-dir"].map(Into::into).into();
    args.push(data);
    args.extend(["--listen", "127.0.0.1:0", "--rate-limit", "off"].map(OsString::from));
    args
}

fn bare_args(data: OsString, seats: usize) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["bare", "--dir"].map(Into::into).into();
    args.push(data);
    args.extend(["--seats".into(), seats.to_string().into()]);
    args
}

/// Both servers in turns, so that a machine that slows down slows both.
async fn measure(
    plan: &Plan,
    servers: &Servers,
    case: Shape,
    places: &mut Vec<u64>,
) -> Result<(Sample, Sample), LoadError> {
    let phase = Phase {
        warm_up: Duration::from_secs(plan.warmup),
        measured: plan.seconds(),
        payload: plan.payload,
    };
    let (mut relay, mut bare) = (Sample::default(), Sample::default());
    for round in 0..plan.rounds {
        let mut order = [Side::Bare, Side::Relay];
        if round % 2 == 1 {
            order.reverse();
        }
        for side in order {
            let _ = writeln!(io::stderr(), "{case}, {side}, round {} ...", round + 1);
            let target = if side == Side::Relay { &servers.relay } else { &servers.bare };
            let mut sample = drive(target, case, phase)
                .await
                .map_err(|source| LoadError::Drive { case, side, source })?;
            if side == Side::Relay {
                places.append(&mut sample.places);
                relay.add(sample);
            } else {
                bare.add(sample);
            }
        }
    }
    Ok((relay, bare))
}

/// The address in `http://HOST:PORT`.
fn loopback(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.trim_end_matches('/').parse().ok()
}
