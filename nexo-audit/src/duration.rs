//! Durations as people write them: on the command line and in trust files.
//!
//! ```text
//! duration = digits unit        unit = s | m | h | d
//! ```

use std::time::Duration;

/// Why text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a whole number and a unit: 90s, 15m, 24h or 7d")]
pub(crate) struct DurationError;

/// Reads a duration.
///
/// # Errors
/// [`DurationError`], also for more seconds than 64 bits hold.
pub(crate) fn duration(text: &str) -> Result<Duration, DurationError> {
    let (number, unit) =
        text.split_at_checked(text.len().saturating_sub(1)).ok_or(DurationError)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(DurationError),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DurationError);
    }
    let number: u64 = number.parse().map_err(|_| DurationError)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or(DurationError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "5", "5w", "-5s", "+5s", "5 s", "1.5h", "5µ", "99999999999999999999s"]
        {
            assert_eq!(duration(bad), Err(DurationError), "{bad:?}");
        }
        assert_eq!(duration("300000000000000d"), Err(DurationError));
    }
}
