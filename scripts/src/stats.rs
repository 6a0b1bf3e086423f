//! What was measured, and its percentiles.

use std::time::{Duration, Instant};

/// The part of a phase that counts.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Its first instant.
    pub opens: Instant,
    /// The first one that is too late.
    pub shuts: Instant,
}

impl Window {
    /// Whether new messages may still be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        Instant::now() < self.shuts
    }
}

/// What one worker, a phase or all rounds of a case measured.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Microseconds from send to acknowledgement, of those acknowledged within the window.
    latencies: Vec<u32>,
    /// Position in the log of every acknowledged message, within the window or not.
    pub places: Vec<u64>,
    /// Refusals, and what the first one said.
    refused: u64,
    refusal: Option<String>,
    /// Length of all windows together.
    pub measured: Duration,
    /// CPU time of the server in them, where it is known.
    pub cpu: Option<Duration>,
}

impl Sample {
    /// Counts an acknowledgement that came just now.
    pub fn acked(&mut self, window: Window, sent: Instant, place: u64) {
        self.places.push(place);
        let now = Instant::now();
        if now >= window.opens && now < window.shuts {
            self.took(now.duration_since(sent));
        }
    }

    /// Counts something that took so long.
    pub fn took(&mut self, time: Duration) {
        self.latencies.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Counts a refusal.
    pub fn refused(&mut self, why: impl FnOnce() -> String) {
        self.refused += 1;
        self.refusal.get_or_insert_with(why);
    }

    /// Adds another sample: of another worker, or of another round.
    pub fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.places.extend(other.places);
        self.refused += other.refused;
        self.refusal = self.refusal.take().or(other.refusal);
        self.measured += other.measured;
        self.cpu = match (self.cpu, other.cpu) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }

    /// The figures.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let acked = sorted.len();
        let total: u64 = sorted.iter().map(|&micros| u64::from(micros)).sum();
        let per_ack = |cpu: Duration| cpu.as_secs_f64() * 1e6 / acked as f64;
        Summary {
            rate: acked as f64 / self.measured.as_secs_f64().max(f64::MIN_POSITIVE),
            p50: milliseconds(percentile(&sorted, 500)),
            p90: milliseconds(percentile(&sorted, 900)),
            p99: milliseconds(percentile(&sorted, 990)),
            max: milliseconds(percentile(&sorted, 1000)),
            mean: total as f64 / acked.max(1) as f64 / 1000.0,
            cpu: self.cpu.filter(|_| acked > 0).map(per_ack),
            refused: self.refused,
            refusal: self.refusal.clone(),
        }
    }
}

/// The figures of a case on one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Acknowledged messages a second.
    pub rate: f64,
    /// Milliseconds from send to acknowledgement, as the next three; the median.
    pub p50: f64,
    /// See `p50`.
    pub p90: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub max: f64,
    /// The mean, in milliseconds: what the median does not see shows here.
    pub mean: f64,
    /// Microseconds of the server's CPU time, per acknowledged message.
    pub cpu: Option<f64>,
    /// Messages that were refused.
    pub refused: u64,
    /// What the first refusal said.
    pub refusal: Option<String>,
}

/// How often `one` holds `other`, for a table.
#[must_use]
pub fn ratio(one: f64, other: f64) -> String {
    if other == 0.0 { "-".to_owned() } else { format!("{:.2}x", one / other) }
}

/// The nearest-rank percentile, in thousandths; 0 of nothing.
fn percentile(sorted: &[u32], per_mille: usize) -> u32 {
    let rank = (sorted.len() * per_mille).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

fn milliseconds(micros: u32) -> f64 {
    f64::from(micros) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        for (per_mille, expected) in [(500, 50), (900, 90), (990, 99), (1000, 100), (1, 1)] {
            assert_eq!(percentile(&hundred, per_mille), expected);
        }
        assert_eq!(percentile(&[7], 500), 7);
        assert_eq!(percentile(&[1, 9], 500), 1);
        assert_eq!(percentile(&[1, 9], 501), 9);
        assert_eq!(percentile(&[], 500), 0);
    }

    #[test]
    fn only_the_window_counts_but_every_place_is_kept() {
        let now = Instant::now();
        let open = Window { opens: now, shuts: now + Duration::from_secs(3600) };
        let shut = Window { opens: now, shuts: now };
        let mut sample = Sample::default();
        sample.acked(open, now, 1);
        sample.acked(shut, now, 2);
        assert!(open.is_open() && !shut.is_open());
        assert_eq!((sample.latencies.len(), sample.places.len()), (1, 2));
    }

    #[test]
    fn nothing_is_a_multiple_of_nothing() {
        assert_eq!(ratio(3.0, 2.0), "1.50x");
        assert_eq!(ratio(3.0, 0.0), "-");
    }

    #[test]
    fn rounds_add_up() {
        let round = |micros: u64, cpu| {
            let mut sample = Sample::default();
            sample.took(Duration::from_micros(micros));
            sample.measured = Duration::from_secs(1);
            sample.cpu = cpu;
            sample
        };
        let mut all = Sample::default();
        all.add(round(1000, Some(Duration::from_micros(30))));
        all.add(round(3000, Some(Duration::from_micros(50))));
        all.refused(|| "first".into());
        all.refused(|| "second".into());
        let summary = all.summary();
        assert_eq!((summary.rate, summary.p50, summary.max), (1.0, 1.0, 3.0));
        assert_eq!(summary.mean, 2.0);
        assert_eq!(summary.cpu, Some(40.0));
        assert_eq!((summary.refused, summary.refusal.as_deref()), (2, Some("first")));
        let nothing = Sample::default().summary();
        assert_eq!((nothing.rate, nothing.mean), (0.0, 0.0));
    }
}
