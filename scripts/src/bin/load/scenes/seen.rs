//! What the sockets of a phase saw, and what it says about time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nexo_scripts::stats::Sample;

/// Low bits of a number: of messages of one microsecond.
const COUNT_BITS: u32 = 12;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds from when this program first asked to `instant`.
pub(super) fn since_start(instant: Instant) -> u64 {
    u64::try_from(instant.duration_since(*START).as_micros()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    let start = *START;
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The number of a sender's `count`th message, sent now.
pub(super) fn stamp(count: u64) -> u64 {
    now() << COUNT_BITS | count & ((1 << COUNT_BITS) - 1)
}

/// See the top. Times are in microseconds since the start.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// A place in the log, and when a frame said that it is taken.
    placed: Vec<(u64, u64)>,
    deliveries: Vec<Delivery>,
    /// Bytes of a delivered frame.
    pub(super) frame: usize,
    /// When the window opened, and when it shut.
    pub(super) window: (u64, u64),
    pub(super) cpu: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Delivery {
    number: u64,
    place: u64,
    at: u64,
}

impl Seen {
    /// Notes that what is at `place` is committed.
    pub(super) fn committed(&mut self, place: u64) {
        self.placed.push((place, now()));
    }

    /// Notes a message with its place, in a frame of `length` bytes.
    pub(super) fn delivered(&mut self, number: u64, place: u64, length: usize) {
        self.deliveries.push(Delivery { number, place, at: now() });
        self.frame = length;
    }

    /// Messages that came.
    pub(super) fn deliveries(&self) -> usize {
        self.deliveries.len()
    }

    /// Takes in what another socket saw.
    pub(super) fn add(&mut self, other: Self) {
        self.placed.extend(other.placed);
        self.deliveries.extend(other.deliveries);
        self.frame = self.frame.max(other.frame);
    }

    /// From the sender's call to the listener.
    pub(super) fn end_to_end(&self) -> Sample {
        self.sample(|delivery| delivery.number >> COUNT_BITS)
    }

    /// From the first frame that told of the commit, to whomever, to the listener. The log is
    /// committed in its order: what tells of a place tells of all before it.
    pub(super) fn after_commit(&self) -> Sample {
        let delivered = self.deliveries.iter().map(|delivery| (delivery.place, delivery.at));
        let mut told: Vec<_> = self.placed.iter().copied().chain(delivered).collect();
        told.sort_unstable();
        let mut first = u64::MAX;
        for (_, at) in told.iter_mut().rev() {
            first = first.min(*at);
            *at = first;
        }
        self.sample(|delivery| {
            let behind = told.partition_point(|&(place, _)| place < delivery.place);
            told.get(behind).map_or(delivery.at, |&(_, first)| first)
        })
    }

    /// Deliveries within the window, each with what it took since `from`.
    fn sample(&self, from: impl Fn(&Delivery) -> u64) -> Sample {
        let (opens, shuts) = self.window;
        let mut sample = Sample::default();
        for delivery in self.deliveries.iter().filter(|d| (opens..shuts).contains(&d.at)) {
            sample.took(Duration::from_micros(delivery.at.saturating_sub(from(delivery))));
        }
        sample.measured = Duration::from_micros(shuts - opens);
        sample.cpu = self.cpu;
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_knows_when_it_was_sent_and_committed() {
        let delivery = |sent: u64, place, at| Delivery { number: sent << COUNT_BITS, place, at };
        let seen = Seen {
            // What comes later in the log was heard of first: then it is all committed.
            placed: vec![(1, 2_900), (3, 2_500), (2, 2_700)],
            // The second came before its ack, the third after the window.
            deliveries: vec![
                delivery(1_000, 1, 3_000),
                delivery(2_000, 4, 8_000),
                delivery(2_000, 2, 20_000),
            ],
            window: (0, 10_000),
            ..Seen::default()
        };
        let summary = seen.end_to_end().summary();
        assert_eq!((summary.p50, summary.max, summary.rate), (2.0, 6.0, 200.0));
        let summary = seen.after_commit().summary();
        assert_eq!((summary.p50, summary.max), (0.0, 0.5));
    }
}
