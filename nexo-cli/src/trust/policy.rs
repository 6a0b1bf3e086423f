//! Which account a handle may be, and on whose word (e2ee 2.6, 2.21).

use clap::ValueEnum;
use nexo_schema::ids::Handle;

use crate::e2ee::{AccountId, parse_fingerprint};

/// Longest file of pins that is read, bytes; a line has at most 100.
pub const MAX_PINS: u64 = 1024 * 1024;

/// What is accepted for a handle that nobody has named an account for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PinMode {
    /// Nothing: only accounts named by fingerprint.
    Pinned,
    /// The first account that the log has under it, and no other one later.
    #[default]
    Log,
    /// Also another account later, with a warning.
    Tofu,
}

/// The policy of a run.
#[derive(Debug, Clone, Default)]
pub struct PinPolicy {
    /// What is accepted without a person's word.
    pub mode: PinMode,
    /// Words of this run; before those that are stored.
    pub pins: Vec<(Handle, AccountId)>,
}

/// A line of a file of pins that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not: HANDLE nexo1:FINGERPRINT")]
pub struct PinLineRefused(pub usize);

impl PinPolicy {
    /// The account that this run names for a handle.
    #[must_use]
    pub fn named(&self, handle: &Handle) -> Option<AccountId> {
        self.pins.iter().find(|(named, _)| named == handle).map(|(_, account)| *account)
    }
}

/// Reads a file of pins: `HANDLE nexo1:FINGERPRINT` a line; empty lines and `#` are skipped.
///
/// # Errors
/// [`PinLineRefused`] names the first line that is none.
pub fn parse_pins(text: &str) -> Result<Vec<(Handle, AccountId)>, PinLineRefused> {
    let mut pins = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_ascii())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [handle, fingerprint] = words[..] else { return Err(PinLineRefused(number)) };
        let handle = Handle::parse(handle).map_err(|_| PinLineRefused(number))?;
        let account = parse_fingerprint(fingerprint).map_err(|_| PinLineRefused(number))?;
        pins.push((handle, account));
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e2ee::account_fingerprint;

    #[test]
    fn pins_are_lines() {
        let account = AccountId::from_bytes([5; 32]);
        let line = format!("bob {}", account_fingerprint(account));
        let pins = parse_pins(&format!("# ours\n\n  {line}  \n")).unwrap();
        let bob = Handle::parse("bob").unwrap();
        assert_eq!(pins, [(bob.clone(), account)]);
        let policy = PinPolicy { pins, ..PinPolicy::default() };
        assert_eq!(policy.named(&bob), Some(account));
        assert_eq!(policy.named(&Handle::parse("eve").unwrap()), None);
        for bad in ["bob", "bob nexo1:x", &format!("B {line}"), &format!("{line} x")] {
            assert_eq!(parse_pins(&format!("{line}\n{bad}")), Err(PinLineRefused(2)), "{bad}");
        }
    }
}
