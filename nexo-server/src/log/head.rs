//! A head: what the log says of itself, committed and signed.
//!
//! One value for everybody who is answered under it. What all of them need is
//! made once, by the first who asks: here the note as JSON, in `tiles` the
//! nodes of paths.

use super::recent::RecentTiles;
use super::tree::Hash;
use serde_json::value::{RawValue, to_raw_value};
use std::sync::{Arc, OnceLock};

/// A committed, signed tree head.
#[derive(Debug)]
pub struct Head {
    /// Number of leaves.
    pub size: u64,
    /// Root of those leaves.
    pub root: Hash,
    /// The signed checkpoint, to be served verbatim.
    pub note: Arc<[u8]>,
    /// POSIX seconds in its time signature.
    pub time: u64,
    /// The tiles of its batch and of the right edge; see [`RecentTiles`].
    pub tiles: RecentTiles,
    json: OnceLock<Box<RawValue>>,
}

impl Head {
    pub(crate) fn new(
        size: u64,
        root: Hash,
        note: Arc<[u8]>,
        time: u64,
        tiles: RecentTiles,
    ) -> Self {
        Self { size, root, note, time, tiles, json: OnceLock::new() }
    }

    /// The note as a JSON string.
    pub fn note_json(&self) -> &RawValue {
        self.json.get_or_init(|| {
            let text = String::from_utf8_lossy(&self.note);
            to_raw_value(&text).expect("every text is a JSON string")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_quoted_once() {
        let note = "relay.example.org\n2\n\u{2014} \"\u{e9}\"\\ sig\n";
        let head = Head::new(2, [1; 32], note.as_bytes().into(), 7, RecentTiles::default());
        let json = head.note_json();
        assert_eq!(json.get(), serde_json::to_string(note).unwrap());
        assert!(std::ptr::eq(json, head.note_json()));
    }
}
