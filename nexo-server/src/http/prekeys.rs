//! Prekeys: publishing, listing, and the bundle a sender starts from (e2ee 2.7).
//!
//! `GET .../bundle` hands out fallback prekeys and changes nothing; `POST .../bundle` claims a
//! one-time prekey per device as well, for those who share a conversation with the account.

use nexo_schema::bytes::{from_base64, to_base64, to_hex};
use nexo_schema::envelope::{KEM_KEY, PrekeyPublic, fallback_prekey, one_time_prekey};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{
    Bundle, DeviceBundle, OneTimeStatus, Prekey, PrekeyRef, PrekeyStock, PrekeyUpload,
};
use nexo_schema::ids::{AccountId, Handle};
use nexo_schema::limits::{FALLBACK_PREKEY_TTL, MAX_ONE_TIME_PREKEYS, MAX_PREKEY_UPLOAD};
use nexo_schema::sigchain::caps;
use rocket::serde::json::Json;
use rocket::{State, get, post};
use sha2::{Digest as _, Sha256};

use super::body::Body;
use super::chain::logged;
use super::guard::{Asker, Caller};
use super::present;
use super::query::number;
use crate::App;
use crate::auth::keys::DeviceKey;
use crate::error::ApiError;
use crate::store::{
    Account, Claim, Conn, Device, PrekeyRow, PublishRefusal, StoreError, StoredTiles,
    active_devices, claim_one_time, events, fallback, find_account, find_account_by_id,
    newest_head, publish, shares_conversation, stock,
};

#[post("/prekeys", data = "<body>")]
pub(super) async fn upload(
    body: Body<PrekeyUpload>,
    asker: Asker,
    app: &State<App>,
) -> Result<Json<PrekeyStock>, ApiError> {
    let device = native(asker.0)?;
    let upload = body.value;
    if upload.one_time.len() > MAX_PREKEY_UPLOAD || upload.remove.len() > MAX_ONE_TIME_PREKEYS {
        let detail = format!("one_time: at most {MAX_PREKEY_UPLOAD} at a time");
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    let reader = Reader::of(app, &device)?;
    let new_fallback = upload.fallback.as_ref().map(|key| reader.fallback(key)).transpose()?;
    let one_time =
        upload.one_time.iter().map(|key| reader.one_time(key)).collect::<Result<Vec<_>, _>>()?;
    let held = app
        .store
        .write(move |conn| {
            let (id, most) = (&device.id, MAX_ONE_TIME_PREKEYS);
            publish(conn, id, new_fallback.as_ref(), &one_time, &upload.remove, most)?
                .map_err(refused)?;
            Ok::<_, ApiError>(stock(conn, id)?)
        })
        .await?;
    Ok(Json(shown(held)))
}

#[get("/prekeys")]
pub(super) async fn list(caller: Caller, app: &State<App>) -> Result<Json<PrekeyStock>, ApiError> {
    let device = native(caller.0)?;
    let held = app.store.snapshot(move |conn| stock(conn, &device.id)).await?;
    Ok(Json(shown(held)))
}

#[get("/accounts/<handle>/bundle?<tree_size>")]
pub(super) async fn bundle(
    handle: &str,
    tree_size: Option<&str>,
    _asker: Asker,
    app: &State<App>,
) -> Result<Json<Bundle>, ApiError> {
    let who = Who::handle(handle)?;
    look_up(app, who, number("tree_size", tree_size)?).await
}

#[get("/accounts/by-id/<account_id>/bundle?<tree_size>")]
pub(super) async fn bundle_by_id(
    account_id: &str,
    tree_size: Option<&str>,
    _asker: Asker,
    app: &State<App>,
) -> Result<Json<Bundle>, ApiError> {
    look_up(app, Who::id(account_id)?, number("tree_size", tree_size)?).await
}

#[post("/accounts/<handle>/bundle?<tree_size>")]
pub(super) async fn claim(
    handle: &str,
    tree_size: Option<&str>,
    asker: Asker,
    app: &State<App>,
) -> Result<Json<Bundle>, ApiError> {
    let device = asker.0;
    let (who, tree_size) = (Who::handle(handle)?, number("tree_size", tree_size)?);
    let (me, now) = (device.account, app.clock.seconds());
    let claimed = app
        .store
        .write(move |conn| {
            let account = who.find(conn)?.ok_or_else(absent)?;
            if !shares_conversation(conn, &me, &account.id)? {
                let detail = "one-time prekeys are for those who share a conversation";
                return Err(ApiError::new(ErrorCode::Forbidden, detail));
            }
            assemble(conn, &account, tree_size, now, |conn, device| {
                claim_one_time(conn, &me, &device.id, now).map(Some)
            })
        })
        .await?;
    if claimed.devices.iter().any(|device| device.otk.is_some()) {
        app.rooms.devices_changed(&[claimed.account_id]);
    }
    Ok(Json(claimed))
}

/// Whose bundle, or chain.
pub(super) enum Who {
    Handle(Handle),
    Id(AccountId),
}

impl Who {
    pub(super) fn handle(text: &str) -> Result<Self, ApiError> {
        let handle = Handle::parse_lenient(text);
        handle.map(Self::Handle).map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))
    }

    pub(super) fn id(text: &str) -> Result<Self, ApiError> {
        let id = AccountId::parse(text).map_err(|e| bad(format!("account_id: {e}")))?;
        Ok(Self::Id(id))
    }

    pub(super) fn find(&self, conn: &mut Conn) -> Result<Option<Account>, StoreError> {
        match self {
            Self::Handle(handle) => find_account(conn, handle),
            Self::Id(id) => find_account_by_id(conn, id),
        }
    }
}

async fn look_up(app: &App, who: Who, tree_size: Option<u64>) -> Result<Json<Bundle>, ApiError> {
    let now = app.clock.seconds();
    let found = app
        .store
        .snapshot(move |conn| {
            let account = who.find(conn)?.ok_or_else(absent)?;
            assemble(conn, &account, tree_size, now, |_, _| Ok(None))
        })
        .await?;
    Ok(Json(found))
}

/// The account's chain with its proofs, and its devices' prekeys. Plain accounts have neither.
fn assemble(
    conn: &mut Conn,
    account: &Account,
    tree_size: Option<u64>,
    now: u64,
    mut claim: impl FnMut(&mut Conn, &Device) -> Result<Option<Claim>, StoreError>,
) -> Result<Bundle, ApiError> {
    let head = newest_head(conn)?.ok_or_else(|| ApiError::internal("there is no head"))?;
    let mut all = Vec::new();
    for row in events(conn, &account.id)? {
        all.push(logged(conn, row, head.size)?);
    }
    let consistency = tree_size
        .map(|from| present::between(from, head.size, &mut StoredTiles(conn)))
        .transpose()?;
    let mut devices = Vec::new();
    for device in active_devices(conn, &account.id, now)? {
        if !account.native || !device.may(caps::RECV) {
            continue;
        }
        let fpk = fallback(conn, &device.id, now)?.as_ref().map(prekey);
        let (otk, otk_status) = status(claim(conn, &device)?);
        let x25519_pub = to_base64(&device.x25519);
        devices.push(DeviceBundle { device_id: device.id, x25519_pub, fpk, otk, otk_status });
    }
    Ok(Bundle {
        handle: account.handle.clone(),
        account_id: account.id,
        events: all,
        head: String::from_utf8_lossy(&head.note).into_owned(),
        consistency,
        devices,
    })
}

fn status(claim: Option<Claim>) -> (Option<Prekey>, OneTimeStatus) {
    match claim {
        None => (None, OneTimeStatus::NotAsked),
        Some(Claim::Key(key)) => (Some(prekey(&key)), OneTimeStatus::Ok),
        Some(Claim::Exhausted) => (None, OneTimeStatus::Exhausted),
        Some(Claim::Throttled) => (None, OneTimeStatus::Throttled),
    }
}

fn prekey(row: &PrekeyRow) -> Prekey {
    Prekey {
        id: row.id,
        x25519: to_base64(&row.x25519),
        kem: to_base64(&row.kem),
        not_before: row.validity.map(|(not_before, _)| not_before),
        not_after: row.validity.map(|(_, not_after)| not_after),
        sig: to_base64(&row.sig),
    }
}

/// Reads what a device publishes: sizes, times and the device's own signature.
struct Reader<'a> {
    origin: &'a str,
    device: [u8; 32],
    key: DeviceKey,
    now: u64,
}

impl<'a> Reader<'a> {
    fn of(app: &'a App, device: &Device) -> Result<Self, ApiError> {
        let corrupt = || ApiError::internal("a stored native device is not valid");
        Ok(Self {
            origin: app.origin.as_str(),
            device: device.id.native_bytes().ok_or_else(corrupt)?,
            key: DeviceKey::parse(&device.key).map_err(|_| corrupt())?,
            now: app.clock.seconds(),
        })
    }

    fn fallback(&self, key: &Prekey) -> Result<PrekeyRow, ApiError> {
        let (Some(not_before), Some(not_after)) = (key.not_before, key.not_after) else {
            return Err(bad("fallback: not_before and not_after are required"));
        };
        let life = not_after.checked_sub(not_before);
        if !life.is_some_and(|life| (1..=FALLBACK_PREKEY_TTL).contains(&life)) {
            return Err(bad("fallback: valid for more than 37 days, or never"));
        }
        if not_after <= self.now {
            return Err(bad("fallback: already expired"));
        }
        let halves = Halves::read(key)?;
        let public = halves.public(key.id);
        let message = fallback_prekey(self.origin, &self.device, &public, not_before, not_after);
        self.row(key, halves, &message, Some((not_before, not_after)))
    }

    fn one_time(&self, key: &Prekey) -> Result<PrekeyRow, ApiError> {
        if key.not_before.is_some() || key.not_after.is_some() {
            return Err(bad("one_time: has no validity times"));
        }
        let halves = Halves::read(key)?;
        let message = one_time_prekey(self.origin, &self.device, &halves.public(key.id));
        self.row(key, halves, &message, None)
    }

    fn row(
        &self,
        key: &Prekey,
        halves: Halves,
        message: &[u8],
        validity: Option<(u64, u64)>,
    ) -> Result<PrekeyRow, ApiError> {
        let sig = from_base64(&key.sig).map_err(|e| bad(format!("sig: {e}")))?;
        let signed = sig.as_slice().try_into().is_ok_and(|sig| self.key.verify(message, sig));
        if !signed {
            return Err(bad("sig: not this device's signature over the prekey"));
        }
        let Halves { x25519, kem } = halves;
        Ok(PrekeyRow { id: key.id, x25519: x25519.to_vec(), kem, validity, sig })
    }
}

/// The two public keys of a prekey.
struct Halves {
    x25519: [u8; 32],
    kem: Vec<u8>,
}

impl Halves {
    fn read(key: &Prekey) -> Result<Self, ApiError> {
        let x25519 = from_base64(&key.x25519).ok().and_then(|bytes| bytes.try_into().ok());
        let x25519 = x25519.ok_or_else(|| bad("x25519: expected 32 bytes in base64"))?;
        let kem = from_base64(&key.kem).ok().filter(|bytes| bytes.len() == KEM_KEY);
        let kem = kem.ok_or_else(|| bad("kem: expected an ML-KEM-768 key in base64"))?;
        Ok(Self { x25519, kem })
    }

    fn public(&self, id: u32) -> PrekeyPublic<'_> {
        PrekeyPublic { id, x25519: &self.x25519, kem: &self.kem }
    }
}

fn shown((fallback, one_time): (Option<PrekeyRow>, Vec<PrekeyRow>)) -> PrekeyStock {
    let reference = |key: &PrekeyRow| PrekeyRef {
        id: key.id,
        hash: to_hex(&Sha256::new().chain_update(&key.x25519).chain_update(&key.kem).finalize()),
    };
    PrekeyStock {
        fallback: fallback.as_ref().map(reference),
        one_time: one_time.iter().map(reference).collect(),
    }
}

fn native(device: Device) -> Result<Device, ApiError> {
    match device.native {
        true => Ok(device),
        false => Err(ApiError::new(ErrorCode::Forbidden, "prekeys are for native devices")),
    }
}

fn refused(refusal: PublishRefusal) -> ApiError {
    match refusal {
        PublishRefusal::Reused(id) => {
            ApiError::new(ErrorCode::PrekeyReused, format!("prekey id {id} was used before"))
        }
        PublishRefusal::TooMany => {
            let detail = format!("at most {MAX_ONE_TIME_PREKEYS} one-time prekeys are kept");
            ApiError::new(ErrorCode::TooLarge, detail)
        }
    }
}

fn absent() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "no such account")
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}
