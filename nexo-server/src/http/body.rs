//! Request bodies: bounded, JSON, with the exact bytes kept beside the parsed value.

use nexo_schema::error::ErrorCode;
use nexo_schema::limits::MAX_BODY;
use rocket::Request;
use rocket::data::{Data, FromData, Outcome};
use rocket::http::Status;
use rocket::tokio::io::AsyncReadExt as _;
use serde::de::DeserializeOwned;

use super::unread;
use crate::error::{ApiError, remember};

/// A JSON body. Whatever `Content-Type` says: the seed's clients differ, the parser does not.
pub(super) struct Body<T> {
    /// As received: what a login nonce hashes.
    pub(super) bytes: Vec<u8>,
    /// As read.
    pub(super) value: T,
}

#[rocket::async_trait]
impl<'r, T: DeserializeOwned> FromData<'r> for Body<T> {
    type Error = ();

    async fn from_data(request: &'r Request<'_>, data: Data<'r>) -> Outcome<'r, Self> {
        match read(data).await {
            Ok(body) => Outcome::Success(body),
            Err(error) => {
                let status = Status::new(error.status());
                remember(request, error);
                Outcome::Error((status, ()))
            }
        }
    }
}

async fn read<T: DeserializeOwned>(data: Data<'_>) -> Result<Body<T>, ApiError> {
    let mut body = data.open(unread::with_room_to_discard(MAX_BODY));
    let mut bytes = Vec::new();
    let read = (&mut body).take(MAX_BODY as u64 + 1).read_to_end(&mut bytes).await;
    read.map_err(|_| ApiError::new(ErrorCode::BadRequest, "the body ended early"))?;
    if bytes.len() > MAX_BODY {
        unread::discard(body).await;
        let detail = format!("a body is at most {MAX_BODY} bytes long");
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    // A derived reader would also take the fields as an array, without their names.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::new(ErrorCode::BadRequest, "the body: expected a JSON object"));
    }
    let value = serde_json::from_slice(&bytes)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("the body: {e}")))?;
    Ok(Body { bytes, value })
}
