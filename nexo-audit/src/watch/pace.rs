//! How long to wait: between rounds, after rounds that reached nobody, between deliveries.
//!
//! Waits are spread, so that many watchers of one log, or many notices to one receiver, do not
//! come at once. The spread needs no secrecy, so it is taken from the standard library's random
//! hash keys.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Longest wait between two rounds that reached nobody, unless the interval is longer.
const LONGEST_ROUND_WAIT: Duration = Duration::from_secs(15 * 60);
/// First wait after a delivery that failed.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait after a delivery that failed.
const LONGEST_RETRY: Duration = Duration::from_secs(10 * 60);
/// Part of a wait by which it may be shorter: one tenth.
const SPREAD: u32 = 10;

/// Wait before the next round, after `misses` rounds in a row that reached nobody.
pub(crate) fn round(interval: Duration, misses: u32) -> Duration {
    spread(grown(interval, misses, LONGEST_ROUND_WAIT.max(interval)))
}

/// Wait before the next attempt, after `failures` of them, at least one.
pub(crate) fn retry(failures: u32) -> Duration {
    spread(grown(FIRST_RETRY, failures.saturating_sub(1), LONGEST_RETRY))
}

/// Doubled `times` times, up to `longest`.
fn grown(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

fn spread(wait: Duration) -> Duration {
    let part = wait / SPREAD;
    // Keys are random for each value of the type.
    let random = RandomState::new().hash_one(0u8) >> 32;
    let less = part.as_millis().saturating_mul(random.into()) >> 32;
    wait.saturating_sub(Duration::from_millis(u64::try_from(less).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(wait: Duration, seconds: u64) -> bool {
        let most = Duration::from_secs(seconds);
        wait <= most && wait >= most - most / SPREAD
    }

    #[test]
    fn rounds_come_at_the_interval_and_ever_later_when_nobody_is_there() {
        let minute = Duration::from_secs(60);
        for (misses, seconds) in [(0, 60), (1, 120), (2, 240), (3, 480), (4, 900), (40, 900)] {
            assert!(about(round(minute, misses), seconds), "{misses}");
        }
        let hour = Duration::from_secs(3600);
        assert!(about(round(hour, 0), 3600) && about(round(hour, u32::MAX), 3600));
    }

    #[test]
    fn deliveries_are_tried_again_ever_later() {
        for (failures, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (99, 600)]
        {
            assert!(about(retry(failures), seconds), "{failures}");
        }
    }

    #[test]
    fn waits_are_spread() {
        let waits: Vec<_> = (0..20).map(|_| round(Duration::from_secs(3600), 0)).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
