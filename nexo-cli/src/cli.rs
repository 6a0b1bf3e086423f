//! The command line: words and shapes, no logic.

mod account;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use account::*;

use crate::exit;
use crate::trust::PinMode;

const EXAMPLES: &str = "\
Examples:
  nexo-cli --server https://relay.example.org register alice
  nexo-cli send bob 'the build is green'
  git log -1 | nexo-cli send bob -
  nexo-cli tail --follow --json
  nexo-cli tail --follow --exec ./on-message          each one until it exits 0
  nexo-cli send bob --idempotency-key build-42 done      safe to repeat
  tail -f app.log | nexo-cli send ops --stdin-lines      a message for every line
  NEXO_IDENTITY_FILE=/run/secrets/nexo nexo-cli send ops 'deployed'";

fn after() -> String {
    format!(
        "{}\nState: --home (NEXO_HOME), by default $XDG_STATE_HOME/nexo/cli, mode 0700.\n\
         Without prompts and without a daemon: every answer is an exit code.",
        exit::table()
    )
}

/// Encrypted messages over a Nexo relay, from a terminal or a script.
#[derive(Debug, Parser)]
#[command(
    name = "nexo-cli",
    version,
    before_long_help = EXAMPLES,
    after_long_help = after(),
    arg_required_else_help = false,
    disable_help_subcommand = false
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command, before or behind its name.
#[derive(Debug, Args)]
pub struct Global {
    /// The relay's URL, for registration; afterwards it is pinned.
    #[arg(long, global = true, value_name = "URL", env = "NEXO_SERVER")]
    pub server: Option<String>,
    /// Directory of this identity's state.
    #[arg(long, global = true, value_name = "DIR", env = "NEXO_HOME")]
    pub home: Option<PathBuf>,
    /// Use the stateless identity in this file (also NEXO_IDENTITY_FILE; NEXO_IDENTITY holds
    /// the line itself).
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "identity_fd")]
    pub identity_file: Option<PathBuf>,
    /// Use the stateless identity read from this open file descriptor.
    #[arg(long, global = true, value_name = "N")]
    pub identity_fd: Option<u32>,
    /// File of the key that the state is sealed under; by default state.key in the home.
    #[arg(long, global = true, value_name = "FILE", env = "NEXO_STATE_KEY_FILE")]
    pub state_key_file: Option<PathBuf>,
    /// Read that key from this open file descriptor.
    #[arg(
        long,
        global = true,
        value_name = "N",
        conflicts_with = "state_key_file",
        hide_short_help = true
    )]
    pub state_key_fd: Option<u32>,
    /// File of the passphrase that the state is sealed under (NEXO_PASSPHRASE holds it itself:
    /// worse, because others of the same user can read it while this runs). About 0.1 s and 64 MiB
    /// each time.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NEXO_PASSPHRASE_FILE",
        hide_short_help = true
    )]
    pub passphrase_file: Option<PathBuf>,
    /// Read the passphrase from this open file descriptor.
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub passphrase_fd: Option<u32>,
    /// Make a new state in clear, without key or passphrase; what is made stays so.
    #[arg(long, global = true, hide_short_help = true)]
    pub plaintext_state: bool,
    /// The log's public key, as `nexo-server vkey` prints it; without it the first one seen at
    /// registration is pinned.
    #[arg(long, global = true, value_name = "VKEY", env = "NEXO_VKEY")]
    pub vkey: Option<String>,
    /// Trust only the certificates in this PEM file, not the system's.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Seconds for the whole command [default: 30; none for tail --follow].
    #[arg(long, global = true, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: Option<u64>,
    /// Seconds to wait for the lock of the state.
    #[arg(long, global = true, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub lock_timeout: u64,
    /// Results as JSON on stdout, one object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// Only warnings and errors on stderr.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Which account a handle may be that nobody pinned: none, the first that the log shows, or
    /// also another one later.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "POLICY",
        env = "NEXO_PIN_POLICY",
        hide_short_help = true
    )]
    pub pin_policy: PinMode,
    /// File with a pin a line, for this run: HANDLE nexo1:FINGERPRINT.
    #[arg(long, global = true, value_name = "FILE", env = "NEXO_PINS", hide_short_help = true)]
    pub pins: Option<PathBuf>,
    /// What becomes of a session that another device begins anew without proof that it still is
    /// the same one: it is taken, three times a day, and told; or its messages are not read.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "POLICY",
        env = "NEXO_ON_RESET",
        hide_short_help = true
    )]
    pub on_reset: ResetMode,
    /// Allow http:// to another machine.
    #[arg(long, global = true, hide_short_help = true)]
    pub allow_plaintext_http: bool,
    /// Allow a home on a network file system.
    #[arg(long, global = true, hide_short_help = true)]
    pub allow_network_fs: bool,
}

/// `--on-reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ResetMode {
    /// Taken, up to three times a day and device.
    #[default]
    Accept,
    /// Not read.
    Refuse,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an account, or log in again and repair what is missing
    Register(Register),
    /// Show who this device is; needs no network
    Whoami,
    /// Send a message and wait until it is provably in the log
    Send(Send),
    /// Receive: verify, decrypt, print what was not printed yet
    Tail(Tail),
    /// Measure a relay: durable acks a second, and how soon messages arrive
    ///
    /// Makes two accounts (bench-...) at --server and leaves them there with the messages, which
    /// one sent to the other; touches no home. Texts are sealed before the clock starts. Every
    /// receipt and every delivered message is verified before a figure is printed. Times of a
    /// message count from when it was first sent, waits for the relay's rate limits included.
    Bench(Bench),
    /// Show what was sent and received; needs no network
    History(History),
    /// Delete a message of one's own for everyone
    Delete(Delete),
    /// Show the relay: origin, key, newest verified head
    Server,
    /// The account's devices: link, approve, list, revoke, issue
    #[command(subcommand)]
    Device(Device),
    /// Take the account over with its recovery key: one new device instead of all
    Recover(Recover),
    /// End this account: all its devices, for good; nobody gets its handle
    Close(Close),
    /// Show an account's fingerprint, this one's by default
    Fingerprint(Fingerprint),
    /// Name the only account that a handle may be; without arguments: show what is named
    Pin(Pin),
    /// Show the number that both sides compare, or check the other side's
    Verify(Verify),
    /// Take this identity to another home, or go on with a copy of one
    #[command(subcommand)]
    State(State),
}

/// `fingerprint`.
#[derive(Debug, Args)]
pub struct Fingerprint {
    /// Whose.
    pub handle: Option<String>,
}

/// `pin`.
#[derive(Debug, Args)]
pub struct Pin {
    /// The handle.
    pub handle: Option<String>,
    /// The account.
    #[arg(value_name = "nexo1:FINGERPRINT", conflicts_with = "remove")]
    pub fingerprint: Option<String>,
    /// Take back what was named.
    #[arg(long, requires = "handle")]
    pub remove: bool,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The other side.
    pub handle: String,
    /// The number that the other side sees; spaces do not matter.
    #[arg(value_name = "SAFETY-NUMBER", num_args = 0..=12)]
    pub number: Vec<String>,
}

/// `register`.
#[derive(Debug, Args)]
pub struct Register {
    /// The handle to take.
    pub handle: String,
    /// Make an identity for scripts, one line of text, and keep no state.
    #[arg(long)]
    pub stateless: bool,
    /// Where the line goes; - is stdout.
    #[arg(long, value_name = "FILE", requires = "stateless", default_value = "-")]
    pub identity_out: PathBuf,
    /// File with the relay's invite.
    #[arg(long, value_name = "FILE")]
    pub invite_file: Option<PathBuf>,
}

/// `send`.
#[derive(Debug, Args)]
pub struct Send {
    /// Who it is for.
    pub handle: String,
    /// The text; - reads stdin, and so does no text when stdin is no terminal.
    #[arg(conflicts_with = "body_file")]
    pub text: Option<String>,
    /// File with the text.
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// Every line of stdin is a message; all of them go over one socket, and one line (or object)
    /// comes back for each, in their order. --timeout then bounds how long lines wait without any
    /// of them being acknowledged.
    #[arg(long, conflicts_with_all = ["text", "body_file"])]
    pub stdin_lines: bool,
    /// The same key sends the same message at most once; with --stdin-lines, line N of the same
    /// key.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Go on with a message that was stored and not delivered, as it was sealed then.
    #[arg(long, value_name = "MSG_ID", conflicts_with_all = ["text", "body_file", "idempotency_key", "stdin_lines"])]
    pub resume: Option<String>,
    /// Send only to this account; also accepts it where the handle was another one's.
    #[arg(long, value_name = "nexo1:FINGERPRINT")]
    pub expect: Option<String>,
    /// Without sessions: each message by itself. It can be read by who gets the recipient's keys
    /// within 37 days, and a loss is not noticed.
    #[arg(long)]
    pub oneshot: bool,
}

/// `tail`.
#[derive(Debug, Args)]
pub struct Tail {
    /// Only messages of this account's conversation.
    pub handle: Option<String>,
    /// Go on for ever.
    #[arg(long, short)]
    pub follow: bool,
    /// Print again what was received since: a time (RFC 3339), an age (90s, 15m, 2h, 7d), or all.
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Stop after this many.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Append to this file (made with mode 0600) instead of stdout: every message exactly once,
    /// even if tail is killed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["since", "exec"])]
    pub output: Option<PathBuf>,
    /// Run this line of the shell for every message, which is on its stdin as JSON and in
    /// variables (NEXO_MSG_ID, NEXO_FROM, NEXO_CONV_ID, NEXO_STH_INDEX, NEXO_ATTEMPT, ...).
    /// Status 0 takes the message; anything else is tried again after a pause.
    #[arg(long, value_name = "CMD", conflicts_with = "since")]
    pub exec: Option<String>,
    /// How often a message is given to --exec before it goes to the dead letters.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "exec", value_parser = clap::value_parser!(u32).range(1..))]
    pub exec_tries: u32,
    /// Seconds that --exec may take each time.
    #[arg(long, value_name = "SECS", default_value_t = 300, requires = "exec", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub exec_timeout: u64,
    /// Where messages go that --exec never took, one JSON object a line, in clear [default:
    /// dead-letters.jsonl in the home].
    #[arg(long, value_name = "FILE", requires = "exec")]
    pub dead_letters: Option<PathBuf>,
}

/// `bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Messages to send.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub messages: u32,
    /// WebSockets that send at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub sockets: u8,
    /// Messages of each socket that wait for their ack.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub in_flight: u16,
    /// Bytes of each text.
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=32_768))]
    pub size: u16,
    /// File with an invite that is good for two accounts, where the relay wants one.
    #[arg(long, value_name = "FILE")]
    pub invite_file: Option<PathBuf>,
}

/// `history`.
#[derive(Debug, Args)]
pub struct History {
    /// Only this account's conversation.
    pub handle: Option<String>,
    /// Only the last ones.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Only since: a time (RFC 3339), an age (90s, 15m, 2h, 7d), or all.
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The message, as send printed it.
    pub msg_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_leads_with_examples_and_ends_with_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("no {text:?} in help"));
        assert!(at("Examples:") < at("Usage:") && at("Usage:") < at("Exit codes:"));
        assert!(help.contains("124  --timeout passed"));
    }

    #[test]
    fn an_update_and_a_protection_are_of_something() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["nexo-cli"], args].concat()).is_ok();
        assert!(!parse(&["device", "update", "01234567"]));
        assert!(parse(&["device", "update", "01234567", "--expires", "1d"]));
        assert!(parse(&["device", "update", "01234567", "--expires", "1d", "--caps", "send"]));
        assert!(!parse(&["state", "protect"]));
        assert!(parse(&["state", "protect", "--in-clear"]));
        assert!(!parse(&["state", "protect", "--in-clear", "--new-passphrase-fd", "3"]));
        assert!(!parse(&["close"]) && parse(&["close", "--yes"]));
    }

    #[test]
    fn global_options_stand_on_either_side() {
        for args in [["nexo-cli", "--json", "tail", "bob"], ["nexo-cli", "tail", "bob", "--json"]] {
            assert!(Cli::try_parse_from(args).unwrap().global.json);
        }
        assert!(Cli::try_parse_from(["nexo-cli", "tail", "--timeout", "0"]).is_err());
        assert!(Cli::try_parse_from(["nexo-cli", "send", "bob", "x", "--body-file", "f"]).is_err());
    }
}
