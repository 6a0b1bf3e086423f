//! The program: from a command line to an exit code.
//!
//! Data goes to stdout, words to stderr. What serving means is in `serve.rs`.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use nexo_schema::bytes::to_base64url;
use sha2::{Digest as _, Sha256};

use crate::clock::Clock;
use crate::config::{self, Command, Config, Env, InviteOrder, Stop};
use crate::exit::Exit;
use crate::log::{KeyError, LOG_KEY_FILE, LogKeys};
use crate::serve::{self, ServeError};
use crate::store::{Store, StoreError, put_invite};
use crate::telemetry;
use crate::tools::auditor_token;
use crate::tools::run::{self as tools, ToolError};

/// What every invite starts with, so that it is known for what it is.
const INVITE_PREFIX: &str = "nxi_";

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The relay did not start, or did not end well.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// There is no log yet.
    #[error("no {LOG_KEY_FILE} in {0}: the log's key is made when the server first starts")]
    NoLog(String),
    /// The log's keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// An auditor token.
    #[error(transparent)]
    AuditorToken(#[from] auditor_token::Failed),
    /// A tool.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl Failure {
    /// How the run ended.
    fn exit(&self) -> Exit {
        match self {
            Self::Serve(ServeError::Config(_) | ServeError::Keys(_)) | Self::Keys(_) => {
                Exit::Config
            }
            Self::Serve(ServeError::Rocket(_)) => Exit::Web,
            Self::NoLog(_) => Exit::NoKey,
            Self::Serve(_) | Self::Store(_) => Exit::Io,
            Self::Random(_) | Self::AuditorToken(auditor_token::Failed::Random(_)) => Exit::Os,
            Self::AuditorToken(auditor_token::Failed::Unknown) => Exit::NoKey,
            Self::AuditorToken(auditor_token::Failed::Store(_)) => Exit::Io,
            Self::Tool(error) => error.exit(),
        }
    }
}

/// Runs a command line to its end; the result is the exit code.
pub fn run(argv: impl IntoIterator<Item = OsString>, env: Env<'_>) -> u8 {
    let command = match config::parse(argv, env) {
        Ok(command) => command,
        Err(stop) => {
            match &stop {
                // clap knows which stream, and whether it takes colours.
                Stop::Usage(error) => drop(error.print()),
                Stop::Config(error) => say(error),
            }
            return stop.exit().code();
        }
    };
    telemetry::start(env);
    let done = match command {
        Command::Serve(config) => serve(*config).map_err(Failure::from).map(|()| Exit::Done),
        Command::Vkey { data_dir } => vkey(&data_dir).map(|line| print(&line)),
        Command::Invite(order) => {
            rocket::execute(invite(order, &Clock::System)).map(|line| print(&line))
        }
        Command::AuditorToken(order) => auditor_token(order),
        Command::Tool(tool) => tools::run(&tool).map_err(Failure::from),
    };
    let exit = done.unwrap_or_else(|failure| {
        say(&failure);
        failure.exit()
    });
    exit.code()
}

fn serve(config: Config) -> Result<(), ServeError> {
    rocket::execute(async { serve::build(config, Clock::System)?.run().await })
}

/// The log's verifier key. Makes no key: a log named by accident would stay named so.
fn vkey(data_dir: &Path) -> Result<String, Failure> {
    if !data_dir.join(LOG_KEY_FILE).exists() {
        return Err(Failure::NoLog(data_dir.display().to_string()));
    }
    Ok(LogKeys::open(data_dir, None)?.log_vkey().to_string())
}

/// A new invite, stored by its hash. A relay that is serving takes it at once.
async fn invite(order: InviteOrder, clock: &Clock) -> Result<String, Failure> {
    let mut random = [0; 24];
    getrandom::fill(&mut random)?;
    let text = format!("{INVITE_PREFIX}{}", to_base64url(&random));
    let hash: [u8; 32] = Sha256::digest(&text).into();
    let exp = clock.seconds().saturating_add(order.lifetime);
    let store = Store::open(&order.database)?;
    store.write(move |conn| put_invite(conn, &hash, u64::from(order.uses), exp)).await?;
    Ok(text)
}

fn auditor_token(order: auditor_token::Order) -> Result<Exit, Failure> {
    let done = rocket::execute(auditor_token::run(order, &Clock::System))?;
    if let Some(data) = &done.data {
        print(data);
    }
    if let Some(words) = &done.words {
        say(words);
    }
    Ok(Exit::Done)
}

fn print(line: &str) -> Exit {
    // Not println: it panics when nobody reads.
    let _ = writeln!(std::io::stdout(), "{line}");
    Exit::Done
}

fn say(error: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "nexo-server: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Database;

    fn exit(line: &[&str]) -> u8 {
        run(line.iter().map(OsString::from), &|_| None)
    }

    #[test]
    fn the_vkey_is_the_one_in_the_data_dir_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_str().unwrap();
        assert!(matches!(vkey(dir.path()), Err(Failure::NoLog(_))));
        assert_eq!(exit(&["nexo-server", "vkey", "--data-dir", place]), 66);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let keys = LogKeys::open(dir.path(), None).unwrap();
        assert_eq!(vkey(dir.path()).unwrap(), keys.log_vkey().to_string());
        assert_eq!(exit(&["nexo-server", "vkey", "--data-dir", place]), 0);
        std::fs::write(dir.path().join(LOG_KEY_FILE), "x").unwrap();
        assert_eq!(exit(&["nexo-server", "vkey", "--data-dir", place]), 78);
    }

    #[test]
    fn an_invite_is_stored_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let order = InviteOrder {
            data_dir: dir.path().to_owned(),
            database: Database::File(dir.path().join("nexo.db")),
            uses: 2,
            lifetime: 60,
        };
        let clock = Clock::fixed(1_700_000_000);
        let text = rocket::execute(invite(order.clone(), &clock)).unwrap();
        assert!(text.starts_with("nxi_") && text.len() == 36);
        assert_ne!(rocket::execute(invite(order.clone(), &clock)).unwrap(), text);
        let bytes = std::fs::read(dir.path().join("nexo.db")).unwrap();
        let hash: [u8; 32] = Sha256::digest(&text).into();
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        let wal = std::fs::read(dir.path().join("nexo.db-wal")).unwrap_or_default();
        let in_wal = |part: &[u8]| wal.windows(part.len()).any(|window| window == part);
        assert!(holds(&hash) || in_wal(&hash));
        assert!(!holds(text.as_bytes()) && !in_wal(text.as_bytes()));
    }

    #[test]
    fn usage_and_configuration_have_their_exit_codes() {
        assert_eq!(exit(&["nexo-server", "--help"]), 0);
        assert_eq!(exit(&["nexo-server", "--bogus"]), 64);
        let weak = |name: &str| (name == "JWT_SECRET").then(|| OsString::from("short"));
        let line = ["nexo-server", "--data-dir", "/nowhere"].map(OsString::from);
        assert_eq!(run(line, &weak), 78);
    }
}
