//! Options about whom to believe, and about what is kept of a finding; shared by commands.

use clap::Args;
use std::path::PathBuf;

/// The trust file.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TrustArgs {
    /// Trust file (C2SP tlog-policy): keys of logs, witnesses, and how many of them must vouch
    ///
    /// Its `#nexo:` lines set max-age, faulty and clients. A file under which two readers could be
    /// shown two logs is refused. Witnesses with an address are asked what they saw.
    #[arg(long, value_name = "FILE")]
    pub(crate) trust: Option<PathBuf>,

    /// Witnesses that may lie, in place of the trust file's number
    #[arg(long, value_name = "N", requires = "trust")]
    pub(crate) faulty: Option<usize>,
}

/// Where evidence goes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EvidenceArgs {
    /// Folder for the evidence of a finding
    ///
    /// Without this: `evidence` beside the state file, or here for a command without one. A folder
    /// takes 256 MiB of observations, and proofs up to 1 GiB.
    #[arg(long, value_name = "DIR")]
    pub(crate) evidence: Option<PathBuf>,
}
