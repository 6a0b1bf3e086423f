//! What a socket was sent and has not acknowledged: no more than its window, so that a reader
//! that has stopped costs a bounded amount, and what is sent again when it comes back is bounded.
//!
//! Pure: [`pour`](super::pour) reads and sends.

use std::collections::VecDeque;

/// The client acknowledged what it was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ack: position {cursor} was not sent; the last one sent is {sent}")]
pub(super) struct NotSent {
    cursor: u64,
    sent: u64,
}

/// Positions sent, and those of them that wait for an acknowledgement.
#[derive(Debug)]
pub(super) struct Window {
    most: usize,
    sent: u64,
    acked: u64,
    /// Ascending, all behind `acked` and none behind `sent`.
    open: VecDeque<u64>,
}

impl Window {
    /// Of `most` items, behind position `after`.
    pub(super) fn new(after: u64, most: u16) -> Self {
        Self { most: usize::from(most.max(1)), sent: after, acked: after, open: VecDeque::new() }
    }

    /// The position up to which everything was sent.
    pub(super) fn sent_to(&self) -> u64 {
        self.sent
    }

    /// The position up to which everything is acknowledged.
    pub(super) fn acked_to(&self) -> u64 {
        self.acked
    }

    /// Items that may be sent now.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(self.open.len())
    }

    /// Says that an item was sent. Positions ascend.
    pub(super) fn sent(&mut self, index: u64) {
        self.sent = self.sent.max(index);
        self.open.push_back(index);
    }

    /// Takes an acknowledgement of everything up to `cursor`; whether it says anything new.
    ///
    /// # Errors
    /// [`NotSent`]: believed, it would leave out what lies between.
    pub(super) fn ack(&mut self, cursor: u64) -> Result<bool, NotSent> {
        if cursor > self.sent {
            return Err(NotSent { cursor, sent: self.sent });
        }
        if cursor <= self.acked {
            return Ok(false);
        }
        self.acked = cursor;
        while self.open.front().is_some_and(|&index| index <= cursor) {
            self.open.pop_front();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_ack_makes_room_and_none_ahead_of_what_was_sent_is_believed() {
        let mut window = Window::new(10, 2);
        assert_eq!(window.ack(11), Err(NotSent { cursor: 11, sent: 10 }));
        assert_eq!((window.room(), window.ack(10)), (2, Ok(false)));
        window.sent(12);
        window.sent(15);
        assert_eq!((window.room(), window.sent_to(), window.acked_to()), (0, 15, 10));
        assert_eq!(window.ack(16), Err(NotSent { cursor: 16, sent: 15 }));
        // A position between two items acknowledges the one before it.
        assert_eq!((window.ack(13), window.room()), (Ok(true), 1));
        assert_eq!((window.ack(12), window.acked_to()), (Ok(false), 13));
        assert_eq!((window.ack(15), window.room()), (Ok(true), 2));
    }

    proptest! {
        /// However sends and acks interleave, what is open is what was sent behind the newest
        /// ack, and never more than the window.
        #[test]
        fn open_is_what_was_sent_and_not_acked(
            most in 1u16..20,
            steps in prop::collection::vec((any::<bool>(), 1u64..5), 0..200),
        ) {
            let (mut window, mut all) = (Window::new(0, most), Vec::new());
            for (sends, by) in steps {
                if sends && window.room() > 0 {
                    all.push(window.sent_to() + by);
                    window.sent(window.sent_to() + by);
                } else {
                    let _ = window.ack(window.acked_to() + by);
                }
                let open = all.iter().filter(|&&index| index > window.acked_to()).count();
                prop_assert_eq!(window.room() + open, usize::from(most));
                prop_assert!(window.acked_to() <= window.sent_to());
            }
        }
    }
}
