//! A batch as sockets are handed it: items that all of them share, and how much of them is kept.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use nexo_schema::ids::{ConvId, DeviceId};

use super::frames;
use crate::http::present;
use crate::store::FreshItem;

/// Bytes of batches, raw and rendered, that may wait in one room.
pub(super) const HELD: usize = 4 * 1024 * 1024;

/// The same in all rooms of a server together.
pub(super) const HELD_IN_ALL: usize = 64 * 1024 * 1024;

/// What the batches weigh that someone still has: those of one room, and those of all rooms.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) room: Arc<AtomicUsize>,
    pub(super) all: Arc<AtomicUsize>,
}

/// A batch's messages and deletions for one room, in log order.
pub(super) struct Batch {
    /// Entries in the log with the batch.
    size: u64,
    items: Vec<Arc<Shown>>,
    weight: usize,
    held: Held,
}

impl Batch {
    /// The part of a batch in a log of `size`; `None` if with it too much would be kept for
    /// those who do not read.
    pub(super) fn new(size: u64, items: Vec<Arc<Shown>>, held: Held) -> Option<Self> {
        let weight = items.iter().map(|shown| shown.weight()).sum();
        let room = held.room.fetch_add(weight, Ordering::Relaxed).saturating_add(weight);
        let all = held.all.fetch_add(weight, Ordering::Relaxed).saturating_add(weight);
        // Dropped, it takes its weight along.
        let batch = Self { size, items, weight, held };
        (room <= HELD && all <= HELD_IN_ALL).then_some(batch)
    }

    /// Entries in the log with the batch.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The part behind position `cursor`.
    pub(super) fn behind(&self, cursor: u64) -> &[Arc<Shown>] {
        &self.items[self.items.partition_point(|shown| shown.index() <= cursor)..]
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.held.room.fetch_sub(self.weight, Ordering::Relaxed);
        self.held.all.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

/// An item, and the frames of it that are the same to everyone.
pub(super) struct Shown {
    fresh: FreshItem,
    envelope: OnceLock<Option<String>>,
    push: OnceLock<Option<String>>,
}

impl Shown {
    pub(super) fn new(fresh: FreshItem) -> Self {
        Self { fresh, envelope: OnceLock::new(), push: OnceLock::new() }
    }

    /// Position in the log, from 1.
    pub(super) fn index(&self) -> u64 {
        self.fresh.item.index
    }

    /// Its conversation.
    pub(super) fn conv(&self) -> ConvId {
        self.fresh.item.conv
    }

    /// The seed's frame; rendered once. `None` if it cannot be shown: reading it from the
    /// database says why.
    pub(super) fn frame(&self) -> Option<&str> {
        self.envelope.get_or_init(|| present::frame(&self.fresh.item).ok()).as_deref()
    }

    /// The frame for a socket that said hello, with the reader's packets and the audit path, if
    /// there is one. `None` as of [`Shown::frame`].
    pub(super) fn push(&self, reader: &DeviceId, path: Option<Vec<String>>) -> Option<String> {
        if path.is_none() && self.fresh.item.packets.is_none() {
            return self.push.get_or_init(|| self.render(reader, None)).clone();
        }
        self.render(reader, path)
    }

    fn render(&self, reader: &DeviceId, path: Option<Vec<String>>) -> Option<String> {
        let packets = self.fresh.packets_of(reader);
        let mut item = present::item_with(&self.fresh.item, packets).ok()?;
        item.inclusion = path;
        frames::push(&item).ok()
    }

    /// About what it takes in memory: itself, its bytes, and both again in each of its frames.
    fn weight(&self) -> usize {
        size_of::<Self>() + 1024 + self.fresh.weight() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::super::rooms::tests::{conv, item};
    use super::*;
    use crate::store::{Packet, PacketsOf, StoredItem};

    fn shown(native: bool, bytes: usize) -> Arc<Shown> {
        let packets = native.then(PacketsOf::default);
        let packet = |name: &str| Packet {
            device: DeviceId::parse(name).unwrap(),
            bytes: name.as_bytes().to_vec(),
            hash: [7; 32],
        };
        Arc::new(Shown::new(FreshItem {
            item: StoredItem { packets, ..item(conv(1), 5, bytes) },
            packets: if native { vec![packet("desk"), packet("tab")] } else { Vec::new() },
        }))
    }

    #[test]
    fn a_frame_that_is_the_same_to_everyone_is_rendered_once() {
        let item = shown(false, 10);
        let frame = item.frame().unwrap();
        assert_eq!(frame.as_ptr(), item.frame().unwrap().as_ptr());
        let (desk, tab) = (DeviceId::parse("desk").unwrap(), DeviceId::parse("tab").unwrap());
        assert_eq!(item.push(&desk, None), item.push(&tab, None));
        assert!(item.push.get().is_some());
        let proved = item.push(&desk, Some(vec!["cGF0aA==".to_owned()])).unwrap();
        assert!(proved.contains(r#""inclusion":["cGF0aA=="]"#), "{proved}");
        assert!(!item.push(&desk, None).unwrap().contains("inclusion"), "nor is it kept");
    }

    #[test]
    fn each_reader_is_shown_its_own_packet_and_every_hash() {
        let item = shown(true, 10);
        let read = |name: &str| -> serde_json::Value {
            let frame = item.push(&DeviceId::parse(name).unwrap(), None).unwrap();
            serde_json::from_str::<serde_json::Value>(&frame).unwrap()["item"].take()
        };
        for (name, packet) in [("desk", "ZGVzaw=="), ("tab", "dGFi")] {
            let item = read(name);
            assert_eq!(item["packet"], packet);
            assert_eq!(item["packet_hashes"].as_object().unwrap().len(), 2);
        }
        assert!(read("other")["packet"].is_null());
    }

    #[test]
    fn what_is_kept_is_weighed_in_its_room_and_in_all_of_them() {
        let all = Arc::<AtomicUsize>::default();
        let held = || Held { room: Arc::default(), all: all.clone() };
        let (one, large) = (held(), HELD / 6);
        let first = Batch::new(1, vec![shown(false, large)], one.clone()).unwrap();
        let weight = one.room.load(Ordering::Relaxed);
        assert!(weight > large && weight == all.load(Ordering::Relaxed));
        assert!(
            Batch::new(2, vec![shown(false, large)], one.clone()).is_none(),
            "twice is too much"
        );
        assert_eq!(one.room.load(Ordering::Relaxed), weight, "what is refused weighs nothing");
        let others: Vec<Batch> =
            (0..).map_while(|n| Batch::new(n, vec![shown(false, large)], held())).collect();
        assert_eq!(others.len() + 1, HELD_IN_ALL / weight, "rooms of their own, and one bound");
        drop((first, others));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
