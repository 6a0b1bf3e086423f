//! `register`: a new account, or a login that repairs what an interrupted one left.
//!
//! Each step is durable before the next is taken, so the same command goes on where it was cut:
//! recovery key and identity on disk → account at the relay → seen in the log → prekeys.

use std::path::{Path, PathBuf};

use nexo_schema::ids::{Handle, Origin};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Context, input};
use crate::api::{Relay, RelayUrl};
use crate::cli::Register;
use crate::clock;
use crate::devices::DeviceError;
use crate::e2ee::keys::RecoveryPublic;
use crate::e2ee::sigchain::{NewAccount, name_commitment};
use crate::e2ee::{self, Capabilities, DeviceSecret, SignedGenesis};
use crate::error::CliError;
use crate::home::{Home, private, write_new_private};
use crate::identity::{Identity, ServerPin};
use crate::profile::{Profile, ProfileError, Session, open_vault, parsed_pin, relay, stored_pin};
use crate::random;
use crate::recovery::{recovery_seed, recovery_text};
use crate::trust::{LogKey, LogTrust, PeerError, own_devices};
use crate::upkeep;
use crate::vault::{Vault, VaultError};

pub(super) async fn run(context: &Context, args: &Register) -> Result<(), CliError> {
    let handle = input::handle(&args.handle)?;
    if context.options.identity.is_some() {
        let detail = "an identity is given (option or environment); register makes a new one";
        return Err(CliError::Usage(detail.to_owned()));
    }
    let invite = args.invite_file.as_deref().map(input::line_of).transpose()?;
    if args.stateless {
        return stateless(context, &handle, invite.as_deref(), &args.identity_out).await;
    }
    let (profile, new) = prepare(context, &handle).await?;
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, invite.as_deref());
    let index = enter(&session).await?;
    profile.vault.write(|tx| tx.set_registered()).await.map_err(|e: VaultError| e)?;
    upkeep::tend(&session, clock::seconds(), true).await?;
    if new {
        let path = profile.home.as_ref().map(|home| home.file("recovery.key"));
        let path = path.map_or(String::new(), |path| path.display().to_string());
        context.printer.say(&format!(
            "the recovery key is in {path}, also as 24 words to write down: move it off this \
             machine; whoever has it can take the account over, and without it a lost device \
             cannot be replaced"
        ));
    }
    show(context, &profile, index)
}

/// Logs in and finds the account in the log, as everybody else would.
pub(super) async fn enter(session: &Session<'_>) -> Result<u64, CliError> {
    session.member.log_in().await?;
    let now = clock::seconds();
    let identity = &session.profile.identity;
    match own_devices(&session.trust, &session.member, identity, true, now).await {
        Err(PeerError::NotExpected { .. }) => Err(CliError::NotOurs(identity.handle.to_string())),
        Err(error) => Err(error.into()),
        Ok(own) => {
            let mine = own.account.device(identity.device_id());
            mine.map(|device| device.added)
                .ok_or_else(|| CliError::NotOurs(identity.handle.to_string()))
        }
    }
}

/// The identity of the home, made if there is none; `true` if it was not finished before.
async fn prepare(context: &Context, handle: &Handle) -> Result<(Profile, bool), CliError> {
    let options = &context.options;
    let home = Home::create(&options.home, options.allow_network_fs)?;
    let vault = open_vault(&home, options).await?;
    let stored = vault.read(|tx| Ok::<_, VaultError>((tx.identity()?, tx.server_pin()?)))?;
    let pin = match stored.1 {
        Some(pin) => parsed_pin(&pin)?,
        None => first_contact(context, &home, &vault).await?,
    };
    check_pin(context, &pin)?;
    let (identity, new) = match stored.0 {
        Some((identity, true)) if identity.handle == *handle => (identity, false),
        Some((identity, true)) => return Err(CliError::OtherHandle(identity.handle.to_string())),
        Some((identity, false)) if identity.handle == *handle => (identity, true),
        // A handle that turned out to be taken: another one, with a key of its own.
        _ => {
            let recovery = recovery_key(&home)?;
            let identity = new_identity(&pin.origin, handle, Capabilities::FIRST, &recovery)?;
            vault.write(|tx| tx.put_identity(&identity)).await.map_err(|e: VaultError| e)?;
            (identity, true)
        }
    };
    let capabilities = identity.verify(&pin.origin)?;
    let (home, policy) = (Some(home), options.policy.clone());
    let on_reset = options.on_reset;
    Ok((Profile { vault, home, identity, pin, capabilities, policy, on_reset }, new))
}

/// Learns the relay and pins it: its URL, its origin, and the key that signs its log.
pub(super) async fn first_contact(
    context: &Context,
    home: &Home,
    vault: &Vault,
) -> Result<ServerPin, CliError> {
    let url = server(context)?;
    let relay = relay(&url, &context.options, &context.printer)?;
    let mut pin = learn(context, &relay).await?;
    vault.write(|tx| tx.pin_server(&stored_pin(&pin))).await.map_err(|e: VaultError| e)?;
    let trust = LogTrust::new(&relay, vault, &pin.log_key, None, Some(home));
    trust.fetch_head(clock::seconds()).await?;
    if let Some(stored) = vault.read(|tx| tx.server_pin())? {
        pin = parsed_pin(&stored)?;
    }
    Ok(pin)
}

pub(super) fn server(context: &Context) -> Result<RelayUrl, CliError> {
    let missing = || CliError::Usage("which relay? give --server URL or NEXO_SERVER".to_owned());
    context.options.server.clone().ok_or_else(missing)
}

/// The log key given, or on first use the one the relay states; either must have signed the
/// head that the relay shows.
pub(super) async fn learn(context: &Context, relay: &Relay) -> Result<ServerPin, CliError> {
    let (vkey, given) = match &context.options.vkey {
        Some(vkey) => (vkey.clone(), true),
        None => (relay.stated_vkey().await?, false),
    };
    let unusable = |reason: String| match given {
        true => CliError::Usage(format!("--vkey: {reason}")),
        false => CliError::StatedVkey(reason),
    };
    let log_key = LogKey::parse(&vkey).map_err(|e| unusable(e.to_string()))?;
    let origin = Origin::parse(log_key.origin()).map_err(|e| unusable(e.to_string()))?;
    let vault = Vault::in_memory()?;
    let pin = ServerPin { url: relay.url().clone(), origin, log_key, time_key: None };
    vault.write(|tx| tx.pin_server(&stored_pin(&pin))).await.map_err(|e: VaultError| e)?;
    LogTrust::new(relay, &vault, &pin.log_key, None, None).fetch_head(clock::seconds()).await?;
    if !given {
        context.printer.say(&format!(
            "trusting this relay's log key on first use; compare it with the operator's:\n  {vkey}"
        ));
    }
    Ok(pin)
}

/// A home stays with its relay.
pub(super) fn check_pin(context: &Context, pin: &ServerPin) -> Result<(), CliError> {
    if let Some(given) = context.options.server.clone().filter(|given| *given != pin.url) {
        let pinned = pin.url.clone();
        return Err(ProfileError::OtherServer { pinned, given }.into());
    }
    let pinned = pin.log_key.to_string();
    if context.options.vkey.as_ref().is_some_and(|vkey| *vkey != pinned) {
        return Err(ProfileError::OtherVkey { pinned }.into());
    }
    Ok(())
}

/// The recovery key of this home, made and stored first if there is none: an account must not
/// come to be whose recovery key was lost in a crash.
fn recovery_key(home: &Home) -> Result<RecoveryPublic, CliError> {
    let path = home.file("recovery.key");
    if path.exists() {
        private(&path)?;
        let text = Zeroizing::new(input::secret_file(&path)?);
        return Ok(RecoveryPublic::of_seed(&*recovery_seed(&text).map_err(DeviceError::from)?));
    }
    let seed = random::secret::<32>()?;
    write_new_private(&path, recovery_text(&seed).as_bytes())?;
    Ok(RecoveryPublic::of_seed(&seed))
}

pub(super) fn new_identity(
    origin: &Origin,
    handle: &Handle,
    capabilities: Capabilities,
    recovery: &RecoveryPublic,
) -> Result<Identity, CliError> {
    let device = DeviceSecret::from_seed(&*random::secret::<32>()?);
    let name = e2ee::Handle::parse(handle.as_str())
        .map_err(|e| CliError::Usage(format!("{handle}: {e}")))?;
    // The device has no name yet; a fresh salt makes the commitment tell nothing, not even that.
    let name_commitment = name_commitment(&*random::secret::<32>()?, "");
    let genesis = SignedGenesis::sign(
        &device,
        &NewAccount {
            origin: origin.as_str(),
            handle: &name,
            capabilities,
            not_after: 0,
            name_commitment,
            recovery: *recovery,
            time_ms: clock::millis(),
        },
    );
    Ok(Identity {
        handle: handle.clone(),
        account: genesis.account_id(),
        device,
        genesis,
        admission: None,
        idem: random::secret()?,
    })
}

/// An identity for scripts: one line, no state.
async fn stateless(
    context: &Context,
    handle: &Handle,
    invite: Option<&str>,
    out: &Path,
) -> Result<(), CliError> {
    let url = server(context)?;
    let relay = relay(&url, &context.options, &context.printer)?;
    let pin = learn(context, &relay).await?;
    let seed = random::secret::<32>()?;
    let capabilities = stateless_capabilities();
    let recovery = RecoveryPublic::of_seed(&seed);
    let identity = new_identity(&pin.origin, handle, capabilities, &recovery)?;
    let line = identity.to_text(&pin);
    let to_stdout = out == Path::new("-");
    // Before the relay hears of it: a registered handle whose key was lost is lost. Whether it
    // was registered is said by the exit code.
    if !to_stdout {
        write_new_private(out, format!("{}\n", *line).as_bytes())?;
        write_new_private(&beside(out), recovery_text(&seed).as_bytes())?;
    }
    if to_stdout {
        context.printer.say("this identity has no recovery key; with --identity-out FILE it has");
        context.printer.secret(&line)?;
        context.printer.flush()?;
    }
    let profile = Profile::in_memory(identity, pin).await?;
    let session = profile.session(&relay, invite);
    let index = enter(&session).await?;
    if to_stdout {
        return Ok(());
    }
    context.printer.say(&format!(
        "the recovery key is in {}: move it off this machine",
        beside(out).display()
    ));
    show(context, &profile, index)
}

/// Admin, because a chain begins with a device that may change it; send; and stateless.
pub(super) fn stateless_capabilities() -> Capabilities {
    let bits =
        Capabilities::ADMIN.bits() | Capabilities::SEND.bits() | Capabilities::STATELESS.bits();
    Capabilities::from_bits(bits).expect("the three bits are known ones")
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".recovery");
    PathBuf::from(name)
}

fn show(context: &Context, profile: &Profile, index: u64) -> Result<(), CliError> {
    let Profile { identity, pin, .. } = profile;
    let object = json!({
        "schema": "nexo.registered/1",
        "handle": identity.handle,
        "account_id": identity.account.to_string(),
        "fingerprint": identity.fingerprint(),
        "device_id": identity.device_id().to_string(),
        "server": pin.url.as_str(),
        "origin": pin.origin,
        "vkey": pin.log_key.to_string(),
        "sth_index": index.to_string(),
    });
    let text = format!("registered {} {}", identity.handle, identity.fingerprint());
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::HomeError;

    #[test]
    fn a_recovery_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::create(&dir.path().join("h"), true).unwrap();
        let made = recovery_key(&home).unwrap();
        assert_eq!(recovery_key(&home).unwrap(), made);
        let text = std::fs::read_to_string(home.file("recovery.key")).unwrap();
        assert!(text.starts_with(crate::recovery::RECOVERY_PREFIX));
        std::fs::write(home.file("recovery.key"), "nexo-recovery-1:zz\n").unwrap();
        assert!(recovery_key(&home).is_err(), "a damaged one is not replaced");
        assert!(matches!(
            write_new_private(&home.file("recovery.key"), b""),
            Err(HomeError::Exists(_))
        ));
    }

    #[test]
    fn new_identities_hold_together() {
        let origin = Origin::parse("relay.example.test").unwrap();
        let handle = Handle::parse("alice").unwrap();
        let recovery = RecoveryPublic::of_seed(&[1; 32]);
        let make = |caps| new_identity(&origin, &handle, caps, &recovery).unwrap();
        assert_eq!(make(Capabilities::FIRST).verify(&origin).unwrap(), Capabilities::FIRST);
        let script = make(stateless_capabilities());
        assert_eq!(script.verify(&origin).unwrap().bits(), 11);
        assert_ne!(script.account, make(stateless_capabilities()).account, "fresh keys each time");
    }
}
