//! The log's heads and proofs, for everybody: signed notes for programs, JSON views for people.
//!
//! Nothing here asks who reads, nothing changes, nothing answers 200 for what does not exist, and
//! nothing of a head is told before it is published. Every proof is made of stored tiles, in
//! O(log n) reads (`log/proof.rs`). Tiles and bundles are in `tiles.rs`, files with a proof in
//! `proof.rs`.

use nexo_schema::bytes::to_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{ConsistencyView, HeadView, InclusionView};
use rocket::{State, get};

use super::caching::{Keep, Resource};
use super::headers::Public;
use super::present;
use super::query::{decimal, number};
use crate::App;
use crate::error::ApiError;
use crate::log::{Hash, TILE_WIDTH, Tiles};
use crate::store::{StoreError, StoredHeadRow, StoredTiles, head_at, head_covering};

type Answer = Result<Public<Resource>, ApiError>;

/// The newest head as a signed note (C2SP tlog-tiles, "Checkpoints"). It changes at least once
/// a minute, so whoever keeps it asks each time whether it is still the newest.
#[get("/checkpoint")]
pub(super) async fn checkpoint(app: &State<App>) -> Public<Resource> {
    Public(Resource::text(app.newest_head().await.note.to_vec(), Keep::Ask))
}

#[get("/log/keys")]
pub(super) fn keys(app: &State<App>) -> Public<Resource> {
    Public(Resource::text(app.log.key_list(), Keep::Ask))
}

/// The key that everything else is checked with. Whoever takes it from here takes it on trust;
/// the operator publishes it elsewhere as well (`nexo-server vkey`).
#[get("/log/vkey")]
pub(super) fn vkey(app: &State<App>) -> Public<Resource> {
    Public(Resource::text(format!("{}\n", app.log.log_vkey()), Keep::Ask))
}

#[get("/log/head?<covering>")]
pub(super) async fn head(covering: Option<&str>, app: &State<App>) -> Answer {
    let newest = app.newest_head().await;
    let Some(index) = number("covering", covering)? else {
        return shown(app, newest.size, &newest.root, newest.time, &newest.note);
    };
    let index = Some(index).filter(|&index| index > 0);
    let index = index.ok_or_else(|| bad("covering: a position, from 1"))?;
    let found = app.store.read(move |conn| head_covering(conn, index)).await?;
    stored(app, found, newest.size, "no head covers this position")
}

/// A head of the past, as it was first signed; cosigned ones are still added to.
#[get("/log/head/<size>")]
pub(super) async fn head_of_size(size: &str, app: &State<App>) -> Answer {
    let size = decimal(size).ok_or_else(|| bad("size: expected a whole number"))?;
    let newest = app.newest_head().await.size;
    let found = app.store.read(move |conn| head_at(conn, size)).await?;
    stored(app, found, newest, "no head was signed at this size")
}

/// A stored head, unless it is ahead of what has been told.
fn stored(app: &App, found: Option<StoredHeadRow>, newest: u64, absent: &'static str) -> Answer {
    let StoredHeadRow { size, root, note, time } = found
        .filter(|head| head.size <= newest)
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, absent))?;
    shown(app, size, &root, time, &note)
}

fn shown(app: &App, size: u64, root: &Hash, time: u64, note: &[u8]) -> Answer {
    let view = HeadView {
        origin: app.origin.to_string(),
        size,
        root: to_base64(root),
        time,
        note: String::from_utf8_lossy(note).into_owned(),
    };
    Ok(Public(Resource::json(&view, Keep::Ask)?))
}

#[get("/log/inclusion?<index>&<size>")]
pub(super) async fn inclusion(index: Option<&str>, size: Option<&str>, app: &State<App>) -> Answer {
    let index = number("index", index)?.ok_or_else(|| bad("index: required, from 0"))?;
    let size = TreeSize::read(app, "size", size).await?;
    let view = app.store.snapshot(move |conn| included(index, size.0, &mut StoredTiles(conn)));
    Ok(Public(Resource::json(&view.await?, size.keep())?))
}

/// The proof that leaf `index` is in the tree of `size` leaves, and its hash.
///
/// # Errors
/// [`ErrorCode::BadRequest`] if that tree has no such leaf.
pub(super) fn included<T: Tiles<Error = StoreError>>(
    index: u64,
    size: u64,
    tiles: &mut T,
) -> Result<InclusionView, ApiError> {
    if index >= size {
        return Err(bad("index: not in a tree of this size"));
    }
    let hashes = present::path(index + 1, size, tiles)?;
    let within = u16::try_from(index % TILE_WIDTH as u64).map_err(ApiError::internal)?;
    let tile = tiles.tile(0, index / TILE_WIDTH as u64, within + 1)?;
    let leaf = tile.last().ok_or_else(|| ApiError::internal("a tile is empty"))?;
    Ok(InclusionView { index, size, leaf_hash: to_base64(leaf), hashes })
}

#[get("/log/consistency?<from>&<to>")]
pub(super) async fn consistency(from: Option<&str>, to: Option<&str>, app: &State<App>) -> Answer {
    let from = number("from", from)?.filter(|&from| from > 0);
    let from = from.ok_or_else(|| bad("from: required, at least 1"))?;
    let size = TreeSize::read(app, "to", to).await?;
    let to = size.0;
    if from > to {
        return Err(bad("from: larger than to"));
    }
    let view = app
        .store
        .snapshot(move |conn| {
            let hashes = present::between(from, to, &mut StoredTiles(conn))?;
            Ok::<_, ApiError>(ConsistencyView { from, to, hashes })
        })
        .await?;
    Ok(Public(Resource::json(&view, size.keep())?))
}

/// The size of a published tree, and whether the reader named it.
#[derive(Clone, Copy)]
pub(super) struct TreeSize(pub(super) u64, bool);

impl TreeSize {
    /// The tree size asked for, the newest if none; larger ones do not exist.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`], [`ErrorCode::NotFound`].
    pub(super) async fn read(app: &App, name: &str, asked: Option<&str>) -> Result<Self, ApiError> {
        let newest = app.newest_head().await.size;
        match number(name, asked)? {
            None => Ok(Self(newest, false)),
            Some(size) if size <= newest => Ok(Self(size, true)),
            Some(_) => Err(ApiError::new(ErrorCode::NotFound, "the log is not that large")),
        }
    }

    /// Between fixed sizes a proof never changes.
    fn keep(self) -> Keep {
        if self.1 { Keep::Forever } else { Keep::Ask }
    }
}

fn bad(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}
