//! What to run: words and numbers, no action.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

const ABOUT: &str = "\
Measures what a relay's log costs as it grows

Example:
  growth --spawn target/release/nexo-server --sizes 10k,1m";

/// `growth`.
#[derive(Debug, Parser)]
#[command(name = "growth", version, about = "Measures a growing log", long_about = ABOUT)]
pub(crate) struct Plan {
    /// The nexo-server to start and measure
    #[arg(long, value_name = "PATH")]
    pub(crate) spawn: PathBuf,
    /// Sizes of the log, in leaves; k and m are thousands and millions
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "10k,1m,10m", value_parser = size)]
    pub(crate) sizes: Vec<u64>,
    /// Bytes of ciphertext a message
    #[arg(long, value_name = "BYTES", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) payload: u16,
    /// Accounts that write, each to a conversation of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub(crate) writers: u16,
    /// The messages' ids
    #[arg(long, value_enum, default_value_t = Ids::Timed)]
    pub(crate) ids: Ids,
    /// Turns each size gets
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) rounds: u32,
    /// Batches of each size that are measured, each round
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) batches: u16,
    /// Proofs of each kind that are measured, each round
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) proofs: u16,
    /// Requests between the two looks at the server's memory
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) requests: u32,
    /// Where to put the databases; a disk, not memory, or the figures mean nothing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// How messages are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ids {
    /// As nexo-cli names them, and the relay where a client does not: by time, then random.
    Timed,
    /// As another client may: all over the index of ids.
    Random,
}

/// A tree of fewer has no tile above its lowest level.
const SMALLEST: u64 = 1000;
/// Far beyond any disk this runs on.
const LARGEST: u64 = 1_000_000_000;

fn size(text: &str) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix('k') {
        Some(digits) => (digits, 1000),
        None => lower.strip_suffix('m').map_or((&*lower, 1), |digits| (digits, 1_000_000)),
    };
    let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| (SMALLEST..=LARGEST).contains(size)).ok_or("expected 1k to 1000m leaves")
}

impl Plan {
    /// Puts the sizes in the order a log reaches them.
    pub(crate) fn ascending(mut self) -> Self {
        self.sizes.sort_unstable();
        self.sizes.dedup();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn plan(line: &str) -> Result<Plan, clap::Error> {
        Plan::try_parse_from(line.split_whitespace()).map(Plan::ascending)
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Plan::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_and_put_in_order() {
        let sizes = |line: &str| plan(line).unwrap().sizes;
        assert_eq!(sizes("growth --spawn x"), [10_000, 1_000_000, 10_000_000]);
        assert_eq!(sizes("growth --spawn x --sizes 2M,1500,3k,3000"), [1500, 3000, 2_000_000]);
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        for line in [
            "growth",
            "growth --spawn x --sizes 999",
            "growth --spawn x --sizes 2000m",
            "growth --spawn x --sizes 1.5m",
            "growth --spawn x --sizes k",
            "growth --spawn x --sizes 99999999999999999999m",
            "growth --spawn x --payload 0",
            "growth --spawn x --batches 1",
            "growth --spawn x --ids none",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
