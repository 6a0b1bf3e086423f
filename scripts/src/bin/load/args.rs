//! What to run: words and numbers, no action.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use nexo_scripts::process;

use crate::bare::BareArgs;
use crate::shape::{Shape, Talk};

const ABOUT: &str = "\
Measures how many durable, acknowledged messages a second a relay takes

Examples:
  A relay of its own, in a directory that goes afterwards:
    load --spawn target/release/nexo-server
  SQLite, PostgreSQL, and two servers on one PostgreSQL:
    load --spawn target/release/nexo-server --postgres
  One that runs already, with --rate-limit off:
    load --server http://127.0.0.1:8000 --pid \"$(pidof nexo-server)\"";

/// `load`.
#[derive(Debug, Parser)]
#[command(name = "load", version, about = "Measures a relay", long_about = ABOUT)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) plan: Plan,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the bare loop that the relay is compared with
    #[command(hide = true)]
    Bare(BareArgs),
}

/// A load run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Plan {
    /// The nexo-server to start and measure
    #[arg(long, value_name = "PATH", conflicts_with = "server")]
    pub(crate) spawn: Option<PathBuf>,
    /// A relay that runs already, with rate limits off
    #[arg(long, value_name = "URL", value_parser = address, required_unless_present = "spawn")]
    pub(crate) server: Option<SocketAddr>,
    /// Its process, for the CPU time
    #[arg(long, value_name = "PID", conflicts_with = "spawn")]
    pub(crate) pid: Option<u32>,
    /// Compare engines: a relay on SQLite, one on a PostgreSQL of this run, and two on another
    /// database of it with half of the clients each
    #[arg(long, conflicts_with = "server")]
    pub(crate) postgres: bool,
    /// What to measure, of: rest-one, rest, ws-one, ws, ws-receipts, ws-seed [default: these; with
    /// --postgres the first four], fanout, idle, abuse
    #[arg(
        long,
        value_name = "CASE",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub(crate) cases: Vec<Case>,
    /// Concurrent REST clients, each with one request in flight
    #[arg(long, value_name = "CLIENTS", default_value_t = 64, value_parser = count)]
    pub(crate) rest: usize,
    /// WebSocket connections, and the messages each has in flight
    #[arg(long, value_name = "CONNECTIONSxINFLIGHT", default_value = "64x32", value_parser = product)]
    pub(crate) ws: (usize, usize),
    /// Sockets of the case idle
    #[arg(long, value_name = "SOCKETS", default_value_t = 10_000, value_parser = sockets)]
    pub(crate) sockets: usize,
    /// Seconds measured, each case, each round, each server
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub(crate) seconds: u64,
    /// Seconds before each measurement
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub(crate) warmup: u64,
    /// Turns each server gets at each case
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) rounds: u32,
    /// Bytes of ciphertext a message
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = payload)]
    pub(crate) payload: usize,
    /// Where to put the databases; a disk, not memory, or the figures mean nothing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Something that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// One REST client.
    RestOne,
    /// As many as `--rest` says.
    Rest,
    /// One WebSocket with one message in flight.
    WsOne,
    /// As many of both as `--ws` says.
    Ws,
    /// The same, and a receipt in every acknowledgement.
    WsReceipts,
    /// The same in the seed's envelopes.
    WsSeed,
    /// Deliveries, beside a bare echo.
    Fanout,
    /// Sockets that say nothing.
    Idle,
    /// Clients that misbehave.
    Abuse,
}

/// A case with servers of its own; see `scenes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// See [`Case::Fanout`].
    Fanout,
    /// See [`Case::Idle`].
    Idle,
    /// See [`Case::Abuse`].
    Abuse,
}

/// One client alone, then many, over each corridor.
const CASES: [Case; 6] =
    [Case::RestOne, Case::Rest, Case::WsOne, Case::Ws, Case::WsReceipts, Case::WsSeed];

/// How many of them make sense of two engines: acknowledgements come from above both.
const ENGINE_CASES: usize = 4;

/// Where the relay comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Relay<'a> {
    /// It is started from this program.
    Spawn(&'a Path),
    /// It is there.
    Runs {
        /// Where it listens.
        address: SocketAddr,
        /// Its process, where known.
        pid: Option<u32>,
    },
}

impl Plan {
    /// What is measured.
    pub(crate) fn cases(&self) -> Vec<Shape> {
        let usual = if self.postgres { &CASES[..ENGINE_CASES] } else { &CASES[..] };
        let cases = if self.cases.is_empty() { usual } else { &self.cases };
        let mut distinct: Vec<Shape> = Vec::new();
        for shape in cases.iter().filter_map(|&case| self.shape(case)) {
            if !distinct.contains(&shape) {
                distinct.push(shape);
            }
        }
        distinct
    }

    /// What is played after that.
    pub(crate) fn scenes(&self) -> Vec<Scene> {
        let mut distinct = Vec::new();
        for scene in self.cases.iter().filter_map(|&case| scene(case)) {
            if !distinct.contains(&scene) {
                distinct.push(scene);
            }
        }
        distinct
    }

    fn shape(&self, case: Case) -> Option<Shape> {
        let (connections, in_flight) = self.ws;
        let many = |talk| Shape::Socket { connections, in_flight, talk };
        Some(match case {
            Case::Fanout | Case::Idle | Case::Abuse => return None,
            Case::RestOne => Shape::Rest { clients: 1 },
            Case::Rest => Shape::Rest { clients: self.rest },
            Case::WsOne => Shape::Socket { connections: 1, in_flight: 1, talk: Talk::Acks },
            Case::Ws => many(Talk::Acks),
            Case::WsReceipts => many(Talk::Receipts),
            Case::WsSeed => many(Talk::Seed),
        })
    }

    /// The relay to compare with the bare loop.
    pub(crate) fn relay(&self) -> Relay<'_> {
        match &self.spawn {
            Some(program) => Relay::Spawn(program),
            None => Relay::Runs {
                address: self.server.expect("clap asks for --server where there is no --spawn"),
                pid: self.pid,
            },
        }
    }

    /// The program whose engines are to be compared, if that is asked for.
    pub(crate) fn both_engines(&self) -> Option<&Path> {
        self.spawn.as_deref().filter(|_| self.postgres)
    }

    /// The measured window.
    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn scene(case: Case) -> Option<Scene> {
    match case {
        Case::Fanout => Some(Scene::Fanout),
        Case::Idle => Some(Scene::Idle),
        Case::Abuse => Some(Scene::Abuse),
        _ => None,
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    process::address(text).ok_or("expected http://ADDRESS:PORT, with a numeric address")
}

/// A relay on two cores is full long before.
fn count(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|n| (1..=2000).contains(n));
    number.ok_or("expected a number from 1 to 2000")
}

/// A loopback address has some 28,000 ports for one server, and there are more of them.
fn sockets(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|n| (1..=100_000).contains(n));
    number.ok_or("expected a number from 1 to 100000")
}

/// What the relay takes as `cipher`.
fn payload(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|n| (1..=65_536).contains(n));
    number.ok_or("expected a number of bytes from 1 to 65536")
}

/// The relay reads no further from a socket with 256 unanswered.
fn product(text: &str) -> Result<(usize, usize), &'static str> {
    let (connections, in_flight) = text.split_once('x').ok_or("expected two numbers, as 64x32")?;
    let in_flight = count(in_flight)?;
    if in_flight > 256 {
        return Err("a relay takes at most 256 in flight on one connection");
    }
    Ok((count(connections)?, in_flight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn plan(line: &str) -> Result<Plan, clap::Error> {
        Args::try_parse_from(line.split_whitespace()).map(|args| args.plan)
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_plan_is_read() {
        let plan = plan("load --spawn nexo-server --rest 8 --ws 4x16 --seconds 2").unwrap();
        assert_eq!((plan.rest, plan.ws, plan.seconds, plan.rounds), (8, (4, 16), 2, 2));
        let shapes: Vec<String> = plan.cases().iter().map(ToString::to_string).collect();
        let (receipts, seed) = ("WS 4 x 16, receipts", "WS 4 x 16, seed");
        let expected = ["REST 1 x 1", "REST 8 x 1", "WS 1 x 1", "WS 4 x 16", receipts, seed];
        assert_eq!(shapes, expected);
        assert_eq!(plan.relay(), Relay::Spawn(Path::new("nexo-server")));
        assert_eq!(plan.both_engines(), None);
    }

    #[test]
    fn one_client_is_not_measured_twice() {
        let plan = plan("load --server http://127.0.0.1:8000 --rest 1 --ws 1x1").unwrap();
        assert_eq!(plan.cases().len(), 4);
        let address = "127.0.0.1:8000".parse().unwrap();
        assert_eq!(plan.relay(), Relay::Runs { address, pid: None });
    }

    #[test]
    fn cases_are_chosen_by_name() {
        let plan = plan("load --spawn a --cases ws-seed,rest").unwrap();
        let shapes: Vec<String> = plan.cases().iter().map(ToString::to_string).collect();
        assert_eq!(shapes, ["WS 64 x 32, seed", "REST 64 x 1"]);
    }

    #[test]
    fn scenes_are_chosen_by_name_and_only_so() {
        let chosen = plan("load --spawn a --cases idle,fanout,idle --sockets 500").unwrap();
        assert_eq!(chosen.scenes(), [Scene::Idle, Scene::Fanout]);
        assert_eq!((chosen.cases().len(), chosen.sockets), (0, 500));
        assert_eq!(plan("load --spawn a --cases ws,abuse").unwrap().cases().len(), 1);
        assert_eq!(plan("load --spawn a").unwrap().scenes(), []);
    }

    #[test]
    fn engines_are_compared_without_the_bare_loop() {
        let plan = plan("load --spawn a --postgres").unwrap();
        assert_eq!(plan.both_engines(), Some(Path::new("a")));
        assert_eq!(plan.cases().len(), 4);
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        for line in [
            "load",
            "load --spawn a --server http://127.0.0.1:1",
            "load --spawn a --pid 1",
            "load --server https://127.0.0.1:1",
            "load --server http://localhost:1",
            "load --server http://127.0.0.1:1 --postgres",
            "load --spawn a --cases all",
            "load --spawn a --rest 0",
            "load --spawn a --ws 64",
            "load --spawn a --ws 64x257",
            "load --spawn a --ws 0x1",
            "load --spawn a --payload 0",
            "load --spawn a --payload 65537",
            "load --spawn a --seconds 0",
            "load --spawn a --sockets 0",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
