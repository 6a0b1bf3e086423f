//! One file per command: plain inputs in, results to the printer, an error or nothing back.

mod delete;
mod history;
mod input;
mod register;
mod send;
mod server;
mod show;
mod tail;
mod whoami;

use crate::cli::Command;
use crate::error::CliError;
use crate::options::Options;
use crate::output::Printer;

/// What every command gets.
pub struct Context {
    /// How the program was called.
    pub options: Options,
    /// Where words go.
    pub printer: Printer,
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
        Command::History(args) => history::run(context, args).await,
        Command::Delete(args) => delete::run(context, args).await,
        Command::Server => server::run(context).await,
    }
}

/// Whether the command runs until it is told to stop.
#[must_use]
pub fn is_endless(command: &Command) -> bool {
    matches!(command, Command::Tail(args) if args.follow)
}
