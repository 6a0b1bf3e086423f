//! What to run: words and numbers, no action.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::bare::BareArgs;
use crate::drive::Shape;
use crate::loopback;

const ABOUT: &str = "\
Measures how many durable, acknowledged messages a second a relay takes

Examples:
  A relay of its own, in a directory that goes afterwards:
    load --spawn target/release/nexo-server
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
    /// Concurrent REST clients, each with one request in flight
    #[arg(long, value_name = "CLIENTS", default_value_t = 64, value_parser = count)]
    pub(crate) rest: usize,
    /// WebSocket connections, and the messages each has in flight
    #[arg(long, value_name = "CONNECTIONSxINFLIGHT", default_value = "64x32", value_parser = product)]
    pub(crate) ws: (usize, usize),
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

impl Plan {
    /// What is measured: one client alone, then many, over each corridor.
    pub(crate) fn cases(&self) -> Vec<Shape> {
        let (connections, in_flight) = self.ws;
        let cases = [
            Shape::Rest { clients: 1 },
            Shape::Rest { clients: self.rest },
            Shape::Socket { connections: 1, in_flight: 1 },
            Shape::Socket { connections, in_flight },
        ];
        let mut distinct: Vec<Shape> = Vec::new();
        for case in cases {
            if !distinct.contains(&case) {
                distinct.push(case);
            }
        }
        distinct
    }

    /// The measured window.
    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    loopback(text).ok_or("expected http://ADDRESS:PORT, with a numeric address")
}

/// A relay on two cores is full long before.
fn count(text: &str) -> Result<usize, &'static str> {
    let number = text.parse().ok().filter(|n| (1..=2000).contains(n));
    number.ok_or("expected a number from 1 to 2000")
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
        assert_eq!(shapes, ["REST 1 x 1", "REST 8 x 1", "WS 1 x 1", "WS 4 x 16"]);
    }

    #[test]
    fn one_client_is_not_measured_twice() {
        let plan = plan("load --server http://127.0.0.1:8000 --rest 1 --ws 1x1").unwrap();
        assert_eq!(plan.cases().len(), 2);
        assert_eq!(plan.server, Some("127.0.0.1:8000".parse().unwrap()));
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        for line in [
            "load",
            "load --spawn a --server http://127.0.0.1:1",
            "load --spawn a --pid 1",
            "load --server https://127.0.0.1:1",
            "load --server http://localhost:1",
            "load --spawn a --rest 0",
            "load --spawn a --ws 64",
            "load --spawn a --ws 64x257",
            "load --spawn a --ws 0x1",
            "load --spawn a --payload 0",
            "load --spawn a --payload 65537",
            "load --spawn a --seconds 0",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
