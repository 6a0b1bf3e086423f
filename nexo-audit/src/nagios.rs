//! A verdict as monitoring systems read it: the plugin contract of Nagios, which Icinga and
//! others share. One line on stdout, and a status from 0 to 3.
//!
//! ```text
//! 0 OK        verified
//! 1 WARNING   no verdict about the log: it was not reached, or not in time
//! 2 CRITICAL  every finding, old heads included: a frozen log is how a fork hides
//! 3 UNKNOWN   this side's trouble: command line, files, state in use
//! ```

use crate::check::Report;
use crate::finding::Verdict;

/// The status for trouble on this side.
pub(crate) const UNKNOWN: u8 = 3;

/// Status and word of a verdict.
pub(crate) fn status(verdict: Verdict) -> (u8, &'static str) {
    match verdict {
        Verdict::Verified => (0, "OK"),
        Verdict::Unreachable | Verdict::Timeout => (1, "WARNING"),
        Verdict::Usage
        | Verdict::BadState
        | Verdict::NoInput
        | Verdict::NotAllowed
        | Verdict::Io
        | Verdict::Busy => (UNKNOWN, "UNKNOWN"),
        _ => (2, "CRITICAL"),
    }
}

/// The line of a verified audit, with its numbers behind the bar: entries, new ones, and the
/// head's age against the oldest allowed.
pub(crate) fn verified(report: &Report, max_age: u64) -> String {
    let Report { size, new, age, .. } = report;
    let origin = single(&report.origin);
    format!(
        "NEXO OK - verified {origin}, {size} entries, head {age} s old \
         |size={size} new={new} age={age}s;;{max_age};0"
    )
}

/// The line of any other end.
pub(crate) fn failed(verdict: Verdict, message: &str) -> String {
    let (_, word) = status(verdict);
    format!("NEXO {word} - {}: {}", verdict.name(), single(message))
}

/// Words as they may stand there: a bar would begin the numbers, a line end the long output.
fn single(words: &str) -> String {
    words.replace('|', " ").replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::TABLE;

    #[test]
    fn every_verdict_has_a_status_and_only_one_is_ok() {
        for row in TABLE {
            let (code, word) = status(row.verdict);
            let words = ["OK", "WARNING", "CRITICAL", "UNKNOWN"];
            assert_eq!(words[usize::from(code)], word);
            assert_eq!(code == 0, row.verdict == Verdict::Verified, "{}", row.name);
            // What the family table calls a finding is critical.
            assert_eq!(
                code == 2,
                row.family >= 78 && row.family < 90
                    || row.code == 67
                    || row.name == "bad_data"
                    || row.name == "bad_evidence",
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn lines_are_single_and_have_one_bar() {
        let line = failed(Verdict::Fork, "a|b\nc");
        assert_eq!(line, "NEXO CRITICAL - fork: a b c");
        assert_eq!(failed(Verdict::Fork, "a\u{1b}[2J\r"), "NEXO CRITICAL - fork: a [2J ");
        let report = Report {
            origin: "log.example".into(),
            size: 7,
            root: [0; 32],
            previous: None,
            new: 5,
            time: 0,
            age: 3,
            replaced_time_key: None,
        };
        let odd = Report { origin: "a|size=9".into(), ..report.clone() };
        assert_eq!(verified(&odd, 9).matches('|').count(), 1);
        let line = verified(&report, 86_400);
        assert!(line.starts_with("NEXO OK - verified log.example, 7 entries"), "{line}");
        assert!(line.ends_with("|size=7 new=5 age=3s;;86400;0"), "{line}");
    }
}
