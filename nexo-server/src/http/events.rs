//! Key events in bulk, for auditors (design 15): what the hashes of the public log stand for.
//!
//! The tiles are everybody's, the bodies are not: they say which handles there are. Who asks
//! shows an auditor token, or the operator has opened the directory. Nothing here is secret from
//! the relay's own devices, which learn the same handle by handle.

use nexo_schema::bytes::to_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{EventPage, KeyEventView, PlainKey, SignedEvent};
use nexo_schema::limits::{DEFAULT_PAGE, MAX_PAGE};
use rocket::request::{FromRequest, Outcome};
use rocket::{Request, State, get};

use super::caching::{Keep, Resource};
use super::guard::bearer;
use super::query::number;
use crate::App;
use crate::auth::auditor;
use crate::error::{ApiError, refuse};
use crate::store::{KeyEvent, is_auditor, key_events_after};

/// Somebody who may read every key event.
pub(super) struct Auditor;

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Auditor {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        let admitted = match request.rocket().state::<App>() {
            Some(app) => admit(app, request).await,
            None => Err(ApiError::internal("the app is not attached")),
        };
        match admitted {
            Ok(()) => Outcome::Success(Self),
            Err(error) => refuse(request, error),
        }
    }
}

/// Looked up each time: a token that is revoked is revoked at once, on every replica.
async fn admit(app: &App, request: &Request<'_>) -> Result<(), ApiError> {
    if app.config.public_directory {
        return Ok(());
    }
    let refused = |detail: &str| Err(ApiError::new(ErrorCode::Unauthorized, detail));
    let Some(token) = bearer(request) else {
        return refused("send an auditor token in Authorization");
    };
    let Some(hash) = auditor::hash(token) else {
        return refused("this is no auditor token; `nexo-server auditor-token` makes one");
    };
    let now = app.clock.seconds();
    if app.store.read(move |conn| is_auditor(conn, &hash, now)).await? {
        return Ok(());
    }
    refused("the auditor token is not known, has ended or was revoked")
}

#[get("/log/events?<from>&<limit>")]
pub(super) async fn events(
    from: Option<&str>,
    limit: Option<&str>,
    _auditor: Auditor,
    app: &State<App>,
) -> Result<Resource, ApiError> {
    let from = number("from", from)?.unwrap_or(0);
    let limit = number("limit", limit)?
        .map_or(DEFAULT_PAGE, |limit| u32::try_from(limit).unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE));
    let size = app.newest_head().await.size;
    // Positions count from 1: behind position `from` is leaf `from`.
    let page = app.store.snapshot(move |conn| key_events_after(conn, from, size, limit)).await?;
    let last = page.events.last().map_or(size, |(place, _)| *place);
    let next = if page.more { last } else { size.max(from) };
    let events = page.events.into_iter().map(|(place, event)| shown(place, event));
    let events = events.collect::<Result<_, _>>()?;
    Resource::json(&EventPage { events, next, size }, Keep::Never)
}

fn shown(place: u64, event: KeyEvent) -> Result<KeyEventView, ApiError> {
    let index = place.checked_sub(1).ok_or_else(|| ApiError::internal("a stored position is 0"))?;
    Ok(match event {
        KeyEvent::Native { event, sig, accept_sig } => {
            let [event, sig, accept_sig] = [event, sig, accept_sig].map(|bytes| to_base64(&bytes));
            let native = Some(SignedEvent { event, sig, accept_sig });
            KeyEventView { index, native, plain: None }
        }
        KeyEvent::Plain { handle, account, device, key } => {
            let ed25519_pub = to_base64(&key);
            let plain = PlainKey { handle, account_id: account, device_id: device, ed25519_pub };
            KeyEventView { index, native: None, plain: Some(plain) }
        }
    })
}
