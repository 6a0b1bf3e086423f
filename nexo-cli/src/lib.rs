//! Nexo's command line: register, encrypt, send, tail, without a prompt or a daemon.
//!
//! ```text
//! main -> run -> cli, options          what was asked
//!                commands              one file each; results to output
//!                  profile             who we are: vault (state), home (directory), identity
//!                  deliver, receive    a message out, messages in
//!                  devices, linking    changing the account's devices, joining an account
//!                    e2ee              pure encryption core: no I/O, no clock
//!                    trust             what to believe of the relay; proofs by nexo_audit
//!                    api               the relay over HTTP and WebSocket
//! ```
//!
//! Everything runs on one thread. Errors are one enum per operation; [`error`] maps all of them
//! to the exit codes of [`exit`].

pub mod api;
pub mod body;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod deliver;
pub mod devices;
pub mod e2ee;
pub mod error;
pub mod exit;
pub mod home;
pub mod identity;
pub mod linking;
pub mod options;
pub mod output;
pub mod profile;
pub mod random;
pub mod receive;
pub mod recovery;
pub mod trust;
pub mod upkeep;
pub mod vault;
pub mod wire;

use std::ffi::OsString;
use std::io::Write as _;

use clap::Parser as _;
use clap::error::ErrorKind;
use tokio::signal::unix::{SignalKind, signal};

use cli::Cli;
use commands::Context;
use error::CliError;
use exit::Exit;
use options::Options;
use output::Printer;

/// Runs the program: parses `args` (the first is the program's name), acts, reports.
///
/// A rustls crypto provider must be installed before.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    without_cores();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let printer = Printer::standard(cli.global.json, cli.global.quiet);
    let options = match Options::resolve(&cli.global) {
        Ok(options) => options,
        Err(error) => return report(&printer, &error.into()),
    };
    let context = Context { options, printer };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return report(&context.printer, &CliError::Os(error.to_string())),
    };
    let done = runtime.block_on(supervised(&context, &cli));
    // A thread that still waits for stdin must not hold the exit up.
    runtime.shutdown_background();
    match done {
        Ok(()) => Exit::Done,
        Err(error) => report(&context.printer, &error),
    }
}

/// What a crash would leave on the disk is what this process knows: keys and texts. So no kind of
/// memory goes into a core (core(5)), of this process or of a handler that it starts. Where there
/// is no such switch (not Linux) the system's own setting stands.
fn without_cores() {
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
}

/// The command under its deadline and the signals. Stopping it anywhere is safe: what matters
/// is in transactions.
async fn supervised(context: &Context, cli: &Cli) -> Result<(), CliError> {
    let os = |error: std::io::Error| CliError::Os(error.to_string());
    let mut interrupt = signal(SignalKind::interrupt()).map_err(os)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(os)?;
    let command = commands::run(context, &cli.command);
    tokio::select! {
        done = command => done,
        seconds = deadline(context, cli) => {
            let waiting = context.printer.progress().shown();
            Err(CliError::Timeout { seconds, waiting })
        }
        _ = interrupt.recv() => Err(CliError::Interrupted),
        _ = terminate.recv() => Err(CliError::Terminated),
    }
}

/// Ends when the deadline passes; never for a command without one.
async fn deadline(context: &Context, cli: &Cli) -> u64 {
    let options = &context.options;
    let endless = commands::is_endless(&cli.command) && options.timeout.is_none();
    if endless || commands::keeps_deadline(&cli.command) {
        return std::future::pending().await;
    }
    tokio::time::sleep(options.deadline()).await;
    options.deadline().as_secs()
}

fn report(printer: &Printer, error: &CliError) -> Exit {
    printer.progress().clear();
    if !matches!(error, CliError::Interrupted | CliError::Terminated) {
        printer.warn(&format!("error: {error}"));
        if let Some(hint) = error.hint() {
            printer.warn(&format!("hint: {hint}"));
        }
    }
    error.exit()
}

/// clap's words; its exit code 2 for wrong usage is 64 here.
fn explain(error: &clap::Error) -> Exit {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let text = error.render();
    let written = if asked {
        write!(anstream::stdout(), "{}", text.ansi())
    } else {
        write!(anstream::stderr(), "{}", text.ansi())
    };
    match (asked, written) {
        (true, Ok(())) => Exit::Done,
        (true, Err(_)) => Exit::Io,
        (false, _) => Exit::Usage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(args: &[&str]) -> u8 {
        run([&["nexo-cli"], args].concat().into_iter().map(OsString::from)).code()
    }

    #[test]
    fn wrong_usage_is_64_and_help_is_0() {
        assert_eq!(run_with(&["no-such-command"]), 64);
        assert_eq!(run_with(&[]), 64);
        assert_eq!(run_with(&["send"]), 64);
        assert_eq!(run_with(&["--help"]), 0);
        assert_eq!(run_with(&["--version"]), 0);
    }

    #[test]
    fn without_a_registration_there_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("none");
        let home = home.to_str().unwrap();
        for command in
            [&["whoami"][..], &["history"], &["tail"], &["server"], &["send", "bob", "x"]]
        {
            assert_eq!(run_with(&[&["--home", home], command].concat()), 78, "{command:?}");
        }
        assert_eq!(run_with(&["--home", home, "register", "alice"]), 64, "which relay?");
    }
}
