//! Tiles of the tree and bundles of entries (C2SP tlog-tiles, "Merkle Tree" and "Log entries").
//!
//! ```text
//! /tile/<L>/<N>[.p/<W>]        W hashes of 32 bytes
//! /tile/entries/<N>[.p/<W>]    W entries, each behind its length in 16 bits
//! N = 1234067 is x001/x234/067      W from 1 to 255; without it the tile is full, 256
//! ```
//!
//! Served is exactly what some published head implies: nothing in front of its commit, nothing
//! wider, and never 200 for what does not exist. A partial tile that has become full is cut from
//! the full one, so that what was once served stays, as bytes, for good. Hashes do not compress;
//! bundles do, for readers who take that.

use std::path::{Path, PathBuf};

use nexo_schema::error::ErrorCode;
use rocket::{State, get};

use super::caching::{Accepts, Keep, Resource};
use super::headers::Public;
use super::query::decimal;
use crate::App;
use crate::error::ApiError;
use crate::log::{TILE_WIDTH, width};
use crate::store::{bundle, tile};

#[get("/tile/entries/<path..>", rank = 1)]
pub(super) async fn entries(
    path: PathBuf,
    reader: Accepts,
    app: &State<App>,
) -> Result<Public<Resource>, ApiError> {
    let (index, asked) = published(app, 0, &path).await?;
    let served = app
        .store
        .read(move |conn| {
            let stored = bundle(conn, index)?.ok_or_else(absent)?;
            let body = cut_bundle(stored, asked).ok_or_else(too_short)?;
            Ok::<_, ApiError>(Resource::bytes(body, Keep::Forever).coded_for(reader))
        })
        .await?;
    Ok(Public(served))
}

#[get("/tile/<level>/<path..>", rank = 2)]
pub(super) async fn tiles(
    level: &str,
    path: PathBuf,
    app: &State<App>,
) -> Result<Public<Resource>, ApiError> {
    let level = decimal(level).and_then(|l| u8::try_from(l).ok()).filter(|&l| l < 64);
    let level =
        level.ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "level: expected 0 to 63"))?;
    let (index, asked) = published(app, level, &path).await?;
    let served = app
        .store
        .read(move |conn| {
            let stored = tile(conn, level, index)?.ok_or_else(absent)?;
            let body = cut_tile(stored, asked).ok_or_else(too_short)?;
            Ok::<_, ApiError>(Resource::bytes(body, Keep::Forever))
        })
        .await?;
    Ok(Public(served))
}

/// The index and width that a path names, if a head that was published implies them.
async fn published(app: &App, level: u8, path: &Path) -> Result<(u64, u16), ApiError> {
    let (index, asked) =
        read_path(path).ok_or_else(|| ApiError::new(ErrorCode::NotFound, "not a tile path"))?;
    // Only what is not known here can be another server's.
    if width(app.log.head().size, level, index) < asked
        && width(app.newest_head().await.size, level, index) < asked
    {
        return Err(absent());
    }
    Ok((index, asked))
}

fn absent() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "no such tile")
}

fn too_short() -> ApiError {
    ApiError::internal("a tile is too short")
}

fn cut_tile(mut bytes: Vec<u8>, hashes: u16) -> Option<Vec<u8>> {
    let len = usize::from(hashes) * 32;
    (bytes.len() >= len).then(|| bytes.truncate(len))?;
    Some(bytes)
}

/// The first entries of a bundle, each behind its 16-bit length.
fn cut_bundle(mut bytes: Vec<u8>, entries: u16) -> Option<Vec<u8>> {
    let end = (0..entries).try_fold(0, |start, _| Some(entry_at(&bytes, start)?.1))?;
    bytes.truncate(end);
    Some(bytes)
}

/// The entry `number` (from 0) of a bundle.
pub(super) fn entry_of(bundle: &[u8], number: u16) -> Option<&[u8]> {
    let start = (0..number).try_fold(0, |start, _| Some(entry_at(bundle, start)?.1))?;
    entry_at(bundle, start).map(|(entry, _)| entry)
}

/// The entry behind the length at `start`, and where the next length stands.
fn entry_at(bundle: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let length = bundle.get(start..start + 2)?;
    let end = start + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    Some((bundle.get(start + 2..end)?, end))
}

/// `x001/x234/067` or `x001/x234/067.p/8`: the tile's index and its width, 1 to 256.
fn read_path(path: &Path) -> Option<(u64, u16)> {
    let mut parts: Vec<&str> = path.iter().map(|p| p.to_str()).collect::<Option<_>>()?;
    let mut hashes = TILE_WIDTH as u64;
    if let Some(last) = parts.len().checked_sub(2).filter(|&i| parts[i].ends_with(".p")) {
        hashes = decimal(parts.pop()?).filter(|w| (1..TILE_WIDTH as u64).contains(w))?;
        parts[last] = parts[last].strip_suffix(".p")?;
    }
    let (last, groups) = parts.split_last()?;
    let mut index: u64 = 0;
    for group in groups {
        index = appended(index, group.strip_prefix('x')?)?;
        // One spelling: no leading x000.
        (index > 0).then_some(())?;
    }
    Some((appended(index, last)?, u16::try_from(hashes).ok()?))
}

/// The index with a further group of three digits.
fn appended(index: u64, group: &str) -> Option<u64> {
    index.checked_mul(1000)?.checked_add(three_digits(group)?)
}

fn three_digits(text: &str) -> Option<u64> {
    (text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &str) -> Option<(u64, u16)> {
        read_path(Path::new(path))
    }

    #[test]
    fn tile_paths_have_one_spelling() {
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
        let entries: Vec<_> = (0..4).map(|n| entry_of(&bundle, n)).collect();
        assert_eq!(entries, [Some(&b"a"[..]), Some(b"bc"), Some(b""), None]);
    }

    proptest! {
        #[test]
        fn every_index_is_read_from_its_path(index in 0..1u64 << 55, width in 1u16..=256) {
            let mut path = format!("{:03}", index % 1000);
            let mut rest = index / 1000;
            while rest > 0 {
                path = format!("x{:03}/{path}", rest % 1000);
                rest /= 1000;
            }
            if width < 256 {
                path += &format!(".p/{width}");
            }
            prop_assert_eq!(read(&path), Some((index, width)));
        }

        #[test]
        fn no_path_and_no_bundle_panics(path in ".{0,60}", bundle: Vec<u8>, number in 0u16..300) {
            let _ = read(&path);
            let _ = entry_of(&bundle, number);
            let _ = cut_bundle(bundle, number);
        }
    }
}
