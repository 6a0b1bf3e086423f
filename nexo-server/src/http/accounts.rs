//! Registering, logging in, refreshing (design 5 to 7).
//!
//! `register` only asks: it keeps a challenge and the request, nothing else. `verify` proves
//! possession of the key and only then makes the account, through the log, using the challenge
//! up in the same transaction.

use nexo_schema::bytes::from_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{Challenge, RefreshRequest, RegisterRequest, Tokens, VerifyRequest};
use nexo_schema::ids::DeviceId;
use nexo_schema::limits::{CHALLENGE_TTL, MAX_REGISTER};
use rocket::serde::json::Json;
use rocket::{State, post};

use super::body::Body;
use super::guard::{Proof, Stranger};
use crate::App;
use crate::auth::keys::DeviceKey;
use crate::auth::proposal::{Claim, Proposal};
use crate::auth::token;
use crate::auth::{chain, challenge};
use crate::config::Registration as Mode;
use crate::error::ApiError;
use crate::store::{
    Account, Conn, Device, Item, Login, Pending, RotateError, StoreError, active_devices,
    device_by_id, find_account, live_challenges, login_of, put_challenge, put_login, rotate,
    take_challenge,
};

#[post("/auth/register", data = "<body>")]
pub(super) async fn register(
    body: Body<RegisterRequest>,
    _stranger: Stranger,
    app: &State<App>,
) -> Result<Json<Challenge>, ApiError> {
    if body.bytes.len() > MAX_REGISTER {
        let detail = format!("a register request is at most {MAX_REGISTER} bytes long");
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    let now = app.clock.seconds();
    let mut proposal = Proposal::read(&app.origin, &body.value)?;
    let (handle, wanted) = (proposal.handle.clone(), proposal.device.clone());
    let (account, holder) = app.store.read(move |conn| owners(conn, &handle, &wanted)).await?;
    match account {
        Some(account) => proposal.device = known_device(&proposal, &account, app).await?,
        None if holder.is_some() => {
            return Err(ApiError::new(ErrorCode::DeviceTaken, "the device id has another key"));
        }
        None => open_to(app.config.registration, proposal.invite.is_some())?,
    }
    let exp = now + CHALLENGE_TTL;
    let nonce = challenge::nonce(&app.origin, &proposal.device, &body.bytes, exp)?;
    let pending = Pending { nonce: nonce.clone(), request: body.bytes };
    let device_id = proposal.device.clone();
    app.store.write(move |conn| put_challenge(conn, &proposal.device, &pending, exp, now)).await?;
    Ok(Json(Challenge { nonce, exp, device_id }))
}

#[post("/auth/verify", data = "<body>")]
pub(super) async fn verify(
    body: Body<VerifyRequest>,
    _stranger: Stranger,
    proof: Proof,
    app: &State<App>,
) -> Result<Json<Tokens>, ApiError> {
    let now = app.clock.seconds();
    let device = DeviceId::parse(&body.value.device_id)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))?;
    let signature = signature(&body.value.signature)?;
    let (pending, known) = {
        let device = device.clone();
        app.store
            .read(move |conn| {
                let pending = live_challenges(conn, &device, now)?;
                Ok::<_, StoreError>((pending, device_by_id(conn, &device)?))
            })
            .await?
    };
    let (proposal, nonce) = answered(app, &pending, &signature)?;
    let jkt = proof.bound_to(&proposal.key)?;
    let device = match known {
        Some(known) => log_in(app, &proposal.claim(), known, nonce, now).await?,
        None => create(app, proposal, device, nonce).await?,
    };
    issue(app, device, jkt, now).await
}

#[post("/auth/refresh", data = "<body>")]
pub(super) async fn refresh(
    body: Body<RefreshRequest>,
    _stranger: Stranger,
    proof: Proof,
    app: &State<App>,
) -> Result<Json<Tokens>, ApiError> {
    let now = app.clock.seconds();
    let successor = token::successor(&app.secret, &body.value.refresh);
    let (hash, next) = (token::refresh_hash(&body.value.refresh), token::refresh_hash(&successor));
    let exp = now + app.config.refresh_ttl;
    let require = app.config.require_dpop;
    let turned = app
        .store
        .write(move |conn| {
            let Some(login) = login_of(conn, &hash, now)? else {
                return Ok(Err(RotateError::Unknown));
            };
            // Before the token is used up: whoever merely found it can do nothing with it.
            let device = device_by_id(conn, &login.device)?.filter(|d| d.is_active(now));
            let device = device.ok_or_else(|| {
                ApiError::new(ErrorCode::RefreshInvalid, "the device is no longer active")
            })?;
            let jkt = proof.bound_to_bytes(&device.key)?;
            if login.jkt != jkt && (require || login.jkt.is_some()) {
                let detail = "this refresh token is bound to a key, or must be; send its proof";
                return Err(ApiError::new(ErrorCode::DpopInvalid, detail));
            }
            match rotate(conn, &hash, &next, exp, now) {
                Ok(login) => Ok(Ok((login, device))),
                Err(RotateError::Store(error)) => Err(ApiError::from(error)),
                // Reuse ends the family, and that is to be committed: so it is no error here.
                Err(refusal) => Ok(Err(refusal)),
            }
        })
        .await?;
    let (login, device) =
        turned.map_err(|e| ApiError::new(ErrorCode::RefreshInvalid, e.to_string()))?;
    tokens(app, &device, login.jkt.as_deref(), successor, now).map(Json)
}

/// The account of the handle, and the device of that id.
fn owners(
    conn: &mut Conn,
    handle: &nexo_schema::ids::Handle,
    device: &DeviceId,
) -> Result<(Option<Account>, Option<Device>), StoreError> {
    Ok((find_account(conn, handle)?, device_by_id(conn, device)?))
}

/// The device with the proposed key, if the handle's account is the proposed one or has it.
async fn known_device(
    proposal: &Proposal,
    account: &Account,
    app: &App,
) -> Result<DeviceId, ApiError> {
    let (id, now) = (account.id, app.clock.seconds());
    let native = chain::device_id(proposal.key.as_bytes());
    let (devices, ended) = app
        .store
        .read(move |conn| {
            let ended = device_by_id(conn, &native)?.filter(|device| device.account == id);
            Ok::<_, StoreError>((active_devices(conn, &id, now)?, ended))
        })
        .await?;
    let ours = devices.into_iter().find(|d| d.key == *proposal.key.as_bytes());
    let ours = ours.ok_or_else(|| match ended {
        Some(_) => ApiError::new(ErrorCode::Unauthorized, "the device is revoked or expired"),
        None => ApiError::new(ErrorCode::HandleTaken, "the handle belongs to another key"),
    })?;
    if proposal.named && ours.id != proposal.device {
        let detail = "this key is registered under another device id";
        return Err(ApiError::new(ErrorCode::DeviceTaken, detail));
    }
    Ok(ours.id)
}

fn open_to(mode: Mode, invited: bool) -> Result<(), ApiError> {
    let detail = match mode {
        Mode::Open => return Ok(()),
        Mode::Invite if invited => return Ok(()),
        Mode::Invite => "this relay takes new accounts by invite; send `invite`",
        Mode::Closed => "this relay takes no new accounts",
    };
    Err(ApiError::new(ErrorCode::RegistrationClosed, detail))
}

fn signature(text: &str) -> Result<[u8; 64], ApiError> {
    from_base64(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        ApiError::new(ErrorCode::BadRequest, "signature: expected 64 bytes in base64")
    })
}

/// The challenge that was signed, and the request it was given for. Trying each live one means
/// that nobody can void a login in flight by asking for another challenge.
fn answered(
    app: &App,
    pending: &[Pending],
    signature: &[u8; 64],
) -> Result<(Proposal, String), ApiError> {
    for challenge in pending {
        let Ok(request) = serde_json::from_slice::<RegisterRequest>(&challenge.request) else {
            continue;
        };
        // The signature first: it costs one key, a native proposal costs four.
        let key = from_base64(&request.ed25519_pub).ok().and_then(|b| DeviceKey::parse(&b).ok());
        if key.is_some_and(|key| key.verify(challenge.nonce.as_bytes(), signature)) {
            return Ok((Proposal::read(&app.origin, &request)?, challenge.nonce.clone()));
        }
    }
    Err(ApiError::new(ErrorCode::ChallengeInvalid, "no live challenge has this answer"))
}

/// The answer to a challenge proves a key, and the request it was given for names a handle. Both
/// must be those of the device that is logged in: its id may have become another's since the
/// challenge was given, and the id alone proves nothing.
async fn log_in(
    app: &App,
    claim: &Claim,
    device: Device,
    nonce: String,
    now: u64,
) -> Result<Device, ApiError> {
    if device.key != claim.key || device.handle != claim.handle {
        return Err(another_device());
    }
    let taken = app.store.write(move |conn| take_challenge(conn, &nonce, now)).await?;
    if !taken {
        return Err(ApiError::new(ErrorCode::ChallengeInvalid, "the challenge was used"));
    }
    if !device.is_active(now) {
        return Err(ApiError::new(ErrorCode::Unauthorized, "the device is revoked or expired"));
    }
    Ok(device)
}

/// Makes the account: the one place where a stranger's word becomes a row.
async fn create(
    app: &App,
    proposal: Proposal,
    device: DeviceId,
    nonce: String,
) -> Result<Device, ApiError> {
    open_to(app.config.registration, proposal.invite.is_some())?;
    let by_invite = app.config.registration == Mode::Invite;
    let claim = proposal.claim();
    let item = proposal.into_registration(device.clone(), nonce.clone(), by_invite);
    let placed = app.submit(Item::Register(item)).await?;
    let made = app.store.read(move |conn| device_by_id(conn, &device)).await?;
    match made {
        Some(made) if placed.known => log_in(app, &claim, made, nonce, app.clock.seconds()).await,
        Some(made) => Ok(made),
        // The account was made meanwhile, with its key under another device id.
        None if placed.known => Err(another_device()),
        None => Err(ApiError::internal("a registered device has no row")),
    }
}

fn another_device() -> ApiError {
    ApiError::new(ErrorCode::DeviceTaken, "the device id belongs to another account or key")
}

async fn issue(
    app: &App,
    device: Device,
    jkt: Option<String>,
    now: u64,
) -> Result<Json<Tokens>, ApiError> {
    let refresh = token::new_refresh()?;
    let hash = token::refresh_hash(&refresh);
    let login = Login { device: device.id.clone(), jkt: jkt.clone(), family: app.random()? };
    let exp = now + app.config.refresh_ttl;
    app.store.write(move |conn| put_login(conn, &login, &hash, exp, now)).await?;
    tokens(app, &device, jkt.as_deref(), refresh, now).map(Json)
}

fn tokens(
    app: &App,
    device: &Device,
    jkt: Option<&str>,
    refresh: String,
    now: u64,
) -> Result<Tokens, ApiError> {
    let token_type = if jkt.is_some() { "DPoP" } else { "Bearer" };
    let access = app.tokens.mint(&device.id, &device.handle, jkt, now)?;
    Ok(Tokens {
        access,
        refresh,
        token_type: token_type.to_owned(),
        expires_in: app.config.access_ttl,
        device_id: device.id.clone(),
        account_id: device.account,
        account_sth_index: device.account_index,
    })
}
