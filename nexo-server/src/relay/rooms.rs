//! Rooms: who waits for what, and what they are told when a batch is public.
//!
//! A room hands its readers the batch's part that concerns them: those of a conversation what was
//! placed there, an account's streams what was placed in any of its conversations. The items are
//! one shared value however many read them ([`batch`](super::batch)). A bell holds a number only,
//! be it for news of an account or for changes of its devices. Nothing is kept for those who are
//! not there, and for those who are there and do not read, a bounded amount ([`WAITING`],
//! [`HELD`](super::batch::HELD), [`HELD_IN_ALL`](super::batch::HELD_IN_ALL)): the database has
//! everything, and whoever cannot be handed a batch is told to [`Word::Look`] there. What follows
//! from that for a reader is in [`follow`](super::follow).
//!
//! [`Rooms::ring`] runs on the log's writer thread, between two batches. It moves items and
//! wakes tasks; JSON is made on the tasks of the sockets.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nexo_schema::ids::{AccountId, ConvId};
use rocket::tokio::sync::broadcast::error::RecvError;
use rocket::tokio::sync::{broadcast, watch};

use super::batch::{Batch, Held, Shown};
use crate::log::Head;
use crate::store::{Fresh, FreshItem, Present};

/// Batches that may wait for the slowest reader of a room; one that is further behind reads the
/// database.
pub(super) const WAITING: usize = 16;

/// Heads of batches that are kept for those who prove what they send; one that is further behind
/// reads the database. Some 150 KiB each (`log/recent.rs`).
const HEADS: usize = WAITING;

/// What a reader is told.
#[derive(Clone)]
pub(super) enum Word {
    /// This was committed.
    Handed(Arc<Batch>),
    /// Something was committed, or may have been; the database has it.
    Look,
}

/// All rooms. Cheap to clone.
#[derive(Clone, Default)]
pub struct Rooms(Arc<Mutex<Open>>);

/// The rooms that have someone in them.
#[derive(Default)]
struct Open {
    conversations: HashMap<ConvId, Room>,
    /// Of accounts: those who are sent all that is for them.
    streams: HashMap<AccountId, Room>,
    accounts: Bells,
    /// Who waits for changes of an account's devices.
    devices: Bells,
    /// Size of the log up to which every batch was told, or someone was told to look.
    told: u64,
    /// Where the log tells its heads.
    log: Option<watch::Receiver<Arc<Head>>>,
    /// The heads of the newest batches that streams were handed, the newest last.
    heads: VecDeque<Arc<Head>>,
    /// What is kept in all rooms.
    held: Held,
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

/// Whose room it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Conversation(ConvId),
    Account(AccountId),
}

struct Room {
    readers: broadcast::Sender<Word>,
    /// What the batch being told has for this room; empty between two calls.
    part: Vec<Arc<Shown>>,
    held: Held,
}

impl Room {
    /// An empty room of a house that keeps so much.
    fn new(house: &Held) -> Self {
        let held = Held { all: Arc::clone(&house.all), ..Held::default() };
        Self { readers: broadcast::Sender::new(WAITING), part: Vec::new(), held }
    }
}

impl Rooms {
    /// From where the log tells its heads; asked when a batch is told.
    pub fn under(&self, log: watch::Receiver<Arc<Head>>) {
        self.lock().log = Some(log);
    }

    /// Enters a conversation: what is told from now on is heard.
    pub(super) fn enter(&self, conv: ConvId) -> Seat {
        self.seat(Whose::Conversation(conv))
    }

    /// Hears from now on what is told in any conversation of an account.
    pub(super) fn stream(&self, account: AccountId) -> Seat {
        self.seat(Whose::Account(account))
    }

    fn seat(&self, whose: Whose) -> Seat {
        let mut open = self.lock();
        let Open { conversations, streams, held, .. } = &mut *open;
        let room = match whose {
            Whose::Conversation(conv) => {
                conversations.entry(conv).or_insert_with(|| Room::new(held))
            }
            Whose::Account(account) => streams.entry(account).or_insert_with(|| Room::new(held)),
        };
        Seat { words: Some(room.readers.subscribe()), whose, rooms: self.clone() }
    }

    /// The head that a batch made, if it is one of the newest.
    pub(super) fn head_of(&self, size: u64) -> Option<Arc<Head>> {
        self.lock().heads.iter().rev().find(|head| head.size == size).cloned()
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
        Bell { sizes: Some(bell.subscribe()), account, rings, rooms: self.clone() }
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
            accounts: !open.accounts.is_empty() || !open.streams.is_empty(),
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
            Some(items) => open.hand_out(fresh.size, items, &fresh.members),
            None => {
                let rooms = fresh.conversations.iter().filter_map(|c| open.conversations.get(c));
                let streams = fresh.accounts.iter().filter_map(|a| open.streams.get(a));
                rooms.chain(streams).for_each(|room| room.say(Word::Look));
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
        let rooms = self.conversations.values().chain(self.streams.values());
        rooms.for_each(|room| room.say(Word::Look));
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

    /// Tells each room its part of the batch that made a log of `size`.
    fn hand_out(
        &mut self,
        size: u64,
        items: Vec<FreshItem>,
        members: &HashMap<ConvId, Vec<AccountId>>,
    ) {
        let (mut conversations, mut accounts) = (Vec::new(), Vec::new());
        for item in items {
            let conv = item.item.conv;
            let theirs = members.get(&conv).into_iter().flatten();
            let theirs: Vec<&AccountId> = theirs.filter(|a| self.streams.contains_key(a)).collect();
            let room = self.conversations.get_mut(&conv);
            if room.is_none() && theirs.is_empty() {
                continue;
            }
            let shown = Arc::new(Shown::new(item));
            if room.is_some_and(|room| room.take(&shown)) {
                conversations.push(conv);
            }
            for account in theirs {
                if self.streams.get_mut(account).is_some_and(|room| room.take(&shown)) {
                    accounts.push(*account);
                }
            }
        }
        if !accounts.is_empty() {
            // Before anyone is told of what it proves.
            self.keep_head(size);
        }
        for conv in conversations {
            if let Some(room) = self.conversations.get_mut(&conv) {
                room.hand_over(size);
            }
        }
        for account in accounts {
            if let Some(room) = self.streams.get_mut(&account) {
                room.hand_over(size);
            }
        }
    }

    /// The log is told its head before anyone is told what lies under it.
    fn keep_head(&mut self, size: u64) {
        let head = self.log.as_ref().map(|log| Arc::clone(&log.borrow()));
        if let Some(head) = head.filter(|head| head.size == size) {
            self.heads.push_back(head);
            while self.heads.len() > HEADS {
                self.heads.pop_front();
            }
        }
    }
}

impl Room {
    /// Takes an item of the batch being told; whether it is the first.
    fn take(&mut self, shown: &Arc<Shown>) -> bool {
        self.part.push(Arc::clone(shown));
        self.part.len() == 1
    }

    /// Tells the room its part of the batch.
    fn hand_over(&mut self, size: u64) {
        let batch = Batch::new(size, std::mem::take(&mut self.part), self.held.clone());
        self.say(batch.map_or(Word::Look, |batch| Word::Handed(Arc::new(batch))));
    }

    fn say(&self, word: Word) {
        // Fails only in an empty room, and an empty room is no room.
        let _ = self.readers.send(word);
    }
}

/// A place in a room; leaving the last one closes it.
pub(super) struct Seat {
    /// There until it leaves, which takes the lock: of two at once, the second is the last.
    words: Option<broadcast::Receiver<Word>>,
    whose: Whose,
    rooms: Rooms,
}

impl Seat {
    /// The next word, in order. Words that were missed are one [`Word::Look`]. Cancel safe.
    pub(super) async fn word(&mut self) -> Word {
        let Some(words) = &mut self.words else { return Word::Look };
        // The sender lives in the map for as long as this seat does, so it is never closed.
        match words.recv().await {
            Ok(word) => word,
            Err(RecvError::Lagged(_) | RecvError::Closed) => Word::Look,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.rooms.lock();
        self.words = None;
        let is_last = |room: &Room| room.readers.receiver_count() == 0;
        match self.whose {
            Whose::Conversation(conv) => {
                if open.conversations.get(&conv).is_some_and(is_last) {
                    open.conversations.remove(&conv);
                }
            }
            Whose::Account(account) => {
                if open.streams.get(&account).is_some_and(is_last) {
                    open.streams.remove(&account);
                }
            }
        }
        if open.streams.is_empty() {
            open.heads.clear();
        }
    }
}

/// Rings, whatever it is for.
fn again(bell: &watch::Sender<u64>) {
    bell.send_modify(|count| *count = count.wrapping_add(1));
}

/// A place in an account's room; leaving the last one closes it.
pub(super) struct Bell {
    /// There until it leaves, which takes the lock: of two at once, the second is the last.
    sizes: Option<watch::Receiver<u64>>,
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
        let Some(sizes) = &mut self.sizes else { return 0 };
        let _ = sizes.changed().await;
        *sizes.borrow_and_update()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let mut open = self.rooms.lock();
        self.sizes = None;
        let bells = open.bells(self.rings);
        if bells.get(&self.account).is_some_and(|sizes| sizes.receiver_count() == 0) {
            bells.remove(&self.account);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::batch::HELD;
    use super::*;
    use crate::log::RecentTiles;
    use crate::store::StoredItem;
    use nexo_schema::ids::{DeviceId, MsgId};
    use rocket::futures::FutureExt as _;
    use std::sync::Barrier;
    use std::sync::atomic::Ordering;
    use std::thread;

    pub(in crate::relay) fn conv(n: u8) -> ConvId {
        ConvId([n; 32])
    }

    pub(in crate::relay) fn account(n: u8) -> AccountId {
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

    /// Takes part in all conversations.
    pub(in crate::relay) const EVERYWHERE: u8 = 100;

    /// A batch behind `before` with one item in each of these conversations. In `conv(n)` are
    /// `account(n)` and one that is everywhere.
    pub(in crate::relay) fn fresh(before: u64, convs: &[ConvId], bytes: usize) -> Fresh {
        let items = (before + 1..).zip(convs).map(|(i, c)| item(*c, i, bytes));
        let items: Vec<_> = items.map(|item| FreshItem { item, packets: Vec::new() }).collect();
        let mut conversations = convs.to_vec();
        conversations.sort_unstable();
        conversations.dedup();
        let members = |conv: &ConvId| (*conv, vec![AccountId(conv.0), account(EVERYWHERE)]);
        Fresh {
            before,
            size: before + items.len() as u64,
            members: conversations.iter().map(members).collect(),
            conversations,
            items: Some(items),
            ..Fresh::default()
        }
    }

    /// What the seat was told so far: the positions handed, or `None` for a look.
    fn told(seat: &mut Seat) -> Vec<Option<Vec<u64>>> {
        let positions = |batch: &Batch| batch.behind(0).iter().map(|shown| shown.index()).collect();
        std::iter::from_fn(|| seat.word().now_or_never())
            .map(|word| match word {
                Word::Handed(batch) => Some(positions(&batch)),
                Word::Look => None,
            })
            .collect()
    }

    fn held(rooms: &Rooms, conv: ConvId) -> usize {
        rooms.lock().conversations[&conv].held.room.load(Ordering::Relaxed)
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
    fn an_account_is_handed_what_is_in_its_conversations() {
        let rooms = Rooms::default();
        let (mut one, mut all) = (rooms.stream(account(1)), rooms.stream(account(EVERYWHERE)));
        rooms.ring(fresh(0, &[conv(1), conv(3), conv(1)], 10));
        rooms.ring(fresh(3, &[conv(2)], 10));
        assert_eq!(told(&mut one), [Some(vec![1, 3])]);
        assert_eq!(told(&mut all), [Some(vec![1, 2, 3]), Some(vec![4])]);
        // Another server's: it says which accounts, and the database has the rest.
        let accounts = vec![account(EVERYWHERE)];
        rooms.ring(Fresh { items: None, accounts, ..fresh(4, &[conv(2)], 10) });
        assert_eq!((told(&mut one), told(&mut all)), (vec![], vec![None]));
        rooms.ring(fresh(9, &[conv(3)], 10));
        assert_eq!((told(&mut one), told(&mut all)), (vec![None], vec![None]), "a gap");
    }

    #[test]
    fn a_frame_is_rendered_once_and_shared_by_all_rooms() {
        let rooms = Rooms::default();
        let (mut a, mut b) = (rooms.enter(conv(1)), rooms.stream(account(1)));
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
    fn the_newest_heads_are_kept_while_someone_proves_with_them() {
        let rooms = Rooms::default();
        let head = |size| {
            let tiles = RecentTiles::default();
            Arc::new(Head::new(size, [0; 32], b"".as_slice().into(), 1, tiles))
        };
        let (log, heads) = watch::channel(head(0));
        rooms.under(heads);
        let ring = |before| {
            log.send_replace(head(before + 1));
            rooms.ring(fresh(before, &[conv(1)], 1));
        };
        ring(0);
        assert!(rooms.head_of(1).is_none(), "nobody is there to prove anything to");
        let seat = rooms.stream(account(1));
        let rings = HEADS as u64 + 3;
        (1..rings).for_each(ring);
        assert_eq!(rooms.head_of(rings).map(|head| head.size), Some(rings));
        assert!(rooms.head_of(rings - HEADS as u64 + 1).is_some());
        assert!(rooms.head_of(rings - HEADS as u64).is_none(), "one that is too old");
        drop(seat);
        assert!(rooms.head_of(rings).is_none());
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

    /// The second once counted the first, which had left but for its receiver, and the room stayed.
    #[test]
    fn two_who_leave_at_once_close_the_room() {
        let rooms = Rooms::default();
        for _ in 0..2_000 {
            let start = Barrier::new(2);
            let seats = [(); 2].map(|()| (rooms.stream(account(1)), rooms.listen(account(1))));
            thread::scope(|scope| {
                for seat in seats {
                    scope.spawn(|| {
                        start.wait();
                        drop(seat);
                    });
                }
            });
            let open = rooms.lock();
            assert!(open.streams.is_empty() && open.accounts.is_empty());
        }
    }

    #[test]
    fn empty_rooms_are_forgotten() {
        let rooms = Rooms::default();
        let open = || {
            let open = rooms.lock();
            let rooms = open.conversations.len() + open.streams.len();
            (rooms, open.accounts.len() + open.devices.len())
        };
        let seats = [rooms.enter(conv(1)), rooms.enter(conv(1))];
        drop((rooms.stream(account(1)), rooms.stream(account(1))));
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
