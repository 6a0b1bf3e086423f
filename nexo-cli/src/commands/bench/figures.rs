//! Durations, as percentiles.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// What so many per cent of the durations are not above (nearest rank).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Percentiles {
    p50: Duration,
    p90: Duration,
    p99: Duration,
    most: Duration,
}

impl Percentiles {
    /// Of these, in whatever order; all zero of none.
    pub(super) fn of(durations: &[Duration]) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Self { p50: at(50), p90: at(90), p99: at(99), most: at(100) }
    }

    /// In milliseconds.
    pub(super) fn object(&self) -> Value {
        let Self { p50, p90, p99, most } = *self;
        json!({"p50": millis(p50), "p90": millis(p90), "p99": millis(p99), "max": millis(most)})
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p90, p99, most } = *self;
        write!(
            f,
            "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
            millis(p50),
            millis(p90),
            millis(p99),
            millis(most)
        )
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let Percentiles { p50, p90, p99, most } = Percentiles::of(&hundred);
        assert_eq!([p50, p90, p99, most].map(|d| d.as_millis()), [50, 90, 99, 100]);
        let two = Percentiles::of(&[Duration::from_millis(7), Duration::from_micros(1500)]);
        assert_eq!((two.p50, two.p90), (Duration::from_micros(1500), Duration::from_millis(7)));
        assert_eq!(two.object()["p50"], 1.5);
        assert_eq!(Percentiles::of(&[]), Percentiles::default());
    }
}
