//! Who asks: the only way a handler learns of a device.

use std::net::{IpAddr, Ipv4Addr};

use nexo_schema::error::ErrorCode;
use rocket::Request;
use rocket::request::{FromRequest, Outcome};

use super::allowance::counted;
use super::client::address_of;
use super::limits::{Left, RateLimited};
use crate::App;
use crate::auth::dpop::{Binding, DpopPolicy, Proven};
use crate::auth::keys::DeviceKey;
use crate::error::{ApiError, refuse};
use crate::store::Device;

/// The device behind a valid access token, active now, its proof checked where one is due.
pub struct Caller(pub Device);

/// A [`Caller`] who looks something up, within the rate of its device.
pub struct Asker(pub Device);

/// A [`Caller`] who writes something, within the rates of its device and its account.
pub struct Writer(pub Device);

/// Someone without a token yet, within the rate of their address. Stands first in a handler's
/// parameters: what comes after costs signatures.
#[derive(Debug, Clone, Copy)]
pub struct Stranger;

/// A DPoP proof that came without an access token: on the routes that hand tokens out.
pub struct Proof(Option<Proven>);

impl Proof {
    /// The thumbprint to bind a token to, if a proof came; it must be by this key.
    ///
    /// # Errors
    /// [`ErrorCode::DpopInvalid`] if the proof is by another key.
    pub fn bound_to(&self, key: &DeviceKey) -> Result<Option<String>, ApiError> {
        self.bound_to_bytes(key.as_bytes())
    }

    /// As [`Proof::bound_to`], for a stored key.
    ///
    /// # Errors
    /// As [`Proof::bound_to`].
    pub fn bound_to_bytes(&self, key: &[u8; 32]) -> Result<Option<String>, ApiError> {
        match &self.0 {
            None => Ok(None),
            Some(proven) if proven.key == *key => Ok(Some(proven.jkt.clone())),
            Some(_) => Err(ApiError::new(ErrorCode::DpopInvalid, "the proof is by another key")),
        }
    }
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Caller {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        match admitted(request).await {
            Ok((_, device)) => Outcome::Success(Self(device)),
            Err(error) => refuse(request, error),
        }
    }
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Asker {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        let within = |app: &App, device: &Device| app.limits.lookup(&device.id);
        match within_rate(request, within).await {
            Ok(device) => Outcome::Success(Self(device)),
            Err(error) => refuse(request, error),
        }
    }
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Writer {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        match within_rate(request, |app, device| app.limits.write(device)).await {
            Ok(device) => Outcome::Success(Self(device)),
            Err(error) => refuse(request, error),
        }
    }
}

async fn within_rate(
    request: &Request<'_>,
    rate: impl Fn(&App, &Device) -> Result<Vec<Left>, RateLimited>,
) -> Result<Device, ApiError> {
    let (app, device) = admitted(request).await?;
    counted(request, rate(app, &device))?;
    Ok(device)
}

async fn admitted<'r>(request: &'r Request<'_>) -> Result<(&'r App, Device), ApiError> {
    let app = request.rocket().state::<App>();
    let app = app.ok_or_else(|| ApiError::internal("the app is not attached"))?;
    match authenticate(app, request).await {
        Ok(device) => Ok((app, device)),
        Err(error) => Err(doubted(app, request, error)),
    }
}

/// A refused token counts against its sender's address, and is not judged any more once that
/// sends too many.
pub fn doubted(app: &App, request: &Request<'_>, error: ApiError) -> ApiError {
    if error.problem().code != ErrorCode::Unauthorized {
        return error;
    }
    match app.limits.stranger(address(app, request)) {
        Ok(()) => error,
        Err(limited) => limited.into(),
    }
}

/// The client's address; absent only for requests that did not come over a socket.
fn address(app: &App, request: &Request<'_>) -> IpAddr {
    let address = address_of(request, &app.config.trusted_proxies);
    address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Stranger {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        let Some(app) = request.rocket().state::<App>() else {
            return refuse(request, ApiError::internal("the app is not attached"));
        };
        match counted(request, app.limits.auth(address(app, request))) {
            Ok(()) => Outcome::Success(Self),
            Err(error) => refuse(request, error),
        }
    }
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Proof {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        let Some(app) = request.rocket().state::<App>() else {
            return refuse(request, ApiError::internal("the app is not attached"));
        };
        match proof_of_login(app, request).await {
            Ok(None) if app.config.require_dpop => {
                let detail = "this relay binds tokens to keys; send a DPoP proof";
                refuse(request, ApiError::new(ErrorCode::DpopInvalid, detail))
            }
            Ok(proven) => Outcome::Success(Self(proven)),
            Err(error) => refuse(request, error),
        }
    }
}

async fn authenticate(app: &App, request: &Request<'_>) -> Result<Device, ApiError> {
    let token = bearer(request).ok_or_else(|| {
        ApiError::new(ErrorCode::Unauthorized, "send an access token in Authorization")
    })?;
    let device = device_of(app, token).await?;
    check_binding(app, request, token, &device).await?;
    Ok(device.0)
}

/// A device and the key thumbprint its token is bound to.
type Authenticated = (Device, Option<String>);

/// Judges a token and looks its device up, on every request: expiry acts at once, and so does
/// revocation, but that a replica which misses it may believe the old row for
/// [`MAX_AGE`](crate::devices::MAX_AGE).
///
/// # Errors
/// [`ErrorCode::Unauthorized`].
pub async fn device_of(app: &App, token: &str) -> Result<Authenticated, ApiError> {
    let now = app.clock.seconds();
    let access = app.seen.check(&app.tokens, token, now)?;
    let device = app.device(&access.device).await?;
    let device = device.filter(|d| d.is_active(now)).ok_or_else(|| {
        ApiError::new(ErrorCode::Unauthorized, "the device is unknown, revoked or expired")
    })?;
    Ok((Device::clone(&device), access.jkt.clone()))
}

/// A bound token wants a proof by its key with every request; a relay with `require_dpop` wants
/// every token bound.
///
/// # Errors
/// [`ErrorCode::DpopInvalid`].
pub async fn check_binding(
    app: &App,
    request: &Request<'_>,
    token: &str,
    (device, jkt): &Authenticated,
) -> Result<(), ApiError> {
    let proven = proof(app, request, Some(token))?;
    DpopPolicy { require: app.config.require_dpop }.judge(jkt.as_deref(), proven.as_ref())?;
    match proven {
        // Only the proof that a token needs takes up memory, not one by a stranger's key.
        Some(proven) if jkt.is_some() => {
            if proven.key != device.key {
                return Err(Binding::OtherKey.into());
            }
            let now = app.clock.seconds();
            Ok(app.dpop.use_up_everywhere(&app.store, &proven, true, now).await?)
        }
        _ => Ok(()),
    }
}

/// The token of `Authorization: Bearer` or `DPoP` (RFC 9449 section 7.1).
#[must_use]
pub fn bearer<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    let (scheme, token) = request.headers().get_one("Authorization")?.split_once(' ')?;
    let known = ["bearer", "dpop"].iter().any(|s| scheme.eq_ignore_ascii_case(s));
    known.then_some(token.trim())
}

async fn proof_of_login(app: &App, request: &Request<'_>) -> Result<Option<Proven>, ApiError> {
    let proven = proof(app, request, None)?;
    if let Some(proven) = &proven {
        let now = app.clock.seconds();
        app.dpop.use_up_everywhere(&app.store, proven, false, now).await?;
    }
    Ok(proven)
}

/// The request's proof, verified and not yet used up.
fn proof(
    app: &App,
    request: &Request<'_>,
    token: Option<&str>,
) -> Result<Option<Proven>, ApiError> {
    let mut headers = request.headers().get("DPoP");
    let Some(jws) = headers.next() else { return Ok(None) };
    if headers.next().is_some() {
        return Err(ApiError::new(ErrorCode::DpopInvalid, "more than one DPoP header"));
    }
    let method = request.method().as_str();
    let path = request.uri().path();
    Ok(Some(app.dpop.verify(jws, method, path.as_str(), token, app.clock.seconds())?))
}
