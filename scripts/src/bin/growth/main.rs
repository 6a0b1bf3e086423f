//! `growth`: what a relay's log costs as it grows.
//!
//! Builds one log with the server's own store and sequencer, keeps a copy of it at each size,
//! and then measures all sizes in turns, so that a machine that slows down slows each of them:
//! what a batch costs, how long a start takes, how much memory a server holds, how long proofs
//! take. What matters is the ratio of each figure to that of the smallest log.
//!
//! ```text
//! main ── args       what to run
//!      ├─ site       where the logs lie, and whether there is room for them
//!      ├─ writers    who writes, and what
//!      ├─ inside     the log in this process: growing it, batches, proofs
//!      ├─ outside    the log in a nexo-server: start, memory, proofs over HTTP
//!      └─ table      the figures at the end
//! ```
//!
//! This is not a test: it leaves the judgement to the reader.

mod args;
mod inside;
mod outside;
mod site;
mod table;
mod writers;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use nexo_scripts::turns;
use tokio::signal::unix::{SignalKind, signal};

use args::Plan;
use inside::Inside;
use site::Site;
use table::Measured;
use writers::Writers;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
enum GrowthError {
    /// The logs have no place.
    #[error(transparent)]
    Site(#[from] site::SiteError),
    /// The log in this process.
    #[error("the log: {0}")]
    Inside(#[from] inside::InsideError),
    /// The log in a server.
    #[error(transparent)]
    Outside(#[from] outside::OutsideError),
    /// Ctrl-C, or somebody else's signal.
    #[error("interrupted")]
    Interrupted,
    /// The table could not be printed, or no signal heard.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn main() -> ExitCode {
    let plan = match Plan::try_parse_from(std::env::args_os()) {
        Ok(plan) => plan.ascending(),
        Err(error) => {
            // clap knows which stream.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run_until_told(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(format_args!("growth: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run_until_told(plan: &Plan) -> Result<(), GrowthError> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        // Whatever ends first: server and files go with the dropped future.
        tokio::select! {
            done = run(plan) => done,
            _ = tokio::signal::ctrl_c() => Err(GrowthError::Interrupted),
            _ = terminated.recv() => Err(GrowthError::Interrupted),
        }
    })
}

async fn run(plan: &Plan) -> Result<(), GrowthError> {
    let mut site = Site::prepare(plan)?;
    let writers = outside::populate(plan, site.growing()).await?;
    for &size in &plan.sizes {
        let log = Inside::open(site.growing(), inside::usual())?;
        progress(format_args!("growing the log to {size} leaves ..."));
        inside::grow(&log, &writers, size).await?;
        log.close()?;
        site.keep(size)?;
    }
    let mut measured = vec![Measured::default(); plan.sizes.len()];
    for round in 0..plan.rounds {
        for turn in turns::order(plan.sizes.len(), round) {
            let size = plan.sizes[turn];
            progress(format_args!("{size} leaves, round {} ...", round + 1));
            measure(plan, &site, &writers, size, &mut measured[turn]).await?;
        }
    }
    table::print(&mut io::stdout().lock(), plan, &measured)?;
    Ok(())
}

/// One round at one size.
async fn measure(
    plan: &Plan,
    site: &Site,
    writers: &Writers,
    size: u64,
    measured: &mut Measured,
) -> Result<(), GrowthError> {
    for (batch, sample) in inside::BATCHES.into_iter().zip(&mut measured.batches) {
        let mut left = plan.batches;
        while left > 0 {
            let (count, place) = (left.min(inside::fitting(batch, size)), site.place(size)?);
            let log = Inside::open(place.path(), inside::exactly(batch, count))?;
            sample.add(inside::batches(&log, writers, batch, count).await?);
            log.close()?;
            left -= count;
        }
    }
    let place = site.place(size)?;
    let log = Inside::open(place.path(), inside::usual())?;
    site::chill(place.path())?;
    for proofs in [&mut measured.cold, &mut measured.warm] {
        // The same leaves both times: the second time everything has been read before.
        proofs.add(inside::proofs(&log, size, plan.proofs).await?);
    }
    log.close()?;
    outside::starts(plan, place.path(), &mut measured.start)?;
    outside::serve(plan, place.path(), writers, size, measured).await?;
    Ok(())
}

/// Says on stderr what goes on; a terminal that is gone is no reason to stop.
fn progress(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
