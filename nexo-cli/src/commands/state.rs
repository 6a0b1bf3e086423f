//! `state`: taking an identity elsewhere, going on with a copy, and what the state is sealed under.
//!
//! ```text
//! nexo-state-1
//! nexo-identity-..           who this device is; a secret
//! pin HANDLE nexo1:..        accounts that were named
//! device ID                  own devices that were confirmed
//! ```
//!
//! Neither sessions nor prekeys are in it: what is restored from a file must never use a message
//! key a second time.

use std::path::Path;

use nexo_schema::ids::Handle;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Context, input};
use crate::cli::{Export, Import, Protect, State};
use crate::clock;
use crate::e2ee::{AccountId, DeviceId, account_fingerprint, parse_fingerprint};
use crate::error::CliError;
use crate::home::{Home, private, write_new_private};
use crate::identity::Identity;
use crate::profile::{Profile, ProfileError, adopt_vault, open_vault, stored_pin};
use crate::upkeep;
use crate::vault::{Passphrase, Protection, StateKey, VaultError};

const FIRST_LINE: &str = "nexo-state-1";

pub(super) async fn run(context: &Context, command: &State) -> Result<(), CliError> {
    match command {
        State::Export(args) => export(context, args).await,
        State::Import(args) => import(context, args).await,
        State::Adopt => adopt(context).await,
        State::Protect(args) => protect(context, args).await,
        #[cfg(feature = "keyring")]
        State::Unlock(args) => keyring(context, "unlocked", Some(args)).await,
        #[cfg(feature = "keyring")]
        State::Lock => keyring(context, "locked", None).await,
    }
}

async fn export(context: &Context, args: &Export) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    if profile.is_stateless() {
        return Err(CliError::Stateless("state export"));
    }
    let (pins, devices) = profile
        .vault
        .read(|tx| Ok::<_, VaultError>((tx.named_accounts()?, tx.known_own_devices()?)))?;
    let mut text = Zeroizing::new(format!("{FIRST_LINE}\n"));
    text.push_str(&profile.identity.to_text(&profile.pin));
    text.push('\n');
    for (handle, account) in &pins {
        text.push_str(&format!("pin {handle} {}\n", account_fingerprint(*account)));
    }
    for device in &devices {
        text.push_str(&format!("device {device}\n"));
    }
    write_new_private(&args.out, text.as_bytes())?;
    context.printer.say(
        "the file holds this device's key; from the moment it is imported, this home must not be \
         used any more",
    );
    done(context, "exported", &profile.identity)
}

async fn import(context: &Context, args: &Import) -> Result<(), CliError> {
    let options = &context.options;
    private(&args.file)?;
    let text = Zeroizing::new(input::secret_file(&args.file)?);
    let Exported { line, pins, devices } = parse(&text, &args.file)?;
    let (identity, pin) = Identity::from_text(line)?;
    let capabilities = identity.verify(&pin.origin)?;
    let home = Home::create(&options.home, options.allow_network_fs)?;
    let vault = open_vault(&home, options).await?;
    if vault.read(|tx| tx.server_pin())?.is_some() {
        return Err(CliError::Usage("import needs a new home; give another --home".to_owned()));
    }
    let now = clock::seconds();
    let kept = vault.write(|tx| {
        tx.pin_server(&stored_pin(&pin))?;
        tx.put_identity(&identity)?;
        for (handle, account) in &pins {
            tx.name_account(handle, *account, now)?;
        }
        tx.know_own_devices(&devices, now)?;
        tx.leap(now)?;
        // The relay takes no prekey id twice, and which were used is not known here.
        tx.skip_prekey_ids(u32::try_from(now).unwrap_or(u32::MAX / 2))?;
        tx.set_registered()
    });
    kept.await.map_err(|e: VaultError| e)?;
    let (home, policy) = (Some(home), options.policy.clone());
    let on_reset = options.on_reset;
    let profile = Profile { vault, home, identity, pin, capabilities, policy, on_reset };
    let relay = profile.relay(options, &context.printer)?;
    let session = profile.session(&relay, None);
    upkeep::tend(&session, now, true).await?;
    context.tell(&session);
    done(context, "imported", &profile.identity)
}

async fn adopt(context: &Context) -> Result<(), CliError> {
    let options = &context.options;
    let absent = || CliError::Input {
        path: options.home.display().to_string(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let home = Home::existing(&options.home, options.allow_network_fs)?.ok_or_else(absent)?;
    let vault = adopt_vault(&home, options).await?;
    let identity = vault.read(|tx| tx.identity())?.map(|(identity, _)| identity);
    let leapt = vault.write(|tx| {
        tx.leap(clock::seconds())?;
        // The other copy may have used their keys: peers are told of new sessions instead.
        tx.forget_sessions()
    });
    leapt.await.map_err(|e: VaultError| e)?;
    drop(vault);
    done(context, "adopted", &identity.ok_or_else(absent)?)
}

/// What the state is to be sealed under, held until it is.
enum New {
    Key(StateKey),
    Passphrase(Passphrase),
    Clear,
}

async fn protect(context: &Context, args: &Protect) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    let Some(home) = &profile.home else {
        return Err(CliError::Stateless("state protect"));
    };
    // A new key is on disk before anything is sealed under it.
    let new = match args {
        Protect { new_passphrase_fd: Some(fd), .. } => {
            New::Passphrase(Passphrase::from_descriptor(*fd).map_err(ProfileError::from)?)
        }
        Protect { new_passphrase_file: Some(path), .. } => {
            New::Passphrase(Passphrase::read(path).map_err(ProfileError::from)?)
        }
        Protect { new_key_file: Some(path), .. } => {
            New::Key(StateKey::read_or_create(path).map_err(ProfileError::from)?)
        }
        Protect { .. } => New::Clear,
    };
    let (under, words) = match &new {
        New::Key(key) => (Protection::Key(key), "key"),
        New::Passphrase(passphrase) => (Protection::Passphrase(passphrase), "passphrase"),
        New::Clear => (Protection::Clear, "nothing"),
    };
    profile.vault.protect(under, home).await?;
    let object = json!({
        "schema": "nexo.state_changed/1",
        "change": "protected",
        "handle": profile.identity.handle,
        "device_id": profile.identity.device_id().to_string(),
        "sealed_under": words,
    });
    let text = format!("protected {}: sealed under {words}", profile.identity.handle);
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}

#[cfg(feature = "keyring")]
async fn keyring(
    context: &Context,
    what: &str,
    unlock: Option<&crate::cli::Unlock>,
) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    if profile.is_stateless() {
        return Err(CliError::Stateless("a key in the keyring"));
    }
    match unlock {
        Some(args) => profile.vault.unlock(args.seconds).await?,
        None => profile.vault.lock_again().await?,
    }
    done(context, what, &profile.identity)
}

/// What a file says.
struct Exported<'a> {
    line: &'a str,
    pins: Vec<(Handle, AccountId)>,
    devices: Vec<DeviceId>,
}

fn parse<'a>(text: &'a str, file: &Path) -> Result<Exported<'a>, CliError> {
    let refused = || CliError::BadData(format!("{}: not an exported state", file.display()));
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err(refused());
    }
    let line = lines.next().ok_or_else(refused)?;
    let (mut pins, mut devices) = (Vec::new(), Vec::new());
    for line in lines {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["pin", handle, account] => {
                let handle = Handle::parse(handle).map_err(|_| refused())?;
                pins.push((handle, parse_fingerprint(account).map_err(|_| refused())?));
            }
            ["device", id] => devices.push(id.parse().map_err(|_| refused())?),
            _ => return Err(refused()),
        }
    }
    Ok(Exported { line, pins, devices })
}

fn done(context: &Context, what: &str, identity: &Identity) -> Result<(), CliError> {
    let object = json!({
        "schema": "nexo.state_changed/1",
        "change": what,
        "handle": identity.handle,
        "device_id": identity.device_id().to_string(),
    });
    context.printer.result(&object, &format!("{what} {}", identity.handle))?;
    Ok(context.printer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let account = AccountId::from_bytes([1; 32]);
        let device = DeviceId::from_bytes([2; 32]);
        let fingerprint = account_fingerprint(account);
        let good = format!("{FIRST_LINE}\nx\npin bob {fingerprint}\ndevice {device}\n");
        let path = Path::new("f");
        let read = parse(&good, path).unwrap();
        assert_eq!((read.line, read.devices), ("x", vec![device]));
        assert_eq!(read.pins, [(Handle::parse("bob").unwrap(), account)]);
        for bad in ["", "x\n", FIRST_LINE, &format!("{good}more\n"), &good.replace("bob", "B")] {
            assert_eq!(parse(bad, path).map(drop).map_err(|e| e.exit().code()), Err(65), "{bad}");
        }
    }
}
