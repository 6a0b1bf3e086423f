//! The auditor of Nexo's transparency log, as a library and as the program `nexo-audit`.
//!
//! A Nexo server keeps one append-only log of what it was given: key events, messages and
//! deletions, each as a few hashes. It signs the log's head and answers nobody before that. This
//! crate checks that it keeps to it. It shares no code with the server: hashes, proofs, formats
//! and limits are written again here, from the RFCs, the C2SP texts and PROTOCOL.md. What is
//! shared is `sha2`, `ed25519-dalek` and the protocol text.
//!
//! # What an audit proves
//!
//! * The head was signed by the pinned key ([`checkpoint`], [`note`], [`key`]).
//! * It was vouched for at most `--max-age` ago, by the log's own clock.
//! * Every entry it covers is the one the tree was built from, and is well formed ([`rebuild`],
//!   [`entry`]). Entries that an earlier audit hashed are not read again.
//! * Everything that an earlier audit saw is still there, in the same place ([`check`]).
//! * The log hands out the consistency proof that clients would need.
//!
//! # What it cannot prove
//!
//! * That others see the same log. Two auditors that compare their heads can; so can witnesses.
//! * That an entry is true. The log holds hashes of messages it cannot read. Whether a key event
//!   may follow another is judged where the events are told ([`keys`], [`sigchain`]).
//! * That nothing was left out. Who sends a message gets its place in the log as the receipt,
//!   and must check it.
//! * That the server's clock is right: the head's time is the server's statement, and a server
//!   that also controls what is shown can let an old head look fresh to one reader.
//! * Anything to somebody whose own state file was replaced by an older one.
//!
//! # Map
//!
//! ```text
//! main -> run -> cli, commands -> check -> growth                   what is new, in order
//!                   output        full                              everything, on all cores
//!                   state           fetch, local, download          bytes of strangers
//!                                   checkpoint, note, key           who signed what, when
//!                                   rebuild -> tile, entry, merkle
//!                                   finding                         the verdicts
//!                          keys  -> sigchain                        accounts and their rules
//!                          watch                                    rounds, and who is told
//!                          policy, compare -> nodes                 witnesses; two heads of one log
//!                          evidence, proof                          files that others verify offline
//! ```
//!
//! [`merkle`], [`key`], [`note`], [`checkpoint`], [`entry`], [`tile`], [`rebuild`] and
//! [`finding`] do no I/O; nexo-cli verifies its receipts with them.

#![warn(missing_docs)]

pub mod check;
pub mod checkpoint;
mod cli;
mod commands;
mod compare;
mod download;
mod duration;
mod encoding;
pub mod entry;
pub mod evidence;
pub mod fetch;
mod files;
pub mod finding;
pub mod full;
mod growth;
mod hashing;
pub mod key;
pub mod keys;
pub mod local;
pub mod merkle;
mod nagios;
mod nodes;
pub mod note;
mod output;
pub mod policy;
pub mod proof;
pub mod rebuild;
pub mod sigchain;
pub mod state;
#[cfg(test)]
mod testlog;
pub mod tile;
mod watch;

pub use checkpoint::{Checkpoint, SignedHead, parse_log_keys};
pub use finding::{Finding, Verdict};
pub use key::{LogKey, TimeKey};
pub use merkle::{Hash, leaf_hash, verify_consistency, verify_inclusion};

use clap::Parser;
use cli::Cli;
use output::Printer;
use std::ffi::OsString;
use std::io::Write;

/// Runs the program with these arguments (the first is its name) and returns its exit code, by
/// the table in [`finding`]. The process must have installed its TLS provider.
pub fn run<I>(args: I, out: &mut dyn Write, err: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = OsString>,
{
    let command = match Cli::try_parse_from(args) {
        Ok(cli) => cli.command,
        Err(error) => return explain(&error, out, err),
    };
    let mut printer = Printer::new(out, err, command.json()).for_nagios(command.nagios());
    let Err(error) = commands::run(&command, &mut printer) else {
        return Verdict::Verified.code();
    };
    match printer.failed(&error) {
        Ok(()) if command.nagios().is_some() => nagios::status(error.verdict()).0,
        Ok(()) => error.verdict().code(),
        // A verdict that nobody could read must not look like one that somebody did.
        Err(_) => Verdict::Io.code(),
    }
}

/// Help and version go to stdout with success, mistakes to stderr as usage errors.
fn explain(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let text = error.render();
    if error.use_stderr() {
        let _ = write!(err, "{text}");
        return Verdict::Usage.code();
    }
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Verdict::Verified.code(),
        Err(_) => Verdict::Io.code(),
    }
}
