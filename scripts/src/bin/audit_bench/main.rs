//! `audit_bench`: how fast nexo-audit is, beside the raw hashing of the same log.
//!
//! Makes a copy of a log of 10 million messages as tlog-tiles files, and measures in turns, so
//! that a machine that slows down slows all of it:
//!
//! ```text
//! raw block    only SHA-256's compression function, as often as the tree needs it
//! raw hash     the hashes themselves by sha2: the loop of the notes (limits.md 2)
//! full         nexo-audit full, a process of its own, on the files
//! http         nexo-audit full on the same files, over HTTP from a web server in this process
//! check        nexo-audit check over HTTP after 1,000 new entries, the whole process
//! ```
//!
//! All but the last on as many threads as there are cores.
//!
//! ```text
//! main ── args       what to run
//!      ├─ copy       the log and its files
//!      ├─ raw        the two loops
//!      ├─ audit      the auditor as a process: time, CPU time and memory
//!      ├─ web        the files over HTTP, and the proofs that check asks for
//!      ├─ proof      those proofs
//!      └─ table      the figures at the end
//! ```
//!
//! This is not a test: it leaves the judgement to the reader.

mod args;
mod audit;
mod copy;
mod proof;
mod raw;
mod table;
mod web;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser as _;
use nexo_scripts::turns;

use args::Plan;
use audit::{Auditor, Run};
use copy::Copy;
use table::Measured;
use web::Web;

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    /// The files could not be made.
    #[error("the copy of the log: {0}")]
    Copy(io::Error),
    /// The auditor did not verify the log.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// Nothing serves the files.
    #[error("the web server: {0}")]
    Web(#[from] web::WebError),
    /// The table could not be printed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Entries that a `check` finds new.
const NEW: u64 = 1000;

fn main() -> ExitCode {
    let plan = match Plan::try_parse_from(std::env::args_os()) {
        Ok(plan) => plan,
        Err(error) => {
            // clap knows which stream.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(format_args!("audit_bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> Result<(), BenchError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    progress(format_args!("making a log of {} entries ...", plan.entries));
    let mut log =
        Copy::make(&plan.dir.join("copy"), plan.entries, now).map_err(BenchError::Copy)?;
    let auditor = Auditor::new(plan, &log.vkey());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut measured = Measured::default();
    audit::settle();
    // The first look at new files also writes: when they were looked at.
    auditor.full(log.folder(), "full")?;
    for round in 0..plan.rounds {
        for turn in turns::order(4, round) {
            match turn {
                0 => measured.block.push(raw::blocks(cores, plan.entries, copy::ENTRY)),
                1 => measured.hash.push(raw::hashes(cores, plan.entries, copy::ENTRY)),
                2 => measured.full.push(auditor.full(log.folder(), "full")?),
                _ => measured.http.push(over_http(&auditor, &log)?),
            }
            progress(format_args!("round {} of {}: {}", round + 1, plan.rounds, names(turn)));
        }
    }
    if let Some(cold) = auditor.cold(log.folder())? {
        measured.cold.push(cold);
    }
    let web = Web::of(log.folder())?;
    for _ in 0..plan.checks {
        log.grow(NEW, now).map_err(BenchError::Copy)?;
        measured.check.push(auditor.check(&web.url())?);
    }
    table::print(&mut io::stdout().lock(), plan, cores, &measured)?;
    Ok(())
}

/// A first audit over HTTP. Its memory is the one that `check` starts from.
fn over_http(auditor: &Auditor, log: &Copy) -> Result<Run, BenchError> {
    let web = Web::of(log.folder())?;
    Ok(auditor.full(web.url(), "check")?)
}

fn names(turn: usize) -> &'static str {
    ["raw blocks", "raw hashes", "full on files", "full over HTTP"][turn.min(3)]
}

/// Says on stderr what goes on; a terminal that is gone is no reason to stop.
fn progress(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}
