//! From a tool's order to its output and exit code. Data goes to stdout, words to stderr.

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;

use nexo_schema::bytes::to_hex;
use serde_json::json;

use super::verify::{MAX_LISTED, Report, VerifyError, verify};
use super::{KeysError, copy, existing_keys, interrupt, origin, progress, verify as fsck};
use crate::exit::Exit;
use crate::log::{KeyError, LogKeys};
use crate::store::Database;
use crate::store::whole::CopyError;

/// A tool and what it is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// `log verify`.
    Verify(Verify),
    /// `log new-origin`.
    NewOrigin(origin::Order),
    /// `db copy`.
    Copy(Copy),
}

/// `log verify`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// Where the marker is.
    pub data_dir: PathBuf,
    /// Where the log's keys are.
    pub keys_dir: PathBuf,
    /// The database.
    pub database: Database,
    /// Threads; as many as there are cores if it is not said.
    pub jobs: Option<usize>,
    /// What was verified before, and will have been.
    pub state: Option<PathBuf>,
    /// One JSON object a line.
    pub json: bool,
}

/// `db copy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// From where.
    pub source: Database,
    /// Where to.
    pub destination: Database,
    /// Where the source's keys are, if its head is to be verified.
    pub keys_dir: Option<PathBuf>,
}

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The log's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Ctrl-C cannot be heard.
    #[error("{0}")]
    Interrupt(io::Error),
    /// `log verify`.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// `db copy`.
    #[error(transparent)]
    Copy(#[from] copy::Failed),
    /// `log new-origin`.
    #[error(transparent)]
    Origin(#[from] origin::Failed),
    /// stdout takes no more.
    #[error("{0}")]
    Output(io::Error),
}

impl ToolError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Keys(error) => of_keys(error),
            Self::Interrupt(_) => Exit::Os,
            Self::Verify(VerifyError::State(fsck::StateError::OtherLog { .. })) => Exit::Config,
            Self::Verify(_) | Self::Output(_) => Exit::Io,
            Self::Copy(error) => of_copy(error),
            Self::Origin(error) => of_origin(error),
        }
    }
}

fn of_keys(error: &KeysError) -> Exit {
    match error {
        KeysError::None(..) => Exit::NoKey,
        KeysError::Keys(KeyError::Random(_)) => Exit::Os,
        KeysError::Keys(_) => Exit::Config,
    }
}

fn of_copy(error: &copy::Failed) -> Exit {
    match error {
        copy::Failed::Copy(CopyError::NotEmpty(_)) => Exit::CannotCreate,
        copy::Failed::Copy(CopyError::SourceBusy(_)) => Exit::Temporary,
        copy::Failed::Copy(CopyError::Store(_)) => Exit::Io,
        copy::Failed::Keys(_) => Exit::Config,
        copy::Failed::Damaged | copy::Failed::Rows { .. } | copy::Failed::Root => Exit::Mismatch,
    }
}

fn of_origin(error: &origin::Failed) -> Exit {
    match error {
        origin::Failed::Keys(error) => of_keys(error),
        origin::Failed::File(_) => Exit::Temporary,
        origin::Failed::NotFresh(_) => Exit::CannotCreate,
        origin::Failed::Healthy(_) | origin::Failed::SameName(_) => Exit::Config,
        origin::Failed::Store(_) | origin::Failed::Marker(_) | origin::Failed::Io { .. } => {
            Exit::Io
        }
    }
}

/// Runs a tool to its end.
///
/// # Errors
/// [`ToolError`], with the exit code.
pub fn run(tool: &Tool) -> Result<Exit, ToolError> {
    match tool {
        Tool::Verify(order) => run_verify(order),
        Tool::NewOrigin(order) => run_new_origin(order),
        Tool::Copy(order) => run_copy(order),
    }
}

fn run_verify(order: &Verify) -> Result<Exit, ToolError> {
    let keys = existing_keys(&order.keys_dir)?;
    let stop = interrupt::flag().map_err(ToolError::Interrupt)?;
    let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let what = fsck::Order {
        database: &order.database,
        keys: &keys,
        data_dir: &order.data_dir,
        jobs: order.jobs.unwrap_or_else(cores),
        state: order.state.clone(),
    };
    let bar = progress::bar("entries");
    let report = verify(&what, &bar, &stop);
    bar.finish_and_clear();
    let report = report?;
    let printed = if order.json { print_json(&keys, &report) } else { print_lines(&keys, &report) };
    printed.map_err(ToolError::Output)?;
    Ok(match (report.count, report.stopped) {
        (1.., _) => Exit::Mismatch,
        (0, true) => Exit::Interrupted,
        (0, false) => Exit::Done,
    })
}

fn print_lines(keys: &LogKeys, report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    out.flush()?;
    let mut words = format!("{}: {} entries", keys.origin(), report.size);
    if report.from > 0 {
        words.push_str(&format!(", {} of them verified before", report.from));
    }
    if let Some(root) = report.root {
        words.push_str(&format!(", root {}", to_hex(&root)));
    }
    words.push_str(&match (report.count, report.stopped) {
        (0, false) => "; nothing is wrong".to_owned(),
        (0, true) => "; interrupted, nothing wrong so far".to_owned(),
        (1, _) => "; 1 finding".to_owned(),
        (count, _) if count > MAX_LISTED as u64 => format!("; {count} findings or more"),
        (count, _) => format!("; {count} findings"),
    });
    say(&words);
    Ok(())
}

fn print_json(keys: &LogKeys, report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for finding in &report.findings {
        writeln!(out, "{}", json!(finding))?;
    }
    let summary = json!({"verified": {
        "origin": keys.origin().as_str(),
        "size": report.size,
        "from": report.from,
        "root": report.root.map(|root| to_hex(&root)),
        "findings": report.count,
        "interrupted": report.stopped,
    }});
    writeln!(out, "{summary}")?;
    out.flush()
}

fn run_copy(order: &Copy) -> Result<Exit, ToolError> {
    let keys = order.keys_dir.as_deref().map(existing_keys).transpose()?;
    let bar = progress::bar("rows and entries");
    let copied = copy::copy(&order.source, &order.destination, keys.as_ref(), &bar);
    bar.finish_and_clear();
    say(&copied?.to_string());
    Ok(Exit::Done)
}

fn run_new_origin(order: &origin::Order) -> Result<Exit, ToolError> {
    let begun = origin::begin(order)?;
    let (words, vkey) = match begun {
        origin::Begun::New { old, vkey } => (
            format!(
                "the log {old} has ended here; {} begins empty. Its old database and keys are put \
                 aside under names that end in .old-*. Tell clients and auditors the new vkey: \
                 those who pinned the old one refuse this server, and have to register again",
                vkey.name
            ),
            vkey,
        ),
        origin::Begun::Joined { old, vkey } => {
            (format!("the marker of {old} is put aside; this server is one of {}", vkey.name), vkey)
        }
    };
    say(&words);
    writeln!(io::stdout(), "{vkey}").map_err(ToolError::Output)?;
    Ok(Exit::Done)
}

fn say(words: &str) {
    // Not eprintln: it panics when nobody reads.
    let _ = writeln!(io::stderr(), "nexo-server: {words}");
}
