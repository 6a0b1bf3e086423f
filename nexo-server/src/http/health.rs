//! Whether the relay serves, for probes and for the seed's clients.

use nexo_schema::error::ErrorCode;
use nexo_schema::http::{Health, Probe};
use rocket::serde::json::Json;
use rocket::{State, get};

use crate::App;
use crate::error::ApiError;
use crate::store::{count_accounts, newest_head};

#[get("/health")]
pub(super) async fn health(app: &State<App>) -> Result<Json<Health>, ApiError> {
    let users_count = app.store.read(count_accounts).await?;
    Ok(Json(Health {
        status: "healthy".to_owned(),
        timestamp: app.clock.seconds(),
        users_count,
        sth_count: app.log.head().size,
    }))
}

/// The process answers; nothing else is asked.
#[get("/livez")]
pub(super) fn live() -> Json<Probe> {
    Json(Probe { status: "live".to_owned() })
}

/// Whether requests belong here: the log takes entries, the database answers, and the relay is
/// not about to end.
#[get("/readyz")]
pub(super) async fn ready(app: &State<App>) -> Result<Json<Probe>, ApiError> {
    let away = |why: &str| ApiError::new(ErrorCode::Unavailable, why).retry_after(1);
    if app.stopping.has_begun() {
        return Err(away("the relay is shutting down"));
    }
    if app.log.is_closed() {
        return Err(away("the log has stopped"));
    }
    match app.store.read(newest_head).await? {
        Some(_) => Ok(Json(Probe { status: "ready".to_owned() })),
        None => Err(away("the log has no head yet")),
    }
}
