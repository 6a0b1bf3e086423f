//! Offline proofs: one file that shows, under the log's key alone, that something is in the log.
//!
//! The format is C2SP tlog-proof, section "Format":
//!
//! ```text
//! c2sp.org/tlog-proof@v1 LF
//! extra <base64> LF              here: the entry, as in its bundle
//! index <decimal> LF             from 0
//! <base64 of a hash> LF  * n     audit path (RFC 6962 2.1.1), the leaf's sibling first
//! LF
//! <the checkpoint, verbatim>
//! ```
//!
//! `extra` is not authenticated: it saves the look into the bundle, and a verifier still makes
//! the entry from the message or key event itself (PROTOCOL.md 6) and compares. By index a proof
//! is for everybody, as the log is. By msg_id it is for the conversation's participants, by
//! handle for whoever is logged in: those two tell where something is.

use nexo_schema::bytes::to_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::ids::{ConvId, DeviceId, Handle, MsgId};
use rocket::{State, get};

use super::caching::{Keep, Resource};
use super::guard::{Asker, Caller};
use super::headers::Public;
use super::log::{TreeSize, included};
use super::present;
use super::query::number;
use super::tiles::entry_of;
use crate::App;
use crate::error::ApiError;
use crate::log::TILE_WIDTH;
use crate::store::{Conn, StoreError, StoredTiles, bundle, events, find_account, message_places};

/// First line of every proof.
const VERSION: &str = "c2sp.org/tlog-proof@v1";

#[get("/log/proof?<index>")]
pub(super) async fn of_index(
    index: Option<&str>,
    app: &State<App>,
) -> Result<Public<Resource>, ApiError> {
    let index = number("index", index)?.ok_or_else(|| bad("index: required, from 0"))?;
    let file = file(app, index).await?;
    Ok(Public(Resource::text(file, Keep::Ask).named(format!("{index}.tlog-proof"))))
}

#[get("/messages/<conv_id>/<msg_id>/proof?<device_id>")]
pub(super) async fn of_message(
    conv_id: &str,
    msg_id: &str,
    device_id: Option<&str>,
    caller: Caller,
    app: &State<App>,
) -> Result<Resource, ApiError> {
    let index = Named::read(conv_id, msg_id, device_id)?.index(app, caller).await?;
    let file = file(app, index).await?;
    Ok(Resource::text(file, Keep::Never).named(format!("{index}.tlog-proof")))
}

/// As `/log/inclusion`, for those who know the message and not its place.
#[get("/messages/<conv_id>/<msg_id>/inclusion?<device_id>&<size>")]
pub(super) async fn message_inclusion(
    conv_id: &str,
    msg_id: &str,
    device_id: Option<&str>,
    size: Option<&str>,
    caller: Caller,
    app: &State<App>,
) -> Result<Resource, ApiError> {
    let size = TreeSize::read(app, "size", size).await?.0;
    let index = Named::read(conv_id, msg_id, device_id)?.index(app, caller).await?;
    let view = app.store.snapshot(move |conn| included(index, size, &mut StoredTiles(conn)));
    Resource::json(&view.await?, Keep::Never)
}

/// The newest event of an account, or the one of a number (0 for genesis).
#[get("/accounts/<handle>/proof?<seq>")]
pub(super) async fn of_account(
    handle: &str,
    seq: Option<&str>,
    _asker: Asker,
    app: &State<App>,
) -> Result<Resource, ApiError> {
    let handle = Handle::parse_lenient(handle).map_err(|e| bad(format!("handle: {e}")))?;
    let seq = number("seq", seq)?;
    let place = app.store.snapshot(move |conn| event_place(conn, &handle, seq)).await?;
    let place = place.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such key event"))?;
    let file = file(app, leaf_of(place)?).await?;
    Ok(Resource::text(file, Keep::Never).named(format!("{}.tlog-proof", place - 1)))
}

/// A message as its conversation names it.
struct Named {
    conv: ConvId,
    msg_id: MsgId,
    device: Option<DeviceId>,
}

impl Named {
    fn read(conv: &str, msg_id: &str, device: Option<&str>) -> Result<Self, ApiError> {
        let device = device.map(DeviceId::parse).transpose();
        Ok(Self {
            conv: ConvId::parse(conv).map_err(|e| bad(format!("conv_id: {e}")))?,
            msg_id: MsgId::parse(msg_id).map_err(|e| bad(format!("msg_id: {e}")))?,
            device: device.map_err(|e| bad(format!("device_id: {e}")))?,
        })
    }

    /// Its leaf, for participants. Ids are unique per sending device only: without one the
    /// caller's own message is meant, else the only one there is.
    async fn index(self, app: &App, caller: Caller) -> Result<u64, ApiError> {
        let Self { conv, msg_id, device } = self;
        app.participant(conv, &caller.0).await?;
        let places = app.store.read(move |conn| message_places(conn, &conv, &msg_id)).await?;
        let by = |device: &DeviceId| places.iter().find(|(sender, _)| sender == device);
        let found = match (&device, places.as_slice()) {
            (Some(device), _) => by(device),
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) => Some(by(&caller.0.id).ok_or_else(|| {
                bad("device_id: several devices sent a message of this id; say which")
            })?),
        };
        let (_, place) =
            found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such message"))?;
        leaf_of(*place)
    }
}

/// The position in the log of an account's event; plain accounts have one, which made them.
fn event_place(
    conn: &mut Conn,
    handle: &Handle,
    seq: Option<u64>,
) -> Result<Option<u64>, StoreError> {
    let Some(account) = find_account(conn, handle)? else { return Ok(None) };
    if !account.native {
        return Ok(Some(account.created_index).filter(|_| seq.unwrap_or(0) == 0));
    }
    let events = events(conn, &account.id)?;
    let event = match seq {
        Some(seq) => usize::try_from(seq).ok().and_then(|seq| events.get(seq)),
        None => events.last(),
    };
    Ok(event.map(|(place, _)| *place))
}

/// The leaf index of a 1-based position.
fn leaf_of(place: u64) -> Result<u64, ApiError> {
    place.checked_sub(1).ok_or_else(|| ApiError::internal("a stored position is 0"))
}

/// The proof of a leaf under the newest published head.
async fn file(app: &App, index: u64) -> Result<String, ApiError> {
    let head = app.newest_head().await;
    let size = head.size;
    if index >= size {
        return Err(ApiError::new(ErrorCode::NotFound, "the log is not that large"));
    }
    let within = u16::try_from(index % TILE_WIDTH as u64).map_err(ApiError::internal)?;
    let (path, entry) = app
        .store
        .snapshot(move |conn| {
            let path = present::path(index + 1, size, &mut StoredTiles(conn))?;
            let bundle = bundle(conn, index / TILE_WIDTH as u64)?;
            let entry = bundle.as_deref().and_then(|bundle| entry_of(bundle, within));
            let entry = entry.ok_or_else(|| ApiError::internal("a bundle is too short"))?;
            Ok::<_, ApiError>((path, to_base64(entry)))
        })
        .await?;
    Ok(written(&entry, index, &path, &String::from_utf8_lossy(&head.note)))
}

/// The file; `entry` and `path` are in base64 already.
fn written(entry: &str, index: u64, path: &[String], note: &str) -> String {
    let mut text = format!("{VERSION}\nextra {entry}\nindex {index}\n");
    for hash in path {
        text.push_str(hash);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(note);
    text
}

fn bad(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_those_of_the_specification() {
        let path = ["cGF0aA==".to_owned(), "cGF0aB==".to_owned()];
        let note = "a.example\n3\ncm9vdA==\n\n\u{2014} a.example c2ln\n";
        assert_eq!(
            written("ZW50cnk=", 2, &path, note),
            "c2sp.org/tlog-proof@v1\nextra ZW50cnk=\nindex 2\ncGF0aA==\ncGF0aB==\n\n\
             a.example\n3\ncm9vdA==\n\n\u{2014} a.example c2ln\n"
        );
        // A tree of one leaf: the empty line comes at once.
        let alone = written("ZW50cnk=", 0, &[], note);
        assert!(
            alone.starts_with("c2sp.org/tlog-proof@v1\nextra ZW50cnk=\nindex 0\n\na.example\n")
        );
    }
}
