//! The command line: words and types, no action.

mod files;
mod trust;
mod watching;

pub(crate) use files::{
    CompareArgs, EvidenceCommand, EvidenceVerifyArgs, ProofCommand, ProofVerifyArgs,
};
pub(crate) use trust::{EvidenceArgs, TrustArgs};

use crate::duration::duration;
use crate::fetch::LogUrl;
use crate::finding::exit_codes;
use crate::key::LogKey;
use crate::local::Place;
use clap::{Args, Parser, Subcommand};
use files::COMPARE_EXAMPLES;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;
use watching::{KEYS_EXAMPLES, WATCH_EXAMPLES, WATCH_NOTES};
pub(crate) use watching::{KeysArgs, WatchArgs};

const ABOUT: &str = "Verifies a Nexo log without sharing code with its server";

const EXAMPLES: &str = "\
Verifies a Nexo log without sharing code with its server

Examples:
  The operator publishes the key (`nexo-server vkey`); pin it once, then run it again and again:
    nexo-audit check https://relay.example.org --vkey 'relay.example.org+1a2b3c4d+AbCd...'
    nexo-audit check https://relay.example.org

  In a script, with the verdict as JSON and as the exit code:
    nexo-audit check https://relay.example.org --json --timeout 5m";

const CHECK_EXAMPLES: &str = "\
Verifies the newest head of a log, proves that it extends the last one seen here, hashes every \
new entry into it, and remembers it

Examples:
  The first time, with the key that the operator publishes:
    nexo-audit check https://relay.example.org --vkey 'relay.example.org+1a2b3c4d+AbCd...'
  From then on:
    nexo-audit check https://relay.example.org
  In a script, with the memory in a place of its own:
    nexo-audit check https://relay.example.org --state /var/lib/nexo/audit.json --json";

const FULL_EXAMPLES: &str = "\
Hashes every entry of a log into its newest head, compares every tile of every level on the way, \
and proves that the tree was at every head ever accepted here. What `check` remembers is not \
relied on. An audit that is broken off goes on where it was

Examples:
  A log, with the key that check has remembered, or given:
    nexo-audit full https://relay.example.org
    nexo-audit full https://relay.example.org --vkey 'relay.example.org+1a2b3c4d+AbCd...'
  A copy of a log in a directory (checkpoint, tile/...), whose age does not matter:
    nexo-audit full /srv/mirror/relay.example.org --vkey 'relay.example.org+1a2b3c4d+AbCd...'
  Every Sunday, in a script:
    nexo-audit full https://relay.example.org --json --timeout 6h";

/// `nexo-audit`.
#[derive(Debug, Parser)]
#[command(name = "nexo-audit", version, about = ABOUT, long_about = EXAMPLES)]
#[command(after_long_help = exit_codes())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Verify the newest head of a log against the last one seen here, and remember it
    #[command(long_about = CHECK_EXAMPLES, after_long_help = exit_codes())]
    Check(CheckArgs),
    /// Compare two heads of a log, from two vantage points
    #[command(long_about = COMPARE_EXAMPLES, after_long_help = exit_codes())]
    Compare(CompareArgs),
    /// Verify evidence that somebody else wrote
    Evidence {
        #[command(subcommand)]
        command: EvidenceCommand,
    },
    /// Verify offline proofs
    Proof {
        #[command(subcommand)]
        command: ProofCommand,
    },
    /// Show the history of an account's devices, proved
    #[command(long_about = KEYS_EXAMPLES, after_long_help = exit_codes())]
    Keys(KeysArgs),
    /// Audit a log again and again, and tell whoever has to know
    #[command(long_about = WATCH_EXAMPLES)]
    #[command(after_long_help = format!("{WATCH_NOTES}{}", exit_codes()))]
    #[command(mut_arg("json", |arg| arg.requires("once")))]
    #[command(mut_arg("nagios", |arg| arg.requires("once")))]
    Watch(Box<WatchArgs>),
    /// Verify every entry and every tile of a log, from the first on, on all cores
    #[command(long_about = FULL_EXAMPLES, after_long_help = exit_codes())]
    Full(FullArgs),
}

impl Command {
    /// Whether the verdict is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Check(args) => args.json,
            Self::Keys(args) => args.check.json,
            Self::Watch(args) => args.check.json,
            Self::Compare(args) => args.json,
            Self::Evidence { command: EvidenceCommand::Verify(args) } => args.json,
            Self::Proof { command: ProofCommand::Verify(args) } => args.json,
            Self::Full(args) => args.json,
        }
    }

    /// The oldest allowed head, seconds, when the verdict is wanted in a monitoring system's words.
    pub(crate) fn nagios(&self) -> Option<u64> {
        let args = match self {
            Self::Check(args) => args,
            Self::Keys(args) => &args.check,
            Self::Watch(args) => &args.check,
            _ => return None,
        };
        args.nagios.then_some(args.max_age.as_secs())
    }
}

/// `nexo-audit check`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// Address of the log
    #[arg(value_name = "URL", value_parser = LogUrl::parse)]
    pub(crate) url: LogUrl,

    /// The log's key, as `nexo-server vkey` prints it; remembered from then on
    #[arg(long, value_name = "VKEY", value_parser = LogKey::parse)]
    pub(crate) vkey: Option<LogKey>,

    /// Trust on first use: without a key, take the one that the log itself offers
    ///
    /// Whoever answers at the URL at that moment is then the log. Later runs hold it to that.
    #[arg(long)]
    pub(crate) tofu: bool,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) evidence: EvidenceArgs,

    /// Where to remember the last verified head
    ///
    /// Without this: a file named after the address in $XDG_STATE_HOME/nexo/audit/.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,

    /// Print the verdict as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Print one line for Nagios or Icinga, and end with its status: 0 verified, 1 not reached, 2 any
    /// finding, 3 trouble on this side
    #[arg(long, conflicts_with = "json")]
    pub(crate) nagios: bool,

    /// Oldest head that is still fresh, as 90s, 15m, 24h or 7d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub(crate) max_age: Duration,

    /// Give up after this long; each single request has limits of its own
    ///
    /// What was found by then is told; its evidence may take a minute more. Without this, a round of
    /// `watch` takes an hour at most, and the next one goes on from there.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `nexo-audit full`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FullArgs {
    /// Address of the log, or the directory of a copy
    #[arg(value_name = "URL|DIR", value_parser = Place::parse)]
    pub(crate) place: Place,

    /// The log's key, as `nexo-server vkey` prints it; remembered from then on
    #[arg(long, value_name = "VKEY", value_parser = LogKey::parse)]
    pub(crate) vkey: Option<LogKey>,

    /// Trust on first use: without a key, take the one that the log itself offers
    ///
    /// Whoever answers at the URL at that moment is then the log. Later runs hold it to that.
    #[arg(long)]
    pub(crate) tofu: bool,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) evidence: EvidenceArgs,

    /// Where to remember the last verified head; the file that `check` uses
    ///
    /// Without this: a file named after the address or directory in $XDG_STATE_HOME/nexo/audit/.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,

    /// Print the verdict as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Oldest head that is still fresh, as 90s, 15m, 24h or 7d
    ///
    /// Without this: 24h for a URL; the head of a copy may have any age.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) max_age: Option<Duration>,

    /// Give up after this long; the next run goes on from there
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Threads that read and hash
    ///
    /// Without this: as many as there are cores; for a copy more, because some wait for the disk.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZero<usize>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_starts_with_examples_and_lists_every_exit_code() {
        for command in [Cli::command(), Cli::command().find_subcommand("check").unwrap().clone()] {
            let help = command.clone().render_long_help().to_string();
            let (examples, usage) = (help.find("Examples:"), help.find("Usage:"));
            assert!(examples.is_some() && examples < usage, "{help}");
            for row in crate::finding::TABLE {
                assert!(help.contains(row.meaning), "{help}");
            }
            assert!(!command.clone().render_help().to_string().contains("Exit codes"));
        }
    }
}
