//! What a socket that said hello is sent, and how far it has got.
//!
//! It follows all of its account's conversations, or some, as [`follow`](super::follow) has it for
//! one: it hears the account's room first and reads the database then, takes batches while it has
//! all that came before them, and reads the database again where it has not. A full window is one
//! more reason to fall behind: what comes meanwhile is not kept here, for the database has it.
//!
//! This file does no I/O: [`pour`](super::pour) reads and sends.

use std::sync::Arc;

use nexo_schema::ids::{ConvId, CursorName};
use nexo_schema::ws::Notice;

use super::batch::{Batch, Shown};
use super::rooms::{Rooms, Seat, Word};
use super::window::Window;
use crate::http::present::base64s;
use crate::store::Feed;

/// See the top.
pub(super) struct Stream {
    seat: Seat,
    pub(super) feed: Feed,
    pub(super) window: Window,
    /// Under which its acks are kept.
    pub(super) name: Option<CursorName>,
    /// Size of the head told last, or that the client brought; `None` without proofs.
    pub(super) told: Option<Option<u64>>,
    /// Whether a head has been told on this socket.
    head_told: bool,
    /// Whether there may be something behind what was sent that only the database has.
    behind: bool,
}

/// What goes with items that were handed over: the head's frame, unless it was the one told last,
/// and an audit path for each item.
pub(super) struct Proofs {
    pub(super) head: Option<String>,
    pub(super) paths: Vec<Vec<String>>,
}

impl Stream {
    /// Behind the window's position; what is there must be read from the database first.
    pub(super) fn new(
        seat: Seat,
        feed: Feed,
        window: Window,
        name: Option<CursorName>,
        told: Option<Option<u64>>,
    ) -> Self {
        Self { seat, feed, window, name, told, head_told: false, behind: true }
    }

    /// The next word of the account's room. Cancel safe.
    pub(super) async fn word(&mut self) -> Word {
        self.seat.word().await
    }

    /// Whether the database is to be read, and how many items there is room for.
    pub(super) fn wants(&self) -> Option<usize> {
        let room = self.window.room();
        (self.behind && room > 0).then_some(room)
    }

    /// Says that only the database has what is new.
    pub(super) fn look(&mut self) {
        self.behind = true;
    }

    /// Says that the database was read, to the end or not, as of before it is sent.
    pub(super) fn looked(&mut self, more: bool) {
        self.behind = more;
    }

    /// What of a batch is sent now, as far as the window goes; `None` if the database has
    /// something that comes before it.
    pub(super) fn due(&mut self, batch: &Batch) -> Option<Vec<Arc<Shown>>> {
        if self.behind {
            return None;
        }
        let new = batch.behind(self.window.sent_to()).iter();
        let mut due: Vec<_> = new.filter(|shown| self.has(shown.conv())).cloned().collect();
        let room = self.window.room();
        self.behind = due.len() > room;
        due.truncate(room);
        Some(due)
    }

    /// Whether the socket is for this conversation, which is one of its account's.
    fn has(&self, conv: ConvId) -> bool {
        match &self.feed {
            Feed::Some(_, convs) => convs.contains(&conv),
            Feed::Account(_) | Feed::Conversation(_) => true,
        }
    }

    /// Proves these items of the batch that made a log of `size`, in its head and from the one
    /// told last; `None` if that takes the database.
    pub(super) fn proofs(
        &mut self,
        rooms: &Rooms,
        size: u64,
        due: &[Arc<Shown>],
    ) -> Option<Proofs> {
        let Some(from) = self.told else {
            return Some(Proofs { head: None, paths: Vec::new() });
        };
        let head = rooms.head_of(size)?;
        let consistency = match from {
            Some(from) => Some(base64s(&head.tiles.since(from)?)),
            None => None,
        };
        let path = |shown: &Arc<Shown>| head.tiles.path(shown.index().checked_sub(1)?);
        let paths: Option<Vec<_>> = due.iter().map(path).collect();
        let paths = paths?.iter().map(|path| base64s(path)).collect();
        let note = String::from_utf8_lossy(&head.note).into_owned();
        Some(Proofs { head: self.tell(size, note, consistency), paths })
    }

    /// The frame of a head that is told now, unless it is the one told last.
    pub(super) fn tell(
        &mut self,
        size: u64,
        note: String,
        consistency: Option<Vec<String>>,
    ) -> Option<String> {
        let told = self.told.as_mut()?;
        if *told == Some(size) && self.head_told {
            return None;
        }
        (*told, self.head_told) = (Some(size), true);
        serde_json::to_string(&Notice::Head { size, head: Some(note), consistency }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rooms::tests::{EVERYWHERE, account, conv, fresh};
    use super::*;
    use crate::log::{Head, RecentTiles};
    use crate::store::Fresh;
    use proptest::prelude::*;
    use rocket::futures::FutureExt as _;
    use rocket::tokio::sync::watch;

    const WINDOW: u16 = 5;

    /// A log of three conversations that is written, told, read and acknowledged in any order.
    #[derive(Default)]
    struct World {
        rooms: Rooms,
        /// The conversation of each position, from 1: what the database has.
        log: Vec<u8>,
        /// Batches committed and not yet told, as their sizes of the log.
        untold: Vec<(u64, bool)>,
        told: u64,
        readers: Vec<Reader>,
    }

    struct Reader {
        stream: Stream,
        wants: Vec<u8>,
        after: u64,
        got: Vec<u64>,
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A batch, told with its items or without.
        Commit(Vec<u8>, bool),
        Tell,
        Hello(Vec<u8>, u64),
        Read(usize),
        Ack(usize, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let convs = || prop::collection::vec(1u8..4, 1..6);
        prop_oneof![
            4 => (convs(), prop::bool::weighted(0.9)).prop_map(|(c, items)| Step::Commit(c, items)),
            4 => Just(Step::Tell),
            1 => (convs(), 0u64..20).prop_map(|(convs, after)| Step::Hello(convs, after)),
            5 => (0usize..4).prop_map(Step::Read),
            2 => (0usize..4, 1u64..9).prop_map(|(reader, by)| Step::Ack(reader, by)),
        ]
    }

    impl World {
        fn positions(&self, of: &[u8], after: u64) -> Vec<u64> {
            let positions = (1u64..).zip(&self.log);
            let theirs = positions.filter(|(at, conv)| of.contains(conv) && *at > after);
            theirs.map(|(at, _)| at).collect()
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Commit(convs, items) => {
                    self.log.extend(convs);
                    self.untold.push((self.log.len() as u64, items));
                }
                Step::Tell if !self.untold.is_empty() => {
                    let (size, items) = self.untold.remove(0);
                    let before = std::mem::replace(&mut self.told, size);
                    let batch = &self.log[usize::try_from(before).unwrap()..];
                    let batch = &batch[..usize::try_from(size - before).unwrap()];
                    let convs: Vec<_> = batch.iter().map(|&n| conv(n)).collect();
                    let told = fresh(before, &convs, 1);
                    self.rooms.ring(match items {
                        true => told,
                        false => {
                            let accounts = vec![account(EVERYWHERE)];
                            Fresh { items: None, accounts, ..told }
                        }
                    });
                }
                Step::Tell => {}
                Step::Hello(wants, after) => {
                    let who = account(EVERYWHERE);
                    let feed = Feed::Some(who, wants.iter().map(|&n| conv(n)).collect());
                    let window = Window::new(after, WINDOW);
                    let stream = Stream::new(self.rooms.stream(who), feed, window, None, None);
                    self.readers.push(Reader { stream, wants, after, got: Vec::new() });
                }
                Step::Read(n) if n < self.readers.len() => {
                    self.read(n);
                }
                Step::Ack(n, by) if n < self.readers.len() => {
                    let window = &mut self.readers[n].stream.window;
                    let _ = window.ack(window.acked_to() + by);
                }
                Step::Read(_) | Step::Ack(..) => {}
            }
        }

        /// One step of a reader, as the socket takes it; whether there was one to take.
        fn read(&mut self, n: usize) -> bool {
            let Reader { stream, wants, .. } = &self.readers[n];
            if let Some(room) = stream.wants() {
                // Pages of two, so that words come between them.
                let mut page = self.positions(wants, stream.window.sent_to());
                let most = room.min(2);
                let more = page.len() > most;
                page.truncate(most);
                let Reader { stream, got, .. } = &mut self.readers[n];
                stream.looked(more);
                page.iter().for_each(|&at| stream.window.sent(at));
                got.extend(page);
                return true;
            }
            let Reader { stream, got, .. } = &mut self.readers[n];
            match stream.word().now_or_never() {
                Some(Word::Handed(batch)) => {
                    for shown in stream.due(&batch).into_iter().flatten() {
                        stream.window.sent(shown.index());
                        got.push(shown.index());
                    }
                }
                Some(Word::Look) => stream.look(),
                None => return false,
            }
            true
        }

        fn sound(&self) -> bool {
            self.readers.iter().all(|Reader { stream, wants, after, got }| {
                let open = got.iter().filter(|&&at| at > stream.window.acked_to()).count();
                self.positions(wants, *after).starts_with(got) && open <= usize::from(WINDOW)
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// However commits, words, look-ups, lag and acks interleave: nothing is left out,
        /// nothing comes twice, never more than the window is open, and whoever acknowledges
        /// has everything in the end.
        #[test]
        fn every_item_is_sent_once_and_in_order(steps in prop::collection::vec(step(), 0..150)) {
            let mut world = World::default();
            for step in steps {
                world.take(step);
                prop_assert!(world.sound());
            }
            while !world.untold.is_empty() {
                world.take(Step::Tell);
            }
            for n in 0..world.readers.len() {
                loop {
                    let window = &mut world.readers[n].stream.window;
                    let _ = window.ack(window.sent_to());
                    if !world.read(n) {
                        break;
                    }
                }
                let Reader { wants, after, got, .. } = &world.readers[n];
                prop_assert_eq!(got, &world.positions(wants, *after));
            }
        }
    }

    #[test]
    fn who_has_everything_before_a_batch_is_not_sent_to_the_database() {
        let mut world = World::default();
        world.take(Step::Hello(vec![1, 2], 0));
        assert!(world.read(0), "nothing there yet");
        for n in 0..3 {
            world.take(Step::Commit(vec![1, 3, 2], true));
            world.take(Step::Tell);
            assert!(world.readers[0].stream.wants().is_none());
            assert!(world.read(0), "batch {n}");
        }
        assert_eq!(world.readers[0].got, [1, 3, 4, 6, 7], "as far as the window goes");
        assert!(world.readers[0].stream.wants().is_none(), "there is no room");
        world.take(Step::Ack(0, 4));
        assert_eq!(world.readers[0].stream.wants(), Some(3), "the rest is in the database");
        assert!(world.read(0));
        assert_eq!(world.readers[0].got.last(), Some(&9));
    }

    #[test]
    fn a_batch_is_proved_in_its_own_head_while_that_is_kept() {
        let rooms = Rooms::default();
        let tiles = RecentTiles::new(1, []);
        let head = Arc::new(Head::new(1, [0; 32], b"note".as_slice().into(), 1, tiles));
        let (_log, heads) = watch::channel(head);
        rooms.under(heads);
        let stream = |told| {
            let (who, window) = (account(1), Window::new(0, WINDOW));
            Stream::new(rooms.stream(who), Feed::Account(who), window, None, told)
        };
        let mut first = stream(Some(None));
        rooms.ring(fresh(0, &[conv(1)], 1));
        let proofs = first.proofs(&rooms, 1, &[]).unwrap();
        assert_eq!(proofs.head.unwrap(), r#"{"type":"head","size":1,"head":"note"}"#);
        assert!(first.proofs(&rooms, 1, &[]).unwrap().head.is_none(), "told already");
        assert!(first.proofs(&rooms, 2, &[]).is_none(), "a head that is not kept");
        assert!(stream(Some(Some(2))).proofs(&rooms, 1, &[]).is_none(), "a client that knows more");
        let proofs = stream(Some(Some(0))).proofs(&rooms, 1, &[]).unwrap();
        let head = proofs.head.unwrap();
        assert_eq!(head, r#"{"type":"head","size":1,"head":"note","consistency":[]}"#);
        let unproved = stream(None).proofs(&rooms, 7, &[]).unwrap();
        assert!(unproved.head.is_none() && unproved.paths.is_empty());
    }
}
