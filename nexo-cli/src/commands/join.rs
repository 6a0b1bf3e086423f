//! `device link` and `recover`: a home that becomes a device of an account that exists.

use std::path::Path;

use serde_json::json;

use super::device::{joined, named};
use super::register::{check_pin, first_contact};
use super::{Context, input};
use crate::cli::{Link, Recover};
use crate::clock;
use crate::devices::{self, DeviceError};
use crate::e2ee::{AccountId, RecoverySecret, code_text, parse_fingerprint};
use crate::error::CliError;
use crate::home::Home;
use crate::identity::{Identity, ServerPin};
use crate::linking::Newcomer;
use crate::profile::{Profile, open_vault, parsed_pin, relay};
use crate::recovery::recovery_seed;
use crate::upkeep;
use crate::vault::{Vault, VaultError};

pub(super) async fn link(context: &Context, args: &Link) -> Result<(), CliError> {
    let (handle, expect) = (input::handle(&args.handle)?, expected(args.expect.as_deref())?);
    named(&args.name)?;
    let new = Place::prepare(context).await?;
    let relay = relay(&new.pin.url, &context.options, &context.printer)?;
    let newcomer = Newcomer { relay: &relay, pin: &new.pin, vault: &new.vault, home: &new.home };
    let identity = match newcomer.resume(&handle).await? {
        Some(identity) => identity,
        None => {
            let request = newcomer.ask(&args.name).await?;
            let code = code_text(&request.code);
            let object = json!({
                "schema": "nexo.link_code/1",
                "code": code,
                "ends": clock::rfc3339(request.ends),
            });
            context.printer.result(&object, &code)?;
            context.printer.flush()?;
            context.printer.say(
                "on a device with admin: nexo-cli device approve CODE; this one waits ten minutes",
            );
            newcomer.wait(&request, &handle, expect).await?
        }
    };
    new.finish(context, identity).await
}

pub(super) async fn recover(context: &Context, args: &Recover) -> Result<(), CliError> {
    let (handle, expect) = (input::handle(&args.handle)?, expected(args.expect.as_deref())?);
    named(&args.name)?;
    let text = match (args.recovery_key_fd, &args.recovery_key) {
        // Opening the descriptor by name needs no unsafe code.
        (Some(fd), _) => input::secret(Path::new(&format!("/dev/fd/{fd}"))).await?,
        (None, Some(path)) => input::secret(path).await?,
        (None, None) => return Err(CliError::Usage("which recovery key?".to_owned())),
    };
    let key = RecoverySecret::from_seed(&*recovery_seed(&text).map_err(DeviceError::from)?);
    let new = Place::prepare(context).await?;
    let relay = relay(&new.pin.url, &context.options, &context.printer)?;
    let newcomer = Newcomer { relay: &relay, pin: &new.pin, vault: &new.vault, home: &new.home };
    let identity = match newcomer.resume(&handle).await? {
        Some(identity) => identity,
        None => newcomer.recover(&handle, expect, &key, &args.name).await?,
    };
    new.finish(context, identity).await
}

fn expected(text: Option<&str>) -> Result<Option<AccountId>, CliError> {
    let parsed = text.map(parse_fingerprint).transpose();
    parsed.map_err(|e| CliError::Usage(format!("--expect: {e}")))
}

/// A home without an identity.
struct Place {
    home: Home,
    vault: Vault,
    pin: ServerPin,
}

impl Place {
    /// Makes or opens it, and pins the relay.
    async fn prepare(context: &Context) -> Result<Self, CliError> {
        let options = &context.options;
        if options.identity.is_some() {
            let detail = "an identity is given (option or environment); this makes a new one";
            return Err(CliError::Usage(detail.to_owned()));
        }
        let home = Home::create(&options.home, options.allow_network_fs)?;
        let vault = open_vault(&home, options).await?;
        let stored = vault.read(|tx| Ok::<_, VaultError>((tx.identity()?, tx.server_pin()?)))?;
        if let (Some((identity, true)), _) = &stored {
            return Err(CliError::OtherHandle(identity.handle.to_string()));
        }
        let pin = match stored.1 {
            Some(pin) => parsed_pin(&pin)?,
            None => first_contact(context, &home, &vault).await?,
        };
        check_pin(context, &pin)?;
        Ok(Self { home, vault, pin })
    }

    /// Prekeys first, so that the device can be written to; then what it has become.
    async fn finish(self, context: &Context, identity: Identity) -> Result<(), CliError> {
        let capabilities = identity.verify(&self.pin.origin)?;
        let profile = Profile {
            vault: self.vault,
            home: Some(self.home),
            identity,
            pin: self.pin,
            capabilities,
            policy: context.options.policy.clone(),
            on_reset: context.options.on_reset,
        };
        let relay = profile.relay(&context.options, &context.printer)?;
        let session = profile.session(&relay, None);
        upkeep::tend(&session, clock::seconds(), true).await?;
        let own = devices::now_in_log(&session, clock::seconds()).await?;
        context.tell(&session);
        joined(context, &profile, &own.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_account_is_a_fingerprint() {
        let account = AccountId::from_bytes([3; 32]);
        let text = crate::e2ee::account_fingerprint(account);
        assert_eq!(expected(Some(&text)).ok(), Some(Some(account)));
        assert_eq!(expected(None).ok(), Some(None));
        assert_eq!(expected(Some("nexo1:")).map_err(|e| e.exit().code()), Err(64));
    }
}
