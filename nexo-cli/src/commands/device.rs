//! `device`: the account's devices, looked at and changed by one of them.

use std::path::Path;

use nexo_schema::limits::MAX_REASON;
use serde_json::json;

use super::{Context, input};
use crate::api::ApiError;
use crate::cli::{Approve, Confirm, Device, Issue, Revoke, Rights, SetRecovery, Update};
use crate::clock;
use crate::devices::{self, DeviceError, Wish};
use crate::e2ee::keys::RecoveryPublic;
use crate::e2ee::{Capabilities, ConversationId, DeviceId, RecoverySecret, parse_code};
use crate::error::CliError;
use crate::home::write_new_private;
use crate::output::one_line;
use crate::profile::{Profile, Session};
use crate::random;
use crate::recovery::{recovery_seed, recovery_text};
use crate::trust::{Account, account_of, unconfirmed};
use crate::vault::VaultError;

/// Longest name of a device, bytes.
pub(super) const MAX_NAME: usize = 64;

pub(super) async fn run(context: &Context, command: &Device) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, None);
    let done = match command {
        Device::List => list(context, &session).await,
        Device::Revoke(args) => revoke(context, &session, args).await,
        Device::Update(args) => update(context, &session, args).await,
        Device::Confirm(args) => confirm(context, &session, args).await,
        Device::Approve(args) => approve(context, &session, args).await,
        Device::Issue(args) => issue(context, &session, args).await,
        Device::SetRecovery(args) => set_recovery(context, &session, args).await,
        Device::Link(_) => Err(CliError::Usage("device link is for a new home".to_owned())),
    };
    context.tell(&session);
    done
}

async fn list(context: &Context, session: &Session<'_>) -> Result<(), CliError> {
    let now = clock::seconds();
    let own = devices::now_in_log(session, now).await?;
    let strangers = unconfirmed(&session.trust, &own.account, now).await?;
    let mine = session.profile.identity.device_id();
    for device in &own.account.devices {
        let (id, grant) = (device.id(), device.grant());
        let state = match (device.is_active(), grant.is_over(now)) {
            (false, _) => "revoked",
            (true, true) => "expired",
            (true, false) => "active",
        };
        let confirmed = !strangers.contains(&id);
        let expires = (grant.not_after != 0).then(|| clock::rfc3339(grant.not_after));
        let object = json!({
            "schema": "nexo.device/1",
            "device_id": id.to_string(),
            "state": state,
            "capabilities": grant.capabilities.names(),
            "expires": expires,
            "conversations": device.conversations.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "added": device.added.to_string(),
            "ended": device.ended.map(|ended| ended.to_string()),
            "this": id == mine,
            "confirmed": confirmed,
        });
        let mut text = format!("{id} {state} {}", grant.capabilities.names().join(","));
        if let Some(expires) = expires {
            text.push_str(&format!(" until {expires}"));
        }
        for (holds, word) in [(id == mine, " (this device)"), (!confirmed, " NOT CONFIRMED")] {
            if holds {
                text.push_str(word);
            }
        }
        context.printer.result(&object, &text)?;
    }
    Ok(context.printer.flush()?)
}

async fn revoke(context: &Context, session: &Session<'_>, args: &Revoke) -> Result<(), CliError> {
    if args.reason.len() > MAX_REASON {
        return Err(CliError::Usage(format!("--reason: at most {MAX_REASON} bytes")));
    }
    let now = clock::seconds();
    let own = devices::now_in_log(session, now).await?;
    let device = devices::meant(&own.account, &args.device)?;
    let active = own.account.device(device).is_some_and(crate::trust::Device::is_active);
    if !active {
        return Err(CliError::BadData(format!("device {device} was revoked before")));
    }
    let index = devices::revoke(session, device, &args.reason, now).await?;
    know(session, device).await?;
    changed(context, "revoked", device, index)
}

async fn update(context: &Context, session: &Session<'_>, args: &Update) -> Result<(), CliError> {
    let asked = args.caps.as_deref().map(capabilities).transpose()?;
    let now = clock::seconds();
    let not_after = match args.expires.as_deref() {
        None => None,
        Some("never") => Some(0),
        Some(age) => Some(end(age, now)?),
    };
    let own = devices::now_in_log(session, now).await?;
    let device = devices::meant(&own.account, &args.device)?;
    let found = own.account.device(device).filter(|found| found.is_active());
    let grant = found.map(crate::trust::Device::grant);
    let grant =
        grant.ok_or_else(|| CliError::BadData(format!("device {device} was revoked before")))?;
    let wanted = (asked.unwrap_or(grant.capabilities), not_after.unwrap_or(grant.not_after));
    if wanted == (grant.capabilities, grant.not_after) {
        return Err(CliError::BadData(format!("device {device} is so already")));
    }
    let stateless = Capabilities::STATELESS;
    if wanted.0.contains(stateless) != grant.capabilities.contains(stateless) {
        let detail = "--caps: a device is stateless for life, or never; issue another one";
        return Err(CliError::Usage(detail.to_owned()));
    }
    let index = devices::update(session, device, wanted, now).await?;
    changed(context, "updated", device, index)
}

/// `close`: the end of the account.
pub(super) async fn close(context: &Context) -> Result<(), CliError> {
    let profile = Profile::open(&context.options).await?;
    let relay = profile.relay(&context.options, &context.printer)?;
    let session = profile.session(&relay, None);
    let closed = devices::close(&session, clock::seconds()).await;
    context.tell(&session);
    let index = closed?;
    let handle = &profile.identity.handle;
    let object = json!({
        "schema": "nexo.closed/1",
        "handle": handle,
        "account_id": profile.identity.account.to_string(),
        "sth_index": index.to_string(),
    });
    context.printer.result(&object, &format!("closed {handle} {index}"))?;
    Ok(context.printer.flush()?)
}

async fn confirm(context: &Context, session: &Session<'_>, args: &Confirm) -> Result<(), CliError> {
    let own = devices::now_in_log(session, clock::seconds()).await?;
    let device = devices::meant(&own.account, &args.device)?;
    know(session, device).await?;
    let added = own.account.device(device).map_or(0, |device| device.added);
    changed(context, "confirmed", device, added)
}

async fn know(session: &Session<'_>, device: DeviceId) -> Result<(), CliError> {
    let vault = &session.profile.vault;
    let done = vault.write(|tx| tx.know_own_device(device, clock::seconds())).await;
    Ok(done.map_err(|e: VaultError| e)?)
}

async fn approve(context: &Context, session: &Session<'_>, args: &Approve) -> Result<(), CliError> {
    let code = parse_code(&args.code).map_err(|_| DeviceError::Code)?;
    let capabilities = capabilities(&args.caps)?;
    if capabilities.contains(Capabilities::STATELESS) {
        let detail = "--caps: a device with a home is not stateless; see device issue";
        return Err(CliError::Usage(detail.to_owned()));
    }
    let wish = wish(context, session, capabilities, &args.rights).await?;
    let asking = devices::asking(session, code).await?;
    let device = asking.key.device_id();
    devices::approve(session, &asking, &wish, clock::seconds()).await?;
    let object = json!({
        "schema": "nexo.device_offered/1",
        "device_id": device.to_string(),
        "name": asking.name,
        "capabilities": capabilities.names(),
    });
    let (name, caps) = (one_line(&asking.name), capabilities.names().join(","));
    context.printer.result(&object, &format!("offered {device} {caps} {name}"))?;
    Ok(context.printer.flush()?)
}

async fn issue(context: &Context, session: &Session<'_>, args: &Issue) -> Result<(), CliError> {
    let capabilities = capabilities(&args.caps)?;
    let stateless = capabilities.contains(Capabilities::STATELESS);
    if !stateless || capabilities.contains(Capabilities::RECV) {
        let detail = "--caps: a device without a home is stateless and does not receive";
        return Err(CliError::Usage(detail.to_owned()));
    }
    named(&args.name)?;
    let wish = wish(context, session, capabilities, &args.rights).await?;
    let now = clock::seconds();
    let issued = devices::issue(session, &wish, &args.name, now).await?;
    let line = issued.identity.to_text(&session.profile.pin);
    let to_stdout = args.out == Path::new("-");
    // Before the relay hears of it: a device whose key was lost can only be revoked.
    if !to_stdout {
        write_new_private(&args.out, format!("{}\n", *line).as_bytes())?;
    }
    let placed = issued.place(session, now).await;
    if let (Err(DeviceError::Api(ApiError::Refused(_))), false) = (&placed, to_stdout) {
        // The relay has not taken it, so the line is of no use.
        let _ = std::fs::remove_file(&args.out);
    }
    let index = placed?;
    if to_stdout {
        context.printer.secret(&line)?;
        return Ok(());
    }
    changed(context, "issued", issued.identity.device_id(), index)
}

async fn set_recovery(
    context: &Context,
    session: &Session<'_>,
    args: &SetRecovery,
) -> Result<(), CliError> {
    let text = input::secret(&args.old).await?;
    let old = RecoverySecret::from_seed(&*recovery_seed(&text).map_err(DeviceError::from)?);
    let seed = random::secret::<32>()?;
    write_new_private(&args.out, recovery_text(&seed).as_bytes())?;
    let new = RecoveryPublic::of_seed(&seed);
    let index = devices::set_recovery(session, &old, &new, clock::seconds()).await?;
    let object = json!({ "schema": "nexo.recovery_changed/1", "sth_index": index.to_string() });
    context.printer.result(&object, &format!("recovery key changed {index}"))?;
    Ok(context.printer.flush()?)
}

/// What a new device shall be, from the arguments.
async fn wish(
    context: &Context,
    session: &Session<'_>,
    capabilities: Capabilities,
    rights: &Rights,
) -> Result<Wish, CliError> {
    let now = clock::seconds();
    let not_after = rights.expires.as_deref().map_or(Ok(0), |age| end(age, now))?;
    let (origin, own) = (session.trust.origin(), session.profile.identity.account);
    let mut conversations = Vec::with_capacity(rights.to.len());
    for handle in &rights.to {
        let handle = input::handle(handle)?;
        let peer = if handle == session.profile.identity.handle {
            own
        } else {
            account_of(&session.trust, &session.member, &handle, now).await?
        };
        conversations.push(ConversationId::direct(origin, own, peer));
    }
    context.tell(session);
    Ok(Wish { capabilities, not_after, conversations })
}

/// When something is over that lasts so long from now on.
fn end(age: &str, now: u64) -> Result<u64, CliError> {
    let seconds = input::age(age).filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| CliError::Usage(format!("--expires {age}: like 90d")))?;
    Ok(now.saturating_add(seconds))
}

/// Words with commas; each at most once.
fn capabilities(text: &str) -> Result<Capabilities, CliError> {
    Capabilities::from_names(text).ok_or_else(|| {
        let detail = "--caps: admin, send, recv, stateless, with commas between them";
        CliError::Usage(detail.to_owned())
    })
}

pub(super) fn named(name: &str) -> Result<(), CliError> {
    if name.len() > MAX_NAME {
        return Err(CliError::Usage(format!("--name: at most {MAX_NAME} bytes")));
    }
    Ok(())
}

fn changed(context: &Context, what: &str, device: DeviceId, index: u64) -> Result<(), CliError> {
    let object = json!({
        "schema": "nexo.device_changed/1",
        "change": what,
        "device_id": device.to_string(),
        "sth_index": index.to_string(),
    });
    context.printer.result(&object, &format!("{what} {device} {index}"))?;
    Ok(context.printer.flush()?)
}

/// The account of a device that has just joined, for people and scripts.
pub(super) fn joined(context: &Context, profile: &Profile, own: &Account) -> Result<(), CliError> {
    let identity = &profile.identity;
    let index = own.device(identity.device_id()).map_or(0, |device| device.added);
    let object = json!({
        "schema": "nexo.registered/1",
        "handle": identity.handle,
        "account_id": identity.account.to_string(),
        "fingerprint": identity.fingerprint(),
        "device_id": identity.device_id().to_string(),
        "server": profile.pin.url.as_str(),
        "origin": profile.pin.origin,
        "vkey": profile.pin.log_key.to_string(),
        "sth_index": index.to_string(),
    });
    let text = format!("joined {} {}", identity.handle, identity.fingerprint());
    context.printer.result(&object, &text)?;
    Ok(context.printer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_words() {
        assert_eq!(capabilities("send,stateless").ok().map(|c| c.bits()), Some(10));
        assert_eq!(capabilities("admin,send,recv").ok(), Some(Capabilities::FIRST));
        for bad in ["", "send,", "send,send", "root", "send recv"] {
            assert_eq!(capabilities(bad).map_err(|e| e.exit().code()), Err(64), "{bad:?}");
        }
    }
}
