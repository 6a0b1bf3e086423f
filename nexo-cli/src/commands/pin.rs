//! `pin`: a person's word about which account a handle is. No network: it is compared with what
//! the log shows whenever the handle is used.

use serde_json::json;

use super::{Context, input};
use crate::cli::Pin;
use crate::clock;
use crate::e2ee::{account_fingerprint, parse_fingerprint};
use crate::error::CliError;
use crate::profile::Profile;
use crate::vault::VaultError;

pub(super) async fn run(context: &Context, args: &Pin) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    if profile.is_stateless() {
        return Err(CliError::Usage("a stateless identity has its pins in --pins FILE".to_owned()));
    }
    let handle = args.handle.as_deref().map(input::handle).transpose()?;
    match (handle, &args.fingerprint) {
        (None, _) => {}
        (Some(handle), Some(text)) => {
            let account =
                parse_fingerprint(text).map_err(|e| CliError::Usage(format!("{text}: {e}")))?;
            if handle == profile.identity.handle && account != profile.identity.account {
                return Err(CliError::NotOurs(handle.to_string()));
            }
            let now = clock::seconds();
            let done = profile.vault.write(|tx| tx.name_account(&handle, account, now)).await;
            done.map_err(|e: VaultError| e)?;
        }
        (Some(handle), None) if args.remove => {
            let gone = profile.vault.write(|tx| tx.unname_account(&handle)).await;
            if !gone.map_err(|e: VaultError| e)? {
                return Err(CliError::BadData(format!("nothing was pinned for {handle}")));
            }
        }
        (Some(_), None) => {
            let detail = "pin needs the account: pin HANDLE nexo1:FINGERPRINT";
            return Err(CliError::Usage(detail.to_owned()));
        }
    }
    show(context, &profile)
}

fn show(context: &Context, profile: &Profile) -> Result<(), CliError> {
    for (handle, account) in profile.vault.read(|tx| tx.named_accounts())? {
        let fingerprint = account_fingerprint(account);
        let object = json!({
            "schema": "nexo.pin/1",
            "handle": handle,
            "fingerprint": fingerprint,
        });
        context.printer.result(&object, &format!("{handle} {fingerprint}"))?;
    }
    Ok(context.printer.flush()?)
}
