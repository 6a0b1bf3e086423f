//! The global options, resolved: flag, then environment, then default. Read once, passed down.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy as _;
use nexo_schema::ids::Handle;
use zeroize::Zeroizing;

use crate::api::{RelayUrl, UrlError};
use crate::cli::{Global, ResetMode};
use crate::e2ee::{AccountId, OnReset};
use crate::trust::{MAX_PINS, PinPolicy, parse_pins};
use crate::vault::{Passphrase, StateKeyError};

/// Longest identity line that is read; ours has about 1,100 characters.
const MAX_IDENTITY: u64 = 16 * 1024;
/// `--timeout` when it is not given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the options make no sense.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// `--server`.
    #[error("--server: {0}")]
    Server(#[from] UrlError),
    /// No default for the home.
    #[error("no home directory is known; give --home")]
    NoHome,
    /// The identity cannot be read.
    #[error("the identity in {what} cannot be read: {reason}")]
    Identity {
        /// File, descriptor or variable.
        what: String,
        /// Why.
        reason: String,
    },
    /// `NEXO_PASSPHRASE`.
    #[error(transparent)]
    Passphrase(StateKeyError),
    /// `--pins`.
    #[error("--pins {path}: {reason}")]
    Pins {
        /// The file.
        path: String,
        /// Why it is not used.
        reason: String,
    },
}

/// Everything a command needs to know of how it was called.
pub struct Options {
    /// The relay named.
    pub server: Option<RelayUrl>,
    /// The directory of the state.
    pub home: PathBuf,
    /// The line of a stateless identity, if one was given.
    pub identity: Option<Zeroizing<String>>,
    /// Where the state key is, if not in the home.
    pub state_key_file: Option<PathBuf>,
    /// The open descriptor that has the state key.
    pub state_key_fd: Option<u32>,
    /// Where the state's passphrase is.
    pub passphrase: Option<PassphraseSource>,
    /// Make a new state in clear.
    pub plaintext_state: bool,
    /// The log key to pin.
    pub vkey: Option<String>,
    /// Root certificates instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The deadline, if one was given.
    pub timeout: Option<Duration>,
    /// How long to wait for the state's lock.
    pub lock_timeout: Duration,
    /// Plain HTTP to other machines.
    pub allow_plaintext_http: bool,
    /// A home on a network file system.
    pub allow_network_fs: bool,
    /// Which account a handle may be.
    pub policy: PinPolicy,
    /// What becomes of sessions that are begun anew without proof.
    pub on_reset: OnReset,
}

/// Where a passphrase is; read when it is needed, because a descriptor is read once.
pub enum PassphraseSource {
    /// An open file descriptor.
    Descriptor(u32),
    /// A file.
    File(PathBuf),
    /// It itself, from the environment.
    Text(Passphrase),
}

impl Options {
    /// Resolves what was parsed. A flag for the identity wins over the environment, a file or
    /// descriptor over a variable, because variables leak into child processes.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn resolve(global: &Global) -> Result<Self, OptionsError> {
        Ok(Self {
            server: global.server.as_deref().map(RelayUrl::parse).transpose()?,
            home: match &global.home {
                Some(path) => path.clone(),
                None => default_home()?,
            },
            identity: identity(global)?,
            state_key_file: global.state_key_file.clone(),
            state_key_fd: global.state_key_fd,
            passphrase: passphrase(global)?,
            plaintext_state: global.plaintext_state,
            vkey: global.vkey.clone(),
            ca_file: global.ca_file.clone(),
            timeout: global.timeout.map(Duration::from_secs),
            lock_timeout: Duration::from_secs(global.lock_timeout),
            allow_plaintext_http: global.allow_plaintext_http,
            allow_network_fs: global.allow_network_fs,
            policy: PinPolicy { mode: global.pin_policy, pins: pins(global.pins.as_deref())? },
            on_reset: match global.on_reset {
                ResetMode::Accept => OnReset::Accept,
                ResetMode::Refuse => OnReset::Refuse,
            },
        })
    }

    /// The deadline of a command that ends by itself.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }
}

/// `$XDG_STATE_HOME/nexo/cli`, by default `~/.local/state/nexo/cli`.
fn default_home() -> Result<PathBuf, OptionsError> {
    let base = etcetera::base_strategy::Xdg::new().map_err(|_| OptionsError::NoHome)?;
    let state = base.state_dir().ok_or(OptionsError::NoHome)?;
    Ok(state.join("nexo").join("cli"))
}

/// How a file is named in an error. Who gives a secret line in the place of the path to it finds
/// it in no log: nothing that begins like one is repeated.
#[must_use]
pub fn named(path: &Path) -> String {
    let text = path.display().to_string();
    let secret = ["nexo-identity-", "nexo-recovery-", "nexo-state-"];
    if secret.iter().any(|start| text.starts_with(start)) {
        return "a file whose path was expected, and not its content,".to_owned();
    }
    text
}

fn identity(global: &Global) -> Result<Option<Zeroizing<String>>, OptionsError> {
    if let Some(fd) = global.identity_fd {
        // Opening the descriptor by name needs no unsafe code.
        return read(Path::new(&format!("/dev/fd/{fd}"))).map(Some);
    }
    if let Some(path) = &global.identity_file {
        return read(path).map(Some);
    }
    if let Some(path) = std::env::var_os("NEXO_IDENTITY_FILE").filter(|path| !path.is_empty()) {
        return read(Path::new(&path)).map(Some);
    }
    match std::env::var("NEXO_IDENTITY") {
        Ok(text) if !text.is_empty() => Ok(Some(Zeroizing::new(text))),
        _ => Ok(None),
    }
}

/// Never an argument: others see those. A variable is the last choice, because it goes on to
/// child processes (handlers of `tail` do not get it) and stands in /proc for as long as this one
/// runs.
fn passphrase(global: &Global) -> Result<Option<PassphraseSource>, OptionsError> {
    if let Some(fd) = global.passphrase_fd {
        return Ok(Some(PassphraseSource::Descriptor(fd)));
    }
    if let Some(path) = &global.passphrase_file {
        return Ok(Some(PassphraseSource::File(path.clone())));
    }
    let Some(text) = std::env::var_os("NEXO_PASSPHRASE").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text = Zeroizing::new(text.into_encoded_bytes());
    let passphrase = Passphrase::new(&text, "NEXO_PASSPHRASE").map_err(OptionsError::Passphrase)?;
    Ok(Some(PassphraseSource::Text(passphrase)))
}

fn pins(path: Option<&Path>) -> Result<Vec<(Handle, AccountId)>, OptionsError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let refused = |reason: String| OptionsError::Pins { path: path.display().to_string(), reason };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_PINS).read_to_string(&mut text))
        .map_err(|error| refused(error.to_string()))?;
    parse_pins(&text).map_err(|error| refused(error.to_string()))
}

fn read(path: &Path) -> Result<Zeroizing<String>, OptionsError> {
    let mut text = Zeroizing::new(String::new());
    let done = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_IDENTITY).read_to_string(&mut text));
    match done {
        Ok(_) => Ok(text),
        Err(error) => Err(OptionsError::Identity { what: named(path), reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    #[test]
    fn flags_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id");
        std::fs::write(&file, "nexo-identity-1:x\n").unwrap();
        let cli = Cli::try_parse_from([
            "nexo-cli",
            "--server",
            "HTTPS://Relay.Example.org/",
            "--home",
            "/h",
            "--identity-file",
            file.to_str().unwrap(),
            "whoami",
        ])
        .unwrap();
        let options = Options::resolve(&cli.global).unwrap();
        assert_eq!(
            options.server.as_ref().map(RelayUrl::as_str),
            Some("https://relay.example.org")
        );
        assert_eq!(options.home, PathBuf::from("/h"));
        assert_eq!(options.identity.as_deref().map(|t| t.trim()), Some("nexo-identity-1:x"));
        assert_eq!(options.deadline(), DEFAULT_TIMEOUT);
        assert_eq!(options.timeout, None);
    }

    #[test]
    fn a_passphrase_is_named_and_never_an_argument() {
        let parse = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["nexo-cli"], args, &["whoami"]].concat()).unwrap();
            Options::resolve(&cli.global).unwrap().passphrase
        };
        let both = parse(&["--passphrase-file", "/p", "--passphrase-fd", "3"]);
        assert!(matches!(both, Some(PassphraseSource::Descriptor(3))), "a descriptor comes first");
        let file = parse(&["--passphrase-file", "/p"]);
        assert!(matches!(file, Some(PassphraseSource::File(path)) if path == Path::new("/p")));
        let argument = ["nexo-cli", "--passphrase", "secret", "whoami"];
        assert!(Cli::try_parse_from(argument).is_err());
    }

    #[test]
    fn what_cannot_be_read_or_is_no_url_is_an_error() {
        let parse = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["nexo-cli"], args, &["whoami"]].concat()).unwrap();
            Options::resolve(&cli.global)
        };
        let missing = parse(&["--identity-file", "/nonexistent/id"]);
        assert!(matches!(missing, Err(OptionsError::Identity { .. })));
        let closed = parse(&["--identity-fd", "987"]);
        assert!(matches!(closed, Err(OptionsError::Identity { .. })));
        assert!(matches!(parse(&["--server", "relay"]), Err(OptionsError::Server(_))));
    }
}
