//! Opening conversations, and the key the seed's clients ask for.

use nexo_schema::bytes::to_base64;
use nexo_schema::entry;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{Conversation, ConversationRequest, MyX25519};
use nexo_schema::ids::{AccountId, ConvId, Handle, Origin};
use rocket::serde::json::Json;
use rocket::{State, get, post};
use sha2::{Digest as _, Sha256};

use super::body::Body;
use super::guard::{Asker, Caller};
use crate::App;
use crate::error::ApiError;
use crate::store::{
    Conn, Device, StoreError, active_devices, count_conversations, find_account, is_participant,
    open_conversation,
};

#[get("/devices/x25519_pub")]
#[expect(clippy::needless_pass_by_value, reason = "guards come by value")]
pub(super) fn my_x25519(caller: Caller) -> Json<MyX25519> {
    Json(MyX25519 { x25519_pub_b64: to_base64(&caller.0.x25519) })
}

#[post("/conversations", data = "<body>")]
pub(super) async fn open(
    body: Body<ConversationRequest>,
    asker: Asker,
    app: &State<App>,
) -> Result<Json<Conversation>, ApiError> {
    let me = asker.0;
    let peer = Handle::parse_lenient(&body.value.peer_handle)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, format!("peer_handle: {e}")))?;
    let now = app.clock.seconds();
    let (origin, most) = (app.origin.clone(), app.config.max_conversations);
    let opened =
        app.store.write(move |conn| open_with(conn, &origin, &me, &peer, (now, most))).await?;
    let opened = opened.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "peer not found"))?;
    Ok(Json(opened))
}

/// Opens or finds the conversation; `None` if there is no such peer.
fn open_with(
    conn: &mut Conn,
    origin: &Origin,
    me: &Device,
    peer: &Handle,
    (now, most): (u64, u64),
) -> Result<Option<Conversation>, ApiError> {
    let Some(peer) = find_account(conn, peer)? else { return Ok(None) };
    let conv_id = conversation_id(origin, &me.account, &peer.id);
    // Of who opens it: nobody else's allowance can be used up by others.
    if !is_participant(conn, &conv_id, &me.account)?
        && count_conversations(conn, &me.account)? >= most
    {
        let detail = format!("an account takes part in at most {most} conversations here");
        return Err(ApiError::new(ErrorCode::QuotaExceeded, detail));
    }
    open_conversation(conn, &conv_id, &me.account, &peer.id, now)?;
    Ok(Some(Conversation {
        conv_id,
        me_x25519: first_key(conn, &me.account, now)?,
        peer_x25519: first_key(conn, &peer.id, now)?,
        me_account: me.account,
        peer_account: peer.id,
        peer_native: peer.native,
    }))
}

fn conversation_id(origin: &Origin, one: &AccountId, other: &AccountId) -> ConvId {
    let text = entry::direct_conversation(origin.as_str(), &one.0, &other.0);
    ConvId(Sha256::digest(text).into())
}

/// X25519 key of the account's oldest active device, as the seed served it: the relay's word,
/// which native clients compare and never use. Empty if no device is active.
fn first_key(conn: &mut Conn, account: &AccountId, now: u64) -> Result<String, StoreError> {
    let devices = active_devices(conn, account, now)?;
    Ok(devices.first().map(|d| to_base64(&d.x25519)).unwrap_or_default())
}
