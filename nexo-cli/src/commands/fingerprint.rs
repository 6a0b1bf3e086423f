//! `fingerprint`: the account that a handle is, as scripts pin it.

use nexo_schema::ids::Handle;
use serde_json::json;

use super::{Context, input};
use crate::cli::Fingerprint;
use crate::clock;
use crate::e2ee::{AccountId, account_fingerprint};
use crate::error::CliError;
use crate::profile::Profile;
use crate::trust::account_of;

pub(super) async fn run(context: &Context, args: &Fingerprint) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    let handle = args.handle.as_deref().map(input::handle).transpose()?;
    let handle = handle.unwrap_or_else(|| profile.identity.handle.clone());
    let account = account(context, &profile, &handle).await?;
    let fingerprint = account_fingerprint(account);
    let object = json!({
        "schema": "nexo.fingerprint/1",
        "handle": handle,
        "fingerprint": fingerprint,
        "account_id": account.to_string(),
    });
    context.printer.result(&object, &fingerprint)?;
    Ok(context.printer.flush()?)
}

/// The account of a handle: the own one, one that was verified before, or what the log has now.
pub(super) async fn account(
    context: &Context,
    profile: &Profile,
    handle: &Handle,
) -> Result<AccountId, CliError> {
    if *handle == profile.identity.handle {
        return Ok(profile.identity.account);
    }
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, None);
    let found = account_of(&session.trust, &session.member, handle, clock::seconds()).await;
    context.tell(&session);
    Ok(found?)
}
