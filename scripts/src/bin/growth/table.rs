//! The table at the end: a column a size, and each figure as a multiple of the first column's.

use std::io::{self, Write};

use nexo_scripts::stats::{Sample, ratio};

use crate::args::{Ids, Plan};
use crate::inside::BATCHES;

/// Times of proofs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proofs {
    pub(crate) inclusion: Sample,
    pub(crate) consistency: Sample,
}

impl Proofs {
    /// Adds those of another round.
    pub(crate) fn add(&mut self, other: Self) {
        self.inclusion.add(other.inclusion);
        self.consistency.add(other.consistency);
    }
}

/// What is compared once more, with the size before.
const MEMORY: &str = "memory after the requests, MB";

/// What all rounds measured at one size.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// Of each size in [`BATCHES`].
    pub(crate) batches: [Sample; BATCHES.len()],
    /// Starts of a server.
    pub(crate) start: Sample,
    /// Bytes that a server holds when it has started, round by round.
    pub(crate) memory_fresh: Vec<u64>,
    /// And after requests.
    pub(crate) memory_used: Vec<u64>,
    /// Proofs from a database that is on the disk alone.
    pub(crate) cold: Proofs,
    /// The same proofs again.
    pub(crate) warm: Proofs,
    /// Proofs over HTTP.
    pub(crate) http: Proofs,
}

/// A line of the table: what it is, and its figure at one size.
type Figure = (String, Box<dyn Fn(&Measured) -> f64>);

/// A part of something.
type Part<A, B> = fn(&A) -> &B;

/// Prints the table.
///
/// # Errors
/// [`io::Error`] of `out`.
pub(crate) fn print(out: &mut impl Write, plan: &Plan, measured: &[Measured]) -> io::Result<()> {
    let Plan { payload, writers, ids, rounds, batches, proofs, requests, .. } = plan;
    let ids = match ids {
        Ids::Timed => "timed",
        Ids::Random => "random",
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(
        out,
        "{payload} bytes of ciphertext a message, {writers} writers, {ids} ids; {rounds} rounds \
         of {batches} batches, {proofs} proofs and {requests} requests; {cores} CPUs\n"
    )?;
    write!(out, "{:36}", "leaves")?;
    for (number, size) in plan.sizes.iter().enumerate() {
        write!(out, " {size:>10}")?;
        if number > 0 {
            write!(out, " {:>7}", "ratio")?;
        }
    }
    writeln!(out)?;
    for (name, figure) in figures() {
        line(out, &name, measured.iter().map(figure))?;
    }
    let (Some([.., before, last]), Some([.., smaller, larger])) =
        (plan.sizes.last_chunk::<2>(), measured.last_chunk::<2>())
    else {
        return Ok(());
    };
    let ratio = ratio(median(&larger.memory_used), median(&smaller.memory_used));
    writeln!(
        out,
        "\na relay of {last} leaves holds {ratio} the memory of one of {before}, after the requests"
    )
}

fn line(out: &mut impl Write, name: &str, figures: impl Iterator<Item = f64>) -> io::Result<()> {
    write!(out, "{name:36}")?;
    let mut first = None;
    for figure in figures {
        write!(out, " {figure:>10.3}")?;
        match first {
            None => first = Some(figure),
            Some(first) => write!(out, " {:>7}", ratio(figure, first))?,
        }
    }
    writeln!(out)
}

fn figures() -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    for (number, batch) in BATCHES.into_iter().enumerate() {
        let figure = move |m: &Measured| m.batches[number].summary().p50;
        figures.push((format!("batch of {batch}, p50 ms"), Box::new(figure)));
        let figure = move |m: &Measured| m.batches[number].summary().mean;
        figures.push((format!("batch of {batch}, mean ms"), Box::new(figure)));
    }
    figures.push(("start, p50 ms".into(), Box::new(|m| m.start.summary().p50)));
    figures.push(("memory after the start, MB".into(), Box::new(|m| median(&m.memory_fresh))));
    figures.push((MEMORY.into(), Box::new(|m| median(&m.memory_used))));
    let places: [(&str, Part<Measured, Proofs>); 3] =
        [("from the disk", |m| &m.cold), ("again", |m| &m.warm), ("over HTTP", |m| &m.http)];
    let kinds: [(&str, Part<Proofs, Sample>); 2] =
        [("inclusion", |p| &p.inclusion), ("consistency", |p| &p.consistency)];
    for (kind, of_kind) in kinds {
        for (place, in_place) in places {
            let summary = move |m: &Measured| of_kind(in_place(m)).summary();
            figures.push((format!("{kind} {place}, p50 ms"), Box::new(move |m| summary(m).p50)));
            figures.push((format!("{kind} {place}, p99 ms"), Box::new(move |m| summary(m).p99)));
        }
    }
    figures
}

/// The middle of a few sizes, in megabytes of 2^20 bytes.
fn median(bytes: &[u64]) -> f64 {
    let mut sorted = bytes.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0) as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use std::time::Duration;

    fn measured(millis: u64) -> Measured {
        let mut sample = Sample::default();
        sample.took(Duration::from_millis(millis));
        let proofs = Proofs { inclusion: sample.clone(), consistency: sample.clone() };
        Measured {
            batches: [sample.clone(), sample.clone()],
            start: sample,
            memory_fresh: vec![millis << 20],
            memory_used: vec![millis << 21, 0, u64::MAX],
            cold: proofs.clone(),
            warm: proofs.clone(),
            http: proofs,
        }
    }

    #[test]
    fn every_figure_is_a_multiple_of_the_first() {
        let plan = Plan::parse_from(["growth", "--spawn", "x", "--sizes", "1k,2k,3k"]);
        let mut out = Vec::new();
        print(&mut out, &plan, &[measured(10), measured(15), measured(30)]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let words = |start: &str| -> Vec<&str> {
            let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap();
            line.split_whitespace().collect()
        };
        assert_eq!(words("leaves"), ["1000", "2000", "ratio", "3000", "ratio"]);
        assert_eq!(words("start, p50 ms"), ["10.000", "15.000", "1.50x", "30.000", "3.00x"]);
        assert_eq!(words(MEMORY), ["20.000", "30.000", "1.50x", "60.000", "3.00x"]);
        assert_eq!(words("consistency over HTTP, p99 ms")[3..], ["30.000", "3.00x"]);
        assert_eq!(text.matches(" ms ").count(), 4 + 1 + 12);
        assert!(text.ends_with("holds 2.00x the memory of one of 2000, after the requests\n"));
    }

    #[test]
    fn nothing_measured_has_no_ratio() {
        let plan = Plan::parse_from(["growth", "--spawn", "x", "--sizes", "1k,2k"]);
        let mut out = Vec::new();
        print(&mut out, &plan, &[Measured::default(), Measured::default()]).unwrap();
        assert!(!String::from_utf8(out).unwrap().contains("NaN"));
    }
}
