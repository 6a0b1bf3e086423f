//! Linking: a new device asks, an account's device offers, the new one accepts (e2ee 2.22).
//!
//! ```text
//! new device   POST /links                     its key, signed by it; ten minutes
//! admin        GET  /links/<code>              by the code a person carried over
//!              POST /links/<code>/offer        the event, without the new device's acceptance
//! new device   GET  /links/<code>              until there is an offer, of the account it expects
//!              POST /links/<code>/accept       its acceptance; now the event enters the log
//! ```
//!
//! The relay only carries. That the key is the new device's is shown by the code, which is a hash
//! of it, to the admin; that the account is the right one, by the account id, to the new device.

use nexo_schema::bytes::{from_base64, from_hex, to_base64, to_hex};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{
    EventPlaced, Link as LinkView, LinkAcceptance, LinkAnswer, LinkOffer, LinkRequest,
};
use nexo_schema::limits::{LINK_TTL, MAX_OPENING};
use nexo_schema::link::{self, LINK_ID};
use rocket::serde::json::Json;
use rocket::{State, get, post};
use sha2::{Digest as _, Sha256};

use super::body::Body;
use super::chain::{bounded, decoded, history, place, replayed};
use super::guard::{Asker, Stranger};
use crate::App;
use crate::auth::chain;
use crate::auth::keys::DeviceKey;
use crate::error::ApiError;
use crate::store::{
    Conn, EventBytes, Link, Offer, PutLink, device_by_id, find_account_by_id, live_link,
    offer as put_offer, put_link,
};

type LinkId = [u8; LINK_ID];

#[post("/links", data = "<body>")]
pub(super) async fn ask(
    body: Body<LinkRequest>,
    _stranger: Stranger,
    app: &State<App>,
) -> Result<Json<LinkView>, ApiError> {
    bounded(&body.bytes)?;
    let now = app.clock.seconds();
    let link = read(app, &body.value, now + LINK_TTL)?;
    let id = id_of(app, &link.key);
    let device = chain::device_id(&link.key);
    let kept = app
        .store
        .write(move |conn| {
            if device_by_id(conn, &device)?.is_some() {
                let detail = "the device is in an account; log in with it";
                return Err(ApiError::new(ErrorCode::DeviceTaken, detail));
            }
            match put_link(conn, &id, &link, now)? {
                PutLink::Kept => Ok(link),
                PutLink::Full => Err(full()),
            }
        })
        .await?;
    Ok(Json(shown(&id, &kept, None)))
}

#[get("/links/<link_id>")]
pub(super) async fn find(
    link_id: &str,
    _stranger: Stranger,
    app: &State<App>,
) -> Result<Json<LinkView>, ApiError> {
    let (id, now) = (parsed(link_id)?, app.clock.seconds());
    let view = app.store.snapshot(move |conn| view(conn, &id, now)).await?;
    Ok(Json(view))
}

#[post("/links/<link_id>/offer", data = "<body>")]
pub(super) async fn offer(
    link_id: &str,
    body: Body<LinkAnswer>,
    asker: Asker,
    app: &State<App>,
) -> Result<Json<LinkView>, ApiError> {
    bounded(&body.bytes)?;
    let device = asker.0;
    let (id, now) = (parsed(link_id)?, app.clock.seconds());
    let offer = Offer {
        account: device.account,
        event: decoded("event", &body.value.event)?,
        sig: decoded("sig", &body.value.sig)?,
    };
    let account = offer.account;
    let (link, (_, events)) = app
        .store
        .snapshot(move |conn| Ok::<_, ApiError>((live(conn, &id, now)?, history(conn, &account)?)))
        .await?;
    // As strictly as at the commit, so that what is offered can be accepted.
    let next = replayed(&events)?.judge(&app.origin, &offer.event, &offer.sig, now)?;
    if next.newcomer().is_none_or(|new| new.key != link.key) {
        return Err(bad("event: it does not add the device that asks"));
    }
    let put = app.store.write(move |conn| {
        if put_offer(conn, &id, &offer, now)? {
            return view(conn, &id, now);
        }
        Err(ApiError::new(ErrorCode::Forbidden, "another account was first, or it is too late"))
    });
    Ok(Json(put.await?))
}

#[post("/links/<link_id>/accept", data = "<body>")]
pub(super) async fn accept(
    link_id: &str,
    body: Body<LinkAcceptance>,
    _stranger: Stranger,
    app: &State<App>,
) -> Result<Json<EventPlaced>, ApiError> {
    let (id, now) = (parsed(link_id)?, app.clock.seconds());
    let accept_sig = decoded("accept_sig", &body.value.accept_sig)?;
    let link = app.store.read(move |conn| live(conn, &id, now)).await?;
    let Some(Offer { event, sig, .. }) = link.offer else {
        return Err(ApiError::new(ErrorCode::NotFound, "there is no offer yet"));
    };
    place(app, EventBytes { event, sig, accept_sig }).await
}

/// Reads a request: its sizes, the strict rule for its key, and that key's signature.
fn read(app: &App, request: &LinkRequest, exp: u64) -> Result<Link, ApiError> {
    let key = from_base64(&request.ed25519_pub).ok();
    let key = key.and_then(|bytes| DeviceKey::parse(&bytes).ok());
    let key =
        key.ok_or_else(|| bad("ed25519_pub: expected a valid Ed25519 key, 32 bytes in base64"))?;
    let name = from_base64(&request.name).ok().and_then(|bytes| bytes.try_into().ok());
    let name: [u8; 32] = name.ok_or_else(|| bad("name: expected 32 bytes in base64"))?;
    let opening = decoded("opening", request.opening.as_deref().unwrap_or_default())?;
    if opening.len() > MAX_OPENING {
        let detail = format!("opening: at most {MAX_OPENING} bytes");
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    let sig = decoded("sig", &request.sig)?;
    let message = link::request(app.origin.as_str(), key.as_bytes(), &name, &opening);
    if !sig.as_slice().try_into().is_ok_and(|sig| key.verify(&message, sig)) {
        return Err(bad("sig: not this device's signature over the request"));
    }
    Ok(Link { key: *key.as_bytes(), name, opening, sig, exp, offer: None })
}

/// What the code of a key begins with.
fn id_of(app: &App, key: &[u8; 32]) -> LinkId {
    let code = Sha256::digest(link::code(app.origin.as_str(), key));
    let mut id = [0; LINK_ID];
    id.copy_from_slice(&code[..LINK_ID]);
    id
}

fn live(conn: &mut Conn, id: &LinkId, now: u64) -> Result<Link, ApiError> {
    live_link(conn, id, now)?.ok_or_else(|| {
        ApiError::new(ErrorCode::NotFound, "no such link request, or it is older than ten minutes")
    })
}

fn view(conn: &mut Conn, id: &LinkId, now: u64) -> Result<LinkView, ApiError> {
    let link = live(conn, id, now)?;
    let Some(offer) = &link.offer else { return Ok(shown(id, &link, None)) };
    let account = find_account_by_id(conn, &offer.account)?;
    let account = account.ok_or_else(|| ApiError::internal("an offer is of no account"))?;
    let offer = LinkOffer {
        account_id: account.id,
        handle: account.handle,
        event: to_base64(&offer.event),
        sig: to_base64(&offer.sig),
    };
    Ok(shown(id, &link, Some(offer)))
}

fn shown(id: &LinkId, link: &Link, offer: Option<LinkOffer>) -> LinkView {
    LinkView {
        link_id: to_hex(id),
        ed25519_pub: to_base64(&link.key),
        name: to_base64(&link.name),
        opening: (!link.opening.is_empty()).then(|| to_base64(&link.opening)),
        sig: to_base64(&link.sig),
        exp: link.exp,
        offer,
    }
}

fn parsed(link_id: &str) -> Result<LinkId, ApiError> {
    from_hex(link_id).map_err(|_| bad("link_id: expected 32 lower-case hex digits"))
}

fn full() -> ApiError {
    let detail = "too many devices wait to be linked; try again later";
    ApiError::new(ErrorCode::Unavailable, detail).retry_after(LINK_TTL / 10)
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}
