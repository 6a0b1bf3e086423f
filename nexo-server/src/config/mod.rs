//! What the server is told: one struct, read once from flags, environment and files.
//!
//! Nothing else in the server reads the environment. `args.rs` is the command line, `secret.rs`
//! the JWT secret; here both become values with their defaults and bounds. The log's own keys
//! are not configuration: see `log/signer.rs`.

mod args;
mod secret;

pub use args::{Registration, Stop, parse};
pub use secret::{SecretError, ServerSecret, WeakSecret};

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nexo_schema::ids::Origin;

use crate::auth::public_url::PublicUrl;
use crate::http::client::Network;
use crate::store::{Database, StorageQuota};
use crate::tools::auditor_token;
use crate::tools::run::Tool;

/// Looks a variable up in the environment; tests bring their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Name of the JWT secret's file in the keys' directory.
pub const JWT_SECRET_FILE: &str = "jwt.secret";
/// Name of the database in the data directory.
pub const DATABASE_FILE: &str = "nexo.db";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Print the log's verifier key.
    Vkey {
        /// Where `log.key` is.
        data_dir: PathBuf,
    },
    /// Make an invite.
    Invite(InviteOrder),
    /// Make, list or revoke auditor tokens.
    AuditorToken(auditor_token::Order),
    /// Do something with the database as a whole.
    Tool(Tool),
}

/// An invite to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteOrder {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The database.
    pub database: Database,
    /// How many accounts it is good for.
    pub uses: u32,
    /// Seconds from now until it is void.
    pub lifetime: u64,
}

/// Everything a serving process is told.
#[derive(Debug)]
pub struct Config {
    /// Marker, and unless they are elsewhere keys, secret and database; made with mode 0700.
    pub data_dir: PathBuf,
    /// The log's keys and the JWT secret; made with mode 0700.
    pub keys_dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The relay's name, if it is given; else the one its log key has, or gets.
    pub origin: Option<Origin>,
    /// Where to serve counts for the operator, if anywhere; port 0 takes a free one.
    pub metrics: Option<SocketAddr>,
    /// URLs clients use, as proofs name them; if empty, those of the listener.
    pub public_urls: Vec<PublicUrl>,
    /// Whether every token must be bound to a key.
    pub require_dpop: bool,
    /// Who may make an account.
    pub registration: Registration,
    /// Whether everybody may read every key event, without an auditor token.
    pub public_directory: bool,
    /// Which web pages may call the API.
    pub cors_origins: CorsPolicy,
    /// Whether rate limits apply.
    pub rate_limit: bool,
    /// The header in which a trusted proxy names the client's address. Without one, what such
    /// headers say is not believed.
    pub client_ip_header: Option<String>,
    /// Proxies whose `X-Forwarded-For` is believed; where there are none, nobody's.
    pub trusted_proxies: Vec<Network>,
    /// Conversations an account may open.
    pub max_conversations: u64,
    /// What an account may store.
    pub quota: StorageQuota,
    /// Seconds between pings on a silent socket.
    pub ping_every: u32,
    /// Seconds between the signal to end and the end of listening.
    pub drain: u32,
    /// Seconds that open requests and sockets get at shutdown.
    pub grace: u32,
    /// The tokens' `iss`.
    pub jwt_issuer: String,
    /// Where the JWT secret comes from.
    pub jwt_secret: SecretSource,
    /// Seconds an access token lives.
    pub access_ttl: u64,
    /// Seconds a refresh token lives.
    pub refresh_ttl: u64,
    /// The database.
    pub database: Database,
}

/// Where the JWT secret comes from.
#[derive(Debug)]
pub enum SecretSource {
    /// It was configured.
    Given(ServerSecret),
    /// It is kept in this file, made at first start.
    Kept(PathBuf),
}

/// Which web pages may call the API (CORS).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorsPolicy {
    /// Pages of any origin, without credentials.
    pub any: bool,
    /// Pages of exactly these origins, with credentials.
    pub origins: Vec<String>,
}

/// Why the configuration cannot be used. The exit code is 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No data directory was given, and there is no home to put one in.
    #[error("no home directory; say where the data is with --data-dir or NEXO_DATA_DIR")]
    NoHome,
    /// The data directory cannot be made.
    #[error("the data directory {}: {source}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A variable is not text.
    #[error("{0} is not valid UTF-8")]
    NotText(&'static str),
    /// A variable is no number, or out of bounds.
    #[error("{name}: expected a whole number from {least} to {most}")]
    Number {
        /// The variable.
        name: &'static str,
        /// Lower bound.
        least: u64,
        /// Upper bound.
        most: u64,
    },
    /// `JWT_ISSUER` is empty or too long.
    #[error("JWT_ISSUER: expected 1 to 255 printable ASCII characters")]
    Issuer,
    /// `DB_URL` is nothing we know.
    #[error(
        "DB_URL: expected sqlite:///path/to/nexo.db, a path to a file, or postgres://user@host/db"
    )]
    DbUrl,
    /// An argument names no database.
    #[error("{0}: expected a path, sqlite:///path/to/nexo.db, postgres://user@host/db or env:NAME")]
    NoDatabase(&'static str),
    /// The variable that an argument names is not set.
    #[error("{0}: the variable it names is not set")]
    NoVariable(&'static str),
    /// An argument holds a password.
    #[error(
        "{0}: a password on a command line can be read by every process; put the URL into a variable and name that as env:NAME, or use PGPASSWORD or ~/.pgpass"
    )]
    PasswordShown(&'static str),
    /// Both `JWT_SECRET` and `JWT_SECRET_FILE` are set.
    #[error("JWT_SECRET and JWT_SECRET_FILE are both set; which one is meant?")]
    TwoSecrets,
    /// The JWT secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Config {
    /// The JWT secret; at first start, where none is configured, a new one in a file of the
    /// keys' directory. That and the data directory are there afterwards, made with mode 0700 if
    /// need be.
    ///
    /// # Errors
    /// [`ConfigError::DataDir`], [`ConfigError::Secret`].
    pub fn server_secret(&self) -> Result<ServerSecret, ConfigError> {
        make_dir(&self.data_dir)?;
        make_dir(&self.keys_dir)?;
        match &self.jwt_secret {
            SecretSource::Given(secret) => Ok(secret.clone()),
            SecretSource::Kept(path) => Ok(secret::open_or_make(path)?),
        }
    }
}

/// Makes a directory and its parents, mode 0700, unless it is there.
fn make_dir(path: &Path) -> Result<(), ConfigError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| ConfigError::DataDir { path: path.to_owned(), source })
}

/// The data directory: as given, else systemd's, else the XDG state directory.
fn data_dir(given: Option<PathBuf>, env: Env<'_>) -> Result<PathBuf, ConfigError> {
    use etcetera::base_strategy::{BaseStrategy as _, Xdg};
    if let Some(path) = given {
        return Ok(path);
    }
    // systemd.exec(5): a colon-separated list; the first is ours.
    let of_systemd = env("STATE_DIRECTORY").and_then(|list| {
        std::env::split_paths(&list).next().filter(|first| !first.as_os_str().is_empty())
    });
    if let Some(path) = of_systemd {
        return Ok(path);
    }
    let state = Xdg::new().ok().and_then(|xdg| xdg.state_dir());
    state.map(|dir| dir.join("nexo/server")).ok_or(ConfigError::NoHome)
}

/// The database that `DB_URL` names: what libpq takes as a URL (its manual, 34.1.1.2), or a file.
///
/// ```text
/// sqlite:///./nexo.db   sqlite:///nexo.db     relative, as the seed (SQLAlchemy) means them
/// sqlite:///srv/nexo.db sqlite:////srv/nexo.db  absolute
/// sqlite://srv/nexo.db  srv/nexo.db             relative
/// ```
fn database(data_dir: &Path, env: Env<'_>) -> Result<Database, ConfigError> {
    match text("DB_URL", env)? {
        None => Ok(Database::File(data_dir.join(DATABASE_FILE))),
        Some(url) => database_at(&url),
    }
}

fn database_at(url: &str) -> Result<Database, ConfigError> {
    if ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(Database::Postgres(url.to_owned()));
    }
    let path = match url.strip_prefix("sqlite://") {
        None if url.contains("://") || url.starts_with("sqlite:") => {
            return Err(ConfigError::DbUrl);
        }
        None => url,
        Some(rest) => match rest.strip_prefix('/') {
            Some(name) if name.starts_with("./") || name.starts_with("../") => name,
            Some(name) if name.starts_with('/') || !name.contains('/') => name,
            _ => rest,
        },
    };
    // A memory database would lose what was acknowledged; a query is an option we ignore.
    if path.is_empty() || path.ends_with('/') || path.contains('?') || path == ":memory:" {
        return Err(ConfigError::DbUrl);
    }
    Ok(Database::File(PathBuf::from(path)))
}

/// The database that an argument names: as `DB_URL` would, but without a password, or `env:NAME`.
fn database_given(
    argument: &'static str,
    given: &str,
    env: Env<'_>,
) -> Result<Database, ConfigError> {
    let no_database = |_| ConfigError::NoDatabase(argument);
    if let Some(name) = given.strip_prefix("env:") {
        let url = env(name).map(OsString::into_string).transpose();
        let url = url.map_err(|_| ConfigError::NoDatabase(argument))?;
        let url = url.filter(|url| !url.is_empty()).ok_or(ConfigError::NoVariable(argument))?;
        return database_at(&url).map_err(no_database);
    }
    let database = database_at(given).map_err(no_database)?;
    match &database {
        Database::Postgres(url) if shows_password(url) => Err(ConfigError::PasswordShown(argument)),
        _ => Ok(database),
    }
}

/// Whether a URL has a password, before its host or among its options (libpq 34.1.1.2).
fn shows_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let user = place.rsplit_once('@').map_or("", |(user, _)| user);
    let named = |option: &str| {
        let name = option.split('=').next().unwrap_or_default();
        ["password", "sslpassword"].contains(&name)
    };
    user.contains(':') || options.split('&').any(named)
}

fn jwt_secret(data_dir: &Path, env: Env<'_>) -> Result<SecretSource, ConfigError> {
    let file = env("JWT_SECRET_FILE").filter(|path| !path.is_empty());
    match (text("JWT_SECRET", env)?, file) {
        (Some(_), Some(_)) => Err(ConfigError::TwoSecrets),
        (Some(secret), None) => {
            let secret = ServerSecret::parse(secret.into_bytes()).map_err(SecretError::Weak)?;
            Ok(SecretSource::Given(secret))
        }
        (None, Some(path)) => Ok(SecretSource::Given(secret::read(Path::new(&path))?)),
        (None, None) => Ok(SecretSource::Kept(data_dir.join(JWT_SECRET_FILE))),
    }
}

fn jwt_issuer(env: Env<'_>) -> Result<String, ConfigError> {
    let issuer = text("JWT_ISSUER", env)?.unwrap_or_else(|| "nexo".to_owned());
    let good = issuer.len() <= 255 && issuer.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    if good { Ok(issuer) } else { Err(ConfigError::Issuer) }
}

/// A variable's text; empty counts as not set, as in shells and unit files.
fn text(name: &'static str, env: Env<'_>) -> Result<Option<String>, ConfigError> {
    let value = env(name).map(OsString::into_string).transpose();
    let value = value.map_err(|_| ConfigError::NotText(name))?;
    Ok(value.filter(|value| !value.is_empty()))
}

fn number(
    name: &'static str,
    default: u64,
    (least, most): (u64, u64),
    env: Env<'_>,
) -> Result<u64, ConfigError> {
    let Some(value) = text(name, env)? else { return Ok(default) };
    let value = value.parse().ok().filter(|value| (least..=most).contains(value));
    value.ok_or(ConfigError::Number { name, least, most })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) use super::args::tests::config;

    fn env(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
    }

    #[test]
    fn the_data_dir_is_the_nearest_one_named() {
        let systemd = env(&[("STATE_DIRECTORY", "/var/lib/nexo:/var/lib/other")]);
        let given = Some(PathBuf::from("/srv/nexo"));
        assert_eq!(data_dir(given, &systemd).unwrap(), Path::new("/srv/nexo"));
        assert_eq!(data_dir(None, &systemd).unwrap(), Path::new("/var/lib/nexo"));
        let none = data_dir(None, &env(&[("STATE_DIRECTORY", "")]));
        assert!(none.is_ok_and(|dir| dir.ends_with("nexo/server")));
    }

    #[test]
    fn db_urls_name_a_file() {
        let file = |url: &'static str| {
            let env = move |name: &str| (name == "DB_URL").then(|| OsString::from(url));
            database(Path::new("/data"), &env)
        };
        for (url, path) in [
            ("", "/data/nexo.db"),
            ("sqlite:///./nexo.db", "./nexo.db"),
            ("sqlite:///../nexo.db", "../nexo.db"),
            ("sqlite:///nexo.db", "nexo.db"),
            ("sqlite:///srv/nexo.db", "/srv/nexo.db"),
            ("sqlite:////srv/nexo.db", "/srv/nexo.db"),
            ("sqlite://srv/nexo.db", "srv/nexo.db"),
            ("/srv/nexo.db", "/srv/nexo.db"),
            ("nexo.db", "nexo.db"),
        ] {
            assert_eq!(file(url).unwrap(), Database::File(path.into()), "{url}");
        }
        for url in ["postgres://u@h/d", "postgresql:///d?host=/run"] {
            assert_eq!(file(url).unwrap(), Database::Postgres(url.into()));
        }
        for url in [
            "mysql://h/d",
            "postgresql+psycopg://h/d",
            "sqlite://",
            "sqlite:///",
            "sqlite::memory:",
            ":memory:",
            "sqlite://:memory:",
            "sqlite:///a/b?mode=ro",
            "dir/",
        ] {
            assert!(matches!(file(url), Err(ConfigError::DbUrl)), "{url}");
        }
    }

    #[test]
    fn an_argument_names_a_database_but_no_password() {
        let given = |text: &str| {
            let full =
                env(&[("TARGET", "postgres://u:secret@h/d"), ("BLANK", ""), ("ODD", "x://")]);
            database_given("DST", text, &full)
        };
        assert_eq!(given("/a/b.db").unwrap(), Database::File("/a/b.db".into()));
        for url in ["postgres://u@h/d", "postgres:///d?host=/run&user=u"] {
            assert_eq!(given(url).unwrap(), Database::Postgres(url.into()));
        }
        let hidden = Database::Postgres("postgres://u:secret@h/d".into());
        assert_eq!(given("env:TARGET").unwrap(), hidden);
        for shown in [
            "postgres://u:secret@h/d",
            "postgresql://u:se@cret@h/d",
            "postgres://h/d?user=u&password=secret",
            "postgres://h/d?sslpassword=secret",
        ] {
            let refused = given(shown).unwrap_err();
            assert!(matches!(refused, ConfigError::PasswordShown("DST")), "{shown}");
            assert!(!refused.to_string().contains("secret"));
        }
        assert!(matches!(given("env:BLANK"), Err(ConfigError::NoVariable("DST"))));
        assert!(matches!(given("env:NONE"), Err(ConfigError::NoVariable("DST"))));
        for bad in ["", "env:ODD", "mysql://h/d", ":memory:"] {
            assert!(matches!(given(bad), Err(ConfigError::NoDatabase("DST"))), "{bad}");
        }
    }

    #[test]
    fn numbers_have_bounds() {
        let ttl = |value: &'static str| {
            let env = move |name: &str| (name == "N").then(|| OsString::from(value));
            number("N", 15, (1, 60), &env)
        };
        assert_eq!((ttl("").unwrap(), ttl("1").unwrap(), ttl("60").unwrap()), (15, 1, 60));
        for bad in ["0", "61", "-1", "1.5", "x", "99999999999999999999"] {
            assert!(matches!(ttl(bad), Err(ConfigError::Number { .. })), "{bad}");
        }
    }

    #[test]
    fn a_secret_comes_from_one_place() {
        let given = env(&[("JWT_SECRET", "V8t3kq1LwZx9Rb7mNc5Yd2Hf6Jg4Ps0A")]);
        assert!(matches!(jwt_secret(Path::new("/d"), &given), Ok(SecretSource::Given(_))));
        let none = jwt_secret(Path::new("/d"), &env(&[("JWT_SECRET", "")]));
        assert!(matches!(none, Ok(SecretSource::Kept(path)) if path == Path::new("/d/jwt.secret")));
        let both = env(&[("JWT_SECRET", "a"), ("JWT_SECRET_FILE", "/b")]);
        assert!(matches!(jwt_secret(Path::new("/d"), &both), Err(ConfigError::TwoSecrets)));
        let weak = env(&[("JWT_SECRET", "dev_secret_change_me")]);
        assert!(matches!(jwt_secret(Path::new("/d"), &weak), Err(ConfigError::Secret(_))));
        let lost = env(&[("JWT_SECRET_FILE", "/nowhere/at/all")]);
        assert!(matches!(jwt_secret(Path::new("/d"), &lost), Err(ConfigError::Secret(_))));
    }

    #[test]
    fn a_new_data_dir_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        make_dir(&dir).unwrap();
        make_dir(&dir).unwrap();
        let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(make_dir(&file), Err(ConfigError::DataDir { .. })));
    }

    #[test]
    fn the_secret_is_kept_in_the_data_dir_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        let config = config(&dir);
        let secret = config.server_secret().unwrap();
        assert_eq!(config.server_secret().unwrap().as_bytes(), secret.as_bytes());
        assert!(dir.join(JWT_SECRET_FILE).exists());
    }
}
