//! Messages on their way over one socket: which of them may leave, and which are done.
//!
//! Pure: [`flow`](super::flow) seals, sends and verifies.

use std::collections::VecDeque;

use nexo_schema::error::Problem;
use nexo_schema::ids::MsgId;

use super::{Delivered, delivered};
use crate::vault::{OutboxRow, OutboxState};

/// Messages that may wait for the relay: as many of one socket as it lets wait for their commit.
pub(super) const MOST_WAITING: usize = 256;
/// Bytes of the requests that are held for them.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// Messages in the order in which they came.
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of their requests.
    bytes: usize,
    /// Messages that may be on the wire: fewer after the relay could not take them.
    window: usize,
}

/// A message that is not done, or that has one before it that is not.
pub(super) struct Waiting {
    pub(super) key: Option<String>,
    pub(super) row: OutboxRow,
    /// Whether it was sealed a second time, for devices that had changed.
    pub(super) resealed: bool,
    state: State,
}

enum State {
    /// Not on the wire.
    Queued,
    /// On the wire, unanswered.
    Sent,
    /// Refused for the moment.
    Refused(Problem),
    /// In the log.
    Done(Delivered),
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, window: MOST_WAITING }
    }
}

impl Queue {
    /// How many messages may come.
    pub(super) fn room(&self) -> usize {
        if self.bytes >= MOST_BYTES { 0 } else { MOST_WAITING.saturating_sub(self.waiting.len()) }
    }

    /// Whether all that came is done and was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many messages are not done.
    pub(super) fn unacked(&self) -> usize {
        self.waiting.iter().filter(|one| !matches!(one.state, State::Done(_))).count()
    }

    /// Takes a message; one that was acknowledged before is done.
    pub(super) fn push(&mut self, key: Option<String>, row: OutboxRow) {
        self.bytes += row.request.len();
        let state = match row.state {
            OutboxState::Sent { sth_index } => State::Done(delivered(&row, Some(sth_index), true)),
            _ => State::Queued,
        };
        self.waiting.push_back(Waiting { key, row, resealed: false, state });
    }

    /// Has requests leave, in order and as far as the window goes. What stands behind one that
    /// was refused waits for it.
    ///
    /// # Errors
    /// That of `send`.
    pub(super) fn leave<E>(
        &mut self,
        mut send: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.waiting.iter().any(|one| matches!(one.state, State::Refused(_))) {
            return Ok(());
        }
        let sent = self.waiting.iter().filter(|one| matches!(one.state, State::Sent)).count();
        let queued = self.waiting.iter_mut().filter(|one| matches!(one.state, State::Queued));
        for one in queued.take(self.window.saturating_sub(sent)) {
            send(&one.row.request)?;
            one.state = State::Sent;
        }
        Ok(())
    }

    /// The message of this id that is on the wire.
    pub(super) fn sent(&mut self, msg_id: &MsgId) -> Option<&mut Waiting> {
        let mut sent = self.waiting.iter_mut().filter(|one| matches!(one.state, State::Sent));
        sent.find(|one| one.row.msg_id == *msg_id)
    }

    /// Has everything that is not done leave once more: its socket has ended.
    pub(super) fn lost(&mut self) {
        for one in self.waiting.iter_mut().filter(|one| !matches!(one.state, State::Done(_))) {
            one.state = State::Queued;
        }
    }

    /// Messages that were refused, by their place here, once nothing is on the wire.
    pub(super) fn refused(&self) -> Vec<(usize, Problem)> {
        if self.waiting.iter().any(|one| matches!(one.state, State::Sent)) {
            return Vec::new();
        }
        let refused = |(at, one): (usize, &Waiting)| match &one.state {
            State::Refused(problem) => Some((at, problem.clone())),
            _ => None,
        };
        self.waiting.iter().enumerate().filter_map(refused).collect()
    }

    /// The message at a place.
    pub(super) fn at(&self, place: usize) -> Option<&Waiting> {
        self.waiting.get(place)
    }

    /// Has the message at a place leave again, as it is or in a new envelope.
    pub(super) fn again(&mut self, place: usize, resealed: Option<OutboxRow>) {
        let Some(one) = self.waiting.get_mut(place) else { return };
        one.state = State::Queued;
        if let Some(row) = resealed {
            self.bytes = self.bytes.saturating_sub(one.row.request.len()) + row.request.len();
            (one.row, one.resealed) = (row, true);
        }
    }

    /// The relay was crowded: with fewer on the wire, what is refused has fewer behind it that
    /// are not.
    pub(super) fn narrow(&mut self) {
        self.window = (self.window / 2).max(1);
    }

    /// The relay keeps up.
    pub(super) fn widen(&mut self) {
        self.window = (self.window + 1).min(MOST_WAITING);
    }

    /// Messages that are done and have none before them that is not.
    pub(super) fn take_done(&mut self) -> Vec<Delivered> {
        let mut done = Vec::new();
        while self.waiting.front().is_some_and(|one| matches!(one.state, State::Done(_))) {
            let Some(Waiting { state, row, .. }) = self.waiting.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(row.request.len());
            if let State::Done(delivered) = state {
                done.push(delivered);
            }
        }
        done
    }

    /// Everything that is done, in its order; what is not is let go of.
    pub(super) fn end(&mut self) -> Vec<Delivered> {
        self.bytes = 0;
        let done = |one: Waiting| match one.state {
            State::Done(delivered) => Some(delivered),
            _ => None,
        };
        std::mem::take(&mut self.waiting).into_iter().filter_map(done).collect()
    }
}

impl Waiting {
    /// It is in the log; a stateless device that repeats a key does not know where.
    pub(super) fn done(&mut self, sth_index: Option<u64>, duplicate: bool) {
        self.state = State::Done(delivered(&self.row, sth_index, duplicate));
    }

    /// It is refused for the moment.
    pub(super) fn refuse(&mut self, problem: Problem) {
        self.state = State::Refused(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::{AccountId, ConversationId, EnvelopeHash};
    use nexo_schema::error::ErrorCode;
    use nexo_schema::ids::Handle;
    use proptest::prelude::*;

    fn id(number: usize) -> MsgId {
        MsgId::parse(&format!("m{number}")).unwrap()
    }

    fn row(number: usize) -> OutboxRow {
        OutboxRow {
            msg_id: id(number),
            conversation: ConversationId::from_bytes([1; 32]),
            peer: AccountId::from_bytes([2; 32]),
            peer_handle: Handle::parse("bob").unwrap(),
            dseq: Some(number as u64),
            cseq: number as u64,
            envelope: EnvelopeHash::from_bytes([3; 32]),
            request: number.to_string().into_bytes(),
            text: None,
            created_at: 1,
            state: OutboxState::Unsent,
            control: false,
        }
    }

    fn busy() -> Problem {
        Problem::new(ErrorCode::RateLimited, "slow down")
    }

    /// What leaves, by number.
    fn left(queue: &mut Queue) -> Vec<usize> {
        let mut left = Vec::new();
        let done: Result<(), ()> = queue.leave(|request| {
            left.push(std::str::from_utf8(request).unwrap().parse().unwrap());
            Ok(())
        });
        done.unwrap();
        left
    }

    fn places(delivered: &[Delivered]) -> Vec<Option<u64>> {
        delivered.iter().map(|one| one.sth_index).collect()
    }

    #[test]
    fn what_was_acknowledged_before_is_done_and_told_in_its_place() {
        let mut queue = Queue::default();
        queue.push(None, row(0));
        queue.push(None, OutboxRow { state: OutboxState::Sent { sth_index: 9 }, ..row(1) });
        queue.push(None, row(2));
        assert_eq!(left(&mut queue), [0, 2]);
        queue.sent(&id(2)).unwrap().done(Some(11), false);
        assert!(queue.take_done().is_empty() && queue.sent(&id(1)).is_none());
        queue.sent(&id(0)).unwrap().done(Some(10), false);
        let done = queue.take_done();
        assert_eq!(places(&done), [Some(10), Some(9), Some(11)]);
        assert_eq!(done.iter().map(|one| one.duplicate).collect::<Vec<_>>(), [false, true, false]);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn no_more_come_than_may_be_held() {
        let mut queue = Queue::default();
        for number in 0..MOST_WAITING {
            queue.push(None, row(number));
        }
        assert_eq!(queue.room(), 0);
        let mut queue = Queue::default();
        queue.push(None, OutboxRow { request: vec![b'1'; MOST_BYTES], ..row(1) });
        assert_eq!(queue.room(), 0, "long ones");
    }

    #[test]
    fn what_was_refused_goes_before_what_came_behind_it() {
        let mut queue = Queue::default();
        (0..4).for_each(|number| queue.push(None, row(number)));
        assert_eq!(left(&mut queue), [0, 1, 2, 3]);
        queue.push(None, row(4));
        queue.sent(&id(1)).unwrap().refuse(busy());
        queue.sent(&id(2)).unwrap().refuse(busy());
        assert!(left(&mut queue).is_empty() && queue.refused().is_empty(), "0 and 3 are out");
        queue.sent(&id(0)).unwrap().done(Some(1), false);
        queue.sent(&id(3)).unwrap().done(Some(2), false);
        let refused = queue.refused();
        assert_eq!(refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2]);
        queue.again(1, None);
        queue.again(2, Some(OutboxRow { request: b"22".to_vec(), ..row(2) }));
        assert!(queue.at(2).unwrap().resealed);
        assert_eq!(left(&mut queue), [1, 22, 4]);
        // An end before the last receipt tells what is done.
        assert_eq!((queue.unacked(), places(&queue.end())), (3, vec![Some(1), Some(2)]));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Leave,
        Ack(prop::sample::Index),
        Refuse(prop::sample::Index),
        Lost,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Push),
            3 => Just(Step::Leave),
            5 => any::<prop::sample::Index>().prop_map(Step::Ack),
            1 => any::<prop::sample::Index>().prop_map(Step::Refuse),
            1 => Just(Step::Lost),
        ]
    }

    /// Has all that is due leave, and notes it as on the wire.
    fn pump(queue: &mut Queue, wire: &mut Vec<usize>) {
        let refused = queue.refused();
        if !refused.is_empty() {
            queue.narrow();
        }
        refused.into_iter().for_each(|(at, _)| queue.again(at, None));
        wire.extend(left(queue));
    }

    proptest! {
        /// Whatever is acknowledged, refused and lost: all are done once and in order, no more
        /// than the window is on the wire, and what leaves together leaves in order.
        #[test]
        fn all_are_done_in_order(steps in prop::collection::vec(step(), 0..300)) {
            let (mut queue, mut wire) = (Queue::default(), Vec::new());
            let (mut pushed, mut done, mut place) = (0, Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Push if queue.room() > 0 => {
                        queue.push(None, row(pushed));
                        pushed += 1;
                    }
                    Step::Push => {}
                    Step::Leave => {
                        let before = wire.len();
                        pump(&mut queue, &mut wire);
                        prop_assert!(wire[before..].is_sorted());
                    }
                    Step::Ack(at) if !wire.is_empty() => {
                        place += 1;
                        let number = wire.remove(at.index(wire.len()));
                        queue.sent(&id(number)).unwrap().done(Some(place), false);
                        queue.widen();
                    }
                    Step::Refuse(at) if !wire.is_empty() => {
                        let number = wire.remove(at.index(wire.len()));
                        queue.sent(&id(number)).unwrap().refuse(busy());
                    }
                    Step::Ack(_) | Step::Refuse(_) => {}
                    Step::Lost => {
                        queue.lost();
                        wire.clear();
                    }
                }
                prop_assert!(wire.len() <= MOST_WAITING);
                done.extend(queue.take_done());
            }
            while !queue.is_empty() {
                pump(&mut queue, &mut wire);
                prop_assert!(!wire.is_empty(), "it goes on");
                for number in wire.drain(..) {
                    queue.sent(&id(number)).unwrap().done(Some(0), false);
                }
                done.extend(queue.take_done());
            }
            let ids: Vec<_> = done.into_iter().map(|one| one.msg_id).collect();
            prop_assert_eq!(ids, (0..pushed).map(id).collect::<Vec<_>>());
            prop_assert_eq!(queue.bytes, 0);
        }
    }
}
