//! What a person or a script gets to read.
//!
//! stdout carries the verdict alone: one line, or with `--json` one object of schema
//! `nexo.audit/1`. Hints, warnings and errors of the command line go to stderr. Members of the
//! object may be added, never renamed or removed:
//!
//! | member | |
//! |---|---|
//! | `schema`, `verdict`, `code`, `family` | `nexo.audit/1`, and the row of the table in [`crate::finding`] |
//! | `origin`, `size`, `root`, `previous_size`, `new`, `time`, `age_seconds` | when verified; `root` in base64 as in the checkpoint, `time` RFC 3339 |
//! | `replaced_time_key` | when verified: the time key that was remembered, when the log names another one now; else null |
//! | `tiles`, `heads`, `resumed` | after `full`: tiles compared, older heads passed, entries that an audit broken off had done |
//! | `witnesses` | with a trust file: `counted` and `untimely` \[{witness, time}\], `absent` \[name\] |
//! | `message`, `detail` | otherwise: words, and the finding's data |
//! | `head`, `remembered` | otherwise: the signed notes, verbatim, or null |
//! | `evidence` | otherwise: the file in which it was kept (see [`crate::evidence`]), or null |
//!
//! `evidence verify` has an object there instead: `verdict`, `code`, `standing`, `shows`, `seen_at`,
//! `log_vkey`, and `pinned`: whether the key was given, and not taken from the file that it judges.

use crate::check::Report;
use crate::commands::RunError;
use crate::encoding::to_base64;
use crate::finding::Verdict;
use crate::full;
use crate::nagios;
use crate::policy::Ballot;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;

/// Writes to the two streams of the program.
pub(crate) struct Printer<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    json: bool,
    /// The file in which the finding's evidence was kept.
    evidence: Option<PathBuf>,
    /// What the witnesses of a trust file say about the head.
    witnesses: Option<Ballot>,
    /// Oldest allowed head, seconds, when monitoring systems read.
    nagios: Option<u64>,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, json: bool) -> Self {
        Self { out, err, json, evidence: None, witnesses: None, nagios: None }
    }

    /// A word to the person in front of it. Nobody may be there, so failing is fine.
    pub(crate) fn say(&mut self, words: &str) {
        let _ = writeln!(self.err, "{}", plain(words, true));
    }

    /// In the words of monitoring systems (see [`crate::nagios`]); `max_age` in seconds.
    pub(crate) fn for_nagios(mut self, max_age: Option<u64>) -> Self {
        self.nagios = max_age;
        self
    }

    /// Whether a monitoring system reads.
    pub(crate) fn is_for_nagios(&self) -> bool {
        self.nagios.is_some()
    }

    /// Whether the verdict is wanted as JSON.
    pub(crate) fn wants_json(&self) -> bool {
        self.json
    }

    /// Where the evidence of the last finding is, once.
    pub(crate) fn evidence(&mut self) -> Option<PathBuf> {
        self.evidence.take()
    }

    /// Whole lines of data, as they are.
    pub(crate) fn lines(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// The evidence of the finding to come is in this file.
    pub(crate) fn kept(&mut self, path: PathBuf) {
        self.evidence = Some(path);
    }

    /// The witnesses' word on the head of the verdict to come; `None` where nobody asked.
    pub(crate) fn vouched(&mut self, ballot: Option<Ballot>) {
        self.witnesses = ballot;
    }

    /// Something else than an audit was verified: its words, or its members of the object.
    pub(crate) fn holds(&mut self, words: &str, members: Value) -> io::Result<()> {
        if self.json {
            return self.object(Verdict::Verified, members);
        }
        writeln!(self.out, "{}  {}", Verdict::Verified.name(), plain(words, false))?;
        self.out.flush()
    }

    /// The verdict of a verified audit.
    pub(crate) fn verified(&mut self, report: &Report) -> io::Result<()> {
        if let Some(max_age) = self.nagios {
            return self.lines(&(nagios::verified(report, max_age) + "\n"));
        }
        let root = to_base64(&report.root);
        if !self.json {
            let Report { origin, size, new, age, .. } = report;
            let name = Verdict::Verified.name();
            writeln!(
                self.out,
                "{name}  origin={origin} size={size} root={root} new={new} age={age}s"
            )?;
            return self.out.flush();
        }
        self.object(
            Verdict::Verified,
            json!({
                "origin": report.origin,
                "size": report.size,
                "root": root,
                "previous_size": report.previous,
                "new": report.new,
                "time": rfc3339(report.time),
                "age_seconds": report.age,
                "replaced_time_key": report.replaced_time_key.as_ref().map(ToString::to_string),
            }),
        )
    }

    /// The verdict of a verified full audit.
    pub(crate) fn verified_in_full(&mut self, report: &full::Report) -> io::Result<()> {
        let root = to_base64(&report.root);
        if !self.json {
            let age = report.age.map(|age| format!(" age={age}s")).unwrap_or_default();
            writeln!(
                self.out,
                "verified  origin={} size={} root={root} tiles={} heads={}{age}",
                report.origin, report.size, report.tiles, report.heads
            )?;
            return self.out.flush();
        }
        self.object(
            Verdict::Verified,
            json!({
                "origin": report.origin,
                "size": report.size,
                "root": root,
                "previous_size": report.previous,
                "new": report.size - report.previous.unwrap_or(0),
                "tiles": report.tiles,
                "heads": report.heads,
                "resumed": report.resumed,
                "time": report.time.and_then(rfc3339),
                "age_seconds": report.age,
                "replaced_time_key": report.replaced_time_key.as_ref().map(ToString::to_string),
            }),
        )
    }

    /// The verdict of any other ending.
    pub(crate) fn failed(&mut self, error: &RunError) -> io::Result<()> {
        if self.nagios.is_some() {
            let line = nagios::failed(error.verdict(), &error.to_string());
            return self.lines(&(line + "\n"));
        }
        let outcome = error.verdict().outcome();
        let finding = match error {
            RunError::Failure(failure) => Some(&**failure),
            _ => None,
        };
        if self.json {
            let detail = finding.map(|failure| serde_json::to_value(&failure.finding));
            self.object(
                outcome.verdict,
                json!({
                    "message": error.to_string(),
                    "detail": detail.transpose().map_err(io::Error::other)?,
                    "head": finding.and_then(|failure| failure.head.as_ref()),
                    "remembered": finding.and_then(|failure| failure.remembered.as_ref()),
                    "evidence": self.evidence.as_ref().map(|path| path.display().to_string()),
                }),
            )?;
        } else if finding.is_some() {
            writeln!(self.out, "{}  {}", outcome.name, plain(&error.to_string(), false))?;
            self.out.flush()?;
        } else {
            self.say(&format!("error: {error}"));
        }
        if let Some(hint) = error.hint() {
            self.say(&format!("hint: {hint}"));
        }
        if let Some(path) = self.evidence.take() {
            self.say(&format!("evidence: {}", path.display()));
        }
        Ok(())
    }

    fn object(&mut self, verdict: Verdict, members: Value) -> io::Result<()> {
        let mut object = json!({
            "schema": "nexo.audit/1",
            "verdict": verdict.name(),
            "code": verdict.code(),
            "family": verdict.family(),
        });
        if let (Some(object), Value::Object(members)) = (object.as_object_mut(), members) {
            object.extend(members);
            if let Some(witnesses) = &self.witnesses {
                let ballot = serde_json::to_value(witnesses).map_err(io::Error::other)?;
                object.insert("witnesses".to_owned(), ballot);
            }
        }
        writeln!(self.out, "{object}")?;
        self.out.flush()
    }
}

/// Words as a terminal may show them, over several `lines` or on one. Some of them are a stranger's,
/// and may neither steer the terminal nor begin a line that looks like ours.
fn plain(words: &str, lines: bool) -> String {
    let steers = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(c, '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && !(lines && c == '\n'))
    };
    let mut plain = String::with_capacity(words.len());
    for c in words.chars() {
        if steers(c) { plain.extend(c.escape_unicode()) } else { plain.push(c) }
    }
    plain
}

/// POSIX seconds for people; `None` for what no calendar has.
fn rfc3339(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_does_not_steer_the_terminal() {
        let words = "a\u{1b}[2J\u{9b}K\u{202e}b\rc\nverified  d";
        let escaped = "a\\u{1b}[2J\\u{9b}K\\u{202e}b\\u{d}c";
        assert_eq!(plain(words, false), format!("{escaped}\\u{{a}}verified  d"));
        assert_eq!(plain(words, true), format!("{escaped}\nverified  d"));
        let honest = "alice \u{2014} 7 \u{fc}\u{4e2d}";
        assert_eq!(plain(honest, false), honest);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, false);
        printer.holds(words, json!({})).unwrap();
        printer.say(words);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(![out, err].concat().contains(&0x1b));
    }
}
