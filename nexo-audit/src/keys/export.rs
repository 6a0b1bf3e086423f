//! Answers about keys: the server's export of events, and its inclusion proofs. Read strictly and
//! under limits; a page that is one event long is all that is ever asked for.
//!
//! ```text
//! /log/events?from=I&limit=1     {events: [{index, native: {event, sig, accept_sig}}
//!                                         |{index, plain: {handle, account_id, device_id,
//!                                                          ed25519_pub}}], next, size}
//! /log/inclusion?index=I&size=N  {index, size, leaf_hash, hashes}
//! ```

use super::of_export;
use crate::encoding::{from_base64, hash_from_base64, hash_from_hex};
use crate::fetch::Source;
use crate::finding::{Finding, Malformed};
use crate::merkle::Hash;
use crate::sigchain::{Body, PlainRecord, SignedEvent};
use serde::Deserialize;

/// Longest page of one event that is read: the longest event in base64, and room.
const MAX_PAGE: usize = 256 * 1024;
/// Longest inclusion proof: 63 hashes of 44 characters and their quotes, and room for spaces.
pub(super) const MAX_INCLUSION: usize = 16 * 1024;

#[derive(Deserialize)]
struct Page {
    events: Vec<Shown>,
}

#[derive(Deserialize)]
struct Shown {
    index: u64,
    native: Option<Native>,
    plain: Option<Plain>,
}

#[derive(Deserialize)]
struct Native {
    event: String,
    sig: String,
    accept_sig: String,
}

#[derive(Deserialize)]
struct Plain {
    handle: String,
    account_id: String,
    device_id: String,
    ed25519_pub: String,
}

#[derive(Deserialize)]
struct Inclusion {
    index: u64,
    size: u64,
    hashes: Vec<String>,
}

/// What the server says the entry at `index` was made of; `None` when it shows no such event.
///
/// # Errors
/// A [`Finding`] when there is no answer, or not one of this format.
pub(super) async fn event<E: Source>(export: &E, index: u64) -> Result<Option<Body>, Finding> {
    let path = format!("log/events?from={index}&limit=1");
    let bytes = export.get(&path, MAX_PAGE).await.map_err(|error| of_export(&path, error))?;
    page(&bytes, index).map_err(|NotAPage| Finding::Malformed { path, cause: Malformed::Answer })
}

/// Bytes that are no page of events.
#[derive(Debug, PartialEq, Eq)]
struct NotAPage;

fn page(bytes: &[u8], index: u64) -> Result<Option<Body>, NotAPage> {
    let page: Page = serde_json::from_slice(bytes).map_err(|_| NotAPage)?;
    let shown = page.events.into_iter().next().filter(|shown| shown.index == index);
    match shown {
        None => Ok(None),
        Some(Shown { native: Some(native), plain: None, .. }) => native.body().map(Some),
        Some(Shown { native: None, plain: Some(plain), .. }) => plain.body().map(Some),
        Some(_) => Err(NotAPage),
    }
}

impl Native {
    fn body(&self) -> Result<Body, NotAPage> {
        let bytes = |text: &str| from_base64(text).ok_or(NotAPage);
        Ok(Body::Native(SignedEvent {
            event: bytes(&self.event)?,
            sig: bytes(&self.sig)?,
            accept_sig: bytes(&self.accept_sig)?,
        }))
    }
}

impl Plain {
    fn body(self) -> Result<Body, NotAPage> {
        Ok(Body::Plain(PlainRecord {
            account: hash_from_hex(&self.account_id).ok_or(NotAPage)?,
            key: hash_from_base64(&self.ed25519_pub).ok_or(NotAPage)?,
            handle: self.handle,
            device: self.device_id,
        }))
    }
}

/// The hashes of an inclusion proof for these numbers; `None` for anything else.
pub(super) fn inclusion(bytes: &[u8], index: u64, size: u64) -> Option<Vec<Hash>> {
    let answer: Inclusion = serde_json::from_slice(bytes).ok()?;
    let asked = answer.index == index && answer.size == size;
    asked.then(|| answer.hashes.iter().map(|text| hash_from_base64(text)).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{to_base64, to_hex};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(event: &Value) -> Result<Option<Body>, NotAPage> {
        page(json!({"events": [event], "next": 8, "size": 9}).to_string().as_bytes(), 7)
    }

    #[test]
    fn an_event_is_native_or_plain() {
        let native = json!({"event": "AQ==", "sig": "Ag==", "accept_sig": ""});
        let plain = json!({"handle": "al", "account_id": to_hex(&[1; 32]), "device_id": "tab",
            "ed25519_pub": to_base64(&[2; 32])});
        let signed = SignedEvent { event: vec![1], sig: vec![2], accept_sig: vec![] };
        let one = json!({"index": 7, "native": native, "more": "of a later version"});
        assert_eq!(read(&one), Ok(Some(Body::Native(signed))));
        let Ok(Some(Body::Plain(record))) = read(&json!({"index": 7, "plain": plain})) else {
            panic!()
        };
        assert_eq!((record.account, record.key, record.device.as_str()), ([1; 32], [2; 32], "tab"));
        assert_eq!(read(&json!({"index": 8, "native": native})), Ok(None));
        let with = |member: &str, value: &str| {
            let mut plain = plain.clone();
            plain[member] = value.into();
            json!({"index": 7, "plain": plain})
        };
        for bad in [
            json!({"index": 7}),
            json!({"index": 7, "native": native, "plain": plain}),
            json!({"index": 7, "native": {"event": "AQ", "sig": "", "accept_sig": ""}}),
            json!({"index": 7, "native": {"event": "AQ==", "sig": ""}}),
            json!({"index": -7, "native": native}),
            with("account_id", &to_hex(&[1; 31])),
            with("account_id", &to_hex(&[0xab; 32]).to_uppercase()),
            with("ed25519_pub", &to_base64(&[2; 33])),
        ] {
            assert_eq!(read(&bad), Err(NotAPage), "{bad}");
        }
        assert_eq!(page(b"{\"events\":[]}", 7), Ok(None));
        assert_eq!(page(b"[]", 7), Err(NotAPage));
    }

    #[test]
    fn a_proof_is_of_what_was_asked() {
        let body = |index: u64, hash: &str| {
            json!({"index": index, "size": 9, "leaf_hash": "", "hashes": [hash]}).to_string()
        };
        let good = to_base64(&[3; 32]);
        assert_eq!(inclusion(body(7, &good).as_bytes(), 7, 9), Some(vec![[3; 32]]));
        assert_eq!(inclusion(body(8, &good).as_bytes(), 7, 9), None);
        assert_eq!(inclusion(body(7, &good).as_bytes(), 7, 10), None);
        assert_eq!(inclusion(body(7, "AQ==").as_bytes(), 7, 9), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (page(&bytes, 0), inclusion(&bytes, 0, 0));
        }
    }
}
