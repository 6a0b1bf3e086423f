//! The table at the end.

use std::fmt;
use std::io::{self, Write};

use crate::args::Plan;
use crate::drive::Shape;
use crate::stats::{Sample, Summary};

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// nexo-server.
    Relay,
    /// The bare loop.
    Bare,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Relay => "relay",
            Self::Bare => "bare",
        })
    }
}

/// A row, or three.
pub(crate) enum Row {
    /// Nothing to compare it with.
    Alone {
        /// What it is.
        name: &'static str,
        /// What was measured.
        sample: Sample,
    },
    /// The relay, the bare loop, and their ratios.
    Pair {
        /// The shape of the load.
        case: Shape,
        /// nexo-server.
        relay: Sample,
        /// The bare loop.
        bare: Sample,
    },
}

/// Prints the table.
///
/// # Errors
/// [`io::Error`] of `out`.
pub(crate) fn print(
    out: &mut impl Write,
    plan: &Plan,
    rows: &[Row],
    acked: usize,
) -> io::Result<()> {
    let Plan { payload, seconds, rounds, warmup, .. } = plan;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(
        out,
        "{payload} bytes of ciphertext a message; {rounds} x {seconds} s each, after {warmup} s to \
         warm up; {cores} CPUs, shared by clients and server\n"
    )?;
    let heads = ["acked/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "CPU us/msg"];
    let [rate, p50, p90, p99, max, cpu] = heads;
    writeln!(
        out,
        "{:22} {:6} {rate:>9} {p50:>8} {p90:>8} {p99:>8} {max:>8} {cpu:>10}",
        "load", ""
    )?;
    let mut refusals = Vec::new();
    for row in rows {
        match row {
            Row::Alone { name, sample } => figures(out, name, "bare", &sample.summary())?,
            Row::Pair { case, relay, bare } => {
                let (relay, bare) = (relay.summary(), bare.summary());
                let case = case.to_string();
                figures(out, &case, "bare", &bare)?;
                figures(out, "", "relay", &relay)?;
                ratios(out, &relay, &bare)?;
                refusals.extend([(case.clone(), Side::Relay, relay), (case, Side::Bare, bare)]);
            }
        }
    }
    writeln!(out, "\nthe relay acknowledged {acked} messages, each at a place of its own")?;
    for (case, side, Summary { refused, refusal, .. }) in refusals {
        if let (1.., Some(refusal)) = (refused, refusal) {
            writeln!(out, "{case}, {side}: {refused} refused, the first: {refusal}")?;
        }
    }
    Ok(())
}

fn figures(out: &mut impl Write, name: &str, side: &str, summary: &Summary) -> io::Result<()> {
    let Summary { rate, p50, p90, p99, max, cpu, .. } = summary;
    let cpu = cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}"));
    writeln!(
        out,
        "{name:22} {side:6} {rate:>9.0} {p50:>8.2} {p90:>8.2} {p99:>8.2} {max:>8.1} {cpu:>10}"
    )
}

/// The relay's figures as multiples of the bare loop's.
fn ratios(out: &mut impl Write, relay: &Summary, bare: &Summary) -> io::Result<()> {
    let ratio = |relay: f64, bare: f64| match bare {
        0.0 => "-".to_owned(),
        _ => format!("{:.2}x", relay / bare),
    };
    let cpu = match (relay.cpu, bare.cpu) {
        (Some(relay), Some(bare)) => ratio(relay, bare),
        _ => "-".to_owned(),
    };
    writeln!(
        out,
        "{:22} {:6} {:>9} {:>8} {:>8} {:>8} {:>8} {cpu:>10}",
        "",
        "ratio",
        ratio(relay.rate, bare.rate),
        ratio(relay.p50, bare.p50),
        ratio(relay.p90, bare.p90),
        ratio(relay.p99, bare.p99),
        ratio(relay.max, bare.max)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser as _;
    use std::time::Duration;

    fn sample(micros: u64, cpu: Option<u64>) -> Sample {
        let mut sample = Sample::default();
        sample.took(Duration::from_micros(micros));
        sample.measured = Duration::from_millis(100);
        sample.cpu = cpu.map(Duration::from_micros);
        sample
    }

    #[test]
    fn the_table_shows_both_and_their_ratios() {
        let mut relay = sample(3000, Some(80));
        relay.refused(|| "503 try again".into());
        let case = Shape::Rest { clients: 64 };
        let rows = [
            Row::Alone { name: "SQLite", sample: sample(150, None) },
            Row::Pair { case, relay, bare: sample(1500, Some(40)) },
        ];
        let plan = Args::parse_from(["load", "--spawn", "x"]).plan;
        let mut out = Vec::new();
        print(&mut out, &plan, &rows, 5).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[3], ["SQLite", "bare", "10", "0.15", "0.15", "0.15", "0.1", "-"]);
        let bare = ["REST", "64", "x", "1", "bare", "10", "1.50", "1.50", "1.50", "1.5", "40.0"];
        assert_eq!(lines[4], bare);
        assert_eq!(lines[5], ["relay", "10", "3.00", "3.00", "3.00", "3.0", "80.0"]);
        assert_eq!(lines[6], ["ratio", "1.00x", "2.00x", "2.00x", "2.00x", "2.00x", "2.00x"]);
        assert!(text.contains("acknowledged 5 messages"));
        assert!(text.ends_with("REST 64 x 1, relay: 1 refused, the first: 503 try again\n"));
    }
}
