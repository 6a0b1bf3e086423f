//! From a text frame to an item of the log, and back.

use nexo_schema::error::ErrorCode;
use nexo_schema::ids::MsgId;
use nexo_schema::ws::{Notice, Submit};

use crate::App;
use crate::error::ApiError;
use crate::http::submission::Draft;
use crate::store::{Device, Item};
use nexo_schema::ids::ConvId;

/// A frame that was read: an item for the log, or why there is none.
pub(super) enum Frame {
    /// To be submitted.
    Item {
        /// What it calls itself.
        msg_id: MsgId,
        /// The item.
        item: Box<Item>,
    },
    /// An envelope, refused; the socket goes on.
    Refused(Option<MsgId>, ApiError),
    /// No envelope at all; the socket is closed.
    Garbage,
}

/// Reads a frame sent by `device` on the socket of `conv`.
pub(super) fn read(app: &App, device: &Device, conv: &ConvId, text: &str) -> Frame {
    let Ok(frame) = serde_json::from_str::<Submit>(text) else { return Frame::Garbage };
    let named = frame.msg_id.clone();
    match item(app, device, conv, frame) {
        Ok((msg_id, item)) => Frame::Item { msg_id, item: Box::new(item) },
        Err(error) => Frame::Refused(named, error),
    }
}

fn item(
    app: &App,
    device: &Device,
    conv: &ConvId,
    frame: Submit,
) -> Result<(MsgId, Item), ApiError> {
    if frame.ver != 1 {
        return Err(ApiError::new(ErrorCode::BadRequest, "ver: this relay speaks 1"));
    }
    if frame.conv_id != *conv {
        return Err(ApiError::new(ErrorCode::Forbidden, "conv_id: not this socket's conversation"));
    }
    app.limits.write(&device.id)?;
    let msg_id = match frame.msg_id {
        Some(msg_id) => msg_id,
        None => app.new_msg_id()?,
    };
    let draft = Draft {
        conv: *conv,
        msg_id: msg_id.clone(),
        cipher: &frame.cipher,
        ad: frame.ad.as_deref(),
        packets: frame.packets.as_ref(),
        dseq: frame.dseq,
    };
    Ok((msg_id, Item::Message(draft.into_message(&app.origin, device)?)))
}

/// The frame that says an envelope was refused.
pub(super) fn nack(msg_id: Option<MsgId>, error: &ApiError) -> Option<String> {
    serde_json::to_string(&Notice::Nack { msg_id, problem: error.problem().clone() }).ok()
}

/// The frame that rings.
pub(super) fn bell(size: u64) -> Option<String> {
    serde_json::to_string(&Notice::Head { size }).ok()
}
