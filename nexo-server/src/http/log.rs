//! The log, for everybody: C2SP checkpoint, tiles and entry bundles, and JSON views for people.
//!
//! Nothing here asks who reads, nothing changes, nothing answers 200 for what does not exist.

use std::path::PathBuf;

use nexo_schema::bytes::to_base64;
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{ConsistencyView, HeadView, InclusionView};
use rocket::http::{ContentType, Header};
use rocket::response::Responder;
use rocket::serde::json::Json;
use rocket::{State, get};

use super::headers::Public;
use super::present;
use super::query::number;
use crate::App;
use crate::error::ApiError;
use crate::log::{TILE_WIDTH, Tiles as _, width};
use crate::store::{Conn, StoreError, StoredHeadRow, StoredTiles, bundle, head_at, tile};

/// What never changes once served may be kept for good.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A signed note as text.
#[derive(Responder)]
pub(super) struct Note {
    body: Vec<u8>,
    kind: ContentType,
    caching: Header<'static>,
}

impl Note {
    fn new(body: Vec<u8>) -> Self {
        let kind = ContentType::new("text", "plain").with_params(("charset", "utf-8"));
        Self { body, kind, caching: Header::new("Cache-Control", "no-store") }
    }
}

/// A tile or bundle.
#[derive(Responder)]
#[response(content_type = "application/octet-stream")]
pub(super) struct Blob {
    body: Vec<u8>,
    caching: Header<'static>,
}

#[get("/checkpoint")]
pub(super) fn checkpoint(app: &State<App>) -> Public<Note> {
    Public(Note::new(app.log.head().note.to_vec()))
}

#[get("/log/keys")]
pub(super) fn keys(app: &State<App>) -> Public<Note> {
    Public(Note::new(app.log.key_list().to_vec()))
}

/// The key that everything else is checked with. Whoever takes it from here takes it on trust;
/// the operator publishes it elsewhere as well (`nexo-server vkey`).
#[get("/log/vkey")]
pub(super) fn vkey(app: &State<App>) -> Public<Note> {
    Public(Note::new(format!("{}\n", app.log.log_vkey()).into_bytes()))
}

#[get("/tile/entries/<path..>", rank = 1)]
pub(super) async fn entries(path: PathBuf, app: &State<App>) -> Result<Public<Blob>, ApiError> {
    let (index, hashes) = tile_path(&path)?;
    serve(app, 0, index, hashes, move |conn| bundle(conn, index), cut_bundle).await
}

#[get("/tile/<level>/<path..>", rank = 2)]
pub(super) async fn tiles(
    level: &str,
    path: PathBuf,
    app: &State<App>,
) -> Result<Public<Blob>, ApiError> {
    let level = decimal(level).and_then(|l| u8::try_from(l).ok()).filter(|&l| l < 64);
    let level = level.ok_or_else(|| bad("level: expected 0 to 63"))?;
    let (index, hashes) = tile_path(&path)?;
    serve(app, level, index, hashes, move |conn| tile(conn, level, index), cut_tile).await
}

#[get("/log/head")]
pub(super) fn head(app: &State<App>) -> Public<Json<HeadView>> {
    let head = app.log.head();
    Public(Json(HeadView {
        origin: app.origin.to_string(),
        size: head.size,
        root: to_base64(&head.root),
        time: head.time,
        note: String::from_utf8_lossy(&head.note).into_owned(),
    }))
}

#[get("/log/head/<size>")]
pub(super) async fn head_of_size(
    size: &str,
    app: &State<App>,
) -> Result<Public<Json<HeadView>>, ApiError> {
    let size = decimal(size).ok_or_else(|| bad("size: expected a whole number"))?;
    let found = app.store.read(move |conn| head_at(conn, size)).await?;
    let StoredHeadRow { size, root, note, time } = found
        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no head was signed at this size"))?;
    Ok(Public(Json(HeadView {
        origin: app.origin.to_string(),
        size,
        root: to_base64(&root),
        time,
        note: String::from_utf8_lossy(&note).into_owned(),
    })))
}

#[get("/log/inclusion?<index>&<size>")]
pub(super) async fn inclusion(
    index: Option<&str>,
    size: Option<&str>,
    app: &State<App>,
) -> Result<Public<Json<InclusionView>>, ApiError> {
    let index = number("index", index)?.ok_or_else(|| bad("index: required, from 0"))?;
    let size = published(app, number("size", size)?)?;
    if index >= size {
        return Err(bad("index: not in a tree of this size"));
    }
    let view = app
        .store
        .snapshot(move |conn| {
            let hashes = present::path(index + 1, size, &mut StoredTiles(conn))?;
            let leaf_hash = to_base64(&leaf(conn, index)?);
            Ok::<_, ApiError>(InclusionView { index, size, leaf_hash, hashes })
        })
        .await?;
    Ok(Public(Json(view)))
}

#[get("/log/consistency?<from>&<to>")]
pub(super) async fn consistency(
    from: Option<&str>,
    to: Option<&str>,
    app: &State<App>,
) -> Result<Public<Json<ConsistencyView>>, ApiError> {
    let from = number("from", from)?.filter(|&from| from > 0);
    let from = from.ok_or_else(|| bad("from: required, at least 1"))?;
    let to = published(app, number("to", to)?)?;
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
    Ok(Public(Json(view)))
}

/// The tree size asked for, the newest if none; larger ones do not exist.
fn published(app: &App, size: Option<u64>) -> Result<u64, ApiError> {
    let newest = app.log.head().size;
    match size.unwrap_or(newest) {
        size if size <= newest => Ok(size),
        _ => Err(ApiError::new(ErrorCode::NotFound, "the log is not that large")),
    }
}

fn leaf(conn: &mut Conn, index: u64) -> Result<[u8; 32], StoreError> {
    let (tile, within) = (index / TILE_WIDTH as u64, index % TILE_WIDTH as u64);
    let within = u16::try_from(within).unwrap_or(u16::MAX);
    let hashes = StoredTiles(conn).tile(0, tile, within + 1)?;
    hashes.last().copied().ok_or(StoreError::Corrupt { table: "tiles", what: "a tile is empty" })
}

/// Serves exactly the width asked for, if a head that was published implies it.
async fn serve(
    app: &App,
    level: u8,
    index: u64,
    asked: u16,
    find: impl FnOnce(&mut Conn) -> Result<Option<Vec<u8>>, StoreError> + Send + 'static,
    cut: fn(Vec<u8>, u16) -> Option<Vec<u8>>,
) -> Result<Public<Blob>, ApiError> {
    let absent = || ApiError::new(ErrorCode::NotFound, "no such tile");
    if asked == 0 || width(app.log.head().size, level, index) < asked {
        return Err(absent());
    }
    let stored = app.store.read(find).await?.ok_or_else(absent)?;
    let body = cut(stored, asked).ok_or_else(|| ApiError::internal("a tile is too short"))?;
    Ok(Public(Blob { body, caching: Header::new("Cache-Control", IMMUTABLE) }))
}

fn cut_tile(mut bytes: Vec<u8>, hashes: u16) -> Option<Vec<u8>> {
    let len = usize::from(hashes) * 32;
    (bytes.len() >= len).then(|| bytes.truncate(len))?;
    Some(bytes)
}

/// The first entries of a bundle, each behind its 16-bit length.
fn cut_bundle(mut bytes: Vec<u8>, entries: u16) -> Option<Vec<u8>> {
    let mut end = 0;
    for _ in 0..entries {
        let length = bytes.get(end..end + 2)?;
        end += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
    (bytes.len() >= end).then(|| bytes.truncate(end))?;
    Some(bytes)
}

/// `x001/x234/067` or `x001/x234/067.p/8`: the tile's index and its width.
fn tile_path(path: &std::path::Path) -> Result<(u64, u16), ApiError> {
    read_tile_path(path).ok_or_else(|| ApiError::new(ErrorCode::NotFound, "not a tile path"))
}

fn read_tile_path(path: &std::path::Path) -> Option<(u64, u16)> {
    let mut parts: Vec<&str> = path.iter().map(|p| p.to_str()).collect::<Option<_>>()?;
    let mut hashes = TILE_WIDTH as u64;
    if let Some(last) = parts.len().checked_sub(2).filter(|&i| parts[i].ends_with(".p")) {
        hashes = decimal(parts.pop()?).filter(|w| (1..TILE_WIDTH as u64).contains(w))?;
        parts[last] = parts[last].strip_suffix(".p")?;
    }
    let (last, groups) = parts.split_last()?;
    let mut index: u64 = 0;
    for group in groups {
        index = index * 1000 + three_digits(group.strip_prefix('x')?)?;
        // One spelling: no leading x000, and nothing beyond what a tree can have.
        if index == 0 || index > u64::MAX / 1_000_000 {
            return None;
        }
    }
    Some((index * 1000 + three_digits(last)?, u16::try_from(hashes).ok()?))
}

fn three_digits(text: &str) -> Option<u64> {
    (text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A decimal number without sign or leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let plain = text == "0" || !text.starts_with('0');
    (digits && plain).then(|| text.parse().ok())?
}

fn bad(detail: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn tile_paths_have_one_spelling() {
        let read = |path: &str| read_tile_path(Path::new(path));
        assert_eq!(read("000"), Some((0, 256)));
        assert_eq!(read("x001/x234/067"), Some((1_234_067, 256)));
        assert_eq!(read("x001/000.p/8"), Some((1000, 8)));
        for bad in [
            "",
            "0",
            "00",
            "0000",
            "x000/001",
            "001/002",
            "x001",
            "x001/x002",
            "000.p",
            "000.p/0",
            "000.p/256",
            "000.p/08",
            "000.p/+8",
            "000.p/8/9",
            "00a",
            "x001/001.p/1/1",
            "x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn bundles_are_cut_between_entries() {
        let bundle = [&[0, 1, b'a'][..], &[0, 2, b'b', b'c'], &[0, 0]].concat();
        assert_eq!(cut_bundle(bundle.clone(), 2).unwrap(), bundle[..7]);
        assert_eq!(cut_bundle(bundle.clone(), 3).unwrap(), bundle);
        assert_eq!(cut_bundle(bundle.clone(), 4), None);
        assert_eq!(cut_bundle(bundle[..6].to_vec(), 2), None);
    }
}
