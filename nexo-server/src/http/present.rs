//! From stored rows to what clients are shown, and the proofs that go with it.

use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{Item, NativeItem, Receipt, Tombstone};
use nexo_schema::ws::{Cipher, Envelope};
use serde_json::value::RawValue;

use crate::App;
use crate::LogReceipt;
use crate::error::ApiError;
use crate::log::{Hash, ProofError, RecentTiles, Tiles, consistency, inclusion};
use crate::store::{PacketsOf, StoreError, StoredItem, StoredTiles};

/// What a deleted message and a deletion show instead of the sender's `ad`.
const DELETED: &str = r#"{"type":"delete"}"#;

/// An item of a list.
///
/// # Errors
/// [`StoreError::Corrupt`] if the stored `ad` is no JSON.
pub fn item(row: StoredItem) -> Result<Item, StoreError> {
    let ad = ad(&row)?;
    let native = row.packets.map(|PacketsOf { own, hashes }| NativeItem {
        sender_account: row.account,
        packet: own.map(|bytes| to_base64(&bytes)),
        packet_hashes: hashes.into_iter().map(|(id, hash)| (id, to_hex(&hash))).collect(),
    });
    let tombstone = row.deletion.map(|deletion| Tombstone {
        target_sth_index: deletion.target_index,
        statement: deletion.signed.as_ref().map(|(statement, _)| to_base64(statement)),
        sig: deletion.signed.as_ref().map(|(_, sig)| to_base64(sig)),
    });
    Ok(Item {
        msg_id: row.msg_id,
        conv_id: row.conv,
        sender_device: row.device,
        cipher: to_base64(&row.cipher),
        ad,
        ts: row.ts,
        sth_index: row.index,
        native,
        tombstone,
        inclusion: None,
    })
}

/// A frame of the seed's socket.
///
/// # Errors
/// As [`item`].
pub fn envelope(row: StoredItem) -> Result<Envelope, StoreError> {
    let ad = ad(&row)?;
    let (nonce, text) = row.cipher.split_at(row.nonce_len.min(row.cipher.len()));
    let cipher = if nonce.is_empty() {
        Cipher::Text(to_base64(text))
    } else {
        Cipher::Split { c: to_base64(text), n: to_base64(nonce) }
    };
    let target_msg_id = row.deletion.is_some().then(|| row.msg_id.clone());
    Ok(Envelope {
        ver: 1,
        conv_id: row.conv,
        msg_id: row.msg_id,
        sender_device: row.device,
        cipher,
        ad,
        ts: row.ts,
        sth_index: row.index,
        target_msg_id,
    })
}

/// The audit path of a 1-based position in the tree of `size`.
///
/// # Errors
/// [`ApiError`]: a bad request if there is no such leaf in that tree.
pub fn path<T: Tiles>(sth_index: u64, size: u64, tiles: &mut T) -> Result<Vec<String>, ApiError>
where
    ApiError: From<T::Error>,
{
    let index = sth_index
        .checked_sub(1)
        .ok_or_else(|| ApiError::new(ErrorCode::BadRequest, "positions in the log start at 1"))?;
    Ok(base64s(&inclusion(index, size, tiles).map_err(unproved)?))
}

/// The consistency proof from size `from` to size `to`; empty from 0, which needs none.
///
/// # Errors
/// [`ApiError`]: a bad request if `from` is larger than `to`.
pub fn between<T: Tiles>(from: u64, to: u64, tiles: &mut T) -> Result<Vec<String>, ApiError>
where
    ApiError: From<T::Error>,
{
    if from == 0 {
        return Ok(Vec::new());
    }
    Ok(base64s(&consistency(from, to, tiles).map_err(unproved)?))
}

/// The receipt of something the log just placed, or had placed before.
///
/// # Errors
/// [`ApiError`].
pub async fn receipt(app: &App, placed: &LogReceipt) -> Result<Receipt, ApiError> {
    let head = placed.head.clone();
    let sth_index = placed.index + 1;
    // The path of a fresh entry is in memory; only that of an old one is read from the store.
    let inclusion = match path(sth_index, head.size, &mut Recent(&head.tiles)) {
        Ok(path) => path,
        Err(_) => {
            let size = head.size;
            app.store.read(move |conn| path(sth_index, size, &mut StoredTiles(conn))).await?
        }
    };
    Ok(Receipt {
        sth_index,
        head: String::from_utf8_lossy(&placed.head.note).into_owned(),
        inclusion,
    })
}

/// The tiles that came with a head, alone.
struct Recent<'a>(&'a RecentTiles);

impl Tiles for Recent<'_> {
    type Error = ApiError;

    fn tile(&mut self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, ApiError> {
        self.0.tile(level, index, width).ok_or_else(|| ApiError::internal("not a recent tile"))
    }
}

fn ad(row: &StoredItem) -> Result<Box<RawValue>, StoreError> {
    let bytes = if row.deleted || row.deletion.is_some() { DELETED.as_bytes() } else { &row.ad };
    serde_json::from_slice(bytes)
        .map_err(|_| StoreError::Corrupt { table: "messages", what: "`ad` is no JSON" })
}

fn base64s(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| to_base64(hash)).collect()
}

fn unproved<E>(error: ProofError<E>) -> ApiError
where
    ApiError: From<E>,
{
    match error {
        ProofError::Tiles(error) => error.into(),
        ProofError::WrongWidth { .. } => ApiError::internal(error.to_string()),
        asked => ApiError::new(ErrorCode::BadRequest, asked.to_string()),
    }
}
