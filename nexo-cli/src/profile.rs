//! The identity a command acts as, with its state and its relay.

use nexo_schema::ids::Origin;

use crate::api::{ApiError, Member, Relay, RelayUrl, TlsError, UrlError, client_config};
use crate::e2ee::{Capabilities, OnReset};
use crate::home::{Home, HomeError};
use crate::identity::{Identity, IdentityError, ServerPin};
use crate::options::{Options, PassphraseSource};
use crate::output::Printer;
use crate::trust::{KeyError, LogKey, LogTrust, PinPolicy, TimeKey};
use crate::vault::{Access, Passphrase, StateKey, StateKeyError, StoredPin, Vault, VaultError};

/// Why there is no identity to act as.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No state, or a registration that was never finished.
    #[error("nobody is registered in {0}")]
    NotRegistered(String),
    /// The state belongs to a relay at another URL.
    #[error("this identity belongs to {pinned}, not to {given}")]
    OtherServer {
        /// Pinned at registration.
        pinned: RelayUrl,
        /// Given now.
        given: RelayUrl,
    },
    /// `--vkey` is not the pinned key.
    #[error("the pinned log key is {pinned}, not the one given with --vkey")]
    OtherVkey {
        /// Pinned at registration.
        pinned: String,
    },
    /// The relay's URL.
    #[error("relay URL: {0}")]
    Url(#[from] UrlError),
    /// A stored pin does not parse.
    #[error("the stored log key: {0}")]
    Key(#[from] KeyError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The state key.
    #[error(transparent)]
    StateKey(#[from] StateKeyError),
    /// The state.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Who this process is.
pub struct Profile {
    /// The state; in memory for a stateless identity.
    pub vault: Vault,
    /// The directory; `None` for a stateless identity.
    pub home: Option<Home>,
    /// The device.
    pub identity: Identity,
    /// The relay as pinned.
    pub pin: ServerPin,
    /// What the device may do.
    pub capabilities: Capabilities,
    /// Which account a handle may be.
    pub policy: PinPolicy,
    /// What becomes of sessions that are begun anew without proof.
    pub on_reset: OnReset,
}

/// A profile at its relay.
pub struct Session<'a> {
    /// Who.
    pub profile: &'a Profile,
    /// The relay, as this device.
    pub member: Member<'a>,
    /// The log.
    pub trust: LogTrust<'a, Relay>,
}

impl Profile {
    /// The identity that the options name: the given line, else the directory.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub async fn open(options: &Options) -> Result<Self, ProfileError> {
        let mut profile = match &options.identity {
            Some(line) => Self::stateless(line).await?,
            None => Self::stored(options).await?,
        };
        profile.check(options)?;
        profile.policy = options.policy.clone();
        profile.on_reset = options.on_reset;
        Ok(profile)
    }

    async fn stateless(line: &str) -> Result<Self, ProfileError> {
        let (identity, pin) = Identity::from_text(line)?;
        Self::in_memory(identity, pin).await
    }

    /// A profile whose state ends with the process.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub async fn in_memory(identity: Identity, pin: ServerPin) -> Result<Self, ProfileError> {
        let vault = Vault::in_memory()?;
        let stored = stored_pin(&pin);
        vault
            .write(|tx| {
                tx.pin_server(&stored)?;
                tx.put_identity(&identity)?;
                tx.set_registered()
            })
            .await?;
        let capabilities = identity.verify(&pin.origin)?;
        let (policy, on_reset) = (PinPolicy::default(), OnReset::Accept);
        Ok(Self { vault, home: None, identity, pin, capabilities, policy, on_reset })
    }

    async fn stored(options: &Options) -> Result<Self, ProfileError> {
        let absent = || ProfileError::NotRegistered(options.home.display().to_string());
        let home = Home::existing(&options.home, options.allow_network_fs)?.ok_or_else(absent)?;
        let vault = open_vault(&home, options).await?;
        let (stored, pin) =
            vault.read(|tx| Ok::<_, VaultError>((tx.identity()?, tx.server_pin()?)))?;
        match (stored, pin) {
            (Some((identity, true)), Some(pin)) => {
                let pin = parsed_pin(&pin)?;
                let capabilities = identity.verify(&pin.origin)?;
                let (home, policy) = (Some(home), PinPolicy::default());
                let on_reset = OnReset::Accept;
                Ok(Self { vault, home, identity, pin, capabilities, policy, on_reset })
            }
            _ => Err(absent()),
        }
    }

    /// What was given now must be what was pinned.
    fn check(&self, options: &Options) -> Result<(), ProfileError> {
        if let Some(given) = options.server.clone().filter(|given| *given != self.pin.url) {
            // An environment variable for the usual relay must not break an identity that
            // names its own; a different flag for a directory's identity is a mistake.
            if options.identity.is_none() {
                return Err(ProfileError::OtherServer { pinned: self.pin.url.clone(), given });
            }
        }
        let pinned = self.pin.log_key.to_string();
        if options.identity.is_none() && options.vkey.as_ref().is_some_and(|vkey| *vkey != pinned) {
            return Err(ProfileError::OtherVkey { pinned });
        }
        Ok(())
    }

    /// Whether this identity keeps no state.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        !self.vault.is_durable()
    }

    /// A connection to the relay.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn relay(&self, options: &Options, printer: &Printer) -> Result<Relay, ProfileError> {
        relay(&self.pin.url, options, printer)
    }

    /// This profile over that connection.
    #[must_use]
    pub fn session<'a>(&'a self, relay: &'a Relay, invite: Option<&'a str>) -> Session<'a> {
        Session {
            profile: self,
            member: Member::new(
                relay,
                self.identity.login(),
                &self.pin.origin,
                invite,
                self.home.as_ref(),
            ),
            trust: LogTrust::new(
                relay,
                &self.vault,
                &self.pin.log_key,
                self.pin.time_key.clone(),
                self.home.as_ref(),
            )
            .with_policy(self.policy.clone()),
        }
    }
}

/// A connection to the relay at `url`.
///
/// # Errors
/// [`ProfileError`].
pub fn relay(url: &RelayUrl, options: &Options, printer: &Printer) -> Result<Relay, ProfileError> {
    url.refuse_plaintext(options.allow_plaintext_http)?;
    let tls = client_config(options.ca_file.as_deref())?;
    Ok(Relay::new(url.clone(), tls, printer.progress())?)
}

/// The state of a directory, with what it is sealed under.
///
/// # Errors
/// [`ProfileError`].
pub async fn open_vault(home: &Home, options: &Options) -> Result<Vault, ProfileError> {
    Ok(Vault::open(home, &access(home, options)?, options.lock_timeout).await?)
}

/// The state of a directory that is a copy, which belongs here from now on.
///
/// # Errors
/// [`ProfileError`].
pub async fn adopt_vault(home: &Home, options: &Options) -> Result<Vault, ProfileError> {
    Ok(Vault::adopt(home, &access(home, options)?, options.lock_timeout).await?)
}

/// What this run was given to open the state with.
fn access(home: &Home, options: &Options) -> Result<Access, ProfileError> {
    let key = match (options.state_key_fd, &options.state_key_file) {
        (Some(fd), _) => Some(StateKey::from_descriptor(fd)?),
        (None, Some(path)) => Some(StateKey::read(path)?),
        (None, None) => None,
    };
    let passphrase = match &options.passphrase {
        Some(PassphraseSource::Descriptor(fd)) => Some(Passphrase::from_descriptor(*fd)?),
        Some(PassphraseSource::File(path)) => Some(Passphrase::read(path)?),
        Some(PassphraseSource::Text(passphrase)) => Some(passphrase.clone()),
        None => None,
    };
    Ok(Access { key, passphrase, in_clear: options.plaintext_state, ..Access::of_home(home) })
}

/// The pin as it is stored.
#[must_use]
pub fn stored_pin(pin: &ServerPin) -> StoredPin {
    StoredPin {
        url: pin.url.to_string(),
        origin: pin.origin.to_string(),
        log_vkey: pin.log_key.to_string(),
        time_vkey: pin.time_key.as_ref().map(ToString::to_string),
    }
}

/// The pin as it was stored.
///
/// # Errors
/// [`ProfileError`].
pub fn parsed_pin(stored: &StoredPin) -> Result<ServerPin, ProfileError> {
    Ok(ServerPin {
        url: RelayUrl::parse(&stored.url)?,
        origin: Origin::parse(&stored.origin).map_err(IdentityError::Name)?,
        log_key: LogKey::parse(&stored.log_vkey)?,
        time_key: stored.time_vkey.as_deref().map(TimeKey::parse).transpose()?,
    })
}
