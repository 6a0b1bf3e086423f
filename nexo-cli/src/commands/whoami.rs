//! `whoami`: who this device is. Asks nobody.

use serde_json::json;

use super::Context;
use crate::error::CliError;
use crate::profile::Profile;

pub(super) async fn run(context: &Context) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    let Profile { identity, pin, .. } = &profile;
    let object = json!({
        "schema": "nexo.whoami/1",
        "handle": identity.handle,
        "account_id": identity.account.to_string(),
        "fingerprint": identity.fingerprint(),
        "device_id": identity.device_id().to_string(),
        "server": pin.url.as_str(),
        "origin": pin.origin,
        "vkey": pin.log_key.to_string(),
        "stateless": profile.is_stateless(),
    });
    let text = format!(
        "handle       {}\nfingerprint  {}\naccount      {}\ndevice       {}\n\
         server       {}\norigin       {}\nvkey         {}",
        identity.handle,
        identity.fingerprint(),
        identity.account,
        identity.device_id(),
        pin.url,
        pin.origin,
        pin.log_key,
    );
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}
