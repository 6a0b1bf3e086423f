//! The figures at the end, each beside the limit of raw hashing.

use serde_json::{Value, json};
use std::io::{self, Write};

use crate::args::Plan;
use crate::audit::Run;

/// What all rounds measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) block: Vec<Run>,
    pub(crate) hash: Vec<Run>,
    pub(crate) full: Vec<Run>,
    pub(crate) http: Vec<Run>,
    pub(crate) cold: Vec<Run>,
    pub(crate) check: Vec<Run>,
}

/// A line: what it is, and its rounds.
struct Line {
    name: &'static str,
    seconds: Vec<f64>,
    cpu: f64,
    /// Megabytes of 2^20 bytes.
    memory: Option<f64>,
}

impl Line {
    fn of(name: &'static str, runs: &[Run]) -> Self {
        let seconds = runs.iter().map(|run| run.wall.as_secs_f64()).collect();
        let cpu: Vec<_> = runs.iter().map(|run| run.cpu.as_secs_f64()).collect();
        let memory = runs.iter().filter_map(|run| run.memory).max();
        let memory = memory.map(|bytes| bytes as f64 / f64::from(1 << 20));
        Self { name, seconds, cpu: median(&cpu), memory }
    }

    fn wall(&self) -> f64 {
        median(&self.seconds)
    }

    fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Prints the table, or the object.
///
/// # Errors
/// [`io::Error`] of `out`.
pub(crate) fn print(
    out: &mut impl Write,
    plan: &Plan,
    cores: usize,
    measured: &Measured,
) -> io::Result<()> {
    let lines = [
        Line::of("raw blocks, all cores", &measured.block),
        Line::of("raw hashes, all cores", &measured.hash),
        Line::of("full on files", &measured.full),
        Line::of("full on files, not in the cache", &measured.cold),
        Line::of("full over HTTP", &measured.http),
    ];
    let check = Line::of("check after 1,000 new", &measured.check);
    if plan.json {
        return writeln!(out, "{}", object(plan, cores, &lines, &check));
    }
    writeln!(
        out,
        "{} entries of 60 bytes, {} rounds in turns, {cores} CPUs; medians\n",
        plan.entries, plan.rounds
    )?;
    let titles = ["s", "best s", "entries/s", "of hash", "CPU s", "of block", "of hash", "MB"];
    write!(out, "{:34}", "")?;
    titles.iter().try_for_each(|title| write!(out, " {title:>9}"))?;
    writeln!(out)?;
    let [block, hash, ..] = &lines;
    for line in lines.iter().filter(|line| !line.seconds.is_empty()) {
        write!(
            out,
            "{:34} {:>9.2} {:>9.2} {:>9.0} {:>9} {:>9.2} {:>9} {:>9}",
            line.name,
            line.wall(),
            line.best(),
            plan.entries as f64 / line.wall(),
            percent(hash.wall(), line.wall()),
            line.cpu,
            percent(block.cpu, line.cpu),
            percent(hash.cpu, line.cpu),
        )?;
        match line.memory {
            Some(memory) => writeln!(out, " {memory:>9.1}")?,
            None => writeln!(out)?,
        }
    }
    let milliseconds = |seconds: f64| seconds * 1000.0;
    let slowest = check.seconds.iter().copied().fold(0.0, f64::max);
    writeln!(
        out,
        "\n{}: median {:.1} ms, best {:.1} ms, slowest {:.1} ms",
        check.name,
        milliseconds(check.wall()),
        milliseconds(check.best()),
        milliseconds(slowest),
    )
}

fn object(plan: &Plan, cores: usize, lines: &[Line; 5], check: &Line) -> Value {
    let figures = |line: &Line| {
        json!({ "name": line.name, "seconds": line.seconds, "cpu_seconds": line.cpu,
                "peak_mb": line.memory })
    };
    let [block, hash, full, ..] = lines;
    json!({
        "schema": "nexo.audit-bench/1",
        "entries": plan.entries,
        "cores": cores,
        "lines": lines.iter().chain([check]).map(figures).collect::<Vec<_>>(),
        "full_of_hash": hash.wall() / full.wall(),
        "full_of_hash_by_cpu": hash.cpu / full.cpu,
        "full_of_block_by_cpu": block.cpu / full.cpu,
    })
}

/// Which part of `line` the limit is.
fn percent(limit: f64, line: f64) -> String {
    format!("{:.0}%", 100.0 * limit / line)
}

/// The middle; 0 of nothing.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::time::Duration;

    fn measured() -> Measured {
        let run = |seconds, cpu, memory| Run {
            wall: Duration::from_secs_f64(seconds),
            cpu: Duration::from_secs_f64(cpu),
            memory,
        };
        let audit = |seconds| run(seconds, 4.0, Some(32 << 20));
        Measured {
            block: vec![run(1.0, 2.0, None)],
            hash: vec![run(2.0, 3.0, None)],
            full: vec![audit(2.5), audit(2.0), audit(4.0)],
            http: vec![audit(10.0)],
            cold: vec![],
            check: vec![audit(0.02), audit(0.01), audit(0.03)],
        }
    }

    fn printed(more: &[&str]) -> String {
        let plan = ["audit_bench", "--audit", "a", "--dir", "d", "--entries", "1000"];
        let mut out = Vec::new();
        print(&mut out, &Plan::parse_from([&plan, more].concat()), 2, &measured()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_is_a_part_of_the_raw_ones() {
        let text = printed(&[]);
        let line = text.lines().find_map(|line| line.strip_prefix("full on files")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["2.50", "2.00", "400", "80%", "4.00", "50%", "75%", "32.0"]);
        assert!(!text.contains("not in the cache"));
        assert!(text.ends_with("median 20.0 ms, best 10.0 ms, slowest 30.0 ms\n"), "{text}");
    }

    #[test]
    fn a_script_reads_an_object() {
        let object: Value = serde_json::from_str(&printed(&["--json"])).unwrap();
        assert_eq!(
            (&object["full_of_hash"], &object["full_of_hash_by_cpu"]),
            (&0.8.into(), &0.75.into())
        );
        assert_eq!(object["lines"][2]["seconds"][1], 2.0);
    }
}
