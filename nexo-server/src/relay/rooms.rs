//! Rooms: who waits for what, and what they are told when a batch is public.
//!
//! A conversation's room hands its readers the batch's part of the conversation itself, one
//! shared value whoever many they are, each frame rendered when the first of them needs it. An
//! account's room holds a number only, and so does the one for changes of its devices. Nothing is kept for those who are not there, and for
//! those who are there and do not read, a bounded amount ([`WAITING`], [`HELD`]): the database
//! has everything, and whoever cannot be handed a batch is told to [`Word::Look`] there. What
//! follows from that for a reader is in [`follow`](super::follow).
//!
//! [`Rooms::ring`] runs on the log's writer thread, between two batches. It moves items and
//! wakes tasks; JSON is made on the tasks of the sockets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nexo_schema::ids::{AccountId, ConvId};
use rocket::tokio::sync::broadcast::error::RecvError;
use rocket::tokio::sync::{broadcast, watch};

use crate::http::present;
use crate::store::{Fresh, Present, StoredItem};

/// Batches that may wait for the slowest reader of a conversation; one that is further behind
/// reads the database.
pub(super) const WAITING: usize = 16;

/// Bytes of batches, raw and rendered, that may wait in one conversation's room.
const HELD: usize = 4 * 1024 * 1024;

/// What a reader of a conversation is told.
#[derive(Clone)]
pub(super) enum Word {
    /// This was committed.
    Handed(Arc<Batch>),
    /// Something was committed, or may have been; the database has it.
    Look,
}

/// A batch's messages and deletions in one conversation, in log order.
pub(super) struct Batch {
    items: Vec<Shown>,
    weight: usize,
    /// Of the room: what all its batches weigh that someone still has.
    held: Arc<AtomicUsize>,
}

impl Batch {
    /// The part behind position `cursor`.
    pub(super) fn behind(&self, cursor: u64) -> &[Shown] {
        &self.items[self.items.partition_point(|shown| shown.item.index <= cursor)..]
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.held.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

/// An item and its frame.
pub(super) struct Shown {
    item: StoredItem,
    frame: OnceLock<Option<String>>,
}

impl Shown {
    fn new(item: StoredItem) -> Self {
        Self { item, frame: OnceLock::new() }
    }

    /// Position in the log, from 1.
    pub(super) fn index(&self) -> u64 {
        self.item.index
    }

    /// The frame that shows it, the same to everyone; rendered once. `None` if it cannot be
    /// shown: reading it from the database says why.
    pub(super) fn frame(&self) -> Option<&str> {
        self.frame.get_or_init(|| present::frame(&self.item).ok()).as_deref()
    }

    /// About what it takes in memory: itself, its bytes, and both again in its frame.
    fn weight(&self) -> usize {
        let bytes = self.item.cipher.len() + self.item.ad.len();
        size_of::<Self>() + 512 + bytes * 5 / 2
    }
}

/// All rooms. Cheap to clone.
#[derive(Clone, Default)]
pub struct Rooms(Arc<Mutex<Open>>);

/// The rooms that have someone in them.
#[derive(Default)]
struct Open {
    conversations: HashMap<ConvId, Room>,
    accounts: Bells,
    /// Who waits for changes of an account's devices.
    devices: Bells,
    /// Size of the log up to which every batch was told, or someone was told to look.
    told: u64,
}

/// By account: how often, or up to which size of the log, it rang.
type Bells = HashMap<AccountId, watch::Sender<u64>>;

/// What a bell rings for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rings {
    /// Something new to read.
    News,
    /// The account's devices, or their prekeys.
    Devices,
}

struct Room {
    readers: broadcast::Sender<Word>,
    /// What the batch being told has for this room; empty between two calls.
    part: Vec<Shown>,
    held: Arc<AtomicUsize>,
}

impl Default for Room {
    fn default() -> Self {
        Self { readers: broadcast::Sender::new(WAITING), part: Vec::new(), held: Arc::default() }
    }
}

impl Rooms {
    /// Enters a conversation: what is told from now on is heard.
    pub(super) fn enter(&self, conv: ConvId) -> Seat {
        let words = self.lock().conversations.entry(conv).or_default().readers.subscribe();
        Seat { words, conv, rooms: self.clone() }
    }

    /// Waits for what is new to an account from now on.
    pub(super) fn listen(&self, account: AccountId) -> Bell {
        self.bell(account, Rings::News)
    }

    /// Waits for changes of an account's devices from now on: a key event, a claimed prekey.
    pub(super) fn watch_devices(&self, account: AccountId) -> Bell {
        self.bell(account, Rings::Devices)
    }

    fn bell(&self, account: AccountId, rings: Rings) -> Bell {
        let mut open = self.lock();
        let bell = open.bells(rings).entry(account).or_insert_with(|| watch::channel(0).0);
        Bell { sizes: bell.subscribe(), account, rings, rooms: self.clone() }
    }

    /// Has the sockets of these accounts look at their devices.
    pub fn devices_changed(&self, accounts: &[AccountId]) {
        self.lock().devices_changed(accounts);
    }

    /// Who is there to be told.
    #[must_use]
    pub fn present(&self) -> Present {
        let open = self.lock();
        Present {
            conversations: !open.conversations.is_empty(),
            accounts: !open.accounts.is_empty(),
        }
    }

    /// Tells of a batch that is public. Calls come in the order of the log, one at a time.
    pub fn ring(&self, fresh: Fresh) {
        let mut open = self.lock();
        open.devices_changed(&fresh.keys_changed);
        let gap = fresh.before > open.told;
        open.told = open.told.max(fresh.size);
        if gap {
            // Something was committed that nobody told of here: anyone may have missed it.
            open.ring_all(fresh.size);
            return;
        }
        for account in &fresh.accounts {
            if let Some(bell) = open.accounts.get(account) {
                bell.send_replace(fresh.size);
            }
        }
        match fresh.items {
            Some(items) => open.hand_out(items),
            None => {
                let rooms = fresh.conversations.iter().filter_map(|c| open.conversations.get(c));
                rooms.for_each(|room| room.say(Word::Look));
            }
        }
    }

    /// No code that can panic runs between two steps of a change, so a poisoned lock guards
    /// whole maps.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn ring_all(&self, size: u64) {
        self.conversations.values().for_each(|room| room.say(Word::Look));
        for bell in self.accounts.values() {
            bell.send_replace(size);
        }
        self.devices.values().for_each(again);
    }

    fn devices_changed(&self, accounts: &[AccountId]) {
        accounts.iter().filter_map(|account| self.devices.get(account)).for_each(again);
    }

    fn bells(&mut self, rings: Rings) -> &mut Bells {
        match rings {
            Rings::News => &mut self.accounts,
            Rings::Devices => &mut self.devices,
        }
    }

    fn hand_out(&mut self, items: Vec<StoredItem>) {
        let mut touched = Vec::new();
        for item in items {
            let conv = item.conv;
            let Some(room) = self.conversations.get_mut(&conv) else { continue };
            if room.part.is_empty() {
                touched.push(conv);
            }
            room.part.push(Shown::new(item));
        }
        for conv in touched {
            if let Some(room) = self.conversations.get_mut(&conv) {
                room.hand_over();
            }
        }
    }
}

impl Room {
    /// Tells the room its part of the batch.
    fn hand_over(&mut self) {
        let items = std::mem::take(&mut self.part);
        let weight = items.iter().map(Shown::weight).sum();
        let before = self.held.fetch_add(weight, Ordering::Relaxed);
        let batch = Batch { items, weight, held: Arc::clone(&self.held) };
        // Too much for those who do not read; the batch is dropped and takes its weight along.
        let fits = before.saturating_add(weight) <= HELD;
        self.say(if fits { Word::Handed(Arc::new(batch)) } else { Word::Look });
    }

    fn say(&self, word: Word) {
        // Fails only in an empty room, and an empty room is no room.
        let _ = self.readers.send(word);
    }
}

/// A place in a conversation's room; leaving the last one closes it.
pub(super) struct Seat {
    words: broadcast::Receiver<Word>,
    conv: ConvId,
    rooms: Rooms,
}

impl Seat {
    /// The next word, in order. Words that were missed are one [`Word::Look`]. Cancel safe.
    pub(super) async fn word(&mut self) -> Word {
        // The sender lives in the map for as long as this seat does, so it is never closed.
        match self.words.recv().await {
            Ok(word) => word,
            Err(RecvError::Lagged(_) | RecvError::Closed) => Word::Look,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.rooms.lock();
        // This seat still counts as one.
        if open.conversations.get(&self.conv).is_some_and(|r| r.readers.receiver_count() <= 1) {
            open.conversations.remove(&self.conv);
        }
    }
}

/// Rings, whatever it is for.
fn again(bell: &watch::Sender<u64>) {
    bell.send_modify(|count| *count = count.wrapping_add(1));
}

/// A place in an account's room; leaving the last one closes it.
pub(super) struct Bell {
    sizes: watch::Receiver<u64>,
    account: AccountId,
    rings: Rings,
    rooms: Rooms,
}

impl Bell {
    /// Returns at the next ring, or at once if one was missed; for news, the size of the log
    /// then.
    /// Cancel safe.
    pub(super) async fn rung(&mut self) -> u64 {
        // The sender lives in the map for as long as this bell does.
        let _ = self.sizes.changed().await;
        *self.sizes.borrow_and_update()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut open = self.rooms.lock();
        let bells = open.bells(self.rings);
        if bells.get(&self.account).is_some_and(|sizes| sizes.receiver_count() <= 1) {
            bells.remove(&self.account);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nexo_schema::ids::{DeviceId, MsgId};
    use rocket::futures::FutureExt as _;

    pub(in crate::relay) fn conv(n: u8) -> ConvId {
        ConvId([n; 32])
    }

    fn account(n: u8) -> AccountId {
        AccountId([n; 32])
    }

    /// A message of `bytes` in a conversation at a position.
    pub(in crate::relay) fn item(at: ConvId, index: u64, bytes: usize) -> StoredItem {
        StoredItem {
            index,
            conv: at,
            msg_id: MsgId::parse(&format!("m{index}")).unwrap(),
            device: DeviceId::parse("device").unwrap(),
            account: account(9),
            nonce_len: 0,
            cipher: vec![b'x'; bytes],
            ad: b"{}".to_vec(),
            ts: 1,
            deleted: false,
            packets: None,
            deletion: None,
        }
    }

    /// A batch behind `before` with one item in each of these conversations.
    pub(in crate::relay) fn fresh(before: u64, convs: &[ConvId], bytes: usize) -> Fresh {
        let items: Vec<_> = (before + 1..).zip(convs).map(|(i, c)| item(*c, i, bytes)).collect();
        let mut conversations = convs.to_vec();
        conversations.sort_unstable();
        conversations.dedup();
        Fresh {
            before,
            size: before + items.len() as u64,
            conversations,
            items: Some(items),
            ..Fresh::default()
        }
    }

    /// What the seat was told so far: the positions handed, or `None` for a look.
    fn told(seat: &mut Seat) -> Vec<Option<Vec<u64>>> {
        let positions = |batch: &Batch| batch.behind(0).iter().map(Shown::index).collect();
        std::iter::from_fn(|| seat.word().now_or_never())
            .map(|word| match word {
                Word::Handed(batch) => Some(positions(&batch)),
                Word::Look => None,
            })
            .collect()
    }

    fn held(rooms: &Rooms, conv: ConvId) -> usize {
        rooms.lock().conversations[&conv].held.load(Ordering::Relaxed)
    }

    #[test]
    fn a_batch_is_handed_to_the_rooms_it_concerns() {
        let rooms = Rooms::default();
        let (mut a, mut other_a, mut b) =
            (rooms.enter(conv(1)), rooms.enter(conv(1)), rooms.enter(conv(2)));
        rooms.ring(fresh(0, &[conv(1), conv(3), conv(1), conv(2)], 10));
        rooms.ring(fresh(4, &[conv(1)], 10));
        assert_eq!(told(&mut a), [Some(vec![1, 3]), Some(vec![5])]);
        assert_eq!(told(&mut other_a), [Some(vec![1, 3]), Some(vec![5])]);
        assert_eq!(told(&mut b), [Some(vec![4])]);
        assert_eq!(rooms.lock().conversations.len(), 2, "nothing is kept for who is not there");
    }

    #[test]
    fn a_frame_is_rendered_once_and_shared() {
        let rooms = Rooms::default();
        let (mut a, mut b) = (rooms.enter(conv(1)), rooms.enter(conv(1)));
        rooms.ring(fresh(0, &[conv(1)], 10));
        let first = |seat: &mut Seat| match seat.word().now_or_never() {
            Some(Word::Handed(batch)) => batch,
            _ => panic!("a batch is there"),
        };
        let (hers, his) = (first(&mut a), first(&mut b));
        let frames = [hers.behind(0)[0].frame().unwrap(), his.behind(0)[0].frame().unwrap()];
        assert_eq!(frames[0].as_ptr(), frames[1].as_ptr());
    }

    #[test]
    fn another_servers_batch_and_a_gap_are_looked_up() {
        let rooms = Rooms::default();
        let (mut a, mut b) = (rooms.enter(conv(1)), rooms.enter(conv(2)));
        let mut bell = rooms.listen(account(1));
        rooms.ring(Fresh { items: None, ..fresh(0, &[conv(1)], 10) });
        assert_eq!((told(&mut a), told(&mut b)), (vec![None], vec![]));
        assert_eq!(bell.rung().now_or_never(), None);
        // Position 2 was told to nobody: it may have been anyone's.
        rooms.ring(fresh(2, &[conv(1)], 10));
        assert_eq!((told(&mut a), told(&mut b)), (vec![None], vec![None]));
        assert_eq!(bell.rung().now_or_never(), Some(3));
        rooms.ring(fresh(3, &[conv(2)], 10));
        assert_eq!((told(&mut a), told(&mut b)), (vec![], vec![Some(vec![4])]));
    }

    #[test]
    fn who_does_not_read_costs_a_bounded_amount() {
        let rooms = Rooms::default();
        let (mut slow, mut quick) = (rooms.enter(conv(1)), rooms.enter(conv(1)));
        let bytes = HELD / 10;
        for before in 0..8 {
            rooms.ring(fresh(before, &[conv(1)], bytes));
            assert!(held(&rooms, conv(1)) <= HELD);
            assert_eq!(told(&mut quick).len(), 1);
        }
        let slow_heard = told(&mut slow);
        assert_eq!(slow_heard[0], Some(vec![1]));
        assert_eq!(slow_heard.last(), Some(&None), "the rest is in the database");
        assert_eq!(held(&rooms, conv(1)), 0, "read is let go");
        rooms.ring(fresh(8, &[conv(1)], bytes));
        assert_eq!((told(&mut slow), told(&mut quick)), (vec![Some(vec![9])], vec![Some(vec![9])]));
        // One that never fits is never held.
        rooms.ring(fresh(9, &[conv(1)], HELD));
        assert_eq!((told(&mut slow), held(&rooms, conv(1))), (vec![None], 0));
    }

    #[test]
    fn words_that_were_missed_are_one_look() {
        let rooms = Rooms::default();
        let mut seat = rooms.enter(conv(1));
        let rings = WAITING as u64 + 5;
        for before in 0..rings {
            rooms.ring(fresh(before, &[conv(1)], 1));
        }
        let heard = told(&mut seat);
        assert_eq!((heard.len(), &heard[0]), (WAITING + 1, &None));
        assert_eq!(heard.last(), Some(&Some(vec![rings])));
    }

    #[test]
    fn bells_ring_for_their_account_and_are_not_missed() {
        let rooms = Rooms::default();
        let (mut a, mut b) = (rooms.listen(account(1)), rooms.listen(account(2)));
        let ring = |before, accounts: &[AccountId]| {
            let accounts = accounts.to_vec();
            rooms.ring(Fresh { accounts, ..fresh(before, &[conv(1)], 1) });
        };
        ring(0, &[account(1)]);
        ring(1, &[account(1)]);
        assert_eq!(a.rung().now_or_never(), Some(2), "two rings before a look are one");
        assert_eq!((a.rung().now_or_never(), b.rung().now_or_never()), (None, None));
        ring(2, &[account(1), account(2)]);
        assert_eq!(b.rung().now_or_never(), Some(3));
    }

    #[test]
    fn a_change_of_devices_is_told_to_the_account_whatever_else_is_told() {
        let rooms = Rooms::default();
        let (mut a, mut b) = (rooms.watch_devices(account(1)), rooms.watch_devices(account(2)));
        let mut news = rooms.listen(account(1));
        rooms.ring(Fresh { keys_changed: vec![account(1)], ..fresh(0, &[], 1) });
        assert!(a.rung().now_or_never().is_some());
        assert_eq!((b.rung().now_or_never(), news.rung().now_or_never()), (None, None));
        rooms.devices_changed(&[account(2)]);
        assert_eq!((a.rung().now_or_never(), b.rung().now_or_never()), (None, Some(1)));
        // Something was not told here: it may have been anyone's revocation.
        rooms.ring(fresh(5, &[conv(1)], 1));
        assert!(a.rung().now_or_never().is_some() && b.rung().now_or_never().is_some());
    }

    #[test]
    fn empty_rooms_are_forgotten() {
        let rooms = Rooms::default();
        let open = || {
            let open = rooms.lock();
            (open.conversations.len(), open.accounts.len() + open.devices.len())
        };
        let seats = [rooms.enter(conv(1)), rooms.enter(conv(1))];
        let bells = [rooms.listen(account(1)), rooms.listen(account(1))];
        drop(rooms.watch_devices(account(1)));
        let [one, two] = seats;
        let [three, four] = bells;
        drop((one, three));
        assert_eq!(open(), (1, 1));
        drop((two, four));
        assert_eq!(open(), (0, 0));
    }
}
