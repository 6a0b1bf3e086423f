//! What to run: words and numbers, no action.

use std::path::PathBuf;

use clap::Parser;

const ABOUT: &str = "\
Measures nexo-audit beside the raw hashing of the same log

Example:
  audit_bench --audit target/release/nexo-audit --dir /var/tmp/bench --entries 1000000";

/// `audit_bench`.
#[derive(Debug, Parser)]
#[command(name = "audit_bench", version, about = "Measures nexo-audit", long_about = ABOUT)]
pub(crate) struct Plan {
    /// The nexo-audit to measure
    #[arg(long, value_name = "PATH")]
    pub(crate) audit: PathBuf,
    /// Where to put the log: a disk, not memory, or the figures mean nothing
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Entries in the log
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1000..=1_000_000_000))]
    pub(crate) entries: u64,
    /// Turns that each of the measurements gets
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) rounds: u32,
    /// Checks after 1,000 new entries each
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) checks: u32,
    /// Print the figures as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Plan::command().debug_assert();
        assert!(Plan::try_parse_from(["audit_bench", "--audit", "a", "--dir", "d"]).is_ok());
        let none = ["audit_bench", "--audit", "a", "--dir", "d", "--entries", "0"];
        assert!(Plan::try_parse_from(none).is_err());
    }
}
