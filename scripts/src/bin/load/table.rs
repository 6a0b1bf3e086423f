//! The table at the end.

use std::io::{self, Write};

use nexo_scripts::stats::{Sample, Summary, ratio};

use crate::CommitSamples;
use crate::args::Plan;
use crate::contest::Contender;
use crate::shape::Shape;

/// A case, measured.
#[derive(Debug)]
pub(crate) struct Row {
    case: Shape,
    lines: Vec<Line>,
}

/// A contender in it.
#[derive(Debug)]
struct Line {
    name: &'static str,
    summary: Summary,
    /// The line it is compared with.
    against: Option<usize>,
}

impl Row {
    /// The figures of a case: one sample for each contender.
    pub(crate) fn new(case: Shape, contenders: &[Contender], samples: &[Sample]) -> Self {
        let line = |(contender, sample): (&Contender, &Sample)| {
            let Contender { name, against, .. } = contender;
            Line { name, summary: sample.summary(), against: *against }
        };
        Self { case, lines: contenders.iter().zip(samples).map(line).collect() }
    }
}

/// All there is to print.
pub(crate) struct Figures<'a> {
    /// What was run.
    pub(crate) plan: &'a Plan,
    /// Each case.
    pub(crate) rows: &'a [Row],
    /// Lone commits, where the bare loop takes part.
    pub(crate) commits: Option<CommitSamples>,
    /// Acknowledgements of each contender.
    pub(crate) acked: Vec<(&'static str, usize)>,
}

impl Figures<'_> {
    /// Prints the table.
    ///
    /// # Errors
    /// [`io::Error`] of `out`.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Plan { payload, seconds, rounds, warmup, .. } = self.plan;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(
            out,
            "{payload} bytes of ciphertext a message; {rounds} x {seconds} s each, after \
             {warmup} s to warm up; {cores} CPUs, shared by clients and servers\n"
        )?;
        let heads = ["acked/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "CPU us/msg"];
        line(out, "load", "", heads.map(str::to_owned))?;
        let commits = self.commits.iter().flatten();
        let commits: Vec<_> = commits.map(|(name, sample)| (name, sample.summary())).collect();
        for (name, summary) in &commits {
            line(out, name, "SQLite", cells(summary))?;
        }
        for Row { case, lines } in self.rows {
            let case = case.to_string();
            for (number, Line { name, summary, .. }) in lines.iter().enumerate() {
                line(out, if number == 0 { &case } else { "" }, name, cells(summary))?;
            }
            for Line { name, summary, against } in lines {
                let Some(other) = against.and_then(|other| lines.get(other)) else { continue };
                let pair = format!("{name}/{}", other.name);
                line(out, "", &pair, ratios(summary, &other.summary))?;
            }
        }
        writeln!(out)?;
        let commits = commits.iter().map(|(name, summary)| (**name, summary.p50));
        self.alone(out, &commits.collect::<Vec<_>>())?;
        for (name, acked) in &self.acked {
            writeln!(out, "{name} acknowledged {acked} messages, each at a place of its own")?;
        }
        self.refusals(out)
    }

    /// One client alone, in lone commits.
    fn alone(&self, out: &mut impl Write, commits: &[(&str, f64)]) -> io::Result<()> {
        for Row { case, lines } in self.rows.iter().filter(|row| row.case.is_alone()) {
            for Line { name, summary, .. } in lines {
                for (commit, p50) in commits {
                    let ratio = ratio(summary.p50, *p50);
                    writeln!(out, "{case}, {name}: p50 is {ratio} that of a lone {commit}")?;
                }
            }
        }
        Ok(())
    }

    fn refusals(&self, out: &mut impl Write) -> io::Result<()> {
        for Row { case, lines } in self.rows {
            for Line { name, summary: Summary { refused, refusal, .. }, .. } in lines {
                if let (1.., Some(refusal)) = (refused, refusal) {
                    writeln!(out, "{case}, {name}: {refused} refused, the first: {refusal}")?;
                }
            }
        }
        Ok(())
    }
}

fn line(out: &mut impl Write, case: &str, name: &str, cells: [String; 6]) -> io::Result<()> {
    let [rate, p50, p90, p99, max, cpu] = cells;
    writeln!(out, "{case:20} {name:10} {rate:>9} {p50:>8} {p90:>8} {p99:>8} {max:>8} {cpu:>10}")
}

fn cells(summary: &Summary) -> [String; 6] {
    let Summary { rate, p50, p90, p99, max, cpu, .. } = summary;
    let cpu = cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
    let milliseconds = |value: &f64| format!("{value:.2}");
    let [p50, p90, p99] = [p50, p90, p99].map(milliseconds);
    [format!("{rate:.0}"), p50, p90, p99, format!("{max:.1}"), cpu]
}

/// The figures of one as multiples of another's.
fn ratios(one: &Summary, other: &Summary) -> [String; 6] {
    let pairs = [
        (one.rate, other.rate),
        (one.p50, other.p50),
        (one.p90, other.p90),
        (one.p99, other.p99),
        (one.max, other.max),
        one.cpu.zip(other.cpu).unwrap_or_default(),
    ];
    pairs.map(|(one, other)| ratio(one, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use crate::drive::Target;
    use crate::shape::Talk;
    use clap::Parser as _;
    use std::sync::Arc;
    use std::time::Duration;

    fn sample(micros: u64, cpu: Option<u64>) -> Sample {
        let mut sample = Sample::default();
        sample.took(Duration::from_micros(micros));
        sample.measured = Duration::from_millis(100);
        sample.cpu = cpu.map(Duration::from_micros);
        sample
    }

    fn contender(name: &'static str, against: Option<usize>) -> Contender {
        let target = Target { addresses: vec![], pids: vec![], seats: Arc::default() };
        Contender { name, target, against }
    }

    fn printed(row: Row, commits: Option<CommitSamples>) -> String {
        let plan = Args::parse_from(["load", "--spawn", "x"]).plan;
        let figures =
            Figures { plan: &plan, rows: &[row], commits, acked: vec![("bare", 7), ("relay", 5)] };
        let mut out = Vec::new();
        figures.print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines().map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn the_table_shows_both_and_their_ratios() {
        let mut relay = sample(3000, Some(80));
        relay.refused(|| "503 try again".into());
        let pair = [contender("bare", None), contender("relay", Some(0))];
        let case = Shape::Rest { clients: 64 };
        let row = Row::new(case, &pair, &[sample(1500, Some(40)), relay]);
        let commits = [("a row", sample(150, None)), ("a message", sample(300, None))];
        let text = printed(row, Some(commits));
        let lines = words(&text);
        assert_eq!(lines[3][..], ["a", "row", "SQLite", "10", "0.15", "0.15", "0.15", "0.1", "-"]);
        let bare = ["REST", "64", "x", "1", "bare", "10", "1.50", "1.50", "1.50", "1.5", "40.0"];
        assert_eq!(lines[5], bare);
        assert_eq!(lines[6], ["relay", "10", "3.00", "3.00", "3.00", "3.0", "80.0"]);
        let ratios = ["relay/bare", "1.00x", "2.00x", "2.00x", "2.00x", "2.00x", "2.00x"];
        assert_eq!(lines[7], ratios);
        assert!(text.contains("relay acknowledged 5 messages"));
        assert!(!text.contains("that of a lone"), "64 clients are compared with no lone commit");
        assert!(text.ends_with("REST 64 x 1, relay: 1 refused, the first: 503 try again\n"));
    }

    #[test]
    fn one_client_is_held_against_lone_commits() {
        let pair = [contender("bare", None), contender("relay", Some(0))];
        let case = Shape::Socket { connections: 1, in_flight: 1, talk: Talk::Acks };
        let row = Row::new(case, &pair, &[sample(400, None), sample(450, None)]);
        let text = printed(row, Some([("row", sample(150, None)), ("message", sample(300, None))]));
        assert!(text.contains("WS 1 x 1, relay: p50 is 1.50x that of a lone message\n"), "{text}");
        assert!(text.contains("WS 1 x 1, bare: p50 is 2.67x that of a lone row\n"), "{text}");
    }

    #[test]
    fn each_is_compared_with_its_own_other() {
        let three = [contender("A", None), contender("B", Some(0)), contender("C", Some(1))];
        let case = Shape::Rest { clients: 2 };
        let samples = [sample(1000, None), sample(2000, None), sample(3000, None)];
        let text = printed(Row::new(case, &three, &samples), None);
        let lines = words(&text);
        assert_eq!(lines[6][..3], ["B/A", "1.00x", "2.00x"]);
        assert_eq!(lines[7][..3], ["C/B", "1.00x", "1.50x"]);
    }
}
