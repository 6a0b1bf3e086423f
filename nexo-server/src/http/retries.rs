//! Messages that a device could not open, asked for and sent again (e2ee 2.14).
//!
//! The reader says so here, and in a sealed message to the sender; the sender, who alone knows
//! whether to answer, puts a new key packet for that one device. The relay serves it to that
//! device in the place of the logged one; the log and the hashes of the packets stay as they are.

use nexo_schema::bytes::from_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{PacketAgain, RetryState};
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::limits::MAX_PACKET;
use nexo_schema::sigchain::caps;
use rocket::serde::json::Json;
use rocket::{State, post, put};

use super::body::Body;
use super::guard::Writer;
use crate::App;
use crate::error::ApiError;
use crate::store::{Device, RetryCount, RetryRefusal, Wanted, answer_again, ask_again};

#[post("/messages/<conv_id>/<msg_id>/retry?<device_id>")]
pub(super) async fn ask(
    conv_id: &str,
    msg_id: &str,
    device_id: Option<&str>,
    writer: Writer,
    app: &State<App>,
) -> Result<Json<RetryState>, ApiError> {
    let reader = writer.0;
    let sender = device_id.ok_or_else(|| bad("device_id: the sending device"))?;
    let wanted = wanted(app, &reader, conv_id, msg_id, device(sender)?, caps::RECV).await?;
    let asked = app.store.write(move |conn| ask_again(conn, &wanted, &reader.id)).await?;
    answered(asked)
}

#[put("/messages/<conv_id>/<msg_id>/packets/<device_id>", data = "<body>")]
pub(super) async fn answer(
    conv_id: &str,
    msg_id: &str,
    device_id: &str,
    body: Body<PacketAgain>,
    writer: Writer,
    app: &State<App>,
) -> Result<Json<RetryState>, ApiError> {
    let sender = writer.0;
    app.limits.bytes(&sender, body.value.packet.len())?;
    let reader = device(device_id)?;
    let packet = from_base64(&body.value.packet).map_err(|e| bad(&format!("packet: {e}")))?;
    if packet.is_empty() || packet.len() > MAX_PACKET {
        let detail = format!("packet: 1 to {MAX_PACKET} bytes");
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    let wanted = wanted(app, &sender, conv_id, msg_id, sender.id.clone(), caps::SEND).await?;
    let put = app.store.write(move |conn| answer_again(conn, &wanted, &reader, &packet)).await?;
    answered(put)
}

/// The message, for a participant that may do this.
async fn wanted(
    app: &App,
    caller: &Device,
    conv: &str,
    msg_id: &str,
    sender: DeviceId,
    cap: u16,
) -> Result<Wanted, ApiError> {
    let conv = ConvId::parse(conv).map_err(|e| bad(&format!("conv_id: {e}")))?;
    let msg_id = MsgId::parse(msg_id).map_err(|e| bad(&format!("msg_id: {e}")))?;
    if !caller.native || !caller.may(cap) {
        let detail = "retries are for native devices that send and receive";
        return Err(ApiError::new(ErrorCode::Forbidden, detail));
    }
    app.participant(conv, caller).await?;
    Ok(Wanted { conv, sender, msg_id, now: app.clock.seconds() })
}

fn answered(done: Result<RetryCount, RetryRefusal>) -> Result<Json<RetryState>, ApiError> {
    let (code, detail) = match done {
        Ok(RetryCount { asked, answered }) => {
            let times = u8::try_from(asked).unwrap_or(u8::MAX);
            return Ok(Json(RetryState { asked: times, answered: answered == asked }));
        }
        Err(RetryRefusal::NoMessage) => (ErrorCode::NotFound, "no such message"),
        Err(RetryRefusal::NotAddressed) => {
            (ErrorCode::Forbidden, "the message was not for this device")
        }
        Err(RetryRefusal::TooOld) => (ErrorCode::Forbidden, "the message is older than a week"),
        Err(RetryRefusal::TooOften) => (ErrorCode::Forbidden, "the device was answered before"),
        Err(RetryRefusal::NotAsked) => (ErrorCode::Forbidden, "the device has not asked"),
    };
    Err(ApiError::new(code, detail))
}

fn device(text: &str) -> Result<DeviceId, ApiError> {
    DeviceId::parse(text).map_err(|e| bad(&format!("device_id: {e}")))
}

fn bad(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}
