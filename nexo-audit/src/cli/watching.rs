//! Commands that look after a log and its accounts: `watch` and `keys`.

use super::CheckArgs;
use crate::duration::duration;
use crate::sigchain::Handle;
use crate::watch::webhook::WebhookUrl;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Shortest interval: a log renews its head once a minute.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

pub(super) const WATCH_EXAMPLES: &str = "\
Audits a log again and again, and tells whoever has to know when something is wrong, and when it \
no longer is

Examples:
  As a service, with mail from a hook and counts for Prometheus:
    nexo-audit watch https://relay.example.org --vkey '...' --state /var/lib/nexo/audit.json \\
        --hooks /etc/nexo/audit-hooks.d --metrics 127.0.0.1:9465
  With one command, which reads JSON on stdin and NEXO_* variables:
    nexo-audit watch https://relay.example.org --exec 'logger -t nexo \"$NEXO_MESSAGE\"'
  From cron, as check, but telling the same receivers:
    nexo-audit watch https://relay.example.org --once --webhook-file /etc/nexo/webhook.url
  For Icinga or Nagios:
    nexo-audit watch https://relay.example.org --once --nagios";

pub(super) const WATCH_NOTES: &str = "\
Each round is what `check` does. A notice is told when the verdict changes:

  begun      the log was verified for the first time
  finding    something is wrong, that was not, or something else was
  recovered  what was wrong has passed by itself
  resolved   a finding that does not pass was looked into (--resolve)

What the log signed and cannot take back (fork, inconsistent, bad_entry, sigchain_violation,
witness_disagrees) does not pass: the watch goes on and stays unhealthy until --resolve. Not reaching
the log is told after --patience, and when its last head is older than --max-age, as stale.

stdout has one JSON object a line (schema nexo.audit-notice/1). Hooks, --exec and --webhook are told at
least once: a notice is written to --spool before anybody is told, and kept until everybody took it, over
restarts and power cuts. Who does not take it is tried again, ever later, and gets later notices after
it. A repeat has the same id. A hook or command takes a notice by ending with 0 within a minute; a
webhook by answering 2xx within 30 s.

  stdin            the notice as JSON
  NEXO_EVENT       begun, finding, recovered or resolved
  NEXO_EVENT_ID    32 hex digits; Idempotency-Key of a webhook
  NEXO_VERDICT, NEXO_CODE, NEXO_FAMILY, NEXO_PREVIOUS      see below
  NEXO_MESSAGE, NEXO_TIME, NEXO_URL, NEXO_ORIGIN
  NEXO_SIZE, NEXO_ROOT, NEXO_EVIDENCE                      empty where there is none
  NEXO_SCHEMA      nexo.audit-notice/1

--metrics serves /metrics (OpenMetrics) and /health (200 or 503). Under systemd, READY=1, STATUS= and
WATCHDOG=1 are sent. SIGTERM and Ctrl-C end it with 0; what was not told yet is told at the next start.
--nagios: 0 verified, 1 not reached, 2 any finding, 3 trouble on this side.

";

pub(super) const KEYS_EXAMPLES: &str = "\
Shows the history of an account's devices, proved: every entry that the log has for the handle, what \
it was made of, and that each event follows the rules of the account's chain

Examples:
  Of a relay with an open directory:
    nexo-audit keys alice https://relay.example.org
  With a token (`nexo-server auditor-token`), and an alarm for devices that are not on a list:
    nexo-audit keys alice https://relay.example.org --token-file auditor.token --expect alice.devices

The whole log is read, because only its entries say how many events there are: one that the server \
hides is found. Nothing of that is remembered for the next run: no signature says that a list of \
entries is complete. The list has a line for each device that was ever in the account:
    nexo1:<52 characters>   the account's fingerprint (nexo-cli whoami)
    <64 hex digits>         a device, by its id
    key:<base64>            a device, by its Ed25519 key
    name:<text>             the device of a plain account, by its name";

/// `nexo-audit watch`.
#[derive(Debug, Clone, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) check: CheckArgs,

    /// From one round to the next, as 30s, 5m or 1h; spread a little, and longer when nobody answers
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = interval)]
    pub(crate) interval: Duration,

    /// How long the log may be out of reach before that is told
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(crate) patience: Duration,

    /// Where notices wait until they were told
    ///
    /// Without this: a folder beside the state file, named after it.
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,

    /// Tell every executable in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) hooks: Option<PathBuf>,

    /// Tell this command, run by /bin/sh
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<String>,

    /// Tell this URL, by POST; if it holds a secret, put it into the variable or a file
    #[arg(long, value_name = "URL", env = "NEXO_WEBHOOK", hide_env_values = true)]
    #[arg(value_parser = WebhookUrl::parse, conflicts_with = "webhook_file")]
    pub(crate) webhook: Option<WebhookUrl>,

    /// Tell the URL in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) webhook_file: Option<PathBuf>,

    /// Address at which to serve counts and health; for the operator's eyes only; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "once")]
    pub(crate) metrics: Option<SocketAddr>,

    /// One round and one attempt to tell everybody; ends as `check` does
    #[arg(long)]
    pub(crate) once: bool,

    /// The finding of this event id was looked into: it no longer makes the log unhealthy
    #[arg(long, value_name = "ID")]
    pub(crate) resolve: Option<String>,
}

/// `nexo-audit keys`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysArgs {
    /// Whose keys
    #[arg(value_name = "HANDLE", value_parser = Handle::parse)]
    pub(crate) handle: Handle,

    #[command(flatten)]
    pub(crate) check: CheckArgs,

    /// File with an auditor token; not needed where the directory is open
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// File with the account's devices, as far as they are known: any other is an alarm (80)
    #[arg(long, value_name = "FILE")]
    pub(crate) expect: Option<PathBuf>,
}

/// Why text is not an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an interval is at least a second, written as 30s, 5m or 1h")]
pub(crate) struct IntervalError;

fn interval(text: &str) -> Result<Duration, IntervalError> {
    duration(text).ok().filter(|given| *given >= SHORTEST_INTERVAL).ok_or(IntervalError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::finding::Verdict;
    use crate::watch::notice::{Account, Identity, Kind, Notice};
    use clap::{CommandFactory, Parser};

    fn help(command: &str) -> String {
        let mut cli = Cli::command();
        cli.find_subcommand_mut(command).unwrap().render_long_help().to_string()
    }

    #[test]
    fn help_starts_with_examples_and_lists_every_exit_code() {
        for command in ["watch", "keys"] {
            let help = help(command);
            assert!(help.find("Examples:").unwrap() < help.find("Usage:").unwrap(), "{help}");
            for row in crate::finding::TABLE {
                assert!(help.contains(row.meaning), "{help}");
            }
        }
    }

    #[test]
    fn help_is_the_manual_of_what_receivers_get() {
        let help = help("watch");
        let (number, url) = (0, "https://log.example");
        let identity = Identity { number, url, kind: Kind::Begun, subject: "" };
        let notice = Notice::new(identity, Verdict::Verified, None, 0, Account::default());
        for (name, value) in notice.variables() {
            assert!(help.contains(name), "{name}");
            if name == "NEXO_SCHEMA" {
                assert!(help.contains(&value), "{value}");
            }
        }
        for kind in [Kind::Begun, Kind::Finding, Kind::Recovered, Kind::Resolved] {
            assert!(help.contains(&format!("  {:<9}  ", kind.name())), "{}", kind.name());
        }
    }

    #[test]
    fn intervals_and_conflicts() {
        assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
        for bad in ["0s", "1", "soon", ""] {
            assert_eq!(interval(bad), Err(IntervalError), "{bad}");
        }
        let read = |words: &[&str]| {
            let fixed = ["nexo-audit", "watch", "http://localhost:1"];
            Cli::try_parse_from([&fixed, words].concat()).is_ok()
        };
        assert!(read(&[]) && read(&["--once", "--json"]) && read(&["--once", "--nagios"]));
        for bad in [
            &["--json"][..],
            &["--nagios"],
            &["--once", "--nagios", "--json"],
            &["--once", "--metrics", "127.0.0.1:0"],
            &["--webhook", "http://a", "--webhook-file", "b"],
        ] {
            assert!(!read(bad), "{bad:?}");
        }
    }
}
