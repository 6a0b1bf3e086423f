//! The one place that reads this machine's clock.
//!
//! It dates local rows, DPoP proofs and what people read. Whether a prekey or a head is still
//! good is judged by the log's time signature (design 8, 20).

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix seconds now; 0 on a clock before 1970.
#[must_use]
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Unix milliseconds now; 0 on a clock before 1970.
#[must_use]
pub fn millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.ok().and_then(|d| u64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

/// `2026-11-23T10:00:00Z`; the Unix number itself if it is no date.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let stamp = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    stamp.map_or_else(|| seconds.to_string(), |stamp| stamp.to_string())
}

/// Unix seconds of an RFC 3339 time.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(stamp.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        assert_eq!(rfc3339(1_795_428_000), "2026-11-23T10:00:00Z");
        assert_eq!(parse_rfc3339("2026-11-23T10:00:00Z"), Some(1_795_428_000));
        assert_eq!(parse_rfc3339("2026-11-23T12:00:00+02:00"), Some(1_795_428_000));
        assert_eq!(parse_rfc3339("yesterday"), None);
        assert_eq!(rfc3339(u64::MAX), u64::MAX.to_string());
    }
}
