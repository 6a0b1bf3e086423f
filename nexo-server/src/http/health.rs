//! Whether the relay serves, for probes and for the seed's clients.

use nexo_schema::http::Health;
use rocket::serde::json::Json;
use rocket::{State, get};

use crate::App;
use crate::error::ApiError;
use crate::store::count_accounts;

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
