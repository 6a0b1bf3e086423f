//! Sending, listing and deleting messages.

use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{
    DeleteRequest, DeleteResponse, Item as ItemView, NativeItem, Page, SendRequest, SendResponse,
};
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::limits::{DEFAULT_PAGE, MAX_PAGE};
use nexo_schema::sigchain::caps;
use nexo_schema::ws::Cipher;
use rocket::request::{FromRequest, Outcome};
use rocket::serde::json::Json;
use rocket::{FromForm, Request, State, get, post};

use super::body::Body;
use super::guard::{Caller, Writer};
use super::page::{page_of, prove};
use super::present;
use super::query::{number, wanted};
use super::submission::{Draft, deletion};
use crate::App;
use crate::error::{ApiError, refuse};
use crate::store::{
    Conn, Device, Feed, Item, NativeMessage, Rows, StoreError, StoredItem, feed, message_by_id,
    page_after, page_since,
};

/// `Idempotency-Key`: the `msg_id` of a client that has no place for one in its body. The
/// draft standard quotes it; both spellings mean the same key.
pub(super) struct IdempotencyKey(Option<MsgId>);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for IdempotencyKey {
    type Error = ();

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
        let Some(text) = request.headers().get_one("Idempotency-Key") else {
            return Outcome::Success(Self(None));
        };
        let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        match MsgId::parse(bare) {
            Ok(key) => Outcome::Success(Self(Some(key))),
            Err(error) => {
                let detail = format!("Idempotency-Key: {error}");
                refuse(request, ApiError::new(ErrorCode::BadRequest, detail))
            }
        }
    }
}

#[post("/messages?<receipt>", data = "<body>")]
pub(super) async fn send(
    body: Body<SendRequest>,
    receipt: Option<&str>,
    key: IdempotencyKey,
    writer: Writer,
    app: &State<App>,
) -> Result<Json<SendResponse>, ApiError> {
    let device = writer.0;
    let request = body.value;
    let packets = request.packets.iter().flatten().map(|(_, packet)| packet.len());
    let bytes = request.cipher.len() + request.ad.get().len() + packets.sum::<usize>();
    app.limits.bytes(&device, bytes)?;
    let msg_id = match request.msg_id.or(key.0) {
        Some(msg_id) => msg_id,
        None => app.new_msg_id()?,
    };
    let cipher = Cipher::Text(request.cipher);
    let draft = Draft {
        conv: request.conv_id,
        msg_id: msg_id.clone(),
        cipher: &cipher,
        ad: Some(&request.ad),
        packets: request.packets.as_ref(),
        dseq: request.dseq,
    };
    let message = draft.into_message(&app.origin, &device)?;
    let native = message.native.as_ref().map(|native| sent_packets(&device, native));
    // Whether the device may write there is decided where it is written; see `store/admit`.
    let placed = app.submit(Item::Message(message)).await?;
    let receipt = present::receipt_for(app, &device, wanted(receipt), &placed).await?;
    if placed.known {
        // Stored earlier, perhaps in another shape, perhaps deleted since: as it stands now.
        let message = stored(app, request.conv_id, msg_id, device.id).await?;
        return Ok(Json(SendResponse { ok: true, message, duplicate: true, receipt }));
    }
    let message = ItemView {
        msg_id,
        conv_id: request.conv_id,
        sender_device: device.id,
        cipher: cipher.into_text(),
        ad: request.ad,
        ts: placed.placed.ts,
        sth_index: placed.index + 1,
        native,
        tombstone: None,
        inclusion: None,
    };
    Ok(Json(SendResponse { ok: true, message, duplicate: false, receipt }))
}

/// What the sender is shown of its own packets.
fn sent_packets(device: &Device, native: &NativeMessage) -> NativeItem {
    let own = native.packets.iter().find(|packet| packet.device == device.id);
    NativeItem {
        sender_account: device.account,
        packet: own.map(|packet| to_base64(&packet.bytes)),
        packet_hashes: native.packets.iter().map(|p| (p.device.clone(), to_hex(&p.hash))).collect(),
        resent: false,
    }
}

async fn stored(
    app: &App,
    conv: ConvId,
    msg_id: MsgId,
    reader: DeviceId,
) -> Result<ItemView, ApiError> {
    let row = app.store.read(move |conn| message_by_id(conn, &conv, &msg_id, &reader)).await?;
    let row = row.ok_or_else(|| ApiError::internal("a placed message has no row"))?;
    Ok(present::item(row)?)
}

#[post("/messages/delete?<receipt>", data = "<body>")]
pub(super) async fn delete(
    body: Body<DeleteRequest>,
    receipt: Option<&str>,
    writer: Writer,
    app: &State<App>,
) -> Result<Json<DeleteResponse>, ApiError> {
    let device = writer.0;
    let item = deletion(&body.value, &app.origin, &device)?;
    let placed = app.submit(Item::Deletion(item)).await?;
    let receipt = present::receipt_for(app, &device, wanted(receipt), &placed).await?;
    let sth_index = placed.index + 1;
    Ok(Json(DeleteResponse { ok: true, sth_index, duplicate: placed.known, receipt }))
}

/// The query of both lists.
#[derive(FromForm)]
pub(super) struct Range<'r> {
    /// Unix seconds, exclusive; the seed's.
    since: Option<&'r str>,
    /// Position, exclusive; what loses nothing.
    after: Option<&'r str>,
    limit: Option<&'r str>,
    proofs: Option<&'r str>,
    tree_size: Option<&'r str>,
}

#[get("/messages/<conv_id>?<range..>")]
pub(super) async fn list(
    conv_id: &str,
    range: Range<'_>,
    caller: Caller,
    app: &State<App>,
) -> Result<Json<Page>, ApiError> {
    let device = caller.0;
    let conv = ConvId::parse(conv_id)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("conv_id: {e}")))?;
    let wish = Wish::read(&range)?;
    reads(&device)?;
    app.participant(conv, &device).await?;
    let page =
        app.store.snapshot(move |conn| wish.page(conn, &Feed::Conversation(conv), &device)).await?;
    Ok(Json(page))
}

#[get("/messages?<range..>")]
pub(super) async fn everything(
    range: Range<'_>,
    caller: Caller,
    app: &State<App>,
) -> Result<Json<Page>, ApiError> {
    let device = caller.0;
    let wish = Wish::read(&range)?;
    reads(&device)?;
    if !device.conversations.is_empty() {
        let detail = "this device is limited to conversations; list them one by one";
        return Err(ApiError::new(ErrorCode::Forbidden, detail));
    }
    if wish.since.is_some() {
        let detail = "since: lists of all conversations go by `after`";
        return Err(ApiError::new(ErrorCode::BadRequest, detail));
    }
    let page = app
        .store
        .snapshot(move |conn| wish.page(conn, &Feed::Account(device.account), &device))
        .await?;
    Ok(Json(page))
}

/// Lists are for devices that may be written to.
fn reads(device: &Device) -> Result<(), ApiError> {
    match device.may(caps::RECV) {
        true => Ok(()),
        false => Err(ApiError::new(ErrorCode::Forbidden, "this device sends and does not read")),
    }
}

/// A list query, read.
struct Wish {
    since: Option<u64>,
    after: Option<u64>,
    limit: u32,
    proofs: bool,
    tree_size: Option<u64>,
}

impl Wish {
    fn read(range: &Range<'_>) -> Result<Self, ApiError> {
        let limit = number("limit", range.limit)?.unwrap_or(u64::from(DEFAULT_PAGE));
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).clamp(1, MAX_PAGE);
        Ok(Self {
            since: number("since", range.since)?,
            after: number("after", range.after)?,
            limit,
            proofs: wanted(range.proofs),
            tree_size: number("tree_size", range.tree_size)?,
        })
    }

    /// By `after`: messages and deletions. Otherwise, as the seed: messages, those behind
    /// `since`, the page ending on a whole second where one fits.
    fn page(&self, conn: &mut Conn, of: &Feed, device: &Device) -> Result<Page, ApiError> {
        let rows = match (of, self.after) {
            (Feed::Conversation(conv), None) => self.seed_rows(conn, conv, &device.id)?,
            _ => feed(conn, of, &device.id, self.after.unwrap_or(0), self.limit)?,
        };
        let mut page = page_of(rows, self.after.unwrap_or(0))?;
        if self.proofs {
            prove(conn, &mut page, self.tree_size)?;
        }
        Ok(page)
    }

    fn seed_rows(
        &self,
        conn: &mut Conn,
        conv: &ConvId,
        reader: &DeviceId,
    ) -> Result<Rows, StoreError> {
        let after = match self.since {
            Some(since) => page_since(conn, since)?,
            None => 0,
        };
        let mut rows = page_after(conn, conv, reader, after, self.limit)?;
        if rows.more {
            whole_seconds(&mut rows.items);
        }
        Ok(rows)
    }
}

/// Drops the last, perhaps incomplete second, so that `since=<last ts>` misses nothing. A
/// second that fills the whole page stays; then only `after` goes on without loss.
fn whole_seconds(rows: &mut Vec<StoredItem>) {
    let Some(last) = rows.last().map(|row| row.ts) else { return };
    let whole = rows.partition_point(|row| row.ts < last);
    if whole > 0 {
        rows.truncate(whole);
    }
}

impl App {
    /// A message id for a client that gave none.
    pub(crate) fn new_msg_id(&self) -> Result<MsgId, ApiError> {
        Ok(MsgId::native(&MsgId::timed(self.clock.milliseconds(), self.random()?)))
    }
}
