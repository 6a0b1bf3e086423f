//! Commands on what is at hand: heads to compare, proofs and evidence to verify.

use super::exit_codes;
use super::trust::{EvidenceArgs, TrustArgs};
use crate::duration::duration;
use crate::encoding::hash_from_hex;
use crate::fetch::LogUrl;
use crate::key::LogKey;
use crate::merkle::Hash;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

pub(super) const COMPARE_EXAMPLES: &str = "\
Compares two heads of a log, from wherever they are: a log signs one history, so one of them is \
the beginning of the other

Examples:
  What the log shows here, and what it showed a friend:
    nexo-audit compare https://relay.example.org friend.checkpoint --vkey '...'
  The memories of two auditors, with the log to prove that one extends the other:
    nexo-audit compare here.json there.json --log https://relay.example.org
  The head in the body of a message from a peer (its `sth`):
    nexo-audit compare https://relay.example.org body.json --vkey '...'

Each of A and B is the URL of a log, or a file (- for stdin): a checkpoint, a state file of \
nexo-audit, an offline proof, or a JSON object with a checkpoint in `sth`.";

pub(super) const PROOF_EXAMPLES: &str = "\
Verifies an offline proof: that an entry is in the log, under its key alone

Examples:
    curl -OJ 'https://relay.example.org/log/proof?index=42'
    nexo-audit proof verify 42.tlog-proof --vkey '...'
  With witnesses, and tied to an entry of your own making:
    nexo-audit proof verify 42.tlog-proof --trust trust.txt --entry entry.bin";

pub(super) const EVIDENCE_EXAMPLES: &str = "\
Verifies evidence that somebody else wrote, offline, under the log's key alone

Examples:
    nexo-audit evidence verify evidence/0a1b...json --vkey '...'

A *proof* needs no trust in whoever wrote it: the log signed what contradicts itself. An \
*observation* shows that the heads in it are genuine; the rest is the writer's word.";

/// `nexo-audit compare`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// A head: URL, file or -
    #[arg(value_name = "A")]
    pub(crate) a: String,

    /// Another head: URL, file or -
    #[arg(value_name = "B")]
    pub(crate) b: String,

    /// The log's key; a state file brings its own
    #[arg(long, value_name = "VKEY", value_parser = LogKey::parse)]
    pub(crate) vkey: Option<LogKey>,

    /// Where to get the proof between heads of two sizes, if neither A nor B is a URL
    #[arg(long, value_name = "URL", value_parser = LogUrl::parse)]
    pub(crate) log: Option<LogUrl>,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    #[command(flatten)]
    pub(crate) evidence: EvidenceArgs,

    /// Print the verdict as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Give up after this long; each single request has limits of its own
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `nexo-audit proof`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ProofCommand {
    /// Verify that an entry is in the log
    #[command(long_about = PROOF_EXAMPLES, after_long_help = exit_codes())]
    Verify(ProofVerifyArgs),
}

/// `nexo-audit proof verify`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProofVerifyArgs {
    /// The proof (C2SP tlog-proof), or - for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// The log's key
    #[arg(long, value_name = "VKEY", value_parser = LogKey::parse)]
    pub(crate) vkey: Option<LogKey>,

    #[command(flatten)]
    pub(crate) trust: TrustArgs,

    /// The entry that must be there, as in its bundle
    #[arg(long, value_name = "FILE", conflicts_with = "leaf_hash")]
    pub(crate) entry: Option<PathBuf>,

    /// The leaf hash that must be there: SHA-256(0x00 || entry)
    #[arg(long, value_name = "HEX", value_parser = leaf_hash)]
    pub(crate) leaf_hash: Option<Hash>,

    /// Print the verdict as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `nexo-audit evidence`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Verify a file of evidence
    #[command(long_about = EVIDENCE_EXAMPLES, after_long_help = exit_codes())]
    Verify(EvidenceVerifyArgs),
}

/// `nexo-audit evidence verify`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EvidenceVerifyArgs {
    /// The evidence, or - for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// The log's key, from elsewhere than the file
    #[arg(long, value_name = "VKEY", value_parser = LogKey::parse)]
    pub(crate) vkey: Option<LogKey>,

    /// Print the verdict as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Why text is not a leaf hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a leaf hash is 64 hex digits in lower case")]
struct LeafHashError;

fn leaf_hash(text: &str) -> Result<Hash, LeafHashError> {
    hash_from_hex(text).ok_or(LeafHashError)
}
