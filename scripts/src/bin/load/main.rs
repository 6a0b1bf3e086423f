//! `load`: how many durable, acknowledged messages a second a relay takes, and how fast.
//!
//! Every case runs on several contenders in turns, in one run: figures that can be compared
//! across machines are the ratios between them (design 25). There are two contests:
//!
//! - A real `nexo-server` against a *bare loop* of the same shape (`bare`): the same web server,
//!   request, acknowledgement, tables and durability, and nothing of Nexo in between. The bare
//!   loop is what this machine could do at best.
//! - With `--postgres`, a relay on SQLite against one on PostgreSQL against two on one
//!   PostgreSQL.
//!
//! ```text
//! main ── args         what to run
//!      ├─ servers      starts the contenders, with accounts on them
//!      ├─ contest      the cases, in turns
//!      │    └─ drive   workers over rest or socket, for one measured window
//!      │         └─ shape      what they say, and what they listen for
//!      ├─ table        the figures at the end
//!      ├─ scenes       fan-out, idle sockets, abuse: several loads at once
//!      └─ bare         the bare loop, a process of its own (`load bare`), and lone commits
//! ```
//!
//! This is not a test: it asserts that every acknowledged message has a place of its own in the
//! log, and leaves the judgement of speed to the reader.

mod args;
mod bare;
mod contest;
mod drive;
mod rest;
mod scenes;
mod servers;
mod shape;
mod socket;
mod table;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use nexo_scripts::stats::Sample;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, Command, Plan};
use bare::Commits;
use contest::{Contender, progress};
use servers::Servers;
use shape::Shape;
use table::{Figures, Row};

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// No contenders.
    #[error(transparent)]
    Servers(#[from] servers::ServersError),
    /// A contender failed.
    #[error(transparent)]
    Contest(#[from] contest::ContestError),
    /// The bare database.
    #[error("the bare commit: {0}")]
    Commit(#[from] bare::BareError),
    /// Two messages at one place, or a place that is none.
    #[error("{name}: {acked} messages were acknowledged at {places} places")]
    Places {
        /// Whose log.
        name: &'static str,
        /// Acknowledgements.
        acked: usize,
        /// Different positions among them.
        places: usize,
    },
    /// A scene failed.
    #[error(transparent)]
    Scene(#[from] scenes::SceneError),
    /// Scenes start servers of their own.
    #[error("the cases fanout, idle and abuse want --spawn, without --postgres")]
    NotSpawned,
    /// Ctrl-C, or somebody else's signal.
    #[error("interrupted")]
    Interrupted,
    /// The table could not be printed, or no signal heard.
    #[error("{0}")]
    Io(#[from] io::Error),
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
        // Whatever ends first: all servers and files go with the dropped future.
        tokio::select! {
            done = run(plan) => done,
            _ = tokio::signal::ctrl_c() => Err(LoadError::Interrupted),
            _ = terminated.recv() => Err(LoadError::Interrupted),
        }
    })
}

async fn run(plan: &Plan) -> Result<(), LoadError> {
    let (cases, scenes) = (plan.cases(), plan.scenes());
    if !scenes.is_empty() && (plan.spawn.is_none() || plan.postgres) {
        return Err(LoadError::NotSpawned);
    }
    if !cases.is_empty() {
        contest(plan, cases).await?;
    }
    let mut servers = Servers::none(plan, 0)?;
    for scene in scenes {
        let program = plan.spawn.as_deref().ok_or(LoadError::NotSpawned)?;
        scenes::play(scene, plan, program, &mut servers).await?;
    }
    Ok(())
}

async fn contest(plan: &Plan, cases: Vec<Shape>) -> Result<(), LoadError> {
    let seats = cases.iter().map(Shape::seats).max().unwrap_or(1);
    let mut servers = Servers::none(plan, seats)?;
    let (contenders, mut commits) = match plan.both_engines() {
        Some(program) => (servers.on_both_engines(program).await?, None),
        None => {
            let alone = cases.iter().any(Shape::is_alone);
            let commits = alone.then(|| Commits::open(servers.dir())).transpose()?;
            (servers.beside_bare(plan).await?, commits)
        }
    };
    let (mut rows, mut places) = (Vec::new(), vec![Vec::new(); contenders.len()]);
    for case in cases {
        let mut samples = vec![Sample::default(); contenders.len()];
        for round in 0..plan.rounds {
            if let Some(commits) = commits.as_mut().filter(|_| case.is_alone()) {
                progress(format_args!("lone commits, round {} ...", round + 1));
                tokio::task::block_in_place(|| commits.measure(plan.seconds(), plan.payload))?;
            }
            let played = contest::play(plan, &contenders, case, round).await?;
            for (sample, more) in samples.iter_mut().zip(played) {
                sample.add(more);
            }
        }
        for (sample, places) in samples.iter_mut().zip(&mut places) {
            places.append(&mut sample.places);
        }
        rows.push(Row::new(case, &contenders, &samples));
    }
    let acked = acked(&contenders, places)?;
    let figures = Figures { plan, rows: &rows, commits: commits.map(Commits::samples), acked };
    figures.print(&mut io::stdout().lock())?;
    Ok(())
}

/// Counts what each contender acknowledged, having checked that no two messages of it share a
/// place.
fn acked(
    contenders: &[Contender],
    places: Vec<Vec<u64>>,
) -> Result<Vec<(&'static str, usize)>, LoadError> {
    let count = |(contender, mut places): (&Contender, Vec<u64>)| {
        let (name, acked) = (contender.name, places.len());
        places.sort_unstable();
        places.dedup();
        // Places count from 1; a 0 would be an answer that named none.
        if places.len() != acked || places.first() == Some(&0) {
            return Err(LoadError::Places { name, acked, places: places.len() });
        }
        Ok((name, acked))
    };
    contenders.iter().zip(places).map(count).collect()
}

/// The two kinds of lone commit.
type CommitSamples = [(&'static str, Sample); 2];
