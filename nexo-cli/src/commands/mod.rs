//! One file per command: plain inputs in, results to the printer, an error or nothing back.

mod bench;
mod delete;
mod device;
mod fingerprint;
mod history;
mod input;
mod join;
mod pin;
mod register;
mod send;
mod server;
mod show;
mod state;
mod tail;
mod verify;
mod whoami;

use crate::cli::{Command, Device};
use crate::error::CliError;
use crate::options::Options;
use crate::output::Printer;
use crate::profile::Session;

/// What every command gets.
pub struct Context {
    /// How the program was called.
    pub options: Options,
    /// Where words go.
    pub printer: Printer,
}

impl Context {
    /// Says what the judges of a session want a person to know.
    fn tell(&self, session: &Session<'_>) {
        for notice in session.trust.take_notices() {
            self.printer.warn(&format!("warning: {notice}"));
        }
    }
}

/// Runs the command that was parsed.
///
/// # Errors
/// [`CliError`].
pub async fn run(context: &Context, command: &Command) -> Result<(), CliError> {
    match command {
        Command::Register(args) => register::run(context, args).await,
        Command::Whoami => whoami::run(context).await,
        Command::Send(args) => send::run(context, args).await,
        Command::Tail(args) => tail::run(context, args).await,
        Command::Bench(args) => bench::run(context, args).await,
        Command::History(args) => history::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::Server => server::run(context).await,
        Command::Device(Device::Link(args)) => join::link(context, args).await,
        Command::Device(device) => device::run(context, device).await,
        Command::Recover(args) => join::recover(context, args).await,
        // clap has seen the word that it is meant.
        Command::Close(_) => device::close(context).await,
        Command::Fingerprint(args) => fingerprint::run(context, args).await,
        Command::Pin(args) => pin::run(context, args).await,
        Command::Verify(args) => verify::run(context, args).await,
        Command::State(command) => state::run(context, command).await,
    }
}

/// Whether the command runs until it is told to stop.
#[must_use]
pub fn is_endless(command: &Command) -> bool {
    match command {
        Command::Tail(args) => args.follow,
        // Its request ends by itself; and that takes as long as the relay needs.
        Command::Device(Device::Link(_)) | Command::Bench(_) => true,
        _ => false,
    }
}

/// Whether the command itself says what `--timeout` bounds.
#[must_use]
pub fn keeps_deadline(command: &Command) -> bool {
    matches!(command, Command::Send(args) if args.stdin_lines)
}
