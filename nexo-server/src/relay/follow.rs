//! Following a conversation: every item once, in log order, whatever happens in between.
//!
//! A reader has a cursor, the position up to which it was served, and learns of what is behind
//! it in two ways: it reads the database, or it is handed batches by its room. The order of
//! steps is what makes the two one:
//!
//! 1. It enters the room, then it reads the database until nothing is left behind the cursor.
//!    A batch is told after it is committed. So one that is told before the reader has entered
//!    is in the database when it reads; any other it will hear of.
//! 2. Then it takes the room's words in order. Of a batch that it is handed it takes what is
//!    behind its cursor: the rest it has read, since the database may be ahead of the words.
//!    When it takes the batch it has all that came before, for those words came before.
//! 3. Where a word was lost (it read too slowly, or the batch was too large to hold) or says
//!    that only the database knows (another server's batch, or a gap in what was told), it
//!    reads the database again. That covers the lost words, and those still waiting that are
//!    covered too are skipped by 2.
//!
//! No gap: the cursor moves to an item only when all that precede it in the conversation were
//! served. No item twice: only what is behind the cursor is served, and serving moves it.
//!
//! This file does no I/O: [`socket`](super::socket) reads and sends.

use std::sync::Arc;

use nexo_schema::ids::ConvId;

use super::batch::{Batch, Shown};
use super::rooms::{Rooms, Seat, Word};

/// A reader's place in a conversation.
pub(super) struct Follower {
    seat: Seat,
    cursor: u64,
}

impl Follower {
    /// Enters the room. What is behind position `after` must then be read from the database.
    pub(super) fn enter(rooms: &Rooms, conv: ConvId, after: u64) -> Self {
        Self { seat: rooms.enter(conv), cursor: after }
    }

    /// The position up to which the reader was served.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Says that the item at this position was served, and all before it.
    pub(super) fn served(&mut self, index: u64) {
        self.cursor = self.cursor.max(index);
    }

    /// What of a batch that was handed over is to be served.
    pub(super) fn due<'b>(&self, batch: &'b Batch) -> &'b [Arc<Shown>] {
        batch.behind(self.cursor)
    }

    /// The next word of the room. Cancel safe.
    pub(super) async fn word(&mut self) -> Word {
        self.seat.word().await
    }
}

#[cfg(test)]
mod tests {
    use super::super::rooms::WAITING;
    use super::super::rooms::tests::{conv, fresh};
    use super::*;
    use crate::store::Fresh;
    use proptest::prelude::*;
    use rocket::futures::FutureExt as _;

    /// A log of two conversations that is written, told and read in any order.
    #[derive(Default)]
    struct World {
        rooms: Rooms,
        /// The conversation of each position, from 1: what the database has.
        log: Vec<u8>,
        /// Batches committed and not yet told, as their sizes of the log.
        untold: Vec<(u64, Telling)>,
        told: u64,
        readers: Vec<Reader>,
    }

    struct Reader {
        follower: Follower,
        conv: u8,
        after: u64,
        /// What it was served.
        got: Vec<u64>,
        /// Whether it is to read the database before it takes another word.
        looks: bool,
    }

    /// How a batch is told.
    #[derive(Debug, Clone, Copy)]
    enum Telling {
        Items,
        Look,
        /// Not at all: the next one shows the gap.
        Never,
    }

    #[derive(Debug, Clone)]
    enum Step {
        Commit(Vec<u8>, Telling),
        Tell,
        Enter(u8, u64),
        /// The reader takes its next step: a page of the database, or a word.
        Read(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let telling = prop_oneof![
            6 => Just(Telling::Items), 1 => Just(Telling::Look), 1 => Just(Telling::Never)
        ];
        let batch = prop::collection::vec(1u8..3, 1..6);
        prop_oneof![
            4 => (batch, telling).prop_map(|(items, telling)| Step::Commit(items, telling)),
            4 => Just(Step::Tell),
            1 => (1u8..3, 0u64..20).prop_map(|(conv, after)| Step::Enter(conv, after)),
            5 => (0usize..4).prop_map(Step::Read),
        ]
    }

    impl World {
        fn positions(&self, of: u8, after: u64) -> impl Iterator<Item = u64> {
            let positions = (1u64..).zip(self.log.clone());
            positions.filter(move |&(at, conv)| conv == of && at > after).map(|(at, _)| at)
        }

        fn take(&mut self, step: Step) {
            match step {
                Step::Commit(items, telling) => {
                    self.log.extend(items);
                    self.untold.push((self.log.len() as u64, telling));
                }
                Step::Tell if !self.untold.is_empty() => {
                    let (size, telling) = self.untold.remove(0);
                    self.tell(size, telling);
                }
                Step::Tell => {}
                Step::Enter(of, after) => self.readers.push(Reader {
                    follower: Follower::enter(&self.rooms, conv(of), after),
                    conv: of,
                    after,
                    got: Vec::new(),
                    looks: true,
                }),
                Step::Read(n) => {
                    if n < self.readers.len() {
                        self.read(n);
                    }
                }
            }
        }

        fn tell(&mut self, size: u64, telling: Telling) {
            let before = std::mem::replace(&mut self.told, size);
            let positions = (1u64..).zip(&self.log);
            let batch = positions.filter(|&(at, _)| at > before && at <= size);
            let convs: Vec<_> = batch.map(|(_, &of)| conv(of)).collect();
            let told = fresh(before, &convs, 1);
            match telling {
                Telling::Items => self.rooms.ring(told),
                Telling::Look => self.rooms.ring(Fresh { items: None, ..told }),
                Telling::Never => {}
            }
        }

        /// One step of a reader, as the socket takes it; whether there was one to take.
        fn read(&mut self, n: usize) -> bool {
            if self.readers[n].looks {
                let (of, cursor) = (self.readers[n].conv, self.readers[n].follower.cursor());
                // Pages of two, so that words come between them.
                let page: Vec<u64> = self.positions(of, cursor).take(2).collect();
                let reader = &mut self.readers[n];
                reader.looks = !page.is_empty();
                for at in page {
                    reader.follower.served(at);
                    reader.got.push(at);
                }
                return true;
            }
            let reader = &mut self.readers[n];
            match reader.follower.word().now_or_never() {
                Some(Word::Handed(batch)) => {
                    for shown in reader.follower.due(&batch) {
                        reader.follower.served(shown.index());
                        reader.got.push(shown.index());
                    }
                }
                Some(Word::Look) => reader.looks = true,
                None => return false,
            }
            true
        }

        /// Every reader got exactly the beginning of what it should get.
        fn sound(&self) -> bool {
            self.readers.iter().all(|reader| {
                let due: Vec<u64> = self.positions(reader.conv, reader.after).collect();
                due.starts_with(&reader.got)
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// However commits, words, look-ups and lag interleave: nothing is left out, nothing
        /// comes twice, and once everything is told everyone has everything.
        #[test]
        fn every_item_is_served_once_and_in_order(steps in prop::collection::vec(step(), 0..150)) {
            let mut world = World::default();
            for step in steps {
                world.take(step);
                prop_assert!(world.sound());
            }
            // The last batch is told, so a gap before it shows.
            world.take(Step::Commit(vec![1, 2], Telling::Items));
            while !world.untold.is_empty() {
                world.take(Step::Tell);
            }
            for n in 0..world.readers.len() {
                while world.read(n) {}
                let reader = &world.readers[n];
                let due: Vec<u64> = world.positions(reader.conv, reader.after).collect();
                prop_assert_eq!(&reader.got, &due);
            }
        }
    }

    #[test]
    fn who_falls_behind_the_words_reads_the_database_and_goes_on() {
        let mut world = World::default();
        world.take(Step::Enter(1, 0));
        assert!(world.read(0), "nothing there yet");
        let batches = 3 * WAITING;
        for n in 0..batches {
            world.take(Step::Commit(vec![1], Telling::Items));
            world.take(Step::Tell);
            // Once it is well behind, it takes a single word every few batches.
            if n > batches / 2 && n % 7 == 0 {
                world.read(0);
            }
        }
        while world.read(0) {}
        assert_eq!(world.readers[0].got, (1..=batches as u64).collect::<Vec<_>>());
    }

    #[test]
    fn a_cursor_ahead_of_the_log_waits_for_it() {
        let mut world = World::default();
        world.take(Step::Enter(1, 3));
        assert!(world.read(0));
        for _ in 0..2 {
            world.take(Step::Commit(vec![1, 1], Telling::Items));
            world.take(Step::Tell);
        }
        while world.read(0) {}
        assert_eq!(world.readers[0].got, [4]);
    }
}
