//! What an fsck finds: kind, place, words. Each is one line.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Findings that are kept and listed; more are only counted.
pub const MAX_LISTED: usize = 1000;

/// What is wrong, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The newest head, a row of heads, or its note.
    Head,
    /// The entries do not hash to a signed root.
    Root,
    /// The head that was announced is not in the database.
    Marker,
    /// A bundle is missing or malformed.
    Bundle,
    /// An entry is malformed, or no row or several lie at its place.
    Entry,
    /// A tile is missing or not the one of its entries.
    Tile,
    /// A message.
    Message,
    /// A key packet.
    Packet,
    /// An account.
    Account,
    /// A device.
    Device,
    /// A key event.
    KeyEvent,
    /// A deletion, or what it should have cleared.
    Deletion,
    /// A row points at one that is not there.
    Reference,
    /// A counter is behind what it counts.
    Counter,
    /// A row lies where the log has nothing.
    Surplus,
}

impl Kind {
    /// Every kind with its stable name.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::Head, "head"),
        (Self::Root, "root"),
        (Self::Marker, "marker"),
        (Self::Bundle, "bundle"),
        (Self::Entry, "entry"),
        (Self::Tile, "tile"),
        (Self::Message, "message"),
        (Self::Packet, "packet"),
        (Self::Account, "account"),
        (Self::Device, "device"),
        (Self::KeyEvent, "key_event"),
        (Self::Deletion, "deletion"),
        (Self::Reference, "reference"),
        (Self::Counter, "counter"),
        (Self::Surplus, "surplus"),
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In the order of the variants.
        f.pad(Self::ALL[*self as usize].1)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// Where: a table and the key of its row. Positions in the log count from 1 (`sth_index`),
    /// tiles and bundles from 0.
    pub place: String,
    /// In words.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9}  {}  {}", self.kind, self.place, self.what)
    }
}

/// All that was found so far, by any thread.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<Listed>);

#[derive(Debug, Default)]
struct Listed {
    /// With the order in which they are listed: by their part of the database, then by position.
    list: Vec<((Kind, u64), Finding)>,
    count: u64,
}

impl Findings {
    /// Adds a finding at a position (of a row in the log, or of a tile).
    pub(super) fn add(&self, kind: Kind, at: u64, place: String, what: impl Into<String>) {
        let mut listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listed.count += 1;
        if listed.list.len() < MAX_LISTED {
            listed.list.push(((kind, at), Finding { kind, place, what: what.into() }));
        }
    }

    /// How many there are, listed or not.
    pub(super) fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// How many more will be listed.
    pub(super) fn room(&self) -> usize {
        let listed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MAX_LISTED - listed.list.len()
    }

    /// Those that are listed, in order, and how many there are.
    pub(super) fn into_list(self) -> (Vec<Finding>, u64) {
        let mut listed = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        listed.list.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.place.cmp(&y.place)));
        (listed.list.into_iter().map(|(_, finding)| finding).collect(), listed.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for (place, (kind, name)) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{name}\""));
        }
    }

    #[test]
    fn the_list_is_ordered_and_bounded_and_the_count_is_not() {
        let findings = Findings::default();
        findings.add(Kind::Message, 7, "messages 7".into(), "b");
        findings.add(Kind::Message, 3, "messages 3".into(), "a");
        findings.add(Kind::Head, 9, "log_head".into(), "c");
        assert_eq!(findings.room(), MAX_LISTED - 3);
        for at in 0..2000 {
            findings.add(Kind::Surplus, at, format!("tiles {at}"), "d");
        }
        let (list, count) = findings.into_list();
        assert_eq!((list.len(), count), (MAX_LISTED, 2003));
        let first: Vec<&str> = list.iter().take(4).map(|f| &*f.place).collect();
        assert_eq!(first, ["log_head", "messages 3", "messages 7", "tiles 0"]);
        assert_eq!(list[0].to_string(), "head       log_head  c");
    }
}
