//! The relay's clock: the only place in the server that asks the system for the time.
//!
//! Everything that depends on time takes it as a value, and a test holds a clock that moves
//! when told. Rate limits do not come here: they measure spans on a monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix time, from the system or from a test. Clones of a stepped clock move together.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's wall clock.
    #[default]
    System,
    /// Stands still at these milliseconds until [`Clock::step`].
    Stepped(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `seconds` since the epoch.
    #[must_use]
    pub fn fixed(seconds: u64) -> Self {
        Self::Stepped(Arc::new(AtomicU64::new(seconds.saturating_mul(1000))))
    }

    /// Seconds since the Unix epoch, rounded down.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.milliseconds() / 1000
    }

    /// Milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub fn milliseconds(&self) -> u64 {
        match self {
            // A clock set before 1970 reads as 1970: every token and challenge is then from
            // the future and refused, which is the safe side.
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_millis),
            Self::Stepped(at) => at.load(Ordering::SeqCst),
        }
    }

    /// Moves a stepped clock forward; the system's clock is not ours to move.
    pub fn step(&self, by: Duration) {
        if let Self::Stepped(at) = self {
            at.fetch_add(whole_millis(by), Ordering::SeqCst);
        }
    }
}

fn whole_millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_past_2025() {
        assert!(Clock::default().seconds() > 1_735_000_000);
    }

    #[test]
    fn a_stepped_clock_and_its_clones_move_when_told() {
        let clock = Clock::fixed(100);
        let other = clock.clone();
        assert_eq!((clock.seconds(), clock.milliseconds()), (100, 100_000));
        other.step(Duration::from_millis(1999));
        assert_eq!((clock.seconds(), clock.milliseconds()), (101, 101_999));
    }
}
