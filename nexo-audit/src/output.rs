//! What a person or a script gets to read.
//!
//! stdout carries the verdict alone: one line, or with `--json` one object of schema
//! `nexo.audit/1`. Hints, warnings and errors of the command line go to stderr. Members of the
//! object may be added, never renamed or removed:
//!
//! | member | |
//! |---|---|
//! | `schema`, `verdict`, `code` | `nexo.audit/1`, name and exit code of the table in [`crate::finding`] |
//! | `origin`, `size`, `root`, `previous_size`, `new`, `time`, `age_seconds` | when verified; `root` in base64 as in the checkpoint, `time` RFC 3339 |
//! | `message`, `detail` | otherwise: words, and the finding's data |
//! | `head`, `remembered` | otherwise: the signed notes, verbatim, or null: the evidence |

use crate::check::Report;
use crate::commands::RunError;
use crate::encoding::to_base64;
use crate::finding::Verdict;
use serde_json::{Value, json};
use std::io::{self, Write};

/// Writes to the two streams of the program.
pub(crate) struct Printer<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    json: bool,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, err: &'a mut dyn Write, json: bool) -> Self {
        Self { out, err, json }
    }

    /// A word to the person in front of it. Nobody may be there, so failing is fine.
    pub(crate) fn say(&mut self, words: &str) {
        let _ = writeln!(self.err, "{words}");
    }

    /// The verdict of a verified audit.
    pub(crate) fn verified(&mut self, report: &Report) -> io::Result<()> {
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
        let time = i64::try_from(report.time).ok();
        let time = time.and_then(|time| jiff::Timestamp::from_second(time).ok());
        self.object(
            Verdict::Verified,
            json!({
                "origin": report.origin,
                "size": report.size,
                "root": root,
                "previous_size": report.previous,
                "new": report.new,
                "time": time.map(|time| time.to_string()),
                "age_seconds": report.age,
            }),
        )
    }

    /// The verdict of any other ending.
    pub(crate) fn failed(&mut self, error: &RunError) -> io::Result<()> {
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
                }),
            )?;
        } else if finding.is_some() {
            writeln!(self.out, "{}  {error}", outcome.name)?;
            self.out.flush()?;
        } else {
            self.say(&format!("error: {error}"));
        }
        if let Some(hint) = error.hint() {
            self.say(&format!("hint: {hint}"));
        }
        Ok(())
    }

    fn object(&mut self, verdict: Verdict, members: Value) -> io::Result<()> {
        let mut object = json!({
            "schema": "nexo.audit/1",
            "verdict": verdict.name(),
            "code": verdict.code(),
        });
        if let (Some(object), Value::Object(members)) = (object.as_object_mut(), members) {
            object.extend(members);
        }
        writeln!(self.out, "{object}")?;
        self.out.flush()
    }
}
