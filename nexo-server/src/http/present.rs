//! From stored rows to what clients are shown, and the proofs that go with it.

use nexo_schema::bytes::{to_base64, to_hex};
use nexo_schema::error::ErrorCode;
use nexo_schema::http::{Item, NativeItem, Receipt, Tombstone};
use nexo_schema::ids::{ConvId, DeviceId, MsgId};
use nexo_schema::ws::Cipher;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::sync::Arc;

use crate::App;
use crate::LogReceipt;
use crate::error::ApiError;
use crate::log::{Hash, Head, ProofError, Tiles, consistency, inclusion};
use crate::store::{Device, PacketsOf, StoreError, StoredItem, StoredTiles};

/// What a deleted message and a deletion show instead of the sender's `ad`.
const DELETED: &str = r#"{"type":"delete"}"#;

/// An item of a list.
///
/// # Errors
/// [`StoreError::Corrupt`] if the stored `ad` is no JSON.
pub fn item(mut row: StoredItem) -> Result<Item, StoreError> {
    let packets = row.packets.take();
    item_with(&row, packets)
}

/// As [`item`], of a row that others are shown too, with the reader's packets.
///
/// # Errors
/// As [`item`].
pub fn item_with(row: &StoredItem, packets: Option<PacketsOf>) -> Result<Item, StoreError> {
    let native = packets.map(|PacketsOf { own, hashes, resent }| NativeItem {
        sender_account: row.account,
        packet: own.map(|bytes| to_base64(&bytes)),
        packet_hashes: hashes.into_iter().map(|(id, hash)| (id, to_hex(&hash))).collect(),
        resent,
    });
    let tombstone = row.deletion.as_ref().map(|deletion| Tombstone {
        target_sth_index: deletion.target_index,
        statement: deletion.signed.as_ref().map(|(statement, _)| to_base64(statement)),
        sig: deletion.signed.as_ref().map(|(_, sig)| to_base64(sig)),
    });
    Ok(Item {
        msg_id: row.msg_id.clone(),
        conv_id: row.conv,
        sender_device: row.device.clone(),
        cipher: to_base64(&row.cipher),
        ad: ad(row)?.to_owned(),
        ts: row.ts,
        sth_index: row.index,
        native,
        tombstone,
        inclusion: None,
    })
}

/// The frame that shows an item on the seed's socket: an
/// [`Envelope`](nexo_schema::ws::Envelope) as JSON.
///
/// # Errors
/// As [`item`].
pub fn frame(row: &StoredItem) -> Result<String, StoreError> {
    let (nonce, text) = row.cipher.split_at(row.nonce_len.min(row.cipher.len()));
    let cipher = if nonce.is_empty() {
        Cipher::Text(to_base64(text))
    } else {
        Cipher::Split { c: to_base64(text), n: to_base64(nonce) }
    };
    let shown = Shown {
        ver: 1,
        conv_id: &row.conv,
        msg_id: &row.msg_id,
        sender_device: &row.device,
        cipher,
        ad: ad(row)?,
        ts: row.ts,
        sth_index: row.index,
        target_msg_id: row.deletion.is_some().then_some(&row.msg_id),
    };
    // Base64 takes a third more; the rest is names, ids and numbers.
    let mut json = Vec::with_capacity(row.cipher.len() * 4 / 3 + row.ad.len() + 512);
    let written = serde_json::to_writer(&mut json, &shown).ok();
    written
        .and_then(|()| String::from_utf8(json).ok())
        .ok_or(StoreError::Corrupt { table: "messages", what: "it is no JSON" })
}

/// An envelope that borrows what the row has: it is made once for every message.
#[derive(Serialize)]
struct Shown<'a> {
    ver: u32,
    conv_id: &'a ConvId,
    msg_id: &'a MsgId,
    sender_device: &'a DeviceId,
    cipher: Cipher,
    ad: &'a RawValue,
    ts: u64,
    sth_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_msg_id: Option<&'a MsgId>,
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

/// What a receipt is written from: serialized it is a [`Receipt`], without a copy of the head,
/// which the messages of a batch share.
#[derive(Debug, Serialize)]
pub struct Proved {
    sth_index: u64,
    #[serde(serialize_with = "note")]
    head: Arc<Head>,
    #[serde(rename = "inclusion", serialize_with = "in_base64")]
    path: Vec<Hash>,
}

fn note<S: Serializer>(head: &Head, serializer: S) -> Result<S::Ok, S::Error> {
    head.note_json().serialize(serializer)
}

fn in_base64<S: Serializer>(hashes: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hashes.iter().map(|hash| to_base64(hash)))
}

impl Proved {
    /// By the path of what was placed, in the head that came with it.
    pub(crate) fn new(placed: &LogReceipt, path: Vec<Hash>) -> Self {
        Self { sth_index: placed.index + 1, head: placed.head.clone(), path }
    }
}

impl From<Proved> for Receipt {
    fn from(proved: Proved) -> Self {
        Self {
            sth_index: proved.sth_index,
            head: String::from_utf8_lossy(&proved.head.note).into_owned(),
            inclusion: base64s(&proved.path),
        }
    }
}

/// The receipt that a sender is given: native devices always get one, others when they ask.
///
/// # Errors
/// [`ApiError`].
pub async fn receipt_for(
    app: &App,
    device: &Device,
    asked: bool,
    placed: &LogReceipt,
) -> Result<Option<Receipt>, ApiError> {
    Ok(proved_for(app, device, asked, placed).await?.map(Receipt::from))
}

/// As [`receipt_for`], for those who write it out at once.
///
/// # Errors
/// [`ApiError`].
pub async fn proved_for(
    app: &App,
    device: &Device,
    asked: bool,
    placed: &LogReceipt,
) -> Result<Option<Proved>, ApiError> {
    if !device.native && !asked {
        return Ok(None);
    }
    proved(app, placed).await.map(Some)
}

/// The receipt of what the log just placed, or had placed before.
///
/// # Errors
/// [`ApiError`].
pub async fn receipt(app: &App, placed: &LogReceipt) -> Result<Receipt, ApiError> {
    proved(app, placed).await.map(Receipt::from)
}

/// Proves the place of something the log just placed, or had placed before.
async fn proved(app: &App, placed: &LogReceipt) -> Result<Proved, ApiError> {
    let (index, size) = (placed.index, placed.head.size);
    let path = match placed.head.tiles.path(index) {
        Some(path) => path,
        // Sent again, after newer ones: its tile is in the store only.
        None => {
            let query = move |conn: &mut _| {
                inclusion(index, size, &mut StoredTiles(conn)).map_err(unproved::<StoreError>)
            };
            app.store.read(query).await?
        }
    };
    Ok(Proved::new(placed, path))
}

fn ad(row: &StoredItem) -> Result<&RawValue, StoreError> {
    let bytes = if row.deleted || row.deletion.is_some() { DELETED.as_bytes() } else { &row.ad };
    serde_json::from_slice(bytes)
        .map_err(|_| StoreError::Corrupt { table: "messages", what: "`ad` is no JSON" })
}

/// Hashes as proofs are shown.
pub fn base64s(hashes: &[Hash]) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RecentTiles;
    use crate::store::Deletion;
    use nexo_schema::bytes::from_base64;
    use nexo_schema::ids::AccountId;
    use nexo_schema::ws::Envelope;
    use proptest::prelude::*;

    prop_compose! {
        fn row()(
            msg_id in "[ -~]{1,64}",
            device in "[!-~]{1,64}",
            cipher in prop::collection::vec(any::<u8>(), 0..100),
            nonce_len in 0usize..30,
            ad in prop::sample::select(vec!["{}", r#"{"a": "\"é\\"}"#, r#"{ "n":1.50 }"#]),
            (index, ts) in (1u64..u64::MAX, any::<u64>()),
            kind in 0..3,
        ) -> StoredItem {
            let deletion = Deletion { target_index: 1, signed: None };
            StoredItem {
                index,
                conv: ConvId([7; 32]),
                msg_id: MsgId::parse(&msg_id).unwrap(),
                device: DeviceId::parse(&device).unwrap(),
                account: AccountId([8; 32]),
                nonce_len: nonce_len.min(cipher.len()),
                cipher,
                ad: ad.as_bytes().to_vec(),
                ts,
                deleted: kind == 1,
                packets: None,
                deletion: (kind == 2).then_some(deletion),
            }
        }
    }

    proptest! {
        /// Byte for byte what the schema's type would be written as.
        #[test]
        fn a_frame_is_an_envelope(row in row()) {
            let frame = frame(&row).unwrap();
            let read: Envelope = serde_json::from_str(&frame).unwrap();
            prop_assert_eq!(&serde_json::to_string(&read).unwrap(), &frame);
            let deleted = row.deleted || row.deletion.is_some();
            let ad = if deleted { DELETED.as_bytes() } else { &row.ad };
            prop_assert_eq!(read.ad.get().as_bytes(), ad);
            prop_assert_eq!((read.ver, read.sth_index, read.ts), (1, row.index, row.ts));
            prop_assert_eq!((read.conv_id, &read.sender_device), (row.conv, &row.device));
            let target = row.deletion.is_some().then_some(&row.msg_id);
            prop_assert_eq!((&read.msg_id, read.target_msg_id.as_ref()), (&row.msg_id, target));
            let (n, c) = row.cipher.split_at(row.nonce_len);
            let cipher = match row.nonce_len {
                0 => Cipher::Text(to_base64(c)),
                _ => Cipher::Split { c: to_base64(c), n: to_base64(n) },
            };
            prop_assert_eq!(read.cipher, cipher);
        }
    }

    #[test]
    fn what_is_proved_is_written_as_a_receipt() {
        let note = "relay.example.org\n2\n\u{2014} \"é\"\\ sig\n";
        let (note_bytes, tiles) = (note.as_bytes().into(), RecentTiles::default());
        let head = Arc::new(Head::new(2, [1; 32], note_bytes, 7, tiles));
        for path in [vec![], vec![[0xfb; 32], [0; 32]]] {
            let proved = Proved { sth_index: 2, head: head.clone(), path: path.clone() };
            let json = serde_json::to_string(&proved).unwrap();
            let receipt = Receipt::from(proved);
            assert_eq!(json, serde_json::to_string(&receipt).unwrap());
            assert_eq!((receipt.sth_index, receipt.head.as_str()), (2, note));
            let hashes = receipt.inclusion.iter().map(|text| from_base64(text).unwrap());
            assert!(hashes.eq(path));
        }
    }
}
