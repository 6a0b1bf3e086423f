//! From a text frame to an item of the log, and back.

use nexo_schema::error::ErrorCode;
use nexo_schema::http::Item as ItemView;
use nexo_schema::ids::{ConvId, MsgId};
use nexo_schema::stream::{Control, Delete, PushKind};
use nexo_schema::ws::{Ask, Notice, Submit};
use serde::Serialize;

use crate::error::ApiError;
use crate::http::present::Proved;
use crate::http::submission::{Draft, deletion};
use crate::store::{Device, Item};
use crate::{App, LogReceipt};

/// A frame that was read: an item for the log, or why there is none.
pub(super) enum Frame {
    /// To be submitted.
    Item(Asked, Box<Item>),
    /// An envelope, refused; the socket goes on.
    Refused(Option<MsgId>, ApiError),
    /// Something about the socket itself.
    Control(Control),
    /// Nothing that may be said on this socket; it is closed with this reason.
    Unfit(&'static str),
}

/// What a sender is waiting for.
pub(super) struct Asked {
    /// What the item calls itself.
    pub(super) msg_id: MsgId,
    /// How its commit is told.
    pub(super) answer: Answer,
}

/// How a sender hears that its envelope was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The envelope comes back through its conversation's room, as the seed has it.
    Echo,
    /// An `ack`.
    Ack {
        /// With a receipt, whatever kind of device it is.
        receipt: bool,
        /// It is a deletion.
        deletes: bool,
    },
}

/// Reads a frame sent by `device` on the socket of `conv`, or on one without a conversation.
pub(super) fn read(app: &App, device: &Device, conv: Option<&ConvId>, text: &str) -> Frame {
    let Ok(frame) = serde_json::from_str::<Submit>(text) else {
        return control(app, device, conv, text);
    };
    let answer = match frame.ask {
        Some(Ask::Send) => Answer::Ack { receipt: frame.receipt, deletes: false },
        None if conv.is_none() => {
            return Frame::Unfit("without conv_id in the query, frames have \"type\":\"send\"");
        }
        None => Answer::Echo,
    };
    let named = frame.msg_id.clone();
    match item(app, device, conv, frame, text.len()) {
        Ok((msg_id, item)) => Frame::Item(Asked { msg_id, answer }, Box::new(item)),
        Err(error) => Frame::Refused(named, error),
    }
}

/// Reads a frame that is no envelope.
fn control(app: &App, device: &Device, conv: Option<&ConvId>, text: &str) -> Frame {
    match serde_json::from_str(text) {
        _ if conv.is_some() => Frame::Unfit("not an envelope"),
        Ok(Control::Delete(Delete { request, receipt })) => {
            let msg_id = request.target_msg_id.clone();
            let item = within_rate(app, device, text.len());
            match item.and_then(|()| deletion(&request, &app.origin, device)) {
                Ok(item) => {
                    let answer = Answer::Ack { receipt, deletes: true };
                    Frame::Item(Asked { msg_id, answer }, Box::new(Item::Deletion(item)))
                }
                Err(error) => Frame::Refused(Some(msg_id), error),
            }
        }
        Ok(control) => Frame::Control(control),
        Err(_) => Frame::Unfit("not an envelope"),
    }
}

/// Counts a write of so many bytes.
fn within_rate(app: &App, device: &Device, bytes: usize) -> Result<(), ApiError> {
    app.limits.write(device)?;
    Ok(app.limits.bytes(device, bytes)?)
}

fn item(
    app: &App,
    device: &Device,
    conv: Option<&ConvId>,
    frame: Submit,
    bytes: usize,
) -> Result<(MsgId, Item), ApiError> {
    if frame.ver != 1 {
        return Err(ApiError::new(ErrorCode::BadRequest, "ver: this relay speaks 1"));
    }
    // Whether the device may write there is decided where it is written; see `store/admit`.
    if conv.is_some_and(|conv| *conv != frame.conv_id) {
        return Err(ApiError::new(ErrorCode::Forbidden, "conv_id: not this socket's conversation"));
    }
    within_rate(app, device, bytes)?;
    let msg_id = match frame.msg_id {
        Some(msg_id) => msg_id,
        None => app.new_msg_id()?,
    };
    let draft = Draft {
        conv: frame.conv_id,
        msg_id: msg_id.clone(),
        cipher: &frame.cipher,
        ad: frame.ad.as_deref(),
        packets: frame.packets.as_ref(),
        dseq: frame.dseq,
    };
    Ok((msg_id, Item::Message(draft.into_message(&app.origin, device)?)))
}

/// [`Notice::Ack`], its receipt written straight from the head.
#[derive(Serialize)]
#[serde(tag = "type", rename = "ack")]
struct Ack<'a> {
    msg_id: &'a MsgId,
    sth_index: u64,
    ts: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<&'a Proved>,
}

/// The frame that says an envelope, or the deletion of one, is in the log.
pub(super) fn ack(
    msg_id: &MsgId,
    deleted: bool,
    placed: &LogReceipt,
    receipt: Option<&Proved>,
) -> Option<String> {
    let (sth_index, ts, duplicate) = (placed.index + 1, placed.placed.ts, placed.known);
    serde_json::to_string(&Ack { msg_id, sth_index, ts, duplicate, deleted, receipt }).ok()
}

/// An item on its way out: a [`Push`](nexo_schema::stream::Push) that borrows.
#[derive(Serialize)]
struct Pushed<'a> {
    #[serde(rename = "type")]
    kind: PushKind,
    item: &'a ItemView,
}

/// The frame of an item, for a socket that said hello.
///
/// # Errors
/// [`serde_json::Error`]; it is ours.
pub(super) fn push(item: &ItemView) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Pushed { kind: PushKind::of(item), item })
}

/// The frame that says an envelope was refused.
pub(super) fn nack(msg_id: Option<MsgId>, error: &ApiError) -> Option<String> {
    serde_json::to_string(&Notice::Nack { msg_id, problem: error.problem().clone() }).ok()
}

/// The frame that asks for more one-time prekeys.
pub(super) fn prekeys_low(left: u64) -> Option<String> {
    serde_json::to_string(&Notice::PrekeysLow { left }).ok()
}

/// The frame that rings.
pub(super) fn bell(size: u64) -> Option<String> {
    serde_json::to_string(&Notice::Head { size, head: None, consistency: None }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Head, RecentTiles};
    use crate::store::Placed;
    use nexo_schema::http::Receipt;
    use std::sync::Arc;

    #[test]
    fn an_ack_is_written_as_the_schema_has_it() {
        let (note, tiles) = (b"relay\n9\n".as_slice().into(), RecentTiles::default());
        let head = Arc::new(Head::new(9, [1; 32], note, 7, tiles));
        for (known, path) in [(false, None), (true, None), (false, Some(vec![[3; 32]; 4]))] {
            let placed =
                LogReceipt { index: 4, placed: Placed { ts: 12 }, known, head: head.clone() };
            let msg_id = MsgId::parse("m").unwrap();
            let proved = path.map(|path| Proved::new(&placed, path));
            let written = ack(&msg_id, known, &placed, proved.as_ref()).unwrap();
            let receipt = proved.map(Receipt::from);
            let (duplicate, deleted) = (known, known);
            let notice = Notice::Ack { msg_id, sth_index: 5, ts: 12, duplicate, deleted, receipt };
            assert_eq!(written, serde_json::to_string(&notice).unwrap());
        }
    }
}
