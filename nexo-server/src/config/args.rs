//! The command line, as clap reads it. Names and defaults are a contract (design 22).
//!
//! Secrets are never flags: what stands on a command line can be read by every process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nexo_schema::ids::Origin;

use super::{Command, Config, ConfigError, CorsPolicy, Env, InviteOrder};
use crate::auth::public_url::PublicUrl;
use crate::exit::{self, Exit};
use crate::http::client::Network;
use crate::store::StorageQuota;
use crate::tools::run::{Copy, Tool, Verify};
use crate::tools::{auditor_token, origin};

const DAY: u64 = 86_400;

/// What no account ever stores; a number that databases hold.
const MOST_STORED: u64 = 1 << 53;

const EXAMPLES: &str = "\
Examples:
  nexo-server                                   serve on 127.0.0.1:8000
  nexo-server --data-dir /srv/nexo --listen 0.0.0.0:8000 \\
      --origin relay.example.org --public-url https://relay.example.org
  nexo-server vkey --data-dir /srv/nexo         print the log's key, for clients and auditors
  nexo-server invite --data-dir /srv/nexo --uses 5 --expires 7
  nexo-server auditor-token --data-dir /srv/nexo   for nexo-audit keys
  nexo-server log verify --data-dir /srv/nexo   check everything that is stored, also while serving
  nexo-server db copy /srv/nexo/nexo.db postgres:///nexo

";

const FILES: &str = "\
Environment (besides those above):
  JWT_SECRET        secret of the access tokens, at least 32 bytes; never a flag
  JWT_SECRET_FILE   a file that holds it
  JWT_ISSUER        the tokens' issuer [default: nexo]
  ACCESS_TTL_MIN    minutes an access token lives, 1 to 1440 [default: 15]
  REFRESH_TTL_DAYS  days a refresh token lives, 1 to 365 [default: 7]
  DB_URL            sqlite:///path/to/nexo.db, a path, or postgres://user:password@host/database
                    (in the environment, because it may hold a password)
                    [default: nexo.db in the data directory]
  STATE_DIRECTORY   the data directory under systemd, unless another is given
  NEXO_LOG          what to log to stderr, e.g. info or nexo_server=debug (or RUST_LOG)

Files in the data directory (by default $XDG_STATE_HOME/nexo/server):
  log.key, time.key   the log's signing keys, mode 0600; back them up, they are the relay
  jwt.secret          secret of the access tokens where none is configured, mode 0600
  nexo.db             the database, unless DB_URL names another
  head.marker         the newest head that was announced; each server has its own

";

const AUDITOR_TOKEN: &str = "\
The token goes to stdout, once; the database keeps a hash of it. It opens GET /log/events and
nothing else, and is needed there unless the relay runs with --public-directory. The auditor
keeps it in a file:

  nexo-server auditor-token --data-dir /srv/nexo --days 90 > auditor.token
  nexo-audit keys alice https://relay.example.org --token-file auditor.token";

const VERIFY: &str = "\
Reads everything in one state of the database, beside servers that go on, and changes nothing.
What is found goes to stdout, a line each: kind, place, words. Positions count from 1 (sth_index),
tiles and bundles from 0. Exit code 0: nothing is wrong; 81: something is; 130: interrupted.

  nexo-server log verify --data-dir /srv/nexo --state /srv/nexo/verified.json

With --state a run verifies only the entries behind those that the last one verified, and all
that is not in the order of the log. --json prints an object a line, the last one a summary.";

const NEW_ORIGIN: &str = "\
The way on when the newest database is lost and an older one is refused. The old log ends: its
database (SQLite), keys and marker are put aside under names that end in .old-<key id>. The new
log is empty and has new keys and another name. Everything in the old one is signed for the old
name, so people register again, and clients and auditors that pinned the old key refuse this
server until they are told the new one. Prints the new vkey.

On PostgreSQL, create a fresh database and name it in DB_URL first. Of servers that share --keys,
stop all, run this on one, then on each other one, where it only puts the marker aside.
The same command again finishes what a crash left half done.";

const COPY: &str = "\
SRC and DST are paths, sqlite:/// or postgres:// URLs, or env:NAME for a variable that holds one.
A password does not belong on a command line: use env:NAME, PGPASSWORD or ~/.pgpass.

  systemctl stop nexo-server
  nexo-server db copy /srv/nexo/nexo.db postgres://nexo@db.internal/nexo --keys /srv/nexo
  # now set DB_URL for the server, keep its data directory, and start it

DST is made and has to be empty; SRC takes no writes meanwhile. Rows are counted on both sides,
and the entries hashed to the head's root. Exit codes: 73 DST is not empty, 75 SRC is in use, 81 the
log in SRC does not hold together.";

const TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}\n";

#[derive(Parser)]
#[command(name = "nexo-server", version, about = "The Nexo relay")]
#[command(help_template = TEMPLATE, before_help = EXAMPLES, after_help = after_help())]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Serve; the same as no subcommand
    Serve(Box<ServeArgs>),
    /// Print the log's verifier key, and nothing else
    Vkey {
        #[command(flatten)]
        place: Place,
    },
    /// Make an invite and print it, for relays with --registration invite
    Invite {
        #[command(flatten)]
        place: Place,
        /// Accounts it is good for
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
        /// Days until it is void
        #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=365))]
        expires: u64,
    },
    /// Make a token with which an auditor may read every key event, and print it
    #[command(after_help = AUDITOR_TOKEN)]
    AuditorToken {
        #[command(flatten)]
        place: Place,
        /// Days until it is void
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: u64,
        /// Print names and ends (Unix seconds) of the tokens there are, instead
        #[arg(long, conflicts_with_all = ["days", "revoke"])]
        list: bool,
        /// Make the token of this name void, at once, instead
        #[arg(long, value_name = "NAME", conflicts_with = "days")]
        revoke: Option<String>,
    },
    /// Verify the log, or begin a new one
    #[command(subcommand)]
    Log(LogAction),
    /// Carry the database elsewhere
    #[command(subcommand)]
    Db(DbAction),
}

#[derive(Subcommand)]
enum LogAction {
    /// Verify every row, entry, tile and head in the database against each other
    #[command(after_help = VERIFY)]
    Verify {
        #[command(flatten)]
        place: KeyPlace,
        /// Threads, each with a connection of its own [default: one per core]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        jobs: Option<u16>,
        /// File that keeps what was verified, for the next run to go on from
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// End the log and begin another one under another name, when the newest database is lost
    #[command(after_help = NEW_ORIGIN)]
    NewOrigin {
        #[command(flatten)]
        place: KeyPlace,
        /// The new log's name [default: made from its key]
        #[arg(long, value_parser = Origin::parse)]
        origin: Option<Origin>,
        /// Also where the log could go on as it is
        #[arg(long)]
        force: bool,
    },
}

#[derive(Subcommand)]
enum DbAction {
    /// Copy a whole database into an empty one, of the same engine or the other
    #[command(after_help = COPY)]
    Copy {
        /// The database to copy
        #[arg(value_name = "SRC")]
        source: String,
        /// An empty database, or a file to be made
        #[arg(value_name = "DST")]
        destination: String,
        /// Directory with the keys that signed the head of SRC, to verify it
        #[arg(long, value_name = "DIR", env = "NEXO_KEYS")]
        keys: Option<PathBuf>,
    },
}

#[derive(Args)]
struct KeyPlace {
    #[command(flatten)]
    place: Place,
    /// Where log.key and time.key are [default: the data directory]
    #[arg(long, value_name = "DIR", env = "NEXO_KEYS")]
    keys: Option<PathBuf>,
}

#[derive(Args)]
struct Place {
    /// Where keys, secret and database are
    #[arg(long, value_name = "DIR", env = "NEXO_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    place: Place,
    /// Where log.key, time.key and jwt.secret are; servers that share a database share these
    /// [default: the data directory]
    #[arg(long, value_name = "DIR", env = "NEXO_KEYS")]
    keys: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", env = "NEXO_LISTEN", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Address at which to serve counts for Prometheus, at /metrics; for the operator's eyes only [default: none]
    #[arg(long, value_name = "ADDR:PORT", env = "NEXO_METRICS")]
    metrics: Option<SocketAddr>,
    /// The relay's name in every signature; fixed with the first entry [default: made from the log key]
    #[arg(long, env = "NEXO_ORIGIN", value_parser = Origin::parse)]
    origin: Option<Origin>,
    /// URL clients use, as their proofs name it; repeatable [default: http://<listen>]
    #[arg(long, value_name = "URL", env = "NEXO_PUBLIC_URL", value_delimiter = ',')]
    public_url: Vec<PublicUrl>,
    /// Take only requests that prove their key (RFC 9449)
    #[arg(long, env = "NEXO_REQUIRE_DPOP", value_parser = BoolishValueParser::new())]
    require_dpop: bool,
    /// Who may make an account
    #[arg(long, value_name = "WHO", env = "NEXO_REGISTRATION", value_enum, default_value_t = Registration::Open)]
    registration: Registration,
    /// Let everybody read every key event at /log/events, without an auditor token
    #[arg(long, env = "NEXO_PUBLIC_DIRECTORY", value_parser = BoolishValueParser::new())]
    public_directory: bool,
    /// Web origin whose pages may call the API, or * for any without credentials; repeatable
    #[arg(long, value_name = "ORIGIN", env = "NEXO_CORS_ORIGIN", value_delimiter = ',', value_parser = web_origin)]
    cors_origin: Vec<String>,
    /// Whether to limit how often clients may ask
    #[arg(long, value_name = "SWITCH", env = "NEXO_RATE_LIMIT", value_enum, default_value_t = Switch::On)]
    rate_limit: Switch,
    /// Header in which the reverse proxy in front names the client's address; only behind one
    #[arg(long, value_name = "NAME", env = "NEXO_CLIENT_IP_HEADER", value_parser = header_name)]
    client_ip_header: Option<String>,
    /// Network or address of a reverse proxy whose X-Forwarded-For names the client; repeatable [default: none, and the header is ignored]
    #[arg(
        long,
        value_name = "CIDR",
        env = "NEXO_TRUSTED_PROXIES",
        value_delimiter = ',',
        conflicts_with = "client_ip_header"
    )]
    trusted_proxy: Vec<Network>,
    /// Conversations an account may take part in and still open another
    #[arg(long, value_name = "N", env = "NEXO_MAX_CONVERSATIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    max_conversations: u64,
    /// Messages an account may store, deleted ones too; 0 for no limit
    #[arg(long, value_name = "N", env = "NEXO_MAX_MESSAGES_PER_ACCOUNT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=MOST_STORED))]
    max_messages_per_account: u64,
    /// Bytes of messages an account may store, deleted ones not counted; 0 for no limit
    #[arg(long, value_name = "N", env = "NEXO_MAX_BYTES_PER_ACCOUNT", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=MOST_STORED))]
    max_bytes_per_account: u64,
    /// Seconds between pings on a socket; one that leaves two unanswered is closed
    #[arg(long, value_name = "SECONDS", env = "NEXO_PING_EVERY", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    ping_every: u32,
    /// Seconds between the signal to end and the end of listening, in which /readyz says 503
    #[arg(long, value_name = "SECONDS", env = "NEXO_DRAIN", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain: u32,
    /// Seconds open requests and sockets get at shutdown
    #[arg(long, value_name = "SECONDS", env = "NEXO_GRACE", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=3600))]
    grace: u32,
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Registration {
    /// Everybody.
    Open,
    /// Holders of an invite.
    Invite,
    /// Nobody.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Why there is no command to run.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Help or version was asked for, or the command line is not one of ours.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

impl Stop {
    /// Done for help and version.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(error) if error.use_stderr() => Exit::Usage,
            Self::Usage(_) => Exit::Done,
            Self::Config(_) => Exit::Config,
        }
    }
}

/// Reads a command line, with what the environment adds. Touches no file but the one that
/// `JWT_SECRET_FILE` names.
///
/// # Errors
/// [`Stop`], with the exit code.
pub fn parse(argv: impl IntoIterator<Item = OsString>, env: Env<'_>) -> Result<Command, Stop> {
    let cli = Cli::try_parse_from(argv)?;
    Ok(match cli.action {
        None => Command::Serve(Box::new(config(cli.serve, env)?)),
        Some(Action::Serve(args)) => Command::Serve(Box::new(config(*args, env)?)),
        Some(Action::Vkey { place }) => {
            Command::Vkey { data_dir: super::data_dir(place.data_dir, env)? }
        }
        Some(Action::Invite { place, uses, expires }) => {
            let data_dir = super::data_dir(place.data_dir, env)?;
            let database = super::database(&data_dir, env)?;
            Command::Invite(InviteOrder { data_dir, database, uses, lifetime: expires * DAY })
        }
        Some(Action::AuditorToken { place, days, list, revoke }) => {
            let data_dir = super::data_dir(place.data_dir, env)?;
            let database = super::database(&data_dir, env)?;
            let action = match revoke {
                Some(name) => auditor_token::Action::Revoke { name },
                None if list => auditor_token::Action::List,
                None => auditor_token::Action::Make { lifetime: days * DAY },
            };
            Command::AuditorToken(auditor_token::Order { data_dir, database, action })
        }
        Some(Action::Log(action)) => Command::Tool(log_tool(action, env)?),
        Some(Action::Db(DbAction::Copy { source, destination, keys })) => {
            Command::Tool(Tool::Copy(Copy {
                source: super::database_given("SRC", &source, env)?,
                destination: super::database_given("DST", &destination, env)?,
                keys_dir: keys,
            }))
        }
    })
}

fn log_tool(action: LogAction, env: Env<'_>) -> Result<Tool, ConfigError> {
    let dirs = |place: KeyPlace| {
        let data_dir = super::data_dir(place.place.data_dir, env)?;
        let keys_dir = place.keys.unwrap_or_else(|| data_dir.clone());
        let database = super::database(&data_dir, env)?;
        Ok::<_, ConfigError>((data_dir, keys_dir, database))
    };
    match action {
        LogAction::Verify { place, jobs, state, json } => {
            let (data_dir, keys_dir, database) = dirs(place)?;
            let jobs = jobs.map(usize::from);
            Ok(Tool::Verify(Verify { data_dir, keys_dir, database, jobs, state, json }))
        }
        LogAction::NewOrigin { place, origin, force } => {
            let (data_dir, keys_dir, database) = dirs(place)?;
            Ok(Tool::NewOrigin(origin::Order { data_dir, keys_dir, database, origin, force }))
        }
    }
}

fn after_help() -> String {
    format!("{FILES}{}", exit::table())
}

fn config(args: ServeArgs, env: Env<'_>) -> Result<Config, ConfigError> {
    let data_dir = super::data_dir(args.place.data_dir, env)?;
    let keys_dir = args.keys.unwrap_or_else(|| data_dir.clone());
    let (any, origins) = args.cors_origin.into_iter().partition::<Vec<_>, _>(|o| o == "*");
    Ok(Config {
        listen: args.listen,
        metrics: args.metrics,
        origin: args.origin,
        public_urls: args.public_url,
        require_dpop: args.require_dpop,
        registration: args.registration,
        public_directory: args.public_directory,
        cors_origins: CorsPolicy { any: !any.is_empty(), origins },
        rate_limit: args.rate_limit == Switch::On,
        client_ip_header: args.client_ip_header,
        trusted_proxies: args.trusted_proxy,
        max_conversations: args.max_conversations,
        quota: StorageQuota {
            messages: args.max_messages_per_account,
            bytes: args.max_bytes_per_account,
        },
        ping_every: args.ping_every,
        drain: args.drain,
        grace: args.grace,
        jwt_issuer: super::jwt_issuer(env)?,
        jwt_secret: super::jwt_secret(&keys_dir, env)?,
        access_ttl: super::number("ACCESS_TTL_MIN", 15, (1, 1440), env)? * 60,
        refresh_ttl: super::number("REFRESH_TTL_DAYS", 7, (1, 365), env)? * DAY,
        database: super::database(&data_dir, env)?,
        keys_dir,
        data_dir,
    })
}

/// A web origin as browsers send it (RFC 6454 section 6.2): they match byte for byte.
fn web_origin(text: &str) -> Result<String, &'static str> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |host: &str| {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
        !host.is_empty() && host.bytes().all(allowed)
    };
    if text == "*" || host.is_some_and(plain) {
        Ok(text.to_owned())
    } else {
        Err("expected * or a web origin like https://app.example.org, without a path")
    }
}

fn header_name(text: &str) -> Result<String, &'static str> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if (1..=64).contains(&text.len()) && text.bytes().all(token) {
        Ok(text.to_owned())
    } else {
        Err("expected a header name like X-Real-IP")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::Database;
    use clap::CommandFactory as _;
    use std::path::Path;

    fn no_env(_: &str) -> Option<OsString> {
        None
    }

    /// The defaults, with a data directory.
    pub(crate) fn config(data_dir: &Path) -> Config {
        let argv = ["nexo-server".into(), "--data-dir".into(), data_dir.into()];
        match parse(argv, &no_env) {
            Ok(Command::Serve(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn run(line: &str) -> Result<Command, Stop> {
        parse(line.split_whitespace().map(OsString::from), &no_env)
    }

    fn served(line: &str) -> Config {
        match run(line) {
            Ok(Command::Serve(config)) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_work_with_and_without_the_word_serve() {
        for line in [
            "nexo-server --data-dir /d --listen 0.0.0.0:0 --rate-limit off",
            "nexo-server serve --data-dir /d --listen 0.0.0.0:0 --rate-limit off",
        ] {
            let config = served(line);
            assert_eq!(config.data_dir, Path::new("/d"));
            assert_eq!(config.listen, "0.0.0.0:0".parse().unwrap());
            assert!(!config.rate_limit);
            assert_eq!(config.database, Database::File("/d/nexo.db".into()));
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = served("nexo-server --data-dir /d");
        assert_eq!(config.listen, "127.0.0.1:8000".parse().unwrap());
        assert_eq!((config.origin, config.require_dpop, config.rate_limit), (None, false, true));
        assert_eq!(config.metrics, None);
        assert_eq!(config.registration, Registration::Open);
        assert_eq!(config.cors_origins, CorsPolicy::default());
        assert_eq!((config.jwt_issuer.as_str(), config.grace), ("nexo", 20));
        assert_eq!((config.access_ttl, config.refresh_ttl), (900, 7 * 86_400));
        assert_eq!((config.client_ip_header, config.trusted_proxies), (None, vec![]));
        assert!(!config.public_directory);
        assert_eq!(config.quota, StorageQuota::default());
    }

    #[test]
    fn every_flag_is_read() {
        let config = served(
            "nexo-server --data-dir /d --origin relay.example.org --public-url https://a \
             --public-url https://b,http://c:8000 --require-dpop --registration invite \
             --cors-origin https://app.example.org --cors-origin * --grace 0 \
             --client-ip-header X-Real-IP --metrics 127.0.0.1:9464 --public-directory \
             --max-messages-per-account 7 --max-bytes-per-account 8",
        );
        assert_eq!(config.quota, StorageQuota { messages: 7, bytes: 8 });
        assert!(config.public_directory);
        assert_eq!(config.metrics, Some("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(config.origin.as_ref().unwrap().as_str(), "relay.example.org");
        let urls: Vec<String> = config.public_urls.iter().map(PublicUrl::to_string).collect();
        assert_eq!(urls, ["https://a", "https://b", "http://c:8000"]);
        assert!(config.require_dpop && config.cors_origins.any);
        assert_eq!(config.registration, Registration::Invite);
        assert_eq!(config.cors_origins.origins, ["https://app.example.org"]);
        assert_eq!((config.grace, config.client_ip_header.as_deref()), (0, Some("X-Real-IP")));
        assert_eq!(served("nexo-server --data-dir /d").public_urls, []);
        let line =
            "nexo-server --data-dir /d --trusted-proxy 10.0.0.0/8,::1 --trusted-proxy 192.0.2.1";
        let proxies: Vec<_> =
            served(line).trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(proxies, ["10.0.0.0/8", "::1/128", "192.0.2.1/32"]);
    }

    #[test]
    fn the_seeds_environment_is_read() {
        let env = |name: &str| {
            let value = match name {
                "JWT_ISSUER" => "mine",
                "ACCESS_TTL_MIN" => "60",
                "REFRESH_TTL_DAYS" => "30",
                "DB_URL" => "sqlite:////srv/x.db",
                _ => return None,
            };
            Some(OsString::from(value))
        };
        let argv = ["nexo-server", "--data-dir", "/d"].map(OsString::from);
        let Ok(Command::Serve(config)) = parse(argv, &env) else { panic!() };
        assert_eq!(config.jwt_issuer, "mine");
        assert_eq!((config.access_ttl, config.refresh_ttl), (3600, 30 * 86_400));
        assert_eq!(config.database, Database::File("/srv/x.db".into()));
        let bad = |name: &str| (name == "ACCESS_TTL_MIN").then(|| OsString::from("0"));
        let argv = ["nexo-server", "--data-dir", "/d"].map(OsString::from);
        assert_eq!(parse(argv, &bad).unwrap_err().exit(), Exit::Config);
    }

    #[test]
    fn the_other_commands_are_read() {
        let Ok(Command::Vkey { data_dir }) = run("nexo-server vkey --data-dir /d") else {
            panic!()
        };
        assert_eq!(data_dir, Path::new("/d"));
        let line = "nexo-server invite --data-dir /d --uses 5 --expires 2";
        let Ok(Command::Invite(order)) = run(line) else { panic!() };
        assert_eq!((order.uses, order.lifetime), (5, 172_800));
        assert_eq!(order.database, Database::File("/d/nexo.db".into()));
        let Ok(Command::Invite(order)) = run("nexo-server invite --data-dir /d") else { panic!() };
        assert_eq!((order.uses, order.lifetime), (1, 604_800));
        for (words, action) in [
            ("", auditor_token::Action::Make { lifetime: 365 * DAY }),
            (" --days 2", auditor_token::Action::Make { lifetime: 2 * DAY }),
            (" --list", auditor_token::Action::List),
            (" --revoke ab", auditor_token::Action::Revoke { name: "ab".to_owned() }),
        ] {
            let line = format!("nexo-server auditor-token --data-dir /d{words}");
            let Ok(Command::AuditorToken(order)) = run(&line) else { panic!("{line}") };
            assert_eq!(order.action, action);
            assert_eq!(order.database, Database::File("/d/nexo.db".into()));
        }
    }

    #[test]
    fn the_tools_are_read() {
        let tool = |line: &str| match run(line) {
            Ok(Command::Tool(tool)) => tool,
            other => panic!("{line}: {other:?}"),
        };
        let verify = Verify {
            data_dir: "/d".into(),
            keys_dir: "/d".into(),
            database: Database::File("/d/nexo.db".into()),
            jobs: None,
            state: None,
            json: false,
        };
        assert_eq!(tool("nexo-server log verify --data-dir /d"), Tool::Verify(verify.clone()));
        let line = "nexo-server log verify --data-dir /d --keys /k --jobs 3 --state s --json";
        let (jobs, state) = (Some(3), Some("s".into()));
        let every = Verify { keys_dir: "/k".into(), jobs, state, json: true, ..verify };
        assert_eq!(tool(line), Tool::Verify(every));
        let line = "nexo-server log new-origin --data-dir /d --origin b.test --force";
        let order = origin::Order {
            data_dir: "/d".into(),
            keys_dir: "/d".into(),
            database: Database::File("/d/nexo.db".into()),
            origin: Some(Origin::parse("b.test").unwrap()),
            force: true,
        };
        assert_eq!(tool(line), Tool::NewOrigin(order));
        let copy = Copy {
            source: Database::File("/a.db".into()),
            destination: Database::Postgres("postgres://u@h/d".into()),
            keys_dir: Some("/k".into()),
        };
        let line = "nexo-server db copy /a.db postgres://u@h/d --keys /k";
        assert_eq!(tool(line), Tool::Copy(copy));
    }

    #[test]
    fn what_is_no_command_line_exits_64() {
        for line in [
            "nexo-server --lissen 1",
            "nexo-server --listen 8000",
            "nexo-server --listen localhost",
            "nexo-server --origin a+b",
            "nexo-server --public-url relay.example.org",
            "nexo-server --public-url https://a?b",
            "nexo-server --registration maybe",
            "nexo-server --cors-origin https://a/",
            "nexo-server --cors-origin null",
            "nexo-server --cors-origin https://A.example",
            "nexo-server --rate-limit maybe",
            "nexo-server --grace -1",
            "nexo-server --max-bytes-per-account -1",
            "nexo-server --client-ip-header a:b",
            "nexo-server --trusted-proxy 10.0.0.1/8",
            "nexo-server --trusted-proxy ::1 --client-ip-header X-Real-IP",
            "nexo-server --jwt-secret x",
            "nexo-server vkey --listen 127.0.0.1:1",
            "nexo-server invite --uses 0",
            "nexo-server invite --expires 366",
            "nexo-server auditor-token --days 0",
            "nexo-server auditor-token --list --revoke ab",
            "nexo-server auditor-token --days 3 --revoke ab",
            "nexo-server log",
            "nexo-server log verify --jobs 0",
            "nexo-server log verify --origin a",
            "nexo-server log new-origin --data-dir /d --origin a+b",
            "nexo-server db copy a",
            "nexo-server db copy a b c",
            "nexo-server bogus",
        ] {
            assert_eq!(run(line).unwrap_err().exit(), Exit::Usage, "{line}");
        }
    }

    #[test]
    fn help_leads_with_examples_and_names_every_variable_and_file() {
        let stop = run("nexo-server --help").unwrap_err();
        assert_eq!(stop.exit(), Exit::Done);
        let help = stop.to_string();
        let at = |word: &str| help.find(word).unwrap_or_else(|| panic!("{word} is not in help"));
        assert!(at("Examples:") < at("Usage:"));
        for word in
            ["JWT_SECRET_FILE", "DB_URL", "NEXO_DATA_DIR", "NEXO_LOG", "jwt.secret", "--grace"]
        {
            at(word);
        }
        for exit in Exit::ALL {
            at(&format!("{:>3}  {}", exit.code(), exit.meaning()));
        }
        assert_eq!(run("nexo-server --version").unwrap_err().exit(), Exit::Done);
    }
}
